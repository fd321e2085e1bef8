"""The driver's libraries and programs as they lie below its root, found by their names: plain data for CDI.

Source: the file lists of NVIDIA's driver packages; the library folders of Debian, Red Hat and the driver container.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath

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
# Debian links the usual ones by /etc/alternatives to the last.
_PROGRAM_FOLDERS = ("usr/bin", "usr/sbin", "bin", "sbin", "usr/local/bin", "usr/lib/nvidia/current")
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
# Of packages, and of the GPU Operator, which puts the container toolkit on the host and not into the driver's root.
_HOOK_FOLDERS = ("usr/bin", "usr/local/bin", "usr/local/nvidia/toolkit", "opt/nvidia/toolkit", "opt/nvidia/bin")
_MOST_LINKS = 40  # as the kernel has it


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


def discover(
    root: Path | str, version: str, *, host_root: str = "", host: Path | str | None = None, hook: str | None = None
) -> Libraries:
    """What there is of a driver of this version below `root`, the driver's root as it is seen from here; `host_root`:
    the same as the host sees it. `hook`: nvidia-cdi-hook on the host where it is known, "" to do without; else it is
    looked for below `root`, and below `host`, the host's own root as it is seen from here. Nothing is found below a
    root without a driver, and that is no error here."""
    top, prefix = Path(root), host_root.rstrip("/")
    found = _libraries(top, version)
    names = {path: _links(top, top / path.lstrip("/")) for path in found}
    if hook is None:
        hook = _program(top, _HOOK, _HOOK_FOLDERS)
        hook = prefix + hook if hook else _program(Path(host), _HOOK, _HOOK_FOLDERS) if host is not None else ""
    programs = (_program(top, program, _PROGRAM_FOLDERS) for program in _PROGRAMS)
    firmware = (top / folder / version for folder in _FIRMWARE_FOLDERS)
    files = (str(path.relative_to(top)) for folder in firmware if folder.is_dir() for path in sorted(folder.iterdir()))
    return Libraries(
        root=prefix,
        libraries=tuple(found),
        links={path: links for path, links in names.items() if links},
        programs=tuple(filter(None, programs)),
        firmware=_existing(top, files),
        sockets=_existing(top, _SOCKETS),
        hook=hook,
    )


def below(root: Path, path: PurePath | str) -> Path:
    """Where a path of a root leads, from here: links are followed as who has that root for "/" follows them.

    A path that leads nowhere, or in a circle, is one where nothing is."""
    rest = list(reversed(PurePosixPath(path).parts))
    at: list[str] = []
    links = 0
    while rest:
        part = rest.pop()
        if part == "/":
            at.clear()
        elif part == "..":
            del at[-1:]
        elif links <= _MOST_LINKS and (here := root.joinpath(*at, part)).is_symlink():
            links += 1
            rest += reversed(PurePosixPath(os.readlink(here)).parts)
        else:
            at.append(part)
    return root.joinpath(*at)


def _libraries(top: Path, version: str) -> list[str]:
    """Paths of `*.so.<version>`, sorted, each name once."""
    found: dict[str, str] = {}
    for folder in _LIBRARY_FOLDERS:
        for deeper in _BELOW:
            place = top / folder / deeper
            if not place.is_dir() or _leads_elsewhere(place, top):
                continue
            for path in place.iterdir():
                if path.name.endswith(f".so.{version}") and (there := _file(top, path.relative_to(top))):
                    found.setdefault(f"{deeper}/{path.name}", there)
    return sorted(set(found.values()))


def _leads_elsewhere(folder: Path, top: Path) -> bool:
    """Whether a folder is another one's second name (lib64 -> usr/lib64)."""
    return below(top, folder.relative_to(top)) != folder


def _links(top: Path, library: Path) -> tuple[str, ...]:
    """Names in the library's folder that lead to it, over any number of steps."""
    real = below(top, library.relative_to(top))
    stem = library.name.partition(".so")[0] + ".so"
    return tuple(
        sorted(
            path.name
            for path in library.parent.iterdir()
            if path.name.startswith(stem) and path.is_symlink() and below(top, path.relative_to(top)) == real
        )
    )


def _existing(top: Path, paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"/{path}" for path in paths if below(top, path).exists())


def _program(top: Path, name: str, folders: Iterable[str]) -> str:
    """A program of the root, empty where it is in none of the folders."""
    return next(filter(None, (_file(top, PurePosixPath(folder, name)) for folder in folders)), "")


def _file(top: Path, path: PurePath) -> str:
    """A file of the root where it really lies: who mounts a link follows it on a root of his own. Empty where there is
    none; under its first path where another name is its real one."""
    real = below(top, path)
    if not real.is_file():
        return ""
    return "/" + str(real.relative_to(top) if real.name == path.name else path)
