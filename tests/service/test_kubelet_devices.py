"""On a real kubelet with a real container runtime: devices that Tutti places and our node plugin prepares.

The plugin is a process of its own with the rights of its manifest, of a machine that is made up; its device nodes are
made by the container runtime, from the CDI files."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from scheduler.api import kinds
from scheduler.kube import identity
from scheduler.kube.client import ApiError, Client
from tests.real.ground import Ground, with_token
from tests.real.install import NAMESPACE, NODE_PLUGIN, install_node_plugin, node_plugin_token
from tests.real.kubelet import Kubelet, obstacle, programs
from tests.real.kubelet_files import IMAGE
from tests.real.remote import Remote
from tests.service.conftest import PATIENCE_SECONDS, Cluster, Document, Objects, allocated
from tests.service.test_kubelet import ready
from tests.service.test_rights import may

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

NODE = "real-1"
FORBIDDEN = (
    "get secrets",
    "list pods",
    "patch nodes",
    "patch resourceslices.resource.k8s.io",
    "create pods/exec",
    "patch resourceclaims.resource.k8s.io",
    "update resourceclaims.resource.k8s.io/status",
    "create deviceclasses.resource.k8s.io",
    "create serviceaccounts/token",
    "impersonate users",
)
OTHERS = "writes the ResourceSlices of that node alone"
_LOOK_SECONDS = 0.05


@pytest.fixture
async def cluster(real: Ground) -> AsyncIterator[Cluster]:
    """The real cluster of this run, with the node plugin's manifest, and nobody in it who plays the kubelet."""

    async def add_nodes(shape: str, count: int) -> list[str]:
        raise AssertionError(f"{count} of {shape}: no simulated nodes here")

    async with await Client.connect(real.admin) as client:
        cluster = Cluster(client, real.admin, real.tutti, add_nodes, gated=True)
        try:
            async with Remote(await identity.load(real.admin)) as api:
                await install_node_plugin(api)
            await cluster.apply("{apiVersion: tutti.scheduler/v1alpha1, kind: Queue, metadata: {name: default}}")
            yield cluster
        finally:
            await real.restore()


@pytest.fixture
async def kubelet(cluster: Cluster) -> AsyncIterator[Kubelet]:
    """The one node of the cluster, ready for pods."""
    if hindrance := obstacle():
        pytest.skip(hindrance)
    found = programs()
    if found is None:
        pytest.skip("no real kubelet: tests/tools.sh kubelet and tests/tools.sh containers say why")
    with Kubelet(found, cluster.kubeconfig, NODE) as kubelet:
        working = asyncio.create_task(kubelet.work())
        cluster.schedulers.add(working)
        try:
            await cluster.until(
                kinds.NODE, lambda nodes: NODE in nodes and ready(nodes[NODE]), "the node is ready for pods"
            )
            yield kubelet
        finally:
            cluster.schedulers.discard(working)
            working.cancel()


class Plugin:
    """The node plugin as a process. `kubeconfig`: with the rights that its pod would have."""

    def __init__(self, kubelet: Kubelet, kubeconfig: Path) -> None:
        self._kubelet = kubelet
        self._kubeconfig = kubeconfig
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        settings = {
            "kubelet_dir": self._kubelet.folder,
            "cdi_dir": self._kubelet.cdi,
            "dynamic_mig": "true",
            "log_format": "text",
        }
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dra_driver", "run", "--fake", "h100x2", "--node", NODE),
            *("--kubeconfig", str(self._kubeconfig)),
            *(word for name, value in settings.items() for word in ("--set", f"{name}={value}")),
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    async def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> int:
        """As the kubelet ends a pod; its exit status."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        return await self._process.wait()

    def prepared(self) -> list[str]:
        """Claims that have a CDI file, by uid."""
        return sorted(path.stem.partition("claim_")[2] for path in self._kubelet.cdi.glob("*.json"))


@pytest.fixture
async def plugin(cluster: Cluster, kubelet: Kubelet, tmp_path: Path) -> AsyncIterator[Plugin]:
    """The plugin on the node, whose devices are published."""
    stand_in = {
        "metadata": {"name": NODE_PLUGIN, "namespace": NAMESPACE},
        "spec": {
            "nodeName": NODE,
            "serviceAccountName": NODE_PLUGIN,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": IMAGE, "command": ["sleep", "infinity"]}],
        },
    }
    pod = await cluster.client.create(kinds.POD, NAMESPACE, stand_in)
    async with Remote(await identity.load(cluster.kubeconfig)) as api:
        token = await node_plugin_token(api, pod)
    plugin = Plugin(kubelet, with_token(cluster.kubeconfig, tmp_path / "plugin", token))
    await plugin.start()
    try:
        await published(cluster)
        yield plugin
    finally:
        assert await plugin.stop() == 0


async def published(cluster: Cluster) -> None:
    def whole(slices: Objects) -> bool:
        specs = [each["spec"] for each in slices.values()]
        return bool(specs) and all(spec["pool"]["resourceSliceCount"] == len(specs) for spec in specs)

    await cluster.until(kinds.RESOURCE_SLICE, whole, "the pool is published whole")


MIXED = {"large": "3g.40gb", "small": "1g.10gb"}
# What a container sees of its devices, in the message that it leaves.
_LOOK = "cd /dev; echo nvidia* nvidia-caps/* > /dev/termination-log; while [ ! -e /dev/shm/end ]; do sleep 0.1; done"


async def template(cluster: Cluster) -> None:
    """Two instances of one GPU for each pod."""
    requests = [
        {
            "name": name,
            "exactly": {
                "deviceClassName": "mig.nvidia.com",
                "selectors": [{"cel": {"expression": f"device.attributes['gpu.nvidia.com'].profile == '{profile}'"}}],
            },
        }
        for name, profile in MIXED.items()
    ]
    constraint = {"matchAttribute": "gpu.nvidia.com/parentUUID"}
    spec = {"spec": {"devices": {"requests": requests, "constraints": [constraint]}}}
    await cluster.client.create(kinds.RESOURCE_CLAIM_TEMPLATE, "default", {"metadata": {"name": "mixed"}, "spec": spec})


async def gang(cluster: Cluster, *names: str) -> None:
    """Pods that start together, each with a container for each of its two instances."""
    await cluster.apply(
        f"""
        apiVersion: tutti.scheduler/v1alpha1
        kind: PodGroup
        metadata: {{name: gang, namespace: default}}
        spec: {{minMember: {len(names)}, queue: default}}
        """
    )
    for name in names:
        containers = [
            {
                "name": request,
                "image": IMAGE,
                "command": ["sh", "-c", f"trap 'exit 0' TERM; {_LOOK}"],
                "resources": {"requests": {"cpu": "5m"}, "claims": [{"name": "mig", "request": request}]},
            }
            for request in MIXED
        ]
        spec = {
            "schedulerName": "tutti",
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 5,
            "resourceClaims": [{"name": "mig", "resourceClaimTemplateName": "mixed"}],
            "containers": containers,
        }
        labels = {"tutti.scheduler/pod-group": "gang"}
        await cluster.client.create(kinds.POD, "default", {"metadata": {"name": name, "labels": labels}, "spec": spec})


async def until(cluster: Cluster, name: str, holds: Callable[[Document], object], what: str) -> Document:
    key = f"default/{name}"
    return (await cluster.until(kinds.POD, lambda pods: key in pods and holds(pods[key]), f"Pod {name} {what}"))[key]


async def runs(cluster: Cluster, *names: str) -> None:
    for name in names:
        await until(cluster, name, lambda pod: pod["status"].get("phase") == "Running", "runs")


async def ends(cluster: Cluster, name: str) -> dict[str, str]:
    """End a pod. What its containers have said, by name, as the pod is told on its way to its end."""
    said: dict[str, str] = {}

    def gone(pods: Objects) -> bool:
        pod = pods.get(f"default/{name}")
        for status in (pod or {}).get("status", {}).get("containerStatuses", ()):
            if ended := status["state"].get("terminated"):
                said[status["name"]] = ended.get("message", "")
        return pod is None

    await asyncio.gather(
        cluster.until(kinds.POD, gone, f"Pod {name} is gone"), cluster.client.delete(kinds.POD, "default", name)
    )
    return said


async def claims(cluster: Cluster) -> dict[str, Document]:
    """By the pod that each is reserved for."""
    found, _ = await cluster.client.list(kinds.RESOURCE_CLAIM, "default")
    return {each["status"]["reservedFor"][0]["name"]: each for each in found if each["status"].get("reservedFor")}


@pytest.mark.usefixtures("tutti")
async def test_a_gang_has_its_instances_in_its_containers_whatever_restarts(
    cluster: Cluster, kubelet: Kubelet, plugin: Plugin
):
    await cluster.needs_gate("DRAPartitionableDevices")
    await template(cluster)
    await gang(cluster, "one", "two")
    await runs(cluster, "one", "two")
    held = await claims(cluster)
    assert plugin.prepared() == sorted(claim["metadata"]["uid"] for claim in held.values())

    await kubelet.restart()
    await plugin.kill()
    await plugin.start()
    await published(cluster)

    seen = {name: await ends(cluster, name) for name in ("one", "two")}
    for name, said in seen.items():
        (large, small) = (allocated(held[name])[n][2] for n in (0, 1))
        number = large.split("-")[1]
        assert small.split("-")[1] == number
        assert said.keys() == MIXED.keys()
        for text in said.values():
            words = text.split()
            assert {f"nvidia{number}", "nvidiactl", "nvidia-uvm"} <= set(words)
            assert f"nvidia{1 - int(number)}" not in words
            assert len([word for word in words if word.startswith("nvidia-caps/nvidia-cap")]) == 2
        assert said["large"] != said["small"]
    assert plugin.prepared() == []

    # What was given back can be had again.
    await gang(cluster, "three", "four")
    await runs(cluster, "three", "four")
    assert len(plugin.prepared()) == 2
    for name in ("three", "four"):
        await ends(cluster, name)
    assert plugin.prepared() == []


@pytest.mark.usefixtures("tutti")
async def test_a_pod_that_asks_for_a_gpu_in_the_old_way_has_it_in_its_container(cluster: Cluster, plugin: Plugin):
    await cluster.needs_gate("DRAExtendedResource")
    spec = {
        "schedulerName": "tutti",
        "restartPolicy": "Never",
        "containers": [
            {
                "name": "main",
                "image": IMAGE,
                "command": ["sh", "-c", "echo /dev/nvidia[0-9]* > /dev/termination-log"],
                "resources": {"limits": {"nvidia.com/gpu": "1"}},
            }
        ],
    }
    await cluster.client.create(kinds.POD, "default", {"metadata": {"name": "old"}, "spec": spec})

    done = await until(cluster, "old", lambda pod: pod["status"].get("phase") in ("Succeeded", "Failed"), "ends")

    (main,) = done["status"]["containerStatuses"]
    assert main["state"]["terminated"]["message"] in ("/dev/nvidia0\n", "/dev/nvidia1\n")
    assert plugin.prepared() == []  # it is given back before the pod is said to have ended


async def test_a_device_that_a_rival_hands_out_twice_is_prepared_once_and_the_other_pod_waits_and_is_told(
    cluster: Cluster, plugin: Plugin
):
    for name in ("first", "second"):
        await rival(cluster, name, "gpu-0")
        if name == "first":
            await runs(cluster, "first")

    def told(events: Objects) -> bool:
        return any(
            each["reason"] == "PrepareFailed"
            and each["involvedObject"]["name"] == "second"
            and "claim default/first holds gpu-0" in each["message"]
            for each in events.values()
        )

    await cluster.until(kinds.EVENT, told, "the second pod is told why it waits")
    second = await cluster.client.get(kinds.POD, "default", "second")
    assert second["status"]["phase"] == "Pending"
    assert len(plugin.prepared()) == 1

    await ends(cluster, "first")
    await runs(cluster, "second")
    await ends(cluster, "second")
    assert plugin.prepared() == []


async def rival(cluster: Cluster, name: str, device: str) -> None:
    """A pod with a claim on the node, which has this device: as a scheduler would do that looks at nothing."""
    request = {"name": "gpus", "exactly": {"deviceClassName": "gpu.nvidia.com"}}
    document = await cluster.client.create(
        kinds.RESOURCE_CLAIM, "default", {"metadata": {"name": name}, "spec": {"devices": {"requests": [request]}}}
    )
    spec = {
        "schedulerName": "rival",
        "terminationGracePeriodSeconds": 1,
        "resourceClaims": [{"name": "gpus", "resourceClaimName": name}],
        "containers": [
            {
                "name": "main",
                "image": IMAGE,
                "command": ["sleep", "infinity"],
                "resources": {"claims": [{"name": "gpus"}]},
            }
        ],
    }
    pod = await cluster.client.create(kinds.POD, "default", {"metadata": {"name": name}, "spec": spec})
    result = {"request": "gpus", "driver": "gpu.nvidia.com", "pool": NODE, "device": device}
    document["status"] = {
        "allocation": {"devices": {"results": [result]}},
        "reservedFor": [{"resource": "pods", "name": name, "uid": pod["metadata"]["uid"]}],
    }
    await cluster.client.replace(kinds.RESOURCE_CLAIM, "default", name, document, subresource="status")
    await cluster.client.bind("default", name, pod["metadata"]["uid"], NODE)


async def test_the_plugin_publishes_for_its_own_node_alone(cluster: Cluster, plugin: Plugin, tmp_path: Path):
    assert plugin.prepared() == []
    async with await Client.connect(tmp_path / "plugin") as own:

        def slice_(node: str) -> Document:
            pool = {"name": node, "generation": 1, "resourceSliceCount": 1}
            spec = {"driver": "other.example.com", "nodeName": node, "pool": pool, "devices": []}
            return {"metadata": {"name": f"{node}-other"}, "spec": spec}

        async def create_until_refused(node: str) -> None:
            """A policy holds a moment after it is there, and nothing tells when."""
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    await own.create(kinds.RESOURCE_SLICE, None, slice_(node))
                    await cluster.client.delete(kinds.RESOURCE_SLICE, None, f"{node}-other")
                    await asyncio.sleep(_LOOK_SECONDS)

        await own.create(kinds.RESOURCE_SLICE, None, slice_(NODE))
        with pytest.raises(ApiError, match=OTHERS):
            await create_until_refused("real-2")
        foreign = await cluster.client.create(kinds.RESOURCE_SLICE, None, slice_("real-2"))
        taken = {**foreign, "metadata": {**foreign["metadata"], "labels": {"mine": "yes"}}}
        for refused in (
            own.delete(kinds.RESOURCE_SLICE, None, "real-2-other"),
            own.replace(kinds.RESOURCE_SLICE, None, "real-2-other", taken),
        ):
            with pytest.raises(ApiError, match=OTHERS):
                await refused
        await cluster.client.delete(kinds.RESOURCE_SLICE, None, foreign["metadata"]["name"])
        await own.delete(kinds.RESOURCE_SLICE, None, f"{NODE}-other")
        for question in FORBIDDEN:
            assert not await may(own, question), question
