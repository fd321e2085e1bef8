"""Connections whose requests do not arrive are closed; those that keep to the form are left alone."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn

from scheduler.web import deadline

SAYS_OK = b"HTTP/1.1 200 OK"


async def ok(_scope: object, _receive: object, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """A server with a deadline of a fifth of a second, that lets connections rest for an hour between requests."""
    monkeypatch.setattr(deadline, "ARRIVAL_SECONDS", 0.2)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        ok, http=deadline.PunctualProtocol, lifespan="off", log_config=None, access_log=False, timeout_keep_alive=3600
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listening])
    yield listening.getsockname()[1]
    server.force_exit = True
    await server.shutdown(sockets=[listening])


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "],
    ids=["nothing", "a line", "half a header"],
)
async def test_a_request_whose_head_does_not_arrive_is_given_up(port: int, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()


async def test_the_second_request_of_a_connection_has_the_same_deadline(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await reader.readuntil(b"ok")).startswith(SAYS_OK)
    writer.write(b"GET / HTTP/1.1\r\nHost:")
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()


async def test_a_body_that_goes_on_after_the_answer_is_given_up(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n")
    assert (await reader.readuntil(b"ok")).startswith(SAYS_OK)
    writer.write(b"x")
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()


async def test_a_connection_may_rest_between_requests(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(2):
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readuntil(b"ok")).startswith(SAYS_OK)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(1), 0.4)
    writer.close()
