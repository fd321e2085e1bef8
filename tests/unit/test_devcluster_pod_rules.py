"""Pods, and the objects that make them, as the API server takes them: defaults, priority, validation, changes."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.devcluster import kinds
from scheduler.devcluster.objects import with_field
from scheduler.devcluster.patch import MERGE_PATCH
from scheduler.devcluster.store import Store
from tests.devcluster import faulty_fields, new_store, pod, refusal


def created(body: dict[str, Any], store: Store | None = None) -> dict[str, Any]:
    return (store or new_store()).create(kinds.POD, body)


# --- defaults -----------------------------------------------------------------------------------------------------


def test_a_pod_begins_pending_with_the_defaults_of_the_api():
    done = created(pod())
    assert done["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    wanted = {
        "restartPolicy": "Always",
        "schedulerName": "default-scheduler",
        "terminationGracePeriodSeconds": 30,
        "priority": 0,
        "preemptionPolicy": "PreemptLowerPriority",
    }
    assert {key: done["spec"][key] for key in wanted} == wanted


def test_requests_come_from_limits_and_quantities_are_canonical():
    resources = {"limits": {"cpu": "2000m", "nvidia.com/gpu": 1}, "requests": {"memory": "1024Mi"}}
    done = created(pod(container={"resources": resources}))["spec"]["containers"][0]["resources"]
    assert done == {
        "limits": {"cpu": "2", "nvidia.com/gpu": "1"},
        "requests": {"cpu": "2", "nvidia.com/gpu": "1", "memory": "1Gi"},
    }


@pytest.mark.parametrize(
    ("resources", "quality"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
    ],
)
def test_the_quality_of_service_follows_requests_and_limits(resources: dict[str, Any], quality: str):
    assert created(pod(container={"resources": resources}))["status"]["qosClass"] == quality


def test_a_gated_pod_says_so():
    (condition,) = created(pod(schedulingGates=[{"name": "wait"}]))["status"]["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("PodScheduled", "False", "SchedulingGated")


# --- priority -----------------------------------------------------------------------------------------------------


def store_with_classes() -> Store:
    store = new_store()
    store.create(kinds.PRIORITY_CLASS, {"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"})
    return store


def test_priority_comes_from_the_class():
    spec = created(pod(priorityClassName="high"), store_with_classes())["spec"]
    assert (spec["priority"], spec["preemptionPolicy"]) == (1000, "Never")
    assert created(pod(priorityClassName="system-node-critical"))["spec"]["priority"] == 2_000_001_000


def test_the_global_default_class_serves_pods_that_name_none():
    store = store_with_classes()
    store.create(kinds.PRIORITY_CLASS, {"metadata": {"name": "usual"}, "value": 7, "globalDefault": True})
    spec = created(pod(), store)["spec"]
    assert (spec["priority"], spec["priorityClassName"]) == (7, "usual")


def test_an_unknown_class_or_a_contradicting_priority_is_forbidden():
    with refusal(403, "Forbidden") as caught:
        created(pod(priorityClassName="none"))
    assert "no PriorityClass with name none was found" in caught.value.message
    with refusal(403, "Forbidden"):
        created(pod(priorityClassName="high", priority=5), store_with_classes())


# --- validation ---------------------------------------------------------------------------------------------------

CLAIM = {"name": "gpu", "resourceClaimName": "one"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (pod(containers=[]), "spec.containers"),
        (pod(container={"image": ""}), "spec.containers[0].image"),
        (pod(container={"name": "Main"}), "spec.containers[0].name"),
        (pod(initContainers=[{"name": "main", "image": "x"}]), "spec.containers[0].name"),
        (pod(restartPolicy="Sometimes"), "spec.restartPolicy"),
        (pod(terminationGracePeriodSeconds=-1), "spec.terminationGracePeriodSeconds"),
        (
            pod(container={"resources": {"requests": {"cpu": "lots"}}}),
            "spec.containers[0].resources.requests[cpu]",
        ),
        (pod(container={"resources": {"limits": {"cpu": "-1"}}}), "spec.containers[0].resources.limits[cpu]"),
        (
            pod(container={"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}),
            "spec.containers[0].resources.requests",
        ),
        (
            pod(container={"resources": {"requests": {"nvidia.com/gpu": "1"}}}),
            "spec.containers[0].resources.limits",
        ),
        (
            pod(container={"resources": {"limits": {"nvidia.com/gpu": "0.5"}}}),
            "spec.containers[0].resources.limits[nvidia.com/gpu]",
        ),
        (pod(resourceClaims=[{**CLAIM, "resourceClaimTemplateName": "two"}]), "spec.resourceClaims[0]"),
        (pod(resourceClaims=[{"name": "gpu"}]), "spec.resourceClaims[0]"),
        (pod(resourceClaims=[CLAIM, CLAIM]), "spec.resourceClaims[1].name"),
        (
            pod(container={"resources": {"claims": [{"name": "other"}]}}, resourceClaims=[CLAIM]),
            "spec.containers[0].resources.claims[0]",
        ),
        (pod(tolerations=[{"operator": "Exists", "value": "x"}]), "spec.tolerations[0].operator"),
        (pod(tolerations=[{"key": "a", "effect": "Never"}]), "spec.tolerations[0].effect"),
        (
            pod(
                affinity={
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Like"}]}]
                        }
                    }
                }
            ),
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
            ".nodeSelectorTerms[0].matchExpressions[0].operator",
        ),
    ],
)
def test_a_faulty_pod_is_refused_with_the_field(body: dict[str, Any], field: str):
    with refusal(422, "Invalid") as caught:
        created(body)
    assert faulty_fields(caught.value)[0] == field


@pytest.mark.parametrize(
    "spec",
    [
        {"containers": "none"},
        {"containers": ["none"]},
        {"containers": [{"name": "a", "image": "b", "resources": {"limits": ["cpu"]}}]},
        {"containers": [{"name": "a", "image": "b"}], "tolerations": "all"},
        {"containers": [{"name": "a", "image": "b"}], "resourceClaims": [1]},
        {"containers": [{"name": "a", "image": "b"}], "nodeSelector": "n1"},
        {"containers": [{"name": "a", "image": "b"}], "affinity": {"nodeAffinity": ["n1"]}},
        "nothing",
        None,
    ],
)
def test_a_pod_of_the_wrong_shape_is_refused_and_nothing_breaks(spec: Any):
    store = new_store()
    with pytest.raises(Exception) as caught:
        store.create(kinds.POD, {"metadata": {"name": "web"}, "spec": spec})
    assert getattr(caught.value, "code", None) in (400, 422)
    assert store.all(kinds.POD) == []


# --- changes ------------------------------------------------------------------------------------------------------


def patch(store: Store, spec: dict[str, Any]) -> dict[str, Any]:
    return store.patch(kinds.POD, "default", "web", MERGE_PATCH, {"spec": spec})


def test_little_of_a_pod_may_change():
    store = new_store()
    store.create(kinds.POD, pod(tolerations=[{"key": "a", "operator": "Exists"}]))
    assert patch(store, {"activeDeadlineSeconds": 9})["spec"]["activeDeadlineSeconds"] == 9
    for spec in ({"nodeName": "n1"}, {"schedulerName": "other"}, {"priority": 5}, {"tolerations": []}):
        with refusal(422, "Invalid"):
            patch(store, spec)
    image = with_field(
        store.get(kinds.POD, "default", "web"), ("spec", "containers"), [{"name": "main", "image": "v2"}]
    )
    assert store.update(kinds.POD, image)["spec"]["containers"][0]["image"] == "v2"


def test_gates_are_only_removed_and_a_gated_pod_may_be_directed():
    store = new_store()
    store.create(kinds.POD, pod(schedulingGates=[{"name": "one"}, {"name": "two"}]))
    with refusal(422, "Invalid"):
        patch(store, {"schedulingGates": [{"name": "one"}, {"name": "three"}]})
    assert patch(store, {"nodeSelector": {"zone": "a"}})["spec"]["nodeSelector"] == {"zone": "a"}
    patch(store, {"schedulingGates": None})
    with refusal(422, "Invalid"):
        patch(store, {"nodeSelector": {"zone": "b"}})


# --- objects that make pods ---------------------------------------------------------------------------------------

TEMPLATE = {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "main", "image": "app"}]}}


def workload(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": TEMPLATE, **spec},
    }


def job(**spec: Any) -> dict[str, Any]:
    template = {"spec": {**TEMPLATE["spec"], "restartPolicy": "Never"}}
    return {"metadata": {"name": "j"}, "spec": {"template": template, **spec}}


@pytest.mark.parametrize("kind", [kinds.DEPLOYMENT, kinds.REPLICA_SET, kinds.STATEFUL_SET, kinds.DAEMON_SET])
def test_a_workload_needs_a_selector_that_matches_its_template(kind: kinds.Kind):
    store = new_store()
    store.create(kind, workload())
    with refusal(422, "Invalid") as caught:
        store.create(kind, workload(selector={"matchLabels": {"app": "x"}}))
    assert faulty_fields(caught.value) == ["spec.template.metadata.labels"]
    with refusal(422, "Invalid") as caught:
        store.create(kind, workload(selector=None))
    assert faulty_fields(caught.value) == ["spec.selector"]


def test_faults_of_a_template_name_their_place_in_the_workload():
    bad = {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "main"}]}}
    with refusal(422, "Invalid") as caught:
        new_store().create(kinds.DEPLOYMENT, workload(template=bad))
    assert faulty_fields(caught.value) == ["spec.template.spec.containers[0].image"]


def test_a_job_gets_a_selector_and_labels_of_its_own():
    done = new_store().create(kinds.JOB, job(parallelism=2))
    uid = done["metadata"]["uid"]
    assert done["spec"]["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    assert done["spec"]["template"]["metadata"]["labels"]["batch.kubernetes.io/job-name"] == "j"
    assert (done["spec"]["parallelism"], done["spec"]["backoffLimit"], done["spec"]["suspend"]) == (2, 6, False)


def test_a_job_restarts_never_or_on_failure_and_keeps_its_template():
    store = new_store()
    with refusal(422, "Invalid") as caught:
        store.create(kinds.JOB, {"metadata": {"name": "j"}, "spec": {"template": TEMPLATE}})
    assert faulty_fields(caught.value) == ["spec.template.spec.restartPolicy"]
    store.create(kinds.JOB, job())
    with refusal(422, "Invalid"):
        store.patch(kinds.JOB, "default", "j", MERGE_PATCH, {"spec": {"completions": 9}})
    assert store.patch(kinds.JOB, "default", "j", MERGE_PATCH, {"spec": {"parallelism": 9}})["spec"]["parallelism"] == 9
