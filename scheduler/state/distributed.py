"""Kubeflow's distributed jobs and Ray's clusters -> the gangs that they imply.

A job starts with all of its replicas, or with as many as it says itself; what it has beyond is elastic. A Ray cluster
starts with its head and the least workers of every group. Source: reference kai.md 1.4; the APIs of kubeflow.org/v1,
of the MPI operator (v2beta1) and of KubeRay.
"""

from collections.abc import Iterator, Mapping, Sequence

from scheduler.api.kinds import JAX_JOB, MPI_JOB, PYTORCH_JOB, RAY_CLUSTER, TF_JOB, XGBOOST_JOB, Document, Kind
from scheduler.model.workloads import SubGroup, TopologyConstraint
from scheduler.state.dialects import fields_of
from scheduler.state.fields import Fields
from scheduler.state.grouping import KUBEFLOW_ROLE_LABEL, SEGMENT_SIZE_ANNOTATION, Member
from scheduler.state.groups import GroupSpec, Problem

REPLICA_SPECS: Mapping[Kind, str] = {
    TF_JOB: "tfReplicaSpecs",
    XGBOOST_JOB: "xgbReplicaSpecs",
    JAX_JOB: "jaxReplicaSpecs",
    PYTORCH_JOB: "pytorchReplicaSpecs",
    MPI_JOB: "mpiReplicaSpecs",
}
RAY_HEAD = "headgroup"
_SEGMENT = "kai.scheduler/segment-topology-"
_TOPOLOGY = "kai.scheduler/topology"
_MOST = 100_000
_MOST_SEGMENTS = 10_000


def replicas_of(kind: Kind, document: Document) -> dict[str, int]:
    """How many pods of each role (Master, Worker, Launcher, ...) the job asks for. Raises Bad."""
    specs = fields_of(kind, document).mapping(REPLICA_SPECS[kind])
    return {role: _or_one(specs.mapping(role).whole("replicas", most=_MOST)) for role in sorted(specs.values)}


def kubeflow_job(kind: Kind, document: Document, members: Sequence[Member]) -> GroupSpec:
    """All replicas, unless the job names a minimum. Raises Bad.

    An MPIJob whose launcher waits for its workers starts without it; once there the launcher is needed too. Of a
    PyTorchJob master and workers are sub-groups, and workers may come in segments with places of their own."""
    spec = fields_of(kind, document)
    roles = replicas_of(kind, document)
    total = sum(roles.values())
    least = _named_minimum(kind, spec)
    problems: tuple[Problem, ...] = ()
    if least is not None and least > total:
        problems = (
            Problem(
                problem=f"it asks for {least} pods that start together, and the {kind.kind} has {total} replicas",
                remedy=f"Lower the minimum to {total}, or raise replicas.",
            ),
        )
    least = total if least is None else least
    if kind == MPI_JOB and spec.text("launcherCreationPolicy") == "WaitForWorkersReady" and not _launched(members):
        least = max(least - roles.get("Launcher", 0), 0)
    if kind != PYTORCH_JOB:
        return GroupSpec(kind=kind, meta=document.metadata, min_member=least, problems=problems)
    master = roles.get("Master", 0)
    subs = [SubGroup(name="master", min_member=master)] if master else []
    if "Worker" in roles:
        template = spec.mapping(REPLICA_SPECS[kind]).mapping("Worker").mapping("template").mapping("metadata")
        subs += _workers(template, document, roles["Worker"], max(least - master, 0))
    return GroupSpec(kind=kind, meta=document.metadata, sub_groups=tuple(subs), problems=problems)


def ray_cluster(document: Document, there: Mapping[str, int]) -> GroupSpec:
    """The head, and of every group of workers minReplicas, or replicas where none are named. Raises Bad.

    `there`: the groups that pods name; one that the cluster no longer lists needs nothing any more."""
    leaves = {RAY_HEAD: 1}
    for number, group in enumerate(fields_of(RAY_CLUSTER, document).items("workerGroupSpecs")):
        name = group.text("groupName") or f"worker-group-{number}"
        replicas = group.whole("minReplicas", most=_MOST) or group.whole("replicas", most=_MOST) or 0
        leaves[name] = 0 if group.flag("suspend") else replicas * _or_one(group.whole("numOfHosts", most=_MOST))
    for name in there:
        if name:
            leaves.setdefault(name, 0)
    subs = tuple(SubGroup(name=name, min_member=pods) for name, pods in leaves.items())
    return GroupSpec(kind=RAY_CLUSTER, meta=document.metadata, sub_groups=subs)


def _named_minimum(kind: Kind, spec: Fields) -> int | None:
    named = spec.mapping("runPolicy").mapping("schedulingPolicy").whole("minAvailable", most=_MOST)
    if named is None and kind == PYTORCH_JOB:
        named = spec.mapping("elasticPolicy").whole("minReplicas", most=_MOST)
    return named


def _launched(members: Sequence[Member]) -> bool:
    return any(
        (member.wire.metadata.labels or {}).get(KUBEFLOW_ROLE_LABEL) == "launcher" and not member.pod.terminating
        for member in members
    )


def _workers(template: Fields, document: Document, replicas: int, least: int) -> Iterator[SubGroup]:
    """One leaf, or one for each segment of so many workers. Of segments so many are needed whole as hold the least."""
    annotations = template.texts("annotations")
    text = annotations.get(SEGMENT_SIZE_ANNOTATION, "")
    size = int(text) if text.isdecimal() and len(text) < 7 else 0
    if (text and not size) or (size and replicas > size * _MOST_SEGMENTS):
        raise template.mapping("annotations").bad(
            SEGMENT_SIZE_ANNOTATION,
            f"{text[:40]!r} is no size of segments",
            f"Write how many workers are one segment, so that there are at most {_MOST_SEGMENTS}.",
        )
    if not size:
        yield SubGroup(name="worker", min_member=least)
        return
    place = _segment_place({**(document.metadata.annotations or {}), **annotations})
    yield SubGroup(name="worker", min_sub_group=-(-least // size))
    for start in range(0, replicas, size):
        pods = min(size, replicas - start)
        yield SubGroup(name=f"worker-{start // size}", parent="worker", min_member=pods, topology=place)


def _segment_place(annotations: Mapping[str, str]) -> TopologyConstraint | None:
    required = annotations.get(f"{_SEGMENT}required-placement")
    preferred = annotations.get(f"{_SEGMENT}preferred-placement")
    topology = annotations.get(_TOPOLOGY, "")
    if not topology or not (required or preferred):
        return None
    return TopologyConstraint(topology=topology, required=required or None, preferred=preferred or None)


def _or_one(value: int | None) -> int:
    return 1 if value is None else value
