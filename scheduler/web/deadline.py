"""A deadline for requests that do not arrive. uvicorn has none: a client that sends a header a minute keeps its
connection for ever, and two hundred of those keep everybody else out."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

ARRIVAL_SECONDS = 10.0
"""For the head of a request, from the connection or its first byte on; for what it says after it was answered, too."""


class PunctualProtocol(H11Protocol):
    """Closes connections whose request is late. Bodies of requests being answered have the application's deadline;
    silence between two requests has `timeout_keep_alive`."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    def _watch(self) -> None:
        cycle: Any = self.cycle
        idle = cycle is None or cycle.response_complete
        if not idle or self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._rest()
        elif self._late is None:
            self._late = self.loop.call_later(ARRIVAL_SECONDS, self._close)

    def _close(self) -> None:
        # Bytes of a request that never ended must not keep the connection open any more than none at all.
        self._late = None
        if not self.transport.is_closing():
            self.transport.abort()

    def _rest(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
