"""Claims as documents that are written back: read and changed as pure functions.

What we do not write stays as the bytes that came: the server compares a claim's spec with the one it has, and 1e3 is
not 1000.0 to it; what drivers say in the status is theirs, fields newer than us included.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from scheduler.api import kinds
from scheduler.api.changes import is_cut
from scheduler.api.dra import (
    CLAIM_FINALIZER,
    EXTENDED_RESOURCE_CLAIM_ANNOTATION,
    AllocatedDeviceStatus,
    AllocationResult,
    DeviceRequestAllocationResult,
)
from scheduler.commit.attempts import WriteRefused
from scheduler.commit.writes import ClaimMaking, Consumer

Document = dict[str, Any]
"""A claim. `metadata` and `status.reservedFor` are decoded; everything else is msgspec.Raw, as the server sent it."""

_TOO_DEEP = "is nested too deeply to be written back"

DeviceName = tuple[str, str, str, str]
"""Driver, pool, device, share."""

_parts = msgspec.json.Decoder(dict[str, msgspec.Raw])
_optional_parts = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
_reservations = msgspec.json.Decoder(list[dict[str, str]])
_allocation: msgspec.json.Decoder[AllocationResult | None] = msgspec.json.Decoder(AllocationResult | None)
_entries = msgspec.json.Decoder(list[msgspec.Raw] | None)
_reported = msgspec.json.Decoder(AllocatedDeviceStatus)


class NoClaim(ValueError):
    """A document that is no claim which we could write back; says why in a few words."""


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    namespace: str
    uid: str
    finalizers: list[str] | None = None
    annotations: dict[str, str] | None = None


def opened(raw: bytes) -> Document:
    """The claim, ready to be changed and written back. Raises NoClaim: no JSON, nested too deeply for a decoder, or
    without what every claim has."""
    if is_cut(raw):
        raise NoClaim(_TOO_DEEP)
    try:
        claim: Document = {**_parts.decode(raw)}
        metadata = claim.get("metadata", msgspec.Raw(b"null"))
        msgspec.json.decode(metadata, type=_Metadata)
        claim["metadata"] = msgspec.json.decode(metadata)
        parts = _optional_parts.decode(claim.get("status", b"null")) or {}
        status: Document = {name: part for name, part in parts.items() if bytes(part) != b"null"}
        if "reservedFor" in status:
            status["reservedFor"] = _reservations.decode(status["reservedFor"])
        _allocation.decode(status.get("allocation", b"null"))
        _entries.decode(status.get("devices", b"null"))
        claim["status"] = status
    except RecursionError:
        raise NoClaim(_TOO_DEEP) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise NoClaim(f"cannot be read ({error})") from error
    return claim


def allocation_of(claim: Document) -> AllocationResult | None:
    """What the claim holds. Raises WriteRefused where the decoder has less room for nesting than `opened` had."""
    raw: bytes = (claim.get("status") or {}).get("allocation", b"null")
    try:
        return _allocation.decode(raw)
    except RecursionError:
        raise WriteRefused(named(key_of(claim)), _TOO_DEEP) from None


def binding_conditions(claim: Document) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the claim's devices still wait for, and what has failed: each as "condition X of device d" (KEP 5007)."""
    allocation = allocation_of(claim)
    results = allocation.devices.results or () if allocation is not None else ()
    if not any(result.binding_conditions or result.binding_failure_conditions for result in results):
        return (), ()
    reported = _conditions(claim)
    waiting: list[str] = []
    failed: list[str] = []
    for result in results:
        conditions = reported.get(_device(result), {})
        where = f"of device {result.driver}/{result.pool}/{result.device}"
        failed += [
            f"condition {name} {where} is true"
            for name in result.binding_failure_conditions or ()
            if conditions.get(name) == "True"
        ]
        waiting += [
            f"condition {name} {where}" for name in result.binding_conditions or () if conditions.get(name) != "True"
        ]
    return tuple(waiting), tuple(failed)


def unready_devices(claim: Document) -> frozenset[tuple[str, str, str]]:
    """The claim's devices (driver, pool, name) with a condition that has failed; if there are none, those that still
    wait for one."""
    allocation = allocation_of(claim)
    reported = _conditions(claim)
    waiting, failed = set(), set()
    for result in (allocation.devices.results or ()) if allocation is not None else ():
        conditions = reported.get(_device(result), {})
        device = result.driver, result.pool, result.device
        if any(conditions.get(name) == "True" for name in result.binding_failure_conditions or ()):
            failed.add(device)
        if any(conditions.get(name) != "True" for name in result.binding_conditions or ()):
            waiting.add(device)
    return frozenset(failed or waiting)


def devices_of(claim: Document) -> frozenset[DeviceName]:
    """The devices the claim holds; the share tells parts of one device apart."""
    allocation = allocation_of(claim)
    return frozenset() if allocation is None else wanted_devices(allocation)


def is_made(claim: Document) -> bool:
    """Whether the claim was made by a scheduler for a pod's extended resources."""
    annotations: Mapping[str, str] = claim["metadata"].get("annotations") or {}
    return annotations.get(EXTENDED_RESOURCE_CLAIM_ANNOTATION) == "true"


def wanted_devices(allocation: AllocationResult) -> frozenset[DeviceName]:
    """The devices of an allocation that is to be written."""
    return frozenset(map(_device, allocation.devices.results or ()))


def allocation_document(allocation: AllocationResult, timestamp: str) -> msgspec.Raw:
    """The allocation as it is written, with the time (RFC 3339) from which its devices are waited for."""
    parts: Document = {**_parts.decode(msgspec.json.encode(allocation)), "allocationTimestamp": timestamp}
    return msgspec.Raw(msgspec.json.encode(parts))


def with_finalizer(claim: Document) -> Document:
    """The claim with the finalizer that must stand before an allocation does."""
    return {**claim, "metadata": {**claim["metadata"], "finalizers": [*finalizers_of(claim), CLAIM_FINALIZER]}}


def without_finalizer(claim: Document) -> Document:
    """The claim without it."""
    kept = [name for name in finalizers_of(claim) if name != CLAIM_FINALIZER]
    return {**claim, "metadata": {**claim["metadata"], "finalizers": kept}}


def finalizers_of(claim: Document) -> tuple[str, ...]:
    return tuple(claim["metadata"].get("finalizers") or ())


def with_status(claim: Document, **fields: Any) -> Document:
    """The claim with these fields of its status; None takes one away."""
    status = {**(claim.get("status") or {}), **fields}
    return {**claim, "status": {name: value for name, value in status.items() if value is not None}}


def reservations_of(claim: Document) -> list[Document]:
    """The entries of status.reservedFor."""
    return list((claim.get("status") or {}).get("reservedFor") or ())


def reservation(consumer: Consumer) -> Document:
    """The entry of status.reservedFor for a pod."""
    return {"resource": "pods", "name": consumer.pod.partition("/")[2], "uid": consumer.uid}


def made_claim(making: ClaimMaking, namespace: str, pod: str) -> Document:
    """The claim to create for a pod's extended resources; its finalizer is there from the start."""
    owner = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": making.consumer.uid, "controller": True}
    return {
        "apiVersion": kinds.RESOURCE_CLAIM.api_version,
        "kind": kinds.RESOURCE_CLAIM.kind,
        "metadata": {
            "generateName": f"{pod}-extended-resources-",
            "namespace": namespace,
            "annotations": {EXTENDED_RESOURCE_CLAIM_ANNOTATION: "true"},
            "finalizers": [CLAIM_FINALIZER],
            "ownerReferences": [owner],
        },
        "spec": msgspec.Raw(msgspec.json.encode(making.spec)),
    }


def placeholder(making: ClaimMaking) -> str:
    """The key under which a claim counts that does not exist yet."""
    return f"{making.consumer.pod}-extended-resources-{making.consumer.uid}"


def controller_uid(claim: Document) -> str:
    """The uid of the claim's controller, "" if it has none."""
    owners: list[Document] = claim["metadata"].get("ownerReferences") or []
    return next((str(owner.get("uid")) for owner in owners if owner.get("controller")), "")


def _device(entry: DeviceRequestAllocationResult | AllocatedDeviceStatus) -> DeviceName:
    return (entry.driver, entry.pool, entry.device, entry.share_id or "")


def _conditions(claim: Document) -> dict[DeviceName, dict[str, str]]:
    """What drivers report of the claim's devices. An entry of a form that we do not know reports nothing to us."""
    found: dict[DeviceName, dict[str, str]] = {}
    for entry in _entries.decode((claim.get("status") or {}).get("devices", b"null")) or ():
        try:
            reported = _reported.decode(entry)
        except (msgspec.ValidationError, RecursionError):
            continue
        found[_device(reported)] = {condition.type: condition.status for condition in reported.conditions or ()}
    return found


def key_of(claim: Document) -> str:
    """namespace/name."""
    return f"{claim['metadata']['namespace']}/{claim['metadata']['name']}"


def named(key: str) -> str:
    """The claim in words."""
    return f"ResourceClaim {key}"
