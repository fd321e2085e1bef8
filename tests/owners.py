"""Builders of owners as their projects' users write them, and of the pods that their controllers make."""

from collections.abc import Mapping
from typing import Any

from tests.manifests import Document, meta, pod

SIZES = Mapping[str, int]
_REPLICA_SPECS = {
    "TFJob": "tfReplicaSpecs",
    "XGBoostJob": "xgbReplicaSpecs",
    "JAXJob": "jaxReplicaSpecs",
    "PyTorchJob": "pytorchReplicaSpecs",
    "MPIJob": "mpiReplicaSpecs",
}


def owner(kind: str, name: str, api_version: str, *, above: Document | None = None, **fields: Any) -> Document:
    """Any object that pods may belong to. `above`: its own controller. Besides labels and annotations all is spec."""
    labels, annotations = fields.pop("labels", None), fields.pop("annotations", None)
    metadata = meta(name, "a", labels=labels, annotations=annotations, owner=above)
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": fields}


def kubeflow(kind: str, name: str, replicas: SIZES, **spec: Any) -> Document:
    """A job of so many replicas by role."""
    version = "kubeflow.org/v2beta1" if kind == "MPIJob" else "kubeflow.org/v1"
    template = spec.pop("template", {})
    specs = {role: {"replicas": count, "template": template} for role, count in replicas.items()}
    return owner(kind, name, version, **{_REPLICA_SPECS[kind]: specs}, **spec)


def kubeflow_pods(
    job: Document, replicas: SIZES, *, annotations: Mapping[str, str] | None = None, **fields: Any
) -> list[Document]:
    """The pods of a job, labelled as the training operator labels them."""
    name = job["metadata"]["name"]
    made = []
    for role, count in replicas.items():
        for index in range(count):
            labels = {
                "training.kubeflow.org/job-name": name,
                "training.kubeflow.org/replica-type": role.lower(),
                "training.kubeflow.org/replica-index": str(index),
                "training.kubeflow.org/job-role": role.lower(),
            }
            wanted = f"{name}-{role.lower()}-{index}"
            made.append(pod(wanted, owner=job, labels=labels, annotations=annotations, **fields))
    return made


def ray_cluster(name: str, *groups: Mapping[str, Any], above: Document | None = None, **fields: Any) -> Document:
    head = {"rayStartParams": {}, "template": {"spec": {}}}
    return owner(
        "RayCluster", name, "ray.io/v1", above=above, headGroupSpec=head, workerGroupSpecs=list(groups), **fields
    )


def ray_pods(cluster: Document, workers: SIZES, **fields: Any) -> list[Document]:
    """The head and so many workers of each group, as KubeRay makes them."""
    name = cluster["metadata"]["name"]

    def made(group: str, role: str, suffix: str) -> Document:
        labels = {"ray.io/cluster": name, "ray.io/group": group, "ray.io/node-type": role}
        return pod(f"{name}-{suffix}", owner=cluster, labels=labels, **fields)

    found = [made("headgroup", "head", "head")]
    return found + [made(group, "worker", f"{group}-{n}") for group, count in workers.items() for n in range(count)]


def pod_gang(
    name: str,
    groups: Mapping[str, tuple[int, int]],
    *,
    base: str | None = None,
    close: tuple[str | None, str | None] | None = None,
    annotations: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    **spec: Any,
) -> Document:
    """Grove's PodGang. `groups`: by name, the least pods and all of them; `close`: the label required and preferred."""
    entries = [
        {
            "name": group,
            "minReplicas": least,
            "podReferences": [{"namespace": "a", "name": f"{group}-{index}"} for index in range(count)],
        }
        for group, (least, count) in groups.items()
    ]
    if close is not None:
        spec["topologyConstraint"] = packed(*close)
    labels = {**(labels or {}), **({"grove.io/base-podgang": base} if base else {})}
    return owner(
        "PodGang",
        name,
        "scheduler.grove.io/v1alpha1",
        labels=labels,
        annotations=annotations,
        podgroups=entries,
        **spec,
    )


def packed(required: str | None, preferred: str | None = None) -> Document:
    levels = {"required": required, "preferred": preferred}
    return {"packConstraint": {name: level for name, level in levels.items() if level}}


def grove_pods(gang: Document, **fields: Any) -> list[Document]:
    """The pods that the PodGang refers to, each of a PodClique of its pod group's name."""
    labels = {"grove.io/podgang": gang["metadata"]["name"]}
    labels |= {
        name: text for name, text in (gang["metadata"].get("labels") or {}).items() if name == "grove.io/base-podgang"
    }
    return [
        pod(reference["name"], labels={**labels, "grove.io/podclique": group["name"]}, **fields)
        for group in gang["spec"]["podgroups"]
        for reference in group["podReferences"]
    ]
