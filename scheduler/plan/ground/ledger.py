"""Ledger: what is free as the plan grows; fork, keep or drop. The core's one mutable thing.

It knows nodes (resources, host ports), devices, who holds which claim, who stands near whom, and what queues are
charged. Nothing is ever undone by hand: an attempt works on a fork, or on nothing at all, and is kept or forgotten.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from queues.resources import NOTHING, Resources, total
from queues.tree import QueueTree
from scheduler.api.attributes import MIG_RESOURCE
from scheduler.api.dra import AllocationResult
from scheduler.dra.caches import PerObject
from scheduler.dra.counters import InUse
from scheduler.dra.extended import ExtendedClaim
from scheduler.dra.pools import Inventory
from scheduler.dra.views import PoolKey
from scheduler.model.errors import InvariantError
from scheduler.model.nodes import Node
from scheduler.model.volumes import Storage
from scheduler.model.workloads import Claim, HostPort, Pod
from scheduler.plan.ground import accounts
from scheduler.plan.ground.neighbours import Neighbours
from scheduler.plan.ground.shapes import claims_of
from scheduler.plan.ground.volumes import Choice, Volumes
from scheduler.plan.ground.zones import Zoned


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What one pod takes of a node. `allocated`: claims that get their devices with this pod, each claim once;
    `joins`: keys of all claims that the pod consumes, those included; `requests` without what claims serve; `made`: the
    claim that is made for its extended resources, one of the allocated; `volumes`: what those of its
    PersistentVolumeClaims get that wait for their first consumer; `cost`: what its queue pays."""

    pod: Pod
    node: str
    requests: Resources
    allocated: tuple[tuple[Claim, AllocationResult], ...] = ()
    joins: tuple[str, ...] = ()
    made: ExtendedClaim | None = None
    volumes: Choice = ()
    cost: Resources = NOTHING


class Ledger:
    """What is free. Equal `state` means: the same pods fit, up to what the nodes are (labels, taints) and to what
    `neighbours` says of who may stand near whom."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        inventory: Inventory,
        in_use: InUse,
        reads: frozenset[str],
        neighbours: Neighbours | None = None,
        volumes: Volumes | None = None,
        zones: Zoned | None = None,
    ) -> None:
        self.nodes = nodes
        self.zones = zones if zones is not None else Zoned({})
        self.neighbours = neighbours if neighbours is not None else Neighbours({}, {})
        self.volumes = volumes if volumes is not None else Volumes({}, Storage())
        self.inventory = inventory
        self.in_use = in_use
        self.changes: list[str] = []
        """Nodes in the order in which they changed; who keeps something per node reads on from where it was."""
        self.reads = reads
        self._free: dict[str, Resources] = {}
        self._ports: dict[str, Mapping[HostPort, int]] = {}
        self._held: dict[str, AllocationResult] = {}
        self._promised: dict[str, AllocationResult] = {}
        self._consumers: dict[str, frozenset[str]] = {}
        self._allocated: dict[str, Resources] = {}
        self._nonpreemptible: dict[str, Resources] = {}
        self._states: dict[str, tuple[int, int, int]] = {}
        self._known: dict[Hashable, int] = {}
        self._gpus: dict[int, int] = {}
        self._reach = _Reach(nodes, inventory)

    @classmethod
    def of(
        cls,
        nodes: Iterable[Node],
        inventory: Inventory,
        *,
        pods: Iterable[Pod] = (),
        claims: Iterable[Claim] = (),
        reads: frozenset[str] = frozenset(),
        neighbours: Neighbours | None = None,
        volumes: Volumes | None = None,
    ) -> "Ledger":
        """What `pods` on nodes and the allocated ones of `claims` leave of `nodes`. `neighbours`, `volumes`: of
        the same pods.

        `reads`: device attributes that the claims to be placed compare (`scheduler.dra.requests.reads`)."""
        claims = list(claims)
        by_name = {node.name: node for node in sorted(nodes, key=lambda node: node.name)}
        pods = list(pods)
        zones = Zoned.of(by_name, pods)
        ledger = cls(by_name, inventory, InUse.of(claims, inventory), reads, neighbours, volumes, zones)
        used: dict[str, list[Resources]] = {}
        for pod in pods:
            if pod.node in by_name and not pod.done:
                used.setdefault(pod.node, []).append(pod.requests)
                if pod.mig_by_annotation:
                    used[pod.node].append(_slices_of(by_name[pod.node]))
                ledger._count_ports(pod, pod.node, +1)
        for name, node in by_name.items():
            ledger._free[name] = _left_of(node, used[name]) if name in used else node.allocatable
        for claim in claims:
            if claim.allocation is not None:
                ledger._held[claim.key] = claim.allocation
            if claim.reserved_for:
                ledger._consumers[claim.key] = frozenset(claim.reserved_for)
        return ledger

    def fork(self) -> "Ledger":
        """A ledger of its own, equal to this one now."""
        other = Ledger(
            self.nodes,
            self.inventory,
            self.in_use.fork(),
            self.reads,
            self.neighbours.fork(),
            self.volumes.fork(),
            self.zones.fork(),
        )
        other.changes = list(self.changes)
        other._free = dict(self._free)
        other._ports = dict(self._ports)
        other._held = dict(self._held)
        other._promised = dict(self._promised)
        other._consumers = dict(self._consumers)
        other._allocated = dict(self._allocated)
        other._nonpreemptible = dict(self._nonpreemptible)
        other._states = dict(self._states)
        other._known, other._gpus = self._known, self._gpus
        other._reach = self._reach
        return other

    def free(self, node: str) -> Resources:
        """What is left of the node's allocatable amounts; negative where more is in use than there is."""
        return self._free[node]

    def ports(self, node: str) -> frozenset[HostPort]:
        return frozenset(self._ports.get(node, ()))

    def held(self, claim: str) -> AllocationResult | None:
        """What the claim (key) holds, whether from before or by this plan, or else is promised."""
        return self._held.get(claim) or self._promised.get(claim)

    def is_promised(self, claim: str) -> bool:
        """Whether the claim (key) has devices only as soon as a gang starts for which room is kept."""
        return claim in self._promised and claim not in self._held

    def consumers(self, claim: str) -> frozenset[str]:
        """Uids of the pods that the claim is reserved for, this plan's included."""
        return self._consumers.get(claim, frozenset())

    @property
    def allocated(self) -> Mapping[str, Resources]:
        """What queues are charged, by queue, rolled up."""
        return self._allocated

    @property
    def nonpreemptible(self) -> Mapping[str, Resources]:
        """The part of `allocated` that cannot be preempted."""
        return self._nonpreemptible

    def charge(self, tree: QueueTree, queue: str, amount: Resources, *, preemptible: bool) -> None:
        """Leaf `queue` and all above it have `amount` more."""
        for above in tree.ancestors(queue):
            self._allocated[above.name] = self._allocated.get(above.name, NOTHING) + amount
            if not preemptible:
                self._nonpreemptible[above.name] = self._nonpreemptible.get(above.name, NOTHING) + amount

    def take(self, grant: Grant) -> None:
        """Count what a pod takes. Raises InvariantError if a claim would be allocated twice."""
        for claim, allocation in grant.allocated:
            if claim.key in self._held:
                raise InvariantError(f"ResourceClaim {claim.key} holds devices already and was given others")
            self._held[claim.key] = allocation
            self.in_use.take(allocation)
        for key in grant.joins:
            self._consumers[key] = self.consumers(key) | {grant.pod.uid}
        self.neighbours.take(grant.pod, grant.node)
        self.zones.take(grant.pod, grant.node)
        others = self.volumes.take(grant.pod, grant.node, grant.volumes)
        self._free[grant.node] -= grant.requests
        self._count_ports(grant.pod, grant.node, +1)
        self._touch((allocation for _, allocation in grant.allocated), grant.node, *others)

    def give_back(self, grant: Grant) -> None:
        """The opposite of `take`."""
        for key in grant.joins:
            self._consumers[key] = self.consumers(key) - {grant.pod.uid}
        self.neighbours.give_back(grant.pod, grant.node)
        self.zones.give_back(grant.pod, grant.node)
        others = self.volumes.give_back(grant.pod, grant.node, grant.volumes)
        for claim, allocation in grant.allocated:
            del self._held[claim.key]
            self.in_use.give_back(allocation)
        self._free[grant.node] += grant.requests
        self._count_ports(grant.pod, grant.node, -1)
        self._touch((allocation for _, allocation in grant.allocated), grant.node, *others)

    def reserve(self, grant: Grant) -> None:
        """Keep the room of a grant for who will come, and the devices of its claims for all who share these."""
        self._reserve(grant, +1)

    def unreserve(self, grant: Grant) -> None:
        """The opposite of `reserve`."""
        self._reserve(grant, -1)

    def _reserve(self, grant: Grant, sign: int) -> None:
        for claim, allocation in grant.allocated:
            if sign < 0:
                del self._promised[claim.key]
            elif claim.key in self._promised:
                raise InvariantError(f"ResourceClaim {claim.key} is promised devices already and was promised others")
            else:
                self._promised[claim.key] = allocation
        (self.neighbours.take if sign > 0 else self.neighbours.give_back)(grant.pod, grant.node)
        self._block(grant, sign)

    def block(self, grant: Grant) -> None:
        """Keep others off this room, as if it were in use. Nobody counts as being there, for rules between pods."""
        self._block(grant, +1)

    def unblock(self, grant: Grant) -> None:
        """The opposite of `block`."""
        self._block(grant, -1)

    def _block(self, grant: Grant, sign: int) -> None:
        (self.zones.take if sign > 0 else self.zones.give_back)(grant.pod, grant.node)
        seize = self.volumes.take if sign > 0 else self.volumes.give_back
        others = seize(grant.pod, grant.node, grant.volumes)
        self._free[grant.node] -= grant.requests * sign
        self._count_ports(grant.pod, grant.node, sign)
        for _, allocation in grant.allocated:
            (self.in_use.take if sign > 0 else self.in_use.give_back)(allocation)
        self._touch((allocation for _, allocation in grant.allocated), grant.node, *others)

    def vacate(self, pod: Pod, claims: Mapping[str, Claim]) -> None:
        """The pod, on a node before this plan, has left it; claims (by key) that it consumed alone hold nothing."""
        others = self.volumes.give_back(pod, pod.node)
        self.neighbours.give_back(pod, pod.node)
        self.zones.leave(pod)
        self._free[pod.node] += pod.requests
        self._count_ports(pod, pod.node, -1)
        freed = []
        for key in claims_of(pod):
            self._consumers[key] = self.consumers(key) - {pod.uid}
            if not self._consumers[key] and key in self._held and key in claims:
                freed.append(self._held.pop(key))
                self.in_use.give_back(freed[-1])
        self._touch(freed, pod.node, *others)

    def reoccupy(self, pod: Pod, claims: Mapping[str, Claim]) -> None:
        """The opposite of `vacate`: it is still there. What was granted meanwhile stays granted."""
        others = self.volumes.take(pod, pod.node)
        self.neighbours.take(pod, pod.node)
        self.zones.stay(pod)
        self._free[pod.node] -= pod.requests
        self._count_ports(pod, pod.node, +1)
        again = []
        for key in claims_of(pod):
            claim = claims.get(key)
            if key not in self._held and claim is not None and claim.allocation is not None:
                self._held[key] = claim.allocation
                self.in_use.take(claim.allocation)
                again.append(claim.allocation)
            self._consumers[key] = self.consumers(key) | {pod.uid}
        self._touch(again, pod.node, *others)

    def foresee_zones(self) -> list[str]:
        """From now on NUMA zones are as their exporters will tell them, without those who have ended; the nodes where
        that is different."""
        changed = self.zones.foresee()
        self._touch((), *changed)
        return changed

    def recall_zones(self, changed: Iterable[str]) -> None:
        """The opposite of `foresee_zones`."""
        self.zones.recall(changed)
        self._touch((), *changed)

    def hold(self, claim: Claim, allocation: AllocationResult) -> None:
        """The claim has these devices, whoever will consume it."""
        self._held[claim.key] = allocation
        self.in_use.take(allocation)
        self._touch((allocation,))

    def release(self, claim: Claim) -> bool:
        """The opposite of `hold`; whether it held anything."""
        allocation = self._held.pop(claim.key, None)
        if allocation is None:
            return False
        self.in_use.give_back(allocation)
        self._touch((allocation,))
        return True

    def holds(self, claim: str) -> bool:
        """Whether the claim (key) has devices now."""
        return claim in self._held

    def state(self, node: str) -> int:
        """A number for all that passes on the node: free amounts, ports in use, devices in use, volumes, zones."""
        return self._measured(node)[0]

    def devices(self, node: str) -> int:
        """A number for the node's devices alone, and what of them is in use."""
        return self._measured(node)[2]

    def gpus(self, node: str) -> int:
        """What is free of the node's GPUs, in thousandths, a device plugin's and a driver's together: for packing."""
        return self._measured(node)[1]

    def untouched(self, node: str) -> bool:
        """Whether the node has GPUs and all of them are free."""
        of = self.nodes[node]
        total = accounts.by_name(of.allocatable)[accounts.GPU] + accounts.gpus_on(self.inventory.on(of), self.inventory)
        return 0 < total <= self.gpus(node)

    def _measured(self, node: str) -> tuple[int, int, int]:
        """State, free GPUs, and the state of the devices."""
        known = self._states.get(node)
        if known is None:
            free, of = self._free[node], self.nodes[node]
            devices = self._number((self.inventory.shape(of, self.reads), self.in_use.signature(of, self.reads)))
            amounts = frozenset(of.allocatable.amounts), frozenset(free.amounts.items())
            state = self._number((amounts, self.ports(node), devices, self.volumes.state(node), self.zones.state(node)))
            known = self._states[node] = state, self._plugin_gpus(node) + self._free_gpus(of, devices), devices
        return known

    def _number(self, key: Hashable) -> int:
        return self._known.setdefault(key, len(self._known))

    def _plugin_gpus(self, node: str) -> int:
        left = self._free[node].amounts
        if min(left.values(), default=0) < 0:
            # Of what the node has as devices only less than nothing is left: pods ask for it by the same name.
            return accounts.by_name(Resources({name: amount for name, amount in left.items() if amount > 0}))[
                accounts.GPU
            ]
        return accounts.by_name(self._free[node])[accounts.GPU]

    def _free_gpus(self, node: Node, devices: int) -> int:
        """Of its devices; `devices`: their state, which is that of many nodes."""
        known = self._gpus.get(devices)
        if known is None:
            view = self.inventory.on(node)
            weights = accounts.weights_on(view, self.inventory)
            taken = (w for w, each in zip(weights, view.devices, strict=True) if w and self.in_use.is_taken(each.id))
            known = self._gpus[devices] = accounts.gpus_on(view, self.inventory) - sum(taken)
        return known

    def _count_ports(self, pod: Pod, node: str, sign: int) -> None:
        """So many more hold the pod's ports there: who is promised one and who leaves it may hold it together."""
        if pod.host_ports:
            counts = dict(self._ports.get(node, {}))
            for port in frozenset(pod.host_ports):
                counts[port] = counts.get(port, 0) + sign
            self._ports[node] = {port: count for port, count in counts.items() if count}

    def _touch(self, allocations: Iterable[AllocationResult], *nodes: str) -> None:
        """These nodes changed, and all that can reach one of the devices."""
        touched = dict.fromkeys(nodes)
        for allocation in allocations:
            for result in allocation.devices.results or ():
                touched.update(dict.fromkeys(self._reach.of((result.driver, result.pool))))
        for node in touched:
            self._states.pop(node, None)
        self.changes.extend(touched)


def _slices_of(node: Node) -> Resources:
    """All MIG slices of the node: which of them somebody has whom its device plugin does not know is not told."""
    amounts = node.allocatable.amounts
    return Resources({name: amount for name, amount in amounts.items() if name.startswith(MIG_RESOURCE)})


def _left_of(node: Node, used: list[Resources]) -> Resources:
    """What these leave of the node's amounts. On most nodes nothing has changed since the last plan."""
    known = _last_left(node)
    last = known[0] if known else None
    if last is None or last[0] != used:
        last = used, node.allocatable - total(used)
        known[:] = [last]  # not read again: another plan may be made in another thread
    return last[1]


_last_left: PerObject[Node, list[tuple[list[Resources], Resources]]] = PerObject(lambda _: [], most=50_000)


class _Reach:
    """Which nodes reach a pool; read when it is first asked for."""

    def __init__(self, nodes: Mapping[str, Node], inventory: Inventory) -> None:
        self._nodes = nodes
        self._inventory = inventory
        self._reaching: dict[PoolKey, list[str]] | None = None

    def of(self, pool: PoolKey) -> Sequence[str]:
        """Names of those that do."""
        if self._reaching is None:
            self._reaching = {}
            for name, node in self._nodes.items():
                for each in self._inventory.on(node).pools:
                    self._reaching.setdefault(each, []).append(name)
        return self._reaching.get(pool, ())
