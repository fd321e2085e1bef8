"""NVML's functions in a library of ours (nvml_stub.c): built by the C compiler, filled from a fake's facts."""

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_char_p, c_uint, c_uint64
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from uuid import UUID

import pynvml
import pytest

from dra_driver.facts import Fabric, Failure, Gpu, GpuEvent, MigProfile, Recovery
from dra_driver.nvml import KINDS, Nvml
from dra_driver.readings import ADDRESSING, ARCHITECTURES, BRANDS

WHOLE = 0xFFFFFFFF
SOURCE = Path(__file__).with_name("nvml_stub.c")
CALLS = {
    "create_instance": "nvmlDeviceCreateGpuInstanceWithPlacement",
    "create_compute_instance": "nvmlGpuInstanceCreateComputeInstance",
    "destroy_instance": "nvmlComputeInstanceDestroy",
    "destroy_gpu_instance": "nvmlGpuInstanceDestroy",
    "set_mig": "nvmlDeviceSetMigMode",
    "set_compute_mode": "nvmlDeviceSetComputeMode",
    "recovery": "nvmlDeviceGetFieldValues",
    "wait": "nvmlEventSetWait_v2",
}


@cache
def library(name: str = "stub.so") -> Path:
    """The stub, built; skips where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler (cc): NVML's calls are not exercised through ctypes")
    target = Path(mkdtemp(prefix="nvml-stub-")) / name
    flags = ["-shared", "-fPIC", "-O1", "-pthread", f"-Wl,-soname,{name}", "-o", str(target)]
    subprocess.run([compiler, *flags, str(SOURCE)], check=True)
    return target


class Stub:
    """A machine behind NVML's functions, as large and shaped as the fake's GPUs, and hands as the fake has them."""

    def __init__(self, gpus: tuple[Gpu, ...]) -> None:
        self.library = ctypes.CDLL(str(library()))
        self.library.stub_call.restype = c_char_p
        self.library.stub_limit_group.restype = c_char_p
        self.library.stub_limit.restype = c_uint64
        self.library.stub_fresh()
        self._texts: list[Any] = []  # the library keeps pointers, not copies
        self._uuids = [gpu.uuid for gpu in gpus]
        for gpu in gpus:
            self._add(gpu)

    def lose(self, gpu: str) -> None:
        self.library.stub_lose(self._index(gpu), 1)

    def find(self, gpu: str) -> None:
        self.library.stub_lose(self._index(gpu), 0)

    def use(self, device: str, pid: int, memory_bytes: int = 1 << 30, kind: int = 0) -> None:
        gpu, instance = self._where(device)
        self.library.stub_use(gpu, kind, pid, c_uint64(memory_bytes), c_uint(instance))

    def leave(self, pid: int) -> None:
        self.library.stub_leave(pid)

    def work(self, gpu: str, busy: int) -> None:
        self.library.stub_busy(self._index(gpu), busy // 10)

    def ail(self, gpu: str, recovery: Recovery) -> None:
        self.library.stub_recovery(self._index(gpu), recovery.value)

    def inject(self, event: GpuEvent) -> None:
        number = next(number for number, kind in KINDS.items() if kind is event.kind)
        instance = WHOLE if event.instance is None else event.instance
        self.library.stub_event(self._index(event.gpu), c_uint64(number), c_uint64(event.code), c_uint(instance))

    def refuse(self, call: str, failure: Failure, *, once: bool = True) -> None:
        self.library.stub_refuse(CALLS.get(call, call).encode(), failure.value, int(once))

    def reset(self, gpu: str) -> None:
        self.library.stub_settle(self._index(gpu))

    def called(self) -> set[str]:
        """Names of NVML's functions that were called, refused or not."""
        return {self.library.stub_call(at).decode() for at in range(self.library.stub_calls())}

    def _index(self, gpu: str) -> int:
        return self._uuids.index(gpu)

    def _where(self, device: str) -> tuple[int, int]:
        if device in self._uuids:
            return self._index(device), WHOLE
        for index in range(len(self._uuids)):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            for number in range(7):
                try:
                    part = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
                except pynvml.NVMLError:
                    continue
                if pynvml.nvmlDeviceGetUUID(part) == device:
                    return index, pynvml.nvmlDeviceGetGpuInstanceId(part)
        raise LookupError(device)

    def _keep(self, text: str) -> Any:
        self._texts.append(ctypes.create_string_buffer(text.encode()))
        return self._texts[-1]

    def _add(self, gpu: Gpu) -> None:
        peer, links = next(iter(gpu.links.items()), ("", 0))
        major, minor = gpu.compute_capability
        facts = (c_uint * 10)(
            _number(BRANDS, gpu.brand),
            _number(ARCHITECTURES, gpu.architecture),
            major,
            minor,
            gpu.module or 0,
            _number(ADDRESSING, gpu.addressing_mode),
            0 if gpu.mig is None else 2 if gpu.mig.on_demand else 1,
            links,
            2 if peer == "switch" else 0,
            int(gpu.pci_device, 16),
        )
        texts = [self._keep(text) for text in (gpu.uuid, gpu.serial, gpu.product, gpu.pci_bus.upper(), peer.upper())]
        at = self.library.stub_gpu(*texts, facts, c_uint64((gpu.memory_bytes or 0) >> 20))
        for profile in gpu.mig.profiles if gpu.mig else ():
            self._offer(at, profile)
        if gpu.fabric is not None:
            self.fabric(at, gpu.fabric)
        if gpu.rack is not None:
            rack = gpu.rack
            self.library.stub_platform(at, rack.chassis_serial.encode(), rack.slot, rack.tray, rack.host, rack.module)

    def fabric(self, at: int, fabric: Fabric, *, status: int = 0, mask: int = 0, summary: int = 1) -> None:
        """What a GPU tells of its fabric."""
        cluster = UUID(fabric.cluster).bytes if fabric.cluster else bytes(16)
        self.library.stub_fabric(at, cluster, fabric.clique, fabric.state.value, status, mask, summary)

    def _offer(self, at: int, profile: MigProfile) -> None:
        facts = (c_uint * 9)(
            profile.id,
            profile.slices,
            profile.most,
            profile.multiprocessors,
            profile.copy_engines,
            profile.decoders,
            profile.encoders,
            profile.jpeg_engines,
            profile.ofa_engines,
        )
        starts = (c_uint * len(profile.placements))(*(place.start for place in profile.placements))
        mebibytes = c_uint64(profile.memory_bytes >> 20)
        name, size = profile.name.encode(), profile.memory_slices
        self.library.stub_profile(at, enumerator(profile), name, facts, mebibytes, size, len(starts), starts)


def enumerator(profile: MigProfile) -> int:
    """NVML's enumerator of a profile. Source: nvml.h, NVML_GPU_INSTANCE_PROFILE_*."""
    extra = profile.name.partition("gb")[2]
    suffixed = {"+me": (7, 8), "+gfx": (10, 11, 17, 12), "-me": (13, 14), "+me.all": (15, 16)}
    if extra:
        return suffixed[extra][profile.slices - 1]
    if profile.slices == 1 and profile.memory_slices == 2:
        return 9
    return {1: 0, 2: 1, 3: 2, 4: 3, 7: 4}[profile.slices]


def _number(names: dict[int, str], name: str) -> int:
    return next(number for number, known in names.items() if known == name)


@contextmanager
def session(gpus: tuple[Gpu, ...]) -> Iterator[tuple[Nvml, Stub]]:
    """NVML's face over the stub. The binding's library is put back afterwards: a real one may be needed later."""
    stub = Stub(gpus)
    before = pynvml.nvmlLib
    pynvml.nvmlLib = stub.library
    pynvml._nvmlGetFunctionPointer_cache.clear()
    try:
        nvml = Nvml()
        yield nvml, stub
        stub.library.stub_allow()
        nvml.close()
        assert (stub.library.stub_sessions(), stub.library.stub_event_sets()) == (0, 0)
    finally:
        pynvml.nvmlLib = before
        pynvml._nvmlGetFunctionPointer_cache.clear()
