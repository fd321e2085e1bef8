"""Do the claims of a plan hold the devices they ask for, each given once? A part of `check`, as apart from the
allocator as that is from the ledger: it reads slices, classes and claims as they were published.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import msgspec

from scheduler.api import dra, quantity
from scheduler.api.core import NodeSelector
from scheduler.dra.cel.selectors import CelError, cel_device, compile_selector
from scheduler.model.nodes import Node
from scheduler.model.plan import Placement
from scheduler.model.snapshot import Snapshot
from scheduler.model.workloads import Pod

Placed: TypeAlias = Sequence[tuple[Placement, Pod, Node]]
DeviceKey: TypeAlias = tuple[str, str, str]
Selects: TypeAlias = Callable[[NodeSelector, Node], bool]
Asked: TypeAlias = dra.ExactDeviceRequest | dra.DeviceSubRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Published:
    """A device with the slice that publishes it."""

    device: dra.Device
    spec: dra.ResourceSliceSpec

    def attribute(self, name: str) -> dra.DeviceAttribute | None:
        found = self.device.attributes or {}
        domain, _, bare = name.rpartition("/")
        return found.get(name) or (found.get(bare) if domain == self.spec.driver else None)


def check(snapshot: Snapshot, placed: Placed, selects: Selects) -> Iterator[str]:
    """Violations, a sentence each."""
    devices = _devices(snapshot)
    given: dict[str, tuple[dra.ResourceClaimSpec, dra.AllocationResult]] = {}
    consumers: dict[str, set[str]] = {key: set(claim.reserved_for) for key, claim in snapshot.claims.items()}
    for placement, pod, _ in placed:
        decided = {claim.name: claim.claim for claim in placement.claims}
        for entry in pod.claims:
            if entry.needed and (entry.claim is None or decided.get(entry.name) != entry.claim):
                yield f"pod {pod.key} is placed and its claim {entry.name} is not decided"
        for part in placement.claims:
            known = snapshot.claims.get(part.claim)
            spec = part.make or (known.spec if known else None)
            consumers.setdefault(part.claim, set()).add(pod.uid)
            if part.allocation is None:
                continue
            if spec is None:
                yield f"pod {pod.key} gets devices for claim {part.claim}, which does not exist"
            elif part.claim in given or (known is not None and known.allocation is not None):
                yield f"claim {part.claim} is allocated twice"
            else:
                given[part.claim] = spec, part.allocation
    for placement, pod, node in placed:
        for part in placement.claims:
            known = snapshot.claims.get(part.claim)
            held = given[part.claim][1] if part.claim in given else known.allocation if known else None
            if held is None:
                yield f"pod {pod.key} is placed and its claim {part.claim} holds no devices"
            elif held.node_selector is not None and not selects(held.node_selector, node):
                yield f"pod {pod.key} on node {node.name} cannot use what claim {part.claim} holds"
            elif part.claim in given:
                yield from _usable(part.claim, held, devices, node, selects)
        yield from _extended(snapshot, placement, pod, node)
    for key, uids in sorted(consumers.items()):
        if len(uids) > dra.MOST_CONSUMERS and len(uids) > len(snapshot.claims[key].reserved_for):
            yield f"claim {key} is reserved for {len(uids)} pods"
    for key, (spec, allocation) in sorted(given.items()):
        yield from _answers(snapshot, key, spec, allocation, devices)
    yield from _given_once(snapshot, given, devices)


def _devices(snapshot: Snapshot) -> dict[DeviceKey, _Published]:
    """The devices of every complete pool's newest generation."""
    pools: dict[tuple[str, str], list[dra.ResourceSliceSpec]] = {}
    for published in snapshot.slices:
        pools.setdefault((published.spec.driver, published.spec.pool.name), []).append(published.spec)
    found: dict[DeviceKey, _Published] = {}
    for (driver, pool), slices in pools.items():
        newest = max(spec.pool.generation for spec in slices)
        current = [spec for spec in slices if spec.pool.generation == newest]
        if len(current) == current[0].pool.resource_slice_count:
            for spec in current:
                for device in spec.devices or ():
                    found[driver, pool, device.name] = _Published(device=device, spec=spec)
    return found


def _usable(
    claim: str, allocation: dra.AllocationResult, devices: Mapping[DeviceKey, _Published], node: Node, selects: Selects
) -> Iterator[str]:
    """Every device is there and can be reached from the node."""
    for result in allocation.devices.results or ():
        found = devices.get((result.driver, result.pool, result.device))
        if found is None:
            yield f"claim {claim} holds device {result.pool}/{result.device}, which is not published"
            continue
        where = found.device if found.spec.per_device_node_selection else found.spec
        reachable = (
            where.node_name == node.name
            or bool(where.all_nodes)
            or (where.node_selector is not None and selects(where.node_selector, node))
        )
        if not reachable:
            yield f"claim {claim} holds device {result.pool}/{result.device}, which node {node.name} cannot use"


def _extended(snapshot: Snapshot, placement: Placement, pod: Pod, node: Node) -> Iterator[str]:
    """Extended resources that the node has not come through a claim, all of them."""
    mapped = {mapping.resource for part in placement.claims for mapping in part.mappings}
    held = snapshot.claims.get(pod.extended_claim)
    for name in sorted({name for container in pod.extended for name in container.requests}):
        if not node.allocatable[name] and name not in mapped and (held is None or held.allocation is None):
            yield f"pod {pod.key} on node {node.name} gets no {name}"
    for part in placement.claims:
        if part.make is None or part.allocation is None:
            continue
        counts = {
            request.name: request.exactly.count or 1
            for request in part.make.devices.requests or ()
            if request.exactly is not None
        }
        for mapping in part.mappings:
            if mapping.request not in counts:
                yield f"pod {pod.key}: {mapping.resource} is mapped to request {mapping.request}, which is not there"


def _answers(
    snapshot: Snapshot,
    claim: str,
    spec: dra.ResourceClaimSpec,
    allocation: dra.AllocationResult,
    devices: Mapping[DeviceKey, _Published],
) -> Iterator[str]:
    """Each request has as many devices as it asks for, and they are what it asks for."""
    results = allocation.devices.results or ()
    known = set()
    for request in spec.devices.requests or ():
        options: list[tuple[str, Asked]] = (
            [(request.name, request.exactly)]
            if request.exactly is not None
            else [(f"{request.name}/{sub.name}", sub) for sub in request.first_available or ()]
        )
        known |= {name for name, _ in options}
        chosen = [(name, asked) for name, asked in options if any(result.request == name for result in results)]
        if len(chosen) != 1:
            yield f"claim {claim}: request {request.name} is served by {len(chosen)} alternatives"
            continue
        name, asked = chosen[0]
        mine = [result for result in results if result.request == name]
        if asked.allocation_mode == "ExactCount" and len(mine) != (1 if asked.count is None else asked.count):
            yield f"claim {claim}: request {name} has {len(mine)} devices"
        for result in mine:
            found = devices.get((result.driver, result.pool, result.device))
            if found is not None:
                yield from _suits(snapshot, f"claim {claim}: device {result.pool}/{result.device}", asked, found)
    for result in results:
        if result.request not in known:
            yield f"claim {claim}: a device is given to request {result.request}, which is not there"
    if len(results) > dra.MOST_RESULTS:
        yield f"claim {claim} holds {len(results)} devices"
    for constraint in spec.devices.constraints or ():
        yield from _constraint(claim, constraint, results, devices)


def _suits(snapshot: Snapshot, what: str, asked: Asked, found: _Published) -> Iterator[str]:
    """Class, selectors and taints."""
    device_class = snapshot.classes.get(asked.device_class_name)
    if device_class is None:
        yield f"{what} is of class {asked.device_class_name}, which does not exist"
        return
    seen = cel_device(
        found.spec.driver,
        {name: msgspec.to_builtins(value) for name, value in (found.device.attributes or {}).items()},
        {name: msgspec.to_builtins(value) for name, value in (found.device.capacity or {}).items()},
        found.device.allow_multiple_allocations,
    )
    for selector in (*(device_class.spec.selectors or ()), *(asked.selectors or ())):
        expression = selector.cel.expression if selector.cel else "false"
        try:
            selected = compile_selector(expression).matches(seen)
        except CelError as error:
            yield f"{what}: {expression}: {error}"
            continue
        if not selected:
            yield f"{what} is not selected by {expression}"
    taints = [taint for taint in found.device.taints or () if taint.effect in ("NoSchedule", "NoExecute")]
    for rule in snapshot.taint_rules:
        selector_ = rule.spec.device_selector
        parts = (found.spec.driver, found.spec.pool.name, found.device.name)
        wanted = (selector_.driver, selector_.pool, selector_.device) if selector_ else None
        if wanted and all(w in (None, part) for w, part in zip(wanted, parts, strict=True)):
            taints.append(rule.spec.taint)
    for taint in taints:
        fence = taint.key == snapshot.policy.device_fence_taint and taint.effect == "NoSchedule"
        if not fence and not any(_tolerates(t, taint) for t in asked.tolerations or ()):
            yield f"{what} has the taint {taint.key}:{taint.effect}, which is not tolerated"


def _tolerates(toleration: dra.DeviceToleration, taint: dra.DeviceTaint) -> bool:
    if toleration.effect not in ("", taint.effect):
        return False
    if toleration.operator == "Exists":
        return toleration.key in ("", taint.key)
    return (toleration.key, toleration.value) == (taint.key, taint.value)


def _constraint(
    claim: str,
    constraint: dra.DeviceConstraint,
    results: Sequence[dra.DeviceRequestAllocationResult],
    devices: Mapping[DeviceKey, _Published],
) -> Iterator[str]:
    covered = [
        result
        for result in results
        if not constraint.requests
        or result.request in constraint.requests
        or result.request.partition("/")[0] in constraint.requests
    ]
    name = constraint.match_attribute or constraint.distinct_attribute or ""
    values: list[frozenset[object]] = []
    for result in covered:
        found = devices.get((result.driver, result.pool, result.device))
        attribute = found.attribute(name) if found is not None else None
        if attribute is None:
            yield f"claim {claim}: device {result.pool}/{result.device} has no {name}"
            return
        given = [value for value in msgspec.structs.astuple(attribute) if value is not None]
        values.append(frozenset(given[0] if given and isinstance(given[0], tuple) else given))
    if constraint.match_attribute and values and not frozenset.intersection(*values):
        yield f"claim {claim}: its devices do not agree in {name}"
    if constraint.distinct_attribute and sum(map(len, values)) != len(frozenset().union(*values)):
        yield f"claim {claim}: its devices are not all different in {name}"


def _given_once(
    snapshot: Snapshot,
    given: Mapping[str, tuple[dra.ResourceClaimSpec, dra.AllocationResult]],
    devices: Mapping[DeviceKey, _Published],
) -> Iterator[str]:
    """No device is held twice, no capacity and no counter is overdrawn, where this plan gives out any of it."""
    held = {key: claim.allocation for key, claim in snapshot.claims.items() if claim.allocation is not None}
    everything = {**held, **{key: allocation for key, (_, allocation) in given.items()}}
    holders: dict[DeviceKey, list[str]] = {}
    shares: dict[DeviceKey, dict[str, Fraction]] = {}
    touched: set[DeviceKey] = set()
    for key, allocation in sorted(everything.items()):
        for result in allocation.devices.results or ():
            if result.admin_access:
                continue
            device = (result.driver, result.pool, result.device)
            if key in given:
                touched.add(device)
            if result.share_id is None:
                holders.setdefault(device, []).append(key)
            share = shares.setdefault(device, {})
            for name, amount in (result.consumed_capacity or {}).items():
                consumed = _amount(amount)
                if consumed is not None:
                    share[name] = share.get(name, Fraction(0)) + consumed
                elif key in given:
                    yield f"claim {key} consumes {name} of device {'/'.join(device)}: {amount!r} is no amount"
    for device in sorted(touched):
        if len(holders.get(device, ())) > 1:
            yield f"device {'/'.join(device)} is given to {' and '.join(holders[device])}"
        capacity = devices[device].device.capacity or {} if device in devices else {}
        for name, taken in sorted(shares[device].items()):
            there_is = _amount(capacity[name].value) if name in capacity else None
            if name in capacity and (there_is is None or taken > there_is):
                yield f"device {'/'.join(device)} gives more {name} than it has"
    yield from _counters(snapshot, set(shares), touched, devices)


def _counters(
    snapshot: Snapshot, used: set[DeviceKey], touched: set[DeviceKey], devices: Mapping[DeviceKey, _Published]
) -> Iterator[str]:
    totals: dict[tuple[str, str, str, str], Fraction] = {}
    newest: dict[tuple[str, str], int] = {}
    for published in snapshot.slices:
        pool = published.spec.driver, published.spec.pool.name
        newest[pool] = max(newest.get(pool, 0), published.spec.pool.generation)
    for published in snapshot.slices:
        driver, pool_name = published.spec.driver, published.spec.pool.name
        if published.spec.pool.generation == newest[driver, pool_name]:
            for counters in published.spec.shared_counters or ():
                for name, counter in counters.counters.items():
                    totals[driver, pool_name, counters.name, name] = _amount(counter.value) or Fraction(0)
    taken: dict[tuple[str, str, str, str], Fraction] = {}
    for driver, pool_name, name in sorted(used):
        found = devices.get((driver, pool_name, name))
        for consumption in (found.device.consumes_counters or ()) if found else ():
            for counter_name, counter in consumption.counters.items():
                key = driver, pool_name, consumption.counter_set, counter_name
                amount = _amount(counter.value)
                if amount is not None:
                    taken[key] = taken.get(key, Fraction(0)) + amount
                elif (driver, pool_name, name) in touched:
                    yield f"device {driver}/{pool_name}/{name} takes {counter.value!r} of counter {counter_name}"
    pools = {(driver, pool_name) for driver, pool_name, _ in touched}
    for key, used_up in sorted(taken.items()):
        if key[:2] in pools and used_up > totals.get(key, Fraction(0)):
            yield f"counter {key[3]} of {key[2]} in pool {key[1]} is overdrawn"


def _amount(text: str | int | float) -> Fraction | None:
    """None for what is no quantity: drivers and other schedulers write these, and one must not spoil all plans."""
    try:
        return quantity.parse(text)
    except quantity.QuantityError:
        return None
