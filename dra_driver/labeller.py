"""Keeps the labels of the Node as they are wanted (`dra_driver.labels`)."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import structlog

from dra_driver.labels import LabelsTaken, patch
from scheduler.api import kinds
from scheduler.kube.backoff import Backoff
from scheduler.kube.client import ApiError, Client

log = structlog.get_logger(__name__)

_LONGEST_WAIT_SECONDS = 300.0


class Labeller:
    """What is wanted is told with `want`; `run` makes it so, for ever. Nothing is wanted: ours are taken away, and
    where there are none the Node is only read. `again_seconds`: so often the Node is looked at though nothing else is
    wanted. `problem`: why it is not so, "" when it is."""

    def __init__(self, client: Client, node: str, *, again_seconds: float) -> None:
        self.problem = ""
        self._client = client
        self._node = node
        self._again_seconds = again_seconds
        self._wanted: Mapping[str, str] | None = None
        self._fresh = asyncio.Event()

    def want(self, labels: Mapping[str, str]) -> None:
        """From now on these."""
        if labels != self._wanted:
            self._wanted = labels
            self._fresh.set()

    async def run(self) -> None:
        """Until cancelled. A refusal is told once, and tried again with waits that grow."""
        backoff = Backoff(first_seconds=1.0, most_seconds=_LONGEST_WAIT_SECONDS)
        await self._fresh.wait()
        while True:
            self._fresh.clear()
            problem = await self._write(self._wanted or {})
            if problem and problem != self.problem:
                log.warning("the Node's labels are not as they should be", node=self._node, problem=problem)
            self.problem = problem
            if not problem:
                backoff.reset()
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff.seconds() if problem else self._again_seconds):
                    await self._fresh.wait()

    async def _write(self, wanted: Mapping[str, str]) -> str:
        """Make it so; why it could not be done, "" if it is."""
        try:
            node = await self._client.get(kinds.NODE, None, self._node)
            change = patch(node, wanted)
            if change:
                await self._client.patch(kinds.NODE, None, self._node, change)
                log.info("the Node is labelled", node=self._node, labels=len(wanted))
        except (ApiError, LabelsTaken) as problem:
            return str(problem)
        return ""
