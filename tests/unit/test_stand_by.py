"""A stand-by has its plan ready when it leads, and plans again when something has changed."""

import asyncio
from collections.abc import Callable

import pytest

from scheduler import stand_by as module
from scheduler.model.errors import InvariantError
from scheduler.model.plan import Plan
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.plan import planner
from scheduler.stand_by import StandBy
from scheduler.state.cluster import ClusterState
from tests import manifests


@pytest.fixture
def state() -> ClusterState:
    return manifests.state(manifests.queue("default"), manifests.node("n1", cpu="4"), manifests.pod("p", cpu="1"))


@pytest.fixture
def by(state: ClusterState, monkeypatch: pytest.MonkeyPatch) -> StandBy:
    monkeypatch.setattr(module, "_SHARE", 1000)
    return StandBy(state, policy=Policy(), recheck_seconds=600, now_ms=lambda: 0)


class Standing:
    """A stand-by that waits until the test lets it lead."""

    def __init__(self, by: StandBy) -> None:
        self.leading: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.foreseen = 0
        self.ended = asyncio.create_task(by.until(self.leading, foreseen=self._count))

    def _count(self) -> None:
        self.foreseen += 1

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                await asyncio.sleep(0.001)


async def test_the_plan_is_there_when_we_lead(state: ClusterState, by: StandBy):
    standing = Standing(by)
    await standing.until(lambda: standing.foreseen == 1)
    standing.leading.set_result(None)
    await standing.ended

    foresight = await by.foresight()
    assert foresight is not None
    assert [placement.pod for placement in foresight.plan.placements] == ["a/p"]
    assert foresight.version == state.version


async def test_a_change_is_planned_for_and_quiet_is_not(state: ClusterState, by: StandBy):
    standing = Standing(by)
    await standing.until(lambda: standing.foreseen == 1)
    state.apply(manifests.change(manifests.pod("q", cpu="1")))
    by.changed()
    await standing.until(lambda: standing.foreseen == 2)
    await asyncio.sleep(0.05)
    assert standing.foreseen == 2
    standing.leading.set_result(None)
    await standing.ended

    foresight = await by.foresight()
    assert foresight is not None
    assert [placement.pod for placement in foresight.plan.placements] == ["a/p", "a/q"]


async def test_a_plan_under_way_when_we_lead_is_waited_for(by: StandBy, monkeypatch: pytest.MonkeyPatch):
    loop, begun, go_on = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    plan = planner.plan

    def slow(snapshot: Snapshot) -> Plan:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(10)
        return plan(snapshot)

    monkeypatch.setattr(planner, "plan", slow)
    standing = Standing(by)
    await begun.wait()
    standing.leading.set_result(None)
    await standing.ended
    assert standing.foreseen == 0, "whoever leads renews its lease first of all"

    go_on.set()
    foresight = await by.foresight()
    assert foresight is not None
    assert len(foresight.plan.placements) == 1


async def test_who_never_stood_by_has_foreseen_nothing(by: StandBy):
    assert await by.foresight() is None


async def test_a_planner_that_fails_stops_the_stand_by_as_well(by: StandBy, monkeypatch: pytest.MonkeyPatch):
    def broken(_: Snapshot) -> Plan:
        raise ZeroDivisionError

    monkeypatch.setattr(planner, "plan", broken)
    with pytest.raises(InvariantError, match="even without any waiting gang"):
        await Standing(by).ended
