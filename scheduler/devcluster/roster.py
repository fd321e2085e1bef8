"""The pods of each controller, counted as they change: thousands of pods cost a controller nothing to look at."""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.devcluster.mirror import Mirror, key_of
from scheduler.devcluster.objects import Obj, field_of
from scheduler.devcluster.pods import controller_uid, is_active, is_leaving, is_ready


@dataclass(slots=True)
class Roster:
    """One controller's pods. `active` by key; `ready` and `restarts` count among those, `leaving` all others."""

    active: dict[str, Obj] = field(default_factory=dict)
    ready: int = 0
    restarts: int = 0
    leaving: int = 0
    known: int = 0


_NOBODY = Roster()


class Rosters:
    """The roster of every controller, kept from the mirror of pods."""

    def __init__(self, pods: Mirror) -> None:
        self._by_uid: dict[str, Roster] = {}
        pods.listen(self._changed)

    def of(self, controller: str) -> Roster:
        """The roster of the controller of this uid; to be read only."""
        return self._by_uid.get(controller, _NOBODY)

    def _changed(self, before: Obj | None, after: Obj | None) -> None:
        for pod, sign in ((before, -1), (after, 1)):
            for uid in controller_uid(pod) if pod is not None else ():
                assert pod is not None
                self._count(self._by_uid.setdefault(uid, Roster()), pod, sign)
                if not self._by_uid[uid].known:
                    del self._by_uid[uid]

    def _count(self, roster: Roster, pod: Obj, sign: int) -> None:
        roster.known += sign
        if not is_active(pod):
            roster.leaving += sign * is_leaving(pod)
            return
        roster.ready += sign * is_ready(pod)
        roster.restarts += sign * _restarts(pod)
        if sign > 0:
            roster.active[key_of(pod)] = pod
        else:
            roster.active.pop(key_of(pod), None)


def _restarts(pod: Obj) -> int:
    return sum(int(entry.get("restartCount") or 0) for entry in field_of(pod, "status", "containerStatuses") or ())
