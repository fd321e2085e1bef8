"""What claims cost their queue: thousandths of a GPU, devices per class, and what queues measure devices by.

A whole accelerator is 1; a MIG slice its compute slices over those of the board; a partition of another maker one part
of its parent; a share of a shared device its part of the memory; admin access nothing.
Source: DESIGN 2; attributes of the drivers as published by their makers.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

from queues.resources import NOTHING, Resources
from scheduler.api import attributes as names
from scheduler.api.dra import AllocationResult, DeviceRequestAllocationResult, ResourceClaimSpec
from scheduler.api.quantity import QuantityError
from scheduler.dra.caches import PerObject
from scheduler.dra.capacity import taken_by
from scheduler.dra.cel.selectors import CelCompileError
from scheduler.dra.devices import Amount, Device, DeviceId, Scalar, SliceDevices, amount, scalar
from scheduler.dra.measures import Measures, taken, would_take
from scheduler.dra.pools import Inventory, Told
from scheduler.dra.requests import Question, Want, question
from scheduler.dra.verdicts import Expressions, verdict
from scheduler.dra.views import NodeDevices, PoolKey
from scheduler.model.workloads import Claim

GPU = "gpu"
WHOLE = 1000
"""One accelerator, in thousandths."""

# Drivers whose devices are accelerators. Devices with NVIDIA's type attribute are, whatever the driver is called.
DRIVERS = frozenset(
    {
        names.GPU_DRIVER,
        "tpu.google.com",
        "gpu.amd.com",
        "gpu.intel.com",
        "gaudi.intel.com",
        "gpu.example.com",
    }
)
# Classes that name accelerators, for claims that no device matches at present.
CLASSES = DRIVERS | {"vfio.gpu.nvidia.com", "gpu-vfio.intel.com"}
MIG_CLASS = "mig.nvidia.com"

_TYPE = f"{names.GPU_DRIVER}/{names.TYPE}"
_PROFILE = f"{names.GPU_DRIVER}/{names.PROFILE}"
_PRODUCT = f"{names.GPU_DRIVER}/{names.PRODUCT_NAME}"
_GPU_TYPES = ("gpu", "vfio")
# Partitions of other makers: the attribute that says so, its value, and the one that names the parent.
_PARTITIONS = (("gpu.amd.com/type", "amdgpu-partition", ("gpu.amd.com/parentDeviceID", "gpu.amd.com/parentPciAddr")),)

SLICES_OF_A_BOARD = 7
# Boards that divide into fewer compute slices, by a part of the product name.
_SMALL_BOARDS: Mapping[str, int] = {"A30": 4, "RTX PRO": 4}
_PROFILE_SLICES = re.compile(r"(?P<slices>\d+)g\.")
_NAME_SLICES = re.compile(r"gpu-\d+-mig-(?P<slices>\d+)g")


def of_class(name: str) -> str:
    """The resource of queues that counts devices of a class."""
    return f"deviceclass/{name}"


def charge(
    spec: ResourceClaimSpec, allocation: AllocationResult, inventory: Inventory, measures: Measures = ()
) -> Resources:
    """What an allocation costs: "gpu" and "deviceclass/<name>", in thousandths, and by these measures."""
    known = _last_charges(allocation)
    for last in known:
        if last.holds(spec, inventory, measures):
            return last.cost
    pools = tuple(dict.fromkeys((result.driver, result.pool) for result in allocation.devices.results or ()))
    told = tuple(map(inventory.told, pools))
    cost = _charge(spec, allocation, inventory, measures)
    others = [last for last in known if last.measures != measures][:1]
    known[:] = [_Charge(spec=spec, measures=measures, pools=pools, told=told, cost=cost), *others]
    return cost


@dataclass(frozen=True, slots=True, kw_only=True)
class _Charge:
    """What an allocation cost, with all that this depended on: what was asked, what queues measure by, and what is
    known of the pools that its devices are of."""

    spec: ResourceClaimSpec
    measures: Measures
    pools: tuple[PoolKey, ...]
    told: tuple[Told, ...]
    cost: Resources

    def holds(self, spec: ResourceClaimSpec, inventory: Inventory, measures: Measures) -> bool:
        """Whether it would come out the same now. Slices are compared by identity, which is how they are equal."""
        same = spec is self.spec and measures == self.measures
        return same and tuple(map(inventory.told, self.pools)) == self.told


# With measures and without: who plans uses the one, who verifies the other.
_last_charges: PerObject[AllocationResult, list[_Charge]] = PerObject(lambda _: [])


def _charge(
    spec: ResourceClaimSpec, allocation: AllocationResult, inventory: Inventory, measures: Measures
) -> Resources:
    classes = _classes(spec)
    amounts: dict[str, int] = {}
    for result in allocation.devices.results or ():
        if result.admin_access:
            continue
        device = inventory.as_last_published(DeviceId(result.driver, result.pool, result.device))
        part = _part_of_share(result, device)
        gpu = _weight_by_name(result) if device is None else weight(device, inventory)
        class_name = classes.get(result.request)
        amounts[GPU] = amounts.get(GPU, 0) + _part(gpu, part)
        if class_name:
            key = of_class(class_name)
            amounts[key] = amounts.get(key, 0) + _part(WHOLE, part)
        for by in measures:
            if by.device_class == class_name and device is not None:
                amounts[by.resource] = amounts.get(by.resource, 0) + taken(by, result, device, part)
    return Resources(amounts)


def estimate(claim: Claim, inventory: Inventory, measures: Measures = ()) -> Resources:
    """What a claim without an allocation will cost at least: the cheapest devices that match, of each request.

    A claim that cannot be decided costs nothing: it does not start.
    """
    asked = question(claim, inventory)
    if not isinstance(asked, Question):
        return NOTHING
    key = ("estimate", asked, measures)
    known = inventory.memo.get(key)
    if known is None:
        known = inventory.memo[key] = _estimate(asked, inventory, measures)
    assert isinstance(known, Resources)
    return known


def weight(device: Device, inventory: Inventory) -> int:
    """What one device is worth, in thousandths of a GPU; 0 for what is no accelerator."""
    kind = scalar(device.attributes.get(_TYPE))
    if kind == "mig":
        return _mig_weight(device)
    if kind in _GPU_TYPES:
        return WHOLE
    if kind is not None or device.id.driver not in DRIVERS:
        return 0
    for attribute, value, parents in _PARTITIONS:
        if scalar(device.attributes.get(attribute)) == value:
            return _partition_weight(device, parents, inventory)
    return WHOLE


def devices_of_class(name: str, view: NodeDevices, inventory: Inventory) -> tuple[int, tuple[DeviceId, ...]]:
    """How many devices of the class a node has for itself, in thousandths, and those that other nodes reach as well.

    Partitions of one board count as often as its counters let them be in use at once, each counter by itself. Of a
    class that cannot be read there are none."""
    expressions = _selecting(name, inventory)
    key = ("devices of class", expressions, inventory.features)
    known = view.memo.get(key)
    if known is None:
        found = _selected(expressions, view, inventory)
        local = [device for device in found if device.id[:2] in view.local]
        shared = tuple(device.id for device in found if device.id[:2] not in view.local)
        known = view.remember(key, (_at_once(local, view) * WHOLE, shared))
    assert isinstance(known, tuple)
    return known


def _selecting(name: str, inventory: Inventory) -> Expressions | None:
    """The selectors of a class; None if there is no such class, or it selects in a form newer than us."""
    published = inventory.classes.get(name)
    selectors = published.spec.selectors or () if published is not None else ()
    expressions = tuple(each.cel.expression for each in selectors if each.cel is not None)
    return expressions if published is not None and len(expressions) == len(selectors) else None


def _selected(expressions: Expressions | None, view: NodeDevices, inventory: Inventory) -> list[Device]:
    if expressions is None:
        return []
    try:
        return [device for device in view.devices if verdict(expressions, device, inventory.features) is True]
    except CelCompileError:
        return []


def _at_once(devices: Sequence[Device], view: NodeDevices) -> int:
    """How many of these devices may be in use at once: those that draw on no counter, and of each board so many as
    its scarcest counter has room for, the most modest first."""
    boards: dict[tuple[object, ...], list[Device]] = {}
    for device in devices:
        boards.setdefault((*device.id[:2], *(of for of, _ in device.consumes)), []).append(device)
    return sum(_of_board(board, view) for board in boards.values())


def _of_board(devices: Sequence[Device], view: NodeDevices) -> int:
    drawn: dict[tuple[str, str, str, str], list[Amount]] = {}
    for device in devices:
        for of, counters in device.consumes:
            for counter, value in counters:
                drawn.setdefault((device.id.driver, device.id.pool, of, counter), []).append(value)
    most = len(devices)
    for counter_key, values in drawn.items():
        room = view.counters.get(counter_key, 0)
        fitting = sum(1 for used in accumulate(sorted(values)) if used <= room)
        most = min(most, len(devices) - len(values) + fitting)
    return most


def _mig_weight(device: Device) -> int:
    """Rounded down, so that the slices of a board together never cost more than the board."""
    found = _PROFILE_SLICES.match(str(scalar(device.attributes.get(_PROFILE))))
    if found is None:
        found = _NAME_SLICES.match(device.id.name)
    product = str(scalar(device.attributes.get(_PRODUCT)))
    of = next((slices for part, slices in _SMALL_BOARDS.items() if part in product), SLICES_OF_A_BOARD)
    slices = int(found["slices"]) if found else of
    return WHOLE * min(slices, of) // of


def _partition_weight(device: Device, parents: tuple[str, ...], inventory: Inventory) -> int:
    """One part of the parent, however many parts it has been divided into."""
    parent = _parent(device, parents)
    if parent is None:
        return WHOLE
    others = (other for other in inventory.pool_devices(device.id) if other.id != device.id)
    return WHOLE // (1 + sum(1 for other in others if _parent(other, parents) == parent))


def _is_partition(device: Device) -> bool:
    return any(scalar(device.attributes.get(attribute)) == value for attribute, value, _ in _PARTITIONS)


def _parent(device: Device, parents: tuple[str, ...]) -> Scalar | None:
    return next((v for name in parents if (v := scalar(device.attributes.get(name))) is not None), None)


def _weight_by_name(result: DeviceRequestAllocationResult) -> int:
    """For a device that is not published any more, nor known from before: what its driver and name tell."""
    if result.driver not in DRIVERS:
        return 0
    found = _NAME_SLICES.match(result.device)
    return WHOLE * min(int(found["slices"]), SLICES_OF_A_BOARD) // SLICES_OF_A_BOARD if found else WHOLE


def _part_of_share(result: DeviceRequestAllocationResult, device: Device | None) -> Amount:
    """Which part of the device a result takes; 1 for a whole device, and where that cannot be told."""
    if result.share_id is None or device is None:
        return 1
    try:
        consumed = {name: amount(text) for name, text in (result.consumed_capacity or {}).items()}
    except QuantityError:
        return 1
    return _share(consumed, device)


def _share(consumed: Mapping[str, Amount], device: Device) -> Amount:
    """The part of the memory, else the largest part of anything; a share that takes nothing counts as the whole."""
    parts = {
        name: Fraction(consumed[name]) / Fraction(capacity.value)
        for name, capacity in device.capacity.items()
        if name in consumed and capacity.value
    }
    return parts.get("memory") or max(parts.values(), default=0) or 1


def _part(whole: int, part: Amount) -> int:
    """Rounded down like MIG slices, but never to nothing."""
    return whole if part == 1 else max(int(whole * part), min(whole, 1))


def _classes(spec: ResourceClaimSpec) -> Mapping[str, str]:
    """The class of each request and alternative, by its name in results."""
    classes = {}
    for request in spec.devices.requests or ():
        if request.exactly is not None:
            classes[request.name] = request.exactly.device_class_name
        for alternative in request.first_available or ():
            classes[f"{request.name}/{alternative.name}"] = alternative.device_class_name
    return classes


def _estimate(asked: Question, inventory: Inventory, measures: Measures) -> Resources:
    amounts: dict[str, int] = {}
    for wants in asked.requests:
        if any(want.admin for want in wants):
            continue
        costs = [(_cheapest(want, inventory, measures), want) for want in wants]
        known = [(cost, want) for cost, want in costs if cost is not None]
        if known:
            cost, want = min(known, key=lambda entry: (entry[0], entry[1].request))
        else:
            want = wants[0]
            cost = (_by_class(want.device_class) * want.count, WHOLE * want.count)
        names = (GPU, of_class(want.device_class), *(by.resource for by in _measuring(want, measures)))
        for name, part in zip(names, cost, strict=False):
            amounts[name] = amounts.get(name, 0) + part
    return Resources(amounts)


def _by_class(name: str) -> int:
    """For a class of which no device exists at present."""
    return WHOLE // SLICES_OF_A_BOARD if name == MIG_CLASS else WHOLE if name in CLASSES else 0


def _measuring(want: Want, measures: Measures) -> Measures:
    return tuple(by for by in measures if by.device_class == want.device_class)


def _cheapest(want: Want, inventory: Inventory, measures: Measures) -> tuple[int, ...] | None:
    """The least that a want costs, each by itself: GPUs and devices of the class, in thousandths, then what it amounts
    to by the measures of its class; None if nothing matches it.

    For mode All: the pool whose matching devices cost least, as pools are usually nodes.
    """
    of_its_class = _measuring(want, measures)
    question = want.expressions, want.capacity, want.every, inventory.features.list_attributes, of_its_class
    costs: set[tuple[int, ...]] = set()
    for pool in inventory.slices():
        each = []
        for read in pool:
            known = _least_costs(read)
            cost = known[question] if question in known else _cost_in(read, want, inventory, of_its_class)
            if question not in known and not any(map(_is_partition, read.devices)):
                if len(known) >= _MOST_QUESTIONS:
                    known.clear()
                known[question] = cost
            if cost is not None:
                each.append(cost)
        if each:
            costs.add(_combined(each, every=want.every))
    if not costs:
        return None
    least = _combined(costs, every=False)
    return least if want.every else tuple(part * want.count for part in least)


_MOST_QUESTIONS = 256
# By slice and question. Not for partitions: what these cost depends on the whole pool.
_least_costs: PerObject[SliceDevices, dict[object, tuple[int, ...] | None]] = PerObject(lambda _: {})


def _combined(costs: Iterable[tuple[int, ...]], *, every: bool) -> tuple[int, ...]:
    return tuple(map(sum if every else min, zip(*costs, strict=True)))


def _cost_in(read: SliceDevices, want: Want, inventory: Inventory, measures: Measures) -> tuple[int, ...] | None:
    """What the devices of a slice that the want selects would cost it: the least of each, or for mode All the sum."""
    costs = list(_costs_in(read, want, inventory, measures))
    return _combined(costs, every=want.every) if costs else None


def _costs_in(read: SliceDevices, want: Want, inventory: Inventory, measures: Measures) -> Iterable[tuple[int, ...]]:
    """What each device of a slice that the want selects would cost it."""
    devices = [device for device in read.devices if verdict(want.expressions, device, inventory.features) is True]
    for device in devices:
        part: Amount = 1
        consumed: dict[str, Amount] | None = None
        if device.shareable:
            share = taken_by(dict(want.capacity), device)
            if share is None:
                continue
            consumed = dict(share)
            part = _share(consumed, device)
        measured = [would_take(by, device, consumed, part) for by in measures] if measures else ()
        yield _part(weight(device, inventory), part), _part(WHOLE, part), *measured
