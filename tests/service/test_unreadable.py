"""Objects of other dialects, which no schema of ours has checked: what cannot be read is set aside, with a reason."""

import contextlib
from collections.abc import AsyncIterator

import pytest

from scheduler.api import kinds
from scheduler.api.kinds import Kind
from tests.service.conftest import Cluster, Objects, scheduling
from tests.service.manifests import gang, template


def open_definition(kind: Kind) -> str:
    """A definition that lets everything through."""
    return f"""
        apiVersion: apiextensions.k8s.io/v1
        kind: CustomResourceDefinition
        metadata:
          name: {kind.plural}.{kind.group}
          annotations: {{api-approved.kubernetes.io: unapproved}}
        spec:
          group: {kind.group}
          scope: {"Namespaced" if kind.namespaced else "Cluster"}
          names: {{plural: {kind.plural}, singular: {kind.kind.lower()}, kind: {kind.kind}}}
          versions:
          - name: {kind.version}
            served: true
            storage: true
            subresources: {{status: {{}}}}
            schema: {{openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}}}
        """


@pytest.fixture
async def dialects(cluster: Cluster) -> AsyncIterator[Cluster]:
    """A cluster that serves KAI's kinds, and the scheduler."""
    for kind in (kinds.KAI_QUEUE, kinds.KAI_POD_GROUP):
        await cluster.apply(open_definition(kind))
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(scheduling(cluster))
        await cluster.add_nodes("h100x8")
        await cluster.apply(template())
        yield cluster


async def told(cluster: Cluster, kind: str, name: str, text: str) -> None:
    def says(events: Objects) -> bool:
        about = (event for event in events.values() if event["involvedObject"].get("kind") == kind)
        return any(event["involvedObject"]["name"] == name and text in event["message"] for event in about)

    await cluster.until(kinds.EVENT, says, f"an event on {kind} {name} says {text!r}")


async def test_a_queue_with_an_unreadable_amount_takes_no_work_until_it_is_mended(dialects: Cluster):
    await dialects.apply(
        """
        apiVersion: scheduling.run.ai/v2
        kind: Queue
        metadata: {name: team}
        spec: {resources: {gpu: {quota: plenty}}}
        """
    )
    await dialects.apply(gang("bad", 2, queue="team"))
    reason = await dialects.reason("default/bad", "QueueUnusable")
    assert "plenty" in reason["message"] or "cannot be read" in reason["message"]
    await told(dialects, "Queue", "team", "plenty")

    await dialects.apply(gang("good", 2))
    await dialects.running("default", 2)
    # In KAI's own words: what is not named is not to be had, and -1 is without limit.
    unlimited = {"quota": -1, "limit": -1}
    mended = {"spec": {"resources": {"gpu": {"quota": 2, "limit": 2}, "cpu": unlimited, "memory": unlimited}}}
    await dialects.client.patch(kinds.KAI_QUEUE, None, "team", mended)
    await dialects.running("default", 4)


@pytest.mark.parametrize(
    ("spec", "says"),
    [({"minMember": "three", "queue": "default"}, "three"), ("no mapping at all", "spec")],
    ids=["a number that is none", "a spec that is no mapping"],
)
async def test_a_pod_group_that_cannot_be_read_holds_its_pods_and_nobody_elses(dialects: Cluster, spec, says):
    await dialects.client.create(
        kinds.KAI_POD_GROUP,
        "default",
        {
            "apiVersion": kinds.KAI_POD_GROUP.api_version,
            "kind": "PodGroup",
            "metadata": {"name": "theirs", "namespace": "default"},
            "spec": spec,
        },
    )
    await dialects.apply(
        """
        apiVersion: v1
        kind: Pod
        metadata:
          name: member
          namespace: default
          annotations: {pod-group-name: theirs}
        spec: {schedulerName: tutti, containers: [{name: main, image: i}]}
        """
    )
    await told(dialects, "PodGroup", "theirs", says)
    await dialects.apply(gang("good", 2))
    await dialects.running("default", 2)
    member = await dialects.client.get(kinds.POD, "default", "member")
    assert not member["spec"].get("nodeName")

    mended = {"spec": None} if isinstance(spec, str) else {"spec": {"minMember": 1}}
    await dialects.client.patch(kinds.KAI_POD_GROUP, "default", "theirs", mended)
    await dialects.client.patch(
        kinds.KAI_POD_GROUP, "default", "theirs", {"spec": {"minMember": 1, "queue": "default"}}
    )
    await dialects.running("default", 3)
