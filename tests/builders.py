"""Snapshots in one expression: only what the test is about.

    cluster(nodes=2, gpus=8) + gang("train", pods=3, gpus=8)

Every builder makes a World, a Snapshot that can be added to another. Amounts are as people write them: CPU in cores,
memory as a quantity, GPUs as a count. Names without a namespace are in "default".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from queues.resources import Resources
from queues.tree import Queue, QueueResource
from scheduler.api import quantity
from scheduler.api.core import NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration
from scheduler.api.dra import (
    AllocationResult,
    CELDeviceSelector,
    Counter,
    CounterSet,
    Device,
    DeviceAllocationResult,
    DeviceAttribute,
    DeviceCapacity,
    DeviceClaim,
    DeviceClass,
    DeviceClassSpec,
    DeviceConstraint,
    DeviceCounterConsumption,
    DeviceRequest,
    DeviceRequestAllocationResult,
    DeviceSelector,
    DeviceSubRequest,
    ExactDeviceRequest,
    ResourceClaimSpec,
    ResourcePool,
    ResourceSlice,
    ResourceSliceSpec,
)
from scheduler.api.meta import ObjectMeta
from scheduler.dra.selection import only_on
from scheduler.model.budgets import Budget
from scheduler.model.nodes import Node, Topology
from scheduler.model.reasons import Reason
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.model.workloads import (
    Claim,
    ContainerAsk,
    Gang,
    HostPort,
    Pod,
    PodClaim,
    SubGroup,
    TopologyConstraint,
)

NOW_MS = 1_767_225_600_000
GPU = "gpu.nvidia.com"


class World(Snapshot):
    """A snapshot that grows by `+`."""

    __slots__ = ()

    def __add__(self, other: "World") -> "World":
        merged: dict[str, Any] = {}
        for part in fields(Snapshot):
            mine, theirs = getattr(self, part.name), getattr(other, part.name)
            if isinstance(mine, tuple):
                merged[part.name] = mine + theirs
            elif isinstance(mine, Mapping):
                merged[part.name] = {**mine, **theirs}
        return replace(self, **merged)

    def under(self, **choices: Any) -> "World":
        """The same world under another policy."""
        return replace(self, policy=replace(self.policy, **choices))


def world(**parts: Any) -> World:
    return World(now_ms=NOW_MS, **parts)


def cluster(
    nodes: int = 1,
    gpus: int = 0,
    *,
    cpu: float = 64,
    memory: str = "512Gi",
    dra: bool = False,
    racks: int = 0,
    prefix: str = "node",
) -> World:
    """Equal nodes and a queue "default". `gpus` by a device plugin, or with `dra` as published devices; `racks`: label
    "rack" of nodes in turn, so many in a row."""
    made = world(queues=(Queue(name="default"),), classes=gpu_class().classes if dra else {})
    width = len(str(max(nodes - 1, 1)))
    for number in range(nodes):
        labels = {"rack": f"r{number * racks // nodes}"} if racks else {}
        made += node(f"{prefix}-{number:0{width}d}", gpus, cpu=cpu, memory=memory, dra=dra, labels=labels)
    return made


def node(
    name: str,
    gpus: int = 0,
    *,
    cpu: float = 64,
    memory: str = "512Gi",
    pods: int = 110,
    dra: bool = False,
    labels: Mapping[str, str] | None = None,
    taints: Sequence[Taint] = (),
    unschedulable: bool = False,
    domain: str | None = None,
    **more: int,
) -> World:
    """One node. With `dra` its GPUs are devices, in NVLink domain `domain` (default: a domain of its own)."""
    amounts = {"cpu": int(cpu * 1000), "memory": quantity.units(memory), "pods": pods, **more}
    if gpus and not dra:
        amounts["nvidia.com/gpu"] = gpus
    made = Node(
        name=name,
        uid=f"node-{name}",
        labels={"kubernetes.io/hostname": name, **(labels or {})},
        allocatable=Resources(amounts),
        taints=tuple(taints),
        unschedulable=unschedulable,
    )
    slices = devices(name, [gpu(i, domain=domain or name) for i in range(gpus)]).slices if gpus and dra else ()
    return world(nodes=(made,), slices=slices)


def gpu(index: int, *, domain: str = "", product: str = "NVIDIA H100 80GB HBM3", memory: str = "80Gi") -> Device:
    attributes = {
        "type": DeviceAttribute(string="gpu"),
        "productName": DeviceAttribute(string=product),
        "index": DeviceAttribute(int_=index),
    }
    if domain:
        attributes["nvlinkDomain"] = DeviceAttribute(string=domain)
    return Device(name=f"gpu-{index}", attributes=attributes, capacity={"memory": DeviceCapacity(value=memory)})


def divided_gpu(index: int, halves: int = 2) -> tuple[list[Device], CounterSet]:
    """A GPU that is given whole or in equal parts, with the counters that say so."""
    name = f"gpu-{index}"
    counters = CounterSet(name=name, counters={"parts": Counter(value=halves)})

    def takes(parts: int) -> tuple[DeviceCounterConsumption, ...]:
        return (DeviceCounterConsumption(counter_set=name, counters={"parts": Counter(value=parts)}),)

    whole = Device(name=name, attributes={"type": DeviceAttribute(string="gpu")}, consumes_counters=takes(halves))
    parts = [
        Device(
            name=f"{name}-part-{number}",
            attributes={"type": DeviceAttribute(string="mig"), "profile": DeviceAttribute(string="3g.40gb")},
            consumes_counters=takes(1),
        )
        for number in range(halves)
    ]
    return [whole, *parts], counters


def devices(on: str, published: Iterable[Device], counters: Sequence[CounterSet] = (), driver: str = GPU) -> World:
    """Slices of one pool that belong to node `on`; counters lie in a slice of their own."""
    count = 2 if counters else 1
    pool = ResourcePool(name=on, generation=1, resource_slice_count=count)
    slices = [
        ResourceSlice(
            metadata=ObjectMeta(name=f"{on}-{driver}", uid=f"slice-{on}-{driver}"),
            spec=ResourceSliceSpec(driver=driver, pool=pool, node_name=on, devices=tuple(published)),
        )
    ]
    if counters:
        slices.append(
            ResourceSlice(
                metadata=ObjectMeta(name=f"{on}-{driver}-counters", uid=f"slice-{on}-{driver}-counters"),
                spec=ResourceSliceSpec(driver=driver, pool=pool, node_name=on, shared_counters=tuple(counters)),
            )
        )
    return world(slices=tuple(slices))


def everywhere(name: str, published: Iterable[Device], driver: str) -> World:
    """A pool that every node can use."""
    made = ResourceSlice(
        metadata=ObjectMeta(name=name, uid=f"slice-{name}"),
        spec=ResourceSliceSpec(
            driver=driver,
            pool=ResourcePool(name=name, generation=1, resource_slice_count=1),
            all_nodes=True,
            devices=tuple(published),
        ),
    )
    return world(slices=(made,))


def device_class(name: str, expression: str, *, serves: str | None = None) -> World:
    """`serves`: the extended resource that it stands for."""
    spec = DeviceClassSpec(selectors=(cel(expression),), extended_resource_name=serves)
    return world(classes={name: DeviceClass(metadata=ObjectMeta(name=name), spec=spec)})


def gpu_class(name: str = GPU, *, kind: str = "gpu", serves: str | None = None) -> World:
    """NVIDIA's class of whole GPUs, or of MIG slices."""
    return device_class(name, f'device.driver == "{GPU}" && device.attributes["{GPU}"].type == "{kind}"', serves=serves)


def cel(expression: str) -> DeviceSelector:
    return DeviceSelector(cel=CELDeviceSelector(expression=expression))


def ask(
    count: int | None = 1,
    *,
    of: str = GPU,
    where: str | None = None,
    match: str | None = None,
    admin: bool = False,
) -> ResourceClaimSpec:
    """A claim with one request, "main". `count` None: all devices."""
    wanted = ExactDeviceRequest(
        device_class_name=of,
        selectors=(cel(where),) if where else None,
        allocation_mode="All" if count is None else "ExactCount",
        count=count,
        admin_access=admin or None,
    )
    constraints = (DeviceConstraint(match_attribute=match),) if match else None
    return ResourceClaimSpec(
        devices=DeviceClaim(requests=(DeviceRequest(name="main", exactly=wanted),), constraints=constraints)
    )


def ask_first(*alternatives: tuple[str, str, int]) -> ResourceClaimSpec:
    """A claim with alternatives, each (name, class, count)."""
    wanted = tuple(DeviceSubRequest(name=name, device_class_name=of, count=count) for name, of, count in alternatives)
    return ResourceClaimSpec(devices=DeviceClaim(requests=(DeviceRequest(name="main", first_available=wanted),)))


def claim(
    name: str, spec: ResourceClaimSpec, *, holds: AllocationResult | None = None, by: Iterable[str] = ()
) -> World:
    """A named claim, to be shared or kept. `holds`: its devices; `by`: uids of the pods it is reserved for."""
    key = keyed(name)
    made = Claim(key=key, uid=f"claim-{key}", spec=spec, allocation=holds, reserved_for=tuple(by))
    return world(claims={key: made})


def holding(node: str, *indices: int) -> AllocationResult:
    """What a claim of `ask` holds: these GPUs of the node, usable there alone."""
    results = tuple(
        DeviceRequestAllocationResult(request="main", driver=GPU, pool=node, device=f"gpu-{index}") for index in indices
    )
    return AllocationResult(devices=DeviceAllocationResult(results=results), node_selector=only_on(node))


def queue(
    name: str,
    *,
    parent: str | None = None,
    quota: float | None = None,
    limit: float | None = None,
    priority: int = 100,
    weight: int = 1,
    max_concurrent_evictions: int | None = None,
    **more: QueueResource,
) -> World:
    """`quota` and `limit` in GPUs; other resources by name."""
    resources = dict(more)
    if quota is not None or limit is not None:
        resources["gpu"] = QueueResource(
            quota=int((quota or 0) * 1000), limit=None if limit is None else int(limit * 1000), weight=weight
        )
    made = Queue(
        name=name,
        parent=parent,
        priority=priority,
        resources=resources,
        max_concurrent_evictions=max_concurrent_evictions,
    )
    return world(queues=(made,))


def budget(name: str, *, allowed: int, desired: int = 0, disrupted: Sequence[str] = (), **labels: str) -> World:
    """A PodDisruptionBudget over pods with these labels; `disrupted`: names of pods whose eviction was granted."""
    made = Budget(
        key=keyed(name),
        labels=tuple(
            NodeSelectorRequirement(key=key, operator="In", values=(value,)) for key, value in sorted(labels.items())
        ),
        allowed=allowed,
        desired=desired,
        disrupted=tuple(map(keyed, disrupted)),
    )
    return world(budgets=(made,))


def topology(name: str, *levels: str) -> World:
    return world(topologies={name: Topology(name=name, levels=levels, aliases={})})


def pod(
    name: str,
    *,
    gpus: int = 0,
    cpu: float = 1,
    memory: str = "1Gi",
    on: str = "",
    claims: Mapping[str, str] | None = None,
    templates: Sequence[str] = (),
    selector: Mapping[str, str] | None = None,
    affinity: NodeSelector | None = None,
    tolerations: Sequence[Toleration] = (),
    ports: Sequence[int] = (),
    **more: Any,
) -> Pod:
    """A pod as the model sees it. `claims`: its name for a claim -> the claim; those in `templates` are its own."""
    key = keyed(name)
    amounts = {"cpu": int(cpu * 1000), "memory": quantity.units(memory), "pods": 1}
    extended: tuple[ContainerAsk, ...] = ()
    if gpus:
        amounts["nvidia.com/gpu"] = gpus
        extended = (ContainerAsk(name="main", index=0, requests={"nvidia.com/gpu": gpus}),)
    return Pod(
        key=key,
        uid=f"pod-{key}",
        node=on,
        phase=more.pop("phase", "Running" if on else "Pending"),
        ready=more.pop("ready", bool(on)),
        requests=Resources(amounts),
        extended=extended,
        node_selector=selector or {},
        required_affinity=affinity,
        tolerations=tuple(tolerations),
        host_ports=tuple(HostPort(address="", protocol="TCP", port=port) for port in ports),
        claims=tuple(
            PodClaim(name=own, claim=keyed(of), from_template=own in templates) for own, of in (claims or {}).items()
        ),
        **more,
    )


def gang(
    name: str,
    pods: int = 1,
    gpus: int = 0,
    *,
    minimum: int | None = None,
    queue: str = "",
    priority: int = 0,
    preemptible: bool = True,
    claims: Mapping[str, ResourceClaimSpec] | None = None,
    shared: Mapping[str, str] | None = None,
    on: Sequence[str] = (),
    topology: tuple[str, str | None, str | None] | None = None,
    created_ms: int = 0,
    problems: Sequence[Reason] = (),
    **more: Any,
) -> World:
    """Equal pods. `claims`: one claim each, by the pod's name for it; `shared`: claims named by all of them; `on`:
    nodes where the first of them run (claims of those are left out). `topology`: (name, required, preferred level)."""
    key = keyed(name)
    made: list[Pod] = []
    given: dict[str, Claim] = {}
    for number in range(pods):
        pod_name = f"{key}-{number}"
        where = on[number] if number < len(on) else ""
        own = {} if where else {mine: f"{pod_name}-{mine}" for mine in claims or {}}
        one = pod(pod_name, gpus=gpus, on=where, claims={**own, **(shared or {})}, templates=tuple(own), **more)
        for mine, of in own.items():
            given[of] = Claim(key=of, uid=f"claim-{of}", spec=(claims or {})[mine], owner_uid=one.uid)
        made.append(one)
    whole = gang_of(
        key,
        made,
        minimum=pods if minimum is None else minimum,
        queue=queue,
        priority=priority,
        preemptible=preemptible,
        topology=constraint(topology),
        created_ms=created_ms,
        problems=tuple(problems),
    )
    return whole + world(claims=given)


def gang_of(name: str, pods: Sequence[Pod], *, minimum: int | None = None, **more: Any) -> World:
    """A gang of these very pods."""
    key = keyed(name)
    whole = Gang(
        key=key,
        uid=f"gang-{key}",
        owner=f"PodGroup/{key}",
        queue=more.pop("queue", ""),
        min_member=len(pods) if minimum is None else minimum,
        pods=tuple(pods),
        **more,
    )
    return world(gangs=(whole,), pods=tuple(one for one in pods if one.node))


def running(name: str, on: str, **more: Any) -> World:
    """Somebody else's pod on a node."""
    return world(pods=(pod(name, on=on, ours=False, **more),))


def sub_group(
    name: str,
    minimum: int | None = None,
    *,
    parent: str | None = None,
    groups: int | None = None,
    topology: tuple[str, str | None, str | None] | None = None,
) -> SubGroup:
    return SubGroup(name=name, parent=parent, min_member=minimum, min_sub_group=groups, topology=constraint(topology))


def constraint(topology: tuple[str, str | None, str | None] | None) -> TopologyConstraint | None:
    if topology is None:
        return None
    return TopologyConstraint(topology=topology[0], required=topology[1], preferred=topology[2])


def label_in(key: str, *values: str) -> NodeSelector:
    """Node affinity: the label has one of the values."""
    requirement = NodeSelectorRequirement(key=key, operator="In", values=values)
    return NodeSelector(node_selector_terms=(NodeSelectorTerm(match_expressions=(requirement,)),))


def keyed(name: str) -> str:
    return name if "/" in name else f"default/{name}"


def policy(**choices: Any) -> Policy:
    return Policy(**choices)
