"""Compiling what builds or goes over lists and maps: literals, the comprehension macros, cel.bind, optMap.

Source: macros of the CEL language definition and of cel-go's extensions; Kubernetes refuses literals that mix types.
"""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.dra.cel.access import Run, located
from scheduler.dra.cel.check import Code, Lowering, constant
from scheduler.dra.cel.cost import Env
from scheduler.dra.cel.folds import FOLDS, Loop, optional_map
from scheduler.dra.cel.syntax import Bind, Fold, ListLiteral, MapLiteral, OptionalMap
from scheduler.dra.cel.types import (
    BOOL,
    DYN,
    INT,
    MAP_KEYS,
    AnyType,
    Var,
    final,
    is_dyn,
    list_of,
    map_of,
    optional_of,
    resolve,
)
from scheduler.dra.cel.values import MISSING, CelCompileError, Opt, Value, map_key, no_overload


def _join(c: Lowering, common: AnyType | None, code: Code, optional: bool, position: int) -> AnyType:
    """The type of elements so far together with one more; lists and maps are of one type outside of format."""
    t = resolve(code.type)
    if optional and not is_dyn(t):
        if isinstance(t, Var) or t.name != "optional_type":
            raise CelCompileError(f"expected type 'optional_type({final(t)})' but found '{final(t)}'", position)
        t = resolve(t.params[0])
    if common is None:
        return t
    one_type = is_dyn(resolve(common)) == is_dyn(t) and c.unifier.accepts([t], [common])
    if one_type:
        return common
    if c.mixed_literals:
        return DYN
    raise CelCompileError(f"expected type '{final(common)}' but found '{final(t)}'", position)


def list_literal(c: Lowering, node: ListLiteral) -> Code:
    common: AnyType | None = None
    items: list[tuple[Run, bool]] = []
    constants: list[Value] = []
    size = 1
    for element, optional in node.elements:
        code = c.lower(element)
        common = _join(c, common, code, optional, element.position)
        size += code.size
        items.append((code.run, optional))
        if code.const is not MISSING and not optional:
            constants.append(code.const)
    t = list_of(Var() if common is None else common)
    if len(constants) == len(items):
        return constant(tuple(constants), t, size)
    if any(optional for _, optional in items):
        return Code(t, located(_optional_elements(items), node.position), size)
    runs = [run for run, _ in items]
    return Code(t, lambda env: tuple([run(env) for run in runs]), size)


def map_literal(c: Lowering, node: MapLiteral) -> Code:
    keys: AnyType | None = None
    values: AnyType | None = None
    entries: list[tuple[Run, Run, bool]] = []
    size = 1
    for key, value, optional in node.entries:
        k, v = c.lower(key), c.lower(value)
        keys = _join(c, keys, k, False, key.position)
        values = _join(c, values, v, optional, value.position)
        if final(keys) not in MAP_KEYS:
            raise CelCompileError(f"unsupported map key type '{final(keys)}'", key.position)
        size += k.size + v.size
        entries.append((k.run, v.run, optional))
    t = map_of(keys if keys is not None else Var(), values if values is not None else Var())
    return Code(t, located(_entries(entries), node.position), size)


def fold(c: Lowering, node: Fold) -> Code:
    target = c.lower(node.target)
    ranged = resolve(target.type)
    two = len(node.variables) == 2
    if isinstance(ranged, Var) or ranged == DYN:
        types: tuple[AnyType, AnyType] = (DYN, DYN)
    elif ranged.name == "list":
        types = (INT, ranged.params[0]) if two else (ranged.params[0], DYN)
    elif ranged.name == "map":
        types = (ranged.params[0], ranged.params[1])
    else:
        raise CelCompileError(
            f"expression of type '{ranged}' cannot be range of a comprehension (must be list, map, or dynamic)",
            node.target.position,
        )
    named = tuple(zip(node.variables, types, strict=False))
    with c.variables(*named) as slot:
        predicate = c.lower(node.predicate) if node.predicate is not None else None
        body = c.lower(node.body)
    conditions = [predicate] if predicate else []
    if node.kind in ("all", "exists", "exists_one", "filter"):
        conditions.append(body)
    for condition in conditions:
        if not c.fits(condition, BOOL):
            raise CelCompileError(f"expected type 'bool' but found '{final(condition.type)}'", node.position)
    cost = 1 + body.size + (predicate.size if predicate else 0)
    loop = Loop(
        target=target.run,
        slot=slot,
        two_variables=two,
        predicate=predicate.run if predicate else None,
        body=body.run,
        cost=cost,
        position=node.position,
    )
    return Code(_fold_type(c, node, types[0], body), FOLDS[node.kind](loop), target.size + cost)


def _fold_type(c: Lowering, node: Fold, first: AnyType, body: Code) -> AnyType:
    match node.kind:
        case "all" | "exists" | "exists_one":
            return BOOL
        case "map":
            return list_of(body.type)
        case "filter" | "sortBy":
            return list_of(first)
        case "transformMap":
            return map_of(first, body.type)
    if not c.fits(body, map_of(Var(), Var())):
        raise CelCompileError(f"expected a map but found '{final(body.type)}'", node.position)
    return body.type


def bind(c: Lowering, node: Bind) -> Code:
    value = c.lower(node.value)
    with c.variables((node.name, value.type)) as slot:
        body = c.lower(node.body)
    initial, inner = value.run, body.run

    def run(env: Env) -> Value:
        env[slot] = initial(env)
        return inner(env)

    return Code(body.type, run, value.size + body.size + 1)


def optional_mapping(c: Lowering, node: OptionalMap) -> Code:
    target = c.lower(node.target)
    element: AnyType = Var()
    if not c.fits(target, optional_of(element)):
        raise CelCompileError(f"expected an optional value but found '{final(target.type)}'", node.position)
    with c.variables((node.name, element)) as slot:
        body = c.lower(node.body)
    if node.flat and not c.fits(body, optional_of(Var())):
        raise CelCompileError(f"expected an optional value but found '{final(body.type)}'", node.position)
    run = optional_map(target.run, slot, body.run, node.flat, node.position)
    return Code(body.type if node.flat else optional_of(body.type), run, target.size + body.size + 1)


def _optional_elements(items: Sequence[tuple[Run, bool]]) -> Run:
    """A list literal in which elements written `?x` may be missing."""

    def run(env: Env) -> Value:
        found: list[Value] = []
        for item, optional in items:
            value = item(env)
            if not optional:
                found.append(value)
            elif type(value) is not Opt:
                raise no_overload("[?_]", value)
            elif value.present:
                found.append(value.value)
        return tuple(found)

    return run


def _entries(entries: Sequence[tuple[Run, Run, bool]]) -> Run:
    """A map literal."""

    def run(env: Env) -> Value:
        found: dict[Value, Value] = {}
        for key_of, value_of, optional in entries:
            key, value = map_key(key_of(env)), value_of(env)
            if optional:
                if type(value) is not Opt:
                    raise no_overload("{?_: _}", value)
                if not value.present:
                    found.pop(key, None)
                    continue
                value = value.value
            found[key] = value
        return found

    return run
