"""Killed at any write of a commit: the next start finishes or clears what it finds, from the API alone."""

import asyncio
from pathlib import Path

import pytest

from scheduler.api import kinds
from tests.proxy import Around, Meddling, Write
from tests.service.conftest import Cluster, Objects, allocated
from tests.service.manifests import gang, template
from tests.service.process import Process
from tests.service.verifier import Verifier, verified

PODS = 8
WRITES = 3 * PODS
"""A finalizer, a status and a binding for every pod."""


async def killed_at(cluster: Cluster, number: int, tmp_path: Path) -> list[str]:
    """Run a scheduler until the answer to its commit's write `number` is on the way, and kill it then; the writes."""
    killed = asyncio.Event()
    seen: list[str] = []

    def meddle(write: Write) -> Meddling:
        if not write.of_a_commit:
            return None
        seen.append(write.subject)
        return Around(after=kill) if len(seen) == number else None

    async def kill() -> None:
        proxy.cut = True
        scheduler.kill()
        killed.set()

    async with (
        cluster.proxy(meddle) as proxy,
        Process(proxy.kubeconfig(tmp_path / "through-proxy")) as scheduler,
        asyncio.timeout(30),
    ):
        await killed.wait()
    return seen


async def whole(cluster: Cluster, verifier: Verifier) -> None:
    """All pods run, each with the two devices of its own claim, and no claim holds devices for nobody."""
    pods = await cluster.running("default", PODS)
    claims, _ = await cluster.client.list(kinds.RESOURCE_CLAIM)
    alive = {pod["metadata"]["uid"] for pod in pods.values()}
    for claim in claims:
        assert len(allocated(claim)) == 2
        assert [entry["uid"] in alive for entry in claim["status"]["reservedFor"]] == [True]
    assert len(claims) == PODS
    await verifier.until(lambda holders: sum(map(len, holders.values())) == 2 * PODS)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, WRITES + 1))
async def test_killed_at_a_write_the_next_start_makes_the_gang_whole(cluster: Cluster, tmp_path: Path, number: int):
    # Exactly as many devices as the gang needs: a device lost on the way would leave it waiting.
    await cluster.add_nodes("h100x8", 2)
    await cluster.apply(template(count=2))
    await cluster.apply(gang("train", PODS))
    async with verified(cluster.client) as verifier:
        await killed_at(cluster, number, tmp_path)
        async with Process(cluster.tutti):
            await whole(cluster, verifier)


async def test_asked_to_end_it_ends_well(cluster: Cluster):
    await cluster.add_nodes("h100x8")
    await cluster.apply(template(count=2))
    await cluster.apply(gang("train", 2))
    async with Process(cluster.tutti) as scheduler:
        await cluster.running("default", 2)
        assert await scheduler.stop() == 0


@pytest.mark.slow
async def test_killed_again_and_again_the_work_gets_done_and_no_device_is_given_twice(cluster: Cluster, tmp_path: Path):
    await cluster.add_nodes("h100x8", 4)
    await cluster.apply(template(count=2))
    async with verified(cluster.client) as verifier:
        for round_, number in enumerate((3, 7, 2, 11, 5)):
            await cluster.apply(gang(f"train-{round_}", 3))
            await killed_at(cluster, number, tmp_path)
        async with Process(cluster.tutti):
            await cluster.running("default", 5 * 3)
            await verifier.until(lambda holders: sum(map(len, holders.values())) == 5 * 3 * 2)


async def test_devices_that_can_no_longer_be_used_are_released_by_the_next_start(cluster: Cluster, tmp_path: Path):
    node, _ = await cluster.add_nodes("h100x8", 2)
    await cluster.apply(template(count=2))
    await cluster.apply(gang("train", PODS))
    async with verified(cluster.client) as verifier:
        await killed_at(cluster, 2 * PODS, tmp_path)
        await verifier.until(bool)
        await cluster.client.patch(kinds.NODE, None, node, {"spec": {"unschedulable": True}})

        async with Process(cluster.tutti):
            await cluster.reason("default/train", "GangDoesNotFit", "there is room for 4")

            def released(claims: Objects) -> bool:
                return not any(allocated(claim) for claim in claims.values())

            await cluster.until(kinds.RESOURCE_CLAIM, released, "no claim is allocated")
            await cluster.client.patch(kinds.NODE, None, node, {"spec": {"unschedulable": False}})
            await whole(cluster, verifier)


async def test_a_claim_made_for_extended_resources_survives_a_kill_once(cluster: Cluster, tmp_path: Path):
    await cluster.needs_gate("DRAExtendedResource")
    await cluster.add_nodes("h100x8")
    await cluster.apply(
        """
        apiVersion: resource.k8s.io/v1
        kind: DeviceClass
        metadata: {name: gpu-by-count}
        spec:
          extendedResourceName: example.com/gpu
          selectors: [{cel: {expression: 'device.driver == "gpu.nvidia.com"'}}]
        ---
        apiVersion: v1
        kind: Pod
        metadata: {name: classic, namespace: default, labels: {tutti.scheduler/queue: default}}
        spec:
          schedulerName: tutti
          containers: [{name: main, image: i, resources: {limits: {example.com/gpu: "8"}}}]
        """
    )
    # Made, allocated, and killed before the pod's status names it: all devices of the node are in it.
    async with verified(cluster.client) as verifier:
        writes = await killed_at(cluster, 2, tmp_path)
        assert [write.partition("/")[0] for write in writes] == ["resourceclaims", "resourceclaims"]
        await verifier.until(lambda holders: len(holders) == 1)
        async with Process(cluster.tutti):
            await cluster.running("default", 1)
    (claim,), _ = await cluster.client.list(kinds.RESOURCE_CLAIM)
    pod = await cluster.client.get(kinds.POD, "default", "classic")
    assert pod["status"]["extendedResourceClaimStatus"]["resourceClaimName"] == claim["metadata"]["name"]
    assert len(allocated(claim)) == 8
