"""Change: one thing that happened to an object, as the watch of its kind tells it, or a manifest, or a recording.

The raw document is kept beside the decoded value: what is written back is the document, so that no field newer than us
is lost.
"""

from dataclasses import dataclass
from typing import Literal

import msgspec

from scheduler.api.kinds import Kind
from scheduler.api.meta import ObjectMeta, Wire

NO_META = ObjectMeta()
ChangeType = Literal["ADDED", "MODIFIED", "DELETED", "LISTED"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """`key`: `namespace/name`, or `name`; "" for LISTED, which says that all objects of the kind have been told.

    `object` None with a `problem`: the document cannot be decoded; `problem` says where and why. `meta` is there
    whenever an object is meant. A DELETED without a document stands for an object that a new list lacks."""

    kind: Kind
    type: ChangeType
    key: str = ""
    raw: bytes = b""
    object: Wire | None = None
    problem: str | None = None
    meta: ObjectMeta = NO_META


class _Headed(Wire, frozen=True, kw_only=True):
    metadata: ObjectMeta


class _Name(Wire, frozen=True, kw_only=True):
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class _Named(Wire, frozen=True, kw_only=True):
    metadata: _Name


_headed = msgspec.json.Decoder(_Headed)
_named = msgspec.json.Decoder(_Named)
_decoders: dict[type[Wire], msgspec.json.Decoder[Wire]] = {}
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read(kind: Kind, raw: bytes, type_: ChangeType = "ADDED") -> Change | None:
    """The change that `raw`, a JSON document of `kind`, stands for. None if not even its name can be read.

    Never raises on bad content: an object that cannot be decoded becomes a Change with a `problem`."""
    raw = without_managed_fields(raw)
    decoder = _decoders.get(kind.type)
    if decoder is None:
        decoder = _decoders[kind.type] = msgspec.json.Decoder(kind.type)
    try:
        decoded = decoder.decode(raw)
        meta: ObjectMeta = decoded.metadata  # type: ignore[attr-defined]
    except _UNDECODABLE as error:
        known = _meta_of(raw)
        if known is None or not known.name:
            return None
        return Change(kind=kind, type=type_, key=known.key, raw=raw, problem=str(error), meta=known)
    if not meta.name:
        return None
    return Change(kind=kind, type=type_, key=meta.key, raw=raw, object=decoded, meta=meta)


def _meta_of(raw: bytes) -> ObjectMeta | None:
    """The metadata of a document that cannot be decoded; at least its name, or None."""
    try:
        return _headed.decode(raw).metadata
    except _UNDECODABLE:
        try:
            name = _named.decode(raw).metadata
        except _UNDECODABLE:
            return None
    return ObjectMeta(name=name.name, namespace=name.namespace, uid=name.uid, resource_version=name.resource_version)


def listed(kind: Kind) -> Change:
    """The mark that every object of the kind has been told."""
    return Change(kind=kind, type="LISTED")


def deleted(kind: Kind, key: str) -> Change:
    """An object is gone, and nobody saw it go."""
    namespace, _, name = key.rpartition("/")
    return Change(kind=kind, type="DELETED", key=key, meta=ObjectMeta(name=name, namespace=namespace))


def without_managed_fields(raw: bytes) -> bytes:
    """The document without metadata.managedFields, often half of it. The server keeps them when they are absent.

    A document of another shape is returned as it is."""
    if b'"managedFields"' not in raw:
        return raw
    try:
        document = _fields.decode(raw)
        metadata = _fields.decode(document["metadata"])
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
        return raw
    if metadata.pop("managedFields", None) is None:
        return raw
    document["metadata"] = msgspec.Raw(msgspec.json.encode(metadata))
    return msgspec.json.encode(document)
