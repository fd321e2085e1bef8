"""What could never start here: told at once, instead of waiting for room that no ending of other work would make."""

from collections.abc import Sequence
from dataclasses import replace

from scheduler.model.reasons import NoNodeFits, Reason
from scheduler.model.workloads import Claim
from scheduler.plan.desk import Desk
from scheduler.plan.ground.causes import causes
from scheduler.plan.ground.shapes import Bundle
from scheduler.plan.pieces import Wanted
from scheduler.plan.placing import wide
from scheduler.solver.problem import Group


def never(desk: Desk, piece: Wanted) -> Reason | None:
    """Why the piece could not start even if all nodes were empty, or why that cannot be decided. None if it could, with
    whichever of its pods."""
    return _group(desk, piece, piece.group, {})


def hopeless(desk: Desk, piece: Wanted) -> frozenset[str]:
    """Pods (key) that could never run here, of a piece that has more pods than it needs; else none."""
    pods = list(piece.all_pods())
    if len(pods) == piece.pods:
        return frozenset()
    known: dict[int, Reason | None] = {}
    found: set[str] = set()
    for pod in pods:
        (alone,) = desk.shapes.bundles([pod])
        if alone.shape not in known:
            known[alone.shape] = _bundle(desk, alone)
        if known[alone.shape] is not None:
            found.add(pod.key)
    return frozenset(found)


def _group(desk: Desk, piece: Wanted, group: Group, known: dict[int, Reason | None]) -> Reason | None:
    """What keeps the group below its minimum. `known`: by shape, what was found already."""
    able = 0
    first: Reason | None = None
    for child in group.children:
        reason = _group(desk, piece, child, known)
        able += 1 if reason is None else 0
        first = first or reason
        if able >= group.minimum:
            return None
    for unit in group.units:
        if unit.shape not in known:
            known[unit.shape] = _bundle(desk, piece.bundles[group.name, unit.shape][0])
        reason = known[unit.shape]
        able += unit.pods if reason is None else 0
        first = first or reason
        if able >= group.minimum:
            return None
    return first


def _bundle(desk: Desk, bundle: Bundle) -> Reason | None:
    """Why the bundle could run on no node even if all were empty; an error in a selector goes first, being mendable.
    None if it could, and if the search for its devices ended early on some node: nothing is known then."""
    refused = desk.rooms.refusal(bundle, anywhere=False)
    if refused is not None:
        return refused
    bare = desk.bare_rooms()
    if bare.best(bundle.shape) is not None or not bare.searched(bundle.shape):
        return None
    spread = [claim for claim in bundle.asks if wide.possible(desk, claim)] if len(bundle.pods) > 1 else []
    if any(map(wide.takes_all, spread)):
        return None  # how many these are is not for the nodes of its pods to say
    parts = _parts(desk, bundle, spread)
    if len(parts) > 1:
        return next((reason for part in parts if (reason := _bundle(desk, part)) is not None), None)
    return bare.refusal(bundle, anywhere=True) or NoNodeFits(
        pod=bundle.pods[0].key, causes=causes(bare, bundle.shape, bare.nodes, bare.guests())
    )


def _parts(desk: Desk, bundle: Bundle, spread: Sequence[Claim]) -> list[Bundle]:
    """The bundle, taken apart where nothing ties its pods to one node but these claims."""
    if not spread:
        return [bundle]
    keys = {claim.key for claim in spread}
    pods = {pod.key: pod for pod in bundle.pods}
    loose = [replace(pod, claims=tuple(each for each in pod.claims if each.claim not in keys)) for pod in bundle.pods]
    groups = [[pods[pod.key] for pod in each.pods] for each in desk.shapes.bundles(loose)]
    return [part for group in groups for part in desk.shapes.bundles(group)]
