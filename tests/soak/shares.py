"""Shared devices at every version of every claim: no share twice, each as large as its policy has it, and together no
more than there is. Written apart from the scheduler. Source: KEP 5075."""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import NamedTuple

from scheduler.api.quantity import parse
from tests.service.verifier import Device
from tests.soak.asks import CARDS, DRIVER, Document


class Share(NamedTuple):
    """A share of a device in a claim: "" for the whole device. `asked`: by the request that it serves."""

    device: Device
    share: str
    consumed: Mapping[str, str]
    asked: Mapping[str, str]


class Shares:
    """Who holds which share. `given`: how many shares were given in all."""

    def __init__(self, published: Iterable[Document] = CARDS) -> None:
        """`published`: the devices that every pool of `DRIVER` has for sharing."""
        self._published = {device["name"]: device for device in published}
        self._held: dict[str, list[Share]] = {}
        self._holders: dict[Device, dict[str, list[Share]]] = {}
        self.given = 0
        self.problems: list[str] = []

    def see(self, event: str, claim: Document) -> None:
        """The next version of a claim."""
        metadata = claim["metadata"]
        key = f"{metadata['namespace']}/{metadata['name']}"
        before = self._held.pop(key, [])
        for device in {share.device for share in before}:
            del self._holders[device][key]
        shares = [] if event == "DELETED" else list(self._shares(claim))
        for share in shares:
            self._holders.setdefault(share.device, {}).setdefault(key, []).append(share)
        self._held[key] = shares
        for share in shares:
            if share not in before:
                self.given += 1
                where = f"version {metadata['resourceVersion']}: {'/'.join(share.device)} in {key}"
                self.problems += [f"{where} {problem}" for problem in self._wrong(key, share)]

    def _shares(self, claim: Document) -> Iterable[Share]:
        allocation = (claim.get("status") or {}).get("allocation") or {}
        for result in allocation.get("devices", {}).get("results") or ():
            if result["driver"] == DRIVER and result["device"] in self._published and not result.get("adminAccess"):
                yield Share(
                    device=(result["driver"], result["pool"], result["device"]),
                    share=result.get("shareID") or "",
                    consumed=result.get("consumedCapacity") or {},
                    asked=_asked(claim, result["request"]),
                )

    def _wrong(self, key: str, share: Share) -> Iterable[str]:
        if not share.share:
            yield "is given whole, although it is there to be shared"
        holders = self._holders[share.device]
        same = [owner for owner in sorted(holders) for other in holders[owner] if other.share == share.share]
        if len(same) > 1:
            others = [owner for owner in same if owner != key] or [key]
            yield f"is the same share as in {', '.join(others)}: {share.share!r}"
        for name, capacity in self._published[share.device[2]]["capacity"].items():
            right = rounded(capacity, share.asked.get(name))
            if right is None or name not in share.consumed or parse(share.consumed[name]) != right:
                has = share.consumed.get(name, "nothing")
                yield f"has {has} of {name} where {share.asked.get(name, 'nothing')} is asked for"
            used = sum(
                (parse(other.consumed.get(name, "0")) for each in holders.values() for other in each), Fraction()
            )
            if used > parse(capacity["value"]):
                yield f"brings what is taken of {name} to {used}, of {capacity['value']}: {', '.join(sorted(holders))}"


def rounded(capacity: Document, asked: str | None) -> Fraction | None:
    """What a share takes of a capacity; None where there is no such share."""
    policy = capacity.get("requestPolicy")
    if asked is None:
        return parse(policy["default"] if policy else capacity["value"])
    amount = parse(asked)
    if policy is None:
        return amount if amount <= parse(capacity["value"]) else None
    if "validValues" in policy:
        return min((value for value in map(parse, policy["validValues"]) if value >= amount), default=None)
    least, step = parse(policy["validRange"]["min"]), parse(policy["validRange"].get("step", "0"))
    if amount <= least:
        return least
    steps = (amount - least) / step if step else Fraction()
    amount = least - (-steps.numerator // steps.denominator) * step if step else amount
    most = policy["validRange"].get("max", capacity["value"])
    return amount if amount <= parse(most) else None


def _asked(claim: Document, request: str) -> Mapping[str, str]:
    """The amounts that a request asks for; "a/b" is the alternative b of request a."""
    name, _, alternative = request.partition("/")
    for each in claim["spec"]["devices"]["requests"]:
        if each["name"] == name:
            choices = [each["exactly"]] if "exactly" in each else each["firstAvailable"]
            (chosen,) = [choice for choice in choices if choice.get("name", "") == alternative]
            amounts: Mapping[str, str] = (chosen.get("capacity") or {}).get("requests") or {}
            return amounts
    return {}
