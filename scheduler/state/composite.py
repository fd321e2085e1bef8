"""Native PodGroups below CompositePodGroups -> one gang with a sub-group for each, as deep as they are nested.

A composite with a gang policy needs so many of the groups directly below it; with a basic one, none in particular.
Source: scheduling.k8s.io v1beta1 PodGroup and v1alpha3 CompositePodGroup; reference kubernetes.md 6.1.
"""

from collections.abc import Sequence

from scheduler.api.kinds import COMPOSITE_POD_GROUP, NATIVE_POD_GROUP, Document, Kind
from scheduler.model.workloads import SubGroup
from scheduler.state.dialects import fields_of
from scheduler.state.fields import Bad
from scheduler.state.groups import GroupSpec, Problem, by_labels, contradictions, group
from scheduler.state.lineage import Above, Find

_DEEPEST = 8
"""The API allows four."""


def above(key: str, find: Find) -> Above:
    """The composites above the PodGroup of this key, the outermost first; those that are not (yet) there included."""
    found: list[tuple[Kind, str]] = []
    step = _parent(NATIVE_POD_GROUP, find(NATIVE_POD_GROUP, key))
    while step and len(found) < _DEEPEST:
        name = (COMPOSITE_POD_GROUP, f"{key.partition('/')[0]}/{step}")
        if name in found:
            break
        found.append(name)
        step = _parent(COMPOSITE_POD_GROUP, find(*name))
    return tuple(reversed(found))


def spec(top: str, known: Sequence[tuple[Kind, Document]]) -> GroupSpec | None:
    """What the composite of this key asks for with all that is known below; None while it is not known. Raises Bad."""
    composites = [document for kind, document in known if kind == COMPOSITE_POD_GROUP]
    root = next((each for each in composites if each.metadata.key == top), None)
    if root is None:
        return None
    subs = [
        SubGroup(
            name=f"({each.metadata.name})",
            parent=_inside(COMPOSITE_POD_GROUP, each, root),
            min_sub_group=_least(each),
            topology=by_labels(_label(COMPOSITE_POD_GROUP, each), ""),
        )
        for each in composites
        if each is not root
    ]
    for each in (document for kind, document in known if kind == NATIVE_POD_GROUP):
        read = group(NATIVE_POD_GROUP, each)
        parent = _inside(NATIVE_POD_GROUP, each, root)
        name = each.metadata.name
        subs.append(SubGroup(name=name, parent=parent, min_member=read.min_member, topology=read.topology))
    fields = fields_of(COMPOSITE_POD_GROUP, root)
    least = _least(root)
    problems = list(contradictions(COMPOSITE_POD_GROUP, None, least, tuple(subs)))
    if _parent(COMPOSITE_POD_GROUP, root):  # the outermost has none, unless there is no end to them
        problems.append(
            Problem(
                problem=f"the CompositePodGroups above it form a cycle, or are more than {_DEEPEST}",
                remedy="Correct spec.parentCompositePodGroupName of one of them.",
            )
        )
    return GroupSpec(
        kind=COMPOSITE_POD_GROUP,
        meta=root.metadata,
        priority_class=fields.text("priorityClassName"),
        priority=fields.whole("priority", least=-(2**31)),
        min_sub_group=least,
        sub_groups=tuple(subs),
        topology=by_labels(_label(COMPOSITE_POD_GROUP, root), ""),
        problems=tuple(problems),
    )


def _parent(kind: Kind, document: Document | None) -> str:
    if document is None:
        return ""
    try:
        return fields_of(kind, document).text("parentCompositePodGroupName")
    except Bad:  # told when the group itself is read
        return ""


def _inside(kind: Kind, document: Document, root: Document) -> str | None:
    parent = _parent(kind, document)
    return None if parent == root.metadata.name else f"({parent})"


def _least(document: Document) -> int | None:
    policy = fields_of(COMPOSITE_POD_GROUP, document).mapping("schedulingPolicy")
    if policy.has("gang"):
        return policy.mapping("gang").whole("minGroupCount", most=100_000)
    return 0 if policy.has("basic") else None


def _label(kind: Kind, document: Document) -> str:
    keys = (each.text("key") for each in fields_of(kind, document).mapping("schedulingConstraints").items("topology"))
    return next((key for key in keys if key), "")
