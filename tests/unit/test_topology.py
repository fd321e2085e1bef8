"""Where nodes stand, and which levels a group tries in which order."""

from scheduler.api.crds import NVLINK_LEVEL
from scheduler.dra.pools import Inventory
from scheduler.model.reasons import TopologyUnusable
from scheduler.model.workloads import TopologyConstraint
from scheduler.plan.ground.topology import NO_LADDER, Domains, Ladder
from tests.builders import World, cluster, devices, gpu, node, topology

SITE = topology("site", "zone", "rack", "kubernetes.io/hostname")
HERE = (
    node("a", labels={"zone": "z0", "rack": "r0"})
    + node("b", labels={"zone": "z0", "rack": "r1"})
    + node("c", labels={"zone": "z1", "rack": "r0"})
    + node("bare", labels={"rack": "r0"})
)


def domains(made: World) -> Domains:
    return Domains(made.nodes, made.topologies, Inventory.of(made.slices, made.classes))


def ladder(required: str | None, preferred: str | None, name: str = "site") -> Ladder | TopologyUnusable:
    constraint = TopologyConstraint(topology=name, required=required, preferred=preferred)
    return domains(HERE + SITE).ladder(constraint, "default/train")


def test_a_domain_is_named_by_the_whole_way_to_it() -> None:
    assert domains(HERE + SITE).of(("site", "rack")) == {"a": "z0/r0", "b": "z0/r1", "c": "z1/r0"}


def test_the_host_level_needs_no_label_of_its_own() -> None:
    assert domains(HERE + SITE).of(("site", "kubernetes.io/hostname"))["a"] == "z0/r0/a"


def test_levels_are_tried_from_the_preferred_to_the_required() -> None:
    rack, zone, host = ("site", "rack"), ("site", "zone"), ("site", "kubernetes.io/hostname")
    assert ladder("zone", "kubernetes.io/hostname") == Ladder(steps=(host, rack, zone), required=zone)
    assert ladder("rack", None) == Ladder(steps=(rack,), required=rack)
    assert ladder(None, "rack") == Ladder(steps=(rack, zone), required=None)
    assert ladder("rack", "zone") == Ladder(steps=(rack,), required=rack)
    assert domains(HERE).ladder(None, "default/train") == NO_LADDER


def test_a_topology_without_a_single_node_is_unusable() -> None:
    empty = domains(cluster(nodes=2) + SITE).ladder(TopologyConstraint(topology="site", required="rack"), "default/t")
    assert isinstance(empty, TopologyUnusable)
    assert empty.message == "default/t: Topology site has no node in any domain of level rack."


def test_the_nvlink_domain_is_read_from_devices_then_from_the_clique_label() -> None:
    made = node("n0", gpus=2, dra=True, domain="nvl-1") + node("n1", labels={"nvidia.com/gpu.clique": "uuid.7"})
    made += node("split") + devices("split", [gpu(0, domain="x"), gpu(1, domain="y")]) + node("none")
    made += topology("nvl", NVLINK_LEVEL)
    assert domains(made).of(("nvl", NVLINK_LEVEL)) == {"n0": "nvl-1", "n1": "uuid.7"}


def test_split_keeps_to_the_nodes_given_and_orders_by_name() -> None:
    assert domains(HERE + SITE).split(("site", "zone"), ["c", "b", "bare"]) == [("z0", ("b",)), ("z1", ("c",))]
