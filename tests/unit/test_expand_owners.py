"""Manifests of Kubeflow and Ray given to `tutti plan`: the pods that their operators would make, and their gangs."""

import textwrap

import pytest

from scheduler.model.snapshot import Snapshot
from scheduler.state import manifests
from scheduler.state.manifests import InputError


def seen(text: str) -> Snapshot:
    return manifests.snapshot(manifests.parse(textwrap.dedent(text), "owners.yaml"))


def gangs(text: str) -> list[tuple[str, dict[str, int | None], list[str]]]:
    """Each gang with what its leaves need, and its pods."""
    found = seen(text).gangs
    assert [gang.problems for gang in found] == [()] * len(found)
    return [
        (gang.owner, {each.name: each.min_member for each in gang.sub_groups}, [pod.name for pod in gang.pods])
        for gang in found
    ]


TEMPLATE = "template: {spec: {schedulerName: tutti, containers: [{name: main, resources: {requests: {cpu: 1}}}]}}"
RAY = f"""
        headGroupSpec: {{{TEMPLATE}}}
        workerGroupSpecs: [{{groupName: gpu, replicas: 2, minReplicas: 1, {TEMPLATE}}}]
"""
RAY_PODS = ["head", "gpu-0", "gpu-1"]


def test_a_pytorch_job_has_a_master_and_workers() -> None:
    text = f"""
        apiVersion: kubeflow.org/v1
        kind: PyTorchJob
        metadata: {{name: train, namespace: a}}
        spec:
          pytorchReplicaSpecs:
            Master: {{replicas: 1, {TEMPLATE}}}
            Worker: {{replicas: 2, {TEMPLATE}}}
        """
    pods = ["train-master-0", "train-worker-0", "train-worker-1"]
    assert gangs(text) == [("PyTorchJob/a/train", {"master": 1, "worker": 2}, pods)]
    assert (
        gangs(
            text.replace("spec:\n          pytorch", "spec:\n          runPolicy: {suspend: true}\n          pytorch")
        )
        == []
    )


@pytest.mark.parametrize(("policy", "pods"), [("AtStartup", 3), ("WaitForWorkersReady", 2)])
def test_an_mpi_job_in_an_older_version_has_its_launcher_when_it_would_be_made(policy: str, pods: int) -> None:
    text = f"""
        apiVersion: kubeflow.org/v1
        kind: MPIJob
        metadata: {{name: mpi, namespace: a}}
        spec:
          launcherCreationPolicy: {policy}
          mpiReplicaSpecs:
            Launcher: {{replicas: 1, {TEMPLATE}}}
            Worker: {{replicas: 2, {TEMPLATE}}}
        """
    (gang,) = seen(text).gangs
    assert (len(gang.pods), gang.min_member, gang.problems) == (pods, pods, ())


def test_a_ray_cluster_has_a_head_and_workers() -> None:
    text = f"""
        apiVersion: ray.io/v1alpha1
        kind: RayCluster
        metadata: {{name: ray, namespace: a}}
        spec: {RAY.replace(chr(10), chr(10) + "    ")}
        """
    (found,) = gangs(text)
    assert found[:2] == ("RayCluster/a/ray", {"headgroup": 1, "gpu": 1})
    assert sorted(found[2]) == sorted(f"ray-{name}" for name in RAY_PODS)


@pytest.mark.parametrize(("kind", "field"), [("RayJob", "rayClusterSpec"), ("RayService", "rayClusterConfig")])
def test_a_ray_job_and_a_ray_service_have_a_cluster(kind: str, field: str) -> None:
    text = f"""
        apiVersion: ray.io/v1
        kind: {kind}
        metadata: {{name: top, namespace: a, labels: {{kai.scheduler/queue: team}}}}
        spec:
          {field}: {RAY.replace(chr(10), chr(10) + "        ")}
        """
    (gang,) = seen(text).gangs
    assert (gang.owner, gang.queue, len(gang.pods)) == ("RayCluster/a/top-raycluster", "team", 3)


def test_more_pods_than_are_made_at_once_are_refused() -> None:
    text = f"""
        apiVersion: ray.io/v1
        kind: RayCluster
        metadata: {{name: ray}}
        spec: {{workerGroupSpecs: [{{groupName: gpu, replicas: 2000000000, {TEMPLATE}}}]}}
        """
    with pytest.raises(InputError, match="more than 20000 pods would be made"):
        seen(text)
