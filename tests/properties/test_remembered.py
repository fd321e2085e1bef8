"""What is remembered from plan to plan never shows: a cluster that has been looked at before, or only in part, is
judged like one that nobody has seen."""

import copy
import random
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from queues.tree import Queue, QueueResource
from scheduler.explain import why
from scheduler.model.workloads import Claim
from scheduler.plan.desk import Desk
from scheduler.plan.planner import plan
from scheduler.plan.rest import at_rest
from scheduler.plan.wants import Wants
from scheduler.solver.check import check
from tests.builders import World, holding
from tests.strategies import MEASURED, carried_out, worlds

modest = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def busy(world: World, other: World) -> World:
    """The world with its plan carried out, and with what others want in it."""
    running = carried_out(world, plan(world))
    names = {gang.key: f"{gang.key}-other" for gang in other.gangs}
    waiting = tuple(
        replace(
            gang,
            key=names[gang.key],
            pods=tuple(replace(one, key=f"{one.key}-other", uid=f"{one.uid}-other") for one in gang.pods),
        )
        for gang in other.gangs
    )
    return replace(running, gangs=running.gangs + waiting, claims={**other.claims, **running.claims})


def variants(world: World, dice: random.Random) -> list[World]:
    """The same world with one thing changed, and all else the same objects: what its costs depend on."""

    def paid_by_another(claim: Claim) -> Claim:
        uids = [one.uid for gang in world.gangs for one in gang.pods]
        return replace(claim, reserved_for=tuple(dice.sample(uids, min(len(uids), 3))))

    def measured(queue: Queue, dice: random.Random) -> dict[str, QueueResource]:
        return {**queue.resources, dice.choice(sorted(MEASURED)): QueueResource(weight=2)}

    def moved(claim: Claim) -> Claim:
        return replace(claim, allocation=holding("n0", dice.randrange(3))) if claim.allocation else claim

    return [
        replace(world, claims={key: paid_by_another(claim) for key, claim in world.claims.items()}),
        replace(world, claims={key: moved(claim) for key, claim in world.claims.items()}),
        replace(world, slices=tuple(dice.sample(world.slices, len(world.slices) // 2))),
        replace(world, gangs=tuple(replace(gang, queue=dice.choice(["red", "", "gone"])) for gang in world.gangs)),
        replace(world, queues=tuple(queue for queue in world.queues if queue.name != "red")),
        replace(world, gangs=tuple(replace(gang, preemptible=not gang.preemptible) for gang in world.gangs)),
        replace(world, queues=tuple(replace(queue, resources=measured(queue, dice)) for queue in world.queues)),
        world.under(default_queue="blue"),
        replace(world, nodes=world.nodes[1:]),
    ]


@modest
@given(worlds(), worlds(), st.integers(0, 1000))
def test_a_cluster_seen_before_is_judged_like_one_never_seen(world: World, other: World, seed: int) -> None:
    """Snapshots in turn, each sharing most objects with the one before; beside each the same of objects of its own."""
    known = busy(world, other)
    for each in variants(known, random.Random(seed)):
        for seen in (each, known):
            unseen = copy.deepcopy(seen)
            decided = plan(seen)
            assert decided == plan(unseen)
            assert check(seen, decided) == () == check(unseen, decided)
            silent = replace(decided, queues=())
            assert check(seen, silent) == check(unseen, silent), "the verifier's bill"
            assert why.reports(seen, decided) == why.reports(unseen, decided)


@modest
@given(worlds(), worlds())
def test_a_gang_at_rest_wants_nothing(world: World, other: World) -> None:
    """What is said of it without looking at its wants is what they would have said."""
    desk = Desk.of(busy(world, other))
    for gang in desk.snapshot.gangs:
        decision = at_rest(gang)
        assert (gang.key in desk.resting) <= (decision is not None)
        if decision is None:
            continue
        wants = Wants(gang, desk.snapshot.claims, desk.ledger.consumers, desk.shapes, desk.domains)
        assert wants.minimum() is None
        assert wants.growth() is None
        assert (wants.waiting, wants.bound, wants.needed) == (0, decision.bound, decision.needed)
