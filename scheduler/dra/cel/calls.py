"""Calls at run time: closures that evaluate arguments, find the overload, keep the budget and place errors.

Source: the CEL language definition; `||` and `&&` let a side that decides win over an error of the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.dra.cel.access import Run, located
from scheduler.dra.cel.cost import Env, charge, weight
from scheduler.dra.cel.overloads import Dispatch, Overload
from scheduler.dra.cel.strings import compile_regex, regex_cost, utf8
from scheduler.dra.cel.values import CelCostError, CelRuntimeError, Opt, Value, equal, no_overload


def direct(overload: Overload, args: Sequence[Run], position: int) -> Run:
    """A call whose overload is known from the static types of its arguments."""
    function, cost = overload.run, overload.cost
    if cost is None and len(args) == 1:
        (one,) = args
        return located(lambda env: function(one(env)), position)
    if cost is None and len(args) == 2:
        first, second = args
        return located(lambda env: function(first(env), second(env)), position)

    def run(env: Env) -> Value:
        values = [arg(env) for arg in args]
        if cost is not None:
            charge(env, cost(*values))
        return function(*values)

    return located(run, position)


def dispatched(dispatch: Dispatch, args: Sequence[Run], position: int) -> Run:
    """A call whose overload depends on the actual arguments."""
    known, find = dispatch.known, dispatch.find
    if len(args) == 2:
        first, second = args

        def run_two(env: Env) -> Value:
            a, b = first(env), second(env)
            kinds = (type(a), type(b))
            try:
                overload = known.get(kinds) or find(kinds)
                if overload.cost is not None:
                    charge(env, overload.cost(a, b))
                return overload.run(a, b)
            except CelRuntimeError as error:
                if error.position is None:
                    error.position = position
                raise

        return run_two

    def run(env: Env) -> Value:
        values = [arg(env) for arg in args]
        kinds = tuple(map(type, values))
        overload = known.get(kinds) or find(kinds)
        if overload.cost is not None:
            charge(env, overload.cost(*values))
        return overload.run(*values)

    return located(run, position)


def logic(operator: str, terms: Sequence[Run], position: int) -> Run:
    """A chain of && or ||: the first term that decides wins; only if none does, the first error counts."""
    stop = operator == "||"
    name = f"_{operator}_"

    def run(env: Env) -> Value:
        failed: CelRuntimeError | None = None
        for term in terms:
            try:
                value = term(env)
            except CelCostError:
                raise
            except CelRuntimeError as error:
                failed = failed or error
                continue
            if value is stop:
                return stop
            if value is not True and value is not False:
                failed = failed or _at(no_overload(name, value), position)
        if failed is not None:
            raise failed
        return not stop

    return run


def _at(error: CelRuntimeError, position: int) -> CelRuntimeError:
    error.position = position
    return error


def conditional(condition: Run, then: Run, otherwise: Run, position: int) -> Run:
    """condition ? then : otherwise"""

    def run(env: Env) -> Value:
        value = condition(env)
        if value is True:
            return then(env)
        if value is False:
            return otherwise(env)
        raise _at(no_overload("_?_:_", value), position)

    return run


def equality(left: Run, right: Run, negate: bool, position: int) -> Run:
    """left == right, or != with `negate`."""

    def run(env: Env) -> Value:
        a, b = left(env), right(env)
        kind = type(a)
        if kind is str:
            if len(a) > 100:
                charge(env, len(a) // 10)
            return (type(b) is str and a == b) is not negate
        if kind is tuple or kind is bytes or kind is Opt or isinstance(a, dict):
            charge(env, weight(a))
        return equal(a, b) is not negate

    return located(run, position)


def equality_with_text(left: Run, text: str, negate: bool, position: int) -> Run:
    """left == "constant": the commonest comparison."""

    def run(env: Env) -> Value:
        value = left(env)
        if type(value) is str:
            return (value == text) is not negate
        try:
            return equal(value, text) is not negate
        except CelRuntimeError as error:
            raise _at(error, position) from None

    return run


def matches_pattern(text: Run, pattern: str, position: int) -> Run:
    """text.matches("constant pattern")"""
    search = compile_regex(pattern).search

    def run(env: Env) -> Value:
        value = text(env)
        if type(value) is not str:
            raise _at(no_overload("matches", value, pattern), position)
        charge(env, regex_cost(value, pattern))
        return search(utf8(value)) is not None

    return located(run, position)


def or_value(optional: Run, other: Run, function: str, position: int) -> Run:
    """optional.orValue(x) and optional.or(x): x is evaluated only if there is no value."""
    unwrap = function == "orValue"

    def run(env: Env) -> Value:
        value = optional(env)
        if type(value) is not Opt:
            raise _at(no_overload(function, value), position)
        if value.present:
            return value.value if unwrap else value
        result = other(env)
        if not unwrap and type(result) is not Opt:
            raise _at(no_overload(function, value, result), position)
        return result

    return run
