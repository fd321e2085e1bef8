"""Is any device given twice, or more of it than there is? A part of the check of plans.

A device is held by one claim, or shared by many, each with its part of the capacity; partitions of a board draw on its
counters. Admin access holds nothing. Source: KEP 4381, KEP 4815 (counters), KEP 5075 (shares).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from scheduler.api import dra
from scheduler.model.nodes import Node
from scheduler.model.snapshot import Snapshot
from scheduler.solver.check_published import CounterKey, DeviceKey, Pools, Published, amount


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A claim that gets its devices by the plan, with the first pod on `node`. `admin`: whether it may look into
    devices that others hold."""

    claim: str
    spec: dra.ResourceClaimSpec
    allocation: dra.AllocationResult
    node: Node
    admin: bool = False


@dataclass(slots=True, kw_only=True)
class Use:
    """Who has what when the plan is carried out, by device. `given`: where the plan gives any of it; `before`: devices
    that were in use before, whose counters are paid for."""

    holders: dict[DeviceKey, list[str]] = field(default_factory=dict)
    shares: dict[DeviceKey, list[tuple[str, str]]] = field(default_factory=dict)
    taken: dict[DeviceKey, dict[str, Fraction]] = field(default_factory=dict)
    given: dict[DeviceKey, Node] = field(default_factory=dict)
    before: set[DeviceKey] = field(default_factory=set)

    @classmethod
    def of(cls, snapshot: Snapshot, given: Mapping[str, Given]) -> "Use":
        use = cls()
        for key, claim in sorted(snapshot.claims.items()):
            if claim.allocation is not None:
                for result in claim.allocation.devices.results or ():
                    use.before.update(use._count(key, result))
        for key, its in sorted(given.items()):
            for result in its.allocation.devices.results or ():
                use.given.update(dict.fromkeys(use._count(key, result), its.node))
        return use

    def room(self, found: Published, name: str) -> Fraction:
        """What is left of a capacity of a shared device."""
        there_is = amount((found.device.capacity or {})[name].value) or Fraction(0)
        return there_is - self.taken.get(found.key, {}).get(name, Fraction(0))

    def _count(self, claim: str, result: dra.DeviceRequestAllocationResult) -> Iterator[DeviceKey]:
        if result.admin_access:
            return
        device = result.driver, result.pool, result.device
        if result.share_id is None:
            self.holders.setdefault(device, []).append(claim)
        else:
            self.shares.setdefault(device, []).append((claim, result.share_id))
        taken = self.taken.setdefault(device, {})
        for name, consumed in (result.consumed_capacity or {}).items():
            taken[name] = taken.get(name, Fraction(0)) + (amount(consumed) or Fraction(0))
        yield device


def given_once(use: Use, pools: Pools) -> Iterator[str]:
    """No device is held twice, no capacity and no counter is overdrawn, where this plan gives out any of it."""
    for device, node in sorted(use.given.items(), key=lambda entry: entry[0]):
        holders, shares = use.holders.get(device, []), use.shares.get(device, [])
        if len(holders) > 1 or (holders and shares):
            names = " and ".join([*holders, *(claim for claim, _ in shares)])
            yield f"device {'/'.join(device)} is given to {names}"
        if len({share for _, share in shares}) < len(shares):
            yield f"device {'/'.join(device)} is given in shares that have one name"
        found = pools.device(device, node)
        for name in sorted((found.device.capacity or {}) if found is not None else ()):
            if found is not None and use.room(found, name) < 0:
                yield f"device {'/'.join(device)} gives more {name} than it has"
    yield from _counters(use, pools)


def _counters(use: Use, pools: Pools) -> Iterator[str]:
    """What the plan draws on is not overdrawn; what others have overdrawn is not its fault."""
    drawn: dict[tuple[str, str], dict[CounterKey, Fraction]] = {}
    for device, node in use.given.items():
        its = {key: pools.total(device, node).get(key, Fraction(0)) for key, value in pools.consumed(device) if value}
        if its and device not in use.before:
            drawn.setdefault(device[:2], {}).update(its)
    taken: dict[tuple[str, str], dict[CounterKey, Fraction]] = {}
    for device in use.taken if drawn else ():
        if device[:2] in drawn:
            of_pool = taken.setdefault(device[:2], {})
            for key, value in pools.consumed(device):
                of_pool[key] = of_pool.get(key, Fraction(0)) + value
    for pool, totals in sorted(drawn.items()):
        for (counter_set, counter), total in sorted(totals.items()):
            if taken[pool][counter_set, counter] > total:
                yield f"counter {counter} of {counter_set} in pool {pool[1]} is overdrawn"
