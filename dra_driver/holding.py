"""What is given away excludes what else may be: whole GPUs, their parts, shares. Pure."""

from collections.abc import Iterable

from dra_driver.devices import Capacity, ClaimRef, Entry, Grant, Kind, Phase, Prepared
from dra_driver.facts import Placement


def owned(entries: Iterable[Entry], boot: str) -> frozenset[tuple[str, Placement]]:
    """GPU and placement of each MIG instance that we made, or are about to make: all others are an operator's."""
    return frozenset(
        (device.gpu, device.placement)
        for entry in entries
        if entry.boot == boot
        for device in entry.devices
        if device.made and device.placement is not None
    )


def excludes(one: Prepared, other: Prepared) -> bool:
    """Whether two devices cannot be given away together. Onlookers exclude nobody; shares of one device do not exclude
    each other: their sum is another question."""
    if one.grant.admin or other.grant.admin:
        return False
    if Kind.CHANNEL in (one.kind, other.kind):
        return one.grant.device == other.grant.device and not both_shares(one, other)
    if one.gpu != other.gpu:
        return False
    if same_device(one, other):
        return not both_shares(one, other)
    if one.placement is None or other.placement is None:
        return True
    return one.placement.overlaps(other.placement)


def same_device(one: Prepared, other: Prepared) -> bool:
    """Whether they are one device, by what it is: names may have changed with a minor number."""
    if Kind.CHANNEL in (one.kind, other.kind):
        return one.grant.device == other.grant.device
    return (one.gpu, one.kind, one.profile_id, one.placement) == (
        other.gpu,
        other.kind,
        other.profile_id,
        other.placement,
    )


def both_shares(one: Prepared, other: Prepared) -> bool:
    """Whether each has a share of its own."""
    return bool(one.grant.share_id) and bool(other.grant.share_id) and one.grant.share_id != other.grant.share_id


def asked(device: Prepared, name: str, capacity: Capacity) -> int:
    """How much of a capacity ("memory" in bytes, "cores" in percent) its share is. Who does not say takes the default
    (KEP 5075), and all of it where there is none."""
    amount = {"memory": device.grant.memory_bytes, "cores": device.grant.cores_percent}[name]
    if amount is not None:
        return amount
    return capacity.amount if capacity.default is None else capacity.default


def same_grants(devices: Iterable[Prepared], grants: Iterable[Grant]) -> bool:
    """Whether devices are what these grants give. What is asked of them does not change while they are allocated, but
    another version of the plugin may read it another way: that is no reason to take them from who runs on them."""
    return {_identity(device.grant) for device in devices} == {_identity(grant) for grant in grants}


def described(device: Prepared) -> str:
    """A device, for who reads a refusal."""
    if device.kind is Kind.MIG and device.placement is not None:
        end = device.placement.start + device.placement.size - 1
        return f"{device.grant.device} (memory slices {device.placement.start} to {end} of GPU {device.gpu})"
    return f"{device.grant.device}{f' (GPU {device.gpu})' if device.gpu else ''}"


def holder(entry: Entry, claim: ClaimRef) -> str:
    """Who has it, for a user who may see other namespaces' claims only by name."""
    name = f"claim {entry.claim.namespace}/{entry.claim.name}"
    if (entry.claim.namespace, entry.claim.name) == (claim.namespace, claim.name):
        return f"its predecessor of the same name (uid {entry.claim.uid}), which is deleted but not given back yet,"
    return f"{name}, which is being given back," if entry.phase is Phase.ENDING else name


def _identity(grant: Grant) -> tuple[str, str, bool]:
    return grant.device, grant.share_id, grant.admin
