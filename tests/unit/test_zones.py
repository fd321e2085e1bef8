"""NUMA zones of a node as a plan grows. Scenarios of whole plans are in tests/scenarios/test_numa.py."""

from dataclasses import replace

import pytest

from queues.resources import Resources
from scheduler.model.workloads import Pod
from scheduler.model.zones import Aligned, Zone, Zones
from scheduler.plan.ground.zones import Zoned
from tests import builders


def cpus(amount: int) -> Resources:
    return Resources({"cpu": amount})


def pod(name: str, *parts: int, on: str = "", started: int | None = None, inits: tuple[int, ...] = ()) -> Pod:
    whole = cpus(max([sum(parts), *inits]))
    aligned = Aligned(whole=whole, containers=tuple(map(cpus, parts)), inits=tuple(map(cpus, inits)))
    return replace(builders.pod(name, on=on), aligned=aligned, started_ms=started)


def zoned(*zones: tuple[int, int], pods: tuple[Pod, ...] = (), single: bool = True, per_pod: bool = True) -> Zoned:
    """One node "n"; zones by what they have and what of it is available."""
    told = tuple(
        Zone(name=f"node-{i}", allocatable=cpus(most), available=cpus(free)) for i, (most, free) in enumerate(zones)
    )
    (node,) = builders.node("n").nodes
    return Zoned.of({"n": replace(node, zones=Zones(single=single, per_pod=per_pod, zones=told))}, pods)


def takes(zones: Zoned, *pods: Pod, without: tuple[Pod, ...] = ()) -> bool:
    return not zones.refusal("n", [(each, 1) for each in pods], without=without)


def test_a_node_without_zones_takes_all():
    (node,) = builders.node("n").nodes
    found = Zoned.of({"n": node}, ())
    assert not found.concern("n")
    assert takes(found, pod("p", 1000))


def test_what_was_taken_and_given_back_is_as_before():
    zones = zoned((4, 4), (4, 4))
    before = zones.state("n")
    one, other = pod("one", 4), pod("other", 3)
    zones.take(one, "n")
    zones.take(other, "n")
    assert zones.state("n") != before
    assert takes(zones, pod("p", 1))
    assert not takes(zones, pod("p", 2))
    zones.give_back(other, "n")
    zones.give_back(one, "n")
    assert zones.state("n") == before


def test_a_fork_grows_apart():
    zones = zoned((4, 4))
    fork = zones.fork()
    fork.take(pod("one", 4), "n")
    assert takes(zones, pod("p", 4))
    assert not takes(fork, pod("p", 4))


def test_a_pod_that_leaves_gives_back_what_it_had_and_staying_takes_it_again():
    one = pod("one", 3, on="n", started=1)
    zones = zoned((4, 1), (4, 4), pods=(one, pod("two", 0, on="n", started=1)))
    asked = pod("p", 4), pod("q", 4)
    assert not takes(zones, *asked)
    assert takes(zones, *asked, without=(one,))
    before = zones.state("n")
    zones.leave(one)
    assert takes(zones, *asked)
    zones.stay(one)
    assert zones.state("n") == before


def test_a_pod_may_be_moved_within_its_node():
    one = pod("one", 3, on="n", started=1)
    zones = zoned((4, 1), (4, 4), pods=(one,))
    zones.leave(one)
    zones.take(pod("p", 4), "n")
    assert takes(zones, one)
    zones.take(one, "n")
    assert not takes(zones, pod("q", 2))


def test_the_oldest_that_run_are_those_that_the_exporter_has_seen():
    old, young = pod("old", 3, on="n", started=1), pod("young", 3, on="n", started=2)
    assert takes(zoned((4, 1), (4, 4), pods=(old,)), pod("p", 4))
    assert not takes(zoned((4, 1), (4, 4), pods=(old, young)), pod("p", 2))
    assert not takes(zoned((4, 1), (4, 4), pods=(old, pod("bound", 3, on="n"))), pod("p", 2))


def test_what_nobody_has_any_more_is_free_once_the_exporter_looks_again():
    zones = zoned((4, 1), (4, 1), pods=(pod("one", 3, on="n", started=1),))
    assert not takes(zones, pod("p", 3))
    assert zones.foresee() == ["n"]
    assert zones.foresee() == []
    assert takes(zones, pod("p", 4))
    assert not takes(zones, pod("p", 3), pod("q", 3))


def test_where_too_many_may_have_been_anywhere_nothing_becomes_free_before_all_have_left():
    many = tuple(pod(f"p{i:02}", 1, on="n", started=1) for i in range(12))
    zones = zoned((8, 2), (8, 2), pods=many)
    assert not takes(zones, pod("p", 3), without=many[:11])
    assert takes(zones, pod("p", 8), without=many)


@pytest.mark.parametrize(("parts", "fits"), [((3, 3), True), ((5,), False), ((1, 2, 3), True), ((2, 2, 2), False)])
def test_containers_are_aligned_one_by_one(parts: tuple[int, ...], fits: bool):
    assert takes(zoned((4, 3), (4, 3), per_pod=False, pods=(pod("x", 1, 1, on="n", started=1),)), pod("p", *parts)) is (
        fits
    )


def test_an_init_container_needs_a_zone_and_leaves_it():
    assert takes(zoned((4, 4), per_pod=False), pod("p", 4, inits=(4, 4)))
    assert not takes(zoned((4, 4), per_pod=False), pod("p", 2, inits=(5,)))


def test_who_spans_zones_may_take_the_most_of_each():
    zones = zoned((4, 4), (4, 4), (4, 4), single=False)
    zones.take(pod("wide", 6), "n")
    assert takes(zones, pod("p", 4))
    assert not takes(zones, pod("p", 4), pod("q", 1))


def test_memory_that_no_manager_aligns_is_never_in_use_and_hides_nobody():
    """Kubelets without a memory manager say all of it is available, whoever runs."""

    def with_memory(name: str, amount: int, *, on: str = "") -> Pod:
        asked = Resources({"cpu": amount, "memory": amount})
        found = pod(name, amount, on=on, started=1 if on else None)
        return replace(found, aligned=Aligned(whole=asked, containers=(asked,)))

    zones = tuple(
        Zone(name=f"node-{i}", allocatable=Resources({"cpu": 4, "memory": 8}), available=available)
        for i, available in enumerate((Resources({"cpu": 1, "memory": 8}), Resources({"cpu": 4, "memory": 8})))
    )
    (node,) = builders.node("n").nodes
    node = replace(node, zones=Zones(single=True, per_pod=True, zones=zones))
    one = with_memory("one", 3, on="n")
    found = Zoned.of({"n": node}, (one, pod("other", 1, on="n")))
    assert takes(found, with_memory("p", 4))
    assert not takes(found, with_memory("p", 4), with_memory("q", 3))
    assert takes(found, with_memory("p", 4), with_memory("q", 3), without=(one,))
    assert found.foresee() == []


def test_who_is_there_under_another_policy_is_in_no_zone():
    assert takes(zoned((4, 4), (4, 4), pods=(pod("wide", 6, on="n", started=1),)), pod("p", 4))


def test_a_cause_names_what_is_lacking_and_the_zones():
    zones = zoned((4, 1), (4, 1), pods=(pod("x", 3, on="n", started=1),))
    assert zones.refusal("n", [(pod("p", 2), 1)]) == (
        "has too little free cpu together in one of node-0, node-1 (NUMA zones)"
    )
    assert zones.refusal("n", [(pod("p", 5), 1)]) == (
        "could not have 0.005 CPUs in one of its NUMA zones (node-0, node-1)"
    )
