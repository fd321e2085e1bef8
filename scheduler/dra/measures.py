"""What devices of a class amount to in a unit of their own, for queues that count by more than the number of devices.

A queue names the unit (`queues.measures`): a capacity, of which a device counts all that it has and a share what it
takes; or a shared counter, of which a device counts what it draws, and a share of it its part. A whole board then costs
what its partitions cost together. A device that its driver has withdrawn amounts to what it did; if that is not known
(we were not there), to nothing.
Source: KEP 4815 (counters), KEP 5075 (consumedCapacity); the modes are those of Kueue's quota for devices.
"""

import re
from collections.abc import Iterable, Mapping
from math import ceil

from queues.measures import Measure, measure
from queues.tree import Queue
from scheduler.api.dra import DeviceRequestAllocationResult
from scheduler.api.quantity import QuantityError
from scheduler.dra.devices import Amount, Device, amount

Measures = tuple[Measure, ...]

_NUMBER = re.compile(r"-[0-9]+")


def of_queues(queues: Iterable[Queue]) -> Measures:
    """The measures that any of the queues has a rule for, in order of name."""
    names = sorted({name for queue in queues for name in queue.resources})
    return tuple(found for name in names if (found := measure(name)) is not None)


def taken(by: Measure, result: DeviceRequestAllocationResult, device: Device, part: Amount) -> int:
    """What a result takes of its device, whole units, rounded up. `part`: of the device, 1 for all of it."""
    if by.counters:
        return ceil(_drawn(by, device) * part)
    if result.share_id is None:
        return ceil(_has(by, device))
    try:
        consumed = {name: amount(text) for name, text in (result.consumed_capacity or {}).items()}
    except QuantityError:
        return ceil(_has(by, device))
    return ceil(_of_capacity(by, device, consumed))


def would_take(by: Measure, device: Device, consumed: Mapping[str, Amount] | None, part: Amount) -> int:
    """The same before it is taken. `consumed`: of a share, by capacity; None for all of the device."""
    if by.counters:
        return ceil(_drawn(by, device) * part)
    return ceil(_has(by, device) if consumed is None else _of_capacity(by, device, consumed))


def _has(by: Measure, device: Device) -> Amount:
    return _of_capacity(by, device, {name: capacity.value for name, capacity in device.capacity.items()})


def _of_capacity(by: Measure, device: Device, amounts: Mapping[str, Amount]) -> Amount:
    """A name without a domain is in the driver's."""
    return amounts.get(by.amount, amounts.get(f"{device.id.driver}/{by.amount}", 0))


def _drawn(by: Measure, device: Device) -> Amount:
    """Of all counter sets; of a series of counters (slice-0, slice-1, ...) all together."""
    return sum(value for _, counters in device.consumes for name, value in counters if _named(by.amount, name))


def _named(wanted: str, counter: str) -> bool:
    return counter == wanted or (
        counter.startswith(wanted) and _NUMBER.fullmatch(counter.removeprefix(wanted)) is not None
    )
