"""How long things take in the embedded cluster: seconds of cluster time, real, faster than real, or moved by hand."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A call that is due."""

    def cancel(self) -> None:
        """Do not call; without effect once called."""
        ...


class Clock(Protocol):
    """Cluster time in seconds, and calls when it comes."""

    def time(self) -> float:
        """Seconds since some moment in the past; never runs backwards."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back once, after this many seconds of cluster time."""
        ...


class LoopClock:
    """The event loop's time. `scale`: seconds of cluster time in one real second (60 runs an hour in a minute)."""

    def __init__(self, scale: float = 1.0) -> None:
        if scale <= 0:
            raise ValueError(f"time scale {scale} is not above 0; 1 is real time, 60 makes a minute of each second")
        self._scale = scale

    def time(self) -> float:
        """The loop's time, scaled."""
        return asyncio.get_running_loop().time() * self._scale

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """By the loop's own timers."""
        return asyncio.get_running_loop().call_later(seconds / self._scale, callback)


class ManualClock:
    """Time that stands still until `advance`: for tests and simulations."""

    def __init__(self) -> None:
        self._now = 0.0
        self._count = 0
        self._due: list[tuple[float, int, _ManualTimer]] = []

    def time(self) -> float:
        """Seconds advanced so far."""
        return self._now

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Called from inside the `advance` that reaches the time; calls of one moment in the order they were asked."""
        timer = _ManualTimer(callback)
        self._count += 1
        heapq.heappush(self._due, (self._now + seconds, self._count, timer))
        return timer

    @property
    def next_due(self) -> float | None:
        """When the next call is due, None when none is."""
        while self._due and self._due[0][2].callback is None:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def advance(self, seconds: float) -> None:
        """Move on, calling all that becomes due on the way, also what those calls ask for."""
        end = self._now + seconds
        while self._due and self._due[0][0] <= end:
            due, _, timer = heapq.heappop(self._due)
            self._now = max(self._now, due)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()
        self._now = end


class _ManualTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None
