"""Facts of a node's GPUs -> the devices that are offered: whole GPUs, MIG placements, shares of memory. Pure.

With dynamic MIG a GPU and all of its placements are devices that draw on one counter set (`dra_driver.counters`).

What an operator has cut stays: his instances are offered as they are, and nothing that would be in their way. A GPU in
one piece may be shared by memory (KEP 5075); one that is cut can not, and one that can be cut is one or the other at a
time, for a shared GPU takes all counters.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from dra_driver import attributes, counters
from dra_driver.devices import Capacity, CounterSet, Device, Enforcement, Inventory, Kind, Taint
from dra_driver.facts import Driver, Gpu, Mig, MigInstance, MigProfile, Placement
from dra_driver.host import HostFacts, Place

MIB = 1 << 20
EVERY_GPU = "all"
MOST_TAINTS = 16
_MPS_FROM = (7, 0)
_STRENGTH = {"NoExecute": 0, "NoSchedule": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Which GPUs several claims may use at once, each with its part of the memory, in multiples of `step_bytes`.

    `gpus`: indexes ("0"), UUIDs, PCI bus ids, or "all"."""

    gpus: tuple[str, ...] = (EVERY_GPU,)
    step_bytes: int = 256 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What the configuration lets be offered. `mps`: the node can run MPS daemons."""

    dynamic_mig: bool = False
    shares: Shares | None = None
    mps: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is known of GPUs from one look to the next: the last facts of each, lost ones too, and its number.

    A GPU keeps the number that is in its devices' names, although a change of its MIG mode may give it another minor
    number: claims hold devices by name. `numbers` may come from what was published before this process began."""

    gpus: tuple[Gpu, ...] = ()
    numbers: Mapping[str, int] = field(default_factory=dict)

    def seen(self, gpus: Iterable[Gpu], lost: Iterable[str]) -> "Memory":
        """After another look. A GPU that is neither seen nor lost has been taken out, and is forgotten."""
        now = {gpu.uuid: gpu for gpu in gpus}
        missing = set(lost) - now.keys()
        kept = [gpu for gpu in self.gpus if gpu.uuid in missing]
        known = sorted((*now.values(), *kept), key=_order)
        return Memory(gpus=tuple(known), numbers=numbered(known, self.numbers))


def numbered(gpus: Iterable[Gpu], before: Mapping[str, int]) -> Mapping[str, int]:
    """A number for each GPU, by UUID: the one it had, else its minor number, else, if that is taken, the next free."""
    known = sorted(gpus, key=_order)
    found = {gpu.uuid: before[gpu.uuid] for gpu in known if gpu.uuid in before}
    taken = set(found.values())
    for gpu in known:
        if gpu.uuid not in found:
            number = gpu.minor if gpu.minor not in taken else max(taken) + 1
            found[gpu.uuid] = number
            taken.add(number)
    return found


def inventory(
    node: str,
    driver: Driver,
    gpus: Iterable[Gpu],
    host: HostFacts,
    offer: Offer,
    owned: Collection[tuple[str, Placement]] = (),
    taints: Mapping[str, tuple[Taint, ...]] | None = None,
    numbers: Mapping[str, int] | None = None,
) -> Inventory:
    """All that the node offers. The order of what is given makes no difference.

    `gpus`: those that answer, and lost ones as they were last known (`Memory`). `owned`: GPU (UUID) and placement of
    each instance that we made, or are about to make, for a claim; all others are an operator's. `taints`: of all
    devices of a GPU by its UUID, of one instance by its, of one device by its name."""
    known = sorted(gpus, key=_order)
    context = _Context(
        driver=driver,
        host=host,
        offer=offer,
        owned=frozenset(owned),
        numbers=numbered(known, numbers or {}),
        domains=attributes.nvlink_domains(node, known),
        peers=attributes.nvlink_peers(known),
    )
    boards = [_board(gpu, context) for gpu in known]
    devices = [device for board in boards for device in board.devices]
    found = Inventory(
        devices=tuple(devices),
        counter_sets=tuple(board.counters for board in boards if board.counters is not None),
        refused=(*(words for board in boards for words in board.refused), *_unknown_shares(known, offer)),
    )
    return tainted(found, taints) if taints else found


def tainted(found: Inventory, taints: Mapping[str, tuple[Taint, ...]]) -> Inventory:
    """The same with these taints and no others. `taints`: as of `inventory`."""
    return replace(found, devices=tuple(_tainted(device, taints) for device in found.devices))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    """What all GPUs of the node are looked at with."""

    driver: Driver
    host: HostFacts
    offer: Offer
    owned: frozenset[tuple[str, Placement]]
    numbers: Mapping[str, int]
    domains: Mapping[str, str]
    peers: Mapping[str, int]

    def name(self, gpu: Gpu) -> str:
        return attributes.gpu_name(self.numbers[gpu.uuid])

    def place(self, gpu: Gpu) -> Place:
        return self.host.places.get(gpu.pci_bus, Place())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Board:
    """What one GPU gives."""

    devices: tuple[Device, ...] = ()
    counters: CounterSet | None = None
    refused: tuple[tuple[str, str], ...] = ()


def _board(gpu: Gpu, context: _Context) -> _Board:
    mig = gpu.mig
    if mig is None or gpu.virtual or not (mig.profiles or mig.instances):
        return _in_one_piece(gpu, context)
    if not (mig.on or (context.offer.dynamic_mig and mig.on_demand)):
        return _in_one_piece(gpu, context)
    if context.offer.dynamic_mig:
        return _partitionable(gpu, mig, context)
    return _as_cut(gpu, mig, context)


def _in_one_piece(gpu: Gpu, context: _Context) -> _Board:
    device, refused = _whole(gpu, context, {})
    return _Board(devices=(device,), refused=(*refused, *_pending(gpu, context)))


def _as_cut(gpu: Gpu, mig: Mig, context: _Context) -> _Board:
    """MIG is on, and it is not for us to cut: what is there is offered, but for what was made for a claim."""
    name, theirs = context.name(gpu), _theirs(gpu, mig, context)
    refused = [*_halves(gpu, mig, context), *_pending(gpu, context), *_unshared(gpu, context)]
    if len(theirs) < len(mig.instances):
        refused.append((name, "instances made for claims go with their claims; they are not offered to others."))
    elif not theirs:
        cure = "make instances, or switch dynamic MIG on here, or MIG off"
        refused.append((name, f"MIG mode is on and there are no instances: nothing is offered; {cure}."))
    return _Board(devices=_static(gpu, theirs, context), refused=tuple(refused))


def _partitionable(gpu: Gpu, mig: Mig, context: _Context) -> _Board:
    """All that can be made beside what an operator has made."""
    theirs = _theirs(gpu, mig, context)
    left = counters.left(mig, theirs)
    parts = [
        _partition(gpu, profile, where, drawn, context)
        for profile, where in counters.placements(mig)
        if counters.fits(drawn := counters.drawn(mig, profile, where), left)
    ]
    refused = [*_halves(gpu, mig, context), *_pending(gpu, context)]
    whole: tuple[Device, ...] = ()
    if not theirs and (mig.on_demand or not mig.on):
        device, words = _whole(gpu, context, left if parts else {})
        whole = (device,)
        refused += words
    else:
        refused += _unshared(gpu, context)
        if theirs:
            refused.append((context.name(gpu), _in_the_way(theirs)))
    drawn_on = CounterSet(name=_set_name(gpu, context), counters=left) if parts else None
    return _Board(devices=(*whole, *_static(gpu, theirs, context), *parts), counters=drawn_on, refused=tuple(refused))


# --- devices ---


def _whole(gpu: Gpu, context: _Context, drawn: Mapping[str, int]) -> tuple[Device, list[tuple[str, str]]]:
    """The GPU in one piece, and why it is not shared although it was asked for."""
    amount, shares, refused = gpu.memory_bytes, context.offer.shares, []
    shared = shares is not None and _chosen(gpu, shares)
    # The API wants room for two steps.
    if shares is not None and shared and (amount is None or amount < 2 * shares.step_bytes):
        why = "the driver does not tell its memory" if amount is None else "it has less memory than two shares"
        refused.append((context.name(gpu), f"not shared: {why}."))
        shared = False
    capacity = {"memory": Capacity(amount=amount)} if amount is not None else {}
    if shares is not None and shared and amount is not None:
        step = shares.step_bytes
        capacity["memory"] = Capacity(amount=amount, step=step, least=step, default=amount // step * step)
        capacity["cores"] = Capacity(amount=100, step=1, least=0, default=0)
    said = attributes.of_whole(
        gpu,
        context.driver,
        context.place(gpu),
        domain=context.domains.get(gpu.uuid, ""),
        peers=context.peers[gpu.uuid],
        mig_mode=_mode(gpu, context),
        enforcement=_enforcement(gpu, context),
    )
    device = Device(
        name=context.name(gpu),
        kind=Kind.GPU,
        gpu=gpu.uuid,
        attributes=said,
        capacity=capacity,
        counters=drawn,
        counter_set=_set_name(gpu, context) if drawn else "",
        shareable=shared,
    )
    return device, refused


def _partition(gpu: Gpu, profile: MigProfile, where: Placement, drawn: Mapping[str, int], context: _Context) -> Device:
    """A MIG device that is made when a claim is prepared."""
    return Device(
        name=attributes.mig_name(context.numbers[gpu.uuid], profile.name, profile.id, where.start),
        kind=Kind.MIG,
        gpu=gpu.uuid,
        profile=profile,
        placement=where,
        attributes=attributes.of_mig(gpu, context.driver, context.place(gpu), profile.name, where, None),
        capacity={name: Capacity(amount=amount) for name, amount in attributes.capacities(profile).items()},
        counters=drawn,
        counter_set=_set_name(gpu, context),
    )


def _static(gpu: Gpu, instances: Iterable[MigInstance], context: _Context) -> tuple[Device, ...]:
    """An operator's instances, those that can be used."""
    known = {profile.id: profile for profile in gpu.mig.profiles} if gpu.mig else {}
    devices = []
    for each in instances:
        if not each.uuid:
            continue
        profile = known.get(each.profile_id)
        amounts = attributes.capacities(profile) if profile else {}
        said = attributes.of_mig(gpu, context.driver, context.place(gpu), each.profile, each.placement, each)
        device = Device(
            name=attributes.mig_name(context.numbers[gpu.uuid], each.profile, each.profile_id, each.placement.start),
            kind=Kind.MIG,
            gpu=gpu.uuid,
            profile=profile,
            placement=each.placement,
            instance=each.uuid,
            attributes=said,
            capacity={name: Capacity(amount=amount) for name, amount in amounts.items()},
        )
        devices.append(device)
    return tuple(devices)


def _tainted(device: Device, taints: Mapping[str, tuple[Taint, ...]]) -> Device:
    """With all taints that are meant for it, the strongest first, one of a key and effect (the oldest)."""
    keys = (device.gpu, device.instance, device.name)
    found = sorted(
        {taint for key in keys if key for taint in taints.get(key, ())},
        key=lambda taint: (_STRENGTH.get(taint.effect, 2), taint.key, taint.since_ms, taint.value),
    )
    once = {(taint.key, taint.effect): taint for taint in reversed(found)}
    kept = [taint for taint in found if once[taint.key, taint.effect] is taint][:MOST_TAINTS]
    return replace(device, taints=tuple(kept))


# --- GPUs and their modes ---


def _order(gpu: Gpu) -> tuple[int, str]:
    return gpu.index, gpu.uuid


def _set_name(gpu: Gpu, context: _Context) -> str:
    return attributes.set_name(context.numbers[gpu.uuid])


def _theirs(gpu: Gpu, mig: Mig, context: _Context) -> list[MigInstance]:
    instances = sorted(mig.instances, key=lambda each: (each.placement, each.id))
    return [each for each in instances if (gpu.uuid, each.placement) not in context.owned]


def _mode(gpu: Gpu, context: _Context) -> str:
    """Where the mode is ours to change with every claim, it is no property of the GPU."""
    if gpu.mig is None or gpu.virtual or not gpu.mig.profiles:
        return ""
    if context.offer.dynamic_mig and gpu.mig.on_demand:
        return "on-demand"
    return "enabled" if gpu.mig.on else "disabled"


def _enforcement(gpu: Gpu, context: _Context) -> Enforcement:
    """The strongest means the node has to keep a share of this GPU's memory to its size."""
    if gpu.memory_limits and context.host.dmem:
        return Enforcement.DMEM
    if context.offer.mps and gpu.compute_capability >= _MPS_FROM:
        return Enforcement.MPS
    return Enforcement.NONE


def _chosen(gpu: Gpu, shares: Shares) -> bool:
    return bool({EVERY_GPU, str(gpu.index), gpu.uuid, gpu.pci_bus}.intersection(shares.gpus))


# --- what is not offered, in words ---


def _pending(gpu: Gpu, context: _Context) -> list[tuple[str, str]]:
    mig = gpu.mig
    if mig is None or mig.on == mig.pending:
        return []
    now, then = ("on", "off") if mig.on else ("off", "on")
    words = f"MIG mode is {now}, and {then} after the next reset of the GPU; until then it is offered as it is."
    return [(context.name(gpu), words)]


def _halves(gpu: Gpu, mig: Mig, context: _Context) -> list[tuple[str, str]]:
    """Instances of an operator's that nobody can use yet; they keep their place."""
    return [
        (
            context.name(gpu),
            f"{each.profile} at memory slice {each.placement.start} is not offered: it has no compute instance; make "
            f"one (nvidia-smi mig -i {gpu.index} -gi {each.id} -cci), or destroy it.",
        )
        for each in _theirs(gpu, mig, context)
        if not each.uuid
    ]


def _unshared(gpu: Gpu, context: _Context) -> list[tuple[str, str]]:
    shares = context.offer.shares
    if shares is None or not _chosen(gpu, shares) or EVERY_GPU in shares.gpus:
        return []
    return [(context.name(gpu), "not shared: it is in MIG mode, and is not offered whole.")]


def _in_the_way(theirs: Iterable[MigInstance]) -> str:
    listed = ", ".join(f"{each.profile} at memory slice {each.placement.start}" for each in theirs)
    return f"not offered whole, nor anything in the way of instances that were not made here: {listed}."


def _unknown_shares(gpus: Iterable[Gpu], offer: Offer) -> list[tuple[str, str]]:
    if offer.shares is None:
        return []
    known = {EVERY_GPU, *(name for gpu in gpus for name in (str(gpu.index), gpu.uuid, gpu.pci_bus))}
    cure = "name an index, a UUID, a PCI bus id, or all"
    return [(name, f"no GPU to share has this name; {cure}.") for name in sorted(set(offer.shares.gpus) - known)]
