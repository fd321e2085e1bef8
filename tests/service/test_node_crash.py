"""The node plugin is killed (SIGKILL) before every step on the disk and after every change of the hardware, as a
process that a kubelet calls over its sockets.

Each point is a run of its own. The points are counted in a run that nobody kills. After each the kubelet's client finds
the next process, knows it, asks for its health, and asks again, all of it twice.
"""

import asyncio
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from dra_driver.checkpoint import Checkpoint
from dra_driver.commands import MPS_CONTROL
from dra_driver.devices import ClaimRef
from dra_driver.disk import Disk
from dra_driver.fake import FakeGpus
from dra_driver.proto import health_v1_pb2
from scheduler.api import kinds
from tests.node.kubelet import Driver, FakeKubelet, Handed
from tests.service.conftest import PATIENCE_SECONDS, Cluster, Document
from tests.service.test_node_plugin import claim, exactly
from tests.service.test_node_plugin import node as node

pytestmark = [pytest.mark.slow, pytest.mark.embedded]

MACHINE = "h100x2"
ROOT = Path(__file__).parents[2]
RESULTS: Mapping[str, Document] = {
    "mig": {"device": "gpu-0-mig-3g40gb-9-0"},
    "share": {
        "device": "gpu-1",
        "shareID": "5b1a4f0e-6a0c-4f0c-9d55-0f4a4f2f6a11",
        "consumedCapacity": {"memory": "10Gi"},
    },
}
"""What the two claims are given: an instance that is made for it, and a part of a GPU's memory, by MPS."""
BESIDE = {"mig": "share", "share": "mig"}


class Warm:
    """The parent of all processes of the plugin (tests.node.warm). One at a time."""

    def __init__(self, parent: asyncio.subprocess.Process) -> None:
        self._parent = parent
        self._pid = 0

    async def start(self, flags: Document, points: Path) -> None:
        """Until it serves."""
        assert self._parent.stdin is not None
        self._parent.stdin.write(json.dumps({"flags": flags, "points": str(points)}).encode() + b"\n")
        word, _, pid = (await self._said()).partition(" ")
        assert word == "pid"
        self._pid = int(pid)
        assert await self._said() == "ready"

    async def ended(self) -> int:
        """Until it has ended; its exit code."""
        word, _, code = (await self._said()).partition(" ")
        assert word == "ended"
        self._pid = 0
        return int(code)

    async def stop(self) -> int:
        """As the kubelet ends a pod."""
        os.kill(self._pid, signal.SIGTERM)
        return await self.ended()

    async def close(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
        assert self._parent.stdin is not None
        self._parent.stdin.close()
        await self._parent.wait()

    async def _said(self) -> str:
        assert self._parent.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            return (await self._parent.stdout.readline()).decode().strip()


@dataclass(frozen=True)
class Here:
    """One node, whatever process of the plugin serves it. `folder`: the kubelet's."""

    folder: Path
    flags: Document
    warm: Warm

    @property
    def data(self) -> Path:
        return self.folder / "plugins" / "gpu.nvidia.com"

    @property
    def points(self) -> Path:
        return self.folder / "points"

    async def start(self) -> Driver:
        """The next process, as the kubelet knows it: found, registered and asked for its health, each twice."""
        await self.warm.start(self.flags, self.points)
        kubelet = FakeKubelet(self.folder)
        assert await kubelet.register() is not None
        driver = await kubelet.register()
        for _ in range(2):
            async with driver.health() as lists:
                devices = await anext(lists)
            assert devices
            assert {each.health for each in devices} == {health_v1_pb2.HEALTHY}
        return driver

    async def counted(self, call: Awaitable[object]) -> list[str]:
        """The points of a call that nobody kills."""
        self._arm(0)
        await call
        return self._reached()

    async def killed(self, last: int, call: Awaitable[object]) -> list[str]:
        """The points up to number `last`, at which the process is killed; nobody answers the call."""
        self._arm(last)
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        assert await self.warm.ended() == -signal.SIGKILL
        return self._reached()

    def _arm(self, last: int) -> None:
        self.points.mkdir(exist_ok=True)
        (self.points / "reached").write_text("")
        (self.points / "last").write_text(str(last))

    def _reached(self) -> list[str]:
        (self.points / "last").unlink()
        return (self.points / "reached").read_text().splitlines()

    def specification(self, claim: ClaimRef) -> str:
        """The claim's CDI file; "" for none."""
        return next((path.read_text() for path in (self.folder / "cdi").glob(f"*{claim.uid}.json")), "")

    def daemons(self) -> tuple[int, ...]:
        """Processes of MPS daemons of this node."""
        return tuple(sorted(pid for pid in map(_number, Path("/proc").iterdir()) if pid and self._is_daemon(pid)))

    def _is_daemon(self, pid: int) -> bool:
        process = Path("/proc") / str(pid)
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            started = f"CUDA_MPS_PIPE_DIRECTORY={self.data}".encode()
            return (
                any(word.endswith(MPS_CONTROL.encode()) for word in words)
                and b"--serve" in words
                and any(each.startswith(started) for each in (process / "environ").read_bytes().split(b"\0"))
            )
        except OSError:
            return False

    def left(self) -> dict[str, Any]:
        """All that is on the node: entries, CDI files, instances, modes, daemons, files. An instance's UUID, which
        never comes twice, is left out."""
        gpus = FakeGpus(MACHINE, node=self.flags["node_name"], state=self.data / "fake-machine.json").gpus()
        folders = (self.data / "mps", self.data / "sharing", self.folder / "cdi")
        files = [path for folder in folders for path in folder.rglob("*") if not path.is_dir()]
        entries = Checkpoint(self.data, Disk()).load()
        assert not entries.problems
        return {
            "entries": {entry.claim.uid: entry.phase for entry in entries.entries},
            "specifications": {path.name: _nameless(path.read_text()) for path in (self.folder / "cdi").glob("*.json")},
            "instances": [
                (each.gpu, each.profile, each.placement, bool(each.uuid))
                for gpu in gpus
                if gpu.mig
                for each in gpu.mig.instances
            ],
            "modes": [(gpu.mig and gpu.mig.on, gpu.compute_mode) for gpu in gpus],
            "daemons": len(self.daemons()),
            "files": sorted(str(path.relative_to(self.folder)) for path in files),
            "unfinished": sorted(path.name for path in self.data.glob(".*.part")),
        }


def _number(path: Path) -> int:
    return int(path.name) if path.name.isdecimal() else 0


def _nameless(specification: str) -> str:
    return re.sub(r"MIG-[0-9a-f-]{36}", "MIG", specification)


@pytest.fixture
def folder() -> Iterator[Path]:
    """The kubelet's, short enough for sockets. In memory where that can be: a process that is killed does not hang on
    the disk below."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"
    with tempfile.TemporaryDirectory(prefix="kubelet-", dir=place) as name:
        yield Path(name)


@pytest.fixture
async def here(cluster: Cluster, node: str, folder: Path) -> AsyncIterator[Here]:
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.node.warm",
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    flags = {
        "kubeconfig": str(cluster.kubeconfig),
        "node_name": node,
        "fake": MACHINE,
        "kubelet_dir": str(folder),
        "cdi_dir": str(folder / "cdi"),
        "dynamic_mig": True,
        "shared_gpus": "1",
        "prepare_seconds": 0,
        "log_level": "error",
        "log_format": "text",
    }
    found = Here(folder, flags, Warm(parent))
    yield found
    await found.warm.close()
    for pid in found.daemons():
        os.kill(pid, signal.SIGKILL)


async def given(cluster: Cluster, node: str, name: str) -> ClaimRef:
    """A claim that has its device, and a pod that it is reserved for."""
    await claim(cluster, name, exactly("gpus", "gpu.nvidia.com"))
    document = await cluster.client.get(kinds.RESOURCE_CLAIM, "default", name)
    user = await cluster.client.get(kinds.POD, "default", name)
    result = {"request": "gpus", "driver": "gpu.nvidia.com", "pool": node, **RESULTS[name]}
    document["status"] = {
        "allocation": {"devices": {"results": [result]}},
        "reservedFor": [{"resource": "pods", "name": name, "uid": user["metadata"]["uid"]}],
    }
    done = await cluster.client.replace(kinds.RESOURCE_CLAIM, "default", name, document, subresource="status")
    return ClaimRef(namespace="default", name=name, uid=done["metadata"]["uid"])


@dataclass(frozen=True)
class Begun:
    """Somebody else's claim is prepared (`before`); with ours, it is `after`, and the kubelet is answered `want`."""

    driver: Driver
    ours: ClaimRef
    theirs: ClaimRef
    answered: tuple[Handed, ...]
    want: tuple[Handed, ...]
    before: dict[str, Any]
    after: dict[str, Any]


async def begun(cluster: Cluster, node: str, here: Here, name: str) -> Begun:
    driver = await here.start()  # On a node without a checkpoint it would prepare all claims that are there.
    ours, theirs = await given(cluster, node, name), await given(cluster, node, BESIDE[name])
    answered, before = await driver.devices(theirs), here.left()
    want, after = await driver.devices(ours), here.left()
    assert before != after
    await driver.give_back(ours)
    assert here.left() == before
    return Begun(driver, ours, theirs, answered, want, before, after)


def kept(here: Here, begun: Begun) -> tuple[object, ...]:
    """All of what somebody else has, to the instance and to the process."""
    return here.specification(begun.theirs), here.daemons() if begun.theirs.name == "share" else ()


@pytest.mark.parametrize("name", RESULTS)
async def test_killed_anywhere_while_preparing_the_next_process_answers_the_same_and_nothing_leaks(
    cluster: Cluster, node: str, here: Here, name: str
):
    all_ = await begun(cluster, node, here, name)
    driver, theirs = all_.driver, kept(here, all_)
    points = await here.counted(driver.devices(all_.ours))
    assert here.left() == all_.after
    await driver.give_back(all_.ours)
    assert points[0] == "before create .checkpoint.json.part"
    assert points[-1] == "before sync folder gpu.nvidia.com"
    for last in range(1, len(points) + 1):
        assert await here.killed(last, driver.devices(all_.ours)) == points[:last]
        driver = await here.start()
        assert kept(here, all_) == theirs, points[last - 1]
        for _ in range(2):
            assert await driver.devices(all_.ours) == all_.want, points[last - 1]
            assert here.left() == all_.after, points[last - 1]
            assert await driver.devices(all_.theirs) == all_.answered, points[last - 1]
        for _ in range(2):
            await driver.give_back(all_.ours)
            assert here.left() == all_.before, points[last - 1]
        assert kept(here, all_) == theirs, points[last - 1]
    await driver.give_back(all_.theirs)
    assert (here.daemons(), here.left()["entries"], here.left()["files"]) == ((), {}, [])
    assert await here.warm.stop() == 0


@pytest.mark.parametrize("name", RESULTS)
async def test_killed_anywhere_while_giving_back_the_next_process_gives_it_back_and_nothing_leaks(
    cluster: Cluster, node: str, here: Here, name: str
):
    all_ = await begun(cluster, node, here, name)
    driver, theirs = all_.driver, kept(here, all_)
    await driver.devices(all_.ours)
    points = await here.counted(driver.give_back(all_.ours))
    assert here.left() == all_.before
    await driver.devices(all_.ours)
    assert points[0] == "before create .checkpoint.json.part"
    assert points[-1] == "before sync folder gpu.nvidia.com"
    for last in range(1, len(points) + 1):
        assert await here.killed(last, driver.give_back(all_.ours)) == points[:last]
        driver = await here.start()
        assert kept(here, all_) == theirs, points[last - 1]
        for _ in range(2):
            await driver.give_back(all_.ours)
            assert here.left() == all_.before, points[last - 1]
            assert await driver.devices(all_.theirs) == all_.answered, points[last - 1]
        for _ in range(2):
            assert await driver.devices(all_.ours) == all_.want, points[last - 1]
            assert here.left() == all_.after, points[last - 1]
        assert kept(here, all_) == theirs, points[last - 1]
    for each in (all_.ours, all_.theirs):
        await driver.give_back(each)
    assert (here.daemons(), here.left()["entries"], here.left()["files"]) == ((), {}, [])
    assert await here.warm.stop() == 0
