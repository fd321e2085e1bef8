"""What claims cost their queue: thousandths of a GPU, and devices per class."""

import pytest

from queues.resources import Resources
from scheduler.api import dra
from scheduler.dra.accounting import charge, estimate, weight
from scheduler.dra.allocate import Allocated
from scheduler.dra.pools import Inventory
from scheduler.model.workloads import Claim
from tests.published import (
    DRIVER,
    PARENT,
    ask,
    claim,
    device,
    exact,
    first_of,
    gpu,
    inventory,
    mig_node,
    node,
    profile,
    request,
    slice_of,
)

EIGHT = slice_of("n1", *(gpu(i) for i in range(8)))
MIG = "mig.nvidia.com"


def cost(found: Inventory, asked: Claim) -> tuple[Resources, Resources]:
    """Before and after devices are known."""
    answer = ask(found, asked)
    assert isinstance(answer, Allocated), answer
    return estimate(asked, found), charge(asked.spec, answer.allocations[0], found)


def of(gpu: int, **classes: int) -> Resources:
    names = {"gpus": f"deviceclass/{DRIVER}", "mig": f"deviceclass/{MIG}", "any": "deviceclass/any"}
    return Resources({"gpu": gpu, **{names[name]: amount for name, amount in classes.items()}})


def test_whole_gpus_count_one_each():
    before, after = cost(inventory(EIGHT), claim("c", request("r", count=3)))
    assert before == after == of(3000, gpus=3000)


def test_mig_slices_count_their_compute_slices_of_seven():
    pair = claim("c", request("a", profile("3g.40gb"), of=MIG), request("b", profile("1g.10gb"), of=MIG), match=PARENT)
    before, after = cost(inventory(*mig_node()), pair)
    assert before == after == of(428 + 142, mig=2000)


def test_seven_small_slices_never_cost_more_than_the_board():
    seven = claim("c", *(request(f"r{n}", profile("1g.10gb"), of=MIG) for n in range(7)))
    _, after = cost(inventory(*mig_node()), seven)
    assert after["gpu"] <= 1000


def test_admin_access_costs_nothing():
    before, after = cost(inventory(EIGHT), claim("c", request("r", count=2, admin=True), admin=True))
    assert before == after == Resources()


def test_what_is_no_accelerator_costs_no_gpu():
    found = inventory(slice_of("n1", device("nic-0"), driver="nic.example.com"))
    before, after = cost(found, claim("c", request("r", of="nic")))
    assert before == after == Resources({"deviceclass/nic": 1000})


def test_a_share_counts_its_part_of_the_memory():
    shared = device("gpu-0", {"type": "gpu"}, capacity={"memory": "80Gi", "cores": "100"}, shared=True)
    asked = claim("c", request("r", capacity={"memory": "10Gi", "cores": "50"}))
    before, after = cost(inventory(slice_of("n1", shared)), asked)
    assert before == after == of(125, gpus=125)


def test_a_share_that_takes_nothing_counts_as_the_whole():
    free = dra.CapacityRequestPolicy(default="0")
    shared = device("gpu-0", {"type": "gpu"}, capacity={"memory": "80Gi"}, shared=True, policy=free)
    before, after = cost(inventory(slice_of("n1", shared)), claim("c"))
    assert before == after == of(1000, gpus=1000)


def test_all_devices_are_estimated_by_the_smallest_node():
    found = inventory(EIGHT, slice_of("n2", *(gpu(i, node="n2") for i in range(4))))
    assert estimate(claim("c", request("r", every=True)), found) == of(4000, gpus=4000)


def test_alternatives_are_estimated_by_the_cheapest_that_exists():
    asked = claim("c", first_of("r", none=exact(of="nic"), two=exact(count=2), slice=exact(of=MIG)))
    assert estimate(asked, inventory(EIGHT)) == of(2000, gpus=2000)
    assert estimate(asked, inventory(EIGHT, *mig_node("n2"))) == of(142, mig=1000)


def test_devices_that_do_not_exist_yet_are_estimated_by_their_class():
    nothing = inventory()
    assert estimate(claim("c", request("r", count=2)), nothing) == of(2000, gpus=2000)
    assert estimate(claim("c", request("r", of=MIG)), nothing) == of(142, mig=1000)
    assert estimate(claim("c", request("r", of="any")), nothing) == of(0, any=1000)


def test_a_claim_that_cannot_be_decided_costs_nothing():
    assert estimate(claim("c", request("r", of="unknown")), inventory(EIGHT)) == Resources()


def test_devices_that_are_gone_cost_what_their_names_tell():
    results = (("gpu-1", DRIVER), ("gpu-0-mig-3g40gb-9-4", DRIVER), ("nic-0", "nic.example.com"))
    allocation = dra.AllocationResult(
        devices=dra.DeviceAllocationResult(
            results=tuple(
                dra.DeviceRequestAllocationResult(request="r", driver=driver, pool="gone", device=name)
                for name, driver in results
            )
        )
    )
    assert charge(claim("c", request("r", of="any")).spec, allocation, inventory()) == of(1428, any=3000)


@pytest.mark.parametrize(
    ("driver", "attributes", "worth"),
    [
        (DRIVER, {"type": "gpu"}, 1000),
        (DRIVER, {"type": "vfio"}, 1000),
        (DRIVER, {"type": "future"}, 0),
        (DRIVER, {"type": "mig", "profile": "1g.6gb", "productName": "NVIDIA A30"}, 250),
        (DRIVER, {"type": "mig", "profile": "1g.10gb+me"}, 142),
        ("gpu.tutti.example", {f"{DRIVER}/type": "gpu"}, 1000),
        ("compute-domain.nvidia.com", {"type": "channel"}, 0),
        ("tpu.google.com", {"tpuGen": "v5e"}, 1000),
        ("gpu.amd.com", {"type": "amdgpu"}, 1000),
        ("gpu.intel.com", {}, 1000),
        ("dra.net", {}, 0),
    ],
)
def test_what_a_device_is_worth(driver: str, attributes: dict[str, str], worth: int):
    found = inventory(slice_of("n1", device("d", attributes), driver=driver))
    assert weight(found.devices_on(node("n1"))[0], found) == worth


def test_partitions_of_other_makers_count_one_part_of_their_parent():
    parts = [device(f"p{n}", {"type": "amdgpu-partition", "parentDeviceID": f"gpu-{n // 4}"}) for n in range(8)]
    found = inventory(slice_of("n1", *parts, driver="gpu.amd.com"))
    assert {weight(d, found) for d in found.devices_on(node("n1"))} == {250}


def test_what_was_charged_before_does_not_outlive_what_it_depended_on():
    """The allocation is the same object each time; what it asks for and what its device is change in between."""
    whole, asked = inventory(EIGHT), claim("c", request("r"))
    answer = ask(whole, asked)
    assert isinstance(answer, Allocated), answer
    given = answer.allocations[0]
    name = given.devices.results[0].device
    part = inventory(slice_of("n1", device(name, {"type": "mig", "profile": "3g.40gb"})))
    elsewhere = inventory(slice_of("n2", gpu(0)))
    other = claim("c", request("r", of=MIG)).spec
    for _ in range(2):
        assert charge(asked.spec, given, whole) == of(1000, gpus=1000)
        assert charge(asked.spec, given, part) == of(428, gpus=1000)
        assert charge(other, given, whole) == of(1000, mig=1000)
        assert charge(asked.spec, given, elsewhere) == of(1000, gpus=1000)
        assert charge(asked.spec, given, inventory(EIGHT)) == of(1000, gpus=1000)
