"""Candidate domains for a gang: where every node stands, level by level, coarse to fine.

A domain is named by the whole way to it ("zone-a/rack-1"): two racks of one name in two zones are two. A level is a
node label, the host itself, or the NVLink domain, which is read from the devices and, on nodes without any, from the
label that GPU feature discovery sets. Source: KAI docs (topology-aware scheduling); DESIGN 2.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scheduler.api import attributes
from scheduler.api.crds import NVLINK_LEVEL
from scheduler.dra.devices import scalar
from scheduler.dra.pools import Inventory
from scheduler.dra.views import NodeDevices
from scheduler.model.nodes import Node, Topology
from scheduler.model.reasons import NodeCount, TopologyUnusable
from scheduler.model.workloads import TopologyConstraint

Level = tuple[str, str]
"""(topology, key); the topology "" for a node label by itself."""

CLIQUE_LEVEL = "clique"
"""Not a label: nodes whose GPUs one NVLink fabric joins, as a ComputeDomain needs them. Nodes that no fabric joins to
others are of one domain as well, in which a ComputeDomain joins nothing."""
NO_FABRIC = "no fabric"


_CLIQUE_ID = f"{attributes.GPU_DRIVER}/{attributes.CLIQUE_ID}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Levels to try for a group, finest first. `required`: the coarsest allowed; None: after the last, anywhere."""

    steps: tuple[Level, ...]
    required: Level | None


NO_LADDER = Ladder(steps=(), required=None)


class Domains:
    """Where every node stands in every topology."""

    def __init__(self, nodes: Iterable[Node], topologies: Mapping[str, Topology], inventory: Inventory) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._topologies = topologies
        self._inventory = inventory
        self._levels: dict[Level, dict[str, str]] = {}
        self._above: dict[Level, tuple[str, ...]] = {}
        self._nvlink: dict[str, str | None] = {}
        self._neighbours: dict[str, tuple[str, ...]] | None = None

    def ladder(self, constraint: TopologyConstraint | None, gang: str) -> Ladder | TopologyUnusable:
        """The levels to try under this constraint, or why it cannot be used."""
        if constraint is None or not (constraint.required or constraint.preferred):
            return NO_LADDER
        topology = self._topologies.get(constraint.topology)
        if topology is None:
            return TopologyUnusable(gang=gang, topology=constraint.topology, problem="does not exist")
        for key in (constraint.required, constraint.preferred):
            if key is not None and key not in topology.levels:
                levels = ", ".join(topology.levels)
                problem = f"has no level {key}; its levels are {levels}"
                return TopologyUnusable(gang=gang, topology=topology.name, problem=problem)
        if constraint.required and not self.of((topology.name, constraint.required)):
            problem = f"has no node in any domain of level {constraint.required}"
            return TopologyUnusable(gang=gang, topology=topology.name, problem=problem)
        places = {key: place for place, key in enumerate(topology.levels)}
        coarsest = places[constraint.required] if constraint.required else 0
        finest = places[constraint.preferred] if constraint.preferred else coarsest
        steps = tuple((topology.name, key) for key in reversed(topology.levels[coarsest : max(finest, coarsest) + 1]))
        return Ladder(steps=steps, required=steps[-1] if constraint.required else None)

    def in_clique(self, level: Level) -> Level:
        """The level whose domains are the parts of this one's that are in one clique."""
        topology, key = level
        above = self._topologies[topology].levels
        both = (f"{topology} down to {key}", CLIQUE_LEVEL)
        self._above[both] = (*above[: above.index(key) + 1], CLIQUE_LEVEL)
        return both

    def of(self, level: Level) -> Mapping[str, str]:
        """The domain of each node that stands in one: it must carry every level down to this one."""
        known = self._levels.get(level)
        if known is None:
            topology, key = level
            above = self._above.get(level) or (self._topologies[topology].levels if topology else (key,))
            keys = above[: above.index(key) + 1]
            known = self._levels[level] = {
                name: "/".join(value for value in values if value is not None)
                for name, node in self._nodes.items()
                if None not in (values := [self._value(node, each) for each in keys])
            }
        return known

    def split(self, level: Level, nodes: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
        """The domains of a level as (name, those of `nodes` in it), by name."""
        of = self.of(level)
        parts: dict[str, list[str]] = {}
        for node in nodes:
            domain = of.get(node)
            if domain is not None:
                parts.setdefault(domain, []).append(node)
        return [(name, tuple(parts[name])) for name in sorted(parts)]

    @staticmethod
    def outside(level: Level, nodes: int) -> NodeCount:
        """So many nodes are of no use to who has to stay in one domain of this level."""
        if level[1] == CLIQUE_LEVEL:
            return NodeCount(nodes=nodes, cause="is not in the clique of its ComputeDomain")
        return NodeCount(nodes=nodes, cause=f"is in no domain of level {level[1]} of Topology {level[0]}")

    def nvlink(self, node: str) -> str | None:
        """The NVLink domain that all GPUs of the node share; None if they share none."""
        if node not in self._nvlink:
            self._nvlink[node] = self._read_nvlink(self._nodes[node])
        return self._nvlink[node]

    def neighbourhoods(self) -> Mapping[str, tuple[str, ...]]:
        """For every node in an NVLink domain of several nodes, all nodes of that domain, by name."""
        if self._neighbours is None:
            domains: dict[str, list[str]] = {}
            for name in self._nodes:
                domain = self.nvlink(name)
                if domain is not None:
                    domains.setdefault(domain, []).append(name)
            together = [tuple(sorted(names)) for names in domains.values() if len(names) > 1]
            self._neighbours = {name: names for names in together for name in names}
        return self._neighbours

    def _value(self, node: Node, key: str) -> str | None:
        if key == NVLINK_LEVEL:
            return self.nvlink(node.name)
        if key == CLIQUE_LEVEL:
            return self._clique(node)
        if key == attributes.HOSTNAME_LABEL:
            return node.labels.get(key, node.name)
        return node.labels.get(key)

    def _clique(self, node: Node) -> str:
        """Told by the label, or by GPUs that name their clique; else it is the NVLink domain if several nodes share
        it."""
        label = node.labels.get(attributes.CLIQUE_LABEL)
        if label:
            return label
        domain = self.nvlink(node.name)
        joined = domain is not None and (
            node.name in self.neighbourhoods()
            or any(_CLIQUE_ID in device.attributes for device in self._inventory.devices_on(node))
        )
        return domain if domain is not None and joined else NO_FABRIC

    def _read_nvlink(self, node: Node) -> str | None:
        values = _nvlink_domains(self._inventory.on(node))
        if values:
            return values[0] if len(values) == 1 else None
        return node.labels.get(attributes.CLIQUE_LABEL)


def _nvlink_domains(view: NodeDevices) -> tuple[str, ...]:
    """All that the devices of a node say they are in."""
    known = view.memo.get(NVLINK_LEVEL)
    if known is None:
        found = (scalar(device.attributes.get(NVLINK_LEVEL)) for device in view.devices)
        known = view.remember(NVLINK_LEVEL, tuple(sorted({str(value) for value in found if value is not None})))
    assert isinstance(known, tuple)
    return known
