"""Leader election on a simulated server and clock: never two leaders, and a quick hand-over."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from scheduler.api.kinds import LEASE, Kind
from scheduler.kube.errors import ApiError
from scheduler.kube.lease import Election, LeaseLost

Document = dict[str, Any]
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Server:
    """One Lease with optimistic concurrency; `down`: every request fails; `lost`: the next answers are lost."""

    document: Document | None = None
    version: int = 0
    down: bool = False
    lost: int = 0
    writes: list[Document] = field(default_factory=list)

    async def get(self, _kind: Kind, _namespace: str | None, _name: str) -> Document:
        await self._reached()
        if self.document is None:
            raise ApiError(request="GET", status=404, reason="NotFound", message="no lease")
        return self.document

    async def create(self, _kind: Kind, _namespace: str | None, body: Document) -> Document:
        await self._reached()
        if self.document is not None:
            raise ApiError(request="POST", status=409, reason="AlreadyExists", message="there")
        return self._store(body)

    async def replace(self, _kind: Kind, _namespace: str | None, _name: str, body: Document) -> Document:
        await self._reached()
        assert self.document is not None
        if body["metadata"].get("resourceVersion") != self.document["metadata"]["resourceVersion"]:
            raise ApiError(request="PUT", status=409, reason="Conflict", message="changed")
        return self._store(body)

    async def _reached(self) -> None:
        await asyncio.sleep(0)
        if self.down:
            raise ApiError(request="-", status=0, reason="Unreachable", message="down")

    def _store(self, body: Document) -> Document:
        self.version += 1
        self.document = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        self.writes.append(self.document["spec"])
        if self.lost:
            self.lost -= 1
            raise ApiError(request="-", status=0, reason="NoAnswer", message="lost")
        return self.document


@dataclass
class Clock:
    """Seconds that pass only when the test says so."""

    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def candidate(server: Server, clock: Clock, identity: str = "one", **fields: Any) -> Election:
    return Election(
        client=server,
        namespace="tutti-system",
        name="tutti-scheduler",
        identity=identity,
        lease_seconds=15,
        renew_seconds=10,
        retry_seconds=0.001,
        clock=clock,
        now=lambda: START,
        jitter=random.Random(1),
        **fields,
    )


@asynccontextmanager
async def running(work: Any) -> AsyncIterator["asyncio.Task[Any]"]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.001)


async def test_the_first_candidate_makes_the_lease_and_leads(server: Server, clock: Clock) -> None:
    one = candidate(server, clock)
    assert not one.leading
    assert await one.acquire() == 0
    assert one.leading
    assert server.document is not None
    assert server.document["spec"] == {
        "holderIdentity": "one",
        "leaseDurationSeconds": 15,
        "acquireTime": "2026-01-01T00:00:00.000000Z",
        "renewTime": "2026-01-01T00:00:00.000000Z",
        "leaseTransitions": 0,
    }


async def test_a_second_candidate_waits_while_the_first_renews(server: Server, clock: Clock) -> None:
    one, two = candidate(server, clock), candidate(server, clock, "two")
    await one.acquire()
    async with running(one.hold()), running(two.acquire()) as waiting:
        for _ in range(20):
            clock.seconds += 3
            before = len(server.writes)
            await until(lambda before=before: len(server.writes) > before)  # type: ignore[misc]
        assert one.leading
        assert not waiting.done()


async def test_a_lease_that_is_not_renewed_is_taken_after_its_duration_and_counted(
    server: Server, clock: Clock
) -> None:
    one, two = candidate(server, clock), candidate(server, clock, "two")
    await one.acquire()
    async with running(two.acquire()) as waiting:
        await until(lambda: two.leader == "one")
        clock.seconds += 14
        await asyncio.sleep(0.02)
        assert not waiting.done()
        clock.seconds += 2
        assert await waiting == 1
    assert two.leading
    assert not one.leading


async def test_a_lease_is_looked_at_often_and_taken_the_moment_it_has_run_out(
    server: Server, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = candidate(server, clock), candidate(server, clock, "two")
    two.retry_seconds = 2.0
    await one.acquire()
    slept: list[float] = []
    pause = asyncio.sleep

    async def sleep(seconds: float) -> None:
        if seconds:
            slept.append(seconds)
            clock.seconds += seconds
        await pause(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    assert await two.acquire() == 1
    assert sum(slept) == pytest.approx(15)
    assert max(slept) <= 2.0 / 4 * 1.2


async def test_a_leader_that_cannot_renew_stops_before_another_may_take_over(server: Server, clock: Clock) -> None:
    one = candidate(server, clock)
    await one.acquire()
    server.down = True
    async with running(one.hold()) as holding:
        clock.seconds += 9
        assert one.leading
        clock.seconds += 1
        assert not one.leading
        with pytest.raises(LeaseLost, match="could not be renewed"):
            await holding


async def test_a_leader_survives_a_short_outage(server: Server, clock: Clock) -> None:
    one = candidate(server, clock)
    await one.acquire()
    async with running(one.hold()) as holding:
        server.down = True
        clock.seconds += 6
        await asyncio.sleep(0.01)
        server.down = False
        before = len(server.writes)
        await until(lambda: len(server.writes) > before)
        clock.seconds += 6
        assert one.leading
        assert not holding.done()


async def test_a_renewal_whose_answer_was_lost_is_recognised_as_ours(server: Server, clock: Clock) -> None:
    one = candidate(server, clock)
    await one.acquire()
    server.lost = 1
    async with running(one.hold()) as holding:
        await until(lambda: len(server.writes) > 4)
        assert one.leading
        assert not holding.done()


async def test_a_leader_that_finds_another_holder_stops_at_once(server: Server, clock: Clock) -> None:
    one = candidate(server, clock)
    await one.acquire()
    assert server.document is not None
    stolen = {**server.document, "spec": {**server.document["spec"], "holderIdentity": "two"}}
    server._store(stolen)
    with pytest.raises(LeaseLost, match="held by two"):
        await one.hold()
    assert not one.leading


async def test_a_lease_is_released_although_a_renewal_arrived_whose_answer_did_not(
    server: Server, clock: Clock
) -> None:
    one = candidate(server, clock)
    await one.acquire()
    assert server.document is not None
    await server.replace(LEASE, "tutti-system", "tutti-scheduler", server.document)
    await one.release()
    assert server.document["spec"]["holderIdentity"] == ""


async def test_a_lease_that_another_has_taken_is_left_to_him(server: Server, clock: Clock) -> None:
    one = candidate(server, clock)
    await one.acquire()
    assert server.document is not None
    taken = {**server.document, "spec": {**server.document["spec"], "holderIdentity": "two"}}
    await server.replace(LEASE, "tutti-system", "tutti-scheduler", taken)
    await one.release()
    assert server.document["spec"]["holderIdentity"] == "two"


async def test_a_released_lease_is_taken_without_waiting(server: Server, clock: Clock) -> None:
    one, two = candidate(server, clock), candidate(server, clock, "two")
    await one.acquire()
    await one.release()
    assert not one.leading
    assert await two.acquire() == 1
    assert clock.seconds == 1000


async def test_a_restarted_process_with_its_own_old_lease_leads_in_the_same_epoch(server: Server, clock: Clock) -> None:
    await candidate(server, clock).acquire()
    again = candidate(server, clock)
    assert await again.acquire() == 0
    assert again.leading


async def test_fields_of_a_newer_api_are_kept(server: Server, clock: Clock) -> None:
    one = candidate(server, clock)
    await one.acquire()
    assert server.document is not None
    server._store({**server.document, "spec": {**server.document["spec"], "strategy": "OldestEmulationVersion"}})
    async with running(one.hold()):
        await until(lambda: len(server.writes) > 3)
    assert server.writes[-1]["strategy"] == "OldestEmulationVersion"


def test_a_renewal_deadline_beyond_the_lease_is_refused(server: Server) -> None:
    with pytest.raises(ValueError, match="two replicas could lead"):
        Election(client=server, namespace="n", name="l", identity="i", lease_seconds=10, renew_seconds=10)
