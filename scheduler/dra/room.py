"""What is left of a node's devices while a search tries them: taken and given back, step by step.

Devices that draw on the same counter sets form a board; any other device is a board of its own. Boards of one type in
one state are interchangeable, which is what keeps searches short.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

from scheduler.dra.capacity import taken_by
from scheduler.dra.counters import InUse
from scheduler.dra.devices import Amount, Device, DeviceId
from scheduler.dra.requests import Want
from scheduler.dra.views import CounterKey, NodeDevices

Part: TypeAlias = tuple[tuple[str, Amount], ...]
"""What a share takes of each capacity."""


class OutOfSteps(Exception):
    """The search has used its budget."""


class Room:
    """Free devices, counters and capacity of one node.

    `held`: devices that nobody else can have; `shared`: what others hold of shared devices; `claims`: (claim, device)
    pairs that may not come again; `steps`: how many tries are left.
    """

    __slots__ = ("_capacity", "_charged", "_counters", "_parts", "_undo", "claims", "held", "shared", "steps", "view")

    def __init__(self, view: NodeDevices, in_use: InUse, steps: int) -> None:
        self.view = view
        self.steps = steps
        self.held: set[int] = set()
        self.shared: dict[int, Mapping[str, Amount]] = {}
        self._counters: dict[CounterKey, Amount] = {}
        for pool in view.pools:
            use = in_use.pool(pool)
            if not use.held and not use.shares:
                continue
            for name in use.held:
                number = view.numbers.get(DeviceId(*pool, name))
                if number is not None:
                    self.held.add(number)
            for name, (_, taken) in use.shares.items():
                number = view.numbers.get(DeviceId(*pool, name))
                if number is not None:
                    self.shared[number] = taken
            for (counter_set, counter), value in use.counters.items():
                key = (*pool, counter_set, counter)
                if key in view.counters:
                    self._counters[key] = view.counters[key] - value
        self._charged: set[int] = set(self.shared)
        self.claims: set[tuple[int, int]] = set()
        self._capacity: dict[tuple[int, str], Amount] = {}
        self._parts: dict[tuple[Want, int], Part | None] = {}
        self._undo: list[Callable[[], object]] = []

    def counter(self, key: CounterKey) -> Amount:
        """What is left of a counter; overdrawn counters are below zero."""
        left = self._counters.get(key)
        return self.view.counters[key] if left is None else left

    def capacity(self, number: int, name: str) -> Amount:
        """What is left of a capacity of a shared device."""
        left = self._capacity.get((number, name))
        if left is None:
            taken = self.shared.get(number, {})
            left = self.view.devices[number].capacity[name].value - taken.get(name, 0)
        return left

    def is_free(self, want: Want, number: int) -> bool:
        """Whether one more can be taken for this want, as things stand.

        Admin access looks past the holders of a device. Of one that is shared it is a share, as upstream: it takes
        nothing of the capacity, and is not to be had where that is used up.
        """
        device = self.view.devices[number]
        if want.admin:
            in_use = number in self.held or number in self._charged
            return (in_use or self.counters_suffice(device)) and (
                not device.shareable or self._is_not_full(want, number)
            )
        if number in self.held:
            return False
        if not device.shareable:
            return number not in self.shared and self.counters_suffice(device)
        return self.has_capacity(want, number) and (number in self._charged or self.counters_suffice(device))

    def has_capacity(self, want: Want, number: int) -> bool:
        """Whether a shareable device has room for one more such share."""
        part = self.part(want, number)
        return part is not None and all(amount <= self.capacity(number, name) for name, amount in part)

    def _is_not_full(self, want: Want, number: int) -> bool:
        """Whether those who hold a shareable device leave enough for one more such share, taken by itself."""
        part, taken = self.part(want, number), self.shared.get(number, {})
        capacity = self.view.devices[number].capacity
        return part is not None and all(amount <= capacity[name].value - taken.get(name, 0) for name, amount in part)

    def part(self, want: Want, number: int) -> Part | None:
        """What the want takes of a shareable device's capacity; None if the device cannot serve it."""
        key = want, number
        if key not in self._parts:
            self._parts[key] = taken_by(dict(want.capacity), self.view.devices[number])
        return self._parts[key]

    def counters_suffice(self, device: Device) -> bool:
        driver, pool, _ = device.id
        return all(
            value <= self.counter((driver, pool, counter_set, counter))
            for counter_set, counters in device.consumes
            for counter, value in counters
        )

    def try_take(self, want: Want, claim: int, number: int) -> bool:
        """Take a device for a claim's want if that is possible. Raises OutOfSteps."""
        self.steps -= 1
        if self.steps < 0:
            raise OutOfSteps
        device = self.view.devices[number]
        if (claim, number) in self.claims or not self.is_free(want, number):
            return False
        if not device.shareable:
            self.claims.add((claim, number))
            self._undo.append(partial(self.claims.discard, (claim, number)))
        if want.admin:
            return True
        if not device.shareable:
            self.held.add(number)
            self._undo.append(partial(self.held.discard, number))
            self._charge(device)
            return True
        for name, amount in self.part(want, number) or ():
            left = self.capacity(number, name)
            self._undo.append(partial(self._capacity.__setitem__, (number, name), left))
            self._capacity[number, name] = left - amount
        if number not in self._charged:
            self._charged.add(number)
            self._undo.append(partial(self._charged.discard, number))
            self._charge(device)
        return True

    def mark(self) -> int:
        """A point to which `undo` returns."""
        return len(self._undo)

    def undo(self, mark: int) -> None:
        """Give back all that was taken since the mark."""
        while len(self._undo) > mark:
            self._undo.pop()()

    def _charge(self, device: Device) -> None:
        driver, pool, _ = device.id
        for counter_set, counters in device.consumes:
            for counter, value in counters:
                key = (driver, pool, counter_set, counter)
                left = self.counter(key)
                self._undo.append(partial(self._counters.__setitem__, key, left))
                self._counters[key] = left - value
