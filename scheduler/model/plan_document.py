"""The Plan as JSON: the contract of `tutti plan -o json` (DESIGN 4). Keys and codes are for ever.

Amounts are Kubernetes quantities: "gpu" and "cpu" of thousandths, "memory" of bytes, "deviceclass/..." of thousandths.
Equal plans give equal documents, down to the order of keys.
"""

import dataclasses
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeAlias

import msgspec

from queues.resources import Resources
from queues.usage import as_quantities
from scheduler.api import quantity
from scheduler.api.meta import Wire
from scheduler.model.plan import ClaimAllocation, Eviction, GangDecision, Placement, Plan, QueueReport, SolverReport
from scheduler.model.reasons import Reason
from scheduler.model.snapshot import SetAside
from scheduler.model.times import rfc3339

Document: TypeAlias = dict[str, Any]


def to_json(plan: Plan) -> Document:
    """The plan as plain values, ready for any JSON writer."""
    return {
        "now": rfc3339(plan.now_ms),
        "placements": [_placement(placement) for placement in plan.placements],
        "evictions": [_eviction(eviction) for eviction in plan.evictions],
        "promises": [{"pod": each.pod, "gang": each.gang, "node": each.node} for each in plan.promises],
        "reserved": [{"pod": each.pod, "gang": each.gang, "node": each.node} for each in plan.reserved],
        "gangs": [_gang(decision) for decision in plan.gangs],
        "queues": [_queue(report) for report in plan.queues],
        "solver": _solver(plan.solver),
        "setAside": [_set_aside(aside) for aside in plan.set_aside],
    }


def _placement(placement: Placement) -> Document:
    document: Document = {
        "pod": placement.pod,
        "gang": placement.gang,
        "node": placement.node,
        "claims": [_claim(claim) for claim in placement.claims],
    }
    if placement.volumes:
        document["volumes"] = [{"claim": each.claim, "volume": each.volume or None} for each in placement.volumes]
    return document


def _claim(claim: ClaimAllocation) -> Document:
    document: Document = {"name": claim.name, "claim": claim.claim}
    document["allocation"] = _plain(claim.allocation)
    if claim.make is not None:
        document["make"] = _plain(claim.make)
        document["mappings"] = _plain(claim.mappings)
    return document


def _eviction(eviction: Eviction) -> Document:
    return {
        "pod": eviction.pod,
        "stage": eviction.stage,
        "beneficiary": eviction.beneficiary,
        "cost": quantity.format_thousandths(eviction.cost),
    }


def _gang(decision: GangDecision) -> Document:
    return {
        "name": decision.gang,
        "queue": decision.queue,
        "verdict": decision.verdict.value,
        "reason": _reason(decision.reason),
        "remedy": decision.reason.cure if decision.reason is not None else None,
        "startsAt": None if decision.starts_at_ms is None else rfc3339(decision.starts_at_ms),
        "belowSince": None if decision.below_since_ms is None else rfc3339(decision.below_since_ms),
        "endsAt": None if decision.ends_at_ms is None else rfc3339(decision.ends_at_ms),
        "placed": decision.placed,
        "bound": decision.bound,
        "needed": decision.needed,
        "total": decision.total,
        "solver": None if decision.solver is None else _solver(decision.solver),
    }


def _queue(report: QueueReport) -> Document:
    return {
        "name": report.name,
        "parent": report.parent,
        "quota": amounts(report.quota),
        "limit": {name: amount(name, value) for name, value in sorted(report.limit.items())},
        "fairShare": amounts(report.fair_share),
        "allocated": amounts(report.allocated),
        "requested": amounts(report.requested),
        "running": report.running,
        "pending": report.pending,
        "usage": None if report.past is None else as_quantities(report.past),
        "problem": _reason(report.problem),
    }


def _solver(report: SolverReport) -> Document:
    return {"status": report.status, "gap": report.gap, "seconds": report.seconds}


def _set_aside(aside: SetAside) -> Document:
    return {"object": aside.object, "reason": _reason(aside.reason), "remedy": aside.reason.cure}


def _reason(reason: Reason | None) -> Document | None:
    if reason is None:
        return None
    return {"code": reason.code, "message": reason.message, "details": details(reason)}


def details(reason: Reason) -> Document:
    """The fields of a reason by their camelCase names: numbers stay numbers, in house units."""
    assert dataclasses.is_dataclass(reason)
    return {_camel(field.name): _plain(getattr(reason, field.name)) for field in dataclasses.fields(reason)}


def amounts(resources: Resources) -> Document:
    """Amounts of queue resources as quantities, by name."""
    return {name: amount(name, resources[name]) for name in resources}


def amount(resource: str, value: int) -> str:
    """One amount of a queue resource as a quantity."""
    if resource in ("gpu", "cpu") or resource.startswith("deviceclass/"):
        return quantity.format_thousandths(value)
    return quantity.format_units(value)


def _plain(value: Any) -> Any:
    """Any value of ours as plain JSON values."""
    match value:
        case None | bool() | int() | float() | str():
            return value.value if isinstance(value, Enum) else value
        case Wire():
            # By way of text: what a wire value keeps as it came (opaque parameters) is a value here.
            return msgspec.json.decode(msgspec.json.encode(value))
        case Resources():
            return amounts(value)
        case Mapping():
            return {str(key): _plain(value[key]) for key in sorted(value)}
        case list() | tuple():
            return [_plain(each) for each in value]
        case _ if dataclasses.is_dataclass(value):
            return {_camel(field.name): _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        case _:
            raise TypeError(f"{type(value).__name__} has no form in JSON")


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
