"""From an error of a GPU to the taint in the cluster and the word to the kubelet, and back; the clock is the test's."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dra_driver.facts import EventKind, GpuEvent, Recovery
from dra_driver.fake import FakeGpus
from dra_driver.proto import health_v1_pb2
from scheduler.api import kinds
from tests.service.conftest import PATIENCE_SECONDS, Cluster, Document, Objects
from tests.service.test_node_plugin import folder as folder
from tests.service.test_node_plugin import node as node
from tests.service.test_node_plugin import plugin

HEALTHY, UNHEALTHY, UNKNOWN = health_v1_pb2.HEALTHY, health_v1_pb2.UNHEALTHY, health_v1_pb2.UNKNOWN
START = 1_700_000_000  # 2023-11-14T22:13:20Z
Taints = dict[str, list[tuple[str, str, str, str]]]
Lists = AsyncIterator[list[health_v1_pb2.DeviceHealth]]


class Clock:
    def __init__(self) -> None:
        self.now = float(START)

    def __call__(self) -> float:
        return self.now


def hands(folder: Path, node: str) -> FakeGpus:
    """At the machine of the plugin."""
    return FakeGpus("h100x2", node=node, state=folder / "plugins/gpu.nvidia.com/fake-machine.json")


def tainted(slices: Objects) -> Taints:
    """Key, value, effect and time of every taint, by device."""
    devices: list[Document] = [each for one in slices.values() for each in one["spec"].get("devices", ())]
    return {
        device["name"]: [(t["key"], t.get("value", ""), t["effect"], t["timeAdded"]) for t in device["taints"]]
        for device in devices
        if device.get("taints")
    }


async def until(cluster: Cluster, taints: Taints) -> None:
    await cluster.until(kinds.RESOURCE_SLICE, lambda slices: slices and tainted(slices) == taints, f"taints {taints}")


async def told(lists: Lists, *wanted: int) -> list[str]:
    """Until the kubelet is told that the devices are so; the words of each."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for devices in lists:
            if tuple(each.health for each in devices) == wanted:
                return [each.message for each in devices]
    pytest.fail("the stream has ended")


def nudge(gpus: FakeGpus) -> None:
    """Something harmless, at which the plugin looks anew."""
    gpus.inject(GpuEvent(gpu=gpus.uuids[1], kind=EventKind.SINGLE_BIT_ECC))


async def test_an_xid_taints_its_gpu_until_a_clean_window_has_passed(cluster: Cluster, node: str, folder: Path):
    clock, gpus = Clock(), None
    async with (
        plugin(cluster, folder, node, "h100x2", clock=clock, health_window_seconds=600) as here,
        here.driver.health() as lists,
    ):
        gpus = hands(folder, node)
        await told(lists, HEALTHY, HEALTHY)
        clock.now += 1
        gpus.inject(GpuEvent(gpu=gpus.uuids[0], kind=EventKind.XID, code=119))

        await until(cluster, {"gpu-0": [("gpu.nvidia.com/xid", "119", "NoExecute", "2023-11-14T22:13:21Z")]})
        message, fine = await told(lists, UNHEALTHY, HEALTHY)
        assert (message, fine) == ("XID 119 (the GPU's system processor (GSP) does not answer)", "")

        clock.now += 599
        gpus.inject(GpuEvent(gpu=gpus.uuids[1], kind=EventKind.XID, code=74))
        await until(
            cluster,
            {
                "gpu-0": [("gpu.nvidia.com/xid", "119", "NoExecute", "2023-11-14T22:13:21Z")],
                "gpu-1": [("gpu.nvidia.com/xid", "74", "None", "2023-11-14T22:23:20Z")],
            },
        )
        clock.now += 1
        nudge(gpus)
        await until(cluster, {"gpu-1": [("gpu.nvidia.com/xid", "74", "None", "2023-11-14T22:23:20Z")]})
        assert await told(lists, HEALTHY, HEALTHY) == ["", "XID 74 (NVLink error)"]


async def test_a_reset_that_the_driver_asked_for_ends_it_at_once(cluster: Cluster, node: str, folder: Path):
    clock = Clock()
    async with plugin(cluster, folder, node, "h100x2", clock=clock):
        gpus = hands(folder, node)
        gpus.inject(GpuEvent(gpu=gpus.uuids[0], kind=EventKind.XID, code=119))
        gpus.ail(gpus.uuids[0], Recovery.GPU_RESET)
        time = "2023-11-14T22:13:20Z"
        await until(
            cluster,
            {
                "gpu-0": [
                    ("gpu.nvidia.com/recovery-action", "gpu-reset", "NoExecute", time),
                    ("gpu.nvidia.com/xid", "119", "NoExecute", time),
                ]
            },
        )
        gpus.reset(gpus.uuids[0])
        await until(cluster, {})


async def test_all_devices_of_a_lost_gpu_execute_nothing_until_it_is_found(cluster: Cluster, node: str, folder: Path):
    await cluster.needs_gate("DRAPartitionableDevices")
    clock = Clock()
    async with plugin(cluster, folder, node, "h100x2", clock=clock, dynamic_mig=True) as here:
        gpus = hands(folder, node)
        gpus.lose(gpus.uuids[1])
        gpus.inject(GpuEvent(gpu=gpus.uuids[1], kind=EventKind.UNAVAILABLE))

        def lost(slices: Objects) -> bool:
            found = tainted(slices)
            taint = ("gpu.nvidia.com/gpu-lost", "", "NoExecute", "2023-11-14T22:13:20Z")
            return len(found) == 26 and all(
                name.startswith("gpu-1") and each == [taint] for name, each in found.items()
            )

        await cluster.until(kinds.RESOURCE_SLICE, lost, "all devices of the GPU are tainted")
        async with here.driver.health() as lists:
            words = await told(lists, *[HEALTHY] * 26, *[UNHEALTHY] * 26)
            assert words[26:] == ["the GPU does not answer: reset it, or reboot the node"] * 26
        gpus.find(gpus.uuids[1])
        nudge(gpus)
        await until(cluster, {})


async def test_a_plugin_that_is_started_anew_keeps_the_taint_and_its_time(cluster: Cluster, node: str, folder: Path):
    clock = Clock()
    taint = {"gpu-0": [("gpu.nvidia.com/xid", "46", "NoExecute", "2023-11-14T22:13:20Z")]}
    async with plugin(cluster, folder, node, "h100x2", clock=clock):
        gpus = hands(folder, node)
        gpus.inject(GpuEvent(gpu=gpus.uuids[0], kind=EventKind.XID, code=46))
        await until(cluster, taint)
    for each in (await cluster.client.list(kinds.RESOURCE_SLICE))[0]:
        await cluster.client.delete(kinds.RESOURCE_SLICE, None, each["metadata"]["name"])
    clock.now += 500
    async with plugin(cluster, folder, node, "h100x2", clock=clock):
        await until(cluster, taint)
        clock.now += 100
        nudge(gpus)
        await until(cluster, {})


async def test_of_a_gpu_that_tells_no_errors_the_kubelet_knows_that_nobody_knows(
    cluster: Cluster, node: str, folder: Path
):
    async with plugin(cluster, folder, node, "h100x2", clock=Clock()) as here, here.driver.health() as lists:
        gpus = hands(folder, node)
        gpus.mute(gpus.uuids[0])
        nudge(gpus)
        words = await told(lists, UNKNOWN, HEALTHY)
        assert words == ["the driver tells no errors of this GPU", ""]
        time = "2023-11-14T22:13:20Z"
        await until(cluster, {"gpu-0": [("gpu.nvidia.com/unmonitored", "", "None", time)]})


async def test_xids_that_the_operator_ignores_taint_nothing(cluster: Cluster, node: str, folder: Path):
    async with plugin(cluster, folder, node, "h100x2", clock=Clock(), ignored_xids="119, 46"):
        gpus = hands(folder, node)
        for code in (119, 46, 13, 120):
            gpus.inject(GpuEvent(gpu=gpus.uuids[0], kind=EventKind.XID, code=code))
        await until(cluster, {"gpu-0": [("gpu.nvidia.com/xid", "120", "None", "2023-11-14T22:13:20Z")]})
