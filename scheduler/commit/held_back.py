"""Which gangs are not committed again yet, because their last commit failed."""

from collections.abc import Mapping
from dataclasses import replace

from scheduler.commit.outcome import GangOutcome, Withdrawn
from scheduler.model.reasons import Reason
from scheduler.model.snapshot import Snapshot

_LONGEST_RETRY_SECONDS = 60.0

_KEEPS_ROOM = 5
"""After so many failures a gang's promised room is not kept any more while it waits: others may start there."""

_ELSEWHERE = 0.125
"""A failure after which the next try is another one counts as such a part of one: many devices may be broken."""


class HeldBack:
    """Gangs whose commit failed wait a while before they are committed again: twice as long each time."""

    def __init__(self, first_seconds: float) -> None:
        self._first = first_seconds
        self._until: dict[str, tuple[float, Reason]] = {}
        self._failures: dict[str, float] = {}

    @property
    def gangs(self) -> frozenset[str]:
        return frozenset(self._until)

    @property
    def reasons(self) -> Mapping[str, Reason]:
        """Why each of them waits."""
        return {gang: reason for gang, (_, reason) in sorted(self._until.items())}

    def note(self, outcome: GangOutcome, now: float) -> None:
        """A gang's commit ended. The first time that it was only overtaken by a change costs no wait, and where the
        next try is another one the wait grows slowly."""
        if outcome.reason is None:
            self._until.pop(outcome.gang, None)
            self._failures.pop(outcome.gang, None)
            return
        weight = _ELSEWHERE if outcome.elsewhere else 1
        failures = self._failures[outcome.gang] = self._failures.get(outcome.gang, 0) + weight
        if isinstance(outcome.reason, Withdrawn) and failures == 1:
            return
        wait = min(self._first * 2 ** int(max(failures - 1, 0)), _LONGEST_RETRY_SECONDS)
        self._until[outcome.gang] = (now + wait, outcome.reason)

    def without_them(self, snapshot: Snapshot, now: float) -> Snapshot:
        """The snapshot in which gangs that still wait ask for nothing: what they would take is free for others, and
        what they have already stays theirs; so does room that others made for them, but not for ever. Their decision
        says why they wait."""
        for gang in [gang for gang, (until, _) in self._until.items() if until <= now]:
            del self._until[gang]
        there = {gang.key for gang in snapshot.gangs}
        for gang in [gang for gang in self._failures if gang not in there]:
            del self._failures[gang]
            self._until.pop(gang, None)
        if not self._until:
            return snapshot
        gangs = tuple(
            replace(
                gang,
                problems=(*gang.problems, self._until[gang.key][1]),
                held_back=self._failures[gang.key] < _KEEPS_ROOM,
            )
            if gang.key in self._until
            else gang
            for gang in snapshot.gangs
        )
        return replace(snapshot, gangs=gangs)

    def seconds_left(self, now: float) -> float:
        """Until the first of them may be tried again; infinity if there is none."""
        return min((max(until - now, 0.0) for until, _ in self._until.values()), default=float("inf"))
