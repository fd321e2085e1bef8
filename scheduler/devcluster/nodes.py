"""Simulated nodes: machines that appear in the cluster, and one loop that is the kubelet of every node.

It speaks the API only (`access.Api`), so it can stand before any API server, and it checks what a real kubelet and its
drivers check: resources, reservations, and that no device is handed out twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from scheduler.devcluster import kinds
from scheduler.devcluster.access import Api, StatusError
from scheduler.devcluster.clock import Clock, Timer
from scheduler.devcluster.kubelet import Habits, Kubelets
from scheduler.devcluster.mirror import Mirror, key_of
from scheduler.devcluster.objects import Obj, field_of, name_of, uid_of
from scheduler.devcluster.pods import claim_keys, is_done, node_of
from scheduler.devcluster.prepare import Catalogue, Fault, catalogue
from scheduler.devcluster.shapes import DEVICE_CLASSES, Shape, owned_by
from scheduler.devcluster.shelf import Shelf, volume_claims
from scheduler.devcluster.work import Work

# How long the pod garbage collector of a real cluster lets a node be missing before it removes the node's pods.
ORPHAN_SECONDS = 40.0
_EVERYWHERE = "*"


class SimulatedNodes:
    """The kubelets of all nodes of a cluster. `workers`: writes under way at once; 1 where they take no time."""

    def __init__(self, api: Api, clock: Clock, habits: Habits | None = None, *, workers: int = 1) -> None:
        self._api, self._clock = api, clock
        self._nodes, self._slices = Mirror(api, kinds.NODE), Mirror(api, kinds.SLICE)
        self._claims, self._pods = Mirror(api, kinds.CLAIM), Mirror(api, kinds.POD)
        self._volume_claims, self._volumes = Mirror(api, kinds.VOLUME_CLAIM), Mirror(api, kinds.VOLUME)
        self._mirrors = (
            self._nodes,
            self._slices,
            self._claims,
            self._pods,
            self._volume_claims,
            self._volumes,
        )
        self._slices.index("node", lambda slice_: (slice_["spec"].get("nodeName") or _EVERYWHERE,))
        self._pods.index("node", lambda pod: (node_of(pod),) if node_of(pod) else ())
        self._pods.index("claims", lambda pod: claim_keys(pod) if node_of(pod) and not is_done(pod) else ())
        self._pods.index("volume claims", _mounted)
        self._volume_claims.listen(self._volume_claim_changed)
        self._volumes.listen(self._volume_changed)
        self._nodes.listen(self._node_changed)
        self._slices.listen(self._slice_changed)
        self._claims.listen(self._claim_changed)
        self._pods.listen(self._pod_changed)
        self._work = Work("kubelet", self._sync, workers=workers)
        self._kubelets = Kubelets(
            api,
            clock,
            habits or Habits(),
            pods=self._pods,
            claims=self._claims,
            shelf=Shelf(self._volume_claims, self._volumes),
            stock_of=self._stock_of,
            look=self._work.add,
        )
        self._orphans: dict[str, Timer | None] = {}
        self._units: Counter[str] = Counter()

    @property
    def refusals(self) -> Counter[str]:
        """Pods and claims that were refused, counted by reason (`OutOfcpu`, `double-allocation`, ...)."""
        return self._kubelets.refusals

    @property
    def double_allocations(self) -> int:
        """How often a claim was refused because what it was given was prepared for another one."""
        return self.refusals[Fault.TAKEN.value]

    @property
    def foreign_devices(self) -> int:
        """How often a pod came to a node that does not have a device of its claim."""
        return self.refusals[Fault.FOREIGN.value]

    @property
    def quiet(self) -> bool:
        """True when all that the kubelets know of is done, but for what takes time."""
        return all(mirror.synced.is_set() for mirror in self._mirrors) and self._work.quiet

    def prepared_on(self, node: str) -> list[str]:
        """The uids of the claims that are prepared on a node, sorted."""
        station = self._kubelets.stations.get(node)
        return station.prepared.claim_uids() if station is not None else []

    async def add_classes(self) -> None:
        """Create the DeviceClasses of the simulated drivers; those that exist stay as they are."""
        for device_class in DEVICE_CLASSES:
            try:
                await self._api.create(kinds.DEVICE_CLASS, device_class)
            except StatusError as error:
                if error.code != 409:
                    raise

    async def add(self, shape: Shape, count: int = 1) -> list[str]:
        """Add `count` units of a shape to the cluster; returns the names of their nodes. StatusError 409 when a node
        of such a name exists."""
        added = []
        for machine in shape.machines(count, first=self._units[shape.name]):
            node = await self._api.create(kinds.NODE, _seen(machine.node, self._api.now()))
            for slice_ in machine.slices:
                await self._api.create(kinds.SLICE, owned_by(slice_, node))
            added.append(machine.name)
        self._units[shape.name] += count
        return added

    async def run(self) -> None:
        """Serve all nodes until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for mirror in self._mirrors:
                    group.create_task(mirror.run())
                for mirror in self._mirrors:
                    await mirror.synced.wait()
                group.create_task(self._work.run())
        finally:
            self._kubelets.stop()
            for timer in self._orphans.values():
                if timer is not None:
                    timer.cancel()

    # --- what wakes a kubelet -------------------------------------------------------------------------------------

    def _pod_changed(self, before: Obj | None, after: Obj | None) -> None:
        pod = after if after is not None else before
        assert pod is not None
        if node_of(pod):
            self._work.add(key_of(pod))

    def _node_changed(self, before: Obj | None, after: Obj | None) -> None:
        if before is not None and after is not None:
            return
        node = after if after is not None else before
        assert node is not None
        if after is None:
            station = self._kubelets.stations.get(name_of(node))
            if station is not None:
                station.stock = None
        for key in self._pods.keys("node", name_of(node)):
            self._work.add(key)

    def _slice_changed(self, before: Obj | None, after: Obj | None) -> None:
        slice_ = after if after is not None else before
        assert slice_ is not None
        node = slice_["spec"].get("nodeName")
        for name in [node] if node else sorted(self._kubelets.stations):
            station = self._kubelets.stations.get(name)
            if station is not None:
                station.stock = None
                self._kubelets.wake_waiting(self._pods.keys("node", name))

    def _claim_changed(self, _before: Obj | None, after: Obj | None) -> None:
        if after is not None:
            self._kubelets.wake_waiting(self._pods.keys("claims", key_of(after)))

    def _volume_changed(self, _before: Obj | None, after: Obj | None) -> None:
        reference = field_of(after, "spec", "claimRef")
        if reference:
            key = f"{reference.get('namespace')}/{reference.get('name')}"
            self._kubelets.wake_waiting(self._pods.keys("volume claims", key))

    def _volume_claim_changed(self, _before: Obj | None, after: Obj | None) -> None:
        if after is not None:
            self._kubelets.wake_waiting(self._pods.keys("volume claims", key_of(after)))

    async def _sync(self, key: str) -> None:
        pod = self._pods.get(key)
        self._kubelets.drop_gone(key, pod)
        if pod is None or not node_of(pod):
            return
        node = self._nodes.get(node_of(pod))
        if node is None:
            self._kubelets.lose(key)
            await self._miss_node(key, pod)
            return
        timer = self._orphans.pop(uid_of(pod), None)
        if timer is not None:
            timer.cancel()
        await self._kubelets.sync(pod, node)

    async def _miss_node(self, key: str, pod: Obj) -> None:
        """A pod whose node does not exist is removed when the node stays away."""
        uid = uid_of(pod)
        if uid not in self._orphans:

            def over() -> None:
                self._orphans[uid] = None
                self._work.add(key)

            self._orphans[uid] = self._clock.call_later(ORPHAN_SECONDS, over)
        elif self._orphans[uid] is None:
            del self._orphans[uid]
            await self._pods.remove(pod, grace_seconds=0)

    def _stock_of(self, node: Obj) -> Catalogue:
        name = name_of(node)
        return catalogue(node, self._slices.under("node", name) + self._slices.under("node", _EVERYWHERE))


def _mounted(pod: Obj) -> list[str]:
    """The volume claims of a pod that is on a node and has not ended."""
    return volume_claims(pod) if node_of(pod) and not is_done(pod) else []


def _seen(node: Obj, now: str) -> Obj:
    """The node with the time at which its kubelet reported it."""
    stamps = {"lastHeartbeatTime": now, "lastTransitionTime": now}
    conditions = [{**condition, **stamps} for condition in node["status"]["conditions"]]
    return {**node, "status": {**node["status"], "conditions": conditions}}
