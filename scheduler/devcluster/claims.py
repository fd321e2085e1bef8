"""ResourceClaims as kube-controller-manager keeps them: made from templates, reserved late, released, deleted.

Source: KEP 4381 (structured parameters) and the controller's documented behaviour: claims are made for every pod
whatever its scheduler; a reservation ends with its pod; the allocation ends with the last reservation; a claim that
was allocated but never reserved stays allocated.
"""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.devcluster import kinds
from scheduler.devcluster.access import STRATEGIC_PATCH, Api, StatusError
from scheduler.devcluster.mirror import Mirror, key_of
from scheduler.devcluster.objects import Obj, field_of, name_of, namespace_of, uid_of, with_field, with_meta
from scheduler.devcluster.pods import (
    claim_keys,
    controller_of,
    controller_uid,
    holds_claims,
    node_of,
    reference_to,
)
from scheduler.devcluster.reports import Reports
from scheduler.devcluster.work import Work

FINALIZER = "resource.kubernetes.io/delete-protection"
POD_CLAIM_NAME = "resource.kubernetes.io/pod-claim-name"
MAX_CONSUMERS = 256
# generateName leaves room for five random characters in a name that is to be a label value too.
_LONGEST_BASE = 57


class ClaimControl:
    """Keeps claims in step with pods. `pods`, `claims` and `templates` are followed by whoever owns the mirrors."""

    def __init__(self, api: Api, pods: Mirror, claims: Mirror, templates: Mirror) -> None:
        self._api = api
        self._pods, self._claims, self._templates = pods, claims, templates
        self._reports = Reports(api, "resourceclaim-controller")
        self.pod_work = Work("claims of a pod", self._sync_pod)
        self.claim_work = Work("claim", self._sync_claim)
        pods.index("claims used", claim_keys)
        pods.index("claim templates used", _template_keys)
        claims.index("controller", controller_uid)
        claims.index("consumers", _consumer_uids)
        pods.listen(self._pod_changed)
        claims.listen(self._claim_changed)
        templates.listen(self._template_changed)

    def _pod_changed(self, before: Obj | None, after: Obj | None) -> None:
        pod = after if after is not None else before
        assert pod is not None
        if after is None or not holds_claims(after):
            uid = uid_of(pod)
            for index in ("consumers", "controller"):
                for key in self._claims.keys(index, uid):
                    self.claim_work.add(key)
        elif pod["spec"].get("resourceClaims"):
            self.pod_work.add(key_of(pod))

    def _claim_changed(self, before: Obj | None, after: Obj | None) -> None:
        claim = after if after is not None else before
        assert claim is not None
        key = key_of(claim)
        self.claim_work.add(key)
        if after is None or field_of(after, "status", "allocation") is not None:
            for pod in self._pods.keys("claims used", key):
                self.pod_work.add(pod)

    def _template_changed(self, _before: Obj | None, after: Obj | None) -> None:
        if after is not None:
            for pod in self._pods.keys("claim templates used", key_of(after)):
                self.pod_work.add(pod)

    # --- a pod gets its claims ------------------------------------------------------------------------------------

    async def _sync_pod(self, key: str) -> None:
        pod = self._pods.get(key)
        if pod is None or not holds_claims(pod):
            return
        known = {entry["name"] for entry in field_of(pod, "status", "resourceClaimStatuses") or ()}
        made = []
        for entry in pod["spec"].get("resourceClaims") or ():
            template = entry.get("resourceClaimTemplateName")
            if template and entry["name"] not in known and not pod["metadata"].get("deletionTimestamp"):
                claim = self._made_before(pod, entry["name"]) or await self._make(pod, entry["name"], template)
                if claim is not None:
                    made.append({"name": entry["name"], "resourceClaimName": name_of(claim)})
        if made:
            body = {"status": {"resourceClaimStatuses": made}}
            pod = await self._pods.patch(pod, body, how=STRATEGIC_PATCH, subresource="status")
        if node_of(pod):
            await self._reserve(pod)

    def _made_before(self, pod: Obj, name: str) -> Obj | None:
        """The claim that an earlier attempt made and did not get to write into the pod's status."""
        for claim in self._claims.under("controller", uid_of(pod)):
            annotations = claim["metadata"].get("annotations") or {}
            if annotations.get(POD_CLAIM_NAME) == name and not claim["metadata"].get("deletionTimestamp"):
                return claim
        return None

    async def _make(self, pod: Obj, name: str, template_name: str) -> Obj | None:
        template = self._templates.get(f"{namespace_of(pod)}/{template_name}")
        if template is None:
            text = (
                f'PodResourceClaim {name}: resource claim template "{template_name}" not found; create it and the '
                "claim follows"
            )
            await self._reports.warn(pod, "FailedResourceClaimCreation", text)
            return None
        return await self._claims.create(claim_from(template, pod, name))

    async def _reserve(self, pod: Obj) -> None:
        """A pod that was bound without its scheduler reserving an allocated claim gets the reservation."""
        for key in claim_keys(pod):
            claim = self._claims.get(key)
            if claim is None or claim["metadata"].get("deletionTimestamp"):
                continue
            reserved = field_of(claim, "status", "reservedFor") or []
            if field_of(claim, "status", "allocation") is None or len(reserved) >= MAX_CONSUMERS:
                continue
            if any(consumer.get("uid") == uid_of(pod) for consumer in reserved):
                continue
            entry = {"resource": "pods", "name": name_of(pod), "uid": uid_of(pod)}
            status = {**claim["status"], "reservedFor": [*reserved, entry]}
            await self._claims.update({**claim, "status": status}, subresource="status")

    # --- a claim is released --------------------------------------------------------------------------------------

    async def _sync_claim(self, key: str) -> None:
        claim = self._claims.get(key)
        if claim is None:
            return
        reserved = field_of(claim, "status", "reservedFor") or []
        kept = [consumer for consumer in reserved if await self._still_uses(claim, consumer)]
        leaving = bool(claim["metadata"].get("deletionTimestamp"))
        if len(kept) < len(reserved) or (leaving and not kept and _is_protected(claim)):
            claim = await self._release(claim, kept)
        if not kept:
            await self._delete_when_done(claim)

    async def _still_uses(self, claim: Obj, consumer: Obj) -> bool:
        if consumer.get("resource") != "pods" or consumer.get("apiGroup"):
            return True  # reserved for something else than a pod, such as a PodGroup: not ours to judge
        pod = await self._pod(namespace_of(claim), consumer["name"], consumer["uid"])
        return pod is not None and holds_claims(pod)

    async def _pod(self, namespace: str, name: str, uid: str) -> Obj | None:
        """The pod of this uid. One the mirror does not know is asked for: the mirror may be behind the claim."""
        pod = self._pods.get(f"{namespace}/{name}")
        if pod is not None and uid_of(pod) == uid:
            return pod
        try:
            pod = await self._api.get(kinds.POD, namespace, name)
        except StatusError as error:
            if error.code == 404:
                return None
            raise
        return pod if uid_of(pod) == uid else None

    async def _release(self, claim: Obj, kept: list[Obj]) -> Obj:
        """The claim with these reservations only; without any its allocation and its protection go too."""
        status = {key: value for key, value in (claim.get("status") or {}).items() if key != "reservedFor"}
        if kept:
            status["reservedFor"] = kept
        elif _is_protected(claim):
            status.pop("allocation", None)
            status.pop("devices", None)
        if status != (claim.get("status") or {}):
            claim = await self._claims.update(with_field(claim, ("status",), status), subresource="status")
        if not kept and _is_protected(claim):
            finalizers = [entry for entry in claim["metadata"]["finalizers"] if entry != FINALIZER]
            claim = await self._claims.update(with_meta(claim, finalizers=finalizers or None))
        return claim

    async def _delete_when_done(self, claim: Obj) -> None:
        """A claim made for one pod goes as soon as that pod is done, not only when it is deleted."""
        owner = controller_of(claim)
        if owner is None or owner["kind"] != "Pod" or claim["metadata"].get("deletionTimestamp"):
            return
        pod = self._pods.get(f"{namespace_of(claim)}/{owner['name']}")
        if pod is None or uid_of(pod) != owner["uid"] or holds_claims(pod):
            return
        await self._claims.remove(claim)


def claim_from(template: Obj, pod: Obj, name: str) -> Obj:
    """The claim a pod gets from a template for its claim `name`."""
    asked = field_of(template, "spec", "metadata") or {}
    pod_name = name_of(pod)[: max(1, _LONGEST_BASE - len(name) - 2)]
    meta: Obj = {
        "namespace": namespace_of(pod),
        "generateName": f"{pod_name}-{name}-",
        "annotations": {**(asked.get("annotations") or {}), POD_CLAIM_NAME: name},
        "ownerReferences": [reference_to(pod, kinds.POD)],
    }
    if asked.get("labels"):
        meta["labels"] = asked["labels"]
    return {
        "apiVersion": kinds.CLAIM.api_version,
        "kind": kinds.CLAIM.kind,
        "metadata": meta,
        "spec": template["spec"].get("spec") or {},
    }


def _is_protected(claim: Obj) -> bool:
    return FINALIZER in (claim["metadata"].get("finalizers") or ())


def _template_keys(pod: Obj) -> Iterable[str]:
    namespace = namespace_of(pod)
    for entry in pod["spec"].get("resourceClaims") or ():
        if entry.get("resourceClaimTemplateName"):
            yield f"{namespace}/{entry['resourceClaimTemplateName']}"


def _consumer_uids(claim: Obj) -> Iterable[str]:
    for consumer in field_of(claim, "status", "reservedFor") or ():
        yield str(consumer["uid"])
