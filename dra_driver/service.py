"""The service of the node plugin: builds the parts and joins them. The only wiring there is.

kubelet -> plugin -> claims -> preparer -> GPUs, CDI files, checkpoint     (in threads, one at a time: the node's lock)
                        \\-> events
GPUs, host -> lookout -> offered -> publisher -> API server
                             \\-> health -> plugin -> kubelet
"""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import structlog

from dra_driver.alone import NotAlone, refuse_other_driver, standing
from dra_driver.channels import ChannelDriver
from dra_driver.channels import Site as ChannelSite
from dra_driver.checkpoint import CheckpointTooNew
from dra_driver.claims import Claims, Patience
from dra_driver.config import Config, required_node
from dra_driver.devices import ClaimRef, Grant, Prepared
from dra_driver.disk import DiskError
from dra_driver.events import Events, Regarding, claim_and_pods
from dra_driver.facts import GpuError, SessionOver
from dra_driver.grants import ClaimRefused, grants
from dra_driver.host import HostError
from dra_driver.labeller import Labeller
from dra_driver.lookout import Lookout, Post
from dra_driver.metrics import CONTENT_TYPE, Metrics
from dra_driver.node import Hardware, Offered, hardware, offer
from dra_driver.plugin import DeviceHealth, Plugin
from dra_driver.prepare import FAILURES
from dra_driver.probe import ProbeError, exposed, probed
from dra_driver.publisher import ForeignSlicesError, Publisher
from dra_driver.reconfigure import Pace, Reconfiguration, Site
from dra_driver.recovery import Api
from dra_driver.rooms import Rooms, programs_of, rooms
from dra_driver.sampling import Sampler
from dra_driver.slices import Target
from dra_driver.sockets import SocketError, Sockets, answers, clear_left, sockets
from dra_driver.uevents import follow
from scheduler.api import kinds
from scheduler.kube.backoff import Backoff
from scheduler.kube.client import ApiError, Client

log = structlog.get_logger(__name__)

T = TypeVar("T")

REFUSALS = (
    SocketError,
    NotAlone,
    DiskError,
    GpuError,
    SessionOver,
    HostError,
    ProbeError,
    ForeignSlicesError,
    CheckpointTooNew,
)
"""What stops the start, or (SessionOver) what runs: the text has object, cause and cure."""

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 10.0


async def serve(
    config: Config,
    *,
    ready: asyncio.Event | None = None,
    stop: asyncio.Event | None = None,
    clock: Callable[[], float] = time.time,
) -> None:
    """Run until `stop` is set, or a signal if none is given. `ready` is set when the kubelet can find us. `clock`: the
    seconds since 1970.

    Raises what cannot be gone on with: ConfigError, IdentityError, ApiError, and REFUSALS."""
    _log_as(config)
    node = required_node(config)
    chosen = sockets(config.kubelet_dir, config.driver, config.pod_uid)
    ending = stop or asyncio.Event()
    with contextlib.ExitStack() as process:
        if stop is None:
            process.enter_context(_signals_set(ending))
        process.enter_context(standing(config.data_dir, lone=chosen.lone))
        refuse_other_driver(chosen, config.driver)
        found = hardware(config, fake_state=config.fake_file, fake_folder=config.data_dir / "fake-host")
        process.callback(found.gpus.close)
        async with await Client.connect(config.kubeconfig, config.context, config.connections) as client:
            await _Service(config, node, chosen, found, client, ready or asyncio.Event(), ending, clock).run()


class _Service:
    """The parts of one running plugin."""

    def __init__(
        self,
        config: Config,
        node: str,
        chosen: Sockets,
        found: Hardware,
        client: Client,
        ready: asyncio.Event,
        stop: asyncio.Event,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._node = node
        self._sockets = chosen
        self._hardware = found
        self._client = client
        self._ready = ready
        self._stop = stop
        self._clock = clock
        self._offered = Offered(node, found, offer(config, found))
        self._metrics = Metrics()
        self._rooms: Rooms = rooms(config, found, lambda: self._offered.inventory)
        self._events = Events(client, node, lambda: datetime.fromtimestamp(clock(), UTC))
        self._claims = Claims(
            self._rooms.preparer,
            fetch=lambda namespace, name: client.get(kinds.RESOURCE_CLAIM, namespace, name),
            grants=self._grants,
            lock=self._rooms.lock,
            refusals=(ClaimRefused, SessionOver),
            passing=FAILURES,
            patience=Patience(seconds=config.prepare_seconds),
            failed=self._failed,
            measures=self._metrics,
        )
        self._api = Api(
            fetch=lambda namespace, name: client.get(kinds.RESOURCE_CLAIM, namespace, name),
            every=self._every_claim,
            grants=self._grants,
        )
        self._loss = asyncio.Event()
        """Set when a claim has met a checkpoint that is missing or damaged."""
        loop = asyncio.get_running_loop()
        self._rooms.preparer.on_loss = lambda: loop.call_soon_threadsafe(self._loss.set)
        self._labeller = Labeller(client, node, again_seconds=config.collect_seconds)
        self._plugin = Plugin(self, config.driver, chosen)
        post = Post(
            node=node,
            config=config,
            hardware=found,
            offered=self._offered,
            rooms=self._rooms,
            claims=self._claims,
            events=self._events,
            metrics=self._metrics,
            label=self._labeller.want,
            clock=clock,
        )
        self._lookout = Lookout(post)
        self._sampler = Sampler(post, lasts_seconds=config.metrics_seconds)
        self._channels = self._channel_driver() if config.imex != "off" else None
        self._reconfiguration = self._cutter()
        if self._reconfiguration is not None:
            self._lookout.then = self._reconfiguration.heard

    async def run(self) -> None:
        """Serve until stopped."""
        publisher = await self._unless_stopped(self._begun())
        if publisher is None:
            return
        try:
            async with asyncio.TaskGroup() as group:
                announcing = self._lookout.announce(publisher, self._plugin.registered)
                parts = [publisher.run(), announcing, self._labeller.run()]
                parts += [self._lookout.hear(), self._lookout.rescan(), self._collect()]
                if self._config.fake is None:
                    parts.append(follow(self._lookout.look_anew))
                if self._reconfiguration is not None:
                    parts.append(self._reconfiguration.run())
                if self._channels is not None:
                    parts.append(self._channels.run())
                background = [group.create_task(part) for part in parts]
                try:
                    await self._serve()
                finally:
                    for task in background:
                        task.cancel()
        except BaseExceptionGroup as failures:
            raise _cause(failures) from None

    async def _serve(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            if self._config.probe_port is not None:
                host = self._config.probe_host
                port = await stack.enter_async_context(
                    probed(host, self._config.probe_port, lives=self._lives, ready=self._is_ready)
                )
                log.info("probe", port=port)
            if self._config.metrics_port is not None:
                host = self._config.metrics_host
                port = await stack.enter_async_context(
                    exposed(host, self._config.metrics_port, CONTENT_TYPE, self._sampler.exposition)
                )
                log.info("metrics", host=host, port=port)
            if self._channels is not None:
                # Before the GPUs' sockets: what it refuses ends the start while the kubelet knows nothing of us.
                await self._unless_stopped(self._channels.tried.wait())
            await stack.enter_async_context(self._plugin)
            log.info("serving", node=self._node, driver=self._config.driver, socket=str(self._sockets.claims))
            self._ready.set()
            await self._stop.wait()
            log.info("stopping")
        try:
            async with asyncio.timeout(self._config.stop_seconds):
                await self._sampler.settled()
                await self._claims.settled()
                await self._events.sent()
        except TimeoutError:
            log.warning("work is still under way; whoever starts next goes on with it")

    # --- what the kubelet is served (dra_driver.plugin.Served) ---

    async def prepare(self, claims: Sequence[ClaimRef], seconds: float) -> Mapping[str, tuple[Prepared, ...] | str]:
        return await self._claims.prepare(claims, seconds)

    async def unprepare(self, claims: Sequence[ClaimRef], seconds: float) -> Mapping[str, str]:
        return await self._claims.unprepare(claims, seconds)

    def health(self) -> AsyncIterator[tuple[DeviceHealth, ...]]:
        return self._lookout.health()

    # --- the start ---

    async def _node_uid(self) -> str:
        """Of our Node. It may come later than we do: a kubelet makes it."""
        backoff = Backoff(first_seconds=_FIRST_PAUSE_SECONDS, most_seconds=_LONGEST_PAUSE_SECONDS)
        while True:
            try:
                return str((await self._client.get(kinds.NODE, None, self._node))["metadata"]["uid"])
            except ApiError as error:
                if not (error.not_found or error.unanswered or error.status >= 500):
                    raise
                log.warning("the node cannot be read yet", node=self._node, problem=str(error))
            await asyncio.sleep(backoff.seconds())

    async def _begun(self) -> Publisher:
        """All as it must be before the kubelet finds us: nobody beside us, names as they were, what an end in the
        middle has left put right, the offer. Raises what `serve` raises."""
        target = Target(node=self._node, node_uid=await self._node_uid(), driver=self._config.driver)
        self._lookout.about_node = (Regarding(kind=kinds.NODE, name=self._node, uid=target.node_uid),)
        publisher = Publisher(
            self._client,
            target,
            resync_seconds=self._config.resync_seconds,
            on_problem=lambda words: self._lookout.warn("NotPublished", [words] if words else []),
        )
        await publisher.check()
        if gone := await asyncio.to_thread(clear_left, self._sockets, self._config.driver):
            log.info("sockets of earlier instances are removed", names=gone)
        published, _ = await self._client.list(
            kinds.RESOURCE_SLICE, field_selector=f"spec.nodeName={target.node},spec.driver={target.driver}"
        )
        self._offered.remember(_published(published))
        await self._claims.alone(self._lookout.look)
        backoff = Backoff(first_seconds=_FIRST_PAUSE_SECONDS, most_seconds=_LONGEST_PAUSE_SECONDS)
        while not await self._recover(first=True):
            await asyncio.sleep(backoff.seconds())
        await self._claims.alone(self._lookout.look)
        if self._reconfiguration is not None:
            await self._reconfiguration.begin()
        self._lookout.tell()
        return publisher

    async def _recover(self, *, first: bool) -> bool:
        """Put right what is wrong, collect what is left over; False if the API server has to be asked again first."""
        try:
            report = await self._rooms.recovery.run(self._api, self._claims.alone, first=first)
        except ApiError as problem:
            log.warning("what claims hold cannot be asked for yet", problem=str(problem))
            return False
        for words in report.done:
            log.info("put right", what=words)
        for words in report.failed:
            log.warning("not put right; it is tried again", what=words)
        self._lookout.warn("NotPutRight", report.failed)
        return True

    async def _collect(self) -> None:
        """Every so often, and at once when the checkpoint is lost: until it is rebuilt every claim is refused."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._config.collect_seconds):
                    await self._loss.wait()
            self._loss.clear()
            try:
                await self._recover(first=False)
            except (DiskError, CheckpointTooNew) as problem:
                log.error("what is left over cannot be collected", problem=str(problem))
            await self._lookout.look_anew()

    # --- GPUs that are cut anew by a label (dra_driver.reconfigure) ---

    def _cutter(self) -> Reconfiguration | None:
        if self._config.mig_configs is None:
            return None
        site = Site(
            client=self._client,
            node=self._node,
            driver=self._config.driver,
            gpus=self._hardware.gpus,
            alone=self._claims.alone,
            entries=self._rooms.entries,
            boot=self._hardware.host.boot_id,
            inventory=lambda: self._offered.inventory,
            taint=self._lookout.taint,
            look=self._lookout.look_anew,
            published=self._lookout.published,
            claims=self._every_claim,
            events=self._events,
            now=lambda: datetime.fromtimestamp(self._clock(), UTC),
        )
        pace = Pace(drain=self._config.mig_drain_seconds)
        return Reconfiguration(site, self._config.mig_configs, pace, dynamic=self._config.dynamic_mig)

    # --- IMEX channels, a driver of its own (dra_driver.channels) ---

    def _channel_driver(self) -> ChannelDriver:
        site = ChannelSite(
            node=self._node,
            hardware=self._hardware,
            tools=programs_of(self._config, self._hardware),
            gpus=lambda: self._offered.gpus,
            client=self._client,
            lock=self._rooms.lock,
            failed=self._failed,
            clock=self._clock,
        )
        return ChannelDriver(self._config, site)

    # --- claims ---

    def _grants(self, document: Mapping[str, Any]) -> tuple[Grant, ...]:
        found = grants(document, self._config.driver, self._node, uuids=self._offered.uuids())
        self._rooms.cgroups.seen(document)  # Of our claims only: a cluster's are more than are remembered.
        if found:
            self._metrics.reserved(document)
        return found

    async def _every_claim(self) -> Sequence[Mapping[str, Any]]:
        return (await self._client.list(kinds.RESOURCE_CLAIM))[0]

    def _failed(self, claim: ClaimRef, document: Mapping[str, Any] | None, words: str) -> None:
        self._events.tell(claim_and_pods(claim, document), "PrepareFailed", words)

    # --- probes ---

    async def _lives(self) -> str:
        channels = self._channels.paths if self._channels is not None else ()
        for path in (self._sockets.claims, self._sockets.registration, *channels):
            try:
                if not await asyncio.to_thread(answers, path):
                    return f"Socket {path}: nobody answers there, although we should"
            except SocketError as problem:
                return str(problem)
        return ""

    async def _is_ready(self) -> str:
        if self._plugin.refused:
            return f"the kubelet refuses us: {self._plugin.refused}"
        if not self._plugin.registered.is_set():
            return "the kubelet does not know us yet"
        if self._channels is not None and self._channels.unready:
            return self._channels.unready
        return await self._lives()

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What it comes to; None if the service was stopped before."""
        working, stopping = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            working.cancel()
            stopping.cancel()


def _published(slices: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Names of published devices, and the UUIDs of their GPUs."""
    for each in slices:
        for device in each["spec"].get("devices") or ():
            said = device.get("attributes") or {}
            uuid = said.get("parentUUID") or said.get("gpu.nvidia.com/parentUUID")
            uuid = uuid or said.get("uuid") or said.get("gpu.nvidia.com/uuid") or {}
            yield device["name"], str(uuid.get("string", ""))


def _log_as(config: Config) -> None:
    """One line an event on stderr, in the form and from the level that was set."""
    form = structlog.processors.JSONRenderer() if config.log_format == "json" else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            form,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(config.log_level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


@contextlib.contextmanager
def _signals_set(stop: asyncio.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop`, once; a second one ends the process at once."""
    loop = asyncio.get_running_loop()

    def ask() -> None:
        stop.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask)
    yield


def _cause(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure of a group that is not a group itself."""
    first = failures.exceptions[0]
    return _cause(first) if isinstance(first, BaseExceptionGroup) else first
