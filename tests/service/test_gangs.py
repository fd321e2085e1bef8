"""From manifests to running pods with devices, or to nothing and a reason."""

import pytest

from scheduler.api import kinds
from tests.service.conftest import Cluster, Objects, allocated
from tests.service.manifests import gang, namespace, template
from tests.service.verifier import verified

pytestmark = pytest.mark.usefixtures("tutti")
DOMAIN = "gpu.nvidia.com/nvlinkDomain"


async def test_a_gang_runs_with_all_its_devices_in_one_nvlink_domain(cluster: Cluster):
    await cluster.add_nodes("gb200-nvl72", 2)
    async with verified(cluster.client):
        await cluster.apply(
            f"""
            apiVersion: tutti.scheduler/v1alpha1
            kind: Topology
            metadata: {{name: fabric}}
            spec: {{levels: [{{key: {DOMAIN}}}]}}
            """
        )
        # Ten of the eighteen nodes of one rack: then no rack has room for ten more.
        await cluster.apply(template(count=4))
        for name in ("left", "right"):
            await cluster.apply(gang(name, 10, topology=f"{{topology: fabric, requiredLevel: {DOMAIN}}}"))
        await cluster.running("default", 20)

    published = await cluster.attributes()
    domains = {}
    for claim, devices in (await cluster.devices("default")).items():
        assert len(devices) == 4
        domains.setdefault(claim.partition("-")[0], set()).update(
            published[device]["nvlinkDomain"]["string"] for device in devices
        )
    assert {name: len(used) for name, used in domains.items()} == {"left": 1, "right": 1}
    assert domains["left"] != domains["right"]


async def test_a_gang_that_lacks_one_node_takes_nothing_and_says_what_is_missing(cluster: Cluster):
    await cluster.add_nodes("h100x8", 63)
    async with verified(cluster.client) as verifier:
        await cluster.apply(template(count=8))
        await cluster.apply(gang("hero", 64))

        reason = await cluster.reason("default/hero", "GangDoesNotFit", "there is room for 63")
        assert "needs room for 64 pods at once" in reason["message"]
        assert (
            "63 nodes have too few free devices of class gpu.nvidia.com: none of the 8 asked for" in reason["message"]
        )
        assert reason["cure"] == "Free room for 1 more pod, or add nodes."
        assert reason["missing"] == {"pods": "1"}
        pods, _ = await cluster.client.list(kinds.POD)
        assert [pod["metadata"]["name"] for pod in pods if pod["spec"].get("nodeName")] == []
        assert verifier.holders == {}

        await cluster.add_nodes("h100x8")
        await cluster.running("default", 64)
        await verifier.until(lambda holders: len(holders) == 64)

        def glad(groups: Objects) -> bool:
            status = groups["default/hero"]["status"]
            return status["bound"] == 64 and not status.get("reason")

        await cluster.until(kinds.POD_GROUP, glad, "the PodGroup has no reason left")


async def test_two_groups_of_one_name_in_two_namespaces_are_two_gangs(cluster: Cluster):
    await cluster.add_nodes("h100x8", 2)
    for place in ("red", "blue"):
        await cluster.apply(namespace(place))
        await cluster.apply(template(count=4, namespace=place))
    await cluster.apply(gang("train", 3, namespace="red"))
    await cluster.running("red", 3)
    await cluster.apply(gang("train", 2, namespace="blue"))

    # One GPU quartet is left and two are needed: the other group's pods must not count.
    await cluster.reason("blue/train", "GangDoesNotFit", "there is room for 1")
    await cluster.delete(kinds.JOB, "red/train")
    await cluster.running("blue", 2)


async def test_devices_of_a_finished_gang_are_given_again_only_after_their_release(cluster: Cluster):
    await cluster.add_nodes("h100x8")
    async with verified(cluster.client) as verifier:
        await cluster.apply(template(count=8))
        await cluster.apply(gang("first", 1))
        await cluster.running("default", 1)
        await cluster.apply(gang("second", 1))
        await cluster.reason("default/second", "GangDoesNotFit")
        await cluster.delete(kinds.JOB, "default/first")
        await cluster.until(
            kinds.POD,
            lambda pods: [key for key in pods if "second" in key and pods[key]["status"].get("phase") == "Running"],
            "the second gang runs",
        )
        await verifier.until(lambda holders: len(holders) == 1)


async def test_one_named_claim_is_shared_by_two_pods_on_one_device(cluster: Cluster):
    await cluster.add_nodes("h100x8", 2)
    await cluster.apply(
        """
        apiVersion: resource.k8s.io/v1
        kind: ResourceClaim
        metadata: {name: shared, namespace: default}
        spec: {devices: {requests: [{name: gpus, exactly: {deviceClassName: gpu.nvidia.com}}]}}
        """
    )
    for name in ("one", "two"):
        await cluster.apply(
            f"""
            apiVersion: v1
            kind: Pod
            metadata: {{name: {name}, namespace: default, labels: {{tutti.scheduler/queue: default}}}}
            spec:
              schedulerName: tutti
              containers: [{{name: main, image: i, resources: {{claims: [{{name: gpu}}]}}}}]
              resourceClaims: [{{name: gpu, resourceClaimName: shared}}]
            """
        )
    pods = await cluster.running("default", 2)
    assert len({pod["spec"]["nodeName"] for pod in pods.values()}) == 1
    claim = await cluster.client.get(kinds.RESOURCE_CLAIM, "default", "shared")
    assert len(allocated(claim)) == 1
    assert sorted(entry["name"] for entry in claim["status"]["reservedFor"]) == ["one", "two"]


async def test_a_pod_that_asks_for_nvidia_com_gpu_gets_one_from_a_device_plugin(cluster: Cluster):
    await cluster.add_nodes("t4-plugin")
    await cluster.apply(
        """
        apiVersion: v1
        kind: Pod
        metadata: {name: classic, namespace: default, labels: {tutti.scheduler/queue: default}}
        spec:
          schedulerName: tutti
          containers: [{name: main, image: i, resources: {limits: {nvidia.com/gpu: "1"}}}]
        """
    )
    await cluster.running("default", 1)
