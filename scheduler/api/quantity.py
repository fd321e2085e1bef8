"""Kubernetes quantities ("500m", "16Gi", "1e3") as exact numbers, and back.

Source: the serialisation rules of k8s.io/apimachinery/pkg/api/resource (decimal, binary and exponent suffixes).
"""

import re
from fractions import Fraction

# What is counted in whole units fits into 64 bits: a larger amount is refused here rather than wrapped later. As in
# Kubernetes, what is written with a binary suffix ends there, and what is written in decimal may be more.
LARGEST = 2**63 - 1
_BEYOND_ANY_AMOUNT = Fraction(10) ** 100

_PATTERN = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?P<suffix>[KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,3})?"
)
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}


class QuantityError(ValueError):
    """A text that is no quantity, or one larger than what it is for can be."""


def parse(text: str | int | float) -> Fraction:
    """The exact value of a quantity, in units; of one with a binary suffix at most LARGEST. Raises QuantityError naming
    the text."""
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise QuantityError(f"{text!r} is not a quantity; write a number such as 2, 500m or 16Gi")
    match = _PATTERN.fullmatch(str(text)) if len(str(text)) <= 64 else None
    if match is None:
        raise QuantityError(f"{str(text)[:64]!r} is not a quantity; write a number such as 2, 500m or 16Gi")
    suffix = match["suffix"] or ""
    value = Fraction(match["number"])
    if suffix in _BINARY:
        value = max(-LARGEST, min(value * 1024 ** _BINARY[suffix], LARGEST))
    elif suffix in _DECIMAL:
        value *= Fraction(10) ** _DECIMAL[suffix]
    else:
        value *= Fraction(10) ** int(suffix[1:])
    if abs(value) > _BEYOND_ANY_AMOUNT:
        raise QuantityError(f"{text!r} is beyond any amount; write a number such as 2, 500m or 16Gi")
    return value


def units(text: str | int | float) -> int:
    """A quantity in whole units, rounded up (bytes, counts). Raises QuantityError, also for one beyond LARGEST."""
    value = _ceil(parse(text))
    if abs(value) > LARGEST:
        raise QuantityError(f"{text!r} is larger than the largest quantity, {LARGEST}")
    return value


def thousandths(text: str | int | float) -> int:
    """A quantity in thousandths, rounded up (millicores, thousandths of a GPU). Raises QuantityError, as `units`."""
    value = _ceil(parse(text) * 1000)
    if abs(value) > LARGEST:
        raise QuantityError(f"{text!r} is larger than the largest quantity, {LARGEST} thousandths")
    return value


def format_units(amount: int) -> str:
    """Whole units in the shortest exact form: 17179869184 -> "16Gi", 8 -> "8"."""
    if amount and amount % 1024 == 0:
        for suffix, power in reversed(_BINARY.items()):
            if amount % 1024**power == 0:
                return f"{amount // 1024**power}{suffix}"
    return str(amount)


def format_thousandths(amount: int) -> str:
    """Thousandths in the shortest exact form: 8000 -> "8", 500 -> "500m"."""
    return str(amount // 1000) if amount % 1000 == 0 else f"{amount}m"


def _ceil(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)
