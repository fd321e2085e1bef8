"""The native gang API in its versions, and coscheduling's PodGroup: which fields matter.

Source: reference kubernetes.md 6 (scheduling.k8s.io, scheduler-plugins).
"""

from typing import Any

import pytest

from scheduler.model.snapshot import Policy, Snapshot
from scheduler.model.workloads import Gang, SubGroup, TopologyConstraint
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from scheduler.state.translate import snapshot
from tests.manifests import Document, node, pod, pod_group, pods, priority_class, queue, state
from tests.owners import owner

NATIVE = "scheduling.k8s.io/v1beta1"
GANG = {"gang": {"minCount": 2}}


def seen(*documents: Document | list[Document]) -> Snapshot:
    return snapshot(state(*documents), now_ms=0, policy=Policy(default_queue="team"))


def only(*documents: Document | list[Document]) -> Gang:
    (gang,) = seen(*documents).gangs
    return gang


def native(name: str, **spec: Any) -> Document:
    return pod_group(name, api_version=NATIVE, **spec)


def composite(name: str, **spec: Any) -> Document:
    return owner("CompositePodGroup", name, "scheduling.k8s.io/v1alpha3", **spec)


def members(group: str, count: int, **fields: Any) -> list[Document]:
    return pods(group, count, schedulingGroup={"podGroupName": group}, **fields)


@pytest.mark.parametrize(
    ("spec", "minimum"),
    [({"schedulingPolicy": GANG}, 2), ({"schedulingPolicy": {"basic": {}}}, 0), ({}, 0)],
    ids=["gang", "basic", "nothing said"],
)
def test_the_policy_says_how_many_start_together(spec: dict[str, Any], minimum: int) -> None:
    assert only(native("g", **spec), members("g", 3)).min_member == minimum


def test_what_admission_has_resolved_of_the_priority_goes_before_the_class() -> None:
    group = native("g", schedulingPolicy=GANG, priorityClassName="high", priority=7)
    assert only(priority_class("high", 9), group, members("g", 2)).priority == 7


def test_a_label_of_nodes_keeps_the_group_in_one_domain() -> None:
    group = native("g", schedulingPolicy=GANG, schedulingConstraints={"topology": [{"key": "rack"}]})
    assert only(group, members("g", 2)).topology == TopologyConstraint(topology="rack", required="rack")


def test_what_is_not_read_of_a_native_group_is_in_nobodys_way() -> None:
    unread = {"disruptionMode": {"all": {}}, "preemptionPolicy": "Never", "workloadRef": {"workloadName": "w"}}
    assert only(native("g", schedulingPolicy=GANG, **unread), members("g", 2)).problems == ()


# Kubernetes 1.35: groups are part of a Workload.


def workload(*groups: Document) -> Document:
    return owner("Workload", "w", "scheduling.k8s.io/v1alpha1", podGroups=list(groups))


def of_workload(group: str, replica: str, count: int) -> list[Document]:
    reference = {"name": "w", "podGroup": group, "podGroupReplicaKey": replica}
    return pods(f"{group}-{replica}", count, workloadRef=reference)


def test_a_group_of_a_workload_is_a_gang_for_each_replica() -> None:
    made = workload({"name": "train", "policy": {"gang": {"minCount": 3}}}, {"name": "watch", "policy": {"basic": {}}})
    gangs = seen(made, of_workload("train", "0", 3), of_workload("train", "1", 2), of_workload("watch", "0", 1)).gangs
    assert [(gang.key, gang.min_member, len(gang.pods), gang.problems) for gang in gangs] == [
        ("a/w-train-0", 3, 3, ()),
        ("a/w-train-1", 3, 2, ()),
        ("a/w-watch-0", 0, 1, ()),
    ]


def test_a_group_that_the_workload_does_not_have_is_told() -> None:
    (problem,) = only(workload({"name": "train"}), of_workload("misspelt", "0", 1)).problems
    assert "group misspelt, which Workload a/w does not have" in problem.message


def test_pods_wait_for_their_workload() -> None:
    (problem,) = only(of_workload("train", "0", 2)).problems
    assert "Workload a/w, which may ask for a gang, has not been seen" in problem.message


# Groups of groups.

PAIR = [
    composite("ab", schedulingPolicy={"gang": {"minGroupCount": 2}}),
    native("a", schedulingPolicy=GANG, parentCompositePodGroupName="ab"),
    native("b", schedulingPolicy={"gang": {"minCount": 1}}, parentCompositePodGroupName="ab"),
]


def test_groups_below_a_composite_are_sub_groups_of_one_gang() -> None:
    gang = only(PAIR, members("a", 2), members("b", 1))
    assert (gang.key, gang.owner, gang.min_sub_group, gang.problems) == ("a/ab", "CompositePodGroup/a/ab", 2, ())
    assert gang.sub_groups == (SubGroup(name="a", min_member=2), SubGroup(name="b", min_member=1))


def test_composites_nest() -> None:
    top = composite("top", schedulingPolicy={"basic": {}}, schedulingConstraints={"topology": [{"key": "block"}]})
    inner = composite("ab", schedulingPolicy={"gang": {"minGroupCount": 2}}, parentCompositePodGroupName="top")
    gang = only(top, inner, PAIR[1:], members("a", 2), members("b", 1))
    assert (gang.key, gang.min_sub_group, gang.problems) == ("a/top", 0, ())
    assert [(each.name, each.parent, each.min_sub_group) for each in gang.sub_groups] == [
        ("(ab)", None, 2),
        ("a", "(ab)", None),
        ("b", "(ab)", None),
    ]
    assert gang.topology == TopologyConstraint(topology="block", required="block")


def test_a_composite_waits_for_the_groups_that_it_needs() -> None:
    (problem,) = only(PAIR[:2], members("a", 2)).problems
    assert "minSubGroup is 2 and it has 1 sub-groups" in problem.message
    (problem,) = only(PAIR[1:], members("a", 2), members("b", 1)).problems
    assert "CompositePodGroup a/ab, which may ask for a gang, has not been seen" in problem.message


def test_a_composite_starts_whole_or_not_at_all() -> None:
    """Koordinator#872 (peers.md A12) in the native form."""
    team = queue("team")
    for gpus, count in ((2, 0), (3, 3)):
        found = seen(team, node("n", gpus=gpus), PAIR, members("a", 2, gpus=1), members("b", 1, gpus=1))
        made = plan(found)
        assert check(found, made) == ()
        assert len(made.placements) == count


def test_composites_in_a_circle_are_refused() -> None:
    one = composite("one", parentCompositePodGroupName="two")
    two = composite("two", parentCompositePodGroupName="one")
    group = native("g", schedulingPolicy=GANG, parentCompositePodGroupName="one")
    (problem,) = only(one, two, group, members("g", 2)).problems
    assert "the CompositePodGroups above it form a cycle" in problem.message


# coscheduling.


def test_of_coschedulings_group_the_minimum_counts_and_nothing_else_is_in_the_way() -> None:
    """What waits takes nothing, so there is no time to run out and no sum to be checked beforehand."""
    spec = {"scheduleTimeoutSeconds": 10, "minResources": {"cpu": "1000"}}
    group = pod_group("g", api_version="scheduling.x-k8s.io/v1alpha1", min_member=2, **spec)
    labels = {"scheduling.x-k8s.io/pod-group": "g"}
    found = seen(queue("team"), node("n"), group, [pod(f"p-{n}", labels=labels) for n in range(3)])
    assert (found.gangs[0].min_member, found.gangs[0].problems) == (2, ())
    assert len(plan(found).placements) == 3
