"""Two replicas of the scheduler, each behind a proxy of its own, that are killed and started anew."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from scheduler import config, service
from scheduler.cycle import CycleReport
from scheduler.kube import clock as server_clock
from scheduler.kube.lease import LeaseLost
from scheduler.model.plan import Plan
from tests.faults import Faults
from tests.proxy import Proxy
from tests.soak.judge import defects

ELECTION = {"leader_election": True, "lease_seconds": 3, "lease_renew_seconds": 2, "lease_retry_seconds": 0.2}
SETTINGS: dict[str, Any] = {
    **ELECTION,
    "web_enabled": False,
    "log_level": "error",
    "log_format": "text",
    "commit_retry_seconds": 0.2,
    "recheck_seconds": 2,
    "write_backoff_seconds": 0.02,
    "binding_conditions_seconds": 10,
}


class Replica:
    """One scheduler that is started again whenever it ends. `crashes`: what it ended with, or could not plan with, that
    no scheduler should. `evictions`: how often each pod was asked to leave, or whether it might, by what was asked.
    `longest_plan`: seconds."""

    def __init__(
        self,
        name: str,
        proxy: Callable[[], Proxy],
        faults: Faults,
        folder: Path,
        tell: Callable[[str], None],
        *,
        settings: Mapping[str, Any],
        planned: Callable[[Plan], None],
    ) -> None:
        """`settings`: besides those of all. `planned` hears every plan."""
        self._settings, self._planned = {**SETTINGS, **settings}, planned
        self._name, self._make_proxy, self._faults, self._folder = name, proxy, faults, folder
        self._tell = tell
        self._serving: asyncio.Task[None] | None = None
        self._proxy: Proxy | None = None
        self.crashes: list[str] = []
        self.starts = 0
        self.cycles = 0
        self.writes = 0
        self.longest_plan = 0.0
        self.evictions: Counter[str] = Counter()

    async def run(self) -> None:
        """Until cancelled: serve, and after an end serve again."""
        while True:
            self.starts += 1
            self._proxy = self._make_proxy()
            self._proxy.meddle, self._proxy.meddle_read = self._faults.meddle, self._faults.meddle_read
            async with self._proxy:
                path = self._proxy.kubeconfig(self._folder / f"{self._name}-{self.starts}")
                settings = config.load(flags={"kubeconfig": path, **self._settings}, environment={})
                onlooker = service.Onlooker(cycle=self._count)
                serving = service.serve(settings, stop=asyncio.Event(), onlooker=onlooker)
                self._serving = asyncio.create_task(serving)
                try:
                    await asyncio.wait({self._serving})
                    self._judge(self._serving)
                finally:
                    self.writes += len(self._proxy.writes)
                    self.evictions.update(w.subject for w in self._proxy.writes if w.subject.endswith("/eviction"))
                    self._serving.cancel()
                    await asyncio.gather(self._serving, return_exceptions=True)

    def kill(self) -> None:
        """As SIGKILL does: nothing it has begun comes to an end."""
        if self._proxy is not None and self._serving is not None:
            self._tell(f"{self._name} is killed")
            self._proxy.cut_off()
            self._serving.cancel()

    def _count(self, report: CycleReport) -> None:
        if report.number == 1:
            self._tell(f"{self._name} decides for the first time")
        self.cycles = max(self.cycles, report.number)
        self._planned(report.plan)
        self.longest_plan = max(self.longest_plan, report.seconds.get("plan", 0.0))
        self.crashes += [problem for problem in defects(report.plan) if problem not in self.crashes]

    def _judge(self, ended: asyncio.Task[None]) -> None:
        if ended.cancelled():
            return
        error = ended.exception()
        self._tell(f"{self._name} ended: {error}")
        if error is None:
            self.crashes.append(f"{self._name} ended although nobody asked it to")
        elif not isinstance(error, LeaseLost):
            self.crashes.append(f"{self._name} crashed: {type(error).__name__}: {error}")


async def strike(replicas: list[Replica], dice: random.Random) -> None:
    """Kill one of them every few seconds, for ever."""
    while True:
        await asyncio.sleep(dice.uniform(5, 20))
        dice.choice(replicas).kill()


class JumpingClock:
    """Stands for `time` in the service: a wall clock that somebody sets forward and back, by up to an hour.

    All times in the cluster are the server's, so whoever goes by this one comes to grief.
    `steady`: when set, it stays as far off as it is."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._off = 0
        self.steady = False

    def time_ns(self) -> int:
        """Nanoseconds since the epoch, more or less."""
        if not self.steady and self._dice.random() < 0.02:
            self._off = int(self._dice.uniform(-3600, 3600) * 1e9)
        return time.time_ns() + self._off

    @contextlib.asynccontextmanager
    async def set(self) -> AsyncIterator["JumpingClock"]:
        """Make it the service's clock for the block."""
        right, server_clock.time = server_clock.time, self  # type: ignore[assignment]
        try:
            yield self
        finally:
            server_clock.time = right
