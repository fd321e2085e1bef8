"""GPUs of cases in which pods share them: devices that may be given several times, a part of their memory each.

A fraction of a GPU is that part of its memory, whatever GPU it is; a whole one all of it. Memory counts in thousandths
of MiB, so that every fraction of every GPU is a whole number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from scheduler.api import dra
from scheduler.api.attributes import GPU_DRIVER
from scheduler.api.meta import ObjectMeta
from scheduler.dra.selection import only_on
from tests.conformance.kai_cases import Case, Node, Request, Task

_MEMORY = "memory"
_MAIN = "main"
_FINE = 1000


class TooMuch(Exception):
    """More runs on a node than it has."""


def are_shared(case: Case) -> bool:
    """Whether a task of the case wants less than a whole GPU."""
    return any(task.request.shares for job in case.jobs for task in job.tasks)


def device_class(name: str, driver: str) -> dra.DeviceClass:
    selector = dra.DeviceSelector(cel=dra.CELDeviceSelector(expression=f'device.driver == "{driver}"'))
    return dra.DeviceClass(metadata=ObjectMeta(name=name), spec=dra.DeviceClassSpec(selectors=(selector,)))


def published(name: str, node: str, driver: str, devices: Sequence[dra.Device]) -> dra.ResourceSlice:
    return dra.ResourceSlice(
        metadata=ObjectMeta(name=name, uid=f"slice-{name}"),
        spec=dra.ResourceSliceSpec(
            driver=driver,
            pool=dra.ResourcePool(name=node, generation=1, resource_slice_count=1),
            node_name=node,
            devices=tuple(devices),
        ),
    )


def gpu(name: str, memory: int | None = None) -> dra.Device:
    """A GPU; one with `memory` (MiB) can be shared."""
    attributes = {
        f"{GPU_DRIVER}/type": dra.DeviceAttribute(string="gpu"),
        f"{GPU_DRIVER}/uuid": dra.DeviceAttribute(string=f"GPU-{name}"),
    }
    if memory is None:
        return dra.Device(name=name, attributes=attributes)
    capacity = {_MEMORY: dra.DeviceCapacity(value=str(memory * _FINE))}
    return dra.Device(name=name, attributes=attributes, capacity=capacity, allow_multiple_allocations=True)


class SharedGpus:
    """The GPUs of a case's nodes as devices, and which of them its running tasks have."""

    def __init__(self, case: Case) -> None:
        self._nodes = {node.name: node for node in case.nodes}
        self._memories = sorted({node.gpu_memory for node in case.nodes if node.allocatable_gpus})
        self._taken: dict[str, dict[str, int]] = {}

    def slices(self) -> Iterator[dra.ResourceSlice]:
        for node in self._nodes.values():
            if node.allocatable_gpus:
                devices = [gpu(f"gpu-{index}", node.gpu_memory) for index in range(node.allocatable_gpus)]
                yield published(f"{node.name}-gpus", node.name, GPU_DRIVER, devices)

    def claim(self, request: Request) -> dra.ResourceClaimSpec | None:
        """What a task asks for; None if it needs no GPU. Where GPUs differ, there is an alternative for each kind."""
        if not request.gpus and not request.shares:
            return None
        count = request.gpu_devices if request.shares else request.gpus
        if not request.shares or len(self._memories) <= 1:
            memory = self._memories[0] if self._memories else 1
            exactly = dra.ExactDeviceRequest(
                device_class_name=GPU_DRIVER, count=count, capacity=_capacity(request, memory)
            )
            asked = dra.DeviceRequest(name=_MAIN, exactly=exactly)
        else:
            asked = dra.DeviceRequest(
                name=_MAIN,
                first_available=tuple(_alternative(request, count, memory) for memory in self._memories),
            )
        apart = dra.DeviceConstraint(distinct_attribute=f"{GPU_DRIVER}/uuid") if count > 1 else None
        return dra.ResourceClaimSpec(
            devices=dra.DeviceClaim(requests=(asked,), constraints=(apart,) if apart is not None else None)
        )

    def held(self, task: Task) -> dra.AllocationResult:
        """What a task on a node has: the GPUs of its groups, and as many others as it needs. Call it once a task, those
        with groups first. Raises TooMuch."""
        node, request = self._nodes[task.node], task.request
        count = request.gpu_devices if request.shares else request.gpus
        names = [*task.gpu_groups, *(f"{task.name}#{number}" for number in range(len(task.gpu_groups), count))][:count]
        single = not request.shares or len(self._memories) <= 1
        results = tuple(
            dra.DeviceRequestAllocationResult(
                request=_MAIN if single else f"{_MAIN}/{_of(node.gpu_memory)}",
                driver=GPU_DRIVER,
                pool=node.name,
                device=f"gpu-{self._index(node, name)}",
                share_id=f"{task.name}-{number}",
                consumed_capacity=_consumed(request, node.gpu_memory),
            )
            for number, name in enumerate(names)
        )
        return dra.AllocationResult(
            devices=dra.DeviceAllocationResult(results=results), node_selector=only_on(node.name)
        )

    def _index(self, node: Node, name: str) -> int:
        taken = self._taken.setdefault(node.name, {})
        if name not in taken and len(taken) == node.allocatable_gpus:
            raise TooMuch(f"node {node.name} has {node.allocatable_gpus} GPUs, and more are in use")
        return taken.setdefault(name, len(taken))


def _of(memory: int) -> str:
    return f"of-{memory}"


def _alternative(request: Request, count: int, memory: int) -> dra.DeviceSubRequest:
    expression = f'device.capacity["{GPU_DRIVER}"].{_MEMORY}.compareTo(quantity("{memory * _FINE}")) == 0'
    return dra.DeviceSubRequest(
        name=_of(memory),
        device_class_name=GPU_DRIVER,
        count=count,
        selectors=(dra.DeviceSelector(cel=dra.CELDeviceSelector(expression=expression)),),
        capacity=_capacity(request, memory),
    )


def _capacity(request: Request, memory: int) -> dra.CapacityRequirements | None:
    """What is asked of a GPU with so much memory; None for all of it."""
    return dra.CapacityRequirements(requests=_consumed(request, memory)) if request.shares else None


def _consumed(request: Request, memory: int) -> Mapping[str, str]:
    if not request.shares:
        return {_MEMORY: str(memory * _FINE)}
    return {_MEMORY: str(request.gpu_memory * _FINE or round(request.gpu_fraction * memory * _FINE))}
