"""The state of a machine that is made up: all of its hardware that changes, and where it is kept.

Kept in a file, it outlives the process that asks, as hardware does: a plugin that is killed finds after its start what
it left behind, and two processes see one machine.
"""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from dra_driver.boards import Board
from dra_driver.facts import MigProfile, Placement

EVENTS_KEPT = 256


@dataclass(slots=True, kw_only=True)
class Cut:
    """A GPU instance that exists; without a compute instance, `uuid` is empty."""

    id: int
    profile_id: int
    start: int
    uuid: str = ""


@dataclass(slots=True, kw_only=True)
class Client:
    """A process that uses a GPU, or one instance of it."""

    pid: int
    memory_bytes: int
    instance: int | None = None


@dataclass(slots=True, kw_only=True)
class Card:
    """What changes of one GPU. `limits`: hard limits in bytes by cgroup; `busy`: thousandths; `mute`: tells
    no events."""

    minor: int
    on: bool = False
    pending: bool = False
    compute_mode: int = 0
    lost: bool = False
    mute: bool = False
    recovery: int = 0
    busy: int = 0
    cuts: list[Cut] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)
    limits: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Happening:
    """An event as it is kept, with its number: they are counted from the machine's first day."""

    number: int
    gpu: str
    kind: str
    code: int
    instance: int | None


@dataclass(slots=True, kw_only=True)
class Refusal:
    """A call that is to fail: of one GPU (UUID), or of any if that is empty; `once`, or until it is lifted."""

    call: str
    failure: int
    gpu: str
    once: bool


@dataclass(slots=True, kw_only=True)
class Machine:
    """All that changes. `made`: instances ever made, for no UUID comes twice; `told`: events ever told."""

    node: str
    shape: str
    boots: int = 1
    made: int = 0
    told: int = 0
    cards: list[Card] = field(default_factory=list)
    events: list[Happening] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


_decoder = msgspec.json.Decoder(Machine)


class Keeper:
    """Holds a machine, in memory or in a file; hands it out to one at a time."""

    def __init__(self, fresh: Machine, path: Path | None) -> None:
        """Take up what the file holds, or begin with `fresh`. ValueError if the file is of another machine."""
        self._turn = threading.RLock()
        self._path = path
        self._machine = fresh
        with self.machine() as found:
            if (found.node, found.shape) != (fresh.node, fresh.shape):
                raise ValueError(
                    f"State file {path}: it is of {found.shape} on node {found.node!r}, not of {fresh.shape} on "
                    f"{fresh.node!r}; remove it, or name another"
                )

    @contextmanager
    def machine(self) -> Iterator[Machine]:
        """The machine as it is now; what is changed in it is kept at the end, also after an error. Not nested."""
        with self._turn:
            if self._path is None:
                yield self._machine
                return
            with open(self._path.with_name(self._path.name + ".lock"), "a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # closing the file lets go of it
                before = self._path.read_bytes() if self._path.exists() else b""
                machine = _decoder.decode(before) if before else self._machine
                try:
                    yield machine
                finally:
                    after = msgspec.json.encode(machine)
                    if after != before:
                        _replace(self._path, after)


def allowed(board: Board, cuts: list[Cut], profile: MigProfile, place: Placement) -> bool:
    """Whether an instance of a profile may join those that are there.

    No memory slice twice, no more of a profile than its `most`, the optical flow accelerator (one on every board) once.
    An instance with all media engines (+me.all) tolerates none that has any. Source: NVIDIA MIG User Guide."""
    there = [other for cut in cuts if (other := board.profile(cut.profile_id)) is not None]
    free = not any(place.overlaps(placement(board, cut)) for cut in cuts)
    below = sum(other.id == profile.id for other in there) < profile.most
    flow = sum(other.ofa_engines for other in there) + profile.ofa_engines <= 1
    return free and below and flow and not any(_quarrel(other, profile) for other in there)


def placement(board: Board, cut: Cut) -> Placement:
    """Where an instance lies."""
    profile = board.profile(cut.profile_id)
    return Placement(start=cut.start, size=profile.memory_slices if profile else 0)


def _quarrel(one: MigProfile, other: MigProfile) -> bool:
    return (_takes_all_media(one) and other.decoders > 0) or (_takes_all_media(other) and one.decoders > 0)


def _takes_all_media(profile: MigProfile) -> bool:
    return profile.name.endswith("+me.all")


def _replace(path: Path, content: bytes) -> None:
    """Whole or not at all, also when the process is killed here."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(content)
    os.replace(temporary, path)
