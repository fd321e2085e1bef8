"""One pod at the API server: bound, looked up, asked to leave. Every step may be repeated."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import structlog

from scheduler.api import kinds
from scheduler.api.crds import CHARGED_QUEUE_ANNOTATION, MAX_RUNTIME_REACHED
from scheduler.commit.attempts import Patience, WriteRefused, persist
from scheduler.commit.known import Known
from scheduler.commit.outcome import EvictionOutcome
from scheduler.commit.slots import Slots
from scheduler.commit.writes import Bind, Evict, Nominate
from scheduler.kube.client import ApiError, Client
from scheduler.model.endings import OVERTIME, STALE

log = structlog.get_logger(__name__)

_CAUSES = {STALE: "GangBelowMinimum", OVERTIME: "MaxRuntimeReached"}
"""What DisruptionTarget gives as its reason where nobody is preempted."""


class Pods:
    """Binds and evicts pods; what the server accepted counts in `state` at once."""

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

    async def bind(self, bind: Bind) -> bool:
        """Whether the pod is on its node now; False if it vanished. Raises WriteRefused if it cannot be bound."""
        namespace, _, name = bind.pod.partition("/")
        noted = {CHARGED_QUEUE_ANNOTATION: bind.queue} if bind.queue else None

        async def step(_: int) -> bool:
            try:
                async with self._slots.commit():
                    await self._client.bind(namespace, name, bind.uid, bind.node, annotations=noted)
                return True
            except ApiError as error:
                if error.not_found:
                    return False
                if not error.conflict:
                    raise
                arrived = await self._arrived(bind)
                if arrived is None:
                    raise
                return arrived

        try:
            return await persist(f"Pod {bind.pod}", self._patience, self._may_write, step)
        except WriteRefused as refused:
            if not refused.unanswered:
                raise
            try:
                arrived = await self._arrived(bind)
            except ApiError:
                raise refused from None
            if arrived is None:
                raise WriteRefused(refused.object, refused.problem) from None
            return arrived

    async def may_leave(self, eviction: Evict) -> EvictionOutcome:
        """Whether the server would let the pod be evicted now, as far as it can say of this one alone."""
        namespace, _, name = eviction.pod.partition("/")
        if not self._may_write():
            return EvictionOutcome(pod=eviction.pod, problem="another replica leads")
        try:
            async with self._slots.commit():
                await self._client.evict(namespace, name, uid=eviction.uid, dry_run=True)
        except ApiError as error:
            if not error.not_found:
                return EvictionOutcome(pod=eviction.pod, problem=error.message, refused=True)
        return EvictionOutcome(pod=eviction.pod)

    async def evict(self, eviction: Evict) -> EvictionOutcome:
        """Ask the pod to leave, through the Eviction API, so that budgets are respected."""
        namespace, _, name = eviction.pod.partition("/")
        if not self._may_write():
            return EvictionOutcome(pod=eviction.pod, problem="another replica leads")
        if eviction.stage == OVERTIME:  # a Job decides by it what becomes of the work, as soon as the pod has ended
            await self._tell(eviction, _condition(MAX_RUNTIME_REACHED, "MaxRuntimeReached", eviction.why))
        there = True
        try:
            async with self._slots.commit():
                await self._client.evict(namespace, name, uid=eviction.uid)
        except ApiError as error:
            if not error.not_found:
                return EvictionOutcome(pod=eviction.pod, problem=error.message, refused=True)
            there = False
        self._state.assume_terminating(eviction.pod, eviction.uid, now_ms=self._now_ms())
        if there:
            reason = _CAUSES.get(eviction.stage, "PreemptionByScheduler")
            await self._tell(eviction, _condition("DisruptionTarget", reason, eviction.why))
        return EvictionOutcome(pod=eviction.pod)

    async def _tell(self, eviction: Evict, condition: dict[str, str]) -> None:
        """On the pod that leaves, where Jobs look for causes that are not its own. DisruptionTarget has just been set
        by the API server, which says no more than that the pod was evicted. Whoever is gone already is told nothing."""
        namespace, _, name = eviction.pod.partition("/")
        timed = {**condition, "lastTransitionTime": self._now().strftime("%Y-%m-%dT%H:%M:%SZ")}
        body = {"metadata": {"uid": eviction.uid}, "status": {"conditions": [timed]}}
        try:
            async with self._slots.report():
                await self._client.patch(kinds.POD, namespace, name, body, subresource="status", how="strategic")
        except ApiError as error:
            if not (error.not_found or error.conflict):
                log.info("a pod was not told why it leaves", pod=eviction.pod, problem=error.message)

    async def nominate(self, nomination: Nominate) -> bool:
        """Whether the pod's status names the node now; False if the pod is gone. Raises WriteRefused."""
        namespace, _, name = nomination.pod.partition("/")
        body = {"metadata": {"uid": nomination.uid}, "status": {"nominatedNodeName": nomination.node or None}}

        async def step(_: int) -> bool:
            try:
                async with self._slots.commit():
                    await self._client.patch(kinds.POD, namespace, name, body, subresource="status")
            except ApiError as error:
                if error.not_found or error.conflict:
                    return False
                raise
            self._state.assume_nominated(nomination.pod, nomination.uid, nomination.node, now_ms=self._now_ms())
            return True

        return await persist(f"Pod {nomination.pod}", self._patience, self._may_write, step)

    async def read(self, key: str) -> dict[str, Any] | None:
        """The pod as the server has it; None if it is gone. Raises ApiError."""
        namespace, _, name = key.partition("/")
        try:
            async with self._slots.commit():
                return await self._client.get(kinds.POD, namespace, name)
        except ApiError as error:
            if error.not_found:
                return None
            raise

    async def _arrived(self, bind: Bind) -> bool | None:
        """What the server says of the pod: True, it is on its node; False, it is gone; None, it waits. Raises
        WriteRefused if it is on another node."""
        pod = await self.read(bind.pod)
        if pod is None or pod["metadata"]["uid"] != bind.uid or pod["metadata"].get("deletionTimestamp"):
            return False
        node = pod["spec"].get("nodeName", "")
        if node and node != bind.node:
            raise WriteRefused(f"Pod {bind.pod}", f"was bound to {node} by another")
        return True if node else None

    def _now_ms(self) -> int:
        return int(self._now().timestamp() * 1000)


def _condition(type_: str, reason: str, message: str) -> dict[str, str]:
    return {"type": type_, "status": "True", "reason": reason, "message": message}
