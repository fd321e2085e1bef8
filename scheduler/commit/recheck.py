"""Is everything still as it was decided? Asked of the newest state, right before a gang's first write."""

from collections.abc import Collection, Mapping

from scheduler.api import core, dra, kinds, storage
from scheduler.api.dra import AllocationResult
from scheduler.api.meta import Wire
from scheduler.commit.known import Known
from scheduler.commit.remainder import split, stands
from scheduler.commit.writes import GangWrites, VolumeWrite
from scheduler.model.nodes import Node
from scheduler.model.snapshot import Snapshot

Device = tuple[str, str, str]


class Recheck:
    """For the gangs of one plan, in the order of their writes: a gang that joins a claim comes after the gang that
    allocates it, and is withdrawn with it. What changed stops the pods that it is about, and the others only if the
    gang has not its minimum without those."""

    def __init__(
        self,
        snapshot: Snapshot,
        state: Known,
        *,
        releasing: Collection[str] = (),
        promised: Mapping[str, str] | None = None,
    ) -> None:
        """`releasing`: claims whose devices are about to go, by key. `promised`: volumes that gangs in flight are about
        to give to a claim (key)."""
        self._promised = promised if promised is not None else {}
        self._state = state
        self._releasing = releasing
        self._snapshot = snapshot
        self._gangs = {gang.key: gang for gang in snapshot.gangs}
        self._nodes = {node.name: node for node in snapshot.nodes}
        self._taken = self._taken_since()
        self._withdrawn: set[str] = set()

    def begin(self, gang: GangWrites) -> tuple[GangWrites, str]:
        """What may be begun, and what is no longer as the plan saw it, in a few words, "" if nothing.

        Pods that lost their place are left out; if the gang has not its minimum without them, nothing is left."""
        changed = self._changes(gang)
        going = self.without(gang, changed)
        kept = {write.claim for write in going.claims if write.first}
        self._withdrawn.update(write.claim for write in gang.claims if write.first and write.claim not in kept)
        return going, next(iter(changed.values()), "")

    def node(self, name: str) -> Node:
        """The node as it was when the plan was made."""
        return self._nodes[name]

    def gone(self, gang: GangWrites) -> dict[str, str]:
        """The pods (key) that may not be bound any more, and why in a few words: they or their nodes went away or were
        closed since the writes began. To be asked before the first bind: from then on only forward."""
        found = {}
        for bind in gang.binds:
            pod = self._state.object(kinds.POD, bind.pod)
            problem = self._pod_gone(bind.pod, bind.uid, pod) or self._node_changed(bind.node)
            if problem:
                found[bind.pod] = problem
        return found

    def without(self, gang: GangWrites, out: Collection[str]) -> GangWrites:
        """The writes for the other pods than these (keys); none if the gang has not its minimum with those."""
        if not out:
            return gang
        going, _ = split(gang, out)
        placed = [bind.pod for bind in going.binds]
        return going if stands(self._gangs[gang.gang], placed) else split(gang, [*out, *placed])[0]

    def _changes(self, gang: GangWrites) -> dict[str, str]:
        """The pods (key) that cannot be placed as it was decided, and why."""
        found: dict[str, str] = {}
        for bind in gang.binds:
            found[bind.pod] = self._pod_changed(bind.pod, bind.uid) or self._node_changed(bind.node)
        for write in gang.claims:
            problem = self._claim_changed(write.claim, write.uid, first=write.first)
            if write.first:
                problem = problem or self._device_taken(write.allocation)
            for consumer in write.consumers:
                found[consumer.pod] = found[consumer.pod] or problem
        for volume in gang.volumes:
            problem = self._volume_claim_changed(volume) or self._volume_taken(volume)
            for consumer in volume.consumers:
                found[consumer.pod] = found[consumer.pod] or problem
        for making in gang.making:
            found[making.consumer.pod] = found[making.consumer.pod] or self._device_taken(making.allocation)
        return {pod: problem for pod, problem in found.items() if problem}

    def _pod_changed(self, key: str, uid: str) -> str:
        pod = self._state.object(kinds.POD, key)
        if isinstance(pod, core.Pod) and pod.metadata.uid == uid and pod.spec.node_name:
            return f"Pod {key} was bound to {pod.spec.node_name} by another"
        return self._pod_gone(key, uid, pod)

    def _pod_gone(self, key: str, uid: str, pod: Wire | None) -> str:
        if not isinstance(pod, core.Pod) or pod.metadata.uid != uid or pod.metadata.deletion_timestamp:
            return f"Pod {key} went away"
        return f"Pod {key} got a scheduling gate" if pod.spec.scheduling_gates else ""

    def _node_changed(self, name: str) -> str:
        """A drained node is cordoned or tainted; a taint that came since the decision was weighed by nobody."""
        node, known = self._state.object(kinds.NODE, name), self._nodes[name]
        if not isinstance(node, core.Node):
            return f"Node {name} went away"
        if node.spec.unschedulable and not known.unschedulable:
            return f"Node {name} was cordoned"
        blocking = [taint for taint in node.spec.taints or () if taint.effect in ("NoSchedule", "NoExecute")]
        new = [taint for taint in blocking if taint not in known.taints]
        return f"Node {name} was tainted with {new[0].key}" if new else ""

    def _claim_changed(self, key: str, uid: str, *, first: bool) -> str:
        claim = self._state.object(kinds.RESOURCE_CLAIM, key)
        if not isinstance(claim, dra.ResourceClaim) or claim.metadata.uid != uid:
            return f"ResourceClaim {key} went away"
        if claim.metadata.deletion_timestamp:
            return f"ResourceClaim {key} is being deleted"
        if first and claim.status.allocation is not None:
            return f"ResourceClaim {key} was allocated elsewhere"
        if key in self._releasing:
            return f"ResourceClaim {key} was being released"
        if key in self._withdrawn:
            return f"the gang that was to allocate ResourceClaim {key} changed"
        return ""

    def _volume_claim_changed(self, write: VolumeWrite) -> str:
        claim = self._state.object(kinds.VOLUME_CLAIM, write.claim)
        if not isinstance(claim, storage.PersistentVolumeClaim) or claim.metadata.uid != write.uid:
            return f"PersistentVolumeClaim {write.claim} went away"
        if claim.metadata.deletion_timestamp:
            return f"PersistentVolumeClaim {write.claim} is being deleted"
        bound = bool(claim.spec.volume_name)
        return f"PersistentVolumeClaim {write.claim} was bound to {claim.spec.volume_name}" if bound else ""

    def _volume_taken(self, write: VolumeWrite) -> str:
        if not write.volume:
            return ""
        volume = self._state.object(kinds.VOLUME, write.volume)
        if not isinstance(volume, storage.PersistentVolume) or volume.metadata.deletion_timestamp:
            return f"PersistentVolume {write.volume} went away"
        reference = volume.spec.claim_ref
        holder = f"{reference.namespace}/{reference.name}" if reference is not None else ""
        holder = self._promised.get(write.volume, holder)
        taken = holder not in ("", write.claim)
        return f"PersistentVolume {write.volume} was given to PersistentVolumeClaim {holder}" if taken else ""

    def _device_taken(self, allocation: AllocationResult) -> str:
        for device in sorted(_devices(allocation)):
            if device in self._taken:
                return f"device {'/'.join(device)} was given to ResourceClaim {self._taken[device]}"
        return ""

    def _taken_since(self) -> dict[Device, str]:
        """Devices that claims hold now and did not when the plan was made, and by which claim."""
        taken: dict[Device, str] = {}
        for key, claim in self._state.objects(kinds.RESOURCE_CLAIM):
            if not isinstance(claim, dra.ResourceClaim) or claim.status.allocation is None:
                continue
            known = self._snapshot.claims.get(key)
            before = known.allocation if known is not None else None
            if before is None or claim.status.allocation.devices != before.devices:
                held = _devices(before) if before is not None else frozenset()
                taken.update(dict.fromkeys(_devices(claim.status.allocation) - held, key))
        return taken


def _devices(allocation: AllocationResult) -> frozenset[Device]:
    """Shares of one device count as the whole of it here: a withdrawn gang is only decided anew."""
    results = allocation.devices.results or ()
    return frozenset((result.driver, result.pool, result.device) for result in results if not result.admin_access)
