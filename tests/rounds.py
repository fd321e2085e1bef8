"""What becomes of a cluster between two plans: gangs start, promises are noted, and who was evicted takes his time."""

from collections.abc import Iterable
from dataclasses import replace

from scheduler.model.plan import Plan
from scheduler.model.workloads import Claim, Pod
from tests.builders import World, keyed
from tests.strategies import carried_out

ROUND_MS = 10_000


def after(made: World, decided: Plan, gone: Iterable[str] = ()) -> World:
    """The next snapshot: what was decided is carried out, who was evicted is leaving, and these (names) have left."""
    made = replace(carried_out(made, decided), now_ms=made.now_ms + ROUND_MS)
    promised = {promise.pod: promise.node for promise in decided.promises}
    evicted = {eviction.pod for eviction in decided.evictions}
    left = set(map(keyed, gone))
    gangs = []
    for each in made.gangs:
        pods = tuple(_told(pod, promised, evicted) for pod in each.pods if pod.key not in left)
        if pods:
            gangs.append(replace(each, pods=pods))
    mine = {pod.key for each in made.gangs for pod in each.pods}
    others = tuple(pod for pod in made.pods if pod.key not in mine | left)
    there = tuple(pod for each in gangs for pod in each.pods if pod.node)
    uids = {pod.uid for each in made.gangs for pod in each.pods if pod.key in left}
    claims = {key: _without(claim, uids) for key, claim in made.claims.items() if claim.owner_uid not in uids}
    return replace(made, gangs=tuple(gangs), pods=others + there, claims=claims)


def leaving(made: World) -> list[str]:
    """Names of the pods that are on their way out."""
    return [pod.key.partition("/")[2] for each in made.gangs for pod in each.pods if pod.terminating]


def _told(pod: Pod, promised: dict[str, str], evicted: set[str]) -> Pod:
    if pod.node:
        return replace(pod, nominated="", terminating=pod.terminating or pod.key in evicted)
    return replace(pod, nominated=promised.get(pod.key, ""))


def _without(claim: Claim, uids: set[str]) -> Claim:
    """The claim without these consumers; the last one gives its devices back."""
    kept = tuple(uid for uid in claim.reserved_for if uid not in uids)
    return replace(claim, reserved_for=kept, allocation=claim.allocation if kept else None)
