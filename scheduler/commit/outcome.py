"""What became of a gang's writes, as values."""

from dataclasses import dataclass
from typing import ClassVar

from queues.words import counted
from scheduler.model.reasons import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """The cluster changed between decision and first write; nothing was written."""

    code: ClassVar[str] = "Withdrawn"
    gang: str
    problem: str

    @property
    def message(self) -> str:
        return f"{self.gang} was placed, but before the first write {self.problem}; nothing was written."

    @property
    def cure(self) -> str:
        return "Nothing to do: it is decided anew with what is there now."


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitFailed:
    """A write before the first bind failed; what was written for the gang is taken back."""

    code: ClassVar[str] = "CommitFailed"
    gang: str
    object: str
    problem: str

    @property
    def message(self) -> str:
        return f"{self.gang} was placed, but {self.object} {self.problem}; none of its pods was bound."

    @property
    def cure(self) -> str:
        return (
            "It is tried again by itself; if this lasts, look at the object named and at the scheduler's permissions."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BindFailed:
    """Some pods of a gang could not be bound. Their claims stand, and the next cycle binds them."""

    code: ClassVar[str] = "BindFailed"
    gang: str
    bound: int
    failed: int
    pod: str
    problem: str

    @property
    def message(self) -> str:
        bound, others = counted(self.bound, "pod is", "pods are"), counted(self.failed, "is", "are")
        return f"{self.gang}: {bound} bound and {others} not yet: Pod {self.pod} {self.problem}."

    @property
    def cure(self) -> str:
        return "It is tried again by itself; if this lasts, look at the pod named and at the scheduler's permissions."


@dataclass(frozen=True, slots=True, kw_only=True)
class NotPromised:
    """The place that others were to leave for a gang could not be noted on its pods; nobody was asked to leave."""

    code: ClassVar[str] = "NotPromised"
    gang: str
    object: str
    problem: str

    @property
    def message(self) -> str:
        return f"Others were to make room for {self.gang}, but {self.object} {self.problem}; nobody was asked to leave."

    @property
    def cure(self) -> str:
        return (
            "It is tried again by itself; if this lasts, look at the object named and at the scheduler's permissions."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadershipLost:
    """Another replica leads: nothing more was written and nothing taken back. It finishes or clears the rest."""

    code: ClassVar[str] = "LeadershipLost"
    gang: str

    @property
    def message(self) -> str:
        return f"{self.gang} was being committed when another replica took over."

    @property
    def cure(self) -> str:
        return "Nothing to do: the new leader finishes it or starts it anew."


@dataclass(frozen=True, slots=True, kw_only=True)
class InternalError:
    """A defect of the scheduler shows with this gang: no plan that holds together can be made with it."""

    code: ClassVar[str] = "InternalError"
    gang: str
    problem: str

    @property
    def message(self) -> str:
        return f"{self.gang} is left out because the scheduler fails with it: {self.problem}."

    @property
    def cure(self) -> str:
        return "Report it as a defect of the scheduler, with the log; it is tried again by itself, ever more rarely."


@dataclass(frozen=True, slots=True, kw_only=True)
class GangOutcome:
    """`bound`: pods that are on their nodes now; `gone`: pods that vanished meanwhile, or lost their place and are
    decided anew; `unknown`: pods of whose bind the server gave no word, which count as bound until it does; all by key,
    sorted. `reason` None: all went through, or all that the gang needs. `elsewhere`: what was in the way is avoided
    from now on, so that the next try will be another one."""

    gang: str
    bound: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    reason: Reason | None = None
    elsewhere: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictionOutcome:
    """`problem` "": the pod is leaving or gone. Otherwise why not: with `refused` because the server did not let it go,
    for a disruption budget for instance; or nobody was asked, by no fault of the pod's. Then `unpromised` tells what is
    the matter with the gang that it was to make way for, if it is that."""

    pod: str
    problem: str = ""
    refused: bool = False
    unpromised: NotPromised | Withdrawn | None = None
