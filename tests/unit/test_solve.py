"""The solver against enumeration by hand, its three answers, and its sameness."""

import subprocess
import sys
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.solver.answers import OutOfTime, ProvedImpossible, Solved
from scheduler.solver.problem import Contender, Group, Level, Move, NodeClass, Pattern, Problem, Unit, Zone
from scheduler.solver.solve import solve

RACK: Level = ("t", "rack")
SIZES = (1, 2, 3)
BUDGET = 2.0


def patterns(free: int) -> tuple[Pattern, ...]:
    """The maximal ways to fill a node of so many GPUs with pods of 1, 2 and 3."""
    ways = [way for way in product(*(range(free // size + 1) for size in SIZES)) if 0 <= free - _used(way) < min(SIZES)]
    return tuple(tuple((size, n) for size, n in zip(SIZES, way, strict=True) if n) for way in ways if any(way))


def _used(way: tuple[int, ...]) -> int:
    return sum(size * n for size, n in zip(SIZES, way, strict=True))


def zones(racks: list[list[int]]) -> tuple[Zone, ...]:
    """Racks of nodes with so many free GPUs each."""
    made = []
    for number, frees in enumerate(racks):
        classes = tuple(
            NodeClass(
                nodes=tuple(f"r{number}-{place}" for place, other in enumerate(frees) if other == free),
                patterns=patterns(free),
                whole=False,
            )
            for free in sorted(set(frees))
            if free
        )
        made.append(Zone(domains=((RACK, f"r{number}"),), classes=classes))
    return tuple(made)


def contender(name: str, sizes: list[int], *, bound: bool = False, must: bool = False, value: int = 1) -> Contender:
    units = tuple(Unit(shape=size) for size in sizes)
    group = Group(
        name="",
        minimum=len(units),
        units=units,
        steps=(RACK,) if bound else (),
        required=RACK if bound else None,
    )
    return Contender(gang=name, group=group, must=must, value=value)


def fits(sizes: list[tuple[int, int]], frees: list[int], racks: list[int], bound: set[int]) -> bool:
    """By trying everything: pods as (size, gang), nodes as free GPUs with their rack."""

    def put(position: int, left: list[int], where: dict[int, int]) -> bool:
        if position == len(sizes):
            return True
        size, gang = sizes[position]
        for node, free in enumerate(left):
            if free < size or (gang in bound and where.get(gang, racks[node]) != racks[node]):
                continue
            rest = [*left[:node], free - size, *left[node + 1 :]]
            if put(position + 1, rest, {**where, gang: racks[node]}):
                return True
        return False

    return put(0, frees, {})


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=2), min_size=1, max_size=2),
    st.lists(
        st.tuples(st.lists(st.sampled_from(SIZES), min_size=1, max_size=3), st.booleans()), min_size=1, max_size=3
    ),
)
def test_as_much_is_placed_as_trying_everything_can(
    racks: list[list[int]], gangs: list[tuple[list[int], bool]]
) -> None:
    contenders = tuple(contender(f"g{n}", sizes, bound=bound) for n, (sizes, bound) in enumerate(gangs))
    answer = solve(Problem(contenders=contenders, zones=zones(racks)), budget=BUDGET)
    assert isinstance(answer, Solved)
    assert answer.optimal
    frees = [free for rack in racks for free in rack]
    of = [number for number, rack in enumerate(racks) for _ in rack]
    best = max(
        sum(chosen)
        for chosen in product((0, 1), repeat=len(gangs))
        if fits(
            [(size, n) for n, (sizes, _) in enumerate(gangs) if chosen[n] for size in sizes],
            frees,
            of,
            {n for n, (_, bound) in enumerate(gangs) if bound},
        )
    )
    assert len(answer.moves) == best
    for n, (sizes, bound) in enumerate(gangs):
        for move in answer.moves.get(f"g{n}", ()):
            rack, place = map(int, move.node[1:].split("-"))
            racks[rack][place] -= move.shape * move.count
        moved = answer.moves.get(f"g{n}", ())
        assert not moved or sorted(m.shape for m in moved for _ in range(m.count)) == sorted(sizes)
        assert not bound or len({m.node.partition("-")[0] for m in moved}) <= 1
    assert all(free >= 0 for rack in racks for free in rack)


def test_what_must_be_placed_and_cannot_is_proved_impossible() -> None:
    mixed = contender("mixed", [3, 3, 2], must=True)
    answer = solve(Problem(contenders=(mixed,), zones=zones([[4, 4]])), budget=BUDGET)
    assert isinstance(answer, ProvedImpossible)


HARD_ONE = Problem(
    contenders=tuple(contender(f"g{n}", [1 + n % 3, 1 + n % 2, 3], value=n + 1) for n in range(30)),
    zones=zones([[5, 3, 4, 2, 5], [5, 5, 1, 3, 4], [2, 5, 3, 5, 4]]),
)


def test_without_time_there_is_no_answer_and_nothing_is_claimed() -> None:
    assert isinstance(solve(HARD_ONE, budget=1e-9), OutOfTime)


def test_the_same_problem_has_the_same_answer_whoever_asks() -> None:
    first = solve(HARD_ONE, budget=0.05)
    solve.cache_clear()
    assert solve(HARD_ONE, budget=0.05) == first


def test_an_answer_that_is_not_the_best_for_sure_says_how_far_it_may_be() -> None:
    answer = solve(HARD_ONE, budget=0.02)
    assert isinstance(answer, Solved)
    assert answer.optimal is (answer.gap == 0.0)
    assert answer.seconds > 0


@pytest.mark.parametrize("bound", [False, True])
def test_a_hint_that_obeys_the_rules_is_never_made_worse(bound: bool) -> None:
    """The greedy's placement as the hint, with next to no time: it comes back."""
    gangs = tuple(contender(f"g{n}", [3, 2], bound=bound, must=True) for n in range(3))
    hint = tuple(
        (f"g{n}", (Move(leaf="", node=f"r{n}-0", shape=3, count=1), Move(leaf="", node=f"r{n}-0", shape=2, count=1)))
        for n in range(3)
    )
    answer = solve(Problem(contenders=gangs, zones=zones([[5], [5], [5]])), budget=0.01, hint=hint)
    assert isinstance(answer, Solved)
    assert len(answer.moves) == 3


def test_a_start_does_not_wait_for_the_solver() -> None:
    """OR-tools is most of a second of imports; it is there once the first question is."""
    code = "import sys, scheduler.service; sys.exit('ortools' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
