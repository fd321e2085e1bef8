"""What the kernel tells of devices: what of it concerns GPUs, and when they are looked at for it."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator

import pytest

from dra_driver import uevents
from dra_driver.uevents import concerns, fields, follow, hear

PATIENCE_SECONDS = 20.0
GPU = "/devices/pci0000:5a/0000:5a:01.0/0000:5d:00.0"


def message(action: str, path: str, **told: str) -> bytes:
    """As the kernel writes it."""
    pairs = {"ACTION": action, "DEVPATH": path, **told, "SEQNUM": "4711"}
    return b"\0".join([f"{action}@{path}".encode(), *(f"{key}={value}".encode() for key, value in pairs.items()), b""])


BOUND = message(
    "bind", GPU, SUBSYSTEM="pci", DRIVER="nvidia", PCI_CLASS="30200", PCI_ID="10DE:2330", PCI_SLOT_NAME="0000:5d:00.0"
)
REMOVED = message("remove", GPU, SUBSYSTEM="pci", PCI_CLASS="30200", PCI_ID="10DE:2330")
LOADED = message("add", "/module/nvidia", SUBSYSTEM="module")
REGISTERED = message("remove", "/bus/pci/drivers/nvidia", SUBSYSTEM="drivers")
SWITCH = message("bind", GPU, SUBSYSTEM="pci", DRIVER="nvidia-nvswitch", PCI_CLASS="68000", PCI_ID="10DE:22A3")
OTHERS = message("add", GPU, SUBSYSTEM="pci", DRIVER="mlx5_core", PCI_CLASS="20700", PCI_ID="15B3:1021")
AMDS = message("add", GPU, SUBSYSTEM="pci", PCI_CLASS="30200", PCI_ID="1002:74A1")
SOUND = message("add", "/module/nvidia_like", SUBSYSTEM="module")
BLOCK = message("change", "/devices/virtual/block/loop0", SUBSYSTEM="block", DRIVER="nvidia")
UDEVS = b"libudev\0\xfe\xed\xca\xfe" + bytes(28) + b"ACTION=bind\0SUBSYSTEM=pci\0"


def test_a_message_is_its_fields():
    assert fields(BOUND) == {
        "ACTION": "bind",
        "DEVPATH": GPU,
        "SUBSYSTEM": "pci",
        "DRIVER": "nvidia",
        "PCI_CLASS": "30200",
        "PCI_ID": "10DE:2330",
        "PCI_SLOT_NAME": "0000:5d:00.0",
        "SEQNUM": "4711",
    }
    assert fields(b"") == {}


@pytest.mark.parametrize("datagram", [BOUND, REMOVED, LOADED, REGISTERED])
def test_gpus_and_their_driver_concern_us(datagram: bytes):
    assert concerns(datagram)


@pytest.mark.parametrize("datagram", [SWITCH, OTHERS, AMDS, SOUND, BLOCK, UDEVS, b"", b"\0\0=\xff", BOUND[:20]])
def test_nothing_else_does(datagram: bytes):
    assert not concerns(datagram)


class Look:
    def __init__(self) -> None:
        self.times = 0
        self._done = asyncio.Event()

    async def __call__(self) -> None:
        self.times += 1
        self._done.set()

    async def once(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._done.wait()
        self._done.clear()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with kernel, ours:
        yield kernel, ours


@contextlib.asynccontextmanager
async def hearing(ours: socket.socket, look: Look):  # type: ignore[no-untyped-def]
    task = asyncio.create_task(hear(ours, look))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()


async def test_many_messages_of_one_change_are_one_look_and_others_are_none(
    pair: tuple[socket.socket, socket.socket],
):
    kernel, ours = pair
    look = Look()
    async with hearing(ours, look):
        for datagram in (OTHERS, REMOVED, BLOCK, LOADED, REGISTERED, BOUND):
            kernel.send(datagram)
        await look.once()
        assert look.times == 1
        kernel.send(OTHERS)
        kernel.send(BOUND)
        await look.once()
        assert look.times == 2


class Overrun:
    """A socket whose buffer did not hold all that came."""

    def __init__(self, ours: socket.socket) -> None:
        self._ours, self._overran = ours, False

    def __getattr__(self, name: str) -> object:
        return getattr(self._ours, name)

    def recvfrom(self, most: int) -> tuple[bytes, object]:
        if not self._overran:
            self._overran = True
            raise OSError(errno.ENOBUFS, "No buffer space available")
        return self._ours.recvfrom(most)


async def test_what_was_lost_may_have_concerned_us(pair: tuple[socket.socket, socket.socket]):
    look = Look()
    async with hearing(Overrun(pair[1]), look):  # type: ignore[arg-type]
        await look.once()


async def test_where_the_socket_cannot_be_had_nobody_is_called(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(uevents, "NETLINK_KOBJECT_UEVENT", 9999)  # the kernel knows no such protocol
    look = Look()
    await asyncio.wait_for(follow(look), PATIENCE_SECONDS)
    assert look.times == 0
