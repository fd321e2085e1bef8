"""How every device is, as the kubelet is told: from what is offered, its taints, and which GPUs do not answer. Pure."""

from collections.abc import Collection

from dra_driver.devices import Device, Inventory
from dra_driver.health import KEYS, LOST_TAINT, UNMONITORED_TAINT, words
from dra_driver.plugin import DeviceHealth
from dra_driver.xids import NOTE


def health_list(
    inventory: Inventory, lost: Collection[str], *, pool: str, seen: int, lasts_seconds: int
) -> tuple[DeviceHealth, ...]:
    """All devices. `lost`: UUIDs of GPUs that do not answer; `seen`: when this was found out, seconds since 1970."""
    return tuple(
        DeviceHealth(
            pool=pool,
            device=device.name,
            healthy=healthy(device, lost),
            seen=seen,
            lasts_seconds=lasts_seconds,
            message=_message(device, lost),
        )
        for device in inventory.devices
    )


def healthy(device: Device, lost: Collection[str]) -> bool | None:
    """Whether a device is well: no taint of its health says otherwise. None where nobody can tell."""
    if device.gpu in lost or any(taint.key in KEYS and taint.effect != NOTE for taint in device.taints):
        return False
    return None if any(taint.key == UNMONITORED_TAINT for taint in device.taints) else True


def _message(device: Device, lost: Collection[str]) -> str:
    """What is wrong with a device and what was noted of it; "" if nothing."""
    said = [words(taint) for taint in device.taints]
    if device.gpu in lost and not any(taint.key == LOST_TAINT for taint in device.taints):
        said.insert(0, f"GPU {device.gpu} does not answer")
    return "; ".join(said)
