"""The embedded cluster and the scheduler, each in a process of its own that tells at its end what it used."""

import asyncio
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

_QUIET_SECONDS = 0.5
_QUIET_SHARE = 0.1
"""A process that used less than this part of a core has nothing to do."""

_context = multiprocessing.get_context("spawn")


class Child:
    """A process that answers once when it is up, and once more, after `stop()`, with its figures."""

    def __init__(self, target: Callable[..., None], *arguments: object) -> None:
        self._pipe, theirs = _context.Pipe()
        self._process = _context.Process(target=target, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.up: Any = self._pipe.recv()

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self._process.pid)

    def stop(self) -> Any:
        self._pipe.send("stop")
        figures = self._pipe.recv()
        self._process.join()
        return figures


def environment() -> dict[str, str]:
    """Ours, for a Python that may keep its compiled modules, as it may where a package is installed."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def peak_mb(pid: int) -> int:
    """The most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) // 1024


def cpu(process: psutil.Process) -> float:
    """Seconds that it has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def until_quiet(processes: Iterable[psutil.Process]) -> None:
    """Until none of them has anything to do, three looks in a row."""
    watched, calm = list(processes), 0
    while calm < 3:
        before = [cpu(each) for each in watched]
        await asyncio.sleep(_QUIET_SECONDS)
        spent = max(cpu(each) - then for each, then in zip(watched, before, strict=True))
        calm = calm + 1 if spent < _QUIET_SECONDS * _QUIET_SHARE else 0


def cluster(pipe: Connection, shape: Mapping[str, object], nodes: int) -> None:
    """The embedded cluster with `nodes` machines; answers with its address."""
    asyncio.run(_cluster(pipe, shape, nodes))


def scheduler(pipe: Connection, kubeconfig: Path, settings: Mapping[str, object]) -> None:
    """The scheduler service; answers when its first cycle has ended."""
    clock = _Clock()
    clock.install()
    asyncio.run(_scheduler(pipe, kubeconfig, settings, clock))


async def _cluster(pipe: Connection, shape: Mapping[str, object], nodes: int) -> None:
    from dataclasses import replace

    from scheduler.devcluster.run import DevCluster
    from scheduler.devcluster.shapes import shape_named

    machine = replace(shape_named(str(shape["base"])), name="perf", **dict(shape["changes"]))  # type: ignore[call-overload]
    async with DevCluster(shapes={}) as served:
        assert served.world is not None
        await served.world.nodes.add(machine, nodes)
        before = _usage()
        pipe.send(served.url)
        await asyncio.to_thread(pipe.recv)
        pipe.send(_spent(before))


async def _scheduler(pipe: Connection, kubeconfig: Path, settings: Mapping[str, object], clock: "_Clock") -> None:
    from scheduler import config, service

    chosen = config.load(
        flags={
            "kubeconfig": kubeconfig,
            "leader_election": False,
            "web_enabled": False,
            "log_level": "warning",
            "log_format": "text",
            **settings,
        },
        environment={},
    )
    ready, stop = asyncio.Event(), asyncio.Event()
    cycles: list[Mapping[str, float]] = []
    onlooker = service.Onlooker(cycle=lambda report: cycles.append(report.seconds))
    serving = asyncio.create_task(service.serve(chosen, ready=ready, stop=stop, onlooker=onlooker))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    before = _usage()
    clock.reset()
    cycles.clear()
    pipe.send("up")
    asking = asyncio.get_running_loop().run_in_executor(None, pipe.recv)
    await asyncio.wait({serving, asking}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    figures = _spent(before)
    figures["cycles"] = len(cycles)
    figures["cpu seconds by part"] = {name: round(seconds, 2) for name, seconds in sorted(clock.seconds.items())}
    pipe.send(figures)
    stop.set()
    await serving


class _Clock:
    """CPU seconds spent inside chosen functions, by wrapping them; a part inside another counts in both."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def reset(self) -> None:
        self.seconds.clear()

    def install(self) -> None:
        """Must run before the service is imported: names are bound then."""
        from scheduler.api import changes
        from scheduler.explain import status, why
        from scheduler.plan import planner
        from scheduler.solver import check
        from scheduler.state import cluster, translate

        self._wrap(planner, "plan", "plan")
        self._wrap(check, "check", "check")
        self._wrap(translate, "snapshot", "snapshot")
        self._wrap(why, "reports", "explain")
        self._wrap(status.Teller, "status_writes", "explain")
        self._wrap(changes, "read", "decode")
        self._wrap(cluster.ClusterState, "apply_all", "take in")

    def _wrap(self, owner: Any, name: str, part: str) -> None:
        function = getattr(owner, name)

        @wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds[part] = self.seconds.get(part, 0.0) + time.thread_time() - began

        setattr(owner, name, timed)


def _usage() -> resource.struct_rusage:
    return resource.getrusage(resource.RUSAGE_SELF)


def _spent(before: resource.struct_rusage) -> dict[str, Any]:
    now = _usage()
    return {
        "cpu seconds": round(now.ru_utime - before.ru_utime, 2),
        "kernel seconds": round(now.ru_stime - before.ru_stime, 2),
        "peak memory MB": round(now.ru_maxrss / 1024),
    }
