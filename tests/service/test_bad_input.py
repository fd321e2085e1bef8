"""Bad input: a reason on the object, an event, other work goes on, and the gang starts when the cause is gone."""

from dataclasses import dataclass

import pytest

from scheduler.api import kinds
from tests.service.conftest import Cluster, Objects
from tests.service.manifests import gang, queue, template

pytestmark = pytest.mark.usefixtures("tutti")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """`before` and `gang` are applied; the PodGroup "bad" says `code` and `says`; after `cure` its two pods run."""

    code: str
    says: str
    cure: tuple[str, ...]
    before: tuple[str, ...] = ()
    gang: tuple[str, ...] = (template("bad-gpus"), gang("bad", 2, template="bad-gpus"))


CASES = {
    "a queue that does not exist": Bad(
        gang=(template("bad-gpus"), gang("bad", 2, template="bad-gpus", queue="nowhere")),
        code="QueueDoesNotExist",
        says="Queue nowhere does not exist",
        cure=(queue("nowhere"),),
    ),
    "a queue that is no leaf": Bad(
        before=(queue("above"), queue("below", "{parentQueue: above}")),
        gang=(template("bad-gpus"), gang("bad", 2, template="bad-gpus", queue="above")),
        code="QueueIsNoLeaf",
        says="Queue above has child queues",
        cure=("delete queues below",),
    ),
    "queues that form a cycle": Bad(
        before=(
            queue("a", "{parentQueue: c}"),
            queue("b", "{parentQueue: a}"),
            queue("c", "{parentQueue: b}"),
            queue("leaf", "{parentQueue: a}"),
        ),
        gang=(template("bad-gpus"), gang("bad", 2, template="bad-gpus", queue="leaf")),
        code="QueueUnusable",
        says="Queue leaf cannot be used",
        cure=(queue("a", "{parentQueue: null}"),),
    ),
    "a queue whose parent is missing": Bad(
        before=(queue("orphan", "{parentQueue: gone}"),),
        gang=(template("bad-gpus"), gang("bad", 2, template="bad-gpus", queue="orphan")),
        code="QueueUnusable",
        says="Queue orphan cannot be used",
        cure=(queue("gone"),),
    ),
    "a PodGroup smaller than its minimum": Bad(
        gang=(template("bad-gpus"), gang("bad", 2, template="bad-gpus", minimum=3)),
        code="WaitingForPods",
        says="needs 3 pods to start and has 2",
        cure=(gang("bad", 2, template="bad-gpus", minimum=2),),
    ),
    "an error in a CEL expression": Bad(
        before=(
            """
            apiVersion: resource.k8s.io/v1
            kind: DeviceClass
            metadata: {name: broken}
            spec: {selectors: [{cel: {expression: 'device.attributes["gpu.nvidia.com"].noSuchThing == "x"'}}]}
            """,
        ),
        gang=(template("bad-gpus", device_class="broken"), gang("bad", 2, template="bad-gpus")),
        code="ClaimRefused",
        says="noSuchThing",
        cure=(
            """
            apiVersion: resource.k8s.io/v1
            kind: DeviceClass
            metadata: {name: broken}
            spec: {selectors: [{cel: {expression: 'device.driver == "gpu.nvidia.com"'}}]}
            """,
        ),
    ),
    "a DeviceClass that does not exist": Bad(
        gang=(template("bad-gpus", device_class="tpu.example.com"), gang("bad", 2, template="bad-gpus")),
        code="ClaimRefused",
        says="tpu.example.com",
        cure=(
            """
            apiVersion: resource.k8s.io/v1
            kind: DeviceClass
            metadata: {name: tpu.example.com}
            spec: {selectors: [{cel: {expression: 'device.driver == "gpu.nvidia.com"'}}]}
            """,
        ),
    ),
    "a claim that no node can ever meet": Bad(
        gang=(template("bad-gpus", 16), gang("bad", 1, template="bad-gpus")),
        code="NoNodeFits",
        says="fits no node even when empty",
        cure=(
            "delete podgroups default/bad",
            "delete jobs default/bad",
            template("few"),
            gang("bad", 2, template="few"),
        ),
    ),
    "a claim that does not exist": Bad(
        gang=(
            """
            apiVersion: tutti.scheduler/v1alpha1
            kind: PodGroup
            metadata: {name: bad, namespace: default}
            spec: {minMember: 2, queue: default}
            """,
            *(
                f"""
                apiVersion: v1
                kind: Pod
                metadata: {{name: bad-{number}, namespace: default, labels: {{tutti.scheduler/pod-group: bad}}}}
                spec:
                  schedulerName: tutti
                  containers: [{{name: main, image: i}}]
                  resourceClaims: [{{name: gpu, resourceClaimName: absent}}]
                """
                for number in range(2)
            ),
        ),
        code="WaitingForClaims",
        says="ResourceClaim default/absent",
        cure=(
            """
            apiVersion: resource.k8s.io/v1
            kind: ResourceClaim
            metadata: {name: absent, namespace: default}
            spec: {devices: {requests: [{name: gpus, exactly: {deviceClassName: gpu.nvidia.com}}]}}
            """,
        ),
    ),
    "a topology that does not exist": Bad(
        gang=(
            template("bad-gpus"),
            gang("bad", 2, template="bad-gpus", topology="{topology: nowhere, requiredLevel: kubernetes.io/hostname}"),
        ),
        code="TopologyUnusable",
        says="Topology nowhere",
        cure=(
            """
            apiVersion: tutti.scheduler/v1alpha1
            kind: Topology
            metadata: {name: nowhere}
            spec: {levels: [{key: kubernetes.io/hostname}]}
            """,
        ),
    ),
}

_PLURALS = {"queues": kinds.QUEUE, "podgroups": kinds.POD_GROUP, "jobs": kinds.JOB}


async def carry_out(cluster: Cluster, step: str) -> None:
    if step.startswith("delete "):
        _, plural, key = step.split()
        await cluster.delete(_PLURALS[plural], key)
    else:
        await cluster.apply(step)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_bad_input_gets_a_reason_and_starts_by_itself_when_it_is_mended(cluster: Cluster, case: Bad):
    await cluster.add_nodes("h100x8")
    for manifest in (*case.before, *case.gang):
        await cluster.apply(manifest)

    reason = await cluster.reason("default/bad", case.code, case.says)
    assert reason["cure"].endswith(".")

    def told(events: Objects) -> bool:
        about = [event for event in events.values() if event["involvedObject"]["name"] == "bad"]
        return any(event["involvedObject"]["kind"] == "PodGroup" and case.code in event["message"] for event in about)

    await cluster.until(kinds.EVENT, told, f"an event on the PodGroup says {case.code}")

    # Other work goes on meanwhile.
    await cluster.apply(template())
    await cluster.apply(gang("good", 2))
    await cluster.running("default", 2)

    for step in case.cure:
        await carry_out(cluster, step)
    await cluster.running("default", 4)


async def test_every_waiting_pod_says_why(cluster: Cluster):
    await cluster.add_nodes("h100x8")
    await cluster.apply(template())
    await cluster.apply(gang("bad", 2, queue="nowhere"))

    def says(pods: Objects) -> bool:
        conditions = [
            condition
            for pod in pods.values()
            for condition in pod["status"].get("conditions", ())
            if condition["type"] == "PodScheduled" and condition["reason"] == "Unschedulable"
        ]
        return len(conditions) == 2 and all(
            condition["message"].startswith("QueueDoesNotExist: Queue nowhere does not exist.")
            for condition in conditions
        )

    await cluster.until(kinds.POD, says, "both pods say why they wait")
