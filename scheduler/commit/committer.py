"""Carries a Plan out: re-checks it against newer state, sends its writes in order, reports what became of them.

All claims of a gang stand before its first bind; from then on only forward. What fails before is taken back. Nothing is
kept on disk: killed between any two writes, the next start sees the rest in the API and finishes or clears it
(`scheduler.commit.recovery`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, TypeVar

import structlog

from scheduler.api import changes, core, dra, kinds
from scheduler.commit.attempts import NotLeading, Patience, WriteRefused
from scheduler.commit.claims import Claims
from scheduler.commit.documents import binding_conditions, is_made, placeholder
from scheduler.commit.fence import Fence
from scheduler.commit.known import Known
from scheduler.commit.outcome import BindFailed, CommitFailed, EvictionOutcome, GangOutcome, LeadershipLost, Withdrawn
from scheduler.commit.pods import Pods
from scheduler.commit.recheck import Recheck
from scheduler.commit.recovery import Stray
from scheduler.commit.remainder import split
from scheduler.commit.room import Room
from scheduler.commit.slots import Slots
from scheduler.commit.volumes import Volumes
from scheduler.commit.writes import (
    ClaimMaking,
    ClaimWrite,
    Consumer,
    GangWrites,
    Nominations,
    evictions,
    writes,
)
from scheduler.kube.client import ApiError, Client
from scheduler.model.plan import Plan
from scheduler.model.snapshot import Snapshot

log = structlog.get_logger(__name__)
T = TypeVar("T")
_KINDS = {kind.kind: kind for kind in (kinds.POD, kinds.RESOURCE_CLAIM)}

Allocating = dict[tuple[str, str], asyncio.Future[bool]]
"""Claims (key, uid) that a gang in flight allocates; the future's result is whether they hold their devices."""

Refusals = dict[str, WriteRefused]
"""Pods (key) that cannot be bound, and why."""

_UNTIL_STOPPED = 1_000_000
"""Tries of taking back: as long as the server cannot be reached, nobody else may have the devices either."""


class Committer:
    """One per service. A gang is in flight from `begin` until its outcome; the state counts its pods as bound and its
    devices as given from the first moment, so the next plan may be made meanwhile."""

    def __init__(
        self,
        client: Client,
        state: Known,
        slots: Slots,
        *,
        gangs_in_flight: int,
        patience: Patience,
        may_write: Callable[[], bool],
        now: Callable[[], datetime],
        fence: Fence | None = None,
    ) -> None:
        """`fence`: confirms each claim that was written before it counts; None: nobody does."""
        self._client = client
        self._fence = fence
        self._state = state
        self._slots = slots
        self.claims = Claims(client, state, slots, patience=patience, may_write=may_write, now=now)
        self.volumes = Volumes(client, state, slots, patience=patience, may_write=may_write)
        self._pods = Pods(client, state, slots, patience=patience, may_write=may_write, now=now)
        self._turns = asyncio.Semaphore(gangs_in_flight)
        self._in_flight: dict[str, str] = {}
        self._under_way: set[str] = set()
        self._allocating: Allocating = {}
        self._releasing: set[str] = set()
        self._now = now

    @property
    def in_flight(self) -> Mapping[str, str]:
        """The gangs being committed, and what each is doing."""
        return MappingProxyType(self._in_flight)

    @property
    def under_way(self) -> frozenset[str]:
        """The pods (keys) that are being committed."""
        return frozenset(name.removeprefix("Pod/") for name in self._under_way if name.startswith("Pod/"))

    def begin(self, plan: Plan, snapshot: Snapshot) -> Iterator[asyncio.Task[GangOutcome]]:
        """Start carrying out the placements of `plan`, made from `snapshot`, gang by gang as the tasks are asked for.
        Each task's result is a gang's outcome.

        Whatever is not as it was decided is withdrawn here, before anything of the gang is written: a pod above the
        minimum alone, otherwise the whole gang. A gang comes after those whose claims it shares. Pods that came to a
        gang in flight wait until it has landed."""
        work = writes(plan, snapshot)
        if not work:
            return
        check = Recheck(snapshot, self._state, releasing=self._releasing, promised=self.volumes.promised)
        for gang in work:
            if gang.gang in self._in_flight:
                continue
            going, problem = check.begin(gang)
            if not going.binds:
                yield asyncio.create_task(_withdrawn(gang.gang, problem))
                continue
            allocating = self._assume(going)
            yield asyncio.create_task(self._carry_out(going, allocating, check), name=f"commit {gang.gang}")

    async def commit(self, plan: Plan, snapshot: Snapshot) -> tuple[GangOutcome, ...]:
        """Carry out the placements and wait for all of them; outcomes by gang."""
        outcomes = await asyncio.gather(*self.begin(plan, snapshot))
        return tuple(sorted(outcomes, key=lambda outcome: outcome.gang))

    async def make_room(
        self, plan: Plan, told: Nominations, *, guarded: Container[str] | None = None
    ) -> tuple[EvictionOutcome, ...]:
        """Note on the pods of gangs which nodes are promised to them; then ask those who are in their way to leave.
        Who makes way for nobody goes for himself. `guarded`: pods (keys) whose leaving a budget may refuse; None:
        anybody's."""
        leaving = dict(evictions(plan))
        alone = leaving.pop("", ())
        wanted = [(gang, told.get(gang, ()), leaving.get(gang, ())) for gang in sorted(told.keys() | leaving.keys())]
        wanted += [("", (), (each,)) for each in alone]
        rooms = [Room(self._pods, self._state, *each, guarded, self._now_ms) for each in wanted]
        names = {f"Pod/{pod}" for room in rooms for pod in room.pods} - self._under_way
        self._under_way |= names
        try:
            outcomes = await asyncio.gather(*(room.make() for room in rooms))
        finally:
            self._under_way -= names
        return tuple(outcome for each in outcomes for outcome in each)

    async def release(self, found: Sequence[Stray]) -> tuple[str, ...]:
        """Release claims that hold devices for pods which are neither bound nor placed; the keys of those released.

        The server is asked for the pods first: a pod that is bound after all keeps its devices."""
        mine = [stray for stray in found if stray.claim not in self._releasing and self._worth_asking(stray)]
        self._releasing.update(stray.claim for stray in mine)
        try:
            done = await asyncio.gather(*(self._release(stray) for stray in mine))
        finally:
            self._releasing.difference_update(stray.claim for stray in mine)
        return tuple(sorted(key for key in done if key))

    async def look_again(self, overdue: Sequence[str]) -> None:
        """Read pods and claims ("Pod/a/p", "ResourceClaim/a/c") whose writes the watch should long have shown, and
        believe what the server says. Those of gangs in flight may take their time."""
        for name in overdue:
            if name in self._under_way:
                continue
            sort, _, key = name.partition("/")
            kind = _KINDS[sort]
            namespace, _, plain = key.partition("/")
            try:
                async with self._slots.report():
                    document = await self._client.get_raw(kind, namespace, plain)
            except ApiError as error:
                if error.not_found and name not in self._under_way:
                    self._state.apply(changes.deleted(kind, key))
                continue
            change = changes.read(kind, document, "MODIFIED")
            if change is not None and name not in self._under_way:
                log.warning("a write was not seen coming back", object=name)
                (self._state.forget_pod if kind is kinds.POD else self._state.forget_claim)(key)
                self._state.apply(change)

    def _assume(self, gang: GangWrites) -> Allocating:
        """Count the gang's writes as written. Returns the claims that it allocates."""
        allocating: Allocating = {}
        self._in_flight[gang.gang] = "waiting for its turn"
        self._under_way.update(_subjects(gang))
        for bind in gang.binds:
            self._state.assume_bound(bind.pod, bind.uid, bind.node, queue=bind.queue, now_ms=self._now_ms())
        for write in gang.claims:
            self.claims.intend(write)
            if write.first:
                allocating[write.claim, write.uid] = asyncio.get_running_loop().create_future()
        for making in gang.making:
            self.claims.intend_making(making)
        self.volumes.intend(gang.volumes)
        self._allocating.update(allocating)
        return allocating

    async def _carry_out(self, gang: GangWrites, allocating: Allocating, check: Recheck) -> GangOutcome:
        try:
            outcome = await self._claims_then_binds(gang, allocating, check)
        except NotLeading:
            return GangOutcome(gang=gang.gang, reason=LeadershipLost(gang=gang.gang))
        finally:
            self._in_flight.pop(gang.gang, None)
            self._under_way.difference_update(_subjects(gang))
            self.claims.settle(gang.claims, gang.making)
            self.volumes.settle(gang.volumes)
            for claim, future in allocating.items():
                _set(future, False)
                if self._allocating.get(claim) is future:
                    del self._allocating[claim]
        done = {*outcome.bound, *outcome.unknown}
        for bind in gang.binds:
            if bind.pod not in done:
                self._state.forget_pod(bind.pod)
        return outcome

    async def _claims_then_binds(self, gang: GangWrites, allocating: Allocating, check: Recheck) -> GangOutcome:
        joined = [(write.claim, write.uid) for write in gang.claims if not write.first]
        shared = [self._allocating[claim] for claim in joined if claim in self._allocating]
        if shared:
            self._in_flight[gang.gang] = "waiting for a claim that another gang allocates"
            await asyncio.wait(shared)
        try:
            async with self._turns:
                self._in_flight[gang.gang] = "writing its claims"
                claims, refused = await self._secure(gang, allocating)
                going = _unless_too_few(check, gang, refused)
                if not going.volumes and not any(binding_conditions(claim)[0] for claim in claims):
                    return await self._bind_the_rest(gang, going, check)
            volumes = " and its volumes to be bound" if going.volumes else ""
            self._in_flight[gang.gang] = f"waiting for its devices to become ready{volumes}"
            going = _unless_too_few(check, going, await self._wait_until_ready(going, check))
            async with self._turns:
                return await self._bind_the_rest(gang, going, check)
        except WriteRefused as refused_:
            self._in_flight[gang.gang] = "taking back its claims"
            await self._take_back(gang)
            reason = CommitFailed(gang=gang.gang, object=refused_.object, problem=refused_.problem)
            return GangOutcome(gang=gang.gang, reason=reason, elsewhere=refused_.elsewhere)

    async def _secure(self, gang: GangWrites, allocating: Allocating) -> tuple[list[dict[str, Any]], Refusals]:
        """Every claim of the gang, written, and the pods whose claims were refused. All writes end before a failure is
        raised: then all can be taken back."""

        async def secure(write: ClaimWrite) -> dict[str, Any]:
            secured = False
            try:
                document = await self._alone(await self.claims.secure(write))
                secured = True
                return document
            finally:
                if write.first:
                    _set(allocating[write.claim, write.uid], secured)

        async def make(making: ClaimMaking) -> dict[str, Any]:
            return await self._alone(await self.claims.make(making))

        written = [(secure(write), write.consumers) for write in gang.claims]
        made = [(make(making), (making.consumer,)) for making in gang.making]
        stored = [(self.volumes.secure(write), write.consumers) for write in gang.volumes]
        if not stored:
            return await _all([*written, *made])
        (claims, refused), (_, unstored) = await asyncio.gather(_all([*written, *made]), _all(stored))
        return claims, {**unstored, **refused}

    async def _alone(self, claim: dict[str, Any]) -> dict[str, Any]:
        """The claim, once it is certain that no other one has its devices, as far as the fence can tell."""
        if self._fence is not None:
            await self._fence.confirm(claim)
        return claim

    def _shared(self, gang: GangWrites) -> Refusals:
        """The pods whose devices another claim has got since."""
        found: Refusals = {}
        if self._fence is None:
            return found
        for write in gang.claims:
            refused = self._fence.shared(write.claim)
            if refused is not None:
                found |= {consumer.pod: refused for consumer in write.consumers}
        return found

    async def _wait_until_ready(self, gang: GangWrites, check: Recheck) -> Refusals:
        """The pods whose devices do not become ready, or whose volumes are not bound."""
        node_of = {bind.pod: check.node(bind.node) for bind in gang.binds}
        waits = [(self.claims.wait_until_ready(write.claim), write.consumers) for write in gang.claims]
        for making in gang.making:
            made = self.claims.made_for(making.consumer)
            if made is not None:
                waits.append((self.claims.wait_until_ready(made[0]), (making.consumer,)))
        waits += [
            (self.volumes.wait_until_bound(write, node_of[consumer.pod]), (consumer,))
            for write in gang.volumes
            for consumer in write.consumers
        ]
        _, refused = await _all(waits)
        return refused

    async def _bind_the_rest(self, gang: GangWrites, going: GangWrites, check: Recheck) -> GangOutcome:
        """Binds the pods that are still to be bound, and takes back what was written for the others of the gang.

        Raises WriteRefused, with nothing bound, if too few are left."""
        gone = self._shared(going) | {pod: _refusal(problem) for pod, problem in check.gone(going).items()}
        going = _unless_too_few(check, going, gone)
        outcome = await self._bind_all(going)
        bound = {bind.pod for bind in going.binds}
        left = [bind.pod for bind in gang.binds if bind.pod not in bound]
        if not left:
            return outcome
        log.info("pods above the minimum stay behind", gang=gang.gang, pods=left)
        self._in_flight[gang.gang] = "taking back claims of pods that stay behind"
        _, behind = split(gang, left)
        await self._take_back(behind, but=going)
        return replace(outcome, gone=tuple(sorted([*outcome.gone, *left])))

    async def _bind_all(self, gang: GangWrites) -> GangOutcome:
        self._in_flight[gang.gang] = "binding its pods"
        results = await _ended([self._pods.bind(bind) for bind in gang.binds])
        bound: list[str] = []
        gone: list[str] = []
        unknown: list[str] = []
        failed: list[tuple[str, str]] = []
        for bind, result in zip(gang.binds, results, strict=True):
            if isinstance(result, WriteRefused):
                failed.append((bind.pod, result.problem))
                unknown += [bind.pod] if result.unanswered else []
            elif isinstance(result, BaseException):
                raise result
            else:
                (bound if result else gone).append(bind.pod)
        reason = None
        if failed:
            pod, problem = min(failed)
            reason = BindFailed(gang=gang.gang, bound=len(bound), failed=len(failed), pod=pod, problem=problem)
        return GangOutcome(
            gang=gang.gang,
            bound=tuple(sorted(bound)),
            gone=tuple(sorted(gone)),
            unknown=tuple(sorted(unknown)),
            reason=reason,
        )

    async def _take_back(self, gang: GangWrites, *, but: GangWrites | None = None) -> None:
        """Nothing of the gang is bound: its new reservations go, and allocations and volumes that then serve nobody.
        `but`: pods that are bound all the same."""
        kept = {write.claim for write in but.volumes} if but is not None else set()
        for write in gang.volumes:
            if write.claim not in kept:
                try:
                    await self.volumes.take_back(write)
                except WriteRefused as refused:
                    log.error("a volume could not be taken back", claim=write.claim, problem=refused.problem)
        parts = [(write.claim, write.uid, {consumer.uid for consumer in write.consumers}) for write in gang.claims]
        for making in gang.making:
            made = self.claims.made_for(making.consumer)
            parts += [(*made, {making.consumer.uid})] if made else []
        results = await asyncio.gather(
            *(self.claims.release(claim, uid, pods, attempts=_UNTIL_STOPPED) for claim, uid, pods in parts),
            return_exceptions=True,
        )
        for (claim, _, _), result in zip(parts, results, strict=True):
            if isinstance(result, WriteRefused):
                log.error("a claim could not be released", claim=claim, gang=gang.gang, problem=result.problem)
            elif isinstance(result, BaseException):
                raise result

    async def _release(self, stray: Stray) -> str:
        try:
            keys = {uid: key for key, uid in stray.pods}
            pods = [await self._pods.read(key) for key in keys.values()]
            held = {
                uid
                for (_, uid), pod in zip(stray.pods, pods, strict=True)
                if pod is None or pod["metadata"]["uid"] != uid or not pod["spec"].get("nodeName")
            }
            if not held:
                return ""
            await self.claims.release(stray.claim, stray.uid, held, spare=lambda uid: self._placed(keys[uid], uid))
        except (WriteRefused, ApiError) as problem:
            log.warning("a claim without an owner could not be released", claim=stray.claim, problem=str(problem))
            return ""
        except NotLeading:
            return ""
        log.info("released a claim whose pods are not placed", claim=stray.claim)
        return stray.claim

    def _worth_asking(self, stray: Stray) -> bool:
        claim = self._state.object(kinds.RESOURCE_CLAIM, stray.claim)
        return isinstance(claim, dra.ResourceClaim) and (
            claim.status.allocation is not None or is_made({"metadata": {"annotations": claim.metadata.annotations}})
        )

    def _placed(self, pod: str, uid: str) -> bool:
        """Whether the pod is on a node or on its way there: then it keeps its devices."""
        known = self._state.object(kinds.POD, pod)
        return isinstance(known, core.Pod) and known.metadata.uid == uid and bool(known.spec.node_name)

    def _now_ms(self) -> int:
        return int(self._now().timestamp() * 1000)


def _subjects(gang: GangWrites) -> list[str]:
    """What is written, and the names under which claims that are being made count until they are."""
    claims = [*(write.claim for write in gang.claims), *map(placeholder, gang.making)]
    return [*(f"Pod/{bind.pod}" for bind in gang.binds), *(f"ResourceClaim/{key}" for key in claims)]


async def _withdrawn(gang: str, problem: str) -> GangOutcome:
    return GangOutcome(gang=gang, reason=Withdrawn(gang=gang, problem=problem))


async def _all(parts: Sequence[tuple[Awaitable[T], Sequence[Consumer]]]) -> tuple[list[T], Refusals]:
    """All results, once all have ended, and the pods that those which were refused are for. Raises other failures."""
    results = await _ended([part for part, _ in parts])
    done: list[T] = []
    refused: Refusals = {}
    for result, (_, consumers) in zip(results, parts, strict=True):
        if isinstance(result, WriteRefused):
            for consumer in consumers:
                refused.setdefault(consumer.pod, result)
        elif isinstance(result, BaseException):
            raise result
        else:
            done.append(result)
    return done, refused


async def _ended(parts: Sequence[Awaitable[T]]) -> list[T | BaseException]:
    """What each came to, once all have ended. Most gangs are one pod: that takes no task of its own."""
    if len(parts) != 1:
        return await asyncio.gather(*parts, return_exceptions=True)
    try:
        return [await parts[0]]
    except Exception as error:  # noqa: BLE001 - whoever asked looks at it, as at each of several
        return [error]


def _unless_too_few(check: Recheck, gang: GangWrites, refused: Refusals) -> GangWrites:
    """The writes for the pods that were not refused. Raises the first refusal if the gang needs more than those."""
    going = check.without(gang, refused)
    if not going.binds:
        raise next(iter(refused.values()))
    return going


def _refusal(problem: str) -> WriteRefused:
    kind, name, what = problem.split(" ", 2)
    return WriteRefused(f"{kind} {name}", what)


def _set(future: asyncio.Future[bool], value: bool) -> None:
    if not future.done():
        future.set_result(value)
