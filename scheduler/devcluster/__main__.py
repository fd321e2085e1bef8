"""`python -m scheduler.devcluster`: the embedded cluster as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from scheduler.devcluster.clock import LoopClock
from scheduler.devcluster.kubelet import Habits
from scheduler.devcluster.run import DevCluster
from scheduler.devcluster.shapes import SHAPES, parse_counts


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scheduler.devcluster", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--kubeconfig", type=Path, help="write a kubeconfig for the cluster to this file")
    listed = "; ".join(f"{shape.name}: {shape.title}" for shape in SHAPES.values())
    parser.add_argument(
        "--shape", action="append", default=[], metavar="NAME=COUNT", help=f"machines to simulate, repeatable. {listed}"
    )
    parser.add_argument("--job-seconds", type=float, help="how long pods of Jobs run that do not say it themselves")
    parser.add_argument(
        "--time-scale", type=float, default=1.0, help="seconds of cluster time in one second; 60 makes an hour a minute"
    )
    return parser


async def _serve(options: argparse.Namespace, shapes: dict[str, int], clock: LoopClock) -> None:
    habits = Habits(job_run_seconds=options.job_seconds)
    async with DevCluster(port=options.port, shapes=shapes, clock=clock, habits=habits) as cluster:
        if options.kubeconfig is not None:
            cluster.kubeconfig(options.kubeconfig)
        sys.stdout.write(cluster.url + "\n")
        sys.stdout.flush()
        serving = asyncio.ensure_future(cluster.wait())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, serving.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await serving


def main() -> None:
    """Run until a signal or a failing part ends it."""
    parser = _options()
    options = parser.parse_args()
    try:
        shapes, clock = parse_counts(options.shape), LoopClock(options.time_scale)
    except ValueError as error:
        parser.error(str(error))
    asyncio.run(_serve(options, shapes, clock))


if __name__ == "__main__":
    main()
