"""One node as its kubelet sees it: what its pods take, and which claims are prepared for whom."""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.devcluster.admission import Amounts, Refusal, refusal, requests_of
from scheduler.devcluster.mirror import key_of
from scheduler.devcluster.objects import Obj, field_of, uid_of
from scheduler.devcluster.pods import claim_names, controller_of, extended_claim_name
from scheduler.devcluster.prepare import Catalogue, Prepared, Problem


@dataclass(slots=True, kw_only=True)
class Tenancy:
    """What one pod has of its node: resources, and the claims prepared for it (uids)."""

    pod_uid: str
    requests: Amounts
    claims: list[str] = field(default_factory=list)
    ended: bool = False


class Station:
    """The books of one node. `stock`: the devices its drivers have; None until somebody looks them up."""

    def __init__(self) -> None:
        self.stock: Catalogue | None = None
        self.prepared = Prepared()
        self._used: Amounts = {}
        self._users: dict[str, dict[str, None]] = {}

    def admit(self, pod: Obj, node: Obj) -> Refusal | None:
        """Why the pod cannot run here, beside those that do."""
        return refusal(pod, requests_of(pod), node, self._used)

    def take(self, pod: Obj) -> Tenancy:
        """The pod's resources are its own now."""
        tenancy = Tenancy(pod_uid=uid_of(pod), requests=requests_of(pod))
        for name, amount in tenancy.requests.items():
            self._used[name] = self._used.get(name, 0) + amount
        return tenancy

    def prepare(self, tenancy: Tenancy, claim: Obj) -> Problem | None:
        """Prepare a claim for the pod; a claim that another pod uses here is shared."""
        assert self.stock is not None
        problem = self.prepared.prepare(claim, self.stock)
        uid = uid_of(claim)
        if problem is None and uid not in tenancy.claims:
            self._users.setdefault(uid, {})[tenancy.pod_uid] = None
            tenancy.claims.append(uid)
        return problem

    def give_back(self, tenancy: Tenancy) -> None:
        """The pod ended: its resources are free, and the claims that no other pod here uses are unprepared."""
        if tenancy.ended:
            return
        tenancy.ended = True
        for name, amount in tenancy.requests.items():
            self._used[name] -= amount
        for uid in tenancy.claims:
            del self._users[uid][tenancy.pod_uid]
            if not self._users[uid]:
                del self._users[uid]
                self.prepared.unprepare(uid)


def claims_of(pod: Obj) -> list[tuple[str, str]]:
    """(name in the pod, ResourceClaim) of all claims of a pod, also the one for its extended resources."""
    named, extended = sorted(claim_names(pod).items()), extended_claim_name(pod)
    return [*named, ("", extended)] if extended else named


def missing(pod: Obj, claim: Obj) -> str:
    """What keeps a kubelet from using this claim for the pod, "" for nothing."""
    about = f"resourceclaim {key_of(claim)}"
    owner = controller_of(claim)
    if owner is not None and owner["kind"] == "Pod" and owner["uid"] != uid_of(pod):
        return f"{about} was made for another pod"
    if field_of(claim, "status", "allocation") is None:
        return f"{about} is not allocated"
    consumers = field_of(claim, "status", "reservedFor") or ()
    if not any(entry.get("uid") == uid_of(pod) for entry in consumers):
        return f"{about} is not reserved for this pod"
    return ""
