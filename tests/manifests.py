"""Builders of API documents, as a user or a driver would write them: only what the test is about needs saying.

Every builder returns a plain dict; keyword arguments name what differs. `merged` lays further fields over a document,
`change` makes it something a watch tells, and `state` a cluster of many.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from scheduler.api.changes import Change, listed, read
from scheduler.api.kinds import WATCHED
from scheduler.state.cluster import ClusterState

Document = dict[str, Any]

SCHEDULER = "tutti"
KINDS = {(kind.api_version, kind.kind): kind for kind in WATCHED}


def merged(document: Document, **fields: Any) -> Document:
    """The document with `fields` laid over it, mappings merged."""

    def lay(below: Any, above: Any) -> Any:
        if isinstance(below, dict) and isinstance(above, Mapping):
            return {**below, **{key: lay(below.get(key), value) for key, value in above.items()}}
        return above

    return lay(document, fields)


def meta(
    name: str,
    namespace: str | None = None,
    *,
    uid: str | None = None,
    created: str | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    owner: Document | None = None,
    version: str | None = None,
) -> Document:
    """metadata; `owner` is the document of the controller."""
    found: Document = {"name": name}
    if namespace is not None:
        found["namespace"] = namespace
    found["uid"] = uid or f"uid-{namespace or ''}-{name}"
    if version is not None:
        found["resourceVersion"] = version
    if created is not None:
        found["creationTimestamp"] = created
    if labels:
        found["labels"] = dict(labels)
    if annotations:
        found["annotations"] = dict(annotations)
    if owner is not None:
        found["ownerReferences"] = [
            {
                "apiVersion": owner["apiVersion"],
                "kind": owner["kind"],
                "name": owner["metadata"]["name"],
                "uid": owner["metadata"].get("uid", ""),
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
    return found


def namespace(name: str, *, admin_access: bool = False, **labels: str) -> Document:
    labels |= {"resource.kubernetes.io/admin-access": "true"} if admin_access else {}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": meta(name, labels=labels)}


def node(
    name: str,
    *,
    cpu: str = "64",
    memory: str = "512Gi",
    pods: int = 110,
    gpus: int = 0,
    labels: Mapping[str, str] | None = None,
    taints: Sequence[Mapping[str, str]] = (),
    unschedulable: bool = False,
) -> Document:
    """`gpus`: those a device plugin announces as nvidia.com/gpu."""
    allocatable = {"cpu": cpu, "memory": memory, "pods": str(pods), "ephemeral-storage": "1Ti"}
    if gpus:
        allocatable["nvidia.com/gpu"] = str(gpus)
    spec: Document = {}
    if taints:
        spec["taints"] = [dict(taint) for taint in taints]
    if unschedulable:
        spec["unschedulable"] = True
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": meta(name, labels={"kubernetes.io/hostname": name, **(labels or {})}),
        "spec": spec,
        "status": {"allocatable": allocatable, "capacity": dict(allocatable)},
    }


def container(
    name: str = "main",
    *,
    requests: Mapping[str, str] | None = None,
    limits: Mapping[str, str] | None = None,
    claims: Sequence[str] = (),
    sidecar: bool = False,
    **fields: Any,
) -> Document:
    resources: Document = {}
    if requests:
        resources["requests"] = dict(requests)
    if limits:
        resources["limits"] = dict(limits)
    if claims:
        resources["claims"] = [{"name": claim} for claim in claims]
    found: Document = {"name": name, "image": "example.com/image:v1", "resources": resources}
    if sidecar:
        found["restartPolicy"] = "Always"
    return {**found, **fields}


def pod_spec(
    *,
    cpu: str | None = "1",
    memory: str | None = "1Gi",
    gpus: int = 0,
    claims: Mapping[str, str] | None = None,
    templates: Mapping[str, str] | None = None,
    scheduler: str = SCHEDULER,
    containers: Sequence[Document] | None = None,
    priority_class: str | None = None,
    **fields: Any,
) -> Document:
    """`claims`, `templates`: by the pod's name for them, the ResourceClaim or the ResourceClaimTemplate."""
    requests = {name: value for name, value in (("cpu", cpu), ("memory", memory)) if value is not None}
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else None
    names = [*(claims or {}), *(templates or {})]
    spec: Document = {
        "schedulerName": scheduler,
        "containers": list(containers or [container(requests=requests | (limits or {}), limits=limits, claims=names)]),
    }
    entries = [{"name": name, "resourceClaimName": claim} for name, claim in (claims or {}).items()]
    entries += [{"name": name, "resourceClaimTemplateName": claim} for name, claim in (templates or {}).items()]
    if entries:
        spec["resourceClaims"] = entries
    if priority_class is not None:
        spec["priorityClassName"] = priority_class
    return {**spec, **fields}


def pod(
    name: str,
    namespace: str = "a",
    *,
    node: str | None = None,
    phase: str = "Pending",
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    group: str | None = None,
    queue: str | None = None,
    owner: Document | None = None,
    uid: str | None = None,
    created: str | None = None,
    version: str | None = None,
    terminating: bool = False,
    made_claims: Mapping[str, str | None] | None = None,
    priority: int | None = None,
    **spec: Any,
) -> Document:
    """`group`, `queue`: our labels. `made_claims`: claims made from templates, by the pod's name for them."""
    all_labels = dict(labels or {})
    if group is not None:
        all_labels["tutti.scheduler/pod-group"] = group
    if queue is not None:
        all_labels["tutti.scheduler/queue"] = queue
    metadata = meta(
        name,
        namespace,
        uid=uid,
        created=created,
        labels=all_labels,
        annotations=annotations,
        owner=owner,
        version=version,
    )
    if terminating:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        metadata["deletionGracePeriodSeconds"] = 30
    body = pod_spec(**spec)
    if node is not None:
        body["nodeName"] = node
    if priority is not None:
        body["priority"] = priority
    status: Document = {"phase": phase}
    if made_claims:
        status["resourceClaimStatuses"] = [
            {"name": entry} if claim is None else {"name": entry, "resourceClaimName": claim}
            for entry, claim in made_claims.items()
        ]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": body, "status": status}


def pods(name: str, count: int, namespace: str = "a", **fields: Any) -> list[Document]:
    """`count` pods name-0, name-1, ..."""
    return [pod(f"{name}-{index}", namespace, **fields) for index in range(count)]


def job(
    name: str,
    namespace: str = "a",
    *,
    parallelism: int = 1,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    pod_labels: Mapping[str, str] | None = None,
    pod_annotations: Mapping[str, str] | None = None,
    group: str | None = None,
    queue: str | None = None,
    **spec: Any,
) -> Document:
    """A Job of `parallelism` pods, each to complete once."""
    template_labels = dict(pod_labels or {})
    if group is not None:
        template_labels["tutti.scheduler/pod-group"] = group
    if queue is not None:
        template_labels["tutti.scheduler/queue"] = queue
    template_meta: Document = {}
    if template_labels:
        template_meta["labels"] = template_labels
    if pod_annotations:
        template_meta["annotations"] = dict(pod_annotations)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": meta(name, namespace, labels=labels, annotations=annotations),
        "spec": {
            "parallelism": parallelism,
            "completions": parallelism,
            "template": {"metadata": template_meta, "spec": {"restartPolicy": "Never", **pod_spec(**spec)}},
        },
    }


def queue(
    name: str,
    parent: str | None = None,
    *,
    resources: Mapping[str, Mapping[str, Any]] | None = None,
    **spec: Any,
) -> Document:
    """Ours. queue("team", gpu={"quota": 16, "limit": 32}) for short."""
    amounts = {name: dict(value) for name, value in (resources or {}).items()}
    for short in ("gpu", "cpu", "memory"):
        if short in spec:
            amounts[short] = dict(spec.pop(short))
    body: Document = {**spec}
    if parent is not None:
        body["parentQueue"] = parent
    if amounts:
        body["resources"] = amounts
    return {"apiVersion": "tutti.scheduler/v1alpha1", "kind": "Queue", "metadata": meta(name), "spec": body}


def disruption_budget(
    name: str,
    namespace: str = "a",
    *,
    allowed: int = 0,
    healthy: int = 0,
    generation: int = 1,
    observed: int = 1,
    spec: Mapping[str, Any] | None = None,
    **labels: str,
) -> Document:
    """For pods with these labels. `allowed` evictions by its status; `healthy` pods it has to keep."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {**meta(name, namespace), "generation": generation},
        "spec": {"selector": {"matchLabels": labels}, **(spec or {})},
        "status": {"disruptionsAllowed": allowed, "desiredHealthy": healthy, "observedGeneration": observed},
    }


def kai_queue(name: str, parent: str | None = None, **resources: Mapping[str, float]) -> Document:
    body: Document = {"resources": {name: dict(value) for name, value in resources.items()}}
    if parent is not None:
        body["parentQueue"] = parent
    return {"apiVersion": "scheduling.run.ai/v2", "kind": "Queue", "metadata": meta(name), "spec": body}


def seed_queue(name: str, parent: str = "root", **spec: Any) -> Document:
    """The form of articles about KAI, which no cluster serves."""
    return {
        "apiVersion": "kai.scheduler/v1alpha1",
        "kind": "Queue",
        "metadata": meta(name),
        "spec": {"parent": parent, **spec},
    }


def pod_group(
    name: str,
    namespace: str = "a",
    min_member: int | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    created: str | None = None,
    api_version: str = "tutti.scheduler/v1alpha1",
    **spec: Any,
) -> Document:
    """Ours, or another dialect's by `api_version`."""
    body: Document = {**spec}
    if min_member is not None:
        body["minMember"] = min_member
    return {
        "apiVersion": api_version,
        "kind": "PodGroup",
        "metadata": meta(name, namespace, labels=labels, annotations=annotations, created=created),
        "spec": body,
    }


def topology(name: str, *levels: str | tuple[str, str]) -> Document:
    """Levels coarse to fine, each a key or (key, alias)."""
    entries = [{"key": level} if isinstance(level, str) else {"key": level[0], "alias": level[1]} for level in levels]
    return {
        "apiVersion": "tutti.scheduler/v1alpha1",
        "kind": "Topology",
        "metadata": meta(name),
        "spec": {"levels": entries},
    }


def priority_class(name: str, value: int, *, default: bool = False) -> Document:
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": meta(name),
        "value": value,
        **({"globalDefault": True} if default else {}),
    }


def device_class(name: str = "gpu.nvidia.com", *selectors: str) -> Document:
    chosen = selectors or ('device.driver == "gpu.nvidia.com" && device.attributes["gpu.nvidia.com"].type == "gpu"',)
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": meta(name),
        "spec": {"selectors": [{"cel": {"expression": expression}} for expression in chosen]},
    }


def request(
    name: str = "gpu",
    device_class: str = "gpu.nvidia.com",
    *,
    count: int = 1,
    selectors: Sequence[str] = (),
    **exactly: Any,
) -> Document:
    body: Document = {"deviceClassName": device_class, **exactly}
    if count != 1:
        body["count"] = count
    if selectors:
        body["selectors"] = [{"cel": {"expression": expression}} for expression in selectors]
    return {"name": name, "exactly": body}


def devices(*requests: Document, constraints: Sequence[Document] = ()) -> Document:
    """The spec of a claim: these requests, or one whole GPU."""
    found: Document = {"requests": list(requests or (request(),))}
    if constraints:
        found["constraints"] = list(constraints)
    return {"devices": found}


def resource_claim(
    name: str,
    namespace: str = "a",
    *requests: Document,
    constraints: Sequence[Document] = (),
    owner: Document | None = None,
    version: str | None = None,
    allocation: Document | None = None,
    reserved_for: Sequence[Document] = (),
    labels: Mapping[str, str] | None = None,
) -> Document:
    """`reserved_for`: documents of pods."""
    found: Document = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": meta(name, namespace, owner=owner, version=version, labels=labels),
        "spec": devices(*requests, constraints=constraints),
    }
    if allocation is not None:
        found["metadata"]["finalizers"] = ["resource.kubernetes.io/delete-protection"]
        found["status"] = {
            "allocation": allocation,
            "reservedFor": [
                {"resource": "pods", "name": each["metadata"]["name"], "uid": each["metadata"]["uid"]}
                for each in reserved_for
            ],
        }
    return found


def allocation(node: str, *device_names: str, request: str = "gpu", driver: str = "gpu.nvidia.com") -> Document:
    """Devices of the node's own pool, usable on that node."""
    return {
        "devices": {
            "results": [{"request": request, "driver": driver, "pool": node, "device": name} for name in device_names]
        },
        "nodeSelector": {
            "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]
        },
    }


def resource_claim_template(
    name: str, namespace: str = "a", *requests: Document, constraints: Sequence[Document] = ()
) -> Document:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": meta(name, namespace),
        "spec": {"spec": devices(*requests, constraints=constraints)},
    }


def taint_rule(name: str, selector: Document | None) -> Document:
    """A rule that puts the taint "drain" on what the selector says."""
    spec: Document = {"taint": {"key": "drain", "effect": "NoSchedule"}}
    if selector is not None:
        spec["deviceSelector"] = selector
    return {"apiVersion": "resource.k8s.io/v1", "kind": "DeviceTaintRule", "metadata": meta(name), "spec": spec}


def gpu(
    index: int, *, product: str = "NVIDIA H100 80GB HBM3", memory: str = "80Gi", domain: str = "", **attributes: Any
) -> Document:
    """A device with the attributes of NVIDIA's driver; `attributes` as {"string": ...} and so on."""
    known: Document = {
        "type": {"string": "gpu"},
        "productName": {"string": product},
        "architecture": {"string": "Hopper"},
        "uuid": {"string": f"GPU-{index:08d}"},
        "index": {"int": index},
    }
    if domain:
        known["nvlinkDomain"] = {"string": domain}
    return {"name": f"gpu-{index}", "attributes": {**known, **attributes}, "capacity": {"memory": {"value": memory}}}


def resource_slice(
    node: str, *devices: Document, driver: str = "gpu.nvidia.com", generation: int = 1, of: int = 1, number: int = 0
) -> Document:
    """One of `of` slices of the node's pool."""
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": meta(f"{node}-{driver}-{number}"),
        "spec": {
            "driver": driver,
            "nodeName": node,
            "pool": {"name": node, "generation": generation, "resourceSliceCount": of},
            "devices": list(devices),
        },
    }


def h100_slice(node: str, gpus: int = 8) -> Document:
    """An HGX board: its GPUs in one NVLink domain of their own, four to a PCIe root."""
    return resource_slice(
        node,
        *(
            gpu(
                index,
                domain=f"{node}-board",
                **{"resource.kubernetes.io/pcieRoot": {"string": f"pci000{index // 4}:00"}},
            )
            for index in range(gpus)
        ),
    )


def h100_node(name: str, gpus: int = 8, **fields: Any) -> list[Document]:
    """A node and its slice."""
    return [node(name, cpu="192", memory="2Ti", **fields), h100_slice(name, gpus)]


def change(document: Document, type_: str = "ADDED") -> Change:
    """The document as its watch would tell it."""
    kind = KINDS[document["apiVersion"], document["kind"]]
    found = read(kind, json.dumps(document).encode(), type_)  # type: ignore[arg-type]
    assert found is not None
    return found


def state(*documents: Document | list[Document]) -> ClusterState:
    """A cluster of which every kind has been listed and these objects were found."""
    found = ClusterState()
    for each in documents:
        for document in each if isinstance(each, list) else [each]:
            found.apply(change(document))
    found.apply_all(listed(kind) for kind in found.kinds)
    return found
