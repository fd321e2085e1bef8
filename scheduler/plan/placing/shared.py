"""Claims that several pods of a gang share.

Devices of one node: the pods of a sub-group go there together, as a bundle (`shapes`), all of them if they find room,
else no more than the gang needs, and the others follow. Two kinds of claims get their devices first, and the pods then
go wherever these can be used: devices that many nodes can reach, and claims that pods of several sub-groups share.
The first are tried part of the cluster by part of the cluster, the others node by node, the best for the pods first.
Where that finds no room and proves nothing, claims get their devices in yet other ways (`detours`).
Source: KEP 4381 (claims shared by pods).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from queues.resources import total
from scheduler.api.dra import AllocationResult
from scheduler.dra.allocate import Allocated, Ask
from scheduler.dra.selection import usable_on
from scheduler.model.reasons import ClaimRefused, GangDoesNotFit, NoNodeFits, Reason
from scheduler.model.workloads import Claim, Gang
from scheduler.plan.desk import Desk, Placed
from scheduler.plan.ground.ledger import Grant
from scheduler.plan.ground.shapes import Bundle
from scheduler.plan.pieces import Wanted, fewest, may_be_divided
from scheduler.plan.placing import detours, wide
from scheduler.plan.placing.wide import Held
from scheduler.solver.problem import Group, Unit

Placing = Callable[[Desk, Gang, Wanted], Placed | Reason]

MOST_TRIES = 256
"""Ways to give a piece's shared claims their devices, all of them together."""

MOST_NODES = 16
"""Nodes tried for a claim that pods of several sub-groups share."""


def place(desk: Desk, gang: Gang, piece: Wanted, placing: Placing) -> Placed | Reason:
    """What `placing` answers for the piece, once claims that tie pods together have their devices."""
    sharing = _Sharing(desk=desk, gang=gang, placing=placing)
    return sharing.anyhow(piece, sharing.place(piece))


def ties_groups(piece: Wanted) -> bool:
    """Whether pods of several sub-groups share a claim without devices: such a piece cannot be placed as it stands."""
    return any(len(link.leaves) > 1 for link in _links(piece))


@dataclass(slots=True, kw_only=True)
class _Link:
    """A claim without devices, how many pods of a piece consume it, and of which leaves they are."""

    claim: Claim
    consumers: int = 0
    leaves: set[str] = field(default_factory=set)


@dataclass(slots=True, kw_only=True)
class _Sharing:
    desk: Desk
    gang: Gang
    placing: Placing
    tries: int = MOST_TRIES
    held: bool = False
    """Whether it is decided which claims get devices that several nodes reach."""

    def place(self, piece: Wanted) -> Placed | Reason:
        """The piece, or as little of it as will do."""
        answer = self._whole(piece)
        if isinstance(answer, Placed | ClaimRefused):
            return answer
        fewer = fewest(piece, self.desk.shapes)
        if fewer is not None:
            answer = self._whole(fewer)
        if isinstance(answer, Placed) or not may_be_divided(piece, self.desk.shapes):
            return answer
        return self._unproved(piece, answer)

    def _whole(self, piece: Wanted) -> Placed | Reason:
        links = [link for link in _links(piece) if link.consumers > 1]
        reaching = [] if self.held else [link for link in links if wide.possible(self.desk, link.claim)]
        if not reaching:
            return self._together_where_tied(piece, links)
        refusal: Placed | Reason | None = None
        for link in reaching:
            ways, elsewhere = _ways(self.desk, link.claim)
            if ways:
                tied = self._together_where_tied(piece, links) if elsewhere else None
                if isinstance(tied, Placed | NoNodeFits):
                    return tied
                refusal = self._try(piece, [((link.claim, way),) for way in ways])
                if tied is not None or isinstance(refusal, Placed | ClaimRefused):
                    return refusal
                break
        tied = self._together_where_tied(piece, links)
        return tied if isinstance(tied, Placed | NoNodeFits) else refusal or self._unproved(piece, tied)

    def _together_where_tied(self, piece: Wanted, links: Sequence[_Link]) -> Placed | Reason:
        """The piece, pods that share a claim on one node."""
        apart = [link.claim for link in links if len(link.leaves) > 1]
        if not apart:
            return self.placing(self.desk, self.gang, piece)
        together = self._together(piece, apart)
        answer = self.placing(self.desk, self.gang, together)
        if isinstance(answer, Placed):
            keys = {claim.key for claim in apart}
            given = tuple(part for grant in answer.grants for part in grant.allocated if part[0].key in keys)
            return self._try(piece, [given, *self._node_by_node(next(together.chosen()), apart)])
        if isinstance(answer, GangDoesNotFit):
            return replace(answer, needed=piece.pods)
        return answer if piece.pods == sum(1 for _ in piece.all_pods()) else self._unproved(piece, answer)

    def anyhow(self, piece: Wanted, answer: Placed | Reason) -> Placed | Reason:
        """`answer`, or where that proves nothing what comes of other ways to give the claims their devices."""
        if not isinstance(answer, GangDoesNotFit) or answer.proved or sum(1 for _ in piece.all_pods()) < 2:
            return answer
        self.held = True
        return detours.search(self.desk, self.gang, piece, self._with) or answer

    def _try(self, piece: Wanted, ways: Sequence[Held]) -> Placed | Reason:
        """Place the gang's next piece with the claims holding these devices, for the first of the ways that will do."""
        refusal: Reason | None = None
        for held in ways:
            if not self.tries:
                break
            self.tries -= 1
            answer = self._with(held)
            if isinstance(answer, Placed):
                return answer
            refusal = answer
        return self._unproved(piece, refusal)

    def _with(self, held: Held) -> Placed | Reason | None:
        """The gang's next piece, placed with the claims holding these devices; None if it wants nothing then."""
        desk, wants = self.desk, self.desk.wants[self.gang.key]
        fruitless = dict(desk.fruitless)
        for claim, allocation in held:
            desk.ledger.hold(claim, allocation)
        again = wants.minimum() or wants.growth()
        answer = self.place(again) if isinstance(again, Wanted) else again
        for claim, _ in held:
            desk.ledger.release(claim)
        desk.fruitless = fruitless
        return _with_claims(desk, self.gang, answer, held) if isinstance(answer, Placed) else answer

    def _unproved(self, piece: Wanted, reason: Reason | None) -> Reason:
        """The reason, as one that holds for some ways to give the claims their devices, and not for all."""
        match reason:
            case GangDoesNotFit():
                return replace(reason, proved=False)
            case NoNodeFits() | None:
                causes = reason.causes if reason is not None else ()
                return GangDoesNotFit(gang=self.gang.key, needed=piece.pods, placeable=0, causes=causes, proved=False)
            case _:
                return reason

    def _together(self, piece: Wanted, claims: Sequence[Claim]) -> Wanted:
        """The pods of the piece, of whatever sub-groups, that must be on one node for the sake of one of the claims:
        all of them at once, in one domain if each needs to be in the same as the others."""
        keys = {claim.key for claim in claims}
        chosen = [pod for bundle in piece.chosen() for pod in bundle.pods]
        tied: list[Bundle] = []
        for pods in (chosen, list(piece.all_pods())):
            made = self.desk.shapes.bundles(pods)
            tied = tied or [bundle for bundle in made if any(ask.key in keys for ask in bundle.asks)]
        units = tuple(Unit(shape=bundle.shape, pods=len(bundle.pods)) for bundle in tied)
        like = _common(piece, tied)
        group = replace(like, name="", minimum=sum(unit.pods for unit in units), units=units, children=())
        bundles: dict[tuple[str, int], tuple[Bundle, ...]] = {}
        for bundle in tied:
            bundles["", bundle.shape] = (*bundles.get(("", bundle.shape), ()), bundle)
        return Wanted(group=group, bundles=bundles)

    def _node_by_node(self, bundle: Bundle, claims: Sequence[Claim]) -> Iterator[Held]:
        """Devices for those of the claims that the bundle asks for, on nodes that take all of its pods."""
        desk, shape = self.desk, bundle.shape
        rooms, keys = desk.rooms, {claim.key for claim in claims}
        able = [n for n in rooms.nodes if not rooms.suits(n, shape) and not rooms.verdict(n, ((shape, 1),)).cause]
        for name in sorted(able, key=lambda n: rooms.rank(n, shape))[:MOST_NODES]:
            node = desk.ledger.nodes[name]
            asks = [Ask(claim=asked.claim) for asked in desk.shapes.demand_of(bundle, node).asks]
            answer = rooms.devices(node, asks)
            if isinstance(answer, Allocated):
                given = zip(asks, answer.allocations, strict=True)
                yield tuple((ask.claim, allocation) for ask, allocation in given if ask.claim.key in keys)


def _common(piece: Wanted, bundles: Sequence[Bundle]) -> Group:
    """The lowest group of the piece that every one of the bundles has a pod of, of those that are bound to a domain."""
    found = piece.group
    for group in piece.group.walk():
        leaves = {leaf.name for leaf in group.walk()}
        pods = {
            pod.key for (leaf, _), own in piece.bundles.items() if leaf in leaves for each in own for pod in each.pods
        }
        if group.required is not None and all(any(pod.key in pods for pod in bundle.pods) for bundle in bundles):
            found = group
    return found


def _links(piece: Wanted) -> list[_Link]:
    """The claims without devices that the piece asks for, by key."""
    links: dict[str, _Link] = {}
    for (leaf, _), bundles in piece.bundles.items():
        for bundle in bundles:
            for claim in bundle.asks:
                link = links.setdefault(claim.key, _Link(claim=claim))
                link.consumers += sum(1 for pod in bundle.pods if any(entry.claim == claim.key for entry in pod.claims))
                link.leaves.add(leaf)
    return [links[key] for key in sorted(links)]


def _ways(desk: Desk, claim: Claim) -> tuple[list[AllocationResult], bool]:
    """Ways to allocate the claim to more than one node, one per part of the cluster that could then use it; and whether
    a node that comes before all of these has devices of its own for it."""
    found: list[AllocationResult] = []
    for node in desk.ledger.nodes.values():
        if any(usable_on(allocation, node) for allocation in found):
            continue
        answer = desk.rooms.devices(node, [Ask(claim=claim)])
        if isinstance(answer, Allocated):
            (allocation,) = answer.allocations
            if wide.one_node(allocation.node_selector):
                parts = () if wide.takes_all(claim) else wide.parts(desk)
                shares = [wide.allot(desk.rooms, [claim], part)[0] for part in parts]
                return [*found, *(allocation for share in shares for _, allocation in share or ())], not found
            found.append(allocation)
            if allocation.node_selector is None:
                break
    return found, False


def _with_claims(desk: Desk, gang: Gang, placed: Placed, held: Held) -> Placed | Reason:
    """The first of the pods that consume a claim brings it its devices, and its queue pays for them. An elastic gang
    may have started with pods that do not consume it: then nobody has taken anything."""
    grants: list[Grant] = list(placed.grants)
    for claim, allocation in held:
        consumers = [number for number, grant in enumerate(grants) if claim.key in grant.joins]
        number = next((n for n in consumers if _brings(desk, grants[n].node, claim, allocation)), None)
        if consumers and number is None:
            return GangDoesNotFit(gang=gang.key, needed=placed.piece.pods, placeable=0, causes=(), proved=False)
        if number is not None:
            first = grants[number]
            cost = first.cost + desk.accounts.of_allocation(claim.spec, allocation)
            grants[number] = replace(first, allocated=(*first.allocated, (claim, allocation)), cost=cost)
    if grants == list(placed.grants):
        return placed
    refusal = desk.over(gang, total(grant.cost for grant in grants))
    return replace(placed, grants=tuple(grants), fixed=True) if refusal is None else refusal


def _brings(desk: Desk, node: str, claim: Claim, allocation: AllocationResult) -> bool:
    """Whether a pod on this node may be the one to bring the claim these devices: all that suit are more or less of
    them from node to node."""
    if not wide.takes_all(claim):
        return True
    answer = desk.rooms.devices(desk.ledger.nodes[node], [Ask(claim=claim)])
    return isinstance(answer, Allocated) and _named(answer.allocations[0]) == _named(allocation)


def _named(allocation: AllocationResult) -> list[tuple[str, str, str, str]]:
    return [(each.request, each.driver, each.pool, each.device) for each in allocation.devices.results or ()]
