"""Evictions respect disruption budgets, counted from the pods themselves."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.devcluster import kinds
from scheduler.devcluster.eviction import budget_status, evict
from scheduler.devcluster.objects import with_condition, with_field
from scheduler.devcluster.store import Store
from tests.devcluster import NOW, bound, new_store, owned_by, refusal

WEB = {"labels": {"app": "web"}}


def running(store: Store, *names: str, ready: bool = True, **meta: Any) -> None:
    for name in names:
        bound(store, name, meta={**WEB, **meta})
        now = with_field(store.get(kinds.POD, "default", name), ("status", "phase"), "Running")
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        store.update(kinds.POD, with_condition(now, condition, NOW), subresource="status")


def budget(store: Store, name: str = "b", **spec: Any) -> dict[str, Any]:
    selector = {"matchLabels": {"app": "web"}}
    return store.create(kinds.DISRUPTION_BUDGET, {"metadata": {"name": name}, "spec": {"selector": selector, **spec}})


def is_leaving(store: Store, name: str) -> bool:
    return bool(store.get(kinds.POD, "default", name)["metadata"].get("deletionTimestamp"))


def test_an_eviction_is_a_deletion_that_says_why():
    store = new_store()
    running(store, "a")
    evict(store, "default", "a", {})
    conditions = store.get(kinds.POD, "default", "a")["status"]["conditions"]
    assert ("DisruptionTarget", "EvictionByEvictionAPI") in [
        (entry["type"], entry.get("reason")) for entry in conditions
    ]
    assert is_leaving(store, "a")


def test_pods_go_until_the_budget_is_used_up():
    store = new_store()
    running(store, "a", "b", "c")
    budget(store, minAvailable=2)
    evict(store, "default", "a", {})
    with refusal(429, "TooManyRequests") as caught:
        evict(store, "default", "b", {})
    (cause,) = caught.value.details["causes"]
    assert cause["reason"] == "DisruptionBudget"
    assert cause["message"] == "The disruption budget b needs 2 healthy pods and has 2 currently"
    assert not is_leaving(store, "b")


@pytest.mark.parametrize(
    ("spec", "allowed"),
    [
        ({"minAvailable": 4}, 0),
        ({"minAvailable": 3}, 1),
        ({"minAvailable": "50%"}, 2),
        ({"minAvailable": "51%"}, 1),
        ({"maxUnavailable": 1}, 1),
        ({"maxUnavailable": "25%"}, 1),
        ({"maxUnavailable": 0}, 0),
        ({}, 3),
    ],
)
def test_how_many_may_go(spec: dict[str, Any], allowed: int):
    store = new_store()
    running(store, "a", "b", "c", "d")
    assert budget_status(store, budget(store, **spec)).allowed == allowed


def test_the_owners_wish_counts_not_the_pods_that_are_left():
    store = new_store()
    template = {"metadata": WEB, "spec": {"containers": [{"name": "main", "image": "app"}]}}
    spec = {"replicas": 4, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    owner = store.create(kinds.REPLICA_SET, {"metadata": {"name": "rs"}, "spec": spec})
    running(store, "a", "b", **owned_by(owner))
    status = budget_status(store, budget(store, maxUnavailable=1))
    assert (status.expected, status.desired, status.allowed) == (4, 3, 0)


def test_a_pod_that_is_not_ready_may_go_when_enough_others_are():
    store = new_store()
    running(store, "a", "b")
    running(store, "sick", ready=False)
    budget(store, minAvailable=2)
    evict(store, "default", "sick", {})
    with refusal(429, "TooManyRequests"):
        evict(store, "default", "a", {})


def test_a_pod_that_is_not_ready_stays_when_too_few_are_unless_the_policy_lets_it_go():
    store = new_store()
    running(store, "sick", ready=False)
    budget(store, minAvailable=1)
    with refusal(429, "TooManyRequests"):
        evict(store, "default", "sick", {})
    store.delete(kinds.DISRUPTION_BUDGET, "default", "b")
    budget(store, minAvailable=1, unhealthyPodEvictionPolicy="AlwaysAllow")
    evict(store, "default", "sick", {})


def test_two_budgets_for_one_pod_are_an_error():
    store = new_store()
    running(store, "a")
    budget(store, "one", minAvailable=0)
    budget(store, "two", minAvailable=0)
    with refusal(500, "InternalError"):
        evict(store, "default", "a", {})


def test_pods_that_have_not_started_or_have_ended_are_not_protected():
    store = new_store()
    bound(store, "pending", meta=WEB)
    budget(store, minAvailable=1)
    evict(store, "default", "pending", {})
    assert is_leaving(store, "pending")


def test_grace_uid_and_dry_run_of_an_eviction():
    store = new_store()
    running(store, "a")
    evict(store, "default", "a", {}, dry_run=True)
    assert not is_leaving(store, "a")
    with refusal(409, "Conflict"):
        evict(store, "default", "a", {"deleteOptions": {"preconditions": {"uid": "another"}}})
    evict(store, "default", "a", {"deleteOptions": {"gracePeriodSeconds": 3}})
    assert store.get(kinds.POD, "default", "a")["metadata"]["deletionGracePeriodSeconds"] == 3
