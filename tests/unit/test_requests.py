"""What claims ask for, and what of it cannot be decided: the same on every node, with object, cause and cure."""

from dataclasses import replace

import pytest

from scheduler.api import dra
from scheduler.dra.allocate import NoRoom, Refused, ask_shape
from scheduler.dra.devices import Features
from scheduler.dra.pools import Inventory
from scheduler.dra.requests import Problem, candidates, question, reads
from scheduler.dra.shapes import EVERY_ATTRIBUTE
from scheduler.dra.taints import tolerates
from scheduler.model.workloads import Claim
from tests.published import (
    CLASSES,
    DRIVER,
    ask,
    claim,
    device,
    device_class,
    exact,
    first_of,
    gpu,
    inventory,
    names,
    node,
    request,
    slice_of,
)

ONE_GPU = slice_of("n1", gpu(0))


def refusal(asked: Claim, features: Features | None = None, **classes: dra.DeviceClass) -> tuple[str, str, str]:
    """Request, problem and remedy."""
    found = inventory(ONE_GPU, classes={**CLASSES, **classes}, features=features or Features())
    answer = ask(found, asked)
    assert isinstance(answer, Refused)
    assert answer.fatal
    reason = answer.reason
    assert isinstance(question(asked, found), Problem)
    assert reason.claim == asked.key  # type: ignore[attr-defined]
    return reason.request, reason.problem, reason.cure  # type: ignore[attr-defined]


def test_an_unknown_class_is_named():
    name, problem, cure = refusal(claim("c", request("gpu", of="h100")))
    assert (name, problem) == ("gpu", "DeviceClass h100 does not exist")
    assert cure == "Create DeviceClass h100, or name one that exists."


def test_a_selector_that_does_not_compile_is_shown_with_the_position():
    name, problem, cure = refusal(claim("c", request("gpu", "true", "device.nope == 1")))
    assert name == "gpu"
    assert problem.startswith("selector 2 of the request does not compile: column ")
    assert problem.endswith(": device.nope == 1")
    assert cure == "Correct selector 2 of the request."


def test_a_long_selector_is_shown_as_far_as_a_message_has_room():
    for wrong in ("true && " * 900 + "device.nope", f"'x'.matches('{'(' * 5000}')"):
        _, problem, _ = refusal(claim("c", request("gpu", wrong)))
        assert problem.startswith("selector 1 of the request does not compile: column ")
        assert len(problem) < 500


def test_a_class_whose_selector_does_not_compile_is_named():
    _, problem, _ = refusal(claim("c", request("gpu", of="bad")), bad=device_class("bad", "1 +"))
    assert problem.startswith("selector 1 of DeviceClass bad does not compile")


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (dra.DeviceRequest(name="r"), "has neither exactly nor firstAvailable, or both"),
        (request("r", of=""), "names no device class"),
        (
            dra.DeviceRequest(
                name="r",
                exactly=dra.ExactDeviceRequest(device_class_name="any", derived_attributes=[{"name": "x"}]),
            ),
            "has derivedAttributes, a form this scheduler does not know",
        ),
        (request("r", count=0), "asks for 0 devices"),
        (request("r", count=-1), "asks for -1 devices"),
        (request("r", capacity={"memory": "lots"}), "capacity: 'lots' is not a quantity"),
        (request("r", capacity={"memory": "-1Gi"}), "asks for -1Gi of memory"),
        (
            dra.DeviceRequest(
                name="r", exactly=dra.ExactDeviceRequest(device_class_name="any", allocation_mode="Half")
            ),
            "has the allocation mode Half, which is not known",
        ),
        (
            dra.DeviceRequest(
                name="r", exactly=dra.ExactDeviceRequest(device_class_name="any", selectors=(dra.DeviceSelector(),))
            ),
            "selector 1 of the request is no CEL selector",
        ),
    ],
)
def test_what_cannot_be_understood_is_refused(asked: dra.DeviceRequest, problem: str):
    name, why, _ = refusal(claim("c", asked))
    assert name == "r"
    assert why.startswith(problem)


def test_two_requests_of_one_name_are_refused_by_that_name():
    assert refusal(claim("c", request("r"), request("s"), request("r"))) == (
        "",
        "has two requests of the name r",
        "Give every request a name of its own.",
    )
    apart = claim("c", first_of("r", a=exact()), first_of("s", a=exact()))
    found = inventory(slice_of("n1", gpu(0), gpu(1)))
    assert len(names(ask(found, apart))[0]) == 2, "alternatives of different requests may have one name"


def test_a_claim_with_fields_that_nobody_here_knows_is_refused_with_their_names():
    known = claim("c", request("gpu"))
    newer = replace(known, newer=("spec.devices.requests[0].exactly.filter", "spec.shape"))
    assert refusal(newer) == (
        "",
        "has spec.devices.requests[0].exactly.filter, spec.shape, which this scheduler does not know",
        "Upgrade the scheduler, or ask without what it does not know.",
    )
    assert ask_shape(newer) != ask_shape(known), "what is known of one says nothing about the other"


def test_a_device_that_a_claim_avoids_is_for_all_others_and_for_who_asks_for_all():
    both = (DRIVER, "n1", "gpu-0"), (DRIVER, "n1", "gpu-1")
    found = Inventory.of([slice_of("n1", gpu(0), gpu(1)), slice_of("n2", gpu(0), gpu(1))], CLASSES, avoided=both)
    plain = claim("c")
    assert names(ask(found, plain)) == [["gpu-0"]]
    assert names(ask(found, replace(plain, avoids=both[:1]))) == [["gpu-1"]]
    nothing = ask(found, replace(plain, avoids=both))
    assert isinstance(nothing, NoRoom)
    assert nothing.cause == f"has devices of class {DRIVER} that did not become ready for the claim before"
    assert names(ask(found, replace(claim("c", request("r", every=True)), avoids=both))) == [["gpu-0", "gpu-1"]]
    assert found.shape(node("n1")) != found.shape(node("n2")), "what one of them answers is no answer of the other"
    assert ask_shape(plain) != ask_shape(replace(plain, avoids=both))


def test_more_devices_than_an_allocation_can_hold_are_refused():
    asked = claim("c", request("a", count=30), first_of("b", many=exact(count=9), few=exact(count=3)))
    assert refusal(asked)[:2] == ("", "asks for 33 devices, and one claim can hold 32")


def test_a_constraint_must_be_of_a_known_form_and_name_requests_that_exist():
    unknown = dra.DeviceClaim(requests=(request("r"),), constraints=(dra.DeviceConstraint(),))
    problem = refusal(Claim(key="ns/c", uid="u", spec=dra.ResourceClaimSpec(devices=unknown)))[1]
    assert (
        problem == "a constraint has not exactly one of matchAttribute and distinctAttribute: a form that is not known"
    )
    missing = dra.DeviceConstraint(requests=("x",), match_attribute="a/b")
    lost = dra.DeviceClaim(requests=(request("r"),), constraints=(missing,))
    problem = refusal(Claim(key="ns/c", uid="u", spec=dra.ResourceClaimSpec(devices=lost)))[1]
    assert problem == "a constraint names request x, which does not exist"


def test_admin_access_needs_a_namespace_that_allows_it():
    name, problem, cure = refusal(claim("c", request("r", admin=True)))
    assert (name, problem) == ("r", "asks for admin access, which namespace ns does not allow")
    assert "resource.kubernetes.io/admin-access" in cure


def test_what_the_cluster_has_off_is_refused_loudly():
    allowed = claim("c", request("r", admin=True), admin=True)
    assert "DRAAdminAccess is off" in refusal(allowed, Features(admin_access=False))[1]
    assert (
        "DRAPrioritizedList is off"
        in refusal(claim("c", first_of("r", a=exact())), Features(prioritized_list=False))[1]
    )
    shared = claim("c", request("r", capacity={"memory": "1Gi"}))
    assert "DRAConsumableCapacity is off" in refusal(shared, Features(consumable=False))[1]


def test_claims_that_ask_for_the_same_are_alike_whatever_their_names():
    assert ask_shape(claim("a", request("gpu"))) == ask_shape(claim("b", request("gpu")))
    assert ask_shape(claim("a", request("gpu"))) != ask_shape(claim("a", request("gpu", count=2)))
    assert ask_shape(claim("a", admin=True)) != ask_shape(claim("a"))


def test_selectors_say_which_attributes_tell_nodes_apart():
    found = inventory(ONE_GPU)
    by_model = claim("c", request("r", f"device.attributes['{DRIVER}'].productName == 'T4'"))
    assert reads([by_model], found) == {f"{DRIVER}/type", f"{DRIVER}/productName"}
    anything = claim("c", request("r", f"device.attributes['{DRIVER}'].exists(name, name == 'x')", of="any"))
    assert reads([anything], found) == {EVERY_ATTRIBUTE}


def test_candidates_are_selected_then_tolerated():
    broken = dra.DeviceTaint(key="broken", effect="NoExecute")
    small, big = {"memory": "1Gi"}, {"memory": "2Gi"}
    found = inventory(
        slice_of(
            "n1", device("a", capacity=big), device("b", capacity=big, taints=(broken,)), device("c", capacity=small)
        )
    )
    asked = question(claim("c", request("r", of="any", capacity={"memory": "2Gi"})), found)
    assert not isinstance(asked, Problem)
    wants = candidates(asked.requests[0][0], found.on(node()), found.features)
    assert (wants.selected, wants.usable, wants.short) == ((0, 1), (0,), 1)


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        (dra.DeviceToleration(operator="Exists"), True),
        (dra.DeviceToleration(key="k", operator="Exists"), True),
        (dra.DeviceToleration(key="k", value="v"), True),
        (dra.DeviceToleration(key="k", value="w"), False),
        (dra.DeviceToleration(key="k", value="v", effect="NoExecute"), False),
        (dra.DeviceToleration(key="l", operator="Exists"), False),
        (dra.DeviceToleration(key="k", operator="Future", value="v"), False),
    ],
)
def test_tolerations(toleration: dra.DeviceToleration, tolerated: bool):
    assert tolerates(toleration, dra.DeviceTaint(key="k", value="v", effect="NoSchedule")) is tolerated
