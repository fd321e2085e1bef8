"""Snapshot + plan -> one report per gang and queue: what is decided, the one dominant reason, what is missing, counts.

Reasons are made where decisions are made; here they are joined with what stands around them, and never reworded.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from queues.reasons import OverLimit, OverQuota
from queues.resources import NOTHING, Resources
from scheduler.dra.caches import PerObject
from scheduler.model.plan import GangDecision, Plan, QueueReport, Verdict
from scheduler.model.reasons import (
    ClaimRefused,
    GangDoesNotFit,
    Reason,
    WaitingForClaims,
    WaitingForPods,
    WaitingForVolumes,
)
from scheduler.model.snapshot import SetAside, Snapshot
from scheduler.model.workloads import Gang, Pod

SETTLING_MS = 2000
"""How long controllers may take to make the parts of what a user created."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingPod:
    """A pod that waits for a node. `key` as namespace/name."""

    key: str
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedPod:
    """A pod that this plan places. `key` as namespace/name."""

    key: str
    uid: str
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppedPod:
    """A pod that was told to leave. `key` as namespace/name; `why`: a sentence for its user."""

    key: str
    uid: str
    gang: str
    stage: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GangReport:
    """What there is to say about one gang. `reason` is the dominant one, None if nothing of it waits.

    `missing`: how much more it would take, by queue resource in house units, "pods" as a count. `bound` counts pods
    with a node, running ones included. `score`: 100 for a placement proved best, less by the gap left open in percent;
    None unless this plan places it. `settling`: its parts are still being created; what is missing may come by itself.
    """

    gang: str
    uid: str
    owner: str
    queue: str
    verdict: Verdict
    reason: Reason | None = None
    missing: Resources = NOTHING
    needed: int = 0
    total: int = 0
    bound: int = 0
    running: int = 0
    placed: int = 0
    waiting: tuple[WaitingPod, ...] = ()
    placements: tuple[PlacedPod, ...] = ()
    nodes: tuple[str, ...] = ()
    priority: int = 0
    preemptible: bool = True
    created_ms: int = 0
    starts_at_ms: int | None = None
    below_since_ms: int | None = None
    ends_at_ms: int | None = None
    score: int | None = None
    settling: bool = False

    @property
    def pending(self) -> int:
        """Pods without a node, those behind a gate included."""
        return self.total - self.bound

    @property
    def scheduled(self) -> bool:
        """Whether as many pods as must start together have a node."""
        return self.verdict is Verdict.RUNNING or self.bound >= max(self.needed, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimReport:
    """A ResourceClaim (key) that keeps pods waiting by what it asks for."""

    claim: str
    uid: str
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Reports:
    """Everything to be said about one plan; each tuple by name."""

    now_ms: int = 0
    gangs: tuple[GangReport, ...] = ()
    queues: tuple[QueueReport, ...] = ()
    claims: tuple[ClaimReport, ...] = ()
    set_aside: tuple[SetAside, ...] = ()


def reports(snapshot: Snapshot, plan: Plan) -> Reports:
    """Say what `plan`, made from `snapshot`, decides and why."""
    gangs = {gang.key: gang for gang in snapshot.gangs}
    placed: dict[str, list[PlacedPod]] = {}
    for placement in plan.placements:
        pod = PlacedPod(key=placement.pod, uid=placement.pod_uid, node=placement.node)
        placed.setdefault(placement.gang, []).append(pod)
    said = tuple(
        _gang(decision, gangs.get(decision.gang), tuple(placed.get(decision.gang, ())), snapshot.now_ms)
        for decision in plan.gangs
    )
    return Reports(
        now_ms=plan.now_ms,
        gangs=said,
        queues=plan.queues,
        claims=_claims((report.reason for report in said), snapshot),
        set_aside=plan.set_aside or snapshot.set_aside,
    )


def sentence(reason: Reason) -> str:
    """Code, cause and cure in one line: what stands on pods and in events."""
    return f"{reason.code}: {reason.message} {reason.cure}"


def missing(reason: Reason | None) -> Resources:
    """How much more it would take, as far as the reason knows."""
    match reason:
        case OverLimit():
            return Resources({reason.resource: reason.allocated + reason.asked - reason.limit})
        case OverQuota():
            return Resources({reason.resource: reason.allocated + reason.asked - reason.quota})
        case GangDoesNotFit():
            return Resources({"pods": max(reason.needed - reason.placeable, 0)})
        case WaitingForPods():
            return Resources({"pods": max(reason.needed - reason.present + reason.gated, 0)})
        case _:
            return NOTHING


def _gang(decision: GangDecision, gang: Gang | None, placed: tuple[PlacedPod, ...], now_ms: int) -> GangReport:
    """The report on one gang. Where no reason is given it looks at nothing but gang and decision, and the last one is
    told again as long as these are the same objects: most gangs run, and nothing new is to be said of them."""
    if gang is None or placed or decision.reason is not None:
        return _report(decision, gang, placed, now_ms)
    known = _last_report(gang)
    last = known[0] if known else None
    if last is None or last[0] is not decision:
        last = decision, _report(decision, gang, placed, now_ms)
        known[:] = [last]
    return last[1]


_last_report: PerObject[Gang, list[tuple[GangDecision, GangReport]]] = PerObject(lambda _: [])


def _report(decision: GangDecision, gang: Gang | None, placed: tuple[PlacedPod, ...], now_ms: int) -> GangReport:
    pods = gang.pods if gang is not None else ()
    bound = [pod for pod in pods if pod.node]
    solver = decision.solver if decision.verdict is Verdict.PLACED else None
    return GangReport(
        gang=decision.gang,
        uid=decision.uid,
        owner=decision.owner,
        queue=decision.queue,
        verdict=decision.verdict,
        reason=decision.reason,
        missing=missing(decision.reason),
        needed=decision.needed,
        total=max(decision.total, len(pods)),
        bound=decision.bound,
        running=sum(1 for pod in bound if pod.phase == "Running"),
        placed=decision.placed,
        waiting=tuple(WaitingPod(key=pod.key, uid=pod.uid) for pod in (gang.pending if gang is not None else ())),
        placements=placed,
        nodes=tuple(sorted({*(pod.node for pod in bound), *(pod.node for pod in placed)})),
        priority=gang.priority if gang is not None else 0,
        preemptible=gang.preemptible if gang is not None else True,
        created_ms=gang.created_ms if gang is not None else 0,
        starts_at_ms=decision.starts_at_ms,
        below_since_ms=decision.below_since_ms,
        ends_at_ms=decision.ends_at_ms,
        score=None if solver is None else max(0, 100 - round(100 * solver.gap)),
        settling=_settling(decision.reason, pods, now_ms),
    )


def _settling(reason: Reason | None, pods: Iterable[Pod], now_ms: int) -> bool:
    """Whether controllers probably are still at work: pods of a young gang, claims of young pods from templates, and
    those of their own volumes."""
    match reason:
        case WaitingForPods():
            return any(now_ms - pod.created_ms < SETTLING_MS for pod in pods)
        case WaitingForClaims():
            return any(
                now_ms - pod.created_ms < SETTLING_MS
                for pod in pods
                if any(claim.from_template and claim.claim is None for claim in pod.claims)
            )
        case WaitingForVolumes():
            return any(now_ms - pod.created_ms < SETTLING_MS for pod in pods if any(v.own for v in pod.volumes))
        case _:
            return False


def _claims(reasons: Iterable[Reason | None], snapshot: Snapshot) -> tuple[ClaimReport, ...]:
    refused: Mapping[str, Reason] = {
        reason.claim: reason for reason in reasons if isinstance(reason, ClaimRefused) and reason.claim
    }
    return tuple(
        ClaimReport(claim=key, uid=snapshot.claims[key].uid, reason=refused[key])
        for key in sorted(refused)
        if key in snapshot.claims
    )
