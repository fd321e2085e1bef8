import itertools

from queues.reasons import QueueDoesNotExist, QueueIsNoLeaf, QueueUnusable
from queues.resources import Resources
from queues.tree import Queue, QueueTree


def tree(**parents: str | None) -> QueueTree:
    return QueueTree.of(Queue(name=name, parent=parent) for name, parent in parents.items())


def test_only_leaves_take_workloads():
    found = tree(top=None, a="top", b="top")
    assert found.leaves == ("a", "b")
    assert found.leaf("a") == Queue(name="a", parent="top")
    assert found.leaf("top") == QueueIsNoLeaf(queue="top", children=("a", "b"))
    assert found.leaf("c") == QueueDoesNotExist(queue="c")


def test_ancestors_run_from_the_queue_itself_to_the_top():
    found = tree(top=None, middle="top", leaf="middle")
    assert [queue.name for queue in found.ancestors("leaf")] == ["leaf", "middle", "top"]


def test_amounts_of_leaves_add_up_at_every_level():
    found = tree(top=None, left="top", a="left", b="left", c="top")
    sums = found.roll_up({"a": Resources({"gpu": 1000}), "b": Resources({"gpu": 2000}), "c": Resources({"cpu": 500})})
    assert sums == {
        "a": Resources({"gpu": 1000}),
        "b": Resources({"gpu": 2000}),
        "c": Resources({"cpu": 500}),
        "left": Resources({"gpu": 3000}),
        "top": Resources({"gpu": 3000, "cpu": 500}),
    }


def test_a_queue_under_a_missing_parent_is_refused_and_so_is_all_below_it_but_nothing_else():
    found = tree(good=None, orphan="gone", below="orphan", lowest="below")
    assert list(found.queues) == ["good"]
    assert found.leaf("orphan") == QueueUnusable(
        queue="orphan",
        why="its parent queue gone does not exist",
        remedy="Create Queue gone, or correct spec.parentQueue of Queue orphan.",
    )
    assert found.problems["lowest"] == QueueUnusable(
        queue="lowest", why="its parent queue below cannot be used", remedy=found.problems["orphan"].remedy
    )


def test_every_queue_of_a_cycle_says_so_and_what_hangs_on_it_too():
    found = tree(a="c", b="a", c="b", hanging="b", good=None)
    assert list(found.queues) == ["good"]
    assert {found.problems[name].why for name in "abc"} == {"its parents form a cycle, a -> c -> b -> a"}
    assert found.problems["hanging"].why == "its parent queue b cannot be used"


def test_a_queue_that_is_its_own_parent_is_a_cycle():
    problem = tree(a="a").problems["a"]
    assert problem.why == "its parents form a cycle, a -> a"
    assert problem.remedy == "Remove spec.parentQueue of Queue a."


def test_the_leaves_to_name_instead_are_told_as_one_or_many():
    assert QueueIsNoLeaf(queue="top", children=("a",)).cure == "Name a leaf queue below it; its only child is a."
    assert QueueIsNoLeaf(queue="top", children=("a", "b")).cure == "Name a leaf queue below it; its children are a, b."


def test_two_queues_of_one_name_are_both_refused():
    found = QueueTree.of([Queue(name="a", created_ms=1), Queue(name="a", created_ms=2), Queue(name="b")])
    assert found.problems["a"].why == "more than one queue has this name"
    assert found.leaves == ("b",)


def test_the_order_of_the_input_does_not_matter():
    queues = [
        Queue(name="a", parent="b"),
        Queue(name="b", parent="a"),
        Queue(name="c", parent="a"),
        Queue(name="d"),
        Queue(name="e", parent="d"),
    ]
    trees = [QueueTree.of(order) for order in itertools.permutations(queues)]
    assert all(found == trees[0] and list(found.problems) == ["a", "b", "c"] for found in trees)


def test_parents_come_before_children_top_down_and_after_them_bottom_up():
    found = tree(z=None, a="z", m="a", b="z")
    assert found.top_down() == ("z", "a", "m", "b")
    assert found.bottom_up() == ("b", "m", "a", "z")


def test_a_chain_of_thousands_needs_no_recursion():
    chain = {f"q{i}": (f"q{i - 1}" if i else None) for i in range(3000)}
    found = tree(**chain)
    assert found.leaves == ("q2999",)
    assert found.roll_up({"q2999": Resources({"gpu": 1})})["q0"] == Resources({"gpu": 1})
