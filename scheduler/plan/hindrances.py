"""Why a stage makes no room, told of what it knows: who may go, who may not, and what keeps them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from queues.resources import Resources
from queues.runtimes import min_runtime_ms
from scheduler.model.no_room import Hindrance, Keeper, Kept, NoRoom
from scheduler.model.workloads import Gang, Pod
from scheduler.plan.desk import Desk
from scheduler.plan.laws import laws_of
from scheduler.plan.losses import Loss
from scheduler.plan.scenario import caps_of
from scheduler.plan.stages import Stage, contested_of, deciding_of

MOST_KEEPERS = 3
"""What keeps the most pods is told, and no more than so many."""

_By = tuple[Keeper, str, int | None]
"""What keeps a pod, the name of the budget or queue, and until when."""

Keeping = tuple[str, _By | None]
"""A pod (key), and what keeps it; None: it may go."""


def too_early(stage: Stage, gang: Gang) -> NoRoom:
    """Its preemption delay is not over."""
    until = gang.may_evict_from_ms
    return NoRoom(stage=stage.name, why=Hindrance.TOO_EARLY, until_ms=until)


def may_not_gain(desk: Desk, stage: Stage, gang: Gang, asked: Resources) -> NoRoom | None:
    """Nobody is stopped for such a gang, whoever runs; None if the stage is the same for it as one that was before."""
    if stage.name == "consolidate":
        return NoRoom(stage=stage.name, why=Hindrance.NOT_PREEMPTIBLE)
    queue = desk.queue_of[gang.key]
    if stage.along and not deciding_of(desk, contested_of(desk, asked)):
        return None
    if stage.shares and not contested_of(desk, asked):
        return NoRoom(stage=stage.name, why=Hindrance.NOBODY_MAY_GO)
    return NoRoom(stage=stage.name, why=Hindrance.QUEUE_AT_SHARE, queue=queue)


def nobody_found(
    desk: Desk,
    stage: Stage,
    gang: Gang,
    asked: Resources,
    found: Sequence[Loss],
    kept_by: Iterable[Keeping],
    *,
    ended: bool,
) -> NoRoom:
    """Of those who may go, `found`, none make room; with `ended` that is not certain. `kept_by`: `keepers`."""
    short = _short(desk, stage, gang, asked, found)
    each = Counter(by or short.get(pod) for pod, by in kept_by)
    may_go = each.pop(None, 0)
    if not may_go:
        why = Hindrance.NOBODY_MAY_GO
    elif ended:
        why = Hindrance.SEARCH_ENDED
    else:
        why = Hindrance.NO_OTHER_PLACE if stage.moves else Hindrance.NOT_ENOUGH
    told = [Kept(pods=pods, by=by[0], name=by[1], until_ms=by[2]) for by, pods in each.items() if by is not None]
    told.sort(key=lambda kept: (-kept.pods, kept.by, kept.name, kept.until_ms or 0))
    kept = tuple(told[:MOST_KEEPERS])
    return NoRoom(stage=stage.name, why=why, queue=desk.queue_of[gang.key], may_go=may_go, kept=kept)


def _short(desk: Desk, stage: Stage, gang: Gang, asked: Resources, found: Sequence[Loss]) -> "dict[str, _By]":
    """Pods (key) without each of which alone a queue would be below its share already."""
    laws = laws_of(desk, stage, gang, asked)
    if laws is None:
        return {}
    short: dict[str, _By] = {}
    for loss in found:
        queue = next((queue for (queue, name), much in laws.loses(loss) if much > laws.budgets[queue, name]), None)
        if queue is not None:
            short[loss.pod.key] = Keeper.SHARE, f"Queue {queue}", None
    return short


def keepers(desk: Desk, stage: Stage, gang: Gang) -> Iterator[Keeping]:
    """Every pod that is the stage's business, and what keeps it: the same for all of a queue and priority."""
    own = desk.queue_of[gang.key]
    for other in desk.snapshot.gangs:
        queue = desk.payer_of(other)
        if queue is None or other.key == gang.key or _not_its_business(stage, own, queue):
            continue
        pods = [pod for pod in other.pods if pod.node and not (pod.terminating or pod.done)]
        pods = [pod for pod in pods if pod.key not in desk.leaving]
        holding = stage.holding(desk, gang, other) if pods else None
        own_keepers = [_kept(desk, pod, queue) for pod in pods]
        of_whole = next(filter(None, own_keepers), None)
        for number, (pod, by) in enumerate(zip(pods, own_keepers, strict=True)):
            if not other.preemptible:
                yield pod.key, (Keeper.NOT_PREEMPTIBLE, "", None)
            elif holding is None:
                yield pod.key, (Keeper.PRIORITY, "", None)
            elif holding.firm and number < other.min_member:
                yield pod.key, (Keeper.MIN_RUNTIME, "", _safe_until(desk, stage, other, queue, own))
            else:
                # Who is needed for the minimum goes with the others, or stays with them.
                yield pod.key, by or (of_whole if number < other.min_member else None)


def _not_its_business(stage: Stage, own: str, queue: str) -> bool:
    """Queues take back from others, and priorities rank within one."""
    return stage.name != "consolidate" and (queue == own) is (stage.name == "reclaim")


def _safe_until(desk: Desk, stage: Stage, other: Gang, queue: str, own: str) -> int:
    least = min_runtime_ms(desk.tree, queue, own, reclaim=stage.name == "reclaim")
    return least + min(pod.started_ms for pod in other.bound if pod.started_ms is not None)


def _kept(desk: Desk, pod: Pod, queue: str) -> _By | None:
    caps = caps_of(desk)
    if pod.key in desk.snapshot.spared:
        return Keeper.REFUSED, "", None
    if pod.key in caps.twice:
        return Keeper.SEVERAL_BUDGETS, ", ".join(caps.twice[pod.key]), None
    over = next((cap for cap in caps.of(pod, queue) if caps.left[cap] <= 0), None)
    if over is None:
        return None
    return Keeper.DISRUPTION_BUDGET if over[0] == "budget" else Keeper.EVICTION_CAP, over[1], None
