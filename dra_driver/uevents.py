"""What the kernel tells of GPUs and NVIDIA's driver as it happens (udev's own source): one is bound, or taken away.

A multicast socket of the kernel, in every network namespace of the host's user namespace; no udev need run. Source:
Documentation of the kernel, kobject_uevent.c; netlink(7).
"""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger(__name__)

KERNELS_GROUP = 1
"""The kernel's own messages; udev's, of another form, are in group 2."""
NETLINK_KOBJECT_UEVENT = 15  # linux/netlink.h; the socket module does not name it
NVIDIA, DISPLAYS = "10DE:", ("300", "302")
"""Vendor; PCI classes of GPUs (VGA and 3D controllers), as their first digits without leading zeros."""
_LONGEST_BYTES = 16384
_QUIET_SECONDS, _LONGEST_SECONDS = 0.5, 5.0
"""One change is many messages: they are one look, when no other has come for so long; but not for ever."""


def fields(datagram: bytes) -> dict[str, str]:
    """The KEY=value pairs of a message of the kernel ("add@/devices/...", NUL, ACTION=add, NUL, ...)."""
    pairs = (part.decode(errors="replace").partition("=") for part in datagram.split(b"\0")[1:])
    return {key: value for key, equals, value in pairs if equals}


def concerns(datagram: bytes) -> bool:
    """Whether it is of a GPU of NVIDIA's, or of NVIDIA's driver itself."""
    told = fields(datagram)
    subsystem, path = told.get("SUBSYSTEM", ""), told.get("DEVPATH", "")
    if subsystem == "pci":
        display = told.get("PCI_ID", "").startswith(NVIDIA) and told.get("PCI_CLASS", "").startswith(DISPLAYS)
        return told.get("DRIVER") == "nvidia" or display
    return (subsystem, path) in (("module", "/module/nvidia"), ("drivers", "/bus/pci/drivers/nvidia"))


async def follow(look: Callable[[], Awaitable[None]]) -> None:
    """Look after every change. Where the socket cannot be had, nobody looks for this reason."""
    try:
        heard = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT)
    except OSError as problem:
        log.info(
            "what the kernel tells of devices cannot be heard; GPUs are looked at every so often", why=str(problem)
        )
        return
    with heard:
        try:
            heard.bind((0, KERNELS_GROUP))
            await hear(heard, look)
        except OSError as problem:
            log.warning("what the kernel tells of devices is not heard any more", why=str(problem))


async def hear(heard: socket.socket, look: Callable[[], Awaitable[None]]) -> None:
    """From an open socket, until cancelled."""
    heard.setblocking(False)
    while True:
        if not await _concerned(heard):
            continue
        try:
            async with asyncio.timeout(_LONGEST_SECONDS):
                while True:
                    async with asyncio.timeout(_QUIET_SECONDS):
                        while not await _concerned(heard):
                            pass
        except TimeoutError:
            await look()


async def _concerned(heard: socket.socket) -> bool:
    """The next message; whether it, or what was lost before it, may concern us."""
    try:
        datagram, sender = await asyncio.get_running_loop().sock_recvfrom(heard, _LONGEST_BYTES)
    except OSError as problem:
        # More than its buffer holds: what was lost is not known. Anything else ends the listening, and is told.
        if problem.errno != errno.ENOBUFS:
            raise
        return True
    # Anybody with the right to may send to the group: a process has a number there, the kernel has 0.
    kernels = not isinstance(sender, tuple) or sender[0] == 0
    return kernels and concerns(datagram)
