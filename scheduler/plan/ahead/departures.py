"""Who will have left his node by when, as far as that is known for certain.

Three ends are: of a pod whose gang has a time limit, which is always kept, counted from its own start, since those of
the gang that are older may be gone before; of a pod on its way out that was told by when; and of what this plan starts
with a time limit. A claim whose pods are gone is as good as free. Source: Slurm (backfill goes by time limits).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from scheduler.dra.accounting import WHOLE
from scheduler.dra.caches import PerObject
from scheduler.model.workloads import Claim, Gang, Pod
from scheduler.plan.desk import Desk, Placed
from scheduler.plan.ground.accounts import GPU, by_name
from scheduler.plan.ground.ledger import Grant

STUCK_MS = 120_000
"""A pod that should have ended so long ago may never end (KAI: 2 minutes)."""

TICK_MS = 10_000
"""What is told of now stays the same for so long, so that it is not told anew in every plan."""

STARTING_MS = 10_000 + TICK_MS
"""From a plan to the start of what it places, as it is counted: its time limit counts from then."""

STOPPING_MS = 5_000
"""From the end of its time until a pod has been told to end."""

FREEING_MS = 5_000
"""From the end of a pod's grace until its room can be given to others: the kubelet, the claim controller, a plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """A pod that runs, or what this plan gives one, is no longer on its node; or a claim that no pod is left of holds
    nothing any more. `when`: by which time (ms), or of those that are not known, which in turn. `gang` (key), "" for
    what is of nobody of ours. `node`: "" for a claim. `gpus` in thousandths, at most."""

    when: int
    gang: str
    node: str
    who: Pod | Grant | Claim
    gpus: int

    def happen(self, desk: Desk) -> None:
        """It has left."""
        match self.who:
            case Pod() as pod:
                desk.ledger.vacate(pod, desk.snapshot.claims)
            case Claim() as claim:
                desk.ledger.release(claim)
            case Grant() as grant:
                desk.ledger.give_back(grant)

    def unhappen(self, desk: Desk) -> None:
        """It is still there."""
        match self.who:
            case Pod() as pod:
                desk.ledger.reoccupy(pod, desk.snapshot.claims)
            case Claim() as claim if claim.allocation is not None and not desk.ledger.holds(claim.key):
                desk.ledger.hold(claim, claim.allocation)
            case Grant() as grant:
                desk.ledger.take(grant)


def tick_ms(now_ms: int) -> int:
    """By when what may happen at once will have happened, as it is told."""
    return -(-now_ms // TICK_MS) * TICK_MS


def leaves(pod: Pod, desk: Desk) -> bool:
    """Whether it is on its way out, by this plan too, and not stuck there."""
    stuck = pod.ends_ms is not None and desk.snapshot.now_ms > pod.ends_ms + STUCK_MS
    return (pod.terminating or pod.key in desk.leaving) and not (stuck or pod.done)


def longest_ms(gang: Gang) -> int:
    """From a plan that places pods of the gang until their room is free again, besides its time limit."""
    return STARTING_MS + STOPPING_MS + max((pod.ending_ms for pod in gang.pods), default=0) + FREEING_MS


def ends_by_ms(gang: Gang, now_ms: int) -> int | None:
    """By when all that is placed of the gang now has left; None if nobody knows."""
    return None if gang.max_runtime_ms is None else now_ms + gang.max_runtime_ms + longest_ms(gang)


def of_running(desk: Desk) -> Iterator[Departure]:
    """Of pods on nodes before this plan, and of claims that pods have left behind."""
    now, nodes, of = desk.snapshot.now_ms, desk.ledger.nodes, dict[str, str]()
    tick = tick_ms(now)
    for gang in desk.snapshot.gangs:
        for pod in gang.pods if gang.max_runtime_ms is not None else ():
            if pod.node in nodes and not (pod.terminating or pod.done):
                end = _end_ms(gang.max_runtime_ms or 0, pod, tick)
                # One that should be gone for long, and that nobody can stop, may stay for ever.
                if end + STUCK_MS > now:
                    soon = now + pod.ending_ms + FREEING_MS if pod.key in desk.leaving else tick
                    yield _of_pod(desk, gang.key, pod, max(end, soon))
        of.update((pod.key, gang.key) for pod in gang.pods if pod.terminating)
    for pod in desk.snapshot.pods:
        if pod.terminating and pod.ends_ms is not None and pod.node in nodes and leaves(pod, desk):
            yield _of_pod(desk, of.get(pod.key, ""), pod, max(pod.ends_ms + FREEING_MS, tick))
    for claim in left_behind(desk):
        held = claim.allocation.devices.results if claim.allocation is not None else ()
        yield Departure(when=tick, gang="", node="", who=claim, gpus=WHOLE * len(held or ()))


def left_behind(desk: Desk) -> Iterator[Claim]:
    """Claims whose pods are gone or have ended, and that still hold devices: the claim controller is about to take
    these back. One that pods share is not among them if somebody has come to join it."""
    snapshot = desk.snapshot
    held = [
        claim
        for claim in snapshot.claims.values()
        if claim.allocation is not None and (claim.owner_uid or claim.reserved_for) and not claim.reserved_otherwise
    ]
    if held:
        there = {pod.uid for pod in snapshot.pods if not pod.done}
        there.update(pod.uid for gang in snapshot.gangs for pod in gang.pods if not pod.done)
        there |= snapshot.binding
        for claim in held:
            if claim.owner_uid not in there and there.isdisjoint(desk.ledger.consumers(claim.key)):
                yield claim


def of_placed(desk: Desk, gang: Gang, placed: Placed) -> Iterator[Departure]:
    """Of what this plan gives the gang."""
    end = ends_by_ms(gang, desk.snapshot.now_ms)
    if end is not None:
        for grant in placed.grants:
            yield Departure(when=end, gang=gang.key, node=grant.node, who=grant, gpus=grant.cost[GPU])


def _end_ms(allowed_ms: int, pod: Pod, now_ms: int) -> int:
    """By when a pod with this time limit has left; its gang is stopped no later than that."""
    start = now_ms if pod.started_ms is None else pod.started_ms
    return start + allowed_ms + STOPPING_MS + pod.ending_ms + FREEING_MS


def of_whoever_runs(desk: Desk, but: str) -> Iterator[Departure]:
    """Of all gangs' pods but those of one (key), node by node, those nodes first where the least is missing."""
    here: dict[str, list[tuple[str, Pod]]] = {}
    for gang in desk.snapshot.gangs:
        for pod in gang.pods if gang.key != but else ():
            if pod.node in desk.ledger.nodes and not pod.done:
                here.setdefault(pod.node, []).append((gang.key, pod))
    turn = sorted(here, key=lambda node: (-desk.ledger.gpus(node), node))
    for number, node in enumerate(turn):
        for key, pod in here[node]:
            yield _of_pod(desk, key, pod, number)


def _of_pod(desk: Desk, gang: str, pod: Pod, when: int) -> Departure:
    gpus = desk.accounts.relief([pod])[GPU] if pod.claims or pod.extended_claim else _gpus_by_name(pod)
    return Departure(when=when, gang=gang, node=pod.node, who=pod, gpus=gpus)


@PerObject
def _gpus_by_name(pod: Pod) -> int:
    return by_name(pod.requests)[GPU]
