"""Does a plan keep the limits and quotas of queues, and does it tell what they are charged? A part of the check of
plans. What a pod costs is written apart from the planner's accounts; both read what an allocation is worth from one
table (`scheduler.dra.accounting`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from queues.resources import NOTHING, Resources, total
from queues.tree import Queue, QueueTree
from scheduler.api import attributes, dra
from scheduler.dra import accounting
from scheduler.dra.pools import Inventory
from scheduler.model.plan import Placement
from scheduler.model.workloads import Claim, Gang, Pod
from scheduler.solver.check_case import Case

MIG_RESOURCE = "nvidia.com/mig-"
"""A device plugin's slices of boards: nvidia.com/mig-3g.40gb."""


@dataclass(slots=True, kw_only=True)
class Bill:
    """What queues are charged when the plan is carried out, by queue, those below it included: `added` by the plan,
    `used` in all, `firm` and `firmly_added` by what cannot be preempted, the last by gang, too."""

    added: dict[str, list[Resources]] = field(default_factory=dict)
    used: dict[str, list[Resources]] = field(default_factory=dict)
    firm: dict[str, list[Resources]] = field(default_factory=dict)
    firmly_added: dict[tuple[str, str], list[Resources]] = field(default_factory=dict)


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
        more, sums = total(bill.added[name]), total(bill.used[name])
        for resource, rule in sorted(tree.queues[name].resources.items()):
            if rule.limit is not None and more[resource] > 0 and sums[resource] > rule.limit:
                yield f"queue {name} goes past its limit of {resource}: {sums[resource]} of {rule.limit}"
        if name not in reports or reports[name].allocated != sums:
            yield f"queue {name} is charged {dict(sums.amounts)}, and the plan tells something else"
    for (name, gang), amounts in sorted(bill.firmly_added.items()):
        held = total(bill.firm[name])
        for resource in _under_quota(tree.queues[name], total(amounts)):
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
    devices = [name for name in asks if name == accounting.GPU or name.startswith("deviceclass/")]
    if not stated:
        return asks
    return stated if set(stated) & set(devices) else sorted({*stated, *devices})


def _bill(case: Case, tree: QueueTree) -> Bill:
    bill = Bill()
    inventory = Inventory.of(case.snapshot.slices, case.snapshot.classes)
    charged = _charged_queues(case, tree)
    accounts = _Accounts(case, inventory, _payers(case, charged))
    placements = {placement.pod: placement for placement, _, _ in case.placed}
    after = ((gang, pod) for gang in case.snapshot.gangs for pod in gang.pods if pod.node or pod.key in placements)
    ancestors: dict[str, tuple[str, ...]] = {}
    for gang, pod in sorted(after, key=lambda entry: (not entry[1].node, entry[1].key)):
        queue = charged.get(gang.key)
        if queue is None:
            continue
        placement = placements.get(pod.key)
        cost = accounts.cost(gang, pod, placement)
        if queue not in ancestors:
            ancestors[queue] = tuple(above.name for above in tree.ancestors(queue))
        for name in ancestors[queue]:
            bill.used.setdefault(name, []).append(cost)
            if placement is not None:
                bill.added.setdefault(name, []).append(cost)
            if not gang.preemptible:
                bill.firm.setdefault(name, []).append(cost)
                if placement is not None:
                    bill.firmly_added.setdefault((name, gang.key), []).append(cost)
    return bill


def _charged_queues(case: Case, tree: QueueTree) -> dict[str, str]:
    """By gang, the queue that its pods count for: the one it names or, if that is unusable, the next usable one above.
    Gangs whose queue is gone are left out."""
    above: dict[str, str] = {}
    for queue in case.snapshot.queues:
        above[queue.name] = min(above.get(queue.name, queue.parent or ""), queue.parent or "")
    found = {}
    for gang in case.snapshot.gangs:
        name, seen = gang.queue or case.snapshot.policy.default_queue, set()
        while name not in tree.queues and name in above and name not in seen:
            seen.add(name)
            name = above[name]
        if name in tree.queues:
            found[gang.key] = name
    return found


def _payers(case: Case, charged: Mapping[str, str]) -> dict[str, str]:
    """Who pays for a claim that holds devices: of the pods on nodes that consume it and count for a queue, the one
    reserved first; those without a reservation after them, by key. By claim, the pod."""
    consumers: dict[str, list[Pod]] = {}
    for gang in case.snapshot.gangs:
        for pod in gang.pods if gang.key in charged else ():
            for key in {entry.claim for entry in pod.claims if entry.needed} | {pod.extended_claim}:
                known = case.snapshot.claims.get(key or "")
                if pod.node and known is not None and known.allocation is not None:
                    consumers.setdefault(known.key, []).append(pod)
    found = {}
    for key, pods in consumers.items():
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
            pays = self._payers[key] == pod.key if key in self._payers else (gang.key, key) not in self._paid
            if pays or not held_before:
                self._paid.add((gang.key, key))
                parts.append(accounting.charge(spec, allocation, self._inventory))
        parts.append(_by_plugin({name: amount for name, amount in pod.requests.amounts.items() if name not in served}))
        return total(parts)


def _by_plugin(amounts: Mapping[str, int]) -> Resources:
    """GPUs and slices of boards that a device plugin serves, in thousandths of a GPU."""
    gpus = amounts.get(attributes.GPU_RESOURCE, 0) * accounting.WHOLE
    for name, amount in amounts.items():
        slices = name.removeprefix(MIG_RESOURCE).partition("g.")[0]
        if name.startswith(MIG_RESOURCE) and slices.isdecimal() and "g." in name:
            gpus += amount * accounting.WHOLE * int(slices) // accounting.SLICES_OF_A_BOARD
    return Resources({accounting.GPU: gpus}) if gpus else NOTHING
