"""ComputeDomains on hosts that run IMEX: the scheduler keeps a domain in one clique, the plugins give the channels.

Four made-up nodes of two racks, a plugin on each, from the claim to the CDI file.
"""

import contextlib
import json
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dra_driver.alone import NotAlone
from dra_driver.devices import ClaimRef
from dra_driver.host import IMEX_CHANNELS, IMEX_SOCKET
from dra_driver.imex import TAINT
from dra_driver.sockets import sockets
from scheduler.api import kinds
from scheduler.api.attributes import COMPUTE_DOMAIN_DRIVER as DRIVER
from tests.node.kubelet import Driver, FakeKubelet, Refused
from tests.service.conftest import Cluster, Document, Objects
from tests.service.test_node_plugin import folder as folder
from tests.service.test_node_plugin import given, running

CLASS = Path(__file__).parents[2] / "deploy" / "compute-domain.yaml"
CHANNEL = f"/dev/{IMEX_CHANNELS}/channel"


@dataclass
class Channels:
    """A node's driver of channels, as its kubelet knows it. `folder`: the kubelet's."""

    driver: Driver
    folder: Path

    def nodes(self, claim: ClaimRef) -> list[tuple[str, int, int]]:
        """Device nodes of the claim's CDI file; none without one."""
        path = self.folder / "cdi" / f"k8s.{DRIVER}-claim_{claim.uid}.json"
        if not path.exists():
            return []
        (device,) = json.loads(path.read_text())["devices"]
        return [(each["path"], each["major"], each["minor"]) for each in device["containerEdits"]["deviceNodes"]]

    def imex_is(self, word: str) -> None:
        """The made-up host's IMEX service says this of itself from now on."""
        path = self.folder / "plugins/gpu.nvidia.com/fake-host" / IMEX_SOCKET.relative_to("/")
        path.write_text(word + "\n")


@contextlib.asynccontextmanager
async def channels(
    cluster: Cluster, folder: Path, racks: Mapping[str, str], **settings: object
) -> AsyncIterator[dict[str, Channels]]:
    """On each of these nodes a plugin that serves channels, known to its kubelet. `racks`: by node."""
    await cluster.apply(CLASS.read_text())
    async with contextlib.AsyncExitStack() as stack:
        found = {}
        for number, (node, rack) in enumerate(racks.items()):
            kubelet = folder / str(number)
            plugin = running(cluster, kubelet, node, "gb200x4", fake_rack=rack, **{"imex": "on", **settings})
            chosen = await stack.enter_async_context(plugin)
            for driver in (chosen.driver, chosen.imex_driver):
                known = await FakeKubelet(kubelet).register(sockets(kubelet, driver).registration)
            assert known.info.name == DRIVER
            found[node] = Channels(known, kubelet)
        await cluster.until(
            kinds.RESOURCE_SLICE, lambda slices: len(published(slices)) == len(racks), "channels are there"
        )
        yield found


def published(slices: Objects) -> dict[str, list[Document]]:
    """The devices of each pool of channels that has some."""
    specs = (each["spec"] for each in slices.values() if each["spec"]["driver"] == DRIVER)
    return {spec["pool"]["name"]: spec["devices"] for spec in specs if spec.get("devices")}


async def joins(cluster: Cluster, name: str, domain: str, *, gang: str = "", mode: str = "Single") -> None:
    """A pod of ours with a channel of a domain."""
    parameters = {
        "apiVersion": "resource.nvidia.com/v1beta1",
        "kind": "ComputeDomainChannelConfig",
        "domainID": domain,
        "allocationMode": mode,
    }
    devices = {
        "requests": [{"name": "gpus", "exactly": {"deviceClassName": "compute-domain-default-channel.nvidia.com"}}],
        "config": [{"requests": ["gpus"], "opaque": {"driver": DRIVER, "parameters": parameters}}],
    }
    document = {"metadata": {"name": name}, "spec": {"devices": devices}}
    await cluster.client.create(kinds.RESOURCE_CLAIM, "default", document)
    labels = {"tutti.scheduler/pod-group": gang} if gang else {}
    spec = {
        "schedulerName": "tutti",
        "restartPolicy": "Never",
        "resourceClaims": [{"name": "channel", "resourceClaimName": name}],
        "containers": [
            {"name": "main", "image": "example.com/trainer:v1", "resources": {"claims": [{"name": "channel"}]}}
        ],
    }
    await cluster.client.create(kinds.POD, "default", {"metadata": {"name": name, "labels": labels}, "spec": spec})


async def place(cluster: Cluster, name: str) -> str:
    """The node of a pod."""
    key = f"default/{name}"
    pods = await cluster.until(
        kinds.POD, lambda pods: pods.get(key, {}).get("spec", {}).get("nodeName"), f"{name} is placed"
    )
    return str(pods[key]["spec"]["nodeName"])


async def by_a_rival(cluster: Cluster, name: str, node: str) -> ClaimRef:
    """The channel of this node is allocated to a claim, as a scheduler would that does not know who has it."""
    document = await cluster.client.get(kinds.RESOURCE_CLAIM, "default", name)
    user = await cluster.client.get(kinds.POD, "default", name)
    (config,) = document["spec"]["devices"]["config"]
    result = {"request": "gpus", "driver": DRIVER, "pool": node, "device": "channel-0"}
    document["status"] = {
        "allocation": {"devices": {"results": [result], "config": [{"source": "FromClaim", **config}]}},
        "reservedFor": [{"resource": "pods", "name": name, "uid": user["metadata"]["uid"]}],
    }
    done = await cluster.client.replace(kinds.RESOURCE_CLAIM, "default", name, document, subresource="status")
    return ClaimRef(namespace="default", name=name, uid=done["metadata"]["uid"])


@pytest.mark.usefixtures("tutti")
async def test_a_gang_of_a_domain_has_its_channels_in_one_clique_and_gives_them_back(cluster: Cluster, folder: Path):
    nodes = await cluster.add_nodes("cpu", 4)
    racks = dict(zip(nodes, ("rack-a", "rack-b", "rack-a", "rack-b"), strict=True))
    async with channels(cluster, folder, racks) as served:
        # One node of a rack is taken: two workers have room on three nodes, and only two of those are in one clique.
        await joins(cluster, "alone", "cd-0")
        taken = await place(cluster, "alone")
        await cluster.apply(
            """
            apiVersion: tutti.scheduler/v1alpha1
            kind: PodGroup
            metadata: {name: train}
            spec: {queue: default, minMember: 2}
            """
        )
        for number in range(2):
            await joins(cluster, f"train-{number}", "cd-1", gang="train")

        placed = [await place(cluster, f"train-{number}") for number in range(2)]

        other = {node for node, rack in racks.items() if rack != racks[taken]}
        assert set(placed) == other
        claims = [await given(cluster, f"train-{number}") for number in range(2)]
        for node, claim in zip(placed, claims, strict=True):
            (device,) = await served[node].driver.devices(claim)
            assert (device.requests, device.pool, device.device) == (("gpus",), node, "channel-0")
            assert device.cdi == (f"k8s.{DRIVER}/claim={claim.uid}-channel-0",)
            assert served[node].nodes(claim) == [(f"{CHANNEL}0", 507, 0)]
            assert await served[node].driver.devices(claim) == (device,)
        for node, claim in zip(placed, claims, strict=True):
            await served[node].driver.give_back(claim)
            assert served[node].nodes(claim) == []
            await served[node].driver.give_back(claim)


async def test_a_second_domain_waits_until_the_node_has_left_the_first(cluster: Cluster, folder: Path):
    (node,) = await cluster.add_nodes("cpu")
    async with channels(cluster, folder, {node: "rack-a"}) as served:
        here = served[node]
        claims = []
        for name, domain, mode in (("first", "cd-1", "Single"), ("second", "cd-2", "All")):
            await joins(cluster, name, domain, mode=mode)
            claims.append(await by_a_rival(cluster, name, node))
        first, second = claims
        await here.driver.devices(first)

        with pytest.raises(Refused, match="this node is in ComputeDomain cd-1 as long as claim default/first holds"):
            await here.driver.devices(second)

        def told(events: Objects) -> bool:
            about = [each["involvedObject"] for each in events.values() if each["reason"] == "PrepareFailed"]
            return {("ResourceClaim", "second"), ("Pod", "second")} <= {(each["kind"], each["name"]) for each in about}

        await cluster.until(kinds.EVENT, told, "claim and pod are told why")
        await here.driver.give_back(first)
        await here.driver.devices(second)
        assert here.nodes(second) == [(f"{CHANNEL}{number}", 507, number) for number in range(2048)]


async def test_a_plugin_that_is_started_anew_knows_whose_the_channel_is(cluster: Cluster, folder: Path):
    (node,) = await cluster.add_nodes("cpu")
    async with channels(cluster, folder, {node: "rack-a"}) as served:
        await joins(cluster, "kept", "cd-1")
        kept = await by_a_rival(cluster, "kept", node)
        before = await served[node].driver.devices(kept)
    async with channels(cluster, folder, {node: "rack-a"}) as served:
        assert await served[node].driver.devices(kept) == before
        await joins(cluster, "late", "cd-2")
        with pytest.raises(Refused, match="is in ComputeDomain cd-1"):
            await served[node].driver.devices(await by_a_rival(cluster, "late", node))


async def test_while_imex_is_not_ready_the_channel_is_tainted_and_refused(cluster: Cluster, folder: Path):
    (node,) = await cluster.add_nodes("cpu")
    async with channels(cluster, folder, {node: "rack-a"}, rescan_seconds=1) as served:
        await joins(cluster, "early", "cd-1")
        early = await by_a_rival(cluster, "early", node)
        served[node].imex_is("WAITING_FOR_PEERS")

        def taints(slices: Objects) -> list[str]:
            (channel,) = published(slices)[node]
            return [taint["key"] for taint in channel.get("taints", ())]

        await cluster.until(kinds.RESOURCE_SLICE, lambda slices: taints(slices) == [TAINT], "new pods are kept off")
        with pytest.raises(Refused, match="the host's IMEX service is WAITING_FOR_PEERS"):
            await served[node].driver.devices(early)
        served[node].imex_is("READY")
        await served[node].driver.devices(early)
        await cluster.until(kinds.RESOURCE_SLICE, lambda slices: taints(slices) == [], "new pods may come")


async def test_beside_nvidias_plugin_on_is_refused_and_auto_leaves_the_channels_to_it(cluster: Cluster, folder: Path):
    (node,) = await cluster.add_nodes("cpu")
    pool = {"name": node, "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": DRIVER, "nodeName": node, "pool": pool, "devices": [{"name": "channel-0"}]}
    await cluster.client.create(
        kinds.RESOURCE_SLICE, None, {"metadata": {"name": f"{node}-{DRIVER}-x7k2p"}, "spec": spec}
    )
    with pytest.raises(NotAlone, match=r"NVIDIA's compute-domain plugin as a rule.*set imex to off"):
        async with running(cluster, folder, node, "gb200x4", imex="on"):
            pass
    async with running(cluster, folder, node, "gb200x4", imex="auto"):
        assert [path.name for path in FakeKubelet(folder).sockets()] == ["gpu.nvidia.com-reg.sock"]


async def test_with_auto_channels_are_served_where_the_host_runs_imex(cluster: Cluster, folder: Path):
    plain, linked = await cluster.add_nodes("cpu", 2)
    async with (
        running(cluster, folder / "0", plain, "h100x8", imex="auto"),
        running(cluster, folder / "1", linked, "gb200x4", imex="auto"),
    ):
        assert [len(FakeKubelet(folder / number).sockets()) for number in ("0", "1")] == [1, 2]


async def test_auto_takes_the_channels_over_when_the_other_plugin_is_gone(cluster: Cluster, folder: Path):
    (node,) = await cluster.add_nodes("cpu")
    theirs = FakeKubelet(folder).registry / f"{DRIVER}-reg.sock"
    settings: dict[str, Any] = {"pod_uid": "uid-1", "rescan_seconds": 1}
    with socket.socket(socket.AF_UNIX) as nvidias:
        nvidias.bind(str(theirs))
        nvidias.listen()
        with pytest.raises(NotAlone, match="set imex to off"):
            async with running(cluster, folder, node, "gb200x4", imex="on", **settings):
                pass
        stack = contextlib.AsyncExitStack()
        chosen = await stack.enter_async_context(running(cluster, folder, node, "gb200x4", imex="auto", **settings))
    async with stack:
        known = await FakeKubelet(folder).register(sockets(folder, DRIVER, chosen.pod_uid).registration)
        assert known.info.name == DRIVER
        await cluster.until(kinds.RESOURCE_SLICE, lambda slices: node in published(slices), "the channel is there")


async def test_the_next_instance_takes_the_channels_over_without_a_gap(cluster: Cluster, folder: Path):
    (node,) = await cluster.add_nodes("cpu")
    await cluster.apply(CLASS.read_text())

    async def known(uid: str) -> Channels:
        path = sockets(folder, DRIVER, uid).registration
        return Channels(await FakeKubelet(folder).register(path), folder)

    async with contextlib.AsyncExitStack() as newer:
        async with running(cluster, folder, node, "gb200x4", imex="on", pod_uid="uid-1"):
            old = await known("uid-1")
            await joins(cluster, "kept", "cd-1")
            kept = await by_a_rival(cluster, "kept", node)
            before = await old.driver.devices(kept)
            await newer.enter_async_context(running(cluster, folder, node, "gb200x4", imex="on", pod_uid="uid-2"))
            new = await known("uid-2")
            assert await new.driver.devices(kept) == before
            assert await old.driver.devices(kept) == before
        await new.driver.give_back(kept)
        assert new.nodes(kept) == []


async def test_the_probe_knows_of_the_channels(cluster: Cluster, folder: Path):
    (node,) = await cluster.add_nodes("cpu")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async def page(name: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/{name}") as answer:
            return answer.status, await answer.text()

    async with running(cluster, folder, node, "gb200x4", imex="on", probe_host="127.0.0.1", probe_port=port):
        kubelet = FakeKubelet(folder)
        await kubelet.register(sockets(folder, "gpu.nvidia.com").registration)
        assert await page("readyz") == (503, f"the kubelet does not know {DRIVER} yet\n")
        await kubelet.register(sockets(folder, DRIVER).registration, error="no such version")
        assert await page("readyz") == (503, f"the kubelet does not know {DRIVER} yet: no such version\n")
        await kubelet.register(sockets(folder, DRIVER).registration)
        assert (await page("readyz"))[0] == 200
        assert (await page("healthz"))[0] == 200
        sockets(folder, DRIVER).claims.unlink()
        assert (await page("healthz"))[0] == 503
