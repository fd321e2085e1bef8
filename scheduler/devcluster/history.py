"""What happened to the objects of one table, in order, for as long as the window reaches; and those who follow it."""

from __future__ import annotations

from collections.abc import Callable

from scheduler.devcluster.errors import StatusError, gone
from scheduler.devcluster.objects import Obj, encode
from scheduler.devcluster.selectors import Matches

ADDED, MODIFIED, DELETED = "ADDED", "MODIFIED", "DELETED"


class Record:
    """One version of one object, with its JSON made once and shared by every reader. Never changed after it is made."""

    __slots__ = ("_encoded", "body", "version")

    def __init__(self, body: Obj, version: int) -> None:
        self.body = body
        self.version = version
        self._encoded: bytes | None = None

    @property
    def encoded(self) -> bytes:
        """The object as JSON."""
        if self._encoded is None:
            self._encoded = encode(self.body)
        return self._encoded


class WatchEvent:
    """One change: ADDED, MODIFIED or DELETED. `previous` is the object before it, None for ADDED."""

    __slots__ = ("_line", "previous", "record", "type")

    def __init__(self, type: str, record: Record, previous: Record | None) -> None:
        self.type = type
        self.record = record
        self.previous = previous
        self._line: bytes | None = None

    @property
    def object(self) -> Obj:
        """The object after the change (for DELETED: its last state, with the version of the deletion)."""
        return self.record.body

    @property
    def version(self) -> int:
        """The resourceVersion of the change."""
        return self.record.version

    @property
    def line(self) -> bytes:
        """The event as one line of a watch response."""
        if self._line is None:
            self._line = b'{"type":"' + self.type.encode() + b'","object":' + self.record.encoded + b"}\n"
        return self._line


class History:
    """The changes of one table. Keeps at least `window` of them, at most twice as many."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._events: list[WatchEvent] = []
        self._first = 0
        self._forgotten = 0
        self._idle: dict[Subscription, None] = {}

    def append(self, event: WatchEvent) -> None:
        """Add a change and wake those who wait for one."""
        self._events.append(event)
        if len(self._events) > 2 * self._window:
            self._forget(self._window)
        if self._idle:
            woken, self._idle = self._idle, {}
            for subscription in woken:
                subscription.wake()

    def forget_all(self) -> None:
        """Drop the whole window: every older resourceVersion is Gone from now on."""
        self._forget(len(self._events))

    def _forget(self, count: int) -> None:
        if count:
            self._forgotten = self._events[count - 1].version
            self._first += count
            del self._events[:count]

    def position_after(self, version: int) -> int:
        """Where the changes after this resourceVersion begin. Raises StatusError 410 when some are forgotten."""
        if version < self._forgotten:
            raise gone(f"too old resource version: {version} ({self._forgotten})")
        low, high = 0, len(self._events)
        while low < high:
            middle = (low + high) // 2
            if self._events[middle].version <= version:
                low = middle + 1
            else:
                high = middle
        return self._first + low

    @property
    def end(self) -> int:
        """The position after the last change."""
        return self._first + len(self._events)

    def since(self, position: int) -> list[WatchEvent]:
        """The changes from a position on. Raises StatusError 410 when some are forgotten."""
        if position < self._first:
            raise gone(f"too old resource version: the watch fell behind by more than {self._window} changes")
        return self._events[position - self._first :]

    def rest(self, subscription: Subscription) -> None:
        """Wake this subscription at the next change."""
        self._idle[subscription] = None

    def leave(self, subscription: Subscription) -> None:
        """Wake it no more."""
        self._idle.pop(subscription, None)


class Subscription:
    """A follower of one table: `take()` gives what happened since the last call.

    `wake` is called once when something new is there and the follower had taken everything; it is called from inside
    the write, so it may only set a flag (asyncio.Event.set, list.append). `namespace` and `matches` narrow what is
    seen; an object that begins or ceases to match is seen as ADDED or DELETED.
    """

    def __init__(
        self,
        history: History,
        position: int,
        *,
        namespace: str | None = None,
        matches: Matches | None = None,
        wake: Callable[[], None] | None = None,
    ) -> None:
        self._history = history
        self._position = position
        self._namespace = namespace
        self._matches = matches
        self._closed = False
        self.wake: Callable[[], None] = wake or _nothing
        if position == history.end:
            history.rest(self)

    @property
    def pending(self) -> bool:
        """True when take() would look at something new."""
        return not self._closed and self._position < self._history.end

    def take(self) -> list[WatchEvent]:
        """The changes since the last call, oldest first. Raises StatusError 410 when the window is past them."""
        if self._closed:
            return []
        try:
            events = self._history.since(self._position)
        except StatusError:
            self.close()
            raise
        self._position += len(events)
        self._history.rest(self)
        if self._namespace is not None:
            events = [event for event in events if event.object["metadata"].get("namespace") == self._namespace]
        if self._matches is None:
            return events
        seen = (self._as_seen(event) for event in events)
        return [event for event in seen if event is not None]

    def _as_seen(self, event: WatchEvent) -> WatchEvent | None:
        assert self._matches is not None
        before = event.previous is not None and self._matches(event.previous.body)
        if event.type == DELETED:
            return event if before else None
        after = self._matches(event.object)
        if before and after:
            return event
        if after:
            return event if event.type == ADDED else WatchEvent(ADDED, event.record, None)
        if before:
            assert event.previous is not None
            body = {**event.previous.body, "metadata": {**event.previous.body["metadata"]}}
            body["metadata"]["resourceVersion"] = str(event.version)
            return WatchEvent(DELETED, Record(body, event.version), event.previous)
        return None

    def close(self) -> None:
        """Follow no more."""
        self._closed = True
        self._history.leave(self)


def _nothing() -> None:
    return None
