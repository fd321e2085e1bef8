"""What is taken: exclusive devices, shares of devices, and the counters that partitions draw on.

Source: KEP 4381 (allocated devices), KEP 4815 (counters), KEP 5075 (shares), KEP 5018 (adminAccess counts nothing).
"""

from collections.abc import Hashable, Iterable, Mapping

from scheduler.api.dra import AllocationResult, DeviceRequestAllocationResult
from scheduler.api.quantity import QuantityError
from scheduler.dra import shapes
from scheduler.dra.devices import Amount, DeviceId, amount
from scheduler.dra.pools import Inventory
from scheduler.dra.views import NodeDevices, PoolKey
from scheduler.model.nodes import Node
from scheduler.model.workloads import Claim

CounterName = tuple[str, str]
"""(counter set, counter)"""

_NOTHING: Mapping[str, Amount] = {}


class PoolUse:
    """What is taken of one pool. Never changed once it is shared: `InUse` replaces it.

    `held`: exclusive devices by name, with the number of holders (two is somebody's mistake, and undone one by one).
    `shares`: shared devices by name, with the number of shares and the capacity they take together.
    `counters`: what all of them take of the pool's counters; a shared device counts once.
    """

    __slots__ = ("_signature", "counters", "held", "shares")

    def __init__(
        self,
        held: dict[str, int] | None = None,
        shares: dict[str, tuple[int, dict[str, Amount]]] | None = None,
        counters: dict[CounterName, Amount] | None = None,
    ) -> None:
        self.held = held or {}
        self.shares = shares or {}
        self.counters = counters or {}
        self._signature: tuple[NodeDevices, frozenset[str], Hashable] | None = None

    def copy(self) -> "PoolUse":
        shares = {name: (count, dict(taken)) for name, (count, taken) in self.shares.items()}
        return PoolUse(dict(self.held), shares, dict(self.counters))

    def signature(self, pool: PoolKey, view: NodeDevices, reads: frozenset[str]) -> Hashable:
        """The state of this pool for a node: interchangeable devices are only counted."""
        last = self._signature
        if last is not None and last[0] is view and last[1] == reads:
            return last[2]
        made = self._make_signature(pool, view, reads)
        self._signature = view, reads, made
        return made

    def _make_signature(self, pool: PoolKey, view: NodeDevices, reads: frozenset[str]) -> Hashable:
        kinds = shapes.shape(view, reads).kinds
        counts: dict[int, int] = {}
        apart: list[Hashable] = []
        told = pool in view.local  # whether the devices say what is left of the counters
        for name in self.held:
            number = view.numbers.get(DeviceId(*pool, name))
            if number is None:
                told = False
            elif shapes.interchangeable(view.devices[number]):
                counts[kinds[number]] = counts.get(kinds[number], 0) + 1
            else:
                apart.append((number,))
        for name, (_, taken) in self.shares.items():
            number = view.numbers.get(DeviceId(*pool, name))
            if number is None:
                told = False
            else:
                apart.append((number, *((key, str(value)) for key, value in sorted(taken.items()))))
        counters = () if told else tuple(sorted((*key, str(v)) for key, v in self.counters.items() if v))
        return tuple(sorted(counts.items())), tuple(sorted(apart, key=repr)), counters


_UNUSED = PoolUse()


class InUse:
    """The state of all devices. A fork costs nothing until one of both is changed."""

    __slots__ = ("_borrowed", "_inventory", "_pools")

    def __init__(self, inventory: Inventory, pools: dict[PoolKey, PoolUse] | None = None) -> None:
        self._inventory = inventory
        self._pools = pools if pools is not None else {}
        self._borrowed = pools is not None

    @classmethod
    def of(cls, claims: Iterable[Claim], inventory: Inventory) -> "InUse":
        """What the allocated ones among these claims hold."""
        in_use = cls(inventory)
        for claim in claims:
            if claim.allocation is not None:
                in_use._change(claim.allocation, +1, fresh=True)
        return in_use

    def fork(self) -> "InUse":
        """A copy of its own: changes of either are not seen by the other."""
        self._borrowed = True
        return InUse(self._inventory, self._pools)

    def take(self, allocation: AllocationResult) -> None:
        """Count what this allocation holds."""
        self._change(allocation, +1)

    def give_back(self, allocation: AllocationResult) -> None:
        """Undo `take` of the same allocation."""
        self._change(allocation, -1)

    def pool(self, pool: PoolKey) -> PoolUse:
        """What is taken of a pool. Not to be changed."""
        return self._pools.get(pool, _UNUSED)

    def is_taken(self, device: DeviceId) -> bool:
        """Whether somebody holds the device, or a share of it."""
        use = self.pool(device[:2])
        return device.name in use.held or device.name in use.shares

    def signature(self, node: Node, reads: frozenset[str] = frozenset()) -> Hashable:
        """State of the devices usable on the node. With equal shapes (for the same `reads`) and equal signatures two
        nodes give the same answers, up to names."""
        view, reads = self._inventory.on(node), shapes.telling(reads)
        return tuple(
            (number, use.signature(pool, view, reads))
            for number, pool in enumerate(view.pools)
            if (use := self._pools.get(pool)) is not None and (use.held or use.shares)
        )

    def _change(self, allocation: AllocationResult, by: int, *, fresh: bool = False) -> None:
        """`fresh`: nobody else knows these pools yet, so they are changed in place."""
        if self._borrowed:
            self._pools = dict(self._pools)
            self._borrowed = False
        changed: dict[PoolKey, PoolUse] = {}
        for result in allocation.devices.results or ():
            if result.admin_access:
                continue
            pool = (result.driver, result.pool)
            use = changed.get(pool)
            if use is None:
                known = self._pools.get(pool)
                use = PoolUse() if known is None else known if fresh else known.copy()
                changed[pool] = use
            self._change_one(use, result, by)
        self._pools.update(changed)

    def _change_one(self, use: PoolUse, result: DeviceRequestAllocationResult, by: int) -> None:
        name = result.device
        was = name in use.held or name in use.shares
        consumed = _consumed(result)
        if consumed is None:
            use.held[name] = use.held.get(name, 0) + by
            if use.held[name] <= 0:
                del use.held[name]
        else:
            count, taken = use.shares.get(name, (0, {}))
            for capacity, value in consumed.items():
                taken[capacity] = taken.get(capacity, 0) + by * value
            use.shares[name] = count + by, taken
            if count + by <= 0:
                del use.shares[name]
        if was != (name in use.held or name in use.shares):
            for counter_set, counters in self._inventory.consumption(DeviceId(result.driver, result.pool, name)):
                for counter, value in counters:
                    key = counter_set, counter
                    use.counters[key] = use.counters.get(key, 0) + by * value


def _consumed(result: DeviceRequestAllocationResult) -> dict[str, Amount] | None:
    """What a share takes of the capacity; None for a whole device, and for a share whose amounts cannot be read."""
    if result.share_id is None and result.consumed_capacity is None:
        return None
    try:
        return {name: amount(text) for name, text in (result.consumed_capacity or {}).items()}
    except QuantityError:
        return None
