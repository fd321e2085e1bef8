"""Who holds which device, claim by claim and version by version; and which devices are held twice.

The API server does not compare claims: two schedulers may write one device into two of them. Every event of the watch
of claims is looked at, not only what is left of them when a cycle begins, so what lasted a moment is found too. Only
what the watch told counts: its events come in the order of the writes, our own assumptions do not.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from scheduler.api.changes import Change
from scheduler.api.dra import ResourceClaim
from scheduler.api.kinds import RESOURCE_CLAIM
from scheduler.model.reasons import DeviceGivenTwice, Holding
from scheduler.state.assumed import older

Device = tuple[str, str, str]
"""Driver, pool, device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hold:
    """What one claim holds. By device the names of its shares; none: the whole device."""

    claim: str
    uid: str
    version: str
    pods: tuple[tuple[str, str], ...] = ()
    devices: dict[Device, frozenset[str]]

    @property
    def holding(self) -> Holding:
        return Holding(claim=self.claim, uid=self.uid, pods=self.pods)


class Holders:
    """Takes in what the watch of claims tells, and keeps who holds what. Administrative access holds nothing."""

    def __init__(self) -> None:
        self._holds: dict[str, _Hold] = {}
        self._by_device: dict[Device, dict[str, _Hold]] = {}
        self._standing: dict[tuple[Device, str, str], DeviceGivenTwice] = {}
        self._listed = False

    def __len__(self) -> int:
        """How many devices are held twice now, counted by pairs of claims."""
        return len(self._standing)

    @property
    def standing(self) -> tuple[DeviceGivenTwice, ...]:
        """Devices that are held twice now, by device and claims."""
        return tuple(self._standing[key] for key in sorted(self._standing))

    def see(self, changes: Iterable[Change]) -> tuple[DeviceGivenTwice, ...]:
        """Take in a batch of one watch; what is held twice since, in the order in which it came about.

        The events of a list are all of one moment: they are taken in whole before they are judged. The first list may
        come in several batches."""
        batch = [change for change in changes if change.kind is RESOURCE_CLAIM]
        end = max((number for number, change in enumerate(batch) if change.type == "LISTED"), default=-1)
        found: list[DeviceGivenTwice] = []
        if end < 0 and not self._listed:
            end = len(batch) - 1
        changed = [key for change in batch[: end + 1] if (key := self._take_in(change))]
        if not self._listed and any(change.type == "LISTED" for change in batch):
            self._listed = True
            changed = sorted(self._holds)
        for key in changed if self._listed else ():
            found += self._judge(key)
        for change in batch[end + 1 :]:
            if key := self._take_in(change):
                found += self._judge(key)
        return tuple(found)

    def shows(self, claim: str, uid: str, version: str) -> bool:
        """Whether the watch has told this version of the claim (key), a newer one, or that it is gone."""
        hold = self._holds.get(claim)
        return hold is None or hold.uid != uid or not older(hold.version, version)

    def rival(self, claim: str) -> DeviceGivenTwice | None:
        """A device of this claim (key) that another one holds as well."""
        return next((each for each in self.standing if claim in (each.first.claim, each.second.claim)), None)

    def _take_in(self, change: Change) -> str:
        """The key of the claim if it may hold something else now, "" otherwise."""
        if change.type == "LISTED":
            return ""
        before = self._holds.get(change.key)
        if change.type == "DELETED":
            if before is None or change.meta.uid not in ("", before.uid):
                return ""
            self._drop(before)
            return ""
        if before is not None and before.uid == change.meta.uid and older(change.meta.resource_version, before.version):
            return ""
        # What cannot be decoded holds what it held: nobody took it away as far as is known.
        if not isinstance(change.object, ResourceClaim):
            return ""
        after = _hold(change, change.object)
        if before is not None:
            if before.uid == after.uid and before.devices == after.devices:
                self._put(after)
                return ""
            self._drop(before)
        self._put(after)
        return change.key

    def _put(self, hold: _Hold) -> None:
        self._holds[hold.claim] = hold
        for device in hold.devices:
            self._by_device.setdefault(device, {})[hold.claim] = hold

    def _drop(self, hold: _Hold) -> None:
        del self._holds[hold.claim]
        for device in hold.devices:
            others = self._by_device[device]
            del others[hold.claim]
            for other in others:
                self._standing.pop((device, other, hold.claim), None)
                self._standing.pop((device, hold.claim, other), None)
            if not others:
                del self._by_device[device]

    def _judge(self, claim: str) -> Iterator[DeviceGivenTwice]:
        """What this claim holds and another one held before."""
        hold = self._holds.get(claim)
        for device in sorted(hold.devices) if hold is not None else ():
            for other in sorted(self._by_device[device]):
                found = self._together(device, self._by_device[device][other], hold)
                if found is not None:
                    yield found

    def _together(self, device: Device, first: _Hold, second: _Hold | None) -> DeviceGivenTwice | None:
        """The conflict of two claims about a device, if there is one that was not told yet."""
        if second is None or first.claim == second.claim:
            return None
        ours, theirs = first.devices[device], second.devices[device]
        known = {(device, first.claim, second.claim), (device, second.claim, first.claim)} & self._standing.keys()
        if known or (ours and theirs and not ours & theirs):
            return None
        if older(second.version, first.version):
            first, second = second, first
        found = DeviceGivenTwice(
            device="/".join(device), first=first.holding, second=second.holding, version=second.version
        )
        self._standing[device, first.claim, second.claim] = found
        return found


def _hold(change: Change, claim: ResourceClaim) -> _Hold:
    allocation = claim.status.allocation
    devices: dict[Device, frozenset[str]] = {}
    for result in (allocation.devices.results or ()) if allocation is not None else ():
        if not result.admin_access:
            device = result.driver, result.pool, result.device
            shares = frozenset() if result.share_id is None else frozenset((result.share_id,))
            devices[device] = devices.get(device, frozenset()) | shares
    pods = tuple(
        (f"{claim.metadata.namespace}/{consumer.name}", consumer.uid)
        for consumer in claim.status.reserved_for or ()
        if consumer.resource == "pods"
    )
    return _Hold(
        claim=change.key,
        uid=claim.metadata.uid,
        version=claim.metadata.resource_version,
        pods=pods,
        devices=devices,
    )
