"""Turns at the API server: so many writes at once, commits before reports."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

COMMITS_PER_REPORT = 32
"""Writes of commits after which a report is written although many more are under way."""


class Slots:
    """At most `size` writes under way. Reports take a turn while no commit waits for one, and never the last. While
    commits take more than half of the turns, one report follows every so many of their writes, even if commits wait: a
    burst of reports shall take little of the binds' time at the server, and a burst of binds silence nobody. First
    come, first served within each."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = size
        self._many = size // 2
        self._committing = 0
        self._since_report = 0
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
            self._give_back()

    async def _take(self, line: deque[asyncio.Future[None]]) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(turn)
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                (self._end_commit if line is self._commits else self._give_back)()
            raise

    def _end_commit(self) -> None:
        self._committing -= 1
        self._since_report += 1
        self._give_back()

    def _give_back(self) -> None:
        self._free += 1
        self._serve()

    def _serve(self) -> None:
        while self._free:
            if self._commits and not (self._reports and self._goes_first()):
                if self._begin(self._commits.popleft()):
                    self._committing += 1
            elif self._reports and (self._commits or self._may_report()):
                if self._begin(self._reports.popleft()):
                    self._since_report = 0
            else:
                return

    def _goes_first(self) -> bool:
        """Whether a report has waited for so many writes of commits that it goes before the next: one at a time."""
        reporting = self._size - self._free - self._committing
        return self._since_report >= COMMITS_PER_REPORT and not reporting

    def _may_report(self) -> bool:
        its_turn = self._committing <= self._many or self._since_report >= COMMITS_PER_REPORT
        return its_turn and self._free > self._spare_for_commits

    def _begin(self, turn: asyncio.Future[None]) -> bool:
        """Whether a write begins with this: not if who waited has given up."""
        if turn.done():
            return False
        self._free -= 1
        turn.set_result(None)
        return True
