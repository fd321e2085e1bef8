"""KAI's fair-share divisions, given as JSON (schema kai-fairshare/1), against `queues.fair_share.divide`.

Each case is one level of queues with what they ask for, and the shares KAI's own tests expect. A quota of -1 is all
there is, a limit of -1 none; GPUs are counted in whole ones, CPU in thousandths, memory in bytes.
"""

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from queues.fair_share import divide
from queues.resources import Resources
from queues.tree import WHOLE, Queue, QueueResource, QueueTree
from queues.usage import CLUSTER, Usage

_NAMES = {"GPU": "gpu", "CPU": "cpu", "Memory": "memory"}
_SCALE = {"GPU": 1000, "CPU": 1, "Memory": 1}
# Weights are compared with each other only, so fractions of one become integers by one factor for all.
_WEIGHT = 1000


def run(path: Path) -> tuple[int, int]:
    """Run every case of the file, a line each; (passed, failed)."""
    passed = failed = 0
    for case in json.loads(path.read_text())["divisions"]:
        problems = _problems(case)
        print(f"{'FAIL' if problems else 'ok  '} {case['name']}{''.join(f'; {problem}' for problem in problems)}")
        passed, failed = (passed, failed + 1) if problems else (passed + 1, failed)
    return passed, failed


def _problems(case: Mapping[str, Any]) -> list[str]:
    kinds = [case["resource"]] if case.get("resource") else sorted(_NAMES)
    totals = {case["resource"]: case["total"]} if case.get("resource") else case["total"]
    pool = Resources({_NAMES[kind]: _house(kind, totals.get(kind, 0)) for kind in kinds})
    given = case["queues"]
    tree = QueueTree.of(_queue(name, given[name], kinds) for name in given)
    asks = {name: _amounts(given[name], "request", kinds) for name in given}
    usage = Usage(
        parts={name: {_NAMES[k]: round(given[name][k]["usage"] * CLUSTER) for k in kinds} for name in given},
        strength=Fraction(case["kValue"]),
    )
    shares = divide(pool, tree, asks, usage)
    problems = [
        f"queue {name} gets {shares[name][_NAMES[kind]]} of {kind}, {expected} expected"
        for name in sorted(given)
        for kind in kinds
        if shares[name][_NAMES[kind]] != (expected := _house(kind, case["fairShare"][name][kind]))
    ]
    if case.get("remaining") is not None:
        kind = case["resource"]
        left = max(pool[_NAMES[kind]] - sum(share[_NAMES[kind]] for share in shares.values()), 0)
        if left != _house(kind, case["remaining"]):
            problems.append(f"{left} of {kind} remain, {_house(kind, case['remaining'])} expected")
    return problems


def _queue(name: str, given: Mapping[str, Any], kinds: list[str]) -> Queue:
    return Queue(
        name=name,
        priority=given["priority"],
        created_ms=given.get("created", 0),
        resources={_NAMES[kind]: _rule(kind, given[kind]) for kind in kinds},
    )


def _rule(kind: str, given: Mapping[str, Any]) -> QueueResource:
    return QueueResource(
        quota=WHOLE if given["deserved"] == -1 else _house(kind, given["deserved"]),
        limit=None if given["maxAllowed"] == -1 else _house(kind, given["maxAllowed"]),
        weight=max(round(given["overQuotaWeight"] * _WEIGHT), 0),
    )


def _amounts(given: Mapping[str, Any], field: str, kinds: list[str]) -> Resources:
    return Resources({_NAMES[kind]: _house(kind, given[kind][field]) for kind in kinds})


def _house(kind: str, amount: float) -> int:
    return round(amount * _SCALE[kind])
