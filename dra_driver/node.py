"""The node as the plugin sees it: its GPUs and host, made up or not, and what is offered of them now."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import structlog

from dra_driver import libraries
from dra_driver.commands import MPS_CONTROL
from dra_driver.config import Config, ConfigError
from dra_driver.devices import Entry, Inventory, Kind, Taint
from dra_driver.facts import Gpu, Gpus, SessionOver
from dra_driver.fake import RACK, FakeGpus
from dra_driver.holding import owned
from dra_driver.host import Host, fake_host
from dra_driver.inventory import MIB, Memory, Offer, Shares, inventory, tainted
from dra_driver.libraries import Libraries

log = structlog.get_logger(__name__)

Taints = Mapping[str, tuple[Taint, ...]]

_CHANNELS = 2048
"""IMEX channels of NVIDIA's driver as it comes; an administrator makes the first."""

_NUMBER = re.compile(r"gpu-(\d+)(-mig-.+)?")
"""Of the GPU, in a device's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What is asked and told. `libraries`: what of the driver goes into containers."""

    gpus: Gpus
    host: Host
    libraries: Libraries


def hardware(config: Config, *, fake_state: Path | None, fake_folder: Path) -> Hardware:
    """The node's own, or the machine that the configuration makes up: kept in `fake_state` (None: in memory), and what
    its host would show written below `fake_folder`. Raises GpuError where there is no driver, and ConfigError where
    what is set is not on the host."""
    if config.fake is not None:
        node = config.node_name or "node-1"
        gpus: Gpus = FakeGpus(config.fake, node=node, rack=config.fake_rack or RACK, state=fake_state)
        known = gpus.gpus()
        # Where NVLink spans nodes, a host runs IMEX.
        spans = any(gpu.fabric is not None and gpu.fabric.cluster for gpu in known)
        imex: dict[str, Any] = {"channels": 1, "most_channels": _CHANNELS, "imex_nodes": (node,)} if spans else {}
        host = fake_host(fake_folder, known, **imex)
        return Hardware(gpus=gpus, host=host, libraries=libraries.discover(fake_folder, gpus.driver().version))
    # Loads the driver's library, which a machine without one does not have.
    from dra_driver.nvml import Nvml

    seen = config.host_root / config.driver_root.relative_to("/")
    hook = _hook(config)
    real = Nvml(seen)
    try:
        found = libraries.discover(
            seen, real.driver().version, host_root=str(config.driver_root), host=config.host_root, hook=hook
        )
    except BaseException:
        real.close()
        raise
    return Hardware(gpus=real, host=Host(config.host_root, dev="/dev"), libraries=found)


def _hook(config: Config) -> str | None:
    """nvidia-cdi-hook as it is set; None where it is to be looked for. Raises ConfigError where it is not there: every
    container with a GPU would fail to start by it."""
    if config.cdi_hook is None:
        return None
    if not libraries.below(config.host_root, str(config.cdi_hook)).is_file():
        raise ConfigError(
            "cdi_hook",
            f"{str(config.cdi_hook)!r} is no file below host_root {str(config.host_root)!r}",
            "install NVIDIA's container toolkit on the host, or leave the setting out",
        )
    return str(config.cdi_hook)


def offer(config: Config, found: Hardware) -> Offer:
    """What configuration and hardware let be offered. Without the driver's program MPS keeps nobody to a share."""
    there = config.fake is not None or any(PurePosixPath(path).name == MPS_CONTROL for path in found.libraries.programs)
    shares = Shares(gpus=config.shared_gpus, step_bytes=config.share_step_mib * MIB) if config.shared_gpus else None
    return Offer(dynamic_mig=config.dynamic_mig, shares=shares, mps=config.mps and there)


class Offered:
    """What the node offers, as of the last look. All but `inventory` and `uuids` is done under the node's lock."""

    def __init__(self, node: str, hardware: Hardware, offer: Offer) -> None:
        self._node = node
        self._hardware = hardware
        self._offer = offer
        self._memory = Memory()
        self._loaded = hardware.host.driver_version()
        """The kernel's driver that our session is with; empty where the host does not say."""
        self._refused: frozenset[tuple[str, str]] = frozenset()
        self.inventory = Inventory(devices=())
        self._taints: dict[str, Taints] = {}
        """By who wants them."""
        self.lost: frozenset[str] = frozenset()
        """UUIDs of GPUs that do not answer."""

    def remember(self, devices: Iterable[tuple[str, str]]) -> None:
        """Names of devices that claims may hold, each with the UUID of its GPU: that GPU keeps its number."""
        known = dict(self._memory.numbers)
        for name, gpu in devices:
            match = _NUMBER.fullmatch(name)
            if match and gpu and int(match[1]) not in known.values():
                known.setdefault(gpu, int(match[1]))
        self._memory = Memory(gpus=self._memory.gpus, numbers=known)

    def look(self, entries: Iterable[Entry]) -> Inventory:
        """Look anew. `entries`: all that is prepared, or is being. Raises GpuError, HostError, SessionOver."""
        self._refuse_other_driver()
        ours = owned(entries, self._hardware.host.boot_id())
        gpus, lost = self._hardware.gpus.gpus(), self._hardware.gpus.lost()
        memory = self._memory.seen(gpus, lost)
        self.inventory = inventory(
            self._node,
            self._hardware.gpus.driver(),
            memory.gpus,
            self._hardware.host.facts(gpu.pci_bus for gpu in memory.gpus),
            self._offer,
            ours,
            self._every_taint(),
            memory.numbers,
        )
        self._memory, self.lost = memory, frozenset(lost)
        self._tell(self.inventory)
        return self.inventory

    def _refuse_other_driver(self) -> None:
        loaded = self._hardware.host.driver_version()
        if loaded and self._loaded and loaded != self._loaded:
            raise SessionOver(
                f"NVIDIA's driver: the kernel has loaded {loaded}, and the plugin's session is with {self._loaded}; it "
                "ends, and is started again with the new one"
            )
        self._loaded = self._loaded or loaded

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """All GPUs, lost ones as they were last known."""
        return self._memory.gpus

    def taint(self, taints: Taints, by: str = "health") -> None:
        """From now on these taints stand, and no others of who wants them: by UUID or device name."""
        self._taints[by] = taints
        self.inventory = tainted(self.inventory, self._every_taint())

    def uuids(self) -> dict[str, str]:
        """UUIDs of the devices that exist already, by name: opaque configs may name them so."""
        known = {each.name: each.gpu if each.kind is Kind.GPU else each.instance for each in self.inventory.devices}
        return {name: uuid for name, uuid in known.items() if uuid}

    def _every_taint(self) -> Taints:
        keys = dict.fromkeys(key for taints in self._taints.values() for key in taints)
        return {key: tuple(each for taints in self._taints.values() for each in taints.get(key, ())) for key in keys}

    def _tell(self, found: Inventory) -> None:
        """What is not offered is said once, and again when it changes."""
        refused = frozenset(found.refused)
        for about, why in sorted(refused - self._refused):
            log.warning("not offered", device=about, why=why)
        self._refused = refused
