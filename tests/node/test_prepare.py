"""Preparing and giving back: what is there after, what is refused, and that to repeat it changes nothing."""

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from dra_driver.devices import Grant, Phase
from dra_driver.disk import Disk
from dra_driver.facts import ComputeMode, Failure
from dra_driver.prepare import PrepareError
from tests.node.endings import Refuses
from tests.node.plants import EXCLUSIVE, GIB, MPS, Plant, answer, claim, grant

T = TypeVar("T")
A, B = claim("a"), claim("b")
G3, G1 = "gpu-0-mig-3g40gb-9-0", "gpu-0-mig-1g10gb-19-4"


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path / "node").begun()


@pytest.fixture
def shared(tmp_path: Path) -> Plant:
    return Plant(tmp_path / "node", shares=True).begun()


def test_a_whole_gpu_is_prepared_with_a_file_and_given_back_without_a_trace(plant: Plant) -> None:
    devices = plant.preparer.prepare(A, (grant("gpu-1"),))
    assert answer(devices) == [(("r",), "node-1", "gpu-1", ("k8s.gpu.nvidia.com/claim=uid-a-gpu-1",), "")]
    document = json.loads((plant.folder / "cdi/k8s.gpu.nvidia.com-claim_uid-a.json").read_bytes())
    assert document["devices"][0]["containerEdits"]["deviceNodes"][0]["path"] == "/dev/nvidia1"
    assert [(entry.claim, entry.phase) for entry in plant.entries] == [(A, Phase.DONE)]
    plant.preparer.unprepare(A)
    assert plant.left == {}


def test_two_instances_of_one_gpu_are_made_where_the_scheduler_chose_and_destroyed_with_the_mode(plant: Plant) -> None:
    devices = plant.preparer.prepare(A, (grant(G3), grant(G1)))
    assert plant.cut == {"gpu-0": ["3g.40gb@0", "1g.10gb@4"]}
    assert [device.instance for device in devices] == [each.uuid for each in plant.gpus.instances(plant.gpus.uuids[0])]
    plant.preparer.unprepare(A)
    assert plant.left == {}


def test_what_is_prepared_twice_or_by_another_plugin_is_the_same_and_nothing_is_written_again(plant: Plant) -> None:
    first = plant.preparer.prepare(A, (grant(G3), grant("gpu-1", settings=EXCLUSIVE)))
    before = {path: path.stat().st_mtime_ns for path in (plant.folder / "plugin").iterdir()}
    assert plant.preparer.prepare(A, (grant(G3), grant("gpu-1", settings=EXCLUSIVE))) == first
    assert plant.again().preparer.prepare(A, (grant(G3), grant("gpu-1", settings=EXCLUSIVE))) == first
    assert {path: path.stat().st_mtime_ns for path in (plant.folder / "plugin").iterdir()} == before


def test_to_give_back_twice_or_what_was_never_given_is_success(plant: Plant) -> None:
    plant.preparer.unprepare(A)
    plant.preparer.prepare(A, (grant("gpu-0"),))
    plant.preparer.unprepare(A)
    plant.again().preparer.unprepare(A)
    assert plant.left == {}


def test_the_mode_ends_with_the_last_of_ours_and_stays_while_another_claim_has_a_part(plant: Plant) -> None:
    plant.preparer.prepare(A, (grant(G3),))
    plant.preparer.prepare(B, (grant(G1),))
    plant.preparer.unprepare(A)
    assert plant.cut == {"gpu-0": ["1g.10gb@4"]}
    plant.preparer.unprepare(B)
    assert plant.cut == {}


def test_a_mode_that_an_operator_began_is_not_ended(plant: Plant) -> None:
    plant.gpus.set_mig(plant.gpus.uuids[0], True)
    plant.preparer.prepare(A, (grant(G3),))
    plant.preparer.unprepare(A)
    assert plant.cut == {"gpu-0": ["mode"]}


def test_a_mode_that_an_onlooker_kept_from_ending_ends_when_the_gpu_is_given_whole(plant: Plant) -> None:
    plant.preparer.prepare(A, (grant(G3),))
    plant.gpus.refuse("set_mig", Failure.IN_USE)
    plant.preparer.unprepare(A)
    assert plant.cut == {"gpu-0": ["mode"]}
    plant.preparer.prepare(B, (grant("gpu-0"),))
    assert plant.cut == {}


def test_an_instance_in_use_is_not_given_back_and_its_user_is_named(plant: Plant) -> None:
    (device,) = plant.preparer.prepare(A, (grant(G3),))
    plant.gpus.use(device.instance, pid=4321)
    with pytest.raises(PrepareError, match=r"Claim team/a: not given back: device .*: in|in use by process 4321") as no:
        plant.preparer.unprepare(A)
    assert "in use by process 4321; it is tried again" in str(no.value)
    assert [entry.phase for entry in plant.entries] == [Phase.ENDING]
    assert plant.specs.uids() == (), "no container starts with it any more"
    plant.gpus.leave(4321)
    plant.preparer.unprepare(A)
    assert plant.left == {}


def test_of_two_instances_the_one_that_is_free_is_given_back_while_the_other_is_in_use(plant: Plant) -> None:
    first, _ = plant.preparer.prepare(A, (grant(G3), grant(G1)))
    plant.gpus.use(first.instance, pid=4321)
    with pytest.raises(PrepareError, match="in use by process 4321"):
        plant.preparer.unprepare(A)
    assert plant.cut == {"gpu-0": ["3g.40gb@0"]}
    plant.preparer.prepare(B, (grant(G1),))
    plant.gpus.leave(4321)
    plant.preparer.unprepare(A)
    assert plant.cut == {"gpu-0": ["1g.10gb@4"]}


# --- a device that another claim holds ---


@pytest.mark.parametrize(
    ("held", "asked", "words"),
    [
        ("gpu-0", "gpu-0", "claim team/a holds gpu-0"),
        ("gpu-0", G1, "claim team/a holds gpu-0"),
        (G3, "gpu-0", "claim team/a holds gpu-0-mig-3g40gb-9-0"),
        (G3, G3, "claim team/a holds"),
        (G3, "gpu-0-mig-1g10gb-19-3", "memory slices 0 to 3"),
    ],
    ids=["whole twice", "part of a whole", "whole of a part", "part twice", "parts that overlap"],
)
def test_a_device_that_another_claim_holds_is_refused(plant: Plant, held: str, asked: str, words: str) -> None:
    plant.preparer.prepare(A, (grant(held),))
    before = plant.left
    with pytest.raises(PrepareError, match=f"Claim team/b: not prepared: .*{words}"):
        plant.preparer.prepare(B, (grant(asked),))
    assert plant.left == before
    plant.preparer.unprepare(A)
    plant.preparer.prepare(B, (grant(asked),))


def test_who_does_not_overlap_is_not_refused(plant: Plant) -> None:
    plant.preparer.prepare(A, (grant(G3),))
    plant.preparer.prepare(B, (grant(G1), grant("gpu-1")))
    assert plant.cut == {"gpu-0": ["3g.40gb@0", "1g.10gb@4"]}


def test_a_claim_that_is_given_two_parts_of_one_place_is_refused_whole(plant: Plant) -> None:
    with pytest.raises(PrepareError, match=r"is given gpu-0-mig-3g40gb-9-0 .* beside it"):
        plant.preparer.prepare(A, (grant(G3), grant("gpu-0-mig-1g10gb-19-3")))
    assert plant.left == {}


def test_a_device_stays_held_while_it_is_given_back(plant: Plant) -> None:
    (device,) = plant.preparer.prepare(A, (grant(G3),))
    plant.gpus.use(device.instance, pid=7)
    with pytest.raises(PrepareError):
        plant.preparer.unprepare(A)
    with pytest.raises(PrepareError, match="claim team/a, which is being given back, holds"):
        plant.preparer.prepare(B, (grant(G3),))


def test_a_claim_made_anew_under_its_name_waits_until_its_predecessor_is_given_back(plant: Plant) -> None:
    plant.preparer.prepare(A, (grant("gpu-0"),))
    anew = replace(A, uid="uid-anew")
    with pytest.raises(PrepareError, match=r"its predecessor of the same name \(uid uid-a\)"):
        plant.preparer.prepare(anew, (grant("gpu-0"),))
    plant.preparer.unprepare(anew)
    assert [entry.claim for entry in plant.entries] == [A], "the uid says which is given back, not the name"
    plant.preparer.unprepare(A)
    plant.preparer.prepare(anew, (grant("gpu-0"),))
    assert plant.specs.uids() == ("uid-anew",)


def test_a_claim_that_was_allocated_anew_gives_back_what_it_had(plant: Plant) -> None:
    plant.preparer.prepare(A, (grant(G3),))
    plant.preparer.prepare(A, (grant("gpu-1"),))
    assert plant.cut == {}
    assert [device.grant.device for entry in plant.entries for device in entry.devices] == ["gpu-1"]


# --- shares ---


def test_shares_of_one_gpu_are_prepared_while_their_memory_fits(shared: Plant) -> None:
    for name, gib in (("a", 40), ("b", 30)):
        shared.preparer.prepare(claim(name), (grant("gpu-0", share_id=name, memory_bytes=gib * GIB, settings=MPS),))
    assert len(shared.programs.running) == 1
    with pytest.raises(PrepareError, match=f"its share of {10 * GIB} memory does not fit: {70 * GIB} of"):
        shared.preparer.prepare(claim("c"), (grant("gpu-0", share_id="c", memory_bytes=10 * GIB),))
    shared.preparer.prepare(claim("c"), (grant("gpu-0", share_id="c", memory_bytes=9 * GIB),))
    shared.preparer.unprepare(claim("a"))
    assert len(shared.programs.running) == 1
    shared.preparer.unprepare(claim("c"))
    shared.preparer.unprepare(claim("b"))
    assert shared.left == {}


def test_shares_of_cores_are_added_up_and_who_asks_for_none_takes_none(shared: Plant) -> None:
    for name, percent in (("a", 60), ("b", None), ("c", 40)):
        share = grant("gpu-0", share_id=name, memory_bytes=GIB, cores_percent=percent)
        shared.preparer.prepare(claim(name), (share,))
    with pytest.raises(PrepareError, match="its share of 1 cores does not fit: 100 of 100"):
        shared.preparer.prepare(claim("d"), (grant("gpu-0", share_id="d", memory_bytes=GIB, cores_percent=1),))


def test_a_share_that_does_not_say_how_much_is_all_of_it(shared: Plant) -> None:
    shared.preparer.prepare(A, (grant("gpu-0", share_id="a", memory_bytes=GIB),))
    with pytest.raises(PrepareError, match="does not fit"):
        shared.preparer.prepare(B, (grant("gpu-0", share_id="b"),))


def test_a_share_and_the_whole_exclude_each_other(shared: Plant) -> None:
    shared.preparer.prepare(A, (grant("gpu-0", share_id="a", memory_bytes=GIB),))
    for asked in (grant("gpu-0"), grant(G1), grant("gpu-0", share_id="a", memory_bytes=GIB)):
        with pytest.raises(PrepareError, match="claim team/a holds gpu-0"):
            shared.preparer.prepare(B, (asked,))
    shared.preparer.prepare(B, (grant("gpu-1"),))
    with pytest.raises(PrepareError, match="claim team/b holds gpu-1"):
        shared.preparer.prepare(claim("c"), (grant("gpu-1", share_id="c", memory_bytes=GIB),))


def test_two_shares_of_one_claim_are_added_up(shared: Plant) -> None:
    shares = [grant("gpu-0", share_id=name, memory_bytes=40 * GIB) for name in ("x", "y")]
    with pytest.raises(PrepareError, match="does not fit"):
        shared.preparer.prepare(A, tuple(shares))
    assert shared.left == {}


def test_gpus_that_are_not_shared_any_more_take_no_second_share(shared: Plant) -> None:
    shared.preparer.prepare(A, (grant("gpu-0", share_id="a", memory_bytes=GIB),))
    with pytest.raises(PrepareError, match="it is not shared any more"):
        shared.again(shares=False).preparer.prepare(B, (grant("gpu-0", share_id="b", memory_bytes=GIB),))


# --- onlookers ---


def test_an_onlooker_sees_what_others_hold_and_sets_nothing(plant: Plant) -> None:
    (held,) = plant.preparer.prepare(A, (grant(G3),))
    looks = (grant(G3, admin=True), grant("gpu-1", admin=True, settings=EXCLUSIVE))
    devices = plant.preparer.prepare(B, looks)
    assert [device.instance for device in devices] == [held.instance, ""]
    assert all(gpu.compute_mode is ComputeMode.DEFAULT for gpu in plant.gpus.gpus())
    plant.preparer.prepare(claim("c"), (grant("gpu-1"),))
    plant.preparer.unprepare(A)
    assert plant.cut == {}, "who only looks on keeps nothing"
    assert plant.preparer.prepare(B, looks) == devices
    plant.preparer.unprepare(B)
    plant.preparer.unprepare(claim("c"))
    assert plant.left == {}


def test_nothing_is_made_for_an_onlooker_at_a_place_where_nothing_is(plant: Plant) -> None:
    (device,) = plant.preparer.prepare(A, (grant(G3, admin=True),))
    assert (device.instance, device.made) == ("", False)
    assert plant.cut == {}


# --- instances of an operator ---


def test_an_operators_instance_is_given_and_never_destroyed(tmp_path: Path) -> None:
    plant = Plant(tmp_path / "node", machine="a100x1").begun()
    gpu = plant.gpus.uuids[0]
    plant.gpus.set_mig(gpu, True)
    plant.gpus.reset(gpu)
    made = plant.gpus.create_instance(gpu, 19, replace(plant.gpus.gpus()[0].mig.profiles[0].placements[0], start=2))  # type: ignore[union-attr]
    (device,) = plant.preparer.prepare(A, (grant(f"gpu-0-mig-{made.profile.replace('.', '')}-19-2"),))
    assert (device.instance, device.made) == (made.uuid, False)
    plant.preparer.unprepare(A)
    assert plant.gpus.instances(gpu) == (made,)


def test_an_instance_of_somebody_else_in_the_place_refuses_the_claim_and_is_left_alone(plant: Plant) -> None:
    gpu = plant.gpus.uuids[0]
    inventory = plant.inventory()
    plant = plant.again()
    plant.node = replace(plant.node, inventory=lambda: inventory)  # as it was published before
    plant.preparer = type(plant.preparer)(plant.node)
    plant.gpus.set_mig(gpu, True)
    plant.gpus.cut(gpu, 19, 3)
    with pytest.raises(
        PrepareError, match=r"MIG instance 1g.10gb of somebody else is in its place .*nvidia-smi mig -dci"
    ):
        plant.preparer.prepare(A, (grant(G3),))
    with pytest.raises(PrepareError, match="is in MIG mode, with instances of somebody else"):
        plant.preparer.prepare(B, (grant("gpu-0"),))
    assert plant.left == {"instances": {"gpu-0": ["1g.10gb@3"]}}


# --- devices that are gone, and come back ---


def test_a_claim_whose_device_is_gone_is_refused_with_what_to_do(plant: Plant) -> None:
    plant.gpus.lose(plant.gpus.uuids[1])
    for device in ("gpu-1", "gpu-7", "gpu-1-mig-3g40gb-9-0"):
        with pytest.raises(PrepareError, match=f"device {device} is not on this node any more; delete the claim"):
            plant.preparer.prepare(A, (grant(device),))
    assert plant.left == {}


def test_a_prepared_claim_whose_gpu_is_lost_is_not_said_to_be_ready(plant: Plant) -> None:
    plant.preparer.prepare(A, (grant("gpu-1"),))
    plant.gpus.lose(plant.gpus.uuids[1])
    with pytest.raises(PrepareError, match="the GPU does not answer; reset the GPU, or reboot the node"):
        plant.preparer.prepare(A, (grant("gpu-1"),))
    plant.preparer.unprepare(A)
    assert plant.left == {}


def test_a_pod_ends_although_its_gpu_is_lost_and_its_instance_goes_when_the_gpu_is_back(plant: Plant) -> None:
    plant.preparer.prepare(A, (grant("gpu-1"), grant(G3)))
    gpu = plant.gpus.uuids[0]
    plant.gpus.lose(gpu)
    plant.preparer.unprepare(A)
    assert [(entry.phase, len(entry.devices)) for entry in plant.entries] == [(Phase.ENDING, 1)]
    plant.preparer.prepare(B, (grant("gpu-1"),))
    plant.gpus.find(gpu)
    with pytest.raises(PrepareError, match="claim team/a, which is being given back"):
        plant.preparer.prepare(claim("c"), (grant(G1), grant(G3)))
    plant.preparer.unprepare(A)
    plant.preparer.unprepare(B)
    assert plant.left == {}


def test_an_instance_that_a_reset_destroyed_is_made_again_for_its_claim(plant: Plant) -> None:
    (first,) = plant.preparer.prepare(A, (grant(G3),))
    plant.gpus.reset(plant.gpus.uuids[0])
    (second,) = plant.preparer.prepare(A, (grant(G3),))
    assert plant.cut == {"gpu-0": ["3g.40gb@0"]}
    assert second.instance not in ("", first.instance)
    assert answer((second,)) == answer((first,))
    plant.preparer.unprepare(A)
    assert plant.left == {}


def test_another_instance_that_came_after_a_reset_is_not_ours_to_destroy(plant: Plant) -> None:
    plant.preparer.prepare(A, (grant(G3),))
    gpu = plant.gpus.uuids[0]
    (place,) = [each.placement for each in plant.gpus.instances(gpu)]
    plant.gpus.reset(gpu)
    plant.gpus.set_mig(gpu, True)
    plant.gpus.create_instance(gpu, 9, place)
    with pytest.raises(PrepareError, match="was destroyed, and one of somebody else is in its place"):
        plant.preparer.prepare(A, (grant(G3),))
    plant.preparer.unprepare(A)
    assert plant.left == {"instances": {"gpu-0": ["3g.40gb@0"]}}


def test_a_file_that_somebody_removed_or_spoilt_is_written_again(plant: Plant) -> None:
    first = plant.preparer.prepare(A, (grant(G3),))
    path = plant.folder / "cdi/k8s.gpu.nvidia.com-claim_uid-a.json"
    whole = path.read_bytes()
    for spoil in (path.unlink, lambda: path.write_bytes(whole[:50]), lambda: path.write_bytes(b"[]")):
        spoil()
        assert plant.preparer.prepare(A, (grant(G3),)) == first
        assert path.read_bytes() == whole


def test_after_a_reboot_what_was_prepared_is_prepared_anew(plant: Plant) -> None:
    first = plant.preparer.prepare(A, (grant(G3), grant("gpu-1", request="mps", settings=MPS)))
    plant.gpus.reboot()
    second = plant.preparer.prepare(A, (grant(G3), grant("gpu-1", request="mps", settings=MPS)))
    assert answer(second) == answer(first)
    assert plant.cut == {"gpu-0": ["3g.40gb@0"]}
    assert {entry.boot for entry in plant.entries} == {plant.gpus.boot_id}


def test_after_a_reboot_nothing_that_came_since_is_destroyed(plant: Plant) -> None:
    plant.preparer.prepare(A, (grant(G3),))
    gpu = plant.gpus.uuids[0]
    (place,) = [each.placement for each in plant.gpus.instances(gpu)]
    plant.gpus.reboot()
    plant.gpus.set_mig(gpu, True)
    plant.gpus.create_instance(gpu, 9, place)
    plant.preparer.unprepare(A)
    assert plant.left == {"instances": {"gpu-0": ["3g.40gb@0"]}}


def test_a_gpu_that_changes_its_minor_number_with_the_mode_is_described_by_the_new_one(tmp_path: Path) -> None:
    plant = Plant(tmp_path / "node", moving_minors=True).begun()
    (device,) = plant.preparer.prepare(A, (grant(G3),))
    assert device.minor == 2
    assert plant.preparer.prepare(A, (grant(G3),)) == (device,)
    document = json.loads((plant.folder / "cdi/k8s.gpu.nvidia.com-claim_uid-a.json").read_bytes())
    assert document["devices"][0]["containerEdits"]["deviceNodes"][0]["path"] == "/dev/nvidia2"


# --- errors ---

CALLS = [
    ("gpus", Failure.UNKNOWN),
    ("instances", Failure.UNKNOWN),
    ("set_mig", Failure.IN_USE),
    ("create_instance", Failure.INSUFFICIENT_RESOURCES),
    ("create_compute_instance", Failure.UNKNOWN),
    ("destroy_instance", Failure.IN_USE),
    ("destroy_gpu_instance", Failure.UNKNOWN),
    ("set_compute_mode", Failure.NO_PERMISSION),
    ("processes", Failure.TIMEOUT),
]


class Nth:
    """Counts the calls of a fake's method, and lets the n-th fail."""

    def __init__(self, plant: Plant, fail: int = 0) -> None:
        self.calls: list[str] = []
        inner = plant.gpus._call

        def counted(call: str, about: str = "") -> object:
            if call in dict(CALLS):
                self.calls.append(call)
                if len(self.calls) == fail:
                    plant.gpus.refuse(call, dict(CALLS)[call])
            return inner(call, about)

        plant.gpus._call = counted  # type: ignore[method-assign, assignment]


def all_kinds() -> tuple[Grant, ...]:
    return (grant(G3), grant(G1), grant("gpu-1", request="mps", settings=MPS))


def test_whichever_call_of_nvml_fails_while_preparing_nothing_is_left_and_the_next_call_succeeds(
    tmp_path: Path,
) -> None:
    dry = Plant(tmp_path / "dry").begun()
    count = Nth(dry)
    want = answer(dry.preparer.prepare(A, all_kinds()))
    assert {"set_mig", "create_compute_instance", "set_compute_mode"} <= set(count.calls)
    for fail in range(1, len(count.calls) + 1):
        plant = Plant(tmp_path / str(fail)).begun()
        Nth(plant, fail)
        with pytest.raises(PrepareError, match="Claim team/a: not prepared: ") as refused:
            plant.preparer.prepare(A, all_kinds())
        assert ";" in str(refused.value), "a cure"
        assert plant.left == {}, (fail, count.calls[fail - 1])
        assert answer(plant.preparer.prepare(A, all_kinds())) == want


def test_whichever_call_of_nvml_fails_while_giving_back_the_next_call_succeeds(tmp_path: Path) -> None:
    dry = Plant(tmp_path / "dry").begun()
    dry.preparer.prepare(A, all_kinds())
    count = Nth(dry)
    dry.preparer.unprepare(A)
    for fail in range(1, len(count.calls) + 1):
        plant = Plant(tmp_path / str(fail)).begun()
        plant.preparer.prepare(A, all_kinds())
        Nth(plant, fail)
        if count.calls[fail - 1] == "set_mig":  # Refused for somebody who looks on: that keeps no pod from ending.
            plant.preparer.unprepare(A)
            plant.gpus.set_mig(plant.gpus.uuids[0], False)
        else:
            with pytest.raises(PrepareError, match="Claim team/a: not given back: "):
                plant.preparer.unprepare(A)
            plant.again().preparer.unprepare(A)
        assert plant.left == {}, (fail, count.calls[fail - 1])


@pytest.mark.parametrize(("step", "error"), [("write", errno.ENOSPC), ("create", errno.EROFS), ("sync", errno.EIO)])
def test_a_disk_that_refuses_refuses_the_claim_before_anything_is_done(plant: Plant, step: str, error: int) -> None:
    broken = plant.again(disk=Refuses(step, error))
    with pytest.raises(PrepareError, match=r"Claim team/a: not prepared: File .*checkpoint\.json: cannot be written"):
        broken.preparer.prepare(A, (grant(G3),))
    assert plant.left == {}


class ReadOnly(Disk):
    """One folder of it cannot be written."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def change(self, step, path, act):  # type: ignore[no-untyped-def]
        if self.folder in path.parts:
            raise OSError(errno.EROFS, "Read-only file system")
        return super().change(step, path, act)


def test_a_cdi_folder_that_cannot_be_written_refuses_the_claim_and_leaves_nothing(plant: Plant) -> None:
    broken = plant.again(disk=ReadOnly("cdi"))
    with pytest.raises(PrepareError, match=r"cdi.* Read-only file system; mount it writable"):
        broken.preparer.prepare(A, (grant(G3), grant(G1)))
    assert plant.cut == {}
    plant.preparer.prepare(A, (grant(G3), grant(G1)))
    with pytest.raises(PrepareError, match="Read-only file system"):
        broken.preparer.unprepare(A)
    assert plant.cut == {"gpu-0": ["3g.40gb@0", "1g.10gb@4"]}, "while its file stands a container may start with it"
    plant.preparer.unprepare(A)
    assert plant.left == {}


def test_a_lost_checkpoint_stops_all_until_it_is_rebuilt(plant: Plant) -> None:
    plant.preparer.prepare(A, (grant("gpu-0"),))
    plant.checkpoint.path.write_bytes(b"{")
    for act in (lambda: plant.preparer.prepare(B, (grant("gpu-0"),)), lambda: plant.preparer.unprepare(A)):
        with pytest.raises(PrepareError, match="the checkpoint is missing or damaged, and is being rebuilt"):
            act()


@pytest.mark.parametrize("uid", ["", "../../etc/passwd", "a/b", "x" * 64, "a\n"])
def test_a_uid_that_could_be_a_path_is_refused(plant: Plant, uid: str) -> None:
    with pytest.raises(PrepareError, match="is none"):
        plant.preparer.prepare(replace(A, uid=uid), (grant("gpu-0"),))


def test_a_claim_without_devices_of_ours_is_refused(plant: Plant) -> None:
    with pytest.raises(PrepareError, match="nothing of this driver is allocated to it"):
        plant.preparer.prepare(A, ())


def test_an_ampere_board_out_of_mig_mode_is_not_cut(tmp_path: Path) -> None:
    plant = Plant(tmp_path / "node", machine="a100x1").begun()
    gpu = plant.gpus.uuids[0]
    plant.gpus.set_mig(gpu, True)
    plant.gpus.reset(gpu)
    offered = plant.inventory()
    plant.gpus.set_mig(gpu, False)
    plant.gpus.reset(gpu)
    plant.node = replace(plant.node, inventory=lambda: offered)
    name = next(device.name for device in offered.devices)
    with pytest.raises(PrepareError, match="goes there by a reset only"):
        type(plant.preparer)(plant.node).prepare(A, (grant(name),))


class Fills(Disk):
    """Becomes full at a step: from there on nothing can be made or written, though still removed."""

    def __init__(self, full_from: int = 1 << 30) -> None:
        self.full_from = full_from
        self.steps = self.refused = 0

    def change(self, step: str, path: Path, act: Callable[[], T]) -> T:
        self.steps += 1
        if self.steps >= self.full_from and step in ("create", "write", "folder", "link"):
            self.refused += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().change(step, path, act)


def test_wherever_the_disk_becomes_full_nothing_is_lost_and_it_goes_on_when_there_is_room(tmp_path: Path) -> None:
    count = Fills()
    dry = Plant(tmp_path / "dry").begun().again(disk=count)
    want = answer(dry.preparer.prepare(A, all_kinds()))
    dry.preparer.unprepare(A)
    refusals = []
    for full_from in range(1, count.steps + 1):
        plant, disk = Plant(tmp_path / str(full_from)).begun(), Fills(full_from)
        full = plant.again(disk=disk)
        for act in (
            lambda full=full: full.preparer.prepare(A, all_kinds()),
            lambda full=full: full.preparer.unprepare(A),
        ):
            before = disk.refused
            try:
                act()
            except PrepareError as error:
                refusals.append(str(error))
            else:
                assert disk.refused == before, full_from
        assert answer(plant.again().preparer.prepare(A, all_kinds())) == want, full_from
        plant.again().preparer.unprepare(A)
        assert plant.left == {}, full_from
    assert len(refusals) > 50
    assert all("No space left on device; free space on that file system" in refusal for refusal in refusals)
