"""Core kinds: the fields we read, as frozen values.

Quantities stay text until `scheduler.state.translate` reads them."""

from collections.abc import Mapping

import msgspec

from scheduler.api.meta import Condition, LabelSelector, ObjectMeta, Wire

Quantity = str | int | float


class Taint(Wire, frozen=True, kw_only=True):
    key: str = ""
    value: str = ""
    effect: str = ""


class Toleration(Wire, frozen=True, kw_only=True):
    """Empty key with operator Exists tolerates everything; empty effect matches every effect."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class NodeSelectorRequirement(Wire, frozen=True, kw_only=True):
    key: str
    operator: str
    values: tuple[str, ...] | None = None


class NodeSelectorTerm(Wire, frozen=True, kw_only=True):
    match_expressions: tuple[NodeSelectorRequirement, ...] | None = None
    match_fields: tuple[NodeSelectorRequirement, ...] | None = None


class NodeSelector(Wire, frozen=True, kw_only=True):
    """Terms are ORed, the requirements of a term ANDed; a term without requirements matches nothing."""

    node_selector_terms: tuple[NodeSelectorTerm, ...] = ()


class PreferredSchedulingTerm(Wire, frozen=True, kw_only=True):
    weight: int
    preference: NodeSelectorTerm


class NodeAffinity(Wire, frozen=True, kw_only=True):
    required_during_scheduling_ignored_during_execution: NodeSelector | None = None
    preferred_during_scheduling_ignored_during_execution: tuple[PreferredSchedulingTerm, ...] | None = None


class PodAffinityTerm(Wire, frozen=True, kw_only=True):
    """Pods by their labels and namespaces, in one domain of `topology_key`. `match_label_keys` and
    `mismatch_label_keys` add what the pod itself has under those keys."""

    topology_key: str
    label_selector: LabelSelector | None = None
    namespaces: tuple[str, ...] | None = None
    namespace_selector: LabelSelector | None = None
    match_label_keys: tuple[str, ...] | None = None
    mismatch_label_keys: tuple[str, ...] | None = None


class WeightedPodAffinityTerm(Wire, frozen=True, kw_only=True):
    weight: int
    pod_affinity_term: PodAffinityTerm


class PodAffinity(Wire, frozen=True, kw_only=True):
    """Also the form of podAntiAffinity."""

    required_during_scheduling_ignored_during_execution: tuple[PodAffinityTerm, ...] | None = None
    preferred_during_scheduling_ignored_during_execution: tuple[WeightedPodAffinityTerm, ...] | None = None


class Affinity(Wire, frozen=True, kw_only=True):
    node_affinity: NodeAffinity | None = None
    pod_affinity: PodAffinity | None = None
    pod_anti_affinity: PodAffinity | None = None


class TopologySpreadConstraint(Wire, frozen=True, kw_only=True):
    """`when_unsatisfiable`: DoNotSchedule or ScheduleAnyway; the policies: Honor or Ignore."""

    topology_key: str
    max_skew: int = 1
    when_unsatisfiable: str = "DoNotSchedule"
    label_selector: LabelSelector | None = None
    min_domains: int | None = None
    node_affinity_policy: str | None = None
    node_taints_policy: str | None = None
    match_label_keys: tuple[str, ...] | None = None


class ContainerPort(Wire, frozen=True, kw_only=True):
    container_port: int = 0
    host_port: int | None = None
    host_ip: str | None = msgspec.field(default=None, name="hostIP")
    protocol: str = "TCP"


class ContainerClaim(Wire, frozen=True, kw_only=True):
    """`request` absent: all devices of the claim."""

    name: str
    request: str | None = None


class ResourceRequirements(Wire, frozen=True, kw_only=True):
    requests: Mapping[str, Quantity] | None = None
    limits: Mapping[str, Quantity] | None = None
    claims: tuple[ContainerClaim, ...] | None = None


class Container(Wire, frozen=True, kw_only=True):
    name: str = ""
    image: str | None = None
    resources: ResourceRequirements | None = None
    ports: tuple[ContainerPort, ...] | None = None
    restart_policy: str | None = None


class PodResourceClaim(Wire, frozen=True, kw_only=True):
    name: str
    resource_claim_name: str | None = None
    resource_claim_template_name: str | None = None


class VolumeClaimSource(Wire, frozen=True, kw_only=True):
    claim_name: str = ""


class EphemeralVolumeSource(Wire, frozen=True, kw_only=True):
    """A claim is made for the pod, called `<pod>-<volume>`; its template is the controller's business."""


class PodVolume(Wire, frozen=True, kw_only=True):
    """Of the many sources of a volume those that bind a pod to nodes."""

    name: str = ""
    persistent_volume_claim: VolumeClaimSource | None = None
    ephemeral: EphemeralVolumeSource | None = None


class PodSchedulingGate(Wire, frozen=True, kw_only=True):
    name: str


class PodSchedulingGroup(Wire, frozen=True, kw_only=True):
    """The native gang API: `scheduling.k8s.io` PodGroup in the pod's namespace."""

    pod_group_name: str | None = None


class PodWorkloadReference(Wire, frozen=True, kw_only=True):
    """The native gang API of Kubernetes 1.35: a group of a `scheduling.k8s.io` Workload, and which replica of it."""

    name: str = ""
    pod_group: str = ""
    pod_group_replica_key: str = ""


class PodSpec(Wire, frozen=True, kw_only=True):
    containers: tuple[Container, ...] | None = None
    init_containers: tuple[Container, ...] | None = None
    node_name: str = ""
    node_selector: Mapping[str, str] | None = None
    affinity: Affinity | None = None
    topology_spread_constraints: tuple[TopologySpreadConstraint, ...] | None = None
    tolerations: tuple[Toleration, ...] | None = None
    scheduler_name: str = "default-scheduler"
    scheduling_gates: tuple[PodSchedulingGate, ...] | None = None
    scheduling_group: PodSchedulingGroup | None = None
    termination_grace_period_seconds: int | None = None
    workload_ref: PodWorkloadReference | None = None
    priority: int | None = None
    priority_class_name: str = ""
    preemption_policy: str | None = None
    overhead: Mapping[str, Quantity] | None = None
    resources: ResourceRequirements | None = None
    resource_claims: tuple[PodResourceClaim, ...] | None = None
    volumes: tuple[PodVolume, ...] | None = None
    host_network: bool | None = None


class PodResourceClaimStatus(Wire, frozen=True, kw_only=True):
    """`resource_claim_name` absent: no claim was needed."""

    name: str
    resource_claim_name: str | None = None


class ContainerExtendedResourceRequest(Wire, frozen=True, kw_only=True):
    container_name: str
    resource_name: str
    request_name: str


class PodExtendedResourceClaimStatus(Wire, frozen=True, kw_only=True):
    resource_claim_name: str
    request_mappings: tuple[ContainerExtendedResourceRequest, ...] = ()


class ContainerStatus(Wire, frozen=True, kw_only=True):
    """What a resize in place has done so far: given by the kubelet (`allocated_resources`), in force (`resources`)."""

    name: str = ""
    allocated_resources: Mapping[str, Quantity] | None = None
    resources: ResourceRequirements | None = None


class PodStatus(Wire, frozen=True, kw_only=True):
    """`allocated_resources`, `resources`: of the pod as a whole, what the kubelet has given it and what is in force."""

    phase: str = "Pending"
    conditions: tuple[Condition, ...] | None = None
    nominated_node_name: str = ""
    start_time: str | None = None
    resource_claim_statuses: tuple[PodResourceClaimStatus, ...] | None = None
    extended_resource_claim_status: PodExtendedResourceClaimStatus | None = None
    container_statuses: tuple[ContainerStatus, ...] | None = None
    init_container_statuses: tuple[ContainerStatus, ...] | None = None
    allocated_resources: Mapping[str, Quantity] | None = None
    resources: ResourceRequirements | None = None


class Pod(Wire, frozen=True, kw_only=True):
    metadata: ObjectMeta
    spec: PodSpec
    status: PodStatus = PodStatus()


class NodeSpec(Wire, frozen=True, kw_only=True):
    unschedulable: bool = False
    taints: tuple[Taint, ...] | None = None


class NodeStatus(Wire, frozen=True, kw_only=True):
    allocatable: Mapping[str, Quantity] | None = None
    capacity: Mapping[str, Quantity] | None = None
    conditions: tuple[Condition, ...] | None = None


class Node(Wire, frozen=True, kw_only=True):
    metadata: ObjectMeta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class Namespace(Wire, frozen=True, kw_only=True):
    metadata: ObjectMeta


class PriorityClass(Wire, frozen=True, kw_only=True):
    metadata: ObjectMeta
    value: int
    global_default: bool = False
    preemption_policy: str | None = None


class LeaseSpec(Wire, frozen=True, kw_only=True):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(Wire, frozen=True, kw_only=True):
    metadata: ObjectMeta
    spec: LeaseSpec = LeaseSpec()
