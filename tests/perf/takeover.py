"""The leader is killed under load, on a real control plane: until the one that waits has bound its first pod.

Pods with claims come and go all the time. In each round the leader gets SIGKILL; the time is from then to the first
event that shows a pod bound after the Lease has changed hands. Another one is started before, and waits in its turn.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from scheduler.api import kinds
from scheduler.api.changes import Change
from scheduler.devcluster.shapes import shape_named
from scheduler.kube.client import Client
from scheduler.kube.reflector import Reflector
from tests.contest.streams import Streams, prepare
from tests.perf.contestants import TUTTI
from tests.real.ground import Ground, ground

NODES = 4
AT_ONCE = 24
_LOOK_SECONDS = 0.02


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--lease", type=int, default=15, help="lease_seconds; the other times of the lease in proportion"
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    with ground() as found:
        if found is None:
            sys.exit("there is no real control plane: make real builds one")
        return asyncio.run(_run(found, options))


async def _run(found: Ground, options: argparse.Namespace) -> dict[str, Any]:
    lease = options.lease
    settings = [
        f"lease_seconds={lease}",
        f"lease_renew_seconds={lease * 2 / 3}",
        f"lease_retry_seconds={lease * 2 / 15}",
    ]
    seconds: list[float] = []
    elected: list[float] = []
    async with _load(found) as (client, binds):
        with tempfile.TemporaryDirectory(prefix="tutti-takeover-") as folder, contextlib.ExitStack() as stack:

            def start(number: int) -> Any:
                set_ = [part for one in [*settings, "web_enabled=false", "log_level=info"] for part in ("--set", one)]
                command = [sys.executable, "-m", "scheduler", "run", f"--kubeconfig={found.tutti}", *set_]
                return stack.enter_context(TUTTI.running(command, Path(folder) / f"{number}.log"))

            leading, holder = start(0), await _holder(client, "")
            for round_ in range(options.rounds):
                waiting = start(round_ + 1)
                await _said(Path(folder) / f"{round_ + 1}.log", "waiting to lead")
                await binds.more(AT_ONCE, after=time.perf_counter())
                leading.kill()
                killed = time.perf_counter()
                holder = await _holder(client, holder)
                elected.append(time.perf_counter() - killed)
                seconds.append(await binds.more(1, after=time.perf_counter() - _LOOK_SECONDS) - killed)
                leading = waiting
    return {
        "lease seconds": lease,
        "rounds": options.rounds,
        "seconds until another leads": [round(each, 2) for each in elected],
        "seconds until its first bind": [round(each, 2) for each in seconds],
        "longest beyond the lease": round(max(seconds) - lease, 2),
        "median": round(statistics.median(seconds), 2),
    }


async def _holder(client: Client, but: str) -> str:
    """Who leads, as soon as it is somebody else than before."""
    while True:
        leases, _ = await client.list(kinds.LEASE, TUTTI.lease[0])
        found = [
            each["spec"].get("holderIdentity") or "" for each in leases if each["metadata"]["name"] == TUTTI.lease[1]
        ]
        if found and found[0] not in ("", but):
            return str(found[0])
        await asyncio.sleep(_LOOK_SECONDS)


async def _said(log: Path, what: str) -> None:
    """Until it stands in the log."""
    while what not in await asyncio.to_thread(log.read_text):
        await asyncio.sleep(_LOOK_SECONDS)


class _Binds:
    """When pods were seen bound."""

    def __init__(self) -> None:
        self._times: dict[str, float] = {}
        self._news = asyncio.Event()

    async def watch(self, client: Client) -> None:
        """Follow the pods until cancelled."""
        queue: asyncio.Queue[list[Change]] = asyncio.Queue()
        following = asyncio.create_task(Reflector(client=client, kind=kinds.POD).run(queue))
        try:
            while True:
                for change in await queue.get():
                    if change.raw and msgspec.json.decode(change.raw)["spec"].get("nodeName"):
                        self._times.setdefault(change.meta.uid, time.perf_counter())
                self._news.set()
        finally:
            following.cancel()

    async def more(self, count: int, *, after: float) -> float:
        """Until so many pods were bound later than this time; when the last of them was."""
        while len(later := sorted(each for each in self._times.values() if each > after)) < count:
            self._news.clear()
            await self._news.wait()
        return later[count - 1]


@contextlib.asynccontextmanager
async def _load(found: Ground) -> AsyncIterator[tuple[Client, _Binds]]:
    """Nodes, and pods that come and go."""
    binds = _Binds()
    async with found.nodes() as nodes, await Client.connect(found.admin) as client:
        await nodes.add(shape_named("h100x8"), NODES)
        await prepare(client)
        api = f"{kinds.QUEUE.group}/{kinds.QUEUE.version}"
        await client.create(kinds.QUEUE, None, {"apiVersion": api, "kind": "Queue", "metadata": {"name": "default"}})
        streams = Streams(client, {"ours": TUTTI.scheduler_name}, at_once=AT_ONCE, each=1_000_000, run=1.0)
        tasks = [asyncio.create_task(each) for each in (streams.flow(), binds.watch(client))]
        try:
            yield client, binds
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await found.restore()
