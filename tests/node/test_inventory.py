"""From facts about GPUs to the devices that are offered."""

import json
import random
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dra_driver import counters
from dra_driver.attributes import semantic
from dra_driver.boards import boards
from dra_driver.devices import Capacity, Inventory, Kind, Taint, Version
from dra_driver.facts import FabricState, GpuError, Placement
from dra_driver.fake import FakeGpus
from dra_driver.inventory import Memory, Offer, Shares
from tests.node.offers import MIB, cut, device, gpus, mig_of, names, offered, said

PLAIN = Offer()
SHARED = Offer(shares=Shares())
VECTORS = json.loads(Path(__file__).with_name("mig_vectors.json").read_text())["vectors"]
CUT_BOARDS = sorted(name for name, board in boards().items() if board.profiles)


# --- what is offered ---


def test_without_dynamic_mig_a_gpu_is_offered_in_one_piece():
    found = offered(gpus("h100x2"), PLAIN)
    assert names(found) == ["gpu-0", "gpu-1"]
    assert found.counter_sets == ()
    assert all(not each.counters and not each.shareable for each in found.devices)


def test_a_hopper_with_dynamic_mig_offers_the_whole_and_every_placement():
    found = offered(gpus("h100x1"))
    by_profile = Counter(each.profile.name for each in found.devices if each.profile)
    assert by_profile == {
        "1g.10gb": 7,
        "1g.10gb+me": 7,
        "1g.20gb": 4,
        "2g.20gb": 3,
        "3g.40gb": 2,
        "4g.40gb": 1,
        "7g.80gb": 1,
    }
    assert [each.name for each in found.devices if each.kind is Kind.GPU] == ["gpu-0"]
    (drawn_on,) = found.counter_sets
    assert drawn_on.name == "gpu-0-counter-set"
    assert drawn_on.counters == {**{f"memory-slice-{number}": 1 for number in range(8)}, "ofa-engines": 1}
    assert device(found, "gpu-0").counters == drawn_on.counters


def test_devices_are_named_as_nvidia_names_them():
    found = names(offered(gpus("gb200x2")))
    assert "gpu-1-mig-2g47gb-14-0" in found
    assert "gpu-0-mig-1g23gb-me-20-3" in found


def test_a_mig_device_takes_its_slices_and_only_me_the_accelerator():
    found = offered(gpus("h100x1"))
    assert device(found, "gpu-0-mig-3g40gb-9-4").counters == {f"memory-slice-{number}": 1 for number in (4, 5, 6, 7)}
    assert device(found, "gpu-0-mig-1g10gb-me-20-2").counters == {"memory-slice-2": 1, "ofa-engines": 1}
    assert {each.counter_set for each in found.devices} == {"gpu-0-counter-set"}


def test_the_memory_of_a_whole_gpu_is_all_of_it_also_when_it_can_be_cut():
    found = offered(gpus("h100x1"))
    assert device(found, "gpu-0").capacity == {"memory": Capacity(amount=81559 * MIB)}
    part = device(found, "gpu-0-mig-3g40gb-9-0").capacity
    assert {name: amount.amount for name, amount in part.items()} == {
        "multiprocessors": 60,
        "copyEngines": 3,
        "decoders": 3,
        "encoders": 0,
        "jpegEngines": 3,
        "ofaEngines": 0,
        "memory": 40448 * MIB,
    }


def test_an_ampere_is_whole_or_cut_as_its_mode_says():
    whole = gpus("a100x1")[0]
    assert names(offered([whole])) == ["gpu-0"]
    assert offered([whole]).counter_sets == ()
    on = offered([cut(whole)])
    assert all(each.kind is Kind.MIG for each in on.devices)
    assert len(on.devices) == 25
    assert len(on.counter_sets) == 1


def test_a_mode_that_waits_for_a_reset_is_told():
    whole = gpus("a100x1")[0]
    assert whole.mig is not None
    found = offered([replace(whole, mig=replace(whole.mig, pending=True))])
    assert names(found) == ["gpu-0"]
    assert found.refused == (
        ("gpu-0", "MIG mode is off, and on after the next reset of the GPU; until then it is offered as it is."),
    )


def test_a_virtual_gpu_is_offered_whole():
    virtual = replace(gpus("h100x1")[0], virtual=True)
    found = offered([virtual])
    assert names(found) == ["gpu-0"]
    assert found.counter_sets == ()
    assert "migMode" not in said(found, "gpu-0")


def test_a_board_without_mig_is_offered_whole():
    assert names(offered(gpus("l40sx2"))) == ["gpu-0", "gpu-1"]


# --- an operator's instances ---


def test_an_operators_instances_are_offered_as_they_are_and_nothing_in_their_way():
    found = offered([cut(gpus("h100x1")[0], ("3g.40gb", 0), ("1g.10gb", 6))])
    static = [each for each in found.devices if each.instance]
    assert [(each.name, each.instance) for each in static] == [
        ("gpu-0-mig-3g40gb-9-0", "MIG-0-1"),
        ("gpu-0-mig-1g10gb-19-6", "MIG-0-2"),
    ]
    assert said(found, "gpu-0-mig-3g40gb-9-0")["uuid"] == "MIG-0-1"
    assert all(not each.counters for each in static)
    made = [each for each in found.devices if not each.instance]
    assert {each.placement for each in made} == {
        Placement(start=4, size=1),
        Placement(start=5, size=1),
        Placement(start=4, size=2),
    }
    assert found.counter_sets[0].counters == {
        "memory-slice-4": 1,
        "memory-slice-5": 1,
        "memory-slice-7": 1,
        "ofa-engines": 1,
    }
    assert any(name == "gpu-0" and "not offered whole" in words for name, words in found.refused)


def test_an_operators_me_instance_leaves_no_accelerator():
    found = offered([cut(gpus("h100x1")[0], ("1g.10gb+me", 0))])
    assert not any("-me-" in each.name for each in found.devices if not each.instance)
    assert "ofa-engines" not in found.counter_sets[0].counters


def test_what_we_made_for_a_claim_is_in_nobodys_way():
    gpu = cut(gpus("h100x1")[0], ("3g.40gb", 0))
    ours = {(gpu.uuid, Placement(start=0, size=4))}
    assert offered([gpu], owned=ours) == offered([cut(gpu)])
    assert len(offered([gpu], owned=ours).devices) == 26


def test_the_same_place_on_another_gpu_is_not_ours():
    first, second = (cut(each, ("3g.40gb", 0)) for each in gpus("h100x2"))
    found = offered([first, second], owned={(first.uuid, Placement(start=0, size=4))})
    assert [each.name for each in found.devices if each.instance] == ["gpu-1-mig-3g40gb-9-0"]


def test_half_an_instance_keeps_its_place_and_is_told():
    found = offered([cut(gpus("h100x1")[0], ("4g.40gb", 0), usable=False)])
    assert not any(each.instance for each in found.devices)
    assert "gpu-0" not in names(found)
    assert all(each.placement is not None and each.placement.start >= 4 for each in found.devices)
    assert any("no compute instance" in words for _, words in found.refused)


def test_without_dynamic_mig_a_gpu_in_mig_mode_offers_what_is_cut():
    both = gpus("h100x2")
    found = offered([cut(both[0], ("3g.40gb", 4), ("2g.20gb", 0)), both[1]], PLAIN)
    assert names(found) == ["gpu-0-mig-2g20gb-14-0", "gpu-0-mig-3g40gb-9-4", "gpu-1"]
    assert found.counter_sets == ()


def test_a_gpu_in_mig_mode_with_nothing_cut_is_told():
    found = offered([cut(gpus("h100x1")[0])], PLAIN)
    assert found.devices == ()
    assert "there are no instances" in found.refused[0][1]


def test_an_instance_of_a_profile_that_the_board_does_not_list_is_offered_without_amounts():
    gpu = cut(gpus("h100x1")[0], ("3g.40gb", 0))
    assert gpu.mig is not None
    odd = replace(gpu.mig.instances[0], profile_id=77, profile="3g.41gb")
    found = offered([replace(gpu, mig=replace(gpu.mig, instances=(odd,)))])
    assert device(found, "gpu-0-mig-3g41gb-77-0").capacity == {}
    assert all(each.placement is not None and each.placement.start >= 4 for each in found.devices if not each.instance)


# --- shares ---


def test_a_shared_gpu_takes_claims_in_steps_and_all_of_it_by_default():
    shared = device(offered(gpus("h100x1"), SHARED), "gpu-0")
    assert shared.shareable
    step = 256 * MIB
    assert shared.capacity["memory"] == Capacity(amount=81559 * MIB, step=step, least=step, default=318 * step)
    assert shared.capacity["cores"] == Capacity(amount=100, step=1, least=0, default=0)


@pytest.mark.parametrize("chosen", ["1", "uuid", "bus"])
def test_gpus_are_chosen_for_sharing_by_index_uuid_or_address(chosen: str):
    known = gpus("h100x3")
    name = {"1": "1", "uuid": known[1].uuid, "bus": known[1].pci_bus}[chosen]
    found = offered(known, Offer(shares=Shares(gpus=(name,))))
    assert [each.name for each in found.devices if each.shareable] == ["gpu-1"]


def test_a_name_of_no_gpu_is_told():
    found = offered(gpus("h100x1"), Offer(shares=Shares(gpus=("7",))))
    assert found.refused == (("7", "no GPU to share has this name; name an index, a UUID, a PCI bus id, or all."),)


def test_a_gpu_that_can_be_cut_is_shared_or_cut_and_never_both():
    shared = device(offered(gpus("h100x1"), replace(SHARED, dynamic_mig=True)), "gpu-0")
    assert shared.shareable
    assert shared.counters == counters.total(mig_of("h100"))


def test_a_gpu_that_is_cut_is_not_shared():
    gpu = cut(gpus("h100x1")[0], ("3g.40gb", 0))
    found = offered([gpu], Offer(dynamic_mig=True, shares=Shares(gpus=("0",))))
    assert not any(each.shareable for each in found.devices)
    assert ("gpu-0", "not shared: it is in MIG mode, and is not offered whole.") in found.refused


def test_a_gpu_that_does_not_tell_its_memory_is_not_shared():
    found = offered([replace(gpus("h100x1")[0], memory_bytes=None)], SHARED)
    assert not found.devices[0].shareable
    assert found.devices[0].capacity == {}
    assert "does not tell its memory" in found.refused[0][1]


def test_a_gpu_with_room_for_one_share_only_is_not_shared():
    gpu = replace(gpus("h100x1")[0], memory_bytes=511 * MIB)
    found = offered([gpu], SHARED)
    assert not found.devices[0].shareable
    assert found.refused == (("gpu-0", "not shared: it has less memory than two shares."),)
    assert offered([replace(gpu, memory_bytes=512 * MIB)], SHARED).devices[0].shareable


# --- what devices say ---


def test_a_whole_gpu_says_what_it_is():
    known = gpus("h100x8")
    found = said(offered(known), "gpu-3")
    assert found == {
        "type": "gpu",
        "uuid": known[3].uuid,
        "productName": "NVIDIA H100 80GB HBM3",
        "brand": known[3].brand,
        "architecture": "Hopper",
        "cudaComputeCapability": Version(text="9.0.0"),
        "driverVersion": Version(text="580.126.20"),
        "cudaDriverVersion": Version(text="13.0.0"),
        "addressingMode": "HMM",
        "ccMode": "off",
        "resource.kubernetes.io/pciBusID": known[3].pci_bus,
        "resource.kubernetes.io/pcieRoot": f"pci{known[3].pci_bus[:7]}",
        "resource.kubernetes.io/numaNode": 0,
        "index": 3,
        "minor": 3,
        "serial": known[3].serial,
        "gpuModuleID": 4,
        "migMode": "on-demand",
        "nvlinkDomain": "n1/nvlink-0",
        "nvlinkPeers": 7,
        "memoryEnforcement": "mps",
    }


def test_a_mig_device_says_what_it_is():
    known = gpus("h100x1")
    found = said(offered(known), "gpu-0-mig-3g40gb-9-4")
    assert {name: found[name] for name in ("type", "parentUUID", "profile", "placementStart", "memorySlices")} == {
        "type": "mig",
        "parentUUID": known[0].uuid,
        "profile": "3g.40gb",
        "placementStart": 4,
        "memorySlices": 4,
    }
    assert "uuid" not in found
    assert "nvlinkDomain" not in found


def test_gpus_of_one_rack_are_one_domain_whatever_their_node():
    found = {
        said(offered(gpus("gb200x4", node), node=node), f"gpu-{number}")["nvlinkDomain"]
        for node in ("n1", "n2")
        for number in range(4)
    }
    (domain,) = found
    cluster, _, clique = domain.rpartition(".")
    assert len(cluster) == 36
    assert clique == str(said(offered(gpus("gb200x4")), "gpu-0")["cliqueID"])


def test_the_place_in_a_rack_is_told():
    found = said(offered(gpus("gb200x4", "node-12"), node="node-12"), "gpu-0")
    assert (found["trayIndex"], found["slotNumber"]) == (12, 22)
    assert found["chassisSerial"]


def test_a_domain_inside_a_node_bears_its_name():
    domains = {said(offered(gpus("h100x8", node), node=node), "gpu-0")["nvlinkDomain"] for node in ("n1", "n2")}
    assert domains == {"n1/nvlink-0", "n2/nvlink-0"}


def test_a_fabric_that_is_not_finished_is_no_domain_of_several_nodes():
    gpu = gpus("gb200x1")[0]
    assert gpu.fabric is not None
    found = said(offered([replace(gpu, fabric=replace(gpu.fabric, state=FabricState.IN_PROGRESS))]), "gpu-0")
    assert found["nvlinkDomain"] == "n1/nvlink-0"
    assert "cliqueID" not in found


def test_pairs_of_gpus_are_domains_of_their_own():
    known = [
        replace(gpu, fabric=None, links={known.pci_bus: 12})
        for gpu, known in ((each, gpus("h100x4")[each.index ^ 1]) for each in gpus("h100x4"))
    ]
    found = offered(known, PLAIN)
    assert [said(found, f"gpu-{number}")["nvlinkDomain"] for number in range(4)] == [
        "n1/nvlink-0",
        "n1/nvlink-0",
        "n1/nvlink-2",
        "n1/nvlink-2",
    ]
    assert said(found, "gpu-0")["nvlinkPeers"] == 1


def test_a_gpu_without_nvlinks_has_no_domain():
    found = said(offered([replace(gpus("h100x1")[0], links={}, fabric=None)]), "gpu-0")
    assert "nvlinkDomain" not in found
    assert "nvlinkPeers" not in found


def test_domains_of_nodes_with_long_names_are_told_apart_and_fit():
    nodes = ["a" * 200 + end for end in ("1", "2")]
    domains = {said(offered(gpus("h100x1"), node=node), "gpu-0")["nvlinkDomain"] for node in nodes}
    assert len(domains) == 2
    assert all(len(domain) <= 64 for domain in domains)


@pytest.mark.parametrize(
    ("limits", "dmem", "offer", "expected"),
    [
        (True, True, PLAIN, "dmem"),
        (True, False, PLAIN, "mps"),
        (False, True, PLAIN, "mps"),
        (False, True, Offer(mps=False), "none"),
    ],
)
def test_the_strongest_enforcement_of_memory_is_told(limits: bool, dmem: bool, offer: Offer, expected: str):
    gpu = replace(gpus("h100x1")[0], memory_limits=limits)
    assert said(offered([gpu], offer, dmem=dmem), "gpu-0")["memoryEnforcement"] == expected


@pytest.mark.parametrize(
    ("version", "expected"),
    [("580.126.20", "580.126.20"), ("535.54.03", "535.54.3"), ("570.86", "570.86.0"), ("580.65.06-grid", "580.65.6")],
)
def test_versions_are_semantic(version: str, expected: str):
    assert semantic(version) == Version(text=expected)


def test_a_version_without_numbers_is_left_out():
    assert semantic("unknown") is None


def test_long_texts_are_cut_to_what_the_api_takes():
    found = said(offered([replace(gpus("h100x1")[0], product="é" * 40)]), "gpu-0")
    assert found["productName"] == "é" * 32


# --- taints, lost GPUs, numbers ---


def taint(key: str, effect: str = "NoSchedule", since_ms: int = 0) -> Taint:
    return Taint(key=key, value="", effect=effect, since_ms=since_ms)


def test_taints_are_put_on_gpus_instances_and_devices():
    known = gpus("h100x2")
    gpu = cut(known[0], ("3g.40gb", 0), ("3g.40gb", 4))
    taints = {gpu.uuid: (taint("a"),), "MIG-0-2": (taint("b"),), "gpu-1": (taint("c"),)}
    found = offered([gpu, known[1]], PLAIN, taints=taints)
    assert [[each.key for each in device.taints] for device in found.devices] == [["a"], ["a", "b"], ["c"]]


def test_a_taint_is_put_on_once_and_the_strongest_are_first():
    gpu = gpus("h100x1")[0]
    many = tuple(taint(f"k{number:02}", "None") for number in range(20))
    worse = (taint("x", since_ms=7), taint("y", "NoExecute"))
    found = offered([gpu], PLAIN, taints={gpu.uuid: (*many, *worse), "gpu-0": (taint("x", since_ms=3),)}).devices[0]
    assert len(found.taints) == 16
    assert found.taints[:2] == (taint("y", "NoExecute"), taint("x", since_ms=3))


def test_a_lost_gpu_is_offered_as_it_was_last_known():
    fake = FakeGpus("h100x2", node="n1")
    before = Memory().seen(fake.gpus(), fake.lost())
    fake.lose(fake.uuids[1])
    after = before.seen(fake.gpus(), fake.lost())
    assert offered(after.gpus, numbers=after.numbers) == offered(before.gpus, numbers=before.numbers)


def test_a_gpu_that_was_taken_out_is_forgotten():
    known = gpus("h100x2")
    assert Memory().seen(known, ()).seen(known[:1], ()).gpus == known[:1]


def test_a_gpu_keeps_its_names_when_its_minor_number_changes():
    fake = FakeGpus("h100x2", node="n1", moving_minors=True)
    before = Memory().seen(fake.gpus(), ())
    fake.set_mig(fake.uuids[0], True)
    after = before.seen(fake.gpus(), ())
    assert fake.gpus()[0].minor == 2
    found = offered(after.gpus, numbers=after.numbers)
    assert names(found) == names(offered(before.gpus, numbers=before.numbers))
    assert said(found, "gpu-0")["minor"] == 2


def test_a_new_gpu_does_not_take_the_name_of_another():
    known = gpus("h100x3")
    first = Memory().seen([replace(known[0], minor=1), known[1]], ())
    assert sorted(first.numbers.values()) == [1, 2]
    assert first.numbers[known[0].uuid] == 1


# --- for every board ---


@pytest.mark.parametrize("board", sorted(boards()))
def test_every_board_has_what_the_api_takes(board: str):
    found = offered(gpus(f"{board}x2"), Offer(dynamic_mig=True, shares=Shares()))
    assert len(set(names(found))) == len(found.devices)
    assert all(len(each.attributes) + len(each.capacity) <= 32 for each in found.devices)
    assert all(len(each.counters) <= 32 for each in found.counter_sets)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), board=st.sampled_from(CUT_BOARDS))
def test_what_the_counters_admit_can_be_made_and_what_can_be_made_is_admitted(data: st.DataObject, board: str):
    """Instances are drawn one after another, those that the counters admit and those that they do not."""
    fake = FakeGpus(f"{board}x1", node="n1")
    (uuid,) = fake.uuids
    fake.set_mig(uuid, True)
    if boards()[board].mig_needs_reset:
        fake.reset(uuid)
    found = offered(fake.gpus())
    parts = [each for each in found.devices if each.kind is Kind.MIG]
    left = Counter(found.counter_sets[0].counters)
    wanted = data.draw(st.lists(st.sampled_from(parts), max_size=12))
    for part in wanted:
        assert part.profile is not None
        assert part.placement is not None
        admitted = counters.fits(part.counters, left)
        try:
            fake.create_instance(uuid, part.profile.id, part.placement)
            made = True
        except GpuError:
            made = False
        assert made == admitted, (part.name, dict(left))
        if made:
            left.subtract(part.counters)


@pytest.mark.parametrize("board", CUT_BOARDS)
def test_any_two_placements_go_together_on_the_counters_when_they_do_on_the_board(board: str):
    """All pairs: overlaps, +me beside +me, +me.all beside what has engines."""
    fake = FakeGpus(f"{board}x1", node="n1")
    (uuid,) = fake.uuids
    fake.set_mig(uuid, True)
    if boards()[board].mig_needs_reset:
        fake.reset(uuid)
    found = offered(fake.gpus())
    left = found.counter_sets[0].counters
    for one, other in combinations([each for each in found.devices if each.kind is Kind.MIG], 2):
        assert one.profile is not None
        assert other.profile is not None
        assert one.placement is not None
        assert other.placement is not None
        instance = fake.create_instance(uuid, one.profile.id, one.placement)
        both = Counter(one.counters) + Counter(other.counters)
        try:
            fake.destroy_instance(fake.create_instance(uuid, other.profile.id, other.placement))
            made = True
        except GpuError:
            made = False
        assert made == counters.fits(both, left), (one.name, other.name)
        fake.destroy_instance(instance)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), board=st.sampled_from(CUT_BOARDS))
def test_beside_an_operators_instances_only_what_can_be_made_is_offered(data: st.DataObject, board: str):
    fake = FakeGpus(f"{board}x1", node="n1")
    (uuid,) = fake.uuids
    fake.set_mig(uuid, True)
    if boards()[board].mig_needs_reset:
        fake.reset(uuid)
    for each in data.draw(st.lists(st.sampled_from(counters.placements(mig_of(board))), max_size=5)):
        try:
            fake.create_instance(uuid, each[0].id, each[1])
        except GpuError:
            continue
    found = offered(fake.gpus())
    offered_parts = {(each.profile.id, each.placement) for each in found.devices if each.profile and each.counters}
    for profile, where in counters.placements(mig_of(board)):
        try:
            fake.destroy_instance(fake.create_instance(uuid, profile.id, where))
            made = True
        except GpuError:
            made = False
        assert made == ((profile.id, where) in offered_parts), (profile.name, where)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), machine=st.sampled_from(["h100x8", "gb200x4", "h100x2+a100x2+l40sx2"]))
def test_the_order_of_the_facts_makes_no_difference(seed: int, machine: str):
    known = list(gpus(machine))
    known[0] = cut(known[0], ("3g.40gb", 0), ("1g.10gb", 6)) if known[0].product.startswith("NVIDIA H100") else known[0]
    shuffled = list(known)
    random.Random(seed).shuffle(shuffled)
    assert offered(shuffled) == offered(known)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['board']}-{vector['profiles']}")
def test_what_is_known_to_fit_on_a_board_is_admitted_and_nothing_else(vector: dict[str, Any]):
    found = offered([replace(gpus(f"{vector['board']}x1")[0], mig=mig_of(vector["board"]))])
    profiles = [name for name, count in vector["profiles"].items() for _ in range(count)]
    assert _admits(found, profiles, dict(found.counter_sets[0].counters)) == vector["fits"]


def _admits(found: Inventory, profiles: list[str], left: dict[str, int]) -> bool:
    """Whether devices of these profiles can be taken together."""
    if not profiles:
        return True
    first, *others = profiles
    return any(
        _admits(found, others, {name: amount - each.counters.get(name, 0) for name, amount in left.items()})
        for each in found.devices
        if each.profile is not None and each.profile.name == first and counters.fits(each.counters, left)
    )
