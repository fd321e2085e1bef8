"""The debug API and the page beside the running service: what they may ask, and the thread they live in.

Values are handed over whole and never changed, so the web's thread reads them without a lock; what touches the state is
asked of the loop that owns it.
"""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import uvicorn

from scheduler.config import Config, ConfigError
from scheduler.cycle import CycleReport
from scheduler.decision import decide
from scheduler.explain.history import History
from scheduler.explain.metrics import Exposition, Metrics
from scheduler.model.plan import Plan
from scheduler.model.plan_document import to_json
from scheduler.model.snapshot import Policy
from scheduler.state import manifests, recording, translate
from scheduler.state.cluster import ClusterState
from scheduler.web.app import create_app
from scheduler.web.deadline import PunctualProtocol
from scheduler.web.view import View, WhatIfRefused

T = TypeVar("T")

_ASK_SECONDS = 10.0
_STOP_SECONDS = 3.0
_MOST_CONNECTIONS = 200
"""Open at once, idle ones included; further ones are told 503."""

_MISSED_CYCLES = 10
"""So many periodic cycles may be missed in a row before the service calls itself unhealthy."""


@dataclass(slots=True, kw_only=True)
class Window:
    """The service as the web sees it (`scheduler.web.view.Source`). Its methods may be called from any thread."""

    state: ClusterState
    policy: Policy
    recheck_seconds: float
    exposition: Metrics
    history: History
    loop: asyncio.AbstractEventLoop
    leads: Callable[[], bool]
    now_ms: Callable[[], int]
    _newest: View | None = None
    _report: CycleReport | None = None
    _alive: float = 0.0

    def show(self, report: CycleReport) -> None:
        """A cycle has ended."""
        self._alive = time.monotonic()
        self._report = report
        self._newest = View(
            cycle=report.number,
            snapshot=report.snapshot,
            plan=report.plan,
            reports=report.reports,
            cycles=self.history.cycles,
            decisions=self.history.decisions,
        )

    def view(self) -> View | None:
        return self._newest

    def unhealthy(self) -> str:
        if self._newest is None or not self.leads():
            return ""
        silent = time.monotonic() - self._alive
        return f"no cycle has ended for {silent:.0f} s" if silent > _MISSED_CYCLES * self.recheck_seconds else ""

    def not_ready(self) -> str:
        awaited = ", ".join(str(kind) for kind in self.state.awaited)
        if awaited:
            return f"waiting for the first list of {awaited}"
        return "no cycle has ended yet" if self.leads() and self._newest is None else ""

    def metrics(self) -> Exposition:
        return self.exposition.exposition()

    def recording(self) -> bytes:
        report = self._report
        if report is None:
            return recording.dump(self._ask(self.state.fork), now_ms=self.now_ms(), policy=self.policy)
        return recording.of(report.state, report.snapshot, held_back=report.held_back, decided=to_json(report.plan))

    def what_if(self, documents: str) -> Plan:
        try:
            state = manifests.read(manifests.parse(documents, "the body"), self._ask(self.state.fork))
            return decide(translate.snapshot(state, now_ms=self.now_ms(), policy=self.policy))
        except manifests.InputError as problem:
            raise WhatIfRefused(str(problem)) from None

    def _ask(self, question: Callable[[], T]) -> T:
        """Ask something of the state in the loop that owns it."""

        async def answer() -> T:
            return question()

        return asyncio.run_coroutine_threadsafe(answer(), self.loop).result(_ASK_SECONDS)


@asynccontextmanager
async def served(config: Config, window: Window) -> AsyncIterator[str]:
    """Serve the debug API and the page in a thread of their own; its address. Raises ConfigError for a port in use."""
    listening = _listen(config.web_host, config.web_port)
    host, port = listening.getsockname()[:2]
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(window),
            http=PunctualProtocol,
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
            timeout_keep_alive=30,
            limit_concurrency=_MOST_CONNECTIONS,
        )
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="web", daemon=True)
    thread.start()
    try:
        yield f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
    finally:
        server.should_exit = True
        await asyncio.to_thread(thread.join, _STOP_SECONDS)
        listening.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(
            "web_port", f"{host}:{port} cannot be listened on ({error.strerror})", "choose another port, or 0 for any"
        ) from None
