"""Past use is kept in the status of queues, and whoever leads next goes on from there. Source: docs/admin/queues.md."""

from fractions import Fraction

from queues.usage import CLUSTER
from scheduler.api import kinds
from scheduler.api.quantity import parse
from tests.service.conftest import Cluster, scheduling
from tests.service.manifests import gang, queue, template

WEIGHED = {"usage_weight": 1, "usage_half_life_hours": 0.01}


async def used(cluster: Cluster) -> Fraction:
    """What the status of red tells, once it tells anything."""
    found = await cluster.until(
        kinds.QUEUE, lambda queues: (queues["red"].get("status") or {}).get("usage"), "the status tells past use"
    )
    return parse(found["red"]["status"]["usage"]["gpu"])


async def test_a_scheduler_that_starts_goes_on_from_what_the_last_one_counted(cluster: Cluster):
    await cluster.add_nodes("h100x8")
    await cluster.apply(queue("red"))
    await cluster.apply(template())
    async with scheduling(cluster, **WEIGHED):
        await cluster.apply(gang("first", 4, queue="red"))
        await cluster.running("default", 4)
        await cluster.apply(gang("second", 2, queue="red"))
        await cluster.running("default", 6)
        counted = await used(cluster)
    assert 0 < counted < 1
    async with scheduling(cluster, **WEIGHED) as tutti:
        seen = tutti.cycles[0].snapshot.usage["red"]["gpu"]
        assert Fraction(seen, CLUSTER) >= counted
        await cluster.apply(gang("third", 2, queue="red"))
        await cluster.running("default", 8)
        assert tutti.cycles[-1].snapshot.usage["red"]["gpu"] > seen


async def test_without_weight_nothing_is_recorded(cluster: Cluster):
    await cluster.add_nodes("h100x8")
    await cluster.apply(queue("red"))
    await cluster.apply(template())
    async with scheduling(cluster) as tutti:
        await cluster.apply(gang("first", 4, queue="red"))
        await cluster.running("default", 4)
        found = await cluster.until(kinds.QUEUE, lambda queues: (queues["red"].get("status") or {}).get("allocated"))
        assert not {"usage", "usageAt"} & found["red"]["status"].keys()
        assert all(not cycle.snapshot.usage for cycle in tutti.cycles)
