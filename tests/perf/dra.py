"""Devices for claims, without a cluster: similar requests, selectors over many devices, MIG packing against first fit.

Times are of the CPU, one thread. Cold is the first time: the slices are decoded, nothing else is known about them, and
no selector is compiled. Warm is the next snapshot with the same slices, the median of several.
"""

import argparse
import heapq
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from scheduler.api import dra
from scheduler.devcluster.shapes import SHAPES, Machine
from scheduler.dra.allocate import Allocated, Ask, allocate
from scheduler.dra.counters import InUse
from scheduler.dra.pools import Inventory
from scheduler.dra.verdicts import selected
from scheduler.model.nodes import Node
from scheduler.model.workloads import Claim
from tests.published import CLASSES, DRIVER, NVLINK, claim, gpu, node, profile, request, slice_of

SIMILAR = 8
DEVICES_OF_A_SLICE = 128
SELECTORS = (
    f"device.driver == '{DRIVER}' && device.attributes['{DRIVER}'].productName.contains('H100')",
    f"device.capacity['{DRIVER}'].memory.compareTo(quantity('40Gi')) >= 0",
    f"device.attributes['{DRIVER}'].driverVersion.isGreaterThan(semver('550.0.0'))",
)
WARM_RUNS = 5


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--similar-devices", type=int, default=512, help="on the one node of the similar requests")
    parser.add_argument("--devices", type=int, default=10_000, help="that the selectors look at, eight on a node")
    parser.add_argument("--boards", type=int, default=32, help="that are cut by MIG, eight on a node")
    parser.add_argument("--arrivals", type=int, default=4_000)
    parser.add_argument("--load", type=float, default=0.9, help="memory slices asked for at once, of all there are")
    parser.add_argument("--streams", type=int, default=3, help="of arrivals, each with a seed of its own")


def run(options: argparse.Namespace) -> dict[str, Any]:
    return {
        f"{SIMILAR} similar requests over {options.similar_devices} devices, ms": _similar(options.similar_devices),
        f"{len(SELECTORS)} selectors over {options.devices} devices, ms": _selectors(options.devices),
        f"MIG, {options.boards} boards, {options.streams} x {options.arrivals} arrivals": _packing(options),
    }


def _milliseconds(do: Callable[[], object]) -> float:
    began = time.process_time()
    do()
    return round((time.process_time() - began) * 1000, 2)


# --- similar requests ---


def _similar(count: int) -> dict[str, dict[str, float]]:
    """Eight requests whose selectors differ in words only: served; with seven devices free; and to be of one NVLink
    domain, where no domain has more than seven."""
    wanted = [request(f"r{number}", f"'{number}' != '' && device.driver == '{DRIVER}'") for number in range(SIMILAR)]
    together = claim("similar", *wanted)
    free = tuple(gpu(number) for number in range(count))
    scattered = tuple(gpu(number, nvlinkDomain=f"domain-{number // (SIMILAR - 1)}") for number in range(count))
    names = [device.name for device in free[SIMILAR - 1 :]]
    return {
        "served": _asked(free, together, ()),
        "one device too few": _asked(free, together, names),
        "no domain large enough": _asked(scattered, claim("similar", *wanted, match=NVLINK), ()),
    }


def _asked(devices: Sequence[dra.Device], wanted: Claim, taken: Iterable[str]) -> dict[str, float]:
    slices = [
        slice_of("n1", *devices[first : first + DEVICES_OF_A_SLICE], name=f"s{first}", of=len(starts))
        for starts in [range(0, len(devices), DEVICES_OF_A_SLICE)]
        for first in starts
    ]
    results = (dra.DeviceRequestAllocationResult(request="r", driver=DRIVER, pool="n1", device=d) for d in taken)
    held = dra.AllocationResult(devices=dra.DeviceAllocationResult(results=tuple(results)))

    def answer() -> None:
        inventory = Inventory.of(slices, CLASSES)
        in_use = InUse(inventory)
        in_use.take(held)
        allocate(node("n1"), [Ask(claim=wanted)], inventory, in_use)

    cold = _milliseconds(answer)
    return {"cold": cold, "warm": statistics.median(_milliseconds(answer) for _ in range(WARM_RUNS))}


# --- selectors ---


def _selectors(count: int) -> dict[str, float]:
    machines = list(SHAPES["h100x8"].machines(count // 8))
    nodes, slices = _read(machines)

    def select() -> None:
        inventory = Inventory.of(slices, CLASSES)
        for each in nodes:
            view = inventory.on(each)
            for expression in SELECTORS:
                selected((expression,), view, inventory.features)

    return {
        "cold": _milliseconds(select),
        "warm": statistics.median(_milliseconds(select) for _ in range(WARM_RUNS)),
    }


def _read(machines: Iterable[Machine]) -> tuple[list[Node], list[dra.ResourceSlice]]:
    nodes, slices = [], []
    for machine in machines:
        nodes.append(node(machine.name))
        slices += [msgspec.json.decode(msgspec.json.encode(one), type=dra.ResourceSlice) for one in machine.slices]
    return nodes, slices


# --- MIG packing ---

# What arrives, how often of twenty, and how many memory slices it takes.
_MIX = {
    "1g.10gb": (8, 1),
    "1g.20gb": (2, 2),
    "2g.20gb": (4, 2),
    "3g.40gb": (3, 4),
    "4g.40gb": (1, 4),
    "7g.80gb": (2, 8),
}
_BOARD_SLICES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arrival:
    at: float
    leaves: float
    profile: str


@dataclass(slots=True)
class _Tally:
    """`counts`: served and asked by profile. `slice_time`: memory slices times how long, served and asked.

    `stranded`: per refusal although one node had slices enough, how many were free there, and of no use.
    """

    counts: dict[str, list[int]] = field(default_factory=lambda: {name: [0, 0] for name in _MIX})
    slice_time: list[float] = field(default_factory=lambda: [0.0, 0.0])
    stranded: list[int] = field(default_factory=list)

    def asked(self, arrival: _Arrival, *, served: bool) -> None:
        stay = (arrival.leaves - arrival.at) * _MIX[arrival.profile][1]
        for place in (0, 1) if served else (1,):
            self.counts[arrival.profile][place] += 1
            self.slice_time[place] += stay


def _packing(options: argparse.Namespace) -> dict[str, Any]:
    """The same streams for both. Only the choice of the devices differs: nodes are tried in order."""
    nodes, slices = _read(SHAPES["h100x8-mig"].machines(options.boards // 8))
    streams = [_arrivals(options, seed) for seed in range(1, options.streams + 1)]
    figures: dict[str, Any] = {"load": options.load}
    for name, first_fit in (("ours", False), ("first fit", True)):
        tally, spent = _Tally(), 0.0
        for stream in streams:
            spent += _milliseconds(partial(_serve, nodes, slices, stream, tally, first_fit))
        served, asked = (sum(counts[place] for counts in tally.counts.values()) for place in (0, 1))
        figures[name] = {
            "share of requests served": round(served / asked, 4),
            "by profile": {profile: round(got / of, 4) for profile, (got, of) in tally.counts.items()},
            "share of slice time served": round(tally.slice_time[0] / tally.slice_time[1], 4),
            "refused though one node had slices enough": len(tally.stranded),
            "slices stranded then, mean": round(statistics.mean(tally.stranded), 2) if tally.stranded else 0,
            "ms a request": round(spent / asked, 2),
        }
    return figures


def _arrivals(options: argparse.Namespace, seed: int) -> list[_Arrival]:
    """A Poisson stream with exponential stays of mean 1."""
    draw = random.Random(seed)
    names, weights = list(_MIX), [often for often, _ in _MIX.values()]
    mean = sum(often * taken for often, taken in _MIX.values()) / sum(weights)
    rate = options.load * options.boards * _BOARD_SLICES / mean
    now, stream = 0.0, []
    for _ in range(options.arrivals):
        now += draw.expovariate(rate)
        leaves = now + draw.expovariate(1)
        stream.append(_Arrival(at=now, leaves=leaves, profile=draw.choices(names, weights)[0]))
    return stream


def _serve(
    nodes: Sequence[Node],
    slices: Sequence[dra.ResourceSlice],
    stream: Sequence[_Arrival],
    tally: _Tally,
    first_fit: bool,
) -> None:
    """Each is served by the first node that can, or lost."""
    inventory = Inventory.of(slices, CLASSES)
    in_use = InUse(inventory)
    free = {each.name: len(inventory.on(each).counters) for each in nodes}
    leaving: list[tuple[float, int, str, dra.AllocationResult]] = []
    for number, arrival in enumerate(stream):
        while leaving and leaving[0][0] <= arrival.at:
            _, gone, where, allocation = heapq.heappop(leaving)
            in_use.give_back(allocation)
            free[where] += _MIX[stream[gone].profile][1]
        size = _MIX[arrival.profile][1]
        asks = [Ask(claim=claim(f"c{number}", request("mig", profile(arrival.profile), of="mig.nvidia.com")))]
        answers = ((each, allocate(each, asks, inventory, in_use, first_fit=first_fit)) for each in nodes)
        given = next(((each, answer) for each, answer in answers if isinstance(answer, Allocated)), None)
        tally.asked(arrival, served=given is not None)
        if given is not None:
            where, allocation = given[0].name, given[1].allocations[0]
            in_use.take(allocation)
            free[where] -= size
            heapq.heappush(leaving, (arrival.leaves, number, where, allocation))
        elif max(free.values()) >= size:
            tally.stranded.append(max(free.values()))
