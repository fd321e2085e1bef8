"""Gangs with volumes: a node for every claim, a bound claim for every pod, or none of it and a reason."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.api import kinds
from scheduler.devcluster.provisioner import Provisioner
from scheduler.kube import identity
from tests.real.remote import Remote
from tests.service.conftest import Cluster, Document, Objects, scheduling
from tests.service.process import Process
from tests.service.test_crash import killed_at
from tests.storage import HOST, local_class, storage_class, volume, volume_claim

SELECTED_NODE = "volume.kubernetes.io/selected-node"
PROVISIONED = "disk.example.com"


@pytest.fixture
async def provisioner(request: pytest.FixtureRequest, cluster: Cluster) -> AsyncIterator[None]:
    """A provisioner for every class: the embedded cluster has one, a real control plane leaves that to drivers."""
    if request.config.getoption("--cluster") != "real":
        yield
        return
    async with Remote(await identity.load(cluster.kubeconfig)) as api:
        running = asyncio.create_task(Provisioner(api).run())
        try:
            yield
            if running.done():
                running.result()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def plain(document: Document) -> Document:
    meta = {key: value for key, value in document["metadata"].items() if key != "uid"}
    if "namespace" in meta:
        meta["namespace"] = "default"
    return {key: value for key, value in document.items() if key != "status"} | {"metadata": meta}


def group(name: str, *claims: str) -> list[Document]:
    """A gang that needs all of its pods; each has one of the claims, "" for one made for it by class "wait"."""
    made: list[Document] = [
        {
            "apiVersion": "tutti.scheduler/v1alpha1",
            "kind": "PodGroup",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"minMember": len(claims), "queue": "default"},
        }
    ]
    template = plain(volume_claim("any"))["spec"]
    for number, claim in enumerate(claims):
        source = (
            {"persistentVolumeClaim": {"claimName": claim}}
            if claim
            else {"ephemeral": {"volumeClaimTemplate": {"spec": template}}}
        )
        made.append(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"{name}-{number}",
                    "namespace": "default",
                    "labels": {"tutti.scheduler/pod-group": name},
                },
                "spec": {
                    "schedulerName": "tutti",
                    "containers": [
                        {
                            "name": "main",
                            "image": "example.com/main",
                            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                        }
                    ],
                    "volumes": [{"name": "data", **source}],
                },
            }
        )
    return made


async def apply(cluster: Cluster, *documents: Document | list[Document]) -> None:
    flat = [each for entry in documents for each in (entry if isinstance(entry, list) else [entry])]
    await cluster.apply(yaml.safe_dump_all(flat))


def local(name: str, node: str) -> Document:
    return plain(volume(name, nodes=[node], local={"path": f"/mnt/{name}"}))


def provisioned(**parameters: str) -> Document:
    named = {f"devcluster.tutti.scheduler/{key}": value for key, value in parameters.items()}
    return plain(storage_class(parameters=named))


def bound(claims: Objects) -> Mapping[str, str]:
    """The volumes of all bound claims."""
    return {
        key.partition("/")[2]: claim["spec"]["volumeName"]
        for key, claim in claims.items()
        if claim["status"]["phase"] == "Bound"
    }


def annotation(claim: Document) -> str:
    return str((claim["metadata"].get("annotations") or {}).get(SELECTED_NODE, ""))


async def stored(cluster: Cluster, kind: kinds.Kind, name: str) -> dict[str, Any]:
    return await cluster.client.get(kind, "default" if kind.namespaced else None, name)


@pytest.mark.usefixtures("tutti")
async def test_a_gang_runs_where_volumes_made_by_hand_are_left(cluster: Cluster):
    nodes = await cluster.add_nodes("cpu", 3)
    await apply(
        cluster,
        plain(local_class()),
        *(local(f"disk-{node}", node) for node in nodes[1:]),
        *(plain(volume_claim(name, cls="local")) for name in ("left", "right")),
        group("pair", "left", "right"),
    )
    pods = await cluster.running("default", 2)
    volumes = bound(await cluster.until(kinds.VOLUME_CLAIM, lambda claims: len(bound(claims)) == 2, "both are bound"))
    for pod, claim in (("pair-0", "left"), ("pair-1", "right")):
        assert volumes[claim] == f"disk-{pods[f'default/{pod}']['spec']['nodeName']}"
    assert set(volumes.values()) == {f"disk-{node}" for node in nodes[1:]}


@pytest.mark.usefixtures("tutti")
async def test_a_gang_waits_for_a_claim_that_nothing_binds_and_starts_once_it_is(cluster: Cluster):
    (node,) = await cluster.add_nodes("cpu")
    by_hand = plain(storage_class("now", "kubernetes.io/no-provisioner", waits=False))
    await apply(cluster, by_hand, plain(volume_claim("data", cls="now")), group("one", "data"))
    reason = await cluster.reason("default/one", "WaitingForVolumes", "PersistentVolumeClaim default/data")
    assert "is not bound yet" in reason["message"]
    await apply(cluster, plain(volume("late", cls="now", nodes=[node], local={"path": "/mnt/late"})))
    await cluster.running("default", 1)


@pytest.mark.usefixtures("provisioner", "tutti")
async def test_volumes_are_provisioned_for_the_nodes_of_a_gang_before_its_pods_are_bound(cluster: Cluster):
    await cluster.add_nodes("cpu", 2)
    await apply(cluster, provisioned(reach=HOST), group("pair", "", ""))
    pods = await cluster.running("default", 2)
    claims, _ = await cluster.client.list(kinds.VOLUME_CLAIM, "default")
    assert len(claims) == 2
    for claim in claims:
        pod = pods[f"default/{claim['metadata']['ownerReferences'][0]['name']}"]
        made = await stored(cluster, kinds.VOLUME, claim["spec"]["volumeName"])
        terms = made["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
        assert terms[0]["matchExpressions"][0]["values"] == [pod["spec"]["nodeName"]]
        assert annotation(claim) == pod["spec"]["nodeName"]
    events, _ = await cluster.client.list(kinds.EVENT, "default")
    assert not [event for event in events if event.get("reason") == "FailedMount"]


@pytest.mark.slow
@pytest.mark.usefixtures("provisioner")
@pytest.mark.parametrize("number", range(1, 9))
async def test_killed_at_a_write_the_next_start_makes_the_gang_whole(cluster: Cluster, tmp_path: Path, number: int):
    """Two volumes made by hand and two provisioned, then four bindings."""
    nodes = await cluster.add_nodes("cpu", 2)
    await apply(
        cluster,
        plain(local_class()),
        provisioned(reach=HOST),
        *(local(f"disk-{node}", node) for node in nodes),
        *(plain(volume_claim(name, cls="local")) for name in ("left", "right")),
        group("train", "left", "right", "", ""),
    )
    written = await killed_at(cluster, number, tmp_path)
    assert len(written) >= number
    async with Process(cluster.tutti):
        pods = await cluster.running("default", 4)
        claims = await cluster.until(kinds.VOLUME_CLAIM, lambda claims: len(bound(claims)) == 4, "all are bound")
    volumes = bound(claims)
    assert len(set(volumes.values())) == 4
    for pod, claim in (
        ("train-0", "left"),
        ("train-1", "right"),
        ("train-2", "train-2-data"),
        ("train-3", "train-3-data"),
    ):
        made = await stored(cluster, kinds.VOLUME, volumes[claim])
        terms = made["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
        assert terms[0]["matchExpressions"][0]["values"] == [pods[f"default/{pod}"]["spec"]["nodeName"]]


@pytest.mark.usefixtures("provisioner")
async def test_a_gang_whose_volume_cannot_be_made_is_not_bound_and_is_tried_again(cluster: Cluster):
    await cluster.add_nodes("cpu", 2)
    async with scheduling(cluster, commit_retry_seconds=0.05):
        await apply(cluster, provisioned(outcome="refused"), group("pair", "", ""))
        reason = await cluster.reason("default/pair", "CommitFailed", "could not be given a volume for node")
        assert "none of its pods was bound" in reason["message"]
        pods, _ = await cluster.client.list(kinds.POD, "default")
        assert not [pod for pod in pods if pod["spec"].get("nodeName")]
        await cluster.delete(kinds.STORAGE_CLASS, "wait")
        await apply(cluster, provisioned())
        await cluster.running("default", 2)


@pytest.mark.usefixtures("provisioner")
async def test_a_gang_whose_volumes_take_too_long_gives_its_nodes_back(cluster: Cluster):
    await cluster.add_nodes("cpu", 2)
    # Tried once only, so that what it leaves can be looked at.
    async with scheduling(cluster, volume_binding_seconds=0.1, commit_retry_seconds=600):
        await apply(cluster, provisioned(outcome="never"), plain(volume_claim("data")), group("one", "data"))
        await cluster.reason("default/one", "CommitFailed", "PersistentVolumeClaim default/data was not bound within")
        claim = await stored(cluster, kinds.VOLUME_CLAIM, "data")
        assert annotation(claim) == ""
        assert claim["status"]["phase"] == "Pending"
