"""What the status of each kind says, without times: one pure function per kind and dialect.

Values are compared with what was said last; times are added when something is said (`scheduler.explain.status`).
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from queues.reasons import LimitBelowQuota
from queues.tree import WHOLE
from queues.usage import as_quantities
from queues.words import counted
from scheduler.api import kinds, quantity
from scheduler.api.crds import BELOW_MINIMUM
from scheduler.api.kinds import Kind
from scheduler.explain.events import rfc3339
from scheduler.explain.why import GangReport, sentence
from scheduler.model.plan import QueueReport
from scheduler.model.plan_document import amounts
from scheduler.model.reasons import Reason

Said = dict[str, Any]

KAI_NODE_POOL = "default"
_USAGE = ("usage", "usageAt")
_NOTABLE = Fraction(1, 1000)

_NOTHING_AHEAD: Said = {"startsAt": None, "endsAt": None, "reason": None}


def condition(type_: str, status: bool, reason: str, message: str) -> Said:
    return {"type": type_, "status": "True" if status else "False", "reason": reason, "message": message}


def pod_group(report: GangReport) -> Said:
    """Our PodGroup."""
    said: Said = {
        "needed": report.needed,
        "pending": report.pending,
        "bound": report.bound,
        "running": report.running,
        "nodes": len(report.nodes) if report.bound else 0,
        "startsAt": rfc3339(report.starts_at_ms) if report.starts_at_ms is not None else None,
        "endsAt": rfc3339(report.ends_at_ms) if report.ends_at_ms is not None else None,
        "reason": _reason(report),
        "conditions": [_scheduled(report), *_below(report)],
    }
    if report.score is not None or not report.bound:
        said["placementScore"] = report.score
    return said


def pod_group_without_pods() -> Said:
    """Our PodGroup, when there is nothing to decide about."""
    text = "No pod that waits or runs names this PodGroup: none has been created yet, or all have ended."
    counts: Said = dict.fromkeys(("pending", "bound", "running", "nodes"), 0)
    return {**counts, **_NOTHING_AHEAD, "conditions": [condition("Scheduled", False, "NoPods", text)]}


def kai_pod_group(report: GangReport) -> Said:
    """KAI's PodGroup: one scheduling condition while nothing of the gang is placed, none otherwise."""
    if report.reason is None or report.bound:
        return {"schedulingConditions": []}
    text = sentence(report.reason)
    return {
        "schedulingConditions": [
            {
                "type": "UnschedulableOnNodePool",
                "nodePool": KAI_NODE_POOL,
                "status": "True",
                "reason": report.reason.code,
                "message": text,
                "reasons": [{"reason": report.reason.code, "message": text}],
            }
        ]
    }


def native_pod_group(report: GangReport) -> Said:
    """PodGroup of scheduling.k8s.io (KEP 4671): once True, its condition stays."""
    if report.scheduled or report.reason is None:
        text = _on_nodes(report)
        return {"conditions": [condition("PodGroupInitiallyScheduled", report.scheduled, "Scheduled", text)]}
    return {
        "conditions": [condition("PodGroupInitiallyScheduled", False, "Unschedulable", sentence(report.reason))],
    }


def refused_pod_group(reason: Reason) -> Said:
    """Our PodGroup, when it cannot be read."""
    return {"conditions": [condition("Scheduled", False, reason.code, f"{reason.message} {reason.cure}")]}


def queue(report: QueueReport) -> Said:
    """Our Queue. Never a position: that changes with every breath and belongs to the debug API."""
    if report.problem is not None:
        return refused_queue(report.problem)
    return {
        "fairShare": amounts(report.fair_share),
        "allocated": amounts(report.allocated),
        "requested": amounts(report.requested),
        "running": report.running,
        "pending": report.pending,
        "usage": as_quantities(report.past) if report.past is not None else None,
        "usageAt": rfc3339(report.past_until_ms) if report.past is not None else None,
        "conditions": [_ready(report)],
    }


def without_usage(said: Mapping[str, Any]) -> Said:
    """What a status says but for past use, which changes all the time."""
    return {field: value for field, value in said.items() if field not in _USAGE}


def usage_moved(known: Mapping[str, Any], said: Mapping[str, Any]) -> bool:
    """Whether past use is told for the first or last time, or has changed by more than a thousandth of the cluster."""
    before, after = known.get("usage"), said.get("usage")
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return before is not after
    if not isinstance(known.get("usageAt"), str) or not all(isinstance(part, str) for part in before.values()):
        return True
    try:
        return any(
            abs(quantity.parse(after.get(name, "0")) - quantity.parse(before.get(name, "0"))) >= _NOTABLE
            for name in {**before, **after}
        )
    except quantity.QuantityError:
        return True


def _ready(report: QueueReport) -> Said:
    """A queue with a limit below its quota takes part, and is told."""
    for resource, limit in sorted(report.limit.items()):
        if limit < report.quota[resource] < WHOLE:
            told = LimitBelowQuota(queue=report.name, resource=resource, quota=report.quota[resource], limit=limit)
            return condition("Ready", True, told.code, f"{told.message} {told.cure}")
    return condition("Ready", True, "Usable", "The queue takes part in every decision.")


def refused_queue(reason: Reason) -> Said:
    """Our Queue, when it cannot be used or read."""
    return {"conditions": [condition("Ready", False, reason.code, f"{reason.message} {reason.cure}")]}


def pod(reason: Reason) -> Said:
    """A pod that waits."""
    return {"conditions": [condition("PodScheduled", False, "Unschedulable", sentence(reason))]}


POD_GROUPS: tuple[tuple[Kind, Callable[[GangReport], Said] | None], ...] = (
    (kinds.POD_GROUP, pod_group),
    (kinds.KAI_POD_GROUP, kai_pod_group),
    (kinds.NATIVE_POD_GROUP, native_pod_group),
    (kinds.COSCHEDULING_POD_GROUP, None),
    (kinds.SEED_POD_GROUP, None),
)
"""The kinds called PodGroup, and what their status says; None: it has no place for a reason, events must do."""


def code_of(said: Mapping[str, Any] | None) -> str:
    """The reason that a status gives, as its code; "" for none."""
    if not said:
        return ""
    if isinstance(said.get("reason"), Mapping):
        return str(said["reason"].get("code", ""))
    for one in (*(said.get("schedulingConditions") or ()), *(said.get("conditions") or ())):
        if one.get("type") == BELOW_MINIMUM:
            continue
        if one.get("reason") == "Unschedulable":
            return str(one.get("message", "")).partition(":")[0]
        if one.get("status") == "False" or one.get("type") == "UnschedulableOnNodePool":
            return str(one.get("reason", ""))
    return ""


def _scheduled(report: GangReport) -> Said:
    if report.scheduled:
        return condition("Scheduled", True, "Placed", _on_nodes(report))
    if report.reason is None:
        text = f"{counted(report.placed, 'pod is', 'pods are')} being placed."
        return condition("Scheduled", False, "BeingPlaced", text)
    return condition("Scheduled", False, report.reason.code, f"{report.reason.message} {report.reason.cure}")


def _below(report: GangReport) -> tuple[Said, ...]:
    """Said of a gang that runs with fewer pods than its minimum."""
    if report.below_since_ms is None:
        return ()
    have = f"{counted(report.bound, 'pod runs', 'pods run')}, and {report.needed} must run together"
    if report.ends_at_ms is None:
        then = "It is let run so."
    else:
        then = f"At {rfc3339(report.ends_at_ms)} it is stopped, to start whole again, unless the others find room."
    return (condition(BELOW_MINIMUM, True, "PodsMissing", f"{have}. {then}"),)


def taking_back(said: Said, *shown: Mapping[str, Any]) -> Said:
    """What is said of a PodGroup; of the minimum also that it is there again, once it was said to be missing."""
    if any(each["type"] == BELOW_MINIMUM for each in said["conditions"]):
        return said
    if not any(short_as_shown(status) is not None for status in shown):
        return said
    text = "As many pods run as must run together, or none does."
    return {**said, "conditions": [*said["conditions"], condition(BELOW_MINIMUM, False, "NoneMissing", text)]}


def short_as_shown(status: Mapping[str, Any]) -> bool | None:
    """What a status says of the minimum: that it is missed, or no more; None if nothing. It may hold anything."""
    conditions = status.get("conditions")
    for each in conditions if isinstance(conditions, list | tuple) else ():
        if isinstance(each, Mapping) and each.get("type") == BELOW_MINIMUM:
            return each.get("status") == "True"
    return None


def _on_nodes(report: GangReport) -> str:
    return f"{counted(report.bound, 'pod has', 'pods have')} a node; the minimum to start is {report.needed}."


def _reason(report: GangReport) -> Said | None:
    reason = report.reason
    if reason is None:
        return None
    said = {"code": reason.code, "message": reason.message, "cure": reason.cure}
    return {**said, "missing": amounts(report.missing)} if report.missing else said
