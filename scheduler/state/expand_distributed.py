"""What the operators of Kubeflow and Ray would make of manifests: pods by role; the cluster of a RayJob or RayService.

Source: the labels that the training operator, the MPI operator and KubeRay give.
"""

from collections.abc import Callable, Iterable

from scheduler.api.kinds import MPI_JOB, RAY_CLUSTER, RAY_JOB, RAY_SERVICE
from scheduler.state.cast import Name
from scheduler.state.distributed import RAY_HEAD, REPLICA_SPECS
from scheduler.state.fields import Fields
from scheduler.state.grouping import (
    KUBEFLOW_INDEX_LABEL,
    KUBEFLOW_JOBS,
    KUBEFLOW_REPLICA_LABEL,
    KUBEFLOW_ROLE_LABEL,
    RAY_GROUP_LABEL,
)
from scheduler.state.making import Extra, Making, Owner, count_of, owned

_KUBEFLOW_NAME_LABEL = "training.kubeflow.org/job-name"
_RAY_CLUSTER: Name = (RAY_CLUSTER.api_version, RAY_CLUSTER.kind)
_RAY_SPECS = {RAY_JOB.kind: "rayClusterSpec", RAY_SERVICE.kind: "rayClusterConfig"}


def _kubeflow(making: Making, owner: Owner) -> None:
    """Every replica of every role; a launcher that waits for its workers is not made yet."""
    kind = next(kind for kind in KUBEFLOW_JOBS if kind.kind == owner.identity[1])
    suspended = owner.spec.mapping("runPolicy").flag("suspend")
    if suspended or _ended(owner) or _has_pods(making, owner):
        return
    late = kind == MPI_JOB and owner.spec.text("launcherCreationPolicy") == "WaitForWorkersReady"
    specs = owner.spec.mapping(REPLICA_SPECS[kind])
    for role in sorted(specs.values):
        replicas = specs.mapping(role)
        count = 0 if late and role == "Launcher" else count_of(replicas, "replicas")
        if not count:
            continue
        template = making.template(replicas, "template", count)
        for index in range(count):
            labels = {
                _KUBEFLOW_NAME_LABEL: owner.name,
                KUBEFLOW_REPLICA_LABEL: role.lower(),
                KUBEFLOW_INDEX_LABEL: str(index),
                KUBEFLOW_ROLE_LABEL: role.lower(),
            }
            making.pod(owner, template, Extra(suffix=f"{role.lower()}-{index}", labels=labels))


def _ray_cluster(making: Making, owner: Owner) -> None:
    """The head, and every host of every replica of the groups of workers."""
    if owner.spec.flag("suspend") or _has_pods(making, owner):
        return
    if owner.spec.has("headGroupSpec"):
        _ray_pods(making, owner, owner.spec.mapping("headGroupSpec"), RAY_HEAD, ["head"])
    for number, group in enumerate(owner.spec.items("workerGroupSpecs")):
        name = group.text("groupName") or f"worker-group-{number}"
        replicas = max(group.whole("replicas") or 0, group.whole("minReplicas") or 0)
        count = 0 if group.flag("suspend") else replicas * count_of(group, "numOfHosts")
        _ray_pods(making, owner, group, name, [f"{name}-{index}" for index in range(min(count, _TOO_MANY))])


_TOO_MANY = 1_000_000
"""More names than this are not even thought of: far fewer pods are refused."""


def _ray_pods(making: Making, owner: Owner, group: Fields, name: str, suffixes: Iterable[str]) -> None:
    suffixes = tuple(suffixes)
    if not suffixes:
        return
    template = making.template(group, "template", len(suffixes))
    role = "head" if name == RAY_HEAD else "worker"
    labels = {"ray.io/cluster": owner.name, RAY_GROUP_LABEL: name, "ray.io/node-type": role}
    for suffix in suffixes:
        making.pod(owner, template, Extra(suffix=suffix, labels=labels))


def _ray_above(making: Making, owner: Owner) -> None:
    """The cluster of a RayJob or a RayService, with its labels and annotations."""
    kind = owner.identity[1]
    spec = owner.spec.mapping(_RAY_SPECS[kind])
    if not spec.values or owner.spec.flag("suspend") or _has_pods(making, owner):
        return
    name = f"{owner.name}-raycluster"
    of = owner.fields.mapping("metadata")
    metadata = owned(owner, _RAY_CLUSTER, name, of.texts("labels"), of.texts("annotations"))
    document = {
        "apiVersion": _RAY_CLUSTER[0],
        "kind": _RAY_CLUSTER[1],
        "metadata": metadata,
        "spec": spec.values,
    }
    making.charge(spec, 1)
    making.cast.make(_RAY_CLUSTER, document, owner.identity)


def _has_pods(making: Making, owner: Owner) -> bool:
    return (owner.namespace, owner.identity[1], owner.name) in making.present.controlled


def _ended(owner: Owner) -> bool:
    return any(
        each.text("type") in ("Succeeded", "Failed") and each.text("status") == "True"
        for each in owner.fields.mapping("status").items("conditions")
    )


DISTRIBUTED: tuple[tuple[Name, Callable[[Making, Owner], None]], ...] = (
    *(((kind.api_version, kind.kind), _kubeflow) for kind in KUBEFLOW_JOBS),
    *(((kind.api_version, kind.kind), _ray_above) for kind in (RAY_JOB, RAY_SERVICE)),
    (_RAY_CLUSTER, _ray_cluster),
)
"""Clusters of jobs and services are made first."""
