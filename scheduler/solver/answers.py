"""What a search for a joint placement may answer: Solved, ProvedImpossible or OutOfTime; and what it may start from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from scheduler.solver.problem import Move


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
