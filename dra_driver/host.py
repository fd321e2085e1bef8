"""What a node's /proc, /sys and /dev tell of its GPUs: PCIe root, NUMA node, capability minors, IMEX, boot id.

Reads only, and nothing is kept: every answer is as the files are now. `fake_host` writes such a tree for a machine that
is made up, so that the same code reads it. Source of the paths: Documentation/ABI of the kernel (sysfs-bus-pci,
cgroup-v2), the README of NVIDIA's driver, NVIDIA's MIG user guide (device nodes and capabilities).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dra_driver.facts import Gpu

MIG_CAPS = "nvidia-caps"
IMEX_CHANNELS = "nvidia-caps-imex-channels"
_PCIE_ROOT = re.compile(r"pci[0-9a-f]{4,8}:[0-9a-f]{2}")
# "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.126.20  Wed Dec  3 ..."
_VERSION = re.compile(r"\b\d{3,}\.\d+(?:\.\d+)?\b")
_IMEX_DAEMON = "nvidia-imex"
IMEX_SOCKET = Path("/etc/nvidia-imex/imex_ctrl.sock")
"""Where NVIDIA's DRA driver, too, asks the host's IMEX service how it is."""


class HostError(Exception):
    """Something that must be there on a node with NVIDIA's driver is not, or cannot be read. Object, cause, cure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a PCI device sits. `pcie_root`: "pci0000:64", empty where it is not told; `numa` None where it is none."""

    pcie_root: str = ""
    numa: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Imex:
    """The host's own IMEX service. `nodes`: addresses of the nodes of its domain, itself included; `channels`: numbers
    of the channels that have a device node."""

    nodes: tuple[str, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What the inventory needs to know of a host. `places`: by PCI bus id, as `Gpu.pci_bus` writes it. `dmem`: the
    kernel can hold a cgroup to an amount of device memory (cgroup controller dmem, Linux 6.14)."""

    places: Mapping[str, Place] = field(default_factory=dict)
    dmem: bool = False


class Host:
    """The host's files. `root`: where the host's root directory is seen from here ("/", or a mount of it in a
    container); `proc`, `sys`, `dev`: where its /proc, /sys and /dev are, if not below `root`."""

    def __init__(
        self,
        root: Path | str = "/",
        *,
        proc: Path | str | None = None,
        sys: Path | str | None = None,
        dev: Path | str | None = None,
    ) -> None:
        self.root = Path(root)
        self.proc = Path(proc) if proc is not None else self.root / "proc"
        self.sys = Path(sys) if sys is not None else self.root / "sys"
        self.dev = Path(dev) if dev is not None else self.root / "dev"

    def facts(self, pci_buses: Iterable[str]) -> HostFacts:
        """What the inventory needs, for these PCI devices."""
        return HostFacts(places={bus: self.place(bus) for bus in pci_buses}, dmem=self.dmem())

    def place(self, pci_bus: str) -> Place:
        """PCIe root and NUMA node of a device; what the kernel does not tell is left out.

        The root is the first PCI domain on the way to the device: on some hypervisors it lies below another bus."""
        device = self.sys / "bus" / "pci" / "devices" / pci_bus
        try:
            parts = device.readlink().parts
        except OSError:
            return Place()
        root = next((part for part in parts if _PCIE_ROOT.fullmatch(part)), "")
        numa = _number(_text(device / "numa_node"))
        return Place(pcie_root=root, numa=numa if numa is not None and numa >= 0 else None)

    def drm_nodes(self, pci_bus: str) -> tuple[str, ...]:
        """Names of the graphics device nodes of a GPU below /dev ("dri/card1", "dri/renderD128"); none on many."""
        return tuple(f"dri/{name}" for name in _names(self.sys / "bus" / "pci" / "devices" / pci_bus / "drm"))

    def majors(self) -> Mapping[str, int]:
        """Major numbers of character devices by name, of /proc/devices. Raises HostError if that cannot be read."""
        path = self.proc / "devices"
        text = _text(path)
        if text is None:
            raise HostError(f"{path} cannot be read; mount the host's /proc, and tell where it is.")
        found: dict[str, int] = {}
        for line in text.partition("Block devices:")[0].splitlines():
            number, _, name = line.strip().partition(" ")
            if number.isdecimal() and name:
                found[name] = int(number)
        return found

    def major(self, name: str) -> int:
        """One of them. Raises HostError where the driver has not registered it."""
        found = self.majors().get(name)
        if found is None:
            raise HostError(
                f"{self.proc / 'devices'} has no line for {name}; load NVIDIA's driver, and let it make its "
                "capabilities (nvidia-modprobe -c 0 -u)."
            )
        return found

    def gpu_capability(self, minor: int, instance: int) -> int:
        """Minor number of the capability to use a GPU instance, below the major of MIG_CAPS. Raises HostError."""
        return self._capability(self._mig(minor, instance) / "access")

    def compute_capability(self, minor: int, instance: int, compute: int) -> int:
        """The same of a compute instance in it."""
        return self._capability(self._mig(minor, instance) / f"ci{compute}" / "access")

    def boot_id(self) -> str:
        """The kernel's boot id: another one after every boot. Raises HostError."""
        path = self.proc / "sys" / "kernel" / "random" / "boot_id"
        text = (_text(path) or "").strip()
        if not text:
            raise HostError(f"{path} cannot be read; mount the host's /proc, and tell where it is.")
        return text

    def machine(self) -> str:
        """What the machine's maker calls it; empty where it does not say."""
        return _text(self.sys / "class" / "dmi" / "id" / "product_name") or ""

    def dmem(self) -> bool:
        """Whether the kernel accounts for device memory by cgroup, and cgroups are of version 2."""
        return "dmem" in (_text(self.sys / "fs" / "cgroup" / "cgroup.controllers") or "").split()

    def imex(self) -> Imex | None:
        """The IMEX service if the host runs it, None if not. It is seen among the processes, so /proc must be the
        host's: in a container that takes hostPID."""
        if not any(_text(path / "comm") == f"{_IMEX_DAEMON}\n" for path in self._processes()):
            return None
        config = _text(self.root / "etc" / "nvidia-imex" / "nodes_config.cfg") or ""
        lines = (line.partition("#")[0].strip() for line in config.splitlines())
        return Imex(nodes=tuple(line for line in lines if line), channels=self.imex_channels())

    def imex_channels(self) -> tuple[int, ...]:
        """Numbers of the IMEX channels that have a device node, whoever made it."""
        names = (name.removeprefix("channel") for name in _names(self.dev / IMEX_CHANNELS))
        return tuple(sorted(int(name) for name in names if name.isdecimal()))

    def driver_version(self) -> str:
        """Of the driver that the kernel has loaded ("580.126.20"); empty where it does not say, or has none."""
        first = (_text(self.proc / "driver" / "nvidia" / "version") or "").partition("\n")[0]
        match = _VERSION.search(first)
        return match[0] if match else ""

    def most_channels(self) -> int:
        """How many IMEX channels the driver was loaded with; 0 where it does not say."""
        for line in (_text(self.proc / "driver" / "nvidia" / "params") or "").splitlines():
            name, _, value = line.partition(":")
            if name == "ImexChannelCount":
                return _number(value) or 0
        return 0

    def _mig(self, minor: int, instance: int) -> Path:
        return self.proc / "driver" / "nvidia" / "capabilities" / f"gpu{minor}" / "mig" / f"gi{instance}"

    def _capability(self, path: Path) -> int:
        text = _text(path)
        if text is None:
            raise HostError(f"{path} cannot be read: the instance is gone, or /proc is not the host's.")
        for line in text.splitlines():
            name, _, value = line.partition(":")
            number = _number(value)
            if name == "DeviceFileMinor" and number is not None:
                return number
        raise HostError(f"{path} does not tell a DeviceFileMinor; is NVIDIA's driver older than 450?")

    def _processes(self) -> Iterable[Path]:
        return (self.proc / name for name in _names(self.proc) if name.isdecimal())


def _text(path: Path) -> str | None:
    """None where there is no such file, or it cannot be read: a process or a device goes while it is looked at."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []


def _number(text: str | None) -> int | None:
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


# --- a machine that is made up ---

FAKE_BOOT = "11111111-2222-4333-8444-555555555555"
_FAKE_MAJORS = {"nvidia": 195, "nvidia-uvm": 511, MIG_CAPS: 508, IMEX_CHANNELS: 507}
_INSTANCES, _COMPUTE = 15, 8


def fake_host(
    folder: Path,
    gpus: Iterable[Gpu],
    *,
    boot_id: str = FAKE_BOOT,
    dmem: bool = False,
    channels: int = 0,
    most_channels: int | None = None,
    imex_nodes: Iterable[str] = (),
) -> Host:
    """Write what a host with these GPUs would show below `folder`, and return the Host that reads it.

    Device nodes are empty files. The capabilities of every instance that could be made are there, made or not: a fake
    GPU does not know of this tree. With `imex_nodes` the host runs IMEX, and is ready; `channels`: so many have a
    device node, of `most_channels` that the driver has. Each GPU has a PCIe root of its own; the first half of them is
    on NUMA node 0, the rest on node 1."""
    host = Host(folder)
    known = sorted(gpus, key=lambda gpu: gpu.index)
    files = {
        host.proc / "sys/kernel/random/boot_id": f"{boot_id}\n",
        host.proc / "devices": _fake_devices(),
        host.proc
        / "driver/nvidia/params": f"ImexChannelCount: {channels if most_channels is None else most_channels}\n",
        host.sys / "fs/cgroup/cgroup.controllers": f"cpuset cpu io memory pids{' dmem' if dmem else ''}\n",
        **{host.dev / name: "" for name in ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")},
        **{host.dev / IMEX_CHANNELS / f"channel{number}": "" for number in range(channels)},
    }
    nodes = list(imex_nodes)
    if nodes:
        files[host.proc / "4711/comm"] = f"{_IMEX_DAEMON}\n"
        files[host.root / "etc/nvidia-imex/nodes_config.cfg"] = "".join(f"{node}\n" for node in nodes)
        files[host.root / IMEX_SOCKET.relative_to("/")] = "READY\n"
    for position, gpu in enumerate(known):
        files |= _fake_gpu(host, gpu, numa=0 if 2 * position < len(known) else 1)
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return host


def _fake_devices() -> str:
    lines = "".join(f"{number:3} {name}\n" for name, number in sorted(_FAKE_MAJORS.items(), key=lambda item: item[1]))
    return f"Character devices:\n  1 mem\n{lines}\nBlock devices:\n  8 sd\n"


def _fake_gpu(host: Host, gpu: Gpu, numa: int) -> dict[Path, str]:
    """The files of one GPU; its link below /sys/bus is made here."""
    domain, bus, _ = gpu.pci_bus.split(":")
    device = host.sys / "devices" / f"pci{domain}:{max(int(bus, 16) - 1, 0):02x}" / gpu.pci_bus
    link = host.sys / "bus/pci/devices" / gpu.pci_bus
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(Path("../../..") / device.relative_to(host.sys))
    files = {device / "numa_node": f"{numa}\n", host.dev / f"nvidia{gpu.minor}": ""}
    if gpu.mig is None:
        return files
    mig = host.proc / "driver/nvidia/capabilities" / f"gpu{gpu.minor}" / "mig"
    for instance in range(_INSTANCES):
        # As the driver numbers them: 1 and 2 are for configuring and monitoring, then nine for each instance.
        number = 3 + (gpu.minor * _INSTANCES + instance) * (1 + _COMPUTE)
        files[mig / f"gi{instance}/access"] = _fake_capability(number)
        files[host.dev / MIG_CAPS / f"nvidia-cap{number}"] = ""
        for compute in range(_COMPUTE):
            files[mig / f"gi{instance}/ci{compute}/access"] = _fake_capability(number + 1 + compute)
            files[host.dev / MIG_CAPS / f"nvidia-cap{number + 1 + compute}"] = ""
    return files


def _fake_capability(minor: int) -> str:
    return f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n"
