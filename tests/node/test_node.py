"""The node as the plugin sees it: what is offered now, and under which names."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from dra_driver import config, slices
from dra_driver.devices import ClaimRef, Entry, Grant, Inventory, Kind, Phase, Prepared, Taint
from dra_driver.fake import FakeGpus
from dra_driver.host import FAKE_BOOT
from dra_driver.node import Offered, hardware, offer

CLAIM = ClaimRef(namespace="default", name="a", uid="uid-a")


def offered(tmp_path: Path, machine: str = "h100x2", **settings: object) -> tuple[Offered, FakeGpus]:
    chosen = config.load(flags={"fake": machine, "node_name": "n1", **settings}, environment={})
    found = hardware(chosen, fake_state=None, fake_folder=tmp_path)
    assert isinstance(found.gpus, FakeGpus)
    return Offered("n1", found, offer(chosen, found)), found.gpus


def names(found: Inventory) -> list[str]:
    return [device.name for device in found.devices]


def entry(*devices: Prepared, boot: str = FAKE_BOOT) -> Entry:
    return Entry(claim=CLAIM, phase=Phase.DONE, boot=boot, devices=devices)


def of(name: str, gpu: str) -> Prepared:
    return Prepared(grant=Grant(requests=(), pool="n1", device=name), kind=Kind.GPU, gpu=gpu)


def test_nothing_is_offered_before_the_first_look_and_then_all_gpus_are(tmp_path: Path):
    shown, _ = offered(tmp_path)
    assert names(shown.inventory) == []
    assert names(shown.look(())) == names(shown.inventory) == ["gpu-0", "gpu-1"]


def test_what_was_made_for_a_claim_is_not_taken_for_an_operators(tmp_path: Path):
    shown, gpus = offered(tmp_path, dynamic_mig=True)
    before = shown.look(())
    device = next(each for each in before.devices if each.name == "gpu-0-mig-3g40gb-9-0")
    assert device.profile is not None
    assert device.placement is not None
    gpus.set_mig(device.gpu, True)
    made = gpus.create_instance(device.gpu, device.profile.id, device.placement)
    prepared = Prepared(
        grant=Grant(requests=(), pool="n1", device=device.name),
        kind=Kind.MIG,
        gpu=device.gpu,
        placement=device.placement,
        made=True,
    )

    assert shown.look([entry(prepared)]) == before

    # What an entry of an earlier boot has made went with that boot: what is there now is somebody else's.
    theirs = shown.look([entry(prepared, boot="earlier")])
    assert theirs == shown.look(())
    assert "gpu-0" not in names(theirs)
    assert shown.uuids()["gpu-0-mig-3g40gb-9-0"] == made.uuid


def test_a_hook_that_is_set_must_be_there_on_the_host(tmp_path: Path):
    """Found out at the start, not by every container."""
    chosen = config.load(flags={"host_root": tmp_path, "cdi_hook": "/opt/nvidia-cdi-hook"}, environment={})
    with pytest.raises(config.ConfigError, match=r"cdi_hook: '/opt/nvidia-cdi-hook' is no file below host_root .*; in"):
        hardware(chosen, fake_state=None, fake_folder=tmp_path)


def test_a_gpu_that_claims_hold_keeps_the_number_in_their_devices_names(tmp_path: Path):
    shown, gpus = offered(tmp_path)
    first, second = (gpu.uuid for gpu in gpus.gpus())

    shown.remember([("gpu-7-mig-1g10gb-19-0", first), ("gpu-7", second), ("channel-3", ""), ("odd", second)])

    assert {device.name: device.gpu for device in shown.look(()).devices} == {"gpu-7": first, "gpu-1": second}


def test_a_gpu_that_is_lost_stays_published_and_is_known_to_be_lost(tmp_path: Path):
    shown, gpus = offered(tmp_path)
    (_, second) = (gpu.uuid for gpu in gpus.gpus())
    shown.look(())
    gpus.lose(second)
    assert names(shown.look(())) == ["gpu-0", "gpu-1"]
    assert shown.lost == {second}


def test_taints_are_on_the_devices_until_there_are_others(tmp_path: Path):
    shown, gpus = offered(tmp_path)
    taint = Taint(key="gpu.nvidia.com/xid", value="79", effect="NoSchedule", since_ms=1)
    shown.look(())
    shown.taint({gpus.gpus()[0].uuid: (taint,)})
    assert [device.taints for device in shown.inventory.devices] == [(taint,), ()]
    assert [device.taints for device in shown.look(()).devices] == [(taint,), ()]
    shown.taint({"gpu-1": (taint,)})
    assert [device.taints for device in shown.inventory.devices] == [(), (taint,)]


@pytest.mark.parametrize(
    ("settings", "shared"), [({}, []), ({"shared_gpus": "1"}, ["gpu-1"]), ({"shared_gpus": "all"}, ["gpu-0", "gpu-1"])]
)
def test_which_gpus_are_shared_is_a_setting(tmp_path: Path, settings: dict[str, object], shared: list[str]):
    shown, _ = offered(tmp_path, **settings)
    found = shown.look(()).devices
    assert [device.name for device in found if device.shareable] == shared


def test_two_plugins_of_one_node_publish_the_same(tmp_path: Path):
    def published(devices: Iterable[str]) -> object:
        shown, gpus = offered(tmp_path, dynamic_mig=True)
        shown.remember((name, gpus.gpus()[0].uuid) for name in devices)
        return slices.documents(shown.look(()), slices.Target(node="n1", node_uid="u"))

    assert published([]) == published(["gpu-0"])


def test_taints_of_several_stand_beside_each_other_and_each_takes_back_its_own(tmp_path: Path):
    shown, gpus = offered(tmp_path)
    first = gpus.uuids[0]
    shown.look(())
    sick = Taint(key="gpu.nvidia.com/xid", value="79", effect="NoExecute", since_ms=1)
    going = Taint(key="tutti.scheduler/mig-reconfigure", value="halves", effect="NoSchedule", since_ms=2)

    shown.taint({"gpu-0": (sick,)})
    shown.taint({first: (going,), "gpu-1": (going,)}, by="reconfigure")
    taints = [set(device.taints) for device in shown.inventory.devices]
    assert taints == [{sick, going}, {going}]
    assert [set(device.taints) for device in shown.look(()).devices] == taints

    shown.taint({})
    assert [set(device.taints) for device in shown.inventory.devices] == [{going}, {going}]
    shown.taint({}, by="reconfigure")
    assert not any(device.taints for device in shown.inventory.devices)
