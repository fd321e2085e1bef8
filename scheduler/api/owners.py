"""What is read of the owners of pods. The rest is dropped as soon as one is read: templates of pods hold environment
variables and commands, which are to be in no recording, and take memory for nothing.

Every kind of OWNERS is listed, also those of which nothing but labels, annotations and owners is read. What
`scheduler.state` asks for has to be here: a field that is missing is never there. `*` stands for every other name.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from scheduler.api import kinds
from scheduler.api.kinds import Document, Kind

Parts = Mapping[str, "Parts"]
"""The fields that are read, by name, each with those below it; of the entries of a list the same in each."""

_SETTINGS = ("tutti.scheduler/", "kai.scheduler/", "grove.io/")
"""How the annotations of owners begin that say how their pods are to be scheduled."""

_SIZE: Parts = {"parallelism": {}, "completions": {}}
_ROLES: Parts = {"*": {"replicas": {}}}
_LEAST: Parts = {"schedulingPolicy": {"minAvailable": {}}}
_SEGMENTS: Parts = {
    "kai.scheduler/segment-size": {},
    "kai.scheduler/segment-topology-required-placement": {},
    "kai.scheduler/segment-topology-preferred-placement": {},
    "kai.scheduler/topology": {},
}
_CLOSE: Parts = {"packConstraint": {"required": {}, "preferred": {}}}

SPECS: Mapping[Kind, Parts] = {
    kinds.JOB: _SIZE,
    kinds.JOB_SET: {
        "replicatedJobs": {"name": {}, "replicas": {}, "template": {"spec": _SIZE}, "dependsOn": {}},
        "startupPolicy": {"startupPolicyOrder": {}},
    },
    kinds.LEADER_WORKER_SET: {"leaderWorkerTemplate": {"size": {}}, "startupPolicy": {}},
    kinds.TF_JOB: {"tfReplicaSpecs": _ROLES, "runPolicy": _LEAST},
    kinds.XGBOOST_JOB: {"xgbReplicaSpecs": _ROLES, "runPolicy": _LEAST},
    kinds.JAX_JOB: {"jaxReplicaSpecs": _ROLES, "runPolicy": _LEAST},
    kinds.PYTORCH_JOB: {
        "pytorchReplicaSpecs": {
            **_ROLES,
            "Worker": {"replicas": {}, "template": {"metadata": {"annotations": _SEGMENTS}}},
        },
        "runPolicy": _LEAST,
        "elasticPolicy": {"minReplicas": {}},
    },
    kinds.MPI_JOB: {"mpiReplicaSpecs": _ROLES, "runPolicy": _LEAST, "launcherCreationPolicy": {}},
    kinds.RAY_CLUSTER: {
        "workerGroupSpecs": {"groupName": {}, "minReplicas": {}, "replicas": {}, "numOfHosts": {}, "suspend": {}}
    },
    kinds.POD_GANG: {
        "podgroups": {"name": {}, "minReplicas": {}, "podReferences": {"name": {}}, "topologyConstraint": _CLOSE},
        "topologyConstraintGroupConfigs": {"name": {}, "podGroupNames": {}, "topologyConstraint": _CLOSE},
        "topologyConstraint": _CLOSE,
        "priorityClassName": {},
    },
    kinds.NATIVE_WORKLOAD: {"podGroups": {"name": {}, "policy": {"gang": {"minCount": {}}}}},
    kinds.COMPOSITE_POD_GROUP: {
        "parentCompositePodGroupName": {},
        "priority": {},
        "priorityClassName": {},
        "schedulingConstraints": {"topology": {"key": {}}},
        "schedulingPolicy": {"basic": {}, "gang": {"minGroupCount": {}}},
    },
    kinds.REPLICA_SET: {},
    kinds.DEPLOYMENT: {},
    kinds.STATEFUL_SET: {},
    kinds.CRON_JOB: {},
    kinds.NOTEBOOK: {},
    kinds.TRAIN_JOB: {},
    kinds.RAY_JOB: {},
    kinds.RAY_SERVICE: {},
    kinds.KNATIVE_SERVICE: {},
    kinds.KNATIVE_CONFIGURATION: {},
    kinds.KNATIVE_REVISION: {},
    kinds.SELDON_DEPLOYMENT: {},
    kinds.SPARK_APPLICATION: {},
    kinds.WORKFLOW: {},
    kinds.DYNAMO_GRAPH: {},
    kinds.POD_CLIQUE_SET: {},
    kinds.POD_CLIQUE_SCALING_GROUP: {},
    kinds.POD_CLIQUE: {},
}

_CONDITIONS: Parts = {"type": {}, "status": {}}
STATUSES: Mapping[Kind, Parts] = {
    kinds.JOB: {"succeeded": {}, "active": {}, "conditions": _CONDITIONS},
    kinds.TF_JOB: {"conditions": _CONDITIONS},
    kinds.XGBOOST_JOB: {"conditions": _CONDITIONS},
    kinds.JAX_JOB: {"conditions": _CONDITIONS},
    kinds.PYTORCH_JOB: {"conditions": _CONDITIONS},
    kinds.MPI_JOB: {"conditions": _CONDITIONS},
}
"""Whether one runs already, or has ended, is asked where a manifest of it is laid over the cluster."""

_OWNERS = frozenset(kinds.OWNERS)


def is_owner(kind: Kind) -> bool:
    return kind in _OWNERS


def as_read(kind: Kind, document: Document) -> Document:
    """The owner with nothing in it but what is read."""
    meta = document.metadata
    if meta.annotations:
        kept = {name: text for name, text in meta.annotations.items() if name.startswith(_SETTINGS)}
        meta = msgspec.structs.replace(meta, annotations=kept or None)
    spec = _only(document.spec, SPECS.get(kind, {}))
    status = _only(document.status, STATUSES.get(kind, {}))
    return msgspec.structs.replace(document, metadata=meta, spec=spec, status=status)


def _only(value: Any, parts: Parts) -> Any:
    """The fields of a mapping, or of each in a list of mappings, that are read. What is of another form stays a value
    of that form, so that it is refused for the same reason."""
    if isinstance(value, Mapping):
        others = parts.get("*")
        below = {name: parts.get(name, others) for name in value}
        return {name: _only(value[name], read) for name, read in below.items() if read is not None}
    if isinstance(value, list | tuple):
        return [_only(each, parts) for each in value]
    return value
