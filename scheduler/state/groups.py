"""PodGroups in every dialect we read -> GroupSpec, and what contradicts itself in them.

Minimum: minMember or minSubGroup (ours, KAI's), schedulingPolicy.gang.minCount (native), minMember (coscheduling).
Topology: topologyConstraint.{required,preferred}Level (ours) or ...TopologyLevel (KAI's);
schedulingConstraints.topology[0].key, a node label (native); none (coscheduling).
Source: KAI's CRDs and webhook, KEP 4671, scheduler-plugins; reference kai.md 2.2, kubernetes.md 6.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from scheduler.api.kinds import (
    COSCHEDULING_POD_GROUP,
    KAI_POD_GROUP,
    NATIVE_POD_GROUP,
    POD_GROUP,
    SEED_POD_GROUP,
    Document,
    Kind,
)
from scheduler.api.meta import ObjectMeta
from scheduler.model.workloads import SubGroup, TopologyConstraint
from scheduler.state.dialects import fields_of
from scheduler.state.fields import Fields, time_ms

GROUP_KINDS: tuple[Kind, ...] = (
    POD_GROUP,
    NATIVE_POD_GROUP,
    KAI_POD_GROUP,
    SEED_POD_GROUP,
    COSCHEDULING_POD_GROUP,
)
KAI_KINDS = frozenset({KAI_POD_GROUP, SEED_POD_GROUP})

_JOIN = "+"

# KAI: a gang below its minimum for longer than this loses its pods.
STALENESS_GRACE_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What contradicts itself in a group, and what to do; becomes an InvalidGang."""

    problem: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSpec:
    """A PodGroup as read. Topology levels are as written, aliases not resolved. `staleness_grace_ms` None: never."""

    kind: Kind
    meta: ObjectMeta
    queue: str = ""
    priority_class: str = ""
    priority: int | None = None
    preemptible: bool | None = None
    min_member: int = 1
    min_sub_group: int | None = None
    sub_groups: tuple[SubGroup, ...] = ()
    topology: TopologyConstraint | None = None
    preemption_delay_ms: int = 0
    staleness_grace_ms: int | None = STALENESS_GRACE_MS
    max_runtime_ms: int | None = None
    checkpoint_interval_ms: int | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def created_ms(self) -> int:
        return time_ms(self.meta.creation_timestamp)


def group(kind: Kind, document: Document) -> GroupSpec:
    """What a document of one of GROUP_KINDS says. Raises Bad for a field that cannot be read."""
    spec = fields_of(kind, document)
    if kind == NATIVE_POD_GROUP:
        return _native(kind, document.metadata, spec)
    if kind == COSCHEDULING_POD_GROUP:
        return GroupSpec(kind=kind, meta=document.metadata, min_member=_minimum(spec, "minMember", 1))
    return _ours_or_kai(kind, document.metadata, spec)


def preemptible(value: str) -> bool | None:
    """The two words that are understood; None for any other, "" included."""
    return {"preemptible": True, "non-preemptible": False}.get(value)


def _ours_or_kai(kind: Kind, meta: ObjectMeta, spec: Fields) -> GroupSpec:
    sub_groups = tuple(_sub_group(each, kind) for each in spec.items("subGroups"))
    min_member = spec.whole("minMember", most=100_000)
    min_sub_group = spec.whole("minSubGroup", most=100_000)
    word = spec.text("preemptibility")
    if word and preemptible(word) is None:
        raise spec.bad("preemptibility", f"{word!r} is neither", "Write preemptible or non-preemptible.")
    grace = spec.duration_ms("stalenessGracePeriod")
    delay = spec.duration_ms("preemptionDelay") or 0
    return GroupSpec(
        kind=kind,
        meta=meta,
        queue=spec.text("queue"),
        priority_class=spec.text("priorityClassName"),
        preemptible=preemptible(word),
        min_member=1 if min_member is None else min_member,
        min_sub_group=min_sub_group,
        sub_groups=sub_groups,
        topology=_topology(spec, kind),
        preemption_delay_ms=max(delay, 0),
        staleness_grace_ms=STALENESS_GRACE_MS if grace is None else None if grace < 0 else grace,
        max_runtime_ms=_positive(spec, "maxRuntime"),
        checkpoint_interval_ms=_positive(spec, "checkpointInterval"),
        problems=tuple(contradictions(kind, min_member, min_sub_group, sub_groups)),
    )


def _native(kind: Kind, meta: ObjectMeta, spec: Fields) -> GroupSpec:
    """Basic policy: no minimum, only a unit for topology and priority. The topology key is a node label of its own."""
    gang = spec.mapping("schedulingPolicy").mapping("gang")
    keys = [each.text("key") for each in spec.mapping("schedulingConstraints").items("topology")]
    label = next((key for key in keys if key), "")
    return GroupSpec(
        kind=kind,
        meta=meta,
        priority_class=spec.text("priorityClassName"),
        priority=spec.whole("priority", least=-(2**31)),
        min_member=_minimum(gang, "minCount", 1) if spec.mapping("schedulingPolicy").has("gang") else 0,
        topology=by_labels(label, ""),
    )


def by_labels(required: str, preferred: str, topology: str = "") -> TopologyConstraint | None:
    """A constraint whose levels are node labels. If no topology is named, one is made of just these."""
    if not (required or preferred):
        return None
    made = made_of(required or None, preferred or None)
    return TopologyConstraint(topology=topology or made, required=required or None, preferred=preferred or None)


def made_of(required: str | None, preferred: str | None) -> str:
    """The name of the topology made of these node labels; neither labels nor names of topologies contain its sign."""
    return _JOIN.join(dict.fromkeys(level for level in (required, preferred) if level))


def levels_of(made: str) -> tuple[str, ...]:
    """The levels of such a topology, coarse to fine."""
    return tuple(made.split(_JOIN))


def _sub_group(fields: Fields, kind: Kind) -> SubGroup:
    name = fields.text("name")
    if not name:
        raise fields.bad("name", "is missing", f"Give the sub-group a name in {fields.at('name')}.")
    return SubGroup(
        name=name,
        parent=fields.text("parent") or None,
        min_member=fields.whole("minMember", most=100_000),
        min_sub_group=fields.whole("minSubGroup", most=100_000),
        topology=_topology(fields, kind),
    )


def _topology(fields: Fields, kind: Kind) -> TopologyConstraint | None:
    constraint = fields.mapping("topologyConstraint")
    if not constraint.values:
        return None
    word = "TopologyLevel" if kind in KAI_KINDS else "Level"
    required = constraint.text(f"required{word}")
    preferred = constraint.text(f"preferred{word}")
    if not (required or preferred):
        return None
    name = constraint.text("topology")
    if not name:
        raise constraint.bad("topology", "is missing", f"Name a Topology in {constraint.at('topology')}.")
    return TopologyConstraint(topology=name, required=required or None, preferred=preferred or None)


def contradictions(
    kind: Kind, min_member: int | None, min_sub_group: int | None, sub_groups: tuple[SubGroup, ...]
) -> Iterable[Problem]:
    """What no cluster could ever satisfy: two minima, unknown parents, cycles, minima at the wrong level."""
    names = Counter(each.name for each in sub_groups)
    parents = {each.parent for each in sub_groups if each.parent is not None}
    if min_member is not None and min_sub_group is not None:
        yield Problem(problem="it sets both minMember and minSubGroup", remedy="Remove one of them.")
    elif min_member is not None and sub_groups and kind == POD_GROUP:
        yield Problem(
            problem="it sets minMember although it has sub-groups",
            remedy="Set minMember on the sub-groups that hold pods, and minSubGroup on the PodGroup.",
        )
    if min_sub_group is not None and not sub_groups:
        yield Problem(problem="it sets minSubGroup and has no sub-groups", remedy="Add subGroups, or set minMember.")
    tops = sum(1 for each in sub_groups if each.parent is None)
    if min_sub_group is not None and sub_groups and min_sub_group > tops:
        yield Problem(
            problem=f"minSubGroup is {min_sub_group} and it has {tops} sub-groups at the top",
            remedy=f"Lower minSubGroup to {tops}, or add sub-groups.",
        )
    for name in sorted(name for name, times in names.items() if times > 1):
        yield Problem(problem=f"two sub-groups are named {name}", remedy="Rename one of them.")
    for each in sorted(sub_groups, key=lambda each: each.name):
        yield from _sub_group_contradictions(each, sub_groups, names, each.name in parents)
    yield from _cycles(sub_groups)


def _sub_group_contradictions(
    each: SubGroup, all_: tuple[SubGroup, ...], names: Counter[str], inner: bool
) -> Iterable[Problem]:
    if each.parent is not None and each.parent not in names:
        yield Problem(
            problem=f"sub-group {each.name} has parent {each.parent}, which does not exist",
            remedy=f"Add sub-group {each.parent}, or correct the parent of {each.name}.",
        )
    if inner and each.min_member is not None:
        yield Problem(
            problem=f"sub-group {each.name} has sub-groups below it and sets minMember",
            remedy=f"Set minSubGroup on {each.name}, or minMember on those below it.",
        )
    if not inner and each.min_sub_group is not None:
        yield Problem(
            problem=f"sub-group {each.name} has none below it and sets minSubGroup",
            remedy=f"Set minMember on {each.name}.",
        )
    children = sum(1 for other in all_ if other.parent == each.name)
    if inner and each.min_sub_group is not None and each.min_sub_group > children:
        yield Problem(
            problem=f"sub-group {each.name} needs {each.min_sub_group} sub-groups and has {children}",
            remedy=f"Lower minSubGroup of {each.name} to {children}.",
        )


def _cycles(sub_groups: tuple[SubGroup, ...]) -> Iterable[Problem]:
    parent = {each.name: each.parent for each in sub_groups}
    settled: set[str] = set()
    for start in sorted(parent):
        path: list[str] = []
        step: str | None = start
        while step is not None and step in parent and step not in settled and step not in path:
            path.append(step)
            step = parent[step]
        if step in path:
            yield Problem(
                problem=f"the parents of sub-group {step} form a cycle", remedy="Remove the parent of one of them."
            )
        settled.update(path)


def _minimum(fields: Fields, name: str, absent: int) -> int:
    read = fields.whole(name, most=100_000)
    return absent if read is None else read


def _positive(fields: Fields, name: str) -> int | None:
    read = fields.duration_ms(name)
    if read is not None and read <= 0:
        raise fields.bad(name, "is not positive", f"Write a duration above 0s in {fields.at(name)}.")
    return read
