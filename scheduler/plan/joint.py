"""Joint placement: where taking one pod after the other finds no room, the solver looks at all of them at once.

For one gang of unlike pods it finds seats or proves that there are none. Where gangs wait although there may be room
for them, it moves what this plan has placed, and never drops any of it. Patterns are read off the same rooms that
placed the pods, and what the solver answers is allocated for real before it is believed.
"""

from collections.abc import Mapping, Sequence

from queues.limits import under_quota
from queues.resources import NOTHING, Resources, total
from scheduler.model.plan import SolverReport
from scheduler.model.reasons import GangDoesNotFit
from scheduler.plan.accounts import GPU
from scheduler.plan.desk import Desk, Placed
from scheduler.plan.ledger import Ledger
from scheduler.plan.realise import realise
from scheduler.plan.rooms import Load, Rooms, with_more
from scheduler.plan.shapes import claims_of
from scheduler.plan.wants import Wanted
from scheduler.solver import greedy
from scheduler.solver.greedy import Short
from scheduler.solver.problem import Contender, Level, Move, NodeClass, Pattern, Problem, Zone
from scheduler.solver.solve import Answer, Hint, OutOfTime, ProvedImpossible, Solved, solve

MOST_VARIABLES = 3_000
"""Beyond this the first answer of a model costs more than it is worth (measured: 0.25 to 1 s)."""

MOST_SHAPES = 8
"""More kinds of pods than this fill a node in too many ways."""

MOST_PATTERNS = 256
"""Maximal ways to fill one node."""

MOST_LOADS = 1_000
"""Loads of one node looked at on the way to its patterns: dead ends cost as much as finds."""


def seat_alone(desk: Desk, gang: str, piece: Wanted) -> tuple[tuple[Move, ...] | None, SolverReport]:
    """Seats for a gang that the greedy could not place, None if there are none or none were found; and how sure that
    is ("impossible": proved)."""
    problem = _problem(desk.rooms, [Contender(gang=gang, group=piece.group, must=True, value=1)])
    answer = _search(desk, problem)
    if isinstance(answer, Solved):
        return answer.moves[gang], _report(answer)
    if isinstance(answer, ProvedImpossible) and desk.rooms.proved:
        return None, _report(answer)
    return None, SolverReport(status="budget", seconds=answer.seconds)


def place_jointly(desk: Desk) -> None:
    """Let gangs that wait for room, and those that this plan has placed, find their places together."""
    policy = desk.snapshot.policy
    waiting = [key for key in desk.waiting if isinstance(desk.reasons.get(key), GangDoesNotFit)]
    shared = _shared_claims(desk)
    waiting = [key for key in waiting if shared.isdisjoint(_open_claims(desk.waiting[key]))]
    movable = [key for key in desk.placed if _is_movable(desk, key, shared)]
    if not waiting or not movable or not policy.solver_enabled:
        return
    waiting = _few_shapes(desk, waiting, policy.solver_gangs // 2)
    movable = _few_shapes(desk, movable, policy.solver_gangs - len(waiting), with_=waiting)
    ledger = desk.ledger.fork()
    for key in movable:
        for grant in desk.placed[key][0].grants:
            ledger.give_back(grant)
            desk.charge(ledger, desk.wants[key].gang, grant.cost * -1)
    rooms = Rooms(ledger, desk.shapes, desk.domains, policy)
    hopeful = [key for key in waiting if _may_fit(rooms, desk.waiting[key])]
    if not hopeful:
        return
    head = sorted([*movable, *hopeful], key=lambda key: desk.order[key])
    contenders, budgets = _contenders(desk, ledger, head)
    hint = tuple((key, desk.placed[key][0].moves) for key in movable)
    answer = _search(desk, _problem(rooms, contenders, budgets), hint)
    report = _report(answer)
    if isinstance(answer, Solved) and len(answer.moves) > len(movable) and not _accept(desk, ledger, answer):
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


def _open_claims(piece: Wanted) -> set[str]:
    return {ask.key for bundles in piece.bundles.values() for bundle in bundles for ask in bundle.asks}


def _is_movable(desk: Desk, gang: str, shared: frozenset[str]) -> bool:
    """Placed in one piece by this plan, with claims that nobody else names (`shared`) or consumes, and that held
    nothing before."""
    if len(desk.placed[gang]) != 1 or desk.placed[gang][0].fixed:
        return False
    if not shared.isdisjoint(_open_claims(desk.placed[gang][0].piece)):
        return False
    grants = desk.placed[gang][0].grants
    own = {claim.key for grant in grants for claim, _ in grant.allocated}
    pods = {grant.pod.uid for grant in grants}
    return all(key in own and desk.ledger.consumers(key) <= pods for grant in grants for key in grant.joins)


def _may_fit(rooms: Rooms, piece: Wanted) -> bool:
    """Whether it would find room if all that can be moved were away."""
    found = greedy.place(piece.group, rooms.nodes, rooms)
    return not isinstance(found, Short) or not found.certain


def _accept(desk: Desk, ledger: Ledger, answer: Solved) -> bool:
    """Put the answer into the plan, if its devices can be had and its queues may take it; whether that was so."""
    pieces = {key: _piece(desk, key) for key in answer.moves}
    grants = realise(desk, [(pieces[gang], moves) for gang, moves in answer.moves.items()], ledger.in_use)
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
    fits = _all_may_start(desk, found)
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


def _search(desk: Desk, problem: Problem | None, hint: Hint = ()) -> Answer:
    """Ask the solver, within what is left of the plan's time for searching."""
    policy = desk.snapshot.policy
    budget = min(policy.solver_deterministic_seconds, desk.search_seconds)
    if problem is None or problem.size() > MOST_VARIABLES or budget <= 0:
        return OutOfTime(seconds=0.0)
    answer = solve(problem, budget=budget, seed=policy.seed, hint=hint)
    desk.search_seconds -= answer.seconds
    return answer


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


def _problem(rooms: Rooms, contenders: Sequence[Contender], budgets: tuple[int, ...] = ()) -> Problem | None:
    """The question as numbers; None if there are too many ways to fill a node."""
    wanted: dict[int, int] = {}
    levels: set[Level] = set()
    for contender in contenders:
        for group in contender.group.walk():
            for unit in group.units:
                wanted[unit.shape] = wanted.get(unit.shape, 0) + 1
            levels.update(level for level in (group.required, *group.steps[:1]) if level is not None)
    ordered = sorted(levels)
    zones: dict[tuple[str | None, ...], dict[tuple[object, ...], list[str]]] = {}
    for node in rooms.nodes:
        suits = tuple(not rooms.suits(node, shape) for shape in sorted(wanted))
        if any(suits):
            where = tuple(rooms.domains.of(level).get(node) for level in ordered)
            alike = (rooms.ledger.state(node), suits)
            zones.setdefault(where, {}).setdefault(alike, []).append(node)
    made = []
    for where, classes in zones.items():
        filled = []
        for nodes in classes.values():
            patterns = _patterns(rooms, nodes[0], wanted)
            if patterns is None:
                return None
            if patterns:
                whole = rooms.ledger.untouched(nodes[0])
                filled.append(NodeClass(nodes=tuple(nodes), patterns=patterns, whole=whole))
        domains = tuple((level, name) for level, name in zip(ordered, where, strict=True) if name is not None)
        made.append(Zone(domains=domains, classes=tuple(filled)))
    return Problem(contenders=tuple(contenders), zones=tuple(made), budgets=budgets)


def _patterns(rooms: Rooms, node: str, wanted: Mapping[int, int]) -> tuple[Pattern, ...] | None:
    """The maximal ways to fill the node with at most so many of each shape; None if there are too many."""
    shapes = sorted(wanted, key=lambda shape: (*(-part for part in rooms.hardness(shape)), shape))
    found: list[Pattern] = []
    seen = 0

    def extend(position: int, load: Load) -> bool:
        nonlocal seen
        seen += 1
        if seen > MOST_LOADS:
            return False
        if position == len(shapes):
            if load and not any(room_for(load, shape) for shape in shapes):
                found.append(load)
            return len(found) <= MOST_PATTERNS
        shape = shapes[position]
        most = rooms.capacity(node, load, shape, wanted[shape])
        least = most if position == len(shapes) - 1 else 0
        return all(extend(position + 1, with_more(load, shape, count)) for count in range(most, least - 1, -1))

    def room_for(load: Load, shape: int) -> bool:
        return dict(load).get(shape, 0) < wanted[shape] and rooms.capacity(node, load, shape, 1) > 0

    return tuple(found) if extend(0, ()) else None
