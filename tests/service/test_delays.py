"""What waits for a time is decided when it has come, though nothing changes then. Source: docs/admin/queues.md."""

from scheduler.api import kinds
from tests.service.conftest import Cluster, Objects, scheduling
from tests.service.manifests import gang, queue, template

# Nobody looks around by himself: only what is foreseen, or changes, is decided.
CALM = {"stages": ("allocate", "reclaim"), "recheck_seconds": 3600}


async def test_a_gang_takes_back_its_share_when_its_preemption_delay_is_over(cluster: Cluster):
    await cluster.add_nodes("h100x8")
    await cluster.apply(queue("red"))
    await cluster.apply(queue("blue", "{resources: {gpu: {quota: 8}}}"))
    await cluster.apply(template(count=8))
    async with scheduling(cluster, **CALM) as tutti:
        await cluster.apply(gang("red", 1, queue="red"))
        await cluster.running("default", 1)
        await cluster.apply(
            gang("blue", 1, queue="blue").replace("minMember: 1", "minMember: 1\n          preemptionDelay: 3s")
        )
        await cluster.reason("default/blue", "GangDoesNotFit")
        assert not any(cycle.plan.evictions for cycle in tutti.cycles)
        assert tutti.cycles[-1].plan.again_ms is not None

        def has_it(pods: Objects) -> bool:
            running = [key for key, pod in pods.items() if (pod.get("status") or {}).get("phase") == "Running"]
            return len(running) == 1 and "blue" in running[0]

        await cluster.until(kinds.POD, has_it, "blue runs in the place of red")
