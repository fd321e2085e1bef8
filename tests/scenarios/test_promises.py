"""Room that others make is kept for whom it was made: whatever else happens until he starts, and no longer."""

from dataclasses import replace
from typing import Any

import pytest

from queues.resources import Resources
from scheduler.api.core import Taint
from scheduler.commit.held_back import HeldBack
from scheduler.commit.outcome import CommitFailed, GangOutcome
from scheduler.commit.writes import nominations
from scheduler.model.plan import Plan
from scheduler.model.reasons import GangDoesNotFit, RoomIsBeingMade, WaitingForClaims, WaitingForPods
from scheduler.model.snapshot import Snapshot
from scheduler.model.workloads import Pod
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import World, ask, claim, cluster, gang, gang_of, holding, pod, queue, sub_group, world
from tests.rounds import after, leaving

FAILED = GangOutcome(
    gang="default/a",
    reason=CommitFailed(gang="default/a", object="ResourceClaim default/c", problem="was refused"),
)


def decide(made: Snapshot) -> Plan:
    made = replace(made, policy=replace(made.policy, stages=("allocate", "consolidate", "reclaim", "preempt")))
    decided = plan(made)
    assert check(made, decided) == ()
    return decided


def promised(decided: Plan) -> dict[str, str]:
    return {promise.pod.partition("/")[2]: promise.node for promise in decided.promises}


def placed(decided: Plan) -> dict[str, str]:
    return {placement.pod.partition("/")[2]: placement.node for placement in decided.placements}


def evicted(decided: Plan) -> list[str]:
    return [eviction.pod.partition("/")[2] for eviction in decided.evictions]


def ending(name: str, node: str, gpus: int, **more: Any) -> World:
    """A gang of one pod that is on its way out."""
    return gang_of(name, [replace(pod(f"{name}-0", gpus=gpus, on=node), terminating=True)], **more)


def hoping(name: str, node: str, gpus: int, **more: Any) -> Pod:
    """A pod that is promised a place there."""
    return replace(pod(name, gpus=gpus, **more), nominated=node)


def test_every_pod_keeps_its_own_node_so_that_all_gangs_keep_theirs():
    """Packed on one node, "a" would leave nobody room for one of the pods of "b"."""
    made = cluster(nodes=2, gpus=3) + ending("e0", "node-0", 3) + ending("e1", "node-1", 3)
    made += gang_of("a", [hoping("a-0", "node-0", gpus=1), hoping("a-1", "node-1", gpus=1)], priority=9)
    made += gang_of("b", [hoping("b-0", "node-0", gpus=2), hoping("b-1", "node-1", gpus=2)], priority=8)
    decided = decide(made + gang("other", gpus=2, priority=1))
    assert promised(decided) == {"a-0": "node-0", "a-1": "node-1", "b-0": "node-0", "b-1": "node-1"}
    assert isinstance(decided.why("other"), GangDoesNotFit)


def test_the_only_device_that_suits_one_is_not_given_to_the_one_whom_all_suit():
    made = cluster(nodes=1, gpus=2, dra=True)
    made += claim("held", ask(2), holds=holding("node-0", 0, 1), by=["pod-default/end-0"])
    made += gang_of("end", [replace(pod("end-0", on="node-0", claims={"g": "held"}), terminating=True)])
    first = 'device.attributes["gpu.nvidia.com"].index == 0'
    made += claim("any", ask(1)) + claim("first", ask(1, where=first))
    made += gang_of("a", [hoping("a-0", "node-0", gpus=0, claims={"g": "any"})], priority=9)
    made += gang_of("b", [hoping("b-0", "node-0", gpus=0, claims={"g": "first"})], priority=8)
    assert promised(decide(made)) == {"a-0": "node-0", "b-0": "node-0"}
    free = after(made, decide(made), gone=["end-0"])
    assert placed(decide(free)) == {"a-0": "node-0", "b-0": "node-0"}


def test_devices_of_pods_that_are_gone_become_free_when_the_claim_controller_sees_to_it():
    """Between the end of the last victim and the release of his devices nobody is leaving, and nothing is free: the
    promise holds, nobody else is stopped, and who comes later does not take it."""
    made = cluster(nodes=1, gpus=4, dra=True) + queue("red", quota=2) + queue("blue", quota=2)
    made += claim("kept", ask(2), holds=holding("node-0", 0, 1), by=["pod-default/red-0"])
    made += gang_of("red", [pod("red-0", on="node-0", claims={"g": "kept"})], queue="red")
    left = claim("left", ask(2), holds=holding("node-0", 2, 3), by=["uid-of-one-who-is-gone"])
    left = replace(
        left, claims={key: replace(one, owner_uid="uid-of-one-who-is-gone") for key, one in left.claims.items()}
    )
    made += left + claim("wanted", ask(2)) + claim("late", ask(2))
    made += gang_of("a", [hoping("a-0", "node-0", gpus=0, claims={"g": "wanted"})], queue="blue", created_ms=1)
    made += gang_of("z", [pod("z-0", claims={"g": "late"})], queue="blue", created_ms=2)
    decided = decide(made)
    assert (evicted(decided), placed(decided), promised(decided)) == ([], {}, {"a-0": "node-0"})
    free = replace(made, claims={key: one for key, one in made.claims.items() if key != "default/left"})
    assert placed(decide(free)) == {"a-0": "node-0"}


@pytest.mark.parametrize("left", ["leaving", "gone"])
def test_the_next_pod_of_a_gang_that_made_way_does_not_take_the_promised_devices_by_its_shared_claim(left: str):
    """The claim outlives the pod. Whoever joined it before it is released would keep the devices for ever, and the gang
    that they are promised to would ask for them again and again."""
    made = cluster(nodes=1, gpus=2, dra=True) + queue("red", quota=0) + queue("blue", quota=2)
    made += claim("shared", ask(2), holds=holding("node-0", 0, 1), by=["pod-default/red-0"]) + claim("wanted", ask(2))
    old = replace(pod("red-0", on="node-0", claims={"g": "shared"}), terminating=True)
    pods = [*([old] if left == "leaving" else []), pod("red-1", claims={"g": "shared"})]
    made += gang_of("red", pods, minimum=1, queue="red", created_ms=0)
    made += gang_of("a", [hoping("a-0", "node-0", gpus=0, claims={"g": "wanted"})], queue="blue", created_ms=1)
    decided = decide(made)
    assert (evicted(decided), placed(decided), promised(decided)) == ([], {}, {"a-0": "node-0"})
    why = decided.why("red")
    assert isinstance(why, WaitingForClaims)
    assert "is being released" in str(why)
    free = replace(made, claims={**made.claims, **claim("shared", ask(2)).claims})
    assert placed(decide(free)) == {"a-0": "node-0"}


def test_devices_that_another_scheduler_is_just_binding_a_pod_to_do_not_become_free():
    """Its pod has no node yet: who were stopped for these devices would be stopped in vain."""
    made = cluster(nodes=1, gpus=2, dra=True) + claim("wanted", ask(2))
    made += claim("low", ask(1), holds=holding("node-0", 0), by=["pod-default/low-0"])
    made += gang_of("low", [pod("low-0", on="node-0", claims={"g": "low"})], priority=1)
    made += claim("theirs", ask(1), holds=holding("node-0", 1), by=["uid-of-theirs"])
    made += gang_of("high", [pod("high-0", claims={"g": "wanted"})], priority=9)
    decided = decide(replace(made, binding=frozenset({"uid-of-theirs"})))
    assert (evicted(decided), promised(decided)) == ([], {})


def test_a_claim_that_a_leaving_pod_names_and_whose_owner_is_gone_is_released_once():
    made = cluster(nodes=1, gpus=2, dra=True)
    left = claim("left", ask(2), holds=holding("node-0", 0, 1))
    left = replace(left, claims={key: replace(one, owner_uid="gone") for key, one in left.claims.items()})
    made += left + claim("wanted", ask(2))
    made += gang_of("end", [replace(pod("end-0", on="node-0", claims={"g": "left"}), terminating=True)])
    made += gang_of("a", [hoping("a-0", "node-0", gpus=0, claims={"g": "wanted"})])
    assert promised(decide(made)) == {"a-0": "node-0"}


def _left_behind(**more: Any) -> World:
    """Two GPUs of the only node, held by a claim for a pod that is gone; "high" wants one that "low" has."""
    made = cluster(nodes=1, gpus=3, dra=True) + claim("wanted", ask(1))
    left = claim("left", ask(2), holds=holding("node-0", 0, 1), by=["gone"])
    made += replace(left, claims={key: replace(one, **more) for key, one in left.claims.items()})
    made += claim("low", ask(1), holds=holding("node-0", 2), by=["pod-default/low-0"])
    made += gang_of("low", [pod("low-0", on="node-0", claims={"g": "low"})], priority=1)
    return made + gang_of("high", [pod("high-0", claims={"g": "wanted"})], priority=9)


def test_what_a_pod_that_is_gone_has_left_is_waited_for_and_nobody_is_stopped():
    decided = decide(_left_behind())
    assert (evicted(decided), promised(decided)) == ([], {"high-0": "node-0"})


def test_what_is_reserved_for_another_kind_of_object_than_a_pod_does_not_become_free():
    """Whether that object is still there is nothing that can be known here."""
    decided = decide(_left_behind(reserved_otherwise=True))
    assert (evicted(decided), promised(decided)) == (["low-0"], {"high-0": "node-0"})


def test_a_claim_left_behind_that_this_plan_has_a_pod_join_does_not_become_free():
    joined = gang_of("next", [pod("next-0", claims={"g": "left"})], priority=10)
    decided = decide(_left_behind() + joined)
    assert placed(decided) == {"next-0": "node-0"}
    assert (evicted(decided), promised(decided)) == (["low-0"], {"high-0": "node-0"})


def test_a_shared_claim_whose_devices_nobody_was_promised_is_joined_by_the_next_pod():
    made = cluster(nodes=2, gpus=2, dra=True)
    made += claim("shared", ask(2), holds=holding("node-0", 0, 1), by=["pod-default/red-0"])
    old = replace(pod("red-0", on="node-0", claims={"g": "shared"}), terminating=True)
    decided = decide(made + gang_of("red", [old, pod("red-1", claims={"g": "shared"})], minimum=1))
    assert placed(decided) == {"red-1": "node-0"}


def test_who_has_room_already_does_not_wait_for_the_others():
    """Half of the node is free, and two gangs are promised half of it each: the first in the queue starts."""
    made = cluster(gpus=4) + ending("end", "node-0", 2)
    made += gang_of("a", [hoping("a-0", "node-0", gpus=2)], priority=9)
    made += gang_of("b", [hoping("b-0", "node-0", gpus=2)], priority=8)
    decided = decide(made)
    assert (placed(decided), promised(decided)) == ({"a-0": "node-0"}, {"b-0": "node-0"})


def test_a_claim_that_two_gangs_name_is_promised_devices_once():
    made = cluster(nodes=2, gpus=2, dra=True)
    for name, node, index in (("a", 0, 0), ("b", 0, 1), ("c", 1, 0), ("d", 1, 1)):
        made += claim(f"of-{name}", ask(1), holds=holding(f"node-{node}", index), by=[f"pod-default/{name}-0"])
        made += gang_of(name, [pod(f"{name}-0", on=f"node-{node}", claims={"g": f"of-{name}"})])
    made += claim("shared", ask(2))
    made += gang_of("x", [pod("x-0", claims={"g": "shared"})], priority=5, created_ms=1)
    made += gang_of("y", [pod("y-0", claims={"g": "shared"})], priority=5, created_ms=2)
    first = decide(made)
    assert (len(evicted(first)), promised(first).get("x-0")) == (2, "node-0")
    second = decide(after(made, first))
    assert (evicted(second), second.placements) == ([], ())
    started = decide(after(made, first, gone=evicted(first)))
    assert placed(started)["x-0"] == "node-0"
    joined = decide(after(after(made, first, gone=evicted(first)), started))
    assert (placed(started) | placed(joined))["y-0"] == "node-0"


def test_a_host_port_that_is_promised_is_not_promised_again_when_its_holder_leaves():
    made = cluster(gpus=2) + gang_of("low", [pod("low-0", gpus=1, on="node-0")])
    made += gang_of("end", [replace(pod("end-0", gpus=1, on="node-0", ports=[80]), terminating=True)])
    made += gang_of("a", [hoping("a-0", "node-0", gpus=1, ports=[80])], created_ms=1, priority=5)
    decided = decide(made + gang_of("b", [pod("b-0", gpus=1, ports=[80])], created_ms=2, priority=5))
    assert (promised(decided), evicted(decided)) == ({"a-0": "node-0"}, [])


def test_who_waits_for_more_pods_can_be_moved_with_those_that_he_has():
    """What an elastic gang lacks beyond its minimum, and what could never run, is no matter of those who move."""
    made = cluster(nodes=2, gpus=4) + gang_of("fixed", [pod("fixed-0", gpus=1, on="node-0")], preemptible=False)
    made += gang_of("elastic", [pod("elastic-0", gpus=1, on="node-1"), pod("elastic-1", gpus=8)], minimum=1)
    decided = decide(made + gang("whole", gpus=4))
    assert (evicted(decided), promised(decided)) == (["elastic-0"], {"whole-0": "node-1"})


def test_a_claim_that_sub_groups_share_keeps_its_room():
    made = cluster(gpus=2, dra=True)
    for number in (0, 1):
        made += claim(f"of-{number}", ask(1), holds=holding("node-0", number), by=[f"pod-default/end-{number}"])
    ends = [pod(f"end-{number}", on="node-0", claims={"g": f"of-{number}"}) for number in (0, 1)]
    made += gang_of("end", [replace(each, terminating=True) for each in ends]) + claim("shared", ask(2))
    pods = [hoping(f"a-{s}", "node-0", gpus=0, claims={"g": "shared"}, sub_group=s) for s in ("x", "y")]
    made += gang_of("a", pods, minimum=0, sub_groups=(sub_group("x", 1), sub_group("y", 1)), priority=5)
    decided = decide(made + gang("thief", claims={"g": ask(1)}, priority=1))
    assert promised(decided) == {"a-x": "node-0", "a-y": "node-0"}


def test_a_gang_that_is_held_back_after_a_failed_commit_keeps_its_room_and_does_not_start():
    """So does its nomination, by which the next plan knows."""
    held = HeldBack(first_seconds=1.0)
    held.note(FAILED, 0.0)
    for others in (ending("end", "node-0", 2), world()):
        made = cluster(gpus=2) + others + gang_of("a", [hoping("a-0", "node-0", gpus=2)], priority=9)
        now = held.without_them(made + gang("other", gpus=2, priority=1), 0.5)
        decided = decide(now)
        assert (placed(decided), promised(decided)) == ({}, {"a-0": "node-0"})
        assert decided.why("a") == FAILED.reason
        assert nominations(decided, now) == {}
    assert placed(decide(held.without_them(made, 1.5))) == {"a-0": "node-0"}


def test_a_gang_whose_commit_always_fails_does_not_keep_its_room_for_ever():
    made = cluster(gpus=2) + gang_of("a", [hoping("a-0", "node-0", gpus=2)], priority=9)
    made += gang("other", gpus=2, priority=1)
    held = HeldBack(first_seconds=1.0)
    for _ in range(5):
        held.note(FAILED, 0.0)
    now = held.without_them(made, 0.5)
    assert placed(decide(now)) == {"other-0": "node-0"}
    assert [each.node for each in nominations(decide(now), now)["default/a"]] == [""]


@pytest.mark.parametrize("trouble", ["cordoned", "tainted", "deleted", "without its GPUs"])
def test_a_promise_ends_with_its_node_and_keeps_nobody_else_from_his_place(trouble: str):
    made = cluster(nodes=2, gpus=2) + ending("end", "node-0", 2) + ending("late", "node-1", 1)
    made += gang_of("a", [hoping("a-0", "node-0", gpus=2)], priority=9) + gang("small", gpus=1, priority=1)
    first, second = made.nodes
    match trouble:
        case "cordoned":
            nodes = (replace(first, unschedulable=True), second)
        case "tainted":
            nodes = (replace(first, taints=(Taint(key="broken", effect="NoSchedule"),)), second)
        case "deleted":
            nodes = (second,)
        case _:
            nodes = (replace(first, allocatable=second.allocatable - Resources({"nvidia.com/gpu": 2})), second)
    decided = decide(replace(made, nodes=nodes))
    assert placed(decided) == {"small-0": "node-1"}
    assert promised(decided) == {}


def test_who_loses_one_of_two_promised_nodes_is_placed_before_others_in_another():
    made = cluster(nodes=3, gpus=2) + gang_of("a", [hoping(f"a-{n}", f"node-{n}", gpus=2) for n in (0, 1)])
    made = replace(made, nodes=tuple(replace(each, unschedulable=each.name == "node-1") for each in made.nodes))
    decided = decide(made + gang("urgent", gpus=2, priority=99))
    assert placed(decided) == {"a-0": "node-0", "a-1": "node-2"}


def test_a_device_that_is_lost_ends_the_promise_of_it():
    made = cluster(gpus=2, dra=True) + claim("held", ask(2), holds=holding("node-0", 0, 1), by=["pod-default/end-0"])
    made += gang_of("end", [replace(pod("end-0", on="node-0", claims={"g": "held"}), terminating=True)])
    made += claim("two", ask(2)) + gang_of("a", [hoping("a-0", "node-0", gpus=0, claims={"g": "two"})])
    assert promised(decide(made)) == {"a-0": "node-0"}
    fewer = replace(made, slices=cluster(gpus=1, dra=True).slices)
    assert promised(decide(fewer)) == {}


@pytest.mark.parametrize("node", ["node-0", "node-9"])
def test_a_nomination_where_nothing_is_free_and_nobody_leaves_is_worth_nothing(node: str):
    """Whoever wrote it: the gang waits its turn, and the next plan does not see it any more."""
    made = cluster(nodes=2, gpus=2) + gang("full", gpus=2, on=["node-0"], preemptible=False)
    made += gang_of("a", [hoping("a-0", node, gpus=2)], priority=1)
    decided = decide(made + gang("first", gpus=2, priority=9))
    assert (placed(decided), promised(decided)) == ({"first-0": "node-1"}, {})
    assert [each.node for each in nominations(decided, made)["default/a"]] == [""]


@pytest.mark.parametrize("preemptible", [True, False])
def test_a_nomination_is_no_way_around_limits_and_quotas(preemptible: bool):
    tight = {"limit": 1} if preemptible else {"quota": 1}
    made = cluster(gpus=2) + queue("tight", **tight)
    pods = [hoping("a-0", "node-0", gpus=2)]
    decided = decide(made + gang_of("a", pods, queue="tight", preemptible=preemptible))
    assert (decided.placements, decided.promises) == ((), ())


def test_a_promise_ends_when_the_queue_falls_over_its_limit_or_is_deleted():
    made = cluster(gpus=2) + ending("end", "node-0", 2) + queue("q", limit=2)
    made += gang_of("a", [hoping("a-0", "node-0", gpus=2)], queue="q")
    assert promised(decide(made)) == {"a-0": "node-0"}
    lower = replace(made, queues=tuple(each for each in made.queues if each.name != "q"))
    assert promised(decide(lower)) == {}
    assert promised(decide(lower + queue("q", limit=1))) == {}


def test_at_its_limit_a_queue_keeps_the_promise_that_its_own_victims_make_room_for():
    """Those who are leaving are charged until they have left."""
    made = cluster(gpus=2) + queue("q", limit=2) + gang("low", pods=2, gpus=1, queue="q", on=["node-0"] * 2)
    made += gang("urgent", gpus=2, queue="q", priority=9)
    first = decide(made)
    one_left = after(made, first, gone=["low-0"]) + gang("thief", gpus=1, priority=99)
    second = decide(one_left)
    assert (placed(second), evicted(second), promised(second)) == ({}, [], {"urgent-0": "node-0"})
    assert placed(decide(after(one_left, second, gone=["low-1"]))) == {"urgent-0": "node-0"}


def test_a_gang_that_needs_fewer_pods_meanwhile_starts_with_those():
    made = cluster(nodes=2, gpus=2) + ending("end", "node-1", 2)
    pods = [hoping("a-0", "node-0", gpus=2), hoping("a-1", "node-1", gpus=2)]
    made += gang_of("a", pods[:1], minimum=1) + gang("other", gpus=2, priority=9)
    assert placed(decide(made)) == {"a-0": "node-0"}


def test_a_gang_that_needs_more_pods_meanwhile_keeps_what_it_has_until_others_made_way_for_the_rest():
    made = cluster(nodes=2, gpus=2) + gang("low", gpus=2, on=["node-1"])
    pods = [hoping("a-0", "node-0", gpus=2), pod("a-1", gpus=2)]
    made += gang_of("a", pods, minimum=2, priority=5) + gang("thief", gpus=1, priority=1)
    decided = decide(made)
    assert (placed(decided), evicted(decided)) == ({}, ["low-0"])
    assert promised(decided) == {"a-0": "node-0", "a-1": "node-1"}
    assert isinstance(decided.why("a"), RoomIsBeingMade)


def test_what_a_gang_lacks_a_pod_for_is_kept_while_somebody_leaves_there():
    """Its controller makes another pod soon. It is not waited for with rooms that are free."""
    made = cluster(nodes=2, gpus=2) + gang_of("a", [hoping("a-0", "node-0", gpus=2)], minimum=2)
    thief = gang("thief", gpus=1, priority=9) + gang("full", gpus=2, on=["node-1"], preemptible=False)
    decided = decide(made + thief + ending("end", "node-0", 1))
    assert (placed(decided), promised(decided)) == ({}, {"a-0": "node-0"})
    assert isinstance(decided.why("a"), WaitingForPods)
    assert placed(decide(made + thief)) == {"thief-0": "node-0"}


def test_who_was_asked_to_leave_in_vain_is_asked_again_and_nobody_else():
    """One of two victims has left, the other was never told: a scheduler died in between."""
    made = cluster(nodes=2, gpus=2) + gang("low", gpus=1, on=["node-0"], priority=1)
    made += gang("firm", gpus=2, on=["node-1"], preemptible=False)
    made += gang_of("a", [hoping(f"a-{n}", "node-0", gpus=1) for n in (0, 1)], priority=9)
    decided = decide(made + gang("thief", gpus=1, priority=5))
    assert (evicted(decided), promised(decided)) == (["low-0"], {"a-0": "node-0", "a-1": "node-0"})
    assert decided.placements == ()


def test_victims_that_leave_one_by_one_over_twenty_rounds_are_all_that_leave():
    """New work comes all the time, and takes nothing of what is becoming free."""
    made = cluster(nodes=5, gpus=4)
    for node in range(5):
        made += gang(f"low-{node}", pods=4, gpus=1, on=[f"node-{node}"] * 4, minimum=1, priority=1)
    made += gang("large", pods=5, gpus=4, priority=9)
    first = decide(made)
    assert len(evicted(first)) == 20
    made, decided = after(made, first), first
    for number in range(20):
        assert (len(leaving(made)), len(promised(decided))) == (20 - number, 5)
        made += gang(f"small-{number}", gpus=1, priority=20 * (number % 2))
        decided = decide(made)
        assert (evicted(decided), placed(decided)) == ([], {})
        made = after(made, decided, gone=leaving(made)[:1])
    assert {name for name in placed(decide(made)) if name.startswith("large")} == {f"large-{n}" for n in range(5)}


def waiting(name: str, gpus: int, **more: Any) -> Pod:
    """A pod that is promised nothing: made anew after another was."""
    return pod(name, gpus=gpus, **more)


def test_a_sub_group_whose_only_pod_was_made_anew_is_placed_with_the_others_before_anybody_else():
    made = cluster(gpus=3) + gang("other", gpus=1, priority=50)
    workers = [hoping(f"w{number}", "node-0", gpus=1, sub_group="workers") for number in range(2)]
    pods = [waiting("launcher", gpus=1, sub_group="launcher"), *workers]
    made += gang_of("a", pods, minimum=3, priority=9, sub_groups=(sub_group("launcher"), sub_group("workers")))
    assert placed(decide(made)) == dict.fromkeys(("launcher", "w0", "w1"), "node-0")


def test_where_the_new_pod_finds_no_room_nobody_starts_without_it():
    made = cluster(gpus=3) + gang("other", gpus=1, on=["node-0"], preemptible=False)
    workers = [hoping(f"w{number}", "node-0", gpus=1, sub_group="workers") for number in range(2)]
    pods = [waiting("launcher", gpus=1, sub_group="launcher"), *workers]
    made += gang_of("a", pods, minimum=3, priority=9, sub_groups=(sub_group("launcher"), sub_group("workers")))
    assert placed(decide(made)) == {}


@pytest.mark.parametrize("needed", [None, 1])
def test_groups_within_groups_start_without_those_that_are_not_needed_and_no_others(needed: int | None):
    """Two replicas of one worker each below a group; one worker was made anew, and there is no room for it."""
    made = cluster(gpus=1)
    pods = [hoping("w0", "node-0", gpus=1, sub_group="r0"), waiting("w1", gpus=1, sub_group="r1")]
    groups = (sub_group("all", groups=needed), sub_group("r0", parent="all"), sub_group("r1", parent="all"))
    made += gang_of("a", pods, minimum=1, sub_groups=groups)
    assert placed(decide(made)) == ({} if needed is None else {"w0": "node-0"})
