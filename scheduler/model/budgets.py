"""PodDisruptionBudgets: how many of the pods that they cover may be evicted now. Source: policy/v1, KEP 3017."""

from dataclasses import dataclass

from scheduler.api.core import NodeSelectorRequirement
from scheduler.model.company import holds
from scheduler.model.workloads import Pod


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A budget as its status tells it. Key `namespace/name`. It covers the pods of its namespace whose labels hold all
    of `labels`, all of them if that is empty.

    `allowed`: evictions that may still be granted; 0 if the status is older than the budget (`stale`). `desired`: pods
    that have to stay healthy. `disrupted`: pods (key) already taken off `allowed` and perhaps not seen leaving.
    `unhealthy_go`: pods that are not ready may always go; else only while enough others are healthy."""

    key: str
    labels: tuple[NodeSelectorRequirement, ...] = ()
    allowed: int = 0
    desired: int = 0
    disrupted: tuple[str, ...] = ()
    unhealthy_go: bool = False
    stale: bool = False

    @property
    def namespace(self) -> str:
        return self.key.partition("/")[0]

    def covers(self, pod: Pod) -> bool:
        return pod.namespace == self.namespace and holds(self.labels, pod.labels)
