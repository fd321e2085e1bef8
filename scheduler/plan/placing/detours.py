"""Other ways to give the claims of a gang their devices, where going from node to node found no room for all of them.

Devices that several nodes reach are taken by whoever comes first, and claims that come one after the other take them
from each other. So they are given to many claims at once before any pod has a node; or one pod's claims get theirs on
one node or another first; or all that with fewer alternatives. None of it proves anything when it fails.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, product

from queues.reasons import OverLimit, OverQuota
from scheduler.dra.allocate import Allocated, Ask
from scheduler.model.reasons import Reason
from scheduler.model.workloads import Claim, Gang
from scheduler.plan.desk import Desk, Placed
from scheduler.plan.ground.rooms import QUESTION, STEP
from scheduler.plan.ground.shapes import Bundle
from scheduler.plan.pieces import Wanted
from scheduler.plan.placing import wide
from scheduler.plan.placing.alternatives import later
from scheduler.plan.placing.wide import Held, Split

MOST_DETOURS = 384
"""Ways tried for one piece."""

MOST_SPLITS = 128
"""Ways tried to share out devices that several nodes reach, for each choice of alternatives."""

MOST_CHOICES = 32
"""Choices of alternatives that are tried."""

MOST_NODES = 8
"""Nodes on which one pod's claims are served first."""

PODS = 16
"""An attempt for so many pods is counted as one more question to every node (measured: 0.1 ms for each node)."""

Attempt = Callable[[Held], Placed | Reason | None]
"""Place the next piece of the gang with these claims holding these devices; None if it wants nothing then."""

_Way = Callable[[], Held | None]


def search(desk: Desk, gang: Gang, piece: Wanted, attempt: Attempt) -> Placed | OverLimit | OverQuota | None:
    """A place for the piece, or what a queue said against the first one found, or None. Changes nothing.

    Within the time that the plan may search; the last share of it is left for placing several gangs together."""
    known, now = wide.failed(desk), len(desk.ledger.changes)
    if known.get(piece.group) == now or not wide.claims(desk, piece):
        return None
    refused: OverLimit | OverQuota | None = None
    clock, report = _Clock(desk), desk.solved.get(gang.key)
    ways = _ways(desk, gang, piece, clock)
    with clock, closing(ways):
        for way in islice(ways, MOST_DETOURS):
            if clock.over():
                break
            held = way()
            if held is None:
                continue
            clock.spend(len(desk.ledger.nodes) * QUESTION * (1 + piece.pods / PODS))
            answer = attempt(held)
            if isinstance(answer, Placed):
                return answer
            if isinstance(answer, OverLimit | OverQuota):
                refused = refused or answer
            desk.solved.pop(gang.key, None)
            if report is not None:
                desk.solved[gang.key] = report
    if refused is None:
        known[piece.group] = len(desk.ledger.changes)
    return refused


@dataclass(slots=True)
class _Clock:
    """The time that a plan may search, while one search has it all to itself."""

    desk: Desk
    left: float = 0.0

    def __enter__(self) -> None:
        self.left, self.desk.search_seconds = self.desk.search_seconds, 0.0

    def __exit__(self, *raised: object) -> None:
        self.desk.search_seconds = self.left

    def over(self) -> bool:
        return self.left <= self.desk.snapshot.policy.solver_deterministic_seconds

    def spend(self, seconds: float) -> None:
        self.left -= seconds


def _ways(desk: Desk, gang: Gang, piece: Wanted, clock: _Clock) -> Generator[_Way]:
    """The likely ones first: with all alternatives, then with fewer, if nobody else leaves any out."""
    yield from _ways_for(desk, piece, clock)
    if desk.shapes.narrowed:
        return
    wants = desk.wants[gang.key]
    try:
        for narrowed in _choices(piece):
            desk.shapes.narrow(narrowed)
            again = wants.minimum() or wants.growth()
            if isinstance(again, Wanted):
                yield _nothing
                yield from _ways_for(desk, again, clock)
    finally:
        desk.shapes.narrow({})


def _nothing() -> Held:
    """All claims get their devices where their pods go."""
    return ()


def _ways_for(desk: Desk, piece: Wanted, clock: _Clock) -> Iterator[_Way]:
    asked, parts = wide.claims(desk, piece), wide.parts(desk)
    hopeless: list[tuple[int, frozenset[int]]] = []
    splits = islice(wide.splits(piece, asked, len(parts)), MOST_SPLITS)
    return chain(
        (partial(_split, desk, asked, split, hopeless, clock) for split in splits),
        _seats(desk, piece, clock),
    )


def _split(
    desk: Desk, asked: Sequence[Claim], split: Split, hopeless: list[tuple[int, frozenset[int]]], clock: _Clock
) -> Held | None:
    """Devices for these of the claims, of these parts of the cluster; None if one part cannot serve all of its claims,
    which is then remembered as `hopeless`."""
    shares = [(part, frozenset(numbers)) for part, numbers in enumerate(split) if numbers]
    if any(part == each and few <= numbers for part, numbers in shares for each, few in hopeless):
        return None
    ledger, parts = desk.ledger, wide.parts(desk)
    given: Held = ()
    try:
        for part, numbers in shares:
            found, steps = wide.allot(desk.rooms, [asked[number] for number in sorted(numbers)], parts[part])
            clock.spend(QUESTION + steps * STEP)
            if found is None:
                if not given:
                    hopeless.append((part, numbers))
                return None
            for claim, allocation in found:
                ledger.hold(claim, allocation)
            given += found
    finally:
        for claim, _ in given:
            ledger.release(claim)
    return given


def _seats(desk: Desk, piece: Wanted, clock: _Clock) -> Iterator[_Way]:
    """The claims of one pod, or of pods that cannot part, first, on one node or another that takes it, the best
    first."""
    rooms, seen = desk.rooms, set()
    for bundle in piece.chosen():
        loose = len(bundle.pods) > 1 and any(wide.possible(desk, claim) for claim in bundle.asks)
        for part in (desk.shapes.bundles([pod])[0] for pod in bundle.pods) if loose else (bundle,):
            like = part.shape, tuple(claim.key for claim in part.asks) if loose else ()
            if not part.asks or like in seen:
                continue
            seen.add(like)
            clock.spend(len(rooms.nodes) * QUESTION)
            shape = part.shape
            able = [n for n in rooms.nodes if not rooms.suits(n, shape) and not rooms.verdict(n, ((shape, 1),)).cause]
            for name in sorted(able, key=lambda n: rooms.rank(n, shape))[:MOST_NODES]:
                yield partial(_seat, desk, name, part, clock)


def _seat(desk: Desk, name: str, bundle: Bundle, clock: _Clock) -> Held | None:
    answer = desk.rooms.devices(desk.ledger.nodes[name], [Ask(claim=claim) for claim in bundle.asks])
    if not isinstance(answer, Allocated):
        return None
    clock.spend(QUESTION + answer.steps * STEP)
    given = tuple(zip(bundle.asks, answer.allocations, strict=True))
    if any(wide.takes_all(claim) and not wide.one_node(allocation.node_selector) for claim, allocation in given):
        return None  # its pods might go to a node that has more of them
    return given


def _choices(piece: Wanted) -> Iterator[Mapping[str, Claim]]:
    """Claims (by key) without their first alternatives: all claims so, then each by itself, then any of them."""
    lists = {
        claim.key: (claim, max(len(request.first_available or ()) for request in claim.spec.devices.requests))
        for bundle in piece.chosen()
        for claim in bundle.asks
        if claim.spec.devices.requests
    }
    choosy = [(claim, most) for claim, most in lists.values() if most > 1]
    if not choosy:
        return
    deepest = max(most for _, most in choosy)
    drops = [(drop,) * len(choosy) for drop in range(1, deepest)]
    drops += [tuple(int(n == number) for n in range(len(choosy))) for number in range(min(len(choosy), MOST_CHOICES))]
    mixed = product(*(range(most) for _, most in choosy))
    seen = {(0,) * len(choosy)}
    for each in islice(chain(drops, mixed), MOST_CHOICES):
        if each not in seen:
            seen.add(each)
            yield {claim.key: later(claim, drop) for (claim, _), drop in zip(choosy, each, strict=True) if drop}
