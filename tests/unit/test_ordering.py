import random

import pytest

from queues.ordering import Picker, Waiting
from queues.resources import NOTHING, Resources
from queues.tree import Queue, QueueResource, QueueTree


def gpus(count: float) -> Resources:
    return Resources({"gpu": round(count * 1000)})


def wants(key: str, queue: str, count: float = 1, **more: int) -> Waiting:
    return Waiting(key=key, queue=queue, asked=gpus(count), **more)


def quota(count: int) -> dict[str, QueueResource]:
    return {"gpu": QueueResource(quota=count * 1000)}


def serve(picker: Picker) -> list[str]:
    """The order when everything asked for is given."""
    order = []
    while (gang := picker.next()) is not None:
        picker.charge(gang.queue, gang.asked)
        order.append(gang.key)
    return order


def served(queues: list[Queue], waiting: list[Waiting], shares: dict[str, Resources], **held: Resources) -> list[str]:
    tree = QueueTree.of(queues)
    return serve(Picker(tree, waiting, shares, tree.roll_up(held)))


def test_within_a_queue_priority_then_missing_minimum_then_just_the_minimum_then_age_then_name():
    waiting = [
        wants("x/late", "q", created_ms=9),
        wants("x/b", "q", created_ms=5),
        wants("x/a", "q", created_ms=5),
        wants("x/grown", "q", created_ms=1, reach=2),
        wants("x/grows", "q", created_ms=2, reach=1),
        wants("x/urgent", "q", created_ms=99, priority=10),
    ]
    order = served([Queue(name="q")], waiting, {"q": gpus(9)})
    assert order == ["x/urgent", "x/a", "x/b", "x/late", "x/grows", "x/grown"]


def test_what_waiting_adds_counts_like_priority_until_the_gang_has_its_minimum():
    tree = QueueTree.of([Queue(name="q")])
    gangs = [
        Waiting(key="high", queue="q", asked=NOTHING, priority=9),
        Waiting(key="waited", queue="q", asked=NOTHING, priority=1, lift=9),
        Waiting(key="grows", queue="q", asked=NOTHING, priority=1, lift=9, reach=1),
    ]
    picker = Picker(tree, gangs, {}, {})
    assert [gang.key for gang in iter(picker.next, None)] == ["waited", "high", "grows"]


def test_a_queue_within_its_quota_goes_before_one_beyond_it_whatever_its_priority():
    queues = [Queue(name="a", priority=200), Queue(name="b", resources=quota(2))]
    waiting = [wants("x/a", "a"), wants("x/b1", "b"), wants("x/b2", "b"), wants("x/b3", "b")]
    assert served(queues, waiting, {"a": gpus(9), "b": gpus(9)}) == ["x/b1", "x/b2", "x/a", "x/b3"]


def test_a_gang_larger_than_the_rest_of_the_quota_does_not_count_as_within_it():
    queues = [Queue(name="a", resources=quota(4)), Queue(name="b", resources=quota(4))]
    waiting = [wants("x/a", "a", 5), wants("x/b", "b", 4, created_ms=9)]
    assert served(queues, waiting, {"a": gpus(9), "b": gpus(9)}) == ["x/b", "x/a"]


def test_a_queue_over_its_fair_share_goes_last_whatever_its_priority():
    queues = [Queue(name="a", priority=200), Queue(name="b")]
    waiting = [wants("x/a", "a"), wants("x/b", "b")]
    assert served(queues, waiting, {"a": gpus(2), "b": gpus(2)}, a=gpus(3)) == ["x/b", "x/a"]
    assert served(queues, waiting, {"a": gpus(2), "b": gpus(2)}, a=gpus(2)) == ["x/a", "x/b"]


def test_the_queue_with_the_smaller_part_of_its_share_in_use_goes_first_so_that_they_grow_alike():
    queues = [Queue(name="a"), Queue(name="b")]
    waiting = [wants(f"x/{queue}{i}", queue, created_ms=i) for queue in "ab" for i in range(6)]
    shares = {"a": gpus(8), "b": gpus(4)}
    assert served(queues, waiting, shares)[:6] == ["x/a0", "x/b0", "x/a1", "x/a2", "x/b1", "x/a3"]


def test_a_queue_is_judged_with_the_gang_that_is_next_in_it():
    queues = [Queue(name="a"), Queue(name="b")]
    waiting = [wants("x/big", "a", 6), wants("x/small", "b", 1)]
    assert served(queues, waiting, {"a": gpus(8), "b": gpus(8)}) == ["x/small", "x/big"]


def test_between_equals_the_older_queue_goes_first_and_then_the_name_decides():
    queues = [Queue(name="b", created_ms=5), Queue(name="c", created_ms=1), Queue(name="a", created_ms=5)]
    waiting = [wants(f"x/{name}", name) for name in "abc"]
    assert served(queues, waiting, {name: gpus(2) for name in "abc"}) == ["x/c", "x/a", "x/b"]


def test_departments_are_compared_before_the_queues_below_them():
    queues = [
        Queue(name="d1"),
        Queue(name="d2"),
        Queue(name="a", parent="d1", resources=quota(8)),
        Queue(name="b", parent="d2"),
    ]
    shares = {"d1": gpus(4), "d2": gpus(4), "a": gpus(8), "b": gpus(4)}
    assert served(queues, [wants("x/a", "a"), wants("x/b", "b")], shares, a=gpus(4)) == ["x/b", "x/a"]


def test_what_nobody_has_a_share_of_compares_nothing():
    queues = [Queue(name="a"), Queue(name="b")]
    held = {"a": Resources({"gpu": 4000, "deviceclass/h100": 4000}), "b": Resources({"gpu": 3000})}
    waiting = [wants("x/a", "a"), wants("x/b", "b")]
    assert served(queues, waiting, {"a": gpus(16), "b": gpus(4)}, **held) == ["x/a", "x/b"]


def test_use_of_cpu_never_holds_back_a_gang_that_asks_for_gpus_only():
    queues = [Queue(name="a", priority=101), Queue(name="b")]
    waiting = [wants("x/a", "a"), wants("x/b", "b")]
    shares = {name: Resources({"gpu": 4000, "cpu": 1000}) for name in "ab"}
    assert served(queues, waiting, shares, a=Resources({"cpu": 9000}))[0] == "x/a"


def test_a_gang_that_was_not_placed_leaves_and_costs_nothing():
    tree = QueueTree.of([Queue(name="a"), Queue(name="b")])
    picker = Picker(tree, [wants("x/a", "a"), wants("x/b1", "b"), wants("x/b2", "b")], {}, {})
    assert [gang.key for _ in range(3) if (gang := picker.next())] == ["x/a", "x/b1", "x/b2"]
    assert picker.next() is None


def test_a_gang_comes_back_with_what_it_asks_next():
    tree = QueueTree.of([Queue(name="a")])
    picker = Picker(tree, [wants("x/grows", "a", 4), wants("x/other", "a", created_ms=7)], {"a": gpus(9)}, {})
    first = picker.next()
    assert first is not None
    picker.charge("a", first.asked)
    picker.put(wants("x/grows", "a", 1, reach=1))
    assert len(picker) == 2
    assert serve(picker) == ["x/other", "x/grows"]


def test_what_is_given_back_counts_no_more():
    tree = QueueTree.of([Queue(name="a"), Queue(name="b")])
    picker = Picker(tree, [wants("x/a", "a"), wants("x/b", "b")], {"a": gpus(2), "b": gpus(2)}, {"a": gpus(1)})
    picker.charge("a", NOTHING - gpus(1))
    assert serve(picker) == ["x/a", "x/b"]


def test_a_gang_in_a_queue_that_takes_no_work_is_a_mistake_of_the_caller():
    tree = QueueTree.of([Queue(name="top"), Queue(name="a", parent="top")])
    with pytest.raises(ValueError, match=r"x/g cannot wait in queue 'top': Queue top has child queues"):
        Picker(tree, [wants("x/g", "top")], {}, {})


def test_a_thousand_queues_and_the_order_of_the_input_does_not_matter():
    rng = random.Random(7)
    queues = [Queue(name=f"d{i}", priority=100 + i % 2) for i in range(40)]
    queues += [Queue(name=f"q{i}", parent=f"d{i % 40}", resources=quota(i % 3), created_ms=i % 7) for i in range(960)]
    waiting = [wants(f"x/{i}", f"q{rng.randrange(960)}", rng.randrange(1, 9), created_ms=i % 50) for i in range(3000)]
    shares = {queue.name: gpus(rng.randrange(40)) for queue in queues}
    order = served(queues, waiting, shares)
    rng.shuffle(queues)
    rng.shuffle(waiting)
    assert served(queues, waiting, shares) == order
    assert sorted(order) == sorted(gang.key for gang in waiting)
