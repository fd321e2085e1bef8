"""Snapshot and Policy: all that a decision may depend on. Equal snapshots give equal plans, whatever their order."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from queues.tree import Queue
from scheduler.api.dra import Device, DeviceClass, DeviceTaintRule, ResourceSlice
from scheduler.model.budgets import Budget
from scheduler.model.nodes import Node, Topology
from scheduler.model.reasons import Reason
from scheduler.model.volumes import Storage
from scheduler.model.workloads import Claim, Gang, Pod

Stage = Literal["allocate", "consolidate", "reclaim", "preempt", "stale"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """An administrator's choices that change decisions. Search budgets are deterministic, never wall-clock."""

    scheduler_name: str = "tutti"
    seed: int = 0
    default_queue: str = "default"
    """Queue of a gang that names none; used only if it exists."""
    solver_enabled: bool = True
    solver_deterministic_seconds: float = 0.5
    """CP-SAT's deterministic time for one joint placement."""
    solver_gangs: int = 60
    """At most so many gangs of the head of the queue are placed jointly."""
    allocator_steps: int = 20_000
    """Search steps for the devices of the pods that come to one node together."""
    device_fence_taint: str = ""
    """A NoSchedule device taint with this key is tolerated by us alone; "" for none."""
    spread: bool = False
    """Prefer emptier nodes to fuller ones."""
    usage_weight: float = 0.0
    """How much the past counts when what is over quota is divided (KAI's k); 0: not at all."""
    age_weight: int = 0
    """So many points of priority a gang gains in its queue by waiting `age_full_hours`; 0: none."""
    age_full_hours: float = 168.0
    move_after_seconds: float = 300.0
    """Nobody is moved to make room (consolidate) who has been on his node for less."""
    reservations: int = 1
    """So many gangs of each queue that find no room have it reserved, if it is known when there is any; 0: none."""
    reserve_within_hours: float = 168.0
    """Room that is there only later than so is not reserved."""
    reserve_after_seconds: int = 0
    """The first gang of a queue that has waited so long and of which that is not known keeps what is free on the nodes
    where the least is missing, for as long again, and so on; 0: never."""
    stages: tuple[Stage, ...] = ("allocate", "consolidate", "reclaim", "preempt", "stale")
    """What a plan may do, of "allocate", "consolidate", "reclaim", "preempt" and "stale"; in this order, whatever the
    order here. Gangs that ran for as long as they may are ended under any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """An object left out of the snapshot because it cannot be read. `object` as `Kind/namespace/name`.

    What can be read of it counts where that is the safe side: devices that a claim holds, a taint."""

    object: str
    uid: str
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything as it was at `now_ms` (milliseconds since 1970). Every tuple is sorted by name or key.

    `pods`: all pods on nodes that are not done, whoever scheduled them, those of gangs included.
    `gangs`: all of ours that have a pod not done, running ones included.
    """

    now_ms: int
    policy: Policy = Policy()
    nodes: tuple[Node, ...] = ()
    slices: tuple[ResourceSlice, ...] = ()
    classes: Mapping[str, DeviceClass] = field(default_factory=dict)
    taint_rules: tuple[DeviceTaintRule, ...] = ()
    withdrawn: Mapping[tuple[str, str, str], Device] = field(default_factory=dict)
    """Devices (driver, pool, name) that claims hold and that left their slice, as they were last published. What a
    slice says of a device goes before this."""
    claims: Mapping[str, Claim] = field(default_factory=dict)
    storage: Storage = field(default_factory=Storage)
    pods: tuple[Pod, ...] = ()
    binding: frozenset[str] = frozenset()
    """Uids of other schedulers' pods that have claims and no node yet: what these claims hold they are about to use."""
    gangs: tuple[Gang, ...] = ()
    queues: tuple[Queue, ...] = ()
    topologies: Mapping[str, Topology] = field(default_factory=dict)
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Namespace -> its labels: rules between pods may select by them."""
    usage: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Decayed past use: queue -> resource -> part of the cluster (`queues.usage.CLUSTER` is all of it)."""
    budgets: tuple[Budget, ...] = ()
    """PodDisruptionBudgets, those that cover any pods at all."""
    spared: frozenset[str] = frozenset()
    """Pods (key) that cannot be evicted now: they were asked, and a budget or the server forbade it."""
    set_aside: tuple[SetAside, ...] = ()
