"""Functions on lists, sets (lists taken as sets) and optional values.

Source: Kubernetes CEL library "lists"; cel-go extensions lists (version 3), sets and optional types.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from scheduler.dra.cel.cost import COST_LIMIT, weight
from scheduler.dra.cel.overloads import Chapter
from scheduler.dra.cel.values import (
    INT_MAX,
    INT_MIN,
    NONE,
    UINT_MAX,
    CelRuntimeError,
    Duration,
    Opt,
    UInt,
    Value,
    compare,
    is_zero,
    no_overload,
    same,
    type_name,
)

library = Chapter()
includes_library = Chapter()  # only where list attributes are enabled

List = tuple[Any, ...]

_COMPARABLE = ("int", "uint", "double", "bool", "duration", "timestamp", "string", "bytes")
MAX_INCLUDES = 48  # values of one device attribute


@library(*(f"list<{t}>.isSorted() -> bool" for t in _COMPARABLE), cost=weight)
def _is_sorted(items: List) -> bool:
    return all(compare(a, b) <= 0 for a, b in pairwise(items))


@library(*(f"list<{t}>.sum() -> {t}" for t in ("int", "uint", "double", "duration")), cost=weight)
def _sum(items: List) -> Value:
    if not items:
        return 0
    kind = type(items[0])
    if kind not in (int, UInt, float, Duration) or any(type(item) is not kind for item in items):
        raise no_overload("sum", items)
    if kind is float:
        total = 0.0
        for item in items:
            total += item
        return total
    whole = sum(item.nanos if kind is Duration else int(item) for item in items)
    if not (0 if kind is UInt else INT_MIN) <= whole <= (UINT_MAX if kind is UInt else INT_MAX):
        raise CelRuntimeError("integer overflow")
    return whole if kind is int else kind(whole)


def _extreme(name: str, sign: int) -> None:
    def find(items: List) -> Value:
        if not items:
            raise CelRuntimeError(f"{name} called on empty list")
        best = items[0]
        for item in items[1:]:
            if compare(item, best) * sign > 0:
                best = item
        return best

    library(*(f"list<{t}>.{name}() -> {t}" for t in _COMPARABLE), cost=weight)(find)


_extreme("min", -1)
_extreme("max", 1)


def _search_cost(items: List, item: Value) -> int:
    return weight(items) + len(items) * (weight(item) - 1)


@library("list<A>.indexOf(A) -> int", cost=_search_cost)
def _index_of(items: List, item: Value) -> int:
    return next((i for i, other in enumerate(items) if same(other, item)), -1)


@library("list<A>.lastIndexOf(A) -> int", cost=_search_cost)
def _last_index_of(items: List, item: Value) -> int:
    return next((i for i in range(len(items) - 1, -1, -1) if same(items[i], item)), -1)


@library("list<A>.slice(int, int) -> list<A>", cost=lambda items, *_: 1 + len(items))
def _slice(items: List, start: int, end: int) -> List:
    if start < 0 or end < 0 or start > end or end > len(items):
        raise CelRuntimeError(f"cannot slice({start}, {end}) a list of length {len(items)}")
    return items[start:end]


@library("list<list<A>>.flatten() -> list<A>", "list<dyn>.flatten(int) -> list<dyn>", cost=lambda x, *_: weight(x))
def _flatten(items: List, depth: int = 1) -> List:
    if depth < 0:
        raise CelRuntimeError("level must be non-negative")
    flat: list[Value] = []
    for item in items:
        if isinstance(item, tuple) and depth > 0:
            flat += _flatten(item, depth - 1)
        else:
            flat.append(item)
    return tuple(flat)


@library("list<A>.distinct() -> list<A>", cost=lambda items: min(len(items), 1000) * weight(items))
def _distinct(items: List) -> List:
    kept: list[Value] = []
    for item in items:
        if not any(same(item, other) for other in kept):
            kept.append(item)
    return tuple(kept)


library("list<A>.reverse() -> list<A>", cost=lambda items: 1 + len(items))(lambda items: items[::-1])


@library(*(f"list<{t}>.sort() -> list<{t}>" for t in _COMPARABLE), cost=lambda items: 2 * weight(items))
def _sort(items: List) -> List:
    return sort_by(items, items)


def sort_by(items: List, keys: List) -> List:
    """The items in the order of their keys, which must all be of one type that has an order."""
    if keys:
        compare(keys[0], keys[0], "sort")
        if any(type(key) is not type(keys[0]) for key in keys):
            raise CelRuntimeError("list elements must have the same type")
    order = sorted(range(len(items)), key=keys.__getitem__)
    return tuple(items[i] for i in order)


@library("lists.range(int) -> list<int>", cost=lambda n: min(max(n, 0), COST_LIMIT) + 1)
def _range(n: int) -> List:
    return tuple(range(n))


# --- lists as sets


def _product(a: List, b: List) -> int:
    return 1 + min(len(b), COST_LIMIT) * weight(a) + min(len(a), COST_LIMIT) * weight(b)


def _contains(a: List, b: List) -> bool:
    return all(any(same(x, y) for y in a) for x in b)


library("sets.contains(list<A>, list<A>) -> bool", cost=_product)(_contains)
library("sets.equivalent(list<A>, list<A>) -> bool", cost=_product)(lambda a, b: _contains(a, b) and _contains(b, a))
library("sets.intersects(list<A>, list<A>) -> bool", cost=_product)(
    lambda a, b: any(any(same(x, y) for y in a) for x in b)
)

# --- optional values

library("optional.of(V) -> optional<V>")(Opt)
library("optional.ofNonZeroValue(V) -> optional<V>")(lambda value: NONE if is_zero(value) else Opt(value))
library("optional.none() -> optional<V>")(lambda: NONE)
library("optional<V>.hasValue() -> bool")(lambda optional: optional.present)


@library("optional<V>.value() -> V")
def _value(optional: Opt) -> Value:
    if not optional.present:
        raise CelRuntimeError("optional.none() dereference")
    return optional.value


# compile evaluates the argument of these two only when it is needed.
library("optional<V>.or(optional<V>) -> optional<V>")(lambda a, b: a if a.present else b)
library("optional<V>.orValue(V) -> V")(lambda a, b: a.value if a.present else b)
library("list<V>.first() -> optional<V>")(lambda items: Opt(items[0]) if items else NONE)
library("list<V>.last() -> optional<V>")(lambda items: Opt(items[-1]) if items else NONE)


@library(
    "optional.unwrap(list<optional<V>>) -> list<V>",
    "list<optional<V>>.unwrapOpt() -> list<V>",
    cost=lambda items: 1 + len(items),
)
def _unwrap(items: List) -> List:
    for item in items:
        if not isinstance(item, Opt):
            raise CelRuntimeError(f"value of type {type_name(item)} is not optional")
    return tuple(item.value for item in items if item.present)


@includes_library(
    "dyn.includes(dyn) -> bool", cost=lambda a, b: 1 + (len(a) if isinstance(a, tuple) else 0) + weight(b)
)
def _includes(target: Value, wanted: Value) -> bool:
    """Membership in a list attribute, equality with a scalar one: a selector that works for both (KEP 5491)."""
    if not isinstance(target, tuple):
        return same(target, wanted)
    for position, item in enumerate(target):
        if position >= MAX_INCLUDES:
            raise CelRuntimeError(f"'includes' function cannot be applied to lists longer than {MAX_INCLUDES} values")
        if same(item, wanted):
            return True
    return False
