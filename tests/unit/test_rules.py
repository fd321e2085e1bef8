"""Each rule of HARD and each of TIERS alone: a placement is written down, and the rule says yes or no."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from ortools.sat.python import cp_model

from scheduler.solver import rules
from scheduler.solver.problem import Contender, Group, Level, NodeClass, Problem, Unit, Zone
from scheduler.solver.rules import Model

RACK: Level = ("t", "rack")
ONE, TWO = Unit(shape=1), Unit(shape=2)


def zone(rack: str, *classes: NodeClass) -> Zone:
    return Zone(domains=((RACK, rack),), classes=classes)


def nodes(*names: str, fill: tuple[tuple[int, int], ...] = ((1, 4),), whole: bool = False) -> NodeClass:
    return NodeClass(nodes=names, patterns=(fill,), whole=whole)


def gang(group: Group, **more: object) -> Contender:
    return Contender(**{"gang": "g", "group": group, "must": False, "value": 1, **more})  # type: ignore[arg-type]


def leaf(*units: Unit, minimum: int | None = None, **more: object) -> Group:
    return Group(name="", minimum=len(units) if minimum is None else minimum, units=units, **more)  # type: ignore[arg-type]


def obeyed(rule: Callable[[Model], object], problem: Problem, **fixed: Mapping[object, int]) -> bool:
    """Whether the rule alone allows these values; variables not named are free, `placed` that are not named are 0."""
    model = Model(problem=problem)
    model.name_variables()
    rule(model)
    for family, values in fixed.items():
        variables = getattr(model, family)
        for key, variable in variables.items():
            model.cp.add(variable == values.get(key, 0))
    return cp_model.CpSolver().solve(model.cp) in (cp_model.OPTIMAL, cp_model.FEASIBLE)


ROOT = (0, ())
FOUR = Problem(contenders=(gang(leaf(ONE, ONE, ONE)),), zones=(zone("r0", nodes("a")), zone("r1", nodes("b"))))


@pytest.mark.parametrize(("first", "second", "ok"), [(2, 1, True), (1, 1, False), (0, 0, False), (3, 0, True)])
def test_a_placed_leaf_has_its_minimum_of_pods(first: int, second: int, ok: bool) -> None:
    seats = {(ROOT, 1, 0): first, (ROOT, 1, 1): second}
    assert obeyed(rules.groups_are_whole_or_absent, FOUR, placed={ROOT: 1}, seats=seats) is ok


def test_an_absent_leaf_has_no_seats() -> None:
    assert obeyed(rules.groups_are_whole_or_absent, FOUR, placed={}, seats={})
    assert not obeyed(rules.groups_are_whole_or_absent, FOUR, placed={}, seats={(ROOT, 1, 0): 1})


def test_a_leaf_takes_no_unit_beyond_its_minimum() -> None:
    problem = replace(FOUR, contenders=(gang(leaf(ONE, ONE, ONE, minimum=2)),))
    assert obeyed(rules.groups_are_whole_or_absent, problem, placed={ROOT: 1}, seats={(ROOT, 1, 0): 2})
    assert not obeyed(rules.groups_are_whole_or_absent, problem, placed={ROOT: 1}, seats={(ROOT, 1, 0): 3})


def test_bundles_may_overshoot_the_minimum_by_less_than_one_bundle() -> None:
    pairs = gang(leaf(Unit(shape=1, pods=2), Unit(shape=1, pods=2), Unit(shape=1, pods=2), minimum=3))
    problem = replace(FOUR, contenders=(pairs,))
    for bundles, ok in ((1, False), (2, True), (3, False)):
        seats = {(ROOT, 1, 0): bundles}
        assert obeyed(rules.groups_are_whole_or_absent, problem, placed={ROOT: 1}, seats=seats) is ok


def test_a_placed_inner_group_has_its_minimum_of_children() -> None:
    children = tuple(replace(leaf(ONE), name=name) for name in ("x", "y", "z"))
    problem = replace(FOUR, contenders=(gang(Group(name="", minimum=2, children=children)),))
    places = [(0, (0,)), (0, (1,)), (0, (2,))]
    for count, ok in ((1, False), (2, True), (3, False)):
        placed = {ROOT: 1, **dict.fromkeys(places[:count], 1)}
        assert obeyed(rules.groups_are_whole_or_absent, problem, placed=placed) is ok


def test_no_more_units_sit_in_a_zone_than_the_chosen_patterns_have_seats_for() -> None:
    mixed = NodeClass(nodes=("a", "b"), patterns=(((1, 4),), ((1, 2), (2, 1))), whole=False)
    problem = Problem(contenders=(gang(leaf(ONE, ONE, ONE, ONE, TWO)),), zones=(zone("r0", mixed),))
    seats = {(ROOT, 1, 0): 3, (ROOT, 2, 0): 1}
    rule = rules.seats_are_among_the_patterns
    assert not obeyed(rule, problem, seats=seats, fills={(0, 0, 1): 1})
    assert not obeyed(rule, problem, seats=seats, fills={(0, 0, 0): 2})
    assert obeyed(rule, problem, seats=seats, fills={(0, 0, 0): 1, (0, 0, 1): 1})


def test_of_a_class_no_more_nodes_are_filled_than_it_has() -> None:
    two = NodeClass(nodes=("a", "b"), patterns=(((1, 4),), ((2, 2),)), whole=False)
    problem = Problem(contenders=(), zones=(zone("r0", two),))
    assert obeyed(rules.nodes_are_filled_once, problem, fills={(0, 0, 0): 1, (0, 0, 1): 1})
    assert not obeyed(rules.nodes_are_filled_once, problem, fills={(0, 0, 0): 2, (0, 0, 1): 1})


def test_a_group_with_a_required_level_is_in_one_domain_of_it() -> None:
    bound = replace(FOUR, contenders=(gang(leaf(ONE, ONE, ONE, required=RACK, steps=(RACK,))),))
    rule = rules.groups_stay_together
    assert obeyed(rule, bound, placed={ROOT: 1}, seats={(ROOT, 1, 1): 3})
    assert not obeyed(rule, bound, placed={ROOT: 1}, seats={(ROOT, 1, 0): 2, (ROOT, 1, 1): 1})


def test_a_pinned_group_is_in_the_domain_where_its_pods_are() -> None:
    pinned = replace(FOUR, contenders=(gang(leaf(ONE, ONE, ONE, required=RACK, steps=(RACK,), pinned="r1")),))
    rule = rules.groups_stay_together
    assert obeyed(rule, pinned, placed={ROOT: 1}, seats={(ROOT, 1, 1): 3})
    assert not obeyed(rule, pinned, placed={ROOT: 1}, seats={(ROOT, 1, 0): 3})


def test_all_groups_below_stay_together_with_the_one_that_is_bound() -> None:
    children = tuple(replace(leaf(ONE), name=name) for name in ("x", "y"))
    both = Group(name="", minimum=2, children=children, required=RACK, steps=(RACK,))
    problem = replace(FOUR, contenders=(gang(both),))
    placed = {ROOT: 1, (0, (0,)): 1, (0, (1,)): 1}
    apart = {((0, (0,)), 1, 0): 1, ((0, (1,)), 1, 1): 1}
    beside = {((0, (0,)), 1, 0): 1, ((0, (1,)), 1, 0): 1}
    assert obeyed(rules.groups_stay_together, problem, placed=placed, seats=beside)
    assert not obeyed(rules.groups_stay_together, problem, placed=placed, seats=apart)


def test_what_is_placed_stays_within_every_budget() -> None:
    two = tuple(gang(leaf(ONE), gang=name, amounts=(3, 1)) for name in ("x", "y"))
    problem = Problem(contenders=two, zones=FOUR.zones, budgets=(5, 9))
    assert obeyed(rules.queues_keep_their_limits, problem, placed={(0, ()): 1})
    assert not obeyed(rules.queues_keep_their_limits, problem, placed={(0, ()): 1, (1, ()): 1})


def test_what_the_greedy_placed_stays_placed() -> None:
    must = replace(FOUR, contenders=(gang(leaf(ONE), must=True),))
    assert obeyed(rules.placed_gangs_stay_placed, must, placed={ROOT: 1})
    assert not obeyed(rules.placed_gangs_stay_placed, must, placed={})


def worth(problem: Problem, **fixed: Mapping[object, int]) -> int:
    """The objective of a placement, all rules in force."""
    model = Model.of(problem)
    for family, values in fixed.items():
        for key, variable in getattr(model, family).items():
            model.cp.add(variable == values.get(key, 0))
    solver = cp_model.CpSolver()
    assert solver.solve(model.cp) == cp_model.OPTIMAL
    return int(solver.objective_value)


def test_any_gang_outweighs_every_preference_and_every_whole_node() -> None:
    whole = (zone("r0", nodes("a", whole=True)), zone("r1", nodes("b", whole=True)))
    problem = Problem(contenders=(gang(leaf(*[ONE] * 8)),), zones=whole)
    assert worth(problem, placed={ROOT: 1}) > worth(problem, placed={})


def test_one_domain_of_the_preferred_level_is_better_than_two() -> None:
    liking = gang(leaf(ONE, ONE, ONE, steps=(RACK,)))
    problem = replace(FOUR, contenders=(liking,))
    together = worth(problem, placed={ROOT: 1}, seats={(ROOT, 1, 0): 3})
    assert together > worth(problem, placed={ROOT: 1}, seats={(ROOT, 1, 0): 2, (ROOT, 1, 1): 1})


def test_leaving_a_node_whole_is_better_than_filling_it() -> None:
    zones = (zone("r0", nodes("a", whole=True), nodes("b")),)
    problem = Problem(contenders=(gang(leaf(ONE)),), zones=zones)
    assert worth(problem, fills={(0, 1, 0): 1}) > worth(problem, fills={(0, 0, 0): 1})


def test_what_pods_like_best_is_better_than_a_node_left_whole() -> None:
    """Four fit on one node if half of them take what they like less."""
    two = NodeClass(nodes=("a", "b"), patterns=(((1, 4),), ((1, 2),)), whole=True, dislikes=(2, 0))
    problem = Problem(contenders=(gang(leaf(*[ONE] * 4)),), zones=(zone("r0", two),))
    assert worth(problem, fills={(0, 0, 1): 2}) > worth(problem, fills={(0, 0, 0): 1})
