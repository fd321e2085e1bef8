"""Victims: whoever is stopped is the least that makes room, by the harm done, of those who may be stopped at once; and
queues keep their shares.

Brute force looks at every set of gangs that might go; seats are counted by hand.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from queues.tree import Queue, QueueResource
from scheduler.model.plan import Plan
from scheduler.model.workloads import Gang
from scheduler.plan.making_room.losses import lost
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import NOW_MS, World, budget, cluster, gang, world

MINUTE_MS = 60_000


@st.composite
def full_clusters(draw: st.DrawFn) -> World:
    """Up to five nodes of 4 GPUs with running gangs of several priorities, and one gang that waits. Some are covered by
    disruption budgets, by two even, and the queue may cap how many leave at once."""
    nodes = draw(st.integers(1, 5))
    made = cluster(nodes=nodes, gpus=4)
    free = {f"node-{number}": 4 for number in range(nodes)}
    for number in range(draw(st.integers(1, 8))):
        gpus, pods = draw(st.sampled_from((1, 2, 4))), draw(st.integers(1, 3))
        on = []
        for _ in range(pods):
            able = [name for name, left in free.items() if left >= gpus]
            if not able:
                break
            where = draw(st.sampled_from(able))
            free[where] -= gpus
            on.append(where)
        if on:
            made += gang(
                f"g{number}",
                pods=len(on),
                gpus=gpus,
                on=on,
                priority=draw(st.sampled_from((10, 20, 30, 100))),
                created_ms=draw(st.integers(0, 5)),
                started_ms=NOW_MS - draw(st.integers(0, 9)) * MINUTE_MS,
                labels=dict.fromkeys(draw(st.sampled_from(([], [], ["x"], ["y"], ["x", "y"]))), "covered"),
            )
    for name in draw(st.sampled_from(([], ["x"], ["x", "y"]))):
        made += budget(name, allowed=draw(st.integers(0, 6)), desired=draw(st.integers(0, 6)), **{name: "covered"})
    cap = draw(st.sampled_from((None, None, 0, 1, 2, 4)))
    made = replace(made, queues=tuple(replace(each, max_concurrent_evictions=cap) for each in made.queues))
    wanted = gang(
        "urgent", pods=draw(st.integers(1, 3)), gpus=draw(st.sampled_from((1, 2, 3, 4))), priority=100, created_ms=9
    )
    return (made + wanted).under(stages=("allocate", "preempt"))


def harm(gangs: list[Gang], among: list[int]) -> tuple[int, ...]:
    """Work lost by priority, the highest first; then gangs; then pods."""
    pods = [(each, pod) for each in gangs for pod in each.pods]
    by_priority = [
        sum(lost(pod, each, NOW_MS, pod.requests["nvidia.com/gpu"] * 1000) for each, pod in pods if each.priority == p)
        for p in among
    ]
    return (*by_priority, len(gangs), len(pods))


def fits(made: World, gone: set[str]) -> bool:
    (urgent,) = [each for each in made.gangs if each.name == "urgent"]
    each = urgent.pods[0].requests["nvidia.com/gpu"]
    seats = 0
    for node in made.nodes:
        used = sum(
            pod.requests["nvidia.com/gpu"]
            for other in made.gangs
            for pod in other.pods
            if pod.node == node.name and other.key not in gone
        )
        seats += (4 - used) // each
    return seats >= len(urgent.pods)


def may_go_together(made: World, gone: list[Gang]) -> bool:
    """By disruption budgets and the cap of the queue."""
    leaving = [pod for each in gone for pod in each.pods]
    (default,) = made.queues
    if default.max_concurrent_evictions is not None and len(leaving) > default.max_concurrent_evictions:
        return False
    names = {each.key.partition("/")[2]: each for each in made.budgets}
    if any(len(names.keys() & pod.labels.keys()) > 1 for pod in leaving):
        return False
    for name, each in names.items():
        going, healthy = (sum(name in pod.labels for pod in pods) for pods in (leaving, made.pods))
        if going and (going > each.allowed or healthy - going < each.desired):
            return False
    return True


@settings(max_examples=300, deadline=None)
@given(full_clusters())
def test_victims_are_those_whose_loss_is_least(made: World) -> None:
    decided: Plan = plan(made)
    assert check(made, decided) == ()
    may_go = [each for each in made.gangs if each.name != "urgent" and each.priority < 100]
    among = sorted({each.priority for each in may_go}, reverse=True)
    ways = [
        harm(list(chosen), among)
        for count in range(len(may_go) + 1)
        for chosen in combinations(may_go, count)
        if fits(made, {each.key for each in chosen}) and may_go_together(made, list(chosen))
    ]
    gone = {eviction.pod for eviction in decided.evictions}
    stopped = [each for each in may_go if any(pod.key in gone for pod in each.pods)]
    if not ways:
        assert gone == set()
        assert decided.why("urgent") is not None
        return
    assert sum(len(each.pods) for each in stopped) == len(gone), "a gang goes whole"
    assert harm(stopped, among) == min(ways)
    if stopped:
        assert decided.placements == ()
        assert len(decided.promises) == len(next(each for each in made.gangs if each.name == "urgent").pods)


@st.composite
def shared_clusters(draw: st.DrawFn) -> World:
    """One full node per queue or so, queues with quotas in two levels, single-GPU work, and work that waits. Some of it
    is under a disruption budget, and queues may cap how many leave at once."""
    nodes = draw(st.integers(1, 3))
    made = world(
        queues=tuple(
            Queue(
                name=name,
                parent=parent,
                resources={"gpu": QueueResource(quota=draw(st.integers(0, 4)) * 1000, weight=draw(st.integers(0, 2)))},
                max_concurrent_evictions=draw(st.sampled_from((None, None, None, 0, 1, 2))),
            )
            for name, parent in (("left", None), ("right", None), ("a", "left"), ("b", "left"), ("c", "right"))
        )
    )
    made = cluster(nodes=nodes, gpus=4) + made
    free = {f"node-{number}": 4 for number in range(nodes)}
    for number in range(draw(st.integers(0, 10))):
        gpus = draw(st.sampled_from((1, 1, 2)))
        able = [name for name, left in free.items() if left >= gpus]
        if able:
            where = draw(st.sampled_from(able))
            free[where] -= gpus
            queue, started = draw(st.sampled_from("abc")), NOW_MS - draw(st.integers(0, 9)) * MINUTE_MS
            preemptible = draw(st.booleans())
            labels = draw(st.sampled_from(({}, {}, {"x": "covered"})))
            made += gang(
                f"r{number}",
                gpus=gpus,
                on=[where],
                queue=queue,
                started_ms=started,
                preemptible=preemptible,
                labels=labels,
            )
    if draw(st.booleans()):
        made += budget("x", allowed=draw(st.integers(0, 3)), desired=draw(st.integers(0, 3)), x="covered")
    for number in range(draw(st.integers(1, 4))):
        made += gang(f"w{number}", gpus=draw(st.sampled_from((1, 2))), queue=draw(st.sampled_from("abc")))
    return made.under(stages=("allocate", "consolidate", "reclaim"))


def may_have_been_moved(made: World, decided: Plan) -> Iterator[frozenset[str]]:
    """Sets of pods that leave by reclaim and all have a place elsewhere afterwards: who is moved loses nothing."""
    leaving = {eviction.pod for eviction in decided.evictions}
    pods = {pod.key: pod for each in made.gangs for pod in each.pods}
    free = {node.name: node.allocatable["nvidia.com/gpu"] for node in made.nodes}
    for pod in made.pods:
        if pod.key not in leaving:
            free[pod.node] -= pod.requests["nvidia.com/gpu"]
    for given_ in (*decided.placements, *decided.promises):
        free[given_.node] -= pods[given_.pod].requests["nvidia.com/gpu"]
    reclaimed = sorted(eviction.pod for eviction in decided.evictions if eviction.stage == "reclaim")
    for number in range(len(reclaimed) + 1):
        for chosen in combinations(reclaimed, number):
            if find_room([pods[key].requests["nvidia.com/gpu"] for key in chosen], free):
                yield frozenset(chosen)


def find_room(asks: list[int], free: dict[str, int]) -> bool:
    """Whether all of them fit, each on one node."""
    if not asks:
        return True
    first, *rest = asks
    return any(find_room(rest, {**free, name: left - first}) for name, left in sorted(free.items()) if left >= first)


def keeps_shares(made: World, decided: Plan, moved: frozenset[str]) -> bool:
    """Whether nobody falls below his share, and whoever gains is not beyond his, if these are moved and not lost."""
    gangs = {each.key: each for each in made.gangs}
    pods = {pod.key: (each, pod) for each in made.gangs for pod in each.pods}
    above = {queue.name: queue.parent for queue in made.queues}
    reports = {report.name: report for report in decided.queues}
    quota = {queue.name: queue["gpu"].quota for queue in made.queues}

    def path(name: str) -> list[str]:
        found = []
        step: str | None = name
        while step is not None:
            found.append(step)
            step = above[step]
        return found

    change = dict.fromkeys(reports, 0)
    lost_by: set[str] = set()
    for promise in decided.promises:
        for name in path(gangs[promise.gang].queue):
            change[name] += pods[promise.pod][1].requests["nvidia.com/gpu"] * 1000
    taken = [each for each in decided.evictions if each.stage == "reclaim" and each.pod not in moved]
    for eviction in taken:
        victim, pod = pods[eviction.pod]
        gaining = path(gangs[eviction.beneficiary].queue)
        for name in path(victim.queue):
            change[name] -= pod.requests["nvidia.com/gpu"] * 1000
            # Where both stand under a queue, nobody outside takes anything from it.
            if name not in gaining:
                lost_by.add(name)
    after = {name: report.allocated["gpu"] + change[name] for name, report in reports.items()}
    fair = {name: report.fair_share["gpu"] for name, report in reports.items()}
    nobody_below = all(after[name] >= max(quota[name], fair[name]) for name in lost_by if change[name] < 0)
    gainers = {gangs[eviction.beneficiary].queue for eviction in taken}
    return nobody_below and all(after[name] <= fair[name] for name in gainers)


@settings(max_examples=150, deadline=None)
@given(shared_clusters())
def test_nobody_is_taken_below_his_share_and_only_who_is_under_served_takes(made: World) -> None:
    decided = plan(made)
    assert check(made, decided) == ()
    gangs = {pod.key: each for each in made.gangs for pod in each.pods}
    assert all(gangs[each.pod].preemptible for each in decided.evictions)
    assert any(keeps_shares(made, decided, moved) for moved in may_have_been_moved(made, decided))


@settings(max_examples=150, deadline=None)
@given(shared_clusters())
def test_of_all_that_a_plan_stops_or_moves_no_more_leave_at_once_than_may(made: World) -> None:
    decided = plan(made.under(stages=("allocate", "consolidate", "reclaim", "preempt")))
    gangs = {pod.key: each for each in made.gangs for pod in each.pods}
    pods = {pod.key: pod for pod in made.pods}
    going = [pods[eviction.pod] for eviction in decided.evictions]
    for each in made.budgets:
        covered = [pod for pod in going if "x" in pod.labels]
        healthy = sum("x" in pod.labels for pod in made.pods)
        assert not covered or len(covered) <= min(each.allowed, healthy - each.desired)
    above = {queue.name: queue.parent for queue in made.queues}
    for queue in made.queues:
        own = [pod for pod in going if queue.name in (gangs[pod.key].queue, above[gangs[pod.key].queue])]
        assert queue.max_concurrent_evictions is None or len(own) <= queue.max_concurrent_evictions
