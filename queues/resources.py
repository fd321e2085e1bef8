"""Amounts by resource name, as integers in house units.

House units: CPU and GPU in thousandths, memory and storage in bytes, everything else a plain count.
Source of the idea: Kueue's Amount type, where "no limit" and overflow are nobody's business but the type's.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Resources:
    """An immutable vector of amounts. A name that is absent has amount 0; zeros are not kept, so equal means equal."""

    amounts: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if 0 in self.amounts.values():
            object.__setattr__(self, "amounts", {name: amount for name, amount in self.amounts.items() if amount})

    def __getitem__(self, name: str) -> int:
        return self.amounts.get(name, 0)

    def __iter__(self) -> Iterator[str]:
        """The names with a non-zero amount, sorted."""
        return iter(sorted(self.amounts))

    def __bool__(self) -> bool:
        return bool(self.amounts)

    def __hash__(self) -> int:
        return hash(frozenset(self.amounts.items()))

    def __add__(self, other: "Resources") -> "Resources":
        total = dict(self.amounts)
        for name, amount in other.amounts.items():
            total[name] = total.get(name, 0) + amount
        return Resources(total)

    def __sub__(self, other: "Resources") -> "Resources":
        total = dict(self.amounts)
        for name, amount in other.amounts.items():
            total[name] = total.get(name, 0) - amount
        return Resources(total)

    def __mul__(self, times: int) -> "Resources":
        return Resources({name: amount * times for name, amount in self.amounts.items()})

    def lacking_in(self, room: "Resources") -> tuple[str, ...]:
        """The names, sorted, of which `room` has less than asked."""
        return tuple(name for name in self if self[name] > 0 and self[name] > room[name])

    def at_least(self, other: "Resources") -> "Resources":
        """The larger amount of both, name by name."""
        names = self.amounts.keys() | other.amounts.keys()
        return Resources({name: max(self[name], other[name]) for name in names})


NOTHING = Resources()


def total(parts: Iterable[Resources]) -> Resources:
    """The sum, computed in one dictionary; of a single part, that part."""
    rest = (part for part in parts if part.amounts)
    first = next(rest, NOTHING)
    amounts: dict[str, int] = {}
    for part in rest:
        amounts = amounts or dict(first.amounts)
        for name, amount in part.amounts.items():
            amounts[name] = amounts.get(name, 0) + amount
    return Resources(amounts) if amounts else first
