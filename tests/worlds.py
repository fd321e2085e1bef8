"""The embedded cluster without its wire: a store, controllers and simulated nodes, with time moved by hand.

async with world({"cpu": 1}) as w:
    w.apply(pod("a"))
    w.bind("a", "cpu-000")
    await w.settled()
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

from scheduler.devcluster import kinds
from scheduler.devcluster.claims import FINALIZER
from scheduler.devcluster.clock import ManualClock
from scheduler.devcluster.kinds import Kind
from scheduler.devcluster.kubelet import Habits
from scheduler.devcluster.nodes import SimulatedNodes
from scheduler.devcluster.objects import Obj, format_time, parse_time, with_meta
from scheduler.devcluster.store import Store
from scheduler.devcluster.world import World

EPOCH = parse_time("2026-01-01T00:00:00Z").timestamp()


class Bench:
    """One world under test. Names are in the namespace "default"."""

    def __init__(self, shapes: Mapping[str, int] | None, habits: Habits | None) -> None:
        self.clock = ManualClock()
        uids = itertools.count(1)
        self.store = Store(self._now, lambda: f"00000000-0000-4000-8000-{next(uids) * 7919:012d}")
        self.world = World(shapes, clock=self.clock, habits=habits)
        self.task: asyncio.Task[None] | None = None

    def _now(self) -> str:
        return format_time(datetime.fromtimestamp(EPOCH + self.clock.time(), UTC))

    @property
    def nodes(self) -> SimulatedNodes:
        return self.world.nodes

    async def settled(self) -> None:
        """Until controllers and kubelets have nothing left to do before time moves."""
        assert self.task is not None
        while not self.world.quiet:
            if self.task.done():
                self.task.result()
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        """Let time pass, one due moment after the other, and all that it causes happen."""
        await self.settled()
        end = self.clock.time() + seconds
        while (due := self.clock.next_due) is not None and due <= end:
            self.clock.advance(due - self.clock.time())
            await self.settled()
        self.clock.advance(end - self.clock.time())
        await self.settled()

    def apply(self, *objects: Obj) -> None:
        for obj in objects:
            kind = self.store.kinds.named(obj["apiVersion"], obj["kind"])
            assert kind is not None
            self.store.create(kind, obj)

    def get(self, kind: Kind, name: str) -> Obj:
        return self.store.get(kind, "default" if kind.namespaced else "", name)

    def find(self, kind: Kind, name: str) -> Obj | None:
        return self.store.find(kind, "default" if kind.namespaced else "", name)

    def pod(self, name: str) -> Obj:
        return self.get(kinds.POD, name)

    def pods(self) -> list[Obj]:
        return self.store.all(kinds.POD)

    def phases(self) -> list[str]:
        """The phases of all pods, by name."""
        return [pod["status"]["phase"] for pod in self.pods()]

    def claims(self) -> list[Obj]:
        return self.store.all(kinds.CLAIM)

    def events(self, reason: str) -> list[str]:
        """The messages of the events with this reason."""
        return [event["message"] for event in self.store.all(kinds.EVENT) if event["reason"] == reason]

    def delete(self, kind: Kind, name: str, **options: Any) -> None:
        self.store.delete(kind, "default" if kind.namespaced else "", name, **options)

    def change(self, kind: Kind, name: str, patch: Obj, subresource: str | None = None) -> None:
        namespace = "default" if kind.namespaced else ""
        self.store.patch(kind, namespace, name, "application/merge-patch+json", patch, subresource=subresource)

    # --- what a scheduler does ------------------------------------------------------------------------------------

    def bind(self, name: str, node: str) -> None:
        self.store.bind("default", name, {"target": {"kind": "Node", "name": node}})

    def allocate(self, claim: str, *devices: str, pods: tuple[str, ...] = (), **result: Any) -> None:
        """Give a claim these devices ("driver/pool/device") and reserve it for the pods; `result` joins each result."""
        stored = self.get(kinds.CLAIM, claim)
        request = stored["spec"]["devices"]["requests"][0]["name"]
        results = []
        for device in devices:
            driver, pool, name = device.split("/")
            results.append({"request": request, "driver": driver, "pool": pool, "device": name, **result})
        stored = self.store.update(kinds.CLAIM, with_meta(stored, finalizers=[FINALIZER]))
        status: Obj = {"allocation": {"devices": {"results": results}}}
        if pods:
            status["reservedFor"] = [self.consumer(pod) for pod in pods]
        self.store.update(kinds.CLAIM, {**stored, "status": status}, subresource="status")

    def consumer(self, pod: str) -> Obj:
        return {"resource": "pods", "name": pod, "uid": self.pod(pod)["metadata"]["uid"]}

    def claim_of(self, pod: str, name: str = "gpu") -> str:
        """The ResourceClaim made for the pod's claim of this name."""
        statuses = self.pod(pod)["status"]["resourceClaimStatuses"]
        return next(str(entry["resourceClaimName"]) for entry in statuses if entry["name"] == name)

    def start(self, pod: str, node: str, *devices: str) -> None:
        """Give the pod's claim "gpu" these GPUs of the node, and bind the pod."""
        claims = {entry["name"]: entry.get("resourceClaimName") for entry in self.pod(pod)["spec"]["resourceClaims"]}
        claim = claims["gpu"] or self.claim_of(pod)
        self.allocate(claim, *(f"gpu.nvidia.com/{node}/{device}" for device in devices), pods=(pod,))
        self.bind(pod, node)

    def bind_all(self, node: str) -> None:
        """Bind every pod that waits."""
        for pod in self.pods():
            if not pod["spec"].get("nodeName"):
                self.bind(pod["metadata"]["name"], node)


@contextlib.asynccontextmanager
async def world(shapes: Mapping[str, int] | None = None, habits: Habits | None = None) -> AsyncIterator[Bench]:
    bench = Bench(shapes, habits)
    bench.task = asyncio.create_task(bench.world.run(bench.store))
    try:
        waiting = asyncio.create_task(bench.world.ready.wait())
        await asyncio.wait([waiting, bench.task], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        await bench.settled()
        yield bench
    finally:
        failed = bench.task.done()
        bench.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            if failed:
                bench.task.result()
            await bench.task


def pod_template(claims: Mapping[str, str] | None = None, **spec: Any) -> Obj:
    """metadata and spec of a pod with one container; `claims` maps the pod's names to ResourceClaimTemplates."""
    meta = spec.pop("metadata", {})
    requests = spec.pop("requests", None)
    container: Obj = {"name": "main", "image": "example.com/app:1"}
    if requests:
        container["resources"] = {"requests": requests, "limits": requests}
    if claims:
        container.setdefault("resources", {})["claims"] = [{"name": name} for name in claims]
        spec["resourceClaims"] = [
            {"name": name, "resourceClaimTemplateName": template} for name, template in claims.items()
        ]
    return {"metadata": meta, "spec": {"containers": [container], **spec}}


def pod(name: str, claims: Mapping[str, str] | None = None, **spec: Any) -> Obj:
    template = pod_template(claims, **spec)
    return {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": name, **template["metadata"]}}


def pod_with_claim(name: str, claim: str, **spec: Any) -> Obj:
    """A pod that uses an existing ResourceClaim as "gpu"."""
    made = pod(name, **spec)
    made["spec"]["containers"][0].setdefault("resources", {})["claims"] = [{"name": "gpu"}]
    made["spec"]["resourceClaims"] = [{"name": "gpu", "resourceClaimName": claim}]
    return made


def claim_spec(device_class: str = "gpu.nvidia.com", count: int = 1) -> Obj:
    return {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": device_class, "count": count}}]}}


def claim_template(name: str, **metadata: Any) -> Obj:
    spec: Obj = {"spec": claim_spec()}
    if metadata:
        spec["metadata"] = metadata
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name},
        "spec": spec,
    }


def claim(name: str, **spec: Any) -> Obj:
    kind = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim"}
    return {**kind, "metadata": {"name": name}, "spec": spec or claim_spec()}


def job(name: str, template: Obj | None = None, **spec: Any) -> Obj:
    template = template or pod_template()
    template = {**template, "spec": {"restartPolicy": "Never", **template["spec"]}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": template, **spec}}


def workload(kind: str, name: str, template: Obj | None = None, **spec: Any) -> Obj:
    """A ReplicaSet, Deployment or StatefulSet whose pods are labelled app: <name>."""
    template = template or pod_template()
    labels = {"app": name, **template["metadata"].get("labels", {})}
    template = {**template, "metadata": {**template["metadata"], "labels": labels}}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template, **spec},
    }
