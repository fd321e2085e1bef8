"""Another scheduler on the same devices: kept apart by the fence; without it, whatever is given twice is found.

The other one is kube-scheduler on a real cluster; on the embedded one a second Tutti that knows nothing of fences.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
import yaml

from scheduler.api import kinds
from scheduler.api.dra import CLAIM_FINALIZER
from scheduler.model.reasons import DeviceGivenTwice
from tests.contest.streams import Streams, fence, fence_by_rule, prepare
from tests.perf.contestants import KUBE_SCHEDULER
from tests.proxy import Around, Meddling, Write
from tests.real.control_plane import programs
from tests.real.ground import GATES
from tests.service.conftest import Cluster, Objects, allocated, scheduling
from tests.service.manifests import gang, template
from tests.service.verifier import Device, Double, Verifier, verified

FENCE = Path(__file__).parents[2] / "deploy" / "fence.yaml"
TWICE = DeviceGivenTwice.code
OTHER = KUBE_SCHEDULER.scheduler_name
SCHEDULERS = {"ours": "tutti", "theirs": OTHER}
Rival = Callable[[], contextlib.AbstractAsyncContextManager[None]]


@pytest.fixture
def rival(cluster: Cluster, request: pytest.FixtureRequest, tmp_path: Path) -> Rival:
    """Starts the other scheduler, for a block."""

    @contextlib.asynccontextmanager
    async def embedded() -> AsyncIterator[None]:
        async with scheduling(cluster, scheduler_name=OTHER):
            yield

    @contextlib.asynccontextmanager
    async def real() -> AsyncIterator[None]:
        assets = programs()
        assert assets is not None
        command = KUBE_SCHEDULER.command(assets, cluster.kubeconfig, cluster.tutti, [])
        if gates := os.environ.get(GATES):
            command.append(f"--feature-gates={gates}")
        with KUBE_SCHEDULER.running(command, tmp_path / "kube-scheduler.log"):
            yield

    return real if request.config.getoption("--cluster") == "real" else embedded


async def flow(cluster: Cluster, *, each: int, at_once: int) -> None:
    streams = Streams(cluster.client, SCHEDULERS, at_once=at_once, each=each, run=0.1)
    async with asyncio.timeout(100):
        await streams.flow()


async def put_up_rules(cluster: Cluster, nodes: list[str]) -> None:
    """deploy/fence.yaml for these nodes alone, as 1.36 serves it."""
    rule = yaml.safe_load(FENCE.read_text())
    await fence_by_rule(cluster.client, {**rule, "apiVersion": "resource.k8s.io/v1beta2"}, nodes)


def told(double: Double) -> str:
    """What the event of a device that is given twice begins with."""
    device = "/".join(double.device)
    return (
        f"DeviceGivenTwice: Device {device} is held by ResourceClaim {double.first} and, since resource version "
        f"{double.version}, by ResourceClaim {double.second} as well."
    )


BY_RULE = pytest.param(True, id="by rule", marks=pytest.mark.embedded)
"""On a real control plane with the gate that this takes: the next test."""


@pytest.mark.parametrize("by_rule", [pytest.param(False, id="published"), BY_RULE])
async def test_behind_the_fence_both_schedulers_work_and_no_device_is_given_twice(
    cluster: Cluster, rival: Rival, *, by_rule: bool
):
    await cluster.needs_gate("DRADeviceTaints")
    inside, outside = await cluster.add_nodes("h100x8", 2)
    if by_rule:
        await put_up_rules(cluster, [inside])
    else:
        await fence(cluster.client, [inside])
    await prepare(cluster.client)
    async with verified(cluster.client) as verifier, scheduling(cluster, device_fence="taint"), rival():
        await flow(cluster, each=40, at_once=12)
    by_stream: dict[str, set[str]] = {"ours": set(), "theirs": set()}
    for claim, pools in verifier.pools.items():
        by_stream[claim.partition("/")[2].partition("-")[0]] |= pools
    assert by_stream == {"ours": {inside}, "theirs": {outside}}
    assert len(verifier.allocated) == 80


@pytest.mark.real
@pytest.mark.slow
async def test_rules_put_up_the_same_fence_where_the_server_has_them(cluster: Cluster):
    await cluster.needs_minor(36, "DeviceTaintRule v1beta2")
    command = ["-m", "tests.contest", "--fence", "rule", "--allocations", "60", "--nodes", "2"]
    contest = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    figures, _ = await contest.communicate()
    assert contest.returncode == 0, figures.decode()


async def test_without_a_fence_whatever_is_given_twice_is_found_and_told(cluster: Cluster, rival: Rival):
    await cluster.add_nodes("h100x8", 2)
    await prepare(cluster.client)
    verifier = Verifier()
    watching = asyncio.create_task(verifier.watch(cluster.client))
    async with scheduling(cluster):
        async with rival():
            await flow(cluster, each=60, at_once=12)

        def all_told(events: Objects) -> bool:
            return {told(double) for double in verifier.doubles} == conflicts(events, "ResourceClaim")

        await cluster.until(kinds.EVENT, all_told, "an event for each device that was given twice, and no other")
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_a_device_that_a_hand_gives_away_again_is_told_on_claims_and_pods_and_counted(cluster: Cluster):
    await cluster.add_nodes("h100x8")
    await cluster.apply(template())
    async with scheduling(cluster, web_enabled=True, web_port=0) as tutti, aiohttp.ClientSession() as browser:
        await cluster.apply(gang("train", 1))
        (pod,) = await cluster.running("default", 1)
        ((claim, (device,)),) = (await cluster.devices("default")).items()
        await allocate(cluster, "stolen", device)

        def all_told(events: Objects) -> bool:
            about = {event["involvedObject"]["name"] for event in events.values() if event["reason"] == TWICE}
            return about == {claim, "stolen", pod.partition("/")[2]}

        await cluster.until(kinds.EVENT, all_told, "both claims and the pod are told")
        async with browser.get(f"{tutti.page}metrics") as answer:
            metrics = (await answer.text()).splitlines()
        assert "tutti_device_conflicts_total 1.0" in metrics
        assert "tutti_devices_given_twice 1.0" in metrics


async def test_with_verification_a_device_that_another_was_given_first_is_given_back_before_the_bind(
    cluster: Cluster, tmp_path: Path
):
    await cluster.add_nodes("h100x8")
    await cluster.apply(template())
    taken: list[Device] = []

    def meddle(write: Write) -> Meddling:
        if taken or not (write.subject.startswith("resourceclaims/") and write.subject.endswith("/status")):
            return None
        (device,) = allocated(write.body)
        taken.append(device)
        return Around(before=lambda: allocate(cluster, "theirs", device))

    verifier = Verifier()
    watching = asyncio.create_task(verifier.watch(cluster.client))
    async with cluster.proxy(meddle) as proxy:
        through = proxy.kubeconfig(tmp_path / "through-proxy")
        async with scheduling(cluster, through, device_fence="verify", commit_retry_seconds=0.1):
            await cluster.apply(gang("train", 1))
            await cluster.running("default", 1)
    bound = [write.number for write in proxy.writes if write.subject.endswith("/binding")]
    assert len(bound) == 1
    devices = await cluster.devices("default")
    assert devices.pop("theirs") == taken
    ((ours,),) = devices.values()
    assert ours not in taken
    assert [double.device for double in verifier.doubles] == taken
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


def conflicts(events: Objects, kind: str) -> set[str]:
    """What was said about devices given twice, without the cure."""
    return {
        event["message"][: event["message"].index("as well.") + len("as well.")]
        for event in events.values()
        if event["reason"] == TWICE and event["involvedObject"]["kind"] == kind
    }


async def allocate(cluster: Cluster, name: str, device: Device) -> None:
    """A claim that somebody writes the device into, without asking."""
    request = {"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com"}}
    body = {
        "apiVersion": kinds.RESOURCE_CLAIM.api_version,
        "kind": "ResourceClaim",
        "metadata": {"name": name, "namespace": "default", "finalizers": [CLAIM_FINALIZER]},
        "spec": {"devices": {"requests": [request]}},
    }
    made = await cluster.client.create(kinds.RESOURCE_CLAIM, "default", body)
    driver, pool, named = device
    results = [{"request": "gpu", "driver": driver, "pool": pool, "device": named}]
    made["status"] = {"allocation": {"devices": {"results": results}}}
    await cluster.client.replace(kinds.RESOURCE_CLAIM, "default", name, made, "status")
