"""Which parts of a device an expression looks at, found from its syntax alone.

Most selectors name a few attributes; devices that agree in those get one verdict. `device.attributes["d"].x`, the same
through cel.bind, has(), `"x" in device.attributes["d"]` and optional access are understood; whatever goes beyond
(a computed name, a macro over all attributes) reads a whole domain or the whole device.
"""

from __future__ import annotations

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

# The way from the device to what is read: ("driver",), ("attributes", domain, identifier); a shorter way is everything
# below it, () the whole device. An empty identifier, which no attribute has, is the question whether the domain exists.
Path = tuple[str, ...]


def reads(node: Node) -> frozenset[Path]:
    """All that an evaluation may look at."""
    found: set[Path] = set()
    _Walk(found).use(node, {})
    return frozenset(found)


class _Walk:
    def __init__(self, found: set[Path]) -> None:
        self._found = found

    def use(self, node: Node, scope: dict[str, Path | None]) -> None:
        """Records what the value of this node depends on."""
        path = self._path(node, scope)
        if path is not None:
            self._found.add(path)

    def _path(self, node: Node, scope: dict[str, Path | None]) -> Path | None:
        """Where in the device the node points to, if it points into it; what else it depends on is recorded."""
        match node:
            case Literal():
                return None
            case Ident():
                return scope.get(node.name, () if node.name == "device" else None)
            case Select():
                return self._below(self._path(node.operand, scope), node.field)
            case Index():
                base = self._path(node.operand, scope)
                if isinstance(node.index, Literal) and isinstance(node.index.value, str):
                    return self._below(base, node.index.value)
                self.use(node.index, scope)
                if base is not None:  # any of what is below, and which one it is nobody knows: no step may follow
                    self._found.add(base)
            case Bind():
                value = self._path(node.value, scope)
                return self._path(node.body, scope | {node.name: value})
            case Call(None, "@in", (Literal(str(key)), container)):
                self._member(self._path(container, scope), key)
            case Call():
                for part in ((node.target,) if node.target is not None else ()) + node.args:
                    self.use(part, scope)
            case Logic():
                for part in node.terms:
                    self.use(part, scope)
            case Conditional():
                for part in (node.condition, node.then, node.otherwise):
                    self.use(part, scope)
            case ListLiteral():
                for part, _ in node.elements:
                    self.use(part, scope)
            case MapLiteral():
                for key_node, value_node, _ in node.entries:
                    self.use(key_node, scope)
                    self.use(value_node, scope)
            case Fold():
                self.use(node.target, scope)
                inner = scope | dict.fromkeys(node.variables)
                if node.predicate is not None:
                    self.use(node.predicate, inner)
                self.use(node.body, inner)
            case OptionalMap():
                self.use(node.target, scope)
                self.use(node.body, scope | {node.name: None})
        return None

    def _below(self, base: Path | None, step: str) -> Path | None:
        if base is None or len(base) >= 3 or base in (("driver",), ("allowMultipleAllocations",)):
            return base
        return (*base, step)

    def _member(self, base: Path | None, key: str) -> None:
        """`"key" in base`: whether an attribute exists shows in its value, whether a domain exists does not."""
        if base in (("attributes",), ("capacity",)):
            self._found.add((*base, key, ""))
        elif base is not None:
            self._found.add((*base, key) if len(base) == 2 else base)
