"""What a gang still wants: the tree of sub-groups, pods that count, claims that hold it back."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from scheduler.dra.pools import Inventory
from scheduler.model.reasons import WaitingForClaims, WaitingForPods
from scheduler.model.workloads import Pod, PodClaim
from scheduler.plan.ground.ledger import Ledger
from scheduler.plan.ground.shapes import Bundle, Shapes
from scheduler.plan.ground.topology import Domains
from scheduler.plan.pieces import Wanted
from scheduler.plan.wants import Wants
from scheduler.solver.problem import Group
from tests.builders import World, ask, claim, cluster, gang, gang_of, pod, sub_group, topology


def wants(made: World) -> Wants:
    """The wants of the only gang."""
    inventory = Inventory.of(made.slices, made.classes)
    ledger = Ledger.of(made.nodes, inventory, pods=made.pods, claims=made.claims.values())
    shapes = Shapes(made.claims, made.classes, ledger.held)
    (only,) = made.gangs
    return Wants(only, made.claims, ledger.consumers, shapes, Domains(made.nodes, made.topologies, inventory))


def group(asked: object) -> Group:
    assert isinstance(asked, Wanted)
    return asked.group


def test_equal_pods_are_units_of_one_shape() -> None:
    asked = wants(cluster() + gang("train", pods=3, claims={"gpu": ask(1)})).minimum()
    assert [unit.shape for unit in group(asked).units] == [0, 0, 0]
    assert isinstance(asked, Wanted)
    assert asked.pods == 3


def test_of_more_pods_than_the_minimum_the_first_are_chosen() -> None:
    """By task priority, then age, then name."""
    pods = [
        pod("a", created_ms=5),
        pod("b", created_ms=3),
        pod("c", created_ms=4),
        pod("d", created_ms=9, task_priority=1),
    ]
    asked = wants(cluster() + gang_of("train", pods, minimum=2)).minimum()
    assert isinstance(asked, Wanted)
    assert [bundle.pods[0].name for bundle in asked.chosen()] == ["d", "b"]


def test_pods_on_nodes_count_and_only_the_rest_is_asked_for() -> None:
    one = wants(cluster() + gang("train", pods=3, on=["node-0"]))
    assert group(one.minimum()).minimum == 2
    assert (one.needed, one.bound, one.waiting) == (3, 1, 2)


def test_once_the_minimum_is_there_the_gang_grows_bundle_by_bundle() -> None:
    one = wants(cluster() + gang("train", pods=4, minimum=1, on=["node-0"]))
    assert one.minimum() is None
    seen = []
    while (piece := one.growth()) is not None:
        (bundle,) = piece.chosen()
        seen.append(bundle.pods[0].name)
        one.settle(bundle.pods[0], "node-0")
    assert seen == ["train-1", "train-2", "train-3"]


def test_a_piece_of_growth_that_failed_is_not_asked_for_again_nor_is_its_like() -> None:
    pods = [pod("a", on="node-0"), pod("big-0", gpus=4), pod("big-1", gpus=4), pod("small", gpus=1)]
    one = wants(cluster() + gang_of("train", pods, minimum=1))
    first = one.growth()
    assert first is not None
    one.fail(first)
    second = one.growth()
    assert second is not None
    assert [bundle.pods[0].name for bundle in second.chosen()] == ["small"]


def test_pods_that_share_a_claim_are_one_unit() -> None:
    made = cluster() + claim("shared", ask(1)) + gang("pair", pods=2, shared={"gpu": "shared"})
    (unit,) = group(wants(made).minimum()).units
    assert unit.pods == 2


def test_three_pods_linked_by_two_claims_are_one_unit() -> None:
    made = cluster() + claim("x", ask(1)) + claim("y", ask(1))
    pods = [pod("a", claims={"c": "x"}), pod("b", claims={"c": "y"}), pod("c", claims={"c": "x", "d": "y"})]
    (unit,) = group(wants(made + gang_of("three", pods)).minimum()).units
    assert unit.pods == 3


def test_too_few_pods_of_a_sub_group_are_named_with_it() -> None:
    pods = [pod("a", sub_group="workers"), pod("m", sub_group="master")]
    groups = (sub_group("workers", 2), sub_group("master", 1))
    reason = wants(cluster() + gang_of("train", pods, sub_groups=groups)).minimum()
    assert reason == WaitingForPods(gang="default/train", needed=2, present=1, sub_group="workers")
    assert reason.message == "Sub-group workers of default/train needs 2 pods to start and has 1."


def test_a_sub_group_that_is_not_ready_does_not_matter_where_enough_others_are() -> None:
    pods = [pod("a", sub_group="x"), pod("b", sub_group="y")]
    groups = (sub_group("x", 1), sub_group("y", 1), sub_group("z", 5))
    asked = wants(cluster() + gang_of("train", pods, sub_groups=groups, min_sub_group=2)).minimum()
    assert [child.name for child in group(asked).children] == ["x", "y"]


def test_sub_groups_that_run_already_count_towards_those_needed() -> None:
    pods = [pod("a", sub_group="x", on="node-0"), pod("b", sub_group="y"), pod("c", sub_group="z")]
    groups = tuple(sub_group(name, 1) for name in "xyz")
    one = wants(cluster() + gang_of("train", pods, sub_groups=groups, min_sub_group=2))
    asked = group(one.minimum())
    assert (asked.minimum, [child.name for child in asked.children]) == (1, ["y", "z"])


def test_an_optional_sub_group_joins_whole() -> None:
    pods = [pod("a", sub_group="x", on="node-0"), pod("b", sub_group="y"), pod("c", sub_group="y")]
    groups = (sub_group("x", 1), sub_group("y", 2))
    one = wants(cluster() + gang_of("train", pods, sub_groups=groups, min_sub_group=1))
    assert one.minimum() is None
    piece = one.growth()
    assert piece is not None
    assert [bundle.pods[0].name for bundle in piece.chosen()] == ["b", "c"]


def test_groups_within_groups() -> None:
    pods = [pod(f"{name}-{i}", sub_group=name) for name in ("a0", "a1", "b0") for i in range(2)]
    groups = (
        sub_group("a", groups=1),
        sub_group("a0", 2, parent="a"),
        sub_group("a1", 2, parent="a"),
        sub_group("b"),
        sub_group("b0", 1, parent="b"),
    )
    one = wants(cluster() + gang_of("train", pods, sub_groups=groups))
    asked = one.minimum()
    assert isinstance(asked, Wanted)
    assert [bundle.pods[0].name for bundle in asked.chosen()] == ["a0-0", "a0-1", "b0-0"]
    assert one.needed == 3


def test_running_pods_pin_the_required_domain_and_draw_to_the_preferred_one() -> None:
    made = cluster(nodes=4, racks=2) + topology("racks", "rack", "kubernetes.io/hostname")
    bound = gang("train", pods=2, on=["node-3"], topology=("racks", "rack", "kubernetes.io/hostname"))
    asked = group(wants(made + bound).minimum())
    assert (asked.pinned, asked.near) == ("r1", frozenset({"node-3"}))
    assert asked.steps == (("racks", "kubernetes.io/hostname"), ("racks", "rack"))


def test_a_claim_that_is_being_deleted_is_waited_for() -> None:
    made = cluster() + gang("train", pods=1, claims={"gpu": ask(1)})
    going = {key: replace(one, terminating=True) for key, one in made.claims.items()}
    reason = wants(replace(made, claims=going)).minimum()
    assert isinstance(reason, WaitingForClaims)
    assert (reason.claim, reason.problem) == ("default/train-0-gpu", "is being deleted")


def cure_of(made: World) -> str:
    reason = wants(made).minimum()
    assert isinstance(reason, WaitingForClaims)
    return reason.cure


def test_who_waits_for_a_claim_is_told_what_the_user_can_do() -> None:
    """Kubernetes makes the claims of templates, and not the user, who can only correct the template or the pod."""
    own = cluster() + gang("train", pods=1, claims={"gpu": ask(1)})
    named = cluster() + claim("shared", ask(1)) + gang("train", pods=1, shared={"gpu": "shared"})
    unmade = (PodClaim(name="gpu", claim=None, from_template=True),)
    assert cure_of(replace(named, claims={})).startswith("Create it in the pod's namespace")
    assert cure_of(replace(own, claims={})).startswith("Kubernetes makes every pod a claim of its own")
    pods = [replace(pod("train-0"), claims=unmade)]
    assert "ResourceClaimTemplate that the pod names is missing" in cure_of(cluster() + gang_of("train", pods))
    going = {key: replace(one, terminating=True) for key, one in named.claims.items()}
    assert cure_of(replace(named, claims=going)).startswith("Create it again once it is gone")


def test_a_pod_with_a_missing_claim_only_matters_if_it_is_needed() -> None:
    made = cluster() + gang("train", pods=3, minimum=2, claims={"gpu": ask(1)})
    lost = {key: one for key, one in made.claims.items() if key != "default/train-1-gpu"}
    asked = wants(replace(made, claims=lost)).minimum()
    assert isinstance(asked, Wanted)
    assert [bundle.pods[0].name for bundle in asked.chosen()] == ["train-0", "train-2"]


def test_growth_looks_at_every_pod_a_few_times_at_most_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the pods are of a kind that fails at once; the others find their places one by one."""
    pods = [pod("first", on="node-0")] + [pod(f"p-{number:03d}", gpus=number % 2) for number in range(200)]
    one = wants(cluster() + gang_of("train", pods, minimum=1))
    looked_at = 0
    real = Shapes.bundles

    def counting(self: Shapes, pods: Sequence[Pod]) -> tuple[Bundle, ...]:
        nonlocal looked_at
        looked_at += len(pods)
        return real(self, pods)

    monkeypatch.setattr(Shapes, "bundles", counting)
    placed = 0
    while (piece := one.growth()) is not None:
        (bundle,) = piece.chosen()
        if bundle.pods[0].requests["nvidia.com/gpu"]:
            one.fail(piece)
        else:
            one.settle(bundle.pods[0], "node-0")
            placed += 1
    assert (placed, one.waiting) == (100, 100)
    assert looked_at < 3 * len(pods)
