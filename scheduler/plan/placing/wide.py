"""Claims that could get devices which several nodes reach: their pods need not meet on one node.

The nodes that reach the same such devices are a part of the cluster. What a part has for some claims is asked of a
stand-in, a node like those of the part but without devices of its own: all claims at once, as for one node. Source:
resource.k8s.io/v1 ResourceSlice.spec (nodeSelector, allNodes, perDeviceNodeSelection).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from scheduler.api.core import NodeSelector
from scheduler.api.dra import AllocationResult
from scheduler.dra.allocate import Allocated, Ask, NoRoom, Refused, ask_shape
from scheduler.dra.caches import PerObject
from scheduler.dra.views import NodeDevices
from scheduler.model.nodes import Node
from scheduler.model.workloads import Claim
from scheduler.plan.desk import Desk
from scheduler.plan.ground.rooms import Rooms
from scheduler.plan.ground.shapes import claims_of
from scheduler.plan.pieces import Wanted
from scheduler.solver.problem import Group

Held = tuple[tuple[Claim, AllocationResult], ...]

Split = tuple[tuple[int, ...], ...]
"""For each part of the cluster, the places of the claims that get their devices from it."""

MOST_MIXED = 1_024
"""Ways to split claims over parts that are all listed; of more, only those that treat most claims alike."""


@dataclass(slots=True, kw_only=True)
class _Known:
    """What was found out about the nodes of one plan. `possible`: by what a claim asks."""

    parts: tuple[Node, ...]
    possible: dict[object, bool] = field(default_factory=dict)
    failed: dict[Group, int] = field(default_factory=dict)


def parts(desk: Desk) -> tuple[Node, ...]:
    """A stand-in for each part of the cluster, in the order of their first nodes, and one for what all nodes reach;
    none where all devices are of single nodes."""
    return _KNOWN(desk.bare_rooms()).parts


def failed(desk: Desk) -> dict[Group, int]:
    """Questions that all ways have failed for, with the length of the ledger's list of changes at that time: to be
    read and extended."""
    return _KNOWN(desk.bare_rooms()).failed


def possible(desk: Desk, claim: Claim) -> bool:
    """Whether the claim might have devices that several nodes reach, if nothing else had any. True also where the
    search for them ended early."""
    bare = desk.bare_rooms()
    known, asked = _KNOWN(bare), ask_shape(claim)
    if asked not in known.possible:
        answers = (bare.devices(part, [Ask(claim=claim)]) for part in known.parts)
        known.possible[asked] = any(
            not answer.fatal
            if isinstance(answer, Refused)
            else not isinstance(answer, NoRoom) or not answer.searched_all
            for answer in answers
        )
    return known.possible[asked]


def allot(rooms: Rooms, claims: Sequence[Claim], part: Node) -> tuple[Held | None, int]:
    """Devices of the part for all of these claims together, that no node has for itself, None if none were found; and
    how many steps the search took."""
    answer = rooms.devices(part, [Ask(claim=claim) for claim in claims])
    if isinstance(answer, Refused):
        return None, 0
    if not isinstance(answer, Allocated) or any(one_node(given.node_selector) for given in answer.allocations):
        return None, answer.steps
    return tuple(zip(claims, answer.allocations, strict=True)), answer.steps


def takes_all(claim: Claim) -> bool:
    """Whether the claim may ask for all devices that suit: which these are is for the node of its pods to say."""
    for request in claim.spec.devices.requests or ():
        if any(
            asked.allocation_mode == "All" for asked in (request.exactly, *(request.first_available or ())) if asked
        ):
            return True
    return False


def one_node(selector: NodeSelector | None) -> bool:
    """Whether what is allocated can be used on one node alone."""
    return selector is not None and any(term.match_fields for term in selector.node_selector_terms)


def claims(desk: Desk, piece: Wanted) -> list[Claim]:
    """The claims of the piece that may be given devices which several nodes reach before their pods have nodes, in the
    order of the pods."""
    found = {claim.key: claim for bundle in piece.chosen() for claim in bundle.asks}
    return [claim for claim in found.values() if not takes_all(claim) and possible(desk, claim)]


def splits(piece: Wanted, claims: Sequence[Claim], parts: int) -> Iterator[Split]:
    """Which of the claims get their devices from which part of the cluster, while the others get theirs where their
    pods go: first those in which one part serves all, all that are shared, and these with those of one pod."""
    place = {claim.key: number for number, claim in enumerate(claims)}
    consumed = [[place[key] for key in claims_of(pod) if key in place] for b in piece.chosen() for pod in b.pods]
    seen: set[Split] = set()
    for chosen in _likely(len(claims), consumed):
        for part in range(parts):
            split = tuple(tuple(sorted(chosen)) if part == number else () for number in range(parts))
            if chosen and split not in seen:
                seen.add(split)
                yield split
    everything = range(len(claims))
    if (parts + 1) ** len(claims) <= MOST_MIXED:
        for each in product(range(parts + 1), repeat=len(claims)):
            split = tuple(tuple(n for n in everything if each[n] == part) for part in range(parts))
            if any(each_part for each_part in split) and split not in seen:
                yield split


def _likely(claims: int, consumed: Sequence[Sequence[int]]) -> Iterator[set[int]]:
    """Claims that one part might serve. `consumed`: by pod."""
    everything, consumers = set(range(claims)), Counter(number for each in consumed for number in each)
    shared = {number for number in everything if consumers[number] > 1}
    yield everything
    yield shared
    yield from (shared.union(each) for each in consumed)
    yield from (everything - {number} for number in range(claims))
    yield from ({number} for number in range(claims))


def _known(bare: Rooms) -> _Known:
    found: dict[tuple[object, ...], Node] = {}
    for node in bare.ledger.nodes.values():
        reached = _reached(bare.ledger.inventory.on(node))
        if reached and reached not in found:
            found[reached] = replace(node, name=f"beside {node.name}")
    if len(found) > 1:
        anywhere = replace(next(iter(found.values())), name="anywhere", labels={})
        reached = _reached(bare.ledger.inventory.on(anywhere))
        if reached:
            found.setdefault(reached, anywhere)
    return _Known(parts=tuple(found.values()))


def _reached(view: NodeDevices) -> tuple[object, ...]:
    """The devices that the node has in common with others."""
    if all(pool in view.local for pool in view.pools):
        return ()
    return tuple(d.id for d in view.devices if d.node_name is None and not d.published.binds_to_node)


_KNOWN = PerObject(_known)
