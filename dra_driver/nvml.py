"""A node's GPUs as NVML tells of them: the only module that talks to the driver's library.

One session for the life of the plugin, begun without attaching GPUs, so that one that is broken hides none of the
others. Handles are kept by UUID: to look one up takes seconds on a busy node. What a driver, a board or a mode does not
offer is None in the facts, never an error. Source: nvml.h of CUDA 13.
"""

import ctypes
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import pynvml

from dra_driver import readings
from dra_driver.facts import (
    ComputeMode,
    Driver,
    EventKind,
    Fabric,
    FabricState,
    Failure,
    Gpu,
    GpuError,
    GpuEvent,
    Gpus,
    Mig,
    MigInstance,
    MigProfile,
    Placement,
    Process,
    Rack,
    Recovery,
    SessionOver,
    Usage,
)
from dra_driver.libraries import below

LIBRARY = "libnvidia-ml.so.1"
# Where distributions, the driver container and GKE keep it, below the driver's root.
FOLDERS = (
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib",
    "lib64",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    # Debian's, to which the others are links by /etc/alternatives.
    "usr/lib/x86_64-linux-gnu/nvidia/current",
    "usr/lib/aarch64-linux-gnu/nvidia/current",
    "usr/lib/nvidia/current",
)
KINDS = {
    pynvml.nvmlEventTypeXidCriticalError: EventKind.XID,
    pynvml.nvmlEventTypeDoubleBitEccError: EventKind.DOUBLE_BIT_ECC,
    pynvml.nvmlEventTypeSingleBitEccError: EventKind.SINGLE_BIT_ECC,
    pynvml.nvmlEventTypeGpuUnavailableError: EventKind.UNAVAILABLE,
    pynvml.nvmlEventTypeGpuRecoveryAction: EventKind.RECOVERY,
    pynvml.nvmlEventMigConfigChange: EventKind.MIG_CHANGED,
}
SILENT = (Failure.GPU_IS_LOST, Failure.RESET_REQUIRED, Failure.UNKNOWN)  # of a GPU that cannot be read now
_FABRIC_STATES = {state.value for state in FabricState}
T = TypeVar("T")
Handle = Any  # pynvml has no types
Parts = dict[int, list[tuple[int | None, str, Handle]]]  # compute instance id, UUID, handle


class Nvml(Gpus):
    """`Gpus` over the driver's library. `root`: where the driver is installed, if the loader does not find it.

    GpuError: there is no library, or no driver behind it."""

    def __init__(self, root: Path = Path("/")) -> None:
        _preload(root)
        _call("nvmlInitWithFlags", "", pynvml.NVML_INIT_FLAG_NO_GPUS)
        self._handles: dict[str, Handle] = {}
        self._indexes: dict[str, int] = {}  # of the GPUs that were there at the last look
        self._profiles: dict[str, tuple[MigProfile, ...]] = {}
        self._parents: dict[str, str] = {}  # of MIG devices, by UUID
        self._silent: set[str] = set()  # GPUs that the last reading of all had to leave out
        self._skipped: list[Failure] = []  # of GPUs without a handle, as of the last search
        self._answered = False  # whether any GPU has, in this session
        self._unheard: set[str] = set()  # GPUs whose events nobody has registered for yet
        self._mute: set[str] = set()  # GPUs whose errors no event tells
        self._heard = False  # whether any GPU has events to wait for
        try:
            self._events = _call("nvmlEventSetCreate", "")
            self._find()
        except GpuError:
            _call("nvmlShutdown", "")
            raise

    def driver(self) -> Driver:
        cuda = _call("nvmlSystemGetCudaDriverVersion", "")
        return Driver(version=_text(_call("nvmlSystemGetDriverVersion", "")), cuda=(cuda // 1000, cuda % 1000 // 10))

    def gpus(self) -> tuple[Gpu, ...]:
        places = _twice(self._find)
        if isinstance(places, Failure):
            if self._answered and places is Failure.UNKNOWN:
                raise self._over()
            raise GpuError(places, "nvmlDeviceGetCount", "", _words(places.value))
        protected = _is_confidential()
        found, silent = [], {}
        for index, uuid in places:
            gpu = self._read(index, uuid, protected)
            if isinstance(gpu, Gpu):
                found.append(gpu)
            else:
                silent[uuid] = gpu
        # A GPU that has failed says so by a failure of its own; none at all says anything where the driver has gone.
        if self._answered and not found and {*silent.values(), *self._skipped} == {Failure.UNKNOWN}:
            raise self._over()
        self._answered, self._silent = self._answered or bool(found), set(silent)
        return tuple(found)

    def gpu(self, gpu: str) -> Gpu:
        if gpu in self._indexes:
            told = self._read(self._indexes[gpu], gpu, _is_confidential())
            if isinstance(told, Gpu):
                return told
        # Whether it is this one alone that is silent, only all of them tell.
        for each in self.gpus():
            if each.uuid == gpu:
                return each
        raise GpuError(Failure.GPU_IS_LOST, "nvmlDeviceGetHandleByIndex", gpu, "the GPU does not answer")

    def lost(self) -> tuple[str, ...]:
        present = {uuid for _, uuid in self._find()}
        return tuple(uuid for uuid in self._handles if uuid not in present or not self._answers(uuid))

    def instances(self, gpu: str) -> tuple[MigInstance, ...]:
        handle = self._handle("nvmlDeviceGetGpuInstances", gpu)
        mode = _maybe("nvmlDeviceGetMigMode", gpu, handle)
        if mode is None or not mode[0]:
            return ()
        parts = self._parts(gpu)
        found = [
            self._instance(gpu, profile, _call("nvmlGpuInstanceGetInfo", gpu, instance), parts)
            for profile in self._known_profiles(gpu)
            for instance in _listed(gpu, handle, profile)
        ]
        return tuple(sorted(found, key=lambda instance: (instance.placement, instance.id)))

    def set_mig(self, gpu: str, on: bool) -> None:
        handle = self._handle("nvmlDeviceSetMigMode", gpu)
        before = bool(_call("nvmlDeviceGetMigMode", gpu, handle)[0])
        status = _call("nvmlDeviceSetMigMode", gpu, handle, int(on))
        # The driver may have bound the device anew: what was held of it may be stale.
        self._find(stale=gpu)
        handle = self._handle("nvmlDeviceSetMigMode", gpu)
        if bool(_call("nvmlDeviceGetMigMode", gpu, handle)[0]) == on:
            return
        needs_reset = _maybe("nvmlDeviceGetArchitecture", gpu, handle, default=0) < readings.HOPPER
        if needs_reset and readings.failure(status) is not Failure.IN_USE:
            return
        _call("nvmlDeviceSetMigMode", gpu, handle, int(before))  # else the next reset would change it unasked
        reason = readings.failure(status) if status else Failure.UNKNOWN
        raise GpuError(reason, "nvmlDeviceSetMigMode", gpu, _words(status))

    def create_instance(self, gpu: str, profile_id: int, placement: Placement) -> MigInstance:
        call = "nvmlDeviceCreateGpuInstanceWithPlacement"
        handle = self._handle(call, gpu)
        place = pynvml.c_nvmlGpuInstancePlacement_t(placement.start, placement.size)
        profile = next((one for one in self._known_profiles(gpu) if one.id == profile_id), None)
        if profile is None:
            raise GpuError(Failure.INVALID_ARGUMENT, call, gpu, f"no profile {profile_id} on this GPU")
        made = _call(call, gpu, handle, profile_id, ctypes.byref(place))
        try:
            whole = readings.WHOLE_COMPUTE[profile.slices]
            compute = _call("nvmlGpuInstanceGetComputeInstanceProfileInfo", gpu, made, whole, 0)
            _call("nvmlGpuInstanceCreateComputeInstance", gpu, made, compute.id)
        except GpuError as error:
            try:
                _call("nvmlGpuInstanceDestroy", gpu, made)
            except GpuError as second:
                raise GpuError(
                    error.failure, error.call, gpu, f"{error}; and it could not be undone: {second}"
                ) from error
            raise
        return self._instance(gpu, profile, _call("nvmlGpuInstanceGetInfo", gpu, made), self._parts(gpu))

    def destroy_instance(self, instance: MigInstance) -> None:
        gpu = instance.gpu
        there = next((one for one in self.instances(gpu) if _same(one, instance)), None)
        if there is None:
            raise GpuError(Failure.NOT_FOUND, "nvmlGpuInstanceDestroy", instance.uuid or gpu)
        handle = _call("nvmlDeviceGetGpuInstanceById", gpu, self._handle("nvmlDeviceGetGpuInstanceById", gpu), there.id)
        if there.compute_id is not None:
            about = instance.uuid or gpu
            if len(self._parts(gpu)[there.id]) > 1:
                text = "somebody has cut it into several compute instances; remove those that the plugin has not made"
                raise GpuError(Failure.IN_USE, "nvmlComputeInstanceDestroy", about, text)
            compute = _call("nvmlGpuInstanceGetComputeInstanceById", about, handle, there.compute_id)
            _call("nvmlComputeInstanceDestroy", about, compute)
        _call("nvmlGpuInstanceDestroy", instance.uuid or gpu, handle)
        self._parents.pop(instance.uuid, None)

    def set_compute_mode(self, gpu: str, mode: ComputeMode) -> None:
        _call("nvmlDeviceSetComputeMode", gpu, self._handle("nvmlDeviceSetComputeMode", gpu), mode.value)

    def limit_memory(self, gpu: str, cgroup: str, hard_bytes: int | None) -> None:
        handle = self._handle("nvmlDeviceSetMemoryLimits_v1", gpu)
        if not cgroup.startswith("/") or (hard_bytes is not None and hard_bytes <= 0):
            raise GpuError(Failure.INVALID_ARGUMENT, "nvmlDeviceSetMemoryLimits_v1", gpu)
        hard = pynvml.NVML_DEVICE_MEMORY_LIMIT_MAX if hard_bytes is None else hard_bytes
        limits = pynvml.c_nvmlSetMemoryLimits_v1_t(nameSpace=cgroup.encode(), softLimit=0, hardLimit=hard)
        _call("nvmlDeviceSetMemoryLimits_v1", gpu, handle, limits)

    def processes(self, gpu: str) -> tuple[Process, ...]:
        handle = self._handle("nvmlDeviceGetComputeRunningProcesses_v3", gpu)
        most: dict[tuple[int, int | None], int | None] = {}
        for kind in ("Compute", "Graphics", "MPSCompute"):  # one process may be in several lists
            for one in _maybe(f"nvmlDeviceGet{kind}RunningProcesses_v3", gpu, handle, default=()):
                instance = None if one.gpuInstanceId in (None, readings.NOT_THERE) else one.gpuInstanceId
                known = most.get((one.pid, instance))
                most[one.pid, instance] = max(known, one.usedGpuMemory or 0) if known is not None else one.usedGpuMemory
        ordered = sorted(most.items(), key=lambda entry: (entry[0][0], entry[0][1] or 0))
        return tuple(Process(pid=pid, memory_bytes=size, instance=instance) for (pid, instance), size in ordered)

    def usage(self, device: str) -> Usage:
        handle = self._handle("nvmlDeviceGetMemoryInfo", device) if device in self._handles else self._part(device)
        total, used = _memory(device, handle)
        rates = _maybe("nvmlDeviceGetUtilizationRates", device, handle)
        return Usage(
            busy=None if rates is None else 10 * rates.gpu,
            memory_used_bytes=used,
            memory_bytes=total,
            power_milliwatts=_maybe("nvmlDeviceGetPowerUsage", device, handle),
            celsius=_maybe("nvmlDeviceGetTemperature", device, handle, pynvml.NVML_TEMPERATURE_GPU),
        )

    def recovery(self, gpu: str) -> Recovery | None:
        handle = self._handle("nvmlDeviceGetFieldValues", gpu)
        values = _maybe("nvmlDeviceGetFieldValues", gpu, handle, [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])
        if values is None or readings.failure(values[0].nvmlReturn) is Failure.NOT_SUPPORTED:
            return None
        if values[0].nvmlReturn != pynvml.NVML_SUCCESS:
            code = values[0].nvmlReturn
            raise GpuError(readings.failure(code), "nvmlDeviceGetFieldValues", gpu, _words(code))
        action = values[0].value.uiVal
        # An action that this code does not know is taken for the gravest.
        return Recovery(action) if action in Recovery.__members__.values() else Recovery.SYSTEM_REBOOT

    def unmonitored(self) -> tuple[str, ...]:
        return tuple(sorted(self._mute))

    def wait(self, milliseconds: int) -> GpuEvent | None:
        """As `Gpus.wait`. When a GPU is lost, the driver refuses with GPU_IS_LOST instead of waiting; the next
        call waits for the others."""
        self._listen()
        if not self._heard:  # what the driver does with a set of nothing is not specified
            time.sleep(milliseconds / 1000)
            return None
        try:
            event = _call("nvmlEventSetWait_v2", "", self._events, milliseconds)
        except GpuError as error:
            if error.failure is Failure.TIMEOUT:
                return None
            if error.failure is Failure.GPU_IS_LOST:
                self._begin_listening_anew()
            raise
        kind = KINDS.get(event.eventType)
        gpu = self._whose(event.device)
        if kind is None or gpu is None:
            return None  # nobody has asked for it
        mode = _maybe("nvmlDeviceGetMigMode", gpu, event.device)
        whole = event.gpuInstanceId == readings.NOT_THERE or mode is None or not mode[0]
        return GpuEvent(gpu=gpu, kind=kind, code=event.eventData, instance=None if whole else event.gpuInstanceId)

    def close(self) -> None:
        """The end of the session; no `wait` may be under way."""
        _call("nvmlEventSetFree", "", self._events)
        _call("nvmlShutdown", "")

    def _find(self, stale: str = "") -> list[tuple[int, str]]:
        """Index and UUID of every GPU that has a handle. Known handles stay, but for that of the GPU `stale`."""
        found, skipped = [], []
        for index in range(_call("nvmlDeviceGetCount", "")):
            try:
                handle = _call("nvmlDeviceGetHandleByIndex", str(index), index)
                uuid = _text(_call("nvmlDeviceGetUUID", str(index), handle))
            except GpuError as error:
                if error.failure not in (*SILENT, Failure.NOT_FOUND):
                    raise
                skipped.append(error.failure)
                continue
            if uuid not in self._handles or uuid == stale:
                self._handles[uuid] = handle
                self._unheard.add(uuid)
            found.append((index, uuid))
        self._skipped = skipped
        self._indexes = {uuid: index for index, uuid in found}
        return found

    def _over(self) -> SessionOver:
        return SessionOver(
            f"NVML: none of {len(self._handles)} GPUs, which have answered before, answers in this session "
            f"({_words(Failure.UNKNOWN.value)}); the driver was loaded anew, or has failed: the plugin ends and is "
            "started again, and if it then finds no GPUs, see dmesg and nvidia-smi, and reboot the node"
        )

    def _read(self, index: int, uuid: str, confidential: bool) -> Gpu | Failure:
        """A GPU, or the failure of one that is silent: it is asked twice, as a single reading may fail."""
        return _twice(lambda: self._gpu(index, uuid, confidential))

    def _answers(self, uuid: str) -> bool:
        told = _twice(lambda: _memory(uuid, self._handles[uuid]))
        return not isinstance(told, Failure) and uuid not in self._silent

    def _handle(self, call: str, gpu: str) -> Handle:
        if gpu not in self._handles:
            raise GpuError(Failure.NOT_FOUND, call, gpu)
        return self._handles[gpu]

    def _known_profiles(self, gpu: str) -> tuple[MigProfile, ...]:
        if gpu not in self._profiles:
            handle = self._handle("nvmlDeviceGetGpuInstanceProfileInfo", gpu)
            self._profiles[gpu] = _profiles(gpu, handle, _memory(gpu, handle)[0])
        return self._profiles[gpu]

    def _parts(self, gpu: str) -> Parts:
        """MIG devices in each GPU instance, by its id. An operator may have cut one into several."""
        handle = self._handle("nvmlDeviceGetMigDeviceHandleByIndex", gpu)
        parts: Parts = {}
        for index in range(_maybe("nvmlDeviceGetMaxMigDeviceCount", gpu, handle, default=0)):
            part = _maybe("nvmlDeviceGetMigDeviceHandleByIndex", gpu, handle, index, but=(Failure.NOT_FOUND,))
            if part is None:
                continue
            uuid = _text(_call("nvmlDeviceGetUUID", gpu, part))
            self._parents[uuid] = gpu
            compute = _call("nvmlDeviceGetComputeInstanceId", uuid, part)
            parts.setdefault(_call("nvmlDeviceGetGpuInstanceId", uuid, part), []).append((compute, uuid, part))
        return parts

    def _part(self, uuid: str) -> Handle:
        """Handle of a MIG device: looked up anew, as it dies with its instance."""
        candidates = [self._parents[uuid]] if uuid in self._parents else list(self._handles)
        for gpu in candidates:
            for _, found, handle in chain.from_iterable(self._parts(gpu).values()):
                if found == uuid:
                    return handle
        raise GpuError(Failure.NOT_FOUND, "nvmlDeviceGetMigDeviceHandleByIndex", uuid)

    def _instance(self, gpu: str, profile: MigProfile, info: Any, parts: Parts) -> MigInstance:
        compute, uuid, _ = parts.get(info.id, [(None, "", None)])[0]
        return MigInstance(
            gpu=gpu,
            id=info.id,
            compute_id=compute,
            uuid=uuid,
            profile=profile.name,
            profile_id=profile.id,
            placement=Placement(start=info.placement.start, size=info.placement.size),
        )

    def _listen(self) -> None:
        """Register for the events of every GPU that takes it: one that refuses is mute until it does, and silences none
        of the others."""
        for gpu in sorted(self._unheard):
            handle = self._handles[gpu]
            try:
                offered = _maybe("nvmlDeviceGetSupportedEventTypes", gpu, handle, default=0)
                wanted = offered & sum(KINDS)
                if wanted:
                    _call("nvmlDeviceRegisterEvents", gpu, handle, wanted, self._events)
                    self._heard = True
            except GpuError:
                self._mute.add(gpu)
                continue
            (self._mute.discard if offered & pynvml.nvmlEventTypeXidCriticalError else self._mute.add)(gpu)
            self._unheard.discard(gpu)

    def _begin_listening_anew(self) -> None:
        """A lost GPU in a set ends all waiting with it: into the next go those that answer."""
        before, self._events = self._events, _call("nvmlEventSetCreate", "")
        self._heard = False
        self._unheard.update(self._handles)
        _call("nvmlEventSetFree", "", before)

    def _whose(self, handle: Handle) -> str | None:
        address = ctypes.cast(handle, ctypes.c_void_p).value
        for gpu, known in list(self._handles.items()):
            if ctypes.cast(known, ctypes.c_void_p).value == address:
                return gpu
        return None

    def _gpu(self, index: int, uuid: str, confidential: bool) -> Gpu:
        handle = self._handles[uuid]

        def ask(call: str, *arguments: Any) -> Any:
            # What one GPU can do without must not hide it; a GPU that is broken refuses what it cannot do without, too.
            return _maybe(call, uuid, handle, *arguments, but=(Failure.UNKNOWN, Failure.NO_PERMISSION))

        total, _ = _memory(uuid, handle)
        pci, ecc = _call("nvmlDeviceGetPciInfo", uuid, handle), ask("nvmlDeviceGetEccMode")
        return Gpu(
            index=index,
            minor=_call("nvmlDeviceGetMinorNumber", uuid, handle),
            uuid=uuid,
            serial=_text(ask("nvmlDeviceGetSerial")),
            product=_text(_call("nvmlDeviceGetName", uuid, handle)),
            brand=readings.BRANDS.get(ask("nvmlDeviceGetBrand"), ""),
            architecture=readings.ARCHITECTURES.get(ask("nvmlDeviceGetArchitecture"), "Unknown"),
            compute_capability=_call("nvmlDeviceGetCudaComputeCapability", uuid, handle),
            memory_bytes=total,
            pci_bus=readings.bus(_text(pci.busId)),
            pci_device=readings.pci_id(pci.pciDeviceId),
            pci_subsystem=readings.pci_id(pci.pciSubSystemId),
            module=ask("nvmlDeviceGetModuleId"),
            addressing_mode=readings.ADDRESSING.get(ask("nvmlDeviceGetAddressingMode"), ""),
            compute_mode=readings.compute_mode(_maybe("nvmlDeviceGetComputeMode", uuid, handle, default=0)),
            ecc=None if ecc is None else bool(ecc[0]),
            confidential=confidential,
            memory_limits=_limits_memory(uuid, handle),
            virtual=ask("nvmlDeviceGetVirtualizationMode") == pynvml.NVML_GPU_VIRTUALIZATION_MODE_VGPU,
            mig=self._mig(uuid, handle, total),
            fabric=_fabric(ask),
            rack=_rack(ask),
            links=_links(ask),
        )

    def _mig(self, gpu: str, handle: Handle, total: int | None) -> Mig | None:
        mode = _maybe("nvmlDeviceGetMigMode", gpu, handle)
        if mode is None:
            return None
        self._profiles[gpu] = _profiles(gpu, handle, total)
        return Mig(
            on=bool(mode[0]),
            pending=bool(mode[1]),
            on_demand=_maybe("nvmlDeviceGetArchitecture", gpu, handle, default=0) >= readings.HOPPER,
            profiles=self._profiles[gpu],
            instances=self.instances(gpu),
        )


def _preload(root: Path) -> None:
    """Find the driver's library: where the loader looks, else below the driver's root."""
    if pynvml.nvmlLib is not None:
        return
    for path in (LIBRARY, *(str(below(root, f"{folder}/{LIBRARY}")) for folder in FOLDERS)):
        try:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)  # by its soname, pynvml's own loading then finds this one
            return
        except OSError:
            continue
    text = f"{LIBRARY} is neither where the loader looks nor below {root}; install the driver, or name its root"
    raise GpuError(Failure.NOT_FOUND, "nvmlInitWithFlags", "", text)


def _is_confidential() -> bool:
    """Whether the node computes confidentially."""
    told = _twice(lambda: _maybe("nvmlSystemGetConfComputeState", ""))
    return not isinstance(told, Failure | None) and told.ccFeature != 0


def _call(call: str, about: str, *arguments: Any) -> Any:
    """One call to NVML; GpuError with its name if it refuses."""
    try:
        return getattr(pynvml, call)(*arguments)
    except pynvml.NVMLError as error:
        code: int = error.value
        raise GpuError(readings.failure(code), call, about, _words(code)) from error


def _twice(ask: Callable[[], T]) -> T | Failure:
    """What a GPU tells, asked once more where it is silent; silent again, its failure."""
    try:
        return ask()
    except GpuError as error:
        if error.failure not in SILENT:
            raise
    try:
        return ask()
    except GpuError as error:
        if error.failure not in SILENT:
            raise
        return error.failure


def _maybe(call: str, about: str, *arguments: Any, default: Any = None, but: Sequence[Failure] = ()) -> Any:
    """What a call tells, or `default` where it is not supported, or fails as in `but`."""
    try:
        return _call(call, about, *arguments)
    except GpuError as error:
        if error.failure is Failure.NOT_SUPPORTED or error.failure in but:
            return default
        raise


def _words(code: int) -> str:
    try:
        return f"{pynvml.nvmlErrorString(code)} (NVML error {code})"
    except pynvml.NVMLError:  # without the library there are no words either
        return f"NVML error {code}"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""


def _same(there: MigInstance, meant: MigInstance) -> bool:
    """Whether this is the instance that is meant: another may have got its number since."""
    alike = (there.id, there.profile_id, there.placement) == (meant.id, meant.profile_id, meant.placement)
    return alike and there.uuid in ("", meant.uuid)


def _memory(device: str, handle: Handle) -> tuple[int | None, int | None]:
    """Total and used bytes; the driver's own reserve is not used."""
    told = _maybe("nvmlDeviceGetMemoryInfo", device, handle, pynvml.nvmlMemory_v2)
    if told is None:
        told = _maybe("nvmlDeviceGetMemoryInfo", device, handle)
    return (None, None) if told is None else (told.total, told.used)


def _profiles(gpu: str, handle: Handle, total: int | None) -> tuple[MigProfile, ...]:
    """Kinds of instance a board can be cut into, with a compute instance of their whole size."""
    told = []
    for enumerator in range(readings.PROFILES):
        call, refused = "nvmlDeviceGetGpuInstanceProfileInfo", (Failure.INVALID_ARGUMENT,)
        info = _maybe(call, gpu, handle, enumerator, but=refused)
        if info is None:
            info = _maybe(call, gpu, handle, enumerator, 1, but=refused)  # a driver before version 2 of the structure
        places = _placements(gpu, handle, info.id) if info is not None else ()
        if info is not None and places and info.sliceCount in readings.WHOLE_COMPUTE:
            told.append((enumerator, info, places))
    slices = max((places[0].size for _, _, places in told), default=0)
    found = [_profile(enumerator, info, places, slices, total or 0) for enumerator, info, places in told]
    return tuple(sorted(found, key=readings.size_order))


def _profile(enumerator: int, info: Any, places: tuple[Placement, ...], slices: int, total: int) -> MigProfile:
    size = places[0].size
    name = _text(getattr(info, "name", b""))
    return MigProfile(
        name=readings.profile_name(name, enumerator, info.sliceCount, size, slices, total),
        id=info.id,
        slices=info.sliceCount,
        memory_slices=size,
        memory_bytes=info.memorySizeMB << 20,
        multiprocessors=info.multiprocessorCount,
        copy_engines=info.copyEngineCount,
        decoders=info.decoderCount,
        encoders=info.encoderCount,
        jpeg_engines=info.jpegCount,
        ofa_engines=info.ofaCount,
        most=info.instanceCount,
        placements=places,
    )


def _placements(gpu: str, handle: Handle, profile: int) -> tuple[Placement, ...]:
    call = "nvmlDeviceGetGpuInstancePossiblePlacements"
    count = ctypes.c_uint(0)
    _call(call, gpu, handle, profile, None, ctypes.byref(count))
    array = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
    if count.value:
        _call(call, gpu, handle, profile, array, ctypes.byref(count))
    return tuple(sorted(Placement(start=place.start, size=place.size) for place in array[: count.value]))


def _listed(gpu: str, handle: Handle, profile: MigProfile) -> list[Handle]:
    """Handles of the GPU instances of one profile."""
    array = (pynvml.c_nvmlGpuInstance_t * max(profile.most, 1))()
    count = ctypes.c_uint(len(array))
    _call("nvmlDeviceGetGpuInstances", gpu, handle, profile.id, array, ctypes.byref(count))
    return list(array[: count.value])


def _limits_memory(gpu: str, handle: Handle) -> bool:
    """Whether the driver can hold a cgroup to a limit: it can, if it knows the root to have one, or none.

    Where the driver counts by itself instead of the kernel (no dmem controller), it says NOT_SUPPORTED also of a cgroup
    that only has no limit; that is taken for no, as nothing but a write would tell. Source: NVIDIA's MPS v3 guide."""
    limits = pynvml.c_nvmlGetMemoryLimits_v1_t(nameSpace=b"/sys/fs/cgroup")
    try:
        _call("nvmlDeviceGetMemoryLimits_v1", gpu, handle, limits)
    except GpuError as error:
        if error.failure is Failure.GPU_IS_LOST:
            raise
        return error.failure is Failure.NOT_FOUND
    return True


def _fabric(ask: Callable[..., Any]) -> Fabric | None:
    """What is told in the newest form that the driver knows."""
    for form, call in (
        (pynvml.c_nvmlGpuFabricInfo_v3_t, "nvmlDeviceGetGpuFabricInfoV"),
        (pynvml.c_nvmlGpuFabricInfo_v2_t, "nvmlDeviceGetGpuFabricInfoV"),
        (pynvml.c_nvmlGpuFabricInfo_t, "nvmlDeviceGetGpuFabricInfo"),
    ):
        info = form()
        if ask(call, ctypes.byref(info)) is None:
            continue
        # A state that this code does not know is none that a fabric can be used in.
        state = FabricState(info.state) if info.state in _FABRIC_STATES else FabricState.NOT_STARTED
        if state is FabricState.NOT_SUPPORTED:
            return None
        registered = state is not FabricState.COMPLETED or info.status == pynvml.NVML_SUCCESS
        sound = readings.fabric_healthy(getattr(info, "healthMask", 0), getattr(info, "healthSummary", 0))
        return Fabric(
            state=state,
            cluster=readings.cluster(bytes(info.clusterUuid)),
            clique=info.cliqueId,
            healthy=registered and sound,
        )
    return None


def _rack(ask: Callable[..., Any]) -> Rack | None:
    info = pynvml.c_nvmlPlatformInfo_v2_t()
    told = ask("nvmlDeviceGetPlatformInfo", ctypes.byref(info))
    serial = _text(info.chassisSerialNumber)
    if told is None or not serial:
        return None
    return Rack(  # its numbers are declared as characters
        chassis_serial=serial,
        slot=ord(info.slotNumber),
        tray=ord(info.trayIndex),
        host=ord(info.hostId),
        module=ord(info.moduleId),
    )


def _links(ask: Callable[..., Any]) -> dict[str, int]:
    """Active NVLinks by what they lead to; links to what is neither a GPU nor a switch are left out."""
    found: dict[str, int] = {}
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        try:
            if not ask("nvmlDeviceGetNvLinkState", link):
                continue
            kind = ask("nvmlDeviceGetNvLinkRemoteDeviceType", link)
            far = "switch" if kind == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH else ""
            if kind == pynvml.NVML_NVLINK_DEVICE_TYPE_GPU:
                far = readings.bus(_text(ask("nvmlDeviceGetNvLinkRemotePciInfo", link).busId))
        except GpuError as error:
            if error.failure is Failure.INVALID_ARGUMENT:
                break  # past the last link of this board
            raise
        if far:
            found[far] = found.get(far, 0) + 1
    return found
