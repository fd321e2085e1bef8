"""ClusterState: the newest object counts, and the version grows only when a decision may differ."""

import pytest

from scheduler.api import kinds
from scheduler.api.changes import Change, deleted, listed
from scheduler.api.core import Node, Pod
from scheduler.api.dra import ResourceClaim
from scheduler.state.cluster import ClusterState
from tests.manifests import allocation, change, job, merged, node, pod, pod_group, queue, resource_claim, state


def test_nothing_may_be_decided_before_every_kind_is_listed() -> None:
    found = ClusterState()
    for kind in found.kinds[:-1]:
        found.apply(listed(kind))
    assert not found.synced
    assert found.awaited == (kinds.POD,)
    found.apply(listed(kinds.POD))
    assert found.synced


def test_the_newest_object_of_a_key_counts_and_a_deleted_one_is_gone() -> None:
    found = state(node("n1", cpu="4"), node("n2"))
    found.apply(change(node("n1", cpu="8"), "MODIFIED"))
    found.apply(change(node("n2"), "DELETED"))
    assert found.keys(kinds.NODE) == ("n1",)
    newest = found.object(kinds.NODE, "n1")
    assert isinstance(newest, Node)
    assert newest.status.allocatable is not None
    assert newest.status.allocatable["cpu"] == "8"


def test_a_late_watch_does_not_bring_back_what_is_older() -> None:
    held = resource_claim("c", version="100", allocation=allocation("n1", "gpu-0"))
    found = state(resource_claim("c", version="90"))
    found.assume_claim(held)
    found.forget_claim("a/c")
    found.apply(change(held, "MODIFIED"))
    version = found.version
    found.apply(change(resource_claim("c", version="95"), "MODIFIED"))
    assert _allocated(found, "a/c")
    assert found.version == version
    found.apply(change(resource_claim("c", version="101"), "MODIFIED"))
    assert not _allocated(found, "a/c")


def test_another_object_of_the_name_counts_whatever_its_version() -> None:
    found = state(merged(node("n", cpu="4"), metadata={"uid": "u1", "resourceVersion": "100"}))
    found.apply(change(merged(node("n", cpu="8"), metadata={"uid": "u2", "resourceVersion": "20"}), "ADDED"))
    newest = found.change(kinds.NODE, "n")
    assert newest is not None
    assert newest.meta.uid == "u2"


def test_a_late_farewell_to_an_older_object_does_not_take_its_successor() -> None:
    found = state(pod("p", uid="new"))
    found.apply(change(pod("p", uid="old"), "DELETED"))
    assert found.keys(kinds.POD) == ("a/p",)
    found.apply(deleted(kinds.POD, "a/p"))
    assert found.keys(kinds.POD) == ()


def test_the_raw_document_is_kept_with_fields_that_we_do_not_read() -> None:
    newer = merged(resource_claim("c"), spec={"fromTheFuture": {"x": 1}})
    found = state(newer)
    raw = found.raw(kinds.RESOURCE_CLAIM, "a/c")
    assert raw is not None
    assert b"fromTheFuture" in raw


def test_an_object_that_cannot_be_decoded_is_known_by_its_problem() -> None:
    found = state(merged(node("n1"), spec={"unschedulable": "perhaps"}), node("n2"))
    assert found.object(kinds.NODE, "n1") is None
    assert [key for key, _ in found.objects(kinds.NODE)] == ["n2"]
    broken = found.change(kinds.NODE, "n1")
    assert broken is not None
    assert broken.problem == "Expected `bool`, got `str` - at `$.spec.unschedulable`"


READY = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
TAKEN = resource_claim("c", allocation=allocation("n1", "gpu-0"))
FINALIZER = {"metadata": {"finalizers": ["resource.kubernetes.io/delete-protection"]}}
SINCE = {"status": {"allocation": {"allocationTimestamp": "2026-01-01T00:00:00Z"}}}
REPORTED = {"driver": "gpu.nvidia.com", "pool": "n1", "device": "gpu-0", "conditions": [READY]}


def whole_pod_in_force(cpu: str) -> dict[str, object]:
    asked = {"requests": {"cpu": "1"}}
    return merged(pod("p", node="n", resources=asked), status={"resources": {"requests": {"cpu": cpu}}})


UNMOVED = [
    (
        "a size that repeats its containers'",
        pod("p"),
        merged(pod("p"), status={"resources": {"requests": {"cpu": "1"}}}),
    ),
    ("a heartbeat", node("n"), merged(node("n"), metadata={"resourceVersion": "7"})),
    ("our own condition", pod("p"), merged(pod("p"), status={"conditions": [{**READY, "type": "PodScheduled"}]})),
    ("our own status", pod_group("g"), merged(pod_group("g"), status={"conditions": [READY]})),
    ("a queue's status", queue("q"), merged(queue("q"), status={"allocated": {"gpu": "1"}})),
    ("a job's counts", job("j"), merged(job("j"), status={"active": 1})),
    ("a claim's finalizer", resource_claim("c", version="1"), merged(resource_claim("c", version="2"), **FINALIZER)),
    ("since when a claim has its devices", TAKEN, merged(TAKEN, **SINCE)),
    ("what a driver says of a claim's devices", TAKEN, merged(TAKEN, status={"devices": [REPORTED]})),
    ("a field we do not read", pod("p"), merged(pod("p"), spec={"hostname": "x"})),
]
MOVED = [
    ("a label", node("n"), merged(node("n"), metadata={"labels": {"rack": "r1"}})),
    ("a taint", node("n"), node("n", taints=[{"key": "k", "effect": "NoSchedule"}])),
    ("a phase", pod("p", node="n"), pod("p", node="n", phase="Succeeded")),
    ("a deletion", pod("p"), pod("p", terminating=True)),
    ("a size in force", whole_pod_in_force("1"), whole_pod_in_force("2")),
    ("a made claim", pod("p", templates={"g": "t"}), pod("p", templates={"g": "t"}, made_claims={"g": "c"})),
    ("a minimum", pod_group("g", min_member=2), pod_group("g", min_member=3)),
    ("an allocation", resource_claim("c"), resource_claim("c", allocation=allocation("n1", "gpu-0"))),
    ("a reservation", TAKEN, resource_claim("c", allocation=allocation("n1", "gpu-0"), reserved_for=[pod("p")])),
    ("pods that ended well", job("j"), merged(job("j"), status={"succeeded": 1})),
    ("an annotation", job("j"), job("j", annotations={"tutti.scheduler/min-member": "2"})),
]


@pytest.mark.parametrize(("before", "after"), [row[1:] for row in UNMOVED], ids=[row[0] for row in UNMOVED])
def test_what_no_decision_reads_does_not_move_the_version(before: dict[str, object], after: dict[str, object]) -> None:
    found = state(before)
    version = found.version
    found.apply(change(after, "MODIFIED"))
    assert found.version == version


@pytest.mark.parametrize(("before", "after"), [row[1:] for row in MOVED], ids=[row[0] for row in MOVED])
def test_what_a_decision_reads_moves_the_version(before: dict[str, object], after: dict[str, object]) -> None:
    found = state(before)
    version = found.version
    found.apply(change(after, "MODIFIED"))
    assert found.version > version


def test_the_echo_of_an_object_that_is_known_moves_nothing() -> None:
    found = state(pod("p"))
    version = found.version
    found.apply(change(pod("p"), "ADDED"))
    assert found.version == version


def test_a_fork_goes_its_own_way() -> None:
    found = state(pod("p"))
    found.assume_bound("a/p", "uid-a-p", "n1")
    other = found.fork()
    other.apply(change(pod("q")))
    other.forget_pod("a/p")
    assert found.keys(kinds.POD) == ("a/p",)
    assert _node(found, "a/p") == "n1"
    assert other.keys(kinds.POD) == ("a/p", "a/q")
    assert _node(other, "a/p") == ""


def test_kinds_that_the_state_does_not_hold_are_ignored() -> None:
    found = ClusterState([kinds.NODE])
    found.apply(change(pod("p")))
    assert found.keys(kinds.POD) == ()
    assert found.version == 0


def test_a_listed_kind_says_that_what_is_not_there_does_not_exist() -> None:
    found = ClusterState()
    assert not found.lists(kinds.JOB)
    found.apply(Change(kind=kinds.JOB, type="LISTED"))
    assert found.lists(kinds.JOB)


def _node(found: ClusterState, key: str) -> str:
    known = found.object(kinds.POD, key)
    assert isinstance(known, Pod)
    return known.spec.node_name


def _allocated(found: ClusterState, key: str) -> bool:
    known = found.object(kinds.RESOURCE_CLAIM, key)
    assert isinstance(known, ResourceClaim)
    return known.status.allocation is not None
