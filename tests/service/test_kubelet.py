"""On a real kubelet: what is bound to a node is admitted there and runs. Its arithmetic and ours come to one result."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from scheduler.api import kinds, quantity
from scheduler.api.kinds import Document as Unread
from scheduler.api.kinds import Kind
from scheduler.kube.client import Client
from tests.real.ground import Ground
from tests.real.kubelet import Kubelet, obstacle, programs
from tests.real.kubelet_files import IMAGE
from tests.service.conftest import Cluster, Document

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("node", "tutti")]

NODE = "real-1"
MEBI = 2**20
FOREVER = ["sleep", "infinity"]
RUNTIME_CLASS = Kind(
    group="node.k8s.io", version="v1", plural="runtimeclasses", kind="RuntimeClass", namespaced=False, type=Unread
)


@pytest.fixture
async def cluster(real: Ground) -> AsyncIterator[Cluster]:
    """The real cluster of this run, and nobody in it who plays the kubelet."""

    async def add_nodes(shape: str, count: int) -> list[str]:
        raise AssertionError(f"{count} of {shape}: no simulated nodes here")

    async with await Client.connect(real.admin) as client:
        cluster = Cluster(client, real.admin, real.tutti, add_nodes)
        await cluster.apply("{apiVersion: tutti.scheduler/v1alpha1, kind: Queue, metadata: {name: default}}")
        try:
            yield cluster
        finally:
            await real.restore()


@pytest.fixture
async def node(cluster: Cluster) -> AsyncIterator[Document]:
    """The one node of the cluster, ready for pods; what it offers them."""
    if hindrance := obstacle():
        pytest.skip(hindrance)
    found = programs()
    if found is None:
        pytest.skip("no real kubelet: tests/tools.sh kubelet and tests/tools.sh containers say why")
    with Kubelet(found, cluster.kubeconfig, NODE) as kubelet:
        working = asyncio.create_task(kubelet.work())
        cluster.schedulers.add(working)  # if it ends, nothing that is waited for will happen
        try:
            nodes = await cluster.until(
                kinds.NODE, lambda nodes: NODE in nodes and ready(nodes[NODE]), "the node is ready for pods"
            )
            yield nodes[NODE]["status"]["allocatable"]
        finally:
            cluster.schedulers.discard(working)
            working.cancel()


def ready(node: Document) -> bool:
    conditions = {each["type"]: each["status"] for each in node.get("status", {}).get("conditions", ())}
    return conditions.get("Ready") == "True" and not node["spec"].get("taints")


def container(name: str = "main", *, command: list[str] | None = None, **more: Any) -> Document:
    return {"name": name, "image": IMAGE, "command": command or FOREVER, **more}


def asks(cpu: str | None = None, memory: str | None = None) -> Document:
    """The `resources` of a container or a pod that asks for this."""
    return {"requests": {name: amount for name, amount in (("cpu", cpu), ("memory", memory)) if amount}}


def pod(name: str, *containers: Document, group: str = "", **spec: Any) -> Document:
    """A pod for us of these containers; or with the `containers` of its further `spec`."""
    return {
        "metadata": {"name": name, "labels": {"tutti.scheduler/pod-group": group} if group else {}},
        "spec": {
            "schedulerName": "tutti",
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,  # 0 would hide from us a container that still runs
            "containers": list(containers),
            **spec,
        },
    }


async def create(cluster: Cluster, *pods: Document) -> None:
    for each in pods:
        await cluster.client.create(kinds.POD, "default", each)


async def until(cluster: Cluster, name: str, holds: Callable[[Document], object], what: str) -> Document:
    """Until this holds of the pod; the pod then."""
    key = f"default/{name}"
    found = await cluster.until(kinds.POD, lambda pods: key in pods and holds(pods[key]), f"Pod {name} {what}")
    return found[key]


async def runs(cluster: Cluster, *names: str) -> None:
    for name in names:
        await until(cluster, name, lambda pod: pod["status"].get("phase") == "Running", "runs")


async def waits(cluster: Cluster, name: str, why: str) -> None:
    """Until the pod is said to be unschedulable for this reason; it is on no node then."""
    found = await until(
        cluster, name, lambda pod: why in condition(pod, "PodScheduled").get("message", ""), f"waits: {why}"
    )
    assert "nodeName" not in found["spec"]


def condition(pod: Document, type_: str) -> Document:
    found: list[Document] = [each for each in pod["status"].get("conditions", ()) if each["type"] == type_]
    return found[0] if found else {}


async def test_a_pod_runs_to_its_end_in_a_container(cluster: Cluster):
    says = container(
        command=["sh", "-c", "echo on $NODE > /dev/termination-log"],
        env=[{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        resources=asks("100m", "8Mi"),
    )
    await create(cluster, pod("one", says))

    done = await until(cluster, "one", lambda pod: pod["status"].get("phase") in ("Succeeded", "Failed"), "ends")

    (status,) = done["status"]["containerStatuses"]
    assert status["containerID"].startswith("containerd://")
    assert status["state"]["terminated"] | {"exitCode": 0, "message": f"on {NODE}\n"} == status["state"]["terminated"]


# What pods ask for in all ways there are; and what that comes to: thousandths of a CPU, and Mi of memory.
ASKS: dict[str, tuple[int, int, Document]] = {
    "plain": (20, 8, {"containers": [container(resources=asks("20m", "8Mi"))]}),
    "two-containers": (
        30,
        24,
        {"containers": [container("a", resources=asks("20m", "8Mi")), container("b", resources=asks("10m", "16Mi"))]},
    ),
    "large-init": (
        60,
        16,
        {
            "initContainers": [container("init", command=["sleep", "0"], resources=asks("60m", "4Mi"))],
            "containers": [container(resources=asks("20m", "16Mi"))],
        },
    ),
    "sidecar-before-init": (
        50,
        40,
        {
            "initContainers": [
                container("sidecar", restartPolicy="Always", resources=asks("20m", "8Mi")),
                container("init", command=["sleep", "0"], resources=asks("30m", "32Mi")),
            ],
            "containers": [container(resources=asks("10m", "8Mi"))],
        },
    ),
    "init-before-sidecar": (
        40,
        32,
        {
            "initContainers": [
                container("init", command=["sleep", "0"], resources=asks("40m", "16Mi")),
                container("sidecar", restartPolicy="Always", resources=asks("20m", "24Mi")),
            ],
            "containers": [container(resources=asks("10m", "8Mi"))],
        },
    ),
    "overhead": (26, 32, {"runtimeClassName": "costly", "containers": [container(resources=asks("20m", "8Mi"))]}),
    "pod-level": (
        44,
        16,
        {
            "resources": asks("44m"),
            "containers": [container("a", resources=asks("20m", "8Mi")), container("b", resources=asks(None, "8Mi"))],
        },
    ),
    "limits-only": (200, 64, {"containers": [container(resources={"limits": {"cpu": "200m", "memory": "64Mi"}})]}),
    "pod-level-limit": (
        250,
        8,
        {"resources": {"limits": {"cpu": "250m"}}, "containers": [container(resources=asks(None, "8Mi"))]},
    ),
}


@pytest.fixture
async def costly(cluster: Cluster) -> AsyncIterator[None]:
    """A RuntimeClass whose pods take 6 thousandths of a CPU and 24 Mi of memory more than they ask for."""
    overhead = {"podFixed": {"cpu": "6m", "memory": "24Mi"}}
    costly = {"metadata": {"name": "costly"}, "handler": "runc", "overhead": overhead}
    await cluster.client.create(RUNTIME_CLASS, None, costly)
    yield
    await cluster.client.delete(RUNTIME_CLASS, None, "costly")


@pytest.mark.usefixtures("costly")
async def test_a_gang_of_all_shapes_fills_the_node_to_the_last_thousandth_and_the_kubelet_admits_every_pod(
    cluster: Cluster, node: Document
):
    await create(cluster, pod("first", container(resources=asks("35m", "12Mi"))))
    await runs(cluster, "first")
    cpu = quantity.thousandths(node["cpu"]) - 35 - sum(cpu for cpu, _, _ in ASKS.values())
    memory = quantity.units(node["memory"]) - (12 + sum(memory for _, memory, _ in ASKS.values())) * MEBI
    await cluster.apply(
        f"""
        apiVersion: tutti.scheduler/v1alpha1
        kind: PodGroup
        metadata: {{name: all, namespace: default}}
        spec: {{minMember: {len(ASKS) + 1}, queue: default}}
        """
    )
    await create(cluster, *(pod(name, group="all", **spec) for name, (_, _, spec) in ASKS.items()))
    await create(cluster, pod("rest", container(resources=asks(f"{cpu}m", str(memory))), group="all"))
    await runs(cluster, *ASKS, "rest")

    # What the kubelet has since said about the pods changes nothing: what leaves makes room for as much.
    await cluster.delete(kinds.POD, "default/first")
    await create(cluster, pod("second", container(resources=asks("35m", "12Mi"))))
    await runs(cluster, "second")

    # One more of the least amount: for us it does not fit, and neither does it for the kubelet.
    last = {"cpu": asks("1m"), "memory": asks(None, "1")}
    await create(cluster, *(pod(f"more-{name}", container(resources=least)) for name, least in last.items()))
    await waits(cluster, "more-cpu", "1 node has too little free cpu: none of the 0.001 CPUs asked for")
    await waits(cluster, "more-memory", "1 node has too little free memory: none of the 1 byte asked for")
    forced = {name: pod(f"forced-{name}", container(resources=least), nodeName=NODE) for name, least in last.items()}
    await create(cluster, *forced.values())
    for name in forced:
        refused = await until(cluster, f"forced-{name}", lambda pod: pod["status"].get("reason"), "is refused")
        assert refused["status"]["reason"] == f"OutOf{name}"


LEVELS = pytest.mark.parametrize("whole", [False, True], ids=["container", "pod"])


def sized(cpu: int, whole: bool) -> Document:
    """The spec of a pod of this size; `whole`: said for the pod as a whole, and not for its container."""
    if whole:
        return {"resources": asks(f"{cpu}m"), "containers": [container()]}
    return {"containers": [container(resources=asks(f"{cpu}m"))]}


async def resize(cluster: Cluster, name: str, cpu: int, whole: bool) -> None:
    wanted = asks(f"{cpu}m")
    spec = {"resources": wanted} if whole else {"containers": [{"name": "main", "resources": wanted}]}
    await cluster.client.patch(kinds.POD, "default", name, {"spec": spec}, subresource="resize", how="strategic")


async def resized(cluster: Cluster, name: str, cpu: int, whole: bool) -> None:
    """Until the kubelet has given the pod so much."""

    def given(pod: Document) -> bool:
        (main,) = pod["status"]["containerStatuses"]
        allocated = (pod["status"] if whole else main).get("allocatedResources", {})
        return "cpu" in allocated and quantity.thousandths(allocated["cpu"]) == cpu

    await until(cluster, name, given, f"is given {cpu} thousandths of a CPU")


@pytest.mark.usefixtures("costly")
async def test_overhead_beside_requests_of_the_whole_pod_counts_twice_as_it_does_for_the_kubelet(
    cluster: Cluster, node: Document
):
    await cluster.needs_minor(36, "a size in force of a pod as a whole")
    room = quantity.thousandths(node["cpu"])
    await create(cluster, pod("heavy", **sized(100, whole=True), runtimeClassName="costly"))
    await runs(cluster, "heavy")

    await create(cluster, pod("late", **sized(room - 106, whole=False)))
    await waits(cluster, "late", "1 node has too little free cpu")
    await create(cluster, pod("forced", **sized(room - 106, whole=False), nodeName=NODE))
    refused = await until(cluster, "forced", lambda pod: pod["status"].get("reason"), "is refused")
    assert refused["status"]["reason"] == "OutOfcpu"
    await create(cluster, pod("fits", **sized(room - 112, whole=False)))
    await runs(cluster, "fits")


@LEVELS
async def test_a_pod_that_grew_in_place_leaves_no_room_for_what_fitted_before(
    cluster: Cluster, node: Document, whole: bool
):
    if whole:
        await cluster.needs_minor(36, "resizing a pod as a whole")
    room = quantity.thousandths(node["cpu"])
    await create(cluster, pod("grows", **sized(100, whole)))
    await runs(cluster, "grows")

    await resize(cluster, "grows", 300, whole)
    await resized(cluster, "grows", 300, whole)
    await create(cluster, pod("late", **sized(room - 290, whole)))
    await waits(cluster, "late", "1 node has too little free cpu")

    await resize(cluster, "grows", 250, whole)
    await runs(cluster, "late")


@LEVELS
async def test_a_size_that_waits_for_room_counts_and_takes_the_next_room(cluster: Cluster, node: Document, whole: bool):
    if whole:
        await cluster.needs_minor(36, "resizing a pod as a whole")
    room = quantity.thousandths(node["cpu"])
    await create(cluster, pod("grows", **sized(100, whole)))
    await create(cluster, pod("big", **sized(room - 200, whole)))
    await runs(cluster, "grows", "big")

    await resize(cluster, "grows", 300, whole)
    await until(cluster, "grows", lambda pod: condition(pod, "PodResizePending").get("reason") == "Deferred", "waits")
    await create(cluster, pod("late", **sized(50, whole)))
    await waits(cluster, "late", "1 node has too little free cpu: none of the 0.05 CPUs asked for")

    await cluster.delete(kinds.POD, "default/big")
    await resized(cluster, "grows", 300, whole)
    await runs(cluster, "late")
