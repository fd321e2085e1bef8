"""Pods -> gangs: which gang a pod belongs to.

One precedence, the first that a pod carries:
1. ours: label or annotation tutti.scheduler/pod-group;
2. native: spec.schedulingGroup.podGroupName (KEP 4671);
3. KAI: annotation pod-group-name;
4. label pod-group-name (scheduling.run.ai/v1);
5. coscheduling: label scheduling.x-k8s.io/pod-group;
6. the gang its owner implies: annotation tutti.scheduler/min-member or kai.scheduler/batch-min-member on the owner or
   the pod; JobSet; LeaderWorkerSet;
7. none of these: a gang of one. That is also what pods of Jobs, Deployments, StatefulSets and unknown owners are.

A name refers to a PodGroup in the pod's own namespace: in its dialect, then, so that a group may be rewritten before
its pods are, in the others of this list. It may not exist yet. Source: KAI's pod grouper, KEP 4671, JobSet, LWS.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from scheduler.api import core
from scheduler.api.crds import MIN_MEMBER_ANNOTATION, POD_GROUP_LABEL, SUB_GROUP_LABEL
from scheduler.api.kinds import (
    COSCHEDULING_POD_GROUP,
    JOB,
    JOB_SET,
    KAI_POD_GROUP,
    LEADER_WORKER_SET,
    NATIVE_POD_GROUP,
    POD_GROUP,
    SEED_POD_GROUP,
    Document,
    Kind,
)
from scheduler.api.meta import ObjectMeta
from scheduler.model.reasons import Reason
from scheduler.model.workloads import Pod

KAI_GROUP_NAME = "pod-group-name"
COSCHEDULING_LABELS = ("scheduling.x-k8s.io/pod-group", "pod-group.scheduling.sigs.k8s.io")
KAI_SUB_GROUP_LABEL = "kai.scheduler/subgroup-name"
KAI_MIN_MEMBER_ANNOTATION = "kai.scheduler/batch-min-member"

JOB_SET_LABEL = "jobset.sigs.k8s.io/jobset-name"
REPLICATED_JOB_LABEL = "jobset.sigs.k8s.io/replicatedjob-name"
JOB_INDEX_LABEL = "jobset.sigs.k8s.io/job-index"
LWS_LABEL = "leaderworkerset.sigs.k8s.io/name"
LWS_GROUP_LABEL = "leaderworkerset.sigs.k8s.io/group-index"
LWS_WORKER_LABEL = "leaderworkerset.sigs.k8s.io/worker-index"
LWS_SIZE_ANNOTATION = "leaderworkerset.sigs.k8s.io/size"

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

Owner = tuple[Kind, Document]
Find = Callable[[Kind, str], Document | None]
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


def membership(pod: core.Pod, find: Find, exists: Exists, complete: Callable[[Kind], bool]) -> Membership:
    """Where the pod belongs. `find` gives owners (JOB, JOB_SET, LEADER_WORKER_SET), `exists` tells of PodGroups, and
    `complete` whether all objects of a kind are known, so that one not found does not exist."""
    meta = pod.metadata
    labels, annotations = meta.labels or {}, meta.annotations or {}
    owners = _owners(pod)
    reference = _reference(pod, labels, annotations)
    if reference is not None:
        kind, name, named_by = reference
        key = f"{meta.namespace}/{name}"
        order = (kind, *(other for other in _DIALECTS if other != kind))
        found = next((each for each in order if exists(each, key)), None)
        return Membership(
            gang=GangId(kind=_tag(found or kind), key=key),
            sub_group=_sub_group(labels),
            group=found,
            named_by=named_by,
            owners=owners,
        )
    documents = tuple(find(kind, key) for kind, key in owners) if owners else ()
    implied = _implied(pod, labels, annotations, owners, documents)
    if implied is not None:
        return implied
    alone = GangId(kind="Pod", key=meta.key)
    # Its Job may ask for a gang; until it is seen the pod waits for it, unless there can be none to see.
    unseen = (key for (kind, key), known in zip(owners, documents, strict=True) if known is None and kind == JOB)
    missing = next(unseen, None) if owners else None
    awaits = f"Job {missing}" if missing is not None and complete(JOB) and meta.deletion_timestamp is None else ""
    return Membership(gang=alone, owners=owners, awaits_owner=awaits)


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


def _owners(pod: core.Pod) -> tuple[tuple[Kind, str], ...]:
    """The owners we know how to read, the outermost first: JobSet or LeaderWorkerSet by label, then the Job."""
    meta, labels = pod.metadata, pod.metadata.labels or {}
    found: list[tuple[Kind, str]] = []
    if labels.get(JOB_SET_LABEL):
        found.append((JOB_SET, f"{meta.namespace}/{labels[JOB_SET_LABEL]}"))
    if labels.get(LWS_LABEL):
        found.append((LEADER_WORKER_SET, f"{meta.namespace}/{labels[LWS_LABEL]}"))
    controller = meta.controller
    if controller is not None and controller.kind == "Job" and controller.api_version.partition("/")[0] == _BATCH:
        found.append((JOB, f"{meta.namespace}/{controller.name}"))
    return tuple(found)


def _implied(
    pod: core.Pod,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    owners: tuple[tuple[Kind, str], ...],
    documents: tuple[Document | None, ...],
) -> Membership | None:
    """The gang that an owner implies; None for a pod alone."""
    for (kind, key), document in zip(owners, documents, strict=True):
        said = minimum_of(document.metadata) if document is not None else None
        if kind == JOB_SET:
            return _of_job_set(key, labels, owners, said or minimum_of(pod.metadata))
        if kind == LEADER_WORKER_SET and labels.get(LWS_GROUP_LABEL):
            size = annotations.get(LWS_SIZE_ANNOTATION)
            gang = GangId(kind=kind.kind, key=key, part=labels[LWS_GROUP_LABEL])
            return Membership(gang=gang, minimum=size, minimum_from=LWS_SIZE_ANNOTATION if size else "", owners=owners)
        if said is not None:
            return Membership(
                gang=GangId(kind=kind.kind, key=key), minimum=said[0], minimum_from=said[1], owners=owners
            )
    said = minimum_of(pod.metadata)
    if said is None:
        return None
    controller = pod.metadata.controller
    if controller is None:
        gang = GangId(kind="Pod", key=pod.metadata.key)
    else:
        gang = GangId(kind=controller.kind, key=f"{pod.metadata.namespace}/{controller.name}")
    return Membership(gang=gang, minimum=said[0], minimum_from=said[1], owners=owners)


def _of_job_set(
    key: str,
    labels: Mapping[str, str],
    owners: tuple[tuple[Kind, str], ...],
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
