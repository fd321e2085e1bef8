"""`python -m tests.contest --fence none|taint|rule|verify --allocations 10000`: Tutti and kube-scheduler on one real
control plane, with pods for devices of one class, until so many claims were allocated or the time is up.

`taint`: half of the nodes publish the taint of the fence; `rule`: DeviceTaintRules put it there; `none` and `verify`:
both schedulers may take any device. Every version of every claim is looked at. It prints figures, and every device that
was given twice must have been told by Tutti's own verifier: the exit code says whether it was so, and with a taint,
whether none was.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import yaml

from scheduler.api import kinds
from scheduler.devcluster.shapes import shape_named
from scheduler.kube.client import Client
from scheduler.model.reasons import DeviceGivenTwice
from tests.contest.streams import Streams, fence, fence_by_rule, prepare
from tests.perf.contestants import KUBE_SCHEDULER, TUTTI
from tests.real.control_plane import programs
from tests.real.ground import Ground, ground
from tests.service.verifier import Verifier

DEPLOY = Path(__file__).parents[2] / "deploy"
SCHEDULERS = {"ours": TUTTI.scheduler_name, "theirs": KUBE_SCHEDULER.scheduler_name}
SETTING = {"none": "none", "taint": "taint", "rule": "taint", "verify": "verify"}
GATES = "DRADeviceTaintRules=true"
SERVES = {"kube-apiserver": ("--runtime-config=resource.k8s.io/v1beta2=true",)}
_TOLD_SECONDS = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.contest", description=__doc__)
    parser.add_argument("--fence", choices=SETTING, default="none")
    parser.add_argument("--allocations", type=int, default=10_000, help="by both together")
    parser.add_argument("--nodes", type=int, default=16, help="with 8 GPUs each")
    parser.add_argument("--run", type=float, default=0.2, help="seconds that a pod runs")
    parser.add_argument("--seconds", type=float, default=3600, help="at most: then what was reached counts")
    parser.add_argument("--share", type=float, default=0.5, help="pods of each scheduler at a time, of all devices")
    options = parser.parse_args()
    by_rule = options.fence == "rule"
    with ground(gates=GATES if by_rule else None, options=SERVES if by_rule else None) as found:
        if found is None:
            sys.exit("there is no real control plane: make real builds one")
        figures = asyncio.run(_contest(found, options))
    sys.stdout.write(f"{json.dumps(figures, indent=2)}\n")
    fenced = SETTING[options.fence] == "taint"
    sys.exit(1 if figures["not told"] or (fenced and (figures["given twice"] or figures["over the fence"])) else 0)


async def _contest(found: Ground, options: argparse.Namespace) -> dict[str, Any]:
    verifier = Verifier()
    async with (
        _standing(found, options) as (client, inside),
        _watched(client, verifier),
        _both(found, options) as log,
    ):
        streams = Streams(
            client,
            SCHEDULERS,
            at_once=int(options.nodes * 8 * options.share),
            each=options.allocations // 2,
            run=options.run,
        )
        began = time.perf_counter()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(options.seconds):
                await streams.flow()
        seconds = time.perf_counter() - began
        expected = {(f"{double.version},", "/".join(double.device)) for double in verifier.doubles}
        told = await _told(client, expected)
        figures = _figures(verifier, streams, seconds, inside)
        figures["told"] = len(told & expected)
        figures["not told"] = sorted(map(str, expected - told))[:10]
        figures["told amiss"] = len(told - expected)
        figures["given back by ours"] = log.read_text().count("holds as well")
        return figures


def _figures(verifier: Verifier, streams: Streams, seconds: float, inside: list[str]) -> dict[str, Any]:
    allocations: Counter[str] = Counter()
    over: list[str] = []
    for claim, times in verifier.allocated.items():
        whose = claim.partition("/")[2].partition("-")[0]
        allocations[whose] += times
        if inside and any((pool in inside) != (whose == "ours") for pool in verifier.pools[claim]):
            over.append(claim)
    return {
        "seconds": round(seconds, 1),
        "allocations": dict(allocations),
        "allocations/s": round(sum(allocations.values()) / seconds, 1),
        "claim versions": verifier.versions,
        "pods": {f"{stream} {phase}": count for (stream, phase), count in sorted(streams.ended.items())},
        "over the fence": over[:10],
        "given twice": len(verifier.doubles),
    }


@contextlib.asynccontextmanager
async def _standing(found: Ground, options: argparse.Namespace) -> AsyncIterator[tuple[Client, list[str]]]:
    """The nodes, fenced as it was asked for, and the names of those inside the fence."""
    async with found.nodes() as nodes, await Client.connect(found.admin) as client:
        names = await nodes.add(shape_named("h100x8"), options.nodes)
        inside = names[: options.nodes // 2]
        if options.fence == "taint":
            await fence(client, inside)
        elif options.fence == "rule":
            rule = yaml.safe_load((DEPLOY / "fence.yaml").read_text())
            await fence_by_rule(client, {**rule, "apiVersion": "resource.k8s.io/v1beta2"}, inside)
        await prepare(client)
        api = f"{kinds.QUEUE.group}/{kinds.QUEUE.version}"
        await client.create(kinds.QUEUE, None, {"apiVersion": api, "kind": "Queue", "metadata": {"name": "default"}})
        try:
            yield client, inside if SETTING[options.fence] == "taint" else []
        finally:
            await found.restore()


@contextlib.asynccontextmanager
async def _watched(client: Client, verifier: Verifier) -> AsyncIterator[None]:
    watching = asyncio.create_task(verifier.watch(client))
    try:
        yield
        if watching.done():
            watching.result()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


@contextlib.asynccontextmanager
async def _both(found: Ground, options: argparse.Namespace) -> AsyncIterator[Path]:
    """Both schedulers at work; the log of ours."""
    assets = programs()
    assert assets is not None
    with tempfile.TemporaryDirectory(prefix="tutti-contest-") as folder, contextlib.ExitStack() as stack:
        settings = [f"device_fence={SETTING[options.fence]}", "log_level=info"]
        for each in (TUTTI, KUBE_SCHEDULER):
            command = each.command(assets, found.admin, found.tutti, settings)
            if each is KUBE_SCHEDULER and options.fence == "rule":
                command.append(f"--feature-gates={GATES}")
            stack.enter_context(each.running(command, Path(folder) / each.name))
        yield Path(folder) / TUTTI.name


async def _told(client: Client, expected: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """What the events say was given twice: the version with a comma, and the device. It waits for what is expected."""
    deadline = time.monotonic() + _TOLD_SECONDS
    while True:
        events, _ = await client.list(kinds.EVENT)
        said = [event["message"].split() for event in events if event["reason"] == DeviceGivenTwice.code]
        told = {(words[words.index("version") + 1], words[2]) for words in said}
        if told >= expected or time.monotonic() > deadline:
            return told
        await asyncio.sleep(0.5)


if __name__ == "__main__":
    main()
