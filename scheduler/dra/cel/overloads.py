"""How the function library is written down, and how a call finds its overload at run time.

A chapter of the library is a list of Python functions, each under the CEL signatures it serves:

    @library("string.charAt(int) -> string", cost=text_cost)
    def char_at(text: str, index: int) -> str: ...

`cost` gets the same arguments and says what the call takes from the step budget (see cost); without it a call is
one step. Functions raise CelRuntimeError without a position; the call site adds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from scheduler.dra.cel.types import Signature, Type, parse_signature
from scheduler.dra.cel.values import CelRuntimeError, Value, class_name

F = TypeVar("F", bound=Callable[..., Value])


@dataclass(frozen=True, slots=True)
class Overload:
    """One signature of a function with the code that serves it."""

    signature: Signature
    run: Callable[..., Value]
    cost: Callable[..., int] | None = None

    def fits(self, kinds: tuple[type, ...]) -> bool:
        """Whether arguments of these Python classes may be given; type parameters and dyn take anything."""
        params = self.signature.params
        return len(params) == len(kinds) and all(map(_fits, params, kinds))


def _fits(param: Type, kind: type) -> bool:
    return param.name == "dyn" or len(param.name) == 1 or _RUNTIME.get(param.name, param.name) == class_name(kind)


_RUNTIME = {"null": "null_type"}


class Chapter:
    """A part of the function library; used as the decorator that fills it."""

    def __init__(self) -> None:
        self.overloads: list[Overload] = []

    def __call__(self, *signatures: str, cost: Callable[..., int] | None = None) -> Callable[[F], F]:
        def register(function: F) -> F:
            self.overloads += [Overload(parse_signature(s), function, cost) for s in signatures]
            return function

        return register


Functions = dict[str, tuple[Overload, ...]]


def table(chapters: Iterable[Chapter]) -> Functions:
    """The overloads of all chapters by function name."""
    found: dict[str, list[Overload]] = {}
    for chapter in chapters:
        for overload in chapter.overloads:
            found.setdefault(overload.signature.function, []).append(overload)
    return {name: tuple(overloads) for name, overloads in found.items()}


class Dispatch:
    """Chooses among the overloads that a call may mean, by the classes of the actual arguments; remembers."""

    def __init__(self, function: str, candidates: tuple[Overload, ...]) -> None:
        self._function = function
        self._candidates = candidates
        self.known: dict[tuple[type, ...], Overload] = {}

    def find(self, kinds: tuple[type, ...]) -> Overload:
        """The overload for these classes; CelRuntimeError when there is none."""
        for overload in self._candidates:
            if overload.fits(kinds):
                self.known[kinds] = overload
                return overload
        names = ", ".join(map(class_name, kinds))
        raise CelRuntimeError(f"no such overload: {self._function}({names})")
