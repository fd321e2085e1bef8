"""When a gang that runs has to end: it ran as long as it may, or has been below its minimum for its grace.

Source: KAI (stale gangs; its check looks at leaves only, ours at the tree); Slurm (time limit of a job).
"""

from collections.abc import Collection

from scheduler.model.workloads import Gang, Pod

STALE = "stale"
OVERTIME = "max-runtime"
"""What evictions say that make way for nobody. The second is its user's own wish, and no setting turns it off."""


def runs(gang: Gang) -> tuple[Pod, ...]:
    """Its pods on nodes that are not on their way out."""
    return tuple(pod for pod in gang.pods if pod.node and not (pod.terminating or pod.done))


def is_short(gang: Gang, there: Collection[str]) -> bool:
    """Whether these pods of the gang (keys, all on nodes) are some, and fewer than must run together, at any level of
    its sub-groups that counts. Never once a pod has succeeded: the gang is coming to its end then."""
    return bool(there) and not gang.succeeded and not has_minimum(gang, there)


def has_minimum(gang: Gang, there: Collection[str], name: str = "") -> bool:
    """Whether these pods of the gang (keys) are enough for the group of this name, "" for the whole gang: of a group
    that states no minimum all that there are, of all groups in it or as many as it needs."""
    own = next((sub for sub in gang.sub_groups if sub.name == name), None)
    below = [sub for sub in gang.sub_groups if (sub.parent or "") == name]
    if below:
        least = gang.min_sub_group if own is None else own.min_sub_group
        whole = sum(has_minimum(gang, there, sub.name) for sub in below)
        return whole >= (len(below) if least is None else least)
    members = [pod for pod in gang.pods if own is None or pod.sub_group == name]
    minimum = gang.min_member if own is None else own.min_member
    alive = sum(1 for pod in members if not (pod.terminating or pod.done))
    return sum(pod.key in there for pod in members) >= (alive if minimum is None else minimum)


def started_ms(gang: Gang) -> int | None:
    """When the first of its running pods started; None if none has."""
    return min((pod.started_ms for pod in runs(gang) if pod.started_ms is not None), default=None)


def overtime_ms(gang: Gang) -> int | None:
    """When it has run for as long as it may; None: it has not started, or may run for ever."""
    if gang.max_runtime_ms is None:
        return None
    start = started_ms(gang)
    return None if start is None else start + gang.max_runtime_ms


def has_run_out(gang: Gang, now_ms: int) -> bool:
    """Whether it has run for as long as it may."""
    end = overtime_ms(gang)
    return end is not None and end <= now_ms


def stale_ms(gang: Gang) -> int | None:
    """When it will have been below its minimum for its grace; None if it is not, or may be for ever."""
    if gang.below_since_ms is None or gang.staleness_grace_ms is None:
        return None
    return gang.below_since_ms + gang.staleness_grace_ms
