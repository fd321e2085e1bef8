"""Which gang a pod belongs to, in every dialect, and what the gang is."""

from typing import Any

import pytest

from queues.reasons import QueueUnusable
from scheduler.model.reasons import InvalidGang, TopologyUnusable, Unreadable
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.model.workloads import Gang, SubGroup, TopologyConstraint
from scheduler.state.cluster import ClusterState
from scheduler.state.grouping import LWS_GROUP_LABEL
from scheduler.state.lineage import LWS_LABEL
from scheduler.state.translate import snapshot
from tests.manifests import (
    Document,
    change,
    job,
    kai_queue,
    merged,
    pod,
    pod_group,
    pods,
    priority_class,
    queue,
    state,
    topology,
)

KAI = "scheduling.run.ai/v2alpha2"
SEED = "scheduling.run.ai/v1"
COSCHEDULING = "scheduling.x-k8s.io/v1alpha1"
NATIVE = "scheduling.k8s.io/v1beta1"


def seen(*documents: Document | list[Document]) -> Snapshot:
    return snapshot(state(*documents), now_ms=0, policy=Policy())


def only(*documents: Document | list[Document]) -> Gang:
    """The one gang of this cluster."""
    gangs = seen(*documents).gangs
    assert len(gangs) == 1, [gang.key for gang in gangs]
    return gangs[0]


def problem(gang: Gang) -> str:
    assert len(gang.problems) == 1, gang.problems
    return gang.problems[0].message


REFERENCES: list[tuple[str, dict[str, Any], str]] = [
    ("our label", {"labels": {"tutti.scheduler/pod-group": "train"}}, "tutti.scheduler/v1alpha1"),
    ("our annotation", {"annotations": {"tutti.scheduler/pod-group": "train"}}, "tutti.scheduler/v1alpha1"),
    ("the native field", {"schedulingGroup": {"podGroupName": "train"}}, NATIVE),
    ("KAI's annotation", {"annotations": {"pod-group-name": "train"}}, KAI),
    ("the label of articles", {"labels": {"pod-group-name": "train"}}, SEED),
    ("coscheduling's label", {"labels": {"scheduling.x-k8s.io/pod-group": "train"}}, COSCHEDULING),
]


@pytest.mark.parametrize(("fields", "dialect"), [row[1:] for row in REFERENCES], ids=[row[0] for row in REFERENCES])
def test_pods_that_name_a_pod_group_form_its_gang(fields: dict[str, Any], dialect: str) -> None:
    minimum = {"schedulingPolicy": {"gang": {"minCount": 3}}} if dialect == NATIVE else {"minMember": 3}
    gang = only(pod_group("train", api_version=dialect, **minimum), pods("p", 4, **fields))
    assert (gang.key, gang.owner, gang.uid) == ("a/train", "PodGroup/a/train", "uid-a-train")
    assert gang.min_member == 3
    assert [each.name for each in gang.pods] == ["p-0", "p-1", "p-2", "p-3"]
    assert gang.problems == ()


@pytest.mark.parametrize(("fields", "dialect"), [row[1:] for row in REFERENCES], ids=[row[0] for row in REFERENCES])
def test_a_group_rewritten_as_ours_is_found_by_the_old_reference(fields: dict[str, Any], dialect: str) -> None:
    del dialect
    gang = only(pod_group("train", min_member=2), pods("p", 2, **fields))
    assert gang.min_member == 2
    assert gang.problems == ()


def test_of_two_references_ours_counts() -> None:
    both = {"tutti.scheduler/pod-group": "ours", "pod-group-name": "theirs"}
    gang = only(pod_group("ours"), pod_group("theirs", api_version=SEED), pod("p", labels=both))
    assert gang.key == "a/ours"


def test_groups_of_one_name_in_two_namespaces_stay_apart() -> None:
    gangs = seen(
        pod_group("train", "a", min_member=2),
        pod_group("train", "b", min_member=3),
        pods("p", 2, "a", group="train"),
        pods("p", 3, "b", group="train"),
    ).gangs
    assert [(gang.key, gang.min_member, len(gang.pods)) for gang in gangs] == [("a/train", 2, 2), ("b/train", 3, 3)]


def test_pods_of_a_group_that_does_not_exist_wait_for_it_and_the_cure_is_its_creation() -> None:
    found = state(pods("p", 2, group="train"))
    gang = _one(found)
    assert gang.key == "a/train"
    assert gang.problems == (
        InvalidGang(
            gang="a/train",
            problem="PodGroup a/train does not exist",
            remedy="Create PodGroup a/train, or remove label tutti.scheduler/pod-group from its pods.",
        ),
    )
    found.apply(change(pod_group("train", min_member=2)))
    assert _one(found).problems == ()
    assert _one(found).min_member == 2
    found.apply(change(pod_group("train"), "DELETED"))
    assert len(_one(found).problems) == 1


def test_a_group_without_pods_to_run_is_no_gang() -> None:
    assert seen(pod_group("train", min_member=2), pod("p", group="train", phase="Succeeded")).gangs == ()


def test_pods_that_ended_well_are_counted_and_left_out() -> None:
    gang = only(pod_group("train", min_member=2), pod("p1", group="train", phase="Succeeded"), pod("p2", group="train"))
    assert (gang.succeeded, [each.name for each in gang.pods]) == (1, ["p2"])


def test_pods_that_ended_well_and_went_with_their_node_are_counted_by_their_job() -> None:
    made = job("train", parallelism=3) | {"status": {"succeeded": 2}}
    gang = only(pod_group("train", min_member=3), made, pod("p3", group="train", owner=made))
    assert gang.succeeded == 2


def test_what_a_job_counts_late_is_known_at_once_and_no_pod_is_read_anew_for_it() -> None:
    made = job("train", parallelism=3, annotations={"tutti.scheduler/min-member": "3"})
    found = state(made, pod("p3", owner=made), pod("other"))
    before = snapshot(found, now_ms=0, policy=Policy())
    found.apply(change(made | {"status": {"succeeded": 2}}, "MODIFIED"))
    after = snapshot(found, now_ms=0, policy=Policy())
    assert [(gang.key, gang.succeeded) for gang in after.gangs] == [("a/other", 0), ("a/train", 2)]
    assert after.gangs[1].pods[0] is before.gangs[1].pods[0]
    found.apply(change(merged(made, metadata={"annotations": {"tutti.scheduler/min-member": "2"}}), "MODIFIED"))
    assert [gang.min_member for gang in snapshot(found, now_ms=0, policy=Policy()).gangs] == [1, 2]


def test_other_pods_of_its_job_are_none_of_a_pod_alone() -> None:
    made = job("many", parallelism=3) | {"status": {"succeeded": 2}}
    gang = only(made, pod("p3", owner=made))
    assert (gang.key, gang.succeeded) == ("a/p3", 0)


def test_a_bare_pod_is_a_gang_of_one() -> None:
    gang = only(pod("solo", created="2026-01-01T00:00:10Z"))
    assert (gang.key, gang.owner, gang.uid, gang.min_member) == ("a/solo", "Pod/a/solo", "uid-a-solo", 1)
    assert gang.created_ms == 1_767_225_610_000


def test_a_pod_and_a_group_of_one_name_are_two_gangs_with_two_keys() -> None:
    gangs = seen(pod("train"), pod_group("train"), pod("p", group="train")).gangs
    assert [(gang.key, gang.owner) for gang in gangs] == [
        ("a/train", "PodGroup/a/train"),
        ("a/train (Pod)", "Pod/a/train"),
    ]


def test_labels_that_read_alike_when_joined_are_still_gangs_of_their_own() -> None:
    def labelled(name: str, owner: str, part: str) -> Document:
        return pod(name, labels={LWS_LABEL: owner, LWS_GROUP_LABEL: part})

    gangs = seen(labelled("p1", "x", "y-z-0"), labelled("p2", "x-y", "z-0"), labelled("p3", "x-y-z", "0")).gangs
    assert [(gang.key, gang.owner) for gang in gangs] == [
        ("a/x-y-z-0", "LeaderWorkerSet/a/x"),
        ("a/x-y-z-0 (LeaderWorkerSet, group z-0)", "LeaderWorkerSet/a/x-y"),
        ("a/x-y-z-0 (LeaderWorkerSet, group 0)", "LeaderWorkerSet/a/x-y-z"),
    ]


def test_an_owner_may_bear_any_name_and_its_gang_has_a_key_of_its_own() -> None:
    owner = merged(job("train (Pod)"), kind="Widget", apiVersion="example.com/v1")
    odd = pod("w", owner=owner, annotations={"tutti.scheduler/min-member": "1"})
    gangs = seen(pod("train"), pod_group("train"), pod("p", group="train"), odd).gangs
    assert sorted(gang.key for gang in gangs) == ["a/train", "a/train (Pod)", "a/train (Pod, 2)"]


def test_pods_of_other_schedulers_form_no_gang() -> None:
    assert seen(pod("p", scheduler="default-scheduler")).gangs == ()


# What owners imply.


def test_pods_of_a_job_start_one_by_one() -> None:
    owner = job("train", parallelism=3)
    gangs = seen(owner, pods("train", 3, owner=owner)).gangs
    assert [(gang.key, gang.min_member) for gang in gangs] == [("a/train-0", 1), ("a/train-1", 1), ("a/train-2", 1)]


@pytest.mark.parametrize("annotation", ["tutti.scheduler/min-member", "kai.scheduler/batch-min-member"])
def test_a_job_that_names_a_minimum_is_a_gang(annotation: str) -> None:
    owner = job("train", parallelism=3, annotations={annotation: "2"}, queue="ignored", labels={})
    gang = only(owner, pods("train", 3, owner=owner))
    assert (gang.key, gang.owner, gang.uid, gang.min_member) == ("a/train", "Job/a/train", "uid-a-train", 2)


def test_a_minimum_on_the_pods_makes_a_gang_of_their_controller() -> None:
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web-7f9c", "uid": "u"}}
    gang = only(pods("web", 3, owner=owner, annotations={"tutti.scheduler/min-member": "3"}))
    assert (gang.key, gang.owner, gang.min_member, len(gang.pods)) == ("a/web-7f9c", "ReplicaSet/a/web-7f9c", 3, 3)


def test_a_minimum_on_a_pod_without_a_controller_is_no_gang() -> None:
    gang = only(pod("p", annotations={"tutti.scheduler/min-member": "3"}))
    assert "has no controller to form one with" in problem(gang)


def test_a_minimum_that_is_no_number_is_named_with_its_place() -> None:
    owner = job("train", annotations={"tutti.scheduler/min-member": "all"})
    gang = only(owner, pod("p", owner=owner))
    assert gang.problems == (
        Unreadable(
            object="Job/a/train",
            field="metadata.annotations[tutti.scheduler/min-member]",
            problem="'all' is no whole number from 0 to 100000",
            remedy="Write how many pods must start together.",
        ),
    )


def test_a_pod_waits_until_its_job_is_seen_because_the_job_may_ask_for_a_gang() -> None:
    owner = job("train", parallelism=2, annotations={"tutti.scheduler/min-member": "2"})
    found = state(pods("train", 2, owner=owner))
    waiting = snapshot(found, now_ms=0, policy=Policy()).gangs
    assert [len(gang.problems) for gang in waiting] == [1, 1]
    found.apply(change(owner))
    gang = _one(found)
    assert (gang.key, gang.min_member, gang.problems) == ("a/train", 2, ())


def _job_set(**spec: Any) -> Document:
    replicated = [
        {"name": "driver", "replicas": 1, "template": {"spec": {"parallelism": 1}}},
        {"name": "workers", "replicas": 2, "template": {"spec": {"parallelism": 3, "completions": 3}}},
    ]
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": "js", "namespace": "a", "uid": "uid-js", "labels": {"kai.scheduler/queue": "team"}},
        "spec": {"replicatedJobs": replicated, **spec},
    }


def _job_set_pods() -> list[Document]:
    return [
        pod(
            f"js-{name}-{replica}-{index}",
            labels={
                "jobset.sigs.k8s.io/jobset-name": "js",
                "jobset.sigs.k8s.io/replicatedjob-name": name,
                "jobset.sigs.k8s.io/job-index": str(replica),
            },
        )
        for name, replicas, count in (("driver", 1, 1), ("workers", 2, 3))
        for replica in range(replicas)
        for index in range(count)
    ]


def test_a_job_set_is_one_gang_of_all_replicas() -> None:
    gang = only(_job_set(), _job_set_pods())
    assert (gang.key, gang.owner, gang.uid, gang.queue) == ("a/js", "JobSet/a/js", "uid-js", "team")
    assert gang.min_sub_group is None
    assert gang.sub_groups == (
        SubGroup(name="driver"),
        SubGroup(name="workers"),
        SubGroup(name="driver/0", parent="driver", min_member=1),
        SubGroup(name="workers/0", parent="workers", min_member=3),
        SubGroup(name="workers/1", parent="workers", min_member=3),
    )
    assert [each.sub_group for each in gang.pods] == ["driver/0", *["workers/0"] * 3, *["workers/1"] * 3]
    assert gang.problems == ()


def test_a_job_set_that_starts_in_order_needs_its_first_job_only() -> None:
    assert only(_job_set(startupPolicy={"startupPolicyOrder": "InOrder"}), _job_set_pods()).min_sub_group == 1


def test_jobs_that_depend_on_another_come_later_so_the_others_are_enough_to_start() -> None:
    made = _job_set()
    made["spec"]["replicatedJobs"][1]["dependsOn"] = [{"name": "driver", "status": "Ready"}]
    assert only(made, _job_set_pods()[:1]).min_sub_group == 1


def test_labels_of_a_job_set_are_enough_while_it_is_not_known() -> None:
    gang = only(_job_set_pods())
    assert [(each.name, each.min_member) for each in gang.sub_groups if each.parent] == [
        ("driver/0", 1),
        ("workers/0", 3),
        ("workers/1", 3),
    ]


def test_a_leaf_needs_as_many_pods_fewer_as_have_ended_well() -> None:
    found = _job_set_pods()
    found[1]["status"]["phase"] = "Succeeded"
    gang = only(_job_set(), found)
    assert {each.name: each.min_member for each in gang.sub_groups if each.parent} == {
        "driver/0": 1,
        "workers/0": 2,
        "workers/1": 3,
    }


def _lws(**spec: Any) -> Document:
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": "vllm", "namespace": "a", "uid": "uid-lws"},
        "spec": {"replicas": 2, "leaderWorkerTemplate": {"size": 3}, **spec},
    }


def _lws_pods(group: int, count: int = 3, node: str | None = None) -> list[Document]:
    return [
        pod(
            f"vllm-{group}" + (f"-{index}" if index else ""),
            node=node,
            labels={
                "leaderworkerset.sigs.k8s.io/name": "vllm",
                "leaderworkerset.sigs.k8s.io/group-index": str(group),
                "leaderworkerset.sigs.k8s.io/worker-index": str(index),
            },
        )
        for index in range(count)
    ]


def test_each_group_of_a_leader_worker_set_is_a_gang_of_its_size() -> None:
    gangs = seen(_lws(), _lws_pods(0), _lws_pods(1, count=2)).gangs
    assert [(gang.key, gang.owner, gang.min_member, len(gang.pods)) for gang in gangs] == [
        ("a/vllm-0", "LeaderWorkerSet/a/vllm", 3, 3),
        ("a/vllm-1", "LeaderWorkerSet/a/vllm", 3, 2),
    ]


def test_a_leader_that_must_be_ready_first_starts_alone() -> None:
    late = _lws(startupPolicy="LeaderReady")
    assert only(late, _lws_pods(0, count=1)).min_member == 1
    assert only(late, _lws_pods(0, count=1, node="n1")).min_member == 3


# Queue, priority, preemptibility, topology, durations.


def test_the_group_names_the_queue_before_labels_do() -> None:
    labelled = {"tutti.scheduler/queue": "from-label"}
    gang = only(pod_group("g", queue="from-spec", labels=labelled), pod("p", group="g", queue="from-pod"))
    assert gang.queue == "from-spec"
    assert only(pod_group("g", labels=labelled), pod("p", group="g", queue="from-pod")).queue == "from-label"
    assert only(pod_group("g"), pod("p", group="g", queue="from-pod")).queue == "from-pod"


def test_the_owner_names_the_queue_before_its_pods_do_and_kai_labels_count() -> None:
    owner = job("j", labels={"kai.scheduler/queue": "team"})
    assert only(owner, pod("p", owner=owner, queue="other")).queue == "team"


def test_the_default_queue_is_used_only_if_it_exists() -> None:
    found = state(pod("p"))
    assert _one(found).queue == ""
    found.apply(change(queue("default")))
    assert _one(found).queue == "default"
    found.apply(change(queue("default"), "DELETED"))
    assert _one(found).queue == ""


def test_pods_of_one_gang_that_name_different_queues_are_refused() -> None:
    gang = only(pod_group("g"), pod("p1", group="g", queue="x"), pod("p2", group="g", queue="y"))
    assert "different queues (x, y)" in problem(gang)
    assert only(pod_group("g", queue="z"), pod("p1", group="g", queue="x"), pod("p2", group="g")).problems == ()


def test_a_queue_that_cannot_be_read_is_told_to_its_gangs() -> None:
    found = seen(queue("team", gpu={"quota": "lots"}), pod("p", queue="team"))
    assert [each.object for each in found.set_aside] == ["Queue/team"]
    reason = found.gangs[0].problems[0]
    assert isinstance(reason, QueueUnusable)
    assert "spec.resources.gpu.quota" in reason.message


def test_the_priority_is_that_of_the_groups_class() -> None:
    high = priority_class("high", 1000)
    gang = only(high, pod_group("g", priorityClassName="high"), pod("p", group="g", priority=5))
    assert gang.priority == 1000
    assert gang.pods[0].priority == 5


def test_without_a_class_one_important_pod_does_not_lift_the_gang() -> None:
    assert only(pod_group("g"), pod("p1", group="g", priority=5), pod("p2", group="g", priority=9)).priority == 5


def test_a_class_that_does_not_exist_is_a_problem_that_its_creation_cures() -> None:
    found = state(pod_group("g", priorityClassName="high"), pod("p", group="g"))
    assert "PriorityClass high does not exist" in problem(_one(found))
    found.apply(change(priority_class("high", 7)))
    assert (_one(found).priority, _one(found).problems) == (7, ())


def test_kais_classes_are_understood_without_its_chart() -> None:
    gang = only(pod_group("g", api_version=KAI, priorityClassName="build"), pod("p", annotations=_kai("g")))
    assert (gang.priority, gang.preemptible, gang.problems) == (100, False, ())


def test_a_class_that_admission_has_not_resolved_is_resolved_here() -> None:
    found = [priority_class("high", 7), priority_class("usual", 3, default=True)]
    assert only(found, pod("p", priority_class="high")).priority == 7
    assert only(found, pod("p")).priority == 3
    assert "PriorityClass lost does not exist" in problem(only(found, pod("p", priority_class="lost")))


@pytest.mark.parametrize(("word", "preemptible"), [("preemptible", True), ("non-preemptible", False), (None, True)])
def test_preemptibility_is_said_by_the_group(word: str | None, preemptible: bool) -> None:
    said = {} if word is None else {"preemptibility": word}
    assert only(pod_group("g", **said), pod("p", group="g", priority=500)).preemptible is preemptible


def test_high_priority_is_not_preemptible_where_kai_says_so() -> None:
    labels = {"kai.scheduler/queue": "team"}
    assert only(kai_queue("team"), pod("p", labels=labels, priority=100)).preemptible is False
    assert only(kai_queue("team"), pod("p", labels=labels, priority=99)).preemptible is True
    firm = {**labels, "kai.scheduler/preemptibility": "preemptible"}
    assert only(kai_queue("team"), pod("p", labels=firm, priority=100)).preemptible is True


def test_topology_levels_may_be_named_by_their_alias() -> None:
    levels = topology("dc", ("example.com/block", "block"), ("example.com/rack", "rack"))
    constraint = {"topology": "dc", "requiredLevel": "rack", "preferredLevel": "example.com/rack"}
    gang = only(levels, pod_group("g", topologyConstraint=constraint), pod("p", group="g"))
    assert gang.topology == TopologyConstraint(topology="dc", required="example.com/rack", preferred="example.com/rack")


def test_a_topology_or_level_that_does_not_exist_is_named() -> None:
    constraint = {"topology": "dc", "requiredLevel": "row"}
    documents = (pod_group("g", topologyConstraint=constraint), pod("p", group="g"))
    missing = only(*documents).problems
    assert missing == (TopologyUnusable(gang="a/g", topology="dc", problem="does not exist"),)
    level = only(topology("dc", "rack", "host"), *documents).problems
    assert level == (
        TopologyUnusable(gang="a/g", topology="dc", problem="has no level row; its levels are rack, host"),
    )


def test_kais_topology_constraint_and_annotations_are_understood() -> None:
    constraint = {"topology": "dc", "requiredTopologyLevel": "rack"}
    group = pod_group("g", api_version=KAI, topologyConstraint=constraint)
    expected = TopologyConstraint(topology="dc", required="rack")
    assert only(topology("dc", "rack"), group, pod("p", annotations=_kai("g"))).topology == expected
    annotations = {"kai.scheduler/topology": "dc", "kai.scheduler/topology-required-placement": "rack"}
    owner = job("j", annotations=annotations)
    assert only(topology("dc", "rack"), owner, pod("p", owner=owner)).topology == expected


def test_a_native_group_names_a_node_label_that_becomes_a_topology() -> None:
    spec = {"schedulingConstraints": {"topology": [{"key": "example.com/rack"}]}}
    group = pod_group("g", api_version=NATIVE, schedulingPolicy={"gang": {"minCount": 1}}, **spec)
    found = seen(group, pod("p", schedulingGroup={"podGroupName": "g"}))
    assert found.gangs[0].topology == TopologyConstraint(topology="example.com/rack", required="example.com/rack")
    assert found.topologies["example.com/rack"].levels == ("example.com/rack",)
    assert found.gangs[0].problems == ()


def test_a_native_group_without_a_gang_has_no_minimum() -> None:
    group = pod_group("g", api_version=NATIVE, schedulingPolicy={"basic": {}})
    assert only(group, pod("p", schedulingGroup={"podGroupName": "g"})).min_member == 0


def test_durations_are_read_in_milliseconds() -> None:
    spec = {
        "maxRuntime": "1h30m",
        "checkpointInterval": "10m",
        "preemptionDelay": "500ms",
        "stalenessGracePeriod": "2m",
    }
    gang = only(pod_group("g", **spec), pod("p", group="g"))
    assert gang.max_runtime_ms == 5_400_000
    assert gang.checkpoint_interval_ms == 600_000
    assert gang.preemption_delay_ms == 500
    assert gang.staleness_grace_ms == 120_000
    assert only(pod("p")).staleness_grace_ms == 60_000
    never = pod_group("g", api_version=KAI, stalenessGracePeriod="-1s")
    assert only(never, pod("p", annotations=_kai("g"))).staleness_grace_ms is None


def test_a_maximum_runtime_may_stand_on_the_job() -> None:
    owner = job("j", annotations={"tutti.scheduler/max-runtime": "2h"})
    assert only(owner, pod("p", owner=owner)).max_runtime_ms == 7_200_000
    wrong = job("j", annotations={"tutti.scheduler/max-runtime": "soon"})
    assert "'soon' is no duration" in problem(only(wrong, pod("p", owner=wrong)))


# What contradicts itself.


def _with_sub_groups(*sub_groups: dict[str, Any], **spec: Any) -> Gang:
    labels = {"tutti.scheduler/sub-group": "leaf"}
    return only(pod_group("g", subGroups=list(sub_groups), **spec), pod("p", group="g", labels=labels))


LEAF = {"name": "leaf", "minMember": 1}


def test_sub_groups_are_read_as_a_tree() -> None:
    gang = _with_sub_groups({"name": "top", "minSubGroup": 1}, {**LEAF, "parent": "top"})
    assert gang.sub_groups == (
        SubGroup(name="top", min_sub_group=1),
        SubGroup(name="leaf", parent="top", min_member=1),
    )
    assert gang.problems == ()


CONTRADICTIONS = [
    ("two minima", [LEAF], {"minMember": 1, "minSubGroup": 1}, "both minMember and minSubGroup"),
    ("a minimum above sub-groups", [LEAF], {"minMember": 1}, "sets minMember although it has sub-groups"),
    ("an unknown parent", [{**LEAF, "parent": "lost"}], {}, "parent lost, which does not exist"),
    ("a name twice", [LEAF, LEAF], {}, "two sub-groups are named leaf"),
    ("too many sub-groups needed", [LEAF], {"minSubGroup": 2}, "minSubGroup is 2 and it has 1"),
    ("a leaf that counts sub-groups", [{"name": "leaf", "minSubGroup": 1}], {}, "none below it and sets minSubGroup"),
    (
        "a cycle",
        [LEAF, {"name": "x", "parent": "y"}, {"name": "y", "parent": "x"}],
        {},
        "the parents of sub-group x form a cycle",
    ),
    (
        "an inner one that counts pods",
        [{"name": "top", "minMember": 2}, {**LEAF, "parent": "top"}],
        {},
        "has sub-groups below it and sets minMember",
    ),
]


@pytest.mark.parametrize(
    ("sub_groups", "spec", "said"), [row[1:] for row in CONTRADICTIONS], ids=[row[0] for row in CONTRADICTIONS]
)
def test_a_group_that_contradicts_itself_is_refused(
    sub_groups: list[dict[str, Any]], spec: dict[str, Any], said: str
) -> None:
    gang = _with_sub_groups(*sub_groups, **spec)
    assert all(isinstance(each, InvalidGang) and each.cure for each in gang.problems)
    assert said in " ".join(each.message for each in gang.problems)


def test_a_pod_must_name_a_leaf_of_its_group() -> None:
    group = pod_group("g", subGroups=[{"name": "top"}, {**LEAF, "parent": "top"}])
    for label, said in (("other", "which does not exist"), ("top", "has sub-groups below it"), ("", "names none")):
        labels = {"tutti.scheduler/sub-group": label} if label else {}
        assert said in problem(only(group, pod("p", group="g", labels=labels)))
    stray = {"tutti.scheduler/sub-group": "leaf"}
    assert "the PodGroup has none" in problem(only(pod_group("g"), pod("p", group="g", labels=stray)))


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"minMember": "three"}, "spec.minMember"),
        ({"minMember": -1}, "spec.minMember"),
        ({"maxRuntime": "soon"}, "spec.maxRuntime"),
        ({"queue": 7}, "spec.queue"),
        ({"preemptibility": "sometimes"}, "spec.preemptibility"),
        ({"subGroups": [{"minMember": 1}]}, "spec.subGroups[0].name"),
        ({"topologyConstraint": {"requiredLevel": "rack"}}, "spec.topologyConstraint.topology"),
    ],
)
def test_a_group_that_cannot_be_read_is_set_aside_and_its_pods_say_why(spec: dict[str, Any], field: str) -> None:
    found = seen(pod_group("g", **spec), pod("p", group="g"), pod("other"))
    (aside,) = found.set_aside
    assert (aside.object, aside.uid) == ("PodGroup/a/g", "uid-a-g")
    assert isinstance(aside.reason, Unreadable)
    assert aside.reason.field == field
    assert [gang.key for gang in found.gangs] == ["a/g", "a/other"]
    assert found.gangs[0].problems == (aside.reason,)
    assert found.gangs[1].problems == ()


def test_a_pod_whose_amounts_cannot_be_read_holds_its_gang_and_no_other() -> None:
    found = seen(pod_group("g", min_member=2), pod("p1", group="g", cpu="many"), pod("p2", group="g"), pod("q"))
    assert [(gang.key, len(gang.problems)) for gang in found.gangs] == [("a/g", 1), ("a/q", 0)]
    reason = found.gangs[0].problems[0]
    assert isinstance(reason, Unreadable)
    assert reason.field == "spec.containers[main].resources.requests.cpu"


def test_members_are_in_order_of_creation_then_name() -> None:
    gang = only(
        pod_group("g"),
        pod("a", group="g", created="2026-01-01T00:00:02Z"),
        pod("c", group="g", created="2026-01-01T00:00:01Z"),
        pod("b", group="g", created="2026-01-01T00:00:01Z"),
    )
    assert [each.name for each in gang.pods] == ["b", "c", "a"]


def test_a_pod_that_moves_to_another_group_leaves_the_first() -> None:
    found = state(pod_group("g"), pod_group("h"), pod("p", group="g"))
    found.apply(change(pod("p", group="h"), "MODIFIED"))
    assert _one(found).key == "a/h"
    found.apply(change(merged(pod("p"), spec={"schedulerName": "other"}), "MODIFIED"))
    assert snapshot(found, now_ms=0, policy=Policy()).gangs == ()


def _one(found: ClusterState) -> Gang:
    gangs = snapshot(found, now_ms=0, policy=Policy()).gangs
    assert len(gangs) == 1
    return gangs[0]


def _kai(name: str) -> dict[str, str]:
    return {"pod-group-name": name}
