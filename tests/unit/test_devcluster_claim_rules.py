"""ResourceClaims, templates, slices and classes as the API server takes them (resource.k8s.io/v1)."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.devcluster import kinds
from scheduler.devcluster.objects import with_field
from scheduler.devcluster.patch import MERGE_PATCH
from scheduler.devcluster.store import Store
from tests.devcluster import NOW, allocation, claim, consumer, faulty_fields, new_store, refusal, resource_slice

ONE = {"deviceClassName": "gpu.example.com"}


def request(name: str = "gpu", **fields: Any) -> dict[str, Any]:
    return {"name": name, **(fields or {"exactly": ONE})}


def devices(*requests: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"devices": {"requests": list(requests), **more}}


# --- the spec -----------------------------------------------------------------------------------------------------


def test_a_request_asks_for_one_device_unless_it_says_more():
    spec = devices(request(), request("any", firstAvailable=[{"name": "big", **ONE}]))
    done = new_store().create(kinds.CLAIM, claim(spec=spec))["spec"]["devices"]["requests"]
    assert done[0]["exactly"] == {**ONE, "allocationMode": "ExactCount", "count": 1}
    assert done[1]["firstAvailable"] == [{"name": "big", **ONE, "allocationMode": "ExactCount", "count": 1}]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (devices({"name": "gpu"}), "spec.devices.requests[0]"),
        (devices(request(exactly=ONE, firstAvailable=[{"name": "a", **ONE}])), "spec.devices.requests[0]"),
        (devices(request(exactly={})), "spec.devices.requests[0].exactly.deviceClassName"),
        (devices(request(exactly={**ONE, "count": -1})), "spec.devices.requests[0].exactly.count"),
        (
            devices(request(exactly={**ONE, "allocationMode": "All", "count": 2})),
            "spec.devices.requests[0].exactly.count",
        ),
        (
            devices(request(exactly={**ONE, "allocationMode": "Some"})),
            "spec.devices.requests[0].exactly.allocationMode",
        ),
        (
            devices(request(exactly={**ONE, "selectors": [{"cel": {"expression": ""}}]})),
            "spec.devices.requests[0].exactly.selectors[0].cel.expression",
        ),
        (devices(request("GPU")), "spec.devices.requests[0].name"),
        (devices(request(), request()), "spec.devices.requests[1]"),
        (
            devices(request(firstAvailable=[{"name": "a", **ONE}, {"name": "a", **ONE}])),
            "spec.devices.requests[0].firstAvailable[1]",
        ),
        (devices(*(request(f"r{number}") for number in range(33))), "spec.devices.requests"),
        (
            devices(request(firstAvailable=[{"name": f"s{number}", **ONE} for number in range(9)])),
            "spec.devices.requests[0].firstAvailable",
        ),
        (
            devices(request(), constraints=[{"requests": ["other"], "matchAttribute": "a.com/b"}]),
            "spec.devices.constraints[0].requests[0]",
        ),
        (devices(request(), constraints=[{"matchAttribute": "bare"}]), "spec.devices.constraints[0].matchAttribute"),
        (devices(request(), constraints=[{}]), "spec.devices.constraints[0]"),
        (
            devices(request(exactly={**ONE, "capacity": {"requests": {"memory": "much"}}})),
            "spec.devices.requests[0].exactly.capacity.requests[memory]",
        ),
    ],
)
def test_a_faulty_claim_is_refused_with_the_field_and_so_is_a_template_of_it(spec: dict[str, Any], field: str):
    store = new_store()
    with refusal(422, "Invalid") as caught:
        store.create(kinds.CLAIM, claim(spec=spec))
    assert faulty_fields(caught.value) == [field]
    with refusal(422, "Invalid") as caught:
        store.create(kinds.CLAIM_TEMPLATE, {"metadata": {"name": "t"}, "spec": {"spec": spec}})
    assert faulty_fields(caught.value) == [f"spec.{field}"]


def test_a_constraint_may_name_a_subrequest():
    spec = devices(
        request("any", firstAvailable=[{"name": "big", **ONE}]),
        constraints=[{"requests": ["any/big"], "matchAttribute": "a.com/b"}],
    )
    new_store().create(kinds.CLAIM, claim(spec=spec))


def test_the_spec_of_a_claim_and_of_a_template_is_immutable():
    store = new_store()
    store.create(kinds.CLAIM, claim())
    store.create(kinds.CLAIM_TEMPLATE, {"metadata": {"name": "t"}, "spec": {"spec": claim()["spec"]}})
    for kind, name in ((kinds.CLAIM, "gpu"), (kinds.CLAIM_TEMPLATE, "t")):
        with refusal(422, "Invalid") as caught:
            store.patch(kind, "default", name, MERGE_PATCH, {"spec": None})
        assert faulty_fields(caught.value) == ["spec"]


def test_admin_access_needs_a_namespace_that_grants_it():
    store = new_store()
    admin = claim(spec=devices(request(exactly={**ONE, "adminAccess": True})))
    with refusal(422, "Invalid") as caught:
        store.create(kinds.CLAIM, admin)
    assert faulty_fields(caught.value) == ["spec.devices.requests[0].adminAccess"]
    label = {"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}}
    store.patch(kinds.NAMESPACE, "", "default", MERGE_PATCH, label)
    store.create(kinds.CLAIM, admin)


# --- the status ---------------------------------------------------------------------------------------------------


def write_status(store: Store, status: dict[str, Any] | None) -> dict[str, Any]:
    now = store.get(kinds.CLAIM, "default", "gpu")
    return store.update(kinds.CLAIM, with_field(now, ("status",), status), subresource="status")


def allocated_store() -> Store:
    store = new_store()
    store.create(kinds.CLAIM, claim(meta={"finalizers": ["resource.kubernetes.io/delete-protection"]}))
    write_status(store, {"allocation": allocation("gpu-0"), "reservedFor": [consumer("a")]})
    return store


def test_allocation_and_reservation_are_written_at_once():
    status = allocated_store().get(kinds.CLAIM, "default", "gpu")["status"]
    assert status["reservedFor"] == [consumer("a")]


def test_an_allocation_is_only_taken_back_never_replaced():
    store = allocated_store()
    with refusal(422, "Invalid") as caught:
        write_status(store, {"allocation": allocation("gpu-1"), "reservedFor": [consumer("a")]})
    assert faulty_fields(caught.value) == ["status.allocation"]
    write_status(store, {})
    write_status(store, {"allocation": allocation("gpu-1")})


def test_nothing_is_reserved_without_an_allocation():
    store = allocated_store()
    with refusal(422, "Invalid") as caught:
        write_status(store, {"reservedFor": [consumer("a")]})
    assert faulty_fields(caught.value) == ["status.reservedFor"]


def test_256_consumers_share_a_claim_and_not_one_more():
    store = allocated_store()
    many = [consumer(f"p{number}") for number in range(256)]
    write_status(store, {"allocation": allocation(), "reservedFor": many})
    with refusal(422, "Invalid"):
        write_status(store, {"allocation": allocation(), "reservedFor": [*many, consumer("more")]})
    with refusal(422, "Invalid"):
        write_status(store, {"allocation": allocation(), "reservedFor": [consumer("a"), consumer("a")]})


def test_a_claim_that_is_being_deleted_takes_no_new_consumer_but_releases_old_ones():
    store = allocated_store()
    store.delete(kinds.CLAIM, "default", "gpu")
    with refusal(422, "Invalid"):
        write_status(store, {"allocation": allocation(), "reservedFor": [consumer("a"), consumer("b")]})
    write_status(store, {"allocation": allocation()})


def test_a_result_must_answer_a_request_of_the_claim():
    store = new_store()
    store.create(kinds.CLAIM, claim())
    with refusal(422, "Invalid") as caught:
        write_status(store, {"allocation": allocation(request="nic")})
    assert faulty_fields(caught.value) == ["status.allocation.devices.results[0].request"]


def test_a_stale_status_write_loses():
    store = new_store()
    read = store.create(kinds.CLAIM, claim())
    write_status(store, {"allocation": allocation("gpu-0")})
    late = with_field(read, ("status",), {"allocation": allocation("gpu-1")})
    with refusal(409, "Conflict"):
        store.update(kinds.CLAIM, late, subresource="status")


# --- slices and classes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"driver": "Bad Driver"}, "spec.driver"),
        ({"pool": {"name": "n1", "resourceSliceCount": 0}}, "spec.pool.resourceSliceCount"),
        ({"nodeName": None}, "spec"),
        ({"allNodes": True}, "spec"),
        ({"devices": [{"name": "a"}, {"name": "a"}]}, "spec.devices[1]"),
        ({"devices": [{"name": f"d{number}"} for number in range(129)]}, "spec.devices"),
        (
            {"devices": [{"name": f"d{n}", "taints": [{"key": "k", "effect": "NoSchedule"}]} for n in range(65)]},
            "spec.devices",
        ),
        ({"devices": [{"name": "a", "attributes": {"x": {}}}]}, "spec.devices[0].attributes[x]"),
        ({"devices": [{"name": "a", "attributes": {"x": {"int": "1"}}}]}, "spec.devices[0].attributes[x].int"),
        ({"devices": [{"name": "a", "attributes": {"x": {"version": "1"}}}]}, "spec.devices[0].attributes[x].version"),
        ({"devices": [{"name": "a", "attributes": {"9x": {"int": 1}}}]}, "spec.devices[0].attributes"),
        ({"devices": [{"name": "a", "capacity": {"m": {"value": "x"}}}]}, "spec.devices[0].capacity[m].value"),
        ({"devices": [{"name": "a", "taints": [{"key": "k", "effect": "Run"}]}]}, "spec.devices[0].taints[0].effect"),
        (
            {"sharedCounters": [{"name": "s", "counters": {"c": {"value": "1"}}}]},
            "spec",
        ),
    ],
)
def test_a_faulty_slice_is_refused_with_the_field(spec: dict[str, Any], field: str):
    with refusal(422, "Invalid") as caught:
        new_store().create(kinds.SLICE, resource_slice(**spec))
    assert faulty_fields(caught.value) == [field]


def test_a_slice_keeps_its_driver_pool_and_node():
    store = new_store()
    store.create(kinds.SLICE, resource_slice())
    for spec, field in (
        ({"driver": "other.example.com"}, "spec.driver"),
        ({"pool": {"name": "n2"}}, "spec.pool.name"),
        ({"nodeName": "n2"}, "spec.nodeName"),
    ):
        with refusal(422, "Invalid") as caught:
            store.patch(kinds.SLICE, "", "n1-gpus", MERGE_PATCH, {"spec": spec})
        assert faulty_fields(caught.value) == [field]


def test_taints_get_the_time_and_capacity_its_canonical_form():
    device = {
        "name": "a",
        "capacity": {"memory": {"value": "81920Mi"}},
        "taints": [{"key": "k", "effect": "NoSchedule"}],
    }
    (done,) = new_store().create(kinds.SLICE, resource_slice(devices=[device]))["spec"]["devices"]
    assert done["capacity"] == {"memory": {"value": "80Gi"}}
    assert done["taints"] == [{"key": "k", "effect": "NoSchedule", "timeAdded": NOW}]


def taint_rule(taint: dict[str, Any], **selector: Any) -> dict[str, Any]:
    return {"metadata": {"name": "drain"}, "spec": {"deviceSelector": selector, "taint": taint}}


def test_a_taint_rule_gets_its_time_and_may_change():
    store = new_store()
    taint = {"key": "k", "effect": "NoSchedule"}
    done = store.create(kinds.TAINT_RULE, taint_rule(taint, driver="gpu.example.com", pool="a.b/c", device="gpu-0"))
    assert done["spec"]["taint"] == {**taint, "timeAdded": NOW}
    done = store.patch(kinds.TAINT_RULE, "", "drain", MERGE_PATCH, {"spec": {"deviceSelector": {"pool": "d"}}})
    assert done["spec"]["deviceSelector"]["pool"] == "d"


@pytest.mark.parametrize(
    ("rule", "fields"),
    [
        (taint_rule({}), ["spec.taint.key", "spec.taint.effect"]),
        (taint_rule({"key": "k", "effect": "Run"}), ["spec.taint.effect"]),
        (taint_rule({"key": "k", "effect": "None"}, driver="A b"), ["spec.deviceSelector.driver"]),
        (taint_rule({"key": "k", "effect": "None"}, pool=""), ["spec.deviceSelector.pool"]),
        (taint_rule({"key": "k", "effect": "None"}, device="a.b"), ["spec.deviceSelector.device"]),
    ],
)
def test_a_faulty_taint_rule_is_refused_with_the_fields(rule: dict[str, Any], fields: list[str]):
    with refusal(422, "Invalid") as caught:
        new_store().create(kinds.TAINT_RULE, rule)
    assert faulty_fields(caught.value) == fields


def test_slices_are_found_by_driver_and_node():
    store = new_store()
    store.create(kinds.SLICE, resource_slice("a"))
    store.create(kinds.SLICE, resource_slice("b", nodeName="n2"))
    found, _ = store.list(kinds.SLICE, fields="spec.driver=gpu.example.com,spec.nodeName=n2")
    assert [entry["metadata"]["name"] for entry in found] == ["b"]


def test_a_device_class_needs_expressions_in_its_selectors():
    with refusal(422, "Invalid"):
        new_store().create(kinds.DEVICE_CLASS, {"metadata": {"name": "c"}, "spec": {"selectors": [{}]}})
