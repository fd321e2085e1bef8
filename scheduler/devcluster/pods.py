"""What controllers and kubelets ask about pods, and pods made from a template."""

from __future__ import annotations

from scheduler.devcluster.kinds import Kind
from scheduler.devcluster.objects import Obj, field_of

DONE = ("Succeeded", "Failed")


def phase(pod: Obj) -> str:
    """status.phase; Pending where there is none yet."""
    return str(field_of(pod, "status", "phase") or "Pending")


def is_done(pod: Obj) -> bool:
    """Succeeded or Failed: its containers will not run again."""
    return phase(pod) in DONE


def is_leaving(pod: Obj) -> bool:
    """Marked for deletion."""
    return bool(pod["metadata"].get("deletionTimestamp"))


def is_active(pod: Obj) -> bool:
    """Counts as one of its owner's pods: neither done nor leaving."""
    return not is_done(pod) and not is_leaving(pod)


def is_ready(pod: Obj) -> bool:
    """Its Ready condition is True."""
    return any(
        condition.get("type") == "Ready" and condition.get("status") == "True"
        for condition in field_of(pod, "status", "conditions") or ()
    )


def node_of(pod: Obj) -> str:
    """spec.nodeName, "" while unbound."""
    return str(pod["spec"].get("nodeName") or "")


def holds_claims(pod: Obj) -> bool:
    """May still use what its claims were given: not done, and not deleted before it was bound.

    Source: KEP 4381, release of reservations by kube-controller-manager.
    """
    return not is_done(pod) and (bool(node_of(pod)) or not is_leaving(pod))


def controller_of(obj: Obj) -> Obj | None:
    """The owner reference of the controller, if any."""
    for owner in obj["metadata"].get("ownerReferences") or ():
        if owner.get("controller"):
            found: Obj = owner
            return found
    return None


def controller_uid(obj: Obj) -> tuple[str, ...]:
    """The uid of the controller, as words of an index."""
    owner = controller_of(obj)
    return (str(owner["uid"]),) if owner is not None else ()


def reference_to(owner: Obj, kind: Kind) -> Obj:
    """The owner reference by which a controller marks what it made."""
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def claim_names(pod: Obj) -> dict[str, str]:
    """The ResourceClaim of each of the pod's claim names, "" while a template's claim is not made yet.

    Names whose status entry says that no claim is needed are left out.
    """
    made = {entry["name"]: entry.get("resourceClaimName") for entry in _claim_statuses(pod)}
    names: dict[str, str] = {}
    for entry in pod["spec"].get("resourceClaims") or ():
        if entry.get("resourceClaimName"):
            names[entry["name"]] = entry["resourceClaimName"]
        elif entry["name"] not in made:
            names[entry["name"]] = ""
        elif made[entry["name"]]:
            names[entry["name"]] = str(made[entry["name"]])
    return names


def extended_claim_name(pod: Obj) -> str:
    """The claim that serves the pod's extended resources (KEP 5004), "" where there is none."""
    return str(field_of(pod, "status", "extendedResourceClaimStatus", "resourceClaimName") or "")


def claim_keys(pod: Obj) -> tuple[str, ...]:
    """The keys of all ResourceClaims of a pod that are known by now."""
    names = [name for name in (*claim_names(pod).values(), extended_claim_name(pod)) if name]
    return tuple(f"{pod['metadata']['namespace']}/{name}" for name in names)


def _claim_statuses(pod: Obj) -> list[Obj]:
    return field_of(pod, "status", "resourceClaimStatuses") or []


def from_template(owner: Obj, kind: Kind, template: Obj, **meta: object) -> Obj:
    """A pod of this owner. `meta`: its name or generateName, labels and annotations that join the template's."""
    asked = template.get("metadata") or {}
    made: Obj = {"namespace": owner["metadata"]["namespace"], "ownerReferences": [reference_to(owner, kind)]}
    for field in ("labels", "annotations"):
        more = meta.pop(field, None)
        joined = {**(asked.get(field) or {}), **(more if isinstance(more, dict) else {})}
        if joined:
            made[field] = joined
    if asked.get("finalizers"):
        made["finalizers"] = asked["finalizers"]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {**made, **meta}, "spec": template["spec"]}


def most_expendable(pods: list[Obj]) -> list[Obj]:
    """Pods in the order in which a controller gives them up: unbound, pending, unready, then the youngest; by name."""

    def rank(pod: Obj) -> tuple[bool, bool, bool]:
        return (bool(node_of(pod)), phase(pod) == "Running", is_ready(pod))

    by_name = sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))
    youngest_first = sorted(by_name, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)
    return sorted(youngest_first, key=rank)
