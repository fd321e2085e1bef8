"""Gangs at rest: all their pods are on nodes, and they lack nothing. In a busy cluster that is nearly every gang.

Such a gang wants nothing, whatever else there is; so what is said of it follows from the gang alone, and is said again
in every plan for as long as it is the same object.
"""

from scheduler.dra.caches import PerObject
from scheduler.model.endings import overtime_ms
from scheduler.model.plan import GangDecision, Verdict
from scheduler.model.workloads import Gang
from scheduler.plan.wants import least_pods


@PerObject
def at_rest(gang: Gang) -> GangDecision | None:
    """What is decided for a gang that has all it may want, if the queue that it names is usable; None for any other.

    A gang with sub-groups or a topology is never told apart here: whether these lack anything is `Wants`' to say."""
    if gang.problems or gang.sub_groups or gang.topology is not None or not gang.pods:
        return None
    if any(not pod.node or pod.terminating or pod.done for pod in gang.pods):
        return None
    needed = least_pods(gang)
    if len(gang.pods) < needed:
        return None
    return GangDecision(
        gang=gang.key,
        uid=gang.uid,
        owner=gang.owner,
        queue=gang.queue,
        verdict=Verdict.RUNNING,
        reason=None,
        ends_at_ms=overtime_ms(gang),
        placed=0,
        bound=len(gang.pods),
        needed=needed,
        total=len(gang.pods),
        solver=None,
    )
