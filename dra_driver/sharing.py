"""How several use one device: MPS, time slices, exclusive use, shares of its memory with what keeps them to their size.

What is set on a GPU follows from who is prepared on it: every call works it out anew from its arguments and sets
that, so a call may be repeated, and what an end in the middle has left is put right by the next. On disk is only what
cannot be worked out: the compute mode a GPU had before (`modes/<uuid>`), which cgroups were limited (`limits/*`)
and which daemons there are (`dra_driver.mps`). Each is written before its effect and removed after its end.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from dra_driver.cdi import Edits
from dra_driver.commands import SMI, Commands, Tools
from dra_driver.devices import ClaimRef, Enforcement, Grant, Kind, Prepared, Sharing
from dra_driver.disk import Disk
from dra_driver.facts import ComputeMode, Failure, Gpu, GpuError, Gpus
from dra_driver.holding import same_device
from dra_driver.mps import MEBIBYTE, Daemons, Limits, ceiling
from dra_driver.prepare import Effects, SharingError

# Below 7.0 (Volta) MPS knows no limits of clients, and no memory of their own.
LEAST_COMPUTE_CAPABILITY = (7, 0)
_NO_CGROUP = frozenset({Failure.NOT_FOUND, Failure.INVALID_ARGUMENT, Failure.NOT_SUPPORTED})


def _unknown(claim: ClaimRef) -> tuple[str, ...]:
    """The cgroups of a claim's pods, where nobody knows them."""
    del claim
    return ()


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """Cgroups that were limited for one device of a claim, and to how much of which GPU."""

    gpu: str
    cgroups: tuple[str, ...]
    amount: int


class Sharer(Effects):
    """`folder`: for what must outlive us. `cgroups`: of the pods that use a claim, absolute paths; none if not known.

    `dmem`: the kernel can hold a cgroup to an amount of device memory. Calls are made under the node's lock, and raise
    SharingError, GpuError and DiskError."""

    def __init__(
        self,
        folder: Path,
        *,
        gpus: Gpus,
        disk: Disk,
        daemons: Daemons,
        commands: Commands,
        tools: Tools,
        cgroups: Callable[[ClaimRef], tuple[str, ...]] = _unknown,
        dmem: bool = False,
    ) -> None:
        self._modes, self._limits = folder / "modes", folder / "limits"
        self._gpus, self._disk, self._daemons = gpus, disk, daemons
        self._commands, self._tools = commands, tools
        self._cgroups, self._dmem = cgroups, dmem

    def offered(self, gpu: Gpu) -> Enforcement:
        """The strongest that keeps shares of a whole GPU's memory to their size on this node."""
        if self._dmem and gpu.memory_limits:
            return Enforcement.DMEM
        return Enforcement.MPS if self._mps_serves(gpu) else Enforcement.NONE

    def apply(self, claim: ClaimRef, prepared: Prepared, others: tuple[Prepared, ...]) -> Prepared:
        """Bring about what the grant asks, beside `others` of the same GPU. The device, with what keeps its share."""
        if prepared.grant.admin or (_is_plain(prepared.grant) and not _users(prepared, others)):
            return prepared
        gpu = self._gpu(prepared.gpu)
        users = _users(prepared, others)
        self._refuse(prepared, users)
        prepared = self._enforced(claim, prepared, gpu)
        every = (prepared, *users)
        self._limit_memory(claim, prepared)
        if prepared.kind is Kind.GPU:
            self._set_mode(gpu, every)
            self._set_time_slice(prepared, every)
        if uses_mps(prepared):
            self._serve(_served(prepared), every, gpu)
        return prepared

    def undo(self, claim: ClaimRef, prepared: Prepared, others: tuple[Prepared, ...]) -> None:
        """End what only this device of the claim needed. Nothing to be undone is no error.

        Whether a daemon was started for it an entry that was never finished does not tell: it is looked for."""
        users = _users(prepared, others)
        if prepared.grant.admin or (_is_plain(prepared.grant) and not users):
            return
        served = _served(prepared)
        if served and not any(uses_mps(user) for user in users):
            self._daemons.stop(served)
        gpu = self._gpu(prepared.gpu)
        if any(uses_mps(user) for user in users):
            self._serve(served, users, gpu)
        if prepared.kind is Kind.GPU:
            self._set_time_slice(prepared, users)
            self._set_mode(gpu, users)
        self._lift_memory(_record_name(claim, prepared))

    def collect(self, kept: tuple[tuple[ClaimRef, Prepared], ...]) -> tuple[str, ...]:
        """End whatever is of none of these, which are all that is prepared, and let live what they need. In words."""
        done: list[str] = []
        users = tuple(prepared for _, prepared in kept if not prepared.grant.admin)
        served = {_served(user) for user in users if uses_mps(user)}
        for device in self._daemons.devices():
            if device not in served:
                self._daemons.stop(device)
                done.append(f"MPS daemon of {device}")
        for leftovers in (self._modes, self._limits):
            self._disk.sweep(leftovers)
        self._daemons.sweep()
        done += self._revived(users)
        notes = self._disk.names(self._modes)
        gpus = {gpu.uuid: gpu for gpu in self._gpus.gpus()} if notes else {}
        for uuid in notes:
            here = tuple(user for user in users if user.gpu == uuid and user.kind is Kind.GPU)
            if uuid in gpus and not _is_exclusive(here):
                self._set_mode(gpus[uuid], here)
                done.append(f"compute mode of {uuid}")
        records = {_record_name(claim, prepared) for claim, prepared in kept}
        for name in self._disk.names(self._limits):
            if name not in records:
                self._lift_memory(name)
                done.append(f"memory limits of {name}")
        for folder in (self._modes, self._limits):
            self._disk.sweep(folder)
        for claim, prepared in kept:
            self._limit_memory(claim, prepared)  # The kubelet asks only for the first pod that uses a claim.
        return tuple(done)

    def edits(self, devices: Sequence[Prepared]) -> tuple[Edits, ...]:
        """What the containers of a claim need beside device nodes, for each of its devices.

        Raises SharingError where a container would have to be the client of two daemons, which none can be, or of one
        and use another GPU beside it, which the daemon hides: containers are told apart by requests alone."""
        used: dict[str, list[Prepared]] = {}
        for device in devices:
            for request in device.grant.requests if not device.grant.admin else ():
                used.setdefault(request, []).append(device)
        for request, together in used.items():
            _refuse_mixed(request, together)
        return tuple(
            self._daemons.edits(_served(device), _limits(device.grant)) if uses_mps(device) else Edits()
            for device in devices
        )

    # --- each of the effects ---

    def _refuse(self, prepared: Prepared, users: Iterable[Prepared]) -> None:
        """Raises SharingError where what is asked cannot be had beside what others have."""
        name = prepared.grant.device
        if prepared.grant.settings.sharing is Sharing.EXCLUSIVE and _is_share(prepared.grant):
            raise SharingError(
                f"Device {name}: exclusive use and a share of it contradict each other; ask for the whole device, or "
                "remove the config"
            )
        for user in users:
            if Sharing.EXCLUSIVE in (prepared.grant.settings.sharing, user.grant.settings.sharing):
                raise SharingError(
                    f"Device {name}: exclusive use of it is asked for while others have a part of it; it is prepared "
                    "when they have given it back"
                )

    def _enforced(self, claim: ClaimRef, prepared: Prepared, gpu: Gpu) -> Prepared:
        """The device with the strongest that keeps its share, of what this node has for this claim. What was told
        once stays."""
        grant = prepared.grant
        if grant.settings.sharing is Sharing.MPS and not self._mps_serves(gpu):
            old = gpu.compute_capability < LEAST_COMPUTE_CAPABILITY
            raise SharingError(
                f"Device {grant.device}: MPS is asked for, and "
                + (
                    f"its compute capability {'.'.join(map(str, gpu.compute_capability))} is below 7.0"
                    if old
                    else "nvidia-cuda-mps-control is not below the driver's root, or the setting mps is off"
                )
                + "; choose another node, or another sharing strategy"
            )
        if prepared.enforcement is not None or not _is_share(grant):
            return prepared
        by_mps = grant.settings.sharing in (Sharing.NONE, Sharing.MPS) and self._mps_serves(gpu)
        whole = prepared.kind is Kind.GPU and grant.memory_bytes is not None
        by_dmem = whole and self._dmem and gpu.memory_limits and bool(self._cgroups(claim))
        # Threads are counted by MPS alone, which limits the memory as well.
        if by_dmem and not (by_mps and grant.cores_percent):
            return replace(prepared, enforcement=Enforcement.DMEM)
        return replace(prepared, enforcement=Enforcement.MPS if by_mps else Enforcement.NONE)

    def _mps_serves(self, gpu: Gpu) -> bool:
        return self._daemons.offered and gpu.compute_capability >= LEAST_COMPUTE_CAPABILITY

    def _serve(self, served: str, users: Iterable[Prepared], gpu: Gpu) -> None:
        """The device's daemon runs, and keeps its clients to the least limits that all of them can live with."""
        clients = [user for user in users if uses_mps(user)]
        # Claims of different users share a device that is given away in shares.
        several = any(client.grant.settings.multi_user or _is_share(client.grant) for client in clients)
        fresh = self._daemons.start(served, multi_user=several)
        # An instance is not shared between claims: nobody's limit is lifted there.
        whole = None if fresh or served != gpu.uuid else gpu.memory_bytes
        self._daemons.limit(served, ceiling(_limits(client.grant) for client in clients), whole)

    def _revived(self, users: Iterable[Prepared]) -> list[str]:
        """Daemons that have died while claims need them run again. One that does not start is told, and is tried again
        with the next call: it must not keep the others from being looked at."""
        found: dict[str, list[Prepared]] = {}
        for user in users:
            if uses_mps(user) and _served(user):
                found.setdefault(_served(user), []).append(user)
        gpus = {gpu.uuid: gpu for gpu in self._gpus.gpus()} if found else {}
        done = []
        for served, clients in sorted(found.items()):
            gpu = gpus.get(clients[0].gpu)
            if gpu is None or self._daemons.answers(served):
                continue
            try:
                self._serve(served, clients, gpu)
                done.append(f"dead MPS daemon of {served}, started anew")
            except SharingError as error:
                done.append(str(error))
        return done

    def _set_mode(self, gpu: Gpu, users: Sequence[Prepared]) -> None:
        """Exclusive while all who use the GPU do so by its daemon, or it is somebody's alone; else as it was before."""
        note = self._modes / gpu.uuid
        before = self._disk.read(note)
        if _is_exclusive(users):
            if before is None:
                self._disk.write(note, gpu.compute_mode.name.encode())
            if gpu.compute_mode is not ComputeMode.EXCLUSIVE_PROCESS:
                self._gpus.set_compute_mode(gpu.uuid, ComputeMode.EXCLUSIVE_PROCESS)
        elif before is not None:
            mode = ComputeMode.__members__.get(before.decode(errors="replace"), ComputeMode.DEFAULT)
            if gpu.compute_mode is not mode:
                self._gpus.set_compute_mode(gpu.uuid, mode)
            self._disk.remove(note)

    def _set_time_slice(self, prepared: Prepared, users: Iterable[Prepared]) -> None:
        """The longest that anybody asks for who is there; the driver's default when nobody does."""
        if not prepared.grant.settings.time_slice:
            return
        slices = [user.grant.settings.time_slice for user in users]
        if not self._tools.smi:
            raise SharingError(
                f"Device {prepared.grant.device}: its time slice is set by {SMI}, which is not below the driver's "
                "root; install the driver's programs, or do without time slices"
            )
        argv = [self._tools.smi, "compute-policy", "-i", prepared.gpu, "--set-timeslice", str(max(slices, default=0))]
        answer = self._commands.run(argv, env=self._tools.env)
        if answer.code != 0:
            raise SharingError(
                f"Device {prepared.grant.device}: its time slice is not set ({answer.words}); it is tried again: see "
                f"whether `{' '.join(argv[:1])} compute-policy -l` works on the node"
            )

    def _limit_memory(self, claim: ClaimRef, prepared: Prepared) -> None:
        """The claim's pods get no more of the GPU's memory than its share."""
        cgroups = self._cgroups(claim) if prepared.enforcement is Enforcement.DMEM else ()
        if not cgroups or prepared.grant.memory_bytes is None:
            return
        # A limit of nothing would be none.
        amount = max(prepared.grant.memory_bytes, MEBIBYTE)
        name = _record_name(claim, prepared)
        before = self._record(name)
        every = tuple(dict.fromkeys((*(before.cgroups if before else ()), *cgroups)))
        record = _Record(gpu=prepared.gpu, cgroups=every, amount=amount)
        if record != before:
            self._disk.write(self._limits / name, msgspec.json.encode(record))
        for cgroup in cgroups:
            self._gpus.limit_memory(prepared.gpu, cgroup, self._share_of(prepared.gpu, cgroup))

    def _lift_memory(self, name: str) -> None:
        """One device's part of its cgroups' limits goes; with the last, the limit. A cgroup may have gone before us."""
        record = self._record(name)
        if record is not None:
            for cgroup in record.cgroups:
                left = self._share_of(record.gpu, cgroup, without=name)
                try:
                    self._gpus.limit_memory(record.gpu, cgroup, left or None)
                except GpuError as error:
                    if error.failure not in _NO_CGROUP:
                        raise
        self._disk.remove(self._limits / name)

    def _share_of(self, gpu: str, cgroup: str, *, without: str = "") -> int:
        """What a cgroup has of a GPU, by all claims of its pod."""
        records = (self._record(name) for name in self._disk.names(self._limits) if name != without)
        return sum(record.amount for record in records if record and record.gpu == gpu and cgroup in record.cgroups)

    def _record(self, name: str) -> _Record | None:
        try:
            return msgspec.json.decode(self._disk.read(self._limits / name) or b"", type=_Record)
        except msgspec.DecodeError:
            return None

    def _gpu(self, uuid: str) -> Gpu:
        return self._gpus.gpu(uuid)


def uses_mps(prepared: Prepared) -> bool:
    """Whether a device is used by way of an MPS daemon."""
    by_mps = prepared.grant.settings.sharing is Sharing.MPS or prepared.enforcement is Enforcement.MPS
    return by_mps and not prepared.grant.admin


def _refuse_mixed(request: str, devices: Sequence[Prepared]) -> None:
    """Raises SharingError where a container that uses all devices of a request cannot see all of them."""
    served = list(dict.fromkeys(_served(device) for device in devices if uses_mps(device)))
    cure = "and name the request in the container that uses it"
    if len(served) > 1:
        raise SharingError(
            f"Request {request}: its devices {served[0]} and {served[1]} are used by MPS, and no container can be the "
            f"client of two daemons; ask for one device by MPS in each request, {cure}"
        )
    hidden = [device for device in devices if served and not uses_mps(device) and _served(device) != served[0]]
    if hidden:
        raise SharingError(
            f"Request {request}: its device {served[0]} is used by MPS and {hidden[0].grant.device} is not, and a "
            "client of an MPS daemon sees no GPU but the daemon's; ask for what is used by MPS in a request of its "
            f"own, {cure}"
        )


def _served(prepared: Prepared) -> str:
    """What its daemon serves: the instance, or the GPU."""
    return prepared.instance if prepared.kind is Kind.MIG else prepared.gpu


def _users(prepared: Prepared, others: Iterable[Prepared]) -> tuple[Prepared, ...]:
    """Of the others of a GPU, those who have the same device. Its UUID may not be there yet, its place is."""
    return tuple(other for other in others if same_device(other, prepared) and not other.grant.admin)


def _is_share(grant: Grant) -> bool:
    return grant.memory_bytes is not None or grant.cores_percent is not None


def _is_plain(grant: Grant) -> bool:
    """Whether nothing is asked but the device."""
    return grant.settings.sharing is Sharing.NONE and not _is_share(grant)


def _is_exclusive(users: Sequence[Prepared]) -> bool:
    return bool(users) and all(uses_mps(user) or user.grant.settings.sharing is Sharing.EXCLUSIVE for user in users)


def _limits(grant: Grant) -> Limits:
    """A client's: of its share and its config, the lower. A share of no cores is one whose threads nobody counts."""
    memory = [each for each in (grant.memory_bytes, grant.settings.memory_bytes) if each is not None]
    threads = [each for each in (grant.cores_percent, grant.settings.threads_percent) if each]
    return Limits(memory_bytes=min(memory, default=None), threads_percent=min(threads, default=None))


def _record_name(claim: ClaimRef, prepared: Prepared) -> str:
    share = f"-{prepared.grant.share_id}" if prepared.grant.share_id else ""
    return f"{claim.uid}-{prepared.grant.device}{share}"
