"""A claim's devices are made ready for its containers, and given back: a state machine that is safe to repeat.

    nothing -> STARTED -> DONE -> ENDING -> nothing

STARTED is on disk before the first thing is changed, with all that is going to be; DONE after the claim's CDI file
stands; ENDING before anything is undone. Every step looks first whether it is done already: whoever comes back after an
end anywhere in between does the rest of it.

Which MIG instances are ours is told by the entries of this boot, and if they are lost by the claims' CDI files, which
bear them (`dra_driver.specs`). Before STARTED is written nobody's instance lies in the place: else the claim is
refused.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from dra_driver.checkpoint import Checkpoint, CheckpointTooNew
from dra_driver.devices import ClaimRef, Device, Entry, Grant, Inventory, Kind, Phase, Prepared
from dra_driver.disk import DiskError
from dra_driver.facts import Failure, Gpu, GpuError, Gpus
from dra_driver.holding import asked, described, excludes, holder, same_device, same_grants
from dra_driver.host import HostError
from dra_driver.partitions import InTheWay, Partitions
from dra_driver.specs import SpecError, Specs

_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
_GONE = frozenset({Failure.GPU_IS_LOST, Failure.NOT_FOUND})
_LOOK = "see the driver's log (nvidia-smi -q, dmesg)"
_CURES = {
    Failure.NO_PERMISSION: "run the plugin privileged",
    Failure.GPU_IS_LOST: "reset the GPU, or reboot the node",
    Failure.RESET_REQUIRED: "reset the GPU",
    Failure.IN_USE: "it is tried again: end what still uses the GPU (nvidia-smi)",
    Failure.INSUFFICIENT_RESOURCES: "see what else is made of the GPU (nvidia-smi mig -lgi), and destroy it",
}


class PrepareError(Exception):
    """A claim is not prepared, or not given back: which, why, and what helps, for its user. The kubelet asks again."""


class SharingError(Exception):
    """What lets several use a device, or keeps them apart, could not be brought about or ended. Object, cause, cure."""


FAILURES = (PrepareError, InTheWay, SharingError, SpecError, GpuError, DiskError, HostError, CheckpointTooNew)
"""All that preparing may run into."""


class Effects(Protocol):
    """What is done to a device beyond giving it: MPS, time slices, exclusive mode, shares of its memory.

    `others`: all that is prepared of the same GPU beside it, of this claim and of others, in any phase, onlookers left
    out. Every call may be repeated, and may raise SharingError, GpuError and DiskError."""

    def apply(self, claim: ClaimRef, prepared: Prepared, others: tuple[Prepared, ...]) -> Prepared:
        """Bring about what the grant's settings and share ask. The device, with what keeps it to its share."""

    def undo(self, claim: ClaimRef, prepared: Prepared, others: tuple[Prepared, ...]) -> None:
        """End what only this claim's device needed. Nothing to be undone is no error."""

    def collect(self, kept: tuple[tuple[ClaimRef, Prepared], ...]) -> tuple[str, ...]:
        """End whatever is of none of these, which are all that is prepared. What it was, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """All that preparing needs of its node. `boot`: the kernel's boot id, read anew."""

    gpus: Gpus
    checkpoint: Checkpoint
    specs: Specs
    sharing: Effects
    inventory: Callable[[], Inventory]
    boot: Callable[[], str]


class Preparer:
    """Prepares and gives back. Calls block, and are made one at a time, under the node's lock. `on_loss`: called, in
    the caller's thread, when the checkpoint is seen to be missing or damaged, as long as it is not rebuilt."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.on_loss: Callable[[], object] = lambda: None
        self._parts = Partitions(node.gpus)
        self._entries: dict[str, Entry] = {}

    def prepare(self, claim: ClaimRef, grants: tuple[Grant, ...]) -> tuple[Prepared, ...]:
        """The claim's devices, ready. The same answer as before if they are; the rest is done if they are half.

        Raises PrepareError; then nothing of a claim that was not prepared before is left, or its entry says what is."""
        with self._told(claim, "not prepared"):
            self.load()
            if not _UID.fullmatch(claim.uid):
                raise PrepareError(f"its uid {claim.uid!r} is none; the kubelet should ask with the claim's own")
            entry = self._entries.get(claim.uid)
            if entry is not None and not self._continues(entry, grants):
                if not self.end(entry):
                    raise PrepareError("what it had before cannot be given back while its GPU is lost; reset the GPU")
                entry = None
            if entry is None:
                entry = self._start(claim, grants)
            return self.finish(entry).devices

    def unprepare(self, claim: ClaimRef) -> None:
        """The claim's devices are given back. Done already, or never prepared, is success.

        So it is if a GPU is lost: what was made of it ends with its reset; the entry stays until then (`ENDING`).
        Raises PrepareError, when devices are in use above all; what could be given back has been."""
        with self._told(claim, "not given back"):
            self.load()
            entry = self._entries.get(claim.uid)
            if entry is not None:
                self.end(entry)

    def load(self) -> tuple[Entry, ...]:
        """What is on disk now: another version of the plugin may have been here. Raises PrepareError, DiskError.

        From here on each GPU is read once."""
        self._parts.forget()
        loaded = self._node.checkpoint.load()
        if loaded.lost:
            self.on_loss()
            raise PrepareError("the checkpoint is missing or damaged, and is being rebuilt; it is tried again")
        self._entries = {entry.claim.uid: entry for entry in loaded.entries}
        return loaded.entries

    def finish(self, entry: Entry) -> Entry:
        """The entry, DONE, with all of it there. Only what is missing is done.

        A claim that was DONE is never undone for an error here: its containers may run. Call `load` before."""
        if entry.phase is Phase.DONE:
            if self._whole(entry):
                return self._applied(entry)
            entry = self._without_lost_instances(entry)
        begun = entry
        try:
            for place in range(len(entry.devices)):
                made = self._make(entry, place)
                entry = replace(entry, devices=(*entry.devices[:place], made, *entry.devices[place + 1 :]))
            return self._done(entry)
        except FAILURES as error:
            if begun.phase is Phase.STARTED:
                self._roll_back(begun, error)
            raise

    def end(self, entry: Entry) -> bool:
        """Undo all of an entry, and drop it; after a reboot there is only its file to remove. Call `load` before.

        False for an entry that stays, with those devices alone whose GPU is lost. Raises one of FAILURES, of the first
        device that could not be given back; the others have been."""
        if entry.phase is Phase.DONE:
            entry = self._save(replace(entry, phase=Phase.ENDING))
        self._node.specs.remove(entry.claim.uid)
        left, errors = list(entry.devices), list[Exception]()
        for device in reversed(entry.devices):
            try:
                if entry.boot != self._node.boot() or self._unmake(entry, left, device):
                    left.remove(device)
            except FAILURES as error:
                errors.append(error)
        if left:
            if tuple(left) != entry.devices:
                self._save(replace(entry, devices=tuple(left), phase=Phase.ENDING))
            if errors:
                raise errors[0]
            return False
        self._drop(entry.claim.uid)
        return True

    def adopt(self, entries: Iterable[Entry]) -> tuple[Path, ...]:
        """Begin anew with these: what a loss has left. Where the damaged files are kept. Raises DiskError."""
        adopted = {entry.claim.uid: entry for entry in entries}
        aside = self._node.checkpoint.rebuild(adopted.values())
        self._entries = adopted
        return aside

    def take(self, entry: Entry) -> None:
        """One entry more, as it is: nobody else has its devices (`conflict`). Raises DiskError. After `load`."""
        self._save(entry)

    def conflict(self, claim: ClaimRef, device: Prepared, beside: Iterable[Prepared] = ()) -> str:
        """Who of the entries, or of `beside`, has what this device needs, in words; "" if nobody. After `load`."""
        if device.grant.admin:
            return ""
        for entry in self._sorted():
            for other in entry.devices:
                if entry.claim.uid != claim.uid and excludes(other, device):
                    return f"{holder(entry, claim)} holds {described(other)}"
        return next((f"it is given {described(other)} beside it" for other in beside if excludes(other, device)), "")

    # --- from nothing to STARTED ---

    def _continues(self, entry: Entry, grants: tuple[Grant, ...]) -> bool:
        """Whether what an entry says is still what is wanted, of hardware that may be there still."""
        if entry.phase is Phase.ENDING or entry.boot != self._node.boot():
            return False
        if entry.phase is Phase.DONE:
            return same_grants(entry.devices, grants)
        return tuple(device.grant for device in entry.devices) == grants

    def _start(self, claim: ClaimRef, grants: tuple[Grant, ...]) -> Entry:
        """The plan, on disk. Refused before anything is changed."""
        offered = {device.name: device for device in self._node.inventory().devices}
        planned: list[Prepared] = []
        for grant in grants:
            device = offered.get(grant.device)
            try:
                gpu = self._parts.facts(device.gpu) if device is not None and device.gpu else None
            except GpuError as error:
                if error.failure is not Failure.GPU_IS_LOST:
                    raise
                device = None
            if device is None:
                raise PrepareError(
                    f"device {grant.device} is not on this node any more; delete the claim and its pod, so that others "
                    "are allocated, and see why the GPU has gone (nvidia-smi)"
                )
            plan = self._plan(grant, device, gpu, planned)
            self._refuse(claim, plan, device, planned)
            planned.append(replace(plan, cdi=(self._node.specs.name(claim.uid, grant),)))
        if not planned:
            raise PrepareError("nothing of this driver is allocated to it")
        return self._save(Entry(claim=claim, phase=Phase.STARTED, boot=self._node.boot(), devices=tuple(planned)))

    def _plan(self, grant: Grant, device: Device, gpu: Gpu | None, planned: Iterable[Prepared]) -> Prepared:
        """What is to be of a grant. Nothing is made for onlookers."""
        made = device.kind is Kind.MIG and not device.instance and not grant.admin
        mig = gpu.mig if gpu is not None else None
        if made and (mig is None or not (mig.on or mig.on_demand)):
            raise PrepareError(
                f"device {device.name}: GPU {device.gpu} is not in MIG mode, and goes there by a reset only; set the "
                "mode (nvidia-smi -mig 1), reset the GPU, and start the plugin anew"
            )
        ours = any(other.switched and other.gpu == device.gpu for other in (*self._here(), *planned))
        return Prepared(
            grant=grant,
            kind=device.kind,
            gpu=device.gpu,
            minor=gpu.minor if gpu is not None else None,
            profile=device.profile.name if device.profile else "",
            profile_id=device.profile.id if device.profile else None,
            placement=device.placement,
            made=made,
            switched=made and (ours or (mig is not None and not mig.on)),
            instance=device.instance,
        )

    def _refuse(self, claim: ClaimRef, plan: Prepared, device: Device, planned: list[Prepared]) -> None:
        """Raises PrepareError where somebody else has what the device needs."""
        if plan.grant.admin:
            return
        held = self.conflict(claim, plan, planned)
        if held:
            raise PrepareError(
                f"device {device.name}: {held}; it is prepared when that is given back: if it stays so, two schedulers "
                "have given away one device, and one of the claims must be deleted"
            )
        self._refuse_share(plan, device, planned)
        foreign = self._parts.across(plan) if plan.made else []
        if foreign:
            raise PrepareError(
                f"device {device.name}: MIG instance {foreign[0].profile} of somebody else is in its place on GPU "
                f"{plan.gpu} ({foreign[0].uuid or f'GPU instance {foreign[0].id}'}); destroy it (nvidia-smi mig -dci, "
                "-dgi), or let the plugin publish it"
            )

    def _refuse_share(self, plan: Prepared, device: Device, planned: Iterable[Prepared]) -> None:
        """Shares of one device fit into it together."""
        everywhere = (*self._devices(), *planned)
        beside = [other for other in everywhere if not other.grant.admin and same_device(other, plan)]
        if beside and not device.shareable:
            raise PrepareError(
                f"device {device.name}: a part of it is held by another claim, and it is not shared any more; it is "
                "prepared when that is given back"
            )
        for name in ("memory", "cores") if plan.grant.share_id else ():
            capacity = device.capacity.get(name)
            if capacity is None:
                continue
            share, taken = asked(plan, name, capacity), sum(asked(other, name, capacity) for other in beside)
            if share + taken > capacity.amount:
                raise PrepareError(
                    f"device {device.name}: its share of {share} {name} does not fit: {taken} of {capacity.amount} are "
                    "held by other claims; it is prepared when enough is given back"
                )

    # --- from STARTED to DONE ---

    def _make(self, entry: Entry, place: int) -> Prepared:
        """One device, there."""
        device = entry.devices[place]
        if device.kind is Kind.CHANNEL:
            return device
        made = self._parts.make(device)
        return made if made.grant.admin else self._node.sharing.apply(entry.claim, made, self._beside(entry, device))

    def _done(self, entry: Entry) -> Entry:
        """The file first, then the word that it stands."""
        done = replace(entry, phase=Phase.DONE)
        if not self._node.specs.stands(done):
            self._node.specs.write(done)
        return self._save(done)

    def _roll_back(self, entry: Entry, error: Exception) -> None:
        """What was begun is undone. As far as it goes: then both errors are told, and the entry that stays says what is
        left. Raises PrepareError for that."""
        try:
            self.end(entry)
        except FAILURES as second:
            raise PrepareError(f"{told(error)}; and what was begun is not all undone: {told(second)}") from error

    # --- DONE, seen again ---

    def _whole(self, entry: Entry) -> bool:
        """Whether all that the entry says is there."""
        return self._node.specs.stands(entry) and not any(self._is_lost(device) for device in entry.devices)

    def _is_lost(self, device: Prepared) -> bool:
        return device.kind is not Kind.CHANNEL and self._parts.is_lost(device)

    def _without_lost_instances(self, entry: Entry) -> Entry:
        """On disk before they are made again: without a UUID, what lies in the place is ours."""
        lost = [device for device in entry.devices if device.made and device.instance and self._is_lost(device)]
        for device in lost:
            if any(there != self._parts.ours(device) for there in self._parts.across(device)):
                raise PrepareError(
                    f"device {device.grant.device}: its MIG instance on GPU {device.gpu} was destroyed, and one of "
                    "somebody else is in its place; destroy that, or delete the claim and its pod"
                )
        if not lost:
            return entry
        devices = tuple(replace(device, instance="") if device in lost else device for device in entry.devices)
        return self._save(replace(entry, devices=devices))

    def _applied(self, entry: Entry) -> Entry:
        """A daemon may have died with the plugin that started it."""
        for device in entry.devices:
            if device.kind is not Kind.CHANNEL and not device.grant.admin:
                self._node.sharing.apply(entry.claim, device, self._beside(entry, device))
        return entry

    # --- from ENDING to nothing ---

    def _unmake(self, entry: Entry, left: list[Prepared], device: Prepared) -> bool:
        """Whether the device is given back; not so if its GPU is lost. `left`: what of the entry is not, this too."""
        if device.kind is Kind.CHANNEL or device.grant.admin:
            return True
        try:
            others = self._beside(replace(entry, devices=tuple(left)), device)
            known = self._parts.known(device)
            self._node.sharing.undo(entry.claim, known, others)
            self._parts.unmake(known, last=not any(other.made for other in others))
        except GpuError as error:
            if error.failure in _GONE and self._parts.lost(device.gpu):
                return False
            raise
        return True

    # --- what is written ---

    def _devices(self) -> tuple[Prepared, ...]:
        return tuple(device for entry in self._sorted() for device in entry.devices)

    def _here(self, but: str = "") -> tuple[Prepared, ...]:
        """Devices of all entries of this boot but one claim's: what an earlier boot has left is hardware no more."""
        boot = self._node.boot()
        entries = (entry for entry in self._sorted() if entry.boot == boot and entry.claim.uid != but)
        return tuple(device for entry in entries for device in entry.devices)

    def _beside(self, entry: Entry, device: Prepared) -> tuple[Prepared, ...]:
        """All others that are prepared of its GPU, or are being."""
        others = (*self._here(but=entry.claim.uid), *(other for other in entry.devices if other is not device))
        return tuple(other for other in others if other.gpu == device.gpu and not other.grant.admin)

    def _sorted(self) -> list[Entry]:
        return sorted(self._entries.values(), key=lambda entry: entry.claim.uid)

    def _save(self, entry: Entry) -> Entry:
        if self._entries.get(entry.claim.uid) != entry:
            self._write({**self._entries, entry.claim.uid: entry})
        return entry

    def _drop(self, uid: str) -> None:
        self._write({other: entry for other, entry in self._entries.items() if other != uid})

    def _write(self, entries: dict[str, Entry]) -> None:
        """Known to us only once it is on disk."""
        self._node.checkpoint.save(entries.values())
        self._entries = entries

    @contextmanager
    def _told(self, claim: ClaimRef, what: str) -> Iterator[None]:
        """Whatever fails is told of the claim, with what helps."""
        try:
            yield
        except FAILURES as error:
            raise PrepareError(f"Claim {claim.namespace}/{claim.name}: {what}: {told(error)}") from error


def told(error: Exception) -> str:
    """An error in words, with what helps."""
    text = str(error).rstrip(".")
    return f"{text}; {_CURES.get(error.failure, _LOOK)}" if isinstance(error, GpuError) else text
