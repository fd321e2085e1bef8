"""The rooms of the plugin that need no event loop, built and joined: hardware, disk, checkpoint, sharing, preparer."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from dra_driver import cdi
from dra_driver.cgroups import DaemonCgroup, PodCgroups
from dra_driver.checkpoint import Checkpoint
from dra_driver.commands import HostProcesses, Subprocesses, Tools, tools
from dra_driver.config import Config
from dra_driver.devices import Entry, Inventory, Kind, Prepared
from dra_driver.disk import Disk
from dra_driver.fake_tools import fake_tools
from dra_driver.monitor import Monitor
from dra_driver.mps import Daemons
from dra_driver.node import Hardware
from dra_driver.prepare import Node, Preparer
from dra_driver.recovery import Recovery
from dra_driver.sharing import Sharer
from dra_driver.specs import Specs
from scheduler.api.attributes import PCI_BUS_ID

NODE_LOCK = "node.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """`lock`: the node's, for all work on hardware and disk. `cgroups`: is told of claims that are to be prepared."""

    preparer: Preparer
    recovery: Recovery
    specs: Specs
    checkpoint: Checkpoint
    cgroups: PodCgroups
    monitor: Monitor
    lock: Callable[[], AbstractContextManager[None]]

    def entries(self) -> tuple[Entry, ...]:
        """All that is prepared, or is being, as far as checkpoint and CDI files tell. Under the node's lock."""
        noted = self.checkpoint.load().entries
        known = {entry.claim.uid for entry in noted}
        borne = (self.specs.read(uid) for uid in self.specs.uids() if uid not in known)
        return (*noted, *(entry for entry in borne if entry is not None))


def rooms(config: Config, hardware: Hardware, inventory: Callable[[], Inventory]) -> Rooms:
    """All of them, over one disk; nothing is read or changed yet."""
    disk, gpus, cgroups = Disk(), hardware.gpus, PodCgroups(hardware.host.sys)
    programs, commands = programs_of(config, hardware), Subprocesses()
    if not config.mps:
        programs = replace(programs, mps_control="")
    daemons = Daemons(
        config.data_dir / "mps",
        disk=disk,
        commands=commands,
        processes=HostProcesses(),
        tools=programs,
        shm=None if config.fake is not None else config.shm_dir / f"{config.driver}-mps",
        cgroup=None if config.fake is not None else DaemonCgroup(hardware.host.sys),
    )
    sharer = Sharer(
        config.data_dir / "sharing",
        gpus=gpus,
        disk=disk,
        daemons=daemons,
        commands=commands,
        tools=programs,
        cgroups=cgroups,
        dmem=hardware.host.dmem(),
    )
    specs = Specs(
        config.cdi_dir,
        disk,
        partial(_specification, hardware, sharer, inventory, config.driver),
        config.driver,
    )
    checkpoint = Checkpoint(config.data_dir, disk)
    node = Node(
        gpus=gpus,
        checkpoint=checkpoint,
        specs=specs,
        sharing=sharer,
        inventory=inventory,
        boot=hardware.host.boot_id,
    )
    preparer = Preparer(node)
    return Rooms(
        preparer=preparer,
        recovery=Recovery(node, preparer),
        specs=specs,
        checkpoint=checkpoint,
        cgroups=cgroups,
        monitor=Monitor(
            gpus,
            disk,
            config.data_dir,
            hardware.host.boot_id,
            window_ms=round(config.health_window_seconds * 1000),
            ignored=config.ignored_xids,
        ),
        lock=lambda: disk.lock(config.data_dir / NODE_LOCK, config.lock_seconds),
    )


def programs_of(config: Config, hardware: Hardware) -> Tools:
    """The driver's programs, or such as play them where the machine is made up."""
    if config.fake is not None:
        return fake_tools(config.data_dir / "fake-tools")
    return tools(config.host_root / config.driver_root.relative_to("/"), hardware.libraries)


def _specification(
    hardware: Hardware,
    sharer: Sharer,
    inventory: Callable[[], Inventory],
    driver: str,
    uid: str,
    devices: tuple[Prepared, ...],
) -> dict[str, Any]:
    """The CDI specification of a claim, as the hardware is now."""
    whole = [device.gpu for device in devices if device.kind is Kind.GPU and not device.grant.admin]
    cut = dict.fromkeys(device.gpu for device in devices if device.kind is Kind.MIG)
    return cdi.specification(
        uid,
        devices,
        host=hardware.host,
        libraries=hardware.libraries,
        instances=[each for gpu in cut for each in hardware.gpus.instances(gpu)],
        edits=sharer.edits(devices),
        pci_buses={gpu: _bus(gpu, hardware, inventory()) for gpu in whole},
        driver=driver,
    )


def _bus(gpu: str, hardware: Hardware, inventory: Inventory) -> str:
    """A GPU's PCI bus id, which never changes: from what is offered, as to read the GPU takes a hundred calls."""
    offered = (
        each.attributes.get(PCI_BUS_ID) for each in inventory.devices if (each.gpu, each.kind) == (gpu, Kind.GPU)
    )
    return str(next(offered, None) or hardware.gpus.gpu(gpu).pci_bus)
