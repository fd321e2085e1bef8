"""Devices are looked at once more when our writes are done: did another scheduler write the same one?

The watch of claims tells in the order of the writes. Once it has told our own, everything that was written before it
is known; whoever wrote the device too, we give it back, for the other will not. What is written after ours, and was
decided before ours was seen, is not caught here: the taint leaves no such gap (docs/admin/beside-kube-scheduler.md).
"""

import asyncio
from typing import Any, Protocol

from scheduler.commit.attempts import WriteRefused
from scheduler.commit.documents import key_of, named
from scheduler.model.reasons import DeviceGivenTwice

PATIENCE_SECONDS = 10.0


class Watched(Protocol):
    """Who holds which device, as the watch of claims has told it (`scheduler.state.holders.Holders`)."""

    def shows(self, claim: str, uid: str, version: str) -> bool: ...

    def rival(self, claim: str) -> DeviceGivenTwice | None: ...


class Fence:
    """Confirms that claims just written hold their devices alone. `changed` is called after each event of the watch."""

    def __init__(self, watched: Watched, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._watched = watched
        self._patience = patience_seconds
        self._news = asyncio.Event()

    def changed(self) -> None:
        """The watch has told something."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def confirm(self, claim: dict[str, Any]) -> None:
        """Until the watch has told this document of a claim.

        Raises WriteRefused if by then another claim holds a device of it, or if it does not come."""
        key, metadata = key_of(claim), claim["metadata"]
        try:
            async with asyncio.timeout(self._patience):
                while not self._watched.shows(key, metadata["uid"], metadata["resourceVersion"]):
                    await self._news.wait()
        except TimeoutError:
            problem = f"was not shown by the watch for {self._patience:g} s: who else has its devices is not known"
            raise WriteRefused(named(key), problem) from None
        refused = self.shared(key)
        if refused is not None:
            raise refused

    def shared(self, claim: str) -> WriteRefused | None:
        """Why the claim (key) must be given back: another one holds a device of it, as far as is known now."""
        rival = self._watched.rival(claim)
        if rival is None:
            return None
        other = rival.first if rival.second.claim == claim else rival.second
        problem = f"was given device {rival.device}, which ResourceClaim {other.claim} holds as well"
        return WriteRefused(named(claim), problem)
