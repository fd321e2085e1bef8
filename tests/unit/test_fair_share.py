from dataclasses import replace
from fractions import Fraction

import pytest

from queues.fair_share import divide, usable
from queues.resources import Resources
from queues.tree import WHOLE, Queue, QueueResource, QueueTree
from queues.usage import CLUSTER, Usage, later

HOUR = 3_600_000


def gpus(count: float) -> Resources:
    return Resources({"gpu": round(count * 1000)})


def queue(name: str, *, quota: int = 0, limit: float | None = None, weight: int = 1, **more: object) -> Queue:
    rule = QueueResource(quota=quota * 1000, limit=None if limit is None else round(limit * 1000), weight=weight)
    return Queue(name=name, resources={"gpu": rule}, **more)  # type: ignore[arg-type]


def shares(pool: float, queues: list[Queue], usage: Usage | None = None, **asks: float) -> dict[str, float]:
    asked = {name: gpus(count) for name, count in asks.items()}
    divided = divide(gpus(pool), QueueTree.of(queues), asked, *([usage] if usage else []))
    return {name: share["gpu"] / 1000 for name, share in divided.items()}


def test_a_quota_is_served_before_anything_is_shared():
    assert shares(10, [queue("a", quota=6), queue("b", weight=9)], a=6, b=10) == {"a": 6, "b": 4}


def test_a_quota_that_nobody_asks_for_flows_to_the_others():
    assert shares(10, [queue("a", quota=6), queue("b")], a=2, b=10) == {"a": 2, "b": 8}


def test_quotas_beyond_the_pool_are_promised_all_the_same_and_nothing_is_left_to_share():
    assert shares(6, [queue("a", quota=5), queue("b", quota=5), queue("c")], a=9, b=9, c=9) == {"a": 5, "b": 5, "c": 0}


def test_a_quota_of_all_there_is_means_the_pool():
    everything = Queue(name="a", resources={"gpu": QueueResource(quota=WHOLE)})
    assert shares(6, [everything, queue("b")], a=9, b=9) == {"a": 6, "b": 0}


def test_what_is_left_goes_by_weight():
    assert shares(12, [queue("a", weight=2), queue("b")], a=20, b=20) == {"a": 8, "b": 4}


def test_what_one_queue_leaves_is_offered_again():
    assert shares(12, [queue("a"), queue("b"), queue("c")], a=1, b=20, c=20) == {"a": 1, "b": 6, "c": 5}


def test_a_higher_priority_is_served_to_the_last_gpu_before_any_weight_below_it():
    queues = [queue("a", priority=101), queue("b", priority=101), queue("c", weight=100)]
    assert shares(5, queues, a=9, b=9, c=9) == {"a": 3, "b": 2, "c": 0}
    assert shares(5, queues, a=1, b=2, c=9) == {"a": 1, "b": 2, "c": 2}


def test_a_weight_of_zero_gets_its_quota_and_no_more():
    assert shares(9, [queue("a", quota=2, weight=0), queue("b")], a=9, b=1) == {"a": 2, "b": 1}


def test_a_limit_caps_the_share_and_even_the_quota():
    assert shares(9, [queue("a", limit=3), queue("b", quota=4, limit=2)], a=9, b=9) == {"a": 3, "b": 2}


def test_gpus_are_handed_out_whole_and_the_rest_to_the_largest_fraction():
    assert shares(10, [queue("a", weight=3), queue("b", weight=3), queue("c")], a=20, b=20, c=20) == {
        "a": 4,
        "b": 4,
        "c": 2,
    }


def test_equal_fractions_go_to_the_older_queue_and_then_by_name():
    assert shares(1, [queue("a", created_ms=9), queue("b", created_ms=1)], a=5, b=5) == {"a": 0, "b": 1}
    assert shares(1, [queue("b"), queue("a")], a=5, b=5) == {"a": 1, "b": 0}


def test_a_fraction_asked_for_is_given_exactly_and_never_rounded_above_the_ask():
    assert shares(4, [queue("a"), queue("b")], a=0.5, b=9) == {"a": 0.5, "b": 3.5}
    assert shares(1, [queue("a"), queue("b"), queue("c")], a=0.4, b=0.4, c=0.4) == {"a": 0.4, "b": 0.4, "c": 0.2}


def test_cpu_and_memory_are_divided_to_the_last_unit():
    tree = QueueTree.of([Queue(name="a"), Queue(name="b"), Queue(name="c")])
    pool = Resources({"cpu": 1000, "memory": 100})
    divided = divide(pool, tree, dict.fromkeys("abc", Resources({"cpu": 9999, "memory": 999})))
    assert [divided[name]["cpu"] for name in "abc"] == [334, 333, 333]
    assert [divided[name]["memory"] for name in "abc"] == [34, 33, 33]


def test_a_device_class_is_divided_like_gpus_in_whole_devices():
    tree = QueueTree.of([Queue(name="a"), Queue(name="b")])
    divided = divide(
        Resources({"deviceclass/h100": 3000}), tree, dict.fromkeys("ab", Resources({"deviceclass/h100": 9000}))
    )
    assert [divided[name]["deviceclass/h100"] for name in "ab"] == [2000, 1000]


def test_what_devices_amount_to_is_divided_to_the_last_unit():
    tree = QueueTree.of([Queue(name="a"), Queue(name="b")])
    name = "memory.deviceclass/h100"
    divided = divide(Resources({name: 3001}), tree, dict.fromkeys("ab", Resources({name: 9000})))
    assert [divided[queue][name] for queue in "ab"] == [1501, 1500]


def test_the_share_of_a_department_is_divided_among_its_queues():
    queues = [
        queue("d1", weight=2),
        queue("d2"),
        queue("a", parent="d1", quota=3),
        queue("b", parent="d1"),
        queue("c", parent="d2"),
    ]
    assert shares(12, queues, a=9, b=9, c=9) == {"d1": 8, "d2": 4, "a": 6, "b": 2, "c": 4}


def test_a_department_asks_for_no_more_than_its_queues_can_use():
    queues = [queue("d"), queue("capped", parent="d", limit=2), queue("other")]
    assert shares(12, queues, capped=50, other=50) == {"d": 2, "capped": 2, "other": 10}


def test_the_limit_of_a_department_caps_what_its_queues_can_use():
    tree = QueueTree.of([queue("d", limit=3), queue("a", parent="d"), queue("b", parent="d")])
    assert usable(tree, {"a": gpus(2), "b": gpus(2)})["d"] == gpus(3)


def test_queues_that_cannot_be_used_get_no_share_and_take_none():
    tree = QueueTree.of([queue("a"), queue("lost", parent="gone")])
    assert divide(gpus(4), tree, {"a": gpus(9), "lost": gpus(9)}) == {"a": gpus(4)}


def used(**parts: float) -> Usage:
    return Usage(parts={name: {"gpu": round(part * CLUSTER)} for name, part in parts.items()})


def test_who_used_more_in_the_past_is_offered_less():
    usage = used(a=0.75, b=0.25)
    assert shares(8, [queue("a"), queue("b")], usage, a=9, b=9) == {"a": 2, "b": 6}
    ignored = replace(usage, strength=Fraction(0))
    assert shares(8, [queue("a"), queue("b")], ignored, a=9, b=9) == {"a": 4, "b": 4}


def test_the_past_never_takes_a_quota():
    assert shares(8, [queue("a", quota=4), queue("b")], used(a=1), a=9, b=9) == {"a": 4, "b": 4}


def test_the_past_keeps_nothing_back_from_those_who_have_used_too_much_when_nobody_else_wants_it():
    assert shares(8, [queue("a"), queue("b")], used(a=1), a=9) == {"a": 8, "b": 0}
    assert shares(8, [queue("a"), queue("b")], used(a=1, b=1), a=9, b=9) == {"a": 4, "b": 4}


def test_recorded_use_beyond_all_there_is_counts_as_all_there_is():
    assert shares(8, [queue("a"), queue("b")], used(a=50, b=-3), a=9, b=9) == {"a": 0, "b": 8}


def test_who_had_the_cluster_for_himself_gets_less_until_that_is_made_good_and_then_as_much_as_others():
    """Hour by hour both use what they are given: in the long run each has had half."""
    half_life = 24
    past = {"a": {"gpu": CLUSTER}, "b": {}}
    given = []
    for _ in range(20 * half_life):
        now = shares(8, [queue("a"), queue("b")], Usage(parts=past), a=9, b=9)
        given.append(now["a"])
        for name in past:
            past[name] = later(past[name], {"gpu": round(now[name]) * CLUSTER // 8}, HOUR, half_life * HOUR)
    assert given[0] == 0
    assert given[-2:].count(4) == 2
    assert past["a"]["gpu"] == pytest.approx(CLUSTER / 2, rel=0.1)
