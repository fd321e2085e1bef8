"""Is nobody stopped who may not be, and nobody in vain? A part of the check of plans."""

from collections.abc import Iterator

from scheduler.model.plan import Eviction
from scheduler.model.workloads import Gang, Pod
from scheduler.solver.check_case import Case
from scheduler.solver.check_gangs import is_satisfied

_Evicted = tuple[Eviction, Gang, Pod]

_STALE, _OVERTIME = "stale", "max-runtime"
_FOR_ITSELF = (_STALE, _OVERTIME)


def evictions_are_of_running_work(case: Case) -> Iterator[str]:
    """Each pod once, on a node, of a gang of ours other than the one that it makes way for."""
    running = {pod.key: (gang, pod) for gang in case.snapshot.gangs for pod in gang.pods if pod.node and not pod.done}
    seen: set[str] = set()
    for eviction in case.plan.evictions:
        gang, pod = running.get(eviction.pod, (None, None))
        if eviction.pod in seen:
            yield f"pod {eviction.pod} is evicted twice"
        seen.add(eviction.pod)
        if gang is None or pod is None or pod.uid != eviction.pod_uid:
            yield f"pod {eviction.pod} is evicted and does not run"
        elif eviction.stage in _FOR_ITSELF:
            if eviction.beneficiary:
                yield f"pod {eviction.pod} ends by stage {eviction.stage} and is said to make way"
        elif gang.key == eviction.beneficiary or eviction.beneficiary not in case.gangs:
            yield f"pod {eviction.pod} is evicted for gang {eviction.beneficiary}, which gains nothing by it"


def nobody_is_stopped_who_may_not_be(case: Case) -> Iterator[str]:
    """Only preemptible work, not of those who are spared or leave anyhow, by a stage that is allowed and that it is the
    business of: of the same queue and a lower priority to preempt, of another queue to reclaim. For nobody who has not
    waited his preemption delay; and nobody is moved who has just started."""
    for eviction, gang, pod in _evicted(case):
        gains, who = case.gangs[eviction.beneficiary], f"pod {pod.key} of gang {gang.key} is evicted"
        if eviction.stage not in case.snapshot.policy.stages:
            yield f"{who} by stage {eviction.stage}, which the policy does not allow"
        if not gang.preemptible:
            yield f"{who} and is not preemptible"
        delay_ms = gains.preemption_delay_ms
        if delay_ms and case.snapshot.now_ms < _waits_since(gains) + delay_ms:
            yield f"{who} for gang {gains.key}, whose preemption delay is not over"
        if pod.terminating or pod.key in case.snapshot.spared:
            yield f"{who} and cannot be"
        rest_ms = 1000 * case.snapshot.policy.move_after_seconds
        if eviction.stage == "consolidate" and case.snapshot.now_ms - _since(pod) < int(rest_ms):
            yield f"{who} to be moved and has just started"
        if eviction.stage == "preempt" and (gang.queue != gains.queue or gang.priority >= gains.priority):
            yield f"{who} for gang {gains.key}, which does not outrank it in its queue"
        if eviction.stage == "reclaim" and gang.queue == gains.queue:
            yield f"{who} for gang {gains.key} of its own queue, which has nothing to reclaim there"


def nobody_ends_before_his_time(case: Case) -> Iterator[str]:
    """Pods that make way for nobody are of a gang whose time is over: it ran as long as it may; or, if the policy says
    so, its grace is over, it is below its minimum whatever the plan places and promises, and no pod has succeeded."""
    now, own = case.snapshot.now_ms, [each for each in case.plan.evictions if each.stage in _FOR_ITSELF]
    if not own:
        return
    pods = {pod.key: (gang, pod) for gang in case.snapshot.gangs for pod in gang.pods}
    placed = {placement.pod for placement in case.plan.placements}
    promised = {promise.gang for promise in case.plan.promises}
    for eviction in own:
        gang, pod = pods.get(eviction.pod, (None, None))
        if gang is None or pod is None:
            continue  # told by another rule
        who = f"pod {pod.key} of gang {gang.key} ends by stage {eviction.stage}"
        if pod.terminating or pod.key in case.snapshot.spared:
            yield f"{who} and cannot be asked"
        if gang.key in {placement.gang for placement in case.plan.placements}:
            yield f"{who} and gets pods placed"
        if eviction.stage == _OVERTIME:
            starts = [each.started_ms for each in gang.pods if _stays(each) and each.started_ms is not None]
            if gang.max_runtime_ms is None or not starts or now - min(starts) < gang.max_runtime_ms:
                yield f"{who} and has time left"
            continue
        if _STALE not in case.snapshot.policy.stages:
            yield f"{who}, which the policy does not allow"
        since, grace = gang.below_since_ms, gang.staleness_grace_ms
        if since is None or grace is None or now - since < grace:
            yield f"{who} within its grace"
        there = {each.key: each for each in gang.pods if _stays(each) or each.key in placed}
        if gang.succeeded or gang.problems or gang.key in promised or is_satisfied(gang, there):
            yield f"{who}, which is not below its minimum for good"


def _since(pod: Pod) -> int:
    """Since when it has had its node, as far as that is known."""
    return max(time or 0 for time in (pod.bound_ms, pod.started_ms))


def _waits_since(gang: Gang) -> int:
    """Since its creation, or since all of its pods that wait were made, whichever was later."""
    waiting = [pod.created_ms for pod in gang.pods if not (pod.node or pod.gated or pod.terminating)]
    return max([gang.created_ms, *sorted(waiting)[:1]])


def nobody_is_stopped_in_vain(case: Case) -> Iterator[str]:
    """Whoever others make way for is promised its minimum by this plan; and nobody is left with less than his."""
    promised: dict[str, set[str]] = {}
    for promise in case.plan.promises:
        promised.setdefault(promise.gang, set()).add(promise.pod)
    placed = {placement.pod for placement in case.plan.placements}
    for key in sorted({eviction.beneficiary for eviction, _, _ in _evicted(case)}):
        gang = case.gangs[key]
        there = {
            pod.key: pod for pod in gang.pods if pod.key in promised.get(key, ()) or pod.key in placed or _stays(pod)
        }
        if not promised.get(key) or not is_satisfied(gang, there):
            yield f"others are evicted for gang {key}, which is not promised its minimum"
    lost: dict[str, set[str]] = {}
    for _, gang, pod in _evicted(case):
        lost.setdefault(gang.key, set()).add(pod.key)
    for key, pods in sorted(lost.items()):
        gang = case.gangs[key]
        before = {pod.key: pod for pod in gang.pods if _stays(pod)}
        after = {name: pod for name, pod in before.items() if name not in pods}
        if after and is_satisfied(gang, before) and not is_satisfied(gang, after):
            yield f"gang {key} is left with {len(after)} pods, less than its minimum"


def nobody_is_stopped_whose_place_nobody_takes(case: Case) -> Iterator[str]:
    """Who is stopped for a gang was on a node that is promised to it. When a share is taken back, some of those who are
    have to be: whoever is moved may need the place of others, and queues may have to lose before they take.

    Nothing is said where more than nodes may have been in the way: limits of queues, company, volumes, devices that
    several nodes reach."""
    if any(rule.limit is not None for queue in case.snapshot.queues for rule in queue.resources.values()):
        return
    reached = any(published.spec.node_name is None for published in case.snapshot.slices)
    promised: dict[str, set[str]] = {}
    for promise in case.plan.promises:
        promised.setdefault(promise.gang, set()).add(promise.node)
    left: dict[tuple[str, str, str], list[Pod]] = {}
    for eviction, gang, pod in _evicted(case):
        if eviction.stage in ("reclaim", "preempt"):
            who = gang.key if eviction.stage == "preempt" else ""
            left.setdefault((eviction.beneficiary, eviction.stage, who), []).append(pod)
    for (key, stage, who), pods in sorted(left.items()):
        involved = [*pods, *case.gangs[key].pods]
        if any(pod.company is not None or pod.volumes or (reached and pod.claims) for pod in involved):
            continue
        if not promised.get(key, set()) & {pod.node for pod in pods}:
            gone = f"gang {who} is" if who else "others are"
            yield f"{gone} stopped by stage {stage} for gang {key}, which gets none of their nodes"


def promises_are_to_those_who_wait(case: Case) -> Iterator[str]:
    """Each pod once, waiting, on a node that exists, and not placed by the same plan."""
    placed, seen = {placement.pod for placement in case.plan.placements}, set[str]()
    for promise in case.plan.promises:
        gang, pod = case.pending.get(promise.pod, (None, None))
        if promise.pod in seen or promise.pod in placed:
            yield f"pod {promise.pod} is promised more than one place"
        seen.add(promise.pod)
        if gang is None or pod is None or gang.key != promise.gang or pod.uid != promise.pod_uid:
            yield f"pod {promise.pod} is promised a place and does not wait for one"
        if promise.node not in case.nodes:
            yield f"pod {promise.pod} is promised node {promise.node}, which does not exist"


def _evicted(case: Case) -> list[_Evicted]:
    """The evictions of pods that there are, for gangs that there are."""
    if not case.plan.evictions:
        return []
    pods = {pod.key: (gang, pod) for gang in case.snapshot.gangs for pod in gang.pods if pod.node and not pod.done}
    return [
        (each, *pods[each.pod]) for each in case.plan.evictions if each.pod in pods and each.beneficiary in case.gangs
    ]


def _stays(pod: Pod) -> bool:
    return bool(pod.node) and not (pod.terminating or pod.done)
