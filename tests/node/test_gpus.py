"""What `Gpus` promises, of the machine that is made up and of NVML (through the stub): one suite for both."""

from collections.abc import Iterator
from threading import Thread
from typing import Any, Protocol

import pytest

from dra_driver.facts import (
    ComputeMode,
    EventKind,
    Failure,
    GpuError,
    GpuEvent,
    Gpus,
    MigInstance,
    Placement,
    Process,
    Recovery,
    Usage,
)
from dra_driver.fake import FakeGpus
from tests.node.stub import session

MACHINE = "h100x1+t4x1+a100x1"
GIB = 1 << 30


class Hands(Protocol):
    def lose(self, gpu: str) -> None: ...
    def find(self, gpu: str) -> None: ...
    def use(self, device: str, pid: int, memory_bytes: int = GIB) -> None: ...
    def leave(self, pid: int) -> None: ...
    def work(self, gpu: str, busy: int) -> None: ...
    def ail(self, gpu: str, recovery: Recovery) -> None: ...
    def inject(self, event: GpuEvent) -> None: ...
    def refuse(self, call: str, failure: Failure, *, once: bool = True) -> None: ...
    def reset(self, gpu: str) -> None: ...


class Bench:
    """GPUs, whoever stands at the machine, and the UUIDs of its H100, T4 and A100."""

    def __init__(self, gpus: Gpus, hands: Any) -> None:
        self.gpus = gpus
        self.hands: Hands = hands
        self.h100, self.t4, self.a100 = (gpu.uuid for gpu in gpus.gpus())

    def refused(self, call: str, *arguments: Any) -> Failure:
        with pytest.raises(GpuError) as refusal:
            getattr(self.gpus, call)(*arguments)
        return refusal.value.failure

    def cut(self, profile_id: int, start: int, size: int) -> MigInstance:
        return self.gpus.create_instance(self.h100, profile_id, Placement(start=start, size=size))


@pytest.fixture(params=["fake", "nvml"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    fake = FakeGpus(MACHINE)
    if request.param == "fake":
        yield Bench(fake, fake)
        return
    with session(fake.gpus()) as (nvml, stub):
        yield Bench(nvml, stub)


def test_the_same_machine_is_told_alike(bench: Bench) -> None:
    told = bench.gpus.gpus()
    assert [(gpu.product, gpu.minor, gpu.memory_bytes) for gpu in told] == [
        ("NVIDIA H100 80GB HBM3", 0, 81559 << 20),
        ("Tesla T4", 1, 15360 << 20),
        ("NVIDIA A100-SXM4-80GB", 2, 81920 << 20),
    ]
    assert [gpu.mig and len(gpu.mig.profiles) for gpu in told] == [7, None, 7]
    assert [gpu.mig and gpu.mig.on_demand for gpu in told] == [True, None, False]
    assert [dict(gpu.links) for gpu in told] == [{"switch": 18}, {}, {"switch": 12}]
    assert bench.gpus.driver().version == "580.126.20"
    assert bench.gpus.driver().cuda == (13, 0)


def test_one_gpu_is_told_as_among_all_of_them(bench: Bench) -> None:
    bench.gpus.set_mig(bench.h100, True)
    bench.cut(9, 4, 4)
    assert tuple(bench.gpus.gpu(uuid) for uuid in (bench.h100, bench.t4, bench.a100)) == bench.gpus.gpus()


def test_one_gpu_that_is_lost_or_was_never_there_does_not_answer_and_is_found_again(bench: Bench) -> None:
    bench.hands.lose(bench.t4)
    assert bench.refused("gpu", bench.t4) is Failure.GPU_IS_LOST
    assert bench.refused("gpu", "GPU-nobody") is Failure.GPU_IS_LOST
    assert bench.gpus.gpu(bench.a100).uuid == bench.a100
    bench.hands.find(bench.t4)
    assert bench.gpus.gpu(bench.t4) == bench.gpus.gpus()[1]


def test_every_fact_of_every_board_reads_the_same_through_nvml() -> None:
    for machine in ("gb200x4", "a30x4", "b300x2", "rtx-pro-6000x1+l40sx1", "h100-nvlx2", "gh200x1"):
        fake = FakeGpus(machine, node="gpu-13")
        with session(fake.gpus()) as (nvml, _):
            for real, made_up in zip(nvml.gpus(), fake.gpus(), strict=True):
                for name in real.__slots__:
                    assert getattr(real, name) == getattr(made_up, name), (machine, name)


def test_hopper_changes_its_mode_at_once_and_ampere_after_a_reset(bench: Bench) -> None:
    bench.gpus.set_mig(bench.h100, True)
    bench.gpus.set_mig(bench.a100, True)
    modes = {gpu.uuid: gpu.mig and (gpu.mig.on, gpu.mig.pending) for gpu in bench.gpus.gpus()}
    assert modes == {bench.h100: (True, True), bench.t4: None, bench.a100: (False, True)}
    bench.hands.reset(bench.a100)
    mig = bench.gpus.gpus()[2].mig
    assert mig is not None
    assert mig.on


def test_a_mode_does_not_change_under_a_process_and_nothing_stays_pending(bench: Bench) -> None:
    for gpu, index in ((bench.h100, 0), (bench.a100, 2)):
        bench.hands.use(gpu, 4711)
        assert bench.refused("set_mig", gpu, True) is Failure.IN_USE
        mig = bench.gpus.gpus()[index].mig
        assert mig is not None
        assert (mig.on, mig.pending) == (False, False)
        bench.hands.leave(4711)
    bench.gpus.set_mig(bench.h100, True)


def test_the_mode_stays_while_there_is_an_instance(bench: Bench) -> None:
    bench.gpus.set_mig(bench.h100, True)
    instance = bench.cut(19, 6, 1)
    assert bench.refused("set_mig", bench.h100, False) is Failure.IN_USE
    assert bench.gpus.instances(bench.h100) == (instance,)
    bench.gpus.destroy_instance(instance)
    bench.gpus.set_mig(bench.h100, False)
    mig = bench.gpus.gpus()[0].mig
    assert mig is not None
    assert (mig.on, mig.pending) == (False, False)


def test_a_board_without_mig_refuses_all_of_it(bench: Bench) -> None:
    assert bench.refused("set_mig", bench.t4, True) is Failure.NOT_SUPPORTED
    assert bench.gpus.instances(bench.t4) == ()


def test_no_instance_is_made_while_the_mode_is_off(bench: Bench) -> None:
    assert bench.refused("create_instance", bench.h100, 9, Placement(start=0, size=4)) is Failure.NOT_SUPPORTED
    assert bench.gpus.instances(bench.h100) == ()


def test_an_instance_is_made_just_there_and_told_by_placement(bench: Bench) -> None:
    bench.gpus.set_mig(bench.h100, True)
    upper = bench.cut(9, 4, 4)
    lower = bench.cut(19, 2, 1)
    assert (upper.profile, upper.placement, upper.compute_id) == ("3g.40gb", Placement(start=4, size=4), 0)
    assert upper.uuid.startswith("MIG-")
    assert upper.uuid != lower.uuid
    assert bench.gpus.instances(bench.h100) == (lower, upper)
    mig = bench.gpus.gpus()[0].mig
    assert mig is not None
    assert mig.instances == (lower, upper)


def test_what_is_in_the_way_or_unlawful_is_refused_and_nothing_is_left(bench: Bench) -> None:
    bench.gpus.set_mig(bench.h100, True)
    there = (bench.cut(20, 0, 1), bench.cut(9, 4, 4))
    assert (
        bench.refused("create_instance", bench.h100, 14, Placement(start=4, size=2)) is Failure.INSUFFICIENT_RESOURCES
    )
    assert (
        bench.refused("create_instance", bench.h100, 20, Placement(start=1, size=1)) is Failure.INSUFFICIENT_RESOURCES
    )
    assert bench.refused("create_instance", bench.h100, 14, Placement(start=1, size=2)) is Failure.INVALID_ARGUMENT
    assert bench.refused("create_instance", bench.h100, 99, Placement(start=1, size=1)) is Failure.INVALID_ARGUMENT
    assert bench.gpus.instances(bench.h100) == there


def test_a_gpu_instance_goes_again_when_its_compute_instance_is_refused(bench: Bench) -> None:
    bench.gpus.set_mig(bench.h100, True)
    bench.hands.refuse("create_compute_instance", Failure.INSUFFICIENT_RESOURCES)
    assert bench.refused("create_instance", bench.h100, 0, Placement(start=0, size=8)) is Failure.INSUFFICIENT_RESOURCES
    assert bench.gpus.instances(bench.h100) == ()
    assert bench.cut(0, 0, 8).profile == "7g.80gb"


def test_an_instance_in_use_stays_and_goes_once_it_is_left(bench: Bench) -> None:
    bench.gpus.set_mig(bench.h100, True)
    instance = bench.cut(9, 0, 4)
    bench.hands.use(instance.uuid, 12, 3 * GIB)
    assert bench.refused("destroy_instance", instance) is Failure.IN_USE
    assert bench.gpus.instances(bench.h100) == (instance,)
    bench.hands.leave(12)
    bench.gpus.destroy_instance(instance)
    assert bench.gpus.instances(bench.h100) == ()
    assert bench.refused("destroy_instance", instance) is Failure.NOT_FOUND


def test_a_process_holds_its_own_instance_and_no_other(bench: Bench) -> None:
    bench.gpus.set_mig(bench.h100, True)
    held, idle = bench.cut(9, 0, 4), bench.cut(9, 4, 4)
    bench.hands.use(held.uuid, 12)
    bench.gpus.destroy_instance(idle)
    assert bench.gpus.instances(bench.h100) == (held,)


def test_half_an_instance_is_told_as_such_and_can_be_destroyed(bench: Bench) -> None:
    bench.gpus.set_mig(bench.h100, True)
    instance = bench.cut(9, 0, 4)
    bench.hands.refuse("destroy_gpu_instance", Failure.UNKNOWN)
    assert bench.refused("destroy_instance", instance) is Failure.UNKNOWN
    (half,) = bench.gpus.instances(bench.h100)
    assert (half.compute_id, half.uuid, half.placement) == (None, "", instance.placement)
    bench.gpus.destroy_instance(instance)
    assert bench.gpus.instances(bench.h100) == ()


def test_another_instance_in_the_same_place_is_not_taken_for_the_one_that_is_gone(bench: Bench) -> None:
    bench.gpus.set_mig(bench.h100, True)
    first = bench.cut(9, 0, 4)
    bench.gpus.destroy_instance(first)
    second = bench.cut(9, 0, 4)
    assert (second.id, second.placement) == (first.id, first.placement)
    assert bench.refused("destroy_instance", first) is Failure.NOT_FOUND
    assert bench.gpus.instances(bench.h100) == (second,)


def test_who_uses_a_gpu_is_told_with_the_instance(bench: Bench) -> None:
    bench.gpus.set_mig(bench.h100, True)
    instance = bench.cut(14, 2, 2)
    bench.hands.use(instance.uuid, 31, 5 * GIB)
    bench.hands.use(bench.t4, 32, 2 * GIB)
    assert bench.gpus.processes(bench.h100) == (Process(pid=31, memory_bytes=5 * GIB, instance=instance.id),)
    assert bench.gpus.processes(bench.t4) == (Process(pid=32, memory_bytes=2 * GIB),)
    assert bench.gpus.processes(bench.a100) == ()


def test_how_busy_a_gpu_and_an_instance_are(bench: Bench) -> None:
    bench.gpus.set_mig(bench.h100, True)
    instance = bench.cut(14, 2, 2)
    bench.hands.use(instance.uuid, 31, 5 * GIB)
    bench.hands.work(bench.t4, 420)
    assert bench.gpus.usage(bench.t4) == Usage(
        busy=420, memory_used_bytes=0, memory_bytes=15360 << 20, power_milliwatts=322_000, celsius=46
    )
    assert bench.gpus.usage(instance.uuid) == Usage(busy=None, memory_used_bytes=5 * GIB, memory_bytes=20096 << 20)
    assert bench.gpus.usage(bench.h100).busy is None
    assert bench.gpus.usage(bench.h100).memory_used_bytes == 5 * GIB
    assert bench.refused("usage", "MIG-nobody") is Failure.NOT_FOUND


def test_the_compute_mode_is_set_and_told(bench: Bench) -> None:
    bench.gpus.set_compute_mode(bench.t4, ComputeMode.EXCLUSIVE_PROCESS)
    modes = [gpu.compute_mode for gpu in bench.gpus.gpus()]
    assert modes == [ComputeMode.DEFAULT, ComputeMode.EXCLUSIVE_PROCESS, ComputeMode.DEFAULT]


def test_memory_limits_are_refused_where_the_driver_has_none(bench: Bench) -> None:
    assert not bench.gpus.gpus()[0].memory_limits
    assert bench.refused("limit_memory", bench.h100, "/sys/fs/cgroup/pod", GIB) is Failure.NOT_SUPPORTED


def test_a_lost_gpu_hides_no_other_and_is_told_until_it_is_found(bench: Bench) -> None:
    bench.hands.lose(bench.h100)
    assert bench.gpus.lost() == (bench.h100,)
    assert [gpu.index for gpu in bench.gpus.gpus()] == [1, 2]
    for call, arguments in (
        ("processes", ()),
        ("usage", ()),
        ("recovery", ()),
        ("instances", ()),
        ("set_mig", (True,)),
    ):
        assert bench.refused(call, bench.h100, *arguments) is Failure.GPU_IS_LOST
    bench.hands.find(bench.h100)
    assert bench.gpus.lost() == ()
    assert [gpu.uuid for gpu in bench.gpus.gpus()] == [bench.h100, bench.t4, bench.a100]


def test_an_unknown_gpu_is_not_found(bench: Bench) -> None:
    for call, arguments in (("processes", ()), ("recovery", ()), ("set_mig", (True,)), ("instances", ())):
        assert bench.refused(call, "GPU-nobody", *arguments) is Failure.NOT_FOUND


def test_what_is_to_be_done_is_told_where_the_driver_can(bench: Bench) -> None:
    assert bench.gpus.recovery(bench.h100) is Recovery.NONE
    bench.hands.ail(bench.h100, Recovery.DRAIN_AND_RESET)
    assert bench.gpus.recovery(bench.h100) is Recovery.DRAIN_AND_RESET
    assert bench.gpus.recovery(bench.t4) is None


def test_events_come_in_order_and_then_nothing_does(bench: Bench) -> None:
    assert bench.gpus.wait(0) is None
    xid = GpuEvent(gpu=bench.h100, kind=EventKind.XID, code=79)
    ecc = GpuEvent(gpu=bench.a100, kind=EventKind.DOUBLE_BIT_ECC)
    bench.hands.inject(xid)
    bench.hands.inject(ecc)
    bench.hands.ail(bench.h100, Recovery.GPU_RESET)
    assert [bench.gpus.wait(0) for _ in range(4)] == [
        xid,
        ecc,
        GpuEvent(gpu=bench.h100, kind=EventKind.RECOVERY, code=1),
        None,
    ]


def test_an_event_of_one_instance_names_it_and_a_change_of_mig_is_one(bench: Bench) -> None:
    assert bench.gpus.wait(0) is None
    bench.gpus.set_mig(bench.h100, True)
    instance = bench.cut(9, 0, 4)
    bench.hands.inject(GpuEvent(gpu=bench.h100, kind=EventKind.XID, code=94, instance=instance.id))
    told = [bench.gpus.wait(0) for _ in range(4)]
    changed = GpuEvent(gpu=bench.h100, kind=EventKind.MIG_CHANGED)
    assert told == [changed, changed, GpuEvent(gpu=bench.h100, kind=EventKind.XID, code=94, instance=instance.id), None]


def test_who_waits_is_woken_by_what_happens(bench: Bench) -> None:
    assert bench.gpus.wait(0) is None
    heard: list[GpuEvent | None] = []
    waiting = Thread(target=lambda: heard.append(bench.gpus.wait(30_000)))
    waiting.start()
    bench.hands.inject(GpuEvent(gpu=bench.h100, kind=EventKind.XID, code=48))
    waiting.join(20)
    assert heard == [GpuEvent(gpu=bench.h100, kind=EventKind.XID, code=48)]


@pytest.mark.parametrize("call", ["create_instance", "set_compute_mode", "recovery", "wait"])
def test_any_call_may_fail_once_and_then_works(bench: Bench, call: str) -> None:
    bench.gpus.set_mig(bench.h100, True)
    arguments: dict[str, tuple[Any, ...]] = {
        "create_instance": (bench.h100, 9, Placement(start=0, size=4)),
        "set_compute_mode": (bench.h100, ComputeMode.DEFAULT),
        "recovery": (bench.h100,),
        "wait": (0,),
    }
    bench.hands.refuse(call, Failure.UNKNOWN)
    assert bench.refused(call, *arguments[call]) is Failure.UNKNOWN
    getattr(bench.gpus, call)(*arguments[call])


def test_gpus_that_tell_no_errors_are_known_once_somebody_listens() -> None:
    fake = FakeGpus(MACHINE)
    t4 = fake.uuids[1]
    with session(fake.gpus()) as (nvml, _):
        assert nvml.unmonitored() == ()
        assert nvml.wait(0) is None
        assert nvml.unmonitored() == (t4,)
    fake.mute(t4)
    fake.inject(GpuEvent(gpu=t4, kind=EventKind.XID, code=79))
    assert fake.wait(0) is None
    assert fake.unmonitored() == (t4,)
