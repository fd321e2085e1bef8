"""GPU boards for a machine that is made up (`boards.json` beside this file), and its shape: "h100x8", "h100x4+t4x2".

Where there is hardware, NVML is the truth; nothing but `dra_driver.fake` and tests reads this table.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from dra_driver.facts import MigProfile, Placement

MIB = 1 << 20
MOST_GPUS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """What all GPUs of one product share. `linked`: to what its NVLinks lead, "switch", "pair" (its neighbour) or
    "none"; `fabric`: "rack" where it spans nodes, "node" where it ends at the node; `sxm`: sits on a module that has a
    number; `mig_needs_reset`: the MIG mode changes by a reset of the GPU only."""

    name: str
    product: str
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


def _board(entry: Mapping[str, Any]) -> Board:
    major, minor = entry["compute_capability"]
    return Board(
        name=entry["name"],
        product=entry["product"],
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
        profiles=tuple(_profile(profile) for profile in entry["profiles"]),
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
