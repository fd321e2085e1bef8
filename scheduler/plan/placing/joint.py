"""Joint placement: where taking one pod after the other finds no room, the solver looks at all of them at once.

For one gang of unlike pods it finds seats or proves that there are none. Where gangs wait although there may be room
for them, it moves what this plan has placed, and never drops any of it. Patterns are read off the same rooms that
placed the pods, and what the solver answers is allocated for real before it is believed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from queues.limits import under_quota
from queues.resources import NOTHING, Resources, total
from scheduler.model.plan import SolverReport
from scheduler.model.reasons import GangDoesNotFit
from scheduler.plan.ahead.reservations import Reservations
from scheduler.plan.desk import Desk, Placed
from scheduler.plan.ground.accounts import GPU
from scheduler.plan.ground.ledger import Ledger
from scheduler.plan.ground.rooms import Effort, Exhausted, Load, Rooms, with_more
from scheduler.plan.ground.shapes import claims_of
from scheduler.plan.pieces import Wanted
from scheduler.plan.placing.realise import realise
from scheduler.solver import greedy
from scheduler.solver.answers import Answer, Hint, OutOfTime, ProvedImpossible, Solved
from scheduler.solver.greedy import Short
from scheduler.solver.problem import Contender, Level, Move, NodeClass, Pattern, Problem, Zone
from scheduler.solver.solve import solve

MOST_VARIABLES = 3_000
"""Beyond this the first answer of a model costs more than it is worth (measured: 0.25 to 1 s)."""

MOST_SHAPES = 8
"""More kinds of pods than this fill a node in too many ways."""

MOST_PATTERNS = 256
"""Maximal ways to fill one node."""


def seat_alone(desk: Desk, gang: str, piece: Wanted) -> tuple[tuple[Move, ...] | None, SolverReport]:
    """Seats for a gang that the greedy could not place, None if there are none or none were found; and how sure that
    is ("impossible": proved)."""
    answer = _search(desk, desk.rooms, [Contender(gang=gang, group=piece.group, must=True, value=1)])
    if isinstance(answer, Solved):
        return answer.moves[gang], _report(answer)
    if isinstance(answer, ProvedImpossible) and desk.rooms.proved:
        return None, _report(answer)
    return None, SolverReport(status="budget", seconds=answer.seconds)


def place_jointly(desk: Desk, reservations: Reservations) -> None:
    """Let gangs that wait for room, and those that this plan has placed, find their places together. What is reserved
    is in play only if whom it is for could start now; and if somebody is late by it, all stays as it was."""
    policy = desk.snapshot.policy
    waiting = [key for key in desk.waiting if isinstance(desk.reasons.get(key), GangDoesNotFit)]
    if not waiting or not desk.placed or not policy.solver_enabled:
        return
    shared, tied = _shared_claims(desk), _in_shared_domains(desk)
    waiting = [key for key in waiting if key not in tied and shared.isdisjoint(_open_claims(desk.waiting[key]))]
    waiting = [key for key in waiting if not desk.shapes.sociable(desk.waiting[key].group.shapes())]
    movable = [key for key in desk.placed if _is_movable(desk, key, shared) and not _is_guest(desk, key)]
    movable = [key for key in movable if key not in tied]
    if not waiting or not movable:
        return
    waiting = _few_shapes(desk, waiting, policy.solver_gangs // 2)
    movable = _few_shapes(desk, movable, policy.solver_gangs - len(waiting), with_=waiting)
    ledger = desk.ledger.fork()
    for key in movable:
        for grant in desk.placed[key][0].grants:
            ledger.give_back(grant)
            desk.charge(ledger, desk.wants[key].gang, grant.cost * -1)
    for each in desk.reserved.values():
        for grant in each.blocked:
            ledger.unblock(grant)
    rooms = Rooms(ledger, desk.shapes, desk.domains, policy, desk.rooms.patience)
    hopeful = [key for key in waiting if _may_fit(rooms, desk.waiting[key])]
    for each in desk.reserved.values():
        for grant in each.blocked if each.gang.key not in hopeful else ():
            ledger.block(grant)
    if not hopeful:
        return
    head = sorted([*movable, *hopeful], key=lambda key: desk.order[key])
    contenders, budgets = _contenders(desk, ledger, head)
    hint = tuple((key, desk.placed[key][0].moves) for key in movable)
    answer = _search(desk, rooms, contenders, budgets, hint)
    report = _report(answer)
    if (
        isinstance(answer, Solved)
        and len(answer.moves) > len(movable)
        and not _accept(desk, ledger, answer, reservations)
    ):
        report = SolverReport(status="budget", seconds=answer.seconds)
    desk.solved.update(dict.fromkeys(head, report))


def _few_shapes(desk: Desk, gangs: Sequence[str], most: int, with_: Sequence[str] = ()) -> list[str]:
    """The first of the gangs, at most so many, as long as they and `with_` have no more shapes than a model takes."""
    shapes = {shape for key in with_ for shape in _piece(desk, key).group.shapes()}
    chosen: list[str] = []
    for key in gangs:
        more = shapes.union(_piece(desk, key).group.shapes())
        if len(chosen) < most and len(more) <= MOST_SHAPES:
            shapes = more
            chosen.append(key)
    return chosen


def _piece(desk: Desk, key: str) -> Wanted:
    return desk.waiting[key] if key in desk.waiting else desk.placed[key][0].piece


def _shared_claims(desk: Desk) -> frozenset[str]:
    """Claims that pods of several gangs name: whoever is placed first brings them their devices, and searches place
    gangs at once."""
    names: dict[str, set[str]] = {}
    for gang in desk.snapshot.gangs:
        for pod in gang.pods:
            for key in claims_of(pod):
                names.setdefault(key, set()).add(gang.key)
    return frozenset(key for key, gangs in names.items() if len(gangs) > 1)


def _in_shared_domains(desk: Desk) -> frozenset[str]:
    """Gangs of a ComputeDomain that others are of as well: a search knows of no clique that gangs share."""
    names: dict[str, set[str]] = {}
    for key, wants in desk.wants.items():
        for domain in desk.compute_domains.of(wants.gang.pods):
            names.setdefault(domain, set()).add(key)
    return frozenset(key for gangs in names.values() if len(gangs) > 1 for key in gangs)


def _open_claims(piece: Wanted) -> set[str]:
    return {ask.key for bundles in piece.bundles.values() for bundle in bundles for ask in bundle.asks}


def _is_movable(desk: Desk, gang: str, shared: frozenset[str]) -> bool:
    """Placed in one piece by this plan, with claims that nobody else names (`shared`) or consumes, and that held
    nothing before; without rules about the pods around it, and without volumes that are given by this plan."""
    if len(desk.placed[gang]) != 1 or desk.placed[gang][0].fixed:
        return False
    piece = desk.placed[gang][0].piece
    if not shared.isdisjoint(_open_claims(piece)) or desk.shapes.sociable(piece.group.shapes()):
        return False
    grants = desk.placed[gang][0].grants
    if any(grant.volumes or desk.ledger.volumes.exclusive(grant.pod) for grant in grants):
        return False
    own = {claim.key for grant in grants for claim, _ in grant.allocated}
    pods = {grant.pod.uid for grant in grants}
    return all(key in own and desk.ledger.consumers(key) <= pods for grant in grants for key in grant.joins)


def _is_guest(desk: Desk, gang: str) -> bool:
    """Whether it may be in reserved room for as long as it runs: what it leaves is not free for others."""
    if desk.wants[gang].gang.max_runtime_ms is None:
        return False
    reserved = {node for each in desk.reserved.values() for node in each.nodes}
    return any(grant.node in reserved for grant in desk.placed[gang][0].grants)


def _may_fit(rooms: Rooms, piece: Wanted) -> bool:
    """Whether it would find room if all that can be moved were away."""
    found = greedy.place(piece.group, rooms.nodes, rooms)
    return not isinstance(found, Short) or not found.certain


def _accept(desk: Desk, ledger: Ledger, answer: Solved, reservations: Reservations) -> bool:
    """Put the answer into the plan, if its devices can be had, its queues may take it and nobody is late by it; whether
    that was so."""
    pieces = {key: _piece(desk, key) for key in answer.moves}
    seats = [(pieces[gang], moves) for gang, moves in answer.moves.items()]
    grants = realise(desk, seats, ledger.in_use, ledger.volumes)
    if grants is None:
        return False
    gang_of = {pod.key: gang for gang, piece in pieces.items() for pod in piece.all_pods()}
    found = {
        gang: Placed(
            piece=pieces[gang],
            moves=moves,
            grants=tuple(grant for grant in grants if gang_of[grant.pod.key] == gang),
        )
        for gang, moves in answer.moves.items()
    }
    before = {gang: desk.placed[gang][0] for gang in found if gang in desk.placed}
    for gang, placed in before.items():
        desk.drop(desk.wants[gang].gang, placed)
    fits = _all_may_start(desk, found) and reservations.allow(found)
    for gang, placed in (found if fits else before).items():
        desk.keep(desk.wants[gang].gang, placed)
    desk.fruitless.clear()
    return fits


def _all_may_start(desk: Desk, found: dict[str, Placed]) -> bool:
    """Whether the queues take all of these, one after the other; decided on a ledger of its own."""
    trial = desk.ledger.fork()
    for key, placed in found.items():
        gang, cost = desk.wants[key].gang, total(grant.cost for grant in placed.grants)
        if desk.over(gang, cost, trial) is not None:
            return False
        desk.charge(trial, gang, cost)
    return True


def _search(
    desk: Desk, rooms: Rooms, contenders: Sequence[Contender], budgets: tuple[int, ...] = (), hint: Hint = ()
) -> Answer:
    """Read the patterns off the rooms and ask the solver, both within what is left of the plan's time for searching."""
    policy = desk.snapshot.policy
    budget = min(policy.solver_deterministic_seconds, desk.search_seconds)
    if budget <= 0:
        return OutOfTime(seconds=0.0)
    effort = Effort(left=budget)
    answer: Answer | None = None
    try:
        with rooms.within(effort):
            problem = _problem(rooms, contenders, budgets)
        if problem is not None:
            answer = solve(problem, budget=round(effort.left, 6), seed=policy.seed, hint=hint)
    except Exhausted:
        answer = None
    spent = budget - max(effort.left, 0.0) + (answer.seconds if answer is not None else 0.0)
    desk.search_seconds -= spent
    return OutOfTime(seconds=round(spent, 6)) if answer is None else answer


def _report(answer: Answer) -> SolverReport:
    match answer:
        case Solved():
            status = "optimal" if answer.optimal else "feasible"
            return SolverReport(status=status, gap=answer.gap, seconds=answer.seconds)
        case ProvedImpossible():
            return SolverReport(status="impossible", seconds=answer.seconds)
        case OutOfTime():
            return SolverReport(status="budget", seconds=answer.seconds)


def _contenders(desk: Desk, ledger: Ledger, head: Sequence[str]) -> tuple[list[Contender], tuple[int, ...]]:
    """The gangs of the head with what they take of each budget; and the budgets, what their queues may still take.

    Worth: GPUs, twice as much at the head of the queue as at its end."""
    costs = {key: _cost(desk, key) for key in head}
    budgets = _budgets(desk, ledger, costs)
    contenders = [
        Contender(
            gang=key,
            group=_piece(desk, key).group,
            must=key in desk.placed,
            value=(1 + costs[key][GPU] // 1000) * (2 * len(head) - place),
            amounts=tuple(amounts.get(key, 0) for _, amounts in budgets),
        )
        for place, key in enumerate(head)
    ]
    return contenders, tuple(room for room, _ in budgets)


def _cost(desk: Desk, key: str) -> Resources:
    if key in desk.placed:
        return total(grant.cost for grant in desk.placed[key][0].grants)
    return desk.estimate(desk.waiting[key])


def _budgets(desk: Desk, ledger: Ledger, costs: Mapping[str, Resources]) -> list[tuple[int, dict[str, int]]]:
    """Limits and quotas that these gangs together could break: what is left, and what each would take of it."""
    found = []
    for queue in desk.tree.queues.values():
        below = [key for key in costs if queue in desk.tree.ancestors(desk.queue_of[key])]
        firm = [key for key in below if not desk.wants[key].gang.preemptible]
        asked = total(costs[key] for key in firm)
        limits = [(name, rule.limit, below, ledger.allocated) for name, rule in sorted(queue.resources.items())]
        quotas = [(name, queue[name].quota, firm, ledger.nonpreemptible) for name in under_quota(queue, asked)]
        for name, most, gangs, used in (*limits, *quotas):
            amounts = {key: costs[key][name] for key in gangs if costs[key][name]}
            room = None if most is None else most - used.get(queue.name, NOTHING)[name]
            if room is not None and sum(amounts.values()) > room:
                found.append((room, amounts))
    return found


def _problem(rooms: Rooms, contenders: Sequence[Contender], budgets: tuple[int, ...]) -> Problem | None:
    """The question as numbers; None if there are too many ways to fill a node, or too many variables."""
    wanted: dict[int, int] = {}
    levels: set[Level] = set()
    for contender in contenders:
        for group in contender.group.walk():
            for unit in group.units:
                wanted[unit.shape] = wanted.get(unit.shape, 0) + 1
            levels.update(level for level in (group.required, *group.steps[:1]) if level is not None)
    ways: dict[_Alike, tuple[Pattern, ...]] = {}
    zones, fills = [], 0
    for where, classes in _zones(rooms, sorted(levels), sorted(wanted)).items():
        filled = []
        for alike, nodes in classes.items():
            if alike not in ways:
                shapes = [shape for shape, suits in zip(sorted(wanted), alike[1], strict=True) if suits]
                patterns = _patterns(rooms, nodes[0], {shape: wanted[shape] for shape in shapes})
                if patterns is None:
                    return None
                ways[alike] = patterns
            if ways[alike]:
                whole = rooms.ledger.untouched(nodes[0])
                filled.append(NodeClass(nodes=tuple(nodes), patterns=ways[alike], whole=whole))
            fills += len(ways[alike])
            if fills > MOST_VARIABLES:
                return None
        zones.append(Zone(domains=where, classes=tuple(filled)))
    problem = Problem(contenders=tuple(contenders), zones=tuple(zones), budgets=budgets)
    return _with_likes(rooms, problem) if problem.size() <= MOST_VARIABLES else None


_Alike = tuple[int, tuple[bool, ...]]
"""The state of a node, and which shapes suit it."""

_Where = tuple[tuple[Level, str], ...]


def _zones(rooms: Rooms, levels: Sequence[Level], shapes: Sequence[int]) -> dict[_Where, dict[_Alike, list[str]]]:
    """The nodes that suit any of the shapes: those that no level tells apart, and of them those that are alike."""
    zones: dict[_Where, dict[_Alike, list[str]]] = {}
    for node in rooms.nodes:
        suits = tuple(not rooms.suits(node, shape) for shape in shapes)
        if any(suits):
            named = ((level, rooms.domains.of(level).get(node)) for level in levels)
            where = tuple((level, name) for level, name in named if name is not None)
            zones.setdefault(where, {}).setdefault((rooms.ledger.state(node), suits), []).append(node)
    return zones


def _patterns(rooms: Rooms, node: str, wanted: Mapping[int, int]) -> tuple[Pattern, ...] | None:
    """The maximal ways to fill the node with at most so many of each shape; None if there are too many."""
    shapes = sorted(wanted, key=lambda shape: (*(-part for part in rooms.hardness(shape)), shape))
    found: list[Pattern] = []

    def fill(position: int, load: Load) -> bool:
        """Add the patterns that begin with `load`; whether it takes all that is wanted of the later shapes."""
        if position == len(shapes):
            if load and not any(room_for(load, shape) for shape in shapes):
                found.append(load)
            return True
        shape, rest = shapes[position], shapes[position + 1 :]
        most = rooms.capacity(node, load, shape, wanted[shape])
        last = most if not rest else 0
        for count in range(most, last - 1, -1):
            complete = fill(position + 1, with_more(load, shape, count))
            if len(found) > MOST_PATTERNS:
                return False
            if complete:  # with fewer of this shape there is nothing to gain
                return count == wanted[shape]
        return False

    def room_for(load: Load, shape: int) -> bool:
        return dict(load).get(shape, 0) < wanted[shape] and rooms.capacity(node, load, shape, 1) > 0

    fill(0, ())
    return tuple(found) if len(found) <= MOST_PATTERNS else None


def _with_likes(rooms: Rooms, problem: Problem) -> Problem:
    """The problem with what its pods like better, if any has a list of alternatives and the model can take it."""
    known: dict[tuple[int, tuple[Pattern, ...]], tuple[tuple[Pattern, ...], tuple[int, ...]]] = {}

    def liked(alike: NodeClass) -> NodeClass:
        if not any(map(rooms.choosy, alike.patterns)):
            return alike
        key = rooms.ledger.state(alike.nodes[0]), alike.patterns
        patterns, dislikes = known.get(key) or known.setdefault(key, _liked(rooms, alike.nodes[0], alike.patterns))
        return replace(alike, patterns=patterns, dislikes=dislikes)

    zones = tuple(replace(zone, classes=tuple(map(liked, zone.classes))) for zone in problem.zones)
    better = replace(problem, zones=zones)
    return better if better.size() <= MOST_VARIABLES else problem


def _liked(rooms: Rooms, node: str, maximal: tuple[Pattern, ...]) -> tuple[tuple[Pattern, ...], tuple[int, ...]]:
    """The patterns, and unless there are too many those with fewer of the pods that have lists of alternatives, as far
    as the others are served better then; and how far down the lists each pattern goes."""
    dislikes = {pattern: rooms.verdict(node, pattern).alternatives for pattern in maximal}
    waiting = list(maximal)
    while waiting:
        pattern = waiting.pop()
        for shape, _ in pattern if dislikes[pattern] else ():
            fewer = with_more(pattern, shape, -1)
            if fewer and fewer not in dislikes and rooms.choosy(((shape, 1),)):
                dislikes[fewer] = rooms.verdict(node, fewer).alternatives
                waiting.append(fewer)
        if len(dislikes) > MOST_PATTERNS:
            return maximal, tuple(dislikes[each] for each in maximal)
    lesser = sorted(
        pattern
        for pattern, dislike in dislikes.items()
        if pattern not in maximal and not any(_holds(more, pattern) and dislikes[more] <= dislike for more in dislikes)
    )
    patterns = (*maximal, *lesser)
    return patterns, tuple(dislikes[pattern] for pattern in patterns)


def _holds(more: Pattern, pattern: Pattern) -> bool:
    """Whether `more` has a seat for all of the pattern, and others."""
    offered = dict(more)
    return more != pattern and all(offered.get(shape, 0) >= count for shape, count in pattern)
