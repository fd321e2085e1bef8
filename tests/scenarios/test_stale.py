"""Gangs that end for their own sake: too few of their pods run, or they have run for as long as they may."""

from dataclasses import replace
from typing import Any

from queues.words import span
from scheduler.model.plan import Plan, Verdict
from scheduler.model.reasons import MaxRuntimeReached, RoomIsBeingMade
from scheduler.model.snapshot import Snapshot, Stage
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import NOW_MS, World, cluster, gang, gang_of, pod, queue, sub_group

ALL: tuple[Stage, ...] = ("allocate", "consolidate", "reclaim", "preempt", "stale")
MINUTE = 60_000
HOUR = 60 * MINUTE


def decide(made: Snapshot, *stages: Stage) -> Plan:
    made = replace(made, policy=replace(made.policy, stages=stages or ALL))
    decided = plan(made)
    assert check(made, decided) == ()
    return decided


def evicted(decided: Plan) -> list[str]:
    return [eviction.pod.partition("/")[2] for eviction in decided.evictions]


def ending(made: World, name: str = "train", **more: Any) -> World:
    """The same, with these fields of the gang."""
    key = f"default/{name}"
    return replace(made, gangs=tuple(replace(each, **more) if each.key == key else each for each in made.gangs))


def short(since_ms: int = NOW_MS - MINUTE, *, gpus: int = 4, **more: Any) -> World:
    """One node; two of the three pods that must run together run on it, and the third is gone."""
    one = gang("train", pods=2, minimum=3, gpus=1, on=["node-0"] * 2, started_ms=NOW_MS - HOUR)
    return ending(cluster(gpus=gpus) + one, **{"staleness_grace_ms": MINUTE, "below_since_ms": since_ms, **more})


# --- below the minimum ----------------------------------------------------------------------------------------------


def test_what_is_left_of_a_gang_is_stopped_when_its_grace_is_over():
    assert evicted(decide(short(NOW_MS - MINUTE + 1))) == []
    decided = decide(short(NOW_MS - MINUTE))
    assert [(e.pod, e.stage, e.beneficiary) for e in decided.evictions] == [
        ("default/train-0", "stale", ""),
        ("default/train-1", "stale", ""),
    ]
    assert decided.evictions[0].cost == (HOUR // 1000 + 60) * 1000, "an hour of a GPU, and the start"


def test_until_then_it_is_told_when():
    (told,) = decide(short(NOW_MS - 10_000)).gangs
    assert (told.below_since_ms, told.ends_at_ms) == (NOW_MS - 10_000, NOW_MS + 50_000)
    assert (told.verdict, told.reason and told.reason.code) == (Verdict.PENDING, "WaitingForPods")


def test_without_the_stage_or_with_endless_grace_it_is_let_run():
    off = decide(short(0), "allocate", "preempt")
    assert (evicted(off), off.gangs[0].ends_at_ms) == ([], None)
    assert off.gangs[0].below_since_ms == 0
    assert evicted(decide(short(0, staleness_grace_ms=None))) == []


def test_missing_pods_that_can_be_placed_are_placed_instead():
    made = short() + gang("other", gpus=1, on=["node-0"])
    waiting = replace(
        made,
        gangs=tuple(
            replace(each, pods=(*each.pods, pod("train-2", gpus=1))) if each.name == "train" else each
            for each in made.gangs
        ),
    )
    decided = decide(waiting)
    assert evicted(decided) == []
    assert [placement.pod for placement in decided.placements] == ["default/train-2"]
    assert decided.gangs[1].below_since_ms is None


def test_missing_pods_that_have_no_room_do_not_save_it():
    made = short(gpus=2)
    (one,) = made.gangs
    waiting = replace(made, gangs=(replace(one, pods=(*one.pods, pod("train-2", gpus=1))),))
    assert evicted(decide(waiting)) == ["train-0", "train-1"]


def test_missing_pods_for_which_others_leave_save_it():
    made = short(gpus=3, priority=100) + gang("low", gpus=1, on=["node-0"])
    third = pod("train-2", gpus=1, priority=100)
    made = replace(
        made,
        gangs=tuple(replace(g, pods=(*g.pods, third)) if g.name == "train" else g for g in made.gangs),
    )
    decided = decide(made)
    assert [(e.pod, e.stage) for e in decided.evictions] == [("default/low-0", "preempt")]
    assert isinstance(decided.why("train"), RoomIsBeingMade)


def replacing(ends_ms: int) -> World:
    """A full node: a pod of the gang is leaving it, and its replacement waits for that room."""
    there = pod("train-0", gpus=1, on="node-0", started_ms=NOW_MS - HOUR)
    leaving = pod("old", gpus=1, on="node-0", started_ms=NOW_MS - HOUR, terminating=True, ends_ms=ends_ms)
    new = pod("train-1", gpus=1)
    made = gang_of("train", [there, leaving, new], minimum=2, staleness_grace_ms=MINUTE, below_since_ms=NOW_MS - MINUTE)
    return cluster(gpus=2) + made


def test_a_pod_that_takes_long_to_leave_and_is_replaced_then_ends_nobody():
    decided = decide(replacing(NOW_MS + 2 * MINUTE), "allocate", "stale")
    assert evicted(decided) == []
    assert [promise.pod for promise in decided.promises] == ["default/train-1"]
    assert decided.gangs[0].ends_at_ms is None


def test_a_pod_that_never_leaves_is_not_waited_for():
    assert evicted(decide(replacing(NOW_MS - HOUR), "allocate", "stale")) == ["train-0"]


def test_a_gang_of_which_a_pod_has_succeeded_is_coming_to_its_end():
    assert evicted(decide(short(0, min_member=4, succeeded=1))) == []


def test_a_gang_at_its_minimum_is_never_stopped_whatever_is_told_of_it():
    assert evicted(decide(short(0, min_member=2))) == []


def test_what_cannot_be_preempted_is_stopped_too():
    made = short(preemptible=False, queue="q") + queue("q", quota=4)
    assert evicted(decide(made)) == ["train-0", "train-1"]


def test_a_gang_that_could_not_start_again_is_let_run():
    assert evicted(decide(short(queue="gone"))) == []


def test_whoever_may_not_be_evicted_now_is_left_and_the_others_go():
    made = replace(short(), spared=frozenset({"default/train-0"}))
    assert evicted(decide(made)) == ["train-1"]


def test_of_sub_groups_only_as_many_count_as_must_run_together():
    """Three of four groups run, as many as are needed (KAI's check looks at the leaves alone); then two do."""

    def groups(running: int) -> World:
        pods = [pod(f"w-{number}", sub_group=f"w{number}", on="node-0") for number in range(running)]
        pods += [pod(f"w-{number}", sub_group=f"w{number}", gpus=9) for number in range(running, 4)]
        made = gang_of(
            "train",
            pods,
            min_sub_group=3,
            sub_groups=tuple(sub_group(f"w{number}", 1) for number in range(4)),
            staleness_grace_ms=MINUTE,
            below_since_ms=0,
        )
        return cluster(gpus=4) + made

    assert evicted(decide(groups(3))) == []
    assert evicted(decide(groups(2))) == ["w-0", "w-1"]


# --- the longest run ------------------------------------------------------------------------------------------------


def limited(ran_ms: int, *, pods: int = 2, **more: Any) -> World:
    """A gang that may run for an hour; its first pod started so long ago, the others 5 minutes later."""
    members = [
        pod(f"train-{number}", gpus=1, on="node-0", started_ms=NOW_MS - ran_ms + (5 * MINUTE if number else 0))
        for number in range(pods)
    ]
    return cluster(gpus=4) + gang_of("train", members, max_runtime_ms=HOUR, **more)


def test_a_gang_ends_when_its_first_pod_has_run_for_as_long_as_it_may():
    before = decide(limited(HOUR - 1), "allocate")
    assert (evicted(before), before.gangs[0].ends_at_ms) == ([], NOW_MS + 1)
    decided = decide(limited(HOUR), "allocate")
    assert [(e.pod, e.stage, e.beneficiary) for e in decided.evictions] == [
        ("default/train-0", "max-runtime", ""),
        ("default/train-1", "max-runtime", ""),
    ]
    reason = decided.why("train")
    assert isinstance(reason, MaxRuntimeReached)
    assert reason.message == "default/train has run for 1h of the 1h it may, and is stopped."


def test_it_ends_whatever_else_may_not_be_stopped_and_wherever_its_queue_went():
    assert evicted(decide(limited(HOUR, preemptible=False), "allocate")) == ["train-0", "train-1"]
    assert evicted(decide(limited(HOUR, queue="gone"), "allocate")) == ["train-0", "train-1"]


def test_who_is_stopped_gets_nothing_more():
    made = limited(HOUR)
    (one,) = made.gangs
    made = replace(made, gangs=(replace(one, min_member=1, pods=(*one.pods, pod("train-2", gpus=1))),))
    decided = decide(made)
    assert (evicted(decided), decided.placements) == (["train-0", "train-1"], ())
    assert isinstance(decided.why("train"), MaxRuntimeReached)


def test_pods_of_the_run_before_that_are_still_leaving_do_not_count():
    made = limited(HOUR)
    (one,) = made.gangs
    old, new = one.pods
    pods = (replace(old, terminating=True), replace(new, started_ms=NOW_MS - MINUTE))
    made = replace(made, gangs=(replace(one, pods=pods),), pods=pods)
    decided = decide(made)
    assert (evicted(decided), decided.gangs[0].ends_at_ms) == ([], NOW_MS + HOUR - MINUTE)


def test_its_room_is_waited_for_before_anybody_else_is_stopped():
    made = limited(HOUR) + gang("low", gpus=2, priority=-10, on=["node-0"])
    decided = decide(made + gang("next", gpus=2, priority=10))
    assert evicted(decided) == ["train-0", "train-1"]
    assert [promise.pod for promise in decided.promises] == ["default/next-0"]


def test_durations_are_told_as_people_write_them():
    assert [span(ms) for ms in (0, 45_999, 90 * MINUTE, 25 * HOUR + 1000)] == ["0s", "45s", "1h30m", "25h1s"]
