"""Quantity and Semver: the values of device capacities and of version attributes, with their functions.

A Quantity is a whole number of billionths, as Kubernetes rounds it ("1.5Gi", "100m", "2e3"); arithmetic is exact. A
Semver orders by semver.org 2.0.0 precedence; build metadata takes no part, not even in equality.

Source: apimachinery's resource.Quantity format; Kubernetes CEL libraries "quantity" and "semver" (version 1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

from scheduler.dra.cel.cost import text_cost
from scheduler.dra.cel.overloads import Chapter
from scheduler.dra.cel.values import INT_MAX, INT_MIN, UINT_MAX, CelRuntimeError, Opaque

library = Chapter()

NANO = 1_000_000_000
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_QUANTITY = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?(?:([numkMGTPE]|[KMGTPE]i|)|[eE]([+-]?[0-9]{1,9}))", re.ASCII)
_MAX_TEXT, _MAX_EXPONENT = 512, 10_000  # beyond any amount; keeps the integers behind a hostile text small


@dataclass(frozen=True, slots=True, order=True)
class Quantity(Opaque):
    """A Kubernetes resource quantity, exact. `nanos` is the amount in billionths.

    `scale`: Kubernetes keeps most amounts as 64 bits and a power of ten; None where it keeps a decimal of any length.
    No amount differs by it, but only one with a scale of at least 0 is an integer there: "2" is, "2000m" is not.
    """

    nanos: int
    scale: int | None = field(default=0, compare=False)
    type_name: ClassVar[str] = "kubernetes.Quantity"

    @classmethod
    @lru_cache(maxsize=4096)
    def parse(cls, text: str) -> Quantity:
        """The quantity a text stands for; fractions of a billionth are rounded away from zero. CelRuntimeError."""
        match = _QUANTITY.fullmatch(text) if len(text) <= _MAX_TEXT else None
        if match is None or not (match[2] or match[3]):
            raise CelRuntimeError(f"quantities must match a number with a known suffix, not {text[:64]!r}")
        sign, whole, fraction, suffix, exponent = match.groups(default="")
        digits = int(whole + fraction)
        binary = _BINARY.get(suffix)
        power = 9 - len(fraction) + (int(exponent) if exponent else _DECIMAL.get(suffix, 0))
        if abs(power) > _MAX_EXPONENT + _MAX_TEXT:
            raise CelRuntimeError(f"quantity {text[:64]!r}: the exponent is out of range")
        digits <<= binary or 0
        nanos = digits * 10**power if power >= 0 else -(-digits // 10**-power)
        if binary is not None:
            nanos = min(nanos, INT_MAX * NANO)
        if sign == "-":
            nanos = -nanos
        if binary is not None:
            precision = 14 - len(whole.lstrip("0") or "0") - binary * 3 // 10
            return cls(nanos, 0 if precision >= 0 and not fraction else None)
        return cls(nanos, _scale(whole, fraction, int(exponent) if exponent else _DECIMAL.get(suffix, 0)))

    @classmethod
    def of(cls, amount: int) -> Quantity:
        """The quantity of a whole amount."""
        return cls(amount * NANO)

    def integer(self) -> int | None:
        """The amount as a whole number of 64 bits; None where it is none, or is not kept as one."""
        if self.scale is None or self.scale < 0:
            return None
        amount = self.nanos // NANO
        return amount if INT_MIN <= amount <= INT_MAX else None

    def plus(self, other: Quantity) -> Quantity:
        total = self.nanos + other.nanos
        if self.scale is None or other.scale is None:
            return Quantity(total, None)
        if not self.nanos or not other.nanos:
            return Quantity(total, other.scale if other.nanos else self.scale)
        scale = min(self.scale, other.scale)
        unit = 10 ** (9 + scale)
        fits = all(INT_MIN <= nanos // unit <= INT_MAX for nanos in (self.nanos, other.nanos, total))
        return Quantity(total, scale if fits else None)

    def minus(self, other: Quantity) -> Quantity:
        return self.plus(Quantity(-other.nanos, other.scale))


def _scale(whole: str, fraction: str, exponent: int) -> int | None:
    """The scale of a decimal amount; the text decides, not the amount."""
    digits = len(whole.lstrip("0") or "0") + len(fraction)
    scale = exponent - len(fraction)
    return scale if digits <= 18 and scale >= -9 else None


library("quantity(string) -> Quantity", cost=text_cost)(Quantity.parse)


@library("isQuantity(string) -> bool", cost=text_cost)
def _is_quantity(text: str) -> bool:
    try:
        Quantity.parse(text)
    except CelRuntimeError:
        return False
    return True


@library("Quantity.asInteger() -> int")
def _as_integer(quantity: Quantity) -> int:
    amount = quantity.integer()
    if amount is None:
        raise CelRuntimeError("cannot convert value to integer")
    return amount


@library("Quantity.asApproximateFloat() -> double")
def _as_float(quantity: Quantity) -> float:
    try:
        return quantity.nanos / NANO
    except OverflowError:
        return float("inf") if quantity.nanos > 0 else float("-inf")


library("Quantity.isInteger() -> bool")(lambda q: q.integer() is not None)
library("sign(Quantity) -> int")(lambda q: (q.nanos > 0) - (q.nanos < 0))
library("Quantity.add(Quantity) -> Quantity")(lambda a, b: a.plus(b))
library("Quantity.add(int) -> Quantity")(lambda a, b: a.plus(Quantity.of(b)))
library("Quantity.sub(Quantity) -> Quantity")(lambda a, b: a.minus(b))
library("Quantity.sub(int) -> Quantity")(lambda a, b: a.minus(Quantity.of(b)))
library("Quantity.isGreaterThan(Quantity) -> bool")(lambda a, b: a.nanos > b.nanos)
library("Quantity.isLessThan(Quantity) -> bool")(lambda a, b: a.nanos < b.nanos)
library("Quantity.compareTo(Quantity) -> int")(lambda a, b: (a.nanos > b.nanos) - (a.nanos < b.nanos))


# --- versions

_PART = r"(0|[1-9][0-9]*)"
_IDENTIFIER = r"(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_SEMVER = re.compile(
    rf"{_PART}\.{_PART}\.{_PART}(?:-({_IDENTIFIER}(?:\.{_IDENTIFIER})*))?(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?",
    re.ASCII,
)
# Numeric identifiers come before the others and compare as numbers; a shorter list before a longer one.
Prerelease = tuple[tuple[int, int, str], ...]
Precedence = tuple[int, int, int, bool, Prerelease]  # major, minor, patch, whether it is a release, pre-release


@dataclass(frozen=True, slots=True, order=True)
class Semver(Opaque):
    """A semantic version. Equality and order are its precedence; `text` is the version as it was written."""

    precedence: Precedence
    text: str = field(compare=False)
    type_name: ClassVar[str] = "kubernetes.Semver"

    @classmethod
    @lru_cache(maxsize=4096)
    def parse(cls, text: str) -> Semver:
        """A version exactly as semver.org 2.0.0 defines it; CelRuntimeError otherwise."""
        match = _SEMVER.fullmatch(text) if len(text) <= _MAX_TEXT else None
        if match is None:
            raise CelRuntimeError(f"{text[:64]!r} is not a semantic version (major.minor.patch)")
        numbers = [int(match[i]) for i in (1, 2, 3)]
        identifiers = match[4].split(".") if match[4] else []
        numeric = [int(i) for i in identifiers if i.isdigit()]
        if any(n > UINT_MAX for n in (*numbers, *numeric)):
            raise CelRuntimeError(f"{text[:64]!r} is not a semantic version: a number is out of range")
        prerelease = tuple((0, int(i), "") if i.isdigit() else (1, 0, i) for i in identifiers)
        return cls((numbers[0], numbers[1], numbers[2], not prerelease, prerelease), text)

    @classmethod
    def normalized(cls, text: str) -> Semver:
        """As `parse`, but "v1.2" is taken as 1.2.0 and "01.02.03" as 1.2.3."""
        parts = text.removeprefix("v").split(".", 2)
        if len(parts) < 3 and ("+" in parts[-1] or "-" in parts[-1]):
            raise CelRuntimeError("short version cannot contain PreRelease/Build meta data")
        return cls.parse(".".join([_without_zeros(part) for part in parts] + ["0"] * (3 - len(parts))))


def _without_zeros(part: str) -> str:
    """A version part without leading zeros, at least one digit kept."""
    rest = part.lstrip("0")
    return part if rest == part else rest if rest[:1].isdigit() else f"0{rest}"


@library("semver(string) -> Semver", "semver(string, bool) -> Semver", cost=lambda text, *_: text_cost(text))
def _semver(text: str, normalize: bool = False) -> Semver:
    return Semver.normalized(text) if normalize else Semver.parse(text)


@library("isSemver(string) -> bool", "isSemver(string, bool) -> bool", cost=lambda text, *_: text_cost(text))
def _is_semver(text: str, normalize: bool = False) -> bool:
    try:
        _semver(text, normalize)
    except CelRuntimeError:
        return False
    return True


library("Semver.major() -> int")(lambda v: v.precedence[0])
library("Semver.minor() -> int")(lambda v: v.precedence[1])
library("Semver.patch() -> int")(lambda v: v.precedence[2])
library("Semver.isGreaterThan(Semver) -> bool")(lambda a, b: a.precedence > b.precedence)
library("Semver.isLessThan(Semver) -> bool")(lambda a, b: a.precedence < b.precedence)
library("Semver.compareTo(Semver) -> int")(lambda a, b: (a.precedence > b.precedence) - (a.precedence < b.precedence))
