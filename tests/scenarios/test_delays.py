"""Who may not be stopped yet, and that it is looked again when he may: preemption delays, minimum runtimes."""

from dataclasses import replace

import pytest

from scheduler.model.plan import Plan
from scheduler.model.reasons import GangDoesNotFit
from scheduler.model.snapshot import Snapshot, Stage
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import NOW_MS, World, cluster, gang, gang_of, pod, queue

ALL: tuple[Stage, ...] = ("allocate", "consolidate", "reclaim", "preempt")
LONG_AGO = NOW_MS - 3_600_000
DELAY = 30_000


def decide(made: Snapshot, *stages: Stage) -> Plan:
    made = replace(made, policy=replace(made.policy, stages=stages or ALL))
    decided = plan(made)
    assert check(made, decided) == ()
    return decided


def evicted(decided: Plan) -> list[str]:
    return [eviction.pod.partition("/")[2] for eviction in decided.evictions]


def delayed(stage: Stage, created_ms: int, *, pods_ms: int = 0, delay: int = DELAY) -> World:
    """A gang for which each stage by itself would make room at once, were it not for its preemption delay."""
    if stage == "consolidate":
        made = cluster(nodes=2, gpus=2) + queue("red")
        made += gang("a", gpus=1, queue="red", on=["node-0"]) + gang("b", gpus=1, queue="red", on=["node-1"])
    elif stage == "reclaim":
        made = cluster(nodes=1, gpus=2) + queue("red", quota=2) + queue("blue")
        made += gang("a", gpus=2, queue="blue", on=["node-0"])
    else:
        made = cluster(nodes=1, gpus=2) + queue("red")
        made += gang("a", gpus=2, queue="red", priority=1, on=["node-0"])
    asks = pod("late", gpus=2, created_ms=pods_ms)
    return made + gang_of("late", [asks], queue="red", priority=9, created_ms=created_ms, preemption_delay_ms=delay)


@pytest.mark.parametrize("stage", ["consolidate", "reclaim", "preempt"])
def test_nobody_is_stopped_or_moved_for_a_gang_before_its_preemption_delay_is_over(stage: Stage):
    """Source: KAI docs (preemption delay)."""
    waits = decide(delayed(stage, NOW_MS - DELAY + 1), "allocate", stage)
    assert evicted(waits) == []
    assert waits.again_ms == NOW_MS + 1, "it is looked again when it ends"
    over = decide(delayed(stage, NOW_MS - DELAY), "allocate", stage)
    assert evicted(over)
    assert over.again_ms is None


def test_who_was_stopped_and_has_new_pods_waits_for_its_delay_again():
    again = decide(delayed("preempt", LONG_AGO, pods_ms=NOW_MS - 1000))
    assert evicted(again) == []
    assert again.again_ms == NOW_MS - 1000 + DELAY
    reason = again.why("late")
    assert isinstance(reason, GangDoesNotFit)
    assert {each.until_ms for each in reason.no_room} == {again.again_ms}


def test_a_delay_keeps_nobody_from_room_that_is_free():
    made = cluster(nodes=1, gpus=2) + gang_of(
        "late", [pod("late", gpus=2)], created_ms=NOW_MS, preemption_delay_ms=DELAY
    )
    assert len(decide(made).placements) == 1


def test_who_is_stopped_for_a_gang_within_its_delay_is_stopped_against_the_rules():
    over = delayed("preempt", NOW_MS - DELAY)
    decided = decide(over)
    early = replace(over, gangs=tuple(replace(each, created_ms=NOW_MS) for each in over.gangs))
    problems = check(replace(early, policy=replace(early.policy, stages=ALL)), decided)
    assert any("preemption delay is not over" in problem for problem in problems)


def test_it_is_looked_again_when_what_runs_is_protected_no_more():
    made = cluster(nodes=1, gpus=1) + queue("red")
    made = replace(made, queues=tuple(replace(each, preempt_min_runtime_ms=60_000) for each in made.queues))
    made += gang("low", gpus=1, priority=50, queue="red", on=["node-0"], started_ms=NOW_MS - 59_000)
    assert decide(made).again_ms is None, "nobody waits"
    waits = decide(made + gang("high", gpus=1, priority=100, queue="red"))
    assert (evicted(waits), waits.again_ms) == ([], NOW_MS + 1_000)
    assert decide(made + gang("high", gpus=1, priority=100, queue="red"), "allocate").again_ms is None
