"""Gangs that owners imply: JobSet, LeaderWorkerSet, a minimum written on a Job or another owner, and the pod alone.

Source: KAI's pod grouper (reference kai.md 1.4); JobSet and LeaderWorkerSet API reference.
"""

from collections.abc import Sequence

from scheduler.api.kinds import JOB_SET, LEADER_WORKER_SET, POD_GROUP, Document
from scheduler.api.meta import ObjectMeta
from scheduler.model.reasons import InvalidGang, Reason, Unreadable
from scheduler.model.workloads import SubGroup
from scheduler.state.dialects import fields_of
from scheduler.state.fields import Bad, Fields
from scheduler.state.grouping import LWS_WORKER_LABEL, GangId, Member, Owner
from scheduler.state.groups import GroupSpec

_MOST_PODS = 100_000


def spec(
    id_: GangId, members: Sequence[Member], owners: Sequence[Owner], oldest: Member, problems: list[Reason]
) -> GroupSpec:
    """What the owner says about the gang; what cannot be read goes to `problems`."""
    try:
        if id_.kind == JOB_SET.kind and oldest.membership.sub_group:
            return _job_set(id_, members, _document(owners, JOB_SET.kind), oldest)
        if id_.kind == LEADER_WORKER_SET.kind:
            return _leader_worker_set(id_, members, _document(owners, LEADER_WORKER_SET.kind), oldest)
        return _plain(id_, owners, oldest, problems)
    except Bad as bad:
        problems.append(bad.reason)
        return GroupSpec(kind=POD_GROUP, meta=oldest.wire.metadata)


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
    return GroupSpec(kind=POD_GROUP, meta=meta, min_member=minimum)


def _job_set(id_: GangId, members: Sequence[Member], document: Document | None, oldest: Member) -> GroupSpec:
    """Two levels: a sub-group for each replicated job, below it a leaf for each replica with all of its pods.

    With startupPolicy InOrder the later jobs appear only when the first runs, so one of them is enough to start."""
    leaves = _leaves_of_members(members) if document is None else _leaves(fields_of(JOB_SET, document))
    jobs = sorted({leaf.partition("/")[0] for leaf in leaves})
    order = ""
    if document is not None:
        order = fields_of(JOB_SET, document).mapping("startupPolicy").text("startupPolicyOrder")
    minimum = oldest.membership.minimum
    if minimum is not None:
        least: int | None = min(_minimum(minimum, oldest.membership.minimum_from, id_.owner), len(jobs))
    else:
        least = 1 if order == "InOrder" else None
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
