"""Who else is at work on this node: another of us, or NVIDIA's own driver under the same name.

Two of us may stand side by side while the one replaces the other; each then has its pod's uid, and shares the lock. One
that has no uid is alone. Beside another driver of the same name none of us starts: both would give away each device.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dra_driver.disk import DiskError
from dra_driver.sockets import Sockets, answers

INSTANCE_LOCK = "instance.lock"


class NotAlone(Exception):
    """Somebody else is at work here: who, and what to do."""


@contextmanager
def standing(folder: Path, *, lone: bool) -> Iterator[None]:
    """Our place on this node, until the block ends or the process dies. Raises NotAlone and DiskError."""
    path = folder / INSTANCE_LOCK
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DiskError(path, "opened", error) from error
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if lone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotAlone(
                f"Lock {path}: another tutti-dra-driver serves this node; end it first"
                + (", or set POD_UID for each of them where the one is to replace the other." if lone else ".")
            ) from None
        yield
    finally:
        os.close(descriptor)


def refuse_other_driver(sockets: Sockets, driver: str) -> None:
    """Raises NotAlone where somebody who is not one of us answers under the name of our driver."""
    plain = sockets.registration.with_name(f"{driver}-reg.sock")
    if plain != sockets.registration and answers(plain):
        raise NotAlone(
            f"Socket {plain}: another plugin of DRA driver {driver} serves this node, NVIDIA's most likely; remove it "
            "from the node first, or give this one another name (setting driver), and its DeviceClasses with it."
        )
