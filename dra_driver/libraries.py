"""The driver's libraries and programs as they lie below its root, found by their names: plain data for CDI.

Source: the file lists of NVIDIA's driver packages; the library folders of Debian, Red Hat and the driver container.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# 64-bit folders first: where a name is found twice the first counts. Red Hat's usr/lib holds the 32-bit ones.
_LIBRARY_FOLDERS = (
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "lib64",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "usr/lib",
    "lib",
)
_BELOW = ("", "vdpau", "nvidia/current")
_PROGRAM_FOLDERS = ("usr/bin", "usr/sbin", "bin", "sbin", "usr/local/bin")
_PROGRAMS = (
    "nvidia-smi",
    "nvidia-debugdump",
    "nvidia-persistenced",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
    "nvidia-imex",
    "nvidia-imex-ctl",
)
_FIRMWARE_FOLDERS = ("lib/firmware/nvidia", "usr/lib/firmware/nvidia")
_SOCKETS = ("run/nvidia-persistenced/socket", "run/nvidia-fabricmanager/socket")
_HOOK = "nvidia-cdi-hook"
_HOOK_FOLDERS = ("usr/bin", "usr/local/bin", "usr/local/nvidia/toolkit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Libraries:
    """What of the driver goes into containers. Paths are as in the driver's root, from "/".

    `root`: that root on the host, empty for "/". `links`: names beside a library that lead to it ("libcuda.so.1"), by
    the library's path. `hook`: nvidia-cdi-hook on the host, empty where it is not installed."""

    root: str = ""
    libraries: tuple[str, ...] = ()
    links: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    programs: tuple[str, ...] = ()
    firmware: tuple[str, ...] = ()
    sockets: tuple[str, ...] = ()
    hook: str = ""


def discover(root: Path | str, version: str, *, host_root: str = "", hook: str | None = None) -> Libraries:
    """What there is of a driver of this version below `root`, the driver's root as it is seen from here; `host_root`:
    the same as the host sees it. `hook`: nvidia-cdi-hook on the host where it is known, "" to do without; else it is
    looked for below `root`. Nothing is found below a root without a driver, and that is no error here."""
    top, host = Path(root), host_root.rstrip("/")
    found = _libraries(top, version)
    names = {path: _links(top / path.lstrip("/")) for path in found}
    if hook is None:
        hook = next(iter(_existing(top, (f"{folder}/{_HOOK}" for folder in _HOOK_FOLDERS))), "")
        hook = hook and host + hook
    programs = (
        next(iter(_existing(top, (f"{folder}/{program}" for folder in _PROGRAM_FOLDERS))), "") for program in _PROGRAMS
    )
    firmware = (top / folder / version for folder in _FIRMWARE_FOLDERS)
    files = (str(path.relative_to(top)) for folder in firmware if folder.is_dir() for path in sorted(folder.iterdir()))
    return Libraries(
        root=host,
        libraries=tuple(found),
        links={path: links for path, links in names.items() if links},
        programs=tuple(filter(None, programs)),
        firmware=_existing(top, files),
        sockets=_existing(top, _SOCKETS),
        hook=hook,
    )


def _libraries(top: Path, version: str) -> list[str]:
    """Paths of `*.so.<version>`, sorted, each name once."""
    found: dict[str, str] = {}
    for folder in _LIBRARY_FOLDERS:
        for below in _BELOW:
            place = top / folder / below
            if not place.is_dir() or _leads_elsewhere(place, top):
                continue
            for path in place.iterdir():
                if path.name.endswith(f".so.{version}") and path.is_file():
                    found.setdefault(f"{below}/{path.name}", "/" + str(path.relative_to(top)))
    return sorted(found.values())


def _leads_elsewhere(folder: Path, top: Path) -> bool:
    """Whether a folder is another one's second name (lib64 -> usr/lib64)."""
    return folder.resolve() != top.resolve() / folder.relative_to(top)


def _links(library: Path) -> tuple[str, ...]:
    """Names in the library's folder that lead to it, over any number of steps."""
    real = library.resolve()
    stem = library.name.partition(".so")[0] + ".so"
    return tuple(
        sorted(
            path.name
            for path in library.parent.iterdir()
            if path.name.startswith(stem) and path.is_symlink() and path.resolve() == real
        )
    )


def _existing(top: Path, paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"/{path}" for path in paths if (top / path).exists())
