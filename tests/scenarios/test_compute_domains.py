"""Pods of one ComputeDomain share memory over NVLink: they are placed in one clique, whatever gangs they are of.

Source: NVIDIA's DRA driver forms the domain after its pods were placed, of the nodes where they are. Users of KAI and
Kueue have to ask for one rack by label themselves.
"""

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest

from scheduler.api.dra import (
    Device,
    DeviceAttribute,
    DeviceClaimConfiguration,
    OpaqueDeviceConfiguration,
    ResourceClaimSpec,
)
from scheduler.model.plan import Plan
from scheduler.model.reasons import GangDoesNotFit, InvalidGang
from scheduler.model.snapshot import Snapshot
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import (
    World,
    ask,
    claim,
    cluster,
    constraint,
    device_class,
    devices,
    gang_of,
    node,
    pod,
    policy,
    queue,
    running,
    sub_group,
    topology,
    world,
)

DRIVER = "compute-domain.nvidia.com"
CHANNELS = "compute-domain-default-channel.nvidia.com"


def channel_of(domain: str, **fields: object) -> ResourceClaimSpec:
    """What NVIDIA's controller writes into the claim template of a ComputeDomain."""
    parameters = {
        "apiVersion": "resource.nvidia.com/v1beta1",
        "kind": "ComputeDomainChannelConfig",
        "domainID": domain,
        **fields,
    }
    config = OpaqueDeviceConfiguration(driver=DRIVER, parameters=msgspec.Raw(msgspec.json.encode(parameters)))
    spec = ask(1, of=CHANNELS)
    devices_ = msgspec.structs.replace(spec.devices, config=(DeviceClaimConfiguration(opaque=config),))
    return msgspec.structs.replace(spec, devices=devices_)


def racks(*sizes: int, labelled: bool = True) -> World:
    """Nodes r0-0, r0-1, ... of one clique for each rack, each with one channel."""
    made = cluster(nodes=0) + device_class(CHANNELS, f"device.driver == '{DRIVER}'")
    for rack, size in enumerate(sizes):
        for number in range(size):
            name = f"r{rack}-{number}"
            labels = {"nvidia.com/gpu.clique": f"fabric.{rack}"} if labelled else {}
            made += with_channel(name) + node(name, labels={"row": "only", **labels})
    return made


def with_channel(name: str) -> World:
    channel = Device(name="channel-0", attributes={"type": DeviceAttribute(string="channel")})
    return devices(name, [channel], driver=DRIVER)


def workers(gang: str, spec: ResourceClaimSpec, count: int, on: Sequence[str] = (), **more: object) -> World:
    """A gang of pods with a claim each; the first are on these nodes."""
    made, pods = world(), []
    for number in range(count):
        key = f"{gang}-{number}"
        made += claim(key, spec)
        pods.append(pod(key, claims={"channel": key}, on=on[number] if number < len(on) else "", cpu=1))
    return made + gang_of(gang, pods, **more)


def decide(made: Snapshot) -> Plan:
    decided = plan(made)
    assert check(made, decided) == ()
    return decided


def racks_of(decided: Plan) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for placement in decided.placements:
        found.setdefault(placement.gang.partition("/")[2], set()).add(placement.node.partition("-")[0])
    return found


@pytest.mark.parametrize("sizes", [(2, 3), (3, 2)])
def test_a_gang_of_a_compute_domain_goes_to_the_clique_that_has_room_for_all(sizes: tuple[int, int]):
    decided = decide(racks(*sizes) + workers("train", channel_of("d"), 3))
    assert racks_of(decided) == {"train": {f"r{sizes.index(3)}"}}


def test_a_gang_that_no_clique_holds_waits_although_there_are_enough_nodes():
    decided = decide(racks(2, 2) + workers("train", channel_of("d"), 3))
    assert decided.placements == ()
    reason = decided.why("train")
    assert isinstance(reason, GangDoesNotFit)
    assert (reason.placeable, reason.domain) == (2, "fabric.0")


def test_without_a_compute_domain_the_same_gang_is_spread_over_cliques():
    decided = decide(racks(2, 2) + workers("train", ask(1, of=CHANNELS), 3))
    assert racks_of(decided) == {"train": {"r0", "r1"}}


def test_pods_of_other_gangs_and_schedulers_tie_a_compute_domain_to_their_clique():
    here = racks(3, 2) + workers("first", channel_of("d"), 1, on=["r1-0"])
    assert racks_of(decide(here + workers("second", channel_of("d"), 1))) == {"second": {"r1"}}
    assert racks_of(decide(here + workers("other", channel_of("e"), 3))) == {"other": {"r0"}}


def test_two_gangs_of_one_compute_domain_are_placed_into_one_clique_by_one_plan():
    decided = decide(racks(3, 4) + workers("a", channel_of("d"), 3) + workers("b", channel_of("d"), 1))
    assert racks_of(decided) == {"a": {"r0"}}, "where the second finds no room any more"
    decided = decide(racks(2, 4) + workers("a", channel_of("d"), 3) + workers("b", channel_of("d"), 1))
    assert racks_of(decided) == {"a": {"r1"}, "b": {"r1"}}


def test_nodes_that_no_fabric_joins_serve_a_compute_domain_together():
    """There it joins nothing, and NVIDIA's driver lets its pods run."""
    decided = decide(racks(1, 1, labelled=False) + workers("train", channel_of("d"), 2))
    assert racks_of(decided) == {"train": {"r0", "r1"}}


def test_a_required_level_and_the_clique_are_kept_together():
    made = (
        racks(2, 3)
        + topology("rows", "row")
        + workers("train", channel_of("d"), 3, topology=constraint(("rows", "row", None)))
    )
    assert racks_of(decide(made)) == {"train": {"r1"}}


def test_pods_of_two_compute_domains_need_sub_groups():
    made = racks(2, 2)
    made += claim("a", channel_of("d")) + claim("b", channel_of("e"))
    pods = [pod("a", claims={"c": "a"}), pod("b", claims={"c": "b"})]
    assert isinstance(decide(made + gang_of("train", pods)).why("train"), InvalidGang)
    grouped = [pod("a", claims={"c": "a"}, sub_group="one"), pod("b", claims={"c": "b"}, sub_group="two")]
    parts = (sub_group("one", 1), sub_group("two", 1))
    assert len(decide(made + gang_of("train", grouped, sub_groups=parts)).placements) == 2


def test_a_launcher_without_a_channel_need_not_be_in_the_clique_of_its_workers():
    """NVIDIA's nvbandwidth is such an MPIJob: its launcher runs where there are no GPUs."""
    made = (
        racks(1, 2)
        + node("other", labels={"gpus": "none"})
        + claim("w0", channel_of("d"))
        + claim("w1", channel_of("d"))
    )
    workers_ = [pod(name, claims={"c": name}, sub_group="w") for name in ("w0", "w1")]
    launcher = pod("launcher", selector={"gpus": "none"}, sub_group="l")
    expected = {"train": {"other", "r1"}}
    assert racks_of(decide(made + gang_of("train", [launcher, *workers_]))) == expected
    grouped = gang_of("train", [launcher, *workers_], sub_groups=(sub_group("w", 2), sub_group("l", 1)))
    assert racks_of(decide(made + grouped)) == expected
    elastic = decide(made + gang_of("train", [launcher, *workers_], minimum=2))
    assert racks_of(elastic) == {"train": {"other", "r0"}}, "one worker is enough, and there is no room for another"


def test_sub_groups_of_one_compute_domain_are_in_one_clique_whatever_others_join():
    made, pods = racks(1, 2), []
    for name, domain in (("a", "d"), ("b", "d"), ("c", "e")):
        made += claim(name, channel_of(domain))
        pods.append(pod(name, claims={"c": name}, sub_group=name))
    parts = tuple(sub_group(name, 1) for name in "abc")
    found = {
        p.pod.partition("/")[2]: p.node for p in decide(made + gang_of("train", pods, sub_groups=parts)).placements
    }
    assert {found["a"], found["b"]} == {"r1-0", "r1-1"}
    assert found["c"] == "r0-0"
    any_two = decide(made + gang_of("train", pods, sub_groups=parts, min_sub_group=2))
    assert len(any_two.placements) == 3


def test_pods_of_one_compute_domain_that_cannot_be_bound_together_are_refused():
    """Each of two sub-groups has pods of it beside a sub-group of another."""
    made, pods = racks(2, 2), []
    for name, domain, part in (("a", "d", "x"), ("b", "e", "y"), ("c", "d", "z"), ("f", "g", "w")):
        made += claim(name, channel_of(domain))
        pods.append(pod(name, claims={"c": name}, sub_group=part))
    above = (sub_group("one"), sub_group("two"))
    parts = tuple(sub_group(p, 1, parent=q) for p, q in (("x", "one"), ("y", "one"), ("z", "two"), ("w", "two")))
    reason = decide(made + gang_of("train", pods, sub_groups=(*above, *parts))).why("train")
    assert isinstance(reason, InvalidGang)
    tied = made + workers("first", channel_of("d"), 1, on=["r1-0"])
    assert racks_of(decide(tied + gang_of("train", pods, sub_groups=(*above, *parts)))) == {"train": {"r0", "r1"}}


@pytest.mark.parametrize("on", [("r0-0", "r0-1"), ("r0-0", "")])
def test_sub_groups_that_each_stay_on_a_host_share_a_clique_and_not_a_host(on: tuple[str, str]):
    made, pods = racks(2) + topology("hosts", "kubernetes.io/hostname"), []
    for number, there in enumerate(on):
        made += claim(f"c{number}", channel_of("d"))
        pods.append(pod(f"c{number}", claims={"c": f"c{number}"}, on=there, sub_group=f"s{number}", cpu=40))
    hosts = ("hosts", "kubernetes.io/hostname", None)
    parts = tuple(sub_group(f"s{number}", 1, topology=hosts) for number in range(2))
    decided = decide(made + gang_of("train", pods, sub_groups=parts))
    assert decided.why("train") is None
    assert [p.node for p in decided.placements] == ["r0-1" for there in on if not there]


def test_where_others_of_its_compute_domain_are_binds_a_gang_to_their_clique_and_to_no_smaller_domain():
    made = racks() + topology("rows", "row")
    for number in range(4):
        labels = {"nvidia.com/gpu.clique": "fabric.0", "row": f"row-{number // 2}"}
        made += with_channel(f"n{number}") + node(f"n{number}", labels=labels)
    made += workers("a", channel_of("d"), 2, on=["n0", "n2"])
    decided = decide(made + workers("b", channel_of("d"), 2, topology=constraint(("rows", "row", None))))
    assert len(decided.placements) == 2


def test_of_two_promises_to_one_compute_domain_in_two_cliques_one_is_kept():
    made, pods = racks(1, 2), {}
    for name, promised in (("a", "r1-1"), ("b", "r0-0")):
        made += claim(name, channel_of("d"))
        pods[name] = replace(pod(name, claims={"c": name}), nominated=promised)
    decided = decide(made + gang_of("a", [pods["a"]]) + gang_of("b", [pods["b"]]))
    assert {p.pod: p.node for p in decided.placements} == {"default/a": "r1-1", "default/b": "r1-0"}


def test_room_is_made_for_two_gangs_of_one_compute_domain_in_one_clique():
    made = racks(1, 2) + world(policy=policy(stages=("allocate", "preempt"))) + queue("q", quota=100)
    for name, there in (("x", "r0-0"), ("y", "r1-0"), ("z", "r1-1")):
        made += gang_of(name, [pod(name, cpu=60, on=there)], queue="q")
    for name in ("a", "b"):
        made += claim(name, channel_of("d"))
        made += gang_of(name, [pod(name, claims={"c": name}, cpu=60)], priority=9, queue="q")
    decided = decide(made)
    assert len({promise.node.partition("-")[0] for promise in decided.promises}) == 1


@pytest.mark.parametrize(("spec", "moved"), [(channel_of("d"), []), (ask(1, of=CHANNELS), ["default/w-0"])])
def test_nobody_is_moved_out_of_the_clique_of_his_compute_domain(spec: ResourceClaimSpec, moved: list[str]):
    made = racks(2, 1) + world(policy=policy(stages=("allocate", "consolidate")))
    made += workers("w", spec, 2, on=["r0-0", "r0-1"], minimum=1)
    made += running("x", "r0-1", cpu=63) + running("y", "r1-0", cpu=20)
    decided = decide(made + gang_of("big", [pod("big", cpu=64)]))
    assert [eviction.pod for eviction in decided.evictions] == moved


def test_a_group_whose_pods_a_new_label_has_parted_does_not_keep_others_of_its_gang_from_growing():
    """Those who run are not moved; only who is placed now has to keep to the level."""
    made = racks(2, 1) + topology("hosts", "kubernetes.io/hostname")
    pods = [pod("a0", on="r0-0", sub_group="a"), pod("a1", on="r0-1", sub_group="a"), pod("b0", sub_group="b")]
    parts = (sub_group("a", 1, topology=("hosts", "kubernetes.io/hostname", None)), sub_group("b", 1))
    decided = decide(made + gang_of("train", pods, sub_groups=parts, min_sub_group=1))
    assert [placement.pod for placement in decided.placements] == ["default/b0"]


def test_who_is_in_several_cliques_already_is_told_what_helps():
    made = racks(2, 2) + workers("train", channel_of("d"), 3, on=["r0-0", "r1-0"], minimum=3)
    reason = decide(made).why("train")
    assert isinstance(reason, InvalidGang)
    assert "fabric.0, fabric.1" in reason.message
    assert reason.cure.startswith("Delete those in all of them but one")


@pytest.mark.parametrize(
    "spec",
    [
        channel_of("d", kind="ComputeDomainDaemonConfig"),
        channel_of("d", apiVersion="example.com/v1"),
        channel_of(""),
        channel_of("d", domainID=7),
    ],
)
def test_other_configs_and_unreadable_ones_tie_nobody(spec: ResourceClaimSpec):
    assert len(decide(racks(2, 2) + workers("train", spec, 3)).placements) == 3
