"""What will be when others have left: played on the ledger in order of time, and taken back."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from scheduler.model.plan import Reserved
from scheduler.model.reasons import Reason
from scheduler.model.workloads import Gang
from scheduler.plan.ahead.departures import FREEING_MS, Departure, leaves, tick_ms
from scheduler.plan.desk import Desk, Placed
from scheduler.plan.ground.accounts import GPU, shares_gpus
from scheduler.plan.ground.ledger import Grant
from scheduler.plan.pieces import Wanted
from scheduler.solver.greedy import Short

Placing = Callable[[Desk, Gang, Wanted], Placed | Short | Reason]
"""Where a piece goes as the ledger stands."""


class Foresight:
    """The ledger as it will be when the first so many of those have left, and as it was when this ends."""

    def __init__(self, desk: Desk, departures: Sequence[Departure]) -> None:
        self.departures = departures
        self._desk = desk
        self._gone = 0

    def __enter__(self) -> "Foresight":
        desk = self._desk
        self._fruitless, self._seconds, self._solved = desk.fruitless, desk.search_seconds, dict(desk.solved)
        desk.search_seconds = 0.0  # what searches may take is for those who start now
        self._zones = [] if desk.ahead else desk.ledger.foresee_zones()
        return self

    def to(self, count: int) -> None:
        self._desk.fruitless = {}
        while self._gone < count:
            self.departures[self._gone].happen(self._desk)
            self._gone += 1
        while self._gone > count:
            self._gone -= 1
            self.departures[self._gone].unhappen(self._desk)

    def __exit__(self, *_: object) -> None:
        desk = self._desk
        self.to(0)
        desk.ledger.recall_zones(self._zones)
        desk.fruitless, desk.search_seconds, desk.solved = self._fruitless, self._seconds, self._solved


def earliest(
    desk: Desk, gang: Gang, piece: Wanted, departures: Sequence[Departure], place: Placing
) -> tuple[Sequence[Departure], Placed] | None:
    """The fewest of those who leave, in their order, with whom gone the piece has a place, and which. Room only
    grows as they leave: so the time is looked for in steps that double, and then halve."""
    cuts = [
        number
        for number in range(1, len(departures) + 1)
        if number == len(departures) or departures[number].when != departures[number - 1].when
    ]
    least = _least(desk, piece, departures, cuts)
    if least is None:
        return None
    with Foresight(desk, departures) as ahead:

        def at(index: int) -> Placed | None:
            ahead.to(cuts[index])
            found = place(desk, gang, piece)
            return found if isinstance(found, Placed) else None

        failed, index, step = least - 1, least, 1
        while (placed := at(index)) is None:
            if index == len(cuts) - 1:
                return None
            failed, index, step = index, min(index + step, len(cuts) - 1), 2 * step
        while index - failed > 1:
            middle = (index + failed) // 2
            sooner = at(middle)
            if sooner is None:
                failed = middle
            else:
                index, placed = middle, sooner
    return departures[: cuts[index]], placed


def _least(desk: Desk, piece: Wanted, departures: Sequence[Departure], cuts: Sequence[int]) -> int | None:
    """The first of the times at which there are as many GPUs free in all as the piece asks for; None if never."""
    asked = desk.estimate(piece)[GPU]
    if not cuts:
        return None
    if not asked or any(_shares_gpus(desk, node) for node in desk.rooms.nodes):
        return 0
    free, gone = sum(max(desk.ledger.gpus(node), 0) for node in desk.rooms.nodes), 0
    for index, cut in enumerate(cuts):
        # Parts of a GPU were rounded down one by one, and together they are more.
        free += sum(each.gpus + (each.gpus % 1000 > 0) for each in departures[gone:cut])
        gone = cut
        if free >= asked:
            return index
    return None


def _shares_gpus(desk: Desk, node: str) -> bool:
    return shares_gpus(desk.inventory.on(desk.ledger.nodes[node]), desk.inventory)


def helpful(desk: Desk, gang: Gang, piece: Wanted, departures: Iterable[Departure]) -> list[Departure]:
    """Those that are not its own, on nodes where any of its pods may run; and claims, wherever their devices are."""
    rooms, shapes = desk.rooms, piece.group.shapes()
    suits: dict[str, bool] = {"": True}
    found = []
    for each in departures:
        if each.node not in suits:
            suits[each.node] = any(not rooms.suits(each.node, shape) for shape in shapes)
        if suits[each.node] and each.gang != gang.key:
            found.append(each)
    return found


def starts_ms(desk: Desk) -> dict[str, int]:
    """By gang (key) when it starts at the latest, as far as that is known: it has a reservation, or a promise and all
    who leave there were told by when."""
    found = {
        key: each.starts_at_ms
        for key, each in desk.reserved.items()
        if key in desk.waiting and each.starts_at_ms is not None
    }
    if desk.promised:
        ends: dict[str, list[int | None]] = {}
        for pod in desk.snapshot.pods:
            if leaves(pod, desk):
                ends.setdefault(pod.node, []).append(pod.ends_ms)
        for key, promises in desk.promised.items():
            there = [end for node in sorted({each.node for each in promises}) for end in ends.get(node, ())]
            known = [end + FREEING_MS for end in there if end is not None]
            if known and len(known) == len(there):
                found[key] = max([tick_ms(desk.snapshot.now_ms), *known])
    return found


def reserved(desk: Desk) -> tuple[Reserved, ...]:
    """The reservations that the plan makes known: of gangs that have got nothing better."""
    found = []
    for key, each in desk.reserved.items():
        if key in desk.waiting:
            found += [
                Reserved(pod=grant.pod.key, gang=key, node=grant.node, devices=tuple(_devices(grant)))
                for grant in each.grants
            ]
    return tuple(sorted(found, key=lambda one: (one.gang, one.pod)))


def _devices(grant: Grant) -> Iterator[tuple[str, str, str]]:
    for _, allocation in grant.allocated:
        for result in allocation.devices.results or ():
            if not result.admin_access and result.share_id is None:
                yield result.driver, result.pool, result.device
