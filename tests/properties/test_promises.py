"""Nobody leaves in vain: whoever others make way for starts when they have left, however long that takes each of them
and whatever comes meanwhile; and no room is given twice."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.model.plan import Plan
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import World, ask, cluster, gang, queue, topology
from tests.rounds import after, leaving
from tests.strategies import carried_out

ROUNDS = 20
GPUS = 4
STAGES = ("allocate", "consolidate", "reclaim", "preempt")


def a_cluster(chance: Random) -> World:
    """Up to four nodes of four GPUs, published by a driver or a device plugin, in two racks or none; two queues."""
    racks, dra = chance.choice((0, 2)), chance.random() < 0.5
    made = cluster(nodes=chance.randint(1, 4), gpus=GPUS, dra=dra, racks=racks) + topology("racks", "rack")
    return made + queue("red", quota=chance.randint(0, 8)) + queue("blue", quota=chance.randint(0, 8))


def a_gang(made: World, name: str, chance: Random) -> World:
    """One that may wait in this cluster."""
    racks = any("rack" in node.labels for node in made.nodes)
    pods, gpus = chance.randint(1, 4), chance.choice((1, 1, 2, 3, 4))
    return gang(
        name,
        pods=pods,
        gpus=0 if made.slices else gpus,
        claims={"gpus": ask(gpus)} if made.slices else None,
        minimum=chance.randint(1, pods),
        queue=chance.choice(("red", "blue")),
        priority=chance.choice((10, 20, 30)),
        preemptible=chance.random() < 0.8,
        topology=("racks", "rack", None) if racks and chance.random() < 0.3 else None,
        ports=[80] if chance.random() < 0.15 else [],
        created_ms=chance.randint(0, 9),
    )


def gpus_asked(made: World) -> dict[str, int]:
    """By pod (key)."""
    asked = {}
    for each in made.gangs:
        for pod in each.pods:
            claims = [made.claims[entry.claim] for entry in pod.claims if entry.claim in made.claims]
            counts = [request.exactly.count or 0 for one in claims for request in one.spec.devices.requests or ()]
            asked[pod.key] = pod.requests["nvidia.com/gpu"] + sum(counts)
    return asked


def no_room_is_given_twice(made: World, decided: Plan) -> None:
    """On every node there is enough for those who stay, those who start and those who are promised something."""
    evicted, asked = {eviction.pod for eviction in decided.evictions}, gpus_asked(made)
    pods = {pod.key: pod for each in made.gangs for pod in each.pods}
    there = [(pod.key, pod.node) for pod in pods.values() if pod.node and not pod.terminating]
    there = [(pod, node) for pod, node in there if pod not in evicted]
    there += [(placement.pod, placement.node) for placement in decided.placements]
    there += [(promise.pod, promise.node) for promise in decided.promises]
    assert len({pod for pod, _ in there}) == len(there)
    for node in made.nodes:
        here = [pod for pod, name in there if name == node.name]
        assert sum(asked[pod] for pod in here) <= GPUS
        ports = [port for pod in here for port in pods[pod].host_ports]
        assert len(set(ports)) == len(ports)


def whose(made: World, decided: Plan) -> set[str]:
    """Gangs that lose pods."""
    evicted = {eviction.pod for eviction in decided.evictions}
    return {each.key for each in made.gangs if any(pod.key in evicted for pod in each.pods)}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_whoever_others_make_way_for_starts_when_they_have_left(seed: int) -> None:
    chance = Random(seed)
    made = a_cluster(chance)
    for number in range(chance.randint(1, 6)):
        made += a_gang(made, f"old-{number}", chance)
    made = carried_out(made, plan(made.under(stages=("allocate",)))).under(
        stages=STAGES, solver_deterministic_seconds=0.01
    )
    waiting: set[str] = set()
    for number in range(ROUNDS):
        if number < ROUNDS // 2 and chance.random() < 0.5:
            made += a_gang(made, f"new-{number}", chance)
        decided = plan(made)
        assert check(made, decided) == ()
        no_room_is_given_twice(made, decided)
        promised = {promise.gang for promise in decided.promises}
        started = {placement.gang for placement in decided.placements}
        evicted_for = {eviction.beneficiary for eviction in decided.evictions}
        assert waiting <= promised | started, "a promise is kept"
        assert not (waiting - started) & evicted_for, "nobody leaves for it twice"
        # Who is asked to leave himself, by somebody who came later, does not wait any more.
        waiting = ((waiting - started) | evicted_for) - whose(made, decided)
        able = leaving(made)
        assert able or not waiting - evicted_for, "who waits when nobody leaves any more could have started"
        made = after(made, decided, gone=[chance.choice(able)] if able else [])
