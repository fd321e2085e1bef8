"""What there is to store on, as far as pods that are placed look at it: nothing here changes while a plan is made.

Claims and volumes are PersistentVolumeClaims and PersistentVolumes. A claim that waits for its first consumer takes a
free volume that fits, or has one provisioned where its class may; all other claims must be bound already.
Source: the plugins VolumeBinding, VolumeZone, VolumeRestrictions and NodeVolumeLimits of kube-scheduler.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from scheduler.api.core import NodeSelector, NodeSelectorRequirement
from scheduler.api.storage import READ_WRITE_ONCE, READ_WRITE_ONCE_POD
from scheduler.dra.selection import NAME_FIELD, matches, only_on
from scheduler.model.company import holds
from scheduler.model.nodes import Node
from scheduler.model.volumes import Storage, StorageClass, Volume, VolumeClaim, Where
from scheduler.model.workloads import Pod

_CHOSEN_ELSEWHERE = "is not the node for which a volume of the pod is being made"

_NO_CLAIM = (
    "Create it in the pod's namespace, or correct spec.volumes of the pod. If it exists, the scheduler may not read "
    "claims: grant what deploy/scheduler.yaml grants."
)
_NO_CLAIM_OF_ITS_OWN = "Kubernetes makes it within seconds; if not, the pod's events say why."
_LEAVING = "Create it again once it is gone."
_LOST = "Restore that volume, or delete the claim and create it anew."
_ANOTHERS = "Delete that claim, so that Kubernetes makes the pod's own, or rename the pod."
_UNBOUND = (
    "Its class binds it without waiting for a pod: the claim's events say why no volume was found or provisioned for "
    "it yet."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seek:
    """What a claim that waits for its first consumer may get: one of these volumes, or where all
    of `made` hold one that is provisioned; None if none is. `storage_class` for words."""

    candidates: frozenset[str]
    made: tuple[Where, ...] | None
    storage_class: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the volumes of pods that go to one node together ask of it. `where`: all must hold. `attach`: by driver, how
    many volumes nobody else uses; `shared`: driver and handle of the others. `seeks`: of the claims, by number."""

    where: tuple[Where, ...] = ()
    attach: tuple[tuple[str, int], ...] = ()
    shared: tuple[tuple[str, str], ...] = ()
    seeks: tuple[int, ...] = ()

    @property
    def passing(self) -> bool:
        """Whether the answer changes as a plan grows."""
        return bool(self.attach or self.shared or self.seeks)


NO_WISH = Wish()


class Shelves:
    """The storage of a snapshot, for these pods."""

    def __init__(self, nodes: Mapping[str, Node], storage: Storage, pods: Sequence[Pod]) -> None:
        self.storage = storage
        self.seeks: list[Seek] = []
        self.drivers: tuple[str, ...] = ()
        self.shared: frozenset[tuple[str, str]] = frozenset()
        self.passing = False
        self.only_made: frozenset[int] = frozenset()
        """Seeks (number) for which there is no volume: they are provisioned where `Wish.where` lets them."""
        self._nodes = nodes
        self._named: dict[str, int] = {}
        for pod in pods:
            for claim in dict.fromkeys(entry.claim for entry in pod.volumes):
                self._named[claim] = self._named.get(claim, 0) + 1
        self._numbers: dict[Hashable, int] = {}
        self._seek_of: dict[str, int] = {}
        self._wishes: dict[tuple[tuple[str, ...], tuple[str, ...]], Wish] = {}
        self._reached: dict[str, list[str]] = {}
        self._reaching: dict[str, tuple[str, ...]] = {}
        self._provisions: dict[str, frozenset[int]] = {}
        self._by_label: dict[tuple[str, str], list[str]] | None = None
        self._on_offer: dict[str, list[Volume]] = {}
        self._promised: dict[str, list[Volume]] = {}
        for volume in sorted(storage.volumes.values(), key=lambda v: (v.size, v.name)) if pods else ():
            if volume.available and not volume.claim:
                self._on_offer.setdefault(volume.storage_class, []).append(volume)
            elif volume.claim:
                self._promised.setdefault(volume.claim, []).append(volume)

    def open(self, wanted: Sequence[Pod]) -> None:
        """Know what these pods seek, and which nodes have it."""
        handles: set[tuple[str, str]] = set()
        for pod in wanted:
            if all(self.trouble(pod, entry.claim, own=entry.own) is None for entry in pod.volumes):
                handles.update(self.handles(pod))
                for claim in self.open_claims(pod):
                    self.seek(claim)
        self.drivers = tuple(sorted({driver for driver, _ in handles}))
        self.shared = frozenset(handles)
        sought = frozenset[str]().union(*(seek.candidates for seek in self.seeks))
        for name in sorted(sought, key=lambda name: (self.storage.volumes[name].size, name)):
            self._reaching[name] = tuple(self._where(self.storage.volumes[name].where))
            for node in self._reaching[name]:
                self._reached.setdefault(node, []).append(name)
        made: dict[str, set[int]] = {}
        for number, seek in enumerate(self.seeks):
            for node in self._where(seek.made) if seek.candidates and seek.made is not None else ():
                made.setdefault(node, set()).add(number)
        self._provisions = {node: frozenset(numbers) for node, numbers in made.items()}
        limited = any(driver in limits for limits in self.storage.limits.values() for driver in self.drivers)
        self.passing = limited or bool(self.seeks)

    def reached(self, node: str) -> Sequence[str]:
        """Volumes that are sought and can be used there, the smallest first."""
        return self._reached.get(node, ())

    def reaching(self, volume: str) -> tuple[str, ...]:
        """Nodes that can use it."""
        return self._reaching.get(volume, ())

    def provisions(self, node: str) -> frozenset[int]:
        """Seeks (number) for which a volume can be provisioned there as well."""
        return self._provisions.get(node, frozenset())

    def exclusive(self, key: str) -> bool:
        claim = self.storage.claims.get(key)
        return claim is not None and READ_WRITE_ONCE_POD in claim.modes

    def tied(self, key: str) -> bool:
        """Whether pods that share this claim must be on one node, as far as is known before it is bound."""
        claim = self.storage.claims.get(key)
        if claim is None or claim.bound or self._named.get(key, 0) < 2:
            return False
        if all(mode in (READ_WRITE_ONCE, READ_WRITE_ONCE_POD) for mode in claim.modes):
            return True
        return any(volume.where for volume in self._candidates(claim))

    def trouble(self, pod: Pod, key: str, *, own: bool) -> tuple[str, str] | None:
        """What keeps the pod from using the claim whatever its node, and what helps."""
        claim = self.storage.claims.get(key)
        if claim is None:
            return ("has not been made yet", _NO_CLAIM_OF_ITS_OWN) if own else ("does not exist", _NO_CLAIM)
        if own and claim.owner_uid != pod.uid:
            return "belongs to something else", _ANOTHERS
        if claim.terminating:
            return "is being deleted", _LEAVING
        if claim.lost or (claim.bound and claim.volume not in self.storage.volumes):
            return f"has lost its PersistentVolume {claim.volume}", _LOST
        if not claim.bound and (claim.volume or not self._class(claim).waits):
            return "is not bound yet", _UNBOUND
        return None

    def open_claims(self, pod: Pod) -> tuple[str, ...]:
        """The pod's claims that wait for their first consumer, each once."""
        claims = (self.storage.claims.get(key) for key in dict.fromkeys(entry.claim for entry in pod.volumes))
        return tuple(c.key for c in claims if c is not None and not c.bound and not c.volume and self._class(c).waits)

    def handles(self, pod: Pod) -> tuple[tuple[str, str], ...]:
        """What is attached for the pod, by driver: a volume by its handle, one that is not there yet by its claim."""
        found = []
        for key in dict.fromkeys(entry.claim for entry in pod.volumes):
            claim = self.storage.claims.get(key)
            if claim is not None:
                handle = self._handle(claim)
                found += [handle] if handle[0] else []
        return tuple(found)

    def wish(self, claims: tuple[str, ...], pinned: tuple[str, ...]) -> Wish:
        """`pinned`: by claim, the node that it has been given, "" for none."""
        known = self._wishes.get((claims, pinned))
        if known is None:
            known = self._wishes[claims, pinned] = self._wish(claims, pinned)
        return known

    def seek(self, key: str) -> int:
        known = self._seek_of.get(key)
        if known is None:
            claim = self.storage.claims[key]
            alike = (
                claim.storage_class,
                claim.size,
                claim.modes,
                claim.block,
                claim.selector,
                claim.attributes_class,
                key if key in self._promised else "",
            )
            known = self._seek_of[key] = self._numbers.setdefault(alike, len(self.seeks))
            if known == len(self.seeks):
                self._new_seek(claim)
        return known

    def _new_seek(self, claim: VolumeClaim) -> None:
        of, candidates = self._class(claim), self._candidates(claim)
        promised = any(volume.claim for volume in candidates)
        made = None if promised or not of.provisioner else self._made(claim, of)
        if made is not None and not candidates:
            self.only_made |= {len(self.seeks)}
        self.seeks.append(Seek(candidates=frozenset(v.name for v in candidates), made=made, storage_class=of.name))

    def _wish(self, claims: tuple[str, ...], pinned: tuple[str, ...]) -> Wish:
        where: list[Where] = []
        attach: dict[str, int] = {}
        shared: list[tuple[str, str]] = []
        seeks: list[int] = []
        for key, node in zip(claims, pinned, strict=True):
            claim = self.storage.claims[key]
            if claim.bound:
                where += self.storage.volumes[claim.volume].where
            elif node or claim.selected_node:
                where.append(Where(selector=only_on(node or claim.selected_node), cause=_CHOSEN_ELSEWHERE))
            if not claim.bound and not node:
                number = self.seek(key)
                seek = self.seeks[number]
                if number not in self.only_made:
                    seeks.append(number)
                where += seek.made or () if number in self.only_made else ()
            driver, handle = self._handle(claim)
            if driver and self._named.get(key, 0) > 1:
                shared.append((driver, handle))
            elif driver:
                attach[driver] = attach.get(driver, 0) + 1
        return Wish(
            where=tuple(dict.fromkeys(where)),
            attach=tuple(sorted(attach.items())),
            shared=tuple(sorted(shared)),
            seeks=tuple(sorted(seeks)),
        )

    def _handle(self, claim: VolumeClaim) -> tuple[str, str]:
        volume = self.storage.volumes.get(claim.volume) if claim.bound else None
        if volume is not None:
            return volume.driver, volume.handle
        return self._class(claim).provisioner, claim.key

    def _class(self, claim: VolumeClaim) -> StorageClass:
        """A class that does not exist binds at once, as in Kubernetes."""
        name = claim.storage_class or ""
        return self.storage.classes.get(name) or StorageClass(name=name)

    def _candidates(self, claim: VolumeClaim) -> list[Volume]:
        """Volumes that the claim may get, the best fit first; one that is promised to it goes before all others."""
        promised = [v for v in self._promised.get(claim.key, ()) if v.claim_uid in ("", claim.uid)]
        if promised:
            return [v for v in promised if v.size >= claim.size and v.block == claim.block]
        return [v for v in self._on_offer.get(claim.storage_class or "", ()) if _fits(v, claim)]

    def _made(self, claim: VolumeClaim, of: StorageClass) -> tuple[Where, ...]:
        """Where a volume can be provisioned for the claim."""
        found = []
        if of.allowed is not None:
            cause = f"is outside of the topologies that StorageClass {of.name} allows"
            found.append(Where(selector=of.allowed, cause=cause))
        if of.provisioner in self.storage.tracking:
            terms = [
                term
                for room in self.storage.capacities
                if room.storage_class == of.name and room.largest >= claim.size
                for term in room.where.node_selector_terms
            ]
            cause = f"has too little storage left of StorageClass {of.name}"
            selector = NodeSelector(node_selector_terms=tuple(dict.fromkeys(terms)))
            found.append(Where(selector=selector, cause=cause))
        return tuple(found)

    def _where(self, conditions: Sequence[Where]) -> list[str]:
        """The nodes for which all of these hold, in order; looked up by a label where there is one."""
        nodes: Iterable[str] = self._nodes
        for condition in conditions:
            few = self._looked_up(condition.selector)
            if few is not None:
                nodes = few
                break
        return [n for n in nodes if all(matches(condition.selector, self._nodes[n]) for condition in conditions)]

    def _looked_up(self, selector: NodeSelector) -> list[str] | None:
        """All nodes that can match; None if labels alone do not say."""
        found: dict[str, None] = {}
        for term in selector.node_selector_terms:
            requirements: tuple[NodeSelectorRequirement, ...] = (
                *(term.match_expressions or ()),
                *(r for r in term.match_fields or () if r.key == NAME_FIELD),
            )
            first = next((r for r in requirements if r.operator == "In"), None)
            if first is None:
                return None
            for value in first.values or ():
                found.update(dict.fromkeys(self._labelled().get((first.key, value), ())))
        return sorted(found)

    def _labelled(self) -> dict[tuple[str, str], list[str]]:
        if self._by_label is None:
            self._by_label = {}
            for name, node in self._nodes.items():
                for entry in (*node.labels.items(), (NAME_FIELD, name)):
                    self._by_label.setdefault(entry, []).append(name)
        return self._by_label


def _fits(volume: Volume, claim: VolumeClaim) -> bool:
    return (
        volume.size >= claim.size
        and volume.block == claim.block
        and volume.attributes_class == claim.attributes_class
        and set(claim.modes) <= set(volume.modes)
        and holds(claim.selector, volume.labels)
    )
