"""The exact search: devices for all requests of all claims at once, or the proof that there are none.

Four stages, each exact: a common value is fixed for every matchAttribute, tightest group first; impossible sums are
recognised; what is then a plain matching (no counters, shares or distinct values) is solved as one; the rest is spread
over the boards or, where that fails, tried depth first: boards in the same state count as one, and a state that failed
is not entered again.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace

from scheduler.dra import bounds, choice
from scheduler.dra.alike import Stages
from scheduler.dra.descent import Descent, greedy
from scheduler.dra.items import Group, Item, Picks, Token
from scheduler.dra.matching import Matching
from scheduler.dra.room import OutOfSteps, Room


class Search:
    """One node, one set of items. `room` is left as it was found."""

    def __init__(self, room: Room, items: Sequence[Item], groups: Sequence[Group]) -> None:
        self._room = room
        self._view = room.view
        self._groups = tuple(group for group in groups if not group.distinct)
        self._distinct = tuple(group for group in groups if group.distinct)
        self._failed: set[Hashable] = set()
        self._items = tuple(_comparable(position, item, self._distinct) for position, item in enumerate(items))
        self._stages = Stages(room, self._items, self._distinct)

    def solve(self) -> Picks | None:
        """Devices for all items, the preferred ones where there is a choice; None: there are none.

        Raises OutOfSteps when the budget ends first.
        """
        mark = self._room.mark()
        try:
            items = self._pin() if any(item.pinned for item in self._items) else self._items
            if items is None or any(len(item.candidates) < item.need for item in items):
                return None
            found = self._dive(items, self._groups)
            return found if found is not None else self._fix_values(items, self._groups)
        finally:
            self._room.undo(mark)

    def _pin(self) -> tuple[Item, ...] | None:
        """Take what is pinned; the items with what is left for them, or None where that contradicts itself."""
        room = self._room
        if not all(room.try_take(item.want, item.claim, n) for item in self._items for n in item.pinned):
            return None
        for group in self._distinct:
            pinned = [group.tokens[n] for position in group.items for n in self._items[position].pinned]
            if sum(map(len, pinned)) != len(frozenset().union(*pinned)):
                return None
        return tuple(
            replace(
                item,
                candidates=tuple(
                    n for n in item.candidates if room.is_free(item.want, n) and (item.claim, n) not in room.claims
                ),
            )
            for item in self._items
        )

    def _dive(self, items: tuple[Item, ...], groups: tuple[Group, ...]) -> Picks | None:
        """Straight down to the most preferred answer, without looking back: mostly it is there."""
        self._step()
        if not groups:
            matching = Matching(self._room, items)
            if matching.plain and not self._distinct:
                return matching.solve()
            return greedy(self._room, items, self._distinct)
        chosen, options = self._narrowest(items, groups)
        return self._dive(options[0], groups[:chosen] + groups[chosen + 1 :]) if options else None

    def _narrowest(self, items: tuple[Item, ...], groups: tuple[Group, ...]) -> tuple[int, list[tuple[Item, ...]]]:
        """The group with the fewest values to try, by position, and the items narrowed to each of these."""
        options = [self._values(items, group) for group in groups]
        chosen = min(range(len(groups)), key=lambda position: len(options[position]))
        return chosen, options[chosen]

    def _fix_values(self, items: tuple[Item, ...], groups: tuple[Group, ...]) -> Picks | None:
        """Try the common values of the group that has fewest, then of the others."""
        if bounds.impossible(self._room, items, self._distinct):
            return None
        if not groups:
            return self._place(items)
        self._step()
        if self._failed_before(items, groups):
            return None
        chosen, options = self._narrowest(items, groups)
        rest = groups[:chosen] + groups[chosen + 1 :]
        attempts = (self._fix_values(narrowed, rest) for narrowed in options)
        found = next((picks for picks in attempts if picks is not None), None)
        if found is None:
            self._note_failure(items, groups)
        return found

    def _failed_before(self, items: tuple[Item, ...], groups: tuple[Group, ...]) -> bool:
        return bool(self._failed) and self._stages.key(items, groups) in self._failed

    def _note_failure(self, items: tuple[Item, ...], groups: tuple[Group, ...]) -> None:
        if len(groups) < len(self._groups):  # the first stage of all does not come again
            self._failed.add(self._stages.key(items, groups))

    def _values(self, items: tuple[Item, ...], group: Group) -> list[tuple[Item, ...]]:
        """The items narrowed to each value that leaves enough devices: smallest devices first, then tightest."""
        having: dict[Token, dict[int, list[int]]] = {}
        pinned = [group.tokens[number] for position in group.items for number in items[position].pinned]
        wanting = sorted(position for position in group.items if items[position].need)
        if not wanting:
            return [items] if frozenset.intersection(*pinned) else []
        needed = sum(
            items[position].need for position in bounds.exclusive(self._room, items) if position in group.items
        )
        for position in wanting:
            for number in items[position].candidates:
                for token in group.tokens[number]:
                    having.setdefault(token, {}).setdefault(position, []).append(number)
        ranked = []
        for token, by_item in having.items():
            if not all(token in tokens for tokens in pinned):
                continue
            if not all(_enough(items[position], by_item.get(position, ())) for position in wanting):
                continue
            covered = {number for numbers in by_item.values() for number in numbers}
            if len(covered) < needed:
                continue
            ranked.append((self._size(items, by_item), len(covered), min(covered, default=-1), token, by_item))
        ranked.sort(key=lambda entry: (*entry[:3], str(entry[3])))
        return [
            tuple(
                replace(item, candidates=tuple(by_item.get(position, ()))) if position in wanting else item
                for position, item in enumerate(items)
            )
            for *_, by_item in ranked
        ]

    def _size(self, items: tuple[Item, ...], by_item: Mapping[int, list[int]]) -> tuple[object, ...]:
        """How much is used at least if this group is chosen, per item."""
        every = choice.sizes(self._view)
        sizes: list[tuple[object, ...]] = []
        for position, numbers in sorted(by_item.items()):
            sizes.extend(sorted(every[number] for number in numbers)[: items[position].need])
        return tuple(sorted(sizes, reverse=True))

    def _place(self, items: tuple[Item, ...]) -> Picks | None:
        """Devices for items whose common values are fixed. A matching is solved sooner than a stage is recognised."""
        matching = Matching(self._room, items)
        self._step()
        if matching.plain and not self._distinct:
            return matching.solve()
        if not matching.feasible() or self._failed_before(items, ()):
            return None
        found = greedy(self._room, items, self._distinct, fresh=True)
        if found is None:
            found = Descent(self._room, items, self._distinct).run()
        if found is None:
            self._note_failure(items, ())
        return found

    def _step(self) -> None:
        self._room.steps -= 1
        if self._room.steps < 0:
            raise OutOfSteps


def _comparable(position: int, item: Item, distinct: Sequence[Group]) -> Item:
    """The item without candidates that have no value where values must differ."""
    covering = [group for group in distinct if position in group.items]
    if all(group.tokens[n] for group in covering for n in item.candidates):
        return item
    return replace(item, candidates=tuple(n for n in item.candidates if all(g.tokens[n] for g in covering)))


def _enough(item: Item, numbers: Iterable[int]) -> bool:
    count = sum(1 for _ in numbers)
    return count == len(item.candidates) if item.whole else count >= item.need
