"""Past use per queue, decayed: who used more than its part lately is offered less over quota (time-based fair share).

Use is counted in parts of all there was of a resource at the time, so that it is bounded and a queue's own record says
all: the mean of its parts, in which what lies a half-life back counts half. It begins at 0, as if the queue had been
there before and used nothing.
Source: KAI docs (time-based fair share): s = w + k (w - u), with w the normalised weight and u the part of the cluster
that was used.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import isqrt

from queues.resources import Resources

CLUSTER = 10**12
"""All there is of a resource, in the unit of parts."""

LONGEST_MS = 3_600_000
"""Of the time between two looks no more counts: nobody knows what was used in a longer gap, and a clock that jumped
ahead must not wipe out the past."""

Parts = Mapping[str, int]
"""By resource, of `CLUSTER`."""

_ONE = 1 << 64


def _halvings(count: int) -> tuple[int, ...]:
    """2^-1/2, 2^-1/4, 2^-1/8 ... as parts of `_ONE`."""
    roots, root = [], _ONE // 2
    for _ in range(count):
        root = isqrt(root * _ONE)
        roots.append(root)
    return tuple(roots)


_ROOTS = _halvings(40)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Use in the past, `parts` by queue. `strength` is KAI's k: 0 ignores the past."""

    parts: Mapping[str, Parts] = field(default_factory=dict)
    strength: Fraction = Fraction(1)

    def part(self, queue: str, resource: str) -> Fraction:
        """The part of the cluster's `resource` that the queue used, 0 to 1; 0 where nothing is known."""
        known = self.parts.get(queue, {}).get(resource, 0)
        return Fraction(min(max(known, 0), CLUSTER), CLUSTER)


NO_USAGE = Usage()


def parts_of(allocated: Resources, pool: Resources) -> dict[str, int]:
    """What part of the pool is in use, of what there is any of; never more than all, though more may be charged."""
    parts = {name: min(max(allocated[name], 0), pool[name]) * CLUSTER // pool[name] for name in pool if pool[name] > 0}
    return {name: part for name, part in parts.items() if part}


def as_quantities(parts: Parts) -> dict[str, str]:
    """Parts as people and statuses write them, to the millionth: 0.25 is a quarter of the cluster."""
    millionths = {name: min(max(parts[name], 0), CLUSTER) * 10**6 // CLUSTER for name in sorted(parts)}
    return {name: f"{m // 10**6}.{m % 10**6:06d}" for name, m in millionths.items() if m}


def later(past: Parts, standing: Parts, elapsed_ms: int, half_life_ms: int) -> dict[str, int]:
    """The mean after `elapsed_ms` more, in which `standing` was in use. A clock that went back adds and takes nothing.

    `half_life_ms` is positive. Integer arithmetic, rounded down, so that every machine agrees; however the time is
    divided into steps, the mean is the same but for the last digits."""
    kept = _kept(min(max(elapsed_ms, 0), LONGEST_MS), half_life_ms)
    mean = {
        name: (past.get(name, 0) * kept + standing.get(name, 0) * (_ONE - kept)) // _ONE
        for name in sorted({*past, *standing})
    }
    return {name: part for name, part in mean.items() if part}


def _kept(elapsed_ms: int, half_life_ms: int) -> int:
    """What is left of `_ONE` after so long: half of it after each half-life."""
    halves, rest = divmod(elapsed_ms, half_life_ms)
    factor = _ONE >> min(halves, 64)
    part = (rest << len(_ROOTS)) // half_life_ms
    for place, root in enumerate(reversed(_ROOTS)):
        if part >> place & 1:
            factor = factor * root // _ONE
    return factor
