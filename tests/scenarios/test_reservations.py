"""A gang that finds no room gets it by a time that is told; those behind it fill the room until then, and no longer."""

from dataclasses import replace
from typing import Any

import pytest

from scheduler.model.plan import GangDecision, Plan, Verdict
from scheduler.model.reasons import GangDoesNotFit
from scheduler.model.snapshot import Snapshot
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import NOW_MS, World, ask, cluster, gang, queue
from tests.strategies import carried_out

MINUTE = 60_000
ENDING = 40_000
"""Until it is told to end, its grace of 30 s, and until its room can be given away."""
STARTING = 20_000
"""What is placed now may start so late, and has its time limit from then."""


def limited(made: World, minutes: float | None) -> World:
    """The same gangs with this maxRuntime."""
    limit = None if minutes is None else round(minutes * MINUTE)
    return replace(made, gangs=tuple(replace(each, max_runtime_ms=limit) for each in made.gangs))


def old(name: str, *, on: list[str], gpus: int, left: float | None, **more: Any) -> World:
    """A gang that has run for an hour, and has so many minutes left (None: nobody knows)."""
    made = gang(name, pods=len(on), gpus=gpus, on=on, started_ms=NOW_MS - 60 * MINUTE, **more)
    return limited(made, None if left is None else 60 + left)


def decide(made: Snapshot) -> Plan:
    decided = plan(made)
    assert check(made, decided) == ()
    return decided


def told(decided: Plan, name: str) -> GangDecision:
    (found,) = [each for each in decided.gangs if each.gang == f"default/{name}"]
    return found


def why(decided: Plan, name: str) -> GangDoesNotFit:
    reason = told(decided, name).reason
    assert isinstance(reason, GangDoesNotFit)
    return reason


def placed(decided: Plan) -> set[str]:
    return {placement.gang.partition("/")[2] for placement in decided.placements}


def three_nodes_that_empty_one_by_one(**more: Any) -> World:
    """Six GPUs of each are in use, for ten, twenty and thirty minutes; two are free."""
    made = cluster(nodes=3, gpus=8)
    for number in range(3):
        made += old(f"old-{number}", on=[f"node-{number}"], gpus=6, left=10 * (number + 1))
    return made + gang("large", pods=2, gpus=8, created_ms=1, **more)


def test_a_gang_is_told_when_it_starts_and_whom_it_waits_for():
    decided = decide(three_nodes_that_empty_one_by_one())
    starts = NOW_MS + 20 * MINUTE + ENDING
    assert (told(decided, "large").verdict, told(decided, "large").starts_at_ms) == (Verdict.PENDING, starts)
    assert (why(decided, "large").waits_for, why(decided, "large").reserved_nodes) == ("default/old-1", 2)
    assert {(each.pod, each.node) for each in decided.reserved} == {
        ("default/large-0", "node-0"),
        ("default/large-1", "node-1"),
    }
    assert "It starts by 2026-01-01T00:20:40.000Z, when default/old-1 has ended" in why(decided, "large").message


@pytest.mark.parametrize(
    ("minutes", "starts"),
    [(20 - STARTING / MINUTE, {"small-0", "small-1", "small-2"}), (20, {"small-0"}), (None, {"small-0"})],
    ids=["ends by then", "ends after", "may never end"],
)
def test_those_behind_it_use_its_room_if_they_are_gone_by_then(minutes: float | None, starts: set[str]):
    made = three_nodes_that_empty_one_by_one()
    for number in range(3):
        made += limited(gang(f"small-{number}", gpus=2, created_ms=2 + number), minutes)
    decided = decide(made)
    assert placed(decided) == starts, "the two GPUs of the third node are nobody's"
    assert told(decided, "large").starts_at_ms == NOW_MS + 20 * MINUTE + ENDING


def test_who_is_held_back_is_told_for_whom_and_how_short_he_would_have_to_be():
    made = three_nodes_that_empty_one_by_one() + limited(gang("small", pods=2, gpus=2, created_ms=2), 25)
    reason = why(decide(made), "small")
    assert (reason.kept_for, reason.kept_until_ms) == ("default/large", NOW_MS + 20 * MINUTE + ENDING)
    assert "is reserved for default/large, which starts by 2026-01-01T00:20:40.000Z" in reason.message
    assert reason.cure.startswith("Give it a maxRuntime of 1180s or less, and it may start now; or free room")
    assert placed(decide(limited(made, None) + limited(gang("x", created_ms=9), 1))) >= {"x"}


def test_who_was_there_before_is_not_held_back():
    made = three_nodes_that_empty_one_by_one() + gang("first", pods=3, gpus=2, priority=1)
    decided = decide(made)
    assert placed(decided) == {"first"}
    assert told(decided, "large").starts_at_ms is None, "nobody knows when the first one ends"


@pytest.mark.parametrize("full", range(3))
def test_a_gang_may_stay_where_the_large_one_then_has_other_nodes(full: int):
    """All three nodes are empty in time, and the large gang needs two: who stays decides which, but only once."""
    made = cluster(nodes=3, gpus=8)
    for number in range(3):
        made += old(f"old-{number}", on=[f"node-{number}"], gpus=8 if number == full else 6, left=10)
    made += gang("large", pods=2, gpus=8, created_ms=1)
    made += gang("small-0", gpus=2, created_ms=2) + gang("small-1", gpus=2, created_ms=3)
    decided = decide(made)
    assert placed(decided) == {"small-0"}
    assert told(decided, "large").starts_at_ms == NOW_MS + 10 * MINUTE + ENDING
    assert {each.node for each in decided.reserved}.isdisjoint(each.node for each in decided.placements)


def test_what_this_plan_starts_counts_as_well():
    made = (
        cluster(nodes=1, gpus=8) + limited(gang("first", gpus=8, created_ms=1), 7) + gang("next", gpus=8, created_ms=2)
    )
    decided = decide(made)
    assert placed(decided) == {"first"}
    assert told(decided, "next").starts_at_ms == NOW_MS + STARTING + 7 * MINUTE + ENDING


def test_pods_on_their_way_out_leave_by_a_time_that_is_known():
    leaving = gang("old", gpus=8, on=["node-0"], terminating=True, ends_ms=NOW_MS + 20_000, created_ms=1)
    made = cluster(nodes=1, gpus=8) + leaving + gang("next", gpus=8, created_ms=2)
    assert told(decide(made), "next").starts_at_ms == NOW_MS + 25_000


def test_where_no_end_is_known_nothing_is_reserved():
    made = cluster(nodes=2, gpus=8) + old("old", on=["node-0", "node-1"], gpus=6, left=None)
    made += gang("large", gpus=8, created_ms=1) + gang("small", gpus=2, created_ms=2)
    decided = decide(made)
    assert (decided.reserved, told(decided, "large").starts_at_ms) == ((), None)
    assert placed(decided) == {"small"}


def test_the_setting_turns_it_off():
    decided = decide((three_nodes_that_empty_one_by_one() + gang("small", pods=3, gpus=2)).under(reservations=0))
    assert (decided.reserved, placed(decided)) == ((), {"small"})


def test_a_gang_that_its_queue_keeps_waiting_reserves_nothing():
    made = three_nodes_that_empty_one_by_one(queue="red") + queue("red", limit=8)
    made += gang("small", pods=3, gpus=2, created_ms=2)
    decided = decide(made)
    assert (decided.reserved, placed(decided)) == ((), {"small"})


def test_those_behind_it_leave_it_the_limit_of_its_queue_too():
    made = three_nodes_that_empty_one_by_one(queue="red") + queue("red", limit=17)
    made += gang("one", gpus=1, created_ms=2, queue="red") + gang("two", gpus=1, created_ms=3, queue="red")
    decided = decide(made)
    assert placed(decided) == {"one"}
    assert why(decided, "two").kept_for == "default/large"


@pytest.mark.parametrize("limit", [19, 20])
def test_nobody_behind_it_is_promised_what_its_queue_has_to_have_left(limit: int):
    """Room that others leave anyhow, and that it has no use for."""
    made = cluster(nodes=3, gpus=8) + queue("red", limit=limit)
    made += old("old-0", on=["node-0"], gpus=6, left=10) + old("old-1", on=["node-1"], gpus=6, left=10)
    made += old("stays", on=["node-2"], gpus=4, left=None)
    made += gang("leaves", gpus=4, on=["node-2"], terminating=True, ends_ms=NOW_MS + 20_000)
    made += gang("large", pods=2, gpus=8, queue="red", created_ms=1) + gang("late", gpus=4, queue="red", created_ms=2)
    decided = decide(made.under(stages=("allocate", "preempt")))
    assert told(decided, "large").starts_at_ms == NOW_MS + 10 * MINUTE + ENDING
    assert [promise.gang for promise in decided.promises] == ([] if limit == 19 else ["default/late"])


def test_a_gang_with_devices_is_told_which_ones_it_waits_for():
    claims = {"gpus": ask(2)}
    made = cluster(nodes=1, gpus=4, dra=True) + limited(gang("old", claims=claims), 60)
    made = carried_out(made, decide(made))
    made += gang("large", claims={"gpus": ask(4)}, created_ms=1)
    made += limited(gang("brief", claims=claims, created_ms=2), 59) + gang("long", claims=claims, created_ms=3)
    decided = decide(made)
    assert placed(decided) == {"brief"}
    assert [len(each.devices) for each in decided.reserved] == [4]


# --- what is certain ------------------------------------------------------------------------------------------------


def test_who_may_take_long_to_end_when_stopped_has_not_left_by_then():
    made = three_nodes_that_empty_one_by_one()
    for number, seconds in enumerate((600, 600, 30)):
        made += limited(gang(f"small-{number}", gpus=2, created_ms=2 + number, ending_ms=seconds * 1000), 15)
    decided = decide(made)
    assert placed(decided) == {"small-0", "small-2"}, "the third node is nobody's"
    assert why(decided, "small-1").kept_for == "default/large"
    assert why(decided, "small-1").cure.startswith("Give it a maxRuntime of 610s or less")
    assert told(decided, "large").starts_at_ms == NOW_MS + 20 * MINUTE + ENDING


def test_those_it_waits_for_may_take_long_to_end_as_well():
    made = cluster(nodes=1, gpus=8) + old("old", on=["node-0"], gpus=6, left=10, ending_ms=600_000)
    decided = decide(made + gang("large", gpus=8, created_ms=1))
    assert told(decided, "large").starts_at_ms == NOW_MS + 20 * MINUTE + 10_000


def test_a_gang_whose_older_pods_are_replaced_is_counted_from_the_younger_ones():
    """Its time is over when the oldest that runs has had it; that one may be gone by then."""
    made = cluster(nodes=1, gpus=8) + limited(gang("old", pods=2, gpus=3, on=["node-0", "node-0"]), 60)
    (each,) = made.gangs
    pods = tuple(replace(pod, started_ms=NOW_MS - ago * MINUTE) for pod, ago in zip(each.pods, (50, 5), strict=True))
    made = replace(made, gangs=(replace(each, pods=pods),), pods=pods)
    made += gang("large", gpus=8, created_ms=1) + limited(gang("small", gpus=2, created_ms=2), 30)
    decided = decide(made)
    assert told(decided, "large").starts_at_ms == NOW_MS + 55 * MINUTE + ENDING
    assert placed(decided) == {"small"}


def test_more_pods_of_a_gang_that_is_nearly_over_count_as_if_its_time_began_now():
    """Those by whose start it is nearly over may be gone before it is stopped."""
    made = three_nodes_that_empty_one_by_one()
    grows = gang("grows", pods=5, gpus=1, minimum=1, on=["node-2"], started_ms=NOW_MS - 55 * MINUTE, created_ms=2)
    decided = decide(made + limited(grows, 60))
    assert [placement.node for placement in decided.placements] == ["node-2"]
    assert told(decided, "large").starts_at_ms == NOW_MS + 20 * MINUTE + ENDING


@pytest.mark.parametrize("phase", ["gone", "Succeeded"])
def test_room_stays_reserved_while_claims_of_pods_that_have_left_are_released(phase: str):
    made = cluster(nodes=1, gpus=4, dra=True) + gang("old", claims={"gpus": ask(3)})
    made = carried_out(made, decide(made))
    pods = tuple(replace(pod, phase=phase) for each in made.gangs for pod in each.pods)
    gangs = () if phase == "gone" else tuple(replace(each, pods=pods) for each in made.gangs)
    made = replace(made, gangs=gangs, pods=() if phase == "gone" else pods)
    made += gang("large", claims={"gpus": ask(4)}, created_ms=1) + gang("small", claims={"gpus": ask(1)}, created_ms=2)
    assert placed(decide(made)) == set()
    decided = decide(made.under(stages=("allocate",)))
    assert placed(decided) == set()
    assert told(decided, "large").starts_at_ms == NOW_MS
    assert why(decided, "small").kept_for == "default/large"


@pytest.mark.parametrize(("late", "keeps"), [(1.5, True), (3, False)])
def test_one_that_cannot_be_stopped_though_its_time_is_over_is_waited_for_two_minutes(late: float, keeps: bool):
    made = cluster(nodes=1, gpus=8) + old("old", on=["node-0"], gpus=6, left=-late)
    made += gang("large", gpus=8, created_ms=1) + gang("small", gpus=2, created_ms=2)
    decided = decide(replace(made, spared=frozenset({"default/old-0"})))
    assert placed(decided) == (set() if keeps else {"small"})


def test_room_that_is_there_only_after_the_window_is_not_reserved():
    made = three_nodes_that_empty_one_by_one() + gang("small", pods=3, gpus=2, created_ms=2)
    assert placed(decide(made.under(reserve_within_hours=0.4))) == set()
    decided = decide(made.under(reserve_within_hours=0.3))
    assert (placed(decided), decided.reserved, told(decided, "large").starts_at_ms) == ({"small"}, (), None)


def test_who_is_brief_enough_for_one_reservation_is_told_of_the_other():
    made = cluster(nodes=2, gpus=8) + queue("red", quota=8) + queue("blue", quota=8)
    made += old("old-0", on=["node-0"], gpus=6, left=30) + old("old-1", on=["node-1"], gpus=6, left=10)
    for number, of in enumerate(("blue", "red")):
        only = {"kubernetes.io/hostname": f"node-{number}"}
        made += gang(f"large-{number}", gpus=8, queue=of, created_ms=1, selector=only)
    made += gang("long", pods=2, gpus=2, created_ms=2) + limited(gang("brief", pods=2, gpus=2, created_ms=3), 15)
    decided = decide(made)
    assert placed(decided) == set()
    assert [why(decided, name).kept_for for name in ("long", "brief")] == ["default/large-0", "default/large-1"]
    assert why(decided, "brief").cure.startswith("Give it a maxRuntime of 580s or less")


@pytest.mark.parametrize("seconds", [1, 4, 9])
def test_what_is_told_does_not_change_with_every_plan(seconds: int):
    """Of pods that have been bound and have not started, and of such as should have ended."""
    made = cluster(nodes=2, gpus=8) + limited(gang("bound", gpus=8, on=["node-0"]), 10)
    made += gang("late", gpus=8, on=["node-1"], terminating=True, ends_ms=NOW_MS - 30_000)
    for number in range(2):
        only = {"kubernetes.io/hostname": f"node-{number}"}
        made += gang(f"next-{number}", gpus=8, created_ms=1, queue=f"q{number}", selector=only)
        made += queue(f"q{number}", quota=8)
    made = made.under(stages=("allocate",))
    times = []
    for later in (seconds, 10):
        decided = decide(replace(made, now_ms=NOW_MS + later * 1000))
        times.append([told(decided, name).starts_at_ms for name in ("next-0", "next-1")])
    assert times[0] == times[1]
    assert None not in times[0]


# --- no time is known -----------------------------------------------------------------------------------------------


def two_nodes_without_ends() -> World:
    made = cluster(nodes=2, gpus=8) + old("much", on=["node-0"], gpus=6, left=None)
    made += old("little", on=["node-1"], gpus=3, left=None)
    return (
        made + gang("large", gpus=8, created_ms=NOW_MS - 60 * MINUTE) + gang("small", pods=3, gpus=2, created_ms=NOW_MS)
    )


def test_who_has_waited_for_long_keeps_what_is_free_where_the_least_is_missing():
    made = two_nodes_without_ends() + limited(gang("tiny", gpus=1, created_ms=NOW_MS), 1)
    decided = decide(made.under(reserve_after_seconds=3600))
    assert placed(decided) == {"tiny"}
    assert {placement.node for placement in decided.placements} == {"node-0"}
    assert told(decided, "large").starts_at_ms is None
    assert (
        "What is free on 1 node is kept for it until that is enough, or until 2026-01-01T01:00:00.000Z."
        in why(decided, "large").message
    )
    assert why(decided, "small").kept_for == "default/large"
    assert (
        "is reserved for default/large until 2026-01-01T01:00:00.000Z at the latest." in why(decided, "small").message
    )


def test_not_before_it_has_waited_so_long():
    decided = decide(two_nodes_without_ends().under(reserve_after_seconds=3601))
    assert placed(decided) == {"small"}
    assert decided.again_ms == NOW_MS + 1000


def test_others_get_a_turn_too_where_those_never_end_whom_it_waits_for():
    """It keeps what is free for as long as it has waited; then others come for twice that; and so on."""
    keeping = []
    for hours in range(1, 17):
        made = cluster(nodes=1, gpus=8) + old("service", on=["node-0"], gpus=6, left=None)
        made += gang("large", gpus=8, created_ms=NOW_MS - hours * 60 * MINUTE) + gang(
            "small", gpus=2, created_ms=NOW_MS
        )
        decided = decide(made.under(reserve_after_seconds=2 * 3600))
        keeping.append(placed(decided) == set())
        turns = [each for each in (2, 4, 8, 16, 32) if each > hours]
        left = min(turns[0] - hours, 2 if keeping[-1] else 32)
        assert decided.again_ms == NOW_MS + left * 60 * MINUTE, "whose turn it may be next"
    assert "".join(".#"[each] for each in keeping) == ".##....########."


def test_a_gang_that_its_queue_keeps_waiting_does_not_take_the_turn_of_the_next():
    made = cluster(nodes=1, gpus=8) + queue("red", limit=12) + old("old", on=["node-0"], gpus=2, left=None)
    made += gang("over", pods=2, gpus=8, queue="red", created_ms=1)
    made += gang("large", gpus=8, queue="red", created_ms=NOW_MS - 60 * MINUTE)
    made += gang("small", gpus=2, queue="red", created_ms=NOW_MS)
    decided = decide(made.under(reserve_after_seconds=3600))
    assert placed(decided) == set()
    assert why(decided, "small").kept_for == "default/large"


# --- a steady stream of small gangs against a large one ---------------------------------------------------------------

ROUND = 10_000
NODES, GPUS = 4, 8


def a_steady_stream(rounds: int, **choices: Any) -> tuple[list[int | None], int | None, list[int]]:
    """Small gangs keep four nodes nearly full, each for up to two minutes; in the third minute one comes that needs all
    of them. By round: the time that it is told; in which it starts; and how many GPUs are in use."""
    made = cluster(nodes=NODES, gpus=GPUS).under(**choices)
    times, used, number = [], [], 0
    for turn in range(rounds):
        now = NOW_MS + turn * ROUND
        stay = [
            each
            for each in made.gangs
            if not (start := each.pods[0].started_ms) or now < start + (each.max_runtime_ms or 0)
        ]
        made = replace(
            made, now_ms=now, gangs=tuple(stay), pods=tuple(pod for each in stay for pod in each.pods if pod.node)
        )
        for _ in range(5):
            made += limited(gang(f"small-{number:04d}", gpus=1, created_ms=now), (2, 1, 0.5, 0.25)[number % 4])
            number += 1
        if turn == 18:
            made += limited(gang("large", pods=NODES, gpus=GPUS, created_ms=now), 10)
        decided = decide(made)
        large = [each for each in decided.gangs if each.gang == "default/large"]
        times.append(large[0].starts_at_ms if large else None)
        made = carried_out(made, decided)
        gangs = tuple(
            replace(each, pods=tuple(replace(p, started_ms=p.started_ms or now) if p.node else p for p in each.pods))
            for each in made.gangs
        )
        made = replace(made, gangs=gangs, pods=tuple(pod for each in gangs for pod in each.pods if pod.node))
        used.append(sum(pod.requests["nvidia.com/gpu"] for pod in made.pods))
        if "large" in placed(decided):
            return times, turn, used
    return times, None, used


def test_a_steady_stream_of_small_gangs_starves_a_large_one_without_reservations():
    assert a_steady_stream(60, reservations=0)[1] is None


def test_with_reservations_it_starts_by_the_time_it_was_first_told_and_the_gpus_are_used_until_then():
    times, started, used = a_steady_stream(60)
    assert started is not None
    first = times[18]
    assert first is not None
    known = [at for at in times[18:started] if at is not None]
    assert known == sorted(known, reverse=True), "it never moves later"
    assert NOW_MS + started * ROUND <= first
    waited = used[18:started]
    assert sum(waited) / (len(waited) * NODES * GPUS) > 0.5, "who is brief enough goes on to start"
