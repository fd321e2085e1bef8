"""Reservations: nobody is made late by a plan, over rounds of random clusters; a gang's time moves later only for those
before it; and by the time it was told it starts."""

from dataclasses import replace
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.api.core import NodeSelectorRequirement
from scheduler.model.company import Audience, Company, Term
from scheduler.model.plan import Plan
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import World, ask, cluster, gang, queue, topology
from tests.rounds import after

ROUNDS = 24
SEARCHING = 10
"""Rounds where others make way, too: where pods have rules about others a search for whom to stop takes up to forty
tries for each gang that waits, with reservations or without, which is a second a plan."""
GPUS = 4
SECOND = 1000
ENDING = 30 * SECOND


def a_gang(made: World, name: str, chance: Random, **more: Any) -> World:
    """One that may wait in this cluster; most have a time limit."""
    pods, gpus = chance.choice(((1, 1), (1, 2), (2, 1), (2, 2), (3, 4), (2, 4), (4, 2)))
    racks = any("rack" in node.labels for node in made.nodes)
    one = gang(
        name,
        pods=min(pods, len(made.nodes) * (GPUS // gpus)),
        gpus=0 if made.slices else gpus,
        claims={"gpus": ask(gpus)} if made.slices else None,
        topology=("racks", "rack", None) if racks and chance.random() < 0.2 else None,
        ports=[80] if chance.random() < 0.1 else [],
        **{"queue": "q", **more},
    )
    limit = chance.choice((30, 60, 120, 300)) * SECOND if chance.random() < 0.8 else None
    return replace(one, gangs=tuple(replace(each, max_runtime_ms=limit) for each in one.gangs))


def next_round(made: World, decided: Plan, chance: Random) -> World:
    """What is placed has started, within 10 s; who was stopped ends within 30 s; and some end before their time."""
    made = after(made, decided)
    now, left, told = made.now_ms, [], []
    for each in made.gangs:
        early = all(pod.node for pod in each.pods) and chance.random() < 0.05
        pods = []
        for pod in each.pods:
            if pod.node and pod.started_ms is None:
                pod = replace(pod, started_ms=decided.now_ms + chance.choice((0, 0, 5, 10)) * SECOND)
            if pod.terminating and pod.ends_ms is None:
                pod = replace(pod, ends_ms=decided.now_ms + ENDING)
            pods.append(pod)
            if early or (pod.ends_ms is not None and pod.ends_ms <= now):
                left.append(pod.key)
        told.append(replace(each, pods=tuple(pods)))
    made = replace(made, gangs=tuple(told), pods=tuple(pod for each in told for pod in each.pods if pod.node))
    return replace(after(made, Plan(now_ms=now), gone=left), now_ms=now)


def beside(app: str) -> Term:
    """On a node with such pods."""
    wanted = NodeSelectorRequirement(key="app", operator="In", values=(app,))
    return Term(key="kubernetes.io/hostname", audience=Audience(labels=(wanted,), namespaces=("default",)))


MANNERS = ((None, ""), (Company(apart=(beside("b"),)), "a"), (Company(near=(beside("a"),)), "b"), (None, "b"))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_no_plan_makes_anybody_late(seed: int) -> None:
    """In several queues with limits, under all stages, with rules between pods and with gangs that keep free room."""
    chance = Random(seed)
    made = cluster(nodes=chance.randint(1, 4), gpus=GPUS, dra=chance.random() < 0.4, racks=chance.choice((0, 2)))
    made += topology("racks", "rack") + queue("red", quota=chance.randint(0, 8), limit=chance.choice((None, 8, 12)))
    made += queue("blue", quota=chance.randint(0, 8))
    stages = chance.choice((("allocate",), ("allocate", "consolidate", "reclaim", "preempt")))
    rounds = ROUNDS if len(stages) == 1 else SEARCHING
    made = made.under(
        stages=stages,
        reservations=chance.choice((1, 1, 2, 3)),
        reserve_after_seconds=chance.choice((0, 60)),
        solver_deterministic_seconds=0.01,
    )
    social = chance.random() < 0.5
    for number in range(rounds):
        for which in range(chance.choice((0, 1, 2, 3)) if number < rounds // 2 else 0):
            company, app = chance.choice(MANNERS) if social else MANNERS[0]
            made += a_gang(
                made,
                f"g{number:02d}-{which}",
                chance,
                queue=chance.choice(("red", "blue")),
                priority=chance.choice((0, 0, 10)),
                preemptible=chance.random() < 0.7,
                created_ms=made.now_ms,
                company=company,
                labels={"app": app} if app else {},
            )
        decided = plan(made)
        assert check(made, decided) == ()
        shuffled = replace(made, gangs=made.gangs[::-1], pods=made.pods[::-1], nodes=made.nodes[::-1])
        assert number % 6 or plan(shuffled) == decided
        made = next_round(made, decided, chance)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_a_time_that_was_told_is_kept(seed: int) -> None:
    """In one queue, where all come in turn: it moves later only if one who came before is placed or gets a time."""
    chance = Random(seed)
    made = cluster(nodes=chance.randint(1, 4), gpus=GPUS, dra=chance.random() < 0.4, racks=chance.choice((0, 2)))
    made += topology("racks", "rack") + queue("q")
    told: dict[str, int] = {}
    for number in range(ROUNDS):
        for which in range(chance.choice((0, 1, 1, 2)) if number < ROUNDS // 2 else 0):
            made += a_gang(made, f"g{number:02d}-{which}", chance, created_ms=made.now_ms + which)
        decided = plan(made)
        assert check(made, decided) == ()
        placed = {placement.gang for placement in decided.placements}
        starts = {each.gang: each.starts_at_ms for each in decided.gangs if each.starts_at_ms is not None}
        for key, at in told.items():
            before = {each for each in placed | starts.keys() if each < key}
            if key in placed:
                assert made.now_ms - at < 10 * SECOND, "it starts in the first round after its time"
            elif key in starts and starts[key] > at:
                assert before, f"{key} is made late by those behind it"
            elif key not in starts and made.now_ms >= at:
                assert before
        told = {key: at for key, at in starts.items() if key not in placed}
        made = next_round(made, decided, chance)
