"""The question put to CP-SAT in its budget."""

from functools import lru_cache

from scheduler.solver.answers import Answer, Hint
from scheduler.solver.problem import Problem


@lru_cache(maxsize=32)
def solve(problem: Problem, *, budget: float, seed: int = 0, hint: Hint = ()) -> Answer:
    """The best placement of the contenders that is found within `budget` of deterministic seconds.

    Pure, so the last answers are kept: a cluster in which nothing changed is not searched again."""
    # OR-tools brings pandas with it, most of a second of every start; only here is it known that it is needed.
    from scheduler.solver import cpsat

    return cpsat.search(problem, budget, seed, hint)
