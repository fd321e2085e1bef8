"""Chosen devices -> AllocationResult: results, configuration with its precedence, node selector.

Source: KEP 4381 (AllocationResult), KEP 5075 (shareID, consumedCapacity), KEP 5007 (binding conditions).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from scheduler.api import dra
from scheduler.api.core import NodeSelector, NodeSelectorRequirement, NodeSelectorTerm
from scheduler.dra.capacity import taken_by
from scheduler.dra.devices import Device, DeviceId, amount, written
from scheduler.dra.requests import Want
from scheduler.dra.selection import only_on
from scheduler.model.workloads import Claim

_only_on = lru_cache(maxsize=50_000)(only_on)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One request of a claim: the alternative that was chosen, and its devices."""

    want: Want
    devices: tuple[Device, ...]


def allocation(
    claim: Claim, served: Sequence[Served], node: str, classes: Mapping[str, dra.DeviceClass]
) -> dra.AllocationResult:
    """The allocation of a claim, results in the order of its requests. The timestamp is the committer's to add."""
    devices = [device for part in served for device in part.devices]
    ordinals: dict[DeviceId, int] = {}
    results = []
    for part in served:
        for device in part.devices:
            ordinal = ordinals[device.id] = ordinals.get(device.id, -1) + 1
            results.append(_result(claim, part.want, device, ordinal))
    config = (*_class_config(served, classes), *_claim_config(claim.spec.devices.config or (), served))
    return dra.AllocationResult(
        devices=dra.DeviceAllocationResult(results=tuple(results) or None, config=config or None),
        node_selector=_node_selector(devices, node),
    )


def share_id(claim_uid: str, device: DeviceId, ordinal: int) -> str:
    """A UUID for a claim's n-th share of a device: the same for the same input, unlike any other's."""
    digest = hashlib.blake2b(repr((claim_uid, tuple(device), ordinal)).encode(), digest_size=16).digest()
    bits = bytearray(digest)
    bits[6] = bits[6] & 0x0F | 0x80  # version 8: content defined by its maker (RFC 9562)
    bits[8] = bits[8] & 0x3F | 0x80
    text = bits.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _result(claim: Claim, want: Want, device: Device, ordinal: int) -> dra.DeviceRequestAllocationResult:
    published = device.published
    return dra.DeviceRequestAllocationResult(
        request=want.request,
        driver=device.id.driver,
        pool=device.id.pool,
        device=device.id.name,
        admin_access=True if want.admin else None,
        tolerations=want.tolerations or None,
        binding_conditions=published.binding_conditions or None,
        binding_failure_conditions=published.binding_failure_conditions or None,
        share_id=share_id(claim.uid or claim.key, device.id, ordinal) if device.shareable else None,
        consumed_capacity=_consumed(want, device) if device.shareable else None,
        skip_node_operations=device.skips,
    )


def _consumed(want: Want, device: Device) -> Mapping[str, str] | None:
    """What the share takes of every capacity, in the device's own words where the amount is the same."""
    consumed = {}
    for name, value in taken_by(dict(want.capacity), device) or ():
        published = (device.published.capacity or {})[name].value
        consumed[name] = str(published) if amount(published) == value else written(value)
    return consumed or None


def _class_config(
    served: Sequence[Served], classes: Mapping[str, dra.DeviceClass]
) -> Iterable[dra.DeviceAllocationConfiguration]:
    """The configuration of each class used, once, for the requests it serves."""
    for name in dict.fromkeys(part.want.device_class for part in served):
        requests = tuple(part.want.request for part in served if part.want.device_class == name)
        for config in classes[name].spec.config or ():
            yield dra.DeviceAllocationConfiguration(
                source="FromClass", requests=_unless_all(requests, served), opaque=config.opaque
            )


def _claim_config(
    published: Iterable[dra.DeviceClaimConfiguration], served: Sequence[Served]
) -> Iterable[dra.DeviceAllocationConfiguration]:
    """The claim's own configuration, as far as it concerns an alternative that was chosen. Later entries win."""
    for config in published:
        requests = config.requests or ()
        if not requests or any(_concerns(requests, part.want) for part in served):
            yield dra.DeviceAllocationConfiguration(
                source="FromClaim", requests=_unless_all(requests, served), opaque=config.opaque
            )


def _concerns(requests: Sequence[str], want: Want) -> bool:
    return want.main in requests or want.request in requests


def _unless_all(requests: tuple[str, ...], served: Sequence[Served]) -> tuple[str, ...] | None:
    """The names, or None (all) if every request of the claim is among them."""
    return None if not requests or all(_concerns(requests, part.want) for part in served) else requests


def _node_selector(devices: Sequence[Device], node: str) -> NodeSelector | None:
    """Where the allocation can be used: one node if any device is bound to it, else what all devices ask of a node."""
    if any(device.node_name is not None or device.published.binds_to_node for device in devices):
        return _only_on(node)
    terms = [
        term
        for device in devices
        if device.node_selector is not None
        for term in device.node_selector.node_selector_terms
    ]
    if not terms:
        return None
    expressions = dict.fromkeys(r for term in terms for r in term.match_expressions or ())
    fields = dict.fromkeys(r for term in terms for r in term.match_fields or ())
    return NodeSelector(node_selector_terms=(_term(tuple(expressions), tuple(fields)),))


def _term(
    expressions: tuple[NodeSelectorRequirement, ...], fields: tuple[NodeSelectorRequirement, ...]
) -> NodeSelectorTerm:
    return NodeSelectorTerm(match_expressions=expressions or None, match_fields=fields or None)
