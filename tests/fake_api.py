"""A scripted API server for tests of the client and the reflector: it answers what the test says, in order.

`async with FakeApi() as api: api.script("GET", "/api/v1/pods", reply, reply, ...)`. The last reply of a script repeats.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

Document = dict[str, Any]
_CLOSING = web.AppKey("closing", asyncio.Event)
Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


def answer(body: Any, status: int = 200, **headers: str) -> Reply:
    """A JSON answer; a text is sent as it is."""

    async def reply(_: web.Request) -> web.StreamResponse:
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(text=text, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return reply


def failure(status: int, reason: str, message: str = "no", details: Document | None = None, **headers: str) -> Reply:
    """A `Status` document, as the API server refuses."""
    return answer(failure_document(status, reason, message, details), status, **headers)


def failure_document(status: int, reason: str, message: str = "no", details: Document | None = None) -> Document:
    found: Document = {"kind": "Status", "status": "Failure", "code": status, "reason": reason, "message": message}
    return found | ({"details": details} if details else {})


def hang_up() -> Reply:
    """The connection breaks before an answer."""

    async def reply(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    return reply


def event(type_: str, object_: Document) -> Document:
    return {"type": type_, "object": object_}


def bookmark(version: str, *, ends_list: bool = False) -> Document:
    metadata: Document = {"resourceVersion": version}
    if ends_list:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    # As the real server sends it: a pod without containers, which is no valid pod.
    return event("BOOKMARK", {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {"containers": None}})


def stream(*events: Document | str | bytes, stay: bool = False) -> Reply:
    """A watch: these events, then the end; with `stay` it stays open and silent. Texts are sent as they are."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for each in events:
            text = json.dumps(each) + "\n" if isinstance(each, dict) else each
            await response.write(text.encode() if isinstance(text, str) else text)
        if stay:
            await request.app[_CLOSING].wait()
        return response

    return reply


@dataclass(slots=True)
class FakeApi:
    """The server. `asked` lists the requests it got; a path without a script is 404."""

    asked: list[Asked] = field(default_factory=list)
    url: str = ""
    _scripts: dict[tuple[str, str], list[Reply]] = field(default_factory=dict)
    _runner: web.AppRunner | None = None
    _closing: asyncio.Event = field(default_factory=asyncio.Event)

    def script(self, method: str, path: str, *replies: Reply) -> None:
        self._scripts[method, path] = list(replies)

    def queries(self, path: str) -> list[dict[str, str]]:
        """The query of every request to this path."""
        return [each.query for each in self.asked if each.path == path]

    async def __aenter__(self) -> Self:
        app = web.Application()
        app[_CLOSING] = self._closing
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing.set()
        assert self._runner is not None
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        self.asked.append(
            Asked(
                request.method,
                request.path,
                dict(request.query),
                dict(request.headers),
                json.loads(text) if text else None,
            )
        )
        script = self._scripts.get((request.method, request.path))
        if not script:
            return await failure(404, "NotFound", f"{request.path} is not served")(request)
        reply = script.pop(0) if len(script) > 1 else script[0]
        return await reply(request)
