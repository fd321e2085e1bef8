"""Since when gangs run below their minimum: first seen here, or told by the condition on their PodGroup.

The condition is what a restart leaves. Of gangs without a PodGroup of ours nothing is left: their grace begins anew
with the scheduler, which is the safe side. What was true before its youngest pod started is over, whoever tells it: the
gang was whole then.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scheduler.api.crds import BELOW_MINIMUM
from scheduler.dra.caches import PerObject
from scheduler.model import endings
from scheduler.model.workloads import Gang
from scheduler.state.fields import time_ms

Conditions = Callable[[Gang], Any]
"""The conditions of the PodGroup of ours that stands for the gang, whatever they are; None if none does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fall:
    """A gang, by its uid ("" if nothing stands for it), has been below its minimum since then (ms since 1970)."""

    uid: str
    since_ms: int


@dataclass(slots=True, kw_only=True)
class Falls:
    """By gang (key)."""

    known: dict[str, Fall] = field(default_factory=dict)

    def copy(self) -> "Falls":
        return Falls(known=dict(self.known))

    def noted(self, gangs: tuple[Gang, ...], now_ms: int, conditions: Conditions) -> tuple[Gang, ...]:
        """The gangs, those that are below their minimum with the time; the same tuple if none is. Who is no longer
        there or below is forgotten."""
        several = (gang for gang in gangs if gang.min_member > 1 or gang.sub_groups)  # a pod alone runs, or does not
        short = [gang for gang in several if _is_short(gang)]
        self.known = {gang.key: self._since(gang, now_ms, conditions) for gang in short}
        if not short:
            return gangs
        since = {key: fall.since_ms for key, fall in self.known.items()}
        return tuple(replace(gang, below_since_ms=since[gang.key]) if gang.key in since else gang for gang in gangs)

    def _since(self, gang: Gang, now_ms: int, conditions: Conditions) -> Fall:
        known = self.known.get(gang.key)
        if known is not None and known.uid == gang.uid:
            since = known.since_ms
        else:
            told = _told(conditions(gang))
            since = now_ms if told is None else told
        starts = [pod.started_ms for pod in endings.runs(gang) if pod.started_ms is not None]
        return Fall(uid=gang.uid, since_ms=min(max([since, *starts]), now_ms))


@PerObject
def _is_short(gang: Gang) -> bool:
    return not gang.problems and endings.is_short(gang, {pod.key for pod in endings.runs(gang)})


def _told(conditions: Any) -> int | None:
    """The time of the condition, if there is one that is true. A status may hold anything."""
    for each in conditions if isinstance(conditions, list | tuple) else ():
        if isinstance(each, Mapping) and each.get("type") == BELOW_MINIMUM and each.get("status") == "True":
            time = each.get("lastTransitionTime")
            return (time_ms(time) or None) if isinstance(time, str) else None
    return None
