"""The service: builds the parts and joins them. The only wiring there is.

reflectors -> queue -> state -> cycle -> committer -> API server
                                   \\-> teller -> reporter
                                   \\-> metrics, history, view -> web (a thread of its own)
"""

import asyncio
import contextlib
import gc
import signal
import socket
import sys
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from scheduler.api import changes, kinds
from scheduler.api.changes import Change
from scheduler.commit.attempts import Patience
from scheduler.commit.committer import Committer
from scheduler.commit.fence import Fence
from scheduler.commit.outcome import GangOutcome
from scheduler.commit.reporter import Reporter
from scheduler.commit.slots import Slots
from scheduler.config import Config
from scheduler.cycle import Cycle, CycleReport, Rhythm
from scheduler.explain import alarm
from scheduler.explain.history import History
from scheduler.explain.metrics import Metrics
from scheduler.explain.status import Teller
from scheduler.kube.backoff import Backoff
from scheduler.kube.client import Client
from scheduler.kube.errors import ApiError
from scheduler.kube.lease import Election
from scheduler.kube.reflector import Reflector
from scheduler.model.reasons import DeviceGivenTwice
from scheduler.page import Window, served
from scheduler.stand_by import StandBy
from scheduler.state.assumed import older
from scheduler.state.cluster import ClusterState
from scheduler.state.holders import Holders
from scheduler.state.past_use import PastUse

log = structlog.get_logger(__name__)

_CATCH_UP_SECONDS = 0.1

_GRACE_SECONDS = 10.0
"""How long commits under way may take to end after the service was told to stop."""
_REPORTS_AT_ONCE = 4
_COLLECT_AFTER = (100_000, 50, 50)
_COLLECT_WHILE_READING = (5_000_000, 50, 50)


def _ignore(_: object) -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Onlooker:
    """What a caller in the same process is told: every cycle, what became of every gang, and the page's address."""

    cycle: Callable[[CycleReport], None] = _ignore
    outcome: Callable[[GangOutcome], None] = _ignore
    page: Callable[[str], None] = _ignore


async def serve(
    config: Config,
    *,
    ready: asyncio.Event | None = None,
    stop: asyncio.Event | None = None,
    onlooker: Onlooker | None = None,
) -> None:
    """Run until `stop` is set, or a signal if none is given. `ready` is set after the first cycle.

    Raises what cannot be gone on with: IdentityError at the start, InvariantError for a defect, LeaseLost when another
    replica took over."""
    _log_as(config)
    ending = stop or asyncio.Event()
    with contextlib.ExitStack() as process:
        process.enter_context(_tuned(config))
        if stop is None:
            process.enter_context(_signals_set(ending))
        async with await Client.connect(config.kubeconfig, config.context, config.connections) as client:
            await _Service(config, client, ready or asyncio.Event(), ending, onlooker or Onlooker()).run()


class _Service:
    """The parts of one running scheduler."""

    def __init__(
        self, config: Config, client: Client, ready: asyncio.Event, stop: asyncio.Event, onlooker: Onlooker
    ) -> None:
        self._config = config
        self._client = client
        self._ready = ready
        self._stop = stop
        self._onlooker = onlooker
        self._synced = asyncio.Event()
        self._idle = True
        """Whether no cycle has run yet: we do not lead."""
        self._changes: asyncio.Queue[list[Change]] = asyncio.Queue()
        self._state = ClusterState()
        self._metrics = Metrics()
        client.on_error = lambda method, error: self._metrics.api_error(method, error.reason)
        self._history = History(config.history_cycles)
        self._election = _election(config, client) if config.leader_election else None
        self._window = Window(
            state=self._state,
            policy=config.policy(),
            recheck_seconds=config.recheck_seconds,
            exposition=self._metrics,
            history=self._history,
            loop=asyncio.get_running_loop(),
            leads=self._leads,
            now_ms=client.clock.now_ms,
        )
        slots = Slots(config.writes_in_flight)
        self._holders = Holders()
        self._fence = Fence(self._holders) if config.device_fence == "verify" else None
        self._committer = Committer(
            client,
            self._state,
            slots,
            gangs_in_flight=config.writes_in_flight,
            patience=Patience(
                attempts=config.write_attempts,
                backoff_seconds=config.write_backoff_seconds,
                binding_conditions_seconds=config.binding_conditions_seconds,
                volume_binding_seconds=config.volume_binding_seconds,
            ),
            may_write=self._leads,
            now=client.clock.now,
            fence=self._fence,
        )
        teller = Teller(self._state, scheduler_name=config.scheduler_name)
        self._reporter = Reporter(client, slots, at_once=_REPORTS_AT_ONCE, may_write=self._leads, unsaid=teller.unsaid)
        self._cycle = Cycle(
            self._state,
            self._committer,
            policy=config.policy(),
            rhythm=Rhythm(
                debounce=config.cycle_debounce_seconds,
                interval=config.cycle_interval_seconds,
                recheck=config.recheck_seconds,
                commit_retry=config.commit_retry_seconds,
            ),
            now_ms=client.clock.now_ms,
            teller=teller,
            tell=self._reporter.tell,
            observe=self._observe,
            observe_outcome=self._observe_outcome,
            past_use=PastUse(round(config.usage_half_life_hours * 3_600_000)) if config.usage_weight > 0 else None,
        )
        self._stand_by = StandBy(
            self._state, policy=config.policy(), recheck_seconds=config.recheck_seconds, now_ms=client.clock.now_ms
        )
        self._reflectors = [Reflector(client=client, kind=kind) for kind in self._state.kinds]

    async def run(self) -> None:
        """Follow the cluster, and decide while leading, until stopped."""
        try:
            async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
                if self._config.web_enabled:
                    page = await stack.enter_async_context(served(self._config, self._window))
                    log.info("page", address=page)
                    self._onlooker.page(page)
                parts = [*(each.run(self._changes) for each in self._reflectors), self._take_in(), self._reporter.run()]
                background = [group.create_task(part) for part in parts]
                try:
                    await self._lead(group)
                finally:
                    for task in background:
                        task.cancel()
        except BaseExceptionGroup as failures:
            raise _cause(failures) from None

    async def _lead(self, group: asyncio.TaskGroup) -> None:
        """Wait until the cluster is known and we lead, then decide; at the end let the next one lead."""
        if not await self._unless_stopped(self._synced.wait()):
            return
        log.info("the cluster is known", objects={str(kind): len(self._state.keys(kind)) for kind in self._state.kinds})
        if self._election is None:
            await self._work()
        elif await self._unless_stopped(self._acquired(self._election, group)):
            holding = group.create_task(self._election.hold())
            try:
                await self._unless_stopped(self._catch_up())
                self._alarm(self._holders.standing)
                await self._work()
            finally:
                holding.cancel()
                await self._election.release()

    async def _acquired(self, election: Election, group: asyncio.TaskGroup) -> None:
        """Wait until we lead. While another does, what to do is foreseen."""
        acquiring = group.create_task(election.acquire())
        try:
            if not (await asyncio.wait({acquiring}, timeout=self._config.lease_retry_seconds))[0]:
                await self._stand_by.until(acquiring, foreseen=_keep_what_is_known)
            await acquiring
        finally:
            acquiring.cancel()

    async def _catch_up(self) -> None:
        """Know every device that whoever led before has given in his last moment: our watch may lag behind that, and
        nothing else stops us from giving it again. What the watch has told already stays as it told it: a claim that it
        does not show any more is gone."""
        backoff = Backoff(first_seconds=_CATCH_UP_SECONDS, most_seconds=_CATCH_UP_SECONDS * 8)
        while True:
            following = next(each for each in self._reflectors if each.kind == kinds.RESOURCE_CLAIM)
            try:
                documents, _ = await self._client.list_raw(kinds.RESOURCE_CLAIM)
            except ApiError as error:
                log.warning("the claims cannot be read before the first decision", problem=error.message)
                await asyncio.sleep(backoff.seconds())
                continue
            read = [changes.read(kinds.RESOURCE_CLAIM, document, "MODIFIED") for document in documents]
            while (seen := following.seen) is None:
                await asyncio.sleep(_CATCH_UP_SECONDS)
            self._absorb([each for each in read if each is not None and self._is_news(each, seen)])
            while not self._changes.empty():
                await asyncio.sleep(0)
            return

    def _is_news(self, told: Change, seen: str) -> bool:
        known = self._state.change(told.kind, told.key) is not None
        return known or older(seen, told.meta.resource_version)

    async def _work(self) -> None:
        self._idle = False
        foresight = await self._stand_by.foresight()
        await self._cycle.run(self._stop, grace_seconds=_GRACE_SECONDS, foresight=foresight)

    async def _unless_stopped(self, waiting: Coroutine[Any, Any, object]) -> bool:
        """Whether it came to pass before the service was stopped."""
        passing, stopping = asyncio.create_task(waiting), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({passing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return passing.done() and not self._stop.is_set()
        finally:
            passing.cancel()
            stopping.cancel()

    async def _take_in(self) -> None:
        """What the watches tell, into the state; and whoever waits for it is woken."""
        while True:
            self._absorb(await self._changes.get())

    def _absorb(self, told: Sequence[Change]) -> None:
        version, confirmed = self._state.version, self._state.confirmed
        self._state.apply_all(told)
        self._verify(told)
        for change in told:
            if change.kind is kinds.RESOURCE_CLAIM:
                self._committer.claims.changed(change.key)
            elif change.kind in (kinds.VOLUME_CLAIM, kinds.VOLUME):
                self._committer.volumes.changed(change.kind, change.key)
        if self._state.confirmed != confirmed:
            self._cycle.confirmed()
        if self._state.version != version:
            self._cycle.changed()
            if self._idle:
                self._stand_by.changed()
        if self._state.synced:
            self._synced.set()

    def _verify(self, told: Sequence[Change]) -> None:
        """Look for devices that two claims hold, and tell of them if it is for us to tell."""
        found = self._holders.see(told)
        if self._fence is not None:
            self._fence.changed()
        self._metrics.devices_given_twice(len(found), len(self._holders))
        for each in found:
            log.error("a device is given twice", device=each.device, claims=[each.first.claim, each.second.claim])
        self._alarm(found)

    def _alarm(self, found: Iterable[DeviceGivenTwice]) -> None:
        if self._leads():
            now_ms = self._client.clock.now_ms()
            for each in found:
                self._reporter.tell(alarm.events(each, now_ms=now_ms, component=self._config.scheduler_name))

    def _leads(self) -> bool:
        return self._election is None or self._election.leading

    def _observe(self, report: CycleReport) -> None:
        self._metrics.cycle(report.reports, report.plan, report.seconds)
        self._history.add(report.number, report.reports, report.plan, report.seconds)
        self._window.show(report)
        self._onlooker.cycle(report)
        if not self._ready.is_set():
            _keep_what_is_known()
        self._ready.set()

    def _observe_outcome(self, outcome: GangOutcome) -> None:
        self._metrics.committed(len(outcome.bound), outcome.reason.code if outcome.reason is not None else "")
        self._onlooker.outcome(outcome)


def _election(config: Config, client: Client) -> Election:
    return Election(
        client=client,
        namespace=config.lease_namespace,
        name=config.lease_name,
        identity=f"{socket.gethostname()}_{uuid.uuid4()}",
        lease_seconds=config.lease_seconds,
        renew_seconds=config.lease_renew_seconds,
        retry_seconds=config.lease_retry_seconds,
    )


@contextlib.contextmanager
def _tuned(config: Config) -> Iterator[None]:
    """The interpreter for a process that keeps many small values and hardly any cycles of them.

    Measured with `tests.perf fill --claims`: the collector's usual thresholds cost a quarter of our CPU time. Until the
    first cycle has ended, or a plan was rehearsed, nearly all that is made stays. What a service that has ended leaves
    to a process that goes on is looked at again."""
    sys.setswitchinterval(config.switch_interval_seconds)
    gc.set_threshold(*_COLLECT_WHILE_READING)
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*_COLLECT_AFTER)


def _keep_what_is_known() -> None:
    """The collector looks no more at what is there now: at 100,000 pods one look takes half a second."""
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


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
