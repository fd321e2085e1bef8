"""Gangs that stand in each other's way: queues with quotas, priorities, who may not be stopped, who has a budget.

In half of the clusters the scheduler also makes room; all of this is drawn from the seed, apart from what happens
there, so that the course of the other half does not depend on it.
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from scheduler.api import kinds
from scheduler.api.kinds import Kind

Document = dict[str, Any]
STAGES = "allocate,consolidate,reclaim,preempt,stale"
PACE = 8.0
"""Gangs run so many times as long, but for those that fail and are tried again: then the nodes are full, and who comes
later has to ask others to go."""
FEWER = (("h100x8", 1), ("a100-mig", 1), ("h100x8-mig", 1), ("cpu", 1))
"""Nodes at the beginning, where room is made."""
MOST_NODES = 4
"""How many there may be before one more comes."""
MORE = 5
"""So many times as often gangs ask for whole devices, of which there are too few then."""
SCARCE = frozenset({"one", "two", "four", "resource", "class-of-gpus", "slice"})
GRACE = "8s"
"""How long a gang may run below its minimum."""

_QUOTA = 8
"""GPUs of the smallest quota: what may not be stopped has to fit in it, or it would never start."""
_FIRM = {"one": 1, "two": 2}
"""What gangs ask for that may not be stopped, with the GPUs that a pod of theirs then has. Who asks for no device would
have to fit in a quota of CPUs, and the queues have none."""
_CLASSES = (("soak-low", 10), ("soak-middle", 50), ("soak-high", 500))


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On which a gang runs. `budget`: the specification of its PodDisruptionBudget, None if it has none. `pods`: how
    many it has when whole."""

    pods: int
    queue: str = "default"
    priority_class: str = ""
    priority: int = 0
    preemptible: bool = True
    budget: Document | None = None


class Rivals:
    """`makes_room`: whether the scheduler of this seed does. `caps`: queues by name that let only so many of their pods
    be on their way out at once."""

    def __init__(self, seed: str) -> None:
        self._dice = random.Random(f"{seed}/rivals")
        self.makes_room = random.Random(f"{seed}/stages").random() < 0.5
        self._moves_after = random.Random(f"{seed}/moves").choice((0, 2, 8))
        self._classes = _CLASSES[-self._dice.choice((2, 3)) :]
        names = ("red", "green", "blue")[: self._dice.choice((2, 3))]
        self._queues = {name: self._queue() for name in names}
        self.caps: dict[str, int] = {}
        if self.makes_room:
            self.caps = {names[0]: self._dice.choice((2, 4))}
            self._queues[names[0]]["maxConcurrentEvictions"] = self.caps[names[0]]

    @property
    def settings(self) -> dict[str, str]:
        """Of the scheduler. Nobody runs here for as long as one does before he is moved elsewhere."""
        if not self.makes_room:
            return {}
        return {"stages": STAGES, "move_after_seconds": str(self._moves_after)}

    async def begin(self, create: Callable[[Kind, Document], Awaitable[None]]) -> None:
        """The queues and the classes of priority."""
        if not self.makes_room:
            return
        api = f"{kinds.QUEUE.group}/{kinds.QUEUE.version}"
        for name, spec in self._queues.items():
            await create(kinds.QUEUE, {"apiVersion": api, "kind": "Queue", "metadata": {"name": name}, "spec": spec})
        for name, value in self._classes:
            await create(kinds.PRIORITY_CLASS, {"metadata": {"name": name}, "value": value})

    def minimum(self, minimum: int) -> int:
        """Some are more elastic than they would be."""
        return self._dice.choice((minimum, minimum, 1)) if self.makes_room else minimum

    def terms(self, ask: str, pods: int, minimum: int) -> Terms:
        """For the next gang."""
        if not self.makes_room:
            return Terms(pods=pods)
        dice = self._dice
        queue = dice.choice(list(self._queues))
        name, priority = dice.choice(self._classes)
        firm = dice.random() < 0.4 and ask in _FIRM and _FIRM[ask] * pods <= _QUOTA
        budgets: tuple[Document, ...] = ({"minAvailable": minimum}, {"minAvailable": pods}, {"maxUnavailable": 1})
        budget = dice.choice(budgets) if dice.random() < 0.25 else None
        return Terms(
            pods=pods, queue=queue, priority_class=name, priority=priority, preemptible=not firm, budget=budget
        )

    def _queue(self) -> Document:
        gpu = {"quota": self._dice.choice((_QUOTA, _QUOTA, 12)), "overQuotaWeight": self._dice.choice((1, 1, 3))}
        return {"resources": {"gpu": gpu}}
