"""The alternatives of every request on one node: which of them the node could serve, taken by itself.

What can be ruled out request by request is ruled out here, so that the search starts with devices that are free,
tolerated, large enough, and that have the attributes which constraints compare.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from scheduler.api.dra import MOST_RESULTS
from scheduler.dra.devices import Features, is_list, values_of
from scheduler.dra.items import Group, Item, Token
from scheduler.dra.requests import Candidates, Constraint, Question, Want, candidates
from scheduler.dra.room import Room
from scheduler.dra.verdicts import Failure, shortened

_NO_TOKENS: frozenset[Token] = frozenset()
_ASK_FIRST = (
    "Ask for the attribute only where it is published, for example with "
    '"name" in device.attributes["domain"] && ..., or correct its name.'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Something on this node that cannot be decided: a selector that fails on a device, an unreadable attribute.

    It refuses the claim on this node if nothing else is found.
    """

    claim: int
    request: str
    problem: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Choice:
    """One alternative and the devices that could serve it. `kind`: equal for choices that are as good as each other."""

    want: Want
    item: Item
    kind: Hashable
    failures: tuple[tuple[int, Failure], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """A request and those of its alternatives that the node could serve by themselves, in the user's order.

    They end before one of which nobody can say what it would take; upstream the whole request is an error then.
    """

    claim: int
    name: str
    choices: tuple[Choice, ...]


class Options:
    """The requests of all claims on one node. `troubles` and `room` are for whoever explains a failure."""

    def __init__(self, room: Room, questions: Sequence[Question], features: Features) -> None:
        self.room = room
        self.questions = questions
        self.troubles: list[Trouble] = []
        self._features = features
        self._tokens: dict[str, dict[int, frozenset[Token]]] = {}
        self._available: dict[Hashable, tuple[int, ...]] = {}
        self.requests = tuple(
            Request(
                claim=claim, name=wants[0].main, choices=tuple(self._choices(claim, (id(question), position), wants))
            )
            for claim, question in enumerate(questions)
            for position, wants in enumerate(question.requests)
        )

    def groups(self, chosen: Sequence[Choice]) -> list[Group]:
        """The constraints that have at least two devices to compare, for these choices."""
        made = []
        for claim, question in enumerate(self.questions):
            for number, constraint in enumerate(question.constraints):
                covered = [
                    position
                    for position, choice in enumerate(chosen)
                    if choice.item.claim == claim and constraint.covers(choice.want)
                ]
                if sum(chosen[p].item.need + len(chosen[p].item.pinned) for p in covered) > 1:
                    tokens = {
                        n: self._token(constraint.attribute, n)
                        for p in covered
                        for n in (*chosen[p].item.candidates, *chosen[p].item.pinned)
                    }
                    made.append(
                        Group(
                            attribute=constraint.attribute,
                            items=frozenset(covered),
                            tokens=tokens,
                            distinct=constraint.distinct,
                            kind=(id(question), number),
                        )
                    )
        return made

    def available(self, claim: int, want: Want) -> tuple[Candidates, tuple[int, ...]]:
        """What could serve the want, and of this what is free and has the attributes its constraints compare."""
        found = candidates(want, self.room.view, self._features)
        covering = tuple(c for c in self.questions[claim].constraints if c.covers(want))
        key = (id(found), want.every, want.admin, want.capacity, tuple(c.attribute for c in covering))
        known = self._available.get(key)
        if known is None:
            numbers = found.selected if want.every else found.usable
            free = [n for n in numbers if self.room.is_free(want, n)]
            known = tuple(n for n in free if all(self._comparable(c, claim, want, n) for c in covering))
            self._available[key] = known
        return found, known

    def _choices(self, claim: int, origin: Hashable, wants: Sequence[Want]) -> list[Choice]:
        choices = []
        for alternative, want in enumerate(wants):
            found, free = self.available(claim, want)
            if want.every:
                if self._cannot_be_told(claim, want, found):
                    break  # it may be known in a moment: what is wanted only in its stead is not given for good
                if not self._whole_is_possible(claim, want, found, free):
                    continue
                need = len(free)
            else:
                need = want.count
                if len(free) < need and not found.failures:
                    continue
            covering = tuple(c for c in self.questions[claim].constraints if c.covers(want))
            kind = (
                (claim, covering) if covering or want.admin else None,
                (want.expressions, want.every, want.count, want.admin, want.tolerations, want.capacity, want.avoids),
            )
            item = Item(
                claim=claim,
                want=want,
                need=need,
                candidates=free,
                whole=want.every,
                kind=(origin, alternative),
            )
            choices.append(Choice(want=want, item=item, kind=kind, failures=found.failures))
        return choices

    def _cannot_be_told(self, claim: int, want: Want, found: Candidates) -> bool:
        """Whether nobody can say what "all devices" is: a pool half published, a form newer than us, a selector that
        fails."""
        view = self.room.view
        blocked = [*view.incomplete, *view.invalid]
        if blocked:
            problem = f"asks for all devices, and pool {blocked[0]} is incomplete or invalid"
            remedy = "Wait until the driver has published the pool in full, or ask for a number of devices."
            self.troubles.append(Trouble(claim=claim, request=want.request, problem=problem, remedy=remedy))
        elif view.beyond:
            problem = f"asks for all devices, and some have {view.beyond[0]}, a form this scheduler does not know"
            remedy = "Upgrade the scheduler, or ask for a number of devices."
            self.troubles.append(Trouble(claim=claim, request=want.request, problem=problem, remedy=remedy))
        elif found.failures:
            self.fail(claim, want.request, found.failures[0])
        else:
            return False
        return True

    def _whole_is_possible(self, claim: int, want: Want, found: Candidates, free: tuple[int, ...]) -> bool:
        """Whether every device that would do can be had. A shared one without room for one more share is no exception:
        so Kubernetes since 1.37, where before it was left out."""
        members = found.selected
        if not members or not set(members) <= set(found.usable):
            return False
        if not all(self.room.is_free(want, n) for n in members):
            return False
        if len(free) < len(members):
            self._report_constraint(claim, want, next(n for n in members if n not in free))
            return False
        if len(members) > MOST_RESULTS:
            problem = f"asks for all devices, of which there are {len(members)}; one claim can hold {MOST_RESULTS}"
            remedy = "Select fewer devices."
            self.troubles.append(Trouble(claim=claim, request=want.request, problem=problem, remedy=remedy))
            return False
        return self._whole_is_consistent(claim, want, members)

    def _whole_is_consistent(self, claim: int, want: Want, members: tuple[int, ...]) -> bool:
        """Whether all devices together can ever meet the constraints that cover them."""
        for constraint in self.questions[claim].constraints:
            if not constraint.covers(want) or len(members) < 2:
                continue
            seen = self._token(constraint.attribute, members[0])
            for number in members[1:]:
                tokens = self._token(constraint.attribute, number)
                if bool(seen & tokens) == constraint.distinct:
                    self._report_constraint(claim, want, number)
                    return False
                seen = seen | tokens if constraint.distinct else seen & tokens
        return True

    def _report_constraint(self, claim: int, want: Want, number: int) -> None:
        device = self.room.view.devices[number].id
        problem = f"asks for all devices, and device {device} does not meet a constraint of the claim"
        remedy = "Relax the constraint, or select devices that meet it."
        self.troubles.append(Trouble(claim=claim, request=want.request, problem=problem, remedy=remedy))

    def fail(self, claim: int, request: str, failure: tuple[int, Failure]) -> Trouble:
        """Note that a selector failed on a device."""
        number, what = failure
        device = self.room.view.devices[number].id
        problem = f"a selector fails on device {device}: {shortened(what.problem)}: {shortened(what.expression)}"
        remedy = _ASK_FIRST if what.missing else "Correct the selector, or select other devices before it decides."
        trouble = Trouble(claim=claim, request=request, problem=problem, remedy=remedy)
        self.troubles.append(trouble)
        return trouble

    def _comparable(self, constraint: Constraint, claim: int, want: Want, number: int) -> bool:
        """Whether the device has the attribute. One with a value of no type we know is reported, and has none."""
        device = self.room.view.devices[number]
        attribute = device.attributes.get(constraint.attribute)
        if attribute is None:
            return False
        if values_of(attribute) is None and self._features.list_attributes:
            problem = f"device {device.id}: attribute {constraint.attribute} has a value of a type that is not known"
            remedy = "Upgrade the scheduler, or compare another attribute."
            self.troubles.append(Trouble(claim=claim, request=want.request, problem=problem, remedy=remedy))
            return False
        return True

    def _token(self, name: str, number: int) -> frozenset[Token]:
        """What two devices must share, or must not, under a constraint on this attribute."""
        of_attribute = self._tokens.setdefault(name, {})
        known = of_attribute.get(number)
        if known is None:
            attribute = self.room.view.devices[number].attributes.get(name)
            values = values_of(attribute)
            if values is None or (attribute is not None and is_list(attribute) and not self._features.list_attributes):
                known = _NO_TOKENS
            else:
                known = frozenset((values[0], value) for value in values[1])
            of_attribute[number] = known
        return known
