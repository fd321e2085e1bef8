from queues.limits import may_start, under_quota, within_quota
from queues.reasons import OverLimit, OverQuota
from queues.resources import Resources
from queues.tree import WHOLE, Queue, QueueResource, QueueTree

GPUS = {"gpu": QueueResource(quota=4000, limit=8000)}


def gpus(count: int, **more: int) -> Resources:
    return Resources({"gpu": count * 1000, **more})


def test_the_limit_binds_at_the_leaf():
    tree = QueueTree.of([Queue(name="a", resources=GPUS)])
    assert may_start(tree, "a", gpus(3), {"a": gpus(5)}, {}, True) is None
    assert may_start(tree, "a", gpus(4), {"a": gpus(5)}, {}, True) == OverLimit(
        queue="a", resource="gpu", asked=4000, allocated=5000, limit=8000
    )


def test_the_limit_binds_at_every_queue_above():
    tree = QueueTree.of(
        [Queue(name="top", resources=GPUS), Queue(name="mid", parent="top"), Queue(name="a", parent="mid")]
    )
    refusal = may_start(tree, "a", gpus(2), {"top": gpus(7)}, {}, True)
    assert refusal == OverLimit(queue="top", resource="gpu", asked=2000, allocated=7000, limit=8000)


def test_what_is_not_asked_for_refuses_nothing_even_past_its_limit():
    tree = QueueTree.of([Queue(name="a", resources={"gpu": QueueResource(limit=0), "cpu": QueueResource(limit=1000)})])
    assert may_start(tree, "a", Resources({"cpu": 500}), {"a": gpus(3)}, {}, True) is None


def test_a_limit_of_zero_is_a_limit_and_none_is_not():
    closed = QueueTree.of([Queue(name="a", resources={"gpu": QueueResource(limit=0)})])
    assert isinstance(may_start(closed, "a", gpus(1), {}, {}, True), OverLimit)
    assert may_start(QueueTree.of([Queue(name="a")]), "a", gpus(1000), {}, {}, True) is None


def test_work_that_cannot_be_preempted_stays_within_the_quota_of_every_queue_above():
    tree = QueueTree.of(
        [Queue(name="top", resources={"gpu": QueueResource(quota=6000)}), Queue(name="a", parent="top", resources=GPUS)]
    )
    held = {"a": gpus(1), "top": gpus(4)}
    assert may_start(tree, "a", gpus(2), held, held, False) is None
    assert may_start(tree, "a", gpus(3), held, held, False) == OverQuota(
        queue="top", resource="gpu", asked=3000, allocated=4000, quota=6000
    )
    assert may_start(tree, "a", gpus(4), held, held, True) is None


def test_only_work_of_its_own_kind_uses_up_the_quota_of_what_cannot_be_preempted():
    tree = QueueTree.of([Queue(name="a", resources=GPUS)])
    assert may_start(tree, "a", gpus(4), {"a": gpus(4)}, {}, False) is None


def test_a_queue_with_a_quota_for_gpus_need_not_state_one_for_cpu():
    tree = QueueTree.of([Queue(name="a", resources=GPUS)])
    assert may_start(tree, "a", gpus(2, cpu=64_000), {}, {}, False) is None


def test_a_queue_with_a_quota_for_cpu_alone_guarantees_no_device():
    queue = Queue(name="a", resources={"cpu": QueueResource(quota=64_000)})
    asked = gpus(1, cpu=1000)
    assert under_quota(queue, asked) == ("cpu", "gpu")
    assert may_start(QueueTree.of([queue]), "a", asked, {}, {}, False) == OverQuota(
        queue="a", resource="gpu", asked=1000, allocated=0, quota=0
    )


def test_a_queue_without_quota_takes_only_what_can_be_preempted():
    tree = QueueTree.of([Queue(name="a")])
    assert isinstance(may_start(tree, "a", Resources({"cpu": 1}), {}, {}, False), OverQuota)
    assert may_start(tree, "a", Resources({"cpu": 1}), {}, {}, True) is None


def test_a_quota_by_device_class_covers_work_that_asks_for_that_class():
    queue = Queue(name="a", resources={"deviceclass/h100": QueueResource(quota=2000)})
    asked = Resources({"gpu": 2000, "deviceclass/h100": 2000})
    assert within_quota(queue, asked, Resources())
    assert not within_quota(queue, asked, Resources({"deviceclass/h100": 1000}))


def test_a_quota_for_the_memory_of_devices_covers_work_that_asks_for_these_devices():
    queue = Queue(name="a", resources={"memory.deviceclass/mig": QueueResource(quota=80)})
    asked = Resources({"gpu": 428, "deviceclass/mig": 1000, "memory.deviceclass/mig": 40, "cpu": 1000})
    assert under_quota(queue, asked) == ("memory.deviceclass/mig",)
    assert under_quota(Queue(name="b", resources={"cpu": QueueResource(quota=1000)}), asked) == tuple(asked)


def test_a_quota_of_all_there_is_never_refuses():
    tree = QueueTree.of([Queue(name="a", resources={"gpu": QueueResource(quota=WHOLE)})])
    assert may_start(tree, "a", gpus(10**6), {"a": gpus(10**6)}, {"a": gpus(10**6)}, False) is None
