"""After a claim is written, it is confirmed that no other one has its devices."""

import asyncio

import pytest

from scheduler.commit.attempts import WriteRefused
from scheduler.commit.fence import Fence
from scheduler.model.reasons import DeviceGivenTwice, Holding

CLAIM = {"metadata": {"namespace": "a", "name": "x", "uid": "u", "resourceVersion": "5"}}
TWICE = DeviceGivenTwice(
    device="d/p/g0", first=Holding(claim="b/y", uid="v"), second=Holding(claim="a/x", uid="u"), version="5"
)


class Watch:
    """What the watch of claims has told so far."""

    def __init__(self) -> None:
        self.version = 4
        self.twice: DeviceGivenTwice | None = None
        self.asked = asyncio.Event()

    def shows(self, claim: str, uid: str, version: str) -> bool:
        assert (claim, uid) == ("a/x", "u")
        self.asked.set()
        return self.version >= int(version)

    def rival(self, claim: str) -> DeviceGivenTwice | None:
        assert claim == "a/x"
        return self.twice


async def test_a_claim_is_confirmed_when_the_watch_has_told_it():
    watch = Watch()
    fence = Fence(watch)
    confirming = asyncio.create_task(fence.confirm(CLAIM))
    await watch.asked.wait()
    fence.changed()
    await asyncio.sleep(0)
    assert not confirming.done()
    watch.version = 5
    fence.changed()
    await confirming


async def test_a_claim_whose_device_another_holds_as_well_is_refused_whoever_was_first():
    watch = Watch()
    watch.version, watch.twice = 5, TWICE
    fence = Fence(watch)
    with pytest.raises(WriteRefused, match="device d/p/g0, which ResourceClaim b/y holds as well"):
        await fence.confirm(CLAIM)
    watch.twice = DeviceGivenTwice(device="d/p/g0", first=TWICE.second, second=TWICE.first, version="9")
    refused = fence.shared("a/x")
    assert refused is not None
    assert "ResourceClaim b/y" in refused.problem


async def test_a_claim_that_the_watch_does_not_tell_in_time_is_refused():
    with pytest.raises(WriteRefused, match="who else has its devices is not known"):
        await Fence(Watch(), patience_seconds=0).confirm(CLAIM)
