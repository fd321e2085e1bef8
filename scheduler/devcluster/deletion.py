"""How an object waits for its end: grace of pods, deletionTimestamp, the phase of a namespace."""

from __future__ import annotations

from scheduler.devcluster import kinds
from scheduler.devcluster.kinds import Kind
from scheduler.devcluster.objects import Obj, field_of, later, with_meta


def grace_of(kind: Kind, body: Obj, asked: int | None) -> int:
    """Seconds of grace for a deletion that asks for `asked`: only pods that run on a node have any."""
    if kind is not kinds.POD or not field_of(body, "spec", "nodeName"):
        return 0
    if field_of(body, "status", "phase") in ("Succeeded", "Failed"):
        return 0
    grace = asked if asked is not None else int(body["spec"].get("terminationGracePeriodSeconds", 30))
    if body["metadata"].get("deletionTimestamp"):
        running = int(body["metadata"].get("deletionGracePeriodSeconds") or 0)
        return min(grace, running) if asked is not None else running  # a deletion can be hastened, not delayed
    return max(grace, 0)


def marked(kind: Kind, body: Obj, finalizers: list[str], grace: int, now: str) -> Obj:
    """The object as it waits for its end; itself when it does so already."""
    meta = body["metadata"]
    if meta.get("deletionTimestamp") and meta.get("deletionGracePeriodSeconds") == grace:
        return body
    changes: Obj = {"deletionTimestamp": later(now, grace), "deletionGracePeriodSeconds": grace}
    if finalizers:
        changes["finalizers"] = finalizers
    if "generation" in meta and not meta.get("deletionTimestamp"):
        changes["generation"] = meta["generation"] + 1
    waiting = with_meta(body, **changes)
    if kind is kinds.NAMESPACE:
        waiting = {**waiting, "status": {**(waiting.get("status") or {}), "phase": "Terminating"}}
    return waiting
