"""Room per node: judged as a whole, remembered by state, ranked for best fit."""

import pytest

from scheduler.api.core import PreferredSchedulingTerm
from scheduler.dra.allocate import Allocated, Ask, allocate
from scheduler.dra.pools import Inventory
from scheduler.model.snapshot import Policy
from scheduler.model.workloads import Pod
from scheduler.plan.ground.causes import causes
from scheduler.plan.ground.ledger import Grant, Ledger
from scheduler.plan.ground.rooms import EASY, LOOK, QUESTION, STEP, Effort, Exhausted, Patience, Rooms
from scheduler.plan.ground.shapes import Shapes
from scheduler.plan.ground.topology import Domains
from tests.builders import (
    GPU,
    World,
    ask,
    ask_first,
    claim,
    cluster,
    devices,
    divided_gpu,
    gpu_class,
    label_in,
    node,
    pod,
    policy,
    running,
)


def rooms(made: World, choices: Policy | None = None) -> Rooms:
    inventory = Inventory.of(made.slices, made.classes)
    ledger = Ledger.of(made.nodes, inventory, pods=made.pods, claims=made.claims.values())
    shapes = Shapes(made.claims, made.classes, ledger.held)
    return Rooms(ledger, shapes, Domains(made.nodes, made.topologies, inventory), choices or Policy())


def shape(of: Rooms, wanted: Pod) -> int:
    (bundle,) = of.shapes.bundles([wanted])
    return bundle.shape


def test_capacity_is_the_least_of_all_that_is_asked_for() -> None:
    here = rooms(cluster(nodes=1, gpus=8, cpu=10))
    assert here.capacity("node-0", (), shape(here, pod("p", gpus=1, cpu=3)), 99) == 3
    assert here.capacity("node-0", (), shape(here, pod("p", gpus=3, cpu=1)), 99) == 2
    assert here.capacity("node-0", (), shape(here, pod("p", cpu=1)), 4) == 4


def test_a_node_in_which_more_is_used_than_there_is_takes_nothing_and_takes_nothing_from_others() -> None:
    here = rooms(cluster(nodes=2, cpu=4) + running("a", on="node-0", cpu=9))
    wanted = shape(here, pod("p", cpu=2))
    assert [here.capacity(node, (), wanted, 9) for node in here.nodes] == [0, 2]


def test_what_a_load_takes_is_gone() -> None:
    here = rooms(cluster(nodes=1, gpus=8))
    three, two = shape(here, pod("p", gpus=3)), shape(here, pod("q", gpus=2))
    assert here.capacity("node-0", ((three, 1),), two, 9) == 2


def test_two_pods_with_one_host_port_need_two_nodes() -> None:
    here = rooms(cluster(nodes=1))
    assert here.capacity("node-0", (), shape(here, pod("p", ports=[80])), 2) == 1


def test_alternatives_of_a_load_are_chosen_together() -> None:
    parts, counters = divided_gpu(0)
    made = node("n") + devices("n", parts, [counters]) + gpu_class() + gpu_class("mig", kind="mig")
    made += claim("c", ask_first(("whole", GPU, 1), ("half", "mig", 1)))
    here = rooms(made)
    wanted = shape(here, pod("p", claims={"gpu": "c"}))
    assert here.capacity("n", (), wanted, 9) == 2
    assert [here.verdict("n", ((wanted, count),)).alternatives for count in (1, 2)] == [0, 2]
    assert here.favoured("n", (), wanted, 2) == 1
    assert here.favoured("n", ((wanted, 1),), wanted, 1) == 0


def test_a_node_favours_those_who_push_nobody_down_his_list_of_alternatives() -> None:
    parts = [divided_gpu(index) for index in range(2)]
    made = node("n") + devices("n", [d for part, _ in parts for d in part], [counters for _, counters in parts])
    made += gpu_class() + gpu_class("mig", kind="mig") + claim("whole", ask(1))
    made += claim("either", ask_first(("whole", GPU, 1), ("half", "mig", 1)))
    here = rooms(made)
    either, whole = shape(here, pod("p", claims={"gpu": "either"})), shape(here, pod("q", claims={"gpu": "whole"}))
    assert here.favoured("n", (), whole, here.capacity("n", (), whole, 9)) == 2
    load = ((either, 1), (whole, 1))
    assert here.capacity("n", ((either, 2),), whole, 9) == 1
    assert here.favoured("n", ((either, 2),), whole, 1) == 0
    assert here.verdict("n", load).alternatives == 0


def test_a_question_that_outlasts_the_effort_given_is_not_answered_and_not_remembered() -> None:
    made = cluster(nodes=1, gpus=8, dra=True) + claim("c", ask(4, match="gpu.nvidia.com/nvlinkDomain"))
    here = rooms(made)
    wanted = shape(here, pod("p", claims={"gpu": "c"}))
    with pytest.raises(Exhausted), here.within(Effort(left=QUESTION + 8 * LOOK + 1.5 * STEP)):
        here.capacity("node-0", (), wanted, 1)
    assert here.capacity("node-0", (), wanted, 1) == 1
    assert here.proved


def test_a_question_costs_effort_by_the_devices_that_are_looked_at() -> None:
    here = rooms(cluster(nodes=1, gpus=8, dra=True) + claim("c", ask(1)))
    wanted = shape(here, pod("p", claims={"gpu": "c"}))
    effort = Effort(left=1.0)
    with here.within(effort):
        here.capacity("node-0", (), wanted, 1)
        first = 1.0 - effort.left
        here.capacity("node-0", (), wanted, 1)
    assert first >= QUESTION + 8 * LOOK
    assert 1.0 - effort.left - first == pytest.approx(QUESTION), "what is known costs the question alone"


def test_hard_questions_share_the_patience_of_a_plan_and_easy_ones_are_always_answered() -> None:
    patience = Patience.of(Policy(allocator_steps=3_000))
    assert [patience.steps(most) for most in (10, 3_000)] == [10, 3_000]
    for _ in range(8):
        patience.spend(patience.steps(3_000))
    assert (patience.left, patience.steps(3_000)) == (0, EASY)
    patience.spend(EASY)
    assert patience.steps(3_000) == EASY


def test_without_patience_left_a_hard_question_is_answered_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.plan.ground.rooms.EASY", 1)
    made = gpu_class() + node("a", gpus=8, dra=True) + node("b", gpus=4, dra=True)
    made += claim("c", ask(4, match="gpu.nvidia.com/nvlinkDomain"))
    here = rooms(made)
    wanted = shape(here, pod("p", claims={"gpu": "c"}))
    here.patience.left = 1
    told = [here.verdict(node, ((wanted, 1),)) for node in ("a", "b")]
    assert [(bool(verdict.cause), verdict.proved) for verdict in told] == [(False, True), (True, False)]
    assert not here.proved


def test_best_fit_goes_where_the_fewest_gpus_are_left() -> None:
    here = rooms(node("whole", gpus=8) + node("half", gpus=4) + node("full", gpus=1))
    assert here.best(shape(here, pod("p", gpus=2))) == "half"


def test_spread_goes_where_the_most_are_left() -> None:
    here = rooms(node("whole", gpus=8) + node("half", gpus=4), policy(spread=True))
    assert here.best(shape(here, pod("p", gpus=2))) == "whole"


def test_a_small_pod_goes_to_the_nvlink_domain_that_is_broken_into_already() -> None:
    made = gpu_class() + claim("c", ask(1)) + claim("held", ask(1))
    for number in range(4):
        made += node(f"n{number}", gpus=4, dra=True, domain=f"nvl-{number // 2}")
    here = rooms(made)
    first, second = pod("p", claims={"gpu": "held"}), pod("q", claims={"gpu": "c"})
    assert here.best(shape(here, first)) == "n0"
    taken = pod("t", cpu=1)
    inventory, ledger = here.ledger.inventory, here.ledger
    (wanted,) = claim("held", ask(1)).claims.values()
    answer = allocate(ledger.nodes["n3"], [Ask(claim=wanted)], inventory, ledger.in_use)
    assert isinstance(answer, Allocated)
    allocated = ((wanted, answer.allocations[0]),)
    ledger.take(Grant(pod=taken, node="n3", requests=taken.requests, allocated=allocated, joins=(wanted.key,)))
    assert here.best(shape(here, second)) == "n3"
    assert sorted(["n0", "n1", "n2"], key=lambda name: here.rank(name, shape(here, second))) == ["n2", "n0", "n1"]


def test_pods_without_devices_leave_gpu_nodes_alone() -> None:
    here = rooms(node("gpus", gpus=8, cpu=8) + node("plain", cpu=64))
    assert here.best(shape(here, pod("p", cpu=4))) == "plain"


def test_the_best_node_is_found_again_after_every_change() -> None:
    here = rooms(cluster(nodes=3, gpus=2))
    wanted = pod("p", gpus=1)
    seen = []
    while (best := here.best(shape(here, wanted))) is not None:
        seen.append(best)
        here.ledger.take(Grant(pod=wanted, node=best, requests=wanted.requests))
    assert seen == ["node-0", "node-0", "node-1", "node-1", "node-2", "node-2"]


def test_a_preferred_node_goes_before_a_better_fit() -> None:

    here = rooms(node("tight", gpus=1) + node("wished", gpus=8, labels={"pool": "b"}))
    (term,) = label_in("pool", "b").node_selector_terms
    wish = (PreferredSchedulingTerm(weight=1, preference=term),)
    assert here.best(shape(here, pod("p", gpus=1, preferred_affinity=wish))) == "wished"


def test_causes_are_counted_most_first() -> None:
    made = cluster(nodes=3, gpus=1, cpu=4) + node("cordoned", gpus=4, unschedulable=True)
    made += running("a", on="node-0", cpu=4) + running("b", on="node-1", cpu=4)
    here = rooms(made)
    counted = causes(here, shape(here, pod("p", gpus=1, cpu=2)), here.nodes, here.guests())
    assert [str(cause) for cause in counted] == [
        "2 nodes have too little free cpu: none of the 2 CPUs asked for",
        "1 node is unschedulable",
    ]
