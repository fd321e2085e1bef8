"""What there is to be given, and what holds it: nodes, devices, claims, volumes, budgets; object by object."""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from functools import partial

from scheduler.api import core, dra
from scheduler.api.changes import Change
from scheduler.api.kinds import (
    DEVICE_CLASS,
    DEVICE_TAINT_RULE,
    DISRUPTION_BUDGET,
    NAMESPACE,
    NODE,
    NODE_TOPOLOGY,
    RESOURCE_CLAIM,
    RESOURCE_SLICE,
    Kind,
)
from scheduler.api.meta import Wire
from scheduler.api.numa import NodeResourceTopology
from scheduler.api.policy import DisruptionBudget
from scheduler.model.budgets import Budget
from scheduler.model.nodes import Node
from scheduler.model.reasons import Unreadable
from scheduler.model.workloads import Claim
from scheduler.model.zones import Zones
from scheduler.state import inventory, numa
from scheduler.state.asides import Asides, undecodable
from scheduler.state.budgets import budget
from scheduler.state.cluster import ClusterState
from scheduler.state.fields import Bad
from scheduler.state.stores import STORAGE_KINDS, Stores
from scheduler.state.tables import SortedTable
from scheduler.state.withdrawn import DeviceKey

ADMIN_ACCESS_LABEL = "resource.kubernetes.io/admin-access"


class Supply:
    """Tables by key, kept up to date with what changes in the state."""

    def __init__(self, state: ClusterState, aside: Asides, fence_taint: str) -> None:
        """`fence_taint`: key of the device taint that keeps others off and lets us in, "" for none."""
        self._state = state
        self._aside = aside
        self._fence_taint = fence_taint
        self.nodes: SortedTable[Node] = SortedTable()
        self.slices: SortedTable[dra.ResourceSlice] = SortedTable()
        self.classes: SortedTable[dra.DeviceClass] = SortedTable()
        self.rules: SortedTable[dra.DeviceTaintRule] = SortedTable()
        self.claims: SortedTable[Claim] = SortedTable()
        self.stores = Stores()
        self.namespaces: SortedTable[Mapping[str, str]] = SortedTable()
        self.budgets: SortedTable[Budget] = SortedTable()
        self.zoned = False
        """Whether any node tells of NUMA zones: where none does, nobody asks what pods want of them."""
        self._holding: dict[str, tuple[DeviceKey, ...]] = {}
        """Claims that hold devices which no slice lists any more, and these."""
        self._held: frozenset[DeviceKey] = frozenset()
        self._withdrawn_version = -1
        self._one_by_one: Mapping[Kind, Callable[[str, Change | None, Wire | None], None]] = {
            NODE_TOPOLOGY: self._node_topology,
            NODE: self._node,
            RESOURCE_SLICE: self._slice,
            DEVICE_CLASS: self._class,
            DEVICE_TAINT_RULE: self._rule,
            RESOURCE_CLAIM: self._claim,
            NAMESPACE: self._namespace,
            DISRUPTION_BUDGET: self._budget,
            **{kind: partial(self._store, kind) for kind in STORAGE_KINDS},
        }

    def update(self, changed: Mapping[Kind, Iterable[str]]) -> None:
        """Take in these objects, by kind and key."""
        self._admin_access(changed.get(NAMESPACE, ()), frozenset(changed.get(RESOURCE_CLAIM, ())))
        for kind, one in self._one_by_one.items():
            for key in sorted(changed.get(kind, ())):
                one(key, self._state.change(kind, key), self._state.object(kind, key))
        self._withdrawn(changed.get(RESOURCE_CLAIM, ()))

    def withdrawn(self) -> Mapping[DeviceKey, dra.Device]:
        """Devices that no slice lists any more and that claims hold; as long as not all claims are known, all such."""
        withdrawn = self._state.withdrawn
        return withdrawn.of(self._held) if self._state.lists(RESOURCE_CLAIM) else withdrawn.in_order()

    def _admin_access(self, namespaces: Iterable[str], others: Container[str]) -> None:
        """A namespace may have gained or lost the right to look into devices that are in use: its claims, but for
        `others`, which are looked at anyhow."""
        names = set(namespaces)
        if not names:
            return
        for key in self._state.keys(RESOURCE_CLAIM):
            if key not in others and key.partition("/")[0] in names:
                self._claim(key, self._state.change(RESOURCE_CLAIM, key), self._state.object(RESOURCE_CLAIM, key))

    def _node(self, key: str, change: Change | None, found: Wire | None) -> None:
        self._aside.look(NODE, key, change)
        node = None
        if isinstance(found, core.Node):
            try:
                node = inventory.node(found)
            except Bad as bad:
                self._aside.put(NODE, key, found.metadata.uid, bad.reason)
        if node is not None and self.zoned:
            node = replace(node, zones=self._zones(key))
        self.nodes.put(key, node)

    def _node_topology(self, key: str, change: Change | None, _: Wire | None) -> None:
        self._aside.look(NODE_TOPOLOGY, key, change)
        self._node(key, self._state.change(NODE, key), self._state.object(NODE, key))

    def _zones(self, node: str) -> Zones | None:
        """What the node's exporter tells of its zones; None, and a reason, if that cannot be read."""
        found = self._state.object(NODE_TOPOLOGY, node)
        if not isinstance(found, NodeResourceTopology):
            return None
        self._aside.clear(NODE_TOPOLOGY, node)
        try:
            return numa.node_zones(found)
        except Bad as bad:
            self._aside.put(NODE_TOPOLOGY, node, found.metadata.uid, bad.reason)
            return None

    def _slice(self, key: str, change: Change | None, found: Wire | None) -> None:
        self._aside.look(RESOURCE_SLICE, key, change)
        self.slices.put(key, found if isinstance(found, dra.ResourceSlice) else None)

    def _class(self, key: str, change: Change | None, found: Wire | None) -> None:
        self._aside.look(DEVICE_CLASS, key, change)
        self.classes.put(key, found if isinstance(found, dra.DeviceClass) else None)

    def _rule(self, key: str, change: Change | None, found: Wire | None) -> None:
        self._aside.look(DEVICE_TAINT_RULE, key, change)
        rule = found if isinstance(found, dra.DeviceTaintRule) else None
        if rule is None and change is not None and (part := inventory.tainting_part(change)) is not None:
            # The fence lets us in: there the safe side is that it stands nowhere.
            fence = part.spec.taint.key == self._fence_taint
            rule = None if fence else part
            reason = _half_read(change, fence=fence)
            self._aside.put(DEVICE_TAINT_RULE, key, change.meta.uid, reason)
        self.rules.put(key, rule)

    def _claim(self, key: str, change: Change | None, found: Wire | None) -> None:
        self._aside.look(RESOURCE_CLAIM, key, change)
        if found is None and change is not None:
            found = inventory.allocated_part(change)
        claim = None
        if isinstance(found, dra.ResourceClaim) and change is not None:
            allowed = self._admin_access_in(found.metadata.namespace)
            avoids = self._state.avoided.get(found.metadata.uid, ())
            claim = inventory.claim(found, change.raw, admin_access_allowed=allowed, avoids=avoids)
        self.claims.put(key, claim)

    def _withdrawn(self, changed: Iterable[str]) -> None:
        """Which devices that no slice lists are held; of all claims if there are others such now, else of these."""
        withdrawn = self._state.withdrawn
        if withdrawn.version != self._withdrawn_version:
            self._withdrawn_version = withdrawn.version
            self._holding = {}
            changed = self.claims.mapping() if withdrawn else ()
        for key in changed:
            claim = self.claims.get(key)
            held = withdrawn.held_by(claim.allocation) if claim is not None else ()
            if held:
                self._holding[key] = held
            else:
                self._holding.pop(key, None)
        self._held = frozenset(device for devices in self._holding.values() for device in devices)
        if self._state.lists(RESOURCE_CLAIM):
            withdrawn.keep(self._held)

    def _store(self, kind: Kind, key: str, change: Change | None, found: Wire | None) -> None:
        self._aside.look(kind, key, change)
        try:
            self.stores.put(kind, key, found)
        except Bad as bad:
            uid = change.meta.uid if change is not None else ""
            self._aside.put(kind, key, uid, bad.reason)

    def _namespace(self, key: str, change: Change | None, found: Wire | None) -> None:
        self._aside.look(NAMESPACE, key, change)
        self.namespaces.put(key, found.metadata.labels or {} if isinstance(found, core.Namespace) else None)

    def _budget(self, key: str, change: Change | None, found: Wire | None) -> None:
        self._aside.look(DISRUPTION_BUDGET, key, change)
        self.budgets.put(key, budget(found) if isinstance(found, DisruptionBudget) else None)

    def _admin_access_in(self, namespace: str) -> bool:
        found = self._state.object(NAMESPACE, namespace)
        return isinstance(found, core.Namespace) and (found.metadata.labels or {}).get(ADMIN_ACCESS_LABEL) == "true"


def _half_read(change: Change, *, fence: bool) -> Unreadable:
    """Why a taint rule was not read as it is meant, and what holds meanwhile."""
    reason = undecodable(change)
    meanwhile = "it puts up no fence" if fence else "its taint is on every device that the rest of it selects"
    remedy = f"Upgrade the scheduler, or correct {reason.field}."
    return replace(reason, problem=f"{reason.problem}, so {meanwhile}", remedy=remedy)
