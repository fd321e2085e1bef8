"""A local copy of all objects of one kind, kept current by its watch, with indexes and listeners."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from scheduler.devcluster.access import DELETED, MERGE_PATCH, Api, Batch, StatusError
from scheduler.devcluster.kinds import Kind
from scheduler.devcluster.objects import Obj, name_of, namespace_of, uid_of

Listener = Callable[[Obj | None, Obj | None], None]
Words = Callable[[Obj], Iterable[str]]


def key_of(obj: Obj) -> str:
    """ "namespace/name", or "name" for cluster-scoped objects."""
    namespace = namespace_of(obj)
    return f"{namespace}/{name_of(obj)}" if namespace else name_of(obj)


def version_of(obj: Obj) -> int:
    """resourceVersion as the number it is: within one kind a later write has a higher one (KEP 5504)."""
    return int(obj["metadata"].get("resourceVersion") or 0)


class Mirror:
    """The objects of one kind by key.

    Its writes take in their own answers, so that a decision never rests on what we changed already; what the watch has
    shown since is never overwritten by an older answer.
    """

    def __init__(self, api: Api, kind: Kind) -> None:
        self.kind = kind
        self.synced = asyncio.Event()
        self._api = api
        self._objects: dict[str, Obj] = {}
        self._seen = 0
        self._words: dict[str, Words] = {}
        self._indexes: dict[str, dict[str, dict[str, None]]] = {}
        self._listeners: list[Listener] = []

    def index(self, name: str, words: Words) -> None:
        """Keep an index: `keys(name, word)` are the objects of which `words` names that word."""
        self._words[name] = words
        self._indexes[name] = {}

    def listen(self, listener: Listener) -> None:
        """Call `listener(before, after)` for each change, None where there is no object. It may not write."""
        self._listeners.append(listener)

    def get(self, key: str) -> Obj | None:
        """The object, if it is there."""
        return self._objects.get(key)

    def all(self) -> list[Obj]:
        """All objects, by key."""
        return [self._objects[key] for key in sorted(self._objects)]

    def keys(self, index: str, word: str) -> list[str]:
        """The keys under this word of the index, sorted."""
        return sorted(self._indexes[index].get(word, ()))

    def under(self, index: str, word: str) -> list[Obj]:
        """The objects under this word of the index, by key."""
        return [self._objects[key] for key in self.keys(index, word)]

    def words(self, index: str) -> list[str]:
        """Every word of the index, sorted."""
        return sorted(self._indexes[index])

    async def run(self) -> None:
        """Follow the API until cancelled; `synced` is set after the first whole list."""
        async for batch in self._api.follow(self.kind):
            self.take(batch)
            self.synced.set()

    def take(self, batch: Batch) -> None:
        """Take in one batch of the watch."""
        if batch.whole:
            there = {key_of(obj) for _, obj in batch.changes}
            for key in sorted(self._objects.keys() - there):
                self._set(key, None)
        for type_, obj in batch.changes:
            version, key = version_of(obj), key_of(obj)
            self._seen = max(self._seen, version)
            old = self._objects.get(key)
            if old is None or version_of(old) < version:
                self._set(key, None if type_ == DELETED else obj)

    async def create(self, obj: Obj) -> Obj:
        """As Api.create."""
        return self._put(await self._api.create(self.kind, obj))

    async def update(self, obj: Obj, *, subresource: str | None = None) -> Obj:
        """As Api.update."""
        return self._put(await self._api.update(self.kind, obj, subresource=subresource))

    async def patch(self, obj: Obj, body: dict[str, Any], *, how: str = MERGE_PATCH, subresource: str | None) -> Obj:
        """Patch this very object: StatusError 409 when another bears its name now."""
        body = {**body, "metadata": {**body.get("metadata", {}), "uid": uid_of(obj)}}
        namespace, name = namespace_of(obj), name_of(obj)
        return self._put(await self._api.patch(self.kind, namespace, name, body, how=how, subresource=subresource))

    async def remove(self, obj: Obj, *, grace_seconds: int | None = None) -> None:
        """Delete this very object; when it is gone already, or another bears its name, nothing happens."""
        namespace, name = namespace_of(obj), name_of(obj)
        try:
            left = await self._api.delete(self.kind, namespace, name, uid=uid_of(obj), grace_seconds=grace_seconds)
        except StatusError as error:
            if error.code == 404 or (error.code == 409 and await self._is_another(obj)):
                return
            raise
        if left is not None:
            self._put(left)
            return
        old = self._objects.get(key_of(obj))
        if old is not None and uid_of(old) == uid_of(obj):
            self._set(key_of(obj), None)

    async def _is_another(self, obj: Obj) -> bool:
        """Whether what bears the object's name now is not it; a conflict may also come from a change at that moment."""
        try:
            found = await self._api.get(self.kind, namespace_of(obj), name_of(obj))
        except StatusError as error:
            if error.code != 404:
                raise
            return True
        return uid_of(found) != uid_of(obj)

    def _put(self, obj: Obj) -> Obj:
        """Take in the answer to our own write, unless the watch has gone past it."""
        key, version = key_of(obj), version_of(obj)
        old = self._objects.get(key)
        if version > self._seen and (old is None or version_of(old) < version):
            self._set(key, None if _is_over(obj) else obj)
        return obj

    def _set(self, key: str, obj: Obj | None) -> None:
        old = self._objects.get(key)
        if old is None and obj is None:
            return
        for name, words in self._words.items():
            index = self._indexes[name]
            before = frozenset(words(old)) if old is not None else frozenset()
            after = frozenset(words(obj)) if obj is not None else frozenset()
            for word in before - after:
                index[word].pop(key)
                if not index[word]:
                    del index[word]
            for word in after - before:
                index.setdefault(word, {})[key] = None
        if obj is None:
            del self._objects[key]
        else:
            self._objects[key] = obj
        for listener in self._listeners:
            listener(old, obj)


def _is_over(obj: Obj) -> bool:
    """The answer to a write that took the last finalizer from a deleted object: it is gone now."""
    meta = obj["metadata"]
    waits = meta.get("finalizers") or meta.get("deletionGracePeriodSeconds")
    return bool(meta.get("deletionTimestamp")) and not waits
