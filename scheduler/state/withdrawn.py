"""Devices that no slice lists any more, with what they drew on counters while one did.

A driver may withdraw a partition that a claim still holds, or publish it under another name. The device goes on taking
its part of the board, which nothing that is published says (kubernetes/kubernetes#140802). Known is only what was seen
here: after a start, what was withdrawn since.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TypeAlias

from scheduler.api.dra import AllocationResult, DeviceCounterConsumption, ResourceSlice

DeviceKey: TypeAlias = tuple[str, str, str]
"""(driver, pool, device)"""

_MOST = 50_000


class Withdrawn:
    """What left a slice and came back in none, as far as that is known: a device may also have moved to another slice,
    and what a slice says goes before what is remembered here."""

    def __init__(self, drew: Mapping[DeviceKey, tuple[DeviceCounterConsumption, ...]] | None = None) -> None:
        self._drew = dict(drew or {})

    def __len__(self) -> int:
        return len(self._drew)

    def copy(self) -> "Withdrawn":
        return Withdrawn(self._drew)

    def replaced(self, before: ResourceSlice | None, after: ResourceSlice | None) -> None:
        """A slice was published, changed, or is gone (`after` None)."""
        if before is None and not self._drew:
            return
        self._drew.update(_drawing(before))
        for key in _drawing(after):
            self._drew.pop(key, None)
        for key in list(islice(self._drew, max(len(self._drew) - _MOST, 0))):
            del self._drew[key]  # while nobody asks which of them are held

    def keep(self, allocations: Iterable[AllocationResult]) -> None:
        """Forget the devices that none of these hold."""
        held = {
            (result.driver, result.pool, result.device)
            for allocation in allocations
            for result in allocation.devices.results or ()
        }
        self._drew = {key: draws for key, draws in self._drew.items() if key in held}

    def in_order(self) -> dict[DeviceKey, tuple[DeviceCounterConsumption, ...]]:
        """What each drew, by device."""
        return dict(sorted(self._drew.items()))


def _drawing(published: ResourceSlice | None) -> dict[DeviceKey, tuple[DeviceCounterConsumption, ...]]:
    if published is None:
        return {}
    spec = published.spec
    return {
        (spec.driver, spec.pool.name, device.name): device.consumes_counters
        for device in spec.devices or ()
        if device.consumes_counters
    }
