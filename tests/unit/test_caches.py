"""What is remembered of objects, and for how long."""

import pytest

from scheduler.api.dra import AllocationResult, ResourceClaimSpec, ResourcePool, ResourceSliceSpec
from scheduler.api.meta import Wire
from scheduler.dra.caches import PerObject
from scheduler.model.workloads import Gang


def gang(name: str) -> Gang:
    return Gang(key=f"a/{name}", uid=name, owner="", queue="q")


def test_a_value_is_computed_once_for_an_object_and_anew_for_its_equal():
    asked: list[str] = []
    name = PerObject[Gang, str](lambda each: asked.append(each.name) or each.name)
    one, equal = gang("one"), gang("one")
    assert [name(one), name(one), name(equal)] == ["one"] * 3
    assert asked == ["one", "one"]


def test_a_gang_that_is_gone_is_not_remembered():
    name = PerObject[Gang, str](lambda each: each.name)
    kept = gang("kept")
    name(kept)
    for number in range(100):
        assert name(gang(f"gone-{number}")) == f"gone-{number}"
    assert len(name) == 1


@pytest.mark.parametrize("type_", [AllocationResult, ResourceClaimSpec])
def test_what_a_claim_that_is_gone_asked_for_and_held_is_not_remembered(type_: type[Wire]):
    empty = PerObject[Wire, bool](lambda each: each == type_())
    kept = type_()
    assert all(map(empty, (kept, type_(), type_())))
    assert len(empty) == 1


def test_what_has_no_weak_references_stays_until_there_are_too_many():
    slices = [ResourceSliceSpec(driver="d", pool=ResourcePool(name=str(number))) for number in range(7)]
    name = PerObject[ResourceSliceSpec, str](lambda each: each.pool.name, most=4)
    for _ in range(2):
        assert [name(each) for each in slices] == ["0", "1", "2", "3", "4", "5", "6"]
        assert len(name) <= 4


def test_what_holds_its_own_argument_is_forgotten_when_it_is_not_retained():
    """No weak reference ever lets it go: the value keeps the argument alive."""
    held = PerObject[Gang, list[Gang]](lambda each: [each])
    kept = gang("kept")
    first = held(kept)
    for number in range(100):
        held(gang(f"gone-{number}"))
    assert len(held) == 101
    held.retain([kept])
    assert len(held) == 1
    assert held(kept) is first
