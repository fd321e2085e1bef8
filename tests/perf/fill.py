"""Fill an empty cluster: so many one-GPU Jobs, from the first submission until all pods are bound.

Three processes: the embedded cluster, the scheduler, and the submitter, which also watches. Latency of a pod is from
the answer to its Job's creation to the event that shows it bound.
"""

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from scheduler.api import crd_schema, kinds
from scheduler.kube.client import Client
from tests.perf.processes import Child, cluster, scheduler

NAMESPACE = "default"
SUBMISSIONS_AT_ONCE = 16
KAI_SECONDS = 398
"""KAI's published figure for 500 nodes of 8 GPUs and 4,000 Jobs (its scale tests)."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--gpus", type=int, default=8, help="GPUs of each node")
    parser.add_argument("--jobs", type=int, default=4000)
    parser.add_argument("--claims", action="store_true", help="ask through ResourceClaims, not through nvidia.com/gpu")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the scheduler")


def run(options: argparse.Namespace) -> dict[str, Any]:
    changes = {"gpus": options.gpus} if options.claims else {"gpus": options.gpus, "plugin": True}
    shape = {"base": "h100x8" if options.claims else "t4-plugin", "changes": changes}
    server = Child(cluster, shape, options.nodes)
    with tempfile.TemporaryDirectory() as folder:
        kubeconfig = Path(folder) / "kubeconfig"
        write_kubeconfig(kubeconfig, server.up)
        return asyncio.run(_fill(options, kubeconfig, server))


async def _fill(options: argparse.Namespace, kubeconfig: Path, server: Child) -> dict[str, Any]:
    async with await Client.connect(kubeconfig) as client:
        await _prepare(client, claims=options.claims)
        settings = dict(text.split("=", 1) for text in options.set)
        ours = Child(scheduler, kubeconfig, settings)
        bound: dict[str, float] = {}
        submitted: dict[str, float] = {}
        async with _watching(client, bound, options.jobs) as all_bound:
            began = time.perf_counter()
            await _submit(client, options.jobs, submitted, claims=options.claims)
            all_submitted = time.perf_counter()
            await all_bound.wait()
            ended = time.perf_counter()
        latencies = sorted(bound[job] - submitted[job] for job in bound)
        of_scheduler, of_server = ours.stop(), server.stop()
    seconds = ended - began
    shares = _shares(of_scheduler, of_server)
    return {
        "nodes": options.nodes,
        "gpus": options.nodes * options.gpus,
        "jobs": options.jobs,
        "claims": options.claims,
        "seconds from first submission to all bound": round(seconds, 2),
        "seconds from last submission to all bound": round(ended - all_submitted, 2),
        "pods bound a second": round(options.jobs / seconds, 1),
        "latency p50 seconds": round(latencies[len(latencies) // 2], 2),
        "latency p99 seconds": round(latencies[int(len(latencies) * 0.99)], 2),
        "scheduler": of_scheduler,
        "embedded server": of_server,
        "share of cpu": shares,
        "KAI's published seconds, 500 nodes and 4000 jobs": KAI_SECONDS,
    }


def _shares(ours: Mapping[str, Any], server: Mapping[str, Any]) -> dict[str, str]:
    """Who used the CPU: our process by what it did, the server, and the kernel, which is the wire for both."""
    parts = ours["cpu seconds by part"]
    decides = sum(parts.get(name, 0.0) for name in ("snapshot", "plan", "check", "explain"))
    watches = sum(parts.get(name, 0.0) for name in ("decode", "take in"))
    spent = {
        "our process decides": decides,
        "our process reads watches": watches,
        "our process sends and reads requests": ours["cpu seconds"] - decides - watches,
        "the embedded server": server["cpu seconds"],
        "the wire (kernel, both ends)": ours["kernel seconds"] + server["kernel seconds"],
    }
    total = sum(spent.values())
    return {name: f"{seconds / total:.0%}" for name, seconds in spent.items()}


async def _prepare(client: Client, *, claims: bool) -> None:
    for definition in crd_schema.crds():
        await client.create(kinds.CUSTOM_RESOURCE_DEFINITION, None, definition)
    api = f"{kinds.QUEUE.group}/{kinds.QUEUE.version}"
    await client.create(kinds.QUEUE, None, {"apiVersion": api, "kind": "Queue", "metadata": {"name": "default"}})
    if claims:
        request = {"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com", "count": 1}}
        body = {
            "metadata": {"name": "gpu", "namespace": NAMESPACE},
            "spec": {"spec": {"devices": {"requests": [request]}}},
        }
        await client.create(kinds.RESOURCE_CLAIM_TEMPLATE, NAMESPACE, body)


async def _submit(client: Client, jobs: int, submitted: dict[str, float], *, claims: bool) -> None:
    turns = asyncio.Semaphore(SUBMISSIONS_AT_ONCE)

    async def submit(name: str) -> None:
        async with turns:
            await client.create(kinds.JOB, NAMESPACE, _job(name, claims=claims))
            submitted[name] = time.perf_counter()

    await asyncio.gather(*(submit(f"job-{number:05d}") for number in range(jobs)))


def _job(name: str, *, claims: bool) -> dict[str, Any]:
    resources: dict[str, Any] = {"requests": {"cpu": "1", "memory": "1Gi"}}
    spec: dict[str, Any] = {"schedulerName": "tutti", "restartPolicy": "Never"}
    if claims:
        resources["claims"] = [{"name": "gpu"}]
        spec["resourceClaims"] = [{"name": "gpu", "resourceClaimTemplateName": "gpu"}]
    else:
        resources["limits"] = {"nvidia.com/gpu": "1"}
    spec["containers"] = [{"name": "main", "image": "example.com/trainer:v1", "resources": resources}]
    labels = {"tutti.scheduler/queue": "default"}
    return {
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": {"template": {"metadata": {"labels": labels}, "spec": spec}},
    }


class _PodSpec(msgspec.Struct):
    node_name: str = msgspec.field(default="", name="nodeName")


class _PodMeta(msgspec.Struct):
    name: str = ""


class _Pod(msgspec.Struct):
    metadata: _PodMeta = msgspec.field(default_factory=_PodMeta)
    spec: _PodSpec = msgspec.field(default_factory=_PodSpec)


class _Event(msgspec.Struct):
    object: _Pod


@contextlib.asynccontextmanager
async def _watching(client: Client, bound: dict[str, float], jobs: int) -> AsyncIterator[asyncio.Event]:
    """Note when each Job's pod is first seen bound; the event is set when all are."""
    all_bound = asyncio.Event()
    decoder = msgspec.json.Decoder(_Event)
    _, version = await client.list(kinds.POD)

    async def follow() -> None:
        rest = b""
        async with client.watch(kinds.POD, {"resourceVersion": version}, silence_seconds=600) as chunks:
            async for chunk in chunks:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    pod = decoder.decode(line).object
                    if pod.spec.node_name:
                        bound.setdefault(pod.metadata.name.rpartition("-")[0], time.perf_counter())
                if len(bound) == jobs:
                    all_bound.set()

    following = asyncio.create_task(follow())
    try:
        yield all_bound
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def write_kubeconfig(path: Path, server: str) -> None:
    path.write_text(
        msgspec.json.encode(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "perf", "cluster": {"server": server}}],
                "contexts": [{"name": "perf", "context": {"cluster": "perf", "user": "perf"}}],
                "current-context": "perf",
                "users": [{"name": "perf", "user": {}}],
            }
        ).decode()
    )
