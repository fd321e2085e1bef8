"""Members, PodGroup and owners -> the model's Gang, and every reason why it could not start on any cluster.

A setting is taken from the PodGroup, then from labels and annotations of the PodGroup, of the owners from the outermost
in, and of the oldest pod; of ours before KAI's at each. KAI's rule that priority 100 and more is not preemptible holds
where a KAI object or KAI's queue label says so. Source: reference kai.md 1, 1.4, 2.7.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from scheduler.api.crds import (
    MAX_RUNTIME_ANNOTATION,
    PREEMPTIBILITY_LABEL,
    PREFERRED_LEVEL_ANNOTATION,
    QUEUE_LABEL,
    REQUIRED_LEVEL_ANNOTATION,
    TOPOLOGY_ANNOTATION,
)
from scheduler.api.kinds import JOB, POD_GANG, POD_GROUP, RAY_CLUSTER
from scheduler.api.meta import ObjectMeta
from scheduler.model.nodes import Topology
from scheduler.model.reasons import InvalidGang, Reason, TopologyUnusable, Unreadable
from scheduler.model.workloads import Gang, Pod, SubGroup, TopologyConstraint
from scheduler.state import charging, implied, kai_priorities
from scheduler.state.fields import duration_ms
from scheduler.state.grouping import ALONE, GangId, Member, Owner
from scheduler.state.groups import KAI_KINDS, STALENESS_GRACE_MS, GroupSpec, made_of, preemptible
from scheduler.state.pods import by_creation

KAI_QUEUE_LABEL = "kai.scheduler/queue"
KAI_PREEMPTIBILITY_LABEL = "kai.scheduler/preemptibility"
KAI_PRIORITY_LABEL = "priorityClassName"
RAY_PRIORITY_LABEL = "ray.io/priority-class-name"
KAI_TOPOLOGY_ANNOTATION = "kai.scheduler/topology"
KAI_REQUIRED_ANNOTATION = "kai.scheduler/topology-required-placement"
KAI_PREFERRED_ANNOTATION = "kai.scheduler/topology-preferred-placement"
KAI_DELAY_ANNOTATION = "kai.scheduler/preemption-delay"
KAI_GRACE_ANNOTATION = "kai.scheduler/staleness-grace-period"


_ANNOTATIONS = frozenset(
    {
        MAX_RUNTIME_ANNOTATION,
        PREFERRED_LEVEL_ANNOTATION,
        REQUIRED_LEVEL_ANNOTATION,
        TOPOLOGY_ANNOTATION,
        KAI_TOPOLOGY_ANNOTATION,
        KAI_REQUIRED_ANNOTATION,
        KAI_PREFERRED_ANNOTATION,
        KAI_DELAY_ANNOTATION,
        KAI_GRACE_ANNOTATION,
    }
)
"""All that `Sources.annotation` is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What gangs refer to. `default_queue` is "" unless it exists; `priority` gives None for a class that does not."""

    default_queue: str
    priority: Callable[[str], int | None]
    topologies: Mapping[str, Topology]
    unreadable_topologies: Mapping[str, Reason] = field(default_factory=dict)
    """By name, why they are set aside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where labels and annotations are looked up, in order, with the object's name for messages."""

    metas: tuple[tuple[str, ObjectMeta], ...]
    annotated: tuple[tuple[str, Mapping[str, str]], ...]

    @classmethod
    def of(cls, metas: Sequence[tuple[str, ObjectMeta]]) -> "Sources":
        """`annotated` are those with an annotation that is looked up here: few are, and every gang is asked for six."""
        annotated = [
            (name, meta.annotations)
            for name, meta in metas
            if meta.annotations and not _ANNOTATIONS.isdisjoint(meta.annotations)
        ]
        return cls(metas=tuple(metas), annotated=tuple(annotated))

    def label(self, *names: str) -> str:
        """The first of these labels, object by object."""
        for _, meta in self.metas:
            for name in names if meta.labels else ():
                value = meta.labels.get(name) if meta.labels else None
                if value:
                    return value
        return ""

    def annotation(self, *names: str) -> tuple[str, str, str]:
        """The first of these annotations, object by object, with the object and the name it was found under."""
        for object_, annotations in self.annotated:
            for name in names:
                value = annotations.get(name)
                if value:
                    return value, object_, name
        return "", "", ""


def gang(
    id_: GangId,
    members: Sequence[Member],
    group: GroupSpec | Unreadable | None,
    owners: Sequence[Owner],
    world: World,
) -> Gang | None:
    """The gang of these members; None if none of them is still to run or running.

    `group`: the PodGroup they name, or why it cannot be read; None if it does not exist or they name none."""
    live = by_creation(member.pod for member in members if not member.pod.done)
    if not live:
        return None
    by_key = {member.pod.key: member for member in members}
    oldest = by_key[live[0].key]
    spec = group if isinstance(group, GroupSpec) else None
    problems: list[Reason] = [group] if isinstance(group, Unreadable) else []
    sources = _sources(spec, owners, oldest)
    if spec is None:
        spec = _spec_without_group(id_, members, owners, oldest, problems)
    problems += [InvalidGang(gang=id_.name, problem=each.problem, remedy=each.remedy) for each in spec.problems]
    kai = spec.kind in KAI_KINDS or (not sources.label(QUEUE_LABEL) and bool(sources.label(KAI_QUEUE_LABEL)))
    default = kai_priorities.default(owners) if kai else ""
    priority = _priority(id_, spec, sources, [by_key[pod.key] for pod in live], default, world, problems)
    named = _queue(id_, spec, sources, live, problems)
    paying = charging.recorded(by_key[pod.key].wire for pod in live)
    if paying and named not in ("", paying[0]):
        problems.append(charging.moved(id_.name, named, paying[0]))
    sub_groups = _finished(spec.sub_groups, members)
    _check_members(id_, sub_groups, live, problems)
    problems += [problem for pod in live if (problem := by_key[pod.key].problem) is not None]
    made = Gang(
        key=id_.name,
        uid=spec.meta.uid,
        owner=_owner(id_),
        queue=paying[0] if paying else named or world.default_queue,
        queues_above=paying[1:],
        priority=priority,
        preemptible=_preemptible(id_, spec, sources, kai and priority >= kai_priorities.FIRM, problems),
        created_ms=spec.created_ms or live[0].created_ms,
        min_member=spec.min_member,
        min_sub_group=spec.min_sub_group,
        sub_groups=tuple(replace(each, topology=_resolved(id_, each.topology, world, problems)) for each in sub_groups),
        topology=_resolved(id_, spec.topology or _annotated_topology(sources, problems), world, problems),
        pods=live,
        succeeded=_succeeded(id_, members, owners),
        preemption_delay_ms=spec.preemption_delay_ms or max(_duration(sources, problems, KAI_DELAY_ANNOTATION) or 0, 0),
        staleness_grace_ms=_grace(spec, sources, problems),
        max_runtime_ms=spec.max_runtime_ms or _duration(sources, problems, MAX_RUNTIME_ANNOTATION),
        checkpoint_interval_ms=spec.checkpoint_interval_ms,
    )
    return replace(made, problems=_distinct(problems)) if problems else made


def _succeeded(id_: GangId, members: Sequence[Member], owners: Sequence[Owner]) -> int:
    """Pods that ended well: those that can be seen, or as many as their Job has counted. A pod that has ended is
    removed with its node, and is made no second time. Other pods of a Job are none of a pod's that is alone."""
    seen = sum(1 for member in members if member.pod.phase == "Succeeded")
    if id_.kind == ALONE:
        return seen
    counted = [owner.status.get("succeeded") for kind, owner in owners if kind == JOB]
    return max(seen, sum(count for count in counted if isinstance(count, int)))


def _sources(spec: GroupSpec | None, owners: Sequence[Owner], oldest: Member) -> Sources:
    metas = [(f"PodGroup/{spec.meta.key}", spec.meta)] if spec is not None else []
    metas += [(f"{kind.kind}/{owner.metadata.key}", owner.metadata) for kind, owner in owners]
    metas.append((f"Pod/{oldest.pod.key}", oldest.wire.metadata))
    return Sources.of(metas)


def _owner(id_: GangId) -> str:
    """Every dialect's PodGroup is "PodGroup/namespace/name"; whose it is shows by its uid."""
    return f"{id_.kind.partition('.')[0]}/{id_.key}" if id_.kind.startswith("PodGroup") else id_.owner


def _spec_without_group(
    id_: GangId,
    members: Sequence[Member],
    owners: Sequence[Owner],
    oldest: Member,
    problems: list[Reason],
) -> GroupSpec:
    """What an owner implies, or a pod alone; or a group that does not exist, which is a problem until it does."""
    membership = oldest.membership
    if id_.kind.startswith("PodGroup"):
        if not problems:
            problems.append(
                InvalidGang(
                    gang=id_.name,
                    problem=f"PodGroup {id_.key} does not exist",
                    remedy=f"Create PodGroup {id_.key}, or remove {membership.named_by} from its pods.",
                )
            )
        return GroupSpec(kind=POD_GROUP, meta=ObjectMeta())
    if membership.awaits_owner:
        problems.append(
            InvalidGang(
                gang=id_.name,
                problem=f"{membership.awaits_owner}, which may ask for a gang, has not been seen",
                remedy="Wait; if this stays, let the scheduler read it (ClusterRole), or delete the pod if it is gone.",
            )
        )
    return implied.spec(id_, members, owners, oldest, problems)


def _priority(
    id_: GangId,
    spec: GroupSpec,
    sources: Sources,
    live: Sequence[Member],
    default: str,
    world: World,
    problems: list[Reason],
) -> int:
    """The PodGroup's class; for KAI's and Ray's labels the class if there is one; else the lowest of its pods, so that
    one pod of high priority never lifts a gang. `default`: the class where no pod names one, "" for none."""
    if spec.priority is not None:
        return spec.priority
    name = spec.priority_class
    if name:
        value = world.priority(name)
        if value is not None:
            return value
        if spec.kind in KAI_KINDS:
            if name in kai_priorities.CLASSES:
                return kai_priorities.CLASSES[name]
        else:
            problems.append(_no_class(id_, name, f"spec.priorityClassName of the {spec.kind.kind}"))
    elif labelled := sources.label(RAY_PRIORITY_LABEL, KAI_PRIORITY_LABEL):
        value = world.priority(labelled)
        if value is None:
            value = kai_priorities.CLASSES.get(labelled)
        if value is not None:
            return value
    for member in live:
        wanted = member.wire.spec
        if (
            wanted.priority is None
            and wanted.priority_class_name
            and world.priority(wanted.priority_class_name) is None
        ):
            problems.append(_no_class(id_, wanted.priority_class_name, "spec.priorityClassName of its pods"))
            break
    if default and not any(each.pod.priority or each.wire.spec.priority_class_name for each in live):
        value = world.priority(default)
        return kai_priorities.CLASSES[default] if value is None else value
    return min(each.pod.priority for each in live)


def _no_class(id_: GangId, name: str, where: str) -> InvalidGang:
    return InvalidGang(
        gang=id_.name,
        problem=f"PriorityClass {name} does not exist",
        remedy=f"Create PriorityClass {name}, or correct {where}.",
    )


def _queue(id_: GangId, spec: GroupSpec, sources: Sources, live: Sequence[Pod], problems: list[Reason]) -> str:
    """The queue it names, "" if none."""
    named = spec.queue or sources.label(QUEUE_LABEL, KAI_QUEUE_LABEL)
    above = Sources.of(sources.metas[:-1])
    if len(live) > 1 and not spec.queue and not above.label(QUEUE_LABEL, KAI_QUEUE_LABEL):
        queues = {pod.labels.get(QUEUE_LABEL) or pod.labels.get(KAI_QUEUE_LABEL) or "" for pod in live}
        if len(queues) > 1:
            names = ", ".join(name or "none" for name in sorted(queues))
            problems.append(
                InvalidGang(
                    gang=id_.name,
                    problem=f"its pods name different queues ({names})",
                    remedy=f"Give all its pods the same label {QUEUE_LABEL}, or name the queue in the PodGroup.",
                )
            )
    return named


def _preemptible(id_: GangId, spec: GroupSpec, sources: Sources, firm: bool, problems: list[Reason]) -> bool:
    """`firm`: its priority says that it is not, where nothing else says anything."""
    if spec.preemptible is not None:
        return spec.preemptible
    word = sources.label(PREEMPTIBILITY_LABEL, KAI_PREEMPTIBILITY_LABEL)
    if word:
        read = preemptible(word)
        if read is None:
            problems.append(
                InvalidGang(
                    gang=id_.name,
                    problem=f"preemptibility {word!r} is neither preemptible nor non-preemptible",
                    remedy=f"Correct or remove the label {PREEMPTIBILITY_LABEL}.",
                )
            )
        return read is not False
    return not firm


def _annotated_topology(sources: Sources, problems: list[Reason]) -> TopologyConstraint | None:
    required, object_, field = sources.annotation(REQUIRED_LEVEL_ANNOTATION, KAI_REQUIRED_ANNOTATION)
    preferred, other, other_field = sources.annotation(PREFERRED_LEVEL_ANNOTATION, KAI_PREFERRED_ANNOTATION)
    name, _, _ = sources.annotation(TOPOLOGY_ANNOTATION, KAI_TOPOLOGY_ANNOTATION)
    if not (required or preferred):
        return None
    if not name:
        problems.append(
            Unreadable(
                object=object_ or other,
                field=f"metadata.annotations[{field or other_field}]",
                problem="a topology level is named and no topology",
                remedy=f"Name the Topology in the annotation {TOPOLOGY_ANNOTATION}.",
            )
        )
        return None
    return TopologyConstraint(topology=name, required=required or None, preferred=preferred or None)


def _resolved(
    id_: GangId, constraint: TopologyConstraint | None, world: World, problems: list[Reason]
) -> TopologyConstraint | None:
    """The constraint with its levels as keys of the topology."""
    if constraint is None:
        return None
    topology = world.topologies.get(constraint.topology)
    if topology is None:
        if constraint.topology == made_of(constraint.required, constraint.preferred):
            # The native API and Grove name node labels and no topology object: `translate` makes one of these labels.
            return constraint
        problems.append(_no_topology(id_, constraint.topology, world.unreadable_topologies.get(constraint.topology)))
        return None
    levels: list[str | None] = []
    for level in (constraint.required, constraint.preferred):
        key = level if level is None or level in topology.levels else topology.aliases.get(level)
        if level is not None and key is None:
            known = ", ".join(topology.levels)
            problems.append(
                TopologyUnusable(
                    gang=id_.name, topology=topology.name, problem=f"has no level {level}; its levels are {known}"
                )
            )
        levels.append(key)
    return TopologyConstraint(topology=topology.name, required=levels[0], preferred=levels[1])


def _no_topology(id_: GangId, name: str, unreadable: Reason | None) -> TopologyUnusable:
    if unreadable is None:
        return TopologyUnusable(gang=id_.name, topology=name, problem="does not exist")
    told = unreadable.message.removeprefix(f"Topology/{name}: ").removesuffix(".")
    return TopologyUnusable(gang=id_.name, topology=name, problem=f"cannot be read: {told}", remedy=unreadable.cure)


def _finished(sub_groups: tuple[SubGroup, ...], members: Sequence[Member]) -> tuple[SubGroup, ...]:
    """A leaf needs as many pods fewer as have ended well in it."""
    ended: dict[str, int] = {}
    for member in members:
        if member.pod.phase == "Succeeded":
            ended[member.pod.sub_group] = ended.get(member.pod.sub_group, 0) + 1
    if not ended:
        return sub_groups
    return tuple(
        each
        if each.min_member is None or each.name not in ended
        else replace(each, min_member=max(each.min_member - ended[each.name], 0))
        for each in sub_groups
    )


def _check_members(id_: GangId, sub_groups: tuple[SubGroup, ...], live: Sequence[Pod], problems: list[Reason]) -> None:
    """Every pod must name a leaf of the tree, if there is one."""
    parents = {each.parent for each in sub_groups}
    leaves = {each.name for each in sub_groups if each.name not in parents}
    for pod in live:
        if pod.sub_group in leaves or (not sub_groups and not pod.sub_group):
            continue
        if not sub_groups:
            what = f"pod {pod.name} names sub-group {pod.sub_group}, and the PodGroup has none"
        elif not pod.sub_group:
            what = f"pod {pod.name} names none of its sub-groups"
        elif pod.sub_group in parents:
            what = f"pod {pod.name} names sub-group {pod.sub_group}, which has sub-groups below it"
        else:
            what = f"pod {pod.name} names sub-group {pod.sub_group}, which does not exist"
        known = f" ({', '.join(sorted(leaves))})" if leaves else ""
        remedy = f"Correct the pod's label tutti.scheduler/sub-group{known}, or spec.subGroups of the PodGroup."
        problems.append(InvalidGang(gang=id_.name, problem=what, remedy=remedy))
        return


def _duration(sources: Sources, problems: list[Reason], *names: str) -> int | None:
    text, object_, name = sources.annotation(*names)
    if not text:
        return None
    read = duration_ms(text)
    if read is None:
        problems.append(
            Unreadable(
                object=object_,
                field=f"metadata.annotations[{name}]",
                problem=f"{text[:40]!r} is no duration",
                remedy="Write one such as 90s or 1h30m.",
            )
        )
    return read


def _grace(spec: GroupSpec, sources: Sources, problems: list[Reason]) -> int | None:
    if spec.staleness_grace_ms != STALENESS_GRACE_MS:
        return spec.staleness_grace_ms
    read = _duration(sources, problems, KAI_GRACE_ANNOTATION)
    if read is None:
        # What a Ray cluster needs grows when it is scaled up: what runs is not to end for want of the rest. Grove ends
        # gangs itself, after a delay that it is told.
        return None if spec.kind in (RAY_CLUSTER, POD_GANG) else STALENESS_GRACE_MS
    return None if read < 0 else read


def _distinct(problems: Sequence[Reason]) -> tuple[Reason, ...]:
    found: list[Reason] = []
    for problem in problems:
        if problem not in found:
            found.append(problem)
    return tuple(found)
