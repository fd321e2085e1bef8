"""Devices as drivers publish them in ResourceSlices: GPUs, MIG instances, network cards.

Names, attributes and capacities follow NVIDIA's DRA driver, with this project's extra attributes (nvlinkDomain,
cliqueID, index, minor) in the same domain. Everything is made from the node's name, so the same shape gives the same
devices every time.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import Any

from scheduler.api import attributes as names
from scheduler.devcluster.mig import SLICES, Instance, Profile, every_instance
from scheduler.devcluster.objects import Obj

NIC_DRIVER = "dra.net"
DRIVER_VERSION, CUDA_VERSION = "580.126.20", "13.0.0"
_SPACE = uuid.UUID("6f4b0c58-6f1e-5d0b-9a3c-7d1f0c1e2a10")


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A GPU model. `memory_mib` is NVML's total, `profiles` its MIG profiles (none: no MIG)."""

    product: str
    architecture: str
    compute_capability: str
    memory_mib: int
    brand: str = "Nvidia"
    profiles: tuple[Profile, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One GPU in its place. `domain` is its NVLink domain ("" without NVLink), `clique` its clique in it."""

    board: Board
    node: str
    index: int
    numa: int
    domain: str = ""
    clique: int | None = None

    @property
    def uuid(self) -> str:
        """The GPU's UUID."""
        return f"GPU-{stable_uuid(self.node, 'gpu', self.index)}"

    @property
    def pcie_root(self) -> str:
        """The PCIe root complex it hangs from, shared with the network card of the same index."""
        return pcie_root(self.index)

    @property
    def bus_id(self) -> str:
        """Its PCI address."""
        return f"0000:{_bus(self.index) + 1:02x}:00.0"


def stable_uuid(*parts: object) -> str:
    """A UUID that depends on these parts only."""
    return str(uuid.uuid5(_SPACE, "/".join(str(part) for part in parts)))


def stable_address(node: str) -> str:
    """An IPv4 address of the shared space 100.64.0.0/10 for a node."""
    number = int.from_bytes(hashlib.sha256(node.encode()).digest()[:3], "big")
    return f"100.{64 + number % 64}.{number >> 16}.{1 + (number >> 8) % 254}"


def pcie_root(index: int) -> str:
    """The root complex of the GPU (and network card) of this index."""
    return f"pci0000:{_bus(index):02x}"


def gpu(slot: Slot, *, counters: bool = False) -> Obj:
    """A whole GPU. `counters`: it can also be cut into MIG instances, so it consumes all of its counter set."""
    board = slot.board
    attributes = {
        names.TYPE: {"string": "gpu"},
        names.UUID: {"string": slot.uuid},
        **_board_attributes(slot),
        names.INDEX: {"int": slot.index},
        names.MINOR: {"int": slot.index},
    }
    if slot.domain:
        attributes[names.NVLINK_DOMAIN] = {"string": slot.domain}
    if slot.clique is not None:
        attributes[names.CLIQUE_ID] = {"int": slot.clique}
    capacity = {"memory": {"value": f"{board.memory_mib}Mi"}}
    device: Obj = {"name": f"gpu-{slot.index}", "attributes": attributes, "capacity": capacity}
    if counters:
        device["consumesCounters"] = [_consumes(slot, range(SLICES), 1)]
    return device


def mig_device(slot: Slot, instance: Instance, *, counters: bool = False) -> Obj:
    """A MIG instance: one that exists (with a UUID), or with `counters` one that can be made on demand."""
    profile = instance.profile
    attributes = {
        names.TYPE: {"string": "mig"},
        names.PARENT_UUID: {"string": slot.uuid},
        names.PROFILE: {"string": profile.name},
        **_board_attributes(slot),
        "placementStart": {"int": instance.start},
        "memorySlices": {"int": profile.slices},
    }
    if not counters:
        attributes[names.UUID] = {"string": f"MIG-{stable_uuid(slot.node, 'mig', slot.index, instance.start)}"}
    capacity = {
        "memory": {"value": f"{profile.memory_mib}Mi"},
        "multiprocessors": {"value": str(profile.multiprocessors)},
        "copyEngines": {"value": str(profile.copy_engines)},
        "decoders": {"value": str(profile.decoders)},
        "encoders": {"value": "0"},
        "jpegEngines": {"value": str(profile.jpeg_engines)},
        "ofaEngines": {"value": str(profile.ofa_engines)},
    }
    grammar = "".join(char if char.isalnum() else "-" for char in profile.name.lower().replace(".", ""))
    name = f"gpu-{slot.index}-mig-{grammar}-{profile.profile_id}-{instance.start}"
    device: Obj = {"name": name, "attributes": attributes, "capacity": capacity}
    if counters:
        device["consumesCounters"] = [_consumes(slot, instance.range, profile.ofa_engines)]
    return device


def partitions(slot: Slot) -> list[Obj]:
    """The whole GPU and every MIG instance it can be cut into, all drawing on one counter set (KEP 4815)."""
    instances = every_instance(slot.board.profiles)
    return [gpu(slot, counters=True), *(mig_device(slot, instance, counters=True) for instance in instances)]


def counter_set(slot: Slot) -> Obj:
    """What a GPU has to give: its memory slices and its one OFA engine."""
    return {"name": _set_name(slot), "counters": _counters(range(SLICES), 1)}


def nic(node: str, index: int, numa: int) -> Obj:
    """A network card under the PCIe root of the GPU of the same index."""
    digest = hashlib.sha256(f"{node}/nic/{index}".encode()).hexdigest()
    mac = ":".join(("02", *(digest[at : at + 2] for at in range(0, 10, 2))))
    attributes: dict[str, Any] = {
        "ifName": {"string": f"rdma{index}"},
        "mac": {"string": mac},
        "mtu": {"int": 9000},
        "rdma": {"bool": True},
        "state": {"string": "up"},
        names.PCIE_ROOT: {"string": pcie_root(index)},
        names.PCI_BUS_ID: {"string": f"0000:{_bus(index) + 2:02x}:00.0"},
        names.NUMA_NODE: {"int": numa},
    }
    return {"name": f"rdma{index}", "attributes": attributes}


def _board_attributes(slot: Slot) -> dict[str, Any]:
    board = slot.board
    return {
        names.PRODUCT_NAME: {"string": board.product},
        names.BRAND: {"string": board.brand},
        names.ARCHITECTURE: {"string": board.architecture},
        names.CUDA_COMPUTE_CAPABILITY: {"version": board.compute_capability},
        names.DRIVER_VERSION: {"version": DRIVER_VERSION},
        names.CUDA_DRIVER_VERSION: {"version": CUDA_VERSION},
        names.PCIE_ROOT: {"string": slot.pcie_root},
        names.PCI_BUS_ID: {"string": slot.bus_id},
        names.NUMA_NODE: {"int": slot.numa},
    }


def _bus(index: int) -> int:
    return 0x10 + 0x12 * index


def _set_name(slot: Slot) -> str:
    return f"gpu-{slot.index}-counter-set"


def _counters(slices: range, ofa: int) -> Obj:
    """Memory slices decide what fits; of the engines only OFA can run out apart from them."""
    counters: Obj = {f"memory-slice-{at}": {"value": "1"} for at in slices}
    if ofa:
        counters["ofa-engines"] = {"value": str(ofa)}
    return counters


def _consumes(slot: Slot, slices: range, ofa: int) -> Obj:
    return {"counterSet": _set_name(slot), "counters": _counters(slices, ofa)}
