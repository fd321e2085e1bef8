"""A reverse proxy between scheduler and API server: it records every write, can refuse, lose or stop every request, and
can spoil every watch."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
from aiohttp import web

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A request that changes something. `number` counts the writes of the proxy, from 1."""

    number: int
    method: str
    path: str
    body: Any

    @property
    def subject(self) -> str:
        """What is written, without the API's prefix: "resourceclaims/c/status", "pods/p/binding"."""
        return self.path.split("/namespaces/", 1)[-1].partition("/")[2] or self.path

    @property
    def of_a_commit(self) -> bool:
        """Whether it is one of a commit's: of a claim, a volume, or a binding."""
        return "/resourceclaims" in self.path or "/persistentvolume" in self.path or self.path.endswith("/binding")


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A request that changes nothing. `watch`: it is answered line by line, for as long as it lasts."""

    path: str
    watch: bool


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer with this Status; the server never sees the request."""

    status: int
    reason: str = ""
    message: str = "refused by the test"

    @property
    def body(self) -> dict[str, object]:
        """The Status object."""
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        return status | {"code": self.status, "reason": self.reason, "message": self.message}


class LoseRequest:
    """Close the connection; the server never sees the request."""


class LoseAnswer:
    """Let the server carry it out, then close the connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """Do something before the request goes on, or between the server's answer and the client."""

    before: Callable[[], Awaitable[None]] | None = None
    after: Callable[[], Awaitable[None]] | None = None


class Cut(Exception):
    """Raised by `Spoil.lines`: the connection breaks behind the lines given so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoil:
    """Pass the lines of a watch through `lines`, which may hold back, repeat, swap or add some, or raise Cut."""

    lines: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]


Meddling = Refuse | LoseRequest | LoseAnswer | Around | None
ReadMeddling = Refuse | LoseRequest | Around | Spoil | None


def leave_alone(_: Write) -> Meddling:
    return None


def let_read(_: Read) -> ReadMeddling:
    return None


@dataclass
class Proxy:
    """`async with Proxy(target=cluster.url) as proxy:`. `meddle` decides about each write, `meddle_read` about each
    list, get and watch.

    `tls` and `authorization`: how the server behind it is to be spoken to, and who its clients are there."""

    target: str
    meddle: Callable[[Write], Meddling] = leave_alone
    meddle_read: Callable[[Read], ReadMeddling] = let_read
    tls: ssl.SSLContext | None = None
    authorization: str | None = None
    writes: list[Write] = field(default_factory=list)
    cut: bool = False
    """When set, nothing passes any more, in either direction."""
    _open: set[asyncio.Transport] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    def kubeconfig(self, path: Path) -> Path:
        cluster = {"name": "proxy", "cluster": {"server": self.url}}
        context = {"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [cluster],
                    "contexts": [context],
                    "current-context": "proxy",
                    "users": [{"name": "proxy", "user": {}}],
                }
            )
        )
        return path

    def cut_off(self) -> None:
        """Break every connection, idle watches too, and let nothing pass until `cut` is reset."""
        self.cut = True
        for transport in list(self._open):
            transport.abort()

    async def __aenter__(self) -> "Proxy":
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self.tls or True),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            headers={"Authorization": self.authorization} if self.authorization else None,
        )
        self._runner = web.ServerRunner(web.Server(self._handle, handler_cancellation=True), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, 0)
        await site.start()
        self._port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        self._open.add(transport)
        try:
            return await self._answer(request)
        finally:
            self._open.discard(transport)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        if self.cut:
            return self._drop(request)
        if request.method == "GET":
            return await self._read(request)
        write = Write(
            number=len(self.writes) + 1,
            method=request.method,
            path=request.path,
            body=json.loads(body) if body else None,
        )
        self.writes.append(write)
        meddling = self.meddle(write)
        if isinstance(meddling, Refuse):
            return web.json_response(meddling.body, status=meddling.status)
        if isinstance(meddling, LoseRequest):
            return self._drop(request)
        if isinstance(meddling, Around) and meddling.before is not None:
            await meddling.before()
            if self.cut:
                return self._drop(request)
        answer, content = await self._forward(request, body)
        if isinstance(meddling, Around) and meddling.after is not None:
            await meddling.after()
        if isinstance(meddling, LoseAnswer) or self.cut:
            return self._drop(request)
        return web.Response(body=content, status=answer.status, headers=_headers(answer))

    async def _forward(self, request: web.BaseRequest, body: bytes) -> tuple[aiohttp.ClientResponse, bytes]:
        async with self._session.request(
            request.method, self.target + request.raw_path, data=body, headers=_end_to_end(request)
        ) as answer:
            return answer, await answer.read()

    async def _read(self, request: web.BaseRequest) -> web.StreamResponse:
        meddling = self.meddle_read(Read(path=request.path, watch="watch" in request.query))
        if isinstance(meddling, Refuse):
            return web.json_response(meddling.body, status=meddling.status)
        if isinstance(meddling, LoseRequest):
            return self._drop(request)
        if isinstance(meddling, Around) and meddling.before is not None:
            await meddling.before()
        async with self._session.get(self.target + request.raw_path, headers=_end_to_end(request)) as answer:
            response = web.StreamResponse(status=answer.status, headers=_headers(answer))
            await response.prepare(request)
            chunks = answer.content.iter_any()
            try:
                async for chunk in meddling.lines(_lines(chunks)) if isinstance(meddling, Spoil) else chunks:
                    if self.cut:
                        return self._drop(request)
                    await response.write(chunk)
                await response.write_eof()
            except (Cut, ConnectionResetError):  # broken by us, or given up by the client
                return self._drop(request)
            return response

    @staticmethod
    def _drop(request: web.BaseRequest) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        raise asyncio.CancelledError


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest


def _headers(answer: aiohttp.ClientResponse) -> dict[str, str]:
    kept = ("Content-Type", "Retry-After")
    return {name: answer.headers[name] for name in kept if name in answer.headers}


def _end_to_end(request: web.BaseRequest) -> dict[str, str]:
    dropped = ("host", "connection", "content-length", "transfer-encoding")
    return {name: value for name, value in request.headers.items() if name.lower() not in dropped}
