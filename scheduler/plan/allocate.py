"""Stage 1: place pending gangs on what is free, in queue order, each whole or not at all.

A gang that finds no room does not stop those behind it. Past its minimum a gang grows piece by piece, and after each
piece waits for its turn again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from queues.limits import may_start
from queues.ordering import Picker, Waiting
from queues.resources import Resources, total
from scheduler.api.dra import AllocationResult
from scheduler.dra.allocate import Allocated, Ask, Refused, allocate
from scheduler.dra.counters import InUse
from scheduler.model.nodes import Node
from scheduler.model.reasons import GangDoesNotFit, NodeCount, NoNodeFits, Reason
from scheduler.model.workloads import Gang, Pod
from scheduler.plan.desk import Desk
from scheduler.plan.ledger import Grant
from scheduler.plan.shapes import Asked, Bundle, claims_of
from scheduler.plan.wants import Wanted
from scheduler.solver import greedy
from scheduler.solver.greedy import Move, Seated, Short
from scheduler.solver.problem import Group


def place_pending(desk: Desk) -> None:
    """Serve all gangs that want something, as the queues' order says."""
    pieces: dict[str, Wanted] = {}
    turns = Picker(desk.tree, _first_turns(desk, pieces), desk.fair_shares, desk.ledger.allocated)
    while (turn := turns.next()) is not None:
        gang, piece = desk.wants[turn.key].gang, pieces[turn.key]
        answer = place(desk, gang, piece, turn.asked)
        if isinstance(answer, list):
            keep(desk, gang, answer)
            turns.charge(turn.queue, total(grant.cost for grant in answer))
        else:
            desk.reasons[gang.key] = answer
            if not turn.elastic:
                continue
            desk.wants[gang.key].fail(piece)
        more = desk.wants[gang.key].growth()
        if more is not None:
            pieces[gang.key] = more
            turns.put(replace(turn, asked=_asked(desk, more), elastic=True))


def _first_turns(desk: Desk, pieces: dict[str, Wanted]) -> Iterator[Waiting]:
    """A turn for every gang that wants something; its first piece goes into `pieces`."""
    for key, wants in desk.wants.items():
        first = wants.minimum()
        elastic = first is None
        piece = wants.growth() if first is None else first
        if isinstance(piece, Wanted):
            pieces[key] = piece
            gang = wants.gang
            yield Waiting(
                key=key,
                queue=desk.queue_of[key],
                asked=_asked(desk, piece),
                priority=gang.priority,
                created_ms=gang.created_ms,
                elastic=elastic,
            )
        elif piece is not None:
            desk.reasons[key] = piece


def _asked(desk: Desk, piece: Wanted) -> Resources:
    return total(desk.accounts.estimate(bundle) for bundle in piece.chosen())


def place(desk: Desk, gang: Gang, piece: Wanted, asked: Resources) -> list[Grant] | Reason:
    """Where the piece goes, or why not. Changes nothing. `asked`: the least it will cost its queue."""
    refusal = _over(desk, gang, asked)
    if refusal is not None:
        return refusal
    found = _seats(desk, piece.group)
    if isinstance(found, Short):
        return why_not(desk, gang, piece, found)
    grants = realise(desk, piece, found.moves)
    if not isinstance(grants, list):
        return grants
    refusal = _over(desk, gang, total(grant.cost for grant in grants))
    return grants if refusal is None else refusal


def _over(desk: Desk, gang: Gang, asked: Resources) -> Reason | None:
    """Why the gang's queue, or one above it, may not take so much more."""
    ledger = desk.ledger
    return may_start(
        desk.tree, desk.queue_of[gang.key], asked, ledger.allocated, ledger.nonpreemptible, gang.preemptible
    )


def _seats(desk: Desk, group: Group) -> Seated | Short:
    known = desk.fruitless.get(group)
    if known is not None:
        return known
    if len(group.units) == 1 and not group.steps and not group.pinned:
        shape = group.units[0].shape
        node = desk.rooms.best(shape)
        if node is not None:
            return Seated(moves=(Move(leaf=group.name, node=node, shape=shape, count=1),))
        found: Seated | Short = Short(placeable=0, shape=shape, domain="", certain=True)
    else:
        found = greedy.place(group, desk.rooms.nodes, desk.rooms)
    if isinstance(found, Short):
        desk.fruitless[group] = found
    return found


def keep(desk: Desk, gang: Gang, grants: Sequence[Grant]) -> None:
    """Make a placement part of the plan."""
    for grant in grants:
        desk.ledger.take(grant)
        desk.accounts.paid.update(grant.joins)
        desk.wants[gang.key].settle(grant.pod, grant.node)
    cost = total(grant.cost for grant in grants)
    desk.ledger.charge(desk.tree, desk.queue_of[gang.key], cost, preemptible=gang.preemptible)
    desk.grants.setdefault(gang.key, []).extend(grants)
    desk.reasons.pop(gang.key, None)


def realise(desk: Desk, piece: Wanted, moves: Sequence[Move]) -> list[Grant] | Reason:
    """The very devices for seats that were found; claims of all pods that come to one node are allocated jointly."""
    queues = {key: iter(bundles) for key, bundles in piece.bundles.items()}
    here: dict[str, list[Bundle]] = {}
    for move in sorted(moves, key=lambda m: (m.node, m.leaf, m.shape)):
        for _ in range(move.count):
            here.setdefault(move.node, []).append(next(queues[move.leaf, move.shape]))
    in_use = desk.ledger.in_use.fork()
    paid: set[str] = set()
    grants: list[Grant] = []
    for node in sorted(here):
        made = on_node(desk, desk.ledger.nodes[node], here[node], in_use, paid)
        if not isinstance(made, list):
            return made
        grants += made
        for grant in made if len(here) > 1 else ():
            for _, allocation in grant.allocated:
                in_use.take(allocation)
    return grants


def on_node(desk: Desk, node: Node, bundles: Sequence[Bundle], in_use: InUse, paid: set[str]) -> list[Grant] | Reason:
    """Grants for bundles that come to one node together. `paid`: claims that this attempt pays for already."""
    asked = [ask for bundle in bundles for ask in desk.shapes.demand_of(bundle, node).asks]
    served: dict[str, list[tuple[Asked, AllocationResult]]] = {}
    if asked:
        steps = desk.snapshot.policy.allocator_steps
        answer = allocate(node, [Ask(claim=ask.claim) for ask in asked], desk.inventory, in_use, steps=steps)
        if not isinstance(answer, Allocated):
            first = asked[0].pod
            problem = answer.reason.message if isinstance(answer, Refused) else answer.cause
            return NoNodeFits(pod=first.key, causes=(NodeCount(nodes=1, cause=problem),))
        for ask, allocation in zip(asked, answer.allocations, strict=True):
            served.setdefault(ask.pod.key, []).append((ask, allocation))
    return [_grant(desk, pod, node, served.get(pod.key, []), paid) for bundle in bundles for pod in bundle.pods]


def _grant(desk: Desk, pod: Pod, node: Node, served: Sequence[tuple[Asked, AllocationResult]], paid: set[str]) -> Grant:
    allocated = tuple((ask.claim, allocation) for ask, allocation in served)
    made = next(((ask.made, ask.claim.key) for ask, _ in served if ask.made is not None), None)
    return Grant(
        pod=pod,
        node=node.name,
        requests=desk.shapes.requests(pod, node),
        allocated=allocated,
        joins=(*claims_of(pod), made[1]) if made else tuple(claims_of(pod)),
        made=made[0] if made else None,
        cost=desk.accounts.placed(pod, node, allocated, paid),
    )


def why_not(desk: Desk, gang: Gang, piece: Wanted, short: Short) -> Reason:
    """Why a piece found no room: it cannot be decided, it could never run here, or there is too little free now."""
    for bundle in piece.chosen():
        refused = desk.rooms.refused.get(bundle.shape)
        if refused is not None:
            return refused
        never = _never(desk, bundle)
        if never is not None:
            return never
    return GangDoesNotFit(
        gang=gang.key,
        needed=piece.pods,
        placeable=short.placeable,
        causes=desk.rooms.causes(short.shape, desk.rooms.nodes),
        domain=short.domain,
        proved=short.certain and desk.rooms.proved,
    )


def _never(desk: Desk, bundle: Bundle) -> NoNodeFits | None:
    """Whether the bundle could run on no node even if all were empty."""
    bare = desk.bare_rooms()
    if bare.best(bundle.shape) is not None:
        return None
    return NoNodeFits(pod=bundle.pods[0].key, causes=bare.causes(bundle.shape, bare.nodes))
