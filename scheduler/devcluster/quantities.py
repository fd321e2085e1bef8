"""Kubernetes quantities: reading them, and the canonical form in which the API gives them back.

Written apart from the scheduler's own reading on purpose: one must not be able to hide a mistake of the other.
Source: k8s.io/apimachinery resource.Quantity.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

_FORM = re.compile(
    r"^(?P<sign>[+-]?)(?P<number>\d+(\.\d*)?|\.\d+)(?P<suffix>[KMGTPE]i|[numkMGTPE]?|[eE][+-]?\d+)$", re.ASCII
)
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_LIMIT = 2**63 - 1


@lru_cache(maxsize=4096)
def parse(text: str) -> Fraction:
    """The exact amount. Raises ValueError for text that is no quantity."""
    found = _FORM.match(text)
    if found is None:
        raise ValueError("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    suffix = found["suffix"]
    if suffix in _BINARY:
        factor = Fraction(2) ** _BINARY[suffix]
    elif suffix in _DECIMAL:
        factor = Fraction(10) ** _DECIMAL[suffix]
    else:
        factor = Fraction(10) ** max(-18, min(18, int(suffix[1:])))
    amount = Fraction(found["number"]) * factor
    return -amount if found["sign"] == "-" else amount


def _rounded_up(amount: Fraction) -> Fraction:
    nanos = -((-abs(amount) * 10**9) // 1)
    bounded = min(Fraction(nanos, 10**9), Fraction(_LIMIT))
    return -bounded if amount < 0 else bounded


@lru_cache(maxsize=4096)
def canonical(text: str) -> str:
    """The quantity as the API server writes it: "0.5" is "500m", "1024Mi" is "1Gi". Raises ValueError."""
    amount = _rounded_up(parse(text))
    if amount == 0:
        return "0"
    found = _FORM.match(text)
    assert found is not None
    suffix = found["suffix"]
    if suffix in _BINARY and abs(amount) >= 1024 and amount.denominator == 1:
        whole, unit = int(amount), ""
        for name in _BINARY:
            if whole % 1024:
                break
            whole, unit = whole // 1024, name
        return f"{whole}{unit}"
    exponent = -9
    scaled = int(amount * 10**9)
    while scaled % 1000 == 0 and exponent < 18:
        scaled //= 1000
        exponent += 3
    if suffix[:1] in ("e", "E") and suffix not in _DECIMAL:
        return f"{scaled}e{exponent}" if exponent else str(scaled)
    return f"{scaled}" + next(name for name, power in _DECIMAL.items() if power == exponent)


def tidied(value: object) -> object:
    """The canonical form of a quantity; numbers become strings; what is no quantity is left for validation."""
    if isinstance(value, str):
        try:
            return canonical(value)
        except ValueError:
            return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return canonical(str(value)) if value == value and abs(value) < 2**63 else value
    return value


def tidied_amounts(amounts: dict[str, object]) -> dict[str, object]:
    """A map of quantities in canonical form; the map itself when it already is."""
    tidy = {name: tidied(value) for name, value in amounts.items()}
    return amounts if tidy == amounts else tidy


def is_quantity(value: object) -> bool:
    """True for text the API reads as a quantity."""
    if not isinstance(value, str):
        return False
    try:
        parse(value)
    except ValueError:
        return False
    return True


FORM_TEXT = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
