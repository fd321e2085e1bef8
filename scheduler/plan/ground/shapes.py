"""Equal wants: what pods ask of a node, without who they are. Equal pods have one shape, and are counted.

Pods that share a claim without devices, or a volume for one node, go to one node together: a bundle. What extended
resources ask (KEP 5004) depends on the node: a device plugin serves them there, or a claim made for the pod does.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from queues.resources import Resources, total
from scheduler.api import attributes
from scheduler.api.core import NodeSelector
from scheduler.api.dra import AllocationResult, DeviceClass
from scheduler.dra.allocate import ask_shape
from scheduler.dra.caches import PerObject
from scheduler.dra.extended import ExtendedClaim, class_of, classes_by_resource, extended_claim
from scheduler.model.nodes import Node
from scheduler.model.volumes import Storage
from scheduler.model.workloads import Claim, HostPort, Pod
from scheduler.plan.ground.fit import Need
from scheduler.plan.ground.neighbours import ALONE, Neighbours
from scheduler.plan.ground.shelves import NO_WISH, Wish
from scheduler.plan.ground.volumes import Volumes

MADE_CLAIM = "extended-resources"
"""How a pod calls the claim that is made for its extended resources."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bundle:
    """Pods that are placed together on one node; mostly one. `asks`: their claims without devices, each once."""

    pods: tuple[Pod, ...]
    asks: tuple[Claim, ...]
    shape: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """A claim to be allocated, and the first pod that consumes it. `made`: it does not exist yet."""

    claim: Claim
    pod: Pod
    made: ExtendedClaim | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Demand:
    """What a bundle takes of a node: amounts and ports of all its pods, and devices for these claims. `kind`: equal for
    demands that ask for the same devices, 0 for none. `wish`: what its volumes take."""

    requests: Resources
    ports: tuple[HostPort, ...]
    asks: tuple[Asked, ...]
    kind: int
    wish: Wish = NO_WISH


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shape:
    """What every bundle of this shape wants. `needs`: one per pod, of which only what lasts is meant.

    `manners`: of its pods, towards others (`neighbours`). `labels`: node labels that its rules look at; `named`: they
    look at the node's name. `served`: its extended resources that a device class serves. `tastes`: whether it prefers
    some nodes to others. `choosy`: whether it has a list of alternatives, the best first, for some of its devices.
    `devices`: how many devices it asks for, at a guess, for taking the hard ones first."""

    number: int
    sample: Bundle
    manners: tuple[int, ...]
    needs: tuple[Need, ...]
    labels: tuple[str, ...]
    named: bool
    served: tuple[str, ...]
    tastes: bool
    choosy: bool
    devices: int
    demands: dict[frozenset[str], Demand] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Pods in a bundle of this shape."""
        return len(self.sample.pods)


class Shapes:
    """The shapes met while a plan is made, numbered in order of appearance."""

    def __init__(
        self,
        claims: Mapping[str, Claim],
        classes: Mapping[str, DeviceClass],
        held: Callable[[str], AllocationResult | None],
        neighbours: Neighbours | None = None,
        volumes: Volumes | None = None,
    ) -> None:
        """`held`: what a claim (key) holds now, by this plan or before. `neighbours`, `volumes`: of all
        pods that may be asked."""
        self._claims = claims
        self._neighbours = neighbours if neighbours is not None else Neighbours({}, {})
        self._volumes = volumes if volumes is not None else Volumes({}, Storage())
        self._narrowed: Mapping[str, Claim] = {}
        self._classes = classes
        self._held = held
        self._serving = classes_by_resource(classes)
        self._numbers: dict[Hashable, int] = {}
        self._shapes: list[Shape] = []
        self._kinds: dict[Hashable, int] = {(): 0}

    def __getitem__(self, number: int) -> Shape:
        return self._shapes[number]

    def bundles(self, pods: Sequence[Pod]) -> tuple[Bundle, ...]:
        """The pods in bundles, in the order of their first pods. All their claims must exist."""
        return tuple(self._bundle(group) for group in self._groups(pods))

    def narrow(self, claims: Mapping[str, Claim]) -> None:
        """Bundles made from now on ask for these claims (by key) as they are here, and for all others as they are."""
        self._narrowed = claims

    @property
    def narrowed(self) -> bool:
        """Whether some claims are asked for as `narrow` said last."""
        return bool(self._narrowed)

    def links(self, pod: Pod) -> bool:
        """Whether the pod may be in one bundle with others: it names a claim without devices that is not its own, or
        a volume for one node."""
        if self._volumes.ties(pod):
            return True
        return any(e.claim and not e.from_template and self._held(e.claim) is None for e in pod.claims)

    def part(self, bundle: Bundle, pods: int) -> Bundle:
        """The first so many pods of the bundle."""
        return self._bundle(bundle.pods[:pods]) if pods < len(bundle.pods) else bundle

    def company(self, shapes: Iterable[int]) -> tuple[str, ...]:
        """Node labels in whose domains bundles of these shapes need company, sorted."""
        manners = {manner for shape in shapes for manner in self._shapes[shape].manners}
        return tuple(sorted({key for manner in manners for key in self._neighbours.keys(manner)}))

    def sociable(self, shapes: Iterable[int]) -> bool:
        """Whether pods of these shapes have rules about others, or others about them."""
        return any(manner != ALONE for shape in shapes for manner in self._shapes[shape].manners)

    def interchangeable(self, pods: Sequence[Pod]) -> bool:
        """Whether it makes no difference which of the pods are placed: they want the same, and the same claims."""
        claims = claims_of(pods[0])
        first = self._identity(pods[0])
        wish = self._volumes.wish([pods[0]])
        return all(
            claims_of(pod) == claims and self._identity(pod) == first and self._volumes.wish([pod]) == wish
            for pod in pods
        )

    def demand(self, number: int, node: Node) -> Demand:
        """What a bundle of this shape takes of the node."""
        shape = self._shapes[number]
        via = self._by_claim(shape.served, node)
        known = shape.demands.get(via)
        if known is None:
            known = shape.demands[via] = self._demand(shape.sample, via, node)
        return known

    def demand_of(self, bundle: Bundle, node: Node) -> Demand:
        """What this very bundle takes of the node: amounts as its shape, and its own claims."""
        like = self.demand(bundle.shape, node)
        if not like.asks:
            return like
        via = self._by_claim(self._shapes[bundle.shape].served, node)
        return replace(like, asks=self._asks(bundle, via, node))

    def served(self, pod: Pod) -> tuple[str, ...]:
        """The pod's extended resources that a device class serves, sorted."""
        names = sorted({name for container in pod.extended for name in container.requests})
        return tuple(name for name in names if self.serving(name) is not None)

    def serving(self, resource: str) -> str | None:
        """The device class that serves an extended resource, None if none does."""
        return class_of(resource, self._classes, self._serving)

    def requests(self, pod: Pod, node: Node) -> Resources:
        """What the pod takes of the node's own amounts there: without what a claim serves."""
        via = self._by_claim(self.served(pod), node) if pod.extended else frozenset()
        return _without(pod.requests, via)

    def extended(self, pod: Pod, node: Node | None = None) -> ExtendedClaim | None:
        """The claim to be made for the pod's extended resources; without a node: where no device plugin is."""
        if not pod.extended or self._served_already(pod):
            return None
        return extended_claim(pod, self._classes, self._serving, node)

    def _identity(self, pod: Pod) -> Hashable:
        """All of a pod that decides where it may stand, but its claims."""
        return _lasting(pod), self._neighbours.manner(pod)

    def _served_already(self, pod: Pod) -> bool:
        return bool(pod.extended_claim) and self._held(pod.extended_claim) is not None

    def _ties(self, pod: Pod) -> list[str]:
        """Volumes for one node, named as no ResourceClaim is."""
        return [f"PersistentVolumeClaim/{claim}" for claim in self._volumes.ties(pod)]

    def _groups(self, pods: Sequence[Pod]) -> list[list[Pod]]:
        """Pods linked by claims that have no devices or by volumes, each group in order; most are alone."""
        group_of: dict[str, list[Pod]] = {}
        groups: list[list[Pod]] = []
        for pod in pods:
            shared = [entry.claim for entry in pod.claims if entry.claim and entry.needed and not entry.from_template]
            others: dict[int, list[Pod]] = {}
            for key in (*(key for key in shared if self._held(key) is None), *self._ties(pod)):
                other = group_of.get(key)
                if other is not None:
                    others[id(other)] = other  # several keys may lead to one group
            if others:
                groups = [group for group in groups if id(group) not in others]
            linked = [*(member for other in others.values() for member in other), pod]
            groups.append(linked)
            for member in linked if len(linked) > 1 else (pod,):
                for entry in member.claims:
                    if entry.claim and not entry.from_template:
                        group_of[entry.claim] = linked
                group_of.update(dict.fromkeys(self._ties(member), linked))
        first = {pod.key: number for number, pod in enumerate(pods)}
        return sorted((sorted(g, key=lambda p: first[p.key]) for g in groups), key=lambda g: first[g[0].key])

    def _bundle(self, pods: Sequence[Pod]) -> Bundle:
        asks: dict[str, Claim] = {}
        parts: list[Hashable] = []
        for pod in pods:
            entries: list[Hashable] = []
            for key in claims_of(pod):
                held = self._held(key)
                if held is None and key == pod.extended_claim:
                    continue  # gone, or without devices: another one is made
                if held is None:
                    claim = asks.setdefault(key, self._narrowed.get(key) or self._claims[key])
                    entries.append((list(asks).index(key), ask_shape(claim)))
                else:
                    entries.append(held.node_selector)
            parts.append((self._identity(pod), tuple(entries), self._served_already(pod)))
        number = self._numbers.setdefault((*parts, self._volumes.wish(pods)), len(self._shapes))
        bundle = Bundle(pods=tuple(pods), asks=tuple(asks.values()), shape=number)
        if number == len(self._shapes):
            self._shapes.append(self._shape(bundle))
        return bundle

    def _shape(self, bundle: Bundle) -> Shape:
        wish = self._volumes.wish(bundle.pods)
        needs = tuple(
            Need(
                pod=pod,
                requests=pod.requests,
                held={key: held for key in claims_of(pod) if (held := self._held(key)) is not None},
                where=wish.where,
            )
            for pod in bundle.pods
        )
        labels, named = _looked_at(needs)
        return Shape(
            number=bundle.shape,
            sample=bundle,
            manners=tuple(map(self._neighbours.manner, bundle.pods)),
            needs=needs,
            labels=labels,
            named=named,
            served=tuple(sorted({name for pod in bundle.pods for name in self.served(pod)})),
            tastes=any(pod.preferred_affinity for pod in bundle.pods),
            choosy=any(r.first_available for claim in bundle.asks for r in claim.spec.devices.requests or ()),
            devices=_devices(bundle),
        )

    def _by_claim(self, served: Sequence[str], node: Node) -> frozenset[str]:
        """Those of the resources that a claim serves on this node, because no device plugin does."""
        return frozenset(name for name in served if not node.allocatable[name]) if served else frozenset()

    def _demand(self, bundle: Bundle, via: frozenset[str], node: Node) -> Demand:
        asks = self._asks(bundle, via, node)
        return Demand(
            requests=_without(total(pod.requests for pod in bundle.pods), via),
            ports=tuple(port for pod in bundle.pods for port in pod.host_ports),
            asks=asks,
            kind=self._kinds.setdefault(tuple(ask_shape(ask.claim) for ask in asks), len(self._kinds)),
            wish=self._volumes.wish(bundle.pods),
        )

    def _asks(self, bundle: Bundle, via: frozenset[str], node: Node) -> tuple[Asked, ...]:
        consumer: dict[str, Pod] = {}
        for pod in bundle.pods:
            for key in claims_of(pod):
                consumer.setdefault(key, pod)
        asks = [Asked(claim=claim, pod=consumer[claim.key]) for claim in bundle.asks]
        for pod in bundle.pods if via else ():
            made = self.extended(pod, node)
            if made is not None:
                claim = Claim(
                    key=f"{pod.key}-{MADE_CLAIM}", uid=f"{pod.uid}-{MADE_CLAIM}", spec=made.spec, avoids=pod.avoids
                )
                asks.append(Asked(claim=claim, pod=pod, made=made))
        return tuple(asks)


def claims_of(pod: Pod) -> list[str]:
    """Keys of the claims that the pod consumes, the one for its extended resources included once it exists."""
    keys = [entry.claim for entry in pod.claims if entry.claim is not None and entry.needed]
    return [*keys, pod.extended_claim] if pod.extended_claim else keys


def _devices(bundle: Bundle) -> int:
    plugin = sum(pod.requests[attributes.GPU_RESOURCE] for pod in bundle.pods)
    requests = [request for claim in bundle.asks for request in claim.spec.devices.requests or ()]
    firsts = [request.exactly or (request.first_available or (None,))[0] for request in requests]
    return plugin + sum(first.count or 1 for first in firsts if first is not None)


def _without(amounts: Resources, names: frozenset[str]) -> Resources:
    return Resources({n: a for n, a in amounts.amounts.items() if n not in names}) if names else amounts


@PerObject
def _lasting(pod: Pod) -> Hashable:
    """All of a pod that decides where it fits, but its claims."""
    return (
        frozenset(pod.requests.amounts.items()),
        frozenset(pod.node_selector.items()),
        pod.required_affinity,
        pod.preferred_affinity,
        pod.tolerations,
        pod.host_ports,
        tuple((c.index, c.init, c.sidecar, tuple(sorted(c.requests.items()))) for c in pod.extended),
        pod.avoids,
        pod.aligned,
    )


def _looked_at(needs: Sequence[Need]) -> tuple[tuple[str, ...], bool]:
    """Node labels that the lasting rules of these needs look at, and whether they look at the node's name."""
    labels: set[str] = set()
    named = False
    for need in needs:
        labels.update(need.pod.node_selector)
        terms = [term.preference for term in need.pod.preferred_affinity]
        selectors: list[NodeSelector | None] = [need.pod.required_affinity]
        selectors += [allocation.node_selector for allocation in need.held.values()]
        selectors += [each.selector for each in need.where]
        for selector in selectors:
            terms += selector.node_selector_terms if selector else ()
        for term in terms:
            labels.update(requirement.key for requirement in term.match_expressions or ())
            named = named or bool(term.match_fields)
    return tuple(sorted(labels)), named
