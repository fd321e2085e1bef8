"""This floor's refusals, as values. `code` is the stable token; `message` says what and how much; `cure` what to do."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from queues.words import amount


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueReason(ABC):
    """A refusal that concerns a queue."""

    code: ClassVar[str]
    queue: str

    @property
    @abstractmethod
    def message(self) -> str: ...

    @property
    @abstractmethod
    def cure(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueDoesNotExist(QueueReason):
    code: ClassVar[str] = "QueueDoesNotExist"

    @property
    def message(self) -> str:
        return f"Queue {self.queue} does not exist."

    @property
    def cure(self) -> str:
        return f"Create Queue {self.queue}, or name an existing leaf queue."


@dataclass(frozen=True, slots=True, kw_only=True)
class NoQueueNamed(QueueReason):
    code: ClassVar[str] = "NoQueueNamed"

    @property
    def message(self) -> str:
        return "No queue is named, and there is no default queue."

    @property
    def cure(self) -> str:
        return f"Set spec.queue of the PodGroup or the label tutti.scheduler/queue, or create Queue {self.queue}."


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueIsNoLeaf(QueueReason):
    code: ClassVar[str] = "QueueIsNoLeaf"
    children: tuple[str, ...]

    @property
    def message(self) -> str:
        return f"Queue {self.queue} has child queues and takes no workloads itself."

    @property
    def cure(self) -> str:
        are = "its only child is" if len(self.children) == 1 else "its children are"
        return f"Name a leaf queue below it; {are} {', '.join(self.children)}."


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueUnusable(QueueReason):
    """The queue, or one above it, is in a cycle, has a missing parent or cannot be read."""

    code: ClassVar[str] = "QueueUnusable"
    why: str
    remedy: str

    @property
    def message(self) -> str:
        return f"Queue {self.queue} cannot be used: {self.why}."

    @property
    def cure(self) -> str:
        return self.remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitBelowQuota(QueueReason):
    """The queue is promised more than it may use. It takes part all the same, up to its limit."""

    code: ClassVar[str] = "LimitBelowQuota"
    resource: str
    quota: int
    limit: int

    @property
    def message(self) -> str:
        limit, quota = amount(self.resource, self.limit), amount(self.resource, self.quota)
        return f"Queue {self.queue}: its limit of {limit} is below its quota of {quota}, which it can never use up."

    @property
    def cure(self) -> str:
        return f"Raise spec.resources.{self.resource}.limit, or lower spec.resources.{self.resource}.quota."


@dataclass(frozen=True, slots=True, kw_only=True)
class OverLimit(QueueReason):
    """Admitting `asked` would take `queue` (the leaf or one above it) past its limit of `resource`."""

    code: ClassVar[str] = "OverLimit"
    resource: str
    asked: int
    allocated: int
    limit: int

    @property
    def message(self) -> str:
        return (
            f"Queue {self.queue} would exceed its limit of {amount(self.resource, self.limit)}: "
            f"it uses {amount(self.resource, self.allocated)} and this asks for {amount(self.resource, self.asked)}."
        )

    @property
    def cure(self) -> str:
        if self.asked > self.limit:
            return f"Raise spec.resources.{self.resource}.limit of Queue {self.queue}, or ask for less."
        return f"Wait until work of Queue {self.queue} ends, or raise its spec.resources.{self.resource}.limit."


@dataclass(frozen=True, slots=True, kw_only=True)
class OverQuota(QueueReason):
    """Work that cannot be preempted must fit in the quota of its queue and of every queue above."""

    code: ClassVar[str] = "OverQuota"
    resource: str
    asked: int
    allocated: int
    quota: int

    @property
    def message(self) -> str:
        return (
            f"Non-preemptible work must fit in the quota of Queue {self.queue}, {amount(self.resource, self.quota)}: "
            f"such work uses {amount(self.resource, self.allocated)} and this asks for "
            f"{amount(self.resource, self.asked)}."
        )

    @property
    def cure(self) -> str:
        what = f"make the workload preemptible, or raise spec.resources.{self.resource}.quota of Queue {self.queue}."
        return f"Wait until such work ends, {what}" if self.asked <= self.quota else f"M{what[1:]}"
