"""Which queue pays for what a gang has running, whatever becomes of labels, PodGroups and queues meanwhile.

With its binding every pod gets an annotation that names the queue under which it was placed, and those above it. While
pods of a gang are on nodes it stays there, also with what it adds. If that queue is gone, the nearest of those above it
that is left pays, otherwise the default queue: what runs is never free. KAI charges such work to nobody (kai.md 2.8).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from queues.reasons import QueueUnusable
from queues.tree import Queue, QueueTree
from scheduler.api import core
from scheduler.api.crds import CHARGED_QUEUE_ANNOTATION
from scheduler.model.reasons import InvalidGang
from scheduler.model.workloads import Gang


def recorded(pods: Iterable[core.Pod]) -> tuple[str, ...]:
    """The queue under which these were placed and those above it, the queue first: as the first of them on a node that
    tells has it. () if none does."""
    for pod in pods:
        path = (pod.metadata.annotations or {}).get(CHARGED_QUEUE_ANNOTATION, "")
        if pod.spec.node_name and path:
            return tuple(reversed(path.split("/")))
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved(InvalidGang):
    """The gang names another queue than the one that its pods were placed under."""

    named: str


def moved(gang: str, named: str, charged: str) -> Moved:
    """It names `named` now, and its pods were placed under `charged`."""
    return Moved(
        gang=gang,
        named=named,
        problem=f"its pods on nodes were placed under queue {charged}, which goes on paying, and it names {named} now",
        remedy=f"Name queue {charged} again; or delete the gang and create it anew in {named}.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Payers:
    """The queues there are. `default` is "" unless it exists."""

    parents: Mapping[str, str | None] = field(default_factory=dict)
    usable: frozenset[str] = frozenset()
    default: str = ""

    @classmethod
    def of(cls, queues: Iterable[Queue], default: str) -> "Payers":
        queues = tuple(queues)
        usable = frozenset(QueueTree.of(queues).queues)
        return cls(parents={queue.name: queue.parent for queue in queues}, usable=usable, default=default)

    def kept(self, gangs: tuple[Gang, ...]) -> tuple[Gang, ...]:
        """The gangs, each in a queue that can be charged for what it has running. The same tuple if all were."""
        if all(gang.queue in self.usable for gang in gangs):
            return gangs
        kept = tuple(map(self._kept, gangs))
        return gangs if all(new is old for new, old in zip(kept, gangs, strict=True)) else kept

    def _kept(self, gang: Gang) -> Gang:
        """The gang is told if the queue is not its own."""
        if gang.queue in self.usable or not gang.bound or self._pays(gang.queue):
            return gang
        names = (*gang.queues_above, self.default)
        payer = next((name for name in names if self._pays(name)), "")
        if not payer:
            return gang
        named = next((each.named for each in gang.problems if isinstance(each, Moved)), "")
        unusable = QueueUnusable(
            queue=gang.queue,
            why=f"it is gone or cannot be used, and what {gang.key} has running is charged to queue {payer}",
            remedy=f"Create Queue {gang.queue} again or repair it; or delete the gang and create it anew "
            f"{f'in {named}' if named else 'elsewhere'}.",
        )
        # That it "goes on paying" would not be true.
        others = tuple(each for each in gang.problems if not isinstance(each, Moved))
        return replace(gang, queue=payer, problems=(*others, unusable))

    def _pays(self, name: str) -> bool:
        """Whether the queue, or the nearest usable one above it, can be charged."""
        seen: set[str] = set()
        step: str | None = name
        while step and step not in seen:
            if step in self.usable:
                return True
            seen.add(step)
            step = self.parents.get(step)
        return False
