"""Seats by trial, for a few pods that mind who else is there, where taking each where it is best led nowhere.

It goes back over everything: who comes next, and where. What has been tried in another order is not tried again. Of the
nodes with the same surroundings only the best is tried, so finding nothing proves nothing.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic

from scheduler.solver.greedy import GuestList, Load, Room
from scheduler.solver.problem import Group, Move

MOST_PODS = 16
"""Of larger groups too little could be tried."""

MOST_TRIES = 3_000
"""Seats looked at for one group (measured: 10 to 30 us each)."""


def place(group: Group, nodes: Sequence[str], room: Room[GuestList]) -> tuple[Move, ...] | None:
    """Seats for a group without sub-groups, each in one domain of the level that it has to stay in."""
    if group.children or sum(unit.pods for unit in group.units) > MOST_PODS:
        return None
    parts = [("", tuple(nodes))] if group.required is None else room.split(group.required, nodes)
    trial = _Trial(group=group, room=room)
    for name, inside in parts:
        if not group.pinned or name == group.pinned:
            seats = trial.run(inside, {}, room.guests(), 0)
            if seats is not None:
                return tuple(
                    Move(leaf=group.name, node=node, shape=shape, count=count)
                    for node in sorted(seats)
                    for shape, count in seats[node]
                )
    return None


@dataclass(slots=True, kw_only=True)
class _Trial(Generic[GuestList]):
    group: Group
    room: Room[GuestList]
    left: int = MOST_TRIES
    _seen: set[Hashable] = field(default_factory=set)

    def run(
        self, nodes: tuple[str, ...], seats: Mapping[str, Load], guests: GuestList, pods: int
    ) -> Mapping[str, Load] | None:
        """`seats` with as many more as the group needs, None if there is no way or the tries are used up."""
        if pods >= self.group.minimum:
            return seats
        key = (nodes[:1], tuple(sorted(seats.items())))
        if key in self._seen:
            return None
        self._seen.add(key)
        sizes = {unit.shape: unit.pods for unit in self.group.units}
        for shape, node in self._candidates(nodes, seats, guests):
            more = guests.copy()
            self.room.seat(node, shape, more)
            taken = dict(seats) | {node: _with_one(seats.get(node, ()), shape)}
            found = self.run(nodes, taken, more, pods + sizes[shape])
            if found is not None or self.left <= 0:
                return found
        return None

    def _candidates(
        self, nodes: tuple[str, ...], seats: Mapping[str, Load], guests: GuestList
    ) -> list[tuple[int, str]]:
        """Who could come next, and where: the hardest first, each where it is most at ease."""
        room = self.room
        found: list[tuple[int, str]] = []
        for shape in sorted(self.group.shapes(), key=lambda each: (*(-part for part in room.hardness(each)), each)):
            if sum(count for load in seats.values() for of, count in load if of == shape) >= self.group.count(shape):
                continue
            able: dict[Hashable, tuple[int, tuple[int | str, ...], str]] = {}
            for node in nodes:
                self.left -= 1
                unease = room.welcome(node, shape, guests)
                if isinstance(unease, int) and room.capacity(node, seats.get(node, ()), shape, 1):
                    seat = (unease, room.rank(node, shape), node)
                    around = tuple(room.surroundings(node, each) for each in self.group.shapes())
                    where = (around, seats.get(node, ()))
                    able[where] = min(able.get(where, seat), seat)
            found += [(shape, node) for _, _, node in sorted(able.values())]
        return found


def _with_one(load: Load, shape: int) -> Load:
    counts = dict(load)
    counts[shape] = counts.get(shape, 0) + 1
    return tuple(sorted(counts.items()))
