"""What a scheduler that was killed left behind, seen from the API alone.

Devices may be allocated and reserved for pods of ours that are not bound. If the plan places such a pod, it completes
the gang on those devices. If it does not, the devices wait for nobody: they are released.
"""

from collections.abc import Collection
from dataclasses import dataclass

from scheduler.model.plan import Plan
from scheduler.model.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Stray:
    """Claim `claim` (a key) is reserved for, or was made for, `pods` (key, uid) that are neither bound nor placed."""

    claim: str
    uid: str
    pods: tuple[tuple[str, str], ...]


def strays(
    snapshot: Snapshot, plan: Plan, *, under_way: Collection[str], held_back: Collection[str]
) -> tuple[Stray, ...]:
    """The claims to release after `plan`, by key. Pods (keys) whose commit is `under_way` keep what they have, and so
    do those of gangs `held_back` (keys) that are bound in part: they go forward as soon as they may be tried again."""
    placed = {placement.pod_uid for placement in plan.placements}
    waiting: dict[str, str] = {}
    named: set[str] = set()
    for gang in snapshot.gangs:
        goes_on = gang.key in held_back and bool(gang.bound)
        for pod in gang.pods:
            named.update(claim.claim for claim in pod.claims if claim.claim)
            served = pod.node or pod.uid in placed or pod.key in under_way or goes_on
            if pod.ours and not (served or pod.terminating):
                waiting[pod.uid] = pod.key
    found = []
    for key, claim in sorted(snapshot.claims.items()):
        holders = [uid for uid in claim.reserved_for if uid in waiting] if claim.allocation else []
        if not holders and claim.owner_uid in waiting and key not in named and not claim.reserved_for:
            holders = [claim.owner_uid]
        if holders:
            found.append(Stray(claim=key, uid=claim.uid, pods=tuple((waiting[uid], uid) for uid in holders)))
    return tuple(found)
