"""PersistentVolumeClaims as kube-controller-manager keeps them.

A claim is bound to a volume that names it, to a free one that fits if its class binds at once, or to one that
`provisioner` makes: at once, or for the node that a scheduler has written on the claim. Claims of ephemeral volumes are
made here, too.
Not here: resizing, snapshots, reclaiming of what was made by hand.
Source: the PersistentVolume and ephemeral-volume controllers, by their documented behaviour.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from scheduler.devcluster import kinds
from scheduler.devcluster.access import Api
from scheduler.devcluster.mirror import Mirror, key_of
from scheduler.devcluster.objects import Obj, field_of, name_of, namespace_of, uid_of, with_meta
from scheduler.devcluster.pods import controller_of, is_done, is_leaving, node_of, reference_to
from scheduler.devcluster.quantities import parse
from scheduler.devcluster.reports import Reports
from scheduler.devcluster.selectors import object_selector
from scheduler.devcluster.shelf import volume_claims
from scheduler.devcluster.work import Work

BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
STORAGE_PROVISIONER = "volume.kubernetes.io/storage-provisioner"
CLAIM_PROTECTION, VOLUME_PROTECTION = "kubernetes.io/pvc-protection", "kubernetes.io/pv-protection"
NO_PROVISIONER = "kubernetes.io/no-provisioner"


class VolumeControl:
    """Keeps claims and volumes in step. The mirrors are followed by whoever owns them."""

    def __init__(self, api: Api, pods: Mirror, claims: Mirror, volumes: Mirror, classes: Mirror) -> None:
        self._pods, self._claims, self._volumes, self._classes = pods, claims, volumes, classes
        self._binder = Reports(api, "persistentvolume-controller")
        self._maker = Reports(api, "ephemeral_volume")
        self.pod_work = Work("volumes of a pod", self._sync_pod)
        self.claim_work = Work("volume claim", self._sync_claim)
        self.volume_work = Work("volume", self._sync_volume)
        pods.index("volume claims of its own", _own_claims)
        pods.index("volume claims in use", _claims_in_use)
        volumes.index("claim", _claim_of)
        pods.listen(self._pod_changed)
        claims.listen(self._claim_changed)
        volumes.listen(self._volume_changed)
        classes.listen(lambda _before, _after: self._look_at_unbound())

    def _pod_changed(self, before: Obj | None, after: Obj | None) -> None:
        for key in volume_claims(before) if before is not None and (after is None or is_done(after)) else ():
            self.claim_work.add(key)
        if after is not None and any(volume.get("ephemeral") for volume in after["spec"].get("volumes") or ()):
            self.pod_work.add(key_of(after))

    def _claim_changed(self, before: Obj | None, after: Obj | None) -> None:
        claim = after if after is not None else before
        assert claim is not None
        key = key_of(claim)
        self.claim_work.add(key)
        for volume in self._volumes.keys("claim", key):
            self.volume_work.add(volume)
        if after is None:
            for pod in self._pods.keys("volume claims of its own", key):
                self.pod_work.add(pod)

    def _volume_changed(self, before: Obj | None, after: Obj | None) -> None:
        volume = after if after is not None else before
        assert volume is not None
        self.volume_work.add(key_of(volume))
        claims = list(_claim_of(volume))
        for key in claims:
            self.claim_work.add(key)
        if after is not None and not claims:
            self._look_at_unbound()

    def _look_at_unbound(self) -> None:
        for claim in self._claims.all():
            if not claim["spec"].get("volumeName"):
                self.claim_work.add(key_of(claim))

    # --- a pod gets its claims ------------------------------------------------------------------------------------

    async def _sync_pod(self, key: str) -> None:
        pod = self._pods.get(key)
        if pod is None or is_done(pod) or is_leaving(pod):
            return
        for volume in pod["spec"].get("volumes") or ():
            template = field_of(volume, "ephemeral", "volumeClaimTemplate")
            if template is None:
                continue
            known = self._claims.get(f"{namespace_of(pod)}/{name_of(pod)}-{volume['name']}")
            if known is None:
                await self._claims.create(_made_for(pod, volume["name"], template))
            elif (controller_of(known) or {}).get("uid") != uid_of(pod):
                text = f'PVC "{key_of(known)}" was not created for pod "{key}" (pod is not owner)'
                await self._maker.warn(pod, "FailedBinding", text)

    # --- a claim gets its volume ----------------------------------------------------------------------------------

    async def _sync_claim(self, key: str) -> None:
        claim = self._claims.get(key)
        if claim is None:
            return
        if is_leaving(claim):
            if not self._pods.keys("volume claims in use", key):
                await _let_go(self._claims, claim, CLAIM_PROTECTION)
            return
        named = claim["spec"].get("volumeName")
        if named:
            await self._follow_name(claim, self._volumes.get(named))
            return
        volume = self._promised(claim)
        of = self._classes.get(claim["spec"].get("storageClassName") or "")
        waits = of is not None and of.get("volumeBindingMode") == "WaitForFirstConsumer"
        if volume is None and not waits:
            volume = self._free(claim)
        if volume is not None:
            await self._bind(claim, volume)
        elif of is None:
            text = "no persistent volumes available for this claim and no storage class is set"
            await self._binder.note(claim, "FailedBinding", text)
        elif waits and not chosen_node(claim):
            text = "waiting for first consumer to be created before binding"
            await self._binder.note(claim, "WaitForFirstConsumer", text)
        else:
            await self._ask_provisioner(claim, of)

    async def _follow_name(self, claim: Obj, volume: Obj | None) -> None:
        """A claim that names its volume: bound, waiting for it, or it has lost it."""
        completed = BIND_COMPLETED in (claim["metadata"].get("annotations") or {})
        if volume is None or not _is_for(volume, claim):
            if completed:
                await self._claims.patch(claim, {"status": {"phase": "Lost"}}, subresource="status")
            elif volume is not None and not field_of(volume, "spec", "claimRef"):
                await self._bind(claim, volume)
            return
        await self._bind(claim, volume)

    async def _bind(self, claim: Obj, volume: Obj) -> None:
        """Each names the other, and both say that it is so. May be repeated."""
        reference = field_of(volume, "spec", "claimRef")
        if (reference or {}).get("uid") != uid_of(claim):
            body: Obj = {"spec": {"claimRef": reference_of(claim)}}
            if not reference:
                body["metadata"] = {"annotations": {BOUND_BY_CONTROLLER: "yes"}}
            volume = await self._volumes.patch(volume, body, subresource=None)
        if field_of(volume, "status", "phase") != "Bound":
            volume = await self._volumes.patch(volume, {"status": {"phase": "Bound"}}, subresource="status")
        annotations = claim["metadata"].get("annotations") or {}
        if BIND_COMPLETED not in annotations or not claim["spec"].get("volumeName"):
            notes = {BIND_COMPLETED: "yes"}
            if not claim["spec"].get("volumeName"):
                notes[BOUND_BY_CONTROLLER] = "yes"
            body = {"metadata": {"annotations": notes}, "spec": {"volumeName": name_of(volume)}}
            claim = await self._claims.patch(claim, body, subresource=None)
        if field_of(claim, "status", "phase") != "Bound":
            has = {"accessModes": volume["spec"].get("accessModes"), "capacity": volume["spec"].get("capacity")}
            await self._claims.patch(claim, {"status": {"phase": "Bound", **has}}, subresource="status")

    async def _ask_provisioner(self, claim: Obj, of: Obj) -> None:
        """Name the provisioner on the claim: the sign for it to begin."""
        name = of["provisioner"]
        if name == NO_PROVISIONER:
            await self._binder.warn(claim, "ProvisioningFailed", f'no volume plugin matched name: "{name}"')
            return
        if (claim["metadata"].get("annotations") or {}).get(STORAGE_PROVISIONER) != name:
            await self._claims.patch(
                claim, {"metadata": {"annotations": {STORAGE_PROVISIONER: name}}}, subresource=None
            )
            text = f"Waiting for a volume to be created either by the external provisioner '{name}' or manually"
            await self._binder.note(claim, "ExternalProvisioning", text)

    def _promised(self, claim: Obj) -> Obj | None:
        """A volume that names the claim."""
        found = self._volumes.under("claim", key_of(claim))
        return next((volume for volume in found if _is_for(volume, claim)), None)

    def _free(self, claim: Obj) -> Obj | None:
        """The smallest volume that nobody has and that fits."""
        fitting = [volume for volume in self._volumes.all() if _fits(volume, claim)]
        return min(fitting, key=lambda volume: (_size(volume["spec"], "capacity"), name_of(volume)), default=None)

    # --- a volume loses its claim ---------------------------------------------------------------------------------

    async def _sync_volume(self, key: str) -> None:
        volume = self._volumes.get(key)
        if volume is None:
            return
        if is_leaving(volume):
            claims = [self._claims.get(claim) for claim in _claim_of(volume)]
            if not any(claim is not None and _is_for(volume, claim) for claim in claims):
                await _let_go(self._volumes, volume, VOLUME_PROTECTION)
            return
        reference = field_of(volume, "spec", "claimRef")
        if not reference or not reference.get("uid"):
            return
        claim = self._claims.get(f"{reference['namespace']}/{reference['name']}")
        if claim is not None and uid_of(claim) == reference["uid"]:
            return
        if field_of(volume, "status", "phase") != "Released":
            await self._volumes.patch(volume, {"status": {"phase": "Released"}}, subresource="status")


async def _let_go(mirror: Mirror, obj: Obj, finalizer: str) -> None:
    """What nobody uses any more may go."""
    finalizers = obj["metadata"].get("finalizers") or []
    if finalizer in finalizers:
        kept = [each for each in finalizers if each != finalizer]
        await mirror.update(with_meta(obj, finalizers=kept or None))


def _claims_in_use(pod: Obj) -> Iterable[str]:
    return volume_claims(pod) if node_of(pod) and not is_done(pod) else ()


def _own_claims(pod: Obj) -> Iterable[str]:
    for volume in pod["spec"].get("volumes") or ():
        if volume.get("ephemeral"):
            yield f"{namespace_of(pod)}/{name_of(pod)}-{volume['name']}"


def _claim_of(volume: Obj) -> Iterable[str]:
    reference = field_of(volume, "spec", "claimRef")
    return (f"{reference.get('namespace')}/{reference.get('name')}",) if reference else ()


def chosen_node(claim: Obj) -> str:
    """The node that a scheduler has chosen for the claim, "" if none."""
    return str((claim["metadata"].get("annotations") or {}).get(SELECTED_NODE) or "")


def _is_for(volume: Obj, claim: Obj) -> bool:
    reference = field_of(volume, "spec", "claimRef") or {}
    names = (reference.get("namespace"), reference.get("name")) == (namespace_of(claim), name_of(claim))
    return names and reference.get("uid") in (None, "", uid_of(claim))


def _fits(volume: Obj, claim: Obj) -> bool:
    spec, asked = volume["spec"], claim["spec"]
    return (
        not spec.get("claimRef")
        and not is_leaving(volume)
        and field_of(volume, "status", "phase") == "Available"
        and (spec.get("storageClassName") or "") == (asked.get("storageClassName") or "")
        and (spec.get("volumeMode") or "Filesystem") == (asked.get("volumeMode") or "Filesystem")
        and set(asked.get("accessModes") or ()) <= set(spec.get("accessModes") or ())
        and _size(spec, "capacity") >= _size(asked, "resources", "requests")
        and (not asked.get("selector") or object_selector(asked["selector"])(volume))
    )


def _size(spec: Obj, *path: str) -> Fraction:
    return parse(str(field_of(spec, *path, "storage") or 0))


def reference_of(claim: Obj) -> Obj:
    """The claim as a volume names it."""
    return {
        "apiVersion": "v1",
        "kind": kinds.VOLUME_CLAIM.kind,
        "namespace": namespace_of(claim),
        "name": name_of(claim),
        "uid": uid_of(claim),
        "resourceVersion": claim["metadata"].get("resourceVersion", ""),
    }


def _made_for(pod: Obj, volume: str, template: Obj) -> Obj:
    asked = template.get("metadata") or {}
    meta: Obj = {
        "namespace": namespace_of(pod),
        "name": f"{name_of(pod)}-{volume}",
        "ownerReferences": [reference_to(pod, kinds.POD)],
        **{field: asked[field] for field in ("labels", "annotations") if asked.get(field)},
    }
    claim = {"apiVersion": "v1", "kind": kinds.VOLUME_CLAIM.kind, "metadata": meta, "spec": template["spec"]}
    return with_meta(claim)
