"""Nodes that are alike: what of a node's devices can matter to an allocation, as a short digest.

Two nodes of equal shape publish the same devices in the same order, up to names. Attributes that only tell devices
apart count by pattern: it matters which devices share an NVLink domain, not what the domain is called.
"""

import hashlib
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache

from scheduler.api.dra import DeviceAttribute
from scheduler.dra.devices import Device, values_of
from scheduler.dra.views import NodeDevices

EVERY_ATTRIBUTE = "*"
"""In a set of attribute names: all of them, because an expression goes through the whole map."""

# Identifiers of attributes that tell one device, board, link domain or bus from its like, in any driver's domain.
TELLING_APART = frozenset(
    {
        "uuid", "parentUUID", "serial", "index", "minor", "nvlinkDomain", "cliqueID", "chassisSerial", "pciBusID",
        "pcieRoot", "pciAddr", "pciAddress", "parentPciAddr", "parentDeviceID", "deviceID", "cardIndex", "renderIndex",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """`kinds`: per device a number that interchangeable devices of the node share. `digest`: equal for equal shapes."""

    digest: str
    kinds: tuple[int, ...]


def shape(view: NodeDevices, reads: frozenset[str]) -> Shape:
    """The shape of a node's devices for claims whose selectors read the attributes `reads` (fully qualified)."""
    by_value = telling(reads)
    key = ("shape", by_value)
    known = view.memo.get(key)
    if known is None:
        known = view.remember(key, _shape(view, by_value))
    assert isinstance(known, Shape)
    return known


@lru_cache(maxsize=256)
def telling(reads: frozenset[str]) -> frozenset[str]:
    """Those of the names that would count by pattern if they were not read; all others count by value anyway."""
    return frozenset(n for n in reads if n == EVERY_ATTRIBUTE or n.rpartition("/")[2] in TELLING_APART)


def _shape(view: NodeDevices, reads: frozenset[str]) -> Shape:
    pools = {pool: number for number, pool in enumerate(view.pools)}
    sharing: Counter[Hashable] = Counter()
    contents: list[tuple[str, list[tuple[str, Hashable]]]] = []
    for device, taints in zip(view.devices, view.taints, strict=True):
        exact_names, pattern_names = _parted(tuple(device.attributes), reads)
        attributes = device.attributes
        exact = _digest(
            (
                device.id.driver,
                pools[device.id.driver, device.id.pool],
                device.consumes,
                tuple([(name, c.value, c.policy) for name, c in device.capacity.items()]),
                tuple([(taint.key, taint.value, taint.effect) for taint in taints]),
                (device.shareable, bool(device.published.binding_conditions)),
                device.id if device.id in view.avoided else None,
                tuple([(name, _value(attributes[name])) for name in exact_names]),
            )
        )
        patterns: list[tuple[str, Hashable]] = [(name, _value(attributes[name])) for name in pattern_names]
        sharing.update(patterns)
        contents.append((exact, patterns))
    first_seen: dict[Hashable, int] = {}
    kinds: dict[Hashable, int] = {}
    unfinished = sorted(pool.partition("/")[0] for pool in view.incomplete)
    lines: list[object] = [sorted(_totals(view, pools)), len(view.invalid), unfinished, view.beyond]
    kind_of = []
    for number, (exact, patterns) in enumerate(contents):
        seen = [(part[0], first_seen.setdefault(part, number)) for part in patterns]
        lines.append((exact, seen))
        shared = tuple([(part[0], part[1] if sharing[part] > 1 else None) for part in patterns])
        kind_of.append(kinds.setdefault((exact, shared), len(kinds)))
    return Shape(digest=_digested(repr(lines)), kinds=tuple(kind_of))


@lru_cache(maxsize=4096)
def _parted(attributes: tuple[str, ...], reads: frozenset[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of attributes, sorted: those that count by value, and those that count by pattern."""
    by_pattern = {name for name in attributes if _by_pattern(name, reads)}
    return tuple(sorted({*attributes} - by_pattern)), tuple(sorted(by_pattern))


@lru_cache(maxsize=16_384)
def _digest(content: Hashable) -> str:
    """Other than a hash, the same in every process. Most devices of a cluster are of one kind."""
    return _digested(repr(content))


def _digested(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _value(attribute: DeviceAttribute) -> Hashable:
    """Equal for what matchAttribute takes for equal: a string and the list of just that. Nearly all are strings."""
    if attribute.string is not None:
        return attribute.string
    values = values_of(attribute)
    return values[1][0] if values is not None and values[0] == "string" and len(values[1]) == 1 else values


def _by_pattern(name: str, reads: frozenset[str]) -> bool:
    return name.rpartition("/")[2] in TELLING_APART and name not in reads and EVERY_ATTRIBUTE not in reads


def _totals(view: NodeDevices, pools: dict[tuple[str, str], int]) -> list[tuple[int, str, str, str]]:
    return [(pools[key[0], key[1]], key[2], key[3], str(value)) for key, value in view.counters.items()]


def interchangeable(device: Device) -> bool:
    """Whether the state of this device is just taken or free: no counters that others feel, no shares."""
    return not device.consumes and not device.shareable
