"""The judges of the soak find what they are there to find: every check with a violation planted for it."""

from dataclasses import replace
from typing import Any

import pytest

from scheduler import decision
from scheduler.commit.outcome import InternalError
from scheduler.model.plan import GangDecision, Plan, Verdict
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.plan import planner
from tests.builders import cluster, gang
from tests.soak.asks import DRIVER
from tests.soak.binds import MOST_FAILED_SECONDS, MOST_FAILURES, Binds, forgotten
from tests.soak.judge import Awake, Refused, defects, leaks
from tests.soak.shares import Shares, rounded

Document = dict[str, Any]
LEAST = {"memory": "10Gi", "slots": "1", "engines": "1"}
ASKED = {"engines": "1"}
GPU = "nvidia.com/gpu"
FAILS = {"bindingConditions": ["Attached"], "bindingFailureConditions": ["Broken"]}


def claim(name: str, *results: Document, version: int = 7, asked: Document = ASKED, **more: Any) -> Document:
    request = {"name": "part-0", "exactly": {"deviceClassName": "card", "capacity": {"requests": asked}}}
    filled = [{"request": "part-0", "driver": DRIVER, "pool": "n1", "device": "card-0", **each} for each in results]
    status = {"allocation": {"devices": {"results": filled}}} if results else {}
    meta = {"namespace": "a", "name": name, "uid": f"uid-of-{name}", "resourceVersion": str(version)}
    reserved = {"reservedFor": [{"resource": "pods", "name": "p", "uid": "uid-of-p"}]} if results else {}
    return {
        "metadata": {**meta, **more.pop("metadata", {})},
        "spec": {"devices": {"requests": [request]}},
        "status": {**status, **reserved, **more},
    }


def share(number: int, **consumed: str) -> Document:
    return {"shareID": f"share-{number}", "consumedCapacity": {**LEAST, **consumed}}


def shares(*claims: Document) -> list[str]:
    judge = Shares()
    for each in claims:
        judge.see("MODIFIED", each)
    return judge.problems


# --- shares -----------------------------------------------------------------------------------------------------------


def test_shares_that_fit_are_no_problem_also_where_one_was_given_back_before():
    engines = {"engines": "3"}
    assert not shares(
        claim("first", share(1, engines="3"), asked=engines),
        claim("second", share(2)),
        claim("first"),
        claim("third", share(3, engines="3"), asked=engines),
    )


def test_more_than_there_is_of_a_capacity_is_one():
    engines = {"engines": "2"}
    claims = [claim(name, share(n, engines="2"), asked=engines) for n, name in enumerate("xyz")]
    assert shares(*claims) == [
        f"version 7: {DRIVER}/n1/card-0 in a/z brings what is taken of engines to 6, of 4: a/x, a/y, a/z"
    ]


def test_what_one_claim_takes_twice_of_a_device_counts_twice():
    (problem,) = shares(claim("both", share(1, engines="4"), share(2, engines="4"), asked={"engines": "4"}))[:1]
    assert problem.endswith("brings what is taken of engines to 8, of 4: a/both")


def test_one_share_in_two_claims_is_one():
    (problem,) = shares(claim("first", share(1)), claim("second", share(1)))
    assert problem.endswith("a/second is the same share as in a/first: 'share-1'")


def test_a_shared_device_that_is_given_whole_is_one():
    (problem,) = shares(claim("first", {"consumedCapacity": LEAST}))
    assert problem.endswith("is given whole, although it is there to be shared")


@pytest.mark.parametrize(("consumed", "asked"), [("12Gi", "12Gi"), ("20Gi", "12Gi"), ("10Gi", "12Gi")])
def test_a_share_that_is_not_rounded_as_the_policy_has_it_is_one(consumed: str, asked: str):
    (problem,) = shares(claim("first", share(1, memory=consumed), asked={**ASKED, "memory": asked}))
    assert problem.endswith(f"has {consumed} of memory where {asked} is asked for")


def test_a_capacity_that_a_share_does_not_name_is_one():
    bare = {"shareID": "share-1", "consumedCapacity": {"memory": "10Gi", "slots": "1"}}
    (problem,) = shares(claim("first", bare))
    assert problem.endswith("has nothing of engines where 1 is asked for")


def test_amounts_are_rounded_up_to_what_a_policy_allows():
    steps = {"value": "40", "requestPolicy": {"default": "10", "validRange": {"min": "10", "step": "5", "max": "30"}}}
    values = {"value": "8", "requestPolicy": {"default": "1", "validValues": ["1", "2", "5"]}}
    assert [rounded(steps, asked) for asked in (None, "3", "10", "11", "30", "31")] == [10, 10, 10, 15, 30, None]
    assert [rounded(values, asked) for asked in (None, "2", "3", "6")] == [1, 2, 5, None]
    assert [rounded({"value": "4"}, asked) for asked in (None, "3", "5")] == [4, 3, None]


# --- binds ------------------------------------------------------------------------------------------------------------


def pod(version: int, *, node: str = "", limits: Document | None = None, **status: Any) -> Document:
    container = {"name": "main", "resources": {"limits": limits or {}}}
    uses = [] if limits else [{"name": "parts", "resourceClaimName": "c"}]
    return {
        "metadata": {"namespace": "a", "name": "p", "uid": "uid-of-p", "resourceVersion": str(version)},
        "spec": {"containers": [container], "resourceClaims": uses, **({"nodeName": node} if node else {})},
        "status": status,
    }


def told(*conditions: str) -> list[Document]:
    entries = [{"type": name, "status": "True"} for name in conditions]
    return [{"driver": DRIVER, "pool": "n1", "device": "card-0", "conditions": entries}]


def bound_with(*claims: Document, **more: Any) -> list[str]:
    """What is wrong with a pod bound at version 10, for claims of these versions."""
    judge = Binds(Awake())
    judge.see_pod("ADDED", pod(1, **more))
    judge.see_pod("MODIFIED", pod(10, node="n1", **more))
    for each in claims:
        judge.see_claim("MODIFIED", each)
    judge.settled()
    return [problem.removeprefix("pod p, bound at version 10: ") for problem in judge.problems]


def test_a_pod_bound_when_its_devices_are_ready_is_no_problem_whatever_becomes_of_them():
    assert not bound_with(
        claim("c", FAILS, version=8, devices=told()),
        claim("c", FAILS, version=9, devices=told("Attached")),
        claim("c", version=11),
    )


def test_a_pod_bound_before_its_device_is_ready_is_one():
    late = claim("c", FAILS, version=11, devices=told("Attached"))
    assert bound_with(claim("c", FAILS, version=9), late) == [f"device {DRIVER}/n1/card-0 of claim c is not ready"]


def test_a_pod_bound_although_its_device_has_failed_is_one():
    failed = claim("c", FAILS, version=9, devices=told("Attached", "Broken"))
    assert bound_with(failed) == [f"device {DRIVER}/n1/card-0 of claim c has failed"]


@pytest.mark.parametrize(
    ("then", "problem"),
    [
        (claim("c", version=9), "claim c is not allocated"),
        (claim("c", {}, version=9, reservedFor=[]), "claim c is not reserved for it"),
        (claim("c", {}, version=11), "claim c is not there"),
    ],
)
def test_a_pod_bound_without_what_it_claims_is_one(then: Document, problem: str):
    assert bound_with(then) == [problem]


def made(count: int, owner: str = "uid-of-p") -> Document:
    annotations = {"resource.kubernetes.io/extended-resource-claim": "true"}
    metadata = {"annotations": annotations, "ownerReferences": [{"uid": owner, "controller": True}]}
    return claim("made", *[{"device": f"gpu-{n}", "driver": "d"} for n in range(count)], version=9, metadata=metadata)


MAPPING = {"containerName": "main", "resourceName": GPU, "requestName": "part-0"}
NAMED = {"resourceClaimName": "made", "requestMappings": [MAPPING]}


def test_a_pod_whose_status_names_the_claim_made_for_it_is_no_problem():
    assert not bound_with(made(2), limits={GPU: "2"}, extendedResourceClaimStatus=NAMED)


def test_a_pod_bound_without_a_claim_for_its_extended_resources_is_one():
    assert bound_with(made(2), limits={GPU: "2"}) == [f"its status maps [], its containers ask for [('main', '{GPU}')]"]


def test_a_pod_that_got_fewer_devices_than_its_container_asks_for_is_one():
    problem = f"container main asks for 2 {GPU}, request part-0 got 1"
    assert bound_with(made(1), limits={GPU: "2"}, extendedResourceClaimStatus=NAMED) == [problem]


def test_a_pod_whose_status_names_the_claim_of_another_is_one():
    problem = "claim made was not made for it"
    assert bound_with(made(2, "other"), limits={GPU: "2"}, extendedResourceClaimStatus=NAMED) == [problem]


# --- what is given back -----------------------------------------------------------------------------------------------


def test_a_device_that_has_failed_is_to_be_given_back():
    awake = Awake()
    judge = Binds(awake)
    judge.see_claim("ADDED", claim("kept", FAILS, devices=told("Broken")))
    judge.see_claim("ADDED", claim("released", FAILS, devices=told("Broken")))
    judge.see_claim("MODIFIED", claim("released", version=8))
    judge.look()
    assert judge.problems == []
    awake.seconds += MOST_FAILED_SECONDS + 1
    judge.look()
    assert judge.problems == ["claim a/kept held a device that had failed for more than 30 s"]


def test_a_claim_whose_device_has_failed_is_to_be_tried_elsewhere():
    judge = Binds(Awake())
    for number in range(MOST_FAILURES + 1):
        assert judge.problems == []
        judge.see_claim("MODIFIED", claim("c", FAILS, version=3 * number + 1))
        judge.see_claim("MODIFIED", claim("c", FAILS, version=3 * number + 2, devices=told("Broken")))
        judge.see_claim("MODIFIED", claim("c", version=3 * number + 3))
    (problem,) = judge.problems
    assert problem == f"claim a/c was given device {DRIVER}/n1/card-0 again after it had failed {MOST_FAILURES} times"
    assert judge.figures["tried again with the same"] == MOST_FAILURES


def test_what_failed_for_a_pod_counts_whichever_claim_was_made_for_it():
    judge = Binds(Awake())
    for number in range(MOST_FAILURES + 1):
        assert judge.problems == []
        made_again = made(1)
        made_again["metadata"] |= {"name": f"made-{number}", "uid": f"uid-{number}"}
        judge.see_claim("ADDED", {**made_again, "status": {}})
        held = {"request": "part-0", "driver": "d", "pool": "n1", "device": "gpu-0", **FAILS}
        broken = {"driver": "d", "pool": "n1", "device": "gpu-0", "conditions": told("Broken")[0]["conditions"]}
        status = {"allocation": {"devices": {"results": [held]}}}
        judge.see_claim("MODIFIED", {**made_again, "status": status})
        judge.see_claim("MODIFIED", {**made_again, "status": {**status, "devices": [broken]}})
        judge.see_claim("DELETED", made_again)
    (problem,) = judge.problems
    assert problem.endswith(f"was given device d/n1/gpu-0 again after it had failed {MOST_FAILURES} times")


def test_a_claim_made_for_extended_resources_goes_with_its_pod():
    assert forgotten([made(2)], [pod(1, phase="Running")]) == []
    problem = ["claim made, made for extended resources, outlives its pod"]
    assert forgotten([made(2)], [pod(1, phase="Succeeded")]) == problem
    assert forgotten([made(0)], []) == problem


def test_a_gang_that_the_scheduler_fails_with_is_a_defect():
    fails = InternalError(gang="a/g", problem="KeyError('a/c')")
    decided = [
        GangDecision(gang=f"a/{n}", uid=n, owner="", queue="q", verdict=Verdict.REFUSED, reason=r)
        for n, r in (("f", None), ("g", fails))
    ]
    assert defects(Plan(now_ms=0, gangs=tuple(decided))) == ["no plan can be made with gang a/g: KeyError('a/c')"]


async def test_a_plan_that_could_not_be_made_is_a_defect_although_a_more_modest_one_was():
    waits = replace(cluster(gpus=1) + gang("waits", gpus=1), policy=Policy(stages=("allocate", "preempt")))
    refused = Refused(decision.log)
    async with refused.heard():
        assert decision.decide(waits).placements
        assert refused.problems == []
        with pytest.MonkeyPatch.context() as patch:
            whole = planner.plan
            patch.setattr(planner, "plan", lambda snapshot: _fails(snapshot) or whole(snapshot))
            for _ in range(2):
                assert decision.decide(waits).placements
    assert refused.problems == ["a plan could not be made: KeyError('preempt')"]


def _fails(snapshot: Snapshot) -> None:
    if "preempt" in snapshot.policy.stages:
        raise KeyError("preempt")


def test_what_a_claim_holds_for_nobody_is_a_leak():
    assert leaks([claim("c")]) == []
    assert leaks([claim("c", {})]) == ["claim c still holds devices", "claim c is still reserved"]
