"""What a control plane adds to an API server: the controllers, each a queue of keys fed by watches.

Garbage collection and namespaces are the store's own (`garbage`); evictions are `eviction`'s.
"""

from __future__ import annotations

import asyncio

from scheduler.devcluster import kinds
from scheduler.devcluster.access import Api
from scheduler.devcluster.claims import ClaimControl
from scheduler.devcluster.clock import Clock
from scheduler.devcluster.deployments import DeploymentControl
from scheduler.devcluster.disruption import BudgetControl
from scheduler.devcluster.jobs import JobControl
from scheduler.devcluster.mirror import Mirror
from scheduler.devcluster.pods import controller_uid
from scheduler.devcluster.replicas import ReplicaSetControl
from scheduler.devcluster.roster import Rosters
from scheduler.devcluster.stateful import StatefulSetControl
from scheduler.devcluster.volumes import VolumeControl
from scheduler.devcluster.work import Work


class Controllers:
    """Claims, volumes, Jobs, ReplicaSets, Deployments, StatefulSets and disruption budgets, from one set of mirrors."""

    def __init__(self, api: Api, clock: Clock) -> None:
        pods, claims, templates, jobs, replicas, deployments, stateful, budgets = (
            Mirror(api, kind)
            for kind in (
                kinds.POD,
                kinds.CLAIM,
                kinds.CLAIM_TEMPLATE,
                kinds.JOB,
                kinds.REPLICA_SET,
                kinds.DEPLOYMENT,
                kinds.STATEFUL_SET,
                kinds.DISRUPTION_BUDGET,
            )
        )
        asked, volumes, classes = (Mirror(api, k) for k in (kinds.VOLUME_CLAIM, kinds.VOLUME, kinds.STORAGE_CLASS))
        for mirror in (pods, replicas):
            mirror.index("controller", controller_uid)
        rosters = Rosters(pods)
        claim_control = ClaimControl(api, pods, claims, templates)
        self._mirrors = (
            templates,
            claims,
            pods,
            jobs,
            replicas,
            deployments,
            stateful,
            budgets,
            asked,
            volumes,
            classes,
        )
        volume_control = VolumeControl(api, pods, asked, volumes, classes)
        self._works: tuple[Work, ...] = (
            claim_control.pod_work,
            claim_control.claim_work,
            volume_control.pod_work,
            volume_control.claim_work,
            volume_control.volume_work,
            JobControl(api, clock, jobs, pods, rosters).work,
            ReplicaSetControl(replicas, pods, rosters).work,
            DeploymentControl(api, deployments, replicas, pods).work,
            StatefulSetControl(stateful, pods, asked).work,
            BudgetControl(api, budgets, pods, (replicas, stateful, jobs)).work,
        )

    @property
    def quiet(self) -> bool:
        """True when all that the mirrors know of is done."""
        return all(mirror.synced.is_set() for mirror in self._mirrors) and all(work.quiet for work in self._works)

    async def run(self) -> None:
        """Work until cancelled. What no controller expects ends it."""
        async with asyncio.TaskGroup() as group:
            for mirror in self._mirrors:
                group.create_task(mirror.run())
            for mirror in self._mirrors:
                await mirror.synced.wait()
            for work in self._works:
                group.create_task(work.run())
