"""Pods: defaults, priority admission, validation, and what may change in them later."""

from __future__ import annotations

from typing import Any

from scheduler.devcluster import errors, kinds
from scheduler.devcluster.errors import FieldError
from scheduler.devcluster.objects import Obj, field_of, with_condition, with_field
from scheduler.devcluster.placement_rules import (
    neighbour_faults,
    node_selector_faults,
    spread_faults,
    toleration_faults,
)
from scheduler.devcluster.quantities import FORM_TEXT, is_quantity, parse, tidied_amounts
from scheduler.devcluster.rules import LABEL_TEXT, SUBDOMAIN_TEXT, Lookup, Rules, is_label, is_subdomain

_SYSTEM_CLASSES = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
_RESTART_POLICIES = ("Always", "OnFailure", "Never")
_SPEC_DEFAULTS: Obj = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
}
_CONTAINER_FIELDS = ("initContainers", "containers")
_MAY_CHANGE = frozenset(
    ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates", *_CONTAINER_FIELDS)
)
_NATIVE = frozenset(("cpu", "memory", "ephemeral-storage", "storage"))


# --- defaults -----------------------------------------------------------------------------------------------------


def _container_with_defaults(container: Obj) -> Obj:
    ports = container.get("ports")
    if ports and any(not port.get("protocol") for port in ports):
        container = {**container, "ports": [{**port, "protocol": port.get("protocol") or "TCP"} for port in ports]}
    resources = container.get("resources")
    if not resources:
        return container if resources is not None else {**container, "resources": {}}
    limits, requests = resources.get("limits"), resources.get("requests")
    tidy_limits = tidied_amounts(limits) if limits else limits
    wanted = {**tidy_limits, **(requests or {})} if tidy_limits else requests
    tidy_requests = tidied_amounts(wanted) if wanted else wanted
    if tidy_limits is limits and tidy_requests == requests:
        return container
    changed = {**resources}
    if tidy_limits is not None:
        changed["limits"] = tidy_limits
    if tidy_requests is not None:
        changed["requests"] = tidy_requests
    return {**container, "resources": changed}


def _on_host(container: Obj) -> Obj:
    """On the host's network a port of the container is one of the host."""
    ports = container.get("ports")
    if not ports or all(port.get("hostPort") for port in ports):
        return container
    return {
        **container,
        "ports": [{**port, "hostPort": port.get("hostPort") or port["containerPort"]} for port in ports],
    }


def _volume_with_defaults(volume: Obj) -> Obj:
    """The claim that an ephemeral volume asks for is one of files."""
    asked = field_of(volume, "ephemeral", "volumeClaimTemplate", "spec")
    if asked is None or asked.get("volumeMode"):
        return volume
    return with_field(volume, ("ephemeral", "volumeClaimTemplate", "spec", "volumeMode"), "Filesystem")


def spec_with_defaults(spec: Obj) -> Obj:
    """A pod spec with the defaults of the API filled in: requests from limits, restartPolicy, schedulerName, ..."""
    changes = {key: value for key, value in _SPEC_DEFAULTS.items() if spec.get(key) is None}
    for field in _CONTAINER_FIELDS:
        containers = spec.get(field)
        if containers:
            done = [_container_with_defaults(container) for container in containers]
            if any(new is not old for new, old in zip(done, containers, strict=True)):
                changes[field] = done
    if any(volume.get("ephemeral") for volume in spec.get("volumes") or ()):
        changes["volumes"] = [_volume_with_defaults(volume) for volume in spec["volumes"]]
    if spec.get("hostNetwork"):
        for field in _CONTAINER_FIELDS:
            if spec.get(field):
                changes[field] = [_on_host(container) for container in changes.get(field) or spec[field]]
    overhead = spec.get("overhead")
    if overhead:
        changes["overhead"] = tidied_amounts(overhead)
    return {**spec, **changes} if changes else spec


def _with_defaults(pod: Obj) -> Obj:
    spec = pod.get("spec")
    if not isinstance(spec, dict):
        return pod
    done = spec_with_defaults(spec)
    return pod if done is spec else {**pod, "spec": done}


def _qos_class(spec: Obj) -> str:
    containers = [*(spec.get("initContainers") or ()), *spec["containers"]]
    resources = [container.get("resources") or {} for container in containers]
    amounts = [{**(entry.get("limits") or {}), **(entry.get("requests") or {})} for entry in resources]
    if not any(name in ("cpu", "memory") for entry in amounts for name in entry):
        return "BestEffort"
    for entry in resources:
        limits, requests = entry.get("limits") or {}, entry.get("requests") or {}
        if any(name not in limits or limits[name] != requests.get(name) for name in ("cpu", "memory")):
            return "Burstable"
    return "Guaranteed"


def _priority_class(pod: Obj, lookup: Lookup) -> Obj | None:
    name = pod["spec"].get("priorityClassName")
    if name:
        found = lookup.find(kinds.PRIORITY_CLASS, "", name)
        if found is None and name in _SYSTEM_CLASSES:
            return {"metadata": {"name": name}, "value": _SYSTEM_CLASSES[name]}
        if found is None:
            text = f"no PriorityClass with name {name} was found"
            raise errors.forbidden(kinds.POD, pod["metadata"]["name"], text)
        return found
    defaults = [entry for entry in lookup.all(kinds.PRIORITY_CLASS) if entry.get("globalDefault")]
    return min(defaults, key=lambda entry: (entry["value"], entry["metadata"]["name"])) if defaults else None


def _begin(pod: Obj, lookup: Lookup) -> Obj:
    spec = pod.get("spec")
    status: Obj = {"phase": "Pending"}
    if not isinstance(spec, dict) or not isinstance(spec.get("containers"), list) or not spec["containers"]:
        return {**pod, "status": status}
    chosen = _priority_class(pod, lookup)
    priority = int(chosen["value"]) if chosen is not None else 0
    if spec.get("priority") is not None and spec["priority"] != priority:
        text = (
            f"the integer value of priority ({spec['priority']}) must not be provided in pod spec; "
            f"priority admission controller computed {priority} from the given PriorityClass name"
        )
        raise errors.forbidden(kinds.POD, pod["metadata"]["name"], text)
    policy = (chosen or {}).get("preemptionPolicy", "PreemptLowerPriority")
    changes: Obj = {"priority": priority, "preemptionPolicy": spec.get("preemptionPolicy") or policy}
    if chosen is not None:
        changes["priorityClassName"] = chosen["metadata"]["name"]
    status["qosClass"] = _qos_class(spec)
    pod = {**pod, "spec": {**spec, **changes}, "status": status}
    if spec.get("schedulingGates"):
        gated = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }
        pod = with_condition(pod, gated, lookup.now())
    return pod


# --- validation ---------------------------------------------------------------------------------------------------


def amount_faults(amounts: Any, path: str) -> list[FieldError]:
    """Faults in a map of quantities: entries that are none, or are negative."""
    if amounts is None:
        return []
    if not isinstance(amounts, dict):
        return [errors.invalid(path, amounts, "must be a map of quantities")]
    faults = []
    for name, value in amounts.items():
        if not is_quantity(value):
            faults.append(errors.invalid(f"{path}[{name}]", value, FORM_TEXT))
        elif parse(value) < 0:
            faults.append(errors.invalid(f"{path}[{name}]", value, "must be greater than or equal to 0"))
        elif "/" in name and parse(value).denominator != 1:
            faults.append(errors.invalid(f"{path}[{name}]", value, "must be an integer"))
    return faults


def _resource_faults(resources: Any, path: str) -> list[FieldError]:
    if not isinstance(resources, dict):
        return [errors.invalid(path, resources, "must be an object")]
    limits, requests = resources.get("limits"), resources.get("requests")
    faults = amount_faults(limits, f"{path}.limits") + amount_faults(requests, f"{path}.requests")
    if faults:
        return faults
    for name, request in (requests or {}).items():
        limit = (limits or {}).get(name)
        field = f"{path}.requests"
        if "/" in name:  # an extended resource: no overcommitment
            if limit is None:
                faults.append(errors.required(f"{path}.limits", "Limit must be set for non overcommitable resources"))
            elif parse(limit) != parse(request):
                faults.append(errors.invalid(field, request, f"must be equal to {name} limit of {limit}"))
        elif limit is not None and parse(request) > parse(limit):
            text = f"must be less than or equal to {name} limit of {limit}"
            faults.append(errors.invalid(field, request, text))
        elif name not in _NATIVE and not name.startswith("hugepages-"):
            text = "must be a standard resource type or fully qualified"
            faults.append(errors.invalid(f"{field}[{name}]", name, text))
    return faults


def _container_faults(spec: Obj, claim_names: frozenset[str]) -> list[FieldError]:
    faults = []
    names: set[str] = set()
    for field in _CONTAINER_FIELDS:
        containers = spec.get(field)
        if containers is not None and not isinstance(containers, list):
            faults.append(errors.invalid(f"spec.{field}", containers, "must be a list"))
            continue
        for index, container in enumerate(containers or ()):
            path = f"spec.{field}[{index}]"
            name = container.get("name")
            if not name:
                faults.append(errors.required(f"{path}.name"))
            elif not is_label(name):
                faults.append(errors.invalid(f"{path}.name", name, LABEL_TEXT))
            elif name in names:
                faults.append(errors.duplicate(f"{path}.name", name))
            names.add(str(name))
            if not container.get("image"):
                faults.append(errors.required(f"{path}.image"))
            if container.get("resources"):
                faults += _resource_faults(container["resources"], f"{path}.resources")
                for at, claim in enumerate(container["resources"].get("claims") or ()):
                    if claim.get("name") not in claim_names:
                        where = f"{path}.resources.claims[{at}]"
                        text = "must be one of the names in pod.spec.resourceClaims"
                        faults.append(errors.invalid(where, claim.get("name"), text))
    return faults


def _claim_faults(spec: Obj) -> tuple[list[FieldError], frozenset[str]]:
    faults = []
    names: set[str] = set()
    for index, claim in enumerate(spec.get("resourceClaims") or ()):
        path = f"spec.resourceClaims[{index}]"
        name = claim.get("name")
        if not name:
            faults.append(errors.required(f"{path}.name"))
        elif not is_label(name):
            faults.append(errors.invalid(f"{path}.name", name, LABEL_TEXT))
        elif name in names:
            faults.append(errors.duplicate(f"{path}.name", name))
        names.add(str(name))
        given = [field for field in ("resourceClaimName", "resourceClaimTemplateName") if claim.get(field)]
        if len(given) > 1:
            text = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            faults.append(errors.invalid(path, claim, text))
        elif not given:
            text = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"
            faults.append(errors.invalid(path, claim, text))
        faults += [
            errors.invalid(f"{path}.{field}", claim[field], SUBDOMAIN_TEXT)
            for field in given
            if not is_subdomain(claim[field])
        ]
    return faults, frozenset(names)


def spec_faults(spec: Any) -> list[FieldError]:
    """Faults of a pod spec, with paths that begin at `spec`."""
    if not isinstance(spec, dict):
        return [errors.required("spec")]
    faults, claim_names = _claim_faults(spec)
    if not spec.get("containers"):
        faults.append(errors.required("spec.containers"))
    faults += _container_faults(spec, claim_names)
    if spec.get("restartPolicy") not in _RESTART_POLICIES:
        faults.append(errors.unsupported("spec.restartPolicy", spec.get("restartPolicy"), _RESTART_POLICIES))
    grace = spec.get("terminationGracePeriodSeconds")
    if not isinstance(grace, int) or grace < 0:
        text = "must be greater than or equal to 0"
        faults.append(errors.invalid("spec.terminationGracePeriodSeconds", grace, text))
    faults += toleration_faults(spec.get("tolerations") or [], "spec.tolerations")
    selector = spec.get("nodeSelector")
    if selector is not None and not all(isinstance(value, str) for value in selector.values()):
        faults.append(errors.invalid("spec.nodeSelector", selector, "must be a map of strings"))
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if required is not None:
        path = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
        faults += node_selector_faults(required, path)
    faults += neighbour_faults(spec.get("affinity") or {})
    faults += spread_faults(spec.get("topologySpreadConstraints") or [])
    if spec.get("activeDeadlineSeconds") is not None and not spec["activeDeadlineSeconds"] > 0:
        text = "must be between 1 and 2147483647, inclusive"
        faults.append(errors.invalid("spec.activeDeadlineSeconds", spec["activeDeadlineSeconds"], text))
    if spec.get("nodeName") and spec.get("schedulingGates"):
        text = "cannot be set until all schedulingGates have been cleared"
        faults.append(errors.forbidden_field("spec.nodeName", text))
    return faults


def _check(pod: Obj) -> list[FieldError]:
    return spec_faults(pod.get("spec"))


def _frozen_part(spec: Obj) -> Obj:
    part = {key: value for key, value in spec.items() if key not in _MAY_CHANGE}
    for field in _CONTAINER_FIELDS:
        containers = spec.get(field) or ()
        part[field] = [{key: value for key, value in entry.items() if key != "image"} for entry in containers]
    return part


def _check_change(old: Obj, new: Obj, subresource: str | None) -> list[FieldError]:
    if subresource or old["spec"] is new["spec"]:
        return []
    before, after = dict(old["spec"]), dict(new["spec"])
    faults = []
    gates = [gate.get("name") for gate in before.get("schedulingGates") or ()]
    added = [gate for gate in after.get("schedulingGates") or () if gate.get("name") not in gates]
    if added:
        text = f"only deletion is allowed, but found new scheduling gate '{added[0].get('name')}'"
        faults.append(errors.forbidden_field("spec.schedulingGates", text))
    if gates:  # a gated pod may still be directed to nodes
        for spec in (before, after):
            spec.pop("nodeSelector", None)
            spec.pop("affinity", None)
    kept = after.get("tolerations") or ()
    if any(entry not in kept for entry in before.get("tolerations") or ()):
        text = "existing toleration can not be modified except its tolerationSeconds"
        faults.append(errors.forbidden_field("spec.tolerations", text))
    if _frozen_part(before) != _frozen_part(after):
        text = (
            "pod updates may not change fields other than `spec.containers[*].image`,"
            "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to "
            "existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously "
            "negative)"
        )
        faults.append(errors.forbidden_field("spec", text))
    return faults


POD_RULES = Rules(
    defaults=_with_defaults, begin=_begin, check=_check, check_change=_check_change, status_write_keeps_meta=False
)
