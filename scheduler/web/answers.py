"""One cycle as JSON documents: the lists of the debug API. Every list is sorted by the key it is paged by."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from queues.resources import Resources
from queues.tree import WHOLE
from queues.usage import as_quantities
from scheduler.explain.events import rfc3339
from scheduler.explain.history import CycleRecord, DecisionRecord
from scheduler.explain.why import GangReport
from scheduler.model.nodes import Node
from scheduler.model.plan import QueueReport, SolverReport
from scheduler.model.plan_document import amounts, details
from scheduler.model.reasons import Reason
from scheduler.model.workloads import Gang, Pod
from scheduler.web.ownership import Held, Ownership, plain_attributes
from scheduler.web.view import View

Document = dict[str, Any]


class Answers:
    """What one View answers. Made of what is asked for, when it is asked for; any thread may ask."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._reports = {report.gang: report for report in view.reports.gangs}
        self._nodes = {node.name: node for node in view.snapshot.nodes}

    @cached_property
    def queues(self) -> list[Document]:
        configured = {queue.name: queue for queue in self.view.snapshot.queues}
        parents = {report.parent for report in self.view.plan.queues}
        found = []
        for report in sorted(self.view.plan.queues, key=lambda report: report.name):
            queue = configured.get(report.name)
            weights = {name: rule.weight for name, rule in sorted(queue.resources.items())} if queue else {}
            document = _queue(report, leaf=report.name not in parents)
            document["priority"] = queue.priority if queue else 100
            document["overQuotaWeight"] = weights
            found.append(document)
        return found

    @cached_property
    def gangs(self) -> list[Document]:
        return [_gang(self._reports[key]) for key in sorted(self._reports)]

    def gangs_like(self, wanted: Mapping[str, str]) -> list[Document]:
        """The gangs of which all of this holds: namespace, name, queue, verdict, code of the reason, pod (the name of
        one of theirs). "" holds of every gang."""
        wanted = {field: value for field, value in wanted.items() if value}
        pod, code = wanted.pop("pod", ""), wanted.pop("code", "")
        return [
            each
            for each in self.gangs
            if all(each[field] == value for field, value in wanted.items())
            and (not code or (each["reason"] is not None and each["reason"]["code"] == code))
            and (not pod or pod in self._pod_names.get(gang_key(each), ()))
        ]

    def gang(self, key: str) -> Document | None:
        """Everything about one gang: the list's document, its pods with their devices, what was decided before."""
        report = self._reports.get(key)
        if report is None:
            return None
        gang = next((gang for gang in self.view.snapshot.gangs if gang.key == key), None)
        past = [decision_document(each) for each in self.view.decisions if each.gang == key]
        return {**_gang(report), **self._members(gang, report), "decisions": past}

    @cached_property
    def nodes(self) -> list[Document]:
        used: dict[str, dict[str, int]] = {}
        pods: dict[str, int] = {}
        for pod in self.view.snapshot.pods:
            pods[pod.node] = pods.get(pod.node, 0) + 1
            sums = used.setdefault(pod.node, {})
            for name, amount in pod.requests.amounts.items():
                sums[name] = sums.get(name, 0) + amount
        return [
            _node(self._nodes[name], Resources(used.get(name, {})), pods.get(name, 0)) for name in sorted(self._nodes)
        ]

    @cached_property
    def devices(self) -> list[Document]:
        found = [document for name in sorted(self._nodes) for document in self.devices_on(name)]
        return sorted(found, key=device_key)

    def devices_on(self, node: str) -> list[Document]:
        """The devices that one node can use; none for a node that is not there."""
        there = self._nodes.get(node)
        return [] if there is None else [_device(held, node) for held in self.ownership.on(there)]

    @cached_property
    def ownership(self) -> Ownership:
        return Ownership(self.view.snapshot)

    @cached_property
    def cycles(self) -> list[Document]:
        return [_cycle(record) for record in self.view.cycles]

    @cached_property
    def decisions(self) -> list[Document]:
        return [decision_document(record) for record in self.view.decisions]

    @cached_property
    def set_aside(self) -> list[Document]:
        return [
            {"object": each.object, "uid": each.uid, "reason": reason_document(each.reason)}
            for each in sorted(self.view.reports.set_aside, key=lambda each: each.object)
        ]

    @cached_property
    def _pod_names(self) -> Mapping[str, frozenset[str]]:
        return {gang.key: frozenset(pod.name for pod in gang.pods) for gang in self.view.snapshot.gangs}

    def _members(self, gang: Gang | None, report: GangReport) -> Document:
        placed = {pod.key: pod.node for pod in report.placements}
        pods = gang.pods if gang is not None else ()
        return {"pods": [self._pod(pod, placed.get(pod.key, "")) for pod in sorted(pods, key=lambda pod: pod.key)]}

    def _pod(self, pod: Pod, placed_on: str) -> Document:
        return {
            "name": pod.name,
            "phase": pod.phase,
            "node": pod.node or None,
            "placedOn": placed_on or None,
            "gated": pod.gated,
            "terminating": pod.terminating,
            "subGroup": pod.sub_group or None,
            "requests": {name: pod.requests[name] for name in pod.requests},
            "claims": [{"name": claim.name, **self._claim(claim.claim)} for claim in pod.claims if claim.needed],
        }

    def _claim(self, key: str | None) -> Document:
        claim = self.view.snapshot.claims.get(key or "")
        results = claim.allocation.devices.results if claim is not None and claim.allocation is not None else ()
        return {
            "claim": key,
            "devices": [
                {"driver": result.driver, "pool": result.pool, "device": result.device} for result in results or ()
            ],
        }


def gang_key(document: Mapping[str, Any]) -> str:
    return f"{document['namespace']}/{document['name']}"


def device_key(document: Mapping[str, Any]) -> str:
    """Ends in the node: a device that several nodes can use is listed for each."""
    return f"{document['node']}/{document['driver']}/{document['pool']}/{document['device']}"


def name_key(document: Mapping[str, Any]) -> str:
    return str(document["name"])


def reason_document(reason: Reason | None) -> Document | None:
    """A reason with its parts, as every answer shows it."""
    if reason is None:
        return None
    return {"code": reason.code, "message": reason.message, "cure": reason.cure, "details": details(reason)}


def decision_document(record: DecisionRecord) -> Document:
    return {
        "cycle": record.cycle,
        "at": rfc3339(record.at_ms),
        "gang": record.gang,
        "queue": record.queue,
        "verdict": record.verdict.value,
        "code": record.code or None,
        "message": record.message or None,
        "cure": record.cure or None,
        "nodes": list(record.nodes),
    }


def _queue(report: QueueReport, *, leaf: bool) -> Document:
    whole = sorted(name for name in report.quota if report.quota[name] >= WHOLE)
    quota = Resources({name: report.quota[name] for name in report.quota if name not in whole})
    return {
        "name": report.name,
        "parent": report.parent,
        "leaf": leaf,
        "quota": {**amounts(quota), **dict.fromkeys(whole, "all")},
        "limit": {**dict.fromkeys(sorted(report.limit), "0"), **amounts(Resources(report.limit))},
        "fairShare": amounts(report.fair_share),
        "allocated": amounts(report.allocated),
        "requested": amounts(report.requested),
        "running": report.running,
        "pending": report.pending,
        "usage": None if report.past is None else as_quantities(report.past),
        "problem": reason_document(report.problem),
    }


def _gang(report: GangReport) -> Document:
    namespace, _, name = report.gang.partition("/")
    return {
        "namespace": namespace,
        "name": name,
        "owner": report.owner,
        "queue": report.queue or None,
        "verdict": report.verdict.value,
        "reason": reason_document(report.reason),
        "remedy": report.reason.cure if report.reason is not None else None,
        "missing": amounts(report.missing),
        "startsAt": rfc3339(report.starts_at_ms) if report.starts_at_ms is not None else None,
        "belowSince": rfc3339(report.below_since_ms) if report.below_since_ms is not None else None,
        "endsAt": rfc3339(report.ends_at_ms) if report.ends_at_ms is not None else None,
        "counts": {
            "needed": report.needed,
            "total": report.total,
            "pending": report.pending,
            "bound": report.bound,
            "running": report.running,
        },
        "nodes": list(report.nodes),
        "placementScore": report.score,
        "priority": report.priority,
        "preemptible": report.preemptible,
        "createdAt": rfc3339(report.created_ms),
    }


def _node(node: Node, used: Resources, pods: int) -> Document:
    return {
        "name": node.name,
        "unschedulable": node.unschedulable,
        "taints": [{"key": taint.key, "value": taint.value, "effect": taint.effect} for taint in node.taints],
        "labels": dict(sorted(node.labels.items())),
        "allocatable": _node_amounts(node.allocatable),
        "requested": _node_amounts(used),
        "pods": pods,
    }


def _node_amounts(resources: Resources) -> dict[str, str]:
    """CPU in thousandths, everything else in units or bytes (`scheduler.model.nodes`)."""
    found = amounts(Resources({"cpu": resources["cpu"]}))
    rest = {name: resources[name] for name in resources if name != "cpu"}
    for name, value in rest.items():
        found[name] = amounts(Resources({"memory": value})).get("memory", "0") if _is_bytes(name) else str(value)
    return found


def _is_bytes(name: str) -> bool:
    return name in ("memory", "ephemeral-storage") or name.startswith("hugepages-")


def _device(held: Held, node: str) -> Document:
    driver, pool, name = held.device.id
    return {
        "node": node,
        "driver": driver,
        "pool": pool,
        "device": name,
        "board": held.board,
        "gpu": amounts(Resources({"gpu": held.weight})).get("gpu", "0"),
        "state": held.state.value,
        "holders": [
            {"claim": each.claim, "queue": each.queue or None, "gang": each.gang or None, "pods": list(each.pods)}
            for each in held.holders
        ],
        "taints": [{"key": taint.key, "effect": taint.effect} for taint in held.device.taints],
        "attributes": dict(plain_attributes(held.device)),
    }


def _cycle(record: CycleRecord) -> Document:
    return {
        "number": record.number,
        "at": rfc3339(record.at_ms),
        "atMs": record.at_ms,
        "seconds": {step: round(spent, 6) for step, spent in record.seconds.items()},
        "gangs": dict(record.gangs),
        "placements": record.placements,
        "evictions": record.evictions,
        "solver": _solver(record.solver),
    }


def _solver(report: SolverReport) -> Document:
    return {"status": report.status, "gap": report.gap, "seconds": report.seconds}
