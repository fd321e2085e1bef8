"""Which of the devices that would do: those whose use keeps big things whole.

Small before large, a board already in use before a fresh one, a partition that leaves the largest hole, GPUs of one
NVLink domain, NUMA node and PCIe root together and out of the smallest group that has enough. Ties end in published
order. None of this decides whether there is an answer, only which one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from scheduler.dra.devices import PLACES, Amount, Device, Scalar
from scheduler.dra.pools import NodeDevices
from scheduler.dra.room import Room

BoardKey: TypeAlias = tuple[str, str, str]
"""(driver, pool, counter set)"""

Near: TypeAlias = frozenset[tuple[int, Scalar]]
"""(level, value) of the places where a claim already has devices."""

NOWHERE: Near = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Board:
    """What shares one counter set, usually the partitions of one GPU.

    `totals` by counter, in order of name; `members`: what each device takes of these counters, biggest first.
    `holes`: by what is left, the sizes that still fit.
    """

    counters: tuple[str, ...]
    totals: tuple[Amount, ...]
    members: tuple[tuple[float, tuple[Amount, ...]], ...]
    holes: dict[tuple[Amount, ...], tuple[float, ...]] = field(default_factory=dict)

    def sizes_left(self, left: tuple[Amount, ...]) -> tuple[float, ...]:
        """Sizes of the partitions that each fit into what is left, negated, biggest first; smaller is better."""
        known = self.holes.get(left)
        if known is None:
            fits = (size for size, takes in self.members if all(t <= rest for t, rest in zip(takes, left, strict=True)))
            known = self.holes[left] = (*(-size for size in fits), 0.0)
        return known

    def share(self, takes: Sequence[Amount]) -> float:
        """How much of the board an amount of each counter is, on average."""
        parts = [float(t / total) for t, total in zip(takes, self.totals, strict=True) if total]
        return sum(parts) / len(parts) if parts else 0.0


def ordered(room: Room, numbers: Sequence[int], need: int, near: Near = NOWHERE) -> list[int]:
    """Free devices in the order in which to try them, when `need` of them are wanted together."""
    if len(numbers) < 2:
        return list(numbers)
    ranks = [_rank(room, number) for number in numbers]
    if all(rank == ranks[0] for rank in ranks):
        return _together(room.view, list(numbers), need, 0, near)
    by_rank: dict[tuple[object, ...], list[int]] = {}
    for rank, number in zip(ranks, numbers, strict=True):
        by_rank.setdefault(rank, []).append(number)
    result: list[int] = []
    for rank in sorted(by_rank):
        result.extend(_together(room.view, by_rank[rank], max(need - len(result), 1), 0, near))
    return result


def near(view: NodeDevices, numbers: Sequence[int]) -> Near:
    """The places of these devices."""
    return frozenset(
        (level, place)
        for number in numbers
        for level, place in enumerate(view.devices[number].places)
        if place is not None
    )


def sizes(view: NodeDevices) -> list[tuple[Amount, float]]:
    """How much each device is, to compare devices that would all do: memory, then its part of its board."""
    known = view.memo.get("sizes")
    if known is None:
        known = view.memo["sizes"] = [(device.size, _part_of_board(view, device)) for device in view.devices]
    assert isinstance(known, list)
    return known


def _rank(room: Room, number: int) -> tuple[object, ...]:
    view = room.view
    device = view.devices[number]
    late = bool(device.published.binding_conditions)
    if device.consumes:
        memory, part = sizes(view)[number]
        return late, memory, part, *_board_rank(room, number)
    if device.shareable:
        rest = sum(float(room.capacity(number, name) / c.value) for name, c in device.capacity.items() if c.value)
        return late, device.size, 0.0, rest if number in room.shared else float(len(device.capacity) + 1), ()
    return late, device.size, 0.0, 0.0, ()


def _board_rank(room: Room, number: int) -> tuple[float, tuple[float, ...]]:
    """How empty the device's board is, and what would be left of it."""
    empty = 0.0
    holes: tuple[float, ...] = ()
    device = room.view.devices[number]
    charged = number in room.shared
    for counter_set, takes in device.consumes:
        key = (device.id.driver, device.id.pool, counter_set)
        board = boards(room.view)[key]
        before = tuple(room.counter((*key, counter)) for counter in board.counters)
        taken = dict(takes)
        after = before if charged else tuple(b - taken.get(c, 0) for b, c in zip(before, board.counters, strict=True))
        empty += board.share(before)
        holes += board.sizes_left(after)
    return empty, holes


def _part_of_board(view: NodeDevices, device: Device) -> float:
    part = 0.0
    for counter_set, takes in device.consumes:
        board = boards(view)[device.id.driver, device.id.pool, counter_set]
        taken = dict(takes)
        part += board.share([taken.get(counter, 0) for counter in board.counters])
    return part


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
        known = view.memo["boards"] = {key: _board(counters[key], members[key]) for key in counters}
    assert isinstance(known, dict)
    return known


_BOARDS: dict[object, Board] = {}


def _board(totals: dict[str, Amount], members: Sequence[dict[str, Amount]]) -> Board:
    names = tuple(sorted(totals))
    plain = Board(counters=names, totals=tuple(totals[name] for name in names), members=())
    vectors = [tuple(takes.get(name, 0) for name in names) for takes in members]
    sized = tuple(sorted(((plain.share(vector), vector) for vector in vectors), reverse=True))
    key = (names, plain.totals, sized)
    if len(_BOARDS) >= 4096:
        _BOARDS.clear()
    return _BOARDS.setdefault(key, Board(counters=names, totals=plain.totals, members=sized))


def _together(view: NodeDevices, numbers: list[int], need: int, level: int, near: Near) -> list[int]:
    """Devices of equal rank so that the first `need` share a place if they can, out of the smallest group with enough.

    If no group has enough, the largest are used whole and the smallest that has the rest ends it.
    """
    if level == len(PLACES) or len(numbers) < 2:
        return numbers
    groups: dict[Scalar | None, list[int]] = {}
    for number in numbers:
        places = view.devices[number].places
        groups.setdefault(places[level] if places else None, []).append(number)
    if len(groups) == 1:
        return _together(view, numbers, need, level + 1, near)
    rest = sorted(groups.items(), key=lambda item: ((level, item[0]) not in near, len(item[1]), item[1][0]))
    result: list[int] = []
    while rest:
        wanted = max(need - len(result), 1)
        enough = next((i for i, (_, group) in enumerate(rest) if len(group) >= wanted), None)
        if enough is None:
            enough = max(range(len(rest)), key=lambda i: (len(rest[i][1]), -i))
        _, group = rest.pop(enough)
        result.extend(_together(view, group, min(wanted, len(group)), level + 1, near))
    return result
