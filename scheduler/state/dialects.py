"""Queues and topologies in every dialect we read -> the model's.

Queue, ours (tutti.scheduler/v1alpha1): Kubernetes quantities; absent is quota 0, no limit, weight 1.
Queue, KAI's (scheduling.run.ai/v2): GPUs, millicores, 10^6 bytes; -1 is all, or no limit; absent is 0, the limit too.
Queue, kai.scheduler/v1alpha1: as ours; `spec.parent` may stand for parentQueue, and `root` for the top.
Topology, ours: levels[].key; KAI's (kai.scheduler/v1alpha1): levels[].nodeLabel.

Where two dialects define one name, the upper one of this list counts and the other is set aside.
Source: KAI's CRDs (pkg/apis/scheduling/v2, kai/v1alpha1); DESIGN "Dialects".
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from queues.measures import measure
from queues.tree import WHOLE, Queue, QueueResource
from scheduler.api.kinds import KAI_QUEUE, KAI_TOPOLOGY, QUEUE, SEED_QUEUE, TOPOLOGY, Document, Kind
from scheduler.model.nodes import Topology
from scheduler.model.reasons import Unreadable
from scheduler.model.snapshot import SetAside
from scheduler.state.fields import Fields, time_ms

QUEUE_KINDS: tuple[Kind, ...] = (QUEUE, KAI_QUEUE, SEED_QUEUE)
TOPOLOGY_KINDS: tuple[Kind, ...] = (TOPOLOGY, KAI_TOPOLOGY)

DEVICE_CLASS_PREFIX = "deviceclass/"
_PLAIN = ("cpu", "gpu", "memory")
# KAI's numbers are in these many house units: GPUs in thousandths, millicores as they are, megabytes in bytes.
_KAI_UNITS = {"gpu": 1000, "cpu": 1, "memory": 1_000_000}
_MOST = 2**62


def fields_of(kind: Kind, document: Document) -> Fields:
    """The spec of a document, ready for reading."""
    return Fields(object=f"{kind.kind}/{document.metadata.key}", path="spec", values=document.spec)


def queue(kind: Kind, document: Document) -> Queue:
    """The queue a document of one of QUEUE_KINDS defines. Raises Bad."""
    spec = fields_of(kind, document)
    priority = spec.whole("priority", least=-1_000_000_000, most=1_000_000_000)
    parent = spec.text("parentQueue")
    if kind == SEED_QUEUE:
        parent = parent or spec.text("parent")
    read = _kai_resources(spec) if kind == KAI_QUEUE else _resources(spec)
    return Queue(
        name=document.metadata.name,
        parent=parent or None,
        priority=100 if priority is None else priority,
        resources=read,
        created_ms=time_ms(document.metadata.creation_timestamp),
        preempt_min_runtime_ms=_not_negative(spec, "preemptMinRuntime"),
        reclaim_min_runtime_ms=_not_negative(spec, "reclaimMinRuntime"),
        max_concurrent_evictions=spec.whole("maxConcurrentEvictions", least=0, most=1_000_000),
    )


def topology(kind: Kind, document: Document) -> Topology:
    """The topology a document of one of TOPOLOGY_KINDS defines. Raises Bad."""
    spec = fields_of(kind, document)
    key = "nodeLabel" if kind == KAI_TOPOLOGY else "key"
    levels: list[str] = []
    aliases: dict[str, str] = {}
    for level in spec.items("levels"):
        name, alias = level.text(key), level.text("alias")
        if not name:
            raise level.bad(key, "is missing", f"Name the node label of this level in {level.at(key)}.")
        if name in levels:
            raise level.bad(key, f"{name} is a level twice", "Remove one of the two levels.")
        if alias and (alias in aliases or alias in levels):
            raise level.bad("alias", f"{alias} stands for two levels", "Give each level an alias of its own.")
        levels.append(name)
        if alias:
            aliases[alias] = name
    if not levels:
        raise spec.bad("levels", "there are none", "List the levels, coarse to fine.")
    return Topology(name=document.metadata.name, levels=tuple(levels), aliases=dict(sorted(aliases.items())))


def merged_queues(
    read: Mapping[tuple[Kind, str], Queue | SetAside], uids: Mapping[tuple[Kind, str], str]
) -> tuple[tuple[Queue, ...], tuple[SetAside, ...]]:
    """One queue for each name, by precedence, and what was set aside.

    In kai.scheduler/v1alpha1 the parent `root` is the top, unless somebody made a queue of that name."""
    chosen, aside = _by_precedence(read, uids, QUEUE_KINDS)
    queues = {name: value for (_, name), value in chosen.items() if isinstance(value, Queue)}
    for kind, name in chosen:
        if kind == SEED_QUEUE and name in queues and queues[name].parent == "root" and "root" not in queues:
            queues[name] = replace(queues[name], parent=None)
    return tuple(queues[name] for name in sorted(queues)), aside


def merged_topologies(
    read: Mapping[tuple[Kind, str], Topology | SetAside], uids: Mapping[tuple[Kind, str], str]
) -> tuple[dict[str, Topology], tuple[SetAside, ...]]:
    """One topology for each name, by precedence, and what was set aside."""
    chosen, aside = _by_precedence(read, uids, TOPOLOGY_KINDS)
    found = {name: value for (_, name), value in chosen.items() if isinstance(value, Topology)}
    return {name: found[name] for name in sorted(found)}, aside


def set_aside(kind: Kind, key: str, uid: str, reason: Unreadable) -> SetAside:
    return SetAside(object=f"{kind.kind}/{key}", uid=uid, reason=reason)


def _by_precedence(
    read: Mapping[tuple[Kind, str], Queue | Topology | SetAside],
    uids: Mapping[tuple[Kind, str], str],
    kinds: Iterable[Kind],
) -> tuple[dict[tuple[Kind, str], Queue | Topology], tuple[SetAside, ...]]:
    """What counts for each name. One that cannot be read still hides those below it: a slip never changes a quota."""
    chosen: dict[tuple[Kind, str], Queue | Topology] = {}
    aside: list[SetAside] = []
    taken: dict[str, Kind] = {}
    for kind in kinds:
        for name in sorted(name for each, name in read if each == kind):
            value = read[kind, name]
            if isinstance(value, SetAside):
                aside.append(value)
            elif name in taken:
                upper = f"{kind.kind} {name} of {taken[name].api_version}"
                aside.append(
                    set_aside(
                        kind,
                        name,
                        uids.get((kind, name), ""),
                        Unreadable(
                            object=f"{kind.kind}/{name}",
                            field="metadata.name",
                            problem=f"{upper} has the same name and counts, not this one of {kind.api_version}",
                            remedy="Delete or rename one of the two.",
                        ),
                    )
                )
            else:
                chosen[kind, name] = value
            taken.setdefault(name, kind)
    return chosen, tuple(aside)


def _resources(spec: Fields) -> dict[str, QueueResource]:
    """Our form: quantities; absent is quota 0, no limit, weight 1."""
    resources = spec.mapping("resources")
    read: dict[str, QueueResource] = {}
    for name in sorted(resources.values):
        if not isinstance(name, str) or not (name in _PLAIN or _is_device_class(name)):
            raise resources.bad(
                str(name),
                "a queue has no such resource",
                "Name gpu, cpu, memory, or deviceclass/<name of a DeviceClass>, the last alone or after <capacity>. or"
                " <counter>.counters.",
            )
        amounts = resources.mapping(name)
        weight = amounts.whole("overQuotaWeight", most=1_000_000)
        read[name] = QueueResource(
            quota=amounts.quantity("quota", name) or 0,
            limit=amounts.quantity("limit", name),
            weight=1 if weight is None else weight,
        )
    return read


def _kai_resources(spec: Fields) -> dict[str, QueueResource]:
    """KAI's form: plain numbers, -1 without end, and what is not said is 0, the limit too."""
    resources = spec.mapping("resources")
    read = {}
    for name, units in sorted(_KAI_UNITS.items()):
        amounts = resources.mapping(name)
        quota = _kai_amount(amounts, "quota", units)
        weight = amounts.number("overQuotaWeight") or 0.0
        if weight < 0:
            raise amounts.bad("overQuotaWeight", f"{weight} is negative", "Write a weight of at least 0.")
        read[name] = QueueResource(
            quota=WHOLE if quota is None else quota,
            limit=_kai_amount(amounts, "limit", units),
            # Our weights are whole: a fraction counts as the next one, so that it never means "nothing".
            weight=min(math.ceil(weight), 1_000_000),
        )
    return read


def _kai_amount(amounts: Fields, name: str, units: int) -> int | None:
    """An amount in house units; None for -1."""
    value = amounts.number(name)
    if value is None:
        return 0
    if value == -1:
        return None
    if value < 0:
        raise amounts.bad(name, f"{value:g} is negative", "Write -1 for no end, or an amount of at least 0.")
    return min(math.ceil(value * units), _MOST - 1)


def _not_negative(spec: Fields, name: str) -> int | None:
    read = spec.duration_ms(name)
    if read is not None and read < 0:
        raise spec.bad(name, "is negative", f"Write a duration of at least 0s in {spec.at(name)}.")
    return read


def _is_device_class(name: str) -> bool:
    return (name.startswith(DEVICE_CLASS_PREFIX) and len(name) > len(DEVICE_CLASS_PREFIX)) or measure(name) is not None
