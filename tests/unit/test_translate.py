"""API objects -> Snapshot: what pods ask for, queues in every dialect, claims, and what is set aside."""

import copy
import random
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from queues.tree import WHOLE, QueueResource
from scheduler.api import kinds
from scheduler.api.changes import Change, deleted, listed
from scheduler.api.core import NodeSelectorRequirement
from scheduler.model.company import Audience, Company, Spread, Taste, Term
from scheduler.model.reasons import Unreadable
from scheduler.model.snapshot import Policy, SetAside, Snapshot
from scheduler.model.workloads import ContainerAsk, HostPort, Pod, PodClaim
from scheduler.state.cluster import ClusterState
from scheduler.state.fields import duration_ms, time_ms
from scheduler.state.translate import prepare, snapshot
from tests.manifests import (
    Document,
    allocation,
    change,
    container,
    device_class,
    h100_node,
    h100_slice,
    job,
    kai_queue,
    merged,
    namespace,
    node,
    pod,
    pod_group,
    priority_class,
    queue,
    resource_claim,
    resource_slice,
    seed_queue,
    state,
    taint_rule,
    topology,
)

GI = 1024**3


def seen(*documents: Document | list[Document], **policy: Any) -> Snapshot:
    return snapshot(state(*documents), now_ms=0, policy=Policy(**policy))


def asked(**spec: Any) -> dict[str, int]:
    """What a bound pod takes of its node."""
    (found,) = seen(pod("p", node="n1", **spec)).pods
    return dict(found.requests.amounts)


def reason(found: Snapshot, object_: str) -> Unreadable:
    (aside,) = (each for each in found.set_aside if each.object == object_)
    assert isinstance(aside.reason, Unreadable)
    assert aside.reason.cure
    return aside.reason


# What a pod takes of its node.


def test_requests_are_summed_in_house_units_with_a_place_for_the_pod() -> None:
    containers = [
        container("a", requests={"cpu": "500m", "memory": "1Gi", "ephemeral-storage": "1G"}),
        container("b", requests={"cpu": "1", "hugepages-2Mi": "4Mi"}, limits={"nvidia.com/gpu": "2"}),
    ]
    assert asked(containers=containers) == {
        "cpu": 1500,
        "memory": GI,
        "ephemeral-storage": 10**9,
        "hugepages-2Mi": 4 * 1024**2,
        "nvidia.com/gpu": 2,
        "pods": 1,
    }


def test_limits_stand_in_for_requests_that_are_not_given() -> None:
    assert asked(containers=[container(requests={"cpu": "1"}, limits={"cpu": "4", "memory": "2Gi"})]) == {
        "cpu": 1000,
        "memory": 2 * GI,
        "pods": 1,
    }


def test_an_init_container_counts_if_it_takes_more_than_all_that_follow() -> None:
    containers = [container("a", requests={"cpu": "2", "memory": "1Gi"})]
    inits = [container("i", requests={"cpu": "1", "memory": "8Gi"})]
    assert asked(containers=containers, initContainers=inits) == {"cpu": 2000, "memory": 8 * GI, "pods": 1}


def test_sidecars_run_beside_the_containers_and_beside_later_init_containers() -> None:
    # Before the sidecar: 3. With it: 1 + 4. In the end: 1 + 2.
    inits = [
        container("first", requests={"cpu": "3"}),
        container("proxy", requests={"cpu": "1"}, sidecar=True),
        container("second", requests={"cpu": "4"}),
    ]
    assert asked(containers=[container(requests={"cpu": "2"})], initContainers=inits)["cpu"] == 5000
    assert asked(containers=[container(requests={"cpu": "6"})], initContainers=inits)["cpu"] == 7000


def test_overhead_is_added() -> None:
    assert asked(cpu="1", memory=None, overhead={"cpu": "250m"}) == {"cpu": 1250, "pods": 1}


def test_pod_level_requests_replace_the_sum_for_cpu_and_memory_only() -> None:
    found = asked(cpu="1", memory="1Gi", gpus=2, resources={"requests": {"cpu": "8"}, "limits": {"memory": "64Gi"}})
    assert found == {"cpu": 8000, "memory": GI, "nvidia.com/gpu": 2, "pods": 1}
    assert asked(cpu=None, memory=None, resources={"limits": {"memory": "2Gi"}})["memory"] == 2 * GI


def _resized(**status: Any) -> int:
    body = merged(pod("p", node="n1", cpu="4"), status={"phase": "Running", **status})
    (found,) = seen(body).pods
    return found.requests["cpu"]


def _container_status(allocated: str, in_force: str) -> list[Document]:
    resources = {"requests": {"cpu": in_force}}
    return [{"name": "main", "allocatedResources": {"cpu": allocated}, "resources": resources}]


def test_a_resize_in_place_holds_the_most_of_asked_given_and_in_force() -> None:
    assert _resized(containerStatuses=_container_status("2", "1")) == 4000
    assert _resized(containerStatuses=_container_status("6", "1")) == 6000
    assert _resized(containerStatuses=_container_status("1", "8")) == 8000


def test_a_resize_that_will_never_fit_is_not_counted() -> None:
    condition = {"type": "PodResizePending", "status": "True", "reason": "Infeasible"}
    assert _resized(containerStatuses=_container_status("2", "1"), conditions=[condition]) == 2000
    deferred = {**condition, "reason": "Deferred"}
    assert _resized(containerStatuses=_container_status("2", "1"), conditions=[deferred]) == 4000


def _resized_whole(allocated: str, in_force: str, reason: str = "") -> int:
    requests = {"cpu": in_force, "memory": "1Gi"}
    pending = {"type": "PodResizePending", "status": "True", "reason": reason}
    body = merged(
        pod("p", node="n1", cpu="1", resources={"requests": {"cpu": "4"}}, overhead={"cpu": "1"}),
        status={
            "phase": "Running",
            "allocatedResources": {"cpu": allocated, "memory": "1Gi"},
            "resources": {"requests": requests, "limits": {"memory": "9007199254740988Ki"}},
            "conditions": [pending] if reason else [],
        },
    )
    (found,) = seen(body).pods
    return found.requests["cpu"]


def test_a_resize_of_the_whole_pod_holds_the_most_of_asked_given_and_in_force_and_the_overhead() -> None:
    assert _resized_whole("2", "1") == 5000
    assert _resized_whole("6", "1") == 7000
    assert _resized_whole("1", "8") == 9000
    assert _resized_whole("2", "1", reason="Deferred") == 5000
    assert _resized_whole("2", "1", reason="Infeasible") == 3000


def test_what_is_given_to_a_whole_pod_that_asks_for_nothing_as_a_whole_does_not_count() -> None:
    assert _resized(allocatedResources={"cpu": "6"}, resources={"requests": {"cpu": "6"}}) == 4000


def test_host_ports_of_containers_and_sidecars_are_taken_on_the_node() -> None:
    port = {"containerPort": 80, "hostPort": 8080}
    spec = {
        "containers": [container(ports=[port, {"containerPort": 90}])],
        "initContainers": [
            container("s", sidecar=True, ports=[{"containerPort": 1, "hostPort": 81, "protocol": "UDP"}]),
            container("i", ports=[{"containerPort": 2, "hostPort": 82}]),
        ],
    }
    (found,) = seen(pod("p", node="n1", **spec)).pods
    assert found.host_ports == (
        HostPort(address="", protocol="TCP", port=8080),
        HostPort(address="", protocol="UDP", port=81),
    )
    (on_host,) = seen(pod("p", node="n1", hostNetwork=True, containers=[container(ports=[{"containerPort": 80}])])).pods
    assert on_host.host_ports == (HostPort(address="", protocol="TCP", port=80),)


def test_containers_that_ask_for_extended_resources_are_listed_init_containers_first() -> None:
    gpu = {"nvidia.com/gpu": "1"}
    spec = {
        "initContainers": [container("i", limits=gpu), container("s", limits=gpu, sidecar=True)],
        "containers": [container("plain", requests={"cpu": "1"}), container("main", limits={"nvidia.com/gpu": "4"})],
    }
    (found,) = seen(pod("p", node="n1", **spec)).pods
    assert found.extended == (
        ContainerAsk(name="i", index=0, requests={"nvidia.com/gpu": 1}, init=True),
        ContainerAsk(name="s", index=1, requests={"nvidia.com/gpu": 1}, init=True, sidecar=True),
        ContainerAsk(name="main", index=3, requests={"nvidia.com/gpu": 4}),
    )


# Which pods count.


def test_pods_on_nodes_count_whoever_scheduled_them_until_they_are_done() -> None:
    found = seen(
        pod("ours", node="n1"),
        pod("static", node="n1", scheduler="default-scheduler"),
        pod("leaving", node="n1", scheduler="default-scheduler", terminating=True),
        pod("ended", node="n1", phase="Succeeded"),
        pod("failed", node="n1", phase="Failed", scheduler="default-scheduler"),
        pod("waiting", scheduler="default-scheduler"),
    )
    assert [(each.name, each.ours, each.terminating) for each in found.pods] == [
        ("leaving", False, True),
        ("ours", True, False),
        ("static", False, False),
    ]


def test_room_that_another_scheduler_has_made_is_not_ours() -> None:
    nominated = merged(pod("p", scheduler="default-scheduler"), status={"nominatedNodeName": "n1"})
    assert [(each.node, each.ours) for each in seen(nominated).pods] == [("n1", False)]
    assert seen(merged(nominated, spec={"schedulerName": "tutti"})).pods == ()


def test_a_gated_pod_is_known_as_such() -> None:
    (gang,) = seen(pod("p", schedulingGates=[{"name": "wait"}])).gangs
    assert gang.pods[0].gated
    assert gang.pending == ()


def test_the_scheduler_name_is_the_policys() -> None:
    assert len(seen(pod("p", scheduler="kai-scheduler"), scheduler_name="kai-scheduler").gangs) == 1


def test_a_pods_claims_are_named_by_its_status_where_a_template_made_them() -> None:
    (gang,) = seen(
        pod(
            "p",
            claims={"shared": "board"},
            templates={"own": "t", "late": "t", "none": "t"},
            made_claims={"own": "p-own-x7", "none": None},
        )
    ).gangs
    assert gang.pods[0].claims == (
        PodClaim(name="shared", claim="a/board"),
        PodClaim(name="own", claim="a/p-own-x7", from_template=True),
        PodClaim(name="late", claim=None, from_template=True),
        PodClaim(name="none", claim=None, from_template=True, needed=False),
    )


def test_times_labels_and_task_priority_reach_the_model() -> None:
    labels = {"kai.scheduler/task-priority": "-3", "app": "x"}
    document = merged(pod("p", node="n1", labels=labels), status={"startTime": "2026-01-01T00:00:01.5Z"})
    (found,) = seen(document).pods
    assert (found.started_ms, found.task_priority, dict(found.labels)) == (1_767_225_601_500, -3, labels)


@pytest.mark.parametrize(("seconds", "counted"), [(None, 30), (0, 0), (600, 600), (-5, 1)])
def test_how_long_a_pod_may_take_to_end_is_what_kubernetes_makes_of_it(seconds: int | None, counted: int) -> None:
    """A negative grace is a second there (the API server's rule for deletion)."""
    (found,) = seen(pod("p", node="n1", **({} if seconds is None else {"terminationGracePeriodSeconds": seconds}))).pods
    assert found.ending_ms == counted * 1000


# Claims and devices.


def test_a_claim_carries_what_a_decision_needs() -> None:
    owner = pod("p", uid="u1")
    claim = resource_claim(
        "c",
        owner=owner,
        allocation=allocation("n1", "gpu-0"),
        reserved_for=[owner],
        labels={"kai.scheduler/queue": "team"},
    )
    found = seen(claim).claims["a/c"]
    assert (found.uid, found.owner_uid, found.reserved_for) == ("uid-a-c", "u1", ("u1",))
    assert (found.queue, found.terminating) == ("team", False)
    assert found.allocation is not None


def test_admin_access_is_allowed_by_the_namespace_and_withdrawn_with_its_label() -> None:
    found = state(namespace("a"), resource_claim("c"), resource_claim("c", "b"))
    assert not _now(found).claims["a/c"].admin_access_allowed
    found.apply(change(namespace("a", admin_access=True), "MODIFIED"))
    assert _now(found).claims["a/c"].admin_access_allowed
    assert not _now(found).claims["b/c"].admin_access_allowed
    found.apply(change(namespace("a"), "MODIFIED"))
    assert not _now(found).claims["a/c"].admin_access_allowed


def test_a_claim_that_cannot_be_decoded_still_holds_its_devices() -> None:
    broken = merged(resource_claim("c", allocation=allocation("n1", "gpu-0")), spec={"devices": {"requests": "all"}})
    found = seen(broken)
    assert reason(found, "ResourceClaim/a/c").field == "spec.devices.requests"
    held = found.claims["a/c"].allocation
    assert held is not None
    assert held.devices.results is not None
    assert held.devices.results[0].device == "gpu-0"


OPAQUE = {"driver": "d", "parameters": {"apiVersion": "d/v9", "anything": {"goes": [{}]}}}
SPEC: Document = {
    "devices": {
        "requests": [
            {
                "name": "one",
                "exactly": {
                    "deviceClassName": "gpu",
                    "selectors": [{"cel": {"expression": "true"}}],
                    "capacity": {"requests": {"memory": "1Gi"}},
                    "tolerations": [{"key": "k", "operator": "Exists"}],
                },
            },
            {"name": "other", "firstAvailable": [{"name": "a", "deviceClassName": "gpu"}]},
        ],
        "constraints": [{"matchAttribute": "d/x"}],
        "config": [{"opaque": OPAQUE}],
    }
}


@pytest.mark.parametrize(
    "at",
    [
        "",
        "devices",
        "devices.requests[0]",
        "devices.requests[0].exactly",
        "devices.requests[0].exactly.selectors[0]",
        "devices.requests[0].exactly.selectors[0].cel",
        "devices.requests[0].exactly.capacity",
        "devices.requests[0].exactly.tolerations[0]",
        "devices.requests[1].firstAvailable[0]",
        "devices.constraints[0]",
        "devices.config[0]",
        "devices.config[0].opaque",
    ],
)
def test_a_field_of_a_claim_that_nobody_here_knows_is_named_until_the_claim_is_allocated(at: str) -> None:
    spec = copy.deepcopy(SPEC)
    place: Any = spec
    for step in at.replace("[", ".").replace("]", "").split(".") if at else ():
        place = place[int(step) if step.isdigit() else step]
    place["later"] = False
    waiting = resource_claim("c") | {"spec": spec}
    path = ".".join(("spec", at, "later") if at else ("spec", "later"))
    assert seen(waiting).claims["a/c"].newer == (path,)
    allocated = resource_claim("c", allocation=allocation("n1", "gpu-0")) | {"spec": spec}
    found = seen(allocated)
    assert found.claims["a/c"].newer == ()
    assert found.claims["a/c"].allocation is not None


def test_of_a_claim_all_that_is_known_empty_or_opaque_is_no_newer_field() -> None:
    deep = {"x": [{"x": "y"}]}
    for _ in range(300):
        deep = {"x": [deep]}
    spec = copy.deepcopy(SPEC)
    spec["devices"]["later"] = None
    spec["devices"]["config"].append({"opaque": {"driver": "d", "parameters": deep}})
    assert seen(resource_claim("c") | {"spec": spec}).claims["a/c"].newer == ()


@pytest.mark.parametrize(
    ("selector", "field", "reads"),
    [
        ({"driver": "d", "pool": "p", "shape": "x"}, "spec.deviceSelector", ("d", "p", None)),
        ({"driver": 7, "device": "gpu-0"}, "spec.deviceSelector.driver", (None, None, "gpu-0")),
        ({"selectors": [{"cel": {"expression": "false"}}]}, "spec.deviceSelector", (None, None, None)),
    ],
)
def test_a_taint_whose_selector_cannot_be_read_is_on_all_that_the_rest_selects_and_it_is_said(
    selector: Document, field: str, reads: tuple[str | None, ...]
) -> None:
    found = seen(taint_rule("r", selector))
    (rule,) = found.taint_rules
    kept = rule.spec.device_selector
    assert kept is not None
    assert (rule.spec.taint.key, (kept.driver, kept.pool, kept.device)) == ("drain", reads)
    why = reason(found, "DeviceTaintRule/r")
    assert why.field == field
    assert why.problem.endswith("so its taint is on every device that the rest of it selects")
    assert why.remedy == f"Upgrade the scheduler, or correct {field}."


def test_a_fence_whose_selector_cannot_be_read_stands_nowhere_because_it_would_let_us_in() -> None:
    rule = taint_rule("r", {"driver": "d", "shape": "x"})
    found = seen(rule, device_fence_taint="drain")
    assert found.taint_rules == ()
    assert reason(found, "DeviceTaintRule/r").problem.endswith("so it puts up no fence")


def test_a_taint_rule_that_can_be_read_again_is_no_longer_set_aside() -> None:
    found = state(taint_rule("r", {"driver": "d", "shape": "x"}))
    assert len(_now(found).set_aside) == 1
    found.apply(change(taint_rule("r", {"driver": "d"}), "MODIFIED"))
    assert _now(found).set_aside == ()
    assert len(_now(found).taint_rules) == 1


def test_what_a_claim_is_to_avoid_is_told_until_it_is_forgiven_or_gone() -> None:
    found = state(resource_claim("c"), resource_claim("d"))
    first, second = ("d", "p", "a"), ("d", "p", "b")
    version = found.version
    found.avoid("a/c", "uid-a-c", [second])
    found.avoid("a/c", "uid-a-c", [first])
    assert found.version > version
    assert {key: claim.avoids for key, claim in _now(found).claims.items()} == {"a/c": (first, second), "a/d": ()}
    assert _now(found.fork()).claims["a/c"].avoids == (first, second)
    found.forgive("a/c", "uid-a-c")
    assert _now(found).claims["a/c"].avoids == ()
    found.avoid("a/c", "uid-a-c", [first])
    found.apply(change(resource_claim("c"), "DELETED"))
    found.apply(change(resource_claim("c")))
    assert _now(found).claims["a/c"].avoids == ()


def test_what_claims_made_for_a_pod_are_to_avoid_is_told_until_it_is_forgiven_or_the_pod_is_bound_or_gone() -> None:
    found = state(pod("p", uid="p1"), pod("q", uid="q1"))
    first, second = ("d", "p", "a"), ("d", "p", "b")

    def told() -> dict[str, tuple[tuple[str, str, str], ...]]:
        return {each.key: each.avoids for gang in _now(found).gangs for each in gang.pods}

    found.avoid_for_pod("a/p", "p1", [second])
    assert told() == {"a/p": (second,), "a/q": ()}
    found.avoid_for_pod("a/p", "p1", [first])
    assert told() == {"a/p": (first, second), "a/q": ()}
    found.forgive_for_pod("a/p", "p1")
    assert told() == {"a/p": (), "a/q": ()}
    found.avoid_for_pod("a/p", "p1", [first])
    found.assume_bound("a/p", "p1", "n1")
    assert told() == {"a/p": (), "a/q": ()}
    found.forget_pod("a/p")
    assert told() == {"a/p": (first,), "a/q": ()}
    found.apply(change(pod("p", uid="p1"), "DELETED"))
    assert dict(found.avoided) == {}
    found.apply(change(pod("p", uid="p2")))
    assert told() == {"a/p": (), "a/q": ()}


def test_a_device_that_fails_again_after_it_was_forgiven_is_no_news() -> None:
    """Or a gang with nowhere else to go would be tried again and again without ever waiting for long."""
    found = state(resource_claim("c"), pod("p", uid="p1"))
    first, second = ("d", "p", "a"), ("d", "p", "b")
    assert found.avoid("a/c", "uid-a-c", [first])
    found.forgive("a/c", "uid-a-c")
    assert not found.avoid("a/c", "uid-a-c", [first])
    assert found.avoid("a/c", "uid-a-c", [first, second])
    assert found.avoid_for_pod("a/p", "p1", [first])
    found.forgive_for_pod("a/p", "p1")
    assert not found.avoid_for_pod("a/p", "p1", [first])


def test_nothing_is_remembered_to_be_avoided_by_what_is_gone_already() -> None:
    found = state(resource_claim("c"), pod("p", uid="p2"))
    version = found.version
    for key, uid in (("a/c", "another"), ("a/d", "uid-a-d")):
        found.avoid(key, uid, [("d", "p", "a")])
    for key, uid in (("a/p", "p1"), ("a/q", "q1")):
        found.avoid_for_pod(key, uid, [("d", "p", "a")])
    assert dict(found.avoided) == {}
    assert found.version == version


def part(name: str, slices: int = 1) -> Document:
    """A device that takes so many slices of its board."""
    return {"name": name, "consumesCounters": [{"counterSet": "b", "counters": {"slices": {"value": str(slices)}}}]}


def withdrawn(found: ClusterState) -> dict[str, Any]:
    """What withdrawn devices draw, by name."""
    return {
        name: use.counters["slices"].value
        for (_, _, name), device in snapshot(found, now_ms=0, policy=Policy()).withdrawn.items()
        for use in device.consumes_counters or ()
    }


def test_what_a_withdrawn_device_drew_is_known_whenever_a_claim_holds_it() -> None:
    holder = resource_claim("c", allocation=allocation("n1", "a", "b", "plain"))
    plain = {"name": "plain"}
    found = state(resource_slice("n1", part("a"), part("b", 2), part("c", 4), plain), holder)
    assert withdrawn(found) == {}
    found.apply(change(resource_slice("n1", part("c", 4), generation=2), "MODIFIED"))
    assert withdrawn(found) == {"a": "1", "b": "2"}
    assert withdrawn(found.fork()) == {"a": "1", "b": "2"}
    found.apply(change(resource_slice("n1", part("b", 3), number=1, generation=2)))
    assert withdrawn(found) == {"a": "1"}, "another slice lists it"
    found.apply(change(resource_slice("n1", part("b", 3), number=1, generation=2), "DELETED"))
    assert withdrawn(found) == {"a": "1", "b": "3"}
    found.apply(change(resource_claim("c", allocation=allocation("n1", "b")), "MODIFIED"))
    assert withdrawn(found) == {"b": "3"}
    found.apply(change(resource_claim("c"), "MODIFIED"))
    assert withdrawn(found) == {}
    found.apply(change(holder, "MODIFIED"))
    assert withdrawn(found) == {"a": "1", "b": "3"}


def test_a_claim_that_is_told_late_may_hold_what_was_withdrawn_before() -> None:
    """Given away, or by another scheduler, just when the driver took it out of its slice."""
    found = state(resource_slice("n1", part("a"), part("b"), {"name": "c", "capacity": {"memory": {"value": "9"}}}))
    found.apply(change(resource_slice("n1", part("b")), "MODIFIED"))
    for number in range(3):
        found.apply(change(node(f"n{number}")))
        assert withdrawn(found) == {}
    found.apply(change(resource_claim("late", allocation=allocation("n1", "a", "c"))))
    assert withdrawn(found) == {"a": "1"}
    (_, kept) = snapshot(found, now_ms=0, policy=Policy()).withdrawn.values()
    assert (kept.capacity or {})["memory"].value == "9", "what devices have is known, too"
    looking = merged(resource_claim("look", allocation=allocation("n1", "b")), spec={})
    looking["status"]["allocation"]["devices"]["results"][0]["adminAccess"] = True
    found.apply(change(resource_slice("n1"), "DELETED"))
    found.apply(change(looking))
    assert withdrawn(found) == {"a": "1"}, "who only looks holds nothing"


def test_of_many_withdrawn_devices_that_nobody_holds_the_first_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.state.withdrawn._MOST_FREE", 2)
    names = ("held", "v", "w", "x", "y")
    found = state(*(resource_slice(name, part(name)) for name in names))
    found.apply(change(resource_claim("c", allocation=allocation("held", "held"))))
    for name in names:
        found.apply(change(resource_slice(name), "DELETED"))
        assert withdrawn(found) == {"held": "1"}
    assert sorted(device for _, _, device in found.withdrawn.in_order()) == ["held", "x", "y"]


def test_what_a_device_drew_is_known_although_its_slice_could_not_be_decoded_in_between() -> None:
    known = resource_slice("n1", part("a"), part("b"))
    found = state(known, resource_claim("c", allocation=allocation("n1", "a", "b")))
    found.apply(change(merged(known, spec={"devices": 7}), "MODIFIED"))
    assert withdrawn(found) == {"a": "1", "b": "1"}
    found.apply(change(resource_slice("n1", part("b")), "MODIFIED"))
    assert withdrawn(found) == {"a": "1"}


def test_claims_that_are_not_yet_told_may_hold_any_withdrawn_device() -> None:
    found = ClusterState()
    found.apply(change(resource_slice("n1", part("a"))))
    found.apply(change(resource_slice("n1"), "MODIFIED"))
    assert withdrawn(found) == {"a": "1"}
    found.apply(change(resource_claim("c", allocation=allocation("n1", "a"))))
    found.apply(listed(kinds.RESOURCE_CLAIM))
    assert withdrawn(found) == {"a": "1"}


def test_slices_and_classes_are_the_objects_as_decoded() -> None:
    found = state(h100_node("n1"), device_class())
    first = _now(found)
    assert [each.metadata.name for each in first.slices] == ["n1-gpu.nvidia.com-0"]
    assert list(first.classes) == ["gpu.nvidia.com"]
    found.apply(change(merged(h100_slice("n1"), metadata={"resourceVersion": "9"}), "MODIFIED"))
    assert _now(found).slices[0] is first.slices[0]


def test_a_node_that_cannot_be_read_is_set_aside_and_the_others_stay() -> None:
    found = seen(node("n1", cpu="plenty"), merged(node("n2"), spec={"taints": "none"}), node("n3", gpus=8))
    assert [each.name for each in found.nodes] == ["n3"]
    assert reason(found, "Node/n1").field == "status.allocatable.cpu"
    assert reason(found, "Node/n2").field == "spec.taints"
    assert found.nodes[0].allocatable["nvidia.com/gpu"] == 8


def test_an_unreadable_pod_of_another_scheduler_still_takes_its_place() -> None:
    found = seen(pod("p", node="n1", cpu="many", scheduler="other"))
    assert reason(found, "Pod/a/p").field == "spec.containers[main].resources.requests.cpu"
    assert dict(found.pods[0].requests.amounts) == {"pods": 1}


def test_a_negative_amount_is_refused() -> None:
    assert "-1 is negative" in reason(seen(pod("p", node="n1", cpu="-1")), "Pod/a/p").message


def test_an_object_that_can_be_read_again_is_no_longer_set_aside() -> None:
    found = state(node("n1", cpu="plenty"))
    assert len(_now(found).set_aside) == 1
    found.apply(change(node("n1", cpu="4"), "MODIFIED"))
    assert _now(found).set_aside == ()
    assert [each.name for each in _now(found).nodes] == ["n1"]


# Queues.


def test_our_queues_are_in_quantities_and_what_is_absent_is_free() -> None:
    document = queue(
        "team",
        "research",
        gpu={"quota": 16, "limit": "32", "overQuotaWeight": 2},
        cpu={"quota": "1500m"},
        memory={"limit": "1Ti"},
        resources={"deviceclass/h100.example.com": {"quota": "2"}},
        preemptMinRuntime="5m",
    )
    (found,) = seen(document).queues
    assert (found.name, found.parent, found.priority) == ("team", "research", 100)
    assert found["gpu"] == QueueResource(quota=16_000, limit=32_000, weight=2)
    assert found["cpu"] == QueueResource(quota=1500)
    assert found["memory"] == QueueResource(limit=1024**4)
    assert found["deviceclass/h100.example.com"] == QueueResource(quota=2000)
    assert found.preempt_min_runtime_ms == 300_000


def test_kais_queues_are_in_its_own_units_and_what_is_absent_is_nothing() -> None:
    document = kai_queue(
        "team",
        gpu={"quota": 1.5, "limit": -1, "overQuotaWeight": 0.5},
        cpu={"quota": -1, "limit": 4000},
        memory={"quota": 2000},
    )
    (found,) = seen(document).queues
    assert found["gpu"] == QueueResource(quota=1500, limit=None, weight=1)
    assert found["cpu"] == QueueResource(quota=WHOLE, limit=4000, weight=0)
    assert found["memory"] == QueueResource(quota=2_000_000_000, limit=0, weight=0)


def test_the_queue_of_articles_is_read_as_ours_with_root_as_the_top() -> None:
    document = seed_queue("team", resources={"gpu": {"quota": 16, "limit": 32, "overQuotaWeight": 2}}, priority=90)
    (found,) = seen(document).queues
    assert (found.parent, found.priority) == (None, 90)
    assert found["gpu"] == QueueResource(quota=16_000, limit=32_000, weight=2)
    assert found["cpu"] == QueueResource()
    assert [each.parent for each in seen(document, queue("root")).queues] == [None, "root"]


def test_of_two_queues_of_one_name_ours_counts_and_the_other_is_set_aside() -> None:
    found = seen(queue("team", gpu={"quota": 1}), kai_queue("team", gpu={"quota": 2}))
    assert [each["gpu"].quota for each in found.queues] == [1000]
    said = reason(found, "Queue/team")
    assert "scheduling.run.ai/v2 has the same name as" not in said.message
    assert "tutti.scheduler/v1alpha1" in said.message


def test_an_unreadable_queue_of_ours_does_not_give_way_to_another_dialects_limits() -> None:
    found = seen(queue("team", gpu={"quota": "x"}), kai_queue("team", gpu={"limit": -1}))
    assert found.queues == ()
    assert len(found.set_aside) == 2


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"resources": {"gpus": {"quota": 1}}}, "spec.resources.gpus"),
        ({"resources": {"deviceclass/": {"quota": 1}}}, "spec.resources.deviceclass/"),
        ({"resources": {"gpu": {"limit": "-1"}}}, "spec.resources.gpu.limit"),
        ({"resources": {"gpu": {"limit": True}}}, "spec.resources.gpu.limit"),
        ({"resources": {"memory": {"quota": "9Zi"}}}, "spec.resources.memory.quota"),
        ({"resources": {"gpu": 16}}, "spec.resources.gpu"),
        ({"resources": {"gpu": {"overQuotaWeight": 1.5}}}, "spec.resources.gpu.overQuotaWeight"),
        ({"priority": "high"}, "spec.priority"),
        ({"parentQueue": ["a"]}, "spec.parentQueue"),
        ({"preemptMinRuntime": "-1s"}, "spec.preemptMinRuntime"),
    ],
)
def test_a_queue_that_cannot_be_read_is_set_aside_with_its_field(spec: dict[str, Any], field: str) -> None:
    found = seen(merged(queue("bad"), spec=spec), queue("good"))
    assert [each.name for each in found.queues] == ["good"]
    assert reason(found, "Queue/bad").field == field


# Topologies.


def test_topologies_of_both_dialects_are_read() -> None:
    kai = {
        "apiVersion": "kai.scheduler/v1alpha1",
        "kind": "Topology",
        "metadata": {"name": "kai"},
        "spec": {
            "levels": [{"nodeLabel": "example.com/rack", "alias": "rack"}, {"nodeLabel": "kubernetes.io/hostname"}]
        },
    }
    found = seen(topology("ours", "block", ("example.com/rack", "rack")), kai).topologies
    assert list(found) == ["kai", "ours"]
    assert found["kai"].levels == ("example.com/rack", "kubernetes.io/hostname")
    assert found["ours"].aliases == {"rack": "example.com/rack"}


def test_a_gang_is_told_that_its_topology_cannot_be_read_and_not_that_it_does_not_exist() -> None:
    group = pod_group("g", min_member=1, topologyConstraint={"topology": "t", "requiredLevel": "rack"})
    (gang,) = seen(topology("t"), group, pod("p", group="g")).gangs
    (problem,) = gang.problems
    assert problem.message == "a/g: Topology t cannot be read: spec.levels: there are none."
    assert problem.cure == "List the levels, coarse to fine."


@pytest.mark.parametrize(
    ("levels", "field"),
    [
        ([], "spec.levels"),
        ([{"alias": "x"}], "spec.levels[0].key"),
        ([{"key": "a"}, {"key": "a"}], "spec.levels[1].key"),
        ([{"key": "a", "alias": "x"}, {"key": "b", "alias": "x"}], "spec.levels[1].alias"),
    ],
)
def test_a_topology_that_cannot_be_read_is_set_aside(levels: list[dict[str, str]], field: str) -> None:
    assert reason(seen(merged(topology("t"), spec={"levels": levels})), "Topology/t").field == field


# Never an exception, always the same answer.

RUBBISH: tuple[Any, ...] = (None, 7, -1.5, True, "x", "", [], [7], {}, {"x": {}}, [{"name": 3}])


@pytest.mark.parametrize("value", RUBBISH, ids=repr)
@pytest.mark.parametrize(
    ("document", "paths"),
    [
        (pod("p", node="n1", templates={"g": "t"}), ("spec", "spec.containers", "status", "metadata.labels")),
        (pod_group("g", min_member=1), ("spec", "spec.minMember", "spec.subGroups", "spec.topologyConstraint")),
        (queue("q"), ("spec", "spec.resources", "spec.resources.gpu", "spec.priority")),
        (kai_queue("q"), ("spec", "spec.resources", "spec.resources.gpu", "spec.resources.gpu.quota")),
        (topology("t", "a"), ("spec", "spec.levels")),
        (job("j"), ("spec", "metadata.annotations")),
        (node("n"), ("spec", "status", "status.allocatable", "status.allocatable.cpu", "spec.taints")),
        (resource_claim("c"), ("spec", "spec.devices", "spec.devices.requests", "status", "status.reservedFor")),
        (h100_slice("n", 1), ("spec", "spec.devices", "spec.pool")),
        (priority_class("c", 1), ("value",)),
    ],
    ids=lambda each: each["kind"] if isinstance(each, dict) else None,
)
def test_no_content_of_an_object_stops_a_snapshot(document: Document, paths: tuple[str, ...], value: Any) -> None:
    for path in paths:
        found = seen(_with(document, path, value), node("good"), pod("good", group="g"))
        assert "good" in [each.name for each in found.nodes]
        assert [gang.pods[-1].name for gang in found.gangs if "good" in gang.pods[-1].name] == ["good"]


def _with(document: Document, path: str, value: Any) -> Document:
    first, _, rest = path.partition(".")
    below = document.get(first)
    return {**document, first: _with(below if isinstance(below, dict) else {}, rest, value) if rest else value}


DOCUMENTS: tuple[Document, ...] = (
    node("n1"),
    node("n1", cpu="broken"),
    node("n2", labels={"rack": "r1"}),
    namespace("a", admin_access=True),
    namespace("a"),
    pod("p1", group="g"),
    pod("p1", group="g", node="n1"),
    pod("p1", group="h", queue="q1"),
    pod("p1", cpu="broken"),
    pod("p1", phase="Succeeded", node="n1", group="g"),
    pod("p2", group="g", queue="q2"),
    pod("p2", scheduler="other", node="n2"),
    pod("p2", owner=job("j")),
    pod("p3", owner=job("j"), priority_class="high"),
    pod("p3", annotations={"pod-group-name": "g"}),
    pod("g"),
    job("j", annotations={"tutti.scheduler/min-member": "2"}),
    job("j", labels={"tutti.scheduler/queue": "q1"}),
    pod_group("g", min_member=2),
    pod_group("g", min_member="broken"),  # type: ignore[arg-type]
    pod_group("g", topologyConstraint={"topology": "t", "requiredLevel": "rack"}),
    pod_group("g", api_version="scheduling.run.ai/v2alpha2", queue="q2", priorityClassName="build"),
    pod_group("h", priorityClassName="high"),
    queue("q1", gpu={"quota": 1}),
    queue("q1", gpu={"quota": "broken"}),
    kai_queue("q1", gpu={"quota": 5}),
    queue("default"),
    topology("t", "rack"),
    topology("t"),
    priority_class("high", 100),
    priority_class("usual", 7, default=True),
    device_class(),
    resource_claim("c"),
    resource_claim("c", allocation=allocation("n1", "gpu-0")),
    h100_slice("n1", 2),
)


@st.composite
def _histories(draw: st.DrawFn) -> list[list[Change]]:
    """Batches of changes, a snapshot after each."""
    one = st.sampled_from(DOCUMENTS).map(change)
    gone = st.sampled_from(DOCUMENTS).map(lambda each: deleted(change(each).kind, change(each).key))
    return draw(st.lists(st.lists(st.one_of(one, one, gone), max_size=8), max_size=6))


@settings(max_examples=150, deadline=None)
@given(_histories())
def test_what_is_remembered_between_snapshots_never_shows(history: list[list[Change]]) -> None:
    found = state()
    for batch in history:
        found.apply_all(batch)
        assert _now(found) == _now(found.fork())


def test_what_many_objects_mean_is_prepared_while_they_are_listed_once_all_that_it_depends_on_is_known() -> None:
    found = ClusterState()
    found.apply(change(pod("p", priority_class="high")))
    prepare(found, Policy())
    assert found.derived is None
    many = (kinds.POD, kinds.NODE, kinds.RESOURCE_SLICE, kinds.RESOURCE_CLAIM)
    found.apply(change(priority_class("high", 7)))
    found.apply_all(listed(kind) for kind in found.kinds if kind not in many)
    prepare(found, Policy())
    assert found.derived is not None
    found.apply(change(node("n1")))
    found.apply_all(listed(kind) for kind in many)
    assert _now(found) == _now(found.fork())
    assert [(gang.name, gang.priority) for gang in _now(found).gangs] == [("p", 7)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(DOCUMENTS), max_size=20), st.randoms(use_true_random=False))
def test_the_order_of_the_objects_does_not_matter(documents: list[Document], shuffle: random.Random) -> None:
    newest = {(each["apiVersion"], each["kind"], change(each).key): each for each in documents}
    given_ = list(newest.values())
    shuffled = given_[:]
    shuffle.shuffle(shuffled)
    assert seen(shuffled) == seen(given_)


def test_everything_is_sorted() -> None:
    found = seen(
        [node("n2"), node("n1"), queue("q2"), queue("q1"), pod("p2", node="n1"), pod("p1", node="n1")],
        [resource_claim("c2"), resource_claim("c1"), device_class("y"), device_class("x"), pod("a", "z")],
        [merged(node(name), spec={"taints": 7}) for name in ("n9", "n8")],
    )
    assert [each.name for each in found.nodes] == ["n1", "n2"]
    assert [each.name for each in found.queues] == ["q1", "q2"]
    assert [each.key for each in found.pods] == ["a/p1", "a/p2"]
    assert list(found.claims) == ["a/c1", "a/c2"]
    assert list(found.classes) == ["x", "y"]
    assert [each.key for each in found.gangs] == ["a/p1", "a/p2", "z/a"]
    assert [each.object for each in found.set_aside] == ["Node/n8", "Node/n9"]


def test_a_snapshot_of_a_state_that_did_not_change_shares_what_it_is_made_of() -> None:
    found = state(node("n1"), pod("p"), resource_claim("c"))
    first, second = _now(found), _now(found)
    assert first.nodes is second.nodes
    assert first.gangs is second.gangs
    assert first.claims is second.claims


def test_another_policy_is_another_translation() -> None:
    found = state(pod("p"), queue("team"))
    assert snapshot(found, now_ms=0, policy=Policy(default_queue="team")).gangs[0].queue == "team"
    assert snapshot(found, now_ms=0, policy=Policy()).gangs[0].queue == ""


def test_assumed_writes_are_in_the_snapshot() -> None:
    found = state(pod("p", uid="u1"))
    assert _now(found).pods == ()
    found.assume_bound("a/p", "u1", "n1")
    (bound,) = _now(found).pods
    assert bound.node == "n1"
    assert _pod(_now(found)).node == "n1"
    found.forget_pod("a/p")
    assert _now(found).pods == ()
    assert _pod(_now(found)).node == ""


# Small readers.


@given(st.integers(min_value=0, max_value=253_402_300_799))
def test_times_are_read_as_the_library_writes_them(seconds: int) -> None:
    text = datetime.fromtimestamp(seconds, UTC).isoformat()
    assert time_ms(text) == time_ms(text.replace("+00:00", "Z")) == seconds * 1000


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("2026-01-01T00:00:00Z", 1_767_225_600_000),
        ("2026-01-01T02:00:00+02:00", 1_767_225_600_000),
        ("2025-12-31T19:00:00.25-05:00", 1_767_225_600_250),
        ("2026-01-01T00:00:00.123456Z", 1_767_225_600_123),
        ("", 0),
        (None, 0),
        ("yesterday", 0),
        ("2026-13-01T00:00:00Z", 0),
    ],
)
def test_forms_of_times(text: str | None, milliseconds: int) -> None:
    assert time_ms(text) == milliseconds


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("90s", 90_000),
        ("1h30m", 5_400_000),
        ("1.5h", 5_400_000),
        ("250ms", 250),
        ("1w", 604_800_000),
        ("-1s", -1000),
        ("0", 0),
        ("90", None),
        ("s", None),
        ("1h 30m", None),
        ("1" * 60 + "h", None),
    ],
)
def test_forms_of_durations(text: str, milliseconds: int | None) -> None:
    assert duration_ms(text) == milliseconds


def _now(found: ClusterState) -> Snapshot:
    return snapshot(found, now_ms=0, policy=Policy())


def _pod(found: Snapshot) -> Pod:
    (gang,) = found.gangs
    return gang.pods[0]


def test_set_aside_names_kind_and_uid() -> None:
    (aside,) = seen(merged(node("n1"), spec={"taints": 7})).set_aside
    assert isinstance(aside, SetAside)
    assert (aside.object, aside.uid) == ("Node/n1", "uid--n1")
    assert kinds.NODE.kind == "Node"


def test_rules_about_other_pods_are_read_with_their_audiences() -> None:
    """Without namespaces the pod's own is meant; match label keys bring in what the pod itself has."""
    apart = {
        "topologyKey": "zone",
        "labelSelector": {"matchLabels": {"app": "db"}, "matchExpressions": [{"key": "x", "operator": "Exists"}]},
        "matchLabelKeys": ["version", "absent"],
        "mismatchLabelKeys": ["tenant"],
    }
    near = {"topologyKey": "rack", "namespaceSelector": {}, "labelSelector": {}}
    affinity = {
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]},
        "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 7, "podAffinityTerm": near}]},
    }
    even = {"topologyKey": "zone", "maxSkew": 2, "whenUnsatisfiable": "ScheduleAnyway", "nodeTaintsPolicy": "Honor"}
    made = pod("p", node="n1", affinity=affinity, topologySpreadConstraints=[even])
    made["metadata"]["labels"] = {"version": "3", "tenant": "t"}
    (found,) = seen(made).pods
    wanted = [("app", "In", ("db",)), ("tenant", "NotIn", ("t",)), ("version", "In", ("3",)), ("x", "Exists", ())]
    labels = tuple(NodeSelectorRequirement(key=key, operator=op, values=values) for key, op, values in wanted)
    everybody = Audience(namespace_labels=())
    assert found.company == Company(
        apart=(Term(key="zone", audience=Audience(labels=labels, namespaces=("a",))),),
        tastes=(Taste(weight=7, term=Term(key="rack", audience=everybody)),),
        spread=(
            Spread(
                term=Term(key="zone", audience=Audience(namespaces=("a",), nobody=True)),
                max_skew=2,
                hard=False,
                by_taints=True,
            ),
        ),
    )


def test_the_labels_of_namespaces_are_part_of_the_snapshot() -> None:
    assert seen(namespace("a", team="red"), namespace("b")).namespaces == {"a": {"team": "red"}, "b": {}}
