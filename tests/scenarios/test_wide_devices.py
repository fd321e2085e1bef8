"""Devices that several nodes reach: given to a gang as a whole, wherever its pods then go."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest

from scheduler.api.dra import Device, DeviceAttribute, ResourceClaimSpec
from scheduler.model.plan import Plan, Verdict
from scheduler.model.reasons import GangDoesNotFit, NoNodeFits
from scheduler.model.workloads import Pod
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import (
    World,
    ask,
    ask_first,
    claim,
    device_class,
    devices,
    divided_gpu,
    everywhere,
    gang,
    gang_of,
    gpu,
    label_in,
    node,
    pod,
    queue,
    world,
)

NET = "net.example.com"
ANY, X, Y, PART, GPU_OR_NET = "any", "x", "y", "part", "gpu-or-net"


def card(name: str, model: str) -> Device:
    return Device(name=name, attributes={"model": DeviceAttribute(string=model)})


def classes() -> World:
    made = queue("default") + device_class(ANY, "true")
    for model in (X, Y, "whole", PART):
        made += device_class(model, f'device.attributes["{NET}"].?model.orValue("") == "{model}"')
    return made


def machines(*cpus: float) -> World:
    made = classes()
    for number, cpu in enumerate(cpus):
        made += node(f"n{number}", cpu=cpu, labels={"zone": f"z{number}"})
    return made


def fabric() -> World:
    """Two devices that every node reaches, unlike each other."""
    return everywhere("fabric", [card("b0", X), card("b1", Y)], NET)


def decide(made: World) -> Plan:
    decided = plan(made)
    assert check(made, decided) == ()
    return decided


def given(decided: Plan) -> dict[str, list[str]]:
    """Claim -> its devices."""
    return {
        part.claim.rpartition("/")[2]: [result.device for result in part.allocation.devices.results or ()]
        for placement in decided.placements
        for part in placement.claims
        if part.allocation is not None
    }


def nodes_of(decided: Plan) -> list[str]:
    return [placement.node for placement in decided.placements]


def named(**specs: ResourceClaimSpec) -> World:
    made = world()
    for name, spec in specs.items():
        made += claim(name, spec)
    return made


def consumers(*claims: Sequence[str]) -> list[Pod]:
    """Pods of one CPU each, that consume these."""
    return [pod(f"p{number}", claims={name: name for name in each}) for number, each in enumerate(claims)]


def test_a_shared_claim_leaves_the_device_that_its_pods_other_claim_cannot_do_without() -> None:
    """By itself it would have b0. kube-scheduler, given both claims of the first pod at once, finds this too."""
    made = machines(4) + fabric() + named(shared=ask(of=ANY), own=ask(of=X))
    assert given(decide(made + gang_of("g", consumers(["shared", "own"], ["shared"])))) == {
        "shared": ["b1"],
        "own": ["b0"],
    }


def test_two_shared_claims_get_their_devices_together() -> None:
    made = machines(4) + fabric() + named(one=ask(of=ANY), two=ask(of=X))
    decided = decide(made + gang_of("g", consumers(["one", "two"], ["one", "two"])))
    assert given(decided) == {"one": ["b1"], "two": ["b0"]}


def test_claims_of_pods_that_must_part_do_not_take_each_other_the_devices() -> None:
    made = machines(1, 1) + fabric() + named(one=ask(of=ANY), two=ask(of=X))
    decided = decide(made + gang_of("g", consumers(["one"], ["two"])))
    assert given(decided) == {"one": ["b1"], "two": ["b0"]}
    assert sorted(nodes_of(decided)) == ["n0", "n1"]


@pytest.mark.parametrize("cpus", [(2, 2), (1, 1)])
def test_two_pods_share_a_whole_or_half_device_of_the_fabric_on_one_node_or_on_two(cpus: tuple[float, ...]) -> None:
    """The first one's preference would leave nothing for the second. Source: kubernetes/kubernetes#138765."""
    parts, counters = divided_gpu(0)
    renamed = [card(part.name, PART if "part" in part.name else "whole") for part in parts]
    cards = [
        msgspec.structs.replace(each, consumes_counters=part.consumes_counters)
        for each, part in zip(renamed, parts, strict=True)
    ]
    made = machines(*cpus)
    for published in devices("fabric", cards, [counters], driver=NET).slices:
        spec = msgspec.structs.replace(published.spec, node_name=None, all_nodes=True)
        made += world(slices=(msgspec.structs.replace(published, spec=spec),))
    asked = ask_first(("whole", "whole", 1), ("half", PART, 1))
    decided = decide(made + named(one=asked, two=asked) + gang_of("g", consumers(["one"], ["two"])))
    assert given(decided) == {"one": ["gpu-0-part-0"], "two": ["gpu-0-part-1"]}
    assert len(set(nodes_of(decided))) == 3 - cpus[0]


def mixed(*cpus: float) -> World:
    """A device of the first node alone, and one that all nodes reach; two pods share a claim for either."""
    made = machines(*cpus) + devices("n0", [card("a0", X)], driver="local") + everywhere("f", [card("b0", X)], NET)
    return made + named(shared=ask(of=ANY)) + gang_of("g", consumers(["shared"], ["shared"]))


def test_pods_that_find_no_room_together_part_and_share_a_device_that_both_nodes_reach() -> None:
    decided = decide(mixed(1, 1))
    assert given(decided) == {"shared": ["b0"]}
    assert sorted(nodes_of(decided)) == ["n0", "n1"]


def test_pods_that_find_room_together_keep_to_the_device_of_their_node() -> None:
    decided = decide(mixed(2, 1))
    assert given(decided) == {"shared": ["a0"]}
    assert nodes_of(decided) == ["n0", "n0"]


def test_that_no_node_takes_all_pods_of_a_shared_claim_is_no_proof_where_they_may_part() -> None:
    """The device is only held by somebody else: no lasting refusal, and nothing is said to be proved."""
    made = mixed(1, 1)
    taken = given(decide(made))
    assert taken
    holding = next(c.allocation for p in plan(made).placements for c in p.claims if c.allocation is not None)
    made += claim("theirs", ask(of=ANY), holds=holding, by=["somebody"])
    (decision,) = decide(made).gangs
    assert decision.verdict is Verdict.PENDING
    assert isinstance(decision.reason, GangDoesNotFit)
    assert not decision.reason.proved


def test_pods_tied_by_another_claim_are_refused_for_good_where_no_node_takes_both() -> None:
    """That the fabric's claim lets them part is of no use to pods that share a device of one node too."""
    made = machines(1, 1) + fabric() + devices("n0", [gpu(0)], driver="local")
    made += device_class("local", 'device.driver == "local"') + named(wide=ask(of=X), tied=ask(of="local"))
    (decision,) = decide(made + gang_of("g", consumers(["wide", "tied"], ["wide", "tied"]))).gangs
    assert decision.verdict is Verdict.REFUSED
    assert isinstance(decision.reason, NoNodeFits)


def test_fewer_alternatives_are_asked_for_where_the_best_ones_leave_too_little() -> None:
    """Each pod would take both devices of its node and one of the fabric's two, and all three of them find one each."""
    made = machines(1, 1, 1) + fabric()
    for name in ("n0", "n1"):
        made += devices(name, [card("a0", X)], driver="local")
    asked = ask_first(("two", ANY, 2), ("one", ANY, 1))
    decided = decide(made + named(a=asked, b=asked, c=asked) + gang_of("g", consumers(["a"], ["b"], ["c"])))
    assert len(decided.placements) == 3
    assert {verdict.verdict for verdict in decided.gangs} == {Verdict.PLACED}


def test_what_several_zones_reach_goes_to_pods_that_may_stand_there_only() -> None:
    made = machines(4, 4) + fabric() + named(one=ask(of=ANY), two=ask(of=X))
    first, second = consumers(["one"], ["two"])
    pods = [replace(first, required_affinity=label_in("zone", "z1")), second]
    decided = decide(made + gang_of("g", pods))
    assert given(decided) == {"one": ["b1"], "two": ["b0"]}
    assert nodes_of(decided)[0] == "n1"


def test_gangs_that_find_no_devices_of_the_fabric_do_not_hold_up_the_plan() -> None:
    """Other ways are tried within the time for searches, and what has failed once is not tried again."""
    made = machines(*[4] * 12) + fabric()
    for number in range(6):
        made += gang(f"g{number}", pods=4, claims={"net": ask(of=ANY)})
    decided = decide(made)
    assert decided.placements == ()
    assert all(isinstance(d.reason, GangDoesNotFit) and not d.reason.proved for d in decided.gangs)
    assert decided.solver.seconds <= 1.6


def test_a_shared_claim_for_all_devices_comes_with_a_pod_on_a_node_that_has_no_others() -> None:
    """On n0 the fabric's devices are all there are, on n1 they are not: whoever is first there would hold those too."""
    made = machines(1, 1) + fabric() + devices("n1", [card("a0", X)], driver="local") + named(all=ask(None, of=ANY))
    small = replace(pod("p0", claims={"all": "all"}), required_affinity=label_in("zone", "z1"))
    decided = decide(made + gang_of("g", [small, pod("p1", claims={"all": "all"})]))
    assert nodes_of(decided) == ["n1", "n0"]
    assert given(decided) == {"all": ["b0", "b1"]}
    assert [bool(placement.claims[0].allocation) for placement in decided.placements] == [False, True]
