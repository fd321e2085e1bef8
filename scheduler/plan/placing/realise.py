"""Seats become grants: the very devices, allocated for real, jointly for all pods that come to one node."""

from collections.abc import Sequence

from scheduler.api.dra import AllocationResult
from scheduler.dra.allocate import Allocated, Ask, Refused, allocate
from scheduler.dra.counters import InUse
from scheduler.model.nodes import Node
from scheduler.model.workloads import Pod
from scheduler.plan.desk import Desk
from scheduler.plan.ground.ledger import Grant
from scheduler.plan.ground.rooms import Rooms
from scheduler.plan.ground.shapes import Asked, Bundle, claims_of
from scheduler.plan.ground.volumes import Choice, Volumes
from scheduler.plan.pieces import Wanted
from scheduler.solver.problem import Move


def realise(
    desk: Desk, seats: Sequence[tuple[Wanted, Sequence[Move]]], in_use: InUse, volumes: Volumes
) -> list[Grant] | None:
    """Grants for all pods of these seats on top of `in_use` and `volumes`, which stay as they are; None if the devices
    or volumes are not there, which happens only to those that several nodes can reach (rooms judge each node by
    itself), or if they were not found as long as the patience of the plan lasts.

    Pods go to nodes in order, so that neighbours in a gang are neighbours in the cluster."""
    here: dict[str, list[Bundle]] = {}
    for piece, moves in seats:
        queues = {key: iter(bundles) for key, bundles in piece.bundles.items()}
        for move in sorted(moves, key=lambda m: (m.node, m.leaf, m.shape)):
            for _ in range(move.count):
                here.setdefault(move.node, []).append(next(queues[move.leaf, move.shape]))
    in_use, volumes = in_use.fork(), volumes.fork()
    paid: dict[str, set[str]] = {}
    grants: list[Grant] = []
    for node in sorted(here):
        made = _on_node(desk, desk.ledger.nodes[node], here[node], in_use, volumes, paid)
        if made is None:
            return None
        grants += made
        for grant in made if len(here) > 1 else ():
            volumes.take(grant.pod, grant.node, grant.volumes)
            for _, allocation in grant.allocated:
                in_use.take(allocation)
    return grants


def one_by_one(desk: Desk, piece: Wanted) -> list[Grant] | int:
    """Grants for the piece, each bundle placed after the ones before it hold their devices; or how many pods found
    room. For devices that several nodes can reach, where no level binds the pods together."""
    ledger = desk.ledger.fork()
    rooms = Rooms(ledger, desk.shapes, desk.domains, desk.snapshot.policy, desk.rooms.patience)
    paid: dict[str, set[str]] = {}
    grants: list[Grant] = []
    for bundle in piece.chosen():
        node = rooms.best(bundle.shape)
        made = None
        if node is not None:
            made = _on_node(desk, ledger.nodes[node], [bundle], ledger.in_use, ledger.volumes, paid)
        if made is None:
            return len(grants)
        for grant in made:
            ledger.take(grant)
        grants += made
    return grants


def _on_node(
    desk: Desk, node: Node, bundles: Sequence[Bundle], in_use: InUse, volumes: Volumes, paid: dict[str, set[str]]
) -> list[Grant] | None:
    """Grants for bundles that come to one node together. `paid`: by gang, claims that it pays for, with this
    attempt."""
    pods = [pod for bundle in bundles for pod in bundle.pods]
    stored = volumes.choose(node.name, pods)
    if stored is None:
        return None
    asked = [ask for bundle in bundles for ask in desk.shapes.demand_of(bundle, node).asks]
    served: dict[str, list[tuple[Asked, AllocationResult]]] = {}
    if asked:
        steps = desk.granting.steps(desk.snapshot.policy.allocator_steps)
        answer = allocate(node, [Ask(claim=ask.claim) for ask in asked], desk.inventory, in_use, steps=steps)
        if isinstance(answer, Refused):
            return None
        desk.granting.spend(answer.steps)
        if not isinstance(answer, Allocated):
            return None
        for ask, allocation in zip(asked, answer.allocations, strict=True):
            served.setdefault(ask.pod.key, []).append((ask, allocation))
    return [_grant(desk, pod, node, served.get(pod.key, []), volumes.part(stored, pod), paid) for pod in pods]


def _grant(
    desk: Desk,
    pod: Pod,
    node: Node,
    served: Sequence[tuple[Asked, AllocationResult]],
    volumes: Choice,
    paid: dict[str, set[str]],
) -> Grant:
    gang = desk.gang_of[pod.key]
    allocated = tuple((ask.claim, allocation) for ask, allocation in served)
    made = next(((ask.made, ask.claim.key) for ask, _ in served if ask.made is not None), None)
    return Grant(
        pod=pod,
        node=node.name,
        requests=desk.shapes.requests(pod, node),
        allocated=allocated,
        joins=(*claims_of(pod), made[1]) if made else tuple(claims_of(pod)),
        made=made[0] if made else None,
        volumes=volumes,
        cost=desk.accounts.placed(pod, node, allocated, paid.setdefault(gang, set(desk.paid.get(gang, ())))),
    )
