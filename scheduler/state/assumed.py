"""Our writes not yet seen coming back, laid over what the watches told.

A pod we bound is on its node, and a claim we allocated is allocated, from the moment the server said yes, although the
watch may tell it later. An assumption ends when the watch tells the same or something newer, when the object is gone,
or when it is forgotten because the write failed. Nothing here expires by itself: what waits too long is `overdue`, and
whoever asks reads the object again. Source: KEP 4381 (assume cache); kubernetes/kubernetes #136269, KAI #1217.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from scheduler.api.changes import Change
from scheduler.api.core import Pod, PodExtendedResourceClaimStatus
from scheduler.api.crds import CHARGED_QUEUE_ANNOTATION
from scheduler.api.dra import ResourceClaim
from scheduler.api.meta import Condition
from scheduler.model.times import rfc3339


@dataclass(slots=True, kw_only=True)
class AssumedPod:
    """What we wrote about one pod. `node` "", `extended_claim` "", `nominated` None and `terminating` False: nothing of
    the kind.
    `queue`: the queue that pays, as the binding tells it. `labels`: those that the pod gets from its node."""

    uid: str
    node: str = ""
    queue: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    extended_claim: str = ""
    nominated: str | None = None
    terminating: bool = False
    since_ms: int = 0
    _shown: tuple[Pod, Pod] | None = None
    """The pod as told and as shown, in one value: forks share this record, and are read in threads of their own."""

    def over(self, told: Pod) -> Pod:
        """The pod with our writes in it. The same object for the same `told`, so that it can be recognised."""
        if told.metadata.uid != self.uid:
            return told
        shown = self._shown
        if shown is None or shown[0] is not told:
            self._shown = shown = told, self._make(told)
        return shown[1]

    def _make(self, told: Pod) -> Pod:
        pod = told
        if self.node and not pod.spec.node_name:
            pod = msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, node_name=self.node))
            bound = Condition(type="PodScheduled", status="True", last_transition_time=rfc3339(self.since_ms))
            others = tuple(each for each in pod.status.conditions or () if each.type != bound.type)
            pod = msgspec.structs.replace(pod, status=msgspec.structs.replace(pod.status, conditions=(*others, bound)))
            if self.queue:
                noted = {**(pod.metadata.annotations or {}), CHARGED_QUEUE_ANNOTATION: self.queue}
                pod = msgspec.structs.replace(pod, metadata=msgspec.structs.replace(pod.metadata, annotations=noted))
            if self.labels:
                labels = {**(pod.metadata.labels or {}), **self.labels}
                pod = msgspec.structs.replace(pod, metadata=msgspec.structs.replace(pod.metadata, labels=labels))
        if self.extended_claim and _extended_claim(pod) != self.extended_claim:
            served = PodExtendedResourceClaimStatus(resource_claim_name=self.extended_claim)
            pod = msgspec.structs.replace(
                pod, status=msgspec.structs.replace(pod.status, extended_resource_claim_status=served)
            )
        if self.nominated is not None and pod.status.nominated_node_name != self.nominated:
            pod = msgspec.structs.replace(
                pod, status=msgspec.structs.replace(pod.status, nominated_node_name=self.nominated)
            )
        if self.terminating and pod.metadata.deletion_timestamp is None:
            going = msgspec.structs.replace(pod.metadata, deletion_timestamp="assumed")
            pod = msgspec.structs.replace(pod, metadata=going)
        return pod

    def seen_in(self, told: Pod) -> bool:
        """Whether the pod as told has all of this already, or is another pod of that name."""
        return told.metadata.uid != self.uid or (
            (not self.node or bool(told.spec.node_name))
            and (not self.extended_claim or _extended_claim(told) == self.extended_claim)
            and (
                self.nominated is None or bool(told.spec.node_name) or told.status.nominated_node_name == self.nominated
            )
            and (not self.terminating or told.metadata.deletion_timestamp is not None)
        )


def _extended_claim(pod: Pod) -> str:
    """The name of the claim made for it; an earlier one may have been deleted since its status named that."""
    served = pod.status.extended_resource_claim_status
    return served.resource_claim_name if served is not None else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssumedClaim:
    """A claim as the server answered our write, or `in_flight`: as we are about to write it."""

    change: Change
    in_flight: bool = False
    since_ms: int = 0

    def seen_in(self, told: Change) -> bool:
        """Whether what was told is as new as this. Before the answer is there, only an allocation or another uid is."""
        if told.meta.uid != self.change.meta.uid:
            return not older(told.meta.resource_version, self.change.meta.resource_version)
        if self.in_flight:
            return isinstance(told.object, ResourceClaim) and told.object.status.allocation is not None
        return not older(told.meta.resource_version, self.change.meta.resource_version)


@dataclass(slots=True, kw_only=True)
class Assumed:
    """All assumptions, by key."""

    pods: dict[str, AssumedPod] = field(default_factory=dict)
    claims: dict[str, AssumedClaim] = field(default_factory=dict)

    def told_pod(self, change: Change) -> bool:
        """Drop what this change confirms or overtakes; whether there was any."""
        assumption = self.pods.get(change.key)
        if assumption is None:
            return False
        if change.type == "DELETED":
            over = change.meta.uid in ("", assumption.uid)
        else:
            over = isinstance(change.object, Pod) and assumption.seen_in(change.object)
        if over:
            del self.pods[change.key]
        return over

    def told_claim(self, change: Change) -> bool:
        """Drop what this change confirms or overtakes; whether there was any."""
        assumption = self.claims.get(change.key)
        if assumption is None:
            return False
        if change.type == "DELETED":
            over = change.meta.uid in ("", assumption.change.meta.uid)
        else:
            over = assumption.seen_in(change)
        if over:
            del self.claims[change.key]
        return over

    def overdue(self, before_ms: int) -> tuple[str, ...]:
        """Pods and claims ("Pod/a/p", "ResourceClaim/a/c") assumed before this time and still not seen, sorted."""
        pods = [f"Pod/{key}" for key, assumption in self.pods.items() if assumption.since_ms < before_ms]
        claims = [f"ResourceClaim/{key}" for key, assumption in self.claims.items() if assumption.since_ms < before_ms]
        return tuple(sorted(pods + claims))

    def copy(self) -> "Assumed":
        return Assumed(pods=dict(self.pods), claims=dict(self.claims))


def older(version: str, than: str) -> bool:
    """Whether a resource version is older. They are decimal numbers that grow (KEP 5504); others are never older."""
    if not (version.isdecimal() and than.isdecimal()):
        return False
    return int(version) < int(than)
