"""May this start: the limit for all work, the quota for what cannot be preempted; at the leaf and every queue above.

Source: KAI docs (queues, preemptibility) and its capacity check in the allocate action. Where we differ: a queue that
states a quota for GPUs need not state one for CPU and memory as well (`under_quota`).
"""

from collections.abc import Mapping

from queues.measures import measure
from queues.reasons import OverLimit, OverQuota
from queues.resources import NOTHING, Resources
from queues.tree import Queue, QueueTree


def may_start(
    tree: QueueTree,
    queue: str,
    asked: Resources,
    allocated: Mapping[str, Resources],
    allocated_nonpreemptible: Mapping[str, Resources],
    preemptible: bool,
) -> OverLimit | OverQuota | None:
    """The first refusal on the way up from leaf `queue`, or None. A free cluster is not asked about: fair shares do not
    bind here, so what nobody else wants may be used.

    `allocated` and `allocated_nonpreemptible` by queue, rolled up (`QueueTree.roll_up`); an absent queue has nothing.
    `queue` must be usable (`QueueTree.leaf`)."""
    for above in tree.ancestors(queue):
        refusal = _over_limit(above, asked, allocated.get(above.name, NOTHING))
        if refusal is not None:
            return refusal
    if preemptible:
        return None
    for above in tree.ancestors(queue):
        over = _over_quota(above, asked, allocated_nonpreemptible.get(above.name, NOTHING))
        if over is not None:
            return over
    return None


def under_quota(queue: Queue, asked: Resources) -> tuple[str, ...]:
    """Which of the asked resources the quota of `queue` has to cover, sorted.

    Those it states a quota for. Devices do not slip through: if it states none for any device asked for, all of them
    count, with quota 0; and if it states none for anything asked, everything counts."""
    asks = tuple(name for name in asked if asked[name] > 0)
    stated = tuple(name for name in asks if queue[name].quota > 0)
    if not stated or any(is_of_devices(name) for name in stated):
        return stated or asks
    return tuple(name for name in asks if name in stated or is_of_devices(name))


def within_quota(queue: Queue, asked: Resources, allocated: Resources) -> bool:
    """Whether the queue with `asked` on top of `allocated` stays within its quota. Asking for nothing does."""
    return all(allocated[name] + asked[name] <= queue[name].quota for name in under_quota(queue, asked))


def is_device(resource: str) -> bool:
    """Whether the resource counts devices, in thousandths; all others are divisible."""
    return resource == "gpu" or resource.startswith("deviceclass/")


def is_of_devices(resource: str) -> bool:
    """Whether the resource says how much of devices may be used, in whatever unit."""
    return is_device(resource) or measure(resource) is not None


def _over_limit(queue: Queue, asked: Resources, allocated: Resources) -> OverLimit | None:
    for name in asked:
        limit = queue[name].limit
        if limit is not None and asked[name] > 0 and allocated[name] + asked[name] > limit:
            return OverLimit(queue=queue.name, resource=name, asked=asked[name], allocated=allocated[name], limit=limit)
    return None


def _over_quota(queue: Queue, asked: Resources, allocated: Resources) -> OverQuota | None:
    for name in under_quota(queue, asked):
        quota = queue[name].quota
        if allocated[name] + asked[name] > quota:
            return OverQuota(queue=queue.name, resource=name, asked=asked[name], allocated=allocated[name], quota=quota)
    return None
