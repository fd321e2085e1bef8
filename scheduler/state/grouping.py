"""Pods -> gangs: which gang a pod belongs to.

One precedence, the first that a pod carries:
1. ours: label or annotation tutti.scheduler/pod-group;
2. native: spec.schedulingGroup.podGroupName (KEP 4671);
3. KAI: annotation pod-group-name;
4. label pod-group-name (scheduling.run.ai/v1);
5. coscheduling: label scheduling.x-k8s.io/pod-group;
6. Grove: label grove.io/podgang; Kubernetes 1.35: spec.workloadRef;
7. the gang its owner implies: annotation tutti.scheduler/min-member or kai.scheduler/batch-min-member on the owner or
   the pod; JobSet; LeaderWorkerSet; the distributed jobs of Kubeflow; RayCluster;
8. none of these: a gang of one. That is also what pods of Jobs, Deployments, StatefulSets and unknown owners are.

A name refers to a PodGroup in the pod's own namespace: in its dialect, then, so that a group may be rewritten before
its pods are, in the others of this list. It may not exist yet. Source: KAI's pod grouper, KEP 4671, JobSet, LWS, Grove.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scheduler.api import core
from scheduler.api.crds import MIN_MEMBER_ANNOTATION, POD_GROUP_LABEL, SUB_GROUP_LABEL
from scheduler.api.kinds import (
    COMPOSITE_POD_GROUP,
    COSCHEDULING_POD_GROUP,
    DEPLOYMENT,
    JAX_JOB,
    JOB,
    JOB_SET,
    KAI_POD_GROUP,
    LEADER_WORKER_SET,
    MPI_JOB,
    NATIVE_POD_GROUP,
    NATIVE_WORKLOAD,
    NOTEBOOK,
    POD_GANG,
    POD_GROUP,
    PYTORCH_JOB,
    RAY_CLUSTER,
    REPLICA_SET,
    SEED_POD_GROUP,
    STATEFUL_SET,
    TF_JOB,
    XGBOOST_JOB,
    Document,
    Kind,
)
from scheduler.api.meta import ObjectMeta
from scheduler.model.reasons import Reason
from scheduler.model.workloads import Pod
from scheduler.state import composite, grove
from scheduler.state.lineage import Above, Find, lineage

KAI_GROUP_NAME = "pod-group-name"
COSCHEDULING_LABELS = ("scheduling.x-k8s.io/pod-group", "pod-group.scheduling.sigs.k8s.io")
KAI_SUB_GROUP_LABEL = "kai.scheduler/subgroup-name"
KAI_MIN_MEMBER_ANNOTATION = "kai.scheduler/batch-min-member"

REPLICATED_JOB_LABEL = "jobset.sigs.k8s.io/replicatedjob-name"
JOB_INDEX_LABEL = "jobset.sigs.k8s.io/job-index"
LWS_GROUP_LABEL = "leaderworkerset.sigs.k8s.io/group-index"
LWS_WORKER_LABEL = "leaderworkerset.sigs.k8s.io/worker-index"
LWS_SIZE_ANNOTATION = "leaderworkerset.sigs.k8s.io/size"
KUBEFLOW_REPLICA_LABEL = "training.kubeflow.org/replica-type"
KUBEFLOW_INDEX_LABEL = "training.kubeflow.org/replica-index"
KUBEFLOW_ROLE_LABEL = "training.kubeflow.org/job-role"
RAY_GROUP_LABEL = "ray.io/group"
SEGMENT_SIZE_ANNOTATION = "kai.scheduler/segment-size"

KUBEFLOW_JOBS: tuple[Kind, ...] = (TF_JOB, XGBOOST_JOB, JAX_JOB, PYTORCH_JOB, MPI_JOB)
_DISTRIBUTED = frozenset({*KUBEFLOW_JOBS, RAY_CLUSTER})
"""Kinds of which one object is one gang, with whatever minimum it says itself."""
_ASKING = frozenset({JOB, JOB_SET, REPLICA_SET, DEPLOYMENT, STATEFUL_SET, NOTEBOOK, *_DISTRIBUTED})
"""Kinds of which one object may ask for a gang of its pods by annotation. Others make several such objects."""
_ASKING_AS_KAI = frozenset({JOB, JOB_SET})

_DIALECTS: tuple[Kind, ...] = (
    POD_GROUP,
    NATIVE_POD_GROUP,
    KAI_POD_GROUP,
    SEED_POD_GROUP,
    COSCHEDULING_POD_GROUP,
)
_PLACES: tuple[tuple[Kind, Literal["label", "annotation", "spec"], str], ...] = (
    (POD_GROUP, "label", POD_GROUP_LABEL),
    (POD_GROUP, "annotation", POD_GROUP_LABEL),
    (NATIVE_POD_GROUP, "spec", "schedulingGroup.podGroupName"),
    (KAI_POD_GROUP, "annotation", KAI_GROUP_NAME),
    (SEED_POD_GROUP, "label", KAI_GROUP_NAME),
    *((COSCHEDULING_POD_GROUP, "label", label) for label in COSCHEDULING_LABELS),
)
"""Where a pod names its PodGroup, the first that it does: the dialect, the place and the name there."""
_NAMES = frozenset(name for _, _, name in _PLACES)
_BATCH = "batch"
ALONE = "Pod"
"""The kind of a gang that is a pod and nothing else."""

Owner = tuple[Kind, Document]
Exists = Callable[[Kind, str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class GangId:
    """What makes a gang one: an object of this kind and key, or what an owner implies. `part`: a group of an LWS."""

    kind: str
    key: str
    part: str = ""

    @property
    def name(self) -> str:
        """The gang's key, unless another gang has the same."""
        return f"{self.key}-{self.part}" if self.part else self.key

    @property
    def owner(self) -> str:
        return f"{self.kind}/{self.key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A pod's place. `group`: the PodGroup it names (its kind, if it exists) and where it names it. `minimum`: what the
    owner or the pod says about the gang an owner implies, as written. `owners`: what this was read from."""

    gang: GangId
    sub_group: str = ""
    group: Kind | None = None
    named_by: str = ""
    minimum: str | None = None
    minimum_from: str = ""
    owners: tuple[tuple[Kind, str], ...] = ()
    awaits_owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A pod of a gang, as the API has it and as the model has it. `problem`: an amount of it cannot be read."""

    wire: core.Pod
    pod: Pod
    membership: Membership
    problem: Reason | None = None


def membership(pod: core.Pod, find: Find, exists: Exists, awaited: Callable[[Kind], bool]) -> Membership:
    """Where the pod belongs. `find` gives owners, `exists` tells of PodGroups, and `awaited` whether an object of a
    kind that is not found is still to come: all of the kind are known, so that this one is new or gone."""
    meta = pod.metadata
    labels, annotations = meta.labels or {}, meta.annotations or {}
    owners = lineage(pod, find)
    reference = _reference(pod, labels, annotations)
    if reference is not None:
        kind, name, named_by = reference
        key = f"{meta.namespace}/{name}"
        order = (kind, *(other for other in _DIALECTS if other != kind))
        found = next((each for each in order if exists(each, key)), None)
        if found == NATIVE_POD_GROUP and (above := composite.above(key, find)):
            return _of_composite(pod, name, (*above, (NATIVE_POD_GROUP, key)), find, awaited)
        return Membership(
            gang=GangId(kind=_tag(found or kind), key=key),
            sub_group=_sub_group(labels),
            group=found,
            named_by=named_by,
            owners=owners,
        )
    if labels.get(grove.POD_GANG_LABEL):
        return _of_pod_gang(pod, labels, owners, find, awaited)
    if pod.spec.workload_ref is not None and pod.spec.workload_ref.name:
        return _of_workload(pod, pod.spec.workload_ref, owners, find, awaited)
    if not owners and _MINIMA.isdisjoint(annotations):
        return Membership(gang=GangId(kind=ALONE, key=meta.key))
    documents = tuple(find(kind, key) for kind, key in owners)
    unseen = _unseen(pod, owners, documents, awaited)
    implied = _implied(pod, labels, annotations, owners, documents)
    if implied is None:
        # Some owner may ask for a gang, or name the queue; until it is seen the pod waits for it.
        implied = Membership(gang=GangId(kind=ALONE, key=meta.key), owners=owners)
    elif unseen is None or unseen[0] not in _DISTRIBUTED:
        return implied
    return replace(implied, awaits_owner=_told(unseen)) if unseen else implied


def _unseen(
    pod: core.Pod,
    owners: Above,
    documents: Sequence[Document | None],
    awaited: Callable[[Kind], bool],
) -> tuple[Kind, str] | None:
    """The owner that the pod waits for: a pod that is leaving, or has its node, waits for nothing."""
    if pod.metadata.deletion_timestamp is not None or pod.spec.node_name:
        return None
    missing = (owner for owner, known in zip(owners, documents, strict=True) if known is None and awaited(owner[0]))
    return next(missing, None)


def _told(owner: tuple[Kind, str] | None) -> str:
    return f"{owner[0].kind} {owner[1]}" if owner is not None else ""


def owners_of(id_: GangId, members: Sequence[Member]) -> Above:
    """What the members' places were read from, each object once. Only of these kinds do members name different ones."""
    if id_.kind not in (POD_GANG.kind, COMPOSITE_POD_GROUP.kind):
        return members[0].membership.owners
    return tuple(dict.fromkeys(owner for member in members for owner in member.membership.owners))


_MINIMA = frozenset({MIN_MEMBER_ANNOTATION, KAI_MIN_MEMBER_ANNOTATION})


def minimum_of(meta: ObjectMeta) -> tuple[str, str] | None:
    """What an object says about the minimum of the gang it implies, and in which annotation."""
    annotations = meta.annotations or {}
    for name in (MIN_MEMBER_ANNOTATION, KAI_MIN_MEMBER_ANNOTATION):
        if name in annotations:
            return annotations[name], name
    return None


def _reference(
    pod: core.Pod, labels: Mapping[str, str], annotations: Mapping[str, str]
) -> tuple[Kind, str, str] | None:
    """The dialect, the name and the place of the first reference that is there."""
    native = pod.spec.scheduling_group.pod_group_name if pod.spec.scheduling_group else None
    if native is None and _NAMES.isdisjoint(labels) and _NAMES.isdisjoint(annotations):
        return None
    for kind, where, said in _PLACES:
        name = native if where == "spec" else (labels if where == "label" else annotations).get(said)
        if name:
            return kind, name, f"{where} {said}" if where != "spec" else f"spec.{said}"
    return None


def _implied(
    pod: core.Pod,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    owners: Above,
    documents: tuple[Document | None, ...],
) -> Membership | None:
    """The gang that an owner implies; None for a pod alone."""
    for (kind, key), document in zip(owners, documents, strict=True):
        said = minimum_of(document.metadata) if document is not None and kind in _ASKING else None
        if said is not None and said[1] == KAI_MIN_MEMBER_ANNOTATION and kind not in _ASKING_AS_KAI:
            said = None
        if kind == JOB_SET:
            return _of_job_set(key, labels, owners, said or minimum_of(pod.metadata))
        if kind == LEADER_WORKER_SET and labels.get(LWS_GROUP_LABEL):
            size = annotations.get(LWS_SIZE_ANNOTATION)
            gang = GangId(kind=kind.kind, key=key, part=labels[LWS_GROUP_LABEL])
            return Membership(gang=gang, minimum=size, minimum_from=LWS_SIZE_ANNOTATION if size else "", owners=owners)
        if kind in _DISTRIBUTED:
            return _of_distributed(kind, key, labels, annotations, owners, said or minimum_of(pod.metadata))
        if said is not None:
            return Membership(
                gang=GangId(kind=kind.kind, key=key), minimum=said[0], minimum_from=said[1], owners=owners
            )
    said = minimum_of(pod.metadata)
    if said is None:
        return None
    controller = pod.metadata.controller
    if controller is None:
        gang = GangId(kind=ALONE, key=pod.metadata.key)
    else:
        gang = GangId(kind=controller.kind, key=f"{pod.metadata.namespace}/{controller.name}")
    return Membership(gang=gang, minimum=said[0], minimum_from=said[1], owners=owners)


def _of_distributed(
    kind: Kind,
    key: str,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    owners: Above,
    said: tuple[str, str] | None,
) -> Membership:
    """A distributed job or cluster, unless our annotation makes it one plain gang."""
    gang = GangId(kind=kind.kind, key=key)
    if said is not None and said[1] == MIN_MEMBER_ANNOTATION:
        return Membership(gang=gang, minimum=said[0], minimum_from=said[1], owners=owners)
    leaf = ""
    if kind == RAY_CLUSTER:
        leaf = labels.get(RAY_GROUP_LABEL, "")
    elif kind == PYTORCH_JOB:
        leaf = _segment(labels.get(KUBEFLOW_REPLICA_LABEL, "").lower(), labels, annotations)
    return Membership(gang=gang, sub_group=leaf, owners=owners)


def _segment(role: str, labels: Mapping[str, str], annotations: Mapping[str, str]) -> str:
    """Workers in segments belong to that of their index."""
    size, index = annotations.get(SEGMENT_SIZE_ANNOTATION, ""), labels.get(KUBEFLOW_INDEX_LABEL, "")
    if role != "worker" or not (size.isdecimal() and index.isdecimal() and int(size)):
        return role
    return f"worker-{int(index) // int(size)}"


def _of_pod_gang(
    pod: core.Pod,
    labels: Mapping[str, str],
    owners: Above,
    find: Find,
    awaited: Callable[[Kind], bool],
) -> Membership:
    """Grove's PodGang. One that scales another out joins the gang of that one: see `scheduler.state.grove`."""
    meta = pod.metadata
    own = f"{meta.namespace}/{labels[grove.POD_GANG_LABEL]}"
    document = find(POD_GANG, own)
    base = f"{meta.namespace}/{grove.base_of(document, labels) or labels[grove.POD_GANG_LABEL]}"
    names = tuple(dict.fromkeys((base, own)))
    gangs = tuple((POD_GANG, name) for name in names)
    return Membership(
        gang=GangId(kind=POD_GANG.kind, key=base),
        sub_group=grove.leaf_of(pod, document, scaled=own != base),
        owners=(*gangs, *owners),
        awaits_owner=_told(_unseen(pod, gangs, tuple(find(POD_GANG, name) for name in names), awaited)),
    )


def _of_composite(pod: core.Pod, group: str, above: Above, find: Find, awaited: Callable[[Kind], bool]) -> Membership:
    """A PodGroup below a composite is a sub-group of the gang of the outermost composite."""
    return Membership(
        gang=GangId(kind=COMPOSITE_POD_GROUP.kind, key=above[0][1]),
        sub_group=group,
        owners=above,
        awaits_owner=_told(_unseen(pod, above, tuple(find(kind, key) for kind, key in above), awaited)),
    )


def _of_workload(
    pod: core.Pod,
    reference: core.PodWorkloadReference,
    owners: Above,
    find: Find,
    awaited: Callable[[Kind], bool],
) -> Membership:
    """A group of a Workload of Kubernetes 1.35; its replicas, which differ by a key, are gangs of their own."""
    key = f"{pod.metadata.namespace}/{reference.name}"
    part = "-".join(each for each in (reference.pod_group, reference.pod_group_replica_key) if each)
    above = ((NATIVE_WORKLOAD, key),)
    return Membership(
        gang=GangId(kind=NATIVE_WORKLOAD.kind, key=key, part=part),
        minimum=reference.pod_group,
        owners=(*above, *owners),
        awaits_owner=_told(_unseen(pod, above, (find(NATIVE_WORKLOAD, key),), awaited)),
    )


def _of_job_set(
    key: str,
    labels: Mapping[str, str],
    owners: Above,
    said: tuple[str, str] | None,
) -> Membership:
    """A leaf for each replica of each replicated job, unless our annotation makes it one plain gang."""
    gang = GangId(kind=JOB_SET.kind, key=key)
    if said is not None and said[1] == MIN_MEMBER_ANNOTATION:
        return Membership(gang=gang, minimum=said[0], minimum_from=said[1], owners=owners)
    leaf = f"{labels.get(REPLICATED_JOB_LABEL, '')}/{labels.get(JOB_INDEX_LABEL, '0')}"
    minimum, where = said or (None, "")
    return Membership(gang=gang, sub_group=leaf, minimum=minimum, minimum_from=where, owners=owners)


def _sub_group(labels: Mapping[str, str]) -> str:
    return labels.get(SUB_GROUP_LABEL) or labels.get(KAI_SUB_GROUP_LABEL) or ""


def _tag(kind: Kind) -> str:
    return "PodGroup" if kind == POD_GROUP else f"PodGroup.{kind.group}"
