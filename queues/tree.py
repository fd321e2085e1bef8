"""Queue, QueueTree: quota, limit, over-quota weight, priority; roll-ups; refuses cycles and orphans."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from queues.reasons import QueueDoesNotExist, QueueIsNoLeaf, QueueReason, QueueUnusable
from queues.resources import NOTHING, Resources

WHOLE = 2**62
"""A quota of this much or more means "all there is" (KAI's quota -1). As an amount it is never reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueResource:
    """House units (`queues.resources`). `limit` None: no limit."""

    quota: int = 0
    limit: int | None = None
    weight: int = 1


UNSET = QueueResource()


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """One queue as configured. `resources` by name: "gpu" and "cpu" in thousandths, "memory" in bytes,
    "deviceclass/<DeviceClass>" in thousandths of a device, and in units what `queues.measures` knows. A name that is
    absent means quota 0, no limit, weight 1."""

    name: str
    parent: str | None = None
    priority: int = 100
    resources: Mapping[str, QueueResource] = field(default_factory=dict)
    created_ms: int = 0
    preempt_min_runtime_ms: int | None = None
    reclaim_min_runtime_ms: int | None = None
    max_concurrent_evictions: int | None = None
    """So many pods of it, those of the queues below it included, may be on their way out by eviction at once; None: no
    such cap."""

    def __getitem__(self, resource: str) -> QueueResource:
        return self.resources.get(resource, UNSET)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTree:
    """The queues and how they stand to each other. Make it with `QueueTree.of`; every mapping is in name order.

    `queues` holds the usable ones, `problems` the others with the reason: a queue in a cycle, under a missing parent or
    under an unusable queue, or defined twice. One bad queue never spoils another that is not below it."""

    queues: Mapping[str, Queue]
    children: Mapping[str | None, tuple[str, ...]]
    """Usable queues below each usable queue; the top ones under None."""
    problems: Mapping[str, QueueUnusable]

    @classmethod
    def of(cls, queues: Iterable[Queue]) -> "QueueTree":
        """Sort `queues` into usable ones and problems. The order of `queues` does not matter."""
        ordered = sorted(queues, key=lambda queue: (queue.name, queue.created_ms))
        problems = {
            queue.name: QueueUnusable(
                queue=queue.name,
                why="more than one queue has this name",
                remedy=f"Delete all but one Queue {queue.name}, whatever their API group.",
            )
            for queue, other in pairwise(ordered)
            if queue.name == other.name
        }
        given = {queue.name: queue for queue in ordered}
        usable: dict[str, Queue] = {}
        for name in given:
            _settle(name, given, usable, problems)
        children: dict[str | None, list[str]] = {None: []}
        for name in sorted(usable):
            children.setdefault(usable[name].parent, []).append(name)
        return cls(
            queues={name: usable[name] for name in sorted(usable)},
            children={parent: tuple(names) for parent, names in children.items()},
            problems={name: problems[name] for name in sorted(problems)},
        )

    def leaf(self, name: str) -> Queue | QueueReason:
        """The queue, if it is there, usable and takes workloads; otherwise why not."""
        if name in self.problems:
            return self.problems[name]
        if name not in self.queues:
            return QueueDoesNotExist(queue=name)
        below = self.children.get(name)
        return QueueIsNoLeaf(queue=name, children=below) if below else self.queues[name]

    @property
    def leaves(self) -> tuple[str, ...]:
        """Names of the usable queues that take workloads, sorted."""
        return tuple(name for name in self.queues if name not in self.children)

    def ancestors(self, name: str) -> Iterator[Queue]:
        """The queue itself, then its parent and so on up to the top. `name` must be usable."""
        step: str | None = name
        while step is not None:
            queue = self.queues[step]
            yield queue
            step = queue.parent

    def roll_up(self, by_leaf: Mapping[str, Resources]) -> dict[str, Resources]:
        """Amounts of leaves summed up the tree: an entry for every usable queue. Other names are left out."""
        sums = {name: dict(by_leaf.get(name, NOTHING).amounts) for name in self.queues}
        for name in self.bottom_up():
            parent = self.queues[name].parent
            if parent is not None:
                above = sums[parent]
                for resource, amount in sums[name].items():
                    above[resource] = above.get(resource, 0) + amount
        return {name: Resources(amounts) for name, amounts in sums.items()}

    def top_down(self) -> tuple[str, ...]:
        """Every usable queue after its parent; siblings by name."""
        order: list[str] = []
        waiting = list(reversed(self.children[None]))
        while waiting:
            name = waiting.pop()
            order.append(name)
            waiting.extend(reversed(self.children.get(name, ())))
        return tuple(order)

    def bottom_up(self) -> tuple[str, ...]:
        """Every usable queue after all that are below it."""
        return self.top_down()[::-1]


def _settle(
    name: str, given: Mapping[str, Queue], usable: dict[str, Queue], problems: dict[str, QueueUnusable]
) -> None:
    """Walk up from `name` until the answer is known, and note it for every queue on the way."""
    path: list[str] = []
    seen: dict[str, int] = {}
    step: str | None = name
    while step is not None and step in given and step not in usable and step not in problems and step not in seen:
        seen[step] = len(path)
        path.append(step)
        step = given[step].parent
    if step is None or step in usable:
        usable.update((each, given[each]) for each in path)
        return
    if step in seen:
        _refuse_cycle(path[seen[step] :], problems)
        path = path[: seen[step]]
    elif step not in given:
        child = path.pop()
        problems[child] = QueueUnusable(
            queue=child,
            why=f"its parent queue {step} does not exist",
            remedy=f"Create Queue {step}, or correct spec.parentQueue of Queue {child}.",
        )
    for each in reversed(path):
        above = given[each].parent or ""
        problems[each] = QueueUnusable(
            queue=each, why=f"its parent queue {above} cannot be used", remedy=problems[above].remedy
        )


def _refuse_cycle(cycle: list[str], problems: dict[str, QueueUnusable]) -> None:
    first = cycle.index(min(cycle))
    round_trip = [*cycle[first:], *cycle[:first]]
    one = f"one of the queues {', '.join(round_trip)}" if len(round_trip) > 1 else f"Queue {round_trip[0]}"
    for name in round_trip:
        problems[name] = QueueUnusable(
            queue=name,
            why=f"its parents form a cycle, {' -> '.join([*round_trip, round_trip[0]])}",
            remedy=f"Remove spec.parentQueue of {one}.",
        )
