"""NUMA zones: NodeResourceTopology -> the model's Zones, and what a kubelet aligns of a pod.

Only policies that refuse pods count: `single-numa-node` and `restricted`. A node without such an object, or with
another policy, has no zones for us.

Source: noderesourcetopology-api v1alpha2; the kubelet's Topology, CPU, Memory and Device Managers (KEPs 693, 1769).
"""

import re

from queues.resources import NOTHING, Resources, total
from scheduler.api import core
from scheduler.api.numa import NODE_ZONE, POLICY_ATTRIBUTE, SCOPE_ATTRIBUTE, NodeResourceTopology, Zone
from scheduler.api.quantity import QuantityError
from scheduler.model import zones
from scheduler.model.reasons import Unreadable
from scheduler.state.fields import Bad, in_house_units
from scheduler.state.pods import container_amounts

_SINGLE, _RESTRICTED, _POD = "single-numa-node", "restricted", "pod"
_OLDER = {
    "SingleNUMANode": (_SINGLE, "container"),
    "SingleNUMANodeContainerLevel": (_SINGLE, "container"),
    "SingleNUMANodePodLevel": (_SINGLE, _POD),
    "Restricted": (_RESTRICTED, "container"),
    "RestrictedContainerLevel": (_RESTRICTED, "container"),
    "RestrictedPodLevel": (_RESTRICTED, _POD),
}
_NUMBER = re.compile(r"(\d+)$")
_WHOLE_CPU = 1000


def node_zones(found: NodeResourceTopology) -> zones.Zones | None:
    """The zones that the node's kubelet holds pods to, None if it refuses nobody. Raises Bad."""
    policy, scope = _policy(found)
    listed = [zone for zone in found.zones or () if zone.type == NODE_ZONE]
    if policy not in (_SINGLE, _RESTRICTED) or not listed:
        return None
    return zones.Zones(
        single=policy == _SINGLE,
        per_pod=scope == _POD,
        zones=tuple(_zone(found, zone) for zone in sorted(listed, key=_place)),
    )


def aligned(pod: core.Pod) -> zones.Aligned | None:
    """What a kubelet aligns of the pod, None for nothing. Raises Bad.

    Devices of device plugins always; CPU, memory and huge pages of Guaranteed pods alone, CPU only of containers that
    ask for whole ones. Of pods with pod-level resources only the devices: kubelets leave the rest unaligned."""
    spec = pod.spec
    inits = [each for each in spec.init_containers or () if each.restart_policy != "Always"]
    sidecars = [each for each in spec.init_containers or () if each.restart_policy == "Always"]
    running = (*sidecars, *(spec.containers or ()))
    full = spec.resources is None and all(_guaranteed(pod, each) for each in (*running, *inits))
    parts = tuple(part for each in running if (part := _part(pod, each, full=full)))
    first = tuple(part for each in inits if (part := _part(pod, each, full=full)))
    if not parts and not first:
        return None
    whole = total(parts)
    for part in first:
        whole = whole.at_least(part)
    return zones.Aligned(whole=whole, containers=parts, inits=first)


def _policy(found: NodeResourceTopology) -> tuple[str, str]:
    """Policy and scope, by the attributes, or else by the older form."""
    policy, scope = _OLDER.get((found.topology_policies or ("",))[0], ("", ""))
    told = {attribute.name: attribute.value.lower() for attribute in found.attributes or ()}
    return told.get(POLICY_ATTRIBUTE, policy), told.get(SCOPE_ATTRIBUTE, scope)


def _place(zone: Zone) -> tuple[int, str]:
    """Zones in the order of the node's own numbers: node-2 before node-10."""
    number = _NUMBER.search(zone.name)
    return (int(number[1]) if number else 0, zone.name)


def _zone(found: NodeResourceTopology, zone: Zone) -> zones.Zone:
    allocatable: dict[str, int] = {}
    available: dict[str, int] = {}
    for resource in zone.resources or ():
        most = resource.allocatable if resource.allocatable is not None else resource.capacity
        allocatable[resource.name] = _amount(found, zone, resource.name, "allocatable", most)
        told = resource.available if resource.available is not None else most
        available[resource.name] = _amount(found, zone, resource.name, "available", told)
    return zones.Zone(name=zone.name, allocatable=Resources(allocatable), available=Resources(available))


def _amount(found: NodeResourceTopology, zone: Zone, resource: str, field: str, value: core.Quantity | None) -> int:
    """An amount of a zone; one below zero counts as none."""
    try:
        return max(in_house_units(resource, value), 0) if value is not None else 0
    except QuantityError as error:
        name = found.metadata.name
        raise Bad(
            Unreadable(
                object=f"NodeResourceTopology/{name}",
                field=f"zones.{zone.name}.{resource}.{field}",
                problem=str(error),
                remedy=f"Look at what exports the topology of node {name}; meanwhile its zones are not regarded.",
            )
        ) from None


def _guaranteed(pod: core.Pod, container: core.Container) -> bool:
    """Whether the container has limits for CPU and memory, and asks for no less."""
    asked = container_amounts(pod, container)
    limits = container.resources.limits if container.resources is not None else None
    if limits is None or not {"cpu", "memory"} <= limits.keys():
        return False
    return all(asked.get(name, 0) == in_house_units(name, limits[name]) > 0 for name in ("cpu", "memory"))


def _part(pod: core.Pod, container: core.Container, *, full: bool) -> Resources:
    asked = container_amounts(pod, container)
    if not asked:
        return NOTHING
    return Resources({name: amount for name, amount in asked.items() if _is_aligned(name, amount, full=full)})


def _is_aligned(name: str, amount: int, *, full: bool) -> bool:
    if name == "ephemeral-storage":
        return False
    if name == "cpu":
        return full and amount % _WHOLE_CPU == 0
    return full if name == "memory" or name.startswith("hugepages-") else True
