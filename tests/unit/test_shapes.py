"""Shapes: equal wants are one, whoever has them."""

from dataclasses import replace

from scheduler.api.dra import AllocationResult
from scheduler.dra.selection import only_on
from scheduler.model.workloads import Pod
from scheduler.plan.ground.shapes import Shapes
from tests.builders import World, ask, claim, cluster, gang, gpu_class, label_in, node, pod


def shapes(made: World) -> Shapes:
    held = {key: one.allocation for key, one in made.claims.items()}
    return Shapes(made.claims, made.classes, held.get)


def numbers(made: World, *pods: Pod) -> list[int]:
    of = shapes(made)
    return [bundle.shape for one in pods for bundle in of.bundles([one])]


def test_names_labels_and_uids_make_no_difference() -> None:
    assert numbers(cluster(), pod("a", labels={"x": "1"}), pod("b")) == [0, 0]


def test_what_decides_where_a_pod_fits_makes_a_difference() -> None:
    different = [
        pod("a"),
        pod("a", cpu=2),
        pod("a", gpus=1),
        pod("a", selector={"pool": "a"}),
        pod("a", affinity=label_in("pool", "a")),
        pod("a", ports=[80]),
    ]
    assert numbers(cluster(), *different) == [0, 1, 2, 3, 4, 5]


def test_claims_are_compared_by_what_they_ask() -> None:
    made = cluster() + gang("x", pods=2, claims={"g": ask(1)}) + gang("y", claims={"g": ask(2)})
    pods = [one for each in made.gangs for one in each.pods]
    assert numbers(made, *pods) == [0, 0, 1]


def test_claims_that_hold_devices_are_compared_by_where_these_can_be_used() -> None:
    def holding(name: str, where: str) -> World:
        return claim(name, ask(1), holds=AllocationResult(node_selector=only_on(where)))

    made = cluster() + holding("x", "n0") + holding("y", "n0") + holding("z", "n1") + claim("w", ask(1))
    pods = [pod("p", claims={"g": name}) for name in ("x", "y", "z", "w")]
    assert numbers(made, *pods) == [0, 0, 1, 2]


def test_a_device_plugin_or_a_claim_serves_an_extended_resource_node_by_node() -> None:
    made = node("plugin", gpus=2) + node("driver", gpus=2, dra=True) + gpu_class(serves="nvidia.com/gpu")
    of = shapes(made)
    (bundle,) = of.bundles([pod("p", gpus=2)])
    plugin, driver = (of.demand_of(bundle, where) for where in made.nodes)
    assert (plugin.requests["nvidia.com/gpu"], len(plugin.asks)) == (2, 0)
    assert (driver.requests["nvidia.com/gpu"], len(driver.asks)) == (0, 1)
    assert driver.asks[0].made is not None


def test_a_resource_that_no_class_serves_is_asked_of_the_node() -> None:
    made = node("driver", gpus=2, dra=True) + gpu_class()
    of = shapes(made)
    (bundle,) = of.bundles([pod("p", gpus=2)])
    assert of.demand_of(bundle, made.nodes[0]).requests["nvidia.com/gpu"] == 2


def test_the_order_of_bundles_is_that_of_their_first_pods() -> None:
    made = cluster() + claim("s", ask(1))
    pods = [pod("a", claims={"g": "s"}), pod("b"), pod("c", claims={"g": "s"})]
    of = shapes(made)
    assert [[one.name for one in bundle.pods] for bundle in of.bundles(pods)] == [["a", "c"], ["b"]]
    assert replace(pods[0]) == pods[0]


def test_pods_that_share_two_claims_are_in_one_bundle_once() -> None:
    made = cluster() + claim("s", ask(1)) + claim("t", ask(1))
    pods = [pod("a", claims={"g": "s", "h": "t"}), pod("b", claims={"g": "s", "h": "t"})]
    assert [[one.name for one in bundle.pods] for bundle in shapes(made).bundles(pods)] == [["a", "b"]]
