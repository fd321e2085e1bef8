"""`"%s has %d".format([a, b])`: the one function of CEL with a language of its own.

Clauses: %s any value, %d integers, %f and %e doubles with an optional precision, %b binary, %o octal, %x and %X
hexadecimal, %% a percent sign. Numbers come out as cel-go prints them for en_US.

Source: cel-go ext/strings documentation of format, version 2.
"""

from __future__ import annotations

import re
from math import isinf, isnan

from scheduler.dra.cel.cost import text_cost, weight
from scheduler.dra.cel.operators import double_to_string
from scheduler.dra.cel.overloads import Chapter
from scheduler.dra.cel.strings import quote
from scheduler.dra.cel.times import duration_to_string, timestamp_to_string
from scheduler.dra.cel.values import CelRuntimeError, Duration, Timestamp, TypeValue, UInt, Value, key_value, type_name

library = Chapter()

_CLAUSE = re.compile(r"%(?:(?P<percent>%)|(?:\.(?P<precision>[0-9]{1,9}))?(?P<verb>[a-zA-Z]))?")
_MAX_PRECISION = 100
_DEFAULT_PRECISION = 6
_SUPERSCRIPT = str.maketrans("+-0123456789", "⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@library("string.format(list<dyn>) -> string", cost=lambda text, args: text_cost(text) + 2 * weight(args))
def format_text(text: str, args: tuple[Value, ...]) -> str:
    """The text with every clause replaced by the next argument."""
    parts: list[str] = []
    at = used = 0
    while (percent := text.find("%", at)) >= 0:
        parts.append(text[at:percent])
        match = _CLAUSE.match(text, percent)
        assert match is not None  # every part behind the percent sign is optional
        at = match.end()
        if match["percent"]:
            parts.append("%")
            continue
        if match["verb"] is None:
            raise CelRuntimeError("could not parse formatting clause: nothing usable follows '%'")
        if used >= len(args):
            raise CelRuntimeError(f"index {used} out of range: format has more clauses than arguments")
        parts.append(_clause(match["verb"], match["precision"], args[used]))
        used += 1
    parts.append(text[at:])
    return "".join(parts)


def _clause(verb: str, precision: str | None, value: Value) -> str:
    if precision is not None and verb not in "fe":
        raise CelRuntimeError(f"could not parse formatting clause: %{verb} takes no precision")
    if verb in "fe":
        digits = _DEFAULT_PRECISION if precision is None else int(precision)
        if digits > _MAX_PRECISION:
            raise CelRuntimeError(f"precision {digits} exceeds the maximum of {_MAX_PRECISION}")
        return _double(verb, digits, value)
    if verb == "s":
        return display(value)
    if verb == "d":
        return _integer("d", value)
    if verb == "b":
        return str(int(value)) if isinstance(value, bool) else _integer("b", value)
    if verb == "o":
        return _integer("o", value)
    if verb in "xX":
        if isinstance(value, (str, bytes)):
            data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
            return data.hex() if verb == "x" else data.hex().upper()
        return _integer(verb, value)
    raise CelRuntimeError(f'could not parse formatting clause: unrecognized formatting clause "{verb}"')


def _integer(verb: str, value: Value) -> str:
    if type(value) in (int, UInt):
        return format(int(value), verb)
    raise CelRuntimeError(f"error during formatting: %{verb} does not take a value of type {type_name(value)}")


def _double(verb: str, digits: int, value: Value) -> str:
    if value in ("NaN", "Infinity", "-Infinity"):
        value = float(value)
    if type(value) is not float:
        raise CelRuntimeError(f"error during formatting: %{verb} takes only doubles, was given {type_name(value)}")
    if isnan(value):
        return "NaN"
    if isinf(value):
        return "∞" if value > 0 else "-∞"
    if verb == "f":
        return f"{value:,.{digits}f}"
    mantissa, _, exponent = f"{value:.{digits}e}".partition("e")
    return f"{mantissa}\u202f×\u202f10{exponent.lstrip('+').translate(_SUPERSCRIPT)}"


def display(value: Value) -> str:
    """A value as %s prints it; what Kubernetes adds (Quantity, Semver, ...) has no such form."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return double_to_string(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if value is None:
        return "null"
    if isinstance(value, Timestamp):
        return timestamp_to_string(value)
    if isinstance(value, Duration):
        return duration_to_string(value)
    if isinstance(value, TypeValue):
        return value.name
    if isinstance(value, tuple):
        return f"[{', '.join(map(_nested, value))}]"
    if isinstance(value, dict):
        pairs = sorted((_nested(key_value(k)), _nested(v)) for k, v in value.items())
        return "{" + ", ".join(f"{k}:{v}" for k, v in pairs) + "}"
    raise CelRuntimeError(f"error during formatting: %s does not take a value of type {type_name(value)}")


def _nested(value: Value) -> str:
    """An element of a list or map: as it would stand in an expression."""
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, bytes):
        return f"b{quote(display(value))}"
    if isinstance(value, float):
        text = f"{value:.{_DEFAULT_PRECISION}f}"
        return text if text[-1].isdigit() else quote(double_to_string(value))
    if isinstance(value, Timestamp):
        return f"timestamp({quote(display(value))})"
    if isinstance(value, Duration):
        return f"duration({quote(display(value))})"
    return display(value)
