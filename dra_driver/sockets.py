"""Where the kubelet finds the plugin: the paths of its two unix sockets, and what is left of earlier ones.

<kubelet>/plugins/<driver>/dra.sock              serves claims and health
<kubelet>/plugins_registry/<driver>-reg.sock     makes the other known

With the uid of the plugin's pod in both names, two instances stand side by side while the one replaces the other
(a rolling update without a gap: KEP 4381, Kubernetes 1.33).
"""

import hashlib
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

LONGEST_BYTES = 107
"""Of a unix socket's path: sun_path has 108 bytes, one of them for its end (unix(7))."""

_DIGITS = 12
_PATIENCE_SECONDS = 1.0


class SocketError(Exception):
    """A socket cannot stand where it must: which, why, and what helps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sockets:
    """The paths of one instance's sockets. `lone`: no pod's uid is in them; then there is one instance at a time."""

    claims: Path
    registration: Path
    lone: bool


def sockets(kubelet: Path, driver: str, pod_uid: str = "") -> Sockets:
    """Of the driver, below the kubelet's folder (its --root-dir). A pod's uid is shortened to a hash where the path
    would be too long with it. Raises SocketError if it is too long even so."""
    plugins, registry = kubelet / "plugins" / driver, kubelet / "plugins_registry"
    if not pod_uid:
        claims, registration = plugins / "dra.sock", registry / f"{driver}-reg.sock"
        return Sockets(claims=_fits(claims), registration=_fits(registration), lone=True)
    short = hashlib.sha256(pod_uid.encode()).hexdigest()[:_DIGITS]
    return Sockets(
        claims=_first_that_fits(plugins / f"dra-{pod_uid}.sock", plugins / f"dra-{short}.sock"),
        registration=_first_that_fits(
            registry / f"{driver}-{pod_uid}-reg.sock", registry / f"{driver}-{short}-reg.sock"
        ),
        lone=False,
    )


def answers(path: Path) -> bool:
    """Whether somebody listens there: a socket's file outlives the process that made it. Raises SocketError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PATIENCE_SECONDS)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except (TimeoutError, BlockingIOError):
            return True  # its queue is full: somebody is behind it, if only slow
        except OSError as error:
            raise SocketError(f"Socket {path}: cannot be reached: {error.strerror}; run the plugin as root.") from None
    return True


def clear(path: Path) -> bool:
    """Whether a socket was there that nobody listens on; it is gone. Raises SocketError if somebody does."""
    if not os.path.lexists(path):
        return False
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise SocketError(f"File {path}: is no socket, and the plugin's belongs there; remove it.")
    if answers(path):
        raise SocketError(
            f"Socket {path}: another process serves it; end it first, or give this one a uid of its own with POD_UID."
        )
    _remove(path)
    return True


def clear_left(chosen: Sockets, driver: str) -> tuple[str, ...]:
    """Names of sockets that earlier instances of the driver have left, now gone. Those that still answer stay."""
    left = [
        *_sockets_in(chosen.registration.parent, f"{driver}-", "-reg.sock"),
        *_sockets_in(chosen.claims.parent, "dra", ".sock"),
    ]
    gone = [path for path in left if path not in (chosen.claims, chosen.registration) and not answers(path)]
    for path in gone:
        _remove(path)
    return tuple(path.name for path in gone)


def _sockets_in(folder: Path, start: str, end: str) -> list[Path]:
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.name.startswith(start) and path.name.endswith(end))
    return sorted(path for path in found if stat.S_ISSOCK(path.lstat().st_mode))


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise SocketError(
            f"Socket {path}: is left of an earlier run and cannot be removed: {error.strerror}; remove it."
        ) from None


def _first_that_fits(*paths: Path) -> Path:
    return next((path for path in paths if _size(path) <= LONGEST_BYTES), None) or _fits(paths[-1])


def _fits(path: Path) -> Path:
    if _size(path) > LONGEST_BYTES:
        raise SocketError(
            f"Socket {path}: its path has {_size(path)} bytes, and that of a unix socket at most {LONGEST_BYTES}; "
            "use a kubelet with a shorter --root-dir (setting kubelet_dir), or a shorter name of the driver."
        )
    return path


def _size(path: Path) -> int:
    return len(os.fsencode(path))
