"""Running work makes way: a queue takes back its share, and keeps what it won until it has it."""

from scheduler.api import kinds
from tests.service.conftest import Cluster, Objects, scheduling
from tests.service.manifests import gang, queue, template
from tests.service.verifier import verified

STAGES = ("allocate", "consolidate", "reclaim", "preempt")


async def test_a_queue_takes_back_its_share_and_nobody_is_stopped_again_afterwards(cluster: Cluster):
    await cluster.add_nodes("h100x8")
    await cluster.apply(queue("red", "{resources: {gpu: {quota: 4}}}"))
    await cluster.apply(queue("blue", "{resources: {gpu: {quota: 4}}}"))
    await cluster.apply(template())
    async with verified(cluster.client) as verifier, scheduling(cluster, stages=STAGES):
        for number in range(8):
            await cluster.apply(gang(f"red-{number}", 1, queue="red"))
        await cluster.running("default", 8)
        await cluster.apply(gang("blue", 4, queue="blue"))

        def shared_out(pods: Objects) -> bool:
            return (running(pods, "blue"), running(pods, "red")) == (4, 4)

        start = alive(await cluster.until(kinds.POD, shared_out, "each queue has its half"))
        for number in range(2):
            await cluster.apply(gang(f"late-{number}", 1, queue="blue"))
        await cluster.reason("default/late-0", "GangDoesNotFit")
        assert alive(await cluster.until(kinds.POD, calm, "whoever was stopped has left")) == start
        await verifier.until(lambda holders: len(holders) == 8)


async def test_a_disruption_budget_is_respected_and_others_go_instead(cluster: Cluster):
    await cluster.add_nodes("h100x8")
    await cluster.apply(queue("red", "{resources: {gpu: {quota: 6}}}"))
    await cluster.apply(queue("blue", "{resources: {gpu: {quota: 2}}}"))
    await cluster.apply(template(count=2))
    async with verified(cluster.client), scheduling(cluster, stages=STAGES):
        for number in range(4):
            await cluster.apply(gang(f"red-{number}", 1, queue="red"))
        await cluster.running("default", 4)
        await cluster.apply(
            """
            apiVersion: policy/v1
            kind: PodDisruptionBudget
            metadata: {name: calm, namespace: default}
            spec:
              maxUnavailable: 0
              selector:
                matchExpressions:
                - {key: tutti.scheduler/pod-group, operator: In, values: [red-1, red-2, red-3]}
            """
        )
        await cluster.apply(gang("blue", 1, queue="blue"))

        def made_way(pods: Objects) -> bool:
            return running(pods, "blue") == 1 and running(pods, "red-0") == 0

        pods = await cluster.until(kinds.POD, made_way, "the only one that may go has gone")
    assert running(pods, "red") == 3


def alive(pods: Objects) -> set[str]:
    """The names of those that run and are not told to end."""
    return {
        pod["metadata"]["name"]
        for pod in pods.values()
        if pod["status"].get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")
    }


def calm(pods: Objects) -> bool:
    return not any(pod["metadata"].get("deletionTimestamp") for pod in pods.values())


def running(pods: Objects, prefix: str) -> int:
    return sum(name.startswith(prefix) for name in alive(pods))
