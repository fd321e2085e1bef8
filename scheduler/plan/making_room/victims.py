"""Stages 2 to 4: room for a gang that waits, made by those who run: moved, called back to their share, or outranked.

One search for all three. It says who may go, at what harm, and under which laws; the least harm is chosen; and what was
chosen is tried out on the ledger, devices included, before it is believed. What did not hold is told, and the next
choice takes it into account. Nobody goes unless the gang has its place then. Source: DESIGN 3; KAI docs.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from queues.reasons import OverLimit
from queues.resources import Resources, total
from scheduler.model.no_room import Hindrance, NoRoom
from scheduler.model.reasons import GangDoesNotFit, RoomIsBeingMade
from scheduler.model.workloads import Gang, Pod
from scheduler.plan.caps import Cap
from scheduler.plan.desk import Desk, Placed
from scheduler.plan.ground.accounts import GPU
from scheduler.plan.ground.shapes import Bundle
from scheduler.plan.making_room import stages
from scheduler.plan.making_room.hindrances import Keepers, may_not_gain, nobody_found, too_early
from scheduler.plan.making_room.laws import Row, laws_of
from scheduler.plan.making_room.leavers import Leavers, Stakes, freed_gpus
from scheduler.plan.making_room.losses import Loss, ranks_of
from scheduler.plan.making_room.rulings import Ruling
from scheduler.plan.making_room.scenario import Scenario, caps_of, look_ahead, promise, with_what_is_left
from scheduler.plan.making_room.spots import Spots, is_vague, losses_of
from scheduler.plan.making_room.stages import Stage
from scheduler.plan.pieces import Wanted, afresh
from scheduler.plan.placing.allocate import place
from scheduler.solver.harm import Candidate, Harm, Part, Seek
from scheduler.solver.problem import Group
from scheduler.solver.solve import least_harm

TRIES = 40
"""How often a choice that did not hold is followed by another."""

TRIAL = 4e-3
"""Deterministic seconds that trying out a choice on the ledger is counted as (measured: 2 to 6 ms)."""

UNKNOWN = 10**9
"""More than any node has."""


def consolidate(desk: Desk) -> None:
    """Move preemptible pods so that gangs fit that wait; everybody who is moved has a place again."""
    _make_room(desk, stages.CONSOLIDATE)


def reclaim(desk: Desk) -> None:
    """Queues under their fair share take back what others use beyond theirs; where moving others is enough, they do
    with that, whatever their gang. Where nobody is over his share of all that is asked for, the devices of who is over
    his share of them take along what else is asked for."""
    _make_room(desk, stages.RECLAIM_BY_MOVING)
    _make_room(desk, stages.RECLAIM)
    _make_room(desk, stages.RECLAIM_ALONG)


def preempt(desk: Desk) -> None:
    """Gangs take the place of those of lower priority in their own queue."""
    _make_room(desk, stages.PREEMPT)


def _make_room(desk: Desk, stage: Stage) -> None:
    if not (desk.waiting or desk.growing):
        return
    if not any(gang.bound for gang in desk.snapshot.gangs):  # then there is nothing to say of it either
        return
    wait_for_room(desk)
    crowd = _Crowd(desk, stage)
    searches: dict[tuple[str, ...], _Search] = {}
    for key, listed in [*_in_order(desk, desk.waiting), *_in_order(desk, desk.growing)]:
        gang, piece = desk.wants[key].gang, afresh(desk.waiting.get(key, listed), desk.shapes)
        if not isinstance(desk.reasons.get(key), GangDoesNotFit | OverLimit):
            continue
        asked = desk.estimate(piece)
        if not _may_cause_evictions(desk, gang):
            hindered: NoRoom | None = too_early(stage, gang)
        elif not stage.may_gain(desk, gang, asked):
            hindered = may_not_gain(desk, stage, gang, asked)
        else:
            alike = *crowd.rank(gang), desk.queue_of[key], str(gang.preemptible)
            search = searches.get(alike)
            if search is None:
                search = searches[alike] = _Search(desk, stage, gang, crowd)
            rest = key in desk.aside
            with with_what_is_left(desk, key):
                hindered = search.make_room(gang, piece, asked, alone=rest)
        if hindered is not None:
            _tell(desk, key, hindered)


def _tell(desk: Desk, key: str, hindered: NoRoom) -> None:
    """Why the stage made no room becomes a part of why the gang waits, in place of what the same stage said before."""
    reason = desk.reasons[key]
    if isinstance(reason, GangDoesNotFit):
        others = tuple(each for each in reason.no_room if each.stage != hindered.stage)
        desk.reasons[key] = replace(reason, no_room=(*others, hindered))


def wait_for_room(desk: Desk) -> None:
    """Those for whom there is room as soon as others have left who leave anyhow get the promise of it."""
    if desk.ahead:
        return
    look_ahead(desk)
    for key, piece in _in_order(desk, desk.waiting):
        gang = desk.wants[key].gang
        if isinstance(desk.reasons.get(key), GangDoesNotFit | OverLimit):
            with with_what_is_left(desk, key):
                placed = place(desk, gang, afresh(desk.waiting.get(key, piece), desk.shapes))
                if isinstance(placed, Placed):
                    promise(desk, gang, placed.grants)
            if isinstance(placed, Placed):
                desk.reasons[key] = RoomIsBeingMade(gang=key, pods=len(placed.grants))


def _in_order(desk: Desk, pieces: Mapping[str, Wanted]) -> list[tuple[str, Wanted]]:
    return sorted(pieces.items(), key=lambda each: desk.order[each[0]])


def _may_cause_evictions(desk: Desk, gang: Gang) -> bool:
    """Not within its preemption delay."""
    return desk.snapshot.now_ms >= gang.may_evict_from_ms


class _Crowd:
    """Who may go for whom: found once for all for whom the same may go."""

    def __init__(self, desk: Desk, stage: Stage) -> None:
        self._desk = desk
        self._stage = stage
        self._stakes = Stakes(desk, moves=stage.moves)
        self._leavers: dict[tuple[str, ...], Leavers] = {}
        self._keepers: dict[tuple[str, ...], Keepers] = {}
        self._priorities: dict[str, list[int]] = {}
        for gang in desk.snapshot.gangs:
            if gang.bound:
                self._priorities.setdefault(desk.payer_of(gang) or "", []).append(gang.priority)
        for each in self._priorities.values():
            each.sort()
        self._timed = any(queue.reclaim_min_runtime_ms for queue in desk.snapshot.queues)

    def rank(self, gang: Gang) -> tuple[str, ...]:
        """Equal for gangs for whom the same may go: nobody goes for himself; of those who run in the queue as many are
        of a lower priority."""
        own = gang.key if gang.bound and self._stage.moves else ""
        if self._stage.name == "consolidate":
            return (own,)
        queue = self._desk.queue_of[gang.key]
        lower = bisect_left(self._priorities.get(queue, []), gang.priority) if self._stage.name == "preempt" else 0
        return own, queue, str(lower)

    def leavers(self, gang: Gang) -> Leavers:
        """Who may go for the gang."""
        rank = () if self._has_no_kin(gang) else self.rank(gang)
        if rank not in self._leavers:
            holdings = (self._stage.holding(self._desk, gang, other) for other in self._desk.snapshot.gangs)
            self._leavers[rank] = Leavers(self._stakes, filter(None, holdings))
        return self._leavers[rank]

    def _has_no_kin(self, gang: Gang) -> bool:
        """Whether its queue makes no difference to who may go: to reclaim, since nobody runs there who would stay, nor
        is safe from some queues for longer than from others; to preempt, since nobody runs there of a lower rank."""
        own, *of_queue = self.rank(gang)
        if own or not of_queue:
            return False
        if self._stage.name == "reclaim":
            return of_queue[0] not in self._priorities and not self._timed
        return of_queue[-1] == "0"

    def keepers(self, gang: Gang) -> Keepers:
        """Who may not."""
        rank = self.rank(gang)
        if rank not in self._keepers:
            self._keepers[rank] = Keepers(self._desk, self._stage, gang, self.leavers(gang))
        return self._keepers[rank]


class _Search:
    """For gangs of one queue and rank: the same may go for all of them, until they have."""

    def __init__(self, desk: Desk, stage: Stage, like: Gang, crowd: _Crowd) -> None:
        self._desk = desk
        self._stage = stage
        self._crowd = crowd
        self._like = like
        self._vain: dict[tuple[Group, Resources], tuple[int, NoRoom]] = {}
        """Questions that found nothing, after how many promises, and why. What was tried and undone changes nothing."""
        self._known: tuple[int, tuple[tuple[Loss, ...], tuple[Part, ...]]] | None = None
        """What may go, after how many evictions."""
        self._free: tuple[int, int] | None = None
        """GPUs that are free on all nodes, after how many changes of the ledger."""
        self._spots: dict[int, Spots] = {}

    @property
    def _leavers(self) -> Leavers:
        """Found when they are asked for: often nobody has to be looked for."""
        return self._crowd.leavers(self._like)

    def make_room(self, gang: Gang, piece: Wanted, asked: Resources, *, alone: bool) -> NoRoom | None:
        """Look for the least harm that makes room for the piece, and make it part of the plan; why there is none.
        `alone`: it has room kept for it that others like it have not."""
        desk = self._desk
        question, now = (piece.group, asked), len(desk.outlook)
        known = self._vain.get(question)
        if not alone and known is not None and known[0] == now:
            return known[1]
        if desk.evictions and self._takes_what_is_free(gang, piece):
            return None
        hindered = self._find_room(gang, piece, asked)
        if hindered is not None and not alone:
            self._vain[question] = now, hindered
        return hindered

    def _takes_what_is_free(self, gang: Gang, piece: Wanted) -> bool:
        """Whoever leaves for others may leave more than they take."""
        placed = place(self._desk, gang, piece) if _plain_shape(piece) is None else None
        if not isinstance(placed, Placed):
            return False
        promise(self._desk, gang, placed.grants)
        self._desk.reasons[gang.key] = RoomIsBeingMade(gang=gang.key, pods=len(placed.grants))
        return True

    def _find_room(self, gang: Gang, piece: Wanted, asked: Resources) -> NoRoom | None:
        if self._stage.moves and asked[GPU] > self._free_gpus():
            return NoRoom(stage=self._stage.name, why=Hindrance.TOO_LITTLE_FREE)
        found = self._node_by_node(gang, piece, asked)
        ended = False
        if found is None:
            found = self._by_search(gang, piece, asked)
            ended = found is None
        if found:
            return None
        return nobody_found(self._desk, self._stage, gang, asked, self._crowd.keepers(self._like), ended=ended)

    def _node_by_node(self, gang: Gang, piece: Wanted, asked: Resources) -> bool | None:
        """Whether there was a way for a piece of equal bundles that may go anywhere; None where that cannot be said."""
        desk, stage = self._desk, self._stage
        shape = _plain_shape(piece)
        if shape is None or isinstance(desk.reasons[gang.key], OverLimit):
            return None  # over its limit: there may be room, and those must go who take the limit
        bundles = -(-piece.group.minimum // desk.shapes[shape].size)
        spots = self._spots.get(shape)
        if spots is None:
            gpus = desk.estimate_of(piece.bundles[piece.group.name, shape][0])[GPU]
            spots = self._spots[shape] = Spots(desk, shape, gpus, self._leavers)
        ruling = Ruling(laws_of(desk, stage, gang, asked), caps_of(desk))
        for _ in range(1 if bundles > 1 or stage.moves else TRIES):
            if bundles == 1:
                found = spots.best(ruling)
            else:
                way = spots.several(bundles, ruling)
                found = None if way is None else ("", way)
            if found is None:
                return None if spots.vague else False
            # If everybody who goes without regard to that has another place, it is the best way to move, too.
            scenario = Scenario(desk, gang, losses_of(found[1]), moves=stage.moves)
            placed = scenario.play(piece, at=found[0])
            if isinstance(placed, Placed):
                scenario.keep(placed, stage.name)
                return True
            scenario.undo()
            if bundles == 1:
                spots.refuse()
        return None

    def _by_search(self, gang: Gang, piece: Wanted, asked: Resources) -> bool | None:
        """Whether the solver found a way; None if it ended before it knew."""
        desk, stage, policy = self._desk, self._stage, self._desk.snapshot.policy
        found, parts = self._losses()
        if not found:
            return False
        harm = _Question(desk, stage, gang, piece, asked, found, parts, self._leavers.elsewhere).harm()
        if harm is None:
            return False
        # All searches of a plan together take so long and no longer, whoever else waits.
        budget = min(policy.solver_deterministic_seconds, desk.search_seconds)
        if budget <= 0 or not policy.solver_enabled:
            return None
        search = least_harm(harm, budget=budget, seed=policy.seed)
        for _ in range(TRIES):
            before = search.spent
            choice = search.best()
            desk.search_seconds -= search.spent - before
            if choice is None:
                return None if search.ended else False
            scenario = Scenario(desk, gang, [found[number] for number in choice.victims], moves=stage.moves)
            desk.search_seconds -= TRIAL
            placed = scenario.play(piece)
            if isinstance(placed, Placed):
                scenario, placed = self._without_the_needless(scenario, placed, gang, piece)
                scenario.keep(placed, stage.name)
                return True
            told = False
            for (node, shape), count in sorted(choice.seats.items()):
                most = scenario.capacity(node, shape, count)
                if most < count:
                    search.forbid(node, shape, most, choice.victims)
                    told = True
            scenario.undo()
            if not told:
                search.forbid_all(choice.victims)
        return None

    def _without_the_needless(
        self, scenario: Scenario, placed: Placed, gang: Gang, piece: Wanted
    ) -> tuple[Scenario, Placed]:
        """The same without those who left nodes that the gang does not get, if that is enough: an answer that is not
        proved may have more than it takes."""
        taken = {grant.node for grant in placed.grants}
        used = {loss.gang.key for loss in scenario.victims if loss.pod.node in taken}
        needed = [loss for loss in scenario.victims if loss.gang.key in used]
        if self._stage.moves or len(needed) == len(scenario.victims):
            return scenario, placed
        scenario.undo()
        fewer = Scenario(self._desk, gang, needed, moves=False)
        found = fewer.play(piece)
        if isinstance(found, Placed):
            return fewer, found
        fewer.undo()
        again = Scenario(self._desk, gang, scenario.victims, moves=False)
        return again, placed

    def _free_gpus(self) -> int:
        """Moving makes no room that is not there: so much is on all nodes together."""
        desk, changes = self._desk, len(self._desk.ledger.changes)
        if self._free is None or self._free[0] != changes:
            self._free = changes, sum(max(free_gpus(desk, node), 0) for node in desk.rooms.nodes)
        return self._free[1]

    def _losses(self) -> tuple[tuple[Loss, ...], tuple[Part, ...]]:
        """What may go now."""
        desk = self._desk
        if self._known is None or self._known[0] != len(desk.evictions):
            self._leavers.renew()
            self._known = len(desk.evictions), self._leavers.all_losses()
        return self._known[1]


def _plain_shape(piece: Wanted) -> int | None:
    """The shape of the bundles, if they are all equal and may go anywhere."""
    group = piece.group
    if len(group.shapes()) != 1 or group.steps or group.children or group.pinned or group.company:
        return None
    return group.shapes()[0]


class _Question:
    """The question of one gang, as the solver takes it."""

    def __init__(
        self,
        desk: Desk,
        stage: Stage,
        gang: Gang,
        piece: Wanted,
        asked: Resources,
        found: Sequence[Loss],
        parts: tuple[Part, ...],
        elsewhere: Callable[[Loss], Bundle],
    ) -> None:
        """`elsewhere`: what a pod asks for that is moved."""
        self._elsewhere = elsewhere
        self._desk = desk
        self._stage = stage
        self._piece = piece
        self._losses = found
        self._parts = parts
        self._laws = laws_of(desk, stage, gang, asked)
        self._rows: dict[Row, int] = {}
        self._least: dict[Row, int] = {}
        if self._laws is not None:
            self._rows = {row: number for number, row in enumerate(self._laws.budgets)}
            self._least = {row: number for number, row in enumerate(self._laws.least)}
        counted = dict.fromkeys(cap for loss in found for cap in loss.caps)
        self._caps: dict[Cap, int] = {cap: number for number, cap in enumerate(counted, len(self._rows))}

    def harm(self) -> Harm | None:
        """None if no node suits the piece."""
        rooms, laws = self._desk.rooms, self._laws
        seeks, zones = tuple(self._seeks()), tuple(self._zones())
        if not zones or not any(seek.nodes for group in seeks for seek in group):
            return None
        free = {node: self._free(node) for node in rooms.nodes}
        ranks, ages = ranks_of(self._losses)
        left = caps_of(self._desk).left
        return Harm(
            candidates=tuple(self._candidate(loss, ranks, ages) for loss in self._losses),
            parts=self._parts,
            free=free,
            seeks=seeks,
            least=tuple(group.minimum for group in self._leaves()),
            zones=zones,
            movers=tuple(self._movers()) if self._stage.moves else (),
            budgets=(*(laws.budgets.values() if laws else ()), *(left[cap] for cap in self._caps)),
            shares=tuple(laws.least.values()) if laws else (),
            tiers=len(ranks),
        )

    def _leaves(self) -> Iterator[Group]:
        return (group for group in self._piece.group.walk() if group.units)

    def _seeks(self) -> Iterator[tuple[Seek, ...]]:
        for group in self._leaves():
            found = []
            for shape in group.shapes():
                bundle = self._piece.bundles[group.name, shape][0]
                needs, nodes = self._needs(bundle), self._able(shape)
                found.append(Seek(shape=shape, count=group.count(shape), needs=needs, nodes=nodes))
            yield tuple(found)

    def _movers(self) -> Iterator[tuple[Seek, tuple[int, ...]]]:
        alike: dict[tuple[int, bool], tuple[Bundle, list[int]]] = {}
        for number, loss in enumerate(self._losses):
            bundle = self._elsewhere(loss)
            shares = any(entry.claim and not entry.from_template for entry in loss.pod.claims)
            alike.setdefault((bundle.shape, shares), (bundle, []))[1].append(number)
        for (shape, shares), (bundle, numbers) in alike.items():
            needs = self._needs(bundle)
            if shares:
                needs.pop(GPU, None)  # what they share they need once, on the node where the first of them comes
            yield Seek(shape=shape, count=len(numbers), needs=needs, nodes=self._able(shape)), tuple(numbers)

    def _needs(self, bundle: Bundle) -> dict[str, int]:
        """What it takes of any node, at least: what some nodes have as devices is counted by its GPUs alone."""
        served = {name for pod in bundle.pods for name in self._desk.shapes.served(pod)}
        needs = needs_of(bundle.pods, self._desk.estimate_of(bundle)[GPU])
        return {name: amount for name, amount in needs.items() if name not in served}

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

    def _candidate(self, loss: Loss, ranks: Mapping[int, int], ages: Mapping[str, int]) -> Candidate:
        harm = [0] * len(ranks)
        harm[ranks[loss.gang.priority]] = loss.weight
        laws = self._laws
        shares = [(self._rows[row], amount) for row, amount in laws.loses(loss)] if laws else []
        return Candidate(
            pod=loss.pod.key,
            node=loss.pod.node,
            gives=needs_of((loss.pod,), freed_gpus(loss)),
            harm=tuple(harm),
            loses=(*shares, *((self._caps[cap], 1) for cap in loss.caps)),
            within=tuple((self._least[row], amount) for row, amount in laws.within(loss)) if laws else (),
            age=ages[loss.gang.key],
        )

    def _free(self, node: str) -> dict[str, int]:
        return {**self._desk.ledger.free(node).amounts, GPU: free_gpus(self._desk, node)}


def free_gpus(desk: Desk, node: str) -> int:
    """In thousandths. Where devices are shared, how many are free says nothing: then it is found out by trying."""
    return UNKNOWN if is_vague(desk, node) else desk.ledger.gpus(node)


def needs_of(pods: Sequence[Pod], gpus: int) -> dict[str, int]:
    """What pods take of a node, their GPUs in thousandths besides."""
    needs = dict(total(pod.requests for pod in pods).amounts)
    if gpus:
        needs[GPU] = gpus
    return needs
