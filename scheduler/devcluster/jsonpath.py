"""The JSONPath of printer columns: `.spec.x`, `.list[0]`, `.list[*].name`, `.conditions[?(@.type=="Ready")].status`."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

Step = Callable[[list[Any]], list[Any]]

_TOKEN = re.compile(
    r"""\.(?P<field>(?:[^.\[\]\\'"]|\\.)+)"""
    r"""|\[(?P<quote>['"])(?P<key>.*?)(?P=quote)\]"""
    r"""|\[(?P<index>-?\d+)\]"""
    r"""|(?P<all>\[\*\]|\.\*)"""
    r"""|\[\?\(\s*@(?P<left>(?:\.(?:[^.\s=!<>\\]|\\.)+)+)\s*(?:(?P<op>==|!=)\s*(?P<right>"[^"]*"|'[^']*'|[^\s)]+)\s*)?\)\]"""
)


def _field(name: str) -> Step:
    return lambda values: [value[name] for value in values if isinstance(value, dict) and name in value]


def _item(index: int) -> Step:
    def step(values: list[Any]) -> list[Any]:
        return [value[index] for value in values if isinstance(value, list) and -len(value) <= index < len(value)]

    return step


def _everything(values: list[Any]) -> list[Any]:
    return [
        item
        for value in values
        for item in (value if isinstance(value, list) else value.values() if isinstance(value, dict) else ())
    ]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _filter(left: str, operator: str | None, right: str | None) -> Step:
    inner = compile_path(left)
    wanted = right[1:-1] if right and right[0] in "'\"" else right

    def passes(item: Any) -> bool:
        found = inner(item)
        if operator is None:
            return bool(found)
        return bool(found) and (_text(found[0]) == wanted) is (operator == "==")

    return lambda values: [item for value in values if isinstance(value, list) for item in value if passes(item)]


@lru_cache(maxsize=512)
def compile_path(path: str) -> Callable[[Any], list[Any]]:
    """A function from an object to the values at `path`. Raises ValueError for a path of another form."""
    text = path.strip().removeprefix("{").removesuffix("}")
    text = text if text.startswith((".", "[")) else "." + text
    steps: list[Step] = []
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None or found.end() == position:
            raise ValueError(f"JSONPath {path!r} is not understood from character {position} on")
        if found["field"] == "*" or found["all"]:
            steps.append(_everything)
        elif found["field"] is not None:
            steps.append(_field(re.sub(r"\\(.)", r"\1", found["field"])))
        elif found["key"] is not None:
            steps.append(_field(found["key"]))
        elif found["index"] is not None:
            steps.append(_item(int(found["index"])))
        else:
            steps.append(_filter(found["left"], found["op"], found["right"]))
        position = found.end()

    def values_of(obj: Any) -> list[Any]:
        values = [obj]
        for step in steps:
            values = step(values)
        return values

    return values_of
