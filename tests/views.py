"""A made-up cycle for the web: machines of several kinds, three teams, gangs that run, wait and cannot start."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from queues.fair_share import divide
from queues.reasons import OverLimit, QueueUnusable
from queues.resources import NOTHING, Resources, total
from queues.tree import Queue, QueueResource, QueueTree
from queues.usage import CLUSTER
from scheduler.api import attributes, quantity
from scheduler.api.core import Taint
from scheduler.api.dra import (
    AllocationResult,
    DeviceAllocationResult,
    DeviceRequestAllocationResult,
    ResourceClaimSpec,
    ResourceSlice,
)
from scheduler.devcluster.shapes import SHAPES, Machine
from scheduler.explain.history import History
from scheduler.explain.metrics import Exposition, Metrics
from scheduler.explain.why import Reports, reports
from scheduler.model.nodes import Node, Topology
from scheduler.model.plan import GangDecision, Plan, QueueReport, Verdict
from scheduler.model.reasons import GangDoesNotFit, NodeCount, Reason, Unreadable, WaitingForPods
from scheduler.model.snapshot import SetAside, Snapshot
from scheduler.model.workloads import Claim, Gang, Pod, PodClaim
from scheduler.web.view import View, WhatIfRefused

NOW = 1_767_225_600_000
MINUTE = 60_000
LEVELS = ("tutti.example/block", "tutti.example/rack", attributes.HOSTNAME_LABEL)
TEAMS = (
    Queue(name="research", resources={"gpu": QueueResource(quota=48_000, limit=96_000)}),
    Queue(name="vision", parent="research", resources={"gpu": QueueResource(quota=16_000, limit=32_000, weight=2)}),
    Queue(name="language", parent="research", resources={"gpu": QueueResource(quota=24_000)}),
    Queue(name="notebooks", resources={"gpu": QueueResource(quota=4000)}),
    Queue(name="default"),
    Queue(name="lost", parent="gone"),
)


@dataclass(slots=True)
class Made:
    """A cluster under construction: devices are handed out in the order in which they are published."""

    nodes: list[Node] = field(default_factory=list)
    slices: list[ResourceSlice] = field(default_factory=list)
    claims: dict[str, Claim] = field(default_factory=dict)
    gangs: list[Gang] = field(default_factory=list)
    decisions: list[GangDecision] = field(default_factory=list)
    free: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)

    def machines(self, shape: str, count: int, cordoned: int | None = None) -> list[str]:
        names = []
        for number, machine in enumerate(SHAPES[shape].machines(count)):
            self.nodes.append(_node(machine, cordoned=number == cordoned))
            for document in machine.slices:
                self.slices.append(msgspec.convert(document, ResourceSlice))
            self.free[machine.name] = list(_accelerators(machine))
            names.append(machine.name)
        return names

    def runs(self, gang: str, queue: str, nodes: list[str], gpus: int, **more: Any) -> None:
        """One pod with `gpus` devices on each of the nodes."""
        pods = []
        namespace, _, name = gang.partition("/")
        for number, node in enumerate(nodes):
            pod = f"{gang}-{number}"
            held = [self.free[node].pop(0) for _ in range(gpus)]
            self.claims[f"{pod}-gpus"] = _claim(f"{pod}-gpus", held, pod)
            claim = PodClaim(name="gpus", claim=f"{pod}-gpus", from_template=True)
            pods.append(_pod(pod, node=node, phase="Running", claims=(claim,)))
        owner = f"PodGroup/{namespace}/{name}"
        made = Gang(
            key=gang, uid=gang, owner=owner, queue=queue, pods=tuple(pods), created_ms=NOW - 90 * MINUTE, **more
        )
        self.gangs.append(made)
        self.decisions.append(_decision(made, Verdict.RUNNING, None, len(pods), len(pods)))

    def waits(self, gang: str, queue: str, reason: Reason, needed: int, minutes: int, verdict: Verdict) -> None:
        pods = tuple(_pod(f"{gang}-{number}") for number in range(needed))
        namespace, _, name = gang.partition("/")
        owner = f"PodGroup/{namespace}/{name}"
        made = Gang(key=gang, uid=gang, owner=owner, queue=queue, pods=pods, created_ms=NOW - minutes * MINUTE)
        self.gangs.append(made)
        self.decisions.append(_decision(made, verdict, reason, 0, needed))


def snapshot_and_plan() -> tuple[Snapshot, Plan]:
    """The cycle as it was seen and decided."""
    made = _cluster()
    gangs = tuple(sorted(made.gangs, key=lambda gang: gang.key))
    bound = [pod for gang in gangs for pod in gang.pods if pod.node]
    plugin = Pod(key="infra/legacy", uid="legacy", node="t4-plugin-000", requests=Resources({"nvidia.com/gpu": 3}))
    snapshot = Snapshot(
        now_ms=NOW,
        nodes=tuple(sorted(made.nodes, key=lambda node: node.name)),
        slices=tuple(made.slices),
        claims=dict(sorted(made.claims.items())),
        pods=tuple(sorted([*bound, plugin], key=lambda pod: pod.key)),
        gangs=gangs,
        queues=TEAMS,
        topologies={"site": Topology(name="site", levels=LEVELS, aliases={})},
        set_aside=(_unreadable(),),
    )
    decisions = tuple(sorted(made.decisions, key=lambda decision: decision.gang))
    plan = Plan(now_ms=NOW, gangs=decisions, queues=_queues(snapshot, made), set_aside=snapshot.set_aside)
    return snapshot, plan


class MadeUp:
    """A source for the web: one cycle, or none yet, and a what-if that answers with a fixed plan."""

    def __init__(self, view: View | None = None) -> None:
        self.shown = view
        self.sick = ""
        self.missing = ""
        self.asked: list[str] = []
        self.counted = Metrics()
        if view is not None:
            self.counted.cycle(view.reports, view.plan, {"plan": 0.012})

    def view(self) -> View | None:
        return self.shown

    def unhealthy(self) -> str:
        return self.sick

    def not_ready(self) -> str:
        return self.missing

    def metrics(self) -> Exposition:
        return self.counted.exposition()

    def recording(self) -> bytes:
        return b'{"objects": []}'

    def what_if(self, manifests: str) -> Plan:
        self.asked.append(manifests)
        if "broken" in manifests:
            raise WhatIfRefused("Pod a/b: spec.containers: is no list; write a list")
        assert self.shown is not None
        return self.shown.plan


def made_up_view(cycle: int = 1207, earlier: int = 60) -> View:
    """The newest cycle with `earlier` ones before it."""
    snapshot, plan = snapshot_and_plan()
    history = History(cycles=100)
    for number in range(earlier):
        past = Plan(now_ms=NOW - (earlier - number) * 1500, gangs=plan.gangs[: number % 9 + 2])
        seconds = {"snapshot": 0.0011, "plan": 0.004 + 0.002 * ((number * 7) % 11), "commit": 0.0005, "explain": 0.0007}
        history.add(cycle - earlier + number, reports(snapshot, past), past, seconds)
    said = reports(snapshot, plan)
    history.add(cycle, said, plan, {"snapshot": 0.001, "plan": 0.0183, "commit": 0.0006, "explain": 0.0008})
    return View(
        cycle=cycle,
        snapshot=snapshot,
        plan=plan,
        reports=said,
        cycles=history.cycles,
        decisions=history.decisions,
    )


def empty_view() -> View:
    """A cluster with nothing in it."""
    return View(cycle=1, snapshot=Snapshot(now_ms=NOW), plan=Plan(now_ms=NOW), reports=Reports(now_ms=NOW))


def _cluster() -> Made:
    made = Made()
    hgx = made.machines("h100x8", 6, cordoned=5)
    mig = made.machines("a100-mig", 2)
    rack = made.machines("gb200-nvl72", 1)
    made.machines("t4-plugin", 1)
    made.machines("cpu", 2)
    made.runs("vision/segment-anything", "vision", hgx[:2], 8)
    made.runs("language/llama-finetune", "language", rack[:6], 4)
    made.runs("language/eval", "language", hgx[2:3], 3)
    made.runs("notebooks/ana", "notebooks", mig[:1], 1)
    made.free[mig[1]] = made.free[mig[1]][4:]
    made.runs("notebooks/ben", "notebooks", mig[1:], 2)
    made.runs("default/batch", "default", hgx[3:4], 5)
    causes = (NodeCount(nodes=5, cause="has too few free devices of class gpu.nvidia.com"),)
    made.waits(
        "language/pretrain",
        "language",
        GangDoesNotFit(gang="language/pretrain", needed=16, placeable=12, causes=causes, domain="one NVLink domain"),
        16,
        42,
        Verdict.PENDING,
    )
    made.waits(
        "vision/hero",
        "vision",
        OverLimit(queue="vision", resource="gpu", asked=40_000, allocated=16_000, limit=32_000),
        5,
        130,
        Verdict.REFUSED,
    )
    made.waits(
        "default/sweep", "default", WaitingForPods(gang="default/sweep", needed=8, present=6), 6, 1, Verdict.PENDING
    )
    made.waits("notebooks/carl", "lost", _lost(), 1, 12, Verdict.REFUSED)
    return made


def _lost() -> QueueUnusable:
    return QueueUnusable(
        queue="lost",
        why="its parent queue gone does not exist",
        remedy="Create Queue gone, or correct spec.parentQueue of Queue lost.",
    )


def _unreadable() -> SetAside:
    problem = Unreadable(
        object="Queue batch",
        field="spec.resources.gpu.quota",
        problem="'lots' is no quantity",
        remedy="Write a number.",
    )
    return SetAside(object="Queue/batch", uid="batch", reason=problem)


def _queues(snapshot: Snapshot, made: Made) -> tuple[QueueReport, ...]:
    tree = QueueTree.of(TEAMS)
    held: dict[str, list[Resources]] = {}
    asked: dict[str, list[Resources]] = {}
    for gang in snapshot.gangs:
        gpus = sum(_gpus(made.claims[claim.claim]) for pod in gang.pods for claim in pod.claims if claim.claim)
        held.setdefault(gang.queue, []).append(Resources({"gpu": gpus}))
        asked.setdefault(gang.queue, []).append(Resources({"gpu": 8000 * len(gang.pending) + gpus}))
    allocated = tree.roll_up({name: total(parts) for name, parts in held.items()})
    wanted = {name: total(parts) for name, parts in asked.items()}
    shares = divide(Resources({"gpu": 136_000}), tree, wanted)
    requested = tree.roll_up(wanted)
    found = []
    for queue in TEAMS:
        gangs = [each for each in made.decisions if each.queue == queue.name]
        limit = queue["gpu"].limit
        found.append(
            QueueReport(
                name=queue.name,
                parent=queue.parent,
                quota=Resources({"gpu": queue["gpu"].quota}),
                limit={} if limit is None else {"gpu": limit},
                fair_share=shares.get(queue.name, NOTHING),
                allocated=allocated.get(queue.name, NOTHING),
                requested=requested.get(queue.name, NOTHING),
                running=sum(1 for gang in gangs if gang.verdict is Verdict.RUNNING),
                pending=sum(1 for gang in gangs if gang.verdict is not Verdict.RUNNING),
                past={"gpu": CLUSTER // 4} if queue.name == "vision" else None,
                problem=_lost() if queue.name == "lost" else None,
            )
        )
    return tuple(sorted(found, key=lambda report: report.name))


def _gpus(claim: Claim) -> int:
    """MIG slices of these machines are named after what they are: gpu-4-mig-3g40gb-..."""
    results = claim.allocation.devices.results if claim.allocation else None
    return sum(1000 if "mig" not in result.device else 143 for result in results or ())


def _node(machine: Machine, *, cordoned: bool) -> Node:
    allocatable = {}
    for name, text in machine.node["status"]["allocatable"].items():
        allocatable[name] = quantity.thousandths(text) if name == "cpu" else quantity.units(text)
    return Node(
        name=machine.name,
        labels=machine.node["metadata"]["labels"],
        allocatable=Resources(allocatable),
        taints=(Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule"),) if cordoned else (),
        unschedulable=cordoned,
    )


def _accelerators(machine: Machine) -> Iterator[tuple[str, str, str]]:
    for document in machine.slices:
        spec: Mapping[str, Any] = document["spec"]
        for device in spec.get("devices", ()):
            yield spec["driver"], spec["pool"]["name"], device["name"]


def _claim(key: str, held: list[tuple[str, str, str]], pod: str) -> Claim:
    results = tuple(
        DeviceRequestAllocationResult(request="gpus", driver=driver, pool=pool, device=device)
        for driver, pool, device in held
    )
    allocation = AllocationResult(devices=DeviceAllocationResult(results=results))
    return Claim(key=key, uid=key, spec=ResourceClaimSpec(), allocation=allocation, reserved_for=(f"uid-{pod}",))


def _pod(key: str, **more: Any) -> Pod:
    requests = Resources({"cpu": 8000, "memory": 64 * 2**30, "pods": 1})
    return Pod(key=key, uid=f"uid-{key}", requests=requests, created_ms=NOW - 42 * MINUTE, **more)


def _decision(gang: Gang, verdict: Verdict, reason: Reason | None, bound: int, needed: int) -> GangDecision:
    return GangDecision(
        gang=gang.key,
        uid=gang.uid,
        owner=gang.owner,
        queue=gang.queue,
        verdict=verdict,
        reason=reason,
        bound=bound,
        needed=needed,
        total=len(gang.pods),
    )
