"""Change: one thing that happened to an object, as the watch of its kind tells it, or a manifest, or a recording.

The raw document is kept beside the decoded value: what is written back is the document, so that no field newer than us
is lost. Owners of pods are never written back: of them, raw document included, only what is read is kept.
"""

import re
from dataclasses import dataclass
from typing import Literal

import msgspec

from scheduler.api import owners
from scheduler.api.kinds import Document, Kind
from scheduler.api.meta import ObjectMeta, Wire

NO_META = ObjectMeta()
ChangeType = Literal["ADDED", "MODIFIED", "DELETED", "LISTED"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """`key`: `namespace/name`, or `name`; "" for LISTED, which says that all objects of the kind have been told.

    `object` None with a `problem`: the document cannot be decoded; `problem` says where and why. `meta` is there
    whenever an object is meant. `raw` of one that is nested too deeply is `shallow`. A DELETED without a document
    stands for an object that a new list lacks."""

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
_DEEPEST = 100
_CUT = b'{"tutti.scheduler/cut":true}'
_TOKENS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)


def read(kind: Kind, raw: bytes, type_: ChangeType = "ADDED") -> Change | None:
    """The change that `raw`, a JSON document of `kind`, stands for. None if not even its name can be read.

    Never raises on bad content: an object that cannot be decoded becomes a Change with a `problem`."""
    raw = without_managed_fields(raw)
    if is_cut(raw):
        return _too_deep(kind, raw, type_)
    decoder = _decoders.get(kind.type)
    if decoder is None:
        decoder = _decoders[kind.type] = msgspec.json.Decoder(kind.type)
    try:
        decoded = decoder.decode(raw)
        meta: ObjectMeta = decoded.metadata  # type: ignore[attr-defined]
    except RecursionError:
        return _too_deep(kind, without_managed_fields(shallow(raw)), type_)
    except _UNDECODABLE as error:
        known = _meta_of(raw)
        if known is None or not known.name:
            return None
        return Change(kind=kind, type=type_, key=known.key, raw=raw, problem=str(error), meta=known)
    if not meta.name:
        return None
    if isinstance(decoded, Document) and owners.is_owner(kind):
        decoded = owners.as_read(kind, decoded)
        meta, raw = decoded.metadata, msgspec.json.encode(decoded)
    return Change(kind=kind, type=type_, key=meta.key, raw=raw, object=decoded, meta=meta)


def shallow(raw: bytes) -> bytes:
    """JSON with a mark in place of what is nested too deeply for a decoder; `read` sets such an object aside.

    The API server admits opaque parameters of 10 KiB, which may be thousands of brackets (KEP 4381). What is above
    them, a name or an allocation, can be read all the same. Bytes that are no JSON stay none."""
    kept: list[bytes] = []
    depth, start = 0, 0
    for token in _TOKENS.finditer(raw):
        sign = raw[token.start()]
        if sign in b"[{":
            depth += 1
            if depth == _DEEPEST + 1:
                kept.append(raw[start : token.start()])
        elif sign in b"]}":
            if depth == _DEEPEST + 1:
                kept.append(_CUT)
                start = token.end()
            depth -= 1
    kept.append(raw[start:])
    return b"".join(kept)


def is_cut(raw: bytes) -> bool:
    """Whether `shallow` took something out: such a document must never be written back."""
    return _CUT in raw


def _too_deep(kind: Kind, raw: bytes, type_: ChangeType) -> Change | None:
    known = _meta_of(raw)
    if known is None or not known.name:
        return None
    problem = f"it is nested more than {_DEEPEST} levels deep"
    return Change(kind=kind, type=type_, key=known.key, raw=raw, problem=problem, meta=known)


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
    except (*_UNDECODABLE, KeyError):
        return raw
    if metadata.pop("managedFields", None) is None:
        return raw
    document["metadata"] = msgspec.Raw(msgspec.json.encode(metadata))
    return msgspec.json.encode(document)
