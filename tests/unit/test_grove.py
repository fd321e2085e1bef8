"""Grove's PodGangs as gangs: minima of all pod groups at once, places at three levels, what scales out joins its base.

Source: Grove's PodGang API (scheduler.grove.io/v1alpha1); reference peers.md 4.
"""

from typing import Any

from scheduler.model.nodes import Topology
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.model.workloads import Gang, SubGroup, TopologyConstraint
from scheduler.state.translate import snapshot
from tests.manifests import Document, change, pod, priority_class, state, topology
from tests.owners import grove_pods, owner, packed, pod_gang

BASE = pod_gang("sys-0", {"prefill": (2, 3), "decode": (1, 1)}, close=("block", None))
MORE = pod_gang("sys-0-more-0", {"prefill-more": (2, 2)}, base="sys-0", close=("block", None))


def seen(*documents: Document | list[Document]) -> Snapshot:
    return snapshot(state(*documents), now_ms=0, policy=Policy())


def only(*documents: Document | list[Document]) -> Gang:
    (gang,) = seen(*documents).gangs
    return gang


def block(level: str = "block") -> TopologyConstraint:
    return TopologyConstraint(topology=level, required=level)


def test_a_pod_gang_needs_the_least_of_every_pod_group_at_once() -> None:
    gang = only(BASE, grove_pods(BASE))
    assert (gang.key, gang.owner, gang.uid, gang.problems) == ("a/sys-0", "PodGang/a/sys-0", "uid-a-sys-0", ())
    assert gang.min_sub_group is None
    assert gang.sub_groups == (SubGroup(name="prefill", min_member=2), SubGroup(name="decode", min_member=1))
    assert [each.sub_group for each in gang.pods] == ["decode", "prefill", "prefill", "prefill"]


def test_levels_are_node_labels_of_which_a_topology_is_made() -> None:
    found = seen(BASE, grove_pods(BASE))
    assert found.gangs[0].topology == block()
    assert found.topologies["block"] == Topology(name="block", levels=("block",), aliases={})
    both = pod_gang("sys-0", {"prefill": (1, 1)}, close=("block", "rack"))
    found = seen(both, grove_pods(both))
    made = found.gangs[0].topology
    assert made is not None
    assert (made.required, made.preferred) == ("block", "rack")
    assert found.topologies[made.topology].levels == ("block", "rack")


def test_an_annotation_names_the_topology_of_the_levels() -> None:
    named = pod_gang(
        "sys-0", {"prefill": (1, 1)}, close=("rack", None), annotations={"grove.io/topology-name": "fabric"}
    )
    gang = only(topology("fabric", "block", "rack"), named, grove_pods(named))
    assert gang.topology == TopologyConstraint(topology="fabric", required="rack")
    (problem,) = only(named, grove_pods(named)).problems
    assert "topology fabric does not exist" in problem.message.lower()


def test_constraints_nest_at_three_levels() -> None:
    some = [
        {"name": "cell", "podGroupNames": ["prefill", "decode"], "topologyConstraint": packed("rack")},
        {"name": "empty", "podGroupNames": []},
    ]
    made = pod_gang(
        "sys-0",
        {"prefill": (1, 1), "decode": (1, 1), "router": (1, 1)},
        close=("block", None),
        topologyConstraintGroupConfigs=some,
    )
    made["spec"]["podgroups"][0]["topologyConstraint"] = packed("host")
    gang = only(made, grove_pods(made))
    assert [(each.name, each.parent, each.topology) for each in gang.sub_groups] == [
        ("(cell)", None, block("rack")),
        ("prefill", "(cell)", block("host")),
        ("decode", "(cell)", None),
        ("router", None, None),
    ]
    assert (gang.topology, gang.problems) == (block(), ())


def test_what_scales_out_joins_the_gang_of_its_base_and_is_never_required() -> None:
    gang = only(BASE, MORE, grove_pods(BASE), grove_pods(MORE))
    assert (gang.key, gang.problems, len(gang.pods)) == ("a/sys-0", (), 6)
    assert gang.min_sub_group is None
    assert gang.sub_groups == (
        SubGroup(name="prefill", parent="(base)", min_member=2),
        SubGroup(name="decode", parent="(base)", min_member=1),
        SubGroup(name="(base)"),
        SubGroup(name="(scaled out)", min_sub_group=0),
        SubGroup(name="(sys-0-more-0)", parent="(scaled out)", topology=block()),
        SubGroup(name="sys-0-more-0/prefill-more", parent="(sys-0-more-0)", min_member=2),
    )
    assert gang.topology == block()


def test_what_scales_out_a_base_that_does_not_exist_waits_and_says_so() -> None:
    (problem,) = only(MORE, grove_pods(MORE)).problems
    assert "PodGang a/sys-0" in problem.message


def test_pods_wait_for_their_pod_gang() -> None:
    found = state(grove_pods(BASE))
    (waiting,) = snapshot(found, now_ms=0, policy=Policy()).gangs
    (problem,) = waiting.problems
    assert "PodGang a/sys-0, which may ask for a gang, has not been seen" in problem.message
    found.apply(change(BASE))
    (gang,) = snapshot(found, now_ms=0, policy=Policy()).gangs
    assert gang.problems == ()


def test_references_that_grow_bring_more_pods() -> None:
    larger = pod_gang("sys-0", {"prefill": (2, 5), "decode": (1, 1)})
    found = state(BASE, grove_pods(larger))
    found.apply(change(larger))
    (gang,) = snapshot(found, now_ms=0, policy=Policy()).gangs
    assert (len(gang.pods), gang.problems) == (6, ())


def test_a_pod_without_the_label_of_its_clique_is_found_by_reference() -> None:
    lonely = pod("decode-0", labels={"grove.io/podgang": "sys-0"})
    assert only(BASE, lonely).pods[0].sub_group == "decode"


def test_a_pod_that_two_pod_groups_claim_is_refused() -> None:
    made = pod_gang("sys-0", {"prefill": (1, 1), "decode": (1, 1)})
    made["spec"]["podgroups"][1]["podReferences"] = made["spec"]["podgroups"][0]["podReferences"]
    (problem,) = only(made, grove_pods(made)[:1]).problems
    assert "pod prefill-0 is in two pod groups of PodGang sys-0 (prefill, decode)" in problem.message


def test_queue_and_class_come_from_the_pod_gang_then_from_what_made_it() -> None:
    top = owner("PodCliqueSet", "sys", "grove.io/v1alpha1", labels={"kai.scheduler/queue": "team"})
    clique = owner("PodClique", "prefill", "grove.io/v1alpha1", above=top)
    made = pod_gang("sys-0", {"prefill": (1, 1)}, priorityClassName="high")
    found: dict[str, Any] = {"owner": clique}
    gang = only(top, clique, made, grove_pods(made, **found), priority_class("high", 9))
    assert (gang.queue, gang.priority, gang.preemptible) == ("team", 9, True)
    (problem,) = only(top, clique, made, grove_pods(made, **found)).problems
    assert "correct spec.priorityClassName of the PodGang" in problem.cure


def test_a_pod_gang_that_cannot_be_read_says_which_field() -> None:
    made = pod_gang("sys-0", {"prefill": (1, 1)})
    made["spec"]["podgroups"][0]["minReplicas"] = "all"
    (problem,) = only(made, grove_pods(made)).problems
    assert problem.message.startswith("PodGang/a/sys-0: spec.podgroups[0].minReplicas")


def test_grove_ends_its_gangs_itself_so_nothing_ends_for_being_below_its_minimum_unless_it_asks_to() -> None:
    assert only(BASE, grove_pods(BASE)).staleness_grace_ms is None
    asks = pod_gang("sys-0", {"prefill": (1, 1)}, annotations={"kai.scheduler/staleness-grace-period": "5m"})
    assert only(asks, grove_pods(asks)).staleness_grace_ms == 300_000
