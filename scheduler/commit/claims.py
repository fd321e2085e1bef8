"""One claim at the API server: secured for its pods, made, waited for, released. Every step may be repeated.

A claim is written from the document as it came, so that what is not ours stays as it is to the byte, and guarded by its
resourceVersion. The allocation and the reservation go in one request: an allocation without a reservation would never
be released.
Source: KEP 4381 (structured parameters), KEP 5004 (extended resources), KEP 5007 (binding conditions).
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from datetime import datetime
from weakref import WeakValueDictionary

import msgspec

from scheduler.api import kinds
from scheduler.api.dra import (
    CLAIM_FINALIZER,
    MOST_CONSUMERS,
    AllocationResult,
    ResourceClaim,
)
from scheduler.commit.attempts import Patience, WriteRefused, persist
from scheduler.commit.documents import (
    Document,
    NoClaim,
    allocation_document,
    allocation_of,
    binding_conditions,
    controller_uid,
    devices_of,
    finalizers_of,
    is_made,
    key_of,
    made_claim,
    named,
    opened,
    placeholder,
    reservation,
    reservations_of,
    unready_devices,
    wanted_devices,
    with_finalizer,
    with_status,
    without_finalizer,
)
from scheduler.commit.known import Known
from scheduler.commit.slots import Slots
from scheduler.commit.writes import ClaimMaking, ClaimWrite, Consumer
from scheduler.kube.client import ApiError, Client


class Claims:
    """Writes claims; keeps `state` up to date with every answer, so that no decision waits for the echo."""

    def __init__(
        self,
        client: Client,
        state: Known,
        slots: Slots,
        *,
        patience: Patience,
        may_write: Callable[[], bool],
        now: Callable[[], datetime],
    ) -> None:
        self._client = client
        self._state = state
        self._slots = slots
        self._patience = patience
        self._may_write = may_write
        self._now = now
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._before: dict[tuple[str, str], tuple[ClaimWrite, Document]] = {}
        """Claims whose devices are given but not written yet: by key and uid, for which write, and the document as it
        was before."""
        self._made: dict[str, tuple[str, str]] = {}
        """Claims made by commits under way, key and uid, by the uid of the pod."""

    def intend(self, write: ClaimWrite) -> None:
        """The devices are given from now on, as far as decisions are concerned, although nothing is written yet."""
        claim = self._document(write.claim)
        if not write.first or claim is None:
            return
        self._before[write.claim, write.uid] = write, claim
        reserved = [*reservations_of(claim), *map(reservation, write.consumers)]
        intended = with_status(claim, allocation=self._allocation(write.allocation), reservedFor=reserved)
        self._state.assume_claim(intended, in_flight=True, now_ms=self._now_ms())

    def intend_making(self, making: ClaimMaking) -> None:
        """The same for a claim that does not exist yet, under a name of its own until it does."""
        namespace, _, pod = making.consumer.pod.partition("/")
        claim = made_claim(making, namespace, pod)
        claim["metadata"] = {"namespace": namespace, "name": placeholder(making).partition("/")[2], "uid": ""}
        claim["status"] = {
            "allocation": self._allocation(making.allocation),
            "reservedFor": [reservation(making.consumer)],
        }
        self._state.assume_claim(claim, in_flight=True, now_ms=self._now_ms())

    def settle(self, writes: Iterable[ClaimWrite], makings: Iterable[ClaimMaking]) -> None:
        """The gang's writes have ended, well or not: only what the server answered counts from now on."""
        for write in writes:
            before = self._before.get((write.claim, write.uid))
            if before is not None and before[0] is write:
                self._forget(write.claim, write.uid)
        for making in makings:
            made = self._made.pop(making.consumer.uid, None)
            if made is not None:
                self._before.pop(made, None)
            self._state.forget_claim(placeholder(making))

    async def secure(self, write: ClaimWrite) -> Document:
        """The claim holds the allocation and is reserved for the consumers: at most two requests, none if it was so.

        Raises WriteRefused if it is gone, allocated elsewhere, lost its allocation, or is full."""
        lock = self._locks.setdefault(write.claim, asyncio.Lock())

        async def step(attempt: int) -> Document:
            if attempt:
                claim = await self._read(write.claim)
            elif before := self._before.get((write.claim, write.uid)):
                claim = before[1]
            else:
                claim = await self._known(write.claim)
            return await self._secure(claim, write)

        async with lock:
            return await persist(named(write.claim), self._patience, self._may_write, step)

    async def make(self, making: ClaimMaking) -> Document:
        """A claim for the pod's extended resources exists, allocated and reserved, and the pod's status names it.

        The finalizer is there from the first request on. A claim left by an earlier try is used if it holds the same
        devices or none, otherwise released and deleted."""
        namespace, _, pod = making.consumer.pod.partition("/")
        what = f"ResourceClaim for the extended resources of Pod {making.consumer.pod}"
        left = self._left_over(making)
        if left is not None and devices_of(left) not in (frozenset(), wanted_devices(making.allocation)):
            await self.release(key_of(left), left["metadata"]["uid"], {making.consumer.uid})
            left = None

        async def step(attempt: int) -> Document:
            claim = await self._made_earlier(making) if attempt else left
            if claim is None:
                async with self._slots.commit():
                    claim = _opened(
                        what,
                        await self._client.create_raw(
                            kinds.RESOURCE_CLAIM, namespace, made_claim(making, namespace, pod)
                        ),
                    )
            return claim

        created = await persist(what, self._patience, self._may_write, step)
        write = ClaimWrite(
            claim=key_of(created),
            uid=created["metadata"]["uid"],
            allocation=making.allocation,
            consumers=(making.consumer,),
            first=True,
        )
        self._before[write.claim, write.uid] = write, created
        self._made[making.consumer.uid] = (write.claim, write.uid)
        secured = await self.secure(write)
        await self._name_in_status(making, secured["metadata"]["name"])
        return secured

    async def wait_until_ready(self, key: str) -> None:
        """Until every device of the claim that has binding conditions meets them. Returns at once if there are none.

        Raises WriteRefused when a failure condition is true or the time since the allocation is up. The devices that
        are to blame are not the first choice for the claim any more."""
        while True:
            claim = await self._known(key)
            if not (claim.get("status") or {}).get("allocation"):
                raise WriteRefused(named(key), "lost its allocation before its pods were bound")
            waiting, failed = binding_conditions(claim)
            if failed:
                elsewhere = self._avoid(claim)
                raise WriteRefused(named(key), f"cannot be used: {failed[0]}", elsewhere=elsewhere)
            if not waiting:
                return
            left = self._patience.binding_conditions_seconds - self._age(claim)
            changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(key, []).append(changed)
            try:
                await asyncio.wait_for(changed, max(left, 0))
            except TimeoutError:
                problem = f"waited {self._patience.binding_conditions_seconds:g} s for {waiting[0]}"
                raise WriteRefused(named(key), problem, elsewhere=self._avoid(claim)) from None

    def _avoid(self, claim: Document) -> bool:
        """One that was made for a pod is deleted with its reservation: the pod remembers for the next. Answers whether
        the next try is another one."""
        metadata, devices = claim["metadata"], unready_devices(claim)
        if not is_made(claim):
            return self._state.avoid(key_of(claim), metadata["uid"], devices)
        for owner in metadata.get("ownerReferences") or ():
            if owner.get("controller"):
                return self._state.avoid_for_pod(f"{metadata['namespace']}/{owner['name']}", owner["uid"], devices)
        return False

    def changed(self, key: str) -> None:
        """The watch has seen the claim change: look at its binding conditions again."""
        for waiting in self._waiting.pop(key, ()):
            if not waiting.done():
                waiting.set_result(None)

    def made_for(self, consumer: Consumer) -> tuple[str, str] | None:
        """Key and uid of the claim that this commit made for the pod's extended resources, as far as is known."""
        return self._made.get(consumer.uid)

    async def release(
        self,
        key: str,
        uid: str,
        pods: Collection[str],
        *,
        attempts: int | None = None,
        spare: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """The claim is no longer reserved for these pods (uids); with its last reservation its allocation goes too, in
        the same request. A claim made for a pod's extended resources is then deleted. Nothing to do is no error.
        `attempts`: other than those of a usual write. `spare`: whether a pod (uid) keeps it after all, asked last.

        Raises WriteRefused if the server will not have it: what is left is cleared by a later cycle."""
        lock = self._locks.setdefault(key, asyncio.Lock())

        async def step(_: int) -> None:
            claim = await self._read_if_there(key)
            if claim is None or claim["metadata"]["uid"] != uid:
                self._forget(key, uid)
                return
            leaving = frozenset(pod for pod in pods if not spare(pod))
            try:
                if leaving:
                    await self._release(claim, leaving)
            except ApiError as error:
                if not error.not_found:
                    raise
                self._forget(key, uid)

        patience = self._patience if attempts is None else replace(self._patience, attempts=attempts)
        async with lock:
            await persist(named(key), patience, self._may_write, step)

    async def _secure(self, claim: Document, write: ClaimWrite) -> Document:
        _refuse_unusable(claim, write)
        status: Document = claim.get("status") or {}
        reserved = reservations_of(claim)
        there = {entry.get("uid") for entry in reserved}
        missing = [consumer for consumer in write.consumers if consumer.uid not in there]
        if status.get("allocation") and not missing:
            # Perhaps by a write of ours whose answer was lost: then the watch need not have told it yet.
            self._before.pop((write.claim, write.uid), None)
            self._state.assume_claim(claim, now_ms=self._now_ms())
            return claim
        if len(reserved) + len(missing) > MOST_CONSUMERS:
            raise WriteRefused(named(write.claim), f"is reserved for {len(reserved)} pods, {MOST_CONSUMERS} at most")
        allocation = status.get("allocation") or self._allocation(write.allocation)
        if CLAIM_FINALIZER not in finalizers_of(claim):
            claim = await self._put(with_finalizer(claim))
        reserved += [reservation(consumer) for consumer in missing]
        known = self._knows(write.claim, write.uid)
        stored = await self._put(with_status(claim, allocation=allocation, reservedFor=reserved), "status")
        self._before.pop((write.claim, write.uid), None)
        if known and not self._knows(write.claim, write.uid):
            # The watch was quicker than the answer; nothing would ever tell again that the claim is gone.
            raise WriteRefused(named(write.claim), "is gone")
        self._state.assume_claim(stored, now_ms=self._now_ms())
        return stored

    async def _release(self, claim: Document, pods: frozenset[str]) -> None:
        reserved = reservations_of(claim)
        kept = [entry for entry in reserved if entry.get("uid") not in pods]
        if len(kept) < len(reserved):
            changes: Document = (
                {"reservedFor": kept} if kept else {"reservedFor": None, "allocation": None, "devices": None}
            )
            claim = await self._put(with_status(claim, **changes), "status")
        self._before.pop((key_of(claim), claim["metadata"]["uid"]), None)
        if not kept and is_made(claim):
            await self._delete_made(claim)
        else:
            self._state.assume_claim(claim, now_ms=self._now_ms())

    async def _delete_made(self, claim: Document) -> None:
        """Ours from the first to the last: without our finalizer nothing else holds it."""
        if CLAIM_FINALIZER in finalizers_of(claim):
            claim = await self._put(without_finalizer(claim))
        try:
            async with self._slots.commit():
                await self._client.delete(
                    kinds.RESOURCE_CLAIM,
                    claim["metadata"]["namespace"],
                    claim["metadata"]["name"],
                    uid=claim["metadata"]["uid"],
                )
        except ApiError as error:
            if not error.not_found:
                raise
        self._forget(key_of(claim), claim["metadata"]["uid"])

    def _knows(self, key: str, uid: str) -> bool:
        known = self._state.object(kinds.RESOURCE_CLAIM, key)
        return isinstance(known, ResourceClaim) and known.metadata.uid == uid

    def _forget(self, key: str, uid: str) -> None:
        """What was assumed of this claim ends; another that has its name now is another gang's business."""
        self._before.pop((key, uid), None)
        known = self._state.object(kinds.RESOURCE_CLAIM, key)
        if not isinstance(known, ResourceClaim) or known.metadata.uid == uid:
            self._state.forget_claim(key)

    async def _name_in_status(self, making: ClaimMaking, name: str) -> None:
        namespace, _, pod = making.consumer.pod.partition("/")
        mappings = [
            {"containerName": m.container, "resourceName": m.resource, "requestName": m.request}
            for m in making.mappings
        ]
        body = {
            "metadata": {"uid": making.consumer.uid},
            "status": {"extendedResourceClaimStatus": {"resourceClaimName": name, "requestMappings": mappings}},
        }

        async def step(_: int) -> None:
            async with self._slots.commit():
                await self._client.patch(kinds.POD, namespace, pod, body, subresource="status")
            self._state.assume_extended_claim(making.consumer.pod, making.consumer.uid, name, now_ms=self._now_ms())

        await persist(f"Pod {making.consumer.pod}", self._patience, self._may_write, step)

    def _left_over(self, making: ClaimMaking) -> Document | None:
        """A claim that an earlier try made for this pod, as far as the watch has shown it."""
        for key, claim in self._state.objects(kinds.RESOURCE_CLAIM):
            controller = claim.metadata.controller if isinstance(claim, ResourceClaim) else None
            if controller is not None and controller.uid == making.consumer.uid:
                document = self._document(key)
                if document is not None and is_made(document):
                    return document
        return None

    async def _made_earlier(self, making: ClaimMaking) -> Document | None:
        """The same, asked of the server: the answer to an earlier try may be lost."""
        claims, _ = await self._client.list_raw(kinds.RESOURCE_CLAIM, making.consumer.pod.partition("/")[0])
        for raw in claims:
            with contextlib.suppress(NoClaim):
                claim = opened(raw)
                if is_made(claim) and controller_uid(claim) == making.consumer.uid:
                    return claim
        return None

    async def _known(self, key: str) -> Document:
        document = self._document(key)
        return document if document is not None else await self._read(key)

    def _document(self, key: str) -> Document | None:
        """The claim as last seen; None also for one that cannot be written back: the server is asked for it then."""
        raw = self._state.raw(kinds.RESOURCE_CLAIM, key)
        if raw is None:
            return None
        try:
            return opened(raw)
        except NoClaim:
            return None

    async def _read(self, key: str) -> Document:
        claim = await self._read_if_there(key)
        if claim is None:
            raise WriteRefused(named(key), "is gone")
        return claim

    async def _read_if_there(self, key: str) -> Document | None:
        namespace, _, name = key.partition("/")
        try:
            async with self._slots.commit():
                return _opened(named(key), await self._client.get_raw(kinds.RESOURCE_CLAIM, namespace, name))
        except ApiError as error:
            if error.not_found:
                return None
            raise

    async def _put(self, claim: Document, subresource: str | None = None) -> Document:
        metadata = claim["metadata"]
        async with self._slots.commit():
            stored = await self._client.replace_raw(
                kinds.RESOURCE_CLAIM, metadata["namespace"], metadata["name"], claim, subresource=subresource
            )
        return _opened(named(key_of(claim)), stored)

    def _allocation(self, allocation: AllocationResult) -> msgspec.Raw:
        return allocation_document(allocation, self._now().strftime("%Y-%m-%dT%H:%M:%SZ"))

    def _now_ms(self) -> int:
        return int(self._now().timestamp() * 1000)

    def _age(self, claim: Document) -> float:
        """Seconds since the claim was allocated; 0 if nobody wrote down when, or a clock was set back since."""
        allocation = allocation_of(claim)
        text = allocation.allocation_timestamp if allocation is not None else None
        return max((self._now() - datetime.fromisoformat(text)).total_seconds(), 0.0) if text else 0.0


def _refuse_unusable(claim: Document, write: ClaimWrite) -> None:
    metadata = claim["metadata"]
    if metadata["uid"] != write.uid:
        raise WriteRefused(named(write.claim), "was replaced by another of its name")
    if metadata.get("deletionTimestamp"):
        raise WriteRefused(named(write.claim), "is being deleted")
    if allocation_of(claim) is None:
        if not write.first:
            raise WriteRefused(named(write.claim), "lost the allocation that its pods were to share")
        return
    if devices_of(claim) != wanted_devices(write.allocation):
        raise WriteRefused(named(write.claim), "was allocated elsewhere meanwhile")


def _opened(what: str, raw: bytes) -> Document:
    """The claim that the server answered with. Raises WriteRefused: it may be stored, and we cannot write it again."""
    try:
        return opened(raw)
    except NoClaim as problem:
        raise WriteRefused(what, str(problem), unanswered=True) from problem
