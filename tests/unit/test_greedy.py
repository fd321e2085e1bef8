"""The greedy on a toy room: GPUs per node, a shape asks for its number of them."""

from collections.abc import Sequence
from dataclasses import replace

from scheduler.solver.greedy import Load, Seated, Short, place
from scheduler.solver.problem import Group, Level, Unit

RACK: Level = ("t", "rack")
POD: Level = ("t", "pod")


class Seen(dict[str, set[int]]):
    """Shapes on nodes."""

    def copy(self) -> "Seen":
        return Seen({node: set(shapes) for node, shapes in self.items()})


class Toy:
    """Shape n asks for n GPUs; nodes of one first letter are a rack; none is in a pod. `shy` shapes stand on a node of
    their own; `needy` ones where a pod of shape 1 is; `choosy` ones like the first half of a node's GPUs better."""

    def __init__(
        self, *, shy: tuple[int, ...] = (), needy: tuple[int, ...] = (), choosy: tuple[int, ...] = (), **free: int
    ) -> None:
        self.free, self.shy, self.needy, self.choosy = free, shy, needy, choosy

    def capacity(self, node: str, load: Load, shape: int, at_most: int) -> int:
        left = self.free[node] - sum(of * count for of, count in load)
        return min(left // shape, at_most)

    def favoured(self, node: str, load: Load, shape: int, at_most: int) -> int:
        if shape not in self.choosy:
            return at_most
        return min(max(self.free[node] // 2 - sum(of * count for of, count in load), 0) // shape, at_most)

    def dislike(self, node: str, load: Load) -> int:
        return max(sum(of * count for of, count in load if of in self.choosy) - self.free[node] // 2, 0)

    def rank(self, node: str, shape: int) -> tuple[int | str, ...]:
        return self.free[node] - shape, node

    def weight(self, node: str) -> int:
        return self.free[node]

    def hardness(self, shape: int) -> tuple[int, ...]:
        return (shape,)

    def split(self, level: Level, nodes: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
        if level == POD:
            return []
        assert level == RACK
        racks = sorted({name[0] for name in nodes})
        return [(rack, tuple(name for name in nodes if name[0] == rack)) for rack in racks]

    def sociable(self, shape: int) -> bool:
        return bool(self.shy) or (bool(self.needy) and shape in (1, *self.needy))

    def guests(self) -> Seen:
        return Seen()

    def surroundings(self, node: str, shape: int) -> object:
        return node, shape

    def welcome(self, node: str, shape: int, guests: Seen) -> int | str:
        there = guests.get(node, set())
        if (shape in self.shy and there) or there.intersection(self.shy):
            return "has somebody there"
        return "has no pod of shape 1" if shape in self.needy and 1 not in there else 0

    def seat(self, node: str, shape: int, guests: Seen) -> None:
        guests.setdefault(node, set()).add(shape)


def group(*shapes: int, name: str = "", minimum: int | None = None, **more: object) -> Group:
    units = tuple(Unit(shape=shape) for shape in shapes)
    return Group(name=name, minimum=len(shapes) if minimum is None else minimum, units=units, **more)  # type: ignore[arg-type]


def seats(asked: Group, room: Toy) -> dict[str, list[tuple[str, int, int]]] | Short:
    found = place(asked, tuple(sorted(room.free)), room)
    if isinstance(found, Short):
        return found
    assert isinstance(found, Seated)
    return {
        node: [(m.leaf, m.shape, m.count) for m in found.moves if m.node == node]
        for node in sorted({m.node for m in found.moves})
    }


def test_more_than_a_node_serves_as_well_as_one_come_to_it_only_when_all_nodes_have_so_many() -> None:
    room = Toy(choosy=(1,), a=3, b=4, c=5)
    assert seats(group(*[1] * 4), room) == {"a": [("", 1, 1)], "b": [("", 1, 2)], "c": [("", 1, 1)]}
    assert seats(group(*[1] * 7), room) == {"a": [("", 1, 3)], "b": [("", 1, 2)], "c": [("", 1, 2)]}
    assert isinstance(seats(group(*[1] * 13), room), Short)


def test_of_the_domains_of_a_level_the_one_is_taken_that_pods_like_best_not_the_tightest() -> None:
    asked = group(1, 1, 1, steps=(RACK,), required=RACK)
    room = Toy(choosy=(1,), a0=3, b0=4, c0=6, d0=8)
    assert seats(asked, room) == {"c0": [("", 1, 3)]}
    assert seats(asked, Toy(a0=3, b0=4, c0=6, d0=8)) == {"a0": [("", 1, 3)]}
    assert seats(replace(asked, near=frozenset({"b0"})), room) == {"b0": [("", 1, 3)]}, "where the group is already"


def test_each_pod_goes_where_the_least_is_left_over() -> None:
    assert seats(group(2, 2), Toy(a=8, b=3, c=2)) == {"b": [("", 2, 1)], "c": [("", 2, 1)]}


def test_the_hardest_go_first() -> None:
    assert seats(group(1, 4), Toy(a=4, b=1)) == {"a": [("", 4, 1)], "b": [("", 1, 1)]}


def test_what_does_not_fit_whole_takes_nothing_and_says_how_far_it_got() -> None:
    assert seats(group(2, 2, 2), Toy(a=3, b=2)) == Short(
        placeable=2, shape=2, nodes=("a", "b"), seats=(("a", ((2, 1),)), ("b", ((2, 1),))), certain=True
    )


def test_all_pods_that_find_room_at_once_are_counted_not_only_those_before_the_first_that_does_not() -> None:
    short = seats(group(8, 1, 1, 1), Toy(a=2, b=1))
    assert isinstance(short, Short)
    assert (short.placeable, short.shape) == (3, 8)


def test_pods_of_later_sub_groups_are_counted_as_well() -> None:
    children = (group(8, name="x"), group(1, 1, name="y"))
    short = seats(Group(name="", minimum=2, children=children), Toy(a=2, b=1))
    assert isinstance(short, Short)
    assert (short.placeable, short.shape) == (2, 8)


def test_why_not_is_told_of_the_domain_that_came_closest_and_of_its_nodes_alone() -> None:
    short = seats(group(2, 2, 2, steps=(RACK,), required=RACK), Toy(a0=2, a1=1, b0=2, b1=2, c0=1))
    assert isinstance(short, Short)
    assert (short.placeable, short.domain, short.nodes) == (2, "b", ("b0", "b1"))


def test_a_domain_that_is_only_preferred_is_not_the_reason() -> None:
    short = seats(group(2, 2, 2, steps=(RACK,)), Toy(a0=2, a1=2, b0=1))
    assert isinstance(short, Short)
    assert (short.domain, short.nodes) == ("", ("a0", "a1", "b0"))


def test_where_no_node_is_in_a_domain_of_the_required_level_that_is_the_reason() -> None:
    """The sub-group would have to be in a pod, and no node of the racks is in one."""
    children = (group(3, name="x", steps=(POD,), required=POD), group(2, name="y"))
    short = seats(Group(name="", minimum=2, children=children, steps=(RACK,), required=RACK), Toy(a0=8, b0=9))
    assert isinstance(short, Short)
    assert (short.placeable, short.shape, short.domain, short.outside) == (1, 3, "a", POD)


def test_pods_of_two_kinds_leave_the_answer_open() -> None:
    short = seats(group(3, 3, 2), Toy(a=4, b=4))
    assert isinstance(short, Short)
    assert not short.certain


def test_the_tightest_rack_that_holds_all_is_taken() -> None:
    bound = group(2, 2, steps=(RACK,), required=RACK)
    assert list(seats(bound, Toy(a0=4, a1=4, b0=2, b1=2))) == ["b0", "b1"]
    assert list(seats(bound, Toy(a0=4, a1=4, b0=2, c0=2))) == ["a0"]


def test_a_rack_that_holds_pods_already_goes_before_a_tighter_one() -> None:
    near = group(2, steps=(RACK,), near=frozenset({"a0"}))
    assert list(seats(near, Toy(a0=8, b0=2))) == ["a0"]


def test_a_pinned_group_stays_where_it_is_or_waits() -> None:
    pinned = group(2, 2, steps=(RACK,), required=RACK, pinned="b")
    short = seats(pinned, Toy(a0=8, b0=3))
    assert isinstance(short, Short)
    assert (short.placeable, short.domain) == (1, "b")


def test_where_no_rack_is_required_anywhere_is_the_last_resort() -> None:
    assert list(seats(group(2, 2, steps=(RACK,)), Toy(a0=3, b0=3))) == ["a0", "b0"]


def test_leaves_of_one_shape_are_told_apart() -> None:
    """Two sub-groups of equal pods, each in a rack of its own."""
    children = tuple(group(2, 2, name=name, steps=(RACK,), required=RACK) for name in ("x", "y"))
    placed = seats(Group(name="", minimum=2, children=children), Toy(a0=4, b0=4))
    assert placed == {"a0": [("x", 2, 2)], "b0": [("y", 2, 2)]}


def test_of_optional_groups_the_first_that_fit_are_taken() -> None:
    children = (group(8, name="x"), group(2, name="y"), group(2, name="z"))
    assert seats(Group(name="", minimum=2, children=children), Toy(a=4)) == {"a": [("y", 2, 1), ("z", 2, 1)]}


def test_a_leaf_takes_no_more_units_than_its_minimum() -> None:
    assert seats(group(1, 1, 1, 1, minimum=2), Toy(a=4)) == {"a": [("", 1, 2)]}


def test_a_bundle_counts_all_its_pods() -> None:
    bundles = Group(name="", minimum=4, units=(Unit(shape=2, pods=2), Unit(shape=2, pods=2), Unit(shape=2, pods=2)))
    assert seats(bundles, Toy(a=8)) == {"a": [("", 2, 2)]}


def test_pods_that_keep_away_from_each_other_are_seated_one_by_one() -> None:
    assert seats(group(2, 2), Toy(shy=(2,), a1=4, a2=8)) == {"a1": [("", 2, 1)], "a2": [("", 2, 1)]}
    short = seats(group(2, 2, 2), Toy(shy=(2,), a1=4, a2=8))
    assert isinstance(short, Short)
    assert (short.placeable, short.shape, short.certain) == (2, 2, False)


def test_a_pod_that_misses_its_company_is_tried_again_when_others_have_come() -> None:
    """The larger one goes first, and finds nobody."""
    assert seats(group(1, 4), Toy(needy=(4,), a1=5, a2=8)) == {"a1": [("", 1, 1), ("", 4, 1)]}
