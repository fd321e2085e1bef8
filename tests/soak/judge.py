"""What must hold at every moment of a soak, whatever happens: read off the API server itself, not off the scheduler."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from scheduler import decision
from scheduler.api import kinds
from scheduler.api.changes import Change
from scheduler.commit.outcome import InternalError
from scheduler.kube.client import Client
from scheduler.kube.reflector import Reflector
from scheduler.model.plan import Plan
from tests.soak.life import GROUP

MOST_PARTIAL_SECONDS = 30.0
_TICK_SECONDS = 0.25
Document = dict[str, object]


class _Meta(msgspec.Struct, frozen=True):
    labels: dict[str, str] = {}
    deletionTimestamp: str = ""


class _Spec(msgspec.Struct, frozen=True):
    nodeName: str = ""


class _Condition(msgspec.Struct, frozen=True):
    type: str
    status: str


class _Status(msgspec.Struct, frozen=True):
    phase: str = ""
    conditions: tuple[_Condition, ...] = ()


class Pod(msgspec.Struct, frozen=True):
    """What of a pod tells whether its gang is whole."""

    metadata: _Meta = _Meta()
    spec: _Spec = _Spec()
    status: _Status = _Status()

    @property
    def is_evicted(self) -> bool:
        """Whether it was asked to leave, by whomever."""
        return any(each.type == "DisruptionTarget" and each.status == "True" for each in self.status.conditions)


_pod = msgspec.json.Decoder(Pod)


class Awake:
    """Seconds that this process was awake: where it was stopped for a while, or starved, nobody in it could act."""

    def __init__(self) -> None:
        self.seconds = 0.0

    async def count(self) -> None:
        """Until cancelled."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = time.monotonic()
            self.seconds += min(now - before, 2 * _TICK_SECONDS)
            before = now


@dataclass
class Wholeness:
    """How long gangs are bound in part. A gang that has lost a pod (failed, deleted, its node gone, evicted) is left
    out: what it lost has to come again first, and that takes as long as there is no room. One that was only hurt by
    evictions is judged again as soon as it is whole without those that leave, or has no pod on any node any more.

    `minimum`: pods that each gang needs; `gone`: gangs that were deleted. `tell` hears who is bound in part, and when
    that ends. `longest`: seconds that any gang was bound in part, with its name."""

    minimum: Mapping[str, int]
    gone: Collection[str]
    tell: Callable[[str], None]
    awake: Awake
    longest: tuple[float, str] = (0.0, "")
    problems: list[str] = field(default_factory=list)
    _pods: dict[str, dict[str, Pod]] = field(default_factory=dict)
    _hurt: set[str] = field(default_factory=set)
    _asked_to_leave: set[str] = field(default_factory=set)
    """Gangs that have lost pods by evictions alone since they were whole, or had none bound."""
    _since: dict[str, float] = field(default_factory=dict)

    async def watch(self, client: Client) -> None:
        """Follow the pods until cancelled."""
        queue: asyncio.Queue[list[Change]] = asyncio.Queue()
        following = asyncio.create_task(Reflector(client=client, kind=kinds.POD).run(queue))
        try:
            while True:
                for change in await queue.get():
                    self._see(change)
        finally:
            following.cancel()

    def look(self) -> None:
        """Note who has been bound in part for too long. To be called every now and then, and at the end."""
        for gang in sorted(self._since.keys() - set(self.gone)):
            self._measure(gang)

    def _see(self, change: Change) -> None:
        if change.type == "LISTED":
            return
        if change.type == "DELETED":
            for gang, pods in self._pods.items():
                # One that has succeeded did its part, and goes on counting.
                if change.key in pods and pods[change.key].status.phase != "Succeeded":
                    self._lose(gang, pods.pop(change.key))
                    self._judge(gang)
            return
        pod = _pod.decode(change.raw)
        gang = pod.metadata.labels.get(GROUP, "")
        self._pods.setdefault(gang, {})[change.key] = pod
        if pod.metadata.deletionTimestamp or pod.status.phase == "Failed":
            self._lose(gang, pod)
        self._judge(gang)

    def _lose(self, gang: str, pod: Pod) -> None:
        if not pod.spec.nodeName or pod.status.phase == "Succeeded":
            return
        if pod.is_evicted:
            self._asked_to_leave.add(gang)
        else:
            self._hurt.add(gang)

    def _heal(self, gang: str) -> None:
        bound = [pod for pod in self._pods[gang].values() if pod.spec.nodeName]
        staying = sum(1 for pod in bound if not pod.metadata.deletionTimestamp and pod.status.phase != "Failed")
        if not bound or staying >= self.minimum.get(gang, 0):
            self._asked_to_leave.discard(gang)

    def _judge(self, gang: str) -> None:
        self._heal(gang)
        pods = self._pods[gang].values()
        bound = sum(1 for pod in pods if pod.spec.nodeName)
        partial = 0 < bound < self.minimum.get(gang, 0) and gang not in self._hurt | self._asked_to_leave
        partial = partial and gang not in self.gone
        if partial:
            if gang not in self._since:
                self.tell(f"{gang} is bound in part")
                self._since[gang] = self.awake.seconds
        elif gang in self._since:
            self.tell(f"{gang} is no longer bound in part: {bound} of {self.minimum[gang]} pods are bound")
            self._measure(gang)
            del self._since[gang]

    def _measure(self, gang: str) -> None:
        lasted = self.awake.seconds - self._since[gang]
        self.longest = max(self.longest, (lasted, gang))
        problem = f"gang {gang} was bound in part for more than {MOST_PARTIAL_SECONDS:g} s"
        if lasted > MOST_PARTIAL_SECONDS and problem not in self.problems:
            self.problems.append(problem)


class Refused:
    """Stands for the log of whoever decides: a plan that could not be made, or broke a rule, is a defect, although the
    scheduler goes on with a more modest one. `problems`: what was wrong, each once."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self.problems: list[str] = []

    def error(self, event: str, **more: Any) -> None:
        """What is logged."""
        problem = f"{event}: {more.get('problem')}"
        if problem not in self.problems:
            self.problems.append(problem)
        self._log.error(event, **more)

    @contextlib.asynccontextmanager
    async def heard(self) -> AsyncIterator[None]:
        """For the block."""
        decision.log = self
        try:
            yield
        finally:
            decision.log = self._log


def defects(plan: Plan) -> list[str]:
    """The gangs that no plan could be made with, for a defect of the scheduler's."""
    return [
        f"no plan can be made with gang {decision.gang}: {decision.reason.problem}"
        for decision in plan.gangs
        if isinstance(decision.reason, InternalError)
    ]


def leaks(claims: list[dict[str, object]]) -> list[str]:
    """What claims still hold when nobody is left to use them."""
    found = []
    for claim in claims:
        name = claim["metadata"]["name"]  # type: ignore[index]
        status = claim.get("status") or {}
        if status.get("allocation"):  # type: ignore[attr-defined]
            found.append(f"claim {name} still holds devices")
        if status.get("reservedFor"):  # type: ignore[attr-defined]
            found.append(f"claim {name} is still reserved")
    return found
