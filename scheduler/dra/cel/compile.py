"""Syntax tree -> type-checked closures: the compiler behind `compile_selector`.

One pass does both: each node yields its static type and a function of the evaluation's state (see cost.Env). Types
are gradual, so what is known is refused at once and what is `dyn` is decided at run time. Calls on constants are
evaluated here, once.

Source: type checking of the CEL language definition; Kubernetes' validators of literals (regular expressions,
durations, timestamps, lists and maps of one type).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from scheduler.dra.cel import access, calls, macros
from scheduler.dra.cel.access import Run
from scheduler.dra.cel.check import Code, Environment, Lowering, constant
from scheduler.dra.cel.cost import DEVICE, MAX_DEPTH, Env
from scheduler.dra.cel.overloads import Dispatch, Overload
from scheduler.dra.cel.strings import compile_regex
from scheduler.dra.cel.syntax import (
    Bind,
    Call,
    Conditional,
    Fold,
    Ident,
    Index,
    ListLiteral,
    Literal,
    Logic,
    MapLiteral,
    Node,
    OptionalMap,
    Select,
)
from scheduler.dra.cel.types import (
    ANY,
    BOOL,
    BYTES,
    DOUBLE,
    DYN,
    INT,
    NULL,
    STRING,
    TYPE_IDENTIFIERS,
    UINT,
    AnyType,
    Type,
    Var,
    bounded,
    final,
    is_dyn,
    optional_of,
    resolve,
)
from scheduler.dra.cel.types import DEVICE as DEVICE_TYPE
from scheduler.dra.cel.values import (
    MISSING,
    CelCompileError,
    CelRuntimeError,
    TypeValue,
    UInt,
    Value,
)

_FOLDING_BUDGET: Final = 10_000
_LITERAL_TYPES: dict[type, Type] = {
    bool: BOOL, int: INT, UInt: UINT, float: DOUBLE, str: STRING, bytes: BYTES, type(None): NULL,
}  # fmt: skip
_CHECKED_LITERALS = {"matches": 1, "find": 1, "findAll": 1, "duration": 0, "timestamp": 0}


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled expression. `slots` is the length of the evaluation's state."""

    type: Type
    run: Run
    slots: int


def compile_node(node: Node, env: Environment) -> Program:
    """The program of an expression; CelCompileError with the column of the first thing that does not fit."""
    compiler = _Compiler(env)
    code = compiler.lower(node)
    return Program(final(code.type), code.run, compiler.slots)


def _dotted(node: Node) -> str | None:
    """`net.IP` for the selection of IP from the name net; None for anything but names joined by dots."""
    parts: list[str] = []
    while isinstance(node, Select) and not node.optional and not node.test:
        parts.append(node.field)
        node = node.operand
    return ".".join([node.name, *reversed(parts)]) if isinstance(node, Ident) else None


class _Compiler(Lowering):
    def __init__(self, env: Environment) -> None:
        super().__init__(env)
        self._depth = 0
        self._folding: Env = [_FOLDING_BUDGET, None]

    def lower(self, node: Node) -> Code:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise CelCompileError(f"expression is nested deeper than {MAX_DEPTH} levels", node.position)
        code = self._lower(node)
        self._depth -= 1
        t = bounded(code.type)
        return code if t is code.type else replace(code, type=t)

    def _lower(self, node: Node) -> Code:
        match node:
            case Literal():
                return constant(node.value, _LITERAL_TYPES[type(node.value)])
            case Ident():
                return self._ident(node)
            case Select():
                return self._select(node)
            case Index():
                return self._index(node)
            case Call():
                return self._call(node)
            case Logic():
                return self._logic(node)
            case Conditional():
                return self._conditional(node)
            case ListLiteral():
                return macros.list_literal(self, node)
            case MapLiteral():
                return macros.map_literal(self, node)
            case Fold():
                return macros.fold(self, node)
            case Bind():
                return macros.bind(self, node)
            case OptionalMap():
                return macros.optional_mapping(self, node)

    # --- names and access

    def _ident(self, node: Ident) -> Code:
        if node.name in self.scope:
            slot, t = self.scope[node.name]
            return Code(t, lambda env: env[slot])
        if node.name == "device":
            return Code(DEVICE_TYPE, lambda env: env[DEVICE])
        return self._type_name(node.name, node.position)

    def _type_name(self, name: str, position: int) -> Code:
        if name not in TYPE_IDENTIFIERS:
            raise CelCompileError(f"undeclared reference to '{name}'", position)
        return constant(TypeValue(TYPE_IDENTIFIERS[name]), Type("type", (DYN,)))

    def _select(self, node: Select) -> Code:
        name = _dotted(node)
        if name in TYPE_IDENTIFIERS:
            return self._type_name(name or "", node.position)
        operand = self.lower(node.operand)
        target = resolve(operand.type)
        wrapped = isinstance(target, Type) and target.name == "optional_type"
        if isinstance(target, Type) and wrapped:
            target = resolve(target.params[0])
        t = self._field_type(target, node)
        size = operand.size + 1
        if node.test:
            return Code(BOOL, access.has(operand.run, node.field, node.position), size)
        if node.optional:
            field = node.field
            run = access.optional(operand.run, lambda _: field, node.position)
            return Code(optional_of(t), run, size)
        if self._is_device(node.operand):
            return Code(t, access.located(_device_field(node.field), node.position), size)
        if (entry := self._device_entry(node.operand, node.field, node.position)) is not None:
            return Code(t, entry, size)
        return Code(optional_of(t) if wrapped else t, access.select(operand.run, node.field, node.position), size)

    def _field_type(self, target: AnyType, node: Select) -> AnyType:
        if isinstance(target, Var) or is_dyn(target):
            return DYN
        if target.name == "map":
            return target.params[1]
        if target == DEVICE_TYPE:
            if node.field not in self.env.device:
                raise CelCompileError(f"undefined field '{node.field}'", node.position)
            return self.env.device[node.field]
        raise CelCompileError(f"type '{target}' does not support field selection", node.position)

    def _is_device(self, node: Node) -> bool:
        return isinstance(node, Ident) and node.name == "device" and "device" not in self.scope

    def _device_entry(self, domain: Node, field: Value, position: int) -> Run | None:
        """The short way for device.attributes["domain"].field; None for anything else."""
        match domain:
            case Index(Select(owner, ("attributes" | "capacity") as part, False, False), Literal(str(name)), False):
                if self._is_device(owner) and isinstance(field, str):
                    return access.device_entry(part, name, field, position)
        return None

    def _index(self, node: Index) -> Code:
        operand, key = self.lower(node.operand), self.lower(node.index)
        _, t = self.resolve("_[?_]" if node.optional else "_[_]", (operand, key), False, node.position)
        size = operand.size + key.size + 1
        if node.optional:
            return Code(t, access.optional(operand.run, key.run, node.position), size)
        entry = self._device_entry(node.operand, key.const, node.position)
        return Code(t, entry or access.index(operand.run, key.run, node.position), size)

    # --- calls

    def _call(self, node: Call) -> Code:
        function, target = node.function, node.target
        namespace = _dotted(target) if target is not None else None
        if namespace is not None and f"{namespace}.{function}" in self.env.functions:
            function, target = f"{namespace}.{function}", None
        mixed = function == "format"
        self.mixed_literals += mixed
        args = [self.lower(arg) for arg in ((target,) if target is not None else ()) + node.args]
        self.mixed_literals -= mixed
        candidates, t = self.resolve(function, args, target is not None, node.position)
        self._check_literal(function, args, candidates, node)
        size = 1 + sum(arg.size for arg in args)
        special = self._special(function, args, node.position)
        if special is not None:
            return Code(t, special, size)
        runs = [arg.run for arg in args]
        if len(candidates) == 1 and all(map(_is_known, (arg.type for arg in args))):
            run = calls.direct(candidates[0], runs, node.position)
        else:
            run = calls.dispatched(Dispatch(function, candidates), runs, node.position)
        if all(arg.const is not MISSING for arg in args):
            try:
                return constant(run(self._folding), t, size)
            except CelRuntimeError:
                pass  # an error here must stay an error of each evaluation: || may absorb it
        return Code(t, run, size)

    def _special(self, function: str, args: Sequence[Code], position: int) -> Run | None:
        """Operators that dispatch cannot serve: equality, membership, and what evaluates its arguments lazily."""
        if function in ("_==_", "_!=_"):
            left, right = args
            if isinstance(right.const, str):
                return calls.equality_with_text(left.run, right.const, function == "_!=_", position)
            return calls.equality(left.run, right.run, function == "_!=_", position)
        if function == "@in":
            item, container = args
            quick = access.contains_constant(item.run, container.const) if type(container.const) is tuple else None
            return quick or access.contains(item.run, container.run, position)
        if function == "matches" and isinstance(args[1].const, str):
            return calls.matches_pattern(args[0].run, args[1].const, position)
        if function in ("or", "orValue"):
            return calls.or_value(args[0].run, args[1].run, function, position)
        return None

    def _check_literal(self, function: str, args: Sequence[Code], candidates: Sequence[Overload], node: Call) -> None:
        """Constant patterns, durations and timestamps must be readable: better refused now than at every device."""
        if function not in _CHECKED_LITERALS or len(args) <= _CHECKED_LITERALS[function]:
            return
        value = args[_CHECKED_LITERALS[function]].const
        if not isinstance(value, str):
            return
        try:
            if _CHECKED_LITERALS[function] == 1:
                compile_regex(value)
            else:
                candidates[0].run(value)
        except CelRuntimeError as error:
            raise CelCompileError(f"invalid {function} argument: {error.message}", node.position) from None

    def _logic(self, node: Logic) -> Code:
        terms = [self.lower(term) for term in node.terms]
        for term in terms:
            if not self.fits(term, BOOL):
                names = ", ".join(str(final(t.type)) for t in terms[:8])
                raise CelCompileError(
                    f"found no matching overload for '_{node.operator}_' applied to '({names})'", node.position
                )
        run = calls.logic(node.operator, [t.run for t in terms], node.position)
        return Code(BOOL, run, 1 + sum(t.size for t in terms))

    def _conditional(self, node: Conditional) -> Code:
        codes = [self.lower(part) for part in (node.condition, node.then, node.otherwise)]
        _, t = self.resolve("_?_:_", codes, False, node.position)
        run = calls.conditional(codes[0].run, codes[1].run, codes[2].run, node.position)
        return Code(t, run, 1 + sum(code.size for code in codes))


def _is_known(t: AnyType) -> bool:
    """Whether values of this static type are always of the one class that dispatch would find."""
    t = resolve(t)
    return not isinstance(t, Var) and t not in (DYN, ANY, NULL)


def _device_field(field: str) -> Run:
    match field:
        case "driver":
            return lambda env: env[DEVICE].driver
        case "attributes":
            return lambda env: env[DEVICE].attributes
        case "capacity":
            return lambda env: env[DEVICE].capacity
    return lambda env: env[DEVICE].allow_multiple_allocations
