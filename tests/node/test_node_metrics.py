"""What Prometheus is told of a node: the GPUs, the claims that hold them, the work and its errors."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dra_driver.claims import ClaimGone
from dra_driver.devices import ClaimRef, Enforcement, Entry, Grant, Kind, Phase, Prepared, Taint
from dra_driver.facts import EventKind, Failure, GpuError, GpuEvent, Placement
from dra_driver.fake import FakeGpus
from dra_driver.inventory import tainted
from dra_driver.metrics import Metrics, Picture, usage
from dra_driver.prepare import PrepareError
from tests.node.offers import DYNAMIC, offered

GIB = 1 << 30
WHOLE, PART, SHARE = (
    ClaimRef(namespace="team-a", name=name, uid=f"uid-{name}") for name in ("train", "notebook", "serve")
)
Series = Mapping[tuple[tuple[str, str], ...], float]


def prepared(device: str, gpu: str, *, instance: str = "", share: str = "", memory: int | None = None) -> Prepared:
    grant = Grant(requests=("gpus",), pool="n1", device=device, share_id=share, memory_bytes=memory)
    kind = Kind.MIG if instance else Kind.GPU
    profile = "3g.40gb" if instance else ""
    return Prepared(grant=grant, kind=kind, gpu=gpu, instance=instance, profile=profile)


def entry(claim: ClaimRef, *devices: Prepared, phase: Phase = Phase.DONE) -> Entry:
    return Entry(claim=claim, phase=phase, boot="b", devices=devices)


def reserved(claim: ClaimRef, *pods: str) -> dict[str, object]:
    users = [{"resource": "pods", "name": pod, "uid": f"uid-of-{pod}"} for pod in pods]
    return {"metadata": {"name": claim.name, "uid": claim.uid}, "status": {"reservedFor": users}}


class Bench:
    """Two H100: one held whole, one cut for a claim."""

    def __init__(self) -> None:
        self.fake, self.metrics = FakeGpus("h100x2", node="n1"), Metrics()
        self.first, self.second = self.fake.uuids
        self.fake.set_mig(self.second, True)
        self.instance = self.fake.create_instance(self.second, 9, Placement(start=4, size=4)).uuid
        self.entries = [
            entry(WHOLE, prepared("gpu-0", self.first)),
            entry(PART, prepared("gpu-1-mig-3g40gb-9-4", self.second, instance=self.instance)),
        ]
        self.taints: dict[str, tuple[Taint, ...]] = {}

    def show(self) -> None:
        gpus, lost = self.fake.gpus(), frozenset(self.fake.lost())
        found = tainted(offered(FakeGpus("h100x2", node="n1").gpus(), DYNAMIC), self.taints)
        told = usage(self.fake, gpus, lost, self.entries)
        picture = Picture(inventory=found, gpus=gpus, lost=lost, entries=tuple(self.entries), usage=told, at=12.5)
        self.metrics.show(picture)

    def series(self, name: str) -> Series:
        """All series of a metric: value by labels."""
        families = text_string_to_metric_families(self.metrics.exposition().decode())
        return {
            tuple(sorted(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
            if sample.name == name
        }

    def value(self, name: str, **labels: str) -> float | None:
        """The one series with these labels; None without one."""
        found = [value for own, value in self.series(name).items() if labels.items() <= dict(own).items()]
        assert len(found) <= 1
        return found[0] if found else None


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_whole_gpu_is_told_with_its_claim_and_its_pods(bench: Bench) -> None:
    bench.fake.work(bench.first, 730)
    bench.fake.use(bench.first, 100, 7 * GIB)
    bench.metrics.reserved(reserved(WHOLE, "train-1", "train-0"))
    bench.show()
    labels = {
        "claim_namespace": "team-a",
        "claim_name": "train",
        "claim_uid": "uid-train",
        "pod": "train-0,train-1",
        "device": "gpu-0",
        "gpu": bench.first,
        "instance": "",
        "profile": "",
        "share": "",
        "enforcement": "",
    }
    assert bench.series("tutti_node_claim_device_busy_ratio") == {tuple(sorted(labels.items())): 0.73}
    assert bench.value("tutti_node_claim_device_memory_used_bytes", **labels) == 7 * GIB
    assert bench.value("tutti_node_claim_device_memory_bytes", **labels) == 81559 << 20
    assert bench.value("tutti_node_claim_device_healthy", **labels) == 1
    assert bench.value("tutti_node_claim_pod_info", claim_uid="uid-train", pod="train-1", pod_uid="uid-of-train-1") == 1


def test_an_instance_made_for_a_claim_is_known_by_its_uuid_and_profile(bench: Bench) -> None:
    bench.fake.use(bench.instance, 200, 3 * GIB)
    bench.show()
    known = {"claim_name": "notebook", "gpu": bench.second, "instance": bench.instance, "profile": "3g.40gb"}
    assert bench.value("tutti_node_claim_device_memory_used_bytes", **known) == 3 * GIB
    assert bench.value("tutti_node_claim_device_memory_bytes", **known) == 40448 << 20
    assert bench.value("tutti_node_claim_device_busy_ratio", **known) is None


def test_of_a_share_its_size_is_told_and_not_what_others_use_beside_it(bench: Bench) -> None:
    shared = replace(
        prepared("gpu-0", bench.first, share="s1", memory=10 * GIB),
        enforcement=Enforcement.MPS,
    )
    bench.entries = [entry(SHARE, shared)]
    bench.fake.use(bench.first, 100, 30 * GIB)
    bench.show()
    assert (
        bench.value("tutti_node_claim_device_memory_bytes", claim_name="serve", share="s1", enforcement="mps")
        == 10 * GIB
    )
    assert bench.series("tutti_node_claim_device_memory_used_bytes") == {}
    assert bench.value("tutti_node_gpu_memory_used_bytes", gpu=bench.first) == 30 * GIB


def test_gpus_are_told_whoever_holds_them(bench: Bench) -> None:
    bench.fake.work(bench.first, 250)
    bench.show()
    own = {"device": "gpu-0", "gpu": bench.first, "product": "NVIDIA H100 80GB HBM3"}
    assert bench.value("tutti_node_gpu_busy_ratio", **own) == 0.25
    assert bench.value("tutti_node_gpu_power_watts", **own) == 220
    assert bench.value("tutti_node_gpu_temperature_celsius", **own) == 40
    assert bench.value("tutti_node_gpu_busy_ratio", gpu=bench.second) is None
    assert bench.value("tutti_node_sampled_timestamp_seconds") == 12.5


def test_devices_with_a_taint_of_their_health_are_not_well_and_of_unmonitored_ones_nobody_knows(bench: Bench) -> None:
    def taint(key: str, effect: str) -> tuple[Taint, ...]:
        return (Taint(key=key, value="", effect=effect, since_ms=0),)

    bench.taints = {
        "gpu-0": taint("gpu.nvidia.com/xid", "NoSchedule"),
        "gpu-1": taint("gpu.nvidia.com/unmonitored", "None"),
        "gpu-1-mig-3g40gb-9-0": taint("example.com/being-cut-anew", "NoExecute"),
    }
    bench.show()
    assert bench.value("tutti_node_device_healthy", device="gpu-1-mig-3g40gb-9-0") == 1
    assert bench.value("tutti_node_device_healthy", device="gpu-0") == 0
    assert bench.value("tutti_node_device_healthy", device="gpu-1") is None
    assert bench.value("tutti_node_device_healthy", device="gpu-1-mig-3g40gb-9-4") == 1
    assert bench.value("tutti_node_claim_device_healthy", claim_name="train") == 0


def test_a_lost_gpu_has_no_usage_and_is_not_well(bench: Bench) -> None:
    bench.fake.lose(bench.second)
    bench.show()
    assert bench.value("tutti_node_gpu_memory_bytes", gpu=bench.second) is None
    assert bench.value("tutti_node_claim_device_memory_bytes", claim_name="notebook") is None
    assert bench.value("tutti_node_claim_device_healthy", claim_name="notebook") == 0
    assert bench.value("tutti_node_gpu_memory_bytes", gpu=bench.first) == 81559 << 20


def test_what_one_device_refuses_hides_no_other(bench: Bench) -> None:
    bench.fake.refuse("usage", Failure.UNKNOWN, bench.first)
    bench.show()
    assert bench.value("tutti_node_gpu_memory_bytes", gpu=bench.first) is None
    assert bench.value("tutti_node_gpu_memory_bytes", gpu=bench.second) == 81559 << 20


def test_prepared_devices_are_counted_by_kind_once_they_are_ready(bench: Bench) -> None:
    bench.entries.append(entry(SHARE, prepared("gpu-0", bench.first), phase=Phase.STARTED))
    bench.show()
    assert bench.value("tutti_node_prepared_devices", kind="gpu") == 1
    assert bench.value("tutti_node_prepared_devices", kind="mig") == 1
    assert bench.value("tutti_node_prepared_devices", kind="channel") == 0


def test_what_was_given_back_has_no_series_any_more(bench: Bench) -> None:
    bench.metrics.reserved(reserved(WHOLE, "train-0"))
    bench.show()
    del bench.entries[0]
    bench.show()
    assert bench.value("tutti_node_claim_device_healthy", claim_name="train") is None
    assert bench.series("tutti_node_claim_pod_info") == {}
    bench.entries.append(entry(WHOLE, prepared("gpu-0", bench.first)))
    bench.show()
    assert bench.value("tutti_node_claim_device_healthy", claim_name="train", pod="") == 1


def test_pods_are_known_of_a_claim_that_is_on_its_way_and_forgotten_of_those_that_never_came(bench: Bench) -> None:
    late = [ClaimRef(namespace="team-a", name=f"late-{number}", uid=f"uid-{number}") for number in range(1030)]
    for claim in late:
        bench.metrics.reserved(reserved(claim, "someone"))
    bench.show()
    bench.entries = [entry(late[0], prepared("gpu-0", bench.first)), entry(late[-1], prepared("gpu-1", bench.second))]
    bench.show()
    assert {dict(own)["claim_name"] for own in bench.series("tutti_node_claim_pod_info")} == {"late-1029"}


def test_work_is_timed_and_its_errors_are_counted_by_kind(bench: Bench) -> None:
    in_use = PrepareError("not given back")
    in_use.__cause__ = GpuError(Failure.IN_USE, "nvmlGpuInstanceDestroy")
    for seconds in (0.004, 0.3):
        bench.metrics.took("prepare", seconds)
    bench.metrics.failed("unprepare", in_use)
    bench.metrics.failed("prepare", ClaimGone("gone"))
    assert bench.value("tutti_node_claim_seconds_count", operation="prepare") == 2
    assert bench.value("tutti_node_claim_seconds_bucket", operation="prepare", le="0.05") == 1
    assert bench.series("tutti_node_claim_errors_total") == {
        (("kind", "GpuError:in-use"), ("operation", "unprepare")): 1,
        (("kind", "ClaimGone"), ("operation", "prepare")): 1,
    }


def test_every_event_of_a_gpu_is_counted_those_of_applications_too(bench: Bench) -> None:
    for code in (13, 13, 119):
        bench.metrics.heard(GpuEvent(gpu=bench.first, kind=EventKind.XID, code=code))
    assert bench.value("tutti_node_gpu_events_total", gpu=bench.first, kind="xid", code="13") == 2
    assert bench.value("tutti_node_gpu_events_total", gpu=bench.first, kind="xid", code="119") == 1
