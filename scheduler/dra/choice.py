"""Which of the devices that would do: those whose use keeps big things whole.

Small before large, a board already in use before a fresh one, a partition that leaves the largest hole, GPUs of one
NVLink domain, NUMA node and PCIe root together and out of the smallest group that has enough. Ties end in published
order. None of this decides whether there is an answer, only which one.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from scheduler.dra.devices import PLACES, Amount, Device, Scalar
from scheduler.dra.room import Room
from scheduler.dra.views import NodeDevices

BoardKey: TypeAlias = tuple[str, str, str]
"""(driver, pool, counter set)"""

Vector: TypeAlias = tuple[Amount, ...]
"""An amount of each counter of a board, in the board's order."""

Near: TypeAlias = frozenset[tuple[int, Scalar]]
"""(level, value) of the places where a claim already has devices."""

NOWHERE: Near = frozenset()

Rank: TypeAlias = tuple[bool, Amount, float, float, tuple[float, ...]]
"""Smaller is better."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Board:
    """What shares one counter set, usually the partitions of one GPU.

    `totals` by counter, in order of name; `members`: size and what it takes of these counters, biggest first.
    `holes`: by what was left and what is taken of it, the sizes that still fit.
    """

    counters: tuple[str, ...]
    totals: tuple[Amount, ...]
    members: tuple[tuple[float, Vector], ...]
    holes: dict[tuple[Vector, Vector], tuple[float, ...]] = field(default_factory=dict)

    def hole(self, before: Vector, takes: Vector) -> tuple[float, ...]:
        """Sizes of the partitions that would each still fit, negated, biggest first; smaller is better."""
        known = self.holes.get((before, takes))
        if known is None:
            left = [b - t for b, t in zip(before, takes, strict=True)]
            fits = (size for size, needs in self.members if all(n <= rest for n, rest in zip(needs, left, strict=True)))
            if len(self.holes) >= 100_000:
                self.holes.clear()
            known = self.holes[before, takes] = (*(-size for size in fits), 0.0)
        return known

    def share(self, takes: Vector) -> float:
        """How much of the board an amount of each counter is, on average."""
        parts = [float(t / total) for t, total in zip(takes, self.totals, strict=True) if total]
        return sum(parts) / len(parts) if parts else 0.0


def ordered(room: Room, numbers: Sequence[int], need: int, near: Near = NOWHERE, *, fresh: bool = False) -> list[int]:
    """Free devices in the order in which to try them, when `need` of them are wanted together. `fresh`: boards of which
    most is left come first, not those of which least is."""
    if len(numbers) < 2:
        return list(numbers)
    rank = _Ranking(room, fresh=fresh)
    ranks = [rank.of(number) for number in numbers]
    if all(other == ranks[0] for other in ranks):
        return _side_by_side(room.view, numbers, need, near)
    by_rank: dict[Rank, list[int]] = {}
    for its, number in zip(ranks, numbers, strict=True):
        by_rank.setdefault(its, []).append(number)
    result: list[int] = []
    for _, alike in sorted(by_rank.items()):
        result.extend(_side_by_side(room.view, alike, max(need - len(result), 1), near))
    return result


def near(view: NodeDevices, numbers: Sequence[int]) -> Near:
    """The places of these devices."""
    return frozenset(
        (level, place)
        for number in numbers
        for level, place in enumerate(view.devices[number].places)
        if place is not None
    )


def meeting(view: NodeDevices, wanted: Iterable[tuple[Sequence[int], int]]) -> Near:
    """The places where all that is wanted together can be had: of each list of devices so many, of equal lists the sum.

    Devices that publish no places of a level do not count there.
    """
    needs: dict[tuple[int, ...], int] = {}
    for numbers, need in wanted:
        key = tuple(numbers)
        needs[key] = needs.get(key, 0) + need
    found: set[tuple[int, Scalar]] = set()
    for level in range(len(PLACES)):
        common: set[Scalar] | None = None
        for numbers, need in needs.items():
            counts = Counter(place for n in numbers if (place := _place(view, n, level)) is not None)
            if counts:
                enough = {place for place, count in counts.items() if count >= need}
                common = enough if common is None else common & enough
        found.update((level, place) for place in common or ())
    return frozenset(found)


def _place(view: NodeDevices, number: int, level: int) -> Scalar | None:
    places = view.devices[number].places
    return places[level] if places else None


def sizes(view: NodeDevices) -> list[tuple[Amount, float]]:
    """How much each device is, to compare devices that would all do: memory, then its part of its board."""
    known = view.memo.get("sizes")
    if known is None:
        parts = [sum(boards(view)[key].share(takes) for key, takes in drawn) for drawn in draws(view)]
        known = view.remember("sizes", [(d.size, part) for d, part in zip(view.devices, parts, strict=True)])
    assert isinstance(known, list)
    return known


class _Ranking:
    """What makes one free device a better choice than another, as things stand."""

    __slots__ = ("_boards", "_draws", "_left", "_room", "_sign", "_sizes")

    def __init__(self, room: Room, *, fresh: bool) -> None:
        self._room = room
        self._sign = -1.0 if fresh else 1.0
        self._sizes = sizes(room.view)
        self._draws = draws(room.view)
        self._boards = boards(room.view)
        self._left: dict[BoardKey, tuple[Vector, float]] = {}

    def of(self, number: int) -> Rank:
        """Ready at once, small, nearly used up (its board, or itself if shared), leaving a large hole."""
        device = self._room.view.devices[number]
        memory, part = self._sizes[number]
        used = 0.0
        hole: tuple[float, ...] = ()
        if device.consumes:
            used, hole = self._of_board(number)
        elif device.shareable:
            used = self._of_share(number, device)
        return bool(device.published.binding_conditions), memory, part, self._sign * used, hole

    def _of_board(self, number: int) -> tuple[float, tuple[float, ...]]:
        empty = 0.0
        hole: tuple[float, ...] = ()
        charged = number in self._room.shared
        for key, takes in self._draws[number]:
            board = self._boards[key]
            known = self._left.get(key)
            if known is None:
                before = tuple([self._room.counter((*key, counter)) for counter in board.counters])
                known = self._left[key] = before, board.share(before)
            empty += known[1]
            hole += board.hole(known[0], (0,) * len(takes) if charged else takes)
        return empty, hole

    def _of_share(self, number: int, device: Device) -> float:
        """How much is left of it; one that nobody holds yet comes after all others."""
        capacities = [(name, c.value) for name, c in device.capacity.items() if c.value]
        if number not in self._room.shared:
            return len(capacities) + 1.0
        return sum(float(self._room.capacity(number, name) / total) for name, total in capacities)


def draws(view: NodeDevices) -> list[tuple[tuple[BoardKey, Vector], ...]]:
    """What each device takes of which boards."""
    known = view.memo.get("draws")
    if known is None:
        known = view.remember("draws", [_draws(view, device) for device in view.devices])
    assert isinstance(known, list)
    return known


def _draws(view: NodeDevices, device: Device) -> tuple[tuple[BoardKey, Vector], ...]:
    made = []
    for counter_set, takes in device.consumes:
        key = (device.id.driver, device.id.pool, counter_set)
        taken = dict(takes)
        made.append((key, tuple(taken.get(counter, 0) for counter in boards(view)[key].counters)))
    return tuple(made)


def boards(view: NodeDevices) -> dict[BoardKey, Board]:
    """The boards of a node by counter set; boards with the same content are one object, wherever they are."""
    known = view.memo.get("boards")
    if known is None:
        counters: dict[BoardKey, dict[str, Amount]] = {}
        for (driver, pool, counter_set, counter), total in view.counters.items():
            counters.setdefault((driver, pool, counter_set), {})[counter] = total
        members: dict[BoardKey, list[dict[str, Amount]]] = {key: [] for key in counters}
        for device in view.devices:
            for counter_set, takes in device.consumes:
                members[device.id.driver, device.id.pool, counter_set].append(dict(takes))
        known = view.remember("boards", {key: _board(counters[key], members[key]) for key in counters})
    assert isinstance(known, dict)
    return known


_BOARDS: dict[object, Board] = {}


def _board(totals: dict[str, Amount], members: Sequence[dict[str, Amount]]) -> Board:
    names = tuple(sorted(totals))
    plain = Board(counters=names, totals=tuple(totals[name] for name in names), members=())
    vectors: list[Vector] = [tuple(takes.get(name, 0) for name in names) for takes in members]
    sized = tuple(sorted(((plain.share(vector), vector) for vector in vectors), reverse=True))
    key = (names, plain.totals, sized)
    if len(_BOARDS) >= 4096:
        _BOARDS.clear()
    return _BOARDS.setdefault(key, Board(counters=names, totals=plain.totals, members=sized))


def _side_by_side(view: NodeDevices, numbers: Sequence[int], need: int, near: Near) -> list[int]:
    """Devices of equal rank by where they are; the same devices are free again and again."""
    question = ("side by side", tuple(numbers), need, near)
    known = view.memo.get(question)
    if known is None:
        known = view.remember(question, _together(view, list(numbers), need, 0, near))
    assert isinstance(known, list)
    return [*known]


def _together(view: NodeDevices, numbers: list[int], need: int, level: int, near: Near) -> list[int]:
    """Devices of equal rank so that the first `need` share a place if they can, out of the smallest group with enough.

    If no group has enough, the largest are used whole and the smallest that has the rest ends it.
    """
    if level == len(PLACES) or len(numbers) < 2:
        return numbers
    groups: dict[Scalar | None, list[int]] = {}
    for number in numbers:
        groups.setdefault(_place(view, number, level), []).append(number)
    if len(groups) == 1:
        return _together(view, numbers, need, level + 1, near)
    rest = sorted(groups.items(), key=lambda item: ((level, item[0]) not in near, len(item[1]), item[1][0]))
    result: list[int] = []
    while rest and len(result) < need:
        wanted = need - len(result)
        enough = next((i for i, (_, group) in enumerate(rest) if len(group) >= wanted), None)
        if enough is None:
            enough = max(range(len(rest)), key=lambda i: (len(rest[i][1]), -i))
        _, group = rest.pop(enough)
        result.extend(_together(view, group, min(wanted, len(group)), level + 1, near))
    for _, group in rest:
        result.extend(group)
    return result
