"""ResourceSlices of an inventory, and the writes that put them in place of those that are published."""

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dra_driver.boards import boards
from dra_driver.devices import Device, Inventory, Kind, Taint
from dra_driver.facts import Gpu
from dra_driver.inventory import Offer, Shares
from dra_driver.slices import MARK, Document, Target, Write, changes, content, documents, slice_name
from scheduler.api import dra
from scheduler.devcluster.slice_rules import SLICE_RULES
from scheduler.dra import pools
from scheduler.dra.allocate import Allocated, Ask, allocate
from scheduler.dra.counters import InUse
from scheduler.model.workloads import Claim
from tests.node.offers import DYNAMIC, cut, gpus, offered
from tests.published import CLASSES, NVLINK, PARENT, claim, node, profile, request

TARGET = Target(node="n1", node_uid="uid-of-n1")
GIB = 1 << 30


def slices(known: tuple[Gpu, ...] | list[Gpu], offer: Offer = DYNAMIC, **more: Any) -> tuple[Document, ...]:
    return documents(offered(known, offer, **more), TARGET)


def plain(count: int) -> Inventory:
    return Inventory(devices=tuple(Device(name=f"gpu-{number}", kind=Kind.GPU) for number in range(count)))


# --- the documents ---


def test_counters_come_first_and_each_gpu_that_can_be_cut_has_a_slice():
    made = slices(gpus("h100x8"))
    assert [sorted(each["spec"].keys() & {"devices", "sharedCounters"}) for each in made] == [
        ["sharedCounters"],
        *[["devices"]] * 8,
    ]
    assert [len(each["spec"].get("devices", [])) for each in made] == [0, *[26] * 8]
    assert {each["spec"]["pool"]["resourceSliceCount"] for each in made} == {9}
    assert [each["metadata"]["name"] for each in made][:2] == ["n1-gpu.nvidia.com-00", "n1-gpu.nvidia.com-01"]


def test_more_than_eight_counter_sets_take_two_slices():
    made = slices(gpus("h100x9"))
    assert [len(each["spec"].get("sharedCounters", [])) for each in made[:3]] == [8, 1, 0]


def test_gpus_in_one_piece_share_slices_of_sixty_four():
    assert [len(each["spec"]["devices"]) for each in slices(gpus("h100x8"), Offer())] == [8]
    assert [len(each["spec"]["devices"]) for each in documents(plain(130), TARGET)] == [64, 64, 2]


def test_a_taint_does_not_move_devices_to_other_slices():
    taints = {"gpu-3": (Taint(key="a", value="", effect="NoSchedule", since_ms=0),)}
    before, after = documents(plain(100), TARGET), slices(gpus("h100x8"), Offer(), taints=taints)
    assert [len(each["spec"]["devices"]) for each in before] == [64, 36]
    writes = changes(slices(gpus("h100x8"), Offer()), after)
    assert [(write.verb, write.document["spec"]["pool"]["generation"]) for write in writes] == [("update", 1)]


def test_a_node_without_devices_publishes_an_empty_slice():
    (only,) = documents(Inventory(devices=()), TARGET)
    assert only["spec"]["devices"] == []
    assert only["spec"]["pool"] == {"name": "n1", "generation": 1, "resourceSliceCount": 1}


def test_a_slice_is_the_nodes_and_marked_as_ours():
    metadata = slices(gpus("h100x1"))[0]["metadata"]
    assert MARK in metadata["labels"]
    assert metadata["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "uid-of-n1", "controller": True}
    ]


def test_slices_are_read_in_the_order_of_their_names():
    names = [slice_name(TARGET, position) for position in range(33)]
    assert names == sorted(names)


def test_names_of_nodes_with_long_names_fit_and_differ():
    nodes = [f"{'a' * 240}.{end}" for end in ("one", "two")]
    names = {slice_name(Target(node=each, node_uid="u"), 0) for each in nodes}
    assert len(names) == 2
    assert all(len(name) <= 253 for name in names)


def test_under_another_name_attributes_are_found_in_nvidias_domain():
    made = documents(offered(gpus("h100x1"), Offer()), Target(node="n1", node_uid="u", driver="gpu.example.com"))
    device = made[0]["spec"]["devices"][0]
    assert device["attributes"]["gpu.nvidia.com/type"] == {"string": "gpu"}
    assert "resource.kubernetes.io/numaNode" in device["attributes"]
    assert "type" not in device["attributes"]
    assert list(device["capacity"]) == ["memory"]


def test_a_shared_gpu_says_in_what_steps_it_is_shared():
    device = slices(gpus("h100x1"), Offer(shares=Shares()))[0]["spec"]["devices"][0]
    assert device["allowMultipleAllocations"] is True
    assert device["capacity"]["memory"] == {
        "value": "81559Mi",
        "requestPolicy": {"default": "81408Mi", "validRange": {"min": "256Mi", "step": "256Mi"}},
    }


def test_a_taint_tells_since_when():
    taint = Taint(key="gpu.nvidia.com/xid", value="79", effect="NoExecute", since_ms=1_700_000_000_999)
    gpu = gpus("h100x1")[0]
    device = slices([gpu], Offer(), taints={gpu.uuid: (taint,)})[0]["spec"]["devices"][0]
    assert device["taints"] == [
        {"key": "gpu.nvidia.com/xid", "value": "79", "effect": "NoExecute", "timeAdded": "2023-11-14T22:13:20Z"}
    ]


BOARDS = sorted(boards())


@st.composite
def machines(draw: st.DrawFn) -> tuple[list[Gpu], Offer, dict[str, tuple[Taint, ...]]]:
    """Nodes of any boards, some of them cut or ill."""
    parts = draw(st.lists(st.tuples(st.sampled_from(BOARDS), st.integers(1, 6)), min_size=1, max_size=3))
    known = list(gpus("+".join(f"{board}x{count}" for board, count in parts)))
    for position, gpu in enumerate(known):
        if gpu.mig is not None and gpu.mig.profiles and draw(st.booleans()):
            chosen = draw(st.sampled_from(gpu.mig.profiles))
            known[position] = cut(gpu, (chosen.name, chosen.placements[0].start), usable=draw(st.booleans()))
    shares = Shares(gpus=("all",)) if draw(st.booleans()) else None
    effects = st.sampled_from(["NoSchedule", "NoExecute", "None"])
    ill = draw(st.dictionaries(st.sampled_from([gpu.uuid for gpu in known]), effects, max_size=3))
    taints = {gpu: (Taint(key="k", value="v", effect=effect, since_ms=5000),) for gpu, effect in ill.items()}
    return known, Offer(dynamic_mig=draw(st.booleans()), shares=shares), taints


@settings(max_examples=60, deadline=None)
@given(machine=machines(), driver=st.sampled_from(["gpu.nvidia.com", "gpu.tutti.example"]))
def test_whatever_a_node_offers_is_lawful_and_the_scheduler_can_read_it(
    machine: tuple[list[Gpu], Offer, dict[str, tuple[Taint, ...]]], driver: str
):
    known, offer, taints = machine
    found = offered(known, offer, taints=taints)
    made = documents(found, Target(node="n1", node_uid="u", driver=driver))
    assert SLICE_RULES.check is not None
    assert SLICE_RULES.defaults is not None
    assert [SLICE_RULES.check(each) for each in made] == [[]] * len(made)
    assert [content(SLICE_RULES.defaults(each)) for each in made] == [content(each) for each in made]
    view = scheduled(made).on(node("n1"))
    assert view.invalid == view.incomplete == view.beyond == ()
    assert [each.id.name for each in view.devices] == [each.name for each in found.devices]


# --- what the scheduler does with them ---


def scheduled(made: tuple[Document, ...]) -> pools.Inventory:
    return pools.Inventory.of([msgspec.convert(each, dra.ResourceSlice) for each in made], CLASSES)


def given_devices(made: tuple[Document, ...], *claims: Claim) -> list[list[str]] | None:
    """Devices of each claim, served one after the other; None if one of them cannot be."""
    inventory = scheduled(made)
    in_use, chosen = InUse(inventory), []
    for each in claims:
        answer = allocate(node("n1"), [Ask(claim=each)], inventory, in_use)
        if not isinstance(answer, Allocated):
            return None
        for allocation in answer.allocations:
            in_use.take(allocation)
            chosen.append([result.device for result in allocation.devices.results or ()])
    return chosen


def test_two_sizes_of_one_gpu_are_given():
    wanted = claim(
        "c",
        request("big", profile("3g.40gb"), of="mig.nvidia.com"),
        request("small", profile("1g.10gb"), of="mig.nvidia.com"),
        match=PARENT,
    )
    chosen = given_devices(slices(gpus("h100x2")), wanted)
    assert chosen is not None
    big, small = chosen[0]
    assert (big.split("-mig-")[0], big.split("-")[3]) == (small.split("-mig-")[0], "3g40gb")


def test_a_gpu_of_which_a_part_is_used_is_not_given_whole():
    part = claim("c", request("r", profile("1g.10gb"), of="mig.nvidia.com"))
    whole = claim("d", request("r"))
    made = slices(gpus("h100x1"))
    assert given_devices(made, part) is not None
    assert given_devices(made, whole) == [["gpu-0"]]
    assert given_devices(made, part, whole) is None
    assert given_devices(made, whole, part) is None


def test_gpus_of_a_node_are_given_in_one_domain():
    assert given_devices(slices(gpus("h100x8")), claim("c", request("r", count=8), match=NVLINK)) is not None


def share(name: str, memory: str, **cores: str) -> Claim:
    return claim(name, request("r", capacity={"memory": memory, **cores}))


def test_claims_share_a_gpu_until_its_memory_is_used_up():
    made = slices(gpus("h100x1"), Offer(dynamic_mig=True, shares=Shares()))
    assert given_devices(made, share("a", "10G"), share("b", "20G", cores="30")) == [["gpu-0"], ["gpu-0"]]
    assert given_devices(made, share("a", "40Gi"), share("b", "39Gi")) == [["gpu-0"], ["gpu-0"]]
    assert given_devices(made, share("a", "40Gi"), share("b", "40Gi")) is None
    assert given_devices(made, share("a", "1Gi", cores="60"), share("b", "1Gi", cores="50")) is None


def test_who_says_nothing_has_a_shared_gpu_alone():
    made = slices(gpus("h100x1"), Offer(shares=Shares()))
    assert given_devices(made, claim("c", request("r"))) == [["gpu-0"]]
    assert given_devices(made, claim("c", request("r")), share("d", "256Mi")) is None


def test_a_shared_gpu_is_not_cut_and_a_cut_one_is_not_shared():
    made = slices(gpus("h100x1"), Offer(dynamic_mig=True, shares=Shares()))
    part = claim("c", request("r", profile("1g.10gb"), of="mig.nvidia.com"))
    assert given_devices(made, share("a", "1Gi"), part) is None
    assert given_devices(made, part, share("a", "1Gi")) is None


# --- changes ---


def document(position: int, said: str, of: int, generation: int = 1) -> Document:
    """A slice that says one word."""
    return {
        "metadata": {"name": slice_name(TARGET, position), "labels": {MARK: "x"}, "ownerReferences": []},
        "spec": {
            "pool": {"name": "n1", "generation": generation, "resourceSliceCount": of},
            "devices": [{"name": said}],
        },
    }


def wanted(words: str) -> list[Document]:
    return [document(position, word, len(words)) for position, word in enumerate(words)]


def published(words: str, generation: int = 1, of: int | None = None) -> list[Document]:
    """Slices that stand; a blank is one that is missing."""
    made = [document(n, word, of or len(words), generation) for n, word in enumerate(words) if word != " "]
    return [{**each, "metadata": {**each["metadata"], "uid": "u", "resourceVersion": "7"}} for each in made]


def told(writes: tuple[Write, ...]) -> list[tuple[str, int, int]]:
    """Verb, position and generation of each."""
    return [
        (
            write.verb,
            int(write.name[-2:]),
            write.document["spec"]["pool"]["generation"] if write.verb != "delete" else 0,
        )
        for write in writes
    ]


def test_what_stands_is_not_written():
    assert changes(published("abc", generation=4), wanted("abc")) == ()


def test_the_first_generation_is_one():
    assert told(changes([], wanted("ab"))) == [("create", 0, 1), ("create", 1, 1)]


def test_one_slice_is_updated_in_its_generation():
    assert told(changes(published("abc", generation=4), wanted("axc"))) == [("update", 1, 4)]


def test_two_slices_move_all_to_the_next_generation():
    assert told(changes(published("abc", generation=4), wanted("axy"))) == [
        ("update", 0, 5),
        ("update", 1, 5),
        ("update", 2, 5),
    ]


def test_one_slice_more_moves_all_to_the_next_generation():
    assert told(changes(published("ab"), wanted("abc"))) == [("update", 0, 2), ("update", 1, 2), ("create", 2, 2)]


def test_one_slice_less_moves_all_to_the_next_generation_obsolete_ones_first():
    assert told(changes(published("abc"), wanted("ab"))) == [("delete", 2, 0), ("update", 0, 2), ("update", 1, 2)]


def test_what_somebody_has_deleted_is_made_again_in_the_same_generation():
    assert told(changes(published("a c", generation=3), wanted("abc"))) == [("create", 1, 3)]


def test_what_is_missing_beside_a_change_moves_all_to_the_next_generation():
    assert told(changes(published("a c", generation=3), wanted("xbc"))) == [
        ("update", 0, 4),
        ("update", 2, 4),
        ("create", 1, 4),
    ]


def test_an_interrupted_move_is_finished():
    half = [*published("a", generation=2, of=3), *published(" bc", generation=1)]
    assert told(changes(half, wanted("abc"))) == [("update", 1, 2), ("update", 2, 2)]


def test_an_interrupted_move_to_something_else_is_left_behind():
    half = [*published("x", generation=2, of=2), *published(" b", generation=1)]
    assert told(changes(half, wanted("ab"))) == [("update", 0, 3), ("update", 1, 3)]


def test_an_interrupted_move_to_another_number_of_slices_is_left_behind():
    half = [*published("a", generation=2, of=3), *published(" b", generation=1)]
    assert told(changes(half, wanted("ab"))) == [("update", 0, 3), ("update", 1, 3)]


def test_an_obsolete_slice_of_an_older_generation_is_deleted():
    extra = {**published("a", generation=1)[0], "metadata": {"name": "n1-gpu.nvidia.com-old", "uid": "u"}}
    writes = changes([*published("ab", generation=2), extra], wanted("ab"))
    assert [(write.verb, write.name) for write in writes] == [("delete", "n1-gpu.nvidia.com-old")]


def test_an_obsolete_slice_of_this_generation_makes_another_of_all():
    extra = {**published("a")[0], "metadata": {"name": "n1-gpu.nvidia.com-old", "uid": "u"}}
    writes = changes([*published("ab"), extra], wanted("ab"))
    assert [write.verb for write in writes] == ["delete", "update", "update"]


def test_an_update_is_of_the_slice_that_was_read_and_keeps_labels_of_others():
    old = published("a")[0]
    old["metadata"]["labels"] = {"team": "b", MARK: "older"}
    (write,) = changes([old], wanted("x"))
    assert write.document["metadata"]["resourceVersion"] == "7"
    assert write.document["metadata"]["labels"] == {"team": "b", MARK: "x"}


def test_a_label_that_is_gone_is_put_back():
    old = published("a")[0]
    old["metadata"]["labels"] = {}
    assert told(changes([old], wanted("a"))) == [("update", 0, 1)]


@pytest.mark.parametrize("form", ["1Ki", "1024", "1.0Ki"])
def test_amounts_are_the_same_in_any_form(form: str):
    old, new = published("a")[0], wanted("a")[0]
    old["spec"]["devices"][0]["capacity"] = {"memory": {"value": form}}
    new["spec"]["devices"][0]["capacity"] = {"memory": {"value": "1Ki"}}
    assert changes([old], [new]) == ()


def test_what_the_server_is_known_to_leave_out_is_not_written_again():
    old, new = published("a"), wanted("a")
    new[0]["spec"]["devices"][0]["allowMultipleAllocations"] = True
    assert told(changes(old, new)) == [("update", 0, 1)]
    assert changes(old, new, lambda _: content(old[0])) == ()


WORDS = st.text("abc", min_size=1, max_size=4)


def seen(there: dict[str, Document]) -> str | None:
    """What a reader takes from the pool: the newest generation, if it is complete."""
    newest = max((each["spec"]["pool"]["generation"] for each in there.values()), default=0)
    found = [each for _, each in sorted(there.items()) if each["spec"]["pool"]["generation"] == newest]
    if not found or {each["spec"]["pool"]["resourceSliceCount"] for each in found} != {len(found)}:
        return None
    return "".join(each["spec"]["devices"][0]["name"] for each in found)


def carried_out(there: dict[str, Document], write: Write) -> None:
    if write.verb == "delete":
        del there[write.name]
    else:
        assert (write.name in there) == (write.verb == "update")
        there[write.name] = copy.deepcopy(write.document)


@settings(max_examples=400, deadline=None)
@given(
    steps=st.lists(st.tuples(WORDS, st.integers(0, 9), st.sets(st.integers(0, 3), max_size=2)), min_size=1, max_size=5)
)
def test_a_reader_sees_what_was_wanted_at_some_time_or_nothing(steps: list[tuple[str, int, set[int]]]):
    """Wants follow each other; the writes of each are cut short, and others delete slices in between."""
    there: dict[str, Document] = {}
    asked: set[str | None] = {None}
    for words, done, deleted in steps:
        asked.add(words)
        for write in changes(there.values(), wanted(words))[:done]:
            carried_out(there, write)
            assert seen(there) in asked
        for position in deleted:
            there.pop(slice_name(TARGET, position), None)
        assert seen(there) in asked
    for write in changes(there.values(), wanted(words)):
        carried_out(there, write)
        assert seen(there) in asked
    assert seen(there) == words
    assert changes(there.values(), wanted(words)) == ()
    assert len(there) == len(words)
