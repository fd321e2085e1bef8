"""Named formats: `format.dns1123Label().validate("my-name")` gives none, or the list of what is wrong.

Source: Kubernetes CEL library "format" (1.31); the syntax of names, labels and of OpenAPI's string formats.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from scheduler.dra.cel.cost import text_cost
from scheduler.dra.cel.overloads import Chapter
from scheduler.dra.cel.times import parse_timestamp
from scheduler.dra.cel.url import is_url
from scheduler.dra.cel.values import NONE, CelRuntimeError, Opaque, Opt

library = Chapter()

Check = Callable[[str], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Format(Opaque):
    name: str
    type_name: ClassVar[str] = "kubernetes.NamedFormat"


def _pattern(expression: str, longest: int, what: str, *, prefix: bool = False) -> Check:
    """A check by pattern and length. A prefix of a name may end in a dash."""
    pattern = re.compile(expression, re.ASCII)

    def check(text: str) -> tuple[str, ...]:
        found = []
        if len(text.encode("utf-8", "replace")) > longest:
            found.append(f"is longer than {longest} bytes")
        whole = f"{text[:-1]}a" if prefix and len(text) > 1 and text.endswith("-") else text
        if not pattern.fullmatch(whole):
            found.append(f"is not {what}")
        return tuple(found)

    return check


_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_LABEL_1035 = r"[a-z](?:[-a-z0-9]*[a-z0-9])?"
_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"
_label = "lower case letters, digits and dashes, with a letter or digit at both ends"
_subdomain = "lower case letters, digits, dashes and dots, with a letter or digit at both ends of each part"
_label_1035 = "lower case letters, digits and dashes, with a letter at the start and a letter or digit at the end"
_name = "letters, digits, dashes, underscores and dots, with a letter or digit at both ends"

_check_subdomain = _pattern(_SUBDOMAIN, 253, _subdomain)
_check_name = _pattern(_NAME, 63, _name)


def _qualified_name(text: str) -> tuple[str, ...]:
    prefix, slash, name = text.rpartition("/")
    found = [f"name part {problem}" for problem in _check_name(name)]
    if slash:
        found += [f"prefix part {problem}" for problem in _check_subdomain(prefix)]
    return tuple(found)


def _only_if(valid: Callable[[str], bool], problem: str) -> Check:
    return lambda text: () if valid(text) else (problem,)


def _is_datetime(text: str) -> bool:
    try:
        parse_timestamp(text.upper().replace(" ", "T", 1))
    except CelRuntimeError:
        return False
    return True


def _is_date(text: str) -> bool:
    return len(text) == 10 and _is_datetime(f"{text}T00:00:00Z")


_UUID = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})", re.ASCII)

FORMATS: dict[str, Check] = {
    "dns1123Label": _pattern(_LABEL, 63, _label),
    "dns1123Subdomain": _check_subdomain,
    "dns1035Label": _pattern(_LABEL_1035, 63, _label_1035),
    "qualifiedName": _qualified_name,
    "dns1123LabelPrefix": _pattern(_LABEL, 63, _label, prefix=True),
    "dns1123SubdomainPrefix": _pattern(_SUBDOMAIN, 253, _subdomain, prefix=True),
    "dns1035LabelPrefix": _pattern(_LABEL_1035, 63, _label_1035, prefix=True),
    "labelValue": _only_if(lambda text: not text or not _check_name(text), f"is longer than 63 bytes or not {_name}"),
    "uri": _only_if(is_url, "is not an absolute URI or an absolute path"),
    "uuid": _only_if(lambda text: _UUID.fullmatch(text) is not None, "does not match the UUID format"),
    "byte": _only_if(lambda text: _BASE64.fullmatch(text) is not None, "invalid base64"),
    "date": _only_if(_is_date, "invalid date"),
    "datetime": _only_if(_is_datetime, "invalid datetime"),
}


def _constant(name: str) -> None:
    named = Format(name)
    library(f"format.{name}() -> Format")(lambda: named)


for _name_of_format in FORMATS:
    _constant(_name_of_format)


@library("format.named(string) -> optional<Format>")
def _named(name: str) -> Opt:
    return Opt(Format(name)) if name in FORMATS else NONE


@library("Format.validate(string) -> optional<list<string>>", cost=lambda _, text: 10 * text_cost(text))
def _validate(named: Format, text: str) -> Opt:
    problems = FORMATS[named.name](text)
    return Opt(problems) if problems else NONE
