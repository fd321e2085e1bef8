"""A cluster, a time and a policy as one JSON document, and back: what-if, bug reports, golden tests. With them, where
there is one, the plan that was decided.

Recorded is what we read, as we read it: a replay gives the same Snapshot, and what no decision depends on (environment
variables, commands, copies of manifests in annotations) never leaves the cluster. Of the owners of pods there is only
what `scheduler.api.owners` lists, of an object that cannot be decoded its name and why. Our writes not yet seen count
as done.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import msgspec

from scheduler.api.changes import Change, listed, read
from scheduler.api.dra import AllocationResult, Device, ResourceClaim
from scheduler.api.kinds import (
    DEVICE_TAINT_RULE,
    POD,
    RESOURCE_CLAIM,
    WATCHED,
    Kind,
)
from scheduler.api.meta import ObjectMeta, Wire
from scheduler.model.reasons import Reason
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.state import translate
from scheduler.state.below import Fall, Falls
from scheduler.state.cluster import ClusterState
from scheduler.state.inventory import allocated_part, claim_spec, newer_fields, tainting_part
from scheduler.state.past_use import parts_told
from scheduler.state.withdrawn import DeviceKey, Withdrawn

FORMAT = "tutti-recording/1"
_COPIES = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",
        "kapp.k14s.io/original",
        "objectset.rio.cattle.io/applied",
    }
)
"""Annotations in which tools keep the manifest that they applied."""

Usage = Mapping[str, Mapping[str, int]]


class RecordingError(Exception):
    """A file that is no recording, or one of another form. Names object, cause and cure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBack:
    """Why a gang was not tried when the plan was decided: a write for it had failed. A reason as it was told.

    `keeps_room`: whether what was promised to it was kept for it nevertheless."""

    code: str
    message: str
    cure: str
    keeps_room: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """All that a decision depended on. `spared`: as in Snapshot. `decided`: the plan that was decided, as JSON, if one
    was."""

    state: ClusterState
    now_ms: int
    policy: Policy
    usage: Usage = field(default_factory=dict)
    held_back: Mapping[str, HeldBack] = field(default_factory=dict)
    spared: frozenset[str] = frozenset()
    decided: Mapping[str, Any] | None = None

    def snapshot(self) -> Snapshot:
        found = translate.snapshot(self.state, now_ms=self.now_ms, policy=self.policy, usage=self.usage)
        found = replace(found, spared=self.spared)
        if not self.held_back:
            return found
        held = self.held_back
        return replace(
            found,
            gangs=tuple(
                replace(gang, problems=(*gang.problems, held[gang.key]), held_back=held[gang.key].keeps_room)
                if gang.key in held
                else gang
                for gang in found.gangs
            ),
        )


class _Headed(msgspec.Struct, frozen=True, kw_only=True):
    metadata: ObjectMeta


class _Unreadable(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An object that cannot be decoded. `object`: its identity, for a claim what it holds, for a rule its taint."""

    problem: str
    object: msgspec.Raw


class _Withdrawn(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A device that no slice lists any more, as it was last published."""

    driver: str
    pool: str
    device: Device


class _File(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    format: str
    now_ms: int
    policy: dict[str, Any]
    usage: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    listed: list[str] = msgspec.field(default_factory=list)
    objects: dict[str, list[msgspec.Raw]]
    unreadable: dict[str, list[_Unreadable]] = msgspec.field(default_factory=dict)
    withdrawn: list[_Withdrawn] = msgspec.field(default_factory=list)
    avoided: dict[str, list[tuple[str, str, str]]] = msgspec.field(default_factory=dict)
    below: dict[str, Fall] = msgspec.field(default_factory=dict)
    held_back: dict[str, HeldBack] = msgspec.field(default_factory=dict)
    spared: list[str] = msgspec.field(default_factory=list)
    decided: dict[str, Any] | None = None


def of(
    state: ClusterState,
    snapshot: Snapshot,
    *,
    held_back: Mapping[str, Reason],
    decided: Mapping[str, Any],
) -> bytes:
    """The recording of one decision: `snapshot` was made of `state`, and with what is known besides it was decided."""
    return dump(
        state,
        now_ms=snapshot.now_ms,
        policy=snapshot.policy,
        usage=snapshot.usage,
        held_back=held_back,
        keep_room={gang.key for gang in snapshot.gangs if gang.held_back},
        spared=snapshot.spared,
        decided=decided,
    )


def dump(
    state: ClusterState,
    *,
    now_ms: int,
    policy: Policy,
    usage: Usage | None = None,
    held_back: Mapping[str, Reason] | None = None,
    keep_room: Container[str] = (),
    spared: Iterable[str] = (),
    decided: Mapping[str, Any] | None = None,
) -> bytes:
    """The recording as JSON. Equal clusters give equal bytes. `held_back`, `spared`, `decided`: as in Recording;
    `keep_room`: those held back that keep what was promised to them. `usage` None: what the queues' statuses tell."""
    usage = parts_told(state) if usage is None else usage
    objects: dict[str, list[msgspec.Raw]] = {}
    unreadable: dict[str, list[_Unreadable]] = {}
    for kind in sorted(state.kinds, key=_name):
        for key in state.keys(kind):
            found, change = state.object(kind, key), state.change(kind, key)
            if found is not None:
                objects.setdefault(_name(kind), []).append(_recorded(kind, found, change))
            elif change is not None:
                unreadable.setdefault(_name(kind), []).append(_outline(change))
    return msgspec.json.encode(
        _File(
            format=FORMAT,
            now_ms=now_ms,
            policy=asdict(policy),
            usage={queue: dict(parts) for queue, parts in sorted(usage.items())},
            listed=sorted(_name(kind) for kind in state.kinds if state.lists(kind)),
            objects=objects,
            unreadable=unreadable,
            withdrawn=[
                _Withdrawn(driver=driver, pool=pool, device=device)
                for (driver, pool, _), device in _withdrawn(state).items()
            ],
            avoided={uid: sorted(devices) for uid, devices in sorted(state.avoided.items())},
            below=dict(sorted(state.falls.known.items())),
            held_back={
                gang: HeldBack(code=why.code, message=why.message, cure=why.cure, keeps_room=gang in keep_room)
                for gang, why in sorted((held_back or {}).items())
            },
            spared=sorted(spared),
            decided=None if decided is None else dict(decided),
        ),
        order="deterministic",
    )


def load(data: bytes) -> Recording:
    """A recording read back. Kinds that we do not read, and settings that we do not know, are left out.

    Raises RecordingError."""
    try:
        file = msgspec.json.decode(data, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
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
        for each in file.unreadable.get(_name(kind), ()):
            state.apply(_unreadable(kind, each))
        if _name(kind) in file.listed:
            state.apply(listed(kind))
    for kind, avoid in ((RESOURCE_CLAIM, state.avoid), (POD, state.avoid_for_pod)):
        for key in state.keys(kind) if file.avoided else ():
            change = state.change(kind, key)
            if change is not None and change.meta.uid in file.avoided:
                avoid(key, change.meta.uid, file.avoided[change.meta.uid])
    state.falls = Falls(known=file.below)
    state.withdrawn = Withdrawn({(each.driver, each.pool, each.device.name): each.device for each in file.withdrawn})
    return Recording(
        state=state,
        now_ms=file.now_ms,
        policy=policy,
        usage=file.usage,
        held_back=file.held_back,
        spared=frozenset(file.spared),
        decided=file.decided,
    )


def _withdrawn(state: ClusterState) -> dict[DeviceKey, Device]:
    """Those of the withdrawn devices that count, because a claim holds them."""
    if not state.withdrawn or not state.lists(RESOURCE_CLAIM):
        return state.withdrawn.in_order()
    held = (key for claim in state.keys(RESOURCE_CLAIM) for key in state.withdrawn.held_by(_held_by(state, claim)))
    return state.withdrawn.of(set(held))


def _held_by(state: ClusterState, claim: str) -> AllocationResult | None:
    found, change = state.object(RESOURCE_CLAIM, claim), state.change(RESOURCE_CLAIM, claim)
    if found is None and change is not None:
        found = allocated_part(change)
    return found.status.allocation if isinstance(found, ResourceClaim) else None


def _recorded(kind: Kind, found: Wire, change: Change | None) -> msgspec.Raw:
    document = _encoded(_without_copies(found))
    if kind != RESOURCE_CLAIM or change is None or not newer_fields(change.raw):
        return document
    parts = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
    return _encoded({**parts, "spec": claim_spec(change.raw)})  # refused for what we do not know: it has to be there


def _without_copies(found: Wire) -> Wire:
    """The object without the manifest that it was made of."""
    meta: ObjectMeta = found.metadata  # type: ignore[attr-defined]
    if meta.annotations and not _COPIES.isdisjoint(meta.annotations):
        kept = {name: value for name, value in meta.annotations.items() if name not in _COPIES}
        found = msgspec.structs.replace(found, metadata=msgspec.structs.replace(meta, annotations=kept))
    return found


def _outline(change: Change) -> _Unreadable:
    meta = change.meta
    held = allocated_part(change) if change.kind == RESOURCE_CLAIM else None
    document: dict[str, Any] = {
        "metadata": ObjectMeta(
            name=meta.name,
            namespace=meta.namespace,
            uid=meta.uid,
            resource_version=meta.resource_version,
            creation_timestamp=meta.creation_timestamp,
            deletion_timestamp=meta.deletion_timestamp,
            labels=meta.labels if held is not None else None,
            owner_references=meta.owner_references if held is not None else None,
        )
    }
    if held is not None:
        document["status"] = held.status
    rule = tainting_part(change) if change.kind == DEVICE_TAINT_RULE else None
    if rule is not None:
        document["spec"] = rule.spec
    return _Unreadable(problem=change.problem or "", object=_encoded(document))


def _unreadable(kind: Kind, found: _Unreadable) -> Change:
    """Raises RecordingError."""
    try:
        meta = msgspec.json.decode(found.object, type=_Headed).metadata
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RecordingError(f"an unreadable {kind.kind} of the recording: {error}; make it anew.") from None
    return Change(kind=kind, type="ADDED", key=meta.key, raw=bytes(found.object), problem=found.problem, meta=meta)


def _encoded(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value, order="deterministic"))


def _name(kind: Kind) -> str:
    return f"{kind.api_version}/{kind.plural}"
