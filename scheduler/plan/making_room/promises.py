"""Promises of earlier plans: room that was won by eviction is kept for its gang until it binds or gives up.

A promise outlives cycles and restarts as the nodes that the gang's pods are nominated to. Whoever ends there is on his
way out; as soon as they have left, the gang is placed before all others. Each pod gets the very node it was promised if
that still holds, all gangs considered; only then are other places looked for. Nobody else knows whose a nomination is:
one that somebody else wrote is worth as much as the room that is there, or is becoming free there, and is gone with the
next plan if that is none. Source: kube-scheduler (nominatedNodeName); KEP 5278.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from queues.resources import total
from scheduler.model.endings import has_minimum
from scheduler.model.reasons import GangDoesNotFit, Reason, RoomIsBeingMade, WaitingForPods
from scheduler.model.workloads import Gang
from scheduler.plan.desk import Desk, Placed
from scheduler.plan.ground.ledger import Grant
from scheduler.plan.ground.rooms import load_of
from scheduler.plan.ground.shapes import Bundle, claims_of
from scheduler.plan.making_room.scenario import Leaving, book, promise, tell_promise
from scheduler.plan.pieces import Wanted
from scheduler.plan.placing import shared
from scheduler.plan.placing.allocate import place
from scheduler.plan.placing.realise import realise
from scheduler.plan.placing.shared import Placing
from scheduler.plan.wants import Wants
from scheduler.solver.problem import Group, Move


@dataclass(slots=True, kw_only=True)
class _Owed:
    """A gang that has a promise. `nodes`: which it names; `placed`: where its pods go as promised, booked until it
    starts."""

    gang: Gang
    nodes: frozenset[str]
    placed: Placed | None = None
    started: bool = False


def renew(desk: Desk) -> None:
    """Place the gangs whose room has become free, and keep the room of those whose has not."""
    held = _held_back(desk)
    desk.wants |= held
    owed = _owed(desk)
    if owed:
        _renew(desk, owed, frozenset(held))
    for key in held:
        del desk.wants[key]


def _renew(desk: Desk, owed: Sequence[_Owed], held: frozenset[str]) -> None:
    """`held`: gangs (key) that keep what they were promised and do not start."""
    leaving = Leaving.of(desk)
    with leaving.departed(desk):
        _seat_all(desk, owed)
    on: dict[str, list[int]] = {}
    for number, each in enumerate(owed):
        for node in each.nodes:
            on.setdefault(node, []).append(number)
    for number, each in enumerate(owed):
        if each.placed is not None and each.gang.key not in held:
            later = sorted({other for node in each.nodes for other in on[node] if other > number})
            _start(desk, each, [owed[other] for other in later], leaving)
    for each in owed:
        if each.placed is not None and not each.started:
            tell_promise(desk, each.gang, each.placed.grants)
            if each.gang.key not in held:
                _say(desk, each, leaving)
    for each in owed:
        if each.placed is None and each.gang.key not in held:
            _elsewhere(desk, each, leaving)
    _give_up(desk, leaving)


def _give_up(desk: Desk, leaving: Leaving) -> None:
    """Claims that those who leave have left behind, and that hold what is promised to others, are joined by nobody any
    more: the next pod of their gang would keep them from ever being released."""
    claims = desk.snapshot.claims
    named = {key for pod in leaving.pods for key in claims_of(pod) if key in claims} | {c.key for c in leaving.claims}
    ending, behind = {pod.uid for pod in leaving.pods}, {claim.key for claim in leaving.claims}
    for key in sorted(named):
        held = claims[key].allocation
        results = held.devices.results or () if held is not None else ()
        whole = ((each.driver, each.pool, each.device) for each in results if each.share_id is None)
        promised = any(device in desk.promised_devices for device in whole)
        if promised and (key in behind or desk.ledger.consumers(key) <= ending):
            desk.given_up.add(key)
    if desk.given_up:
        for wants in desk.wants.values():
            if any(key in desk.given_up for pods in wants.waiting_pods() for pod in pods for key in claims_of(pod)):
                wants.recount()


def _held_back(desk: Desk) -> dict[str, Wants]:
    """What gangs want (by key) whose last commit failed and that nothing else keeps from starting."""
    return {
        gang.key: _wants(desk, gang)
        for gang in desk.snapshot.gangs
        if gang.held_back and len(gang.problems) == 1 and gang.key in desk.queue_of
    }


def _wants(desk: Desk, gang: Gang) -> Wants:
    return Wants(
        gang,
        desk.snapshot.claims,
        desk.ledger.consumers,
        desk.shapes,
        desk.domains,
        desk.ledger.volumes,
        desk.given_up,
        desk.compute_domains,
    )


def _owed(desk: Desk) -> list[_Owed]:
    """Gangs with promises, those first that come first in their queue."""
    owed = []
    for wants in desk.wants.values():
        nodes = frozenset(pod.nominated for pod in wants.gang.pending if pod.nominated)
        if nodes:
            owed.append(_Owed(gang=wants.gang, nodes=nodes))
    return sorted(owed, key=lambda each: (-each.gang.priority, each.gang.created_ms, each.gang.key))


def _seat_all(desk: Desk, owed: Sequence[_Owed]) -> None:
    """Book the promised seats of all, or of as many as can be. Who is seated first may take the only device that serves
    another: then these are seated first."""
    lost = _seat(desk, owed)
    if not lost:
        return
    first = len(lost)
    _lift(desk, owed)
    if len(_seat(desk, [*lost, *(each for each in owed if each not in lost)])) >= first:
        _lift(desk, owed)
        _seat(desk, owed)


def _seat(desk: Desk, owed: Iterable[_Owed]) -> list[_Owed]:
    """Book the promised seats of these, one after the other; those that do not have theirs any more."""
    lost = []
    for each in owed:
        placed = _as_promised(desk, each.gang)
        if isinstance(placed, Placed):
            each.placed = placed
            book(desk, each.gang, placed.grants)
        else:
            lost.append(each)
    return lost


def _lift(desk: Desk, owed: Iterable[_Owed]) -> None:
    for each in owed:
        if each.placed is not None:
            book(desk, each.gang, each.placed.grants, -1)
            each.placed = None


def _start(desk: Desk, each: _Owed, others: Sequence[_Owed], leaving: Leaving) -> None:
    """Place the gang where it was promised, if that room is free by now; if need be in room of those who are leaving
    that `others`, who are promised some of the same nodes, then take instead."""
    before = [(other, other.placed) for other in (each, *others) if other.placed is not None]
    waiting = [other for other, _ in before[1:]]
    _lift(desk, [each])
    placed = _now(desk, each.gang)
    if placed is None and waiting:
        _lift(desk, waiting)
        placed = _now(desk, each.gang)
        if placed is not None:
            book(desk, each.gang, placed.grants)
            with leaving.departed(desk):
                lost = _seat(desk, waiting)
            book(desk, each.gang, placed.grants, -1)
            if lost:
                _lift(desk, waiting)
                placed = None
        if placed is None:
            _book_again(desk, before[1:])
    if placed is None:
        _book_again(desk, before[:1])
        return
    each.placed, each.started = placed, True
    desk.order.setdefault(each.gang.key, len(desk.order))
    desk.keep(each.gang, placed)


def _now(desk: Desk, gang: Gang) -> Placed | None:
    """Where the gang starts if it starts at once; None if it has to wait."""
    placed = _as_promised(desk, gang)
    return placed if isinstance(placed, Placed) and not _waits_for_claims(desk, placed) else None


def _book_again(desk: Desk, before: Iterable[tuple[_Owed, Placed]]) -> None:
    for each, placed in before:
        each.placed = placed
        book(desk, each.gang, placed.grants)


def _waits_for_claims(desk: Desk, placed: Placed) -> bool:
    """Whether it shares a claim with a gang that has to start first."""
    return any(desk.ledger.is_promised(key) for grant in placed.grants for key in grant.joins)


def _elsewhere(desk: Desk, each: _Owed, leaving: Leaving) -> None:
    """A gang whose promise does not hold as it is: while some of its room is there, it is placed before others, too, in
    what nobody else was promised. If that is impossible, what is left is kept for it until it is seen whether others
    make way for the rest; and if it lacks pods, until those have left who are leaving."""
    gang = each.gang
    with leaving.departed(desk):
        rest = _rest(desk, gang)
    if not rest:
        return
    answer = _anywhere(desk, gang)
    if isinstance(answer, Placed) and not _waits_for_claims(desk, answer):
        desk.order.setdefault(gang.key, len(desk.order))
        desk.keep(gang, answer)
        return
    with leaving.departed(desk):
        answer = _anywhere(desk, gang)
    if isinstance(answer, Placed):
        promise(desk, gang, answer.grants)
        each.nodes = frozenset(grant.node for grant in answer.grants)
        _say(desk, each, leaving)
    elif isinstance(answer, WaitingForPods) and _leaving_there(each, leaving):
        promise(desk, gang, rest)
        desk.reasons[gang.key] = answer
    elif isinstance(answer, GangDoesNotFit):
        _wait_with(desk, gang, rest)


def _wait_with(desk: Desk, gang: Gang, rest: Sequence[Grant]) -> None:
    """The gang waits for others to make way for what it lacks, and nobody takes what it has before that."""
    answer, piece = _anywhere(desk, gang), desk.wants[gang.key].minimum()
    if isinstance(answer, GangDoesNotFit) and isinstance(piece, Wanted) and not shared.ties_groups(piece):
        for grant in rest:
            desk.ledger.reserve(grant)
        desk.aside[gang.key] = tuple(rest)
        desk.order.setdefault(gang.key, len(desk.order))
        desk.waiting[gang.key] = piece
        desk.reasons[gang.key] = answer


def _anywhere(desk: Desk, gang: Gang) -> Placed | Reason | None:
    """Where the gang's next piece goes, wherever that is."""
    return _next_piece(desk, gang, place)


def _as_promised(desk: Desk, gang: Gang) -> Placed | Reason | None:
    """Where its promised pods go if each goes where it was promised; a reason if there is no room, or they would not be
    enough any more."""
    promised = replace(gang, pods=tuple(pod for pod in gang.pods if pod.node or pod.nominated))
    with _asking_for(desk, promised):
        return None if _is_broken(gang) else _next_piece(desk, gang, _at_its_nodes)


def _next_piece(desk: Desk, gang: Gang, placing: Placing) -> Placed | Reason | None:
    wants = desk.wants[gang.key]
    piece = wants.minimum()
    piece = wants.growth() if piece is None else piece
    return shared.place(desk, gang, piece, placing) if isinstance(piece, Wanted) else piece


@contextmanager
def _asking_for(desk: Desk, gang: Gang) -> Iterator[Wants]:
    """For as long as this lasts the gang consists of these pods."""
    own = desk.wants[gang.key]
    wants = desk.wants[gang.key] = _wants(desk, gang)
    yield wants
    desk.wants[gang.key] = own


def _is_broken(gang: Gang) -> bool:
    """Whether its promise, kept as it is, would start less than what has to start together: a sub-group that needs all
    of its pods has one that was promised nothing, made anew perhaps. Groups of which not all are needed may be left
    out, each as a whole."""
    if not gang.sub_groups:
        return False  # its minimum is asked for as that of any gang
    stay = {pod.key for pod in gang.pods if (pod.node or pod.nominated) and not (pod.terminating or pod.done)}
    if not has_minimum(gang, stay):
        return True
    whole = {sub.name for sub in gang.sub_groups if sub.min_member is None}
    promised = {pod.sub_group for pod in gang.pending if pod.nominated}
    return any(
        pod.sub_group in whole & promised and not (pod.node or pod.nominated or pod.done or pod.terminating)
        for pod in gang.pods
    )


def _at_its_nodes(desk: Desk, gang: Gang, piece: Wanted) -> Placed | Reason:
    """All of the piece, each pod on the node it is nominated to; `shared.Placing`."""
    refusal = desk.over(gang, desk.estimate(piece))
    if refusal is not None:
        return refusal
    lost = GangDoesNotFit(gang=gang.key, needed=piece.pods, placeable=0, causes=(), proved=False)
    asked = [(leaf, bundle) for (leaf, _), bundles in piece.bundles.items() for bundle in bundles]
    seats = _seats(desk, asked)
    if len(seats) < len(asked) or not _in_their_domains(desk, piece.group, seats):
        return lost
    found = _grants(desk, piece.group, seats)
    if found is None:
        return lost
    piece, moves, grants = found
    refusal = desk.over(gang, total(grant.cost for grant in grants))
    return refusal or Placed(piece=piece, moves=moves, grants=tuple(grants), fixed=True)


def _rest(desk: Desk, gang: Gang) -> list[Grant]:
    """What there is of the room that its pods were promised."""
    promised = replace(gang, pods=tuple(pod for pod in gang.pods if pod.node or pod.nominated))
    with _asking_for(desk, promised) as wants:
        pods = [pod for leaf in wants.waiting_pods() for pod in leaf]
        asked = [
            bundle
            for node in sorted({pod.nominated for pod in pods})
            for bundle in desk.shapes.bundles([pod for pod in pods if pod.nominated == node])
        ]
        found = _grants(desk, Group(name="", minimum=0), _seats(desk, [("", bundle) for bundle in asked]))
    return found[2] if found is not None else []


_Seat = tuple[str, str, Bundle]
"""Leaf, node, and who sits there."""


def _seats(desk: Desk, asked: Iterable[tuple[str, Bundle]]) -> list[_Seat]:
    """Those of the bundles (each after its leaf) that find room where all of their pods are nominated. Who misses
    company is tried once more when others have come."""
    rooms, guests = desk.rooms, desk.rooms.guests()
    load: dict[str, Counter[int]] = {}
    seats: list[_Seat] = []
    waiting = list(asked)
    while waiting:
        left = []
        for leaf, bundle in waiting:
            node, shape = bundle.pods[0].nominated, bundle.shape
            here = load.setdefault(node, Counter())
            there = node in desk.ledger.nodes and all(pod.nominated == node for pod in bundle.pods)
            if (
                there
                and rooms.capacity(node, load_of(here), shape, 1)
                and (not rooms.sociable(shape) or isinstance(rooms.welcome(node, shape, guests), int))
            ):
                here[shape] += 1
                rooms.seat(node, shape, guests)
                seats.append((leaf, node, bundle))
            else:
                left.append((leaf, bundle))
        if len(left) == len(waiting):
            break
        waiting = left
    return seats


def _in_their_domains(desk: Desk, group: Group, seats: Sequence[_Seat]) -> bool:
    """Whether every group that has to stay in one domain does."""
    for each in group.walk():
        if each.required is None:
            continue
        of, leaves = desk.domains.of(each.required), {below.name for below in each.walk()}
        domains = {of.get(node, "") for leaf, node, _ in seats if leaf in leaves}
        if len(domains) > 1 or "" in domains or (each.pinned and domains != {each.pinned}):
            return False
    return True


def _grants(desk: Desk, group: Group, seats: Iterable[_Seat]) -> tuple[Wanted, tuple[Move, ...], list[Grant]] | None:
    """The group as seated, and what its pods get there; None if devices or volumes are not there."""
    bundles: dict[tuple[str, int], list[Bundle]] = {}
    counts: Counter[tuple[str, str, int]] = Counter()
    # Bundles come in the order in which moves are carried out: node by node.
    for leaf, node, bundle in sorted(seats, key=lambda seat: seat[:2]):
        bundles.setdefault((leaf, bundle.shape), []).append(bundle)
        counts[node, leaf, bundle.shape] += 1
    piece = Wanted(group=group, bundles={key: tuple(each) for key, each in bundles.items()})
    moves = tuple(Move(leaf=leaf, node=node, shape=shape, count=n) for (node, leaf, shape), n in sorted(counts.items()))
    grants = realise(desk, [(piece, moves)], desk.ledger.in_use, desk.ledger.volumes)
    return None if grants is None else (piece, moves, grants)


def _leaving_there(each: _Owed, leaving: Leaving) -> int:
    """How many leave the nodes that the gang was promised room on."""
    return sum(1 for pod in leaving.pods if pod.node in each.nodes)


def _say(desk: Desk, each: _Owed, leaving: Leaving) -> None:
    pods = len(desk.promised[each.gang.key])
    desk.reasons[each.gang.key] = RoomIsBeingMade(gang=each.gang.key, pods=pods, leaving=_leaving_there(each, leaving))
