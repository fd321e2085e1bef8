"""Which pod, gang and queue each device serves, and in which state it is."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from scheduler.api import attributes
from scheduler.dra.accounting import weight
from scheduler.dra.counters import InUse
from scheduler.dra.devices import Device, DeviceId, scalar
from scheduler.dra.pools import Inventory
from scheduler.dra.room import Room
from scheduler.model.nodes import Node
from scheduler.model.snapshot import Snapshot
from scheduler.model.workloads import Claim


class DeviceState(StrEnum):
    """What can be said of a device at a glance."""

    FREE = "Free"
    ALLOCATED = "Allocated"
    GIVEN_TWICE = "GivenTwice"
    """Two claims hold it and do not share it."""
    TAINTED = "Tainted"
    """Its driver or an administrator keeps new work off it."""
    UNAVAILABLE = "Unavailable"
    """What it is a part of, or made of, is in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who uses a device. `queue` "" when no pod of ours does. `pods` by key."""

    claim: str
    queue: str = ""
    gang: str = ""
    pods: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A device as a node sees it. `board`: equal for the parts of one GPU. `weight` in thousandths of a GPU, 0 for what
    is no accelerator."""

    device: Device
    state: DeviceState
    holders: tuple[Holder, ...]
    weight: int
    board: str


class Ownership:
    """Looks devices up in one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._inventory = Inventory.of(
            snapshot.slices,
            snapshot.classes,
            snapshot.taint_rules,
            snapshot.policy.device_fence_taint,
            withdrawn=snapshot.withdrawn,
        )
        self._in_use = InUse.of(snapshot.claims.values(), self._inventory)
        self._pods = {pod.uid: (pod.key, gang.key, gang.queue) for gang in snapshot.gangs for pod in gang.pods}
        self._others = {pod.uid: pod.key for pod in snapshot.pods if pod.uid not in self._pods}
        self._holders: dict[DeviceId, list[Holder]] = {}
        self._shares: dict[DeviceId, set[str]] = {}
        self._twice: set[DeviceId] = set()
        for key in sorted(snapshot.claims):
            self._note(snapshot.claims[key])

    def on(self, node: Node) -> Iterator[Held]:
        """Every device the node can use, in the order its driver publishes them."""
        view = self._inventory.on(node)
        room = Room(view, self._in_use, 1)
        for number, device in enumerate(view.devices):
            holders = tuple(self._holders.get(device.id, ()))
            if device.id in self._twice:
                state = DeviceState.GIVEN_TWICE
            elif holders:
                state = DeviceState.ALLOCATED
            elif view.taints[number]:
                state = DeviceState.TAINTED
            elif not room.counters_suffice(device):
                state = DeviceState.UNAVAILABLE
            else:
                state = DeviceState.FREE
            yield Held(
                device=device,
                state=state,
                holders=holders,
                weight=weight(device, self._inventory),
                board=board_of(device),
            )

    def _note(self, claim: Claim) -> None:
        if claim.allocation is None:
            return
        holder = self._holder(claim)
        for result in claim.allocation.devices.results or ():
            if not result.admin_access:
                device = DeviceId(result.driver, result.pool, result.device)
                holders, shares = self._holders.setdefault(device, []), self._shares.setdefault(device, set())
                if holders and ("" in shares or (result.share_id or "") in ("", *shares)):
                    self._twice.add(device)
                holders.append(holder)
                shares.add(result.share_id or "")

    def _holder(self, claim: Claim) -> Holder:
        ours = sorted(self._pods[uid] for uid in claim.reserved_for if uid in self._pods)
        others = [self._others[uid] for uid in claim.reserved_for if uid in self._others]
        pods = tuple(sorted([*(key for key, _, _ in ours), *others]))
        if not ours:
            return Holder(claim=claim.key, queue=claim.queue, pods=pods)
        _, gang, queue = ours[0]
        return Holder(claim=claim.key, queue=queue, gang=gang, pods=pods)


def board_of(device: Device) -> str:
    """What the device is a part of, if its driver says so; otherwise the device itself."""
    for name in (attributes.PARENT_UUID, attributes.UUID):
        value = scalar(device.attributes.get(f"{attributes.GPU_DRIVER}/{name}"))
        if value is not None:
            return str(value)
    return str(device.id)


def plain_attributes(device: Device) -> Mapping[str, str | int | bool]:
    """The device's attributes with one value, by full name, sorted."""
    values = ((name, scalar(device.attributes[name])) for name in sorted(device.attributes))
    return {name: value for name, value in values if isinstance(value, str | int | bool)}
