"""Past use per queue, decayed: who used more than its part lately is offered less over quota (time-based fair share).

Source: KAI docs (time-based fair share): s = w + k (w - u), with w the normalised weight and u the part of the cluster
that was used.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import isqrt

from queues.resources import NOTHING, Resources

_ONE = 1 << 32


def _halvings(count: int) -> tuple[int, ...]:
    """2^-1/2, 2^-1/4, 2^-1/8 ... as parts of `_ONE`."""
    roots, root = [], _ONE // 2
    for _ in range(count):
        root = isqrt(root * _ONE)
        roots.append(root)
    return tuple(roots)


_ROOTS = _halvings(16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Use in the past, `used` by queue, and what the cluster had in the same time, `capacity`: house units times hours,
    both decayed alike. `strength` is KAI's k: 0 ignores the past."""

    used: Mapping[str, Resources] = field(default_factory=dict)
    capacity: Resources = NOTHING
    strength: Fraction = Fraction(1)

    def part(self, queue: str, resource: str) -> Fraction:
        """The part of the cluster's `resource` that the queue used; 0 where nothing is known."""
        used, capacity = self.used.get(queue, NOTHING)[resource], self.capacity[resource]
        return Fraction(used, capacity) if capacity > 0 else Fraction(0)


NO_USAGE = Usage()


def decayed(amounts: Resources, elapsed_ms: int, half_life_ms: int) -> Resources:
    """What is left of past use after `elapsed_ms`, rounded down; half of it after each half-life.

    Integer arithmetic, so that every machine agrees; the factor is exact to one part in 65,536 of a half-life."""
    halves, rest = divmod(elapsed_ms, half_life_ms)
    factor = _ONE >> min(halves, 64)
    for place, root in enumerate(_ROOTS, start=1):
        if rest << place >= half_life_ms:
            rest -= half_life_ms >> place
            factor = factor * root // _ONE
    return Resources({name: amounts[name] * factor // _ONE for name in amounts})
