"""Planted errors of what an allocation says, and of the devices in it."""

from dataclasses import replace

import msgspec

from scheduler.api import dra
from scheduler.api.meta import ObjectMeta
from scheduler.model.plan import Plan
from tests.builders import World, cel, claim, label_in
from tests.planted.planting import (
    Kinds,
    Spoilt,
    allocated,
    asking_for,
    changed,
    named,
    published,
    with_claim,
    with_device,
    with_placement,
    with_slice,
)

KINDS = Kinds()


@KINDS.told("which is not published")
def a_device_that_is_not_there(world: World, plan: Plan) -> Spoilt:
    for held in allocated(world, plan):
        for field in ("device", "pool", "driver"):
            yield held.with_first(**{field: "unknown"})


@KINDS.told("which is not published", "cannot use")
def a_device_of_another_node(world: World, plan: Plan) -> Spoilt:
    for held in allocated(world, plan):
        its, device = held.devices[0]
        if its.spec.node_name is not None:
            yield with_slice(world, its, node_name="elsewhere"), plan
        else:
            if not its.spec.per_device_node_selection:
                yield with_slice(world, its, all_nodes=None, node_selector=label_in("planted", "x")), plan
            mine = with_device(world, its, device, node_name="elsewhere")
            (there,) = [each for each in mine.slices if each.metadata.name == its.metadata.name]
            yield with_slice(mine, there, per_device_node_selection=True, all_nodes=None, node_selector=None), plan


@KINDS.told("which is not published")
def a_pool_that_is_incomplete_or_contradicts_itself(world: World, plan: Plan) -> Spoilt:
    for held in allocated(world, plan):
        its, device = held.devices[0]
        pool = its.spec.driver, its.spec.pool.name
        if [(each.spec.driver, each.spec.pool.name) for each in world.slices].count(pool) == 1:
            bigger = changed(its.spec.pool, resource_slice_count=its.spec.pool.resource_slice_count + 1)
            yield with_slice(world, its, pool=bigger), plan
        yield with_slice(world, its, devices=(*(its.spec.devices or ()), changed(device))), plan
        if its.spec.per_device_node_selection:
            continue
        newer = changed(its.spec.pool, generation=its.spec.pool.generation + 1, resource_slice_count=1)
        empty = changed(its, metadata=ObjectMeta(name="newer"), spec=changed(its.spec, pool=newer, devices=()))
        yield replace(world, slices=(*world.slices, empty)), plan


@KINDS.told("cannot use", "may be used where")
def an_allocation_for_another_node(world: World, plan: Plan) -> Spoilt:
    for held in allocated(world, plan):
        yield held.with_allocation(node_selector=label_in("planted", "x"))
        if held.devices[0][0].spec.all_nodes:
            continue
        yield held.with_allocation(node_selector=None)
        labels = next(node.labels for node in world.nodes if node.name == held.placement.node)
        for name, value in sorted(labels.items()):
            if held.devices[0][0].spec.node_name is not None:
                yield held.with_allocation(node_selector=label_in(name, value))


@KINDS.told("cannot use")
def a_pod_away_from_its_devices(world: World, plan: Plan) -> Spoilt:
    for held in allocated(world, plan):
        for node in world.nodes:
            if node.name != held.placement.node and held.devices[0][0].spec.node_name is not None:
                yield world, with_placement(plan, held.placement, replace(held.placement, node=node.name))


@KINDS.told(" has 0 devices", " has 1 devices", " has 2 devices", " has 3 devices", "is served by 0")
def a_device_too_few(world: World, plan: Plan) -> Spoilt:
    for held in allocated(world, plan):
        if held.asked(held.results[0]).allocation_mode == "ExactCount":
            yield held.with_results(*held.results[1:])


@KINDS.told("is not given", "is served by 0")
def a_part_of_all(world: World, plan: Plan) -> Spoilt:
    for held in named(world, plan):
        if held.asked(held.results[0]).allocation_mode == "All" and len(held.results) > 1:
            yield held.with_results(*held.results[1:])
            yield held.with_results(*held.results[:-1])


@KINDS.told("holds a device twice", "is given to")
def a_device_twice_in_a_claim(world: World, plan: Plan) -> Spoilt:
    for held in allocated(world, plan):
        if not held.devices[0][1].allow_multiple_allocations:
            yield held.with_results(held.results[0], *held.results)


@KINDS.told("is given to")
def a_device_of_two_claims(world: World, plan: Plan) -> Spoilt:
    for held in allocated(world, plan):
        result = held.results[0]
        if held.devices[0][1].allow_multiple_allocations or result.admin_access:
            continue
        theirs = changed(held.allocation, devices=changed(held.allocation.devices, results=(result,)))
        yield world + claim("theirs", dra.ResourceClaimSpec(), holds=theirs), plan
        share = changed(result, share_id="a-share")
        shared = changed(held.allocation, devices=changed(held.allocation.devices, results=(share,)))
        yield world + claim("theirs", dra.ResourceClaimSpec(), holds=shared), plan
        for other in allocated(world, plan):
            same = (other.part.claim, other.results[0].admin_access) == (held.part.claim, None)
            if not same and other.placement.node == held.placement.node and not other.results[0].admin_access:
                its = {name: getattr(result, name) for name in ("driver", "pool", "device")}
                yield other.with_first(**its, share_id=None, consumed_capacity=None)


@KINDS.told("which is not there")
def a_request_that_is_not_there(world: World, plan: Plan) -> Spoilt:
    for held in allocated(world, plan):
        for name in ("unknown", f"{held.results[0].request}/unknown", ""):
            yield held.with_first(request=name)


@KINDS.told(" devices", "is served by 2 alternatives")
def another_alternative(world: World, plan: Plan) -> Spoilt:
    for held in named(world, plan):
        main, _, chosen = held.results[0].request.partition("/")
        request = next(each for each in held.spec.devices.requests or () if each.name == main)
        for sub in request.first_available or ():
            if sub.name == chosen:
                continue
            others = [
                changed(result, request=f"{main}/{sub.name}") if result.request == f"{main}/{chosen}" else result
                for result in held.results
            ]
            yield held.with_results(*held.results, others[0])
            several = sum(1 for result in others if result.request == f"{main}/{sub.name}")
            if sub.allocation_mode == "ExactCount" and several != (sub.count or 1):
                yield held.with_results(*others)


@KINDS.told("holds 33 devices")
def more_devices_than_a_claim_may_hold(world: World, plan: Plan) -> Spoilt:
    for held in allocated(world, plan):
        yield held.with_results(*(held.results * 33)[:33])


@KINDS.told("is not selected by")
def a_device_that_is_not_selected(world: World, plan: Plan) -> Spoilt:
    never = (cel('device.driver == "planted"'),)
    for held in allocated(world, plan):
        name = held.asked(held.results[0]).device_class_name
        found = world.classes[name]
        other = changed(found, spec=changed(found.spec, selectors=never))
        yield replace(world, classes={**world.classes, name: other}), plan
    for held in named(world, plan):
        yield held.asking(
            requests=tuple(asking_for(each, selectors=never) for each in held.spec.devices.requests or ())
        )


@KINDS.told("device.attributes", "which does not exist")
def a_selector_or_class_without_an_answer(world: World, plan: Plan) -> Spoilt:
    unknown = (cel('device.attributes["planted"].unknown == 1'),)
    for held in named(world, plan):
        requests = held.spec.devices.requests or ()
        yield held.asking(requests=tuple(asking_for(each, selectors=unknown) for each in requests))
        yield held.asking(requests=tuple(asking_for(each, device_class_name="unknown") for each in requests))


@KINDS.told("has no planted/x")
def a_constraint_on_what_devices_have_not(world: World, plan: Plan) -> Spoilt:
    for held in named(world, plan):
        yield held.asking(constraints=(dra.DeviceConstraint(match_attribute="planted/x"),))
        yield held.asking(constraints=(dra.DeviceConstraint(distinct_attribute="planted/x"),))


@KINDS.told("do not agree", "are not all different")
def devices_that_do_not_go_together(world: World, plan: Plan) -> Spoilt:
    values = (dra.DeviceAttribute(string="1"), dra.DeviceAttribute(int_=1), dra.DeviceAttribute(strings=("2", "3")))
    for held in named(world, plan):
        if len(held.results) < 2 or held.devices[0][1] is held.devices[1][1]:
            continue
        for one in values:
            for other in values:
                made = world
                for number, value in enumerate((one, other)):
                    its, device = published(made, held.results[number], held.placement.node)
                    made = with_device(made, its, device, attributes={**(device.attributes or {}), "planted/x": value})
                two = changed(held.spec.devices, constraints=None)
                requests = tuple(sorted({result.request for result in held.results[:2]}))
                there = [result for result in held.results if result.request in requests]
                if len(there) > 2:
                    continue
                rule = {"distinct_attribute" if one is other else "match_attribute": "planted/x"}
                two = changed(two, constraints=(dra.DeviceConstraint(requests=requests, **rule),))
                yield with_claim(made, held.part.claim, spec=changed(held.spec, devices=two)), plan


@KINDS.told("which is not tolerated")
def a_tainted_device(world: World, plan: Plan) -> Spoilt:
    for held in allocated(world, plan):
        if any(not toleration.key for toleration in held.asked(held.results[0]).tolerations or ()):
            continue
        its, device = held.devices[0]
        for effect in ("NoSchedule", "NoExecute"):
            taint = dra.DeviceTaint(key="planted", value="x", effect=effect)
            yield with_device(world, its, device, taints=(taint,)), plan
            for selector in (
                dra.DeviceTaintSelector(driver=its.spec.driver),
                dra.DeviceTaintSelector(pool=its.spec.pool.name, device=device.name),
                dra.DeviceTaintSelector(),
            ):
                spec = dra.DeviceTaintRuleSpec(device_selector=selector, taint=taint)
                rule = dra.DeviceTaintRule(metadata=ObjectMeta(name="planted"), spec=spec)
                yield replace(world, taint_rules=(*world.taint_rules, rule)), plan


@KINDS.told("is overdrawn")
def a_counter_overdrawn(world: World, plan: Plan) -> Spoilt:
    for held in allocated(world, plan):
        for (its, device), result in zip(held.devices, held.results, strict=True):
            drawn_before = any(
                (other.driver, other.pool, other.device) == (result.driver, result.pool, result.device)
                for one in world.claims.values()
                for other in (one.allocation.devices.results if one.allocation else None) or ()
            )
            for use in () if result.admin_access or drawn_before else device.consumes_counters or ():
                for name, counter in use.counters.items():
                    for each in world.slices:
                        same = (each.spec.driver, each.spec.pool.name) == (its.spec.driver, its.spec.pool.name)
                        if not same or not int(counter.value):
                            continue
                        less = {name: dra.Counter(value=int(counter.value) - 1)}
                        sets = [
                            changed(s, counters={**s.counters, **less}) if s.name == use.counter_set else s
                            for s in each.spec.shared_counters or ()
                        ]
                        if sets:
                            yield with_slice(world, each, shared_counters=tuple(sets)), plan


@KINDS.told("is overdrawn")
def a_counter_that_a_withdrawn_device_draws_on(world: World, plan: Plan) -> Spoilt:
    """Somebody holds a part of the board that no slice lists any more, and that takes all of it."""
    for held in allocated(world, plan):
        for (its, device), result in zip(held.devices, held.results, strict=True):
            drawn = {use.counter_set: use.counters for use in device.consumes_counters or ()}
            if result.admin_access or not any(int(counter.value) for use in drawn.values() for counter in use.values()):
                continue
            pool = its.spec.driver, its.spec.pool.name
            sets = [
                found
                for each in world.slices
                if (each.spec.driver, each.spec.pool.name) == pool
                for found in each.spec.shared_counters or ()
                if found.name in drawn
            ]
            everything = [dra.DeviceCounterConsumption(counter_set=each.name, counters=each.counters) for each in sets]
            gone = dra.Device(name="planted", consumes_counters=tuple(everything))
            theirs = changed(result, device="planted", share_id=None, consumed_capacity=None)
            holds = dra.AllocationResult(devices=dra.DeviceAllocationResult(results=(theirs,)))
            there = replace(world, withdrawn={(*pool, "planted"): gone})
            yield there + claim("theirs", dra.ResourceClaimSpec(), holds=holds), plan


@KINDS.told("gives more")
def a_capacity_given_twice(world: World, plan: Plan) -> Spoilt:
    for held in allocated(world, plan):
        for (_, device), result in zip(held.devices, held.results, strict=True):
            for name in () if result.admin_access else result.consumed_capacity or {}:
                everything = {name: (device.capacity or {})[name].value}
                share = changed(result, share_id="theirs", consumed_capacity=everything)
                theirs = dra.AllocationResult(devices=dra.DeviceAllocationResult(results=(share,)))
                yield world + claim("theirs", dra.ResourceClaimSpec(), holds=theirs), plan


@KINDS.told("as a share and is not shared", "whole and is shared", "with a share", "in shares")
def a_share_of_another_size(world: World, plan: Plan) -> Spoilt:
    for held in allocated(world, plan):
        first = held.results[0]
        if not held.devices[0][1].allow_multiple_allocations:
            yield held.with_first(share_id="a-share")
            yield held.with_first(consumed_capacity={"memory": "1Gi"})
            continue
        yield held.with_first(share_id=None)
        for name in first.consumed_capacity or {}:
            yield held.with_first(consumed_capacity=None)
            yield held.with_first(consumed_capacity={**(first.consumed_capacity or {}), name: "1"})
            yield held.with_first(consumed_capacity={**(first.consumed_capacity or {}), name: "many"})
        if first.admin_access:
            continue
        theirs = changed(held.allocation, devices=changed(held.allocation.devices, results=(first,)))
        yield world + claim("theirs", dra.ResourceClaimSpec(), holds=theirs), plan


@KINDS.told("has not the capacity")
def a_device_too_small(world: World, plan: Plan) -> Spoilt:
    for held in named(world, plan):
        for name in ("memory", "unknown"):
            asked = dra.CapacityRequirements(requests={name: "1000Ti"})
            yield held.asking(
                requests=tuple(asking_for(each, capacity=asked) for each in held.spec.devices.requests or ())
            )


@KINDS.told("admin access")
def admin_access_that_was_not_asked_for(world: World, plan: Plan) -> Spoilt:
    for held in allocated(world, plan):
        yield held.with_first(admin_access=None if held.results[0].admin_access else True)
    for held in named(world, plan):
        if held.results[0].admin_access:
            yield with_claim(world, held.part.claim, admin_access_allowed=False), plan


@KINDS.told("other tolerations", "other binding conditions")
def a_result_that_says_something_else(world: World, plan: Plan) -> Spoilt:
    for held in allocated(world, plan):
        yield held.with_first(tolerations=(dra.DeviceToleration(key="planted", operator="Exists"),))
        yield held.with_first(binding_conditions=("Planted",))
        yield held.with_first(binding_failure_conditions=("Planted",))
        its, device = held.devices[0]
        yield with_device(world, its, device, binding_conditions=("Planted",)), plan


@KINDS.told("another configuration")
def another_configuration(world: World, plan: Plan) -> Spoilt:
    opaque = dra.OpaqueDeviceConfiguration(driver="planted", parameters=msgspec.Raw(b'{"x":1}'))
    for held in allocated(world, plan):
        config = held.allocation.devices.config or ()
        more = (*config, dra.DeviceAllocationConfiguration(source="FromClaim", opaque=opaque))
        yield held.with_allocation(devices=changed(held.allocation.devices, config=more))
        if config:
            yield held.with_allocation(devices=changed(held.allocation.devices, config=config[1:]))
            yield held.with_allocation(devices=changed(held.allocation.devices, config=config[::-1] + config))
    for held in named(world, plan):
        yield held.asking(config=(dra.DeviceClaimConfiguration(opaque=opaque), *(held.spec.devices.config or ())))
