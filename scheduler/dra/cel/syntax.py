"""The parts of a CEL expression: tokens, literals, and the nodes of the syntax tree.

Positions are 1-based columns counted in characters from the start of the expression, line breaks included.

Source: the grammar of the CEL language definition; escape syntax for identifiers (backquotes) is off, as in Kubernetes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isinf
from typing import TypeAlias

from scheduler.dra.cel.values import INT_MAX, INT_MIN, UINT_MAX, CelCompileError, UInt, Value


@dataclass(frozen=True, slots=True)
class Literal:
    value: Value
    position: int


@dataclass(frozen=True, slots=True)
class Ident:
    name: str
    position: int


@dataclass(frozen=True, slots=True)
class Select:
    """`operand.field`, `operand.?field`, or, with `test`, the argument of has()."""

    operand: Node
    field: str
    optional: bool
    test: bool
    position: int


@dataclass(frozen=True, slots=True)
class Index:
    """`operand[index]`, `operand[?index]`."""

    operand: Node
    index: Node
    optional: bool
    position: int


@dataclass(frozen=True, slots=True)
class Call:
    """A function, a member function (`target` is its receiver) or an operator (`_+_`)."""

    target: Node | None
    function: str
    args: tuple[Node, ...]
    position: int


@dataclass(frozen=True, slots=True)
class Logic:
    """A whole chain of `&&` or of `||`: flat, so that long chains are not deep."""

    operator: str
    terms: tuple[Node, ...]
    position: int


@dataclass(frozen=True, slots=True)
class Conditional:
    condition: Node
    then: Node
    otherwise: Node
    position: int


@dataclass(frozen=True, slots=True)
class ListLiteral:
    """Each element with whether it is written `?element`."""

    elements: tuple[tuple[Node, bool], ...]
    position: int


@dataclass(frozen=True, slots=True)
class MapLiteral:
    """Each key and value with whether the entry is written `?key: value`."""

    entries: tuple[tuple[Node, Node, bool], ...]
    position: int


@dataclass(frozen=True, slots=True)
class Fold:
    """A macro over a list or map: all, exists, exists_one, map, filter, transformList/Map/MapEntry, sortBy."""

    kind: str
    target: Node
    variables: tuple[str, ...]
    predicate: Node | None
    body: Node
    position: int


@dataclass(frozen=True, slots=True)
class Bind:
    """cel.bind(name, value, body)."""

    name: str
    value: Node
    body: Node
    position: int


@dataclass(frozen=True, slots=True)
class OptionalMap:
    """target.optMap(name, body), or optFlatMap with `flat`."""

    target: Node
    name: str
    body: Node
    flat: bool
    position: int


Node: TypeAlias = (
    Literal | Ident | Select | Index | Call | Logic | Conditional | ListLiteral | MapLiteral | Fold | Bind | OptionalMap
)

RESERVED = frozenset({
    "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "package",
    "namespace", "return", "var", "void", "while",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Token:
    """`kind` is number, text, word, symbol or end; `text` is as written."""

    kind: str
    text: str
    position: int


_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r\n\f]+|//[^\n]*)
    |(?P<number>0[xX][0-9a-fA-F]+[uU]?|(?:[0-9]+\.[0-9]+|\.[0-9]+|[0-9]+(?=[eE][+-]?[0-9]))(?:[eE][+-]?[0-9]+)?|[0-9]+[uU]?)
    |(?P<text>(?:[bB][rR]?|[rR][bB]?)?(?:\"{3}|'{3}|"|'))
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<symbol>&&|\|\||[<>=!]=|[-+*/%<>!?:.,()\[\]{}])""",
    re.VERBOSE,
)


def tokenize(source: str) -> list[Token]:
    """The tokens of an expression, with an end token; CelCompileError at the first character that fits nowhere."""
    tokens: list[Token] = []
    at = 0
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None:
            raise CelCompileError(f"Syntax error: token recognition error at: {source[at]!r}", at + 1)
        end = match.end()
        kind = match.lastgroup or ""
        if kind == "text":
            end = _end_of_text(source, at, match[0])
        if kind != "blank":
            tokens.append(Token(kind, source[at:end], at + 1))
        at = end
    tokens.append(Token("end", "<EOF>", len(source) + 1))
    return tokens


def _end_of_text(source: str, start: int, opening: str) -> int:
    """Where the literal that begins with `opening` ends."""
    prefix = opening.rstrip("\"'")
    quote = opening[len(prefix) :]
    at = start + len(opening)
    while at < len(source):
        if source.startswith(quote, at):
            return at + len(quote)
        if len(quote) == 1 and source[at] in "\r\n":
            break
        at += 2 if source[at] == "\\" and "r" not in prefix.lower() else 1
    raise CelCompileError("Syntax error: a string literal is not closed", start + 1)


def parse_number(text: str, position: int) -> int | float:
    """An int, UInt or double literal, with its sign; CelCompileError beyond 64 bits."""
    body = text.removeprefix("-")
    if body[-1] in "uU":
        unsigned = int(body[:-1], 16 if body[:2] in ("0x", "0X") else 10)
        if text != body or unsigned > UINT_MAX:
            raise CelCompileError(f"invalid uint literal: {text}", position)
        return UInt(unsigned)
    if body[:2] in ("0x", "0X") or body.isdigit():
        if len(body) > 64:
            raise CelCompileError("invalid int literal: too many digits", position)
        integer = int(text, 16 if body[:2] in ("0x", "0X") else 10)
        if not INT_MIN <= integer <= INT_MAX:
            raise CelCompileError(f"invalid int literal: {text}", position)
        return integer
    if isinf(number := float(text)):
        raise CelCompileError(f"invalid double literal: {text}", position)
    return number


_ESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\"'\\?`])|[xX]([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2}))"
)


def parse_text(text: str, position: int) -> str | bytes:
    """A string or bytes literal, escapes resolved; CelCompileError for an escape that CEL does not know."""
    body = text.lstrip("bBrR")
    prefix = text[: len(text) - len(body)].lower()
    width = 3 if body[:3] in ('"""', "'''") else 1
    body = body[width : len(body) - width]
    binary = "b" in prefix
    if "r" in prefix:
        return body.encode() if binary else body
    parts: list[str] = []
    raw = bytearray()
    at = 0
    while at < len(body):
        slash = body.find("\\", at)
        plain = body[at:] if slash < 0 else body[at:slash]
        parts.append(plain)
        raw += plain.encode()
        if slash < 0:
            break
        match = _ESCAPE.match(body, slash)
        code = _escape_code(match, binary) if match else None
        if match is None or code is None:
            raise CelCompileError("Syntax error: invalid escape sequence in a literal", position)
        if binary:
            raw.append(code)
        else:
            parts.append(chr(code))
        at = match.end()
    return bytes(raw) if binary else "".join(parts)


def _escape_code(match: re.Match[str], binary: bool) -> int | None:
    """The code point (or byte) an escape stands for; None where it is not allowed."""
    simple, pair, four, eight, octal = match.groups()
    if simple is not None:
        return _ESCAPES.get(simple, ord(simple))
    if octal is not None:
        return int(octal, 8)
    if pair is not None:
        return int(pair, 16)
    code = int(four or eight, 16)
    return None if binary or code > 0x10FFFF or 0xD800 <= code <= 0xDFFF else code
