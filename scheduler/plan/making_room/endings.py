"""Stage 5, and the time limit: gangs that end for their own sake, not for others.

A gang below its minimum for longer than its grace loses the pods it has left, so that it can start whole again; after
all other stages, so that pods which can be placed are placed instead. A gang that ran for as long as its user allows
ends before them, and what it leaves is promised as what any other leaves. Source: DESIGN 3; KAI (stale gangs); Slurm.
"""

from scheduler.model import endings
from scheduler.model.endings import OVERTIME, STALE
from scheduler.model.plan import Eviction
from scheduler.model.reasons import MaxRuntimeReached
from scheduler.model.workloads import Gang
from scheduler.plan.desk import Desk
from scheduler.plan.ground.accounts import GPU
from scheduler.plan.making_room.losses import lost
from scheduler.plan.making_room.scenario import caps_of
from scheduler.plan.making_room.victims import wait_for_room


def end_overtime(desk: Desk) -> None:
    """Stop the gangs that ran for as long as they may."""
    for gang in desk.snapshot.gangs:
        if gang.max_runtime_ms is None:
            continue
        end, start = endings.overtime_ms(gang), endings.started_ms(gang)
        if end is None or start is None or end > desk.snapshot.now_ms:
            continue
        _stop(desk, gang, OVERTIME)
        if gang.key in desk.wants:
            desk.reasons[gang.key] = MaxRuntimeReached(
                gang=gang.key, allowed_ms=gang.max_runtime_ms, ran_ms=desk.snapshot.now_ms - start
            )


def end_stale(desk: Desk) -> None:
    """Stop what is left of gangs that have been below their minimum for their grace. Those are spared who will have
    room when others have left who are leaving, for instance the very pod that is replaced."""
    now = desk.snapshot.now_ms
    due = [gang for gang in desk.snapshot.gangs if (end := endings.stale_ms(gang)) is not None and end <= now]
    due = [gang for gang in due if stays_short(desk, gang)]
    if due:
        wait_for_room(desk)
    for gang in due:
        if stays_short(desk, gang):
            _stop(desk, gang, STALE)


def stays_short(desk: Desk, gang: Gang) -> bool:
    """Whether the gang runs below its minimum, and this plan neither places what is missing nor makes room for it. A
    gang that could not start again, because something is wrong with it or its queue, is let run."""
    if gang.below_since_ms is None or gang.key not in desk.wants or gang.key in desk.promised:
        return False
    placed = {grant.pod.key for part in desk.placed.get(gang.key, ()) for grant in part.grants}
    return endings.is_short(gang, placed.union(pod.key for pod in endings.runs(gang)))


def ends_at_ms(desk: Desk, gang: Gang) -> int | None:
    """When the gang will be stopped for its own sake, as far as that is known: by one of both, whichever is first."""
    times = [endings.overtime_ms(gang)]
    if STALE in desk.snapshot.policy.stages and stays_short(desk, gang):
        times.append(endings.stale_ms(gang))
    return min((time for time in times if time is not None), default=None)


def _stop(desk: Desk, gang: Gang, stage: str) -> None:
    """Its pods leave, but those who are leaving anyhow or cannot be asked now. A time limit is kept whatever else
    leaves; who is stopped to start whole again may wait until fewer leave at once."""
    caps, payer = caps_of(desk), desk.payer_of(gang)
    for pod in endings.runs(gang):
        if pod.key in desk.leaving or pod.key in desk.snapshot.spared:
            continue
        if stage == STALE and caps.forbid(pod, payer):
            continue
        caps.count(pod, payer)
        gpus = desk.accounts.relief([pod])[GPU]
        cost = lost(pod, gang, desk.snapshot.now_ms, gpus)
        desk.leaving.add(pod.key)
        desk.evictions.append(Eviction(pod=pod.key, pod_uid=pod.uid, stage=stage, beneficiary="", cost=cost))
