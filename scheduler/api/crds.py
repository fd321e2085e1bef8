"""Our own kinds, `tutti.scheduler/v1alpha1`: Queue, PodGroup, Topology. The source of deploy/crds (see `tutti crds`).

pydantic, because its JSON schema becomes the CustomResourceDefinition's; on the watch path they are read with `read()`.
"""

from typing import Annotated, Literal

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
            "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?[0-9]+))?$",
        },
    ),
]
Duration = Annotated[str, Field(pattern=r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$", max_length=32)]


class _Model(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


class QueueResource(_Model):
    """Quota absent = 0, limit absent = none, weight absent = 1: an empty queue may use what is free."""

    quota: QuantityText | None = Field(default=None, description="Guaranteed to this queue. Absent: 0.")
    limit: QuantityText | None = Field(default=None, description="Never exceeded. Absent: no limit.")
    over_quota_weight: int | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="Share of what is left over once every quota is served. Absent: 1.",
    )


class QueueSpec(_Model):
    parent_queue: Name | None = Field(default=None, description="The queue above; absent for a top queue.")
    priority: int = Field(
        default=100, ge=-1_000_000_000, le=1_000_000_000, description="Served before lower ones over quota."
    )
    resources: dict[Annotated[str, Field(max_length=280)], QueueResource] = Field(
        default_factory=dict,
        description="By name: gpu, cpu, memory, or deviceclass/<DeviceClass>.",
        max_length=64,
    )
    preempt_min_runtime: Duration | None = Field(default=None, description="Not preempted before it ran so long.")
    reclaim_min_runtime: Duration | None = Field(default=None, description="Not reclaimed before it ran so long.")


class TopologyConstraint(_Model):
    topology: Name = Field(description="Name of a Topology object.")
    required_level: LevelKey | None = Field(default=None, description="All pods in one domain of this level.")
    preferred_level: LevelKey | None = Field(default=None, description="As close as this level where possible.")


class SubGroup(_Model):
    """A node of the sub-group tree; leaves hold pods (label tutti.scheduler/sub-group)."""

    name: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    parent: Annotated[str, Field(max_length=63)] | None = None
    min_member: int | None = Field(default=None, ge=0, le=100_000)
    min_sub_group: int | None = Field(default=None, ge=0, le=100_000)
    topology_constraint: TopologyConstraint | None = None


class PodGroupSpec(_Model):
    min_member: int | None = Field(default=None, ge=0, le=100_000, description="Pods that must start together.")
    min_sub_group: int | None = Field(
        default=None, ge=0, le=100_000, description="Sub-groups that must start together."
    )
    queue: Name | None = Field(default=None, description="The leaf queue that pays.")
    priority_class_name: Name | None = None
    preemptibility: Literal["preemptible", "non-preemptible"] | None = None
    sub_groups: list[SubGroup] = Field(default_factory=list, max_length=10_000)
    topology_constraint: TopologyConstraint | None = None
    preemption_delay: Duration | None = None
    staleness_grace_period: Duration | None = None
    max_runtime: Duration | None = None
    checkpoint_interval: Duration | None = None


class TopologyLevel(_Model):
    key: LevelKey = Field(description=f"A node label, or {NVLINK_LEVEL} for the NVLink domain.")
    alias: Annotated[str, Field(max_length=63)] | None = None


class TopologySpec(_Model):
    levels: list[TopologyLevel] = Field(min_length=1, max_length=16, description="Coarse to fine.")
