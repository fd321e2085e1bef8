"""String functions: core CEL, cel-go's strings extension (version 2, as Kubernetes uses it) and regular expressions.

Indices count characters. Regular expressions are RE2: linear time, no look-around, no back-references.

Source: cel-go ext/strings documentation, Kubernetes CEL library "regex".
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import re2

from scheduler.dra.cel.cost import text_cost, weight
from scheduler.dra.cel.overloads import Chapter
from scheduler.dra.cel.values import CelRuntimeError

library = Chapter()

library("string.contains(string) -> bool", cost=text_cost)(lambda text, part: part in text)
library("string.startsWith(string) -> bool", cost=text_cost)(str.startswith)
library("string.endsWith(string) -> bool", cost=text_cost)(str.endswith)


def _within(index: int, text: str) -> int:
    if 0 <= index <= len(text):
        return index
    raise CelRuntimeError(f"index out of range: {index}")


library("string.charAt(int) -> string", cost=lambda text, _: text_cost(text))(
    lambda text, index: text[_within(index, text) :][:1]
)


@library("string.indexOf(string) -> int", "string.indexOf(string, int) -> int", cost=lambda text, *_: text_cost(text))
def _index_of(text: str, part: str, start: int = 0) -> int:
    if start < 0:
        raise CelRuntimeError(f"index out of range: {start}")
    return text.find(part, start) if part else min(start, len(text))


@library("string.lastIndexOf(string) -> int", cost=text_cost)
def _last_index_of(text: str, part: str) -> int:
    return text.rfind(part)


@library("string.lastIndexOf(string, int) -> int", cost=lambda text, *_: text_cost(text))
def _last_index_from(text: str, part: str, last: int) -> int:
    if last < 0:
        raise CelRuntimeError(f"index out of range: {last}")
    if not part:
        return min(last, len(text))
    return -1 if last >= len(text) else text.rfind(part, 0, last + len(part))


_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_UPPER = {code: code - 32 for code in range(ord("a"), ord("z") + 1)}
library("string.lowerAscii() -> string", cost=text_cost)(
    lambda text: text.lower() if text.isascii() else text.translate(_LOWER)
)
library("string.upperAscii() -> string", cost=text_cost)(
    lambda text: text.upper() if text.isascii() else text.translate(_UPPER)
)


def _replace_cost(text: str, old: str, new: str, limit: int = -1) -> int:
    times = text.count(old)
    times = times if limit < 0 else min(times, limit)
    return 1 + (2 * len(text) + times * len(new)) // 10


library("string.replace(string, string) -> string", cost=_replace_cost)(str.replace)


@library("string.replace(string, string, int) -> string", cost=_replace_cost)
def _replace(text: str, old: str, new: str, limit: int) -> str:
    return text.replace(old, new, max(limit, -1))


@library(
    "string.split(string) -> list<string>",
    "string.split(string, int) -> list<string>",
    cost=lambda text, *_: 1 + len(text) // 5,
)
def _split(text: str, separator: str, limit: int = -1) -> tuple[str, ...]:
    if limit == 0:
        return ()
    if separator:
        return tuple(text.split(separator, -1 if limit < 0 else limit - 1))
    if limit < 0 or limit >= len(text):
        return tuple(text)
    return (*text[: limit - 1], text[limit - 1 :])


@library("string.substring(int) -> string", "string.substring(int, int) -> string", cost=lambda t, *_: text_cost(t))
def _substring(text: str, start: int, end: int | None = None) -> str:
    if end is not None and start > end:
        raise CelRuntimeError(f"invalid substring range. start: {start}, end: {end}")
    _within(start, text)
    return text[start:] if end is None else text[start : _within(end, text)]


# Unicode White_Space; str.strip() alone would also take the ASCII separators U+001C to U+001F.
_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
library("string.trim() -> string", cost=text_cost)(lambda text: text.strip(_SPACE))

_QUOTED = {
    ord(c): f"\\{e}" for c, e in zip('\a\b\f\n\r\t\v\\"', 'abfnrtv\\"', strict=True)
}  # every other character stands for itself


@library("strings.quote(string) -> string", cost=text_cost)
def quote(text: str) -> str:
    """The text between double quotes, with the escapes that a CEL literal needs."""
    return f'"{text.translate(_QUOTED)}"'


def _join_cost(parts: tuple[Any, ...], separator: str = "") -> int:
    return weight(parts) + len(parts) * len(separator) // 10


@library("list<string>.join() -> string", "list<string>.join(string) -> string", cost=_join_cost)
def _join(parts: tuple[Any, ...], separator: str = "") -> str:
    for part in parts:
        if not isinstance(part, str):
            raise CelRuntimeError(f"join: invalid input: {part!r} is not a string")
    return separator.join(parts)


# --- regular expressions


@lru_cache(maxsize=256)
def compile_regex(pattern: str) -> Any:
    """The compiled RE2 pattern, to be used on UTF-8 bytes; CelRuntimeError for what RE2 does not accept."""
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(utf8(pattern), options)
    except re2.error as error:
        detail = error.args[0] if error.args else ""
        reason = detail.decode(errors="replace") if isinstance(detail, bytes) else str(detail)
        raise CelRuntimeError(f"invalid regular expression {pattern!r}: {reason}") from None


def utf8(text: str) -> bytes:
    """The text as RE2 reads it. Half of a surrogate pair, which JSON can smuggle in, becomes a question mark."""
    return text.encode("utf-8", "replace")


def regex_cost(text: str, pattern: str, *_: int) -> int:
    """The product of both lengths, as the worst case of an automaton."""
    return (2 + len(text) // 10) * (1 + len(pattern) // 4)


@library("matches(string, string) -> bool", "string.matches(string) -> bool", cost=regex_cost)
def _matches(text: str, pattern: str) -> bool:
    return compile_regex(pattern).search(utf8(text)) is not None


@library("string.find(string) -> string", cost=regex_cost)
def _find(text: str, pattern: str) -> str:
    match = compile_regex(pattern).search(utf8(text))
    return str(match[0].decode()) if match else ""


@library("string.findAll(string) -> list<string>", "string.findAll(string, int) -> list<string>", cost=regex_cost)
def _find_all(text: str, pattern: str, limit: int = -1) -> tuple[str, ...]:
    """Matches that do not overlap, from the left; an empty match right behind another match does not count."""
    regex, data = compile_regex(pattern), utf8(text)
    found: list[str] = []
    at, end = 0, -1
    while at <= len(data) and not 0 <= limit <= len(found):
        match = regex.search(data, at)
        if match is None:
            break
        start, at = match.span()
        if at > start or start != end:
            found.append(data[start:at].decode())
        end = at
        if at == start:  # go on behind the next character, not in the middle of it
            at += 1
            while at < len(data) and data[at] & 0xC0 == 0x80:
                at += 1
    return tuple(found)
