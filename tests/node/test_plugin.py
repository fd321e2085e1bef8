"""The gRPC faces to the kubelet, over real sockets."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from dra_driver.devices import ClaimRef, Grant, Kind, Prepared
from dra_driver.plugin import DeviceHealth, Plugin
from dra_driver.sockets import LONGEST_BYTES, SocketError, Sockets, answers, clear_left, sockets
from tests.node.kubelet import FakeKubelet, Handed

DRIVER = "gpu.nvidia.com"
UID = "0b6a7f4e-6a1c-4d1f-9a53-2f9c7f1b8f10"


def claim(name: str) -> ClaimRef:
    return ClaimRef(namespace="default", name=name, uid=f"uid-of-{name}")


def prepared(device: str, *requests: str, share: str = "") -> Prepared:
    grant = Grant(requests=requests, pool="n1", device=device, share_id=share)
    return Prepared(grant=grant, kind=Kind.GPU, cdi=(f"k8s.gpu.nvidia.com/claim=uid-{device}",))


class Node:
    """What is served: devices by claim uid, or an error; what was asked is remembered."""

    def __init__(self, devices: Mapping[str, tuple[Prepared, ...] | str] | None = None) -> None:
        self.devices = dict(devices or {})
        self.asked: list[tuple[str, tuple[ClaimRef, ...]]] = []
        self.seconds: list[float] = []
        self.entered, self.may_answer = asyncio.Event(), asyncio.Event()
        self.may_answer.set()
        self.lists: asyncio.Queue[tuple[DeviceHealth, ...]] = asyncio.Queue()

    async def prepare(self, claims: Sequence[ClaimRef], seconds: float) -> Mapping[str, tuple[Prepared, ...] | str]:
        self.asked.append(("prepare", tuple(claims)))
        self.seconds.append(seconds)
        self.entered.set()
        await self.may_answer.wait()
        return self.devices

    async def unprepare(self, claims: Sequence[ClaimRef], seconds: float) -> Mapping[str, str]:
        del seconds
        self.asked.append(("unprepare", tuple(claims)))
        return {claim.uid: "busy" if claim.name == "busy" else "" for claim in claims}

    async def health(self) -> AsyncIterator[tuple[DeviceHealth, ...]]:
        while True:
            yield await self.lists.get()


@pytest.fixture
async def node(folder: Path) -> AsyncIterator[Node]:
    node = Node()
    async with Plugin(node, DRIVER, sockets(folder, DRIVER)):
        yield node


@pytest.fixture
def kubelet(folder: Path) -> FakeKubelet:
    return FakeKubelet(folder)


async def test_a_plugin_makes_itself_known_and_hears_what_became_of_it(folder: Path):
    kubelet = FakeKubelet(folder)
    async with Plugin(Node(), DRIVER, sockets(folder, DRIVER)) as plugin:
        driver = await kubelet.register(error="no such version")
        assert (plugin.registered.is_set(), plugin.refused) == (False, "no such version")
        await kubelet.register()
        assert (plugin.registered.is_set(), plugin.refused) == (True, "")

    assert (driver.info.kind, driver.info.name) == ("DRAPlugin", DRIVER)
    assert driver.info.endpoint == folder / "plugins/gpu.nvidia.com/dra.sock"
    assert driver.info.versions == (
        "v1.DRAPlugin",
        "v1beta1.DRAPlugin",
        "v1.DRAResourceHealth",
        "v1alpha1.DRAResourceHealth",
    )


@pytest.mark.parametrize("version", ["v1.DRAPlugin", "v1beta1.DRAPlugin"])
async def test_every_claim_of_a_request_has_its_own_answer(node: Node, kubelet: FakeKubelet, version: str):
    good, bad, lost = claim("good"), claim("bad"), claim("lost")
    node.devices = {
        good.uid: (prepared("gpu-0", "a", "b"), prepared("gpu-1", "c", share="s-1")),
        bad.uid: "Device gpu-7: another claim holds it.",
    }
    driver = await kubelet.register()

    answer = await driver.prepare(good, bad, lost, version=version)

    assert answer[good.uid] == (
        Handed(requests=("a", "b"), pool="n1", device="gpu-0", cdi=("k8s.gpu.nvidia.com/claim=uid-gpu-0",)),
        Handed(requests=("c",), pool="n1", device="gpu-1", cdi=("k8s.gpu.nvidia.com/claim=uid-gpu-1",), share="s-1"),
    )
    assert answer[bad.uid] == "Device gpu-7: another claim holds it."
    assert "no answer" in str(answer[lost.uid])  # an answer that is missing would be an error of them all
    assert node.asked == [("prepare", (good, bad, lost))]


@pytest.mark.parametrize("version", ["v1.DRAPlugin", "v1beta1.DRAPlugin"])
async def test_what_is_given_back_is_told_by_claim(node: Node, kubelet: FakeKubelet, version: str):
    driver = await kubelet.register()
    done, busy = claim("done"), claim("busy")
    assert await driver.unprepare(done, busy, version=version) == {done.uid: "", busy.uid: "busy"}
    assert node.asked == [("unprepare", (done, busy))]


async def test_a_request_without_claims_is_answered_with_none(node: Node, kubelet: FakeKubelet):
    driver = await kubelet.register()
    assert await driver.prepare() == {}
    assert await driver.unprepare() == {}
    assert len(node.asked) == 2


async def test_calls_overlap(node: Node, kubelet: FakeKubelet):
    first, second = claim("first"), claim("second")
    driver = await kubelet.register()
    node.devices = {first.uid: (), second.uid: ()}
    node.may_answer.clear()
    waiting = asyncio.create_task(driver.prepare(first))
    await node.entered.wait()

    assert await driver.unprepare(second) == {second.uid: ""}

    node.may_answer.set()
    assert await waiting == {first.uid: ()}


async def test_who_is_served_knows_how_long_the_kubelet_waits(node: Node, folder: Path):
    await (await FakeKubelet(folder, seconds=45).register()).prepare(claim("a"))
    await (await FakeKubelet(folder, seconds=8).register()).prepare(claim("a"))
    patient, hasty = node.seconds
    assert patient == 40
    assert 0 < hasty < 7


@pytest.mark.parametrize("version", ["v1.DRAResourceHealth", "v1alpha1.DRAResourceHealth"])
async def test_health_is_told_in_complete_lists(node: Node, kubelet: FakeKubelet, version: str):
    def health(device: str, healthy: bool | None, message: str = "") -> DeviceHealth:
        return DeviceHealth(pool="n1", device=device, healthy=healthy, seen=17, lasts_seconds=90, message=message)

    driver = await kubelet.register()
    async with driver.health(version) as lists:
        node.lists.put_nowait((health("gpu-0", True), health("gpu-1", None)))
        first = await anext(lists)
        node.lists.put_nowait((health("gpu-0", False, "x" * 2000), health("gpu-1", True)))
        second = await anext(lists)

    assert [(each.device.pool_name, each.device.device_name, each.health) for each in first] == [
        ("n1", "gpu-0", 1),
        ("n1", "gpu-1", 0),
    ]
    assert [(each.health, len(each.message)) for each in second] == [(2, 1024), (1, 0)]
    assert {(each.last_updated_time, each.health_check_timeout_seconds) for each in [*first, *second]} == {(17, 90)}


async def test_who_finds_the_plugin_can_use_it_at_once(folder: Path):
    async def use() -> str:
        driver = await FakeKubelet(folder).register()
        return str(await driver.prepare(claim("one")))

    using = asyncio.create_task(use())
    await asyncio.sleep(0)
    async with Plugin(Node({claim("one").uid: "busy"}), DRIVER, sockets(folder, DRIVER)):
        assert "busy" in await using


async def test_who_stops_is_known_no_more_and_still_ends_what_was_begun(folder: Path):
    chosen, node, kubelet = sockets(folder, DRIVER), Node({claim("one").uid: ()}), FakeKubelet(folder)
    plugin = Plugin(node, DRIVER, chosen)
    async with plugin:
        driver = await kubelet.register()
        node.may_answer.clear()
        preparing = asyncio.create_task(driver.prepare(claim("one")))
        await node.entered.wait()
        stopping = asyncio.create_task(plugin.stop())
        while kubelet.sockets():
            await asyncio.sleep(0)
        assert not stopping.done()

        node.may_answer.set()
        assert await preparing == {claim("one").uid: ()}
        await stopping
    assert not chosen.claims.exists()


def abandoned(path: Path) -> None:
    """A socket whose process is gone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


async def test_sockets_that_an_earlier_run_left_are_replaced(folder: Path):
    chosen = sockets(folder, DRIVER)
    abandoned(chosen.claims)
    abandoned(chosen.registration)
    async with Plugin(Node(), DRIVER, chosen):
        assert (await FakeKubelet(folder).register()).info.name == DRIVER


async def test_beside_another_that_serves_the_same_socket_a_plugin_does_not_start(folder: Path):
    chosen = sockets(folder, DRIVER)
    async with Plugin(Node(), DRIVER, chosen):
        with pytest.raises(SocketError, match="another process serves it; end it first"):
            async with Plugin(Node(), DRIVER, chosen):
                pass
        assert answers(chosen.claims)
        assert answers(chosen.registration)


async def test_where_the_second_socket_cannot_stand_the_first_does_not_stay(folder: Path):
    chosen = sockets(folder, DRIVER)
    chosen.registration.parent.mkdir()
    chosen.registration.write_text("no socket")
    with pytest.raises(SocketError, match="is no socket, and the plugin's belongs there; remove it"):
        async with Plugin(Node(), DRIVER, chosen):
            pass
    assert not chosen.claims.exists()
    assert chosen.registration.read_text() == "no socket"


async def test_two_instances_stand_side_by_side_in_a_rolling_update(folder: Path):
    kubelet = FakeKubelet(folder)
    old, new = sockets(folder, DRIVER, "uid-old"), sockets(folder, DRIVER, "uid-new")
    one = claim("one")
    async with Plugin(Node({one.uid: (prepared("gpu-1"),)}), DRIVER, new):
        async with Plugin(Node({one.uid: (prepared("gpu-0"),)}), DRIVER, old):
            assert [path.name for path in kubelet.sockets()] == [
                "gpu.nvidia.com-uid-new-reg.sock",
                "gpu.nvidia.com-uid-old-reg.sock",
            ]
            assert clear_left(new, DRIVER) == ()
            answer = await (await kubelet.register(old.registration)).devices(one)
            assert [each.device for each in answer] == ["gpu-0"]
        answer = await (await kubelet.register()).devices(one)
        assert [each.device for each in answer] == ["gpu-1"]


def test_what_instances_that_are_gone_have_left_is_cleared_and_nothing_else(folder: Path):
    mine, older = sockets(folder, DRIVER, "uid-mine"), sockets(folder, DRIVER, "uid-older")
    others = folder / "plugins_registry/dra.net-reg.sock"
    for path in (mine.claims, mine.registration, older.claims, older.registration, others):
        abandoned(path)
    (folder / "plugins_registry/gpu.nvidia.com-notes-reg.sock").write_text("a file")

    assert clear_left(mine, DRIVER) == (older.registration.name, older.claims.name)

    assert [path.name for path in sorted((folder / "plugins_registry").iterdir())] == [
        "dra.net-reg.sock",
        "gpu.nvidia.com-notes-reg.sock",
        "gpu.nvidia.com-uid-mine-reg.sock",
    ]


def test_the_names_of_the_sockets():
    kubelet = Path("/var/lib/kubelet")
    assert sockets(kubelet, DRIVER) == Sockets(
        claims=kubelet / "plugins/gpu.nvidia.com/dra.sock",
        registration=kubelet / "plugins_registry/gpu.nvidia.com-reg.sock",
        lone=True,
    )
    assert sockets(kubelet, DRIVER, UID) == Sockets(
        claims=kubelet / f"plugins/gpu.nvidia.com/dra-{UID}.sock",
        registration=kubelet / f"plugins_registry/gpu.nvidia.com-{UID}-reg.sock",
        lone=False,
    )


def test_a_uid_is_shortened_only_where_the_path_would_be_too_long():
    # With the uid, the paths below the kubelet's folder have 78 and 69 bytes; with its hash 24 fewer.
    for length, registration, claims in ((29, 107, 98), (30, 84, 99), (38, 92, 107), (39, 93, 84), (53, 107, 98)):
        chosen = sockets(Path("/" + "k" * (length - 1)), DRIVER, UID)
        assert (len(str(chosen.registration)), len(str(chosen.claims))) == (registration, claims)
    first, second = (sockets(Path("/" + "k" * 39), DRIVER, uid) for uid in (UID, UID[:-1] + "1"))
    assert first.registration != second.registration


@pytest.mark.parametrize("uid", ["", UID])
def test_a_path_that_is_too_long_even_so_is_refused_in_words(uid: str):
    with pytest.raises(SocketError, match=rf"bytes, and that of a unix socket at most {LONGEST_BYTES}; use a kubelet"):
        sockets(Path("/" + "k" * 99), DRIVER, uid)


def test_the_longest_path_that_is_allowed_can_be_bound_and_the_next_cannot(folder: Path):
    longest = folder / ("s" * (LONGEST_BYTES - len(os.fsencode(folder)) - 1))
    abandoned(longest)
    with pytest.raises(OSError, match="AF_UNIX path too long"):
        abandoned(Path(f"{longest}s"))


def test_the_generated_modules_are_what_the_proto_files_make():
    """In a process of its own: the compiler brings a protobuf library, and two of them in one process end it."""
    command = [sys.executable, "-m", "dra_driver.proto.generate", "--check"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
