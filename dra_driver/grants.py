"""A claim as the API server tells it -> what was granted to it of this node's devices. Pure.

Source: resource.k8s.io/v1, ResourceClaimStatus.allocation; KEP 4381 (main requests), KEP 4816 (sub-requests), KEP 5075
(shares), KEP 5018 (adminAccess).
"""

import re
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from dra_driver import opaque
from dra_driver.devices import Grant, Kind, Settings
from scheduler.api import quantity
from scheduler.api.core import Quantity
from scheduler.api.dra import DeviceRequestAllocationResult, ResourceClaim

MEMORY = "memory"
CORES = "cores"

_KINDS = (
    (re.compile(r"gpu-\d+"), Kind.GPU),
    (re.compile(r"gpu-\d+-mig-.+-\d+-\d+"), Kind.MIG),
    (re.compile(r"channel-\d+"), Kind.CHANNEL),
)


class ClaimRefused(ValueError):
    """A claim that nothing can be prepared for: which one, why, and what would help."""


class NotHere(ClaimRefused):
    """Of this driver's devices on this node it has none: they are another driver's, or another node's."""


def grants(
    document: Mapping[str, object],
    driver: str,
    pool: str,
    *,
    uid: str = "",
    uuids: Mapping[str, str] | None = None,
) -> tuple[Grant, ...]:
    """What the claim was given of this driver's devices in this node's pool, in the order of its results.

    `uid`: of the claim that was asked for, which must be this one. `uuids`: of devices that exist, by device name, for
    configs that name them. Each share of a device that is shared is a grant of its own, and so is looking on
    (adminAccess) beside using; results that look on at one device for several requests become one.

    Raises ClaimRefused."""
    claim = _read(document)
    name = f"claim {claim.metadata.key}"
    if uid and claim.metadata.uid != uid:
        raise ClaimRefused(
            f"{name}: its UID is {claim.metadata.uid or 'missing'}, and {uid} was asked for: the claim was deleted and "
            "made anew; delete the pod, so that it is made anew with it"
        )
    results = _ours(claim, name, driver, pool)
    places = [
        opaque.Place(
            request=result.request, kind=_kind(result, name), index=index, uuid=(uuids or {}).get(result.device, "")
        )
        for index, result in enumerate(results)
    ]
    found: dict[tuple[str, str, bool], Grant] = {}
    allocation = claim.status.allocation
    assert allocation is not None, "_ours has refused a claim without one"
    try:
        configs = opaque.configs(allocation.devices.config or (), driver)
        for result, place in zip(results, places, strict=True):
            admin = result.admin_access is True
            # Who only looks on changes nothing of the device: no config, no share.
            settings = Settings() if admin else opaque.settings(configs, place, places)
            _add(found, _grant(result, name, settings), name)
    except opaque.ConfigRefused as refused:
        raise ClaimRefused(f"{name}: {refused}") from None
    return tuple(found.values())


def pods(document: Mapping[str, object]) -> tuple[str, ...]:
    """UIDs of the pods that the claim is reserved for. Raises ClaimRefused."""
    consumers = _read(document).status.reserved_for or ()
    return tuple(consumer.uid for consumer in consumers if consumer.resource == "pods" and not consumer.api_group)


def _read(document: Mapping[str, object]) -> ResourceClaim:
    try:
        # By way of bytes: parameters of configs are kept as they are written (msgspec.Raw).
        return msgspec.json.decode(msgspec.json.encode(document), type=ResourceClaim)
    except (msgspec.ValidationError, RecursionError) as error:  # opaque parameters may be nested without end
        metadata = document.get("metadata")
        named = metadata if isinstance(metadata, Mapping) else {}
        name = f"{named.get('namespace', '')}/{named.get('name', '')}"
        raise ClaimRefused(
            f"claim {name}: cannot be read: {error}; it should be a resource.k8s.io/v1 ResourceClaim"
        ) from None


def _ours(claim: ResourceClaim, name: str, driver: str, pool: str) -> tuple[DeviceRequestAllocationResult, ...]:
    """The results that this node's driver is to prepare: one or more."""
    if claim.status.allocation is None:
        raise ClaimRefused(
            f"{name}: nothing is allocated to it; it is prepared after a scheduler has allocated devices"
        )
    results = claim.status.allocation.devices.results or ()
    ours = tuple(result for result in results if result.driver == driver)
    if not ours:
        others = ", ".join(sorted({result.driver for result in results})) or "no driver"
        raise NotHere(f"{name}: its devices are of {others}, none of {driver}; that driver has to prepare them")
    elsewhere = sorted({result.pool for result in ours if result.pool != pool})
    if elsewhere:
        refused = ClaimRefused if any(result.pool == pool for result in ours) else NotHere
        raise refused(
            f"{name}: devices of pool {', '.join(elsewhere)} are allocated to it, and this node's pool is {pool}; its "
            "pod has to run on the node of its devices"
        )
    return ours


def _kind(result: DeviceRequestAllocationResult, name: str) -> Kind:
    """What a device is, by the grammar of names: the device itself may have gone meanwhile."""
    for pattern, kind in _KINDS:
        if pattern.fullmatch(result.device):
            return kind
    raise ClaimRefused(
        f"{name}: device {result.device!r} of request {result.request} is none that this driver names (gpu-<minor>, "
        "gpu-<minor>-mig-<profile>-<id>-<start>, channel-<n>); delete the claim, so that it is allocated anew"
    )


def _grant(result: DeviceRequestAllocationResult, name: str, settings: Settings) -> Grant:
    consumed = {key.rpartition("/")[2]: amount for key, amount in (result.consumed_capacity or {}).items()}
    admin = result.admin_access is True
    return Grant(
        requests=(result.request.partition("/")[0],),
        pool=result.pool,
        device=result.device,
        share_id=result.share_id or "",
        memory_bytes=None if admin else _amount(consumed, MEMORY, result, name),
        cores_percent=None if admin else _amount(consumed, CORES, result, name),
        admin=admin,
        settings=settings,
    )


def _amount(consumed: Mapping[str, Quantity], key: str, result: DeviceRequestAllocationResult, name: str) -> int | None:
    if key not in consumed:
        return None
    try:
        amount = quantity.units(consumed[key])
    except quantity.QuantityError as error:
        raise ClaimRefused(f"{name}: consumedCapacity.{key} of device {result.device}: {error}") from None
    if amount < 0 or (key == CORES and amount > 100):
        bounds = "a percentage from 0 to 100" if key == CORES else "0 or more"
        raise ClaimRefused(
            f"{name}: consumedCapacity.{key} of device {result.device} is {consumed[key]}; it should be {bounds}: "
            "delete the claim, so that it is allocated anew"
        )
    return amount


def _add(found: dict[tuple[str, str, bool], Grant], grant: Grant, name: str) -> None:
    """Put one more result's grant to those found. Only onlookers are many on one device without a share each."""
    key = (grant.device, grant.share_id, grant.admin)
    before = found.get(key)
    if before is None:
        found[key] = grant
    elif grant.admin:
        found[key] = replace(before, requests=tuple(dict.fromkeys((*before.requests, *grant.requests))))
    else:
        share = f" (share {grant.share_id})" if grant.share_id else ""
        raise ClaimRefused(
            f"{name}: device {grant.device}{share} is allocated to it twice, for requests {before.requests[0]} and "
            f"{grant.requests[0]}; delete the claim, so that it is allocated anew"
        )
