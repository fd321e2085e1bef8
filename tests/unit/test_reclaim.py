"""Who may take back from whom, and how long who runs is safe: the rules of queues alone."""

import pytest

from queues.fair_share import divide
from queues.reclaim import contested, deciding, losing, spare, surplus, under_served, within_quota_everywhere
from queues.resources import Resources
from queues.runtimes import min_runtime_ms
from queues.tree import WHOLE, Queue, QueueResource, QueueTree


def gpus(count: float) -> Resources:
    return Resources({"gpu": int(count * 1000)})


def queue(name: str, parent: str | None = None, *, quota: float = 0, **more: int) -> Queue:
    return Queue(name=name, parent=parent, resources={"gpu": QueueResource(quota=int(quota * 1000))}, **more)


TREE = QueueTree.of(
    [queue("left"), queue("right"), queue("a", "left", quota=2), queue("b", "left"), queue("c", "right")]
)


def rolled_up(**amounts: float) -> dict[str, Resources]:
    return TREE.roll_up({name: gpus(count) for name, count in amounts.items()})


def test_a_resource_is_contested_where_somebody_could_use_more_than_his_share():
    pool, asks = gpus(4), {"a": gpus(3), "c": gpus(3)}
    assert contested(pool, TREE, asks, divide(pool, TREE, asks)) == {"gpu"}
    enough = {"a": gpus(2), "c": gpus(2)}
    assert contested(pool, TREE, enough, divide(pool, TREE, enough)) == frozenset()


def test_what_is_not_divided_among_queues_is_not_contested():
    pool, asks = gpus(4), {"a": Resources({"deviceclass/x": 9000})}
    assert contested(pool, TREE, asks, divide(pool, TREE, asks)) == frozenset()


def test_who_would_go_beyond_its_share_is_not_under_served_nor_is_who_asks_for_nothing_contested():
    shares = {"a": gpus(2)}
    assert under_served("a", gpus(1), shares, rolled_up(a=1))
    assert not under_served("a", gpus(1.5), shares, rolled_up(a=1))
    assert not under_served("a", Resources(), shares, rolled_up())


def test_a_queue_may_lose_what_it_has_above_its_share_and_above_its_quota():
    shares = {"left": gpus(2), "right": gpus(2), "a": gpus(1), "b": gpus(1), "c": gpus(2)}
    most = spare(TREE, "c", gpus(1), shares, rolled_up(a=3, b=2))
    assert most == {"left": {"gpu": 3000}, "a": {"gpu": 1000}, "b": {"gpu": 1000}}, "a has a quota of 2"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"gpu": 1000, "cpu": 60_000, "deviceclass/x": 1000}, {"gpu", "deviceclass/x"}),
        ({"cpu": 1000, "memory": 3}, {"memory"}),
        ({"cpu": 2000, "memory": 2}, {"cpu"}),
        ({}, set()),
    ],
)
def test_devices_decide_and_without_them_what_the_largest_part_is_asked_of(asked: dict[str, int], expected: set[str]):
    pool = Resources({"gpu": 8000, "cpu": 100_000, "memory": 100, "deviceclass/x": 8000})
    assert deciding(pool, Resources(asked)) == expected


def test_what_goes_along_is_lost_down_to_the_quota_by_who_may_lose_what_decides():
    rules = {"gpu": QueueResource(quota=WHOLE), "cpu": QueueResource(quota=4)}
    tree = QueueTree.of([Queue(name="x", resources=rules), Queue(name="y")])
    asked, shares = Resources({"gpu": 1, "cpu": 1}), {"x": Resources({"gpu": 2000, "cpu": 30}), "y": Resources()}
    over, level = ({"x": Resources({"gpu": has, "cpu": 20})} for has in (3000, 2000))
    assert spare(tree, "y", asked, shares, over, {"gpu"}) == {"x": {"gpu": 1000, "cpu": 16}}
    assert spare(tree, "y", asked, shares, level, {"gpu"}) == {"x": {"gpu": 0, "cpu": 0}}


def test_those_above_who_takes_lose_nothing():
    assert set(spare(TREE, "b", gpus(1), dict.fromkeys(TREE.queues, gpus(0)), rolled_up(a=3))) == {"right", "a", "c"}


def test_a_quota_of_all_there_is_guarantees_nothing_where_the_queue_is_over_its_share_of_something_else():
    everything = QueueResource(quota=WHOLE)
    tree = QueueTree.of([Queue(name="x", resources={"cpu": everything}), Queue(name="y")])
    shares = {"x": Resources({"cpu": 5, "gpu": 1000}), "y": Resources()}
    has = {"x": Resources({"cpu": 5, "gpu": 3000})}
    assert spare(tree, "y", Resources({"cpu": 1, "gpu": 1000}), shares, has) == {"x": {"gpu": 2000}}
    level = {"x": Resources({"cpu": 5, "gpu": 1000})}
    assert spare(tree, "y", Resources({"cpu": 1, "gpu": 1000}), shares, level) == {"x": {"cpu": 0, "gpu": 0}}


def test_a_queue_above_that_goes_beyond_its_share_has_to_lose_as_much_itself():
    shares = dict.fromkeys(TREE.queues, gpus(2))
    assert surplus(TREE, "b", gpus(1), shares, rolled_up(a=2)) == {"left": gpus(1)}
    assert surplus(TREE, "b", gpus(1), shares, rolled_up(a=1)) == {"left": Resources()}


def test_the_queues_that_lose_stand_below_the_first_that_both_stand_under():
    assert [each.name for each in losing(TREE, "a", "b")] == ["a"]
    assert [each.name for each in losing(TREE, "a", "c")] == ["a", "left"]


def test_what_cannot_be_preempted_needs_quota_at_every_level():
    tree = QueueTree.of([queue("top", quota=1), queue("leaf", "top", quota=2)])
    assert within_quota_everywhere(tree, "leaf", gpus(1), {})
    assert not within_quota_everywhere(tree, "leaf", gpus(2), {})
    assert not within_quota_everywhere(tree, "leaf", gpus(1), {"top": gpus(1), "leaf": gpus(0)})


@pytest.mark.parametrize(("reclaim", "expected"), [(False, 7), (True, 30)])
def test_least_times_are_those_of_the_leaf_or_of_the_side_that_loses(reclaim: bool, expected: int):
    """KAI: preemption asks the victim's queue and then those above, reclaim the one below the common ancestor."""
    tree = QueueTree.of(
        [
            queue("left", reclaim_min_runtime_ms=30, preempt_min_runtime_ms=9),
            queue("a", "left", reclaim_min_runtime_ms=5, preempt_min_runtime_ms=7),
            queue("right"),
            queue("c", "right"),
        ]
    )
    assert min_runtime_ms(tree, "a", "c", reclaim=reclaim) == expected


def test_without_least_times_nobody_is_safe():
    assert min_runtime_ms(TREE, "a", "c", reclaim=True) == 0
