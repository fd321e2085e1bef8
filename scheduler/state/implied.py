"""Gangs that owners imply: JobSet, LeaderWorkerSet, a minimum written on a Job or another owner, and the pod alone;
what distributed jobs, Ray and Grove imply is in modules of their own.

Source: KAI's pod grouper (reference kai.md 1.4); JobSet and LeaderWorkerSet API reference.
"""

from collections.abc import Sequence
from dataclasses import replace

from scheduler.api.kinds import (
    COMPOSITE_POD_GROUP,
    JOB,
    JOB_SET,
    LEADER_WORKER_SET,
    NATIVE_WORKLOAD,
    POD_GANG,
    POD_GROUP,
    RAY_CLUSTER,
    Document,
)
from scheduler.api.meta import ObjectMeta
from scheduler.model.reasons import InvalidGang, Reason, Unreadable
from scheduler.model.workloads import SubGroup
from scheduler.state import composite, distributed, grove
from scheduler.state.dialects import fields_of
from scheduler.state.fields import Bad, Fields
from scheduler.state.grouping import KUBEFLOW_JOBS, LWS_WORKER_LABEL, GangId, Member, Owner
from scheduler.state.groups import GroupSpec, Problem

_MOST_PODS = 100_000
_DISTRIBUTED = frozenset(kind.kind for kind in (*KUBEFLOW_JOBS, RAY_CLUSTER))


def spec(
    id_: GangId, members: Sequence[Member], owners: Sequence[Owner], oldest: Member, problems: list[Reason]
) -> GroupSpec:
    """What the owner says about the gang; what cannot be read goes to `problems`."""
    try:
        if id_.kind == JOB_SET.kind and oldest.membership.sub_group:
            return _job_set(id_, members, _document(owners, JOB_SET.kind), oldest)
        if id_.kind == LEADER_WORKER_SET.kind:
            return _leader_worker_set(id_, members, _document(owners, LEADER_WORKER_SET.kind), oldest)
        if id_.kind == POD_GANG.kind:
            return _pod_gang(id_, members, owners, oldest)
        if id_.kind == COMPOSITE_POD_GROUP.kind:
            return composite.spec(id_.key, owners) or _all_of(ObjectMeta(name=id_.key.partition("/")[2]), members)
        if id_.kind == NATIVE_WORKLOAD.kind:
            return _workload(id_, _document(owners, NATIVE_WORKLOAD.kind), oldest, len(members))
        if id_.kind in _DISTRIBUTED and oldest.membership.minimum is None:
            return _distributed(id_, members, owners)
        return _plain(id_, owners, oldest, problems)
    except Bad as bad:
        problems.append(bad.reason)
        return _all_of(oldest.wire.metadata, members)


def _pod_gang(id_: GangId, members: Sequence[Member], owners: Sequence[Owner], oldest: Member) -> GroupSpec:
    read = grove.spec(id_.key, [document for owner, document in owners if owner == POD_GANG])
    if isinstance(read, GroupSpec):
        return read
    problems = () if oldest.membership.awaits_owner else (read,)
    return replace(_all_of(ObjectMeta(name=id_.key.partition("/")[2]), members), problems=problems)


def _distributed(id_: GangId, members: Sequence[Member], owners: Sequence[Owner]) -> GroupSpec:
    """A distributed job or a Ray cluster; while its object is not known, all pods that there are."""
    for kind, document in owners:
        if kind == RAY_CLUSTER and id_.kind == kind.kind:
            return distributed.ray_cluster(document, _leaves_of_members(members))
        if kind in KUBEFLOW_JOBS and id_.kind == kind.kind:
            return distributed.kubeflow_job(kind, document, members)
    return _all_of(ObjectMeta(name=id_.key.partition("/")[2]), members)


def _all_of(meta: ObjectMeta, members: Sequence[Member]) -> GroupSpec:
    """What can be said while the owner is not known: all pods that there are, in the groups that they name."""
    leaves = _leaves_of_members(members)
    if set(leaves) == {""}:
        return GroupSpec(kind=POD_GROUP, meta=meta, min_member=leaves[""])
    subs = tuple(SubGroup(name=leaf, min_member=pods) for leaf, pods in sorted(leaves.items()))
    return GroupSpec(kind=POD_GROUP, meta=meta, sub_groups=subs)


def _workload(id_: GangId, document: Document | None, oldest: Member, there: int) -> GroupSpec:
    """The policy of the group that the pods name. Without a gang policy there is no minimum; while the Workload is not
    known, all pods there are."""
    name = oldest.membership.minimum or ""
    if document is None:
        return GroupSpec(kind=POD_GROUP, meta=ObjectMeta(name=id_.key.partition("/")[2]), min_member=there)
    fields = fields_of(NATIVE_WORKLOAD, document)
    for each in fields.items("podGroups"):
        if each.text("name") == name:
            policy = each.mapping("policy")
            least = _or_one(policy.mapping("gang").whole("minCount", most=_MOST_PODS)) if policy.has("gang") else 0
            return GroupSpec(kind=POD_GROUP, meta=document.metadata, min_member=least)
    problem = Problem(
        problem=f"its pods name group {name or 'none'}, which Workload {id_.key} does not have",
        remedy="Correct spec.workloadRef.podGroup of its pods, or spec.podGroups of the Workload.",
    )
    return GroupSpec(kind=POD_GROUP, meta=document.metadata, problems=(problem,))


def _plain(id_: GangId, owners: Sequence[Owner], oldest: Member, problems: list[Reason]) -> GroupSpec:
    """A pod alone, or the pods of one controller with the minimum that it, or they, name."""
    membership = oldest.membership
    if membership.minimum is None:
        return GroupSpec(kind=POD_GROUP, meta=oldest.wire.metadata)
    minimum = _minimum(membership.minimum, membership.minimum_from, id_.owner)
    controller = oldest.wire.metadata.controller
    if controller is None:
        if minimum > 1:
            problems.append(
                InvalidGang(
                    gang=id_.name,
                    problem=f"the pod asks for a gang of {minimum} and has no controller to form one with",
                    remedy="Create a PodGroup and name it in the label tutti.scheduler/pod-group of all its pods.",
                )
            )
        return GroupSpec(kind=POD_GROUP, meta=oldest.wire.metadata, min_member=minimum)
    document = _document(owners, id_.kind)
    meta = document.metadata if document is not None else ObjectMeta(name=controller.name, uid=controller.uid)
    made = _at_once(document) if document is not None and id_.kind == JOB.kind else None
    if made is not None and minimum > made:
        problems.append(
            InvalidGang(
                gang=id_.name,
                problem=f"it asks for {minimum} pods that start together, and its Job makes {made} at once",
                remedy=f"Raise spec.parallelism of the Job (and spec.completions) to {minimum}, or ask for fewer.",
            )
        )
    return GroupSpec(kind=POD_GROUP, meta=meta, min_member=minimum)


def _at_once(job: Document) -> int:
    """The most pods that the Job ever has at one time."""
    fields = fields_of(JOB, job)
    parallelism, completions = _or_one(fields.whole("parallelism")), fields.whole("completions")
    return parallelism if completions is None else min(parallelism, completions)


def _job_set(id_: GangId, members: Sequence[Member], document: Document | None, oldest: Member) -> GroupSpec:
    """Two levels: a sub-group for each replicated job, below it a leaf for each replica with all of its pods.

    With startupPolicy InOrder the later jobs appear only when the first runs, so one of them is enough to start; those
    that depend on another appear after it, so that the others are enough."""
    leaves = _leaves_of_members(members) if document is None else _leaves(fields_of(JOB_SET, document))
    jobs = sorted({leaf.partition("/")[0] for leaf in leaves})
    order, first = "", len(jobs)
    if document is not None:
        fields = fields_of(JOB_SET, document)
        order = fields.mapping("startupPolicy").text("startupPolicyOrder")
        first = len(jobs) - sum(1 for job in fields.items("replicatedJobs") if any(job.items("dependsOn")))
    minimum = oldest.membership.minimum
    if minimum is not None:
        least: int | None = min(_minimum(minimum, oldest.membership.minimum_from, id_.owner), len(jobs))
    else:
        least = 1 if order == "InOrder" else first if 0 < first < len(jobs) else None
    return GroupSpec(
        kind=POD_GROUP,
        meta=document.metadata if document is not None else ObjectMeta(name=id_.key.partition("/")[2]),
        min_sub_group=least,
        sub_groups=(
            *(SubGroup(name=job) for job in jobs),
            *(
                SubGroup(name=leaf, parent=leaf.partition("/")[0], min_member=pods)
                for leaf, pods in sorted(leaves.items())
            ),
        ),
    )


def _leaves(spec: Fields) -> dict[str, int]:
    """The replicas of a JobSet's jobs, as "job/index", with the pods each runs at once."""
    leaves: dict[str, int] = {}
    for job in spec.items("replicatedJobs"):
        name = job.text("name")
        template = job.mapping("template").mapping("spec")
        pods = _or_one(template.whole("parallelism", most=_MOST_PODS))
        completions = template.whole("completions", most=_MOST_PODS)
        if completions is not None:
            pods = min(pods, completions)
        for index in range(_or_one(job.whole("replicas", most=_MOST_PODS))):
            leaves[f"{name}/{index}"] = pods
    return leaves


def _leaves_of_members(members: Sequence[Member]) -> dict[str, int]:
    """What can be said while the JobSet itself is not known: all pods there are."""
    leaves: dict[str, int] = {}
    for member in members:
        leaf = member.membership.sub_group
        leaves[leaf] = leaves.get(leaf, 0) + 1
    return leaves


def _leader_worker_set(id_: GangId, members: Sequence[Member], document: Document | None, oldest: Member) -> GroupSpec:
    """One group of the set: the leader with its workers. With startupPolicy LeaderReady the workers are made once the
    leader runs, so until it is on a node it starts alone."""
    size, late = len(members), False
    created = oldest.wire.metadata.creation_timestamp
    uid = oldest.wire.metadata.uid
    if document is not None:
        fields = fields_of(LEADER_WORKER_SET, document)
        size = _or_one(fields.mapping("leaderWorkerTemplate").whole("size", least=1, most=_MOST_PODS))
        late = fields.text("startupPolicy") == "LeaderReady"
        uid = document.metadata.uid
    elif oldest.membership.minimum is not None:
        size = _minimum(oldest.membership.minimum, oldest.membership.minimum_from, id_.owner)
    led = any(member.pod.node for member in members if (member.wire.metadata.labels or {}).get(LWS_WORKER_LABEL) == "0")
    meta = ObjectMeta(name=id_.key.partition("/")[2], uid=uid, creation_timestamp=created)
    return GroupSpec(kind=POD_GROUP, meta=meta, min_member=1 if late and not led else size)


def _document(owners: Sequence[Owner], kind: str) -> Document | None:
    return next((document for owner, document in owners if owner.kind == kind), None)


def _minimum(text: str, where: str, object_: str) -> int:
    if not text.isdecimal() or len(text) > 6 or int(text) > _MOST_PODS:
        raise Bad(
            Unreadable(
                object=object_,
                field=f"metadata.annotations[{where}]",
                problem=f"{text[:40]!r} is no whole number from 0 to {_MOST_PODS}",
                remedy="Write how many pods must start together.",
            )
        )
    return int(text)


def _or_one(value: int | None) -> int:
    return 1 if value is None else value
