"""The Kubernetes REST and watch protocol over the store, on a loopback port."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from scheduler.devcluster import errors, views
from scheduler.devcluster.errors import StatusError, bad_request
from scheduler.devcluster.eviction import evict
from scheduler.devcluster.facts import Facts
from scheduler.devcluster.history import Record
from scheduler.devcluster.kinds import Kind
from scheduler.devcluster.objects import Obj, encode, field_of
from scheduler.devcluster.patch import APPLY_PATCH, JSON_PATCH, PATCH_TYPES, json_patch, merge
from scheduler.devcluster.requests import (
    Query,
    Target,
    continue_token,
    is_dry_run,
    is_set,
    read_body,
    read_continue,
    read_object,
    split_path,
    target_of,
    whole_number,
)
from scheduler.devcluster.scale import rescaled, scale_of
from scheduler.devcluster.selectors import both, parse_fields, parse_labels
from scheduler.devcluster.store import Store
from scheduler.devcluster.tables import partial, table
from scheduler.devcluster.watching import Form, Watch, answer_gone, form_of

log = logging.getLogger(__name__)

MAX_BODY = 3 * 1024 * 1024
BOOKMARK_SECONDS = 60.0
_JSON = {"Content-Type": "application/json"}
_BOUND = b'{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success","code":201}'
Answer = web.StreamResponse


def respond(obj: Any, status: int = 200, warnings: tuple[str, ...] = ()) -> web.Response:
    """An object (or its JSON) as a response."""
    body = obj if isinstance(obj, bytes) else encode(obj)
    response = web.Response(body=body, status=status, headers=_JSON)
    for warning in warnings:
        response.headers.add("Warning", '299 - "' + warning.replace("\\", "\\\\").replace('"', '\\"') + '"')
    return response


def refused(error: StatusError) -> web.Response:
    """A refusal as a response."""
    response = respond(error.body(), error.code)
    retry = (error.details or {}).get("retryAfterSeconds")
    if retry:
        response.headers["Retry-After"] = str(retry)
    return response


class Server:
    """Answers requests from one store. `bookmark_seconds` is how often watches that ask for it get a bookmark."""

    def __init__(self, store: Store, *, bookmark_seconds: float = BOOKMARK_SECONDS) -> None:
        self.store = store
        self._bookmark_seconds = bookmark_seconds
        self._watches: dict[Watch, None] = {}
        self._facts = Facts(store.kinds)
        self._verbs: dict[str, Callable[[web.BaseRequest, Target, Query], Awaitable[Answer]]] = {
            "GET": self._get,
            "POST": self._post,
            "PUT": self._put,
            "PATCH": self._patch,
            "DELETE": self._delete,
        }

    def application(self) -> web.Server:
        """The aiohttp server to run. Without routes: the resources are in the store, not in the code."""

        loop = asyncio.get_running_loop()

        def request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY)

        # Handlers of clients that left are cancelled: an idle watch would not notice otherwise.
        return web.Server(
            self.handle,
            request_factory=request,
            handler_cancellation=True,
            access_log=None,
        )

    @property
    def watchers(self) -> int:
        """How many watches are open."""
        return len(self._watches)

    def stop(self) -> None:
        """End all watches."""
        for watch in self._watches:
            watch.stop()

    async def handle(self, request: web.BaseRequest) -> Answer:
        """Answer one request; whatever is refused becomes a Status."""
        try:
            parts, query = split_path(request.raw_path)
            told = self._facts.answer(parts, request.headers.get("Accept", ""))
            if told is not None:
                body, content_type = told
                return web.Response(body=body, headers={"Content-Type": content_type})
            verb = self._verbs.get(request.method)
            if verb is None:
                raise StatusError(
                    405, "MethodNotAllowed", f"the server does not allow {request.method} on this resource"
                )
            return await verb(request, target_of(self.store.kinds, parts), query)
        except StatusError as error:
            return refused(error)
        except web.HTTPRequestEntityTooLarge:
            return refused(StatusError(413, "RequestEntityTooLarge", f"the body is limited to {MAX_BODY} bytes"))
        except Exception as error:
            log.exception("%s %s failed", request.method, request.raw_path)
            return refused(
                StatusError(500, "InternalError", f"Internal error occurred: {type(error).__name__}: {error}")
            )

    # --- reading --------------------------------------------------------------------------------------------------

    async def _get(self, request: web.BaseRequest, target: Target, query: Query) -> Answer:
        if is_set(query, "watch") and not target.subresource:
            return await self._watch(request, target, query)
        form = form_of(request.headers.get("Accept", ""), query)
        if not target.name:
            return self._list(target, query, form)
        obj = self.store.get(target.kind, *target.place)
        if target.subresource == "log":
            return web.Response(text=_log_text(obj, query), content_type="text/plain")
        if target.subresource == "scale":
            return respond(scale_of(target.kind, obj))
        if target.subresource not in ("", "status"):
            raise errors.unsupported_method(target.kind, "get")
        return self._shown(target.kind, obj, form)

    def _shown(self, kind: Kind, obj: Obj, form: Form, status: int = 200, warnings: tuple[str, ...] = ()) -> Answer:
        if form.shape == "Table":
            shown = table(kind, [views.to_stored(kind, obj)], obj["metadata"]["resourceVersion"], form.include)
            return respond(shown, status, warnings)
        if form.shape:
            return respond(partial(obj), status, warnings)
        return respond(self.store.encoded(kind, obj), status, warnings)

    async def _watch(self, request: web.BaseRequest, target: Target, query: Query) -> Answer:
        accept = request.headers.get("Accept", "")
        try:
            watch = Watch(self.store, target, query, accept, bookmark_seconds=self._bookmark_seconds)
        except StatusError as error:
            if error.code != 410:
                raise
            return await answer_gone(request, error)
        self._watches[watch] = None
        try:
            return await watch.answer(request)
        finally:
            del self._watches[watch]

    def _list(self, target: Target, query: Query, form: Form) -> Answer:
        kind, store = target.kind, self.store
        self._check_version(query)
        matches = both(parse_labels(query.get("labelSelector")), parse_fields(kind, query.get("fieldSelector")))
        records = store.records(kind, target.namespace, matches)
        version = str(store.resource_version)
        more: Obj = {}
        if token := query.get("continue"):
            after = read_continue(token)
            records = [record for record in records if _place(record) > after]
        limit = whole_number(query, "limit")
        if limit and len(records) > limit:
            more["continue"] = continue_token(*_place(records[limit - 1]), store.resource_version)
            if matches is None:
                more["remainingItemCount"] = len(records) - limit
            records = records[:limit]
        if form.shape == "Table":
            return respond(table(kind, [record.body for record in records], version, form.include, more=more))
        if form.shape:
            items = b",".join([encode(partial(record.body)) for record in records])
            head = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}
        else:
            items = b",".join(self._encoded(kind, records))
            head = {"kind": kind.list_kind, "apiVersion": kind.api_version}
        opening = encode({**head, "metadata": {"resourceVersion": version, **more}})
        return respond(opening[:-1] + b',"items":[' + items + b"]}")

    def _encoded(self, kind: Kind, records: list[Record]) -> list[bytes]:
        if views.is_view(kind):
            return [encode(views.from_stored(kind, record.body)) for record in records]
        return [record.encoded for record in records]

    def _check_version(self, query: Query) -> None:
        """Lists are always of the present: an exact older version is gone, a later one has not come."""
        asked, match = whole_number(query, "resourceVersion") or 0, query.get("resourceVersionMatch", "")
        if match not in ("", "Exact", "NotOlderThan"):
            raise bad_request(f'resourceVersionMatch: Unsupported value: "{match}"')
        current = self.store.resource_version
        if asked > current:
            text = f"Too large resource version: {asked}, current: {current}"
            cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
            raise StatusError(504, "Timeout", text, {"causes": [cause], "retryAfterSeconds": 1})
        if match == "Exact" and asked and asked < current:
            raise errors.gone("The resourceVersion for the provided list is too old.")

    # --- writing --------------------------------------------------------------------------------------------------

    def _strictness(self, kind: Kind, body: Any, query: Query) -> tuple[str, ...]:
        """Warnings for unknown fields of custom resources. Raises StatusError 400 when the client wants it strict."""
        wanted = query.get("fieldValidation", "Warn")
        if kind.schema is None or wanted == "Ignore" or not isinstance(body, dict):
            return ()
        unknown = [f'unknown field "{path}"' for path in kind.schema.unknown(body)]
        if unknown and wanted == "Strict":
            text = (
                f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: strict decoding error: '
            )
            raise bad_request(text + ", ".join(unknown))
        return tuple(unknown)

    async def _post(self, request: web.BaseRequest, target: Target, query: Query) -> Answer:
        kind, dry_run = target.kind, is_dry_run(query)
        data, content_type = await request.read(), request.headers.get("Content-Type", "")
        if target.subresource:
            body = read_body(data, content_type)
            if not isinstance(body, dict):
                raise bad_request("a JSON object is needed")
            if target.subresource == "binding":
                self.store.bind(*target.place, body, dry_run=dry_run)
                return respond(_BOUND, 201)
            if target.subresource == "eviction":
                evict(self.store, *target.place, body, dry_run=dry_run)
                return respond(_BOUND, 201)
        if target.name or (kind.namespaced and target.namespace is None):
            raise errors.unsupported_method(kind, "create")
        obj = read_object(data, content_type, kind)
        warnings = self._strictness(kind, obj, query)
        created = self.store.create(
            kind,
            obj,
            namespace=target.namespace or "",
            field_manager=query.get("fieldManager"),
            dry_run=dry_run,
        )
        form = form_of(request.headers.get("Accept", ""), query)
        return self._shown(kind, created, form, 201, warnings)

    async def _put(self, request: web.BaseRequest, target: Target, query: Query) -> Answer:
        kind = target.kind
        if not target.name or target.subresource not in ("", "status", "scale"):
            raise errors.unsupported_method(kind, "update")
        data, content_type = await request.read(), request.headers.get("Content-Type", "")
        if target.subresource == "scale":
            return self._rescale(target, query, lambda _scale: read_body(data, content_type))
        obj = read_object(data, content_type, kind)
        inside = obj["metadata"].get("name")
        if inside != target.name:
            text = f"the name of the object ({inside}) does not match the name on the URL ({target.name})"
            raise bad_request(text)
        if kind.custom and not obj["metadata"].get("resourceVersion"):
            fault = errors.invalid("metadata.resourceVersion", 0, "must be specified for an update")
            raise errors.invalid_object(kind, target.name, [fault])
        warnings = self._strictness(kind, obj, query)
        updated = self.store.update(
            kind,
            obj,
            subresource=target.subresource or None,
            namespace=target.namespace or "",
            field_manager=query.get("fieldManager"),
            dry_run=is_dry_run(query),
        )
        return self._shown(kind, updated, form_of(request.headers.get("Accept", ""), query), 200, warnings)

    async def _patch(self, request: web.BaseRequest, target: Target, query: Query) -> Answer:
        kind = target.kind
        if not target.name or target.subresource not in ("", "status", "scale"):
            raise errors.unsupported_method(kind, "patch")
        patch_type = request.headers.get("Content-Type", "").partition(";")[0].strip()
        body = read_body(await request.read(), patch_type)
        if patch_type not in PATCH_TYPES:
            text = "the body of the request was in an unknown format - accepted media types include: "
            raise StatusError(415, "UnsupportedMediaType", text + ", ".join(PATCH_TYPES))
        if target.subresource == "scale":
            apply = json_patch if patch_type == JSON_PATCH else merge
            return self._rescale(target, query, lambda scale: apply(scale, body))
        if patch_type == APPLY_PATCH:
            body = read_object(encode(body), "", kind)
            if target.namespace and not body["metadata"].get("namespace"):
                body = {**body, "metadata": {**body["metadata"], "namespace": target.namespace}}
        warnings = self._strictness(kind, body, query)
        existed = self.store.find(kind, *target.place) is not None
        changed = self.store.patch(
            kind,
            *target.place,
            patch_type,
            body,
            subresource=target.subresource or None,
            field_manager=query.get("fieldManager"),
            force=is_set(query, "force"),
            dry_run=is_dry_run(query),
        )
        form = form_of(request.headers.get("Accept", ""), query)
        return self._shown(kind, changed, form, 200 if existed else 201, warnings)

    def _rescale(self, target: Target, query: Query, change: Callable[[Obj], Any]) -> Answer:
        obj = self.store.get(target.kind, *target.place)
        wanted = rescaled(target.kind, obj, change(scale_of(target.kind, obj)))
        updated = self.store.update(
            target.kind, wanted, field_manager=query.get("fieldManager"), dry_run=is_dry_run(query)
        )
        return respond(scale_of(target.kind, updated))

    async def _delete(self, request: web.BaseRequest, target: Target, query: Query) -> Answer:
        if target.subresource or (not target.name and target.kind.namespaced and target.namespace is None):
            raise errors.unsupported_method(target.kind, "delete")
        data = await request.read()
        options = read_body(data, request.headers.get("Content-Type", "")) if data else {}
        if not isinstance(options, dict):
            raise bad_request("DeleteOptions must be a JSON object")
        dry_run = is_dry_run(query) or "All" in (options.get("dryRun") or ())
        grace = options.get("gracePeriodSeconds", whole_number(query, "gracePeriodSeconds"))
        if grace is not None and (not isinstance(grace, int) or grace < 0):
            raise bad_request(f"gracePeriodSeconds: Invalid value: {grace!r}: must be a whole number, zero or more")
        propagation = options.get("propagationPolicy") or query.get("propagationPolicy")
        if options.get("orphanDependents"):
            propagation = "Orphan"
        preconditions = options.get("preconditions") or {}

        def delete(place: tuple[str, str]) -> Obj:
            return self.store.delete(
                target.kind,
                *place,
                uid=preconditions.get("uid"),
                resource_version=preconditions.get("resourceVersion"),
                propagation=propagation,
                grace_seconds=grace,
                dry_run=dry_run,
            )

        if not target.name:
            return self._delete_all(target, query, delete)
        last = delete(target.place)
        left = self.store.find(target.kind, *target.place)
        if left is not None and left["metadata"]["uid"] == last["metadata"]["uid"] and not dry_run:
            return respond(self.store.encoded(target.kind, left))
        details = {"name": target.name, "kind": target.kind.plural, "uid": last["metadata"]["uid"]}
        if target.kind.group:
            details["group"] = target.kind.group
        return respond({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})

    def _delete_all(self, target: Target, query: Query, delete: Callable[[tuple[str, str]], Obj]) -> Answer:
        kind = target.kind
        matches = both(parse_labels(query.get("labelSelector")), parse_fields(kind, query.get("fieldSelector")))
        deleted = []
        for record in self.store.records(kind, target.namespace, matches):
            try:
                deleted.append(delete(_place(record)))
            except StatusError as error:
                if error.code != 404:  # it went with one deleted before it
                    raise
        head = {"kind": kind.list_kind, "apiVersion": kind.api_version}
        return respond({**head, "metadata": {"resourceVersion": str(self.store.resource_version)}, "items": deleted})


def _place(record: Record) -> tuple[str, str]:
    meta = record.body["metadata"]
    return (str(meta.get("namespace", "")), str(meta["name"]))


def _log_text(pod: Obj, query: Query) -> str:
    """What stands for a container's output: nothing runs here."""
    names = [str(container["name"]) for container in field_of(pod, "spec", "containers") or ()]
    name = query.get("container") or names[0]
    if name not in names:
        raise bad_request(f"container {name} is not valid for pod {pod['metadata']['name']}")
    if field_of(pod, "status", "phase") == "Pending":
        raise bad_request(
            f'container "{name}" in pod "{pod["metadata"]["name"]}" is waiting to start: ContainerCreating'
        )
    node = field_of(pod, "spec", "nodeName")
    return f"container {name} of pod {pod['metadata']['name']} is simulated on node {node}: it has no output\n"
