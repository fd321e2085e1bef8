"""MIG slices that are asked for by annotation, as KAI read them before there were extended resources for them.

Source: KAI's allocateMIG_test.go ("legacy MIG jobs").
"""

from dataclasses import replace

from scheduler.model.plan import Plan
from scheduler.model.reasons import Unreadable
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from scheduler.state.translate import snapshot
from tests.manifests import Document, container, merged, node, pod, queue, state

SLICE = "nvidia.com/mig-1g.10gb"
OLD = {SLICE: "1"}


def planned(*documents: Document) -> tuple[Snapshot, Plan]:
    there = merged(node("n1"), status={"allocatable": {SLICE: "2"}})
    seen = snapshot(state(queue("default"), there, *documents), now_ms=0, policy=Policy())
    made = plan(seen)
    assert check(seen, made) == ()
    return seen, made


def asking(name: str) -> Document:
    return pod(name, containers=[container(requests={SLICE: "1"}, limits={SLICE: "1"})])


def test_a_pod_that_asks_by_annotation_is_told_how_to_ask():
    _, made = planned(pod("old", annotations=OLD))
    assert made.placements == ()
    reason = made.why("old")
    assert isinstance(reason, Unreadable)
    assert reason.message == f"Pod/a/old: metadata.annotations.{SLICE}: MIG slices are no longer given by annotation."
    assert reason.cure == f"Ask for {SLICE} in resources.limits of a container."


def test_beside_one_that_runs_nobody_gets_slices_of_the_node():
    _, made = planned(pod("old", node="n1", phase="Running", annotations=OLD), asking("new"), pod("plain"))
    assert [placement.pod for placement in made.placements] == ["a/plain"]
    _, made = planned(asking("new"))
    assert [placement.pod for placement in made.placements] == ["a/new"]


def test_the_checker_tells_slices_given_beside_it():
    seen, made = planned(asking("new"))
    (old,) = planned(pod("old", node="n1", phase="Running", annotations=OLD))[0].pods
    told = check(replace(seen, pods=(old,)), made)
    assert told == ("node n1 gives MIG slices beside a pod that holds some of them unknown to its device plugin",)
