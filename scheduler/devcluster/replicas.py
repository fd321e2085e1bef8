"""ReplicaSets as kube-controller-manager runs them: so many active pods, the rest made or given up."""

from __future__ import annotations

from scheduler.devcluster import kinds
from scheduler.devcluster.mirror import Mirror, key_of
from scheduler.devcluster.objects import Obj, name_of, namespace_of, uid_of
from scheduler.devcluster.pods import (
    controller_of,
    from_template,
    is_leaving,
    most_expendable,
)
from scheduler.devcluster.roster import Rosters
from scheduler.devcluster.work import Work


class ReplicaSetControl:
    """Keeps the pods and the status of each ReplicaSet."""

    def __init__(self, sets: Mirror, pods: Mirror, rosters: Rosters) -> None:
        self._sets, self._pods, self._rosters = sets, pods, rosters
        self.work = Work("replicaset", self._sync)
        sets.listen(self._set_changed)
        pods.listen(self._pod_changed)

    def _set_changed(self, _before: Obj | None, after: Obj | None) -> None:
        if after is not None:
            self.work.add(key_of(after))

    def _pod_changed(self, before: Obj | None, after: Obj | None) -> None:
        pod = after if after is not None else before
        assert pod is not None
        owner = controller_of(pod)
        if owner is not None and owner["kind"] == "ReplicaSet":
            self.work.add(f"{namespace_of(pod)}/{owner['name']}")

    async def _sync(self, key: str) -> None:
        owner = self._sets.get(key)
        if owner is None or is_leaving(owner):
            return
        roster, wanted = self._rosters.of(uid_of(owner)), int(owner["spec"]["replicas"])
        over = len(roster.active) - wanted
        if over > 0:
            for pod in most_expendable(list(roster.active.values()))[:over]:
                await self._pods.remove(pod)
        for _ in range(-over):
            template = owner["spec"]["template"]
            await self._pods.create(
                from_template(owner, kinds.REPLICA_SET, template, generateName=f"{name_of(owner)}-")
            )
        await self._report(owner)

    async def _report(self, owner: Obj) -> None:
        roster = self._rosters.of(uid_of(owner))
        replicas, ready = len(roster.active), roster.ready
        counts = {
            "replicas": replicas,
            "fullyLabeledReplicas": replicas,
            "readyReplicas": ready,
            "availableReplicas": ready,
        }
        before = owner.get("status") or {}
        status = {key: value for key, value in before.items() if key not in counts}
        status |= {key: value for key, value in counts.items() if value or key == "replicas"}
        status["observedGeneration"] = owner["metadata"].get("generation", 1)
        if status != before:
            await self._sets.update({**owner, "status": status}, subresource="status")
