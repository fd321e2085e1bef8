"""A real kubelet with containerd under it: one node, whose pods are containers on this machine.

They live in a folder, and in namespaces of their own for mounts and processes: with the first process of these all the
others end, whatever they are, and every mount is gone. The control groups that are left are removed.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

from tests.real.control_plane import die_with_parent
from tests.real.kubelet_files import write_files

PATIENCE_SECONDS = 30.0
_LOOK_SECONDS = 0.02
_LOGS = ("node.log", "containerd.log", "kubelet.log")
_NAMESPACES = ("unshare", "--mount", "--propagation", "private", "--pid", "--mount-proc", "--fork", "--kill-child")


class KubeletError(Exception):
    """A node whose programs ended, or that left something behind. Names what, with the end of the logs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """The folder with kubelet, and that with containerd, its shim, ctr and runc."""

    kubernetes: Path
    containers: Path


class Kubelet:
    """`with Kubelet(programs, admin, name) as kubelet:` a node of this name joins the cluster of the kubeconfig
    `admin`, and runs pods until the block ends. It uses no rights but a node's."""

    def __init__(self, programs: Programs, admin: Path, name: str) -> None:
        self._programs, self._admin, self._name = programs, admin, name
        self._cgroup = f"tutti-{name}-{secrets.token_hex(4)}"
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> "Kubelet":
        with contextlib.ExitStack() as stack:
            self._folder = Path(stack.enter_context(TemporaryDirectory(prefix="tutti-node-")))
            write_files(self._folder, self._admin, name=self._name, cgroup=f"/{self._cgroup}")
            stack.callback(self._remove_cgroups)
            for hierarchy in hierarchies():
                (hierarchy / self._cgroup).mkdir()
            self._process = self._start()
            stack.callback(self._end)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    @property
    def folder(self) -> Path:
        """The kubelet's own (its --root-dir): plugins and their registry are in it."""
        return self._folder / "kubelet"

    @property
    def cdi(self) -> Path:
        """Where containerd looks for CDI specifications."""
        return self._folder / "cdi"

    async def restart(self) -> None:
        """Kill the kubelet, and start it anew. Its containers run on."""
        restarts = self._folder / "restarts"
        before = _lines(restarts)
        os.kill(self._first(), signal.SIGUSR1)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while _lines(restarts) == before:
                await asyncio.sleep(_LOOK_SECONDS)

    async def work(self) -> None:
        """Until the block ends. Raises KubeletError if its programs end before."""
        await asyncio.to_thread(self._process.wait)
        raise KubeletError(f"Node {self._name}: the kubelet or containerd ended.\n{self._last_words()}")

    def _start(self) -> subprocess.Popen[bytes]:
        script = Path(__file__).with_name("kubelet.sh")
        with (self._folder / "node.log").open("wb") as log:
            return subprocess.Popen(
                [*_NAMESPACES, script, self._programs.kubernetes, self._programs.containers, self._name],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def _first(self) -> int:
        """The first process of the namespaces, by its number out here."""
        pid = self._process.pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(child)

    def _end(self) -> None:
        """Kill the first process of the namespaces, and wait: it is gone when all the others are."""
        pid = self._process.pid
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended already
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise KubeletError(f"Node {self._name}: it could not be ended in {PATIENCE_SECONDS:g} s.") from None

    def _remove_cgroups(self) -> None:
        """Until they are gone: one that was in use a moment ago may still be busy."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        for hierarchy in hierarchies():
            group = hierarchy / self._cgroup
            while group.exists():
                try:
                    for folder, _, _ in os.walk(group, topdown=False):
                        os.rmdir(folder)
                except OSError as error:
                    if time.monotonic() > deadline:
                        raise KubeletError(f"Node {self._name}: control group {group} stays: {error}.") from error
                    time.sleep(_LOOK_SECONDS)

    def _last_words(self) -> str:
        logs = [self._folder / name for name in _LOGS]
        return "\n".join(
            line for log in logs if log.exists() for line in log.read_text(errors="replace").splitlines()[-5:]
        )


def obstacle() -> str:
    """Why no kubelet can run on this machine, whatever its programs; "" if one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a kubelet needs root on Linux"
    if shutil.which("unshare") is None or subprocess.run([*_NAMESPACES, "true"], check=False).returncode:
        return "a kubelet needs the right to make namespaces (unshare)"
    groups = list(hierarchies())
    if not groups or not all(os.access(group, os.W_OK) and not _read_only(group) for group in groups):
        return "a kubelet needs control groups that it may write"
    return ""


def programs() -> Programs | None:
    """The programs of a node, built if need be. None where they cannot be had."""
    script = Path(__file__).parents[1] / "tools.sh"
    found = [
        subprocess.run([script, what], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        for what in ("kubelet", "containers")
    ]
    return Programs(kubernetes=Path(found[0]), containers=Path(found[1])) if all(found) else None


def hierarchies() -> Iterator[Path]:
    """Where control groups are mounted: one place for all (version 2), or one for each controller."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            yield Path(where)


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def _read_only(folder: Path) -> bool:
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
