"""Queues: limits at every level, quota for what cannot be preempted, order."""

from dataclasses import replace

import pytest

from queues.reasons import NoQueueNamed, OverLimit, OverQuota, QueueDoesNotExist, QueueIsNoLeaf, QueueUnusable
from queues.resources import Resources
from queues.tree import Queue, QueueResource
from queues.usage import CLUSTER
from scheduler.model.plan import Plan, Verdict
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import (
    GPU,
    NOW_MS,
    World,
    ask,
    ask_first,
    claim,
    cluster,
    device_class,
    devices,
    divided_gpu,
    everywhere,
    gang,
    gang_of,
    gpu,
    gpu_class,
    holding,
    node,
    pod,
    queue,
    world,
)
from tests.strategies import carried_out

MIG = "mig.nvidia.com"


def decide(made: World) -> Plan:
    decided = plan(made)
    assert check(made, decided) == ()
    return decided


def started(decided: Plan) -> list[str]:
    return [decision.gang.partition("/")[2] for decision in decided.gangs if decision.verdict is Verdict.PLACED]


def test_the_limit_of_a_queue_above_binds_the_leaves_together() -> None:
    made = (
        cluster(nodes=4, gpus=4) + queue("team", limit=8) + queue("red", parent="team") + queue("blue", parent="team")
    )
    made += gang("a", pods=1, gpus=4, queue="red") + gang("b", pods=1, gpus=4, queue="blue")
    made += gang("c", pods=1, gpus=4, queue="blue")
    decided = decide(made)
    assert started(decided) == ["a", "b"]
    assert decided.why("c") == OverLimit(queue="team", resource="gpu", asked=4000, allocated=8000, limit=8000)


def test_a_gang_larger_than_the_limit_is_refused_one_that_could_follow_later_waits() -> None:
    made = cluster(nodes=4, gpus=4) + queue("red", limit=8) + gang("now", pods=2, gpus=3, queue="red", priority=1)
    decided = decide(made + gang("later", pods=1, gpus=4, queue="red") + gang("never", pods=3, gpus=4, queue="red"))
    verdicts = {decision.gang: decision.verdict for decision in decided.gangs}
    assert verdicts == {
        "default/later": Verdict.PENDING,
        "default/never": Verdict.REFUSED,
        "default/now": Verdict.PLACED,
    }


def test_what_cannot_be_preempted_must_fit_in_the_quota_of_every_queue_above() -> None:
    """Source: KAI docs, preemptibility."""
    made = cluster(nodes=4, gpus=4) + queue("team", quota=4) + queue("red", parent="team", quota=8)
    decided = decide(made + gang("firm", pods=2, gpus=4, queue="red", preemptible=False))
    assert decided.why("firm") == OverQuota(queue="team", resource="gpu", asked=8000, allocated=0, quota=4000)
    assert started(decide(made + gang("soft", pods=2, gpus=4, queue="red"))) == ["soft"]


def test_claims_count_against_limits_like_extended_resources() -> None:
    made = cluster(nodes=2, gpus=4) + node("driver", gpus=4, dra=True) + gpu_class() + queue("red", limit=6)
    made += gang("plugin", pods=1, gpus=4, queue="red", priority=1) + gang("driver", claims={"g": ask(3)}, queue="red")
    decided = decide(made)
    assert decided.why("driver") == OverLimit(queue="red", resource="gpu", asked=3000, allocated=4000, limit=6000)


def test_a_quota_per_device_class_counts_devices_of_that_class() -> None:
    made = cluster(nodes=2, gpus=4, dra=True)
    made += queue("red", **{"deviceclass/gpu.nvidia.com": QueueResource(limit=2000)})
    made += gang("two", pods=2, claims={"g": ask(1)}, queue="red", priority=1) + gang(
        "three", claims={"g": ask(1)}, queue="red"
    )
    decided = decide(made)
    assert started(decided) == ["two"]
    reason = decided.why("three")
    assert isinstance(reason, OverLimit)
    assert reason.resource == "deviceclass/gpu.nvidia.com"


def test_devices_of_a_class_that_queues_have_rules_for_are_divided_among_them_by_quota_and_weight() -> None:
    """Six of one class: the quota first, the rest one to two."""
    by_class = f"deviceclass/{GPU}"
    made = node("n") + devices("n", [gpu(index) for index in range(6)]) + gpu_class()
    made += queue("red", **{by_class: QueueResource(quota=3000, weight=1)})
    made += queue("blue", **{by_class: QueueResource(weight=2)}) + queue("green")
    for name in ("red", "blue"):
        made += gang(name, pods=6, minimum=1, claims={"g": ask(1)}, queue=name)
    shares = {report.name: report.fair_share[by_class] for report in decide(made).queues}
    assert shares == {"red": 4000, "blue": 2000, "green": 0}


def test_a_quota_per_class_is_taken_back_from_whoever_holds_more_of_that_class() -> None:
    """Red is within its quota of GPUs, but has three of the class of which two are blue's."""
    made = node("new") + devices("new", [gpu(index, product="New") for index in range(4)])
    made += node("old") + devices("old", [gpu(index, product="Old") for index in range(4)])
    for name in ("New", "Old"):
        made += device_class(name, f"device.attributes['gpu.nvidia.com'].productName == '{name}'")
    rules = {f"deviceclass/{name}": QueueResource(quota=2000) for name in ("New", "Old")}
    made += queue("red", quota=4, **rules) + queue("blue", quota=4, **rules)
    for name, where, of, number in (
        ("red-0", "new", "New", 0),
        ("red-1", "new", "New", 1),
        ("red-2", "new", "New", 2),
        ("blue-0", "old", "Old", 0),
        ("blue-1", "old", "Old", 1),
    ):
        made += claim(name, ask(1, of=of), holds=holding(where, number), by=[f"pod-default/{name}"])
        one = pod(name, on=where, claims={"g": name}, started_ms=NOW_MS - (9 - number) * 60_000)
        made += gang_of(name, [one], queue=name.partition("-")[0])
    made += gang("mine", pods=2, claims={"g": ask(1, of="New")}, queue="blue")
    calm = decide(made)
    assert calm.why("mine") is not None
    decided = decide(made.under(stages=("allocate", "reclaim")))
    assert [eviction.pod for eviction in decided.evictions] == ["default/red-2"], "one is free, one is taken back"
    assert {promise.node for promise in decided.promises} == {"new"}


def test_no_class_is_divided_that_no_queue_has_a_rule_for() -> None:
    made = cluster(nodes=1, gpus=4, dra=True) + queue("red") + gang("a", claims={"g": ask(1)}, queue="red")
    report = next(each for each in decide(made).queues if each.name == "red")
    assert report.fair_share["gpu"] == 1000
    assert f"deviceclass/{GPU}" not in report.fair_share.amounts


def of_class(name: str, limit: int) -> World:
    return queue("red", **{f"deviceclass/{name}": QueueResource(limit=limit * 1000)})


@pytest.mark.parametrize("dra", [True, False])
def test_a_quota_per_device_class_counts_on_nodes_with_a_device_plugin_as_well(dra: bool) -> None:
    """Source: KEP 5004; Kubernetes' ResourceQuota counts both forms."""
    made = node("n", gpus=4, dra=dra) + gpu_class(serves="nvidia.com/gpu") + of_class("gpu.nvidia.com", limit=2)
    made += gang("two", pods=2, gpus=1, queue="red", priority=1)
    first = decide(made + gang("three", gpus=1, queue="red"))
    assert started(first) == ["two"]
    refused = OverLimit(queue="red", resource="deviceclass/gpu.nvidia.com", asked=1000, allocated=2000, limit=2000)
    assert first.why("three") == refused
    second = decide(carried_out(made, decide(made)) + gang("three", gpus=1, queue="red"))
    assert second.why("three") == refused


def test_a_quota_by_memory_counts_what_is_published_so_nothing_of_what_a_device_plugin_serves() -> None:
    """A plugin tells the number of its devices alone. Source: docs/admin/queues.md."""
    name = f"memory.deviceclass/{GPU}"
    limit = queue("red", **{name: QueueResource(limit=100), f"deviceclass/{GPU}": QueueResource(limit=4000)})
    made = node("plugin", gpus=8) + node("driver") + devices("driver", [gpu(0, memory="60")])
    made += gpu_class(serves="nvidia.com/gpu") + limit
    claims = [gang(f"claim-{n}", claims={"g": ask(1)}, queue="red", priority=2 - n) for n in range(2)]
    on_plugin = gang("plugin", pods=3, gpus=1, queue="red") + gang("more", gpus=1, queue="red", created_ms=1)
    decided = decide(made + claims[0] + claims[1] + on_plugin)
    assert started(decided) == ["claim-0", "plugin"]
    assert decided.why("claim-1") == OverLimit(queue="red", resource=name, asked=60, allocated=60, limit=100)
    last = decided.why("more")
    assert isinstance(last, OverLimit)
    assert last.resource == f"deviceclass/{GPU}"


def boards(**more: int) -> World:
    """Two GPUs that are given whole or in halves, and a queue "red" with these limits."""
    parts = [divided_gpu(index) for index in range(2)]
    made = node("n") + gpu_class() + gpu_class(MIG, kind="mig")
    made += devices("n", [device for part, _ in parts for device in part], [counters for _, counters in parts])
    return made + queue("red", **{name: QueueResource(limit=limit) for name, limit in more.items()})


def test_a_limit_by_counters_lets_in_as_many_halves_as_are_a_whole_and_charges_what_was_chosen() -> None:
    """Two alternatives are counted by their own classes: the third of those that prefer halves takes a whole GPU."""
    name = f"parts.counters.deviceclass/{MIG}"
    made = boards(**{name: 2})
    first = [gang(f"g{n}", claims={"g": ask_first(("half", MIG, 1), ("whole", GPU, 1))}, queue="red") for n in range(3)]
    decided = decide(made + first[0] + first[1] + first[2])
    assert started(decided) == ["g0", "g1", "g2"]
    red = next(report for report in decided.queues if report.name == "red")
    used = [red.allocated[each] for each in (name, f"deviceclass/{MIG}", f"deviceclass/{GPU}")]
    assert used == [2, 2000, 1000]
    two = made + first[0] + first[1]
    refused = decide(carried_out(two, decide(two)) + gang("more", claims={"g": ask(1, of=MIG)}, queue="red")).why(
        "more"
    )
    assert refused == OverLimit(queue="red", resource=name, asked=1, allocated=2, limit=2)
    assert "would exceed its limit of 2 of parts on devices of class mig.nvidia.com" in refused.message


def test_a_limit_by_memory_counts_a_shared_claim_once_and_admin_access_never() -> None:
    name = f"memory.deviceclass/{GPU}"
    made = cluster(nodes=1) + gpu_class() + devices("node-0", [gpu(0), gpu(1)]) + claim("s", ask(1))
    made += queue("red", **{name: QueueResource(limit=80 << 30)})
    made += gang("pair", pods=2, shared={"g": "s"}, queue="red", priority=1) + gang(
        "third", claims={"g": ask(1)}, queue="red"
    )
    decided = decide(made)
    assert started(decided) == ["pair"]
    assert decided.why("third") == OverLimit(
        queue="red", resource=name, asked=80 << 30, allocated=80 << 30, limit=80 << 30
    )


def test_resources_named_after_a_class_count_for_it_and_others_for_none() -> None:
    implicit = "deviceclass.resource.kubernetes.io/gpu.nvidia.com"
    fpga = "example.com/fpga"
    made = node("n", **{implicit: 2, fpga: 2}) + gpu_class() + of_class("gpu.nvidia.com", limit=1)
    asking = [replace(one, requests=one.requests + Resources({implicit: 1, fpga: 1})) for one in (pod("a"), pod("b"))]
    made += gang_of("a", [asking[0]], queue="red", priority=1) + gang_of("b", [asking[1]], queue="red")
    decided = decide(made)
    assert started(decided) == ["a"]
    assert list(decided.queues[0].allocated) == ["cpu", "deviceclass/gpu.nvidia.com", "memory"]


def test_running_work_is_charged_before_anything_starts() -> None:
    made = cluster(nodes=2, gpus=4) + queue("red", limit=6)
    made += gang("old", pods=1, gpus=4, queue="red", on=["node-0"]) + gang("new", pods=1, gpus=4, queue="red")
    assert isinstance(decide(made).why("new"), OverLimit)


def test_the_queue_that_has_less_of_its_share_is_served_first() -> None:
    made = cluster(nodes=2, gpus=4) + queue("red", quota=4) + queue("blue", quota=4)
    made += gang("old", pods=1, gpus=4, queue="red", on=["node-0"])
    made += gang("more", pods=1, gpus=4, queue="red") + gang("first", pods=1, gpus=4, queue="blue", created_ms=9)
    assert started(decide(made)) == ["first"]


def test_every_queue_that_cannot_take_work_says_why() -> None:
    made = cluster(nodes=1, gpus=4) + queue("team") + queue("red", parent="team") + queue("orphan", parent="nobody")
    for name, where, reason in (
        ("a", "missing", QueueDoesNotExist),
        ("b", "team", QueueIsNoLeaf),
        ("c", "orphan", QueueUnusable),
    ):
        made += gang(name, pods=1, gpus=1, queue=where)
        decided = decide(made)
        assert isinstance(decided.why(name), reason)
        assert next(d.verdict for d in decided.gangs if d.gang == f"default/{name}") is Verdict.REFUSED
    assert next(report.problem for report in decided.queues if report.name == "orphan") is not None


def test_a_gang_that_names_no_queue_goes_to_the_default_one_if_there_is_one() -> None:
    without = queue("red") + node("n", gpus=4) + gang("train", pods=1, gpus=1)
    assert decide(without).why("train") == NoQueueNamed(queue="default")
    assert started(decide(without + queue("default"))) == ["train"]


def test_the_report_of_a_queue_adds_up() -> None:
    made = cluster(nodes=2, gpus=4) + queue("team") + queue("red", parent="team", quota=2, limit=4)
    made += gang("a", pods=2, gpus=1, queue="red") + gang("b", pods=1, gpus=4, queue="red")
    reports = {report.name: report for report in decide(made).queues}
    assert reports["red"].allocated["gpu"] == reports["team"].allocated["gpu"] == 2000
    assert reports["red"].requested["gpu"] == 6000
    assert reports["red"].fair_share["gpu"] == 4000
    assert (reports["red"].running, reports["red"].pending) == (1, 1)


def test_a_queue_counts_the_gangs_of_the_queues_below_it() -> None:
    made = cluster(nodes=2, gpus=4) + queue("org") + queue("team", parent="org")
    made += queue("red", parent="team") + queue("blue", parent="team") + queue("other", parent="org")
    made += gang("a", gpus=1, queue="red") + gang("b", gpus=1, queue="blue") + gang("c", gpus=1, queue="other")
    made += gang("never", gpus=5, queue="red")
    counts = {report.name: (report.running, report.pending) for report in decide(made).queues}
    del counts["default"]
    assert counts == {"org": (3, 1), "team": (2, 1), "red": (1, 1), "blue": (1, 0), "other": (1, 0)}


def charged(decided: Plan) -> dict[str, int]:
    return {report.name: report.allocated["gpu"] for report in decided.queues}


def test_a_running_claim_is_paid_by_the_first_of_those_it_is_reserved_for_whatever_their_gangs_are_called() -> None:
    made = cluster(nodes=2, gpus=8, dra=True) + queue("rich") + queue("poor", limit=8)
    made += gang_of("zzz", [pod("a0", on="node-0", claims={"g": "s"})], queue="poor")
    made += gang_of("aaa", [pod("b0", on="node-0", claims={"g": "s"})], queue="rich")
    made += gang("new", claims={"g": ask(8)}, queue="poor")

    def shared(*by: str) -> World:
        return claim("s", ask(8), holds=holding("node-0", *range(8)), by=[f"pod-default/{name}" for name in by])

    by_poor, by_rich = decide(made + shared("a0", "b0")), decide(made + shared("b0", "a0"))
    assert (charged(by_poor)["poor"], charged(by_poor)["rich"]) == (8000, 0)
    assert isinstance(by_poor.why("new"), OverLimit)
    assert (charged(by_rich)["poor"], charged(by_rich)["rich"]) == (8000, 8000)
    assert started(by_rich) == ["new"]
    assert charged(decide(made + shared()))["poor"] == 8000


def test_devices_that_many_nodes_reach_count_against_limits_when_a_gang_shares_them() -> None:
    """Such a claim gets its devices before the pods have nodes."""
    resources = {"deviceclass/fabric": QueueResource(limit=1000)}
    made = world(queues=(Queue(name="default", resources=resources),)) + node("n1") + node("n2")
    made += device_class("fabric", 'device.driver == "fabric"') + everywhere("f", [gpu(0), gpu(1)], "fabric")
    for number, name in enumerate(("one", "two")):
        made += claim(name, ask(1, of="fabric")) + gang(name, pods=2, shared={"c": name}, created_ms=number)
    decided = decide(made)
    assert started(decided) == ["one"]
    assert isinstance(decided.why("two"), OverLimit)


def test_a_claim_that_nobody_on_a_node_consumes_is_paid_once_by_every_gang_that_comes_to_it() -> None:
    made = cluster(nodes=1, gpus=4, dra=True) + queue("red", limit=2) + queue("blue", limit=1)
    made += claim("s", ask(2), holds=holding("node-0", 0, 1))
    made += gang("a", pods=2, shared={"g": "s"}, queue="default") + gang("b", shared={"g": "s"}, queue="blue")
    decided = decide(made + gang("c", pods=2, minimum=1, shared={"g": "s"}, queue="red"))
    assert started(decided) == ["a", "c"]
    assert charged(decided) == {"blue": 0, "default": 2000, "red": 2000}
    assert len(decided.placements) == 4


def test_a_queue_over_its_quota_already_still_takes_work_that_can_be_preempted() -> None:
    made = cluster(nodes=1, gpus=4) + queue("red", quota=1)
    made += gang("firm", pods=1, gpus=2, queue="red", preemptible=False, on=["node-0"])
    assert started(decide(made + gang("soft", gpus=1, queue="red"))) == ["soft"]


def test_running_work_is_charged_though_its_queue_takes_none_any_more() -> None:
    made = cluster(nodes=2, gpus=8) + queue("org", limit=8) + queue("team", parent="org")
    made += gang("new", gpus=8, queue="team")

    def ran(queue_: str) -> World:
        return gang("old", gpus=8, queue=queue_, on=["node-0"])

    inner = decide(made + ran("org"))
    assert (charged(inner)["org"], charged(inner)["team"]) == (8000, 0)
    assert started(inner) == []
    below = decide(made + queue("lost", parent="gone") + ran("lost"))
    assert started(below) == ["new"]
    twice = decide(made + queue("bad", parent="org") + queue("bad", parent="org") + ran("bad"))
    assert charged(twice)["org"] == 8000
    assert started(twice) == []


def two_classes(**limits: int) -> World:
    """Four GPUs that two classes select alike; a queue that may have so many of each."""
    resources = {f"deviceclass/{name}": QueueResource(limit=1000 * most) for name, most in limits.items()}
    made = world(queues=(Queue(name="default", resources=resources),)) + node("n", gpus=4, dra=True)
    return made + gpu_class("a") + gpu_class("b")


EITHER = ask_first(("first", "a", 1), ("second", "b", 1))


def taken(decided: Plan) -> list[str]:
    """Which alternative each claim got, in the order of the pods."""
    found = [part.allocation for placement in decided.placements for part in placement.claims]
    return [result.request for each in found if each is not None for result in each.devices.results or ()]


def test_an_alternative_that_the_queue_may_have_is_taken_where_the_first_is_over_its_limit() -> None:
    assert taken(decide(two_classes(a=0) + gang("g", claims={"gpu": EITHER}))) == ["main/second"]
    assert taken(decide(two_classes(b=0) + gang("g", claims={"gpu": EITHER}))) == ["main/first"]


def test_as_many_pods_as_the_limit_allows_get_what_they_list_first() -> None:
    made = two_classes(a=1, b=2)
    assert taken(decide(made + gang("g", pods=3, claims={"gpu": EITHER}))) == ["main/first", *["main/second"] * 2]
    elastic = decide(made + gang("g", pods=4, minimum=1, claims={"gpu": EITHER}))
    assert taken(elastic) == ["main/first", *["main/second"] * 2]


def test_where_narrowing_saved_less_than_it_could_every_pod_takes_what_costs_least() -> None:
    """The dearest alternative is nobody's choice: without it as much is asked for as before. Pod by pod it would take
    more rounds than there are."""
    limit = {"deviceclass/a": QueueResource(limit=6000)}
    made = world(queues=(Queue(name="default", resources=limit),)) + node("n", gpus=16, dra=True)
    either = ask_first(("one", "a", 1), ("many", "a", 5), ("other", "b", 1))
    made += gpu_class("a") + gpu_class("b") + gang("g", pods=12, claims={"gpu": either})
    assert taken(decide(made)) == ["main/other"] * 12


def test_a_limit_on_gpus_makes_pods_take_a_part_where_a_whole_one_is_too_much() -> None:
    board, counters = divided_gpu(0)
    made = queue("default", limit=1.5) + node("n") + gpu_class() + gpu_class("mig.nvidia.com", kind="mig")
    made += devices("n", [*board, gpu(1), gpu(2)], [counters])
    either = ask_first(("whole", GPU, 1), ("half", "mig.nvidia.com", 1))
    assert taken(decide(made + gang("g", pods=2, claims={"gpu": either}))) == ["main/whole", "main/half"]


def test_a_gang_of_which_no_alternative_is_within_the_limits_waits_if_one_may_become_so() -> None:
    made = two_classes(a=1, b=0) + gang("runs", claims={"gpu": ask(1, of="a")}, priority=1)
    (waits, _) = decide(made + gang("g", claims={"gpu": EITHER})).gangs
    assert (waits.gang, waits.verdict) == ("default/g", Verdict.PENDING)
    assert isinstance(waits.reason, OverLimit)
    assert waits.reason.resource == "deviceclass/a"
    (never,) = decide(two_classes(a=0, b=0) + gang("g", claims={"gpu": EITHER})).gangs
    assert never.verdict is Verdict.REFUSED


def test_a_gang_over_its_limit_is_told_so_though_its_other_alternatives_fit_no_node() -> None:
    either = ask_first(("first", "a", 1), ("second", "b", 5))
    (never,) = decide(two_classes(a=0) + gang("g", claims={"gpu": either})).gangs
    assert (never.verdict, isinstance(never.reason, OverLimit)) == (Verdict.REFUSED, True)


HOUR = 3_600_000


def aging(made: World, weight: int) -> World:
    return replace(made.under(age_weight=weight, age_full_hours=100.0), now_ms=168 * HOUR)


def test_who_has_waited_long_goes_before_a_higher_priority_in_its_queue_if_waiting_counts() -> None:
    """Source: Slurm's age factor."""
    made = cluster(nodes=1, gpus=1) + queue("red")
    made += gang("old", gpus=1, queue="red", priority=10, created_ms=1)
    made += gang("new", gpus=1, queue="red", priority=50, created_ms=167 * HOUR)
    assert started(decide(made)) == ["new"]
    assert started(decide(aging(made, 30))) == ["new"]
    assert started(decide(aging(made, 41))) == ["old"]


def test_waiting_gives_no_right_to_stop_a_higher_priority() -> None:
    made = aging(cluster(nodes=1, gpus=1) + queue("red"), weight=1000)
    made = made.under(stages=("allocate", "consolidate", "reclaim", "preempt"))
    made += gang("runs", gpus=1, queue="red", priority=50, on=["node-0"])
    decided = decide(made + gang("old", gpus=1, queue="red", priority=10, created_ms=1))
    assert decided.evictions == ()


def test_the_past_moves_what_is_over_quota_and_nothing_else() -> None:
    """Two queues alike, but one has used the cluster all week: two of its eight GPUs are its, and its quota."""
    made = cluster(nodes=1, gpus=8) + queue("red") + queue("blue")
    for name in ("red", "blue"):
        made += gang(name, pods=8, minimum=1, gpus=1, queue=name)
    used = replace(made, usage={"red": {"gpu": CLUSTER * 3 // 4}, "blue": {"gpu": CLUSTER // 4}})

    def shares(of: World) -> dict[str, int]:
        return {report.name: report.fair_share["gpu"] for report in decide(of).queues if report.name != "default"}

    assert shares(used) == {"red": 4000, "blue": 4000}
    used = used.under(usage_weight=1.0)
    assert shares(used) == {"red": 2000, "blue": 6000}
    promised = replace(used, queues=tuple(_with_quota(each, 4000) for each in used.queues))
    assert shares(promised) == {"red": 4000, "blue": 4000}


def _with_quota(queue: Queue, gpus: int) -> Queue:
    return queue if queue.name == "default" else replace(queue, resources={"gpu": QueueResource(quota=gpus)})


def test_a_plan_tells_what_a_queue_used_and_uses_from_now_on_if_the_past_counts() -> None:
    made = cluster(nodes=1, gpus=8) + queue("team") + queue("red", parent="team")
    made += gang("a", gpus=2, queue="red")
    assert all(report.past is None and not report.standing for report in decide(made).queues)
    weighed = replace(made.under(usage_weight=1.0), usage={"red": {"gpu": 7}})
    told = {report.name: (report.past, report.standing.get("gpu")) for report in decide(weighed).queues}
    assert told["red"] == ({"gpu": 7}, CLUSTER // 4)
    assert told["team"] == ({}, CLUSTER // 4)
