"""What lies on the desk while a plan is made: the snapshot, what is derived from it, and what was decided so far."""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from queues import fair_share
from queues.fair_share import FairShares
from queues.limits import may_start
from queues.reasons import NoQueueNamed
from queues.reclaim import contested
from queues.resources import NOTHING, Resources, total
from queues.tree import Queue, QueueTree
from queues.usage import Usage
from scheduler.dra import measures, requests
from scheduler.dra.extended import classes_by_resource, extended_claim
from scheduler.dra.pools import Inventory
from scheduler.model.endings import has_run_out
from scheduler.model.plan import Eviction, GangDecision, Promise, SolverReport
from scheduler.model.reasons import NodeCount, Reason, Scattered
from scheduler.model.snapshot import Snapshot
from scheduler.model.workloads import Claim, ContainerAsk, Gang, Pod
from scheduler.plan.caps import Caps
from scheduler.plan.ground.accounts import Accounts, counted_classes, pool
from scheduler.plan.ground.causes import causes
from scheduler.plan.ground.cliques import ComputeDomains
from scheduler.plan.ground.ledger import Grant, Ledger
from scheduler.plan.ground.neighbours import Guests, Neighbours
from scheduler.plan.ground.rooms import Patience, Rooms
from scheduler.plan.ground.scatter import scattered
from scheduler.plan.ground.shapes import Bundle, Shapes
from scheduler.plan.ground.topology import Domains
from scheduler.plan.ground.volumes import Volumes
from scheduler.plan.pieces import Wanted
from scheduler.plan.rest import at_rest
from scheduler.plan.wants import Wants
from scheduler.solver.greedy import Short
from scheduler.solver.problem import Group, Move

SEARCHES = 4
"""A plan may search as long as so many joint placements take."""

LOOKS = 40_000
"""So many sets of victims may be looked at for a plan (measured: 30 to 100 us each)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A piece of a gang with the seats found for it, and what its pods are granted there. `fixed`: it stands on more
    than its own seats, and cannot be moved by them."""

    piece: Wanted
    moves: tuple[Move, ...]
    grants: tuple[Grant, ...]
    fixed: bool = False


@dataclass(slots=True, kw_only=True)
class Reservation:
    """Room that a gang will have, and that those behind it leave to it. `starts_at_ms`: by when; None: when enough of
    those have ended who run on these nodes, if that is before `until_ms`. `waits_for`: the gang (key) that ends last
    before it. `grants`: what its pods get then. `blocked`: the part of it that is in nobody's use now, kept from others
    in the ledger. `gone`: by node, what they give back who have left by then. `relief`: by queue, what is no longer
    paid then."""

    gang: Gang
    piece: Wanted
    grants: tuple[Grant, ...]
    starts_at_ms: int | None = None
    until_ms: int | None = None
    waits_for: str = ""
    blocked: tuple[Grant, ...] = ()
    gone: dict[str, Resources] = field(default_factory=dict)
    relief: dict[str, Resources] = field(default_factory=dict)

    @property
    def nodes(self) -> frozenset[str]:
        return frozenset(grant.node for grant in self.grants)


@dataclass(slots=True, kw_only=True)
class Desk:
    """The stages read and extend it in turn. By gang (key): `wants` of those that may get pods placed, `order` in which
    they were served, `placed` what was placed so far, `waiting` the minimum that found no place, `growing` the first
    piece beyond it that did not, `reasons` why, `solved` what a search said.

    `fruitless`: questions that found no room, with the answer: nothing becomes free while gangs are placed, so the same
    question fails again. `search_seconds`: deterministic time that searches may still take. `granting`: how long one
    may look for the devices of seats that have been found; apart from the patience of the rooms that find seats, so
    that the last ones found can still be given.

    `gang_of`: by pod (key). `paid`: by gang, the claims that its pods placed by this plan consume.

    `promised`: by gang, places that it gets when others have left; `promised_devices` (driver, pool, name): what they
    are of. `given_up`: claims (key) that nobody may join any more, or what they hold would never be free. `evictions`:
    of those who have to leave; `leaving`: the same pods (key). `outlook`: what queues are charged more, or less, in the
    ledger than is true before all of them have left. `ahead`: whether the ledger is as it will be then. `aside`: by
    gang, what is left of a promise that did not hold, kept for whom others may make way still, or is reserved.

    `caps`: how many pods may still be stopped, known once somebody is to be. `looks`: how many sets of victims may
    still be looked at.

    `pool`: what queues divide, `contested` the resources of which some could use more. `payers`: by the queue that
    gangs name, the one that is charged, if any.

    `resting`: what is decided for gangs that want nothing (`at_rest`); of these nothing else is laid on the desk."""

    snapshot: Snapshot
    tree: QueueTree
    queue_of: dict[str, str]
    inventory: Inventory
    domains: Domains
    shapes: Shapes
    ledger: Ledger
    rooms: Rooms
    accounts: Accounts
    granting: Patience
    fair_shares: FairShares = field(default_factory=dict)
    requested: dict[str, Resources] = field(default_factory=dict)
    contested: frozenset[str] = frozenset()
    wants: dict[str, Wants] = field(default_factory=dict)
    resting: dict[str, GangDecision] = field(default_factory=dict)
    placed: dict[str, list[Placed]] = field(default_factory=dict)
    waiting: dict[str, Wanted] = field(default_factory=dict)
    growing: dict[str, Wanted] = field(default_factory=dict)
    reasons: dict[str, Reason] = field(default_factory=dict)
    solved: dict[str, SolverReport] = field(default_factory=dict)
    fruitless: dict[Group, tuple[Short, SolverReport | None]] = field(default_factory=dict)
    search_seconds: float = 0.0
    looks: int = LOOKS
    order: dict[str, int] = field(default_factory=dict)
    gang_of: dict[str, str] = field(default_factory=dict)
    paid: dict[str, set[str]] = field(default_factory=dict)
    promised: dict[str, tuple[Promise, ...]] = field(default_factory=dict)
    promised_devices: set[tuple[str, str, str]] = field(default_factory=set)
    given_up: set[str] = field(default_factory=set)
    evictions: list[Eviction] = field(default_factory=list)
    leaving: set[str] = field(default_factory=set)
    outlook: list[tuple[str, Resources]] = field(default_factory=list)
    ahead: bool = False
    caps: Caps | None = None
    aside: dict[str, tuple[Grant, ...]] = field(default_factory=dict)
    reserved: dict[str, Reservation] = field(default_factory=dict)
    payers: dict[str, str | None] = field(default_factory=dict)
    pool: Resources = NOTHING
    bare: Rooms | None = None
    compute_domains: ComputeDomains = field(default_factory=ComputeDomains)
    counted: dict[tuple[object, ...], tuple[int, tuple[NodeCount, ...]]] = field(default_factory=dict)
    scatter: dict[tuple[int, tuple[str, ...]], tuple[int, Scattered | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, snapshot: Snapshot) -> "Desk":
        """The desk before anything is decided: running work counted, queues judged, shares divided."""
        policy = snapshot.policy
        tree = QueueTree.of(snapshot.queues)
        resting = _resting(snapshot, tree)
        inventory = Inventory.of(
            snapshot.slices,
            snapshot.classes,
            snapshot.taint_rules,
            fence_taint=policy.device_fence_taint,
            withdrawn=snapshot.withdrawn,
            avoided=_avoided(snapshot, resting),
        )
        neighbours = Neighbours(
            {node.name: node for node in snapshot.nodes},
            snapshot.namespaces,
            snapshot.pods,
            wanted=(pod for gang in snapshot.gangs if gang.key not in resting for pod in gang.pods),
        )
        volumes = Volumes(
            {node.name: node for node in snapshot.nodes},
            snapshot.storage,
            snapshot.pods,
            wanted=(pod for gang in snapshot.gangs if gang.key not in resting for pod in gang.pods),
        )
        ledger = Ledger.of(
            snapshot.nodes,
            inventory,
            pods=snapshot.pods,
            claims=snapshot.claims.values(),
            reads=requests.reads(_open_claims(snapshot, resting), inventory),
            neighbours=neighbours,
            volumes=volumes,
        )
        shapes = Shapes(snapshot.claims, snapshot.classes, ledger.held, neighbours, volumes)
        domains = Domains(snapshot.nodes, snapshot.topologies, inventory)
        desk = cls(
            snapshot=snapshot,
            tree=tree,
            queue_of={},
            resting=resting,
            inventory=inventory,
            domains=domains,
            shapes=shapes,
            ledger=ledger,
            rooms=Rooms(ledger, shapes, domains, policy),
            accounts=Accounts(snapshot.claims, inventory, shapes, measures.of_queues(snapshot.queues)),
            granting=Patience.of(policy),
            compute_domains=ComputeDomains(snapshot.claims, snapshot.pods, ledger.nodes),
            search_seconds=SEARCHES * policy.solver_deterministic_seconds,
        )
        desk.gang_of = {pod.key: gang.key for gang in snapshot.gangs if gang.key not in resting for pod in gang.pods}
        above = {
            q.name: q.parent for q in sorted(snapshot.queues, key=lambda q: (q.name, q.parent or ""), reverse=True)
        }
        named = {gang.queue for gang in snapshot.gangs}
        desk.payers = {name: desk._charged(name, above) for name in named}
        desk._charge_what_runs(desk.payers)
        for gang in snapshot.gangs:
            if gang.key not in resting:
                desk._open(gang)
        desk._divide()
        return desk

    def bare_rooms(self) -> Rooms:
        """The same nodes with nothing on them: what could never run here finds no room there either."""
        if self.bare is None:
            volumes = self.ledger.volumes.bare()
            ledger = Ledger.of(self.snapshot.nodes, self.inventory, reads=self.ledger.reads, volumes=volumes)
            self.bare = Rooms(ledger, self.shapes, self.domains, self.snapshot.policy, self.rooms.patience)
        return self.bare

    def causes(self, short: Short) -> tuple[NodeCount, ...]:
        """What rules out how many nodes for the next pod of those that are short; kept until something changes."""
        if isinstance(short.guests, Guests):
            return causes(self.rooms, short.shape, short.nodes, short.guests, short.seats)
        key, now = (short.shape, short.nodes, short.seats), len(self.ledger.changes)
        known = self.counted.get(key)
        if known is None or known[0] != now:
            found = causes(self.rooms, short.shape, short.nodes, self.rooms.guests(), short.seats)
            known = self.counted[key] = now, found
        return known[1]

    def scattered(self, shape: int, nodes: tuple[str, ...]) -> Scattered | None:
        """Whether these nodes have room in all for one of this shape; kept until something changes."""
        now = len(self.ledger.changes)
        known = self.scatter.get((shape, nodes))
        if known is None or known[0] != now:
            known = self.scatter[shape, nodes] = now, scattered(self.rooms, shape, nodes)
        return known[1]

    def over(self, gang: Gang, asked: Resources, ledger: Ledger | None = None) -> Reason | None:
        """Why the gang's queue, or one above it, may not take so much more; None if it may."""
        ledger, queue = ledger or self.ledger, self.queue_of[gang.key]
        return may_start(self.tree, queue, asked, ledger.allocated, ledger.nonpreemptible, gang.preemptible)

    def estimate(self, piece: Wanted) -> Resources:
        """The least that the piece will cost its gang's queue."""
        bundles = list(piece.chosen())
        paid = set(self.paid.get(self.gang_of[bundles[0].pods[0].key], ())) if bundles else set()
        return total(self.accounts.estimate(bundle, paid) for bundle in bundles)

    def estimate_of(self, bundle: Bundle) -> Resources:
        """The least that a bundle will cost somebody who pays for nothing yet."""
        return self.accounts.estimate(bundle, set())

    def shape_of(self, pod: Pod) -> int:
        """The shape of the pod by itself."""
        (bundle,) = self.shapes.bundles([pod])
        return bundle.shape

    def payer_of(self, gang: Gang) -> str | None:
        """The queue that pays for what the gang has running, None if nobody does."""
        return self.payers.get(gang.queue)

    def keep(self, gang: Gang, placed: Placed) -> None:
        """Make a placement part of the plan."""
        for grant in placed.grants:
            self.ledger.take(grant)
            self.paid.setdefault(gang.key, set()).update(grant.joins)
            self.wants[gang.key].settle(grant.pod, grant.node)
        self.charge(self.ledger, gang, total(grant.cost for grant in placed.grants))
        self.placed.setdefault(gang.key, []).append(placed)
        self.reasons.pop(gang.key, None)
        self.waiting.pop(gang.key, None)
        self.tie(grant.pod for grant in placed.grants)

    def tie(self, pods: Iterable[Pod]) -> None:
        """What waits to join the ComputeDomains of these pods has to go where they are now."""
        joined = self.compute_domains.of(pods)
        for key, piece in list(self.waiting.items()) if joined else ():
            if joined & self.compute_domains.of(piece.all_pods()):
                again = self.wants[key].minimum()
                if isinstance(again, Wanted):
                    self.waiting[key] = again

    def drop(self, gang: Gang, placed: Placed) -> None:
        """The opposite of `keep`, for what shall be placed elsewhere at once."""
        for grant in placed.grants:
            self.ledger.give_back(grant)
        self.charge(self.ledger, gang, total(grant.cost for grant in placed.grants) * -1)
        self.placed[gang.key].remove(placed)

    def charge(self, ledger: Ledger, gang: Gang, cost: Resources) -> None:
        """The gang's queue pays so much more in this ledger."""
        ledger.charge(self.tree, self.queue_of[gang.key], cost, preemptible=gang.preemptible)

    def _charge_what_runs(self, payer: Mapping[str, str | None]) -> None:
        """Charge what gangs have on nodes. `payer`: by the name of their queue, the queue that is charged, if any."""
        charged = [(gang, queue) for gang in self.snapshot.gangs if (queue := payer[gang.queue]) is not None]
        self.accounts.settle(gang for gang, _ in charged)
        sums: dict[tuple[str, bool], dict[str, int]] = {}
        for gang, queue in charged:
            self.accounts.charge(gang, sums.setdefault((queue, gang.preemptible), {}))
        for (queue, preemptible), amounts in sums.items():
            self.ledger.charge(self.tree, queue, Resources(amounts), preemptible=preemptible)

    def _open(self, gang: Gang) -> None:
        """The gang may want something, or it is said why it cannot."""
        queue = _queue(gang.queue, self.snapshot.policy.default_queue, self.tree)
        if isinstance(queue, Queue):
            self.queue_of[gang.key] = queue.name
        if gang.problems:
            self.reasons[gang.key] = gang.problems[0]
        elif not isinstance(queue, Queue):
            self.reasons[gang.key] = queue
        else:
            if has_run_out(gang, self.snapshot.now_ms):
                gang = replace(gang, pods=gang.bound)  # what is stopped gets nothing more
            self.wants[gang.key] = Wants(
                gang,
                self.snapshot.claims,
                self.ledger.consumers,
                self.shapes,
                self.domains,
                self.ledger.volumes,
                self.given_up,
                self.compute_domains,
            )

    def _charged(self, named: str, above: Mapping[str, str | None]) -> str | None:
        """The queue that pays for what gangs of this queue have running: their own even if that takes no workloads any
        more, or the nearest usable one above it. None if their queue is gone: whose they were is not known then.
        `above`: the parent of every queue, also of those that cannot be used."""
        step: str | None = named or self.snapshot.policy.default_queue
        seen: set[str] = set()
        while step is not None and step not in self.tree.queues:
            seen.add(step)
            step = above.get(step)
            if step in seen:
                return None
        return step

    def _divide(self) -> None:
        """Fair shares of what there is, by what each leaf has and waits for."""
        parts = {leaf: [self.ledger.allocated.get(leaf, NOTHING)] for leaf in self.tree.leaves}
        for key, wants in self.wants.items():
            parts[self.queue_of[key]] += [
                self.accounts.estimate(bundle) for pods in wants.waiting_pods() for bundle in self.shapes.bundles(pods)
            ]
        asks = {leaf: total(amounts) for leaf, amounts in parts.items()}
        self.requested = self.tree.roll_up(asks)
        classes = counted_classes(self.tree.queues.values())
        self.pool = pool(self.snapshot.nodes, self.inventory, classes, self.shapes.serving)
        strength = Fraction(str(self.snapshot.policy.usage_weight))
        usage = Usage(parts=self.snapshot.usage, strength=strength)
        self.fair_shares = fair_share.divide(self.pool, self.tree, asks, usage)
        self.contested = contested(self.pool, self.tree, self.requested, self.fair_shares)


def _resting(snapshot: Snapshot, tree: QueueTree) -> dict[str, GangDecision]:
    """By gang (key) what is decided for those at rest, in queues that take workloads."""
    default = snapshot.policy.default_queue
    usable = {name: _queue(name, default, tree) for name in {gang.queue for gang in snapshot.gangs}}
    found = {}
    for gang in snapshot.gangs:
        queue = usable[gang.queue]
        over = gang.max_runtime_ms is not None and has_run_out(gang, snapshot.now_ms)
        if isinstance(queue, Queue) and not over and (decision := at_rest(gang)) is not None:
            found[gang.key] = decision if decision.queue == queue.name else replace(decision, queue=queue.name)
    return found


def _queue(named: str, default: str, tree: QueueTree) -> Queue | Reason:
    """The queue of gangs that name this one ("" for none), or why they cannot have it."""
    if not named and default not in tree.queues and default not in tree.problems:
        return NoQueueNamed(queue=default)
    return tree.leaf(named or default)


def _avoided(snapshot: Snapshot, resting: Container[str]) -> Iterator[tuple[str, str, str]]:
    """Devices that a claim which may get devices avoids, or one that may be made for a pod."""
    for claim in snapshot.claims.values():
        yield from claim.avoids
    for gang in snapshot.gangs:
        if gang.key not in resting:
            for pod in gang.pods:
                yield from pod.avoids


def _open_claims(snapshot: Snapshot, resting: Container[str]) -> Iterator[Claim]:
    """Claims that may get devices: those without any, and for each extended resource asked for one like those that are
    made for it."""
    yield from (claim for claim in snapshot.claims.values() if claim.allocation is None)
    waiting = (pod for gang in snapshot.gangs if gang.key not in resting for pod in gang.pods if not pod.node)
    names = {name for pod in waiting for container in pod.extended for name in container.requests}
    serving = classes_by_resource(snapshot.classes)
    for name in sorted(names):
        asks = (ContainerAsk(name="any", index=0, requests={name: 1}),)
        made = extended_claim(Pod(key="any", uid="", extended=asks), snapshot.classes, serving)
        if made is not None:
            yield Claim(key=name, uid="", spec=made.spec)
