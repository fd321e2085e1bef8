"""Server-side apply: ownership, merging, conflicts."""

from __future__ import annotations

from typing import Any

from scheduler.devcluster import kinds
from scheduler.devcluster.apply import from_fields_v1, to_fields_v1
from scheduler.devcluster.patch import APPLY_PATCH, MERGE_PATCH
from scheduler.devcluster.store import Store
from tests.devcluster import definition, new_store, refusal

CONFIG = kinds.CONFIG_MAP


def apply(store: Store, manager: str, data: dict[str, str], *, force: bool = False, **meta: Any) -> dict[str, Any]:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", **meta}, "data": data}
    return store.patch(CONFIG, "default", "a", APPLY_PATCH, body, field_manager=manager, force=force)


def managers(obj: dict[str, Any]) -> dict[str, set[str]]:
    """manager -> the fields it holds."""
    return {
        entry["manager"]: {"".join(path) for path in from_fields_v1(entry["fieldsV1"])}
        for entry in obj["metadata"].get("managedFields") or ()
    }


def test_the_first_apply_creates_and_owns_what_it_names():
    created = apply(new_store(), "alice", {"x": "1"})
    assert created["data"] == {"x": "1"}
    assert managers(created) == {"alice": {"f:dataf:x"}}


def test_what_a_manager_no_longer_names_goes_and_what_others_wrote_stays():
    store = new_store()
    apply(store, "alice", {"x": "1", "y": "2"})
    apply(store, "bob", {"z": "3"})
    assert apply(store, "alice", {"x": "1"})["data"] == {"x": "1", "z": "3"}


def test_a_field_held_by_another_with_another_value_is_a_conflict():
    store = new_store()
    apply(store, "alice", {"x": "1"})
    with refusal(409, "Conflict") as caught:
        apply(store, "bob", {"x": "2"})
    assert caught.value.details["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "alice"', "field": ".data.x"}
    ]


def test_force_takes_the_field_over():
    store = new_store()
    apply(store, "alice", {"x": "1", "y": "1"})
    taken = apply(store, "bob", {"x": "2"}, force=True)
    assert taken["data"] == {"x": "2", "y": "1"}
    assert managers(taken) == {"alice": {"f:dataf:y"}, "bob": {"f:dataf:x"}}


def test_equal_values_are_shared_and_stay_until_the_last_owner_lets_go():
    store = new_store()
    apply(store, "alice", {"x": "1"})
    apply(store, "bob", {"x": "1"})
    assert apply(store, "alice", {})["data"] == {"x": "1"}
    assert not apply(store, "bob", {}).get("data")


def test_an_update_by_a_named_manager_takes_fields_over():
    store = new_store()
    apply(store, "alice", {"x": "1", "y": "1"})
    store.patch(CONFIG, "default", "a", MERGE_PATCH, {"data": {"x": "2"}}, field_manager="editor")
    now = store.get(CONFIG, "default", "a")
    assert managers(now) == {"alice": {"f:dataf:y"}, "editor": {"f:dataf:x"}}
    with refusal(409, "Conflict"):
        apply(store, "alice", {"x": "1", "y": "1"})


def test_fields_nobody_is_known_to_own_conflict_with_their_past():
    store = new_store()
    store.create(CONFIG, {"metadata": {"name": "a"}, "data": {"x": "1"}})
    assert "managedFields" not in store.get(CONFIG, "default", "a")["metadata"]
    with refusal(409, "Conflict") as caught:
        apply(store, "alice", {"x": "2"})
    assert "before-first-apply" in caught.value.message
    assert apply(store, "alice", {"y": "2"})["data"] == {"x": "1", "y": "2"}


def test_applying_the_same_again_is_no_write():
    store = new_store()
    apply(store, "alice", {"x": "1"}, labels={"l": "m"})
    before = store.resource_version
    apply(store, "alice", {"x": "1"}, labels={"l": "m"})
    assert store.resource_version == before


def test_an_apply_needs_a_manager_and_takes_no_managed_fields():
    store = new_store()
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}
    with refusal(400, "BadRequest"):
        store.patch(CONFIG, "default", "a", APPLY_PATCH, body)
    claimed = {**body, "metadata": {"name": "a", "managedFields": [{"manager": "me"}]}}
    with refusal(400, "BadRequest"):
        store.patch(CONFIG, "default", "a", APPLY_PATCH, claimed, field_manager="me")


def deployment(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    labels = {"app": "d"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": list(containers)}}
    whole = {"selector": {"matchLabels": labels}, "template": template, **spec}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": whole}


def apply_deployment(store: Store, manager: str, body: dict[str, Any], **more: Any) -> dict[str, Any]:
    return store.patch(kinds.DEPLOYMENT, "default", "d", APPLY_PATCH, body, field_manager=manager, **more)


def test_entries_of_keyed_lists_are_owned_one_by_one():
    store = new_store()
    apply_deployment(store, "alice", deployment({"name": "main", "image": "v1"}))
    sidecar = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d"},
        "spec": {"template": {"spec": {"containers": [{"name": "proxy", "image": "p"}]}}},
    }
    apply_deployment(store, "mesh", sidecar)
    done = apply_deployment(store, "alice", deployment({"name": "main", "image": "v2"}))
    images = {entry["name"]: entry["image"] for entry in done["spec"]["template"]["spec"]["containers"]}
    assert images == {"main": "v2", "proxy": "p"}
    del sidecar["spec"]
    without = apply_deployment(store, "mesh", sidecar)
    assert [entry["name"] for entry in without["spec"]["template"]["spec"]["containers"]] == ["main"]


def test_quantities_written_in_another_form_do_not_conflict():
    store = new_store()
    apply_deployment(store, "alice", deployment({"name": "main", "image": "v1", "resources": {"limits": {"cpu": 1}}}))
    same = deployment({"name": "main", "image": "v1", "resources": {"limits": {"cpu": "1000m"}}})
    done = apply_deployment(store, "bob", same)
    assert done["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "1"}


def test_scaling_takes_replicas_from_the_applier():
    store = new_store()
    main = {"name": "main", "image": "v1"}
    apply_deployment(store, "alice", deployment(main, replicas=1))
    store.patch(kinds.DEPLOYMENT, "default", "d", MERGE_PATCH, {"spec": {"replicas": 5}}, field_manager="scaler")
    with refusal(409, "Conflict") as caught:
        apply_deployment(store, "alice", deployment(main, replicas=1))
    assert ".spec.replicas" in caught.value.message
    assert apply_deployment(store, "alice", deployment(main))["spec"]["replicas"] == 5


def test_status_is_applied_through_its_subresource_alone():
    store = new_store()
    store.create(kinds.CUSTOM_RESOURCE, definition({"size": {"type": "integer"}}))
    widget = store.kinds.named("example.com/v1", "Widget")
    assert widget is not None
    whole = {
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {"name": "w"},
        "spec": {"size": 1},
        "status": {"done": True},
    }

    def patch(manager: str, subresource: str | None = None) -> dict[str, Any]:
        return store.patch(widget, "default", "w", APPLY_PATCH, whole, field_manager=manager, subresource=subresource)

    assert "status" not in patch("user")
    done = patch("controller", "status")
    assert (done["spec"], done["status"]) == ({"size": 1}, {"done": True})
    assert managers(done) == {"user": {"f:specf:size"}, "controller": {"f:statusf:done"}}


def test_the_fields_form_is_read_back_as_written():
    paths = {("f:spec", "f:a"), ("f:spec", 'k:{"name":"x"}'), ("f:spec", 'k:{"name":"x"}', "f:b"), ("f:s", 'v:"y"')}
    assert from_fields_v1(to_fields_v1(paths)) == paths
