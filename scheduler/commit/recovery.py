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


def strays(snapshot: Snapshot, plan: Plan, in_flight: Collection[str]) -> tuple[Stray, ...]:
    """The claims to release after `plan`, by key. Gangs `in_flight` are being committed and keep what they have."""
    placed = {placement.pod_uid for placement in plan.placements}
    waiting: dict[str, str] = {}
    named: set[str] = set()
    for gang in snapshot.gangs:
        for pod in gang.pods:
            named.update(claim.claim for claim in pod.claims if claim.claim)
            if pod.ours and not (pod.node or pod.terminating or pod.uid in placed or gang.key in in_flight):
                waiting[pod.uid] = pod.key
    found = []
    for key, claim in sorted(snapshot.claims.items()):
        holders = [uid for uid in claim.reserved_for if uid in waiting] if claim.allocation else []
        if not holders and claim.owner_uid in waiting and key not in named and not claim.reserved_for:
            holders = [claim.owner_uid]
        if holders:
            found.append(Stray(claim=key, uid=claim.uid, pods=tuple((waiting[uid], uid) for uid in holders)))
    return tuple(found)
