"""Manifests of other projects against the service: their definitions, their objects, and pods as their controllers make
them, one after the other. Until the last pod of a gang is there none starts."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from scheduler.api import kinds
from scheduler.api.kinds import Kind
from tests.service.conftest import Cluster, Document, Objects, scheduling
from tests.service.manifests import template

_ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def definition(kind: Kind) -> Document:
    """The least that a definition of this kind has: it takes any spec."""
    schema = {"type": "object", "properties": {"spec": _ANYTHING, "status": _ANYTHING}}
    version = {
        "name": kind.version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
    }
    names = {"kind": kind.kind, "plural": kind.plural, "singular": kind.kind.lower(), "listKind": f"{kind.kind}List"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{kind.group}"},
        "spec": {"group": kind.group, "scope": "Namespaced", "names": names, "versions": [version]},
    }


JOB_SET = """
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata: {name: llm, namespace: default, labels: {kai.scheduler/queue: default}}
spec:
  replicatedJobs:
  - name: driver
    replicas: 1
    template: {spec: {parallelism: 1, completions: 1, template: {spec: {containers: []}}}}
  - name: workers
    replicas: 2
    template: {spec: {parallelism: 2, completions: 2, template: {spec: {containers: []}}}}
"""

LEADER_WORKER_SET = """
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata: {name: vllm, namespace: default, labels: {tutti.scheduler/queue: default}}
spec:
  replicas: 2
  startupPolicy: LeaderCreated
  leaderWorkerTemplate:
    size: 2
    workerTemplate: {spec: {containers: []}}
"""

RAY_CLUSTER = """
apiVersion: ray.io/v1
kind: RayCluster
metadata: {name: ray, namespace: default, labels: {kai.scheduler/queue: default}}
spec:
  headGroupSpec: {rayStartParams: {}, template: {spec: {containers: []}}}
  workerGroupSpecs:
  - {groupName: gpus, replicas: 3, minReplicas: 3, maxReplicas: 8, template: {spec: {containers: []}}}
"""

PYTORCH_JOB = """
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: mnist, namespace: default, labels: {kai.scheduler/queue: default}}
spec:
  pytorchReplicaSpecs:
    Master: {replicas: 1, restartPolicy: OnFailure, template: {spec: {containers: []}}}
    Worker: {replicas: 2, restartPolicy: OnFailure, template: {spec: {containers: []}}}
"""

POD_GANG = """
apiVersion: scheduler.grove.io/v1alpha1
kind: PodGang
metadata: {name: serve-0, namespace: default, labels: {kai.scheduler/queue: default}}
spec:
  podgroups:
  - name: serve-0-prefill
    minReplicas: 2
    podReferences: [{namespace: default, name: prefill-0}, {namespace: default, name: prefill-1}]
  - name: serve-0-decode
    minReplicas: 1
    podReferences: [{namespace: default, name: decode-0}]
"""


def job_set_pods() -> Iterator[tuple[str, dict[str, str]]]:
    for job, replica, index in (("driver", 0, 0), *(("workers", each // 2, each % 2) for each in range(4))):
        places = {"jobset-name": "llm", "replicatedjob-name": job, "job-index": str(replica)}
        yield f"llm-{job}-{replica}-{index}", {f"jobset.sigs.k8s.io/{name}": text for name, text in places.items()}


def leader_worker_set_pods() -> Iterator[tuple[str, dict[str, str]]]:
    for index in range(2):
        places = {"name": "vllm", "group-index": "0", "worker-index": str(index)}
        yield f"vllm-0-{index}", {f"leaderworkerset.sigs.k8s.io/{name}": text for name, text in places.items()}


def ray_pods() -> Iterator[tuple[str, dict[str, str]]]:
    yield "ray-head", {"ray.io/cluster": "ray", "ray.io/group": "headgroup", "ray.io/node-type": "head"}
    for index in range(3):
        yield f"ray-gpus-{index}", {"ray.io/cluster": "ray", "ray.io/group": "gpus", "ray.io/node-type": "worker"}


def pytorch_pods() -> Iterator[tuple[str, dict[str, str]]]:
    for role, index in (("master", 0), ("worker", 0), ("worker", 1)):
        places = {"job-name": "mnist", "replica-type": role, "replica-index": str(index)}
        yield f"mnist-{role}-{index}", {f"training.kubeflow.org/{name}": text for name, text in places.items()}


def pod_gang_pods() -> Iterator[tuple[str, dict[str, str]]]:
    for clique, name in (("prefill", "prefill-0"), ("prefill", "prefill-1"), ("decode", "decode-0")):
        yield name, {"grove.io/podgang": "serve-0", "grove.io/podclique": f"serve-0-{clique}"}


CASES = [
    (kinds.JOB_SET, JOB_SET, job_set_pods),
    (kinds.LEADER_WORKER_SET, LEADER_WORKER_SET, leader_worker_set_pods),
    (kinds.RAY_CLUSTER, RAY_CLUSTER, ray_pods),
    (kinds.PYTORCH_JOB, PYTORCH_JOB, pytorch_pods),
    (kinds.POD_GANG, POD_GANG, pod_gang_pods),
]


def made_pod(name: str, labels: Mapping[str, str], owner: Document) -> Document:
    """A pod with one GPU, controlled by this object as it is in the cluster."""
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
    }
    metadata = {"name": name, "namespace": "default", "labels": dict(labels), "ownerReferences": [reference]}
    resources = {"requests": {"cpu": "1"}, "claims": [{"name": "gpus"}]}
    spec = {
        "schedulerName": "tutti",
        "containers": [{"name": "main", "image": "example.com/trainer:v1", "resources": resources}],
        "resourceClaims": [{"name": "gpus", "resourceClaimTemplateName": "gpus"}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def waits(pod: Document) -> bool:
    """Whether the scheduler has said that the pod waits for others."""
    conditions: list[dict[str, Any]] = pod.get("status", {}).get("conditions") or []
    return any(each["type"] == "PodScheduled" and "WaitingForPods" in each.get("message", "") for each in conditions)


@pytest.mark.parametrize(("kind", "manifest", "made"), CASES, ids=[case[0].kind for case in CASES])
async def test_pods_of_an_owner_start_once_the_last_of_them_is_there(
    cluster: Cluster, kind: Kind, manifest: str, made: Any
) -> None:
    await cluster.client.create(kinds.CUSTOM_RESOURCE_DEFINITION, None, definition(kind))
    await cluster.add_nodes("h100x8")
    await cluster.apply(template())
    async with scheduling(cluster):
        owner = {**(await cluster.client.create(kind, "default", yaml.safe_load(manifest)))}
        owner |= {"apiVersion": kind.api_version, "kind": kind.kind}
        *most, last = [made_pod(name, labels, owner) for name, labels in made()]
        for pod in most:
            await cluster.client.create(kinds.POD, "default", pod)

        def all_wait(pods: Objects) -> bool:
            return len(pods) == len(most) and all(waits(pod) for pod in pods.values())

        there = await cluster.until(kinds.POD, all_wait, "all pods are told that they wait")
        assert not any(pod["spec"].get("nodeName") for pod in there.values())
        await cluster.client.create(kinds.POD, "default", last)
        await cluster.running("default", len(most) + 1)
