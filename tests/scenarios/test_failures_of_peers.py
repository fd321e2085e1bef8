"""Failures that users of other schedulers have reported, with their numbers: what happens here in their place."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from scheduler.model.no_room import Hindrance, Keeper
from scheduler.model.plan import Plan, Verdict
from scheduler.model.reasons import GangDoesNotFit
from scheduler.model.snapshot import Stage
from scheduler.plan.making_room import victims
from scheduler.plan.placing import allocate
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import NOW_MS, World, cluster, gang, node, queue, topology
from tests.strategies import carried_out

ALL: tuple[Stage, ...] = ("allocate", "consolidate", "reclaim", "preempt")
MINUTE_MS = 60_000


def decide(made: World, *stages: Stage) -> Plan:
    made = made.under(stages=stages or ALL)
    decided = plan(made)
    assert check(made, decided) == ()
    return decided


def evicted(decided: Plan) -> list[str]:
    return [eviction.pod.partition("/")[2] for eviction in decided.evictions]


def six_high_and_two_low_on_each_of_four_nodes() -> World:
    made = cluster(nodes=4, gpus=8)
    for number in range(4):
        on = [f"node-{number}"]
        for which in range(8):
            priority = 100 if which < 6 else 10
            made += gang(f"of-{number}-{which}", gpus=1, priority=priority, on=on, started_ms=NOW_MS - MINUTE_MS)
    return made


def test_nobody_is_stopped_for_a_pod_that_would_have_no_node_even_then():
    """Eight pods of low priority, two on each node, and a pod that needs a whole node: no node would become free.

    Source: kubernetes-sigs/kueue#5243, where the eight are evicted, the pod stays pending and its queue is blocked."""
    decided = decide(six_high_and_two_low_on_each_of_four_nodes() + gang("large", gpus=8, priority=100, created_ms=1))
    assert evicted(decided) == []
    reason = decided.why("large")
    assert isinstance(reason, GangDoesNotFit)
    told = {each.stage: each for each in reason.no_room}
    assert set(told) == {"consolidate", "reclaim", "preempt"}
    assert told["consolidate"].why is Hindrance.TOO_LITTLE_FREE
    assert told["reclaim"].why is Hindrance.QUEUE_AT_SHARE
    assert (told["preempt"].why, told["preempt"].may_go) == (Hindrance.NOT_ENOUGH, 8)
    assert [(each.pods, each.by) for each in told["preempt"].kept] == [(24, Keeper.PRIORITY)]
    assert "give it a higher priority" in reason.cure


def test_others_start_behind_a_pod_that_nobody_makes_way_for():
    """The same cluster with a GPU more: what comes after the large pod is not blocked by it. Source: kueue#5243."""
    made = six_high_and_two_low_on_each_of_four_nodes() + node("node-4", gpus=1)
    made += gang("large", gpus=8, priority=100, created_ms=1) + gang("small", gpus=1, priority=10, created_ms=2)
    decided = decide(made)
    assert [(placement.pod, placement.node) for placement in decided.placements] == [("default/small-0", "node-4")]
    assert evicted(decided) == []


def test_those_go_whose_node_becomes_free_and_no_others():
    """One node more, with eight pods of low priority on it. Source: kueue#5243."""
    made = six_high_and_two_low_on_each_of_four_nodes() + node("node-4", gpus=8)
    for which in range(8):
        made += gang(f"low-{which}", gpus=1, priority=10, on=["node-4"], started_ms=NOW_MS - 60 * MINUTE_MS)
    decided = decide(made + gang("large", gpus=8, priority=100, created_ms=1))
    assert evicted(decided) == [f"low-{which}-0" for which in range(8)]
    assert [promise.node for promise in decided.promises] == ["node-4"]


def nodes_with_two_one_and_one() -> World:
    return cluster(nodes=0) + node("a", gpus=2) + node("b", gpus=1) + node("c", gpus=1)


def test_a_gang_that_may_be_spread_leaves_the_node_to_the_pod_that_may_not():
    """Two pods of one GPU, anywhere, and one of two GPUs; free are 2, 1 and 1. Source: kubernetes-sigs/kueue#4474."""
    spread, whole = gang("spread", pods=2, gpus=1), gang("whole", gpus=2, created_ms=1)
    together = decide(nodes_with_two_one_and_one() + spread + whole, "allocate")
    assert {each.pod: each.node for each in together.placements}["default/whole-0"] == "a"
    assert len(together.placements) == 3


def test_and_makes_way_for_it_where_it_came_first():
    """As before, one after the other: the first is on the node with two, and has another place. Source: kueue#4474."""
    made = nodes_with_two_one_and_one()
    made += gang("spread", pods=2, gpus=1, on=["a", "a"], started_ms=NOW_MS - 6 * MINUTE_MS)
    decided = decide(made + gang("whole", gpus=2, created_ms=1))
    assert [(each.pod, each.stage) for each in decided.evictions] == [
        ("default/spread-0", "consolidate"),
        ("default/spread-1", "consolidate"),
    ]
    assert [(each.pod, each.node) for each in decided.promises] == [("default/whole-0", "a")]


def test_of_two_that_block_a_rack_each_the_one_is_moved_that_loses_less():
    """A holds half of one rack, B half of the other, C needs a whole rack, and its quota is free: one of them moves to
    the other's rack, at a cost that is told. Source: kubernetes-sigs/kueue KEP 13396 (hero jobs), where C waits."""
    made = cluster(nodes=4, gpus=8, racks=2) + topology("racks", "rack") + queue("hero", quota=16) + queue("small")
    made += gang("a", gpus=8, queue="small", on=["node-0"], started_ms=NOW_MS - 60 * MINUTE_MS)
    made += gang("b", gpus=8, queue="small", on=["node-2"], started_ms=NOW_MS - 6 * MINUTE_MS)
    made += gang("c", pods=2, gpus=8, queue="hero", topology=("racks", "rack", None), created_ms=1)
    decided = decide(made)
    (move,) = decided.evictions
    assert (move.pod, move.stage, move.beneficiary) == ("default/b-0", "consolidate", "default/c")
    assert move.cost == 8_000 * (360 + 60), "thousandths of GPU-seconds: six minutes of work, and a restart"
    assert [promise.node for promise in decided.promises] == ["node-2", "node-3"]


def test_a_deep_queue_of_few_shapes_takes_as_many_searches_as_it_has_shapes(monkeypatch: pytest.MonkeyPatch):
    """536 gangs of four shapes wait in a full cluster, and each is told why in one plan; looking for room, and for whom
    to stop, takes no more searches than for 200. Source: kubernetes-sigs/kueue#14477 (depth 536: half wait 64 min)."""
    shapes = ((1, 8), (2, 4), (1, 6), (2, 3))
    searched = Counter[str]()

    def counting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **more: Any) -> Any:
            searched[name] += 1
            return call(*args, **more)

        return counted

    monkeypatch.setattr(allocate, "_greedily", counting("for room", allocate._greedily))
    monkeypatch.setattr(victims, "Spots", counting("node by node", victims.Spots))
    monkeypatch.setattr(victims, "Scenario", counting("by trying out", victims.Scenario))
    monkeypatch.setattr(victims, "least_harm", counting("for victims", victims.least_harm))
    monkeypatch.setattr(victims, "nobody_found", counting("in vain", victims.nobody_found))

    def looked(depth: int) -> Counter[str]:
        made = cluster(nodes=4, gpus=8)
        for number in range(4):
            for which in range(2):  # two GPUs are left on each node, and nobody has a place on another
                made += gang(f"runs-{number}-{which}", gpus=3, priority=100, on=[f"node-{number}"])
        for number in range(depth):
            pods, gpus = shapes[number % len(shapes)]
            made += gang(f"waits-{number:03d}", pods=pods, gpus=gpus, priority=100, created_ms=number)
        searched.clear()
        decided = decide(made)
        waiting = [each for each in decided.gangs if each.gang.startswith("default/waits")]
        assert len(waiting) == depth
        assert all(each.verdict is Verdict.PENDING and each.reason is not None for each in waiting)
        return Counter(searched)

    few = looked(200)
    assert few["for room"] > 0
    assert few["by trying out"] > 0
    assert few["in vain"] > 0
    assert looked(536) == few


def test_a_deep_queue_starts_at_once_when_there_is_room():
    """536 again, in a cluster that has room for all of them: one plan. Source: kueue#14477 (9.6 start a minute)."""
    made = cluster(nodes=67, gpus=8)
    for number in range(536):
        made += gang(f"waits-{number:03d}", gpus=1, created_ms=number)
    decided = decide(made)
    assert len(decided.placements) == 536
    assert plan(carried_out(made, decided)).placements == ()
