"""The second driver of the plugin: IMEX channels, under their own name, beside the GPUs' (`dra_driver.imex`).

The kubelet knows drivers by name, and so do slices: sockets, pool, checkpoint and CDI files are of this driver alone.
The rooms are the same, and so is the node's lock, as both ask the GPUs. With `imex: on` what keeps it from being served
stops the plugin's start; with `auto` it is served from when the host is seen to run IMEX, and nobody else serves it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from dra_driver import cdi
from dra_driver.alone import NotAlone, refuse_other_driver, standing
from dra_driver.checkpoint import Checkpoint, CheckpointTooNew
from dra_driver.claims import Claims, Patience
from dra_driver.commands import Subprocesses, Tools
from dra_driver.config import Config
from dra_driver.devices import ClaimRef, Prepared
from dra_driver.disk import Disk, DiskError
from dra_driver.facts import Gpu
from dra_driver.grants import ClaimRefused
from dra_driver.health_list import health_list
from dra_driver.imex import ChannelWork, HostImex, Offering, channel_grants, state
from dra_driver.libraries import Libraries
from dra_driver.node import Hardware
from dra_driver.plugin import DeviceHealth, Plugin
from dra_driver.prepare import FAILURES, Node, Preparer
from dra_driver.publisher import ForeignSlicesError, Publisher
from dra_driver.recovery import Api, Recovery
from dra_driver.slices import Target
from dra_driver.sockets import SocketError, Sockets, clear_left, sockets
from dra_driver.specs import Specs
from scheduler.api import kinds
from scheduler.api.attributes import COMPUTE_DOMAIN_DRIVER
from scheduler.kube.backoff import Backoff
from scheduler.kube.client import ApiError, Client

log = structlog.get_logger(__name__)

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What this driver shares with the GPUs'. `gpus`: as they were last seen; `lock`: the node's; `failed` is told of
    each claim that could not be prepared; `clock`: seconds since 1970."""

    node: str
    hardware: Hardware
    tools: Tools
    gpus: Callable[[], Sequence[Gpu]]
    client: Client
    lock: Callable[[], AbstractContextManager[None]]
    failed: Callable[[ClaimRef, Mapping[str, Any] | None, str], None]
    clock: Callable[[], float]


class _NotYet(Exception):
    """With `auto`: why it is not served at present."""


class _NothingBeside:
    """What a channel needs beside its device node: nothing (`dra_driver.prepare.Effects`)."""

    def apply(self, claim: ClaimRef, prepared: Prepared, others: tuple[Prepared, ...]) -> Prepared:
        del claim, others
        return prepared

    def undo(self, claim: ClaimRef, prepared: Prepared, others: tuple[Prepared, ...]) -> None:
        del claim, prepared, others

    def collect(self, kept: tuple[tuple[ClaimRef, Prepared], ...]) -> tuple[str, ...]:
        del kept
        return ()


NOTHING_BESIDE = _NothingBeside()


class ChannelDriver:
    """The parts of the second driver (`dra_driver.plugin.Served`). `tried`: set when it is served, or is seen not to
    be for now: the plugin may say that it is ready."""

    def __init__(self, config: Config, site: Site) -> None:
        self._config, self._site = config, site
        self._driver, self._folder = config.imex_driver, config.imex_dir
        self.tried = asyncio.Event()
        self._plugin: Plugin | None = None
        self._publisher: Publisher | None = None
        self._sockets: Sockets | None = None
        self._looked, self._news = 0, asyncio.Event()
        self._why_not = ""
        host = site.hardware.host
        service = HostImex(
            Subprocesses(), site.tools, host.root / config.imex_socket.relative_to("/"), config.imex_socket
        )
        self._offering = Offering(lambda: state(site.gpus(), host, service), now_ms=lambda: int(site.clock() * 1000))
        disk = Disk()
        node = Node(
            gpus=site.hardware.gpus,
            checkpoint=Checkpoint(self._folder, disk),
            specs=Specs(config.cdi_dir, disk, self._specification, self._driver),
            sharing=NOTHING_BESIDE,
            inventory=lambda: self._offering.inventory,
            boot=host.boot_id,
        )
        preparer = Preparer(node)
        self._recovery = Recovery(node, preparer)
        self._loss, loop = asyncio.Event(), asyncio.get_running_loop()
        preparer.on_loss = lambda: loop.call_soon_threadsafe(self._loss.set)
        self._fetch = partial(site.client.get, kinds.RESOURCE_CLAIM)
        self._grants = partial(channel_grants, driver=self._driver, pool=site.node)
        self._claims = Claims(
            ChannelWork(preparer, self._offering),
            fetch=self._fetch,
            grants=self._grants,
            lock=site.lock,
            refusals=(ClaimRefused,),
            passing=FAILURES,
            patience=Patience(seconds=config.prepare_seconds),
            failed=site.failed,
        )

    async def run(self) -> None:
        """Serve until cancelled. Raises, if it was asked for by all means, what the service's start is refused for."""
        async with AsyncExitStack() as stack:
            publisher = await self._served(stack)
            self.tried.set()
            async with asyncio.TaskGroup() as group:
                for part in (publisher.run(), self._announce(publisher), self._rescan(), self._collect()):
                    group.create_task(part)

    # --- what the kubelet is served ---

    async def prepare(self, claims: Sequence[ClaimRef], seconds: float) -> Mapping[str, tuple[Prepared, ...] | str]:
        return await self._claims.prepare(claims, seconds)

    async def unprepare(self, claims: Sequence[ClaimRef], seconds: float) -> Mapping[str, str]:
        return await self._claims.unprepare(claims, seconds)

    async def health(self) -> AsyncIterator[tuple[DeviceHealth, ...]]:
        lasts = round(self._config.rescan_seconds * 3)
        while True:
            news = self._news
            yield health_list(
                self._offering.inventory, (), pool=self._site.node, seen=self._looked, lasts_seconds=lasts
            )
            await news.wait()

    # --- what the probes ask ---

    @property
    def paths(self) -> tuple[Path, ...]:
        """Sockets that somebody must answer at."""
        return () if self._sockets is None else (self._sockets.claims, self._sockets.registration)

    @property
    def unready(self) -> str:
        """Why the kubelet does not know the driver, although it is served; "" else."""
        if self._plugin is None or self._plugin.registered.is_set():
            return ""
        return f"the kubelet does not know {self._driver} yet" + (
            f": {self._plugin.refused}" if self._plugin.refused else ""
        )

    # --- the start ---

    async def _served(self, stack: AsyncExitStack) -> Publisher:
        """All as it must be, and then the sockets, which are closed with the stack."""
        backoff = Backoff(first_seconds=_FIRST_PAUSE_SECONDS, most_seconds=_LONGEST_PAUSE_SECONDS)
        while True:
            async with AsyncExitStack() as attempt:
                try:
                    publisher = await self._begun(attempt)
                except _NotYet as problem:
                    self._say(str(problem))
                    self.tried.set()
                except ApiError as problem:
                    log.warning("channels cannot be served yet", problem=str(problem))
                    await asyncio.sleep(backoff.seconds())
                    continue
                else:
                    await stack.enter_async_context(attempt.pop_all())
                    return publisher
            await asyncio.sleep(self._config.rescan_seconds)

    def _say(self, why: str) -> None:
        if why != self._why_not:
            log.info("channels are not served", driver=self._driver, why=why)
        self._why_not = why

    async def _begun(self, stack: AsyncExitStack) -> Publisher:
        if self._config.imex == "auto" and self._site.hardware.host.imex() is None:
            raise _NotYet("the host does not run IMEX")
        try:
            return await self._all_begun(stack)
        except (NotAlone, ForeignSlicesError, SocketError) as problem:
            words = (
                f"DRA driver {self._driver} (setting imex): node {self._site.node} has another plugin of it, NVIDIA's "
                "compute-domain plugin as a rule, or the socket cannot stand, and a channel must not be given out "
                "twice; remove that plugin from the node, or set imex to off. What was seen: "
            )
            words += f"{str(problem).partition(';')[0].rstrip('.')}."  # its cures are those of the GPUs' driver
            if self._config.imex == "auto":
                raise _NotYet(words) from None
            raise NotAlone(words) from None

    async def _all_begun(self, stack: AsyncExitStack) -> Publisher:
        chosen = sockets(self._config.kubelet_dir, self._driver, self._config.pod_uid)
        stack.enter_context(standing(self._folder, lone=chosen.lone))
        refuse_other_driver(chosen, self._driver)
        node = await self._site.client.get(kinds.NODE, None, self._site.node)
        target = Target(
            node=self._site.node,
            node_uid=str(node["metadata"]["uid"]),
            driver=self._driver,
            domain=COMPUTE_DOMAIN_DRIVER,
        )
        publisher = Publisher(self._site.client, target, resync_seconds=self._config.resync_seconds)
        await publisher.check()
        await asyncio.to_thread(clear_left, chosen, self._driver)
        await self._claims.alone(self._look)
        backoff = Backoff(first_seconds=_FIRST_PAUSE_SECONDS, most_seconds=_LONGEST_PAUSE_SECONDS)
        while not await self._recover(first=True):
            await asyncio.sleep(backoff.seconds())
        stack.push_async_callback(self._settled)  # after the sockets, which are closed before
        plugin = Plugin(self, self._driver, chosen)
        await stack.enter_async_context(plugin)
        self._plugin, self._sockets = plugin, chosen
        log.info("serving", node=self._site.node, driver=self._driver, socket=str(chosen.claims))
        return publisher

    async def _settled(self) -> None:
        """What is under way ends, within the time that there is."""
        try:
            async with asyncio.timeout(self._config.stop_seconds):
                await self._claims.settled()
        except TimeoutError:
            log.warning("work on channels is still under way; whoever starts next goes on with it")

    async def _recover(self, *, first: bool) -> bool:
        """As the GPUs' service does it."""
        api = Api(fetch=self._fetch, every=self._every_claim, grants=self._grants)
        try:
            report = await self._recovery.run(api, self._claims.alone, first=first)
        except ApiError as problem:
            log.warning("what claims hold cannot be asked for yet", driver=self._driver, problem=str(problem))
            return False
        for words in report.done:
            log.info("put right", driver=self._driver, what=words)
        for words in report.failed:
            log.warning("not put right; it is tried again", driver=self._driver, what=words)
        return True

    async def _every_claim(self) -> Sequence[Mapping[str, Any]]:
        return (await self._site.client.list(kinds.RESOURCE_CLAIM))[0]

    # --- what goes on ---

    def _look(self) -> None:
        self._offering.look()
        self._looked = int(self._site.clock())

    async def _look_anew(self) -> None:
        try:
            await self._claims.alone(self._look)
        except FAILURES as problem:
            log.warning("IMEX cannot be looked at", problem=str(problem))
        if self._publisher is not None:
            self._publisher.want(self._offering.inventory)
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _announce(self, publisher: Publisher) -> None:
        """Publish when the kubelet knows the driver, or does not in time."""
        if self._plugin is not None:
            try:
                async with asyncio.timeout(self._config.register_seconds):
                    await self._plugin.registered.wait()
            except TimeoutError:
                log.warning("channels are published, although the kubelet does not know them yet", driver=self._driver)
        self._publisher = publisher
        await self._look_anew()

    async def _rescan(self) -> None:
        while True:
            await asyncio.sleep(self._config.rescan_seconds)
            await self._look_anew()

    async def _collect(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._config.collect_seconds):
                    await self._loss.wait()
            self._loss.clear()
            try:
                await self._recover(first=False)
            except (DiskError, CheckpointTooNew) as problem:
                log.error("what is left over of channels cannot be collected", problem=str(problem))

    def _specification(self, uid: str, devices: tuple[Prepared, ...]) -> Mapping[str, Any]:
        """Device nodes alone: the driver's libraries come with the GPUs of the same container."""
        return cdi.specification(
            uid, devices, host=self._site.hardware.host, libraries=Libraries(), driver=self._driver
        )
