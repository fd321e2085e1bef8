"""Reflector: list, watch, bookmarks, 410 and relist of one kind -> one ordered stream of changes with a "listed" mark.

A list is streamed (KEP 3157: watch with sendInitialEvents) where the server can, and read in pages where it cannot.
After a relist the objects that vanished meanwhile are told as deleted. One object that cannot be decoded becomes a
change with a problem; the stream goes on. Source: Kubernetes API concepts, "Efficient detection of changes".
"""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import msgspec
import structlog

from scheduler.api.changes import Change, ChangeType, deleted, listed, read, shallow
from scheduler.api.kinds import Kind
from scheduler.kube.backoff import Backoff, jittered
from scheduler.kube.client import Client
from scheduler.kube.errors import ApiError, from_event

__all__ = ["Change", "Reflector", "Rhythm"]

log = structlog.get_logger(__name__)

Changes = asyncio.Queue[list[Change]]

_INITIAL_END = "k8s.io/initial-events-end"
# Answers of a server that does not stream lists: the feature is off, or the parameter unknown.
_NO_STREAMING = frozenset({400, 405, 422})
_TRIES_BEFORE_LIST = 2
# A watch that ends sooner than this, and empty, is no watch: the next one waits.
_QUICK_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """How long things may take, in seconds.

    `server`: after so long the server ends a watch. `silence`: a connection that says nothing for so long is taken as
    dead; bookmarks come about every minute. `listing`: a streamed list that has not ended by then is given up for
    pages. `absent`: a kind that is not served is looked for so often."""

    server: float = 420.0
    silence: float = 150.0
    listing: float = 60.0
    absent: float = 10.0
    backoff_first: float = 0.2
    backoff_most: float = 10.0


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    object: msgspec.Raw


class _BookmarkMeta(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    resource_version: str = ""
    annotations: dict[str, str] | None = None


class _Bookmark(msgspec.Struct, frozen=True, kw_only=True):
    metadata: _BookmarkMeta = _BookmarkMeta()


_event = msgspec.json.Decoder(_Event)
_bookmark = msgspec.json.Decoder(_Bookmark)


class _Broken(Exception):
    """The stream cannot be read any further; what came before counts."""


@dataclass(slots=True, kw_only=True)
class Reflector:
    """Follows one kind for ever: `await reflector.run(queue)` puts lists of changes, in order, until cancelled.

    `field_selector`: only objects that it selects; one that it no longer selects is told as deleted."""

    client: Client
    kind: Kind
    field_selector: str | None = None
    rhythm: Rhythm = Rhythm()
    jitter: random.Random = field(default_factory=random.Random)
    _versions: dict[str, str] = field(default_factory=dict)
    """What the receiver has been told exists: key -> resourceVersion."""
    _from: str | None = None
    """Where the next watch starts; None: list first."""
    _streams: bool = True
    _version: int = 0
    """Which version of the kind is asked for: 0 its own, then the older ones."""
    _told: bool = False
    _absent: bool = False
    _progress: bool = False
    """Whether anything came since the last failure."""

    async def run(self, queue: Changes) -> None:
        """Put every change of the kind, in batches as they arrive. After LISTED the receiver has seen all there is."""
        backoff = Backoff(
            first_seconds=self.rhythm.backoff_first, most_seconds=self.rhythm.backoff_most, random=self.jitter
        )
        while True:
            self._progress = False
            started = asyncio.get_running_loop().time()
            wait = 0.0
            try:
                await self._turn(queue)
            except ApiError as error:
                if self.kind.optional and error.not_found and self._tries_older():
                    continue
                if self.kind.optional and error.status in (403, 404):
                    await (self._not_served if error.not_found else self._forbidden)(queue, error)
                    await asyncio.sleep(jittered(self.rhythm.absent, self.jitter))
                    continue
                self._note(error, backoff.tries)
                wait = error.retry_after or 0.0
            except _Broken as error:
                self._note(error, backoff.tries)
            else:
                if self._progress or asyncio.get_running_loop().time() - started > _QUICK_SECONDS:
                    backoff.reset()
                    continue
            if self._progress:
                backoff.reset()
            await asyncio.sleep(max(wait, backoff.seconds()))

    @property
    def seen(self) -> str | None:
        """The version up to which all has been read; None while it has to list anew."""
        return self._from

    def _tries_older(self) -> bool:
        """Whether there is another version to ask for; after the last one it is the first one's turn again."""
        self._version = (self._version + 1) % (1 + len(self.kind.older))
        self._from = None
        return self._version > 0

    @property
    def _served(self) -> Kind:
        """The kind in the version that is asked for."""
        return replace(self.kind, version=self.kind.older[self._version - 1]) if self._version else self.kind

    def _note(self, error: ApiError | _Broken, tries: int) -> None:
        """Decide whether the next turn may go on from the last version or has to list."""
        if isinstance(error, ApiError) and error.gone:
            log.info("watch expired, listing again", kind=str(self.kind))
            self._from = None
            return
        if isinstance(error, ApiError) and error.not_found:
            log.warning("kind is not served", kind=str(self.kind), cure="install it: kubectl apply -k deploy")
            self._from = None
            return
        log.warning("watch failed", kind=str(self.kind), error=str(error), tries=tries)
        # What cannot be passed comes again from the same version: after a few tries without progress, list.
        if tries >= _TRIES_BEFORE_LIST and not self._progress:
            self._from = None

    async def _turn(self, queue: Changes) -> None:
        """One list and the watch after it, or one watch that goes on from the last version."""
        if self._from is not None:
            await self._watch(queue, {"resourceVersion": self._from}, streamed_list=False)
        elif self._streams:
            try:
                await self._watch(
                    queue,
                    {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "resourceVersion": ""},
                    streamed_list=True,
                )
            except ApiError as error:
                if error.status not in _NO_STREAMING:
                    raise
                self._streams = False
        else:
            items, version = await self.client.list_raw(self._served, field_selector=self.field_selector)
            self._from = version
            await self._tell_list(queue, [change for item in items if (change := self._read(item, "ADDED"))])

    async def _watch(self, queue: Changes, query: dict[str, str], *, streamed_list: bool) -> None:
        seconds = int(jittered(self.rhythm.server, self.jitter))
        query |= {"allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        if self.field_selector:
            query["fieldSelector"] = self.field_selector
        async with self.client.watch(self._served, query, silence_seconds=self.rhythm.silence) as chunks:
            batches = _lines(chunks)
            if streamed_list and not await self._streamed_list(queue, batches):
                return
            async for lines in batches:
                await self._tell(queue, lines)

    async def _streamed_list(self, queue: Changes, batches: AsyncIterator[list[bytes]]) -> bool:
        """Read up to the bookmark that ends the list and tell it whole; False if that took too long."""
        try:
            async with asyncio.timeout(self.rhythm.listing):
                found, after = await self._initial_events(queue, batches)
        except TimeoutError:
            log.warning("streamed list did not end, listing in pages", kind=str(self.kind))
            self._streams = False
            return False
        await self._tell_list(queue, found)
        await self._tell(queue, after)
        return True

    async def _initial_events(
        self, queue: Changes, batches: AsyncIterator[list[bytes]]
    ) -> tuple[list[Change], list[bytes]]:
        """The objects of a streamed list, and the lines that came with its end but belong to what follows.

        The very first list is told as it comes: whoever waits for its end has the less to do then."""
        found: dict[str, Change] = {}
        async for lines in batches:
            fresh: list[Change] = []
            for position, line in enumerate(lines, 1):
                change = self._event(line, listing=True)
                if change is not None:
                    found[change.key] = change
                    if change.type == "DELETED":
                        del found[change.key]
                    else:
                        fresh.append(change)
                elif self._from is not None:
                    return list(found.values()), lines[position:]
            if fresh and not self._told:
                self._versions.update((change.key, change.meta.resource_version) for change in fresh)
                await queue.put(fresh)
        raise _Broken("the connection ended before the list did")

    async def _tell(self, queue: Changes, lines: list[bytes]) -> None:
        """Hand on the events, also those before one that cannot be passed: the next watch starts behind them."""
        changes: list[Change] = []
        try:
            for line in lines:
                change = self._event(line)
                if change is not None:
                    changes.append(change)
        finally:
            if changes:
                self._progress = True
                await queue.put(changes)

    async def _tell_list(self, queue: Changes, found: list[Change]) -> None:
        """What is new or different, what is gone, and the mark."""
        now = {change.key: change.meta.resource_version for change in found}
        changes = [deleted(self.kind, key) for key in sorted(self._versions.keys() - now.keys())]
        for change in found:
            before = self._versions.get(change.key)
            if before is None or before != now[change.key] or not before:
                changes.append(change)
        changes.append(listed(self.kind))
        self._versions = now
        self._told, self._absent, self._progress = True, False, True
        await queue.put(changes)

    async def _not_served(self, queue: Changes, error: ApiError) -> None:
        """An optional kind that is not there: no objects, which is an answer too."""
        if not self._absent:
            log.info("kind is not served, looking again later", kind=str(self.kind), error=str(error))
        self._from = None
        if not self._told or self._versions:
            await self._tell_list(queue, [])
        self._absent = True

    async def _forbidden(self, queue: Changes, error: ApiError) -> None:
        """An optional kind that is not for us (any more). What is known of it stays: a taint on a device does not end
        because nobody may read it. Forbidden from the beginning it counts as empty, so that work can start."""
        if not self._absent:
            consequence = "what is known of it stays" if self._told else "it counts as empty"
            log.warning("kind is forbidden", kind=str(self.kind), error=str(error), consequence=consequence)
        self._from = None
        if not self._told:
            await self._tell_list(queue, [])
        self._absent = True

    def _event(self, line: bytes, *, listing: bool = False) -> Change | None:
        """Decode one line: its type first, its object by that. Keeps the version and the known objects up to date.

        Raises ApiError for an ERROR event, _Broken for a line that is no event."""
        try:
            try:
                event = _event.decode(line)
            except RecursionError:
                event = _event.decode(shallow(line))
            if event.type == "BOOKMARK":
                meta = _bookmark.decode(event.object).metadata
                if not listing or (meta.annotations or {}).get(_INITIAL_END) == "true":
                    self._from = meta.resource_version or self._from
                return None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise _Broken(f"a line is no watch event: {error}") from error
        if event.type == "ERROR":
            raise from_event(f"WATCH {self.kind.url()}", bytes(event.object))
        if event.type not in ("ADDED", "MODIFIED", "DELETED"):
            raise _Broken(f"unknown event type {event.type!r}")
        change = self._read(bytes(event.object), event.type)  # type: ignore[arg-type]
        if change is None or listing:
            return change
        self._from = change.meta.resource_version or self._from
        if change.type == "DELETED":
            self._versions.pop(change.key, None)
        else:
            self._versions[change.key] = change.meta.resource_version
        return change

    def _read(self, raw: bytes, type_: ChangeType) -> Change | None:
        change = read(self.kind, raw, type_)
        if change is None:
            log.warning("an object without a readable name is left out", kind=str(self.kind), start=raw[:200])
        elif change.problem is not None:
            log.warning("an object cannot be decoded", kind=str(self.kind), object=change.key, problem=change.problem)
        return change


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    """Whole lines, in batches as they arrive; a last line without an end is dropped, it comes again.

    aiohttp's own line reader refuses lines beyond its buffer, which one big ResourceSlice exceeds."""
    rest: list[bytes] = []
    async for chunk in chunks:
        head, newline, tail = chunk.rpartition(b"\n")
        if not newline:
            rest.append(chunk)
            continue
        rest.append(head)
        whole = [line for line in b"".join(rest).split(b"\n") if line.strip()]
        rest = [tail] if tail else []
        if whole:
            yield whole
