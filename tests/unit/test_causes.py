"""What rules out how many nodes for one more pod: what is lacking, and how much of it there is at best."""

from scheduler.model.reasons import GangDoesNotFit, NodeCount, NoNodeFits
from scheduler.plan.desk import Desk
from scheduler.plan.ground.causes import asks
from scheduler.plan.planner import plan
from tests.builders import World, ask, cluster, gang, node


def told(made: World) -> GangDoesNotFit:
    reason = plan(made).why("train")
    assert isinstance(reason, GangDoesNotFit)
    return reason


def nowhere(made: World) -> NoNodeFits:
    reason = plan(made).why("train")
    assert isinstance(reason, NoNodeFits)
    return reason


def test_what_the_pods_that_found_room_take_is_not_there_for_one_more() -> None:
    reason = told(cluster(nodes=63, gpus=1) + gang("train", pods=64, gpus=1))
    assert reason.message == (
        "default/train needs room for 64 pods at once and there is room for 63: for one more, 63 nodes have too few "
        "free nvidia.com/gpu: 1 is asked for and there is none."
    )


def test_nodes_that_took_some_are_counted_with_those_that_took_none() -> None:
    made = cluster(nodes=0) + node("a", gpus=4, cpu=8) + node("b", gpus=3, cpu=8) + node("c", gpus=4, cpu=1)
    reason = told(made + gang("train", pods=4, gpus=2, cpu=2))
    assert reason.placeable == 3
    assert [str(cause) for cause in reason.causes] == [
        "2 nodes have too few free nvidia.com/gpu: at most 1 of the 2 asked for",
        "1 node has too little free cpu: at most 1 of the 2 CPUs asked for",
    ]


def test_devices_that_the_others_take_are_counted() -> None:
    reason = told(cluster(nodes=2, gpus=8, dra=True) + gang("train", pods=3, claims={"gpus": ask(5)}))
    assert reason.causes == (
        NodeCount(nodes=2, cause="has too few free devices of class gpu.nvidia.com: at most 3 of the 5 asked for"),
    )


def test_devices_of_several_claims_are_said_to_be_gone() -> None:
    claims = {"one": ask(4), "two": ask(4)}
    reason = told(cluster(nodes=2, gpus=8, dra=True) + gang("train", pods=3, claims=claims))
    assert reason.causes == (NodeCount(nodes=2, cause="has too few free devices of class gpu.nvidia.com left"),)


def test_what_one_pod_asks_for_is_told_where_no_node_is_ruled_out_by_itself() -> None:
    made = cluster(nodes=1, gpus=8, dra=True)
    pods = gang("train", claims={"gpus": ask(1)}).gangs[0].pods
    desk = Desk.of(made + gang("train", claims={"gpus": ask(1)}))
    (bundle,) = desk.shapes.bundles(pods)
    assert asks(desk.rooms, bundle.shape, "node-0") == "1 CPU, 1Gi of memory, devices of class gpu.nvidia.com"
    reason = GangDoesNotFit(gang="a/g", needed=3, placeable=2, proved=False, each="1 CPU, 1Gi of memory")
    assert reason.message == (
        "a/g needs room for 3 pods at once and there is room for 2 (not proved within the budget). "
        "One more pod asks for 1 CPU, 1Gi of memory."
    )


def test_one_cause_is_told_once_with_the_most_there_is() -> None:
    made = cluster(nodes=0) + node("a", cpu=16) + node("b", cpu=32) + node("c", cpu=8)
    reason = nowhere(made + gang("train", pods=1, cpu=64))
    assert reason.message == (
        "Pod default/train-0 fits no node even when empty: 3 nodes have too little cpu: at most 32 of the 64 CPUs "
        "asked for."
    )
    assert reason.cure == "Ask for less, or add a node that can take it."


def test_the_cure_is_for_what_is_in_the_way() -> None:
    made = (
        cluster(nodes=0)
        + node("a", gpus=8, unschedulable=True)
        + node("b", gpus=8, labels={"pool": "b"})
        + node("c", gpus=1)
    )
    waits = gang("train", pods=1, gpus=8, selector={"pool": "a"})
    assert nowhere(made + waits).cure == (
        "Loosen the pod's node selector, uncordon a node, or add a node that can take it."
    )
    assert nowhere(cluster(nodes=0) + gang("train", pods=1)).cure == "Add a node that can take it."
