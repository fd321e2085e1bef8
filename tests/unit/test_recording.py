"""A recording replays to the same snapshot, and holds nothing that no decision reads."""

import json
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.commit.outcome import CommitFailed
from scheduler.model.plan_difference import differences
from scheduler.model.plan_document import to_json
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.plan.planner import plan
from scheduler.state import recording
from scheduler.state.cluster import ClusterState
from scheduler.state.recording import RecordingError
from scheduler.state.translate import snapshot
from tests.manifests import (
    Document,
    allocation,
    change,
    container,
    device_class,
    disruption_budget,
    h100_node,
    job,
    kai_queue,
    merged,
    namespace,
    node,
    pod,
    pod_group,
    queue,
    resource_claim,
    resource_slice,
    seed_queue,
    state,
    taint_rule,
    topology,
)
from tests.numa import node_topology
from tests.storage import csi_node, volume, volume_claim

OWNER = job("j", annotations={"tutti.scheduler/min-member": "2"})
DOCUMENTS: list[Document] = [
    *h100_node("n1", gpus=2),
    node("n2", cpu="broken"),
    merged(node("n3"), spec={"taints": 7}),
    namespace("a", admin_access=True),
    queue("team", gpu={"quota": 1}),
    kai_queue("kai", gpu={"limit": -1}),
    seed_queue("seed"),
    topology("t", ("rack", "r")),
    device_class(),
    pod_group("g", min_member=2, queue="team"),
    pod_group("h", api_version="scheduling.run.ai/v2alpha2", minMember=1),
    pod_group("h", api_version="scheduling.run.ai/v1", minMember=2),
    pod("p1", group="g", templates={"gpu": "t"}, made_claims={"gpu": "c"}),
    pod("p2", node="n1", scheduler="other"),
    pod("p3", owner=OWNER),
    pod("p4", labels={"pod-group-name": "h"}),
    OWNER,
    resource_claim("c", allocation=allocation("n1", "gpu-0")),
    merged(resource_claim("later"), spec={"devices": {"shape": "torus"}}),
    merged(resource_claim("held", allocation=allocation("n1", "gpu-1")), spec={"devices": {"shape": "torus"}}),
    taint_rule("drain", {"driver": "gpu.nvidia.com"}),
    taint_rule("later", {"pool": "n1", "shape": "torus"}),
]
POLICY = Policy(seed=7, default_queue="team", spread=True)


@settings(max_examples=40, deadline=None)
@given(st.sets(st.sampled_from(range(len(DOCUMENTS)))))
def test_a_replay_gives_the_same_snapshot(chosen: set[int]) -> None:
    found = state([DOCUMENTS[index] for index in sorted(chosen)])
    usage = {"team": {"gpu": 12}}
    data = recording.dump(found, now_ms=1234, policy=POLICY, usage=usage)
    replayed = recording.load(data)
    assert replayed.snapshot() == snapshot(found, now_ms=1234, policy=POLICY, usage=usage)
    assert recording.dump(replayed.state, now_ms=1234, policy=replayed.policy, usage=replayed.usage) == data


def test_writes_not_yet_seen_are_recorded_as_done() -> None:
    found = state(pod("p", uid="u1"), resource_claim("c", version="1"))
    found.assume_bound("a/p", "u1", "n1")
    found.assume_claim(resource_claim("c", version="2", allocation=allocation("n1", "gpu-0")))
    replayed = recording.load(recording.dump(found, now_ms=0, policy=POLICY)).snapshot()
    assert replayed.pods[0].node == "n1"
    assert replayed.claims["a/c"].allocation is not None


def test_what_withdrawn_devices_drew_is_recorded() -> None:
    takes = {"name": "a", "consumesCounters": [{"counterSet": "b", "counters": {"slices": {"value": "1"}}}]}
    found = state(resource_slice("n1", takes), resource_claim("c", allocation=allocation("n1", "a")))
    found.apply(change(resource_slice("n1"), "DELETED"))
    seen = snapshot(found, now_ms=0, policy=POLICY)
    assert list(seen.withdrawn) == [("gpu.nvidia.com", "n1", "a")]
    assert recording.load(recording.dump(found, now_ms=0, policy=POLICY)).snapshot() == seen


def test_what_a_claim_avoids_or_what_is_made_for_a_pod_is_recorded() -> None:
    found = state(resource_claim("c"), pod("p", uid="u1"))
    found.avoid("a/c", "uid-a-c", [("d", "p", "b"), ("d", "p", "a")])
    found.avoid_for_pod("a/p", "u1", [("d", "p", "c")])
    data = recording.dump(found, now_ms=0, policy=POLICY)
    replayed = recording.load(data)
    assert replayed.snapshot().claims["a/c"].avoids == (("d", "p", "a"), ("d", "p", "b"))
    assert replayed.snapshot().gangs[0].pods[0].avoids == (("d", "p", "c"),)
    assert recording.dump(replayed.state, now_ms=0, policy=POLICY) == data


def test_what_no_decision_reads_is_not_recorded() -> None:
    secret = container(env=[{"name": "TOKEN", "value": "hunter2"}], command=["run", "--password=hunter3"])
    applied = {"kubectl.kubernetes.io/last-applied-configuration": "hunter4", "tutti.scheduler/pod-group": "g"}
    data = recording.dump(state(pod("p", containers=[secret], annotations=applied)), now_ms=0, policy=POLICY).decode()
    assert "hunter" not in data
    assert "tutti.scheduler/pod-group" in data


def everything() -> tuple[ClusterState, Snapshot]:
    """A cluster of which every part of the snapshot holds something, and that snapshot as a cycle decides on it."""
    takes = {"name": "a", "consumesCounters": [{"counterSet": "b", "counters": {"slices": {"value": "1"}}}]}
    found = state(
        DOCUMENTS,
        OWNER,
        volume_claim("data", bound=True, volume="v"),
        volume("v"),
        csi_node("n1", **{"disk.example.com": 5}),
        disruption_budget("keep", healthy=1, app="web"),
        node_topology("n1", {"cpu": "64"}),
        pod("w1", node="n1", group="w", labels={"app": "web"}, phase="Running"),
        pod_group("w", min_member=2),
        merged(pod("theirs", scheduler="other"), spec={"resourceClaims": [{"name": "g", "resourceClaimName": "c"}]}),
        resource_slice("n3", takes),
        resource_claim("gone", allocation=allocation("n3", "a")),
        merged(queue("used"), status={"usageAt": "2026-01-01T00:00:00Z", "usage": {"gpu": "0.5"}}),
    )
    found.apply(change(resource_slice("n3"), "DELETED"))
    found.avoid_for_pod("a/p1", "uid-a-p1", [("d", "p", "c")])
    seen = snapshot(found, now_ms=1234, policy=POLICY, usage={"team": {"gpu": 12}})
    return found, replace(seen, spared=frozenset({"a/w1", "a/p2"}))


def test_nothing_that_a_decision_may_depend_on_is_lost() -> None:
    found, seen = everything()
    empty = Snapshot(now_ms=0)
    # A new field has to be something other than its default here, and so to be recorded.
    assert [part.name for part in fields(Snapshot) if getattr(seen, part.name) == getattr(empty, part.name)] == []
    data = recording.of(found, seen, held_back={}, decided={})
    replayed = recording.load(data)
    for part in fields(Snapshot):
        assert getattr(replayed.snapshot(), part.name) == getattr(seen, part.name), part.name
    assert recording.of(replayed.state, replayed.snapshot(), held_back={}, decided={}) == data


def test_every_setting_of_the_policy_is_recorded() -> None:
    changed = {
        "bool": lambda setting: not setting,
        "int": lambda setting: setting + 1,
        "float": lambda setting: setting + 0.25,
        "str": lambda setting: f"{setting}-else",
        "tuple": lambda setting: ("stale", *setting),
    }
    settings = {part.name: getattr(Policy(), part.name) for part in fields(Policy)}
    other = Policy(**{name: changed[type(setting).__name__](setting) for name, setting in settings.items()})
    assert recording.load(recording.dump(state(), now_ms=0, policy=other)).policy == other


def test_a_pod_that_the_server_refused_to_evict_is_spared_in_a_replay_too() -> None:
    stages = Policy(stages=("allocate", "preempt"), default_queue="team")
    low, high = pod("low", node="n1", cpu="60", phase="Running"), pod("high", cpu="60", priority=100)
    found = state(queue("team"), node("n1"), low, high)
    seen = snapshot(found, now_ms=5, policy=stages)
    spared = replace(seen, spared=frozenset({"a/low"}))
    assert [each.pod for each in plan(seen).evictions] == ["a/low"]
    decided = to_json(plan(spared))
    replayed = recording.load(recording.of(found, spared, held_back={}, decided=decided))
    assert replayed.snapshot() == spared
    assert differences(decided, to_json(plan(replayed.snapshot())), {}) == []
    assert plan(replayed.snapshot()).evictions == ()


def test_copies_of_manifests_in_annotations_are_not_recorded() -> None:
    copies = ("kubectl.kubernetes.io/last-applied-configuration", "kapp.k14s.io/original")
    noted = dict.fromkeys((*copies, "objectset.rio.cattle.io/applied"), "hunter2") | {"example.com/note": "kept"}
    found = state(pod("p", annotations=noted), pod_group("g", annotations=noted), job("j", annotations=noted))
    data = recording.dump(found, now_ms=0, policy=POLICY)
    assert b"hunter2" not in data
    assert data.count(b"kept") == 2  # of a Job nobody reads it


def test_an_object_that_cannot_be_decoded_is_recorded_by_its_name_problem_and_devices() -> None:
    secret = container(env=[{"name": "TOKEN", "value": "hunter2"}], ports="many")
    held = merged(
        resource_claim("c", allocation=allocation("n1", "gpu-0")),
        metadata={"annotations": {"note": "hunter3"}},
        spec={"devices": {"requests": "hunter4"}},
    )
    found = state(pod("p", containers=[secret]), held)
    data = recording.dump(found, now_ms=0, policy=POLICY)
    assert b"hunter" not in data
    replayed = recording.load(data).snapshot()
    assert replayed == snapshot(found, now_ms=0, policy=POLICY)
    assert [each.object for each in replayed.set_aside] == ["Pod/a/p", "ResourceClaim/a/c"]
    assert replayed.claims["a/c"].allocation is not None


def test_the_plan_that_was_decided_and_gangs_held_back_are_recorded_with_it() -> None:
    found = state(queue("team"), node("n1"), pod("p", queue="team"), pod("q", queue="team"))
    failed = CommitFailed(gang="a/q", object="ResourceClaim a/c", problem="was refused")
    seen = snapshot(found, now_ms=5, policy=POLICY)
    gangs = tuple(replace(gang, problems=(failed,)) if gang.key == "a/q" else gang for gang in seen.gangs)
    decided = to_json(plan(replace(seen, gangs=gangs)))
    data = recording.dump(found, now_ms=5, policy=POLICY, held_back={"a/q": failed}, decided=decided)
    replayed = recording.load(data)
    assert replayed.decided == decided
    again = plan(replayed.snapshot())
    assert [(each.gang, each.reason.code if each.reason else None) for each in again.gangs] == [
        ("a/p", None),
        ("a/q", "CommitFailed"),
    ]
    assert differences(decided, to_json(again), replayed.held_back) == []


@pytest.mark.parametrize("kept", [True, False])
def test_whether_a_gang_held_back_keeps_its_room_is_recorded(kept: bool) -> None:
    found = state(queue("team"), node("n1"), pod("p", queue="team"))
    failed = CommitFailed(gang="a/p", object="ResourceClaim a/c", problem="was refused")
    keep_room = {"a/p"} if kept else set()
    data = recording.dump(found, now_ms=5, policy=POLICY, held_back={"a/p": failed}, keep_room=keep_room)
    assert [gang.held_back for gang in recording.load(data).snapshot().gangs] == [kept]


def test_environment_variables_and_commands_are_in_no_part_of_a_recording_with_its_plan() -> None:
    secret = container(env=[{"name": "TOKEN", "value": "hunter2"}], command=["run", "--password=hunter3"])
    found = state(queue("team"), node("n1"), pod("p", queue="team", containers=[secret]))
    decided = to_json(plan(snapshot(found, now_ms=5, policy=POLICY)))
    assert decided["placements"]
    assert b"hunter" not in recording.dump(found, now_ms=5, policy=POLICY, decided=decided)


def test_what_was_known_to_be_complete_stays_so() -> None:
    assert recording.load(recording.dump(state(), now_ms=0, policy=POLICY)).state.synced


def test_kinds_and_settings_of_other_releases_are_left_out() -> None:
    document = json.loads(recording.dump(state(node("n1")), now_ms=0, policy=POLICY))
    document["policy"]["fromTheFuture"] = 1
    document["objects"]["example.com/v9/widgets"] = [{"metadata": {"name": "w"}}]
    replayed = recording.load(json.dumps(document).encode())
    assert replayed.policy == POLICY
    assert [each.name for each in replayed.snapshot().nodes] == ["n1"]


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"[]", "cannot be read"),
        (b'{"format": "other/1", "nowMs": 0, "policy": {}, "objects": {}}', "'other/1'"),
        (b'{"format": "tutti-recording/1", "nowMs": "x", "policy": {}, "objects": {}}', "nowMs"),
        (b'{"format": "tutti-recording/1", "nowMs": 0, "policy": {"seed": "x"}, "objects": {}}', "field policy"),
        (
            b'{"format": "tutti-recording/1", "nowMs": 0, "policy": {}, "objects": {}, '
            b'"unreadable": {"v1/pods": [{"problem": "x", "object": {}}]}}',
            "unreadable Pod",
        ),
    ],
)
def test_what_is_no_recording_is_refused_with_a_cure(data: bytes, cause: str) -> None:
    with pytest.raises(RecordingError, match=cause):
        recording.load(data)
