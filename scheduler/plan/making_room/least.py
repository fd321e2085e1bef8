"""Sets of options that together give enough, the least harmful first.

A best-first search with a bound that never says too much: whatever more has to be chosen does at least the harm of the
next options in order. Among equals of harm the set whose options come first in the order comes first.
Source: A* (Hart, Nilsson, Raphael 1968).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from typing import Protocol

Harm = tuple[int, ...]
"""In tiers, the gravest first; added tier by tier."""


class Option(Protocol):
    @property
    def harm(self) -> Harm: ...

    @property
    def gives(self) -> Mapping[str, int]: ...


class TooManyLooks(Exception):
    """So many sets were looked at, and there may be more."""


class Sets:
    """Of options in order of their harm; every harm is greater than nothing. `fits`: whether an option (by number) may
    go with those chosen before it; what does not fit into a set fits into no larger one. `lacking`: what a set has to
    give at least."""

    def __init__(
        self,
        options: Sequence[Option],
        lacking: Mapping[str, int],
        fits: Callable[[tuple[int, ...], int], bool],
        *,
        looks: int,
    ) -> None:
        self._options = options
        self._lacking = lacking
        self._fits = fits
        self._looks = looks
        self.looked = 0
        """Sets, so far."""
        count = len(options)
        self._up_to: list[Harm] = [(0,) * (len(options[0].harm) if options else 0)]
        for option in options:
            self._up_to.append(_plus(self._up_to[-1], option.harm))
        self._rest: dict[str, list[int]] = {}
        """What the options from each on give together."""
        self._most: dict[str, list[int]] = {}
        """And what one of them gives at most."""
        for name in lacking:
            rest, most = [0] * (count + 1), [0] * (count + 1)
            for number in range(count - 1, -1, -1):
                gives = options[number].gives.get(name, 0)
                rest[number], most[number] = rest[number + 1] + gives, max(most[number + 1], gives)
            self._rest[name], self._most[name] = rest, most

    def __iter__(self) -> Iterator[tuple[Harm, tuple[int, ...]]]:
        """Their harm, and the numbers of their options. Raises TooManyLooks."""
        heap: list[tuple[Harm, tuple[int, ...], Harm, tuple[int, ...]]] = []
        short = tuple(self._lacking.values())
        self._extend(heap, (), self._up_to[0], short)
        for _ in range(self._looks):
            if not heap:
                return
            self.looked += 1
            _, chosen, harm, short = heappop(heap)
            if all(amount <= 0 for amount in short):
                yield harm, chosen
            self._extend(heap, chosen, harm, short)
        if heap:
            raise TooManyLooks

    def _extend(
        self,
        heap: list[tuple[Harm, tuple[int, ...], Harm, tuple[int, ...]]],
        chosen: tuple[int, ...],
        harm: Harm,
        short: tuple[int, ...],
    ) -> None:
        """Every set that has one option more."""
        names = tuple(self._lacking)
        for number in range(chosen[-1] + 1 if chosen else 0, len(self._options)):
            if any(amount > self._rest[name][number] for name, amount in zip(names, short, strict=True)):
                return  # all that are left are not enough
            if self._fits(chosen, number):
                option, after = self._options[number], number + 1
                missing = tuple(amount - option.gives.get(name, 0) for name, amount in zip(names, short, strict=True))
                so_far = _plus(harm, option.harm)
                bound = _plus(so_far, _minus(self._up_to[after + self._more(after, missing)], self._up_to[after]))
                heappush(heap, (bound, (*chosen, number), so_far, missing))

    def _more(self, first: int, missing: tuple[int, ...]) -> int:
        """How many options from that one on it takes at least."""
        wanted = zip(self._lacking, missing, strict=True)
        return max((-(-amount // self._most[name][first]) for name, amount in wanted if amount > 0), default=0)


def _plus(one: Harm, other: Harm) -> Harm:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _minus(one: Harm, other: Harm) -> Harm:
    return tuple(a - b for a, b in zip(one, other, strict=True))
