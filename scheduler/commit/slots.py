"""Turns at the API server: so many writes at once, commits before reports."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Slots:
    """At most `size` writes under way. Reports take a turn only while no commit waits for one, never the last, and one
    at a time while commits are under way, so that a burst of reports takes no bind's time at the server. First come,
    first served within each."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._committing = 0
        self._reporting = 0
        self._spare_for_commits = 1 if size > 1 else 0
        self._commits: deque[asyncio.Future[None]] = deque()
        self._reports: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def commit(self) -> AsyncIterator[None]:
        """A turn for a write of a commit."""
        await self._take(self._commits)
        try:
            yield
        finally:
            self._end_commit()

    @asynccontextmanager
    async def report(self) -> AsyncIterator[None]:
        """A turn for a status, a condition or an event."""
        await self._take(self._reports)
        try:
            yield
        finally:
            self._end_report()

    async def _take(self, line: deque[asyncio.Future[None]]) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(turn)
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                (self._end_commit if line is self._commits else self._end_report)()
            raise

    def _end_commit(self) -> None:
        self._free += 1
        self._committing -= 1
        self._serve()

    def _end_report(self) -> None:
        self._free += 1
        self._reporting -= 1
        self._serve()

    def _serve(self) -> None:
        while self._free:
            if self._commits:
                self._committing += self._begin(self._commits.popleft())
            elif self._reports and self._may_report():
                self._reporting += self._begin(self._reports.popleft())
            else:
                return

    def _may_report(self) -> bool:
        return self._free > self._spare_for_commits and not (self._committing and self._reporting)

    def _begin(self, turn: asyncio.Future[None]) -> int:
        """How many writes begin with this: none if who waited has given up."""
        if turn.done():
            return 0
        self._free -= 1
        turn.set_result(None)
        return 1
