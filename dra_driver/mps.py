"""MPS daemons: one for a GPU or MIG instance, shared by all claims that use it by MPS.

    <folder>/<key>/device      the UUID that the daemon serves: written first, so that whatever follows is found again
    <folder>/<key>/pipe, log   CUDA_MPS_PIPE_DIRECTORY, CUDA_MPS_LOG_DIRECTORY
    <folder>/<key>/shm         what daemon and clients see as /dev/shm; <shm>/<key> where another place is given

`key` is short, since the names of sockets are (107 bytes). Every call may be repeated, and may end anywhere.
Source: NVIDIA's Multi-Process Service guide.
"""

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dra_driver.cdi import Edits, Mount
from dra_driver.cgroups import DaemonCgroup
from dra_driver.commands import MPS_CONTROL, MPS_SERVER, TIMED_OUT, Answer, Commands, Processes, Tools
from dra_driver.disk import Disk
from dra_driver.prepare import SharingError

MEBIBYTE = 1 << 20
_CLIENT_PIPE, _CLIENT_SHM = "/tmp/nvidia-mps", "/dev/shm"
_WRITABLE = ("rw", "nosuid", "nodev", "rbind", "rprivate")
_PROGRAMS = (MPS_CONTROL, MPS_SERVER)
# A mount namespace of the daemon's own, in which its folder is /dev/shm: nothing is mounted that could be left behind.
_OWN_SHM = ("unshare", "--mount", "--propagation", "private", "sh", "-c", 'mount --bind "$0" /dev/shm && exec "$@"')
_READY_TRIES, _READY_SECONDS = 50, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What clients may use; None is no limit. Of a client, or of any client of a daemon."""

    memory_bytes: int | None = None
    threads_percent: int | None = None


def ceiling(clients: Iterable[Limits]) -> Limits:
    """The least limits that keep no client from what it may."""
    known = tuple(clients)
    memory = [limits.memory_bytes for limits in known]
    threads = [limits.threads_percent for limits in known]
    return Limits(
        memory_bytes=None if None in memory else max((each for each in memory if each is not None), default=None),
        threads_percent=None if None in threads else max((each for each in threads if each is not None), default=None),
    )


class Daemons:
    """All MPS daemons of the node. `folder`, `shm`: as above, at paths that the host knows them by, too. `shm` should
    be on a tmpfs, or the kernel writes to a disk what is shared. `cgroup`: where they are to live; None: where we do.

    Calls are made under the node's lock. They raise SharingError and DiskError."""

    def __init__(
        self,
        folder: Path,
        *,
        disk: Disk,
        commands: Commands,
        processes: Processes,
        tools: Tools,
        shm: Path | None = None,
        cgroup: DaemonCgroup | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._folder = folder
        self._shm = shm
        self._cgroup = cgroup
        self._disk, self._commands, self._processes, self._tools = disk, commands, processes, tools
        self._pause = pause

    @property
    def offered(self) -> bool:
        """Whether the node's driver has what it takes."""
        return bool(self._tools.mps_control)

    def devices(self) -> tuple[str, ...]:
        """UUIDs of the GPUs and instances that have a daemon, or the remains of one."""
        found = (self._disk.read(self._folder / key / "device") for key in self._disk.names(self._folder))
        return tuple(device.decode() for device in found if device)

    def answers(self, device: str) -> bool:
        """Whether the device has a daemon that listens."""
        return bool(self._tools.mps_control) and self._ask(device, "get_server_list").code == 0

    def start(self, device: str, *, multi_user: bool = False) -> bool:
        """A daemon serves the device when this returns; whether it was started for that."""
        if not self._tools.mps_control:
            raise SharingError(
                f"MPS on {device}: {MPS_CONTROL} is not below the driver's root; install the driver's "
                "compute programs, or do without MPS"
            )
        place = self._place(device)
        if self._disk.read(place / "device") != device.encode():
            self._disk.write(place / "device", device.encode())
        # The server runs as its client's user, who writes its log and what is shared.
        for folder in (place / "pipe", place / "log", self._shm_of(device)):
            self._disk.make_folder(folder)
        for folder in (place / "log", self._shm_of(device)):
            if folder.stat().st_mode & 0o7777 != 0o1777:
                self._disk.change("mode", folder, partial(folder.chmod, 0o1777))
        if self.answers(device):
            return False
        self._end_deaf(device)
        self._empty(place / "pipe")
        self._launch(device, multi_user)
        return True

    def limit(self, device: str, clients: Limits, whole_bytes: int | None) -> None:
        """What clients may use at most, those to come of servers that run, too. `whole_bytes`: the device's memory, by
        which a daemon that may have been told of a limit is told of none."""
        memory = clients.memory_bytes or whole_bytes
        percent = clients.threads_percent or 100
        lines = [f"set_default_active_thread_percentage {percent}"]
        servers = self._told(device, "get_server_list").split()
        lines += [f"set_active_thread_percentage {pid} {percent}" for pid in servers]
        if memory is not None:
            amount = f"{device} {_mebibytes(memory)}M"
            lines.append(f"set_default_device_pinned_mem_limit {amount}")
            lines += [f"set_device_pinned_mem_limit {pid} {amount}" for pid in servers]
        self._told(device, "\n".join(lines))

    def stop(self, device: str) -> bool:
        """Nothing of a daemon is left when this returns; whether there was something."""
        place = self._place(device)
        if self._disk.read(place / "device") is None:
            return self._disk.remove_folder(place)
        if self._tools.mps_control and self._ask(device, "quit").code == 0:
            for _ in range(_READY_TRIES):
                if not self._alive(device):
                    break
                self._pause(_READY_SECONDS)
        self._end_deaf(device)
        self._disk.remove_folder(self._shm_of(device))
        for name in ("pipe", "log"):
            self._disk.remove_folder(place / name)
        # Last: until here the remains are known by it.
        self._disk.remove_folder(place)
        return True

    def sweep(self) -> None:
        """What an end has left of a beginning or of an ending goes: folders in which nothing says whose they are."""
        for key in self._disk.names(self._folder):
            if self._folder / key != self._shm and self._disk.read(self._folder / key / "device") is None:
                self._disk.remove_folder(self._folder / key)

    def edits(self, device: str, client: Limits) -> Edits:
        """What a container needs to be a client of the device's daemon, and keeps it to its limits."""
        env = {"CUDA_MPS_PIPE_DIRECTORY": _CLIENT_PIPE}
        if client.memory_bytes is not None:
            # By ordinal: a client of this daemon sees one device. An entry for another would void all limits.
            env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = f"0={_mebibytes(client.memory_bytes)}M"
        if client.threads_percent is not None:
            env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = str(client.threads_percent)
        return Edits(
            env=env,
            mounts=(
                Mount(host=str(self._place(device) / "pipe"), container=_CLIENT_PIPE, options=_WRITABLE),
                Mount(host=str(self._shm_of(device)), container=_CLIENT_SHM, options=_WRITABLE),
            ),
        )

    def _launch(self, device: str, multi_user: bool) -> None:
        argv = [self._tools.mps_control, "-d", *(["-M"] if multi_user else [])]
        if self._tools.own_shm:
            argv = [*_OWN_SHM, str(self._shm_of(device)), *argv]
        if self._cgroup is not None:
            argv = self._cgroup.started_in(argv)
        answer = self._commands.run(argv, env={**self._env(device), "CUDA_VISIBLE_DEVICES": device})
        if answer.code != 0:
            raise SharingError(f"MPS on {device}: the daemon does not start ({answer.words}); see {self._log(device)}")
        for _ in range(_READY_TRIES):
            code = self._ask(device, "get_server_list").code
            if code == 0:
                return
            if code == TIMED_OUT:  # It hangs: all other claims of the node wait for us meanwhile.
                break
            self._pause(_READY_SECONDS)
        raise SharingError(
            f"MPS on {device}: the daemon has started and does not answer; it is tried again: see {self._log(device)}"
        )

    def _empty(self, pipe: Path) -> None:
        """Its clients write there, whoever they are, and the daemon opens what it finds there with our rights: what a
        link of theirs leads to must not be written. The folder itself stays, it is mounted in their containers."""
        for name in self._disk.names(pipe):
            if not self._disk.remove_folder(pipe / name):
                self._disk.remove(pipe / name)

    def _ask(self, device: str, line: str) -> Answer:
        """What the daemon answers; an exit status that is not 0 where there is none, or it does not listen."""
        return self._commands.run([self._tools.mps_control], env=self._env(device), stdin=line + "\n")

    def _told(self, device: str, lines: str) -> str:
        answer = self._ask(device, lines)
        if answer.code != 0:
            raise SharingError(
                f"MPS on {device}: the daemon does not take {lines.splitlines()[0]!r} ({answer.words}); it is tried "
                f"again: see {self._log(device)}"
            )
        return answer.output

    def _end_deaf(self, device: str) -> None:
        """A daemon that is there and does not answer is ended, and servers without one: two would fight for a pipe."""
        left = self._processes.end(_PROGRAMS, self._variable(device), _READY_TRIES * _READY_SECONDS)
        if left:
            raise SharingError(
                f"MPS on {device}: process {', '.join(map(str, left))} of its daemon does not end; it hangs in the "
                "driver: reset the GPU when nobody uses it"
            )

    def _alive(self, device: str) -> bool:
        return bool(self._processes.find(_PROGRAMS, self._variable(device)))

    def _variable(self, device: str) -> str:
        """What all processes of a device's daemon were started with, and no others."""
        return f"CUDA_MPS_PIPE_DIRECTORY={self._place(device) / 'pipe'}"

    def _env(self, device: str) -> dict[str, str]:
        place = self._place(device)
        return {
            **self._tools.env,
            "CUDA_MPS_PIPE_DIRECTORY": str(place / "pipe"),
            "CUDA_MPS_LOG_DIRECTORY": str(place / "log"),
        }

    def _log(self, device: str) -> Path:
        return self._place(device) / "log" / "control.log"

    def _place(self, device: str) -> Path:
        return self._folder / _key(device)

    def _shm_of(self, device: str) -> Path:
        return self._shm / _key(device) if self._shm is not None else self._place(device) / "shm"


def _key(device: str) -> str:
    return hashlib.sha256(device.encode()).hexdigest()[:12]


def _mebibytes(amount: int) -> int:
    return max(amount // MEBIBYTE, 1)
