"""Requests to the API server: read, write, bind, evict. The only HTTP of the scheduler.

Reads are tried again on their own. A write is repeated only where the server surely did nothing (it was busy, or it
could not be reached); what became of any other is for the caller to look at. One exception is aiohttp's (RFC 9112
9.3.1): a PUT or DELETE on a kept connection that breaks is sent once more; resourceVersion and uid guard those.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import aiohttp
import msgspec
from yarl import URL

from scheduler.api.changes import shallow
from scheduler.api.kinds import POD, Kind
from scheduler.kube.backoff import Backoff
from scheduler.kube.clock import ServerClock
from scheduler.kube.errors import ApiError, from_answer
from scheduler.kube.identity import Identity, load

__all__ = ["ApiError", "Client", "RawList"]

Document = dict[str, Any]
Documents = list[Document]
RawItems = list[bytes]
Names = list[str]
T = TypeVar("T")

_PATCHES = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
}
_PAGE = 500
_BUSY = frozenset({429, 500, 502, 503, 504})
_LONGEST_WAIT_SECONDS = 30.0


class RawList(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a list, its items not decoded yet."""

    class Meta(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
        resource_version: str = ""
        continue_: str = msgspec.field(default="", name="continue")

    metadata: Meta = Meta()
    items: list[msgspec.Raw] | None = None


_page = msgspec.json.Decoder(RawList)
_document = msgspec.json.Decoder(dict[str, Any])


class Client:
    """A session with the API server. `async with await Client.connect() as client: ...`

    `connections`: most requests under way at once; further ones wait. Watches have connections of their own."""

    def __init__(
        self,
        identity: Identity,
        *,
        connections: int = 64,
        timeout_seconds: float = 30.0,
        attempts: int = 5,
        jitter: random.Random | None = None,
    ) -> None:
        self.identity = identity
        self._attempts = attempts
        self._jitter = jitter or random.Random()
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self.clock = ServerClock()
        """The server's, as its answers tell it."""
        self._session = self._new_session(connections)
        self._watches = self._new_session(0)
        self.on_error: Callable[[str, ApiError], None] = _ignore
        """Told of every answer that refuses a request, repeated ones included: the method and the error."""

    @classmethod
    async def connect(
        cls, kubeconfig: Path | str | None = None, context: str | None = None, connections: int = 64
    ) -> "Client":
        """A client for the cluster of the kubeconfig, else of the pod we run in, else of ~/.kube/config.

        Raises IdentityError if there is none; sends nothing yet."""
        return cls(await load(Path(kubeconfig) if kubeconfig else None, context), connections=connections)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._session.close()
        await self._watches.close()

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Document:
        """One object. Raises ApiError (`not_found` if it is not there)."""
        return await self._read(_document, "GET", kind.url(namespace, name))

    async def get_raw(self, kind: Kind, namespace: str | None, name: str) -> bytes:
        """The same as the server sent it, for those who write it back. May be no JSON, if a proxy answered."""
        return await self._ask("GET", kind.url(namespace, name))

    async def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> tuple[Documents, str]:
        """All objects of a kind (in a namespace, or in all), and the resource version of the list."""
        items, version = await self.list_raw(kind, namespace, label_selector, field_selector)
        return [msgspec.json.decode(item) for item in items], version

    async def list_raw(
        self,
        kind: Kind,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        resource_version: str | None = None,
    ) -> tuple[RawItems, str]:
        """The same as documents not decoded yet. Pages of 500; if a page comes too late, once more in one piece."""
        wanted = {"labelSelector": label_selector, "fieldSelector": field_selector}
        query = {name: value for name, value in wanted.items() if value}
        first = query | {"limit": str(_PAGE)}
        if resource_version is not None:
            first["resourceVersion"] = resource_version
        url = kind.url(namespace)
        page = await self._read(_page, "GET", url, query=first)
        # The bytes are copied out of the page: one object that stays must not keep the whole answer in memory.
        items = [bytes(item) for item in page.items or ()]
        while page.metadata.continue_:
            following = query | {"limit": str(_PAGE), "continue": page.metadata.continue_}
            try:
                page = await self._read(_page, "GET", url, query=following)
            except ApiError as error:
                if not error.gone:
                    raise
                page = await self._read(_page, "GET", url, query=query)
                items = []
            items += [bytes(item) for item in page.items or ()]
        return items, page.metadata.resource_version

    async def create(self, kind: Kind, namespace: str | None, body: Document) -> Document:
        """Make an object. Raises ApiError (`already_exists`)."""
        return await self._read(_document, "POST", kind.url(namespace), body=body)

    async def create_raw(self, kind: Kind, namespace: str | None, body: Document | msgspec.Raw) -> bytes:
        """The same; returns the object as the server sent it."""
        return await self._ask("POST", kind.url(namespace), body=body)

    async def replace(
        self, kind: Kind, namespace: str | None, name: str, body: Document, subresource: str | None = None
    ) -> Document:
        """PUT the whole object or its sub-resource. Raises ApiError (`conflict` if it changed since it was read)."""
        return await self._read(_document, "PUT", kind.url(namespace, name, subresource), body=body)

    async def replace_raw(
        self, kind: Kind, namespace: str | None, name: str, body: Document, subresource: str | None = None
    ) -> bytes:
        """The same; returns the object as the server sent it. Parts of `body` that are msgspec.Raw go out untouched."""
        return await self._ask("PUT", kind.url(namespace, name, subresource), body=body)

    async def patch(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        body: Any,
        *,
        subresource: str | None = None,
        how: Literal["merge", "strategic", "json"] = "merge",
    ) -> Document:
        """PATCH the object or its sub-resource. `body`: a document, or for json a list of operations."""
        return await self._read(_document, "PATCH", kind.url(namespace, name, subresource), body=body, how=how)

    async def delete(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
        grace_seconds: int | None = None,
        propagation: Literal["Background", "Foreground", "Orphan"] | None = None,
    ) -> None:
        """Delete it, only if it still has this uid. Raises ApiError (`not_found`; `conflict` for another uid).

        `propagation`: what becomes of its dependents; None is the server's choice (they go, but those of Jobs stay)."""
        await self._ask("DELETE", kind.url(namespace, name), body=_deletion(uid, grace_seconds, propagation))

    async def bind(
        self, namespace: str, name: str, uid: str, node: str, *, annotations: Mapping[str, str] | None = None
    ) -> None:
        """Give the pod its node, and with it these annotations. Raises ApiError (`conflict` if it has a node, or is
        another pod of that name)."""
        metadata: Document = {"name": name, "namespace": namespace, "uid": uid}
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": metadata | ({"annotations": dict(annotations)} if annotations else {}),
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        await self._ask("POST", POD.url(namespace, name, "binding"), body=body)

    async def evict(
        self,
        namespace: str,
        name: str,
        uid: str | None = None,
        grace_seconds: int | None = None,
        *,
        dry_run: bool = False,
    ) -> None:
        """Ask the pod to leave, or with `dry_run` only whether it might. Raises ApiError (`too_many_requests` if a
        PodDisruptionBudget forbids it now)."""
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": {**_deletion(uid, grace_seconds), **({"dryRun": ["All"]} if dry_run else {})},
        }
        await self._ask("POST", POD.url(namespace, name, "eviction"), body=body, patient=False)

    async def served(self) -> set[tuple[str, str, str]]:
        """Every resource the server offers now, as (group, version, plural); groups that do not answer are left out."""
        core = await self._read(_document, "GET", "/api")
        groups = await self._read(_document, "GET", "/apis")
        paths = [("", version, f"/api/{version}") for version in core.get("versions") or ()]
        paths += [
            (group["name"], version["version"], f"/apis/{version['groupVersion']}")
            for group in groups.get("groups") or ()
            for version in group.get("versions") or ()
        ]
        answers = await asyncio.gather(*(self._resources(path) for _, _, path in paths))
        return {
            (group, version, name) for (group, version, _), names in zip(paths, answers, strict=True) for name in names
        }

    @asynccontextmanager
    async def watch(
        self, kind: Kind, query: Mapping[str, str], *, silence_seconds: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The chunks of a watch, as they come; it ends when the server ends it or says nothing for `silence_seconds`.

        Raises ApiError if it is refused, or if the connection breaks on the way."""
        request = f"WATCH {kind.url()}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=silence_seconds)
        sent = self.clock.start()
        try:
            answer = await self._watches.get(
                self._url(kind.url()),
                params={"watch": "1", **query},
                headers=await self.identity.headers(),
                timeout=timeout,
                proxy=self.identity.proxy,
            )
            async with answer:
                if answer.status < 500:
                    self.clock.heard(answer.headers.get("Date"), sent)
                if answer.status == 401:
                    await self.identity.renew()
                if answer.status != 200:
                    raise from_answer(request, answer.status, await answer.read(), answer.headers.get("Retry-After"))
                yield answer.content.iter_any()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unanswered(request, error) from error

    async def _resources(self, path: str) -> Names:
        try:
            listed = await self._read(_document, "GET", path)
        except ApiError as error:
            if error.status in (404, 503) or error.unanswered:
                return []
            raise
        return [resource["name"] for resource in listed.get("resources") or () if "/" not in resource["name"]]

    async def _read(
        self,
        decoder: "msgspec.json.Decoder[T]",
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        how: str | None = None,
    ) -> T:
        """The answer of a request, decoded. Raises ApiError, also for an answer that is not from a Kubernetes API."""
        answer = await self._ask(method, path, query=query, body=body, how=how)
        try:
            try:
                return decoder.decode(answer)
            except RecursionError:
                if decoder is not _page:
                    raise
                # One object must not keep the others from being read: its depths are cut off, and it is set aside.
                return decoder.decode(shallow(answer))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            message = f"the answer cannot be read ({error})"
            raise ApiError(request=f"{method} {path}", status=200, reason="Unreadable", message=message) from error

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        how: str | None = None,
        patient: bool = True,
    ) -> bytes:
        """One request, repeated while that is safe and promising. Raises ApiError."""
        backoff = Backoff(first_seconds=0.1, most_seconds=5.0, random=self._jitter)
        renewed = False
        for attempt in range(1, self._attempts + 1):
            try:
                return await self._send(method, path, query, body, how)
            except ApiError as error:
                self.on_error(method, error)
                if error.status == 401 and not renewed:
                    renewed = True
                    if await self.identity.renew():
                        continue
                if attempt == self._attempts or not patient or not _again(method, error):
                    raise
                wait = max(backoff.seconds(), error.retry_after or 0.0)
            await asyncio.sleep(min(wait, _LONGEST_WAIT_SECONDS))
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _send(self, method: str, path: str, query: Mapping[str, str] | None, body: Any, how: str | None) -> bytes:
        request = f"{method} {path}"
        headers = await self.identity.headers()
        if body is not None:
            headers["Content-Type"] = _PATCHES[how] if how else "application/json"
        sent = self.clock.start()
        try:
            async with self._session.request(
                method,
                self._url(path),
                params=query,
                data=None if body is None else msgspec.json.encode(body),
                headers=headers,
                timeout=self._timeout,
                proxy=self.identity.proxy,
            ) as answer:
                if answer.status < 500:  # what a proxy says in the server's stead is by its own clock
                    self.clock.heard(answer.headers.get("Date"), sent)
                content = await answer.read()
                if answer.status >= 300:
                    raise from_answer(request, answer.status, content, answer.headers.get("Retry-After"))
                return content
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unanswered(request, error) from error

    def _url(self, path: str) -> URL:
        return URL(self.identity.server + path, encoded=True)

    def _new_session(self, connections: int) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=connections, ssl=self.identity.tls or True, keepalive_timeout=75, ttl_dns_cache=30
            ),
            # Compression costs us more time on big lists than it saves on a cluster's network.
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "tutti-scheduler"},
            auto_decompress=True,
        )


def _ignore(method: str, error: ApiError) -> None:
    """Nobody asked to be told."""


def _again(method: str, error: ApiError) -> bool:
    """Whether the request may be sent once more: reads after any passing failure, writes only if nothing was done."""
    if method == "GET":
        return error.unanswered or error.status in _BUSY
    return error.status == 429 or error.reason == "Unreachable"


def _unanswered(request: str, error: BaseException) -> ApiError:
    if isinstance(error, aiohttp.ClientConnectorError):
        return ApiError(request=request, status=0, reason="Unreachable", message=str(error))
    text = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    return ApiError(request=request, status=0, reason="NoAnswer", message=text)


def _deletion(uid: str | None, grace_seconds: int | None, propagation: str | None = None) -> Document:
    body: Document = {"apiVersion": "v1", "kind": "DeleteOptions"}
    if propagation:
        body["propagationPolicy"] = propagation
    if uid:
        body["preconditions"] = {"uid": uid}
    if grace_seconds is not None:
        body["gracePeriodSeconds"] = grace_seconds
    return body
