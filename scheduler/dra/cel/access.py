"""Reading fields, elements and keys: `a.b`, `a[b]`, `a.?b`, `a[?b]`, `has(a.b)`, `b in a`.

Source: the CEL language definition; for missing domains of a device the DRA environment (see device).
"""

from __future__ import annotations

from collections.abc import Callable

from scheduler.dra.cel.cost import DEVICE, Env, charge, weight
from scheduler.dra.cel.device import DEVICE_FIELDS, CelDevice
from scheduler.dra.cel.values import (
    MISSING,
    NO_SUCH_KEY,
    NONE,
    NUMBERS,
    CelRuntimeError,
    Opt,
    UInt,
    Value,
    map_key,
    no_overload,
    same,
    type_name,
)

Run = Callable[[Env], Value]


def find(operand: Value, key: Value) -> Value:
    """The element, or MISSING where there is none; CelRuntimeError for a key that cannot be one."""
    if isinstance(operand, dict):
        try:
            return operand[map_key(key)]
        except KeyError:
            return MISSING
    if type(operand) is tuple:
        index = _list_index(key)
        return operand[index] if 0 <= index < len(operand) else MISSING
    if type(operand) is Opt:
        return find(operand.value, key) if operand.present else MISSING
    if type(operand) is CelDevice and isinstance(key, str) and key in DEVICE_FIELDS:
        return DEVICE_FIELDS[key](operand)
    return MISSING


def _list_index(key: Value) -> int:
    kind = type(key)
    if kind is int or kind is UInt or (kind is float and key.is_integer()):
        return int(key)
    raise CelRuntimeError(f"unsupported index type '{type_name(key)}' in list")


def fetch(operand: Value, key: Value) -> Value:
    """The element; CelRuntimeError where there is none. An element of an optional is optional."""
    value = find(operand, key)
    if type(operand) is Opt:
        return Opt(value)
    if value is MISSING:
        if type(operand) is tuple:
            raise CelRuntimeError(f"index out of bounds: {key}")
        raise CelRuntimeError(f"{NO_SUCH_KEY}: {key}")
    return value


def located(run: Run, position: int) -> Run:
    """The same, with the position added to errors that have none yet."""

    def at(env: Env) -> Value:
        try:
            return run(env)
        except CelRuntimeError as error:
            if error.position is None:
                error.position = position
            raise

    return at


def select(operand: Run, field: str, position: int) -> Run:
    """operand.field"""

    def run(env: Env) -> Value:
        value = operand(env)
        try:
            return value[field]
        except KeyError:
            raise CelRuntimeError(f"{NO_SUCH_KEY}: {field}", position) from None
        except TypeError:  # not a map
            pass
        try:
            return fetch(value, field)
        except CelRuntimeError as error:
            error.position = position
            raise

    return run


def device_entry(part: str, domain: str, field: str, position: int) -> Run:
    """device.attributes["domain"].field in one step: what nearly every selector consists of."""
    if part == "attributes":

        def attribute(env: Env) -> Value:
            try:
                return env[DEVICE].attributes[domain][field]
            except KeyError:
                raise CelRuntimeError(f"{NO_SUCH_KEY}: {field}", position) from None

        return attribute

    def capacity(env: Env) -> Value:
        try:
            return env[DEVICE].capacity[domain][field]
        except KeyError:
            raise CelRuntimeError(f"{NO_SUCH_KEY}: {field}", position) from None

    return capacity


def index(operand: Run, key: Run, position: int) -> Run:
    """operand[key]"""
    return located(lambda env: fetch(operand(env), key(env)), position)


def optional(operand: Run, key: Run, position: int) -> Run:
    """operand[?key] and operand.?key"""

    def run(env: Env) -> Value:
        value = find(operand(env), key(env))
        return NONE if value is MISSING else Opt(value)

    return located(run, position)


def has(operand: Run, field: str, position: int) -> Run:
    """has(operand.field)"""
    return located(lambda env: find(operand(env), field) is not MISSING, position)


def contains(item: Run, container: Run, position: int) -> Run:
    """item in container"""

    def run(env: Env) -> Value:
        wanted, values = item(env), container(env)
        if type(values) is tuple:
            charge(env, weight(values))
            return any(same(wanted, value) for value in values)
        if isinstance(values, dict):
            return map_key(wanted) in values
        raise no_overload("@in", wanted, values)

    return located(run, position)


def contains_constant(item: Run, values: tuple[Value, ...]) -> Run | None:
    """item in ["a", "b", ...] by one look-up, where all constants are texts or all are integers; None otherwise."""
    kinds = frozenset(map(type, values))
    if kinds != {str} and kinds != {int}:
        return None
    known, fitting = frozenset(values), frozenset({str}) if kinds == {str} else NUMBERS

    def run(env: Env) -> Value:
        wanted = item(env)
        return type(wanted) in fitting and wanted in known

    return run
