from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from queues.resources import Resources
from queues.usage import CLUSTER
from scheduler.explain.metrics import Metrics
from scheduler.explain.why import GangReport, Reports
from scheduler.model.plan import Eviction, Plan, QueueReport, SolverReport, Verdict
from scheduler.model.reasons import GangDoesNotFit
from scheduler.model.snapshot import SetAside

NO_ROOM = GangDoesNotFit(gang="team/b", needed=2, placeable=1)


def gang(name: str, verdict: Verdict, **more: object) -> GangReport:
    return GangReport(gang=f"team/{name}", uid=name, owner="", queue="q", verdict=verdict, **more)  # type: ignore[arg-type]


def queue(name: str) -> QueueReport:
    return QueueReport(
        name=name,
        parent=None,
        quota=Resources({"gpu": 16_000}),
        limit={"gpu": 32_000},
        fair_share=Resources({"gpu": 20_000}),
        allocated=Resources({"gpu": 500, "memory": 1024}),
        requested=Resources({"gpu": 24_000, "memory": 1024}),
        running=1,
        pending=2,
    )


def values(metrics: Metrics) -> dict[str, float]:
    """Every sample as `name{label values}`."""
    families = text_string_to_metric_families(metrics.exposition().body.decode())
    return {
        f"{sample.name}{{{','.join(sample.labels.values())}}}": sample.value
        for family in families
        for sample in family.samples
    }


def test_gangs_are_counted_by_verdict_and_by_reason():
    metrics = Metrics()
    gangs = (
        gang("a", Verdict.RUNNING, total=4, bound=4, running=3),
        gang("b", Verdict.PENDING, total=2, reason=NO_ROOM),
        gang("c", Verdict.PENDING, total=1, reason=NO_ROOM),
    )
    metrics.cycle(Reports(gangs=gangs), Plan(now_ms=0), {})
    found = values(metrics)
    assert found["tutti_gangs{Running}"] == 1
    assert found["tutti_gangs{Pending}"] == 2
    assert found["tutti_gangs{Refused}"] == 0
    assert found["tutti_gangs_waiting{GangDoesNotFit}"] == 2
    assert (found["tutti_pods{running}"], found["tutti_pods{bound}"], found["tutti_pods{pending}"]) == (3, 4, 3)


def test_amounts_of_queues_are_in_gpus_and_bytes():
    metrics = Metrics()
    metrics.cycle(Reports(), Plan(now_ms=0, queues=(queue("a"),)), {})
    found = values(metrics)
    assert found["tutti_queue_allocated{a,gpu}"] == 0.5
    assert found["tutti_queue_allocated{a,memory}"] == 1024
    assert found["tutti_queue_quota{a,gpu}"] == 16
    assert found["tutti_queue_limit{a,gpu}"] == 32
    assert "tutti_queue_limit{a,memory}" not in found
    assert found["tutti_queue_fair_share{a,gpu}"] == 20
    assert "tutti_queue_fair_share{a,memory}" not in found, "memory is not divided here"
    assert found["tutti_queue_requested{a,gpu}"] == 24
    assert (found["tutti_queue_gangs{a,running}"], found["tutti_queue_gangs{a,pending}"]) == (1, 2)


def test_shares_of_classes_of_devices_are_in_devices_and_past_use_in_parts_of_the_cluster():
    metrics = Metrics()
    by_class = Resources({"deviceclass/gpu.nvidia.com": 3_000})
    used = replace(queue("a"), fair_share=by_class, past={"gpu": CLUSTER // 4})
    metrics.cycle(Reports(), Plan(now_ms=0, queues=(used, queue("b"))), {})
    found = values(metrics)
    assert found["tutti_queue_fair_share{a,deviceclass/gpu.nvidia.com}"] == 3
    assert found["tutti_queue_past_use_ratio{a,gpu}"] == 0.25
    assert "tutti_queue_past_use_ratio{b,gpu}" not in found, "the past does not count there"


def test_a_queue_that_is_gone_is_gone_from_the_metrics():
    metrics = Metrics()
    metrics.cycle(Reports(), Plan(now_ms=0, queues=(queue("a"), queue("b"))), {})
    metrics.cycle(Reports(), Plan(now_ms=0, queues=(queue("b"),)), {})
    found = values(metrics)
    assert "tutti_queue_quota{a,gpu}" not in found
    assert "tutti_queue_quota{b,gpu}" in found


def test_cycles_commits_evictions_and_refused_calls_are_counted():
    metrics = Metrics()
    leaving = Eviction(pod="team/p", pod_uid="p", stage="reclaim", beneficiary="team/b", cost=1)
    aside = SetAside(object="Queue/x", uid="x", reason=NO_ROOM)
    plan = Plan(now_ms=0, evictions=(leaving,), solver=SolverReport(status="feasible", gap=0.25))
    metrics.cycle(Reports(set_aside=(aside,)), plan, {"plan": 0.02, "commit": 0.001})
    metrics.cycle(Reports(set_aside=(aside,)), plan, {"plan": 0.04})
    metrics.committed(8)
    metrics.committed(2, "BindFailed")
    metrics.api_error("patch", "Conflict")
    found = values(metrics)
    assert found["tutti_cycles_total{}"] == 2
    assert found["tutti_cycle_seconds_count{plan}"] == 2
    assert found["tutti_cycle_seconds_count{commit}"] == 1
    assert found["tutti_pods_bound_total{}"] == 10
    assert found["tutti_commits_total{Committed}"] == 1
    assert found["tutti_commits_total{BindFailed}"] == 1
    assert found["tutti_evictions_total{reclaim}"] == 2
    assert found["tutti_api_errors_total{Conflict,patch}"] == 1
    assert found["tutti_objects_set_aside{Queue}"] == 1
    assert found["tutti_plan_gap_ratio{}"] == 0.25


def test_before_the_first_cycle_there_is_nothing_to_show():
    assert "tutti_gangs{Running}" not in values(Metrics())


def test_devices_given_twice_are_counted_now_and_ever():
    metrics = Metrics()
    metrics.devices_given_twice(2, 2)
    metrics.devices_given_twice(0, 1)
    assert values(metrics)["tutti_device_conflicts_total{}"] == 2
    assert values(metrics)["tutti_devices_given_twice{}"] == 1
