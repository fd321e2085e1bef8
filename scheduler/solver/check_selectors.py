"""What selects a node, and what tolerates a taint, as the checker of plans reads them.

Source: core/v1 NodeSelector and Toleration; resource.k8s.io/v1 DeviceToleration.
"""

from collections.abc import Iterable

from scheduler.api.core import NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration
from scheduler.api.dra import DeviceTaint, DeviceToleration
from scheduler.model.nodes import Node

NAME_FIELD = "metadata.name"
STOPPING = ("NoSchedule", "NoExecute")
"""Effects of taints that keep out what does not tolerate them."""


def tolerates(
    tolerations: Iterable[Toleration] | Iterable[DeviceToleration] | None, taint: Taint | DeviceTaint
) -> bool:
    """Whether one of the tolerations covers the taint. No key stands for every key, no effect for every effect."""
    for toleration in tolerations or ():
        covered = toleration.effect in ("", taint.effect) and toleration.key in ("", taint.key)
        if covered and toleration.operator == "Exists":
            return True
        if covered and toleration.operator in ("", "Equal") and toleration.value == taint.value:
            return True
    return False


def selects(selector: NodeSelector, node: Node) -> bool:
    """Terms are ORed; an empty term selects nothing."""
    return any(_term(term, node) for term in selector.node_selector_terms)


def _term(term: NodeSelectorTerm, node: Node) -> bool:
    wanted = [(requirement, node.labels.get(requirement.key)) for requirement in term.match_expressions or ()]
    fields = {NAME_FIELD: node.name}
    wanted += [(requirement, fields.get(requirement.key)) for requirement in term.match_fields or ()]
    return bool(wanted) and all(fulfils(requirement, value) for requirement, value in wanted)


def fulfils(requirement: NodeSelectorRequirement, value: str | None) -> bool:
    """Whether a label's value (None: there is no such label) is what is required."""
    values = requirement.values or ()
    match requirement.operator:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" if value is not None and len(values) == 1:
            try:
                more = int(value) - int(values[0])
            except ValueError:
                return False
            return more > 0 if requirement.operator == "Gt" else more < 0
        case _:
            return False
