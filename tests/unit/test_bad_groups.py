"""Groups and pods that contradict each other: what becomes of them, and what they are told."""

import pytest

from queues.reasons import OverLimit
from scheduler.model.plan import Plan
from scheduler.model.reasons import WaitingForPods
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.model.workloads import Gang
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from scheduler.state.translate import snapshot
from tests.manifests import Document, change, job, node, pod, pod_group, pods, priority_class, queue, state

CHARGED = "tutti.scheduler/charged-queue"


def seen(*documents: Document | list[Document]) -> Snapshot:
    return snapshot(state(*documents), now_ms=0, policy=Policy())


def only(*documents: Document | list[Document]) -> Gang:
    (gang,) = seen(*documents).gangs
    return gang


def decided(*documents: Document | list[Document]) -> Plan:
    """The plan, which the independent check accepts."""
    found = seen(*documents)
    made = plan(found)
    assert check(found, made) == ()
    return made


def placed(made: Plan) -> list[str]:
    return sorted(each.pod for each in made.placements)


def test_a_pod_that_joins_after_the_start_is_beyond_the_minimum_and_takes_what_is_free() -> None:
    running = pods("p", 2, group="g", queue="team", node="n", gpus=1, phase="Running")
    late = pod("late", group="g", queue="team", gpus=1)
    team = queue("team", gpu={"quota": 8})
    assert placed(decided(node("n", gpus=3), team, pod_group("g", min_member=2), running, late)) == ["a/late"]
    assert placed(decided(node("n", gpus=2), team, pod_group("g", min_member=2), running, late)) == []


def test_a_pod_that_joins_after_the_start_is_held_to_the_limit_of_its_queue() -> None:
    running = pods("p", 2, group="g", queue="team", node="n", gpus=1, phase="Running")
    late = pod("late", group="g", queue="team", gpus=1)
    team = queue("team", gpu={"quota": 0, "limit": 2})
    made = decided(node("n", gpus=3), team, pod_group("g", min_member=2), running, late)
    assert placed(made) == []
    assert isinstance(made.gangs[0].reason, OverLimit)


def test_what_may_not_be_preempted_grows_within_its_quota_only() -> None:
    firm = pod_group("g", min_member=2, preemptibility="non-preemptible")
    running = pods("p", 2, group="g", queue="team", node="n", gpus=1, phase="Running")
    late = pod("late", group="g", queue="team", gpus=1)
    assert placed(decided(node("n", gpus=3), queue("team", gpu={"quota": 2}), firm, running, late)) == []
    assert placed(decided(node("n", gpus=3), queue("team", gpu={"quota": 3}), firm, running, late)) == ["a/late"]


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ([{"name": "x", "parent": "x", "minMember": 1}], "the parents of sub-group x form a cycle"),
        (
            [{"name": "x", "parent": "y"}, {"name": "y", "parent": "x"}, {"name": "leaf", "parent": "x"}],
            "form a cycle",
        ),
    ],
    ids=["its own parent", "two in a circle"],
)
def test_sub_groups_in_a_circle_are_refused(groups: list[Document], told: str) -> None:
    documents = [pod_group("g", subGroups=groups), pod("p", group="g", labels={"tutti.scheduler/sub-group": "leaf"})]
    assert any(told in each.message for each in only(*documents).problems)
    assert placed(decided(node("n"), *documents)) == []


def test_a_sub_group_that_no_pod_names_is_waited_for() -> None:
    groups = [{"name": "left", "minMember": 1}, {"name": "right", "minMember": 2}]
    left = pod("p", group="g", labels={"tutti.scheduler/sub-group": "left"})
    made = decided(node("n"), queue("default"), pod_group("g", subGroups=groups), left)
    reason = made.gangs[0].reason
    assert isinstance(reason, WaitingForPods)
    assert (reason.needed, reason.present, reason.sub_group) == (2, 0, "right")


def test_pods_of_one_gang_with_two_queues_are_refused_unless_the_group_decides() -> None:
    mixed = [pod("p1", group="g", queue="one"), pod("p2", group="g", queue="two")]
    (problem,) = only(pod_group("g", min_member=2), mixed).problems
    assert "its pods name different queues (one, two)" in problem.message
    assert only(pod_group("g", min_member=2, queue="one"), mixed).problems == ()


def test_pods_of_one_gang_with_two_classes_have_the_lower() -> None:
    classes = [priority_class("high", 9), priority_class("low", 2)]
    mixed = [pod("p1", group="g", priority_class="high"), pod("p2", group="g", priority_class="low")]
    gang = only(classes, pod_group("g", min_member=2), mixed)
    assert (gang.priority, gang.problems) == (2, ())


def test_a_class_that_vanishes_is_told_and_what_runs_keeps_what_admission_gave_it() -> None:
    group = pod_group("g", min_member=1, priorityClassName="high")
    found = state(priority_class("high", 9), group, pod("p", group="g", node="n", phase="Running", priority=4))
    assert snapshot(found, now_ms=0, policy=Policy()).gangs[0].priority == 9
    found.apply(change(priority_class("high", 9), "DELETED"))
    (gang,) = snapshot(found, now_ms=0, policy=Policy()).gangs
    assert gang.priority == 4
    assert [each.message for each in gang.problems] == ["a/g: PriorityClass high does not exist."]


def test_a_label_taken_off_a_running_pod_does_not_take_it_out_of_its_queue() -> None:
    paid = {CHARGED: "team"}
    gang = only(queue("team"), queue("default"), pod("p", node="n", phase="Running", annotations=paid))
    assert (gang.queue, gang.problems) == ("team", ())


def test_a_minimum_that_the_job_never_makes_at_once_is_told() -> None:
    made = job("train", parallelism=2, annotations={"tutti.scheduler/min-member": "3"})
    (problem,) = only(made, pods("p", 2, owner=made)).problems
    assert "asks for 3 pods that start together, and its Job makes 2 at once" in problem.message


def test_a_minimum_above_the_pods_there_are_waits_for_the_others() -> None:
    made = decided(node("n"), queue("default"), pod_group("g", min_member=3), pods("p", 2, group="g"))
    reason = made.gangs[0].reason
    assert isinstance(reason, WaitingForPods)
    assert (reason.needed, reason.present) == (3, 2)


def test_of_two_groups_that_claim_a_pod_the_first_dialect_has_it_and_the_other_waits() -> None:
    both = {"tutti.scheduler/pod-group": "ours", "scheduling.x-k8s.io/pod-group": "theirs"}
    theirs = pod_group("theirs", api_version="scheduling.x-k8s.io/v1alpha1", min_member=2)
    gangs = seen(
        pod_group("ours", min_member=1),
        theirs,
        pod("both", labels=both),
        pod("p", labels={"scheduling.x-k8s.io/pod-group": "theirs"}),
    ).gangs
    assert [(gang.key, [each.name for each in gang.pods]) for gang in gangs] == [
        ("a/ours", ["both"]),
        ("a/theirs", ["p"]),
    ]


def test_gated_pods_count_for_nothing_until_their_gate_is_open_and_the_reason_says_how_many() -> None:
    gated = pods("gated", 2, group="g", schedulingGates=[{"name": "example.com/wait"}])
    made = decided(node("n"), queue("default"), pod_group("g", min_member=3), pods("p", 2, group="g"), gated)
    reason = made.gangs[0].reason
    assert isinstance(reason, WaitingForPods)
    assert (reason.needed, reason.present, reason.gated) == (3, 4, 2)
    assert "2 of them" in reason.message or "gate" in reason.message
    opened = pods("gated", 2, group="g")
    assert len(placed(decided(node("n"), queue("default"), pod_group("g", min_member=3), pods("p", 2, group="g"),
                              opened))) == 4  # fmt: skip


def test_the_higher_task_priority_starts_first() -> None:
    """Source: reference kai.md 3.2 (task order)."""
    elastic = pod_group("g", min_member=1)
    wanted = {f"p-{n}": {"kai.scheduler/task-priority": str(n)} for n in range(4)}
    made = [pod(name, group="g", gpus=1, labels=labels) for name, labels in wanted.items()]
    assert placed(decided(node("n", gpus=2), queue("default"), elastic, made)) == ["a/p-2", "a/p-3"]


def test_the_higher_task_priority_leaves_last_however_long_it_has_run() -> None:
    """Source: reference kai.md 3.2 (eviction of elastic surplus goes backwards)."""
    made = [
        pod(
            f"p-{n}",
            group="g",
            gpus=1,
            node="n",
            phase="Running",
            labels={"kai.scheduler/task-priority": str(n)},
            annotations={CHARGED: "team"},
            priority=1,
        )
        for n in range(3)
    ]
    # The least important has run the longest: by lost work alone it would be the last to go.
    for n, each in enumerate(made):
        each["status"]["startTime"] = f"2026-01-01T0{n}:00:00Z"
    urgent = pod("urgent", gpus=1, queue="team", priority=9)
    found = snapshot(
        state(
            node("n", gpus=3), queue("team", gpu={"quota": 3}), pod_group("g", min_member=1, queue="team"), made, urgent
        ),
        now_ms=1_767_236_400_000,
        policy=Policy(stages=("allocate", "preempt")),
    )
    decision = plan(found)
    assert check(found, decision) == ()
    assert [each.pod for each in decision.evictions] == ["a/p-0"]
