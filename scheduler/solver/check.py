"""Does a plan obey every rule? Written apart: from the snapshot's own objects, without ledger, allocator or solver.

    check(snapshot, plan) == ()

RULES is the list; each gives a sentence per violation, about this plan: what was wrong before it is not its fault.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from queues.resources import NOTHING, Resources, total
from queues.tree import Queue, QueueTree
from scheduler.api import attributes, dra
from scheduler.api.core import NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration
from scheduler.api.crds import NVLINK_LEVEL
from scheduler.dra import accounting
from scheduler.dra.pools import Inventory
from scheduler.model.nodes import Node
from scheduler.model.plan import Placement, Plan
from scheduler.model.snapshot import Snapshot
from scheduler.model.workloads import Claim, Gang, HostPort, Pod, SubGroup, TopologyConstraint
from scheduler.solver import check_devices


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The snapshot and the plan, by name."""

    snapshot: Snapshot
    plan: Plan
    nodes: Mapping[str, Node]
    gangs: Mapping[str, Gang]
    pending: Mapping[str, tuple[Gang, Pod]]
    """Pods that a plan may place, by key, with their gang."""

    @classmethod
    def of(cls, snapshot: Snapshot, plan: Plan) -> "Case":
        return cls(
            snapshot=snapshot,
            plan=plan,
            nodes={node.name: node for node in snapshot.nodes},
            gangs={gang.key: gang for gang in snapshot.gangs},
            pending={pod.key: (gang, pod) for gang in snapshot.gangs for pod in gang.pods if not pod.node},
        )

    def placed(self) -> Iterator[tuple[Placement, Pod, Node]]:
        """Placements with the pods and nodes they speak of; others are told by `placements_are_of_waiting_pods`."""
        for placement in self.plan.placements:
            if placement.pod in self.pending and placement.node in self.nodes:
                yield placement, self.pending[placement.pod][1], self.nodes[placement.node]


def check(snapshot: Snapshot, plan: Plan) -> tuple[str, ...]:
    """All violations, a sentence each; empty if the plan obeys every rule."""
    case = Case.of(snapshot, plan)
    return tuple(violation for rule in RULES for violation in rule(case))


def placements_are_of_waiting_pods(case: Case) -> Iterator[str]:
    """Each pod once, of its own gang, waiting, neither gated nor ending; on a node that exists."""
    seen: set[str] = set()
    for placement in case.plan.placements:
        if placement.pod in seen:
            yield f"pod {placement.pod} is placed twice"
        seen.add(placement.pod)
        gang, pod = case.pending.get(placement.pod, (None, None))
        if gang is None or pod is None:
            yield f"pod {placement.pod} is placed and does not wait for a node"
            continue
        if gang.key != placement.gang or pod.uid != placement.pod_uid:
            yield f"pod {placement.pod} is placed as another gang's or as another pod of that name"
        if pod.gated or pod.terminating or pod.done:
            yield f"pod {placement.pod} is placed although it is gated or ending"
        if gang.problems:
            yield f"pod {placement.pod} is placed although {gang.problems[0].message}"
        if placement.node not in case.nodes:
            yield f"pod {placement.pod} is placed on node {placement.node}, which does not exist"


def nodes_take_the_pods(case: Case) -> Iterator[str]:
    """Cordon, taints, node selector, node affinity."""
    for placement, pod, node in case.placed():
        where = f"pod {placement.pod} on node {node.name}"
        taints = [*node.taints]
        if node.unschedulable:
            taints.append(Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule"))
        for taint in taints:
            if taint.effect in ("NoSchedule", "NoExecute") and not tolerates(pod.tolerations, taint):
                yield f"{where} does not tolerate {taint.key}:{taint.effect}"
        if any(node.labels.get(key) != value for key, value in pod.node_selector.items()):
            yield f"{where} does not match the node selector"
        if pod.required_affinity is not None and not selects(pod.required_affinity, node):
            yield f"{where} does not match the node affinity"


def nodes_have_the_amounts(case: Case) -> Iterator[str]:
    """What runs on a node and what is placed there together ask for no more than it has."""
    asked: dict[str, list[Resources]] = {}
    for placement, pod, node in case.placed():
        asked.setdefault(node.name, []).append(_of_node(case, placement, pod, node))
    there: dict[str, list[Resources]] = {}
    for pod in case.snapshot.pods:
        if pod.node in asked and not pod.done:
            there.setdefault(pod.node, []).append(pod.requests)
    for name, amounts in sorted(asked.items()):
        wanted = total(amounts)
        used = wanted + total(there.get(name, ()))
        there_is = case.nodes[name].allocatable
        for resource in wanted:
            if used[resource] > there_is[resource]:
                yield f"node {name} has {there_is[resource]} {resource}, and {used[resource]} are used"


def host_ports_are_free(case: Case) -> Iterator[str]:
    taken: dict[str, list[HostPort]] = {}
    for pod in case.snapshot.pods:
        if not pod.done:
            taken.setdefault(pod.node, []).extend(pod.host_ports)
    for placement, pod, node in case.placed():
        for port in pod.host_ports:
            for other in taken.get(node.name, ()):
                same = (port.port, port.protocol) == (other.port, other.protocol)
                if same and (port.address == other.address or {port.address, other.address} & {"", "0.0.0.0", "::"}):
                    yield f"pod {placement.pod} on node {node.name} collides at port {port.port}"
        taken.setdefault(node.name, []).extend(pod.host_ports)


def devices_are_right(case: Case) -> Iterator[str]:
    """Claims: the devices asked for, each given once, usable where the pods are."""
    yield from check_devices.check(case.snapshot, [(p, pod, node) for p, pod, node in case.placed()], selects)


def gangs_are_whole_or_absent(case: Case) -> Iterator[str]:
    """A gang that gets a pod placed has its minimum then, at every level of its sub-groups."""
    for gang, there in _after(case):
        pods = {pod.key: pod for pod in gang.pods}
        satisfied = _satisfied(gang, {key: pods[key] for key in there})
        if not satisfied:
            yield f"gang {gang.key} gets pods placed and has not its minimum: {len(there)} pods on nodes"


def groups_stay_together(case: Case) -> Iterator[str]:
    """Every group with a required level is in one domain of it, running pods included."""
    for gang, there in _after(case):
        pods = {pod.key: pod for pod in gang.pods}
        for name, constraint in _constraints(gang):
            if constraint.required is None:
                continue
            nodes = {there[key] for key in there if name in _groups_of(gang, pods[key].sub_group)}
            domains = {_domain(case, case.nodes.get(node), constraint) for node in nodes}
            if len(domains) > 1 or None in domains:
                yield f"group {name or gang.key} of gang {gang.key} is not in one domain of {constraint.required}"


def queues_keep_their_limits(case: Case) -> Iterator[str]:
    """No queue goes past its limit through this plan, nor past its quota with what cannot be preempted."""
    tree = QueueTree.of(case.snapshot.queues)
    inventory = Inventory.of(case.snapshot.slices, case.snapshot.classes)
    added: dict[str, list[Resources]] = {}
    used: dict[str, list[Resources]] = {}
    firm: dict[str, list[Resources]] = {}
    firmly_added: dict[str, list[Resources]] = {}
    payers = _payers(case, tree)
    paid: set[tuple[str, str]] = set()
    placements = {placement.pod: placement for placement in case.plan.placements}
    for gang, pod in sorted(_with_nodes(case), key=lambda entry: (not entry[1].node, entry[1].key)):
        placement = placements.get(pod.key)
        queue = tree.leaf(gang.queue or case.snapshot.policy.default_queue)
        if not isinstance(queue, Queue) and placement is not None:
            yield f"pod {pod.key} is placed although {queue.message}"
            continue
        charged = _charged_queue(case, tree, gang)
        if charged is None:
            continue
        bill = payers, paid
        cost = _cost(case, gang, pod, placement, inventory, bill)
        for above in tree.ancestors(charged):
            used.setdefault(above.name, []).append(cost)
            if placement is not None:
                added.setdefault(above.name, []).append(cost)
            if not gang.preemptible:
                firm.setdefault(above.name, []).append(cost)
                if placement is not None:
                    firmly_added.setdefault(above.name, []).append(cost)
    for name in sorted(added):
        more, sums, held = total(added[name]), total(used[name]), total(firm.get(name, ()))
        firmly = total(firmly_added.get(name, ()))
        for resource, rule in sorted(tree.queues[name].resources.items()):
            if rule.limit is not None and more[resource] > 0 and sums[resource] > rule.limit:
                yield f"queue {name} goes past its limit of {resource}: {sums[resource]} of {rule.limit}"
            if 0 < rule.quota < held[resource] and firmly[resource] > 0 and resource == accounting.GPU:
                yield f"queue {name} goes past its quota of {resource} with non-preemptible work: {held[resource]}"


RULES: tuple[Callable[[Case], Iterable[str]], ...] = (
    placements_are_of_waiting_pods,
    nodes_take_the_pods,
    nodes_have_the_amounts,
    host_ports_are_free,
    devices_are_right,
    gangs_are_whole_or_absent,
    groups_stay_together,
    queues_keep_their_limits,
)
"""A new rule of placement joins here, too."""


def tolerates(tolerations: Iterable[Toleration], taint: Taint) -> bool:
    for toleration in tolerations:
        if toleration.effect not in ("", taint.effect):
            continue
        if toleration.operator == "Exists" and toleration.key in ("", taint.key):
            return True
        if toleration.operator in ("", "Equal") and (toleration.key, toleration.value) == (taint.key, taint.value):
            return True
    return False


def selects(selector: NodeSelector, node: Node) -> bool:
    """Terms are ORed; an empty term selects nothing."""
    return any(_term(term, node) for term in selector.node_selector_terms)


def _term(term: NodeSelectorTerm, node: Node) -> bool:
    wanted = [(requirement, node.labels.get(requirement.key)) for requirement in term.match_expressions or ()]
    fields = {"metadata.name": node.name}
    wanted += [(requirement, fields.get(requirement.key)) for requirement in term.match_fields or ()]
    return bool(wanted) and all(_requirement(requirement, value) for requirement, value in wanted)


def _requirement(requirement: NodeSelectorRequirement, value: str | None) -> bool:
    values = requirement.values or ()
    match requirement.operator:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" if value is not None and len(values) == 1:
            try:
                more = int(value) - int(values[0])
            except ValueError:
                return False
            return more > 0 if requirement.operator == "Gt" else more < 0
        case _:
            return False


def _of_node(case: Case, placement: Placement, pod: Pod, node: Node) -> Resources:
    """What the pod takes of the node's own amounts: all it asks, but what the claim made for it serves."""
    served = {mapping.resource for claim in placement.claims for mapping in claim.mappings}
    held = case.snapshot.claims.get(pod.extended_claim)
    if held is not None and held.allocation is not None:
        served |= {name for container in pod.extended for name in container.requests if not node.allocatable[name]}
    return Resources({name: amount for name, amount in pod.requests.amounts.items() if name not in served})


def _after(case: Case) -> Iterator[tuple[Gang, dict[str, str]]]:
    """Gangs that get something placed, with the node of every pod that has one afterwards."""
    placed: dict[str, dict[str, str]] = {}
    for placement, _, _ in case.placed():
        if placement.gang in case.gangs:
            placed.setdefault(placement.gang, {})[placement.pod] = placement.node
    for key, here in sorted(placed.items()):
        gang = case.gangs[key]
        yield gang, {**{pod.key: pod.node for pod in gang.pods if pod.node and not pod.terminating}, **here}


def _with_nodes(case: Case) -> Iterator[tuple[Gang, Pod]]:
    """Pods of gangs that have a node when the plan is carried out."""
    placed = {placement.pod for placement in case.plan.placements}
    return ((gang, pod) for gang in case.snapshot.gangs for pod in gang.pods if pod.node or pod.key in placed)


def _satisfied(gang: Gang, there: Mapping[str, Pod], name: str = "") -> bool:
    """Whether a group of the gang ("" for all of it) has its minimum."""
    children = [sub for sub in gang.sub_groups if (sub.parent or "") == name]
    own = next((sub for sub in gang.sub_groups if sub.name == name), None)
    if not children:
        members = [pod for pod in gang.pods if own is None or pod.sub_group == name]
        have = sum(1 for pod in members if pod.key in there)
        if own is None:
            return have >= _own_minimum(gang)
        return have >= (len([p for p in members if not p.terminating]) if own.min_member is None else own.min_member)
    minimum = gang.min_sub_group if own is None else own.min_sub_group
    good = sum(1 for child in children if _satisfied(gang, there, child.name))
    return good >= (len(children) if minimum is None else minimum)


def _own_minimum(gang: Gang) -> int:
    """Succeeded pods count only for a run that still has pods on nodes, or that has too few left to be a new one."""
    alive = [pod for pod in gang.pods if not (pod.terminating or pod.done)]
    same_run = len(alive) < gang.min_member or any(pod.node for pod in alive)
    return gang.min_member - (gang.succeeded if same_run else 0)


def _constraints(gang: Gang) -> Iterator[tuple[str, TopologyConstraint]]:
    if gang.topology is not None:
        yield "", gang.topology
    for sub in gang.sub_groups:
        if sub.topology is not None:
            yield sub.name, sub.topology


def _groups_of(gang: Gang, sub_group: str) -> set[str]:
    """The sub-group, all above it, and the gang itself ("")."""
    parents: Mapping[str, SubGroup] = {sub.name: sub for sub in gang.sub_groups}
    found, step = {""}, sub_group
    while step in parents and step not in found:
        found.add(step)
        step = parents[step].parent or ""
    return found


def _domain(case: Case, node: Node | None, constraint: TopologyConstraint) -> tuple[str, ...] | None:
    topology = case.snapshot.topologies.get(constraint.topology)
    if node is None or topology is None or constraint.required not in topology.levels:
        return None
    values = []
    for key in topology.levels[: topology.levels.index(constraint.required) + 1]:
        value = node.labels.get(key)
        if key == attributes.HOSTNAME_LABEL:
            value = value or node.name
        if key == NVLINK_LEVEL:
            value = _nvlink(case.snapshot, node) or node.labels.get(attributes.CLIQUE_LABEL)
        if value is None:
            return None
        values.append(value)
    return tuple(values)


def _nvlink(snapshot: Snapshot, node: Node) -> str | None:
    """The NVLink domain that the node's own slices publish."""
    for published in snapshot.slices:
        if published.spec.node_name == node.name:
            for device in published.spec.devices or ():
                found = (device.attributes or {}).get(attributes.NVLINK_DOMAIN)
                found = found or (device.attributes or {}).get(NVLINK_LEVEL)
                if found is not None:
                    return found.string
    return None


def _charged_queue(case: Case, tree: QueueTree, gang: Gang) -> str | None:
    """The queue that the gang's pods count for: the one it names or, if that is unusable, the next usable one above."""
    above: dict[str, str] = {}
    for queue in case.snapshot.queues:
        above[queue.name] = min(above.get(queue.name, queue.parent or ""), queue.parent or "")
    name, seen = gang.queue or case.snapshot.policy.default_queue, set()
    while name not in tree.queues:
        if name not in above or name in seen:
            return None
        seen.add(name)
        name = above[name]
    return name


def _payers(case: Case, tree: QueueTree) -> dict[str, str]:
    """Who pays for a claim that holds devices: of the pods on nodes that consume it and count for a queue, the one
    reserved first; those without a reservation after them, by key. By claim, the pod."""
    consumers: dict[str, list[Pod]] = {}
    for gang in case.snapshot.gangs:
        for pod in gang.pods if _charged_queue(case, tree, gang) is not None else ():
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


def _cost(
    case: Case,
    gang: Gang,
    pod: Pod,
    placement: Placement | None,
    inventory: Inventory,
    bill: tuple[Mapping[str, str], set[tuple[str, str]]],
) -> Resources:
    """What a pod that has a node costs its queue. A claim is paid for by the pod that brings it its devices; then by
    its payer on a node, the first part of `bill`; without one, once by every gang that the plan brings to it, noted in
    the second."""
    payers, paid = bill
    parts = [Resources({"cpu": pod.requests["cpu"], "memory": pod.requests["memory"]})]
    served = set()
    given: dict[str, tuple[dra.ResourceClaimSpec, dra.AllocationResult]] = {}
    for claim in placement.claims if placement else ():
        if claim.allocation is not None:
            held: Claim | None = case.snapshot.claims.get(claim.claim)
            spec = claim.make or (held.spec if held else None)
            if spec is not None:
                given[claim.claim] = spec, claim.allocation
            served |= {mapping.resource for mapping in claim.mappings}
    for entry in pod.claims:
        known = case.snapshot.claims.get(entry.claim or "")
        if known is not None and known.allocation is not None:
            given[known.key] = known.spec, known.allocation
    made = case.snapshot.claims.get(pod.extended_claim)
    if made is not None and made.allocation is not None:
        given[made.key] = made.spec, made.allocation
        served |= {name for container in pod.extended for name in container.requests}
    for key, (spec, allocation) in given.items():
        held_before = key in case.snapshot.claims and case.snapshot.claims[key].allocation is not None
        pays = payers[key] == pod.key if key in payers else (gang.key, key) not in paid
        if pays or not held_before:
            paid.add((gang.key, key))
            parts.append(accounting.charge(spec, allocation, inventory))
    gpus = pod.requests[attributes.GPU_RESOURCE] if attributes.GPU_RESOURCE not in served else 0
    parts.append(Resources({accounting.GPU: gpus * accounting.WHOLE}) if gpus else NOTHING)
    return total(parts)
