"""Our own kinds, `tutti.scheduler/v1alpha1`: Queue, PodGroup, Topology. The source of deploy/crds (see `tutti crds`).

pydantic, because its JSON schema becomes the CustomResourceDefinition's; on the watch path they are read with `read()`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

GROUP = "tutti.scheduler"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

# Labels and annotations of ours. On pods or on the owners of pods.
QUEUE_LABEL = f"{GROUP}/queue"
POD_GROUP_LABEL = f"{GROUP}/pod-group"
SUB_GROUP_LABEL = f"{GROUP}/sub-group"
PREEMPTIBILITY_LABEL = f"{GROUP}/preemptibility"
CHARGED_QUEUE_ANNOTATION = f"{GROUP}/charged-queue"
"""On pods, written with the binding: the queue that pays, after those above it from the top ("org/team")."""

# Conditions of ours: on PodGroups, and on pods that are stopped, where a Job's podFailurePolicy can tell the cause.
BELOW_MINIMUM = "BelowMinimum"
MAX_RUNTIME_REACHED = f"{GROUP}/MaxRuntimeReached"

MAX_RUNTIME_ANNOTATION = f"{GROUP}/max-runtime"
MIN_MEMBER_ANNOTATION = f"{GROUP}/min-member"
TOPOLOGY_ANNOTATION = f"{GROUP}/topology"
REQUIRED_LEVEL_ANNOTATION = f"{GROUP}/topology-required-level"
PREFERRED_LEVEL_ANNOTATION = f"{GROUP}/topology-preferred-level"

# A topology level that is no node label but the NVLink domain, a device attribute (gpu.nvidia.com/nvlinkDomain).
NVLINK_LEVEL = "gpu.nvidia.com/nvlinkDomain"

Name = Annotated[str, Field(min_length=1, max_length=253)]
LevelKey = Annotated[str, Field(min_length=1, max_length=317)]
# Kubernetes quantity, as the API server's int-or-string.
QuantityText = Annotated[
    int | str,
    Field(
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "pattern": r"^\+?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?[0-9]+))?$",
        },
    ),
]
Duration = Annotated[str, Field(pattern=r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$", max_length=32)]
SignedDuration = Annotated[str, Field(pattern=r"^-?([0-9]+(\.[0-9]+)?(ms|s|m|h))+$", max_length=32)]


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


def _rules(*rules: tuple[str, str]) -> dict[str, Any]:
    """CEL rules, each with the message a user reads when it refuses an object."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in rules]}


_BY_NAME: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
_BY_KEY: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["key"]}
_BY_TYPE: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}


class QueueResource(_Model):
    """What the queue may use of one resource. Without any value it may use what is free, and nothing is guaranteed."""

    # Amounts in words ("64Gi") cannot be compared within the API server's cost limit: plain numbers only.
    model_config = ConfigDict(
        json_schema_extra=_rules(
            (
                "!has(self.quota) || type(self.quota) != int || int(self.quota) >= 0",
                "quota is negative; give 0 or more, or leave it out for 0",
            ),
            (
                "!has(self.limit) || type(self.limit) != int || int(self.limit) >= 0",
                "limit is negative; give 0 or more, or leave it out for no limit",
            ),
            (
                "!has(self.quota) || !has(self.limit) || type(self.quota) != int || type(self.limit) != int"
                " || int(self.quota) <= int(self.limit)",
                "quota is above limit; raise limit or lower quota",
            ),
        )
    )

    quota: QuantityText | None = Field(default=None, description="Guaranteed to this queue. Absent: 0.")
    limit: QuantityText | None = Field(default=None, description="Never exceeded. Absent: no limit.")
    over_quota_weight: int | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="Share of what is left over once every quota is served. Absent: 1.",
    )


class QueueSpec(_Model):
    """What the queue may use, and where it stands among the queues."""

    parent_queue: Name | None = Field(default=None, description="The queue above; absent for a top queue.")
    priority: int = Field(
        default=100, ge=-1_000_000_000, le=1_000_000_000, description="Served before lower ones over quota."
    )
    resources: dict[Annotated[str, Field(max_length=340)], QueueResource] = Field(
        default_factory=dict,
        description="By name: gpu, cpu, memory, or deviceclass/<DeviceClass>; and by what devices of a class amount to,"
        " <capacity>.deviceclass/<DeviceClass> or <counter>.counters.deviceclass/<DeviceClass>.",
        max_length=64,
        json_schema_extra=_rules(
            (
                "self.all(name, name in ['gpu', 'cpu', 'memory'] || name.startsWith('deviceclass/')"
                " || name.matches('^[a-zA-Z0-9_-]+([.]counters)?[.]deviceclass/.'))",
                "a resource is none of gpu, cpu, memory and deviceclass/<DeviceClass>, the last alone or after"
                " <capacity>. or <counter>.counters.; correct its name",
            )
        ),
    )
    preempt_min_runtime: Duration | None = Field(default=None, description="Not preempted before it ran so long.")
    reclaim_min_runtime: Duration | None = Field(default=None, description="Not reclaimed before it ran so long.")
    max_concurrent_evictions: int | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="No more of its pods than so many, those of the queues below it included, are on their way out by"
        " eviction at once. Absent: no cap.",
    )


class TopologyConstraint(_Model):
    """How close together the pods must be, by the levels of a Topology."""

    topology: Name = Field(description="Name of a Topology object.")
    required_level: LevelKey | None = Field(default=None, description="All pods in one domain of this level.")
    preferred_level: LevelKey | None = Field(default=None, description="As close as this level where possible.")


class SubGroup(_Model):
    """A node of the sub-group tree; leaves hold pods (label tutti.scheduler/sub-group)."""

    model_config = ConfigDict(
        json_schema_extra=_rules(
            (
                "!has(self.minMember) || !has(self.minSubGroup)",
                "a sub-group has minMember and minSubGroup; leaves have the first, inner ones the second",
            ),
            ("!has(self.parent) || self.parent != self.name", "a sub-group is its own parent; name another, or none"),
        )
    )

    name: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")] = Field(
        description="Its name within the PodGroup, as the label of its pods gives it."
    )
    parent: Annotated[str, Field(max_length=63)] | None = Field(
        default=None, description="The sub-group above; absent at the top."
    )
    min_member: int | None = Field(
        default=None, ge=0, le=100_000, description="Pods of this sub-group that must start together. Absent: all."
    )
    min_sub_group: int | None = Field(
        default=None, ge=0, le=100_000, description="Sub-groups directly below that must start together. Absent: all."
    )
    topology_constraint: TopologyConstraint | None = Field(
        default=None, description="How close together the pods of this sub-group must be."
    )


class PodGroupSpec(_Model):
    """What starts together, who pays for it, and how close together it must be."""

    model_config = ConfigDict(
        json_schema_extra=_rules(
            (
                "!has(self.minMember) || !has(self.minSubGroup)",
                "both minMember and minSubGroup are set; count pods with the first or sub-groups with the second",
            ),
            (
                "!has(self.minSubGroup) || has(self.subGroups)",
                "minSubGroup is set and there are no subGroups; list them, or use minMember",
            ),
        )
    )

    min_member: int | None = Field(default=None, ge=0, le=100_000, description="Pods that must start together.")
    min_sub_group: int | None = Field(
        default=None, ge=0, le=100_000, description="Sub-groups that must start together."
    )
    queue: Name | None = Field(default=None, description="The leaf queue that pays.")
    priority_class_name: Name | None = Field(
        default=None, description="A PriorityClass; higher ones of a queue are served first. Absent: that of the pods."
    )
    preemptibility: Literal["preemptible", "non-preemptible"] | None = Field(
        default=None, description="Whether its pods may be stopped for others; if not, they must fit in the quota."
    )
    sub_groups: list[SubGroup] = Field(
        default_factory=list,
        max_length=10_000,
        description="Parts with minima and places of their own, as a tree by parent.",
        json_schema_extra=_BY_NAME,
    )
    topology_constraint: TopologyConstraint | None = Field(
        default=None, description="How close together all of its pods must be."
    )
    preemption_delay: Duration | None = Field(
        default=None,
        description="How long it waits, from its creation or from when its pods were made anew, before others are"
        " moved or stopped for it. Where there is room it starts at once.",
    )
    staleness_grace_period: SignedDuration | None = Field(
        default=None,
        description="How long it may run with fewer pods than must start together, before all are stopped to start anew"
        " (stage stale); negative: for ever. Absent: 1 minute.",
    )
    max_runtime: Duration | None = Field(
        default=None,
        description="How long it may run from its first pod's start, before its pods are stopped. Absent: for ever.",
    )
    checkpoint_interval: Duration | None = Field(
        default=None, description="How often it saves its work. No decision depends on it yet."
    )


class TopologyLevel(_Model):
    """One level. Nodes with the same value of its key, and of the keys of the levels above, are one domain."""

    key: LevelKey = Field(description=f"A node label, or {NVLINK_LEVEL} for the NVLink domain.")
    alias: Annotated[str, Field(max_length=63)] | None = Field(
        default=None, description="A short name that constraints may use in place of the key."
    )


class TopologySpec(_Model):
    """The levels by which nodes are near to each other or far."""

    levels: list[TopologyLevel] = Field(
        min_length=1,
        max_length=16,
        description="Coarse to fine.",
        json_schema_extra={
            **_BY_KEY,
            **_rules(
                (
                    "self.all(a, !has(a.alias) || self.exists_one(b, has(b.alias) && b.alias == a.alias))",
                    "two levels have one alias; rename one of them",
                )
            ),
        },
    )


class ConditionStatus(_Model):
    """One condition of an object, as `kubectl wait --for=condition=<type>` reads it."""

    type: Annotated[str, Field(max_length=316)] = Field(description="What is said of the object: Scheduled, Ready.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: Annotated[str, Field(max_length=1024)] = Field(description="Why, as a stable token.")
    message: Annotated[str, Field(max_length=32_768)] = Field(description="Why, in words.")
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})] = Field(
        description="Since when the status is what it is."
    )


Conditions = Annotated[list[ConditionStatus], Field(max_length=16, json_schema_extra=_BY_TYPE)]
Amounts = Annotated[dict[Annotated[str, Field(max_length=340)], QuantityText], Field(max_length=64)]
Count = Annotated[int, Field(ge=0)]


class ReasonStatus(_Model):
    """The one dominant reason why a gang waits."""

    code: Annotated[str, Field(max_length=128, description="A stable token.")]
    message: Annotated[str, Field(max_length=32_768, description="What is missing, in one sentence.")]
    cure: Annotated[str, Field(max_length=32_768, description="The smallest change that would help.")]
    missing: Amounts | None = Field(default=None, description="How much is missing, by resource; pods are counted.")
    decided_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})] = Field(
        description="When it was found to be the reason."
    )


class PodGroupStatus(_Model):
    """What the scheduler has decided, and what has come of it."""

    conditions: Conditions = Field(
        default_factory=list,
        description="Scheduled: all that start together have nodes. BelowMinimum: fewer run than must run together.",
    )
    reason: ReasonStatus | None = Field(default=None, description="Why it waits; absent once it is placed.")
    needed: Count | None = Field(default=None, description="Pods that start together.")
    pending: Count | None = Field(default=None, description="Pods without a node.")
    bound: Count | None = Field(default=None, description="Pods with a node, running ones included.")
    running: Count | None = Field(default=None, description="Pods that run.")
    nodes: Count | None = Field(default=None, description="Nodes its pods are on.")
    placement_score: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="100: no better placement was possible when it was placed; less by the percentage left open.",
    )
    starts_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})] | None = Field(
        default=None, description="When it will start, as far as that is known."
    )
    ends_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})] | None = Field(
        default=None,
        description="When its pods will be stopped: at the end of maxRuntime, or of its grace below the minimum.",
    )


class QueueStatus(_Model):
    """What the queue has, and what it may count on."""

    conditions: Conditions = Field(default_factory=list, description="Ready: it takes workloads.")
    fair_share: Amounts | None = Field(default=None, description="Its part of the cluster at present.")
    allocated: Amounts | None = Field(default=None, description="In use by it and the queues below.")
    requested: Amounts | None = Field(default=None, description="In use and asked for.")
    usage: Amounts | None = Field(
        default=None,
        description="The part of the cluster that it and the queues below used, 0 to 1, of late more than long ago.",
    )
    usage_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})] | None = Field(
        default=None, description="Until when usage is counted. The next leader goes on from there."
    )
    running: Count | None = Field(default=None, description="Gangs that run, in it and the queues below.")
    pending: Count | None = Field(default=None, description="Gangs that wait, in it and the queues below.")


class Queue(_Model):
    """Shares a cluster among teams: a quota that is guaranteed, a limit that is never passed, a weight in between."""

    spec: QueueSpec | None = None
    status: QueueStatus | None = None


class PodGroup(_Model):
    """Pods that start together or not at all."""

    # A rule of the whole object, so that leaving out the spec and putting it back is no way around it. A group that has
    # not started may still be moved, for instance because its queue was misspelt.
    model_config = ConfigDict(
        json_schema_extra=_rules(
            (
                "!has(oldSelf.status) || !has(oldSelf.status.bound) || oldSelf.status.bound == 0"
                " || !has(oldSelf.spec) || !has(oldSelf.spec.queue)"
                " || (has(self.spec) && has(self.spec.queue) && self.spec.queue == oldSelf.spec.queue)",
                "spec.queue cannot change while pods are bound; delete the PodGroup and its pods, and create them anew",
            )
        )
    )

    spec: PodGroupSpec | None = None
    status: PodGroupStatus | None = None


class Topology(_Model):
    """How nodes stand to each other: ordered levels such as block, rack and host."""

    spec: TopologySpec
