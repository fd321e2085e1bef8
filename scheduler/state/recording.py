"""A cluster, a time and a policy as one JSON document, and back: what-if, bug reports, golden tests.

Recorded is what we read, as we read it: a replay gives the same Snapshot, and what no decision depends on (environment
variables, commands, kubectl's copy of the manifest) never leaves the cluster. Our writes not yet seen count as done.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import msgspec

from scheduler.api.changes import Change, listed, read
from scheduler.api.kinds import WATCHED, Kind
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.state import translate
from scheduler.state.cluster import ClusterState

FORMAT = "tutti-recording/1"
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

Usage = Mapping[str, Mapping[str, int]]


class RecordingError(Exception):
    """A file that is no recording, or one of another form. Names object, cause and cure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """All that a decision depended on."""

    state: ClusterState
    now_ms: int
    policy: Policy
    usage: Usage = field(default_factory=dict)

    def snapshot(self) -> Snapshot:
        return translate.snapshot(self.state, now_ms=self.now_ms, policy=self.policy, usage=self.usage)


class _File(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    format: str
    now_ms: int
    policy: dict[str, Any]
    usage: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    listed: list[str] = msgspec.field(default_factory=list)
    objects: dict[str, list[msgspec.Raw]]


def dump(state: ClusterState, *, now_ms: int, policy: Policy, usage: Usage | None = None) -> bytes:
    """The recording as JSON. Equal clusters give equal bytes."""
    objects = {}
    for kind in sorted(state.kinds, key=_name):
        found = [raw for key in state.keys(kind) if (raw := _recorded(state, kind, key)) is not None]
        if found:
            objects[_name(kind)] = found
    return msgspec.json.encode(
        _File(
            format=FORMAT,
            now_ms=now_ms,
            policy=asdict(policy),
            usage={queue: dict(amounts) for queue, amounts in sorted((usage or {}).items())},
            listed=sorted(_name(kind) for kind in state.kinds if state.lists(kind)),
            objects=objects,
        ),
        order="deterministic",
    )


def load(data: bytes) -> Recording:
    """A recording read back. Kinds that we do not read, and settings that we do not know, are left out.

    Raises RecordingError."""
    try:
        file = msgspec.json.decode(data, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RecordingError(f"the recording cannot be read: {error}; make it anew with `tutti record`.") from None
    if file.format != FORMAT:
        raise RecordingError(
            f"the recording has format {file.format!r} and not {FORMAT!r}; replay it with the release that made it."
        )
    known = {setting.name for setting in fields(Policy)}
    try:
        policy = msgspec.convert({name: value for name, value in file.policy.items() if name in known}, Policy)
    except msgspec.ValidationError as error:
        raise RecordingError(f"the recording's policy cannot be read: {error}; correct its field policy.") from None
    state = ClusterState()
    for kind in WATCHED:
        for raw in file.objects.get(_name(kind), ()):
            change = read(kind, bytes(raw))
            if change is not None:
                state.apply(change)
        if _name(kind) in file.listed:
            state.apply(listed(kind))
    return Recording(state=state, now_ms=file.now_ms, policy=policy, usage=file.usage)


def _recorded(state: ClusterState, kind: Kind, key: str) -> msgspec.Raw | None:
    """The object as we read it; one that cannot be decoded as it came."""
    found = state.object(kind, key)
    if found is not None:
        meta = found.metadata  # type: ignore[attr-defined]
        if meta.annotations and _APPLIED in meta.annotations:
            kept = {name: value for name, value in meta.annotations.items() if name != _APPLIED}
            found = msgspec.structs.replace(found, metadata=msgspec.structs.replace(meta, annotations=kept))
        return msgspec.Raw(msgspec.json.encode(found, order="deterministic"))
    change: Change | None = state.change(kind, key)
    return msgspec.Raw(change.raw) if change is not None else None


def _name(kind: Kind) -> str:
    return f"{kind.api_version}/{kind.plural}"
