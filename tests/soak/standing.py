"""The cluster that a soak lives in: embedded, in fast time; or a real control plane, in its own."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from scheduler.api import crd_schema, kinds
from scheduler.devcluster.clock import LoopClock
from scheduler.devcluster.kubelet import Habits
from scheduler.devcluster.nodes import SimulatedNodes
from scheduler.devcluster.run import DevCluster
from scheduler.devcluster.shapes import shape_named
from scheduler.kube import identity
from scheduler.kube.client import Client
from scheduler.kube.identity import Identity
from tests.proxy import Proxy
from tests.real.ground import Ground
from tests.real.remote import Remote

TIME_SCALE = 4.0
"""Seconds of embedded cluster time in one of ours: pods run, and orphans wait, that much faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """`client`: an administrator's. `tutti`: who the scheduler is there. `patience`: seconds that everything may take
    to end once all trouble is over. `gates`: the feature gates that are on; None: all that there are."""

    client: Client
    tutti: Identity
    nodes: SimulatedNodes
    patience: float
    gates: frozenset[str] | None = None

    def proxy(self) -> Proxy:
        """A proxy to the cluster; whoever comes through it has the scheduler's rights."""
        return Proxy(target=self.tutti.server, tls=self.tutti.tls, authorization=self.tutti.token)

    async def add_nodes(self, shape: str, count: int) -> list[str]:
        """Nodes of a shape by name; the names of the nodes."""
        return await self.nodes.add(shape_named(shape), count)


@contextlib.asynccontextmanager
async def embedded(folder: Path, *, stop_seconds: float = 0.0) -> AsyncIterator[Standing]:
    """A cluster in this process, with our definitions and a queue. Pods take so long to stop, in its own time."""
    habits = Habits(stop_seconds=stop_seconds)
    async with DevCluster(shapes={}, clock=LoopClock(TIME_SCALE), habits=habits) as served:
        assert served.world is not None
        path = served.kubeconfig(folder / "kubeconfig")
        async with await Client.connect(path) as client:
            for definition in crd_schema.crds():
                await client.create(kinds.CUSTOM_RESOURCE_DEFINITION, None, definition)
            await client.create(kinds.NAMESPACE, None, {"metadata": {"name": "tutti-system"}})
            await _queue(client)
            tutti = await identity.load(path)
            yield Standing(client=client, tutti=tutti, nodes=served.world.nodes, patience=90.0)


@contextlib.asynccontextmanager
async def real(ground: Ground) -> AsyncIterator[Standing]:
    """A real control plane, in which the scheduler has the rights of our manifest and no others."""
    async with ground.nodes() as nodes, await Client.connect(ground.admin) as client:
        await _queue(client)
        try:
            async with Remote(await identity.load(ground.admin)) as api:
                gates = await api.gates()
            tutti = await identity.load(ground.tutti)
            yield Standing(client=client, tutti=tutti, nodes=nodes, patience=300.0, gates=gates)
        finally:
            await ground.restore()


async def _queue(client: Client) -> None:
    api = f"{kinds.QUEUE.group}/{kinds.QUEUE.version}"
    await client.create(kinds.QUEUE, None, {"apiVersion": api, "kind": "Queue", "metadata": {"name": "default"}})
