"""Exclusive devices for requests as a matching in a bipartite graph: exact, and never exponential.

Source: Kuhn's augmenting paths, with several devices per request.
"""

from collections.abc import Sequence

from scheduler.dra import choice
from scheduler.dra.bounds import exclusive
from scheduler.dra.items import Item
from scheduler.dra.room import Room


class Matching:
    """Items to devices, each device for one item. Takes no notice of counters, shares and distinct values."""

    def __init__(self, room: Room, items: "Sequence[Item]") -> None:
        self._room = room
        self._items = items
        devices = room.view.devices
        self._exclusive = exclusive(room, items)
        self.plain = len(self._exclusive) == len(items) and not any(
            devices[n].consumes for i in items for n in i.candidates
        )
        """Whether a matching is all there is to it."""

    def feasible(self) -> bool:
        """Whether there are enough devices for those items that need devices of their own."""
        return self._match(self._exclusive, preferred=False) is not None

    def solve(self) -> list[tuple[int, ...]] | None:
        """Devices for every item, in published order within an item; None if there are not enough."""
        owners = self._match(range(len(self._items)), preferred=True)
        if owners is None:
            return None
        picks: list[list[int]] = [[] for _ in self._items]
        for number in sorted(owners):
            picks[owners[number]].append(number)
        return [tuple(numbers) for numbers in picks]

    def _match(self, chosen: Sequence[int], *, preferred: bool) -> dict[int, int] | None:
        owners: dict[int, int] = {}
        fixed: set[int] = set()
        for position in chosen:
            item = self._items[position]
            if item.whole:
                if not fixed.isdisjoint(item.candidates):
                    return None
                fixed.update(item.candidates)
                owners.update(dict.fromkeys(item.candidates, position))
        free = {p: [n for n in self._items[p].candidates if n not in fixed] for p in chosen}
        open_items = [p for p in chosen if not self._items[p].whole]
        for position in sorted(open_items, key=lambda p: (len(free[p]) - self._items[p].need, p)):
            if not self._serve(position, free, owners, preferred=preferred):
                return None
        return owners

    def _serve(self, position: int, free: dict[int, list[int]], owners: dict[int, int], *, preferred: bool) -> bool:
        """Give an item its devices, moving others aside where needed."""
        item = self._items[position]
        unowned = [number for number in free[position] if number not in owners]
        if preferred:
            unowned = choice.ordered(self._room, unowned, item.need, self._near(item, free, owners))
        for number in unowned[: item.need]:
            owners[number] = position
        return all(self._augment(position, free, owners, set()) for _ in range(item.need - len(unowned)))

    def _near(self, item: Item, free: dict[int, list[int]], owners: dict[int, int]) -> choice.Near:
        """Where the item's claim has devices already, or if it has none, where all of its items find some."""
        view = self._room.view
        claimed = [n for n, owner in owners.items() if self._items[owner].claim == item.claim]
        siblings = [position for position in free if self._items[position].claim == item.claim]
        if claimed or len(siblings) < 2:
            return choice.near(view, claimed)
        return choice.meeting(view, (([n for n in free[p] if n not in owners], self._items[p].need) for p in siblings))

    def _augment(self, position: int, free: dict[int, list[int]], owners: dict[int, int], seen: set[int]) -> bool:
        """One more device for an item, by a chain of items that each give one up and get another.

        Breadth first: a chain visits every item at most once, whatever the number of devices.
        """
        came_from: dict[int, tuple[int, int]] = {}
        queue = [position]
        seen.add(position)
        for current in queue:
            for number in free[current]:
                owner = owners.get(number)
                if owner is None:
                    self._shift(current, number, position, came_from, owners)
                    return True
                if owner not in seen:
                    seen.add(owner)
                    came_from[owner] = current, number
                    queue.append(owner)
        return False

    def _shift(
        self, current: int, number: int, position: int, came_from: dict[int, tuple[int, int]], owners: dict[int, int]
    ) -> None:
        """Hand the free device to the chain's last item, and each of the others the device of its follower."""
        owners[number] = current
        while current != position:
            before, given_up = came_from[current]
            owners[given_up] = before
            current = before
