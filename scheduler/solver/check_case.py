"""What the checker of plans looks at: the snapshot and the plan, by name."""

from collections.abc import Mapping
from dataclasses import dataclass

from scheduler.model.nodes import Node
from scheduler.model.plan import Placement, Plan
from scheduler.model.snapshot import Snapshot
from scheduler.model.workloads import Gang, Pod
from scheduler.solver.check_published import Pools


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The snapshot and the plan, by name.

    `pending`: pods that a plan may place, by key, with their gang. `placed`: placements with the pods and nodes they
    speak of; others, and further ones of the same pod, are told by `placements_are_of_waiting_pods` and left out."""

    snapshot: Snapshot
    plan: Plan
    nodes: Mapping[str, Node]
    gangs: Mapping[str, Gang]
    pending: Mapping[str, tuple[Gang, Pod]]
    placed: tuple[tuple[Placement, Pod, Node], ...]
    pools: Pools

    @classmethod
    def of(cls, snapshot: Snapshot, plan: Plan) -> "Case":
        nodes = {node.name: node for node in snapshot.nodes}
        pending = {pod.key: (gang, pod) for gang in snapshot.gangs for pod in gang.pods if not pod.node}
        placed = {
            placement.pod: (placement, pending[placement.pod][1], nodes[placement.node])
            for placement in reversed(plan.placements)
            if placement.pod in pending and placement.node in nodes and placement.gang == pending[placement.pod][0].key
        }
        return cls(
            snapshot=snapshot,
            plan=plan,
            nodes=nodes,
            gangs={gang.key: gang for gang in snapshot.gangs},
            pending=pending,
            placed=tuple(reversed(placed.values())),
            pools=Pools(snapshot.slices, snapshot.withdrawn),
        )
