"""A parent that has loaded the node plugin, and forks it as a process of its own: so a start takes no second.

    stdin, a line for each start:  {"flags": {...}, "points": "<folder>"}
    stdout:                        "pid 17", "ready", "ended -9"

Each step on the disk and each change of the hardware is a point. While the folder has a file `last`, points are noted
in its file `reached`, and at the one of that number (from 1) the process is killed (SIGKILL); 0 is none.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from dra_driver import config, rooms, service
from dra_driver.disk import Disk
from dra_driver.fake import FakeGpus

T = TypeVar("T")


class Points:
    """`folder`: as above."""

    def __init__(self, folder: Path) -> None:
        self._last, self._reached = folder / "last", folder / "reached"

    def reach(self, name: str) -> None:
        try:
            last = int(self._last.read_text())
        except FileNotFoundError:
            return
        with self._reached.open("a") as file:
            file.write(f"{name}\n")
        if len(self._reached.read_text().splitlines()) == last:
            os.kill(os.getpid(), signal.SIGKILL)


def watch(points: Points) -> None:
    """From now on, in this process."""

    class Watched(Disk):
        def change(self, step: str, path: Path, act: Callable[[], T]) -> T:
            points.reach(f"before {step} {path.name}")
            return super().change(step, path, act)

    rooms.Disk = Watched  # type: ignore[misc]
    FakeGpus._stepped = lambda _, name: points.reach(f"after {name}")  # type: ignore[method-assign]


async def serve(flags: dict[str, Any], say: Callable[[str], None]) -> None:
    """The service, as the command runs it: until a signal ends it."""
    ready = asyncio.Event()
    serving = asyncio.create_task(service.serve(config.load(flags=flags, environment={}), ready=ready))
    starting = asyncio.create_task(ready.wait())
    await asyncio.wait({serving, starting}, return_when=asyncio.FIRST_COMPLETED)
    if ready.is_set():
        say("ready")
    starting.cancel()
    await serving


def run(order: dict[str, Any]) -> None:
    """In the child. Its words go where the parent's go; what it prints goes to stderr."""
    words = os.dup(1)
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def say(line: str) -> None:
        os.write(words, f"{line}\n".encode())

    say(f"pid {os.getpid()}")
    watch(Points(Path(order["points"])))
    asyncio.run(serve(order["flags"], say))


def main() -> None:
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run(json.loads(line))
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        os.write(1, f"ended {os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    main()
