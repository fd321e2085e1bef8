"""Queues take back GPUs and CPUs: what decides is taken from nobody who is not over his share of it, what goes along
from nobody who is within his quota of it, and it comes to an end."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from queues.tree import Queue, QueueResource
from scheduler.model.workloads import Gang
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import World, cluster, gang, world
from tests.rounds import after, leaving

NAMES = "abc"
ROUNDS = 25
"""More than any of these clusters needs; one that never comes to an end would not in a hundred."""


@st.composite
def mixed_clusters(draw: st.DrawFn, most: int = 2) -> World:
    """At most two nodes of 4 GPUs and 16 CPUs, three queues; some work runs and some waits, with GPUs or without."""
    quotas = st.sampled_from((0, 0, 1, 2, 4))
    made = world(
        queues=tuple(
            Queue(
                name=name,
                priority=draw(st.sampled_from((100, 100, 200))),
                resources={
                    "gpu": QueueResource(quota=draw(quotas) * 1000),
                    "cpu": QueueResource(quota=draw(quotas) * 3000),
                },
            )
            for name in NAMES
        )
    )
    nodes = draw(st.integers(1, most))
    made = cluster(nodes=nodes, gpus=4, cpu=16) + made
    left = {f"node-{number}": [4, 16] for number in range(nodes)}
    for number in range(draw(st.integers(1, 9))):
        gpus, cpu = draw(st.sampled_from((0, 1, 1, 2))), draw(st.integers(1, 8))
        on = [name for name, (free_gpus, free_cpu) in left.items() if free_gpus >= gpus and free_cpu >= cpu]
        if on:
            where = draw(st.sampled_from(on))
            left[where][0] -= gpus
            left[where][1] -= cpu
            made += gang(f"r{number}", gpus=gpus, cpu=cpu, on=[where], queue=draw(st.sampled_from(NAMES)))
    for number in range(draw(st.integers(1, 4))):
        gpus, cpu = draw(st.sampled_from((0, 1, 2))), draw(st.integers(1, 15))
        made += gang(f"w{number}", gpus=gpus, cpu=cpu, queue=draw(st.sampled_from(NAMES)))
    return made.under(stages=("allocate", "reclaim"))


def amounts(each: Gang) -> dict[str, int]:
    """What its one pod asks for, in thousandths."""
    return {"gpu": each.pods[0].requests["nvidia.com/gpu"] * 1000, "cpu": each.pods[0].requests["cpu"]}


@settings(max_examples=150, deadline=None)
@given(mixed_clusters(1))  # so that nobody is merely moved
def test_devices_are_taken_from_who_is_over_his_share_of_them_and_take_along_what_no_quota_guarantees(
    made: World,
) -> None:
    decided = plan(made)
    assert check(made, decided) == ()
    gangs = {pod.key: each for each in made.gangs for pod in each.pods}
    by_name = {each.key: each for each in made.gangs}
    shares = {report.name: report.fair_share for report in decided.queues}
    has = {report.name: dict(report.allocated.amounts) for report in decided.queues}
    asks = {name: {"gpu": 0, "cpu": 0} for name in shares}
    for each in made.gangs:
        for resource, amount in amounts(each).items():
            asks[each.queue][resource] += amount
    contested = {r for r in ("gpu", "cpu") if any(asks[name][r] > shares[name][r] for name in NAMES)}
    for eviction in decided.evictions:
        victim, gains = gangs[eviction.pod], by_name[eviction.beneficiary]
        lost, asked = amounts(victim), amounts(gains)
        for resource in ("gpu", "cpu"):
            has[victim.queue][resource] = has[victim.queue].get(resource, 0) - lost[resource]
            if resource not in contested or not asked[resource] or not lost[resource]:
                continue
            quota = next(queue for queue in made.queues if queue.name == victim.queue)[resource].quota
            along = resource == "cpu" and asked["gpu"] and "gpu" in contested and lost["gpu"]
            guaranteed = quota if along else max(quota, shares[victim.queue][resource])
            assert has[victim.queue][resource] >= guaranteed
    promised = [by_name[promise.gang] for promise in decided.promises]
    takers = {eviction.beneficiary for eviction in decided.evictions}
    for name in NAMES:
        for resource in contested:
            taken = [each for each in promised if each.queue == name and each.key in takers]
            decides = any(amounts(each)[resource] for each in taken) and resource == "gpu"
            gained = sum(amounts(each)[resource] for each in promised if each.queue == name)
            standing = next(report for report in decided.queues if report.name == name).allocated[resource]
            assert not decides or standing + gained <= shares[name][resource]


@settings(max_examples=60, deadline=None)
@given(mixed_clusters())
def test_who_was_stopped_comes_again_and_nobody_takes_for_ever(made: World) -> None:
    for number in range(ROUNDS):
        decided = plan(made)
        if not (decided.evictions or decided.placements or decided.promises):
            return
        before = {pod.key: each for each in made.gangs for pod in each.pods}
        made = after(made, decided)
        gone = leaving(made)
        made = after(made, plan(made), gone)
        again = tuple(
            replace(
                each,
                pods=tuple(
                    replace(pod, uid=f"{pod.uid}+{number}", node="", terminating=False, nominated="")
                    for pod in each.pods
                ),
            )
            for each in map(before.__getitem__, (f"default/{name}" for name in gone))
        )
        made = replace(made, gangs=made.gangs + again)
    raise AssertionError(f"still someone is stopped after {ROUNDS} rounds")
