"""Devices for claims on a node: exact answers, big things kept whole, and reasons that say what is lacking."""

import re

import msgspec
import pytest

from scheduler.api import dra
from scheduler.dra.allocate import Allocated, NoRoom, Refused
from scheduler.dra.counters import InUse
from scheduler.dra.devices import DeviceId
from scheduler.dra.result import share_id
from scheduler.dra.selection import usable_on
from tests.published import (
    DRIVER,
    NVLINK,
    PARENT,
    PCIE_ROOT,
    ask,
    boards,
    claim,
    device,
    exact,
    first_of,
    gpu,
    inventory,
    mig_node,
    names,
    nic,
    node,
    profile,
    request,
    selectors,
    slice_of,
)

EIGHT = slice_of("n1", *(gpu(i) for i in range(8)))
MIG = "mig.nvidia.com"
LONG_BROKEN = dra.DeviceTaint(key="xid", value="79", effect="NoExecute")


def taken(*devices: str) -> dra.AllocationResult:
    results = (dra.DeviceRequestAllocationResult(request="r", driver=DRIVER, pool="n1", device=d) for d in devices)
    return dra.AllocationResult(devices=dra.DeviceAllocationResult(results=tuple(results)))


def cause(answer: object) -> str:
    assert isinstance(answer, NoRoom), answer
    assert answer.searched_all
    return answer.cause


# --- what is asked ---------------------------------------------------------------------------------------------------


def test_a_claim_gets_as_many_devices_as_it_asks_for_and_never_one_twice():
    answer = ask(inventory(EIGHT), claim("a", request("gpus", count=5)), claim("b", request("gpus", count=3)))
    first, second = names(answer)
    assert (len(first), len(second)) == (5, 3)
    assert sorted(first + second) == [f"gpu-{i}" for i in range(8)]


def test_nine_of_eight_is_one_too_many():
    answer = ask(inventory(EIGHT), claim("a", request("gpus", count=5)), claim("b", request("gpus", count=4)))
    assert cause(answer) == "cannot serve all 2 claims at once"


def test_the_result_has_the_shape_that_the_api_asks_for():
    tolerated = dra.DeviceToleration(key="xid", operator="Exists")
    found = inventory(slice_of("n1", device("a", taints=(LONG_BROKEN,), binding_conditions=("Ready",))))
    answer = ask(found, claim("c", request("r", of="any", tolerations=[tolerated])))
    assert isinstance(answer, Allocated)
    (allocation,) = answer.allocations
    (result,) = allocation.devices.results or ()
    assert (result.request, result.driver, result.pool, result.device) == ("r", DRIVER, "n1", "a")
    assert result.tolerations == (tolerated,)
    assert result.binding_conditions == ("Ready",)
    assert result.admin_access is result.share_id is result.consumed_capacity is None
    assert usable_on(allocation, node("n1"))
    assert not usable_on(allocation, node("n2"))


def test_devices_of_all_nodes_bind_the_claim_to_none():
    answer = ask(inventory(slice_of(None, device("a"), all_nodes=True)), claim("c", request("r", of="any")))
    assert isinstance(answer, Allocated)
    assert answer.allocations[0].node_selector is None


def test_all_devices_means_all_and_only_if_all_are_free():
    found = inventory(EIGHT)
    assert len(names(ask(found, claim("c", request("all", every=True))))[0]) == 8
    in_use = InUse(found)
    in_use.take(taken("gpu-3"))
    assert cause(ask(found, claim("c", request("all", every=True)), in_use=in_use)) == (
        "has 7 free devices of class gpu.nvidia.com, and request all asks for all 8"
    )


def test_all_devices_of_a_pool_that_is_being_updated_cannot_be_told():
    answer = ask(inventory(EIGHT, slice_of("n1", driver="x", of=2)), claim("c", request("all", every=True)))
    assert isinstance(answer, Refused)
    assert not answer.fatal
    assert "pool x/n1 is incomplete" in answer.reason.message


@pytest.mark.parametrize(
    "unfinished",
    [
        (slice_of("n1", gpu(8), driver="x", of=2),),
        (slice_of("n1", gpu(8), gpu(8), driver="x"),),
        (slice_of("n1", device("new", node_allocatable_resources={"cpu": {}}), driver="x"),),
    ],
    ids=["half published", "invalid", "newer"],
)
def test_what_is_asked_for_instead_of_all_devices_is_not_given_while_all_cannot_be_told(
    unfinished: tuple[dra.ResourceSlice, ...],
):
    every, one, nine = exact(every=True), exact(), exact(count=9)
    found = inventory(EIGHT, *unfinished)
    refused = ask(found, claim("c", first_of("r", all=every, one=one)))
    assert isinstance(refused, Refused)
    assert not refused.fatal
    assert refused.reason.request == "r/all"  # type: ignore[attr-defined]
    assert isinstance(ask(found, claim("c", first_of("r", nine=nine, all=every, one=one))), Refused)
    before = ask(found, claim("c", first_of("r", one=one, all=every)))
    assert isinstance(before, Allocated), "what goes before it can be told"
    assert len(names(ask(inventory(EIGHT), claim("c", first_of("r", all=every, one=one))))[0]) == 8


def test_one_device_is_not_given_instead_of_all_where_the_selector_of_all_fails():
    every = exact(f"device.attributes['{DRIVER}'].model == 'A'", of="any", every=True)
    found = inventory(slice_of("n1", device("a", {"model": "A"}), device("plain")))
    assert isinstance(ask(found, claim("c", first_of("r", all=every, one=exact(of="any")))), Refused)


def test_admin_access_ignores_who_holds_a_device_but_not_twice_in_a_claim():
    found = inventory(slice_of("n1", gpu(0), gpu(1)))
    in_use = InUse(found)
    in_use.take(taken("gpu-0", "gpu-1"))
    both = claim("c", request("a", admin=True, count=2), admin=True)
    assert names(ask(found, both, in_use=in_use)) == [["gpu-0", "gpu-1"]]
    three = claim("c", request("a", admin=True, count=2), request("b", admin=True), admin=True)
    assert isinstance(ask(found, three, in_use=in_use), NoRoom)


def test_admin_access_to_a_partition_needs_one_that_is_there_or_could_be_made():
    """DECISIONS 18. A slice of a board that somebody has whole does not exist."""
    found = inventory(*mig_node())
    whole, slice_ = (exact(profile(name), of=MIG) for name in ("7g.80gb", "1g.10gb"))
    look = [
        dra.DeviceRequest(name="look", exactly=msgspec.structs.replace(at, admin_access=True)) for at in (whole, slice_)
    ]
    own = dra.DeviceRequest(name="own", exactly=whole)
    for pair in ((look[1], own), (own, look[1])):
        assert isinstance(ask(found, claim("c", *pair, admin=True)), NoRoom)
    given = ask(found, claim("c", own))
    assert isinstance(given, Allocated)
    in_use = InUse(found)
    in_use.take(given.allocations[0])
    assert isinstance(ask(found, claim("d", look[1], admin=True), in_use=in_use), NoRoom)
    assert names(ask(found, claim("d", look[0], admin=True), in_use=in_use)) == names(given), "it is there, in use"


def test_the_first_alternative_that_can_be_had_is_taken():
    small, big = gpu(0, memory="40Gi"), gpu(1, memory="80Gi")
    found = inventory(slice_of("n1", small, big))
    large = f"device.capacity['{DRIVER}'].memory.compareTo(quantity('80Gi')) >= 0"
    asked = claim("c", first_of("r", large=exact(large), any=exact()))
    answer = ask(found, asked)
    assert isinstance(answer, Allocated)
    assert [(r.request, r.device) for r in answer.allocations[0].devices.results or ()] == [("r/large", "gpu-1")]
    in_use = InUse(found)
    in_use.take(taken("gpu-1"))
    assert names(ask(found, asked, in_use=in_use)) == [["gpu-0"]]


def test_an_alternative_gives_way_so_that_every_claim_is_served():
    large = f"device.capacity['{DRIVER}'].memory.compareTo(quantity('80Gi')) >= 0"
    found = inventory(slice_of("n1", gpu(0, memory="80Gi"), gpu(1, memory="40Gi")))
    flexible, strict = claim("a", first_of("r", large=exact(large), any=exact())), claim("b", request("r", large))
    assert names(ask(found, flexible, strict)) == [["gpu-1"], ["gpu-0"]]


def test_every_choice_among_many_alternatives_is_proved_to_be_in_vain_quickly():
    one_of = [first_of(f"r{i}", a=exact(of="nic"), b=exact(f"'x{i}' != ''"), c=exact()) for i in range(12)]
    assert isinstance(ask(inventory(EIGHT), claim("c", *one_of), steps=2_000), NoRoom)


# --- constraints -----------------------------------------------------------------------------------------------------


def test_a_match_finds_the_only_value_that_has_enough():
    domains = "aaabbbbb"
    found = inventory(slice_of("n1", *(gpu(i, nvlinkDomain=d) for i, d in enumerate(domains))))
    assert names(ask(found, claim("c", request("r", count=4), match=NVLINK))) == [["gpu-4", "gpu-5", "gpu-6", "gpu-7"]]
    assert cause(ask(found, claim("c", request("r", count=6), match=NVLINK))) == (
        "has 5 free devices of class gpu.nvidia.com in one gpu.nvidia.com/nvlinkDomain, and 6 are asked for"
    )


def test_a_match_takes_the_smallest_group_that_has_enough():
    found = inventory(slice_of("n1", *(gpu(i, nvlinkDomain=d) for i, d in enumerate("aaaabb"))))
    assert names(ask(found, claim("c", request("r", count=2), match=NVLINK))) == [["gpu-4", "gpu-5"]]


def test_gpu_and_nic_under_one_pcie_root():
    found = inventory(EIGHT, slice_of("n1", nic(2), driver="nic.example.com"))
    answer = ask(found, claim("c", request("gpu"), request("nic", of="nic"), match=PCIE_ROOT))
    assert names(answer) == [["gpu-4", "nic-2"]]


def test_a_device_without_the_attribute_meets_no_constraint_on_it():
    found = inventory(slice_of("n1", gpu(0), device("bare", {"type": "gpu"})))
    assert cause(ask(found, claim("c", request("r", count=2), match=NVLINK))) == (
        "has 1 device of class gpu.nvidia.com with the attribute gpu.nvidia.com/nvlinkDomain, and request r asks for 2"
    )


def test_values_of_different_types_do_not_match():
    found = inventory(slice_of("n1", device("a", {"x": 1}), device("b", {"x": True}), device("c", {"x": "1"})))
    assert isinstance(ask(found, claim("c", request("r", of="any", count=2), match=f"{DRIVER}/x")), NoRoom)


def test_lists_match_in_what_all_have_in_common():
    found = inventory(
        slice_of("n1", device("a", {"x": ("p", "q")}), device("b", {"x": ("q", "r")}), device("c", {"x": ("r", "p")}))
    )
    assert names(ask(found, claim("c", request("r", of="any", count=2), match=f"{DRIVER}/x"))) == [["a", "c"]]
    assert isinstance(ask(found, claim("c", request("r", of="any", count=3), match=f"{DRIVER}/x")), NoRoom)


def test_distinct_values_are_all_different():
    found = inventory(EIGHT)
    (given,) = names(ask(found, claim("c", request("r", count=4), distinct=PCIE_ROOT)))
    assert {int(name[-1]) // 2 for name in given} == {0, 1, 2, 3}
    assert cause(ask(found, claim("c", request("r", count=5), distinct=PCIE_ROOT))) == (
        "has 4 free devices of class gpu.nvidia.com that differ in resource.kubernetes.io/pcieRoot, and 5 are asked for"
    )


# --- partitions and shares -------------------------------------------------------------------------------------------


def test_partitions_of_one_parent():
    found = inventory(*mig_node(count=2))
    two = claim(
        "c", request("big", profile("3g.40gb"), of=MIG), request("small", profile("1g.10gb"), of=MIG), match=PARENT
    )
    (given,) = names(ask(found, two))
    assert given[0].startswith("gpu-0-mig-3g40gb")
    assert given[1].startswith("gpu-0-mig-1g10gb")


def test_partitions_never_overlap():
    found = inventory(*mig_node())
    sevens = claim("c", *(request(f"r{i}", profile("1g.10gb"), of=MIG) for i in range(7)))
    assert len(set(names(ask(found, sevens))[0])) == 7
    with_big = claim(
        "c", *(request(f"r{i}", profile("1g.10gb"), of=MIG) for i in range(4)), request("b", profile("3g.40gb"), of=MIG)
    )
    assert names(ask(found, with_big))[0][4] == "gpu-0-mig-3g40gb-4"
    too_many = claim("c", *(request(f"r{i}", profile("2g.20gb"), of=MIG) for i in range(4)))
    assert cause(ask(found, too_many)) == "cannot serve requests r0, r1, r2, r3 at once"


def test_one_small_partition_too_many_is_refused_at_once():
    found = inventory(*mig_node(count=8))
    claims = [claim(f"c{n}", request("r", profile("1g.10gb"), of=MIG)) for n in range(57)]
    assert len(names(ask(found, *claims[:56]))) == 56
    assert isinstance(ask(found, *claims, steps=1_000), NoRoom)


def test_shared_capacity_is_given_out_once():
    found = inventory(slice_of("n1", device("a", capacity={"memory": "10Gi"}, shared=True)))
    asks = [claim(f"c{n}", request("r", of="any", capacity={"memory": "4Gi"})) for n in range(3)]
    answer = ask(found, *asks[:2])
    assert isinstance(answer, Allocated)
    results = [result for a in answer.allocations for result in a.devices.results or ()]
    assert [dict(r.consumed_capacity or {}) for r in results] == [{"memory": "4Gi"}] * 2
    assert len({r.share_id for r in results}) == 2
    assert isinstance(ask(found, *asks), NoRoom)


def test_all_devices_are_not_to_be_had_where_a_shared_one_has_no_room_left():
    """Kubernetes 1.37; 1.36 left the full one out."""
    whole, shared = device("whole"), device("shared", capacity={"memory": "2"}, shared=True)
    found = inventory(slice_of("n1", whole, shared))
    in_use = InUse(found)
    every = claim("c", request("r", of="any", every=True))
    assert names(ask(found, every, in_use=in_use)) == [["whole", "shared"]]
    first = ask(found, claim("a", request("r", "device.allowMultipleAllocations", of="any", capacity={"memory": "1"})))
    assert isinstance(first, Allocated)
    in_use.take(first.allocations[0])
    assert cause(ask(found, every, in_use=in_use)) == ("has 1 free device of class any, and request r asks for all 2")
    part = claim("c", request("r", of="any", every=True, capacity={"memory": "1"}))
    assert names(ask(found, part, in_use=in_use)) == [["shared"]], "the other has no memory, and this room for one more"


def test_admin_access_to_a_shared_device_needs_room_for_one_more_share_and_takes_none():
    found = inventory(slice_of("n1", device("shared", capacity={"memory": "2"}, shared=True)))
    one = {"of": "any", "capacity": {"memory": "1"}}
    in_use = InUse(found)
    looks, uses = claim("a", request("r", admin=True, **one), admin=True), claim("b", request("r", **one))
    for _ in range(2):
        assert isinstance(ask(found, looks, looks, looks, in_use=in_use), Allocated)
        used = ask(found, uses, in_use=in_use)
        assert isinstance(used, Allocated)
        in_use.take(used.allocations[0])
    assert isinstance(ask(found, looks, in_use=in_use), NoRoom)


def test_share_ids_are_uuids_that_depend_on_nothing_but_the_claim_the_device_and_the_count():
    ids = {share_id(uid, DeviceId("d", "p", name), n) for uid in "ab" for name in "xy" for n in range(2)}
    assert len(ids) == 8
    assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", i) for i in ids)
    assert share_id("a", DeviceId("d", "p", "x"), 0) in ids


# --- which devices ---------------------------------------------------------------------------------------------------


def test_a_single_gpu_comes_from_the_most_used_group():
    found = inventory(EIGHT)
    in_use = InUse(found)
    in_use.take(taken("gpu-5"))
    assert names(ask(found, claim("c"), in_use=in_use)) == [["gpu-4"]]


def test_gpus_of_one_claim_stay_together():
    found = inventory(EIGHT)
    in_use = InUse(found)
    in_use.take(taken("gpu-1"))
    assert names(ask(found, claim("c", request("r", count=4)), in_use=in_use)) == [["gpu-4", "gpu-5", "gpu-6", "gpu-7"]]
    for two in (claim("c", request("r", count=2)), claim("c", request("a"), request("b"))):
        assert names(ask(found, two, in_use=in_use)) == [["gpu-2", "gpu-3"]]


def test_a_gpu_and_a_card_of_one_claim_are_close_though_nothing_asks_for_it():
    """Roots have two GPUs and a card each; the first card is where no GPU is left, its NUMA node where too few are."""
    cards = [device(f"nic-{i}", {PCIE_ROOT: f"pci{i}", "resource.kubernetes.io/numaNode": i // 2}) for i in range(4)]
    found = inventory(EIGHT, slice_of("n1", *cards, driver="nic.example.com"))
    in_use = InUse(found)
    in_use.take(taken("gpu-0", "gpu-1", "gpu-2"))
    one = claim("c", request("gpu"), request("card", of="nic"))
    assert names(ask(found, one, in_use=in_use)) == [["gpu-3", "nic-1"]]
    two = claim("c", request("card", of="nic", count=2), request("gpu", count=2))
    assert names(ask(found, two, in_use=in_use)) == [["nic-2", "nic-3", "gpu-4", "gpu-5"]]


def test_small_devices_go_before_large_ones():
    found = inventory(slice_of("n1", gpu(0, memory="80Gi"), gpu(1, memory="40Gi")))
    assert names(ask(found, claim("c"))) == [["gpu-1"]]


def test_a_partition_goes_where_the_largest_hole_is_left_and_on_the_fullest_board():
    found = inventory(*mig_node(count=2))
    in_use = InUse(found)
    one = claim("c", request("r", profile("1g.10gb"), of=MIG))
    assert names(ask(found, one, in_use=in_use)) == [["gpu-0-mig-1g10gb-6"]]
    in_use.take(taken("gpu-1-mig-1g10gb-6"))
    assert names(ask(found, one, in_use=in_use))[0][0].startswith("gpu-1-mig-1g10gb")
    assert names(ask(found, claim("c", request("r", profile("7g.80gb"), of=MIG)), in_use=in_use)) == [
        ["gpu-0-mig-7g80gb-0"]
    ]


def test_partitions_of_one_request_share_a_board():
    found = inventory(*mig_node(count=2))
    two = claim("c", request("r", profile("3g.40gb"), of=MIG, count=2))
    assert names(ask(found, two)) == [["gpu-0-mig-3g40gb-0", "gpu-0-mig-3g40gb-4"]]
    small = claim("c", request("r", profile("2g.20gb"), of=MIG, count=2), request("s", profile("1g.10gb"), of=MIG))
    assert {name.partition("-mig")[0] for name in names(ask(found, small))[0]} == {"gpu-0"}


def test_shares_of_one_request_are_of_different_devices():
    shared = [device(f"s{i}", {"type": "gpu"}, capacity={"memory": "80Gi"}, shared=True) for i in range(2)]
    ten = {"capacity": {"memory": "10Gi"}}
    assert names(ask(inventory(slice_of("n1", *shared)), claim("c", request("r", count=2, **ten)))) == [["s0", "s1"]]
    assert isinstance(ask(inventory(slice_of("n1", shared[0])), claim("c", request("r", count=2, **ten))), NoRoom)


def test_first_fit_takes_what_is_published_first():
    found = inventory(*mig_node(count=2))
    one = claim("c", request("r", profile("1g.10gb"), of=MIG))
    assert names(ask(found, one, first_fit=True)) == [["gpu-0-mig-1g10gb-0"]]


def test_first_fit_gives_an_alternative_up_where_another_request_needs_its_devices():
    found = inventory(slice_of("n1", gpu(0, memory="80Gi"), gpu(1, memory="40Gi")))
    large = f"device.capacity['{DRIVER}'].memory.compareTo(quantity('80Gi')) >= 0"
    asked = claim("c", first_of("r", all=exact(every=True), one=exact()), request("s", large, every=True))
    assert names(ask(found, asked, first_fit=True)) == [["gpu-1", "gpu-0"]]


# --- what is refused, and why ----------------------------------------------------------------------------------------


def test_a_selector_that_fails_refuses_the_claim_on_this_node_and_names_device_and_attribute():
    wrong = claim("c", request("r", f"device.attributes['{DRIVER}'].modelName == 'H100'"))
    answer = ask(inventory(EIGHT), wrong)
    assert isinstance(answer, Refused)
    assert not answer.fatal
    assert "device gpu.nvidia.com/n1/gpu-0" in answer.reason.message
    assert "no such key: modelName" in answer.reason.message
    assert "only where it is published" in answer.reason.cure


def test_the_cure_of_a_selector_that_never_decides_is_another_selector():
    answer = ask(inventory(EIGHT), claim("c", request("r", "1 / 0 == 1")))
    assert isinstance(answer, Refused)
    assert "division by zero" in answer.reason.message
    assert answer.reason.cure.startswith("Correct the selector")


def test_a_failing_selector_does_not_matter_where_an_earlier_device_serves():
    last = device("later", {"type": "gpu"})
    picky = claim("c", request("r", f"device.attributes['{DRIVER}'].uuid != ''"))
    assert names(ask(inventory(slice_of("n1", gpu(0), last)), picky)) == [["gpu-0"]]
    assert isinstance(ask(inventory(slice_of("n1", last, gpu(0))), picky), Refused)


def test_a_failing_selector_does_not_matter_on_a_device_that_an_earlier_request_has():
    plain, model_a = device("plain"), device("a", {"model": "A"})
    picky = request("picky", f"device.attributes['{DRIVER}'].model == 'A'", of="any")
    found = inventory(slice_of("n1", plain, model_a))
    assert names(ask(found, claim("c", request("one", of="any"), picky))) == [["plain", "a"]]
    assert names(ask(found, claim("c", request("one", of="any")), claim("d", picky))) == [["plain"], ["a"]]
    assert isinstance(ask(found, claim("c", picky, request("one", of="any"))), Refused), "its turn comes first"


def test_where_one_alternative_can_never_be_had_and_another_is_busy_both_is_said():
    pair = [device(name, {"kind": "pair", "link": link}) for link, name in enumerate(("a", "b"))]
    found = inventory(slice_of("n1", device("busy", {"kind": "single", "link": 0}), *pair))
    single, every = (f"device.attributes['{DRIVER}'].kind == '{kind}'" for kind in ("single", "pair"))
    alternatives = first_of("r", one=exact(single, of="any"), all=exact(every, of="any", every=True))
    in_use = InUse(found)
    in_use.take(taken("busy"))
    refused = ask(found, claim("c", alternatives, match=f"{DRIVER}/link"), in_use=in_use)
    assert isinstance(refused, Refused)
    assert refused.reason.problem == (  # type: ignore[attr-defined]
        f"asks for all devices, and device {DRIVER}/n1/b does not meet a constraint of the claim; "
        "for r/one the node has no free devices of class any, and request r asks for 1"
    )


def test_a_failing_selector_matters_on_a_device_that_another_claim_sees_for_an_admin():
    picky = f"device.attributes['{DRIVER}'].model == 'A'"
    found = inventory(slice_of("n1", device("plain"), device("a", {"model": "A"})))
    sees = request("sees", picky, of="any", admin=True)
    assert names(ask(found, claim("c", request("one", of="any", admin=True), sees, admin=True))) == [["plain", "a"]]
    other = claim("d", request("one", of="any", admin=True), admin=True)
    assert isinstance(ask(found, other, claim("c", sees, admin=True)), Refused)


def test_an_invalid_pool_is_named_when_nothing_else_serves():
    twice = slice_of("n1", gpu(0), name="a", of=2), slice_of("n1", gpu(0), name="b", of=2)
    answer = ask(inventory(*twice), claim("c"))
    assert isinstance(answer, Refused)
    assert not answer.fatal
    assert "device gpu-0 is published twice" in answer.reason.message


def test_devices_that_are_not_published_in_full_are_said_to_be_what_is_missing():
    """A pool whose driver is at work: a new generation of which one slice of two is there, and the old one still."""
    old, new = slice_of("n1", gpu(0)), slice_of("n1", gpu(0), gpu(1), generation=2, of=2)
    assert cause(ask(inventory(old, new), claim("c"))) == (
        "has no device of class gpu.nvidia.com that request gpu selects "
        "(what driver gpu.nvidia.com publishes there is incomplete, and does not count)"
    )
    other = slice_of("n1", driver="nic.example.com", of=2)
    nodes = [inventory(made).shape(node()) for made in (new, other)]
    assert len(set(nodes)) == 2, "nodes of one shape are told the same"


ALLOCATABLE = {"nodeAllocatableResources": {"cpu": {"deviceMultiplier": "1"}}}
GROUPED = {
    "consumesCounters": [
        {"counterSet": "board-0", "counters": {"memory-slice-0": {"value": "1"}}, "compatibilityGroups": ["a"]}
    ]
}


def newer(*parts: dict[str, object]) -> dra.Device:
    fields = {name: value for part in parts for name, value in part.items()}
    return msgspec.json.decode(msgspec.json.encode({"name": "newer", **fields}), type=dra.Device)


def test_a_device_that_asks_for_what_is_newer_than_us_is_left_out_and_that_is_said():
    found = inventory(slice_of("n1", newer(ALLOCATABLE), device("plain")))
    assert names(ask(found, claim("c", request("r", of="any")))) == [["plain"]]
    assert cause(ask(found, claim("c", request("r", of="any", count=2)))) == (
        "has only 1 device of class any that request r selects, and it asks for 2 "
        "(devices with nodeAllocatableResources do not count: this scheduler does not know that form)"
    )
    answer = ask(found, claim("c", request("r", of="any", every=True)))
    assert isinstance(answer, Refused)
    assert "some have nodeAllocatableResources" in answer.reason.message


@pytest.mark.parametrize("parts", [(GROUPED,), (GROUPED, ALLOCATABLE)])
def test_a_pool_in_which_a_device_says_beside_which_it_can_be_is_left_out_whole_and_that_is_said(
    parts: tuple[dict[str, object], ...],
):
    """What else the pool has may be what the device cannot be beside: upstream does so while its gate is off."""
    counted = device("plain", consumes={"board-0": {"memory-slice-1": 1}})
    here = slice_of("n1", newer(*parts), counted, pool="p", of=3)
    there = slice_of("n2", device("there", consumes={"board-0": {"memory-slice-2": 1}}), pool="p", name="s2", of=3)
    found = inventory(here, there, slice_of("n1", pool="p", of=3, sets=boards(0)), slice_of("n1", device("other")))
    assert names(ask(found, claim("c", request("r", of="any")))) == [["other"]]
    for where, rest in (("n1", "has only 1 device"), ("n2", "has no device")):
        answer = ask(found, claim("c", request("r", of="any", count=2)), at=node(where))
        assert cause(answer).startswith(rest)
        assert "(devices with compatibilityGroups do not count: " in cause(answer)
    answer = ask(found, claim("c", request("r", of="any", every=True)))
    assert isinstance(answer, Refused)
    assert "some have compatibilityGroups" in answer.reason.message


def test_operations_that_a_driver_does_without_are_part_of_the_result():
    published = slice_of("n1", gpu(0))
    skipping = msgspec.structs.replace(published.spec, skip_node_operations=("NodePrepareResources",))
    answer = ask(inventory(msgspec.structs.replace(published, spec=skipping)), claim("c"))
    assert isinstance(answer, Allocated)
    (result,) = answer.allocations[0].devices.results or ()
    assert msgspec.json.decode(msgspec.json.encode(result))["skipNodeOperations"] == ["NodePrepareResources"]


def test_boards_that_parts_of_several_sizes_fill_to_the_last_slice_are_filled_quickly():
    """Two 3g fill a board; but then others are left with a slice at which nothing else may start."""
    sizes = ["3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb"] * 16
    claims = [claim(f"c{n}", request("r", profile(size), of=MIG)) for n, size in enumerate(sizes)]
    answer = ask(inventory(*mig_node(count=16)), *claims, steps=1_000)
    assert isinstance(answer, Allocated)
    assert sum("3g40gb-4" in name for each in names(answer) for name in each) == 16
    assert isinstance(ask(inventory(*mig_node(count=16)), *claims, claims[2], steps=1_000), NoRoom)


def test_a_search_that_ends_early_says_that_nothing_is_proved():
    answer = ask(inventory(*mig_node(count=2)), claim("c", request("r", of=MIG, count=2)), steps=1)
    assert isinstance(answer, NoRoom)
    assert not answer.searched_all
    assert answer.cause == "was searched for devices for 1 steps without an answer"


@pytest.mark.parametrize(
    ("asked", "lacking"),
    [
        (request("r", of="nic"), "has no device of class nic that request r selects"),
        (request("r", count=9), "has only 8 devices of class gpu.nvidia.com that request r selects, and it asks for 9"),
        (request("r", count=7), "has 6 free devices of class gpu.nvidia.com, and request r asks for 7"),
        (
            request("r", capacity={"cores": "1"}),
            "has no device of class gpu.nvidia.com with the capacity that request r asks for",
        ),
        (
            request("r", "'tainted' in device.attributes['gpu.nvidia.com']"),
            "has taints on devices of class gpu.nvidia.com that request r does not tolerate",
        ),
    ],
)
def test_the_cause_says_what_is_lacking(asked: dra.DeviceRequest, lacking: str):
    broken = device("gpu-7", {"type": "gpu", "tainted": True}, taints=(LONG_BROKEN,))
    found = inventory(slice_of("n1", *(gpu(i) for i in range(7)), broken))
    in_use = InUse(found)
    in_use.take(taken("gpu-0"))
    assert cause(ask(found, claim("c", asked), in_use=in_use)) == lacking


def test_devices_outside_the_fence_are_said_to_be_for_others():
    fenced = device("gpu-0", {"type": "gpu"}, taints=(dra.DeviceTaint(key="ours", effect="NoSchedule"),))
    found = inventory(slice_of("n1", fenced, gpu(1)), fence="ours")
    assert names(ask(found, claim("c"))) == [["gpu-0"]]
    lacking = "has devices of class gpu.nvidia.com outside the fence, which are for other schedulers"
    assert cause(ask(found, claim("c", request("r", count=2)))) == lacking


# --- configuration ---------------------------------------------------------------------------------------------------


def opaque(name: str) -> dra.OpaqueDeviceConfiguration:
    return dra.OpaqueDeviceConfiguration(driver=name)


def test_configuration_of_classes_comes_first_and_that_of_the_claim_last():
    fast = dra.DeviceClass(
        metadata=dra.ObjectMeta(name="fast"),
        spec=dra.DeviceClassSpec(
            selectors=selectors("true"), config=(dra.DeviceClassConfiguration(opaque=opaque("class")),)
        ),
    )
    plain = dra.DeviceClass(metadata=dra.ObjectMeta(name="plain"))
    found = inventory(EIGHT, classes={"fast": fast, "plain": plain})
    config = (
        dra.DeviceClaimConfiguration(requests=("a", "b/x"), opaque=opaque("both")),
        dra.DeviceClaimConfiguration(requests=("b/y",), opaque=opaque("not chosen")),
        dra.DeviceClaimConfiguration(requests=("a",), opaque=opaque("one")),
        dra.DeviceClaimConfiguration(opaque=opaque("all")),
    )
    alternatives = first_of("b", x=exact(of="plain"), y=exact(of="fast"))
    answer = ask(found, claim("c", request("a", of="fast"), alternatives, config=config))
    assert isinstance(answer, Allocated)
    made = [(c.source, c.requests, c.opaque.driver) for c in answer.allocations[0].devices.config or () if c.opaque]
    assert made == [
        ("FromClass", ("a",), "class"),
        ("FromClaim", None, "both"),
        ("FromClaim", ("a",), "one"),
        ("FromClaim", None, "all"),
    ]
