"""How many pods may be stopped at once, over a whole plan: by PodDisruptionBudgets, and by the caps of queues.

The status of a budget may lag behind evictions; so of what it allows no more counts than there are healthy pods here
beyond those it has to keep. Source: policy/v1, pods/eviction of the API server; decision 37.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from queues.tree import QueueTree
from scheduler.model.budgets import Budget
from scheduler.model.snapshot import Snapshot
from scheduler.model.workloads import Gang, Pod

Cap = tuple[str, str]
"""What counts pods that leave: ("budget", its key) or ("queue", its name)."""


class Capped(Protocol):
    """One pod that may go, and what counts it."""

    @property
    def caps(self) -> tuple[Cap, ...]: ...


class Caps:
    """What is left of them as the plan grows. `twice`: pods (key) that the server evicts under no circumstances, for
    several budgets cover them; with the names of these."""

    def __init__(
        self,
        snapshot: Snapshot,
        tree: QueueTree,
        payer_of: Callable[[Gang], str | None],
        leaves: Callable[[Pod], bool],
    ) -> None:
        """`leaves`: whether a pod is on its way out."""
        self.left: dict[Cap, int] = {}
        self.twice: dict[str, tuple[str, ...]] = {}
        self._tree = tree
        self._budget_of: dict[str, Cap] = {}
        if snapshot.budgets:
            self._read_budgets(snapshot)
        self._read_queues(snapshot, payer_of, leaves)

    def of(self, pod: Pod, queue: str | None) -> tuple[Cap, ...]:
        """What counts the pod if it goes, which `queue` pays for, None if nobody does."""
        if not self.left:
            return ()
        own = self._budget_of.get(pod.key)
        above = (("queue", each.name) for each in self._tree.ancestors(queue)) if queue is not None else ()
        return (*((own,) if own else ()), *(cap for cap in above if cap in self.left))

    def forbid(self, pod: Pod, queue: str | None) -> bool:
        """Whether not even this pod alone may go."""
        return pod.key in self.twice or any(self.left[cap] <= 0 for cap in self.of(pod, queue))

    def allow(self, losses: Iterable[Capped]) -> bool:
        """Whether all of these may go together."""
        if not self.left:
            return True
        return all(count <= self.left[cap] for cap, count in _counted(losses).items())

    def take(self, losses: Iterable[Capped]) -> None:
        """They go."""
        for cap, count in _counted(losses).items():
            self.left[cap] -= count

    def count(self, pod: Pod, queue: str | None) -> None:
        """This pod goes, whatever is left: less than nothing may be."""
        for cap in self.of(pod, queue):
            self.left[cap] -= 1

    def _read_budgets(self, snapshot: Snapshot) -> None:
        pods: dict[str, list[Pod]] = {budget.namespace: [] for budget in snapshot.budgets}
        for pod in snapshot.pods:
            if pod.namespace in pods:
                pods[pod.namespace].append(pod)
        covering: dict[str, list[Budget]] = {}
        for budget in snapshot.budgets:
            covered = [pod for pod in pods[budget.namespace] if budget.covers(pod)]
            going = set(budget.disrupted)
            healthy = sum(1 for pod in covered if pod.ready and not pod.terminating and pod.key not in going)
            self.left["budget", budget.key] = max(min(budget.allowed, healthy - budget.desired), 0)
            for pod in covered:
                # The server asks no budget about pods that have not started.
                if pod.phase != "Pending":
                    covering.setdefault(pod.key, []).append(budget)
                    if not _goes_freely(pod, budget, healthy):
                        self._budget_of[pod.key] = "budget", budget.key
        self.twice = {
            key: tuple(budget.key for budget in several) for key, several in covering.items() if len(several) > 1
        }

    def _read_queues(
        self, snapshot: Snapshot, payer_of: Callable[[Gang], str | None], leaves: Callable[[Pod], bool]
    ) -> None:
        capped = {
            name: queue.max_concurrent_evictions
            for name, queue in self._tree.queues.items()
            if queue.max_concurrent_evictions is not None
        }
        if not capped:
            return
        going: Counter[str] = Counter()
        for gang in snapshot.gangs:
            count = sum(1 for pod in gang.pods if pod.evicted and leaves(pod))
            payer = payer_of(gang) if count else None
            if payer is not None:
                going.update({above.name: count for above in self._tree.ancestors(payer)})
        for name, most in capped.items():
            self.left["queue", name] = max(most - going[name], 0)


def _goes_freely(pod: Pod, budget: Budget, healthy: int) -> bool:
    """A pod that is not ready takes nothing from a budget that says so, or that has all it needs without it."""
    if pod.ready:
        return False
    return budget.unhealthy_go or (not budget.stale and healthy >= budget.desired > 0)


def _counted(losses: Iterable[Capped]) -> Mapping[Cap, int]:
    return Counter(cap for loss in losses for cap in loss.caps)
