"""Where pods go on nodes whose kubelets hold them to NUMA zones.

Source: the kubelet's Topology Manager (KEP 693), noderesourcetopology-api v1alpha2, and KAI's allocate_numa_test.go,
preempt_numa_test.go and reclaim_numa_test.go.
"""

from typing import Any

import pytest

from scheduler.model.plan import Plan
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from scheduler.state.translate import snapshot
from tests.manifests import Document, node, pod, queue, state
from tests.numa import guaranteed, limited, node_topology

GPU = "nvidia.com/gpu"
STAGES = ("allocate", "consolidate", "reclaim", "preempt")


def seen_in(*documents: Document | list[Document], **policy: Any) -> Snapshot:
    return snapshot(state(queue("default"), *documents), now_ms=10_000_000, policy=Policy(**policy))


def planned(*documents: Document | list[Document], **policy: Any) -> Plan:
    seen = seen_in(*documents, **policy)
    made = plan(seen)
    assert check(seen, made) == ()
    return made


def places(made: Plan) -> dict[str, str]:
    return {placement.pod.partition("/")[2]: placement.node for placement in made.placements}


def test_a_pod_goes_where_a_zone_holds_all_of_it():
    made = planned(
        node("n1", cpu="8"),
        node("n2", cpu="8"),
        node_topology("n1", {"cpu": 2}, {"cpu": 2}, {"cpu": 2}, {"cpu": 2}),
        node_topology("n2", {"cpu": 4}, {"cpu": 4}),
        guaranteed("p", cpu="3"),
    )
    assert places(made) == {"p": "n2"}


def test_a_pod_that_no_zone_holds_is_told_which_zones_there_are():
    made = planned(node("n1", cpu="8"), node_topology("n1", {"cpu": 4}, {"cpu": 4}), guaranteed("p", cpu="5"))
    assert made.placements == ()
    reason = made.why("p")
    assert reason is not None
    assert "could not have 5 CPUs in one of its NUMA zones (node-0, node-1)" in reason.message


def test_what_is_placed_takes_zones_at_once():
    made = planned(
        node("n1", cpu="12"),
        node_topology("n1", {"cpu": 4}, {"cpu": 4}),
        *(guaranteed(f"p{i}", cpu="3") for i in range(3)),
    )
    assert places(made) == {"p0": "n1", "p1": "n1"}
    reason = made.why("p2")
    assert reason is not None
    assert "1 node has too little free cpu together in one of node-0, node-1 (NUMA zones)" in reason.message


def test_all_that_is_aligned_must_be_in_the_same_zone():
    """One zone has the CPUs, the other the GPUs."""
    made = planned(
        node("n1", cpu="16", gpus=8),
        node_topology("n1", {"cpu": (8, 4), GPU: (4, 2)}, {"cpu": (8, 2), GPU: 4}),
        guaranteed("a", cpu="4", gpus=2, on="n1"),
        guaranteed("b", cpu="6", on="n1"),
        guaranteed("p", cpu="4", gpus=3),
    )
    assert made.placements == ()
    reason = made.why("p")
    assert reason is not None
    assert "has too little free cpu, nvidia.com/gpu together in one of node-0, node-1" in reason.message


def test_a_pod_that_is_not_guaranteed_is_aligned_in_its_devices_alone():
    zones = [{"cpu": 2, GPU: 4}, {"cpu": 2, GPU: 4}]
    made = planned(node("n1", cpu="4", gpus=8), node_topology("n1", *zones), pod("p", cpu="3", gpus=4))
    assert places(made) == {"p": "n1"}
    made = planned(node("n1", cpu="4", gpus=8), node_topology("n1", *zones), pod("p", cpu="3", gpus=5))
    assert made.placements == ()


def test_parts_of_a_cpu_are_not_aligned():
    made = planned(node("n1", cpu="4"), node_topology("n1", {"cpu": 2}, {"cpu": 2}), guaranteed("p", cpu="2500m"))
    assert places(made) == {"p": "n1"}


@pytest.mark.parametrize(("cpu", "gpus", "goes"), [("6", 0, True), ("6", 6, True), ("6", 2, False), ("9", 0, False)])
def test_restricted_takes_as_few_zones_as_would_do_for_every_amount(cpu: str, gpus: int, goes: bool):
    made = planned(
        node("n1", cpu="12", gpus=8),
        node_topology("n1", {"cpu": 4, GPU: 4}, {"cpu": 4, GPU: 4}, policy="restricted"),
        guaranteed("p", cpu=cpu, **({"gpus": gpus} if gpus else {})),
    )
    assert bool(made.placements) is goes


def test_container_by_container_a_pod_may_be_in_several_zones():
    two = pod("p", containers=[limited("3"), limited("3", name="second")])
    there = node("n1", cpu="8")
    by_container = node_topology("n1", {"cpu": 4}, {"cpu": 4}, scope="container")
    assert places(planned(there, by_container, two)) == {"p": "n1"}
    assert places(planned(there, node_topology("n1", {"cpu": 4}, {"cpu": 4}), two)) == {}


@pytest.mark.parametrize("policy", ["best-effort", "none"])
def test_policies_that_refuse_nobody_do_not_count(policy: str):
    made = planned(
        node("n1", cpu="8"), node_topology("n1", {"cpu": 4}, {"cpu": 4}, policy=policy), guaranteed("p", cpu="5")
    )
    assert places(made) == {"p": "n1"}


def test_pods_that_the_exporter_has_not_seen_count_nevertheless():
    there = [
        node("n1", cpu="8"),
        node_topology("n1", {"cpu": (4, 1)}, {"cpu": 4}),
        guaranteed("old", cpu="3", on="n1"),
        guaranteed("p", cpu="3"),
    ]
    assert places(planned(*there)) == {"p": "n1"}
    assert places(planned(*there, guaranteed("bound", cpu="3", node="n1"))) == {}
    assert places(planned(*there, guaranteed("young", cpu="3", on="n1"))) == {}


def test_the_order_in_which_pods_come_to_the_kubelet_may_be_any():
    """3 and 1, 2 and 2 would do; 1 and 2 in one zone, 2 in the other leave nothing for 3."""
    pods = [guaranteed(f"p{i}", cpu=cpu) for i, cpu in enumerate(("3", "1", "2", "2"))]
    made = planned(node("n1", cpu="8"), node_topology("n1", {"cpu": 4}, {"cpu": 4}), *pods)
    assert len(made.placements) == 3


@pytest.mark.parametrize("cpus", [0, 2])
def test_nobody_fits_for_the_sole_reason_that_somebody_else_came(cpus: int):
    """If `small` is the first to come it has the zone with two GPUs. Somebody who has the CPUs there would send it to
    the other one, but may come last."""
    pods = [guaranteed("small", cpu="1", gpus=1, node="n1"), pod("large", gpus=2)]
    if cpus:
        pods.append(guaranteed("other", cpu=str(cpus), node="n1"))
    made = planned(node("n1", cpu="4", gpus=3), node_topology("n1", {"cpu": 2, GPU: 2}, {"cpu": 2, GPU: 1}), *pods)
    assert made.placements == ()


def test_what_is_refused_stays_refused_when_others_have_been_placed():
    """As before, over two plans: who came between them makes no zone free."""
    there = [node("n1", cpu="4", gpus=3), node_topology("n1", {"cpu": 2, GPU: 2}, {"cpu": 2, GPU: 1})]
    small = guaranteed("small", cpu="1", gpus=1, node="n1")
    first = planned(*there, small, pod("large", gpus=2, priority=1), guaranteed("other", cpu="2"))
    assert places(first) == {"other": "n1"}
    second = planned(*there, small, pod("large", gpus=2, priority=1), guaranteed("other", cpu="2", node="n1"))
    assert second.placements == ()


def full(
    *victims: tuple[str, str, int], free: tuple[int, int] = (1, 1), policy: str = "single-numa-node"
) -> list[Document]:
    """A node of two zones of 4 CPUs, so many of each free; pods on it by name, CPUs and priority."""
    zones = [{"cpu": (4, left)} for left in free]
    pods = [guaranteed(name, cpu=cpu, on="n1", priority=priority) for name, cpu, priority in victims]
    return [node("n1", cpu="64"), node_topology("n1", *zones, policy=policy), *pods]


def stopped(made: Plan) -> set[str]:
    return {eviction.pod.partition("/")[2] for eviction in made.evictions}


def test_a_zone_is_won_from_the_lowest_priority_whichever_zone_it_has():
    made = planned(*full(("low", "3", 1), ("high", "3", 2)), guaranteed("p", cpu="3", priority=3), stages=STAGES)
    assert stopped(made) == {"low"}
    assert [promise.node for promise in made.promises] == ["n1"]


def test_nobody_is_stopped_where_no_zone_would_do():
    made = planned(*full(("low", "3", 1), ("high", "3", 2)), guaranteed("p", cpu="5", priority=3), stages=STAGES)
    assert made.evictions == ()


def test_a_zone_is_won_from_who_gives_enough():
    there = full(("one", "1", 1), ("two", "2", 1), ("three", "3", 2))
    assert stopped(planned(*there, guaranteed("p", cpu="3", priority=3), stages=STAGES)) == {"two"}


def test_who_leaves_may_have_been_in_any_zone_that_could_have_held_him():
    """Of two pods of 2 CPUs one is in the zone with 2 free, and which is not told: both together leave it empty."""
    there = full(("a", "2", 1), ("b", "2", 1), ("c", "1", 2), free=(1, 2))
    made = planned(*there, guaranteed("p", cpu="4", priority=3), stages=STAGES)
    assert stopped(made) == {"a", "b"}


def test_where_all_have_left_all_zones_are_free():
    there = full(("wide", "6", 1), policy="restricted")
    assert stopped(planned(*there, guaranteed("p", cpu="4", priority=3), stages=STAGES)) == {"wide"}


def test_among_many_nodes_where_amounts_would_do_the_least_harm_is_found():
    there: list[Document] = []
    for number in range(60):
        name = f"m{number:02}"
        there.append(node(name, cpu="8"))
        there.append(node_topology(name, {"cpu": (4, 2)}, {"cpu": (4, 2)}))
        priority = 1 if number == 47 else 2
        there += [guaranteed(f"v{number:02}-{i}", cpu="2", on=name, priority=priority) for i in (0, 1)]
    made = planned(*there, guaranteed("p", cpu="3", priority=3), stages=STAGES)
    assert len(stopped(made)) == 1
    assert stopped(made) < {"v47-0", "v47-1"}


def test_what_somebody_had_who_has_ended_is_waited_for_and_nobody_else_is_stopped():
    """The exporter has not looked again since "low" ended: its zone will be free, whichever it was."""
    there = full(("high", "3", 2))
    made = planned(*there, guaranteed("p", cpu="3", priority=3), stages=STAGES)
    assert made.placements == ()
    assert made.evictions == ()
    assert [promise.node for promise in made.promises] == ["n1"]


def test_a_promise_is_kept_until_the_exporter_has_looked_again():
    there = full(("high", "3", 9))
    waiting = guaranteed("p", cpu="3", priority=3)
    waiting["status"]["nominatedNodeName"] = "n1"
    rival = guaranteed("rival", cpu="3", priority=9)
    made = planned(*there, waiting, rival, stages=STAGES)
    assert (made.placements, made.evictions) == ((), ())
    assert [promise.pod for promise in made.promises] == ["a/p"]
    told = node_topology("n1", {"cpu": (4, 1)}, {"cpu": 4})
    made = planned(*(each for each in there if each["kind"] != told["kind"]), told, waiting, rival, stages=STAGES)
    assert places(made) == {"p": "n1"}
