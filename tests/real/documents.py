"""Objects to hold two API servers against each other with: what examples and simulated machines have, and odd ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from scheduler.devcluster.shapes import DEVICE_CLASSES, SHAPES

Document = dict[str, Any]

DEPLOY = Path(__file__).parents[2] / "deploy"
_DRA, _OURS = "resource.k8s.io/v1", "tutti.scheduler/v1alpha1"
_POOL = {"name": "n", "generation": 1, "resourceSliceCount": 1}
_COUNTER = {"m": {"value": "1"}}
_COUNTERS = [{"name": "s", "counters": _COUNTER}]
_CONTAINER = {"name": "m", "image": "i"}
_MEMORY = {"memory": {"value": "80Gi"}}
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def documents() -> Iterator[Document]:
    """All of them, each under a name of its own; what has a namespace is in "default"."""
    for path in sorted(DEPLOY.glob("examples/*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document and document["kind"] != "Namespace":
                document["metadata"].pop("namespace", None)
                yield _another(document)
    for shape in SHAPES.values():
        machine = next(shape.machines(1))
        yield from (machine.node, *machine.slices)
    yield from map(_another, DEVICE_CLASSES)
    for number, (api_version, kind, fields) in enumerate(_ODD):
        meta = {"name": f"odd-{number}", **fields.get("metadata", {})}
        yield {"apiVersion": api_version, "kind": kind, **fields, "metadata": meta}


def _another(document: Document) -> Document:
    """Under another name: the first may be there."""
    return {**document, "metadata": {**document["metadata"], "name": f"{document['metadata']['name']}-x"}}


def _claim(**exactly: Any) -> tuple[str, str, Document]:
    return _claims({"name": "g", "exactly": {"deviceClassName": "c", **exactly}})


def _claims(*requests: Document, **devices: Any) -> tuple[str, str, Document]:
    return (_DRA, "ResourceClaim", {"spec": {"devices": {"requests": list(requests), **devices}}})


def _slice(*devices: Document, **spec: Any) -> tuple[str, str, Document]:
    listed = {"devices": list(devices)} if devices else {}
    return (_DRA, "ResourceSlice", {"spec": {"driver": "d.x", "pool": _POOL, "nodeName": "n1", **listed, **spec}})


def _pod(container: Document | None = None, meta: Document | None = None, **spec: Any) -> tuple[str, str, Document]:
    return (
        "v1",
        "Pod",
        {"metadata": meta or {}, "spec": {"containers": [{**_CONTAINER, **(container or {})}], **spec}},
    )


def _resources(**resources: Any) -> tuple[str, str, Document]:
    return _pod({"resources": resources})


def _job(pod: Document | None = None, **spec: Any) -> tuple[str, str, Document]:
    template = {"spec": {"restartPolicy": "Never", "containers": [_CONTAINER], **(pod or {})}}
    return ("batch/v1", "Job", {"spec": {"template": template, **spec}})


def _ours(kind: str, **spec: Any) -> tuple[str, str, Document]:
    return (_OURS, kind, {"spec": spec})


_ONE = {"name": "g", "exactly": {"deviceClassName": "c"}}
_ODD: tuple[tuple[str, str, Document], ...] = (
    # claims
    _claim(),
    _claim(count=0),
    _claim(count=-1),
    _claim(count=100),
    _claim(allocationMode="All"),
    _claim(allocationMode="All", count=2),
    _claim(allocationMode="Some"),
    _claim(selectors=[{"cel": {"expression": "device.driver == 'x'"}}]),
    _claim(adminAccess=True),
    _claim(tolerations=[{"operator": "Exists"}]),
    _claim(tolerations=[{"key": "a"}]),
    _claim(tolerations=[{"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule"}]),
    _claim(capacity={"requests": {"memory": "1Gi"}}),
    _claims({"name": "g", "firstAvailable": [{"name": "a", "deviceClassName": "c"}]}),
    _claims({"name": "g", "firstAvailable": [{"name": "a", "deviceClassName": "c"}] * 2}),
    _claims({"name": "g", "firstAvailable": [{"name": "a", "deviceClassName": "c"}] * 9}),
    _claims(_ONE, _ONE),
    _claims(*({**_ONE, "name": f"r{number}"} for number in range(33))),
    _claims(_ONE, constraints=[{}]),
    _claims({**_ONE, "name": "G_"}),
    _claims({"name": "g"}),
    _claims(_ONE, constraints=[{"requests": ["x"], "matchAttribute": "a/b"}]),
    _claims(_ONE, constraints=[{"matchAttribute": "b"}]),
    _claims(_ONE, constraints=[{"distinctAttribute": "a/b"}]),
    _claims(_ONE, config=[{"opaque": {"driver": "d", "parameters": {"a": 1}}}]),
    # classes and slices
    (_DRA, "DeviceClass", {"spec": {}}),
    (_DRA, "DeviceClass", {"spec": {"extendedResourceName": "nvidia.com/gpu"}}),
    (_DRA, "DeviceClass", {"spec": {"extendedResourceName": "gpu"}}),
    _slice({"name": "a"}),
    _slice({"name": "a"}, {"name": "a"}),
    _slice({"name": "A"}),
    _slice({"name": "a", "attributes": {"x": {"string": "s"}}}),
    _slice({"name": "a", "attributes": {"x": {"string": "s", "int": 1}}}),
    _slice({"name": "a", "attributes": {"x": {"version": "1"}}}),
    _slice({"name": "a", "capacity": _MEMORY}),
    _slice({"name": "a", "capacity": _MEMORY}, allNodes=True),
    _slice(pool={**_POOL, "resourceSliceCount": 0}),
    _slice(*({"name": f"d{number}"} for number in range(129))),
    _slice({"name": "a", "consumesCounters": [{"counterSet": "s", "counters": _COUNTER}]}),
    _slice(sharedCounters=_COUNTERS),
    _slice({"name": "a"}, sharedCounters=_COUNTERS),
    _slice({"name": "a", "taints": [{"key": "k", "effect": "NoSchedule"}]}),
    _slice({"name": "a", "taints": [{"key": "k"}]}),
    _slice({"name": "a", "bindingConditions": ["x"]}),
    _slice({"name": "a", "nodeName": "n1"}),
    # pods
    _pod(),
    _resources(requests={"cpu": "-1"}),
    _resources(requests={"cpu": "2"}, limits={"cpu": "1"}),
    _resources(requests={"cpu": "0.5", "memory": "1024Mi"}),
    _resources(requests={"nvidia.com/gpu": "1"}),
    _resources(limits={"nvidia.com/gpu": "1500m"}),
    _resources(limits={"nvidia.com/gpu": "1"}),
    _resources(requests={"foo": "1"}),
    _resources(claims=[{"name": "x"}]),
    _pod(resourceClaims=[{"name": "x"}]),
    _pod(resourceClaims=[{"name": "x", "resourceClaimName": "a", "resourceClaimTemplateName": "b"}]),
    _pod(resourceClaims=[{"name": "x", "resourceClaimName": "a"}, {"name": "x", "resourceClaimName": "a"}]),
    _pod({"resources": {"claims": [{"name": "x"}]}}, resourceClaims=[{"name": "x", "resourceClaimName": "a"}]),
    _pod(priorityClassName="nope"),
    _pod(priority=5),
    _pod(priorityClassName="system-node-critical"),
    _pod(meta={"name": "Bad_Name"}),
    _pod(meta={"labels": {"a b": "c"}}),
    _pod(nodeName="n1"),
    _pod(restartPolicy="x"),
    _pod(schedulingGates=[{"name": "a/b"}]),
    _pod(nodeName="n1", schedulingGates=[{"name": "a"}]),
    _pod({"ports": [{"containerPort": 80}]}, hostNetwork=True),
    _pod(topologySpreadConstraints=[{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]),
    _pod(topologySpreadConstraints=[{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]),
    _pod(topologySpreadConstraints=[{"maxSkew": 1, "whenUnsatisfiable": "Never"}]),
    _pod(tolerations=[{"key": "a", "operator": "Exists", "value": "b"}]),
    _pod(affinity={"nodeAffinity": {_REQUIRED: {"nodeSelectorTerms": []}}}),
    _pod(affinity={"podAntiAffinity": {_REQUIRED: [{"topologyKey": ""}]}}),
    _pod(resources={"requests": {"cpu": "1"}}),
    _pod(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "p"}}]),
    _pod(initContainers=[{"name": "s", "image": "i", "restartPolicy": "Always"}]),
    _pod(containers=[]),
    _pod(activeDeadlineSeconds=0),
    # what makes pods
    _job(),
    _job(parallelism=-1),
    _job(completions=4, completionMode="Indexed"),
    _job(completionMode="Indexed"),
    _job({"restartPolicy": "Always"}),
    _job(suspend=True),
    _job(selector={"matchLabels": {"a": "b"}}),
    _job(backoffLimit=-1),
    _job(completionMode="x"),
    # ours
    ("scheduling.k8s.io/v1", "PriorityClass", {"value": 10}),
    ("scheduling.k8s.io/v1", "PriorityClass", {"value": 2_000_000_000}),
    ("scheduling.k8s.io/v1", "PriorityClass", {"value": 10, "preemptionPolicy": "x"}),
    _ours("Queue"),
    _ours("Queue", priority="x"),
    _ours("Queue", nope=1),
    _ours("Queue", resources={"gpu": {"quota": 1}}),
    _ours("Queue", resources={"gpu": {"quota": 1.5}}),
    _ours("Queue", resources={"memory": {"quota": "64Gi"}}),
    (_OURS, "Queue", {}),
    _ours("PodGroup"),
    _ours("PodGroup", minMember=0),
    _ours("PodGroup", minMember=2, queue="q"),
    _ours("PodGroup", minMember=2, preemptibility="x"),
    _ours("PodGroup", minMember=2, maxRuntime="1h"),
    _ours("PodGroup", minMember=2, maxRuntime="x"),
    _ours("Topology", levels=[]),
    _ours("Topology", levels=[{"key": "a"}]),
    _ours("Topology", levels=[{"key": "a"}, {"key": "a"}]),
    ("policy/v1", "PodDisruptionBudget", {"spec": {"minAvailable": 1, "maxUnavailable": 1}}),
    ("policy/v1", "PodDisruptionBudget", {"spec": {"minAvailable": "50%", "selector": {"matchLabels": {"a": "b"}}}}),
    ("coordination.k8s.io/v1", "Lease", {"spec": {"holderIdentity": "a", "leaseDurationSeconds": 15}}),
    ("v1", "ConfigMap", {"data": {"a": "b"}}),
    ("v1", "ServiceAccount", {}),
    ("v1", "Namespace", {}),
    ("v1", "Namespace", {"metadata": {"name": "A"}}),
)
