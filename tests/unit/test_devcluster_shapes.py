"""The machines that can be simulated, as the objects a cluster sees of them."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.api import attributes as names
from scheduler.devcluster import kinds
from scheduler.devcluster.mig import A100_80GB, H100_80GB, LayoutError, every_instance, layout
from scheduler.devcluster.objects import Obj
from scheduler.devcluster.run import new_store
from scheduler.devcluster.shapes import (
    DEVICE_CLASSES,
    RACK_LABEL,
    SHAPES,
    Machine,
    ShapeError,
    owned_by,
    parse_counts,
)


def machines(name: str, count: int = 1, first: int = 0) -> list[Machine]:
    return list(SHAPES[name].machines(count, first))


def devices(machine: Machine, driver: str = names.GPU_DRIVER) -> list[Obj]:
    slices = [slice_["spec"] for slice_ in machine.slices if slice_["spec"]["driver"] == driver]
    return [device for spec in slices for device in spec.get("devices", ())]


def values(found: list[Obj], name: str) -> list[Any]:
    """The values of an attribute, None where a device lacks it."""
    return [next(iter(device["attributes"].get(name, {}).values()), None) for device in found]


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_the_api_server_accepts_every_machine(name: str):
    store = new_store()
    for machine in machines(name, 2):
        node = store.create(kinds.NODE, machine.node)
        for slice_ in machine.slices:
            stored = store.create(kinds.SLICE, owned_by(slice_, node))
            assert stored["metadata"]["ownerReferences"][0]["uid"] == node["metadata"]["uid"]
    for device_class in DEVICE_CLASSES:
        store.create(kinds.DEVICE_CLASS, device_class)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_the_same_shape_is_the_same_machine_every_time_and_no_two_are_alike(name: str):
    assert machines(name, 2) == machines(name, 2)
    assert machines(name, 1, first=1) == machines(name, 2)[len(machines(name)) :]
    uuids = [uuid for machine in machines(name, 3) for uuid in values(devices(machine), names.UUID) if uuid]
    assert len(uuids) == len(set(uuids))


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_every_pool_is_complete_and_its_devices_have_names_of_their_own(name: str):
    for machine in machines(name):
        pools: dict[str, list[Obj]] = {}
        for slice_ in machine.slices:
            pools.setdefault(slice_["spec"]["driver"], []).append(slice_["spec"])
            assert slice_["spec"]["nodeName"] == slice_["spec"]["pool"]["name"] == machine.name
        for slices in pools.values():
            assert {spec["pool"]["resourceSliceCount"] for spec in slices} == {len(slices)}
            found = [device["name"] for spec in slices for device in spec.get("devices", ())]
            assert len(found) == len(set(found))


def test_an_h100_has_the_attributes_of_nvidias_driver_and_ours():
    gpu = devices(machines("h100x8")[0])[3]
    assert gpu["name"] == "gpu-3"
    attributes = gpu["attributes"]
    assert attributes["type"] == {"string": "gpu"}
    assert attributes["productName"] == {"string": "NVIDIA H100 80GB HBM3"}
    assert attributes["architecture"] == {"string": "Hopper"}
    assert attributes["cudaComputeCapability"] == {"version": "9.0.0"}
    assert attributes["index"] == attributes["minor"] == {"int": 3}
    assert attributes["uuid"]["string"].startswith("GPU-")
    assert attributes["resource.kubernetes.io/pcieRoot"]["string"].startswith("pci0000:")
    assert attributes["resource.kubernetes.io/numaNode"] == {"int": 0}
    assert gpu["capacity"] == {"memory": {"value": "81559Mi"}}


def test_the_gpus_of_an_hgx_node_are_one_nvlink_domain_and_no_other_nodes():
    one, two = machines("h100x8", 2)
    first, second = (set(values(devices(machine), names.NVLINK_DOMAIN)) for machine in (one, two))
    assert len(devices(one)) == 8
    assert len(first) == len(second) == 1
    assert first.isdisjoint(second)


def test_the_gpus_of_an_nvl72_rack_are_one_nvlink_domain_across_its_eighteen_nodes():
    racks = machines("gb200-nvl72", 2)
    assert len(racks) == 36
    domains = [set(values(devices(machine), names.NVLINK_DOMAIN)) for machine in racks]
    assert all(domain == domains[0] for domain in domains[:18])
    assert all(domain == domains[18] for domain in domains[18:])
    assert domains[0] != domains[18]
    assert sum(len(devices(machine)) for machine in racks[:18]) == 72
    labels = racks[0].node["metadata"]["labels"]
    assert {labels[names.CLIQUE_LABEL]} == domains[0]
    assert len({machine.node["metadata"]["labels"][RACK_LABEL] for machine in racks}) == 2


def test_each_network_card_shares_its_pcie_root_with_one_gpu():
    [machine] = machines("h100x8-nic")
    cards, gpus = devices(machine, "dra.net"), devices(machine)
    assert values(cards, names.PCIE_ROOT) == values(gpus, names.PCIE_ROOT)
    assert len(set(values(gpus, names.PCIE_ROOT))) == 8
    assert set(values(cards, names.PCI_BUS_ID)).isdisjoint(values(gpus, names.PCI_BUS_ID))


def test_sliced_a100s_offer_instances_instead_of_themselves():
    found = devices(machines("a100-mig")[0])
    assert values(found, "type") == ["gpu"] * 4 + ["mig"] * 16
    sliced = [device for device in found if device["name"].startswith("gpu-4")]
    assert sorted(values(sliced, "profile")) == ["1g.10gb", "1g.10gb", "2g.20gb", "3g.40gb"]
    assert len(set(values(sliced, "parentUUID"))) == 1
    assert values(found, "parentUUID")[:4] == [None] * 4
    assert len(set(values(found, names.UUID))) == 20
    assert sliced[0]["capacity"]["memory"] == {"value": "9856Mi"}


def test_gpus_that_can_be_cut_on_demand_share_counters_with_their_instances():
    [machine] = machines("h100x8-mig")
    counters, first, *_ = (slice_["spec"] for slice_ in machine.slices)
    assert len(machine.slices) == 9
    assert [entry["name"] for entry in counters["sharedCounters"]] == [f"gpu-{at}-counter-set" for at in range(8)]
    assert len(first["devices"]) == 26
    whole, *instances = first["devices"]
    [consumed] = whole["consumesCounters"]
    assert consumed["counters"] == counters["sharedCounters"][0]["counters"]
    large = next(device for device in instances if device["name"] == "gpu-0-mig-3g40gb-9-4")
    [consumed] = large["consumesCounters"]
    assert sorted(consumed["counters"]) == [f"memory-slice-{at}" for at in (4, 5, 6, 7)]
    assert names.UUID not in large["attributes"]


def test_a_device_plugin_node_counts_its_gpus_and_publishes_none():
    [machine] = machines("t4-plugin")
    assert machine.node["status"]["allocatable"]["nvidia.com/gpu"] == "4"
    assert machine.slices == ()
    assert "nvidia.com/gpu" not in machines("t4")[0].node["status"]["allocatable"]
    assert values(devices(machines("t4")[0]), names.NVLINK_DOMAIN) == [None] * 4


def test_a_node_bears_the_labels_of_gpu_feature_discovery_and_of_its_place():
    labels = machines("h100x8", 5)[4].node["metadata"]["labels"]
    assert labels["kubernetes.io/hostname"] == "h100x8-004"
    assert labels["nvidia.com/gpu.product"] == "NVIDIA-H100-80GB-HBM3"
    assert (labels["nvidia.com/gpu.count"], labels["nvidia.com/gpu.memory"]) == ("8", "81559")
    assert (labels[names.ZONE_LABEL], labels[RACK_LABEL]) == ("zone-1", "h100x8-rack-01")
    assert names.CLIQUE_LABEL not in labels
    assert not any(name.startswith("nvidia.com/") for name in machines("cpu")[0].node["metadata"]["labels"])


# --- MIG ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profiles", [A100_80GB, H100_80GB])
def test_instances_of_a_layout_do_not_overlap(profiles: Any):
    placed = layout(profiles, ("1g.10gb", "3g.40gb", "2g.20gb", "1g.10gb"))
    slices = [at for instance in placed for at in instance.range]
    assert len(slices) == len(set(slices)) == 8
    assert sorted(instance.profile.name for instance in placed) == ["1g.10gb", "1g.10gb", "2g.20gb", "3g.40gb"]
    assert len(every_instance(profiles)) == 25


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (("3g.40gb", "3g.40gb", "1g.10gb"), "does not fit into 8 memory slices"),
        (("4g.40gb", "4g.40gb"), "does not fit"),
        (("1g.10gb+me", "1g.10gb+me"), r"only one \+me instance"),
        (("3g.71gb",), "this board does not have it; choose from 1g.10gb"),
    ],
)
def test_a_layout_no_board_can_have_is_refused(wanted: tuple[str, ...], text: str):
    with pytest.raises(LayoutError, match=text):
        layout(A100_80GB, wanted)


# --- the command line ---------------------------------------------------------------------------------------------


def test_shapes_are_counted_on_the_command_line():
    assert parse_counts(["h100x8=4", "cpu", "cpu=2"]) == {"h100x8": 4, "cpu": 3}


@pytest.mark.parametrize("text", ["h100x8=many", "h100x8=", "h100x8=-1", "h300=1"])
def test_what_is_no_shape_or_count_is_refused(text: str):
    with pytest.raises(ShapeError, match=text.partition("=")[0]):
        parse_counts([text])
