"""What a node's GPUs are, as plain values, and the face by which they are asked and told (`Gpus`).

Two stand behind that face: NVML (`dra_driver.nvml`) and a machine that is made up (`dra_driver.fake`). Nothing of this
package but those two knows how a GPU is talked to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Protocol


class Failure(IntEnum):
    """Why NVML refused: the return codes that somebody here decides by. Source: nvml.h, nvmlReturn_t."""

    INVALID_ARGUMENT = 2
    NOT_SUPPORTED = 3
    NO_PERMISSION = 4
    NOT_FOUND = 6
    TIMEOUT = 10
    GPU_IS_LOST = 15
    RESET_REQUIRED = 16
    IN_USE = 19
    INSUFFICIENT_RESOURCES = 23
    UNKNOWN = 999


class GpuError(Exception):
    """NVML refused a call. `call`: its name; `about`: UUID or index of GPU or instance, empty for the whole node."""

    def __init__(self, failure: Failure, call: str, about: str = "", text: str = "") -> None:
        super().__init__(f"{about + ': ' if about else ''}{call}: {text or failure.name.lower().replace('_', ' ')}")
        self.failure = failure
        self.call = call
        self.about = about


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Placement:
    """A range of a GPU's memory slices."""

    start: int
    size: int

    def overlaps(self, other: "Placement") -> bool:
        """Whether a slice lies in both."""
        return self.start < other.start + other.size and other.start < self.start + self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class MigProfile:
    """A kind of GPU instance that a board can be cut into, with a compute instance of its whole size.

    `name` is what a device calls itself ("3g.40gb", "1g.10gb+me"), `id` NVML's number of the profile on this board;
    `slices`: compute slices; `memory_bytes`: what an instance really has, less than its name says."""

    name: str
    id: int
    slices: int
    memory_slices: int
    memory_bytes: int
    multiprocessors: int
    copy_engines: int
    decoders: int
    encoders: int
    jpeg_engines: int
    ofa_engines: int
    most: int
    placements: tuple[Placement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MigInstance:
    """A GPU instance that exists. Without a compute instance in it, `compute_id` is None and `uuid` empty."""

    gpu: str
    id: int
    compute_id: int | None
    uuid: str
    profile: str
    profile_id: int
    placement: Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Mig:
    """What a GPU can be cut into and into what it is. `on_demand`: the mode changes at once (Hopper and newer); else
    only by a reset of the GPU, and `pending` may differ from `on`."""

    on: bool
    pending: bool
    on_demand: bool
    profiles: tuple[MigProfile, ...]
    instances: tuple[MigInstance, ...] = ()


class FabricState(Enum):
    """Source: nvml.h, NVML_GPU_FABRIC_STATE_*."""

    NOT_SUPPORTED = 0
    NOT_STARTED = 1
    IN_PROGRESS = 2
    COMPLETED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """The NVLink fabric a GPU has joined. `cluster`: UUID, empty where all of it is zero (no fabric that spans nodes);
    `healthy`: the registration succeeded, and no part of it is reported degraded."""

    state: FabricState
    cluster: str
    clique: int
    healthy: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Rack:
    """Where a GPU stands, as the platform tells (Blackwell and newer)."""

    chassis_serial: str
    slot: int
    tray: int
    host: int
    module: int


class ComputeMode(Enum):
    """Who may use a GPU. Source: nvml.h, nvmlComputeMode_t."""

    DEFAULT = 0
    PROHIBITED = 2
    EXCLUSIVE_PROCESS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU. What NVML does not tell is None, or empty.

    `pci_bus`: "0000:65:00.0", in lower case; `pci_device`, `pci_subsystem`: device before vendor, "0x233010DE", the
    second empty where the board tells none. `memory_bytes`: all that it has. `compute_capability`, as the versions of
    `Driver`: (major, minor). `links`: active NVLinks to other GPUs, by their PCI bus id, and under "switch" those that
    lead to an NVSwitch. `memory_limits`: the driver can hold a cgroup to an amount of its memory (r615 and newer)."""

    index: int
    minor: int
    uuid: str
    serial: str = ""
    product: str
    brand: str = ""
    architecture: str
    compute_capability: tuple[int, int]
    memory_bytes: int | None
    pci_bus: str
    pci_device: str = ""
    pci_subsystem: str = ""
    module: int | None = None
    addressing_mode: str = ""
    compute_mode: ComputeMode = ComputeMode.DEFAULT
    ecc: bool | None = None
    confidential: bool = False
    memory_limits: bool = False
    virtual: bool = False
    mig: Mig | None = None
    fabric: Fabric | None = None
    rack: Rack | None = None
    links: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """The node's NVIDIA driver. `version` as it says ("580.126.20"); `cuda`: (major, minor) of the newest CUDA."""

    version: str
    cuda: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """Who uses a GPU, or one instance of it."""

    pid: int
    memory_bytes: int | None
    instance: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How busy a GPU or an instance is. `busy`: thousandths of the last sample period; None where it is not told."""

    busy: int | None
    memory_used_bytes: int | None
    memory_bytes: int | None
    power_milliwatts: int | None = None
    celsius: int | None = None


class Recovery(IntEnum):
    """What the driver wants done before a GPU is used again. Source: nvml.h, NVML_GPU_RECOVERY_ACTION_*."""

    NONE = 0
    GPU_RESET = 1
    NODE_REBOOT = 2
    DRAIN_P2P = 3
    DRAIN_AND_RESET = 4
    RECOVER_IMEX_DOMAIN = 5
    BUS_RESET = 6
    SYSTEM_REBOOT = 7


class SessionOver(Exception):
    """The session with the driver tells nothing true any more: the driver was loaded anew or replaced beneath it. Only
    another start of the plugin begins another. Object, cause, cure."""


class EventKind(Enum):
    """What an event is about."""

    XID = "xid"
    DOUBLE_BIT_ECC = "double-bit-ecc"
    SINGLE_BIT_ECC = "single-bit-ecc"
    UNAVAILABLE = "unavailable"
    RECOVERY = "recovery"
    MIG_CHANGED = "mig-changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuEvent:
    """Something has happened to a GPU. `gpu`: its UUID; `instance`: the GPU instance it is about, None for the whole
    GPU; `code`: the XID's number, or of a recovery its `Recovery`."""

    gpu: str
    kind: EventKind
    code: int = 0
    instance: int | None = None


class Gpus(Protocol):
    """A node's GPUs, asked and told. Every call may raise GpuError; a GPU that is lost raises GPU_IS_LOST by itself and
    is left out of `gpus`, told in `lost`. All calls block; they may come from any thread, one at a time."""

    def driver(self) -> Driver:
        """Versions of the driver."""

    def gpus(self) -> tuple[Gpu, ...]:
        """All GPUs that answer, by index, read anew. Raises SessionOver, too."""

    def gpu(self, gpu: str) -> Gpu:
        """One of them, read anew: to read all takes a hundred calls and more for each. GPU_IS_LOST for one that does
        not answer, or was never there. Raises SessionOver, too."""

    def lost(self) -> tuple[str, ...]:
        """UUIDs of GPUs that were there at the start, or in an earlier answer, and do not answer now."""

    def instances(self, gpu: str) -> tuple[MigInstance, ...]:
        """What a GPU is cut into now: cheaper than `gpus`. By placement."""

    def set_mig(self, gpu: str, on: bool) -> None:
        """Change the mode. IN_USE while somebody uses the GPU; where it needs a reset, it is pending afterwards."""

    def create_instance(self, gpu: str, profile_id: int, placement: Placement) -> MigInstance:
        """A GPU instance just there, and one compute instance of its whole size. INSUFFICIENT_RESOURCES if something is
        in the way; then, and if the second fails, nothing is left behind. Killed in between, the first remains."""

    def destroy_instance(self, instance: MigInstance) -> None:
        """Compute instance and GPU instance go. IN_USE while a process lives in it; NOT_FOUND if it is gone."""

    def set_compute_mode(self, gpu: str, mode: ComputeMode) -> None:
        """Who may use the GPU from now on."""

    def limit_memory(self, gpu: str, cgroup: str, hard_bytes: int | None) -> None:
        """The processes of a cgroup (absolute path) get no more than this of the GPU's memory; None lifts it."""

    def processes(self, gpu: str) -> tuple[Process, ...]:
        """Who uses the GPU now."""

    def usage(self, device: str) -> Usage:
        """How busy a GPU or an instance is, by its UUID."""

    def recovery(self, gpu: str) -> Recovery | None:
        """What is to be done before the GPU is used again; None where the driver cannot tell."""

    def unmonitored(self) -> tuple[str, ...]:
        """UUIDs of GPUs whose errors no event tells, as far as `wait` has tried. Never asks the driver."""

    def wait(self, milliseconds: int) -> GpuEvent | None:
        """The next event, or None when none came in time. From a thread of its own, beside the other calls."""

    def close(self) -> None:
        """The end of the session."""
