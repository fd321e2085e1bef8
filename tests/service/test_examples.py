"""Every example, applied by kubectl, settles as its header says; and kubectl shows what a user would look for."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.api import kinds
from scheduler.api.changes import Change
from scheduler.demo import SHAPES
from scheduler.expectations import Example, read_all, unmet
from scheduler.kube.reflector import Reflector
from tests.service.conftest import PATIENCE_SECONDS, Cluster, scheduling

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
KUBECTL = os.environ.get("TUTTI_KUBECTL") or shutil.which("kubectl")
pytestmark = pytest.mark.skipif(KUBECTL is None, reason="no kubectl: set TUTTI_KUBECTL or put one on PATH")


class Kubectl:
    """kubectl against the cluster under test."""

    def __init__(self, kubeconfig: Path) -> None:
        self._environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "HOME": str(kubeconfig.parent)}

    async def __call__(self, *arguments: str) -> str:
        assert KUBECTL is not None
        process = await asyncio.create_subprocess_exec(
            KUBECTL,
            *arguments,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
        assert process.returncode == 0, f"kubectl {' '.join(arguments)}: {out.decode()}{err.decode()}"
        return out.decode()


@pytest.fixture
async def machines(cluster: Cluster) -> AsyncIterator[Cluster]:
    """The machines of the demo, with the scheduler at work."""
    for shape, count in SHAPES.items():
        await cluster.add_nodes(shape, count)
    async with scheduling(cluster):
        yield cluster


@pytest.fixture
def kubectl(machines: Cluster) -> Kubectl:
    return Kubectl(machines.kubeconfig)


async def settled(example: Example, cluster: Cluster) -> None:
    """Until the example is as its header says: looked at again at every change."""
    changes: asyncio.Queue[list[Change]] = asyncio.Queue()
    followed = (kinds.POD, kinds.RESOURCE_CLAIM, kinds.POD_GROUP, kinds.QUEUE)
    followers = [asyncio.create_task(Reflector(client=cluster.client, kind=kind).run(changes)) for kind in followed]
    missing: tuple[str, ...] = ("it was not looked at",)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while missing:
                await changes.get()
                missing = await unmet(example, cluster.client)
    except TimeoutError:
        pytest.fail(f"{example.name}: {'; '.join(missing)}")
    finally:
        for follower in followers:
            follower.cancel()


@pytest.mark.parametrize("example", read_all(EXAMPLES), ids=lambda example: example.name)
async def test_an_example_settles_as_its_header_says(example: Example, machines: Cluster, kubectl: Kubectl):
    await kubectl("apply", "-f", str(EXAMPLES / "00-queues.yaml"))
    await kubectl("apply", "-f", str(EXAMPLES / f"{example.name}.yaml"))
    if example.namespace:
        await settled(example, machines)


async def test_a_notebook_gets_its_claim_again_when_its_pod_restarts(machines: Cluster, kubectl: Kubectl):
    example = next(each for each in read_all(EXAMPLES) if "restart" in each.expect)
    pod = str(example.expect["restart"])
    await kubectl("apply", "-f", str(EXAMPLES / "00-queues.yaml"), "-f", str(EXAMPLES / f"{example.name}.yaml"))
    await settled(example, machines)
    claim = await _one(machines, kinds.RESOURCE_CLAIM, example.namespace)
    before = await machines.client.get(kinds.POD, example.namespace, pod)
    # Without kubectl's own wait: before 1.36 it gets the pod and then lists by name, and when the pod was made anew in
    # between, it waits for the new one to go. Source: kubernetes/kubernetes #135563.
    await kubectl("-n", example.namespace, "delete", "pod", pod, "--wait=false")

    def restarted(pods: Any) -> bool:
        found = pods.get(f"{example.namespace}/{pod}", before)
        return found["metadata"]["uid"] != before["metadata"]["uid"] and found["status"]["phase"] == "Running"

    after = (await machines.until(kinds.POD, restarted, f"{pod} runs again"))[f"{example.namespace}/{pod}"]
    again = await _one(machines, kinds.RESOURCE_CLAIM, example.namespace)
    assert again["metadata"]["uid"] == claim["metadata"]["uid"]
    assert [consumer["uid"] for consumer in again["status"]["reservedFor"]] == [after["metadata"]["uid"]]


async def test_kubectl_shows_a_user_what_runs_and_what_waits(kubectl: Kubectl):
    running, waiting = "example-gang", "example-too-large"
    for name in ("00-queues", "05-team-gang", "09-too-large"):
        await kubectl("apply", "-f", str(EXAMPLES / f"{name}.yaml"))
    timeout = f"--timeout={PATIENCE_SECONDS:g}s"
    await kubectl("-n", running, "wait", "podgroup/llama-finetune", "--for=condition=Scheduled", timeout)
    await kubectl("-n", running, "wait", "pod", "--all", "--for=condition=Ready", timeout)
    await kubectl("-n", waiting, "wait", "podgroup/hero", "--for=condition=Scheduled=false", timeout)

    pods = (await kubectl("-n", running, "get", "pods", "-o", "wide")).splitlines()
    assert len(pods) == 1 + 8
    assert all("Running" in line and "h100x8-nic-" in line for line in pods[1:])
    claims = (await kubectl("-n", running, "get", "resourceclaims")).splitlines()
    assert sum("allocated,reserved" in line for line in claims) == 8
    assert "h100x8-nic-000" in await kubectl("get", "resourceslices")

    group = await kubectl("-n", waiting, "describe", "podgroup", "hero")
    assert "would exceed its limit of 32 GPU" in group
    assert "Raise spec.resources.gpu.limit" in group
    pod = (await kubectl("-n", waiting, "get", "pods", "-o", "name")).split()[0]
    described = await kubectl("-n", waiting, "describe", pod)
    assert "FailedScheduling" in described
    assert "would exceed its limit of 32 GPU" in described
    assert "FailedScheduling" in await kubectl("-n", waiting, "get", "events")

    queue = json.loads(await kubectl("get", "queue", "team-ml-research", "-o", "json"))
    assert queue["status"]["allocated"]["gpu"] in (16, "16")
    assert "team-ml-research" in await kubectl("get", "queues", "-o", "wide")
    assert "Allocated" in await kubectl("describe", "queue", "team-ml-research")

    await kubectl("-n", waiting, "delete", "job", "hero")
    await kubectl("-n", waiting, "wait", pod, "--for=delete", timeout)


async def _one(cluster: Cluster, kind: kinds.Kind, namespace: str) -> dict[str, Any]:
    items, _ = await cluster.client.list(kind, namespace)
    assert len(items) == 1
    return items[0]
