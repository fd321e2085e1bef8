"""Since when gangs run below their minimum: from what is seen, and over restarts from what is written."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from scheduler.model.endings import is_short, overtime_ms, runs, stale_ms, started_ms
from scheduler.model.snapshot import Policy
from scheduler.model.workloads import Gang
from scheduler.state import recording, translate
from scheduler.state.cluster import ClusterState
from tests import manifests
from tests.builders import NOW_MS, gang, gang_of, pod, sub_group

MINUTE = 60_000
THEN = "2026-06-01T00:00:00Z"
THEN_MS = 1_780_272_000_000


def group(**status: Any) -> Mapping[str, Any]:
    made = manifests.pod_group("train", "a", 2)
    return {**made, "metadata": {**made["metadata"], "uid": "g"}, "status": status}


def condition(status: str = "True", since: Any = THEN, type_: str = "BelowMinimum") -> Mapping[str, Any]:
    return {"type": type_, "status": status, "reason": "PodsMissing", "message": "", "lastTransitionTime": since}


def one_of_two(*documents: Mapping[str, Any], started: str = "") -> ClusterState:
    """One pod of the gang runs, and no other is there."""
    (one,) = manifests.pods("p", 1, group="train")
    one["spec"]["nodeName"] = "n1"
    one["status"] = {"phase": "Running", **({"startTime": started} if started else {})}
    return manifests.state(manifests.queue("default"), manifests.node("n1", cpu="4"), one, *(documents or (group(),)))


def since(state: ClusterState, now_ms: int) -> int | None:
    (found,) = translate.snapshot(state, now_ms=now_ms, policy=Policy()).gangs
    return found.below_since_ms


def test_it_counts_from_when_it_was_first_seen():
    state = one_of_two()
    assert since(state, THEN_MS) == THEN_MS
    assert since(state, THEN_MS + MINUTE) == THEN_MS
    assert since(state.fork(), THEN_MS + MINUTE) == THEN_MS, "what would happen if"


def test_when_it_is_whole_again_or_gone_it_is_forgotten():
    state = one_of_two()
    since(state, THEN_MS)
    (second,) = manifests.pods("q", 1, group="train")
    second["spec"]["nodeName"] = "n1"
    state.apply(manifests.change(second))
    assert since(state, THEN_MS + 1000) is None
    state.apply(replace(manifests.change(second), type="DELETED"))
    assert since(state, THEN_MS + 2000) == THEN_MS + 2000


def test_after_a_restart_the_condition_on_the_pod_group_tells():
    assert since(one_of_two(group(conditions=[condition()])), THEN_MS + MINUTE) == THEN_MS


@pytest.mark.parametrize(
    "conditions",
    [
        None,
        "true",
        [condition("False")],
        [condition(since=None)],
        [condition(since="then")],
        [condition(type_="Other")],
    ],
)
def test_a_status_that_does_not_tell_begins_the_grace_anew(conditions: Any):
    assert since(one_of_two(group(conditions=conditions)), THEN_MS + MINUTE) == THEN_MS + MINUTE


def test_what_was_before_its_youngest_pod_started_is_over():
    state = one_of_two(group(conditions=[condition()]), started="2026-06-01T00:00:30Z")
    assert since(state, THEN_MS + MINUTE) == THEN_MS + 30_000
    early = one_of_two(group(), started="2026-06-01T00:10:00Z")
    assert since(early, THEN_MS) == THEN_MS, "clocks differ, and nothing is seen in advance"


def test_a_replay_has_the_same_times():
    state = one_of_two()
    first = translate.snapshot(state, now_ms=THEN_MS, policy=Policy())
    later = recording.load(recording.dump(state, now_ms=THEN_MS + MINUTE, policy=Policy())).snapshot()
    assert later.gangs[0].below_since_ms == first.gangs[0].below_since_ms == THEN_MS


def test_a_namesake_made_since_starts_with_a_grace_of_its_own():
    state = one_of_two()
    since(state, THEN_MS)
    other = group()
    other["metadata"]["uid"] = "h"
    state.apply(manifests.change(other))
    assert since(state, THEN_MS + 1000) == THEN_MS + 1000


# --- what counts ----------------------------------------------------------------------------------------------------


def short(made: Gang) -> bool:
    return is_short(made, {each.key for each in runs(made)})


def gang_with(*on_nodes: bool, **more: Any) -> Gang:
    pods = [pod(f"p{number}", on="n" if there else "") for number, there in enumerate(on_nodes)]
    return gang_of("train", pods, **more).gangs[0]


def test_a_gang_is_short_when_some_of_it_runs_and_too_little():
    assert short(gang_with(True, True, minimum=3))
    assert short(gang_with(True, True, False, minimum=3))
    assert not short(gang_with(True, True, minimum=2))
    assert not short(gang_with(False, False, minimum=2)), "it has not started"
    assert not short(gang_with(True, minimum=2, succeeded=1)), "it is coming to its end"


def test_pods_on_their_way_out_do_not_run():
    made = gang_with(True, True, minimum=2)
    first, second = made.pods
    assert short(replace(made, pods=(replace(first, terminating=True), second)))
    assert not short(replace(made, pods=(replace(first, terminating=True), replace(second, terminating=True))))


def test_a_group_without_a_minimum_needs_all_that_are_there():
    pods = [pod("a", on="n", sub_group="g"), pod("b", sub_group="g")]
    made = gang_of("train", pods, sub_groups=(sub_group("g"),)).gangs[0]
    assert short(made)
    assert not short(replace(made, pods=made.pods[:1]))


def test_when_a_gang_ends_is_counted_from_its_first_pod_and_from_its_fall():
    made = gang("train", pods=2, on=["n", "n"], started_ms=NOW_MS).gangs[0]
    made = replace(made, pods=(replace(made.pods[0], started_ms=NOW_MS - 5), made.pods[1]))
    assert started_ms(made) == NOW_MS - 5
    assert (overtime_ms(made), stale_ms(made)) == (None, None)
    assert overtime_ms(replace(made, max_runtime_ms=MINUTE)) == NOW_MS - 5 + MINUTE
    assert stale_ms(replace(made, below_since_ms=NOW_MS, staleness_grace_ms=MINUTE)) == NOW_MS + MINUTE
    assert stale_ms(replace(made, below_since_ms=NOW_MS, staleness_grace_ms=None)) is None
    waiting = gang("train", pods=1).gangs[0]
    assert overtime_ms(replace(waiting, max_runtime_ms=MINUTE)) is None
