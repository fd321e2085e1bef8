"""Stage 1: place pending gangs on what is free, in queue order, each whole or not at all.

A gang that finds no room does not stop those behind it, but from taking what is reserved for it. Past its minimum a
gang grows piece by piece, and after each piece waits for its turn again.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from queues.aging import Aging
from queues.ordering import Picker, Waiting
from queues.resources import Resources, total
from scheduler.api.dra import MOST_CONSUMERS
from scheduler.model.reasons import GangDoesNotFit, Reason, WaitingForClaims
from scheduler.model.workloads import Gang
from scheduler.plan.ahead.reservations import Reservations
from scheduler.plan.desk import Desk, Placed
from scheduler.plan.ground.causes import asks
from scheduler.plan.ground.ledger import Grant
from scheduler.plan.ground.shapes import claims_of
from scheduler.plan.pieces import Wanted
from scheduler.plan.placing import alternatives, joint, shared
from scheduler.plan.placing.never import hopeless, never
from scheduler.plan.placing.realise import one_by_one, realise
from scheduler.plan.wants import Wants
from scheduler.solver import greedy, trial
from scheduler.solver.greedy import Seated, Short
from scheduler.solver.problem import Group, Move

_PROMISED = "is promised to another gang, for which room is being made"
_PROMISED_REMEDY = "Wait until that gang has started."


def place_pending(desk: Desk) -> None:
    """Serve all gangs that want something, as the queues' order says; then let those in need share what there is."""
    pieces: dict[str, Wanted] = {}
    reservations = Reservations(desk, seek)
    turns = Picker(desk.tree, _first_turns(desk, pieces), desk.fair_shares, desk.ledger.allocated)
    while (turn := turns.next()) is not None:
        gang, piece = desk.wants[turn.key].gang, _as_it_stands(desk, turn, pieces[turn.key])
        if not isinstance(piece, Wanted):
            if piece is not None:
                desk.reasons[gang.key] = piece
            continue
        desk.order.setdefault(gang.key, len(desk.order))
        answer = reservations.answer(gang, piece, partial(_answer, desk, turn, piece))
        if isinstance(answer, Placed):
            desk.keep(gang, answer)
            reservations.settle(gang, answer)
            turns.charge(turn.queue, total(grant.cost for grant in answer.grants))
        else:
            desk.reasons[gang.key] = answer
            if not turn.reach:
                if not shared.ties_groups(piece):
                    desk.waiting[gang.key] = piece
                    reservations.consider(gang, piece)
                continue
            desk.wants[gang.key].fail(piece)
            desk.growing.setdefault(gang.key, piece)
        more = desk.wants[gang.key].growth()
        if more is not None:
            pieces[gang.key] = more
            turns.put(replace(turn, asked=_asked(desk, more), reach=_reach(desk.wants[gang.key])))
    joint.place_jointly(desk, reservations)
    reservations.close()


def _first_turns(desk: Desk, pieces: dict[str, Wanted]) -> Iterator[Waiting]:
    """A turn for every gang that wants something; its first piece goes into `pieces`."""
    policy = desk.snapshot.policy
    aging = Aging(weight=policy.age_weight, full_ms=round(policy.age_full_hours * 3_600_000))
    for key, wants in desk.wants.items():
        if key in desk.promised or key in desk.waiting:
            continue
        first = wants.minimum()
        piece = wants.growth() if first is None else first
        if isinstance(piece, Wanted):
            pieces[key] = piece
            gang = wants.gang
            yield Waiting(
                key=key,
                queue=desk.queue_of[key],
                asked=_asked(desk, piece),
                priority=gang.priority,
                created_ms=gang.created_ms,
                reach=_reach(wants) if first is None else 0,
                lift=aging.lift(gang.created_ms, desk.snapshot.now_ms),
            )
        elif piece is not None:
            desk.reasons.setdefault(key, piece)  # one that is stopped is told that


def _answer(desk: Desk, turn: Waiting, piece: Wanted) -> Placed | Reason:
    """Where the piece goes, within what its queue may take, or why nowhere. Pods that could never run are left
    out of a minimum if there are others."""
    wants = desk.wants[turn.key]

    def again() -> Placed | Reason | None:
        asked = _next_piece(wants, turn)
        return shared.place(desk, wants.gang, asked, place) if isinstance(asked, Wanted) else asked

    if not turn.reach:
        wants.left_out = hopeless(desk, piece)
        fewer = wants.minimum() if wants.left_out else None
        if isinstance(fewer, Wanted):
            piece = fewer
        else:
            wants.left_out = frozenset()
    answer = alternatives.within(desk, piece, shared.place(desk, wants.gang, piece, place), again)
    wants.left_out = frozenset()
    return answer


def _next_piece(wants: Wants, turn: Waiting) -> Wanted | Reason | None:
    return wants.growth() if turn.reach else wants.minimum()


def _reach(wants: Wants) -> int:
    """Of a gang that has its minimum."""
    return 2 if wants.bound > wants.needed else 1


def _as_it_stands(desk: Desk, turn: Waiting, piece: Wanted) -> Wanted | Reason | None:
    """The piece, asked anew if gangs served since have changed a claim that it shares with them: had devices allocated
    to it, or left it too few places for consumers; or if others may have come into a ComputeDomain of its. A claim that
    has devices promised is waited for."""
    wants = desk.wants[turn.key]
    for pod in piece.all_pods() if desk.promised or desk.aside else ():
        for key in claims_of(pod):
            if desk.ledger.is_promised(key):
                return WaitingForClaims(pod=pod.key, claim=key, problem=_PROMISED, remedy=_PROMISED_REMEDY)
    crowded = _crowded(desk, piece)
    if crowded:
        wants.recount()
    asks = (ask for bundles in piece.bundles.values() for bundle in bundles for ask in bundle.asks)
    joining = desk.compute_domains.of(piece.all_pods())  # pods of other gangs may have tied it to a clique
    if not crowded and not joining and all(desk.ledger.held(ask.key) is None for ask in asks):
        return piece
    return _next_piece(wants, turn)


def _crowded(desk: Desk, piece: Wanted) -> bool:
    """Whether a claim would have more consumers than it may have if all pods of the piece came to it, or their volumes
    have been given to others."""
    joining: dict[str, set[str]] = {}
    for pod in piece.all_pods():
        for key in claims_of(pod):
            joining.setdefault(key, set()).add(pod.uid)
    if desk.ledger.volumes.overtaken(piece.all_pods()):
        return True
    return any(len(desk.ledger.consumers(key) | pods) > MOST_CONSUMERS for key, pods in joining.items())


def _asked(desk: Desk, piece: Wanted) -> Resources:
    return desk.estimate(piece)


def place(desk: Desk, gang: Gang, piece: Wanted, at: str = "") -> Placed | Reason:
    """Where the piece goes, or why not. Changes nothing. `at`: the node where it has to go, if it is one bundle."""
    found = seek(desk, gang, piece, at)
    return why_not(desk, gang, piece, found) if isinstance(found, Short) else found


def seek(desk: Desk, gang: Gang, piece: Wanted, at: str = "") -> Placed | Short | Reason:
    """Where the piece goes, how far it gets, or what forbids it. Changes nothing. `at`: as for `place`."""
    refusal = desk.over(gang, _asked(desk, piece))
    if refusal is not None:
        return refusal
    found = _seat_at(desk, piece, at) if at else seats(desk, gang, piece)
    if isinstance(found, Short):
        return found
    grants: list[Grant] | int | None = realise(desk, [(piece, found)], desk.ledger.in_use, desk.ledger.volumes)
    fixed = grants is None
    if grants is None:
        bound = any(group.steps for group in piece.group.walk())
        grants = 0 if bound else one_by_one(desk, piece)
    if isinstance(grants, int):
        shape = piece.group.shapes()[0]
        return Short(placeable=grants, shape=shape, nodes=desk.rooms.nodes, certain=False)
    refusal = desk.over(gang, total(grant.cost for grant in grants))
    if refusal is not None:
        return refusal
    return Placed(piece=piece, moves=found, grants=tuple(grants), fixed=fixed)


def seats(desk: Desk, gang: Gang, piece: Wanted) -> tuple[Move, ...] | Short:
    """Seats for the piece: by the greedy; where it may have missed something, by the solver."""
    group = piece.group
    if desk.shapes.sociable(group.shapes()):  # who comes next may make room for them: nothing is remembered
        seated = _greedily(desk, group)
        if isinstance(seated, Seated):
            return seated.moves
        return (None if seated.certain else trial.place(group, desk.rooms.nodes, desk.rooms)) or seated
    known = desk.fruitless.get(group)
    if known is None:
        found = _greedily(desk, group)
        if isinstance(found, Seated):
            return found.moves
        known = found, None
        if not found.certain and desk.snapshot.policy.solver_enabled:
            moves, report = joint.seat_alone(desk, gang.key, piece)
            if moves is not None:
                desk.solved[gang.key] = report
                return moves
            known = replace(found, certain=report.status == "impossible"), report
        desk.fruitless[group] = known
    short, searched = known
    if searched is not None:
        desk.solved[gang.key] = searched
    return short


def _seat_at(desk: Desk, piece: Wanted, node: str) -> tuple[Move, ...] | Short:
    """The only bundle of the piece is on the node, if there is room for it."""
    ((leaf, shape),) = piece.bundles
    rooms = desk.rooms
    able = not rooms.suits(node, shape) and not rooms.verdict(node, ((shape, 1),)).cause
    if able and (not rooms.sociable(shape) or isinstance(rooms.welcome(node, shape, rooms.guests()), int)):
        return (Move(leaf=leaf, node=node, shape=shape, count=1),)
    return Short(placeable=0, shape=shape, nodes=(node,), certain=True)


def _greedily(desk: Desk, group: Group) -> Seated | Short:
    if len(group.units) == 1 and not group.steps and not group.pinned:
        shape = group.units[0].shape
        node = desk.rooms.best(shape)
        if node is None:
            return Short(placeable=0, shape=shape, nodes=desk.rooms.nodes, certain=True)
        return Seated(moves=(Move(leaf=group.name, node=node, shape=shape, count=1),))
    return greedy.place(group, desk.rooms.nodes, desk.rooms)


def why_not(desk: Desk, gang: Gang, piece: Wanted, short: Short) -> Reason:
    """Why a piece found no room: it cannot be decided, it could never run here, or there is too little free now."""
    refused = never(desk, piece)
    if refused is not None:
        return refused
    outside = short.outside and desk.domains.outside(short.outside, len(short.nodes))
    found = (outside,) if outside else desk.causes(short)
    return GangDoesNotFit(
        gang=gang.key,
        needed=piece.pods,
        placeable=min(short.placeable, piece.pods - 1),
        causes=found,
        scattered=None if outside else desk.scattered(short.shape, short.nodes),
        domain=short.domain,
        proved=short.certain and desk.rooms.proved,
        each="" if found or not short.nodes else asks(desk.rooms, short.shape, short.nodes[0]),
    )
