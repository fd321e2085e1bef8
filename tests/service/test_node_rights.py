"""What the node plugin may write on Nodes, which only a real server enforces: of its own, and in names of its own."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dra_driver.labels import MARK
from dra_driver.mig_labels import State, change
from scheduler.api import kinds
from scheduler.kube import identity
from scheduler.kube.client import ApiError, Client
from tests.real.ground import with_token
from tests.real.install import NAMESPACE, NODE_PLUGIN, install_node_labels, install_node_plugin, node_plugin_token
from tests.real.remote import Remote
from tests.service.conftest import PATIENCE_SECONDS, Cluster, Document

pytestmark = pytest.mark.real
ELSEWHERE = {"metadata": {"labels": {"nvidia.com/gpu.count": "8"}}}


@pytest.fixture
async def nodes(cluster: Cluster) -> list[str]:
    return await cluster.add_nodes("cpu", 2)


@pytest.fixture
async def plugin(cluster: Cluster, nodes: list[str], tmp_path: Path) -> AsyncIterator[Client]:
    """The plugin of the first node, as its pod's token lets it. Its policy is at work."""
    pod: Document = {
        "metadata": {"name": NODE_PLUGIN, "namespace": NAMESPACE},
        "spec": {
            "nodeName": nodes[0],
            "serviceAccountName": NODE_PLUGIN,
            "containers": [{"name": "main", "image": "example.com/plugin:v1"}],
        },
    }
    async with Remote(await identity.load(cluster.kubeconfig)) as api:
        await install_node_plugin(api)
        await install_node_labels(api)
        token = await node_plugin_token(api, await cluster.client.create(kinds.POD, NAMESPACE, pod))
    async with await Client.connect(with_token(cluster.kubeconfig, tmp_path / "plugin", token)) as client:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await refused(client, nodes[1], {"metadata": {"labels": {"nvidia.com/gpu.count": None}}}):
                await asyncio.sleep(0.2)
        yield client


async def refused(client: Client, node: str, patch: dict[str, Any]) -> str:
    """Why the server refuses the patch; "" if it does not."""
    try:
        await client.patch(kinds.NODE, None, node, patch)
    except ApiError as error:
        return str(error)
    return ""


async def test_the_node_plugin_tells_on_its_own_node_how_it_stands_and_what_its_gpus_are(
    plugin: Client, nodes: list[str]
):
    own, _ = nodes
    for patch in (
        change(State.PENDING),
        change(State.SUCCESS),
        change(None),
        {"metadata": {"labels": {"nvidia.com/gpu.count": "8"}, "annotations": {MARK: "gpu.count"}}},
        {"metadata": {"labels": {"nvidia.com/gpu.count": None}, "annotations": {MARK: None}}},
    ):
        assert await refused(plugin, own, patch) == ""


@pytest.mark.parametrize(
    "patch",
    [
        {"metadata": {"labels": {"topology.kubernetes.io/zone": "mine"}}},
        {"metadata": {"labels": {"kubernetes.io/hostname": None}}},
        {"metadata": {"annotations": {"tutti.scheduler/mig": "x"}}},
        {"spec": {"unschedulable": True}},
        {"spec": {"taints": [{"key": "mine", "effect": "NoExecute"}]}},
    ],
)
async def test_the_node_plugin_changes_nothing_else_of_its_node(
    plugin: Client, nodes: list[str], patch: dict[str, Any]
):
    assert "The node plugin changes" in await refused(plugin, nodes[0], patch)


async def test_the_node_plugin_leaves_other_nodes_alone(plugin: Client, nodes: list[str]):
    assert "labels that node alone" in await refused(plugin, nodes[1], ELSEWHERE)
    with pytest.raises(ApiError):
        await plugin.delete(kinds.NODE, None, nodes[0])
