"""Custom resources: served at once, pruned, defaulted, validated; and definitions that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.devcluster import kinds
from scheduler.devcluster.kinds import Kind
from scheduler.devcluster.patch import MERGE_PATCH, STRATEGIC_PATCH
from scheduler.devcluster.store import Store
from tests.devcluster import definition, faulty_fields, new_store, refusal


def served(properties: dict[str, Any], **more: Any) -> tuple[Store, Kind]:
    store = new_store()
    store.create(kinds.CUSTOM_RESOURCE, definition(properties, **more))
    widget = store.kinds.named("example.com/v1", "Widget")
    assert widget is not None
    return store, widget


def widget_of(spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "w"}, "spec": spec}


def stored_spec(properties: dict[str, Any], spec: Any) -> Any:
    store, widget = served(properties)
    return store.create(widget, widget_of(spec))["spec"]


# --- definitions --------------------------------------------------------------------------------------------------


def test_a_definition_is_established_at_once():
    store, _ = served({})
    done = store.get(kinds.CUSTOM_RESOURCE, "", "widgets.example.com")
    states = {entry["type"]: entry["status"] for entry in done["status"]["conditions"]}
    assert states == {"NamesAccepted": "True", "Established": "True"}
    assert done["status"]["storedVersions"] == ["v1"]
    assert done["spec"]["names"]["singular"] == "widget"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"group": "nodots"}, "spec.group"),
        ({"names": {"plural": "gadgets", "kind": "Gadget"}}, "metadata.name"),
        ({"versions": []}, "spec.versions"),
        ({"scope": "Galaxy"}, "spec.scope"),
        ({"conversion": {"strategy": "Webhook"}}, "spec.conversion.strategy"),
    ],
)
def test_a_faulty_definition_is_refused(change: dict[str, Any], field: str):
    body = definition({})
    body["spec"].update(change)
    with refusal(422, "Invalid") as caught:
        new_store().create(kinds.CUSTOM_RESOURCE, body)
    assert field in faulty_fields(caught.value)


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ({}, "type"),
        ({"type": "text"}, "type"),
        ({"type": "string", "pattern": "("}, "pattern"),
        ({"type": "array"}, "items"),
        (
            {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}},
            "additionalProperties",
        ),
    ],
)
def test_a_schema_that_is_not_structural_is_refused(schema: dict[str, Any], field: str):
    with refusal(422, "Invalid") as caught:
        served({"x": schema})
    (at,) = faulty_fields(caught.value)
    assert at == f"spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[x].{field}"


def test_a_group_of_the_community_has_to_say_who_approved_its_kind():
    made = definition({})
    made["spec"]["group"] = "things.k8s.io"
    made["metadata"]["name"] = "widgets.things.k8s.io"
    for noted in ({}, {"api-approved.kubernetes.io": "yes"}):
        made["metadata"]["annotations"] = noted
        with refusal(422, "Invalid") as caught:
            new_store().create(kinds.CUSTOM_RESOURCE, made)
        assert faulty_fields(caught.value) == ["metadata.annotations[api-approved.kubernetes.io]"]
    made["metadata"]["annotations"] = {"api-approved.kubernetes.io": "unapproved, an experiment"}
    new_store().create(kinds.CUSTOM_RESOURCE, made)


def test_versions_show_one_object():
    newer = {"name": "v2", "served": True, "storage": False, "schema": {"openAPIV3Schema": {"type": "object"}}}
    newer["schema"] = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    body = definition({"size": {"type": "integer"}})
    body["spec"]["versions"].append(newer)
    store = new_store()
    store.create(kinds.CUSTOM_RESOURCE, body)
    first, second = (store.kinds.named(f"example.com/{version}", "Widget") for version in ("v1", "v2"))
    assert first is not None
    assert second is not None
    store.create(first, widget_of({"size": 1}))
    assert store.get(second, "default", "w")["apiVersion"] == "example.com/v2"
    store.patch(second, "default", "w", MERGE_PATCH, {"apiVersion": "example.com/v2", "spec": {"size": 2}})
    stored = store.get(first, "default", "w")
    assert (stored["apiVersion"], stored["spec"]) == ("example.com/v1", {"size": 2})


def test_a_new_schema_serves_from_the_next_write_on():
    store, widget = served({"size": {"type": "integer"}})
    store.create(widget, widget_of({"size": 1, "color": "red"}))
    wider = definition({"size": {"type": "integer"}, "color": {"type": "string"}})
    store.update(kinds.CUSTOM_RESOURCE, wider)
    now = store.kinds.named("example.com/v1", "Widget")
    assert now is not None
    assert store.get(now, "default", "w")["spec"] == {"size": 1}
    assert store.patch(now, "default", "w", MERGE_PATCH, {"spec": {"color": "red"}})["spec"]["color"] == "red"


# --- shape --------------------------------------------------------------------------------------------------------


def test_unknown_fields_are_pruned_unless_the_schema_keeps_them():
    properties = {
        "known": {"type": "integer"},
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "map": {"type": "object", "additionalProperties": {"type": "string"}},
        "items": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    }
    spec = {"known": 1, "strange": 2, "open": {"x": {"y": 1}}, "map": {"k": "v"}, "items": [{"a": 1, "b": 2}]}
    assert stored_spec(properties, spec) == {
        "known": 1,
        "open": {"x": {"y": 1}},
        "map": {"k": "v"},
        "items": [{"a": 1}],
    }


def test_defaults_are_filled_in_where_their_parent_is():
    properties = {
        "priority": {"type": "integer", "default": 100},
        "inner": {"type": "object", "properties": {"x": {"type": "string", "default": "y"}}},
        "made": {"type": "object", "default": {}, "properties": {"x": {"type": "string", "default": "y"}}},
    }
    assert stored_spec(properties, {}) == {"priority": 100, "made": {"x": "y"}}
    assert stored_spec(properties, {"priority": None, "inner": {}, "made": {"x": "z"}}) == {
        "priority": 100,
        "inner": {"x": "y"},
        "made": {"x": "z"},
    }


def test_status_is_kept_apart():
    store, widget = served({"size": {"type": "integer"}})
    assert "status" not in store.create(widget, {**widget_of({}), "status": {"done": True}})
    done = store.patch(widget, "default", "w", MERGE_PATCH, {"status": {"done": True}}, subresource="status")
    assert done["status"] == {"done": True}
    assert done["metadata"]["generation"] == 1
    with refusal(415, "UnsupportedMediaType"):
        store.patch(widget, "default", "w", STRATEGIC_PATCH, {"spec": {"size": 1}})


# --- validation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "good", "bad", "reason"),
    [
        ({"type": "integer"}, 1, "1", "FieldValueTypeInvalid"),
        ({"type": "integer"}, 1, True, "FieldValueTypeInvalid"),
        ({"type": "integer"}, 1.0, 1.5, "FieldValueTypeInvalid"),
        ({"type": "number"}, 1, "1", "FieldValueTypeInvalid"),
        ({"type": "string"}, "a", 1, "FieldValueTypeInvalid"),
        ({"type": "string", "nullable": True}, None, 1, "FieldValueTypeInvalid"),
        ({"type": "boolean"}, False, 0, "FieldValueTypeInvalid"),
        ({"type": "integer", "minimum": 1}, 1, 0, "FieldValueInvalid"),
        ({"type": "integer", "minimum": 1, "exclusiveMinimum": True}, 2, 1, "FieldValueInvalid"),
        ({"type": "integer", "maximum": 9}, 9, 10, "FieldValueInvalid"),
        ({"type": "integer", "multipleOf": 3}, 6, 7, "FieldValueInvalid"),
        ({"type": "string", "enum": ["a", "b"]}, "a", "c", "FieldValueNotSupported"),
        ({"type": "string", "pattern": "^a+$"}, "aa", "ab", "FieldValueInvalid"),
        ({"type": "string", "minLength": 1}, "a", "", "FieldValueInvalid"),
        ({"type": "string", "maxLength": 1}, "a", "ab", "FieldValueTooLong"),
        ({"type": "array", "items": {"type": "string"}, "maxItems": 1}, ["a"], ["a", "b"], "FieldValueTooMany"),
        ({"type": "array", "items": {"type": "string"}, "minItems": 1}, ["a"], [], "FieldValueInvalid"),
        ({"type": "array", "items": {"type": "string"}}, ["a"], [1], "FieldValueTypeInvalid"),
        (
            {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
            ["a", "b"],
            ["a", "a"],
            "FieldValueDuplicate",
        ),
        ({"x-kubernetes-int-or-string": True}, "50%", [], "FieldValueTypeInvalid"),
        (
            {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
            {"a": ""},
            {},
            "FieldValueRequired",
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
            },
            {"a": "1"},
            {"a": "1", "b": "2"},
            "FieldValueInvalid",
        ),
    ],
)
def test_values_are_validated(schema: dict[str, Any], good: Any, bad: Any, reason: str):
    assert stored_spec({"x": schema}, {"x": good}) == {"x": good}
    with refusal(422, "Invalid") as caught:
        stored_spec({"x": schema}, {"x": bad})
    assert {cause["reason"] for cause in caught.value.details["causes"]} == {reason}


def test_entries_of_a_keyed_list_are_unique_by_their_keys():
    items = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "v": {"type": "integer"}},
        "required": ["name"],
    }
    schema = {
        "type": "array",
        "items": items,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
    }
    with refusal(422, "Invalid") as caught:
        stored_spec({"x": schema}, {"x": [{"name": "a", "v": 1}, {"name": "a", "v": 2}]})
    assert faulty_fields(caught.value) == ["spec.x[1]"]
