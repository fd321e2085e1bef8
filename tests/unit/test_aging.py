"""What waiting adds to the place of a gang in its queue."""

import pytest

from queues.aging import Aging

AGING = Aging(weight=100, full_ms=1000)


@pytest.mark.parametrize(("waited", "lift"), [(0, 0), (9, 0), (10, 1), (500, 50), (1000, 100), (10**15, 100)])
def test_it_grows_evenly_and_ends(waited: int, lift: int) -> None:
    assert AGING.lift(5, 5 + waited) == lift


def test_what_will_be_created_or_does_not_tell_when_it_was_gains_nothing() -> None:
    assert AGING.lift(10_000, 5_000) == 0
    assert AGING.lift(0, 5_000) == 0


def test_without_weight_nobody_gains() -> None:
    assert Aging().lift(1, 10**15) == 0
