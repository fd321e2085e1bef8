"""Keys to look at: each by one worker at a time, again when it changed meanwhile, later when the write was refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from scheduler.devcluster.access import StatusError

log = logging.getLogger(__name__)

_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 0.005, 5.0
_TURN = 64
_EXPECTED = (404, 409)  # the object changed or went while we decided


class Work:
    """The queue of one reconciler. `sync(key)` brings what the key names to where it should be, and may be repeated.

    A StatusError from `sync` is retried with growing pauses (5 ms to 5 s); any other exception ends `run`.
    """

    def __init__(self, name: str, sync: Callable[[str], Awaitable[None]], *, workers: int = 1) -> None:
        self.name = name
        self._sync = sync
        self._workers = workers
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._waiting: dict[str, None] = {}
        self._busy: dict[str, None] = {}
        self._again: dict[str, None] = {}
        self._failures: dict[str, int] = {}
        self._retries: dict[str, asyncio.TimerHandle] = {}

    @property
    def quiet(self) -> bool:
        """True when nothing waits, is worked on, or is to be retried."""
        return not (self._waiting or self._busy or self._retries)

    def add(self, key: str) -> None:
        """Look at this key soon; once for any number of calls before the look."""
        if key in self._busy:
            self._again[key] = None
        elif key not in self._waiting:
            self._waiting[key] = None
            self._queue.put_nowait(key)

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._work())
        finally:
            for handle in self._retries.values():
                handle.cancel()
            self._retries.clear()

    async def _work(self) -> None:
        done = 0
        while True:
            key = await self._queue.get()
            del self._waiting[key]
            self._busy[key] = None
            try:
                await self._sync(key)
                self._failures.pop(key, None)
            except StatusError as error:
                self._retry(key, error)
            finally:
                del self._busy[key]
            if self._again.pop(key, "") is None:
                self.add(key)
            done += 1
            if done % _TURN == 0:
                await asyncio.sleep(0)

    def _retry(self, key: str, error: StatusError) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        pause = min(_FIRST_RETRY_SECONDS * 2 ** min(failures - 1, 20), _LAST_RETRY_SECONDS)
        level = logging.DEBUG if error.code in _EXPECTED and failures < 5 else logging.WARNING
        log.log(level, "%s: %s: %s; retry in %.3f s", self.name, key, error.message, pause)
        old = self._retries.pop(key, None)
        if old is not None:
            old.cancel()
        self._retries[key] = asyncio.get_running_loop().call_later(pause, self._retry_now, key)

    def _retry_now(self, key: str) -> None:
        self._retries.pop(key, None)
        self.add(key)
