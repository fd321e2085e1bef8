"""Stages 2 to 4, as rules: for whom others may be stopped, and what these may lose. Source: KAI docs, its actions."""

from collections.abc import Callable
from dataclasses import dataclass

from queues.limits import is_device
from queues.reclaim import deciding, under_served, within_quota_everywhere
from queues.resources import NOTHING, Resources
from queues.runtimes import min_runtime_ms
from scheduler.model.workloads import Gang
from scheduler.plan.desk import Desk
from scheduler.plan.making_room.losses import Holding


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """`name`: as evictions tell it. `may_gain`: whether others may be stopped for a gang that asks so much. `holding`:
    what the other gang may lose to it. `shares`: whether queues keep their fair shares; `along`: only those of what
    decides, and their quotas of what goes along with it. `moves`: whether everybody who goes needs another place."""

    name: str
    may_gain: Callable[[Desk, Gang, Resources], bool]
    holding: Callable[[Desk, Gang, Gang], Holding | None]
    shares: bool = False
    along: bool = False
    moves: bool = False


def contested_of(desk: Desk, asked: Resources) -> Resources:
    """What is asked of the resources that queues have to share out among them."""
    return Resources({name: asked[name] for name in asked if name in desk.contested})


def deciding_of(desk: Desk, wanted: Resources) -> Resources:
    """What is asked of the resources that decide, if others go along with them; `wanted`: `contested_of`."""
    names = deciding(desk.pool, wanted)
    alone = all(name in names for name in wanted)
    return NOTHING if alone else Resources({name: wanted[name] for name in wanted if name in names})


def must_have_share_of(desk: Desk, stage: Stage, asked: Resources) -> Resources:
    """What of `asked` the taker's queues must have within their fair shares for the stage to take it from others.

    Devices alone, where they decide: else whoever asks for much CPU, with priority, would stop all from taking devices
    back. Between CPU and memory both, or two queues would take from each other for ever, each what it has less of."""
    wanted = contested_of(desk, asked)
    if not stage.along:
        return wanted
    owed = deciding_of(desk, wanted)
    return owed if any(is_device(name) for name in owed) else wanted


def _who_may_be_moved(_desk: Desk, gang: Gang, _asked: Resources) -> bool:
    return gang.preemptible


def _who_is_under_served(desk: Desk, gang: Gang, asked: Resources) -> bool:
    queue, wanted = desk.queue_of[gang.key], contested_of(desk, asked)
    owed = under_served(queue, wanted, desk.fair_shares, desk.ledger.allocated)
    return owed and _who_has_quota(desk, gang, asked)


def _who_is_owed_what_decides(desk: Desk, gang: Gang, asked: Resources) -> bool:
    queue = desk.queue_of[gang.key]
    if not deciding_of(desk, contested_of(desk, asked)):
        return False
    wanted = must_have_share_of(desk, RECLAIM_ALONG, asked)
    return under_served(queue, wanted, desk.fair_shares, desk.ledger.allocated) and _who_has_quota(desk, gang, asked)


def _who_is_owed_it(desk: Desk, gang: Gang, asked: Resources) -> bool:
    """Its queue is within its share with it; nobody loses anything by being moved."""
    queue = desk.queue_of[gang.key]
    has, share = desk.ledger.allocated.get(queue, NOTHING), desk.fair_shares[queue]
    owed = all(has[name] + asked[name] <= share[name] for name in asked if name in desk.pool.amounts)
    return owed and _who_has_quota(desk, gang, asked)


def _who_has_quota(desk: Desk, gang: Gang, asked: Resources) -> bool:
    queue = desk.queue_of[gang.key]
    return gang.preemptible or within_quota_everywhere(desk.tree, queue, asked, desk.ledger.nonpreemptible)


def _whoever_has_settled(desk: Desk, gang: Gang, other: Gang) -> Holding | None:
    """Who has just got his node is the cheapest to move; without a rest he would be moved for one after the other."""
    found = _running(desk, gang, other)
    if found is None:
        return None
    return Holding(gang=other, queue=found.queue, staying=frozenset(settling(desk, other)))


def settling(desk: Desk, gang: Gang) -> dict[str, int]:
    """Pods (key) that have been on their nodes for too short a time to be moved, and until when (ms)."""
    policy, now = desk.snapshot.policy, desk.snapshot.now_ms
    rest = int(policy.move_after_seconds * 1000)
    since = {pod.key: max(pod.bound_ms or 0, pod.started_ms or 0) for pod in gang.bound}
    return {key: start + rest for key, start in since.items() if now < start + rest}


def _of_another_queue(desk: Desk, gang: Gang, other: Gang) -> Holding | None:
    found = _running(desk, gang, other)
    if found is None or found.queue == desk.queue_of[gang.key]:
        return None
    return _protected(desk, gang, found, reclaim_=True)


def _of_lower_priority(desk: Desk, gang: Gang, other: Gang) -> Holding | None:
    found = _running(desk, gang, other)
    if found is None or found.queue != desk.queue_of[gang.key] or other.priority >= gang.priority:
        return None
    return _protected(desk, gang, found, reclaim_=False)


def _running(desk: Desk, gang: Gang, other: Gang) -> Holding | None:
    if other.key == gang.key or not other.preemptible:
        return None
    if not any(pod.node and not pod.terminating and pod.key not in desk.leaving for pod in other.pods):
        return None
    queue = desk.payer_of(other)
    return Holding(gang=other, queue=queue) if queue is not None else None


def _protected(desk: Desk, gang: Gang, found: Holding, *, reclaim_: bool) -> Holding:
    least = min_runtime_ms(desk.tree, found.queue, desk.queue_of[gang.key], reclaim=reclaim_)
    starts = [pod.started_ms for pod in found.gang.bound if pod.started_ms is not None]
    ran = desk.snapshot.now_ms - min(starts) if starts else 0
    if least and starts and ran < least:
        return Holding(gang=found.gang, queue=found.queue, firm=True)
    return found


CONSOLIDATE = Stage(name="consolidate", may_gain=_who_may_be_moved, holding=_whoever_has_settled, moves=True)
RECLAIM = Stage(name="reclaim", may_gain=_who_is_under_served, holding=_of_another_queue, shares=True)
RECLAIM_ALONG = Stage(
    name="reclaim", may_gain=_who_is_owed_what_decides, holding=_of_another_queue, shares=True, along=True
)
RECLAIM_BY_MOVING = Stage(name="reclaim", may_gain=_who_is_owed_it, holding=_of_another_queue, moves=True)
PREEMPT = Stage(name="preempt", may_gain=_who_has_quota, holding=_of_lower_priority)
