"""Gangs that end for their own sake: too few of their pods run, or they have run for as long as they may."""

from typing import Any

from scheduler.api import kinds
from tests.service.conftest import Cluster, Objects, scheduling
from tests.service.manifests import template
from tests.service.verifier import verified

STAGES = ("allocate", "stale")


def group(name: str, spec: str) -> str:
    return f"""
        apiVersion: tutti.scheduler/v1alpha1
        kind: PodGroup
        metadata: {{name: {name}, namespace: default}}
        spec: {{queue: default, minMember: 2, {spec}}}
        """


def pod(name: str, of: str) -> str:
    """A pod by itself, so that nobody makes it anew."""
    return f"""
        apiVersion: v1
        kind: Pod
        metadata: {{name: {name}, namespace: default, labels: {{tutti.scheduler/pod-group: {of}}}}}
        spec:
          schedulerName: tutti
          restartPolicy: Never
          containers:
          - name: main
            image: example.com/trainer:v1
            resources: {{requests: {{cpu: "1", memory: 1Gi}}, claims: [{{name: gpus}}]}}
          resourceClaims: [{{name: gpus, resourceClaimTemplateName: gpus}}]
        """


async def test_a_gang_that_lost_a_pod_loses_the_others_after_its_grace_and_starts_whole_again(cluster: Cluster):
    await cluster.add_nodes("h100x8")
    await cluster.apply(template())
    async with verified(cluster.client) as verifier:
        async with scheduling(cluster, stages=STAGES):
            await cluster.apply(group("train", "stalenessGracePeriod: 1h"))
            for number in range(2):
                await cluster.apply(pod(f"train-{number}", "train"))
            await cluster.running("default", 2)
            await cluster.delete(kinds.POD, "default/train-1")
            await cluster.until(
                kinds.POD_GROUP, lambda found: below(found, "train") == "True", "it is below its minimum"
            )
        async with scheduling(cluster, stages=STAGES):  # which knows since when from the PodGroup alone
            await cluster.apply(group("train", "stalenessGracePeriod: 1s"))
            await cluster.until(kinds.POD, lambda pods: not pods, "the other has been stopped")
            await cluster.until(kinds.EVENT, lambda found: told(found, "train", "GangBelowMinimum"), "it is told")
            for number in range(2):
                await cluster.apply(pod(f"train-{number}", "train"))
            await cluster.running("default", 2)
            await cluster.until(kinds.POD_GROUP, lambda found: below(found, "train") == "False", "it is whole")
        await verifier.until(lambda holders: len(holders) == 2)


async def test_a_gang_ends_when_it_has_run_for_as_long_as_it_may_whatever_the_stages(cluster: Cluster):
    await cluster.add_nodes("h100x8")
    await cluster.apply(template())
    async with verified(cluster.client), scheduling(cluster, recheck_seconds=3600):
        await cluster.apply(group("short", "maxRuntime: 2s"))
        await cluster.apply(group("long", "maxRuntime: 2h"))
        for number in range(2):
            await cluster.apply(pod(f"short-{number}", "short"))
            await cluster.apply(pod(f"long-{number}", "long"))
        await cluster.running("default", 4)
        await cluster.until(kinds.POD, lambda pods: len(pods) == 2, "the short one has ended")
        events = await cluster.until(
            kinds.EVENT, lambda found: told(found, "short", "MaxRuntimeReached"), "its group is told"
        )
        assert told(events, "short-0", "MaxRuntimeReached")
        assert not told(events, "long", "MaxRuntimeReached")
        groups = await cluster.until(kinds.POD_GROUP, lambda found: "long" in str(found), "the other is there")
        assert groups["default/long"]["status"]["endsAt"]


def below(groups: Objects, name: str) -> str:
    """The status of the condition, "" if there is none."""
    conditions = groups[f"default/{name}"].get("status", {}).get("conditions", ())
    return next((str(each["status"]) for each in conditions if each["type"] == "BelowMinimum"), "")


def told(events: Objects, name: str, reason: str) -> list[dict[str, Any]]:
    return [e for e in events.values() if (e["involvedObject"]["name"], e["reason"]) == (name, reason)]
