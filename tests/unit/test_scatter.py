"""Room in pieces: the pod is told that what it asks for is there, and not on one node."""

import pytest

from scheduler.api.dra import AllocationResult, DeviceAllocationResult, DeviceRequestAllocationResult
from scheduler.model.reasons import GangDoesNotFit, Scattered
from scheduler.plan.planner import plan
from tests.builders import (
    World,
    ask,
    claim,
    cluster,
    device_class,
    everywhere,
    gang,
    gpu,
    holding,
    node,
    running,
)


def reason(made: World, gang_name: str = "train") -> GangDoesNotFit:
    told = plan(made).why(gang_name)
    assert isinstance(told, GangDoesNotFit)
    return told


def fragmented(*, dra: bool) -> World:
    """Eight nodes of four GPUs, two of them in use on each."""
    made = cluster(nodes=8, gpus=4, dra=dra)
    for name in (f"node-{number}" for number in range(8)):
        if dra:
            made += claim(f"busy-{name}", ask(2), holds=holding(name, 0, 1))
        else:
            made += running(f"busy-{name}", on=name, gpus=2)
    return made


@pytest.mark.parametrize("dra", [False, True])
def test_a_pod_that_asks_for_more_than_any_node_has_free_is_told_how_much_is_free_in_all(dra: bool) -> None:
    asks = {"claims": {"gpu": ask(4)}} if dra else {"gpus": 4}
    told = reason(fragmented(dra=dra) + gang("train", pods=1, created_ms=9, **asks))
    name = "deviceclass/gpu.nvidia.com" if dra else "gpu"
    assert told.scattered == Scattered(resource=name, asked=4, free=16, nodes=8, most=2)
    what = "devices of class gpu.nvidia.com" if dra else "GPUs"
    assert told.message.endswith(f". 16 {what} are free on 8 nodes, at most 2 on one node, and one pod asks for 4.")
    assert told.cure == "Free room for 1 more pod, add nodes, or ask for less per pod."


def test_where_some_node_has_enough_the_pieces_are_not_the_reason() -> None:
    assert reason(fragmented(dra=False) + gang("train", pods=9, gpus=2, created_ms=9)).scattered is None


def test_what_is_not_there_even_in_all_is_not_told_as_pieces() -> None:
    made = cluster(nodes=2, gpus=8) + running("a", on="node-0", gpus=5) + running("b", on="node-1", gpus=5)
    assert reason(made + gang("train", pods=1, gpus=8, created_ms=9)).scattered is None


def test_nodes_that_the_pod_may_not_use_do_not_count() -> None:
    made = fragmented(dra=False) + gang("train", pods=1, gpus=4, selector={"pool": "none"}, created_ms=9)
    made += node("right", gpus=4, labels={"pool": "none"}) + running("full", on="right", gpus=4)
    assert reason(made).scattered is None


def test_devices_that_several_nodes_reach_are_not_counted_once_for_each() -> None:
    made = cluster(nodes=3) + device_class("fabric", 'device.driver == "fabric"')
    made += everywhere("channels", [gpu(number) for number in range(3)], "fabric")
    one = DeviceRequestAllocationResult(request="main", driver="fabric", pool="channels", device="gpu-0")
    held = AllocationResult(devices=DeviceAllocationResult(results=(one,)))
    made += claim("held", ask(1, of="fabric"), holds=held)
    assert reason(made + gang("train", pods=1, claims={"c": ask(3, of="fabric")})).scattered is None


def test_pods_that_must_be_placed_together_are_not_told_what_one_of_them_lacks() -> None:
    made = fragmented(dra=True) + claim("shared", ask(4)) + gang("train", pods=2, shared={"gpu": "shared"})
    assert reason(made).scattered is None
