"""The devices of one node as its drivers hand them out: what is prepared for which claim, and who is refused.

This is the last line behind every scheduler: it looks at devices, shares, capacity and counters by itself and trusts
no allocation. Source: KEP 4381, 4815 (counters), 5075 (consumable capacity).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from scheduler.api.quantity import parse
from scheduler.devcluster.admission import node_selector_matches
from scheduler.devcluster.mirror import key_of
from scheduler.devcluster.objects import Obj, field_of, name_of, uid_of

DeviceKey = tuple[str, str, str]  # driver, pool, device


class Fault(Enum):
    """Why a claim cannot be prepared."""

    FOREIGN = "foreign-device"
    TAKEN = "double-allocation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A fault and the sentence that names device and claims."""

    fault: Fault
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """The devices a node's drivers have, and what their counter sets hold: (driver, pool, set, counter) -> amount."""

    devices: Mapping[DeviceKey, Obj] = field(default_factory=dict)
    counters: Mapping[tuple[str, str, str, str], int] = field(default_factory=dict)


def catalogue(node: Obj, slices: Iterable[Obj]) -> Catalogue:
    """What is usable on this node of the newest generation of each pool.

    While that is not published in full, older ones count too: a driver at work on its slices has its devices.
    """
    ordered = sorted(slices, key=_generation)
    newest = {
        _pool(slice_): (_generation(slice_), int(slice_["spec"]["pool"]["resourceSliceCount"])) for slice_ in ordered
    }
    there = Counter(_pool(slice_) for slice_ in ordered if _generation(slice_) == newest[_pool(slice_)][0])
    devices: dict[DeviceKey, Obj] = {}
    counters: dict[tuple[str, str, str, str], int] = {}
    for slice_ in ordered:
        spec, pool = slice_["spec"], _pool(slice_)
        generation, count = newest[pool]
        if _generation(slice_) < generation and there[pool] >= count:
            continue
        for entry in spec.get("sharedCounters") or ():
            for name, counter in entry["counters"].items():
                counters[*pool, entry["name"], name] = _thousandths(counter["value"])
        for device in spec.get("devices") or ():
            if _is_on(device if spec.get("perDeviceNodeSelection") else spec, node):
                devices[*pool, device["name"]] = device
    return Catalogue(devices=devices, counters=counters)


def _pool(slice_: Obj) -> tuple[str, str]:
    return str(slice_["spec"]["driver"]), str(slice_["spec"]["pool"]["name"])


def _generation(slice_: Obj) -> int:
    return int(slice_["spec"]["pool"].get("generation") or 0)


def _is_on(place: Obj, node: Obj) -> bool:
    if place.get("allNodes"):
        return True
    if place.get("nodeSelector"):
        return node_selector_matches(place["nodeSelector"], node)
    return bool(place.get("nodeName") == name_of(node))


def _thousandths(quantity: str) -> int:
    return int(parse(quantity) * 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """What one claim holds: for each device the share ids it has of it ("" for the whole) with what each consumes."""

    name: str
    shares: Mapping[DeviceKey, Mapping[str, Mapping[str, int]]]


class Prepared:
    """All claims prepared on one node."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}
        self._holders: dict[DeviceKey, dict[str, None]] = {}

    def __contains__(self, claim_uid: str) -> bool:
        return claim_uid in self._held

    def claim_uids(self) -> list[str]:
        """The claims prepared now, sorted."""
        return sorted(self._held)

    def prepare(self, claim: Obj, stock: Catalogue) -> Problem | None:
        """Prepare an allocated claim, once; None when it is prepared now. Admin access takes nothing."""
        uid = uid_of(claim)
        if uid in self._held:
            return None
        shares: dict[DeviceKey, dict[str, dict[str, int]]] = {}
        for result in field_of(claim, "status", "allocation", "devices", "results") or ():
            key = (result["driver"], result["pool"], result["device"])
            if key not in stock.devices:
                text = f"device {'/'.join(key)} is not on this node"
                return Problem(fault=Fault.FOREIGN, message=f"claim {key_of(claim)}: {text}")
            if not result.get("adminAccess"):
                consumed = {name: _thousandths(value) for name, value in (result.get("consumedCapacity") or {}).items()}
                shares.setdefault(key, {})[str(result.get("shareID") or "")] = consumed
        held = _Held(name=key_of(claim), shares=shares)
        problem = self._conflict(held, stock)
        if problem is None:
            self._held[uid] = held
            for key in shares:
                self._holders.setdefault(key, {})[uid] = None
        return problem

    def unprepare(self, claim_uid: str) -> None:
        """Give back what the claim holds; without effect when it holds nothing."""
        held = self._held.pop(claim_uid, None)
        for key in held.shares if held is not None else ():
            del self._holders[key][claim_uid]
            if not self._holders[key]:
                del self._holders[key]

    def _conflict(self, asked: _Held, stock: Catalogue) -> Problem | None:
        for key, shares in asked.shares.items():
            others = [self._held[uid] for uid in self._holders.get(key, ())]
            for other in others:
                # A whole device goes to one claim; shares of one device go to many, each share once.
                if "" in shares or "" in other.shares[key] or shares.keys() & other.shares[key].keys():
                    return _taken(asked, key, f"is prepared for claim {other.name} already")
            if "" not in shares:
                over = _overdrawn(stock.devices[key], [shares, *(other.shares[key] for other in others)])
                if over:
                    return _taken(asked, key, f"has not that much {over} left beside what its other shares consume")
        return self._counters_overdrawn(asked, stock)

    def _counters_overdrawn(self, asked: _Held, stock: Catalogue) -> Problem | None:
        sets = {(*key[:2], name) for key in asked.shares for name in _sets(stock.devices[key])}
        if not sets:
            return None
        used: Counter[tuple[str, str, str, str]] = Counter()
        for key in self._holders.keys() | asked.shares.keys():
            for entry in stock.devices.get(key, {}).get("consumesCounters") or ():
                if (*key[:2], entry["counterSet"]) in sets:
                    for name, counter in entry["counters"].items():
                        used[*key[:2], entry["counterSet"], name] += _thousandths(counter["value"])
        for counter_key in sorted(used):
            if used[counter_key] > stock.counters.get(counter_key, 0):
                driver, pool, set_, name = counter_key
                first = min(key for key in asked.shares if (*key[:2],) == (driver, pool))
                return _taken(asked, first, f"needs {name} of {set_}, which is prepared for another claim already")
        return None


def _sets(device: Obj) -> list[str]:
    return [str(entry["counterSet"]) for entry in device.get("consumesCounters") or ()]


def _overdrawn(device: Obj, holders: list[Mapping[str, Mapping[str, int]]]) -> str:
    """The first capacity of which the shares together consume more than the device has, "" for none."""
    used: Counter[str] = Counter()
    for shares in holders:
        for consumed in shares.values():
            used.update(consumed)
    for name in sorted(used):
        if used[name] > _thousandths(field_of(device, "capacity", name, "value") or "0"):
            return name
    return ""


def _taken(asked: _Held, key: DeviceKey, why: str) -> Problem:
    return Problem(fault=Fault.TAKEN, message=f"claim {asked.name}: device {'/'.join(key)} {why}")
