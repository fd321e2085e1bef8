"""StatefulSets as kube-controller-manager runs them: pods with stable names, in order or in parallel.

Pods get their claims by name, so a named ResourceClaim meets the pod of the same name again after a restart.
Not here: ControllerRevision objects, and claims that go with their set (persistentVolumeClaimRetentionPolicy).
"""

from __future__ import annotations

from scheduler.devcluster import kinds
from scheduler.devcluster.deployments import template_hash
from scheduler.devcluster.mirror import Mirror, key_of
from scheduler.devcluster.objects import Obj, field_of, name_of, namespace_of, uid_of
from scheduler.devcluster.pods import controller_of, from_template, is_active, is_done, is_leaving, is_ready, phase
from scheduler.devcluster.work import Work

POD_NAME = "statefulset.kubernetes.io/pod-name"
POD_INDEX = "apps.kubernetes.io/pod-index"
REVISION = "controller-revision-hash"


class StatefulSetControl:
    """Keeps the pods and the status of each StatefulSet."""

    def __init__(self, sets: Mirror, pods: Mirror, claims: Mirror) -> None:
        """`claims`: PersistentVolumeClaims."""
        self._sets, self._pods, self._claims = sets, pods, claims
        self.work = Work("statefulset", self._sync)
        sets.listen(self._set_changed)
        pods.listen(self._pod_changed)

    def _set_changed(self, _before: Obj | None, after: Obj | None) -> None:
        if after is not None:
            self.work.add(key_of(after))

    def _pod_changed(self, before: Obj | None, after: Obj | None) -> None:
        pod = after if after is not None else before
        assert pod is not None
        owner = controller_of(pod)
        if owner is not None and owner["kind"] == "StatefulSet":
            self.work.add(f"{namespace_of(pod)}/{owner['name']}")

    async def _sync(self, key: str) -> None:
        owner = self._sets.get(key)
        if owner is None or is_leaving(owner):
            return
        revision = f"{name_of(owner)}-{template_hash(owner['spec']['template'])}"
        pods = {ordinal_of(pod, owner): pod for pod in self._pods.under("controller", uid_of(owner))}
        await self._step(owner, pods, revision)
        await self._report(owner, revision)

    async def _step(self, owner: Obj, pods: dict[int, Obj], revision: str) -> None:
        """Do what may be done now: make the next pods, replace ended ones, shrink, update; what follows, follows an
        event of these pods."""
        ordered = owner["spec"].get("podManagementPolicy") != "Parallel"
        first = int(field_of(owner, "spec", "ordinals", "start") or 0)
        wanted = range(first, first + int(owner["spec"]["replicas"]))
        for ordinal in wanted:
            pod = pods.get(ordinal)
            if pod is None:
                for claim in claims_of(owner, ordinal):
                    if self._claims.get(key_of(claim)) is None:
                        await self._claims.create(claim)
                await self._pods.create(pod_of(owner, ordinal, revision))
            elif is_done(pod) and not is_leaving(pod):
                await self._pods.remove(pod)
            if ordered and (pod is None or not is_active(pod) or not is_ready(pod)):
                return
        for ordinal in sorted((ordinal for ordinal in pods if ordinal not in wanted), reverse=True):
            if not is_leaving(pods[ordinal]):
                await self._pods.remove(pods[ordinal])
            if ordered:
                return
        await self._update(owner, pods, wanted, revision)

    async def _update(self, owner: Obj, pods: dict[int, Obj], wanted: range, revision: str) -> None:
        """One pod of an old revision goes at a time, the highest ordinal first, once all others are ready."""
        strategy = owner["spec"].get("updateStrategy") or {}
        if strategy.get("type") == "OnDelete":
            return
        partition = int(field_of(strategy, "rollingUpdate", "partition") or 0)
        for ordinal in reversed(wanted):
            pod = pods.get(ordinal)
            if pod is None or ordinal < partition:
                return
            if _revision_of(pod) != revision and not is_leaving(pod):
                await self._pods.remove(pod)
                return
            if not is_active(pod) or not is_ready(pod):
                return

    async def _report(self, owner: Obj, revision: str) -> None:
        pods = self._pods.under("controller", uid_of(owner))
        before = owner.get("status") or {}
        running = [pod for pod in pods if is_active(pod) and phase(pod) in ("Pending", "Running")]
        updated = sum(_revision_of(pod) == revision for pod in running)
        ready = sum(is_ready(pod) for pod in running)
        complete = updated == len(running) == ready == int(owner["spec"]["replicas"])
        current = revision if complete else before.get("currentRevision", revision)
        status = {
            **{key: value for key, value in before.items() if key not in ("readyReplicas", "updatedReplicas")},
            "replicas": len(running),
            "availableReplicas": ready,
            "currentRevision": current,
            "updateRevision": revision,
            "observedGeneration": owner["metadata"].get("generation", 1),
            "collisionCount": 0,
            "currentReplicas": sum(_revision_of(pod) == current for pod in running),
        }
        status |= {key: count for key, count in (("readyReplicas", ready), ("updatedReplicas", updated)) if count}
        if status != before:
            await self._sets.update({**owner, "status": status}, subresource="status")


def pod_of(owner: Obj, ordinal: int, revision: str) -> Obj:
    """The pod of this ordinal."""
    name = f"{name_of(owner)}-{ordinal}"
    labels = {POD_NAME: name, POD_INDEX: str(ordinal), REVISION: revision}
    pod = from_template(owner, kinds.STATEFUL_SET, owner["spec"]["template"], name=name, labels=labels)
    spec = {**pod["spec"], "hostname": name}
    if owner["spec"].get("serviceName"):
        spec["subdomain"] = owner["spec"]["serviceName"]
    templates = owner["spec"].get("volumeClaimTemplates") or ()
    if templates:
        names = {template["metadata"]["name"] for template in templates}
        kept = [volume for volume in spec.get("volumes") or () if volume["name"] not in names]
        spec["volumes"] = kept + [
            {"name": each, "persistentVolumeClaim": {"claimName": f"{each}-{name}"}} for each in sorted(names)
        ]
    return {**pod, "spec": spec}


def claims_of(owner: Obj, ordinal: int) -> list[Obj]:
    """The volume claims of the pod of this ordinal: they outlive it, and the next pod of its name finds them."""
    return [
        {
            "apiVersion": kinds.VOLUME_CLAIM.api_version,
            "kind": kinds.VOLUME_CLAIM.kind,
            "metadata": {
                "name": f"{template['metadata']['name']}-{name_of(owner)}-{ordinal}",
                "namespace": namespace_of(owner),
                "labels": {
                    **(template["metadata"].get("labels") or {}),
                    **(field_of(owner, "spec", "selector", "matchLabels") or {}),
                },
            },
            "spec": template["spec"],
        }
        for template in owner["spec"].get("volumeClaimTemplates") or ()
    ]


def ordinal_of(pod: Obj, owner: Obj) -> int:
    """The number at the end of the pod's name, -1 where there is none."""
    text = name_of(pod).removeprefix(f"{name_of(owner)}-")
    return int(text) if text.isdigit() else -1


def _revision_of(pod: Obj) -> str:
    return str((pod["metadata"].get("labels") or {}).get(REVISION, ""))
