"""Where a pod wants to run: tolerations, node selectors, affinity to other pods, spread. Their validation."""

from __future__ import annotations

from typing import Any

from scheduler.devcluster import errors
from scheduler.devcluster.errors import FieldError
from scheduler.devcluster.objects import Obj


def toleration_faults(tolerations: list[Obj], path: str) -> list[FieldError]:
    """Faults of tolerations: operators, effects, and what goes with them."""
    faults = []
    for index, entry in enumerate(tolerations):
        operator, effect = entry.get("operator") or "Equal", entry.get("effect")
        at = f"{path}[{index}]"
        if operator not in ("Equal", "Exists", "Lt", "Gt"):
            faults.append(errors.unsupported(f"{at}.operator", operator, ("Equal", "Exists", "Lt", "Gt")))
        elif operator == "Exists" and entry.get("value"):
            text = "value must be empty when `operator` is 'Exists'"
            faults.append(errors.invalid(f"{at}.operator", entry["value"], text))
        elif not entry.get("key") and operator != "Exists":
            text = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
            faults.append(errors.invalid(f"{at}.operator", operator, text))
        if effect and effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
            faults.append(errors.unsupported(f"{at}.effect", effect, ("NoSchedule", "PreferNoSchedule", "NoExecute")))
    return faults


def _term_faults(term: Obj, path: str) -> list[FieldError]:
    faults = []
    for field in ("matchExpressions", "matchFields"):
        for index, expression in enumerate(term.get(field) or ()):
            at = f"{path}.{field}[{index}]"
            operator, values = expression.get("operator"), expression.get("values")
            if operator not in ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"):
                faults.append(errors.invalid(f"{at}.operator", operator, "not a valid selector operator"))
            elif operator in ("In", "NotIn") and not values:
                text = "must be specified when `operator` is 'In' or 'NotIn'"
                faults.append(errors.required(f"{at}.values", text))
            elif operator in ("Gt", "Lt") and len(values or ()) != 1:
                faults.append(
                    errors.required(f"{at}.values", "must be specified single value when `operator` is 'Lt' or 'Gt'")
                )
            elif operator in ("Exists", "DoesNotExist") and values:
                text = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                faults.append(errors.forbidden_field(f"{at}.values", text))
    return faults


def node_selector_faults(selector: Any, path: str) -> list[FieldError]:
    """Faults of a NodeSelector: it needs terms, and expressions with known operators."""
    if not isinstance(selector, dict) or not selector.get("nodeSelectorTerms"):
        return [errors.required(f"{path}.nodeSelectorTerms", "must have at least one node selector term")]
    return [
        fault
        for index, term in enumerate(selector["nodeSelectorTerms"])
        for fault in _term_faults(term, f"{path}.nodeSelectorTerms[{index}]")
    ]


def spread_faults(constraints: list[Obj]) -> list[FieldError]:
    """Faults of topologySpreadConstraints."""
    faults = []
    known = ("DoNotSchedule", "ScheduleAnyway")
    for index, entry in enumerate(constraints):
        path = f"spec.topologySpreadConstraints[{index}]"
        if not (isinstance(entry.get("maxSkew"), int) and entry["maxSkew"] > 0):
            faults.append(errors.invalid(f"{path}.maxSkew", entry.get("maxSkew", 0), "must be greater than zero"))
        if not entry.get("topologyKey"):
            faults.append(errors.required(f"{path}.topologyKey", "can not be empty"))
        if entry.get("whenUnsatisfiable") not in known:
            faults.append(errors.unsupported(f"{path}.whenUnsatisfiable", entry.get("whenUnsatisfiable", ""), known))
    return faults


_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def neighbour_faults(affinity: Obj) -> list[FieldError]:
    """Faults of affinity to other pods: every term needs a topology key."""
    terms: list[tuple[str, Obj]] = []
    for field in ("podAffinity", "podAntiAffinity"):
        wanted = affinity.get(field) or {}
        terms += [(f"{field}.{_REQUIRED}[{at}]", term) for at, term in enumerate(wanted.get(_REQUIRED) or ())]
        terms += [
            (f"{field}.{_PREFERRED}[{at}].podAffinityTerm", weighted.get("podAffinityTerm") or {})
            for at, weighted in enumerate(wanted.get(_PREFERRED) or ())
        ]
    return [
        errors.required(f"spec.affinity.{path}.topologyKey", "can not be empty")
        for path, term in terms
        if not term.get("topologyKey")
    ]
