"""What holds of every plan, whatever the cluster, the queues and the gangs."""

import random
from dataclasses import replace

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.model.plan import Verdict
from scheduler.model.plan_document import to_json
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import World
from tests.strategies import carried_out, worlds

modest = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@modest
@given(worlds())
def test_every_plan_obeys_every_rule(world: World) -> None:
    """No device or capacity given twice, a gang whole or absent, no queue past its limit: all of `check`."""
    assert check(world, plan(world)) == ()


@modest
@given(worlds(), st.integers(0, 1000))
def test_the_same_snapshot_in_any_order_gives_the_same_plan(world: World, seed: int) -> None:
    dice = random.Random(seed)

    def shuffled(parts: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(dice.sample(parts, len(parts)))

    other = replace(
        world,
        nodes=shuffled(world.nodes),
        slices=shuffled(world.slices),
        pods=shuffled(world.pods),
        gangs=tuple(replace(gang, pods=shuffled(gang.pods)) for gang in shuffled(world.gangs)),
        queues=shuffled(world.queues),
        claims=dict(shuffled(tuple(world.claims.items()))),
        classes=dict(shuffled(tuple(world.classes.items()))),
        usage=dict(shuffled(tuple(world.usage.items()))),
    )
    assert msgspec.json.encode(to_json(plan(other))) == msgspec.json.encode(to_json(plan(world)))


@modest
@given(worlds())
def test_a_gang_loses_its_place_only_to_one_that_the_greedy_could_not_seat(world: World) -> None:
    """Where the greedy misses a seat for a gang whose turn it is, the solver finds it, and those behind have less."""

    def placed(made: World) -> set[str]:
        return {decision.gang for decision in plan(made).gangs if decision.verdict is Verdict.PLACED}

    greedy, exact = placed(world.under(solver_enabled=False)), placed(world)
    assert greedy <= exact or exact - greedy


@modest
@given(worlds())
def test_once_carried_out_a_plan_is_followed_by_one_that_moves_nothing(world: World) -> None:
    first = plan(world)
    after = carried_out(world, first)
    second = plan(after)
    assert check(after, second) == ()
    assert not {p.pod for p in second.placements} & {p.pod for p in first.placements}
    assert {d.gang for d in second.gangs if d.verdict is Verdict.PLACED and not d.bound} == set()


@modest
@given(worlds())
def test_every_gang_is_decided_and_whoever_waits_is_told_why(world: World) -> None:
    decided = plan(world)
    assert [decision.gang for decision in decided.gangs] == sorted(gang.key for gang in world.gangs)
    for decision in decided.gangs:
        if decision.verdict in (Verdict.PENDING, Verdict.REFUSED):
            assert decision.reason is not None
            assert decision.placed == 0
            assert decision.reason.message.endswith(".")
            assert decision.reason.cure
