"""The demo: the embedded cluster, the scheduler and the examples in one process, shown live until each has settled."""

import asyncio
import contextlib
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from scheduler.api import crd_schema, kinds
from scheduler.api.changes import Change
from scheduler.api.kinds import Kind
from scheduler.config import Config
from scheduler.cycle import CycleReport
from scheduler.devcluster.kubelet import Habits
from scheduler.devcluster.run import DevCluster
from scheduler.expectations import Example, found, unmet
from scheduler.kube.client import Client
from scheduler.kube.errors import ApiError
from scheduler.kube.reflector import Reflector
from scheduler.screen import live, settled_line
from scheduler.service import Onlooker, serve

# What the examples need, with some room: 40 H100 with NICs, cut and whole A100, a GB200 rack, T4, and CPU nodes.
SHAPES: Mapping[str, int] = {"h100x8-nic": 5, "a100-mig": 1, "gb200-nvl72": 1, "t4": 1, "cpu": 2}

# Pods take a moment to start, so that there is something to see; they run until deleted.
HABITS = Habits(start_seconds=0.3, stop_seconds=0.1)

_FOLLOWED = (kinds.POD, kinds.RESOURCE_CLAIM, kinds.POD_GROUP, kinds.QUEUE)


class DemoFailed(Exception):
    """The demo could not go on; the text says why."""


@dataclass(slots=True, kw_only=True)
class Demo:
    """`await Demo(...).run()` is True when every example did what its header says. Without `once` it goes on until
    interrupted."""

    examples: tuple[Example, ...]
    once: bool = False
    timeout_seconds: float = 120.0
    page_port: int = 0
    console: Console = field(default_factory=Console)
    _missing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _restarted: dict[str, str] = field(default_factory=dict)
    """Pods deleted because an example's header says so: namespace/name -> the uid they had."""
    _report: CycleReport | None = None
    _page: str = ""
    _kubeconfig: str = ""
    _pods: Counter[str] = field(default_factory=Counter)
    _stirred: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> bool:
        self._missing = {example.name: ("not applied yet",) for example in self.examples}
        with tempfile.TemporaryDirectory(prefix="tutti-demo-") as folder:
            async with DevCluster(shapes=SHAPES, habits=HABITS) as cluster:
                self._kubeconfig = str(cluster.kubeconfig(Path(folder) / "kubeconfig"))
                async with await Client.connect(self._kubeconfig) as client:
                    for definition in crd_schema.crds():
                        await client.create(kinds.CUSTOM_RESOURCE_DEFINITION, None, definition)
                    return await self._with_scheduler(client)

    async def _with_scheduler(self, client: Client) -> bool:
        stop, ready = asyncio.Event(), asyncio.Event()
        config = Config(
            kubeconfig=Path(self._kubeconfig), leader_election=False, web_port=self.page_port, log_level="warning"
        )
        onlooker = Onlooker(cycle=self._saw_cycle, page=self._saw_page)
        changes: asyncio.Queue[list[Change]] = asyncio.Queue()
        scheduler = asyncio.create_task(serve(config, ready=ready, stop=stop, onlooker=onlooker))
        followers = [asyncio.create_task(Reflector(client=client, kind=kind).run(changes)) for kind in _FOLLOWED]
        followers.append(asyncio.create_task(self._listen(changes)))
        try:
            with _interrupts(stop):
                await _first_of(ready.wait(), scheduler)
                for example in self.examples:
                    for document in example.documents:
                        kind = kind_of(document)
                        await client.create(kind, document["metadata"].get("namespace"), document)
                with self._screen() as show:
                    return await self._watch(client, scheduler, stop, show)
        finally:
            stop.set()
            for task in followers:
                task.cancel()
            await asyncio.gather(*followers, return_exceptions=True)
            await scheduler

    async def _watch(
        self, client: Client, scheduler: asyncio.Task[None], stop: asyncio.Event, show: Callable[[], None]
    ) -> bool:
        """Look again at every change until all examples have settled, the time is over, or somebody interrupts."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeout_seconds
        while True:
            self._stirred.clear()
            await self._look(client)
            show()
            if self.once and not self._unsettled():
                return True
            patience = deadline - loop.time() if self.once else None
            if patience is not None and patience <= 0:
                return False
            stirred, stopped = asyncio.ensure_future(self._stirred.wait()), asyncio.ensure_future(stop.wait())
            await asyncio.wait({stirred, stopped, scheduler}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            stirred.cancel()
            stopped.cancel()
            if scheduler.done():
                scheduler.result()
                raise DemoFailed("the scheduler stopped by itself")
            if stop.is_set():
                return not self._unsettled()

    async def _look(self, client: Client) -> None:
        """Which examples have settled; those that ask for it have their pod deleted once."""
        for example in self.examples:
            missing = await unmet(example, client)
            if not missing and "restart" in example.expect:
                missing = await self._restart(example, client)
            self._missing[example.name] = missing
        pods, _ = await client.list(kinds.POD)
        self._pods = Counter(pod["status"]["phase"] for pod in pods)

    async def _restart(self, example: Example, client: Client) -> tuple[str, ...]:
        name = str(example.expect["restart"])
        key = f"{example.namespace}/{name}"
        pod = await found(client, kinds.POD, example.namespace, name)
        if pod is None:
            return (f"pod {name} is not there",)
        uid = pod["metadata"]["uid"]
        if key not in self._restarted:
            self._restarted[key] = uid
            try:
                await client.delete(kinds.POD, example.namespace, name)
            except ApiError as problem:
                # Somebody else was faster: it restarts all the same.
                if not problem.not_found:
                    raise
        return ("the pod restarts",) if self._restarted[key] == uid else ()

    def _unsettled(self) -> list[str]:
        return [name for name, missing in self._missing.items() if missing]

    async def _listen(self, changes: asyncio.Queue[list[Change]]) -> None:
        while True:
            await changes.get()
            self._stirred.set()

    def _saw_cycle(self, report: CycleReport) -> None:
        self._report = report
        self._stirred.set()

    def _saw_page(self, address: str) -> None:
        self._page = address

    @contextlib.contextmanager
    def _screen(self) -> Iterator[Callable[[], None]]:
        """A live view in a terminal; elsewhere a line for every example that has settled, and the whole at the end."""
        footer = f"export KUBECONFIG={self._kubeconfig}" + (f"    page: {self._page}" if self._page else "")
        told: dict[str, bool] = {}

        def picture() -> Any:
            plan = self._report.plan if self._report else None
            rows = [(example.title, self._missing[example.name]) for example in self.examples]
            return live(plan, examples=rows, pods=self._pods, footer=footer)

        def lines() -> None:
            for example in self.examples:
                settled = not self._missing[example.name]
                if told.get(example.name, False) != settled:
                    told[example.name] = settled
                    line = settled_line(example.name, example.title, settled=settled)
                    self.console.print(line, soft_wrap=True, highlight=False)

        if self.console.is_terminal:
            with Live(picture(), console=self.console, refresh_per_second=8) as view:
                yield lambda: view.update(picture())
        else:
            self.console.print(footer, soft_wrap=True, highlight=False)
            yield lines
            self.console.print(picture(), soft_wrap=True)


def kind_of(document: Mapping[str, Any]) -> Kind:
    """Where a document is served. Raises DemoFailed naming a kind that examples may not use."""
    for kind in kinds.APPLIED:
        if (kind.api_version, kind.kind) == (document["apiVersion"], document["kind"]):
            return kind
    raise DemoFailed(f"{document['apiVersion']} {document['kind']} is no kind that the demo knows; use kubectl apply")


async def _first_of(wait: Any, scheduler: asyncio.Task[None]) -> None:
    """Until `wait` is over; what ended the scheduler before is raised."""
    waiting = asyncio.ensure_future(wait)
    await asyncio.wait({waiting, scheduler}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if scheduler.done():
        scheduler.result()


@contextlib.contextmanager
def _interrupts(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
