"""Devices for claims on a node: all claims of all pods of a bundle at once, or the reason why not.

Reading order of this room. What there is and what is asked: devices, selection, pools, shapes, counters, capacity,
taints, verdicts, requests. Which devices: room, options, choice, search with bounds, matching, descent and alike. What
is said about it: result, causes. Queues and extended resources: accounting, extended.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from scheduler.api.dra import MOST_RESULTS, AllocationResult
from scheduler.dra import causes, requests, result
from scheduler.dra.counters import InUse
from scheduler.dra.items import Item
from scheduler.dra.matching import Matching
from scheduler.dra.options import Choice, Options, Request, Trouble
from scheduler.dra.pools import Inventory
from scheduler.dra.requests import Problem, Question, Want
from scheduler.dra.room import OutOfSteps, Room
from scheduler.dra.search import Search
from scheduler.model.nodes import Node
from scheduler.model.reasons import ClaimRefused, Reason
from scheduler.model.workloads import Claim

DEFAULT_STEPS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A claim without an allocation. Several asks are served together, by one node."""

    claim: Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocated:
    """One allocation per ask, in the order of the asks. `steps`: how many the search took."""

    allocations: tuple[AllocationResult, ...]
    steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The asks cannot be decided. `fatal`: on no node; else on this one, because of what it publishes."""

    reason: Reason
    fatal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NoRoom:
    """This node cannot serve the asks as things stand. `cause` completes "the node ...".

    `searched_all` False: the step budget ended first, and nothing is proved. `steps`: how many the search took.
    """

    cause: str
    searched_all: bool = True
    steps: int = 0


Answer: TypeAlias = Allocated | Refused | NoRoom
_Found: TypeAlias = list[tuple[Choice, tuple[int, ...]]]


def ask_shape(claim: Claim) -> Hashable:
    """Equal for claims that ask for the same, whatever they are called."""
    return requests.ask_shape(claim)


def allocate(
    node: Node,
    asks: Sequence[Ask],
    inventory: Inventory,
    in_use: InUse,
    *,
    steps: int = DEFAULT_STEPS,
    first_fit: bool = False,
) -> Answer:
    """Devices of `node` for all asks at once. Exact: NoRoom with `searched_all` proves that there are none.

    The same input gives the same answer; nothing is changed. Alternatives are taken in the users' order, the first
    ask's first; devices so that big things stay whole, or with `first_fit` in the order in which kube-scheduler would.
    """
    questions: list[Question] = []
    for ask in asks:
        asked = requests.question(ask.claim, inventory)
        if isinstance(asked, Problem):
            return Refused(reason=_refusal(ask.claim, asked), fatal=True)
        questions.append(asked)
    view = inventory.on(node)
    room = Room(view, in_use, steps)
    options = Options(room, questions, inventory.features)
    failing = any(c.failures for request in options.requests for c in request.choices)
    try:
        if first_fit or failing:
            found = _FirstFit(options).run()
        else:
            found = _Alternatives(options, options.requests).run()
    except OutOfSteps:
        cause = f"was searched for devices for {steps} steps without an answer"
        return NoRoom(cause=cause, searched_all=False, steps=steps)
    except _Refusal as refusal:
        return Refused(reason=_refusal(asks[refusal.trouble.claim].claim, refusal.trouble), fatal=False)
    if found is not None:
        return Allocated(allocations=_allocations(node, asks, found, inventory, room), steps=steps - room.steps)
    return _failure(asks, options, steps - room.steps)


def _allocations(
    node: Node, asks: Sequence[Ask], found: _Found, inventory: Inventory, room: Room
) -> tuple[AllocationResult, ...]:
    devices = room.view.devices
    served: list[list[result.Served]] = [[] for _ in asks]
    for chosen, numbers in found:
        part = result.Served(want=chosen.want, devices=tuple(devices[n] for n in numbers))
        served[chosen.item.claim].append(part)
    return tuple(
        result.allocation(ask.claim, parts, node.name, inventory.classes)
        for ask, parts in zip(asks, served, strict=True)
    )


def _failure(asks: Sequence[Ask], options: Options, steps: int) -> Answer:
    """Why nothing was found: what cannot be decided on this node goes before what is lacking."""
    view = options.room.view
    cause = causes.cause(options)
    for request in options.requests:
        for chosen in request.choices:
            for failure in chosen.failures:
                options.fail(request.claim, chosen.want.request, failure)
    if options.troubles:
        trouble = options.troubles[0]
        others = causes.others(options, trouble.claim, trouble.request)
        trouble = replace(trouble, problem=f"{trouble.problem}{others}")
        return Refused(reason=_refusal(asks[trouble.claim].claim, trouble), fatal=False)
    if view.invalid and options.requests:
        first = options.requests[0]
        trouble = Trouble(
            claim=first.claim,
            request="",
            problem=f"the node {cause}, and it has an invalid pool, {view.invalid[0]}",
            remedy="Correct what the driver publishes.",
        )
        return Refused(reason=_refusal(asks[first.claim].claim, trouble), fatal=False)
    return NoRoom(cause=cause, steps=steps)


def _refusal(claim: Claim, what: Problem | Trouble) -> ClaimRefused:
    return ClaimRefused(claim=claim.key, request=what.request, problem=what.problem, remedy=what.remedy)


class _Refusal(Exception):
    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.problem)
        self.trouble = trouble


class _Alternatives:
    """Chooses an alternative for every request: those listed first, the earliest request's first, that have an answer.

    Before an alternative is entered, what is decided so far must have an answer by itself, and each open request must
    find enough devices among those of all its alternatives.
    """

    def __init__(self, options: Options, requests: Sequence[Request]) -> None:
        self._options = options
        self._requests = requests
        self._open = [position for position, request in enumerate(requests) if len(request.choices) > 1]
        self._failed: set[Hashable] = set()

    def run(self) -> _Found | None:
        """The choices and their devices, one entry per request; None: there is no answer."""
        if any(not request.choices for request in self._requests):
            return None
        chosen = {position: request.choices[0] for position, request in enumerate(self._requests)}
        if self._within_limit(chosen):
            found = self._solve(chosen)
            if found is not None or not self._open:
                return found
        elif not self._open:
            return None
        return self._decide(0, {p: c for p, c in chosen.items() if p not in self._open})

    def _decide(self, level: int, chosen: dict[int, Choice]) -> _Found | None:
        if level == len(self._open):
            return self._solve(chosen)
        position = self._open[level]
        for candidate in self._requests[position].choices:
            attempt = chosen | {position: candidate}
            state = (level, tuple(sorted(repr(attempt[p].kind) for p in self._open[: level + 1])))
            if state in self._failed:
                continue
            if self._within_limit(attempt) and self._may_have_answer(attempt):
                found = self._decide(level + 1, attempt)
                if found is not None:
                    return found
            self._failed.add(state)
        return None

    def _may_have_answer(self, chosen: dict[int, Choice]) -> bool:
        items = [c.item for c in chosen.values()]
        items += [_any_of(request) for p, request in enumerate(self._requests) if p not in chosen]
        if not Matching(self._options.room, items).feasible():
            return False
        return len(chosen) == len(self._requests) or self._solve(chosen) is not None

    def _solve(self, chosen: dict[int, Choice]) -> _Found | None:
        choices = [chosen[position] for position in sorted(chosen)]
        search = Search(self._options.room, [c.item for c in choices], self._options.groups(choices))
        picks = search.solve()
        if picks is None:
            return None
        return [(c, tuple(sorted((*c.item.pinned, *numbers)))) for c, numbers in zip(choices, picks, strict=True)]

    def _within_limit(self, chosen: dict[int, Choice]) -> bool:
        """Whether no claim gets more devices than an allocation can hold."""
        counts: dict[int, int] = {}
        for position, request in enumerate(self._requests):
            options = (chosen[position],) if position in chosen else request.choices
            least = min(c.item.need + len(c.item.pinned) for c in options)
            counts[request.claim] = counts.get(request.claim, 0) + least
        return all(count <= MOST_RESULTS for count in counts.values())


def _any_of(request: Request) -> Item:
    """A request as if it took whichever devices of whichever alternative: easier to serve than any of them."""
    items = [c.item for c in request.choices]
    numbers = sorted({n for item in items for n in item.candidates})
    return Item(
        claim=request.claim,
        want=items[0].want,
        need=min(item.need for item in items),
        candidates=tuple(numbers),
    )


class _FirstFit:
    """The answer that kube-scheduler's search finds first: requests in order, devices in published order.

    Each device is fixed only if the rest still has an answer, so there is no backtracking. A selector that fails
    counts when its device's turn comes, as it does there.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._pinned: list[Request] = []

    def run(self) -> _Found | None:
        """The choices and their devices; None: there is no answer. Raises _Refusal where a selector fails."""
        todo = self._options.requests
        for position, request in enumerate(todo):
            fixed = next((p for c in request.choices if (p := self._fix(request, c, todo[position + 1 :]))), None)
            if fixed is None:
                return None
            self._pinned.append(fixed)
        return [(r.choices[0], r.choices[0].item.pinned) for r in self._pinned]

    def _fix(self, request: Request, option: Choice, later: Sequence[Request]) -> Request | None:
        """The request with this alternative's devices pinned; None if it leads nowhere."""
        if option.item.whole:
            pinned = _pin(request, option, option.item.candidates, ())
            return pinned if self._has_answer(pinned, later) else None
        taken: tuple[int, ...] = ()
        failures = dict(option.failures)
        while len(taken) < option.item.need:
            last = taken[-1] if taken else -1
            for number in sorted({*option.item.candidates, *failures}):
                if number <= last:
                    continue
                if number in failures:
                    if self._comes_up(request.claim, option.want, number):
                        failure = (number, failures[number])
                        raise _Refusal(self._options.fail(request.claim, option.want.request, failure))
                    continue
                rest = tuple(n for n in option.item.candidates if n > number)
                if self._has_answer(_pin(request, option, (*taken, number), rest), later):
                    taken = (*taken, number)
                    break
            else:
                return None
        return _pin(request, option, taken, ())

    def _comes_up(self, claim: int, want: Want, number: int) -> bool:
        """Whether a device is looked at: one that nobody else has, and that this search has not given away before."""
        room = self._options.room
        if not room.is_free(want, number):
            return False
        return room.view.devices[number].shareable or not any(
            number in earlier.choices[0].item.pinned
            for earlier in self._pinned
            if not want.admin or earlier.claim == claim
        )

    def _has_answer(self, pinned: Request, later: Sequence[Request]) -> bool:
        return _Alternatives(self._options, (*self._pinned, pinned, *later)).run() is not None


def _pin(request: Request, option: Choice, taken: tuple[int, ...], rest: tuple[int, ...]) -> Request:
    total = len(option.item.candidates) if option.item.whole else option.item.need
    item = replace(option.item, pinned=taken, candidates=rest, need=total - len(taken), whole=False, kind=None)
    return replace(request, choices=(replace(option, item=item),))
