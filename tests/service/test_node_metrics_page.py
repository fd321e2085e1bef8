"""The plugin's page for Prometheus, over HTTP."""

import socket
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dra_driver.facts import EventKind, GpuEvent
from dra_driver.probe import ProbeError
from scheduler.api import kinds
from tests.node.kubelet import Refused
from tests.service.conftest import Cluster
from tests.service.test_node_health import hands, tainted
from tests.service.test_node_plugin import allocate, claim, exactly, plugin, published
from tests.service.test_node_plugin import folder as folder
from tests.service.test_node_plugin import node as node


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def page(port: int) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Labels and value of all series, by name."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        assert answer.status == 200
        text = await answer.text()
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return found


async def test_a_claim_is_measured_while_it_holds_its_device(cluster: Cluster, node: str, folder: Path):
    port = free_port()
    async with plugin(cluster, folder, node, "h100x2", metrics_port=port, metrics_seconds=0) as here:
        await published(cluster)
        gpus = hands(folder, node)
        gpus.work(gpus.uuids[1], 400)
        for name in ("held", "rival"):
            await claim(cluster, name, exactly("gpus", "gpu.nvidia.com"))
        held, rival = [await allocate(cluster, name, node, "gpu-1") for name in ("held", "rival")]
        await here.driver.devices(held)
        with pytest.raises(Refused):
            await here.driver.devices(rival)

        told = await page(port)

        ((labels, busy),) = told["tutti_node_claim_device_busy_ratio"]
        assert busy == 0.4
        assert (labels["claim_uid"], labels["pod"], labels["gpu"]) == (held.uid, "held", gpus.uuids[1])
        assert ({"operation": "prepare", "kind": "PrepareError"}, 1) in told["tutti_node_claim_errors_total"]
        assert ({"operation": "prepare"}, 2) in told["tutti_node_claim_seconds_count"]
        assert ({"kind": "gpu"}, 1) in told["tutti_node_prepared_devices"]

        gpus.inject(GpuEvent(gpu=gpus.uuids[1], kind=EventKind.XID, code=119))
        await cluster.until(kinds.RESOURCE_SLICE, tainted, "the GPU has a taint")
        told = await page(port)
        assert [value for _, value in told["tutti_node_claim_device_healthy"]] == [0]
        event = {"gpu": gpus.uuids[1], "kind": "xid", "code": "119"}
        assert (event, 1) in told["tutti_node_gpu_events_total"]

        await here.driver.give_back(held)
        assert "tutti_node_claim_device_healthy" not in await page(port)


async def test_a_port_that_is_taken_stops_the_start(cluster: Cluster, node: str, folder: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ProbeError, match=f"Metrics at 127.0.0.1, port {port}: .*; set metrics_port to a free port"):
            async with plugin(cluster, folder, node, "h100x1", metrics_port=port):
                pass
