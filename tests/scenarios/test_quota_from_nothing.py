"""Bad or changed input of queues: each has a defined outcome, and none makes quota out of nothing."""

from typing import Any

import pytest

from queues.reasons import NoQueueNamed, OverLimit, OverQuota, QueueUnusable
from scheduler.model.plan import Plan
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from scheduler.state.translate import snapshot
from tests.manifests import Document, change, merged, node, pod, pod_group, priority_class, queue, state

POLICY = Policy(stages=("allocate", "consolidate", "reclaim", "preempt"))
NODE = node("n1", gpus=8)


def decide(found: Snapshot) -> Plan:
    decided = plan(found)
    assert check(found, decided) == ()
    return decided


def seen(*documents: Document | list[Document]) -> Plan:
    return decide(snapshot(state(NODE, *documents), now_ms=0, policy=POLICY))


def runs(name: str, path: str, gpus: int, **more: Any) -> Document:
    """A pod on the node, placed under the queue at the end of `path`."""
    noted = {"tutti.scheduler/charged-queue": path}
    where = path.rpartition("/")[2]
    return pod(name, gpus=gpus, node="n1", phase="Running", queue=where, annotations=noted, **more)


def shares(decided: Plan) -> dict[str, int]:
    return {report.name: report.fair_share["gpu"] // 1000 for report in decided.queues}


def allocated(decided: Plan) -> dict[str, int]:
    return {report.name: report.allocated["gpu"] // 1000 for report in decided.queues}


def test_quotas_beyond_the_cluster_are_promised_all_and_nobody_takes_from_who_is_within_his() -> None:
    tree = (queue("red", gpu={"quota": 8}), queue("blue", gpu={"quota": 8}))
    decided = seen(*tree, runs("one", "red", 8), pod("two", gpus=8, queue="blue"))
    assert shares(decided) == {"red": 8, "blue": 8}
    assert (decided.placements, decided.evictions) == ((), ())


BEYOND = (queue("team", gpu={"quota": 2}), queue("red", "team", gpu={"quota": 8}), queue("blue", gpu={"quota": 6}))


def test_a_quota_beyond_that_of_the_queue_above_takes_nothing_back_for_it_beyond_the_share_above() -> None:
    others = [runs(f"b{number}", "blue", 1) for number in range(8)]
    greedy = seen(*BEYOND, others, pod("wants-all", gpus=8, queue="red"))
    assert (shares(greedy)["team"], shares(greedy)["red"]) == (2, 8)
    assert greedy.evictions == ()
    modest = seen(*BEYOND, others, pod("wants-two", gpus=2, queue="red"))
    assert len(modest.evictions) == 2


def test_a_quota_beyond_that_of_the_queue_above_protects_no_more_than_that() -> None:
    firm = pod_group("g", queue="red", preemptibility="non-preemptible")
    decided = seen(*BEYOND, firm, pod("three", gpus=3, group="g"))
    refused = decided.why("g")
    assert isinstance(refused, OverQuota)
    assert (refused.queue, refused.quota) == ("team", 2000)


@pytest.mark.parametrize(
    "gpu",
    [
        {"quota": "-1"},
        {"quota": -1},
        {"limit": "-1"},
        {"quota": "1e30"},
        {"limit": "9223372036854775808"},
        {"quota": "1e9999"},
        {"quota": "NaN"},
        {"overQuotaWeight": -1},
        {"overQuotaWeight": 10**18},
        {"quota": [8]},
    ],
    ids=str,
)
def test_amounts_that_are_none_stop_the_queue_and_only_that(gpu: dict[str, Any]) -> None:
    tree = (queue("team", gpu={"quota": 8}), queue("red", "team", gpu=gpu), queue("blue", "team"))
    decided = seen(*tree, pod("one", gpus=1, queue="red"), pod("two", gpus=1, queue="blue"))
    assert [placement.pod for placement in decided.placements] == ["a/two"]
    assert isinstance(decided.why("one"), QueueUnusable)
    assert shares(decided) == {"team": 1, "blue": 1}


def test_the_largest_amounts_overflow_nowhere_and_mean_all_there_is() -> None:
    much = {"quota": "9223372036854775", "limit": "9223372036854775", "overQuotaWeight": 1_000_000}
    memory = {"quota": "9223372036854775807"}
    tree = (queue("team", gpu=much, memory=memory), queue("red", "team", gpu=much, memory=memory))
    decided = seen(*tree, pod("one", gpus=8, queue="red"), pod("two", gpus=8, queue="red"))
    assert shares(decided) == {"team": 8, "red": 8}
    assert len(decided.placements) == 1


def test_a_limit_below_the_quota_binds_what_cannot_be_preempted_too() -> None:
    firm = pod_group("g", queue="red", preemptibility="non-preemptible")
    decided = seen(queue("red", gpu={"quota": 8, "limit": 2}), firm, pod("three", gpus=3, group="g"))
    assert isinstance(decided.why("g"), OverLimit)
    assert shares(decided) == {"red": 2}


def test_a_queue_that_is_moved_takes_what_it_has_along_and_nobody_is_stopped_for_it() -> None:
    tree = (queue("a", gpu={"limit": 4}), queue("b", gpu={"limit": 4}), queue("c", "b"))
    found = state(NODE, *tree, queue("red", "a"), runs("one", "a/red", 4), pod("two", gpus=1, queue="c"))
    before = decide(snapshot(found, now_ms=0, policy=POLICY))
    assert allocated(before) == {"a": 4, "b": 1, "c": 1, "red": 4}
    found.apply(change(merged(queue("red", "b"), metadata={"uid": "red-uid"}), "MODIFIED"))
    after = decide(snapshot(found, now_ms=0, policy=POLICY))
    assert allocated(after) == {"a": 0, "b": 4, "c": 0, "red": 4}
    assert after.evictions == ()
    refused = after.why("two")
    assert isinstance(refused, OverLimit)
    assert refused.queue == "b"


def test_without_weight_a_queue_uses_what_is_free_and_gives_it_back_to_who_has_weight() -> None:
    tree = (queue("red", gpu={"overQuotaWeight": 0}), queue("blue"))
    alone = seen(*tree, pod("one", gpus=8, queue="red"))
    assert len(alone.placements) == 1
    decided = seen(*tree, runs("one", "red", 8), pod("two", gpus=8, queue="blue"))
    assert shares(decided) == {"red": 0, "blue": 8}
    assert [eviction.pod for eviction in decided.evictions] == ["a/one"]


def test_where_nobody_has_weight_nothing_is_shared_out_and_nobody_takes_anything_back() -> None:
    tree = (queue("red", gpu={"overQuotaWeight": 0}), queue("blue", gpu={"overQuotaWeight": 0}))
    decided = seen(*tree, runs("one", "red", 8), pod("two", gpus=8, queue="blue"))
    assert shares(decided) == {"red": 0, "blue": 0}
    assert decided.evictions == ()


def test_a_priority_class_that_vanishes_leaves_what_admission_has_written() -> None:
    high = priority_class("high", 1000)
    group = pod_group("g", queue="red", priorityClassName="high")
    one = runs("one", "red", 8, group="g", priority=1000)
    found = state(NODE, queue("red"), high, group, one, pod("two", gpus=8, queue="red", priority=500))
    assert decide(snapshot(found, now_ms=0, policy=POLICY)).evictions == ()
    found.apply(change(high, "DELETED"))
    after = snapshot(found, now_ms=0, policy=POLICY)
    assert decide(after).evictions == ()
    (gang,) = (each for each in after.gangs if each.key == "a/g")
    assert gang.priority == 1000
    assert "PriorityClass high does not exist" in gang.problems[0].message


def test_without_its_label_a_gang_that_waits_pays_from_the_default_queue_or_does_not_start() -> None:
    tree = (queue("red", gpu={"limit": 0}), queue("default", gpu={"limit": 2}))
    decided = seen(*tree, pod("one", gpus=4))
    refused = decided.why("one")
    assert isinstance(refused, OverLimit)
    assert refused.queue == "default"
    assert isinstance(seen(tree[0], pod("one", gpus=4)).why("one"), NoQueueNamed)
