"""May this pod run on this node: FITS, one function per rule.

A rule answers None, or the cause in words that complete "the node ..." and hold for every pod that asks the same: they
name nothing that belongs to one of them. Devices are not looked at here: the allocator answers for them.
Source: the filters of kube-scheduler and what a kubelet checks again at admission.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from queues.resources import NOTHING, Resources
from scheduler.api.core import NodeSelector, Taint, Toleration
from scheduler.api.dra import AllocationResult
from scheduler.dra.selection import matches, usable_on
from scheduler.model.nodes import Node
from scheduler.model.volumes import Where
from scheduler.model.workloads import HostPort, Pod

BLOCKING = ("NoSchedule", "NoExecute")
UNSCHEDULABLE = Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a pod needs of a node, or several pods together: then `pod` is one of them, and `requests` and `ports` are
    those of all. `requests`: without what claims serve. `held`: what its claims (key) hold already. `where`: what its
    volumes ask of the node."""

    pod: Pod
    requests: Resources
    ports: tuple[HostPort, ...] = ()
    held: Mapping[str, AllocationResult] = field(default_factory=dict)
    where: tuple[Where, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A node as one more pod finds it: what is free on it, and the host ports in use."""

    node: Node
    free: Resources = NOTHING
    ports: frozenset[HostPort] = frozenset()


Rule = Callable[[Need, Seat], str | None]


def unschedulable(need: Need, seat: Seat) -> str | None:
    """Cordoned nodes take only pods that tolerate it."""
    if not seat.node.unschedulable or _tolerates(need.pod.tolerations, UNSCHEDULABLE):
        return None
    return "is unschedulable"


def taints(need: Need, seat: Seat) -> str | None:
    for taint in seat.node.taints:
        if taint.effect in BLOCKING and not _tolerates(need.pod.tolerations, taint):
            value = f"={taint.value}" if taint.value else ""
            return f"has the taint {taint.key}{value}:{taint.effect} that is not tolerated"
    return None


def node_selector(need: Need, seat: Seat) -> str | None:
    labels = seat.node.labels
    if all(labels.get(key) == value for key, value in need.pod.node_selector.items()):
        return None
    return "does not match the node selector"


def node_affinity(need: Need, seat: Seat) -> str | None:
    """Required terms, by labels and by metadata.name."""
    required = need.pod.required_affinity
    return None if required is None or matches(required, seat.node) else "does not match the node affinity"


def held_claims(need: Need, seat: Seat) -> str | None:
    """Devices that a claim holds already are usable only where its allocation says. The claim is not named: the answer
    is kept for all pods alike, and they may be those of others, in other namespaces."""
    if all(usable_on(allocation, seat.node) for allocation in need.held.values()):
        return None
    return "cannot use the devices that a ResourceClaim of the pod holds already"


def volumes(need: Need, seat: Seat) -> str | None:
    """Volumes that are there already, or are made only in some places."""
    return next((each.cause for each in need.where if not matches(each.selector, seat.node)), None)


def resources(need: Need, seat: Seat) -> str | None:
    """CPU, memory, storage, huge pages, number of pods, extended resources: asked for against free."""
    for name in need.requests.lacking_in(seat.free):
        return lack(name)
    return None


def host_ports(need: Need, seat: Seat) -> str | None:
    seen = list(seat.ports) if need.ports else []
    for port in need.ports:
        if any(collide(port, taken) for taken in seen):
            return f"has host port {port.protocol}/{port.port} in use"
        seen.append(port)
    return None


LASTING: tuple[Rule, ...] = (unschedulable, taints, node_selector, node_affinity, held_claims, volumes)
"""What the node is: it stays so while a plan is made."""

PASSING: tuple[Rule, ...] = (resources, host_ports)
"""Who is there already: it changes as a plan grows."""

FITS: tuple[Rule, ...] = (*LASTING, *PASSING)


def misfit(need: Need, seat: Seat, rules: tuple[Rule, ...] = FITS) -> str | None:
    """The first cause why the pod cannot run there, None if it can."""
    for rule in rules:
        cause = rule(need, seat)
        if cause is not None:
            return cause
    return None


def lack(resource: str) -> str:
    """The cause "too little of this resource is free"."""
    if resource == "pods":
        return "has no room for another pod"
    if resource in ("cpu", "memory", "ephemeral-storage") or resource.startswith("hugepages-"):
        return f"has too little free {resource}"
    return f"has too few free {resource}"


def collide(one: HostPort, other: HostPort) -> bool:
    """Whether two ports cannot be taken on one node: the same port on a common address."""
    anywhere = ("", "0.0.0.0", "::")  # addresses of the rule; nothing is opened here
    same = one.port == other.port and one.protocol == other.protocol
    return same and (one.address == other.address or one.address in anywhere or other.address in anywhere)


def aversion(pod: Pod, node: Node) -> int:
    """How much the pod would rather be elsewhere, 0 for not at all: preferred terms missed, soft taints not tolerated.

    A preferred term counts its weight (1 to 100), a PreferNoSchedule taint as much as the heaviest term."""
    missed = sum(
        preferred.weight
        for preferred in pod.preferred_affinity
        if not matches(NodeSelector(node_selector_terms=(preferred.preference,)), node)
    )
    soft = sum(
        100 for taint in node.taints if taint.effect == "PreferNoSchedule" and not _tolerates(pod.tolerations, taint)
    )
    return missed + soft


def _tolerates(tolerations: Iterable[Toleration], taint: Taint) -> bool:
    return any(_matches(toleration, taint) for toleration in tolerations)


def _matches(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    operator = toleration.operator or "Equal"
    if operator == "Exists":
        return True
    return operator == "Equal" and bool(toleration.key) and toleration.value == taint.value
