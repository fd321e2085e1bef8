"""Reservations: the first gangs that find no room get it by a time that is known; those behind them leave it to them.

Of each queue the first gangs that have no place now are given one at the earliest time at which enough others are known
to have left. Whoever comes after them in the order may use that room if he is certain to have left by then, or if the
gang has a place then all the same. Where no end is known no time can be told; a gang that has waited for long then
keeps what is free on the nodes where the least is missing, if the policy says so. All of it is worked out anew in each
plan, from the snapshot alone. Source: Slurm (backfill); Volcano (reservation of nodes for the gang that waits longest).
"""

from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from queues.limits import may_start
from queues.resources import NOTHING, Resources, total
from scheduler.model.reasons import GangDoesNotFit, Reason
from scheduler.model.workloads import Claim, Gang
from scheduler.plan.ahead.departures import (
    Departure,
    ends_by_ms,
    longest_ms,
    of_placed,
    of_running,
    of_whoever_runs,
)
from scheduler.plan.ahead.foresight import Foresight, Placing, earliest, helpful
from scheduler.plan.ahead.turns import keeps_what_is_free, next_turn_ms
from scheduler.plan.desk import Desk, Placed, Reservation
from scheduler.plan.ground.ledger import Grant
from scheduler.plan.pieces import Wanted
from scheduler.solver.problem import Group

MOST = 8
"""Reservations of one plan, in all queues together."""

LOOKS = 24
"""Gangs for which a plan looks for a time."""

RECHECKS = 16
"""How often a plan looks whether a gang keeps its time although others take its room."""

COMPANY_CHECKS = 64
"""How often it looks whether a gang keeps its time beside pods that have rules about others."""

Ask = Callable[[], Placed | Reason]


class Reservations:
    """Those of one plan, while its gangs are served in turn."""

    def __init__(self, desk: Desk, place: Placing) -> None:
        """`place`: where a piece goes as the ledger stands."""
        self._desk = desk
        self._place = place
        self._looks = LOOKS if desk.snapshot.policy.reservations else 0
        self._rechecks, self._company_checks = RECHECKS, COMPANY_CHECKS
        self._reserved_in: Counter[str] = Counter()
        self._first: dict[str, str] = {}
        self._known: list[Departure] | None = None
        self._gangs: dict[str, Gang] = {}
        self._until: dict[str, tuple[Departure, ...]] = {}
        """By gang (key) with a drain: those who have to leave before it."""
        self._vain: dict[frozenset[str], set[Group]] = {}
        """What finds no room even in that of these gangs."""
        self._told: dict[tuple[Group, str], tuple[Reservation, bool]] = {}
        self._withheld: set[str] = set()
        """Gangs (key) that would make others late by more than the nodes they take: no later stage may help them."""

    def answer(self, gang: Gang, piece: Wanted, ask: Ask) -> Placed | Reason:
        """What `ask` answers for a piece of the gang, unless it would delay those who have reservations."""
        answer, reserved = ask(), self._desk.reserved
        if not reserved:
            return answer
        if isinstance(answer, Placed):
            late = self._delayed(gang, answer, self._ending_before(gang))
            return answer if late is None else self._refusal(gang, piece, late, None)
        if not isinstance(answer, GangDoesNotFit):
            return answer
        return self._in_reserved_room(gang, piece, answer, ask)

    def settle(self, gang: Gang, placed: Placed) -> None:
        """The piece is placed, and will leave when its gang does."""
        if self._known is None:
            return
        more = tuple(of_placed(self._desk, gang, placed))
        for one in more:
            insort(self._known, one, key=_by_time)
        for each in self._desk.reserved.values() if more else ():
            gone = [one for one in more if each.starts_at_ms is not None and one.when <= each.starts_at_ms]
            touched = each.nodes.intersection(one.node for one in gone)
            self._unblock(each, touched)
            self._count(each, gone)
            self._block(each, touched)

    def consider(self, gang: Gang, piece: Wanted) -> None:
        """Reserve room for the gang, which has found none, if it is among the first and the room can be foreseen."""
        desk, policy = self._desk, self._desk.snapshot.policy
        queue = desk.queue_of[gang.key]
        if not isinstance(desk.reasons.get(gang.key), GangDoesNotFit) or _shares_claims(piece):
            return
        first = self._first.setdefault(queue, gang.key) == gang.key
        if self._looks <= 0 or self._reserved_in[queue] >= policy.reservations or len(desk.reserved) >= MOST:
            return
        found = self._in_time(gang, piece)
        if found is None and first and self._has_waited(gang):
            found = self._in_turn(gang, piece)
        if found is None:
            return
        self._reserved_in[queue] += 1
        desk.reserved[gang.key] = found
        self._block(found)

    def close(self) -> None:
        """All have been served. Those who still wait keep their room whole, whatever later stages do, and are told."""
        desk = self._desk
        for key in self._withheld.union(self._beyond_limits()):
            desk.waiting.pop(key, None)
            desk.growing.pop(key, None)
        for key, each in list(desk.reserved.items()):
            self._unblock(each)
            if key not in desk.waiting:
                del desk.reserved[key]
                continue
            for grant in each.grants:
                desk.ledger.reserve(grant)
            desk.aside[key] = each.grants
            reason = desk.reasons[key]
            if isinstance(reason, GangDoesNotFit):
                nodes = len(each.nodes)
                desk.reasons[key] = replace(
                    reason,
                    starts_at_ms=each.starts_at_ms,
                    waits_for=each.waits_for,
                    reserved_nodes=nodes,
                    keeps_until_ms=each.until_ms,
                )

    def _beyond_limits(self) -> Iterator[str]:
        """Gangs (key) that wait behind a reservation and would take what its queues may still start."""
        desk = self._desk
        if desk.snapshot.policy.stages == ("allocate",):
            return
        for each in desk.reserved.values():
            above = {queue.name for queue in desk.tree.ancestors(desk.queue_of[each.gang.key])}
            for key, piece in (*desk.waiting.items(), *desk.growing.items()):
                gang = desk.wants[key].gang
                behind = key not in desk.reserved and desk.order[key] > desk.order[each.gang.key]
                shared = behind and any(queue.name in above for queue in desk.tree.ancestors(desk.queue_of[key]))
                if shared and not self._has_limits(each, gang, desk.estimate(piece)):
                    yield key

    def allow(self, found: Mapping[str, Placed]) -> bool:
        """Whether all reservations hold if these gangs (key) are placed so besides what is placed already. Those of
        them that have a reservation need it no more."""
        desk, before = self._desk, self._desk.reserved
        if not before:
            return True
        for each in before.values():
            self._unblock(each)
        desk.reserved = {key: each for key, each in before.items() if key not in found}
        for each in desk.reserved.values():
            self._block(each)
        for key, placed in found.items():
            for grant in placed.grants:
                desk.ledger.take(grant)
            desk.charge(desk.ledger, desk.wants[key].gang, total(grant.cost for grant in placed.grants))
        self._known = self._gathered(found)
        allowed = all(self._has_its_place(each) and self._has_limits(each) for each in desk.reserved.values())
        for key, placed in found.items():
            for grant in placed.grants:
                desk.ledger.give_back(grant)
            desk.charge(desk.ledger, desk.wants[key].gang, total(grant.cost for grant in placed.grants) * -1)
        if not allowed:
            for each in desk.reserved.values():
                self._unblock(each)
            desk.reserved = before
            for each in before.values():
                self._block(each)
        return allowed

    # Those who come behind.

    def _ending_before(self, gang: Gang) -> list[Reservation]:
        """Reservations that the gang does not touch, since it has left by then."""
        end = ends_by_ms(gang, self._desk.snapshot.now_ms)
        return [
            each
            for each in self._desk.reserved.values()
            if end is not None and each.starts_at_ms is not None and end <= each.starts_at_ms
        ]

    def _in_reserved_room(self, gang: Gang, piece: Wanted, answer: GangDoesNotFit, ask: Ask) -> Placed | Reason:
        """A gang that finds no other room."""
        brief = self._ending_before(gang)
        if brief:
            found = self._without(brief, piece, ask)
            if isinstance(found, Placed):
                late = self._delayed(gang, found, brief)
                if late is None:
                    return replace(found, fixed=True)
        question = piece.group, self._desk.queue_of[gang.key]
        known = self._told.get(question)
        if known is not None:
            late, withheld = known
            if withheld:
                self._withheld.add(gang.key)
            if _is_one_of(late, brief):  # for those it was told of, not for this one
                late = next((each for each in self._desk.reserved.values() if not _is_one_of(each, brief)), late)
            return self._refusal(gang, piece, late, answer)
        every = list(self._desk.reserved.values())
        found = self._without(every, piece, ask)
        if not isinstance(found, Placed):
            return answer
        if self._rechecks > 0:
            self._rechecks -= 1
            late = self._delayed(gang, found, brief, anew=True)
            if late is None:
                return replace(found, fixed=True)
        taken = {grant.node for grant in found.grants}
        late = next((each for each in every if not _is_one_of(each, brief) and taken & each.nodes), every[0])
        told = self._refusal(gang, piece, late, answer)
        if not self._desk.shapes.sociable(piece.group.shapes()):
            self._told[question] = late, gang.key in self._withheld
        return told

    def _without(self, lifted: Sequence[Reservation], piece: Wanted, ask: Ask) -> Placed | Reason | None:
        """What is answered if these did not have their room reserved; None if that is known to be in vain."""
        vain = self._vain.setdefault(frozenset(each.gang.key for each in lifted), set())
        lonely = not self._desk.shapes.sociable(piece.group.shapes())
        if lonely and piece.group in vain:
            return None
        fruitless, self._desk.fruitless = self._desk.fruitless, {}
        for each in lifted:
            self._unblock(each)
        found = ask()
        for each in lifted:
            self._block(each)
        self._desk.fruitless = fruitless
        if lonely and not isinstance(found, Placed):
            vain.add(piece.group)
        return found

    def _delayed(
        self, gang: Gang, placed: Placed, brief: Sequence[Reservation], *, anew: bool = False
    ) -> Reservation | None:
        """The first of the reservations, but `brief` ones, that does not hold if the gang is placed so. `anew`: look
        for other places; else they are known to have theirs, up to what a ledger does not tell."""
        shapes, mine = self._desk.shapes, placed.piece.group.shapes()
        for each in list(self._desk.reserved.values()):
            if _is_one_of(each, brief):
                continue
            if not self._has_limits(each, gang, total(grant.cost for grant in placed.grants)):
                self._withheld.add(gang.key)
                return each
            company = not anew and shapes.sociable((*mine, *each.piece.group.shapes()))
            self._company_checks -= company
            if (anew or company) and not (self._company_checks >= 0 and self._has_its_place(each, placed)):
                if company:
                    self._withheld.add(gang.key)
                return each
        return None

    def _has_limits(self, reserved: Reservation, gang: Gang | None = None, cost: Resources = NOTHING) -> bool:
        """Whether the queues will still let it start that has the reservation, if the gang costs so much besides."""
        desk, ledger = self._desk, self._desk.ledger
        above = {queue.name for queue in desk.tree.ancestors(desk.queue_of[gang.key])} if gang is not None else set()
        asked = total(grant.cost for grant in reserved.grants)
        then, firm = dict[str, Resources](), dict[str, Resources]()
        for queue in desk.tree.ancestors(desk.queue_of[reserved.gang.key]):
            more = cost if queue.name in above else NOTHING
            then[queue.name] = (
                ledger.allocated.get(queue.name, NOTHING) + more - reserved.relief.get(queue.name, NOTHING)
            )
            more = NOTHING if gang is None or gang.preemptible else more
            firm[queue.name] = ledger.nonpreemptible.get(queue.name, NOTHING) + more
        queue_of = desk.queue_of[reserved.gang.key]
        return may_start(desk.tree, queue_of, asked, then, firm, reserved.gang.preemptible) is None

    def _has_its_place(self, reserved: Reservation, placed: Placed | None = None) -> bool:
        """Whether it has a place in time, and which: with what is placed there besides."""
        desk, found = self._desk, None
        with self._others_in_full(reserved):
            for grant in placed.grants if placed is not None else ():
                desk.ledger.take(grant)
            with Foresight(desk, self._before(reserved)) as ahead:
                ahead.to(len(ahead.departures))
                found = self._place(desk, reserved.gang, reserved.piece)
            for grant in placed.grants if placed is not None else ():
                desk.ledger.give_back(grant)
            if isinstance(found, Placed):
                reserved.grants = found.grants
                reserved.gone, reserved.relief = {}, {}
                self._count(reserved, self._before(reserved) if reserved.starts_at_ms is not None else ())
        return isinstance(found, Placed)

    def _refusal(self, gang: Gang, piece: Wanted, late: Reservation, answer: GangDoesNotFit | None) -> GangDoesNotFit:
        """Why it does not start: what is free is reserved."""
        if answer is None:
            answer = GangDoesNotFit(gang=gang.key, needed=piece.pods, placeable=0, proved=False)
        most = None
        if late.starts_at_ms is not None:
            most = late.starts_at_ms - self._desk.snapshot.now_ms - longest_ms(gang)
            if most <= 0 or (gang.max_runtime_ms is not None and gang.max_runtime_ms <= most):
                most = None  # what hinders it is something else
        return replace(
            answer,
            kept_for=late.gang.key,
            kept_until_ms=late.starts_at_ms,
            kept_turn_ms=late.until_ms,
            kept_most_ms=most,
        )

    # Those who are first.

    def _in_time(self, gang: Gang, piece: Wanted) -> Reservation | None:
        """Its room at the earliest time at which it is certain to have any."""
        desk = self._desk
        if self._known is None:
            self._known = self._gathered()
        window = desk.snapshot.now_ms + round(desk.snapshot.policy.reserve_within_hours * 3_600_000)
        soon = self._known[: bisect_right(self._known, window, key=lambda each: each.when)]
        if not soon:
            return None
        self._looks -= 1
        with self._others_in_full(None):
            found = earliest(desk, gang, piece, helpful(desk, gang, piece, soon), self._place)
        if found is None:
            return None
        gone, placed = found
        last = gone[-1]
        on = {grant.node for grant in placed.grants}
        waits_for = next((each.gang for each in reversed(gone) if each.when == last.when and each.node in on), "")
        made = Reservation(
            gang=gang, piece=piece, grants=placed.grants, starts_at_ms=last.when, waits_for=waits_for or last.gang
        )
        self._count(made, self._before(made))
        return made

    def _gathered(self, found: Mapping[str, Placed] | None = None) -> list[Departure]:
        """All ends that are known, of what is placed and of what was `found` besides."""
        desk = self._desk
        known = list(of_running(desk))
        parts = [(key, part) for key, each in desk.placed.items() for part in each]
        for key, part in (*parts, *(found or {}).items()):
            known += of_placed(desk, desk.wants[key].gang, part)
        return sorted(known, key=_by_time)

    def _in_turn(self, gang: Gang, piece: Wanted) -> Reservation | None:
        """Its room on the nodes where the least is missing, whenever that will be free."""
        self._looks -= 1
        desk = self._desk
        departures = helpful(desk, gang, piece, of_whoever_runs(desk, gang.key))
        with self._others_in_full(None):
            found = earliest(desk, gang, piece, departures, self._place)
        if found is None:
            return None
        gone, placed = found
        self._until[gang.key] = tuple(gone)
        after, waited = desk.snapshot.policy.reserve_after_seconds * 1000, desk.snapshot.now_ms - gang.created_ms
        until = gang.created_ms + next_turn_ms(waited, after)
        return Reservation(gang=gang, piece=piece, grants=placed.grants, until_ms=until)

    def _has_waited(self, gang: Gang) -> bool:
        """For so long that it keeps what is free although nobody knows when that will be enough."""
        after, now = self._desk.snapshot.policy.reserve_after_seconds, self._desk.snapshot.now_ms
        return bool(after and gang.created_ms) and keeps_what_is_free(now - gang.created_ms, after * 1000)

    # What the ledger is told.

    def _before(self, reserved: Reservation) -> Sequence[Departure]:
        """Who has left before it starts."""
        if reserved.starts_at_ms is None:
            return self._until[reserved.gang.key]
        key, by = reserved.gang.key, reserved.starts_at_ms
        return [each for each in self._known or () if each.when <= by and each.gang != key]

    def _count(self, reserved: Reservation, gone: Iterable[Departure]) -> None:
        """What these give back, on its nodes and to its queues."""
        desk, on = self._desk, reserved.nodes
        above = {queue.name for queue in desk.tree.ancestors(desk.queue_of[reserved.gang.key])}
        bounded = any(desk.tree.queues[queue].resources for queue in above)
        if bounded and not self._gangs:
            self._gangs = {each.key: each for each in desk.snapshot.gangs}
        gangs = self._gangs if bounded else {}
        for each in gone:
            who = each.who
            if isinstance(who, Claim):
                continue  # its devices are blocked by name
            if each.node in on:
                reserved.gone[each.node] = reserved.gone.get(each.node, NOTHING) + who.requests
            gang = gangs.get(each.gang)
            payer = desk.payer_of(gang) if gang is not None else None
            if payer is None:
                continue
            relief = who.cost if isinstance(who, Grant) else desk.accounts.relief([who])
            for queue in desk.tree.ancestors(payer):
                if queue.name in above:
                    reserved.relief[queue.name] = reserved.relief.get(queue.name, NOTHING) + relief

    def _block(self, reserved: Reservation, on: frozenset[str] | None = None) -> None:
        """Keep others off what of its room, on these nodes alone if they are named, is not in use now: what those leave
        who have left by then is enough for the rest. What others may count on already is not counted twice."""
        nodes = reserved.nodes if on is None else on
        earlier = set[str]()
        for each in self._desk.reserved.values():
            if each is reserved:
                break
            earlier |= each.nodes & nodes
        left = {node: amount for node, amount in reserved.gone.items() if node not in earlier}
        made = []
        for grant in reserved.grants:
            if grant.node not in nodes:
                continue
            there = left.get(grant.node, NOTHING)
            of_them = Resources({name: min(grant.requests[name], there[name]) for name in grant.requests})
            left[grant.node] = there - of_them
            made.append(replace(grant, requests=grant.requests - of_them))
        for grant in made:
            self._desk.ledger.block(grant)
        reserved.blocked = (*reserved.blocked, *made)

    def _unblock(self, reserved: Reservation, on: frozenset[str] | None = None) -> None:
        lifted = [grant for grant in reserved.blocked if on is None or grant.node in on]
        for grant in reversed(lifted):
            self._desk.ledger.unblock(grant)
        reserved.blocked = tuple(grant for grant in reserved.blocked if on is not None and grant.node not in on)

    @contextmanager
    def _others_in_full(self, but: Reservation | None) -> Iterator[None]:
        """For as long as this lasts one has nothing blocked, and all others everything that they will have."""
        desk = self._desk
        others = [each for each in desk.reserved.values() if each is not but]
        for each in desk.reserved.values():
            self._unblock(each)
        for each in others:
            for grant in each.grants:
                desk.ledger.block(grant)
        yield
        for each in others:
            for grant in each.grants:
                desk.ledger.unblock(grant)
        for each in desk.reserved.values():
            self._block(each)


def _is_one_of(reservation: Reservation, others: Iterable[Reservation]) -> bool:
    return any(reservation is each for each in others)


def _shares_claims(piece: Wanted) -> bool:
    """Whether its pods name claims that are not their own: whoever else consumes them may come first."""
    return any(entry.claim and not entry.from_template for pod in piece.all_pods() for entry in pod.claims)


def _by_time(departure: Departure) -> tuple[int, str, str, str]:
    who = departure.who
    return departure.when, departure.gang, departure.node, who.pod.key if isinstance(who, Grant) else who.key
