"""What pods cost their queue, and what there is to be divided. House units by queue resource name.

CPU and memory as requested; GPUs and devices per class by what claims hold (`scheduler.dra.accounting`), and what a
device plugin serves by the name of its resource: it counts for the class that would serve it elsewhere, so that no
quota of a class depends on the kind of node (KEP 5004).

Who pays for a claim: whoever brings it its devices. Afterwards, of its consumers on nodes whose queue can be charged,
the first that it is reserved for, in the order of its reservations (those that it names nowhere come last, by key). A
claim that holds devices while none of its consumers is on a node is paid by every gang that comes to it in a plan, once
each: too much for one plan at most, never too little.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from queues.resources import NOTHING, Resources, total
from queues.tree import Queue
from scheduler.api.attributes import GPU_RESOURCE
from scheduler.api.dra import AllocationResult, ResourceClaimSpec
from scheduler.dra import accounting
from scheduler.dra.caches import PerObject
from scheduler.dra.devices import DeviceId
from scheduler.dra.measures import Measures
from scheduler.dra.pools import Inventory
from scheduler.dra.views import NodeDevices
from scheduler.model.nodes import Node
from scheduler.model.workloads import Claim, Gang, Pod
from scheduler.plan.ground.shapes import Bundle, Shapes, claims_of

GPU = accounting.GPU
Serving: TypeAlias = Callable[[str], str | None]
_BY_CLASS = accounting.of_class("")
_MIG_RESOURCE = re.compile(r"nvidia\.com/mig-(?P<slices>\d+)g\..*")


class Accounts:
    """Charges of pods and claims. `paid`: claims (key) that somebody on a node pays for."""

    def __init__(
        self, claims: Mapping[str, Claim], inventory: Inventory, shapes: Shapes, measures: Measures = ()
    ) -> None:
        """`measures`: what queues count devices by."""
        self._claims = claims
        self._inventory = inventory
        self._shapes = shapes
        self._measures = measures
        self.paid: set[str] = set()
        self._payers: dict[str, str] = {}
        self._estimates: dict[int, Resources] = {}

    def settle(self, gangs: Iterable[Gang]) -> None:
        """Find who of the pods that these, whose queue can be charged, have on nodes pays for which claim."""
        ranks: dict[str, tuple[int, str]] = {}
        for gang in gangs:
            for pod, keys, _ in _running(gang).consumers:
                for key in keys:
                    claim = self._claims.get(key)
                    if claim is None or claim.allocation is None:
                        continue
                    reserved = claim.reserved_for
                    rank = (reserved.index(pod.uid) if pod.uid in reserved else len(reserved)), pod.key
                    known = ranks.get(key)
                    if known is None or rank < known:
                        ranks[key] = rank
        self._payers = {key: pod for key, (_, pod) in ranks.items()}

    def charge(self, gang: Gang, amounts: dict[str, int]) -> None:
        """Add what the gang's pods on nodes cost to `amounts`; the claims that they pay for are paid for from now
        on."""
        known = _running(gang)
        _add(amounts, known.plain)
        if known.named.amounts:
            _add(amounts, self._of_classes(known.named))
        for pod, keys, named in known.consumers:
            served = False
            for key in keys:
                claim = self._claims.get(key)
                if claim is None or claim.allocation is None:
                    continue
                served = served or key == pod.extended_claim
                if key not in self.paid and self._payers.get(key, pod.key) == pod.key:
                    self.paid.add(key)
                    _add(amounts, self.of_allocation(claim.spec, claim.allocation))
            if named.amounts and not served:
                _add(amounts, self._named(named))

    def relief(self, pods: Sequence[Pod]) -> Resources:
        """What is no longer charged when these pods of one gang leave their nodes: a claim that others consume as well
        goes on to be paid for."""
        uids = {pod.uid for pod in pods}
        parts: list[Resources] = []
        for pod in pods:
            parts.append(own(pod))
            served = False
            for key in claims_of(pod):
                claim = self._claims.get(key)
                if claim is None or claim.allocation is None:
                    continue
                served = served or key == pod.extended_claim
                if self._payers.get(key) == pod.key and uids.issuperset(claim.reserved_for):
                    parts.append(self.of_allocation(claim.spec, claim.allocation))
            if not served:
                parts.append(self._named(pod.requests))
        return total(parts)

    def of_allocation(self, spec: ResourceClaimSpec, allocation: AllocationResult) -> Resources:
        """What the devices cost that a claim holds."""
        return accounting.charge(spec, allocation, self._inventory, self._measures)

    def least(self, claim: Claim) -> Resources:
        """What a claim without devices will cost at least."""
        return accounting.estimate(claim, self._inventory, self._measures)

    def estimate(self, bundle: Bundle, paid: set[str] | None = None) -> Resources:
        """The least that a bundle will cost, before its devices are known. `paid`: claims that its gang pays for
        already; those that it would pay for now are added."""
        if any(self._holds(key) for pod in bundle.pods for key in claims_of(pod)):
            return self._estimate(bundle, set() if paid is None else paid)
        known = self._estimates.get(bundle.shape)
        if known is None:
            known = self._estimates[bundle.shape] = self._estimate(bundle, set())
        return known

    def _holds(self, claim: str) -> bool:
        known = self._claims.get(claim)
        return known is not None and known.allocation is not None

    def _estimate(self, bundle: Bundle, paid: set[str]) -> Resources:
        parts = [own(pod) for pod in bundle.pods]
        parts += [self.least(claim) for claim in bundle.asks]
        for pod in bundle.pods:
            made = self._shapes.extended(pod)
            named = self._named(pod.requests)
            if made is not None:
                named = _lesser(named, self.least(Claim(key="", uid="", spec=made.spec)))
            parts.append(named)
            for key in claims_of(pod):
                claim = self._claims.get(key)
                if claim is not None and claim.allocation is not None and key not in self.paid | paid:
                    paid.add(key)
                    parts.append(self.of_allocation(claim.spec, claim.allocation))
        return total(parts)

    def placed(
        self, pod: Pod, node: Node, allocated: Iterable[tuple[Claim, AllocationResult]], paid: set[str]
    ) -> Resources:
        """What a pod costs with the devices that were chosen for its claims, made ones included. A claim that held
        devices before, for which neither a pod on a node nor the gang (`paid`) pays, is paid by this pod; it is added
        to `paid`."""
        parts = [own(pod), self._named(self._shapes.requests(pod, node))]
        parts += [self.of_allocation(claim.spec, allocation) for claim, allocation in allocated]
        for key in claims_of(pod):
            claim = self._claims.get(key)
            if claim is not None and claim.allocation is not None and key not in self.paid | paid:
                paid.add(key)
                parts.append(self.of_allocation(claim.spec, claim.allocation))
        return total(parts)

    def _named(self, requests: Resources) -> Resources:
        """What a device plugin serves, by the names of the resources: GPUs, and devices of classes."""
        extended = _extended(requests)
        return total([by_name(requests), self._of_classes(extended)]) if extended else NOTHING

    def _of_classes(self, extended: Resources) -> Resources:
        """These resources as devices of the classes that serve them where no device plugin does."""
        amounts: dict[str, int] = {}
        for name, count in extended.amounts.items():
            serving = self._shapes.serving(name)
            if serving is not None:
                key = accounting.of_class(serving)
                amounts[key] = amounts.get(key, 0) + count * accounting.WHOLE
        return Resources(amounts) if amounts else NOTHING


def own(pod: Pod) -> Resources:
    """CPU and memory."""
    return _cpu_and_memory(pod.requests)


def by_name(amounts: Resources) -> Resources:
    """GPUs that a device plugin serves, told by the name of the resource."""
    return _gpus_by_name(amounts)


def _own(requests: Resources) -> Resources:
    return Resources({"cpu": requests["cpu"], "memory": requests["memory"]})


def _extended_only(amounts: Resources) -> Resources:
    """Resources that Kubernetes does not know by itself: their names have a domain."""
    return Resources({name: amount for name, amount in amounts.amounts.items() if "/" in name})


def _lesser(named: Resources, claimed: Resources) -> Resources:
    """The least that extended resources cost: through a device plugin as their names tell, or through a claim. GPUs
    that the names tell count as they do."""
    amounts = {name: min(amount, claimed[name]) for name, amount in named.amounts.items()}
    return Resources({**amounts, GPU: named[GPU] or claimed[GPU]})


def _by_name(amounts: Resources) -> Resources:
    gpus = amounts[GPU_RESOURCE] * accounting.WHOLE
    for name, amount in amounts.amounts.items():
        found = _MIG_RESOURCE.fullmatch(name)
        if found is not None:
            gpus += amount * accounting.WHOLE * int(found["slices"]) // accounting.SLICES_OF_A_BOARD
    return Resources({GPU: gpus}) if gpus else NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """Of a gang's pods on nodes: what they cost together whatever their claims hold (`plain`); the extended resources
    that those without claims ask for (`named`); and those that have claims, with the keys of these and the extended
    resources that are paid by name unless a claim serves them. It follows from the gang alone, so that it is the same
    as long as the gang is the same object."""

    plain: Resources
    named: Resources
    consumers: tuple[tuple[Pod, tuple[str, ...], Resources], ...]


@PerObject
def _running(gang: Gang) -> _Running:
    if len(gang.pods) == 1 and gang.pods[0].node and not claims_of(gang.pods[0]):
        return _alone(gang.pods[0].requests)
    plain: dict[str, int] = {}
    named: dict[str, int] = {}
    consumers: list[tuple[Pod, tuple[str, ...], Resources]] = []
    for pod in gang.bound:
        keys = claims_of(pod)
        _add(plain, _own(pod.requests))
        if keys:
            consumers.append((pod, tuple(keys), _extended_only(pod.requests)))
        else:
            _add(plain, _by_name(pod.requests))
            _add(named, _extended_only(pod.requests))
    return _Running(plain=Resources(plain), named=Resources(named), consumers=tuple(consumers))


@PerObject
def _alone(requests: Resources) -> _Running:
    """The same of a single pod without claims: most pods ask for the very same."""
    plain = total([_own(requests), _by_name(requests)])
    return _Running(plain=plain, named=_extended_only(requests), consumers=())


def _add(amounts: dict[str, int], part: Resources) -> None:
    for name, amount in part.amounts.items():
        amounts[name] = amounts.get(name, 0) + amount


_cpu_and_memory = PerObject(_own)
_gpus_by_name = PerObject(_by_name)
_extended = PerObject(_extended_only)


def counted_classes(queues: Iterable[Queue]) -> tuple[str, ...]:
    """The classes of devices that any of the queues has a rule for, sorted."""
    names = {name for queue in queues for name in queue.resources}
    return tuple(sorted(name.removeprefix(_BY_CLASS) for name in names if name.startswith(_BY_CLASS)))


def pool(
    nodes: Iterable[Node], inventory: Inventory, classes: Sequence[str] = (), serving: Serving = lambda _: None
) -> Resources:
    """What there is to be divided among queues: CPU, memory and GPUs of all nodes, and the devices of these classes.
    `serving`: the class that stands for what a device plugin serves by this name."""
    amounts: dict[str, int] = dict.fromkeys(("cpu", "memory", GPU), 0)
    reached: dict[str, set[DeviceId]] = {name: set() for name in classes}
    for node in nodes:
        view = inventory.on(node)
        amounts["cpu"] += node.allocatable["cpu"]
        amounts["memory"] += node.allocatable["memory"]
        amounts[GPU] += by_name(node.allocatable)[GPU] + gpus_on(view, inventory)
        if not classes:
            continue
        for resource, count in node.allocatable.amounts.items():
            named = serving(resource) if "/" in resource else None
            if named in reached:
                _add(amounts, Resources({accounting.of_class(named): count * accounting.WHOLE}))
        for name in classes:
            local, shared = accounting.devices_of_class(name, view, inventory)
            reached[name].update(shared)
            _add(amounts, Resources({accounting.of_class(name): local}))
    for name, devices in reached.items():
        _add(amounts, Resources({accounting.of_class(name): len(devices) * accounting.WHOLE}))
    return Resources(amounts)


def gpus_on(view: NodeDevices, inventory: Inventory) -> int:
    """The GPUs that a node's devices make up, in thousandths: a board counts once, however it may be divided."""
    known = view.memo.get("gpus")
    if known is None:
        boards: dict[object, list[int]] = {}
        for device in view.devices:
            sets = tuple(name for name, _ in device.consumes)
            board = (device.id.driver, device.id.pool, sets) if sets else device
            boards.setdefault(board, []).append(accounting.weight(device, inventory))
        known = view.memo["gpus"] = sum(max(max(parts), min(sum(parts), accounting.WHOLE)) for parts in boards.values())
    assert isinstance(known, int)
    return known


def weights_on(view: NodeDevices, inventory: Inventory) -> tuple[int, ...]:
    """What each of a node's devices is worth, in thousandths of a GPU."""
    known = view.memo.get("weights")
    if known is None:
        known = view.memo["weights"] = tuple(accounting.weight(device, inventory) for device in view.devices)
    assert isinstance(known, tuple)
    return known


def shares_gpus(view: NodeDevices, inventory: Inventory) -> bool:
    """Whether GPUs of a node may be held by several at once: how many are free says nothing then."""
    return _sharing(view, inventory)[0]


def counts_all(view: NodeDevices, inventory: Inventory) -> bool:
    """Whether who lacks devices of a node lacks GPUs: it has no others, and none are shared."""
    return _sharing(view, inventory)[1]


def _sharing(view: NodeDevices, inventory: Inventory) -> tuple[bool, bool]:
    known = view.memo.get("sharing")
    if known is None:
        weights = weights_on(view, inventory)
        shared = [weight for weight, device in zip(weights, view.devices, strict=True) if device.shareable]
        known = view.memo["sharing"] = any(shared), all(weights) and not shared
    assert isinstance(known, tuple)
    return known
