"""What would be if these pods left: played on the ledger itself, and taken back unless it is kept.

Nobody is bound any more once rooms are promised. So from then on the ledger is looked at as it will be: without those
who are on their way out, and with those to whom something is promised.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from queues.resources import Resources, total
from scheduler.model.errors import InvariantError
from scheduler.model.plan import Eviction, Promise
from scheduler.model.reasons import GangDoesNotFit, Reason, RoomIsBeingMade
from scheduler.model.workloads import Claim, Gang, Pod
from scheduler.plan.ahead.departures import leaves, left_behind
from scheduler.plan.caps import Caps
from scheduler.plan.desk import Desk, Placed
from scheduler.plan.ground.cliques import ComputeDomains
from scheduler.plan.ground.ledger import Grant
from scheduler.plan.making_room.losses import Loss
from scheduler.plan.pieces import Wanted, afresh
from scheduler.plan.placing.allocate import place, seats
from scheduler.plan.placing.realise import realise
from scheduler.plan.wants import Wants
from scheduler.solver.greedy import Short


class Scenario:
    """The desk as it would be without the victims."""

    def __init__(self, desk: Desk, gang: Gang, victims: Sequence[Loss], *, moves: bool) -> None:
        """`moves`: whether everybody who leaves needs another place."""
        self._desk = desk
        self._gang = gang
        self.victims = victims
        self._moves = moves
        self._moved: list[Grant] = []
        self._fruitless, desk.fruitless = desk.fruitless, {}
        # Who is moved goes on to be paid for.
        self._relief = [] if moves else _relief(desk, victims)
        for loss in victims:
            desk.ledger.vacate(loss.pod, desk.snapshot.claims)
        self._charge(-1)

    def play(self, piece: Wanted, at: str = "") -> Placed | Reason | None:
        """Where the piece goes, why it has no place, or None if one who leaves has none. `at`: the node where it has to
        go, if it is one bundle."""
        desk = self._desk
        placed = place(desk, self._gang, afresh(piece, desk.shapes), at)
        if not isinstance(placed, Placed) or not self._moves:
            return placed
        domains = desk.compute_domains.without(loss.pod for loss in self.victims)
        for grant in placed.grants:
            desk.ledger.reserve(grant)
            domains.settle(grant.pod, grant.node)
        there = all(self._is_moved(gang, pods, domains) for gang, pods in _by_gang(self.victims))
        for grant in placed.grants:
            desk.ledger.unreserve(grant)
        if not there:
            self._forget_moved()
            return None
        return placed

    def capacity(self, node: str, shape: int, count: int) -> int:
        """How many of the shape find room on the node, up to `count`."""
        return self._desk.rooms.capacity(node, (), shape, count)

    def keep(self, placed: Placed, stage: str) -> None:
        """Make it part of the plan: the victims leave, and the gang has the promise of its place."""
        desk, gang = self._desk, self._gang
        promise(desk, gang, placed.grants)
        caps_of(desk).take(self.victims)
        for loss in self.victims:
            desk.leaving.add(loss.pod.key)
            desk.evictions.append(
                Eviction(pod=loss.pod.key, pod_uid=loss.pod.uid, stage=stage, beneficiary=gang.key, cost=loss.cost)
            )
        desk.outlook += [(queue, relief * -1) for queue, _, relief in self._relief]
        desk.reasons[gang.key] = RoomIsBeingMade(
            gang=gang.key, pods=len(placed.grants), leaving=len(self.victims), stage=stage
        )

    def undo(self) -> None:
        """Nobody leaves."""
        self._charge(+1)
        self._forget_moved()
        for loss in reversed(self.victims):
            self._desk.ledger.reoccupy(loss.pod, self._desk.snapshot.claims)
        self._desk.fruitless = self._fruitless

    def _forget_moved(self) -> None:
        for grant in self._moved:
            self._desk.ledger.unreserve(grant)
        self._moved.clear()

    def _charge(self, sign: int) -> None:
        for queue, preemptible, relief in self._relief:
            self._desk.ledger.charge(self._desk.tree, queue, relief * sign, preemptible=preemptible)

    def _is_moved(self, gang: Gang, pods: Sequence[Pod], domains: ComputeDomains) -> bool:
        """Whether these pods of the gang find other places. What else the gang waits for is not their matter.
        `domains`: as they are without those who are moved; whoever finds a place is of them again."""
        desk = self._desk
        away = {pod.key for pod in pods}
        there = (pod for pod in gang.pods if pod.node)
        gone = replace(gang, pods=tuple(replace(pod, node="") if pod.key in away else pod for pod in there))
        desk.gang_of.update((pod.key, gang.key) for pod in gone.pods)
        ledger, claims = desk.ledger, desk.snapshot.claims
        wants = Wants(
            gone,
            claims,
            ledger.consumers,
            desk.shapes,
            desk.domains,
            ledger.volumes,
            compute_domains=domains,
        )
        while wants.waiting:
            piece = wants.minimum()
            piece = wants.growth() if piece is None else piece
            if not isinstance(piece, Wanted):
                return False
            found = seats(desk, gone, piece)
            grants = None
            if not isinstance(found, Short):
                grants = realise(desk, [(piece, found)], desk.ledger.in_use, desk.ledger.volumes)
            if grants is None:
                return False
            for grant in grants:
                desk.ledger.reserve(grant)
                self._moved.append(grant)
                wants.settle(grant.pod, grant.node)
        return True


def look_ahead(desk: Desk) -> None:
    """From now on those who are on their way out have left."""
    if desk.ahead:
        return
    desk.ahead, desk.fruitless = True, {}
    desk.ledger.foresee_zones()
    leaving = Leaving.of(desk)
    leaving.depart(desk)
    desk.outlook += [(queue, relief * -1) for queue, _, relief in leaving.relief]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """Those who are on their way out. `relief`: what queues no longer pay then: (queue, preemptible, amounts).
    `claims`: of pods that have left already, whose devices the claim controller has not taken back yet."""

    pods: tuple[Pod, ...]
    relief: tuple[tuple[str, bool, Resources], ...]
    claims: tuple[Claim, ...] = ()

    @classmethod
    def of(cls, desk: Desk) -> "Leaving":
        relief = []
        for gang in desk.snapshot.gangs:
            going = [pod for pod in gang.pods if pod.node and leaves(pod, desk)]
            queue = desk.payer_of(gang) if going else None
            if queue is not None:
                relief.append((queue, gang.preemptible, desk.accounts.relief(going)))
        pods = (pod for pod in desk.snapshot.pods if leaves(pod, desk) and pod.node in desk.ledger.nodes)
        return cls(pods=tuple(pods), relief=tuple(relief), claims=tuple(left_behind(desk)))

    def depart(self, desk: Desk) -> list[Claim]:
        """They have left; the claims that are released besides. A claim that this plan has had joined is not."""
        for pod in self.pods:
            desk.ledger.vacate(pod, desk.snapshot.claims)
        left = [claim for claim in self.claims if desk.ledger.consumers(claim.key) <= frozenset(claim.reserved_for)]
        released = [claim for claim in left if desk.ledger.release(claim)]
        for queue, preemptible, relief in self.relief:
            desk.ledger.charge(desk.tree, queue, relief * -1, preemptible=preemptible)
        return released

    @contextmanager
    def departed(self, desk: Desk) -> Iterator[None]:
        """For as long as this lasts they have left. What is promised meanwhile stays promised."""
        fruitless, desk.fruitless = desk.fruitless, {}
        zones = desk.ledger.foresee_zones()
        released = self.depart(desk)
        yield
        for queue, preemptible, relief in self.relief:
            desk.ledger.charge(desk.tree, queue, relief, preemptible=preemptible)
        for claim in reversed(released):
            if claim.allocation is not None:
                desk.ledger.hold(claim, claim.allocation)
        for pod in reversed(self.pods):
            desk.ledger.reoccupy(pod, desk.snapshot.claims)
        desk.ledger.recall_zones(zones)
        desk.fruitless = fruitless


def caps_of(desk: Desk) -> Caps:
    """How many may still be stopped."""
    if desk.caps is None:
        desk.caps = Caps(desk.snapshot, desk.tree, desk.payer_of, lambda pod: leaves(pod, desk))
    return desk.caps


@contextmanager
def with_what_is_left(desk: Desk, gang: str) -> Iterator[None]:
    """For as long as this lasts the gang (key) may use what is left of a promise that did not hold, or is reserved for
    it or for gangs behind it; nobody else may before or after. Who loses his reservation by that is not told of it."""
    behind = [key for key in desk.reserved if desk.order[key] > desk.order[gang]] if desk.reserved else []
    rest = {key: desk.aside.pop(key) for key in (gang, *behind) if key in desk.aside}
    for grant in (grant for grants in rest.values() for grant in grants):
        desk.ledger.unreserve(grant)
    yield
    taken = {promise.node for promise in desk.promised.get(gang, ())}
    for key, grants in rest.items():
        if key != gang and not taken.isdisjoint(desk.reserved[key].nodes):
            del desk.reserved[key]
            reason = desk.reasons[key]
            if isinstance(reason, GangDoesNotFit):
                desk.reasons[key] = replace(
                    reason, starts_at_ms=None, waits_for="", reserved_nodes=0, keeps_until_ms=None
                )
        elif key not in desk.promised:
            for grant in grants:
                desk.ledger.reserve(grant)
            desk.aside[key] = grants


def promise(desk: Desk, gang: Gang, grants: Sequence[Grant]) -> None:
    """The gang gets these places as soon as those who end there have left."""
    book(desk, gang, grants)
    tell_promise(desk, gang, grants)
    desk.tie(grant.pod for grant in grants)


def book(desk: Desk, gang: Gang, grants: Sequence[Grant], sign: int = +1) -> None:
    """Keep this room for the gang, and let its queue pay for it; with -1 no longer."""
    for grant in grants:
        if sign > 0:
            desk.ledger.reserve(grant)
            desk.compute_domains.settle(grant.pod, grant.node)
        else:
            desk.ledger.unreserve(grant)
            desk.compute_domains.leave(grant.pod)
    desk.charge(desk.ledger, gang, total(grant.cost for grant in grants) * sign)


def tell_promise(desk: Desk, gang: Gang, grants: Sequence[Grant]) -> None:
    """The plan says so; the room is booked."""
    for grant in grants:
        for _, allocation in grant.allocated:
            desk.promised_devices.update((r.driver, r.pool, r.device) for r in allocation.devices.results or ())
    desk.outlook.append((desk.queue_of[gang.key], total(grant.cost for grant in grants)))
    desk.promised[gang.key] = tuple(
        Promise(pod=grant.pod.key, pod_uid=grant.pod.uid, gang=gang.key, node=grant.node) for grant in grants
    )
    desk.waiting.pop(gang.key, None)
    desk.growing.pop(gang.key, None)


def _by_gang(victims: Iterable[Loss]) -> list[tuple[Gang, list[Pod]]]:
    pods: dict[str, tuple[Gang, list[Pod]]] = {}
    for loss in victims:
        pods.setdefault(loss.gang.key, (loss.gang, []))[1].append(loss.pod)
    return [pods[key] for key in sorted(pods)]


def _relief(desk: Desk, victims: Sequence[Loss]) -> list[tuple[str, bool, Resources]]:
    """What queues no longer pay: (queue, preemptible, amounts)."""
    found = []
    for gang, pods in _by_gang(victims):
        queue = desk.payer_of(gang)
        if queue is None:
            raise InvariantError(f"nobody pays for gang {gang.key}, whose pods were to leave")
        found.append((queue, gang.preemptible, desk.accounts.relief(pods)))
    return found
