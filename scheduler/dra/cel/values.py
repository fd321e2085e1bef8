"""The values CEL expressions compute with: errors, runtime types, equality, order.

CEL value          here
bool, string, bytes, double, null   bool, str, bytes, float, None
int, uint          int, UInt (ranges are kept by the operators, not by the types)
list, map          tuple, dict (boolean keys wrapped, see `map_key`)
optional           Opt
duration, timestamp   Duration, Timestamp (nanoseconds)
type               TypeValue
everything that Kubernetes adds     subclasses of Opaque

Source: the CEL language definition (cel-spec) and cel-go's run-time behaviour where the definition leaves a choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

Value: TypeAlias = Any

INT_MIN, INT_MAX = -(1 << 63), (1 << 63) - 1
UINT_MAX = (1 << 64) - 1

NO_SUCH_KEY = "no such key"
"""How the error begins that tells of an attribute, a field or a key that is not there."""


class CelError(Exception):
    """An expression cannot be used or could not decide. `position` is the 1-based column in it, if known."""

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message, position)
        self.message = message
        self.position = position

    def __str__(self) -> str:
        return self.message if self.position is None else f"column {self.position}: {self.message}"


class CelCompileError(CelError):
    """The expression is not valid: syntax, an unknown name, or types that cannot fit."""


class CelRuntimeError(CelError):
    """The expression has no value for this device; in DRA that fails the allocation, it is not "no match"."""


class CelCostError(CelRuntimeError):
    """The evaluation used up its step budget. Unlike other run-time errors `||` and `&&` never absorb it."""


def no_overload(function: str, *arguments: Value) -> CelRuntimeError:
    """The error for a function or operator applied to values of types it does not take."""
    return CelRuntimeError(f"no such overload: {function}({', '.join(type_name(a) for a in arguments)})")


class UInt(int):
    """An unsigned 64-bit integer; equal to and ordered with int and double by value."""

    __slots__ = ()


class Opaque:
    """A value with no structure that CEL sees: only its own functions and equality apply to it."""

    __slots__ = ()
    type_name: ClassVar[str] = "opaque"
    strict_equality: ClassVar[bool] = True  # == with another type is an error, not false


@dataclass(frozen=True, slots=True, order=True)
class Duration:
    """A signed span of time in nanoseconds, within 64 bits."""

    nanos: int


@dataclass(frozen=True, slots=True, order=True)
class Timestamp:
    """A point in time as nanoseconds since 1970-01-01T00:00:00Z, within the years 1 to 9999."""

    nanos: int


@dataclass(frozen=True, slots=True)
class TypeValue:
    """A type as a value: what `type(x)` gives and what `int` or `net.IP` name."""

    name: str


class _Missing:
    __slots__ = ()


MISSING = _Missing()


@dataclass(frozen=True, slots=True)
class Opt:
    """optional_type(T): a value or its absence."""

    value: Value = MISSING

    @property
    def present(self) -> bool:
        return self.value is not MISSING


NONE = Opt()

NUMBERS = frozenset({int, UInt, float})
_SCALARS = frozenset({str, bool, int, UInt, float, bytes, type(None), Duration, Timestamp, TypeValue})
_TYPE_NAMES: dict[type, str] = {
    bool: "bool",
    int: "int",
    UInt: "uint",
    float: "double",
    str: "string",
    bytes: "bytes",
    type(None): "null_type",
    tuple: "list",
    dict: "map",
    Opt: "optional_type",
    Duration: "google.protobuf.Duration",
    Timestamp: "google.protobuf.Timestamp",
    TypeValue: "type",
}
_ITERATION_NAMES = {"bool": "Bool", "int": "Int", "uint": "Uint", "double": "Double", "string": "String"}


def class_name(kind: type) -> str:
    """The CEL name of the type whose values are of this Python class."""
    name = _TYPE_NAMES.get(kind)
    if name is not None:
        return name
    return "map" if issubclass(kind, dict) else str(getattr(kind, "type_name", kind.__name__))


def type_name(value: Value) -> str:
    """The CEL name of a value's type, as `type(x)` and error texts give it."""
    return class_name(type(value))


def not_iterable(value: Value) -> CelRuntimeError:
    """The error of a macro applied to something that is neither list nor map."""
    name = type_name(value)
    return CelRuntimeError(f"got 'types.{_ITERATION_NAMES.get(name, name)}', expected iterable type")


def equal(a: Value, b: Value) -> bool:
    """CEL's `==`: numbers by value whatever their type, other types only with their own kind.

    Quantity, Semver and the like raise when the other side is of another type: `version == "1.0.0"` is an error.
    """
    kind = type(a)
    if kind is type(b) and kind in _SCALARS:
        return bool(a == b)
    if kind in NUMBERS:
        return type(b) in NUMBERS and _number_order(a, b) == 0
    if kind is tuple:
        return type(b) is tuple and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        if not isinstance(b, dict) or len(a) != len(b):
            return False
        return all(key in b and equal(value, b[key]) for key, value in a.items())
    if kind is Opt:
        if type(b) is not Opt or a.present != b.present:
            return False
        return not a.present or equal(a.value, b.value)
    if isinstance(a, Opaque) and a.strict_equality and kind is not type(b):
        raise no_overload("_==_", a, b)
    return kind is type(b) and bool(a == b)


def same(a: Value, b: Value) -> bool:
    """`equal`, with an error taken as "different": how `in`, `indexOf` and `includes` look through lists."""
    try:
        return equal(a, b)
    except CelRuntimeError:
        return False


def _number_order(a: float, b: float) -> int | None:
    """-1, 0 or 1; None when either is not a number. A double meets an integer as a double, as in cel-go."""
    if type(a) is float:
        if type(b) is not float:
            return _double_with_integer(a, b)
    elif type(b) is float:
        order = _double_with_integer(b, a)
        return None if order is None else -order
    if a != a or b != b:
        return None
    return (a > b) - (a < b)


def _double_with_integer(d: float, i: float) -> int | None:
    if d != d:
        return None
    low, high = (0, UINT_MAX) if type(i) is UInt else (INT_MIN, INT_MAX)
    if d < low:
        return -1
    if d > high:
        return 1
    other = float(i)
    return (d > other) - (d < other)


_ORDERED = frozenset({str, bytes, bool, Duration, Timestamp})


def compare(a: Value, b: Value, operator: str = "_<_") -> int:
    """-1, 0 or 1 for values that have an order; numbers across types, everything else only with its own type."""
    kind = type(a)
    if kind in NUMBERS and type(b) in NUMBERS:
        order = _number_order(a, b)
        if order is None:
            raise CelRuntimeError("NaN values cannot be ordered")
        return order
    if kind is type(b) and kind in _ORDERED:
        return int(a > b) - int(a < b)
    raise no_overload(operator, a, b)


# Python takes True and 1 for one dictionary key, CEL does not.
_BOOL_KEYS = {True: ("bool", True), False: ("bool", False)}


def map_key(value: Value) -> Value:
    """The form in which a value is a key of a map. Keys are bool, int, uint or string; a double finds an equal int."""
    kind = type(value)
    if kind is bool:
        return _BOOL_KEYS[value]
    if kind is str or kind in NUMBERS:
        return value
    raise CelRuntimeError(f"unsupported key type: {type_name(value)}")


def key_value(key: Value) -> Value:
    """The inverse of `map_key`, for iterating over a map."""
    return key[1] if type(key) is tuple else key


def keys_of(value: dict[Value, Value]) -> Iterator[Value]:
    """The keys of a map as CEL values."""
    return map(key_value, value)


def boolean(value: Value, operator: str) -> bool:
    """The value itself if it is a bool; otherwise the error that a logical operator gives."""
    if value is True or value is False:
        return bool(value)
    raise no_overload(operator, value)


def is_zero(value: Value) -> bool:
    """Whether a value is the empty or zero value of its type (optional.ofNonZeroValue leaves it out)."""
    if value is None or isinstance(value, Opt):
        return value is None or not value.present
    if isinstance(value, (str, bytes, tuple, dict, bool, int, float)):
        return not value
    if isinstance(value, Duration):
        return value.nanos == 0
    return False
