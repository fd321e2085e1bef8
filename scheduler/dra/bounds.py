"""Sums that show at once that there is no answer: more devices, counters or values are needed than are left."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from scheduler.dra.devices import Amount
from scheduler.dra.items import Group, Item
from scheduler.dra.room import Room
from scheduler.dra.views import CounterKey

UNITS = ""
"""Stands for all counters of size one together: the slices of a board, of which each partition takes some."""

ALL_BOARDS = ("", "", "")

Kind: TypeAlias = tuple[tuple[str, str, str], str]
"""(board as driver, pool and counter set, or ALL_BOARDS; counter, or UNITS)"""


def impossible(room: Room, items: Sequence[Item], distinct: Sequence[Group]) -> bool:
    """Whether the items need more than is left, even if each gets the device that takes least."""
    return (
        any(len(item.candidates) < item.need for item in items)
        or _too_few_devices(room, items)
        or any(_too_few_values(items, group) for group in distinct)
        or _too_few_counters(room, items)
    )


def exclusive(room: Room, items: Sequence[Item]) -> list[int]:
    """Positions of the items none of whose devices can serve another item as well."""
    devices = room.view.devices
    return [
        position
        for position, item in enumerate(items)
        if not item.want.admin and not any(devices[number].shareable for number in item.candidates)
    ]


def _too_few_devices(room: Room, items: Sequence[Item]) -> bool:
    """Whether the items that need devices of their own have, together, fewer than they need."""
    own = [items[position] for position in exclusive(room, items)]
    return len({number for item in own for number in item.candidates}) < sum(item.need for item in own)


def _too_few_values(items: Sequence[Item], group: Group) -> bool:
    """Whether fewer values occur than devices are wanted with different ones."""
    covered = [items[position] for position in group.items]
    numbers = {number for item in covered for number in (*item.candidates, *item.pinned)}
    values = {token for number in numbers for token in group.tokens[number]}
    return len(values) < sum(item.need + len(item.pinned) for item in covered)


def _too_few_counters(room: Room, items: Sequence[Item]) -> bool:
    """Whether what all need at least of some kind of counter is more than is left: on all boards together, and on each
    board for the items that no other board can serve.

    Items that may get by without counters, and shares of devices that are charged already, need nothing.
    """
    draws = _Draws(room)
    needed: dict[Kind, Amount] = {}
    for item in items:
        if item.need and not item.want.admin:
            for kind, amount in draws.least(item.candidates).items():
                needed[kind] = needed.get(kind, 0) + amount * item.need
    return any(amount > draws.left(kind) for kind, amount in needed.items())


class _Draws:
    """What devices take, by kind of counter, and which counters of a kind they can take it from."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._sources: dict[Kind, set[CounterKey]] = {}
        self._takes: dict[int, Mapping[Kind, Amount]] = {}
        self._least: dict[tuple[int, ...], Mapping[Kind, Amount]] = {}

    def least(self, candidates: tuple[int, ...]) -> Mapping[Kind, Amount]:
        """What any of the candidates takes at least."""
        known = self._least.get(candidates)
        if known is None:
            least = dict(self._of(candidates[0])) if candidates else {}
            for number in candidates[1:]:
                takes = self._of(number)
                least = {kind: min(amount, takes[kind]) for kind, amount in least.items() if kind in takes}
            known = self._least[candidates] = least
        return known

    def left(self, kind: Kind) -> Amount:
        return sum(max(self._room.counter(key), 0) for key in self._sources[kind])

    def _of(self, number: int) -> Mapping[Kind, Amount]:
        known = self._takes.get(number)
        if known is None:
            known = self._takes[number] = self._read(number)
        return known

    def _read(self, number: int) -> Mapping[Kind, Amount]:
        device, totals = self._room.view.devices[number], self._room.view.counters
        takes: dict[Kind, Amount] = {}
        for counter_set, counters in device.consumes:
            board = (device.id.driver, device.id.pool, counter_set)
            for counter, amount in counters:
                if amount > 0:
                    key = (*board, counter)
                    for name in (counter, UNITS) if totals[key] == 1 else (counter,):
                        for kind in ((ALL_BOARDS, name), (board, name)):
                            takes[kind] = takes.get(kind, 0) + amount
                            self._sources.setdefault(kind, set()).add(key)
        return {} if device.shareable else takes
