"""Prometheus metrics of one scheduler. Amounts are in natural units: GPUs, cores, bytes, devices, seconds."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from queues.resources import Resources
from queues.usage import CLUSTER
from scheduler.explain.why import Reports
from scheduler.model.plan import Plan, Verdict

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Exposition(NamedTuple):
    """What a scrape gets."""

    body: bytes
    content_type: str


class Metrics:
    """A registry of its own, so that several schedulers fit into one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._latest = _Latest()
        self._registry.register(self._latest)
        self._seconds = Histogram(
            "tutti_cycle_seconds",
            "Seconds of a cycle by step.",
            ["step"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._cycles = Counter("tutti_cycles", "Cycles run.", registry=self._registry)
        self._binds = Counter("tutti_pods_bound", "Pods bound to a node.", registry=self._registry)
        self._commits = Counter(
            "tutti_commits", "Gangs whose writes ended, by outcome.", ["outcome"], registry=self._registry
        )
        self._evictions = Counter(
            "tutti_evictions", "Pods asked to leave, by stage.", ["stage"], registry=self._registry
        )
        self._api_errors = Counter(
            "tutti_api_errors",
            "Answers of the API server that refused a call.",
            ["verb", "reason"],
            registry=self._registry,
        )
        self._conflicts = Counter(
            "tutti_device_conflicts", "Devices found in two claims at once.", registry=self._registry
        )
        self._given_twice = Gauge(
            "tutti_devices_given_twice", "Devices that two claims hold now.", registry=self._registry
        )

    def cycle(self, reports: Reports, plan: Plan, seconds: Mapping[str, float]) -> None:
        """A cycle ended; `seconds` by step."""
        self._cycles.inc()
        for step, spent in seconds.items():
            self._seconds.labels(step).observe(spent)
        for eviction in plan.evictions:
            self._evictions.labels(eviction.stage).inc()
        self._latest.show(reports, plan)

    def committed(self, pods_bound: int, reason_code: str = "") -> None:
        """A gang's writes ended: so many pods are bound; `reason_code` if not all went through."""
        self._binds.inc(pods_bound)
        self._commits.labels(reason_code or "Committed").inc()

    def devices_given_twice(self, found: int, standing: int) -> None:
        """So many more devices were found in two claims; so many are now."""
        self._conflicts.inc(found)
        self._given_twice.set(standing)

    def api_error(self, verb: str, reason: str) -> None:
        self._api_errors.labels(verb, reason).inc()

    def exposition(self) -> Exposition:
        return Exposition(generate_latest(self._registry), CONTENT_TYPE_LATEST)


class _Latest(Collector):
    """Gauges read off the newest plan when they are asked for: what is gone from it is gone here."""

    def __init__(self) -> None:
        self._newest: tuple[Reports, Plan] | None = None

    def show(self, reports: Reports, plan: Plan) -> None:
        self._newest = (reports, plan)

    def collect(self) -> Iterator[Metric]:
        if self._newest is None:
            return
        reports, plan = self._newest
        yield from _gangs(reports)
        yield from _queues(plan)
        gap = GaugeMetricFamily("tutti_plan_gap_ratio", "How far the newest plan may be from the best.")
        gap.add_metric([], plan.solver.gap)
        yield gap
        aside = GaugeMetricFamily("tutti_objects_set_aside", "Objects that cannot be read, by kind.", labels=["kind"])
        for kind, count in _counts(each.object.partition("/")[0] for each in reports.set_aside):
            aside.add_metric([kind], count)
        yield aside


def _gangs(reports: Reports) -> Iterator[Metric]:
    gangs = GaugeMetricFamily("tutti_gangs", "Gangs by verdict.", labels=["verdict"])
    verdicts = dict(_counts(gang.verdict.value for gang in reports.gangs))
    for verdict in Verdict:
        gangs.add_metric([verdict.value], verdicts.get(verdict.value, 0))
    yield gangs
    waiting = GaugeMetricFamily("tutti_gangs_waiting", "Gangs that wait, by dominant reason.", labels=["reason"])
    for code, count in _counts(gang.reason.code for gang in reports.gangs if gang.reason is not None):
        waiting.add_metric([code], count)
    yield waiting
    pods = GaugeMetricFamily("tutti_pods", "Pods of gangs by state.", labels=["state"])
    pods.add_metric(["running"], sum(gang.running for gang in reports.gangs))
    pods.add_metric(["bound"], sum(gang.bound for gang in reports.gangs))
    pods.add_metric(["pending"], sum(gang.pending for gang in reports.gangs))
    yield pods


def _queues(plan: Plan) -> Iterator[Metric]:
    labels = ["queue", "resource"]
    shown = (
        ("allocated", "In use by the queue and those below."),
        ("requested", "In use and asked for."),
        ("fair_share", "What the queue may count on at present."),
        ("quota", "Guaranteed to the queue."),
        ("limit", "Never exceeded; absent without a limit."),
    )
    families = {name: GaugeMetricFamily(f"tutti_queue_{name}", text, labels=labels) for name, text in shown}
    gangs = GaugeMetricFamily("tutti_queue_gangs", "Gangs of the queue by state.", labels=["queue", "state"])
    past = GaugeMetricFamily(
        "tutti_queue_past_use_ratio", "The part of the cluster that the queue used, decayed.", labels=labels
    )
    divided = {name for report in plan.queues for name in report.fair_share}
    for report in plan.queues:
        amounts = {
            "allocated": report.allocated,
            "requested": report.requested,
            "fair_share": report.fair_share,
            "quota": report.quota,
            "limit": Resources(),
        }
        names = sorted({name for each in amounts.values() for name in each} | report.limit.keys())
        for resource in names:
            for name, amount in amounts.items():
                if name != "limit" and (name != "fair_share" or resource in divided):
                    families[name].add_metric([report.name, resource], natural(resource, amount[resource]))
            if resource in report.limit:
                families["limit"].add_metric([report.name, resource], natural(resource, report.limit[resource]))
        for resource, part in sorted((report.past or {}).items()):
            past.add_metric([report.name, resource], part / CLUSTER)
        gangs.add_metric([report.name, "running"], report.running)
        gangs.add_metric([report.name, "pending"], report.pending)
    yield from families.values()
    yield past
    yield gangs


def natural(resource: str, amount: int) -> float:
    """An amount in house units as GPUs, cores, devices or bytes."""
    thousandths = resource in ("gpu", "cpu") or resource.startswith("deviceclass/")
    return amount / 1000 if thousandths else float(amount)


def _counts(names: Iterator[str]) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return sorted(counts.items())
