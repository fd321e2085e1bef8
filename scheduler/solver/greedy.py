"""A good answer in milliseconds: the solver's hint, and its understudy.

One gang, all or nothing: domains from the finest level that is preferred to the coarsest that is allowed, the tightest
of each level first; inside a domain the hardest pods first, each where it fits best. It goes back over domains, never
over nodes. For pods that are all alike the answer is exact; for others `solve` has the last word.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from scheduler.solver.problem import Group, Level, Move

Load = tuple[tuple[int, int], ...]
"""(shape, count) pairs, sorted: what an attempt has put on a node so far."""

Seats = dict[str, dict[int, int]]
"""node -> shape -> how many bundles."""


class Room(Protocol):
    """What the greedy asks about the cluster. Shapes are numbers, nodes names."""

    def capacity(self, node: str, load: Load, shape: int, at_most: int) -> int:
        """How many more of `shape` the node takes on top of `load`, up to `at_most`."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Seated:
    """Where everything goes."""

    moves: tuple[Move, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Short:
    """No placement was found. `placeable`: the most pods that found room at once. Of those that did not, the first were
    of `shape` and were tried on `nodes`, which make up `domain` ("" for anywhere). `outside`: none of `nodes` is in any
    domain of this level, in one of which they have to be. `certain`: for such a group the greedy misses nothing, so
    there is no placement."""

    placeable: int
    shape: int
    nodes: tuple[str, ...]
    domain: str = ""
    outside: Level | None = None
    certain: bool


def place(group: Group, nodes: Sequence[str], room: Room) -> Seated | Short:
    """Seats for the group on `nodes`, or how far it got."""
    draft = _Attempt(room).group(group, tuple(nodes), _Draft(seats={}, moves=[]), "")
    miss = draft.miss
    if miss is None:
        return Seated(moves=tuple(draft.moves))
    return Short(
        placeable=draft.pods,
        shape=miss.shape,
        nodes=miss.nodes,
        domain=miss.domain,
        outside=miss.outside,
        certain=_exact(group),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Miss:
    """What found no room, and where; as in `Short`."""

    shape: int
    nodes: tuple[str, ...]
    domain: str
    outside: Level | None = None


@dataclass(slots=True, kw_only=True)
class _Draft:
    """An answer in the making. `miss`: the first that found no room; what comes after it is placed to be counted."""

    seats: Seats
    moves: list[Move]
    pods: int = 0
    miss: _Miss | None = None

    def copy(self) -> "_Draft":
        seats = {node: dict(counts) for node, counts in self.seats.items()}
        return _Draft(seats=seats, moves=list(self.moves), pods=self.pods, miss=self.miss)

    def add(self, move: Move, size: int) -> None:
        """`size`: pods in one bundle of this shape."""
        counts = self.seats.setdefault(move.node, {})
        counts[move.shape] = counts.get(move.shape, 0) + move.count
        self.moves.append(move)
        self.pods += move.count * size


class _Attempt:
    def __init__(self, room: Room) -> None:
        self._room = room

    def group(self, group: Group, nodes: tuple[str, ...], draft: _Draft, domain: str) -> _Draft:
        """`draft` with the group added; if that is not possible, with as much of it as found room in one domain in
        which it may be, and with a miss. `draft` itself, which misses nothing, stays as it is."""
        best: _Draft | None = None
        for name, inside, widest in self._domains(group, nodes):
            filled = draft.copy()
            self._fill(group, inside, filled, name or domain)
            if filled.miss is None:
                return filled
            if widest and (best is None or filled.pods > best.pods):
                best = filled
        if best is None:
            best = draft.copy()
            hardest = min(group.shapes(), key=self._hardest_first)
            best.miss = _Miss(shape=hardest, nodes=nodes, domain=domain, outside=group.required)
        return best

    def _domains(self, group: Group, nodes: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...], bool]]:
        """Candidates as (name, nodes): finest level first; of one level where the group is, then the tightest. With
        each, whether it is as wide as may be: finer ones are only preferred, so that it is not for them to say why."""
        if group.required is not None and group.pinned:
            parts = dict(self._room.split(group.required, nodes))
            nodes = parts.get(group.pinned, ())
        for level in group.steps:
            ranked = [
                (group.near.isdisjoint(inside), sum(map(self._room.weight, inside)), name, inside)
                for name, inside in self._room.split(level, nodes)
            ]
            for _, _, name, inside in sorted(ranked):
                yield name, inside, level == group.required
        if group.required is None:
            yield "", nodes, True

    def _fill(self, group: Group, nodes: tuple[str, ...], draft: _Draft, domain: str) -> None:
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
        for shape in sorted(wanted, key=self._hardest_first):
            seats = self._seats(shape, wanted[shape], nodes, draft)
            for node, count in seats:
                draft.add(Move(leaf=group.name, node=node, shape=shape, count=count), sizes[shape])
            if sum(count for _, count in seats) < wanted[shape]:
                draft.miss = draft.miss or _Miss(shape=shape, nodes=nodes, domain=domain)

    def _fill_children(self, group: Group, nodes: tuple[str, ...], draft: _Draft, domain: str) -> None:
        """The children listed first that fit; the hardest first where all are needed."""
        done = 0
        miss: _Miss | None = None
        spare = len(group.children) - group.minimum
        children = group.children if spare else tuple(sorted(group.children, key=self._child_order))
        for child in children:
            if done >= group.minimum:
                break
            grown = self.group(child, nodes, draft, domain)
            if grown.miss is not None and spare > 0:
                spare -= 1
                continue
            done += 1
            miss = miss or grown.miss
            draft.seats, draft.moves, draft.pods = grown.seats, grown.moves, grown.pods
        draft.miss = miss

    def _hardest_first(self, shape: int) -> tuple[int, ...]:
        return (*(-part for part in self._room.hardness(shape)), shape)

    def _child_order(self, child: Group) -> tuple[int | str, ...]:
        hardest = max(map(self._room.hardness, child.shapes()), default=())
        return (*(-part for part in hardest), child.name)

    def _seats(self, shape: int, count: int, nodes: tuple[str, ...], draft: _Draft) -> list[tuple[str, int]]:
        """Nodes for `count` bundles, or for as many as find room, with how many each takes: where they fit best."""
        room = self._room
        able = []
        for node in nodes:
            capacity = room.capacity(node, _load(draft.seats.get(node)), shape, count)
            if capacity:
                able.append((room.rank(node, shape), node, capacity))
        seats = []
        left = count
        for _, node, capacity in sorted(able):
            here = min(capacity, left)
            seats.append((node, here))
            left -= here
            if not left:
                break
        return seats


def _load(counts: dict[int, int] | None) -> Load:
    return tuple(sorted(counts.items())) if counts else ()


def _exact(group: Group) -> bool:
    """All units are alike, all are needed or any will do, and only the group as a whole is bound to a domain."""
    below = [each for child in group.children for each in child.walk()]
    choosing = any(each.children and each.minimum < len(each.children) for each in (group, *below))
    return len(group.shapes()) == 1 and not choosing and not any(each.steps for each in below)
