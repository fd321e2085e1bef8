"""What a joint placement must obey, HARD, and what it should be, TIERS: one function per sentence.

The model counts: how many units of a shape a leaf has in a zone, how many nodes of a class are filled by which pattern,
which groups are placed, which domain a group stays in. Who sits where follows from the counts (`solve`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ortools.sat.python import cp_model

from scheduler.solver.problem import Group, Problem, Zone

Var: TypeAlias = cp_model.IntVar
Place: TypeAlias = tuple[int, tuple[int, ...]]
"""A group: the contender's number, and the way down its tree."""


@dataclass(slots=True, kw_only=True)
class Model:
    """`placed[g]`: group g is placed. `seats[g, shape, zone]`: units of leaf g in a zone. `fills[zone, class,
    pattern]`: nodes filled so. `stays[g, domain]`: group g stays in that domain of its required level. `keeps[g,
    domain]`: all of group g is in that domain of the level it prefers most."""

    problem: Problem
    cp: cp_model.CpModel = field(default_factory=cp_model.CpModel)
    groups: dict[Place, Group] = field(default_factory=dict)
    placed: dict[Place, Var] = field(default_factory=dict)
    seats: dict[tuple[Place, int, int], Var] = field(default_factory=dict)
    fills: dict[tuple[int, int, int], Var] = field(default_factory=dict)
    stays: dict[tuple[Place, str], Var] = field(default_factory=dict)
    keeps: dict[tuple[Place, str], Var] = field(default_factory=dict)

    @classmethod
    def of(cls, problem: Problem) -> "Model":
        """Variables, rules and objective of a problem."""
        model = cls(problem=problem)
        model.name_variables()
        for rule in HARD:
            rule(model)
        model.cp.maximize(objective(model))
        return model

    def name_variables(self) -> None:
        """Make the variables of every family."""
        problem, cp = self.problem, self.cp
        for number, contender in enumerate(problem.contenders):
            for way, group in _ways(contender.group):
                place = number, way
                self.groups[place] = group
                self.placed[place] = cp.new_bool_var("")
                for shape in sorted({unit.shape for unit in group.units}):
                    for z, zone in enumerate(problem.zones):
                        most = min(group.count(shape), zone.most(shape))
                        if most:
                            self.seats[place, shape, z] = cp.new_int_var(0, most, "")
                for domain in stay_domains(group, problem.zones):
                    self.stays[place, domain] = cp.new_bool_var("")
                for domain in keep_domains(group, problem.zones):
                    self.keeps[place, domain] = cp.new_bool_var("")
        for z, zone in enumerate(problem.zones):
            for c, alike in enumerate(zone.classes):
                for p in range(len(alike.patterns)):
                    self.fills[z, c, p] = cp.new_int_var(0, len(alike.nodes), "")

    def below(self, place: Place) -> list[Place]:
        """The leaves at or below a group."""
        number, way = place
        return [
            (other, path)
            for (other, path), group in self.groups.items()
            if other == number and path[: len(way)] == way and group.units
        ]

    def sitting(self, leaf: Place, shape: int, zones: Iterable[int]) -> list[Var]:
        """The seats of a leaf's shape in these zones."""
        return [self.seats[leaf, shape, z] for z in zones if (leaf, shape, z) in self.seats]


def stay_domains(group: Group, zones: tuple[Zone, ...]) -> tuple[str, ...]:
    """Domains of the required level that the group may be in, sorted."""
    if group.required is None:
        return ()
    names = {name for zone in zones if (name := zone.domain(group.required)) is not None}
    return tuple(sorted(names & {group.pinned} if group.pinned else names))


def keep_domains(group: Group, zones: tuple[Zone, ...]) -> tuple[str, ...]:
    """Domains of the level that the group prefers most, sorted; none if that level is required anyway."""
    if not group.steps or group.steps[0] == group.required:
        return ()
    return tuple(sorted({name for zone in zones if (name := zone.domain(group.steps[0])) is not None}))


def groups_are_whole_or_absent(model: Model) -> None:
    """A placed leaf has its minimum of pods, no unit beyond it; a placed inner group has its minimum of children."""
    for place, group in model.groups.items():
        placed = model.placed[place]
        if group.children:
            number, way = place
            children = [model.placed[number, (*way, c)] for c in range(len(group.children))]
            model.cp.add(_sum(children) == group.minimum * placed)
            continue
        pods = {unit.shape: unit.pods for unit in group.units}
        taken = []
        for shape, size in sorted(pods.items()):
            sitting = model.sitting(place, shape, range(len(model.problem.zones)))
            model.cp.add(_sum(sitting) <= group.count(shape) * placed)
            taken += [(seat, size) for seat in sitting]
        total = _weighted(taken)
        largest = max(pods.values(), default=1)
        model.cp.add(total >= group.minimum * placed)
        model.cp.add(total <= (group.minimum + largest - 1) * placed)


def seats_are_among_the_patterns(model: Model) -> None:
    """In no zone do more units of a shape sit than the patterns chosen there have seats for."""
    for z, zone in enumerate(model.problem.zones):
        wanted: dict[int, list[Var]] = {}
        for (_, shape, at), seat in model.seats.items():
            if at == z:
                wanted.setdefault(shape, []).append(seat)
        for shape, seats in sorted(wanted.items()):
            offered = [
                (model.fills[z, c, p], count)
                for c, alike in enumerate(zone.classes)
                for p, pattern in enumerate(alike.patterns)
                if (count := dict(pattern).get(shape, 0))
            ]
            model.cp.add(_sum(seats) <= _weighted(offered))


def nodes_are_filled_once(model: Model) -> None:
    """Of every class no more nodes are filled than it has."""
    for z, zone in enumerate(model.problem.zones):
        for c, alike in enumerate(zone.classes):
            model.cp.add(_sum(model.fills[z, c, p] for p in range(len(alike.patterns))) <= len(alike.nodes))


def groups_stay_together(model: Model) -> None:
    """A placed group with a required level has all its pods, and those below it, in one domain of that level."""
    zones = model.problem.zones
    for place, group in model.groups.items():
        if group.required is None:
            continue
        domains = stay_domains(group, zones)
        model.cp.add(_sum(model.stays[place, domain] for domain in domains) == model.placed[place])
        for leaf in model.below(place):
            for shape in sorted({unit.shape for unit in model.groups[leaf].units}):
                outside = [z for z, zone in enumerate(zones) if zone.domain(group.required) not in domains]
                model.cp.add(_sum(model.sitting(leaf, shape, outside)) == 0)
                for domain in domains:
                    inside = [z for z, zone in enumerate(zones) if zone.domain(group.required) == domain]
                    most = model.groups[leaf].count(shape)
                    model.cp.add(_sum(model.sitting(leaf, shape, inside)) <= most * model.stays[place, domain])


def queues_keep_their_limits(model: Model) -> None:
    """What is placed of all contenders stays within every budget."""
    for number, budget in enumerate(model.problem.budgets):
        taken = [
            (model.placed[c, ()], contender.amounts[number])
            for c, contender in enumerate(model.problem.contenders)
            if contender.amounts[number]
        ]
        model.cp.add(_weighted(taken) <= max(budget, 0))


def placed_gangs_stay_placed(model: Model) -> None:
    """No gang loses its place for the sake of others."""
    for number, contender in enumerate(model.problem.contenders):
        if contender.must:
            model.cp.add(model.placed[number, ()] == 1)


HARD: tuple[Callable[[Model], None], ...] = (
    groups_are_whole_or_absent,
    seats_are_among_the_patterns,
    nodes_are_filled_once,
    groups_stay_together,
    queues_keep_their_limits,
    placed_gangs_stay_placed,
)
"""Never broken."""


def gangs_start(model: Model) -> tuple[Any, int]:
    """What the placed gangs are worth together."""
    worth = [(model.placed[number, ()], c.value) for number, c in enumerate(model.problem.contenders)]
    return _weighted(worth), sum(c.value for c in model.problem.contenders)


def groups_are_where_they_prefer(model: Model) -> tuple[Any, int]:
    """How many groups are wholly in one domain of the level they prefer."""
    zones = model.problem.zones
    for (place, domain), kept in model.keeps.items():
        level = model.groups[place].steps[0]
        model.cp.add(kept <= model.placed[place])
        for leaf in model.below(place):
            for shape in sorted({unit.shape for unit in model.groups[leaf].units}):
                elsewhere = [z for z, zone in enumerate(zones) if zone.domain(level) != domain]
                most = model.groups[leaf].count(shape)
                model.cp.add(_sum(model.sitting(leaf, shape, elsewhere)) <= most * (1 - kept))
    places = sorted({place for place, _ in model.keeps})
    for place in places:
        model.cp.add_at_most_one(kept for (other, _), kept in model.keeps.items() if other == place)
    return _sum(model.keeps.values()), len(places)


def pods_get_what_they_like_best(model: Model) -> tuple[Any, int]:
    """How far down their lists of alternatives pods find their devices: minus the sum."""
    disliked, most = [], 0
    for z, zone in enumerate(model.problem.zones):
        for c, alike in enumerate(zone.classes):
            disliked += [(model.fills[z, c, p], dislike) for p, dislike in enumerate(alike.dislikes) if dislike]
            most += len(alike.nodes) * max(alike.dislikes, default=0)
    return -_weighted(disliked), most


def nodes_stay_whole(model: Model) -> tuple[Any, int]:
    """How many nodes on which nothing runs are left alone: minus those that are filled."""
    filled = [
        fill
        for (z, c, p), fill in model.fills.items()
        if model.problem.zones[z].classes[c].whole and model.problem.zones[z].classes[c].patterns[p]
    ]
    most = sum(len(alike.nodes) for zone in model.problem.zones for alike in zone.classes if alike.whole)
    return -_sum(filled), most


TIERS: tuple[Callable[[Model], tuple[Any, int]], ...] = (
    gangs_start,
    groups_are_where_they_prefer,
    pods_get_what_they_like_best,
    nodes_stay_whole,
)
"""What is better, most important first: each gives an expression and how far it can range; one unit of an earlier tier
outweighs all that is below it."""


def objective(model: Model) -> Any:
    """The tiers in one number."""
    total: Any = 0
    scale = 1
    for tier in reversed(TIERS):
        expression, span = tier(model)
        total = total + scale * expression
        scale *= span + 1
    return total


def _ways(group: Group, way: tuple[int, ...] = ()) -> Iterable[tuple[tuple[int, ...], Group]]:
    yield way, group
    for number, child in enumerate(group.children):
        yield from _ways(child, (*way, number))


def _sum(variables: Iterable[Var]) -> Any:
    return cp_model.LinearExpr.sum(list(variables))


def _weighted(pairs: Iterable[tuple[Var, int]]) -> Any:
    listed = list(pairs)
    return cp_model.LinearExpr.weighted_sum([v for v, _ in listed], [w for _, w in listed])
