"""plan(): the stages, least disruptive first. Pure: one snapshot, one answer, whatever the order of its parts."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from operator import attrgetter

from queues.reasons import OverLimit, OverQuota, QueueReason
from queues.resources import NOTHING, Resources, total
from queues.usage import parts_of
from scheduler.model.plan import (
    ClaimAllocation,
    GangDecision,
    Placement,
    Plan,
    QueueReport,
    SolverReport,
    Verdict,
    VolumeChoice,
)
from scheduler.model.reasons import ClaimRefused, InvalidGang, NoNodeFits, Reason, TopologyUnusable, Unreadable
from scheduler.model.snapshot import Snapshot
from scheduler.model.workloads import Gang
from scheduler.plan.again import again_ms
from scheduler.plan.ahead import foresight
from scheduler.plan.desk import SEARCHES, Desk
from scheduler.plan.ground.ledger import Grant
from scheduler.plan.ground.shapes import MADE_CLAIM
from scheduler.plan.making_room import promises
from scheduler.plan.making_room.endings import end_overtime, end_stale, ends_at_ms, stays_short
from scheduler.plan.making_room.victims import consolidate, preempt, reclaim
from scheduler.plan.placing.allocate import place_pending
from scheduler.plan.placing.alternatives import may_pass
from scheduler.plan.wants import least_pods
from scheduler.solver.check import check

STAGES: tuple[tuple[str, Callable[[Desk], None]], ...] = (
    ("allocate", place_pending),
    ("consolidate", consolidate),
    ("reclaim", reclaim),
    ("preempt", preempt),
    ("stale", end_stale),
)
"""Each goes on where the one before it ended."""

LASTING_REASONS = (QueueReason, ClaimRefused, InvalidGang, NoNodeFits, TopologyUnusable, Unreadable)
"""With these a gang starts only after somebody has changed something."""


def plan(snapshot: Snapshot) -> Plan:
    """Decide for every gang of the snapshot. Raises nothing but InvariantError, which is a defect of ours."""
    snapshot = _sorted(snapshot)
    decided = _plan(snapshot)
    if decided.solver.status in ("optimal", "feasible") and check(snapshot, decided):
        without = replace(snapshot, policy=replace(snapshot.policy, solver_enabled=False))
        return replace(_plan(without), solver=replace(decided.solver, status="rejected"))
    return decided


def _plan(snapshot: Snapshot) -> Plan:
    desk = Desk.of(snapshot)
    end_overtime(desk)
    promises.renew(desk)
    for name, stage in STAGES:
        if name in snapshot.policy.stages:
            stage(desk)
    placements = [
        _placement(desk, gang, grant) for gang, parts in desk.placed.items() for part in parts for grant in part.grants
    ]
    starts = foresight.starts_ms(desk)
    decisions = tuple(_decision(desk, gang, starts.get(gang.key)) for gang in snapshot.gangs)
    return Plan(
        now_ms=snapshot.now_ms,
        placements=tuple(sorted(placements, key=lambda placement: (placement.gang, placement.pod))),
        evictions=tuple(sorted(desk.evictions, key=lambda eviction: eviction.pod)),
        promises=tuple(sorted((p for each in desk.promised.values() for p in each), key=lambda p: (p.gang, p.pod))),
        reserved=foresight.reserved(desk),
        gangs=decisions,
        queues=_queues(desk),
        solver=_solver(desk),
        set_aside=snapshot.set_aside,
        again_ms=again_ms(desk, decisions),
    )


def _sorted(snapshot: Snapshot) -> Snapshot:
    """The same snapshot, every tuple in the order of its names."""
    return replace(
        snapshot,
        nodes=tuple(sorted(snapshot.nodes, key=attrgetter("name"))),
        slices=tuple(sorted(snapshot.slices, key=lambda published: published.metadata.name)),
        taint_rules=tuple(sorted(snapshot.taint_rules, key=lambda rule: rule.metadata.name)),
        claims=dict(sorted(snapshot.claims.items())),
        pods=tuple(sorted(snapshot.pods, key=attrgetter("key"))),
        gangs=tuple(sorted(snapshot.gangs, key=attrgetter("key"))),
        queues=tuple(sorted(snapshot.queues, key=lambda queue: queue.name)),
        budgets=tuple(sorted(snapshot.budgets, key=attrgetter("key"))),
        set_aside=tuple(sorted(snapshot.set_aside, key=lambda aside: aside.object)),
    )


def _placement(desk: Desk, gang: str, grant: Grant) -> Placement:
    given = {claim.key: (claim, allocation) for claim, allocation in grant.allocated}
    claims = []
    for entry in grant.pod.claims:
        if entry.claim is not None and entry.needed:
            found = given.get(entry.claim)
            claims.append(
                ClaimAllocation(
                    name=entry.name,
                    claim=entry.claim,
                    claim_uid=desk.snapshot.claims[entry.claim].uid,
                    allocation=found[1] if found else None,
                )
            )
    if grant.made is not None:
        claim, allocation = next(part for part in grant.allocated if part[0].key not in {c.claim for c in claims})
        claims.append(
            ClaimAllocation(
                name=MADE_CLAIM,
                claim=claim.key,
                allocation=allocation,
                make=grant.made.spec,
                mappings=grant.made.mappings,
            )
        )
    stored = desk.snapshot.storage.claims
    return Placement(
        pod=grant.pod.key,
        pod_uid=grant.pod.uid,
        gang=gang,
        node=grant.node,
        claims=tuple(claims),
        volumes=tuple(
            VolumeChoice(claim=claim, claim_uid=stored[claim].uid, volume=volume) for claim, volume in grant.volumes
        ),
    )


def _decision(desk: Desk, gang: Gang, starts_at_ms: int | None) -> GangDecision:
    resting = desk.resting.get(gang.key)
    if resting is not None:
        return resting
    wants = desk.wants.get(gang.key)
    placed = sum(len(part.grants) for part in desk.placed.get(gang.key, ()))
    reason = desk.reasons.get(gang.key)
    needed = wants.needed if wants else least_pods(gang)
    bound = wants.bound - placed if wants else sum(1 for pod in gang.bound if not pod.terminating)
    return GangDecision(
        gang=gang.key,
        uid=gang.uid,
        owner=gang.owner,
        queue=desk.queue_of.get(gang.key, gang.queue),
        verdict=_verdict(desk, gang, reason, placed=placed, bound=bound, needed=needed),
        reason=reason,
        starts_at_ms=starts_at_ms,
        below_since_ms=gang.below_since_ms if stays_short(desk, gang) else None,
        ends_at_ms=ends_at_ms(desk, gang),
        placed=placed,
        bound=bound,
        needed=needed,
        total=len(gang.pods),
        solver=desk.solved.get(gang.key),
    )


def _verdict(desk: Desk, gang: Gang, reason: Reason | None, *, placed: int, bound: int, needed: int) -> Verdict:
    """About the minimum; what an elastic gang still lacks beyond it is told by the reason alone."""
    if placed:
        return Verdict.PLACED
    wants = desk.wants.get(gang.key)
    whole = wants.minimum() is None if wants else bound >= needed
    if whole and (bound or reason is None):
        return Verdict.RUNNING
    return Verdict.REFUSED if isinstance(reason, LASTING_REASONS) and _lasts(reason) else Verdict.PENDING


def _lasts(reason: Reason) -> bool:
    return not isinstance(reason, OverLimit | OverQuota) or not may_pass(reason)


def _queues(desk: Desk) -> tuple[QueueReport, ...]:
    """What every queue is told of, that of the queues below it included."""
    started, waiting = Counter(decision.queue for decision in desk.resting.values()), Counter[str]()
    for key, leaf in desk.queue_of.items():
        wants = desk.wants.get(key)
        runs = wants is not None and wants.bound > 0
        started[leaf] += runs
        waiting[leaf] += wants is None or wants.waiting > 0 or not runs
    running, pending = Counter[str](), Counter[str]()
    for leaf in desk.tree.leaves:
        for queue in desk.tree.ancestors(leaf):
            running[queue.name] += started[leaf]
            pending[queue.name] += waiting[leaf]
    ahead = desk.tree.roll_up(_by_queue(desk.outlook))
    remembered = desk.snapshot.policy.usage_weight > 0
    allocated = {
        queue.name: desk.ledger.allocated.get(queue.name, NOTHING) - ahead.get(queue.name, NOTHING)
        for queue in desk.snapshot.queues
    }
    return tuple(
        QueueReport(
            name=queue.name,
            parent=queue.parent,
            quota=Resources({name: rule.quota for name, rule in queue.resources.items()}),
            limit={name: r.limit for name, r in sorted(queue.resources.items()) if r.limit is not None},
            fair_share=desk.fair_shares.get(queue.name, NOTHING),
            allocated=allocated[queue.name],
            requested=desk.requested.get(queue.name, NOTHING),
            running=running[queue.name],
            pending=pending[queue.name],
            past=desk.snapshot.usage.get(queue.name, {}) if remembered else None,
            past_until_ms=desk.snapshot.now_ms if remembered else 0,
            standing=parts_of(allocated[queue.name], desk.pool) if remembered else {},
            problem=desk.tree.problems.get(queue.name),
        )
        for queue in desk.snapshot.queues
    )


def _by_queue(amounts: Iterable[tuple[str, Resources]]) -> dict[str, Resources]:
    sums: dict[str, list[Resources]] = {}
    for queue, each in amounts:
        sums.setdefault(queue, []).append(each)
    return {queue: total(each) for queue, each in sums.items()}


def _solver(desk: Desk) -> SolverReport:
    """What the searches of this plan came to, the most telling of them, with their time together."""
    reports = list(desk.solved.values())
    if not reports:
        return SolverReport()
    worst = max(reports, key=lambda report: (_CERTAINTY.index(report.status), report.gap))
    spent = SEARCHES * desk.snapshot.policy.solver_deterministic_seconds - desk.search_seconds
    return replace(worst, seconds=round(spent, 6))


_CERTAINTY = ("greedy", "impossible", "budget", "optimal", "feasible")
"""What is told of several searches: that answers of the solver were used, before that some were not found."""
