"""What pods cost their queue, before and after their devices are known."""

from queues.resources import Resources
from scheduler.api.dra import AllocationResult, DeviceAllocationResult, DeviceRequestAllocationResult
from scheduler.dra.pools import Inventory
from scheduler.plan.ground import accounts
from scheduler.plan.ground.accounts import Accounts
from scheduler.plan.ground.shapes import Shapes
from tests.builders import (
    World,
    ask,
    claim,
    cluster,
    device_class,
    devices,
    divided_gpu,
    everywhere,
    gang_of,
    gpu,
    gpu_class,
    node,
    pod,
)


def books(made: World) -> tuple[Accounts, Shapes]:
    held = {key: one.allocation for key, one in made.claims.items()}
    shapes = Shapes(made.claims, made.classes, held.get)
    return Accounts(made.claims, Inventory.of(made.slices, made.classes), shapes), shapes


def test_gpus_of_a_device_plugin_are_told_by_the_name_of_the_resource() -> None:
    assert accounts.by_name(Resources({"nvidia.com/gpu": 3}))["gpu"] == 3000
    assert accounts.by_name(Resources({"nvidia.com/mig-3g.40gb": 2}))["gpu"] == 2 * 3000 // 7
    assert accounts.by_name(Resources({"example.com/fpga": 2})) == Resources()


def test_an_estimate_counts_claims_once_and_made_claims_by_their_resource() -> None:
    made = cluster(nodes=1, gpus=4, dra=True) + claim("s", ask(2)) + gpu_class(serves="nvidia.com/gpu")
    book, shapes = books(made)
    (pair,) = shapes.bundles([pod("a", claims={"g": "s"}), pod("b", claims={"g": "s"})])
    assert book.estimate(pair)["gpu"] == 2000
    assert book.estimate(pair)["deviceclass/gpu.nvidia.com"] == 2000
    assert book.estimate(pair)["cpu"] == 2000
    (made_for,) = shapes.bundles([pod("c", gpus=3)])
    assert book.estimate(made_for)["gpu"] == 3000
    assert book.estimate(made_for)["deviceclass/gpu.nvidia.com"] == 3000


def test_a_claim_is_paid_by_the_first_of_its_consumers_only() -> None:
    made = cluster(nodes=1, gpus=4, dra=True)
    result = DeviceRequestAllocationResult(request="main", driver="gpu.nvidia.com", pool="node-0", device="gpu-0")
    made += claim("s", ask(1), holds=AllocationResult(devices=DeviceAllocationResult(results=(result,))))
    book, _ = books(made)
    users = [gang_of(name, [pod(name, on="node-0", claims={"g": "s"})]).gangs[0] for name in "ab"]
    book.settle(users)
    paid: list[dict[str, int]] = [{}, {}]
    for gang, amounts in zip(users, paid, strict=True):
        book.charge(gang, amounts)
    assert [amounts.get("gpu", 0) for amounts in paid] == [1000, 0]
    assert [amounts["cpu"] for amounts in paid] == [1000, 1000]


def test_the_pool_counts_a_board_once_however_it_may_be_divided() -> None:
    parts, counters = divided_gpu(0)
    made = node("n", cpu=4) + devices("n", parts, [counters]) + node("m", gpus=2, cpu=4)
    whole = accounts.pool(made.nodes, Inventory.of(made.slices, made.classes))
    assert (whole["gpu"], whole["cpu"]) == (3000, 8000)


def test_the_pool_has_the_devices_of_the_classes_that_are_asked_about_and_partitions_as_often_as_they_fit() -> None:
    parts, counters = divided_gpu(0)
    made = node("n") + devices("n", parts, [counters]) + node("m") + devices("m", [gpu(0), gpu(1)])
    made += node("plugin", gpus=3) + gpu_class(serves="nvidia.com/gpu") + gpu_class("mig.nvidia.com", kind="mig")
    made += device_class("any", "true")
    inventory = Inventory.of(made.slices, made.classes)
    _, shapes = books(made)
    classes = ("any", "gone", "gpu.nvidia.com", "mig.nvidia.com")
    whole = accounts.pool(made.nodes, inventory, classes, shapes.serving)
    assert whole["deviceclass/any"] == 2000 + 2000
    assert whole["deviceclass/gpu.nvidia.com"] == 1000 + 2000 + 3000
    assert whole["deviceclass/mig.nvidia.com"] == 2000
    assert whole["deviceclass/gone"] == 0
    assert "deviceclass/gpu.nvidia.com" not in accounts.pool(made.nodes, inventory).amounts


def test_the_pool_has_devices_once_that_many_nodes_reach() -> None:
    made = node("n") + node("m") + everywhere("fabric", [gpu(0), gpu(1)], "gpu.nvidia.com") + gpu_class()
    pool = accounts.pool(made.nodes, Inventory.of(made.slices, made.classes), ("gpu.nvidia.com",))
    assert pool["deviceclass/gpu.nvidia.com"] == 2000


def test_a_class_whose_selector_cannot_be_read_has_no_devices() -> None:
    made = node("n") + devices("n", [gpu(0)]) + device_class("odd", "device.attributes[")
    pool = accounts.pool(made.nodes, Inventory.of(made.slices, made.classes), ("odd",))
    assert pool["deviceclass/odd"] == 0
