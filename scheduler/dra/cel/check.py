"""What the compiler knows while it goes through an expression: types, local variables, overloads that fit.

Source: type checking of the CEL language definition. Types are gradual: what is known is refused at once, what is `dyn`
is decided at run time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from scheduler.dra.cel.access import Run
from scheduler.dra.cel.cost import FIRST_LOCAL
from scheduler.dra.cel.overloads import Functions, Overload
from scheduler.dra.cel.syntax import Node
from scheduler.dra.cel.types import (
    BOOL,
    DYN,
    QUANTITY,
    STRING,
    AnyType,
    Type,
    Unifier,
    final,
    instantiate,
    is_dyn,
    map_of,
)
from scheduler.dra.cel.values import MISSING, CelCompileError, Value


@dataclass(frozen=True, slots=True)
class Code:
    """A compiled node: static type, evaluation, number of nodes, and the value if it is constant."""

    type: AnyType
    run: Run
    size: int = 1
    const: Value = MISSING


def constant(value: Value, t: AnyType, size: int = 1) -> Code:
    """The code of a value that is known already."""
    return Code(t, lambda _: value, size, value)


@dataclass(frozen=True, slots=True)
class Environment:
    """What an expression may use: functions, and the fields of `device` with their types."""

    functions: Functions
    device: dict[str, AnyType]


def environment(functions: Functions, attribute: Type, *, multiple_allocations: bool) -> Environment:
    """The environment of device selectors with this type for attribute values (dyn, or any without list attributes)."""
    device: dict[str, AnyType] = {
        "driver": STRING,
        "attributes": map_of(STRING, map_of(STRING, attribute)),
        "capacity": map_of(STRING, map_of(STRING, QUANTITY)),
    }
    if multiple_allocations:
        device["allowMultipleAllocations"] = BOOL
    return Environment(functions, device)


class Lowering(ABC):
    """The state of one compilation."""

    def __init__(self, env: Environment) -> None:
        self.env = env
        self.unifier = Unifier()
        self.scope: dict[str, tuple[int, AnyType]] = {}  # local variable -> its slot and type
        self.slots = FIRST_LOCAL  # length of the evaluation's state
        self.mixed_literals = 0  # inside the arguments of format, where lists may mix types
        self._next_slot = FIRST_LOCAL

    @abstractmethod
    def lower(self, node: Node) -> Code:
        """The code of a node; CelCompileError with the column of what does not fit."""

    @contextmanager
    def variables(self, *named: tuple[str, AnyType]) -> Iterator[int]:
        """Brings local variables into scope; yields the slot of the first."""
        outer, first = self.scope, self._next_slot
        self.scope = outer | {name: (first + i, t) for i, (name, t) in enumerate(named)}
        self._next_slot += len(named)
        self.slots = max(self.slots, self._next_slot)
        yield first
        self.scope, self._next_slot = outer, first

    def fits(self, code: Code, wanted: AnyType) -> bool:
        """Whether the code may be used where this type is wanted."""
        return self.unifier.accepts([code.type], [wanted])

    def resolve(
        self, function: str, args: Sequence[Code], member: bool, position: int
    ) -> tuple[tuple[Overload, ...], AnyType]:
        """The overloads that the static types leave, and the type of the result."""
        overloads = self.env.functions.get(function)
        if overloads is None:
            raise CelCompileError(f"undeclared reference to '{function}'", position)
        fitting: list[Overload] = []
        result: AnyType | None = None
        given = [arg.type for arg in args]
        for overload in overloads:
            if overload.signature.member is not member or len(overload.signature.params) != len(given):
                continue
            params, own_result = instantiate(overload.signature)
            if self.unifier.accepts(given, params):
                fitting.append(overload)
                if result is None:
                    result = own_result
                elif not is_dyn(result) and final(result) != final(own_result):
                    result = DYN
        if result is None:
            names = [str(final(t)) for t in given]
            applied = f"{names[0]}.({', '.join(names[1:])})" if member else f"({', '.join(names)})"
            raise CelCompileError(f"found no matching overload for '{function}' applied to '{applied}'", position)
        return tuple(fitting), result
