"""Joint placement: what one pod after the other cannot find, or cannot rule out."""

from dataclasses import replace

from scheduler.model.plan import Plan, Verdict
from scheduler.model.reasons import GangDoesNotFit
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import (
    World,
    ask,
    claim,
    cluster,
    device_class,
    devices,
    gang,
    gang_of,
    gpu,
    gpu_class,
    node,
    pod,
    queue,
)


def decide(made: World) -> Plan:
    decided = plan(made)
    assert check(made, decided) == ()
    return decided


def started(decided: Plan) -> list[str]:
    return [decision.gang for decision in decided.gangs if decision.verdict is Verdict.PLACED]


# Best fit puts one pod of `pairs` on each node; then neither has three GPUs left for `triple`.
STRANDED = (
    queue("default")
    + node("a", gpus=4)
    + node("b", gpus=3)
    + gang("pairs", pods=2, gpus=2, priority=1)
    + gang("triple", pods=1, gpus=3)
)


def test_two_gangs_start_together_where_the_greedy_order_strands_gpus() -> None:
    assert started(decide(STRANDED.under(solver_enabled=False))) == ["default/pairs"]
    decided = decide(STRANDED)
    assert started(decided) == ["default/pairs", "default/triple"]
    assert decided.solver.status == "optimal"
    assert {p.pod: p.node for p in decided.placements}["default/triple-0"] == "b"


def test_the_same_with_devices_which_are_allocated_anew_for_those_that_move() -> None:
    made = queue("default") + gpu_class() + node("a", gpus=4, dra=True) + node("b", gpus=3, dra=True)
    made += gang("pairs", pods=2, claims={"g": ask(2)}, priority=1) + gang("triple", pods=1, claims={"g": ask(3)})
    decided = decide(made)
    assert started(decided) == ["default/pairs", "default/triple"]
    devices = [
        f"{result.pool}/{result.device}"
        for p in decided.placements
        for part in p.claims
        if part.allocation is not None
        for result in part.allocation.devices.results or ()
    ]
    assert len(set(devices)) == 7


def test_joint_placement_keeps_within_the_limits_of_queues() -> None:
    made = replace(STRANDED, queues=queue("default", limit=6).queues)
    assert started(decide(made)) == ["default/pairs"]


def test_no_gang_that_the_greedy_placed_loses_its_place_for_a_larger_one() -> None:
    made = cluster(nodes=1, gpus=8) + gang("small", pods=1, gpus=1, priority=1) + gang("large", pods=1, gpus=8)
    assert started(decide(made)) == ["default/small"]


def test_unlike_pods_find_seats_that_best_fit_misses() -> None:
    """Three kinds: 4+3 and 3+2+2 GPUs fill two nodes of seven; taking the largest first leaves 2 behind 4."""
    sizes = [4, 3, 3, 2, 2]
    made = cluster(nodes=2, gpus=7) + gang_of("mixed", [pod(f"m-{i}", gpus=size) for i, size in enumerate(sizes)])
    assert len(decide(made).placements) == 5


def test_an_unlike_gang_that_fits_by_the_sum_but_not_in_fact_is_proved_impossible() -> None:
    """3 + 3 + 2 GPUs on two nodes of four."""
    pods = [pod("m-0", gpus=3), pod("m-1", gpus=3), pod("m-2", gpus=2)]
    decided = decide(cluster(nodes=2, gpus=4) + gang_of("mixed", pods))
    reason = decided.why("mixed")
    assert isinstance(reason, GangDoesNotFit)
    assert (reason.needed, reason.placeable, reason.proved) == (3, 2, True)
    assert decided.solver.status == "impossible"


def test_without_the_solver_the_same_gang_waits_and_nothing_is_claimed_to_be_proved() -> None:
    pods = [pod("m-0", gpus=3), pod("m-1", gpus=3), pod("m-2", gpus=2)]
    reason = decide((cluster(nodes=2, gpus=4) + gang_of("mixed", pods)).under(solver_enabled=False)).why("mixed")
    assert isinstance(reason, GangDoesNotFit)
    assert not reason.proved
    assert reason.message.endswith("(not proved within the budget).")


def test_a_search_whose_time_ends_while_it_still_reads_the_nodes_proves_nothing() -> None:
    pods = [pod("m-0", gpus=3), pod("m-1", gpus=3), pod("m-2", gpus=2)]
    made = cluster(nodes=2, gpus=4) + gang_of("mixed", pods)
    decided = decide(made.under(solver_deterministic_seconds=0.0001))
    reason = decided.why("mixed")
    assert isinstance(reason, GangDoesNotFit)
    assert not reason.proved
    assert (decided.solver.status, decided.solver.seconds) == ("budget", 0.0001)


def test_many_kinds_of_pods_that_fit_in_any_number_leave_nothing_to_search() -> None:
    """Sixteen sizes are 2**16 ways to fill a node; all of them at once leave out none."""
    small = [pod(f"m-{i:02d}", cpu=0.5 + i / 100) for i in range(16)]
    large = [pod(f"m-x{i}", gpus=8, cpu=50) for i in range(3)]
    decided = decide(cluster(nodes=2, gpus=8, cpu=64) + gang_of("mixed", [*small, *large]))
    assert decided.solver.status == "impossible"
    assert decided.solver.seconds < 0.1


def test_which_pods_make_up_the_minimum_is_chosen_so_that_it_fits() -> None:
    """Any two of three: the first listed asks for more than is free."""
    pods = [pod("m-0", gpus=8), pod("m-1", gpus=2), pod("m-2", gpus=2)]
    made = cluster(nodes=1, gpus=8) + gang("busy", pods=1, gpus=4, on=["node-0"]) + gang_of("any", pods, minimum=2)
    decided = decide(made)
    assert [p.pod for p in decided.placements] == ["default/m-1", "default/m-2"]


def test_gangs_that_share_a_claim_without_devices_are_not_placed_at_once() -> None:
    """The claim gets its devices with the first of them; a search would give it some with each."""
    fabric = "fabric.example.com"
    made = queue("default") + node("a", gpus=4) + node("b", gpus=3) + gang("pairs", pods=2, gpus=2, priority=2)
    made += device_class(fabric, f'device.driver == "{fabric}"') + claim("s", ask(1, of=fabric))
    made += devices("a", [gpu(0)], driver=fabric) + devices("b", [gpu(0)], driver=fabric)
    made += gang("triple", gpus=3, shared={"g": "s"}, priority=1) + gang("small", shared={"g": "s"})
    decided = decide(made)
    assert started(decided) == ["default/pairs", "default/small"]
    given = [part.allocation for p in decided.placements for part in p.claims]
    assert len(given) == 1
