"""Prometheus metrics of a node's plugin: what claims hold and how busy it is, how the GPUs are, how long work takes.

Natural units: bytes, seconds, watts, ratios from 0 to 1. Every series of a device that a claim holds bears the claim,
its pods, the GPU's UUID and the MIG instance's: dashboards join by any of them, also for instances that were made for
the claim, which no published attribute can name; a share also bears what keeps it to its size. What is not known has no
series: NVML does not tell how busy an instance is, and of a GPU that claims share by memory only the size of each share
is a claim's own.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from dra_driver.devices import ClaimRef, Device, Entry, Inventory, Kind, Phase, Prepared
from dra_driver.facts import Gpu, GpuError, GpuEvent, Gpus, Usage
from dra_driver.health_list import healthy

log = structlog.get_logger(__name__)

CONTENT_TYPE = CONTENT_TYPE_LATEST
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_MOST_LATE = 1024
_CLAIM = ("claim_namespace", "claim_name", "claim_uid")
_HARDWARE = ("device", "gpu", "instance", "profile")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A node at one moment (`at`: seconds since 1970). `usage`: by UUID of GPU or instance, of those that told it."""

    inventory: Inventory
    gpus: tuple[Gpu, ...] = ()
    lost: AbstractSet[str] = frozenset()
    entries: tuple[Entry, ...] = ()
    usage: Mapping[str, Usage] = field(default_factory=dict)
    at: float | None = None


def usage(gpus: Gpus, known: Iterable[Gpu], lost: AbstractSet[str], entries: Iterable[Entry]) -> Mapping[str, Usage]:
    """How busy every GPU is that answers, and every instance that a claim holds. Blocks, as all of `Gpus` does."""
    wanted = [gpu.uuid for gpu in known if gpu.uuid not in lost]
    held = (device for entry in entries for device in entry.devices)
    wanted += sorted({device.instance for device in held if device.instance and device.gpu not in lost})
    found = {}
    for uuid in wanted:
        try:
            found[uuid] = gpus.usage(uuid)
        except GpuError as problem:
            log.info("it is not told how busy a device is", device=uuid, problem=str(problem))
    return found


class Metrics:
    """A registry of its own, so that two plugins fit into one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._latest = _Latest()
        self._registry.register(self._latest)
        self._seconds = Histogram(
            "tutti_node_claim_seconds",
            "Seconds that a claim was prepared or given back in, from the kubelet's call on.",
            ["operation"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._errors = Counter(
            "tutti_node_claim_errors",
            "Claims that could not be prepared or given back, by kind of error.",
            ["operation", "kind"],
            registry=self._registry,
        )
        self._events = Counter(
            "tutti_node_gpu_events",
            "What the driver has told of a GPU; code: the XID, or the recovery action.",
            ["gpu", "kind", "code"],
            registry=self._registry,
        )

    def took(self, operation: str, seconds: float) -> None:
        """Work for a claim has ended, well or not. `operation`: "prepare" or "unprepare"."""
        self._seconds.labels(operation).observe(seconds)

    def failed(self, operation: str, problem: Exception) -> None:
        """Work for a claim has failed."""
        cause = problem.__cause__ if isinstance(problem.__cause__, Exception) else problem
        kind = type(cause).__name__
        if isinstance(cause, GpuError):
            kind = f"{kind}:{cause.failure.name.lower().replace('_', '-')}"
        self._errors.labels(operation, kind).inc()

    def heard(self, event: GpuEvent) -> None:
        """A GPU has told something."""
        self._events.labels(event.gpu, event.kind.value, str(event.code)).inc()

    def reserved(self, claim: Mapping[str, Any]) -> None:
        """Whom a claim is reserved for, by its document; forgotten when the claim is given back."""
        consumers = (claim.get("status") or {}).get("reservedFor") or ()
        pods = {each["name"]: each["uid"] for each in consumers if each.get("resource") == "pods"}
        self._latest.pods[claim["metadata"]["uid"]] = tuple(sorted(pods.items()))

    def show(self, picture: Picture) -> None:
        """From now on this is told."""
        self._latest.show(picture)

    def exposition(self) -> bytes:
        """What a scrape gets, of `CONTENT_TYPE`."""
        return generate_latest(self._registry)


class _Latest(Collector):
    """Gauges of the last picture: what is gone from it has no series any more."""

    def __init__(self) -> None:
        self.pods: dict[str, tuple[tuple[str, str], ...]] = {}
        """Name and uid of the pods of each claim, by the claim's uid."""
        self._picture = Picture(inventory=Inventory(devices=()))

    def show(self, picture: Picture) -> None:
        before = {entry.claim.uid for entry in self._picture.entries}
        now = {entry.claim.uid for entry in picture.entries}
        self._picture = picture
        # One that is not there yet is kept: it may be on its way. Of those that never came the oldest are forgotten.
        late = [uid for uid in self.pods if uid not in now]
        for uid in [*(before - now), *late[: max(0, len(late) - _MOST_LATE)]]:
            self.pods.pop(uid, None)

    def collect(self) -> Iterator[Metric]:
        picture = self._picture
        yield from self._node(picture)
        yield from self._gpus(picture)
        yield from self._held(picture)

    def _node(self, picture: Picture) -> Iterator[Metric]:
        taken = GaugeMetricFamily("tutti_node_sampled_timestamp_seconds", "When these gauges were true, since 1970.")
        if picture.at is not None:
            taken.add_metric([], picture.at)
        yield taken
        well = GaugeMetricFamily(
            "tutti_node_device_healthy", "1: well; 0: not; no series: nobody can tell.", labels=_HARDWARE
        )
        for device in picture.inventory.devices:
            verdict = healthy(device, picture.lost)
            if verdict is not None:
                well.add_metric(_published(device), verdict)
        yield well
        prepared = GaugeMetricFamily("tutti_node_prepared_devices", "Devices that claims hold.", labels=["kind"])
        held = [device.kind for entry in picture.entries if entry.phase is Phase.DONE for device in entry.devices]
        for kind in Kind:
            prepared.add_metric([kind.value], held.count(kind))
        yield prepared

    def _gpus(self, picture: Picture) -> Iterator[Metric]:
        labels = ("device", "gpu", "product")
        busy = GaugeMetricFamily("tutti_node_gpu_busy_ratio", "Part of the time a GPU was busy.", labels=labels)
        used = GaugeMetricFamily("tutti_node_gpu_memory_used_bytes", "Memory of a GPU in use.", labels=labels)
        memory = GaugeMetricFamily("tutti_node_gpu_memory_bytes", "Memory of a GPU.", labels=labels)
        power = GaugeMetricFamily("tutti_node_gpu_power_watts", "Power that a GPU draws.", labels=labels)
        heat = GaugeMetricFamily("tutti_node_gpu_temperature_celsius", "Temperature of a GPU.", labels=labels)
        names = {each.gpu: each.name for each in picture.inventory.devices if each.kind is Kind.GPU}
        for gpu in picture.gpus:
            told = picture.usage.get(gpu.uuid)
            if told is None:
                continue
            own = (names.get(gpu.uuid, ""), gpu.uuid, gpu.product)
            _add(busy, own, told.busy, 1000)
            _add(used, own, told.memory_used_bytes)
            _add(memory, own, told.memory_bytes)
            _add(power, own, told.power_milliwatts, 1000)
            _add(heat, own, told.celsius)
        yield from (busy, used, memory, power, heat)

    def _held(self, picture: Picture) -> Iterator[Metric]:
        labels = (*_CLAIM, "pod", *_HARDWARE, "share", "enforcement")
        what = "of a device that a claim holds"
        busy = GaugeMetricFamily("tutti_node_claim_device_busy_ratio", f"Part of the time busy, {what}.", labels=labels)
        used = GaugeMetricFamily("tutti_node_claim_device_memory_used_bytes", f"Memory in use, {what}.", labels=labels)
        memory = GaugeMetricFamily("tutti_node_claim_device_memory_bytes", f"Memory, {what}.", labels=labels)
        well = GaugeMetricFamily(
            "tutti_node_claim_device_healthy", f"1 or 0 as tutti_node_device_healthy, {what}.", labels=labels
        )
        pods = GaugeMetricFamily(
            "tutti_node_claim_pod_info", "The pods that a claim is reserved for.", labels=(*_CLAIM, "pod", "pod_uid")
        )
        published = {device.name: device for device in picture.inventory.devices}
        for entry in picture.entries:
            users = self.pods.get(entry.claim.uid, ())
            for name, uid in users:
                pods.add_metric([*_claim(entry.claim), name, uid], 1)
            for device in entry.devices:
                whose = (*_claim(entry.claim), ",".join(name for name, _ in users))
                kept = device.enforcement.value if device.enforcement is not None else ""
                own = (*whose, *_hardware(device), device.grant.share_id, kept)
                told = picture.usage.get(device.instance or device.gpu)
                if device.grant.share_id:
                    _add(memory, own, device.grant.memory_bytes)
                elif told is not None:
                    _add(busy, own, told.busy, 1000)
                    _add(used, own, told.memory_used_bytes)
                    _add(memory, own, told.memory_bytes)
                as_offered = published.get(device.grant.device)
                if as_offered is not None:
                    _add(well, own, healthy(as_offered, picture.lost))
        yield from (busy, used, memory, well, pods)


def _add(to: GaugeMetricFamily, labels: Sequence[str], amount: int | None, divided_by: int = 1) -> None:
    if amount is not None:
        to.add_metric(labels, amount / divided_by)


def _claim(claim: ClaimRef) -> tuple[str, ...]:
    return claim.namespace, claim.name, claim.uid


def _published(device: Device) -> tuple[str, ...]:
    return device.name, device.gpu, device.instance, device.profile.name if device.profile else ""


def _hardware(device: Prepared) -> tuple[str, ...]:
    return device.grant.device, device.gpu, device.instance, device.profile
