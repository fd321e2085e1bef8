"""What goes when its owner goes: dependents of deleted objects, and the content of deleted namespaces.

The real cluster does this in kube-controller-manager, some time later. Here it happens at the end of the write that
caused it, so that tests need not wait; each step is an ordinary write with its own watch event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from scheduler.devcluster import kinds
from scheduler.devcluster.definitions import CLEANUP, kinds_of
from scheduler.devcluster.errors import StatusError
from scheduler.devcluster.kinds import Kind, Registry
from scheduler.devcluster.objects import Obj, field_of, with_meta

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"
Place = tuple[Kind, str, str]


class Objects(Protocol):
    """What the collector needs of the store whose objects it follows."""

    @property
    def kinds(self) -> Registry: ...
    def find(self, kind: Kind, namespace: str, name: str) -> Obj | None: ...
    def get(self, kind: Kind, namespace: str, name: str) -> Obj: ...
    def all(self, kind: Kind) -> Sequence[Obj]: ...
    def list(self, kind: Kind, namespace: str | None = None) -> tuple[Sequence[Obj], int]: ...
    def update(self, kind: Kind, obj: Obj) -> Obj: ...
    def delete(self, kind: Kind, namespace: str, name: str, *, uid: str, propagation: str) -> Any: ...
    def finalize_namespace(self, name: str) -> None: ...


class Garbage:
    """Follows owner references and namespaces, and deletes through the store what nothing holds any more."""

    def __init__(self, store: Objects) -> None:
        self._store = store
        self._owned: dict[str, dict[tuple[str, str, str], Kind]] = {}
        self._living: dict[str, Place] = {}
        self._population: dict[str, int] = {}
        self._todo: deque[Place | str] = deque()
        self._busy = False

    def note(self, kind: Kind, before: Obj | None, after: Obj | None) -> None:
        """One object changed from `before` to `after`; None means that it was not there, or is gone."""
        body = after if after is not None else before
        assert body is not None
        meta = body["metadata"]
        place = (kind, str(meta.get("namespace", "")), str(meta["name"]))
        old = before["metadata"].get("ownerReferences") if before is not None else None
        new = meta.get("ownerReferences") if after is not None else None
        if old is not new:
            self._index(place, old or (), new or ())
        if before is None:
            self._living[meta["uid"]] = place
            if kind.namespaced:
                self._population[place[1]] = self._population.get(place[1], 0) + 1
            if new:
                self._todo.append(place)
        elif after is None:
            self._living.pop(meta["uid"], None)
            if kind.custom:
                self._todo.append((kinds.CUSTOM_RESOURCE, "", kind.key))
            if kind.namespaced:
                self._population[place[1]] -= 1
                self._todo.append((kinds.NAMESPACE, "", place[1]))
            self._todo.append(str(meta["uid"]))
            for owner in old or ():
                if owner["uid"] in self._living:
                    self._todo.append(self._living[owner["uid"]])
        elif meta.get("deletionTimestamp") or new is not old:
            self._todo.append(place)

    def _index(self, place: Place, old: list[Obj] | tuple[()], new: list[Obj] | tuple[()]) -> None:
        key = (place[0].key, place[1], place[2])
        for owner in old:
            owned = self._owned.get(owner["uid"])
            if owned is not None:
                owned.pop(key, None)
                if not owned:
                    del self._owned[owner["uid"]]
        for owner in new:
            self._owned.setdefault(owner["uid"], {})[key] = place[0]

    def population(self, namespace: str) -> int:
        """How many objects the namespace holds."""
        return self._population.get(namespace, 0)

    def settle(self) -> None:
        """Do all that the writes since the last call made necessary."""
        if self._busy:
            return
        self._busy = True
        try:
            while self._todo:
                item = self._todo.popleft()
                if isinstance(item, str):
                    self._release_dependents(item)
                else:
                    self._look_at(item)
        finally:
            self._busy = False

    def _dependents(self, uid: str) -> list[Place]:
        return [(kind, key[1], key[2]) for key, kind in sorted(self._owned.get(uid, {}).items())]

    def _release_dependents(self, uid: str) -> None:
        for place in self._dependents(uid):
            self._collect(place)

    def _look_at(self, place: Place) -> None:
        obj = self._store.find(*place)
        if obj is None:
            return
        if obj["metadata"].get("ownerReferences"):
            self._collect(place)
            obj = self._store.find(*place)
        if obj is None or not obj["metadata"].get("deletionTimestamp"):
            return
        if place[0] is kinds.NAMESPACE:
            self._empty_namespace(obj)
        elif place[0] is kinds.CUSTOM_RESOURCE and CLEANUP in (obj["metadata"].get("finalizers") or ()):
            self._empty_definition(place)
        elif FOREGROUND in (obj["metadata"].get("finalizers") or ()):
            self._delete_dependents_first(place, obj)
        elif ORPHAN in (obj["metadata"].get("finalizers") or ()):
            self._orphan_dependents(place, obj)

    def _served(self, owner: Obj) -> bool:
        return self._store.kinds.named(owner["apiVersion"], owner["kind"]) is not None

    def _collect(self, place: Place) -> None:
        """Delete an object none of whose owners exists; drop the references to dead owners from one that has others."""
        obj = self._store.find(*place)
        if obj is None or obj["metadata"].get("deletionTimestamp"):
            return
        owners = obj["metadata"].get("ownerReferences") or ()
        # An owner of a kind that is not served may well exist elsewhere: the real collector also waits for it.
        held = [owner for owner in owners if owner["uid"] in self._living or not self._served(owner)]
        if held and len(held) < len(owners):
            self._store.update(place[0], with_meta(obj, ownerReferences=held))
        elif owners and not held:
            self._delete(place, obj)

    def _delete(self, place: Place, obj: Obj, propagation: str = "Background") -> None:
        kind, namespace, name = place
        try:
            self._store.delete(kind, namespace, name, uid=obj["metadata"]["uid"], propagation=propagation)
        except StatusError as error:
            if error.code not in (404, 409):  # gone or replaced since: nothing to collect
                raise

    def _delete_dependents_first(self, place: Place, obj: Obj) -> None:
        uid = obj["metadata"]["uid"]
        blocking = False
        for dependent_place in self._dependents(uid):
            dependent = self._store.find(*dependent_place)
            if dependent is None:
                continue
            reference = next(owner for owner in dependent["metadata"]["ownerReferences"] if owner["uid"] == uid)
            if not dependent["metadata"].get("deletionTimestamp"):
                self._delete(dependent_place, dependent, "Foreground")
            blocking = blocking or (
                bool(reference.get("blockOwnerDeletion")) and self._store.find(*dependent_place) is not None
            )
        if not blocking:
            self._drop_finalizer(place, FOREGROUND)

    def _orphan_dependents(self, place: Place, obj: Obj) -> None:
        uid = obj["metadata"]["uid"]
        for dependent_place in self._dependents(uid):
            dependent = self._store.find(*dependent_place)
            if dependent is not None:
                owners = [owner for owner in dependent["metadata"]["ownerReferences"] if owner["uid"] != uid]
                self._store.update(dependent_place[0], with_meta(dependent, ownerReferences=owners or None))
        self._drop_finalizer(place, ORPHAN)

    def _drop_finalizer(self, place: Place, finalizer: str) -> None:
        obj = self._store.find(*place)
        if obj is not None:
            kept = [entry for entry in obj["metadata"].get("finalizers") or () if entry != finalizer]
            self._store.update(place[0], with_meta(obj, finalizers=kept or None))

    def _empty_definition(self, place: Place) -> None:
        """Delete the objects of a definition that goes; it waits for those with finalizers."""
        served = kinds_of(self._store.get(*place))
        for obj in self._store.all(served[0]) if served else ():
            if not obj["metadata"].get("deletionTimestamp"):
                self._delete((served[0], obj["metadata"].get("namespace", ""), obj["metadata"]["name"]), obj)
        if not served or not self._store.all(served[0]):
            self._drop_finalizer(place, CLEANUP)

    def _empty_namespace(self, namespace: Obj) -> None:
        name = namespace["metadata"]["name"]
        for kind in self._store.kinds.tables():
            if not kind.namespaced or not self.population(name):
                continue
            for obj in self._store.list(kind, name)[0]:
                if not obj["metadata"].get("deletionTimestamp"):
                    self._delete((kind, name, obj["metadata"]["name"]), obj)
        if not self.population(name) and field_of(namespace, "spec", "finalizers"):
            self._store.finalize_namespace(name)
