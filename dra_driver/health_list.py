"""How every device is, as the kubelet is told: from what is offered, its taints, and which GPUs do not answer. Pure."""

from collections.abc import Collection

from dra_driver.devices import Device, Inventory
from dra_driver.plugin import DeviceHealth

_HARMLESS = "None"
"""The effect of a taint that only tells."""


def health_list(
    inventory: Inventory, lost: Collection[str], *, pool: str, seen: int, lasts_seconds: int
) -> tuple[DeviceHealth, ...]:
    """All devices. `lost`: UUIDs of GPUs that do not answer; `seen`: when this was found out, seconds since 1970."""
    return tuple(
        DeviceHealth(
            pool=pool,
            device=device.name,
            healthy=not problem,
            seen=seen,
            lasts_seconds=lasts_seconds,
            message=problem,
        )
        for device, problem in ((device, _problem(device, lost)) for device in inventory.devices)
    )


def _problem(device: Device, lost: Collection[str]) -> str:
    """What is wrong with a device, in words; "" if nothing is."""
    taints = [f"{taint.key}={taint.value}" for taint in device.taints if taint.effect != _HARMLESS]
    if device.gpu in lost:
        return "; ".join((f"GPU {device.gpu} does not answer", *taints))
    return "; ".join(taints)
