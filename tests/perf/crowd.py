"""A cluster in which much runs already, put straight into the store of the embedded one: past admission, to be quick.

The pods are as large as those of a real cluster: with tolerations, volumes, conditions and container statuses.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from scheduler.api import crd_schema, kinds
from scheduler.devcluster import kinds as served
from scheduler.devcluster.devices import stable_uuid
from scheduler.devcluster.objects import Obj
from scheduler.devcluster.shapes import DEVICE_CLASSES, Machine, shape_named
from scheduler.devcluster.store import Store

NAMESPACE = "default"
GANG = 8
GPUS_IN_USE = 7
"""Of the eight of each node."""
_STARTED = "2026-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seat:
    """Where a pod runs: its node, and the GPU that its claim holds, if it has one."""

    node: str
    device: str = ""


def fill(store: Store, nodes: int, pods: int) -> None:
    """Nodes of eight GPUs; `pods` pods evenly on them, up to seven of each node's with a GPU and in gangs of eight, the
    others alone with CPU; the last eight pods are a gang that waits for GPUs."""
    for definition in crd_schema.crds():
        store.create(served.CUSTOM_RESOURCE, definition)
    for document in ({"kind": "Queue", "metadata": {"name": "default"}}, *DEVICE_CLASSES):
        _put(store, document)
    machines = list(shape_named("h100x8").machines(nodes))
    for machine in machines:
        _put(store, machine.node)
        for published in machine.slices:
            _put(store, published)
    running = pods - GANG
    seats = [_Seat(node=each.name, device=_gpus(each)[turn]) for turn in range(GPUS_IN_USE) for each in machines]
    seats = seats[: running // GANG * GANG]
    plain = [_Seat(node=machines[number % nodes].name) for number in range(running - len(seats))]
    for number, seat in enumerate([*seats, *plain, *[None] * GANG]):
        gang = f"gang-{number // GANG:06d}" if seat is None or seat.device else ""
        for document in _documents(f"pod-{number:06d}", gang, seat, first=bool(gang) and number % GANG == 0):
            _put(store, document)


def _documents(name: str, gang: str, seat: _Seat | None, *, first: bool) -> Iterator[Obj]:
    """A pod with what belongs to it; with the first of a gang, the PodGroup."""
    if first:
        yield {"kind": "PodGroup", "metadata": {"name": gang, "namespace": NAMESPACE}, "spec": {"minMember": GANG}}
    if gang:
        yield _claim(name, seat)
    yield _pod(name, gang, seat)


def _pod(name: str, gang: str, seat: _Seat | None) -> Obj:
    metadata: Obj = {"name": name, "namespace": NAMESPACE, "uid": stable_uuid(name)}
    resources: Obj = {"requests": {"cpu": "2", "memory": "4Gi"}}
    spec: Obj = {
        "schedulerName": "tutti",
        "restartPolicy": "Never",
        "priority": 0,
        "serviceAccountName": "default",
        "enableServiceLinks": True,
        "terminationGracePeriodSeconds": 30,
        "tolerations": [
            {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            for key in ("not-ready", "unreachable")
        ],
        "volumes": [{"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": _SOURCES}}],
    }
    status: Obj = {"phase": "Pending", "qosClass": "Burstable"}
    if gang:
        metadata["labels"] = {"tutti.scheduler/pod-group": gang}
        resources["claims"] = [{"name": "gpu"}]
        spec["resourceClaims"] = [{"name": "gpu", "resourceClaimTemplateName": "gpu"}]
        status["resourceClaimStatuses"] = [{"name": "gpu", "resourceClaimName": f"{name}-gpu"}]
    mounts = [{"name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]
    container = {"name": "main", "image": "example.com/trainer:v1", "resources": resources, "volumeMounts": mounts}
    spec["containers"] = [{**container, "terminationMessagePath": "/dev/termination-log", "imagePullPolicy": "Always"}]
    if seat is not None:
        spec["nodeName"] = seat.node
        status |= {"phase": "Running", "startTime": _STARTED, "hostIP": "10.0.0.1", "podIP": "10.1.0.1"}
        status["conditions"] = [
            {"type": type_, "status": "True", "lastProbeTime": None, "lastTransitionTime": _STARTED}
            for type_ in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
        ]
        state = {"running": {"startedAt": _STARTED}}
        named = {"name": "main", "image": "example.com/trainer:v1", "imageID": f"example.com/trainer@sha256:{'0' * 64}"}
        status["containerStatuses"] = [{**named, "ready": True, "started": True, "restartCount": 0, "state": state}]
    return {"kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


_SOURCES = [
    {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
]


def _claim(pod: str, seat: _Seat | None) -> Obj:
    owner = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": stable_uuid(pod), "controller": True}
    name = f"{pod}-gpu"
    metadata: Obj = {"name": name, "namespace": NAMESPACE, "uid": stable_uuid(name), "ownerReferences": [owner]}
    exactly = {"deviceClassName": "gpu.nvidia.com", "allocationMode": "ExactCount", "count": 1}
    spec = {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}
    if seat is None:
        return {"kind": "ResourceClaim", "metadata": metadata, "spec": spec}
    metadata["finalizers"] = ["resource.kubernetes.io/delete-protection"]
    result = {"request": "gpu", "driver": "gpu.nvidia.com", "pool": seat.node, "device": seat.device}
    field = {"key": "metadata.name", "operator": "In", "values": [seat.node]}
    allocation = {
        "devices": {"results": [result]},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [field]}]},
        "allocationTimestamp": _STARTED,
    }
    consumer = {"resource": "pods", "name": pod, "uid": stable_uuid(pod)}
    status = {"allocation": allocation, "reservedFor": [consumer]}
    return {"kind": "ResourceClaim", "metadata": metadata, "spec": spec, "status": status}


def _gpus(machine: Machine) -> list[str]:
    return [device["name"] for published in machine.slices for device in published["spec"]["devices"]]


_KINDS = {
    kind.kind: kind for kind in (kinds.POD, kinds.NODE, kinds.RESOURCE_SLICE, kinds.DEVICE_CLASS, kinds.RESOURCE_CLAIM)
} | {kind.kind: kind for kind in (kinds.QUEUE, kinds.POD_GROUP)}


def _put(store: Store, document: Obj) -> None:
    """Into the table, with the metadata that every object has."""
    known = _KINDS[document["kind"]]
    kind = store.kinds.named(known.api_version, known.kind)
    assert kind is not None
    given = document["metadata"]
    key = (given.get("namespace", ""), given["name"])
    metadata = {"uid": stable_uuid(kind.kind, *key), "creationTimestamp": _STARTED, **given}
    body = {"apiVersion": kind.api_version, "kind": kind.kind, **document, "metadata": metadata}
    store._commit(kind, key, None, body)
