"""JSON patch, merge patch and strategic merge patch."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.devcluster.lists import lists_of
from scheduler.devcluster.objects import thaw
from scheduler.devcluster.patch import json_patch, merge, strategic_merge
from tests.devcluster import refusal

POD = lists_of("pods")


# --- merge patch (the table of RFC 7386, appendix A) --------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_follows_the_rfc(target: Any, patch: Any, result: Any):
    before = thaw(target)
    assert merge(target, patch) == result
    assert target == before, "the target itself is not changed"


# --- JSON patch (RFC 6902) ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "operation", "result"),
    [
        ({"a": 1}, {"op": "add", "path": "/b", "value": 2}, {"a": 1, "b": 2}),
        ({"a": [1, 3]}, {"op": "add", "path": "/a/1", "value": 2}, {"a": [1, 2, 3]}),
        ({"a": [1]}, {"op": "add", "path": "/a/-", "value": 2}, {"a": [1, 2]}),
        ({"a": 1}, {"op": "remove", "path": "/a"}, {}),
        ({"a": [1, 2]}, {"op": "remove", "path": "/a/0"}, {"a": [2]}),
        ({"a": {"b/c": 1}}, {"op": "replace", "path": "/a/b~1c", "value": 2}, {"a": {"b/c": 2}}),
        ({"a": {"b~c": 1}}, {"op": "replace", "path": "/a/b~0c", "value": 2}, {"a": {"b~c": 2}}),
        ({"a": 1}, {"op": "move", "from": "/a", "path": "/b"}, {"b": 1}),
        ({"a": {"x": 1}}, {"op": "copy", "from": "/a", "path": "/b"}, {"a": {"x": 1}, "b": {"x": 1}}),
        ({"a": None}, {"op": "test", "path": "/a", "value": None}, {"a": None}),
    ],
)
def test_json_patch_operations(target: Any, operation: dict[str, Any], result: Any):
    before = thaw(target)
    assert json_patch(target, [operation]) == result
    assert target == before


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/missing"},
        {"op": "replace", "path": "/missing", "value": 1},
        {"op": "add", "path": "/missing/deep", "value": 1},
        {"op": "add", "path": "/list/9", "value": 1},
        {"op": "remove", "path": "/list/-1"},
        {"op": "test", "path": "/a", "value": 2},
    ],
)
def test_an_operation_that_does_not_apply_refuses_the_whole_patch(operation: dict[str, Any]):
    with refusal(422, "Invalid"):
        json_patch({"a": 1, "list": []}, [{"op": "add", "path": "/b", "value": 1}, operation])


@pytest.mark.parametrize(
    "body",
    [
        {"op": "add"},
        [{"op": "add", "path": "a", "value": 1}],
        [{"op": "fly", "path": "/a"}],
        [{"op": "add", "path": "/a"}],
    ],
)
def test_a_body_that_is_no_json_patch_is_a_bad_request(body: Any):
    with refusal(400, "BadRequest"):
        json_patch({"a": 1}, body)


# --- strategic merge patch ----------------------------------------------------------------------------------------


def containers(*names: str, **more: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": name, "image": "old", **more} for name in names]}}


def test_lists_with_a_merge_key_are_merged_by_it_and_others_replaced():
    before = {"spec": {"containers": [{"name": "a", "image": "old", "args": ["1", "2"]}, {"name": "b", "image": "b"}]}}
    patch = {"spec": {"containers": [{"name": "a", "image": "new", "args": ["3"]}, {"name": "c", "image": "c"}]}}
    assert strategic_merge(before, patch, POD)["spec"]["containers"] == [
        {"name": "a", "image": "new", "args": ["3"]},
        {"name": "c", "image": "c"},
        {"name": "b", "image": "b"},
    ]


def test_merging_goes_into_lists_within_entries():
    before = containers("a", env=[{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}])
    patch = {"spec": {"containers": [{"name": "a", "env": [{"name": "Y", "value": "3"}]}]}}
    merged = strategic_merge(before, patch, POD)["spec"]["containers"][0]["env"]
    assert merged == [{"name": "X", "value": "1"}, {"name": "Y", "value": "3"}]


def test_delete_and_replace_directives():
    before = containers("a", "b")
    gone = strategic_merge(before, {"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}, POD)
    assert [entry["name"] for entry in gone["spec"]["containers"]] == ["b"]
    fresh = {"spec": {"containers": [{"name": "z"}, {"$patch": "replace"}]}}
    assert strategic_merge(before, fresh, POD)["spec"]["containers"] == [{"name": "z"}]
    whole = strategic_merge({"a": {"x": 1, "y": 2}}, {"a": {"$patch": "replace", "z": 3}}, POD)
    assert whole == {"a": {"z": 3}}
    assert strategic_merge({"a": {"x": 1}, "b": 2}, {"a": {"$patch": "delete"}}, POD) == {"b": 2}


def test_values_are_deleted_from_lists_of_values():
    before = {"metadata": {"finalizers": ["a", "b", "c"]}}
    patch = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"]}}
    assert strategic_merge(before, patch, POD) == {"metadata": {"finalizers": ["a", "c"]}}
    assert strategic_merge(before, {"metadata": {"finalizers": ["d", "a"]}}, POD) == {
        "metadata": {"finalizers": ["d", "a", "b", "c"]}
    }


def test_the_element_order_is_kept_as_asked():
    patch = {
        "spec": {
            "$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}],
            "containers": [{"name": "c", "image": "new"}],
        }
    }
    merged = strategic_merge(containers("a", "b"), patch, POD)
    assert [entry["name"] for entry in merged["spec"]["containers"]] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("named", "result"),
    [
        (["new"], ["new", "a", "b", "c"]),
        (["b"], ["a", "b", "c"]),
        (["b", "new"], ["a", "b", "new", "c"]),
        (["c", "a"], ["b", "c", "a"]),
        (["new", "c"], ["new", "a", "b", "c"]),
    ],
)
def test_without_one_the_patched_entries_come_as_the_api_server_puts_them(named: list[str], result: list[str]):
    """The order the documentation of `kubectl patch` shows: a new container before those that were there."""
    merged = strategic_merge(containers("a", "b", "c"), containers(*named), POD)
    assert [entry["name"] for entry in merged["spec"]["containers"]] == result


def test_retain_keys_drops_the_other_members_of_a_union():
    before = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert strategic_merge(before, patch, lists_of("deployments.apps"))["spec"]["strategy"] == {"type": "Recreate"}


def test_null_removes_a_field():
    assert strategic_merge({"a": 1, "b": {"c": 2}}, {"a": None, "b": {"c": None}}, POD) == {"b": {}}


def test_an_entry_without_its_merge_key_is_refused():
    with refusal(400, "BadRequest"):
        strategic_merge(containers("a"), {"spec": {"containers": [{"image": "x"}]}}, POD)


def test_conditions_merge_by_type():
    before = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
    patch = {"status": {"conditions": [{"type": "PodScheduled", "status": "True"}]}}
    merged = strategic_merge(before, patch, POD)["status"]["conditions"]
    assert sorted(entry["type"] for entry in merged) == ["PodScheduled", "Ready"]
