"""A backlog of pods on a real control plane: bound by us, by kube-scheduler, and by a bare writer that only writes.

All pods and claims are there, and the contestant has read them, when it gets the Lease. The time from that moment until
the last pod is seen bound is what counts; the latency of a pod is from then, too. Every run has its own control plane.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import psutil

from scheduler.api import kinds
from scheduler.api.kinds import Kind
from scheduler.kube import identity
from scheduler.kube.client import Client
from tests.perf.backlog import Load, furnish, pile_up
from tests.perf.contestants import CONTESTANTS, Contestant
from tests.perf.processes import cpu, peak_mb, until_quiet
from tests.real.control_plane import ControlPlane, programs, write_kubeconfig
from tests.real.install import install
from tests.real.remote import Remote

GATES = "GenericWorkload=true,GangScheduling=true"
_OPTIONS = {"kube-apiserver": ("--runtime-config=scheduling.k8s.io/v1alpha2=true",)}
_PATIENCE_SECONDS = 600

LOADS = {
    "claims": lambda nodes, pods: Load(nodes=nodes, pods=pods, claims=True),
    "gangs": lambda nodes, pods: Load(nodes=nodes, pods=pods, claims=True, gang=8),
    "plain": lambda nodes, pods: Load(nodes=nodes, pods=pods, claims=False),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--pods", type=int, default=1000)
    parser.add_argument("--load", choices=list(LOADS), action="append", help="repeatable; without it claims")
    parser.add_argument("--only", choices=list(CONTESTANTS), action="append", help="repeatable; without it all")
    parser.add_argument("--runs", type=int, default=1, help="of each; figures are medians")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of ours")


def run(options: argparse.Namespace) -> dict[str, Any]:
    assets = programs()
    if assets is None:
        raise SystemExit("there is no control plane to be had")
    figures: dict[str, Any] = {"nodes": options.nodes, "pods": options.pods}
    for named in options.load or ["claims"]:
        load = LOADS[named](options.nodes, options.pods)
        figures[named] = {}
        for name in options.only or CONTESTANTS:
            found = [_in_a_new_cluster(assets, load, CONTESTANTS[name], options.set) for _ in range(options.runs)]
            figures[named][name] = _medians(found)
            sys.stderr.write(f"{named}, {name}: {[each['pods a second'] for each in found]} pods a second\n")
        figures[named] |= _ratios(figures[named])
    return figures


def _in_a_new_cluster(assets: Path, load: Load, contestant: Contestant, settings: list[str]) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="tutti-versus-", ignore_cleanup_errors=True))
        )
        plane = stack.enter_context(ControlPlane(assets, folder, gates=GATES, options=_OPTIONS))
        return asyncio.run(_race(assets, plane, load, contestant, settings))


async def _race(
    assets: Path, plane: ControlPlane, load: Load, contestant: Contestant, settings: list[str]
) -> dict[str, Any]:
    async with Remote(await identity.load(plane.admin)) as api:
        tutti = write_kubeconfig(plane.folder / "tutti", plane.server, await install(api), plane.certificate)
    async with await Client.connect(plane.admin) as client:
        await furnish(client, load)
        await client.create(kinds.LEASE, contestant.lease[0], _lease(contestant))
        await pile_up(client, load, contestant.scheduler_name)
        command = contestant.command(assets, plane.admin, tutti, settings)
        with contestant.running(command, plane.folder / "contestant.log") as process:
            everybody = {"contestant": psutil.Process(process.pid), **_programs(plane)}
            await until_quiet(everybody.values())
            before = {name: cpu(each) for name, each in everybody.items()}
            _, version = await client.list_raw(kinds.POD)
            seeing = asyncio.create_task(_all_bound(_events(client, kinds.POD, _PodEvent, version), load.pods))
            version = await _let_go(client, contestant)
            leases = _events(client, kinds.LEASE, _LeaseEvent, version)
            async with asyncio.timeout(_PATIENCE_SECONDS):
                began = await _first(leases, lambda lease: _holds(lease, contestant))
                bound = await seeing
            spent = {name: round(cpu(each) - before[name], 2) for name, each in everybody.items()}
            return _figures(load, began, bound, spent, peak_mb(everybody["contestant"].pid))


def _figures(load: Load, began: float, bound: dict[str, float], cpu: dict[str, float], peak: int) -> dict[str, Any]:
    after = sorted(moment - began for moment in bound.values())
    return {
        "pods a second": round(load.pods / after[-1], 1),
        "seconds to the first": round(after[0], 2),
        "latency p50 seconds": round(after[len(after) // 2], 2),
        "latency p99 seconds": round(after[int(len(after) * 0.99)], 2),
        "seconds to the last": round(after[-1], 2),
        "cpu seconds": cpu,
        "peak memory MB": peak,
    }


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Figure by figure."""
    return {
        name: _medians([each[name] for each in runs])
        if isinstance(value, dict)
        else round(statistics.median(each[name] for each in runs), 2)
        for name, value in runs[0].items()
    }


def _ratios(found: dict[str, Any]) -> dict[str, float]:
    rates = {name: figures["pods a second"] for name, figures in found.items()}
    ours = rates.pop("tutti", None)
    return {f"ours in {name}s": round(ours / rate, 2) for name, rate in rates.items()} if ours else {}


# --- the Lease ---


def _lease(contestant: Contestant) -> dict[str, Any]:
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
    spec = {"holderIdentity": "starter", "leaseDurationSeconds": 3600, "acquireTime": now, "renewTime": now}
    namespace, name = contestant.lease
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


async def _let_go(client: Client, contestant: Contestant) -> str:
    """Nobody holds the Lease from now on; the version of that."""
    free = {"spec": {"holderIdentity": "", "leaseDurationSeconds": 1}}
    lease = await client.patch(kinds.LEASE, *contestant.lease, free)
    return str(lease["metadata"]["resourceVersion"])


class _Meta(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    version: str = msgspec.field(default="", name="resourceVersion")


class _LeaseSpec(msgspec.Struct):
    holder: str | None = msgspec.field(default=None, name="holderIdentity")


class _Lease(msgspec.Struct):
    metadata: _Meta
    spec: _LeaseSpec


class _LeaseEvent(msgspec.Struct):
    object: _Lease


class _PodSpec(msgspec.Struct):
    node: str = msgspec.field(default="", name="nodeName")


class _Pod(msgspec.Struct):
    metadata: _Meta
    spec: _PodSpec


class _PodEvent(msgspec.Struct):
    object: _Pod


def _holds(event: _LeaseEvent, contestant: Contestant) -> bool:
    meta, holder = event.object.metadata, event.object.spec.holder
    return (meta.namespace, meta.name) == contestant.lease and holder not in (None, "", "starter")


# --- what is seen ---

Events = AsyncIterator[tuple[float, Any]]


async def _events(client: Client, kind: Kind, type_: type[Any], version: str) -> Events:
    """The events of a kind since that version, with the time when each was seen; a watch that ends is gone on with."""
    decoder = msgspec.json.Decoder(type_)
    while True:
        rest = b""
        async with client.watch(kind, {"resourceVersion": version}, silence_seconds=600) as chunks:
            async for chunk in chunks:
                *lines, rest = (rest + chunk).split(b"\n")
                now = time.perf_counter()
                for line in lines:
                    event = decoder.decode(line)
                    version = event.object.metadata.version
                    yield now, event


async def _first(events: Events, holds: Callable[[Any], bool]) -> float:
    async for moment, event in events:
        if holds(event):
            return moment
    raise RuntimeError("the watch ended early")


async def _all_bound(events: Events, pods: int) -> dict[str, float]:
    """When each pod was first seen bound, as soon as all are."""
    bound: dict[str, float] = {}
    async for moment, event in events:
        if cast(_PodEvent, event).object.spec.node:
            bound.setdefault(event.object.metadata.name, moment)
            if len(bound) == pods:
                return bound
    raise RuntimeError("the watch ended early")


# --- processes ---


def _programs(plane: ControlPlane) -> dict[str, psutil.Process]:
    """The programs of the control plane by name."""
    running = psutil.Process().children()
    return {each.name(): each for each in running if str(plane.folder) in " ".join(each.cmdline()) and _serves(each)}


def _serves(process: psutil.Process) -> bool:
    return process.name() in ("etcd", "kube-apiserver", "kube-controller-manager")
