"""The node plugin publishes what its node offers: seconds until all slices stand, and the memory of its process.

The machine is made up and can be cut (dynamic MIG); the cluster is the embedded one, in a process of its own. The first
run connects and reads the cluster's API for the first time; each run begins with no slice published.
"""

import argparse
import asyncio
import logging
import os
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import structlog

from dra_driver.fake import FakeGpus
from dra_driver.host import fake_host
from dra_driver.inventory import Offer, inventory
from dra_driver.publisher import Publisher
from dra_driver.slices import Target
from scheduler.api import kinds
from scheduler.devcluster import kinds as stored
from scheduler.devcluster.run import DevCluster
from scheduler.kube.client import Client
from tests.perf.fill import write_kubeconfig
from tests.perf.processes import Child, peak_mb

NODE = "perf-1"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--machine", default="h100x8", help="boards with counts, as the plugin's --fake takes them")
    parser.add_argument("--runs", type=int, default=5)


def run(options: argparse.Namespace) -> dict[str, Any]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    server = Child(_cluster)
    with tempfile.TemporaryDirectory() as folder:
        kubeconfig = Path(folder) / "kubeconfig"
        write_kubeconfig(kubeconfig, server.up)
        figures = asyncio.run(_published(kubeconfig, Path(folder) / "host", options))
    return {"machine": options.machine, **figures, "embedded server": server.stop()}


async def _published(kubeconfig: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    gpus = FakeGpus(options.machine, node=NODE)
    host = fake_host(folder, gpus.gpus())
    made, stand, sizes = [], [], {}
    for _ in range(options.runs):
        began = time.perf_counter()
        known = gpus.gpus()
        facts = host.facts(gpu.pci_bus for gpu in known)
        offered = inventory(NODE, gpus.driver(), known, facts, Offer(dynamic_mig=True))
        made.append(time.perf_counter() - began)
        async with await Client.connect(kubeconfig) as client:
            node = await client.get(kinds.NODE, None, NODE)
            publisher = Publisher(client, Target(node=NODE, node_uid=node["metadata"]["uid"]))
            publisher.want(offered)
            running = asyncio.create_task(publisher.run())
            await publisher.settled()
            stand.append(time.perf_counter() - began)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            sizes = await _cleared(client)
    return {
        "devices": len(offered.devices),
        **sizes,
        "seconds to look and make the inventory": round(statistics.median(made), 4),
        "seconds until all is published, first": round(stand[0], 3),
        "seconds until all is published, median": round(statistics.median(stand), 3),
        "peak memory MB": peak_mb(os.getpid()),
    }


async def _cleared(client: Client) -> dict[str, int]:
    """Take all slices away, and tell how many and how large they were."""
    items, _ = await client.list_raw(kinds.RESOURCE_SLICE)
    for item in items:
        await client.delete(kinds.RESOURCE_SLICE, None, msgspec.json.decode(item)["metadata"]["name"])
    return {"slices": len(items), "largest slice, bytes": max(map(len, items))}


def _cluster(pipe: Connection) -> None:
    asyncio.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    async with DevCluster() as cluster:
        cluster.store.create(stored.NODE, {"metadata": {"name": NODE}})
        pipe.send(cluster.url)
        await asyncio.to_thread(pipe.recv)
        pipe.send({"resource version": cluster.store.resource_version})
