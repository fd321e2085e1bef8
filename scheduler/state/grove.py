"""Grove's PodGangs -> sub-group trees.

A PodGang is all or nothing in the minima of all its pod groups. One that scales another out names it in a label and is
nothing without it, so both are one gang: the base is required, each further PodGang is added whole or not at all, and
all stay in the domain that the base's constraint has put it in. Levels are node labels; an annotation may name the
topology they belong to. Source: Grove's PodGang API (scheduler.grove.io/v1alpha1); reference peers.md 4.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from scheduler.api import core
from scheduler.api.kinds import POD_GANG, Document
from scheduler.model.workloads import SubGroup, TopologyConstraint
from scheduler.state.dialects import fields_of
from scheduler.state.fields import Bad, Fields
from scheduler.state.groups import GroupSpec, Problem, by_labels, contradictions

POD_GANG_LABEL = "grove.io/podgang"
BASE_LABEL = "grove.io/base-podgang"
CLIQUE_LABEL = "grove.io/podclique"
_TOPOLOGY_ANNOTATIONS = ("grove.io/topology-name", "kai.scheduler/topology")

# No name of an object contains brackets or a stroke, so these never meet a pod group's own name.
_BASE, _SCALED = "(base)", "(scaled out)"


def base_of(document: Document | None, pod_labels: Mapping[str, str]) -> str:
    """The PodGang that the pod's own one scales out; "" if its own is no such."""
    labels = document.metadata.labels if document is not None else None
    return (labels or {}).get(BASE_LABEL, "") or pod_labels.get(BASE_LABEL, "")


def leaf_of(pod: core.Pod, document: Document | None, *, scaled: bool) -> str:
    """The pod group that the pod is in: as its label says, unless only the references of the PodGang tell."""
    labels = pod.metadata.labels or {}
    named = labels.get(CLIQUE_LABEL, "")
    if document is not None:
        with suppress(Bad):  # the gang says so, with the field
            named = _group_of(fields_of(POD_GANG, document), pod.metadata.name, named)
    return f"{labels[POD_GANG_LABEL]}/{named}" if scaled and named else named


def spec(base: str, gangs: Sequence[Document]) -> GroupSpec | Problem:
    """What these PodGangs say: the base (its key), and those that scale it out; why not, without a base. Raises Bad."""
    found = next((each for each in gangs if each.metadata.key == base), None)
    scaled = sorted((each for each in gangs if each.metadata.key != base), key=lambda each: each.metadata.name)
    if found is None:
        return Problem(
            problem=f"PodGang {base}, without which none of it starts, does not exist",
            remedy=f"Wait until Grove has made PodGang {base}, or delete the pods that name it.",
        )
    groups = list(_groups(found, "", _BASE if scaled else None))
    if scaled:
        groups += [SubGroup(name=_BASE), SubGroup(name=_SCALED, min_sub_group=0)]
    for each in scaled:
        name = each.metadata.name
        groups.append(SubGroup(name=f"({name})", parent=_SCALED, topology=_constraint(each, fields_of(POD_GANG, each))))
        groups += _groups(each, f"{name}/", f"({name})")
    problems = [problem for each in (found, *scaled) for problem in _claimed_twice(each)]
    fields = fields_of(POD_GANG, found)
    return GroupSpec(
        kind=POD_GANG,
        meta=found.metadata,
        priority_class=fields.text("priorityClassName"),
        sub_groups=tuple(groups),
        topology=_constraint(found, fields),
        problems=(*problems, *contradictions(POD_GANG, None, None, tuple(groups))),
    )


def _groups(document: Document, prefix: str, parent: str | None) -> Iterator[SubGroup]:
    """The pod groups of a PodGang as leaves, below the constraint that several of them share if there is one."""
    fields = fields_of(POD_GANG, document)
    above: dict[str, str] = {}
    for config in fields.items("topologyConstraintGroupConfigs"):
        name = f"{prefix}({config.text('name')})"
        inside = config.list_of_texts("podGroupNames")
        if inside:
            above.update(dict.fromkeys(inside, name))
            yield SubGroup(name=name, parent=parent, topology=_constraint(document, config))
    for group in fields.items("podgroups"):
        name = group.text("name")
        if not name:
            raise group.bad("name", "is missing", f"Give the pod group a name in {group.at('name')}.")
        yield SubGroup(
            name=f"{prefix}{name}",
            parent=above.get(name, parent),
            min_member=group.whole("minReplicas", most=100_000),
            topology=_constraint(document, group),
        )


def _constraint(document: Document, fields: Fields) -> TopologyConstraint | None:
    pack = fields.mapping("topologyConstraint").mapping("packConstraint")
    annotations = document.metadata.annotations or {}
    named = next((annotations[name] for name in _TOPOLOGY_ANNOTATIONS if annotations.get(name)), "")
    return by_labels(pack.text("required"), pack.text("preferred"), named)


def _references(group: Fields) -> list[str]:
    return [each.text("name") for each in group.items("podReferences")]


def _group_of(fields: Fields, pod: str, named: str) -> str:
    groups = list(fields.items("podgroups"))
    if any(group.text("name") == named for group in groups):
        return named
    return next((group.text("name") for group in groups if pod in _references(group)), named)


def _claimed_twice(document: Document) -> Iterator[Problem]:
    holder: dict[str, str] = {}
    for group in fields_of(POD_GANG, document).items("podgroups"):
        name = group.text("name")
        for pod in _references(group):
            other = holder.setdefault(pod, name)
            if other != name:
                yield Problem(
                    problem=f"pod {pod} is in two pod groups of PodGang {document.metadata.name} ({other}, {name})",
                    remedy=f"Name the pod in one of them; its label {CLIQUE_LABEL} counts meanwhile.",
                )
                return
