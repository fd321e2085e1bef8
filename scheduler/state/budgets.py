"""PodDisruptionBudgets -> the model's."""

from scheduler.api.policy import DisruptionBudget
from scheduler.model.budgets import Budget
from scheduler.state.company import requirements


def budget(found: DisruptionBudget) -> Budget | None:
    """None if it selects no pods. A status that is older than the spec grants nothing: the server refuses until the
    controller has looked."""
    meta, spec, status = found.metadata, found.spec, found.status
    if spec.selector is None:
        return None
    stale = status.observed_generation < (meta.generation or 0)
    return Budget(
        key=meta.key,
        labels=requirements(spec.selector),
        allowed=0 if stale else max(status.disruptions_allowed, 0),
        desired=max(status.desired_healthy, 0),
        disrupted=tuple(sorted(f"{meta.namespace}/{name}" for name in status.disrupted_pods or ())),
        unhealthy_go=spec.unhealthy_pod_eviction_policy == "AlwaysAllow",
        stale=stale,
    )
