"""An API server that refuses, fails and does not answer: gangs still come whole, one by one, and leave nothing."""

import random
from pathlib import Path

import pytest

from scheduler.api import kinds
from tests.proxy import LoseAnswer, LoseRequest, Meddling, Refuse, Write
from tests.service.conftest import Cluster, Objects, allocated, scheduling
from tests.service.manifests import gang, template
from tests.service.verifier import verified

TROUBLES: tuple[Meddling, ...] = (
    Refuse(409, "Conflict"),
    Refuse(429, "TooManyRequests"),
    Refuse(500, "InternalError"),
    Refuse(503, "ServiceUnavailable"),
    Refuse(403, "Forbidden"),
    LoseRequest(),
    LoseAnswer(),
)
GANGS = 10
PODS = 4


@pytest.mark.parametrize("seed", range(4))
async def test_gangs_come_whole_one_after_another_whatever_becomes_of_the_writes(
    cluster: Cluster, tmp_path: Path, seed: int
):
    dice = random.Random(seed)
    done: set[str] = set()

    def meddle(_: Write) -> Meddling:
        return dice.choice(TROUBLES) if dice.random() < 0.15 else None

    def running(pods: Objects) -> dict[str, int]:
        counts: dict[str, int] = {}
        for pod in pods.values():
            if pod["status"].get("phase") == "Running":
                name = pod["metadata"]["labels"]["tutti.scheduler/pod-group"]
                counts[name] = counts.get(name, 0) + 1
        return counts

    def whole(pods: Objects) -> list[str]:
        return sorted(name for name, count in running(pods).items() if count == PODS and name not in done)

    # Room for two gangs and a half: the third has to wait for devices of the first.
    await cluster.add_nodes("h100x8")
    await cluster.add_nodes("t4", 3)
    await cluster.apply(template(count=2))
    async with (
        verified(cluster.client) as verifier,
        cluster.proxy(meddle) as proxy,
        scheduling(
            cluster,
            proxy.kubeconfig(tmp_path / "through-proxy"),
            commit_retry_seconds=0.05,
            write_backoff_seconds=0.01,
            log_level="error",
        ),
    ):
        for number in range(GANGS):
            await cluster.apply(gang(f"gang-{number}", PODS))
        while len(done) < GANGS:
            pods = await cluster.until(kinds.POD, whole, f"another gang runs whole ({len(done)} did)")
            for name in whole(pods):
                done.add(name)
                await cluster.delete(kinds.JOB, f"default/{name}")

        def released(claims: Objects) -> bool:
            return not any(allocated(claim) for claim in claims.values())

        await cluster.until(kinds.RESOURCE_CLAIM, released, "every device is given back")
        await verifier.until(lambda holders: not holders)
    assert len(proxy.writes) > GANGS * PODS * 3
