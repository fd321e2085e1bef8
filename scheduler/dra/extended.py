"""Extended resources served by device classes: `nvidia.com/gpu: 2` as a claim made on the pod's behalf.

A node whose device plugin advertises the resource serves it the old way; on any other node the class that carries the
resource's name does. One pod may fit nodes of either kind.
Source: KEP 5004.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from scheduler.api.dra import (
    IMPLICIT_EXTENDED_RESOURCE_PREFIX,
    DeviceClaim,
    DeviceClass,
    DeviceRequest,
    ExactDeviceRequest,
    ResourceClaimSpec,
)
from scheduler.model.nodes import Node
from scheduler.model.plan import ExtendedMapping
from scheduler.model.workloads import ContainerAsk, Pod


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendedClaim:
    """The claim to make for a pod, and which of its requests serves which container."""

    spec: ResourceClaimSpec
    mappings: tuple[ExtendedMapping, ...]


def classes_by_resource(classes: Mapping[str, DeviceClass]) -> Mapping[str, str]:
    """The class that serves each extended resource. Of several the newest, then the first by name.

    The implicit names, `deviceclass.resource.kubernetes.io/<class>`, are not listed: `class_of` knows them.
    """
    serving: dict[str, str] = {}
    by_name = sorted(classes.values(), key=lambda c: c.metadata.name, reverse=True)
    for device_class in sorted(by_name, key=lambda c: c.metadata.creation_timestamp or ""):
        if device_class.spec.extended_resource_name:
            serving[device_class.spec.extended_resource_name] = device_class.metadata.name
    return serving


def class_of(resource: str, classes: Mapping[str, DeviceClass], serving: Mapping[str, str]) -> str | None:
    """The class that serves a resource, None if none does. `serving`: what `classes_by_resource` says."""
    if resource.startswith(IMPLICIT_EXTENDED_RESOURCE_PREFIX):
        name = resource.removeprefix(IMPLICIT_EXTENDED_RESOURCE_PREFIX)
        return name if name in classes else None
    return serving.get(resource)


def extended_claim(
    pod: Pod, classes: Mapping[str, DeviceClass], serving: Mapping[str, str], node: Node | None = None
) -> ExtendedClaim | None:
    """The claim that serves a pod's extended resources on a node; None if there is nothing for it to serve.

    Without a node: as on one that has no device plugin. A container that runs to its end before others start uses
    devices of theirs, so that the claim asks for no more than are needed at one time.
    """
    resources: dict[str, str] = {}
    for name in sorted({name for container in pod.extended for name in container.requests}):
        served = class_of(name, classes, serving)
        if served is not None and (node is None or not node.allocatable[name]):
            resources[name] = served
    maker = _Maker(resources)
    for container in sorted(pod.extended, key=lambda c: c.index, reverse=True):
        maker.add(container)
    if not maker.requests:
        return None
    return ExtendedClaim(
        spec=ResourceClaimSpec(devices=DeviceClaim(requests=tuple(reversed(maker.requests)))),
        mappings=tuple(reversed(maker.mappings)),
    )


class _Maker:
    """Requests and mappings, from the last container to the first: later ones' devices are there to be used."""

    def __init__(self, resources: Mapping[str, str]) -> None:
        self._resources = resources
        self._later: list[tuple[str, str, int]] = []
        self.requests: list[DeviceRequest] = []
        self.mappings: list[ExtendedMapping] = []

    def add(self, container: ContainerAsk) -> None:
        ends_before = container.init and not container.sidecar
        own: list[tuple[str, str, int]] = []
        for position, resource in reversed(list(enumerate(sorted(container.requests)))):
            count = container.requests[resource]
            if resource not in self._resources or count <= 0:
                continue
            for name, of, devices in self._later if ends_before else ():
                if of == resource and devices <= count:
                    self._map(container, resource, name)
                    count -= devices
            if count:
                name = f"container-{container.index}-request-{position}"
                self.requests.append(self._request(name, resource, count))
                self._map(container, resource, name)
                own.append((name, resource, count))
        self._later += own

    def _request(self, name: str, resource: str, count: int) -> DeviceRequest:
        wanted = ExactDeviceRequest(device_class_name=self._resources[resource], count=count)
        return DeviceRequest(name=name, exactly=wanted)

    def _map(self, container: ContainerAsk, resource: str, request: str) -> None:
        self.mappings.append(ExtendedMapping(container=container.name, resource=resource, request=request))
