"""Which devices a node can use, and which nodes are alike."""

from scheduler.api import dra
from scheduler.api.attributes import OUTSIDE_FENCE
from scheduler.api.core import NodeSelector, NodeSelectorRequirement, NodeSelectorTerm
from scheduler.api.meta import ObjectMeta
from scheduler.dra.allocate import Allocated, NoRoom
from scheduler.dra.counters import InUse
from scheduler.dra.devices import DeviceId, Features
from scheduler.dra.pools import Inventory
from scheduler.solver.check_published import Pools
from tests.published import (
    DRIVER,
    NVLINK,
    ask,
    boards,
    claim,
    device,
    gpu,
    inventory,
    mig_node,
    names,
    node,
    request,
    slice_of,
)

BROKEN = dra.DeviceTaint(key="broken", effect="NoSchedule")


def usable(found: Inventory, name: str = "n1") -> list[str]:
    return [d.id.name for d in found.devices_on(node(name))]


def rack(value: str) -> NodeSelector:
    requirement = NodeSelectorRequirement(key="rack", operator="In", values=(value,))
    return NodeSelector(node_selector_terms=(NodeSelectorTerm(match_expressions=(requirement,)),))


def test_a_node_uses_its_own_devices_and_those_of_all_nodes():
    found = inventory(
        slice_of("n1", gpu(0)),
        slice_of("n2", gpu(1)),
        slice_of(None, device("fabric"), driver="f", all_nodes=True),
        slice_of(None, device("nowhere"), driver="g"),
    )
    assert usable(found) == ["fabric", "gpu-0"]
    assert usable(found, "n2") == ["fabric", "gpu-1"]


def test_devices_come_in_order_of_driver_pool_slice_and_position():
    found = inventory(
        slice_of("n1", device("z"), device("a"), driver="b", pool="p", name="s2", of=2),
        slice_of("n1", device("m"), driver="b", pool="p", name="s1", of=2),
        slice_of("n1", device("y"), driver="a", pool="q"),
        slice_of("n1", device("x"), driver="b", pool="o"),
    )
    assert usable(found) == ["y", "x", "m", "z", "a"]


def test_pools_with_devices_that_need_preparation_come_last():
    waits = device("first", binding_conditions=("Ready",))
    found = inventory(slice_of("n1", waits, pool="a"), slice_of("n1", device("second"), pool="b"))
    assert usable(found) == ["second", "first"]


def test_only_the_newest_generation_counts():
    found = inventory(slice_of("n1", gpu(0), generation=1), slice_of("n1", gpu(1), generation=2))
    assert usable(found) == ["gpu-1"]


def test_a_generation_that_went_back_counts_as_if_there_had_never_been_a_newer_one():
    """After its slices were deleted a driver starts to count anew; half way the newer one still counts, incomplete."""
    newer = [slice_of("n1", gpu(i), name=f"new-{i}", generation=7, of=2) for i in range(2)]
    anew = slice_of("n1", gpu(2), generation=0)
    assert usable(inventory(*newer)) == ["gpu-0", "gpu-1"]
    assert usable(inventory(newer[1], anew)) == []
    assert usable(inventory(anew)) == ["gpu-2"]


def test_a_pool_that_is_being_updated_offers_nothing_and_says_so():
    found = inventory(slice_of("n1", gpu(0), generation=2, of=2))
    assert usable(found) == []
    assert found.on(node()).incomplete == (f"{DRIVER}/n1",)


def test_slices_for_other_nodes_complete_a_pool():
    found = inventory(
        slice_of("n1", gpu(0), pool="shared", name="a", of=2), slice_of("n2", gpu(1), pool="shared", name="b", of=2)
    )
    assert usable(found) == ["gpu-0"]
    assert found.on(node()).incomplete == ()


def test_a_pool_that_has_moved_to_another_node_still_serves_the_one_that_sees_all_of_the_old_generation():
    old = slice_of("n1", gpu(0), pool="p", name="old")
    found = inventory(old, slice_of("n2", gpu(0), pool="p", name="new", generation=2))
    assert usable(found) == ["gpu-0"]


def test_a_device_published_twice_makes_its_pool_invalid_and_no_other():
    found = inventory(
        slice_of("n1", gpu(0), name="a", of=2),
        slice_of("n1", gpu(0), name="b", of=2),
        slice_of("n1", device("fine"), driver="other"),
    )
    assert usable(found) == ["fine"]
    assert found.on(node()).invalid == (f"{DRIVER}/n1: device gpu-0 is published twice",)


def test_devices_of_one_name_for_different_nodes_are_no_contradiction_of_their_pool():
    """KEP 4381 asks for unique names in a pool; kube-scheduler looks at the slices for the node, and serves it."""
    here, there = (slice_of(name, gpu(0), pool="rack", name=name, of=3) for name in ("n1", "n2"))
    twice = slice_of("n3", gpu(1), gpu(1), pool="rack", name="n3", of=3)
    found = inventory(here, there, twice)
    assert usable(found, "n1") == usable(found, "n2") == ["gpu-0"]
    assert found.on(node("n3")).invalid == (f"{DRIVER}/rack: device gpu-1 is published twice",)
    verifier = Pools([here, there, twice])
    for name in ("n1", "n2"):
        published = verifier.device((DRIVER, "rack", "gpu-0"), node(name))
        assert published is not None
        assert published.spec.node_name == name
    assert verifier.on(node("n3")) == ([], False)


def test_who_holds_a_name_holds_it_on_every_node_of_the_pool():
    found = inventory(*(slice_of(name, gpu(0), pool="rack", name=name, of=2) for name in ("n1", "n2")))
    first = ask(found, claim("a"), at=node("n1"))
    assert isinstance(first, Allocated)
    in_use = InUse(found)
    in_use.take(first.allocations[0])
    assert isinstance(ask(found, claim("b"), at=node("n2"), in_use=in_use), NoRoom)


def test_counters_that_do_not_exist_make_a_pool_invalid():
    eats = device("part", consumes={"board-7": {"memory-slice-0": 1}})
    found = inventory(slice_of("n1", eats, of=2), slice_of("n1", of=2, sets=boards(0)))
    assert found.on(node()).invalid == (f"{DRIVER}/n1: device part consumes of unknown counter set board-7",)


def test_an_unreadable_quantity_makes_a_pool_invalid_and_stops_nothing():
    found = inventory(slice_of("n1", gpu(0, memory="many")), slice_of("n1", device("fine"), driver="other"))
    assert usable(found) == ["fine"]
    assert "'many' is not a quantity" in found.on(node()).invalid[0]


def test_a_decimal_amount_may_be_larger_than_64_bits_and_a_binary_one_ends_there():
    """As in Kubernetes, where 10E is 10 to the 19th and 16Ei is 2 to the 63rd less one."""
    huge = device("a", capacity={"decimal": "10E", "exponent": "1e19", "binary": "16Ei"}, consumes={"s": {"c": 10**19}})
    sets = (dra.CounterSet(name="s", counters={"c": dra.Counter(value="15E")}),)
    found = inventory(slice_of("n1", huge, of=2), slice_of("n1", of=2, sets=sets))
    assert usable(found) == ["a"]
    capacity = found.devices_on(node())[0].capacity
    assert (capacity["decimal"].value, capacity["exponent"].value, capacity["binary"].value) == (
        10**19,
        10**19,
        2**63 - 1,
    )
    asked = claim("c", request("r", of="any", capacity={"decimal": "10E"}))
    assert names(ask(found, asked)) == [["a"]]
    assert isinstance(ask(found, claim("c", request("r", of="any", capacity={"decimal": "11E"}))), NoRoom)
    beyond = inventory(slice_of("n1", device("a", capacity={"c": "1e101"})))
    assert "is beyond any amount" in beyond.on(node()).invalid[0]


def test_slices_and_devices_select_nodes_by_label():
    per_device = slice_of(
        None,
        device("here", node_name="n1"),
        device("rack-a", node_selector=rack("a")),
        device("rack-b", node_selector=rack("b")),
        device("all", all_nodes=True),
        device("future"),
        driver="each",
        per_device=True,
    )
    found = inventory(per_device, slice_of(None, device("by-slice"), driver="rack", selector=rack("a")))
    in_rack_a = found.devices_on(node("n1", labels={"rack": "a"}))
    assert [d.id.name for d in in_rack_a] == ["here", "rack-a", "all", "by-slice"]
    assert [d.id.name for d in found.devices_on(node("n2", labels={"rack": "b"}))] == ["rack-b", "all"]


def test_what_needs_a_feature_that_is_off_is_left_out():
    slices = (*mig_node(), slice_of("n1", device("waits", binding_conditions=("Ready",)), driver="w"))
    assert len(usable(inventory(*slices))) == 14
    off = Features(partitionable=False, binding_conditions=False)
    assert usable(inventory(*slices, features=off)) == []


def test_taint_rules_add_to_the_taints_of_the_slice_and_the_fence_takes_its_own_away():
    everywhere = dra.DeviceTaintRuleSpec(
        device_selector=dra.DeviceTaintSelector(driver=DRIVER), taint=dra.DeviceTaint(key="ours", effect="NoSchedule")
    )
    nothing = dra.DeviceTaintRuleSpec(taint=dra.DeviceTaint(key="never", effect="NoSchedule"))
    rules = [
        dra.DeviceTaintRule(metadata=ObjectMeta(name=f"r{n}"), spec=spec)
        for n, spec in enumerate((everywhere, nothing))
    ]
    informs = dra.DeviceTaint(key="old", effect="None")
    tainted = slice_of("n1", device("a", taints=(BROKEN, informs)), device("b"))
    keys = [[t.key for t in taints] for taints in inventory(tainted, rules=rules).on(node()).taints]
    assert keys == [["broken", "ours"], ["ours"]]
    fenced = inventory(tainted, rules=rules, fence="ours").on(node())
    assert [[t.key for t in taints] for taints in fenced.taints] == [["broken"], []]


def test_behind_a_fence_devices_without_it_are_for_others():
    ours = dra.DeviceTaint(key="ours", effect="NoSchedule")
    evicts = dra.DeviceTaint(key="ours", effect="NoExecute")
    slices = slice_of("n1", device("a", taints=(ours,)), device("b"), device("c", taints=(evicts,)))
    keys = [[t.key for t in taints] for taints in inventory(slices, fence="ours").on(node()).taints]
    assert keys == [[], [OUTSIDE_FENCE], ["ours", OUTSIDE_FENCE]]


def test_attributes_are_found_by_their_full_name():
    found = inventory(
        slice_of("n1", device("a", {"model": "bare", f"{DRIVER}/model": "full", "x.y/z": 3, "l": ("p", "q")}))
    )
    a = DeviceId(DRIVER, "n1", "a")
    assert found.attribute(a, f"{DRIVER}/model") == "full"
    assert found.attribute(a, "x.y/z") == 3
    assert found.attribute(a, f"{DRIVER}/l") == ("p", "q")
    assert found.attribute(a, "model") is None
    assert found.attribute(DeviceId(DRIVER, "n1", "b"), f"{DRIVER}/model") is None


def test_nodes_with_the_same_devices_have_one_shape_whatever_their_names():
    one, two = (slice_of(n, *(gpu(i, node=n) for i in range(8))) for n in ("n1", "n2"))
    found = inventory(one, two, slice_of("n3", *(gpu(i, node="n3") for i in range(4))))
    assert found.shape(node("n1")) == found.shape(node("n2")) != found.shape(node("n3"))


def test_shapes_tell_apart_which_devices_share_a_link_but_not_what_it_is_called():
    def four(name: str, *domains: str) -> dra.ResourceSlice:
        return slice_of(name, *(gpu(i, node=name, nvlinkDomain=domain) for i, domain in enumerate(domains)))

    found = inventory(four("n1", "a", "a", "b", "b"), four("n2", "x", "x", "y", "y"), four("n3", "z", "z", "z", "z"))
    assert found.shape(node("n1")) == found.shape(node("n2")) != found.shape(node("n3"))
    reads = frozenset({NVLINK})
    assert found.shape(node("n1"), reads) != found.shape(node("n2"), reads)


def test_shapes_see_taints_and_attributes():
    plain, tainted = slice_of("n1", device("a")), slice_of("n2", device("a", taints=(BROKEN,)))
    other = slice_of("n3", device("a", {"productName": "T4"}))
    found = inventory(plain, tainted, other)
    assert len({found.shape(node(name)) for name in ("n1", "n2", "n3")}) == 3
