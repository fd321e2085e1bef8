"""MIG profiles of the boards that are simulated, and where their instances may lie.

Placements count memory slices. Source: NVIDIA MIG User Guide and nvidia-smi listings of the boards. Two instances fit
together exactly when their ranges do not overlap; at most one +me instance exists on a board.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SLICES = 8


class LayoutError(ValueError):
    """A partitioning that no board can have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A GPU instance profile. `slices` of memory at one of `starts`; engines as NVML reports them."""

    name: str
    profile_id: int
    compute_slices: int
    slices: int
    starts: tuple[int, ...]
    memory_mib: int
    multiprocessors: int
    copy_engines: int
    decoders: int
    jpeg_engines: int
    ofa_engines: int

    @property
    def is_media(self) -> bool:
        """One of the profiles that exist once on a board because they hold its OFA engine."""
        return self.name.endswith("+me")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A profile at a place."""

    profile: Profile
    start: int

    @property
    def range(self) -> range:
        """The memory slices it occupies."""
        return range(self.start, self.start + self.profile.slices)


_SEVEN = tuple(range(7))
_PAIRS = (0, 2, 4, 6)


def _profiles(*rows: tuple[str, int, int, tuple[int, ...], int, tuple[int, int, int, int, int]]) -> tuple[Profile, ...]:
    """Rows of name, profile id, memory slices, starts, MiB and (SMs, copy, decoder, JPEG, OFA engines)."""
    return tuple(
        Profile(
            name=name,
            profile_id=profile_id,
            compute_slices=int(name.partition("g.")[0]),
            slices=slices,
            starts=starts,
            memory_mib=memory,
            multiprocessors=engines[0],
            copy_engines=engines[1],
            decoders=engines[2],
            jpeg_engines=engines[3],
            ofa_engines=engines[4],
        )
        for name, profile_id, slices, starts, memory, engines in rows
    )


A100_80GB = _profiles(
    ("1g.10gb", 19, 1, _SEVEN, 9856, (14, 1, 1, 0, 0)),
    ("1g.10gb+me", 20, 1, _SEVEN, 9856, (14, 1, 1, 1, 1)),
    ("1g.20gb", 15, 2, _PAIRS, 19968, (14, 1, 1, 0, 0)),
    ("2g.20gb", 14, 2, (0, 2, 4), 19968, (28, 2, 1, 0, 0)),
    ("3g.40gb", 9, 4, (0, 4), 40192, (42, 3, 2, 0, 0)),
    ("4g.40gb", 5, 4, (0,), 40192, (56, 4, 2, 0, 0)),
    ("7g.80gb", 0, 8, (0,), 80384, (98, 7, 5, 1, 1)),
)
H100_80GB = _profiles(
    ("1g.10gb", 19, 1, _SEVEN, 9984, (16, 1, 1, 1, 0)),
    ("1g.10gb+me", 20, 1, _SEVEN, 9984, (16, 1, 1, 1, 1)),
    ("1g.20gb", 15, 2, _PAIRS, 20096, (26, 1, 1, 1, 0)),
    ("2g.20gb", 14, 2, (0, 2, 4), 20096, (32, 2, 2, 2, 0)),
    ("3g.40gb", 9, 4, (0, 4), 40448, (60, 3, 3, 3, 0)),
    ("4g.40gb", 5, 4, (0,), 40448, (64, 4, 4, 4, 0)),
    ("7g.80gb", 0, 8, (0,), 81152, (132, 8, 7, 7, 1)),
)


def every_instance(profiles: Sequence[Profile]) -> tuple[Instance, ...]:
    """Each profile at each of its places, in the table's order."""
    return tuple(Instance(profile=profile, start=start) for profile in profiles for start in profile.starts)


def layout(profiles: Sequence[Profile], names: Sequence[str]) -> tuple[Instance, ...]:
    """Places for instances of these profiles on one board, the largest first, by start.

    Raises LayoutError for a profile the board does not have and for a set that does not fit.
    """
    by_name = {profile.name: profile for profile in profiles}
    unknown = sorted(set(names) - by_name.keys())
    if unknown:
        known = ", ".join(by_name)
        raise LayoutError(f"MIG profile {unknown[0]}: this board does not have it; choose from {known}")
    if sum(by_name[name].is_media for name in names) > 1:
        raise LayoutError(f"MIG layout {', '.join(names)}: only one +me instance fits on a board; drop the others")
    wanted = sorted((by_name[name] for name in names), key=lambda profile: (-profile.slices, profile.name))
    placed = _place(wanted, frozenset())
    if placed is None:
        raise LayoutError(f"MIG layout {', '.join(names)}: does not fit into {SLICES} memory slices; drop an instance")
    return tuple(sorted(placed, key=lambda instance: instance.start))


def _place(wanted: Sequence[Profile], taken: frozenset[int]) -> list[Instance] | None:
    if not wanted:
        return []
    # From the far end: places near 0 serve the most profiles.
    for start in sorted(wanted[0].starts, reverse=True):
        instance = Instance(profile=wanted[0], start=start)
        if taken.isdisjoint(instance.range):
            rest = _place(wanted[1:], taken.union(instance.range))
            if rest is not None:
                return [instance, *rest]
    return None
