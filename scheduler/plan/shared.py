"""Claims that several pods of a gang share.

Devices of one node: the pods go there together, as a bundle (`shapes`). Devices that many nodes can reach: the claim
gets them first, and the pods then go wherever these can be used. Source: KEP 4381 (claims shared by pods).
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from queues.resources import total
from scheduler.api.core import NodeSelector
from scheduler.api.dra import AllocationResult
from scheduler.dra import accounting
from scheduler.dra.allocate import Allocated, Ask, allocate
from scheduler.dra.selection import usable_on
from scheduler.model.reasons import InvalidGang, Reason
from scheduler.model.workloads import Claim, Gang
from scheduler.plan.desk import Desk, Placed
from scheduler.plan.ledger import Grant
from scheduler.plan.wants import Wanted

Placing = Callable[[Desk, Gang, Wanted], Placed | Reason]


def place(desk: Desk, gang: Gang, piece: Wanted, placing: Placing) -> Placed | Reason:
    """What `placing` answers for the piece, once claims that many nodes can serve have their devices."""
    claims = _linking(piece)
    if not claims:
        return placing(desk, gang, piece)
    wide = next(((claim, options) for claim in claims if (options := list(_wide(desk, claim)))), None)
    if wide is None:
        return _apart(gang, piece) or placing(desk, gang, piece)
    claim, options = wide
    answer: Placed | Reason | None = None
    for allocation in options:
        desk.ledger.hold(claim, allocation)
        again = desk.wants[gang.key].minimum() or desk.wants[gang.key].growth()
        answer = place(desk, gang, again, placing) if isinstance(again, Wanted) else again
        desk.ledger.release(claim)
        if isinstance(answer, Placed):
            return _with_claim(desk, gang, answer, claim, allocation)
    return answer if answer is not None else placing(desk, gang, piece)


def _linking(piece: Wanted) -> list[Claim]:
    """Claims without devices that more than one pod of the piece consumes, by key."""
    seen: dict[str, int] = {}
    claims: dict[str, Claim] = {}
    for bundles in piece.bundles.values():
        for bundle in bundles:
            for claim in bundle.asks:
                consumers = sum(1 for pod in bundle.pods if any(entry.claim == claim.key for entry in pod.claims))
                seen[claim.key] = seen.get(claim.key, 0) + consumers
                claims[claim.key] = claim
    return [claims[key] for key in sorted(seen) if seen[key] > 1]


def _wide(desk: Desk, claim: Claim) -> Iterator[AllocationResult]:
    """Ways to allocate the claim, one per part of the cluster that could then use it; none if one node must."""
    found: list[AllocationResult] = []
    for node in desk.ledger.nodes.values():
        if any(usable_on(allocation, node) for allocation in found):
            continue
        steps = desk.snapshot.policy.allocator_steps
        answer = allocate(node, [Ask(claim=claim)], desk.inventory, desk.ledger.in_use, steps=steps)
        if isinstance(answer, Allocated):
            (allocation,) = answer.allocations
            if _one_node(allocation.node_selector):
                return
            found.append(allocation)
            yield allocation
            if allocation.node_selector is None:
                return


def _one_node(selector: NodeSelector | None) -> bool:
    return selector is not None and any(term.match_fields for term in selector.node_selector_terms)


def _apart(gang: Gang, piece: Wanted) -> InvalidGang | None:
    """Pods of different sub-groups cannot be bundled."""
    leaf_of: dict[str, str] = {}
    for (leaf, _), bundles in sorted(piece.bundles.items()):
        for claim in (claim for bundle in bundles for claim in bundle.asks):
            other = leaf_of.setdefault(claim.key, leaf)
            if other != leaf:
                problem = f"sub-groups {other} and {leaf} share ResourceClaim {claim.key}, which one node must serve"
                remedy = "Put the pods that share the claim into one sub-group, or give each sub-group its own claim."
                return InvalidGang(gang=gang.key, problem=problem, remedy=remedy)
    return None


def _with_claim(desk: Desk, gang: Gang, placed: Placed, claim: Claim, allocation: AllocationResult) -> Placed | Reason:
    """The first of the pods that consume the claim brings it its devices, and its queue pays for them. An elastic gang
    may have started with pods that do not consume it: then nobody has taken anything."""
    grants: list[Grant] = list(placed.grants)
    number = next((number for number, grant in enumerate(grants) if claim.key in grant.joins), None)
    if number is None:
        return placed
    first = grants[number]
    cost = first.cost + accounting.charge(claim.spec, allocation, desk.inventory)
    grants[number] = replace(first, allocated=(*first.allocated, (claim, allocation)), cost=cost)
    refusal = desk.over(gang, total(grant.cost for grant in grants))
    return replace(placed, grants=tuple(grants), fixed=True) if refusal is None else refusal
