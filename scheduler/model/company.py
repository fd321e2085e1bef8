"""What a pod wants of the pods around it: near some, apart from others, spread evenly.

Source: core/v1 PodAffinity, PodAntiAffinity, TopologySpreadConstraint; KEP 895, KEP 3633 (match label keys).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from scheduler.api.core import NodeSelectorRequirement


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """The pods that a rule looks at: those of the namespaces whose labels hold all of `labels`.

    A pod is in if its namespace is one of `namespaces`, or has labels that hold all of `namespace_labels` (None: that
    way nobody comes in; empty: everybody). `nobody`: there is no label selector, which selects nothing."""

    labels: tuple[NodeSelectorRequirement, ...] = ()
    namespaces: tuple[str, ...] = ()
    namespace_labels: tuple[NodeSelectorRequirement, ...] | None = None
    nobody: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """An audience, and the node label (`key`) whose values are the domains in which it is looked for."""

    key: str
    audience: Audience


@dataclass(frozen=True, slots=True, kw_only=True)
class Taste:
    """A preference: `weight` (1 to 100; below zero to be apart) if the audience is in the domain."""

    weight: int
    term: Term


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """In no domain more than `max_skew` pods of the audience above the domain that has the fewest; with fewer than
    `min_domains` domains the fewest counts as 0. Only nodes that the pod may run on make domains: by its node selector
    and affinity if `by_affinity`, by their taints if `by_taints`. `hard` False: a preference."""

    term: Term
    max_skew: int
    min_domains: int = 1
    hard: bool = True
    by_affinity: bool = True
    by_taints: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Company:
    """All rules of one pod about others. `near`: to be in a domain, by every key, with a pod that is in the audiences
    of all of them; where there is none anywhere and the pod is in all of them itself, it may be the first."""

    near: tuple[Term, ...] = ()
    apart: tuple[Term, ...] = ()
    tastes: tuple[Taste, ...] = ()
    spread: tuple[Spread, ...] = ()


def holds(requirements: tuple[NodeSelectorRequirement, ...], labels: Mapping[str, str]) -> bool:
    """Whether labels hold all requirements (In, NotIn, Exists, DoesNotExist); an unknown operator holds nowhere."""
    return all(_holds(requirement, labels.get(requirement.key)) for requirement in requirements)


def _holds(requirement: NodeSelectorRequirement, value: str | None) -> bool:
    match requirement.operator:
        case "In":
            return value is not None and value in (requirement.values or ())
        case "NotIn":
            return value is None or value not in (requirement.values or ())
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case _:
            return False
