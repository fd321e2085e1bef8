"""What the search is about: items to be given devices, and groups that bind their values together."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from scheduler.dra.requests import Want

Token: TypeAlias = tuple[str, Hashable]
"""An attribute's type and one value of it: equal values of different types do not match."""

Picks: TypeAlias = list[tuple[int, ...]]
"""Per item, the numbers of the devices it gets."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Item:
    """Devices for one request of one claim: `need` of `candidates`, or all of them where `whole`.

    `pinned` is what the item has already in an attempt; it counts toward constraints, not toward `need`. `kind`: equal
    for the same request of claims that ask for the same; None: like no other.
    """

    claim: int
    want: Want
    need: int
    candidates: tuple[int, ...]
    whole: bool = False
    pinned: tuple[int, ...] = ()
    kind: Hashable = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Items (by position) whose devices must share a value of an attribute, or all differ in it.

    `tokens`: the values by device; `kind`: equal for the same constraint of claims that ask for the same.
    """

    attribute: str
    items: frozenset[int]
    tokens: Mapping[int, frozenset[Token]]
    distinct: bool = False
    kind: Hashable = None
