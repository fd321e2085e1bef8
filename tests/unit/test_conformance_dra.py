"""The runner of allocator cases tells a right outcome from a wrong one, and the judge sees what is wrong."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import dra
from tests.conformance.dra_checker import World, violations

Json = dict[str, Any]

ON_N1 = {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]}
SLICE = {
    "metadata": {"name": "s"},
    "spec": {
        "driver": "d",
        "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
        "nodeName": "n1",
        "devices": [
            {"name": "a", "attributes": {"x": {"int": 1}}},
            {"name": "b", "attributes": {"x": {"int": 2}}, "taints": [{"key": "k", "effect": "NoSchedule"}]},
            {"name": "c", "attributes": {"x": {"int": 1}}},
        ],
    },
}


def case(outcome: str, count: int = 1, device: str = "a", **request: object) -> Json:
    given = [{"request": "r", "driver": "d", "pool": "p", "device": device}]
    exactly = {"deviceClassName": "any", "allocationMode": "ExactCount", "count": count, **request}
    return {
        "name": f"{outcome} {count} {device}",
        "features": ["DRADeviceTaints"],
        "node": {"metadata": {"name": "n1"}},
        "claims": [
            {
                "metadata": {"name": "c", "namespace": "ns", "uid": "u"},
                "spec": {"devices": {"requests": [{"name": "r", "exactly": exactly}]}},
            }
        ],
        "classes": [{"metadata": {"name": "any"}, "spec": {}}],
        "slices": [SLICE],
        "allocatedClaims": [],
        "expect": {
            "outcome": outcome,
            "results": [{"allocation": {"devices": {"results": given}, "nodeSelector": ON_N1}}],
        },
    }


@pytest.mark.parametrize(
    "right", [case("allocated"), case("none", 3), case("error", 33), case("error", deviceClassName="x")]
)
def test_a_right_outcome_passes(right: Json, tmp_path: Path):
    file = tmp_path / "cases.json"
    file.write_text(json.dumps({"cases": [right]}))
    assert dra.run(file) == (1, 0)


@pytest.mark.parametrize("wrong", [case("none"), case("error"), case("allocated", 3), case("allocated", device="c")])
def test_a_wrong_outcome_fails(wrong: Json, tmp_path: Path):
    file = tmp_path / "cases.json"
    file.write_text(json.dumps({"cases": [wrong]}))
    assert dra.run(file) == (0, 1)


def test_rules_have_cases_of_their_own(tmp_path: Path):
    policy = {"default": "1", "validRange": {"min": "1", "max": "2"}}
    rules = {
        "tolerations": [
            {"description": "t", "toleration": {"operator": "Exists"}, "taint": {"key": "k"}, "tolerated": True}
        ],
        "capacityPolicy": [{"name": "p", "consumed": "3", "requestPolicy": policy, "violates": True}],
        "consumedCapacity": [
            {"name": "c", "requested": None, "capacity": "8", "requestPolicy": policy, "consumed": "1"},
            {"name": "wrong", "requested": "2", "capacity": "8", "requestPolicy": policy, "consumed": "1"},
        ],
    }
    file = tmp_path / "rules.json"
    file.write_text(json.dumps(rules))
    assert dra.run(file) == (3, 1)


def judged(
    claim: Json, *devices: str, held: tuple[Json, ...] = (), published: Json = SLICE, **more: object
) -> list[str]:
    """What the judge says about these devices for a claim."""
    results = [{"request": "r", "driver": "d", "pool": "p", "device": d, **more} for d in devices]
    world = World({"metadata": {"name": "n1"}}, [published], {"any": {"metadata": {"name": "any"}, "spec": {}}}, held)
    return violations(world, [claim], [{"devices": {"results": results}, "nodeSelector": ON_N1}])


def test_the_judge_accepts_what_is_right():
    assert judged(case("allocated", 2)["claims"][0], "a", "c") == []


def test_the_judge_sees_every_kind_of_fault():
    two = case("allocated", 2)["claims"][0]
    matched, distinct = copy.deepcopy(two), copy.deepcopy(two)
    matched["spec"]["devices"]["constraints"] = [{"matchAttribute": "d/x"}]
    distinct["spec"]["devices"]["constraints"] = [{"distinctAttribute": "d/x"}]
    selected = case("allocated", selectors=[{"cel": {"expression": 'device.driver == "e"'}}])["claims"][0]
    holder = {"status": {"allocation": {"devices": {"results": [{"driver": "d", "pool": "p", "device": "a"}]}}}}
    one = case("allocated")["claims"][0]
    assert "1 devices instead of 2" in judged(two, "a")[0]
    assert "has taint" in judged(one, "b")[0]
    assert "cannot be used" in judged(one, "z")[0]
    assert "does not fit" in judged(selected, "a")[0]
    assert "more than one" in judged(one, "a", held=(holder,))[0]
    assert any("does not match" in problem for problem in judged(matched, "a", "b"))
    assert any("is not distinct" in problem for problem in judged(distinct, "a", "c"))
    assert any("shareID" in problem for problem in judged(one, "a", shareID="x"))


def capacious(name: str, memory: str, *, shared: bool = True, **policy: object) -> Json:
    capacity = {"memory": {"value": memory} | ({"requestPolicy": policy} if policy else {})}
    return {"name": name, "capacity": capacity} | ({"allowMultipleAllocations": True} if shared else {})


def test_for_the_judge_all_devices_are_those_that_can_give_the_amount_that_is_asked_for():
    small = {"min": "1", "max": "2"}
    devices = [
        capacious("large", "8", shared=False),
        capacious("small", "2", shared=False),
        capacious("in-small-parts", "8", default="1", validRange=small),
        capacious("in-small-parts-by-list", "8", default="1", validValues=["1", "2"]),
        capacious(
            "in-parts-of-three", "8", shared=False, default="3", validRange={"min": "3", "max": "6", "step": "3"}
        ),
        capacious("in-parts-of-five", "8", shared=False, default="5", validRange={"min": "5", "max": "5"}),
    ]
    published = {**SLICE, "spec": {**SLICE["spec"], "devices": devices}}
    four = case("allocated", allocationMode="All", capacity={"requests": {"memory": "4"}})["claims"][0]
    right = ("large", "in-parts-of-three", "in-parts-of-five")
    assert judged(four, *right, published=published) == []
    for missing in range(3):
        given = (*right[:missing], *right[missing + 1 :])
        assert "not all devices" in judged(four, *given, published=published)[0]
    assert "in-small-parts') does not fit" in judged(four, *right, "in-small-parts", published=published)[0]


def test_for_the_judge_a_full_share_is_one_of_all_devices_and_nothing_for_an_admin():
    published = {**SLICE, "spec": {**SLICE["spec"], "devices": [capacious("a", "2"), capacious("b", "2")]}}
    share = {"driver": "d", "pool": "p", "device": "a", "shareID": "x", "consumedCapacity": {"memory": "1"}}
    holder = {"status": {"allocation": {"devices": {"results": [share]}}}}
    every = case("allocated", allocationMode="All")["claims"][0]
    given = {"published": published, "held": (holder,), "shareID": "y", "consumedCapacity": {"memory": "2"}}
    assert any("not all devices" in problem for problem in judged(every, "b", **given))
    looks = case("allocated", adminAccess=True)["claims"][0]
    assert judged(looks, "b", adminAccess=True, **given) == []
    assert "no room for the share of an admin" in judged(looks, "a", adminAccess=True, **given)[0]


def test_for_the_judge_a_name_that_devices_of_two_nodes_have_is_that_of_the_nodes_own():
    cases = []
    for names in (("n1", "n2"), ("n2", "n1")):
        made = case("allocated")
        made["slices"] = [
            {
                "metadata": {"name": f"s-{name}"},
                "spec": {
                    **SLICE["spec"],
                    "nodeName": name,
                    "pool": {"name": "p", "generation": 1, "resourceSliceCount": 2},
                    "devices": [{"name": "a"}],
                },
            }
            for name in names
        ]
        cases.append(made)
    assert [dra._problems(each) for each in cases] == [[], []]
