"""Storage as documents, as users, drivers and controllers write it: only what the test is about needs saying."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.manifests import Document, meta

HOST = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"


def volume_claim(
    name: str,
    *,
    namespace: str = "a",
    cls: str | None = "wait",
    size: str = "1Gi",
    modes: Sequence[str] = ("ReadWriteOnce",),
    volume: str = "",
    bound: bool = False,
    node: str = "",
    owner: Document | None = None,
    **spec: Any,
) -> Document:
    """A claim; `bound`: to `volume`. `node`: where its volume is being provisioned."""
    annotations = {"pv.kubernetes.io/bind-completed": "yes"} if bound else {}
    if node:
        annotations["volume.kubernetes.io/selected-node"] = node
    asked: Document = {"accessModes": list(modes), "resources": {"requests": {"storage": size}}, **spec}
    if cls is not None:
        asked["storageClassName"] = cls
    if volume:
        asked["volumeName"] = volume
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": meta(name, namespace, annotations=annotations, owner=owner),
        "spec": asked,
        "status": {"phase": "Bound" if bound else "Pending"},
    }


def volume(
    name: str,
    *,
    cls: str = "local",
    size: str = "1Gi",
    modes: Sequence[str] = ("ReadWriteOnce",),
    nodes: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    claim: Document | None = None,
    driver: str = "",
    phase: str = "",
    **spec: Any,
) -> Document:
    """A volume; `nodes`: only those reach it."""
    made: Document = {"capacity": {"storage": size}, "accessModes": list(modes), "storageClassName": cls, **spec}
    if nodes:
        made["nodeAffinity"] = {"required": {"nodeSelectorTerms": [{"matchExpressions": [within(HOST, *nodes)]}]}}
    if claim is not None:
        made["claimRef"] = {key: claim["metadata"][key] for key in ("namespace", "name", "uid")}
    if driver:
        made["csi"] = {"driver": driver, "volumeHandle": f"{name}-handle"}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": meta(name, labels=labels),
        "spec": made,
        "status": {"phase": phase or ("Bound" if claim is not None else "Available")},
    }


def bound(name: str, **fields: Any) -> list[Document]:
    """A claim and its volume, each bound to the other; `fields` are the volume's."""
    modes = fields.get("modes", ("ReadWriteOnce",))
    claim = volume_claim(name, volume=f"pv-{name}", bound=True, cls=fields.get("cls", "local"), modes=modes)
    return [claim, volume(f"pv-{name}", claim=claim, **fields)]


def storage_class(
    name: str = "wait", provisioner: str = "disk.example.com", *, waits: bool = True, **fields: Any
) -> Document:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": meta(name),
        "provisioner": provisioner,
        "volumeBindingMode": "WaitForFirstConsumer" if waits else "Immediate",
        **fields,
    }


def local_class(name: str = "local") -> Document:
    return storage_class(name, "kubernetes.io/no-provisioner")


def csi_node(name: str, **limits: int | None) -> Document:
    """`limits`: by driver, "." as "_"; None for none."""
    drivers = [
        {"name": driver.replace("_", "."), "nodeID": name, **({} if n is None else {"allocatable": {"count": n}})}
        for driver, n in limits.items()
    ]
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSINode",
        "metadata": meta(name),
        "spec": {"drivers": drivers},
    }


def csi_driver(name: str = "disk.example.com", *, capacity: bool = True) -> Document:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSIDriver",
        "metadata": meta(name),
        "spec": {"storageCapacity": capacity},
    }


def capacity(name: str, size: str, *, cls: str = "wait", labels: Mapping[str, str] | None = None) -> Document:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSIStorageCapacity",
        "metadata": meta(name, "storage"),
        "storageClassName": cls,
        "nodeTopology": {"matchLabels": dict(labels or {})},
        "capacity": size,
    }


def within(key: str, *values: str) -> Document:
    """A requirement of a node selector."""
    return {"key": key, "operator": "In", "values": list(values)}


def mount(*claims: str) -> list[Document]:
    """spec.volumes of a pod that uses these claims."""
    return [{"name": f"v{i}", "persistentVolumeClaim": {"claimName": name}} for i, name in enumerate(claims)]


def scratch(name: str = "scratch", cls: str = "wait") -> Document:
    """A volume for which the pod gets a claim of its own."""
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": cls, "resources": {"requests": {"storage": "1Gi"}}}
    return {"name": name, "ephemeral": {"volumeClaimTemplate": {"spec": spec}}}
