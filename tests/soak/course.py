"""One cluster under faults, from one seed, and what was found."""

import asyncio
import contextlib
import random
import tempfile
import traceback
from pathlib import Path
from typing import Any

from scheduler import decision
from scheduler.api import kinds
from scheduler.kube.client import ApiError
from tests.faults import Faults
from tests.proxy import Write
from tests.real.ground import ground
from tests.service.verifier import Verifier, follow
from tests.soak import asks, standing
from tests.soak.binds import Binds, forgotten
from tests.soak.driver import Driver
from tests.soak.judge import Awake, Refused, Wholeness, leaks
from tests.soak.life import NAMESPACE, Life
from tests.soak.replicas import JumpingClock, Replica, strike
from tests.soak.rivals import Rivals
from tests.soak.room import Room
from tests.soak.shares import Shares
from tests.soak.standing import Standing

Document = dict[str, Any]
STOP_SECONDS = 2.0
"""How long a pod takes to stop where room is made, in the cluster's time: promises are kept meanwhile."""


def soak(seed: int, seconds: float, *, real: bool = False) -> Document:
    """One cluster under faults; what was found, and figures. What breaks the course itself is a finding too."""
    try:
        with tempfile.TemporaryDirectory(prefix="tutti-soak-") as folder, contextlib.ExitStack() as stack:
            if not real:
                return asyncio.run(
                    _soak(
                        seed,
                        seconds,
                        Path(folder),
                        standing.embedded(
                            Path(folder), stop_seconds=STOP_SECONDS if Rivals(str(seed)).makes_room else 0.0
                        ),
                    )
                )
            found = stack.enter_context(ground())
            if found is None:
                return {"problems": ["there is no real control plane: make real builds one"], "told": []}
            return asyncio.run(_soak(seed, seconds, Path(folder), standing.real(found)))
    except Exception:  # noqa: BLE001 (told as a problem of this seed; the others go on)
        return {"problems": ["the course broke off"], "told": traceback.format_exc().splitlines()}


async def _soak(
    seed: int, seconds: float, folder: Path, cluster: contextlib.AbstractAsyncContextManager[Standing]
) -> Document:
    async with cluster as here:
        report = await _Soak(seed, here, folder).run(seconds)
        if here.nodes.double_allocations or here.nodes.foreign_devices:
            report["problems"].append(f"kubelets refused: {dict(here.nodes.refusals)}")
        return report


class _Soak:
    def __init__(self, seed: int, here: Standing, folder: Path) -> None:
        self._seed, self._here, self._client, self._folder = seed, here, here.client, folder
        self._began = asyncio.get_running_loop().time()
        self._told: list[str] = []
        self._driver = Driver(str(seed), here.client, here.gates, self._tell)
        self._rivals = Rivals(str(seed))
        self._life = Life(str(seed), here.client, self._add_nodes, asks.known(here.gates), self._rivals, self._tell)
        self._awake = Awake()
        self._room = Room(self._life.terms, self._rivals.caps, self._awake, self._tell)
        self._verifier, self._shares, self._binds = Verifier(), Shares(), Binds(self._awake)
        self._wholeness = Wholeness(self._life.came, self._life.gone, self._tell, self._awake)
        self._faults = [Faults(f"{seed}/{name}", self._rival) for name in ("a", "b")]
        self._replicas = [self._replica(name, faults) for name, faults in zip("ab", self._faults, strict=True)]

    async def run(self, seconds: float) -> Document:
        dice = random.Random(f"{self._seed}/kills")
        problems: list[str] = []
        refused = Refused(decision.log)
        async with refused.heard(), JumpingClock(dice).set() as clock, asyncio.TaskGroup() as group:
            parts = [group.create_task(self._awake.count()), group.create_task(self._wholeness.watch(self._client))]
            parts.append(group.create_task(follow(self._client, kinds.RESOURCE_CLAIM, self._see_claim)))
            parts.append(group.create_task(follow(self._client, kinds.POD, self._see_pod)))
            await self._driver.begin()
            await self._life.begin()
            parts += [group.create_task(replica.run()) for replica in self._replicas]
            striking = group.create_task(strike(self._replicas, dice))
            looking = group.create_task(self._look())
            await self._life.go_on(seconds)
            striking.cancel()
            for faults in self._faults:
                faults.over = True
            self._driver.steady = clock.steady = True
            await self._life.settle()
            self._room.calm()
            problems += await self._within(self._here.patience, self._unfinished)
            problems += await self._within(self._here.patience, self._forgotten)
            await self._life.end()
            problems += await self._within(self._here.patience, self._leaked)
            problems += await self._within(self._here.patience, self._unseen)
            for part in (*parts, looking):
                part.cancel()
        self._driver.end()
        self._binds.settled()
        self._room.settled()
        for replica in self._replicas:
            self._room.asked(replica.evictions)
        for judge in (self._verifier, self._shares, self._binds, self._wholeness, self._room, refused):
            problems += judge.problems
        problems += [crash for replica in self._replicas for crash in replica.crashes]
        return self._report(problems)

    def _report(self, problems: list[str]) -> Document:
        return {
            "problems": problems,
            "makes room": int(self._rivals.makes_room),
            "gangs": len(self._life.came),
            "claim versions": self._verifier.versions,
            "shares": self._shares.given,
            **dict(sorted(self._binds.figures.items())),
            **dict(sorted(self._room.figures.items())),
            "troubles": sum(sum(faults.seen.values()) for faults in self._faults),
            "starts": sum(replica.starts for replica in self._replicas),
            "writes": sum(replica.writes for replica in self._replicas),
            "longest plan seconds": round(max(replica.longest_plan for replica in self._replicas), 2),
            "longest partial seconds": [round(self._wholeness.longest[0], 1), self._wholeness.longest[1]],
            "told": self._told,
        }

    def _see_claim(self, event: str, claim: Document) -> None:
        self._verifier.see(event, claim)
        self._shares.see(event, claim)
        self._binds.see_claim(event, claim)
        self._driver.see(event, claim)

    def _see_pod(self, event: str, pod: Document) -> None:
        self._binds.see_pod(event, pod)
        self._room.see(event, pod)

    async def _add_nodes(self, shape: str, count: int) -> list[str]:
        nodes = await self._here.add_nodes(shape, count)
        for node in nodes:
            await self._driver.publish(node)
        return nodes

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            self._wholeness.look()
            self._binds.look()
            self._room.look()

    def _replica(self, name: str, faults: Faults) -> Replica:
        settings, planned = self._rivals.settings, self._room.planned
        return Replica(name, self._here.proxy, faults, self._folder, self._tell, settings=settings, planned=planned)

    def _tell(self, what: str) -> None:
        weather = " ".join(faults.weather.value for faults in self._faults)
        self._told.append(f"{asyncio.get_running_loop().time() - self._began:5.1f} [{weather}] {what}")

    async def _within(self, seconds: float, what_is_left: Any) -> list[str]:
        """Wait until nothing is left; what is, when the time is over."""
        end = self._awake.seconds + seconds
        while left := list(await what_is_left()):
            if self._awake.seconds > end:
                return left
            await asyncio.sleep(0.5)
        return []

    async def _unfinished(self) -> list[str]:
        jobs, _ = await self._client.list(kinds.JOB, NAMESPACE)
        left = [job for job in jobs if not _ended(job) and job["metadata"]["name"] not in self._life.gone]
        groups, _ = await self._client.list(kinds.POD_GROUP, NAMESPACE)
        told = {group["metadata"]["name"]: group.get("status") for group in groups}
        return [
            f"Job {name} has not ended: {job.get('status')}; its PodGroup: {told.get(name)}"
            for job in left
            for name in [job["metadata"]["name"]]
        ]

    async def _forgotten(self) -> list[str]:
        claims, _ = await self._client.list(kinds.RESOURCE_CLAIM, NAMESPACE)
        pods, _ = await self._client.list(kinds.POD, NAMESPACE)
        return forgotten(claims, pods)

    async def _leaked(self) -> list[str]:
        claims, _ = await self._client.list(kinds.RESOURCE_CLAIM, NAMESPACE)
        return leaks(claims) + forgotten(claims, [])

    async def _unseen(self) -> list[str]:
        """What the judges have not heard of yet, although the server has told it."""
        return [f"the watch of claims still shows {claim} with devices" for claim in sorted(self._verifier.holders)]

    async def _rival(self, write: Write) -> None:
        """Somebody else changes the object first."""
        if "/resourceclaims/" not in write.path:
            return
        name = write.path.split("/resourceclaims/", 1)[1].partition("/")[0]
        change = {"metadata": {"annotations": {"example.com/rival": str(write.number)}}}
        try:
            await self._client.patch(kinds.RESOURCE_CLAIM, NAMESPACE, name, change)
        except ApiError as error:
            if not error.not_found:
                raise


def _ended(job: Document) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(entry["type"] in ("Complete", "Failed") and entry["status"] == "True" for entry in conditions)
