"""What goes with its owner, its namespace or its definition."""

from __future__ import annotations

from typing import Any

from scheduler.devcluster import kinds
from scheduler.devcluster.objects import with_meta
from scheduler.devcluster.store import Store
from tests.devcluster import bound, definition, new_store, owned_by, pod, refusal


def config(store: Store, name: str, **meta: Any) -> dict[str, Any]:
    return store.create(kinds.CONFIG_MAP, {"metadata": {"name": name, **meta}})


def names(store: Store) -> list[str]:
    return [obj["metadata"]["name"] for obj in store.all(kinds.CONFIG_MAP)]


def test_dependents_go_with_their_owner_and_theirs_with_them():
    store = new_store()
    owner = config(store, "owner")
    child = config(store, "child", **owned_by(owner))
    config(store, "grandchild", **owned_by(child))
    config(store, "stranger")
    store.delete(kinds.CONFIG_MAP, "default", "owner")
    assert names(store) == ["stranger"]


def test_orphaned_dependents_stay_without_the_reference():
    store = new_store()
    config(store, "child", **owned_by(config(store, "owner")))
    store.delete(kinds.CONFIG_MAP, "default", "owner", propagation="Orphan")
    assert names(store) == ["child"]
    assert "ownerReferences" not in store.get(kinds.CONFIG_MAP, "default", "child")["metadata"]


def test_a_job_whose_deletion_says_nothing_leaves_its_pods():
    # rest.OrphanDependents for batch/v1 in the API server; kubectl asks for Background.
    store = new_store()
    template = {"spec": {"restartPolicy": "Never", **pod()["spec"]}}
    owner = store.create(kinds.JOB, {"metadata": {"name": "train"}, "spec": {"template": template}})
    store.create(kinds.POD, pod("train-1", meta=owned_by(owner)))
    store.delete(kinds.JOB, "default", "train")
    assert store.all(kinds.JOB) == []
    assert "ownerReferences" not in store.get(kinds.POD, "default", "train-1")["metadata"]


def test_in_the_foreground_the_owner_waits_for_those_that_block_it():
    store = new_store()
    owner = config(store, "owner")
    config(store, "child", finalizers=["x/y"], **owned_by(owner, blockOwnerDeletion=True))
    store.delete(kinds.CONFIG_MAP, "default", "owner", propagation="Foreground")
    assert names(store) == ["child", "owner"]
    child = store.get(kinds.CONFIG_MAP, "default", "child")
    assert child["metadata"]["deletionTimestamp"]
    store.update(kinds.CONFIG_MAP, with_meta(child, finalizers=None))
    assert names(store) == []


def test_a_dependent_with_another_living_owner_stays_and_forgets_the_dead_one():
    store = new_store()
    first, second = config(store, "first"), config(store, "second")
    references = owned_by(first)["ownerReferences"] + owned_by(second)["ownerReferences"]
    config(store, "child", ownerReferences=references)
    store.delete(kinds.CONFIG_MAP, "default", "first")
    child = store.get(kinds.CONFIG_MAP, "default", "child")
    assert [entry["name"] for entry in child["metadata"]["ownerReferences"]] == ["second"]


def test_an_object_born_to_a_dead_owner_goes_but_one_of_an_unknown_kind_is_trusted():
    store = new_store()
    dead = {"apiVersion": "v1", "kind": "ConfigMap", "name": "dead", "uid": "none"}
    unknown = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "name": "ray", "uid": "none"}
    config(store, "late", ownerReferences=[dead])
    config(store, "foreign", ownerReferences=[unknown])
    assert names(store) == ["foreign"]


def test_a_dependent_pod_that_runs_gets_its_grace():
    store = new_store()
    bound(store, meta=owned_by(config(store, "owner")))
    store.delete(kinds.CONFIG_MAP, "default", "owner")
    assert store.get(kinds.POD, "default", "web")["metadata"]["deletionGracePeriodSeconds"] == 30


def test_a_namespace_takes_its_content_with_it_and_waits_for_the_rest():
    store = new_store()
    store.create(kinds.NAMESPACE, {"metadata": {"name": "team"}})
    store.create(kinds.CONFIG_MAP, {"metadata": {"name": "a"}}, namespace="team")
    store.create(kinds.POD, pod("held", meta={"finalizers": ["x/y"]}), namespace="team")
    store.delete(kinds.NAMESPACE, "", "team")
    namespace = store.get(kinds.NAMESPACE, "", "team")
    assert namespace["status"]["phase"] == "Terminating"
    assert names(store) == []
    with refusal(403, "Forbidden"):
        store.create(kinds.CONFIG_MAP, {"metadata": {"name": "b"}}, namespace="team")
    held = store.get(kinds.POD, "team", "held")
    store.update(kinds.POD, with_meta(held, finalizers=None))
    assert store.find(kinds.NAMESPACE, "", "team") is None


def test_an_empty_namespace_goes_at_once_and_the_default_one_never():
    store = new_store()
    store.create(kinds.NAMESPACE, {"metadata": {"name": "team"}})
    store.delete(kinds.NAMESPACE, "", "team")
    assert store.find(kinds.NAMESPACE, "", "team") is None
    with refusal(403, "Forbidden"):
        store.delete(kinds.NAMESPACE, "", "default")


def test_a_definition_takes_its_objects_with_it():
    store = new_store()
    store.create(kinds.CUSTOM_RESOURCE, definition({"size": {"type": "integer"}}))
    widget = store.kinds.named("example.com/v1", "Widget")
    assert widget is not None
    store.create(widget, {"metadata": {"name": "held", "finalizers": ["x/y"]}})
    store.create(widget, {"metadata": {"name": "free"}})
    store.delete(kinds.CUSTOM_RESOURCE, "", "widgets.example.com")
    assert [obj["metadata"]["name"] for obj in store.all(widget)] == ["held"]
    store.update(widget, with_meta(store.get(widget, "default", "held"), finalizers=None))
    assert store.find(kinds.CUSTOM_RESOURCE, "", "widgets.example.com") is None
    assert store.kinds.named("example.com/v1", "Widget") is None
