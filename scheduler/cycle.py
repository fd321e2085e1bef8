"""One cycle, stage by stage: the table of contents of the house.

    state -> Snapshot -> plan() -> re-check, commit -> what a dead scheduler left -> explanation -> statuses and events

Commits overlap with the next cycle: what is being written counts as written in the state, so a gang is never planned
twice and no device given twice. Planning runs in a thread of its own, so that watches, writes and the lease go on.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from queues.reasons import OverLimit, OverQuota
from scheduler import stand_by
from scheduler.commit import recovery
from scheduler.commit.committer import Committer
from scheduler.commit.held_back import HeldBack
from scheduler.commit.outcome import EvictionOutcome, GangOutcome, InternalError
from scheduler.commit.writes import Nominations, evictions, nominations
from scheduler.decision import decide
from scheduler.explain import status, why
from scheduler.model.plan import Plan
from scheduler.model.reasons import GangDoesNotFit, NoNodeFits, Reason
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.state import translate
from scheduler.state.cluster import ClusterState
from scheduler.state.past_use import PastUse

log = structlog.get_logger(__name__)

_OVERDUE_MS = 30_000
"""A write that the watch has not shown for so long is looked up."""

_BEGUN_AT_ONCE = 64
"""After so many gangs what they write first goes out; noting what a thousand gangs take needs a tenth of a second."""

_SPARED_SECONDS = 60.0
"""A pod that the server did not let go, because of a disruption budget for instance, is left alone so long."""

_NO_PLACE = (NoNodeFits, GangDoesNotFit, OverLimit, OverQuota)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """When a cycle runs: soon after a change, never too often, and now and then anyway. Seconds.

    A long cycle is followed by a rest that is as long, and twice as long while commits are under way, for they need the
    interpreter too; never longer than `longest_rest`. What the watch merely confirms calls for no decision: users are
    told after `telling`, or after `telling_busy` while commits are under way."""

    debounce: float = 0.03
    interval: float = 0.1
    recheck: float = 30.0
    commit_retry: float = 1.0
    telling: float = 0.05
    telling_busy: float = 0.5
    longest_rest: float = 3.0

    def rest(self, last_cycle: float, *, committing: bool) -> float:
        """Seconds from the end of a cycle that took so long to the start of the next."""
        return max(self.interval - last_cycle, min(last_cycle * (2 if committing else 1), self.longest_rest))

    def calm(self, last_telling: float, *, committing: bool) -> float:
        """Seconds for which confirmations are gathered before they are told. What is told is looked for among all
        gangs, by the loop that reads and writes: a tenth of its time is for that at most."""
        return max(self.telling_busy if committing else self.telling, min(last_telling * 10, self.longest_rest))


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleReport:
    """What one cycle saw, decided and said. `seconds` by step: snapshot, plan, check, commit, explain.

    `state`: what the snapshot was made of, as it was; it changes no more. `held_back`: gangs that were not tried."""

    number: int
    state: ClusterState
    held_back: Mapping[str, Reason]
    snapshot: Snapshot
    plan: Plan
    reports: why.Reports
    seconds: Mapping[str, float] = field(default_factory=dict)


class Cycle:
    """Runs cycles one after another. `tell` takes what is to be written about the decisions; `observe` sees every
    cycle's report and every gang's outcome. `past_use`: what keeps account of it, if the past counts."""

    def __init__(
        self,
        state: ClusterState,
        committer: Committer,
        *,
        policy: Policy,
        rhythm: Rhythm,
        now_ms: Callable[[], int],
        teller: status.Teller,
        tell: Callable[[Sequence[status.StatusWrite]], None],
        observe: Callable[[CycleReport], None],
        observe_outcome: Callable[[GangOutcome], None],
        past_use: PastUse | None = None,
    ) -> None:
        self._state = state
        self._committer = committer
        self._policy = policy
        self._rhythm = rhythm
        self._now_ms = now_ms
        self._teller = teller
        self._tell = tell
        self._observe = observe
        self._observe_outcome = observe_outcome
        self._past_use = past_use
        self._held = HeldBack(rhythm.commit_retry)
        self._spared: dict[str, float] = {}
        """Pods (key) that the server did not let go, and until when (monotonic seconds) they are not asked again."""
        self._changed = asyncio.Event()
        self._confirmed = asyncio.Event()
        self._following: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._number = 0
        self._cycle_ended = time.monotonic()
        self._next_start = 0.0
        self._telling_took = 0.0
        self._again_ms: int | None = None
        self._foresight: stand_by.Foresight | None = None
        self._unsettled = False
        """Whether a cycle is due when the last commit under way has ended, and no earlier."""

    def changed(self) -> None:
        """Something that decisions depend on has changed: run a cycle soon."""
        self._changed.set()

    def confirmed(self) -> None:
        """Something that was written has been seen: there is more to tell, and nothing to decide."""
        self._confirmed.set()

    async def run(
        self, stop: asyncio.Event, *, grace_seconds: float, foresight: stand_by.Foresight | None = None
    ) -> None:
        """Cycles until `stop`; then waits so long for commits under way. Raises what a commit or the planner raised.
        The first cycle carries out what was foreseen if nothing has changed since.

        A commit that is cut off is finished or cleared by the next scheduler, as if this one had been killed."""
        stopping = asyncio.create_task(stop.wait())
        try:
            self._foresight = foresight
            self.changed()
            while await self._next_is_due(stopping):
                if self._only_confirmed():
                    self._tell_more()
                else:
                    await self.run_once()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.settled(), grace_seconds)
        finally:
            stopping.cancel()
            for task in self._following:
                task.cancel()

    async def run_once(self) -> CycleReport:
        """One cycle. Returns when its commits have begun; `settled` waits until they have ended."""
        started = time.monotonic()
        self._changed.clear()
        self._confirmed.clear()
        self._number += 1
        version, others = self._state.version, self._others_version
        clock = Stopwatch()
        seen = self._state.fork()
        snapshot, plan = await self._decided(clock)
        self._again_ms = plan.again_ms
        if self._past_use is not None:
            self._past_use.note(plan.queues)
        held_back = self._held.reasons
        self._hold_back_defects(plan)
        self._forgive(snapshot, plan)
        for number, commit in enumerate(self._committer.begin(plan, snapshot), 1):
            self._follow(self._conclude(commit))
            if number % _BEGUN_AT_ONCE == 0:
                await asyncio.sleep(0)
        overdue = self._state.overdue(snapshot.now_ms - _OVERDUE_MS)
        if overdue:
            self._follow(self._look_again(overdue))
        clock.lap("commit")
        busy = self._committer.under_way, self._held.gangs
        # In the thread as well: the first writes go out meanwhile.
        strays, reports, told = await asyncio.to_thread(_looked_at, snapshot, plan, busy)
        if told or plan.evictions:
            self._follow(self._make_room(snapshot, plan, told))
        if strays:
            self._follow(self._release(strays))
        self._tell(self._teller.status_writes(reports))
        clock.lap("explain")
        report = CycleReport(
            number=self._number,
            state=seen,
            held_back=held_back,
            snapshot=snapshot,
            plan=plan,
            reports=reports,
            seconds=clock.seconds,
        )
        self._observe(report)
        if self._state.version != version:
            nobody_waits = not any(decision.reason for decision in plan.gangs)
            self._unsettled = self._others_version == others and nobody_waits and bool(self._committer.in_flight)
            if not self._unsettled:
                self.changed()
        self._cycle_ended = time.monotonic()
        rest = self._rhythm.rest(self._cycle_ended - started, committing=bool(self._committer.in_flight))
        self._next_start = self._cycle_ended + rest
        return report

    async def settled(self) -> None:
        """Until every commit, eviction and release under way has ended. Raises what one of them raised."""
        while self._following:
            await asyncio.wait({*self._following, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                self._failed.result()

    async def _decided(self, clock: "Stopwatch") -> tuple[Snapshot, Plan]:
        """What is known, and the plan for it: the one foreseen if it is as good as a new one. An unchanged state is
        planned for again after `recheck` seconds."""
        foresight, self._foresight, self._unsettled = self._foresight, None, False
        if foresight is not None and foresight.version == self._state.version:
            fresh = time.monotonic() - foresight.moment < self._rhythm.recheck
            if fresh:
                return foresight.snapshot, foresight.plan
        now_ms = self._now_ms()
        usage = self._past_use.until(now_ms, self._state) if self._past_use is not None else None
        snapshot = translate.snapshot(self._state, now_ms=now_ms, policy=self._policy, usage=usage)
        snapshot = self._held.without_them(snapshot, time.monotonic())
        snapshot = self._with_spared(snapshot, time.monotonic())
        clock.lap("snapshot")
        plan = await asyncio.to_thread(decide, snapshot)
        clock.lap("plan")
        return snapshot, plan

    def _with_spared(self, snapshot: Snapshot, now: float) -> Snapshot:
        self._spared = {pod: until for pod, until in self._spared.items() if until > now}
        return replace(snapshot, spared=frozenset(self._spared)) if self._spared else snapshot

    @property
    def _others_version(self) -> int:
        """The version of the state without the steps that only carry out our plans."""
        return self._state.version - self._state.intended

    def _tell_more(self) -> None:
        """What the last cycle decided has come to pass, at least in part: say so."""
        self._confirmed.clear()
        started = time.monotonic()
        self._tell(self._teller.news(self._now_ms()))
        self._telling_took = time.monotonic() - started

    def _only_confirmed(self) -> bool:
        """Whether there is more to tell, and no cause for a cycle."""
        return self._confirmed.is_set() and not self._changed.is_set() and self._patience() > 0

    def _hold_back_defects(self, plan: Plan) -> None:
        """What could not be planned is not looked for anew in every cycle."""
        for decision in plan.gangs:
            if isinstance(decision.reason, InternalError) and decision.gang not in self._held.gangs:
                outcome = GangOutcome(gang=decision.gang, reason=decision.reason)
                self._held.note(outcome, time.monotonic())

    def _forgive(self, snapshot: Snapshot, plan: Plan) -> None:
        """A gang has no place without the devices that its claims avoid, or its queue has not enough for those that are
        left: from the next cycle on any of them will do."""
        if not self._state.avoided:
            return
        nowhere = {decision.gang for decision in plan.gangs if isinstance(decision.reason, _NO_PLACE)}
        pods = [pod for gang in snapshot.gangs if gang.key in nowhere for pod in gang.pods]
        for pod in pods:
            if pod.avoids:
                self._state.forgive_for_pod(pod.key, pod.uid)
        wanted = dict.fromkeys(entry.claim for pod in pods for entry in pod.claims if entry.claim)
        for claim in filter(None, map(snapshot.claims.get, wanted)):
            if claim.avoids:
                self._state.forgive(claim.key, claim.uid)

    async def _conclude(self, commit: asyncio.Task[GangOutcome]) -> None:
        outcome = await commit
        self._held.note(outcome, time.monotonic())
        self._observe_outcome(outcome)
        if outcome.reason is not None:
            log.info("a gang was not committed", gang=outcome.gang, reason=outcome.reason.message)
        settled = self._unsettled and not self._committer.in_flight
        if outcome.reason is not None or outcome.gone or settled:
            self.changed()

    async def _make_room(self, snapshot: Snapshot, plan: Plan, told: Nominations) -> None:
        outcomes = await self._committer.make_room(plan, told, guarded=_guarded(snapshot, plan))
        self._tell(self._teller.stopped(_stopped(snapshot, plan, outcomes), self._now_ms()))
        now = time.monotonic()
        for outcome in outcomes:
            if outcome.problem:
                log.info("a pod was not evicted", pod=outcome.pod, problem=outcome.problem)
                self.changed()
            if outcome.refused:
                self._spared[outcome.pod] = now + _SPARED_SECONDS
        for unpromised in dict.fromkeys(outcome.unpromised for outcome in outcomes if outcome.unpromised):
            self._held.note(GangOutcome(gang=unpromised.gang, reason=unpromised), now)

    async def _look_again(self, overdue: Sequence[str]) -> None:
        version = self._state.version
        await self._committer.look_again(overdue)
        if self._state.version != version:
            self.changed()

    async def _release(self, strays: Sequence[recovery.Stray]) -> None:
        if await self._committer.release(strays):
            self.changed()

    def _follow(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._following.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._following.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None and not self._failed.done():
            self._failed.set_exception(problem)

    async def _next_is_due(self, stopping: asyncio.Task[bool]) -> bool:
        """Wait until a cycle is due, or more can be told: True; or until stopped: False."""
        changed = asyncio.create_task(self._changed.wait())
        confirmed = asyncio.create_task(self._told_calmly())
        ends: set[asyncio.Future[Any]] = {stopping, self._failed}
        try:
            causes = {changed, confirmed, *ends}
            await asyncio.wait(causes, timeout=self._patience(), return_when=asyncio.FIRST_COMPLETED)
            rest = max(self._rhythm.debounce, self._next_start - time.monotonic())
            await asyncio.wait(ends, timeout=rest, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            confirmed.cancel()
        if self._failed.done():
            self._failed.result()
        return not stopping.done()

    async def _told_calmly(self) -> None:
        """Until something was confirmed, and what came soon after it, too."""
        await self._confirmed.wait()
        await asyncio.sleep(self._rhythm.calm(self._telling_took, committing=bool(self._committer.in_flight)))

    def _patience(self) -> float:
        """Seconds until a cycle is due although nothing has changed."""
        now = time.monotonic()
        left = self._cycle_ended + self._rhythm.recheck - now
        spared = min(self._spared.values(), default=float("inf")) - now
        soon = (left, self._held.seconds_left(now), spared, self._seconds_until_more_to_tell())
        return max(min(*soon, self._seconds_until_again()), 0.0)

    def _seconds_until_again(self) -> float:
        """Until time alone may have changed what the last plan said; infinity if it cannot."""
        return _seconds_until(self._again_ms, self._now_ms())

    def _seconds_until_more_to_tell(self) -> float:
        """Until what was held back for calm may be said; infinity if there is nothing."""
        return _seconds_until(self._teller.due_ms, self._now_ms())


def _seconds_until(due_ms: int | None, now_ms: int) -> float:
    """Infinity if that is never."""
    return float("inf") if due_ms is None else max(due_ms - now_ms, 0) / 1000


def _guarded(snapshot: Snapshot, plan: Plan) -> frozenset[str]:
    """The pods of those that are to leave (keys) that a budget covers."""
    leaving = {eviction.pod for eviction in plan.evictions} if snapshot.budgets else set()
    pods = [pod for pod in snapshot.pods if pod.key in leaving] if leaving else []
    return frozenset(pod.key for pod in pods if any(budget.covers(pod) for budget in snapshot.budgets))


def _stopped(snapshot: Snapshot, plan: Plan, outcomes: Sequence[EvictionOutcome]) -> tuple[why.StoppedPod, ...]:
    """The pods that were told to leave."""
    left = {outcome.pod for outcome in outcomes if not outcome.problem}
    gang_of = {pod.key: gang.key for gang in snapshot.gangs for pod in gang.pods if pod.key in left} if left else {}
    return tuple(
        why.StoppedPod(key=each.pod, uid=each.uid, gang=gang_of.get(each.pod, ""), stage=each.stage, why=each.why)
        for leaving in evictions(plan).values()
        for each in leaving
        if each.pod in left
    )


def _looked_at(
    snapshot: Snapshot, plan: Plan, busy: tuple[frozenset[str], frozenset[str]]
) -> tuple[tuple[recovery.Stray, ...], why.Reports, Nominations]:
    """What a dead scheduler left, what there is to say, and what was promised to whom."""
    under_way, held_back = busy
    strays = recovery.strays(snapshot, plan, under_way=under_way, held_back=held_back)
    return strays, why.reports(snapshot, plan), nominations(plan, snapshot)


class Stopwatch:
    """Seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = now - self._last
        self._last = now
