"""The way to the API server breaks; what happened meanwhile is not missed."""

from pathlib import Path

from scheduler.api import kinds
from tests.service.conftest import Cluster, scheduling
from tests.service.manifests import gang, template


async def test_what_happens_while_the_server_cannot_be_reached_is_seen_afterwards(cluster: Cluster, tmp_path: Path):
    await cluster.add_nodes("h100x8")
    await cluster.apply(template(count=4))
    async with cluster.proxy() as proxy, scheduling(cluster, proxy.kubeconfig(tmp_path / "through-proxy")):
        await cluster.apply(gang("first", 2))
        await cluster.running("default", 2)

        proxy.cut_off()
        await cluster.delete(kinds.JOB, "default/first")
        await cluster.running("default", 0)
        await cluster.apply(gang("second", 2))
        proxy.cut = False

        pods = await cluster.running("default", 2)
        assert {pod["metadata"]["labels"]["tutti.scheduler/pod-group"] for pod in pods.values()} == {"second"}
