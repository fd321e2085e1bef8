"""Pods with claims that come in streams, one stream for each scheduler, all for devices of one class."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from scheduler.api import kinds
from scheduler.api.attributes import FENCE_TAINT
from scheduler.api.changes import Change
from scheduler.kube.client import ApiError, Client
from scheduler.kube.reflector import Reflector

NAMESPACE = "default"
TEMPLATE = "contested"
STREAM = "stream"
"""Label of a pod: the name of its stream."""
_RUN_SECONDS = "devcluster.tutti.scheduler/run-seconds"
_CREATIONS_AT_ONCE = 16
Document = dict[str, Any]


class Streams:
    """Keeps so many pods of each stream alive: one that ended is deleted, and another one comes.

    `schedulers`: by stream the name of the scheduler. `run`: how long a pod runs. `ended`: pods that did, by stream and
    phase."""

    def __init__(self, client: Client, schedulers: Mapping[str, str], *, at_once: int, each: int, run: float) -> None:
        self._client = client
        self._schedulers = dict(schedulers)
        self._at_once = at_once
        self._each = each
        self._run = run
        self._created: Counter[str] = Counter()
        self._gone: set[str] = set()
        self._turns = asyncio.Semaphore(_CREATIONS_AT_ONCE)
        self.ended: Counter[tuple[str, str]] = Counter()

    async def flow(self) -> None:
        """Until as many pods as wished have ended in every stream."""
        queue: asyncio.Queue[list[Change]] = asyncio.Queue()
        following = asyncio.create_task(Reflector(client=self._client, kind=kinds.POD).run(queue))
        try:
            async with asyncio.TaskGroup() as group:
                for stream in self._schedulers:
                    for _ in range(self._at_once):
                        self._next(stream, group)
                while sum(self.ended.values()) < self._each * len(self._schedulers):
                    for change in await queue.get():
                        if change.raw:
                            self._see(msgspec.json.decode(change.raw), group)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    def _see(self, pod: Document, group: asyncio.TaskGroup) -> None:
        name, phase = pod["metadata"]["name"], (pod.get("status") or {}).get("phase", "")
        stream = (pod["metadata"].get("labels") or {}).get(STREAM)
        if stream is None or phase not in ("Succeeded", "Failed") or name in self._gone:
            return
        self._gone.add(name)
        self.ended[stream, phase] += 1
        group.create_task(self._delete(name))
        self._next(stream, group)

    def _next(self, stream: str, group: asyncio.TaskGroup) -> None:
        if self._created[stream] < self._each:
            self._created[stream] += 1
            group.create_task(self._create(stream, f"{stream}-{self._created[stream]:05d}"))

    async def _create(self, stream: str, name: str) -> None:
        container = {"name": "main", "image": "i", "resources": {"requests": {"cpu": "1"}, "claims": [{"name": "gpu"}]}}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "labels": {STREAM: stream, "tutti.scheduler/queue": "default"},
                "annotations": {_RUN_SECONDS: str(self._run)},
            },
            "spec": {
                "schedulerName": self._schedulers[stream],
                "restartPolicy": "Never",
                "containers": [container],
                "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": TEMPLATE}],
            },
        }
        async with self._turns:
            await self._client.create(kinds.POD, NAMESPACE, body)

    async def _delete(self, name: str) -> None:
        async with self._turns:
            try:
                await self._client.delete(kinds.POD, NAMESPACE, name)
            except ApiError as error:
                if not error.not_found:
                    raise


async def prepare(client: Client) -> None:
    """The template of the claims: any one GPU."""
    request = {"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com"}}
    metadata = {"name": TEMPLATE, "namespace": NAMESPACE}
    body = {"metadata": metadata, "spec": {"spec": {"devices": {"requests": [request]}}}}
    await client.create(kinds.RESOURCE_CLAIM_TEMPLATE, NAMESPACE, body)


async def fence(client: Client, nodes: list[str]) -> None:
    """The devices of these nodes publish the taint of the fence, as a driver of one's own would."""
    slices, _ = await client.list(kinds.RESOURCE_SLICE)
    taint = {"key": FENCE_TAINT, "effect": "NoSchedule"}
    for found in slices:
        if found["spec"].get("nodeName") in nodes:
            devices = [{**device, "taints": [taint]} for device in found["spec"]["devices"]]
            name = found["metadata"]["name"]
            await client.patch(kinds.RESOURCE_SLICE, None, name, {"spec": {"devices": devices}})


async def fence_by_rule(client: Client, rule: Document, nodes: list[str]) -> None:
    """The same by DeviceTaintRules like this one (of any version that the server has), one for each node's pool."""
    served = replace(kinds.DEVICE_TAINT_RULE, version=rule["apiVersion"].partition("/")[2])
    for node in nodes:
        spec = {**rule["spec"], "deviceSelector": {**rule["spec"]["deviceSelector"], "pool": node}}
        metadata = {"name": f"{rule['metadata']['name']}-{node}"}
        await client.create(served, None, {**rule, "metadata": metadata, "spec": spec})
