"""Who pays for what runs: labels, PodGroups, owners and queues may change meanwhile, and it is never free."""

from typing import Any

import pytest

from scheduler.explain import why
from scheduler.model.plan import Plan
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.plan import planner
from scheduler.solver.check import check
from scheduler.state.translate import snapshot
from tests.manifests import Document, change, job, merged, node, pod, pod_group, queue, state

NODES = (node("n1", gpus=8), node("n2", gpus=8))
# An organisation may use 8 GPUs, in whichever of its teams.
TREE = (queue("org", gpu={"limit": "8"}), queue("team", "org"), queue("other", "org"))
WAITING = pod("two", gpus=8, queue="other")


def running(queue: str | None = "team", charged: str | None = "org/team", **fields: Any) -> Document:
    """A pod that uses 8 GPUs on n1, placed under `charged`."""
    noted = {"tutti.scheduler/charged-queue": charged} if charged is not None else {}
    annotations = noted | fields.pop("annotations", {})
    return pod("one", gpus=8, node="n1", phase="Running", queue=queue, annotations=annotations, **fields)


def seen(*documents: Document | list[Document]) -> Snapshot:
    return snapshot(state(*NODES, *documents), now_ms=0, policy=Policy())


def charged(plan: Plan) -> dict[str, int]:
    return {each.name: each.allocated["gpu"] for each in plan.queues if each.allocated["gpu"]}


LABELLED = job("j", labels={"tutti.scheduler/queue": "nowhere"}, queue="team")


@pytest.mark.parametrize(
    "documents",
    [
        (running("nowhere"),),
        (running("other"),),
        (running(None),),
        (LABELLED, running(owner=LABELLED)),
        (pod_group("g", queue="nowhere"), running(group="g")),
        (pod_group("g", queue="other"), running(group="g")),
        (pod_group("g", api_version="scheduling.run.ai/v2alpha2", queue="other"), running(group="g")),
        (pod_group("h", queue="other"), running(annotations={"pod-group-name": "h"})),
    ],
    ids=["label", "another queue", "no label", "owner", "group", "group elsewhere", "group of KAI", "another group"],
)
def test_a_running_gang_stays_in_the_queue_that_it_was_placed_under(documents: tuple[Document, ...]) -> None:
    found = seen(*TREE, *documents, WAITING)
    plan = planner.plan(found)
    assert charged(plan) == {"org": 8000, "team": 8000}
    assert plan.placements == (), "the organisation has its 8 GPUs in use"
    assert check(found, plan) == ()


def test_a_gang_that_names_another_queue_while_it_runs_is_told() -> None:
    found = seen(*TREE, running("other"))
    (gang,) = why.reports(found, planner.plan(found)).gangs
    assert (gang.queue, gang.verdict.value) == ("team", "Running")
    assert gang.reason is not None
    assert gang.reason.code == "InvalidGang"
    assert "placed under queue team, which goes on paying, and it names other now" in gang.reason.message


def test_a_gang_that_moved_is_told_who_pays_when_its_queue_is_gone() -> None:
    found = seen(TREE[0], TREE[2], running("other"))
    (gang,) = why.reports(found, planner.plan(found)).gangs
    assert gang.queue == "org"
    assert gang.reason is not None
    assert gang.reason.code == "QueueUnusable"
    assert gang.reason.message == (
        "Queue team cannot be used: it is gone or cannot be used, and what a/one has running is charged to queue org."
    )
    assert gang.reason.cure == "Create Queue team again or repair it; or delete the gang and create it anew in other."


def test_a_gang_that_names_no_queue_stays_where_it_is_without_a_word() -> None:
    assert seen(*TREE, queue("default"), running(None)).gangs[0].problems == ()


def test_what_a_running_gang_adds_is_charged_to_the_same_queue() -> None:
    wide = merged(queue("org"), spec={"resources": {"gpu": {"limit": "16"}}})
    grown = (pod_group("g", queue="team"), running(group="g"), pod("more", gpus=8, group="g"))
    plan = planner.plan(seen(wide, *TREE[1:], *grown))
    assert [placement.pod for placement in plan.placements] == ["a/more"]
    assert charged(plan) == {"org": 16000, "team": 16000}


@pytest.mark.parametrize(
    ("path", "queues", "payer"),
    [
        ("org/team", (queue("org", gpu={"limit": "8"}), queue("other", "org")), {"org": 8000}),
        ("top/org/team", (queue("top", gpu={"limit": "8"}), queue("other", "top")), {"top": 8000}),
        ("org/team", (queue("default", gpu={"limit": "8"}), queue("other")), {"default": 8000}),
        (None, (queue("default", gpu={"limit": "8"}), queue("other")), {"default": 8000}),
        ("org/team", (queue("default"), queue("other"), queue("team", "org")), {"default": 8000}),
        ("org/team", (*TREE[::2], queue("team", "org", gpu={"quota": "lots"})), {"org": 8000}),
        ("org/team", (queue("other"),), {}),
    ],
    ids=["parent", "above it", "default", "not recorded", "without its parent", "unreadable", "nobody is left"],
)
def test_when_its_queue_is_gone_the_nearest_above_pays_or_the_default(
    path: str | None, queues: tuple[Document, ...], payer: dict[str, int]
) -> None:
    found = seen(*queues, running(charged=path))
    plan = planner.plan(found)
    assert charged(plan) == payer
    assert check(found, plan) == ()
    (report,) = why.reports(found, plan).gangs
    assert report.verdict.value == "Running"
    assert report.reason is not None


def test_the_gang_is_told_who_pays() -> None:
    found = seen(queue("default"), running("team"))
    (report,) = why.reports(found, planner.plan(found)).gangs
    assert report.reason is not None
    assert report.reason.code == "QueueUnusable"
    assert "what a/one has running is charged to queue default" in report.reason.message


def test_a_queue_that_comes_back_pays_again() -> None:
    found = state(*NODES, queue("default"), running("team"))
    assert snapshot(found, now_ms=0, policy=Policy()).gangs[0].queue == "default"
    found.apply_all(map(change, TREE[:2]))
    gang = snapshot(found, now_ms=0, policy=Policy()).gangs[0]
    assert (gang.queue, gang.problems) == ("team", ())


def test_a_gang_that_waits_goes_by_what_it_names() -> None:
    forged = pod("p", queue="other", annotations={"tutti.scheduler/charged-queue": "org/team"})
    assert seen(*TREE, forged).gangs[0].queue == "other"
    assert seen(queue("default"), pod("p", queue="nowhere")).gangs[0].queue == "nowhere"


def test_the_note_of_a_pod_that_is_not_ours_charges_nobody() -> None:
    found = seen(*TREE, running(scheduler="default-scheduler"), WAITING)
    plan = planner.plan(found)
    assert charged(plan) == {"org": 8000, "other": 8000}, "by what waits"
    assert [placement.node for placement in plan.placements] == ["n2"]
