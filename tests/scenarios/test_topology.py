"""Topology: domains that a gang must or would like to be in."""

from dataclasses import replace

from scheduler.api.crds import NVLINK_LEVEL
from scheduler.model.plan import Plan
from scheduler.model.reasons import GangDoesNotFit, NodeCount, TopologyUnusable
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import (
    World,
    ask,
    cluster,
    constraint,
    gang,
    gang_of,
    gpu_class,
    node,
    pod,
    queue,
    sub_group,
    topology,
)

RACKS = topology("racks", "rack", "kubernetes.io/hostname")


def decide(made: World) -> Plan:
    decided = plan(made)
    assert check(made, decided) == ()
    return decided


def racks_of(made: World, decided: Plan, name: str) -> list[str]:
    racks = {node.name: node.labels.get("rack", "") for node in made.nodes}
    return sorted({racks[p.node] for p in decided.placements if p.gang == f"default/{name}"})


def test_a_gang_bound_to_one_rack_waits_although_two_racks_together_have_room() -> None:
    """Source: KAI docs, required topology level."""
    made = cluster(nodes=4, gpus=4, racks=2) + RACKS + gang("train", pods=3, gpus=4, topology=("racks", "rack", None))
    decided = decide(made)
    assert decided.placements == ()
    reason = decided.why("train")
    assert isinstance(reason, GangDoesNotFit)
    assert (reason.needed, reason.placeable, reason.domain, reason.proved) == (3, 2, "r0", True)
    assert "at once and there is room for 2, with r0 as the best topology domain" in reason.message


def test_the_nodes_counted_are_those_of_the_domain_named() -> None:
    made = cluster(nodes=4, gpus=4, racks=2) + RACKS
    made += gang("busy", pods=1, gpus=4, on=["node-0"]) + gang(
        "more", pods=3, gpus=1, on=["node-1", "node-2", "node-3"]
    )
    decided = decide(made + gang("train", pods=2, gpus=3, topology=("racks", "rack", None), created_ms=9))
    assert racks_of(made, decided, "train") == ["r1"]
    decided = decide(made + gang("train", pods=3, gpus=3, topology=("racks", "rack", None), created_ms=9))
    reason = decided.why("train")
    assert isinstance(reason, GangDoesNotFit)
    none_left = NodeCount(nodes=2, cause="has too few free nvidia.com/gpu: none of the 3 asked for")
    assert (reason.placeable, reason.domain, reason.causes) == (2, "r1", (none_left,))
    decided = decide(made + gang("train", pods=3, gpus=4, topology=("racks", "rack", None), created_ms=9))
    reason = decided.why("train")
    assert isinstance(reason, GangDoesNotFit)
    assert [count.nodes for count in reason.causes] == [2]


def test_a_sub_group_without_any_domain_at_its_level_is_told_so() -> None:
    """Not by the causes of whatever another gang asks for."""
    made = cluster(nodes=2, gpus=4, racks=1) + node("far", gpus=4, labels={"pod": "p"}) + RACKS
    made += topology("pods", "pod") + gang("huge", pods=1, gpus=64)
    members = [pod("train-0", gpus=1, sub_group="a"), pod("train-1", gpus=2, sub_group="b")]
    sub_groups = (sub_group("a", 1, topology=("pods", "pod", None)), sub_group("b", 1))
    together = constraint(("racks", "rack", None))
    made += gang_of("train", members, created_ms=9, topology=together, sub_groups=sub_groups)
    assert decide(made).why("train").message == (
        "default/train needs room for 2 pods at once and there is room for 1, with r0 as the best topology domain: "
        "for one more there, 2 nodes are in no domain of level pod of Topology pods."
    )


def test_a_gang_bound_to_one_rack_takes_the_tightest_that_holds_it() -> None:
    made = cluster(nodes=3, gpus=4, racks=1) + node("other-0", gpus=4, labels={"rack": "r1"})
    made += node("other-1", gpus=4, labels={"rack": "r1"}) + RACKS
    made += gang("train", pods=2, gpus=4, topology=("racks", "rack", None))
    assert racks_of(made, decide(made), "train") == ["r1"]


def test_a_preferred_rack_is_given_up_where_none_holds_the_gang() -> None:
    both = cluster(nodes=4, gpus=4, racks=2) + RACKS
    small = both + gang("train", pods=2, gpus=4, topology=("racks", None, "rack"))
    large = both + gang("train", pods=3, gpus=4, topology=("racks", None, "rack"))
    assert racks_of(small, decide(small), "train") == ["r0"]
    assert racks_of(large, decide(large), "train") == ["r0", "r1"]


def test_within_a_required_rack_the_preferred_host_is_tried_first() -> None:
    made = cluster(nodes=4, gpus=4, racks=2) + RACKS
    made += gang("train", pods=2, gpus=2, topology=("racks", "rack", "kubernetes.io/hostname"))
    assert len({p.node for p in decide(made).placements}) == 1


def test_a_gang_of_which_some_pods_run_stays_in_their_rack() -> None:
    """Source: KAI, a group with running pods and a required level is pinned to their domain."""
    made = cluster(nodes=4, gpus=4, racks=2) + RACKS
    made += gang("train", pods=2, gpus=4, on=["node-3"], topology=("racks", "rack", None))
    assert [p.node for p in decide(made).placements] == ["node-2"]


def test_a_gang_whose_pods_are_apart_already_says_so() -> None:
    made = cluster(nodes=4, gpus=4, racks=2) + RACKS
    made += gang("train", pods=3, gpus=2, on=["node-0", "node-3"], topology=("racks", "rack", None))
    reason = decide(made).why("train")
    assert isinstance(reason, TopologyUnusable)
    assert "some run in r0, r1" in reason.message


def test_racks_of_one_name_in_two_zones_are_two_racks() -> None:
    made = queue("default") + topology("zones", "zone", "rack")
    made += node("a", gpus=4, labels={"zone": "z0", "rack": "r"}) + node(
        "b", gpus=4, labels={"zone": "z1", "rack": "r"}
    )
    assert decide(made + gang("train", pods=2, gpus=4, topology=("zones", "rack", None))).placements == ()


def test_nodes_without_the_labels_of_a_level_are_in_no_domain_of_it() -> None:
    made = cluster(nodes=2, gpus=4, racks=1) + node("bare", gpus=8) + RACKS
    made += gang("train", pods=2, gpus=4, topology=("racks", "rack", None))
    assert {p.node for p in decide(made).placements} == {"node-0", "node-1"}


def test_a_gang_in_one_nvlink_domain_spans_its_nodes_and_no_other() -> None:
    """Two racks of three nodes with four GPUs, each rack one NVLink domain; one node is busy."""
    made = queue("default") + gpu_class() + topology("nvl", NVLINK_LEVEL)
    for number in range(6):
        made += node(f"n{number}", gpus=4, dra=True, domain=f"nvl-{number // 3}")
    made += gang("busy", claims={"gpus": ask(4)}, priority=1)
    made += gang("train", pods=3, claims={"gpus": ask(4)}, topology=("nvl", NVLINK_LEVEL, None))
    nodes = {p.pod: p.node for p in decide(made).placements}
    assert nodes["default/busy-0"] == "n0"
    assert sorted(nodes[f"default/train-{i}"] for i in range(3)) == ["n3", "n4", "n5"]


def test_each_sub_group_in_a_rack_of_its_own_and_the_gang_in_one_zone() -> None:
    """Nested constraints. Source: KAI docs, topology of sub-groups."""
    made = queue("default") + topology("site", "zone", "rack")
    for zone, racks in (("z0", ("r0", "r1")), ("z1", ("r0", "r1", "r2"))):
        for rack in racks:
            for number in range(2 if zone == "z1" else 1):
                made += node(f"{zone}-{rack}-{number}", gpus=4, labels={"zone": zone, "rack": rack})
    pods = [pod(f"g{group}-{i}", gpus=4, sub_group=f"g{group}") for group in range(3) for i in range(2)]
    groups = tuple(sub_group(f"g{group}", 2, topology=("site", "rack", None)) for group in range(3))
    constrained = gang_of("train", pods, sub_groups=groups)
    (whole,) = constrained.gangs
    bound = sub_group("root", topology=("site", "zone", None)).topology
    made += replace(constrained, gangs=(replace(whole, topology=bound),))
    where = {p.pod.rpartition("/")[2]: p.node.rpartition("-")[0] for p in decide(made).placements}
    assert len(where) == 6
    assert all(where[f"g{group}-0"] == where[f"g{group}-1"] for group in range(3))
    assert {rack.partition("-")[0] for rack in where.values()} == {"z1"}


def test_a_topology_or_level_that_does_not_exist_is_named() -> None:
    made = cluster(nodes=2, gpus=4, racks=2)
    missing = decide(made + gang("train", pods=2, topology=("racks", "rack", None))).why("train")
    assert isinstance(missing, TopologyUnusable)
    assert missing.message == "default/train: Topology racks does not exist."
    level = decide(made + RACKS + gang("train", pods=2, topology=("racks", "row", None))).why("train")
    assert isinstance(level, TopologyUnusable)
    assert "has no level row; its levels are rack, kubernetes.io/hostname" in level.message
