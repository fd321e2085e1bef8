"""Running work makes way: a queue takes back its share, and keeps what it won until it has it."""

import asyncio
from pathlib import Path

from scheduler.api import kinds
from tests.proxy import Around, Meddling, Write
from tests.service.conftest import BUDGET, PATIENCE_SECONDS, Cluster, Objects, scheduling
from tests.service.manifests import gang, queue, template
from tests.service.process import Process
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


async def test_nobody_is_stopped_where_a_budget_lets_go_of_one_and_two_are_needed(cluster: Cluster):
    """The first would be gone before the server refuses the second; so the budget is looked at before."""
    await cluster.add_nodes("h100x8")
    await cluster.apply(queue("red", "{resources: {gpu: {quota: 0}}}"))
    await cluster.apply(queue("blue", "{resources: {gpu: {quota: 8}}}"))
    await cluster.apply(template(count=4))
    async with verified(cluster.client), scheduling(cluster, stages=STAGES):
        await cluster.apply(gang("red-0", 1, queue="red"))
        await cluster.apply(gang("red-1", 1, queue="red"))
        start = alive(await cluster.running("default", 2))
        assert len(start) == 2
        await cluster.apply(budget(1))
        await cluster.until(BUDGET, lambda found: allowed(found) == 1, "one of the two may go")
        await cluster.apply(gang("blue", 2, queue="blue"))
        await cluster.reason("default/blue", "GangDoesNotFit", "reclaim: 2 pods may go")
        assert alive(await cluster.until(kinds.POD, calm, "nobody is on his way out")) == start

        await cluster.apply(budget(0))

        def made_way(pods: Objects) -> bool:
            return (running(pods, "blue"), running(pods, "red")) == (2, 0)

        await cluster.until(kinds.POD, made_way, "both may go, and go")


async def test_killed_when_half_of_the_victims_have_gone_the_next_start_goes_on_for_the_same_gang(
    cluster: Cluster, tmp_path: Path
):
    await cluster.add_nodes("h100x8", 2)
    await cluster.apply(queue("red", "{resources: {gpu: {quota: 8}}}"))
    await cluster.apply(queue("blue", "{resources: {gpu: {quota: 8}}}"))
    await cluster.apply(template(count=2))
    killed = asyncio.Event()
    evicted: list[str] = []

    def meddle(write: Write) -> Meddling:
        if not write.path.endswith("/eviction"):
            return None
        evicted.append(write.subject)
        if len(evicted) < 2:
            return None
        return Around(after=kill) if len(evicted) == 2 else Around(before=late)

    async def kill() -> None:
        proxy.cut = True
        scheduler.kill()
        killed.set()

    async def late() -> None:
        await killed.wait()

    async with verified(cluster.client) as verifier:
        async with (
            cluster.proxy(meddle) as proxy,
            Process(proxy.kubeconfig(tmp_path / "through-proxy"), stages=STAGES) as scheduler,
        ):
            for number in range(8):
                await cluster.apply(gang(f"red-{number}", 1, queue="red"))
            start = alive(await cluster.running("default", 8))
            await cluster.apply(gang("blue", 4, queue="blue"))
            async with asyncio.timeout(PATIENCE_SECONDS):
                await killed.wait()

        def half(pods: Objects) -> bool:
            return (running(pods, "red"), running(pods, "blue")) == (6, 0)

        await cluster.until(kinds.POD, half, "two of the four have gone")
        async with scheduling(cluster, stages=STAGES):
            for number in range(2):
                await cluster.apply(gang(f"late-{number}", 1, queue="blue"))

            def made_way(pods: Objects) -> bool:
                return running(pods, "blue") == 4 and calm(pods)

            pods = await cluster.until(kinds.POD, made_way, "the gang has the room that was won for it")
        assert len(alive(pods) & start) == 4
        assert running(pods, "late") == 0
        await verifier.until(lambda holders: sum(map(len, holders.values())) == 16)


def budget(keeps: int) -> str:
    """Over the pods of red-0 and red-1."""
    return f"""
        apiVersion: policy/v1
        kind: PodDisruptionBudget
        metadata: {{name: calm, namespace: default}}
        spec:
          minAvailable: {keeps}
          selector:
            matchExpressions:
            - {{key: tutti.scheduler/pod-group, operator: In, values: [red-0, red-1]}}
        """


def allowed(found: Objects) -> int:
    """How many pods may go by the status of the only budget; -1 before there is one."""
    return next((int(each.get("status", {}).get("disruptionsAllowed", -1)) for each in found.values()), -1)


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
