"""Deployments as kube-controller-manager runs them: one ReplicaSet per template, rolled over or recreated."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

from scheduler.devcluster import kinds
from scheduler.devcluster.access import Api
from scheduler.devcluster.mirror import Mirror, key_of
from scheduler.devcluster.objects import (
    Obj,
    encode,
    field_of,
    name_of,
    namespace_of,
    uid_of,
    with_condition,
    with_field,
)
from scheduler.devcluster.pods import controller_of, is_leaving, reference_to
from scheduler.devcluster.work import Work

HASH = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


class DeploymentControl:
    """Keeps the ReplicaSets and the status of each Deployment."""

    def __init__(self, api: Api, deployments: Mirror, sets: Mirror, pods: Mirror) -> None:
        self._api, self._deployments, self._sets, self._pods = api, deployments, sets, pods
        self.work = Work("deployment", self._sync)
        deployments.listen(self._deployment_changed)
        sets.listen(self._set_changed)
        pods.listen(self._pod_changed)

    def _deployment_changed(self, _before: Obj | None, after: Obj | None) -> None:
        if after is not None:
            self.work.add(key_of(after))

    def _set_changed(self, before: Obj | None, after: Obj | None) -> None:
        owned = after if after is not None else before
        assert owned is not None
        owner = controller_of(owned)
        if owner is not None and owner["kind"] == "Deployment":
            self.work.add(f"{namespace_of(owned)}/{owner['name']}")

    def _pod_changed(self, before: Obj | None, after: Obj | None) -> None:
        """Recreate waits for the last old pod to be gone."""
        if after is not None or before is None:
            return
        owner = controller_of(before)
        if owner is not None and owner["kind"] == "ReplicaSet":
            owned = self._sets.get(f"{namespace_of(before)}/{owner['name']}")
            if owned is not None:
                self._set_changed(None, owned)

    async def _sync(self, key: str) -> None:
        deployment = self._deployments.get(key)
        if deployment is None or is_leaving(deployment):
            return
        owned = [entry for entry in self._sets.under("controller", uid_of(deployment)) if not is_leaving(entry)]
        current = next((entry for entry in owned if _has_template(entry, deployment)), None)
        if deployment["spec"].get("paused"):
            old = [entry for entry in owned if entry is not current]
            await self._report(deployment, current, old)
            return
        if current is None:
            current = await self._sets.create(replica_set_of(deployment, _next_revision(owned)))
        elif _revision(current) < _next_revision(owned) - 1:  # back to an earlier template
            current = await self._renumbered(current, _next_revision(owned))
        old = [entry for entry in owned if uid_of(entry) != uid_of(current)]
        if deployment["spec"]["strategy"].get("type") == "Recreate":
            current, old = await self._recreate(deployment, current, old)
        else:
            current, old = await self._roll(deployment, current, old)
        await self._forget_old(deployment, old)
        await self._report(deployment, current, old)

    # --- strategies -----------------------------------------------------------------------------------------------

    async def _recreate(self, deployment: Obj, current: Obj, old: list[Obj]) -> tuple[Obj, list[Obj]]:
        old = [await self._scaled(entry, 0) for entry in old]
        if not any(self._pods.keys("controller", uid_of(entry)) for entry in old):
            current = await self._scaled(current, deployment["spec"]["replicas"])
        return current, old

    async def _roll(self, deployment: Obj, current: Obj, old: list[Obj]) -> tuple[Obj, list[Obj]]:
        replicas = int(deployment["spec"]["replicas"])
        surge, unavailable = _limits(deployment)
        total = sum(_replicas(entry) for entry in (current, *old))
        if _replicas(current) > replicas:
            current = await self._scaled(current, replicas)
        elif _replicas(current) < replicas:
            room = max(0, replicas + surge - total)
            current = await self._scaled(current, min(replicas, _replicas(current) + room))
        total = sum(_replicas(entry) for entry in (current, *old))
        pending = max(0, _replicas(current) - _available(current))
        spare = total - (replicas - unavailable) - pending
        for broken in (True, False):  # first those that do not serve anyway
            shrunk: list[Obj] = []
            for entry in old:
                size = _replicas(entry)
                may_go = size - _available(entry) if broken else size
                count = max(0, min(spare, may_go))
                spare -= count
                shrunk.append(await self._scaled(entry, size - count))
            old = shrunk
        return current, old

    async def _scaled(self, owned: Obj, replicas: int) -> Obj:
        if _replicas(owned) == replicas:
            return owned
        return await self._sets.update(with_field(owned, ("spec", "replicas"), replicas))

    async def _renumbered(self, owned: Obj, revision: int) -> Obj:
        annotations = {**(owned["metadata"].get("annotations") or {}), REVISION: str(revision)}
        return await self._sets.update(with_field(owned, ("metadata", "annotations"), annotations))

    async def _forget_old(self, deployment: Obj, old: list[Obj]) -> None:
        """Empty ReplicaSets beyond revisionHistoryLimit go, the oldest first."""
        empty = sorted(
            (entry for entry in old if not _replicas(entry) and not field_of(entry, "status", "replicas")),
            key=lambda entry: (_revision(entry), name_of(entry)),
        )
        for entry in empty[: max(0, len(empty) - int(deployment["spec"]["revisionHistoryLimit"]))]:
            await self._sets.remove(entry)

    # --- status ---------------------------------------------------------------------------------------------------

    async def _report(self, deployment: Obj, current: Obj | None, old: list[Obj]) -> None:
        owned = [*old] if current is None else [current, *old]
        wanted = int(deployment["spec"]["replicas"])
        _, unavailable = _limits(deployment)
        available = sum(_available(entry) for entry in owned)
        updated = _status_replicas(current) if current is not None else 0
        replicas = sum(_status_replicas(entry) for entry in owned)
        counts = {
            "replicas": replicas,
            "updatedReplicas": updated,
            "readyReplicas": sum(int(field_of(entry, "status", "readyReplicas") or 0) for entry in owned),
            "availableReplicas": available,
            "unavailableReplicas": max(0, wanted - available),
        }
        before = deployment.get("status") or {}
        status = {key: value for key, value in before.items() if key not in counts}
        status |= {key: value for key, value in counts.items() if value}
        status["observedGeneration"] = deployment["metadata"].get("generation", 1)
        enough = available >= wanted - unavailable
        complete = current is not None and updated == replicas == available == wanted
        name = name_of(current) if current is not None else name_of(deployment)
        changed = {**deployment, "status": status}
        for condition in (_availability(enough), _progress(name, complete)):
            changed = with_condition(changed, condition, self._api.now())
        if changed["status"] != before:
            deployment = await self._deployments.update(changed, subresource="status")
        annotations = deployment["metadata"].get("annotations") or {}
        if current is not None and annotations.get(REVISION) != str(_revision(current)):
            annotations = {**annotations, REVISION: str(_revision(current))}
            await self._deployments.update(with_field(deployment, ("metadata", "annotations"), annotations))


def replica_set_of(deployment: Obj, revision: int) -> Obj:
    """The ReplicaSet for the Deployment's present template, with no pods yet."""
    template, hash_ = deployment["spec"]["template"], template_hash(deployment["spec"]["template"])
    labels = {**(field_of(template, "metadata", "labels") or {}), HASH: hash_}
    selector = deployment["spec"]["selector"]
    matches = {**(selector.get("matchLabels") or {}), HASH: hash_}
    return {
        "apiVersion": kinds.REPLICA_SET.api_version,
        "kind": kinds.REPLICA_SET.kind,
        "metadata": {
            "name": f"{name_of(deployment)}-{hash_}",
            "namespace": namespace_of(deployment),
            "labels": labels,
            "annotations": {REVISION: str(revision)},
            "ownerReferences": [reference_to(deployment, kinds.DEPLOYMENT)],
        },
        "spec": {
            "replicas": 0,
            "selector": {**selector, "matchLabels": matches},
            "template": with_field(template, ("metadata", "labels"), labels),
        },
    }


def template_hash(template: Obj) -> str:
    """Ten characters that stand for a pod template; equal for equal templates."""
    number = int.from_bytes(hashlib.sha256(encode(template)).digest()[:8], "big")
    text = ""
    for _ in range(10):
        number, digit = divmod(number, len(_LETTERS))
        text += _LETTERS[digit]
    return text


def _has_template(owned: Obj, deployment: Obj) -> bool:
    labels = {key: value for key, value in owned["spec"]["template"]["metadata"]["labels"].items() if key != HASH}
    template = with_field(owned["spec"]["template"], ("metadata", "labels"), labels)
    return bool(template == deployment["spec"]["template"])


def _limits(deployment: Obj) -> tuple[int, int]:
    """maxSurge and maxUnavailable as counts; when both come to 0, one pod may be missing."""
    strategy, replicas = deployment["spec"]["strategy"], int(deployment["spec"]["replicas"])
    if strategy.get("type") == "Recreate":
        return 0, replicas
    rolling = strategy.get("rollingUpdate") or {}
    surge = math.ceil(_share(rolling.get("maxSurge", "25%"), replicas))
    unavailable = math.floor(_share(rolling.get("maxUnavailable", "25%"), replicas))
    return surge, unavailable if surge or unavailable else 1


def _share(value: object, replicas: int) -> Fraction:
    """A count, or a percentage of the replicas."""
    if isinstance(value, str):
        return Fraction(int(value.removesuffix("%")) * replicas, 100)
    return Fraction(value if isinstance(value, int) else 0)


def _replicas(owned: Obj) -> int:
    return int(owned["spec"]["replicas"])


def _status_replicas(owned: Obj) -> int:
    return int(field_of(owned, "status", "replicas") or 0)


def _available(owned: Obj) -> int:
    return int(field_of(owned, "status", "availableReplicas") or 0)


def _revision(owned: Obj) -> int:
    return int((owned["metadata"].get("annotations") or {}).get(REVISION, "0"))


def _next_revision(owned: list[Obj]) -> int:
    return max((_revision(entry) for entry in owned), default=0) + 1


def _availability(enough: bool) -> Obj:
    if enough:
        text = "Deployment has minimum availability."
        return {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable", "message": text}
    text = "Deployment does not have minimum availability."
    return {"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable", "message": text}


def _progress(name: str, complete: bool) -> Obj:
    if complete:
        text = f'ReplicaSet "{name}" has successfully progressed.'
        return {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable", "message": text}
    text = f'ReplicaSet "{name}" is progressing.'
    return {"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated", "message": text}
