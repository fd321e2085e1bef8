"""Volumes are written only while they are nobody else's, and left alone once they are bound."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from scheduler.commit.attempts import Patience, WriteRefused
from scheduler.commit.slots import Slots
from scheduler.commit.volumes import Volumes
from scheduler.commit.writes import VolumeWrite
from scheduler.kube.client import Client
from scheduler.kube.identity import Identity
from scheduler.model.nodes import Node
from scheduler.state.cluster import ClusterState
from tests.fake_api import FakeApi, answer
from tests.manifests import Document, state
from tests.storage import volume, volume_claim

CLAIM_URL, VOLUME_URL = "/api/v1/namespaces/a/persistentvolumeclaims/c", "/api/v1/persistentvolumes/v"
CLAIM = volume_claim("c", cls="local")
UID = CLAIM["metadata"]["uid"]


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with FakeApi() as server:
        yield server


@pytest.fixture
async def volumes(api: FakeApi) -> AsyncIterator[Volumes]:
    async with Client(Identity(server=api.url), timeout_seconds=5) as client:
        patience = Patience(attempts=1, backoff_seconds=0.001)
        yield Volumes(client, ClusterState(), Slots(4), patience=patience, may_write=lambda: True)


def serve(api: FakeApi, claim: Document, *of: Document) -> None:
    """The claim, and the volume as it is at each look."""
    api.script("GET", CLAIM_URL, answer(claim))
    api.script("PATCH", CLAIM_URL, answer(claim))
    if of:
        api.script("GET", VOLUME_URL, *map(answer, of))
        api.script("PATCH", VOLUME_URL, answer(of[-1]))


def write(volume: str = "v", node: str = "n1") -> VolumeWrite:
    return VolumeWrite(claim="a/c", uid=UID, volume=volume, node=node, consumers=())


def written(api: FakeApi) -> list[Mapping[str, Any]]:
    return [asked.body for asked in api.asked if asked.method == "PATCH"]


async def test_a_claim_that_is_provisioned_for_another_node_stays_there(api: FakeApi, volumes: Volumes) -> None:
    serve(api, volume_claim("c", node="n2"))
    with pytest.raises(WriteRefused, match="is being provisioned for node n2"):
        await volumes.secure(write(""))
    assert written(api) == []


async def test_a_volume_of_an_earlier_claim_of_that_name_is_not_taken(api: FakeApi, volumes: Volumes) -> None:
    """Reclaim policy Retain: it holds the data of a claim that was deleted, and waits for an administrator."""
    earlier = volume("v", claim=CLAIM)
    earlier["spec"]["claimRef"]["uid"] = "uid-of-the-earlier"
    serve(api, CLAIM, earlier)
    with pytest.raises(WriteRefused, match="PersistentVolume v was given to another claim"):
        await volumes.secure(write())
    assert written(api) == []


@pytest.mark.parametrize(("phase", "freed"), [("Available", True), ("Bound", False)])
async def test_a_volume_that_was_bound_meanwhile_stays_with_its_claim(
    api: FakeApi, volumes: Volumes, phase: str, freed: bool
) -> None:
    """The controller binds the volume first and then the claim: in between the claim does not tell."""
    serve(api, CLAIM, volume("v"), volume("v", claim=CLAIM, phase=phase))
    await volumes.secure(write())
    await volumes.take_back(write())
    promised, *undone = [body["spec"]["claimRef"] for body in written(api)]
    assert promised["uid"] == UID
    assert undone == ([None] if freed else [])


async def test_a_volume_given_to_another_claim_is_not_waited_for(api: FakeApi) -> None:
    other = volume_claim("other", cls="local")
    async with Client(Identity(server=api.url), timeout_seconds=5) as client:
        known = state(CLAIM, volume("v", claim=other))
        patience = Patience(volume_binding_seconds=0.1)
        volumes = Volumes(client, known, Slots(4), patience=patience, may_write=lambda: True)
        with pytest.raises(WriteRefused, match="PersistentVolume v was taken from its claim before it was bound"):
            await volumes.wait_until_bound(write(), Node(name="n1", labels={}, allocatable={}))
