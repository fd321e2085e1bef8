"""Text of a CEL expression -> syntax tree, with the macros expanded into nodes of their own.

Recursive descent; nesting is bounded so that a hostile expression ends in an error, not in the interpreter's limit.

Source: the grammar and macros of the CEL language definition; cel.bind, optional and two-variable macros of cel-go's
extensions.
"""

from __future__ import annotations

from scheduler.dra.cel.cost import MAX_DEPTH
from scheduler.dra.cel.syntax import (
    RESERVED,
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
    Token,
    parse_number,
    parse_text,
    tokenize,
)
from scheduler.dra.cel.values import CelCompileError

_LEVELS = {
    "||": 1, "&&": 2, "==": 3, "!=": 3, "<": 3, "<=": 3, ">": 3, ">=": 3, "in": 3,
    "+": 4, "-": 4, "*": 5, "/": 5, "%": 5,
}  # fmt: skip
_CONSTANTS = {"true": True, "false": False, "null": None}

# Macros on a receiver: name -> for each number of arguments, (kind of fold, number of variables).
_FOLDS: dict[str, dict[int, tuple[str, int]]] = {
    "all": {2: ("all", 1), 3: ("all", 2)},
    "exists": {2: ("exists", 1), 3: ("exists", 2)},
    "exists_one": {2: ("exists_one", 1), 3: ("exists_one", 2)},
    "existsOne": {2: ("exists_one", 1), 3: ("exists_one", 2)},
    "filter": {2: ("filter", 1)},
    "map": {2: ("map", 1), 3: ("map", 1)},
    "transformList": {3: ("map", 2), 4: ("map", 2)},
    "transformMap": {3: ("transformMap", 2), 4: ("transformMap", 2)},
    "transformMapEntry": {3: ("transformMapEntry", 2), 4: ("transformMapEntry", 2)},
    "sortBy": {2: ("sortBy", 1)},
}


def parse(source: str) -> Node:
    """The syntax tree of an expression; CelCompileError with the column of what does not fit."""
    return _Parser(tokenize(source)).parse()


class _Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._next = 0
        self._depth = 0

    def parse(self) -> Node:
        node = self._expression()
        if self._peek().kind != "end":
            raise self._unexpected()
        return node

    def _peek(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._tokens[self._next]
        self._next += 1
        return token

    def _accept(self, symbol: str) -> bool:
        token = self._tokens[self._next]
        if token.text == symbol and token.kind == "symbol":
            self._next += 1
            return True
        return False

    def _expect(self, symbol: str) -> None:
        if not self._accept(symbol):
            raise self._unexpected(f"expecting {symbol!r}")

    def _unexpected(self, hint: str = "") -> CelCompileError:
        token = self._peek()
        found = "unexpected end of the expression" if token.kind == "end" else f"unexpected {token.text!r}"
        return CelCompileError(f"Syntax error: {found}{', ' + hint if hint else ''}", token.position)

    def _expression(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise CelCompileError(f"expression is nested deeper than {MAX_DEPTH} levels", self._peek().position)
        node = self._operation()
        token = self._peek()
        if self._accept("?"):
            then = self._operation()
            self._expect(":")
            node = Conditional(node, then, self._expression(), token.position)
        self._depth -= 1
        return node

    def _operation(self) -> Node:
        """Operands and binary operators by precedence; two stacks, so that operators add no recursion."""
        operands, waiting = [self._unary()], list[Token]()
        while True:
            token = self._peek()
            level = _LEVELS.get(token.text, 0)
            while waiting and _LEVELS[waiting[-1].text] >= level:
                right, left = operands.pop(), operands.pop()
                operands.append(_binary(waiting.pop(), left, right))
            if not level:
                return operands[0]
            waiting.append(self._take())
            operands.append(self._unary())

    def _unary(self) -> Node:
        """A run of `!` or of `-`, of which a pair cancels; a single `-` before a number belongs to the number."""
        token = self._peek()
        if token.kind != "symbol" or token.text not in "!-":
            return self._member(self._primary())
        times = 0
        while self._accept(token.text):
            times += 1
        number = self._peek()
        if times == 1 and token.text == "-" and number.kind == "number":
            self._next += 1
            return self._member(Literal(parse_number("-" + number.text, token.position), token.position))
        operand = self._member(self._primary())
        return Call(None, f"{token.text}_", (operand,), token.position) if times % 2 else operand

    def _member(self, node: Node) -> Node:
        """Everything that follows a primary: fields, member calls and indices."""
        while True:
            token = self._peek()
            if self._accept("."):
                optional = self._accept("?")
                name = self._field_name()
                if not optional and self._peek().text == "(":
                    node = self._call(node, name)
                else:
                    node = Select(node, name.text, optional, False, token.position)
            elif self._accept("["):
                optional = self._accept("?")
                index = self._expression()
                self._expect("]")
                node = Index(node, index, optional, token.position)
            else:
                return node

    def _field_name(self) -> Token:
        token = self._peek()
        if token.kind != "word" or token.text in _CONSTANTS or token.text == "in":
            raise self._unexpected("expecting a field name")
        return self._take()

    def _primary(self) -> Node:
        token = self._peek()
        if token.kind == "number":
            return Literal(parse_number(self._take().text, token.position), token.position)
        if token.kind == "text":
            return Literal(parse_text(self._take().text, token.position), token.position)
        if self._accept("("):
            node = self._expression()
            self._expect(")")
            return node
        if self._accept("["):
            return self._list(token.position)
        if self._accept("{"):
            return self._map(token.position)
        self._accept(".")  # a leading dot names the root scope, the only one there is
        word = self._peek()
        if word.kind != "word" or word.text == "in":
            raise self._unexpected()
        self._next += 1
        if word.text in _CONSTANTS:
            return Literal(_CONSTANTS[word.text], word.position)
        if word.text in RESERVED:
            raise CelCompileError(f"reserved identifier: {word.text}", word.position)
        if self._peek().text == "(":
            return self._call(None, word)
        return Ident(word.text, word.position)

    def _list(self, position: int) -> Node:
        elements: list[tuple[Node, bool]] = []
        while not self._accept("]"):
            optional = self._accept("?")
            elements.append((self._expression(), optional))
            if not self._accept(","):
                self._expect("]")
                break
        return ListLiteral(tuple(elements), position)

    def _map(self, position: int) -> Node:
        entries: list[tuple[Node, Node, bool]] = []
        while not self._accept("}"):
            optional = self._accept("?")
            key = self._expression()
            self._expect(":")
            entries.append((key, self._expression(), optional))
            if not self._accept(","):
                self._expect("}")
                break
        return MapLiteral(tuple(entries), position)

    def _call(self, target: Node | None, name: Token) -> Node:
        found: list[Node] = []
        self._expect("(")
        while not self._accept(")"):
            if found:
                self._expect(",")
            found.append(self._expression())
        args, position = tuple(found), name.position
        if target is None:
            return _has(args, position) if name.text == "has" and len(args) == 1 else _plain(name, args)
        if name.text == "bind" and len(args) == 3 and isinstance(target, Ident) and target.name == "cel":
            return Bind(_variable(args[0]), args[1], args[2], position)
        if name.text in ("optMap", "optFlatMap") and len(args) == 2:
            return OptionalMap(target, _variable(args[0]), args[1], name.text == "optFlatMap", position)
        fold = _FOLDS.get(name.text, {}).get(len(args))
        if fold is None:
            return Call(target, name.text, args, position)
        kind, count = fold
        variables = tuple(_variable(a) for a in args[:count])
        if len(set(variables)) < count:
            raise CelCompileError(f"duplicate variable name: {variables[0]}", args[1].position)
        predicate = args[count] if len(args) == count + 2 else None
        return Fold(kind, target, variables, predicate, args[-1], position)


def _plain(name: Token, args: tuple[Node, ...]) -> Node:
    return Call(None, name.text, args, name.position)


def _has(args: tuple[Node, ...], position: int) -> Node:
    selected = args[0]
    if not isinstance(selected, Select) or selected.optional:
        raise CelCompileError("invalid argument to has() macro", position)
    return Select(selected.operand, selected.field, False, True, position)


def _variable(node: Node) -> str:
    if not isinstance(node, Ident):
        raise CelCompileError("argument must be a simple name", node.position)
    return node.name


def _binary(operator: Token, left: Node, right: Node) -> Node:
    text = operator.text
    if text in ("&&", "||"):
        return _chain(text, left, right, operator.position)
    return Call(None, "@in" if text == "in" else f"_{text}_", (left, right), operator.position)


def _chain(operator: str, left: Node, right: Node, position: int) -> Node:
    """`a && b && c` as one node of three terms, however it is bracketed: the meaning is the same."""
    terms: list[Node] = []
    for side in (left, right):
        if isinstance(side, Logic) and side.operator == operator:
            terms += side.terms
        else:
            terms.append(side)
    return Logic(operator, tuple(terms), position)
