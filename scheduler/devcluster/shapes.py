"""Machines to simulate: HGX H100, A100 with MIG, GB200 NVL72 racks, T4, CPU only; as Node and ResourceSlice objects.

A shape is counted in units: single nodes, or whole racks where the rack is what one buys. Names, labels, UUIDs and
devices follow from the shape's name and the number of the unit alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from scheduler.api import attributes as names
from scheduler.devcluster import devices, kinds
from scheduler.devcluster.devices import Board, Slot, stable_uuid
from scheduler.devcluster.mig import A100_80GB, H100_80GB, layout
from scheduler.devcluster.objects import Obj
from scheduler.devcluster.pods import reference_to

BLOCK_LABEL, RACK_LABEL = "tutti.example/block", "tutti.example/rack"
SHAPE_LABEL = "node.kubernetes.io/instance-type"

H100 = Board(
    product="NVIDIA H100 80GB HBM3",
    architecture="Hopper",
    compute_capability="9.0.0",
    memory_mib=81559,
    profiles=H100_80GB,
)
A100 = Board(
    product="NVIDIA A100-SXM4-80GB",
    architecture="Ampere",
    compute_capability="8.0.0",
    memory_mib=81920,
    profiles=A100_80GB,
)
GB200 = Board(product="NVIDIA GB200", architecture="Blackwell", compute_capability="10.0.0", memory_mib=189471)
T4 = Board(product="Tesla T4", architecture="Turing", compute_capability="7.5.0", memory_mib=15360)

# Two instances of 1g, one of 2g, one of 3g: mig-parted's "all-balanced".
BALANCED = ("3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb")


class ShapeError(ValueError):
    """A shape that does not exist, or a count that makes no sense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One node to be: the Node object and what its drivers publish."""

    node: Obj
    slices: tuple[Obj, ...]

    @property
    def name(self) -> str:
        """The node's name."""
        return str(self.node["metadata"]["name"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A kind of machine.

    `nodes_per_unit`: 18 for an NVL72 rack, whose GPUs are one NVLink domain (`rack_nvlink`); `node_nvlink`: the GPUs of
    each node are one. `mig`: instances on each GPU from index `mig_from` on; `dynamic_mig`: every GPU may be cut on
    demand. `plugin`: GPUs are a count in the node's allocatable, as a device plugin reports them, and no devices.
    """

    name: str
    title: str
    cpus: int
    memory: str
    board: Board | None = None
    gpus: int = 0
    nics: int = 0
    node_nvlink: bool = False
    rack_nvlink: bool = False
    mig: tuple[str, ...] = ()
    mig_from: int = 0
    dynamic_mig: bool = False
    plugin: bool = False
    architecture: str = "amd64"
    nodes_per_unit: int = 1
    nodes_per_rack: int = 4
    racks_per_block: int = 4
    pods: int = 110
    labels: dict[str, str] = field(default_factory=dict)

    def machines(self, count: int, first: int = 0) -> Iterator[Machine]:
        """The machines of `count` units, the first of them the cluster's `first`-th of this shape (from 0)."""
        per_unit = self.nodes_per_unit
        for number in range(first * per_unit, (first + count) * per_unit):
            yield self._machine(number)

    def node_name(self, number: int) -> str:
        """The name of the number-th node of this shape, from 0."""
        if self.nodes_per_unit == 1:
            return f"{self.name}-{number:03d}"
        return f"{self.name}-{number // self.nodes_per_unit:02d}-{number % self.nodes_per_unit:02d}"

    def _machine(self, number: int) -> Machine:
        name = self.node_name(number)
        slots = [self._slot(name, number, index) for index in range(self.gpus)]
        node = self._node(name, number, slots)
        slices: list[Obj] = []
        if slots and not self.plugin:
            slices += _pool(name, names.GPU_DRIVER, self._gpu_contents(slots))
        if self.nics:
            cards = [devices.nic(name, index, _numa(index, self.nics)) for index in range(self.nics)]
            slices += _pool(name, devices.NIC_DRIVER, [{"devices": cards}])
        return Machine(node=node, slices=tuple(slices))

    def _slot(self, node: str, number: int, index: int) -> Slot:
        assert self.board is not None
        domain, clique = "", None
        if self.rack_nvlink:
            # <cluster UUID>.<clique>, as NVML reports a fabric that spans nodes.
            domain, clique = f"{stable_uuid(self.name, 'fabric', number // self.nodes_per_unit)}.1", 1
        elif self.node_nvlink:
            domain = f"{stable_uuid(node, 'fabric')}.0"
        numa = _numa(index, self.gpus)
        return Slot(board=self.board, node=node, index=index, numa=numa, domain=domain, clique=clique)

    def _gpu_contents(self, slots: list[Slot]) -> list[Obj]:
        """What each slice of the GPU pool holds: one with all devices, or counters apart and then a slice per GPU."""
        if self.dynamic_mig:
            counters = [devices.counter_set(slot) for slot in slots]
            return [{"sharedCounters": counters}, *({"devices": devices.partitions(slot)} for slot in slots)]
        published: list[Obj] = []
        for slot in slots:
            if self.mig and slot.index >= self.mig_from:
                published += [devices.mig_device(slot, instance) for instance in layout(slot.board.profiles, self.mig)]
            else:
                published.append(devices.gpu(slot))
        return [{"devices": published}]

    def _node(self, name: str, number: int, slots: list[Slot]) -> Obj:
        capacity = {
            "cpu": str(self.cpus),
            "memory": self.memory,
            "ephemeral-storage": "2Ti",
            "pods": str(self.pods),
        }
        if self.plugin:
            capacity[names.GPU_RESOURCE] = str(self.gpus)
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": self._labels(name, number, slots)},
            "spec": {"providerID": f"devcluster://{name}"},
            "status": {
                "capacity": capacity,
                "allocatable": capacity,
                "conditions": _conditions(),
                "addresses": [
                    {"type": "InternalIP", "address": devices.stable_address(name)},
                    {"type": "Hostname", "address": name},
                ],
                "nodeInfo": {
                    "architecture": self.architecture,
                    "operatingSystem": "linux",
                    "kubeletVersion": "v1.36.4",
                    "containerRuntimeVersion": "devcluster://1",
                    "osImage": "simulated",
                    "kernelVersion": "6.8.0",
                },
            },
        }

    def _labels(self, name: str, number: int, slots: list[Slot]) -> dict[str, str]:
        rack = number // self.nodes_per_rack
        labels = {
            "kubernetes.io/arch": self.architecture,
            names.HOSTNAME_LABEL: name,
            "kubernetes.io/os": "linux",
            SHAPE_LABEL: self.name,
            names.ZONE_LABEL: "zone-1",
            BLOCK_LABEL: f"{self.name}-block-{rack // self.racks_per_block:02d}",
            RACK_LABEL: f"{self.name}-rack-{rack:02d}",
            **self.labels,
        }
        if self.board is not None:
            labels |= self._gpu_labels(self.board)
        if self.rack_nvlink and slots:
            labels[names.CLIQUE_LABEL] = slots[0].domain
        return labels

    def _gpu_labels(self, board: Board) -> dict[str, str]:
        """As GPU Feature Discovery writes them."""
        major, minor, _ = board.compute_capability.split(".")
        return {
            names.GPU_PRODUCT_LABEL: board.product.replace(" ", "-"),
            "nvidia.com/gpu.count": str(self.gpus),
            "nvidia.com/gpu.memory": str(board.memory_mib),
            "nvidia.com/gpu.family": board.architecture.lower(),
            "nvidia.com/gpu.compute.major": major,
            "nvidia.com/gpu.compute.minor": minor,
            "nvidia.com/gpu.present": "true",
            "nvidia.com/mig.capable": "true" if board.profiles else "false",
            "nvidia.com/mig.strategy": "mixed" if self.mig else "none",
        }


def _conditions() -> list[Obj]:
    good = {
        "MemoryPressure": ("False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        "DiskPressure": ("False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        "PIDPressure": ("False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        "Ready": ("True", "KubeletReady", "kubelet is posting ready status"),
    }
    return [
        {"type": type_, "status": status, "reason": reason, "message": text}
        for type_, (status, reason, text) in good.items()
    ]


def _numa(index: int, count: int) -> int:
    """Two sockets, each with half of the devices."""
    return 0 if index < (count + 1) // 2 else 1


def _pool(node: str, driver: str, contents: list[Obj]) -> list[Obj]:
    """The slices of a node's pool, named after the node as drivers do."""
    pool = {"name": node, "generation": 1, "resourceSliceCount": len(contents)}
    return [
        {
            "apiVersion": kinds.SLICE.api_version,
            "kind": kinds.SLICE.kind,
            "metadata": {"name": f"{node}-{driver}-{number}"},
            "spec": {"driver": driver, "nodeName": node, "pool": pool, **content},
        }
        for number, content in enumerate(contents)
    ]


def owned_by(slice_: Obj, node: Obj) -> Obj:
    """The slice with its Node as owner, so that it goes when the node does."""
    return {**slice_, "metadata": {**slice_["metadata"], "ownerReferences": [reference_to(node, kinds.NODE)]}}


def _device_class(name: str, expression: str, extended: str = "") -> Obj:
    spec: Obj = {"selectors": [{"cel": {"expression": expression}}]}
    if extended:
        spec["extendedResourceName"] = extended
    meta = {"name": name}
    return {"apiVersion": kinds.DEVICE_CLASS.api_version, "kind": "DeviceClass", "metadata": meta, "spec": spec}


def _of_type(type_: str) -> str:
    driver = names.GPU_DRIVER
    return f"device.driver == '{driver}' && device.attributes['{driver}'].type == '{type_}'"


DEVICE_CLASSES: tuple[Obj, ...] = (
    _device_class("gpu.nvidia.com", _of_type("gpu"), names.GPU_RESOURCE),
    _device_class("mig.nvidia.com", _of_type("mig")),
    _device_class("rdma-nic", f"device.driver == '{devices.NIC_DRIVER}' && device.attributes['dra.net'].rdma"),
)

_HGX = Shape(
    name="h100x8",
    title="HGX H100: 8 GPUs of 80 GB, one NVLink domain for each node",
    cpus=224,
    memory="2Ti",
    board=H100,
    gpus=8,
    node_nvlink=True,
)
_T4 = Shape(name="t4", title="4 Tesla T4 without NVLink", cpus=48, memory="192Gi", board=T4, gpus=4)

SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        _HGX,
        replace(_HGX, name="h100x8-nic", title=_HGX.title + ", a network card beside each GPU", nics=8),
        replace(_HGX, name="h100x8-mig", title="HGX H100 whose GPUs can be cut by MIG on demand", dynamic_mig=True),
        Shape(
            name="a100x8",
            title="HGX A100: 8 GPUs of 80 GB, one NVLink domain for each node",
            cpus=128,
            memory="1Ti",
            board=A100,
            gpus=8,
            node_nvlink=True,
        ),
        Shape(
            name="a100-mig",
            title="8 A100 of 80 GB: four whole, four cut into 3g.40gb, 2g.20gb and two 1g.10gb",
            cpus=128,
            memory="1Ti",
            board=A100,
            gpus=8,
            node_nvlink=True,
            mig=BALANCED,
            mig_from=4,
        ),
        Shape(
            name="gb200-nvl72",
            title="GB200 NVL72: a rack of 18 nodes with 4 GPUs each, one NVLink domain for the rack",
            cpus=144,
            memory="960Gi",
            board=GB200,
            gpus=4,
            rack_nvlink=True,
            architecture="arm64",
            nodes_per_unit=18,
            nodes_per_rack=18,
            racks_per_block=8,
        ),
        _T4,
        replace(_T4, name="t4-plugin", title=_T4.title + ", counted by a device plugin", plugin=True),
        Shape(name="cpu", title="CPU only", cpus=64, memory="256Gi"),
    )
}


def parse_counts(texts: list[str]) -> dict[str, int]:
    """["h100x8=4", "cpu"] is {"h100x8": 4, "cpu": 1}. Raises ShapeError naming the text."""
    counts: dict[str, int] = {}
    for text in texts:
        name, equals, number = text.partition("=")
        if not (number.isascii() and number.isdigit()) and equals:
            raise ShapeError(f"shape {text!r}: {number!r} is not a count; write NAME=COUNT, such as h100x8=4")
        shape_named(name)
        counts[name] = counts.get(name, 0) + (int(number) if equals else 1)
    return counts


def shape_named(name: str) -> Shape:
    """The shape of this name. Raises ShapeError."""
    shape = SHAPES.get(name)
    if shape is None:
        raise ShapeError(f"shape {name!r} does not exist; choose from {', '.join(sorted(SHAPES))}")
    return shape
