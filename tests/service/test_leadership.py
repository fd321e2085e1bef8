"""Two replicas, one leader: the other one takes over, and whoever has lost the lease stops."""

import asyncio
import gc

import pytest

from scheduler.api import kinds
from scheduler.kube.lease import LeaseLost
from tests.service.conftest import Cluster, scheduling
from tests.service.manifests import gang, namespace, template

ELECTION = {
    "leader_election": True,
    "lease_seconds": 3,
    "lease_renew_seconds": 2,
    "lease_retry_seconds": 0.1,
}


@pytest.fixture
async def ready(cluster: Cluster) -> Cluster:
    await cluster.apply(namespace("tutti-system"))
    await cluster.add_nodes("h100x8")
    await cluster.apply(template())
    return cluster


async def holder(cluster: Cluster) -> str:
    lease = await cluster.client.get(kinds.LEASE, "tutti-system", "tutti-scheduler")
    return str(lease["spec"]["holderIdentity"])


async def test_the_second_replica_waits_and_takes_over_when_the_first_one_stops(ready: Cluster):
    async with scheduling(ready, **ELECTION) as first:
        leader = await holder(ready)
        async with scheduling(ready, leads=False, **ELECTION) as second:
            await ready.apply(gang("early", 2))
            await ready.running("default", 2)
            assert first.cycles
            assert not second.cycles
            await first.stop()

            await ready.apply(gang("late", 2))
            await ready.running("default", 4)
            assert second.cycles
            assert await holder(ready) not in ("", leader)


async def test_what_was_kept_from_the_collector_is_left_to_it_when_the_service_ends(ready: Cluster):
    async with scheduling(ready, **ELECTION) as tutti:
        assert gc.get_freeze_count()
        assert gc.get_threshold()[0] < 1_000_000, "what ends in a ring is found"
        await tutti.stop()
    assert gc.get_freeze_count() == 0


async def test_a_leader_whose_lease_was_taken_stops_writing_and_ends(ready: Cluster):
    async def robbed() -> None:
        async with scheduling(ready, **ELECTION) as tutti:
            lease = await ready.client.get(kinds.LEASE, "tutti-system", "tutti-scheduler")
            lease["spec"]["holderIdentity"] = "a thief"
            await ready.client.patch(kinds.LEASE, "tutti-system", "tutti-scheduler", {"spec": lease["spec"]})
            async with asyncio.timeout(20):
                await tutti.ended()
            await ready.apply(gang("late", 2))
            pods, _ = await ready.client.list(kinds.POD)
            assert all(not pod["spec"].get("nodeName") for pod in pods)

    with pytest.raises(LeaseLost, match="tutti-system/tutti-scheduler is held by a thief"):
        await robbed()
