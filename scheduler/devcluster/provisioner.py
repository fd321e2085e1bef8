"""Makes volumes for claims, in the name of every provisioner. It speaks the API only, and may stand before any cluster.

A claim that names its class's provisioner gets a volume of the size it asks for, which names the claim; where the class
waits, for the node that was chosen. Source: external-provisioner and storage drivers, by their documented behaviour.
"""

from __future__ import annotations

import asyncio

from scheduler.devcluster import kinds
from scheduler.devcluster.access import Api, StatusError
from scheduler.devcluster.mirror import Mirror, key_of
from scheduler.devcluster.objects import Obj, field_of, name_of, uid_of, with_field
from scheduler.devcluster.pods import is_leaving
from scheduler.devcluster.reports import Reports
from scheduler.devcluster.volumes import (
    NO_PROVISIONER,
    PROVISIONED_BY,
    SELECTED_NODE,
    STORAGE_PROVISIONER,
    chosen_node,
    reference_of,
)
from scheduler.devcluster.work import Work

# Parameters of a StorageClass.
OUTCOME = "devcluster.tutti.scheduler/outcome"
"""`never`: no volume is ever made. `refused`: none for the node that was chosen, which is to be chosen anew."""
REACH = "devcluster.tutti.scheduler/reach"
"""A node label: the volume is reached from nodes that have the chosen node's value of it."""


class Provisioner:
    """One for a cluster."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._claims, self._volumes = Mirror(api, kinds.VOLUME_CLAIM), Mirror(api, kinds.VOLUME)
        self._classes, self._nodes = Mirror(api, kinds.STORAGE_CLASS), Mirror(api, kinds.NODE)
        self._mirrors = (self._claims, self._volumes, self._classes, self._nodes)
        self._reports = Reports(api, "external-provisioner")
        self._work = Work("provisioner", self._sync)
        self._claims.listen(lambda _before, after: self._work.add(key_of(after)) if after is not None else None)
        self._volumes.listen(self._volume_changed)
        self._classes.listen(lambda _before, _after: self._look_again())

    @property
    def quiet(self) -> bool:
        """True when all that it knows of is done."""
        return all(mirror.synced.is_set() for mirror in self._mirrors) and self._work.quiet

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for mirror in self._mirrors:
                group.create_task(mirror.run())
            for mirror in self._mirrors:
                await mirror.synced.wait()
            group.create_task(self._work.run())

    def _look_again(self) -> None:
        for claim in self._claims.all():
            self._work.add(key_of(claim))

    def _volume_changed(self, _before: Obj | None, after: Obj | None) -> None:
        """A volume that has lost its claim goes."""
        if after is not None and field_of(after, "status", "phase") == "Released":
            self._work.add(f"\0{name_of(after)}")

    async def _sync(self, key: str) -> None:
        if key.startswith("\0"):
            await self._reclaim(self._volumes.get(key[1:]))
            return
        claim = self._claims.get(key)
        if claim is None or is_leaving(claim) or claim["spec"].get("volumeName"):
            return
        of = self._classes.get(claim["spec"].get("storageClassName") or "")
        asked = (claim["metadata"].get("annotations") or {}).get(STORAGE_PROVISIONER)
        if of is None or of["provisioner"] == NO_PROVISIONER or asked != of["provisioner"]:
            return
        if of.get("volumeBindingMode") == "WaitForFirstConsumer" and not chosen_node(claim):
            return
        await self._provision(claim, of)

    async def _provision(self, claim: Obj, of: Obj) -> None:
        outcome, node = (of.get("parameters") or {}).get(OUTCOME), chosen_node(claim)
        if outcome == "never":
            return
        if outcome == "refused" and node:
            text = f'failed to provision volume with StorageClass "{name_of(of)}": node {node} has no room for it'
            await self._reports.warn(claim, "ProvisioningFailed", text)
            await self._claims.patch(claim, {"metadata": {"annotations": {SELECTED_NODE: None}}}, subresource=None)
            return
        try:
            await self._volumes.create(_volume_for(claim, of, self._reach(of, node)))
        except StatusError as error:
            if error.code != 409:  # made before
                raise

    def _reach(self, of: Obj, node: str) -> tuple[str, str] | None:
        """The node label that binds a volume of the class, and its value on the node that was chosen."""
        label = (of.get("parameters") or {}).get(REACH)
        there = self._nodes.get(node) if node else None
        if not label or there is None:
            return None
        return label, str((there["metadata"].get("labels") or {}).get(label, ""))

    async def _reclaim(self, volume: Obj | None) -> None:
        made = volume is not None and PROVISIONED_BY in (volume["metadata"].get("annotations") or {})
        if volume is not None and made and volume["spec"].get("persistentVolumeReclaimPolicy") == "Delete":
            await self._volumes.remove(volume)


def _volume_for(claim: Obj, of: Obj, reach: tuple[str, str] | None) -> Obj:
    name = f"pvc-{uid_of(claim)}"
    spec: Obj = {
        "accessModes": claim["spec"].get("accessModes"),
        "capacity": {"storage": field_of(claim, "spec", "resources", "requests", "storage")},
        "claimRef": reference_of(claim),
        "csi": {"driver": of["provisioner"], "volumeHandle": name},
        "persistentVolumeReclaimPolicy": of.get("reclaimPolicy") or "Delete",
        "storageClassName": name_of(of),
        "volumeMode": claim["spec"].get("volumeMode") or "Filesystem",
    }
    if reach is not None:
        term = {"matchExpressions": [{"key": reach[0], "operator": "In", "values": [reach[1]]}]}
        spec = with_field(spec, ("nodeAffinity", "required"), {"nodeSelectorTerms": [term]})
    meta: Obj = {"name": name, "annotations": {PROVISIONED_BY: of["provisioner"]}}
    return {"apiVersion": "v1", "kind": kinds.VOLUME.kind, "metadata": meta, "spec": spec}
