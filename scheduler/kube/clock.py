"""The API server's clock, read from its answers.

Nearly all times were given by the API server: of creations, binds, deletions. So the question how long ago that was is
for its clock. Ours may be off by an hour, or be set while we run; then a pod that is on its way out would seem to
have been stuck for long. Every answer carries the server's time, to the second (RFC 9110 6.6.1), so the difference to
our monotonic clock lies in an interval that each answer narrows, down to the time that answers are under way.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache

_SECOND_MS = 1000.0


class ServerClock:
    """Milliseconds since 1970 as the API server counts them. Before its first answer, and where answers carry no time,
    as this machine does."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`monotonic`: seconds since any moment."""
        self._monotonic = monotonic
        self._ahead: tuple[float, float] | None = None
        """By how much the server's clock is ahead of our monotonic one (ms): at least, at most."""

    def start(self) -> float:
        """When a request is sent, for `heard`."""
        return self._monotonic() * 1000

    def heard(self, date: str | None, sent: float) -> None:
        """An answer has come; `date`: its header of this name. Without one, or with one that is no date, nothing is
        learnt."""
        told = _read(date) if date else None
        if told is None:
            return
        least, most = told - self._monotonic() * 1000, told + _SECOND_MS - sent
        if self._ahead is not None:
            narrowed = max(least, self._ahead[0]), min(most, self._ahead[1])
            if narrowed[0] <= narrowed[1]:
                self._ahead = narrowed
                return
        # The first answer; or the server's clock was set, or has run apart from ours, or another server answers.
        self._ahead = least, most

    def now_ms(self) -> int:
        """What the server's clock says now."""
        if self._ahead is None:
            return time.time_ns() // 1_000_000
        return int(self._monotonic() * 1000 + sum(self._ahead) / 2)

    def now(self) -> datetime:
        """The same, in UTC."""
        return datetime.fromtimestamp(self.now_ms() / 1000, UTC)


@lru_cache(maxsize=4)
def _read(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() * 1000
    except (ValueError, OverflowError):
        return None
