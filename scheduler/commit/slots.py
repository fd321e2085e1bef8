"""Turns at the API server: so many writes at once, commits before reports."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Slots:
    """At most `size` writes under way. Reports take a turn only while no commit waits for one, and never the last,
    so that a burst of reports is never ahead of a bind. First come, first served within each."""

    def __init__(self, size: int) -> None:
        self._free = size
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
            self._give_back()

    @asynccontextmanager
    async def report(self) -> AsyncIterator[None]:
        """A turn for a status, a condition or an event."""
        await self._take(self._reports)
        try:
            yield
        finally:
            self._give_back()

    async def _take(self, line: deque[asyncio.Future[None]]) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(turn)
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back()
            raise

    def _give_back(self) -> None:
        self._free += 1
        self._serve()

    def _serve(self) -> None:
        while self._free:
            if self._commits:
                turn = self._commits.popleft()
            elif self._reports and self._free > self._spare_for_commits:
                turn = self._reports.popleft()
            else:
                return
            if not turn.done():
                self._free -= 1
                turn.set_result(None)
