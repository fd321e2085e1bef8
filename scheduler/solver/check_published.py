"""The devices that slices publish, as the checker of plans reads them: which of them a node can use, and what they are.

A pool counts as a node sees it: of the slices that serve the node the newest generation, if it is complete and does not
contradict itself. Source: KEP 4381 (pools), KEP 4815 (counters, perDeviceNodeSelection).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from types import MappingProxyType
from typing import TypeAlias

import msgspec

from scheduler.api import dra, quantity
from scheduler.dra.cel.selectors import CelDevice, CelError, cel_device, compile_selector
from scheduler.model.nodes import Node
from scheduler.solver.check_selectors import selects

DeviceKey: TypeAlias = tuple[str, str, str]
"""(driver, pool, device)"""

CounterKey: TypeAlias = tuple[str, str]
"""(counter set, counter) of a pool"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Published:
    """A device with the slice that publishes it."""

    device: dra.Device
    spec: dra.ResourceSliceSpec

    @property
    def key(self) -> DeviceKey:
        return self.spec.driver, self.spec.pool.name, self.device.name

    @property
    def place(self) -> dra.Device | dra.ResourceSliceSpec:
        """What says where the device may be used."""
        return self.device if self.spec.per_device_node_selection else self.spec

    @property
    def shared(self) -> bool:
        """Whether several claims may hold it at once."""
        return bool(self.device.allow_multiple_allocations)

    def attribute(self, name: str) -> dra.DeviceAttribute | None:
        """By its full name; a bare one is in the driver's domain, and a full one goes before it."""
        found = self.device.attributes or {}
        domain, _, bare = name.rpartition("/")
        return found.get(name) or (found.get(bare) if domain == self.spec.driver else None)

    def reaches(self, node: Node) -> bool:
        return _reaches(self.place, node)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Whole:
    """All slices of one generation of a pool. `problem`: how they contradict each other, "" if they do not.

    `twice`: a name that several devices have, "" if none; that is a contradiction only where one node sees them all.
    """

    devices: Mapping[str, Published]
    totals: Mapping[CounterKey, Fraction]
    problem: str
    twice: str

    def seen(self, slices: Iterable[dra.ResourceSliceSpec]) -> "_Whole":
        """The same where only these slices serve the node."""
        if not self.twice:
            return self
        own = _whole(slices)
        told = f"device {own.twice} is there twice" if own.twice else ""
        return replace(self, devices={**self.devices, **own.devices}, problem=self.problem or told)


@dataclass(slots=True, kw_only=True, eq=False)
class _Pool:
    slices: list[dra.ResourceSliceSpec] = field(default_factory=list)
    wholes: dict[tuple[int, ...], _Whole] = field(default_factory=dict)
    drawing: dict[str, dra.Device] | None = None
    latest: dict[str, Published] | None = None

    def drawing_on_counters(self) -> Mapping[str, dra.Device]:
        """Devices that take something of counters, by name, each as its newest slice publishes it."""
        if self.drawing is None:
            self.drawing = {}
            for spec in sorted(self.slices, key=lambda spec: spec.pool.generation):
                self.drawing.update((device.name, device) for device in spec.devices or () if device.consumes_counters)
        return self.drawing

    def as_last_published(self) -> Mapping[str, Published]:
        """All devices by name, each as its newest slice publishes it."""
        if self.latest is None:
            oldest_first = sorted(self.slices, key=lambda spec: spec.pool.generation)
            listed = [(device, spec) for spec in oldest_first for device in spec.devices or ()]
            self.latest = {device.name: Published(device=device, spec=spec) for device, spec in listed}
        return self.latest

    def newest(self, slices: Iterable[dra.ResourceSliceSpec]) -> list[dra.ResourceSliceSpec]:
        listed = list(slices)
        newest = max((spec.pool.generation for spec in listed), default=0)
        return [spec for spec in listed if spec.pool.generation == newest]

    def seen_from(self, node: Node) -> tuple[_Whole | None, bool]:
        """The pool as the node can use it, None if it cannot; and whether the node knows then all that it could use.

        Slices that serve the node may be a whole generation by themselves: a newer one has moved away from it.
        """
        seen = self.newest(spec for spec in self.slices if _serves(spec, node))
        if not seen:
            return None, True
        everywhere = self.newest(self.slices)
        current = everywhere[0].pool.generation == seen[0].pool.generation
        for slices in (seen, everywhere) if current else (seen,):
            if len(slices) == seen[0].pool.resource_slice_count:
                whole = self.whole(slices).seen(seen)
                return (None, False) if whole.problem else (whole, True)
        return None, not current

    def whole(self, slices: list[dra.ResourceSliceSpec]) -> _Whole:
        key = tuple(map(id, slices))
        if key not in self.wholes:
            self.wholes[key] = _whole(slices)
        return self.wholes[key]


class Pools:
    """All pools of a snapshot. What is asked about them is remembered for the next who asks. `withdrawn`: devices that
    are held and that no slice lists any more, as they were."""

    def __init__(
        self, slices: Iterable[dra.ResourceSlice], withdrawn: Mapping[DeviceKey, dra.Device] = MappingProxyType({})
    ) -> None:
        self._withdrawn = withdrawn
        self._pools: dict[tuple[str, str], _Pool] = {}
        for published in slices:
            pool = published.spec.driver, published.spec.pool.name
            self._pools.setdefault(pool, _Pool()).slices.append(published.spec)
        self._of_node: dict[str, list[_Pool]] = {}
        self._anywhere: list[_Pool] = []
        for _, pool_ in sorted(self._pools.items()):
            names = {spec.node_name for spec in pool_.slices}
            only = names.pop() if len(names) == 1 else None
            (self._anywhere if only is None else self._of_node.setdefault(only, [])).append(pool_)
        self._seen: dict[tuple[int, str], tuple[_Whole | None, bool]] = {}
        self._cel: dict[int, CelDevice] = {}
        self._selected: dict[tuple[str, int], bool | CelError] = {}

    def device(self, key: DeviceKey, node: Node) -> Published | None:
        """The device, if its pool is usable on the node; whether the node reaches it is another question."""
        whole = self._whole(key, node)
        return whole.devices.get(key[2]) if whole is not None else None

    def last(self, key: DeviceKey) -> Published | None:
        """The device as its newest slice publishes it, whoever can use it, or as it was withdrawn; None if neither is
        known."""
        pool, gone = self._pools.get(key[:2]), self._withdrawn.get(key)
        found = pool.as_last_published().get(key[2]) if pool is not None else None
        if found is None and gone is not None:
            driver, name, _ = key
            found = Published(device=gone, spec=dra.ResourceSliceSpec(driver=driver, pool=dra.ResourcePool(name=name)))
        return found

    def total(self, key: DeviceKey, node: Node) -> Mapping[CounterKey, Fraction]:
        """What the device's pool has of its counters."""
        whole = self._whole(key, node)
        return whole.totals if whole is not None else {}

    def consumed(self, key: DeviceKey) -> Iterable[tuple[CounterKey, Fraction]]:
        """What a device takes of its pool's counters, as its newest slice says; or as one did before it was
        withdrawn."""
        pool = self._pools.get(key[:2])
        found = pool.drawing_on_counters().get(key[2]) if pool is not None else None
        if found is None and key in self._withdrawn:
            last = self.last(key)
            found = last.device if last is not None else None
        for use in (found.consumes_counters if found else None) or ():
            for name, counter in use.counters.items():
                yield (use.counter_set, name), amount(counter.value) or Fraction(0)

    def on(self, node: Node) -> tuple[list[Published], bool]:
        """All devices that the node can use; and False if more of them may be published incompletely."""
        found: list[Published] = []
        known = True
        for pool in (*self._of_node.get(node.name, ()), *self._anywhere):
            whole, all_of_it = self._seen_from(pool, node)
            known = known and all_of_it
            found += [device for device in whole.devices.values() if device.reaches(node)] if whole else ()
        return found, known

    def selected(self, expression: str, found: Published) -> bool:
        """Whether a selector selects the device. Raises CelError if it cannot be told."""
        key = expression, id(found)  # one name may stand for devices of two generations, on different nodes
        if key not in self._selected:
            try:
                answer: bool | CelError = compile_selector(expression, list_attributes=True).matches(self._of(found))
            except CelError as error:
                answer = error
            self._selected[key] = answer
        known = self._selected[key]
        if isinstance(known, CelError):
            raise known
        return known

    def _of(self, found: Published) -> CelDevice:
        if id(found) not in self._cel:
            self._cel[id(found)] = cel_device(
                found.spec.driver,
                {name: msgspec.to_builtins(value) for name, value in (found.device.attributes or {}).items()},
                {name: msgspec.to_builtins(value) for name, value in (found.device.capacity or {}).items()},
                found.device.allow_multiple_allocations,
            )
        return self._cel[id(found)]

    def _whole(self, key: DeviceKey, node: Node) -> _Whole | None:
        pool = self._pools.get(key[:2])
        return self._seen_from(pool, node)[0] if pool is not None else None

    def _seen_from(self, pool: _Pool, node: Node) -> tuple[_Whole | None, bool]:
        key = id(pool), node.name
        if key not in self._seen:
            self._seen[key] = pool.seen_from(node)
        return self._seen[key]


@lru_cache(maxsize=16_384)
def amount(text: str | int | float) -> Fraction | None:
    """None for what is no quantity: drivers and other schedulers write these, and one must not spoil all plans."""
    try:
        return quantity.parse(text)
    except quantity.QuantityError:
        return None


def _serves(spec: dra.ResourceSliceSpec, node: Node) -> bool:
    if spec.per_device_node_selection:
        return any(_reaches(device, node) for device in spec.devices or ())
    return _reaches(spec, node)


def _reaches(place: dra.Device | dra.ResourceSliceSpec, node: Node) -> bool:
    if place.node_name is not None:
        return place.node_name == node.name
    if place.node_selector is not None:
        return selects(place.node_selector, node)
    return bool(place.all_nodes)


def _whole(slices: Iterable[dra.ResourceSliceSpec]) -> _Whole:
    listed: list[Published] = []
    totals: dict[CounterKey, Fraction] = {}
    problems: list[str] = []
    for spec in slices:
        for counters in spec.shared_counters or ():
            for name, counter in counters.counters.items():
                value = amount(counter.value)
                if value is None or (counters.name, name) in totals:
                    problems.append(f"counter {name} of {counters.name} is no amount, or is there twice")
                totals[counters.name, name] = value or Fraction(0)
        listed += [Published(device=device, spec=spec) for device in spec.devices or ()]
    devices: dict[str, Published] = {}
    twice = ""
    for found in listed:
        twice = twice or (found.device.name if found.device.name in devices else "")
        devices[found.device.name] = found
        for use in found.device.consumes_counters or ():
            for name, counter in use.counters.items():
                if amount(counter.value) is None or (use.counter_set, name) not in totals:
                    problems.append(f"device {found.device.name} takes {counter.value!r} of counter {name}")
        for name, capacity in (found.device.capacity or {}).items():
            if amount(capacity.value) is None:
                problems.append(f"device {found.device.name} has {capacity.value!r} {name}")
    return _Whole(devices=devices, totals=totals, problem=problems[0] if problems else "", twice=twice)
