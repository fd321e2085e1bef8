"""What a status shows, compared with what is to be said; and the patch that makes one the other, with times."""

from collections.abc import Iterable, Mapping
from typing import Any

from scheduler.api.meta import Condition
from scheduler.explain.documents import KAI_NODE_POOL, Said

_TIMES = ("lastTransitionTime", "decidedAt", "transitionID", "lastProbeTime", "observedGeneration")


def _is_kai_ours(condition: Mapping[str, Any]) -> bool:
    """Whether it is the scheduling condition we write: those of other node pools belong to other schedulers."""
    return condition.get("nodePool") == KAI_NODE_POOL


def condition_as_said(observed: Condition) -> Said:
    """A decoded condition as its document."""
    return {
        "type": observed.type,
        "status": observed.status,
        "reason": observed.reason or "",
        "message": observed.message or "",
        "lastTransitionTime": observed.last_transition_time,
    }


def part_said(observed: Mapping[str, Any], said: Said) -> Said:
    """The part of an observed status that `said` speaks of, without times."""
    known: Said = {}
    for field, value in said.items():
        there = observed.get(field)
        if field == "conditions":
            types = {each["type"] for each in value}
            there = [_without_times(each) for each in _entries(there) if each.get("type") in types]
        elif field == "schedulingConditions":
            there = [_without_times(each) for each in _entries(there) if _is_kai_ours(each)]
        elif isinstance(there, Mapping):
            there = _without_times(there)
        known[field] = there
    return known


def replacing(value: Any, *before: Any) -> Any:
    """A map that a merge patch leaves in the place of those before: what they had and it has not is null."""
    if not isinstance(value, Mapping):
        return value
    maps = [each for each in before if isinstance(each, Mapping)]
    gone = {key: None for each in maps for key in each if key not in value}
    return {**gone, **{key: replacing(below, *(each.get(key) for each in maps)) for key, below in value.items()}}


def _entries(conditions: Any) -> list[Mapping[str, Any]]:
    """The conditions that are maps with a type in words, or none: a status written by others may hold anything."""
    there = conditions if isinstance(conditions, list | tuple) else ()
    return [each for each in there if isinstance(each, Mapping) and isinstance(each.get("type", ""), str)]


def _without_times(value: Mapping[str, Any]) -> Said:
    return {field: each for field, each in value.items() if field not in _TIMES}


def outcomes(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Type and status of every condition."""
    return [(str(each.get("type")), str(each.get("status"))) for each in said.get("conditions") or ()]


def with_times(said: Iterable[Said], observed: Any, now: str) -> list[Said]:
    """The conditions said, each with the time its status last changed, beside those of others."""
    there = _entries(observed)
    before = {str(each.get("type")): each for each in there}
    timed = []
    for one in said:
        last = before.pop(one["type"], {})
        same = last.get("status") == one["status"]
        entry = {**one, "lastTransitionTime": (last.get("lastTransitionTime") if same else None) or now}
        if "nodePool" in one:
            turns = str(last.get("transitionID", "0"))
            entry["transitionID"] = str((int(turns) if turns.isdecimal() else 0) + (0 if same else 1))
        timed.append(entry)
    others = [dict(each) for each in there if str(each.get("type")) in before and not _is_kai_ours(each)]
    return [*timed, *others]
