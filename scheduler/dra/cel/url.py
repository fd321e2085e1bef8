"""URLs: absolute ones and absolute paths, taken apart the way Kubernetes does.

Source: RFC 3986; Kubernetes CEL library "url" (an URL is what Go's net/url accepts as a request URI).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from scheduler.dra.cel.cost import text_cost
from scheduler.dra.cel.overloads import Chapter
from scheduler.dra.cel.values import CelRuntimeError, Opaque

library = Chapter()

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HOST = re.compile(r"(?P<name>\[[^\[\]]*\]|[^\[\]:]*)(?::(?P<port>[0-9]*))?", re.ASCII)
_HOST_REFUSED = re.compile(r"[ \"<>^`{|}\\/?#]")
_USER = re.compile(r"(?:[A-Za-z0-9._:~!$&'()*+,;=@-]|%[0-9A-Fa-f]{2})*", re.ASCII)
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~$&+,/:;=@")
_ENCODED_PATH = _PLAIN | frozenset("!'()*[]%")  # may stand unescaped in a path that was given escaped


@dataclass(frozen=True, slots=True)
class Url(Opaque):
    """The parts of a URL. `host` includes the port and the brackets of an IPv6 address."""

    text: str
    scheme: str
    host: str
    path: str  # as escaped
    query: str  # as written
    type_name: ClassVar[str] = "kubernetes.URL"

    @classmethod
    def parse(cls, text: str) -> Url:
        """An absolute URL or an absolute path; CelRuntimeError for anything else."""
        before, _, fragment = text.partition("#")
        rest = before
        _unescape(fragment, text)
        if not text or not rest or _CONTROL.search(text):
            raise _refuse(text, "empty, or it contains a control character")
        scheme = ""
        if match := _SCHEME.match(rest):
            scheme, rest = match[1].lower(), rest[match.end() :]
        elif rest.startswith(":"):
            raise _refuse(text, "missing protocol scheme")
        rest, _, query = rest.partition("?")
        if not rest.startswith("/"):
            if not scheme:
                raise _refuse(text, "invalid URI for request")
            return cls(text, scheme, "", "", query)  # opaque, such as mailto:someone
        host = ""
        if rest.startswith("//") and (scheme or not rest.startswith("///")):
            authority, slash, path = rest[2:].partition("/")
            rest = slash + path
            host = _host(authority, text)
        return cls(text, scheme, host, _escaped_path(rest, text), query)

    def port(self) -> str:
        match = _HOST.fullmatch(self.host)
        return (match["port"] or "") if match else ""

    def hostname(self) -> str:
        match = _HOST.fullmatch(self.host)
        return match["name"].strip("[]") if match else self.host


def _refuse(text: str, why: str) -> CelRuntimeError:
    return CelRuntimeError(f"URL parse error during conversion from string: {text[:64]!r}: {why}")


def _host(authority: str, text: str) -> str:
    user, at, host = authority.rpartition("@")
    if at and not _USER.fullmatch(user):
        raise _refuse(text, "invalid userinfo")
    match = _HOST.fullmatch(host)
    if match is None or _HOST_REFUSED.search(host):
        raise _refuse(text, "invalid host or port")
    return _unescape(host, text).decode("utf-8", "replace")


def _unescape(part: str, text: str, plus: bool = False) -> bytes:
    """The bytes an escaped part stands for; CelRuntimeError for a percent sign without two hexadecimal digits."""
    pieces = part.replace("+", " ").split("%") if plus else part.split("%")
    found = bytearray(pieces[0].encode("utf-8", "replace"))
    for piece in pieces[1:]:
        if not re.match(r"[0-9A-Fa-f]{2}", piece):
            raise _refuse(text, f'invalid URL escape "%{piece[:2]}"')
        found.append(int(piece[:2], 16))
        found += piece[2:].encode("utf-8", "replace")
    return bytes(found)


def _escaped_path(path: str, text: str) -> str:
    """The path as given where it is properly escaped, otherwise escaped anew."""
    data = _unescape(path, text)
    if _ENCODED_PATH.issuperset(path):
        return path
    return "".join(chr(b) if chr(b) in _PLAIN else f"%{b:02X}" for b in data)


library("url(string) -> URL", cost=text_cost)(Url.parse)


@library("isURL(string) -> bool", cost=text_cost)
def is_url(text: str) -> bool:
    """Whether a text is an absolute URL or an absolute path."""
    try:
        Url.parse(text)
    except CelRuntimeError:
        return False
    return True


library("URL.getScheme() -> string")(lambda url: url.scheme)
library("URL.getHost() -> string")(lambda url: url.host)
library("URL.getHostname() -> string")(Url.hostname)
library("URL.getPort() -> string")(Url.port)
library("URL.getEscapedPath() -> string")(lambda url: url.path)


@library("URL.getQuery() -> map<string, list<string>>", cost=lambda url: text_cost(url.query))
def _query(url: Url) -> dict[str, tuple[str, ...]]:
    """Every value of every key, unescaped; a pair that cannot be read is left out."""
    found: dict[str, tuple[str, ...]] = {}
    for pair in url.query.split("&"):
        if not pair or ";" in pair:
            continue
        key, _, value = pair.partition("=")
        try:
            name, content = (_unescape(p, url.text, plus=True).decode("utf-8", "replace") for p in (key, value))
        except CelRuntimeError:
            continue
        found[name] = (*found.get(name, ()), content)
    return found
