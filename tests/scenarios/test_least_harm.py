"""Of those who run no more are stopped than it takes: room that is free anyway is used, gangs keep all but what they
can spare, and whoever waits gets room as large as it needs."""

from dataclasses import replace

import pytest

from scheduler.model.plan import Eviction, Plan
from scheduler.model.reasons import GangDoesNotFit, RoomIsBeingMade
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import NOW_MS, World, ask, claim, cluster, gang, holding, queue

LONG_AGO = NOW_MS - 100_000_000


def making_room(made: World) -> World:
    return made.under(stages=("allocate", "consolidate", "reclaim", "preempt"))


def decide(made: World) -> Plan:
    decided = plan(making_room(made))
    assert check(making_room(made), decided) == ()
    return decided


def evicted(decided: Plan) -> list[str]:
    return [eviction.pod.partition("/")[2] for eviction in decided.evictions]


def promised(decided: Plan) -> dict[str, str]:
    return {promise.pod.partition("/")[2]: promise.node for promise in decided.promises}


def nominated(made: World, name: str, *nodes: str) -> World:
    """The pods of the gang were promised these nodes."""
    gangs = [
        replace(each, pods=tuple(replace(pod, nominated=node) for pod, node in zip(each.pods, nodes, strict=True)))
        if each.name == name
        else each
        for each in made.gangs
    ]
    return replace(made, gangs=tuple(gangs))


def two_go_for_one(nodes: int = 3) -> World:
    """The gang v goes as a whole, and leaves two nodes."""
    made = cluster(nodes=nodes, gpus=2)
    return made + gang("v", pods=2, gpus=2, on=["node-0", "node-1"], priority=1, started_ms=NOW_MS - 1000)


@pytest.mark.parametrize(("priority", "cpu"), [(9, 0), (9, 2), (8, 0), (8, 2)])
def test_what_others_leave_free_is_used_before_anybody_goes(priority: int, cpu: int):
    made = two_go_for_one() + gang("u", gpus=2, on=["node-2"], priority=2, started_ms=LONG_AGO)
    made += gang("w", gpus=2, priority=9, created_ms=1)
    decided = decide(made + gang("x", gpus=2, cpu=cpu, priority=priority, created_ms=2))
    assert evicted(decided) == ["v-0", "v-1"]
    assert promised(decided) == {"w-0": "node-0", "x-0": "node-1"}


def test_a_gang_of_several_uses_what_others_leave_free():
    made = two_go_for_one() + gang("u", gpus=2, on=["node-2"], priority=2, started_ms=LONG_AGO)
    made += gang("w", gpus=2, priority=9, created_ms=1)
    decided = decide(made + gang("x", pods=2, gpus=1, priority=8, created_ms=2))
    assert evicted(decided) == ["v-0", "v-1"]


def test_the_check_tells_of_who_is_stopped_for_nothing():
    made = two_go_for_one() + gang("u", gpus=2, on=["node-2"], priority=2)
    made += gang("w", gpus=2, priority=9)
    decided = decide(made)
    more = Eviction(pod="default/u-0", pod_uid="pod-default/u-0", stage="preempt", beneficiary="default/w", cost=0)
    assert any(
        "gets none of their nodes" in said
        for said in check(making_room(made), replace(decided, evictions=(*decided.evictions, more)))
    )


@pytest.mark.parametrize("waiting", [1, 2, 3])
def test_an_elastic_gang_spares_one_pod_after_the_other(waiting: int):
    made = cluster(gpus=6) + gang("elastic", pods=6, minimum=3, gpus=1, priority=10, on=["node-0"] * 6)
    for number in range(waiting):
        made += gang(f"w{number}", gpus=1, priority=100 - number)
    assert len(evicted(decide(made))) == waiting


def test_what_a_gang_can_spare_it_spares_once_wherever_its_pods_are():
    made = cluster(nodes=2, gpus=1) + gang("elastic", pods=2, minimum=1, gpus=1, priority=10, on=["node-0", "node-1"])
    for number in range(2):
        made += gang(f"w{number}", gpus=1, priority=100)
    assert evicted(decide(made)) == ["elastic-0", "elastic-1"], "the first spares one, the second ends it"
    made = made + gang("firm", gpus=1, priority=5, on=["node-0"])
    assert len(promised(decide(made))) == 2


@pytest.mark.parametrize("pods", [32, 33, 40])
def test_a_gang_may_need_any_number_of_seats_on_a_node(pods: int):
    made = cluster(nodes=2, cpu=32)
    for number in range(64):
        made += gang(f"v{number:02d}", cpu=1, on=[f"node-{number // 32}"], priority=1)
    decided = decide(made + gang("w", pods=pods, cpu=1, priority=9))
    assert (len(evicted(decided)), len(promised(decided))) == (pods, pods)


def test_two_seats_of_one_node_may_cost_less_than_two_that_are_cheaper_by_themselves():
    made = cluster(nodes=2, gpus=2) + gang("both", gpus=2, on=["node-0"], priority=1, started_ms=NOW_MS - 240_000)
    for name in ("a", "b"):
        made += gang(name, gpus=1, on=["node-1"], priority=1, started_ms=NOW_MS - 360_000)
    assert evicted(decide(made + gang("w", pods=2, gpus=1, priority=9))) == ["both-0"]


def test_a_gang_whose_pods_share_a_claim_frees_its_devices_when_all_of_it_goes():
    made = cluster(gpus=2, dra=True)
    users = [f"pod-default/v-{number}" for number in range(2)]
    made += claim("both", ask(2), holds=holding("node-0", 0, 1), by=users)
    made += gang("v", pods=2, on=["node-0"] * 2, priority=1, shared={"c": "default/both"})
    for claims in ({"g": ask(1)}, {"g": ask(2)}):
        decided = decide(made + gang("w", claims=claims, priority=9))
        assert evicted(decided) == ["v-0", "v-1"]
        assert promised(decided) == {"w-0": "node-0"}
    unlike = gang("w", claims={"g": ask(1)}, priority=9) + gang("x", claims={"g": ask(1)}, priority=9)
    assert evicted(decide(made + unlike)) == ["v-0", "v-1"], "and once is enough for two"


def test_what_one_gang_has_kept_for_it_does_not_answer_for_another():
    """Both were promised places; of those of the first there is one left, of those of the second two."""
    made = cluster(nodes=4, gpus=4)
    for number in range(3):
        made += gang(f"h{number}", gpus=3, priority=200, on=[f"node-{number}"])
    made += gang("h3", gpus=2, priority=200, on=["node-3"]) + gang("low", gpus=2, priority=5, on=["node-3"])
    made += gang("b1", pods=4, gpus=1, priority=100, created_ms=1)
    made += gang("b2", pods=4, gpus=1, priority=100, created_ms=2)
    made = nominated(made, "b1", "node-0", "node-3", "node-3", "node-3")
    made = nominated(made, "b2", "node-1", "node-2", "node-3", "node-3")
    decided = decide(made)
    assert evicted(decided) == ["low-0"]
    assert isinstance(decided.why("b2"), RoomIsBeingMade)


def test_who_needs_more_to_go_than_may_go_at_once_is_told_what_keeps_them():
    made = cluster(gpus=2) + queue("q", max_concurrent_evictions=1)
    for number in range(2):
        made += gang(f"v{number}", gpus=1, on=["node-0"], priority=1, queue="q")
    why = decide(made + gang("w", gpus=2, queue="q", priority=9)).why("w")
    assert isinstance(why, GangDoesNotFit)
    assert "1 is kept by maxConcurrentEvictions of Queue q" in why.message
