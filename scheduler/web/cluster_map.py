"""The cluster at a glance, small enough for thousands of nodes: per node its GPUs, and who has which part of each."""

import re
from collections.abc import Iterator
from typing import Any

from scheduler.api import attributes
from scheduler.dra.devices import scalar
from scheduler.model.nodes import Node
from scheduler.model.snapshot import Snapshot
from scheduler.model.workloads import Pod
from scheduler.web.answers import Answers
from scheduler.web.ownership import DeviceState, Held

WHOLE = 1000
# Owners that are no queue. Queues are numbered from 0, in the order of `queues`.
TAINTED = -1
FOREIGN = -2

_NVLINK = f"{attributes.GPU_DRIVER}/{attributes.NVLINK_DOMAIN}"
_DIGITS = re.compile(r"(\d+)")

Board = list[list[int]]
"""Parts in use of one GPU: [owner, thousandths of it]; empty: free."""


def cluster_map(answers: Answers) -> dict[str, Any]:
    """Groups of nodes (racks, NVLink domains), nodes in them, GPUs on these.

    A node without GPUs has `boards` empty, and `cpu`: thousandths of its CPU that are asked for."""
    snapshot = answers.view.snapshot
    queues = sorted({gang.queue for gang in snapshot.gangs} | {queue.name for queue in snapshot.queues})
    owners = {name: number for number, name in enumerate(queues)}
    counted = _device_plugin_use(snapshot, owners)
    groups: dict[str, list[dict[str, Any]]] = {}
    levels = _levels(snapshot)
    used_cpu = _used_cpu(snapshot)
    devices = {node.name: list(answers.ownership.on(node)) for node in snapshot.nodes}
    domains = _domains(devices)
    for node in snapshot.nodes:
        held = devices[node.name]
        boards = list(_boards(held, owners)) or _counted_boards(node, counted.get(node.name, []))
        cpu = node.allocatable["cpu"]
        groups.setdefault(_place(node, levels) or domains.get(node.name, ""), []).append(
            {
                "name": node.name,
                "cordoned": node.unschedulable or any(taint.effect == "NoExecute" for taint in node.taints),
                "boards": boards,
                "product": _product(node, held),
                "cpu": min(WHOLE, used_cpu.get(node.name, 0) * WHOLE // cpu) if cpu else 0,
            }
        )
    return {
        "cycle": answers.view.cycle,
        "queues": queues,
        "groups": [
            {"name": name, "nodes": sorted(groups[name], key=lambda node: _natural(node["name"]))}
            for name in sorted(groups, key=_natural)
        ],
    }


def _boards(held: list[Held], owners: dict[str, int]) -> Iterator[Board]:
    """One for each accelerator, cut or whole, in the order of publication."""
    boards: dict[str, Board] = {}
    whole_or_untainted: set[str] = set()
    for each in held:
        if not each.weight:
            continue
        board = boards.setdefault(each.board, [])
        if each.state is not DeviceState.TAINTED:
            whole_or_untainted.add(each.board)
        if each.holders:
            share = each.weight // len(each.holders)
            board += [[owners.get(holder.queue, FOREIGN), share] for holder in each.holders]
    for name, board in boards.items():
        yield board if board or name in whole_or_untainted else [[TAINTED, WHOLE]]


def _device_plugin_use(snapshot: Snapshot, owners: dict[str, int]) -> dict[str, list[int]]:
    """Owners of the GPUs that pods got by count from a device plugin, by node."""
    queues = {pod.uid: gang.queue for gang in snapshot.gangs for pod in gang.pods}
    found: dict[str, list[int]] = {}
    for pod in sorted(snapshot.pods, key=lambda pod: pod.key):
        if not pod.extended_claim:
            owner = owners.get(queues.get(pod.uid, ""), FOREIGN)
            found.setdefault(pod.node, []).extend([owner] * _gpu_count(pod))
    return found


def _counted_boards(node: Node, in_use: list[int]) -> list[Board]:
    there = node.allocatable[attributes.GPU_RESOURCE]
    taken: list[Board] = [[[owner, WHOLE]] for owner in in_use[:there]]
    free: list[Board] = [[] for _ in range(there - len(taken))]
    return [*taken, *free]


def _gpu_count(pod: Pod) -> int:
    return pod.requests[attributes.GPU_RESOURCE]


def _used_cpu(snapshot: Snapshot) -> dict[str, int]:
    used: dict[str, int] = {}
    for pod in snapshot.pods:
        used[pod.node] = used.get(pod.node, 0) + pod.requests["cpu"]
    return used


def _levels(snapshot: Snapshot) -> tuple[str, ...]:
    """Node labels that say where a node stands: those of the first Topology, without the host itself."""
    for name in sorted(snapshot.topologies):
        levels = snapshot.topologies[name].levels
        return tuple(level for level in levels if level not in (attributes.HOSTNAME_LABEL, _NVLINK))
    return ()


def _place(node: Node, levels: tuple[str, ...]) -> str:
    return " / ".join(node.labels[level] for level in levels if level in node.labels)


def _domains(devices: dict[str, list[Held]]) -> dict[str, str]:
    """The NVLink domain of each node whose domain spans several nodes."""
    domains: dict[str, list[str]] = {}
    for node, held in devices.items():
        values = (scalar(each.device.attributes.get(_NVLINK)) for each in held)
        domain = next((value for value in values if value is not None), None)
        if domain is not None:
            domains.setdefault(str(domain), []).append(node)
    return {node: f"NVLink domain {name}" for name, nodes in domains.items() if len(nodes) > 1 for node in nodes}


def _product(node: Node, held: list[Held]) -> str:
    for each in held:
        product = scalar(each.device.attributes.get(f"{attributes.GPU_DRIVER}/{attributes.PRODUCT_NAME}"))
        if product is not None and each.weight:
            return str(product)
    return node.labels.get(attributes.GPU_PRODUCT_LABEL, "")


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """n2 before n10."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in _DIGITS.split(name))
