"""The columns `kubectl get` shows for the built-in kinds; those of priority 1 only with `-o wide`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from scheduler.devcluster import kinds
from scheduler.devcluster.kinds import Kind
from scheduler.devcluster.objects import Obj, field_of, parse_time

Cell = Callable[[Obj, datetime], Any]
Column = tuple[Obj, Cell]

_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 365 * 86400


def human_duration(seconds: float) -> str:
    """A duration in two significant units at most, as kubectl shows ages: 45s, 3m20s, 5h, 2d4h."""
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    whole = max(whole, 0)
    # (below this, unit, remainder's unit or 0)
    scale = (
        (2 * _MINUTE, 1, 0),
        (10 * _MINUTE, _MINUTE, 1),
        (3 * _HOUR, _MINUTE, 0),
        (8 * _HOUR, _HOUR, _MINUTE),
        (2 * _DAY, _HOUR, 0),
        (8 * _DAY, _DAY, _HOUR),
        (2 * _YEAR, _DAY, 0),
        (8 * _YEAR, _YEAR, _DAY),
    )
    names = {1: "s", _MINUTE: "m", _HOUR: "h", _DAY: "d", _YEAR: "y"}
    for limit, unit, rest in scale:
        if whole < limit:
            text = f"{whole // unit}{names[unit]}"
            remainder = whole % unit // rest if rest else 0
            return f"{text}{remainder}{names[rest]}" if remainder else text
    return f"{whole // _YEAR}y"


def _since(timestamp: Any, now: datetime) -> str:
    if not timestamp:
        return "<unknown>"
    try:
        return human_duration((now - parse_time(str(timestamp))).total_seconds())
    except ValueError:
        return "<invalid>"


def _column(name: str, cell: Cell, *, type: str = "string", wide: bool = False) -> Column:
    header = {"name": name, "type": type, "format": "name" if name == "Name" else "", "description": name}
    return {**header, "priority": int(wide)}, cell


def _at(*path: str, empty: Any = "<none>") -> Cell:
    def cell(obj: Obj, _now: datetime) -> Any:
        value = field_of(obj, *path)
        return empty if value is None or value == "" else value

    return cell


def _count(*path: str) -> Cell:
    return lambda obj, _now: len(field_of(obj, *path) or ())


def _age(obj: Obj, now: datetime) -> str:
    return _since(obj["metadata"].get("creationTimestamp"), now)


_NAME = _column("Name", _at("metadata", "name"))
_AGE = _column("Age", _age)
_CREATED = _column("Created At", _at("metadata", "creationTimestamp"))


# --- pods and nodes -----------------------------------------------------------------------------------------------


def _pod_ready(pod: Obj, _now: datetime) -> str:
    statuses = field_of(pod, "status", "containerStatuses") or ()
    return f"{sum(bool(entry.get('ready')) for entry in statuses)}/{len(field_of(pod, 'spec', 'containers') or ())}"


def _pod_status(pod: Obj, _now: datetime) -> str:
    status = pod.get("status") or {}
    reason = str(status.get("reason") or status.get("phase") or "Unknown")
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "SchedulingGated":
            reason = "SchedulingGated"
    for entry in status.get("containerStatuses") or ():
        state = entry.get("state") or {}
        found = field_of(state, "waiting", "reason") or field_of(state, "terminated", "reason")
        reason = str(found) if found else reason
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    return "Completed" if reason == "Succeeded" else reason


def _restarts(pod: Obj, _now: datetime) -> int:
    return sum(int(entry.get("restartCount") or 0) for entry in field_of(pod, "status", "containerStatuses") or ())


def _gates(pod: Obj, _now: datetime) -> str:
    gates = field_of(pod, "spec", "readinessGates") or ()
    if not gates:
        return "<none>"
    conditions = field_of(pod, "status", "conditions") or ()
    true = {entry.get("type") for entry in conditions if entry.get("status") == "True"}
    return f"{sum(gate.get('conditionType') in true for gate in gates)}/{len(gates)}"


def _node_status(node: Obj, _now: datetime) -> str:
    conditions = field_of(node, "status", "conditions") or ()
    ready = next((entry.get("status") for entry in conditions if entry.get("type") == "Ready"), None)
    text = {"True": "Ready", "False": "NotReady"}.get(str(ready), "Unknown")
    return text + (",SchedulingDisabled" if field_of(node, "spec", "unschedulable") else "")


def _node_roles(node: Obj, _now: datetime) -> str:
    prefix = "node-role.kubernetes.io/"
    labels = field_of(node, "metadata", "labels") or {}
    return ",".join(sorted(key.removeprefix(prefix) for key in labels if key.startswith(prefix))) or "<none>"


def _address(kind: str) -> Cell:
    def cell(node: Obj, _now: datetime) -> str:
        addresses = field_of(node, "status", "addresses") or ()
        return next((str(entry["address"]) for entry in addresses if entry.get("type") == kind), "<none>")

    return cell


def _node_info(field: str) -> Cell:
    return _at("status", "nodeInfo", field, empty="<unknown>")


# --- workloads ----------------------------------------------------------------------------------------------------


def _containers(field: str) -> Cell:
    def cell(obj: Obj, _now: datetime) -> str:
        containers = field_of(obj, "spec", "template", "spec", "containers") or ()
        return ",".join(str(container.get(field, "")) for container in containers)

    return cell


def selector_text(selector: Obj | None) -> str:
    """A LabelSelector, or a map of labels, in the form of a selector's text."""
    if not selector:
        return "<none>"
    labels = selector.get("matchLabels") if "matchLabels" in selector or "matchExpressions" in selector else selector
    terms = [f"{key}={value}" for key, value in sorted((labels or {}).items())]
    for entry in selector.get("matchExpressions") or ():
        key, values = entry["key"], ",".join(entry.get("values") or ())
        forms = {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key}
        terms.append(forms.get(entry["operator"], f"!{key}"))
    return ",".join(terms)


_WIDE = (
    _column("Containers", _containers("name"), wide=True),
    _column("Images", _containers("image"), wide=True),
)
_SELECTOR = _column("Selector", lambda obj, _now: selector_text(field_of(obj, "spec", "selector")), wide=True)


def _ready_of(obj: Obj, _now: datetime) -> str:
    return f"{field_of(obj, 'status', 'readyReplicas') or 0}/{field_of(obj, 'spec', 'replicas') or 0}"


def _job_status(job: Obj, _now: datetime) -> str:
    names = {"Complete": "Complete", "Failed": "Failed", "Suspended": "Suspended", "FailureTarget": "FailureTarget"}
    for name, text in names.items():
        for condition in field_of(job, "status", "conditions") or ():
            if condition.get("type") == name and condition.get("status") == "True":
                return text
    return "Terminating" if job["metadata"].get("deletionTimestamp") else "Running"


def _job_completions(job: Obj, _now: datetime) -> str:
    done, wanted = field_of(job, "status", "succeeded") or 0, field_of(job, "spec", "completions")
    if wanted is not None:
        return f"{done}/{wanted}"
    parallel = field_of(job, "spec", "parallelism") or 0
    return f"{done}/1 of {parallel}" if parallel > 1 else f"{done}/1"


def _job_duration(job: Obj, now: datetime) -> str:
    start, end = field_of(job, "status", "startTime"), field_of(job, "status", "completionTime")
    if not start:
        return ""
    until = parse_time(str(end)) if end else now
    return human_duration((until - parse_time(str(start))).total_seconds())


# --- the rest -----------------------------------------------------------------------------------------------------


def _event_seen(event: Obj, now: datetime) -> str:
    last = field_of(event, "series", "lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return _since(last or event["metadata"].get("creationTimestamp"), now)


def _event_object(event: Obj, _now: datetime) -> str:
    involved = event.get("involvedObject") or {}
    return f"{str(involved.get('kind', '')).lower()}/{involved.get('name', '')}"


def _event_source(event: Obj, _now: datetime) -> str:
    source = event.get("source") or {}
    parts = (source.get("component") or event.get("reportingComponent"), source.get("host"))
    return ", ".join(str(part) for part in parts if part)


def _event_count(event: Obj, _now: datetime) -> int:
    return int(field_of(event, "series", "count") or event.get("count") or 1)


def _claim_state(claim: Obj, _now: datetime) -> str:
    states = []
    if claim["metadata"].get("deletionTimestamp"):
        states.append("deleted")
    if field_of(claim, "status", "allocation") is None:
        states.append("pending")
    else:
        states.append("allocated")
        if field_of(claim, "status", "reservedFor"):
            states.append("reserved")
    return ",".join(states)


_MODES = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}


def _access_modes(part: str) -> Cell:
    return lambda obj, _now: ",".join(_MODES.get(mode, mode) for mode in field_of(obj, part, "accessModes") or ())


def _volume_holder(volume: Obj, _now: datetime) -> str:
    reference = field_of(volume, "spec", "claimRef")
    return f"{reference.get('namespace')}/{reference.get('name')}" if reference else ""


def _service_ports(service: Obj, _now: datetime) -> str:
    ports = field_of(service, "spec", "ports") or ()
    return ",".join(f"{entry.get('port')}/{entry.get('protocol', 'TCP')}" for entry in ports) or "<none>"


def _role(binding: Obj, _now: datetime) -> str:
    reference = binding.get("roleRef") or {}
    return f"{reference.get('kind')}/{reference.get('name')}"


_COLUMNS: dict[str, tuple[Column, ...]] = {
    kinds.POD.key: (
        _NAME,
        _column("Ready", _pod_ready),
        _column("Status", _pod_status),
        _column("Restarts", _restarts),
        _AGE,
        _column("IP", _at("status", "podIP"), wide=True),
        _column("Node", _at("spec", "nodeName"), wide=True),
        _column("Nominated Node", _at("status", "nominatedNodeName"), wide=True),
        _column("Readiness Gates", _gates, wide=True),
    ),
    kinds.NODE.key: (
        _NAME,
        _column("Status", _node_status),
        _column("Roles", _node_roles),
        _AGE,
        _column("Version", _node_info("kubeletVersion")),
        _column("Internal-IP", _address("InternalIP"), wide=True),
        _column("External-IP", _address("ExternalIP"), wide=True),
        _column("OS-Image", _node_info("osImage"), wide=True),
        _column("Kernel-Version", _node_info("kernelVersion"), wide=True),
        _column("Container-Runtime", _node_info("containerRuntimeVersion"), wide=True),
    ),
    kinds.NAMESPACE.key: (_NAME, _column("Status", _at("status", "phase")), _AGE),
    kinds.EVENT.key: (
        _column("Last Seen", _event_seen),
        _column("Type", _at("type", empty="")),
        _column("Reason", _at("reason", empty="")),
        _column("Object", _event_object),
        _column("Subobject", _at("involvedObject", "fieldPath", empty=""), wide=True),
        _column("Source", _event_source, wide=True),
        _column("Message", lambda event, _now: str(event.get("message") or "").strip()),
        _column(
            "First Seen",
            lambda event, now: _since(event.get("firstTimestamp") or event.get("eventTime"), now),
            wide=True,
        ),
        _column("Count", _event_count, type="integer", wide=True),
        _column("Name", _at("metadata", "name"), wide=True),
    ),
    kinds.CONFIG_MAP.key: (_NAME, _column("Data", _count("data"), type="integer"), _AGE),
    kinds.SECRET.key: (_NAME, _column("Type", _at("type", empty="Opaque")), _column("Data", _count("data")), _AGE),
    kinds.SERVICE_ACCOUNT.key: (_NAME, _column("Secrets", _count("secrets")), _AGE),
    kinds.SERVICE.key: (
        _NAME,
        _column("Type", _at("spec", "type")),
        _column("Cluster-IP", _at("spec", "clusterIP")),
        _column("External-IP", lambda _obj, _now: "<none>"),
        _column("Port(s)", _service_ports),
        _AGE,
        _SELECTOR,
    ),
    kinds.VOLUME.key: (
        _NAME,
        _column("Capacity", _at("spec", "capacity", "storage")),
        _column("Access Modes", _access_modes("spec")),
        _column("Reclaim Policy", _at("spec", "persistentVolumeReclaimPolicy")),
        _column("Status", _at("status", "phase")),
        _column("Claim", _volume_holder),
        _column("StorageClass", _at("spec", "storageClassName", empty="")),
        _AGE,
        _column("VolumeMode", _at("spec", "volumeMode"), wide=True),
    ),
    kinds.VOLUME_CLAIM.key: (
        _NAME,
        _column("Status", _at("status", "phase")),
        _column("Volume", _at("spec", "volumeName", empty="")),
        _column("Capacity", _at("status", "capacity", "storage", empty="")),
        _column("Access Modes", _access_modes("status")),
        _column("StorageClass", _at("spec", "storageClassName", empty="")),
        _AGE,
        _column("VolumeMode", _at("spec", "volumeMode"), wide=True),
    ),
    kinds.STORAGE_CLASS.key: (
        _NAME,
        _column("Provisioner", _at("provisioner")),
        _column("ReclaimPolicy", _at("reclaimPolicy")),
        _column("VolumeBindingMode", _at("volumeBindingMode")),
        _column("AllowVolumeExpansion", _at("allowVolumeExpansion", empty=False)),
        _AGE,
    ),
    kinds.CSI_NODE.key: (_NAME, _column("Drivers", _count("spec", "drivers"), type="integer"), _AGE),
    kinds.CSI_DRIVER.key: (_NAME, _column("StorageCapacity", _at("spec", "storageCapacity", empty=False)), _AGE),
    kinds.STORAGE_CAPACITY.key: (
        _NAME,
        _column("StorageClassName", _at("storageClassName")),
        _column("Capacity", _at("capacity")),
        _AGE,
    ),
    kinds.DEPLOYMENT.key: (
        _NAME,
        _column("Ready", _ready_of),
        _column("Up-to-date", _at("status", "updatedReplicas", empty=0), type="integer"),
        _column("Available", _at("status", "availableReplicas", empty=0), type="integer"),
        _AGE,
        *_WIDE,
        _SELECTOR,
    ),
    kinds.REPLICA_SET.key: (
        _NAME,
        _column("Desired", _at("spec", "replicas", empty=0), type="integer"),
        _column("Current", _at("status", "replicas", empty=0), type="integer"),
        _column("Ready", _at("status", "readyReplicas", empty=0), type="integer"),
        _AGE,
        *_WIDE,
        _SELECTOR,
    ),
    kinds.STATEFUL_SET.key: (_NAME, _column("Ready", _ready_of), _AGE, *_WIDE),
    kinds.DAEMON_SET.key: (
        _NAME,
        _column("Desired", _at("status", "desiredNumberScheduled", empty=0), type="integer"),
        _column("Current", _at("status", "currentNumberScheduled", empty=0), type="integer"),
        _column("Ready", _at("status", "numberReady", empty=0), type="integer"),
        _AGE,
        *_WIDE,
        _SELECTOR,
    ),
    kinds.JOB.key: (
        _NAME,
        _column("Status", _job_status),
        _column("Completions", _job_completions),
        _column("Duration", _job_duration),
        _AGE,
        *_WIDE,
        _SELECTOR,
    ),
    kinds.DISRUPTION_BUDGET.key: (
        _NAME,
        _column("Min Available", _at("spec", "minAvailable", empty="N/A")),
        _column("Max Unavailable", _at("spec", "maxUnavailable", empty="N/A")),
        _column("Allowed Disruptions", _at("status", "disruptionsAllowed", empty=0), type="integer"),
        _AGE,
    ),
    kinds.PRIORITY_CLASS.key: (
        _NAME,
        _column("Value", _at("value", empty=0), type="integer"),
        _column("Global-Default", lambda obj, _now: bool(obj.get("globalDefault")), type="boolean"),
        _AGE,
        _column("PreemptionPolicy", _at("preemptionPolicy")),
    ),
    kinds.LEASE.key: (_NAME, _column("Holder", _at("spec", "holderIdentity", empty="")), _AGE),
    kinds.SLICE.key: (
        _NAME,
        _column("Node", _at("spec", "nodeName", empty="")),
        _column("Driver", _at("spec", "driver")),
        _column("Pool", _at("spec", "pool", "name")),
        _AGE,
    ),
    kinds.CLAIM.key: (_NAME, _column("State", _claim_state), _AGE),
    kinds.CUSTOM_RESOURCE.key: (_NAME, _CREATED),
    kinds.ROLE.key: (_NAME, _CREATED),
    kinds.CLUSTER_ROLE.key: (_NAME, _CREATED),
    kinds.ROLE_BINDING.key: (_NAME, _column("Role", _role), _AGE),
    kinds.CLUSTER_ROLE_BINDING.key: (_NAME, _column("Role", _role), _AGE),
}


def columns_of(kind: Kind) -> tuple[Column, ...]:
    """The columns of a built-in kind."""
    return _COLUMNS.get(kind.key, (_NAME, _AGE))
