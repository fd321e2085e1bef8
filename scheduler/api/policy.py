"""policy/v1: what we read of PodDisruptionBudgets. Their controller does the counting; we read what came of it."""

from collections.abc import Mapping

import msgspec

from scheduler.api.meta import LabelSelector, ObjectMeta, Wire


class DisruptionBudgetSpec(Wire, frozen=True, kw_only=True):
    """`selector` absent: no pod; empty: every pod of the namespace."""

    selector: LabelSelector | None = None
    unhealthy_pod_eviction_policy: str = ""


class DisruptionBudgetStatus(Wire, frozen=True, kw_only=True):
    """`disrupted_pods`: by name, pods whose eviction was granted and that the controller has not seen leaving yet."""

    disruptions_allowed: int = 0
    desired_healthy: int = 0
    observed_generation: int = 0
    disrupted_pods: Mapping[str, str] | None = None


class DisruptionBudget(Wire, frozen=True, kw_only=True):
    metadata: ObjectMeta
    spec: DisruptionBudgetSpec = msgspec.field(default_factory=DisruptionBudgetSpec)
    status: DisruptionBudgetStatus = msgspec.field(default_factory=DisruptionBudgetStatus)
