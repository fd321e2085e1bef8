"""Are no more pods stopped at once than disruption budgets and queues allow? A part of the check of plans.

Written apart from the planner's caps. Source: policy/v1, pods/eviction of the API server.
"""

from collections import Counter
from collections.abc import Iterator

from queues.tree import QueueTree
from scheduler.model.budgets import Budget
from scheduler.model.snapshot import Snapshot
from scheduler.model.workloads import Pod
from scheduler.solver.check_case import Case
from scheduler.solver.check_queues import charged_queues
from scheduler.solver.check_selectors import fulfils

_OVERTIME = "max-runtime"
_STUCK_MS = 120_000
"""Who should have ended so long ago is not on his way out any more."""


def budgets_are_kept(case: Case) -> Iterator[str]:
    """Of a budget's pods no more are evicted than it allows, nor more than are healthy beyond what it has to keep; and
    none that several budgets cover, which the server never evicts. A time limit alone is kept all the same."""
    evicted = {eviction.pod for eviction in case.plan.evictions}
    bound = {eviction.pod for eviction in case.plan.evictions if eviction.stage != _OVERTIME}
    if not bound:
        return
    covers: Counter[str] = Counter()
    for budget in case.snapshot.budgets:
        pods = [pod for pod in case.snapshot.pods if _covers(budget, pod)]
        covers.update(pod.key for pod in pods if pod.phase != "Pending")
        healthy = sum(pod.ready and not pod.terminating and pod.key not in budget.disrupted for pod in pods)
        going = [pod for pod in pods if pod.key in evicted and pod.phase != "Pending"]
        of_health = sum(pod.ready for pod in going)
        free = budget.unhealthy_go or (not budget.stale and 0 < budget.desired <= healthy)
        count = of_health if free else len(going)
        if not any(pod.key in bound and not (free and not pod.ready) for pod in going):
            continue
        if count > budget.allowed:
            yield f"{count} pods of disruption budget {budget.key} are evicted, and it allows {budget.allowed}"
        if of_health and healthy - of_health < budget.desired:
            yield f"disruption budget {budget.key} is left with {healthy - of_health} healthy pods of {budget.desired}"
    for key in sorted(bound):
        if covers[key] > 1:
            yield f"pod {key} is evicted, and {covers[key]} disruption budgets cover it"


def queues_cap_their_evictions(case: Case) -> Iterator[str]:
    """No more pods of a queue, with those below it, are on their way out by eviction than it says; but for those whose
    time is over."""
    tree = QueueTree.of(case.snapshot.queues)
    if not case.plan.evictions or all(queue.max_concurrent_evictions is None for queue in tree.queues.values()):
        return
    charged, evicted = charged_queues(case, tree), {eviction.pod for eviction in case.plan.evictions}
    bound = {eviction.pod for eviction in case.plan.evictions if eviction.stage != _OVERTIME}
    going, more, held = Counter[str](), Counter[str](), Counter[str]()
    for gang in case.snapshot.gangs:
        for pod in gang.pods if gang.key in charged else ():
            for queue in tree.ancestors(charged[gang.key]):
                going[queue.name] += _is_going(case.snapshot, pod)
                more[queue.name] += pod.key in evicted
                held[queue.name] += pod.key in bound
    for name, queue in tree.queues.items():
        most, whole = queue.max_concurrent_evictions, going[name] + more[name]
        if most is not None and held[name] and whole > most:
            yield f"{whole} pods of queue {name} would be on their way out at once, and it caps them at {most}"


def _covers(budget: Budget, pod: Pod) -> bool:
    namespace, _, _ = budget.key.partition("/")
    return pod.key.startswith(f"{namespace}/") and all(fulfils(r, pod.labels.get(r.key)) for r in budget.labels)


def _is_going(snapshot: Snapshot, pod: Pod) -> bool:
    stuck = pod.ends_ms is not None and snapshot.now_ms > pod.ends_ms + _STUCK_MS
    return pod.evicted and pod.terminating and not (stuck or pod.done)
