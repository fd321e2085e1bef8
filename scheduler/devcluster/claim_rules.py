"""ResourceClaim and ResourceClaimTemplate (resource.k8s.io/v1): defaults, validation, what may change and when.

Source: KEP 4381 and the API server's validation of the resource group. Not checked, as there: whether devices exist
or are handed out twice. Not checked here although the real server does: that CEL expressions compile.
"""

from __future__ import annotations

from typing import Any

from scheduler.devcluster import errors, kinds
from scheduler.devcluster.errors import FieldError
from scheduler.devcluster.kinds import Kind
from scheduler.devcluster.objects import Obj, field_of, with_field
from scheduler.devcluster.quantities import FORM_TEXT, is_quantity, tidied_amounts
from scheduler.devcluster.rules import LABEL_TEXT, SUBDOMAIN_TEXT, Lookup, Rules, is_label, is_subdomain

MAX_REQUESTS = MAX_CONSTRAINTS = MAX_CONFIG = MAX_SELECTORS = MAX_RESULTS = 32
MAX_ALTERNATIVES, MAX_TOLERATIONS, MAX_RESERVED, MAX_EXPRESSION = 8, 16, 256, 10 * 1024
ADMIN_LABEL = "resource.kubernetes.io/admin-access"


# --- defaults -----------------------------------------------------------------------------------------------------


def _request_with_defaults(request: Any) -> Any:
    if not isinstance(request, dict):
        return request
    changes: Obj = {}
    if not request.get("allocationMode"):
        changes["allocationMode"] = "ExactCount"
    if (changes.get("allocationMode") or request["allocationMode"]) == "ExactCount" and request.get("count") in (
        None,
        0,
    ):
        changes["count"] = 1
    tolerations = request.get("tolerations")
    if tolerations and any(not entry.get("operator") for entry in tolerations):
        changes["tolerations"] = [{"operator": "Equal", **entry} for entry in tolerations]
    wanted = field_of(request, "capacity", "requests")
    if wanted and tidied_amounts(wanted) is not wanted:
        changes["capacity"] = {**request["capacity"], "requests": tidied_amounts(wanted)}
    return {**request, **changes} if changes else request


def _devices_with_defaults(devices: Any) -> Any:
    requests = devices.get("requests") if isinstance(devices, dict) else None
    if not isinstance(requests, list):
        return devices
    done = []
    for request in requests:
        if not isinstance(request, dict):
            done.append(request)
        elif isinstance(request.get("exactly"), dict):
            done.append({**request, "exactly": _request_with_defaults(request["exactly"])})
        elif isinstance(request.get("firstAvailable"), list):
            done.append(
                {**request, "firstAvailable": [_request_with_defaults(sub) for sub in request["firstAvailable"]]}
            )
        else:
            done.append(request)
    return devices if done == requests else {**devices, "requests": done}


def _claim_with_defaults(claim: Obj) -> Obj:
    devices = field_of(claim, "spec", "devices")
    done = _devices_with_defaults(devices)
    return claim if done is devices else with_field(claim, ("spec", "devices"), done)


def _template_with_defaults(template: Obj) -> Obj:
    devices = field_of(template, "spec", "spec", "devices")
    done = _devices_with_defaults(devices)
    return template if done is devices else with_field(template, ("spec", "spec", "devices"), done)


# --- validation of the spec ---------------------------------------------------------------------------------------


def selector_faults(selectors: Any, path: str) -> list[FieldError]:
    """Faults of a list of device selectors, not looking into the CEL expressions."""
    if len(selectors or ()) > MAX_SELECTORS:
        return [errors.too_many(path, len(selectors), MAX_SELECTORS)]
    faults = []
    for index, selector in enumerate(selectors or ()):
        expression = field_of(selector, "cel", "expression")
        if field_of(selector, "cel") is None:
            faults.append(errors.required(f"{path}[{index}].cel"))
        elif not isinstance(expression, str) or not expression:
            faults.append(errors.required(f"{path}[{index}].cel.expression"))
        elif len(expression) > MAX_EXPRESSION:
            text = f"may not be more than {MAX_EXPRESSION} bytes"
            faults.append(FieldError(reason="FieldValueTooLong", field=f"{path}[{index}].cel.expression", text=text))
    return faults


def _exact_faults(request: Any, path: str) -> list[FieldError]:
    if not isinstance(request, dict):
        return [errors.invalid(path, request, "must be an object")]
    faults = []
    if not request.get("deviceClassName"):
        faults.append(errors.required(f"{path}.deviceClassName"))
    elif not is_subdomain(request["deviceClassName"]):
        faults.append(errors.invalid(f"{path}.deviceClassName", request["deviceClassName"], SUBDOMAIN_TEXT))
    faults += selector_faults(request.get("selectors"), f"{path}.selectors")
    mode, count = request.get("allocationMode"), request.get("count")
    if mode not in ("ExactCount", "All"):
        faults.append(errors.unsupported(f"{path}.allocationMode", mode, ("All", "ExactCount")))
    elif mode == "All" and count:
        text = "must not be specified when allocationMode is 'All'"
        faults.append(errors.invalid(f"{path}.count", count, text))
    elif mode == "ExactCount" and not (isinstance(count, int) and count > 0):
        faults.append(errors.invalid(f"{path}.count", count, "must be greater than zero"))
    tolerations = request.get("tolerations") or ()
    if len(tolerations) > MAX_TOLERATIONS:
        faults.append(errors.too_many(f"{path}.tolerations", len(tolerations), MAX_TOLERATIONS))
    faults += [
        errors.unsupported(f"{path}.tolerations[{index}].operator", entry.get("operator"), ("Equal", "Exists"))
        for index, entry in enumerate(tolerations)
        if entry.get("operator") not in ("Equal", "Exists")
    ]
    faults += [
        errors.invalid(f"{path}.capacity.requests[{name}]", value, FORM_TEXT)
        for name, value in (field_of(request, "capacity", "requests") or {}).items()
        if not is_quantity(value)
    ]
    return faults


def _name_faults(name: Any, seen: set[str], path: str) -> list[FieldError]:
    if not name:
        return [errors.required(path)]
    if not is_label(name):
        return [errors.invalid(path, name, LABEL_TEXT)]
    if name in seen:
        return [errors.duplicate(path.removesuffix(".name"), name)]  # it is the entry that is there twice
    seen.add(name)
    return []


def _request_faults(request: Any, path: str, names: set[str], all_names: set[str]) -> list[FieldError]:
    if not isinstance(request, dict):
        return [errors.invalid(path, request, "must be an object")]
    faults = _name_faults(request.get("name"), names, f"{path}.name")
    all_names.add(str(request.get("name")))
    exactly, alternatives = request.get("exactly"), request.get("firstAvailable")
    if exactly is not None and alternatives:
        faults.append(errors.invalid(path, request, "exactly one of `exactly`, `firstAvailable` is allowed"))
    elif exactly is not None:
        faults += _exact_faults(exactly, f"{path}.exactly")
    elif not alternatives:
        faults.append(errors.required(path, "exactly one of `exactly`, `firstAvailable` is required"))
    elif len(alternatives) > MAX_ALTERNATIVES:
        faults.append(errors.too_many(f"{path}.firstAvailable", len(alternatives), MAX_ALTERNATIVES))
    else:
        inner: set[str] = set()
        for index, alternative in enumerate(alternatives):
            at = f"{path}.firstAvailable[{index}]"
            faults += _exact_faults(alternative, at)
            if isinstance(alternative, dict):
                faults += _name_faults(alternative.get("name"), inner, f"{at}.name")
                all_names.add(f"{request.get('name')}/{alternative.get('name')}")
                if alternative.get("adminAccess"):
                    faults.append(errors.forbidden_field(f"{at}.adminAccess", "is not allowed in an alternative"))
    return faults


def _reference_faults(requests: Any, all_names: set[str], path: str) -> list[FieldError]:
    return [
        errors.invalid(f"{path}[{index}]", name, "must be the name of a request in the claim")
        for index, name in enumerate(requests or ())
        if name not in all_names
    ]


def spec_faults(spec: Any, path: str) -> list[FieldError]:
    """Faults of a claim's spec; `path` is where it lies (`spec`, or `spec.spec` in a template)."""
    devices = field_of(spec, "devices")
    if devices is None:
        return []
    at = f"{path}.devices"
    requests = field_of(devices, "requests")
    if not isinstance(devices, dict) or not isinstance(requests or [], list):
        return [errors.invalid(at, devices, "must be an object with a list of requests")]
    if not requests and (devices.get("constraints") or devices.get("config")):
        return [errors.required(f"{at}.requests", "constraints and config need a request")]
    limits = (("requests", MAX_REQUESTS), ("constraints", MAX_CONSTRAINTS), ("config", MAX_CONFIG))
    faults = [
        errors.too_many(f"{at}.{field}", len(devices[field]), limit)
        for field, limit in limits
        if len(devices.get(field) or ()) > limit
    ]
    names: set[str] = set()
    all_names: set[str] = set()
    for index, request in enumerate(requests or ()):
        faults += _request_faults(request, f"{at}.requests[{index}]", names, all_names)
    for index, constraint in enumerate(devices.get("constraints") or ()):
        where = f"{at}.constraints[{index}]"
        faults += _reference_faults(constraint.get("requests"), all_names, f"{where}.requests")
        given = [field for field in ("matchAttribute", "distinctAttribute") if constraint.get(field)]
        if len(given) != 1:
            faults.append(errors.required(where, "exactly one of `matchAttribute`, `distinctAttribute` is required"))
        elif "/" not in constraint[given[0]]:
            text = "a fully qualified name must be a domain and a name separated by a slash"
            faults.append(errors.invalid(f"{where}.{given[0]}", constraint[given[0]], text))
    for index, config in enumerate(devices.get("config") or ()):
        where = f"{at}.config[{index}]"
        faults += _reference_faults(config.get("requests"), all_names, f"{where}.requests")
        if not is_subdomain(field_of(config, "opaque", "driver")):
            faults.append(errors.required(f"{where}.opaque.driver"))
    return faults


def _asks_for_admin(devices: Any) -> bool:
    requests = field_of(devices, "requests")
    return any(field_of(request, "exactly", "adminAccess") for request in requests or ())


def _admit(kind: Kind, obj: Obj, devices: Any, lookup: Lookup) -> None:
    if not _asks_for_admin(devices):
        return
    namespace = lookup.find(kinds.NAMESPACE, "", obj["metadata"]["namespace"])
    labels = field_of(namespace, "metadata", "labels") or {}
    if labels.get(ADMIN_LABEL) != "true":
        text = f"admin access to devices requires the `{ADMIN_LABEL}: true` label on the containing namespace"
        fault = errors.forbidden_field("spec.devices.requests[0].adminAccess", text)
        raise errors.invalid_object(kind, obj["metadata"]["name"], [fault])


# --- changes ------------------------------------------------------------------------------------------------------


def _spec_stays(old: Obj, new: Obj, subresource: str | None) -> list[FieldError]:
    if subresource or old.get("spec") == new.get("spec"):
        return []
    return [errors.invalid("spec", new.get("spec"), "field is immutable")]


def _allocation_faults(spec: Any, allocation: Obj) -> list[FieldError]:
    results = field_of(allocation, "devices", "results") or ()
    path = "status.allocation.devices.results"
    if len(results) > MAX_RESULTS:
        return [errors.too_many(path, len(results), MAX_RESULTS)]
    names: set[str] = set()
    for request in field_of(spec, "devices", "requests") or ():
        names.add(request["name"])
        names.update(f"{request['name']}/{sub['name']}" for sub in request.get("firstAvailable") or ())
    faults = []
    for index, result in enumerate(results):
        if result.get("request") not in names:
            text = (
                "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
            )
            faults.append(errors.invalid(f"{path}[{index}].request", result.get("request"), text))
        faults += [
            errors.required(f"{path}[{index}].{field}")
            for field in ("driver", "pool", "device")
            if not result.get(field)
        ]
    return faults


def _check_status_change(old: Obj, new: Obj, subresource: str | None) -> list[FieldError]:
    faults = _spec_stays(old, new, subresource)
    before, after = old.get("status") or {}, new.get("status") or {}
    allocated, allocation = before.get("allocation"), after.get("allocation")
    if allocated is not None and allocation is not None and allocated != allocation:
        faults.append(errors.invalid("status.allocation", allocation, "field is immutable"))
    elif allocation is not None and allocated is None:
        faults += _allocation_faults(new.get("spec"), allocation)
    reserved = after.get("reservedFor") or ()
    path = "status.reservedFor"
    if reserved and allocation is None:
        faults.append(errors.forbidden_field(path, "may not be specified when `allocated` is not set"))
    if len(reserved) > MAX_RESERVED:
        faults.append(errors.too_many(path, len(reserved), MAX_RESERVED))
    uids: set[str] = set()
    for index, consumer in enumerate(reserved):
        faults += [
            errors.required(f"{path}[{index}].{field}")
            for field in ("resource", "name", "uid")
            if not consumer.get(field)
        ]
        if consumer.get("uid") in uids:
            faults.append(errors.duplicate(f"{path}[{index}].uid", consumer["uid"]))
        uids.add(str(consumer.get("uid")))
    known = {consumer.get("uid") for consumer in before.get("reservedFor") or ()}
    if old["metadata"].get("deletionTimestamp") and uids - {str(uid) for uid in known}:
        text = "new entries may not be added while `deletionTimestamp` is set"
        faults.append(errors.forbidden_field(path, text))
    return faults


CLAIM_RULES = Rules(
    defaults=_claim_with_defaults,
    check=lambda claim: spec_faults(claim.get("spec"), "spec"),
    admit=lambda claim, lookup: _admit(kinds.CLAIM, claim, field_of(claim, "spec", "devices"), lookup),
    check_change=_check_status_change,
)
CLAIM_TEMPLATE_RULES = Rules(
    defaults=_template_with_defaults,
    check=lambda template: spec_faults(field_of(template, "spec", "spec"), "spec.spec"),
    admit=lambda template, lookup: _admit(
        kinds.CLAIM_TEMPLATE, template, field_of(template, "spec", "spec", "devices"), lookup
    ),
    check_change=_spec_stays,
)
