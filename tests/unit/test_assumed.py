"""Our writes count at once, until the watch tells the same or something newer."""

from typing import Any

from scheduler.api import kinds
from scheduler.api.changes import deleted
from scheduler.api.core import Pod
from scheduler.api.dra import ResourceClaim
from scheduler.model.snapshot import Policy
from scheduler.state import translate
from scheduler.state.cluster import ClusterState
from tests.manifests import allocation, change, merged, node, pod, resource_claim, state

P = pod("p", uid="u1", version="5")
FREE = resource_claim("c", version="5")
TAKEN = resource_claim("c", version="7", allocation=allocation("n1", "gpu-0"), reserved_for=[P])


def shown(found: ClusterState) -> Pod:
    known = found.object(kinds.POD, "a/p")
    assert isinstance(known, Pod)
    return known


def allocated(found: ClusterState) -> bool:
    known = found.object(kinds.RESOURCE_CLAIM, "a/c")
    assert isinstance(known, ResourceClaim)
    return known.status.allocation is not None


def test_a_bound_pod_is_on_its_node_before_the_watch_says_so() -> None:
    found = state(P)
    version = found.version
    found.assume_bound("a/p", "u1", "n1")
    assert shown(found).spec.node_name == "n1"
    assert found.version > version


def test_an_older_event_does_not_undo_a_binding() -> None:
    found = state(P)
    found.assume_bound("a/p", "u1", "n1")
    found.apply(change(merged(P, metadata={"labels": {"x": "y"}}), "MODIFIED"))
    assert shown(found).spec.node_name == "n1"
    assert shown(found).metadata.labels == {"x": "y"}


def test_the_watch_confirms_a_binding_without_another_decision() -> None:
    found = state(P)
    found.assume_bound("a/p", "u1", "n1", now_ms=10)
    version = found.version
    found.apply(change(pod("p", uid="u1", version="6", node="n1"), "MODIFIED"))
    assert found.version == version
    assert found.overdue(before_ms=1000) == ()


def test_the_queue_that_pays_is_known_before_the_watch_says_so() -> None:
    found = state(P)
    found.assume_bound("a/p", "u1", "n1", queue="org/team")
    noted = {"tutti.scheduler/charged-queue": "org/team"}
    assert shown(found).metadata.annotations == noted
    version = found.version
    found.apply(change(pod("p", uid="u1", version="6", node="n1", annotations=noted), "MODIFIED"))
    assert found.version == version


def test_a_bound_pod_is_where_its_node_is_before_the_watch_says_so() -> None:
    place = {"topology.kubernetes.io/zone": "a", "topology.kubernetes.io/region": "eu"}
    found = state(P, node("n1", labels={**place, "rack": "r1"}))
    found.assume_bound("a/p", "u1", "n1")
    assert shown(found).metadata.labels == place
    version = found.version
    found.apply(change(pod("p", uid="u1", version="6", node="n1", labels=place), "MODIFIED"))
    assert found.version == version


def test_a_binding_that_failed_is_forgotten() -> None:
    found = state(P)
    found.assume_bound("a/p", "u1", "n1")
    version = found.version
    found.forget_pod("a/p")
    assert shown(found).spec.node_name == ""
    assert found.version > version


def test_a_pod_made_anew_under_the_same_name_does_not_inherit_the_binding() -> None:
    found = state(P)
    found.assume_bound("a/p", "u1", "n1")
    found.apply(change(P, "DELETED"))
    found.apply(change(pod("p", uid="u2"), "ADDED"))
    assert shown(found).spec.node_name == ""


def test_a_binding_of_a_pod_that_was_replaced_meanwhile_does_not_touch_the_new_one() -> None:
    found = state(pod("p", uid="u2"))
    found.assume_bound("a/p", "u1", "n1")
    assert shown(found).spec.node_name == ""


def test_an_evicted_pod_is_on_its_way_out_and_keeps_its_node() -> None:
    found = state(pod("p", uid="u1", node="n1"))
    found.assume_terminating("a/p", "u1")
    assert shown(found).metadata.deletion_timestamp is not None
    assert shown(found).spec.node_name == "n1"
    found.apply(change(pod("p", uid="u1", node="n1", terminating=True), "MODIFIED"))
    assert found.overdue(before_ms=1000) == ()


def test_several_writes_about_one_pod_are_confirmed_together() -> None:
    found = state(P)
    found.assume_extended_claim("a/p", "u1", "p-extended")
    found.assume_bound("a/p", "u1", "n1")
    found.apply(change(pod("p", uid="u1", node="n1"), "MODIFIED"))
    extended = shown(found).status.extended_resource_claim_status
    assert extended is not None
    assert extended.resource_claim_name == "p-extended"
    assert shown(found).spec.node_name == "n1"


def test_an_allocated_claim_counts_before_the_watch_says_so_and_raw_is_the_answer() -> None:
    found = state(FREE)
    found.assume_claim(TAKEN)
    assert allocated(found)
    raw = found.raw(kinds.RESOURCE_CLAIM, "a/c")
    assert raw is not None
    assert b"gpu-0" in raw


def test_an_older_event_does_not_undo_an_allocation() -> None:
    found = state(FREE)
    found.assume_claim(TAKEN)
    found.apply(change(merged(FREE, metadata={"resourceVersion": "6"}), "MODIFIED"))
    assert allocated(found)


def test_a_release_that_is_newer_than_our_allocation_counts() -> None:
    found = state(FREE)
    found.assume_claim(TAKEN)
    found.apply(change(resource_claim("c", version="8"), "MODIFIED"))
    assert not allocated(found)


def test_a_claim_only_we_have_seen_is_there() -> None:
    found = state()
    found.assume_claim(TAKEN)
    assert found.keys(kinds.RESOURCE_CLAIM) == ("a/c",)
    assert allocated(found)


def test_a_claim_that_is_gone_takes_our_allocation_with_it() -> None:
    found = state(FREE)
    found.assume_claim(TAKEN)
    found.apply(deleted(kinds.RESOURCE_CLAIM, "a/c"))
    assert found.keys(kinds.RESOURCE_CLAIM) == ()


def test_the_answer_to_a_write_that_the_watch_told_already_changes_nothing() -> None:
    found = state(resource_claim("c", version="9"))
    version = found.version
    found.assume_claim(TAKEN)
    assert not allocated(found)
    assert found.version == version


def test_our_own_allocation_coming_true_step_by_step_calls_for_no_decision_and_is_noticed() -> None:
    found = state(FREE)
    found.assume_claim(merged(TAKEN, metadata={"resourceVersion": "5", "finalizers": []}), in_flight=True)
    version = found.version
    found.apply(change(merged(FREE, metadata={"resourceVersion": "6", "finalizers": ["x"]}), "MODIFIED"))
    assert found.confirmed == 0
    answer = merged(TAKEN, status={"allocation": {"allocationTimestamp": "2026-01-01T00:00:00Z"}})
    found.assume_claim(answer)
    found.apply(change(answer, "MODIFIED"))
    assert (found.version, found.confirmed) == (version, 1)


def test_a_binding_that_the_watch_told_first_is_noticed_as_well() -> None:
    found = state(pod("p", uid="u1", version="6", node="n1"))
    version = found.version
    found.assume_bound("a/p", "u1", "n1")
    assert (found.version, found.confirmed) == (version, 1)


def test_a_binding_is_noticed_while_something_else_of_the_pod_is_not_seen_yet() -> None:
    found = state(P)
    found.assume_bound("a/p", "u1", "n1", now_ms=10)
    found.assume_extended_claim("a/p", "u1", "made", now_ms=10)
    bound = pod("p", uid="u1", version="6", node="n1")
    found.apply(change(bound, "MODIFIED"))
    assert found.confirmed == 1
    assert found.overdue(before_ms=1000) == ("Pod/a/p",)
    found.apply(change(merged(bound, metadata={"resourceVersion": "7"}), "MODIFIED"))
    assert found.confirmed == 1


def test_the_claim_that_was_made_last_counts_although_the_status_names_an_earlier_one_still() -> None:
    def naming(claim: str, version: str) -> dict[str, Any]:
        status = {"extendedResourceClaimStatus": {"resourceClaimName": claim, "requestMappings": []}}
        return merged(P, metadata={"resourceVersion": version}, status=status)

    def named() -> str:
        served = shown(found).status.extended_resource_claim_status
        assert served is not None
        return served.resource_claim_name

    found = state(naming("first", "6"))
    found.assume_extended_claim("a/p", "u1", "second", now_ms=10)
    assert named() == "second"
    found.apply(change(naming("first", "7"), "MODIFIED"))
    assert named() == "second"
    assert found.overdue(before_ms=1000) == ("Pod/a/p",)
    found.apply(change(naming("second", "8"), "MODIFIED"))
    assert (named(), found.overdue(before_ms=1000)) == ("second", ())


def test_what_a_claim_avoids_goes_with_it_if_another_of_its_name_is_told_next() -> None:
    found = state(FREE)
    found.avoid("a/c", "uid-a-c", [("gpu.nvidia.com", "n1", "gpu-0")])
    found.apply(change(merged(FREE, metadata={"uid": "another"}), "MODIFIED"))
    assert found.avoided == {}


def test_a_write_under_way_survives_our_own_finalizer_coming_back() -> None:
    found = state(FREE)
    intended = merged(TAKEN, metadata={"resourceVersion": "5"})
    found.assume_claim(intended, in_flight=True)
    found.apply(change(merged(FREE, metadata={"resourceVersion": "6", "finalizers": ["x"]}), "MODIFIED"))
    assert allocated(found)
    found.forget_claim("a/c")
    assert not allocated(found)


def test_a_foreign_allocation_overtakes_a_write_under_way() -> None:
    found = state(FREE)
    found.assume_claim(merged(TAKEN, metadata={"resourceVersion": "5"}), in_flight=True)
    foreign = resource_claim("c", version="6", allocation=allocation("n2", "gpu-7"), reserved_for=[P])
    found.apply(change(foreign, "MODIFIED"))
    known = found.object(kinds.RESOURCE_CLAIM, "a/c")
    assert isinstance(known, ResourceClaim)
    assert known.status.allocation is not None
    assert known.status.allocation.devices.results is not None
    assert known.status.allocation.devices.results[0].device == "gpu-7"


def test_what_is_not_confirmed_for_long_is_named_so_that_it_can_be_read_again() -> None:
    found = state(P, FREE)
    found.assume_bound("a/p", "u1", "n1", now_ms=100)
    found.assume_claim(TAKEN, now_ms=200)
    assert found.overdue(before_ms=150) == ("Pod/a/p",)
    assert found.overdue(before_ms=300) == ("Pod/a/p", "ResourceClaim/a/c")


def test_who_was_just_bound_has_just_come_before_the_watch_tells_it() -> None:
    found = state(pod("p", uid="u1"))
    found.assume_bound("a/p", "u1", "n1", now_ms=1_767_225_600_000)
    (seen,) = translate.snapshot(found, now_ms=1_767_225_600_500, policy=Policy()).pods
    assert (seen.node, seen.bound_ms) == ("n1", 1_767_225_600_000)
