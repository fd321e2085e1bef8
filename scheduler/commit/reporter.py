"""Sends statuses, conditions and Events: after the commits, the newest word about an object only.

Reports must never slow a bind. They wait in a queue of their own, take turns that no commit wants, and a word that is
overtaken before it was sent is not sent at all.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Protocol

import structlog

from scheduler.api.kinds import Kind
from scheduler.commit.attempts import transient
from scheduler.commit.slots import Slots
from scheduler.kube.client import ApiError, Client

log = structlog.get_logger(__name__)

_MOST_EVENTS = 10_000
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0


class Report(Protocol):
    """What is to be said (`scheduler.explain.status.StatusWrite`): a patch of a status, or a new Event."""

    @property
    def kind(self) -> Kind: ...
    @property
    def key(self) -> str: ...
    @property
    def uid(self) -> str: ...
    @property
    def body(self) -> Mapping[str, Any]: ...
    @property
    def how(self) -> Literal["merge", "strategic", "create"]: ...


class Reporter:
    """`tell` never waits; `run` sends until it is cancelled. Events beyond ten thousand unsent push out the oldest.

    `unsaid` is called with a report that the server refused, so that it can be made again."""

    def __init__(
        self,
        client: Client,
        slots: Slots,
        *,
        at_once: int,
        may_write: Callable[[], bool],
        unsaid: Callable[[Any], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._slots = slots
        self._at_once = at_once
        self._may_write = may_write
        self._unsaid = unsaid
        self._statuses: dict[tuple[Kind, str], Report] = {}
        self._events: deque[Report] = deque(maxlen=_MOST_EVENTS)
        self._sending: set[tuple[Kind, str]] = set()
        self._wake: asyncio.Event = asyncio.Event()
        self._idle: asyncio.Event = asyncio.Event()
        self._idle.set()

    def tell(self, reports: Iterable[Report]) -> None:
        """Queue what is to be said. A status not sent yet is replaced by the newer one of the same object."""
        for report in reports:
            if report.how == "create":
                self._events.append(report)
            else:
                self._statuses[report.kind, report.key] = report
        if self._statuses or self._events:
            self._idle.clear()
            self._wake.set()

    async def run(self) -> None:
        """Send what is told, some at once, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._at_once):
                group.create_task(self._send_all())

    async def told(self) -> None:
        """Until everything told so far has been sent, or was refused for good."""
        await self._idle.wait()

    async def _send_all(self) -> None:
        while True:
            report = self._next()
            if report is None:
                self._wake.clear()
                if not (self._sending or self._statuses or self._events):
                    self._idle.set()
                await self._wake.wait()
                continue
            subject = (report.kind, report.key)
            self._sending.add(subject)
            try:
                await self._send(report)
            finally:
                self._sending.discard(subject)
                self._wake.set()

    def _next(self) -> Report | None:
        """The first status whose object is not being written, so that its words arrive in order; else an Event."""
        for subject in self._statuses:
            if subject not in self._sending:
                return self._statuses.pop(subject)
        return self._events.popleft() if self._events else None

    async def _send(self, report: Report) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while self._may_write():
            try:
                async with self._slots.report():
                    await self._request(report)
                return
            except ApiError as error:
                if not transient(error):
                    # Gone, or a namesake made since: there is nobody to tell.
                    if not (error.not_found or error.conflict or error.already_exists):
                        log.warning("a report was refused", object=f"{report.kind} {report.key}", problem=str(error))
                        self._unsaid(report)
                    return
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            if (report.kind, report.key) in self._statuses:
                return

    async def _request(self, report: Report) -> None:
        namespace, _, name = report.key.rpartition("/")
        if report.how == "create":
            await self._client.create(report.kind, namespace, dict(report.body))
        else:
            await self._client.patch(
                report.kind, namespace or None, name, report.body, subresource="status", how=report.how
            )
