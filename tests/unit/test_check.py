"""The checker rejects planted errors: a good plan is spoilt in one place, and exactly that is told."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from queues.reasons import OverLimit
from queues.resources import Resources
from queues.tree import QueueResource
from scheduler.api.core import Taint
from scheduler.api.crds import NVLINK_LEVEL
from scheduler.api.dra import (
    AllocationResult,
    Counter,
    DeviceAllocationResult,
    DeviceAttribute,
    DeviceCounterConsumption,
    DeviceRequestAllocationResult,
    DeviceTaint,
    DeviceTaintRule,
    DeviceTaintRuleSpec,
    DeviceTaintSelector,
)
from scheduler.api.meta import ObjectMeta
from scheduler.dra.selection import only_on
from scheduler.model.plan import ClaimAllocation, Placement, Plan, Verdict
from scheduler.model.reasons import InvalidGang
from scheduler.model.workloads import ContainerAsk, Pod, TopologyConstraint
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import (
    GPU,
    World,
    ask,
    ask_first,
    claim,
    cluster,
    devices,
    divided_gpu,
    gang,
    gang_of,
    gpu,
    gpu_class,
    holding,
    label_in,
    node,
    pod,
    queue,
    running,
    sub_group,
    topology,
    world,
)
from tests.strategies import carried_out

RACKS = topology("racks", "rack")
PLAIN = (
    cluster(nodes=4, gpus=4, racks=2, cpu=8)
    + RACKS
    + gang("train", pods=3, gpus=2, cpu=4, minimum=3, topology=("racks", "rack", None), selector={"rack": "r0"})
)
DEVICES = (
    cluster(nodes=2, gpus=4, dra=True)
    + node("mixed", gpus=0)
    + gang("train", pods=2, claims={"gpu": ask(2, match=f"{GPU}/nvlinkDomain")})
    + claim("shared", ask(1))
    + gang("pair", pods=2, shared={"gpu": "shared"})
)


def spoilt(made: World, change: Callable[[Placement], Placement | None]) -> tuple[str, ...]:
    """What the checker says once `change` has been at every placement (None: left out)."""
    good = plan(made)
    assert good.placements
    assert check(made, good) == ()
    return check(made, _with(good, [new for old in good.placements if (new := change(old)) is not None]))


def _with(good: Plan, placements: list[Placement]) -> Plan:
    return replace(good, placements=tuple(placements))


def only(name: str, **new: Any) -> Callable[[Placement], Placement]:
    return lambda placement: replace(placement, **new) if placement.pod == f"default/{name}" else placement


def told(violations: tuple[str, ...], words: str) -> bool:
    return any(words in violation for violation in violations)


def test_a_pod_placed_twice() -> None:
    good = plan(PLAIN)
    assert told(check(PLAIN, _with(good, [*good.placements, good.placements[0]])), "is placed twice")


def test_a_pod_that_does_not_wait() -> None:
    assert told(spoilt(PLAIN, only("train-0", pod="default/other")), "does not wait for a node")


def test_a_pod_of_another_uid_or_gang() -> None:
    assert told(spoilt(PLAIN, only("train-0", pod_uid="old")), "as another pod of that name")
    assert told(spoilt(PLAIN, only("train-0", gang="default/nobody")), "as another gang's")


def test_a_node_that_does_not_exist() -> None:
    assert told(spoilt(PLAIN, only("train-0", node="gone")), "on node gone, which does not exist")


def test_a_gang_cut_short() -> None:
    cut = spoilt(PLAIN, lambda placement: None if placement.pod.endswith("-2") else placement)
    assert cut[0] == "gang default/train gets pods placed and has not its minimum: 2 pods on nodes"
    assert cut[1] == "gang default/train is told Placed, 3 placed, and 2 pods are"


def test_a_gang_with_a_problem() -> None:
    good = plan(PLAIN)
    bad = InvalidGang(gang="default/train", problem="contradicts itself", remedy="Correct it.")
    (whole,) = PLAIN.gangs
    assert told(check(replace(PLAIN, gangs=(replace(whole, problems=(bad,)),)), good), "contradicts itself")


def test_a_node_too_full() -> None:
    assert told(spoilt(PLAIN, lambda placement: replace(placement, node="node-0")), "node node-0 has 4 nvidia.com/gpu")
    good = plan(PLAIN)
    crowded = PLAIN + running("late", on=good.placements[0].node, cpu=6)
    assert told(check(crowded, good), "cpu, and")


def test_a_node_that_does_not_take_the_pod() -> None:
    violations = spoilt(PLAIN, lambda placement: replace(placement, node="node-3"))
    assert told(violations, "on node node-3 does not match the node selector")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"unschedulable": True}, "does not tolerate node.kubernetes.io/unschedulable"),
        ({"taints": (Taint(key="down", effect="NoExecute"),)}, "does not tolerate down:NoExecute"),
    ],
)
def test_a_node_that_keeps_pods_out(change: dict[str, Any], words: str) -> None:
    good = plan(PLAIN)
    barred = replace(PLAIN, nodes=tuple(replace(one, **change) for one in PLAIN.nodes))
    assert told(check(barred, good), words)


def test_a_node_affinity_that_does_not_hold() -> None:
    made = cluster(nodes=2, racks=2) + gang("train", pods=1, affinity=label_in("rack", "r1"))
    assert told(spoilt(made, only("train-0", node="node-0")), "does not match the node affinity")


def test_a_host_port_taken_twice() -> None:
    made = cluster(nodes=2) + gang("train", pods=2, ports=[80])
    assert told(spoilt(made, lambda placement: replace(placement, node="node-0")), "collides at port 80")


def test_a_gang_in_two_racks() -> None:
    (whole,) = PLAIN.gangs
    loose = replace(PLAIN, gangs=(replace(whole, pods=tuple(replace(p, node_selector={}) for p in whole.pods)),))
    good = plan(loose)
    apart = [replace(p, node=f"node-{number}") for number, p in enumerate(good.placements)]
    assert check(loose, _with(good, apart)) == (
        "group default/train of gang default/train is not in one domain of rack",
    )


def test_a_sub_group_in_two_racks() -> None:
    pods = [pod(f"p-{i}", sub_group="g") for i in range(2)]
    groups = (sub_group("g", 2, topology=("racks", "rack", None)),)
    made = cluster(nodes=2, racks=2) + RACKS + gang_of("train", pods, sub_groups=groups)
    assert told(spoilt(made, only("p-1", node="node-1")), "group g of gang default/train")


def test_a_sub_group_below_its_minimum() -> None:
    pods = [pod(f"{name}-{i}", sub_group=name) for name in ("a", "b") for i in range(2)]
    made = cluster(nodes=1) + gang_of("train", pods, sub_groups=(sub_group("a", 2), sub_group("b", 2)))
    cut = spoilt(made, lambda placement: None if placement.pod.endswith("b-1") else placement)
    assert told(cut, "has not its minimum")


def test_a_queue_past_its_limit_at_any_level() -> None:
    made = (
        cluster(nodes=4, gpus=4) + queue("team") + queue("red", parent="team") + gang("a", pods=2, gpus=4, queue="red")
    )
    good = plan(made)
    limited = replace(made, queues=(queue("team", limit=7) + queue("red", parent="team")).queues)
    assert check(limited, good) == ("queue team goes past its limit of gpu: 8000 of 7000",)


def test_a_queue_past_its_quota_with_work_that_cannot_be_preempted() -> None:
    made = cluster(nodes=4, gpus=4) + queue("red", quota=8) + gang("a", pods=2, gpus=4, queue="red", preemptible=False)
    good = plan(made)
    smaller = replace(made, queues=queue("red", quota=4).queues)
    assert told(check(smaller, good), "queue red goes past its quota of gpu")


def test_a_queue_that_takes_no_work() -> None:
    good = plan(PLAIN)
    assert told(check(replace(PLAIN, queues=()), good), "although Queue default does not exist")


def results(change: Callable[[Any], Any]) -> Callable[[Placement], Placement]:
    """Change the first device of every allocation of train-0."""

    def spoil(placement: Placement) -> Placement:
        if placement.pod != "default/train-0":
            return placement
        (part,) = placement.claims
        assert part.allocation is not None
        return replace(placement, claims=(_with_results(part, change(part.allocation.devices.results)),))

    return spoil


def _with_results(part: ClaimAllocation, changed: Any) -> ClaimAllocation:
    assert part.allocation is not None
    devices_ = msgspec.structs.replace(part.allocation.devices, results=tuple(changed))
    return replace(part, allocation=msgspec.structs.replace(part.allocation, devices=devices_))


def test_a_device_given_twice() -> None:
    good = plan(DEVICES)
    first = next(p for p in good.placements if p.pod == "default/train-0").claims[0].allocation
    again = [
        replace(p, node="node-0", claims=(replace(p.claims[0], allocation=first),)) if p.pod == "default/train-1" else p
        for p in good.placements
    ]
    assert told(check(DEVICES, _with(good, again)), "is given to default/train-0-gpu and default/train-1-gpu")


def test_a_device_that_somebody_else_holds() -> None:
    good = plan(DEVICES)
    held = good.placements[-1].claims[0].allocation
    taken = DEVICES + claim("theirs", ask(2), holds=held, by=["x"])
    assert told(check(taken, good), "is given to")


def test_too_few_devices() -> None:
    assert told(spoilt(DEVICES, results(lambda given: given[:1])), "request main has 1 devices")


def test_alternatives_of_one_name_are_each_as_good_as_they_are() -> None:
    """The API server takes no two of one name; kube-scheduler serves the first that it can, and so do we."""
    either = ask_first(("same", GPU, 5), ("same", GPU, 2))
    made = cluster(nodes=1, gpus=4, dra=True) + gang("train", pods=1, claims={"gpu": either})
    assert told(spoilt(made, results(lambda given: given[:1])), "request main/same has 1 devices")


def test_a_device_that_is_not_published() -> None:
    unknown = results(lambda given: [msgspec.structs.replace(given[0], device="gpu-9"), given[1]])
    assert told(spoilt(DEVICES, unknown), "which is not published")


def test_a_device_of_another_node() -> None:
    def elsewhere(given: Any) -> list[Any]:
        other = {"node-0": "node-1", "node-1": "node-0"}[given[0].pool]
        return [msgspec.structs.replace(given[0], pool=other), given[1]]

    violations = spoilt(DEVICES, results(elsewhere))
    assert told(violations, "not published for node")


def test_devices_that_do_not_agree() -> None:
    domains = [gpu(0, domain="a"), gpu(1, domain="a"), gpu(2, domain="b")]
    made = queue("default") + gpu_class() + node("n") + devices("n", domains)
    made += gang("train", claims={"gpu": ask(2, match=f"{GPU}/nvlinkDomain")})
    apart = results(lambda given: [given[0], msgspec.structs.replace(given[1], device="gpu-2")])
    assert told(spoilt(made, apart), "do not agree in gpu.nvidia.com/nvlinkDomain")


def test_a_device_for_a_request_that_is_not_there() -> None:
    strange = results(lambda given: [*given, msgspec.structs.replace(given[0], request="other", device="gpu-3")])
    assert told(spoilt(DEVICES, strange), "request other, which is not there")


def test_a_device_that_no_selector_selects() -> None:
    made = cluster(nodes=1, gpus=1, dra=True) + gang("train", claims={"gpu": ask(1)})
    good = plan(made)
    picky = {key: replace(one, spec=ask(1, where='device.driver == "other"')) for key, one in made.claims.items()}
    assert told(check(replace(made, claims=picky), good), 'is not selected by device.driver == "other"')


def test_a_claim_left_undecided_or_without_devices() -> None:
    assert told(spoilt(DEVICES, only("train-0", claims=())), "its claim gpu is not decided")

    def emptied(placement: Placement) -> Placement:
        return replace(placement, claims=tuple(replace(part, allocation=None) for part in placement.claims))

    assert told(spoilt(DEVICES, emptied), "claim default/train-0-gpu holds no devices")


def test_a_shared_claim_allocated_twice() -> None:
    good = plan(DEVICES)
    whole = next(
        part for p in good.placements for part in p.claims if part.claim == "default/shared" and part.allocation
    )
    twice = [replace(p, claims=(whole,)) if p.gang == "default/pair" else p for p in good.placements]
    assert told(check(DEVICES, _with(good, twice)), "claim default/shared is allocated twice")


def test_a_pod_that_cannot_reach_what_its_claim_holds() -> None:
    good = plan(DEVICES)
    (first, second) = [p for p in good.placements if p.gang == "default/pair"]
    other = "node-1" if first.node == "node-0" else "node-0"
    moved = [replace(p, node=other) if p.pod == second.pod else p for p in good.placements]
    assert told(check(DEVICES, _with(good, moved)), "cannot use what claim default/shared holds")


def test_more_consumers_than_a_claim_may_have() -> None:
    good = plan(DEVICES)
    many = {
        **DEVICES.claims,
        "default/shared": replace(DEVICES.claims["default/shared"], reserved_for=tuple(map(str, range(255)))),
    }
    assert told(check(replace(DEVICES, claims=many), good), "claim default/shared is reserved for 257 pods")


def test_counters_overdrawn() -> None:
    parts, counters = divided_gpu(0)
    made = queue("default") + node("n") + devices("n", parts, [counters]) + gpu_class()
    made += gpu_class("mig", kind="mig") + gang("train", claims={"gpu": ask(1)})
    good = plan(made)
    half = next(iter(plan(made + gang("half", claims={"gpu": ask(1, of="mig")})).placements)).claims[0].allocation
    assert half is not None
    device = msgspec.structs.replace((half.devices.results or ())[0], device="gpu-0-part-0")
    taken = AllocationResult(
        devices=msgspec.structs.replace(half.devices, results=(device,)), node_selector=only_on("n")
    )
    assert told(check(made + claim("theirs", ask(1, of="mig"), holds=taken, by=["x"]), good), "is overdrawn")


def test_an_extended_resource_that_nothing_serves() -> None:
    made = cluster(nodes=1, gpus=2) + node("bare", cpu=4) + gang("train", gpus=1)
    assert told(spoilt(made, only("train-0", node="bare")), "gets no nvidia.com/gpu")


@pytest.mark.parametrize("text", ["1e400", "x"])
def test_a_pool_with_amounts_that_are_none_gives_nothing_and_spoils_nothing_elsewhere(text: str) -> None:
    parts, counters = divided_gpu(0)
    made = queue("default") + node("n") + gpu_class() + gang("train", claims={"gpu": ask(1)})
    good = plan(made + devices("n", parts, [counters]))
    sets = msgspec.structs.replace(counters, counters={"parts": Counter(value=text)})
    assert told(check(made + devices("n", parts, [sets]), good), "which is not published for node n")
    bad = [msgspec.structs.replace(part, consumes_counters=(_takes(text),)) for part in parts]
    assert told(check(made + devices("n", bad, [counters]), good), "which is not published for node n")
    held = good.placements[0].claims[0].allocation
    assert held is not None
    (result,) = held.devices.results or ()
    foreign = msgspec.structs.replace(result, device="other", share_id="s", consumed_capacity={"memory": text})
    theirs = AllocationResult(devices=msgspec.structs.replace(held.devices, results=(foreign,)))
    taken = made + devices("n", parts, [counters]) + claim("theirs", ask(1), holds=theirs, by=["x"])
    assert check(taken, good) == ()


def _takes(text: str) -> DeviceCounterConsumption:
    return DeviceCounterConsumption(counter_set="gpu-0", counters={"parts": Counter(value=text)})


def test_admin_access_that_nobody_asked_for() -> None:
    looking = results(lambda given: [msgspec.structs.replace(one, admin_access=True) for one in given])
    assert told(spoilt(DEVICES, looking), "is given with admin access, which is not what was asked")


def test_a_part_of_all_devices() -> None:
    made = cluster(nodes=1, gpus=2, dra=True) + gang("train", claims={"gpu": ask(None)})
    assert told(spoilt(made, results(lambda given: given[:1])), "asks for all devices and is not given node-0/gpu-1")


def test_a_part_of_all_devices_to_look_into_though_their_shares_are_taken() -> None:
    """Admin access needs no room: a shared device that is full is one of all."""
    full = [msgspec.structs.replace(gpu(number), allow_multiple_allocations=True) for number in range(2)]
    made = queue("default") + gpu_class() + node("n") + devices("n", full)
    made += gang("owner", claims={"gpu": ask(2)}) + gang("train", claims={"gpu": ask(None, admin=True)})
    made = replace(made, claims={key: replace(one, admin_access_allowed=True) for key, one in made.claims.items()})
    assert told(spoilt(made, results(lambda given: given[:1])), "asks for all devices and is not given n/gpu-1")


def test_local_devices_that_may_be_used_everywhere() -> None:
    def anywhere(placement: Placement) -> Placement:
        allocations = [
            part.allocation and msgspec.structs.replace(part.allocation, node_selector=None)
            for part in placement.claims
        ]
        claims = zip(placement.claims, allocations, strict=True)
        return replace(placement, claims=tuple(replace(part, allocation=its) for part, its in claims))

    assert told(spoilt(DEVICES, anywhere), "may be used where its device")


def test_a_claim_of_another_uid() -> None:
    def other(placement: Placement) -> Placement:
        return replace(placement, claims=tuple(replace(part, claim_uid="old") for part in placement.claims))

    assert told(spoilt(DEVICES, other), "of uid 'old', which is 'claim-default/shared'")


@pytest.mark.parametrize("queues", [{"cpu": 4000}, {}, {"deviceclass/other": 8000}])
def test_work_that_cannot_be_preempted_on_devices_without_a_quota(queues: dict[str, int]) -> None:
    """A quota for something else is none for GPUs."""
    rules = {name: QueueResource(quota=amount) for name, amount in queues.items()}
    made = cluster(nodes=1, gpus=4) + queue("red", **rules) + gang("a", gpus=4, cpu=1, queue="red")
    good = plan(made)
    firm = replace(made, gangs=tuple(replace(one, preemptible=False) for one in made.gangs))
    assert told(check(firm, good), "queue red goes past its quota of gpu")


def test_work_that_cannot_be_preempted_beyond_the_quota_of_cpu() -> None:
    rules = {"gpu": QueueResource(quota=4000), "cpu": QueueResource(quota=500)}
    made = cluster(nodes=1, gpus=4) + queue("red", **rules) + gang("a", gpus=4, cpu=1, queue="red")
    good = plan(made)
    firm = replace(made, gangs=tuple(replace(one, preemptible=False) for one in made.gangs))
    assert told(check(firm, good), "queue red goes past its quota of cpu")


SERVED = queue("default") + gpu_class(serves="nvidia.com/gpu") + node("n", gpus=4, dra=True) + gang("train", gpus=4)


def test_a_claim_made_for_less_than_the_container_asks() -> None:
    def fewer(placement: Placement) -> Placement:
        (part,) = placement.claims
        assert part.make is not None
        assert part.allocation is not None
        (request,) = part.make.devices.requests or ()
        one = msgspec.structs.replace(request, exactly=msgspec.structs.replace(request.exactly, count=1))
        made = msgspec.structs.replace(part.make, devices=msgspec.structs.replace(part.make.devices, requests=(one,)))
        first = (part.allocation.devices.results or ())[:1]
        return replace(placement, claims=(replace(_with_results(part, first), make=made),))

    assert told(spoilt(SERVED, fewer), "container main gets 1 nvidia.com/gpu and asks for 4")


def test_what_the_api_allows_is_not_told() -> None:
    """Taint rules that stop nothing, selectors that read lists, a pool that has moved on to another node."""
    several = msgspec.structs.replace(gpu(0), attributes={**(gpu(0).attributes or {}), "uses": _texts("a", "b")})
    made = queue("default") + gpu_class() + node("n") + node("other") + devices("n", [several])
    reading = f'device.attributes["{GPU}"].uses.includes("a")'
    made += gang("train", claims={"gpu": ask(1, where=reading)})
    rule = DeviceTaintRuleSpec(device_selector=DeviceTaintSelector(pool="n"), taint=DeviceTaint(key="k", effect="None"))
    made = replace(made, taint_rules=(DeviceTaintRule(metadata=ObjectMeta(name="told"), spec=rule),))
    (old,) = made.slices
    there = msgspec.structs.replace(old.spec.pool, generation=2)
    moved = msgspec.structs.replace(old.spec, pool=there, node_name="other", devices=())
    made += world(slices=(msgspec.structs.replace(old, metadata=ObjectMeta(name="moved"), spec=moved),))
    good = plan(made)
    assert good.placements
    assert check(made, good) == ()


def _texts(*values: str) -> DeviceAttribute:
    return DeviceAttribute(strings=values)


def test_a_gang_in_two_nvlink_domains() -> None:
    """A node whose devices are of several domains is in none of them."""
    mixed = [gpu(0, domain="a"), gpu(1, domain="b")]
    made = queue("default") + gpu_class() + node("n") + devices("n", mixed) + gang("train")
    good = plan(made)
    (whole,) = made.gangs
    constrained = replace(whole, topology=TopologyConstraint(topology="nvlink", required=NVLINK_LEVEL))
    strict = replace(made, gangs=(constrained,)) + topology("nvlink", NVLINK_LEVEL)
    assert told(check(strict, good), "is not in one domain")


def test_slices_of_boards_that_a_device_plugin_serves_count_for_the_limit() -> None:
    mig = "nvidia.com/mig-3g.40gb"
    made = queue("default") + node("n", **{mig: 2}) + gang_of("train", [_asking_for(pod("p"), mig, 2)])
    good = plan(made)
    limited = replace(made, queues=queue("default", limit=0.8).queues)
    assert told(check(limited, good), "queue default goes past its limit of gpu: 857 of 800")


@pytest.mark.parametrize(
    ("name", "most", "used"),
    [
        ("parts.counters.deviceclass/mig", 2, 3),
        ("parts.counters.deviceclass/gpu.nvidia.com", 1, 2),
        ("memory.deviceclass/gpu.nvidia.com", 39, 40),
    ],
)
def test_what_devices_amount_to_counts_for_the_limit(name: str, most: int, used: int) -> None:
    """Three halves of two boards, a third board whole, and a GPU that is not divided, with 40 bytes."""
    boards = [divided_gpu(index) for index in range(3)]
    published = [gpu(9, memory="40"), *(device for parts, _ in boards for device in parts)]
    made = queue("default") + gpu_class() + gpu_class("mig", kind="mig") + node("n")
    made += devices("n", published, [counters for _, counters in boards])
    made += gang("halves", pods=3, claims={"g": ask(1, of="mig")}, priority=1) + gang("wholes", claims={"g": ask(2)})
    good = plan(made)
    assert len(good.placements) == 4
    limited = replace(made, queues=queue("default", **{name: QueueResource(limit=most)}).queues)
    assert told(check(limited, good), f"queue default goes past its limit of {name}: {used} of {most}")


@pytest.mark.parametrize(
    ("name", "most", "used"),
    [
        ("parts.counters.deviceclass/mig", 1, 2),
        ("memory.deviceclass/gpu.nvidia.com", 79, 80),
        ("deviceclass/mig", 1_999, 2_000),
        ("gpu", 2_855, 2_856),
    ],
)
def test_what_a_withdrawn_device_amounts_to_counts_for_the_limit(name: str, most: int, used: int) -> None:
    """Half a board and a GPU with 40 bytes run and are withdrawn; the other half and another GPU may start."""
    (_, held, free), counters = divided_gpu(0)
    gone = gpu(8, memory="40")
    made = queue("default") + gpu_class() + gpu_class("mig", kind="mig") + node("n")
    made += devices("n", [free, gpu(9, memory="40")], [counters])
    made += world(withdrawn={(GPU, "n", each.name): each for each in (held, gone)})
    half = DeviceRequestAllocationResult(request="main", driver=GPU, pool="n", device=held.name)
    halves = AllocationResult(devices=DeviceAllocationResult(results=(half,)), node_selector=only_on("n"))
    made += claim("h", ask(1, of="mig"), holds=halves) + claim("g", ask(1), holds=holding("n", 8))
    made += gang("there", shared={"g": "g", "h": "h"}, on=["n"])
    made += gang("late", claims={"g": ask(1), "h": ask(1, of="mig")})
    good = plan(made)
    assert len(good.placements) == 1
    assert check(made, good) == ()
    limited = replace(made, queues=queue("default", **{name: QueueResource(limit=most)}).queues)
    assert told(check(limited, good), f"queue default goes past its limit of {name}: {used} of {most}")
    assert isinstance(plan(limited).why("late"), OverLimit)


def test_what_a_device_plugin_serves_counts_for_the_limit_of_its_class() -> None:
    """Of two classes for one resource the newer one counts, running work included."""
    old, new = gpu_class("old", serves="nvidia.com/gpu"), gpu_class("new", serves="nvidia.com/gpu")
    dated = msgspec.structs.replace(
        new.classes["new"], metadata=ObjectMeta(name="new", creation_timestamp="2026-01-01T00:00:00Z")
    )
    made = queue("default") + old + world(classes={"new": dated}) + node("n", gpus=4)
    made += gang("there", gpus=1, on=["n"]) + gang("train", gpus=2)
    good = plan(made)
    assert check(made, good) == ()
    for name, told_of in (("new", ["past its limit of deviceclass/new: 3000 of 2500"]), ("old", [])):
        limited = replace(made, queues=queue("default", **{f"deviceclass/{name}": QueueResource(limit=2500)}).queues)
        assert [text for text in check(limited, good) if "limit" in text] == [
            f"queue default goes {t}" for t in told_of
        ]


def _asking_for(one: Pod, resource: str, count: int) -> Pod:
    asks = (ContainerAsk(name="main", index=0, requests={resource: count}),)
    return replace(one, requests=Resources({**one.requests.amounts, resource: count}), extended=asks)


def test_devices_of_one_name_in_two_generations_are_two() -> None:
    """A pool that moved: node "old" still uses what it published there, the other node the new one."""

    def pool(on: str, generation: int, product: str) -> World:
        shared = msgspec.structs.replace(gpu(0, product=product), capacity=None, allow_multiple_allocations=True)
        (made,) = devices(on, [shared]).slices
        there = msgspec.structs.replace(made.spec.pool, name="moving", generation=generation)
        return world(slices=(msgspec.structs.replace(made, spec=msgspec.structs.replace(made.spec, pool=there)),))

    product = f'device.attributes["{GPU}"].productName'
    made = queue("default") + gpu_class() + node("new") + node("old") + pool("old", 1, "B") + pool("new", 2, "A")
    made += gang("a", claims={"gpu": ask(1, where=f'{product} == "A"')})
    made += gang("b", claims={"gpu": ask(1, where=f'{product} == "B"')})
    good = plan(made)
    assert [placement.node for placement in good.placements] == ["new", "old"]
    assert check(made, good) == ()


# --- reservations -----------------------------------------------------------------------------------------------------


def late(dra: bool = False) -> World:
    """One node: two of four GPUs in use for some minutes, and a gang that waits for all four."""
    made = cluster(gpus=4, dra=dra) + gang("old", gpus=0 if dra else 2, claims={"g": ask(2)} if dra else None)
    made = carried_out(made, plan(made))
    (run,) = made.gangs
    run = replace(run, max_runtime_ms=300_000, pods=tuple(replace(one, started_ms=made.now_ms) for one in run.pods))
    made = replace(made, gangs=(run,), pods=run.pods)
    return made + gang("large", gpus=0 if dra else 4, claims={"g": ask(4)} if dra else None, created_ms=1)


def test_a_gang_that_was_told_its_time_has_its_room_then():
    made = late()
    good = plan(made)
    assert [(each.pod, each.node) for each in good.reserved] == [("default/large-0", "node-0")]
    assert check(made, good) == ()
    sooner = tuple(
        replace(each, starts_at_ms=each.starts_at_ms - 10_001) if each.starts_at_ms else each for each in good.gangs
    )
    (violation,) = check(made, replace(good, gangs=sooner))
    assert "which has 4 nvidia.com/gpu, and 6 are used then" in violation


def test_a_placement_that_outlasts_a_reservation_is_told():
    made = late() + gang("brief", gpus=2, created_ms=2)
    good = plan(made)
    (brief,) = [each for each in made.gangs if each.name == "brief"]
    seat = Placement(pod=brief.pods[0].key, pod_uid=brief.pods[0].uid, gang=brief.key, node="node-0")
    decisions = tuple(
        replace(each, placed=1, verdict=Verdict.PLACED, reason=None) if each.gang == brief.key else each
        for each in good.gangs
    )
    violation, *_ = check(made, replace(good, placements=(seat,), gangs=decisions))
    assert violation.endswith("on node node-0, which has 4 nvidia.com/gpu, and 6 are used then")


def test_a_reserved_device_that_is_held_then_is_told():
    made = late(dra=True)
    good = plan(made)
    assert check(made, good) == ()
    (run,) = [each for each in made.gangs if each.name == "old"]
    endless = replace(
        made, gangs=tuple(replace(each, max_runtime_ms=None) if each.key == run.key else each for each in made.gangs)
    )
    violations = check(endless, good)
    assert len(violations) == 2
    assert all("which default/old-0-g holds then" in each for each in violations)


def test_room_is_reserved_for_those_who_wait_and_get_nothing_else():
    made = late()
    good = plan(made)
    (only,) = good.reserved
    assert "besides another place" in str(check(made, replace(good, reserved=(only, only))))
    assert "does not exist" in str(check(made, replace(good, reserved=(replace(only, node="gone"),))))
    assert "does not wait for any" in str(check(made, replace(good, reserved=(replace(only, pod="default/old-0"),))))
