"""A cluster on a real control plane, and a backlog of pods on it: nodes of eight GPUs, pods with or without a claim."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from scheduler.api import kinds
from scheduler.api.kinds import Kind
from scheduler.devcluster.shapes import DEVICE_CLASSES, shape_named
from scheduler.kube.client import Client

NAMESPACE = "default"
CLASS, REQUEST, TEMPLATE = "gpu.nvidia.com", "gpu", "gpu"
QUEUE = "default"
AT_ONCE = 32
_LOOK_SECONDS = 0.2

NATIVE_GROUP = replace(kinds.NATIVE_POD_GROUP, version="v1alpha2")
"""The gang API of Kubernetes 1.36."""

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What waits to be placed. `claims`: each pod has a claim for one GPU, from a template; otherwise it asks for CPU
    alone. `gang`: pods of each gang, 1 for none."""

    nodes: int
    pods: int
    claims: bool
    gang: int = 1

    @property
    def names(self) -> list[str]:
        return [f"pod-{number:06d}" for number in range(self.pods)]

    def group_of(self, number: int) -> str:
        """The gang of the number-th pod; "" if there are no gangs."""
        return f"gang-{number // self.gang:05d}" if self.gang > 1 else ""


async def furnish(client: Client, load: Load) -> None:
    """The nodes, what their drivers publish, the class, the template and the queue; until all nodes may be used."""
    for device_class in DEVICE_CLASSES:
        await client.create(kinds.DEVICE_CLASS, None, device_class)
    await client.create(kinds.RESOURCE_CLAIM_TEMPLATE, NAMESPACE, _template())
    api = f"{kinds.QUEUE.group}/{kinds.QUEUE.version}"
    await client.create(kinds.QUEUE, None, {"apiVersion": api, "kind": "Queue", "metadata": {"name": QUEUE}})
    turns = asyncio.Semaphore(AT_ONCE)
    machines = list(shape_named("h100x8").machines(load.nodes))

    async def add(node: Document, slices: Iterable[Document]) -> None:
        async with turns:
            await client.create(kinds.NODE, None, node)
            for published in slices:
                await client.create(kinds.RESOURCE_SLICE, None, published)

    await asyncio.gather(*(add(machine.node, machine.slices) for machine in machines))
    while any(node["spec"].get("taints") for node in (await client.list(kinds.NODE))[0]):
        await asyncio.sleep(_LOOK_SECONDS)


async def pile_up(client: Client, load: Load, scheduler_name: str) -> None:
    """Create the pods; until each of them has its claim."""
    for kind, group in _groups(load, scheduler_name):
        await client.create(kind, NAMESPACE, group)
    turns = asyncio.Semaphore(AT_ONCE)

    async def add(pod: Document) -> None:
        async with turns:
            await client.create(kinds.POD, NAMESPACE, pod)

    await asyncio.gather(
        *(add(_pod(load, name, load.group_of(number), scheduler_name)) for number, name in enumerate(load.names))
    )
    while load.claims and any(
        not pod["status"].get("resourceClaimStatuses") for pod in (await client.list(kinds.POD, NAMESPACE))[0]
    ):
        await asyncio.sleep(_LOOK_SECONDS)


def _template() -> Document:
    request = {"name": REQUEST, "exactly": {"deviceClassName": CLASS, "count": 1}}
    return {
        "metadata": {"name": TEMPLATE, "namespace": NAMESPACE},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }


def _groups(load: Load, scheduler_name: str) -> Iterator[tuple[Kind, Document]]:
    """Each gang in the words of the scheduler that is to place it."""
    if load.gang == 1:
        return
    ours = scheduler_name == "tutti"
    kind = kinds.POD_GROUP if ours else NATIVE_GROUP
    spec = {"minMember": load.gang} if ours else {"schedulingPolicy": {"gang": {"minCount": load.gang}}}
    for name in dict.fromkeys(load.group_of(number) for number in range(load.pods)):
        yield kind, {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": name}, "spec": spec}


def _pod(load: Load, name: str, group: str, scheduler_name: str) -> Document:
    metadata: Document = {"name": name, "namespace": NAMESPACE}
    resources: Document = {"requests": {"cpu": "1", "memory": "1Gi"}}
    spec: Document = {"schedulerName": scheduler_name, "restartPolicy": "Never"}
    if load.claims:
        resources["claims"] = [{"name": "gpu"}]
        spec["resourceClaims"] = [{"name": "gpu", "resourceClaimTemplateName": TEMPLATE}]
    if group and scheduler_name == "tutti":
        metadata["labels"] = {"tutti.scheduler/pod-group": group}
    elif group:
        spec["schedulingGroup"] = {"podGroupName": group}
    spec["containers"] = [{"name": "main", "image": "example.com/trainer:v1", "resources": resources}]
    return {"metadata": metadata, "spec": spec}
