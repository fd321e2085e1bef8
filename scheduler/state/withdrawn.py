"""Devices that no slice lists any more, as they were last published.

A driver may withdraw a partition that a claim still holds, or publish it under another name. The device goes on taking
its part of the board, and costs its queue what it did, which nothing that is published says
(kubernetes/kubernetes#140802). Known is only what was seen here: after a start, what was withdrawn since.
"""

from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import TypeAlias

from scheduler.api.dra import AllocationResult, Device, ResourceSlice

DeviceKey: TypeAlias = tuple[str, str, str]
"""(driver, pool, device)"""

_MOST = 50_000
_MOST_FREE = 10_000
"""Devices that no claim is known to hold: one may have been given away just before, and its claim be told late."""


class Withdrawn:
    """What left a slice and came back in none, as far as that is known: a device may also have moved to another slice,
    and what a slice says goes before what is remembered here. `version` grows with every change of what is listed."""

    def __init__(self, devices: Mapping[DeviceKey, Device] | None = None) -> None:
        self.version = 0
        self._devices = dict(devices or {})

    def __len__(self) -> int:
        return len(self._devices)

    def copy(self) -> "Withdrawn":
        return Withdrawn(self._devices)

    def replaced(self, before: ResourceSlice | None, after: ResourceSlice | None) -> None:
        """A slice was published, changed, or is gone (`after` None)."""
        if before is None and not self._devices:
            return
        listed = _listed(after)
        gone = {key: device for key, device in _listed(before).items() if key not in listed and _counts(device)}
        back = [key for key in listed if key in self._devices] if self._devices else []
        if not gone and not back:
            return
        for key in back:
            del self._devices[key]
        self._devices.update(gone)
        self._forget(self._devices, len(self._devices) - _MOST)  # while nobody asks which of them are held
        self.version += 1

    def held_by(self, allocation: AllocationResult | None) -> tuple[DeviceKey, ...]:
        """Those of the devices that an allocation holds."""
        results = (allocation.devices.results if allocation is not None else None) or ()
        keys = ((result.driver, result.pool, result.device) for result in results if not result.admin_access)
        return tuple(key for key in keys if key in self._devices)

    def keep(self, held: Collection[DeviceKey]) -> None:
        """Forget what left first, if there are too many that are not among these."""
        surplus = len(self._devices) - len(held) - _MOST_FREE
        if surplus > 0:
            self._forget((key for key in self._devices if key not in held), surplus)

    def of(self, keys: Iterable[DeviceKey]) -> dict[DeviceKey, Device]:
        """These devices, as far as they are remembered, in order."""
        return {key: self._devices[key] for key in sorted(keys) if key in self._devices}

    def in_order(self) -> dict[DeviceKey, Device]:
        """All devices."""
        return self.of(self._devices)

    def _forget(self, keys: Iterable[DeviceKey], count: int) -> None:
        for key in list(islice(keys, max(count, 0))):
            del self._devices[key]


def _listed(published: ResourceSlice | None) -> dict[DeviceKey, Device]:
    if published is None:
        return {}
    spec = published.spec
    return {(spec.driver, spec.pool.name, device.name): device for device in spec.devices or ()}


def _counts(device: Device) -> bool:
    """Whether anything that it has or draws may be counted."""
    return bool(device.consumes_counters or device.capacity)
