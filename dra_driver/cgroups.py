"""The cgroups of the pods that use a claim: where a limit of device memory is set. By both of the kubelet's drivers.

Source: kubelet, pkg/kubelet/cm (names of pods' cgroups under systemd and cgroupfs).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from dra_driver.devices import ClaimRef
from dra_driver.grants import pods

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
