"""What the node offers and what of it was given away: the values that the rooms of this package hand to each other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from dra_driver.facts import MigProfile, Placement


class Kind(Enum):
    """What a device is; the value of its attribute `type`."""

    GPU = "gpu"
    MIG = "mig"
    CHANNEL = "channel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """An attribute that is a semantic version: "9.0.0"."""

    text: str


Attribute = bool | int | str | tuple[str, ...] | Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """An amount (bytes, or a count) that a device has. `step`, where several claims may share the device: a claim takes
    multiples of it, `least` or more, and `default` if it does not say (KEP 5075)."""

    amount: int
    step: int | None = None
    least: int | None = None
    default: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Taint:
    """A DeviceTaint: `effect` is "NoSchedule", "NoExecute" or "None"; first seen at `since_ms` (since 1970)."""

    key: str
    value: str
    effect: str
    since_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device as it is published. `gpu`: UUID of the GPU it is, or is part of; empty for a channel.

    `instance`: UUID of an operator's MIG instance, which is never made nor destroyed; empty for one made on demand.
    `counters`: what it consumes of `counter_set`, its GPU's; empty where the GPU is in one piece or has none."""

    name: str
    kind: Kind
    gpu: str = ""
    profile: MigProfile | None = None
    placement: Placement | None = None
    instance: str = ""
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    capacity: Mapping[str, Capacity] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    counter_set: str = ""
    shareable: bool = False
    taints: tuple[Taint, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterSet:
    """What a GPU has of what its parts cannot have twice."""

    name: str
    counters: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """All that a node offers: a pure function of its facts, of the configuration, of taints, and of which instances are
    an operator's. `refused`: GPUs, or parts of them, that are not offered, and why, in words for an event."""

    devices: tuple[Device, ...]
    counter_sets: tuple[CounterSet, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()


class Sharing(Enum):
    """How processes of several containers use one device."""

    NONE = "none"
    TIME_SLICING = "time-slicing"
    MPS = "mps"
    EXCLUSIVE = "exclusive"


class Enforcement(Enum):
    """What keeps a share of memory to its size, strongest first; the value of the attribute `memoryEnforcement`."""

    DMEM = "dmem"
    MPS = "mps"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the opaque configs of a claim and its class ask of a device, defaults filled in.

    `time_slice`: 0 (the driver's default) to 3 (long). `threads_percent`, `memory_bytes`: limits of the claim's
    processes under MPS; None is no limit. `multi_user`: MPS for clients of several users. `domain`, `every_channel`:
    the UID of the ComputeDomain that an IMEX channel is for, and whether all channels are wanted."""

    sharing: Sharing = Sharing.NONE
    time_slice: int = 0
    threads_percent: int | None = None
    memory_bytes: int | None = None
    multi_user: bool = False
    domain: str = ""
    every_channel: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One device that the scheduler has given to a claim, as the claim's status says it, with what is asked of it.

    `requests`: names of the claim's main requests that it serves. `memory_bytes`, `cores_percent`: the share of a
    device that others share, None for all of it. `admin`: adminAccess, for looking on only."""

    requests: tuple[str, ...]
    pool: str
    device: str
    share_id: str = ""
    memory_bytes: int | None = None
    cores_percent: int | None = None
    admin: bool = False
    settings: Settings = Settings()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRef:
    """A claim by its names."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A grant with the hardware behind it: enough to give it back when nothing but the checkpoint is left.

    `kind`, `gpu`, `minor`, `profile_id`, `placement`: of the device; `made`: we made the instance, and destroy it.
    `switched`: we put its GPU into MIG mode, and take it out of it after the last. `instance`: its UUID, empty before
    it is there. `enforcement`: of its share of memory, None where it has no share.
    `cdi`: its fully qualified names in the CDI specification ("k8s.gpu.nvidia.com/claim=<uid>-<device>")."""

    grant: Grant
    kind: Kind
    gpu: str = ""
    minor: int | None = None
    profile: str = ""
    profile_id: int | None = None
    placement: Placement | None = None
    made: bool = False
    switched: bool = False
    instance: str = ""
    enforcement: Enforcement | None = None
    cdi: tuple[str, ...] = ()


class Phase(Enum):
    """How far a claim is. Written before what it names begins; DONE after all of it stands."""

    STARTED = "started"
    DONE = "done"
    ENDING = "ending"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One claim in the checkpoint. `boot`: the kernel's boot id when it was prepared."""

    claim: ClaimRef
    phase: Phase
    boot: str
    devices: tuple[Prepared, ...]
