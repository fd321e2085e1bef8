"""Documents of nodes with NUMA zones and of pods that kubelets align to them."""

from collections.abc import Mapping
from typing import Any

from tests.manifests import Document, container, meta, pod

Amount = int | str


def node_topology(
    node: str,
    *zones: Mapping[str, Amount | tuple[Amount, Amount]],
    policy: str = "single-numa-node",
    scope: str = "pod",
) -> Document:
    """What an exporter tells of a node. A zone by resource: what it has, or that and what is available of it."""
    return {
        "apiVersion": "topology.node.k8s.io/v1alpha2",
        "kind": "NodeResourceTopology",
        "metadata": meta(node),
        "topologyPolicies": [],
        "attributes": [
            {"name": "topologyManagerPolicy", "value": policy},
            {"name": "topologyManagerScope", "value": scope},
        ],
        "zones": [
            {"name": f"node-{number}", "type": "Node", "resources": [_resource(*each) for each in zone.items()]}
            for number, zone in enumerate(zones)
        ],
    }


def _resource(name: str, amount: Amount | tuple[Amount, Amount]) -> Document:
    most, free = amount if isinstance(amount, tuple) else (amount, amount)
    return {"name": name, "capacity": str(most), "allocatable": str(most), "available": str(free)}


def limited(cpu: str, memory: str = "1Gi", *, gpus: int = 0, name: str = "main") -> Document:
    """A container with limits for all that it asks for."""
    amounts = {"cpu": cpu, "memory": memory} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    return container(name, requests=amounts, limits=amounts)


def guaranteed(name: str, cpu: str, *, gpus: int = 0, on: str = "", **fields: Any) -> Document:
    """A pod of the class Guaranteed; with `on` it runs there since long ago."""
    made = pod(name, containers=[limited(cpu, gpus=gpus)], **{"node": on or None, **fields})
    if on:
        made["status"] |= {"phase": "Running", "startTime": "1970-01-01T00:00:01Z"}
    return made
