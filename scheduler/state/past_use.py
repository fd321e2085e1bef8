"""What queues used in the past: told by their statuses, kept up by the leader, so that the next one goes on from there.

Each Queue's status has the part of the cluster that it used, decayed (`queues.usage`), and until when that was
counted. Nothing else remembers it: no database, no object of ours. Queues of other dialects have no place for it in
their status; theirs is remembered as long as the process runs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from queues.usage import CLUSTER, Parts, later
from scheduler.api import quantity
from scheduler.api.kinds import QUEUE, Document, Kind
from scheduler.model.plan import QueueReport
from scheduler.state.cluster import ClusterState
from scheduler.state.dialects import QUEUE_KINDS
from scheduler.state.fields import time_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the queue with this uid had used `until_ms` (milliseconds since 1970)."""

    uid: str
    parts: Parts
    until_ms: int


def parts_told(state: ClusterState) -> dict[str, Parts]:
    """By queue what the statuses tell, for who decides once."""
    records = {name: _record(kind, found) for name, (kind, found) in _queues(state).items()}
    return {name: record.parts for name, record in records.items() if record.parts}


class PastUse:
    """Keeps the records while we lead. Between two looks every queue is taken to have used what the last plan left it
    with; time is the clock's, and one that goes back adds and takes nothing."""

    def __init__(self, half_life_ms: int) -> None:
        self._half_life_ms = half_life_ms
        self._records: dict[str, Record] = {}
        self._standing: dict[str, Parts] = {}

    def until(self, now_ms: int, state: ClusterState) -> dict[str, Parts]:
        """The parts of every queue that is there, brought up to now. One made anew under an old name starts anew."""
        records: dict[str, Record] = {}
        for name, (kind, found) in _queues(state).items():
            known = self._records.get(name)
            record = known if known and known.uid == found.metadata.uid else _record(kind, found)
            standing = self._standing.get(name)
            if standing is not None:
                elapsed_ms = now_ms - record.until_ms if record.until_ms else 0
                parts = later(record.parts, standing, elapsed_ms, self._half_life_ms)
                record = Record(uid=record.uid, parts=parts, until_ms=now_ms)
            records[name] = record
        self._records = records
        return {name: record.parts for name, record in records.items() if record.parts}

    def note(self, queues: Iterable[QueueReport]) -> None:
        """What queues have in use from now on."""
        self._standing = {report.name: report.standing for report in queues}


def _queues(state: ClusterState) -> dict[str, tuple[Kind, Document]]:
    """The queue of each name, in name order: of several dialects the one that counts."""
    queues: dict[str, tuple[Kind, Document]] = {}
    for kind in reversed(QUEUE_KINDS):
        for key in state.keys(kind):
            found = state.object(kind, key)
            if isinstance(found, Document):
                queues[key] = kind, found
    return {name: queues[name] for name in sorted(queues)}


def _record(kind: Kind, document: Document) -> Record:
    """What its status tells. A status may be written by anybody who has the right to: what cannot be read is no use,
    and a part outside of 0 to 1 is brought inside."""
    status = document.status
    until = status.get("usageAt")
    usage = status.get("usage")
    until_ms = time_ms(until) if isinstance(until, str) else 0
    if kind != QUEUE or not until_ms or not isinstance(usage, Mapping):
        return Record(uid=document.metadata.uid, parts={}, until_ms=0)
    parts = {str(name): part for name, text in usage.items() if (part := _part(text))}
    return Record(uid=document.metadata.uid, parts=dict(sorted(parts.items())), until_ms=until_ms)


def _part(text: object) -> int:
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        return 0
    try:
        part = quantity.parse(text)
    except quantity.QuantityError:
        return 0
    return int(min(max(part, Fraction(0)), Fraction(1)) * CLUSTER)
