"""The GPU Operator's protocol of MIG configs, as a Node's labels speak it, and who takes part in it. Pure.

    nvidia.com/mig.config=<name>          what is wanted: a config of the mig-parted file (`dra_driver.layouts`)
    nvidia.com/mig.config.state           how it stands, for those who wait: pending, success or failed

Its MIG manager does the same, and two may not cut the GPUs of one node. It serves a node while its label
`nvidia.com/gpu.deploy.mig-manager` is "true" (its DaemonSet goes there; the operator leaves "false" alone). And whoever
else has begun is seen by the state: beside each that we write stands our annotation that says the same.
Source: NVIDIA/gpu-operator, NVIDIA/mig-parted (deployments/gpu-operator).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any

Document = Mapping[str, Any]

CONFIG = "nvidia.com/mig.config"
STATE = "nvidia.com/mig.config.state"
MANAGER = "nvidia.com/gpu.deploy.mig-manager"
OUR_STATE = "tutti.scheduler/mig-config-state"
TAINT = "tutti.scheduler/mig-reconfigure"


class State(Enum):
    """How a reconfiguration stands. The operator has "rebooting" too: we reboot nothing."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILED = "failed"


_AT_WORK = (State.PENDING.value, "rebooting")


def labels(node: Document | None) -> Mapping[str, str]:
    """Of a Node that may not be there."""
    return (node or {}).get("metadata", {}).get("labels") or {}


def config(node: Document | None) -> str:
    """The config that is wanted; empty for none."""
    return labels(node).get(CONFIG, "")


def state(node: Document | None) -> str:
    """How it is said to stand, by whomever."""
    return labels(node).get(STATE, "")


def our_state(node: Document | None) -> str:
    """The state that this plugin has written last."""
    return str(((node or {}).get("metadata", {}).get("annotations") or {}).get(OUR_STATE, ""))


def part(node: Document | None) -> tuple[str, ...]:
    """All of a Node that is gone by here."""
    return config(node), state(node), labels(node).get(MANAGER, ""), our_state(node)


def change(new: State | None) -> dict[str, Any]:
    """The patch that says how it stands; None: not at all."""
    value = new.value if new is not None else None
    return {"metadata": {"labels": {STATE: value}, "annotations": {OUR_STATE: value}}}


def rival(node: Document) -> str:
    """Who else cuts the GPUs of this node, in words; "" if nobody does."""
    about, said = f"Node {node['metadata']['name']}", state(node)
    if labels(node).get(MANAGER) == "true":
        return (
            f"{about}: the GPU Operator's MIG manager serves it ({MANAGER}=true), and two may not cut its GPUs; set "
            "that label to false, or take mig_configs from this plugin's settings."
        )
    if said and said != our_state(node) and (said in _AT_WORK or our_state(node) == State.PENDING.value):
        return (
            f"{about}: label {STATE} says {said}, and somebody else has written it; end who cuts the node's GPUs "
            "beside this plugin (MIG manager, nvidia-mig-parted), then remove the label."
        )
    return ""


def given(claim: Document, driver: str, pool: str) -> Iterator[str]:
    """Names of the pool's devices that a claim is given, but for those that it only looks on."""
    results = (((claim.get("status") or {}).get("allocation") or {}).get("devices") or {}).get("results") or ()
    for result in results:
        if (result.get("driver"), result.get("pool")) == (driver, pool) and not result.get("adminAccess"):
            yield str(result.get("device"))


def since(slices: Iterable[Document], name: str) -> int | None:
    """When the first taint for this config that is published was set (ms since 1970); None if none is."""
    devices = (device for each in slices for device in each["spec"].get("devices") or ())
    times = (
        taint["timeAdded"]
        for device in devices
        for taint in device.get("taints") or ()
        if taint.get("key") == TAINT and taint.get("value") == name and taint.get("timeAdded")
    )
    return min((int(datetime.fromisoformat(time).timestamp() * 1000) for time in times), default=None)


def waits(name: str, users: Mapping[str, Sequence[str]], *, moved: bool) -> str:
    """Who still has GPUs. `moved`: their pods are being moved away."""
    listed = "; ".join(f"{', '.join(found)} on GPU {gpu}" for gpu, found in sorted(users.items()) if found)
    cure = "pods that do not tolerate it are moved away; end others" if moved else "end them"
    return f"MIG config {name}: waits for {listed}; it goes on when they are gone: {cure}."


def reset(name: str, gpus: Iterable[str]) -> str:
    """GPUs whose mode changes by a reset."""
    return (
        f"MIG config {name}: pending reset: the MIG mode of GPU {', '.join(gpus)} changes with that only; reboot the "
        "node, or stop all that looks at the GPU, this plugin too, and reset it (nvidia-smi --gpu-reset). It goes on "
        "by itself then, and the GPU is given to nobody before; another config takes that back."
    )
