"""Nodes, events, priority classes and budgets as the API server takes them; quantities and their canonical form."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.devcluster import kinds
from scheduler.devcluster.patch import MERGE_PATCH, STRATEGIC_PATCH
from scheduler.devcluster.quantities import canonical, parse
from tests.devcluster import NOW, faulty_fields, new_store, refusal

# --- nodes --------------------------------------------------------------------------------------------------------


def test_a_node_registers_with_its_status_and_allocatable_follows_capacity():
    capacity = {"cpu": 8, "memory": "32768Mi"}
    done = new_store().create(kinds.NODE, {"metadata": {"name": "n1"}, "status": {"capacity": capacity}})
    assert done["status"]["capacity"] == done["status"]["allocatable"] == {"cpu": "8", "memory": "32Gi"}


def test_a_nodes_status_is_written_with_its_labels_but_not_its_spec():
    store = new_store()
    store.create(kinds.NODE, {"metadata": {"name": "n1"}})
    body = {"metadata": {"labels": {"a": "b"}}, "status": {"capacity": {"cpu": "1"}}, "spec": {"unschedulable": True}}
    done = store.patch(kinds.NODE, "", "n1", STRATEGIC_PATCH, body, subresource="status")
    assert done["metadata"]["labels"] == {"a": "b"}
    assert done["status"]["capacity"] == {"cpu": "1"}
    assert not done.get("spec", {}).get("unschedulable")


def test_taints_are_checked_and_no_execute_gets_its_time():
    store = new_store()
    store.create(kinds.NODE, {"metadata": {"name": "n1"}})

    def taint(**fields: str) -> dict[str, Any]:
        return store.patch(kinds.NODE, "", "n1", MERGE_PATCH, {"spec": {"taints": [fields]}})

    (done,) = taint(key="a", effect="NoExecute")["spec"]["taints"]
    assert done["timeAdded"] == NOW
    with refusal(422, "Invalid") as caught:
        taint(key="a", effect="Sometimes")
    assert faulty_fields(caught.value) == ["spec.taints[0].effect"]


def test_a_nodes_quantities_are_checked():
    with refusal(422, "Invalid") as caught:
        new_store().create(kinds.NODE, {"metadata": {"name": "n1"}, "status": {"capacity": {"cpu": "eight"}}})
    assert "status.capacity[cpu]" in faulty_fields(caught.value)


# --- the rest -----------------------------------------------------------------------------------------------------


def test_an_event_lies_in_the_namespace_of_what_it_is_about():
    store = new_store()
    about = {"kind": "Pod", "name": "web", "namespace": "kube-system"}
    with refusal(422, "Invalid") as caught:
        store.create(kinds.EVENT, {"metadata": {"name": "e"}, "involvedObject": about})
    assert faulty_fields(caught.value) == ["involvedObject.namespace"]
    store.create(kinds.EVENT, {"metadata": {"name": "e"}, "involvedObject": about}, namespace="kube-system")
    store.create(kinds.EVENT, {"metadata": {"name": "n"}, "involvedObject": {"kind": "Node", "name": "n1"}})


def test_there_is_one_global_default_and_its_value_stays():
    store = new_store()
    store.create(kinds.PRIORITY_CLASS, {"metadata": {"name": "a"}, "value": 1, "globalDefault": True})
    with refusal(403, "Forbidden"):
        store.create(kinds.PRIORITY_CLASS, {"metadata": {"name": "b"}, "value": 2, "globalDefault": True})
    with refusal(422, "Invalid"):
        store.patch(kinds.PRIORITY_CLASS, "", "a", MERGE_PATCH, {"value": 3})


@pytest.mark.parametrize(
    ("name", "value"), [("a", 1_000_000_001), ("a", "high"), ("system-mine", 5)], ids=["too high", "text", "reserved"]
)
def test_a_faulty_priority_class_is_refused(name: str, value: Any):
    with refusal(422, "Invalid"):
        new_store().create(kinds.PRIORITY_CLASS, {"metadata": {"name": name}, "value": value})


@pytest.mark.parametrize(
    "spec", [{"minAvailable": 1, "maxUnavailable": 1}, {"minAvailable": "half"}, {"minAvailable": -1}]
)
def test_a_faulty_budget_is_refused(spec: dict[str, Any]):
    with refusal(422, "Invalid"):
        new_store().create(kinds.DISRUPTION_BUDGET, {"metadata": {"name": "b"}, "spec": spec})


# --- quantities ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("0.5", "500m"),
        ("1000m", "1"),
        ("1024Mi", "1Gi"),
        ("1536Mi", "1536Mi"),
        ("1.5Gi", "1536Mi"),
        ("1000", "1k"),
        ("2e3", "2e3"),
        ("0", "0"),
        ("-1500m", "-1500m"),
        ("100Ki", "100Ki"),
        ("0.5Ki", "512"),
        ("1n", "1n"),
        ("0.1n", "1n"),
        ("+3", "3"),
        (".5", "500m"),
        ("5.", "5"),
        ("10E", "9223372036854775807"),
    ],
)
def test_the_canonical_form_is_that_of_kubernetes(text: str, same: str):
    assert canonical(text) == same


@pytest.mark.parametrize("text", ["", "x", "1 Gi", "1gi", "--1", "1ee3", "1K", "0x10", "1Mi2", "٣"])
def test_text_that_is_no_quantity_is_refused(text: str):
    with pytest.raises(ValueError):
        parse(text)


@given(
    number=st.integers(-(10**6), 10**6),
    places=st.integers(0, 3),
    suffix=st.sampled_from(["", "m", "k", "M", "G", "Ki", "Mi", "Gi", "e3"]),
)
def test_the_canonical_form_is_stable_and_of_the_same_amount(number: int, places: int, suffix: str):
    text = f"{number / 10**places:.{places}f}{suffix}"
    form = canonical(text)
    assert canonical(form) == form
    assert abs(parse(form) - parse(text)) < Fraction(1, 10**9)
