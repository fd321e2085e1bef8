"""`python -m tests.real`: a real control plane with simulated nodes, to play with, until Ctrl-C."""

import argparse
import asyncio
import contextlib
import signal
import sys

from scheduler.devcluster.shapes import SHAPES, parse_counts, shape_named
from tests.real.control_plane import ControlPlaneError
from tests.real.ground import Ground, ground

_MACHINES = ("h100x8-nic=5", "a100-mig=1", "gb200-nvl72=1", "t4=1", "cpu=2")


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.real", description=__doc__)
    parser.add_argument(
        "--shape",
        action="append",
        metavar="NAME=COUNT",
        help=f"machines to simulate, repeatable; of {', '.join(SHAPES)}. Without it those of the demo",
    )
    return parser


async def _serve(found: Ground, machines: dict[str, int]) -> None:
    async with found.nodes() as nodes:
        for name, count in machines.items():
            await nodes.add(shape_named(name), count)
        sys.stdout.write(
            f"export KUBECONFIG={found.admin}    # an administrator's\n"
            f".venv/bin/tutti run --kubeconfig {found.tutti} --set leader_election=false    # with its own rights\n"
        )
        sys.stdout.flush()
        asked = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, asked.set)
        await asked.wait()


def main() -> int:
    """Until a signal ends it. 0 also where there is no control plane to be had; what is missing was said then."""
    parser = _options()
    try:
        machines = parse_counts(parser.parse_args().shape or list(_MACHINES))
    except ValueError as error:
        parser.error(str(error))
    try:
        with contextlib.suppress(KeyboardInterrupt), ground(scheduler=True) as found:
            if found is not None:
                asyncio.run(_serve(found, machines))
    except ControlPlaneError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
