"""The leader goes in the middle of its work, well or not: the next one finishes what is half done and loses nothing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from scheduler import service
from scheduler.api import kinds
from tests.proxy import Around, Meddling, Read, ReadMeddling, Spoil, Write
from tests.service.conftest import PATIENCE_SECONDS, Cluster, Objects, allocated, scheduling
from tests.service.manifests import gang, namespace, template
from tests.service.process import Process
from tests.service.test_leadership import ELECTION, holder
from tests.service.verifier import Verifier, verified

GANGS = 5
PODS = 4
SOME = range(GANGS - 1)
"""The gangs that are there before the leader goes; their pods need a finalizer, a status and a binding each."""


MOMENTS = [*(pytest.param(number, marks=pytest.mark.slow) for number in (1, 40)), 14, 29]
"""Writes of commits, counted, after which the leader goes."""


@pytest.fixture
async def loaded(cluster: Cluster) -> Cluster:
    """Exactly as many devices as the gangs need: one that is lost on the way would leave a gang waiting."""
    await cluster.apply(namespace("tutti-system"))
    await cluster.add_nodes("h100x8", GANGS)
    await cluster.apply(template(count=2))
    return cluster


class At:
    """Does something right after the server has answered a commit's write of this number."""

    def __init__(self, number: int, act: Callable[[], Awaitable[None]]) -> None:
        self._number, self._act = number, act
        self._seen = 0
        self.done = asyncio.Event()

    def __call__(self, write: Write) -> Meddling:
        if not write.of_a_commit:
            return None
        self._seen += 1
        return Around(after=self._strike) if self._seen == self._number else None

    async def _strike(self) -> None:
        await self._act()
        self.done.set()


async def led(cluster: Cluster, *, but: str = "") -> str:
    """Until somebody leads, other than this one; who it is."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        leases = await cluster.until(kinds.LEASE, lambda found: _leader(found) not in ("", but), "somebody leads")
    return _leader(leases)


def _leader(leases: Objects) -> str:
    return str(leases.get("tutti-system/tutti-scheduler", {}).get("spec", {}).get("holderIdentity") or "")


async def whole(cluster: Cluster, verifier: Verifier) -> None:
    """All pods run, each with the two devices of its own claim, and no claim holds devices for nobody."""
    pods = await cluster.running("default", GANGS * PODS)
    alive = {pod["metadata"]["uid"] for pod in pods.values()}
    claims, _ = await cluster.client.list(kinds.RESOURCE_CLAIM)
    assert len(claims) == GANGS * PODS
    for claim in claims:
        assert len(allocated(claim)) == 2
        assert [entry["uid"] in alive for entry in claim["status"]["reservedFor"]] == [True]
    await verifier.until(lambda holders: sum(map(len, holders.values())) == 2 * GANGS * PODS)


def bindings(writes: list[Write]) -> list[str]:
    return [write.subject for write in writes if write.subject.endswith("/binding")]


@pytest.mark.parametrize("number", MOMENTS)
async def test_a_leader_is_killed_and_the_one_that_waits_makes_every_gang_whole(
    loaded: Cluster, tmp_path: Path, number: int
):
    async def kill() -> None:
        before.cut = True
        first.kill()

    strike = At(number, kill)
    async with (
        verified(loaded.client) as verifier,
        loaded.proxy(strike) as before,
        loaded.proxy() as after,
        Process(before.kubeconfig(tmp_path / "first"), **ELECTION) as first,
    ):
        leader = await led(loaded)
        async with Process(after.kubeconfig(tmp_path / "second"), **ELECTION):
            for each in SOME:
                await loaded.apply(gang(f"gang-{each}", PODS))
            async with asyncio.timeout(PATIENCE_SECONDS):
                await strike.done.wait()
            assert not [write for write in after.writes if write.of_a_commit]
            await loaded.apply(gang("late", PODS))
            await whole(loaded, verifier)
            assert await holder(loaded) not in ("", leader)
            assert bindings(after.writes)


@pytest.mark.parametrize("number", MOMENTS)
async def test_a_leader_that_is_asked_to_stop_finishes_what_it_has_begun_and_hands_over_the_rest(
    loaded: Cluster, tmp_path: Path, number: int
):
    async def stop() -> None:
        first.ask_to_stop()

    strike = At(number, stop)
    async with (
        verified(loaded.client) as verifier,
        loaded.proxy(strike) as before,
        loaded.proxy() as after,
        Process(before.kubeconfig(tmp_path / "first"), **ELECTION) as first,
    ):
        leader = await led(loaded)
        async with Process(after.kubeconfig(tmp_path / "second"), **ELECTION):
            for each in SOME:
                await loaded.apply(gang(f"gang-{each}", PODS))
            async with asyncio.timeout(PATIENCE_SECONDS):
                await strike.done.wait()
            await loaded.apply(gang("late", PODS))
            assert await first.ended() == 0
            done = bindings(before.writes)
            assert await led(loaded, but=leader)
            await whole(loaded, verifier)
    # What the first one had begun it has bound, whole gangs only; the second one has bound the others, and none again.
    assert len(done) % PODS == 0
    assert sorted([*done, *bindings(after.writes)]) == sorted(set(done) | set(bindings(after.writes)))
    assert len(done) + len(bindings(after.writes)) == GANGS * PODS


async def test_commits_that_do_not_end_in_time_are_cut_off_and_finished_by_the_next_leader(
    loaded: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(service, "_GRACE_SECONDS", 0.2)
    stuck = asyncio.Event()

    async def never() -> None:
        stuck.set()
        await asyncio.Event().wait()

    def hang(write: Write) -> Meddling:
        # One pod of each gang is bound, the others never get an answer.
        first_of_gang = write.subject.endswith("/binding") and write.subject.split("/")[1].split("-")[1] not in bound
        if write.subject.endswith("/binding") and first_of_gang:
            bound.add(write.subject.split("/")[1].split("-")[1])
            return None
        return Around(before=never) if write.subject.endswith("/binding") else None

    bound: set[str] = set()
    async with verified(loaded.client) as verifier, loaded.proxy(hang) as before:
        async with scheduling(loaded, before.kubeconfig(tmp_path / "first"), **ELECTION) as first:
            for each in range(GANGS):
                await loaded.apply(gang(f"gang-{each}", PODS))
            async with asyncio.timeout(PATIENCE_SECONDS):
                await stuck.wait()
            await first.stop()
        assert await holder(loaded) == ""
        async with scheduling(loaded, **ELECTION):
            await whole(loaded, verifier)


@pytest.mark.embedded
async def test_a_stand_by_whose_watch_lags_behind_gives_no_device_again(cluster: Cluster, tmp_path: Path):
    """It knows the claim that waits, and not that the leader has given all devices in its last moments."""
    following, lagging, caught_up = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def late(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for line in lines:
            if lagging.is_set():
                await caught_up.wait()
            yield line
            if b"BOOKMARK" in line:  # the end of what was there at first
                following.set()

    def lag(read: Read) -> ReadMeddling:
        if not (read.watch and read.path.endswith("/resourceclaims")):
            return None
        return Spoil(lines=late)

    await cluster.apply(namespace("tutti-system"))
    await cluster.add_nodes("h100x8")
    await cluster.apply(template(count=2))
    await cluster.apply(CLAIM)
    async with verified(cluster.client) as verifier, cluster.proxy() as proxy:
        proxy.meddle_read = lag
        async with scheduling(cluster, **ELECTION) as first:
            leader = await led(cluster)
            async with scheduling(cluster, proxy.kubeconfig(tmp_path / "second"), leads=False, **ELECTION):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await following.wait()
                lagging.set()
                await cluster.apply(gang("all", 4))
                await cluster.running("default", 4)
                await cluster.apply(WAITS)
                await first.stop()
                await led(cluster, but=leader)
                await cluster.apply(gang("late", 1, template=""))
                await cluster.running("default", 5)
                assert sum(map(len, verifier.holders.values())) == 8
                caught_up.set()
    claim = (await cluster.client.list(kinds.RESOURCE_CLAIM))[0]
    assert [allocated(each) for each in claim if each["metadata"]["name"] == "whole"] == [[]]


CLAIM = """
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: whole, namespace: default}
spec: {devices: {requests: [{name: gpus, exactly: {deviceClassName: gpu.nvidia.com, count: 8}}]}}
"""
WAITS = """
apiVersion: v1
kind: Pod
metadata: {name: waits, namespace: default}
spec:
  schedulerName: tutti
  resourceClaims: [{name: gpus, resourceClaimName: whole}]
  containers: [{name: main, image: example.com/trainer:v1, resources: {claims: [{name: gpus}]}}]
"""
