"""GPU boards for a machine that is made up (`boards.json` beside this file), and its shape: "h100x8", "h100x4+t4x2".

Where there is hardware, NVML is the truth; nothing but `dra_driver.fake` and tests reads this table.
"""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from dra_driver.facts import Fabric, FabricState, MigProfile, Placement, Rack
from dra_driver.readings import size_order

MIB = 1 << 20
MOST_GPUS = 32
NAMES = uuid.UUID("6c1b2f0e-6f0a-5d0b-9a58-0f4c3a1d7e21")  # of ours, for what is derived from names
TRAYS = 18  # compute trays of a GB200 NVL72 rack; nine switch trays stand between the tenth and the eleventh
CLIQUE = 32766


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """What all GPUs of one product share. `linked`: to what its NVLinks lead, "switch", "pair" (its neighbour) or
    "none"; `fabric`: "rack" where it spans nodes, "node" where it ends at the node; `sxm`: sits on a module that has a
    number; `mig_needs_reset`: the MIG mode changes by a reset of the GPU only."""

    name: str
    product: str
    pci_device: str
    brand: str
    architecture: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    addressing_mode: str
    mig_needs_reset: bool
    links: int
    linked: str
    fabric: str
    sxm: bool
    profiles: tuple[MigProfile, ...]

    def profile(self, number: int) -> MigProfile | None:
        """The profile with this id of NVML's."""
        return next((profile for profile in self.profiles if profile.id == number), None)


@cache
def boards() -> Mapping[str, Board]:
    """Every board by name."""
    document = json.loads(resources.files("dra_driver").joinpath("boards.json").read_text(encoding="utf-8"))
    return {entry["name"]: _board(entry) for entry in document["boards"]}


def shape(text: str) -> tuple[Board, ...]:
    """The board of each GPU, by index, of a machine that `text` names. ValueError for what names none."""
    found: list[Board] = []
    for part in text.split("+"):
        match = re.fullmatch(r"(?P<board>[a-z0-9-]+)x(?P<count>[0-9]{1,3})", part)
        board = boards().get(match["board"]) if match else None
        if match is None or board is None or int(match["count"]) == 0:
            raise ValueError(
                f"Fake machine {text!r}: {part!r} is no board with a count; write <board>x<count> (h100x8) with one of "
                f"{', '.join(sorted(boards()))}"
            )
        found += [board] * int(match["count"])
    if len(found) > MOST_GPUS:
        raise ValueError(f"Fake machine {text!r}: {len(found)} GPUs are more than a node has; {MOST_GPUS} at most")
    return tuple(found)


def pci_bus(index: int) -> str:
    """Where a machine's GPU sits: eight to a PCI domain, spread over its buses."""
    return f"{index // 8:04x}:{0x18 + 0x1A * (index % 8):02x}:00.0"


def links(machine: tuple[Board, ...], index: int) -> Mapping[str, int]:
    """The NVLinks of one GPU of a machine, as `Gpu.links` tells them."""
    board, neighbour = machine[index], index ^ 1
    if board.linked == "switch":
        return {"switch": board.links}
    if board.linked == "pair" and neighbour < len(machine) and machine[neighbour] is board:
        return {pci_bus(neighbour): board.links}
    return {}


def fabric(board: Board, rack: str) -> Fabric | None:
    """The fabric a board has joined: that of its rack, or one that ends at the node and has no UUID."""
    if board.fabric == "none":
        return None
    if board.fabric == "node":
        return Fabric(state=FabricState.COMPLETED, cluster="", clique=0)
    return Fabric(state=FabricState.COMPLETED, cluster=str(uuid.uuid5(NAMES, f"rack/{rack}")), clique=CLIQUE)


def position(board: Board, node: str, rack: str, index: int) -> Rack | None:
    """Where a GPU stands in a rack; the tray is the number at the end of the node's name."""
    if board.fabric != "rack":
        return None
    number = re.search(r"([0-9]+)$", node)
    tray = int(number[1]) % TRAYS if number else 0
    chassis = str(1_820_000_000_000 + uuid.uuid5(NAMES, f"chassis/{rack}").int % 10**9)
    return Rack(chassis_serial=chassis, slot=tray + (1 if tray < 10 else 10), tray=tray, host=1, module=index + 1)


def _board(entry: Mapping[str, Any]) -> Board:
    major, minor = entry["compute_capability"]
    return Board(
        name=entry["name"],
        product=entry["product"],
        pci_device=entry["pci_device"],
        brand=entry["brand"],
        architecture=entry["architecture"],
        compute_capability=(major, minor),
        memory_bytes=entry["memory_mib"] * MIB,
        addressing_mode=entry["addressing_mode"],
        mig_needs_reset=entry["mig_needs_reset"],
        links=entry["links"],
        linked=entry["linked"],
        fabric=entry["fabric"],
        sxm=entry["module"],
        profiles=tuple(sorted((_profile(profile) for profile in entry["profiles"]), key=size_order)),
    )


def _profile(entry: Mapping[str, Any]) -> MigProfile:
    return MigProfile(
        name=entry["name"],
        id=entry["id"],
        slices=entry["slices"],
        memory_slices=entry["memory_slices"],
        memory_bytes=entry["memory_mib"] * MIB,
        multiprocessors=entry["multiprocessors"],
        copy_engines=entry["copy_engines"],
        decoders=entry["decoders"],
        encoders=entry["encoders"],
        jpeg_engines=entry["jpeg_engines"],
        ofa_engines=entry["ofa_engines"],
        most=entry["most"],
        placements=tuple(Placement(start=start, size=entry["memory_slices"]) for start in entry["starts"]),
    )
