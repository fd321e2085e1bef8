"""Scheduling cases as JSON (schema kai-cases/1): nodes, queues, jobs with tasks, what to run, what must come out.

Read strictly: a field that is not known here may change what a case means, so it is refused by name. Amounts are in the
unit that a field's name tells; -1 is "all there is" for a quota, "none" for a limit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

_HEAD = frozenset({"source", "commit", "license", "schema", "cases"})


class Unreadable(Exception):
    """The file is no file of such cases; the message says where and why."""


class _Strict(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    pass


class Zones(_Strict, frozen=True, kw_only=True):
    policy: str
    scope: str
    zones: tuple[Mapping[str, Any], ...]


class Node(_Strict, frozen=True, kw_only=True):
    """`gpus` are built in; `allocatable_gpus` may be handed out whole."""

    name: str
    gpus: int
    allocatable_gpus: int
    cpu_milli: int
    memory_bytes: int
    gpu_memory: int = msgspec.field(name="gpuMemoryMiB")
    max_pods: int
    labels: Mapping[str, str] = {}
    mig_strategy: str = ""
    mig_instances: Mapping[str, int] = {}
    gpu_name: str = ""
    numa: Zones | None = None


class Rule(_Strict, frozen=True, kw_only=True):
    quota: float
    limit: float
    over_quota_weight: float


class Queue(_Strict, frozen=True, kw_only=True):
    """`created`: in minutes. `implicit`: a parent that the case did not name itself."""

    name: str
    parent: str | None
    created: int
    priority: int
    implicit: bool = False
    gpu: Rule
    cpu_milli: Rule
    memory_mb: Rule = msgspec.field(name="memoryMB")
    reclaim_min_runtime_seconds: float | None = None
    preempt_min_runtime_seconds: float | None = None


class Request(_Strict, frozen=True, kw_only=True):
    """`gpus` whole ones, or `gpu_fraction` or `gpu_memory` of each of `gpu_devices` of one node; `mig` by resource."""

    cpu_milli: int
    memory_bytes: int
    gpus: int = 0
    gpu_fraction: float = 0.0
    gpu_memory: int = msgspec.field(name="gpuMemoryMiB", default=0)
    gpu_devices: int = 1
    mig: Mapping[str, int] = {}

    @property
    def shares(self) -> bool:
        return bool(self.gpu_fraction or self.gpu_memory)


class Task(_Strict, frozen=True, kw_only=True):
    """`gpu_groups`: GPUs of the node that it has a share of; tasks with the same group share one."""

    name: str
    state: str
    request: Request
    node: str = ""
    gpu_groups: tuple[str, ...] = ()
    sub_group: str = ""
    task_priority: int = 0
    legacy_mig: bool = False
    node_affinity: tuple[str, ...] = ()
    pod_affinity_labels: Mapping[str, str] = {}
    pod_affinity_topology_key: str = ""
    pod_anti_affinity_topology_key: str = ""
    resource_claims: tuple[str, ...] = ()
    persistent_volume_claims: tuple[str, ...] = ()
    annotations: Mapping[str, str] = {}


class Constraint(_Strict, frozen=True, kw_only=True):
    topology: str
    required_level: str | None = None
    preferred_level: str | None = None


class PodSet(_Strict, frozen=True, kw_only=True):
    name: str
    min_available: int
    topology_constraint: Constraint | None = None


class Group(_Strict, frozen=True, kw_only=True):
    name: str
    min_sub_group: int | None = None
    pod_sets: tuple[PodSet, ...] = ()
    sub_groups: tuple[Group, ...] = ()
    topology_constraint: Constraint | None = None


class Job(_Strict, frozen=True, kw_only=True):
    """`keeps_releasing`: its pods are not made anew once they are told to end."""

    name: str
    queue: str
    priority: int
    preemptible: bool
    age_minutes: float
    tasks: tuple[Task, ...]
    priority_name: str = ""
    namespace: str = "default"
    min_available: int | None = None
    sub_group_tree: Group | None = None
    topology_constraint: Constraint | None = None
    keeps_releasing: bool = False
    preemption_delay_seconds: float = 0
    stale_for_seconds: float | None = None
    staleness_grace_period_seconds: float | None = None
    qos_class: str = ""


class Slice(_Strict, frozen=True, kw_only=True):
    name: str
    driver: str
    node: str
    devices: tuple[str, ...]
    device_class: str


class Result(_Strict, frozen=True, kw_only=True):
    request: str
    driver: str
    pool: str
    device: str


class Results(_Strict, frozen=True, kw_only=True):
    results: tuple[Result, ...] = ()


class Allocation(_Strict, frozen=True, kw_only=True):
    devices: Results


class Consumer(_Strict, frozen=True, kw_only=True):
    resource: str
    name: str
    uid: str


class ClaimStatus(_Strict, frozen=True, kw_only=True):
    allocation: Allocation | None = None
    reserved_for: tuple[Consumer, ...] = ()


class Claim(_Strict, frozen=True, kw_only=True):
    name: str
    namespace: str
    device_class: str
    count: int
    labels: Mapping[str, str] = {}
    status: ClaimStatus | None = None


class Dra(_Strict, frozen=True, kw_only=True):
    device_classes: tuple[str, ...] = ()
    resource_slices: tuple[Slice, ...] = ()
    resource_claims: tuple[Claim, ...] = ()


class Level(_Strict, frozen=True, kw_only=True):
    node_label: str


class Topology(_Strict, frozen=True, kw_only=True):
    name: str
    levels: tuple[Level, ...]


class Plugin(_Strict, frozen=True, kw_only=True):
    name: str
    arguments: Mapping[str, str] = {}


class Tier(_Strict, frozen=True, kw_only=True):
    plugins: tuple[Plugin, ...] = ()


class SchedulerConf(_Strict, frozen=True, kw_only=True):
    actions: str = ""
    tiers: tuple[Tier, ...] = ()


class Options(_Strict, frozen=True, kw_only=True):
    predicates: bool = True
    scheduler_conf: SchedulerConf = SchedulerConf()
    staleness_grace_period_seconds: float | None = None


class Run(_Strict, frozen=True, kw_only=True):
    """`mode` "actions": once, and the answer is compared; "rounds": until `rounds_until_match`, and in each of
    `rounds_after_match` more nothing may change."""

    mode: str
    actions: tuple[str, ...]
    rounds_until_match: int = 1
    rounds_after_match: int = 0
    delay_between_rounds_seconds: float = 0
    options: Options = Options()


class Expected(_Strict, frozen=True, kw_only=True):
    """`status` is what our answer is compared with; the rest says how the peer came to it, or repeats the request."""

    status: str
    node: str = ""
    gpus_required: float = 0
    cpu_milli_required: float = 0
    memory_required: float = 0
    gpu_groups: tuple[str, ...] = ()
    dont_validate_gpu_group: bool = False
    error_message: str = ""
    numa_zones: tuple[int, ...] | None = None


class Calls(_Strict, frozen=True, kw_only=True):
    binds: int
    evictions: int
    pipelines: int


class Expect(_Strict, frozen=True, kw_only=True):
    """`never_checked`: entries whose names match nothing, which the peer's own runner passes over."""

    jobs: Mapping[str, Expected] = {}
    tasks: Mapping[str, Expected] = {}
    nodes: Mapping[str, Mapping[str, Any]] = {}
    max_calls_per_session: Calls | None = None
    never_checked: tuple[str, ...] = ()


class Case(_Strict, frozen=True, kw_only=True):
    """`custom_assertions`: what must come out is told by code of the peer's; here only that there is an answer."""

    id: str
    name: str
    source: str = ""
    function: str = ""
    run: Run
    nodes: tuple[Node, ...] = ()
    queues: tuple[Queue, ...] = ()
    jobs: tuple[Job, ...] = ()
    topologies: tuple[Topology, ...] = ()
    dra: Dra = Dra()
    expect: Expect | None = None
    custom_assertions: bool = False
    tags: tuple[str, ...] = ()


def read(path: Path) -> Iterator[tuple[str, Case | str]]:
    """The cases of a file, each with its id; for one that cannot be read, why. Raises Unreadable if none can be."""
    try:
        document = json.loads(path.read_text())
    except ValueError as problem:
        raise Unreadable(f"{path}: not JSON: {problem}") from problem
    if not isinstance(document, dict) or not isinstance(document.get("cases"), list):
        raise Unreadable(f"{path}: no list `cases`; name a file of schema kai-cases/1")
    if unknown := sorted(document.keys() - _HEAD):
        raise Unreadable(f"{path}: unknown field {', '.join(f'`{name}`' for name in unknown)}")
    return _cases(document["cases"])


def _cases(given: list[Any]) -> Iterator[tuple[str, Case | str]]:
    for number, raw in enumerate(given):
        name = str(raw.get("id", f"case {number}")) if isinstance(raw, dict) else f"case {number}"
        try:
            yield name, msgspec.convert(raw, Case)
        except msgspec.ValidationError as problem:
            yield name, f"cannot be read: {problem}"
