"""The API as controllers and simulated nodes see it: a small protocol, and its direct form over the store.

Nothing that speaks `Api` knows the store, so the same simulated nodes can stand before any API server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from scheduler.devcluster.errors import StatusError
from scheduler.devcluster.history import ADDED, DELETED, Subscription
from scheduler.devcluster.kinds import Kind
from scheduler.devcluster.objects import Obj
from scheduler.devcluster.patch import MERGE_PATCH, STRATEGIC_PATCH
from scheduler.devcluster.store import Store

__all__ = ["ADDED", "DELETED", "MERGE_PATCH", "STRATEGIC_PATCH", "Api", "Batch", "Direct", "StatusError"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What a watch brings at once: (type, object) pairs, oldest first.

    `whole`: the batch is all there is, not what changed. The first batch is; so is the one after a gap in the history.
    """

    changes: Sequence[tuple[str, Obj]]
    whole: bool = False


class Api(Protocol):
    """Reads, watches and writes on plain objects. Every refusal is a StatusError with the code the server gave.

    Objects handed out are shared: build new ones instead of changing them.
    """

    def now(self) -> str:
        """The time to write into objects, RFC 3339."""
        ...

    def follow(self, kind: Kind) -> AsyncIterator[Batch]:
        """All objects of a kind, then their changes, without end."""
        ...

    async def list(self, kind: Kind, namespace: str | None = None) -> list[Obj]:
        """The objects of a kind, by namespace and name."""
        ...

    async def get(self, kind: Kind, namespace: str, name: str) -> Obj:
        """One object; StatusError 404."""
        ...

    async def create(self, kind: Kind, obj: Obj) -> Obj:
        """Create an object and return it as stored."""
        ...

    async def update(self, kind: Kind, obj: Obj, *, subresource: str | None = None) -> Obj:
        """Replace an object, or its status; a resourceVersion in it must be the stored one (409)."""
        ...

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
        """Change an object; a metadata.uid in the body must be the stored one (409)."""
        ...

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str | None = None, grace_seconds: int | None = None
    ) -> Obj | None:
        """Delete an object; returns it as it waits for its end, None when it is gone. StatusError 404, 409 (uid)."""
        ...


class Direct:
    """The store itself as an Api, for parts that run beside it on one event loop.

    A write takes effect before the call gives control away; other tasks get their turn before every `turn`-th write.
    """

    def __init__(self, store: Store, *, turn: int = 32) -> None:
        self._store = store
        self._turn = turn
        self._writes = 0
        self._followed: list[Subscription] = []

    @property
    def pending(self) -> bool:
        """True while some follower has not seen the latest change."""
        return any(subscription.pending for subscription in self._followed)

    def now(self) -> str:
        """The store's time."""
        return self._store.now()

    async def follow(self, kind: Kind) -> AsyncIterator[Batch]:
        """As Api.follow. A follower that falls behind the history gets the whole again."""
        while True:
            news = asyncio.Event()
            objects, version = self._store.list(kind)
            subscription = self._store.watch(kind, since=version, wake=news.set)
            self._followed.append(subscription)
            try:
                yield Batch(changes=[(ADDED, obj) for obj in objects], whole=True)
                while True:
                    news.clear()
                    events = subscription.take()
                    if events:
                        yield Batch(changes=[(event.type, event.object) for event in events])
                    else:
                        await news.wait()
            except StatusError as error:
                if error.code != 410:
                    raise
            finally:
                self._followed.remove(subscription)
                subscription.close()

    async def list(self, kind: Kind, namespace: str | None = None) -> list[Obj]:
        """As Api.list."""
        return self._store.list(kind, namespace)[0]

    async def get(self, kind: Kind, namespace: str, name: str) -> Obj:
        """As Api.get."""
        return self._store.get(kind, namespace, name)

    async def create(self, kind: Kind, obj: Obj) -> Obj:
        """As Api.create."""
        await self._take_turns()
        return self._store.create(kind, obj)

    async def update(self, kind: Kind, obj: Obj, *, subresource: str | None = None) -> Obj:
        """As Api.update."""
        await self._take_turns()
        return self._store.update(kind, obj, subresource=subresource)

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
        await self._take_turns()
        return self._store.patch(kind, namespace, name, how, body, subresource=subresource)

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, uid: str | None = None, grace_seconds: int | None = None
    ) -> Obj | None:
        """As Api.delete."""
        await self._take_turns()
        last = self._store.delete(kind, namespace, name, uid=uid, grace_seconds=grace_seconds)
        left = self._store.find(kind, namespace, name)
        return left if left is not None and left["metadata"]["uid"] == last["metadata"]["uid"] else None

    async def _take_turns(self) -> None:
        self._writes += 1
        if self._writes % self._turn == 0:
            await asyncio.sleep(0)
