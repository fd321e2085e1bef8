"""Sets of options in order of harm, against all that there are."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.plan.making_room.least import Sets, TooManyLooks


@dataclass(frozen=True, slots=True)
class Part:
    harm: tuple[int, ...]
    gives: Mapping[str, int]


PARTS = st.lists(
    st.builds(
        Part,
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.just(1)),
        st.fixed_dictionaries({"gpu": st.integers(0, 3), "cpu": st.integers(0, 2)}),
    ),
    max_size=7,
).map(lambda parts: sorted(parts, key=lambda part: part.harm))
LACKING = st.dictionaries(st.sampled_from(("gpu", "cpu")), st.integers(1, 6))
RIVALS = st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=4)


def every_set(parts: list[Part], lacking: Mapping[str, int], rivals: set[tuple[int, int]]):
    found = []
    for size in range(1, len(parts) + 1):
        for chosen in combinations(range(len(parts)), size):
            if all(sum(parts[n].gives[name] for n in chosen) >= least for name, least in lacking.items()) and not any(
                pair in rivals for pair in combinations(chosen, 2)
            ):
                harm = tuple(map(sum, zip(*(parts[n].harm for n in chosen), strict=True)))
                found.append((harm, chosen))
    return sorted(found)


def all_fit(_chosen: tuple[int, ...], _number: int) -> bool:
    return True


@given(PARTS, LACKING, RIVALS)
def test_every_set_that_gives_enough_comes_once_and_the_least_harmful_first(
    parts: list[Part], lacking: dict[str, int], rivals: set[tuple[int, int]]
):
    def fits(chosen: tuple[int, ...], number: int) -> bool:
        return not any((before, number) in rivals for before in chosen)

    assert list(Sets(parts, lacking, fits, looks=1_000)) == every_set(parts, lacking, rivals)


def test_equal_options_are_not_tried_in_every_combination():
    """A node of eight one-GPU pods has 255 sets of victims, and a pod that asks for all of it takes the last."""
    parts = [Part((0, 1, number), {"gpu": 1}) for number in range(16)]
    first = next(iter(Sets(parts, {"gpu": 16}, all_fit, looks=17)))
    assert first == ((0, 16, 120), tuple(range(16)))


def test_a_search_that_ends_early_says_so():
    parts = [Part((1,), {"gpu": 1}) for _ in range(10)]
    with pytest.raises(TooManyLooks):
        list(Sets(parts, {"gpu": 2}, all_fit, looks=20))
