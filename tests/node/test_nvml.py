"""NVML through real ctypes, over a library of ours: old drivers, refusals at every call, and what has no fake."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest

from dra_driver import nvml as module
from dra_driver import readings
from dra_driver.facts import (
    ComputeMode,
    EventKind,
    Fabric,
    FabricState,
    Failure,
    Gpu,
    GpuError,
    GpuEvent,
    Placement,
    Process,
    Recovery,
    SessionOver,
)
from dra_driver.fake import FakeGpus
from dra_driver.nvml import Nvml
from tests.node.stub import CALLS, SOURCE, Stub, library, session

GIB = 1 << 30
CLUSTER = "11111111-2222-3333-4444-555555555555"
FUNCTION_NOT_FOUND, VERSION_MISMATCH = 13, 25


@pytest.fixture
def bench() -> Iterator[tuple[Nvml, Stub]]:
    with session(FakeGpus("gb200x1+t4x1", node="gpu-14").gpus()) as both:
        yield both


def refuse(stub: Stub, call: str, code: int, *, once: bool = False) -> None:
    stub.library.stub_refuse(call.encode(), code, int(once))


def first(nvml: Nvml) -> Gpu:
    return nvml.gpus()[0]


def test_every_function_that_is_called_is_called_here() -> None:
    with session(FakeGpus("a30x2").gpus()) as (nvml, stub):
        nvml.gpus()
    called = stub.called()
    with session(FakeGpus("gb200x1+t4x1").gpus()) as (nvml, stub):
        stub.library.stub_limits_memory(1)
        gpu, plain = (each.uuid for each in nvml.gpus())
        nvml.driver()
        nvml.set_mig(gpu, True)
        instance = nvml.create_instance(gpu, 9, Placement(start=4, size=4))
        nvml.usage(instance.uuid)
        nvml.destroy_instance(instance)
        nvml.set_compute_mode(plain, ComputeMode.DEFAULT)
        nvml.limit_memory(plain, "/sys/fs/cgroup/pod", GIB)
        nvml.recovery(gpu)
        nvml.processes(plain)
        nvml.wait(0)
        for call in (
            "nvmlDeviceGetGpuFabricInfoV",
            "nvmlDeviceGetMemoryInfo_v2",
            "nvmlDeviceGetGpuInstanceProfileInfoV",
        ):
            refuse(stub, call, FUNCTION_NOT_FOUND)
        nvml.gpus()
    called |= stub.called()
    exported = set(re.findall(r"^(?:int|const char \*) ?(nvml\w+)\(", SOURCE.read_text(), re.MULTILINE))
    assert exported == called
    named = set(re.findall(r'"(nvml[A-Z]\w+)"', Path(module.__file__).read_text()))
    assert [name for name in sorted(named) if not any(re.fullmatch(rf"{name}(_v\d|V)?", one) for one in called)] == []


def test_no_gpu_is_attached_at_the_start_and_all_is_given_back(bench: tuple[Nvml, Stub]) -> None:
    _, stub = bench
    assert stub.library.stub_flags() == 1
    assert (stub.library.stub_sessions(), stub.library.stub_event_sets()) == (1, 1)


def test_versions_of_cuda_are_taken_apart(bench: tuple[Nvml, Stub]) -> None:
    nvml, stub = bench
    stub.library.stub_cuda(12080)
    assert nvml.driver().cuda == (12, 8)


def test_a_session_that_cannot_begin_leaves_none_open() -> None:
    stub = Stub(FakeGpus("h100x1").gpus())
    before, pynvml.nvmlLib = pynvml.nvmlLib, stub.library
    pynvml._nvmlGetFunctionPointer_cache.clear()
    try:
        refuse(stub, "nvmlDeviceGetCount_v2", Failure.UNKNOWN, once=True)
        with pytest.raises(GpuError, match="nvmlDeviceGetCount"):
            Nvml()
        assert stub.library.stub_sessions() == 0
        refuse(stub, "nvmlInitWithFlags", 9, once=True)
        with pytest.raises(GpuError, match="NVML error 9"):
            Nvml()
    finally:
        pynvml.nvmlLib = before
        pynvml._nvmlGetFunctionPointer_cache.clear()


def test_a_driver_older_than_the_structures_is_read_all_the_same(bench: tuple[Nvml, Stub]) -> None:
    nvml, stub = bench
    new = first(nvml)
    assert new.rack is not None
    assert (new.rack.slot, new.rack.tray, new.rack.module) == (24, 14, 1)
    refuse(stub, "nvmlDeviceGetGpuInstanceProfileInfoV", FUNCTION_NOT_FOUND)
    refuse(stub, "nvmlDeviceGetMemoryInfo_v2", FUNCTION_NOT_FOUND)
    refuse(stub, "nvmlDeviceGetGpuFabricInfoV", VERSION_MISMATCH)
    refuse(stub, "nvmlDeviceGetPlatformInfo", VERSION_MISMATCH)
    refuse(stub, "nvmlDeviceGetAddressingMode", FUNCTION_NOT_FOUND)
    assert first(nvml) == replace(new, rack=None, addressing_mode="")


def test_profiles_without_a_name_are_named_by_the_rule(bench: tuple[Nvml, Stub]) -> None:
    nvml, stub = bench
    told = first(nvml).mig
    stub.library.stub_old_names(0)
    assert first(nvml).mig == told


OPTIONAL = {
    "nvmlDeviceGetSerial": ("serial", ""),
    "nvmlDeviceGetBrand": ("brand", ""),
    "nvmlDeviceGetArchitecture": ("architecture", "Unknown"),
    "nvmlDeviceGetModuleId": ("module", None),
    "nvmlDeviceGetAddressingMode": ("addressing_mode", ""),
    "nvmlDeviceGetEccMode": ("ecc", None),
    "nvmlDeviceGetMigMode": ("mig", None),
    "nvmlDeviceGetPlatformInfo": ("rack", None),
    "nvmlDeviceGetNvLinkState": ("links", {}),
    "nvmlDeviceGetVirtualizationMode": ("virtual", False),
    "nvmlDeviceGetComputeMode": ("compute_mode", ComputeMode.DEFAULT),
}


@pytest.mark.parametrize("call", sorted(OPTIONAL))
def test_what_a_driver_does_not_tell_is_left_out_and_nothing_else_changes(bench: tuple[Nvml, Stub], call: str) -> None:
    nvml, stub = bench
    told = first(nvml)
    refuse(stub, call, Failure.NOT_SUPPORTED)
    name, value = OPTIONAL[call]
    if call == "nvmlDeviceGetArchitecture" and told.mig:  # whether a reset is needed is known by it
        told = replace(told, mig=replace(told.mig, on_demand=False))
    assert first(nvml) == replace(told, **{name: value})  # type: ignore[arg-type]


def test_memory_may_be_untold(bench: tuple[Nvml, Stub]) -> None:
    nvml, stub = bench
    refuse(stub, "nvmlDeviceGetMemoryInfo", Failure.NOT_SUPPORTED)
    refuse(stub, "nvmlDeviceGetMemoryInfo_v2", Failure.NOT_SUPPORTED)
    assert first(nvml).memory_bytes is None
    assert nvml.usage(first(nvml).uuid).memory_bytes is None


MANDATORY = ["nvmlDeviceGetName", "nvmlDeviceGetMinorNumber", "nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetMemoryInfo_v2"]


@pytest.mark.parametrize("call", MANDATORY)
@pytest.mark.parametrize("code", [Failure.GPU_IS_LOST, Failure.RESET_REQUIRED, Failure.UNKNOWN, 27])
def test_a_gpu_that_cannot_be_read_is_left_out_and_told(bench: tuple[Nvml, Stub], call: str, code: int) -> None:
    nvml, stub = bench
    broken, sound = nvml.gpus()
    refuse(stub, call, code, once=True)
    assert nvml.gpus() == (broken, sound), "asked once more"
    assert nvml.lost() == ()
    for _ in range(2):
        refuse(stub, call, code, once=True)
    assert nvml.gpus() == (sound,)
    assert nvml.lost() == (broken.uuid,)
    assert nvml.gpus() == (broken, sound)
    assert nvml.lost() == ()


@pytest.mark.parametrize("call", ["nvmlDeviceGetName", "nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetCount_v2"])
def test_where_no_gpu_answers_any_more_the_session_is_over(bench: tuple[Nvml, Stub], call: str) -> None:
    nvml, stub = bench
    refuse(stub, call, Failure.UNKNOWN)
    if call == "nvmlDeviceGetName":  # Asked of no GPU before: it is the GPUs', not the session's.
        assert nvml.gpus() == ()
        assert len(nvml.lost()) == 2
    stub.library.stub_allow()
    assert len(nvml.gpus()) == 2
    refuse(stub, call, Failure.UNKNOWN)
    with pytest.raises(SessionOver, match=r"none of 2 GPUs.*answers in this session.*; the driver was loaded anew"):
        nvml.gpus()


def test_gpus_that_are_lost_one_and_all_do_not_end_the_session(bench: tuple[Nvml, Stub]) -> None:
    nvml, stub = bench
    gpus = [gpu.uuid for gpu in nvml.gpus()]
    refuse(stub, "nvmlDeviceGetName", Failure.GPU_IS_LOST)
    assert nvml.gpus() == ()
    assert sorted(nvml.lost()) == sorted(gpus)


def test_a_gpu_without_permission_stops_the_reading(bench: tuple[Nvml, Stub]) -> None:
    nvml, stub = bench
    refuse(stub, "nvmlDeviceGetName", Failure.NO_PERMISSION, once=True)
    with pytest.raises(GpuError, match=r"^GPU-[0-9a-f-]+: nvmlDeviceGetName: Refused \(NVML error 4\)$") as refusal:
        nvml.gpus()
    assert refusal.value.failure is Failure.NO_PERMISSION


HEALTH = [
    (0, 1, True),
    (0, 0, True),
    (0xAA | 0x100, 1, True),  # all flags false, configuration in order
    (0, 2, False),
    (0, 3, False),
    (0x1, 0, False),  # degraded bandwidth
    (0x4, 0, False),  # route recovery
    (0x10, 0, False),  # route unhealthy
    (0x40, 0, False),  # access timeout recovery
    (0x500, 0, False),  # too few NVLinks configured
]


@pytest.mark.parametrize(("mask", "summary", "healthy"), HEALTH)
def test_a_fabric_that_is_degraded_is_told(bench: tuple[Nvml, Stub], mask: int, summary: int, healthy: bool) -> None:
    nvml, stub = bench
    fabric = Fabric(state=FabricState.COMPLETED, cluster=CLUSTER, clique=7)
    stub.fabric(0, fabric, mask=mask, summary=summary)
    assert first(nvml).fabric == replace(fabric, healthy=healthy)


def test_a_registration_that_failed_is_not_healthy_and_one_under_way_is_no_illness(bench: tuple[Nvml, Stub]) -> None:
    nvml, stub = bench
    done = Fabric(state=FabricState.COMPLETED, cluster=CLUSTER, clique=7)
    stub.fabric(0, done, status=999)
    assert first(nvml).fabric == replace(done, healthy=False)
    under_way = Fabric(state=FabricState.IN_PROGRESS, cluster="", clique=0)
    stub.fabric(0, under_way, status=27)
    assert first(nvml).fabric == under_way


def test_a_state_of_the_fabric_that_is_not_known_is_none_to_be_used_in(bench: tuple[Nvml, Stub]) -> None:
    nvml, stub = bench
    stub.library.stub_fabric(0, bytes(range(16)), 7, 99, 0, 0, 1)
    told = first(nvml).fabric
    assert told is not None
    assert told.state is FabricState.NOT_STARTED


def test_links_that_are_down_or_lead_nowhere_known_are_not_counted() -> None:
    with session(FakeGpus("a30x2").gpus()) as (nvml, stub):
        one, other = nvml.gpus()
        assert (one.links, other.links) == ({other.pci_bus: 4}, {one.pci_bus: 4})
        refuse(stub, "nvmlDeviceGetNvLinkRemoteDeviceType", Failure.NOT_SUPPORTED)
        assert [dict(gpu.links) for gpu in nvml.gpus()] == [{}, {}]


def test_one_process_in_several_lists_is_one(bench: tuple[Nvml, Stub]) -> None:
    nvml, stub = bench
    gpu = nvml.gpus()[1].uuid
    stub.use(gpu, 40, 2 * GIB, kind=0)
    stub.use(gpu, 40, 3 * GIB, kind=2)
    stub.use(gpu, 41, 5 * GIB, kind=0)
    stub.use(gpu, 41, 4 * GIB, kind=2)
    stub.use(gpu, 7, GIB, kind=1)
    stub.use(gpu, 8, (1 << 64) - 1, kind=0)
    assert nvml.processes(gpu) == (
        Process(pid=7, memory_bytes=GIB),
        Process(pid=8, memory_bytes=None),
        Process(pid=40, memory_bytes=3 * GIB),
        Process(pid=41, memory_bytes=5 * GIB),
    )
    refuse(stub, "nvmlDeviceGetMPSComputeRunningProcesses_v3", FUNCTION_NOT_FOUND)
    assert [process.memory_bytes for process in nvml.processes(gpu)] == [GIB, None, 2 * GIB, 5 * GIB]


def test_a_cgroup_is_limited_and_let_go(bench: tuple[Nvml, Stub]) -> None:
    nvml, stub = bench
    stub.library.stub_limits_memory(1)
    assert [gpu.memory_limits for gpu in nvml.gpus()] == [False, True]
    gpu = nvml.gpus()[1].uuid
    nvml.limit_memory(gpu, "/sys/fs/cgroup/pod", 10 * GIB)
    assert (stub.library.stub_limit_group(1), stub.library.stub_limit(1)) == (b"/sys/fs/cgroup/pod", 10 * GIB)
    nvml.limit_memory(gpu, "/sys/fs/cgroup/pod", None)
    assert stub.library.stub_limit(1) == (1 << 64) - 1
    nvml.limit_memory(gpu, "/sys/fs/cgroup", 10 * GIB)
    assert nvml.gpus()[1].memory_limits
    with pytest.raises(GpuError) as refusal:
        nvml.limit_memory(gpu, "pod", GIB)
    assert refusal.value.failure is Failure.INVALID_ARGUMENT


def test_an_action_that_nobody_knows_yet_is_taken_for_the_gravest(bench: tuple[Nvml, Stub]) -> None:
    nvml, stub = bench
    stub.library.stub_recovery(0, 42)
    assert nvml.recovery(first(nvml).uuid) is Recovery.SYSTEM_REBOOT


def test_one_gpu_that_cannot_be_read_is_as_one_that_is_lost_and_asked_twice_before(bench: tuple[Nvml, Stub]) -> None:
    nvml, stub = bench
    gpu = first(nvml)
    refuse(stub, "nvmlDeviceGetName", Failure.RESET_REQUIRED, once=True)
    assert nvml.gpu(gpu.uuid) == gpu
    refuse(stub, "nvmlDeviceGetName", Failure.RESET_REQUIRED)
    with pytest.raises(GpuError, match="the GPU does not answer") as refusal:
        nvml.gpu(gpu.uuid)
    assert refusal.value.failure is Failure.GPU_IS_LOST
    stub.library.stub_allow()
    assert nvml.gpu(gpu.uuid) == gpu
    refuse(stub, "nvmlDeviceGetName", Failure.NO_PERMISSION, once=True)
    with pytest.raises(GpuError) as refusal:
        nvml.gpu(gpu.uuid)
    assert refusal.value.failure is Failure.NO_PERMISSION


def test_one_gpu_is_not_said_to_be_lost_where_none_answers_any_more(bench: tuple[Nvml, Stub]) -> None:
    nvml, stub = bench
    gpu = first(nvml).uuid
    refuse(stub, "nvmlDeviceGetName", Failure.UNKNOWN)
    with pytest.raises(SessionOver):
        nvml.gpu(gpu)


@pytest.mark.parametrize(
    ("told", "read"),
    [(1, ComputeMode.EXCLUSIVE_PROCESS), (3, ComputeMode.EXCLUSIVE_PROCESS), (7, ComputeMode.DEFAULT)],
    ids=["by one thread, as old drivers have it", "by one process", "not known"],
)
def test_every_compute_mode_can_be_read(bench: tuple[Nvml, Stub], told: int, read: ComputeMode) -> None:
    nvml, _ = bench
    pynvml.nvmlDeviceSetComputeMode(pynvml.nvmlDeviceGetHandleByIndex(0), told)
    assert first(nvml).compute_mode is read


def test_confidential_computing_is_of_the_whole_node(bench: tuple[Nvml, Stub]) -> None:
    nvml, stub = bench
    stub.library.stub_confidential(1)
    assert [gpu.confidential for gpu in nvml.gpus()] == [True, True]


def test_an_instance_that_can_neither_be_finished_nor_undone_is_told_with_both_reasons(
    bench: tuple[Nvml, Stub],
) -> None:
    nvml, stub = bench
    gpu = first(nvml).uuid
    nvml.set_mig(gpu, True)
    refuse(stub, CALLS["create_compute_instance"], Failure.INSUFFICIENT_RESOURCES, once=True)
    refuse(stub, CALLS["destroy_gpu_instance"], Failure.IN_USE, once=True)
    with pytest.raises(
        GpuError, match=r"nvmlGpuInstanceCreateComputeInstance.*could not be undone.*nvmlGpuInstanceDestroy"
    ):
        nvml.create_instance(gpu, 9, Placement(start=0, size=4))
    assert [(half.compute_id, half.placement.size) for half in nvml.instances(gpu)] == [(None, 4)]


def test_what_an_operator_has_cut_further_is_left_alone(bench: tuple[Nvml, Stub]) -> None:
    nvml, stub = bench
    gpu = first(nvml).uuid
    nvml.set_mig(gpu, True)
    instance = nvml.create_instance(gpu, 9, Placement(start=0, size=4))
    stub.library.stub_second_compute_instance(0, instance.id)
    assert nvml.instances(gpu) == (instance,)
    with pytest.raises(GpuError, match="several compute instances") as refusal:
        nvml.destroy_instance(instance)
    assert refusal.value.failure is Failure.IN_USE
    assert nvml.instances(gpu) == (instance,)
    assert nvml.usage("MIG-00000000-0000-0000-0000-000000000002").memory_used_bytes == 0


def test_an_event_of_a_gpu_in_one_piece_names_no_instance(bench: tuple[Nvml, Stub]) -> None:
    nvml, stub = bench
    gpu = first(nvml).uuid
    assert nvml.wait(0) is None
    stub.inject(GpuEvent(gpu=gpu, kind=EventKind.XID, code=79, instance=0))
    assert nvml.wait(0) == GpuEvent(gpu=gpu, kind=EventKind.XID, code=79)


def test_a_lost_gpu_ends_the_waiting_with_its_failure(bench: tuple[Nvml, Stub]) -> None:
    nvml, stub = bench
    assert nvml.wait(0) is None
    stub.refuse("wait", Failure.GPU_IS_LOST)
    with pytest.raises(GpuError) as refusal:
        nvml.wait(0)
    assert refusal.value.failure is Failure.GPU_IS_LOST


@pytest.mark.parametrize("listening", [False, True], ids=["before anybody listens", "while somebody listens"])
def test_a_gpu_that_is_lost_silences_none_of_the_others(listening: bool) -> None:
    gpus = FakeGpus("h100x2").gpus()
    lost, other = sorted(gpu.uuid for gpu in gpus)
    with session(gpus) as (nvml, stub):
        nvml.gpus()
        if listening:
            assert nvml.wait(0) is None
        stub.lose(lost)
        if listening:
            stub.refuse("wait", Failure.GPU_IS_LOST)
            with pytest.raises(GpuError):
                nvml.wait(0)
        assert nvml.wait(0) is None
        stub.inject(GpuEvent(gpu=other, kind=EventKind.XID, code=79))
        assert nvml.wait(0) == GpuEvent(gpu=other, kind=EventKind.XID, code=79)
        assert nvml.unmonitored() == (lost,)
        stub.find(lost)
        assert nvml.wait(0) is None
        stub.inject(GpuEvent(gpu=lost, kind=EventKind.XID, code=13))
        assert nvml.wait(0) == GpuEvent(gpu=lost, kind=EventKind.XID, code=13)
        assert nvml.unmonitored() == ()


def test_a_node_without_events_waits_in_vain() -> None:
    with session(FakeGpus("t4x1").gpus()) as (nvml, stub):
        assert nvml.wait(1) is None
        assert "nvmlEventSetWait_v2" not in stub.called()


@pytest.mark.parametrize(
    ("code", "meant"),
    [
        (3, "NOT_SUPPORTED"),
        (13, "NOT_SUPPORTED"),
        (25, "NOT_SUPPORTED"),
        (28, "NOT_FOUND"),
        (15, "GPU_IS_LOST"),
        (27, "UNKNOWN"),
    ],
)
def test_return_codes(code: int, meant: str) -> None:
    assert readings.failure(code).name == meant


def test_bus_ids_are_written_as_the_kernel_does() -> None:
    assert readings.bus("00000008:01:00.0") == "0008:01:00.0"
    assert readings.bus("00010000:AB:00.0") == "10000:ab:00.0"


LOOKING = """
import sys
from pathlib import Path
from dra_driver.facts import GpuError
from dra_driver.nvml import Nvml
try:
    print(Nvml(Path(sys.argv[1])).driver().version)
except GpuError as error:
    print(error.failure.name, error)
"""


def look(root: Path) -> str:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", LOOKING, str(root)]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def real_library_is_installed() -> bool:
    try:
        pynvml.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    "folder",
    ["usr/lib64", "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib/x86_64-linux-gnu/nvidia/current"],
)
def test_the_driver_is_found_below_its_root(tmp_path: Path, folder: str) -> None:
    if real_library_is_installed():
        pytest.skip("the driver's library is installed: the loader finds it before any root")
    target = tmp_path / folder / "libnvidia-ml.so.1"
    target.parent.mkdir(parents=True)
    target.write_bytes(library("libnvidia-ml.so.1").read_bytes())
    assert look(tmp_path) == "580.126.20"


def test_a_link_to_the_driver_is_followed_below_its_root(tmp_path: Path) -> None:
    """As alternatives are linked: from "/", which is another root to who runs in a container."""
    if real_library_is_installed():
        pytest.skip("the driver's library is installed: the loader finds it before any root")
    for name in ("opt/driver/libnvidia-ml.so.1", "usr/lib64/libnvidia-ml.so.1"):
        (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / "opt/driver/libnvidia-ml.so.1").write_bytes(library("libnvidia-ml.so.1").read_bytes())
    (tmp_path / "usr/lib64/libnvidia-ml.so.1").symlink_to("/opt/driver/libnvidia-ml.so.1")
    assert look(tmp_path) == "580.126.20"


def test_a_node_without_a_driver_is_told_what_to_do(tmp_path: Path) -> None:
    if real_library_is_installed():
        pytest.skip("the driver's library is installed")
    assert look(tmp_path) == (
        f"NOT_FOUND nvmlInitWithFlags: libnvidia-ml.so.1 is neither where the loader looks nor below {tmp_path}; "
        "install the driver, or name its root"
    )
