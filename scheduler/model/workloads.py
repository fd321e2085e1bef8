"""What is wanted: pods, their claims, and the gangs they form."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from queues.resources import NOTHING, Resources
from scheduler.api.core import NodeSelector, PreferredSchedulingTerm, Toleration
from scheduler.api.dra import AllocationResult, ResourceClaimSpec
from scheduler.model.company import Company
from scheduler.model.reasons import Reason
from scheduler.model.volumes import PodVolume
from scheduler.model.zones import Aligned


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPort:
    """A port taken on the node itself. Address "" or 0.0.0.0 stands for all addresses."""

    address: str
    protocol: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A ResourceClaim. Key `namespace/name`. `allocation` without its time. `reserved_for`: uids of its consumers."""

    key: str
    uid: str
    spec: ResourceClaimSpec
    allocation: AllocationResult | None = None
    reserved_for: tuple[str, ...] = ()
    reserved_otherwise: bool = False
    """Whether some of these are no pods: nobody can tell when they are gone."""
    owner_uid: str = ""
    terminating: bool = False
    queue: str = ""
    """The queue a shared claim names by label, "" if none."""
    admin_access_allowed: bool = False
    """Whether the claim's namespace carries the admin-access label."""
    newer: tuple[str, ...] = ()
    """Paths of fields of its spec that we do not know: it cannot be allocated. Told only while it is not allocated."""
    avoids: tuple[tuple[str, str, str], ...] = ()
    """Devices (driver, pool, name) that it had and that did not become ready: not to be given to it again for now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodClaim:
    """An entry of spec.resourceClaims. `claim` is the key of the ResourceClaim, None while a template's claim does
    not exist yet. `needed` False: the template yields none for this pod. `from_template`: the claim is the pod's."""

    name: str
    claim: str | None
    from_template: bool = False
    needed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerAsk:
    """What one container asks of extended resources, for claims made on its behalf (KEP 5004).

    `index` counts init containers first, then containers; `requests` by resource name, counts."""

    name: str
    index: int
    requests: Mapping[str, int]
    init: bool = False
    sidecar: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Pod:
    """A pod, bound (`node` set) or pending. Key `namespace/name`.

    `requests` by Kubernetes resource name in house units, "pods": 1 included, sidecars, init containers, overhead and
    pod-level resources already folded in. `extended`: containers that ask for extended resources."""

    key: str
    uid: str
    requests: Resources = NOTHING
    node: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    required_affinity: NodeSelector | None = None
    preferred_affinity: tuple[PreferredSchedulingTerm, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    company: Company | None = None
    """Its rules about other pods, None if it has none."""
    host_ports: tuple[HostPort, ...] = ()
    claims: tuple[PodClaim, ...] = ()
    volumes: tuple[PodVolume, ...] = ()
    extended: tuple[ContainerAsk, ...] = ()
    extended_claim: str = ""
    """Key of the claim that already serves its extended resources, "" if none."""
    avoids: tuple[tuple[str, str, str], ...] = ()
    """Devices (driver, pool, name) that did not become ready for such a claim: the next one is to have others."""
    nominated: str = ""
    """The node that was promised to it, for one of ours without a node; "" if none was."""
    sub_group: str = ""
    priority: int = 0
    task_priority: int = 0
    created_ms: int = 0
    started_ms: int | None = None
    """When its kubelet took it; None before, or if that is not known."""
    bound_ms: int | None = None
    """When it got its node, None before, or if that is not known."""
    gated: bool = False
    terminating: bool = False
    ends_ms: int | None = None
    """By when it should have ended, if it is terminating and that is known."""
    ending_ms: int = 30_000
    """How long it may take to end once it is stopped (terminationGracePeriodSeconds)."""
    evicted: bool = False
    """Whether it is terminating because somebody had it evicted, us or another, and not because it was deleted."""
    ready: bool = False
    """As its conditions say: disruption budgets count such pods as healthy."""
    phase: str = "Pending"
    aligned: Aligned | None = None
    """What kubelets align to NUMA zones; None also where no node tells of any."""
    mig_by_annotation: bool = False
    """Whether it holds MIG slices of its node that no device plugin knows of, as KAI once gave them."""
    ours: bool = True
    """Whether its schedulerName is ours."""

    @property
    def namespace(self) -> str:
        return self.key.partition("/")[0]

    @property
    def name(self) -> str:
        return self.key.partition("/")[2]

    @property
    def done(self) -> bool:
        """Ended: holds nothing any more."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyConstraint:
    """Levels are keys of the topology (aliases already resolved)."""

    topology: str
    required: str | None = None
    preferred: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubGroup:
    """A node of the sub-group tree. `min_member` on leaves, `min_sub_group` on inner ones; None: all of them."""

    name: str
    parent: str | None = None
    min_member: int | None = None
    min_sub_group: int | None = None
    topology: TopologyConstraint | None = None


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Gang:
    """A group of pods that starts whole (its minimum) or not at all. Key `namespace/name`; a lone pod is a gang of one.

    `owner`: what stands for the gang in the API, as `kind/namespace/name` ("PodGroup/a/train", "Pod/a/p"). `pods`: all
    of its pods that are not done, bound or pending, in creation order. `succeeded`: how many have ended well.
    `problems`: what makes it unschedulable whatever the cluster looks like (set by translation)."""

    key: str
    uid: str
    owner: str
    queue: str
    """The leaf queue it names; with pods on nodes, the queue that pays for them; "" if none."""
    queues_above: tuple[str, ...] = ()
    """Those above the queue when its pods were bound, the nearest first; () if that is not known."""
    priority: int = 0
    preemptible: bool = True
    created_ms: int = 0
    min_member: int = 1
    min_sub_group: int | None = None
    sub_groups: tuple[SubGroup, ...] = ()
    topology: TopologyConstraint | None = None
    pods: tuple[Pod, ...] = ()
    succeeded: int = 0
    problems: tuple[Reason, ...] = ()
    held_back: bool = False
    """Whether one of the problems is that its last commit failed, and it is tried again soon: what was promised to it
    is kept."""
    preemption_delay_ms: int = 0
    staleness_grace_ms: int | None = None
    """How long it may run below its minimum; None: for ever."""
    below_since_ms: int | None = None
    """Since when it has been seen to run with fewer pods than its minimum; None if it does not."""
    max_runtime_ms: int | None = None
    checkpoint_interval_ms: int | None = None

    @property
    def namespace(self) -> str:
        return self.key.partition("/")[0]

    @property
    def name(self) -> str:
        return self.key.partition("/")[2]

    @property
    def pending(self) -> tuple[Pod, ...]:
        """Pods that wait for a node and may get one."""
        return tuple(pod for pod in self.pods if not pod.node and not pod.gated and not pod.terminating)

    @property
    def bound(self) -> tuple[Pod, ...]:
        return tuple(pod for pod in self.pods if pod.node)

    @property
    def may_evict_from_ms(self) -> int:
        """From when on others may be stopped for it: its preemption delay after it began to wait, or began again, as
        who has been evicted does with new pods."""
        again_ms = min((pod.created_ms for pod in self.pending), default=0)
        return max(self.created_ms, again_ms) + self.preemption_delay_ms if self.preemption_delay_ms else 0
