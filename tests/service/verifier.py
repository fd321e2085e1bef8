"""Watches every version of every claim: no device may be allocated twice, at no moment."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from scheduler.api import kinds
from scheduler.api.kinds import Kind
from scheduler.kube.client import Client

PATIENCE_SECONDS = 30.0
Device = tuple[str, str, str]


class Double(NamedTuple):
    """At this version of `second`, it came to hold a device that `first` held."""

    version: str
    device: Device
    first: str
    second: str


class Verifier:
    """Keeps who holds which device, version by version, and what was wrong about it. Shared and administrative devices
    are left out: they may be in several claims."""

    def __init__(self) -> None:
        self.versions = 0
        self.allocated: Counter[str] = Counter()
        """By claim, how often it came to hold devices."""
        self.pools: dict[str, set[str]] = {}
        """By claim, the pools of all devices that it ever held."""
        self.doubles: list[Double] = []
        self._held: dict[str, frozenset[Device]] = {}
        self._owners: dict[Device, set[str]] = {}
        self._news = asyncio.Event()

    @property
    def problems(self) -> list[str]:
        """What was wrong, in words."""
        return [
            f"version {each.version}: device {'/'.join(each.device)} is held by {each.first} and {each.second}"
            for each in self.doubles
        ]

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
        before = self._held.pop(key, frozenset())
        for device in before:
            self._owners[device].discard(key)
        if event == "DELETED":
            return
        devices = _devices(claim)
        for device in sorted(devices):
            others = self._owners.setdefault(device, set())
            if device not in before:
                self.doubles += [Double(metadata["resourceVersion"], device, other, key) for other in sorted(others)]
            others.add(key)
        self.pools.setdefault(key, set()).update(pool for _, pool, _ in devices)
        self.allocated[key] += bool(devices and not before)
        self._held[key] = devices

    async def watch(self, client: Client) -> None:
        """Follow the claims until cancelled."""
        await follow(client, kinds.RESOURCE_CLAIM, self.see)


async def follow(client: Client, kind: Kind, see: Callable[[str, dict[str, Any]], None]) -> None:
    """Show all objects of a kind, then every change (event, object), until cancelled. A watch that ends goes on behind
    the last version: none is missed."""
    objects, version = await client.list(kind)
    for obj in objects:
        see("ADDED", obj)
    while True:
        async with client.watch(kind, {"resourceVersion": version}, silence_seconds=600) as chunks:
            rest = b""
            async for chunk in chunks:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event = msgspec.json.decode(line)
                    if event["type"] == "ERROR":
                        raise AssertionError(f"the watch of {kind.plural} is lost: {event['object']}")
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        see(event["type"], event["object"])


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
