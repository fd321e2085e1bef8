"""What claims can say beyond "so many GPUs": alternatives, partitions, shares, conditions, extended resources."""

from typing import Any

import pytest

from scheduler.api import kinds
from tests.service.conftest import Cluster, Objects, allocated
from tests.service.manifests import gang, namespace, template
from tests.service.verifier import verified

pytestmark = pytest.mark.usefixtures("tutti")
DRIVER = "parts.example.com"


async def publish(cluster: Cluster, node: str, devices: str, *, counters: str = "") -> None:
    """A pool of the test's own driver on a node; with `counters` in a slice of their own."""
    count = 2 if counters else 1
    pool = f"driver: {DRIVER}, nodeName: {node}, pool: {{name: {node}, generation: 1, resourceSliceCount: {count}}}"
    manifests = [
        f"{{apiVersion: resource.k8s.io/v1, kind: ResourceSlice, metadata: {{name: {node}-{what}}}, "
        f"spec: {{{pool}, {what}: {content}}}}}"
        for what, content in (("devices", devices), ("sharedCounters", counters))
        if content
    ]
    await cluster.apply("\n---\n".join(text.replace("-sharedCounters}", "-counters}") for text in manifests))


async def device_class(cluster: Cluster, name: str, expression: str) -> None:
    await cluster.apply(
        f"""
        apiVersion: resource.k8s.io/v1
        kind: DeviceClass
        metadata: {{name: {name}}}
        spec: {{selectors: [{{cel: {{expression: '{expression}'}}}}]}}
        """
    )


async def claim_template(cluster: Cluster, name: str, request: str) -> None:
    await cluster.apply(
        f"""
        apiVersion: resource.k8s.io/v1
        kind: ResourceClaimTemplate
        metadata: {{name: {name}, namespace: default}}
        spec: {{spec: {{devices: {{requests: [{request}]}}}}}}
        """
    )


def asking(name: str, resource: str) -> str:
    """A pod that asks for one of an extended resource."""
    return f"""
        apiVersion: v1
        kind: Pod
        metadata: {{name: {name}, namespace: default}}
        spec:
          schedulerName: tutti
          containers:
          - name: main
            image: example.com/trainer:v1
            resources: {{limits: {{{resource}: "1"}}}}
        """


async def results(cluster: Cluster) -> list[dict[str, Any]]:
    """What all claims hold."""
    claims, _ = await cluster.client.list(kinds.RESOURCE_CLAIM, "default")
    return [
        result
        for claim in claims
        for result in (claim.get("status") or {}).get("allocation", {}).get("devices", {}).get("results", ())
    ]


async def test_two_pods_that_would_take_a_device_whole_or_half_get_a_half_each(cluster: Cluster) -> None:
    """One device offered whole or as two halves; both prefer it whole. Source: kubernetes/kubernetes#138765."""
    await cluster.needs_gate("DRAPartitionableDevices")
    (node,) = await cluster.add_nodes("cpu")

    def part(name: str, size: str, slots: int) -> str:
        draws = f"consumesCounters: [{{counterSet: board, counters: {{slots: {{value: '{slots}'}}}}}}]"
        return f"{{name: {name}, attributes: {{size: {{string: {size}}}}}, {draws}}}"

    parts = f"[{part('whole', 'whole', 2)}, {part('left', 'half', 1)}, {part('right', 'half', 1)}]"
    await publish(cluster, node, parts, counters="[{name: board, counters: {slots: {value: '2'}}}]")
    for size in ("whole", "half"):
        await device_class(
            cluster, size, f'device.driver == "{DRIVER}" && device.attributes["{DRIVER}"].size == "{size}"'
        )
    wishes = ", ".join(f"{{name: {size}, deviceClassName: {size}}}" for size in ("whole", "half"))
    await claim_template(cluster, "gpus", f"{{name: gpus, firstAvailable: [{wishes}]}}")
    async with verified(cluster.client):
        await cluster.apply(gang("pair", 2))
        await cluster.running("default", 2)
    assert sorted((each["request"], each["device"]) for each in await results(cluster)) == [
        ("gpus/half", "left"),
        ("gpus/half", "right"),
    ]


async def test_a_shared_device_is_given_in_amounts_that_its_policy_allows(cluster: Cluster) -> None:
    """40 GiB in steps of 10, at least 10: two pods ask for 15 and get 20, and a third finds no room."""
    await cluster.needs_gate("DRAConsumableCapacity")
    (node,) = await cluster.add_nodes("cpu")
    policy = "requestPolicy: {default: 10Gi, validRange: {min: 10Gi, step: 10Gi, max: 40Gi}}"
    capacity = f"capacity: {{memory: {{value: 40Gi, {policy}}}}}"
    await publish(cluster, node, f"[{{name: gpu, allowMultipleAllocations: true, {capacity}}}]")
    await device_class(cluster, "shared", f'device.driver == "{DRIVER}"')
    request = "{name: gpus, exactly: {deviceClassName: shared, capacity: {requests: {memory: 15Gi}}}}"
    await claim_template(cluster, "gpus", request)
    await cluster.apply(gang("pair", 2))
    await cluster.running("default", 2)
    given = await results(cluster)
    assert [each["consumedCapacity"] for each in given] == [{"memory": "20Gi"}] * 2
    assert len({each["shareID"] for each in given}) == 2
    await cluster.apply(gang("third", 1))
    await cluster.reason("default/third", "GangDoesNotFit")


async def test_a_pod_is_bound_when_its_device_has_been_made_ready(cluster: Cluster) -> None:
    await cluster.needs_gate("DRADeviceBindingConditions")
    (node,) = await cluster.add_nodes("cpu")
    conditions = "bindsToNode: true, bindingConditions: [Attached], bindingFailureConditions: [Broken]"
    await publish(cluster, node, f"[{{name: gpu, {conditions}}}]")
    await device_class(cluster, "attached", f'device.driver == "{DRIVER}"')
    await claim_template(cluster, "gpus", "{name: gpus, exactly: {deviceClassName: attached}}")
    await cluster.apply(gang("one", 1))

    def given(claims: Objects) -> bool:
        return any(allocated(claim) for claim in claims.values())

    claims = await cluster.until(kinds.RESOURCE_CLAIM, given, "the claim has its device")
    (claim,) = claims.values()
    allocation = claim["status"]["allocation"]
    assert "allocationTimestamp" in allocation
    (result,) = allocation["devices"]["results"]
    assert result["bindingConditions"] == ["Attached"]
    assert result["bindingFailureConditions"] == ["Broken"]
    pods, _ = await cluster.client.list(kinds.POD, "default")
    assert [pod["spec"].get("nodeName") for pod in pods] == [None]

    attached = {
        "type": "Attached",
        "status": "True",
        "reason": "Done",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    device = {"driver": DRIVER, "pool": node, "device": "gpu", "conditions": [attached]}
    await cluster.client.patch(
        kinds.RESOURCE_CLAIM,
        "default",
        claim["metadata"]["name"],
        {"status": {"devices": [device]}},
        subresource="status",
    )
    await cluster.running("default", 1)


@pytest.mark.parametrize("extended", [False, True], ids=["claimed", "extended"])
async def test_a_device_that_does_not_become_ready_is_not_the_next_choice(cluster: Cluster, extended: bool) -> None:
    """Nor of the next claim, where the pod asks for an extended resource and each try has a claim of its own."""
    await cluster.needs_gate("DRADeviceBindingConditions")
    if extended:
        await cluster.needs_gate("DRAExtendedResource")
    (node,) = await cluster.add_nodes("cpu")
    conditions = "bindsToNode: true, bindingConditions: [Attached], bindingFailureConditions: [Broken]"
    await publish(cluster, node, f"[{{name: first, {conditions}}}, {{name: second, {conditions}}}]")
    await device_class(cluster, "attached", f'device.driver == "{DRIVER}"')
    await claim_template(cluster, "gpus", "{name: gpus, exactly: {deviceClassName: attached}}")
    await cluster.apply(asking("one", "deviceclass.resource.kubernetes.io/attached") if extended else gang("one", 1))
    for device, condition in (("first", "Broken"), ("second", "Attached")):

        def given(claims: Objects, device: str = device) -> bool:
            return any(held[2] == device for claim in claims.values() for held in allocated(claim))

        claims = await cluster.until(kinds.RESOURCE_CLAIM, given, f"a claim has device {device}")
        (claim,) = (each for each in claims.values() if given({"": each}))
        told = {
            "type": condition,
            "status": "True",
            "reason": "Told",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        about = {"driver": DRIVER, "pool": node, "device": device, "conditions": [told]}
        body = {"status": {"devices": [about]}}
        name = claim["metadata"]["name"]
        await cluster.client.patch(kinds.RESOURCE_CLAIM, "default", name, body, subresource="status")
    await cluster.running("default", 1)


async def test_every_class_serves_a_resource_of_its_own(cluster: Cluster) -> None:
    """`deviceclass.resource.kubernetes.io/<class>`, without a claim in the pod and without a device plugin."""
    await cluster.needs_gate("DRAExtendedResource")
    (node,) = await cluster.add_nodes("cpu")
    await publish(cluster, node, "[{name: a}, {name: b}]")
    await device_class(cluster, "parts", f'device.driver == "{DRIVER}"')
    resource = "deviceclass.resource.kubernetes.io/parts"
    async with verified(cluster.client):
        await cluster.apply("\n---".join(asking(name, resource) for name in ("first", "second")))
        await cluster.running("default", 2)
    assert sorted(each["device"] for each in await results(cluster)) == ["a", "b"]
    pods_then, _ = await cluster.client.list(kinds.POD, "default")
    for pod in pods_then:
        (mapping,) = pod["status"]["extendedResourceClaimStatus"]["requestMappings"]
        assert (mapping["containerName"], mapping["resourceName"]) == ("main", resource)


async def test_who_may_look_into_devices_takes_them_from_nobody(cluster: Cluster) -> None:
    (node,) = await cluster.add_nodes("cpu")
    await publish(cluster, node, "[{name: a}]")
    await device_class(cluster, "parts", f'device.driver == "{DRIVER}"')
    await cluster.apply(template(device_class="parts"))
    await cluster.apply(gang("worker", 1))
    await cluster.running("default", 1)
    await cluster.apply(namespace("admin"))
    label = {"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}}
    await cluster.client.patch(kinds.NAMESPACE, None, "admin", label)
    await cluster.apply(
        """
        apiVersion: resource.k8s.io/v1
        kind: ResourceClaimTemplate
        metadata: {name: gpus, namespace: admin}
        spec: {spec: {devices: {requests: [{name: look, exactly: {deviceClassName: parts, adminAccess: true}}]}}}
        """
    )
    await cluster.apply(gang("monitor", 1, namespace="admin"))
    await cluster.running("admin", 1)


async def test_a_second_gang_of_sixteen_takes_the_rack_that_is_idle(cluster: Cluster) -> None:
    """Two racks of 18 nodes with four GPUs: sixteen pods with all GPUs of a node each, and one fabric channel for all.

    Source: the second of two replicated jobs that other schedulers leave at "12 of 16".
    """
    nodes = await cluster.add_nodes("gb200-nvl72", 2)
    await cluster.apply(
        f"""
        apiVersion: resource.k8s.io/v1
        kind: ResourceSlice
        metadata: {{name: channels}}
        spec:
          driver: {DRIVER}
          allNodes: true
          pool: {{name: channels, generation: 1, resourceSliceCount: 1}}
          devices: [{{name: channel-0}}, {{name: channel-1}}]
        ---
        apiVersion: tutti.scheduler/v1alpha1
        kind: Topology
        metadata: {{name: fabric}}
        spec: {{levels: [{{key: gpu.nvidia.com/nvlinkDomain}}]}}
        """
    )
    await device_class(cluster, "channel", f'device.driver == "{DRIVER}"')
    await cluster.apply(template(count=4))
    constraint = "{topology: fabric, requiredLevel: gpu.nvidia.com/nvlinkDomain}"
    async with verified(cluster.client):
        for number, name in enumerate(("first", "second"), start=1):
            await cluster.apply(
                f"""
                apiVersion: resource.k8s.io/v1
                kind: ResourceClaim
                metadata: {{name: {name}-channel, namespace: default}}
                spec: {{devices: {{requests: [{{name: channel, exactly: {{deviceClassName: channel}}}}]}}}}
                """
            )
            joint = gang(name, 16, topology=constraint).replace(
                "claims: [{name: gpus}]", "claims: [{name: gpus}, {name: channel}]"
            )
            both = f"resourceClaimTemplateName: gpus}}, {{name: channel, resourceClaimName: {name}-channel}}]"
            await cluster.apply(joint.replace("resourceClaimTemplateName: gpus}]", both))
            await cluster.running("default", 16 * number)
    pods, _ = await cluster.client.list(kinds.POD, "default")
    racks = {
        name: {pod["spec"]["nodeName"].rpartition("-")[0] for pod in pods if pod["metadata"]["name"].startswith(name)}
        for name in ("first", "second")
    }
    assert len(nodes) == 36
    assert sorted(map(len, racks.values())) == [1, 1]
    assert racks["first"] != racks["second"]
