"""What the kubelet asks for, claim by claim: read the claim, do the work, and have the answer when it is asked for.

Calls for different claims overlap; their work on the hardware does not (the node's lock). For one claim, what is asked
first is done first. Work that takes longer than the kubelet waits goes on, and the kubelet's next call finds it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import structlog

from dra_driver.devices import ClaimRef, Grant, Prepared
from scheduler.kube.client import ApiError

log = structlog.get_logger(__name__)

T = TypeVar("T")
Document = Mapping[str, Any]


class Work(Protocol):
    """Work on the hardware (`dra_driver.prepare`). It blocks; the caller holds the node's lock."""

    def prepare(self, claim: ClaimRef, grants: tuple[Grant, ...]) -> tuple[Prepared, ...]:
        """The claim's devices, made ready. Safe to repeat."""

    def unprepare(self, claim: ClaimRef) -> None:
        """All that `prepare` did, undone. Safe to repeat, and for a claim that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a claim that cannot be prepared is tried again, and the pause between two tries, in seconds."""

    seconds: float
    pause: float = 1.0


class Measures(Protocol):
    """Who counts. `operation`: "prepare" or "unprepare"."""

    def took(self, operation: str, seconds: float) -> None:
        """Work for a claim has ended, well or not."""

    def failed(self, operation: str, problem: Exception) -> None:
        """Work for a claim has failed."""


class _Uncounted:
    """Nobody counts."""

    def took(self, operation: str, seconds: float) -> None:
        del operation, seconds

    def failed(self, operation: str, problem: Exception) -> None:
        del operation, problem


class ClaimGone(Exception):
    """The claim that the kubelet asks for is not there, or is another of that name, or nobody may use it."""


class Claims:
    """`fetch`: the claim's document by namespace and name, raises ApiError. `grants`: what it was given of ours.

    `lock`: the node's lock, waited for in a thread. `refusals`: what the others raise for a claim they refuse; its text
    is for the user. `passing`: of those, what may be over in a moment; it is tried again for `patience`. `failed` is
    told of each Prepare that failed: claim, its document if it was read, words. `measures`: who counts and times all of
    it."""

    def __init__(
        self,
        work: Work,
        *,
        fetch: Callable[[str, str], Awaitable[Document]],
        grants: Callable[[Document], tuple[Grant, ...]],
        lock: Callable[[], AbstractContextManager[None]],
        refusals: tuple[type[Exception], ...],
        passing: tuple[type[Exception], ...] = (),
        patience: Patience | None = None,
        failed: Callable[[ClaimRef, Document | None, str], None],
        measures: Measures | None = None,
    ) -> None:
        self._work = work
        self._fetch = fetch
        self._grants = grants
        self._lock = lock
        self._refusals: tuple[type[Exception], ...] = (*refusals, *passing, ClaimGone, ApiError)
        self._passing = passing
        self._patience = patience or Patience(seconds=0)
        self._failed = failed
        self._measures = measures or _Uncounted()
        self._hardware = asyncio.Lock()
        self._last: dict[str, tuple[str, asyncio.Task[Any]]] = {}
        """By uid: what was asked last, while it is under way."""

    async def prepare(self, claims: Sequence[ClaimRef], seconds: float) -> Mapping[str, tuple[Prepared, ...] | str]:
        """By uid: the devices of each claim, or in words why there are none."""
        tasks = {each.uid: self._begun("prepare", each, self._prepare) for each in claims}
        return await _in_time(tasks, seconds, late="Preparing takes long: it goes on, and the next call finds it.")

    async def unprepare(self, claims: Sequence[ClaimRef], seconds: float) -> Mapping[str, str]:
        """By uid: why it is not given back, "" if it is."""
        tasks = {each.uid: self._begun("unprepare", each, self._unprepare) for each in claims}
        return await _in_time(tasks, seconds, late="Giving back takes long: it goes on, and the next call finds it.")

    async def settled(self) -> None:
        """Until nothing is under way."""
        while under_way := [task for _, task in self._last.values()]:
            await asyncio.wait(under_way)

    def _begun(self, what: str, claim: ClaimRef, do: Callable[[ClaimRef], Coroutine[Any, Any, T]]) -> "asyncio.Task[T]":
        """The work, under way: what an earlier call has begun, if that was the same, else a new task behind it."""
        last, before = self._last.get(claim.uid, ("", None))
        if before is not None and last == what:
            return before
        task = asyncio.create_task(_after(before, self._timed(what, do), claim))
        self._last[claim.uid] = what, task
        task.add_done_callback(lambda done: self._ended(claim.uid, done))
        return task

    def _timed(
        self, what: str, do: Callable[[ClaimRef], Coroutine[Any, Any, T]]
    ) -> Callable[[ClaimRef], Coroutine[Any, Any, T]]:
        async def timed(claim: ClaimRef) -> T:
            begun = time.perf_counter()
            try:
                return await do(claim)
            finally:
                self._measures.took(what, time.perf_counter() - begun)

        return timed

    def _ended(self, uid: str, task: "asyncio.Task[Any]") -> None:
        if self._last.get(uid, ("", None))[1] is task:
            del self._last[uid]

    async def _prepare(self, claim: ClaimRef) -> tuple[Prepared, ...] | str:
        """The kubelet asks again only after a minute or more: what may pass in a moment is tried again here."""
        clock = asyncio.get_running_loop().time
        until = clock() + self._patience.seconds
        while True:
            document: Document | None = None
            try:
                document = await self._read(claim)
                grants = self._grants(document)
                devices = await self._locked_prepare(claim, grants)
            except self._passing as problem:
                failure = problem
            except self._refusals as problem:
                return self._refused(claim, document, problem, str(problem))
            except Exception as defect:
                log.exception("a defect", claim=f"{claim.namespace}/{claim.name}", uid=claim.uid)
                return self._refused(claim, document, defect, _defect("prepared", claim, defect))
            else:
                log.info(
                    "prepared",
                    claim=f"{claim.namespace}/{claim.name}",
                    uid=claim.uid,
                    devices=[each.grant.device for each in devices],
                )
                return devices
            if clock() + self._patience.pause > until or self._overtaken(claim):
                return self._refused(claim, document, failure, str(failure))
            await asyncio.sleep(self._patience.pause)

    def _overtaken(self, claim: ClaimRef) -> bool:
        """Whether something else has been asked for the claim since, which waits for us."""
        return self._last.get(claim.uid, ("", None))[1] is not asyncio.current_task()

    async def _locked_prepare(self, claim: ClaimRef, grants: tuple[Grant, ...]) -> tuple[Prepared, ...]:
        return await self.alone(lambda: self._work.prepare(claim, grants))

    async def _unprepare(self, claim: ClaimRef) -> str:
        try:
            await self.alone(lambda: self._work.unprepare(claim))
        except self._refusals as problem:
            self._measures.failed("unprepare", problem)
            log.warning("not given back", claim=f"{claim.namespace}/{claim.name}", uid=claim.uid, problem=str(problem))
            return str(problem)
        except Exception as defect:
            self._measures.failed("unprepare", defect)
            log.exception("a defect", claim=f"{claim.namespace}/{claim.name}", uid=claim.uid)
            return _defect("given back", claim, defect)
        log.info("given back", claim=f"{claim.namespace}/{claim.name}", uid=claim.uid)
        return ""

    async def _read(self, claim: ClaimRef) -> Document:
        """The very claim that the kubelet means: a namesake made since is another, and a late call may find nobody."""
        name = f"ResourceClaim {claim.namespace}/{claim.name}"
        try:
            document = await self._fetch(claim.namespace, claim.name)
        except ApiError as error:
            if not error.not_found:
                raise
            raise ClaimGone(f"{name}: is not there any more; nothing is prepared for it.") from None
        found = (document.get("metadata") or {}).get("uid")
        if found != claim.uid:
            raise ClaimGone(
                f"{name}: has uid {found}, and {claim.uid} was asked for; delete the pod, which was made for the "
                "claim of that name before."
            )
        if not (document.get("status") or {}).get("reservedFor"):
            raise ClaimGone(f"{name}: is reserved for nobody; it is prepared when a scheduler has reserved it.")
        return document

    async def alone(self, do: Callable[[], T]) -> T:
        """Work on the hardware in a thread, alone on this node. Who waits for its turn here holds no thread."""

        def locked() -> T:
            with self._lock():
                return do()

        async with self._hardware:
            work = asyncio.ensure_future(asyncio.to_thread(locked))
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                # A thread cannot be cancelled: until it is done nobody else may be at the hardware, nor it be closed.
                await asyncio.wait({work})
                if not work.cancelled() and (problem := work.exception()) is not None:
                    log.warning("work that nobody waits for any more has failed", problem=str(problem))
                raise

    def _refused(self, claim: ClaimRef, document: Document | None, problem: Exception, words: str) -> str:
        self._measures.failed("prepare", problem)
        log.warning("not prepared", claim=f"{claim.namespace}/{claim.name}", uid=claim.uid, problem=words)
        self._failed(claim, document, words)
        return words


async def _after(
    before: "asyncio.Task[Any] | None", do: Callable[[ClaimRef], Coroutine[Any, Any, T]], claim: ClaimRef
) -> T:
    if before is not None:
        await asyncio.wait({before})
    return await do(claim)


async def _in_time(tasks: Mapping[str, "asyncio.Task[T]"], seconds: float, *, late: str) -> dict[str, T | str]:
    """What is known within `seconds`. The tasks go on, also when the caller is cancelled."""
    if tasks:
        await asyncio.wait(tasks.values(), timeout=seconds)
    return {uid: task.result() if task.done() else late for uid, task in tasks.items()}


def _defect(what: str, claim: ClaimRef, defect: Exception) -> str:
    return (
        f"ResourceClaim {claim.namespace}/{claim.name}: could not be {what} for a defect of the node plugin "
        f"({type(defect).__name__}: {defect}); its log says more. The call is repeated."
    )
