"""What drivers publish and claims ask, as API objects: only what the test is about.

inventory(slice_of("n1", gpu(0), gpu(1)))
claim("train", request("gpus", count=2), match="gpu.nvidia.com/nvlinkDomain")
"""

from collections.abc import Iterable, Mapping

from queues.resources import NOTHING, Resources
from scheduler.api import dra
from scheduler.api.core import NodeSelector, Quantity
from scheduler.api.meta import ObjectMeta
from scheduler.dra.allocate import Allocated, Answer, Ask, allocate
from scheduler.dra.counters import InUse
from scheduler.dra.devices import EVERYTHING, Features
from scheduler.dra.pools import Inventory
from scheduler.model.nodes import Node
from scheduler.model.workloads import Claim

DRIVER = "gpu.nvidia.com"
IS_GPU = f"device.driver == '{DRIVER}' && device.attributes['{DRIVER}'].type == 'gpu'"
IS_MIG = f"device.driver == '{DRIVER}' && device.attributes['{DRIVER}'].type == 'mig'"
NVLINK = f"{DRIVER}/nvlinkDomain"
PARENT = f"{DRIVER}/parentUUID"
PCIE_ROOT = "resource.kubernetes.io/pcieRoot"

# Profile -> the memory slices it may start at, and how many it takes, on a board of eight.
MIG_PLACES = {"1g.10gb": (range(7), 1), "2g.20gb": ((0, 2, 4), 2), "3g.40gb": ((0, 4), 4), "7g.80gb": ((0,), 8)}


def node(name: str = "n1", *, labels: Mapping[str, str] | None = None, **allocatable: int) -> Node:
    counts = {"nvidia.com/gpu": allocatable["gpus"]} if "gpus" in allocatable else {}
    return Node(name=name, labels=labels or {}, allocatable=Resources(counts) if counts else NOTHING)


def attribute(value: str | int | bool | tuple[str, ...]) -> dra.DeviceAttribute:
    if isinstance(value, bool):
        return dra.DeviceAttribute(bool_=value)
    if isinstance(value, int):
        return dra.DeviceAttribute(int_=value)
    return dra.DeviceAttribute(strings=value) if isinstance(value, tuple) else dra.DeviceAttribute(string=value)


def device(
    name: str,
    attributes: Mapping[str, str | int | bool | tuple[str, ...]] | None = None,
    *,
    capacity: Mapping[str, Quantity] | None = None,
    shared: bool = False,
    policy: dra.CapacityRequestPolicy | None = None,
    taints: Iterable[dra.DeviceTaint] = (),
    consumes: Mapping[str, Mapping[str, int]] | None = None,
    **more: object,
) -> dra.Device:
    return dra.Device(
        name=name,
        attributes={key: attribute(value) for key, value in (attributes or {}).items()} or None,
        capacity={key: dra.DeviceCapacity(value=v, request_policy=policy) for key, v in (capacity or {}).items()}
        or None,
        allow_multiple_allocations=shared or None,
        taints=tuple(taints) or None,
        consumes_counters=tuple(
            dra.DeviceCounterConsumption(counter_set=name, counters=counters(amounts))
            for name, amounts in (consumes or {}).items()
        )
        or None,
        **more,  # type: ignore[arg-type]
    )


def counters(amounts: Mapping[str, int]) -> dict[str, dra.Counter]:
    return {name: dra.Counter(value=str(amount)) for name, amount in amounts.items()}


def gpu(number: int, *, memory: str = "80Gi", node: str = "n1", **more: str | int | bool) -> dra.Device:
    named = {"type": "gpu", "uuid": f"GPU-{node}-{number}", "nvlinkDomain": f"{node}-nvlink"}
    roots = {PCIE_ROOT: f"pci{number // 2}", "resource.kubernetes.io/numaNode": number // 4}
    return device(f"gpu-{number}", {**named, **roots, **more}, capacity={"memory": memory})


def nic(number: int) -> dra.Device:
    return device(f"nic-{number}", {PCIE_ROOT: f"pci{number}"})


def mig_board(number: int, node: str = "n1") -> list[dra.Device]:
    """Every partition that one board of eight memory slices allows."""
    return [
        device(
            f"gpu-{number}-mig-{profile.replace('.', '')}-{start}",
            {"type": "mig", "profile": profile, "parentUUID": f"GPU-{node}-{number}", "uuid": f"MIG-{number}-{start}"},
            capacity={"memory": f"{size * 10}Gi"},
            consumes={f"board-{number}": {f"memory-slice-{s}": 1 for s in range(start, start + size)}},
        )
        for profile, (starts, size) in MIG_PLACES.items()
        for start in starts
    ]


def boards(*numbers: int) -> tuple[dra.CounterSet, ...]:
    slices = counters({f"memory-slice-{s}": 1 for s in range(8)})
    return tuple(dra.CounterSet(name=f"board-{number}", counters=slices) for number in numbers)


def slice_of(
    node: str | None,
    *devices: dra.Device,
    name: str = "",
    driver: str = DRIVER,
    pool: str = "",
    generation: int = 1,
    of: int = 1,
    sets: tuple[dra.CounterSet, ...] = (),
    selector: NodeSelector | None = None,
    all_nodes: bool = False,
    per_device: bool = False,
) -> dra.ResourceSlice:
    where = pool or node or "pool"
    return dra.ResourceSlice(
        metadata=ObjectMeta(name=name or f"{where}-{driver}-{generation}{'-sets' if sets else ''}"),
        spec=dra.ResourceSliceSpec(
            driver=driver,
            pool=dra.ResourcePool(name=where, generation=generation, resource_slice_count=of),
            node_name=node,
            node_selector=selector,
            all_nodes=all_nodes or None,
            per_device_node_selection=per_device or None,
            devices=devices or None,
            shared_counters=sets or None,
        ),
    )


def mig_node(node: str = "n1", *, count: int = 1) -> tuple[dra.ResourceSlice, dra.ResourceSlice]:
    devices = [partition for number in range(count) for partition in mig_board(number, node)]
    return slice_of(node, *devices, of=2), slice_of(node, of=2, sets=boards(*range(count)))


def selectors(*expressions: str) -> tuple[dra.DeviceSelector, ...] | None:
    return tuple(dra.DeviceSelector(cel=dra.CELDeviceSelector(expression=e)) for e in expressions) or None


def device_class(name: str, *expressions: str, resource: str | None = None, created: str = "") -> dra.DeviceClass:
    return dra.DeviceClass(
        metadata=ObjectMeta(name=name, creation_timestamp=created or None),
        spec=dra.DeviceClassSpec(selectors=selectors(*expressions), extended_resource_name=resource),
    )


CLASSES = {
    c.metadata.name: c
    for c in (
        device_class(DRIVER, IS_GPU, resource="nvidia.com/gpu"),
        device_class("mig.nvidia.com", IS_MIG),
        device_class("nic", "device.driver == 'nic.example.com'"),
        device_class("any"),
    )
}


def inventory(
    *slices: dra.ResourceSlice,
    classes: Mapping[str, dra.DeviceClass] | None = None,
    rules: Iterable[dra.DeviceTaintRule] = (),
    fence: str = "",
    features: Features = EVERYTHING,
) -> Inventory:
    return Inventory.of(slices, CLASSES if classes is None else classes, rules, fence, features)


def exact(
    *expressions: str,
    of: str = DRIVER,
    count: int | None = None,
    every: bool = False,
    admin: bool = False,
    capacity: Mapping[str, Quantity] | None = None,
    tolerations: Iterable[dra.DeviceToleration] = (),
) -> dra.ExactDeviceRequest:
    return dra.ExactDeviceRequest(
        device_class_name=of,
        selectors=selectors(*expressions),
        allocation_mode="All" if every else "ExactCount",
        count=count,
        admin_access=admin or None,
        capacity=dra.CapacityRequirements(requests=dict(capacity)) if capacity else None,
        tolerations=tuple(tolerations) or None,
    )


def request(name: str, *expressions: str, **more: object) -> dra.DeviceRequest:
    return dra.DeviceRequest(name=name, exactly=exact(*expressions, **more))  # type: ignore[arg-type]


def first_of(name: str, **alternatives: dra.ExactDeviceRequest) -> dra.DeviceRequest:
    """A request with alternatives, in the order given."""
    return dra.DeviceRequest(
        name=name,
        first_available=tuple(
            dra.DeviceSubRequest(
                name=alternative,
                device_class_name=asked.device_class_name,
                selectors=asked.selectors,
                allocation_mode=asked.allocation_mode,
                count=asked.count,
                capacity=asked.capacity,
                tolerations=asked.tolerations,
            )
            for alternative, asked in alternatives.items()
        ),
    )


def profile(name: str) -> str:
    """The selector of a MIG profile."""
    return f"device.attributes['{DRIVER}'].profile == '{name}'"


def claim(
    name: str,
    *requests: dra.DeviceRequest,
    match: str = "",
    distinct: str = "",
    config: tuple[dra.DeviceClaimConfiguration, ...] = (),
    admin: bool = False,
) -> Claim:
    constraints = [dra.DeviceConstraint(match_attribute=match)] if match else []
    if distinct:
        constraints.append(dra.DeviceConstraint(distinct_attribute=distinct))
    spec = dra.ResourceClaimSpec(
        devices=dra.DeviceClaim(
            requests=requests or (request("gpu"),), constraints=tuple(constraints) or None, config=config or None
        )
    )
    return Claim(key=f"ns/{name}", uid=f"uid-{name}", spec=spec, admin_access_allowed=admin)


def ask(
    found: Inventory, *claims: Claim, at: Node | None = None, in_use: InUse | None = None, **more: object
) -> Answer:
    """What a node answers to these claims together."""
    asks = [Ask(claim=c) for c in claims]
    return allocate(at or node(), asks, found, in_use or InUse(found), **more)  # type: ignore[arg-type]


def names(answer: Answer) -> list[list[str]]:
    """The devices given, per claim."""
    assert isinstance(answer, Allocated), answer
    return [[result.device for result in a.devices.results or ()] for a in answer.allocations]
