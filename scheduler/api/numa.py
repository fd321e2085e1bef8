"""NodeResourceTopology: what the exporter on a node tells of its NUMA zones, and how its kubelet aligns pods to them.

Source: noderesourcetopology-api, topology.node.k8s.io/v1alpha2. One cluster-wide object for each node, of its name.
"""

from scheduler.api.core import Quantity
from scheduler.api.meta import ObjectMeta, Wire

NODE_ZONE = "Node"
"""The type of a zone that is a NUMA node."""

POLICY_ATTRIBUTE = "topologyManagerPolicy"
SCOPE_ATTRIBUTE = "topologyManagerScope"


class Attribute(Wire, frozen=True, kw_only=True):
    name: str
    value: str = ""


class ZoneResource(Wire, frozen=True, kw_only=True):
    """`allocatable` may be given to pods, `available` is not given to any."""

    name: str
    capacity: Quantity | None = None
    allocatable: Quantity | None = None
    available: Quantity | None = None


class Zone(Wire, frozen=True, kw_only=True):
    name: str
    type: str = NODE_ZONE
    resources: tuple[ZoneResource, ...] | None = None


class NodeResourceTopology(Wire, frozen=True, kw_only=True):
    """`topology_policies`: the older form of the two attributes, in one word."""

    metadata: ObjectMeta
    topology_policies: tuple[str, ...] | None = None
    attributes: tuple[Attribute, ...] | None = None
    zones: tuple[Zone, ...] | None = None
