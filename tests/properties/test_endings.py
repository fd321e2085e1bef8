"""Gangs that end for their own sake: always those whose time is over, never one that is whole or may become so."""

from collections import Counter
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.model.plan import Plan
from scheduler.model.snapshot import Stage
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import NOW_MS, World, cluster, gang_of, pod, sub_group

MINUTE = 60_000
ALL: tuple[Stage, ...] = ("allocate", "consolidate", "reclaim", "preempt", "stale")


@st.composite
def worn_clusters(draw: st.DrawFn) -> World:
    """Gangs of which some pods run, some wait and some have succeeded, with and without sub-groups; what is told of
    their fall may be wrong."""
    made = cluster(nodes=draw(st.integers(1, 3)), gpus=4)
    free = {node.name: 4 for node in made.nodes}
    for number in range(draw(st.integers(1, 5))):
        groups = draw(st.booleans())
        pods = []
        for index in range(draw(st.integers(1, 4))):
            able = [name for name, left in free.items() if left > 0]
            where = draw(st.sampled_from(able)) if able and draw(st.booleans()) else ""
            if where:
                free[where] -= 1
            one = pod(
                f"g{number}-{index}",
                gpus=1,
                on=where,
                priority=number,
                sub_group=f"s{draw(st.integers(0, 2))}" if groups else "",
                started_ms=NOW_MS - draw(st.integers(0, 9)) * MINUTE if where else None,
                terminating=draw(st.integers(0, 5)) == 0,
            )
            pods.append(one)
        made += gang_of(
            f"g{number}",
            pods,
            minimum=draw(st.integers(0, 4)),
            min_sub_group=draw(st.sampled_from((None, 1, 2, 3))) if groups else None,
            sub_groups=tuple(sub_group(f"s{each}", draw(st.integers(0, 2))) for each in range(3)) if groups else (),
            priority=number,
            preemptible=draw(st.booleans()),
            succeeded=draw(st.sampled_from((0, 0, 0, 1))),
            staleness_grace_ms=draw(st.sampled_from((None, 0, 2 * MINUTE))),
            below_since_ms=draw(st.sampled_from((None, NOW_MS, NOW_MS - 2 * MINUTE, NOW_MS - 3 * MINUTE))),
            max_runtime_ms=draw(st.sampled_from((None, None, 5 * MINUTE))),
        )
    return made.under(stages=draw(st.sampled_from((ALL, ("allocate",), ("allocate", "stale")))))


def counted(made: World, decided: Plan, key: str) -> Counter[str]:
    """Pods of the gang on nodes once the plan is carried out and before anybody leaves, by sub-group."""
    placed = {placement.pod for placement in decided.placements}
    (found,) = [each for each in made.gangs if each.key == key]
    return Counter(one.sub_group for one in found.pods if (one.node and not one.terminating) or one.key in placed)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worn_clusters())
def test_only_those_end_whose_time_is_over(made: World) -> None:
    decided = plan(made)
    assert check(made, decided) == ()
    gangs = {one.key: each for each in made.gangs for one in each.pods}
    promised = {promise.gang for promise in decided.promises}
    for eviction in decided.evictions:
        if eviction.stage != "stale":
            continue
        found = gangs[eviction.pod]
        assert "stale" in made.policy.stages
        assert found.key not in promised
        assert found.succeeded == 0
        there = counted(made, decided, found.key)
        if found.sub_groups:
            whole = sum(there[sub.name] >= (sub.min_member or 0) for sub in found.sub_groups)
            assert whole < (len(found.sub_groups) if found.min_sub_group is None else found.min_sub_group)
        else:
            assert there.total() < found.min_member


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worn_clusters())
def test_whoever_ran_as_long_as_he_may_ends_under_any_setting(made: World) -> None:
    decided = plan(made)
    gone = {eviction.pod: eviction.stage for eviction in decided.evictions}
    for each in made.gangs:
        live = [one for one in each.pods if one.node and not one.terminating]
        over = each.max_runtime_ms is not None and any(
            one.started_ms is not None and NOW_MS - one.started_ms >= each.max_runtime_ms for one in live
        )
        assert all((gone.get(one.key) == "max-runtime") == over for one in live)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worn_clusters())
def test_who_is_told_an_end_and_nothing_changes_ends_then_and_not_before(made: World) -> None:
    made = made.under(stages=("allocate", "stale"))
    decided = plan(made)
    ends = {each.gang: each.ends_at_ms for each in decided.gangs if each.ends_at_ms is not None}
    times = sorted(end for end in ends.values() if end > made.now_ms)
    if not times:
        return
    before, then = (plan(replace(made, now_ms=time)) for time in (times[0] - 1, times[0]))
    assert {each.pod for each in before.evictions} == {each.pod for each in decided.evictions}
    due = {gang for gang, end in ends.items() if end == times[0]}
    keys = {one.key: each.key for each in made.gangs for one in each.pods}
    assert {keys[each.pod] for each in then.evictions} >= due
