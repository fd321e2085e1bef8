"""Leader election on a coordination.k8s.io Lease: one replica decides and writes, the others wait.

Only our own monotonic clock counts. A leader gives up when it could not renew for `renew_seconds`, counted from before
the request that last succeeded; others take a lease that has not changed before their eyes for its whole duration,
which is longer. So two never lead at once, whatever the wall clocks say, while `renew_seconds` < `lease_seconds`.
Source: Kubernetes concepts, "Leases"; client-go leaderelection (the record's fields).
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn, Protocol

import structlog

from scheduler.api.kinds import LEASE, Kind
from scheduler.kube.backoff import jittered
from scheduler.kube.errors import ApiError

log = structlog.get_logger(__name__)

Document = dict[str, Any]

_LOOKS = 4
"""Looks at another's lease in the time in which its holder renews it once."""


class Leases(Protocol):
    """The part of `Client` that an election needs."""

    async def get(self, kind: Kind, namespace: str | None, name: str, /) -> Document: ...
    async def create(self, kind: Kind, namespace: str | None, body: Document, /) -> Document: ...
    async def replace(self, kind: Kind, namespace: str | None, name: str, body: Document, /) -> Document: ...


class LeaseLost(Exception):
    """Another replica leads now, or may soon: stop writing at once."""


@dataclass(slots=True, kw_only=True)
class Election:
    """One candidate. `await acquire()`, then work while `hold()` runs beside it; `release()` at the end.

    `identity` must be unique to this process. `epoch` counts the changes of leader: new with every acquisition."""

    client: Leases
    namespace: str
    name: str
    identity: str
    lease_seconds: int = 15
    renew_seconds: float = 10.0
    retry_seconds: float = 2.0
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    jitter: random.Random = field(default_factory=random.Random)
    epoch: int = 0
    _document: Document | None = None
    """The record as the server last answered it."""
    _renewed_at: float | None = None
    """When the request that last succeeded was begun; None: not leading."""
    _seen: tuple[str, float] = ("", 0.0)
    """The foreign record's version and when it was first seen."""
    _free_at: float = 0.0
    """When the foreign record has lasted as long as it says."""

    def __post_init__(self) -> None:
        if not self.renew_seconds < self.lease_seconds:
            raise ValueError(
                f"lease_renew_seconds {self.renew_seconds} is not below lease_seconds {self.lease_seconds}; "
                "two replicas could lead at once: lower it."
            )

    @property
    def leading(self) -> bool:
        """Whether we may still write. Ask again before every batch of writes: time alone can end it."""
        return self._renewed_at is not None and self.clock() < self._renewed_at + self.renew_seconds

    @property
    def leader(self) -> str:
        """Who leads as far as we know; "" if nobody does."""
        return str(((self._document or {}).get("spec") or {}).get("holderIdentity") or "")

    async def acquire(self) -> int:
        """Wait until we lead; the epoch."""
        waited = False
        while True:
            try:
                async with asyncio.timeout(self._request_seconds):
                    if await self._try():
                        log.info("leading", lease=f"{self.namespace}/{self.name}", epoch=self.epoch)
                        return self.epoch
                if not waited:
                    log.info("waiting to lead", lease=f"{self.namespace}/{self.name}", leader=self.leader)
                    waited = True
            except (ApiError, TimeoutError) as error:
                log.warning("cannot read or take the lease", lease=f"{self.namespace}/{self.name}", error=str(error))
            await asyncio.sleep(self._until_next_look())

    async def hold(self) -> NoReturn:
        """Renew for as long as that succeeds in time, then raise LeaseLost."""
        while True:
            await asyncio.sleep(jittered(self.retry_seconds, self.jitter))
            if self._renewed_at is None:
                raise LeaseLost(f"lease {self.namespace}/{self.name} was given back")
            left = self._renewed_at + self.renew_seconds - self.clock()
            if left > 0:
                try:
                    async with asyncio.timeout(min(self._request_seconds, left)):
                        await self._renew()
                    continue
                except (ApiError, TimeoutError) as error:
                    log.warning("cannot renew the lease", lease=f"{self.namespace}/{self.name}", error=str(error))
            if not self.leading:
                self._renewed_at = None
                raise LeaseLost(f"lease {self.namespace}/{self.name} could not be renewed for {self.renew_seconds} s")

    async def _give_up(self, document: dict[str, Any]) -> None:
        spec = {**document["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": self._time()}
        await self.client.replace(LEASE, self.namespace, self.name, {**document, "spec": spec})

    def _until_next_look(self) -> float:
        """Seconds to wait for another's lease: often enough to see early when it was renewed last, for its time counts
        from then; and not a moment longer than it lasts."""
        wait = jittered(self.retry_seconds / _LOOKS, self.jitter)
        left = self._free_at - self.clock()
        return min(wait, left) if left > 0 else wait

    async def release(self) -> None:
        """Let the next one lead without waiting. Failing that, the lease runs out."""
        if self._renewed_at is None or self._document is None:
            return
        self._renewed_at = None
        try:
            async with asyncio.timeout(self._request_seconds):
                try:
                    await self._give_up(self._document)
                except ApiError as error:
                    if not error.conflict:
                        raise
                    # A renewal that was cut off may have arrived.
                    found = await self.client.get(LEASE, self.namespace, self.name)
                    if found["spec"].get("holderIdentity") == self.identity:
                        await self._give_up(found)
        except (ApiError, TimeoutError) as error:
            log.warning("cannot release the lease", lease=f"{self.namespace}/{self.name}", error=str(error))

    @property
    def _request_seconds(self) -> float:
        return self.renew_seconds / 3

    async def _try(self) -> bool:
        """One look at the lease; take it if it is free. Whether we lead."""
        began = self.clock()
        try:
            found = await self.client.get(LEASE, self.namespace, self.name)
        except ApiError as error:
            if not error.not_found:
                raise
            return await self._create(began)
        self._document = found
        version = str(found["metadata"].get("resourceVersion", ""))
        if version != self._seen[0]:
            self._seen = (version, began)
        spec = found.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        lasts = float(spec.get("leaseDurationSeconds") or self.lease_seconds)
        self._free_at = self._seen[1] + lasts
        if holder not in ("", self.identity) and began < self._free_at:
            return False
        transitions = int(spec.get("leaseTransitions") or 0) + (holder != self.identity)
        taken = {**spec, **self._record(), "acquireTime": self._time(), "leaseTransitions": transitions}
        return await self._write(found, taken, began)

    async def _create(self, began: float) -> bool:
        spec = {**self._record(), "acquireTime": self._time(), "leaseTransitions": 0}
        body = {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": spec,
        }
        try:
            self._document = await self.client.create(LEASE, self.namespace, body)
        except ApiError as error:
            if error.already_exists:
                return False
            raise
        self._renewed_at, self.epoch = began, 0
        return True

    async def _renew(self) -> None:
        """Write a new time. Raises LeaseLost if somebody else holds it; ApiError, TimeoutError."""
        if self._document is None:
            raise LeaseLost(f"lease {self.namespace}/{self.name} was never taken")
        began = self.clock()
        spec = {**self._document["spec"], **self._record()}
        if await self._write(self._document, spec, began):
            return
        found = await self.client.get(LEASE, self.namespace, self.name)
        self._document = found
        holder = (found.get("spec") or {}).get("holderIdentity") or ""
        if holder != self.identity:
            self._renewed_at = None
            raise LeaseLost(f"lease {self.namespace}/{self.name} is held by {holder or 'nobody'}")
        # An earlier renewal of ours got through although its answer did not: go on from what it wrote.
        await self._write(found, {**found["spec"], **self._record()}, began)

    async def _write(self, document: Document, spec: Document, began: float) -> bool:
        """Write the record if nobody was quicker."""
        try:
            written = await self.client.replace(LEASE, self.namespace, self.name, {**document, "spec": spec})
        except ApiError as error:
            if error.conflict:
                return False
            raise
        self._document = written
        self._renewed_at = began
        self.epoch = int(spec.get("leaseTransitions") or 0)
        return True

    def _record(self) -> Document:
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self.lease_seconds,
            "renewTime": self._time(),
        }

    def _time(self) -> str:
        return self.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
