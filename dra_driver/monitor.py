"""Keeps the health of a node's GPUs: what they tell goes into `dra_driver.health`, what stands outlives the plugin.

    {"version": 1, "boot": "...", "faults": [{"gpu": "GPU-...", "key": "gpu.nvidia.com/xid", "code": 119, ...}]}

A file of our own, not the published slices: the kubelet deletes those whenever it starts, and they do not tell when an
error was last heard. It is a memory, not a ledger: one that is damaged is told of and begun anew. What was heard before
a reboot is over with it, since a reboot resets every GPU; what outlives it is told anew.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import structlog

from dra_driver import xids
from dra_driver.devices import Device, Taint
from dra_driver.disk import Disk, DiskError
from dra_driver.facts import EventKind, Failure, GpuError, GpuEvent, Gpus, Placement, Recovery
from dra_driver.health import KEYS, About, Fault, Health, Seen, words

log = structlog.get_logger(__name__)

NAME = "health.json"
VERSION = 1


class _Kept(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    gpu: str
    key: str
    effect: str
    since_ms: int
    last_ms: int
    code: int = 0
    placement: Placement | None = None


class _File(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    boot: str
    faults: tuple[_Kept, ...]


class Monitor:
    """The health of the node's GPUs. `folder`: where the file is; `boot`: the kernel's boot id; `window_ms`, `ignored`:
    as in `Health`. Calls block, and are made one at a time, under the node's lock."""

    def __init__(
        self,
        gpus: Gpus,
        disk: Disk,
        folder: Path,
        boot: Callable[[], str],
        *,
        window_ms: int,
        ignored: Collection[int] = (),
    ) -> None:
        self._gpus = gpus
        self._disk = disk
        self._path = folder / NAME
        self._boot = boot
        self._health = Health(window_ms, ignored)
        self._kept: Mapping[About, Fault] | None = None
        """As it is on the disk; None before that was read."""
        self._said: Mapping[str, tuple[Taint, ...]] = {}

    def hear(self, events: Sequence[GpuEvent], now_ms: int) -> None:
        """Events, in their order. Raises HostError, as `look` does."""
        self._remember()
        for event in events:
            self._health.heard(event, now_ms, self._placement(event))

    def look(self, answering: Iterable[str], lost: Collection[str], now_ms: int) -> None:
        """After another look at the hardware. `answering`, `lost`: UUIDs of GPUs."""
        self._remember()
        silent = set(lost)
        recovery = {}
        for gpu in sorted(set(answering) - silent):
            try:
                recovery[gpu] = self._recovery(gpu)
            except GpuError as problem:
                log.warning("a GPU does not tell what is to be done", gpu=gpu, problem=str(problem))
                if problem.failure is Failure.GPU_IS_LOST:
                    silent.add(gpu)
        self._health.look(Seen(recovery=recovery, lost=silent, unmonitored=self._gpus.unmonitored()), now_ms)
        self._save()

    def taints(self, devices: Iterable[Device]) -> Mapping[str, tuple[Taint, ...]]:
        """Of each device that has any, by name. What has changed is logged."""
        found = self._health.taints(devices)
        for name in sorted(found.keys() | self._said.keys()):
            before, now = self._said.get(name, ()), found.get(name, ())
            if before != now:
                said = "; ".join(f"{words(taint)} ({taint.effect})" for taint in now)
                (log.warning if now else log.info)("taints", device=name, taints=said or "none any more")
        self._said = found
        return found

    def _recovery(self, gpu: str) -> Recovery | None:
        """What the driver asks for. Raises GpuError where nothing can be concluded."""
        try:
            return self._gpus.recovery(gpu)
        except GpuError as problem:
            if problem.failure is Failure.RESET_REQUIRED:
                return Recovery.GPU_RESET
            if problem.failure is Failure.NO_PERMISSION:
                return None
            raise

    def _placement(self, event: GpuEvent) -> Placement | None:
        """Of the instance that an XID names; of one that is gone, nobody knows it."""
        if event.instance is None or event.kind is not EventKind.XID:
            return None
        try:
            there = self._gpus.instances(event.gpu)
        except GpuError as problem:
            log.info("an error is taken to concern all of its GPU", gpu=event.gpu, problem=str(problem))
            return None
        return next((each.placement for each in there if each.id == event.instance), None)

    # --- what outlives us ---

    def _remember(self) -> None:
        """What stood when the last plugin ended, once."""
        if self._kept is None:
            self._kept = self._load(self._boot())
            self._health.remember(self._kept)

    def _load(self, boot: str) -> dict[About, Fault]:
        try:
            content = self._disk.read(self._path)
            file = msgspec.json.decode(content, type=_File) if content is not None else None
        except (DiskError, msgspec.MsgspecError, UnicodeDecodeError) as problem:
            log.warning("what was known of the GPUs' health is lost", file=str(self._path), problem=str(problem))
            return {}
        if file is None or file.version > VERSION or file.boot != boot:
            return {}
        return {
            About(gpu=each.gpu, key=each.key, code=each.code, placement=each.placement): Fault(
                effect=each.effect, since_ms=each.since_ms, last_ms=each.last_ms
            )
            for each in file.faults
            if each.key in KEYS and each.effect in xids.STRENGTH
        }

    def _save(self) -> None:
        """If it has changed. A disk that refuses is tried again at the next look: what is published does not wait."""
        faults = self._health.faults
        if faults == self._kept:
            return
        kept = [
            _Kept(
                gpu=about.gpu,
                key=about.key,
                code=about.code,
                placement=about.placement,
                effect=fault.effect,
                since_ms=fault.since_ms,
                last_ms=fault.last_ms,
            )
            for about, fault in faults.items()
        ]
        kept.sort(key=lambda each: (each.gpu, each.key, each.code, each.placement or Placement(start=-1, size=0)))
        file = _File(version=VERSION, boot=self._boot(), faults=tuple(kept))
        try:
            self._disk.write(self._path, msgspec.json.format(msgspec.json.encode(file), indent=1))
        except DiskError as problem:
            log.warning("the GPUs' health cannot be kept", problem=str(problem))
            return
        self._kept = dict(faults)
