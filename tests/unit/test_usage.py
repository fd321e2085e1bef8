"""Past use: what is left of it, what is added, and that no clock creates or loses any."""

import pytest

from queues.resources import NOTHING, Resources
from queues.usage import CLUSTER, LONGEST_MS, later, parts_of

HOUR = 3_600_000
WEEK = 168 * HOUR


def part(of: float) -> dict[str, int]:
    return {"gpu": round(of * CLUSTER)}


def after(past: float, standing: float, elapsed_ms: int, half_life_ms: int) -> float:
    return later(part(past), part(standing), elapsed_ms, half_life_ms).get("gpu", 0) / CLUSTER


@pytest.mark.parametrize(("elapsed", "left"), [(0, 1), (50, 0.7071), (100, 0.5), (101, 0.49655), (300, 0.125)])
def test_half_of_past_use_is_forgotten_in_each_half_life(elapsed, left):
    assert after(1, 0, elapsed, 100) == pytest.approx(left, abs=1e-5)


def test_what_is_in_use_takes_the_place_of_what_is_forgotten():
    assert after(0, 0.5, 100, 100) == pytest.approx(0.25)
    assert after(0.2, 0.2, 100, 100) == pytest.approx(0.2)


def test_nothing_decays_to_nothing_and_what_is_forgotten_is_not_kept_as_zero():
    assert later({}, {}, 5, 7) == {}
    assert later({"gpu": 1}, {}, LONGEST_MS, 1) == {}


def test_many_short_steps_come_to_the_same_as_one():
    steps = part(0.1)
    for _ in range(10_000):
        steps = later(steps, part(0.6), 100, WEEK)
    once = later(part(0.1), part(0.6), 1_000_000, WEEK)
    assert steps["gpu"] == pytest.approx(once["gpu"], abs=CLUSTER // 10**7)


def test_a_clock_that_goes_back_creates_no_use_and_loses_none():
    assert later(part(0.3), part(1), -WEEK, HOUR) == part(0.3)


def test_of_a_gap_in_which_nobody_looked_an_hour_counts_at_most():
    assert later(part(0.3), part(1), 100 * WEEK, WEEK) == later(part(0.3), part(1), LONGEST_MS, WEEK)


def test_a_queue_uses_at_most_all_there_is_and_nothing_of_what_is_not_there():
    charged = Resources({"gpu": 9000, "cpu": 500, "memory": 5})
    assert parts_of(charged, Resources({"gpu": 8000, "cpu": 2000})) == {"gpu": CLUSTER, "cpu": CLUSTER // 4}
    assert parts_of(NOTHING, Resources({"gpu": 8000})) == {}
