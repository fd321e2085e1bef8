"""What devices cost the queues that measure them by a capacity or by counters. A part of the check of plans.

Read from the slices as they are, apart from what the planner charges (`scheduler.dra.measures`).
Source: KEP 4815 (counters), KEP 5075 (consumedCapacity).
"""

from fractions import Fraction
from math import ceil

from queues.resources import Resources
from scheduler.api import dra
from scheduler.solver.check_case import Case
from scheduler.solver.check_published import Published, amount

OF_CLASS = ".deviceclass/"
"""memory.deviceclass/gpu.nvidia.com, memory-slice.counters.deviceclass/mig.nvidia.com"""


class Measured:
    """What allocations amount to, by every resource of that form that a queue of the snapshot has a rule for.
    `by_class`: these, with what they count, by the class they are about."""

    def __init__(self, case: Case) -> None:
        self._pools = case.pools
        self.by_class: dict[str, dict[str, str]] = {}
        for name in sorted({name for queue in case.snapshot.queues for name in queue.resources}):
            what, found, of = name.partition(OF_CLASS)
            if found:
                self.by_class.setdefault(of, {})[name] = what

    def __call__(self, spec: dra.ResourceClaimSpec, allocation: dra.AllocationResult) -> Resources:
        sums: dict[str, int] = {}
        for result in allocation.devices.results or ():
            device = self._pools.last((result.driver, result.pool, result.device))
            if device is None or result.admin_access:
                continue
            for name, what in self.by_class.get(_class_of(spec, result.request), {}).items():
                sums[name] = sums.get(name, 0) + ceil(_amount(what, result, device))
        return Resources(sums)


def _class_of(spec: dra.ResourceClaimSpec, request: str) -> str:
    main, _, sub = request.partition("/")
    for asked in spec.devices.requests or ():
        if asked.name == main and asked.exactly is not None:
            return asked.exactly.device_class_name
        for alternative in asked.first_available or ():
            if (asked.name, alternative.name) == (main, sub):
                return alternative.device_class_name
    return ""


def _amount(what: str, result: dra.DeviceRequestAllocationResult, device: Published) -> Fraction:
    has = {name: amount(capacity.value) or Fraction(0) for name, capacity in (device.device.capacity or {}).items()}
    shared = result.share_id is not None
    takes = {name: amount(text) or Fraction(0) for name, text in (result.consumed_capacity or {}).items()}
    counter, counting, _ = what.partition(".counters")
    if not counting:
        amounts = takes if shared else has
        return amounts.get(what, amounts.get(f"{device.spec.driver}/{what}", Fraction(0)))
    drawn = Fraction(0)
    for use in device.device.consumes_counters or ():
        for name, value in use.counters.items():
            series, dash, number = name.rpartition("-")
            if counter == name or (dash and counter == series and number.isdecimal()):
                drawn += amount(value.value) or Fraction(0)
    return drawn * (_part(has, takes) if shared else 1)


def _part(has: dict[str, Fraction], takes: dict[str, Fraction]) -> Fraction:
    """Of a device that is shared, the part of its memory; without memory the largest part of anything, or all."""
    parts = {name: takes[name] / has[name] for name in takes if has.get(name)}
    return parts.get("memory") or max(parts.values(), default=Fraction(0)) or Fraction(1)
