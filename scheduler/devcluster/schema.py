"""Structural schemas of custom resources: unknown fields pruned, defaults filled in, values validated.

Source: apiextensions.k8s.io/v1 (structural schemas). Not evaluated: `x-kubernetes-validations` (CEL rules) and
`format`; an object that only such a rule would refuse is accepted here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from scheduler.devcluster import errors
from scheduler.devcluster.errors import FieldError
from scheduler.devcluster.lists import Lists
from scheduler.devcluster.objects import Obj, encode, thaw

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
_ROOT_FIELDS = ("apiVersion", "kind", "metadata")
_META = Lists({"ownerReferences": Lists(map_keys=("uid",)), "finalizers": Lists(is_set=True)})


def _lists(node: Obj) -> Lists:
    """How the value of this schema merges in server-side apply."""
    properties = {name: _lists(below) for name, below in (node.get("properties") or {}).items()}
    items = _lists(node["items"]) if isinstance(node.get("items"), dict) else None
    kind = node.get("x-kubernetes-list-type")
    return Lists(
        properties,
        items=items,
        map_keys=tuple(node.get("x-kubernetes-list-map-keys") or ()) if kind == "map" else (),
        is_set=kind == "set",
        atomic=node.get("x-kubernetes-map-type") == "atomic",
    )


class Schema:
    """The schema of one version of a custom resource."""

    def __init__(self, root: Obj) -> None:
        self.root = root
        below = _lists(root)
        self.lists = Lists({**below.fields, "metadata": _META})

    def shaped(self, obj: Obj) -> Obj:
        """The object without unknown fields and with defaults; the object itself when it has that shape already."""
        known = {key: value for key, value in obj.items() if key not in _ROOT_FIELDS}
        shaped = _shaped(self.root, known, root=True)
        if shaped is known:
            return obj
        return {**{key: obj[key] for key in _ROOT_FIELDS if key in obj}, **shaped}

    def unknown(self, obj: Obj) -> list[str]:
        """The paths of the fields that `shaped` would remove."""
        found: list[str] = []
        _unknown(self.root, {key: value for key, value in obj.items() if key not in _ROOT_FIELDS}, "", found)
        return found

    def faults(self, obj: Obj) -> list[FieldError]:
        """What is wrong with the object, field by field."""
        faults: list[FieldError] = []
        body = {key: value for key, value in obj.items() if key not in _ROOT_FIELDS}
        root = self.root
        wanted = [name for name in root.get("required") or () if name not in _ROOT_FIELDS]
        _validate({**root, "required": wanted}, body, "", faults)
        return faults


def _additional(node: Obj) -> Any:
    return node.get("additionalProperties")


def _keeps_unknown(node: Obj) -> bool:
    return bool(node.get("x-kubernetes-preserve-unknown-fields"))


def _shaped(node: Obj, value: Any, *, root: bool = False) -> Any:
    if isinstance(value, dict):
        return _shaped_object(node, value, root)
    if isinstance(value, list) and isinstance(node.get("items"), dict):
        items = [_shaped(node["items"], item) for item in value]
        changed = any(new is not old for new, old in zip(items, value, strict=True))
        return items if changed else value
    return value


def _shaped_object(node: Obj, value: Obj, root: bool) -> Obj:
    properties, additional = node.get("properties") or {}, _additional(node)
    result: Obj = {}
    changed = False
    embedded = bool(node.get("x-kubernetes-embedded-resource"))
    for key, item in value.items():
        below = properties.get(key)
        if below is None and embedded and key in _ROOT_FIELDS:
            result[key] = item
            continue
        if below is None and isinstance(additional, dict):
            below = additional
        if below is None:
            if _keeps_unknown(node) or additional is True:
                result[key] = item
            else:
                changed = True
            continue
        if item is None and "default" in below and not below.get("nullable"):
            changed = True
            continue
        result[key] = _shaped(below, item)
        changed = changed or result[key] is not item
    for key, below in properties.items():
        if key not in result and "default" in below and not (root and key in _ROOT_FIELDS):
            result[key] = _shaped(below, thaw(below["default"]))
            changed = True
    return result if changed else value


def _unknown(node: Obj, value: Any, path: str, found: list[str]) -> None:
    if isinstance(value, list) and isinstance(node.get("items"), dict):
        for index, item in enumerate(value):
            _unknown(node["items"], item, f"{path}[{index}]", found)
    if not isinstance(value, dict):
        return
    properties, additional = node.get("properties") or {}, _additional(node)
    embedded = bool(node.get("x-kubernetes-embedded-resource"))
    for key, item in value.items():
        below = properties.get(key)
        if below is None and isinstance(additional, dict):
            below = additional
        at = f"{path}.{key}" if path else key
        if below is not None:
            _unknown(below, item, at, found)
        elif not (_keeps_unknown(node) or additional is True or (embedded and key in _ROOT_FIELDS)):
            found.append(at)


# --- validation ---------------------------------------------------------------------------------------------------


def _is_type(value: Any, expected: str) -> bool:
    if expected in ("integer", "number") and isinstance(value, bool):
        return False
    if expected == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[expected])


def _validate(node: Obj, value: Any, path: str, faults: list[FieldError]) -> None:
    if value is None:
        if not node.get("nullable") and node.get("type"):
            faults.append(errors.mistyped(path, value, node["type"]))
        return
    if node.get("x-kubernetes-int-or-string"):
        if isinstance(value, bool) or not isinstance(value, int | str):
            faults.append(errors.mistyped(path, value, "integer,string"))
            return
    elif node.get("type") and not _is_type(value, node["type"]):
        faults.append(errors.mistyped(path, value, node["type"]))
        return
    enum = node.get("enum")
    if enum is not None and value not in enum:
        faults.append(errors.unsupported(path, value, [str(entry) for entry in enum]))
    for check in _CHECKS:
        check(node, value, path, faults)
    _validate_combinations(node, value, path, faults)


def _validate_string(node: Obj, value: Any, path: str, faults: list[FieldError]) -> None:
    if not isinstance(value, str):
        return
    if node.get("minLength") is not None and len(value) < node["minLength"]:
        text = f"{path} in body should be at least {node['minLength']} chars long"
        faults.append(errors.invalid(path, value, text))
    if node.get("maxLength") is not None and len(value) > node["maxLength"]:
        text = f"Too long: may not be more than {node['maxLength']} bytes"
        faults.append(FieldError(reason="FieldValueTooLong", field=path, text=text))
    if node.get("pattern") and re.search(node["pattern"], value) is None:
        faults.append(errors.invalid(path, value, f"{path} in body should match '{node['pattern']}'"))


def _validate_number(node: Obj, value: Any, path: str, faults: list[FieldError]) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    low, high = node.get("minimum"), node.get("maximum")
    if low is not None and (value < low or (node.get("exclusiveMinimum") and value == low)):
        than = "greater than" if node.get("exclusiveMinimum") else "greater than or equal to"
        faults.append(errors.invalid(path, value, f"{path} in body should be {than} {low}"))
    if high is not None and (value > high or (node.get("exclusiveMaximum") and value == high)):
        than = "less than" if node.get("exclusiveMaximum") else "less than or equal to"
        faults.append(errors.invalid(path, value, f"{path} in body should be {than} {high}"))
    step = node.get("multipleOf")
    if step and value % step:
        faults.append(errors.invalid(path, value, f"{path} in body should be a multiple of {step}"))


def _validate_array(node: Obj, value: Any, path: str, faults: list[FieldError]) -> None:
    if not isinstance(value, list):
        return
    if node.get("maxItems") is not None and len(value) > node["maxItems"]:
        faults.append(errors.too_many(path, len(value), node["maxItems"]))
        return
    if node.get("minItems") is not None and len(value) < node["minItems"]:
        text = f"{path} in body should have at least {node['minItems']} items"
        faults.append(errors.invalid(path, len(value), text))
    if isinstance(node.get("items"), dict):
        for index, item in enumerate(value):
            _validate(node["items"], item, f"{path}[{index}]", faults)
    kind = node.get("x-kubernetes-list-type")
    if kind not in ("map", "set") and not node.get("uniqueItems"):
        return
    keys = node.get("x-kubernetes-list-map-keys") or ()
    seen: set[bytes] = set()
    for index, item in enumerate(value):
        identity = {key: item[key] for key in keys if key in item} if kind == "map" and isinstance(item, dict) else item
        if (mark := encode(identity)) in seen:
            faults.append(errors.duplicate(f"{path}[{index}]", identity))
        seen.add(mark)


def _validate_object(node: Obj, value: Any, path: str, faults: list[FieldError]) -> None:
    if not isinstance(value, dict):
        return
    prefix = f"{path}." if path else ""
    faults.extend(errors.required(prefix + name) for name in node.get("required") or () if name not in value)
    if node.get("maxProperties") is not None and len(value) > node["maxProperties"]:
        faults.append(errors.too_many(path, len(value), node["maxProperties"]))
    if node.get("minProperties") is not None and len(value) < node["minProperties"]:
        text = f"{path} in body should have at least {node['minProperties']} properties"
        faults.append(errors.invalid(path, len(value), text))
    properties, additional = node.get("properties") or {}, _additional(node)
    for key, item in value.items():
        below = properties.get(key, additional)
        if isinstance(below, dict):
            _validate(below, item, prefix + key, faults)


def _validate_combinations(node: Obj, value: Any, path: str, faults: list[FieldError]) -> None:
    def passes(below: Obj) -> bool:
        inner: list[FieldError] = []
        _validate(below, value, path, inner)
        return not inner

    for below in node.get("allOf") or ():
        _validate(below, value, path, faults)
    alternatives = node.get("anyOf") or ()
    if alternatives and not any(passes(below) for below in alternatives):
        faults.append(errors.invalid(path, value, f"{path} in body must validate at least one schema (anyOf)"))
    single = node.get("oneOf") or ()
    if single and sum(passes(below) for below in single) != 1:
        faults.append(errors.invalid(path, value, f"{path} in body must validate one and only one schema (oneOf)"))
    if node.get("not") is not None and passes(node["not"]):
        faults.append(errors.invalid(path, value, f"{path} in body must not validate the schema (not)"))


_Check = Callable[[Obj, Any, str, list[FieldError]], None]
_CHECKS: tuple[_Check, ...] = (_validate_string, _validate_number, _validate_array, _validate_object)


def structure_faults(node: Any, path: str) -> list[FieldError]:
    """Faults of the schema itself: what keeps it from being structural."""
    if not isinstance(node, dict):
        return [errors.invalid(path, node, "must be a schema object")]
    faults = []
    free = node.get("x-kubernetes-int-or-string") or _keeps_unknown(node)
    if not node.get("type") and not free:
        faults.append(errors.required(f"{path}.type", "must not be empty for specified object fields"))
    elif node.get("type") and node["type"] not in _TYPES:
        faults.append(errors.unsupported(f"{path}.type", node["type"], sorted(_TYPES)))
    if node.get("pattern"):
        try:
            re.compile(node["pattern"])
        except re.error as error:
            faults.append(errors.invalid(f"{path}.pattern", node["pattern"], f"must be a regular expression: {error}"))
    if node.get("properties") and isinstance(_additional(node), dict):
        faults.append(errors.forbidden_field(f"{path}.additionalProperties", "is mutual exclusive with properties"))
    if node.get("type") == "array" and not isinstance(node.get("items"), dict):
        faults.append(errors.required(f"{path}.items", "must be specified"))
    for name, below in (node.get("properties") or {}).items():
        faults += structure_faults(below, f"{path}.properties[{name}]")
    for name in ("items", "additionalProperties"):
        if isinstance(node.get(name), dict):
            faults += structure_faults(node[name], f"{path}.{name}")
    return faults
