"""Reading fields of documents that have no type of their own: each failure says object, field, cause and cure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from scheduler.api import quantity
from scheduler.model.reasons import Unreadable

Values = Mapping[str, Any]
MISSING: Values = {}

_DURATION = re.compile(r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:ns|us|µs|ms|s|m|h|d|w))+|0")
_DURATION_PART = re.compile(r"([0-9.]+)(ns|us|µs|ms|s|m|h|d|w)")
_MILLISECONDS = {
    "ns": 1e-6,
    "us": 1e-3,
    "µs": 1e-3,
    "ms": 1.0,
    "s": 1e3,
    "m": 6e4,
    "h": 3.6e6,
    "d": 8.64e7,
    "w": 6.048e8,
}
# A hundred years: more is a slip of the pen, and would overflow what is computed with it.
_LONGEST_MS = 100 * 366 * 86_400_000
_TIME = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})[Tt ](\d{2}):(\d{2}):(\d{2})(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d{2}):(\d{2}))?"
)


class Bad(Exception):
    """A field that cannot be understood, on its way to whoever sets the object aside."""

    def __init__(self, reason: Unreadable) -> None:
        super().__init__(reason.message)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """A mapping of a document, with the object it belongs to and the path to it. Absent and null are the same."""

    object: str
    path: str
    values: Values

    def bad(self, name: str, problem: str, remedy: str) -> Bad:
        return Bad(Unreadable(object=self.object, field=self.at(name), problem=problem, remedy=remedy))

    def at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None

    def text(self, name: str) -> str:
        """A string; "" if absent."""
        value = self.values.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.bad(name, f"{_short(value)} is no text", f"Write a string in {self.at(name)}.")
        return value

    def flag(self, name: str) -> bool:
        """True or false; false if absent."""
        value = self.values.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.bad(
                name, f"{_short(value)} is neither true nor false", f"Write true or false in {self.at(name)}."
            )
        return value

    def whole(self, name: str, *, least: int = 0, most: int = 2**31 - 1) -> int | None:
        """A whole number; None if absent."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.bad(
                name,
                f"{_short(value)} is no whole number from {least} to {most}",
                f"Write such a number in {self.at(name)}.",
            )
        return value

    def number(self, name: str) -> float | None:
        """A number, fractions allowed; None if absent."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 2**53:
            raise self.bad(name, f"{_short(value)} is no number", f"Write a number in {self.at(name)}.")
        return float(value)

    def quantity(self, name: str, resource: str) -> int | None:
        """A Kubernetes quantity in the house unit of `resource`, not negative; None if absent."""
        value = self.values.get(name)
        if value is None:
            return None
        try:
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise quantity.QuantityError(f"{_short(value)} is not a quantity")
            read = in_house_units(resource, value)
        except quantity.QuantityError as error:
            raise self.bad(name, str(error), f"Write a quantity such as 2, 500m or 16Gi in {self.at(name)}.") from None
        if read < 0:
            raise self.bad(name, f"{value} is negative", f"Write a quantity of at least 0 in {self.at(name)}.")
        return read

    def duration_ms(self, name: str) -> int | None:
        """A duration such as 90s or 1h30m, in milliseconds, possibly negative; None if absent."""
        text = self.text(name)
        if not text:
            return None
        read = duration_ms(text)
        if read is None:
            raise self.bad(
                name, f"{_short(text)} is no duration", f"Write one such as 90s or 1h30m in {self.at(name)}."
            )
        return read

    def mapping(self, name: str) -> "Fields":
        """A mapping; an empty one if absent."""
        value = self.values.get(name)
        if value is None:
            value = MISSING
        if not isinstance(value, Mapping):
            raise self.bad(name, f"{_short(value)} is no mapping", f"Write fields below {self.at(name)}.")
        return Fields(object=self.object, path=self.at(name), values=value)

    def needed(self, name: str) -> "Fields":
        """A mapping that must be there."""
        if not self.has(name):
            raise self.bad(name, "is missing", f"Write {self.at(name)}.")
        return self.mapping(name)

    def texts(self, name: str) -> Mapping[str, str]:
        """A mapping of strings, such as labels; an empty one if absent."""
        found = self.mapping(name)
        return {each: found.text(each) for each in found.values}

    def items(self, name: str) -> Iterator["Fields"]:
        """The mappings of a list, in its order; none if absent."""
        value = self.values.get(name)
        if value is None:
            return
        if not isinstance(value, list | tuple):
            raise self.bad(name, f"{_short(value)} is no list", f"Write a list in {self.at(name)}.")
        for index, each in enumerate(value):
            if not isinstance(each, Mapping):
                raise self.bad(f"{name}[{index}]", f"{_short(each)} is no mapping", "Write fields in each list entry.")
            yield Fields(object=self.object, path=f"{self.at(name)}[{index}]", values=each)

    def list_of_texts(self, name: str) -> tuple[str, ...]:
        """The strings of a list, in its order; none if absent."""
        value = self.values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
            raise self.bad(name, f"{_short(value)} is no list of strings", f"Write such a list in {self.at(name)}.")
        return tuple(value)


@lru_cache(maxsize=65_536)
def in_house_units(resource: str, value: str | int | float) -> int:
    """A quantity in the house unit of this resource: thousandths for CPU, GPU and devices of a class, else units.

    Raises QuantityError. `gpu` and `deviceclass/...` are resources of queues; `nvidia.com/gpu` is a plain count."""
    if resource in ("cpu", "gpu") or resource.startswith("deviceclass/"):
        return quantity.thousandths(value)
    return quantity.units(value)


def duration_ms(text: str) -> int | None:
    """A duration in Go's or Prometheus' notation ("90s", "1h30m", "1w"), in milliseconds; None if it is none."""
    if len(text) > 64 or not _DURATION.fullmatch(text):
        return None
    try:
        total = sum(float(number) * _MILLISECONDS[unit] for number, unit in _DURATION_PART.findall(text))
    except ValueError:
        return None
    whole = round(total)
    if whole > _LONGEST_MS:
        return None
    return -whole if text.startswith("-") else whole


@lru_cache(maxsize=65_536)
def time_ms(text: str | None) -> int:
    """An RFC 3339 time as milliseconds since 1970; 0 if absent or no such time (manifests have none)."""
    match = _TIME.fullmatch(text) if text and len(text) <= 64 else None
    if match is None:
        return 0
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 61):
        return 0
    total = ((_days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second
    if match[8]:
        offset = (int(match[9]) * 60 + int(match[10])) * 60
        total -= offset if match[8] == "+" else -offset
    return total * 1000 + int((match[7] or "0").ljust(3, "0")[:3])


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the Gregorian calendar, counted in years that begin in March."""
    year -= month <= 2
    since_march = (month + 9) % 12
    leaps = year // 4 - year // 100 + year // 400
    return year * 365 + leaps + (153 * since_march + 2) // 5 + day - 1 - 719_468


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
