"""Can the pods of a plan use their volumes, all of them together? A part of the check of plans.

Source: the plugins VolumeBinding, VolumeZone, VolumeRestrictions and NodeVolumeLimits of kube-scheduler.
"""

from collections.abc import Iterator

from scheduler.api.storage import READ_WRITE_ONCE, READ_WRITE_ONCE_POD
from scheduler.model.nodes import Node
from scheduler.model.plan import Placement
from scheduler.model.volumes import PodVolume, Storage, Volume, VolumeClaim
from scheduler.model.workloads import Pod
from scheduler.solver.check_case import Case
from scheduler.solver.check_selectors import fulfils, selects


def volumes_can_be_used(case: Case) -> Iterator[str]:
    """Every claim is there and reached, or gets a volume that can be; none is given twice, used by two pods that may
    not share it, or attached to a full node."""
    if not any(pod.volumes for _, pod, _ in case.placed):
        return
    for placement, pod, node in case.placed:
        decided = {choice.claim: choice.volume for choice in placement.volumes}
        for entry in pod.volumes:
            for problem in _claim(case.snapshot.storage, pod, entry, node, decided):
                yield f"pod {pod.key} on node {node.name}: PersistentVolumeClaim {entry.claim} {problem}"
        yield from _undue(case.snapshot.storage, placement, pod)
    yield from _being_bound(case)
    yield from _given_twice(case)
    yield from _used_alone(case)
    yield from _attached(case)


def _claim(storage: Storage, pod: Pod, entry: PodVolume, node: Node, decided: dict[str, str]) -> Iterator[str]:
    claim = storage.claims.get(entry.claim)
    if claim is None or claim.terminating or claim.lost:
        yield "cannot be used"
        return
    if entry.own and claim.owner_uid != pod.uid:
        yield "is not the pod's own"
    if claim.bound:
        volume = storage.volumes.get(claim.volume)
        if volume is None or not _reaches(volume, node):
            yield "has its volume elsewhere"
    elif entry.claim not in decided:
        yield "is not bound and gets no volume"
    elif decided[entry.claim]:
        yield from _by_hand(storage, claim, decided[entry.claim], node)
    else:
        yield from _provisioned(storage, claim, node)


def _by_hand(storage: Storage, claim: VolumeClaim, name: str, node: Node) -> Iterator[str]:
    volume = storage.volumes.get(name)
    if volume is None or not volume.available or volume.claim not in ("", claim.key):
        yield f"is given {name}, which is not free"
    elif volume.size < claim.size or volume.block != claim.block:
        yield f"is given {name}, which does not fit"
    elif not volume.claim and not _is_of_its_kind(volume, claim):
        yield f"is given {name}, which is of another kind"
    elif not _reaches(volume, node):
        yield f"is given {name}, which is elsewhere"


def _is_of_its_kind(volume: Volume, claim: VolumeClaim) -> bool:
    same = volume.storage_class == (claim.storage_class or "") and volume.attributes_class == claim.attributes_class
    chosen = all(fulfils(requirement, volume.labels.get(requirement.key)) for requirement in claim.selector)
    return same and chosen and set(claim.modes) <= set(volume.modes)


def _provisioned(storage: Storage, claim: VolumeClaim, node: Node) -> Iterator[str]:
    of = storage.classes.get(claim.storage_class or "")
    if of is None or not of.provisioner or not of.waits:
        yield "is given no volume, and none is provisioned for it"
        return
    if of.allowed is not None and not selects(of.allowed, node):
        yield f"cannot be provisioned there: StorageClass {of.name} allows other topologies"
    rooms = [room for room in storage.capacities if room.storage_class == of.name and room.largest >= claim.size]
    if of.provisioner in storage.tracking and not any(selects(room.where, node) for room in rooms):
        yield "cannot be provisioned there: there is too little storage"


def _undue(storage: Storage, placement: Placement, pod: Pod) -> Iterator[str]:
    """Volumes for claims that are not the pod's, or not open; and nodes other than the one that was chosen."""
    named = {entry.claim for entry in pod.volumes}
    for choice in placement.volumes:
        claim = storage.claims.get(choice.claim)
        if claim is None or choice.claim not in named or claim.bound or claim.volume or claim.uid != choice.claim_uid:
            yield f"pod {pod.key} is given a volume for PersistentVolumeClaim {choice.claim}, which takes none"
        elif claim.selected_node not in ("", placement.node):
            yield f"PersistentVolumeClaim {choice.claim} is being provisioned for another node than {placement.node}"


def _being_bound(case: Case) -> Iterator[str]:
    """What becomes of a claim is open while it is bound for a pod that has its node."""
    there = {entry.claim for pod in case.snapshot.pods for entry in pod.volumes if pod.node and not pod.done}
    for placement, _, _ in case.placed:
        for choice in placement.volumes:
            if choice.claim in there:
                yield f"PersistentVolumeClaim {choice.claim} is given a volume while it is bound for another pod"


def _given_twice(case: Case) -> Iterator[str]:
    holder: dict[str, str] = {}
    volume_of: dict[str, str] = {}
    node_of: dict[str, str] = {}
    for placement, _, node in case.placed:
        for choice in placement.volumes:
            if choice.volume and holder.setdefault(choice.volume, choice.claim) != choice.claim:
                yield f"PersistentVolume {choice.volume} is given to {holder[choice.volume]} and {choice.claim}"
            if volume_of.setdefault(choice.claim, choice.volume) != choice.volume:
                yield f"PersistentVolumeClaim {choice.claim} is given two volumes"
            claim = case.snapshot.storage.claims.get(choice.claim)
            single = claim is not None and set(claim.modes) <= {READ_WRITE_ONCE, READ_WRITE_ONCE_POD}
            if single and node_of.setdefault(choice.claim, node.name) != node.name:
                yield f"PersistentVolumeClaim {choice.claim} is for one node and its pods go to two"


def _used_alone(case: Case) -> Iterator[str]:
    users: dict[str, set[str]] = {}
    placed = [pod for _, pod, _ in case.placed]
    for pod in (*case.snapshot.pods, *placed):
        for entry in pod.volumes if not pod.done else ():
            users.setdefault(entry.claim, set()).add(pod.uid)
    for key in sorted({entry.claim for pod in placed for entry in pod.volumes}):
        claim = case.snapshot.storage.claims.get(key)
        if claim is not None and READ_WRITE_ONCE_POD in claim.modes and len(users[key]) > 1:
            yield f"PersistentVolumeClaim {key} is for one pod and used by {len(users[key])}"


def _attached(case: Case) -> Iterator[str]:
    """A node that was over its limit before is only wrong if it gets more."""
    storage = case.snapshot.storage
    there: dict[tuple[str, str], set[str]] = {}
    for pod in case.snapshot.pods:
        for driver, handle in _handles(storage, pod) if pod.node and not pod.done else ():
            there.setdefault((pod.node, driver), set()).add(handle)
    then = {key: set(handles) for key, handles in there.items()}
    for _, pod, node in case.placed:
        for driver, handle in _handles(storage, pod):
            then.setdefault((node.name, driver), set()).add(handle)
    for (name, driver), handles in sorted(then.items()):
        limit = storage.limits.get(name, {}).get(driver)
        if limit is not None and len(handles) > max(limit, len(there.get((name, driver), ()))):
            yield f"node {name} can attach {limit} volumes of {driver}, and {len(handles)} are used"


def _handles(storage: Storage, pod: Pod) -> Iterator[tuple[str, str]]:
    """By driver what is attached for the pod; a volume that is still to be had counts as its class's."""
    for entry in pod.volumes:
        claim = storage.claims.get(entry.claim)
        if claim is None:
            continue
        volume = storage.volumes.get(claim.volume) if claim.bound else None
        of = storage.classes.get(claim.storage_class or "")
        if volume is not None and volume.driver:
            yield volume.driver, volume.handle
        elif volume is None and of is not None and of.provisioner:
            yield of.provisioner, claim.key


def _reaches(volume: Volume, node: Node) -> bool:
    return all(selects(where.selector, node) for where in volume.where)
