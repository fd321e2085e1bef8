"""The whole service on a cluster that is reached by its kubeconfig alone: embedded, or real with `--cluster real`."""

import asyncio
import contextlib
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from scheduler import config, service
from scheduler.api import changes, crd_schema, kinds
from scheduler.api.kinds import Kind
from scheduler.cycle import CycleReport
from scheduler.devcluster.run import DevCluster
from scheduler.devcluster.shapes import shape_named
from scheduler.kube import identity
from scheduler.kube.client import ApiError, Client
from scheduler.kube.reflector import Reflector
from tests.proxy import Meddling, Proxy, Write, leave_alone
from tests.real.ground import Ground, ground
from tests.real.remote import Remote

PATIENCE_SECONDS = 30.0
Document = dict[str, Any]
Objects = Mapping[str, Document]

BUDGET = kinds.Kind(
    group="policy",
    version="v1",
    plural="poddisruptionbudgets",
    kind="PodDisruptionBudget",
    namespaced=True,
    type=kinds.Document,
)
_APPLIED = {
    (kind.api_version, kind.kind): kind
    for kind in (*kinds.APPLIED, *kinds.WATCHED, kinds.CUSTOM_RESOURCE_DEFINITION, BUDGET)
}


_CUSTOM = frozenset(
    kind.group
    for kind in (
        kinds.QUEUE,
        kinds.KAI_QUEUE,
        kinds.KAI_TOPOLOGY,
        kinds.COSCHEDULING_POD_GROUP,
        kinds.NODE_TOPOLOGY,
    )
)


class Cluster:
    """A cluster under test. `client` and `kubeconfig`: an administrator's. `tutti`: the scheduler's kubeconfig.

    `gated`: its server has feature gates. The embedded one has none: what it knows is on."""

    def __init__(
        self,
        client: Client,
        kubeconfig: Path,
        tutti: Path,
        add_nodes: Callable[[str, int], Any],
        *,
        gated: bool = False,
    ) -> None:
        self.client = client
        self.kubeconfig = kubeconfig
        self.tutti = tutti
        self._add_nodes = add_nodes
        self._gated = gated
        self.schedulers: set[asyncio.Task[None]] = set()
        """Schedulers of this process that are at work: one that fails ends every wait."""

    async def needs_gate(self, gate: str) -> None:
        """Leave the test out on a server that has this feature gate off."""
        if not self._gated:
            return
        async with Remote(await identity.load(self.kubeconfig)) as api:
            if gate not in await api.gates():
                pytest.skip(f"the server has {gate} off; TUTTI_TEST_GATES={gate}=true starts one that has it on")

    async def needs_minor(self, minor: int, why: str) -> None:
        """Leave the test out on a server of an older minor version. `why`: what came with that version."""
        async with Remote(await identity.load(self.kubeconfig)) as api:
            if (found := await api.minor()) < minor:
                pytest.skip(f"the server is Kubernetes 1.{found}; {why} came with 1.{minor}")

    async def add_nodes(self, shape: str, count: int = 1) -> list[str]:
        return list(await self._add_nodes(shape, count))

    @contextlib.asynccontextmanager
    async def proxy(self, meddle: Callable[[Write], Meddling] = leave_alone) -> AsyncIterator[Proxy]:
        """A proxy to this cluster; whoever comes through it has the scheduler's rights."""
        scheduler = await identity.load(self.tutti)
        proxy = Proxy(target=scheduler.server, meddle=meddle, tls=scheduler.tls, authorization=scheduler.token)
        async with proxy:
            yield proxy

    async def apply(self, manifests: str) -> None:
        """Merge every document of the YAML text into what exists, or create it, as `kubectl apply` would."""
        for document in yaml.safe_load_all(textwrap.dedent(manifests)):
            kind = _APPLIED[document["apiVersion"], document["kind"]]
            namespace = document["metadata"].get("namespace", "default") if kind.namespaced else None
            name = document["metadata"]["name"]
            try:
                # Lists of built-in objects are merged entry by entry: others have written into them.
                how = "merge" if kind.group in _CUSTOM else "strategic"
                await self.client.patch(kind, namespace, name, document, how=how)
            except ApiError as error:
                if not error.not_found:
                    raise
                await self.client.create(kind, namespace, document)

    async def delete(self, kind: Kind, key: str) -> None:
        """Delete it and what it owns."""
        namespace, _, name = key.rpartition("/")
        await self.client.delete(kind, namespace or None, name, propagation="Background")

    async def until(self, kind: Kind, holds: Callable[[Objects], object], what: str = "") -> Objects:
        """Follow all objects of a kind until `holds(objects by key)`; the objects then. Fails if it takes too long."""
        objects: dict[str, Document] = {}
        queue: asyncio.Queue[list[changes.Change]] = asyncio.Queue()
        following = asyncio.create_task(Reflector(client=self.client, kind=kind).run(queue))
        listed = False
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while True:
                    for change in await self._next(queue):
                        if change.type == "LISTED":
                            listed = True
                        elif change.type == "DELETED":
                            objects.pop(change.key, None)
                        else:
                            objects[change.key] = msgspec.json.decode(change.raw)
                    if listed and holds(objects):
                        return objects
        except TimeoutError:
            state = "\n".join(f"{key}: {_short(document)}" for key, document in sorted(objects.items()))
            pytest.fail(f"{what or kind}: not so after {PATIENCE_SECONDS:g} s. {kind}:\n{state}")
        finally:
            following.cancel()

    async def _next(self, queue: asyncio.Queue[list[changes.Change]]) -> list[changes.Change]:
        getting = asyncio.create_task(queue.get())
        try:
            await asyncio.wait({getting, *self.schedulers}, return_when=asyncio.FIRST_COMPLETED)
            for scheduler in [each for each in self.schedulers if each.done()]:
                scheduler.result()
                self.schedulers.discard(scheduler)
            return await getting
        finally:
            getting.cancel()

    async def running(self, namespace: str, count: int) -> Objects:
        """Until exactly so many pods of the namespace run."""

        def holds(pods: Objects) -> bool:
            return (
                sum(_phase(pod) == "Running" for key, pod in pods.items() if key.startswith(f"{namespace}/")) == count
            )

        return await self.until(kinds.POD, holds, f"{count} pods of {namespace} run")

    async def reason(self, key: str, code: str, text: str = "") -> Document:
        """Until the PodGroup gives this reason, with this text in its message; the PodGroup's status.reason."""

        def says(groups: Objects) -> bool:
            reason = _reason(groups.get(key, {}))
            return code == reason.get("code") and text in reason["message"]

        return _reason((await self.until(kinds.POD_GROUP, says, f"PodGroup {key} says {code} {text}"))[key])

    async def devices(self, namespace: str) -> dict[str, list[tuple[str, str, str]]]:
        """The devices of every claim of the namespace."""
        claims, _ = await self.client.list(kinds.RESOURCE_CLAIM, namespace)
        return {claim["metadata"]["name"]: allocated(claim) for claim in claims}

    async def attributes(self) -> dict[tuple[str, str, str], Document]:
        """The attributes of every published device."""
        slices, _ = await self.client.list(kinds.RESOURCE_SLICE)
        return {
            (spec["driver"], spec["pool"]["name"], device["name"]): device.get("attributes", {})
            for spec in (found["spec"] for found in slices)
            for device in spec.get("devices", ())
        }


def allocated(claim: Document) -> list[tuple[str, str, str]]:
    allocation = (claim.get("status") or {}).get("allocation") or {}
    results = allocation.get("devices", {}).get("results") or ()
    return [(result["driver"], result["pool"], result["device"]) for result in results]


def _phase(pod: Document) -> str:
    return str((pod.get("status") or {}).get("phase", ""))


def _reason(group: Document) -> Document:
    reason = (group.get("status") or {}).get("reason")
    return reason if isinstance(reason, dict) else {}


def _untainted(nodes: Objects, names: list[str]) -> bool:
    """A real cluster keeps pods away from a node until its controllers have seen it ready."""
    return all(name in nodes and not nodes[name]["spec"].get("taints") for name in names)


def _short(document: Document) -> str:
    spec = {name: document["spec"][name] for name in ("nodeName",) if name in document.get("spec", {})}
    return f"{spec} {document.get('status')}"


class Tutti:
    """The scheduler at work in this process."""

    def __init__(self) -> None:
        self.cycles: list[CycleReport] = []
        self.page = ""
        self._stop = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        """End it well, as SIGTERM does."""
        self._stop.set()
        await self.ended()

    async def ended(self) -> None:
        """Until it has ended, well or not."""
        assert self._serving is not None
        await asyncio.wait({self._serving})

    async def serve(self, settings: config.Config, ready: asyncio.Event) -> None:
        self._serving = asyncio.current_task()
        onlooker = service.Onlooker(cycle=self.cycles.append, page=lambda page: setattr(self, "page", page))
        await service.serve(settings, ready=ready, stop=self._stop, onlooker=onlooker)


@pytest.fixture(scope="session")
def real() -> Iterator[Ground]:
    """The real cluster of this run."""
    with ground() as found:
        if found is None:
            pytest.skip("no real control plane: tests/tools.sh control-plane says why")
        yield found


@pytest.fixture
async def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
    """A cluster with our definitions and a queue "default", and no nodes yet."""
    if request.config.getoption("--cluster") == "real":
        standing = _real(request.getfixturevalue("real"))
    else:
        standing = _embedded(tmp_path)
    async with standing as found:
        await found.apply("{apiVersion: tutti.scheduler/v1alpha1, kind: Queue, metadata: {name: default}}")
        yield found


@contextlib.asynccontextmanager
async def _embedded(folder: Path) -> AsyncIterator[Cluster]:
    async with DevCluster(shapes={}) as served:
        kubeconfig = served.kubeconfig(folder / "kubeconfig")

        async def add_nodes(shape: str, count: int) -> list[str]:
            assert served.world is not None
            return await served.world.nodes.add(shape_named(shape), count)

        async with await Client.connect(kubeconfig) as client:
            for definition in crd_schema.crds():
                await client.create(kinds.CUSTOM_RESOURCE_DEFINITION, None, definition)
            yield Cluster(client, kubeconfig, kubeconfig, add_nodes)


@contextlib.asynccontextmanager
async def _real(found: Ground) -> AsyncIterator[Cluster]:
    async with found.nodes() as nodes, await Client.connect(found.admin) as client:

        async def add_nodes(shape: str, count: int) -> list[str]:
            added = await nodes.add(shape_named(shape), count)
            await cluster.until(kinds.NODE, lambda nodes: _untainted(nodes, added), "the new nodes are ready for pods")
            return added

        cluster = Cluster(client, found.admin, found.tutti, add_nodes, gated=True)
        try:
            yield cluster
        finally:
            await found.restore()


@contextlib.asynccontextmanager
async def scheduling(
    cluster: Cluster, kubeconfig: Path | None = None, *, leads: bool = True, **settings: Any
) -> AsyncIterator[Tutti]:
    """The service, from its first cycle to the end of the block; what it raised is raised there.

    `kubeconfig`: another way to the cluster. `leads` False: do not wait for a cycle, another replica leads."""
    chosen = config.load(
        flags={
            "kubeconfig": kubeconfig or cluster.tutti,
            "leader_election": False,
            "web_enabled": False,
            "log_level": "warning",
            "log_format": "text",
            **settings,
        },
        environment={},
    )
    tutti, ready = Tutti(), asyncio.Event()
    serving = asyncio.create_task(tutti.serve(chosen, ready))
    starting = asyncio.create_task(ready.wait())
    try:
        if leads:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.wait({starting, serving}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        cluster.schedulers.add(serving)
        yield tutti
    finally:
        cluster.schedulers.discard(serving)
        starting.cancel()
        await tutti.stop()
    serving.result()


@pytest.fixture
async def tutti(cluster: Cluster) -> AsyncIterator[Tutti]:
    """The scheduler, running against `cluster`."""
    async with scheduling(cluster) as running:
        yield running
