"""Nodes and claims -> the model's; slices and classes are used as they come."""

from collections.abc import Iterable, Mapping
from functools import lru_cache

import msgspec

from queues.resources import Resources
from scheduler.api import core, dra
from scheduler.api.changes import Change, shallow
from scheduler.api.crds import QUEUE_LABEL
from scheduler.api.meta import ObjectMeta, Wire
from scheduler.api.newer import unknown_fields
from scheduler.api.quantity import QuantityError
from scheduler.model.nodes import Node
from scheduler.model.reasons import Unreadable
from scheduler.model.workloads import Claim
from scheduler.state.fields import Bad, in_house_units
from scheduler.state.gangs import KAI_QUEUE_LABEL


def node(found: core.Node) -> Node:
    """The model's node. Raises Bad if an amount cannot be read."""
    meta = found.metadata
    return Node(
        name=meta.name,
        uid=meta.uid,
        labels=meta.labels or {},
        allocatable=_allocatable(found),
        taints=found.spec.taints or (),
        unschedulable=found.spec.unschedulable,
    )


def claim(
    found: dra.ResourceClaim,
    raw: bytes,
    *,
    admin_access_allowed: bool,
    avoids: Iterable[tuple[str, str, str]] = (),
) -> Claim:
    """The model's claim. `raw`: the document that `found` was decoded from."""
    meta = found.metadata
    labels = meta.labels or {}
    controller = meta.controller
    held = found.status.allocation
    return Claim(
        key=meta.key,
        uid=meta.uid,
        spec=found.spec,
        allocation=held if held is None else msgspec.structs.replace(held, allocation_timestamp=None),
        reserved_for=tuple(sorted(each.uid for each in found.status.reserved_for or ())),
        reserved_otherwise=any((e.api_group, e.resource) != ("", "pods") for e in found.status.reserved_for or ()),
        owner_uid=controller.uid if controller is not None and controller.kind == "Pod" else "",
        terminating=meta.deletion_timestamp is not None,
        queue=labels.get(QUEUE_LABEL) or labels.get(KAI_QUEUE_LABEL) or "",
        admin_access_allowed=admin_access_allowed,
        newer=newer_fields(raw) if held is None else (),
        avoids=tuple(sorted(avoids)) if held is None else (),
    )


def newer_fields(raw: bytes) -> tuple[str, ...]:
    """Paths of the fields of a claim's spec that we do not know; a claim made by one template is as the others."""
    return _newer(bytes(claim_spec(raw)))


def claim_spec(raw: bytes) -> msgspec.Raw:
    """The spec of a claim's document, as it came; what is nested too deeply in it cut."""
    try:
        return _specs.decode(raw).spec
    except RecursionError:
        return _specs.decode(shallow(raw)).spec


class _Spec(Wire, frozen=True, kw_only=True):
    spec: msgspec.Raw = msgspec.Raw(b"{}")


_specs = msgspec.json.Decoder(_Spec)


@lru_cache(maxsize=1_024)
def _newer(spec: bytes) -> tuple[str, ...]:
    # What is cut is inside opaque parameters, or of a newer field: what we know is not so deep.
    return unknown_fields(msgspec.json.decode(shallow(spec)), dra.ResourceClaimSpec, "spec")


class _ClaimOutline(Wire, frozen=True, kw_only=True):
    """The part of a claim that says which devices it holds."""

    metadata: ObjectMeta
    status: dra.ResourceClaimStatus


def allocated_part(change: Change) -> dra.ResourceClaim | None:
    """A claim that cannot be decoded still holds its devices, if at least its allocation can be."""
    try:
        outline = msgspec.json.decode(change.raw, type=_ClaimOutline)
    except msgspec.MsgspecError:
        return None
    if outline.status.allocation is None:
        return None
    return dra.ResourceClaim(metadata=outline.metadata, spec=dra.ResourceClaimSpec(), status=outline.status)


class _RuleOutline(Wire, frozen=True, kw_only=True):
    """The part of a taint rule that says which taint, and as much as can be read of where."""

    class Spec(Wire, frozen=True, kw_only=True):
        device_selector: Mapping[str, object] | None = None
        taint: dra.DeviceTaint

    metadata: ObjectMeta
    spec: Spec


def tainting_part(change: Change) -> dra.DeviceTaintRule | None:
    """A taint rule whose selector cannot be decoded, with a selector of what can be read: fields only ever narrow it
    (KEP 5055), so it selects at least what the rule does. None if its taint cannot be decoded."""
    try:
        outline = msgspec.json.decode(change.raw, type=_RuleOutline)
    except msgspec.MsgspecError:
        return None
    told = outline.spec.device_selector or {}
    known = {name: text for name in ("driver", "pool", "device") if isinstance(text := told.get(name), str)}
    spec = dra.DeviceTaintRuleSpec(device_selector=dra.DeviceTaintSelector(**known), taint=outline.spec.taint)
    return dra.DeviceTaintRule(metadata=outline.metadata, spec=spec)


def _allocatable(found: core.Node) -> Resources:
    """What the node offers; an amount below zero counts as none."""
    amounts: dict[str, int] = {}
    for name, value in (found.status.allocatable or {}).items():
        try:
            amounts[name] = max(in_house_units(name, value), 0)
        except QuantityError as error:
            key = found.metadata.name
            field = f"status.allocatable.{name}"
            remedy = f"Look at the kubelet of node {key}, which reports this."
            raise Bad(Unreadable(object=f"Node/{key}", field=field, problem=str(error), remedy=remedy)) from None
    return Resources(amounts)
