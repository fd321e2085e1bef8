"""The plugin is killed (SIGKILL) before every single change of the disk and after every single one of the hardware.

Each point is a run of its own: a child process on a node that outlives it prepares or gives back, and dies just there.
Then another plugin starts, and the kubelet asks again. The points are counted in a run that nobody kills.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pytest

from dra_driver.devices import ClaimRef, Grant
from dra_driver.disk import Disk
from tests.node.plants import EXCLUSIVE, GIB, MPS, Plant, answer, claim, grant
from tests.node.test_recovery import Server, recover

T = TypeVar("T")
A, BYSTANDER = claim("a"), claim("bystander")
G3, G1 = "gpu-0-mig-3g40gb-9-0", "gpu-0-mig-1g10gb-19-4"


@dataclass(frozen=True)
class Case:
    """What a claim is given, and what somebody else has meanwhile."""

    given: tuple[Grant, ...]
    beside: tuple[Grant, ...] = (grant("gpu-1", settings=EXCLUSIVE),)
    shares: bool = False


CASES = {
    "whole GPU": Case((grant("gpu-0"),)),
    "MIG": Case((grant(G3),)),
    "MIG beside MIG": Case((grant(G3),), beside=(grant(G1),)),
    "two MIG of one claim": Case((grant(G3), grant(G1))),
    "MPS": Case((grant("gpu-0", settings=MPS),)),
    "MPS on MIG": Case((grant(G3, settings=MPS),)),
    "share beside a share": Case(
        (grant("gpu-0", share_id="x", memory_bytes=20 * GIB),),
        beside=(grant("gpu-0", share_id="y", memory_bytes=10 * GIB),),
        shares=True,
    ),
    "exclusive and MIG": Case((grant("gpu-0", settings=EXCLUSIVE), grant("gpu-1-mig-1g10gb-19-6")), beside=()),
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where that can be: what a process leaves that is killed does not hang on the disk below."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


class Points:
    """Counts all points of a run; at number `last` (from 1) the process is killed. `torn`: in the middle of a write."""

    def __init__(self, last: int = 0) -> None:
        self.last = last
        self.names: list[str] = []

    def reach(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


class Watched(Disk):
    """Its steps are points, and so is the middle of each write."""

    def __init__(self, points: Points) -> None:
        self.points = points

    def change(self, step: str, path: Path, act: Callable[[], T]) -> T:
        self.points.reach(f"before {step} {path.name}")
        done = super().change(step, path, act)
        if step == "write":
            written = path.read_bytes()
            path.write_bytes(written[: len(written) // 2])
            self.points.reach(f"within {step} {path.name}")
            path.write_bytes(written)
        return done


def watched(plant: Plant, points: Points) -> Plant:
    return plant.again(disk=Watched(points), step=lambda name: points.reach(f"after {name}"))


def killed(plant: Plant, last: int, act: Callable[[Plant], object]) -> None:
    """Do it in a child that is killed at its point number `last`."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act(watched(plant, Points(last)))
        finally:
            os._exit(code)  # not reached: the point comes before
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"point {last} did not come: {status}"
    assert os.WTERMSIG(status) == signal.SIGKILL


class Nodes:
    """Copies of one node, each for one run."""

    def __init__(self, plant: Plant, folder: Path) -> None:
        self._plant, self._folder, self._count = plant, folder, 0

    def one(self) -> Plant:
        self._count += 1
        copy = self._folder / str(self._count)
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._plant.folder, copy, symlinks=True)
        return self._plant.again(folder=copy)

    def each(self, act: Callable[[Plant], object]) -> Iterator[tuple[Plant, str]]:
        """A node for each point of `act`, on which it was killed there, and the point's name. Its files go after."""
        points = Points()
        act(watched(self.one(), points))
        for last in range(1, len(points.names) + 1):
            plant = self.one()
            killed(plant, last, act)
            yield plant, f"{last}: {points.names[last - 1]}"
            shutil.rmtree(plant.folder)


def node(folder: Path, case: Case) -> tuple[Plant, Server]:
    """Somebody else's claim is prepared on it."""
    plant, server = Plant(folder / "node", shares=case.shares), Server()
    recover(plant, server)
    if case.beside:
        server.put(BYSTANDER, *case.beside)
        plant.preparer.prepare(BYSTANDER, case.beside)
    server.put(A, *case.given)
    return plant, server


def without_instances(left: dict[str, object]) -> dict[str, object]:
    """What is there, but for the names of instances, which never come twice, and what bears them."""
    return {name: there for name, there in left.items() if name not in ("daemons", "files")} | {
        name: len(left.get(name, ()))
        for name in ("daemons", "files")  # type: ignore[arg-type]
    }


def prepare(claim: ClaimRef, case: Case) -> Callable[[Plant], object]:
    return lambda plant: plant.preparer.prepare(claim, case.given)


def unprepare(plant: Plant) -> None:
    plant.preparer.unprepare(A)


def bystander(plant: Plant, case: Case) -> list[object]:
    """All of what somebody else has, to the instance."""
    return [plant.preparer.prepare(BYSTANDER, case.beside)] if case.beside else []


@pytest.mark.parametrize("name", CASES)
def test_killed_while_preparing_the_next_answer_is_the_same_and_nothing_leaks(folder: Path, name: str) -> None:
    case = CASES[name]
    plant, server = node(folder, case)
    before, theirs = plant.left, bystander(plant, case)
    nodes = Nodes(plant, folder / "runs")
    whole = nodes.one()
    want = answer(whole.preparer.prepare(A, case.given))
    after = without_instances(whole.left)
    names = []
    for found, point in nodes.each(prepare(A, case)):
        names.append(point)
        never_asked_again = Nodes(found, folder / "others").one()
        recover(found, server)
        assert bystander(found.again(), case) == theirs, point
        for _ in range(2):
            assert answer(found.again().preparer.prepare(A, case.given)) == want, point
            assert without_instances(found.left) == after, point
        for _ in range(2):
            found.again().preparer.unprepare(A)
            assert found.left == before, point
        for _ in range(2):
            recover(never_asked_again, server)
            assert never_asked_again.left == before or without_instances(never_asked_again.left) == after, point
            never_asked_again.again().preparer.unprepare(A)
            assert never_asked_again.left == before, point
        never_asked_again.again().preparer.prepare(A, case.given)
        never_asked_again.again().preparer.unprepare(A)
        assert never_asked_again.left == before, point
    assert names[0] == "1: before create .checkpoint.json.part", "STARTED is on disk before anything is done"
    assert names[-1].endswith("before sync folder plugin"), "and DONE after all of it"
    assert any("within write .k8s.gpu.nvidia.com-claim_uid-a.json.part" in point for point in names)


@pytest.mark.parametrize("name", CASES)
def test_killed_while_giving_back_it_is_given_back_or_prepared_again_as_the_kubelet_asks(
    folder: Path, name: str
) -> None:
    case = CASES[name]
    plant, server = node(folder, case)
    before, theirs = plant.left, bystander(plant, case)
    want = answer(plant.preparer.prepare(A, case.given))
    after = without_instances(plant.left)
    noted, names = False, []
    for found, point in Nodes(plant, folder / "runs").each(unprepare):
        names.append(point)
        comes_instead = Nodes(found, folder / "others").one()
        recover(found, server)
        # From the moment that ENDING is on disk it goes on by itself.
        noted = noted or "sync folder plugin" in point
        assert (found.left == before) is noted, point
        assert bystander(found.again(), case) == theirs, point
        for _ in range(2):
            found.again().preparer.unprepare(A)
            assert found.left == before, point
        assert answer(found.again().preparer.prepare(A, case.given)) == want, point
        assert without_instances(found.left) == after, point
        recover(comes_instead, server)
        for _ in range(2):
            assert answer(comes_instead.again().preparer.prepare(A, case.given)) == want, point
        assert without_instances(comes_instead.left) == after, point
    assert names[0] == "1: before create .checkpoint.json.part", "ENDING is on disk before anything is undone"


def test_killed_again_in_the_recovery_from_any_point_the_next_recovery_ends_it(folder: Path) -> None:
    case = CASES["two MIG of one claim"]
    plant, server = node(folder, case)
    before = plant.left
    want = answer(Nodes(plant, folder / "dry").one().preparer.prepare(A, case.given))
    for outer, point in Nodes(plant, folder / "runs").each(prepare(A, case)):
        if "within" in point or "sync" in point:
            continue
        nodes = Nodes(outer, folder / "inner")
        for found, second in nodes.each(lambda plant: recover(plant, server)):
            recover(found, server)
            assert answer(found.again().preparer.prepare(A, case.given)) == want, (point, second)
            found.again().preparer.unprepare(A)
            assert found.left == before, (point, second)


@pytest.mark.parametrize("loss", ["current", "both", "reboot"])
def test_killed_while_a_loss_or_a_reboot_is_put_right_it_is_put_right_by_the_next(folder: Path, loss: str) -> None:
    case = CASES["exclusive and MIG"]
    case = replace(case, beside=())
    plant, server = node(folder, case)
    want = answer(plant.preparer.prepare(A, case.given))
    after = without_instances(plant.left)
    if loss == "reboot":
        plant.gpus.reboot()
    else:
        plant.checkpoint.path.write_bytes(b"{")
    if loss == "both":
        plant.checkpoint.path.with_name("checkpoint.json.previous").unlink()
    for found, point in Nodes(plant, folder / "runs").each(lambda plant: recover(plant, server)):
        recover(found, server)
        assert answer(found.again().preparer.prepare(A, case.given)) == want, point
        assert without_instances(found.left) == after, point
        found.again().preparer.unprepare(A)
        assert found.left == {}, point
