"""ReplicaSets as kube-controller-manager runs them: so many active pods, the rest made or given up."""

from __future__ import annotations

from scheduler.devcluster import kinds
from scheduler.devcluster.mirror import Mirror, key_of
from scheduler.devcluster.objects import Obj, name_of, namespace_of, uid_of
from scheduler.devcluster.pods import (
    controller_of,
    from_template,
    is_active,
    is_leaving,
    is_ready,
    most_expendable,
)
from scheduler.devcluster.work import Work


class ReplicaSetControl:
    """Keeps the pods and the status of each ReplicaSet."""

    def __init__(self, sets: Mirror, pods: Mirror) -> None:
        self._sets, self._pods = sets, pods
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
        active = [pod for pod in self._pods.under("controller", uid_of(owner)) if is_active(pod)]
        wanted = int(owner["spec"]["replicas"])
        surplus = most_expendable(active)[: max(0, len(active) - wanted)]
        for pod in surplus:
            await self._pods.remove(pod)
        gone = {uid_of(pod) for pod in surplus}
        active = [pod for pod in active if uid_of(pod) not in gone]
        for _ in range(wanted - len(active)):
            template = owner["spec"]["template"]
            pod = from_template(owner, kinds.REPLICA_SET, template, generateName=f"{name_of(owner)}-")
            active.append(await self._pods.create(pod))
        await self._report(owner, active)

    async def _report(self, owner: Obj, active: list[Obj]) -> None:
        ready = sum(is_ready(pod) for pod in active)
        counts = {
            "replicas": len(active),
            "fullyLabeledReplicas": len(active),
            "readyReplicas": ready,
            "availableReplicas": ready,
        }
        before = owner.get("status") or {}
        status = {key: value for key, value in before.items() if key not in counts}
        status |= {key: value for key, value in counts.items() if value or key == "replicas"}
        status["observedGeneration"] = owner["metadata"].get("generation", 1)
        if status != before:
            await self._sets.update({**owner, "status": status}, subresource="status")
