"""Durations and timestamps: parsing, printing and their parts.

Calendar arithmetic is done here (days since 1970 in the proleptic Gregorian calendar), since the core keeps away from
clocks. Time zones are UTC and fixed offsets such as "+02:00"; named zones would need a database and are an error.

Source: the CEL language definition; RFC 3339; Go's notation of durations ("1h30m", "250ms").
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from scheduler.dra.cel.cost import text_cost
from scheduler.dra.cel.operators import checked_timestamp, plain_decimal
from scheduler.dra.cel.overloads import Chapter
from scheduler.dra.cel.values import INT_MAX, INT_MIN, CelRuntimeError, Duration, Timestamp

library = Chapter()

SECOND = 1_000_000_000
_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
}
_PART = re.compile(r"([0-9]{1,32}(?:\.[0-9]{0,32})?|\.[0-9]{1,32})(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_RFC3339 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:[.,]([0-9]{1,32}))?"
    r"(?:Z|([+-])([0-9]{2}):([0-9]{2}))",
    re.ASCII,
)
_OFFSET = re.compile(r"([+-]?)([0-9]{1,2}):([0-9]{2})", re.ASCII)


@library("duration(string) -> duration", cost=text_cost)
def parse_duration(text: str) -> Duration:
    """A signed sequence of numbers with units; "0" needs none. Fractions of a nanosecond are cut off."""
    body = text.lstrip("+-") if text[:2] not in ("++", "--", "+-", "-+") else ""
    total, at = Fraction(0), 0
    if body != "0":
        while match := _PART.match(body, at):
            number = match[1].rstrip(".")
            total += int(Fraction(number) * _UNITS[match[2]])
            at = match.end()
        if not body or at != len(body):
            raise CelRuntimeError("type conversion error from 'string' to 'google.protobuf.Duration'")
    nanos = int(total) * (-1 if text.startswith("-") else 1)
    if not INT_MIN <= nanos <= INT_MAX:
        raise CelRuntimeError("type conversion error from 'string' to 'google.protobuf.Duration': out of range")
    return Duration(nanos)


@library("timestamp(string) -> timestamp", cost=text_cost)
def parse_timestamp(text: str) -> Timestamp:
    """RFC 3339 with a zone; CelRuntimeError for a date that does not exist or lies outside the years 1 to 9999."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise CelRuntimeError("type conversion error from 'string' to 'google.protobuf.Timestamp'")
    year, month, day, hour, minute, second = (int(match[i]) for i in range(1, 7))
    offset = (int(match[9] or 0) * 60 + int(match[10] or 0)) * 60 * (-1 if match[8] == "-" else 1)
    fine = 1 <= month <= 12 and 1 <= day <= _month_length(year, month) and hour < 24 and minute < 60 and second < 60
    if not fine or int(match[9] or 0) > 23 or int(match[10] or 0) > 59:
        raise CelRuntimeError("type conversion error from 'string' to 'google.protobuf.Timestamp': no such time")
    seconds = days_from_civil(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - offset
    return checked_timestamp(seconds * SECOND + int((match[7] or "").ljust(9, "0")[:9]))


def _month_length(year: int, month: int) -> int:
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 29 if month == 2 and leap else (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]


def days_from_civil(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01 to this date. Years are counted from March, so that the leap day comes last."""
    year -= month <= 2
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return year * 365 + year // 4 - year // 100 + year // 400 + day_of_year - 719468


def civil_from_days(days: int) -> tuple[int, int, int]:
    """The inverse of `days_from_civil`: year, month, day."""
    days += 719468
    era, day_of_era = divmod(days, 146097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9
    return year_of_era + era * 400 + (month <= 2), month, day


@library("string(timestamp) -> string")
def timestamp_to_string(time: Timestamp) -> str:
    """RFC 3339 in UTC, with as many decimals as needed."""
    seconds, nanos = divmod(time.nanos, SECOND)
    days, rest = divmod(seconds, 86400)
    year, month, day = civil_from_days(days)
    fraction = f".{nanos:09d}".rstrip("0") if nanos else ""
    return f"{year:04d}-{month:02d}-{day:02d}T{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}{fraction}Z"


@library("string(duration) -> string")
def duration_to_string(span: Duration) -> str:
    """Seconds, with as many decimals as a double shows: "90s", "0.25s"."""
    return f"{plain_decimal(span.nanos / SECOND)}s"


def _offset(zone: str) -> int:
    """Seconds east of UTC."""
    if zone in ("UTC", ""):
        return 0
    match = _OFFSET.fullmatch(zone)
    if match is None:
        raise CelRuntimeError(f"unknown time zone {zone}: only UTC and offsets such as +02:00 are supported")
    if int(match[3]) > 59:
        raise CelRuntimeError(f"timezone offset minutes out of range [0, 59]: {zone}")
    return (int(match[2]) * 60 + int(match[3])) * 60 * (-1 if match[1] == "-" else 1)


def _part(name: str, part: Callable[[int, int], int]) -> None:
    """Registers an accessor; `part` gets days since 1970 and nanoseconds of the day, both local."""

    def read(time: Timestamp, zone: str = "UTC") -> int:
        days, nanos = divmod(time.nanos + _offset(zone) * SECOND, 86400 * SECOND)
        return part(days, nanos)

    library(f"timestamp.{name}() -> int", f"timestamp.{name}(string) -> int")(read)


_part("getFullYear", lambda days, _: civil_from_days(days)[0])
_part("getMonth", lambda days, _: civil_from_days(days)[1] - 1)
_part("getDayOfMonth", lambda days, _: civil_from_days(days)[2] - 1)
_part("getDate", lambda days, _: civil_from_days(days)[2])
_part("getDayOfYear", lambda days, _: days - days_from_civil(civil_from_days(days)[0], 1, 1))
_part("getDayOfWeek", lambda days, _: (days + 4) % 7)
_part("getHours", lambda _, nanos: nanos // (3600 * SECOND))
_part("getMinutes", lambda _, nanos: nanos // (60 * SECOND) % 60)
_part("getSeconds", lambda _, nanos: nanos // SECOND % 60)
_part("getMilliseconds", lambda _, nanos: nanos // 10**6 % 1000)


def _span(name: str, unit: int) -> None:
    """Registers the whole of a duration in a unit, cut towards zero."""

    def read(span: Duration) -> int:
        whole = abs(span.nanos) // unit
        return -whole if span.nanos < 0 else whole

    library(f"duration.{name}() -> int")(read)


_span("getHours", 3600 * SECOND)
_span("getMinutes", 60 * SECOND)
_span("getSeconds", SECOND)
_span("getMilliseconds", 10**6)
