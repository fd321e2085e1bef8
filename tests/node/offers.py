"""Made-up nodes and what they offer: only what the test is about."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from dra_driver.boards import boards
from dra_driver.devices import Device, Inventory, Taint
from dra_driver.facts import Driver, Gpu, Mig, MigInstance, Placement
from dra_driver.fake import FakeGpus
from dra_driver.host import HostFacts, Place
from dra_driver.inventory import Offer, inventory

DRIVER = Driver(version="580.126.20", cuda=(13, 0))
DYNAMIC = Offer(dynamic_mig=True)
MIB = 1 << 20


def gpus(machine: str = "h100x2", node: str = "n1") -> tuple[Gpu, ...]:
    """Fresh GPUs, in one piece."""
    return FakeGpus(machine, node=node).gpus()


def places(known: Iterable[Gpu]) -> Mapping[str, Place]:
    return {gpu.pci_bus: Place(pcie_root=f"pci{gpu.pci_bus[:7]}", numa=gpu.index // 4) for gpu in known}


def offered(
    known: Iterable[Gpu],
    offer: Offer = DYNAMIC,
    *,
    node: str = "n1",
    dmem: bool = False,
    owned: Collection[tuple[str, Placement]] = (),
    taints: Mapping[str, tuple[Taint, ...]] | None = None,
    numbers: Mapping[str, int] | None = None,
) -> Inventory:
    listed = list(known)
    host = HostFacts(places=places(listed), dmem=dmem)
    return inventory(node, DRIVER, listed, host, offer, owned, taints, numbers)


def cut(gpu: Gpu, *instances: tuple[str, int], usable: bool = True, on: bool = True) -> Gpu:
    """The same GPU in MIG mode, with instances (profile, first memory slice)."""
    assert gpu.mig is not None
    made = tuple(
        MigInstance(
            gpu=gpu.uuid,
            id=number,
            compute_id=0 if usable else None,
            uuid=f"MIG-{gpu.index}-{number}" if usable else "",
            profile=profile.name,
            profile_id=profile.id,
            placement=Placement(start=start, size=profile.memory_slices),
        )
        for number, (name, start) in enumerate(instances, 1)
        for profile in gpu.mig.profiles
        if profile.name == name
    )
    mig = replace(gpu.mig, on=on, pending=on, instances=made)
    return replace(gpu, mig=mig)


def mig_of(board: str) -> Mig:
    known = boards()[board]
    return Mig(on=True, pending=True, on_demand=not known.mig_needs_reset, profiles=known.profiles)


def names(found: Inventory) -> list[str]:
    return [device.name for device in found.devices]


def device(found: Inventory, name: str) -> Device:
    return next(each for each in found.devices if each.name == name)


def said(found: Inventory, name: str) -> dict[str, Any]:
    return dict(device(found, name).attributes)
