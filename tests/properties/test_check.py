"""The checker accepts right plans and tells every planted error, whatever the cluster, the queues and the gangs."""

import random
from dataclasses import replace

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from queues.tree import Queue
from scheduler.api import dra
from scheduler.api.meta import ObjectMeta
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests import builders
from tests.builders import World, ask, ask_first, cluster, gang, gang_of, gpu, gpu_class, node, pod, queue, sub_group
from tests.planted import claims, devices, pods
from tests.planted.planting import Planted
from tests.strategies import CLAIMS, FABRIC, MIG, carried_out, worlds

PLANTED = (*pods.KINDS, *claims.KINDS, *devices.KINDS)

MOST = 3
"""So many spoilt plans of one kind are looked at per world."""

modest = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def unnoticed(world: World, kind: Planted, dice: random.Random, most: int = MOST) -> tuple[int, list[str]]:
    """How many errors of this kind were planted in the world's plan, and those that the checker did not tell."""
    good = plan(world)
    assert check(world, good) == ()
    spoilt = list(kind.spoil(world, good))
    missed = []
    for number, (made, bad) in dice.sample(list(enumerate(spoilt)), min(most, len(spoilt))):
        told = check(made, bad)
        if not any(word in violation for violation in told for word in kind.words):
            missed.append(f"{kind.name}, number {number}: {told}")
    return len(spoilt), missed


@modest
@given(worlds(), st.integers(0, 1000))
def test_every_planted_error_is_told(world: World, seed: int) -> None:
    dice = random.Random(seed)
    for kind in PLANTED:
        assert unnoticed(world, kind, dice)[1] == []


@modest
@given(worlds(), st.integers(0, 1000))
def test_every_planted_error_is_told_where_others_run(world: World, seed: int) -> None:
    dice = random.Random(seed)
    good = plan(world)
    started = {gang.key for gang in world.gangs if dice.random() < 0.5}
    half = carried_out(world, replace(good, placements=tuple(p for p in good.placements if p.gang in started)))
    for kind in PLANTED:
        assert unnoticed(half, kind, dice)[1] == []


def shared_device(name: str) -> dra.Device:
    """One that several claims may hold, with a capacity that is given in steps, and one in a few sizes."""
    steps = dra.CapacityRequestPolicy(default="1Gi", valid_range=dra.CapacityRange(min="1Gi", max="8Gi", step="1Gi"))
    sizes = dra.CapacityRequestPolicy(default="1", valid_values=("1", "4"))
    return dra.Device(
        name=name,
        allow_multiple_allocations=True,
        capacity={
            "memory": dra.DeviceCapacity(value="10Gi", request_policy=steps),
            "lanes": dra.DeviceCapacity(value="8", request_policy=sizes),
        },
    )


def configured(name: str) -> dra.OpaqueDeviceConfiguration:
    return dra.OpaqueDeviceConfiguration(driver=builders.GPU, parameters=msgspec.Raw(f'"{name}"'.encode()))


def exactly(device_class: str, **more: object) -> dra.ResourceClaimSpec:
    wanted = msgspec.structs.replace(dra.ExactDeviceRequest(device_class_name=device_class), **more)
    request = dra.DeviceRequest(name="main", exactly=wanted)
    return dra.ResourceClaimSpec(devices=dra.DeviceClaim(requests=(request,)))


def gallery() -> dict[str, World]:
    """Worlds in which every kind of error can be planted."""
    fresh = queue("team") + queue("default", parent="team")
    plain = cluster(nodes=3, gpus=4, cpu=8, racks=3) + gang("a", pods=3, gpus=3, cpu=2, minimum=2) + gang("b", gpus=99)
    groups = gang_of(
        "groups",
        [pod(f"g-{number}", sub_group=f"s{number % 2}", gpus=3) for number in range(4)],
        sub_groups=(sub_group("s0", 2), sub_group("s1", 2)),
    )
    grouped = fresh + node("n0", gpus=8) + node("n1", gpus=4) + groups
    by_driver = (
        fresh
        + gpu_class(serves="nvidia.com/gpu")
        + node("n0", gpus=4, dra=True)
        + node("n1", gpus=4, dra=True)
        + gang("pair", pods=2, claims={"gpu": ask(2)})
        + gang("made", gpus=3)
        + builders.claim("shared", ask(1))
        + gang("together", pods=2, shared={"gpu": "shared"}, cpu=1)
    )
    boards, counters = builders.divided_gpu(0)
    divided = fresh + gpu_class() + gpu_class(MIG, kind="mig") + node("n") + builders.devices("n", boards, [counters])
    divided += gang("either", claims={"gpu": ask_first(("many", builders.GPU, 2), ("half", MIG, 2))})
    everything = fresh + gpu_class() + node("n", gpus=3, dra=True) + gang("all", claims={"gpu": ask(None)})
    looking = everything + gang("look", claims={"gpu": ask(1, admin=True)})
    allowed = {key: replace(one, admin_access_allowed=True) for key, one in looking.claims.items()}
    portions = fresh + builders.device_class("portion", 'device.driver == "portions"') + node("n")
    portions += builders.devices("n", [shared_device("d0")], driver="portions")
    asked = dra.CapacityRequirements(requests={"memory": "1500Mi", "lanes": "2"})
    portions += gang("portions", pods=2, claims={"p": exactly("portion", capacity=asked)})
    channels = fresh + builders.device_class(FABRIC, f'device.driver == "{FABRIC}"') + node("n0") + node("n1")
    channels += builders.everywhere("channels", [gpu(0), gpu(1)], FABRIC) + gang("channel", claims={"c": CLAIMS[4]})
    setting = fresh + node("n", gpus=2, dra=True)
    of_class = msgspec.structs.replace(
        gpu_class().classes[builders.GPU].spec, config=(dra.DeviceClassConfiguration(opaque=configured("class")),)
    )
    setting = replace(
        setting,
        classes={builders.GPU: dra.DeviceClass(metadata=ObjectMeta(name=builders.GPU), spec=of_class)},
    )
    own = dra.DeviceClaimConfiguration(requests=("main",), opaque=configured("claim"))
    wanted = msgspec.structs.replace(ask(1).devices, config=(own,))
    setting += gang("set", claims={"gpu": dra.ResourceClaimSpec(devices=wanted)})
    return {
        "plain": plain,
        "grouped": grouped,
        "by driver": by_driver,
        "divided": divided,
        "everything": everything,
        "looking": replace(looking, claims=allowed),
        "portions": portions,
        "channels": channels,
        "set": setting,
        "running": cluster(gpus=8) + gang("r", pods=2, gpus=1, on=["node-0"] * 2, started_ms=builders.NOW_MS),
        "no preemption": replace(
            plain, gangs=tuple(replace(one, preemptible=False) for one in plain.gangs), queues=(Queue(name="default"),)
        ),
    }


@pytest.mark.parametrize("kind", PLANTED, ids=lambda kind: kind.name)
def test_every_kind_of_error_can_be_planted_and_is_told(kind: Planted) -> None:
    planted = 0
    for world in gallery().values():
        number, missed = unnoticed(world, kind, random.Random(0), most=1000)
        assert missed == []
        planted += number
    assert planted
