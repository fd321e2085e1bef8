"""Room for a gang: its promise is noted on its pods, then those in the way are asked to leave, by the Eviction API.

From the first moment they count as leaving and the gang as promised, so the next plan may be made meanwhile; what does
not come about is taken back. Nobody leaves for a promise that is not noted: the next leader would not know of it.
"""

import asyncio
from collections.abc import Callable, Container, Sequence

from scheduler.commit.attempts import NotLeading, WriteRefused
from scheduler.commit.known import Known
from scheduler.commit.outcome import EvictionOutcome, LeadershipLost, NotPromised, Withdrawn
from scheduler.commit.pods import Pods
from scheduler.commit.writes import Evict, Nominate


class Room:
    """For one gang (key), or "" for who leaves for his own sake. `guarded`: pods (keys) whose leaving a budget may
    refuse; None: anybody's."""

    def __init__(
        self,
        pods: Pods,
        state: Known,
        gang: str,
        told: Sequence[Nominate],
        leaving: Sequence[Evict],
        guarded: Container[str] | None,
        now_ms: Callable[[], int],
    ) -> None:
        self._pods = pods
        self._state = state
        self._gang = gang
        self._told = told
        self._leaving = leaving
        self._guarded: list[Evict] = []
        self._free: list[Evict] = []
        for each in leaving:
            (self._guarded if guarded is None or each.pod in guarded else self._free).append(each)
        for nomination in told:
            state.assume_nominated(nomination.pod, nomination.uid, nomination.node, now_ms=now_ms())
        for eviction in leaving:
            state.assume_terminating(eviction.pod, eviction.uid, now_ms=now_ms())

    @property
    def pods(self) -> tuple[str, ...]:
        """The pods (keys) that it is about."""
        return (*(each.pod for each in self._told), *(each.pod for each in self._leaving))

    async def make(self) -> list[EvictionOutcome]:
        """Of every pod that was asked to leave, or was not because others may not."""
        trouble = await self._noted()
        if trouble is None:
            outcomes = await self._all_leave()
        else:
            unpromised = None if isinstance(trouble, LeadershipLost) else trouble
            problem = "another replica leads" if unpromised is None else unpromised.problem
            outcomes = [EvictionOutcome(pod=each.pod, problem=problem, unpromised=unpromised) for each in self._leaving]
        left = {outcome.pod for outcome in outcomes if not outcome.problem}
        for each in self._leaving:
            if each.pod not in left:
                self._state.forget_eviction(each.pod, each.uid)
        return outcomes

    async def _noted(self) -> NotPromised | Withdrawn | LeadershipLost | None:
        """Why the promise could not be noted on every pod; None if it was."""
        results = await asyncio.gather(*map(self._pods.nominate, self._told), return_exceptions=True)
        troubles: list[NotPromised | Withdrawn | LeadershipLost] = []
        for nomination, result in zip(self._told, results, strict=True):
            if result is not True:
                self._state.forget_nomination(nomination.pod, nomination.uid)
            if isinstance(result, NotLeading):
                troubles.append(LeadershipLost(gang=self._gang))
            elif isinstance(result, WriteRefused):
                troubles.append(NotPromised(gang=self._gang, object=result.object, problem=result.problem))
            elif isinstance(result, BaseException):
                raise result
            elif not result:
                troubles.append(Withdrawn(gang=self._gang, problem=f"Pod {nomination.pod} had gone"))
        return troubles[0] if troubles else None

    async def _all_leave(self) -> list[EvictionOutcome]:
        """Those first whom a budget may keep, one after the other: a budget may leave each alone in peace, but not all
        of them. If one has to stay the others would go in vain."""
        asked = await asyncio.gather(*map(self._pods.may_leave, self._guarded))
        if refused := [outcome for outcome in asked if outcome.problem]:
            return refused
        outcomes: list[EvictionOutcome] = []
        for each in self._guarded:
            outcomes.append(await self._pods.evict(each))
            if outcomes[-1].problem:
                return outcomes
        return [*outcomes, *await asyncio.gather(*map(self._pods.evict, self._free))]
