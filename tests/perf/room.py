"""Running work makes way on a full or fragmented cluster: from the submission until all are bound that it is for.

`reclaim`: a queue without quota has filled the cluster with one-GPU Jobs, and another whose quota is all of it asks:
for one GPU, for one gang of half the nodes, for as many Jobs as there are GPUs, for distributed Jobs of eight-GPU pods.
`preempt`: the same in one queue, by priority. `consolidate`: a one-GPU Job stands on every node, and gangs of whole
nodes come; and how long it takes until a gang that has no way is told so. Sizes are those of KAI's scale tests;
decision, evictions, the end of the pods and binds are all in the time.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from scheduler.api import crd_schema, kinds
from scheduler.kube.client import Client
from tests.perf.fill import NAMESPACE, write_kubeconfig
from tests.perf.processes import Child, cluster, scheduler, until_quiet

_API = f"{kinds.QUEUE.group}/{kinds.QUEUE.version}"
_AT_ONCE = 32
_PATIENCE_SECONDS = 540
GPUS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """So many Jobs of `pods` pods with `gpus` GPUs each, all or nothing."""

    name: str
    jobs: int = 1
    pods: int = 1
    gpus: int = 1
    queue: str = "default"
    priority: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What stands there, who comes, and what KAI needed at 500 nodes, if known (seconds, its scale tests of 2026-07).
    `thin`: of those that stand there one on each node is left. `never`: the time is until the PodGroup says why it does
    not start."""

    standing: Load
    coming: Load
    kai: float | None = None
    thin: bool = False
    never: bool = False


Scenes = Callable[[int], Mapping[str, Scene]]


def _reclaim(nodes: int) -> Mapping[str, Scene]:
    full = Load(name="red", jobs=nodes * GPUS, queue="red")
    return {
        "one GPU": Scene(standing=full, coming=Load(name="blue", queue="blue"), kai=13.9),
        "one gang of half the nodes": Scene(
            standing=full, coming=Load(name="blue", pods=nodes // 2, gpus=GPUS, queue="blue"), kai=102
        ),
        "every GPU, in Jobs of one": Scene(
            standing=full, coming=Load(name="blue", jobs=nodes * GPUS, queue="blue"), kai=694
        ),
        "distributed Jobs": Scene(
            standing=full, coming=Load(name="blue", jobs=nodes // 10, pods=5, gpus=GPUS, queue="blue"), kai=717
        ),
    }


def _preempt(nodes: int) -> Mapping[str, Scene]:
    full = Load(name="low", jobs=nodes * GPUS, priority="low")
    return {
        "one GPU": Scene(standing=full, coming=Load(name="high", priority="high")),
        "one gang of half the nodes": Scene(
            standing=full, coming=Load(name="high", pods=nodes // 2, gpus=GPUS, priority="high")
        ),
    }


def _consolidate(nodes: int) -> Mapping[str, Scene]:
    full = Load(name="small", jobs=nodes * GPUS)
    return {
        "gangs of ten whole nodes": Scene(
            standing=full,
            coming=Load(name="large", jobs=max(nodes * 41 // 500, 1), pods=10, gpus=GPUS),
            kai=456,
            thin=True,
        ),
        "a gang that has no way": Scene(
            standing=full,
            coming=Load(name="large", pods=10, gpus=GPUS),
            kai=249.5,
            never=True,
        ),
    }


class Benchmark:
    """One of the three, as a benchmark of `tests.perf`."""

    def __init__(self, title: str, scenes: Scenes) -> None:
        self.__doc__ = title
        self._scenes = scenes

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--nodes", type=int, default=500)
        parser.add_argument("--only", action="append", default=[], help="scenes whose name has this in it; repeatable")

    def run(self, options: argparse.Namespace) -> dict[str, Any]:
        figures: dict[str, Any] = {"nodes": options.nodes}
        for name, scene in self._scenes(options.nodes).items():
            if not options.only or any(part in name for part in options.only):
                figures[name] = _play(options.nodes, scene)
        return figures


RECLAIM = Benchmark("A queue takes back its share from a full cluster.", _reclaim)
PREEMPT = Benchmark("Higher priority takes the place of lower on a full cluster.", _preempt)
CONSOLIDATE = Benchmark("Running work is moved so that whole nodes become free.", _consolidate)


def _play(nodes: int, scene: Scene) -> dict[str, Any]:
    server = Child(cluster, {"base": "t4-plugin", "changes": {"gpus": GPUS, "plugin": True}}, nodes)
    with tempfile.TemporaryDirectory() as folder:
        kubeconfig = Path(folder) / "kubeconfig"
        write_kubeconfig(kubeconfig, server.up)
        return asyncio.run(_played(kubeconfig, scene, server))


async def _played(kubeconfig: Path, scene: Scene, server: Child) -> dict[str, Any]:
    async with await Client.connect(kubeconfig) as client:
        await _prepare(client)
        # What stands has just started; in KAI that keeps nobody from being moved.
        settings = {"stages": "allocate,consolidate,reclaim,preempt", "move_after_seconds": 0}
        ours = Child(scheduler, kubeconfig, settings)
        async with asyncio.timeout(_PATIENCE_SECONDS):
            standing, coming = scene.standing, scene.coming
            await _until(
                client, lambda bound: bound.get(standing.name, 0) >= standing.jobs * standing.pods, submit=standing
            )
            if scene.thin:
                await _thin_out(client)
            await until_quiet((server.process, ours.process))
            began = time.perf_counter()
            if scene.never:
                await _until_told(client, coming)
            else:
                await _until(
                    client, lambda bound: bound.get(coming.name, 0) >= coming.jobs * coming.pods, submit=coming
                )
            seconds = time.perf_counter() - began
        of_scheduler, of_server = ours.stop(), server.stop()
    figures: dict[str, Any] = {"seconds": round(seconds, 2)}
    if scene.kai is not None:
        figures |= {"KAI's seconds": scene.kai, "times as fast": round(scene.kai / seconds, 1)}
    return figures | {"our cpu seconds": of_scheduler["cpu seconds"], "embedded server's": of_server["cpu seconds"]}


async def _prepare(client: Client) -> None:
    for definition in crd_schema.crds():
        await client.create(kinds.CUSTOM_RESOURCE_DEFINITION, None, definition)
    everything = {"gpu": {"quota": "1000000"}}
    for name, resources in (("default", everything), ("red", {}), ("blue", everything)):
        body = {"apiVersion": _API, "kind": "Queue", "metadata": {"name": name}, "spec": {"resources": resources}}
        await client.create(kinds.QUEUE, None, body)
    for name, value in (("low", 10), ("high", 20)):
        await client.create(kinds.PRIORITY_CLASS, None, {"metadata": {"name": name}, "value": value})


async def _thin_out(client: Client) -> None:
    """Delete all Jobs but one on each node, and wait until their pods are gone."""
    pods, _ = await client.list(kinds.POD)
    kept = {pod["spec"]["nodeName"]: pod["metadata"]["name"] for pod in pods}
    gone = [pod["metadata"]["name"] for pod in pods if kept[pod["spec"]["nodeName"]] != pod["metadata"]["name"]]
    for name in gone:
        await client.delete(kinds.JOB, NAMESPACE, name.rpartition("-")[0], propagation="Background")
    while len((await client.list(kinds.POD))[0]) > len(kept):
        await asyncio.sleep(0.2)


async def _submit(client: Client, load: Load) -> None:
    turns = asyncio.Semaphore(_AT_ONCE)

    async def submit(name: str) -> None:
        async with turns:
            group = {"minMember": load.pods, "queue": load.queue}
            if load.priority:
                group["priorityClassName"] = load.priority
            body = {
                "apiVersion": _API,
                "kind": "PodGroup",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": group,
            }
            await client.create(kinds.POD_GROUP, NAMESPACE, body)
            await client.create(kinds.JOB, NAMESPACE, _job(name, load))

    await asyncio.gather(*(submit(f"{load.name}-{number:05d}") for number in range(load.jobs)))


def _job(name: str, load: Load) -> dict[str, Any]:
    resources = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"nvidia.com/gpu": str(load.gpus)}}
    spec: dict[str, Any] = {
        "schedulerName": "tutti",
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "example.com/trainer:v1", "resources": resources}],
    }
    template = {"metadata": {"labels": {"tutti.scheduler/pod-group": name}}, "spec": spec}
    counts = {"parallelism": load.pods, "completions": load.pods, "backoffLimit": 1_000_000}
    return {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": {**counts, "template": template}}


class _Meta(msgspec.Struct):
    name: str = ""
    deletion: str = msgspec.field(default="", name="deletionTimestamp")


class _Spec(msgspec.Struct):
    node: str = msgspec.field(default="", name="nodeName")


class _Pod(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    spec: _Spec = msgspec.field(default_factory=_Spec)


class _Event(msgspec.Struct):
    type: str
    object: _Pod


async def _until(client: Client, holds: Callable[[Mapping[str, int]], bool], *, submit: Load) -> None:
    """Submit the load and look on until this holds of the pods on nodes, by the name of their load."""
    pods, version = await client.list(kinds.POD)
    on_nodes = {pod["metadata"]["name"] for pod in pods if pod["spec"].get("nodeName")}
    bound = dict[str, int]()
    for name in on_nodes:
        load = name.partition("-")[0]
        bound[load] = bound.get(load, 0) + 1
    submitting = asyncio.create_task(_submit(client, submit))
    decoder, rest = msgspec.json.Decoder(_Event), b""
    async with client.watch(kinds.POD, {"resourceVersion": version}, silence_seconds=600) as chunks:
        async for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                event = decoder.decode(line)
                name = event.object.metadata.name
                there = bool(event.object.spec.node) and event.type != "DELETED"
                if there != (name in on_nodes):
                    load = name.partition("-")[0]
                    bound[load] = bound.get(load, 0) + (1 if there else -1)
                    (on_nodes.add if there else on_nodes.discard)(name)
            if holds(bound):
                break
    await submitting


async def _until_told(client: Client, load: Load) -> None:
    """Submit the load and look on until its PodGroup says why it does not start."""
    _, version = await client.list(kinds.POD_GROUP)
    await _submit(client, load)
    rest = b""
    async with client.watch(kinds.POD_GROUP, {"resourceVersion": version}, silence_seconds=600) as chunks:
        async for chunk in chunks:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                group = msgspec.json.decode(line)["object"]
                told = (group.get("status") or {}).get("reason", {}).get("code")
                if group["metadata"]["name"].startswith(load.name) and told == "GangDoesNotFit":
                    return
