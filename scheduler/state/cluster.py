"""ClusterState: the newest object of every kind, with our own writes laid over what the watches told.

One writer (the loop that reads the watches and the committer in the same thread); nothing here waits or does I/O.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from scheduler.api.attributes import PLACE_LABELS
from scheduler.api.changes import Change, read
from scheduler.api.core import Node, Pod
from scheduler.api.dra import ResourceClaim, ResourceSlice
from scheduler.api.kinds import NODE, POD, RESOURCE_CLAIM, RESOURCE_SLICE, WATCHED, Document, Kind
from scheduler.api.meta import ObjectMeta, Wire
from scheduler.state.assumed import Assumed, AssumedClaim, AssumedPod, older
from scheduler.state.below import Falls
from scheduler.state.pods import is_ready, resize_is_infeasible
from scheduler.state.withdrawn import DeviceKey, Withdrawn


class ClusterState:
    """What is known of the cluster. `version` grows whenever a snapshot may come out different, `confirmed` whenever
    the watch tells what we had written; `intended` counts those steps of `version` that only carry out a plan.

    What only we or a kubelet report, and no decision reads (conditions, heartbeats, our own status), does not count;
    nor, by itself, whether a pod is ready."""

    def __init__(self, kinds: Iterable[Kind] = WATCHED) -> None:
        self.kinds: tuple[Kind, ...] = tuple(kinds)
        self.version = 0
        self.confirmed = 0
        self.intended = 0
        self.derived: object | None = None
        """What `scheduler.state.translate` remembers between snapshots; nobody else's business."""
        self.withdrawn = Withdrawn()
        self.falls = Falls()
        self._avoided: dict[str, frozenset[DeviceKey]] = {}
        """Devices that did not become ready for a claim, by its uid; if it was made for a pod, by the pod's."""
        self._forgiven: dict[str, frozenset[DeviceKey]] = {}
        """Those of them that it may have all the same, for want of others."""
        self._told: dict[Kind, dict[str, Change]] = {kind: {} for kind in self.kinds}
        self._listed: set[Kind] = set()
        self._assumed = Assumed()
        self._changed: dict[Kind, set[str]] = {}

    def apply(self, change: Change) -> None:
        """Take in one change. Kinds that this state does not hold, and what is older than known, are ignored.

        Older by resourceVersion, of one object (uid): a watch may lag behind what was read directly (KEP 5504)."""
        kind = change.kind
        told = self._told.get(kind)
        if told is None:
            return
        if change.type == "LISTED":
            if kind not in self._listed:
                self._listed.add(kind)
                self.version += 1
            return
        known = told.get(change.key)
        before = self._entry(kind, change.key)
        if change.type == "DELETED":
            if known is not None and change.meta.uid in ("", known.meta.uid):
                del told[change.key]
                self._forget_failures(known.meta.uid)
        elif known is not None and change.meta.uid == known.meta.uid and _older(change, known):
            return
        else:
            told[change.key] = change
            if known is not None and change.meta.uid != known.meta.uid:
                self._forget_failures(known.meta.uid)
        if kind == POD:
            self.confirmed += self._assumed.told_pod(change) or self._first_seen_bound(known, change)
        elif kind == RESOURCE_CLAIM:
            self.confirmed += self._assumed.told_claim(change)
        elif kind == RESOURCE_SLICE:
            self._relist(known, told.get(change.key))
        self._note(kind, change.key, before)

    def apply_all(self, changes: Iterable[Change]) -> None:
        for change in changes:
            self.apply(change)

    @property
    def synced(self) -> bool:
        """Whether every kind has been listed once: before that nothing may be decided."""
        return len(self._listed) == len(self._told)

    @property
    def awaited(self) -> tuple[Kind, ...]:
        """The kinds that have not been listed yet."""
        return tuple(kind for kind in self.kinds if kind not in self._listed)

    def lists(self, kind: Kind) -> bool:
        """Whether all objects of the kind are known, so that one that is not here does not exist."""
        return kind in self._listed

    def has(self, kind: Kind) -> bool:
        """Whether an object of the kind was told of."""
        return bool(self._told.get(kind))

    def keys(self, kind: Kind) -> tuple[str, ...]:
        """Keys of all objects of the kind, claims that only we have seen so far included, sorted."""
        known = self._told.get(kind, {}).keys()
        return tuple(sorted(known | self._assumed.claims.keys() if kind == RESOURCE_CLAIM else known))

    def object(self, kind: Kind, key: str) -> Wire | None:
        """The object with our writes in it; None if there is none, or it cannot be decoded."""
        entry = self._entry(kind, key)
        return None if entry is None else entry[1]

    def objects(self, kind: Kind) -> Iterator[tuple[str, Wire]]:
        """Every object of the kind that can be decoded, with its key, in key order."""
        for key in self.keys(kind):
            found = self.object(kind, key)
            if found is not None:
                yield key, found

    def change(self, kind: Kind, key: str) -> Change | None:
        """The newest document and what became of it on reading, as told or as assumed (claims only)."""
        entry = self._entry(kind, key)
        return None if entry is None else entry[0]

    def raw(self, kind: Kind, key: str) -> bytes | None:
        """The newest JSON document, without managedFields; for a claim the answer to our last write, if newer.

        For a pod our binding is not in it."""
        entry = self._entry(kind, key)
        return None if entry is None else entry[0].raw

    def assume_bound(self, pod: str, uid: str, node: str, *, queue: str = "", now_ms: int = 0) -> None:
        """The server has bound the pod (key), or is about to: count it on its node, and for this queue (its path)."""
        before = self._entry(POD, pod)
        assumption = self._assume_pod(pod, uid, now_ms)
        assumption.node, assumption.queue, assumption.labels = node, queue, self._place(node)
        version = self.version
        self._settle_pod(pod, before)
        self.intended += self.version - version

    def assume_extended_claim(self, pod: str, uid: str, claim: str, *, now_ms: int = 0) -> None:
        """The pod's status names the claim (its name, not its key) made for its extended resources."""
        before = self._entry(POD, pod)
        self._assume_pod(pod, uid, now_ms).extended_claim = claim
        self._settle_pod(pod, before)

    def assume_terminating(self, pod: str, uid: str, *, now_ms: int = 0) -> None:
        """The server has accepted the pod's eviction, or is to be asked for it: it still holds what it has, and is on
        its way out."""
        before = self._entry(POD, pod)
        self._assume_pod(pod, uid, now_ms).terminating = True
        version = self.version
        self._settle_pod(pod, before)
        self.intended += self.version - version

    def forget_eviction(self, pod: str, uid: str) -> None:
        """The pod stays after all."""
        self._forget_part(pod, uid, terminating=False)

    def forget_nomination(self, pod: str, uid: str) -> None:
        """The node that is promised to the pod could not be noted."""
        self._forget_part(pod, uid, nominated=None)

    def assume_nominated(self, pod: str, uid: str, node: str, *, now_ms: int = 0) -> None:
        """The pod's status names the node that is promised to it, or "" for none."""
        before = self._entry(POD, pod)
        self._assume_pod(pod, uid, now_ms).nominated = node
        version = self.version
        self._settle_pod(pod, before)
        self.intended += self.version - version

    def forget_pod(self, pod: str) -> None:
        """What we wrote about the pod failed, or did not last."""
        before = self._entry(POD, pod)
        if self._assumed.pods.pop(pod, None) is not None:
            self._note(POD, pod, before, certain=True)

    def assume_claim(self, document: Mapping[str, Any], *, in_flight: bool = False, now_ms: int = 0) -> None:
        """The claim is as in `document`: the server's answer to our write, or with `in_flight` what we are writing.

        An answer not newer than what the watch told meanwhile is ignored. Raises ValueError if it has no name."""
        change = read(RESOURCE_CLAIM, msgspec.json.encode(document), "MODIFIED")
        if change is None:
            raise ValueError("the claim to assume has no metadata.name")
        before = self._entry(RESOURCE_CLAIM, change.key)
        assumption = AssumedClaim(change=change, in_flight=in_flight, since_ms=now_ms)
        told = self._told[RESOURCE_CLAIM].get(change.key)
        if told is not None and assumption.seen_in(told):
            self._assumed.claims.pop(change.key, None)
        else:
            self._assumed.claims[change.key] = assumption
        version = self.version
        self._note(RESOURCE_CLAIM, change.key, before)
        if in_flight:
            self.intended += self.version - version

    def forget_claim(self, claim: str) -> None:
        """The write failed, or the claim is gone: only what the watch tells counts again."""
        before = self._entry(RESOURCE_CLAIM, claim)
        if self._assumed.claims.pop(claim, None) is not None:
            self._note(RESOURCE_CLAIM, claim, before, certain=True)

    @property
    def avoided(self) -> Mapping[str, frozenset[DeviceKey]]:
        """Devices not to be given for now to a claim again, or to one that is made for a pod, by the uid of either."""
        return self._avoided

    def avoid(self, claim: str, uid: str, devices: Iterable[DeviceKey]) -> bool:
        """The claim (key) had these devices, and they did not become ready for it. Answers whether that is new of any
        of them: that it had been forgiven before it was tried again promises nothing better for the next time."""
        return self._blame(RESOURCE_CLAIM, claim, uid, frozenset(devices))

    def avoid_for_pod(self, pod: str, uid: str, devices: Iterable[DeviceKey]) -> bool:
        """A claim made for the pod's extended resources had these devices, and they did not become ready for it. That
        claim is deleted; the next one that is made for the pod is to have others. Answers as `avoid` does."""
        return self._blame(POD, pod, uid, frozenset(devices))

    def forgive(self, claim: str, uid: str) -> None:
        """Without the devices that the claim is to avoid there is no place for it: it may have any of them again."""
        self._forgive(RESOURCE_CLAIM, claim, uid)

    def forgive_for_pod(self, pod: str, uid: str) -> None:
        """The same for what is made for the pod."""
        self._forgive(POD, pod, uid)

    def overdue(self, before_ms: int) -> tuple[str, ...]:
        """What was assumed before this time and is still not seen ("Pod/a/p", "ResourceClaim/a/c"): read it again."""
        return self._assumed.overdue(before_ms)

    def take_changed(self) -> dict[Kind, set[str]]:
        """Keys that changed since the last call, by kind. For `scheduler.state.translate` only."""
        changed, self._changed = self._changed, {}
        return changed

    def fork(self) -> "ClusterState":
        """A copy that goes its own way (what would happen if). Objects are shared; nothing ever changes them."""
        copy = ClusterState(self.kinds)
        copy.version = self.version
        copy._told = {kind: dict(objects) for kind, objects in self._told.items()}
        copy._listed = set(self._listed)
        copy._assumed = self._assumed.copy()
        copy.withdrawn = self.withdrawn.copy()
        copy.falls = self.falls.copy()
        copy._avoided = dict(self._avoided)
        return copy

    def _blame(self, kind: Kind, key: str, uid: str, devices: frozenset[DeviceKey]) -> bool:
        before = self._avoided.get(uid, frozenset())
        self._set_avoided(kind, key, uid, before | devices)
        return not devices <= before | self._forgiven.get(uid, frozenset())

    def _forgive(self, kind: Kind, key: str, uid: str) -> None:
        self._forgiven[uid] = self._forgiven.get(uid, frozenset()) | self._avoided.get(uid, frozenset())
        self._set_avoided(kind, key, uid, frozenset())

    def _set_avoided(self, kind: Kind, key: str, uid: str, devices: frozenset[DeviceKey]) -> None:
        known = self.change(kind, key)
        if known is None or known.meta.uid != uid:
            self._forget_failures(uid)  # gone meanwhile: nothing would ever take it back
            return
        self._avoided.pop(uid, None)
        if devices:
            self._avoided[uid] = devices
        self._changed.setdefault(kind, set()).add(key)
        self.version += 1

    def _forget_failures(self, uid: str) -> None:
        self._avoided.pop(uid, None)
        self._forgiven.pop(uid, None)

    def _first_seen_bound(self, known: Change | None, told: Change) -> bool:
        """Whether a pod that we bound is seen on its node now, while something else that we wrote of it is not yet."""
        before = known.object if known is not None else None
        bound = isinstance(told.object, Pod) and bool(told.object.spec.node_name)
        return bound and told.key in self._assumed.pods and not (isinstance(before, Pod) and before.spec.node_name)

    def _relist(self, before: Change | None, after: Change | None) -> None:
        """A slice that cannot be decoded lists nothing: the next one that can may lack what claims hold."""
        was, now = (change.object if change is not None else None for change in (before, after))
        self.withdrawn.replaced(
            was if isinstance(was, ResourceSlice) else None, now if isinstance(now, ResourceSlice) else None
        )

    def _entry(self, kind: Kind, key: str) -> "tuple[Change, Wire | None] | None":
        told = self._told[kind].get(key) if kind in self._told else None
        if kind == POD and told is not None and key in self._assumed.pods and isinstance(told.object, Pod):
            return told, self._assumed.pods[key].over(told.object)
        if kind == RESOURCE_CLAIM and key in self._assumed.claims:
            change = self._assumed.claims[key].change
            return change, change.object
        return None if told is None else (told, told.object)

    def _assume_pod(self, pod: str, uid: str, now_ms: int) -> AssumedPod:
        known = self._assumed.pods.get(pod)
        if known is None or known.uid != uid:
            known = AssumedPod(uid=uid)
        # A new record, so that what it shows is made anew.
        fresh = AssumedPod(
            uid=uid,
            node=known.node,
            queue=known.queue,
            labels=known.labels,
            extended_claim=known.extended_claim,
            nominated=known.nominated,
            terminating=known.terminating,
            since_ms=now_ms,
        )
        self._assumed.pods[pod] = fresh
        return fresh

    def _forget_part(self, pod: str, uid: str, **less: Any) -> None:
        known = self._assumed.pods.get(pod)
        if known is not None and known.uid == uid:
            before = self._entry(POD, pod)
            self._assumed.pods[pod] = replace(known, **less, _shown=None)
            self._settle_pod(pod, before)

    def _place(self, node: str) -> Mapping[str, str]:
        """The labels that a pod gets when it is bound to this node."""
        known = self.object(NODE, node)
        labels = known.metadata.labels if isinstance(known, Node) else None
        return {name: value for name, value in (labels or {}).items() if name in PLACE_LABELS}

    def _settle_pod(self, pod: str, before: "tuple[Change, Wire | None] | None") -> None:
        """Drop the assumption if the watch was quicker; either way the pod may look different now."""
        told = self._told[POD].get(pod)
        if told is not None and isinstance(told.object, Pod) and self._assumed.pods[pod].seen_in(told.object):
            del self._assumed.pods[pod]
            self.confirmed += 1
        self._note(POD, pod, before)

    def _note(
        self, kind: Kind, key: str, before: "tuple[Change, Wire | None] | None", *, certain: bool = False
    ) -> None:
        """Count the change unless the object, as far as decisions read it, is what it was."""
        after = self._entry(kind, key)
        if before is None and after is None:
            return
        if not certain and before is not None and after is not None and _same(before, after):
            if _health_changed(before[1], after[1]):
                self._changed.setdefault(kind, set()).add(key)
            return
        self._changed.setdefault(kind, set()).add(key)
        self.version += 1


def _older(change: Change, than: Change) -> bool:
    return older(change.meta.resource_version, than.meta.resource_version)


def _same(before: tuple[Change, Wire | None], after: tuple[Change, Wire | None]) -> bool:
    if before[1] is None or after[1] is None:
        return before[1] is after[1] and before[0].raw == after[0].raw
    return before[1] is after[1] or _facts(before[1]) == _facts(after[1])


def _health_changed(before: Wire | None, after: Wire | None) -> bool:
    """Whether a pod became ready or ceased to be. The next snapshot tells it, and it is no cause for one: only
    disruption budgets depend on it, and what these allow then changes too."""
    if before is after or not (isinstance(before, Pod) and isinstance(after, Pod)):
        return False
    return is_ready(before.status) != is_ready(after.status)


def _facts(object_: Wire) -> object:
    """The parts of an object that decisions read."""
    if isinstance(object_, Pod):
        status = object_.status
        return (
            identity(object_.metadata),
            object_.spec,
            status.phase,
            status.nominated_node_name,
            status.start_time,
            status.resource_claim_statuses,
            status.extended_resource_claim_status,
            status.container_statuses,
            status.init_container_statuses,
            (status.allocated_resources, status.resources) if object_.spec.resources else None,
            resize_is_infeasible(status),
        )
    if isinstance(object_, Document):
        return identity(object_.metadata), object_.spec, object_.status.get("succeeded")  # what a Job has counted
    if isinstance(object_, ResourceClaim):
        return identity(object_.metadata), object_.spec, _allocation(object_), object_.status.reserved_for
    metadata: ObjectMeta = object_.metadata  # type: ignore[attr-defined]
    return identity(metadata), msgspec.structs.replace(object_, metadata=_NO_META)


def _allocation(claim: ResourceClaim) -> object:
    """What the claim holds. Since when does not matter: our own writes differ in that from what we intended."""
    held = claim.status.allocation
    return None if held is None else msgspec.structs.replace(held, allocation_timestamp=None)


_NO_META = ObjectMeta()


def identity(meta: ObjectMeta) -> tuple[object, ...]:
    """What decisions read of the metadata of any object."""
    return (
        meta.uid,
        meta.labels,
        meta.annotations,
        meta.owner_references,
        meta.creation_timestamp,
        meta.deletion_timestamp is not None,
    )
