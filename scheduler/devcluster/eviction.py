"""Evictions and PodDisruptionBudgets: how many pods of a budget may go now, counted from the pods themselves.

The count needs no controller, so an eviction is never decided on a stale status. `budget_status` is what a controller
writes to the budget's status for people to read. Source: policy/v1, the disruption controller and pods/eviction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from scheduler.devcluster import errors, kinds
from scheduler.devcluster.errors import StatusError
from scheduler.devcluster.objects import Obj, field_of, with_condition
from scheduler.devcluster.rules import Lookup
from scheduler.devcluster.selectors import object_selector
from scheduler.devcluster.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetStatus:
    """Pods a budget counts: expected by their owners, healthy now, needed healthy, and how many may be disrupted."""

    expected: int
    healthy: int
    desired: int

    @property
    def allowed(self) -> int:
        """Evictions that would pass now."""
        return max(0, self.healthy - self.desired) if self.expected else 0

    def fields(self) -> Obj:
        """As the status of the budget has it."""
        return {
            "currentHealthy": self.healthy,
            "desiredHealthy": self.desired,
            "disruptionsAllowed": self.allowed,
            "expectedPods": self.expected,
        }


def _is_ready(pod: Obj) -> bool:
    conditions = field_of(pod, "status", "conditions") or ()
    return any(entry.get("type") == "Ready" and entry.get("status") == "True" for entry in conditions)


def _is_over(pod: Obj) -> bool:
    return field_of(pod, "status", "phase") in ("Succeeded", "Failed")


def _amount(value: Any, total: int) -> int:
    """A count, or a percentage of `total` rounded up."""
    if isinstance(value, str):
        return math.ceil(int(value.removesuffix("%")) * total / 100)
    return int(value)


def _expected(lookup: Lookup, pods: list[Obj]) -> int:
    """The pods that the owners of these want; pods without an owner that says so count as themselves."""
    scales = {kind.kind: kind for kind in (kinds.REPLICA_SET, kinds.STATEFUL_SET, kinds.JOB)}
    counted: dict[str, int] = {}
    single = 0
    for pod in pods:
        owners = pod["metadata"].get("ownerReferences") or ()
        owner = next((entry for entry in owners if entry.get("controller")), None)
        kind = scales.get(owner["kind"]) if owner else None
        found = lookup.find(kind, pod["metadata"]["namespace"], owner["name"]) if owner and kind else None
        if owner is None or found is None:
            single += 1
            continue
        field = "parallelism" if kind is kinds.JOB else "replicas"
        counted[owner["uid"]] = int(field_of(found, "spec", field) or 0)
    return single + sum(counted.values())


def budget_status(lookup: Lookup, budget: Obj) -> BudgetStatus:
    """The state of a budget, from the pods as they are."""
    namespace, spec = budget["metadata"]["namespace"], budget.get("spec") or {}
    selects = object_selector(spec.get("selector"))
    pods = [
        pod
        for pod in lookup.all(kinds.POD)
        if pod["metadata"]["namespace"] == namespace and selects(pod) and not _is_over(pod)
    ]
    healthy = sum(_is_ready(pod) and not pod["metadata"].get("deletionTimestamp") for pod in pods)
    if spec.get("maxUnavailable") is not None:
        expected = _expected(lookup, pods)
        desired = max(0, expected - _amount(spec["maxUnavailable"], expected))
    else:
        at_least = spec.get("minAvailable", 1)
        expected = _expected(lookup, pods) if isinstance(at_least, str) else len(pods)
        desired = _amount(at_least, expected)
    return BudgetStatus(expected=expected, healthy=healthy, desired=desired)


def _check_budgets(store: Store, pod: Obj) -> None:
    """Raises StatusError 429 when a budget forbids the eviction, 500 when two budgets cover the pod."""
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    if _is_over(pod) or field_of(pod, "status", "phase") == "Pending" or pod["metadata"].get("deletionTimestamp"):
        return
    budgets = [
        budget
        for budget in store.list(kinds.DISRUPTION_BUDGET, namespace)[0]
        if object_selector(field_of(budget, "spec", "selector"))(pod)
    ]
    if len(budgets) > 1:
        text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        raise StatusError(500, "InternalError", text)
    for budget in budgets:
        status = budget_status(store, budget)
        if not _is_ready(pod):
            always = field_of(budget, "spec", "unhealthyPodEvictionPolicy") == "AlwaysAllow"
            if always or (status.healthy >= status.desired > 0):
                continue
        if status.allowed <= 0:
            who = budget["metadata"]["name"]
            text = f"The disruption budget {who} needs {status.desired} healthy pods and has {status.healthy} currently"
            raise StatusError(
                429,
                "TooManyRequests",
                "Cannot evict pod as it would violate the pod's disruption budget.",
                {"name": name, "kind": "pods", "causes": [{"reason": "DisruptionBudget", "message": text}]},
            )


def evict(store: Store, namespace: str, name: str, eviction: Obj, *, dry_run: bool = False) -> None:
    """Delete a pod as an eviction: budgets are respected, and the pod says why it was disrupted.

    Raises StatusError 404, 409 (preconditions), 429 (a budget forbids it now), 500 (two budgets).
    """
    pod = store.get(kinds.POD, namespace, name)
    options = eviction.get("deleteOptions") or {}
    dry_run = dry_run or "All" in (options.get("dryRun") or ())
    preconditions = options.get("preconditions") or {}
    if preconditions.get("uid") not in (None, pod["metadata"]["uid"]):
        uid = pod["metadata"]["uid"]
        text = f"Precondition failed: UID in precondition: {preconditions['uid']}, UID in object meta: {uid}"
        raise errors.conflict(kinds.POD, name, text)
    _check_budgets(store, pod)
    if not dry_run and not pod["metadata"].get("deletionTimestamp"):
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting",
        }
        store.update(kinds.POD, with_condition(pod, condition, store.now()), subresource="status")
    store.delete(
        kinds.POD,
        namespace,
        name,
        uid=pod["metadata"]["uid"],
        grace_seconds=options.get("gracePeriodSeconds"),
        dry_run=dry_run,
    )
