"""Planted errors of pods, nodes, gangs and queues, and of what is told of them."""

from collections.abc import Iterator
from dataclasses import replace

from queues.resources import Resources
from queues.tree import Queue, QueueResource
from scheduler.api.core import Taint
from scheduler.model.nodes import Topology
from scheduler.model.plan import Eviction, Placement, Plan, Verdict
from scheduler.model.reasons import InvalidGang
from scheduler.model.workloads import Gang, HostPort
from tests.builders import World, constraint, label_in, running
from tests.planted.planting import (
    Kinds,
    Spoilt,
    gang_of,
    pod_of,
    pods_on,
    with_decision,
    with_gang,
    with_node,
    with_placement,
    with_pod,
)

KINDS = Kinds()


@KINDS.told("is placed twice")
def a_pod_placed_twice(world: World, plan: Plan) -> Spoilt:
    for one in plan.placements:
        for node in world.nodes:
            yield world, with_placement(plan, one, one, replace(one, node=node.name))


@KINDS.told("does not wait for a node")
def an_unknown_pod(world: World, plan: Plan) -> Spoilt:
    for one in plan.placements:
        yield world, with_placement(plan, one, one, replace(one, pod=f"{one.pod}-unknown"))


@KINDS.told("does not wait for a node")
def a_pod_that_runs_already(world: World, plan: Plan) -> Spoilt:
    for one in plan.placements:
        yield with_pod(world, one.pod, node=one.node, phase="Running"), plan


@KINDS.told("as another pod of that name")
def a_pod_of_another_uid(world: World, plan: Plan) -> Spoilt:
    for one in plan.placements:
        yield world, with_placement(plan, one, replace(one, pod_uid="stale"))


@KINDS.told("as another gang's")
def a_pod_of_another_gang(world: World, plan: Plan) -> Spoilt:
    for one in plan.placements:
        for gang in world.gangs:
            if gang.key != one.gang:
                yield world, with_placement(plan, one, replace(one, gang=gang.key))


@KINDS.told("gated or ending")
def a_pod_that_may_not_start(world: World, plan: Plan) -> Spoilt:
    for one in plan.placements:
        yield with_pod(world, one.pod, gated=True), plan
        yield with_pod(world, one.pod, terminating=True), plan


@KINDS.told("although")
def a_gang_with_a_problem(world: World, plan: Plan) -> Spoilt:
    for one in plan.placements:
        problem = InvalidGang(gang=one.gang, problem="contradicts itself", remedy="Correct it.")
        yield with_gang(world, one.gang, problems=(problem,)), plan


@KINDS.told("which does not exist")
def a_node_that_does_not_exist(world: World, plan: Plan) -> Spoilt:
    for one in plan.placements:
        yield world, with_placement(plan, one, replace(one, node="gone"))


@KINDS.told("does not tolerate")
def a_node_that_keeps_pods_out(world: World, plan: Plan) -> Spoilt:
    for one in plan.placements:
        if any(not toleration.key for toleration in pod_of(world, one).tolerations):
            continue
        yield with_node(world, one.node, unschedulable=True), plan
        for effect in ("NoSchedule", "NoExecute"):
            yield with_node(world, one.node, taints=(Taint(key="planted", value="x", effect=effect),)), plan


@KINDS.told("does not match the node selector")
def a_node_that_is_not_selected(world: World, plan: Plan) -> Spoilt:
    for one in plan.placements:
        yield with_pod(world, one.pod, node_selector={"planted": "x"}), plan


@KINDS.told("does not match the node affinity")
def a_node_without_affinity(world: World, plan: Plan) -> Spoilt:
    for one in plan.placements:
        yield with_pod(world, one.pod, required_affinity=label_in("planted", "x")), plan


@KINDS.told(", and ")
def a_node_with_one_unit_too_little(world: World, plan: Plan) -> Spoilt:
    for one in plan.placements:
        node = next(each for each in world.nodes if each.name == one.node)
        pod = pod_of(world, one)
        served = {mapping.resource for part in one.claims for mapping in part.mappings}
        for name, amount in pod.requests.amounts.items():
            if amount > 0 and name not in served and not pod.extended_claim and node.allocatable[name]:
                others = [other for other in pods_on(world, plan, one.node) if other.key != one.pod]
                if any(name in container.requests for other in others for container in other.extended):
                    continue
                used = amount + sum(other.requests[name] for other in others)
                amounts = {**node.allocatable.amounts, name: used - 1}
                yield with_node(world, one.node, allocatable=Resources(amounts)), plan


@KINDS.told("collides at port 4242")
def a_host_port_taken(world: World, plan: Plan) -> Spoilt:
    for one in plan.placements:
        for address in ("", "10.0.0.1"):
            port = HostPort(address=address, protocol="TCP", port=4242)
            yield (
                with_pod(world, one.pod, host_ports=(port,)) + running("planted", on=one.node, cpu=0, ports=[4242]),
                plan,
            )
    for one in plan.placements:
        for second in plan.placements:
            if one.pod != second.pod and one.node == second.node:
                port = HostPort(address="", protocol="UDP", port=4242)
                both = with_pod(with_pod(world, one.pod, host_ports=(port,)), second.pod, host_ports=(port,))
                yield both, plan


def _there(plan: Plan, gang: Gang) -> int:
    """Pods of the gang that count when the plan is carried out."""
    bound = sum(1 for pod in gang.pods if pod.node and not pod.terminating)
    return bound + gang.succeeded + sum(1 for placement in plan.placements if placement.gang == gang.key)


@KINDS.told("has not its minimum")
def a_pod_of_the_minimum_dropped(world: World, plan: Plan) -> Spoilt:
    for one in plan.placements:
        gang = gang_of(world, one)
        several = sum(1 for other in plan.placements if other.gang == one.gang) > 1
        if several and not gang.sub_groups and _there(plan, gang) == gang.min_member:
            yield world, with_placement(plan, one)


@KINDS.told("has not its minimum")
def a_minimum_of_one_more(world: World, plan: Plan) -> Spoilt:
    for one in plan.placements:
        gang = gang_of(world, one)
        if gang.sub_groups:
            groups = tuple(replace(group, min_member=99) for group in gang.sub_groups)
            yield with_gang(world, one.gang, sub_groups=groups), plan
        else:
            yield with_gang(world, one.gang, min_member=_there(plan, gang) + 1), plan


ASUNDER = Topology(name="asunder", levels=("kubernetes.io/hostname",), aliases={})


@KINDS.told("is not in one domain")
def a_gang_or_a_group_asunder(world: World, plan: Plan) -> Spoilt:
    alone = constraint(("asunder", "kubernetes.io/hostname", None))
    made = replace(world, topologies={**world.topologies, "asunder": ASUNDER})
    for one in plan.placements:
        gang = gang_of(world, one)
        for other in plan.placements:
            if other.gang != one.gang or other.node == one.node:
                continue
            yield with_gang(made, one.gang, topology=alone), plan
            group = pod_of(world, one).sub_group
            if group and group == pod_of(world, other).sub_group:
                groups = tuple(replace(g, topology=alone) if g.name == group else g for g in gang.sub_groups)
                yield with_gang(made, one.gang, sub_groups=groups), plan


@KINDS.told("is not in one domain")
def a_gang_that_is_nowhere_in_its_topology(world: World, plan: Plan) -> Spoilt:
    nowhere = Topology(name="nowhere", levels=("planted",), aliases={})
    made = replace(world, topologies={**world.topologies, "nowhere": nowhere})
    for one in plan.placements:
        yield with_gang(made, one.gang, topology=constraint(("nowhere", "planted", None))), plan


@KINDS.told("is evicted")
def an_eviction_that_helps_nobody(world: World, plan: Plan) -> Spoilt:
    gangs = sorted(gang.key for gang in world.gangs)
    for gang in world.gangs:
        for pod in gang.pods:
            right = Eviction(pod=pod.key, pod_uid=pod.uid, stage="preempt", beneficiary=gangs[0], cost=0)
            if not pod.node:
                yield world, replace(plan, evictions=(right,))
                continue
            for wrong in (
                replace(right, pod_uid="stale"),
                replace(right, beneficiary=gang.key),
                replace(right, beneficiary="default/unknown"),
            ):
                yield world, replace(plan, evictions=(wrong,))
            yield world, replace(plan, evictions=(right, right))


@KINDS.told(
    "has time left", "within its grace", "not below its minimum", "does not allow", "make way", "cannot be asked"
)
def an_end_before_its_time(world: World, plan: Plan) -> Spoilt:
    others = tuple(each for each in plan.evictions if each.stage not in ("stale", "max-runtime"))
    for gang in world.gangs:
        for pod in gang.pods:
            if not pod.node or pod.done or pod.key in {each.pod for each in others}:
                continue
            stale = Eviction(pod=pod.key, pod_uid=pod.uid, stage="stale", beneficiary="", cost=0)
            over = replace(stale, stage="max-runtime")
            yield with_gang(world, gang.key, max_runtime_ms=None), replace(plan, evictions=(*others, over))
            with_time = {"below_since_ms": world.now_ms - 1, "staleness_grace_ms": 2}
            yield with_gang(world, gang.key, **with_time), replace(plan, evictions=(*others, stale))
            whole = {"min_member": 0, "min_sub_group": 0, "below_since_ms": 0, "staleness_grace_ms": 0}
            yield with_gang(world, gang.key, **whole), replace(plan, evictions=(*others, stale))
            for_others = replace(over, beneficiary=gang.key)
            yield world, replace(plan, evictions=(*others, for_others))
            spared = replace(world, spared=frozenset({pod.key}))
            yield spared, replace(plan, evictions=(*others, stale))


@KINDS.told("is told")
def a_gang_told_something_else(world: World, plan: Plan) -> Spoilt:
    for one in plan.placements:
        gone = tuple(other for other in plan.placements if other.gang != one.gang)
        yield world, replace(plan, placements=gone)
        decision = next(each for each in plan.gangs if each.gang == one.gang)
        yield world, with_decision(plan, one.gang, verdict=Verdict.PENDING)
        yield world, with_decision(plan, one.gang, verdict=Verdict.RUNNING)
        yield world, with_decision(plan, one.gang, placed=decision.placed + 1)
        yield world, with_decision(plan, one.gang, bound=decision.bound + 1)
        yield world, with_decision(plan, one.gang, uid="stale")
    for waiting in plan.gangs:
        if not waiting.placed:
            yield world, with_decision(plan, waiting.gang, verdict=Verdict.PLACED)
            if waiting.verdict is not Verdict.RUNNING:
                yield world, with_decision(plan, waiting.gang, reason=None)


@KINDS.told("is decided", "is not decided")
def a_gang_too_many_or_too_few(world: World, plan: Plan) -> Spoilt:
    for decision in plan.gangs:
        yield world, replace(plan, gangs=tuple(other for other in plan.gangs if other is not decision))
        yield world, replace(plan, gangs=(*plan.gangs, decision))
        yield world, replace(plan, gangs=(*plan.gangs, replace(decision, gang="default/unknown")))


def _charged(world: World, plan: Plan) -> Iterator[tuple[Placement, Queue]]:
    """Placements that cost CPU, with every queue that they count for."""
    queues = {queue.name: queue for queue in world.queues}
    for one in plan.placements:
        step: str | None = gang_of(world, one).queue or world.policy.default_queue
        while step is not None:
            if pod_of(world, one).requests["cpu"] > 0:
                yield one, queues[step]
            step = queues[step].parent


def _queue(world: World, old: Queue, **resources: QueueResource) -> World:
    new = replace(old, resources=resources)
    return replace(world, queues=tuple(new if queue is old else queue for queue in world.queues))


@KINDS.told("goes past its limit of cpu")
def a_queue_past_its_limit(world: World, plan: Plan) -> Spoilt:
    allocated = {report.name: report.allocated for report in plan.queues}
    for _, queue in _charged(world, plan):
        yield _queue(world, queue, cpu=QueueResource(limit=allocated[queue.name]["cpu"] - 1)), plan


@KINDS.told("goes past its quota")
def a_queue_past_its_quota(world: World, plan: Plan) -> Spoilt:
    allocated = {report.name: report.allocated for report in plan.queues}
    for one, queue in _charged(world, plan):
        firm = with_gang(world, one.gang, preemptible=False)
        yield _queue(firm, queue), plan
        yield _queue(firm, queue, other=QueueResource(quota=1)), plan
        every = replace(world, gangs=tuple(replace(gang, preemptible=False) for gang in world.gangs))
        if not any(gang.bound for gang in world.gangs):
            yield _queue(every, queue, cpu=QueueResource(quota=allocated[queue.name]["cpu"] - 1)), plan


@KINDS.told("is placed although")
def a_queue_that_takes_no_work(world: World, plan: Plan) -> Spoilt:
    for one in plan.placements:
        name = gang_of(world, one).queue or world.policy.default_queue
        yield replace(world, queues=tuple(queue for queue in world.queues if queue.name != name)), plan
        yield replace(world, queues=(*world.queues, Queue(name="below", parent=name))), plan


@KINDS.told("and the plan tells something else")
def a_queue_charged_something_else(world: World, plan: Plan) -> Spoilt:
    for _, queue in _charged(world, plan):
        for name in ("cpu", "gpu"):
            one_more = tuple(
                replace(report, allocated=report.allocated + Resources({name: 1}))
                if report.name == queue.name
                else report
                for report in plan.queues
            )
            yield world, replace(plan, queues=one_more)
