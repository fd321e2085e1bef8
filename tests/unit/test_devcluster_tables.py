"""What `kubectl get` prints: ages, cells, JSONPath of printer columns."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from scheduler.devcluster import kinds
from scheduler.devcluster.columns import columns_of, human_duration, selector_text
from scheduler.devcluster.definitions import kinds_of
from scheduler.devcluster.jsonpath import compile_path
from scheduler.devcluster.tables import table
from tests.devcluster import allocation, claim, consumer, definition, pod

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (200, "3m20s"),
        (600, "10m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 300, "3h5m"),
        (9 * 3600 + 59, "9h"),
        (50 * 3600, "2d2h"),
        (9 * 86400 + 3600, "9d"),
        (800 * 86400, "2y70d"),
        (9 * 365 * 86400, "9y"),
        (-60, "<invalid>"),
    ],
)
def test_ages_have_two_units_at_most(seconds: int, text: str):
    assert human_duration(seconds) == text


def cells(kind: kinds.Kind, obj: dict[str, Any]) -> dict[str, Any]:
    obj["metadata"].setdefault("creationTimestamp", "2026-01-01T11:00:00Z")
    return {header["name"]: cell(obj, NOON) for header, cell in columns_of(kind)}


def test_a_pods_row():
    body = pod(nodeName="n1")
    body["status"] = {"phase": "Running", "containerStatuses": [{"ready": True, "restartCount": 2}]}
    row = cells(kinds.POD, body)
    assert (row["Ready"], row["Status"], row["Restarts"], row["Age"], row["Node"]) == ("1/1", "Running", 2, "60m", "n1")
    body["status"]["containerStatuses"] = [{"ready": False, "state": {"waiting": {"reason": "ContainerCreating"}}}]
    assert cells(kinds.POD, body)["Status"] == "ContainerCreating"
    body["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"
    assert cells(kinds.POD, body)["Status"] == "Terminating"


def test_a_claims_state():
    body = claim()
    assert cells(kinds.CLAIM, body)["State"] == "pending"
    body["status"] = {"allocation": allocation(), "reservedFor": [consumer("a")]}
    assert cells(kinds.CLAIM, body)["State"] == "allocated,reserved"


def test_a_nodes_status_and_roles():
    node = {
        "metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/worker": ""}},
        "spec": {"unschedulable": True},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    row = cells(kinds.NODE, node)
    assert (row["Status"], row["Roles"]) == ("Ready,SchedulingDisabled", "worker")


@pytest.mark.parametrize("kind", kinds.BUILT_IN, ids=lambda kind: f"{kind.kind}.{kind.group}")
def test_an_object_with_nothing_in_it_can_be_shown(kind: kinds.Kind):
    shown = table(kind, [{"metadata": {"name": "a"}}], "1", "Metadata")
    assert len(shown["rows"][0]["cells"]) == len(shown["columnDefinitions"])


def test_a_custom_resource_shows_the_columns_it_asks_for():
    columns = [
        {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
        {"name": "Size", "type": "integer", "jsonPath": ".spec.size", "priority": 1},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]
    body = definition({"size": {"type": "integer"}}, version={"additionalPrinterColumns": columns})
    (kind,) = kinds_of(body)
    obj = {
        "metadata": {"name": "w", "creationTimestamp": "2020-01-01T00:00:00Z"},
        "spec": {"size": 3},
        "status": {"conditions": [{"type": "Other", "status": "no"}, {"type": "Ready", "status": "True"}]},
    }
    shown = table(kind, [obj, {"metadata": {"name": "x"}}], "7", "None")
    assert [(entry["name"], entry["priority"]) for entry in shown["columnDefinitions"]] == [
        ("Name", 0),
        ("Ready", 0),
        ("Size", 1),
        ("Age", 0),
    ]
    assert shown["rows"][0]["cells"][:3] == ["w", "True", 3]
    assert shown["rows"][1]["cells"] == ["x", None, None, None]
    assert shown["rows"][0]["object"] is None


@pytest.mark.parametrize(
    ("path", "values"),
    [
        (".a.b", [1]),
        ("a.b", [1]),
        ("{.a.b}", [1]),
        (".list[0].n", ["x"]),
        (".list[-1].n", ["y"]),
        (".list[*].n", ["x", "y"]),
        ('.list[?(@.n=="y")].v', [2]),
        (".list[?(@.v!=2)].n", ["x"]),
        (".list[?(@.v)].n", ["x", "y"]),
        (r".a.d\.e/f", [3]),
        (".a['d.e/f']", [3]),
        (".missing.deep", []),
        (".list[7]", []),
    ],
)
def test_json_path(path: str, values: list[Any]):
    obj = {"a": {"b": 1, "d.e/f": 3}, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}]}
    assert compile_path(path)(obj) == values


@pytest.mark.parametrize("path", [".a[", ".a[?(x)]", ".a..", "]"])
def test_a_path_of_another_form_is_refused(path: str):
    with pytest.raises(ValueError):
        compile_path(path)


def test_a_selector_is_shown_as_text():
    expressions = [{"key": "t", "operator": "In", "values": ["a", "b"]}, {"key": "x", "operator": "DoesNotExist"}]
    assert selector_text({"matchLabels": {"app": "w"}, "matchExpressions": expressions}) == "app=w,t in (a,b),!x"
    assert selector_text(None) == "<none>"
