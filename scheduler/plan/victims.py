"""Stages 2 to 4: room for a gang that waits, made by those who run: moved, called back to their share, or outranked.

One search for all three. It says who may go, at what harm, and under which laws; the solver chooses the least harm; and
what it chooses is tried out on the ledger, devices included, before it is believed. What did not hold is told, and the
next choice takes it into account. Nobody goes unless the gang has its place then. Source: DESIGN 3; KAI docs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from queues.reasons import OverLimit
from queues.reclaim import contested, losing, spare, surplus, under_served, within_quota_everywhere
from queues.resources import NOTHING, Resources, total
from queues.runtimes import min_runtime_ms
from scheduler.model.reasons import GangDoesNotFit
from scheduler.model.workloads import Gang, Pod
from scheduler.plan.desk import Desk, Placed
from scheduler.plan.losses import Holding, Loss, losses
from scheduler.plan.pieces import Wanted
from scheduler.plan.scenario import Scenario
from scheduler.solver.harm import Candidate, Harm, Seek
from scheduler.solver.problem import Group
from scheduler.solver.solve import least_harm

TRIES = 40
"""How often a choice that did not hold is followed by another."""

GPU = "gpu"
UNKNOWN = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """`name`: as evictions tell it. `may_gain`: whether others may be stopped for a gang that asks so much. `holding`:
    what the other gang may lose to it. `shares`: whether queues keep their fair shares. `moves`: whether everybody who
    goes needs another place."""

    name: str
    may_gain: Callable[[Desk, Gang, Resources], bool]
    holding: Callable[[Desk, Gang, Gang], Holding | None]
    shares: bool = False
    moves: bool = False


def consolidate(desk: Desk) -> None:
    """Move preemptible pods so that gangs fit that wait; everybody who is moved has a place again."""
    _make_room(desk, CONSOLIDATE)


def reclaim(desk: Desk) -> None:
    """Queues under their fair share take back what others use beyond theirs; where moving others is enough, they do
    with that, whatever their gang."""
    _make_room(desk, RECLAIM_BY_MOVING)
    _make_room(desk, RECLAIM)


def preempt(desk: Desk) -> None:
    """Gangs take the place of those of lower priority in their own queue."""
    _make_room(desk, PREEMPT)


def _make_room(desk: Desk, stage: Stage) -> None:
    for key, piece in [*_in_order(desk, desk.waiting), *_in_order(desk, desk.growing)]:
        gang = desk.wants[key].gang
        if isinstance(desk.reasons.get(key), GangDoesNotFit | OverLimit) and _may_cause_evictions(desk, gang):
            asked = desk.estimate(piece)
            if stage.may_gain(desk, gang, asked):
                _search(desk, stage, gang, piece, asked)


def _in_order(desk: Desk, pieces: Mapping[str, Wanted]) -> list[tuple[str, Wanted]]:
    return sorted(pieces.items(), key=lambda each: desk.order[each[0]])


def _may_cause_evictions(desk: Desk, gang: Gang) -> bool:
    """Not within its preemption delay."""
    return desk.snapshot.now_ms >= gang.created_ms + gang.preemption_delay_ms


def _search(desk: Desk, stage: Stage, gang: Gang, piece: Wanted, asked: Resources) -> None:
    """Look for the least harm that makes room for the piece, and make it part of the plan."""
    holdings = [found for other in desk.snapshot.gangs if (found := stage.holding(desk, gang, other)) is not None]
    if not holdings:
        return
    question = _Question(desk, stage, gang, piece, asked, holdings)
    harm = question.harm()
    if harm is None:
        return
    search = least_harm(harm, budget=desk.snapshot.policy.solver_deterministic_seconds, seed=desk.snapshot.policy.seed)
    for _ in range(TRIES):
        choice = search.best()
        if choice is None:
            return
        scenario = Scenario(desk, gang, [question.losses[number] for number in choice.victims], moves=stage.moves)
        placed = scenario.play(piece)
        if isinstance(placed, Placed):
            scenario.keep(placed, stage.name)
            return
        told = False
        for (node, shape), count in sorted(choice.seats.items()):
            most = scenario.capacity(node, shape, count)
            if most < count:
                search.forbid(node, shape, most, choice.victims)
                told = True
        scenario.undo()
        if not told:
            search.forbid_all(choice.victims)


class _Question:
    """The question of one gang, as the solver takes it."""

    def __init__(
        self, desk: Desk, stage: Stage, gang: Gang, piece: Wanted, asked: Resources, holdings: Sequence[Holding]
    ) -> None:
        self._desk = desk
        self._stage = stage
        self._gang = gang
        self._piece = piece
        self._asked = asked
        self.losses, self._parts = losses(holdings, desk.snapshot.now_ms, self._gpus, desk.snapshot.spared)
        self._budget_rows: dict[tuple[str, str], int] = {}
        self._budgets: list[int] = []
        self._share_rows: dict[tuple[str, str], int] = {}
        self._shares: list[int] = []
        self._ages: dict[str, int] = {}

    def harm(self) -> Harm | None:
        """None if no node suits the piece."""
        rooms = self._desk.rooms
        seeks = tuple(self._seeks())
        zones = tuple(self._zones())
        if not zones or not any(seek.nodes for group in seeks for seek in group):
            return None
        if self._stage.shares:
            self._open_budgets()
        ages = sorted({(-loss.gang.created_ms, loss.gang.key) for loss in self.losses})
        self._ages = {key: place for place, (_, key) in enumerate(ages)}
        ranks = {priority: rank for rank, priority in enumerate(sorted({-loss.gang.priority for loss in self.losses}))}
        candidates = tuple(self._candidate(loss, ranks) for loss in self.losses)
        return Harm(
            candidates=candidates,
            parts=self._parts,
            free={node: self._free(node) for node in rooms.nodes},
            seeks=seeks,
            least=tuple(group.minimum for group in self._leaves()),
            zones=zones,
            movers=tuple(self._movers()) if self._stage.moves else (),
            budgets=tuple(self._budgets),
            shares=tuple(self._shares),
            tiers=len(ranks),
        )

    def _leaves(self) -> Iterator[Group]:
        return (group for group in self._piece.group.walk() if group.units)

    def _seeks(self) -> Iterator[tuple[Seek, ...]]:
        for group in self._leaves():
            found = []
            for shape in group.shapes():
                bundle = self._piece.bundles[group.name, shape][0]
                needs = self._needs(bundle.pods, self._desk.estimate_of(bundle)[GPU])
                found.append(Seek(shape=shape, count=group.count(shape), needs=needs, nodes=self._able(shape)))
            yield tuple(found)

    def _movers(self) -> Iterator[tuple[Seek, tuple[int, ...]]]:
        alike: dict[int, list[int]] = {}
        needs: dict[int, dict[str, int]] = {}
        for number, loss in enumerate(self.losses):
            shape = self._desk.shape_of(loss.pod)
            alike.setdefault(shape, []).append(number)
            needs[shape] = self._needs((loss.pod,), self._gpus(loss.pod))
        for shape, numbers in alike.items():
            yield (
                Seek(shape=shape, count=len(numbers), needs=needs[shape], nodes=self._able(shape)),
                tuple(numbers),
            )

    def _zones(self) -> Iterator[frozenset[str]]:
        """Where all of the piece has to be: the domains of the level that it must stay in."""
        group, rooms = self._piece.group, self._desk.rooms
        if group.required is None:
            yield frozenset(rooms.nodes)
            return
        for name, nodes in rooms.split(group.required, rooms.nodes):
            if group.pinned in ("", name):
                yield frozenset(nodes)

    def _able(self, shape: int) -> tuple[str, ...]:
        rooms = self._desk.rooms
        return tuple(node for node in rooms.nodes if not rooms.suits(node, shape))

    def _candidate(self, loss: Loss, ranks: dict[int, int]) -> Candidate:
        harm = [0] * len(ranks)
        harm[ranks[-loss.gang.priority]] = loss.cost
        relief = self._desk.accounts.relief([loss.pod])
        loses = tuple(
            (self._budget_rows[queue.name, name], relief[name])
            for queue in losing(self._desk.tree, loss.queue, self._desk.queue_of[self._gang.key])
            for name in relief
            if (queue.name, name) in self._budget_rows
        )
        within = tuple(
            (self._share_rows[queue.name, name], relief[name])
            for queue in self._desk.tree.ancestors(loss.queue)
            for name in relief
            if (queue.name, name) in self._share_rows
        )
        return Candidate(
            pod=loss.pod.key,
            node=loss.pod.node,
            gives=self._needs((loss.pod,), relief[GPU]),
            harm=tuple(harm),
            loses=loses,
            within=within,
            age=self._ages[loss.gang.key],
        )

    def _open_budgets(self) -> None:
        desk = self._desk
        queue, asked = desk.queue_of[self._gang.key], _contested(desk, self._asked)
        most = spare(desk.tree, queue, asked, desk.fair_shares, desk.standing())
        for loser, amounts in most.items():
            for name in sorted(amounts):
                self._budget_rows[loser, name] = len(self._budgets)
                self._budgets.append(amounts[name])
        beyond = surplus(desk.tree, queue, asked, desk.fair_shares, desk.standing())
        for above, over in beyond.items():
            for name in over:
                self._share_rows[above, name] = len(self._shares)
                self._shares.append(over[name])

    def _free(self, node: str) -> dict[str, int]:
        """Where devices are shared, how many are free says nothing: then it is found out by trying."""
        ledger = self._desk.ledger
        shared = any(device.shareable for device in ledger.inventory.on(ledger.nodes[node]).devices)
        return {**ledger.free(node).amounts, GPU: UNKNOWN if shared else ledger.gpus(node)}

    def _gpus(self, pod: Pod) -> int:
        return self._desk.accounts.relief([pod])[GPU]

    @staticmethod
    def _needs(pods: Sequence[Pod], gpus: int) -> dict[str, int]:
        needs = dict(total(pod.requests for pod in pods).amounts)
        if gpus:
            needs[GPU] = gpus
        return needs


def _contested(desk: Desk, asked: Resources) -> Resources:
    """What is asked of the resources that queues have to share out among them."""
    names = contested(desk.pool, desk.tree, desk.requested, desk.fair_shares)
    return Resources({name: asked[name] for name in asked if name in names})


# --- the stages ---


def _who_may_be_moved(_desk: Desk, gang: Gang, _asked: Resources) -> bool:
    return gang.preemptible


def _who_is_under_served(desk: Desk, gang: Gang, asked: Resources) -> bool:
    queue, wanted = desk.queue_of[gang.key], _contested(desk, asked)
    owed = under_served(queue, wanted, desk.fair_shares, desk.standing())
    return owed and _who_has_quota(desk, gang, asked)


def _who_is_owed_it(desk: Desk, gang: Gang, asked: Resources) -> bool:
    """Its queue is within its share with it; nobody loses anything by being moved."""
    queue = desk.queue_of[gang.key]
    has, share = desk.standing().get(queue, NOTHING), desk.fair_shares[queue]
    owed = all(has[name] + asked[name] <= share[name] for name in asked if name in desk.pool.amounts)
    return owed and _who_has_quota(desk, gang, asked)


def _who_has_quota(desk: Desk, gang: Gang, asked: Resources) -> bool:
    queue = desk.queue_of[gang.key]
    return gang.preemptible or within_quota_everywhere(desk.tree, queue, asked, desk.ledger.nonpreemptible)


def _whoever_runs(desk: Desk, gang: Gang, other: Gang) -> Holding | None:
    return _running(desk, gang, other)


def _of_another_queue(desk: Desk, gang: Gang, other: Gang) -> Holding | None:
    found = _running(desk, gang, other)
    if found is None or found.queue == desk.queue_of[gang.key]:
        return None
    return _protected(desk, gang, found, reclaim_=True)


def _of_lower_priority(desk: Desk, gang: Gang, other: Gang) -> Holding | None:
    found = _running(desk, gang, other)
    if found is None or found.queue != desk.queue_of[gang.key] or other.priority >= gang.priority:
        return None
    return _protected(desk, gang, found, reclaim_=False)


def _running(desk: Desk, gang: Gang, other: Gang) -> Holding | None:
    if other.key == gang.key or not other.preemptible:
        return None
    if not any(pod.node and not pod.terminating and pod.key not in desk.leaving for pod in other.pods):
        return None
    queue = desk.payer_of(other)
    return Holding(gang=other, queue=queue) if queue is not None else None


def _protected(desk: Desk, gang: Gang, found: Holding, *, reclaim_: bool) -> Holding:
    least = min_runtime_ms(desk.tree, found.queue, desk.queue_of[gang.key], reclaim=reclaim_)
    starts = [pod.started_ms for pod in found.gang.bound if pod.started_ms is not None]
    ran = desk.snapshot.now_ms - min(starts) if starts else 0
    if least and starts and ran < least:
        return Holding(gang=found.gang, queue=found.queue, firm=True)
    return found


CONSOLIDATE = Stage(name="consolidate", may_gain=_who_may_be_moved, holding=_whoever_runs, moves=True)
RECLAIM = Stage(name="reclaim", may_gain=_who_is_under_served, holding=_of_another_queue, shares=True)
RECLAIM_BY_MOVING = Stage(name="reclaim", may_gain=_who_is_owed_it, holding=_of_another_queue, moves=True)
PREEMPT = Stage(name="preempt", may_gain=_who_has_quota, holding=_of_lower_priority)
