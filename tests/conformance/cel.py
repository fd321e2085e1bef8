"""Cases of the DRA CEL environment: an expression, a device, and match, run-time error or compile error.

Expressions of `envType` "stored" are compiled in the widest environment, "new" ones with the features of the case. An
expected error text must be part of ours. `maxCost` is not compared: costs are counted differently (see cel_cost).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scheduler.dra.cel.selectors import CelCompileError, CelRuntimeError, cel_device, compile_selector


def run(path: Path) -> tuple[int, int]:
    """Runs the cases of a file, one line each; returns how many passed and how many failed."""
    passed = failed = 0
    for case in json.loads(path.read_text())["cases"]:
        problem = _problem(case)
        print(f"{'FAIL' if problem else 'ok  '} {case['name']}{': ' + problem if problem else ''}")
        passed, failed = passed + (not problem), failed + bool(problem)
    return passed, failed


def _problem(case: dict[str, Any]) -> str:
    """Where the outcome differs from the expected one; empty if it does not."""
    expect = case["expect"]
    wanted = next((kind for kind in ("match", "matchError", "compileError") if kind in expect), None)
    if wanted is None:
        return "the case expects nothing that is known"
    got, detail = _outcome(case)
    if got != wanted:
        return f"expected {wanted} {expect[wanted]!r}, got {got} {detail!r}"
    if wanted == "match":
        return "" if detail is expect["match"] else f"expected match {expect['match']}, got {detail}"
    return "" if expect[wanted] in str(detail) else f"expected the text {expect[wanted]!r}, got {detail!r}"


def _outcome(case: dict[str, Any]) -> tuple[str, bool | str]:
    stored = case.get("envType", "stored") == "stored"
    features, raw = case.get("features", ()), case["device"]
    try:
        selector = compile_selector(
            case["expression"],
            list_attributes=stored or "DRAListTypeAttributes" in features,
            consumable_capacity=stored or "DRAConsumableCapacity" in features,
        )
    except CelCompileError as error:
        return "compileError", str(error)
    try:
        device = cel_device(
            raw["driver"], raw.get("attributes"), raw.get("capacity"), raw.get("allowMultipleAllocations")
        )
        return "match", selector.matches(device)
    except CelRuntimeError as error:
        return "matchError", str(error)
