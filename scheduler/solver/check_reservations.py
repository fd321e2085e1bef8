"""Does nobody delay a gang that was told when it starts? A part of the check of plans.

Written apart from the planner's reservations: node by node it counts who is still there at that time.
"""

from collections.abc import Iterator

from queues.resources import Resources, total
from scheduler.model.plan import Reserved
from scheduler.model.workloads import Gang, Pod
from scheduler.solver.check_case import Case

_Stays = tuple[str, Pod]
"""On which node who is still there."""


def reservations_are_of_those_who_wait(case: Case) -> Iterator[str]:
    """Each pod once, waiting, on a node that exists; neither placed nor promised anything by the same plan."""
    better = {each.pod for each in case.plan.placements} | {each.pod for each in case.plan.promises}
    seen: set[str] = set()
    for each in case.plan.reserved:
        gang, pod = case.pending.get(each.pod, (None, None))
        if gang is None or pod is None or gang.key != each.gang:
            yield f"pod {each.pod} has room reserved and does not wait for any"
        if each.pod in seen or each.pod in better:
            yield f"pod {each.pod} has room reserved besides another place"
        seen.add(each.pod)
        if each.node not in case.nodes:
            yield f"pod {each.pod} has room reserved on node {each.node}, which does not exist"


def nobody_is_late_by_this_plan(case: Case) -> Iterator[str]:
    """When a gang with a reservation is to start, its nodes have room for it beside all who are still there: those who
    run, whom the plan places, to whom it promises something, and gangs whose reservations come before."""
    starts = {decision.gang: decision.starts_at_ms for decision in case.plan.gangs}
    by_gang: dict[str, list[Reserved]] = {}
    for each in case.plan.reserved:
        if each.pod in case.pending and each.node in case.nodes:
            by_gang.setdefault(each.gang, []).append(each)
    for key, places in sorted(by_gang.items()):
        at = starts.get(key)
        if at is None:
            continue  # it keeps what is free, and was told no time
        if at < case.snapshot.now_ms:
            yield f"gang {key} is told that it starts in the past"
        earlier = [each for each in case.plan.reserved if each.gang != key and (starts.get(each.gang) or at + 1) <= at]
        stay = list(_still_there(case, at))
        yield from _on_nodes(case, key, places, earlier, at, stay)
        yield from _devices(case, key, places, at, {pod.uid for _, pod in stay})


def _on_nodes(
    case: Case, key: str, places: list[Reserved], earlier: list[Reserved], at: int, stay: list[_Stays]
) -> Iterator[str]:
    there: dict[str, list[Resources]] = {}
    for node, pod in stay:
        there.setdefault(node, []).append(pod.requests)
    for each in (*places, *earlier):
        there.setdefault(each.node, []).append(case.pending[each.pod][1].requests)
    for name in sorted({each.node for each in places}):
        has, used = case.nodes[name].allocatable, total(there[name])
        wanted = total(case.pending[each.pod][1].requests for each in places if each.node == name)
        for resource in wanted:
            if has[resource] and used[resource] > has[resource]:
                yield (
                    f"gang {key} is to start at {at} on node {name}, which has {has[resource]} {resource}, and "
                    f"{used[resource]} are used then"
                )


def _devices(case: Case, key: str, places: list[Reserved], at: int, stay: set[str]) -> Iterator[str]:
    """None of its devices is held then by a claim of somebody who is still there."""
    held = {}
    for claim in case.snapshot.claims.values():
        if claim.allocation is not None and any(uid in stay for uid in claim.reserved_for):
            for result in claim.allocation.devices.results or ():
                held[result.driver, result.pool, result.device] = claim.key
    for placement, pod, _ in case.placed:
        for part in placement.claims if pod.uid in stay else ():
            if part.allocation is not None:
                for result in part.allocation.devices.results or ():
                    held[result.driver, result.pool, result.device] = part.claim
    for each in places:
        for device in each.devices:
            if device in held:
                yield f"gang {key} is to start at {at} with device {'/'.join(device)}, which {held[device]} holds then"


def _still_there(case: Case, at: int) -> Iterator[_Stays]:
    """Pods that nobody knows to have left by then, with their nodes."""
    gang_of = {pod.key: gang for gang in case.snapshot.gangs for pod in gang.pods}
    evicted = {eviction.pod for eviction in case.plan.evictions}
    awaited = {promise.node for promise in case.plan.promises}
    for pod in case.snapshot.pods:
        if pod.done or pod.key in evicted:
            continue
        if pod.terminating:
            # Who is promised the room of one who leaves counts instead of him.
            if pod.node not in awaited and (pod.ends_ms is None or pod.ends_ms > at):
                yield pod.node, pod
        elif not _ended(case, gang_of.get(pod.key), pod, at):
            yield pod.node, pod
    for placement, pod, node in case.placed:
        if not _ended(case, gang_of[placement.pod], pod, at):
            yield node.name, pod
    for promise in case.plan.promises:
        if promise.pod in case.pending:
            yield promise.node, case.pending[promise.pod][1]


def _ended(case: Case, gang: Gang | None, pod: Pod, at: int) -> bool:
    """Whether it has ended then, though all others of its gang, who may have started before, were replaced."""
    if gang is None or gang.max_runtime_ms is None:
        return False
    start = case.snapshot.now_ms if pod.started_ms is None else pod.started_ms
    return start + gang.max_runtime_ms + pod.ending_ms <= at
