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
    """No placement was found. `placeable`: the most pods that found room at once, in `domain` ("" for anywhere).

    `shape`: of the pod that found none. `certain`: for such a group the greedy misses nothing, so there is none."""

    placeable: int
    shape: int
    domain: str
    certain: bool


def place(group: Group, nodes: Sequence[str], room: Room) -> Seated | Short:
    """Seats for the group on `nodes`, or how far it got."""
    attempt = _Attempt(room, exact=_exact(group))
    draft = attempt.group(group, tuple(nodes), _Draft(seats={}, moves=[]), "")
    return Seated(moves=tuple(draft.moves)) if draft is not None else attempt.short()


@dataclass(slots=True, kw_only=True)
class _Draft:
    """An answer in the making."""

    seats: Seats
    moves: list[Move]

    def copy(self) -> "_Draft":
        return _Draft(seats={node: dict(counts) for node, counts in self.seats.items()}, moves=list(self.moves))

    def add(self, move: Move) -> None:
        counts = self.seats.setdefault(move.node, {})
        counts[move.shape] = counts.get(move.shape, 0) + move.count
        self.moves.append(move)


class _Attempt:
    def __init__(self, room: Room, *, exact: bool) -> None:
        self._room = room
        self._exact = exact
        self._best: tuple[int, int, str] | None = None

    def short(self) -> Short:
        placeable, shape, domain = self._best or (0, 0, "")
        return Short(placeable=placeable, shape=shape, domain=domain, certain=self._exact)

    def group(self, group: Group, nodes: tuple[str, ...], draft: _Draft, domain: str) -> _Draft | None:
        """`draft` with the group added, or None; `draft` itself stays as it is."""
        for name, inside in self._domains(group, nodes):
            filled = draft.copy()
            if self._fill(group, inside, filled, name or domain):
                return filled
        return None

    def _domains(self, group: Group, nodes: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Candidates as (name, nodes): finest level first; of one level where the group is, then the tightest."""
        if group.required is not None and group.pinned:
            parts = dict(self._room.split(group.required, nodes))
            nodes = parts.get(group.pinned, ())
        for level in group.steps:
            ranked = [
                (group.near.isdisjoint(inside), sum(map(self._room.weight, inside)), name, inside)
                for name, inside in self._room.split(level, nodes)
            ]
            for _, _, name, inside in sorted(ranked):
                yield name, inside
        if group.required is None:
            yield "", nodes

    def _fill(self, group: Group, nodes: tuple[str, ...], draft: _Draft, domain: str) -> bool:
        if group.children:
            return self._fill_children(group, nodes, draft, domain)
        wanted: dict[int, int] = {}
        sizes: dict[int, int] = {}
        pods = 0
        for unit in group.units:
            if pods >= group.minimum:
                break
            wanted[unit.shape] = wanted.get(unit.shape, 0) + 1
            sizes[unit.shape] = unit.pods
            pods += unit.pods
        for shape in sorted(wanted, key=lambda s: (*(-part for part in self._room.hardness(s)), s)):
            placed = self._spread(group.name, shape, wanted[shape], nodes, draft)
            if placed < wanted[shape]:
                before = sum(move.count * sizes.get(move.shape, 1) for move in draft.moves)
                self._note(before + placed * sizes[shape], shape, domain)
                return False
        return True

    def _fill_children(self, group: Group, nodes: tuple[str, ...], draft: _Draft, domain: str) -> bool:
        """The children listed first that fit; the hardest first where all are needed."""
        done = 0
        spare = len(group.children) - group.minimum
        children = group.children if spare else tuple(sorted(group.children, key=self._child_order))
        for child in children:
            if done >= group.minimum:
                break
            grown = self.group(child, nodes, draft, domain)
            if grown is not None:
                draft.seats, draft.moves = grown.seats, grown.moves
                done += 1
            elif spare == 0:
                return False
            else:
                spare -= 1
        return done >= group.minimum

    def _child_order(self, child: Group) -> tuple[int | str, ...]:
        hardest = max(map(self._room.hardness, child.shapes()), default=())
        return (*(-part for part in hardest), child.name)

    def _spread(self, leaf: str, shape: int, count: int, nodes: tuple[str, ...], draft: _Draft) -> int:
        """Put `count` bundles on nodes, each where it fits best; how many found room. Adds to the draft if all did."""
        room = self._room
        able = []
        total = 0
        for node in nodes:
            capacity = room.capacity(node, _load(draft.seats.get(node)), shape, count)
            if capacity:
                able.append((room.rank(node, shape), node, capacity))
                total += capacity
        if total < count:
            return total
        left = count
        for _, node, capacity in sorted(able):
            here = min(capacity, left)
            draft.add(Move(leaf=leaf, node=node, shape=shape, count=here))
            left -= here
            if not left:
                break
        return count

    def _note(self, placed: int, shape: int, domain: str) -> None:
        if self._best is None or placed > self._best[0]:
            self._best = placed, shape, domain


def _load(counts: dict[int, int] | None) -> Load:
    return tuple(sorted(counts.items())) if counts else ()


def _exact(group: Group) -> bool:
    """All units are alike, all are needed or any will do, and only the group as a whole is bound to a domain."""
    below = [each for child in group.children for each in child.walk()]
    choosing = any(each.children and each.minimum < len(each.children) for each in (group, *below))
    return len(group.shapes()) == 1 and not choosing and not any(each.steps for each in below)
