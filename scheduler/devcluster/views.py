"""One stored object, several faces: versions of a custom resource, and Event in its two groups."""

from __future__ import annotations

from scheduler.devcluster import kinds
from scheduler.devcluster.kinds import Kind
from scheduler.devcluster.objects import Obj

# core/v1 Event field -> events.k8s.io/v1 Event field; all others have one name in both.
_EVENT_FIELDS = {
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_EVENT_FIELDS_BACK = {new: old for old, new in _EVENT_FIELDS.items()}


def is_view(kind: Kind) -> bool:
    """True when objects of this kind are stored in another form than they are shown."""
    return kind.version != kind.stored_version or kind is kinds.NEW_EVENT


def to_stored(kind: Kind, obj: Obj) -> Obj:
    """The form an object of this kind is stored in."""
    if kind is kinds.NEW_EVENT:
        renamed = {_EVENT_FIELDS_BACK.get(key, key): value for key, value in obj.items()}
        return {**renamed, "apiVersion": "v1"}
    if kind.version != kind.stored_version:
        return {**obj, "apiVersion": kinds.at_version(kind, kind.stored_version).api_version}
    return obj


def from_stored(kind: Kind, obj: Obj) -> Obj:
    """A stored object as this kind shows it."""
    if kind is kinds.NEW_EVENT:
        renamed = {_EVENT_FIELDS.get(key, key): value for key, value in obj.items()}
        return {**renamed, "apiVersion": kind.api_version}
    if obj.get("apiVersion") != kind.api_version:
        return {**obj, "apiVersion": kind.api_version}
    return obj
