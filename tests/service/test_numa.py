"""Nodes that tell of their NUMA zones: nothing is bound where the kubelet would refuse it."""

import json

from scheduler.api import kinds
from tests.numa import guaranteed, node_topology
from tests.service.conftest import Cluster, Objects, scheduling
from tests.service.test_unreadable import open_definition


async def test_a_pod_waits_until_a_zone_holds_it(cluster: Cluster):
    await cluster.apply(open_definition(kinds.NODE_TOPOLOGY))
    (name,) = await cluster.add_nodes("h100x8")
    await cluster.apply(zones(name, free=4))
    async with scheduling(cluster, stages=("allocate",)):
        await cluster.apply(waiting("small", "4"))
        await cluster.running("default", 1)
        await cluster.apply(waiting("large", "6"))

        def told(pods: Objects) -> bool:
            conditions = pods["default/large"].get("status", {}).get("conditions", ())
            return any("NUMA zones" in condition.get("message", "") for condition in conditions)

        pods = await cluster.until(kinds.POD, told, "the pod is told of the zones")
        assert not pods["default/large"]["spec"].get("nodeName")
        await cluster.apply(zones(name, free=8))
        await cluster.running("default", 2)


def zones(node: str, free: int) -> str:
    """Two zones of 8 CPUs, of which so many are free."""
    return _plain(node_topology(node, {"cpu": (8, free)}, {"cpu": (8, free)}))


def waiting(name: str, cpu: str) -> str:
    return _plain(guaranteed(name, cpu=cpu))


def _plain(document: dict[str, object]) -> str:
    metadata = {"name": document["metadata"]["name"]}  # type: ignore[index]
    return json.dumps({key: value for key, value in document.items() if key != "status"} | {"metadata": metadata})
