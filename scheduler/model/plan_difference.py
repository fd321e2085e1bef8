"""Where two plans (as JSON, `scheduler.model.plan_document`) differ, in words."""

from collections.abc import Iterator, Mapping
from typing import Any

from scheduler.model.plan_document import Document

_ABSENT = "nothing"
# What the entries of a plan's lists are told apart by, in this order.
_NAMES = ("pod", "gang", "name", "object")
_LONGEST = 200


def differences(decided: Mapping[str, Any], again: Mapping[str, Any], held_back: Mapping[str, object]) -> list[str]:
    """One line for every value that is not the same, by path; none for equal plans.

    `held_back`: gangs whose reason came from outside of the plan; its details are not compared."""
    return list(_differences(_comparable(decided, held_back), _comparable(again, held_back), ""))


def _comparable(plan: Mapping[str, Any], held_back: Mapping[str, object]) -> Document:
    gangs = plan.get("gangs")
    if not isinstance(gangs, list):
        return dict(plan)
    return {**plan, "gangs": [_without_details(gang) if _name(gang) in held_back else gang for gang in gangs]}


def _without_details(gang: Any) -> Any:
    reason = gang.get("reason")
    return {**gang, "reason": {**reason, "details": None}} if isinstance(reason, dict) else gang


def _differences(decided: Any, again: Any, way: str) -> Iterator[str]:
    if decided == again:
        return
    if isinstance(decided, dict) and isinstance(again, dict):
        for name in sorted(decided.keys() | again.keys()):
            yield from _differences(decided.get(name), again.get(name), f"{way}.{name}" if way else name)
        return
    if isinstance(decided, list) and isinstance(again, list):
        left, right = _by_name(decided), _by_name(again)
        if left is not None and right is not None and left.keys() | right.keys():
            for name in sorted(left.keys() | right.keys()):
                yield from _differences(left.get(name), right.get(name), f"{way}[{name}]")
            return
    yield f"{way}: decided {_short(decided)}, now {_short(again)}"


def _by_name(entries: list[Any]) -> dict[str, Any] | None:
    """The entries by name; None if they have none, or not each its own."""
    found = {name: each for each in entries if (name := _name(each))}
    return found if len(found) == len(entries) else None


def _name(entry: Any) -> str:
    if not isinstance(entry, dict):
        return ""
    return next((str(entry[field]) for field in _NAMES if isinstance(entry.get(field), str)), "")


def _short(value: Any) -> str:
    if value is None:
        return _ABSENT
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
