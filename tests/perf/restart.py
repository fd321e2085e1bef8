"""A scheduler starts where much runs already: seconds from its start to its first bind, and its memory.

The cluster is the embedded one, its store filled directly. Most of the pods run, a third of them with a GPU through a
claim and in gangs of eight; one more gang of eight waits. Two processes beside the one that looks on.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import psutil

from scheduler.api import kinds
from scheduler.devcluster.run import DevCluster, new_store
from scheduler.kube.client import Client
from tests.perf.crowd import fill
from tests.perf.fill import write_kubeconfig
from tests.perf.processes import Child, environment, peak_mb

VOLCANO_SECONDS = 497
"""Reported for Volcano: 5,000 nodes and 100,000 pods (its issue 5819)."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--pods", type=int, default=100_000)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the scheduler")


def run(options: argparse.Namespace) -> dict[str, Any]:
    server = Child(_cluster, options.nodes, options.pods)
    with tempfile.TemporaryDirectory() as folder:
        kubeconfig = Path(folder) / "kubeconfig"
        write_kubeconfig(kubeconfig, server.up)
        figures = asyncio.run(_restart(kubeconfig, Path(folder) / "log", options.set))
    return {"nodes": options.nodes, "pods": options.pods, **figures, "embedded server": server.stop()}


async def _restart(kubeconfig: Path, log: Path, settings: list[str]) -> dict[str, Any]:
    flags = [part for one in ("leader_election=false", "web_enabled=false", *settings) for part in ("--set", one)]
    command = [sys.executable, "-m", "scheduler", "run", f"--kubeconfig={kubeconfig}", *flags]
    async with await Client.connect(kubeconfig) as client:
        version = (await client.list_raw(kinds.QUEUE))[1]
        async with client.watch(kinds.POD, {"resourceVersion": version}, silence_seconds=600) as chunks:
            with log.open("wb") as said:
                process = await asyncio.create_subprocess_exec(*command, stdout=said, stderr=said, env=environment())
            began, wall = time.perf_counter(), time.time()
            try:
                first = await _first_bind(chunks)
                used, peak = psutil.Process(process.pid).cpu_times(), peak_mb(process.pid)
            finally:
                process.kill()
                await process.wait()
    return {
        "seconds until the cluster is known": round(_known(log) - wall, 2),
        "seconds until the first bind": round(first - began, 2),
        "Volcano's": VOLCANO_SECONDS,
        "cpu seconds": round(used.user + used.system, 2),
        "peak memory MB": peak,
    }


async def _first_bind(chunks: Any) -> float:
    """The first change of any pod is one: nobody else writes."""
    async for _ in chunks:
        return time.perf_counter()
    raise RuntimeError("the watch ended early")


def _known(log: Path) -> float:
    """When the scheduler said that it knows the cluster; seconds since 1970."""
    for line in log.read_text().splitlines():
        event = msgspec.json.decode(line)
        if event["event"] == "the cluster is known":
            return datetime.fromisoformat(event["timestamp"]).timestamp()
    raise RuntimeError(f"the scheduler never knew the cluster: {log.read_text()[-2000:]}")


# --- the cluster ---


def _cluster(pipe: Connection, nodes: int, pods: int) -> None:
    asyncio.run(_serve(pipe, nodes, pods))


async def _serve(pipe: Connection, nodes: int, pods: int) -> None:
    store = new_store()
    fill(store, nodes, pods)
    async with DevCluster(store=store) as cluster:
        pipe.send(cluster.url)
        await asyncio.to_thread(pipe.recv)
        pipe.send({"resource version": store.resource_version})
