"""What devices amount to in a unit that a queue names."""

import msgspec
import pytest

from queues.measures import Measure, measure
from queues.tree import Queue, QueueResource
from scheduler.api import dra
from scheduler.dra import accounting
from scheduler.dra.allocate import Allocated
from scheduler.dra.devices import DeviceId
from scheduler.dra.measures import Measures, of_queues
from scheduler.dra.pools import Inventory
from scheduler.model.workloads import Claim
from tests.published import (
    CLASSES,
    DRIVER,
    ask,
    claim,
    device,
    exact,
    first_of,
    gpu,
    inventory,
    mig_node,
    profile,
    request,
    slice_of,
)

MIG = "mig.nvidia.com"
GIB = 1 << 30


def measures(*names: str) -> Measures:
    rules = {name: QueueResource() for name in names}
    return of_queues(
        [Queue(name="a", resources={**rules, "gpu": QueueResource(), f"deviceclass/{MIG}": QueueResource()})]
    )


def cost(found: Inventory, asked: Claim, name: str) -> tuple[int, int]:
    """Before and after devices are known."""
    by = measures(name)
    answer = ask(found, asked)
    assert isinstance(answer, Allocated), answer
    after = accounting.charge(asked.spec, answer.allocations[0], found, by)
    return accounting.estimate(asked, found, by)[name], after[name]


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("memory.deviceclass/a", ("memory", False, "a")),
        ("memory-slice.counters.deviceclass/a.b", ("memory-slice", True, "a.b")),
        ("counters.deviceclass/a", ("counters", False, "a")),
        ("deviceclass/memory.deviceclass/a", None),
        ("deviceclass/a", None),
        ("memory.counter.deviceclass/a", None),
        ("memory.deviceclass/", None),
        ("gpu", None),
    ],
)
def test_the_name_of_a_resource_says_what_is_measured(name: str, of: tuple[str, bool, str] | None) -> None:
    expected = of and Measure(resource=name, amount=of[0], counters=of[1], device_class=of[2])
    assert measure(name) == expected


@pytest.mark.parametrize("size", ["1g.10gb", "3g.40gb", "7g.80gb"])
def test_a_partition_amounts_to_its_memory_and_to_the_slices_that_it_draws(size: str) -> None:
    found, asked = inventory(*mig_node()), claim("c", request("r", profile(size), of=MIG))
    slices = {"1g.10gb": 1, "3g.40gb": 4, "7g.80gb": 8}[size]
    assert cost(found, asked, f"memory-slice.counters.deviceclass/{MIG}") == (slices, slices)
    assert cost(found, asked, f"memory.deviceclass/{MIG}") == (slices * 10 * GIB, slices * 10 * GIB)
    assert cost(found, asked, f"memory-slice-7.counters.deviceclass/{MIG}")[1] == int(size != "1g.10gb")


def test_what_is_measured_of_another_class_or_by_another_name_is_nothing() -> None:
    found, asked = inventory(*mig_node()), claim("c", request("r", profile("3g.40gb"), of=MIG))
    for name in (f"memory.deviceclass/{DRIVER}", f"memory.counters.deviceclass/{MIG}", f"slice.deviceclass/{MIG}"):
        assert cost(found, asked, name) == (0, 0)


def test_a_share_amounts_to_what_it_takes_and_to_its_part_of_the_counters() -> None:
    shared = device(
        "gpu-0",
        {"type": "gpu"},
        capacity={f"{DRIVER}/memory": "80Gi", "cores": "101"},
        shared=True,
        consumes={"board-0": {"memory-slice-0": 8}},
    )
    sets = slice_of(
        "n1", of=2, sets=(dra.CounterSet(name="board-0", counters={"memory-slice-0": dra.Counter(value=8)}),)
    )
    found = inventory(slice_of("n1", shared, of=2), sets)
    asked = claim("c", request("r", capacity={f"{DRIVER}/memory": "10Gi", "cores": "50500m"}))
    assert cost(found, asked, f"memory.deviceclass/{DRIVER}") == (10 * GIB, 10 * GIB)
    assert cost(found, asked, f"cores.deviceclass/{DRIVER}") == (51, 51), "rounded up"
    assert cost(found, asked, f"memory-slice.counters.deviceclass/{DRIVER}") == (4, 4), "by the largest part"


def test_admin_access_amounts_to_nothing() -> None:
    asked = claim("c", request("r", count=2, admin=True), admin=True)
    found = inventory(slice_of("n1", *(gpu(i) for i in range(8))))
    assert cost(found, asked, f"memory.deviceclass/{DRIVER}") == (0, 0)


def test_an_estimate_is_the_least_of_each_by_itself() -> None:
    """The device with the least memory is not the one with the fewest cores."""
    parts = [device(f"d{n}", capacity={"memory": m, "cores": c}) for n, (m, c) in enumerate([("4", "9"), ("7", "2")])]
    found = inventory(slice_of("n1", *parts, driver="nic.example.com"))
    two = claim("c", request("r", of="nic", count=2))
    by = measures("memory.deviceclass/nic", "cores.deviceclass/nic")
    least = accounting.estimate(two, found, by)
    assert (least["memory.deviceclass/nic"], least["cores.deviceclass/nic"]) == (8, 4)
    everything = accounting.estimate(claim("c", request("r", of="nic", every=True)), found, by)
    assert (everything["memory.deviceclass/nic"], everything["cores.deviceclass/nic"]) == (11, 11)


def test_of_alternatives_the_one_that_was_chosen_is_measured() -> None:
    found = inventory(*mig_node())
    asked = claim("c", first_of("r", none=exact(count=2), half=exact(profile("3g.40gb"), of=MIG)))
    assert cost(found, asked, f"memory.deviceclass/{MIG}") == (40 * GIB, 40 * GIB)
    assert cost(found, asked, f"memory.deviceclass/{DRIVER}") == (0, 0)


def test_what_was_charged_by_other_measures_is_not_taken_for_these() -> None:
    found, asked = inventory(*mig_node()), claim("c", request("r", profile("3g.40gb"), of=MIG))
    answer = ask(found, asked)
    assert isinstance(answer, Allocated), answer
    memory, slices = f"memory.deviceclass/{MIG}", f"memory-slice.counters.deviceclass/{MIG}"
    for _ in range(2):
        for names in ((), (memory,), (slices,), (memory, slices)):
            by = measures(*names)
            for charged in (
                accounting.charge(asked.spec, answer.allocations[0], found, by),
                accounting.estimate(asked, found, by),
            ):
                assert [name for name in charged if measure(name)] == sorted(names)
                assert charged["gpu"] == 428


def test_a_device_that_is_gone_amounts_to_nothing() -> None:
    found, asked = inventory(*mig_node()), claim("c", request("r", profile("3g.40gb"), of=MIG))
    answer = ask(found, asked)
    assert isinstance(answer, Allocated), answer
    gone = accounting.charge(asked.spec, answer.allocations[0], inventory(), measures(f"memory.deviceclass/{MIG}"))
    assert list(gone) == [f"deviceclass/{MIG}", "gpu"]


@pytest.mark.parametrize("everything", [True, False], ids=["with its pool", "by itself"])
def test_a_device_that_its_driver_has_withdrawn_costs_what_it_did(everything: bool) -> None:
    """Known is what it was; also where that is told only after the claim has been charged without it."""
    found, asked = inventory(*mig_node()), claim("c", request("r", profile("3g.40gb"), of=MIG))
    by = measures(f"memory.deviceclass/{MIG}", f"memory-slice.counters.deviceclass/{MIG}")
    answer = ask(found, asked)
    assert isinstance(answer, Allocated), answer
    (held,) = answer.allocations
    before = accounting.charge(asked.spec, held, found, by)
    assert before[f"memory.deviceclass/{MIG}"] == 40 * GIB
    (result,) = held.devices.results or ()
    left = [] if everything else [_without(each, result.device) for each in mig_node()]
    assert accounting.charge(asked.spec, held, inventory(*left), by) != before
    device = found.device(DeviceId(result.driver, result.pool, result.device))
    assert device is not None
    withdrawn = {(result.driver, result.pool, result.device): device.published}
    remembering = Inventory.of(left, CLASSES, withdrawn=withdrawn)
    assert accounting.charge(asked.spec, held, remembering, by) == before
    assert accounting.charge(asked.spec, held, inventory(*left), by) != before


def _without(published: dra.ResourceSlice, device: str) -> dra.ResourceSlice:
    left = tuple(each for each in published.spec.devices or () if each.name != device)
    return msgspec.structs.replace(published, spec=msgspec.structs.replace(published.spec, devices=left))
