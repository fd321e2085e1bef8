"""The object store: versions, conflicts, names, deletion, binding, watches."""

from __future__ import annotations

import pytest

from scheduler.devcluster import kinds
from scheduler.devcluster.objects import with_field, with_meta
from scheduler.devcluster.patch import JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH
from tests.devcluster import Clock, bound, faulty_fields, new_store, pod, refusal

CONFIG = {"metadata": {"name": "settings"}, "data": {"a": "1"}}


# --- versions -----------------------------------------------------------------------------------------------------


def test_every_write_gets_the_next_resource_version_whatever_the_kind():
    store = new_store()
    start = store.resource_version
    store.create(kinds.CONFIG_MAP, CONFIG)
    store.create(kinds.POD, pod())
    assert store.get(kinds.CONFIG_MAP, "default", "settings")["metadata"]["resourceVersion"] == str(start + 1)
    assert store.get(kinds.POD, "default", "web")["metadata"]["resourceVersion"] == str(start + 2)


def test_a_created_object_gets_identity_from_the_server():
    created = new_store().create(kinds.CONFIG_MAP, CONFIG)
    assert (created["apiVersion"], created["kind"]) == ("v1", "ConfigMap")
    assert created["metadata"]["namespace"] == "default"
    assert created["metadata"]["creationTimestamp"] == "2026-01-01T00:00:00Z"
    assert created["metadata"]["uid"]


def test_an_update_with_a_stale_version_is_a_conflict_and_one_without_version_is_not():
    store = new_store()
    first = store.create(kinds.CONFIG_MAP, CONFIG)
    store.update(kinds.CONFIG_MAP, {**first, "data": {"a": "2"}})
    with refusal(409, "Conflict"):
        store.update(kinds.CONFIG_MAP, {**first, "data": {"a": "3"}})
    blind = {**first, "data": {"a": "4"}, "metadata": {"name": "settings"}}
    assert store.update(kinds.CONFIG_MAP, blind)["data"] == {"a": "4"}


def test_a_write_meant_for_an_earlier_object_of_the_name_is_a_conflict():
    store = new_store()
    first = store.create(kinds.CONFIG_MAP, CONFIG)
    store.delete(kinds.CONFIG_MAP, "default", "settings")
    store.create(kinds.CONFIG_MAP, CONFIG)
    with refusal(409, "Conflict"):
        store.patch(
            kinds.CONFIG_MAP, "default", "settings", MERGE_PATCH, {"metadata": {"uid": first["metadata"]["uid"]}}
        )


def test_a_write_that_changes_nothing_is_no_write():
    store = new_store()
    store.create(kinds.CONFIG_MAP, CONFIG)
    before = store.resource_version
    watch = store.watch(kinds.CONFIG_MAP)
    store.patch(kinds.CONFIG_MAP, "default", "settings", MERGE_PATCH, {"data": {"a": "1"}})
    assert store.resource_version == before
    assert watch.take() == []


def test_what_was_read_stays_as_it_was_when_the_object_changes():
    store = new_store()
    store.create(kinds.CONFIG_MAP, CONFIG)
    read = store.get(kinds.CONFIG_MAP, "default", "settings")
    store.patch(kinds.CONFIG_MAP, "default", "settings", JSON_PATCH, [{"op": "add", "path": "/data/b", "value": "2"}])
    assert read["data"] == {"a": "1"}


def test_generation_counts_changes_of_the_spec_only():
    store = new_store()
    store.create(kinds.DISRUPTION_BUDGET, {"metadata": {"name": "b"}, "spec": {"minAvailable": 1}})

    def generation_after(patch: dict, subresource: str | None = None) -> int:
        done = store.patch(kinds.DISRUPTION_BUDGET, "default", "b", MERGE_PATCH, patch, subresource=subresource)
        return done["metadata"]["generation"]

    assert generation_after({"metadata": {"labels": {"x": "y"}}}) == 1
    assert generation_after({"status": {"currentHealthy": 3}}, "status") == 1
    assert generation_after({"spec": {"minAvailable": 2}}) == 2


def test_status_is_written_only_through_its_subresource_and_nothing_else_is():
    store = new_store()
    store.create(kinds.POD, pod())
    plain = store.patch(kinds.POD, "default", "web", MERGE_PATCH, {"status": {"phase": "Running"}})
    assert plain["status"]["phase"] == "Pending"
    body = {"status": {"phase": "Running"}, "spec": {"activeDeadlineSeconds": 5}}
    through = store.patch(kinds.POD, "default", "web", STRATEGIC_PATCH, body, subresource="status")
    assert through["status"]["phase"] == "Running"
    assert "activeDeadlineSeconds" not in through["spec"]


def test_a_dry_run_answers_like_a_write_and_stores_nothing():
    store = new_store()
    version = store.resource_version
    assert store.create(kinds.CONFIG_MAP, CONFIG, dry_run=True)["metadata"]["uid"]
    assert store.find(kinds.CONFIG_MAP, "default", "settings") is None
    assert store.resource_version == version


# --- names and namespaces -----------------------------------------------------------------------------------------


def test_a_taken_name_is_refused():
    store = new_store()
    store.create(kinds.CONFIG_MAP, CONFIG)
    with refusal(409, "AlreadyExists"):
        store.create(kinds.CONFIG_MAP, CONFIG)


def test_generate_name_gives_every_object_its_own_name():
    store = new_store()
    names = {store.create(kinds.POD, pod("", meta={"generateName": "w-"}))["metadata"]["name"] for _ in range(50)}
    assert len(names) == 50
    assert all(name.startswith("w-") and len(name) == 7 for name in names)


def test_nothing_is_created_in_a_namespace_that_is_missing():
    with refusal(404, "NotFound"):
        new_store().create(kinds.CONFIG_MAP, CONFIG, namespace="nowhere")


def test_the_path_and_the_object_must_agree_on_the_namespace():
    inside = {"metadata": {"name": "settings", "namespace": "kube-system"}}
    with refusal(400, "BadRequest"):
        new_store().create(kinds.CONFIG_MAP, inside, namespace="default")


@pytest.mark.parametrize("name", ["Upper", "under_score", "-dash", "a" * 254, "", "a/b"])
def test_a_name_that_is_no_dns_subdomain_is_invalid(name: str):
    with refusal(422, "Invalid") as caught:
        new_store().create(kinds.CONFIG_MAP, {"metadata": {"name": name}})
    assert faulty_fields(caught.value) == ["metadata.name"]


@pytest.mark.parametrize("labels", [{"a b": "c"}, {"a": "b c"}, {"a": "x" * 64}, {"a": 1}])
def test_labels_are_checked(labels: dict):
    with refusal(422, "Invalid"):
        new_store().create(kinds.CONFIG_MAP, {"metadata": {"name": "a", "labels": labels}})


# --- deletion -----------------------------------------------------------------------------------------------------


def test_an_object_with_finalizers_stays_until_the_last_one_is_removed():
    store = new_store()
    store.create(kinds.CONFIG_MAP, {"metadata": {"name": "a", "finalizers": ["x/one", "x/two"]}})
    marked = store.delete(kinds.CONFIG_MAP, "default", "a")
    assert marked["metadata"]["deletionTimestamp"]
    store.update(kinds.CONFIG_MAP, with_meta(marked, finalizers=["x/two"]))
    left = store.get(kinds.CONFIG_MAP, "default", "a")
    store.update(kinds.CONFIG_MAP, with_meta(left, finalizers=None))
    assert store.find(kinds.CONFIG_MAP, "default", "a") is None


def test_no_finalizer_is_added_to_an_object_that_is_being_deleted():
    store = new_store()
    store.create(kinds.CONFIG_MAP, {"metadata": {"name": "a", "finalizers": ["x/one"]}})
    marked = store.delete(kinds.CONFIG_MAP, "default", "a")
    with refusal(422, "Invalid"):
        store.update(kinds.CONFIG_MAP, with_meta(marked, finalizers=["x/one", "x/late"]))


def test_a_running_pod_gets_its_grace_and_goes_when_the_kubelet_deletes_it_with_none():
    clock = Clock()
    store = new_store(clock=clock)
    bound(store, terminationGracePeriodSeconds=20)
    marked = store.delete(kinds.POD, "default", "web")
    assert marked["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:20Z"
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 20
    clock.now = "2026-01-01T00:00:05Z"
    store.delete(kinds.POD, "default", "web")
    again = store.get(kinds.POD, "default", "web")
    assert again["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:20Z", "a second delete does not prolong"
    store.delete(kinds.POD, "default", "web", grace_seconds=0)
    assert store.find(kinds.POD, "default", "web") is None


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_goes_at_once(phase: str):
    store = new_store()
    running = bound(store)
    store.update(kinds.POD, with_field(running, ("status", "phase"), phase), subresource="status")
    store.delete(kinds.POD, "default", "web")
    assert store.find(kinds.POD, "default", "web") is None


def test_a_pod_that_is_bound_nowhere_goes_at_once():
    store = new_store()
    store.create(kinds.POD, pod())
    store.delete(kinds.POD, "default", "web")
    assert store.find(kinds.POD, "default", "web") is None


def test_a_delete_with_the_wrong_uid_or_version_is_a_conflict():
    store = new_store()
    store.create(kinds.POD, pod())
    with refusal(409, "Conflict"):
        store.delete(kinds.POD, "default", "web", uid="another")
    with refusal(409, "Conflict"):
        store.delete(kinds.POD, "default", "web", resource_version="1")


# --- binding ------------------------------------------------------------------------------------------------------

TO_N1 = {"target": {"kind": "Node", "name": "n1"}}


def test_binding_sets_the_node_the_condition_and_copies_annotations():
    store = new_store()
    store.create(kinds.POD, pod(meta={"annotations": {"old": "1"}}))
    store.bind("default", "web", {**TO_N1, "metadata": {"annotations": {"new": "2"}}})
    now = store.get(kinds.POD, "default", "web")
    assert now["spec"]["nodeName"] == "n1"
    assert now["metadata"]["annotations"] == {"old": "1", "new": "2"}
    assert [(entry["type"], entry["status"]) for entry in now["status"]["conditions"]] == [("PodScheduled", "True")]


def test_a_bound_pod_tells_where_its_node_is():
    store = new_store()
    place = {"topology.kubernetes.io/zone": "a", "topology.kubernetes.io/region": "eu"}
    store.create(kinds.NODE, {"metadata": {"name": "n1", "labels": {**place, "rack": "r1"}}})
    store.create(kinds.POD, pod(meta={"labels": {"app": "web", "topology.kubernetes.io/zone": "old"}}))
    store.bind("default", "web", TO_N1)
    assert store.get(kinds.POD, "default", "web")["metadata"]["labels"] == {"app": "web", **place}


def test_a_pod_is_bound_once():
    store = new_store()
    bound(store, node="n1")
    with refusal(409, "Conflict") as caught:
        store.bind("default", "web", {"target": {"kind": "Node", "name": "n2"}})
    assert 'pod web is already assigned to node "n1"' in caught.value.message
    assert store.get(kinds.POD, "default", "web")["spec"]["nodeName"] == "n1"


def test_a_pod_that_is_being_deleted_is_not_bound():
    store = new_store()
    store.create(kinds.POD, pod(meta={"finalizers": ["x/y"]}))
    store.delete(kinds.POD, "default", "web")
    with refusal(409, "Conflict"):
        store.bind("default", "web", TO_N1)


def test_a_gated_pod_is_not_bound():
    store = new_store()
    store.create(kinds.POD, pod(schedulingGates=[{"name": "wait"}]))
    with refusal(409, "Conflict"):
        store.bind("default", "web", TO_N1)


def test_a_binding_for_an_earlier_pod_of_the_name_is_a_conflict():
    store = new_store()
    store.create(kinds.POD, pod())
    with refusal(409, "Conflict"):
        store.bind("default", "web", {**TO_N1, "metadata": {"uid": "another"}})


@pytest.mark.parametrize("target", [{}, {"kind": "Node"}, {"kind": "Pod", "name": "n1"}])
def test_a_binding_needs_a_node(target: dict):
    store = new_store()
    store.create(kinds.POD, pod())
    with refusal(422, "Invalid"):
        store.bind("default", "web", {"target": target})


# --- lists and watches --------------------------------------------------------------------------------------------


def test_lists_are_ordered_by_namespace_and_name():
    store = new_store()
    for namespace, name in (("kube-system", "a"), ("default", "b"), ("default", "a-b"), ("default", "a")):
        store.create(kinds.CONFIG_MAP, {"metadata": {"name": name}}, namespace=namespace)
    found = [(obj["metadata"]["namespace"], obj["metadata"]["name"]) for obj in store.list(kinds.CONFIG_MAP)[0]]
    assert found == [("default", "a"), ("default", "a-b"), ("default", "b"), ("kube-system", "a")]


def test_a_watch_from_a_lists_version_sees_exactly_what_came_after():
    store = new_store()
    store.create(kinds.CONFIG_MAP, {"metadata": {"name": "before"}})
    _, version = store.list(kinds.CONFIG_MAP)
    store.create(kinds.CONFIG_MAP, {"metadata": {"name": "after"}})
    store.create(kinds.POD, pod())
    store.delete(kinds.CONFIG_MAP, "default", "before")
    events = store.watch(kinds.CONFIG_MAP, since=version).take()
    assert [(event.type, event.object["metadata"]["name"]) for event in events] == [
        ("ADDED", "after"),
        ("DELETED", "before"),
    ]
    assert events[-1].object["metadata"]["resourceVersion"] == str(store.resource_version)


def test_a_watch_is_woken_once_until_it_takes():
    store = new_store()
    woken: list[int] = []
    watch = store.watch(kinds.CONFIG_MAP, wake=lambda: woken.append(store.resource_version))
    for name in ("a", "b", "c"):
        store.create(kinds.CONFIG_MAP, {"metadata": {"name": name}})
    assert len(woken) == 1
    assert len(watch.take()) == 3
    store.create(kinds.CONFIG_MAP, {"metadata": {"name": "d"}})
    assert len(woken) == 2


def test_an_object_that_begins_or_ceases_to_match_is_seen_as_added_or_deleted():
    store = new_store()
    watch = store.watch(kinds.POD, fields="spec.nodeName=n1", labels="team=a")
    store.create(kinds.POD, pod(meta={"labels": {"team": "a"}}))
    assert watch.take() == []
    store.bind("default", "web", TO_N1)
    assert [event.type for event in watch.take()] == ["ADDED"]
    store.patch(kinds.POD, "default", "web", MERGE_PATCH, {"metadata": {"labels": {"x": "y"}}})
    assert [event.type for event in watch.take()] == ["MODIFIED"]
    store.patch(kinds.POD, "default", "web", MERGE_PATCH, {"metadata": {"labels": {"team": "b"}}})
    (gone,) = watch.take()
    assert gone.type == "DELETED"
    assert gone.object["metadata"]["labels"]["team"] == "a", "its last state that matched"
    store.delete(kinds.POD, "default", "web", grace_seconds=0)
    assert watch.take() == []


def test_a_watch_of_one_namespace_sees_no_other():
    store = new_store()
    watch = store.watch(kinds.CONFIG_MAP, "kube-system")
    store.create(kinds.CONFIG_MAP, CONFIG)
    assert watch.take() == []


def test_a_version_older_than_the_window_is_gone():
    store = new_store(window=4)
    _, version = store.list(kinds.CONFIG_MAP)
    for number in range(9):
        store.create(kinds.CONFIG_MAP, {"metadata": {"name": f"c{number}"}})
    with refusal(410, "Expired"):
        store.watch(kinds.CONFIG_MAP, since=version)
    recent = store.resource_version - 4
    assert len(store.watch(kinds.CONFIG_MAP, since=recent).take()) == 4


def test_a_watch_that_falls_behind_the_window_learns_it():
    store = new_store(window=4)
    watch = store.watch(kinds.CONFIG_MAP)
    for number in range(20):
        store.create(kinds.CONFIG_MAP, {"metadata": {"name": f"c{number}"}})
    with refusal(410, "Expired"):
        watch.take()


def test_compaction_makes_every_earlier_version_gone():
    store = new_store()
    version = store.resource_version
    store.create(kinds.CONFIG_MAP, CONFIG)
    store.compact()
    with refusal(410, "Expired"):
        store.watch(kinds.CONFIG_MAP, since=version)
    assert store.watch(kinds.CONFIG_MAP, since=store.resource_version).take() == []


def test_a_version_from_the_future_is_refused():
    store = new_store()
    with refusal(504, "Timeout"):
        store.watch(kinds.CONFIG_MAP, since=store.resource_version + 1)


# --- two faces of one object --------------------------------------------------------------------------------------


def test_an_event_written_in_one_group_is_read_in_the_other():
    store = new_store()
    involved = {"kind": "Pod", "namespace": "default", "name": "web"}
    store.create(
        kinds.NEW_EVENT,
        {"metadata": {"name": "e"}, "regarding": involved, "note": "bound", "reason": "Scheduled", "type": "Normal"},
    )
    core = store.get(kinds.EVENT, "default", "e")
    assert (core["apiVersion"], core["message"], core["involvedObject"]) == ("v1", "bound", involved)
    (new,) = store.list(kinds.NEW_EVENT, fields="involvedObject.name=web")[0]
    assert (new["apiVersion"], new["note"]) == ("events.k8s.io/v1", "bound")
    patched = store.patch(kinds.NEW_EVENT, "default", "e", STRATEGIC_PATCH, {"series": {"count": 2}})
    assert patched["series"] == {"count": 2}
    assert store.get(kinds.EVENT, "default", "e")["series"] == {"count": 2}


def test_the_encoded_form_is_made_once_and_is_the_object():
    store = new_store()
    store.create(kinds.CONFIG_MAP, CONFIG)
    (record,) = store.records(kinds.CONFIG_MAP)
    assert record.encoded is record.encoded
    assert store.encoded(kinds.CONFIG_MAP, record.body) is record.encoded
