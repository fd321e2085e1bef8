"""Static types of CEL, signatures of functions, and the unification that resolves overloads.

A signature is written as its documentation is: `"string.indexOf(string, int) -> int"`, `"list<A>.sort() -> list<A>"`,
`"quantity(string) -> Quantity"`. One capital letter is a type parameter.

Source: the gradual type checking of the CEL language definition.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Type:
    """A concrete type, with parameters where it has them: Type("list", (INT,))."""

    name: str
    params: tuple[AnyType, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.params))})" if self.params else self.name


class Var:
    """A type not known yet: the element type of `[]`, or a type parameter during overload resolution."""

    __slots__ = ("bound",)

    def __init__(self) -> None:
        self.bound: AnyType | None = None

    def __str__(self) -> str:
        return "dyn" if self.bound is None else str(self.bound)


AnyType: TypeAlias = Type | Var

DYN, ANY, BOOL, INT, UINT, DOUBLE = (Type(n) for n in ("dyn", "any", "bool", "int", "uint", "double"))
STRING, BYTES, NULL = Type("string"), Type("bytes"), Type("null")
DURATION, TIMESTAMP = Type("google.protobuf.Duration"), Type("google.protobuf.Timestamp")
QUANTITY, SEMVER, FORMAT = Type("kubernetes.Quantity"), Type("kubernetes.Semver"), Type("kubernetes.NamedFormat")
URL, IP, CIDR = Type("kubernetes.URL"), Type("net.IP"), Type("net.CIDR")
DEVICE = Type("kubernetes.DRADevice")

# Names in signatures; list, map, optional and type take parameters and are made below.
_SIMPLE = {
    "dyn": DYN, "bool": BOOL, "int": INT, "uint": UINT, "double": DOUBLE, "string": STRING, "bytes": BYTES,
    "null": NULL, "duration": DURATION, "timestamp": TIMESTAMP, "Quantity": QUANTITY, "Semver": SEMVER,
    "Format": FORMAT, "URL": URL, "IP": IP, "CIDR": CIDR,
}  # fmt: skip
_NAMES = {"list": "list", "map": "map", "optional": "optional_type", "type": "type"}
_NULLABLE = frozenset({DURATION, TIMESTAMP, QUANTITY, SEMVER, FORMAT, URL, IP, CIDR, DEVICE})
# Identifiers that are types as values, and the name `type(x)` compares with.
TYPE_IDENTIFIERS = {
    "bool": "bool", "int": "int", "uint": "uint", "double": "double", "string": "string", "bytes": "bytes",
    "list": "list", "map": "map", "null_type": "null_type", "type": "type", "optional_type": "optional_type",
    "google.protobuf.Duration": "google.protobuf.Duration", "google.protobuf.Timestamp": "google.protobuf.Timestamp",
    "net.IP": "net.IP", "net.CIDR": "net.CIDR",
}  # fmt: skip
MAP_KEYS = frozenset({BOOL, INT, UINT, STRING, DYN, ANY})


def list_of(element: AnyType) -> Type:
    return Type("list", (element,))


def map_of(key: AnyType, value: AnyType) -> Type:
    return Type("map", (key, value))


def optional_of(value: AnyType) -> Type:
    return Type("optional_type", (value,))


@dataclass(frozen=True, slots=True)
class Signature:
    """A parsed signature. For a member function the receiver is the first parameter."""

    function: str
    member: bool
    params: tuple[Type, ...]
    result: Type
    generic: bool


_SIGNATURE = re.compile(r"(?:(?P<owner>.+)\.)?(?P<name>[^.()<>]+|_[^()]+)\((?P<params>.*)\) -> (?P<result>.+)")
_TOKENS = re.compile(r"[A-Za-z]+|[<>,]")


def parse_signature(text: str) -> Signature:
    """`"list<A>.join(string) -> string"` and the like; an owner that is no type is a namespace (`sets.contains`)."""
    match = _SIGNATURE.fullmatch(text)
    if match is None:
        raise ValueError(f"signature {text!r}: not of the form owner.name(params) -> result")
    owner, function = match["owner"], match["name"]
    member = owner is not None and (owner.partition("<")[0] in _SIMPLE or "<" in owner or _is_parameter(owner))
    params = (*_parse_types(owner if member else ""), *_parse_types(match["params"]))
    if owner is not None and not member:
        function = f"{owner}.{function}"
    (result,) = _parse_types(match["result"])
    generic = any(_mentions_parameter(t) for t in (*params, result))
    return Signature(function=function, member=member, params=params, result=result, generic=generic)


def _is_parameter(name: str) -> bool:
    return len(name) == 1 and name.isupper()


def _mentions_parameter(t: AnyType) -> bool:
    return isinstance(t, Type) and (_is_parameter(t.name) or any(map(_mentions_parameter, t.params)))


def _parse_types(text: str) -> tuple[Type, ...]:
    tokens = iter(_TOKENS.findall(text))
    return tuple(_read_types(tokens))


def _read_types(tokens: Iterator[str]) -> Iterator[Type]:
    """Types up to the closing bracket of this level; a name is held back until it is known to have no parameters."""
    name: str | None = None
    for token in tokens:
        if token == "<":
            assert name is not None
            yield Type(_NAMES[name], tuple(_read_types(tokens)))
            name = None
        elif token in ",>":
            if name is not None:
                yield _simple(name)
            name = None
            if token == ">":
                return
        else:
            name = token
    if name is not None:
        yield _simple(name)


def _simple(name: str) -> Type:
    return Type(name) if _is_parameter(name) else _SIMPLE[name]


def resolve(t: AnyType) -> AnyType:
    """The type itself, or what a variable at its top is bound to."""
    while isinstance(t, Var) and t.bound is not None:
        t = t.bound
    return t


def final(t: AnyType) -> Type:
    """The type with all variables replaced; one that never became known is dyn."""
    t = resolve(t)
    if isinstance(t, Var):
        return DYN
    return Type(t.name, tuple(map(final, t.params))) if t.params else t


MAX_NESTING = 24  # levels of a static type; what is deeper is dyn, which bounds the recursion over types


def bounded(t: AnyType) -> AnyType:
    """The type, or dyn where it nests too deeply."""
    return t if _nests_at_most(t, MAX_NESTING) else DYN


def _nests_at_most(t: AnyType, levels: int) -> bool:
    t = resolve(t)
    if isinstance(t, Var) or not t.params:
        return True
    if not levels:
        return False
    return all(_nests_at_most(param, levels - 1) for param in t.params)


def is_dyn(t: AnyType) -> bool:
    return t in (DYN, ANY)


class Unifier:
    """Binds type variables while overloads are tried; a failed try leaves no trace."""

    def __init__(self) -> None:
        self._trail: list[tuple[Var, AnyType | None]] = []

    def accepts(self, given: Iterable[AnyType], wanted: Iterable[AnyType]) -> bool:
        """Whether arguments of types `given` fit parameters of types `wanted`; binds variables only when they do."""
        mark = len(self._trail)
        if all(self._assignable(g, w) for g, w in zip(given, wanted, strict=True)):
            return True
        while len(self._trail) > mark:
            var, bound = self._trail.pop()
            var.bound = bound
        return False

    def _bind(self, var: Var, t: AnyType) -> None:
        self._trail.append((var, var.bound))
        var.bound = t

    def _assignable(self, given: AnyType, wanted: AnyType) -> bool:
        given, last = resolve(given), _last_var(wanted)
        if last is not None:
            return self._assignable_to_var(given, last)
        if isinstance(given, Var):
            return self._assignable_to_var(wanted, given)
        assert isinstance(wanted, Type)
        if is_dyn(given) or is_dyn(wanted) or given == wanted:
            return True
        if given == NULL or wanted == NULL:
            other = wanted if given == NULL else given
            return other in _NULLABLE or other.name == "optional_type"
        if given.name != wanted.name or len(given.params) != len(wanted.params):
            return False
        return given.name == "type" or all(map(self._assignable, given.params, wanted.params))

    def _assignable_to_var(self, given: AnyType, var: Var) -> bool:
        if given is var:
            return True
        if var.bound is None:
            if _occurs(var, given):
                return False
            self._bind(var, given)
            return True
        bound = resolve(var.bound)
        if not self._assignable(given, bound):
            return False
        if _less_specific(given, bound):
            self._bind(var, given)
        return True


def _last_var(t: AnyType) -> Var | None:
    """The variable at the end of a chain of variables: the one that holds the binding."""
    if not isinstance(t, Var):
        return None
    while isinstance(t.bound, Var):
        t = t.bound
    return t


def _occurs(var: Var, t: AnyType) -> bool:
    t = resolve(t)
    return t is var or (isinstance(t, Type) and any(_occurs(var, p) for p in t.params))


def _less_specific(a: AnyType, b: AnyType) -> bool:
    """Whether `a` says strictly less than `b`, given that they unify: dyn in place of something known."""
    a, b = resolve(a), resolve(b)
    if isinstance(a, Var) or isinstance(b, Var) or is_dyn(b):
        return False
    if is_dyn(a):
        return True
    return any(map(_less_specific, a.params, b.params))


def instantiate(signature: Signature) -> tuple[tuple[AnyType, ...], AnyType]:
    """Parameters and result with fresh variables for the type parameters."""
    if not signature.generic:
        return signature.params, signature.result
    fresh: dict[str, Var] = {}

    def replace(t: AnyType) -> AnyType:
        assert isinstance(t, Type)
        if _is_parameter(t.name):
            return fresh.setdefault(t.name, Var())
        return Type(t.name, tuple(map(replace, t.params))) if t.params else t

    return tuple(map(replace, signature.params)), replace(signature.result)
