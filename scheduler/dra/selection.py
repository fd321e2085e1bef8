"""Node selectors of slices, devices and allocations: where a device may be used.

Source: core/v1 NodeSelector; resource.k8s.io/v1 ResourceSlice.spec (nodeName, nodeSelector, allNodes).
"""

from collections.abc import Callable, Iterable

from scheduler.api.core import NodeSelector, NodeSelectorRequirement, NodeSelectorTerm
from scheduler.api.dra import AllocationResult
from scheduler.model.nodes import Node

NAME_FIELD = "metadata.name"


def matches(selector: NodeSelector, node: Node) -> bool:
    """Whether one of the selector's terms holds. A term without requirements matches nothing, as in Kubernetes."""
    return any(_term_matches(term, node) for term in selector.node_selector_terms)


def usable_on(allocation: AllocationResult, node: Node) -> bool:
    """Whether a pod on this node can use what is allocated; without a node selector every node can."""
    return allocation.node_selector is None or matches(allocation.node_selector, node)


def only_on(name: str) -> NodeSelector:
    """The selector of devices that one node has."""
    requirement = NodeSelectorRequirement(key=NAME_FIELD, operator="In", values=(name,))
    return NodeSelector(node_selector_terms=(NodeSelectorTerm(match_fields=(requirement,)),))


def _term_matches(term: NodeSelectorTerm, node: Node) -> bool:
    expressions, fields = term.match_expressions or (), term.match_fields or ()
    if not expressions and not fields:
        return False
    return all(_holds(r, node.labels.get(r.key)) for r in expressions) and all(
        _holds(r, node.name if r.key == NAME_FIELD else None) for r in fields
    )


def _holds(requirement: NodeSelectorRequirement, value: str | None) -> bool:
    rule = _OPERATORS.get(requirement.operator)
    return rule is not None and rule(value, requirement.values or ())


def _compared(sign: int) -> Callable[[str | None, Iterable[str]], bool]:
    def rule(value: str | None, values: Iterable[str]) -> bool:
        try:
            (bound,) = map(int, values)
            return value is not None and sign * (int(value) - bound) > 0
        except ValueError:
            return False  # not one whole number: Kubernetes lets such a requirement match nothing

    return rule


# What each operator asks of a label's value (None: there is no such label). An unknown operator matches nothing.
_OPERATORS: dict[str, Callable[[str | None, Iterable[str]], bool]] = {
    "In": lambda value, values: value is not None and value in values,
    "NotIn": lambda value, values: value is None or value not in values,
    "Exists": lambda value, values: value is not None,  # noqa: ARG005
    "DoesNotExist": lambda value, values: value is None,  # noqa: ARG005
    "Gt": _compared(+1),
    "Lt": _compared(-1),
}
