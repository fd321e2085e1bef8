"""What our manifests allow and refuse: roles, policies and rules of definitions, which only a real server enforces."""

import asyncio
import itertools
from dataclasses import replace

import pytest

from scheduler.api import kinds
from scheduler.kube.client import ApiError, Client
from tests.service.conftest import PATIENCE_SECONDS, Cluster, scheduling
from tests.service.manifests import gang, queue, template

pytestmark = pytest.mark.real

REVIEW = replace(
    kinds.NAMESPACE, group="authorization.k8s.io", plural="selfsubjectaccessreviews", kind="SelfSubjectAccessReview"
)


async def may(client: Client, question: str) -> bool:
    """Whether the client may "get secrets", "create pods/exec", "patch queues.tutti.scheduler", in every namespace."""
    verb, _, what = question.partition(" ")
    resource, _, subresource = what.partition("/")
    plural, _, group = resource.partition(".")
    asked = {"verb": verb, "group": group, "resource": plural, "subresource": subresource}
    review = {"apiVersion": REVIEW.api_version, "kind": REVIEW.kind, "spec": {"resourceAttributes": asked}}
    answer = await client.create(REVIEW, None, review)
    return bool(answer["status"]["allowed"])


@pytest.mark.parametrize(
    "question",
    [
        "get secrets",
        "list configmaps",
        "create pods",
        "create pods/exec",
        "delete pods",
        "patch pods",
        "patch nodes",
        "patch queues.tutti.scheduler",
        "create podgroups.tutti.scheduler",
        "create resourceslices.resource.k8s.io",
        "create serviceaccounts/token",
        "create clusterrolebindings.rbac.authorization.k8s.io",
        "impersonate users",
    ],
)
async def test_the_scheduler_may_not(cluster: Cluster, question: str):
    async with await Client.connect(cluster.tutti) as scheduler:
        assert not await may(scheduler, question)
        assert await may(scheduler, "create pods/binding")


async def test_a_running_pod_keeps_the_queue_that_pays_for_it(cluster: Cluster):
    await cluster.add_nodes("h100x8")
    await cluster.apply(queue("other"))
    await cluster.apply(template())
    async with scheduling(cluster):
        await cluster.apply(gang("train", 1))
        (name,) = [key.partition("/")[2] for key in await cluster.running("default", 1)]

    async def label(**labels: str) -> None:
        await cluster.client.patch(kinds.POD, "default", name, {"metadata": {"labels": labels}})

    async def moved() -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:  # a policy holds a moment after it is there, and nothing tells when
                await label(**{"tutti.scheduler/queue": "other"})
                await label(**{"tutti.scheduler/queue": None})  # type: ignore[arg-type]
                await asyncio.sleep(0.1)

    with pytest.raises(ApiError, match="labels that name the queue or the group of a pod on a node cannot change"):
        await moved()
    await label(colour="green")


async def test_nobody_says_for_a_pod_that_another_queue_pays(cluster: Cluster):
    """Created on a node by hand it would be charged to the queue that it names as noted."""
    (node,) = await cluster.add_nodes("h100x8")

    def forged(name: str, **spec: str) -> str:
        return f"""
            apiVersion: v1
            kind: Pod
            metadata: {{name: {name}, annotations: {{tutti.scheduler/charged-queue: org/victim}}}}
            spec:
              containers: [{{name: main, image: i}}]
              schedulerName: {spec["scheduler"]}
              nodeName: {spec["node"]}
        """

    async def created() -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            for number in itertools.count():  # a policy holds a moment after it is there, and nothing tells when
                await cluster.apply(forged(f"early-{number}", scheduler="tutti", node=node))
                await asyncio.sleep(0.1)

    refusal = "annotation tutti.scheduler/charged-queue comes with the binding"
    with pytest.raises(ApiError, match=refusal):
        await created()
    await cluster.apply(forged("elsewhere", scheduler="default-scheduler", node=node))
    await cluster.apply(forged("clean", scheduler="tutti", node=node).replace("tutti.scheduler/charged-queue", "note"))
    note = {"metadata": {"annotations": {"tutti.scheduler/charged-queue": "org/victim"}}}
    with pytest.raises(ApiError, match=r"cannot change|comes with the binding"):
        await cluster.client.patch(kinds.POD, "default", "clean", note)


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        (queue("bad", "{resources: {gpu: {quota: 8, limit: 4}}}"), "quota is above limit; raise limit or lower quota"),
        (queue("bad", "{resources: {gpus: {quota: 8}}}"), "a resource is none of gpu, cpu, memory"),
        (queue("bad", "{resources: {gpu: {quota: -1}}}"), "quota is negative"),
        (gang("bad", 2).replace("minMember: 2", "minMember: 2\n          minSubGroup: 1"), "both minMember and minSub"),
    ],
)
async def test_what_could_never_work_is_refused_at_the_door(cluster: Cluster, manifest: str, says: str):
    with pytest.raises(ApiError, match=says):
        await cluster.apply(manifest)


async def test_a_pod_group_keeps_its_queue_while_its_pods_are_bound(cluster: Cluster):
    await cluster.add_nodes("h100x8")
    await cluster.apply(queue("other"))
    await cluster.apply(template())
    await cluster.apply(gang("train", 2))
    async with scheduling(cluster):
        await cluster.until(
            kinds.POD_GROUP, lambda groups: groups["default/train"].get("status", {}).get("bound") == 2, "it is bound"
        )
    with pytest.raises(ApiError, match=r"spec\.queue cannot change while pods are bound"):
        await cluster.apply(gang("train", 2, queue="other").partition("---")[0])
