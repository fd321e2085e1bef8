"""Room made for gangs that wait: by moving, by taking back a share, by rank. And kept for them until they have it."""

from dataclasses import replace

import pytest

from queues.resources import Resources
from scheduler.model.plan import Plan, Verdict
from scheduler.model.reasons import GangDoesNotFit, RoomIsBeingMade
from scheduler.model.snapshot import Snapshot, Stage
from scheduler.model.workloads import ContainerAsk, Gang, PodClaim
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import (
    NOW_MS,
    World,
    ask,
    claim,
    cluster,
    constraint,
    gang,
    gang_of,
    gpu_class,
    holding,
    node,
    pod,
    queue,
    running,
    topology,
)
from tests.rounds import after
from tests.strategies import carried_out

ALL: tuple[Stage, ...] = ("allocate", "consolidate", "reclaim", "preempt")
LONG_AGO = NOW_MS - 3_600_000


def decide(made: Snapshot, *stages: Stage) -> Plan:
    made = replace(made, policy=replace(made.policy, stages=stages or ALL))
    decided = plan(made)
    assert check(made, decided) == ()
    return decided


def evicted(decided: Plan) -> list[str]:
    return [eviction.pod.partition("/")[2] for eviction in decided.evictions]


def promised(decided: Plan) -> dict[str, str]:
    return {promise.pod.partition("/")[2]: promise.node for promise in decided.promises}


def two_queues(nodes: int = 1, gpus: int = 4) -> World:
    return cluster(nodes=nodes, gpus=gpus) + queue("red", quota=2) + queue("blue", quota=2)


def test_a_queue_takes_back_its_share_from_whoever_uses_more_than_his():
    made = two_queues()
    for number in range(4):
        made += gang(f"red-{number}", gpus=1, queue="red", on=["node-0"], started_ms=LONG_AGO - number)
    decided = decide(made + gang("blue", gpus=2, queue="blue"))
    assert evicted(decided) == ["red-0-0", "red-1-0"], "those who have worked least"
    assert promised(decided) == {"blue-0": "node-0"}
    assert decided.placements == ()
    assert isinstance(decided.why("blue"), RoomIsBeingMade)


def test_nobody_is_taken_below_his_share_not_by_the_last_victim_either():
    made = two_queues() + gang("large", gpus=4, queue="red", on=["node-0"])
    decided = decide(made + gang("blue", gpus=2, queue="blue"))
    assert evicted(decided) == []
    assert isinstance(decided.why("blue"), GangDoesNotFit)


def test_who_has_his_share_takes_nothing_back():
    made = two_queues() + gang("red", gpus=2, queue="red", on=["node-0"])
    made += gang("blue", gpus=2, queue="blue", on=["node-0"])
    assert evicted(decide(made + gang("more", gpus=1, queue="blue"))) == []


def test_work_of_higher_priority_takes_the_place_of_lower_in_its_queue_and_not_of_its_like():
    made = cluster(gpus=2) + gang("low", gpus=1, priority=50, on=["node-0"])
    made += gang("high", gpus=1, priority=100, on=["node-0"])
    decided = decide(made + gang("urgent", gpus=1, priority=100))
    assert evicted(decided) == ["low-0"]
    assert [(e.stage, e.beneficiary) for e in decided.evictions] == [("preempt", "default/urgent")]
    assert evicted(decide(made + gang("urgent", gpus=2, priority=100))) == []


def test_what_cannot_be_preempted_stays():
    made = cluster(gpus=1) + queue("q", quota=1)
    made += gang("firm", gpus=1, priority=50, queue="q", preemptible=False, on=["node-0"])
    assert evicted(decide(made + gang("urgent", gpus=1, priority=100, queue="q"))) == []


def test_a_gang_loses_what_it_has_beyond_its_minimum_or_all():
    made = cluster(nodes=1, gpus=4)
    made += gang("elastic", pods=4, minimum=2, gpus=1, priority=50, on=["node-0"] * 4)
    assert len(evicted(decide(made + gang("small", gpus=2, priority=100)))) == 2
    assert len(evicted(decide(made + gang("large", gpus=3, priority=100)))) == 4


def test_running_work_is_moved_where_that_is_enough():
    made = cluster(nodes=2, gpus=2)
    made += gang("one", gpus=1, on=["node-0"]) + gang("two", gpus=1, on=["node-1"])
    decided = decide(made + gang("whole", gpus=2))
    assert [e.stage for e in decided.evictions] == ["consolidate"]
    assert len(promised(decided)) == 1


def test_nobody_is_moved_who_has_no_other_place():
    made = cluster(nodes=2, gpus=2)
    made += gang("one", gpus=1, on=["node-0"]) + gang("two", gpus=2, on=["node-1"])
    assert evicted(decide(made + gang("whole", gpus=2))) == []


def test_of_all_ways_the_least_harmful_is_taken():
    """One rack is full of small work that has run for hours, the other of one gang that has just begun."""
    made = cluster(nodes=4, gpus=2, racks=2) + topology("racks", "rack")
    for number in range(4):
        where = f"node-{number // 2}"
        made += gang(f"old-{number}", gpus=1, priority=50, on=[where], started_ms=LONG_AGO)
    made += gang("young", pods=2, gpus=2, priority=50, on=["node-2", "node-3"], started_ms=NOW_MS - 1000)
    wanted = gang("train", pods=2, gpus=2, priority=100, topology=("racks", "rack", None))
    decided = decide(made + wanted)
    assert evicted(decided) == ["young-0", "young-1"]


@pytest.mark.parametrize("dra", [False, True])
def test_room_that_was_won_is_kept_until_it_is_free_and_then_taken(dra: bool):
    """Victims take their time; meanwhile a smaller gang of the same queue comes, and gets nothing of it."""

    def asking(name: str, count: int, *, priority: int, pods: int = 1) -> World:
        if dra:
            return gang(name, pods=pods, priority=priority, claims={"gpus": ask(count)})
        return gang(name, pods=pods, priority=priority, gpus=count)

    low = asking("low", 1, priority=50, pods=2)
    start = cluster(gpus=2, dra=dra) + low
    made = carried_out(start, plan(start)) + asking("urgent", 2, priority=100)
    first = decide(made)
    assert evicted(first) == ["low-0", "low-1"]

    leaving = after(made, first, gone=["low-0"])
    second = decide(leaving + asking("thief", 1, priority=75))
    assert (evicted(second), second.placements) == ([], ())
    assert promised(second) == {"urgent-0": "node-0"}

    free = after(leaving, second, gone=["low-0", "low-1"])
    third = decide(free + asking("thief", 1, priority=175))
    assert [placement.pod for placement in third.placements] == ["default/urgent-0"]
    assert third.promises == ()


def test_a_promise_that_nobody_leaves_for_any_more_is_dropped():
    made = cluster(gpus=2) + running("foreign", on="node-0", gpus=2) + gang("urgent", gpus=2, priority=100)
    made = replace(made, gangs=tuple(with_promise(each, "node-0") for each in made.gangs))
    decided = decide(made)
    assert decided.promises == ()
    assert isinstance(decided.why("urgent"), GangDoesNotFit)


def test_who_is_spared_is_not_asked_again():
    made = cluster(gpus=2) + gang("low", gpus=1, priority=50, on=["node-0"])
    made += gang("other", gpus=1, priority=60, on=["node-0"])
    made = replace(made, spared=frozenset({"default/low-0"}))
    assert evicted(decide(made + gang("urgent", gpus=1, priority=100))) == ["other-0"]


def test_what_has_not_run_for_its_least_time_is_not_stopped():
    slow = cluster(gpus=1)
    slow = replace(slow, queues=tuple(replace(each, preempt_min_runtime_ms=60_000) for each in slow.queues))
    urgent = gang("urgent", gpus=1, priority=100)
    young = gang("low", gpus=1, priority=50, on=["node-0"], started_ms=NOW_MS - 59_000)
    assert evicted(decide(slow + young + urgent)) == []
    old = gang("low", gpus=1, priority=50, on=["node-0"], started_ms=NOW_MS - 60_000)
    assert evicted(decide(slow + old + urgent)) == ["low-0"]


def test_without_stages_nobody_is_stopped():
    made = cluster(gpus=1) + gang("low", gpus=1, priority=50, on=["node-0"]) + gang("urgent", gpus=1, priority=100)
    decided = decide(made, "allocate")
    assert (evicted(decided), decided.promises) == ([], ())
    assert [decision.verdict for decision in decided.gangs] == [Verdict.RUNNING, Verdict.PENDING]


def test_what_amounts_do_not_tell_is_found_out_by_trying():
    """A host port is taken on the only node, and GPUs are free."""
    made = cluster(gpus=4) + gang("web", priority=10, on=["node-0"], ports=[80])
    decided = decide(made + gang("urgent", gpus=1, priority=100, ports=[80]))
    assert evicted(decided) == ["web-0"]


def test_what_may_not_go_and_is_in_the_way_ends_the_search():
    made = cluster(nodes=3, gpus=8) + queue("q", quota=99)
    for number in range(3):
        on = [f"node-{number}"]
        made += gang(f"web-{number}", priority=10, queue="q", preemptible=False, on=on, ports=[80])
        for other in range(8):
            made += gang(f"low-{number}-{other}", gpus=1, queue="q", priority=10, on=on)
    assert evicted(decide(made + gang("urgent", gpus=1, queue="q", priority=100, ports=[80]))) == []


def test_a_gang_that_starts_and_grows_in_one_plan_is_whole():
    made = cluster(gpus=3) + gang("low", gpus=1, priority=10, on=["node-0"])
    decided = decide(made + gang("grows", pods=3, minimum=2, gpus=1, priority=100))
    assert len(decided.placements) == 2
    assert evicted(decided) == ["low-0"]


def test_no_gang_makes_way_for_itself():
    made = cluster(nodes=3, gpus=4) + gang("fixed", gpus=1, preemptible=False, on=["node-0"])
    pinned = pod("a-1", gpus=4, selector={"kubernetes.io/hostname": "node-0"})
    made += gang_of("a", [pod("a-0", on="node-0"), pinned], minimum=1, created_ms=1)
    apart = [pod("b-0", gpus=1, on="node-1"), pod("b-2", gpus=1, on="node-2"), pod("b-1", gpus=4)]
    made += gang_of("b", apart, minimum=1, created_ms=2)
    assert evicted(decide(made, "allocate", "consolidate")) == []


def with_promise(each: Gang, node: str) -> Gang:
    return replace(each, pods=tuple(replace(pod, nominated=node) for pod in each.pods))


def test_slices_that_are_rounded_one_by_one_make_room_for_several():
    """A seventh of a GPU is 142 thousandths, two of them are 285."""
    mig = "nvidia.com/mig-1g.10gb"

    def slices(name: str, count: int, of: str, on: str = "") -> World:
        asks = (ContainerAsk(name="main", index=0, requests={mig: count}),)
        one = replace(pod(name, on=on), requests=Resources({"pods": 1, mig: count}), extended=asks)
        return gang_of(name, [one], queue=of)

    made = node("n", **{mig: 2}) + queue("red") + queue("blue", quota=2)
    made += slices("one", 1, "red", on="n") + slices("both", 2, "blue")
    assert evicted(decide(made)) == ["one"]


def test_who_was_on_a_node_that_is_gone_makes_no_room_and_his_gang_is_left_in_peace():
    made = cluster(nodes=2, gpus=1)
    made += gang("lost", gpus=1, priority=10, on=["gone"])
    made += gang("hurt", pods=2, gpus=1, priority=20, on=["node-0", "gone"])
    made += gang("low", gpus=1, priority=50, on=["node-1"])
    made += gang("urgent", gpus=1, priority=100)
    assert evicted(decide(made)) == ["low-0"]
    for stage in ALL[1:]:
        assert plan(replace(made, policy=replace(made.policy, stages=("allocate", stage)))).placements == ()


def test_a_gang_with_a_pod_on_a_node_that_is_gone_loses_what_it_has_beyond_its_minimum():
    made = cluster(nodes=1, gpus=1) + gang("hurt", pods=2, minimum=1, gpus=1, priority=20, on=["node-0", "gone"])
    assert evicted(decide(made + gang("urgent", gpus=1, priority=100))) == ["hurt-0"]


def test_who_runs_although_his_claim_is_gone_is_not_moved_but_may_be_outranked():
    made = cluster(nodes=2, gpus=3)
    lost = replace(pod("lost", gpus=1, on="node-0"), claims=(PodClaim(name="gone", claim="default/gone"),))
    made += gang_of("lost", [lost]) + gang("two", gpus=1, priority=50, on=["node-1"])
    made += gang_of("unlike", [pod("a", gpus=3), pod("b", gpus=1)], priority=100)
    moved = decide(made, "allocate", "consolidate")
    assert (evicted(moved), promised(moved)) == (["two-0"], {"a": "node-1", "b": "node-0"})
    assert evicted(decide(made, "allocate", "preempt")) == ["lost"], "who has the lowest priority"


def test_who_holds_devices_by_claims_is_moved_for_a_gang_that_must_stay_in_one_rack():
    """What a moved pod asks for is any node's devices, not those that it has."""
    made = cluster(nodes=4, gpus=2, racks=2, dra=True) + topology("racks", "rack")
    for number in range(3):
        made += claim(f"c{number}", ask(1), holds=holding(f"node-{number}", 0), by=[f"pod-default/v{number}-0"])
        one = pod(f"v{number}-0", on=f"node-{number}", claims={"g": f"c{number}"})
        made += gang_of(f"v{number}", [one], preemptible=number < 2)
    for number in range(2):
        made += claim(f"w{number}", ask(2))
    wanted = [pod(f"wide-{number}", claims={"g": f"w{number}"}) for number in range(2)]
    decided = decide(
        made + gang_of("wide", wanted, topology=constraint(("racks", "rack", None))), "allocate", "consolidate"
    )
    assert sorted(evicted(decided)) == ["v0-0", "v1-0"]
    assert sorted(promised(decided).values()) == ["node-0", "node-1"]


def test_extended_resources_that_devices_serve_are_no_amounts_of_a_node():
    """Two pods run by claims made for `nvidia.com/gpu`; the third, higher, asks for both devices by that name."""
    made = cluster(nodes=1, gpus=2, dra=True) + topology("hosts", "kubernetes.io/hostname")
    made += gpu_class(serves="nvidia.com/gpu")
    for number in range(2):
        key = f"made-{number}"
        made += claim(key, ask(1), holds=holding("node-0", number), by=[f"pod-default/low-{number}"])
        low = pod(f"low-{number}", gpus=1, on="node-0", extended_claim=f"default/{key}")
        made += gang_of(f"low-{number}", [low], priority=1)
    decided = decide(made + gang("high", gpus=2, priority=9, topology=("hosts", "kubernetes.io/hostname", None)))
    assert sorted(evicted(decided)) == ["low-0", "low-1"]


def test_who_share_a_device_are_moved_together_to_a_node_that_has_one():
    made = cluster(nodes=3, gpus=2, racks=1, dra=True) + topology("racks", "rack")
    made += claim("shared", ask(1), holds=holding("node-0", 0), by=["pod-default/v-0", "pod-default/v-1"])
    made += gang_of("v", [pod(f"v-{number}", on="node-0", claims={"g": "shared"}) for number in range(2)])
    for number, held in ((1, (0,)), (2, (0, 1))):
        made += claim(
            f"f{number}", ask(len(held)), holds=holding(f"node-{number}", *held), by=[f"pod-default/f{number}-0"]
        )
        one = pod(f"f{number}-0", on=f"node-{number}", claims={"g": f"f{number}"})
        made += gang_of(f"f{number}", [one], preemptible=False)
    made += claim("w", ask(2))
    wide = gang_of("wide", [pod("wide-0", claims={"g": "w"})], topology=constraint(("racks", "rack", None)))
    decided = decide(made + wide, "allocate", "consolidate")
    assert sorted(evicted(decided)) == ["v-0", "v-1"]
    assert promised(decided) == {"wide-0": "node-0"}
