"""Watches every version of every claim: no device may be allocated twice, at no moment."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping

import msgspec

from scheduler.api import kinds
from scheduler.kube.client import Client

PATIENCE_SECONDS = 30.0
Device = tuple[str, str, str]


class Verifier:
    """Keeps who holds which device, version by version, and what was wrong about it. Shared and administrative devices
    are left out: they may be in several claims."""

    def __init__(self) -> None:
        self.versions = 0
        self.problems: list[str] = []
        self._held: dict[str, frozenset[Device]] = {}
        self._owner: dict[Device, str] = {}
        self._news = asyncio.Event()

    @property
    def holders(self) -> dict[str, frozenset[Device]]:
        """The claims that hold devices now, and which."""
        return {claim: devices for claim, devices in self._held.items() if devices}

    async def until(self, holds: Callable[[Mapping[str, frozenset[Device]]], object]) -> None:
        """Until this is so of the holders: the watch of the claims may be behind that of other objects."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not holds(self.holders):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"the claims that hold devices are still {self.holders}") from None

    def see(self, event: str, claim: dict[str, object]) -> None:
        metadata: dict[str, str] = claim["metadata"]  # type: ignore[assignment]
        key = f"{metadata['namespace']}/{metadata['name']}"
        self.versions += 1
        self._news.set()
        for device in self._held.pop(key, frozenset()):
            self._owner.pop(device, None)
        if event == "DELETED":
            return
        devices = _devices(claim)
        for device in sorted(devices):
            other = self._owner.setdefault(device, key)
            if other != key:
                self.problems.append(
                    f"version {metadata['resourceVersion']}: device {'/'.join(device)} is held by {other} and {key}"
                )
        self._held[key] = devices

    async def watch(self, client: Client) -> None:
        """Follow the claims until cancelled."""
        claims, version = await client.list(kinds.RESOURCE_CLAIM)
        for claim in claims:
            self.see("ADDED", claim)
        async with client.watch(kinds.RESOURCE_CLAIM, {"resourceVersion": version}, silence_seconds=600) as chunks:
            rest = b""
            async for chunk in chunks:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event = msgspec.json.decode(line)
                    if event["type"] == "ERROR":
                        raise AssertionError(f"the verifier lost its watch: {event['object']}")
                    if event["type"] != "BOOKMARK":
                        self.see(event["type"], event["object"])


@contextlib.asynccontextmanager
async def verified(client: Client) -> AsyncIterator[Verifier]:
    """A verifier at work; at the end it must have found nothing."""
    verifier = Verifier()
    watching = asyncio.create_task(verifier.watch(client))
    try:
        yield verifier
        if watching.done():
            watching.result()
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    assert verifier.problems == []


def _devices(claim: dict[str, object]) -> frozenset[Device]:
    status = claim.get("status") or {}
    allocation = status.get("allocation") or {}  # type: ignore[attr-defined]
    return frozenset(
        (result["driver"], result["pool"], result["device"])
        for result in allocation.get("devices", {}).get("results") or ()
        if not result.get("adminAccess") and not result.get("shareID")
    )
