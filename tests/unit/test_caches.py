"""What is remembered of objects, and for how long."""

from scheduler.api.dra import ResourceClaimSpec
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


def test_what_has_no_weak_references_stays_until_there_are_too_many():
    specs = [ResourceClaimSpec() for _ in range(7)]
    places = {id(spec): place for place, spec in enumerate(specs)}
    place = PerObject[ResourceClaimSpec, int](lambda spec: places[id(spec)], most=4)
    assert [place(spec) for spec in specs] == list(range(7))
    assert len(place) <= 4
    assert [place(spec) for spec in specs] == list(range(7))
