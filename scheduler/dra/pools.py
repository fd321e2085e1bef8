"""Slices -> the devices a node can use: newest generation, complete pools, valid pools, effective taints.

Source: KEP 4381 (pools, generations), KEP 4815 (perDeviceNodeSelection), KEP 5055 (DeviceTaintRule).
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from scheduler.api import dra
from scheduler.api.attributes import OUTSIDE_FENCE
from scheduler.api.quantity import QuantityError
from scheduler.dra import shapes
from scheduler.dra.caches import PerObject
from scheduler.dra.devices import (
    BLOCKING,
    EVERYTHING,
    GROUPS,
    Amount,
    Consumption,
    Device,
    DeviceId,
    Features,
    Scalar,
    SliceDevices,
    read_slice,
    read_withdrawn,
    scalar,
    values_of,
)
from scheduler.dra.selection import matches
from scheduler.dra.views import NodeDevices, PoolKey
from scheduler.model.nodes import Node

Told: TypeAlias = tuple[tuple[SliceDevices, ...], tuple[dra.Device, ...]]
"""What is known of a pool: its slices, and devices that left them."""

_read = PerObject(read_slice)
_SLICES_KEPT = 1024
"""What has been read of slices that are gone is kept up to about so many, and as many as there are."""


def _devices_by_name(read: SliceDevices) -> Mapping[str, Device]:
    return {device.id.name: device for device in read.devices}


_names = PerObject(_devices_by_name)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pool:
    """All slices of one pool, of every generation, in order of name. `node`: the only node it serves, if one.

    The same object for as long as its slices are the same objects.
    """

    key: PoolKey
    slices: tuple[SliceDevices, ...]
    node: str | None

    def newest(self, slices: Sequence[SliceDevices]) -> list[SliceDevices]:
        if len(slices) == 1:
            return list(slices)
        generation = max(s.published.spec.pool.generation for s in slices)
        return [s for s in slices if s.published.spec.pool.generation == generation]


class Inventory:
    """All devices of a cluster, built once per snapshot; what it derives per node is kept as long as slices live."""

    def __init__(
        self,
        pools: Mapping[PoolKey, _Pool],
        classes: Mapping[str, dra.DeviceClass],
        taint_rules: tuple[dra.DeviceTaintRule, ...],
        fence_taint: str,
        features: Features,
        withdrawn: Mapping[tuple[str, str, str], dra.Device],
        avoided: frozenset[tuple[str, str, str]],
    ) -> None:
        self.classes = classes
        self.features = features
        self.memo: dict[Hashable, object] = {}
        self._pools = pools
        self._rules = taint_rules
        self._fence = fence_taint
        self._withdrawn = withdrawn
        self._gone: dict[DeviceId, Device | None] = {}
        self._withdrawn_from: dict[PoolKey, tuple[dra.Device, ...]] = {}
        for (driver, pool_name, _), device in sorted(withdrawn.items()):
            of_pool = driver, pool_name
            self._withdrawn_from[of_pool] = (*self._withdrawn_from.get(of_pool, ()), device)
        self._avoided = avoided
        self._on_node: dict[str, list[_Pool]] = {}
        self._anywhere: list[_Pool] = []
        for pool in pools.values():
            if pool.node is None:
                self._anywhere.append(pool)
            else:
                self._on_node.setdefault(pool.node, []).append(pool)
        self._views: dict[str, tuple[Node, NodeDevices]] = {}
        self._names: dict[PoolKey, Mapping[str, Device]] = {}
        self._policy: _Policy = (tuple(self._anywhere), taint_rules, fence_taint, features)

    @classmethod
    def of(
        cls,
        slices: Iterable[dra.ResourceSlice],
        classes: Mapping[str, dra.DeviceClass],
        taint_rules: Iterable[dra.DeviceTaintRule] = (),
        fence_taint: str = "",
        features: Features = EVERYTHING,
        withdrawn: Mapping[tuple[str, str, str], dra.Device] = MappingProxyType({}),
        avoided: Iterable[tuple[str, str, str]] = (),
    ) -> "Inventory":
        """The inventory of these slices, whatever their order.

        `withdrawn`: devices that are in no slice any more as they were last published, where that is known.
        `avoided`: all that any claim to be allocated avoids.
        `fence_taint`: key of a NoSchedule device taint that keeps other schedulers off and never stops us. Where it is
        set, devices without it are for others and get a taint that says so.
        """
        pools: dict[PoolKey, list[SliceDevices]] = {}
        slices = tuple(slices)
        if len(_read) > 2 * len(slices) + _SLICES_KEPT:
            _read.retain(slices)
        for published in slices:
            read = _read(published)
            pools.setdefault(read.pool, []).append(read)
        rules = tuple(sorted(taint_rules, key=lambda rule: rule.metadata.name)) if features.taints else ()
        made = {key: _pool(key, pools[key]) for key in sorted(pools)}
        return cls(made, classes, rules, fence_taint, features, withdrawn, frozenset(avoided))

    def on(self, node: Node) -> NodeDevices:
        """What this node can use."""
        known = self._views.get(node.name)
        if known is not None and known[0] is node:
            return known[1]
        pools = self._on_node.get(node.name, [])
        avoided = self._avoided_in(pools)
        last = _LAST_VIEWS.get(node.name)
        if last is None or not last.holds(pools, self._policy, avoided, node):
            view = self._gather(node, avoided)
            last = _LastView(pools=pools, policy=self._policy, avoided=avoided, node=node, view=view)
            if len(_LAST_VIEWS) > _MOST_KEPT:
                _LAST_VIEWS.clear()
            _LAST_VIEWS[node.name] = last
        self._views[node.name] = node, last.view
        return last.view

    def devices_on(self, node: Node) -> tuple[Device, ...]:
        """Devices of complete and valid pools that this node can use, in upstream order."""
        return self.on(node).devices

    def shape(self, node: Node, reads: frozenset[str] = frozenset()) -> str:
        """Equal for nodes whose devices are the same up to names: with equal states they give equal answers.

        Attributes that only tell devices apart (uuid, PCI address, NVLink domain, ...) count by which devices share a
        value, not by the value itself; `reads` names those that a selector at hand compares with a constant.
        """
        return shapes.shape(self.on(node), reads).digest

    def attribute(self, device: DeviceId, name: str) -> Scalar | tuple[Scalar, ...] | None:
        """The value of a device's attribute by its fully qualified name, a tuple for a list; None if it has none."""
        found = self.device(device)
        attribute = found.attributes.get(name) if found else None
        values = values_of(attribute)
        if values is None:
            return None
        single = scalar(attribute)
        return values[1] if single is None else single

    def device(self, device: DeviceId) -> Device | None:
        """The device as its newest slice publishes it, also where its pool is incomplete."""
        pool = self._pools.get((device.driver, device.pool))
        if pool is None:
            return None
        by_name = self._by_name(pool)
        return by_name.get(device.name)

    def as_last_published(self, device: DeviceId) -> Device | None:
        """The device as `device` says, or as it was before it was withdrawn; None if neither is known."""
        found = self.device(device)
        if found is not None or device not in self._withdrawn:
            return found
        if device not in self._gone:
            try:
                self._gone[device] = read_withdrawn(device.driver, device.pool, self._withdrawn[device])
            except QuantityError:
                self._gone[device] = None  # it could not be used when it was listed either
        return self._gone[device]

    def told(self, pool: PoolKey) -> Told:
        """All slices of a pool, and the devices withdrawn from it. As long as they are the same, slices as objects,
        everything about its devices is the same."""
        found = self._pools.get(pool)
        return found.slices if found is not None else (), self._withdrawn_from.get(pool, ())

    def consumption(self, device: DeviceId) -> Consumption:
        """What the device takes of its pool's counters while it is used.

        One that no slice lists takes what it took when one did. Where that is not known (we have been started since),
        the board that it is named after is taken whole: NVIDIA's gpu-0-mig-... is part of gpu-0."""
        found = self.as_last_published(device)
        if found is not None:
            return found.consumes
        board = self._named_after(device)
        return board.consumes if board is not None else ()

    def _named_after(self, device: DeviceId) -> Device | None:
        """The device of the pool whose name, and a hyphen, is the longest beginning of this one's."""
        name, _, rest = device.name.rpartition("-")
        while rest and name:
            board = self.device(device._replace(name=name))
            if board is not None:
                return board
            name, _, rest = name.rpartition("-")
        return None

    def pool_devices(self, device: DeviceId) -> Iterable[Device]:
        """All devices of the pool that this device belongs to."""
        pool = self._pools.get((device.driver, device.pool))
        return self._by_name(pool).values() if pool else ()

    def slices(self) -> Iterable[Sequence[SliceDevices]]:
        """The slices of every pool's newest generation, pool by pool, ordered by driver and pool."""
        return (pool.newest(pool.slices) for pool in self._pools.values())

    def _by_name(self, pool: _Pool) -> Mapping[str, Device]:
        known = self._names.get(pool.key)
        if known is None:
            oldest_first = sorted(pool.slices, key=lambda s: s.published.spec.pool.generation)
            found = [_names(read) for read in oldest_first]
            joined = found[0] if len(found) == 1 else {name: each[name] for each in found for name in each}
            known = self._names[pool.key] = joined
        return known

    def _avoided_in(self, pools: Sequence[_Pool]) -> frozenset[tuple[str, str, str]]:
        if not self._avoided:
            return self._avoided
        keys = {pool.key for pool in (*pools, *self._anywhere)}
        return frozenset(device for device in self._avoided if device[:2] in keys)

    def _gather(self, node: Node, avoided: frozenset[tuple[str, str, str]]) -> NodeDevices:
        usable: list[tuple[_Pool, list[SliceDevices]]] = []
        invalid: list[str] = []
        incomplete: list[str] = []
        beyond: set[str] = set()
        candidates = sorted((*self._on_node.get(node.name, ()), *self._anywhere), key=lambda pool: pool.key)
        for pool in candidates:
            relevant = [s for s in pool.slices if self._served(s) and _serves(s, node)]
            if not relevant:
                continue
            newest = pool.newest(relevant)
            whole = _whole_pool(pool, newest)
            if whole is None:
                if pool.newest(pool.slices)[0].published.spec.pool.generation == _generation(newest):
                    incomplete.append("/".join(pool.key))
                continue
            if any(read.grouped for read in whole):
                beyond.add(GROUPS)
                continue
            problem = _problem(newest, whole, partitionable=self.features.partitionable)
            if problem:
                invalid.append(f"{'/'.join(pool.key)}: {problem}")
            else:
                usable.append((pool, newest))
        usable.sort(key=lambda entry: _binds_late(entry[1]))
        served = [
            device for _, slices in usable for read in slices for device in read.devices if self._usable(device, node)
        ]
        devices = tuple(device for device in served if not device.beyond)
        totals = {
            (*pool.key, name, counter): value
            for pool, slices in usable
            for read in _whole_pool(pool, slices) or ()
            for name, counters in read.counters
            for counter, value in counters.items()
        }
        return NodeDevices(
            devices=devices,
            numbers={device.id: number for number, device in enumerate(devices)},
            taints=tuple(map(self._taints, devices)),
            counters=totals,
            pools=tuple(pool.key for pool, _ in usable),
            local=frozenset(pool.key for pool, _ in usable if pool.node is not None),
            invalid=tuple(invalid),
            incomplete=tuple(incomplete),
            beyond=tuple(sorted(beyond | {device.beyond for device in served if device.beyond})),
            avoided=avoided,
        )

    def _served(self, read: SliceDevices) -> bool:
        spec = read.published.spec
        return self.features.partitionable or not (spec.per_device_node_selection or spec.shared_counters)

    def _usable(self, device: Device, node: Node) -> bool:
        if device.unselected or (device.consumes and not self.features.partitionable):
            return False
        if device.published.binding_conditions and not self.features.binding_conditions:
            return False
        if device.published.node_name is not None and device.node_name != node.name:
            return False
        own = device.published.node_selector
        return own is None or device.node_selector is not own or matches(own, node)

    def _taints(self, device: Device) -> tuple[dra.DeviceTaint, ...]:
        if not self.features.taints:
            return ()
        taints = device.taints
        if self._rules:
            ruled = tuple(
                rule.spec.taint
                for rule in self._rules
                if rule.spec.taint.effect in BLOCKING and _selects(rule.spec.device_selector, device.id)
            )
            taints += ruled
        if not self._fence:
            return taints
        others = tuple(taint for taint in taints if taint.key != self._fence or taint.effect != "NoSchedule")
        return others if len(others) < len(taints) else (*taints, _OUTSIDE)


_OUTSIDE = dra.DeviceTaint(key=OUTSIDE_FENCE, effect="NoSchedule")

_Policy: TypeAlias = tuple[tuple[_Pool, ...], tuple[dra.DeviceTaintRule, ...], str, Features]
"""What holds for all nodes: pools that more than one can use, rules, the fence's taint, features."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _LastView:
    """A node's view and all that it was made of."""

    pools: Sequence[_Pool]
    policy: _Policy
    avoided: frozenset[tuple[str, str, str]]
    node: Node
    view: NodeDevices

    def holds(
        self, pools: Sequence[_Pool], policy: _Policy, avoided: frozenset[tuple[str, str, str]], node: Node
    ) -> bool:
        """Whether it would be made again just so. Only pools that may serve many nodes ask for a node's labels."""
        if self.pools != pools or self.policy != policy or self.avoided != avoided:
            return False
        return not policy[0] or self.node.labels == node.labels


# The view last made for each node: it, and what it remembers, lives on until its slices or the rules change.
_LAST_VIEWS: dict[str, _LastView] = {}
_LAST_POOLS: dict[PoolKey, _Pool] = {}
_MOST_KEPT = 50_000


def _pool(key: PoolKey, slices: list[SliceDevices]) -> _Pool:
    if len(slices) > 1:
        slices.sort(key=lambda s: (s.published.metadata.name, s.published.spec.pool.generation))
    last = _LAST_POOLS.get(key)
    if last is not None and last.slices == tuple(slices):
        return last
    nodes = {s.published.spec.node_name for s in slices}
    made = _Pool(key=key, slices=tuple(slices), node=nodes.pop() if len(nodes) == 1 else None)
    if len(_LAST_POOLS) > _MOST_KEPT:
        _LAST_POOLS.clear()
    _LAST_POOLS[key] = made
    return made


def _generation(slices: Sequence[SliceDevices]) -> int:
    return slices[0].published.spec.pool.generation


def _serves(read: SliceDevices, node: Node) -> bool:
    """Whether the node may use the slice; one that says in no known form where it may be used is left out."""
    spec = read.published.spec
    if spec.node_name is not None:
        return spec.node_name == node.name
    if spec.node_selector is not None:
        return matches(spec.node_selector, node)
    if spec.per_device_node_selection:
        return any(_device_serves(device, node) for device in read.devices)
    return bool(spec.all_nodes)


def _device_serves(device: Device, node: Node) -> bool:
    if device.node_name is not None:
        return device.node_name == node.name
    if device.node_selector is not None:
        return matches(device.node_selector, node)
    return bool(device.published.all_nodes)


def _whole_pool(pool: _Pool, newest: Sequence[SliceDevices]) -> Sequence[SliceDevices] | None:
    """All slices of this generation, those for other nodes included; None if some are missing.

    The slices that this node sees may be the whole pool by themselves: then a newer generation that lives elsewhere
    has moved away and does not matter here.
    """
    wanted = newest[0].published.spec.pool.resource_slice_count
    if len(newest) == wanted:
        return newest
    everywhere = pool.newest(pool.slices)
    if _generation(everywhere) == _generation(newest) and len(everywhere) == wanted:
        return everywhere
    return None


def _problem(own: Sequence[SliceDevices], slices: Sequence[SliceDevices], *, partitionable: bool) -> str:
    """What makes a pool contradict itself for a node, "" if nothing does. `own`: those of its slices that serve it.

    Names need be unique in these only, as upstream; who holds a name holds it for all nodes.
    """
    names: set[str] = set()
    for device in (device for read in own for device in read.devices):
        if device.id.name in names:
            return f"device {device.id.name} is published twice"
        names.add(device.id.name)
    sets: dict[str, Mapping[str, Amount]] = {}
    for read in slices:
        if read.problem:
            return read.problem
        for name, counters in read.counters:
            if name in sets:
                return f"counter set {name} is published twice"
            sets[name] = counters
    for read in slices:
        for device in read.devices:
            for name, drawn in device.consumes if partitionable else ():
                if name not in sets:
                    return f"device {device.id.name} consumes of unknown counter set {name}"
                unknown = [counter for counter, _ in drawn if counter not in sets[name]]
                if unknown:
                    return f"device {device.id.name} consumes unknown counter {unknown[0]} of counter set {name}"
    return ""


def _binds_late(slices: Iterable[SliceDevices]) -> bool:
    """Pools with devices that must be made ready before binding are tried last."""
    return any(device.published.binding_conditions for read in slices for device in read.devices)


def _selects(selector: dra.DeviceTaintSelector | None, device: DeviceId) -> bool:
    return selector is not None and all(
        wanted is None or wanted == actual
        for wanted, actual in zip((selector.driver, selector.pool, selector.device), device, strict=True)
    )
