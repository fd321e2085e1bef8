"""A driver of the soak's own: it publishes devices on every node, and makes those that need it ready, or breaks them.

What becomes of a device is drawn from the seed, the device and the how-manieth time that somebody wants it.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from scheduler.api import kinds
from scheduler.devcluster.shapes import owned_by
from scheduler.kube.client import ApiError, Client
from tests.service.verifier import Device
from tests.soak.asks import BROKEN, CLASSES, DRIVER, READY, Document, devices

_MOST_SECONDS = 1.5
_NEVER_READY = 0.15
"""The share of devices that nobody can ever use."""
_UNLUCKY, _SILENT = 0.12, 0.06
"""How often a sound one breaks, and how often it is never heard of again."""


class Driver:
    """`await begin()`, then `publish` for each node; `see` is to get every version of every claim.

    `steady`: when set, only devices that never work make trouble."""

    def __init__(self, seed: str, client: Client, gates: frozenset[str] | None, tell: Callable[[str], None]) -> None:
        self._seed, self._client, self._tell = seed, client, tell
        self._devices = devices(gates)
        self._wanted: Counter[Device] = Counter()
        self._attending: dict[tuple[str, Device], asyncio.Task[None]] = {}
        self.steady = False

    async def begin(self) -> None:
        """The classes of its devices."""
        for device_class in CLASSES:
            await self._client.create(kinds.DEVICE_CLASS, None, device_class)

    async def publish(self, node: str) -> None:
        """The pool of a node; it goes when the node does."""
        pool = {"name": node, "generation": 1, "resourceSliceCount": 1}
        spec = {"driver": DRIVER, "nodeName": node, "pool": pool, "devices": self._devices}
        owner = await self._client.get(kinds.NODE, None, node)
        body = owned_by({"metadata": {"name": f"{node}-{DRIVER}"}, "spec": spec}, owner)
        await self._client.create(kinds.RESOURCE_SLICE, None, body)

    def see(self, event: str, claim: Document) -> None:
        """Begin with the devices that the claim has got, leave those that it has lost."""
        key = claim["metadata"]["uid"]
        wanted = {} if event == "DELETED" else _to_be_made_ready(claim)
        for uid, device in [each for each in self._attending if each[0] == key and each[1] not in wanted]:
            _leave(self._attending.pop((uid, device)))
        for device in wanted:
            if (key, device) not in self._attending:
                work = asyncio.create_task(self._attend(claim["metadata"], device))
                self._attending[key, device] = work

    def end(self) -> None:
        """Leave all. Raises what went wrong, as `see` does."""
        while self._attending:
            _leave(self._attending.popitem()[1])

    async def _attend(self, claim: Mapping[str, str], device: Device) -> None:
        course = self._course(device)
        for seconds, condition in course:
            await asyncio.sleep(seconds)
            if not await self._report(claim, device, condition):
                return
        self._tell(f"{'/'.join(device)} for {claim['name']}: {', '.join(condition for _, condition in course)}")

    def _course(self, device: Device) -> list[tuple[float, str]]:
        """What is to be reported, each with the seconds before it."""
        self._wanted[device] += 1
        subject = f"{self._seed}/driver/{'/'.join(device)}"
        dice = random.Random(f"{subject}/{self._wanted[device]}")
        conditions = list(READY)
        luck = dice.random()
        if random.Random(subject).random() < _NEVER_READY or (luck < _UNLUCKY and not self.steady):
            conditions = [*conditions[: dice.randrange(len(READY))], BROKEN]
        elif luck < _UNLUCKY + _SILENT and not self.steady:
            conditions = conditions[: dice.randrange(len(READY))]
        return [(dice.uniform(0, _MOST_SECONDS), condition) for condition in conditions]

    async def _report(self, claim: Mapping[str, str], device: Device, condition: str) -> bool:
        """Write the condition to the claim; False if it does not hold the device any more."""
        while True:
            try:
                now = await self._client.get(kinds.RESOURCE_CLAIM, claim["namespace"], claim["name"])
                if now["metadata"]["uid"] != claim["uid"] or device not in _to_be_made_ready(now):
                    return False
                body = {
                    "metadata": {"resourceVersion": now["metadata"]["resourceVersion"]},
                    "status": {"devices": _with_condition(now["status"].get("devices") or [], device, condition)},
                }
                await self._client.patch(
                    kinds.RESOURCE_CLAIM, claim["namespace"], claim["name"], body, subresource="status"
                )
                return True
            except ApiError as error:
                if error.not_found:
                    return False
                if not error.conflict:
                    raise


def _leave(work: asyncio.Task[None]) -> None:
    """Nobody wants it any more. Raises what it has ended with."""
    if not work.cancel() and not work.cancelled():
        work.result()


def _to_be_made_ready(claim: Document) -> dict[Device, None]:
    results = ((claim.get("status") or {}).get("allocation") or {}).get("devices", {}).get("results") or ()
    return {
        (result["driver"], result["pool"], result["device"]): None
        for result in results
        if result.get("bindingConditions")
    }


def _with_condition(reported: list[Document], device: Device, condition: str) -> list[Document]:
    driver, pool, name = device
    told = {
        "type": condition,
        "status": "True",
        "reason": "Told",
        "message": "",
        "lastTransitionTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    mine = [entry for entry in reported if (entry["driver"], entry["pool"], entry["device"]) == device]
    others = [entry for entry in reported if entry not in mine]
    before = [old for entry in mine for old in entry.get("conditions") or ()]
    return [*others, {"driver": driver, "pool": pool, "device": name, "conditions": [*before, told]}]
