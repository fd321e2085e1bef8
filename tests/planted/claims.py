"""Planted errors of what pods have to do with claims, those made for extended resources included."""

from dataclasses import replace

from queues.resources import Resources
from scheduler.api import dra
from scheduler.model.plan import ClaimAllocation, ExtendedMapping, Plan
from tests.builders import World, claim
from tests.planted.planting import (
    Kinds,
    Spoilt,
    allocated,
    asking_for,
    changed,
    made_by_plan,
    named,
    pod_of,
    with_claim,
    with_node,
    with_placement,
    with_pod,
)

KINDS = Kinds()


@KINDS.told("is not decided")
def a_claim_dropped_or_taken_for_another(world: World, plan: Plan) -> Spoilt:
    for held in named(world, plan):
        yield held.with_part()
        yield held.with_part(replace(held.part, claim="default/other"))
        yield held.with_part(replace(held.part, name="other"))


@KINDS.told("of another namespace")
def a_claim_of_another_namespace(world: World, plan: Plan) -> Spoilt:
    for held in named(world, plan):
        _, name = held.part.claim.split("/")
        there = world + claim(f"other/{name}", held.spec)
        pod = pod_of(world, held.placement)
        entries = tuple(
            replace(entry, claim=f"other/{name}") if entry.claim == held.part.claim else entry for entry in pod.claims
        )
        there = with_pod(there, pod.key, claims=entries)
        other = replace(held.part, claim=f"other/{name}", claim_uid=f"claim-other/{name}")
        yield there, held.with_part(other)[1]


@KINDS.told("that it does not name")
def a_claim_too_many(world: World, plan: Plan) -> Spoilt:
    for held in named(world, plan):
        yield held.with_part(held.part, replace(held.part, name="more", allocation=None))
    for one in plan.placements:
        more = ClaimAllocation(name="more", claim="default/more", claim_uid="claim-default/more")
        there = world + claim("more", dra.ResourceClaimSpec(), holds=dra.AllocationResult())
        yield there, with_placement(plan, one, replace(one, claims=(*one.claims, more)))


@KINDS.told("of uid")
def a_claim_of_another_uid(world: World, plan: Plan) -> Spoilt:
    for held in named(world, plan):
        yield held.with_part(replace(held.part, claim_uid="stale"))


@KINDS.told("which is being deleted", "which belongs to another pod", "which does not exist")
def a_claim_that_cannot_be_used(world: World, plan: Plan) -> Spoilt:
    for held in named(world, plan):
        yield with_claim(world, held.part.claim, terminating=True), plan
        left = {key: other for key, other in world.claims.items() if key != held.part.claim}
        yield replace(world, claims=left), plan
        pod = pod_of(world, held.placement)
        if any(entry.claim == held.part.claim and entry.from_template for entry in pod.claims):
            yield with_claim(world, held.part.claim, owner_uid="another"), plan


@KINDS.told("which is not known here", "which are not known here")
def a_claim_that_asks_in_a_form_newer_than_ours(world: World, plan: Plan) -> Spoilt:
    for held in named(world, plan):
        yield with_claim(world, held.part.claim, newer=("spec.devices.requests[0].exactly.planted",)), plan
    for held in allocated(world, plan):
        requests = held.spec.devices.requests or ()
        unknown: tuple[dict[str, object], ...] = ({"derived_attributes": {}}, {"allocation_mode": "Planted"})
        for changes in unknown:
            devices = changed(held.spec.devices, requests=tuple(asking_for(each, **changes) for each in requests))
            spec = changed(held.spec, devices=devices)
            if held.part.make is None:
                yield with_claim(world, held.part.claim, spec=spec), plan
            else:
                yield held.with_part(replace(held.part, make=spec))


@KINDS.told("holds no devices")
def a_claim_without_devices(world: World, plan: Plan) -> Spoilt:
    for held in allocated(world, plan):
        yield held.with_part(replace(held.part, allocation=None))


@KINDS.told("is allocated twice")
def a_claim_allocated_twice(world: World, plan: Plan) -> Spoilt:
    for held in named(world, plan):
        yield with_claim(world, held.part.claim, allocation=held.allocation), plan


@KINDS.told("is reserved for")
def a_claim_of_too_many_pods(world: World, plan: Plan) -> Spoilt:
    for held in named(world, plan):
        yield with_claim(world, held.part.claim, reserved_for=tuple(f"u-{number}" for number in range(256))), plan


@KINDS.told("gets no")
def an_extended_resource_that_nothing_serves(world: World, plan: Plan) -> Spoilt:
    for held in made_by_plan(world, plan):
        yield held.with_part(replace(held.part, mappings=()))
        yield held.with_part()


@KINDS.told("at one time", "at the same time")
def a_made_claim_for_more_or_shared_by_containers(world: World, plan: Plan) -> Spoilt:
    for held in made_by_plan(world, plan):
        pod = pod_of(world, held.placement)
        first = held.part.mappings[0]
        less = Resources({**pod.requests.amounts, first.resource: pod.requests[first.resource] - 1})
        yield with_pod(world, pod.key, requests=less), plan
        one = next(container for container in pod.extended if container.name == first.container)
        if not one.init:
            for sidecar in (False, True):
                index = -1 if sidecar else one.index + 1
                other = replace(one, name="planted", index=index, init=sidecar, sidecar=sidecar)
                both = with_pod(world, pod.key, extended=(*pod.extended, other))
                part = replace(held.part, mappings=(*held.part.mappings, replace(first, container="planted")))
                yield both, held.with_part(part)[1]


@KINDS.told("gets 1 ")
def a_made_claim_for_less(world: World, plan: Plan) -> Spoilt:
    for held in made_by_plan(world, plan):
        requests = held.spec.devices.requests or ()
        if len(requests) == 1 and requests[0].exactly is not None and (requests[0].exactly.count or 1) > 1:
            spec = changed(held.spec, devices=changed(held.spec.devices, requests=(asking_for(requests[0], count=1),)))
            devices = changed(held.allocation.devices, results=held.results[:1])
            less = changed(held.allocation, devices=devices)
            yield held.with_part(replace(held.part, make=spec, allocation=less))


@KINDS.told(
    "which is not there", "serves nothing", "does not ask for it", "which exists", "is not what class", "by a claim"
)
def a_made_claim_that_serves_something_else(world: World, plan: Plan) -> Spoilt:
    for held in made_by_plan(world, plan):
        first, *rest = held.part.mappings
        unknown = ExtendedMapping(container=first.container, resource=first.resource, request="unknown")
        yield held.with_part(replace(held.part, mappings=(unknown, *rest)))
        yield held.with_part(replace(held.part, mappings=(first, *rest, replace(first, container="unknown"))))
        requests = held.spec.devices.requests or ()
        more = changed(held.spec.devices, requests=(*requests, changed(requests[0], name="more")))
        yield held.with_part(replace(held.part, make=changed(held.spec, devices=more)))
        yield world + claim(held.part.claim, held.spec), plan
        names = {request.exactly.device_class_name for request in requests if request.exactly is not None}
        mute = {
            name: changed(c, spec=changed(c.spec, extended_resource_name=None)) if name in names else c
            for name, c in world.classes.items()
        }
        yield replace(world, classes=mute), plan
        node = next(node for node in world.nodes if node.name == held.placement.node)
        plugin = Resources({**node.allocatable.amounts, first.resource: 8})
        yield with_node(world, node.name, allocatable=plugin), plan
