"""The watch protocol over HTTP: one JSON line per event, bookmarks, initial events, 410 as an event."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from aiohttp import web

from scheduler.devcluster import views
from scheduler.devcluster.errors import StatusError, bad_request
from scheduler.devcluster.history import ADDED, Record, WatchEvent
from scheduler.devcluster.objects import Obj, encode
from scheduler.devcluster.requests import Query, Target, is_set, whole_number
from scheduler.devcluster.selectors import both, parse_fields, parse_labels
from scheduler.devcluster.store import Store
from scheduler.devcluster.tables import partial, table

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
DEFAULT_SECONDS = 1800
_AT_ONCE = 200
_HEADERS = {"Content-Type": "application/json", "Cache-Control": "no-cache, private"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How objects are shown: as they are, as a table or as metadata only (the `as=` of the Accept header)."""

    shape: str = ""
    include: str = "Metadata"


def form_of(accept: str, query: Query) -> Form:
    """The form a request's Accept header asks for."""
    include = query.get("includeObject") or "Metadata"
    if "as=Table" in accept:
        return Form(shape="Table", include=include)
    if "as=PartialObjectMetadata" in accept:
        return Form(shape="PartialObjectMetadata")
    return Form()


class Lines:
    """Turns events into the lines of one watch response."""

    def __init__(self, target: Target, form: Form) -> None:
        self._kind = target.kind
        self._form = form
        self._is_view = views.is_view(target.kind)
        self._headed = False

    def of(self, events: Iterable[WatchEvent]) -> bytes:
        """The lines of these events."""
        if not self._form.shape and not self._is_view:
            return b"".join([event.line for event in events])
        return b"".join([self._line(event.type, event.object) for event in events])

    def _line(self, type: str, obj: Obj) -> bytes:
        shown = obj
        if self._form.shape == "Table":
            shown = table(self._kind, [obj], obj["metadata"]["resourceVersion"], self._form.include)
            if self._headed:
                shown["columnDefinitions"] = None
            self._headed = True
        elif self._form.shape:
            shown = partial(obj)
        elif self._is_view:
            shown = views.from_stored(self._kind, obj)
        return encode({"type": type, "object": shown}) + b"\n"

    def bookmark(self, version: int, *, initial: bool = False) -> bytes:
        """A line that says: all up to this version has been sent."""
        meta: Obj = {"resourceVersion": str(version), "creationTimestamp": None}
        if initial:
            meta["annotations"] = {INITIAL_EVENTS_END: "true"}
        obj: Obj = {"kind": self._kind.kind, "apiVersion": self._kind.api_version, "metadata": meta}
        if self._form.shape == "Table":
            obj = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": str(version)}}
            obj |= {"columnDefinitions": [], "rows": [{"cells": [], "object": partial({"metadata": meta})}]}
        elif self._form.shape:
            obj = partial({"metadata": meta})
        return encode({"type": "BOOKMARK", "object": obj}) + b"\n"


def _start(query: Query) -> tuple[int | None, bool]:
    """The version after which events are wanted, and whether the present objects are to be sent first."""
    version = query.get("resourceVersion", "")
    if version and not version.isdigit():
        raise bad_request(f'resourceVersion: Invalid value: "{version}": must be a number')
    asked = query.get("sendInitialEvents")
    match = query.get("resourceVersionMatch", "")
    if asked is not None and match != "NotOlderThan":
        raise bad_request(
            "resourceVersionMatch: Forbidden: sendInitialEvents requires resourceVersionMatch NotOlderThan"
        )
    if asked is None and match:
        raise bad_request("resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch")
    initial = is_set(query, "sendInitialEvents") if asked is not None else version in ("", "0")
    return (int(version) if version not in ("", "0") else None), initial


class Watch:
    """One watch request: its place in the history, and how its events are written."""

    def __init__(self, store: Store, target: Target, query: Query, accept: str, *, bookmark_seconds: float) -> None:
        """Raises StatusError 400 for parameters that make no sense, 410 and 504 as Store.watch does."""
        since, initial = _start(query)
        fields = query.get("fieldSelector", "")
        if target.name:
            fields = ",".join(term for term in (fields, f"metadata.name={target.name}") if term)
        labels = query.get("labelSelector")
        self._store = store
        self._seconds = whole_number(query, "timeoutSeconds") or DEFAULT_SECONDS
        self._bookmark_seconds = bookmark_seconds if is_set(query, "allowWatchBookmarks") else None
        self._lines = Lines(target, form_of(accept, query))
        self._wake = asyncio.Event()
        self._stopped = False
        self._subscription = store.watch(
            target.kind,
            target.namespace,
            None if initial else since,
            labels=labels,
            fields=fields,
            wake=self._wake.set,
        )
        self._first: list[Record] = []
        self._first_ends: int | None = None
        if initial:
            matches = both(parse_labels(labels), parse_fields(target.kind, fields))
            self._first = list(store.records(target.kind, target.namespace, matches))
        if initial and is_set(query, "sendInitialEvents"):
            self._first_ends = store.resource_version

    def stop(self) -> None:
        """End the answer soon."""
        self._stopped = True
        self._wake.set()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Write events until the time is over, the client leaves, or `stop` is called."""
        response = _begun()
        try:
            await response.prepare(request)
            await self._begin(response)
            await self._follow(response)
            await response.write_eof()
        except StatusError as error:  # the client read too slowly and the history went on without it
            await response.write(_refusal(error))
        except ConnectionError:
            pass  # the client has left
        finally:
            self._subscription.close()
        return response

    async def _begin(self, response: web.StreamResponse) -> None:
        """The objects that were there when the watch began, piece by piece: nobody need wait for all."""
        for start in range(0, len(self._first), _AT_ONCE):
            piece = self._first[start : start + _AT_ONCE]
            await response.write(self._lines.of([WatchEvent(ADDED, record, None) for record in piece]))
        self._first = []
        if self._first_ends is not None:
            await response.write(self._lines.bookmark(self._first_ends, initial=True))

    async def _follow(self, response: web.StreamResponse) -> None:
        time = asyncio.get_running_loop().time
        end = time() + self._seconds
        bookmark_at = time() + self._bookmark_seconds if self._bookmark_seconds is not None else end
        while time() < end and not self._stopped:
            self._wake.clear()
            data = self._lines.of(self._subscription.take())
            if self._bookmark_seconds is not None and time() >= bookmark_at:
                data += self._lines.bookmark(self._store.resource_version)
                bookmark_at += self._bookmark_seconds
            if data:
                await response.write(data)
                continue
            try:
                async with asyncio.timeout_at(min(end, bookmark_at)):
                    await self._wake.wait()
            except TimeoutError:
                continue


def _begun() -> web.StreamResponse:
    response = web.StreamResponse(headers=_HEADERS)
    response.enable_chunked_encoding()
    return response


def _refusal(error: StatusError) -> bytes:
    return encode({"type": "ERROR", "object": error.body()}) + b"\n"


async def answer_gone(request: web.BaseRequest, error: StatusError) -> web.StreamResponse:
    """410 is sent as an event in a response that began well, as the real server does."""
    response = _begun()
    await response.prepare(request)
    await response.write(_refusal(error))
    await response.write_eof()
    return response
