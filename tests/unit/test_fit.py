"""One test per rule of FITS, and per trap of Kubernetes' node selection."""

import pytest

from queues.resources import Resources
from scheduler.api.core import (
    NodeSelector,
    NodeSelectorRequirement,
    NodeSelectorTerm,
    PreferredSchedulingTerm,
    Taint,
    Toleration,
)
from scheduler.api.dra import AllocationResult
from scheduler.dra.selection import only_on
from scheduler.model.nodes import Node
from scheduler.model.workloads import HostPort, Pod
from scheduler.plan.ground import fit
from scheduler.plan.ground.fit import Need, Seat
from tests.builders import label_in, node, pod


def seat(**more: object) -> Seat:
    (made,) = node("n", gpus=2, **more).nodes  # type: ignore[arg-type]
    return Seat(node=made, free=made.allocatable)


def need(made: Pod, requests: Resources | None = None) -> Need:
    return Need(pod=made, requests=made.requests if requests is None else requests, ports=made.host_ports)


def test_a_cordoned_node_takes_only_pods_that_tolerate_it() -> None:
    cordoned = seat(unschedulable=True)
    patient = pod("p", tolerations=[Toleration(key="node.kubernetes.io/unschedulable", operator="Exists")])
    assert fit.unschedulable(need(pod("p")), cordoned) == "is unschedulable"
    assert fit.unschedulable(need(patient), cordoned) is None
    assert fit.unschedulable(need(pod("p")), seat()) is None


@pytest.mark.parametrize(
    ("toleration", "fits"),
    [
        (Toleration(key="team", value="red"), True),
        (Toleration(key="team", value="blue"), False),
        (Toleration(key="team", operator="Exists"), True),
        (Toleration(operator="Exists"), True),
        (Toleration(key="team", operator="Exists", effect="NoExecute"), False),
        (Toleration(key="team", value="red", effect="NoSchedule"), True),
        (Toleration(value="red"), False),
        (Toleration(key="team", operator="Gt", value="1"), False),
    ],
)
def test_a_taint_must_be_tolerated(toleration: Toleration, fits: bool) -> None:
    tainted = seat(taints=[Taint(key="team", value="red", effect="NoSchedule")])
    cause = fit.taints(need(pod("p", tolerations=[toleration])), tainted)
    assert cause == (None if fits else "has the taint team=red:NoSchedule that is not tolerated")


def test_a_soft_taint_keeps_nobody_out_and_is_avoided() -> None:
    soft = seat(taints=[Taint(key="spot", effect="PreferNoSchedule")])
    assert fit.taints(need(pod("p")), soft) is None
    assert fit.aversion(pod("p"), soft.node) == 100


def test_every_label_of_the_node_selector_must_match() -> None:
    labelled = seat(labels={"pool": "a", "zone": "z"})
    assert fit.node_selector(need(pod("p", selector={"pool": "a", "zone": "z"})), labelled) is None
    cause = fit.node_selector(need(pod("p", selector={"pool": "a", "zone": "y"})), labelled)
    assert cause == "does not match the node selector"


def test_node_affinity_by_label_and_by_name() -> None:
    labelled = seat(labels={"pool": "a"})
    assert fit.node_affinity(need(pod("p", affinity=label_in("pool", "a", "b"))), labelled) is None
    assert fit.node_affinity(need(pod("p", affinity=only_on("n"))), labelled) is None
    assert fit.node_affinity(need(pod("p", affinity=only_on("m"))), labelled) == "does not match the node affinity"


def test_an_empty_term_matches_nothing_and_terms_are_alternatives() -> None:
    empty = NodeSelector(node_selector_terms=(NodeSelectorTerm(),))
    assert fit.node_affinity(need(pod("p", affinity=empty)), seat()) is not None
    either = NodeSelector(node_selector_terms=(*empty.node_selector_terms, *only_on("n").node_selector_terms))
    assert fit.node_affinity(need(pod("p", affinity=either)), seat()) is None


def test_devices_that_a_claim_holds_tie_its_pod_to_their_node() -> None:
    held = Need(
        pod=pod("p"), requests=Resources(), held={"default/c": AllocationResult(node_selector=only_on("elsewhere"))}
    )
    assert fit.held_claims(held, seat()) == "cannot use the devices that a ResourceClaim of the pod holds already"
    anywhere = Need(pod=pod("p"), requests=Resources(), held={"default/c": AllocationResult()})
    assert fit.held_claims(anywhere, seat()) is None


@pytest.mark.parametrize(
    ("resource", "cause"),
    [
        ("cpu", "has too little free cpu"),
        ("memory", "has too little free memory"),
        ("ephemeral-storage", "has too little free ephemeral-storage"),
        ("hugepages-2Mi", "has too little free hugepages-2Mi"),
        ("pods", "has no room for another pod"),
        ("nvidia.com/gpu", "has too few free nvidia.com/gpu"),
    ],
)
def test_each_resource_must_be_free(resource: str, cause: str) -> None:
    free = Resources(
        {"cpu": 4, "memory": 4, "ephemeral-storage": 4, "hugepages-2Mi": 4, "pods": 4, "nvidia.com/gpu": 4}
    )
    here = Seat(node=seat().node, free=free)
    assert fit.resources(need(pod("p"), Resources({resource: 4})), here) is None
    assert fit.resources(need(pod("p"), Resources({resource: 5})), here) == cause


def test_what_is_not_asked_for_may_be_overdrawn() -> None:
    overdrawn = Seat(node=seat().node, free=Resources({"cpu": 1000, "memory": -5, "pods": 1}))
    assert fit.resources(need(pod("p"), Resources({"cpu": 1000, "pods": 1})), overdrawn) is None


@pytest.mark.parametrize(
    ("one", "other", "collide"),
    [
        (("", "TCP", 80), ("10.0.0.1", "TCP", 80), True),
        (("0.0.0.0", "TCP", 80), ("10.0.0.1", "TCP", 80), True),
        (("10.0.0.1", "TCP", 80), ("10.0.0.1", "TCP", 80), True),
        (("10.0.0.1", "TCP", 80), ("10.0.0.2", "TCP", 80), False),
        (("", "UDP", 80), ("", "TCP", 80), False),
        (("", "TCP", 81), ("", "TCP", 80), False),
    ],
)
def test_host_ports(one: tuple[str, str, int], other: tuple[str, str, int], collide: bool) -> None:
    def port(of: tuple[str, str, int]) -> HostPort:
        return HostPort(address=of[0], protocol=of[1], port=of[2])

    wanted = Need(pod=pod("p"), requests=Resources(), ports=(port(one),))
    taken = Seat(node=seat().node, ports=frozenset({port(other)}))
    assert (fit.host_ports(wanted, taken) is not None) is collide
    both = Need(pod=pod("p"), requests=Resources(), ports=(port(one), port(other)))
    assert (fit.host_ports(both, Seat(node=seat().node)) is not None) is collide


def test_misfit_names_the_first_cause() -> None:
    cordoned = Seat(node=seat(unschedulable=True).node)
    assert fit.misfit(need(pod("p", cpu=100)), cordoned) == "is unschedulable"
    assert fit.misfit(need(pod("p")), seat()) is None


def test_missed_preferences_add_up() -> None:
    wish = NodeSelectorTerm(match_expressions=(NodeSelectorRequirement(key="pool", operator="In", values=("b",)),))
    picky = pod("p", preferred_affinity=(PreferredSchedulingTerm(weight=30, preference=wish),))
    (plain,) = node("n").nodes
    (wished,) = node("m", labels={"pool": "b"}).nodes
    assert [fit.aversion(picky, where) for where in (plain, wished)] == [30, 0]
    assert isinstance(plain, Node)
