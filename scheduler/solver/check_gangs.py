"""Are the gangs of a plan whole, and together where they must be? A part of the check of plans."""

from collections.abc import Iterator, Mapping

import msgspec

from scheduler.api import attributes
from scheduler.api.crds import NVLINK_LEVEL
from scheduler.api.dra import DeviceAttribute
from scheduler.model.nodes import Node
from scheduler.model.workloads import Claim, Gang, Pod, SubGroup, TopologyConstraint
from scheduler.solver.check_case import Case


def gangs_are_whole_or_absent(case: Case) -> Iterator[str]:
    """A gang that gets a pod placed has its minimum then, at every level of its sub-groups."""
    for gang, there in _after(case):
        pods = {pod.key: pod for pod in gang.pods}
        satisfied = is_satisfied(gang, {key: pods[key] for key in there})
        if not satisfied:
            yield f"gang {gang.key} gets pods placed and has not its minimum: {len(there)} pods on nodes"


def groups_stay_together(case: Case) -> Iterator[str]:
    """Every group with a required level that gets pods placed is in one domain of it, running pods included."""
    placed = {placement.pod for placement, _, _ in case.placed}
    for gang, there in _after(case):
        pods = {pod.key: pod for pod in gang.pods}
        for name, constraint in _constraints(gang):
            if constraint.required is None:
                continue
            members = {key for key in there if name in _groups_of(gang, pods[key].sub_group)}
            if members.isdisjoint(placed):
                continue  # those who run stay where they are
            nodes = {there[key] for key in members}
            domains = {_domain(case, case.nodes.get(node), constraint) for node in nodes}
            if len(domains) > 1 or None in domains:
                yield f"group {name or gang.key} of gang {gang.key} is not in one domain of {constraint.required}"


def compute_domains_stay_in_one_clique(case: Case) -> Iterator[str]:
    """Where the plan places a pod of a ComputeDomain, all pods of that are in one clique, or all outside of any."""
    placed = {placement.pod: placement.node for placement in case.plan.placements}
    claims = case.snapshot.claims.items() if placed else ()
    configured = ((key, claim) for key, claim in claims if claim.spec.devices.config)
    joined = {key: found for key, claim in configured if (found := _domains_of(claim))}
    if not joined:
        return
    nodes: dict[str, set[str]] = {}
    touched: set[str] = set()
    everybody = {
        pod.key: pod for pod in (*case.snapshot.pods, *(pod for gang in case.gangs.values() for pod in gang.pods))
    }
    for pod in everybody.values():
        node = placed.get(pod.key) or (pod.node if not (pod.terminating or pod.done) else "")
        for domain in (
            {each for entry in pod.claims for each in joined.get(entry.claim or "", ())} if node in case.nodes else ()
        ):
            nodes.setdefault(domain, set()).add(node)
            if pod.key in placed:
                touched.add(domain)
    values = {node.name: _nvlink(case, node) for node in case.nodes.values()}
    for domain in sorted(touched):
        if len({_clique(case, node, values) for node in nodes[domain]}) > 1:
            yield f"pods of ComputeDomain {domain} are in more than one clique"


def _domains_of(claim: Claim) -> list[str]:
    """The ComputeDomains of which a claim asks for a channel."""
    found = []
    for each in claim.spec.devices.config or ():
        if each.opaque is not None and each.opaque.driver == attributes.COMPUTE_DOMAIN_DRIVER:
            try:
                document = msgspec.json.decode(each.opaque.parameters)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue
            known = isinstance(document, dict) and document.get("kind") == attributes.CHANNEL_CONFIG
            if known and str(document.get("apiVersion")).startswith(f"{attributes.COMPUTE_DOMAIN_GROUP}/"):
                found += [document["domainID"]] if isinstance(document.get("domainID"), str) else []
    return [domain for domain in found if domain]


def _clique(case: Case, name: str, nvlink: Mapping[str, str | None]) -> str | None:
    """What joins the node to others: its label, or an NVLink domain that several nodes are in or whose clique has a
    number. None if nothing does."""
    node = case.nodes.get(name)
    label = node.labels.get(attributes.CLIQUE_LABEL) if node is not None else None
    if label or node is None:
        return label
    number = f"{attributes.GPU_DRIVER}/{attributes.CLIQUE_ID}"
    numbered = any(device.attribute(number) is not None for device in case.pools.on(node)[0])
    return nvlink[name] if numbered or list(nvlink.values()).count(nvlink[name]) > 1 else None


def _after(case: Case) -> Iterator[tuple[Gang, dict[str, str]]]:
    """Gangs that get something placed, with the node of every pod that has one afterwards."""
    placed: dict[str, dict[str, str]] = {}
    for placement, _, _ in case.placed:
        placed.setdefault(placement.gang, {})[placement.pod] = placement.node
    for key, here in sorted(placed.items()):
        gang = case.gangs[key]
        yield gang, {**{pod.key: pod.node for pod in gang.pods if pod.node and not pod.terminating}, **here}


def is_satisfied(gang: Gang, there: Mapping[str, Pod], name: str = "") -> bool:
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
    good = sum(1 for child in children if is_satisfied(gang, there, child.name))
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
    """Where a node stands in a topology, down to the required level; None if it is nowhere there."""
    topology = case.snapshot.topologies.get(constraint.topology)
    if node is None or topology is None or constraint.required not in topology.levels:
        return None
    values = []
    for key in topology.levels[: topology.levels.index(constraint.required) + 1]:
        value = node.labels.get(key)
        if key == attributes.HOSTNAME_LABEL and value is None:
            value = node.name
        if key == NVLINK_LEVEL:
            value = _nvlink(case, node)
        if value is None:
            return None
        values.append(value)
    return tuple(values)


def _nvlink(case: Case, node: Node) -> str | None:
    """The one NVLink domain of all devices that the node can use; without any, that of its label."""
    found = {
        value
        for device in case.pools.on(node)[0]
        if (attribute := device.attribute(NVLINK_LEVEL)) is not None and (value := _only(attribute)) is not None
    }
    if not found:
        return node.labels.get(attributes.CLIQUE_LABEL)
    return str(found.pop()) if len(found) == 1 else None


def _only(attribute: DeviceAttribute) -> object:
    """The value of an attribute that has one."""
    values = [value for value in msgspec.structs.astuple(attribute) if value is not None]
    if values and isinstance(values[0], tuple):
        return values[0][0] if len(values[0]) == 1 else None
    return values[0] if values else None
