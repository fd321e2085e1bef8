"""What a kubelet checks before it runs a pod that was bound to its node: resources, node selection, taints.

A pod refused here becomes Failed and its controller makes another one. Source: the kubelet's admission handlers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from scheduler.api.quantity import thousandths, units
from scheduler.devcluster.objects import Obj, field_of, name_of

# Amounts by resource: CPU in thousandths, everything else in units (bytes, counts).
Amounts = dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a kubelet does not run a pod: status.reason and status.message of the pod that fails."""

    reason: str
    message: str


@lru_cache(maxsize=4096)
def _amount(resource: str, quantity: str) -> int:
    return thousandths(quantity) if resource == "cpu" else units(quantity)


def amounts(quantities: Mapping[str, str] | None) -> Amounts:
    """A map of quantities as integers. Raises QuantityError."""
    return {name: _amount(name, str(quantity)) for name, quantity in (quantities or {}).items()}


def requests_of(pod: Obj) -> Amounts:
    """What the pod takes of its node: the larger of its containers' sum (with sidecars) and each init container's own
    with the sidecars started before it; pod-level requests instead where they are set; overhead; one pod."""
    spec = pod["spec"]
    total: Amounts = {}
    for container in spec["containers"]:
        _add(total, _requests(container))
    sidecars: Amounts = {}
    peak: Amounts = {}
    for container in spec.get("initContainers") or ():
        own = _requests(container)
        if container.get("restartPolicy") == "Always":
            _add(sidecars, own)
            own = {}
        for name in own.keys() | sidecars.keys():
            peak[name] = max(peak.get(name, 0), own.get(name, 0) + sidecars.get(name, 0))
    _add(total, sidecars)
    for name, amount in peak.items():
        total[name] = max(total.get(name, 0), amount)
    total |= amounts(field_of(spec, "resources", "requests"))
    _add(total, amounts(spec.get("overhead")))
    total["pods"] = 1
    return {name: total[name] for name in sorted(total)}


def _requests(container: Obj) -> Amounts:
    return amounts(field_of(container, "resources", "requests"))


def _add(total: Amounts, more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def served_by_claims(pod: Obj) -> frozenset[str]:
    """The extended resources that come to this pod as devices of a claim (KEP 5004), not from the node's count."""
    mappings = field_of(pod, "status", "extendedResourceClaimStatus", "requestMappings") or ()
    return frozenset(mapping["resourceName"] for mapping in mappings)


def refusal(pod: Obj, requests: Amounts, node: Obj, used: Amounts) -> Refusal | None:
    """The first reason not to run the pod on the node where `used` is taken already; None to run it."""
    allocatable = amounts(field_of(node, "status", "allocatable"))
    by_claims = served_by_claims(pod)
    for name, asked in requests.items():
        # A kubelet ignores extended resources it does not have: something else in the cluster serves them.
        if asked == 0 or name in by_claims or ("/" in name and name not in allocatable):
            continue
        free = allocatable.get(name, 0) - used.get(name, 0)
        if asked > free:
            text = (
                f"Pod was rejected: Node didn't have enough resource: {name}, requested: {asked}, "
                f"used: {used.get(name, 0)}, capacity: {allocatable.get(name, 0)}"
            )
            return Refusal(reason=f"OutOf{name}", message=text)
    if not selects_node(pod, node):
        text = "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
        return Refusal(reason="NodeAffinity", message=text)
    tolerations = pod["spec"].get("tolerations") or ()
    for taint in field_of(node, "spec", "taints") or ():
        if taint.get("effect") == "NoExecute" and not any(_tolerates(entry, taint) for entry in tolerations):
            text = "Pod was rejected: Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"
            return Refusal(reason="TaintToleration", message=f"{text}: {taint['key']}")
    return None


def _tolerates(toleration: Obj, taint: Obj) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("key") not in (None, "", taint.get("key")):
        return False
    return toleration.get("operator") == "Exists" or (toleration.get("value") or "") == (taint.get("value") or "")


# --- node selection -----------------------------------------------------------------------------------------------


def selects_node(pod: Obj, node: Obj) -> bool:
    """The pod's nodeSelector and required node affinity both take this node."""
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (pod["spec"].get("nodeSelector") or {}).items()):
        return False
    required = field_of(pod["spec"], "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
    return required is None or node_selector_matches(required, node)


def node_selector_matches(selector: Obj, node: Obj) -> bool:
    """Any term of a core/v1 NodeSelector matches; a term without expressions matches nothing."""
    labels: Mapping[str, str] = node["metadata"].get("labels") or {}
    fields = {"metadata.name": name_of(node)}
    for term in selector.get("nodeSelectorTerms") or ():
        expressions, on_fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
        if (expressions or on_fields) and _all_hold(expressions, labels) and _all_hold(on_fields, fields):
            return True
    return False


def _all_hold(expressions: Iterable[Obj], values: Mapping[str, str]) -> bool:
    return all(
        _OPERATORS[entry["operator"]](values.get(entry["key"]), entry.get("values") or []) for entry in expressions
    )


def _number(text: str | None) -> int | None:
    try:
        return int(text or "")
    except ValueError:
        return None


def _compares(value: str | None, bounds: list[str], sign: int) -> bool:
    number, bound = _number(value), _number(bounds[0] if bounds else None)
    return number is not None and bound is not None and (number - bound) * sign > 0


_OPERATORS: dict[str, Callable[[str | None, list[str]], bool]] = {
    "In": lambda value, values: value in values,
    "NotIn": lambda value, values: value not in values,
    "Exists": lambda value, _values: value is not None,
    "DoesNotExist": lambda value, _values: value is None,
    "Gt": lambda value, bounds: _compares(value, bounds, 1),
    "Lt": lambda value, bounds: _compares(value, bounds, -1),
}
