"""What there is: nodes and the topology they stand in. Devices stay as published (`scheduler.api.dra`)."""

from collections.abc import Mapping
from dataclasses import dataclass

from queues.resources import Resources
from scheduler.api.core import Taint
from scheduler.model.zones import Zones


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class Node:
    """One node. `allocatable` by Kubernetes resource name: "cpu" in thousandths, "memory", "ephemeral-storage" and
    "hugepages-*" in bytes, "pods" and extended resources ("nvidia.com/gpu") as counts."""

    name: str
    uid: str = ""
    labels: Mapping[str, str]
    allocatable: Resources
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    zones: Zones | None = None
    """Its NUMA zones, if its kubelet refuses pods that do not fit them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Ordered levels, coarse to fine. Each is a node label; the last may be the NVLink domain
    (`scheduler.api.crds.NVLINK_LEVEL`, read from device attributes) or the host."""

    name: str
    levels: tuple[str, ...]
    aliases: Mapping[str, str]
