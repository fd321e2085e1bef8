"""What a gang still wants: the minimum it starts with, whole, and then what it may grow by, piece by piece.

The sub-group tree: a leaf is satisfied with its minimum of pods on nodes, an inner group with its minimum of satisfied
children. Pods on nodes already count, and tie the rest to their topology domain. Source: KAI docs (sub-groups, elastic
workloads); native gang API (minCount).
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from scheduler.api.dra import MOST_CONSUMERS
from scheduler.model.reasons import (
    Reason,
    TopologyUnusable,
    WaitingForClaims,
    WaitingForPods,
    WaitingForVolumes,
)
from scheduler.model.volumes import Storage
from scheduler.model.workloads import Claim, Gang, Pod, PodClaim, TopologyConstraint
from scheduler.plan.ground.cliques import ComputeDomains
from scheduler.plan.ground.shapes import Bundle, Shapes, claims_of
from scheduler.plan.ground.topology import Domains, Ladder
from scheduler.plan.ground.volumes import Volumes
from scheduler.plan.pieces import Wanted
from scheduler.plan.ties import tied
from scheduler.solver.problem import Group, Unit

_NO_CLAIM = "Create it in the pod's namespace, or correct spec.resourceClaims of the pod."
_NO_TEMPLATE = (
    "Kubernetes makes it within seconds; if not, the pod's events say why: mostly the ResourceClaimTemplate that the "
    "pod names is missing in its namespace or misspelt."
)
_NO_CLAIM_OF_ITS_OWN = (
    "Kubernetes makes every pod a claim of its own from the template; if this stays, delete the pod, so that its "
    "controller makes another."
)
_LEAVING_CLAIM = "Create it again once it is gone: pods that still use it may keep it until they end."
_GIVEN_UP_CLAIM = "Wait until the claim controller has released it; it gets devices anew then."
_CROWDED_CLAIM = "Wait until pods that use it end, or let some of them name another claim."


@dataclass(slots=True, kw_only=True)
class _Node:
    """A group of the tree with its pods: on nodes (`there`, by key the node), and those that may be placed (`waiting`,
    by key). `upcoming`: of these the ones that growth still has to look at; None for all of them."""

    name: str
    minimum: int | None
    topology: TopologyConstraint | None
    children: list["_Node"] = field(default_factory=list)
    there: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, Pod] = field(default_factory=dict)
    upcoming: dict[str, Pod] | None = None
    gated: int = 0
    troubles: list[WaitingForClaims | WaitingForVolumes] = field(default_factory=list)

    @property
    def present(self) -> int:
        return len(self.there) + len(self.waiting) + len(self.troubles) + self.gated

    @property
    def started(self) -> bool:
        """Whether pods of it or of any group below are on nodes."""
        return bool(self.there) or any(child.started for child in self.children)

    def nodes(self) -> frozenset[str]:
        """Nodes that hold pods of it or of any group below."""
        return frozenset(self.there.values()).union(*(child.nodes() for child in self.children))


class Wants:
    """One gang's wants while a plan is made."""

    def __init__(
        self,
        gang: Gang,
        claims: Mapping[str, Claim],
        consumers: Callable[[str], frozenset[str]],
        shapes: Shapes,
        domains: Domains,
        volumes: Volumes | None = None,
        given_up: Container[str] = (),
        compute_domains: ComputeDomains | None = None,
    ) -> None:
        """`consumers`: uids of the pods that a claim (key) is reserved for. `given_up`: claims (key) that nobody may
        join any more."""
        self._compute_domains = compute_domains if compute_domains is not None else ComputeDomains()
        self._given_up = given_up
        self.gang = gang
        self._claims = claims
        self._consumers = consumers
        self._volumes = volumes if volumes is not None else Volumes({}, Storage())
        self._joining: dict[str, set[str]] = {}
        self._alone: dict[str, str] = {}
        self._shapes = shapes
        self._domains = domains
        self._root, self._leaves = _tree(gang)
        self._leaf_of: dict[str, _Node] = {}
        self._failed: set[tuple[str, int]] = set()
        self.left_out: frozenset[str] = frozenset()
        """Pods (key) that the minimum is not to be made of."""
        self._sort_in(gang.pods)

    @property
    def needed(self) -> int:
        """Pods that the gang needs to have started."""
        return _needed(self._root)

    @property
    def bound(self) -> int:
        """Pods on nodes, this plan's included."""
        return sum(len(leaf.there) for leaf in self._leaves.values())

    def minimum(self) -> Wanted | Reason | None:
        """What is missing of the minimum; why it cannot be asked for yet; None if nothing is missing."""
        bundles: dict[tuple[str, int], list[Bundle]] = {}
        group = self._need(self._root, bundles)
        return self._piece(group, bundles) if isinstance(group, Group) else group

    def growth(self) -> Wanted | None:
        """The next piece beyond the minimum that has not been refused: one bundle, or an optional group's minimum."""
        bundles: dict[tuple[str, int], list[Bundle]] = {}
        group = self._grow(self._root, bundles)
        piece = None if group is None else self._piece(group, bundles)
        return piece if isinstance(piece, Wanted) else None

    def _piece(self, group: Group, bundles: Mapping[tuple[str, int], Iterable[Bundle]]) -> Wanted | Reason:
        piece = Wanted(group=group, bundles={key: tuple(each) for key, each in bundles.items()})
        return tied(piece, self.gang.key, self._domains, self._compute_domains)

    def settle(self, pod: Pod, node: str) -> None:
        """The pod has a place now."""
        leaf = self._leaf_of[pod.key]
        leaf.waiting.pop(pod.key, None)
        if leaf.upcoming is not None:
            leaf.upcoming.pop(pod.key, None)
        leaf.there[pod.key] = node
        self._compute_domains.settle(pod, node)

    def fail(self, wanted: Wanted) -> None:
        """This piece of growth found no room; nothing like it is asked for again in this plan."""
        for (_, shape), bundles in wanted.bundles.items():
            self._failed.update((self._leaf_of[bundle.pods[0].key].name, shape) for bundle in bundles[:1])

    @property
    def waiting(self) -> int:
        """Pods that could be placed and have no place."""
        return sum(len(leaf.waiting) for leaf in self._leaves.values())

    def waiting_pods(self) -> Iterator[tuple[Pod, ...]]:
        """The same, leaf by leaf."""
        for leaf in self._leaves.values():
            if leaf.waiting:
                yield tuple(leaf.waiting.values())

    def recount(self) -> None:
        """Judge the claims of waiting pods anew: others may have come to consume them since."""
        self._joining.clear()
        self._alone.clear()
        for leaf in self._leaves.values():
            waiting, leaf.waiting, leaf.upcoming = leaf.waiting, {}, None
            for pod in waiting.values():
                self._line_up(pod, leaf)

    def _sort_in(self, pods: Iterable[Pod]) -> None:
        for pod in sorted(pods, key=lambda p: (-p.task_priority, p.created_ms, p.key)):
            leaf = self._leaves.get(pod.sub_group if self.gang.sub_groups else "")
            if leaf is None or pod.terminating or pod.done:
                continue
            self._leaf_of[pod.key] = leaf
            if pod.node:
                leaf.there[pod.key] = pod.node
            elif pod.gated:
                leaf.gated += 1
            else:
                self._line_up(pod, leaf)

    def _line_up(self, pod: Pod, leaf: _Node) -> None:
        trouble = self._claim_trouble(pod) or self._volumes.trouble(pod, self._alone)
        if trouble is None:
            self._alone.update(dict.fromkeys(self._volumes.exclusive(pod), pod.key))
            leaf.waiting[pod.key] = pod
        else:
            leaf.troubles.append(trouble)

    def _claim_trouble(self, pod: Pod) -> WaitingForClaims | None:
        """The first of the pod's claims that it cannot use yet."""
        for entry in pod.claims:
            if not entry.needed:
                continue
            if trouble := self._trouble_with(pod, entry):
                problem, remedy = trouble
                return WaitingForClaims(pod=pod.key, claim=entry.claim or entry.name, problem=problem, remedy=remedy)
        for key in claims_of(pod):
            self._joining.setdefault(key, set()).add(pod.uid)
        return None

    def _trouble_with(self, pod: Pod, entry: PodClaim) -> tuple[str, str] | None:
        """What is the matter with the claim of this entry, and what helps; None if the pod can use it."""
        if entry.claim is None:
            return "has not been made from its template yet", _NO_TEMPLATE
        claim = self._claims.get(entry.claim)
        if claim is None:
            return "does not exist", _NO_CLAIM_OF_ITS_OWN if entry.from_template else _NO_CLAIM
        if claim.terminating:
            return "is being deleted", _NO_CLAIM_OF_ITS_OWN if entry.from_template else _LEAVING_CLAIM
        if entry.from_template and claim.owner_uid != pod.uid:
            return "belongs to another pod", _NO_CLAIM_OF_ITS_OWN
        consumers = self._consumers(claim.key)
        if claim.key in self._given_up and pod.uid not in consumers:
            return "is being released, and what it holds is promised to others", _GIVEN_UP_CLAIM
        if pod.uid not in consumers and len(consumers | self._joining.get(claim.key, set())) >= MOST_CONSUMERS:
            return f"is wanted by more than {MOST_CONSUMERS} pods, and a claim cannot serve more", _CROWDED_CLAIM
        return None

    def _need(self, node: _Node, bundles: dict[tuple[str, int], list[Bundle]]) -> Group | Reason | None:
        """What the group lacks, why that cannot be asked for, or None if it lacks nothing."""
        ladder = self._ladder(node)
        if not isinstance(ladder, Ladder):
            return ladder
        if not node.children:
            return self._leaf_need(node, ladder, bundles)
        minimum = len(node.children) if node.minimum is None else node.minimum
        states: list[Group] = []
        problems: list[Reason] = []
        for child in sorted(node.children, key=lambda c: (not c.started, c.name)):
            state = self._need(child, bundles)
            if state is None:
                minimum -= 1
            elif isinstance(state, Group):
                states.append(state)
            else:
                problems.append(state)
        if minimum <= 0:
            return None
        if len(states) < minimum:
            return problems[0] if problems else _too_few_groups(self.gang, node, minimum)
        return self._group(node, ladder, minimum, children=tuple(states))

    def _leaf_need(
        self, node: _Node, ladder: Ladder, bundles: dict[tuple[str, int], list[Bundle]]
    ) -> Group | Reason | None:
        minimum = node.present if node.minimum is None else node.minimum
        lacking = minimum - len(node.there)
        if lacking <= 0:
            return None
        waiting = [pod for key, pod in node.waiting.items() if key not in self.left_out]
        if len(waiting) < lacking:
            if node.troubles and len(waiting) + len(node.troubles) >= lacking:
                return node.troubles[0]
            return WaitingForPods(
                gang=self.gang.key,
                needed=minimum,
                present=node.present,
                gated=node.gated,
                sub_group=node.name,
            )
        made = self._shapes.bundles(waiting)
        for bundle in made:
            bundles.setdefault((node.name, bundle.shape), []).append(bundle)
        units = tuple(Unit(shape=bundle.shape, pods=len(bundle.pods)) for bundle in made)
        return self._group(node, ladder, lacking, units=units)

    def _grow(self, node: _Node, bundles: dict[tuple[str, int], list[Bundle]]) -> Group | None:
        ladder = self._ladder(node)
        if not isinstance(ladder, Ladder):
            return None
        if not node.children:
            bundle = self._next_bundle(node)
            if bundle is None:
                return None
            bundles[node.name, bundle.shape] = [bundle]
            unit = Unit(shape=bundle.shape, pods=len(bundle.pods))
            return self._group(node, ladder, 1, units=(unit,))
        for child in sorted(node.children, key=_growth_key):
            own: dict[tuple[str, int], list[Bundle]] = {}
            state = self._need(child, own)
            if state is None:
                own.clear()
                state = self._grow(child, own)
            elif self._failed.intersection(own):
                continue
            if isinstance(state, Group):
                bundles.update(own)
                return self._group(node, ladder, 1, children=(state,))
        return None

    def _next_bundle(self, leaf: _Node) -> Bundle | None:
        """The first bundle of the leaf's pods whose like has not failed. Pods that share nothing are not looked at
        again once their like has."""
        if leaf.upcoming is None:
            leaf.upcoming = dict(leaf.waiting)
        failed: list[str] = []
        linked: dict[str, Bundle] | None = None
        found: Bundle | None = None
        for key, pod in leaf.upcoming.items():
            alone = not self._shapes.links(pod)
            if alone:
                (bundle,) = self._shapes.bundles([pod])
            else:
                linked = self._linked(leaf) if linked is None else linked
                bundle = linked[key]
            if (leaf.name, bundle.shape) not in self._failed:
                found = bundle
                break
            if alone and not self._shapes.narrowed:
                failed.append(key)
        for key in failed:
            del leaf.upcoming[key]
        return found

    def _linked(self, leaf: _Node) -> dict[str, Bundle]:
        """The bundles of the leaf's pods that may share claims, by pod."""
        pods = [pod for pod in leaf.waiting.values() if self._shapes.links(pod)]
        return {pod.key: bundle for bundle in self._shapes.bundles(pods) for pod in bundle.pods}

    def _group(
        self,
        node: _Node,
        ladder: Ladder,
        minimum: int,
        units: tuple[Unit, ...] = (),
        children: tuple[Group, ...] = (),
    ) -> Group:
        company = tuple(("", key) for key in self._shapes.company({unit.shape for unit in units}))
        near = node.nodes() if ladder.steps or company else frozenset()
        pinned = ""
        if ladder.required is not None and near:
            pinned = self._domains.of(ladder.required)[min(near)]
        return Group(
            name=node.name,
            minimum=minimum,
            units=units,
            children=children,
            steps=ladder.steps,
            required=ladder.required,
            pinned=pinned,
            near=near,
            company=company,
        )

    def _ladder(self, node: _Node) -> Ladder | TopologyUnusable:
        """The levels that the group stays in, or why it cannot: also because its pods are apart already."""
        ladder = self._domains.ladder(node.topology, self.gang.key)
        if isinstance(ladder, Ladder) and ladder.required is not None:
            of = self._domains.of(ladder.required)
            domains = sorted({of.get(name, "") for name in node.nodes()})
            if len(domains) > 1 or domains == [""]:
                what = ", ".join(name or "outside of all domains" for name in domains)
                return TopologyUnusable(
                    gang=self.gang.key,
                    topology=ladder.required[0],
                    problem=f"cannot hold its pods together at level {ladder.required[1]}: some run in {what}",
                )
        return ladder


def _tree(gang: Gang) -> tuple[_Node, dict[str, _Node]]:
    """The gang as a tree, and its leaves by name. Without sub-groups the root is the only leaf, called ""."""
    minimum = gang.min_sub_group if gang.sub_groups else least_pods(gang)
    root = _Node(name="", minimum=minimum, topology=gang.topology)
    made = {"": root}
    for sub in sorted(gang.sub_groups, key=lambda s: s.name):
        made[sub.name] = _Node(name=sub.name, minimum=None, topology=sub.topology)
    for sub in sorted(gang.sub_groups, key=lambda s: s.name):
        parent = made[sub.parent or ""]
        parent.children.append(made[sub.name])
    leaves = {}
    for sub in gang.sub_groups:
        node = made[sub.name]
        node.minimum = sub.min_sub_group if node.children else sub.min_member
        if not node.children:
            leaves[sub.name] = node
    return root, leaves or {"": root}


def least_pods(gang: Gang) -> int:
    """How many pods the gang needs on nodes, if it has no sub-groups.

    Pods that succeeded count while others of the same run are on nodes. With none there the gang starts anew and needs
    its whole minimum, unless it has too few pods left for that: then this is the rest of a run."""
    left = [pod for pod in gang.pods if not pod.terminating and not pod.done]
    anew = not any(pod.node for pod in left) and len(left) >= gang.min_member
    return gang.min_member if anew else max(gang.min_member - gang.succeeded, 0)


def _needed(node: _Node) -> int:
    """The fewest pods on nodes with which the group is satisfied."""
    if not node.children:
        return node.present if node.minimum is None else node.minimum
    each = sorted(map(_needed, node.children))
    return sum(each if node.minimum is None else each[: node.minimum])


def _growth_key(node: _Node) -> tuple[bool, bool, Fraction, str]:
    """Who of its siblings grows first: who is below its minimum, who has started, who is the least beyond it."""
    have, least = _progress(node)
    return have >= least, not node.started, Fraction(have, max(least, 1)), node.name


def _progress(node: _Node) -> tuple[int, int]:
    """How many pods, or satisfied children, the group has, and its minimum."""
    if not node.children:
        return len(node.there), node.present if node.minimum is None else node.minimum
    have = sum(1 for child in node.children if _progress(child)[0] >= _progress(child)[1])
    return have, len(node.children) if node.minimum is None else node.minimum


def _too_few_groups(gang: Gang, node: _Node, missing: int) -> WaitingForPods:
    return WaitingForPods(gang=gang.key, needed=missing, present=0, sub_group=node.name)
