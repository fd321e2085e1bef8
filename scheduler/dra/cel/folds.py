"""The macros that go over a list or map: how each runs.

all and exists take errors as `&&` and `||` do: one only counts if no other element decides. The others stop at the
first error.

Source: macros of the CEL language definition; cel-go's two-variable comprehensions and sortBy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from scheduler.dra.cel.access import Run
from scheduler.dra.cel.cost import METER, Env, charge
from scheduler.dra.cel.lists import sort_by
from scheduler.dra.cel.values import (
    NONE,
    CelCostError,
    CelRuntimeError,
    Opt,
    Value,
    boolean,
    key_value,
    keys_of,
    map_key,
    no_overload,
    not_iterable,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """What every macro has: the range, the slot of the first variable, the body, and what a round costs."""

    target: Run
    slot: int
    two_variables: bool
    predicate: Run | None
    body: Run
    cost: int
    position: int

    def rounds(self, env: Env) -> Iterator[Value]:
        """Sets the variables for each element in turn and yields the first of them."""
        values = self.target(env)
        is_list = type(values) is tuple
        if not is_list and not isinstance(values, dict):
            error = not_iterable(values)
            error.position = self.position
            raise error
        slot, cost = self.slot, self.cost
        pairs: Iterator[tuple[Value, Value]] | None = None
        if self.two_variables:
            pairs = iter(enumerate(values)) if is_list else ((key_value(k), v) for k, v in values.items())
        for first in pairs if pairs is not None else values if is_list else keys_of(values):
            left = env[METER] - cost
            env[METER] = left
            if left < 0:
                raise CelCostError("operation cancelled: actual cost limit exceeded", self.position)
            if pairs is not None:
                first, env[slot + 1] = first
            env[slot] = first
            yield first

    def chosen(self, env: Env) -> Iterator[Value]:
        """The rounds whose predicate holds."""
        predicate = self.predicate
        for first in self.rounds(env):
            if predicate is None or self.true(predicate(env)):
                yield first

    def true(self, value: Value) -> bool:
        if value is True or value is False:
            return bool(value)
        error = no_overload("_?_:_", value)
        error.position = self.position
        raise error


def _quantifier(loop: Loop, stop: bool, operator: str) -> Run:
    body = loop.body

    def run(env: Env) -> Value:
        failed: CelRuntimeError | None = None
        for _ in loop.rounds(env):
            try:
                if boolean(body(env), operator) is stop:
                    return stop
            except CelCostError:
                raise
            except CelRuntimeError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return not stop

    return run


def _exists_one(loop: Loop) -> Run:
    return lambda env: sum(loop.true(loop.body(env)) for _ in loop.rounds(env)) == 1


def _map(loop: Loop) -> Run:
    return lambda env: tuple([loop.body(env) for _ in loop.chosen(env)])


def _filter(loop: Loop) -> Run:
    return lambda env: tuple([first for first in loop.rounds(env) if loop.true(loop.body(env))])


def _transform_map(loop: Loop) -> Run:
    return lambda env: {map_key(first): loop.body(env) for first in loop.chosen(env)}


def _transform_map_entry(loop: Loop) -> Run:
    def run(env: Env) -> Value:
        found: dict[Value, Value] = {}
        for _ in loop.chosen(env):
            entries = loop.body(env)
            if not isinstance(entries, dict):
                raise no_overload("transformMapEntry", entries)
            charge(env, len(entries))
            for key, value in entries.items():
                if key in found:
                    raise CelRuntimeError(f"insert failed: key {key_value(key)} already exists", loop.position)
                found[key] = value
        return found

    return run


def _sort_by(loop: Loop) -> Run:
    def run(env: Env) -> Value:
        items: list[Value] = []
        keys: list[Value] = []
        for first in loop.rounds(env):
            items.append(first)
            keys.append(loop.body(env))
        charge(env, 2 * len(items))
        return sort_by(tuple(items), tuple(keys))

    return run


FOLDS: dict[str, Callable[[Loop], Run]] = {
    "all": lambda loop: _quantifier(loop, False, "_&&_"),
    "exists": lambda loop: _quantifier(loop, True, "_||_"),
    "exists_one": _exists_one,
    "map": _map,
    "filter": _filter,
    "transformMap": _transform_map,
    "transformMapEntry": _transform_map_entry,
    "sortBy": _sort_by,
}


def optional_map(target: Run, slot: int, body: Run, flat: bool, position: int) -> Run:
    """target.optMap(x, body) and optFlatMap: the body only for a value that is there."""

    def run(env: Env) -> Value:
        value = target(env)
        if type(value) is not Opt:
            error = no_overload("optFlatMap" if flat else "optMap", value)
            error.position = position
            raise error
        if not value.present:
            return NONE
        env[slot] = value.value
        result = body(env)
        if not flat:
            return Opt(result)
        if type(result) is not Opt:
            raise no_overload("optFlatMap", value, result)
        return result

    return run
