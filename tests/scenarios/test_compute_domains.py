"""Pods of one ComputeDomain share memory over NVLink: they are placed in one clique, whatever gangs they are of.

Source: NVIDIA's DRA driver forms the domain after its pods were placed, of the nodes where they are. Users of KAI and
Kueue have to ask for one rack by label themselves.
"""

from collections.abc import Sequence

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
