"""Claims as raw documents: read and changed as pure functions, so that fields newer than us survive."""

from collections.abc import Mapping
from typing import Any

import msgspec

from scheduler.api import kinds
from scheduler.api.dra import CLAIM_FINALIZER, EXTENDED_RESOURCE_CLAIM_ANNOTATION, AllocationResult
from scheduler.commit.writes import ClaimMaking, Consumer

Document = dict[str, Any]
DeviceName = tuple[str, str, str, str]
"""Driver, pool, device, share."""


def binding_conditions(claim: Document) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the claim's devices still wait for, and what has failed: each as "condition X of device d" (KEP 5007)."""
    status: Document = claim.get("status") or {}
    reported = {_device(entry): _conditions(entry) for entry in status.get("devices") or ()}
    waiting: list[str] = []
    failed: list[str] = []
    for result in (status.get("allocation") or {}).get("devices", {}).get("results") or ():
        conditions = reported.get(_device(result), {})
        where = f"of device {result['driver']}/{result['pool']}/{result['device']}"
        failed += [
            f"condition {name} {where} is true"
            for name in result.get("bindingFailureConditions") or ()
            if conditions.get(name) == "True"
        ]
        waiting += [
            f"condition {name} {where}"
            for name in result.get("bindingConditions") or ()
            if conditions.get(name) != "True"
        ]
    return tuple(waiting), tuple(failed)


def devices_of(claim: Document) -> frozenset[DeviceName]:
    """The devices the claim holds; the share tells parts of one device apart."""
    allocation = (claim.get("status") or {}).get("allocation") or {}
    return frozenset(_device(result) for result in allocation.get("devices", {}).get("results") or ())


def is_made(claim: Document) -> bool:
    """Whether the claim was made by a scheduler for a pod's extended resources."""
    annotations: Mapping[str, str] = claim["metadata"].get("annotations") or {}
    return annotations.get(EXTENDED_RESOURCE_CLAIM_ANNOTATION) == "true"


def wanted_devices(allocation: AllocationResult) -> frozenset[DeviceName]:
    """The devices of an allocation that is to be written."""
    return frozenset(
        (result.driver, result.pool, result.device, result.share_id or "")
        for result in allocation.devices.results or ()
    )


def with_finalizer(claim: Document) -> Document:
    """The claim with the finalizer that must stand before an allocation does."""
    metadata = claim["metadata"]
    return {**claim, "metadata": {**metadata, "finalizers": [*metadata.get("finalizers", ()), CLAIM_FINALIZER]}}


def with_status(claim: Document, **fields: Any) -> Document:
    """The claim with these fields of its status; None takes one away."""
    status = {**(claim.get("status") or {}), **fields}
    return {**claim, "status": {name: value for name, value in status.items() if value is not None}}


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
        "spec": msgspec.json.decode(msgspec.json.encode(making.spec)),
    }


def placeholder(making: ClaimMaking) -> str:
    """The key under which a claim counts that does not exist yet."""
    return f"{making.consumer.pod}-extended-resources-{making.consumer.uid}"


def controller_uid(claim: Document) -> str:
    """The uid of the claim's controller, "" if it has none."""
    owners = claim["metadata"].get("ownerReferences") or ()
    return next((owner["uid"] for owner in owners if owner.get("controller")), "")


def _device(entry: Document) -> DeviceName:
    return (entry["driver"], entry["pool"], entry["device"], entry.get("shareID") or "")


def _conditions(entry: Document) -> dict[str, str]:
    return {condition["type"]: condition["status"] for condition in entry.get("conditions") or ()}


def key_of(claim: Document) -> str:
    """namespace/name."""
    return f"{claim['metadata']['namespace']}/{claim['metadata']['name']}"


def named(key: str) -> str:
    """The claim in words."""
    return f"ResourceClaim {key}"
