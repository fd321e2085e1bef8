"""A node with GPUs that are made up, and all that prepares claims on it. Built anew: the plugin after a restart."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dra_driver import cdi, holding
from dra_driver.checkpoint import Checkpoint
from dra_driver.devices import ClaimRef, Enforcement, Entry, Grant, Inventory, Kind, Prepared, Settings, Sharing
from dra_driver.disk import Disk
from dra_driver.facts import ComputeMode
from dra_driver.fake import FakeGpus
from dra_driver.host import fake_host
from dra_driver.inventory import Offer, Shares, inventory
from dra_driver.libraries import Libraries
from dra_driver.prepare import Node, Preparer
from dra_driver.specs import Specs

GIB = 1 << 30
MPS = Settings(sharing=Sharing.MPS)
EXCLUSIVE = Settings(sharing=Sharing.EXCLUSIVE)


def claim(name: str, uid: str = "") -> ClaimRef:
    return ClaimRef(namespace="team", name=name, uid=uid or f"uid-{name}")


def grant(device: str, **changes: Any) -> Grant:
    return Grant(requests=("r",), pool="node-1", device=device, **changes)


@dataclass
class Daemons:
    """MPS daemons, as one file each: of a GPU or an instance, for all claims that ask for one. While one runs on a
    whole GPU, only it may use the GPU."""

    folder: Path
    disk: Disk
    gpus: FakeGpus

    def apply(self, claim: ClaimRef, prepared: Prepared, others: tuple[Prepared, ...]) -> Prepared:
        del claim, others
        if prepared.grant.settings.sharing is Sharing.MPS:
            self.disk.write(self._file(prepared), b"running")
        if prepared.kind is Kind.GPU and prepared.grant.settings.sharing in (Sharing.MPS, Sharing.EXCLUSIVE):
            self.gpus.set_compute_mode(prepared.gpu, ComputeMode.EXCLUSIVE_PROCESS)
        return replace(prepared, enforcement=Enforcement.MPS if prepared.grant.share_id else None)

    def undo(self, claim: ClaimRef, prepared: Prepared, others: tuple[Prepared, ...]) -> None:
        del claim
        if prepared.grant.settings.sharing is Sharing.NONE:
            return
        if any(
            holding.same_device(prepared, other) and other.grant.settings.sharing is Sharing.MPS for other in others
        ):
            return
        if prepared.kind is Kind.GPU:
            self.gpus.set_compute_mode(prepared.gpu, ComputeMode.DEFAULT)
        self.disk.remove(self._file(prepared))

    def collect(self, kept: tuple[tuple[ClaimRef, Prepared], ...]) -> tuple[str, ...]:
        needed = {self._file(each).name for _, each in kept if each.grant.settings.sharing is Sharing.MPS}
        ended = tuple(name for name in self.running if name not in needed)
        for name in ended:
            self.disk.remove(self.folder / name)
        self.disk.sweep(self.folder)
        return ended

    @property
    def running(self) -> tuple[str, ...]:
        return self.disk.names(self.folder)

    def _file(self, prepared: Prepared) -> Path:
        place = f"-{prepared.placement.start}" if prepared.placement else ""
        return self.folder / f"{prepared.gpu}{place}"


@dataclass
class Plant:
    """`disk` and `step` see each change of the disk and of the hardware. `shares`: GPUs are offered in parts."""

    folder: Path
    machine: str = "h100x2"
    disk: Disk = field(default_factory=Disk)
    step: Callable[[str], None] | None = None
    shares: bool = False
    moving_minors: bool = False

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.gpus = FakeGpus(
            self.machine, state=self.folder / "hardware.json", step=self.step, moving_minors=self.moving_minors
        )
        self.host = fake_host(self.folder / "host", [replace(gpu, mig=None) for gpu in self.gpus.gpus()])
        self.checkpoint = Checkpoint(self.folder / "plugin", self.disk)
        self.specs = Specs(self.folder / "cdi", self.disk, self._specification)
        self.daemons = Daemons(self.folder / "mps", self.disk, self.gpus)
        self.node = Node(
            gpus=self.gpus,
            checkpoint=self.checkpoint,
            specs=self.specs,
            sharing=self.daemons,
            inventory=self.inventory,
            boot=lambda: self.gpus.boot_id,
        )
        self.preparer = Preparer(self.node)
        self.numbers = {uuid: number for number, uuid in enumerate(self.gpus.uuids)}

    def begun(self) -> "Plant":
        """With a checkpoint: what a first start leaves."""
        if self.checkpoint.load().lost:
            self.checkpoint.rebuild(())
        return self

    def again(self, **changes: Any) -> "Plant":
        """Another plugin on this node."""
        return replace(self, **changes)

    def inventory(self) -> Inventory:
        known = self.gpus.gpus()
        return inventory(
            "node-1",
            self.gpus.driver(),
            known,
            self.host.facts(gpu.pci_bus for gpu in known),
            Offer(dynamic_mig=True, shares=Shares() if self.shares else None),
            holding.owned(self.checkpoint.load().entries, self.gpus.boot_id),
            numbers=self.numbers,
        )

    @property
    def entries(self) -> tuple[Entry, ...]:
        return self.checkpoint.load().entries

    @property
    def cut(self) -> dict[str, list[str]]:
        """Profile@start of the instances that exist, by number of their GPU; "mode" where only the mode is on."""
        found = {}
        for gpu in self.gpus.gpus():
            there = [f"{each.profile}@{each.placement.start}" for each in self.gpus.instances(gpu.uuid)]
            if there or (gpu.mig is not None and gpu.mig.on):
                found[f"gpu-{self.numbers[gpu.uuid]}"] = there or ["mode"]
        return found

    @property
    def left(self) -> dict[str, Any]:
        """All that preparing may leave behind; empty where nothing was prepared."""
        modes = [gpu.uuid for gpu in self.gpus.gpus() if gpu.compute_mode is not ComputeMode.DEFAULT]
        parts = [path.name for path in sorted(self.folder.rglob(".*.part"))]
        found = {
            "instances": self.cut,
            "files": self.specs.uids(),
            "daemons": self.daemons.running,
            "entries": tuple(entry.claim.uid for entry in self.entries),
            "modes": modes,
            "parts": parts,
        }
        return {name: there for name, there in found.items() if there}

    def _specification(self, uid: str, devices: tuple[Prepared, ...]) -> dict[str, object]:
        uuids = {device.gpu for device in devices if device.kind is Kind.MIG}
        instances = [each for uuid in sorted(uuids) for each in self.gpus.instances(uuid)]
        return cdi.specification(uid, devices, host=_AnyMinor(self.host), libraries=Libraries(), instances=instances)


class _AnyMinor:
    """The host, on which every GPU number has its capabilities."""

    def __init__(self, host: Any) -> None:
        self._host = host

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    def gpu_capability(self, minor: int, instance: int) -> int:
        return 3 + (minor * 15 + instance) * 9

    def compute_capability(self, minor: int, instance: int, compute: int) -> int:
        return self.gpu_capability(minor, instance) + 1 + compute


def answer(devices: tuple[Prepared, ...]) -> list[tuple[object, ...]]:
    """What the kubelet is told."""
    return [
        (each.grant.requests, each.grant.pool, each.grant.device, each.cdi, each.grant.share_id) for each in devices
    ]
