"""Extended resources served by device classes: `nvidia.com/gpu: 2` as a claim made on the pod's behalf.

A node whose device plugin advertises the resource serves it the old way; on any other node the class that carries the
resource's name does. One pod may fit nodes of either kind.
Source: KEP 5004.
"""

from collections.abc import Mapping, Sequence
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

    Without a node: as on one that has no device plugin. Containers that stay (sidecars too) have devices of their own.
    One that runs to its end before others start uses theirs, a request at a time until it has enough; what all later
    ones together do not have, it asks for, and shares with others that run to their end. So the claim asks for no more
    than are needed at one time, but an init container may see more devices than it asked for.
    """
    resources: dict[str, str] = {}
    for name in sorted({name for container in pod.extended for name in container.requests}):
        served = class_of(name, classes, serving)
        if served is not None and (node is None or not node.allocatable[name]):
            resources[name] = served
    claimed = [_claimed(pod.extended, resource, of) for resource, of in resources.items()]
    requests = sorted((request for parts in claimed for request in parts[0]), key=lambda request: request.name)
    if not requests:
        return None
    return ExtendedClaim(
        spec=ResourceClaimSpec(devices=DeviceClaim(requests=tuple(requests))),
        mappings=tuple(mapping for parts in claimed for mapping in parts[1]),
    )


def _claimed(
    containers: Sequence[ContainerAsk], resource: str, device_class: str
) -> tuple[list[DeviceRequest], list[ExtendedMapping]]:
    """Requests for one resource, and which container uses which of them."""
    asking = [each for each in sorted(containers, key=lambda c: c.index) if each.requests.get(resource, 0) > 0]
    staying = {each.index: each.requests[resource] for each in asking if not _ends_before(each)}
    name_of = {each.index: _request_name(each, resource) for each in asking}
    mappings = [_mapping(each, resource, name_of[each.index]) for each in asking if each.index in staying]
    lacking: dict[int, int] = {}
    for container in asking:
        if container.index in staying:
            continue
        lack = container.requests[resource]
        for index, count in staying.items():
            if index > container.index and lack > 0:
                mappings.append(_mapping(container, resource, name_of[index]))
                lack -= count
        if lack > 0:
            lacking[container.index] = lack
    if lacking:
        most = max(lacking, key=lambda index: (lacking[index], -index))
        staying[most] = lacking[most]
        mappings += [_mapping(each, resource, name_of[most]) for each in asking if each.index in lacking]
    wanted = [
        DeviceRequest(name=name_of[index], exactly=ExactDeviceRequest(device_class_name=device_class, count=count))
        for index, count in staying.items()
    ]
    return wanted, mappings


def _ends_before(container: ContainerAsk) -> bool:
    """Whether it has ended before any container after it starts."""
    return container.init and not container.sidecar


def _request_name(container: ContainerAsk, resource: str) -> str:
    return f"container-{container.index}-request-{sorted(container.requests).index(resource)}"


def _mapping(container: ContainerAsk, resource: str, request: str) -> ExtendedMapping:
    return ExtendedMapping(container=container.name, resource=resource, request=request)
