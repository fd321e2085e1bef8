"""The checker of plans on NUMA zones: right plans pass, and every error planted in one is told."""

from dataclasses import replace

import pytest

from scheduler.model.plan import Plan
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.model.zones import Zones
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from scheduler.state.translate import snapshot
from tests.manifests import Document, node, queue, state
from tests.numa import guaranteed, node_topology


def planned(*documents: Document) -> tuple[Snapshot, Plan]:
    seen = snapshot(state(queue("default"), *documents), now_ms=0, policy=Policy())
    return seen, plan(seen)


def two_on_one_node() -> tuple[Snapshot, Plan]:
    seen, made = planned(
        node("n1", cpu="16"),
        node_topology("n1", {"cpu": 4}, {"cpu": 4}),
        guaranteed("a", cpu="3"),
        guaranteed("b", cpu="3"),
    )
    assert len(made.placements) == 2
    return seen, made


def zones(seen: Snapshot, **changes: object) -> Snapshot:
    (one,) = seen.nodes
    assert one.zones is not None
    return replace(seen, nodes=(replace(one, zones=replace(one.zones, **changes)),))  # type: ignore[arg-type]


def test_a_right_plan_passes():
    assert check(*two_on_one_node()) == ()


@pytest.mark.parametrize("bound", [None, 5])
def test_too_little_left_is_told(bound: int | None):
    """Somebody is there whom the exporter has not seen, whether he runs or not."""
    seen, made = two_on_one_node()
    other = replace(seen.gangs[0].pods[0], key="a/other", uid="other", node="n1", started_ms=bound)
    told = check(replace(seen, pods=(other,)), made)
    assert told == ("the NUMA zones of node n1 do not hold a/a, a/b",)


def test_a_zone_that_is_gone_is_told():
    seen, made = two_on_one_node()
    known: Zones | None = seen.nodes[0].zones
    assert known is not None
    assert any("NUMA zones" in told for told in check(zones(seen, zones=known.zones[:1]), made))


def test_what_would_need_two_zones_is_told_where_one_is_asked_for():
    seen, made = planned(
        node("n1", cpu="16"),
        node_topology("n1", {"cpu": 4}, {"cpu": 4}, policy="restricted"),
        guaranteed("wide", cpu="6"),
    )
    assert check(seen, made) == ()
    assert check(zones(seen, single=True), made) == ("the NUMA zones of node n1 do not hold a/wide",)


def test_whoever_the_exporter_has_seen_is_not_counted_twice():
    there = [
        node("n1", cpu="16"),
        node_topology("n1", {"cpu": (4, 1)}, {"cpu": 4}),
        guaranteed("old", cpu="3", on="n1"),
        guaranteed("new", cpu="4"),
    ]
    seen, made = planned(*there)
    assert len(made.placements) == 1
    assert check(seen, made) == ()
