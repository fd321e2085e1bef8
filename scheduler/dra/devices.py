"""One published device, read once: its attributes by full name, exact amounts, taints, and where it may be used.

Everything here depends on the slice alone, so it is read once per slice object and kept for as long as that is used.
Source: resource.k8s.io/v1 ResourceSlice; KEP 4815 (partitions), 5055 (taints), 5075 (consumable capacity).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from scheduler.api import attributes as names
from scheduler.api import dra, quantity
from scheduler.api.core import NodeSelector, Quantity

Amount: TypeAlias = int | Fraction
"""An exact quantity; whole amounts are int."""

Consumption: TypeAlias = tuple[tuple[str, tuple[tuple[str, Amount], ...]], ...]
"""What a device takes while it is used: (counter set, ((counter, amount), ...)) pairs, sorted."""

Scalar: TypeAlias = int | bool | str
GROUPS = "compatibilityGroups"
BLOCKING = ("NoSchedule", "NoExecute")

# Where a device sits, coarse to fine: GPUs of one such place are handed out together, and a place is kept whole.
PLACES = (f"{names.GPU_DRIVER}/{names.NVLINK_DOMAIN}", names.NUMA_NODE, names.PCIE_ROOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Parts of the API that a cluster may lack. All on: what is not served is simply never asked for.

    A claim that asks for a part which is off is refused; a device that needs it is not used.
    """

    admin_access: bool = True
    prioritized_list: bool = True
    partitionable: bool = True
    consumable: bool = True
    taints: bool = True
    binding_conditions: bool = True
    list_attributes: bool = True


EVERYTHING = Features()


class DeviceId(NamedTuple):
    """What names a device everywhere; device names are unique in their pool."""

    driver: str
    pool: str
    name: str

    def __str__(self) -> str:
        return f"{self.driver}/{self.pool}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a request for capacity is rounded, and what it may not be."""

    default: Amount | None = None
    valid_values: tuple[Amount, ...] = ()
    minimum: Amount | None = None
    maximum: Amount | None = None
    step: Amount | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    value: Amount
    policy: Policy | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Device:
    """A device of a slice. Two are equal only if they are the same object.

    `attributes` by fully qualified name; `places`: values of PLACES, None where not published; `taints`: the slice's
    own, those that stop nothing left out. `node_name`, `node_selector`: the slice's or its own; neither: every node.
    """

    id: DeviceId
    published: dra.Device
    attributes: Mapping[str, dra.DeviceAttribute]
    capacity: Mapping[str, Capacity]
    consumes: Consumption = ()
    taints: tuple[dra.DeviceTaint, ...] = ()
    places: tuple[Scalar | None, ...] = ()
    node_name: str | None = None
    node_selector: NodeSelector | None = None
    unselected: bool = False
    """Says itself where it may be used, in a form newer than us: nowhere, as far as we know."""
    beyond: str = ""
    """The published field that makes it unusable for us, because it asks for what we do not know how to keep."""
    skips: tuple[str, ...] | None = None
    """Operations of the kubelet that its driver does without; part of the result."""

    @property
    def shareable(self) -> bool:
        """Whether several claims may hold it at once, each with its part of the capacity."""
        return bool(self.published.allow_multiple_allocations)

    @property
    def size(self) -> Amount:
        """How big it is among its like: its memory, the amount that all accelerators publish; 0 if unknown."""
        memory = self.capacity.get("memory") or self.capacity.get(f"{self.id.driver}/memory")
        return memory.value if memory else 0


# Weakly referred to by what is computed of it (`scheduler.dra.caches`).
@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class SliceDevices:
    """A slice with its devices and counter sets read. `problem`: why its pool cannot be used, "" if it can.

    `grouped`: some of its devices say with whom they can share counters. Who does not know groups knows of none of the
    pool's devices beside which it can be used, so the pool counts as unfinished (KEP 5963; upstream with its gate off).
    """

    published: dra.ResourceSlice
    devices: tuple[Device, ...] = ()
    counters: tuple[tuple[str, Mapping[str, Amount]], ...] = ()
    problem: str = ""
    grouped: bool = False

    @property
    def pool(self) -> tuple[str, str]:
        return self.published.spec.driver, self.published.spec.pool.name


@lru_cache(maxsize=16_384)
def amount(text: Quantity) -> Amount:
    """The exact value of a quantity. Raises QuantityError."""
    value = quantity.parse(text)
    return value.numerator if value.denominator == 1 else value


def written(value: Amount) -> str:
    """An amount as Kubernetes writes it, binary suffixes where they are exact."""
    if isinstance(value, int):
        return quantity.format_units(value)
    for digits, suffix in ((3, "m"), (6, "u"), (9, "n")):
        scaled = value * 10**digits
        if scaled.denominator == 1:
            return f"{scaled.numerator}{suffix}"
    return f"{-(-value.numerator * 10**9 // value.denominator)}n"


def scalar(attribute: dra.DeviceAttribute | None) -> Scalar | None:
    """The value of an attribute that has exactly one, else None."""
    values = values_of(attribute)
    return values[1][0] if values is not None and len(values[1]) == 1 else None


def values_of(attribute: dra.DeviceAttribute | None) -> tuple[str, tuple[Scalar, ...]] | None:
    """An attribute as (type, values), a single value being a list of one; None if absent or of a type newer than us."""
    if attribute is None:
        return None
    if attribute.string is not None:
        return "string", (attribute.string,)
    if attribute.int_ is not None:
        return "int", (attribute.int_,)
    if attribute.bool_ is not None:
        return "bool", (attribute.bool_,)
    if attribute.version is not None:
        return "version", (attribute.version,)
    if attribute.strings is not None:
        return "string", attribute.strings
    if attribute.ints is not None:
        return "int", attribute.ints
    if attribute.bools is not None:
        return "bool", attribute.bools
    if attribute.versions is not None:
        return "version", attribute.versions
    return None


def is_list(attribute: dra.DeviceAttribute) -> bool:
    return any(v is not None for v in (attribute.strings, attribute.ints, attribute.bools, attribute.versions))


def read_slice(published: dra.ResourceSlice) -> SliceDevices:
    """The devices and counters of a slice. Amounts that cannot be read make the slice a problem, not an exception."""
    try:
        devices = tuple(_read_device(published.spec, device) for device in published.spec.devices or ())
        return SliceDevices(
            published=published,
            devices=devices,
            grouped=any(device.beyond == GROUPS for device in devices),
            counters=tuple(
                (counter_set.name, {name: amount(counter.value) for name, counter in counter_set.counters.items()})
                for counter_set in published.spec.shared_counters or ()
            ),
        )
    except quantity.QuantityError as error:
        return SliceDevices(published=published, problem=f"slice {published.metadata.name}: {error}")


def _read_device(spec: dra.ResourceSliceSpec, device: dra.Device) -> Device:
    attributes = _qualified(spec.driver, device.attributes or {})
    own = bool(spec.per_device_node_selection)
    place = device if own else spec
    return Device(
        id=DeviceId(spec.driver, spec.pool.name, device.name),
        published=device,
        attributes=attributes,
        capacity={name: _read_capacity(capacity) for name, capacity in (device.capacity or {}).items()},
        consumes=_read_consumption(device.consumes_counters or ()),
        taints=tuple(taint for taint in device.taints or () if taint.effect in BLOCKING),
        places=tuple(scalar(attributes.get(name)) for name in PLACES),
        node_name=place.node_name,
        node_selector=place.node_selector,
        unselected=own and not (device.node_name or device.node_selector or device.all_nodes),
        beyond=_beyond(device),
        skips=spec.skip_node_operations,
    )


def read_withdrawn(driver: str, pool: str, published: dra.Device) -> Device:
    """A device that no slice lists any more: what it is and has, not where it may be used. Raises QuantityError."""
    return _read_device(dra.ResourceSliceSpec(driver=driver, pool=dra.ResourcePool(name=pool)), published)


def _read_consumption(published: Iterable[dra.DeviceCounterConsumption]) -> Consumption:
    """What a device takes of counters, as exact amounts. Raises QuantityError."""
    return tuple(
        sorted(
            (use.counter_set, tuple(sorted((name, amount(counter.value)) for name, counter in use.counters.items())))
            for use in published
        )
    )


def _beyond(device: dra.Device) -> str:
    if any(use.compatibility_groups for use in device.consumes_counters or ()):
        return GROUPS
    return "nodeAllocatableResources" if device.node_allocatable_resources is not None else ""


def _qualified(driver: str, published: Mapping[str, dra.DeviceAttribute]) -> dict[str, dra.DeviceAttribute]:
    """A bare name is in the driver's domain; where both forms are published the full name counts."""
    names = _full_names(driver, tuple(published))
    if names is not None:
        return dict(zip(names, published.values(), strict=True))
    bare = {f"{driver}/{name}": value for name, value in published.items() if "/" not in name}
    return bare | {name: value for name, value in published.items() if "/" in name}


@lru_cache(maxsize=1024)
def _full_names(driver: str, published: tuple[str, ...]) -> tuple[str, ...] | None:
    """The same of names alone, which most devices share; None where both forms of a name are there."""
    names = tuple(name if "/" in name else f"{driver}/{name}" for name in published)
    return names if len(set(names)) == len(names) else None


def _read_capacity(published: dra.DeviceCapacity) -> Capacity:
    return Capacity(value=amount(published.value), policy=read_policy(published.request_policy))


def read_policy(published: dra.CapacityRequestPolicy | None) -> Policy | None:
    """A request policy with exact amounts. Raises QuantityError."""
    if published is None:
        return None
    allowed = published.valid_range
    return Policy(
        default=_optional(published.default),
        valid_values=tuple(sorted(map(amount, published.valid_values or ()))),
        minimum=amount(allowed.min) if allowed else None,
        maximum=_optional(allowed.max) if allowed else None,
        step=_optional(allowed.step) if allowed else None,
    )


def _optional(text: Quantity | None) -> Amount | None:
    return None if text is None else amount(text)
