"""The one translation of API objects to a Snapshot. What cannot be read is set aside with a reason; nothing is raised.

Every object is translated once and again only when it changes: a cycle costs what has changed since the last one, plus
the sorted tuples. `Translation` holds what is remembered; it lives with its ClusterState.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from queues.reasons import QueueUnusable
from queues.tree import Queue
from scheduler.api import core
from scheduler.api.changes import Change
from scheduler.api.kinds import (
    FORMING,
    JOB,
    NATIVE_POD_GROUP,
    NODE,
    NODE_TOPOLOGY,
    OWNERS,
    POD,
    POD_GANG,
    POD_GROUP,
    PRIORITY_CLASS,
    RESOURCE_CLAIM,
    RESOURCE_SLICE,
    Document,
    Kind,
)
from scheduler.api.meta import Wire
from scheduler.model.nodes import Topology
from scheduler.model.reasons import Reason, Unreadable
from scheduler.model.snapshot import Policy, SetAside, Snapshot
from scheduler.model.workloads import Gang, Pod
from scheduler.state import dialects, gangs, numa, pods
from scheduler.state.asides import Asides, undecodable
from scheduler.state.charging import Payers
from scheduler.state.cluster import ClusterState, identity
from scheduler.state.dialects import QUEUE_KINDS, TOPOLOGY_KINDS
from scheduler.state.fields import Bad
from scheduler.state.gangs import World
from scheduler.state.grouping import GangId, Member, membership, owners_of
from scheduler.state.groups import GROUP_KINDS, GroupSpec, group, levels_of
from scheduler.state.past_use import parts_told
from scheduler.state.roster import Reference, Roster
from scheduler.state.supply import Supply
from scheduler.state.tables import SortedTable

KAI_TASK_PRIORITY_LABEL = "kai.scheduler/task-priority"

# Kubernetes makes these two itself (PriorityClass objects of these names always exist in a real cluster).
_SYSTEM_PRIORITIES = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
_ON_THEIR_OWN = (POD, RESOURCE_CLAIM, NODE, RESOURCE_SLICE)
"""Kinds of which there are many, and nothing else is read differently for what is in them."""

V = TypeVar("V")


def snapshot(
    state: ClusterState,
    *,
    now_ms: int,
    policy: Policy,
    usage: Mapping[str, Mapping[str, int]] | None = None,
) -> Snapshot:
    """Everything `state` knows, as it is at `now_ms` (milliseconds since 1970) under `policy`.

    `usage`: decayed past use of the queues (`queues.usage`); None: what their statuses tell, if the past counts. Equal
    states give equal snapshots, whatever came first."""
    if usage is None:
        usage = parts_told(state) if policy.usage_weight > 0 else {}
    return _up_to_date(state, policy).snapshot(now_ms, usage)


def prepare(state: ClusterState, policy: Policy) -> None:
    """Translate what has changed in `state`, so that the next snapshot need not. Does nothing as long as kinds that
    change the meaning of others (queues, PodGroups, owners, priority classes, ...) are not known in full."""
    if all(state.lists(kind) for kind in state.kinds if kind not in _ON_THEIR_OWN):
        _up_to_date(state, policy)


def _up_to_date(state: ClusterState, policy: Policy) -> "Translation":
    translation = state.derived
    if not isinstance(translation, Translation) or translation.policy != policy:
        translation = state.derived = Translation(state, policy)
    translation.update()
    return translation


class Translation:
    """What is remembered between snapshots of one state under one policy."""

    def __init__(self, state: ClusterState, policy: Policy) -> None:
        self.policy = policy
        self._state = state
        self._fresh = True
        self._aside = Asides()
        self._supply = Supply(state, self._aside, policy.device_fence_taint)
        self._bound: SortedTable[Pod] = SortedTable()
        self._binding: dict[str, str] = {}
        """Pods of others that have claims and no node yet, with their uids."""
        self._queues: tuple[Queue, ...] = ()
        self._queues_aside: tuple[SetAside, ...] = ()
        self._topologies: Mapping[str, Topology] = {}
        self._topologies_aside: tuple[SetAside, ...] = ()
        self._priorities: dict[str, int] = dict(_SYSTEM_PRIORITIES)
        self._global_priority = 0
        self._default_queue = ""
        self._payers = Payers()
        self._specs: dict[tuple[Kind, str], GroupSpec | Unreadable] = {}
        self._jobs: dict[str, Document] = {}
        self._roster = Roster()

    def update(self) -> None:
        """Take in what changed in the state since the last time."""
        changed: Mapping[Kind, Iterable[str]] = self._state.take_changed()
        if self._fresh:
            changed = {kind: self._state.keys(kind) for kind in self._state.kinds}
            self._fresh = False
        everything = self._context(changed)
        self._supply.update(changed)
        self._pods(changed, everything)

    def snapshot(self, now_ms: int, usage: Mapping[str, Mapping[str, int]]) -> Snapshot:
        supply, found = self._supply, self._roster.in_order()
        aside = (*self._aside.values(), *self._queues_aside, *self._topologies_aside)
        broken = {each.object.partition("/")[2]: each.reason for each in self._queues_aside}
        usable = {queue.name for queue in self._queues}
        if broken:
            found = tuple(_without_queue(gang, broken, usable) for gang in found)
        found = self._state.falls.noted(self._payers.kept(found), now_ms, self._conditions)
        return Snapshot(
            now_ms=now_ms,
            policy=self.policy,
            nodes=supply.nodes.values(),
            slices=supply.slices.values(),
            classes=supply.classes.mapping(),
            taint_rules=supply.rules.values(),
            withdrawn=supply.withdrawn(),
            claims=supply.claims.mapping(),
            storage=supply.stores.storage(),
            pods=self._bound.values(),
            binding=frozenset(self._binding.values()),
            gangs=found,
            queues=self._queues,
            topologies=self._with_native_labels(found),
            namespaces=supply.namespaces.mapping(),
            usage=usage,
            budgets=supply.budgets.values(),
            set_aside=tuple(sorted(aside, key=lambda each: (each.object, each.uid, each.reason.message))),
        )

    def _context(self, changed: Mapping[Kind, Iterable[str]]) -> bool:
        """Queues, topologies and priority classes: few, so read anew whenever one changes. True if pods may differ."""
        different = False
        if any(kind in changed for kind in QUEUE_KINDS):
            read, uids = self._read_all(QUEUE_KINDS, dialects.queue)
            self._queues, self._queues_aside = dialects.merged_queues(read, uids)
            named = self.policy.default_queue
            there = named if any(name == named for _, name in read) else ""
            different = there != self._default_queue
            self._default_queue = there
            self._payers = Payers.of(self._queues, there)
        if any(kind in changed for kind in TOPOLOGY_KINDS):
            levels, uids = self._read_all(TOPOLOGY_KINDS, dialects.topology)
            self._topologies, self._topologies_aside = dialects.merged_topologies(levels, uids)
            different = True
        if NODE_TOPOLOGY in changed and self._supply.zoned != bool(self._state.keys(NODE_TOPOLOGY)):
            self._supply.zoned = not self._supply.zoned
            different = True
        if PRIORITY_CLASS in changed:
            self._read_priorities()
            different = True
        return different

    def _read_all(
        self, kinds: Iterable[Kind], read: Callable[[Kind, Document], V]
    ) -> tuple[dict[tuple[Kind, str], V | SetAside], dict[tuple[Kind, str], str]]:
        found: dict[tuple[Kind, str], V | SetAside] = {}
        uids: dict[tuple[Kind, str], str] = {}
        for kind in kinds:
            for key in self._state.keys(kind):
                change = self._state.change(kind, key)
                if change is None:
                    continue
                uids[kind, key] = change.meta.uid
                try:
                    if not isinstance(change.object, Document):
                        raise Bad(undecodable(change))
                    found[kind, key] = read(kind, change.object)
                except Bad as bad:
                    found[kind, key] = dialects.set_aside(kind, key, change.meta.uid, bad.reason)
        return found, uids

    def _read_priorities(self) -> None:
        self._priorities = dict(_SYSTEM_PRIORITIES)
        general: list[tuple[int, str]] = []
        for key in self._state.keys(PRIORITY_CLASS):
            found = self._state.object(PRIORITY_CLASS, key)
            self._aside.look(PRIORITY_CLASS, key, self._state.change(PRIORITY_CLASS, key))
            if isinstance(found, core.PriorityClass):
                self._priorities[key] = found.value
                if found.global_default:
                    general.append((found.value, key))
        # Of several defaults Kubernetes takes the lowest.
        self._global_priority = min(general)[0] if general else 0

    def _pods(self, changed: Mapping[Kind, Iterable[str]], everything: bool) -> None:
        """The pods that changed, and those whose PodGroup or owner did; then the gangs that they are in."""
        keys = set(changed.get(POD, ()))
        if everything:
            keys.update(self._state.keys(POD))
        for kind in (*GROUP_KINDS, *OWNERS):
            for key in changed.get(kind, ()):
                self._aside.look(kind, key, self._state.change(kind, key))
                if kind in GROUP_KINDS:
                    self._group(kind, key)
                reference = _reference(kind, key)
                if kind == JOB and self._has_only_counted(key):
                    self._roster.touch(reference)  # which happens as often as a pod of it ends
                else:
                    keys.update(self._roster.referring(reference))
        for key in sorted(keys):
            self._pod(key, self._state.change(POD, key), self._state.object(POD, key))
        self._roster.rebuild(self._gang)

    def _has_only_counted(self, key: str) -> bool:
        """Whether a Job is what it was at the last look but for the pods that it has counted."""
        before, found = self._jobs.pop(key, None), self._document(JOB, key)
        if found is not None:
            self._jobs[key] = found
        if before is None or found is None:
            return False
        return identity(before.metadata) == identity(found.metadata) and before.spec == found.spec

    def _group(self, kind: Kind, key: str) -> None:
        change = self._state.change(kind, key)
        self._specs.pop((kind, key), None)
        if change is None:
            return
        if not isinstance(change.object, Document):
            self._specs[kind, key] = undecodable(change)
            return
        try:
            self._specs[kind, key] = group(kind, change.object)
        except Bad as bad:
            self._specs[kind, key] = bad.reason
            self._aside.put(kind, key, change.meta.uid, bad.reason)

    def _pod(self, key: str, change: Change | None, found: Wire | None) -> None:
        self._aside.look(POD, key, change)
        self._binding.pop(key, None)
        if not isinstance(found, core.Pod):
            self._roster.put(key, None)
            self._bound.put(key, None)
            return
        ours = found.spec.scheduler_name == self.policy.scheduler_name
        if not ours and (found.status.phase in ("Succeeded", "Failed") or not _holds_room(found)):
            self._roster.put(key, None)
            self._bound.put(key, None)
            if found.spec.resource_claims and found.status.phase not in ("Succeeded", "Failed"):
                self._binding[key] = found.metadata.uid
            return
        place = membership(found, self._document, self._exists, self._awaited) if ours else None
        sub_group = place.sub_group if place is not None else ""
        problem = None
        try:
            pod = pods.translate(
                found,
                ours=ours,
                priority=self._pod_priority(found.spec),
                task_priority=_task_priority(found),
                sub_group=sub_group,
                avoids=self._state.avoided.get(found.metadata.uid, ()),
            )
            if self._supply.zoned and (aligned := numa.aligned(found)) is not None:
                pod = replace(pod, aligned=aligned)
        except Bad as bad:
            problem = bad.reason
            pod = pods.unreadable(found, ours=ours, priority=self._pod_priority(found.spec), sub_group=sub_group)
            self._aside.put(POD, key, pod.uid, bad.reason)
        self._bound.put(key, pod if pod.node and not pod.done else None)
        if place is None:
            self._roster.put(key, None)
            return
        references = tuple(_reference(kind, owner) for kind, owner in place.owners)
        if place.named_by:  # in a composite it is among the owners
            references = (*references, ("PodGroup", place.gang.key))
        self._roster.put(key, Member(wire=found, pod=pod, membership=place, problem=problem), references)

    def _gang(self, id_: GangId, members: list[Member]) -> Gang | None:
        kind = members[0].membership.group
        spec = self._specs.get((kind, id_.key)) if kind is not None else None
        owners = [
            (owner, document)
            for owner, key in owners_of(id_, members)
            if (document := self._document(owner, key)) is not None
        ]
        world = World(
            default_queue=self._default_queue,
            priority=self._priorities.get,
            topologies=self._topologies,
            unreadable_topologies={each.object.partition("/")[2]: each.reason for each in self._topologies_aside},
        )
        return gangs.gang(id_, members, spec, owners, world)

    def _conditions(self, gang: Gang) -> object:
        """What the status of our PodGroup tells, if it stands for the gang."""
        name, _, key = gang.owner.partition("/")
        found = self._document(POD_GROUP, key) if name == POD_GROUP.kind else None
        return found.status.get("conditions") if found is not None and found.metadata.uid == gang.uid else None

    def _document(self, kind: Kind, key: str) -> Document | None:
        found = self._state.object(kind, key)
        return found if isinstance(found, Document) else None

    def _awaited(self, kind: Kind) -> bool:
        """Whether an object of the kind that is not here is still to come. Kinds that only have labels for us, and of
        which there is none, are taken for kinds that we may not read."""
        return self._state.lists(kind) and (kind in FORMING or self._state.has(kind))

    def _exists(self, kind: Kind, key: str) -> bool:
        return self._state.change(kind, key) is not None

    def _pod_priority(self, spec: core.PodSpec) -> int:
        """What admission has written; where it has not run (manifests), what it would write."""
        if spec.priority is not None:
            return spec.priority
        if spec.priority_class_name:
            return self._priorities.get(spec.priority_class_name, 0)
        return self._global_priority

    def _with_native_labels(self, found: tuple[Gang, ...]) -> Mapping[str, Topology]:
        """The topologies, and those made of the node labels that native PodGroups and PodGangs name."""
        if not self._state.has(NATIVE_POD_GROUP) and not self._state.has(POD_GANG):
            return self._topologies
        constraints = [gang.topology for gang in found]
        constraints += [each.topology for gang in found for each in gang.sub_groups]
        names = {each.topology for each in constraints if each is not None} - self._topologies.keys()
        made = {name: Topology(name=name, levels=levels_of(name), aliases={}) for name in names}
        every = {**self._topologies, **made}
        return {name: every[name] for name in sorted(every)}


def _holds_room(pod: core.Pod) -> bool:
    """Whether a pod of another scheduler takes room on a node, or has been promised some."""
    return bool(pod.spec.node_name or pod.status.nominated_node_name)


def _task_priority(pod: core.Pod) -> int:
    text = (pod.metadata.labels or {}).get(KAI_TASK_PRIORITY_LABEL, "")
    digits = text[1:] if text[:1] in ("-", "+") else text
    return int(text) if digits.isdecimal() and len(digits) <= 9 else 0


def _reference(kind: Kind, key: str) -> Reference:
    """PodGroups of all dialects are one name: a pod may find its group in any of them."""
    return ("PodGroup" if kind in GROUP_KINDS else kind.kind, key)


def _without_queue(gang: Gang, broken: Mapping[str, Reason], usable: Collection[str]) -> Gang:
    """A gang whose queue cannot be read is told so, rather than that the queue does not exist."""
    reason = broken.get(gang.queue)
    if reason is None or gang.queue in usable:
        return gang
    unusable = QueueUnusable(queue=gang.queue, why=reason.message.rstrip("."), remedy=reason.cure)
    return replace(gang, problems=(*gang.problems, unusable))
