"""PodDisruptionBudgets as the snapshot has them, and the health and departure of pods that they depend on."""

from typing import Any

import pytest

from scheduler.api.changes import listed
from scheduler.api.kinds import DISRUPTION_BUDGET
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.state.cluster import ClusterState
from scheduler.state.recording import dump, load
from scheduler.state.translate import snapshot
from tests.manifests import Document, change, disruption_budget, merged, pod, queue, state

POLICY = Policy()


def seen(*documents: Document) -> Snapshot:
    return snapshot(state(*documents), now_ms=0, policy=POLICY)


def has(condition: str, **fields: Any) -> Document:
    return {"status": {"conditions": [{"type": condition, "status": "True", **fields}]}}


def test_a_budget_allows_what_its_status_says_to_the_pods_that_it_selects():
    (found,) = seen(disruption_budget("b", allowed=2, healthy=3, app="web")).budgets
    assert (found.key, found.allowed, found.desired, found.unhealthy_go) == ("a/b", 2, 3, False)
    web, other, elsewhere = seen(
        pod("p", node="n", labels={"app": "web"}),
        pod("q", node="n"),
        pod("p", "elsewhere", node="n", labels={"app": "web"}),
    ).pods
    assert [found.covers(each) for each in (web, other, elsewhere)] == [True, False, False]


def test_a_status_that_is_older_than_the_budget_allows_nothing():
    (found,) = seen(disruption_budget("b", allowed=2, generation=4, observed=3)).budgets
    assert found.allowed == 0
    (found,) = seen(disruption_budget("b", allowed=2, generation=4, observed=4)).budgets
    assert found.allowed == 2
    without = {key: value for key, value in disruption_budget("b").items() if key != "status"}
    (found,) = seen(without).budgets
    assert found.allowed == 0, "nobody has counted yet"


def test_an_empty_selector_covers_the_namespace_and_no_selector_nobody():
    budget = disruption_budget("b", allowed=1)
    (found,) = seen(merged(budget, spec={"selector": {}})).budgets
    assert found.covers(seen(pod("any", node="n")).pods[0])
    assert seen({**budget, "spec": {"minAvailable": 1}}).budgets == ()


def test_who_is_about_to_leave_by_the_servers_word_and_who_may_always_go_is_told():
    made = disruption_budget("b", allowed=1, spec={"unhealthyPodEvictionPolicy": "AlwaysAllow"})
    (found,) = seen(merged(made, status={"disruptedPods": {"p": "2026-01-01T00:00:00Z"}})).budgets
    assert (found.disrupted, found.unhealthy_go) == (("a/p",), True)


@pytest.mark.parametrize(
    ("conditions", "deletion", "expected"),
    [
        ({}, False, (False, False)),
        (has("Ready"), False, (True, False)),
        (has("DisruptionTarget", reason="EvictionByEvictionAPI"), False, (False, False)),
        (has("DisruptionTarget", reason="EvictionByEvictionAPI"), True, (False, True)),
        ({}, True, (False, False)),
    ],
)
def test_pods_are_ready_and_are_evicted_or_merely_deleted(
    conditions: Document, deletion: bool, expected: tuple[bool, bool]
):
    (found,) = seen(merged(pod("p", node="n", terminating=deletion), **conditions)).pods
    assert (found.ready, found.evicted) == expected


def test_an_eviction_of_ours_counts_before_the_watch_tells_it():
    known = state(pod("p", node="n"))
    known.assume_terminating("a/p", "uid-a-p")
    (found,) = snapshot(known, now_ms=0, policy=POLICY).pods
    assert (found.terminating, found.evicted) == (True, True)


def test_that_a_pod_became_ready_is_told_by_the_next_snapshot_and_is_no_cause_for_one():
    known = state(pod("p", node="n", version="1"))
    assert not snapshot(known, now_ms=0, policy=POLICY).pods[0].ready
    version = known.version
    known.apply(change(merged(pod("p", node="n", version="2"), **has("Ready"))))
    assert known.version == version
    assert snapshot(known, now_ms=0, policy=POLICY).pods[0].ready


def test_what_a_budget_allows_is_a_cause_for_a_new_plan_and_its_conditions_are_not():
    known = state(disruption_budget("b", allowed=0))
    version = known.version
    known.apply(change(merged(disruption_budget("b", allowed=0), **has("DisruptionAllowed"))))
    assert known.version == version
    known.apply(change(disruption_budget("b", allowed=1)))
    assert known.version > version


def test_budgets_survive_recording():
    known = state(
        disruption_budget("b", allowed=2, healthy=3, app="web"),
        merged(pod("p", node="n", labels={"app": "web"}), **has("Ready")),
        queue("q", maxConcurrentEvictions=3),
    )
    known.assume_terminating("a/p", "uid-a-p")
    found = load(dump(known, now_ms=5, policy=POLICY)).snapshot()
    assert found == snapshot(known, now_ms=5, policy=POLICY)
    assert found.budgets[0].allowed == 2
    assert found.pods[0].evicted
    assert [each.max_concurrent_evictions for each in found.queues] == [3]


def test_a_budget_that_cannot_be_read_is_set_aside_and_the_rest_goes_on():
    broken = merged(disruption_budget("b"), status={"disruptionsAllowed": "two"})
    found = seen(broken, disruption_budget("c", allowed=1))
    assert [each.object for each in found.set_aside] == ["PodDisruptionBudget/a/b"]
    assert [each.key for each in found.budgets] == ["a/c"]


def test_without_the_right_to_read_them_there_are_none():
    known = ClusterState()
    known.apply(listed(DISRUPTION_BUDGET))
    assert snapshot(known, now_ms=0, policy=POLICY).budgets == ()
