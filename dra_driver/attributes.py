"""What devices are called and what they say of themselves: NVIDIA's names, and ours beside them.

Attributes have their bare names here; `dra_driver.slices` gives them the domain that their readers expect. What is not
known is left out: a selector that asks for it then fails, and a constraint over it matches nothing.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256

from dra_driver.devices import Attribute, Enforcement, Version
from dra_driver.facts import Driver, FabricState, Gpu, MigInstance, MigProfile, Placement
from dra_driver.host import Place
from scheduler.api import attributes as names

MOST_TEXT = 64
_SWITCH = "switch"


def gpu_name(number: int) -> str:
    """A whole GPU. `number` is its minor number when it was first seen."""
    return f"gpu-{number}"


def mig_name(number: int, profile: str, profile_id: int, start: int) -> str:
    """A MIG device, made on demand or not: NVIDIA's grammar, by which others take such names apart."""
    short = re.sub(r"[^a-z0-9]", "-", profile.lower().replace(".", ""))
    return f"gpu-{number}-mig-{short}-{profile_id}-{start}"


def set_name(number: int) -> str:
    """The counter set of a GPU."""
    return f"gpu-{number}-counter-set"


def of_whole(
    gpu: Gpu, driver: Driver, place: Place, *, domain: str, peers: int, mig_mode: str, enforcement: Enforcement
) -> Mapping[str, Attribute]:
    """A whole GPU. `domain`: its NVLink domain, empty without one; `peers`: GPUs of this node it has NVLinks to."""
    fabric, rack = gpu.fabric, gpu.rack
    joined = fabric is not None and fabric.state is FabricState.COMPLETED and fabric.cluster
    return _known(
        {
            names.TYPE: "gpu",
            names.UUID: gpu.uuid,
            **_of_board(gpu, driver, place),
            names.INDEX: gpu.index,
            names.MINOR: gpu.minor,
            "serial": gpu.serial,
            "gpuModuleID": gpu.module,
            "migMode": mig_mode,
            names.NVLINK_DOMAIN: domain,
            names.CLIQUE_ID: fabric.clique if fabric is not None and joined else None,
            "nvlinkPeers": peers or None,
            "chassisSerial": rack.chassis_serial if rack else "",
            "slotNumber": rack.slot if rack else None,
            "trayIndex": rack.tray if rack else None,
            "memoryEnforcement": enforcement.value,
        }
    )


def of_mig(
    gpu: Gpu, driver: Driver, place: Place, profile: str, where: Placement, instance: MigInstance | None
) -> Mapping[str, Attribute]:
    """A MIG device. `instance`: the one that stands there by an operator's hand; one made on demand has no UUID yet."""
    return _known(
        {
            names.TYPE: "mig",
            names.UUID: instance.uuid if instance else "",
            names.PARENT_UUID: gpu.uuid,
            names.PROFILE: profile,
            **_of_board(gpu, driver, place),
            "placementStart": where.start,
            "memorySlices": where.size,
        }
    )


def capacities(profile: MigProfile) -> Mapping[str, int]:
    """What an instance of this profile has; memory in bytes."""
    return {
        "multiprocessors": profile.multiprocessors,
        "copyEngines": profile.copy_engines,
        "decoders": profile.decoders,
        "encoders": profile.encoders,
        "jpegEngines": profile.jpeg_engines,
        "ofaEngines": profile.ofa_engines,
        "memory": profile.memory_bytes,
    }


def semantic(version: str | Sequence[int]) -> Version | None:
    """A semantic version: three numbers without leading zeros ("580.65.06" -> 580.65.6); None for what has none.

    What follows the third number is left out: whoever compares two drivers compares three numbers."""
    numbers = re.findall(r"\d+", version)[:3] if isinstance(version, str) else [str(part) for part in version][:3]
    if not numbers:
        return None
    return Version(text=".".join(str(int(part)) for part in [*numbers, "0", "0"][:3]))


def nvlink_domains(node: str, gpus: Iterable[Gpu]) -> Mapping[str, str]:
    """The NVLink domain of each GPU that has one, by UUID.

    On a fabric that spans nodes it is `<clusterUUID>.<cliqueId>`, the same on all of them. Else GPUs that NVLinks join,
    directly, over others or over switches, are one domain, which bears the node's name: no two nodes share one."""
    known = sorted(gpus, key=lambda gpu: (gpu.index, gpu.uuid))
    found = {}
    for group in _joined(known):
        for gpu in group:
            fabric = gpu.fabric
            if fabric is not None and fabric.state is FabricState.COMPLETED and fabric.cluster:
                found[gpu.uuid] = f"{fabric.cluster}.{fabric.clique}"
            elif gpu.links:
                found[gpu.uuid] = _local(node, group[0].index)
    return found


def nvlink_peers(gpus: Iterable[Gpu]) -> Mapping[str, int]:
    """How many other GPUs of the node each has NVLinks to, directly or over a switch, by UUID."""
    known = list(gpus)
    return {
        gpu.uuid: sum(
            other.uuid != gpu.uuid
            and (
                other.pci_bus in gpu.links
                or gpu.pci_bus in other.links
                or (_SWITCH in gpu.links and _SWITCH in other.links)
            )
            for other in known
        )
        for gpu in known
    }


def _of_board(gpu: Gpu, driver: Driver, place: Place) -> Mapping[str, Attribute | None]:
    """What a GPU and all of its parts share."""
    return {
        names.PRODUCT_NAME: gpu.product,
        names.BRAND: gpu.brand,
        names.ARCHITECTURE: gpu.architecture,
        names.CUDA_COMPUTE_CAPABILITY: semantic(gpu.compute_capability),
        names.DRIVER_VERSION: semantic(driver.version),
        names.CUDA_DRIVER_VERSION: semantic(driver.cuda),
        "addressingMode": gpu.addressing_mode,
        "ccMode": "on" if gpu.confidential else "off",
        names.PCI_BUS_ID: gpu.pci_bus,
        names.PCIE_ROOT: place.pcie_root,
        names.NUMA_NODE: place.numa,
    }


def _known(attributes: Mapping[str, Attribute | None]) -> Mapping[str, Attribute]:
    """Without what is not known, texts cut to what the API takes."""
    return {
        name: _cut(value) if isinstance(value, str) else value
        for name, value in attributes.items()
        if value is not None and value != ""
    }


def _cut(text: str) -> str:
    return text.encode()[:MOST_TEXT].decode(errors="ignore")


def _joined(gpus: Sequence[Gpu]) -> list[list[Gpu]]:
    """The GPUs that NVLinks join, each group and all of them in the order given."""
    above = {gpu.pci_bus: gpu.pci_bus for gpu in gpus} | {_SWITCH: _SWITCH}

    def head(name: str) -> str:
        while above[name] != name:
            name = above[name]
        return name

    for gpu in gpus:
        for other in gpu.links:
            if other in above:
                above[head(gpu.pci_bus)] = head(other)
    groups: dict[str, list[Gpu]] = {}
    for gpu in gpus:
        groups.setdefault(head(gpu.pci_bus), []).append(gpu)
    return list(groups.values())


def _local(node: str, first: int) -> str:
    """A domain inside a node. A name too long for the API is told apart by its hash."""
    name = f"{node}/nvlink-{first}"
    if len(name) <= MOST_TEXT:
        return name
    return f"{node[:36]}-{sha256(node.encode()).hexdigest()[:16]}/nvlink-{first}"
