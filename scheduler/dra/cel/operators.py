"""The operators and type conversions of core CEL.

Logic (`&&`, `||`, `?:`), equality, `in` and indexing are evaluated by compile; their signatures stand here so that
they are type-checked like every other function.

Source: standard definitions of the CEL language definition; integer overflow and division by zero are errors.
"""

from __future__ import annotations

import operator
import re
from decimal import Decimal
from math import isinf, isnan
from typing import NoReturn

from scheduler.dra.cel.cost import text_cost
from scheduler.dra.cel.overloads import Chapter
from scheduler.dra.cel.values import (
    INT_MAX,
    INT_MIN,
    UINT_MAX,
    CelRuntimeError,
    Duration,
    Timestamp,
    TypeValue,
    UInt,
    Value,
    compare,
    type_name,
)

library = Chapter()


def _special(*_: Value) -> NoReturn:
    raise AssertionError("evaluated by compile")


library("_?_:_(bool, A, A) -> A", "_&&_(bool, bool) -> bool", "_||_(bool, bool) -> bool")(_special)
library("_==_(A, A) -> bool", "_!=_(A, A) -> bool")(_special)
library("@in(A, list<A>) -> bool", "@in(A, map<A, B>) -> bool")(_special)
library(
    "_[_](list<A>, int) -> A",
    "_[_](map<A, B>, A) -> B",
    "_[_](optional<list<A>>, int) -> optional<A>",
    "_[_](optional<map<A, B>>, A) -> optional<B>",
    "_[?_](list<A>, int) -> optional<A>",
    "_[?_](map<A, B>, A) -> optional<B>",
    "_[?_](optional<list<A>>, int) -> optional<A>",
    "_[?_](optional<map<A, B>>, A) -> optional<B>",
)(_special)


def _int(value: int) -> int:
    if INT_MIN <= value <= INT_MAX:
        return value
    raise CelRuntimeError("integer overflow")


def _uint(value: int) -> UInt:
    if 0 <= value <= UINT_MAX:
        return UInt(value)
    raise CelRuntimeError("unsigned integer overflow")


library("!_(bool) -> bool")(operator.not_)
library("-_(double) -> double")(operator.neg)
library("-_(int) -> int")(lambda a: _int(-a))

library("_+_(double, double) -> double")(operator.add)
library("_+_(int, int) -> int")(lambda a, b: _int(a + b))
library("_+_(uint, uint) -> uint")(lambda a, b: _uint(int(a) + int(b)))
library("_+_(string, string) -> string", "_+_(bytes, bytes) -> bytes", cost=text_cost)(operator.add)
library("_+_(list<A>, list<A>) -> list<A>", cost=lambda a, b: 1 + (len(a) + len(b)) // 10)(operator.add)
library("_-_(double, double) -> double")(operator.sub)
library("_-_(int, int) -> int")(lambda a, b: _int(a - b))
library("_-_(uint, uint) -> uint")(lambda a, b: _uint(int(a) - int(b)))
library("_*_(double, double) -> double")(operator.mul)
library("_*_(int, int) -> int")(lambda a, b: _int(a * b))
library("_*_(uint, uint) -> uint")(lambda a, b: _uint(int(a) * int(b)))


@library("_/_(double, double) -> double")
def _divide_doubles(a: float, b: float) -> float:
    if b:
        return a / b
    if not a or isnan(a):
        return float("nan")
    return float("inf") if (a > 0) == (str(b)[0] != "-") else float("-inf")


@library("_/_(int, int) -> int")
def _divide(a: int, b: int) -> int:
    if not b:
        raise CelRuntimeError("division by zero")
    quotient = abs(a) // abs(b)
    return _int(quotient if (a < 0) == (b < 0) else -quotient)


@library("_%_(int, int) -> int")
def _modulo(a: int, b: int) -> int:
    if not b:
        raise CelRuntimeError("modulus by zero")
    if a == INT_MIN and b == -1:
        raise CelRuntimeError("integer overflow")  # as cel-go, though the rest is 0: its quotient has no place
    rest = abs(a) % abs(b)
    return -rest if a < 0 else rest


library("_/_(uint, uint) -> uint")(lambda a, b: UInt(_divide(a, b)) if b else _divide(a, b))
library("_%_(uint, uint) -> uint")(lambda a, b: UInt(_modulo(a, b)))

_COMPARABLE = ("bool", "string", "bytes", "duration", "timestamp", "int", "uint", "double")
_NUMERIC = ("int", "uint", "double")


def _relation(name: str, plain: object, by_order: object) -> None:
    """Registers one of < <= > >= for every pair of types that has an order."""
    for t in _COMPARABLE:
        costs = text_cost if t in ("string", "bytes") else None
        run = by_order if t == "double" else plain
        library(f"{name}({t}, {t}) -> bool", cost=costs)(run)  # type: ignore[type-var]
    for a in _NUMERIC:
        for b in _NUMERIC:
            if a != b:
                library(f"{name}({a}, {b}) -> bool")(by_order)  # type: ignore[type-var]


_relation("_<_", operator.lt, lambda a, b: compare(a, b, "_<_") < 0)
_relation("_<=_", operator.le, lambda a, b: compare(a, b, "_<=_") <= 0)
_relation("_>_", operator.gt, lambda a, b: compare(a, b, "_>_") > 0)
_relation("_>=_", operator.ge, lambda a, b: compare(a, b, "_>=_") >= 0)

for _t in ("string", "bytes", "list<A>", "map<A, B>"):
    library(f"size({_t}) -> int", f"{_t}.size() -> int")(len)


# --- conversions


def _cannot(value: Value, wanted: str) -> CelRuntimeError:
    return CelRuntimeError(f"type conversion error from '{type_name(value)}' to '{wanted}'")


def _itself(value: Value) -> Value:
    return value


library("dyn(A) -> dyn")(_itself)
library("type(A) -> type<A>")(lambda value: TypeValue(type_name(value)))
library("bool(bool) -> bool", "bytes(bytes) -> bytes", "double(double) -> double", "int(int) -> int")(_itself)
library("uint(uint) -> uint", "string(string) -> string")(_itself)
library("duration(duration) -> duration", "timestamp(timestamp) -> timestamp")(_itself)

_TRUE, _FALSE = (
    frozenset({"1", "t", "T", "TRUE", "true", "True"}),
    frozenset({"0", "f", "F", "FALSE", "false", "False"}),
)


@library("bool(string) -> bool")
def _to_bool(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise _cannot(text, "bool")


library("bytes(string) -> bytes", cost=text_cost)(lambda text: text.encode("utf-8", "surrogatepass"))

_INTEGER = re.compile(r"[+-]?[0-9]{1,64}", re.ASCII)
_DIGITS = "[0-9]+(?:_[0-9]+)*"
_DOUBLE = re.compile(
    rf"[+-]?(?:(?:{_DIGITS}\.?(?:{_DIGITS})?|\.{_DIGITS})(?:[eE][+-]?{_DIGITS})?|inf(?:inity)?|nan)",
    re.ASCII | re.IGNORECASE,
)


@library("double(string) -> double", cost=text_cost)
def _to_double(text: str) -> float:
    if len(text) > 512 or not _DOUBLE.fullmatch(text):
        raise _cannot(text, "double")
    number = float(text)
    if isinf(number) and "inf" not in text.lower():
        raise _cannot(text, "double")
    return number


library("double(int) -> double", "double(uint) -> double")(float)


def _whole(number: float, low: int, high: int) -> int:
    """A double without its fraction; like cel-go it refuses the limits themselves, which a double cannot hold."""
    if isnan(number) or isinf(number) or not low < number < high:
        raise CelRuntimeError("integer overflow")
    return int(number)


library("int(double) -> int")(lambda d: _whole(d, INT_MIN, INT_MAX))
library("int(uint) -> int")(lambda u: _int(int(u)))
library("uint(int) -> uint")(_uint)
library("uint(double) -> uint")(lambda d: UInt(_whole(d, -1, UINT_MAX)) if d >= 0 else _uint(-1))


@library("int(string) -> int", cost=text_cost)
def _to_int(text: str) -> int:
    if not _INTEGER.fullmatch(text) or not INT_MIN <= int(text) <= INT_MAX:
        raise _cannot(text, "int")
    return int(text)


@library("uint(string) -> uint", cost=text_cost)
def _to_uint(text: str) -> UInt:
    if not _INTEGER.fullmatch(text) or text[0] in "+-" or int(text) > UINT_MAX:
        raise _cannot(text, "uint")
    return UInt(int(text))


library("int(duration) -> int")(lambda d: d.nanos)
library("int(timestamp) -> int")(lambda t: t.nanos // 1_000_000_000)
library("string(bool) -> string")(lambda b: "true" if b else "false")
library("string(int) -> string", "string(uint) -> string")(lambda i: str(int(i)))


@library("string(bytes) -> string", cost=text_cost)
def _bytes_to_string(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise CelRuntimeError("invalid UTF-8 in bytes, cannot convert to string") from None


@library("string(double) -> string")
def double_to_string(number: float) -> str:
    """The shortest decimal that reads back as this double; from 1e6 and below 1e-4 with an exponent."""
    if isnan(number):
        return "NaN"
    if isinf(number):
        return "+Inf" if number > 0 else "-Inf"
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    assert isinstance(exponent, int)
    point = len(digits) + exponent - 1
    text = "".join(map(str, digits))
    minus = "-" if sign else ""
    if number and not -4 <= point < 6:
        return f"{minus}{text[0]}{'.' if len(text) > 1 else ''}{text[1:]}e{point:+03d}"
    return plain_decimal(number)


def plain_decimal(number: float) -> str:
    """The shortest decimal that reads back as this double, never with an exponent."""
    text = format(Decimal(repr(number)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


# --- arithmetic of time


def _duration(nanos: int) -> Duration:
    if INT_MIN <= nanos <= INT_MAX:
        return Duration(nanos)
    raise CelRuntimeError("duration overflow")


FIRST_SECOND, LAST_SECOND = -62135596800, 253402300799  # of year 1 and of year 9999


def checked_timestamp(nanos: int) -> Timestamp:
    """A Timestamp within the years 1 to 9999; CelRuntimeError outside."""
    if FIRST_SECOND <= nanos // 1_000_000_000 <= LAST_SECOND:
        return Timestamp(nanos)
    raise CelRuntimeError("timestamp overflow")


library("timestamp(int) -> timestamp")(lambda seconds: checked_timestamp(seconds * 1_000_000_000))
library("_+_(duration, duration) -> duration")(lambda a, b: _duration(a.nanos + b.nanos))
library("_-_(duration, duration) -> duration", "_-_(timestamp, timestamp) -> duration")(
    lambda a, b: _duration(a.nanos - b.nanos)
)
library("_+_(timestamp, duration) -> timestamp", "_+_(duration, timestamp) -> timestamp")(
    lambda a, b: checked_timestamp(a.nanos + b.nanos)
)
library("_-_(timestamp, duration) -> timestamp")(lambda a, b: checked_timestamp(a.nanos - b.nanos))
