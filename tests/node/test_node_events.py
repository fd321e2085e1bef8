"""Events on claims and pods: one for each object, whose count rises."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dra_driver.devices import ClaimRef
from dra_driver.events import Events, claim_and_pods
from scheduler.api import kinds
from scheduler.devcluster.run import DevCluster
from scheduler.kube.client import Client

CLAIM = ClaimRef(namespace="default", name="gpus", uid="uid-of-gpus")
DOCUMENT = {
    "status": {
        "reservedFor": [
            {"resource": "pods", "name": "train-0", "uid": "uid-0"},
            {"resource": "podgroups", "apiGroup": "scheduling.k8s.io", "name": "train", "uid": "uid-g"},
        ]
    }
}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with (
        DevCluster(shapes={}) as served,
        await Client.connect(served.kubeconfig(tmp_path / "kubeconfig")) as client,
    ):
        yield client


async def told(client: Client) -> list[tuple[str, str, str, str, int]]:
    events, _ = await client.list(kinds.EVENT, "default")
    return sorted(
        (each["involvedObject"]["kind"], each["involvedObject"]["name"], each["reason"], each["message"], each["count"])
        for each in events
    )


def test_a_claim_is_told_of_and_the_pods_it_is_reserved_for():
    assert [(str(each.kind), each.name, each.uid) for each in claim_and_pods(CLAIM, DOCUMENT)] == [
        ("resourceclaims.resource.k8s.io", "gpus", "uid-of-gpus"),
        ("pods", "train-0", "uid-0"),
    ]
    assert [each.name for each in claim_and_pods(CLAIM, None)] == ["gpus"]
    assert [each.name for each in claim_and_pods(CLAIM, {"status": None})] == ["gpus"]


async def test_the_same_words_once_more_raise_the_count_also_after_a_restart(client: Client):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for _ in range(2):
        events = Events(client, "n1", lambda: now)
        events.tell(claim_and_pods(CLAIM, DOCUMENT), "PrepareFailed", "Device gpu-0: busy.")
        await events.sent()
    events.tell(claim_and_pods(CLAIM, None), "PrepareFailed", "Device gpu-0: lost.")
    await events.sent()

    assert await told(client) == [
        ("Pod", "train-0", "PrepareFailed", "Device gpu-0: busy.", 2),
        ("ResourceClaim", "gpus", "PrepareFailed", "Device gpu-0: busy.", 2),
        ("ResourceClaim", "gpus", "PrepareFailed", "Device gpu-0: lost.", 1),
    ]
    event: dict[str, Any] = (await client.list(kinds.EVENT, "default"))[0][0]
    assert (event["source"], event["type"]) == ({"component": "tutti-dra-driver", "host": "n1"}, "Warning")
    assert event["lastTimestamp"] == "2026-01-01T00:00:00Z"


async def test_long_words_are_cut_and_an_event_that_cannot_be_sent_stops_nobody(client: Client):
    events = Events(client, "n1", lambda: datetime(2026, 1, 1, tzinfo=UTC))
    nowhere = ClaimRef(namespace="nosuch", name="gpus", uid="u")
    events.tell([*claim_and_pods(nowhere, None), *claim_and_pods(CLAIM, None)], "PrepareFailed", "x" * 2000)
    await events.sent()
    (event,) = await told(client)
    assert len(event[3]) == 1024
