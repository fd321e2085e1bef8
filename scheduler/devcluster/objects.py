"""Plain API objects, read and rewritten without changing what was handed in.

Whatever lies in the store is shared by every reader and every watcher, so nobody changes it in place: a writer builds
a new dict around the parts that stay. `thaw` gives a private copy to those who prefer to edit.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

Obj = dict[str, Any]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def encode(obj: object) -> bytes:
    """JSON bytes of an object."""
    return _encode(obj)


def decode(data: bytes) -> Any:
    """The value of JSON bytes; raises msgspec.DecodeError."""
    return _decode(data)


def thaw(value: Any) -> Any:
    """A private copy of a JSON value, free to be changed."""
    if isinstance(value, dict):
        return {key: thaw(item) for key, item in value.items()}
    if isinstance(value, list):
        return [thaw(item) for item in value]
    return value


def name_of(obj: Obj) -> str:
    """metadata.name, or "" where there is none."""
    return str(obj["metadata"].get("name") or "")


def namespace_of(obj: Obj) -> str:
    """metadata.namespace, or "" for cluster-scoped objects."""
    return str(obj["metadata"].get("namespace") or "")


def uid_of(obj: Obj) -> str:
    """metadata.uid."""
    return str(obj["metadata"].get("uid") or "")


def with_meta(obj: Obj, **changes: Any) -> Obj:
    """The object with these metadata fields set; a value of None removes the field."""
    meta = {**obj["metadata"], **changes}
    for key, value in changes.items():
        if value is None:
            del meta[key]
    return {**obj, "metadata": meta}


def with_field(obj: Obj, path: tuple[str, ...], value: Any) -> Obj:
    """The object with the field at `path` set, parents made where they are missing; None removes the field."""
    head, rest = path[0], path[1:]
    copy = dict(obj)
    if rest:
        copy[head] = with_field(obj.get(head) or {}, rest, value)
    elif value is None:
        copy.pop(head, None)
    else:
        copy[head] = value
    return copy


def field_of(obj: Any, *path: str) -> Any:
    """The value at `path`, or None where any step is missing."""
    for key in path:
        if not isinstance(obj, dict):
            return None
        obj = obj.get(key)
    return obj


def with_condition(obj: Obj, condition: Obj, now: str) -> Obj:
    """The object with one status condition set; lastTransitionTime moves only when the status does."""
    conditions = list(field_of(obj, "status", "conditions") or ())
    for index, old in enumerate(conditions):
        if old.get("type") == condition["type"]:
            same = old.get("status") == condition["status"]
            moved = old.get("lastTransitionTime", now) if same else now
            conditions[index] = {**old, **condition, "lastTransitionTime": moved}
            break
    else:
        conditions.append({"lastTransitionTime": now, **condition})
    return with_field(obj, ("status", "conditions"), conditions)


def parse_time(text: str) -> datetime:
    """An RFC 3339 time stamp; raises ValueError."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def format_time(moment: datetime) -> str:
    """A time stamp as the API writes it: UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def later(timestamp: str, seconds: int) -> str:
    """The time stamp `seconds` after another."""
    return format_time(parse_time(timestamp) + timedelta(seconds=seconds))
