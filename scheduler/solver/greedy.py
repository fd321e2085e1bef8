"""A good answer in milliseconds: the solver's hint, and its understudy.

One gang, all or nothing: domains from the finest level that is preferred to the coarsest that is allowed, the tightest
of each level first; inside a domain the hardest pods first, each where it fits best. It goes back over domains, never
over nodes. For pods that are all alike the answer is exact; for others `solve` has the last word. Pods with rules about
others are seated one by one, those that miss their company once more when others have come.
"""

from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

from scheduler.solver.problem import Group, Level, Move

Load = tuple[tuple[int, int], ...]
"""(shape, count) pairs, sorted: what an attempt has put on a node so far."""

Seats = dict[str, dict[int, int]]
"""node -> shape -> how many bundles."""


class Guests(Protocol):
    """Whom an attempt has seated, as far as others look at them."""

    def copy(self) -> Self:
        """A list of its own."""
        ...


GuestList = TypeVar("GuestList", bound=Guests)


class Room(Protocol[GuestList]):
    """What the greedy asks about the cluster. Shapes are numbers, nodes names."""

    def capacity(self, node: str, load: Load, shape: int, at_most: int) -> int:
        """How many more of `shape` the node takes on top of `load`, up to `at_most`."""
        ...

    def favoured(self, node: str, load: Load, shape: int, at_most: int) -> int:
        """How many of `at_most` bundles that find room on top of `load` the node serves as well as one by itself."""
        ...

    def dislike(self, node: str, load: Load) -> int:
        """How much less the load gets there than it would like best; 0 for all that it likes."""
        ...

    def rank(self, node: str, shape: int) -> tuple[int | str, ...]:
        """Smaller is better for one of `shape`; ends in the node's name."""
        ...

    def weight(self, node: str) -> int:
        """How much is free there, for choosing the tightest domain."""
        ...

    def hardness(self, shape: int) -> tuple[int, ...]:
        """Larger is harder to place."""
        ...

    def split(self, level: Level, nodes: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
        """The domains of a level, by name, with those of `nodes` that stand in them."""
        ...

    def sociable(self, shape: int) -> bool:
        """Whether pods of this shape have rules about others, or others about them."""
        ...

    def guests(self) -> GuestList:
        """Nobody so far."""
        ...

    def surroundings(self, node: str, shape: int) -> Hashable:
        """Equal for nodes on which one of `shape` is as welcome, whoever the guests are."""
        ...

    def welcome(self, node: str, shape: int, guests: GuestList) -> int | str:
        """How ill at ease one of `shape` would be there, 0 for not at all; or why it may not be there."""
        ...

    def seat(self, node: str, shape: int, guests: GuestList) -> None:
        """One of `shape` is there now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Seated:
    """Where everything goes."""

    moves: tuple[Move, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Short:
    """No placement was found. `placeable`: the most pods that found room at once. Of those that did not, the first were
    of `shape` and were tried on `nodes`, which make up `domain` ("" for anywhere). `outside`: none of `nodes` is in any
    domain of this level, in one of which they have to be. `guests`: those who found room, if others mind who is there.
    `seats`: what those who found room put on each node.
    `certain`: for such a group the greedy misses nothing, so there is no placement."""

    placeable: int
    shape: int
    nodes: tuple[str, ...]
    domain: str = ""
    outside: Level | None = None
    guests: Guests | None = None
    seats: tuple[tuple[str, Load], ...] = ()
    certain: bool


def place(group: Group, nodes: Sequence[str], room: Room[GuestList]) -> Seated | Short:
    """Seats for the group on `nodes`, or how far it got."""
    draft = _Attempt(room).group(group, tuple(nodes), _Draft(seats={}, moves=[], guests=room.guests()), "")
    miss = draft.miss
    if miss is None:
        return Seated(moves=tuple(draft.moves))
    return Short(
        placeable=draft.pods,
        shape=miss.shape,
        nodes=miss.nodes,
        domain=miss.domain,
        outside=miss.outside,
        guests=draft.guests if room.sociable(miss.shape) else None,
        seats=tuple((node, _load(counts)) for node, counts in sorted(draft.seats.items())),
        certain=_exact(group) and (len(group.units) == 1 or not any(map(room.sociable, group.shapes()))),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Miss:
    """What found no room, and where; as in `Short`."""

    shape: int
    nodes: tuple[str, ...]
    domain: str
    outside: Level | None = None


@dataclass(slots=True, kw_only=True)
class _Draft(Generic[GuestList]):
    """An answer in the making. `miss`: the first that found no room; what comes after it is placed to be counted."""

    seats: Seats
    moves: list[Move]
    guests: GuestList
    pods: int = 0
    miss: _Miss | None = None

    def copy(self) -> "_Draft[GuestList]":
        seats = {node: dict(counts) for node, counts in self.seats.items()}
        return _Draft(seats=seats, moves=list(self.moves), guests=self.guests.copy(), pods=self.pods, miss=self.miss)

    def add(self, move: Move, size: int) -> None:
        """`size`: pods in one bundle of this shape."""
        counts = self.seats.setdefault(move.node, {})
        counts[move.shape] = counts.get(move.shape, 0) + move.count
        self.moves.append(move)
        self.pods += move.count * size


class _Attempt(Generic[GuestList]):
    def __init__(self, room: Room[GuestList]) -> None:
        self._room = room

    def group(self, group: Group, nodes: tuple[str, ...], draft: _Draft[GuestList], domain: str) -> _Draft[GuestList]:
        """`draft` with the group added; if that is not possible, with as much of it as found room in one domain in
        which it may be, and with a miss. `draft` itself, which misses nothing, stays as it is."""
        best: _Draft[GuestList] | None = None
        seated: tuple[int, int, _Draft[GuestList]] | None = None
        for preference, name, inside, widest in self._parts(group, nodes):
            if seated is not None and preference != seated[0]:
                break
            filled = draft.copy()
            self._fill(group, inside, filled, name or domain)
            if filled.miss is None:
                dislike = self._dislike(filled)
                if not dislike or dislike <= self._dislike(draft):
                    return filled
                if seated is None or dislike < seated[1]:
                    seated = preference, dislike, filled
                continue
            if widest and (best is None or filled.pods > best.pods):
                best = filled
        if seated is not None:
            return seated[2]
        if best is None:
            best = draft.copy()
            hardest = min(group.shapes(), key=self._hardest_first)
            best.miss = _Miss(shape=hardest, nodes=nodes, domain=domain, outside=group.required)
        return best

    def _dislike(self, draft: _Draft[GuestList]) -> int:
        """How much less all in the draft get than they would like best."""
        return sum(self._room.dislike(node, _load(counts)) for node, counts in draft.seats.items())

    def _parts(self, group: Group, nodes: tuple[str, ...]) -> Iterator[tuple[int, str, tuple[str, ...], bool]]:
        """The candidates; of each, before the whole of it, the parts in which the group's pods would be together. Each
        after its place in the order of preference: of those that are equal there, the tightest comes first."""
        for preference, name, inside, widest in self._domains(group, nodes):
            for level in group.company:
                for _, _, _, together in self._ranked(group, level, inside):
                    yield preference, name, together, False
            yield preference, name, inside, widest

    def _domains(self, group: Group, nodes: tuple[str, ...]) -> Iterator[tuple[int, str, tuple[str, ...], bool]]:
        """Candidates as (name, nodes): finest level first; of one level where the group is, then the tightest. With
        each, whether it is as wide as may be: finer ones are only preferred, so that it is not for them to say why."""
        if group.required is not None and group.pinned:
            parts = dict(self._room.split(group.required, nodes))
            nodes = parts.get(group.pinned, ())
        for step, level in enumerate(group.steps):
            for elsewhere, _, name, inside in self._ranked(group, level, nodes):
                yield 2 * step + elsewhere, name, inside, level == group.required
        if group.required is None:
            yield 2 * len(group.steps), "", nodes, True

    def _ranked(
        self, group: Group, level: Level, nodes: tuple[str, ...]
    ) -> list[tuple[bool, int, str, tuple[str, ...]]]:
        """The domains of a level: where the group is already, then the tightest."""
        return sorted(
            (group.near.isdisjoint(inside), sum(map(self._room.weight, inside)), name, inside)
            for name, inside in self._room.split(level, nodes)
        )

    def _fill(self, group: Group, nodes: tuple[str, ...], draft: _Draft[GuestList], domain: str) -> None:
        """Add the group to the draft, or as much of it as finds room and a miss."""
        if group.children:
            self._fill_children(group, nodes, draft, domain)
            return
        wanted: dict[int, int] = {}
        sizes: dict[int, int] = {}
        pods = 0
        for unit in group.units:
            if pods >= group.minimum:
                break
            wanted[unit.shape] = wanted.get(unit.shape, 0) + 1
            sizes[unit.shape] = unit.pods
            pods += unit.pods
        waiting = sorted(wanted, key=self._hardest_first)
        while waiting:
            before = draft.pods
            for shape in waiting:
                for node, count in self._seats(shape, wanted[shape], nodes, draft):
                    draft.add(Move(leaf=group.name, node=node, shape=shape, count=count), sizes[shape])
                    wanted[shape] -= count
            waiting = [shape for shape in waiting if wanted[shape]]
            if draft.pods == before or not any(map(self._room.sociable, waiting)):
                break
        if waiting:
            draft.miss = draft.miss or _Miss(shape=waiting[0], nodes=nodes, domain=domain)

    def _fill_children(self, group: Group, nodes: tuple[str, ...], draft: _Draft[GuestList], domain: str) -> None:
        """The children listed first that fit; the hardest first where all are needed. One that minds who else is there,
        and finds no room, is tried once more after the others."""
        done = 0
        miss: _Miss | None = None
        spare = len(group.children) - group.minimum
        children = deque(group.children if spare else sorted(group.children, key=self._child_order))
        again: set[str] = set()
        while children and done < group.minimum:
            child = children.popleft()
            grown = self.group(child, nodes, draft, domain)
            lonely = grown.miss is not None and any(map(self._room.sociable, child.shapes()))
            if lonely and children and child.name not in again:
                again.add(child.name)
                children.append(child)
                continue
            if grown.miss is not None and spare > 0:
                spare -= 1
                continue
            done += 1
            miss = miss or grown.miss
            draft.seats, draft.moves, draft.guests, draft.pods = grown.seats, grown.moves, grown.guests, grown.pods
        draft.miss = miss

    def _hardest_first(self, shape: int) -> tuple[int, ...]:
        return (*(-part for part in self._room.hardness(shape)), shape)

    def _child_order(self, child: Group) -> tuple[int | str, ...]:
        hardest = max(map(self._room.hardness, child.shapes()), default=())
        return (*(-part for part in hardest), child.name)

    def _seats(self, shape: int, count: int, nodes: tuple[str, ...], draft: _Draft[GuestList]) -> list[tuple[str, int]]:
        """Nodes for `count` bundles, or for as many as find room, with how many each takes: where they fit best."""
        room = self._room
        if room.sociable(shape):
            return self._seats_in_company(shape, count, nodes, draft)
        able = []
        for node in nodes:
            capacity = room.capacity(node, _load(draft.seats.get(node)), shape, count)
            if capacity:
                able.append((room.rank(node, shape), node, capacity))
        able.sort()
        seats: dict[str, int] = {}
        left = count
        for _, node, capacity in able:
            here = room.favoured(node, _load(draft.seats.get(node)), shape, min(capacity, left))
            seats[node] = here
            left -= here
            if not left:
                break
        # Only now more on a node than it serves as well as one by itself.
        for _, node, capacity in able if left else ():
            more = min(capacity - seats[node], left)
            seats[node] += more
            left -= more
            if not left:
                break
        return [(node, here) for node, here in seats.items() if here]

    def _seats_in_company(
        self, shape: int, count: int, nodes: tuple[str, ...], draft: _Draft[GuestList]
    ) -> list[tuple[str, int]]:
        """The same for those who mind who else is there: one after the other, each where it is most at ease."""
        room, taken = self._room, dict[str, int]()
        places: dict[Hashable, list[str]] = {}
        for node in sorted(nodes, key=lambda node: room.rank(node, shape)):
            places.setdefault(room.surroundings(node, shape), []).append(node)
        for alike in places.values():
            alike.reverse()

        def takes(node: str) -> bool:
            counts = dict(draft.seats.get(node, {}))
            counts[shape] = counts.get(shape, 0) + taken.get(node, 0)
            return room.capacity(node, _load({s: n for s, n in counts.items() if n}), shape, 1) > 0

        for _ in range(count):
            best: tuple[int, str] | None = None
            for alike in places.values():
                while alike and not takes(alike[-1]):
                    alike.pop()
                unease = room.welcome(alike[-1], shape, draft.guests) if alike else ""
                if isinstance(unease, int) and (best is None or unease < best[0]):
                    best = unease, alike[-1]
                    if not unease:
                        break
            if best is None:
                break
            taken[best[1]] = taken.get(best[1], 0) + 1
            room.seat(best[1], shape, draft.guests)
        return list(taken.items())


def _load(counts: dict[int, int] | None) -> Load:
    return tuple(sorted(counts.items())) if counts else ()


def _exact(group: Group) -> bool:
    """All units are alike, all are needed or any will do, and only the group as a whole is bound to a domain."""
    below = [each for child in group.children for each in child.walk()]
    choosing = any(each.children and each.minimum < len(each.children) for each in (group, *below))
    return len(group.shapes()) == 1 and not choosing and not any(each.steps for each in below)
