"""Label and field selectors."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.devcluster import kinds
from scheduler.devcluster.selectors import object_selector, parse_fields, parse_labels
from tests.devcluster import refusal


def labelled(**labels: str) -> dict[str, Any]:
    return {"metadata": {"labels": labels}}


@pytest.mark.parametrize(
    ("selector", "matching", "other"),
    [
        ("app=web", {"app": "web"}, {"app": "db"}),
        ("app==web", {"app": "web"}, {}),
        ("app!=web", {}, {"app": "web"}),
        ("app in (web, db)", {"app": "db"}, {"app": "mq"}),
        ("app notin (web)", {}, {"app": "web"}),
        ("app", {"app": ""}, {}),
        ("!app", {}, {"app": ""}),
        ("app=web,tier in (a,b),!old", {"app": "web", "tier": "b"}, {"app": "web", "tier": "b", "old": "1"}),
        ("gpus>4", {"gpus": "8"}, {"gpus": "4"}),
        ("gpus<4", {"gpus": "3"}, {"gpus": "many"}),
        ("app=", {"app": ""}, {"app": "web"}),
    ],
)
def test_a_label_selector_selects(selector: str, matching: dict[str, str], other: dict[str, str]):
    matches = parse_labels(selector)
    assert matches is not None
    assert matches(labelled(**matching))
    assert not matches(labelled(**other))


@pytest.mark.parametrize("selector", ["a b", "app in web", "=x", "app in (a", "a=b=c"])
def test_text_that_is_no_label_selector_is_refused(selector: str):
    with refusal(400, "BadRequest"):
        parse_labels(selector)


def test_an_empty_selector_restricts_nothing():
    assert parse_labels("") is None
    assert parse_fields(kinds.POD, None) is None


def test_the_object_form_selects_as_well_and_none_selects_nothing():
    expressions = [{"key": "tier", "operator": "NotIn", "values": ["a"]}, {"key": "app", "operator": "Exists"}]
    matches = object_selector({"matchLabels": {"app": "web"}, "matchExpressions": expressions})
    assert matches(labelled(app="web", tier="b"))
    assert not matches(labelled(app="web", tier="a"))
    assert object_selector({})(labelled())
    assert not object_selector(None)(labelled())


def test_a_field_selector_compares_text_and_defaults():
    pod = {"metadata": {"name": "web", "namespace": "default"}, "spec": {"nodeName": "n1"}, "status": {}}
    assert parse_fields(kinds.POD, "spec.nodeName=n1,status.phase!=Running")(pod)  # type: ignore[misc]
    assert not parse_fields(kinds.POD, "metadata.name=db")(pod)  # type: ignore[misc]
    node = {"metadata": {"name": "n1"}, "spec": {"unschedulable": True}}
    assert parse_fields(kinds.NODE, "spec.unschedulable=true")(node)  # type: ignore[misc]
    assert parse_fields(kinds.NODE, "spec.unschedulable=false")({"metadata": {}, "spec": {}})  # type: ignore[misc]


def test_the_source_of_an_event_is_its_component():
    event = {"metadata": {}, "source": {"component": "tutti"}, "involvedObject": {"kind": "Pod"}}
    assert parse_fields(kinds.EVENT, "source=tutti,involvedObject.kind=Pod")(event)  # type: ignore[misc]


def test_a_field_that_the_real_server_does_not_index_is_refused():
    with refusal(400, "BadRequest"):
        parse_fields(kinds.POD, "spec.hostname=x")
    with refusal(400, "BadRequest"):
        parse_fields(kinds.CLAIM, "status.allocation=x")
