"""What a killed scheduler left behind, told apart from what is in use."""

from collections.abc import Collection

import pytest

from scheduler.api.dra import AllocationResult, ResourceClaimSpec
from scheduler.commit import recovery
from scheduler.commit.recovery import Stray
from scheduler.model.plan import Placement, Plan
from scheduler.model.snapshot import Snapshot
from scheduler.model.workloads import Claim, Gang, Pod, PodClaim

GIVEN = AllocationResult()
EMPTY = Plan(now_ms=0)


def pod(name: str, **fields: object) -> Pod:
    named = (PodClaim(name="gpu", claim="a/c"),)
    return Pod(key=f"a/{name}", uid=f"uid-{name}", claims=named, **fields)  # type: ignore[arg-type]


def claim(name: str = "c", *consumers: str, allocation: AllocationResult | None = GIVEN, owner: str = "") -> Claim:
    return Claim(
        key=f"a/{name}",
        uid=f"uid-{name}",
        spec=ResourceClaimSpec(),
        allocation=allocation,
        reserved_for=tuple(f"uid-{consumer}" for consumer in consumers),
        owner_uid=f"uid-{owner}" if owner else "",
    )


def snapshot(claim: Claim, *pods: Pod) -> Snapshot:
    gang = Gang(key="a/train", uid="g", owner="", queue="q", pods=pods)
    return Snapshot(now_ms=0, gangs=(gang,), claims={claim.key: claim})


def strays(found: Snapshot, plan: Plan, *, under_way: Collection[str] = (), held_back: Collection[str] = ()):
    return recovery.strays(found, plan, under_way=under_way, held_back=held_back)


def test_devices_reserved_for_a_pod_that_is_neither_bound_nor_placed_are_stray():
    assert strays(snapshot(claim("c", "p", "running"), pod("p"), pod("running", node="n")), EMPTY) == (
        Stray(claim="a/c", uid="uid-c", pods=(("a/p", "uid-p"),)),
    )


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (snapshot(claim("c", "p"), pod("p", node="n")), "its pod is bound"),
        (snapshot(claim("c", "p"), pod("p", terminating=True)), "the claim controller sees to it"),
        (snapshot(claim("c", "p"), pod("p", ours=False)), "its pod is another scheduler's"),
        (snapshot(claim("c", "gone"), pod("p")), "its pod is gone, which the claim controller sees to"),
        (snapshot(claim("c"), pod("p")), "it is reserved for nobody: somebody allocated it by hand"),
        (snapshot(claim("c", allocation=None, owner="p"), pod("p")), "it is the pod's own claim, not allocated yet"),
        (snapshot(claim("p-extended", "other", owner="p"), pod("p")), "it was made for the pod, and another has it"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_claim_is_left_alone(found: Snapshot, why: str):
    assert strays(found, EMPTY) == (), why


def test_a_claim_whose_pod_is_placed_by_the_plan_is_kept_for_it():
    plan = Plan(now_ms=0, placements=(Placement(pod="a/p", pod_uid="uid-p", gang="a/train", node="n"),))
    assert strays(snapshot(claim("c", "p"), pod("p")), plan) == ()


def test_a_claim_of_a_pod_being_committed_is_kept():
    assert strays(snapshot(claim("c", "p"), pod("p")), EMPTY, under_way={"a/p"}) == ()


def test_a_claim_is_stray_although_others_of_its_pods_gang_are_being_committed_again_and_again():
    """Or nobody would release what a dead leader gave to a pod above the minimum while the others keep failing."""
    found = snapshot(claim("c", "above"), pod("above"), pod("p"))
    assert strays(found, EMPTY, under_way={"a/p"}) == (
        Stray(claim="a/c", uid="uid-c", pods=(("a/above", "uid-above"),)),
    )


def test_claims_of_a_gang_that_waits_for_its_next_try_are_kept_only_if_it_is_bound_in_part():
    waiting, bound = snapshot(claim("c", "p"), pod("p")), snapshot(claim("c", "p"), pod("p"), pod("q", node="n"))
    assert strays(waiting, EMPTY, held_back={"a/train"}) == (Stray(claim="a/c", uid="uid-c", pods=(("a/p", "uid-p"),)),)
    assert strays(bound, EMPTY, held_back={"a/train"}) == ()


def test_a_claim_made_for_a_pod_and_never_given_devices_is_stray():
    made = claim("p-extended", allocation=None, owner="p")
    assert strays(snapshot(made, pod("p")), EMPTY) == (
        Stray(claim="a/p-extended", uid="uid-p-extended", pods=(("a/p", "uid-p"),)),
    )
