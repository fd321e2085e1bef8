"""The question put to CP-SAT in its budget, and its answers: Solved, ProvedImpossible or OutOfTime."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from scheduler.solver.problem import Move, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """`moves` by gang, for those that are placed. `optimal`: no better one exists; else `gap` says how much better one
    may be, as a fraction of the objective. `seconds`: deterministic time."""

    moves: Mapping[str, tuple[Move, ...]]
    optimal: bool
    gap: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvedImpossible:
    """What must be placed cannot be."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfTime:
    """The budget ended without an answer; nothing is proved."""

    seconds: float


Answer: TypeAlias = Solved | ProvedImpossible | OutOfTime
Hint: TypeAlias = tuple[tuple[str, tuple[Move, ...]], ...]
"""A placement to start from: per gang its moves, of gangs that are placed."""


@lru_cache(maxsize=32)
def solve(problem: Problem, *, budget: float, seed: int = 0, hint: Hint = ()) -> Answer:
    """The best placement of the contenders that is found within `budget` of deterministic seconds.

    Pure, so the last answers are kept: a cluster in which nothing changed is not searched again."""
    # OR-tools brings pandas with it, most of a second of every start; only here is it known that it is needed.
    from scheduler.solver import cpsat

    return cpsat.search(problem, budget, seed, hint)
