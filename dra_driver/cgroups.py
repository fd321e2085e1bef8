"""Cgroups: those of the pods that use a claim, where a limit of device memory is set; and one for our daemons.

Source: kubelet, pkg/kubelet/cm (names of pods' cgroups under systemd and cgroupfs).
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import structlog

from dra_driver.devices import ClaimRef
from dra_driver.grants import pods

log = structlog.get_logger(__name__)

# Documents of claims are remembered for that many: many times what a node holds, little to keep.
_MOST_CLAIMS = 1024


class PodCgroups:
    """Of the claims whose documents were seen. `sys`: where the host's /sys is seen. Called from several threads."""

    def __init__(self, sys: Path) -> None:
        self._sys = sys
        self._pods: dict[str, tuple[str, ...]] = {}

    def seen(self, document: Mapping[str, object]) -> None:
        """A claim, as the API server tells it: who it is reserved for is remembered. Raises ClaimRefused."""
        metadata = document.get("metadata")
        uid = str(metadata.get("uid", "")) if isinstance(metadata, Mapping) else ""
        self._pods.pop(uid, None)
        self._pods[uid] = pods(document)
        for old in list(self._pods)[:-_MOST_CLAIMS]:
            self._pods.pop(old, None)

    def __call__(self, claim: ClaimRef) -> tuple[str, ...]:
        """Absolute paths, as they are seen from here; none of a claim that was not seen."""
        return pod_cgroups(self._sys, self._pods.get(claim.uid, ()))


def pod_cgroups(sys: Path, pods: Iterable[str]) -> tuple[str, ...]:
    """The cgroups of pods by their UIDs; a pod that has none is left out.

    As they are seen from here, for whoever resolves a path that NVML is told does so for our process."""
    top = sys / "fs" / "cgroup"
    found = []
    for pod in pods:
        slices = pod.replace("-", "_")
        for qos in ("", "burstable", "besteffort"):
            dashed = f"-{qos}" if qos else ""
            outer = f"kubepods{dashed}.slice/" if qos else ""
            names = (
                f"kubepods.slice/{outer}kubepods{dashed}-pod{slices}.slice",
                f"kubepods/{qos + '/' if qos else ''}pod{pod}",
            )
            found += [str(top / name) for name in names if (top / name).is_dir()]
    return tuple(found)


class DaemonCgroup:
    """A cgroup of the host's for daemons that must outlive the plugin's container: who ends a container ends all that
    is in its cgroups. `sys`: where the host's /sys is seen, and may be written."""

    def __init__(self, sys: Path, name: str = "tutti-mps") -> None:
        self._top = sys / "fs" / "cgroup"
        self._name = name

    def started_in(self, argv: Sequence[str]) -> list[str]:
        """A command that goes there before it becomes this one. Where it may not go there, it stays: it then ends with
        the container, and whoever starts next starts it anew."""
        moves = "".join(f"echo $$ >{shlex.quote(str(file))}; " for file in self._files())
        return ["sh", "-c", f'{{ {moves}}} 2>/dev/null; exec "$@"', "sh", *argv] if moves else list(argv)

    def _files(self) -> list[Path]:
        """Where a process's number is written: one file, or with cgroup v1 one in each hierarchy."""
        found = []
        for parent in [self._top] if (self._top / "cgroup.procs").exists() else sorted(self._top.glob("*")):
            if not (parent / "cgroup.procs").exists() or parent.is_symlink():
                continue
            folder = parent / self._name
            try:
                folder.mkdir(exist_ok=True)
                for needed in ("cpuset.cpus", "cpuset.mems"):  # of v1: without them nobody may enter
                    if (parent / needed).exists() and not (folder / needed).read_text().strip():
                        (folder / needed).write_text((parent / needed).read_text())
            except OSError as problem:
                log.warning(
                    "MPS daemons stay in the plugin's own cgroup, and end with its container",
                    cgroup=str(folder),
                    problem=problem.strerror,
                    cure="let the plugin write the host's cgroups (host_root)",
                )
                continue
            found.append(folder / "cgroup.procs")
        return found
