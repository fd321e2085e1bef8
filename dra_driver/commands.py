"""The programs of NVIDIA's driver that the plugin runs, and the processes that they leave: two small faces.

What NVML cannot do, these do: `nvidia-smi` sets time slices, `nvidia-cuda-mps-control` starts a daemon and talks to it.
"""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from dra_driver.libraries import Libraries

MPS_CONTROL, MPS_SERVER = "nvidia-cuda-mps-control", "nvidia-cuda-mps-server"
SMI = "nvidia-smi"
IMEX_CTL = "nvidia-imex-ctl"
_PRELOADED = ("libcuda.so.", "libnvidia-ml.so.")
_NOT_FOUND, TIMED_OUT = 127, 124  # as a shell and as timeout(1) tell it
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a program ended. `code`: its exit status; 127 where it is not there, 124 where it took too long."""

    code: int
    output: str = ""
    errors: str = ""

    @property
    def words(self) -> str:
        """What it said, for a line of an error."""
        said = " ".join((self.errors.strip() or self.output.strip()).split())
        return f"exit status {self.code}" + (f": {said[:300]}" if said else "")


class Commands(Protocol):
    """Programs, run to their end."""

    def run(self, argv: Sequence[str], *, env: Mapping[str, str], stdin: str = "", seconds: float = 20) -> Answer:
        """Run a program with these variables beside the plugin's own. What it has detached from itself stays."""


class Processes(Protocol):
    """Processes that somebody has left, known by their program and by a variable that they were started with: numbers
    are given anew, and files that tell them come late or are lost."""

    def find(self, programs: Sequence[str], variable: str) -> tuple[int, ...]:
        """Numbers of the processes of these programs that were started with this variable ("NAME=value")."""

    def end(self, programs: Sequence[str], variable: str, seconds: float) -> tuple[int, ...]:
        """Ask them to end, and make them end when they have not in time. Those that are there still."""


class Subprocesses(Commands):
    """Real programs."""

    def run(self, argv: Sequence[str], *, env: Mapping[str, str], stdin: str = "", seconds: float = 20) -> Answer:
        # Files, not pipes: a daemon that keeps its parent's output open would keep us waiting for the end of a pipe.
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            try:
                done = subprocess.run(
                    list(argv),
                    input=stdin.encode(),
                    stdout=output,
                    stderr=errors,
                    env={**os.environ, **env},
                    timeout=seconds,
                    start_new_session=True,  # what ends us with our process group must not end a daemon
                    check=False,
                )
                code = done.returncode
            except subprocess.TimeoutExpired:
                code = TIMED_OUT
            except OSError as error:
                return Answer(code=_NOT_FOUND, errors=f"{argv[0]}: {error.strerror}")
            output.seek(0)
            errors.seek(0)
            return Answer(
                code=code, output=output.read().decode(errors="replace"), errors=errors.read().decode(errors="replace")
            )


class HostProcesses(Processes):
    """Real processes. `proc`: /proc of the namespace that the plugin runs in."""

    def __init__(self, proc: Path | str = "/proc") -> None:
        self._proc = Path(proc)

    def find(self, programs: Sequence[str], variable: str) -> tuple[int, ...]:
        numbers = (int(path.name) for path in self._proc.iterdir() if path.name.isdecimal())
        return tuple(sorted(pid for pid in numbers if self._is(pid, programs, variable.encode())))

    def end(self, programs: Sequence[str], variable: str, seconds: float) -> tuple[int, ...]:
        found = self.find(programs, variable)
        for number in (signal.SIGTERM, signal.SIGKILL):
            until, asked = time.monotonic() + seconds, set[int]()
            while found and time.monotonic() < until:
                for pid in set(found) - asked:
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
                asked |= set(found)
                time.sleep(_POLL_SECONDS)
                found = self.find(programs, variable)
        return found

    def _is(self, pid: int, programs: Sequence[str], variable: bytes) -> bool:
        """Whether a process is one of those; one that is gone, or has ended and is not waited for, is none."""
        try:
            words = (self._proc / str(pid) / "cmdline").read_bytes().split(b"\0")
            # A script's program is its interpreter's argument.
            if not any(PurePosixPath(word.decode(errors="replace")).name in programs for word in words[:3]):
                return False
            if variable not in (self._proc / str(pid) / "environ").read_bytes().split(b"\0"):
                return False
            return (self._proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[:1] != ["Z"]
        except OSError:
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """Where the driver's programs are seen from here, empty where they are not, and the variables they need.

    `own_shm`: a daemon gets a /dev/shm of its own, by a mount namespace, which takes the plugin's privileges."""

    mps_control: str = ""
    smi: str = ""
    imex_ctl: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    own_shm: bool = True


def tools(root: Path | str, libraries: Libraries, *, own_shm: bool = True) -> Tools:
    """The programs of a driver whose root is seen at `root`.

    Below another root than "/" its libraries are loaded by their paths, and none of their folders is searched: there
    lies a C library, too, which is not the one that these programs are started with."""
    top = str(root).rstrip("/")
    programs = {PurePosixPath(path).name: top + path for path in libraries.programs}
    env: dict[str, str] = {}
    if top:
        folders = sorted({str(PurePosixPath(path).parent) for path in programs.values()})
        loaded = [top + path for path in libraries.libraries if PurePosixPath(path).name.startswith(_PRELOADED)]
        # The control daemon looks for its server in PATH.
        env = {"PATH": ":".join((*folders, os.environ.get("PATH", os.defpath))), "LD_PRELOAD": ":".join(loaded)}
    return Tools(
        mps_control=programs.get(MPS_CONTROL, ""),
        smi=programs.get(SMI, ""),
        imex_ctl=programs.get(IMEX_CTL, ""),
        env={key: value for key, value in env.items() if value},
        own_shm=own_shm,
    )
