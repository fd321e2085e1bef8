"""Scheduler and node plugin together while a GPU is cut anew by a label: no pod is placed on what is about to go."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from dra_driver.fake import FakeGpus
from dra_driver.mig_labels import CONFIG, STATE, TAINT
from scheduler.api import kinds
from tests.service.conftest import Cluster, Objects, allocated
from tests.service.test_node_plugin import claim, exactly, given, plugin
from tests.service.test_node_plugin import folder as folder
from tests.service.test_node_plugin import node as node

WHOLE = ("gpu-0", "gpu-1")


def effects(slices: Objects) -> dict[str, str]:
    """Of the taint that says that it is cut anew, by device; "" for none."""
    devices = (each for one in slices.values() for each in one["spec"].get("devices") or ())
    return {
        each["name"]: next((taint["effect"] for taint in each.get("taints") or () if taint["key"] == TAINT), "")
        for each in devices
    }


async def shows(cluster: Cluster, wanted: dict[str, str]) -> None:
    await cluster.until(kinds.RESOURCE_SLICE, lambda slices: effects(slices) == wanted, f"published as {wanted}")


async def label(cluster: Cluster, node: str, config: str) -> None:
    await cluster.client.patch(kinds.NODE, None, node, {"metadata": {"labels": {CONFIG: config}}})


async def state(cluster: Cluster, node: str, wanted: str) -> None:
    def stands(nodes: Objects) -> bool:
        return bool((nodes[node]["metadata"].get("labels") or {}).get(STATE) == wanted)

    await cluster.until(kinds.NODE, stands, f"the state is {wanted}")


async def devices_of(cluster: Cluster, name: str) -> list[str]:
    await given(cluster, name)
    found = await cluster.client.get(kinds.RESOURCE_CLAIM, "default", name)
    return [each["device"] for each in found["status"]["allocation"]["devices"]["results"]]


async def is_waiting(cluster: Cluster, name: str) -> None:
    """Until Tutti has told the pod that it finds no place; it has no devices."""

    def told(pods: Objects) -> bool:
        conditions = (pods[f"default/{name}"].get("status") or {}).get("conditions") or ()
        return any(each["type"] == "PodScheduled" and each["status"] == "False" for each in conditions)

    await cluster.until(kinds.POD, told, f"Pod {name} is told why it waits")
    found = await cluster.client.get(kinds.RESOURCE_CLAIM, "default", name)
    assert not allocated(found)


async def end(cluster: Cluster, name: str, *, evicted: bool = False) -> None:
    """The pod ends, and its claim with it. `evicted`: Kubernetes ends it, not we."""
    if not evicted:
        await cluster.delete(kinds.POD, f"default/{name}")
    await cluster.until(kinds.POD, lambda pods: f"default/{name}" not in pods, f"Pod {name} is gone")
    await cluster.client.delete(kinds.RESOURCE_CLAIM, "default", name)


def settings(folder: Path, index: int, **more: Any) -> dict[str, Any]:
    """Of a plugin that may cut this GPU into halves."""
    file = folder / "configs.yaml"
    entry = f"{{devices: [{index}], mig-enabled: true, mig-devices: {{3g.40gb: 2}}}}"
    file.write_text(f"version: v1\nmig-configs: {{halves: [{entry}]}}\n")
    return {"mig_configs": file, **more}


@pytest.fixture
def evicts(request: pytest.FixtureRequest) -> bool:
    """Whether the cluster ends pods on devices that say NoExecute."""
    return bool(request.config.getoption("--cluster") == "real")


@pytest.mark.usefixtures("tutti")
@pytest.mark.parametrize(("drain", "effect"), [(None, "NoSchedule"), (0, "NoExecute")])
async def test_pods_go_to_other_gpus_until_the_one_is_cut_and_then_to_its_parts(
    cluster: Cluster, node: str, folder: Path, drain: float | None, effect: str, evicts: bool
):
    await cluster.needs_gate("DRADeviceTaints")
    async with plugin(cluster, folder, node, "h100x2", **settings(folder, 0, mig_drain_seconds=drain)) as here:
        await shows(cluster, dict.fromkeys(WHOLE, ""))
        await claim(cluster, "first", exactly("r", "gpu.nvidia.com"))
        first = await given(cluster, "first")
        assert await devices_of(cluster, "first") == ["gpu-0"]
        await here.driver.devices(first)

        await label(cluster, node, "halves")
        await shows(cluster, {"gpu-0": effect, "gpu-1": ""})
        await state(cluster, node, "pending")
        await claim(cluster, "second", exactly("r", "gpu.nvidia.com"))
        assert await devices_of(cluster, "second") == ["gpu-1"]

        # Given back, and still not for others: it is about to go.
        await claim(cluster, "third", exactly("r", "gpu.nvidia.com"))
        await is_waiting(cluster, "third")
        # The embedded cluster evicts nobody; a real one has begun as soon as it saw NoExecute.
        await end(cluster, "first", evicted=evicts and effect == "NoExecute")
        await here.driver.give_back(first)
        await state(cluster, node, "success")
        halves = ["gpu-0-mig-3g40gb-9-0", "gpu-0-mig-3g40gb-9-4"]
        await shows(cluster, dict.fromkeys([*halves, "gpu-1"], ""))

        await claim(cluster, "half", exactly("r", "mig.nvidia.com", profile="3g.40gb"))
        half = await given(cluster, "half")
        (handed,) = await here.driver.devices(half)
        assert handed.device in halves
        await is_waiting(cluster, "third")

        # What an operator's config made is not destroyed with the claim that used it.
        await here.driver.give_back(half)
        await shows(cluster, dict.fromkeys([*halves, "gpu-1"], ""))


@pytest.mark.usefixtures("tutti")
async def test_a_plugin_that_is_started_anew_goes_on_with_what_the_label_says(
    cluster: Cluster, node: str, folder: Path
):
    await cluster.needs_gate("DRADeviceTaints")
    async with plugin(cluster, folder, node, "h100x2", **settings(folder, 0)) as here:
        await shows(cluster, dict.fromkeys(WHOLE, ""))
        await claim(cluster, "first", exactly("r", "gpu.nvidia.com"))
        first = await given(cluster, "first")
        await here.driver.devices(first)
        await label(cluster, node, "halves")
        await shows(cluster, {"gpu-0": "NoSchedule", "gpu-1": ""})
    seen: list[dict[str, str]] = []

    async def watch() -> None:
        def note(slices: Objects) -> bool:
            seen.append(effects(slices))
            return False

        await cluster.until(kinds.RESOURCE_SLICE, note, "for ever")

    watching = asyncio.create_task(watch())
    async with plugin(cluster, folder, node, "h100x2", **settings(folder, 0)) as here:
        await end(cluster, "first")
        await here.driver.give_back(first)
        await state(cluster, node, "success")
    watching.cancel()
    await asyncio.wait({watching})
    assert not any(each.get("gpu-0") == "" for each in seen)


async def test_the_hardware_is_looked_at_when_somebody_asks_for_it(cluster: Cluster, node: str, folder: Path):
    await cluster.needs_gate("DRADeviceTaints")
    async with plugin(cluster, folder, node, "h100x2", rescan_seconds=3600):
        await shows(cluster, dict.fromkeys(WHOLE, ""))
        gpus = FakeGpus("h100x2", node=node, state=folder / "plugins/gpu.nvidia.com/fake-machine.json")
        gpus.lose(gpus.uuids[1])  # which nobody is told
        os.kill(os.getpid(), signal.SIGHUP)

        def lost(slices: Objects) -> bool:
            devices = [each for one in slices.values() for each in one["spec"].get("devices") or ()]
            return [bool(each.get("taints")) for each in devices] == [False, True]

        await cluster.until(kinds.RESOURCE_SLICE, lost, "the lost GPU is tainted")
