"""After an end, a loss or a reboot: what is right stays, halves and garbage go, an operator's is left alone."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from dra_driver import grants
from dra_driver.checkpoint import CheckpointTooNew, encoded
from dra_driver.devices import ClaimRef, Entry, Grant, Phase
from dra_driver.facts import ComputeMode, Failure
from dra_driver.prepare import PrepareError
from dra_driver.recovery import Api, Recovery, Report
from scheduler.kube.client import ApiError
from tests.node.plants import EXCLUSIVE, GIB, MPS, Plant, answer, claim, grant

T = TypeVar("T")
A, B, C = claim("a"), claim("b"), claim("c")
G3, G1 = "gpu-0-mig-3g40gb-9-0", "gpu-0-mig-1g10gb-19-4"


@dataclass
class Server:
    """The claims of a cluster. `meanwhile` is done once, while it is being asked."""

    documents: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    down: bool = False
    meanwhile: Callable[[], object] = lambda: None
    asked: list[str] = field(default_factory=list)

    def put(self, claim: ClaimRef, *given: Grant, reserved: bool = True) -> None:
        results = [
            {
                "request": each.requests[0],
                "driver": "gpu.nvidia.com",
                "pool": each.pool,
                "device": each.device,
                **({"shareID": each.share_id} if each.share_id else {}),
                **({"consumedCapacity": {"memory": str(each.memory_bytes)}} if each.memory_bytes else {}),
                **({"adminAccess": True} if each.admin else {}),
            }
            for each in given
        ]
        self.documents[claim.namespace, claim.name] = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"namespace": claim.namespace, "name": claim.name, "uid": claim.uid},
            "spec": {},
            "status": {
                **({"allocation": {"devices": {"results": results}}} if results else {}),
                **({"reservedFor": [{"resource": "pods", "name": "pod", "uid": "u"}]} if reserved else {}),
            },
        }

    def gone(self, claim: ClaimRef) -> None:
        del self.documents[claim.namespace, claim.name]

    async def fetch(self, namespace: str, name: str) -> dict[str, Any]:
        self._reached(f"{namespace}/{name}")
        if (namespace, name) not in self.documents:
            raise ApiError(request="GET", status=404, reason="NotFound", message="no such claim")
        return self.documents[namespace, name]

    async def every(self) -> list[dict[str, Any]]:
        self._reached("all")
        return list(self.documents.values())

    def _reached(self, what: str) -> None:
        self.asked.append(what)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        if self.down:
            raise ApiError(request="GET", status=0, reason="Unreachable", message="down")


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path / "node").begun()


@pytest.fixture
def server() -> Server:
    return Server()


def recover(plant: Plant, server: Server, *, first: bool = True) -> Report:
    """Another plugin starts, or looks once more."""
    later = plant.again()
    api = Api(
        fetch=server.fetch,
        every=server.every,
        grants=lambda document: grants.grants(document, "gpu.nvidia.com", "node-1"),
    )

    async def alone(do: Callable[[], T], /) -> T:
        return do()

    async def run() -> Report:
        return await Recovery(later.node, later.preparer).run(api, alone, first=first)

    return asyncio.run(run())


def prepared(plant: Plant, server: Server, claim: ClaimRef, *given: Grant) -> list[tuple[object, ...]]:
    server.put(claim, *given)
    return answer(plant.preparer.prepare(claim, given))


def half(plant: Plant, claim: ClaimRef, *given: Grant, phase: Phase) -> Entry:
    """A claim as an end in the middle has left it, all of its hardware made."""
    plant.preparer.prepare(claim, given)
    (entry,) = [each for each in plant.entries if each.claim == claim]
    left = replace(entry, phase=phase)
    if phase is Phase.STARTED:
        left = replace(left, devices=tuple(replace(device, instance="") for device in entry.devices))
    plant.checkpoint.save([*(each for each in plant.entries if each.claim != claim), left])
    return left


def test_a_first_start_finds_nothing_and_leaves_a_checkpoint(tmp_path: Path, server: Server) -> None:
    plant = Plant(tmp_path / "node")
    with pytest.raises(PrepareError):
        plant.preparer.prepare(A, (grant("gpu-0"),))
    assert recover(plant, server) == Report()
    plant.preparer.prepare(A, (grant("gpu-0"),))


def test_a_start_without_trouble_changes_and_reports_nothing(plant: Plant, server: Server) -> None:
    prepared(plant, server, A, grant(G3), grant(G1))
    prepared(plant, server, B, grant("gpu-1", settings=MPS))
    before = plant.entries, plant.left
    assert recover(plant, server) == Report()
    assert recover(plant, server, first=False) == Report()
    assert (plant.entries, plant.left) == before
    assert server.asked == ["team/a", "team/b"] * 2, "nobody lists the cluster's claims for this"


@pytest.mark.parametrize("phase", [Phase.STARTED, Phase.ENDING])
def test_halves_are_undone_whether_or_not_the_api_server_answers(plant: Plant, server: Server, phase: Phase) -> None:
    half(plant, A, grant(G3), grant(G1), phase=phase)
    half(plant, B, grant("gpu-1", settings=EXCLUSIVE), phase=phase)
    server.down = True
    report = recover(plant, server)
    assert plant.left == {}
    assert (len(report.done), report.failed) == (2, [])


def test_what_is_in_use_still_is_reported_and_undone_later(plant: Plant, server: Server) -> None:
    half(plant, A, grant(G3), phase=Phase.ENDING)
    (instance,) = plant.gpus.instances(plant.gpus.uuids[0])
    plant.gpus.use(instance.uuid, pid=99)
    half(plant, B, grant("gpu-1"), phase=Phase.ENDING)
    report = recover(plant, server)
    assert "in use by process 99" in report.failed[0]
    assert [entry.claim for entry in plant.entries] == [A]
    plant.gpus.leave(99)
    recover(plant, server, first=False)
    assert plant.left == {}


def test_an_instance_that_was_left_on_a_lost_gpu_goes_when_the_gpu_is_back(plant: Plant, server: Server) -> None:
    prepared(plant, server, A, grant(G3))
    plant.gpus.lose(plant.gpus.uuids[0])
    plant.preparer.unprepare(A)
    assert recover(plant, server, first=False) == Report(), "it waits"
    plant.gpus.find(plant.gpus.uuids[0])
    assert recover(plant, server, first=False).done == ["Claim team/a: given back."]
    assert plant.left == {}


# --- claims that are gone ---


def test_a_claim_that_was_deleted_by_force_is_given_back(plant: Plant, server: Server) -> None:
    prepared(plant, server, A, grant(G3))
    prepared(plant, server, B, grant(G1))
    server.gone(A)
    assert recover(plant, server, first=False).done == ["Claim team/a: given back: the claim is gone."]
    assert plant.cut == {"gpu-0": ["1g.10gb@4"]}
    assert plant.specs.uids() == ("uid-b",)


def test_a_claim_that_was_made_anew_under_its_name_is_given_back(plant: Plant, server: Server) -> None:
    prepared(plant, server, A, grant("gpu-0"))
    server.put(replace(A, uid="uid-anew"), grant("gpu-0"))
    recover(plant, server, first=False)
    assert plant.left == {}
    plant.preparer.prepare(replace(A, uid="uid-anew"), (grant("gpu-0"),))


@pytest.mark.parametrize("given", [(), (grant("gpu-1"),)], ids=["none", "another"])
def test_a_claim_that_has_lost_its_devices_is_given_back(
    plant: Plant, server: Server, given: tuple[Grant, ...]
) -> None:
    prepared(plant, server, A, grant("gpu-0"))
    server.put(A, *given)
    assert recover(plant, server, first=False).done == [
        "Claim team/a: given back: other devices, or none, are allocated to it."
    ]
    assert plant.left == {}


@pytest.mark.parametrize("rebooted", [False, True], ids=["cut off", "rebooted"])
def test_a_claim_that_went_to_another_node_while_this_one_was_away_is_given_back(
    plant: Plant, server: Server, rebooted: bool
) -> None:
    prepared(plant, server, A, grant(G3))
    if rebooted:
        plant.gpus.reboot()
    server.put(A, replace(grant(G3), pool="node-2"))
    assert recover(plant, server, first=rebooted).done == [
        "Claim team/a: given back: other devices, or none, are allocated to it."
    ]
    assert (plant.entries, plant.left) == ((), {})
    plant.preparer.prepare(B, (grant(G3),))


def test_a_claim_stays_while_it_is_allocated_though_nobody_has_it_reserved(plant: Plant, server: Server) -> None:
    prepared(plant, server, A, grant("gpu-0"))
    server.put(A, grant("gpu-0"), reserved=False)
    assert recover(plant, server, first=False) == Report()
    assert len(plant.entries) == 1


def test_who_cannot_be_asked_for_is_not_taken_for_gone(plant: Plant, server: Server) -> None:
    prepared(plant, server, A, grant("gpu-0"))
    server.gone(A)
    server.down = True
    assert recover(plant, server, first=False) == Report()
    assert len(plant.entries) == 1


def test_a_claim_that_is_prepared_while_the_api_server_is_asked_is_not_taken_for_gone(
    plant: Plant, server: Server
) -> None:
    prepared(plant, server, A, grant("gpu-0"))
    server.gone(A)

    def meanwhile() -> None:
        plant.preparer.unprepare(A)
        plant.preparer.prepare(A, (grant("gpu-1"),))
        plant.preparer.prepare(B, (grant("gpu-0"),))

    server.meanwhile = meanwhile
    recover(plant, server, first=False)
    assert [entry.claim for entry in plant.entries] == [A, B]


def test_a_claim_whose_allocation_cannot_be_read_is_kept(plant: Plant, server: Server) -> None:
    prepared(plant, server, A, grant("gpu-0"))
    server.put(A, grant("mystery"))
    assert recover(plant, server, first=False) == Report()
    assert len(plant.entries) == 1


# --- reboots ---


def test_after_a_reboot_what_is_reserved_is_prepared_anew_and_the_rest_is_dropped(plant: Plant, server: Server) -> None:
    want = prepared(plant, server, A, grant(G3), grant(G1))
    prepared(plant, server, B, grant("gpu-1", settings=MPS))
    server.put(B, grant("gpu-1"), reserved=False)
    half(plant, C, grant("gpu-0-mig-1g10gb-19-5"), phase=Phase.STARTED)
    plant.gpus.reboot()
    report = recover(plant, server)
    assert sorted(report.done)[:2] == [
        "Claim team/a: prepared anew after a reboot.",
        "Claim team/b: given back: nobody has it reserved.",
    ]
    assert plant.cut == {"gpu-0": ["3g.40gb@0", "1g.10gb@4"]}
    assert [(entry.claim, entry.boot) for entry in plant.entries] == [(A, plant.gpus.boot_id)]
    assert answer(plant.again().preparer.prepare(A, (grant(G3), grant(G1)))) == want
    assert recover(plant, server, first=False) == Report()


def test_after_a_reboot_an_operators_instance_in_the_place_of_ours_stays(plant: Plant, server: Server) -> None:
    prepared(plant, server, A, grant(G3))
    gpu = plant.gpus.uuids[0]
    (ours,) = plant.gpus.instances(gpu)
    plant.gpus.reboot()
    plant.gpus.set_mig(gpu, True)
    theirs = plant.gpus.create_instance(gpu, 9, ours.placement)
    recover(plant, server)
    assert plant.gpus.instances(gpu) == (theirs,)
    (device,) = plant.entries[0].devices
    assert (device.instance, device.made) == (theirs.uuid, False)
    server.gone(A)
    recover(plant, server, first=False)
    assert plant.gpus.instances(gpu) == (theirs,)


def test_after_a_reboot_without_the_api_server_nothing_is_forgotten(plant: Plant, server: Server) -> None:
    prepared(plant, server, A, grant(G3))
    plant.gpus.reboot()
    server.down = True
    recover(plant, server)
    assert [entry.claim for entry in plant.entries] == [A]
    server.down = False
    recover(plant, server, first=False)
    assert plant.cut == {"gpu-0": ["3g.40gb@0"]}


# --- losses ---


def lose_checkpoint(plant: Plant, how: str) -> None:
    current, previous = plant.checkpoint.path, plant.checkpoint.path.with_name("checkpoint.json.previous")
    if how in ("cut short", "both cut short"):
        current.write_bytes(current.read_bytes()[:-40])
    if how == "both cut short":
        previous.write_bytes(b"")
    if how in ("removed", "both removed"):
        current.unlink()
    if how == "both removed":
        previous.unlink()


HOW = ["cut short", "both cut short", "removed", "both removed"]


@pytest.mark.parametrize("how", HOW)
def test_a_lost_checkpoint_is_rebuilt_as_it_was(plant: Plant, server: Server, how: str) -> None:
    prepared(plant, server, C, grant("gpu-1", settings=EXCLUSIVE))
    plant.preparer.unprepare(C)
    server.put(C)
    want = prepared(plant, server, A, grant(G3), grant(G1))
    prepared(plant, server, B, grant("gpu-1", settings=MPS))
    before = plant.entries, plant.left
    lose_checkpoint(plant, how)
    report = recover(plant, server)
    assert (plant.entries, plant.left) == before
    assert "Checkpoint: rebuilt with 2 claims, 2 of them from CDI files" in report.done[0]
    assert server.asked == ["all"]
    assert answer(plant.again().preparer.prepare(A, (grant(G3), grant(G1)))) == want
    for each in (A, B):
        plant.preparer.unprepare(each)
    assert plant.left == {}


@pytest.mark.parametrize("how", HOW)
def test_instances_of_a_claim_that_is_gone_are_destroyed_although_the_checkpoint_is_lost(
    plant: Plant, server: Server, how: str
) -> None:
    prepared(plant, server, A, grant(G3))
    prepared(plant, server, B, grant(G1))
    server.gone(A)
    lose_checkpoint(plant, how)
    recover(plant, server)
    assert plant.cut == {"gpu-0": ["1g.10gb@4"]}
    assert [entry.claim for entry in plant.entries] == [B]


@pytest.mark.parametrize("how", HOW)
def test_a_lost_checkpoint_and_no_api_server_gives_nothing_away(plant: Plant, server: Server, how: str) -> None:
    prepared(plant, server, A, grant(G3))
    lose_checkpoint(plant, how)
    server.down = True
    with pytest.raises(ApiError):
        recover(plant, server)
    with pytest.raises(PrepareError, match="is being rebuilt"):
        plant.again().preparer.prepare(B, (grant("gpu-0"),))
    server.down = False
    recover(plant, server)
    assert [entry.claim for entry in plant.entries] == [A]


def test_with_checkpoint_and_files_lost_the_api_server_tells_who_has_what(plant: Plant, server: Server) -> None:
    prepared(plant, server, A, grant("gpu-1"))
    server.put(B, grant("gpu-0"), reserved=False)
    server.put(C, replace(grant("gpu-0"), pool="node-2"))
    lose_checkpoint(plant, "both removed")
    for path in (plant.folder / "cdi").iterdir():
        path.unlink()
    report = recover(plant, server)
    assert report.done == ["Claim team/a: prepared as the API server tells it."]
    with pytest.raises(PrepareError, match="claim team/a holds gpu-1"):
        plant.again().preparer.prepare(B, (grant("gpu-1"),))
    assert plant.specs.uids() == ("uid-a",)


def test_with_all_lost_an_instance_is_an_operators_and_is_given_as_one(plant: Plant, server: Server) -> None:
    prepared(plant, server, A, grant(G3))
    (instance,) = plant.gpus.instances(plant.gpus.uuids[0])
    lose_checkpoint(plant, "both removed")
    for path in (plant.folder / "cdi").iterdir():
        path.unlink()
    recover(plant, server)
    (device,) = plant.entries[0].devices
    assert (device.instance, device.made) == (instance.uuid, False)
    plant.preparer.unprepare(A)
    assert plant.gpus.instances(plant.gpus.uuids[0]) == (instance,)


def test_an_older_generation_does_not_take_what_a_file_says_is_somebody_elses(plant: Plant, server: Server) -> None:
    half(plant, A, grant(G3), phase=Phase.STARTED)
    older = encoded(plant.entries)
    plant.preparer.unprepare(A)
    prepared(plant, server, B, grant(G3))
    plant.checkpoint.path.with_name("checkpoint.json.previous").write_bytes(older)
    plant.checkpoint.path.unlink()
    recover(plant, server)
    assert plant.cut == {"gpu-0": ["3g.40gb@0"]}, "what lies in its place is not what was begun then"
    assert [entry.claim for entry in plant.entries] == [B]


def test_a_claim_that_an_older_generation_knows_is_mended_if_it_is_reserved_and_ended_if_not(
    plant: Plant, server: Server
) -> None:
    want = prepared(plant, server, A, grant(G3))
    prepared(plant, server, B, grant("gpu-1", settings=EXCLUSIVE))
    plant.preparer.prepare(C, (grant(G1),))
    plant.checkpoint.path.write_bytes(b"")
    for path in (plant.folder / "cdi").iterdir():
        path.unlink()
    server.put(B, grant("gpu-1"), reserved=False)
    recover(plant, server)
    assert [entry.claim for entry in plant.entries] == [A]
    assert plant.cut == {"gpu-0": ["3g.40gb@0"]}, "of C that generation says STARTED"
    assert all(gpu.compute_mode is ComputeMode.DEFAULT for gpu in plant.gpus.gpus())
    assert answer(plant.again().preparer.prepare(A, (grant(G3),))) == want


def test_a_newer_checkpoint_is_left_alone(plant: Plant, server: Server) -> None:
    prepared(plant, server, A, grant("gpu-0"))
    text = encoded(())
    content = b'{"entries":[]}'
    newer = text.replace(b'"version":1', b'"version":2').replace(
        hashlib.sha256(b"1:" + content).hexdigest().encode(), hashlib.sha256(b"2:" + content).hexdigest().encode()
    )
    plant.checkpoint.path.write_bytes(newer)
    with pytest.raises(CheckpointTooNew):
        recover(plant, server)
    assert plant.checkpoint.path.read_bytes() == newer
    assert plant.specs.uids() == ("uid-a",)


# --- garbage ---


def test_a_file_without_an_entry_is_adopted_for_a_claim_that_lives_and_undone_for_one_that_does_not(
    plant: Plant, server: Server
) -> None:
    want = prepared(plant, server, A, grant(G3))
    plant.preparer.prepare(B, (grant(G1),))
    plant.checkpoint.save(())
    recover(plant, server, first=False)
    assert plant.cut == {"gpu-0": ["3g.40gb@0"]}
    assert [entry.claim for entry in plant.entries] == [A]
    assert answer(plant.again().preparer.prepare(A, (grant(G3),))) == want


def test_a_file_whose_device_somebody_else_holds_by_now_takes_nothing_from_him(plant: Plant, server: Server) -> None:
    prepared(plant, server, A, grant("gpu-1", settings=EXCLUSIVE))
    plant.checkpoint.save(())
    prepared(plant, server, B, grant("gpu-1", settings=EXCLUSIVE))
    recover(plant, server, first=False)
    assert [entry.claim for entry in plant.entries] == [B]
    assert plant.specs.uids() == ("uid-b",)
    assert plant.gpus.gpus()[1].compute_mode is ComputeMode.EXCLUSIVE_PROCESS


def test_files_that_nobody_knows_go_and_those_of_others_stay(plant: Plant, server: Server) -> None:
    folder = plant.folder / "cdi"
    folder.mkdir()
    others = ["nvidia.yaml", ".other.part", "k8s.gpu.example.com-claim_x.json"]
    for name in (*others, "k8s.gpu.nvidia.com-claim_gone.json", ".k8s.gpu.nvidia.com-claim_half.json.part"):
        (folder / name).write_text("{")
    recover(plant, server)
    assert sorted(path.name for path in folder.iterdir()) == sorted(others)


def test_the_file_that_nvidias_driver_left_goes_once_ours_stands_and_no_earlier(plant: Plant, server: Server) -> None:
    """Both name the same devices, and a runtime that finds a name twice resolves it no more."""
    folder = plant.folder / "cdi"
    folder.mkdir()
    names = {name: folder / f"k8s.gpu.nvidia.com-claim_uid-{name}.yaml" for name in ("a", "b", "c")}
    for path in names.values():
        path.write_text("kind: k8s.gpu.nvidia.com/claim\n")

    prepared(plant, server, A, grant("gpu-0"))
    assert [name for name, path in names.items() if path.exists()] == ["b", "c"]

    # An end between our file and the removal of theirs; and a claim whose file is not written yet.
    names["a"].write_text("kind: k8s.gpu.nvidia.com/claim\n")
    report = recover(plant, server, first=False)
    assert [name for name, path in names.items() if path.exists()] == ["b", "c"]
    assert "Claim team/a: the CDI file of NVIDIA's driver is removed." in report.done
    assert plant.specs.uids() == ("uid-a",)


def test_daemons_of_no_claim_are_ended_and_those_that_died_are_begun(plant: Plant, server: Server) -> None:
    prepared(plant, server, A, grant("gpu-1", settings=MPS))
    running = plant.programs.running
    assert running == (plant.gpus.uuids[1],)
    plant.programs.kill()
    plant.daemons.start(plant.gpus.uuids[0])
    report = recover(plant, server)
    assert plant.programs.running == running
    assert report.done == [f"MPS daemon of {plant.gpus.uuids[0]}"]


def test_what_a_reset_destroyed_is_mended_at_the_start(plant: Plant, server: Server) -> None:
    prepared(plant, server, A, grant(G3))
    plant.gpus.reset(plant.gpus.uuids[0])
    recover(plant, server)
    assert plant.cut == {"gpu-0": ["3g.40gb@0"]}


def test_trouble_with_one_claim_keeps_no_other_from_being_put_right(plant: Plant, server: Server) -> None:
    prepared(plant, server, A, grant("gpu-1"))
    half(plant, B, grant(G3), phase=Phase.STARTED)
    plant.gpus.lose(plant.gpus.uuids[1])
    plant.gpus.refuse("destroy_instance", Failure.UNKNOWN)
    report = recover(plant, server)
    assert len(report.failed) == 2
    plant.gpus.find(plant.gpus.uuids[1])
    assert recover(plant, server).failed == []
    assert plant.cut == {}


def test_shares_of_claims_are_rebuilt_with_their_sizes(tmp_path: Path, server: Server) -> None:
    plant = Plant(tmp_path / "node", shares=True).begun()
    for each, gib in ((A, 40), (B, 30)):
        prepared(plant, server, each, grant("gpu-0", share_id=each.uid, memory_bytes=gib * GIB))
    lose_checkpoint(plant, "both cut short")
    recover(plant, server)
    with pytest.raises(PrepareError, match="does not fit"):
        plant.again().preparer.prepare(C, (grant("gpu-0", share_id="c", memory_bytes=10 * GIB),))
