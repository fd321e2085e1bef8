"""The life of a cluster, from one number: gangs come, end, fail, are deleted; nodes, pools, devices come and go."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from scheduler.api import kinds
from scheduler.api.kinds import Kind
from scheduler.kube.client import ApiError, Client
from tests.soak.asks import Ask
from tests.soak.rivals import FEWER, GRACE, MORE, MOST_NODES, PACE, SCARCE, Rivals, Terms

NAMESPACE = "default"
GROUP = "tutti.scheduler/pod-group"
_API = f"{kinds.POD_GROUP.group}/{kinds.POD_GROUP.version}"
Document = dict[str, Any]

FIRST = (("h100x8", 2), ("a100-mig", 1), ("h100x8-mig", 1), ("cpu", 1))
LAST = (("h100x8", 4), ("a100-mig", 2), ("h100x8-mig", 1))
"""Nodes added when all trouble is over: every gang fits then."""


class Life:
    """`await begin()`, `await go_on(seconds)`, `await settle()`: then all that is asked for can run.

    `asks`: what gangs may ask for. `rivals`: what they are to each other. `came`: gangs by name with their minimum;
    `terms`: on which they run. `tell` hears what happens, for whoever reads about a failure."""

    def __init__(
        self,
        seed: str,
        client: Client,
        add_nodes: Callable[[str, int], Awaitable[list[str]]],
        asks: Sequence[Ask],
        rivals: Rivals,
        tell: Callable[[str], None],
    ) -> None:
        self._dice = random.Random(f"{seed}/life")
        self._client, self._add_nodes, self._asks, self._tell = client, add_nodes, asks, tell
        self._rivals = rivals
        self._nodes: list[str] = []
        self.terms: dict[str, Terms] = {}
        self.came: dict[str, int] = {}
        self.gone: set[str] = set()

    async def begin(self) -> None:
        """Queues, nodes and templates."""
        await self._rivals.begin(self._create)
        for shape, count in FEWER if self._rivals.makes_room else FIRST:
            self._nodes += await self._add_nodes(shape, count)
        for ask in self._asks:
            if ask.requests and not ask.together:
                body = {"metadata": {"name": ask.name, "namespace": NAMESPACE}, "spec": {"spec": ask.claim}}
                await self._create(kinds.RESOURCE_CLAIM_TEMPLATE, body)

    async def go_on(self, seconds: float) -> None:
        """Let one thing after the other happen."""
        happenings: dict[Callable[[], Awaitable[str]], int] = {
            self._gang_comes: 12,
            self._gang_is_deleted: 2,
            self._node_closes: 1,
            self._nodes_open: 1,
            self._node_goes: 1,
            self._node_comes: 1,
            self._device_is_tainted: 1,
            self._pool_is_published_anew: 1,
        }
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            await asyncio.sleep(self._dice.uniform(0.05, 1.0))
            (happening,) = self._dice.choices(list(happenings), weights=list(happenings.values()))
            self._tell(await happening())

    async def settle(self) -> None:
        """Room for everybody: nodes open, taints off, new nodes."""
        await self._nodes_open()
        for shape, count in LAST:
            self._nodes += await self._add_nodes(shape, count)

    async def end(self) -> None:
        """Delete every gang that is left."""
        for name in sorted(self.came.keys() - self.gone):
            await self._delete(name)

    # --- what happens ---------------------------------------------------------------------------------------------

    async def _gang_comes(self) -> str:
        dice, name = self._dice, f"gang-{len(self.came):03d}"
        pods = dice.choice((1, 1, 2, 2, 3, 4))
        (ask,) = dice.choices(self._asks, weights=[self._weight(each) for each in self._asks])
        minimum = dice.choice((pods, pods, pods, max(1, pods - 1)))
        minimum = self._rivals.minimum(minimum)
        terms = self._rivals.terms(ask.name, pods, minimum)
        self.came[name], self.terms[name] = minimum, terms
        if ask.together:
            claim = {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": ask.claim}
            await self._create(kinds.RESOURCE_CLAIM, claim)
        makes_room = self._rivals.makes_room
        if terms.budget is not None:
            body = {"metadata": {"name": name}, "spec": {**terms.budget, "selector": {"matchLabels": {GROUP: name}}}}
            await self._create(kinds.DISRUPTION_BUDGET, body)
        await self._create(kinds.POD_GROUP, _group(name, minimum, terms, GRACE if makes_room else ""))
        run, fails = dice.uniform(2, 12), dice.random() < 0.15
        job = _job(name, pods, ask, run=run * PACE if makes_room and not fails else run, fails=fails)
        if makes_room:
            job["spec"]["podFailurePolicy"] = _NO_FAULT_OF_ITS_OWN
            job["spec"]["template"]["spec"]["priorityClassName"] = terms.priority_class
        await self._create(kinds.JOB, job)
        return f"{name} comes: {pods} pods, at least {minimum}, asking for {ask.name}{_on(terms, makes_room)}"

    def _weight(self, ask: Ask) -> int:
        return ask.weight * (MORE if self._rivals.makes_room and ask.name in SCARCE else 1)

    async def _gang_is_deleted(self) -> str:
        alive = sorted(self.came.keys() - self.gone)
        if not alive:
            return "no gang to delete"
        name = self._dice.choice(alive)
        await self._delete(name)
        return f"{name} is deleted"

    async def _delete(self, name: str) -> None:
        self.gone.add(name)
        for kind in (kinds.JOB, kinds.POD_GROUP, kinds.RESOURCE_CLAIM, kinds.DISRUPTION_BUDGET):
            await self._forgiving(self._client.delete(kind, NAMESPACE, name, propagation="Background"))

    async def _node_closes(self) -> str:
        node = self._dice.choice(self._nodes)
        await self._patch(kinds.NODE, node, {"spec": {"unschedulable": True}})
        return f"{node} is cordoned"

    async def _nodes_open(self) -> str:
        for node in self._nodes:
            await self._patch(kinds.NODE, node, {"spec": {"unschedulable": None}})
        for slice_ in (await self._client.list(kinds.RESOURCE_SLICE))[0]:
            devices = [{key: value for key, value in d.items() if key != "taints"} for d in _devices(slice_)]
            if devices != _devices(slice_):
                await self._patch(kinds.RESOURCE_SLICE, slice_["metadata"]["name"], {"spec": {"devices": devices}})
        return "all nodes are open, all taints are off"

    async def _node_goes(self) -> str:
        if len(self._nodes) < 3:
            return "no node to spare"
        node = self._nodes.pop(self._dice.randrange(len(self._nodes)))
        await self._forgiving(self._client.delete(kinds.NODE, None, node))
        return f"{node} is gone"

    async def _node_comes(self) -> str:
        if len(self._nodes) > (MOST_NODES if self._rivals.makes_room else 6):
            return "nodes enough"
        added = await self._add_nodes(self._dice.choice(("h100x8", "h100x8", "a100-mig", "h100x8-mig")), 1)
        self._nodes += added
        return f"{added[0]} comes"

    async def _device_is_tainted(self) -> str:
        slice_ = await self._some_slice()
        if slice_ is None:
            return "no device to taint"
        devices, effect = _devices(slice_), self._dice.choice(("NoSchedule", "NoExecute"))
        number = self._dice.randrange(len(devices))
        taint = {"key": "example.com/broken", "value": "yes", "effect": effect}
        devices[number] = {**devices[number], "taints": [taint]}
        await self._patch(kinds.RESOURCE_SLICE, slice_["metadata"]["name"], {"spec": {"devices": devices}})
        return f"{slice_['metadata']['name']}/{devices[number]['name']} is tainted {effect}"

    async def _pool_is_published_anew(self) -> str:
        """With a higher generation, slice by slice, as drivers do: the pool is incomplete for a moment."""
        some = await self._some_slice()
        if some is None:
            return "no pool to publish anew"
        pool, driver = some["spec"]["pool"], some["spec"]["driver"]
        for slice_ in (await self._client.list(kinds.RESOURCE_SLICE))[0]:
            if slice_["spec"]["pool"]["name"] == pool["name"] and slice_["spec"]["driver"] == driver:
                anew = {"spec": {"pool": {**slice_["spec"]["pool"], "generation": pool["generation"] + 1}}}
                await self._patch(kinds.RESOURCE_SLICE, slice_["metadata"]["name"], anew)
                await asyncio.sleep(self._dice.uniform(0, 0.2))
        return f"pool {driver}/{pool['name']} is at generation {pool['generation'] + 1}"

    async def _some_slice(self) -> Document | None:
        slices, _ = await self._client.list(kinds.RESOURCE_SLICE)
        slices = sorted((s for s in slices if _devices(s)), key=lambda s: s["metadata"]["name"])
        return self._dice.choice(slices) if slices else None

    async def _create(self, kind: Kind, body: Document) -> None:
        await self._client.create(kind, NAMESPACE if kind.namespaced else None, body)

    async def _patch(self, kind: Kind, name: str, body: Document) -> None:
        await self._forgiving(self._client.patch(kind, None, name, body))

    async def _forgiving(self, request: Awaitable[object]) -> None:
        """What is gone already, or is being deleted, need not be changed."""
        try:
            await request
        except ApiError as error:
            if not error.not_found:
                raise


def _devices(slice_: Document) -> list[Document]:
    return list(slice_["spec"].get("devices") or ())


_NO_FAULT_OF_ITS_OWN = {
    "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
}
"""A pod that made way for others is no failure of its Job."""


def _on(terms: Terms, makes_room: bool) -> str:
    if not makes_room:
        return ""
    firm = "" if terms.preemptible else ", not to be stopped"
    return f"; queue {terms.queue}, priority {terms.priority}{firm}, budget {terms.budget}"


def _group(name: str, minimum: int, terms: Terms, grace: str) -> Document:
    spec: Document = {"minMember": minimum, "queue": terms.queue}
    spec |= {"stalenessGracePeriod": grace} if grace else {}
    spec |= {"priorityClassName": terms.priority_class} if terms.priority_class else {}
    spec |= {} if terms.preemptible else {"preemptibility": "non-preemptible"}
    meta = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": _API, "kind": "PodGroup", "metadata": meta, "spec": spec}


def _job(name: str, pods: int, ask: Ask, *, run: float, fails: bool) -> Document:
    annotations = {"devcluster.tutti.scheduler/run-seconds": f"{run:.1f}"}
    annotations |= {"devcluster.tutti.scheduler/exit-code": "1"} if fails else {}
    containers = [_container(number, resources) for number, resources in enumerate(ask.containers)]
    spec: Document = {"schedulerName": "tutti", "restartPolicy": "Never", "containers": containers}
    if ask.requests:
        source = {"resourceClaimName": name} if ask.together else {"resourceClaimTemplateName": ask.name}
        spec["resourceClaims"] = [{"name": "parts", **source}]
        containers[0]["resources"]["claims"] = [{"name": "parts"}]
    template = {"metadata": {"labels": {GROUP: name}, "annotations": annotations}, "spec": spec}
    job = {"parallelism": pods, "completions": pods, "backoffLimit": 2, "template": template}
    return {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": job}


def _container(number: int, resources: Mapping[str, str]) -> Document:
    amounts: Document = {"requests": {"cpu": "1", "memory": "1Gi", **resources}, "limits": dict(resources)}
    return {"name": f"main-{number}", "image": "example.com/trainer:v1", "resources": amounts}
