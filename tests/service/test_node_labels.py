"""The Node's labels, by the plugin at work."""

from pathlib import Path

from dra_driver.labels import MARK
from scheduler.api import kinds
from tests.service.conftest import Cluster, Objects
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
        assert metadata["labels"].keys() - before.keys() == ours
        assert {key: value for key, value in metadata["labels"].items() if key not in ours} == before
    async with plugin(cluster, folder, node, "h100x2"):
        metadata = (await cluster.until(kinds.NODE, lambda nodes: not labelled(nodes), "it is not"))[node]["metadata"]
        assert metadata["labels"] == before


async def test_without_the_switch_the_node_is_not_written(cluster: Cluster, node: str, folder: Path):
    before = await cluster.client.get(kinds.NODE, None, node)
    async with plugin(cluster, folder, node, "h100x2"):
        await published(cluster)
    after = await cluster.client.get(kinds.NODE, None, node)
    assert after["metadata"]["labels"] == before["metadata"]["labels"]
    assert MARK not in after["metadata"].get("annotations", {})
