"""`python -m scheduler.devcluster`: the embedded cluster as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from scheduler.devcluster.run import DevCluster


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scheduler.devcluster", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--kubeconfig", type=Path, help="write a kubeconfig for the cluster to this file")
    return parser


async def _serve(port: int, kubeconfig: Path | None) -> None:
    async with DevCluster(port=port) as cluster:
        if kubeconfig is not None:
            cluster.kubeconfig(kubeconfig)
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
    arguments = _options().parse_args()
    asyncio.run(_serve(arguments.port, arguments.kubeconfig))


if __name__ == "__main__":
    main()
