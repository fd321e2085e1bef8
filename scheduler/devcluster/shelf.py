"""What a kubelet asks of volumes before it starts a pod. Nothing is mounted here.

Source: the kubelet waits with FailedMount until every claim of the pod is bound, to a volume that its node reaches.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.devcluster.admission import node_selector_matches
from scheduler.devcluster.mirror import Mirror
from scheduler.devcluster.objects import Obj, field_of, name_of, namespace_of

_BIND_COMPLETED = "pv.kubernetes.io/bind-completed"


@dataclass(frozen=True, slots=True)
class Shelf:
    """The claims and volumes that are known."""

    claims: Mirror
    volumes: Mirror

    def missing(self, pod: Obj, node: Obj) -> str:
        """What keeps the pod's volumes from being mounted on the node, "" for nothing."""
        for key in volume_claims(pod):
            claim = self.claims.get(key)
            if claim is None:
                return f'persistentvolumeclaim "{key.rpartition("/")[2]}" not found'
            named = claim["spec"].get("volumeName")
            if not named or _BIND_COMPLETED not in (claim["metadata"].get("annotations") or {}):
                return f"error processing PVC {key}: PVC is not bound"
            volume = self.volumes.get(named)
            if volume is None:
                return f'error processing PVC {key}: persistentvolume "{named}" not found'
            required = field_of(volume, "spec", "nodeAffinity", "required")
            if required is not None and not node_selector_matches(required, node):
                return f"volume {named} is not reached from node {name_of(node)} (node affinity)"
        return ""


def volume_claims(pod: Obj) -> list[str]:
    """The keys of the PersistentVolumeClaims of a pod."""
    found = []
    for volume in pod["spec"].get("volumes") or ():
        name = field_of(volume, "persistentVolumeClaim", "claimName")
        if volume.get("ephemeral") is not None:
            name = f"{name_of(pod)}-{volume['name']}"
        if name:
            found.append(f"{namespace_of(pod)}/{name}")
    return found
