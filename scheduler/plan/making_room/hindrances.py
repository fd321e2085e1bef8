"""Why a stage makes no room, told of what it knows: who may go, who may not, and what keeps them."""

from collections import Counter
from collections.abc import Iterator

from queues.resources import Resources
from queues.runtimes import min_runtime_ms
from scheduler.model.no_room import Hindrance, Keeper, Kept, NoRoom
from scheduler.model.workloads import Gang, Pod
from scheduler.plan.caps import Cap
from scheduler.plan.desk import Desk
from scheduler.plan.making_room.laws import Laws, Lost, laws_of
from scheduler.plan.making_room.leavers import Leavers
from scheduler.plan.making_room.scenario import caps_of
from scheduler.plan.making_room.stages import Stage, contested_of, deciding_of, settling

MOST_KEEPERS = 3
"""What keeps the most pods is told, and no more than so many."""

_By = tuple[Keeper, str, int | None]
"""What keeps a pod, the name of the budget or queue, and until when."""

_Count = tuple[_By | None, int]
"""What keeps pods (None: they may go), and what tells apart those that cost their queue other amounts."""


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


def nobody_found(desk: Desk, stage: Stage, gang: Gang, asked: Resources, keepers: "Keepers", *, ended: bool) -> NoRoom:
    """Of those who may go none make room; with `ended` that is not certain."""
    each = keepers.counted(laws_of(desk, stage, gang, asked))
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
    if may_go and not ended:
        # They may go one by one, but not as many together as it would take.
        kept = (*tuple(keepers.beyond_caps())[:1], *kept)[:MOST_KEEPERS]
    return NoRoom(stage=stage.name, why=why, queue=desk.queue_of[gang.key], may_go=may_go, kept=kept)


class Keepers:
    """Every pod that is the stage's business, and what keeps it: the same for all of a queue and rank. Counted once,
    and for those gangs again that have lost pods; for all when a cap is used up."""

    def __init__(self, desk: Desk, stage: Stage, like: Gang, leavers: Leavers) -> None:
        self._desk = desk
        self._stage = stage
        self._like = like
        self._leavers = leavers
        self._seen = 0
        self._caps: tuple[Cap, ...] | None = None
        own = desk.queue_of[like.key]
        self._all = {
            gang.key: gang for gang in desk.snapshot.gangs if gang.bound and _concerned(desk, stage, own, gang)
        }
        self._gang_of = {pod.key: gang.key for gang in self._all.values() for pod in gang.pods if pod.node}
        self._counts: dict[str, Counter[_Count]] = {}
        """By gang (key)."""
        self._sum: Counter[_Count] = Counter()
        self._capped: dict[str, Counter[Cap]] = {}
        """By gang (key), what counts those that may go."""

    def counted(self, laws: Laws | None) -> "Counter[_By | None]":
        """How many are kept by what; None: they may go. `laws`: some, without each of whom alone a queue would be below
        its share already, are kept by these."""
        self._renew()
        short: dict[tuple[int, str], _By | None] = {}
        counts: Counter[_By | None] = Counter()
        # Where some resources go along with others, it matters besides whose the pods are.
        parts = self._counts if laws is not None and laws.along else {"": self._sum}
        for gang, part in parts.items():
            for (by, kind), pods in part.items():
                if by is None and laws is not None and kind >= 0:
                    if (kind, gang) not in short:
                        short[kind, gang] = _short(laws, self._leavers.sample(kind, gang))
                    by = short[kind, gang]
                counts[by] += pods
        return +counts

    def beyond_caps(self) -> Iterator[Kept]:
        """Of those that may go by themselves, how many stay because no more may go at once, most first."""
        left = caps_of(self._desk).left
        counted = Counter[Cap]() if not left else sum(self._capped.values(), Counter[Cap]())
        over = [(count - left[cap], cap) for cap, count in counted.items() if 0 < left[cap] < count]
        for pods, (sort, name) in sorted(over, key=lambda each: (-each[0], each[1])):
            by = Keeper.DISRUPTION_BUDGET if sort == "budget" else Keeper.EVICTION_CAP
            yield Kept(pods=pods, by=by, name=name)

    def _renew(self) -> None:
        desk = self._desk
        used_up = tuple(cap for cap, left in caps_of(desk).left.items() if left <= 0)
        if used_up != self._caps:
            self._caps, self._seen = used_up, len(desk.evictions)
            for key in self._all:
                self._count(key)
            return
        gone = (self._gang_of.get(eviction.pod) for eviction in desk.evictions[self._seen :])
        self._seen = len(desk.evictions)
        for key in dict.fromkeys(filter(None, gone)):
            self._count(key)

    def _count(self, gang: str) -> None:
        self._sum.subtract(self._counts.pop(gang, Counter()))
        self._capped.pop(gang, None)
        mine: Counter[_Count] = Counter()
        capped: Counter[Cap] = Counter()
        queue = self._desk.payer_of(self._all[gang])
        for pod, by in self._keeping(self._all[gang]):
            mine[by, self._leavers.kind_of(pod.key)] += 1
            if by is None:
                capped.update(caps_of(self._desk).of(pod, queue))
        if mine:
            self._counts[gang] = mine
            self._sum.update(mine)
        if capped:
            self._capped[gang] = capped

    def _keeping(self, other: Gang) -> Iterator[tuple[Pod, _By | None]]:
        desk, stage, gang = self._desk, self._stage, self._like
        own = desk.queue_of[gang.key]
        queue = desk.payer_of(other)
        if queue is None or other.key == gang.key:
            return
        pods = [pod for pod in other.pods if pod.node and not (pod.terminating or pod.done)]
        pods = [pod for pod in pods if pod.key not in desk.leaving]
        holding = stage.holding(desk, gang, other) if pods else None
        rests = settling(desk, other) if holding is not None and holding.staying else {}
        own_keepers = [_kept(desk, pod, queue) or _settles(rests.get(pod.key)) for pod in pods]
        of_whole = next(filter(None, own_keepers), None)
        for number, (pod, by) in enumerate(zip(pods, own_keepers, strict=True)):
            if not other.preemptible:
                yield pod, (Keeper.NOT_PREEMPTIBLE, "", None)
            elif holding is None:
                yield pod, (Keeper.PRIORITY, "", None)
            elif holding.firm and number < other.min_member:
                yield pod, (Keeper.MIN_RUNTIME, "", _safe_until(desk, stage, other, queue, own))
            else:
                # Who is needed for the minimum goes with the others, or stays with them.
                yield pod, by or (of_whole if number < other.min_member else None)


def _short(laws: Laws, lost: Lost) -> "_By | None":
    """Without this pod alone a queue would be below its share already."""
    queue = next((queue for (queue, name), much in laws.loses(lost) if much > laws.budgets[queue, name]), None)
    return (Keeper.SHARE, f"Queue {queue}", None) if queue is not None else None


def _concerned(desk: Desk, stage: Stage, own: str, other: Gang) -> bool:
    """Whether it is the stage's business: queues take back from others, and priorities rank within one."""
    queue = desk.payer_of(other)
    if queue is None:
        return False
    return stage.name == "consolidate" or (queue == own) is (stage.name != "reclaim")


def _settles(until_ms: int | None) -> _By | None:
    return None if until_ms is None else (Keeper.JUST_STARTED, "", until_ms)


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
