"""When time alone may change the answer, so that it is asked for again then and not only at the next look around.

These end by themselves: a gang's preemption delay, the time for which what runs is safe from those who wait, and the
grace or the longest run of a gang. Source: KAI docs (preemption delay, minimum runtime, stale gangs).
"""

from collections.abc import Iterable, Iterator

from queues.reasons import OverLimit
from scheduler.model.no_room import Keeper
from scheduler.model.plan import GangDecision
from scheduler.model.reasons import GangDoesNotFit, Reason
from scheduler.model.workloads import Gang
from scheduler.plan.ahead.departures import tick_ms
from scheduler.plan.ahead.turns import next_turn_ms
from scheduler.plan.desk import Desk
from scheduler.plan.making_room.stages import settling


def again_ms(desk: Desk, decisions: Iterable[GangDecision]) -> int | None:
    """The earliest time, later than now, at which a gang ends or others may be stopped for somebody who waits in vain;
    None if no such time is known."""
    ends = [each.ends_at_ms for each in decisions if each.ends_at_ms is not None]
    times = (*ends, *_turns_to_keep_what_is_free(desk), *_for_those_who_wait(desk))
    return min((time for time in times if time > desk.snapshot.now_ms), default=None)


def _turns_to_keep_what_is_free(desk: Desk) -> Iterator[int]:
    """When those who wait begin to keep what is free, or no longer do."""
    policy, now = desk.snapshot.policy, desk.snapshot.now_ms
    after = policy.reserve_after_seconds * 1000 if policy.reservations else 0
    for key in desk.waiting if after else ():
        since = desk.wants[key].gang.created_ms
        if since:
            yield since + next_turn_ms(max(now - since, 0), after)


def _for_those_who_wait(desk: Desk) -> Iterator[int]:
    """When others may be stopped for them, as far as these are stopped for anybody."""
    if not {"consolidate", "reclaim", "preempt"} & set(desk.snapshot.policy.stages):
        return
    waiting = [
        desk.wants[key].gang
        for key in sorted({*desk.waiting, *desk.growing})
        if isinstance(desk.reasons.get(key), GangDoesNotFit | OverLimit)
    ]
    if waiting:
        yield from (gang.may_evict_from_ms for gang in waiting)
        yield from _protections(desk)
        if any(_waits_for_who_has_just_started(desk.reasons[gang.key]) for gang in waiting):
            for gang in desk.snapshot.gangs:
                if gang.preemptible:
                    yield from map(tick_ms, settling(desk, gang).values())


def _waits_for_who_has_just_started(reason: Reason) -> bool:
    told = reason.no_room if isinstance(reason, GangDoesNotFit) else ()
    return any(kept.by is Keeper.JUST_STARTED for each in told for kept in each.kept)


def _protections(desk: Desk) -> Iterator[int]:
    """When what runs is protected no more, from anybody of its queue or of others."""
    least: dict[str, tuple[int, ...]] = {}
    for gang in desk.snapshot.gangs:
        queue = desk.payer_of(gang)
        if queue is None or not gang.preemptible:
            continue
        if queue not in least:
            least[queue] = tuple(sorted(_least(desk, queue)))
        if least[queue] and (since := _running_since(gang)) is not None:
            yield from (since + each for each in least[queue])


def _least(desk: Desk, queue: str) -> set[int]:
    """Every minimum runtime that may count for work of the queue: which one does depends on who comes for it."""
    found: set[int] = set()
    for above in desk.tree.ancestors(queue):
        found.update(each for each in (above.preempt_min_runtime_ms, above.reclaim_min_runtime_ms) if each)
    return found


def _running_since(gang: Gang) -> int | None:
    return min((pod.started_ms for pod in gang.bound if pod.started_ms is not None), default=None)
