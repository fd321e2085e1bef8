"""The whole embedded cluster: store, API server and the parts that live in it (controllers, simulated nodes)."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol

from aiohttp import web

from scheduler.devcluster.clock import Clock
from scheduler.devcluster.kubelet import Habits
from scheduler.devcluster.objects import format_time
from scheduler.devcluster.server import BOOKMARK_SECONDS, Server
from scheduler.devcluster.store import Store
from scheduler.devcluster.world import World

HOST = "127.0.0.1"
CONTEXT = "tutti-devcluster"


class Part(Protocol):
    """Something that lives in the cluster: it runs from its start until it is cancelled."""

    async def run(self, store: Store) -> None:
        """Work on the store until cancelled. An exception ends `DevCluster.wait` and is raised when the block ends."""
        ...


def _now() -> str:
    return format_time(datetime.now(UTC))


def new_store(*, window: int = 8192) -> Store:
    """An empty store with the machine's clock and random uids."""
    return Store(_now, lambda: str(uuid.uuid4()), window=window)


class DevCluster:
    """`async with DevCluster(parts=...) as cluster:` serves a cluster on a loopback port until the block ends.

    `port` 0 takes a free one. `parts` are started after the server listens, in their order, and cancelled in the
    reverse. `store` may be one that is filled already.

    With `shapes` (units by name of `shapes.SHAPES`; may be empty) the controllers and simulated nodes are there too and
    stand when the block begins, as `world`; `habits` and `clock` say how pods behave there and how fast time goes.
    Without it the cluster is an API server alone.
    """

    def __init__(
        self,
        parts: Sequence[Part] = (),
        *,
        port: int = 0,
        store: Store | None = None,
        bookmark_seconds: float = BOOKMARK_SECONDS,
        shapes: Mapping[str, int] | None = None,
        habits: Habits | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.store = store if store is not None else new_store()
        self.port = port
        self.world = World(shapes, habits=habits, clock=clock) if shapes is not None else None
        self._parts: tuple[Part, ...] = (*([self.world] if self.world is not None else []), *parts)
        self._server = Server(self.store, bookmark_seconds=bookmark_seconds)
        self._runner: web.ServerRunner | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def url(self) -> str:
        """Where the API server listens."""
        return f"http://{HOST}:{self.port}"

    @property
    def watchers(self) -> int:
        """How many watches are open."""
        return self._server.watchers

    def kubeconfig(self, path: Path | str) -> Path:
        """Write a kubeconfig for this cluster and return its path."""
        target = Path(path)
        cluster = {"name": CONTEXT, "cluster": {"server": self.url}}
        context = {"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT, "namespace": "default"}}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [cluster],
            "contexts": [context],
            "current-context": CONTEXT,
            "users": [{"name": CONTEXT, "user": {}}],
        }
        target.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")  # JSON is YAML
        return target

    async def __aenter__(self) -> DevCluster:
        self._runner = web.ServerRunner(self._server.application(), shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, self.port, backlog=1024, reuse_address=True)
        await site.start()
        self.port = int(self._runner.addresses[0][1])
        self._tasks = [
            asyncio.create_task(part.run(self.store), name=f"devcluster: {type(part).__name__}") for part in self._parts
        ]
        if self.world is not None:
            await self._until_ready(self.world)
        return self

    async def _until_ready(self, world: World) -> None:
        """Wait for the nodes; a world that fails before they stand fails the start."""
        ready = asyncio.create_task(world.ready.wait())
        try:
            await asyncio.wait([ready, self._tasks[0]], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if not world.ready.is_set():
            await self.__aexit__(None, None, None)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failures = [
            failure
            for task in self._tasks
            if task.done() and not task.cancelled() and (failure := task.exception()) is not None
        ]
        for task in reversed(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._server.stop()
        if self._runner is not None:
            await self._runner.cleanup()
        if failures and error is None:
            raise failures[0]  # a part that died must not pass unseen

    async def wait(self) -> None:
        """Serve until a part fails (its error is raised) or the caller is cancelled."""
        if not self._tasks:
            await asyncio.Event().wait()
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        await asyncio.Event().wait()
