"""The API of any cluster as simulated nodes see it: `scheduler.devcluster.access.Api` over HTTP.

Written apart from the scheduler's own client, so that simulated nodes do not share its faults.
"""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import aiohttp

from scheduler.devcluster.access import ADDED, MERGE_PATCH, Batch, StatusError
from scheduler.devcluster.kinds import Kind
from scheduler.devcluster.objects import Obj, format_time
from scheduler.kube.identity import Identity

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 0.2
_JSON = "application/json"


class Remote:
    """`async with Remote(identity) as api:`. `connections`: most requests under way at once; watches have their own."""

    def __init__(self, identity: Identity, *, connections: int = 32) -> None:
        self._identity = identity
        self._connections = connections

    async def __aenter__(self) -> "Remote":
        tls = self._identity.tls or True
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, ssl=tls), timeout=aiohttp.ClientTimeout(total=30)
        )
        self._watches = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=tls),
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=2**22,  # one line of a watch is one object
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        await self._watches.close()

    async def minor(self) -> int:
        """The server's minor version."""
        return int((await self._ask("GET", "/version"))["minor"].rstrip("+"))

    async def gates(self) -> frozenset[str]:
        """The feature gates that are on, as a real server tells in its metrics."""
        metrics = (await self._content("GET", "/metrics", accept="text/plain")).decode()
        return frozenset(re.findall(r'^kubernetes_feature_enabled\{name="(\w+)".*\} 1$', metrics, re.MULTILINE))

    def now(self) -> str:
        """This machine's time."""
        return format_time(datetime.now(UTC))

    async def follow(self, kind: Kind) -> AsyncIterator[Batch]:
        """As Api.follow. A watch that ends goes on from its last version; one that cannot, from a new list."""
        version = ""
        while True:
            try:
                if not version:
                    listed = await self._ask("GET", _path(kind))
                    version = str(listed["metadata"]["resourceVersion"])
                    yield Batch(changes=[(ADDED, _typed(kind, item)) for item in listed["items"]], whole=True)
                async for type_, obj in self._watch(kind, version):
                    version = str(obj["metadata"]["resourceVersion"])
                    if type_ != "BOOKMARK":
                        yield Batch(changes=[(type_, obj)])
            except StatusError as error:
                log.debug("following %s: %s", kind.plural, error.message)
                if error.code == 410:
                    version = ""
                else:
                    await asyncio.sleep(_AGAIN_SECONDS)

    async def list(self, kind: Kind, namespace: str | None = None) -> list[Obj]:
        """As Api.list."""
        listed = await self._ask("GET", _path(kind, namespace))
        return [_typed(kind, item) for item in listed["items"]]

    async def get(self, kind: Kind, namespace: str, name: str) -> Obj:
        """As Api.get."""
        return await self._ask("GET", _path(kind, namespace, name))

    async def create(self, kind: Kind, obj: Obj, *, subresource: str = "", dry_run: bool = False) -> Obj:
        """As Api.create; with a sub-resource, post to that of the object of this name. `dry_run`: store nothing."""
        meta = obj["metadata"]
        name = meta["name"] if subresource else ""
        path = _path(kind, meta.get("namespace"), name, subresource)
        return await self._ask("POST", path + ("?dryRun=All" if dry_run else ""), obj)

    async def update(self, kind: Kind, obj: Obj, *, subresource: str | None = None) -> Obj:
        """As Api.update."""
        meta = obj["metadata"]
        return await self._ask("PUT", _path(kind, meta.get("namespace"), meta["name"], subresource), obj)

    async def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        body: Any,
        *,
        how: str = MERGE_PATCH,
        subresource: str | None = None,
    ) -> Obj:
        """As Api.patch."""
        return await self._ask("PATCH", _path(kind, namespace, name, subresource), body, how=how)

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str | None = None, grace_seconds: int | None = None
    ) -> Obj | None:
        """As Api.delete."""
        options: Obj = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        left = await self._ask("DELETE", _path(kind, namespace, name), options)
        if left["kind"] == "Status":
            return None
        meta = left["metadata"]  # a pod comes back in the answer even when it is gone
        return left if meta.get("finalizers") or meta.get("deletionGracePeriodSeconds") else None

    async def delete_all(self, kind: Kind, namespace: str) -> None:
        """Delete every object of a kind in a namespace."""
        await self._ask("DELETE", _path(kind, namespace))

    async def _watch(self, kind: Kind, version: str) -> AsyncIterator[tuple[str, Obj]]:
        """The events of one watch until the server ends it. StatusError 410 when the version is too old."""
        query = {"watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true"}
        try:
            async with self._watches.get(
                self._identity.server + _path(kind), params=query, headers=await self._identity.headers()
            ) as answer:
                if answer.status != 200:
                    raise _refusal(answer.status, await answer.read())
                async for line in answer.content:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise _status(event["object"])
                    yield event["type"], event["object"]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unanswered(error) from error

    async def _ask(self, method: str, path: str, body: Any = None, *, how: str = _JSON) -> Obj:
        """One request and the object in its answer. StatusError as below."""
        found: Obj = json.loads(await self._content(method, path, body, how=how))
        return found

    async def _content(
        self, method: str, path: str, body: Any = None, *, how: str = _JSON, accept: str = _JSON
    ) -> bytes:
        """The answer to one request. StatusError for every one that refuses it, and 503 when there is none."""
        headers = await self._identity.headers() | {"Content-Type": how, "Accept": accept}
        data = None if body is None else json.dumps(body).encode()
        try:
            async with self._session.request(
                method, self._identity.server + path, data=data, headers=headers
            ) as answer:
                content = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unanswered(error) from error
        if answer.status >= 300:
            raise _refusal(answer.status, content)
        return content


def _path(kind: Kind, namespace: str | None = None, name: str = "", subresource: str | None = None) -> str:
    root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
    parts = [root, *(["namespaces", namespace] if namespace else []), kind.plural, name, subresource or ""]
    return "/".join(part for part in parts if part)


def _typed(kind: Kind, item: Obj) -> Obj:
    """Items of a list come without apiVersion and kind."""
    return {"apiVersion": kind.api_version, "kind": kind.kind, **item}


def _refusal(code: int, content: bytes) -> StatusError:
    """An answer that is no success; what serves no API (a group that just goes) answers in plain text."""
    try:
        return _status(json.loads(content))
    except (ValueError, AttributeError):
        return StatusError(code, "", content.decode(errors="replace"))


def _status(status: Mapping[str, Any]) -> StatusError:
    code, reason = int(status.get("code") or 500), str(status.get("reason") or "")
    return StatusError(code, reason, str(status.get("message")), status.get("details"))


def _unanswered(error: BaseException) -> StatusError:
    return StatusError(503, "ServiceUnavailable", f"no answer: {error or type(error).__name__}")
