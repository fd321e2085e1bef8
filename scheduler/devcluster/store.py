"""The object store of the embedded cluster: versioned objects, conflicts, watch history. No I/O, no clock.

Objects are plain JSON dicts. Whatever the store gives out is what it holds: never change it, build a new dict
(`objects.with_meta`, `with_field`) or take a copy (`objects.thaw`). Whatever it is given it keeps: do not change it
afterwards. Every write gets the next resourceVersion and is seen by the watchers of its kind in that order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scheduler.devcluster import errors, kinds, views
from scheduler.devcluster.definitions import Definitions
from scheduler.devcluster.deletion import grace_of, marked
from scheduler.devcluster.errors import StatusError
from scheduler.devcluster.garbage import FOREGROUND, ORPHAN, Garbage
from scheduler.devcluster.history import ADDED, DELETED, MODIFIED, History, Record, Subscription, WatchEvent
from scheduler.devcluster.kinds import Kind, Registry
from scheduler.devcluster.objects import Obj, encode, field_of, name_of, namespace_of, with_meta
from scheduler.devcluster.patch import APPLY_PATCH
from scheduler.devcluster.selectors import Matches, both, parse_fields, parse_labels
from scheduler.devcluster.writing import Write, begin, bound, change, patched

__all__ = ["DEFAULT_NAMESPACES", "Record", "StatusError", "Store", "Subscription", "WatchEvent"]

DEFAULT_NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")
# Inside the class `list` is the method.
Objects = list[Obj]
Records = list[Record]
Strings = list[str]

_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"


class Store:
    """All objects of one cluster. `now` gives RFC 3339 time, `new_uid` a fresh UUID; `window` is how many changes of
    each kind a watch can go back."""

    def __init__(self, now: Callable[[], str], new_uid: Callable[[], str], *, window: int = 8192) -> None:
        self.now = now
        self.kinds = Registry()
        self._new_uid = new_uid
        self._window = window
        self._version = 0
        self._tables: dict[str, dict[tuple[str, str], Record]] = {}
        self._histories: dict[str, History] = {}
        self._garbage = Garbage(self)
        self._observers: list[Callable[[Kind, Obj | None, Obj | None], None]] = [Definitions(self.kinds).changed]
        for name in DEFAULT_NAMESPACES:
            self.create(kinds.NAMESPACE, {"metadata": {"name": name}})

    # --- reading --------------------------------------------------------------------------------------------------

    @property
    def resource_version(self) -> int:
        """The version of the latest write."""
        return self._version

    def find(self, kind: Kind, namespace: str, name: str) -> Obj | None:
        """An object, or None. `namespace` is "" for cluster-scoped kinds."""
        record = self._table(kind).get((namespace, name))
        if record is None:
            return None
        return views.from_stored(kind, record.body) if views.is_view(kind) else record.body

    def get(self, kind: Kind, namespace: str, name: str) -> Obj:
        """An object. Raises StatusError 404."""
        obj = self.find(kind, namespace, name)
        if obj is None:
            raise errors.not_found(kind, name)
        return obj

    def all(self, kind: Kind) -> Objects:
        """All objects of a kind, by namespace and name."""
        return self.list(kind)[0]

    def list(
        self, kind: Kind, namespace: str | None = None, labels: str | None = None, fields: str | None = None
    ) -> tuple[Objects, int]:
        """The objects that match, by namespace and name, and the resourceVersion a watch goes on from."""
        records = self.records(kind, namespace, both(parse_labels(labels), parse_fields(kind, fields)))
        if views.is_view(kind):
            return [views.from_stored(kind, record.body) for record in records], self._version
        return [record.body for record in records], self._version

    def records(self, kind: Kind, namespace: str | None = None, matches: Matches | None = None) -> Records:
        """As `list`, but with the stored forms and their JSON."""
        table = self._table(kind)
        if namespace is None:
            keys = sorted(table)
        else:
            keys = sorted(key for key in table if key[0] == namespace)
        found = [table[key] for key in keys]
        return found if matches is None else [record for record in found if matches(record.body)]

    def encoded(self, kind: Kind, obj: Obj) -> bytes:
        """The JSON of an object, the store's own copy of it where `obj` is what lies in the store."""
        meta = obj["metadata"]
        record = self._table(kind).get((meta.get("namespace", ""), meta.get("name", "")))
        return record.encoded if record is not None and record.body is obj else encode(obj)

    def watch(
        self,
        kind: Kind,
        namespace: str | None = None,
        since: int | None = None,
        *,
        labels: str | None = None,
        fields: str | None = None,
        wake: Callable[[], None] | None = None,
    ) -> Subscription:
        """Follow the changes of a kind after the resourceVersion `since` (None: from now on).

        `wake` is described at Subscription. Raises StatusError 410 when the history no longer reaches so far back,
        504 when `since` lies in the future.
        """
        if since is not None and since > self._version:
            text = f"Too large resource version: {since}, current: {self._version}"
            cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
            raise StatusError(504, "Timeout", text, {"causes": [cause], "retryAfterSeconds": 1})
        history = self._history(kind)
        position = history.end if since is None else history.position_after(since)
        matches = both(parse_labels(labels), parse_fields(kind, fields))
        return Subscription(history, position, namespace=namespace, matches=matches, wake=wake)

    def compact(self) -> None:
        """Forget the watch history: a watch from any older resourceVersion gets 410 from now on."""
        for history in self._histories.values():
            history.forget_all()

    def observe(self, observer: Callable[[Kind, Obj | None, Obj | None], None]) -> None:
        """Call `observer(kind, before, after)` inside every write, in order. It may not write."""
        self._observers.append(observer)

    # --- writing --------------------------------------------------------------------------------------------------

    def create(
        self, kind: Kind, obj: Obj, *, namespace: str = "", field_manager: str | None = None, dry_run: bool = False
    ) -> Obj:
        """Store a new object and return it as stored.

        Raises StatusError: 404 for a missing namespace, 403 from admission, 409 for a name that is taken, 422 for an
        object that is not valid.
        """
        write = Write(kind=kind, manager=field_manager, now=self.now())
        obj = views.to_stored(kind, self._addressed(kind, obj, namespace))
        meta = obj["metadata"]
        if not meta.get("name") and meta.get("generateName"):
            meta = {**meta, "name": self._free_name(kind, meta)}
        meta = {**meta, "uid": self._new_uid(), "creationTimestamp": write.now}
        body = begin(write, {**obj, "metadata": meta}, self)
        key = (namespace_of(body), name_of(body))
        if key in self._table(kind):
            raise errors.already_exists(kind, key[1])
        if not dry_run:
            body = self._commit(kind, key, None, body)
            self._garbage.settle()
        return views.from_stored(kind, body) if views.is_view(kind) else body

    def update(
        self,
        kind: Kind,
        obj: Obj,
        *,
        subresource: str | None = None,
        namespace: str = "",
        field_manager: str | None = None,
        dry_run: bool = False,
    ) -> Obj:
        """Replace an object (subresource None) or its status (subresource "status").

        A resourceVersion or uid in the object must be the stored one, else StatusError 409; without them the update
        is unconditional.
        """
        obj = views.to_stored(kind, self._addressed(kind, obj, namespace))
        write = Write(kind=kind, subresource=subresource, manager=field_manager, now=self.now())
        return self._change(write, (namespace_of(obj), name_of(obj)), lambda _old: obj, dry_run)

    def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        patch_type: str,
        body: Any,
        *,
        subresource: str | None = None,
        field_manager: str | None = None,
        force: bool = False,
        dry_run: bool = False,
    ) -> Obj:
        """Change an object by a patch of one of the types in `patch.PATCH_TYPES`.

        An apply patch creates the object where it is missing; it needs a field manager, and raises StatusError 409
        when another manager holds a field it would change, unless `force`.
        """
        write = Write(
            kind=kind,
            subresource=subresource,
            manager=field_manager,
            now=self.now(),
            patch_type=patch_type,
            force=force,
        )
        if patch_type == APPLY_PATCH and self.find(kind, namespace, name) is None:
            if subresource:
                raise errors.not_found(kind, name)
            created = patched(write, None, body)
            return self.create(kind, created, namespace=namespace, field_manager=field_manager, dry_run=dry_run)
        if views.is_view(kind):
            return self._change(
                write,
                (namespace, name),
                lambda old: views.to_stored(kind, patched(write, views.from_stored(kind, old), body)),
                dry_run,
            )
        return self._change(write, (namespace, name), lambda old: patched(write, old, body), dry_run)

    def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: str | None = None,
        grace_seconds: int | None = None,
        dry_run: bool = False,
    ) -> Obj:
        """Delete an object and return its last state; `find` tells whether it is gone already.

        With finalizers, or for a pod on a node with a grace period, it only gets a deletionTimestamp. A second delete
        with a grace of 0 (the kubelet's) removes the pod. `propagation`: Background (dependents go too), Foreground
        (they go first), Orphan (they stay); None is Orphan for Jobs, as on a real server for the sake of old clients,
        and Background for all others. Raises StatusError 404, or 409 when uid or resource_version differ.
        """
        key = (namespace, name)
        record = self._require(kind, key)
        self._check_preconditions(kind, record.body, uid, resource_version)
        if propagation not in (None, "Background", "Foreground", "Orphan"):
            raise errors.bad_request(f'propagationPolicy: Unsupported value: "{propagation}"')
        if kind is kinds.NAMESPACE and name in DEFAULT_NAMESPACES[:1] + DEFAULT_NAMESPACES[2:]:
            raise errors.forbidden(kind, name, "this namespace may not be deleted")
        if propagation is None and kind is kinds.JOB:
            propagation = "Orphan"
        body = record.body
        finalizers = [*(body["metadata"].get("finalizers") or ())]
        for policy, finalizer in (("Foreground", FOREGROUND), ("Orphan", ORPHAN)):
            if propagation == policy and finalizer not in finalizers and not body["metadata"].get("deletionTimestamp"):
                finalizers.append(finalizer)
        grace = grace_of(kind, body, grace_seconds)
        holds = bool(finalizers) or grace > 0 or (kind is kinds.NAMESPACE and field_of(body, "spec", "finalizers"))
        if not holds:
            if not dry_run:
                body = self._remove(kind, key, record)
                self._garbage.settle()
            return body
        waiting = marked(kind, body, finalizers, grace, self.now())
        if waiting is body or dry_run:
            return waiting
        body = self._commit(kind, key, record, waiting)
        self._garbage.settle()
        return self.find(kind, namespace, name) or body

    def bind(self, namespace: str, name: str, binding: Obj, *, dry_run: bool = False) -> None:
        """Assign a pod to a node: spec.nodeName, the PodScheduled condition, the binding's annotations and labels, and
        where the node is (KEP 4742).

        Raises StatusError 404 without the pod, 409 when it is assigned already, is being deleted, has scheduling
        gates or another uid than the binding names, 422 when the target is no node.
        """
        key = (namespace, name)
        record = self._require(kinds.POD, key)
        node = self.find(kinds.NODE, "", str((binding.get("target") or {}).get("name")))
        body = bound(record.body, binding, self.now(), (node or {}).get("metadata", {}).get("labels") or {})
        if not dry_run:
            self._commit(kinds.POD, key, record, body)

    def finalize_namespace(self, name: str) -> None:
        """Remove the finalizer of a terminating namespace that has become empty, and with it the namespace."""
        record = self._require(kinds.NAMESPACE, ("", name))
        if not record.body["metadata"].get("finalizers"):
            self._remove(kinds.NAMESPACE, ("", name), record)

    # --- the parts of a write -------------------------------------------------------------------------------------

    def _table(self, kind: Kind) -> dict[tuple[str, str], Record]:
        table = self._tables.get(kind.key)
        if table is None:
            table = self._tables[kind.key] = {}
        return table

    def _history(self, kind: Kind) -> History:
        history = self._histories.get(kind.key)
        if history is None:
            history = self._histories[kind.key] = History(self._window)
        return history

    def _require(self, kind: Kind, key: tuple[str, str]) -> Record:
        record = self._table(kind).get(key)
        if record is None:
            raise errors.not_found(kind, key[1])
        return record

    def _addressed(self, kind: Kind, obj: Obj, namespace: str) -> Obj:
        """The object with apiVersion, kind and namespace as the kind and the request's path have them."""
        meta = obj.get("metadata")
        if not isinstance(meta, dict):
            raise errors.bad_request(f"{kind.kind}: metadata is missing")
        if not kind.namespaced:
            meta = {key: value for key, value in meta.items() if key != "namespace"} if "namespace" in meta else meta
        else:
            inside = meta.get("namespace") or namespace or "default"
            if namespace and inside != namespace:
                text = "the namespace of the provided object does not match the namespace sent on the request"
                raise errors.bad_request(f"{text} ({inside!r}, {namespace!r})")
            if meta.get("namespace") != inside:
                meta = {**meta, "namespace": inside}
        if meta is obj["metadata"] and obj.get("apiVersion") == kind.api_version and obj.get("kind") == kind.kind:
            return obj
        return {"apiVersion": kind.api_version, "kind": kind.kind, **_without_type(obj), "metadata": meta}

    def _free_name(self, kind: Kind, meta: Obj) -> str:
        base = str(meta["generateName"])[:58]
        for _attempt in range(64):
            number = int(self._new_uid().replace("-", ""), 16)
            suffix = ""
            for _ in range(5):
                number, digit = divmod(number, len(_SUFFIX))
                suffix += _SUFFIX[digit]
            if (meta.get("namespace", ""), base + suffix) not in self._table(kind):
                return base + suffix
        raise errors.already_exists(kind, base)

    def _check_preconditions(self, kind: Kind, body: Obj, uid: str | None, version: str | None) -> None:
        meta = body["metadata"]
        if uid and uid != meta["uid"]:
            text = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {meta['uid']}"
            raise errors.conflict(kind, meta["name"], text)
        if version and version != meta["resourceVersion"]:
            text = "the object has been modified; please apply your changes to the latest version and try again"
            raise errors.conflict(kind, meta["name"], text)

    def _change(self, write: Write, key: tuple[str, str], make: Callable[[Obj], Obj], dry_run: bool) -> Obj:
        kind = write.kind
        record = self._require(kind, key)
        new = make(record.body)
        meta = new["metadata"]
        self._check_preconditions(kind, record.body, meta.get("uid"), meta.get("resourceVersion"))
        body = change(write, record.body, new)
        if body is not record.body and not dry_run:
            meta = body["metadata"]
            dying = meta.get("deletionTimestamp") and not meta.get("finalizers")
            if dying and not meta.get("deletionGracePeriodSeconds") and not field_of(body, "spec", "finalizers"):
                body = self._remove(kind, key, record, body)
            else:
                body = self._commit(kind, key, record, body)
            self._garbage.settle()
        return views.from_stored(kind, body) if views.is_view(kind) else body

    def _commit(self, kind: Kind, key: tuple[str, str], old: Record | None, body: Obj) -> Obj:
        self._version += 1
        body = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self._version)}}
        record = Record(body, self._version)
        self._table(kind)[key] = record
        before = old.body if old is not None else None
        self._garbage.note(kind, before, body)
        for observer in self._observers:
            observer(kind, before, body)
        self._history(kind).append(WatchEvent(ADDED if old is None else MODIFIED, record, old))
        return body

    def _remove(self, kind: Kind, key: tuple[str, str], old: Record, body: Obj | None = None) -> Obj:
        self._version += 1
        last = with_meta(body or old.body, resourceVersion=str(self._version))
        del self._table(kind)[key]
        self._garbage.note(kind, old.body, None)
        for observer in self._observers:
            observer(kind, old.body, None)
        self._history(kind).append(WatchEvent(DELETED, Record(last, self._version), old))
        return last


def _without_type(obj: Obj) -> Obj:
    return {key: value for key, value in obj.items() if key not in ("apiVersion", "kind")}
