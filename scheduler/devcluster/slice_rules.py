"""ResourceSlice, DeviceClass and DeviceTaintRule: canonical quantities, taint times, validation, what stays.

Source: KEP 4381, 4815 (partitionable devices), 5055 (device taints), 5075 (consumable capacity).
"""

from __future__ import annotations

import re
from typing import Any

from scheduler.devcluster import errors
from scheduler.devcluster.claim_rules import selector_faults
from scheduler.devcluster.errors import FieldError
from scheduler.devcluster.objects import Obj, field_of
from scheduler.devcluster.placement_rules import node_selector_faults
from scheduler.devcluster.quantities import FORM_TEXT, is_quantity, tidied
from scheduler.devcluster.rules import LABEL_TEXT, SUBDOMAIN_TEXT, Rules, is_label, is_subdomain

MAX_DEVICES, MAX_DEVICES_WITH_EXTRAS, MAX_PROPERTIES = 128, 64, 32
MAX_COUNTER_SETS, MAX_COUNTERS, MAX_TAINTS, MAX_CONFIG = 8, 32, 16, 32
_IDENTIFIER = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_SEMVER = re.compile(
    r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$",
    re.ASCII,
)
_EFFECTS = ("NoExecute", "NoSchedule", "None")
_NODE_CHOICES = ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection")
_VALUES: dict[str, type] = {"int": int, "bool": bool, "string": str, "version": str}
_LIST_VALUES: dict[str, type] = {"ints": int, "bools": bool, "strings": str, "versions": str}


# --- defaults -----------------------------------------------------------------------------------------------------


def _tidy_amounts(entries: Any) -> Any:
    """{name: {value: quantity}} with canonical values; itself when nothing changes."""
    if not isinstance(entries, dict):
        return entries
    done = {
        name: {**entry, "value": tidied(entry["value"])} if isinstance(entry, dict) and "value" in entry else entry
        for name, entry in entries.items()
    }
    return entries if done == entries else done


def _tidy_device(device: Any) -> Any:
    if not isinstance(device, dict):
        return device
    changes: Obj = {}
    capacity = _tidy_amounts(device.get("capacity"))
    if capacity is not device.get("capacity"):
        changes["capacity"] = capacity
    consumed = device.get("consumesCounters")
    if consumed:
        done = [_tidy_set(entry) for entry in consumed]
        if any(new is not old for new, old in zip(done, consumed, strict=True)):
            changes["consumesCounters"] = done
    return {**device, **changes} if changes else device


def _tidy_set(entry: Any) -> Any:
    counters = _tidy_amounts(field_of(entry, "counters"))
    return entry if counters is field_of(entry, "counters") else {**entry, "counters": counters}


def _with_defaults(slice_: Obj) -> Obj:
    spec = slice_.get("spec")
    if not isinstance(spec, dict):
        return slice_
    changes: Obj = {}
    for field, tidy in (("devices", _tidy_device), ("sharedCounters", _tidy_set)):
        entries = spec.get(field)
        if isinstance(entries, list):
            done = [tidy(entry) for entry in entries]
            if any(new is not old for new, old in zip(done, entries, strict=True)):
                changes[field] = done
    return {**slice_, "spec": {**spec, **changes}} if changes else slice_


def _stamped(slice_: Obj, now: str) -> Obj:
    """Device taints without a time get the time of the write."""
    devices = field_of(slice_, "spec", "devices") or ()
    if not any(not taint.get("timeAdded") for device in devices for taint in device.get("taints") or ()):
        return slice_
    done = []
    for device in devices:
        taints = device.get("taints")
        stamped = [{"timeAdded": now, **taint} for taint in taints] if taints else None
        done.append({**device, "taints": stamped} if stamped else device)
    return {**slice_, "spec": {**slice_["spec"], "devices": done}}


# --- validation ---------------------------------------------------------------------------------------------------


def _qualified_faults(name: str, path: str) -> list[FieldError]:
    domain, slash, identifier = name.rpartition("/")
    faults = []
    if slash and not (is_subdomain(domain) and len(domain) <= 63):
        faults.append(errors.invalid(path, domain, SUBDOMAIN_TEXT))
    if not _IDENTIFIER.match(identifier) or len(identifier) > 32:
        faults.append(errors.invalid(path, identifier, "a valid C identifier of at most 32 characters is required"))
    return faults


def _attribute_faults(name: str, value: Any, path: str) -> list[FieldError]:
    at = f"{path}[{name}]"
    faults = _qualified_faults(name, path)
    given = [key for key in (*_VALUES, *_LIST_VALUES) if isinstance(value, dict) and value.get(key) is not None]
    if len(given) != 1:
        text = "exactly one value must be specified"
        return [*faults, errors.required(at, text) if not given else errors.invalid(at, value, text)]
    key = given[0]
    expected: type = _VALUES.get(key) or _LIST_VALUES[key]
    items: list[Any] = value[key] if key in _LIST_VALUES and isinstance(value[key], list) else [value[key]]
    for item in items:
        if not isinstance(item, expected) or (expected is int and isinstance(item, bool)):
            faults.append(errors.invalid(f"{at}.{key}", item, f"must be of type {key}"))
        elif isinstance(item, str) and len(item) > 64:
            text = "may not be more than 64 bytes"
            faults.append(FieldError(reason="FieldValueTooLong", field=f"{at}.{key}", text=f"Too long: {text}"))
        elif isinstance(item, str) and key in ("version", "versions") and not _SEMVER.match(item):
            faults.append(errors.invalid(f"{at}.{key}", item, "must be a string compatible with semver.org spec 2.0.0"))
    return faults


def _device_faults(device: Any, path: str, per_device_nodes: bool) -> list[FieldError]:
    if not isinstance(device, dict):
        return [errors.invalid(path, device, "must be an object")]
    faults = _device_name_faults(device.get("name"), f"{path}.name")
    attributes, capacity = device.get("attributes") or {}, device.get("capacity") or {}
    if len(attributes) + len(capacity) > MAX_PROPERTIES:
        faults.append(errors.too_many(path, len(attributes) + len(capacity), MAX_PROPERTIES))
    for name, value in attributes.items():
        faults += _attribute_faults(name, value, f"{path}.attributes")
    for name, value in capacity.items():
        faults += _qualified_faults(name, f"{path}.capacity")
        if not is_quantity(field_of(value, "value")):
            faults.append(errors.invalid(f"{path}.capacity[{name}].value", field_of(value, "value"), FORM_TEXT))
    taints = device.get("taints") or ()
    if len(taints) > MAX_TAINTS:
        faults.append(errors.too_many(f"{path}.taints", len(taints), MAX_TAINTS))
    for index, taint in enumerate(taints):
        faults += _taint_faults(taint, f"{path}.taints[{index}]")
    begins, fails = device.get("bindingConditions"), device.get("bindingFailureConditions")
    if bool(begins) != bool(fails):
        given, lacks = ("bindingConditions", "bindingFailureConditions")[:: 1 if begins else -1]
        faults.append(errors.invalid(f"{path}.{lacks}", None, f"{lacks} are required to use {given}"))
    for index, consumed in enumerate(device.get("consumesCounters") or ()):
        at = f"{path}.consumesCounters[{index}]"
        if not consumed.get("counterSet"):
            faults.append(errors.required(f"{at}.counterSet"))
        faults += _counter_faults(consumed.get("counters"), f"{at}.counters")
    chosen = [field for field in ("nodeName", "nodeSelector", "allNodes") if device.get(field)]
    if per_device_nodes and len(chosen) != 1:
        text = (
            "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set"
        )
        faults.append(errors.required(path, text) if not chosen else errors.invalid(path, chosen, text))
    elif not per_device_nodes and chosen:
        text = f"`{chosen[0]}` can only be set with `perDeviceNodeSelection`"
        faults.append(errors.invalid(path, device[chosen[0]], text))
    return faults


def _taint_faults(taint: Any, path: str) -> list[FieldError]:
    key, effect = field_of(taint, "key"), field_of(taint, "effect")
    faults = [] if key else [errors.required(f"{path}.key")]
    if not effect:
        faults.append(errors.required(f"{path}.effect"))
    elif effect not in _EFFECTS:
        faults.append(errors.unsupported(f"{path}.effect", effect, _EFFECTS))
    return faults


def _counter_faults(counters: Any, path: str) -> list[FieldError]:
    if not counters:
        return [errors.required(path)]
    if len(counters) > MAX_COUNTERS:
        return [errors.too_many(path, len(counters), MAX_COUNTERS)]
    return [
        errors.invalid(f"{path}[{name}].value", field_of(entry, "value"), FORM_TEXT)
        for name, entry in counters.items()
        if not is_quantity(field_of(entry, "value"))
    ]


def _node_faults(spec: Obj) -> list[FieldError]:
    chosen = [field for field in _NODE_CHOICES if spec.get(field)]
    listed = "`nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection`"
    if not chosen:
        return [errors.required("spec", f"exactly one of {listed} is required")]
    if len(chosen) > 1:
        return [errors.invalid("spec", "{" + ", ".join(chosen) + "}", f"exactly one of {listed} is required")]
    if chosen == ["nodeSelector"]:
        faults = node_selector_faults(spec["nodeSelector"], "spec.nodeSelector")
        if not faults and len(spec["nodeSelector"]["nodeSelectorTerms"]) != 1:
            text = "must have exactly one node selector term"
            faults.append(errors.invalid("spec.nodeSelector.nodeSelectorTerms", spec["nodeSelector"], text))
        return faults
    return []


def _driver_faults(driver: Any, path: str) -> list[FieldError]:
    if not driver:
        return [errors.required(path)]
    return [] if is_subdomain(driver) and len(driver) <= 63 else [errors.invalid(path, driver, SUBDOMAIN_TEXT)]


def _pool_name_faults(name: Any, path: str) -> list[FieldError]:
    if not name:
        return [errors.required(path)]
    well = isinstance(name, str) and len(name) <= 253 and all(is_subdomain(part) for part in name.split("/"))
    return [] if well else [errors.invalid(path, name, SUBDOMAIN_TEXT)]


def _pool_faults(pool: Any) -> list[FieldError]:
    faults = _pool_name_faults(field_of(pool, "name"), "spec.pool.name")
    count, generation = field_of(pool, "resourceSliceCount"), field_of(pool, "generation") or 0
    if not isinstance(count, int) or count <= 0:
        faults.append(errors.invalid("spec.pool.resourceSliceCount", count, "must be greater than zero"))
    if not isinstance(generation, int) or generation < 0:
        faults.append(errors.invalid("spec.pool.generation", generation, "must be greater than or equal to zero"))
    return faults


def _check(slice_: Obj) -> list[FieldError]:
    spec = slice_.get("spec")
    if not isinstance(spec, dict):
        return [errors.required("spec")]
    faults = _driver_faults(spec.get("driver"), "spec.driver")
    faults += _pool_faults(spec.get("pool")) + _node_faults(spec)
    devices, sets = spec.get("devices") or [], spec.get("sharedCounters") or []
    if devices and sets:
        text = "only one of `devices`, `sharedCounters` is allowed in one slice"
        faults.append(errors.invalid("spec", "{devices, sharedCounters}", text))
    extras = any(
        device.get("taints") or device.get("consumesCounters") for device in devices if isinstance(device, dict)
    )
    limit = MAX_DEVICES_WITH_EXTRAS if extras else MAX_DEVICES
    if len(devices) > limit:
        return [*faults, errors.too_many("spec.devices", len(devices), limit)]
    names: set[str] = set()
    for index, device in enumerate(devices):
        faults += _device_faults(device, f"spec.devices[{index}]", bool(spec.get("perDeviceNodeSelection")))
        if field_of(device, "name") in names:
            faults.append(errors.duplicate(f"spec.devices[{index}]", device["name"]))
        names.add(str(field_of(device, "name")))
    if len(sets) > MAX_COUNTER_SETS:
        faults.append(errors.too_many("spec.sharedCounters", len(sets), MAX_COUNTER_SETS))
    for index, entry in enumerate(sets):
        if not is_label(field_of(entry, "name")):
            faults.append(errors.invalid(f"spec.sharedCounters[{index}].name", field_of(entry, "name"), LABEL_TEXT))
        faults += _counter_faults(field_of(entry, "counters"), f"spec.sharedCounters[{index}].counters")
    return faults


def _check_change(old: Obj, new: Obj, _subresource: str | None) -> list[FieldError]:
    return [
        errors.invalid("spec." + ".".join(path), field_of(new["spec"], *path), "field is immutable")
        for path in (("driver",), ("pool", "name"), ("nodeName",))
        if field_of(old["spec"], *path) != field_of(new["spec"], *path)
    ]


def _is_extended(name: object) -> bool:
    """A name with a domain that is not Kubernetes' own, as in core/v1 helper IsExtendedResourceName."""
    domain, slash, rest = str(name).partition("/")
    return bool(slash) and "kubernetes.io" not in domain and is_subdomain(domain) and bool(rest)


def _check_class(device_class: Obj) -> list[FieldError]:
    spec = device_class.get("spec")
    faults = selector_faults(field_of(spec, "selectors"), "spec.selectors")
    extended = field_of(spec, "extendedResourceName")
    if extended and not _is_extended(extended):
        text = "must be a valid extended resource name"
        faults.append(errors.invalid("spec.extendedResourceName", extended, text))
    config = field_of(spec, "config") or ()
    if len(config) > MAX_CONFIG:
        faults.append(errors.too_many("spec.config", len(config), MAX_CONFIG))
    faults += [
        errors.required(f"spec.config[{index}].opaque.driver")
        for index, entry in enumerate(config)
        if not is_subdomain(field_of(entry, "opaque", "driver"))
    ]
    return faults


def _check_taint_rule(rule: Obj) -> list[FieldError]:
    selector = field_of(rule, "spec", "deviceSelector") or {}
    faults = _taint_faults(field_of(rule, "spec", "taint"), "spec.taint")
    for field, check in (("driver", _driver_faults), ("pool", _pool_name_faults), ("device", _device_name_faults)):
        if field_of(selector, field) is not None:
            faults += check(selector[field], f"spec.deviceSelector.{field}")
    return faults


def _device_name_faults(name: Any, path: str) -> list[FieldError]:
    if not name:
        return [errors.required(path)]
    return [] if is_label(name) else [errors.invalid(path, name, LABEL_TEXT)]


def _stamped_rule(rule: Obj, now: str) -> Obj:
    taint = field_of(rule, "spec", "taint")
    if not isinstance(taint, dict) or taint.get("timeAdded"):
        return rule
    return {**rule, "spec": {**rule["spec"], "taint": {**taint, "timeAdded": now}}}


SLICE_RULES = Rules(defaults=_with_defaults, stamp=_stamped, check=_check, check_change=_check_change)
DEVICE_CLASS_RULES = Rules(check=_check_class)
TAINT_RULE_RULES = Rules(stamp=_stamped_rule, check=_check_taint_rule)
