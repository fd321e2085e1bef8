"""Namespaces, nodes, events, priority classes, disruption budgets, services, volumes: small rules each."""

from __future__ import annotations

from typing import Any

from scheduler.devcluster import errors, kinds
from scheduler.devcluster.errors import FieldError
from scheduler.devcluster.objects import Obj, field_of, with_field, with_meta
from scheduler.devcluster.pod_rules import amount_faults
from scheduler.devcluster.quantities import tidied_amounts
from scheduler.devcluster.rules import Lookup, Rules

_TAINT_EFFECTS = ("NoExecute", "NoSchedule", "PreferNoSchedule")
_MAX_PRIORITY = 1_000_000_000


# --- namespaces ---------------------------------------------------------------------------------------------------


def _begin_namespace(obj: Obj, _lookup: Lookup) -> Obj:
    labels = {**(obj["metadata"].get("labels") or {}), "kubernetes.io/metadata.name": obj["metadata"]["name"]}
    obj = with_field(obj, ("metadata", "labels"), labels)
    return {**obj, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}


# --- nodes --------------------------------------------------------------------------------------------------------


def _node_with_defaults(node: Obj) -> Obj:
    status: Any = node.get("status")
    if not isinstance(status, dict):
        return node
    capacity: Any = status.get("capacity")
    allocatable: Any = status.get("allocatable")
    changes: Obj = {}
    if capacity:
        changes["capacity"] = tidied_amounts(capacity)
    if capacity or allocatable:
        changes["allocatable"] = tidied_amounts(allocatable or capacity)
    same = all(status.get(key) == value for key, value in changes.items())
    return node if same else {**node, "status": {**status, **changes}}


def _stamped_taints(node: Obj, now: str) -> Obj:
    """NoExecute taints without a time get the time of the write."""
    taints = field_of(node, "spec", "taints") or ()
    if not any(taint.get("effect") == "NoExecute" and not taint.get("timeAdded") for taint in taints):
        return node
    stamped = [{**taint, "timeAdded": taint.get("timeAdded") or now} for taint in taints]
    return with_field(node, ("spec", "taints"), stamped)


def _check_node(node: Obj) -> list[FieldError]:
    status = node.get("status") or {}
    faults = amount_faults(status.get("capacity"), "status.capacity")
    faults += amount_faults(status.get("allocatable"), "status.allocatable")
    seen: set[tuple[object, object]] = set()
    for index, taint in enumerate(field_of(node, "spec", "taints") or ()):
        path = f"spec.taints[{index}]"
        if not taint.get("key"):
            faults.append(errors.required(f"{path}.key"))
        if taint.get("effect") not in _TAINT_EFFECTS:
            faults.append(errors.unsupported(f"{path}.effect", taint.get("effect"), _TAINT_EFFECTS))
        if (taint.get("key"), taint.get("effect")) in seen:
            faults.append(errors.duplicate(path, f"{taint.get('key')}:{taint.get('effect')}"))
        seen.add((taint.get("key"), taint.get("effect")))
    return faults


# --- events -------------------------------------------------------------------------------------------------------


def _check_event(event: Obj) -> list[FieldError]:
    involved = event.get("involvedObject") or {}
    namespace = event["metadata"]["namespace"]
    there = involved.get("namespace")
    if there and there != namespace:
        return [errors.invalid("involvedObject.namespace", there, "does not match event.namespace")]
    if not there and namespace not in ("default", "kube-system"):
        return [errors.invalid("involvedObject.namespace", "", "does not match event.namespace")]
    return []


# --- priority classes ---------------------------------------------------------------------------------------------


def _priority_class_with_defaults(obj: Obj) -> Obj:
    return obj if obj.get("preemptionPolicy") else {**obj, "preemptionPolicy": "PreemptLowerPriority"}


def _check_priority_class(obj: Obj) -> list[FieldError]:
    value, name = obj.get("value", 0), obj["metadata"]["name"]
    if not isinstance(value, int) or isinstance(value, bool):
        return [errors.invalid("value", value, "must be an integer")]
    if name.startswith("system-") and name not in ("system-cluster-critical", "system-node-critical"):
        text = "priority class names with 'system-' prefix are reserved for system use only"
        return [errors.forbidden_field("metadata.name", text)]
    if value > _MAX_PRIORITY and not name.startswith("system-"):
        text = f"maximum allowed value of a user defined priority is {_MAX_PRIORITY}"
        return [errors.forbidden_field("value", text)]
    if obj["preemptionPolicy"] not in ("Never", "PreemptLowerPriority"):
        return [errors.unsupported("preemptionPolicy", obj["preemptionPolicy"], ("Never", "PreemptLowerPriority"))]
    return []


def _admit_priority_class(obj: Obj, lookup: Lookup) -> None:
    if not obj.get("globalDefault"):
        return
    for other in lookup.all(kinds.PRIORITY_CLASS):
        if other.get("globalDefault") and other["metadata"]["name"] != obj["metadata"]["name"]:
            text = f"PriorityClass {other['metadata']['name']} is already marked as default. Only one default can exist"
            raise errors.forbidden(kinds.PRIORITY_CLASS, obj["metadata"]["name"], text)


def _value_stays(old: Obj, new: Obj, _subresource: str | None) -> list[FieldError]:
    return [
        errors.forbidden_field(field, "may not be changed in an update.")
        for field in ("value", "preemptionPolicy")
        if old.get(field) != new.get(field)
    ]


# --- disruption budgets, services, volumes ------------------------------------------------------------------------


def _check_budget(budget: Obj) -> list[FieldError]:
    spec = budget.get("spec") or {}
    faults = []
    if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
        text = "minAvailable and maxUnavailable cannot be both set"
        faults.append(errors.invalid("spec", spec, text))
    for field in ("minAvailable", "maxUnavailable"):
        value = spec.get(field)
        percent = isinstance(value, str) and value.endswith("%") and value[:-1].isdigit() and int(value[:-1]) <= 100
        count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        if value is not None and not percent and not count:
            text = "must be a non-negative number or a percentage such as '50%'"
            faults.append(errors.invalid(f"spec.{field}", value, text))
    return faults


def _begin_service(service: Obj, _lookup: Lookup) -> Obj:
    spec = service.get("spec") or {}
    number = int(service["metadata"]["uid"].replace("-", "")[-6:], 16)
    address = f"10.96.{number // 254 % 254 + 1}.{number % 254 + 1}"
    spec = {"type": "ClusterIP", "sessionAffinity": "None", "clusterIP": address, **spec}
    return {**service, "spec": spec, "status": {"loadBalancer": {}}}


def _volume_claim_with_defaults(claim: Obj) -> Obj:
    spec = claim.get("spec") or {}
    return claim if spec.get("volumeMode") else {**claim, "spec": {**spec, "volumeMode": "Filesystem"}}


def _begin_volume_claim(claim: Obj, _lookup: Lookup) -> Obj:
    return {**_protected(claim, "kubernetes.io/pvc-protection"), "status": {"phase": "Pending"}}


def _volume_with_defaults(volume: Obj) -> Obj:
    spec = volume.get("spec") or {}
    if spec.get("volumeMode") and spec.get("persistentVolumeReclaimPolicy"):
        return volume
    return {**volume, "spec": {"volumeMode": "Filesystem", "persistentVolumeReclaimPolicy": "Retain", **spec}}


def _check_volume(volume: Obj) -> list[FieldError]:
    spec = volume.get("spec") or {}
    if spec.get("local") and not (spec.get("nodeAffinity") or {}).get("required"):
        return [errors.required("spec.nodeAffinity", "Local volume requires node affinity")]
    return []


def _storage_class_with_defaults(of: Obj) -> Obj:
    if of.get("reclaimPolicy") and of.get("volumeBindingMode"):
        return of
    return {"reclaimPolicy": "Delete", "volumeBindingMode": "Immediate", **of}


def _check_storage_class(of: Obj) -> list[FieldError]:
    faults = [] if of.get("provisioner") else [errors.required("provisioner", "")]
    if of["volumeBindingMode"] not in ("Immediate", "WaitForFirstConsumer"):
        modes = ("Immediate", "WaitForFirstConsumer")
        faults.append(errors.unsupported("volumeBindingMode", of["volumeBindingMode"], modes))
    return faults


def _begin_volume(volume: Obj, _lookup: Lookup) -> Obj:
    return {**_protected(volume, "kubernetes.io/pv-protection"), "status": {"phase": "Available"}}


def _protected(obj: Obj, finalizer: str) -> Obj:
    """What admission adds: whatever is in use does not go."""
    finalizers = obj["metadata"].get("finalizers") or []
    return obj if finalizer in finalizers else with_meta(obj, finalizers=[*finalizers, finalizer])


NAMESPACE_RULES = Rules(begin=_begin_namespace)
NODE_RULES = Rules(
    defaults=_node_with_defaults,
    stamp=_stamped_taints,
    check=_check_node,
    keeps_status_on_create=True,
    status_write_keeps_meta=False,
)
EVENT_RULES = Rules(check=_check_event)
PRIORITY_CLASS_RULES = Rules(
    defaults=_priority_class_with_defaults,
    check=_check_priority_class,
    admit=_admit_priority_class,
    check_change=_value_stays,
)
BUDGET_RULES = Rules(check=_check_budget)
SERVICE_RULES = Rules(begin=_begin_service)
VOLUME_CLAIM_RULES = Rules(defaults=_volume_claim_with_defaults, begin=_begin_volume_claim)
VOLUME_RULES = Rules(defaults=_volume_with_defaults, begin=_begin_volume, check=_check_volume)
STORAGE_CLASS_RULES = Rules(defaults=_storage_class_with_defaults, check=_check_storage_class)
