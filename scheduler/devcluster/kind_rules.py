"""Which rules apply to which kind."""

from __future__ import annotations

from scheduler.devcluster import cluster_rules, kinds
from scheduler.devcluster.claim_rules import CLAIM_RULES, CLAIM_TEMPLATE_RULES
from scheduler.devcluster.definitions import DEFINITION_RULES
from scheduler.devcluster.kinds import Kind
from scheduler.devcluster.pod_rules import POD_RULES
from scheduler.devcluster.rules import PLAIN, Rules
from scheduler.devcluster.slice_rules import DEVICE_CLASS_RULES, SLICE_RULES, TAINT_RULE_RULES
from scheduler.devcluster.workload_rules import (
    DAEMON_SET_RULES,
    DEPLOYMENT_RULES,
    JOB_RULES,
    REPLICA_SET_RULES,
    STATEFUL_SET_RULES,
)

_RULES: dict[str, Rules] = {
    kinds.POD.key: POD_RULES,
    kinds.NODE.key: cluster_rules.NODE_RULES,
    kinds.NAMESPACE.key: cluster_rules.NAMESPACE_RULES,
    kinds.EVENT.key: cluster_rules.EVENT_RULES,
    kinds.SERVICE.key: cluster_rules.SERVICE_RULES,
    kinds.VOLUME.key: cluster_rules.VOLUME_RULES,
    kinds.VOLUME_CLAIM.key: cluster_rules.VOLUME_CLAIM_RULES,
    kinds.STORAGE_CLASS.key: cluster_rules.STORAGE_CLASS_RULES,
    kinds.DEPLOYMENT.key: DEPLOYMENT_RULES,
    kinds.REPLICA_SET.key: REPLICA_SET_RULES,
    kinds.STATEFUL_SET.key: STATEFUL_SET_RULES,
    kinds.DAEMON_SET.key: DAEMON_SET_RULES,
    kinds.JOB.key: JOB_RULES,
    kinds.CUSTOM_RESOURCE.key: DEFINITION_RULES,
    kinds.DISRUPTION_BUDGET.key: cluster_rules.BUDGET_RULES,
    kinds.PRIORITY_CLASS.key: cluster_rules.PRIORITY_CLASS_RULES,
    kinds.SLICE.key: SLICE_RULES,
    kinds.CLAIM.key: CLAIM_RULES,
    kinds.CLAIM_TEMPLATE.key: CLAIM_TEMPLATE_RULES,
    kinds.DEVICE_CLASS.key: DEVICE_CLASS_RULES,
    kinds.TAINT_RULE.key: TAINT_RULE_RULES,
}


def rules_of(kind: Kind) -> Rules:
    """The rules of a kind; most have none of their own."""
    return _RULES.get(kind.key, PLAIN)
