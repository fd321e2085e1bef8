"""A node with GPUs that are made up, and all that prepares claims on it. Built anew: the plugin after a restart."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dra_driver import cdi, holding
from dra_driver.checkpoint import Checkpoint
from dra_driver.commands import Answer, Commands, Processes, Tools
from dra_driver.devices import ClaimRef, Entry, Grant, Inventory, Kind, Prepared, Settings, Sharing
from dra_driver.disk import Disk
from dra_driver.facts import ComputeMode
from dra_driver.fake import FakeGpus
from dra_driver.host import Host, fake_host
from dra_driver.inventory import Offer, Shares, inventory
from dra_driver.libraries import Libraries
from dra_driver.mps import Daemons
from dra_driver.prepare import Node, Preparer
from dra_driver.sharing import Sharer
from dra_driver.specs import Specs

GIB = 1 << 30
MPS = Settings(sharing=Sharing.MPS)
EXCLUSIVE = Settings(sharing=Sharing.EXCLUSIVE)
TOOLS = Tools(mps_control="nvidia-cuda-mps-control", own_shm=False)


def claim(name: str, uid: str = "") -> ClaimRef:
    return ClaimRef(namespace="team", name=name, uid=uid or f"uid-{name}")


def grant(device: str, *, request: str = "r", **changes: Any) -> Grant:
    return Grant(requests=(request,), pool="node-1", device=device, **changes)


class Programs(Commands, Processes):
    """NVIDIA's programs without a process of their own: an MPS daemon is a file, which outlives who started it.

    `step` sees each beginning and end of one."""

    def __init__(self, top: Path, step: Callable[[str], None] | None) -> None:
        self._top, self._folder, self._step = top, top / "daemons", step or str

    def run(self, argv: Sequence[str], *, env: Mapping[str, str], stdin: str = "", seconds: float = 20) -> Answer:
        del seconds
        pipe = Path(env["CUDA_MPS_PIPE_DIRECTORY"])
        found = self.find((), f"CUDA_MPS_PIPE_DIRECTORY={pipe}")
        if "-d" in argv:
            if found or not pipe.is_dir():
                return Answer(code=1, errors="cannot start")
            self._folder.mkdir(exist_ok=True)
            number = 50_000 + sum(1 for _ in self._folder.glob("*"))
            (self._folder / str(number)).write_text(f"{self._short(pipe)}\n{env['CUDA_VISIBLE_DEVICES']}")
            self._step("daemon-started")
            return Answer(code=0)
        if not found:
            return Answer(code=1, errors="Cannot find MPS control daemon process")
        if "quit" in stdin.splitlines():
            self._end(found)
        return Answer(code=0)

    def find(self, programs: Sequence[str], variable: str) -> tuple[int, ...]:
        del programs
        pipe = self._short(Path(variable.partition("=")[2]))
        return tuple(pid for pid, (where, _) in sorted(self._all().items()) if where == pipe)

    def end(self, programs: Sequence[str], variable: str, seconds: float) -> tuple[int, ...]:
        del seconds
        self._end(self.find(programs, variable))
        return ()

    def _end(self, pids: Iterable[int]) -> None:
        for pid in pids:
            (self._folder / str(pid)).write_text("")
            self._step("daemon-ended")

    @property
    def running(self) -> tuple[str, ...]:
        """What the daemons that run serve."""
        return tuple(sorted(device for _, device in self._all().values()))

    def kill(self) -> None:
        """All daemons die."""
        for pid in self._all():
            (self._folder / str(pid)).write_text("")

    def _all(self) -> dict[int, tuple[str, str]]:
        found = {}
        for path in self._folder.glob("*"):
            where, _, device = path.read_text().partition("\n")
            if where:
                found[int(path.name)] = where, device
        return found

    def _short(self, pipe: Path) -> str:
        return str(pipe.relative_to(self._top))


@dataclass
class Plant:
    """`disk` and `step` see each change of the disk and of the hardware. `shares`: GPUs are offered in parts."""

    folder: Path
    machine: str = "h100x2"
    disk: Disk = field(default_factory=Disk)
    step: Callable[[str], None] | None = None
    shares: bool = False
    moving_minors: bool = False
    host: Host | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.gpus = FakeGpus(
            self.machine, state=self.folder / "hardware.json", step=self.step, moving_minors=self.moving_minors
        )
        if self.host is None:
            self.host = fake_host(self.folder.parent / "host", [replace(gpu, mig=None) for gpu in self.gpus.gpus()])
        self.checkpoint = Checkpoint(self.folder / "plugin", self.disk)
        self.specs = Specs(self.folder / "cdi", self.disk, self._specification)
        self.programs = Programs(self.folder, self.step)
        self.daemons = Daemons(
            self.folder / "plugin" / "mps",
            disk=self.disk,
            commands=self.programs,
            processes=self.programs,
            tools=TOOLS,
            shm=self.folder / "shm",
            pause=lambda _: None,
        )
        self.sharer = Sharer(
            self.folder / "plugin",
            gpus=self.gpus,
            disk=self.disk,
            daemons=self.daemons,
            commands=self.programs,
            tools=TOOLS,
        )
        self.node = Node(
            gpus=self.gpus,
            checkpoint=self.checkpoint,
            specs=self.specs,
            sharing=self.sharer,
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
        assert self.host is not None
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
        roots = (self.folder / "plugin", self.folder / "shm", self.folder / "cdi")
        files = [str(path.relative_to(self.folder)) for root in roots for path in sorted(root.rglob("*"))]
        kept = ("plugin/mps", "plugin/modes", "plugin/checkpoint.json")
        found = {
            "instances": self.cut,
            "daemons": self.programs.running,
            "entries": tuple(entry.claim.uid for entry in self.entries),
            "modes": modes,
            "files": [name for name in files if name not in kept[:2] and not name.startswith(kept[2])],
        }
        return {name: there for name, there in found.items() if there}

    def _specification(self, uid: str, devices: tuple[Prepared, ...]) -> dict[str, object]:
        uuids = {device.gpu for device in devices if device.kind is Kind.MIG}
        instances = [each for uuid in sorted(uuids) for each in self.gpus.instances(uuid)]
        return cdi.specification(
            uid,
            devices,
            host=_AnyMinor(self.host),
            libraries=Libraries(),
            instances=instances,
            edits=self.sharer.edits(devices),
        )


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
