"""May the pods of a plan run on their nodes, all of them together? A part of the check of plans.

Source: the filters of kube-scheduler and what a kubelet checks again at admission.
"""

from collections.abc import Iterator

from queues.resources import Resources, total
from scheduler.api.core import Taint
from scheduler.model.nodes import Node
from scheduler.model.plan import Placement
from scheduler.model.workloads import HostPort, Pod
from scheduler.solver.check_case import Case
from scheduler.solver.check_selectors import STOPPING, selects, tolerates


def nodes_take_the_pods(case: Case) -> Iterator[str]:
    """Cordon, taints, node selector, node affinity."""
    for placement, pod, node in case.placed:
        where = f"pod {placement.pod} on node {node.name}"
        taints = [*node.taints]
        if node.unschedulable:
            taints.append(Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule"))
        for taint in taints:
            if taint.effect in STOPPING and not tolerates(pod.tolerations, taint):
                yield f"{where} does not tolerate {taint.key}:{taint.effect}"
        if any(node.labels.get(key) != value for key, value in pod.node_selector.items()):
            yield f"{where} does not match the node selector"
        if pod.required_affinity is not None and not selects(pod.required_affinity, node):
            yield f"{where} does not match the node affinity"


def nodes_have_the_amounts(case: Case) -> Iterator[str]:
    """What runs on a node and what is placed there together ask for no more than it has."""
    asked: dict[str, list[Resources]] = {}
    for placement, pod, node in case.placed:
        asked.setdefault(node.name, []).append(_of_node(case, placement, pod, node))
    there: dict[str, list[Resources]] = {}
    for pod in case.snapshot.pods:
        if pod.node in asked and not pod.done:
            there.setdefault(pod.node, []).append(pod.requests)
    unknown = {pod.node for pod in case.snapshot.pods if pod.mig_by_annotation and not pod.done}
    for name, amounts in sorted(asked.items()):
        wanted = total(amounts)
        if name in unknown and any(resource.startswith("nvidia.com/mig-") for resource in wanted):
            yield f"node {name} gives MIG slices beside a pod that holds some of them unknown to its device plugin"
        used = wanted + total(there.get(name, ()))
        there_is = case.nodes[name].allocatable
        for resource in wanted:
            if used[resource] > there_is[resource]:
                yield f"node {name} has {there_is[resource]} {resource}, and {used[resource]} are used"


def host_ports_are_free(case: Case) -> Iterator[str]:
    taken: dict[str, list[HostPort]] = {}
    for pod in case.snapshot.pods:
        if pod.host_ports and not pod.done:
            taken.setdefault(pod.node, []).extend(pod.host_ports)
    for placement, pod, node in case.placed:
        for port in pod.host_ports:
            for other in taken.get(node.name, ()):
                same = (port.port, port.protocol) == (other.port, other.protocol)
                if same and (port.address == other.address or {port.address, other.address} & {"", "0.0.0.0", "::"}):
                    yield f"pod {placement.pod} on node {node.name} collides at port {port.port}"
        taken.setdefault(node.name, []).extend(pod.host_ports)


def _of_node(case: Case, placement: Placement, pod: Pod, node: Node) -> Resources:
    """What the pod takes of the node's own amounts: all it asks, but what the claim made for it serves."""
    served = {mapping.resource for claim in placement.claims for mapping in claim.mappings}
    held = case.snapshot.claims.get(pod.extended_claim)
    if held is not None and held.allocation is not None:
        served |= {name for container in pod.extended for name in container.requests if not node.allocatable[name]}
    return Resources({name: amount for name, amount in pod.requests.amounts.items() if name not in served})
