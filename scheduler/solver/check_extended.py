"""Are the extended resources that a node has not served by a claim, every container's in full? A part of the check of
plans.

Source: KEP 5004.
"""

from collections.abc import Iterator, Mapping

from scheduler.api import dra
from scheduler.model.nodes import Node
from scheduler.model.plan import ClaimAllocation, Placement
from scheduler.model.snapshot import Snapshot
from scheduler.model.workloads import Pod


def served_by_claim(snapshot: Snapshot, placement: Placement, pod: Pod, node: Node) -> Iterator[str]:
    """Violations of one pod that asks for extended resources."""
    made = [part for part in placement.claims if part.make is not None]
    held = snapshot.claims.get(pod.extended_claim)
    if held is not None and held.allocation is not None:
        if made:
            yield f"pod {pod.key} gets a claim made, and claim {held.key} serves it already"
        return
    if len(made) > 1:
        yield f"pod {pod.key} gets {len(made)} claims made"
    counts: dict[str, int] = {}
    for part in made:
        counts.update(_counts(part))
        yield from _well_made(snapshot, part, pod)
    mapped: dict[tuple[str, str], list[str]] = {}
    for part in made:
        for mapping in part.mappings:
            mapped.setdefault((mapping.container, mapping.resource), []).append(mapping.request)
    for container in pod.extended:
        for name, asked in sorted(container.requests.items()):
            requests = mapped.pop((container.name, name), [])
            got = sum(counts.get(request, 0) for request in set(requests))
            if node.allocatable[name]:
                if requests:
                    yield f"pod {pod.key} gets {name} by a claim, and node {node.name} has it"
            elif asked > 0 and not got:
                yield f"pod {pod.key} on node {node.name} gets no {name}"
            elif got < asked:
                yield f"pod {pod.key}: container {container.name} gets {got} {name} and asks for {asked}"
    for name in sorted({mapping.resource for part in made for mapping in part.mappings}):
        serving = {mapping.request for part in made for mapping in part.mappings if mapping.resource == name}
        got = sum(counts.get(request, 0) for request in serving)
        if got > pod.requests[name]:
            yield f"pod {pod.key} gets {got} {name} and asks for {pod.requests[name]} at one time"
    for container_name, name in sorted(mapped):
        yield f"pod {pod.key}: container {container_name} gets {name} and does not ask for it"


def _counts(part: ClaimAllocation) -> Mapping[str, int]:
    """How many devices each request of a made claim asks for."""
    requests = part.make.devices.requests or () if part.make is not None else ()
    return {
        request.name: 1 if request.exactly.count is None else request.exactly.count
        for request in requests
        if request.exactly is not None and request.exactly.allocation_mode == "ExactCount"
    }


def _well_made(snapshot: Snapshot, part: ClaimAllocation, pod: Pod) -> Iterator[str]:
    """The claim is the pod's and new; each of its requests serves a resource of its class, for containers of which no
    two run at the same time."""
    if part.claim in snapshot.claims:
        yield f"pod {pod.key} gets claim {part.claim} made, which exists"
    if part.claim.partition("/")[0] != pod.namespace:
        yield f"pod {pod.key} gets claim {part.claim} of another namespace"
    containers = sorted(pod.extended, key=lambda container: container.index)
    requests = (part.make.devices.requests if part.make is not None else None) or ()
    classes = {r.name: r.exactly.device_class_name for r in requests if r.exactly is not None}
    for mapping in part.mappings:
        if mapping.request not in classes:
            yield f"pod {pod.key}: {mapping.resource} is mapped to request {mapping.request}, which is not there"
        elif not _serves(snapshot, classes[mapping.request], mapping.resource):
            yield f"pod {pod.key}: {mapping.resource} is not what class {classes[mapping.request]} serves"
    for request in requests:
        names = {mapping.container for mapping in part.mappings if mapping.request == request.name}
        users = [container for container in containers if container.name in names]
        if not users:
            yield f"pod {pod.key}: request {request.name} of the claim made for it serves nothing"
        if not all(container.init and not container.sidecar for container in users[:-1]):
            yield f"pod {pod.key}: request {request.name} serves containers that run at the same time"


def _serves(snapshot: Snapshot, device_class: str, resource: str) -> bool:
    found = snapshot.classes.get(device_class)
    implicit = dra.IMPLICIT_EXTENDED_RESOURCE_PREFIX + device_class
    return resource == implicit or (found is not None and found.spec.extended_resource_name == resource)
