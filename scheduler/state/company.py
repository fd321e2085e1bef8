"""The rules of a pod about other pods, read off its spec: affinity, anti-affinity, topology spread."""

from collections.abc import Iterable

from scheduler.api import core
from scheduler.api.core import NodeSelectorRequirement
from scheduler.api.meta import LabelSelector
from scheduler.model.company import Audience, Company, Spread, Taste, Term


def company(pod: core.Pod) -> Company | None:
    """None if the pod does not look at others."""
    spec = pod.spec
    near = spec.affinity.pod_affinity if spec.affinity else None
    apart = spec.affinity.pod_anti_affinity if spec.affinity else None
    spread = spec.topology_spread_constraints or ()
    if near is None and apart is None and not spread:
        return None
    found = Company(
        near=_required(pod, near),
        apart=_required(pod, apart),
        tastes=(*_tastes(pod, near, 1), *_tastes(pod, apart, -1)),
        spread=tuple(_spread(pod, constraint) for constraint in spread),
    )
    return None if found == Company() else found


def _required(pod: core.Pod, rules: core.PodAffinity | None) -> tuple[Term, ...]:
    terms = rules.required_during_scheduling_ignored_during_execution if rules else None
    return tuple(_term(pod, term) for term in terms or ())


def _tastes(pod: core.Pod, rules: core.PodAffinity | None, sign: int) -> tuple[Taste, ...]:
    terms = rules.preferred_during_scheduling_ignored_during_execution if rules else None
    return tuple(Taste(weight=sign * each.weight, term=_term(pod, each.pod_affinity_term)) for each in terms or ())


def _term(pod: core.Pod, term: core.PodAffinityTerm) -> Term:
    """Without namespaces and a namespace selector, the pod's own namespace is meant."""
    namespaces, selector = term.namespaces or (), term.namespace_selector
    if not namespaces and selector is None:
        namespaces = (pod.metadata.namespace,)
    more = (*_own(pod, term.match_label_keys, "In"), *_own(pod, term.mismatch_label_keys, "NotIn"))
    return Term(
        key=term.topology_key,
        audience=Audience(
            labels=requirements(term.label_selector, more),
            namespaces=tuple(sorted(set(namespaces))),
            namespace_labels=None if selector is None else requirements(selector),
            nobody=term.label_selector is None,
        ),
    )


def _spread(pod: core.Pod, rule: core.TopologySpreadConstraint) -> Spread:
    return Spread(
        term=Term(
            key=rule.topology_key,
            audience=Audience(
                labels=requirements(rule.label_selector, _own(pod, rule.match_label_keys, "In")),
                namespaces=(pod.metadata.namespace,),
                nobody=rule.label_selector is None,
            ),
        ),
        max_skew=rule.max_skew,
        min_domains=rule.min_domains or 1,
        hard=rule.when_unsatisfiable != "ScheduleAnyway",
        by_affinity=rule.node_affinity_policy != "Ignore",
        by_taints=rule.node_taints_policy == "Honor",
    )


def requirements(
    selector: LabelSelector | None, more: Iterable[NodeSelectorRequirement] = ()
) -> tuple[NodeSelectorRequirement, ...]:
    """All that the labels have to hold, sorted and each once: equal selectors are equal however they are written."""
    if selector is None:
        return ()
    found: set[tuple[str, str, tuple[str, ...]]] = set()
    found.update((key, "In", (value,)) for key, value in (selector.match_labels or {}).items())
    found.update(
        (each.key, each.operator, tuple(sorted(each.values or ()))) for each in selector.match_expressions or ()
    )
    found.update((each.key, each.operator, each.values or ()) for each in more)
    return tuple(NodeSelectorRequirement(key=key, operator=op, values=values) for key, op, values in sorted(found))


def _own(pod: core.Pod, keys: Iterable[str] | None, operator: str) -> list[NodeSelectorRequirement]:
    """What the pod itself has under these keys, as requirements; keys it does not have are left out."""
    labels = pod.metadata.labels or {}
    return [
        NodeSelectorRequirement(key=key, operator=operator, values=(labels[key],))
        for key in keys or ()
        if key in labels
    ]
