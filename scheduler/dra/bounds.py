"""Sums that show at once that there is no answer: more counters, capacity or values are needed than are left."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from scheduler.dra.devices import Amount
from scheduler.dra.room import Room

if TYPE_CHECKING:
    from scheduler.dra.search import Group, Item

UNITS = ""
"""Stands for all counters of size one together: the slices of a board, of which each partition takes some."""


def impossible(room: Room, items: "Sequence[Item]", distinct: "Sequence[Group]") -> bool:
    """Whether the items need more than is left, even if each gets the device that takes least."""
    return (
        any(len(item.candidates) < item.need for item in items)
        or any(_too_few_values(items, group) for group in distinct)
        or _too_few_counters(room, items)
    )


def _too_few_values(items: "Sequence[Item]", group: "Group") -> bool:
    """Whether fewer values occur than devices are wanted with different ones."""
    covered = [items[position] for position in group.items]
    numbers = {number for item in covered for number in (*item.candidates, *item.pinned)}
    values = {token for number in numbers for token in group.tokens[number]}
    return len(values) < sum(item.need + len(item.pinned) for item in covered)


def _too_few_counters(room: Room, items: "Sequence[Item]") -> bool:
    """Whether what all need at least of one kind of counter is more than all boards have left of it.

    Items that may get by without counters, and shares of devices that are charged already, need nothing.
    """
    devices = room.view.devices
    needed: dict[str, Amount] = {}
    drawn: dict[str, set[tuple[str, str, str, str]]] = {}
    for item in items:
        if item.want.admin or not item.need:
            continue
        least: dict[str, Amount] | None = None
        for number in item.candidates:
            takes = _takes(room, number, drawn)
            if devices[number].shareable:
                takes = {}
            if least is None:
                least = dict(takes)
            else:
                least = {name: min(amount, takes[name]) for name, amount in least.items() if name in takes}
        for name, amount in (least or {}).items():
            needed[name] = needed.get(name, 0) + amount * item.need
    return any(amount > sum(max(room.counter(key), 0) for key in drawn[name]) for name, amount in needed.items())


def _takes(room: Room, number: int, drawn: dict[str, set[tuple[str, str, str, str]]]) -> Mapping[str, Amount]:
    """What a device takes by counter name; its counters are added to those that items can draw on."""
    device = room.view.devices[number]
    takes: dict[str, Amount] = {}
    for counter_set, counters in device.consumes:
        for counter, amount in counters:
            if amount <= 0:
                continue
            key = (device.id.driver, device.id.pool, counter_set, counter)
            names = (counter, UNITS) if room.view.counters[key] == 1 else (counter,)
            for name in names:
                takes[name] = takes.get(name, 0) + amount
                drawn.setdefault(name, set()).add(key)
    return takes
