"""Devices: chosen with the node, exactly, and given once."""

from dataclasses import replace

import pytest

from queues.resources import Resources
from scheduler.api.dra import (
    AllocationResult,
    DeviceAllocationResult,
    DeviceRequestAllocationResult,
    ResourceClaimSpec,
)
from scheduler.model.plan import Plan, Verdict
from scheduler.model.reasons import ClaimRefused, GangDoesNotFit, NoNodeFits, WaitingForClaims
from scheduler.model.workloads import ContainerAsk
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import (
    GPU,
    World,
    ask,
    ask_first,
    claim,
    cluster,
    device_class,
    devices,
    divided_gpu,
    everywhere,
    gang,
    gang_of,
    gpu,
    gpu_class,
    node,
    pod,
    queue,
    running,
    sub_group,
    topology,
    world,
)
from tests.strategies import carried_out

MIG = "mig.nvidia.com"
WHOLE_OR_HALF = ask_first(("whole", GPU, 1), ("half", MIG, 1))


def decide(made: World) -> Plan:
    decided = plan(made)
    assert check(made, decided) == ()
    return decided


def given(decided: Plan) -> dict[str, list[str]]:
    """Pod -> its devices as node/device."""
    return {
        p.pod.rpartition("/")[2]: [
            f"{p.node}/{result.device}"
            for part in p.claims
            if part.allocation is not None
            for result in part.allocation.devices.results or ()
        ]
        for p in decided.placements
    }


def divided(boards: int = 1) -> World:
    parts = [divided_gpu(index) for index in range(boards)]
    published = devices("n", [d for part, _ in parts for d in part], [counters for _, counters in parts])
    return queue("default") + node("n") + published + gpu_class() + gpu_class(MIG, kind="mig")


def test_two_pods_that_would_take_a_gpu_whole_or_half_share_it_so_that_both_start() -> None:
    """The first one's preference would leave nothing for the second. Source: kubernetes/kubernetes#138765."""
    decided = decide(divided() + gang("pair", pods=2, claims={"gpu": WHOLE_OR_HALF}))
    assert given(decided) == {"pair-0": ["n/gpu-0-part-0"], "pair-1": ["n/gpu-0-part-1"]}


def test_alone_the_same_pod_takes_the_gpu_whole() -> None:
    assert given(decide(divided() + gang("one", claims={"gpu": WHOLE_OR_HALF}))) == {"one-0": ["n/gpu-0"]}


def nodes_of_divided(**boards: int) -> World:
    """Nodes, by name, with so many GPUs each of which is given whole or in halves."""
    made = queue("default") + gpu_class() + gpu_class(MIG, kind="mig")
    for name, count in boards.items():
        parts = [divided_gpu(index) for index in range(count)]
        made += node(name) + devices(name, [d for part, _ in parts for d in part], [counters for _, counters in parts])
    return made


def wholes_and_halves(decided: Plan) -> tuple[int, int]:
    taken = [device for each in given(decided).values() for device in each]
    halves = sum("part" in device for device in taken)
    return len(taken) - halves, halves


def test_a_gang_takes_what_it_likes_best_where_that_is_free_on_other_nodes() -> None:
    """Four whole GPUs on two nodes, and one node alone would have four halves."""
    decided = decide(nodes_of_divided(m=2, n=2) + gang("g", pods=4, claims={"gpu": WHOLE_OR_HALF}))
    taken = sorted(device for each in given(decided).values() for device in each)
    assert taken == ["m/gpu-0", "m/gpu-1", "n/gpu-0", "n/gpu-1"]


@pytest.mark.parametrize(("pods", "wholes"), [(4, 4), (5, 3), (7, 1), (8, 0)])
def test_of_a_gang_no_more_take_what_they_like_less_than_have_to(pods: int, wholes: int) -> None:
    decided = decide(nodes_of_divided(m=2, n=2) + gang("g", pods=pods, claims={"gpu": WHOLE_OR_HALF}))
    assert wholes_and_halves(decided) == (wholes, pods - wholes)


def test_a_gang_that_must_stay_in_one_domain_takes_one_with_what_it_likes_best() -> None:
    made = nodes_of_divided(m=1, n=2, o=3) + topology("t", "kubernetes.io/hostname")
    rack = ("t", "kubernetes.io/hostname", None)
    assert wholes_and_halves(decide(made + gang("g", pods=2, claims={"gpu": WHOLE_OR_HALF}, topology=rack))) == (2, 0)
    assert wholes_and_halves(decide(made + gang("g", pods=5, claims={"gpu": WHOLE_OR_HALF}, topology=rack))) == (1, 4)


def test_a_gang_that_is_moved_for_another_keeps_what_it_likes_best() -> None:
    """A pair on each node leaves no three GPUs for `triple`. Two of the pairs must meet on `a`, and though all three
    have room there, the third would have halves."""
    pairs = gang("pairs", pods=3, claims={"gpu": ask_first(("wholes", GPU, 2), ("halves", MIG, 2))}, priority=1)
    made = nodes_of_divided(a=4, b=3, c=2) + pairs + gang("triple", claims={"gpus": ask(3)})
    assert len(decide(made.under(solver_enabled=False)).placements) == 3
    decided = decide(made)
    assert len(decided.placements) == 4
    assert wholes_and_halves(decided) == (9, 0)


@pytest.mark.parametrize(
    ("asked", "remembered", "gets"),
    [(GPU, True, None), (MIG, True, "gpu-0-part-0"), (GPU, False, None), (MIG, False, None)],
)
def test_a_half_that_its_driver_has_withdrawn_goes_on_taking_half_of_the_gpu(
    asked: str, remembered: bool, gets: str | None
) -> None:
    """Source: kubernetes/kubernetes#140802. Where nobody remembers what it took, it is taken to be the whole GPU."""
    published, counters = divided_gpu(0)
    withdrawn = published.pop()
    made = queue("default") + node("n") + devices("n", published, [counters]) + gpu_class() + gpu_class(MIG, kind="mig")
    result = DeviceRequestAllocationResult(request="main", driver=GPU, pool="n", device=withdrawn.name)
    made += claim("held", ask(of=MIG), holds=AllocationResult(devices=DeviceAllocationResult(results=(result,))))
    if remembered:
        made += world(withdrawn={(GPU, "n", withdrawn.name): withdrawn})
    decided = decide(made + gang("late", claims={"gpu": ask(of=asked)}))
    assert given(decided) == ({"late-0": [f"n/{gets}"]} if gets else {})


def test_a_claim_goes_to_another_node_rather_than_to_a_device_that_did_not_become_ready_for_it() -> None:
    """Both nodes are alike; the second claim, which has not met the device, gets it."""
    made = cluster(nodes=2, gpus=1, dra=True)
    made += gang("again", claims={"gpu": ask()}) + gang("new", claims={"gpu": ask()})
    ((burnt, _), _) = sorted(made.claims.items())
    avoided = (GPU, "node-0", "gpu-0")
    made += world(claims={burnt: replace(made.claims[burnt], avoids=(avoided,))})
    assert given(decide(made)) == {"again-0": ["node-1/gpu-0"], "new-0": ["node-0/gpu-0"]}
    alone = cluster(nodes=1, gpus=1, dra=True) + gang("again", claims={"gpu": ask()})
    alone += world(
        claims={key: replace(each, avoids=((GPU, "node-0", "gpu-0"),)) for key, each in alone.claims.items()}
    )
    reason = decide(alone).why("again")
    assert isinstance(reason, NoNodeFits)
    assert "did not become ready for the claim before" in reason.message
    assert reason.cure.startswith("Look at what the driver reports of the device")


def test_a_claim_made_for_a_pod_goes_to_another_node_rather_than_to_a_device_that_an_earlier_one_had_in_vain() -> None:
    """Both nodes are alike, and so are the pods; the second, which has not met the device, gets it."""
    avoided = ((GPU, "node-0", "gpu-0"),)
    made = cluster(nodes=2, gpus=1, dra=True) + gpu_class(serves="nvidia.com/gpu")
    again, new = avoiding(gang("again", gpus=1), avoided), gang("new", gpus=1)
    assert given(decide(made + again + new)) == {"again-0": ["node-1/gpu-0"], "new-0": ["node-0/gpu-0"]}
    pair = avoiding(gang("pair", pods=2, gpus=1), avoided, which=0)
    assert given(decide(made + pair)) == {"pair-0": ["node-1/gpu-0"], "pair-1": ["node-0/gpu-0"]}
    alone = cluster(nodes=1, gpus=1, dra=True) + gpu_class(serves="nvidia.com/gpu")
    reason = decide(alone + again).why("again")
    assert isinstance(reason, NoNodeFits)
    assert "did not become ready for the claim before" in reason.message
    plugin = node("plugin", gpus=1)
    assert [placed.node for placed in decide(alone + plugin + again).placements] == ["plugin"]


@pytest.mark.parametrize("left", [False, True], ids=["deleted", "without devices"])
def test_a_pod_whose_made_claim_came_to_nothing_gets_another_one(left: bool) -> None:
    """Its status goes on naming the claim."""
    made = cluster(nodes=1, gpus=1, dra=True) + gpu_class(serves="nvidia.com/gpu")
    if left:
        made += claim("made", ask())
    again = gang("again", gpus=1)
    (whole,) = again.gangs
    named = replace(whole, pods=tuple(replace(one, extended_claim="default/made") for one in whole.pods))
    assert given(decide(made + replace(again, gangs=(named,)))) == {"again-0": ["node-0/gpu-0"]}


def avoiding(made: World, devices: tuple[tuple[str, str, str], ...], which: int | None = None) -> World:
    """What is made for the pods of the gang, or for one of them, is not to have these devices."""
    (whole,) = made.gangs
    pods = (replace(one, avoids=devices) if which in (None, number) else one for number, one in enumerate(whole.pods))
    return replace(made, gangs=(replace(whole, pods=tuple(pods)),))


def test_three_that_want_whole_or_half_of_one_gpu_wait_and_it_is_proved() -> None:
    reason = decide(divided() + gang("three", pods=3, claims={"gpu": WHOLE_OR_HALF})).why("three")
    assert isinstance(reason, GangDoesNotFit)
    assert (reason.placeable, reason.proved) == (2, True)


def test_eight_gpus_of_one_nvlink_domain_come_from_the_node_whose_gpus_share_one() -> None:
    """Source: the user's document on NVLink domains; KEP 4381 matchAttribute."""
    mixed = devices("split", [gpu(i, domain=f"half-{i // 4}") for i in range(8)])
    made = queue("default") + gpu_class() + node("split") + mixed + node("whole", gpus=8, dra=True)
    made += gang("tensor", claims={"gpus": ask(8, match=f"{GPU}/nvlinkDomain")})
    assert given(decide(made)) == {"tensor-0": [f"whole/gpu-{i}" for i in range(8)]}


def test_pods_that_share_a_claim_go_to_one_node_and_hold_one_device() -> None:
    made = cluster(nodes=2, gpus=1, dra=True, cpu=3) + claim("shared", ask(1)) + running("busy", on="node-0")
    made += gang("pair", pods=2, shared={"gpu": "shared"}, cpu=1.5)
    decided = decide(made)
    assert {p.node for p in decided.placements} == {"node-1"}
    assert [part.allocation is not None for p in decided.placements for part in p.claims] == [True, False]


def test_a_second_gang_joins_the_claim_that_the_first_one_of_the_same_plan_had_allocated() -> None:
    """Two pods, each a gang of its own, name one claim. Source: the user's document on shared GPUs."""
    made = cluster(nodes=3, gpus=1, dra=True) + claim("shared", ask(1))
    made += gang("inference", shared={"gpu": "shared"}) + gang("embedding", shared={"gpu": "shared"})
    decided = decide(made)
    assert len({p.node for p in decided.placements}) == 1
    assert sorted(given(decided).values()) == [[], ["node-0/gpu-0"]]


def test_a_notebook_that_comes_back_gets_the_devices_that_its_claim_kept() -> None:
    made = cluster(nodes=3, gpus=2, dra=True) + claim("notebook", ask(1)) + gang("book", shared={"gpu": "notebook"})
    first = decide(made)
    (placement,) = first.placements
    kept = replace(carried_out(made, first), gangs=made.gangs, pods=())
    again = decide(kept)
    assert [p.node for p in again.placements] == [placement.node]
    assert given(again) == {"book-0": []}


def test_when_the_node_of_a_kept_claim_is_full_the_pod_waits_and_says_that_a_claim_ties_it_to_that_node() -> None:
    made = cluster(nodes=2, gpus=2, dra=True, cpu=2) + claim("notebook", ask(1))
    made += gang("book", shared={"gpu": "notebook"}, cpu=2)
    kept = replace(carried_out(made, decide(made)), gangs=made.gangs, pods=())
    reason = decide(kept + running("other", on="node-0")).why("book")
    assert isinstance(reason, GangDoesNotFit)
    assert [str(cause) for cause in reason.causes] == [
        "1 node cannot use the devices that a ResourceClaim of the pod holds already",
        "1 node has too little free cpu: at most 1 of the 2 CPUs asked for",
    ]


def test_nobody_is_told_the_names_of_claims_in_other_namespaces() -> None:
    """Two tenants ask for the same, so that the causes are looked up once for both."""
    made = cluster(nodes=2, gpus=2, dra=True, cpu=2)
    for tenant in ("red", "blue"):
        made += claim(f"{tenant}/own", ask(1)) + gang(f"{tenant}/book", cpu=1, shared={"gpu": f"{tenant}/own"})
    kept = replace(carried_out(made, decide(made)), gangs=made.gangs, pods=())
    decided = decide(kept + running("x", on="node-0", cpu=2) + running("y", on="node-1", cpu=2))
    told = {decision.gang: str(decision.reason) for decision in decided.gangs}
    assert "holds already" in told["red/book"]
    assert "holds already" in told["blue/book"]
    assert "blue/own" not in told["red/book"]
    assert "red/own" not in told["blue/book"]


def test_no_more_than_256_pods_are_reserved_for_one_claim() -> None:
    made = cluster(nodes=1, gpus=1, dra=True, cpu=1000) + claim("shared", ask(1))
    reason = decide(made + gang("crowd", pods=257, shared={"gpu": "shared"}, cpu=0)).why("crowd")
    assert isinstance(reason, WaitingForClaims)
    assert "more than 256 pods" in reason.problem


def test_several_gangs_together_leave_a_claim_no_more_consumers_than_it_may_have() -> None:
    """Of two gangs of 200 pods that share a claim the first starts; the second is told what stops it. One that can do
    with fewer starts with those that still may come."""
    made = cluster(nodes=1, gpus=1, dra=True) + claim("shared", ask(1)) + node("roomy", gpus=1, dra=True, pods=1000)
    made += gang("first", pods=200, shared={"gpu": "shared"}, cpu=0.01, memory="1Mi")
    firm = decide(made + gang("second", pods=200, shared={"gpu": "shared"}, cpu=0.01, memory="1Mi"))
    assert isinstance(firm.why("second"), WaitingForClaims)
    elastic = decide(made + gang("second", pods=200, minimum=1, shared={"gpu": "shared"}, cpu=0.01, memory="1Mi"))
    assert [d.placed for d in elastic.gangs] == [200, 56]


def test_a_claim_whose_devices_every_node_reaches_does_not_tie_its_pods_to_one_node() -> None:
    """A fabric channel shared by a gang of two full nodes."""
    fabric = "fabric.example.com"
    made = cluster(nodes=2, gpus=8, dra=True) + device_class(fabric, f'device.driver == "{fabric}"')
    made += everywhere("channels", [gpu(0)], fabric) + claim("channel", ask(1, of=fabric))
    made += gang("train", pods=2, claims={"gpus": ask(8)}, shared={"channel": "channel"})
    decided = decide(made)
    assert {p.node for p in decided.placements} == {"node-0", "node-1"}
    assert (
        sum(
            part.claim == "default/channel" and part.allocation is not None
            for p in decided.placements
            for part in p.claims
        )
        == 1
    )


def test_an_elastic_gang_may_start_with_pods_that_do_without_the_claim_that_its_others_share() -> None:
    """The claim stays without devices until one of those that consume it starts."""
    fabric = "fabric.example.com"
    made = cluster(nodes=1, cpu=1) + device_class(fabric, f'device.driver == "{fabric}"')
    made += everywhere("channels", [gpu(0)], fabric) + claim("channel", ask(1, of=fabric))
    pods = [pod("g-0"), pod("g-1", claims={"channel": "channel"}), pod("g-2", claims={"channel": "channel"})]
    assert given(decide(made + gang_of("g", pods, minimum=1))) == {"g-0": []}
    roomy = made + node("more", cpu=2)
    assert given(decide(roomy + gang_of("g", pods, minimum=1))) == {"g-0": [], "g-1": ["more/gpu-0"], "g-2": []}


def test_devices_that_every_node_reaches_are_still_given_once() -> None:
    fabric = "fabric.example.com"
    made = cluster(nodes=2, gpus=1, dra=True) + device_class(fabric, f'device.driver == "{fabric}"')
    made += everywhere("channels", [gpu(0), gpu(1)], fabric)
    two = made + gang("two", pods=2, claims={"gpu": ask(1), "channel": ask(1, of=fabric)})
    assert len(decide(two).placements) == 2
    three = made + node("node-2", gpus=1, dra=True)
    three += gang("three", pods=3, claims={"gpu": ask(1), "channel": ask(1, of=fabric)})
    reason = decide(three).why("three")
    assert isinstance(reason, GangDoesNotFit)
    assert not reason.proved


def test_pods_that_share_a_gpu_start_with_the_minimum_of_their_gang_and_others_join_as_far_as_there_is_room() -> None:
    made = cluster(nodes=1, gpus=1, dra=True, cpu=4) + claim("shared", ask(1))
    decided = decide(made + gang("g", pods=8, minimum=2, cpu=1, shared={"gpu": "shared"}))
    assert [(d.verdict, d.placed) for d in decided.gangs] == [(Verdict.PLACED, 4)]
    waits = decide(made + gang("g", pods=8, minimum=5, cpu=1, shared={"gpu": "shared"})).why("g")
    assert isinstance(waits, NoNodeFits)
    grows = made + gang_of("g", [pod("g-x")] + [pod(f"g-{i}", claims={"gpu": "shared"}) for i in range(8)], minimum=1)
    assert [d.placed for d in decide(grows).gangs] == [4]


def test_that_some_of_the_pods_that_share_a_gpu_find_no_room_proves_nothing_if_others_may_start_without_them() -> None:
    made = cluster(nodes=1, gpus=1, dra=True, cpu=4) + claim("shared", ask(1))
    pods = [pod("g-0", cpu=4, claims={"gpu": "shared"}), pod("g-1", claims={"gpu": "shared"}), pod("g-2", cpu=3)]
    (decision,) = decide(made + running("busy", on="node-0", cpu=1) + gang_of("g", pods, minimum=2)).gangs
    assert decision.verdict is Verdict.PENDING
    assert isinstance(decision.reason, GangDoesNotFit)
    assert not decision.reason.proved


def test_pods_that_share_a_gpu_go_where_all_of_them_find_room_if_that_is_anywhere() -> None:
    made = cluster(nodes=1, gpus=1, dra=True, cpu=2) + node("roomy", gpus=1, dra=True) + claim("shared", ask(1))
    decided = decide(made + gang("g", pods=8, minimum=1, shared={"gpu": "shared"}))
    assert [p.node for p in decided.placements] == ["roomy"] * 8


def apart(**constraints: tuple[str, str | None, str | None]) -> World:
    """A gang of two sub-groups of two pods each, whose first pods share a GPU."""
    made = claim("shared", ask(1))
    pods = [
        pod(f"{name}-{i}", cpu=2, claims={"gpu": "shared"} if i == 0 else {}, sub_group=name)
        for name in ("a", "b")
        for i in range(2)
    ]
    groups = tuple(sub_group(name, 2, topology=constraints.get(name)) for name in ("a", "b"))
    return made + gang_of("g", pods, sub_groups=groups)


def test_sub_groups_that_share_a_claim_of_one_node_send_those_that_consume_it_there() -> None:
    made = cluster(nodes=2, gpus=1, dra=True, cpu=4)
    decided = decide(made + apart())
    on = {p.pod: p.node for p in decided.placements}
    assert len(on) == 4
    assert on["default/a-0"] == on["default/b-0"]
    assert sorted(given(decided).values()) == [[], [], [], [f"{on['default/a-0']}/gpu-0"]]


def test_the_node_of_such_a_claim_is_chosen_so_that_the_rest_of_the_gang_finds_room() -> None:
    """The node that fits the two best is in a rack that cannot hold the whole of sub-group a."""
    made = topology("racks", "rack") + queue("default") + gpu_class()
    made += node("tight", gpus=1, dra=True, cpu=4, labels={"rack": "r0"})
    for number in range(2):
        made += node(f"roomy-{number}", gpus=1, dra=True, cpu=5, labels={"rack": "r1"})
    decided = decide(made + apart(a=("racks", "rack", None)))
    assert {p.node for p in decided.placements if p.pod in ("default/a-0", "default/b-0")} < {"roomy-0", "roomy-1"}


def test_sub_groups_that_share_many_claims_find_nodes_for_all_of_them_at_once() -> None:
    made = cluster(nodes=40, gpus=8, dra=True, racks=4) + topology("racks", "rack")
    for number in range(8):
        made += claim(f"shared-{number}", ask(1))
    pods = [
        pod(f"{name}-{number}", cpu=8, claims={"gpu": f"shared-{number}"}, sub_group=name)
        for number in range(8)
        for name in ("a", "b")
    ]
    racked = ("racks", "rack", None)
    groups = tuple(sub_group(name, 8, topology=racked) for name in ("a", "b"))
    on = {p.pod: p.node for p in decide(made + gang_of("g", pods, sub_groups=groups)).placements}
    assert len(on) == 16
    assert all(on[f"default/a-{number}"] == on[f"default/b-{number}"] for number in range(8))


def test_sub_groups_bound_to_one_rack_each_that_share_a_gpu_wait_and_nothing_is_claimed_to_be_proved() -> None:
    made = topology("racks", "rack") + queue("default") + gpu_class()
    for number in range(2):
        made += node(f"n{number}", gpus=1, dra=True, cpu=6, labels={"rack": f"r{number}"})
    racked = ("racks", "rack", None)
    reason = decide(made + apart(a=racked, b=racked)).why("g")
    assert isinstance(reason, GangDoesNotFit)
    assert not reason.proved
    assert decide(
        made + node("n2", gpus=1, dra=True, cpu=8, labels={"rack": "r1"}) + apart(a=racked, b=racked)
    ).placements


def test_sub_groups_that_share_a_claim_which_no_node_can_serve_are_refused() -> None:
    made = cluster(nodes=2, gpus=1, dra=True, cpu=3)
    assert isinstance(decide(made + apart()).why("g"), NoNodeFits)


def test_nvidia_com_gpu_is_served_by_a_device_plugin_where_there_is_one_and_by_a_claim_elsewhere() -> None:
    """Source: KEP 5004."""
    made = cluster(nodes=1, gpus=2) + node("driver", gpus=2, dra=True) + gpu_class(serves="nvidia.com/gpu")
    decided = decide(made + gang("train", pods=2, gpus=2))
    by_node = {p.node: p.claims for p in decided.placements}
    assert by_node["node-0"] == ()
    (made_claim,) = by_node["driver"]
    assert made_claim.make is not None
    assert [(m.container, m.resource, m.request) for m in made_claim.mappings] == [
        ("main", "nvidia.com/gpu", "container-0-request-0")
    ]
    assert next(q.allocated["gpu"] for q in decided.queues) == 4000


@pytest.mark.parametrize("resource", ["nvidia.com/gpu", "deviceclass.resource.kubernetes.io/late"])
def test_nodes_are_told_apart_by_what_the_class_behind_an_extended_resource_looks_at(resource: str) -> None:
    late = f'device.driver == "{GPU}" && device.attributes["{GPU}"].index >= 8'
    made = queue("default") + device_class("late", late, serves="nvidia.com/gpu")
    made += node("a") + devices("a", [gpu(0), gpu(1)]) + node("b") + devices("b", [gpu(8), gpu(9)])
    asks = (ContainerAsk(name="main", index=0, requests={resource: 1}),)
    wanting = replace(pod("g-0"), extended=asks, requests=pod("g-0").requests + Resources({resource: 1}))
    assert [p.node for p in decide(made + gang_of("g", [wanting])).placements] == ["b"]


def test_a_claim_made_for_extended_resources_is_found_again_after_a_restart() -> None:
    made = queue("default") + node("driver", gpus=2, dra=True) + gpu_class(serves="nvidia.com/gpu") + gang("p", gpus=2)
    after = carried_out(made, decide(made))
    assert decide(after).gangs[0].verdict is Verdict.RUNNING
    unbound = replace(
        after, gangs=tuple(replace(g, pods=tuple(replace(p, node="") for p in g.pods)) for g in after.gangs)
    )
    again = decide(replace(unbound, pods=()))
    assert [(p.node, [part.make for part in p.claims]) for p in again.placements] == [("driver", [])]


def test_a_small_pod_spares_the_gpu_that_is_whole() -> None:
    """One half of a GPU is taken already; the next half comes from the same GPU."""
    made = divided(2) + gang("first", claims={"gpu": ask(1, of=MIG)})
    first = decide(made)
    second = decide(carried_out(made, first) + gang("second", claims={"gpu": ask(1, of=MIG)}))
    board = given(first)["first-0"][0].partition("-part")[0]
    assert given(second)["second-0"][0].partition("-part")[0] == board


def test_a_claim_that_cannot_be_decided_refuses_its_gang_and_nobody_else() -> None:
    broken = ask(1, where="device.attributes[")
    made = (
        cluster(nodes=1, gpus=2, dra=True)
        + gang("broken", claims={"gpu": broken})
        + gang("fine", claims={"gpu": ask(1)})
    )
    decided = decide(made)
    assert isinstance(decided.why("broken"), ClaimRefused)
    assert [d.verdict for d in decided.gangs] == [Verdict.REFUSED, Verdict.PLACED]


def test_a_class_that_does_not_exist_is_named() -> None:
    reason = decide(cluster(nodes=1, gpus=2, dra=True) + gang("train", claims={"gpu": ask(1, of="tpu")})).why("train")
    assert isinstance(reason, ClaimRefused)
    assert "DeviceClass tpu does not exist" in reason.message


def test_a_claim_that_no_node_could_ever_serve_says_what_the_nodes_have() -> None:
    reason = decide(cluster(nodes=2, gpus=4, dra=True) + gang("train", claims={"gpus": ask(8)})).why("train")
    assert isinstance(reason, NoNodeFits)
    assert "2 nodes have only 4 devices of class gpu.nvidia.com" in reason.message


def test_admin_access_takes_nothing_from_anybody() -> None:
    """Source: KEP 5018."""
    spec: ResourceClaimSpec = ask(None, admin=True)
    watcher = claim("watch", spec)
    allowed = {key: replace(one, admin_access_allowed=True) for key, one in watcher.claims.items()}
    made = cluster(nodes=1, gpus=2, dra=True) + replace(watcher, claims=allowed)
    made += gang("train", claims={"gpus": ask(2)}) + gang("watch", shared={"all": "watch"})
    decided = decide(made)
    assert len(decided.placements) == 2
    assert next(q.allocated["gpu"] for q in decided.queues) == 2000


def test_a_selector_that_fails_on_what_nodes_publish_names_the_claim_of_the_gang_itself() -> None:
    """A missing attribute is an error, not "no match". Source: KEP 4381, CEL environment."""
    missing = ask(1, where='device.attributes["gpu.nvidia.com"].tensorCores > 4')
    made = (
        cluster(nodes=2, gpus=2, dra=True) + gang("one", claims={"gpu": missing}) + gang("two", claims={"gpu": missing})
    )
    decided = decide(made)
    for name in ("one", "two"):
        reason = decided.why(name)
        assert isinstance(reason, ClaimRefused)
        assert reason.claim == f"default/{name}-0-gpu"
