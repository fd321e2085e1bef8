"""A look at the hardware, and everybody who goes by it: publisher, kubelet, labels of the Node, events.

It is looked at when the driver tells of something, every so often, and when somebody asks for it (SIGHUP).
"""

import asyncio
import contextlib
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from dra_driver.claims import Claims
from dra_driver.config import Config
from dra_driver.devices import Entry
from dra_driver.events import Events, Regarding
from dra_driver.facts import GpuError, GpuEvent
from dra_driver.health_list import health_list
from dra_driver.holding import owned
from dra_driver.labels import labels
from dra_driver.metrics import Metrics
from dra_driver.node import Hardware, Offered
from dra_driver.plugin import DeviceHealth
from dra_driver.prepare import FAILURES
from dra_driver.publisher import Publisher
from dra_driver.reconfigure import Taints
from dra_driver.rooms import Rooms

log = structlog.get_logger(__name__)

_EVENT_WAIT_MS = 500
_MOST_EVENTS_A_LOOK = 256
_LONGEST_PAUSE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """What a lookout needs of its node. `label`: takes the labels that the Node should have; `clock`: seconds since
    1970."""

    node: str
    config: Config
    hardware: Hardware
    offered: Offered
    rooms: Rooms
    claims: Claims
    events: Events
    metrics: Metrics
    label: Callable[[Mapping[str, str]], None]
    clock: Callable[[], float]


class Lookout:
    """Looks, and tells. `then`: called after every look, besides."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._config = post.config
        self._hardware = post.hardware
        self._offered = post.offered
        self._rooms = post.rooms
        self._claims = post.claims
        self.then: Callable[[], None] = lambda: None
        self.about_node: tuple[Regarding, ...] = ()
        self._refused: frozenset[tuple[str, str]] = frozenset()
        """What is not offered, and why, as it was told."""
        self._publisher: Publisher | None = None
        """Once it is time to publish."""
        self._heard: deque[GpuEvent] = deque()
        """What the GPUs have told since the last look."""
        self._labels: Mapping[str, str] = {}
        """Of the Node, as of the last look."""
        self._looked = 0
        """When the hardware was last looked at, in seconds since 1970."""
        self._news = asyncio.Event()
        """Set, and replaced, when the hardware was looked at."""

    async def health(self) -> AsyncIterator[tuple[DeviceHealth, ...]]:
        """The complete list for the kubelet, after every look."""
        lasts = round(self._config.rescan_seconds * 3)
        while True:
            news = self._news
            yield health_list(
                self._offered.inventory,
                self._offered.lost,
                pool=self._post.node,
                seen=self._looked,
                lasts_seconds=lasts,
            )
            await news.wait()

    def look(self) -> None:
        """In a thread, under the node's lock. What was heard counts also where the hardware cannot be read."""
        now_ms = int(self._post.clock() * 1000)
        self._rooms.monitor.hear([self._heard.popleft() for _ in range(len(self._heard))], now_ms)
        try:
            entries = self._rooms.entries()
            held = ((each.grant.device, each.gpu) for entry in entries for each in entry.devices)
            self._offered.remember(held)
            self._offered.look(entries)
            self._rooms.monitor.look((gpu.uuid for gpu in self._offered.gpus), self._offered.lost, now_ms)
            self._labels = self._wanted_labels(entries)
        finally:
            self._offered.taint(self._rooms.monitor.taints(self._offered.inventory.devices))
        self._looked = now_ms // 1000

    def _wanted_labels(self, entries: Sequence[Entry]) -> Mapping[str, str]:
        if not self._config.node_labels:
            return {}
        gpus, host = self._hardware.gpus, self._hardware.host
        ours = owned(entries, host.boot_id())
        return labels(self._offered.gpus, gpus.driver(), owned=ours, machine=host.machine())

    async def look_anew(self) -> None:
        """Look at the hardware, and tell publisher and kubelet. What cannot be read now is read the next time."""
        try:
            await self._claims.alone(self.look)
        except FAILURES as problem:
            log.warning("the hardware cannot be looked at", problem=str(problem))
        self.tell()

    def warn(self, reason: str, words: Iterable[str]) -> None:
        """Events on our Node: what its operator has to look at."""
        for each in words:
            self._post.events.tell(self.about_node, reason, each)

    def tell(self) -> None:
        """Everybody is told of the last look."""
        refused = frozenset(self._offered.inventory.refused)
        self.warn("NotOffered", (f"{about}: {why}" for about, why in sorted(refused - self._refused)))
        self._refused = refused
        if self._publisher is not None:
            self._publisher.want(self._offered.inventory)
        self.then()
        self._post.label(self._labels)
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def announce(self, publisher: Publisher, registered: asyncio.Event) -> None:
        """Publish as soon as the kubelet knows us: a pod that came before would fail there, and wait for a minute."""
        try:
            async with asyncio.timeout(self._config.register_seconds):
                await registered.wait()
        except TimeoutError:
            log.warning(
                "the kubelet does not know us yet, and what the node offers is published all the same",
                cure="see that kubelet_dir is its --root-dir, and that it runs",
                kubelet_dir=str(self._config.kubelet_dir),
            )
        self._publisher = publisher
        self.tell()

    async def hear(self) -> None:
        """What the driver tells of the GPUs: all that comes at once is one look."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="gpu-events") as thread:
            while True:
                try:
                    event = await loop.run_in_executor(thread, self._hardware.gpus.wait, _EVENT_WAIT_MS)
                    while event is not None:
                        self._take_in(event)
                        if len(self._heard) >= _MOST_EVENTS_A_LOOK:
                            break
                        event = await loop.run_in_executor(thread, self._hardware.gpus.wait, 0)
                except GpuError as problem:
                    log.warning("events of the GPUs cannot be waited for", problem=str(problem))
                    await asyncio.sleep(_LONGEST_PAUSE_SECONDS)
                if self._heard:
                    await self.look_anew()

    def _take_in(self, event: GpuEvent) -> None:
        log.info("a GPU tells", gpu=event.gpu, kind=event.kind.value, code=event.code, instance=event.instance)
        self._post.metrics.heard(event)
        self._heard.append(event)

    async def rescan(self) -> None:
        """Every so often, and when somebody asks for it (SIGHUP)."""
        asked, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, asked.set)
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._config.rescan_seconds):
                        await asked.wait()
                asked.clear()
                await self.look_anew()
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    async def taint(self, taints: Taints) -> None:
        """GPUs that are about to be cut anew."""
        await self._claims.alone(lambda: self._offered.taint(taints, by="reconfigure"))
        self.tell()

    async def published(self) -> None:
        """Waits until what is offered is published."""
        while self._publisher is None:
            await self._news.wait()
        await self._publisher.settled()
