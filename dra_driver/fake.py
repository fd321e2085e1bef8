"""A node's GPUs, made up: a laptop or a test sees eight H100 that behave as NVML says they would.

Modelled: MIG modes and geometry, processes that hold GPUs and instances, NVLink, fabric and rack position, events,
recovery actions, lost GPUs, resets and reboots, memory limits, and refusals of any call. The methods after `close` are
what no plugin has: the hands of whoever stands at the machine.
"""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dra_driver.boards import NAMES, Board, fabric, links, pci_bus, position, shape
from dra_driver.facts import (
    ComputeMode,
    Driver,
    EventKind,
    Failure,
    Gpu,
    GpuError,
    GpuEvent,
    Gpus,
    Mig,
    MigInstance,
    MigProfile,
    Placement,
    Process,
    Recovery,
    Usage,
)
from dra_driver.hardware import EVENTS_KEPT, Card, Client, Cut, Happening, Keeper, Machine, Refusal, allowed, placement

RACK = "rack-1"
DRIVER = Driver(version="580.126.20", cuda=(13, 0))
LOOKS_SECONDS = 0.02  # how often a file is looked at for events that another process has told


class FakeGpus(Gpus):
    """`Gpus` of a machine that is made up: `machine` names its boards ("h100x8"), `node` all that is unique of it.

    UUIDs, serials and bus ids are the same at every start. Nodes of one `rack` share an NVLink fabric, where their
    boards have one; the tray is the number that ends the node's name. `state`: the file that holds the hardware; None
    is memory. `memory_limits`: the driver can limit a cgroup's memory. `moving_minors`: a GPU that changes its MIG mode
    comes back with another minor number, as drivers may do. `step` is called after each change of the hardware with its
    name: for a test that ends the process just there."""

    def __init__(
        self,
        machine: str = "h100x8",
        *,
        node: str = "node-1",
        rack: str = RACK,
        state: Path | None = None,
        driver: Driver = DRIVER,
        memory_limits: bool = False,
        moving_minors: bool = False,
        step: Callable[[str], None] | None = None,
    ) -> None:
        self._boards = shape(machine)
        self._node, self._rack, self._driver = node, rack, driver
        self._memory_limits, self._moving_minors, self._step = memory_limits, moving_minors, step
        self._uuids = tuple(f"GPU-{uuid.uuid5(NAMES, f'{node}/{index}')}" for index in range(len(self._boards)))
        self._altered: dict[int, dict[str, Any]] = {}
        self._turn = threading.RLock()
        self._news = threading.Condition()
        self._in_file = state is not None
        cards = [Card(minor=index) for index in range(len(self._boards))]
        self._keeper = Keeper(Machine(node=node, shape=machine, cards=cards), state)
        with self._keeper.machine() as now:
            self._seen = now.told

    def driver(self) -> Driver:
        with self._call("driver"):
            return self._driver

    def gpus(self) -> tuple[Gpu, ...]:
        with self._call("gpus") as machine:
            return tuple(self._gpu(index, card) for index, card in enumerate(machine.cards) if not card.lost)

    def gpu(self, gpu: str) -> Gpu:
        with self._call("gpu", gpu) as machine:
            if gpu not in self._uuids or machine.cards[self._index("gpu", gpu)].lost:
                raise GpuError(Failure.GPU_IS_LOST, "gpu", gpu, "the GPU does not answer")
            return self._gpu(*self._card(machine, "gpu", gpu))

    def lost(self) -> tuple[str, ...]:
        with self._call("lost") as machine:
            return tuple(self._uuids[index] for index, card in enumerate(machine.cards) if card.lost)

    def instances(self, gpu: str) -> tuple[MigInstance, ...]:
        with self._call("instances", gpu) as machine:
            index, card = self._card(machine, "instances", gpu)
            return self._instances(index, card)

    def set_mig(self, gpu: str, on: bool) -> None:
        with self._call("set_mig", gpu) as machine:
            index, card = self._card(machine, "set_mig", gpu)
            if not self._boards[index].profiles:
                raise GpuError(Failure.NOT_SUPPORTED, "set_mig", gpu)
            if on == card.on:
                card.pending = on
                return
            if card.clients or card.cuts:
                raise GpuError(Failure.IN_USE, "set_mig", gpu, "processes or instances are on it")
            card.pending = on
            if not self._boards[index].mig_needs_reset:
                self._switch(machine, index)
        self._stepped("mig-mode")

    def create_instance(self, gpu: str, profile_id: int, placement: Placement) -> MigInstance:
        with self._turn:
            with self._call("create_instance", gpu) as machine:
                index, card = self._card(machine, "create_instance", gpu)
                self._check(index, card, profile_id, placement)
                taken = {cut.id for cut in card.cuts}
                number = next(number for number in range(1, len(taken) + 2) if number not in taken)
                card.cuts.append(Cut(id=number, profile_id=profile_id, start=placement.start))
                self._tell(machine, self._uuids[index], EventKind.MIG_CHANGED)
            self._stepped("gpu-instance-made")
            try:
                with self._call("create_compute_instance", gpu) as machine:
                    index, card = self._card(machine, "create_compute_instance", gpu)
                    machine.made += 1
                    cut = next(cut for cut in card.cuts if cut.id == number)
                    cut.uuid = f"MIG-{uuid.uuid5(NAMES, f'{self._node}/{index}/made/{machine.made}')}"
            except GpuError:
                with self._keeper.machine() as machine:
                    card = machine.cards[index]
                    card.cuts = [cut for cut in card.cuts if cut.id != number]
                raise
            self._stepped("compute-instance-made")
            return self._instance(index, cut)

    def destroy_instance(self, instance: MigInstance) -> None:
        with self._turn:
            with self._call("destroy_instance", instance.gpu) as machine:
                index, card = self._card(machine, "destroy_instance", instance.gpu)
                cut = self._same(index, card, instance)
                if any(client.instance == cut.id for client in card.clients):
                    raise GpuError(Failure.IN_USE, "destroy_instance", instance.uuid or instance.gpu)
                cut.uuid = ""
            self._stepped("compute-instance-destroyed")
            with self._call("destroy_gpu_instance", instance.gpu) as machine:
                index, card = self._card(machine, "destroy_gpu_instance", instance.gpu)
                card.cuts = [other for other in card.cuts if other.id != cut.id]
                self._tell(machine, self._uuids[index], EventKind.MIG_CHANGED)
            self._stepped("gpu-instance-destroyed")

    def set_compute_mode(self, gpu: str, mode: ComputeMode) -> None:
        with self._call("set_compute_mode", gpu) as machine:
            _, card = self._card(machine, "set_compute_mode", gpu)
            card.compute_mode = mode.value
        self._stepped("compute-mode")

    def limit_memory(self, gpu: str, cgroup: str, hard_bytes: int | None) -> None:
        with self._call("limit_memory", gpu) as machine:
            _, card = self._card(machine, "limit_memory", gpu)
            if not self._memory_limits or card.on:
                raise GpuError(Failure.NOT_SUPPORTED, "limit_memory", gpu)
            if not cgroup.startswith("/") or (hard_bytes is not None and hard_bytes <= 0):
                raise GpuError(Failure.INVALID_ARGUMENT, "limit_memory", gpu)
            if hard_bytes is None:
                card.limits.pop(cgroup, None)
            else:
                card.limits[cgroup] = hard_bytes
        self._stepped("memory-limit")

    def processes(self, gpu: str) -> tuple[Process, ...]:
        with self._call("processes", gpu) as machine:
            _, card = self._card(machine, "processes", gpu)
            return tuple(
                Process(pid=client.pid, memory_bytes=client.memory_bytes, instance=client.instance)
                for client in card.clients
            )

    def usage(self, device: str) -> Usage:
        with self._call("usage", device) as machine:
            index, card, cut = self._device(machine, "usage", device)
            board = self._boards[index]
            used = sum(client.memory_bytes for client in card.clients if cut is None or client.instance == cut.id)
            if cut is not None:  # NVML tells neither how busy an instance is nor its power
                return Usage(busy=None, memory_used_bytes=used, memory_bytes=_profile(board, cut).memory_bytes)
            return Usage(
                busy=None if card.on else card.busy,
                memory_used_bytes=used,
                memory_bytes=board.memory_bytes,
                power_milliwatts=70_000 + 600 * card.busy,
                celsius=30 + card.busy // 25,
            )

    def recovery(self, gpu: str) -> Recovery | None:
        with self._call("recovery", gpu) as machine:
            index, card = self._card(machine, "recovery", gpu)
            return None if self._boards[index].architecture == "Turing" else Recovery(card.recovery)

    def unmonitored(self) -> tuple[str, ...]:
        with self._keeper.machine() as machine:
            return tuple(self._uuids[index] for index, card in enumerate(machine.cards) if card.mute)

    def wait(self, milliseconds: int) -> GpuEvent | None:
        deadline = time.monotonic() + milliseconds / 1000
        while True:
            with self._call("wait") as machine:
                event = next((event for event in machine.events if event.number > self._seen), None)
                if event is not None:
                    self._seen = event.number
                    return GpuEvent(gpu=event.gpu, kind=EventKind(event.kind), code=event.code, instance=event.instance)
                told = machine.told
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            with self._news:  # nothing is missed: who tells an event in this process rings after it is kept
                if self._in_file:
                    self._news.wait(min(left, LOOKS_SECONDS))
                else:
                    self._news.wait_for(partial(self._newer, told), left)

    def close(self) -> None:
        """Nothing is held open."""

    @property
    def boot_id(self) -> str:
        """What the kernel's boot id would be; another after each reboot."""
        with self._keeper.machine() as machine:
            return str(uuid.uuid5(NAMES, f"{self._node}/boot/{machine.boots}"))

    @property
    def uuids(self) -> tuple[str, ...]:
        """UUIDs of all GPUs by index, lost ones too."""
        return self._uuids

    def limits(self, gpu: str) -> dict[str, int]:
        """Hard limits of memory in bytes, by cgroup."""
        with self._keeper.machine() as machine:
            return dict(self._card(machine, "limits", gpu)[1].limits)

    def refuse(self, call: str, failure: Failure, gpu: str = "", *, once: bool = True) -> None:
        """Let the next call of this name fail (of this GPU, or device of `usage`), or all until `allow`. Names are
        those of `Gpus`, and of the second halves "create_compute_instance" and "destroy_gpu_instance"."""
        if not hasattr(self, call) and call not in ("create_compute_instance", "destroy_gpu_instance"):
            raise ValueError(f"Refusal of {call!r}: no such call; take a name of Gpus")
        with self._keeper.machine() as machine:
            machine.refusals.append(Refusal(call=call, failure=failure.value, gpu=gpu, once=once))

    def allow(self, call: str) -> None:
        """Lift all refusals of a call."""
        with self._keeper.machine() as machine:
            machine.refusals = [refusal for refusal in machine.refusals if refusal.call != call]

    def inject(self, event: GpuEvent) -> None:
        """Let something happen: every session that is open is told."""
        with self._keeper.machine() as machine:
            self._tell(machine, event.gpu, event.kind, event.code, event.instance)
        self._ring()

    def lose(self, gpu: str) -> None:
        """The GPU falls off the bus."""
        with self._keeper.machine() as machine:
            machine.cards[self._index("lose", gpu)].lost = True

    def find(self, gpu: str) -> None:
        """A lost GPU is there again."""
        with self._keeper.machine() as machine:
            machine.cards[self._index("find", gpu)].lost = False

    def mute(self, gpu: str) -> None:
        """The GPU tells no more events, as those that NVML cannot watch."""
        with self._keeper.machine() as machine:
            machine.cards[self._index("mute", gpu)].mute = True

    def use(self, device: str, pid: int, memory_bytes: int = 1 << 30) -> None:
        """A process comes, to a GPU or to an instance of it; GpuError as CUDA would fail."""
        with self._keeper.machine() as machine:
            _, card, cut = self._device(machine, "use", device)
            mode = ComputeMode(card.compute_mode)
            if card.on and cut is None:
                raise GpuError(Failure.NOT_SUPPORTED, "use", device, "in MIG mode processes use instances")
            full = mode is ComputeMode.EXCLUSIVE_PROCESS and any(client.pid != pid for client in card.clients)
            if mode is ComputeMode.PROHIBITED or (full and cut is None):
                raise GpuError(Failure.IN_USE, "use", device, f"compute mode {mode.name.lower()}")
            card.clients.append(Client(pid=pid, memory_bytes=memory_bytes, instance=cut.id if cut else None))

    def leave(self, pid: int) -> None:
        """A process ends."""
        with self._keeper.machine() as machine:
            for card in machine.cards:
                card.clients = [client for client in card.clients if client.pid != pid]

    def work(self, gpu: str, busy: int) -> None:
        """How busy the GPU is from now on, in thousandths."""
        with self._keeper.machine() as machine:
            machine.cards[self._index("work", gpu)].busy = busy

    def ail(self, gpu: str, recovery: Recovery) -> None:
        """What the driver wants done to the GPU from now on; told as an event, as a driver does."""
        with self._keeper.machine() as machine:
            machine.cards[self._index("ail", gpu)].recovery = recovery.value
            self._tell(machine, gpu, EventKind.RECOVERY, recovery.value)
        self._ring()

    def alter(self, index: int, **facts: Any) -> None:
        """Other facts about a GPU from now on, in this process only: fields of `Gpu`."""
        self._altered.setdefault(index, {}).update(facts)

    def cut(self, gpu: str, profile_id: int, start: int) -> None:
        """A GPU instance without a compute instance in it: what somebody leaves who dies between the two."""
        with self._keeper.machine() as machine:
            index, card = self._card(machine, "cut", gpu)
            profile = self._boards[index].profile(profile_id)
            self._check(index, card, profile_id, Placement(start=start, size=profile.memory_slices if profile else 0))
            taken = {cut.id for cut in card.cuts}
            number = next(number for number in range(1, len(taken) + 2) if number not in taken)
            card.cuts.append(Cut(id=number, profile_id=profile_id, start=start))

    def reset(self, gpu: str) -> None:
        """A reset of the GPU: the pending MIG mode comes into force, instances and ailments are gone."""
        with self._keeper.machine() as machine:
            index = self._index("reset", gpu)
            if machine.cards[index].clients:
                raise GpuError(Failure.IN_USE, "reset", gpu)
            self._renew(machine, index, machine.cards[index].pending)
        self._ring()

    def reboot(self) -> None:
        """The node starts anew: no process, instance, limit or ailment is left, and the boot id is another. The MIG
        mode stays where the board keeps it (Ampere), and is off elsewhere."""
        with self._keeper.machine() as machine:
            machine.boots += 1
            for index, card in enumerate(machine.cards):
                self._renew(machine, index, card.pending and self._boards[index].mig_needs_reset)
            machine.events = []

    @contextmanager
    def _call(self, call: str, about: str = "") -> Iterator[Machine]:
        """The machine, for one call from the plugin, unless that is to fail; rings if an event was told in it."""
        with self._keeper.machine() as machine:
            told = machine.told
            refused = next((r for r in machine.refusals if r.call == call and r.gpu in ("", about)), None)
            if refused is not None:
                if refused.once:
                    machine.refusals.remove(refused)
                raise GpuError(Failure(refused.failure), call, about)
            yield machine
            rings = machine.told != told
        if rings:
            self._ring()

    def _newer(self, told: int) -> bool:
        with self._keeper.machine() as machine:
            return machine.told != told

    def _ring(self) -> None:
        with self._news:
            self._news.notify_all()

    def _tell(self, machine: Machine, gpu: str, kind: EventKind, code: int = 0, instance: int | None = None) -> None:
        if machine.cards[self._index("tell", gpu)].mute:
            return
        machine.told += 1
        machine.events.append(Happening(number=machine.told, gpu=gpu, kind=kind.value, code=code, instance=instance))
        del machine.events[:-EVENTS_KEPT]

    def _stepped(self, name: str) -> None:
        if self._step is not None:
            self._step(name)

    def _index(self, call: str, gpu: str) -> int:
        if gpu not in self._uuids:
            raise GpuError(Failure.NOT_FOUND, call, gpu)
        return self._uuids.index(gpu)

    def _card(self, machine: Machine, call: str, gpu: str) -> tuple[int, Card]:
        index = self._index(call, gpu)
        if machine.cards[index].lost:
            raise GpuError(Failure.GPU_IS_LOST, call, gpu)
        return index, machine.cards[index]

    def _device(self, machine: Machine, call: str, device: str) -> tuple[int, Card, Cut | None]:
        for index, card in enumerate(machine.cards):
            for cut in card.cuts:
                if cut.uuid == device and not card.lost:
                    return index, card, cut
        return *self._card(machine, call, device), None

    def _check(self, index: int, card: Card, profile_id: int, place: Placement) -> None:
        board, gpu = self._boards[index], self._uuids[index]
        profile = board.profile(profile_id)
        if not card.on:
            raise GpuError(Failure.NOT_SUPPORTED, "create_instance", gpu, "not in MIG mode")
        if profile is None or place not in profile.placements:
            raise GpuError(Failure.INVALID_ARGUMENT, "create_instance", gpu)
        if not allowed(board, card.cuts, profile, place):
            raise GpuError(Failure.INSUFFICIENT_RESOURCES, "create_instance", gpu)

    def _same(self, index: int, card: Card, instance: MigInstance) -> Cut:
        """The instance that is meant: another may have got its number since."""
        for cut in card.cuts:
            place = placement(self._boards[index], cut)
            if (cut.id, cut.profile_id, place) == (
                instance.id,
                instance.profile_id,
                instance.placement,
            ) and cut.uuid in (
                "",
                instance.uuid,
            ):
                return cut
        raise GpuError(Failure.NOT_FOUND, "destroy_instance", instance.uuid or instance.gpu)

    def _switch(self, machine: Machine, index: int) -> None:
        card = machine.cards[index]
        card.on = card.pending
        if self._moving_minors:
            card.minor = 1 + max(other.minor for other in machine.cards)
        self._tell(machine, self._uuids[index], EventKind.MIG_CHANGED)

    def _renew(self, machine: Machine, index: int, on: bool) -> None:
        machine.cards[index] = Card(minor=index, on=on, pending=on, mute=machine.cards[index].mute)
        self._tell(machine, self._uuids[index], EventKind.MIG_CHANGED)

    def _instances(self, index: int, card: Card) -> tuple[MigInstance, ...]:
        return tuple(self._instance(index, cut) for cut in sorted(card.cuts, key=lambda cut: cut.start))

    def _instance(self, index: int, cut: Cut) -> MigInstance:
        board = self._boards[index]
        return MigInstance(
            gpu=self._uuids[index],
            id=cut.id,
            compute_id=0 if cut.uuid else None,
            uuid=cut.uuid,
            profile=_profile(board, cut).name,
            profile_id=cut.profile_id,
            placement=placement(board, cut),
        )

    def _gpu(self, index: int, card: Card) -> Gpu:
        board = self._boards[index]
        mig = Mig(
            on=card.on,
            pending=card.pending,
            on_demand=not board.mig_needs_reset,
            profiles=board.profiles,
            instances=self._instances(index, card),
        )
        gpu = Gpu(
            index=index,
            minor=card.minor,
            uuid=self._uuids[index],
            serial=str(1_650_000_000_000 + uuid.UUID(self._uuids[index].removeprefix("GPU-")).int % 10**9),
            product=board.product,
            brand=board.brand,
            architecture=board.architecture,
            compute_capability=board.compute_capability,
            memory_bytes=board.memory_bytes,
            pci_bus=pci_bus(index),
            pci_device=board.pci_device,
            module=index + 1 if board.sxm else None,
            addressing_mode=board.addressing_mode,
            compute_mode=ComputeMode(card.compute_mode),
            ecc=True,
            memory_limits=self._memory_limits,
            mig=mig if board.profiles else None,
            fabric=fabric(board, self._rack),
            rack=position(board, self._node, self._rack, index),
            links=links(self._boards, index),
        )
        return replace(gpu, **self._altered.get(index, {}))


def _profile(board: Board, cut: Cut) -> MigProfile:
    profile = board.profile(cut.profile_id)
    if profile is None:
        raise ValueError(
            f"State of a {board.name}: an instance of profile {cut.profile_id}, which it lacks; remove the file"
        )
    return profile
