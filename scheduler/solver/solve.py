"""The question put to CP-SAT in its budget."""

from functools import lru_cache
from typing import TYPE_CHECKING

from scheduler.solver.answers import Answer, Hint
from scheduler.solver.harm import Harm
from scheduler.solver.problem import Problem

if TYPE_CHECKING:
    from scheduler.solver.victims import Search


@lru_cache(maxsize=32)
def solve(problem: Problem, *, budget: float, seed: int = 0, hint: Hint = ()) -> Answer:
    """The best placement of the contenders that is found within `budget` of deterministic seconds.

    Pure, so the last answers are kept: a cluster in which nothing changed is not searched again."""
    # OR-tools brings pandas with it, most of a second of every start; only here is it known that it is needed.
    from scheduler.solver import cpsat

    return cpsat.search(problem, budget, seed, hint)


def least_harm(harm: Harm, *, budget: float, seed: int = 0) -> "Search":
    """A search for who has to go, as long as `budget` of deterministic seconds lasts."""
    from scheduler.solver.victims import Search

    return Search(harm, budget=budget, seed=seed)
