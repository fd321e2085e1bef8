"""Does a plan keep the limits and quotas of queues, and does it tell what they are charged? A part of the check of
plans. What a pod costs is written apart from the planner's accounts; both read what an allocation is worth in GPUs from
one table (`scheduler.dra.accounting`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from queues.resources import NOTHING, Resources, total
from queues.tree import Queue, QueueTree
from scheduler.api import attributes, dra
from scheduler.dra import accounting
from scheduler.dra.caches import PerObject
from scheduler.dra.pools import Inventory
from scheduler.model.plan import Placement
from scheduler.model.workloads import Claim, Gang, Pod
from scheduler.solver.check_case import Case
from scheduler.solver.check_measures import Measured

MIG_RESOURCE = "nvidia.com/mig-"
"""A device plugin's slices of boards: nvidia.com/mig-3g.40gb."""


Sums: TypeAlias = dict[str, int]


@dataclass(slots=True, kw_only=True)
class Bill:
    """What queues are charged when the plan is carried out, by queue, those below it included: `added` by the plan,
    `used` in all, `firm` and `firmly_added` by what cannot be preempted, the last by gang, too."""

    added: dict[str, Sums] = field(default_factory=dict)
    used: dict[str, Sums] = field(default_factory=dict)
    firm: dict[str, Sums] = field(default_factory=dict)
    firmly_added: dict[tuple[str, str], Sums] = field(default_factory=dict)

    def put(self, name: str, gang: Gang, cost: Resources, *, placed: bool = False) -> None:
        """Queue `name` pays this for pods of the gang, `placed` by the plan or there before."""
        _add(self.used.setdefault(name, {}), cost)
        if not gang.preemptible:
            _add(self.firm.setdefault(name, {}), cost)
        if placed:
            _add(self.added.setdefault(name, {}), cost)
            if not gang.preemptible:
                _add(self.firmly_added.setdefault((name, gang.key), {}), cost)

    def roll_up(self, tree: QueueTree) -> "Bill":
        """The same with what is charged to queues charged to all above them, too."""
        whole = Bill()
        for mine, its in ((self.added, whole.added), (self.used, whole.used), (self.firm, whole.firm)):
            for name, sums in mine.items():
                for above in tree.ancestors(name):
                    _add(its.setdefault(above.name, {}), Resources(sums))
        for (name, gang), sums in self.firmly_added.items():
            for above in tree.ancestors(name):
                _add(whole.firmly_added.setdefault((above.name, gang), {}), Resources(sums))
        return whole


def queues_keep_their_limits(case: Case) -> Iterator[str]:
    """No queue goes past its limit through this plan, nor past its quota with what cannot be preempted."""
    tree = QueueTree.of(case.snapshot.queues)
    for placement, _, _ in case.placed:
        queue = tree.leaf(case.gangs[placement.gang].queue or case.snapshot.policy.default_queue)
        if not isinstance(queue, Queue):
            yield f"pod {placement.pod} is placed although {queue.message}"
    bill = _bill(case, tree)
    reports = {report.name: report for report in case.plan.queues}
    for name in sorted(bill.added):
        more, sums = Resources(bill.added[name]), Resources(bill.used[name])
        for resource, rule in sorted(tree.queues[name].resources.items()):
            if rule.limit is not None and more[resource] > 0 and sums[resource] > rule.limit:
                yield f"queue {name} goes past its limit of {resource}: {sums[resource]} of {rule.limit}"
        if name not in reports or reports[name].allocated != sums:
            yield f"queue {name} is charged {dict(sums.amounts)}, and the plan tells something else"
    for (name, gang), amounts in sorted(bill.firmly_added.items()):
        held = Resources(bill.firm[name])
        for resource in _under_quota(tree.queues[name], Resources(amounts)):
            if held[resource] > tree.queues[name][resource].quota:
                yield (
                    f"queue {name} goes past its quota of {resource} with non-preemptible work, "
                    f"gang {gang}: {held[resource]}"
                )


def _under_quota(queue: Queue, asked: Resources) -> list[str]:
    """What non-preemptible work asks that a quota must cover: what has one; devices, unless another quota counts them;
    and everything, if nothing that is asked has a quota."""
    asks = [name for name in asked if asked[name] > 0]
    stated = [name for name in asks if queue[name].quota > 0]
    devices = [name for name in asks if name == accounting.GPU or "deviceclass/" in name]
    if not stated:
        return asks
    return stated if set(stated) & set(devices) else sorted({*stated, *devices})


def _bill(case: Case, tree: QueueTree) -> Bill:
    bill = Bill()
    inventory = Inventory.of(case.snapshot.slices, case.snapshot.classes, withdrawn=case.snapshot.withdrawn)
    charged = charged_queues(case, tree)
    accounts = _Accounts(case, inventory, _payers(case, charged))
    placements = {placement.pod: placement for placement, _, _ in case.placed}
    for gang in case.snapshot.gangs:
        queue = charged.get(gang.key)
        if queue is None:
            continue
        there = _standing(gang)
        bill.put(queue, gang, there.cost)
        bill.put(queue, gang, accounts.as_classes(there.named))
        for pod in there.consumers:
            for cost in accounts.held(gang, pod):
                bill.put(queue, gang, cost)
        for pod in there.extended:
            bill.put(queue, gang, accounts.cost(gang, pod, None))
    for _, placement in sorted(placements.items()):
        gang, pod = case.pending[placement.pod]
        if gang.key in charged:
            bill.put(charged[gang.key], gang, accounts.cost(gang, pod, placement), placed=True)
    return bill.roll_up(tree)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """Of a gang's pods on nodes: those whose extended resources a claim may serve (`extended`); what the others cost
    together beside their claims, the extended resources that they ask for (`named`), and those of them that have claims
    (`consumers`). Pods by key."""

    cost: Resources
    named: Sums
    consumers: tuple[Pod, ...]
    extended: tuple[Pod, ...]


@PerObject
def _standing(gang: Gang) -> _Standing:
    """Looks at nothing but the gang: it is as true in the next check, as long as the gang is the same object."""
    sums: Sums = {}
    named: Sums = {}
    pods = sorted((pod for pod in gang.pods if pod.node), key=lambda pod: pod.key)
    for pod in pods:
        if not pod.extended_claim:
            cost, extended = _asked(pod.requests)
            _add(sums, cost)
            _add(named, extended)
    return _Standing(
        cost=Resources(sums),
        named=named,
        consumers=tuple(pod for pod in pods if pod.claims and not pod.extended_claim),
        extended=tuple(pod for pod in pods if pod.extended_claim),
    )


@PerObject
def _asked(requests: Resources) -> tuple[Resources, Resources]:
    """What these cost, and which of them are extended resources."""
    own = Resources({"cpu": requests["cpu"], "memory": requests["memory"]})
    extended = Resources({name: count for name, count in requests.amounts.items() if "/" in name})
    return total([own, _by_plugin(requests.amounts)]), extended


def _add(sums: Sums, part: Resources) -> None:
    for name, amount in part.amounts.items():
        sums[name] = sums.get(name, 0) + amount


def charged_queues(case: Case, tree: QueueTree) -> dict[str, str]:
    """By gang, the queue that its pods count for: the one it names or, if that is unusable, the next usable one above.
    Gangs whose queue is gone are left out."""
    payers = _paying_queues(case, tree)
    return {gang.key: name for gang in case.snapshot.gangs if (name := payers[gang.queue]) is not None}


def _paying_queues(case: Case, tree: QueueTree) -> dict[str, str | None]:
    """The same by the queue that gangs name."""
    above: dict[str, str] = {}
    for queue in case.snapshot.queues:
        above[queue.name] = min(above.get(queue.name, queue.parent or ""), queue.parent or "")
    found: dict[str, str | None] = {}
    for named in {gang.queue for gang in case.snapshot.gangs}:
        name, seen = named or case.snapshot.policy.default_queue, set[str]()
        while name not in tree.queues and name in above and name not in seen:
            seen.add(name)
            name = above[name]
        found[named] = name if name in tree.queues else None
    return found


def _payers(case: Case, charged: Mapping[str, str]) -> dict[str, str]:
    """Who pays for a claim that holds devices: of the pods on nodes that consume it and count for a queue, the one
    reserved first; those without a reservation after them, by key. By claim, the pod."""
    consumers: dict[str, list[Pod]] = {}
    for gang in case.snapshot.gangs:
        there = _standing(gang)
        for pod in (*there.consumers, *there.extended) if gang.key in charged else ():
            for key in {entry.claim for entry in pod.claims if entry.needed} | {pod.extended_claim}:
                known = case.snapshot.claims.get(key or "")
                if known is not None and known.allocation is not None:
                    consumers.setdefault(known.key, []).append(pod)
    found = {}
    for key, pods in consumers.items():
        if len(pods) == 1:
            found[key] = pods[0].key
            continue
        by_uid = {pod.uid: pod.key for pod in pods}
        reserved = [by_uid[uid] for uid in case.snapshot.claims[key].reserved_for if uid in by_uid]
        found[key] = reserved[0] if reserved else min(by_uid.values())
    return found


class _Accounts:
    """What pods that have a node cost their queue. A claim is paid for by the pod that brings it its devices; then by
    its payer on a node; without one, once by every gang that the plan brings to it."""

    def __init__(self, case: Case, inventory: Inventory, payers: Mapping[str, str]) -> None:
        self._claims = case.snapshot.claims
        self._inventory = inventory
        self._payers = payers
        self._classes = case.snapshot.classes
        self._measure = Measured(case)
        self._paid: set[tuple[str, str]] = set()

    def cost(self, gang: Gang, pod: Pod, placement: Placement | None) -> Resources:
        parts = [Resources({"cpu": pod.requests["cpu"], "memory": pod.requests["memory"]})]
        served: set[str] = set()
        given: dict[str, tuple[dra.ResourceClaimSpec, dra.AllocationResult]] = {}
        for claim in placement.claims if placement else ():
            if claim.allocation is not None:
                held: Claim | None = self._claims.get(claim.claim)
                spec = claim.make or (held.spec if held else None)
                if spec is not None:
                    given[claim.claim] = spec, claim.allocation
                served |= {mapping.resource for mapping in claim.mappings}
        for entry in pod.claims:
            known = self._claims.get(entry.claim or "")
            if known is not None and known.allocation is not None:
                given[known.key] = known.spec, known.allocation
        made = self._claims.get(pod.extended_claim)
        if made is not None and made.allocation is not None:
            given[made.key] = made.spec, made.allocation
            served |= {name for container in pod.extended for name in container.requests}
        for key, (spec, allocation) in given.items():
            held_before = key in self._claims and self._claims[key].allocation is not None
            if self._pays(gang, pod, key) or not held_before:
                self._paid.add((gang.key, key))
                parts.append(accounting.charge(spec, allocation, self._inventory))
                if self._measure.by_class:
                    parts.append(self._measure(spec, allocation))
        plugin = {name: amount for name, amount in pod.requests.amounts.items() if name not in served}
        return total([*parts, _by_plugin(plugin), self.as_classes(plugin)])

    def as_classes(self, requests: Mapping[str, int]) -> Resources:
        """What a device plugin serves, as devices of the classes that serve these resources on other nodes."""
        sums: Sums = {}
        for resource, count in requests.items():
            if "/" not in resource:  # what Kubernetes knows by itself
                continue
            named = resource.removeprefix(dra.IMPLICIT_EXTENDED_RESOURCE_PREFIX)
            serving = [each for each in self._classes.values() if each.spec.extended_resource_name == resource]
            if named != resource:
                serving = [self._classes[named]] if named in self._classes else []
            if serving:
                newest = max(each.metadata.creation_timestamp or "" for each in serving)
                name = min(e.metadata.name for e in serving if (e.metadata.creation_timestamp or "") == newest)
                _add(sums, Resources({f"deviceclass/{name}": count * accounting.WHOLE}))
        return Resources(sums)

    def held(self, gang: Gang, pod: Pod) -> Iterator[Resources]:
        """What the claims cost that a pod on a node pays for."""
        for key in dict.fromkeys(entry.claim for entry in pod.claims):
            known = self._claims.get(key or "")
            if known is not None and known.allocation is not None and self._pays(gang, pod, known.key):
                self._paid.add((gang.key, known.key))
                yield accounting.charge(known.spec, known.allocation, self._inventory)
                if self._measure.by_class:
                    yield self._measure(known.spec, known.allocation)

    def _pays(self, gang: Gang, pod: Pod, claim: str) -> bool:
        payer = self._payers.get(claim)
        return payer == pod.key if payer is not None else (gang.key, claim) not in self._paid


def _by_plugin(amounts: Mapping[str, int]) -> Resources:
    """GPUs and slices of boards that a device plugin serves, in thousandths of a GPU."""
    gpus = amounts.get(attributes.GPU_RESOURCE, 0) * accounting.WHOLE
    for name, amount in amounts.items():
        slices = name.removeprefix(MIG_RESOURCE).partition("g.")[0]
        if name.startswith(MIG_RESOURCE) and slices.isdecimal() and "g." in name:
            gpus += amount * accounting.WHOLE * int(slices) // accounting.SLICES_OF_A_BOARD
    return Resources({accounting.GPU: gpus}) if gpus else NOTHING
