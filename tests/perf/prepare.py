"""The node plugin prepares claims and has them given back, as the kubelet asks it: milliseconds of each call, and the
memory of its process.

The plugin is a process of its own on a machine that is made up; the kubelet is played over the real sockets; the claims
are read from the embedded cluster, in a process of its own. A call lasts from the kubelet's request to its answer: the
claim is read, checkpoint and CDI file are on disk, and nobody else's work is waited for.
"""

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from dra_driver.devices import ClaimRef
from scheduler.api import kinds
from scheduler.devcluster import kinds as stored
from scheduler.devcluster.run import DevCluster
from scheduler.kube.client import Client
from tests.node.kubelet import Driver, FakeKubelet
from tests.perf.fill import write_kubeconfig
from tests.perf.processes import Child

NODE = "perf-1"
WHAT = {"whole GPU": "gpu-{0}", "MIG instance": "gpu-{0}-mig-3g40gb-9-0"}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--machine", default="h100x8", help="two H100 or more, as the plugin's --fake takes them")
    parser.add_argument("--claims", type=int, default=50, help="of each kind, one after the other")


def run(options: argparse.Namespace) -> dict[str, Any]:
    server = Child(_cluster)
    # Not where temporary files are, which may be a long path: sockets stand in it.
    folder = Path(tempfile.mkdtemp(prefix="kubelet-", dir="/tmp"))
    try:
        write_kubeconfig(folder / "kubeconfig", server.up)
        figures = asyncio.run(_measured(folder, options))
    finally:
        shutil.rmtree(folder)
    return {"machine": options.machine, **figures, "embedded server": server.stop()}


async def _measured(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    began = time.perf_counter()
    plugin = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dra_driver", "run", "--fake", options.machine, "--node", NODE),
        *("--kubeconfig", str(folder / "kubeconfig"), "--set", "dynamic_mig=true", "--set", "log_level=error"),
        *("--set", f"kubelet_dir={folder}", "--set", f"cdi_dir={folder / 'cdi'}"),
    )
    try:
        driver = await FakeKubelet(folder).register()
        started = time.perf_counter() - began
        async with await Client.connect(folder / "kubeconfig") as client:
            figures = {what: await _calls(client, driver, what, options.claims) for what in WHAT}
        memory = psutil.Process(plugin.pid).memory_info().rss
    finally:
        plugin.terminate()
        await plugin.wait()
    return {"seconds until it is registered": round(started, 2), **figures, "memory MB": round(memory / 1e6, 1)}


async def _calls(client: Client, driver: Driver, what: str, count: int) -> dict[str, float]:
    prepare, unprepare = [], []
    for number in range(count):
        claim = await _claim(client, f"{what.lower().replace(' ', '-')}-{number}", WHAT[what].format(number % 2))
        began = time.perf_counter()
        await driver.devices(claim)
        prepared = time.perf_counter()
        await driver.give_back(claim)
        prepare.append(prepared - began)
        unprepare.append(time.perf_counter() - prepared)
    return {
        "prepare, median ms": round(statistics.median(prepare) * 1000, 1),
        "prepare, most ms": round(max(prepare) * 1000, 1),
        "unprepare, median ms": round(statistics.median(unprepare) * 1000, 1),
        "unprepare, most ms": round(max(unprepare) * 1000, 1),
    }


async def _claim(client: Client, name: str, device: str) -> ClaimRef:
    """A claim that has this device, and is reserved for a pod."""
    request = {"name": "gpus", "exactly": {"deviceClassName": "gpu.nvidia.com"}}
    document = await client.create(
        kinds.RESOURCE_CLAIM, "default", {"metadata": {"name": name}, "spec": {"devices": {"requests": [request]}}}
    )
    result = {"request": "gpus", "driver": "gpu.nvidia.com", "pool": NODE, "device": device}
    document["status"] = {
        "allocation": {"devices": {"results": [result]}},
        "reservedFor": [{"resource": "pods", "name": name, "uid": "uid"}],
    }
    await client.replace(kinds.RESOURCE_CLAIM, "default", name, document, subresource="status")
    return ClaimRef(namespace="default", name=name, uid=document["metadata"]["uid"])


def _cluster(pipe: Connection) -> None:
    asyncio.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    async with DevCluster() as cluster:
        cluster.store.create(stored.NODE, {"metadata": {"name": NODE}})
        pipe.send(cluster.url)
        await asyncio.to_thread(pipe.recv)
        pipe.send({"resource version": cluster.store.resource_version})
