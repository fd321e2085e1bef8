"""Samples of the hardware for the metrics: taken when somebody asks for them, and not too often."""

import asyncio

import structlog

from dra_driver.lookout import Post
from dra_driver.metrics import Picture, usage
from dra_driver.prepare import FAILURES

log = structlog.get_logger(__name__)

_SAMPLE_SECONDS = 3.0


class Sampler:
    """`lasts_seconds`: a sample is good for so long."""

    def __init__(self, post: Post, *, lasts_seconds: float) -> None:
        self._post = post
        self._lasts = lasts_seconds
        self._sampling: asyncio.Task[None] | None = None
        self._sampled = float("-inf")
        """When the last sample was taken, by the loop's clock."""

    async def settled(self) -> None:
        """Until no sample is being taken."""
        if self._sampling is not None:
            await self._sampling

    async def exposition(self) -> bytes:
        """All metrics, measured now; those of a while ago if the hardware is at work for long."""
        fresh = asyncio.get_running_loop().time() - self._sampled < self._lasts
        if not fresh and (self._sampling is None or self._sampling.done()):
            self._sampling = asyncio.create_task(self._sample())
        if self._sampling is not None:
            await asyncio.wait({self._sampling}, timeout=_SAMPLE_SECONDS)
        return self._post.metrics.exposition()

    async def _sample(self) -> None:
        try:
            self._post.metrics.show(await self._post.claims.alone(self._picture))
            self._sampled = asyncio.get_running_loop().time()
        except FAILURES as problem:
            log.warning("the hardware cannot be measured", problem=str(problem))

    def _picture(self) -> Picture:
        """In a thread, under the node's lock."""
        entries, gpus, lost = self._post.rooms.entries(), self._post.offered.gpus, self._post.offered.lost
        return Picture(
            inventory=self._post.offered.inventory,
            gpus=gpus,
            lost=lost,
            entries=entries,
            usage=usage(self._post.hardware.gpus, gpus, lost, entries),
            at=self._post.clock(),
        )
