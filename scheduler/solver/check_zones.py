"""Can NUMA zones hold what a plan places? A part of the check of plans.

Asked is whether there is any way to share the zones among the pods: those that are placed, and those on the node that
what is said to be available cannot count yet. Without one the kubelet refuses a pod, whatever the order they come in.
Source: the kubelet's Topology Manager (KEP 693); noderesourcetopology-api v1alpha2.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from queues.resources import Resources, total
from scheduler.model.nodes import Node
from scheduler.model.workloads import Pod
from scheduler.model.zones import Zones
from scheduler.solver.check_case import Case

LOOKS = 20_000
"""Ways that are looked at for one node; a plan is not blamed for what was not found out."""

Mask = tuple[int, ...]


def zones_have_the_amounts(case: Case) -> Iterator[str]:
    """Nodes whose kubelets refuse what does not fit their zones are given nothing of the kind."""
    placed: dict[str, list[Pod]] = {}
    for _, pod, node in case.placed:
        if node.zones is not None and _parts(node, node.zones, pod):
            placed.setdefault(node.name, []).append(pod)
    for name, pods in sorted(placed.items()):
        node = case.nodes[name]
        there = [pod for pod in case.snapshot.pods if pod.node == name and not pod.done]
        if node.zones is not None and not _fit(node, node.zones, there, pods):
            yield f"the NUMA zones of node {name} do not hold {', '.join(sorted(pod.key for pod in pods))}"


def _fit(node: Node, zones: Zones, there: Sequence[Pod], placed: Sequence[Pod]) -> bool:
    held = {pod.key: total(_parts(node, zones, pod)) for pod in there}
    known = _known(zones, sorted(there, key=lambda pod: (pod.started_ms or 0, pod.key)), held)
    free = [zone.available if known else zone.allocatable for zone in zones.zones]
    others = [part for pod in there if pod.key not in known for part in _parts(node, zones, pod)]
    parts = [part for part in others if _masks(zones, part)]
    own = [part for pod in placed for part in _parts(node, zones, pod)]
    choices = [_masks(zones, part) for part in own]
    if not all(choices):
        return False
    return _any_way(free, [*own, *parts], [*choices, *(_masks(zones, part) for part in parts)])


def _known(zones: Zones, oldest_first: Iterable[Pod], held: dict[str, Resources]) -> set[str]:
    """The running pods that what is in use can be of, the oldest first; memory is told only where it is aligned."""
    in_use = total(zone.allocatable - zone.available for zone in zones.zones)
    known: set[str] = set()
    for pod in oldest_first:
        has = held[pod.key]
        if pod.started_ms is not None and any(in_use[name] >= has[name] for name in has):
            in_use = Resources({name: max(in_use[name] - has[name], 0) for name in in_use})
            known.add(pod.key)
    return known


def _parts(node: Node, zones: Zones, pod: Pod) -> list[Resources]:
    """What has a place in zones of its own: of the pod as a whole, or of each container."""
    if pod.aligned is None:
        return []
    told = {name for zone in zones.zones for name in zone.allocatable if node.allocatable[name] > 0}
    asked = [pod.aligned.whole] if zones.per_pod else pod.aligned.containers
    parts = [Resources({name: part[name] for name in part if name in told}) for part in asked]
    return [part for part in parts if part]


def _masks(zones: Zones, part: Resources) -> list[Mask]:
    """The sets of zones that a kubelet would give to the part if all of them were empty, the smallest possible: for
    every amount the same number of zones."""
    numbers = range(len(zones.zones))
    for width in range(1, 2 if zones.single else len(zones.zones) + 1):
        enough = {
            name: [
                mask
                for mask in combinations(numbers, width)
                if sum(zones.zones[number].allocatable[name] for number in mask) >= part[name]
            ]
            for name in part
        }
        if any(enough.values()):
            return [mask for mask in combinations(numbers, width) if all(mask in masks for masks in enough.values())]
    return []


def _any_way(free: Sequence[Resources], parts: Sequence[Resources], choices: Sequence[Sequence[Mask]]) -> bool:
    """Whether each part can have one of its sets of zones, so that no set of zones has to give more than it has."""
    order = sorted(range(len(parts)), key=lambda n: (len(choices[n]), sorted(parts[n].amounts.items())))
    looks = 0

    def go(at: int, chosen: list[tuple[Mask, Resources]]) -> bool:
        nonlocal looks
        looks += 1
        if looks > LOOKS:
            return True
        if not _carried(free, chosen):
            return False
        if at == len(order):
            return True
        part = parts[order[at]]
        return any(go(at + 1, [*chosen, (mask, part)]) for mask in choices[order[at]])

    return go(0, [])


def _carried(free: Sequence[Resources], chosen: Sequence[tuple[Mask, Resources]]) -> bool:
    """For every set of zones: what can be had only there is no more than is free there."""
    asked = {mask for mask, _ in chosen}
    unions = {tuple(sorted({*one, *other})) for one in asked for other in asked}
    for union in sorted(unions):
        wanted = total(part for mask, part in chosen if set(mask) <= set(union))
        there = total(free[number] for number in union)
        if any(wanted[name] > there[name] for name in wanted):
            return False
    return True
