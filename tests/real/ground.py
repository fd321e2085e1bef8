"""A real cluster to test on: a given one, or a control plane of our own; with simulated nodes and their kubelets."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from scheduler.devcluster.clock import LoopClock
from scheduler.devcluster.kubelet import Habits
from scheduler.devcluster.nodes import SimulatedNodes
from scheduler.kube import identity
from tests.real.control_plane import ControlPlane, programs
from tests.real.install import ACCOUNT, Before, install
from tests.real.remote import Remote

GIVEN = "TUTTI_TEST_KUBECONFIG"
GATES = "TUTTI_TEST_GATES"
_KUBELET_WORKERS = 16
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A cluster with our definitions, roles and policies. `admin` and `tutti`: kubeconfigs; the second is the service
    account's, with the rights of our manifest and no others. `before`: what it had then."""

    admin: Path
    tutti: Path
    before: Before

    @contextlib.asynccontextmanager
    async def nodes(self, habits: Habits | None = None) -> AsyncIterator[SimulatedNodes]:
        """Kubelets at work on whatever nodes are added, and the DeviceClasses of their drivers."""
        async with Remote(await identity.load(self.admin)) as api:
            nodes = SimulatedNodes(api, LoopClock(), habits, workers=_KUBELET_WORKERS)
            running = asyncio.create_task(nodes.run())
            try:
                await nodes.add_classes()
                yield nodes
                if running.done():
                    running.result()
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    async def restore(self) -> None:
        """Make the cluster as it was. Raises NotSettled."""
        async with Remote(await identity.load(self.admin)) as api:
            await self.before.restore(api)


@contextlib.contextmanager
def ground(
    *, scheduler: bool = False, gates: str | None = None, options: dict[str, tuple[str, ...]] | None = None
) -> Iterator[Ground | None]:
    """The cluster of the kubeconfig in $TUTTI_TEST_KUBECONFIG, else a control plane started for the block, with the
    feature gates of $TUTTI_TEST_GATES; None where there is neither. With `gates` or `options`, other than those of the
    environment, always one of its own.

    A given cluster must be there for tests alone: what appears in it meanwhile is removed.
    """
    own = gates is not None or options is not None
    given = None if own else os.environ.get(GIVEN)
    with contextlib.ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="tutti-real-", ignore_cleanup_errors=True))
        )
        if given:
            yield _apart(_prepare(Path(given), folder))
            return
        assets = programs()
        if assets is None:
            yield None
            return
        chosen = os.environ.get(GATES, "") if gates is None else gates
        plane = stack.enter_context(
            ControlPlane(assets, folder, scheduler=scheduler, gates=chosen, options=options or {})
        )
        yield _apart(_prepare(plane.admin, folder))


async def _prepare(admin: Path, folder: Path) -> Ground:
    async with Remote(await identity.load(admin)) as api:
        token = await install(api)
        return Ground(admin=admin, tutti=with_token(admin, folder / ACCOUNT, token), before=await Before.look(api))


def with_token(admin: Path, path: Path, token: str) -> Path:
    """The same cluster in the same words, for the bearer of this token."""
    config = yaml.safe_load(admin.read_text())
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
    return path


def _apart(work: Coroutine[Any, Any, T]) -> T:
    """Run it to its end on an event loop of its own, whatever loop the caller is in."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
