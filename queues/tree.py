"""Queue, QueueTree: quota, limit, over-quota weight, priority; roll-ups; refuses cycles and orphans."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueResource:
    """House units (`queues.resources`). `limit` None: no limit."""

    quota: int = 0
    limit: int | None = None
    weight: int = 1


UNSET = QueueResource()


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """One queue as configured. `resources` by name: "gpu" and "cpu" in thousandths, "memory" in bytes,
    "deviceclass/<DeviceClass>" in thousandths of a device. A name that is absent means quota 0, no limit, weight 1."""

    name: str
    parent: str | None = None
    priority: int = 100
    resources: Mapping[str, QueueResource] = field(default_factory=dict)
    created_ms: int = 0
    preempt_min_runtime_ms: int | None = None
    reclaim_min_runtime_ms: int | None = None

    def __getitem__(self, resource: str) -> QueueResource:
        return self.resources.get(resource, UNSET)
