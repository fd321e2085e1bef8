"""The scheduler as a process of its own, so that it can be killed."""

import asyncio
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["scheduler.service", "scheduler.kube.identity", "kubernetes.aio.config"])


def _serve(kubeconfig: Path, settings: dict[str, Any]) -> None:
    from scheduler import config, service

    flags: dict[str, Any] = {
        "kubeconfig": kubeconfig,
        "leader_election": False,
        "web_enabled": False,
        "log_level": "warning",
        "log_format": "text",
        **settings,
    }
    asyncio.run(service.serve(config.load(flags=flags, environment={})))


class Process:
    """`async with Process(kubeconfig) as scheduler:`. It must not fail: at the end it obeys SIGTERM, or was killed."""

    def __init__(self, kubeconfig: Path, **settings: Any) -> None:
        self._process = _context.Process(target=_serve, args=(kubeconfig, settings), daemon=True)
        self._killed = False

    async def __aenter__(self) -> "Process":
        await asyncio.to_thread(self._process.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._killed:
            await self.stop()
        await asyncio.to_thread(self._process.join)
        # Asked to end before it has begun, it ends as any process does.
        assert self._process.exitcode in ((-signal.SIGKILL,) if self._killed else (0, -signal.SIGTERM))

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        self._process.terminate()

    async def stop(self) -> int | None:
        """SIGTERM, and wait for the end; the exit code."""
        self.ask_to_stop()
        return await self.ended()

    async def ended(self) -> int | None:
        """Wait for the end; the exit code."""
        await asyncio.to_thread(self._process.join)
        return self._process.exitcode

    def kill(self) -> None:
        """SIGKILL; the end of the block waits until it is gone."""
        assert self._process.pid is not None
        self._killed = True
        os.kill(self._process.pid, signal.SIGKILL)
