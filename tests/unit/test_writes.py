"""A plan becomes ordered writes; a plan that cannot be carried out is never begun."""

from dataclasses import replace

import pytest

from queues.tree import Queue
from scheduler.api.dra import (
    AllocationResult,
    DeviceAllocationResult,
    DeviceRequestAllocationResult,
    ResourceClaimSpec,
)
from scheduler.commit.writes import Bind, ClaimWrite, Consumer, Evict, evictions, nominations, writes
from scheduler.model.errors import InvariantError
from scheduler.model.plan import ClaimAllocation, Eviction, ExtendedMapping, Placement, Plan, Promise
from scheduler.model.snapshot import Snapshot
from scheduler.model.workloads import Claim, Gang, Pod, PodClaim


def devices(*names: str) -> AllocationResult:
    results = tuple(
        DeviceRequestAllocationResult(request="gpu", driver="gpu.example", pool="n1", device=name) for name in names
    )
    return AllocationResult(devices=DeviceAllocationResult(results=results))


def claim(name: str, **fields: object) -> Claim:
    return Claim(key=f"a/{name}", uid=f"uid-{name}", spec=ResourceClaimSpec(), **fields)  # type: ignore[arg-type]


def pod(name: str, *claims: str) -> Pod:
    parts = tuple(PodClaim(name="gpu", claim=f"a/{claim}") for claim in claims)
    return Pod(key=f"a/{name}", uid=f"uid-{name}", claims=parts)


def world(*pods: Pod, claims: tuple[Claim, ...] = (), gang: str = "a/train") -> Snapshot:
    return Snapshot(
        now_ms=0,
        gangs=(Gang(key=gang, uid="g", owner="PodGroup/a/train", queue="q", pods=pods),),
        claims={claim.key: claim for claim in claims},
    )


def place(name: str, *parts: ClaimAllocation, node: str = "n1", gang: str = "a/train") -> Placement:
    return Placement(pod=f"a/{name}", pod_uid=f"uid-{name}", gang=gang, node=node, claims=parts)


def give(name: str, *names: str) -> ClaimAllocation:
    """The claim gets these devices; without any, the pod joins what the claim holds."""
    return ClaimAllocation(
        name="gpu", claim=f"a/{name}", claim_uid=f"uid-{name}", allocation=devices(*names) if names else None
    )


def test_a_pod_without_claims_is_only_bound():
    (gang,) = writes(Plan(now_ms=0, placements=(place("p"),)), world(pod("p")))
    assert (gang.gang, gang.making, gang.claims) == ("a/train", (), ())
    assert gang.binds == (Bind(pod="a/p", uid="uid-p", node="n1", queue="q"),)


def test_a_pod_joins_the_claim_that_was_made_for_it_under_another_leader():
    """Its devices may not be ready yet: nothing is known of that but what the claim says."""
    named = replace(pod("p"), extended_claim="a/made")
    held = claim("made", allocation=devices("gpu-0"))
    (gang,) = writes(Plan(now_ms=0, placements=(place("p"),)), world(named, claims=(held,)))
    (write,) = gang.claims
    assert (write.claim, write.uid, write.first) == ("a/made", "uid-made", False)
    assert write.consumers == (Consumer(pod="a/p", uid="uid-p"),)


def test_a_pod_does_not_join_a_claim_that_it_still_names_and_that_is_gone():
    named = replace(pod("p"), extended_claim="a/made")
    for claims in ((), (claim("made"),)):
        (gang,) = writes(Plan(now_ms=0, placements=(place("p"),)), world(named, claims=claims))
        assert gang.claims == ()


def test_a_binding_tells_which_queue_pays_and_those_above_it():
    queues = (Queue(name="top", parent=None), Queue(name="org", parent="top"), Queue(name="q", parent="org"))
    (gang,) = writes(Plan(now_ms=0, placements=(place("p"),)), replace(world(pod("p")), queues=queues))
    assert [bind.queue for bind in gang.binds] == ["top/org/q"]


def test_a_gang_that_names_no_queue_is_paid_by_the_default():
    snapshot = world(pod("p"))
    nameless = replace(snapshot, gangs=(replace(snapshot.gangs[0], queue=""),))
    (gang,) = writes(Plan(now_ms=0, placements=(place("p"),)), nameless)
    assert [bind.queue for bind in gang.binds] == ["default"]


def test_a_claim_shared_in_a_gang_is_written_once_for_all_its_pods():
    snapshot = world(pod("p", "shared"), pod("q", "shared"), claims=(claim("shared"),))
    plan = Plan(now_ms=0, placements=(place("p", give("shared", "gpu-0")), place("q", give("shared"))))

    (gang,) = writes(plan, snapshot)

    assert gang.claims == (
        ClaimWrite(
            claim="a/shared",
            uid="uid-shared",
            allocation=devices("gpu-0"),
            consumers=(Consumer(pod="a/p", uid="uid-p"), Consumer(pod="a/q", uid="uid-q")),
            first=True,
        ),
    )


def test_a_gang_that_joins_a_claim_allocated_earlier_never_allocates_it():
    held = claim("shared", allocation=devices("gpu-3"), reserved_for=("uid-other",))
    (gang,) = writes(
        Plan(now_ms=0, placements=(place("p", give("shared")),)), world(pod("p", "shared"), claims=(held,))
    )
    assert [(write.first, write.allocation) for write in gang.claims] == [(False, devices("gpu-3"))]


def test_a_gang_that_joins_what_another_gang_of_the_plan_allocates_expects_those_devices():
    snapshot = Snapshot(
        now_ms=0,
        gangs=tuple(
            Gang(key=f"a/{name}", uid=name, owner=f"Pod/a/{name}", queue="q", pods=(pod(name, "shared"),))
            for name in ("p", "q")
        ),
        claims={"a/shared": claim("shared")},
    )
    placements = (place("p", give("shared", "gpu-0"), gang="a/p"), place("q", give("shared"), gang="a/q"))
    first, second = writes(Plan(now_ms=0, placements=placements), snapshot)
    assert (first.gang, first.claims[0].first) == ("a/p", True)
    assert (second.gang, second.claims[0].first, second.claims[0].allocation) == ("a/q", False, devices("gpu-0"))


def test_a_claim_for_extended_resources_is_made_for_its_pod():
    mappings = (ExtendedMapping(container="main", resource="nvidia.com/gpu", request="container-0-request-0"),)
    part = ClaimAllocation(name="", claim="", allocation=devices("gpu-0"), make=ResourceClaimSpec(), mappings=mappings)
    (gang,) = writes(Plan(now_ms=0, placements=(place("p", part),)), world(pod("p")))
    assert gang.claims == ()
    assert [(making.consumer.pod, making.allocation, making.mappings) for making in gang.making] == [
        ("a/p", devices("gpu-0"), mappings)
    ]


def test_evictions_keep_the_plans_order_by_the_gang_that_they_make_way_for():
    gone = tuple(
        Eviction(pod=f"a/{name}", pod_uid=f"uid-{name}", stage="preempt", beneficiary=gang, cost=1)
        for name, gang in (("y", "a/train"), ("z", "a/other"), ("x", "a/train"))
    )
    left = evictions(Plan(now_ms=0, evictions=gone))
    assert {gang: [(each.pod, each.uid) for each in pods] for gang, pods in left.items()} == {
        "a/train": [("a/y", "uid-y"), ("a/x", "uid-x")],
        "a/other": [("a/z", "uid-z")],
    }


@pytest.mark.parametrize(
    ("stage", "why"),
    [
        ("consolidate", "It was moved, to make room for gang a/train; 120 GPU-seconds of work lost."),
        (
            "reclaim",
            "It was called back by a queue under its fair share, to make room for gang a/train; "
            "120 GPU-seconds of work lost.",
        ),
        ("preempt", "It was outranked, to make room for gang a/train; 120 GPU-seconds of work lost."),
        (
            "stale",
            "Its gang ran with fewer pods than must run together for longer than its grace; "
            "120 GPU-seconds of work lost.",
        ),
        ("max-runtime", "Its gang ran for as long as it may (maxRuntime)."),
    ],
)
def test_who_leaves_is_told_why(stage: str, why: str):
    gains = "" if stage in ("stale", "max-runtime") else "a/train"
    leaves = Eviction(pod="a/x", pod_uid="u", stage=stage, beneficiary=gains, cost=120_999)
    told = Evict(pod="a/x", uid="u", stage=stage, why=why)
    assert evictions(Plan(now_ms=0, evictions=(leaves,))) == {gains: (told,)}


def test_pods_are_told_of_new_promises_and_of_those_that_do_not_hold_any_more():
    gang = Gang(
        key="a/train",
        uid="u",
        owner="PodGroup/a/train",
        queue="q",
        pods=(
            pod("new"),
            replace(pod("known"), nominated="n1"),
            replace(pod("lost"), nominated="n1"),
            replace(pod("placed"), nominated="n1"),
        ),
    )
    plan = Plan(
        now_ms=0,
        placements=(place("placed"),),
        promises=tuple(
            Promise(pod=f"a/{name}", pod_uid=f"uid-{name}", gang="a/train", node="n1") for name in ("new", "known")
        ),
    )
    told = nominations(plan, Snapshot(now_ms=0, gangs=(gang,)))
    assert [(each.pod, each.node) for each in told["a/train"]] == [("a/new", "n1"), ("a/lost", "")]


@pytest.mark.parametrize(
    ("snapshot", "placements", "message"),
    [
        (world(pod("p", "c"), claims=(claim("c"),)), (place("p", give("c")),), "without devices for a/c"),
        (world(pod("p", "c"), claims=(claim("c"),)), (place("p"),), "leaves its claim gpu undecided"),
        (
            world(pod("p", "c"), pod("q", "c"), claims=(claim("c"),)),
            (place("p", give("c", "gpu-0")), place("q", give("c", "gpu-1"))),
            "ResourceClaim a/c two different allocations",
        ),
        (
            world(pod("p", "c"), claims=(claim("c", allocation=devices("gpu-0")),)),
            (place("p", give("c", "gpu-1")),),
            "a/c, which is allocated already",
        ),
        (
            world(
                pod("p", "c"),
                claims=(claim("c", allocation=devices("gpu-0"), reserved_for=tuple(f"uid-{n}" for n in range(256))),),
            ),
            (place("p", give("c")),),
            "for more than 256 pods",
        ),
        (world(pod("p")), (place("q"),), "places pod a/q, which is in no gang"),
        (
            world(pod("p")),
            (place("p", ClaimAllocation(name="", claim="", make=ResourceClaimSpec())),),
            "makes a claim for pod a/p and gives it no devices",
        ),
    ],
)
def test_a_plan_that_cannot_be_right_stops_before_its_first_write(snapshot, placements, message):
    with pytest.raises(InvariantError, match=message):
        writes(Plan(now_ms=0, placements=placements), snapshot)
