"""Opaque configs of a claim and its class -> Settings of a device. Pure.

NVIDIA's kinds (`resource.nvidia.com/v1beta1`) mean here what they mean there, and are decoded as strictly; beside them
stands our own, `DeviceConfig` (`tutti.scheduler/v1alpha1`), which also knows the exclusive use of a GPU and the limits
of a claim's processes. A config takes effect whole: nothing of a weaker one shows through a stronger.

Precedence, as NVIDIA's driver has it: defaults, then the class's configs, then the claim's; of those that apply the
last one wins. One that names requests must suit their devices; one that names none applies where it suits.
Source: github.com/kubernetes-sigs/dra-driver-nvidia-gpu, API resource.nvidia.com/v1beta1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import msgspec

from dra_driver.devices import Kind, Settings, Sharing
from scheduler.api import quantity
from scheduler.api.dra import DeviceAllocationConfiguration

NVIDIA = "resource.nvidia.com/v1beta1"
OURS = "tutti.scheduler/v1alpha1"
# What the API server allows opaque parameters to be (resource.k8s.io/v1, OpaqueParametersMaxLength).
MOST_BYTES = 10 * 1024
MEBIBYTE = 1 << 20

_PLAIN = Settings()
_SOURCES = ("FromClass", "FromClaim")
_INTERVALS = {"Default": 0, "Short": 1, "Medium": 2, "Long": 3}


class ConfigRefused(ValueError):
    """A config that cannot be followed: which one, what is wrong with it, and what would be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a device stands in its claim. `request`: as the result names it ("main" or "main/sub"); `index`: the number
    of the device among the claim's; `uuid`: empty for an instance that is not there yet."""

    request: str
    kind: Kind
    index: int = 0
    uuid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One config, decoded. `what`: its name for words to the user; `suits`: kinds of devices it is for; `per_device`:
    limits of memory by index or UUID; `unserved`: why what it asks for cannot be had here at all."""

    suits: tuple[Kind, ...]
    what: str = ""
    requests: tuple[str, ...] = ()
    settings: Settings = _PLAIN
    per_device: tuple[tuple[str, int], ...] = ()
    unserved: str = ""


def configs(entries: Sequence[DeviceAllocationConfiguration], driver: str) -> tuple[Config, ...]:
    """The configs of this driver in an allocation, weakest first. Raises ConfigRefused for any that cannot be read,
    also where it would not take effect: what a user wrote is right or refused."""
    found: list[tuple[int, Config]] = []
    for number, entry in enumerate(entries):
        if entry.opaque is None or entry.opaque.driver != driver:
            continue
        what = f"config {number}" + (f" ({entry.source})" if entry.source else "")
        if entry.source not in _SOURCES:
            raise ConfigRefused(f"{what}: source {entry.source!r} is not known; it is FromClass or FromClaim")
        raw = bytes(entry.opaque.parameters)
        found.append((_SOURCES.index(entry.source), decode(raw, requests=entry.requests or (), what=what)))
    return tuple(config for _, config in sorted(found, key=lambda pair: pair[0]))


def settings(found: Sequence[Config], place: Place, places: Sequence[Place]) -> Settings:
    """What is asked of the device at `place`; `places`: those of all devices of the claim, in its order.

    Raises ConfigRefused where a config names the device's request and is not for its kind, or gives limits to devices
    that it is not for."""
    config = _winner(found, place)
    if config is None:
        return Settings()
    if not config.per_device:
        return config.settings
    governed = [other for other in places if _winner(found, other) is config]
    limit = _limit_of(config, place, governed)
    if limit is None:
        return config.settings
    return replace(config.settings, memory_bytes=limit)


def _winner(found: Sequence[Config], place: Place) -> Config | None:
    """The last config that applies to a device."""
    for config in reversed(found):
        named = any(place.request == name or place.request.startswith(name + "/") for name in config.requests)
        if named and place.kind not in config.suits:
            raise ConfigRefused(_misfit(config, place))
        if named or (not config.requests and place.kind in config.suits):
            return config
    return None


def _misfit(config: Config, place: Place) -> str:
    if config.unserved:
        return f"{config.what}: {config.unserved}"
    kinds = " or ".join(kind.value for kind in config.suits)
    return (
        f"{config.what} names request {place.request}, which was given a device of type {place.kind.value}, and is for "
        f"type {kinds}; name other requests in it, or use the kind of config for {place.kind.value}"
    )


def _limit_of(config: Config, place: Place, governed: Sequence[Place]) -> int | None:
    """The limit that names one device. An index counts the devices that the config governs, in the claim's order."""
    order = {other.index: number for number, other in enumerate(governed)}
    uuids = {other.uuid for other in governed if other.uuid}
    limit = None
    for key, amount in config.per_device:
        if key.isdecimal() and int(key) < len(governed):
            mine = int(key) == order[place.index]
        elif key in uuids:
            mine = key == place.uuid
        else:
            raise ConfigRefused(
                f"{config.what}: sharing.mpsConfig.defaultPerDevicePinnedMemoryLimit has the key {key!r}, and the "
                f"config is for {len(governed)} device(s) of the claim; write an index from 0 to {len(governed) - 1}, "
                "or the UUID of one that already exists"
            )
        limit = amount if mine else limit
    return limit


# Decoding. A reader takes a JSON value and the path of its field, and raises ConfigRefused in words about that field.
Reader = Callable[[object, str], object]


def decode(raw: bytes, *, requests: tuple[str, ...] = (), what: str = "config") -> Config:
    """One config, from its parameters as JSON. Raises ConfigRefused; `what` says in its words which config it is."""
    try:
        if len(raw) > MOST_BYTES:
            raise ConfigRefused(f"parameters of {len(raw)} bytes; at most {MOST_BYTES} are allowed: write less")
        try:
            document = msgspec.json.decode(raw)
        except msgspec.DecodeError as error:
            raise ConfigRefused(f"parameters are no JSON ({error}); write a JSON object") from None
        if not isinstance(document, dict):
            raise ConfigRefused(f"parameters are {_shown(document)}; write an object with apiVersion and kind")
        version, kind = document.get("apiVersion"), document.get("kind")
        read = _KINDS.get((version, kind)) if isinstance(version, str) and isinstance(kind, str) else None
        if read is None:
            known = ", ".join(f"{name} ({group})" for group, name in _KINDS)
            raise ConfigRefused(f"apiVersion {_shown(version)}, kind {_shown(kind)} is not known; known are {known}")
        what = f"{what}: {kind}"
        return replace(read(document), requests=requests, what=what)
    except ConfigRefused as refused:
        raise ConfigRefused(f"{what}: {refused}") from None


def _gpu(document: Mapping[str, object]) -> Config:
    sharing = _part(document, "sharing", _GPU_SHARING)
    return _shared(sharing, (Kind.GPU,))


def _mig(document: Mapping[str, object]) -> Config:
    return _shared(_part(document, "sharing", _MIG_SHARING), (Kind.MIG,))


def _shared(sharing: Mapping[str, object] | None, suits: tuple[Kind, ...]) -> Config:
    """NVIDIA's block `sharing`; without it the device is used as it is."""
    if sharing is None:
        return Config(suits=suits)
    strategy = sharing.get("strategy")
    if strategy is None:
        raise ConfigRefused("sharing.strategy is missing; write TimeSlicing or MPS")
    other = "mpsConfig" if strategy == "TimeSlicing" else "timeSlicingConfig"
    if other in sharing:
        raise ConfigRefused(
            f"sharing.{other} does not belong to strategy {strategy}; remove it, or change the strategy"
        )
    if strategy == "TimeSlicing":
        slices = cast(Mapping[str, int], sharing.get("timeSlicingConfig") or {})
        time_slice = slices.get("interval", 0)
        return Config(suits=suits, settings=Settings(sharing=Sharing.TIME_SLICING, time_slice=time_slice))
    mps = cast(Mapping[str, object], sharing.get("mpsConfig") or {})
    return Config(
        suits=suits,
        per_device=cast(tuple[tuple[str, int], ...], mps.get("defaultPerDevicePinnedMemoryLimit", ())),
        settings=Settings(
            sharing=Sharing.MPS,
            # The daemon takes 0 for its own default, which is no limit.
            threads_percent=cast(int | None, mps.get("defaultActiveThreadPercentage")) or None,
            memory_bytes=cast(int | None, mps.get("defaultPinnedDeviceMemoryLimit")),
            multi_user=bool(mps.get("multiUser", False)),
        ),
    )


def _vfio(document: Mapping[str, object]) -> Config:
    _part(document, "iommu", {"backendPolicy": _one_of("LegacyOnly", "PreferIommuFD"), "enableAPIDevice": _flag})
    unserved = (
        "passthrough of a GPU to a virtual machine (vfio) is not served by this driver; request a device of type gpu "
        "or mig, and remove this config"
    )
    return Config(suits=(), unserved=unserved)


def _channel(document: Mapping[str, object]) -> Config:
    fields = {"domainID": _text, "allocationMode": _one_of("Single", "All")}
    read = _object(document, "", {**_HEAD, **fields})
    domain = _needed(read, "domainID", "the UID of a ComputeDomain")
    every = read.get("allocationMode") == "All"
    return Config(suits=(Kind.CHANNEL,), settings=Settings(domain=domain, every_channel=every))


def _daemon(document: Mapping[str, object]) -> Config:
    read = _object(document, "", {**_HEAD, "domainID": _text})
    _needed(read, "domainID", "the UID of a ComputeDomain")
    unserved = (
        "an IMEX daemon in a pod is not served by this driver, which hands out the channels of the host's own IMEX "
        "service; start nvidia-imex on the host, and remove this config and its request"
    )
    return Config(suits=(), unserved=unserved)


def _ours(document: Mapping[str, object]) -> Config:
    """DeviceConfig: sharing {strategy: None|TimeSlicing|MPS|Exclusive, interval, multiUser}, limits {threadsPercent,
    memory}. Exclusive, and time slices of another length than the driver's, are for whole GPUs."""
    read = _object(document, "", {**_HEAD, "sharing": _block(_OUR_SHARING), "limits": _block(_LIMITS)})
    sharing = cast(Mapping[str, object], read.get("sharing", {}))
    limits = cast(Mapping[str, int], read.get("limits", {}))
    strategy = cast(Sharing, sharing.get("strategy", Sharing.NONE))
    if "interval" in sharing and strategy is not Sharing.TIME_SLICING:
        raise ConfigRefused("sharing.interval is for strategy TimeSlicing; remove it, or change the strategy")
    if strategy is not Sharing.MPS and ("multiUser" in sharing or limits):
        field = "sharing.multiUser" if "multiUser" in sharing else f"limits.{min(limits)}"
        raise ConfigRefused(f"{field} is kept by MPS alone; write sharing.strategy MPS, or remove it")
    interval = cast(int, sharing.get("interval", 0))
    return Config(
        suits=(Kind.GPU,) if strategy is Sharing.EXCLUSIVE or interval else (Kind.GPU, Kind.MIG),
        settings=Settings(
            sharing=strategy,
            time_slice=interval,
            threads_percent=limits.get("threadsPercent"),
            memory_bytes=limits.get("memory"),
            multi_user=bool(sharing.get("multiUser", False)),
        ),
    )


def _object(value: object, path: str, fields: Mapping[str, Reader]) -> dict[str, object]:
    """An object's fields, read; null is as absent. An unknown field is refused, with the names of the known."""
    if not isinstance(value, dict):
        raise ConfigRefused(f"{path} is {_shown(value)}; write an object with {', '.join(sorted(fields))}")
    read: dict[str, object] = {}
    for name, part in value.items():
        full = f"{path}.{name}" if path else name
        if name not in fields:
            raise ConfigRefused(f"{full} is not a field; {path or 'it'} has {', '.join(sorted(fields))}")
        if part is not None:
            read[name] = fields[name](part, full)
    return read


def _block(fields: Mapping[str, Reader]) -> Reader:
    return lambda value, path: _object(value, path, fields)


def _part(document: Mapping[str, object], name: str, fields: Mapping[str, Reader]) -> Mapping[str, object] | None:
    """The one block of a config that has just one beside its head."""
    return cast("Mapping[str, object] | None", _object(document, "", {**_HEAD, name: _block(fields)}).get(name))


def _needed(read: Mapping[str, object], name: str, meaning: str) -> str:
    value = read.get(name)
    if not value:
        raise ConfigRefused(f"{name} is missing or empty; write {meaning}")
    return str(value)


def _text(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise ConfigRefused(f"{path} is {_shown(value)}; write a text")
    return value


def _flag(value: object, path: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigRefused(f"{path} is {_shown(value)}; write true or false")
    return value


def _one_of(*words: str) -> Reader:
    def read(value: object, path: str) -> object:
        if value not in words:
            raise ConfigRefused(f"{path} is {_shown(value)}; write {', '.join(words[:-1])} or {words[-1]}")
        return value

    return read


def _named(table: Mapping[str, object]) -> Reader:
    """One of the words of a table, and what it stands for."""
    words = _one_of(*table)
    return lambda value, path: table[cast(str, words(value, path))]


def _whole(least: int, most: int) -> Reader:
    def read(value: object, path: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ConfigRefused(f"{path} is {_shown(value)}; write a whole number from {least} to {most}")
        return value

    return read


def _memory(value: object, path: str) -> int:
    """Bytes, in whole MiB: what the daemon can be told."""
    try:
        if not isinstance(value, str | int):
            raise quantity.QuantityError("it is neither text nor number")
        amount = quantity.units(value)
    except quantity.QuantityError:
        raise ConfigRefused(f"{path} is {_shown(value)}; write a quantity of memory, such as 10Gi") from None
    if amount < MEBIBYTE:
        raise ConfigRefused(f"{path} is {_shown(value)}; write 1Mi or more")
    return amount // MEBIBYTE * MEBIBYTE


def _per_device(value: object, path: str) -> tuple[tuple[str, int], ...]:
    if not isinstance(value, dict):
        raise ConfigRefused(
            f"{path} is {_shown(value)}; write an object: index or UUID of a device -> quantity of memory"
        )
    return tuple((key, _memory(amount, f"{path}[{key}]")) for key, amount in sorted(value.items()))


def _shown(value: object) -> str:
    """A value as the user wrote it, cut to a length that a line bears."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."


_HEAD: Mapping[str, Reader] = {"apiVersion": _text, "kind": _text}
_MPS: Mapping[str, Reader] = {
    "defaultActiveThreadPercentage": _whole(0, 100),
    "defaultPinnedDeviceMemoryLimit": _memory,
    "defaultPerDevicePinnedMemoryLimit": _per_device,
    "multiUser": _flag,
}
_MIG_SHARING: Mapping[str, Reader] = {"strategy": _one_of("TimeSlicing", "MPS"), "mpsConfig": _block(_MPS)}
_GPU_SHARING: Mapping[str, Reader] = {
    **_MIG_SHARING,
    "timeSlicingConfig": _block({"interval": _named(_INTERVALS)}),
}
_STRATEGIES = {
    "None": Sharing.NONE,
    "TimeSlicing": Sharing.TIME_SLICING,
    "MPS": Sharing.MPS,
    "Exclusive": Sharing.EXCLUSIVE,
}
_OUR_SHARING: Mapping[str, Reader] = {
    "strategy": _named(_STRATEGIES),
    "interval": _named(_INTERVALS),
    "multiUser": _flag,
}
_LIMITS: Mapping[str, Reader] = {"threadsPercent": _whole(1, 100), "memory": _memory}
_KINDS: Mapping[tuple[str, str], Callable[[Mapping[str, object]], Config]] = {
    (NVIDIA, "GpuConfig"): _gpu,
    (NVIDIA, "MigDeviceConfig"): _mig,
    (NVIDIA, "VfioDeviceConfig"): _vfio,
    (NVIDIA, "ComputeDomainChannelConfig"): _channel,
    (NVIDIA, "ComputeDomainDaemonConfig"): _daemon,
    (OURS, "DeviceConfig"): _ours,
}
