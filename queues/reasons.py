"""This floor's refusals, as values. `code` is the stable token; `message` says what and how much; `cure` what to do."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueReason:
    """Base of the refusals that concern a queue."""

    code: ClassVar[str]
    queue: str

    @property
    def message(self) -> str:
        raise NotImplementedError(f"{type(self).__name__} has no message")

    @property
    def cure(self) -> str:
        raise NotImplementedError(f"{type(self).__name__} has no cure")


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
        return f"Name one of its leaves: {', '.join(self.children)}."


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
            f"{amount(self.resource, self.allocated)} are in use and {amount(self.resource, self.asked)} are asked for."
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
            f"{amount(self.resource, self.allocated)} of it are in use by such work and "
            f"{amount(self.resource, self.asked)} are asked for."
        )

    @property
    def cure(self) -> str:
        return f"Make the workload preemptible, or raise spec.resources.{self.resource}.quota of Queue {self.queue}."


def amount(resource: str, value: int) -> str:
    """An amount in words: house units to what people write ("8 GPU", "500m CPU", "16Gi memory")."""
    if resource in ("gpu", "cpu"):
        whole = f"{value // 1000}" if value % 1000 == 0 else f"{value}m"
        return f"{whole} {resource.upper()}"
    if resource == "memory":
        for power, suffix in ((5, "Pi"), (4, "Ti"), (3, "Gi"), (2, "Mi"), (1, "Ki")):
            if value and value % 1024**power == 0:
                return f"{value // 1024**power}{suffix} memory"
        return f"{value} bytes memory"
    if resource.startswith("deviceclass/"):
        devices = f"{value // 1000}" if value % 1000 == 0 else f"{value}m"
        return f"{devices} devices of class {resource.removeprefix('deviceclass/')}"
    return f"{value} {resource}"
