"""Which pods a gang can spare, and what is written for the others."""

import pytest

from scheduler.api.dra import AllocationResult
from scheduler.commit.remainder import split, stands
from scheduler.commit.writes import Bind, ClaimWrite, Consumer, GangWrites
from scheduler.model.workloads import Gang, Pod, SubGroup

A, B = Consumer(pod="a/p0", uid="u0"), Consumer(pod="a/p1", uid="u1")


def pods(*names: str, **fields: object) -> tuple[Pod, ...]:
    return tuple(Pod(key=f"a/{name}", uid=name, **fields) for name in names)  # type: ignore[arg-type]


def gang(*members: Pod, **fields: object) -> Gang:
    return Gang(key="a/g", uid="g", owner="", queue="q", pods=members, **fields)  # type: ignore[arg-type]


def test_pods_on_nodes_count_and_those_that_are_ending_do_not() -> None:
    running, ending = pods("r", node="n1"), pods("e", node="n1", terminating=True)
    three = gang(*running, *ending, *pods("p0", "p1"), min_member=3)
    assert stands(three, ["a/p0", "a/p1"])
    assert not stands(three, ["a/p0"])


def test_pods_that_ended_well_count_for_the_run_that_goes_on() -> None:
    assert stands(gang(*pods("p0", "p1"), min_member=4, succeeded=3), ["a/p0"])
    assert not stands(gang(*pods("p0", "p1"), min_member=2, succeeded=1), ["a/p0"]), "a new run needs its whole minimum"


@pytest.mark.parametrize(
    ("placed", "both", "either"),
    [
        (("w0", "w1", "d"), True, True),
        (("w0", "w1"), False, True),
        (("w0", "d"), False, True),
        (("d",), False, True),
        (("w0",), False, False),
    ],
)
def test_every_level_of_sub_groups_has_its_minimum(placed: tuple[str, ...], both: bool, either: bool) -> None:
    groups = (SubGroup(name="workers", min_member=2), SubGroup(name="driver"))
    members = (*pods("w0", "w1", "w2", sub_group="workers"), *pods("d", sub_group="driver"))
    keys = [f"a/{name}" for name in placed]
    assert stands(gang(*members, sub_groups=groups), keys) is both
    assert stands(gang(*members, sub_groups=groups, min_sub_group=1), keys) is either


def test_a_claim_that_both_parts_use_is_in_both() -> None:
    shared = ClaimWrite(claim="a/s", uid="s", allocation=AllocationResult(), consumers=(A, B), first=True)
    own = ClaimWrite(claim="a/c1", uid="c1", allocation=AllocationResult(), consumers=(B,), first=True)
    binds = (Bind(pod="a/p0", uid="u0", node="n1"), Bind(pod="a/p1", uid="u1", node="n1"))
    going, behind = split(GangWrites(gang="a/g", making=(), claims=(shared, own), binds=binds), ["a/p1"])
    assert [(write.claim, write.consumers) for write in going.claims] == [("a/s", (A,))]
    assert [(write.claim, write.consumers) for write in behind.claims] == [("a/s", (B,)), ("a/c1", (B,))]
    assert (going.binds, behind.binds) == (binds[:1], binds[1:])
