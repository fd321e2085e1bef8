"""A stand-by decides as the leader would and keeps the plan: if nothing has changed when it leads, that is carried out.

Until a leader's lease is over nothing is bound, so the plan for what it left is made by then.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scheduler.decision import decide
from scheduler.model.plan import Plan
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.state import translate
from scheduler.state.cluster import ClusterState

_SHARE = 0.1
"""Of its time a stand-by plans so much at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Foresight:
    """What a stand-by would do: the plan made from the state as it was at `version`, and when (monotonic seconds)."""

    version: int
    moment: float
    snapshot: Snapshot
    plan: Plan


class StandBy:
    """Plans again after changes, and before the kept plan is older than `recheck_seconds`, for so long an unchanged
    state needs no new one."""

    def __init__(
        self, state: ClusterState, *, policy: Policy, recheck_seconds: float, now_ms: Callable[[], int]
    ) -> None:
        self._state = state
        self._policy = policy
        self._recheck = recheck_seconds
        self._now_ms = now_ms
        self._changed = asyncio.Event()
        self._foreseeing: asyncio.Task[Foresight] | None = None

    def changed(self) -> None:
        """Something that decisions depend on has changed: keep up with it, so that not everything is translated when a
        plan is wanted."""
        self._changed.set()
        translate.prepare(self._state, self._policy)

    async def until(self, leading: asyncio.Future[Any], *, foreseen: Callable[[], None]) -> None:
        """Foresee what to do until we lead. `foreseen` is called each time that a plan was made.

        Returns as soon as we lead: a plan may be under way then. Raises what the planner raised."""
        try:
            while not leading.done():
                self._changed.clear()
                started = time.monotonic()
                self._foreseeing = asyncio.create_task(self._foresee())
                await asyncio.wait({leading, self._foreseeing}, return_when=asyncio.FIRST_COMPLETED)
                if self._foreseeing.done():
                    self._foreseeing.result()
                    foreseen()
                    await asyncio.wait({leading}, timeout=(time.monotonic() - started) / _SHARE)
                    await self._changed_or(leading)
        finally:
            if self._foreseeing is not None and not leading.done():
                self._foreseeing.cancel()

    async def foresight(self) -> Foresight | None:
        """The newest plan; one that is being made is waited for. None if there was no time to make any."""
        return None if self._foreseeing is None else await self._foreseeing

    async def _foresee(self) -> Foresight:
        version, moment = self._state.version, time.monotonic()
        snapshot = translate.snapshot(self._state, now_ms=self._now_ms(), policy=self._policy)
        plan = await asyncio.to_thread(decide, snapshot)
        return Foresight(version=version, moment=moment, snapshot=snapshot, plan=plan)

    async def _changed_or(self, leading: asyncio.Future[Any]) -> None:
        """Until something has changed, we lead, or the plan is half as old as it may become."""
        changed = asyncio.create_task(self._changed.wait())
        try:
            ends: set[asyncio.Future[Any]] = {leading, changed}
            await asyncio.wait(ends, timeout=self._recheck / 2, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
