"""What an operator's MIG configs make of each GPU: mig-parted's format, strictly read, and places that fit."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dra_driver import counters
from dra_driver.boards import boards
from dra_driver.facts import Gpu
from dra_driver.fake import FakeGpus
from dra_driver.layouts import Layout, LayoutRefused, Part, configs, layouts, placed
from tests.node.offers import cut, gpus, mig_of

VECTORS = json.loads(Path(__file__).with_name("mig_vectors.json").read_text())["vectors"]
CUTTABLE = sorted(name for name, board in boards().items() if board.profiles)
FILE = "configs.yaml"

# As mig-parted's own default file has them, some of each kind.
DEFAULT = """
version: v1
mig-configs:
  all-disabled:
    - devices: all
      mig-enabled: false
  all-enabled:
    - devices: all
      mig-enabled: true
      mig-devices: {}
  all-1g.10gb:
    - device-filter: ["0x20B010DE", "0x20B110DE"]
      devices: all
      mig-enabled: true
      mig-devices:
        "1g.10gb": 4
    - device-filter: ["0x20B210DE", "0x233010DE"]
      devices: all
      mig-enabled: true
      mig-devices:
        "1g.10gb": 7
  all-balanced:
    - device-filter: 0x20B010DE
      devices: all
      mig-enabled: true
      mig-devices: {"1g.5gb": 2, "2g.10gb": 1, "3g.20gb": 1}
    - device-filter: "0x233010DE"
      devices: all
      mig-enabled: true
      mig-devices: {"1g.10gb": 2, "2g.20gb": 1, "3g.40gb": 1}
  custom:
    - devices: [0]
      mig-enabled: false
    - devices: [1, 2]
      mig-enabled: true
      mig-devices: {"3g.40gb": 1, "1g.10gb": 4}
"""


def entry(**fields: Any) -> dict[str, Any]:
    """An entry for all GPUs that wants seven parts, with these fields for its own; None takes one away."""
    whole = {"devices": "all", "mig-enabled": True, "mig-devices": {"1g.10gb": 7}}
    changed = {**whole, **{name.replace("_", "-"): value for name, value in fields.items()}}
    return {name: value for name, value in changed.items() if value is not None}


def file(*entries: object, **more: object) -> str:
    return yaml.safe_dump({"version": "v1", "mig-configs": {"c": list(entries)}, **more}, sort_keys=False)


def made(text: str, name: str, known: tuple[Gpu, ...]) -> dict[int, str | list[str]]:
    """By index of the GPU: "off", or the instances it is to have."""
    wanted = layouts(configs(text, FILE), name, known, FILE)
    return {gpu.index: shown(wanted[gpu.uuid]) for gpu in known if gpu.uuid in wanted}


def shown(layout: Layout) -> str | list[str]:
    return [f"{profile.name}@{where.start}" for profile, where in layout.parts] if layout.enabled else "off"


def refusal(text: str, name: str = "c", machine: str = "h100x1") -> str:
    with pytest.raises(LayoutRefused) as refused:
        layouts(configs(text, FILE), name, gpus(machine), FILE)
    return str(refused.value)


# --- what a file means ---


def test_a_config_says_for_each_board_and_gpu_what_it_is_to_be():
    mixed = gpus("h100x2+a100-40x1+t4x1")
    assert made(DEFAULT, "all-disabled", mixed) == {0: "off", 1: "off", 2: "off"}
    assert made(DEFAULT, "all-enabled", mixed) == {0: [], 1: [], 2: []}
    h100 = ["1g.10gb@0", "1g.10gb@1", "2g.20gb@2", "3g.40gb@4"]
    a100 = ["1g.5gb@0", "1g.5gb@1", "2g.10gb@2", "3g.20gb@4"]
    assert made(DEFAULT, "all-balanced", mixed) == {0: h100, 1: h100, 2: a100}
    seven = [f"1g.10gb@{start}" for start in range(7)]
    assert made(DEFAULT, "all-1g.10gb", mixed) == {
        0: seven,
        1: seven,
        2: ["1g.10gb@0", "1g.10gb@2", "1g.10gb@4", "1g.10gb@6"],
    }


def test_gpus_that_no_entry_is_for_stay_as_they_are():
    assert made(DEFAULT, "custom", gpus("h100x4")) == {
        0: "off",
        1: [*(f"1g.10gb@{start}" for start in range(4)), "3g.40gb@4"],
        2: [*(f"1g.10gb@{start}" for start in range(4)), "3g.40gb@4"],
    }


def test_a_gpu_without_mig_is_passed_over_where_all_are_meant_and_refused_where_it_is_named():
    assert made(file(entry()), "c", gpus("t4x1+h100x1")).keys() == {1}
    assert made(file(entry(devices=[0], mig_enabled=False, mig_devices=None)), "c", gpus("t4x1")) == {}
    assert refusal(file(entry(devices=[0])), machine="t4x1") == (
        "MIG config c in configs.yaml: GPU 0 (Tesla T4) cannot be cut into MIG instances; leave it out of devices."
    )


def test_a_filter_may_name_the_boards_subsystem():
    plain, other = gpus("h100x2")
    marked = replace(plain, pci_subsystem="0x16C110DE")
    text = file(entry(device_filter=["0x233010de:0x16c110de"]))
    assert made(text, "c", (marked, other)).keys() == {0}
    assert made(file(entry(device_filter="0x233010DE")), "c", (marked, other)).keys() == {0, 1}


def test_instances_that_are_there_stay_where_they_are():
    (bare,) = gpus("h100x1")
    known = cut(bare, ("3g.40gb", 0), ("1g.10gb", 5))
    wants = file(entry(mig_devices={"1g.10gb": 1, "3g.40gb": 1}))
    assert made(wants, "c", (known,)) == {0: ["3g.40gb@0", "1g.10gb@5"]}
    assert made(wants, "c", (cut(bare, ("3g.40gb", 0), ("1g.10gb", 5), usable=False),)) == {
        0: ["1g.10gb@3", "3g.40gb@4"]
    }


def test_two_entries_that_want_the_same_of_a_gpu_are_one():
    other = entry(devices=[0], mig_devices={"1g.10gb": 7, "2g.20gb": 0})
    assert made(file(entry(), other), "c", gpus("h100x1")) == {0: [f"1g.10gb@{start}" for start in range(7)]}


# --- what fits ---


def test_the_same_instances_fit_as_on_hardware():
    assert len(VECTORS) == 31
    for vector in VECTORS:
        fits = placed(mig_of(vector["board"]), vector["profiles"]) is not None
        assert fits is vector["fits"], vector


@given(board=st.sampled_from(CUTTABLE), data=st.data())
def test_whatever_somebody_could_cut_is_found_again_by_its_counts_and_can_be_made(board: str, data: st.DataObject):
    machine = FakeGpus(f"{board}x1")
    (gpu,) = machine.gpus()
    assert gpu.mig is not None
    free, taken = dict(counters.total(gpu.mig)), Counter[str]()
    for profile, where in data.draw(st.permutations(counters.placements(gpu.mig))):
        drawn = counters.drawn(gpu.mig, profile, where)
        if counters.fits(drawn, free) and data.draw(st.booleans()):
            free = {name: amount - drawn.get(name, 0) for name, amount in free.items()}
            taken[profile.name] += 1

    found = placed(gpu.mig, taken)

    assert found is not None
    assert Counter(profile.name for profile, _ in found) == taken
    if not gpu.mig.on_demand:
        machine.set_mig(gpu.uuid, True)
        machine.reset(gpu.uuid)
    machine.set_mig(gpu.uuid, True)
    for profile, where in found:
        machine.create_instance(gpu.uuid, profile.id, where)


def test_places_do_not_follow_from_the_order_in_the_file():
    mig = mig_of("h100")
    wanted = {"1g.10gb": 2, "2g.20gb": 1, "3g.40gb": 1}
    assert placed(mig, wanted) == placed(mig, dict(reversed(wanted.items())))


def test_a_large_instance_gives_way_to_more_small_ones():
    """With 3g at slice 0 only three of 1g would fit beside it."""
    assert starts(placed(mig_of("h100"), {"3g.40gb": 1, "1g.10gb": 4})) == [0, 1, 2, 3, 4]
    assert starts(placed(mig_of("h100"), {"4g.40gb": 1, "1g.10gb": 3})) == [0, 4, 5, 6]


def starts(parts: tuple[Part, ...] | None) -> list[int]:
    assert parts is not None
    return [where.start for _, where in parts]


def test_counts_that_do_not_fit_are_told_with_what_does():
    assert refusal(file(entry(mig_devices={"3g.40gb": 2, "1g.10gb": 1}))) == (
        "MIG config c in configs.yaml: 2 x 3g.40gb + 1 x 1g.10gb do not fit together on GPU 0 (NVIDIA H100 80GB HBM3), "
        "which holds 2 x 3g.40gb, 7 x 1g.10gb at most, each alone; take fewer."
    )
    assert "do not fit together" in refusal(file(entry(mig_devices={"1g.10gb": 1_000_000_000})))


# --- what is refused ---


def test_a_config_that_is_not_in_the_file_is_told_with_those_that_are():
    assert refusal(DEFAULT, "all-4g.40gb") == (
        "MIG config all-4g.40gb: is not in configs.yaml; take one of all-1g.10gb, all-balanced, all-disabled, "
        "all-enabled, custom, or add it there."
    )


def test_a_profile_that_the_board_lacks_is_told_with_those_it_has():
    words = refusal(file(entry(mig_devices={"1g.10gb": 1, "3g.20gb": 1})))
    assert words.startswith(
        "MIG config c in configs.yaml: GPU 0 (NVIDIA H100 80GB HBM3) has no profile 3g.20gb; it has 1g.10gb, "
    )
    assert "device-filter" in words


def test_a_config_that_is_for_none_of_the_nodes_gpus_is_no_success():
    assert refusal(file(entry(device_filter="0x20B010DE"))) == (
        "MIG config c in configs.yaml: is for no GPU of this node, which has NVIDIA H100 80GB HBM3 (0x233010DE); widen "
        "device-filter or devices."
    )


def test_two_entries_that_want_different_things_of_one_gpu_are_refused():
    words = refusal(file(entry(), entry(devices=[0], mig_enabled=False, mig_devices=None)))
    assert words == "MIG config c in configs.yaml: two entries want different things of GPU 0; let one be for it."


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "configs.yaml: holds no configs"),
        ("- a", "configs.yaml: holds no configs"),
        ("version: v1\nmig-configs: {a: [", "configs.yaml, line 2: is no valid YAML"),
        ("version: v1\nversion: v1", "configs.yaml, line 2: is no valid YAML (version comes twice)"),
        ("version: v1\nmig-configs:\n  a: {}\n  a: {}", "configs.yaml, line 4: is no valid YAML (a comes twice)"),
        ("[" * 100_000, "configs.yaml"),
        ("mig-configs: {}", "has version None"),
        ("version: v2\nmig-configs: {}", "has version 'v2', and only v1 is known"),
        ("version: v1", "mig-configs is no map"),
        ("version: v1\nmig-configs: {}", "give one config at least"),
        ("version: v1\nmig-configs: {c: []}", "MIG config c in configs.yaml: is no list of entries"),
        ("version: v1\nmig-configs: {c: {devices: all}}", "MIG config c in configs.yaml: is no list of entries"),
        (file(entry(), mig_parted={}), "there is no field mig_parted"),
        (file("all"), "MIG config c in configs.yaml, entry 1: is no map"),
        (file(entry(), entry(devices=None)), "entry 2: devices is missing"),
        (file(entry(mig_enabled=None)), "entry 1: mig-enabled is missing"),
        (file(entry(mig_devices=None)), "mig-devices is missing; write {}"),
        (file(entry(mig_enabled="yes")), "mig-enabled is 'yes'"),
        (file(entry(mig_enabled=False)), "has mig-devices although mig-enabled is false"),
        (file(entry(mig_device={})), "there is no field mig-device;"),
        (file(entry(devices="0")), "devices is '0'"),
        (file(entry(devices=[0, -1])), "devices is [0, -1]"),
        (file(entry(devices=[True])), "devices is [True]"),
        (file(entry(device_filter="H100")), "device-filter 'H100' is no PCI id"),
        (file(entry(device_filter=["0x233010DE", 7.5])), "device-filter 7.5 is no PCI id"),
        (file(entry(mig_devices=["1g.10gb"])), "mig-devices is ['1g.10gb']"),
        (file(entry(mig_devices={"1g10gb": 1})), "'1g10gb' is no MIG profile"),
        (file(entry(mig_devices={1: 1})), "1 is no MIG profile"),
        (file(entry(mig_devices={"1c.3g.40gb": 1})), "which is not made here; take 3g.40gb"),
        (file(entry(mig_devices={"1g.10gb": "7"})), "1g.10gb has count '7'"),
        (file(entry(mig_devices={"1g.10gb": -1})), "1g.10gb has count -1"),
        (file(entry(mig_devices={"1g.10gb": True})), "1g.10gb has count True"),
    ],
)
def test_nothing_of_a_file_that_is_not_understood_is_used(text: str, words: str):
    assert words in refusal(text)
