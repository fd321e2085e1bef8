"""When two stages of a search are the same question: equal up to which of several equal boards is which.

Devices that depend on each other (one counter set, one value of an attribute that is still to match, one request that
is confined to them) form a block. A stage is the multiset of its blocks; where claims ask for the same, it does not
matter which of them is confined to which block either. What failed once is not tried again under other names.
"""

from collections import Counter
from collections.abc import Hashable, Sequence

from scheduler.dra.items import Group, Item
from scheduler.dra.room import Room


class Stages:
    """Keys of the stages of one search over `items`; `distinct`: groups whose values must differ, in all stages."""

    def __init__(self, room: Room, items: "Sequence[Item]", distinct: "Sequence[Group]") -> None:
        self._room = room
        self._items = items
        self._distinct = distinct
        exchangeable = not distinct and not any(i.kind is None or i.want.admin or i.pinned for i in items)
        self._kinds: list[Hashable] = [i.kind if exchangeable else p for p, i in enumerate(items)]

    def key(self, items: "Sequence[Item]", groups: "Sequence[Group]") -> Hashable:
        """Equal for stages of which either both have an answer or none. `groups` are still to be given a value."""
        numbers = sorted({number for item in items for number in item.candidates})
        blocks: dict[int, list[int]] = {}
        for number, block in self._blocks(numbers, items, groups).items():
            blocks.setdefault(block, []).append(number)
        made = Counter(self._block(block, items, groups) for block in blocks.values())
        kinds = Counter((group.kind, tuple(sorted(repr(self._kinds[p]) for p in group.items))) for group in groups)
        return frozenset(made.items()), frozenset(kinds.items())

    def _blocks(self, numbers: list[int], items: "Sequence[Item]", groups: "Sequence[Group]") -> dict[int, int]:
        """The block of each device, named by one of its devices."""
        parent = {number: number for number in numbers}

        def root(number: int) -> int:
            while parent[number] != number:
                parent[number] = parent[parent[number]]
                number = parent[number]
            return number

        first: dict[Hashable, int] = {}
        for number in numbers:
            device = self._room.view.devices[number]
            keys: list[Hashable] = [(device.id.driver, device.id.pool, name) for name, _ in device.consumes]
            keys += [(group.attribute, token) for group in groups for token in group.tokens.get(number, ())]
            for key in keys:
                parent[root(number)] = root(first.setdefault(key, number))
        for item, original in zip(items, self._items, strict=True):
            if item.candidates != original.candidates:
                for number in item.candidates:
                    parent[root(number)] = root(item.candidates[0])
        return {number: root(number) for number in numbers}

    def _block(self, numbers: list[int], items: "Sequence[Item]", groups: "Sequence[Group]") -> Hashable:
        """A block without names: its devices in order, and which of them serve which kinds of items."""
        place = {number: position for position, number in enumerate(numbers)}
        names: dict[Hashable, int] = {}
        devices = tuple(self._device(number, groups, names) for number in numbers)
        serve: Counter[Hashable] = Counter()
        for position, item in enumerate(items):
            served = tuple(place[n] for n in item.candidates if n in place)
            if served:
                still = tuple(sorted(repr(group.kind) for group in groups if position in group.items))
                serve[self._kinds[position], still, served] += 1
        return devices, frozenset(serve.items())

    def _device(self, number: int, groups: "Sequence[Group]", names: dict[Hashable, int]) -> Hashable:
        """All that a search can notice of a device; `names` numbers what is only compared within the block."""
        room = self._room
        device = room.view.devices[number]
        drawn = []
        for counter_set, takes in device.consumes:
            key = (device.id.driver, device.id.pool, counter_set)
            left = tuple((name, room.counter((*key, name)), amount) for name, amount in takes)
            drawn.append((names.setdefault(key, len(names)), left))
        tokens = {
            (group.attribute, names.setdefault((group.attribute, token), len(names)))
            for group in groups
            for token in sorted(group.tokens.get(number, ()), key=repr)
        }
        return (
            tuple(drawn),
            frozenset(tokens),
            tuple(group.tokens.get(number) for group in self._distinct),
            tuple((name, room.capacity(number, name)) for name in sorted(device.capacity))
            if device.shareable
            else None,
            (number in room.held, number in room.shared),
            tuple(sorted(claim for claim, n in room.claims if n == number)) if room.claims else (),
        )
