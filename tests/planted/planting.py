"""Planted errors: right plans spoilt in one place, so that a rule is broken for certain.

Each kind is a function that yields (world, plan) pairs, spoilt anew each time, and names the words by which the
checker must tell it. Some spoil the plan; others change the world under a plan that was right for the old one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from scheduler.api import dra
from scheduler.model.plan import ClaimAllocation, Placement, Plan
from scheduler.model.workloads import Gang, Pod
from tests.builders import World

Spoilt = Iterator[tuple[World, Plan]]
Spoil = Callable[[World, Plan], Spoilt]
changed = msgspec.structs.replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """One kind of error. `words`: one of them is in what the checker must say."""

    name: str
    words: tuple[str, ...]
    spoil: Spoil


class Kinds(list[Planted]):
    """The kinds of one chapter; `@KINDS.told(words)` makes a function one of them."""

    def told(self, *words: str) -> Callable[[Spoil], Spoil]:
        def register(spoil: Spoil) -> Spoil:
            self.append(Planted(name=spoil.__name__, words=words, spoil=spoil))
            return spoil

        return register


def with_placement(plan: Plan, old: Placement, *new: Placement) -> Plan:
    """The plan with other placements instead of one."""
    where = plan.placements.index(old)
    return replace(plan, placements=(*plan.placements[:where], *new, *plan.placements[where + 1 :]))


def with_pod(world: World, key: str, **changes: Any) -> World:
    def one(pod: Pod) -> Pod:
        return replace(pod, **changes) if pod.key == key else pod

    return replace(world, gangs=tuple(replace(gang, pods=tuple(map(one, gang.pods))) for gang in world.gangs))


def with_gang(world: World, key: str, **changes: Any) -> World:
    return replace(world, gangs=tuple(replace(g, **changes) if g.key == key else g for g in world.gangs))


def with_node(world: World, name: str, **changes: Any) -> World:
    return replace(world, nodes=tuple(replace(n, **changes) if n.name == name else n for n in world.nodes))


def with_claim(world: World, key: str, **changes: Any) -> World:
    return replace(world, claims={**world.claims, key: replace(world.claims[key], **changes)})


def with_decision(plan: Plan, key: str, **changes: Any) -> Plan:
    return replace(plan, gangs=tuple(replace(d, **changes) if d.gang == key else d for d in plan.gangs))


def pod_of(world: World, placement: Placement) -> Pod:
    return next(pod for gang in world.gangs for pod in gang.pods if pod.key == placement.pod)


def gang_of(world: World, placement: Placement) -> Gang:
    return next(gang for gang in world.gangs if gang.key == placement.gang)


def pods_on(world: World, plan: Plan, node: str) -> list[Pod]:
    """All pods that are on the node when the plan is carried out."""
    there = [pod for pod in world.pods if pod.node == node and not pod.done]
    return there + [pod_of(world, placement) for placement in plan.placements if placement.node == node]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A claim that gets its devices with a placement."""

    world: World
    plan: Plan
    placement: Placement
    part: ClaimAllocation

    @property
    def spec(self) -> dra.ResourceClaimSpec:
        return self.part.make or self.world.claims[self.part.claim].spec

    @property
    def allocation(self) -> dra.AllocationResult:
        assert self.part.allocation is not None
        return self.part.allocation

    @property
    def results(self) -> tuple[dra.DeviceRequestAllocationResult, ...]:
        return self.allocation.devices.results or ()

    @property
    def devices(self) -> list[tuple[dra.ResourceSlice, dra.Device]]:
        return [published(self.world, result, self.placement.node) for result in self.results]

    def with_part(self, *parts: ClaimAllocation) -> tuple[World, Plan]:
        claims = tuple(part for part in self.placement.claims if part is not self.part)
        return self.world, with_placement(self.plan, self.placement, replace(self.placement, claims=(*claims, *parts)))

    def with_allocation(self, **changes: Any) -> tuple[World, Plan]:
        return self.with_part(replace(self.part, allocation=changed(self.allocation, **changes)))

    def with_results(self, *results: dra.DeviceRequestAllocationResult) -> tuple[World, Plan]:
        return self.with_allocation(devices=changed(self.allocation.devices, results=results))

    def with_first(self, **changes: Any) -> tuple[World, Plan]:
        return self.with_results(changed(self.results[0], **changes), *self.results[1:])

    def asking(self, **changes: Any) -> tuple[World, Plan]:
        """The same answer to a claim that asks for something else."""
        devices = changed(self.spec.devices, **changes)
        return with_claim(self.world, self.part.claim, spec=changed(self.spec, devices=devices)), self.plan

    def asked(self, result: dra.DeviceRequestAllocationResult) -> dra.ExactDeviceRequest | dra.DeviceSubRequest:
        main, _, sub = result.request.partition("/")
        request = next(request for request in self.spec.devices.requests or () if request.name == main)
        if request.exactly is not None:
            return request.exactly
        return next(each for each in request.first_available or () if each.name == sub)


def published(
    world: World, result: dra.DeviceRequestAllocationResult, node: str
) -> tuple[dra.ResourceSlice, dra.Device]:
    """The slice and the device: the node's own, else of the newest generation."""
    order = sorted(world.slices, key=lambda each: (each.spec.node_name != node, -each.spec.pool.generation))
    return next(
        (each, device)
        for each in order
        for device in each.spec.devices or ()
        if (each.spec.driver, each.spec.pool.name, device.name) == (result.driver, result.pool, result.device)
    )


def with_slice(world: World, old: dra.ResourceSlice, **changes: Any) -> World:
    new = changed(old, spec=changed(old.spec, **changes))
    return replace(world, slices=tuple(new if each is old else each for each in world.slices))


def with_device(world: World, old: dra.ResourceSlice, device: dra.Device, **changes: Any) -> World:
    devices = tuple(changed(each, **changes) if each is device else each for each in old.spec.devices or ())
    return with_slice(world, old, devices=devices)


def allocated(world: World, plan: Plan) -> Iterator[Held]:
    for placement in plan.placements:
        for part in placement.claims:
            if part.allocation is not None and part.allocation.devices.results:
                yield Held(world=world, plan=plan, placement=placement, part=part)


def named(world: World, plan: Plan) -> Iterator[Held]:
    """The same, without claims made for extended resources."""
    return (held for held in allocated(world, plan) if held.part.make is None)


def made_by_plan(world: World, plan: Plan) -> Iterator[Held]:
    return (held for held in allocated(world, plan) if held.part.make is not None)


def asking_for(request: dra.DeviceRequest, **changes: Any) -> dra.DeviceRequest:
    if request.exactly is not None:
        return changed(request, exactly=changed(request.exactly, **changes))
    return changed(request, first_available=tuple(changed(sub, **changes) for sub in request.first_available or ()))
