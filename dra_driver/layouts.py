"""mig-parted's file of named MIG configs -> what each GPU of this node is to be cut into. Pure.

    version: v1
    mig-configs:
      half:
        - device-filter: ["0x233010DE"]      # optional: PCI ids, device before vendor, with a subsystem after a colon
          devices: [0, 1]                    # or all
          mig-enabled: true
          mig-devices: {3g.40gb: 1, 1g.10gb: 4}

The format is mig-parted's, so that an operator's files can be used as they are. Here as there a GPU that no entry is
for stays as it is, and one without MIG is passed over where all are meant. What mig-parted decides by order is refused:
two entries that want different things of one GPU. Compute instances smaller than their GPU instance ("1c.3g.40gb") are
not made here. Where instances go is not in the file: they are placed so that all fit, the largest first, each as high
as it can be, as the lower half is where large ones must begin.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

from dra_driver import counters
from dra_driver.facts import Gpu, Mig, MigInstance, MigProfile, Placement

VERSION = "v1"
ALL = "all"
_ENTRY = ("device-filter", "devices", "mig-enabled", "mig-devices")
_PCI = re.compile(r"0x[0-9A-F]{8}(:0x[0-9A-F]{8})?")
_PROFILE = re.compile(r"(?P<compute>\d+c\.)?\d+g\.\d+gb([+-][a-z.]+)*")

Part: TypeAlias = tuple[MigProfile, Placement]


class LayoutRefused(ValueError):
    """A file, or a config in it, that cannot be used, or not on this node: object, cause, cure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """One entry of a config: which GPUs it is for, and what they are to be.

    `filters`: PCI ids, empty for every board; `devices`: indexes, None for all; `counts`: instances by profile."""

    filters: tuple[str, ...] = ()
    devices: tuple[int, ...] | None = None
    enabled: bool
    counts: tuple[tuple[str, int], ...] = ()

    def covers(self, gpu: Gpu) -> bool:
        """Whether it is for this GPU."""
        known = (gpu.pci_device, f"{gpu.pci_device}:{gpu.pci_subsystem}")
        return (self.devices is None or gpu.index in self.devices) and (
            not self.filters or any(wanted in known for wanted in self.filters)
        )


Configs: TypeAlias = Mapping[str, tuple[Selection, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What one GPU is to be: its MIG mode, and its instances by place. No `parts` in the mode: nothing is cut."""

    enabled: bool
    parts: tuple[Part, ...] = ()


def configs(text: str, source: str) -> Configs:
    """All configs of a file by name. `source`: what errors call it. Raises LayoutRefused: nothing of a file that is
    not understood is used, as a misspelt word would cut the wrong GPUs."""
    try:
        document = yaml.load(text, Loader=_Strict)
    except (yaml.YAMLError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where is not None else ""
        why = getattr(error, "problem", None) or "it is nested too deeply"
        raise LayoutRefused(f"{source}{line}: is no valid YAML ({why}); correct the file.") from None
    if not isinstance(document, dict):
        raise LayoutRefused(f"{source}: holds no configs; write `version: v1`, and `mig-configs` by name.")
    if document.get("version") != VERSION:
        raise LayoutRefused(
            f"{source}: has version {document.get('version')!r}, and only {VERSION} is known; write that, if the file "
            "is of that form."
        )
    _only(document, ("version", "mig-configs"), source)
    named = document.get("mig-configs")
    if not isinstance(named, dict) or not named:
        raise LayoutRefused(f"{source}: mig-configs is no map of configs by name; give one config at least.")
    return {str(name): _config(listed, f"MIG config {name} in {source}") for name, listed in named.items()}


def layouts(found: Configs, name: str, gpus: Iterable[Gpu], source: str) -> Mapping[str, Layout]:
    """What a config makes of each GPU that it is for, by UUID; GPUs that stay as they are, are left out.

    Where a GPU has the instances that are wanted, they stay at their places: `Gpu.mig.instances` are what is not made
    for claims. Raises LayoutRefused, as a whole: what a config wants of one GPU is not half of what it wants."""
    if name not in found:
        known = ", ".join(sorted(found))
        raise LayoutRefused(f"MIG config {name}: is not in {source}; take one of {known}, or add it there.")
    about, listed = f"MIG config {name} in {source}", list(gpus)
    covered = {gpu.uuid: [entry for entry in found[name] if entry.covers(gpu)] for gpu in listed}
    if listed and not any(covered.values()):
        boards = ", ".join(sorted({f"{gpu.product} ({gpu.pci_device})" for gpu in listed}))
        raise LayoutRefused(f"{about}: is for no GPU of this node, which has {boards}; widen device-filter or devices.")
    wanted = {}
    for gpu in listed:
        if len(set(_meant(covered[gpu.uuid]))) > 1:
            raise LayoutRefused(f"{about}: two entries want different things of GPU {gpu.index}; let one be for it.")
        for entry in covered[gpu.uuid][:1]:
            layout = _layout(entry, gpu, about)
            if layout is not None:
                wanted[gpu.uuid] = layout
    return wanted


def placed(mig: Mig, counts: Mapping[str, int]) -> tuple[Part, ...] | None:
    """Places for so many instances of these profiles on an empty GPU, by place; None if they do not all fit. Every
    profile must be the GPU's."""
    known = {profile.name: profile for profile in mig.profiles}
    if any(count > known[name].most for name, count in counts.items()):
        return None
    listed = [known[name] for name, count in counts.items() for _ in range(count)]
    listed.sort(key=lambda profile: (-profile.memory_slices, -profile.slices, profile.name))
    found = _search(mig, listed, dict(counters.total(mig)), None)
    return tuple(sorted(found, key=lambda part: part[1])) if found is not None else None


def counted(instances: Iterable[MigInstance]) -> Counter[int]:
    """How many instances there are of each profile, by its id."""
    return Counter(each.profile_id for each in instances)


def _search(mig: Mig, left: list[MigProfile], free: Mapping[str, int], before: Part | None) -> list[Part] | None:
    """The first of `left` at each of its places, highest first, and the rest beside it. Equal ones are placed downwards
    only, so that no layout is tried twice."""
    if not left:
        return []
    profile, rest = left[0], left[1:]
    for where in sorted(profile.placements, reverse=True):
        if before is not None and before[0] is profile and where >= before[1]:
            continue
        taken = counters.drawn(mig, profile, where)
        if not counters.fits(taken, free):
            continue
        remaining = {name: amount - taken.get(name, 0) for name, amount in free.items()}
        found = _search(mig, rest, remaining, (profile, where))
        if found is not None:
            return [(profile, where), *found]
    return None


def _layout(entry: Selection, gpu: Gpu, about: str) -> Layout | None:
    """None for a GPU that has no MIG and is not asked to have it."""
    mig = gpu.mig
    if mig is None or gpu.virtual or not mig.profiles:
        if entry.enabled and entry.devices is not None:
            raise LayoutRefused(
                f"{about}: GPU {gpu.index} ({gpu.product}) cannot be cut into MIG instances; leave it out of devices."
            )
        return None
    known = {profile.name: profile for profile in mig.profiles}
    for name, _ in entry.counts:
        if name not in known:
            raise LayoutRefused(
                f"{about}: GPU {gpu.index} ({gpu.product}) has no profile {name}; it has {', '.join(known)}. Take one "
                "of these, or give boards of another kind an entry of their own (device-filter)."
            )
    counts = dict(entry.counts)
    if all(each.uuid for each in mig.instances):
        there = counted(mig.instances)
        if there == Counter({known[name].id: count for name, count in counts.items()}):
            kept = ((known_by_id(mig)[each.profile_id], each.placement) for each in mig.instances)
            return Layout(enabled=entry.enabled, parts=tuple(sorted(kept, key=lambda part: part[1])))
    parts = placed(mig, counts)
    if parts is None:
        wanted = " + ".join(f"{count} x {name}" for name, count in entry.counts)
        most = ", ".join(f"{known[name].most} x {name}" for name in counts)
        raise LayoutRefused(
            f"{about}: {wanted} do not fit together on GPU {gpu.index} ({gpu.product}), which holds {most} at most, "
            "each alone; take fewer."
        )
    return Layout(enabled=entry.enabled, parts=parts)


def known_by_id(mig: Mig) -> Mapping[int, MigProfile]:
    """A GPU's profiles by their ids."""
    return {profile.id: profile for profile in mig.profiles}


def _meant(entries: Iterable[Selection]) -> list[tuple[bool, frozenset[tuple[str, int]]]]:
    return [(entry.enabled, frozenset(entry.counts)) for entry in entries]


# --- the file ---


class _Strict(yaml.SafeLoader):
    """A key that comes twice is an error: what came first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} comes twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _config(listed: object, about: str) -> tuple[Selection, ...]:
    if not isinstance(listed, list) or not listed:
        raise LayoutRefused(f"{about}: is no list of entries; give one at least, with devices and mig-enabled.")
    return tuple(_entry(each, f"{about}, entry {number}") for number, each in enumerate(listed, 1))


def _entry(entry: object, about: str) -> Selection:
    if not isinstance(entry, dict):
        raise LayoutRefused(f"{about}: is no map; write devices, mig-enabled and mig-devices.")
    _only(entry, _ENTRY, about)
    for field in ("devices", "mig-enabled"):
        if field not in entry:
            raise LayoutRefused(f"{about}: {field} is missing; add it.")
    enabled, counts = entry["mig-enabled"], entry.get("mig-devices")
    if not isinstance(enabled, bool):
        raise LayoutRefused(f"{about}: mig-enabled is {enabled!r}; write true or false.")
    if enabled and counts is None:
        raise LayoutRefused(f"{about}: mig-devices is missing; write {{}} for GPUs that are to stay uncut.")
    if not enabled and counts:
        raise LayoutRefused(f"{about}: has mig-devices although mig-enabled is false; remove them, or enable MIG.")
    return Selection(
        filters=_filters(entry.get("device-filter"), about),
        devices=_devices(entry["devices"], about),
        enabled=enabled,
        counts=_counts(counts or {}, about),
    )


def _filters(value: object, about: str) -> tuple[str, ...]:
    listed = value if isinstance(value, list) else [] if value in (None, "") else [value]
    # YAML reads a hexadecimal number without quotes as a number.
    texts = [f"0x{each:08X}" if type(each) is int else str(each).upper().replace("0X", "0x") for each in listed]
    for written, text in zip(listed, texts, strict=True):
        if not _PCI.fullmatch(text):
            raise LayoutRefused(
                f"{about}: device-filter {written!r} is no PCI id; write device and vendor, as 0x233010DE, and a "
                "subsystem after a colon where it matters."
            )
    return tuple(texts)


def _devices(value: object, about: str) -> tuple[int, ...] | None:
    if value == ALL:
        return None
    if isinstance(value, list) and all(type(each) is int and each >= 0 for each in value):
        return tuple(value)
    raise LayoutRefused(f"{about}: devices is {value!r}; write all, or a list of GPU indexes, as [0, 1].")


def _counts(value: object, about: str) -> tuple[tuple[str, int], ...]:
    if not isinstance(value, dict):
        raise LayoutRefused(f"{about}: mig-devices is {value!r}; write a count by profile, as {{1g.10gb: 7}}.")
    for name, count in value.items():
        match = _PROFILE.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            raise LayoutRefused(f"{about}: {name!r} is no MIG profile; write it as nvidia-smi does, as 3g.40gb.")
        if match["compute"]:
            raise LayoutRefused(
                f"{about}: {name} is a part of a GPU instance's compute slices, which is not made here; take "
                f"{name.removeprefix(match['compute'])}."
            )
        if type(count) is not int or count < 0:
            raise LayoutRefused(f"{about}: {name} has count {count!r}; write a whole number.")
    return tuple((name, count) for name, count in value.items() if count)


def _only(document: Mapping[Any, Any], fields: tuple[str, ...], about: str) -> None:
    for name in document:
        if name not in fields:
            raise LayoutRefused(f"{about}: there is no field {name}; remove it, or use one of {', '.join(fields)}.")
