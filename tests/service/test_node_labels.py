"""The Node's labels, by the plugin at work; and what its role lets it change of a Node."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from dra_driver.labels import MARK, PREFIX
from scheduler.api import kinds
from scheduler.kube import identity
from scheduler.kube.client import ApiError, Client
from tests.real.ground import with_token
from tests.real.install import NAMESPACE, NODE_PLUGIN, install_node_labels, install_node_plugin, node_plugin_token
from tests.real.remote import Remote
from tests.service.conftest import PATIENCE_SECONDS, Cluster, Objects
from tests.service.test_node_plugin import folder as folder
from tests.service.test_node_plugin import node as node
from tests.service.test_node_plugin import plugin, published


async def test_labels_come_with_the_switch_and_go_with_it_and_nothing_else_is_touched(
    cluster: Cluster, node: str, folder: Path
):
    before = (await cluster.client.get(kinds.NODE, None, node))["metadata"]["labels"]

    def labelled(nodes: Objects) -> bool:
        metadata = nodes[node]["metadata"]
        return MARK in metadata.get("annotations", {})

    async with plugin(cluster, folder, node, "h100x2", node_labels=True):
        metadata = (await cluster.until(kinds.NODE, labelled, "the Node is labelled"))[node]["metadata"]
        assert metadata["labels"]["nvidia.com/gpu.product"] == "NVIDIA-H100-80GB-HBM3"
        assert metadata["labels"]["nvidia.com/gpu.count"] == "2"
        ours = {f"nvidia.com/{key}" for key in metadata["annotations"][MARK].split(",")}
        assert {key for key in metadata["labels"] if key.startswith(PREFIX)} == ours
        assert before.items() <= metadata["labels"].items()
    async with plugin(cluster, folder, node, "h100x2"):
        metadata = (await cluster.until(kinds.NODE, lambda nodes: not labelled(nodes), "it is not"))[node]["metadata"]
        assert not [key for key in metadata["labels"] if key.startswith(PREFIX)]
        assert before.items() <= metadata["labels"].items()


async def test_without_the_switch_the_node_is_not_written(cluster: Cluster, node: str, folder: Path):
    before = await cluster.client.get(kinds.NODE, None, node)
    async with plugin(cluster, folder, node, "h100x2"):
        await published(cluster)
    after = await cluster.client.get(kinds.NODE, None, node)
    assert not [key for key in after["metadata"]["labels"] if key.startswith(PREFIX)]
    assert before["metadata"]["labels"].items() <= after["metadata"]["labels"].items()
    assert MARK not in after["metadata"].get("annotations", {})


def metadata(**changed: Any) -> dict[str, Any]:
    return {"metadata": changed}


@pytest.mark.real
async def test_the_role_lets_the_plugin_change_its_own_labels_of_its_own_node_alone(
    cluster: Cluster, node: str, tmp_path: Path
):
    (other,) = await cluster.add_nodes("cpu")
    spec = {"nodeName": node, "serviceAccountName": NODE_PLUGIN, "containers": [{"name": "main", "image": "example"}]}
    async with Remote(await identity.load(cluster.kubeconfig)) as api:
        await install_node_plugin(api)
        await install_node_labels(api)
        stand_in = metadata(name=NODE_PLUGIN, namespace=NAMESPACE) | {"spec": spec}
        pod = await cluster.client.create(kinds.POD, NAMESPACE, stand_in)
        token = await node_plugin_token(api, pod)
    async with await Client.connect(with_token(cluster.kubeconfig, tmp_path / "plugin", token)) as client:

        async def refused(name: str, change: dict[str, Any]) -> str:
            """Why; a policy is in force a moment after it was made."""
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    try:
                        await client.patch(kinds.NODE, None, name, change)
                    except ApiError as error:
                        return str(error)
                    await asyncio.sleep(0.1)

        mine = metadata(labels={f"{PREFIX}gpu.count": "2"}, annotations={MARK: "gpu.count"})
        assert f"node plugin of node {node} labels that node alone" in await refused(other, mine)
        for change, why in (
            (metadata(labels={"zone": "b"}), "only labels that begin with nvidia.com/"),
            (metadata(annotations={"example.com/other": "x"}), "only its own annotation"),
            ({"spec": {"unschedulable": True}}, "nothing of a Node's spec"),
        ):
            assert why in await refused(node, change)
        await client.patch(kinds.NODE, None, node, mine)
        await client.patch(
            kinds.NODE, None, node, metadata(labels={f"{PREFIX}gpu.count": None}, annotations={MARK: None})
        )
