"""A case as a world that decisions are carried out in: its objects as a Snapshot, and what a round of time does to it.

Between rounds, as in the peer's own harness: what was bound runs; what was told to end is gone and waits anew, under
its name, as its controller makes it again; except for jobs that were deleted, whose pods go on ending.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from queues.resources import NOTHING, Resources
from queues.tree import WHOLE, Queue, QueueResource
from scheduler.api import dra
from scheduler.api.attributes import GPU_DRIVER, GPU_RESOURCE
from scheduler.api.core import NodeSelectorRequirement
from scheduler.dra.selection import only_on
from scheduler.model.company import Audience, Company, Term
from scheduler.model.nodes import Node, Topology
from scheduler.model.plan import Placement, Plan
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.model.volumes import PodVolume
from scheduler.model.workloads import (
    Claim,
    ContainerAsk,
    Gang,
    Pod,
    PodClaim,
    SubGroup,
    TopologyConstraint,
)
from scheduler.model.zones import Aligned, Zone, Zones
from scheduler.state.below import Fall, Falls
from scheduler.state.fields import in_house_units
from scheduler.state.pods import mig_by_annotation
from tests.builders import NOW_MS, label_in
from tests.conformance import kai_cases as given
from tests.conformance.kai_gpus import SharedGpus, are_shared, device_class, gpu, published

NODE_AFFINITY = "kai.scheduler/type"
"""The label that `nodeAffinity` selects by; a node that does not carry it has its name for value."""
OBSERVED = "kai.scheduler/numa-placement-observed"
"""On a pod: in which zones it is, and with how much. Only the world that a case is played in reads it."""
QUEUE_LABEL = "kai.scheduler/queue"
ROUND_MS = 1000
MINUTE_MS = 60_000
LONG_MS = 60 * MINUTE_MS

STAGES = {
    "consolidation": "consolidate",
    "reclaim": "reclaim",
    "preempt": "preempt",
    "stalegangeviction": "stale",
}
"""What a stage of ours is called that does what an action of the peer's does; `allocate` evicts nobody."""

ON_NODES = ("Allocated", "Binding", "Bound", "Running", "Releasing", "StuckInReleasing")
ENDING = ("Releasing", "StuckInReleasing")
DONE = ("Succeeded", "Failed")
_KNOWN = {*ON_NODES, *DONE, "Pending", "Pipelined", "Gated"}
# Weights are compared with each other only, so fractions of one become integers by one factor for all.
_WEIGHT = 1000
_GPU, _CPU, _MEGABYTE = 1000, 1, 10**6


def obstacles(case: given.Case) -> Iterator[str]:
    """What the case says that a Snapshot has no word for: without it the case would be another one."""
    policies = {node.numa.policy for node in case.nodes if node.numa is not None}
    if unknown_policies := sorted(policies - {"SingleNUMANode", "Restricted"}):
        yield f"NUMA policies {', '.join(unknown_policies)}"
    tasks = [task for job in case.jobs for task in job.tasks]
    if unknown := sorted({task.state for task in tasks} - _KNOWN):
        yield f"pods in state {', '.join(unknown)}"


@dataclass(slots=True, kw_only=True)
class Standing:
    """One task as it stands: its state in the peer's words, and which pod of its name it is by now."""

    job: given.Job
    task: given.Task
    state: str
    node: str
    started_ms: int | None
    number: int = 0
    promised: str = ""

    @property
    def key(self) -> str:
        return f"{self.job.namespace}/{self.task.name}"

    @property
    def uid(self) -> str:
        return f"{self.task.name}~{self.number}" if self.number else self.task.name


class World:
    """The objects of one case. `tasks` by key."""

    def __init__(self, case: given.Case) -> None:
        """Raises TooMuch if more runs on a node than it has."""
        self.case = case
        self.now_ms = NOW_MS
        self.tasks = {s.key: s for job in case.jobs for s in (_standing(job, task) for task in job.tasks)}
        self._falls = Falls(
            known={
                f"{job.namespace}/{job.name}": Fall(
                    uid=f"gang-{job.namespace}/{job.name}", since_ms=NOW_MS - round(job.stale_for_seconds * 1000)
                )
                for job in case.jobs
                if job.stale_for_seconds is not None
            }
        )
        self._gpus = SharedGpus(case) if are_shared(case) else None
        self._claims = {claim.key: claim for claim in map(_claim, case.dra.resource_claims)}
        grouped_first = sorted(self.tasks.values(), key=lambda standing: not standing.task.gpu_groups)
        for standing in grouped_first:
            self._make_claim(standing)

    def snapshot(self) -> Snapshot:
        pods = {key: _pod(standing, self._gpus) for key, standing in self.tasks.items() if standing.state not in DONE}
        case = self.case
        return Snapshot(
            now_ms=self.now_ms,
            policy=replace(_policy(case.run.options.scheduler_conf), stages=_stages(case.run.actions)),
            nodes=tuple(_node(node, self._ended_on(node.name), with_gpus=self._gpus is None) for node in case.nodes),
            slices=(*(self._gpus.slices() if self._gpus else ()), *map(_slice, case.dra.resource_slices)),
            classes=_classes(case, shared=self._gpus is not None),
            claims=dict(self._claims),
            pods=tuple(pod for _, pod in sorted(pods.items()) if pod.node),
            gangs=self._falls.noted(tuple(self._gangs(pods)), self.now_ms, lambda _: None),
            queues=tuple(map(_queue, case.queues)),
            topologies={
                each.name: Topology(name=each.name, levels=tuple(level.node_label for level in each.levels), aliases={})
                for each in case.topologies
            },
            namespaces={name: {} for name in sorted({"default", *(job.namespace for job in case.jobs)})},
        )

    def _ended_on(self, node: str) -> Iterator[Standing]:
        return (each for each in self.tasks.values() if each.task.node == node and (each.number or not each.node))

    def carry_out(self, plan: Plan) -> None:
        """What is placed is being bound, what is evicted ends."""
        for standing in self.tasks.values():
            standing.promised = ""
        for promise in plan.promises:
            self.tasks[promise.pod].promised = promise.node
        for eviction in plan.evictions:
            self.tasks[eviction.pod].state = "Releasing"
        for placement in plan.placements:
            standing = self.tasks[placement.pod]
            standing.state, standing.node = "Binding", placement.node
            self._reserve(standing, placement)

    def pass_round(self, *, ending_go: bool = False) -> None:
        """One round of time. `ending_go`: pods that ended when the case began do not come back."""
        self.now_ms += ROUND_MS
        for standing in self.tasks.values():
            if standing.state == "Binding":
                standing.state, standing.started_ms = "Running", self.now_ms
            elif standing.state == "Releasing" and not standing.job.keeps_releasing:
                self._release(standing)
                back = not (ending_go and standing.task.state == "Releasing")
                standing.state, standing.node, standing.started_ms = "Pending" if back else "Failed", "", None
                standing.number += 1
                self._make_claim(standing)

    def _gangs(self, pods: Mapping[str, Pod]) -> Iterator[Gang]:
        grace = self.case.run.options.staleness_grace_period_seconds
        for job in self.case.jobs:
            mine = [self.tasks[f"{job.namespace}/{task.name}"] for task in job.tasks]
            alive = tuple(pods[standing.key] for standing in mine if standing.key in pods)
            if alive:
                by_annotation = [each for each in mine if each.task.legacy_mig and not each.node]
                yield replace(
                    _gang(job, grace),
                    pods=alive,
                    problems=tuple(mig_by_annotation(each.key, "nvidia.com/mig-1g.10gb") for each in by_annotation),
                    succeeded=sum(standing.state == "Succeeded" for standing in mine),
                )

    def _make_claim(self, standing: Standing) -> None:
        """The claim for GPUs that a pod has of its own, where they are devices."""
        spec = self._gpus.claim(standing.task.request) if self._gpus else None
        if self._gpus is None or spec is None:
            return
        there = standing.node and standing.state in ON_NODES
        key = _own_claim(standing)
        self._claims[key] = Claim(
            key=key,
            uid=f"claim-{standing.uid}",
            spec=spec,
            allocation=self._gpus.held(standing.task) if there else None,
            reserved_for=(standing.uid,) if there else (),
            owner_uid=standing.uid,
        )

    def _reserve(self, standing: Standing, placement: Placement) -> None:
        for share in placement.claims:
            claim = self._claims[share.claim]
            users = tuple(dict.fromkeys((*claim.reserved_for, standing.uid)))
            self._claims[claim.key] = replace(
                claim, allocation=share.allocation or claim.allocation, reserved_for=users
            )

    def _release(self, standing: Standing) -> None:
        self._claims.pop(_own_claim(standing), None)
        for name in standing.task.resource_claims:
            claim = self._claims.get(f"{standing.job.namespace}/{name}")
            if claim is not None:
                users = tuple(uid for uid in claim.reserved_for if uid != standing.uid)
                self._claims[claim.key] = replace(
                    claim, allocation=claim.allocation if users else None, reserved_for=users
                )


def _standing(job: given.Job, task: given.Task) -> Standing:
    """A task that was only promised a node waits like any other: a plan outlives no cycle in the peer's cases."""
    there = task.state in (*ON_NODES, *DONE)
    return Standing(
        job=job,
        task=task,
        state="Pending" if task.state == "Pipelined" else task.state,
        node=task.node if there else "",
        started_ms=NOW_MS - MINUTE_MS - round((job.stale_for_seconds or 0) * 1000) if there else None,
    )


def _own_claim(standing: Standing) -> str:
    return f"{standing.key}-gpus"


def _stages(actions: Sequence[str]) -> tuple[str, ...]:
    """Free room is used whatever the case is about."""
    return ("allocate", *(STAGES[action] for action in actions if action in STAGES))


def _policy(conf: given.SchedulerConf) -> Policy:
    arguments = {value for tier in conf.tiers for plugin in tier.plugins for value in plugin.arguments.values()}
    return Policy(spread="spread" in arguments, move_after_seconds=0)


def _node(node: given.Node, ended: Iterable[Standing], *, with_gpus: bool) -> Node:
    """`ended`: who was on the node when the case began and is so no more."""
    amounts = {"cpu": node.cpu_milli, "memory": node.memory_bytes, "pods": node.max_pods, **node.mig_instances}
    if with_gpus:
        amounts[GPU_RESOURCE] = node.allocatable_gpus
    labels = {"kubernetes.io/hostname": node.name, NODE_AFFINITY: node.name, **node.labels}
    return Node(
        name=node.name,
        uid=f"node-{node.name}",
        labels=labels,
        allocatable=Resources(amounts),
        zones=_zones(node.numa, ended) if node.numa is not None else None,
    )


def _zones(numa: given.Zones, ended: Iterable[Standing]) -> Zones:
    """As an exporter tells it: what those had who have ended is available again, in the zones that they had."""
    freed: dict[str, Resources] = {}
    for standing in ended:
        for held in json.loads(standing.task.annotations.get(OBSERVED, "[]")):
            freed[held["zone"]] = freed.get(held["zone"], NOTHING) + _of_zone(held["amount"])
    return Zones(
        single=numa.policy == "SingleNUMANode",
        per_pod=numa.scope == "Pod",
        zones=tuple(
            Zone(
                name=zone["id"],
                allocatable=_of_zone(zone["allocatable"]),
                available=_of_zone(zone["available"]) + freed.get(zone["id"], NOTHING),
            )
            for zone in numa.zones
        ),
    )


def _of_zone(amounts: Mapping[str, str]) -> Resources:
    return Resources({name: in_house_units(name, amount) for name, amount in amounts.items()})


def _queue(queue: given.Queue) -> Queue:
    return Queue(
        name=queue.name,
        parent=queue.parent,
        priority=queue.priority,
        created_ms=NOW_MS + queue.created * MINUTE_MS,
        resources={
            "gpu": _rule(queue.gpu, _GPU),
            "cpu": _rule(queue.cpu_milli, _CPU),
            "memory": _rule(queue.memory_mb, _MEGABYTE),
        },
        preempt_min_runtime_ms=_milliseconds(queue.preempt_min_runtime_seconds),
        reclaim_min_runtime_ms=_milliseconds(queue.reclaim_min_runtime_seconds),
    )


def _rule(rule: given.Rule, scale: int) -> QueueResource:
    return QueueResource(
        quota=WHOLE if rule.quota == -1 else round(rule.quota * scale),
        limit=None if rule.limit == -1 else round(rule.limit * scale),
        weight=max(round(rule.over_quota_weight * _WEIGHT), 0),
    )


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)


def _gang(job: given.Job, default_grace: float | None) -> Gang:
    key, tree = f"{job.namespace}/{job.name}", job.sub_group_tree
    own = job.staleness_grace_period_seconds
    # Without either the peer's runner has none: whoever is below the minimum is stopped at once.
    grace = (default_grace or 0) if own is None else own
    constraint = job.topology_constraint or (tree.topology_constraint if tree else None)
    return Gang(
        key=key,
        uid=f"gang-{key}",
        owner=f"PodGroup/{key}",
        queue=job.queue,
        priority=job.priority,
        preemptible=job.preemptible,
        created_ms=NOW_MS - round(job.age_minutes * MINUTE_MS),
        min_member=len(job.tasks) if job.min_available is None else job.min_available,
        min_sub_group=tree.min_sub_group if tree else None,
        sub_groups=tuple(_sub_groups(tree, None)) if tree else (),
        topology=_constraint(constraint),
        preemption_delay_ms=round(job.preemption_delay_seconds * 1000),
        staleness_grace_ms=None if grace < 0 else round(grace * 1000),
    )


def _sub_groups(group: given.Group, parent: str | None) -> Iterator[SubGroup]:
    for leaf in group.pod_sets:
        topology = _constraint(leaf.topology_constraint)
        yield SubGroup(name=leaf.name, parent=parent, min_member=leaf.min_available, topology=topology)
    for inner in group.sub_groups:
        topology = _constraint(inner.topology_constraint)
        yield SubGroup(name=inner.name, parent=parent, min_sub_group=inner.min_sub_group, topology=topology)
        yield from _sub_groups(inner, inner.name)


def _constraint(constraint: given.Constraint | None) -> TopologyConstraint | None:
    if constraint is None:
        return None
    return TopologyConstraint(
        topology=constraint.topology, required=constraint.required_level, preferred=constraint.preferred_level
    )


def _pod(standing: Standing, gpus: SharedGpus | None) -> Pod:
    job, task = standing.job, standing.task
    request = task.request
    extended = dict(request.mig)
    claims = [PodClaim(name=name, claim=f"{job.namespace}/{name}") for name in task.resource_claims]
    if gpus is None and request.gpus:
        extended[GPU_RESOURCE] = request.gpus
    elif gpus is not None and gpus.claim(request) is not None:
        claims.append(PodClaim(name="gpus", claim=_own_claim(standing), from_template=True))
    amounts = {"cpu": request.cpu_milli, "memory": request.memory_bytes, "pods": 1, **extended}
    return Pod(
        key=standing.key,
        uid=standing.uid,
        requests=Resources(amounts),
        node=standing.node,
        nominated="" if standing.node else standing.promised,
        labels=task.pod_affinity_labels,
        required_affinity=label_in(NODE_AFFINITY, *task.node_affinity) if task.node_affinity else None,
        company=_company(job, task),
        claims=tuple(claims),
        volumes=tuple(PodVolume(claim=f"{job.namespace}/{name}") for name in task.persistent_volume_claims),
        extended=(ContainerAsk(name="main", index=0, requests=extended),) if extended else (),
        aligned=_aligned(extended, amounts, full=job.qos_class == "Guaranteed"),
        sub_group=task.sub_group,
        priority=job.priority,
        task_priority=task.task_priority,
        created_ms=NOW_MS - round(job.age_minutes * MINUTE_MS),
        started_ms=standing.started_ms,
        mig_by_annotation=task.legacy_mig,
        gated=standing.state == "Gated",
        terminating=standing.state in ENDING,
        ends_ms=NOW_MS - LONG_MS if standing.state == "StuckInReleasing" else None,
        phase="Running" if standing.state in ("Running", *ENDING) else "Pending",
    )


def _aligned(extended: Mapping[str, int], amounts: Mapping[str, int], *, full: bool) -> Aligned | None:
    """What a kubelet gives to the task's one container in its NUMA zones: of a task that is not guaranteed all that it
    asks for only devices."""
    asked = Resources({name: amounts[name] for name in ("cpu", "memory")} if full else {}) + Resources(dict(extended))
    return Aligned(whole=asked, containers=(asked,)) if asked else None


def _company(job: given.Job, task: given.Task) -> Company | None:
    """The labels of a task are also what it looks for in others."""
    labels = tuple(
        NodeSelectorRequirement(key=key, operator="In", values=(value,))
        for key, value in sorted(task.pod_affinity_labels.items())
    )
    audience = Audience(labels=labels, namespaces=(job.namespace,))
    near, apart = task.pod_affinity_topology_key, task.pod_anti_affinity_topology_key
    if not near and not apart:
        return None
    return Company(
        near=(Term(key=near, audience=audience),) if near else (),
        apart=(Term(key=apart, audience=audience),) if apart else (),
    )


def _classes(case: given.Case, *, shared: bool) -> dict[str, dra.DeviceClass]:
    drivers = {each.device_class: each.driver for each in case.dra.resource_slices}
    drivers |= {name: name for name in case.dra.device_classes if name not in drivers}
    if shared:
        drivers[GPU_DRIVER] = GPU_DRIVER
    return {name: device_class(name, driver) for name, driver in sorted(drivers.items())}


def _slice(made: given.Slice) -> dra.ResourceSlice:
    return published(made.name, made.node, made.driver, [gpu(name) for name in made.devices])


def _claim(claim: given.Claim) -> Claim:
    key = f"{claim.namespace}/{claim.name}"
    allocation = claim.status.allocation if claim.status else None
    results = allocation.devices.results if allocation else ()
    exactly = dra.ExactDeviceRequest(device_class_name=claim.device_class, count=claim.count)
    request = dra.DeviceRequest(name=results[0].request if results else "request", exactly=exactly)
    return Claim(
        key=key,
        uid=f"claim-{key}",
        spec=dra.ResourceClaimSpec(devices=dra.DeviceClaim(requests=(request,))),
        allocation=_allocation(results) if results else None,
        reserved_for=tuple(user.uid for user in claim.status.reserved_for) if claim.status else (),
        queue=claim.labels.get(QUEUE_LABEL, ""),
    )


def _allocation(results: tuple[given.Result, ...]) -> dra.AllocationResult:
    held = tuple(
        dra.DeviceRequestAllocationResult(request=each.request, driver=each.driver, pool=each.pool, device=each.device)
        for each in results
    )
    return dra.AllocationResult(
        devices=dra.DeviceAllocationResult(results=held), node_selector=only_on(results[0].pool)
    )
