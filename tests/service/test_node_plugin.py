"""Scheduler and node plugin together, on the machines that the plugin makes up: from the claim to the CDI file."""

import asyncio
import contextlib
import json
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dra_driver import config, service
from dra_driver.alone import NotAlone
from dra_driver.devices import ClaimRef
from dra_driver.facts import Placement, SessionOver
from dra_driver.fake import FakeGpus
from dra_driver.plugin import VERSIONS
from dra_driver.publisher import ForeignSlicesError
from dra_driver.sockets import sockets
from scheduler.api import kinds
from tests.node.kubelet import Driver, FakeKubelet, Handed, Info, Refused
from tests.service.conftest import PATIENCE_SECONDS, Cluster, Document, Objects, allocated

KIND = "k8s.gpu.nvidia.com/claim"


@pytest.fixture
def folder() -> Iterator[Path]:
    """The kubelet's: short enough for sockets, wherever tests keep their files."""
    made = Path(tempfile.mkdtemp(prefix="kubelet-", dir="/tmp"))
    yield made
    shutil.rmtree(made)


class Plugin:
    """The node plugin at work in this process, as its kubelet knows it. `files`: where its CDI files are; `machine`:
    the file of the hardware that is made up."""

    def __init__(self, driver: Driver, files: Path, machine: Path) -> None:
        self.driver = driver
        self.files = files
        self.machine = machine

    def specifications(self) -> dict[str, Document]:
        """By claim uid."""
        found = (json.loads(path.read_text()) for path in sorted(self.files.glob("*.json")))
        return {each["devices"][0]["name"][:36]: each for each in found}


@contextlib.asynccontextmanager
async def plugin(cluster: Cluster, folder: Path, node: str, machine: str, **settings: Any) -> AsyncIterator[Plugin]:
    """The plugin on a node that is this machine, known to its kubelet, until the block ends."""
    async with running(cluster, folder, node, machine, **settings) as chosen:
        path = sockets(folder, chosen.driver, chosen.pod_uid).registration
        yield Plugin(await FakeKubelet(folder).register(path), folder / "cdi", chosen.fake_file)


@contextlib.asynccontextmanager
async def running(
    cluster: Cluster, folder: Path, node: str, machine: str, *, clock: Callable[[], float] = time.time, **settings: Any
) -> AsyncIterator[config.Config]:
    """The same, and no kubelet has found it yet. Its settings. `clock`: what time it is for the plugin."""
    chosen = config.load(
        flags={
            "kubeconfig": cluster.kubeconfig,
            "node_name": node,
            "fake": machine,
            "kubelet_dir": folder,
            "cdi_dir": folder / "cdi",
            "prepare_seconds": 0,
            "log_level": "warning",
            "log_format": "text",
            **settings,
        },
        environment={},
    )
    ready, stop = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(service.serve(chosen, ready=ready, stop=stop, clock=clock))
    starting = asyncio.create_task(ready.wait())
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.wait({starting, serving}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        cluster.schedulers.add(serving)
        yield chosen
    finally:
        cluster.schedulers.discard(serving)
        starting.cancel()
        stop.set()
        await asyncio.wait({serving})
    serving.result()


async def published(cluster: Cluster) -> set[str]:
    """Names of the devices of all slices, once the pool is whole."""

    def whole(slices: Objects) -> bool:
        specs = [each["spec"] for each in slices.values() if each["spec"]["driver"] == "gpu.nvidia.com"]
        return bool(specs) and all(spec["pool"]["resourceSliceCount"] == len(specs) for spec in specs)

    slices = await cluster.until(kinds.RESOURCE_SLICE, whole, "the pool is published whole")
    return {device["name"] for each in slices.values() for device in each["spec"].get("devices", ())}


def exactly(name: str, device_class: str, *, profile: str = "", memory: str = "", count: int = 1) -> Document:
    """A request. `profile`: of a MIG device; `memory`: the share that is asked for."""
    asked: Document = {"deviceClassName": device_class, "count": count}
    if profile:
        asked["selectors"] = [{"cel": {"expression": f"device.attributes['gpu.nvidia.com'].profile == '{profile}'"}}]
    if memory:
        asked["capacity"] = {"requests": {"memory": memory}}
    return {"name": name, "exactly": asked}


async def claim(cluster: Cluster, name: str, *requests: Document, one_gpu: bool = False, sharing: str = "") -> None:
    """A claim, and a pod of ours that uses it. `one_gpu`: all of it from the same GPU; `sharing`: its strategy."""
    devices: Document = {"requests": list(requests)}
    if one_gpu:
        devices["constraints"] = [{"matchAttribute": "gpu.nvidia.com/parentUUID"}]
    if sharing:
        parameters = {
            "apiVersion": "resource.nvidia.com/v1beta1",
            "kind": "GpuConfig",
            "sharing": {"strategy": sharing},
        }
        devices["config"] = [{"opaque": {"driver": "gpu.nvidia.com", "parameters": parameters}}]
    await cluster.client.create(
        kinds.RESOURCE_CLAIM, "default", {"metadata": {"name": name}, "spec": {"devices": devices}}
    )
    await pod(cluster, name)


async def pod(cluster: Cluster, claimed: str, name: str = "") -> None:
    spec = {
        "schedulerName": "tutti",
        "restartPolicy": "Never",
        "resourceClaims": [{"name": "gpus", "resourceClaimName": claimed}],
        "containers": [
            {"name": "main", "image": "example.com/trainer:v1", "resources": {"claims": [{"name": "gpus"}]}}
        ],
    }
    await cluster.client.create(kinds.POD, "default", {"metadata": {"name": name or claimed}, "spec": spec})


async def given(cluster: Cluster, name: str) -> ClaimRef:
    """Until the claim has its devices and its pod; as the kubelet then names it."""
    key = f"default/{name}"

    def stands(claims: Objects) -> bool:
        return bool(allocated(claims.get(key, {}))) and bool(claims[key]["status"].get("reservedFor"))

    found = (await cluster.until(kinds.RESOURCE_CLAIM, stands, f"claim {name} is allocated"))[key]
    return ClaimRef(namespace="default", name=name, uid=found["metadata"]["uid"])


def device_nodes(specification: Document, handed: Handed) -> set[str]:
    """Paths of all device nodes that a container with this device has."""
    (name,) = (each.partition("=")[2] for each in handed.cdi)
    (device,) = (each for each in specification["devices"] if each["name"] == name)
    edits = (specification["containerEdits"], device["containerEdits"])
    return {node["path"] for edit in edits for node in edit.get("deviceNodes", ())}


def environment(specification: Document, handed: Handed) -> dict[str, str]:
    (name,) = (each.partition("=")[2] for each in handed.cdi)
    (device,) = (each for each in specification["devices"] if each["name"] == name)
    edits = (specification["containerEdits"], device["containerEdits"])
    return dict(text.split("=", 1) for edit in edits for text in edit.get("env", ()))


@pytest.fixture
async def node(cluster: Cluster) -> str:
    """A node without devices of its own: what it offers is the plugin's to say."""
    (name,) = await cluster.add_nodes("cpu")
    return name


@pytest.mark.usefixtures("tutti")
async def test_the_seeds_claim_has_its_two_slices_of_one_gpu_and_gives_them_back(
    cluster: Cluster, node: str, folder: Path
):
    await cluster.needs_gate("DRAPartitionableDevices")
    async with plugin(cluster, folder, node, "h100x2", dynamic_mig=True) as here:
        await published(cluster)
        await claim(
            cluster,
            "mixed",
            exactly("large-slice", "mig.nvidia.com", profile="3g.40gb"),
            exactly("small-slice", "mig.nvidia.com", profile="1g.10gb"),
            one_gpu=True,
        )
        mixed = await given(cluster, "mixed")

        large, small = await here.driver.devices(mixed)

        assert (large.requests, small.requests) == (("large-slice",), ("small-slice",))
        assert "-mig-3g40gb-" in large.device
        assert small.device.split("-mig-")[0] == large.device.split("-mig-")[0]
        assert (large.pool, large.cdi) == (node, (f"{KIND}={mixed.uid}-{large.device}",))
        specification = here.specifications()[mixed.uid]
        minor = large.device.split("-")[1]
        nodes = device_nodes(specification, large)
        assert {f"/dev/nvidia{minor}", "/dev/nvidiactl", "/dev/nvidia-uvm"} <= nodes
        capabilities = [
            {path for path in device_nodes(specification, each) if "nvidia-cap" in path} for each in (large, small)
        ]
        assert [len(found) for found in capabilities] == [2, 2]
        assert not capabilities[0] & capabilities[1]

        assert await here.driver.devices(mixed) == (large, small)
        await here.driver.give_back(mixed)
        assert here.specifications() == {}
        await here.driver.give_back(mixed)


@pytest.mark.usefixtures("tutti")
async def test_four_profiles_fit_on_one_gpu(cluster: Cluster, node: str, folder: Path):
    await cluster.needs_gate("DRAPartitionableDevices")
    profiles = ["3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb+me"]
    async with plugin(cluster, folder, node, "h100x1", dynamic_mig=True) as here:
        await published(cluster)
        requests = [exactly(f"r{n}", "mig.nvidia.com", profile=profile) for n, profile in enumerate(profiles)]
        await claim(cluster, "four", *requests, one_gpu=True)
        devices = await here.driver.devices(await given(cluster, "four"))
        assert [each.device.split("-mig-")[1].rsplit("-", 2)[0] for each in devices] == [
            "3g40gb",
            "2g20gb",
            "1g10gb",
            "1g10gb-me",
        ]


@pytest.mark.usefixtures("tutti")
async def test_two_claims_share_a_gpu_each_with_its_memory(cluster: Cluster, node: str, folder: Path):
    await cluster.needs_gate("DRAConsumableCapacity")
    async with plugin(cluster, folder, node, "h100x1", shared_gpus="all") as here:
        await published(cluster)
        for name, memory in (("ten", "10Gi"), ("twenty", "20Gi")):
            await claim(cluster, name, exactly("gpus", "gpu.nvidia.com", memory=memory))
        ten, twenty = await given(cluster, "ten"), await given(cluster, "twenty")

        (first,), (second,) = await here.driver.devices(ten), await here.driver.devices(twenty)

        assert (first.device, second.device) == ("gpu-0", "gpu-0")
        assert len({first.share, second.share} - {None, ""}) == 2
        specifications = here.specifications()
        limits = [
            environment(specifications[claim.uid], handed)["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"]
            for claim, handed in ((ten, first), (twenty, second))
        ]
        assert limits == ["0=10240M", "0=20480M"]
        for shared in (ten, twenty):
            await here.driver.give_back(shared)
        assert here.specifications() == {}


@pytest.mark.usefixtures("tutti")
async def test_mps_on_one_gpu_and_instances_of_another_stand_side_by_side(cluster: Cluster, node: str, folder: Path):
    await cluster.needs_gate("DRAPartitionableDevices")
    async with plugin(cluster, folder, node, "h100x2", dynamic_mig=True) as here:
        await published(cluster)
        await claim(cluster, "slice", exactly("gpus", "mig.nvidia.com", profile="4g.40gb"))
        slice_ = await given(cluster, "slice")
        await claim(cluster, "served", exactly("gpus", "gpu.nvidia.com"), sharing="MPS")
        served = await given(cluster, "served")

        (part,), (whole,) = await here.driver.devices(slice_), await here.driver.devices(served)

        assert part.device.split("-mig-")[0] != whole.device
        variables = environment(here.specifications()[served.uid], whole)
        assert variables["CUDA_MPS_PIPE_DIRECTORY"] == "/tmp/nvidia-mps"
        assert "CUDA_MPS_PIPE_DIRECTORY" not in environment(here.specifications()[slice_.uid], part)
        for each in (served, slice_):
            await here.driver.give_back(each)


async def test_what_a_rival_has_handed_out_twice_is_prepared_once_and_both_pods_are_told(
    cluster: Cluster, node: str, folder: Path
):
    async with plugin(cluster, folder, node, "h100x1") as here:
        await published(cluster)
        claims = []
        for name in ("first", "second"):
            await claim(cluster, name, exactly("gpus", "gpu.nvidia.com"))
            claims.append(await allocate(cluster, name, node, "gpu-0"))
        first, second = claims
        (gpu,) = await here.driver.devices(first)

        with pytest.raises(Refused, match="claim default/first holds gpu-0"):
            await here.driver.devices(second)

        def told(events: Objects) -> bool:
            about = [each["involvedObject"] for each in events.values() if each["reason"] == "PrepareFailed"]
            return {("ResourceClaim", "second"), ("Pod", "second")} <= {(each["kind"], each["name"]) for each in about}

        await cluster.until(kinds.EVENT, told, "claim and pod are told why")
        await here.driver.give_back(first)
        assert [each.device for each in await here.driver.devices(second)] == [gpu.device]


async def test_a_device_that_is_given_back_meanwhile_is_prepared_in_the_same_call(
    cluster: Cluster, node: str, folder: Path
):
    """The kubelet would ask again only after a minute."""
    async with plugin(cluster, folder, node, "h100x1", prepare_seconds=PATIENCE_SECONDS) as here:
        await published(cluster)
        claims = []
        for name in ("first", "second"):
            await claim(cluster, name, exactly("gpus", "gpu.nvidia.com"))
            claims.append(await allocate(cluster, name, node, "gpu-0"))
        first, second = claims
        await here.driver.devices(first)
        waiting = asyncio.create_task(here.driver.devices(second))
        await here.driver.give_back(first)
        assert [each.device for each in await waiting] == ["gpu-0"]


async def allocate(cluster: Cluster, name: str, node: str, device: str) -> ClaimRef:
    """Give a device to a claim and the claim to its pod, as another scheduler would."""
    document = await cluster.client.get(kinds.RESOURCE_CLAIM, "default", name)
    user = await cluster.client.get(kinds.POD, "default", name)
    result = {"request": "gpus", "driver": "gpu.nvidia.com", "pool": node, "device": device}
    document["status"] = {
        "allocation": {"devices": {"results": [result]}},
        "reservedFor": [{"resource": "pods", "name": name, "uid": user["metadata"]["uid"]}],
    }
    done = await cluster.client.replace(kinds.RESOURCE_CLAIM, "default", name, document, subresource="status")
    return ClaimRef(namespace="default", name=name, uid=done["metadata"]["uid"])


async def test_a_plugin_that_is_started_anew_knows_what_is_prepared_and_publishes_again(
    cluster: Cluster, node: str, folder: Path
):
    async with plugin(cluster, folder, node, "h100x2") as here:
        names = await published(cluster)
        await claim(cluster, "kept", exactly("gpus", "gpu.nvidia.com"))
        kept = await allocate(cluster, "kept", node, "gpu-1")
        before = await here.driver.devices(kept)
    for name in [key async for key in _slices(cluster)]:
        await cluster.client.delete(kinds.RESOURCE_SLICE, None, name)
    async with plugin(cluster, folder, node, "h100x2") as here:
        assert await published(cluster) == names
        assert await here.driver.devices(kept) == before
        await here.driver.give_back(kept)
        assert here.specifications() == {}


@pytest.mark.parametrize("asked", ["prepare", "unprepare"])
async def test_a_checkpoint_that_is_damaged_meanwhile_is_rebuilt_when_a_claim_meets_it(
    cluster: Cluster, node: str, folder: Path, asked: str
):
    """Left to itself it would stay so until the next collection, and no claim would be prepared."""
    async with plugin(
        cluster, folder, node, "h100x2", collect_seconds=86_400, prepare_seconds=PATIENCE_SECONDS
    ) as here:
        await published(cluster)
        claims = []
        for number, name in enumerate(("kept", "next")):
            await claim(cluster, name, exactly("gpus", "gpu.nvidia.com"))
            claims.append(await allocate(cluster, name, node, f"gpu-{number}"))
        kept, new = claims
        before = await here.driver.devices(kept)
        checkpoint = folder / "plugins/gpu.nvidia.com/checkpoint.json"
        checkpoint.write_bytes(checkpoint.read_bytes()[:-20])
        checkpoint.with_name("checkpoint.json.previous").write_bytes(b"")

        if asked == "prepare":
            assert [each.device for each in await here.driver.devices(new)] == ["gpu-1"]
        else:
            with pytest.raises(Refused, match="is being rebuilt"):
                await here.driver.give_back(new)
            async with asyncio.timeout(PATIENCE_SECONDS):
                while (await here.driver.unprepare(new))[new.uid]:
                    pass
        assert await here.driver.devices(kept) == before
        assert kept.uid in here.specifications()


async def test_where_the_driver_is_replaced_beneath_it_the_plugin_ends_and_says_why(
    cluster: Cluster, node: str, folder: Path
):
    host = folder / "plugins/gpu.nvidia.com/fake-host/proc/driver/nvidia/version"
    host.parent.mkdir(parents=True)
    words = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build\nGCC version: gcc 133.3.0\n"
    host.write_text(words.format("580.126.20"))

    async def replaced() -> None:
        async with plugin(cluster, folder, node, "h100x2", rescan_seconds=1):
            assert await published(cluster) == {"gpu-0", "gpu-1"}
            host.write_text(words.format("590.48.01"))
            (serving,) = cluster.schedulers
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.wait({serving})

    with pytest.raises(SessionOver, match=r"has loaded 590\.48\.01, and the plugin's session is with 580\.126\.20; "):
        await replaced()


async def _slices(cluster: Cluster) -> AsyncIterator[str]:
    for each in (await cluster.client.list(kinds.RESOURCE_SLICE))[0]:
        yield each["metadata"]["name"]


async def test_slices_that_the_kubelet_has_deleted_are_published_again(cluster: Cluster, node: str, folder: Path):
    async with plugin(cluster, folder, node, "h100x2"):
        names = await published(cluster)
        uids = {each["metadata"]["uid"] for each in (await cluster.client.list(kinds.RESOURCE_SLICE))[0]}
        for name in [key async for key in _slices(cluster)]:
            await cluster.client.delete(kinds.RESOURCE_SLICE, None, name)
        await cluster.until(
            kinds.RESOURCE_SLICE,
            lambda slices: slices and not uids & {each["metadata"]["uid"] for each in slices.values()},
            "new slices are there",
        )
        assert await published(cluster) == names


@pytest.mark.parametrize(("seconds", "there"), [(3600, False), (0, True)])
async def test_nothing_is_published_before_the_kubelet_knows_the_plugin_unless_it_takes_too_long(
    cluster: Cluster, node: str, folder: Path, seconds: int, there: bool
):
    async with running(cluster, folder, node, "h100x1", register_seconds=seconds):
        if there:
            assert await published(cluster) == {"gpu-0"}
        else:
            driver = sockets(folder, "gpu.nvidia.com")
            async with Driver(Info(kind="", name="", endpoint=driver.claims, versions=VERSIONS)).health() as lists:
                await anext(lists)  # it is at work
            assert (await cluster.client.list(kinds.RESOURCE_SLICE))[0] == []
            await FakeKubelet(folder).register()
            assert await published(cluster) == {"gpu-0"}


async def test_a_gpu_that_is_lost_is_told_to_the_kubelet(cluster: Cluster, node: str, folder: Path):
    async with plugin(cluster, folder, node, "h100x2", rescan_seconds=1) as here:
        gpus = FakeGpus("h100x2", node=node, state=here.machine)
        async with here.driver.health() as lists:
            assert [each.health for each in await anext(lists)] == [1, 1]
            gpus.lose(gpus.gpus()[1].uuid)
            async with asyncio.timeout(PATIENCE_SECONDS):
                async for devices in lists:
                    if [each.health for each in devices] == [1, 2]:
                        break
            assert "does not answer" in devices[1].message


async def test_what_an_operator_has_cut_is_offered_and_what_is_in_its_way_is_told_on_the_node(
    cluster: Cluster, node: str, folder: Path
):
    async with plugin(cluster, folder, node, "h100x1", dynamic_mig=True) as here:
        assert "gpu-0" in await published(cluster)
        gpus = FakeGpus("h100x1", node=node, state=here.machine)
        uuid = gpus.gpus()[0].uuid
        gpus.set_mig(uuid, True)
        gpus.create_instance(uuid, 9, Placement(start=0, size=4))

        def told(events: Objects) -> bool:
            return any(
                each["reason"] == "NotOffered"
                and each["involvedObject"]["kind"] == "Node"
                and "3g.40gb at memory slice 0" in each["message"]
                for each in events.values()
            )

        await cluster.until(kinds.EVENT, told, "the node tells what is not offered")
        await cluster.until(
            kinds.RESOURCE_SLICE, lambda slices: "gpu-0" not in _names(slices), "the GPU is not offered whole"
        )
        assert {"gpu-0-mig-3g40gb-9-0", "gpu-0-mig-1g10gb-19-4"} <= await published(cluster)


def _names(slices: Objects) -> set[str]:
    return {device["name"] for each in slices.values() for device in each["spec"].get("devices", ())}


async def test_the_probe_says_when_the_kubelet_knows_the_plugin_and_when_its_sockets_are_gone(
    cluster: Cluster, node: str, folder: Path
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def page(name: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/{name}") as answer:
            return answer.status, await answer.text()

    async with running(cluster, folder, node, "h100x1", probe_host="127.0.0.1", probe_port=port):
        assert await page("healthz") == (200, "ok\n")
        assert await page("readyz") == (503, "the kubelet does not know us yet\n")
        await FakeKubelet(folder).register(error="no such version")
        assert await page("readyz") == (503, "the kubelet refuses us: no such version\n")
        await FakeKubelet(folder).register()
        assert await page("readyz") == (200, "ok\n")
        sockets(folder, "gpu.nvidia.com").registration.unlink()
        status, text = await page("healthz")
        assert (status, "nobody answers there, although we should" in text) == (503, True)


async def test_a_second_plugin_does_not_start_beside_the_first(cluster: Cluster, node: str, folder: Path):
    async with plugin(cluster, folder, node, "h100x1"):
        with pytest.raises(NotAlone, match="another tutti-dra-driver serves this node"):
            async with plugin(cluster, folder, node, "h100x1"):
                pass


async def test_beside_another_driver_of_the_same_name_it_does_not_start(cluster: Cluster, node: str, folder: Path):
    pool = {"name": node, "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": "gpu.nvidia.com", "nodeName": node, "pool": pool, "devices": [{"name": "gpu-0"}]}
    await cluster.client.create(
        kinds.RESOURCE_SLICE, None, {"metadata": {"name": f"{node}-gpu.nvidia.com-x7k2p"}, "spec": spec}
    )
    with pytest.raises(ForeignSlicesError, match="remove that driver from the node"):
        async with plugin(cluster, folder, node, "h100x1"):
            pass


async def test_the_next_instance_takes_over_without_a_gap(cluster: Cluster, node: str, folder: Path):
    async with contextlib.AsyncExitStack() as newer:
        async with plugin(cluster, folder, node, "h100x1", pod_uid="uid-1") as old:
            await published(cluster)
            await claim(cluster, "kept", exactly("gpus", "gpu.nvidia.com"))
            kept = await allocate(cluster, "kept", node, "gpu-0")
            before = await old.driver.devices(kept)
            new = await newer.enter_async_context(plugin(cluster, folder, node, "h100x1", pod_uid="uid-2"))
            assert await new.driver.devices(kept) == before
            assert await old.driver.devices(kept) == before
        await new.driver.give_back(kept)
        assert new.specifications() == {}
