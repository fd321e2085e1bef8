"""Of the owners of pods only what decisions read is kept: templates, with their environment variables and commands, are
in no state and in no recording, and every decision is as if they were."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from scheduler.api import kinds, owners
from scheduler.api.kinds import Kind
from scheduler.model.snapshot import Policy
from scheduler.state import recording
from scheduler.state.cluster import ClusterState
from scheduler.state.dialects import QUEUE_KINDS, TOPOLOGY_KINDS
from scheduler.state.grouping import JOB_INDEX_LABEL, LWS_GROUP_LABEL, REPLICATED_JOB_LABEL
from scheduler.state.groups import GROUP_KINDS
from scheduler.state.lineage import JOB_SET_LABEL, LWS_LABEL
from scheduler.state.translate import snapshot
from tests.manifests import Document, change, container, kai_queue, meta, pod, pod_group, queue, state, topology

MARK = "hunter2"
POLICY = Policy(default_queue="team")
SETTINGS = {
    "tutti.scheduler/max-runtime": "2h",
    "kai.scheduler/topology": "t",
    "kai.scheduler/topology-required-placement": "rack",
    "kai.scheduler/preemption-delay": "90s",
    "kai.scheduler/staleness-grace-period": "70s",
    "kai.scheduler/batch-min-member": "2",
    "grove.io/topology-name": "t",
}
COPIES = {
    "kubectl.kubernetes.io/last-applied-configuration": MARK,
    "example.com/manifest": MARK,
}
LABELS = {"kai.scheduler/queue": "other", "kai.scheduler/preemptibility": "non-preemptible"}
POD_SPEC: Document = {
    "containers": [container(env=[{"name": "TOKEN", "value": MARK}], command=["run", f"--password={MARK}"])],
    "initContainers": [container("first", args=[MARK])],
}
TEMPLATE: Document = {"metadata": {"annotations": {"example.com/token": MARK}}, "spec": POD_SPEC}
SEGMENTED: Document = {
    "metadata": {
        "annotations": {
            "kai.scheduler/segment-size": "2",
            "kai.scheduler/segment-topology-required-placement": "rack",
            "kai.scheduler/topology": "t",
            "example.com/token": MARK,
        }
    },
    "spec": POD_SPEC,
}
CLOSE = {"packConstraint": {"required": "rack", "preferred": "host"}}


def replicas(**counts: int) -> Document:
    return {role: {"replicas": count, "template": TEMPLATE} for role, count in counts.items()}


SPECS: Mapping[Kind, Document] = {
    kinds.JOB: {"parallelism": 2, "completions": 1, "template": TEMPLATE},
    kinds.JOB_SET: {
        "replicatedJobs": [
            {"name": "w", "replicas": 2, "template": {"spec": {"parallelism": 2, "template": TEMPLATE}}},
            {"name": "late", "dependsOn": [{"name": "w", "status": "Ready"}], "template": {"spec": TEMPLATE}},
        ],
    },
    kinds.LEADER_WORKER_SET: {
        "leaderWorkerTemplate": {"size": 3, "leaderTemplate": TEMPLATE, "workerTemplate": TEMPLATE},
        "startupPolicy": "LeaderReady",
    },
    kinds.TF_JOB: {
        "tfReplicaSpecs": replicas(PS=1, Worker=3),
        "runPolicy": {"schedulingPolicy": {"minAvailable": 2, "queue": MARK}},
    },
    kinds.XGBOOST_JOB: {"xgbReplicaSpecs": replicas(Master=1, Worker=3)},
    kinds.JAX_JOB: {"jaxReplicaSpecs": replicas(Worker=3)},
    kinds.PYTORCH_JOB: {
        "pytorchReplicaSpecs": {**replicas(Master=1), "Worker": {"replicas": 4, "template": SEGMENTED}},
        "elasticPolicy": {"minReplicas": 3},
    },
    kinds.MPI_JOB: {
        "mpiReplicaSpecs": replicas(Launcher=1, Worker=3),
        "launcherCreationPolicy": "WaitForWorkersReady",
    },
    kinds.RAY_CLUSTER: {
        "headGroupSpec": {"rayStartParams": {"redis-password": MARK}, "template": TEMPLATE},
        "workerGroupSpecs": [
            {"groupName": "big", "minReplicas": 2, "numOfHosts": 2, "template": TEMPLATE},
            {"groupName": "off", "replicas": 2, "suspend": True, "template": TEMPLATE},
        ],
    },
    kinds.POD_GANG: {
        "podgroups": [
            {"name": "w", "minReplicas": 2, "podReferences": [{"name": "p0"}, {"name": "p1"}]},
            {"name": "v", "minReplicas": 1, "podReferences": [], "topologyConstraint": CLOSE},
        ],
        "topologyConstraintGroupConfigs": [{"name": "c", "podGroupNames": ["w"], "topologyConstraint": CLOSE}],
        "topologyConstraint": CLOSE,
        "priorityClassName": "high",
    },
    kinds.NATIVE_WORKLOAD: {"podGroups": [{"name": "w", "policy": {"gang": {"minCount": 2}}}]},
    kinds.COMPOSITE_POD_GROUP: {
        "schedulingPolicy": {"gang": {"minGroupCount": 1}},
        "schedulingConstraints": {"topology": [{"key": "rack"}]},
        "priority": 7,
    },
    kinds.REPLICA_SET: {"replicas": 2, "template": TEMPLATE},
    kinds.DEPLOYMENT: {"replicas": 2, "template": TEMPLATE},
    kinds.STATEFUL_SET: {"replicas": 2, "template": TEMPLATE},
    kinds.CRON_JOB: {"schedule": "@daily", "jobTemplate": {"spec": {"template": TEMPLATE}}},
    kinds.NOTEBOOK: {"template": TEMPLATE},
    kinds.TRAIN_JOB: {"trainer": {"env": [{"name": "TOKEN", "value": MARK}], "command": [MARK]}},
    kinds.RAY_JOB: {"entrypoint": f"run {MARK}", "rayClusterSpec": {"headGroupSpec": {"template": TEMPLATE}}},
    kinds.RAY_SERVICE: {"serveConfigV2": MARK, "rayClusterConfig": {"headGroupSpec": {"template": TEMPLATE}}},
    kinds.KNATIVE_SERVICE: {"template": TEMPLATE},
    kinds.KNATIVE_CONFIGURATION: {"template": TEMPLATE},
    kinds.KNATIVE_REVISION: POD_SPEC,
    kinds.SELDON_DEPLOYMENT: {"predictors": [{"componentSpecs": [TEMPLATE]}]},
    kinds.SPARK_APPLICATION: {"arguments": [MARK], "driver": {"env": [{"name": "TOKEN", "value": MARK}]}},
    kinds.WORKFLOW: {"arguments": {"parameters": [{"value": MARK}]}, "templates": [{"script": {"source": MARK}}]},
    kinds.DYNAMO_GRAPH: {"services": {"worker": {"envs": [{"name": "TOKEN", "value": MARK}]}}},
    kinds.POD_CLIQUE_SET: {"template": {"cliques": [{"spec": {"podSpec": POD_SPEC}}]}},
    kinds.POD_CLIQUE_SCALING_GROUP: {"cliqueNames": [MARK]},
    kinds.POD_CLIQUE: {"podSpec": POD_SPEC},
}
"""One of every kind that may own pods, as its users write it, with what must not be told."""


def owner(kind: Kind) -> Document:
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": meta("it", "a", labels=LABELS, annotations={**SETTINGS, **COPIES}),
        "spec": SPECS[kind],
        "status": {"succeeded": 1, "message": MARK, "conditions": [{"type": "x", "status": "True", "message": MARK}]},
    }


def members(kind: Kind) -> list[Document]:
    """Two pods of it, found as those of its kind are, and what stands between."""
    if kind == kinds.JOB_SET:
        named = {JOB_SET_LABEL: "it", REPLICATED_JOB_LABEL: "w", JOB_INDEX_LABEL: "0"}
        return [pod(f"p{number}", labels=named) for number in range(2)]
    if kind == kinds.LEADER_WORKER_SET:
        return [pod(f"p{number}", labels={LWS_LABEL: "it", LWS_GROUP_LABEL: "0"}) for number in range(2)]
    if kind == kinds.POD_GANG:
        return [pod(f"p{number}", labels={"grove.io/podgang": "it"}) for number in range(2)]
    if kind == kinds.NATIVE_WORKLOAD:
        return [pod(f"p{number}", workloadRef={"name": "it", "podGroup": "w"}) for number in range(2)]
    if kind == kinds.COMPOSITE_POD_GROUP:
        group = pod_group("g", api_version="scheduling.k8s.io/v1beta1", parentCompositePodGroupName="it")
        return [group, pod("p0", schedulingGroup={"podGroupName": "g"})]
    roles = {"training.kubeflow.org/replica-type": "worker", "ray.io/group": "big"}
    return [pod(f"p{number}", owner=owner(kind), labels=roles) for number in range(2)]


WORLD = [queue("team"), kai_queue("other"), topology("t", "rack", "host")]
DOCUMENT_KINDS = tuple(kind for kind in kinds.WATCHED if kind.type is kinds.Document)


def whole(kind: Kind, kept: type[Mapping[str, Any]] = dict) -> ClusterState:
    """The cluster as it would be if owners were kept as they come, their spec as such a mapping."""
    found = state([*WORLD, *members(kind)])
    told = change(owner(kind))
    document = msgspec.convert(owner(kind), kinds.Document)
    document = msgspec.structs.replace(document, spec=kept(document.spec))  # type: ignore[call-arg]
    found.apply(replace(told, object=document))
    return found


def test_of_every_kind_of_owners_it_is_said_what_is_read() -> None:
    assert set(owners.SPECS) == set(kinds.OWNERS) == set(SPECS)
    assert set(owners.STATUSES) <= set(kinds.OWNERS)


def test_only_queues_groups_and_topologies_are_kept_whole() -> None:
    assert set(DOCUMENT_KINDS) - set(kinds.OWNERS) == {*QUEUE_KINDS, *GROUP_KINDS, *TOPOLOGY_KINDS}


@pytest.mark.parametrize("kind", kinds.OWNERS, ids=str)
def test_environment_variables_and_commands_of_an_owner_are_in_no_state_and_no_recording(kind: Kind) -> None:
    found = state([*WORLD, owner(kind), *members(kind)])
    raw = found.raw(kind, "a/it")
    assert raw is not None
    data = recording.dump(found, now_ms=5, policy=POLICY)
    assert MARK.encode() not in raw + data
    assert MARK not in repr(found.object(kind, "a/it"))
    replayed = recording.load(data)
    assert replayed.snapshot() == snapshot(found, now_ms=5, policy=POLICY)
    assert recording.dump(replayed.state, now_ms=5, policy=POLICY) == data


@pytest.mark.parametrize("kind", kinds.OWNERS, ids=str)
def test_no_decision_depends_on_what_is_dropped(kind: Kind) -> None:
    found = snapshot(state([*WORLD, owner(kind), *members(kind)]), now_ms=5, policy=POLICY)
    assert found == snapshot(whole(kind), now_ms=5, policy=POLICY)
    if kind in kinds.FORMING:
        assert {gang.owner for gang in found.gangs} == {f"{kind.kind}/a/it"}


class Asked(Mapping[str, Any]):
    """A mapping that notes what it is asked for, below its fields too."""

    def __init__(self, values: Mapping[str, Any], path: tuple[str, ...] = (), seen: set[tuple[str, ...]] | None = None):
        self._values, self._path = values, path
        self.seen: set[tuple[str, ...]] = set() if seen is None else seen

    def __getitem__(self, name: str) -> Any:
        path = (*self._path, name)
        self.seen.add(path)
        return self._below(self._values[name], path)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def _below(self, value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, Mapping):
            return Asked(value, path, self.seen)
        return [self._below(each, path) for each in value] if isinstance(value, list) else value


def listed(path: tuple[str, ...], parts: owners.Parts) -> bool:
    for name in path:
        below = parts.get(name, parts.get("*"))
        if below is None:
            return False
        parts = below
    return True


@pytest.mark.parametrize("kind", kinds.OWNERS, ids=str)
def test_nothing_is_asked_of_an_owner_that_is_not_listed(kind: Kind) -> None:
    found = whole(kind, Asked)
    snapshot(found, now_ms=5, policy=POLICY)
    document = found.object(kind, "a/it")
    assert isinstance(document, kinds.Document)
    assert isinstance(document.spec, Asked)
    # The names of all annotations of a template are asked for, to take some of them.
    asked = {path for path in document.spec.seen if path[-2:] != ("annotations", "example.com/token")}
    assert [path for path in sorted(asked) if not listed(path, owners.SPECS[kind])] == []
    assert bool(asked) == (kind in kinds.FORMING)
