"""The allocate stage: order, memory of what failed, growth, budgets of search."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from scheduler.dra.allocate import Allocated, Answer, Ask, NoRoom, allocate
from scheduler.dra.counters import InUse
from scheduler.dra.pools import Inventory
from scheduler.model.nodes import Node
from scheduler.model.plan import Verdict
from scheduler.model.reasons import GangDoesNotFit
from scheduler.plan.desk import SEARCHES, Desk
from scheduler.plan.ground.rooms import EASY, HARD_QUESTIONS
from scheduler.plan.placing import joint, realise
from scheduler.plan.placing.allocate import place_pending
from scheduler.plan.planner import plan
from tests.builders import World, ask, cluster, gang, gang_of, pod, queue


def desk(made: World) -> Desk:
    return Desk.of(made)


def test_higher_priority_is_served_first_then_age_then_name() -> None:
    made = cluster(nodes=1, gpus=1)
    made += (
        gang("a", gpus=1, created_ms=5) + gang("b", gpus=1, created_ms=3) + gang("c", gpus=1, priority=1, created_ms=9)
    )
    here = desk(made)
    place_pending(here)
    assert list(here.order) == ["default/c", "default/b", "default/a"]
    assert list(here.placed) == ["default/c"]


def test_what_failed_once_is_not_tried_again_for_others_that_ask_the_same() -> None:
    made = cluster(nodes=1, gpus=3)
    for number in range(20):
        made += gang(f"g{number:02d}", pods=2, gpus=2)
    here = desk(made)
    place_pending(here)
    assert len(here.fruitless) == 1
    assert [reason.message.split()[0] for reason in here.reasons.values()] == [f"default/g{n:02d}" for n in range(20)]


def test_surplus_is_placed_after_every_minimum_and_in_turns() -> None:
    made = cluster(nodes=1, gpus=4) + queue("red") + gang("a", pods=4, gpus=1, minimum=1)
    made += gang("b", pods=4, gpus=1, minimum=1, queue="red")
    here = desk(made)
    place_pending(here)
    assert {key: len(parts) for key, parts in here.placed.items()} == {"default/a": 2, "default/b": 2}


def test_searches_end_when_their_time_together_is_spent() -> None:
    made = cluster(nodes=2, gpus=4)
    for number in range(3):
        made += gang_of(f"m{number}", [pod(f"m{number}-{i}", gpus=3 - i // 2) for i in range(3)])
    here = desk(made)
    here.search_seconds = 0.0
    place_pending(here)
    assert {report.status for report in here.solved.values()} == {"budget"}
    assert desk(made).search_seconds == SEARCHES * 0.5


def test_what_is_charged_is_what_the_devices_cost_not_what_was_estimated() -> None:
    made = cluster(nodes=1, gpus=4) + queue("red", limit=4) + gang("a", pods=2, gpus=2, queue="red")
    here = desk(made)
    place_pending(here)
    assert here.ledger.allocated["red"]["gpu"] == 4000


def test_a_problem_too_large_for_the_model_is_left_to_the_greedy(monkeypatch: pytest.MonkeyPatch) -> None:
    made = cluster(nodes=2, gpus=4) + gang_of("m", [pod("m-0", gpus=3), pod("m-1", gpus=3), pod("m-2", gpus=2)])
    monkeypatch.setattr(joint, "MOST_VARIABLES", 1)
    assert plan(made).solver.status == "budget"


def test_a_search_for_devices_that_ended_early_proves_nothing() -> None:
    made = cluster(nodes=1, gpus=4, dra=True).under(allocator_steps=1)
    made += gang("g", pods=1, claims={"gpus": ask(4, match="gpu.nvidia.com/nvlinkDomain")})
    (decision,) = plan(made).gangs
    assert decision.verdict is Verdict.PENDING
    assert isinstance(decision.reason, GangDoesNotFit)
    assert not decision.reason.proved


class Slow:
    """Takes all the steps that it is given for the devices of seats, and needs `needed` to find them."""

    def __init__(self, needed: int = 0) -> None:
        self.needed = needed
        self.given: list[int] = []

    def __call__(self, node: Node, asks: Sequence[Ask], inventory: Inventory, in_use: InUse, *, steps: int) -> Answer:
        self.given.append(steps)
        if steps < self.needed:
            return NoRoom(cause="has them well hidden", searched_all=False, steps=steps)
        answer = allocate(node, asks, inventory, in_use, steps=steps)
        assert isinstance(answer, Allocated)
        return replace(answer, steps=steps)


def one_gpu_each(gangs: int) -> World:
    made = cluster(nodes=gangs, gpus=1, dra=True).under(allocator_steps=3_000)
    for number in range(gangs):
        made += gang(f"g{number:02d}", claims={"gpu": ask()})
    return made


def test_looking_for_the_devices_of_seats_is_bounded_for_a_plan_as_finding_seats_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = Slow()
    monkeypatch.setattr(realise, "allocate", slow)
    assert len(plan(one_gpu_each(12)).placements) == 12
    assert slow.given == [3_000] * 7 + [2_000] + [EASY] * 4
    assert sum(slow.given) == HARD_QUESTIONS * 3_000 + 12 * EASY


def test_seats_whose_devices_were_not_found_in_time_are_given_up_and_nothing_is_proved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(realise, "allocate", Slow(needed=2_500))
    decided = plan(one_gpu_each(9))
    assert len(decided.placements) == 7
    for late in ("g07", "g08"):
        reason = decided.why(late)
        assert isinstance(reason, GangDoesNotFit)
        assert not reason.proved
