"""Events as documents (core/v1): what `kubectl describe` and `kubectl get events` show."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Literal

from scheduler.api.kinds import Kind

_LONGEST_NOTE = 1024
_LONGEST_NAME = 253


@dataclass(frozen=True, slots=True, kw_only=True)
class Regarding:
    """The object an event is about. `key` as namespace/name, or name."""

    kind: Kind
    key: str
    uid: str

    @property
    def namespace(self) -> str:
        return self.key.rpartition("/")[0]

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]


def event(
    regarding: Regarding, *, reason: str, note: str, now_ms: int, component: str, type_: Literal["Normal", "Warning"]
) -> Mapping[str, Any]:
    """The document of one event. Equal arguments give an equal name, so that sending it twice makes one event."""
    namespace = regarding.namespace or "default"
    mark = blake2b(f"{regarding.uid}|{reason}|{note}|{now_ms}".encode(), digest_size=8).hexdigest()
    time = rfc3339(now_ms)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{regarding.name[: _LONGEST_NAME - len(mark) - 1]}.{mark}", "namespace": namespace},
        "involvedObject": {
            "apiVersion": regarding.kind.api_version,
            "kind": regarding.kind.kind,
            "name": regarding.name,
            "uid": regarding.uid,
            **({"namespace": regarding.namespace} if regarding.namespace else {}),
        },
        "reason": reason,
        "message": note if len(note) <= _LONGEST_NOTE else note[: _LONGEST_NOTE - 1] + "…",
        "type": type_,
        "count": 1,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "source": {"component": component},
        "reportingComponent": component,
        "reportingInstance": component,
    }


def rfc3339(ms: int) -> str:
    """Milliseconds since 1970 as the API writes times, to the second."""
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
