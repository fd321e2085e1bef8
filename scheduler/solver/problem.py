"""Problem: the question in small integers, and the way back to names.

Gangs contend for zones: sets of nodes that no level at hand tells apart. The nodes of a zone that are in one state form
a class, and a class knows its patterns: the maximal ways to fill one such node, and lesser ones that pods like better;
exact because whoever makes the problem asks the same functions that place pods. So resources, devices, partitions and
counters never enter the model itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass

Level = tuple[str, str]
"""(topology, key) of a level in which a group may have to stay together."""

Pattern = tuple[tuple[int, int], ...]
"""(shape, count) pairs, sorted: how one node may be filled; () leaves it as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What is placed in one piece: a bundle of `pods` pods of one shape."""

    shape: int
    pods: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What is placed whole or not at all. A leaf takes units until it has `minimum` pods, an inner group that many of
    its children; both prefer those listed first.

    `steps`: levels to stay together in, to be tried in this order; the last is `required` if that is set, otherwise
    after them anywhere will do. `pinned`: the only domain of the required level allowed, "" for any. `near`: nodes
    where pods of the group are already: their domains are tried first. `company`: levels in one domain of which its
    pods may find each other; within whatever the steps allow they are tried first, and are no condition."""

    name: str
    minimum: int
    units: tuple[Unit, ...] = ()
    children: tuple["Group", ...] = ()
    steps: tuple[Level, ...] = ()
    required: Level | None = None
    pinned: str = ""
    near: frozenset[str] = frozenset()
    company: tuple[Level, ...] = ()

    def walk(self) -> Iterator["Group"]:
        """The group, then all below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def shapes(self) -> tuple[int, ...]:
        """The shapes of its units and of those below, sorted."""
        return tuple(sorted({unit.shape for group in self.walk() for unit in group.units}))

    def count(self, shape: int) -> int:
        """How many units of the shape it has itself."""
        return sum(1 for unit in self.units if unit.shape == shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A gang that wants `group` placed. `must`: it has to be, for the greedy placed it. `value`: what it is worth to
    place it. `amounts`: what it takes of each of the problem's budgets."""

    gang: str
    group: Group
    must: bool
    value: int
    amounts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeClass:
    """Nodes in one state. `whole`: nothing runs on them, so that it is worth something to leave them alone.
    `dislikes`: of each pattern, how far down their lists of alternatives the pods find devices, all together; () where
    nobody has such a list."""

    nodes: tuple[str, ...]
    patterns: tuple[Pattern, ...]
    whole: bool
    dislikes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """`domains`: where it stands, by level."""

    domains: tuple[tuple[Level, str], ...]
    classes: tuple[NodeClass, ...]

    def domain(self, level: Level) -> str | None:
        return next((name for at, name in self.domains if at == level), None)

    def most(self, shape: int) -> int:
        """No more units of the shape than this find room in the zone."""
        return sum(
            len(alike.nodes) * max((dict(pattern).get(shape, 0) for pattern in alike.patterns), default=0)
            for alike in self.classes
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """`budgets`: how much more each limited queue may take, in its own unit; contenders' `amounts` run alongside."""

    contenders: tuple[Contender, ...]
    zones: tuple[Zone, ...]
    budgets: tuple[int, ...] = ()

    def size(self) -> int:
        """About how many variables the model has."""
        fills = sum(len(alike.patterns) for zone in self.zones for alike in zone.classes)
        groups = [group for contender in self.contenders for group in contender.group.walk()]
        return fills + len(self.zones) * sum(len({unit.shape for unit in group.units}) + 1 for group in groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """`count` bundles of `shape`, of the leaf called `leaf`, go to `node`."""

    leaf: str
    node: str
    shape: int
    count: int
