"""Node labels as GPU Feature Discovery writes them, for whoever selects nodes by them: a pure function of facts.

Off unless switched on, and never beside GPU Feature Discovery itself: both would write the same keys. Which keys are
ours is told by an annotation of the Node; with the switch off exactly those are taken away. They describe a node of
like GPUs; of unlike ones the first stands for all, as there. What changes with every claim has no label: an instance
that is made for one, or the sharing of a GPU.
Source: NVIDIA k8s-device-plugin, docs/gpu-feature-discovery (labels and their values).
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from dra_driver.attributes import semantic
from dra_driver.facts import Driver, FabricState, Gpu, MigInstance, MigProfile, Placement
from scheduler.api.attributes import CLIQUE_LABEL, GPU_PRODUCT_LABEL

PREFIX = "nvidia.com/"
MARK = "tutti.scheduler/gpu-labels"
"""Annotation of the Node: the keys that we have written, with commas, without their prefix."""
THEIRS = PREFIX + "gfd.timestamp"
"""What GPU Feature Discovery writes and we do not."""

MIB = 1 << 20
_LONGEST = 63
_MPS_FROM = (7, 0)


def labels(
    gpus: Iterable[Gpu], driver: Driver, *, owned: Collection[tuple[str, Placement]] = (), machine: str = ""
) -> Mapping[str, str]:
    """All labels of a node; none without a GPU. `owned`: GPU and placement of instances that were made for claims.
    `machine`: what its maker calls it."""
    known = sorted(gpus, key=lambda gpu: (gpu.index, gpu.uuid))
    if not known:
        return {}
    cut = [gpu for gpu in known if gpu.mig is not None and gpu.mig.on]
    static = [each for gpu in cut for each in _static(gpu, owned)]
    found = {
        **_driver(driver),
        **_gpus(known),
        "gpu.machine": machine,
        CLIQUE_LABEL.removeprefix(PREFIX): _clique(known),
        "mig.capable": _yes(any(gpu.mig is not None and gpu.mig.profiles for gpu in known)),
        "mig.strategy": "mixed" if static else "none",
        **_instances(known[0], static),
    }
    texts = {f"{PREFIX}{key}": _value(value) for key, value in found.items()}
    return {key: text for key, text in sorted(texts.items()) if text}


def patch(node: Mapping[str, Any], wanted: Mapping[str, str]) -> Mapping[str, Any]:
    """A merge patch of the Node's metadata after which it bears these labels of ours and no others; {} if it does.

    `wanted` is empty with the switch off. Raises LabelsTaken where GPU Feature Discovery is at work."""
    metadata = node.get("metadata") or {}
    present, marked = metadata.get("labels") or {}, (metadata.get("annotations") or {}).get(MARK)
    ours = {f"{PREFIX}{key}" for key in marked.split(",") if key} if marked is not None else set()
    if wanted and THEIRS in present:
        raise LabelsTaken(str(metadata.get("name", "")))
    changed: dict[str, str | None] = {key: text for key, text in wanted.items() if present.get(key) != text}
    changed |= {key: None for key in sorted(ours - wanted.keys()) if key in present}
    mark = ",".join(sorted(key.removeprefix(PREFIX) for key in wanted)) if wanted else None
    document: dict[str, Any] = {}
    if changed:
        document["labels"] = changed
    if mark != marked:
        document["annotations"] = {MARK: mark}
    return {"metadata": document} if document else {}


class LabelsTaken(Exception):
    """Somebody else writes the labels."""

    def __init__(self, node: str) -> None:
        super().__init__(
            f"Node {node}: GPU Feature Discovery labels it already ({THEIRS}); take that away (and its label), or "
            "leave node_labels off."
        )


def _driver(driver: Driver) -> Mapping[str, str]:
    """The forms with a point before the number are older, and still selected by."""
    version = semantic(driver.version)
    major, minor, revision = version.text.split(".") if version else ("", "", "")
    cuda_major, cuda_minor = (str(number) for number in driver.cuda)
    return {
        "cuda.driver-version.major": major,
        "cuda.driver-version.minor": minor,
        "cuda.driver-version.revision": revision,
        "cuda.driver-version.full": driver.version,
        "cuda.runtime-version.major": cuda_major,
        "cuda.runtime-version.minor": cuda_minor,
        "cuda.runtime-version.full": f"{cuda_major}.{cuda_minor}",
        "cuda.driver.major": major,
        "cuda.driver.minor": minor,
        "cuda.driver.rev": revision,
        "cuda.runtime.major": cuda_major,
        "cuda.runtime.minor": cuda_minor,
    }


def _gpus(known: list[Gpu]) -> Mapping[str, str]:
    first = known[0]
    return {
        "gpu.count": str(len(known)),
        "gpu.replicas": "1",
        "gpu.sharing-strategy": "none",
        GPU_PRODUCT_LABEL.removeprefix(PREFIX): first.product,
        "gpu.memory": str(first.memory_bytes // MIB) if first.memory_bytes is not None else "",
        "gpu.family": first.architecture.lower(),
        "gpu.compute.major": str(first.compute_capability[0]),
        "gpu.compute.minor": str(first.compute_capability[1]),
        "mps.capable": _yes(all(gpu.compute_capability >= _MPS_FROM for gpu in known)),
        "vgpu.present": _yes(any(gpu.virtual for gpu in known)),
    }


def _clique(known: list[Gpu]) -> str:
    """The clique that all GPUs have joined; "" if any has not, or they disagree."""
    joined = {
        f"{gpu.fabric.cluster}.{gpu.fabric.clique}"
        if gpu.fabric is not None and gpu.fabric.state is FabricState.COMPLETED and gpu.fabric.cluster
        else ""
        for gpu in known
    }
    return joined.pop() if len(joined) == 1 else ""


def _static(gpu: Gpu, owned: Collection[tuple[str, Placement]]) -> list[tuple[MigInstance, MigProfile]]:
    """An operator's instances that can be used."""
    if gpu.mig is None:
        return []
    profiles = {profile.id: profile for profile in gpu.mig.profiles}
    return [
        (each, profiles[each.profile_id])
        for each in gpu.mig.instances
        if each.uuid and each.profile_id in profiles and (gpu.uuid, each.placement) not in owned
    ]


def _instances(first: Gpu, static: list[tuple[MigInstance, MigProfile]]) -> Mapping[str, str]:
    """Labels of each kind of instance, as of strategy "mixed"."""
    found: dict[str, str] = {}
    for profile in dict.fromkeys(profile for _, profile in static):
        name = f"mig-{profile.name.replace('+', '.')}"
        values = {
            "count": sum(other == profile for _, other in static),
            "replicas": 1,
            "product": f"{first.product}-MIG-{profile.name}",
            "memory": profile.memory_bytes // MIB,
            "multiprocessors": profile.multiprocessors,
            "slices.gi": profile.slices,
            "slices.ci": profile.slices,
            "engines.copy": profile.copy_engines,
            "engines.decoder": profile.decoders,
            "engines.encoder": profile.encoders,
            "engines.jpeg": profile.jpeg_engines,
            "engines.ofa": profile.ofa_engines,
            "sharing-strategy": "none",
        }
        found |= {f"{name}.{key}": str(value) for key, value in values.items()}
    return found


def _yes(value: bool) -> str:
    return "true" if value else "false"


def _value(text: str) -> str:
    """As a label's value can be: spaces become dashes, and so does whatever else it may not hold."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:_LONGEST].strip("-_.")
