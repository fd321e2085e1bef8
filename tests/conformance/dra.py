"""Cases of kube-scheduler's device allocator: what is asked, what is published and held, and what must come out.

The outcome must be equal: allocated, none (nothing free), or error. Our own choice of devices is judged by an
independent checker and compared with the expected one in everything but the devices; in first-fit mode the devices are
compared too. Files with the parts `tolerations`, `capacityPolicy` and `consumedCapacity` hold cases of these rules.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from queues.resources import NOTHING
from scheduler.api import dra
from scheduler.api.quantity import parse
from scheduler.dra import capacity, taints
from scheduler.dra.allocate import Allocated, Answer, Ask, NoRoom, allocate
from scheduler.dra.counters import InUse
from scheduler.dra.devices import Capacity, Features, amount, read_policy
from scheduler.dra.pools import Inventory
from scheduler.model.nodes import Node
from scheduler.model.workloads import Claim
from tests.conformance.dra_checker import World, violations

Json = Mapping[str, Any]
T = TypeVar("T")

_GATES = {
    "DRAAdminAccess": "admin_access",
    "DRAPrioritizedList": "prioritized_list",
    "DRAPartitionableDevices": "partitionable",
    "DRAConsumableCapacity": "consumable",
    "DRADeviceTaints": "taints",
    "DRADeviceBindingConditions": "binding_conditions",
    "DRAListTypeAttributes": "list_attributes",
}


def run(path: Path) -> tuple[int, int]:
    """Runs the cases of a file, one line each; returns how many passed and how many failed."""
    document = json.loads(path.read_text())
    passed = failed = 0
    for name, problems in (*_allocator_cases(document), *_rule_cases(document)):
        print(f"{'FAIL' if problems else 'ok  '} {name}{': ' + '; '.join(problems) if problems else ''}")
        passed, failed = passed + (not problems), failed + bool(problems)
    return passed, failed


def _allocator_cases(document: Json) -> Iterator[tuple[str, list[str]]]:
    for case in document.get("cases") or ():
        yield case["name"], _problems(case)


def _problems(case: Json) -> list[str]:
    """Where our answers differ from what the case expects."""
    expect = case["expect"]
    problems = []
    for first_fit in (False, True):
        answer = _answer(case, first_fit=first_fit)
        how = "first fit" if first_fit else "our choice"
        if _outcome(answer) != expect["outcome"]:
            problems.append(f"{how}: expected {expect['outcome']}, got {answer}")
        elif isinstance(answer, Allocated):
            made = [json.loads(msgspec.json.encode(allocation)) for allocation in answer.allocations]
            problems += [f"{how}: {p}" for p in _differences(case, made, exact=first_fit)]
    return problems


def _answer(case: Json, *, first_fit: bool) -> Answer:
    features = Features(**{field: gate in case["features"] for gate, field in _GATES.items()})
    slices = _read(list[dra.ResourceSlice], case["slices"])
    classes = _read(list[dra.DeviceClass], case["classes"])
    inventory = Inventory.of(slices, {c.metadata.name: c for c in classes}, features=features)
    held = [_claim(claim) for claim in case["allocatedClaims"]]
    metadata = case["node"]["metadata"]
    node = Node(name=metadata["name"], labels=metadata.get("labels") or {}, allocatable=NOTHING)
    asks = [Ask(claim=_claim(claim)) for claim in case["claims"]]
    return allocate(node, asks, inventory, InUse.of(held, inventory), first_fit=first_fit)


def _read(kind: type[T], document: object) -> T:
    """Objects as they come over the wire: opaque parameters stay as they are written."""
    return msgspec.json.decode(json.dumps(document), type=kind)


def _claim(document: Json) -> Claim:
    claim = _read(dra.ResourceClaim, document)
    return Claim(
        key=claim.metadata.key,
        uid=claim.metadata.uid,
        spec=claim.spec,
        allocation=claim.status.allocation,
        admin_access_allowed=True,
    )


def _outcome(answer: Answer) -> str:
    if isinstance(answer, Allocated):
        return "allocated"
    return "none" if isinstance(answer, NoRoom) and answer.searched_all else "error"


def _differences(case: Json, made: list[Json], *, exact: bool) -> list[str]:
    """What the checker says, and where the allocations differ from the expected ones."""
    classes = {c["metadata"]["name"]: c for c in case["classes"]}
    features = frozenset(case["features"])
    world = World(case["node"], case["slices"], classes, case["allocatedClaims"], features)
    found = violations(world, case["claims"], made)
    expected = [entry["allocation"] for entry in case["expect"]["results"]]
    if len(expected) != len(made):
        return [*found, f"{len(made)} allocations instead of {len(expected)}"]
    for ours, theirs in zip(made, expected, strict=True):
        mine, wanted = _results(ours, devices=exact), _results(theirs, devices=exact)
        if mine != wanted:
            found.append(f"results {sorted(mine)} instead of {sorted(wanted)}")
        if ours["devices"].get("config") != theirs["devices"].get("config"):
            found.append(f"config {ours['devices'].get('config')} instead of {theirs['devices'].get('config')}")
        if _selector(ours) != _selector(theirs):
            found.append(f"node selector {ours.get('nodeSelector')} instead of {theirs.get('nodeSelector')}")
    return found


def _results(allocation: Json, *, devices: bool) -> Counter[str]:
    """The results in a comparable form; which device it is, and what comes with it, only if asked for."""
    return Counter(
        json.dumps(
            {
                "request": result["request"],
                "admin": result.get("adminAccess"),
                "shared": "shareID" in result,
                "consumed": {n: str(parse(q)) for n, q in sorted((result.get("consumedCapacity") or {}).items())},
            }
            | ({key: result.get(key) for key in ("driver", "pool", "device", "bindingConditions")} if devices else {})
        )
        for result in allocation["devices"].get("results") or ()
    )


def _selector(allocation: Json) -> list[tuple[str, list[str]]]:
    """The node selector without the order of its requirements."""
    terms = (allocation.get("nodeSelector") or {}).get("nodeSelectorTerms") or ()
    return [
        (kind, sorted(map(json.dumps, requirements))) for term in terms for kind, requirements in sorted(term.items())
    ]


def _rule_cases(document: Json) -> Iterator[tuple[str, list[str]]]:
    for case in document.get("tolerations") or ():
        toleration = msgspec.convert(case["toleration"], dra.DeviceToleration)
        taint = msgspec.convert(case["taint"], dra.DeviceTaint)
        yield case["description"], _same(taints.tolerates(toleration, taint), case["tolerated"])
    for case in document.get("capacityPolicy") or ():
        got = capacity.violates(amount(case["consumed"]), read_policy(_policy(case)))
        yield f"capacity policy: {case['name']}", _same(got, case["violates"])
    for case in document.get("consumedCapacity") or ():
        published = Capacity(value=amount(case["capacity"]), policy=read_policy(_policy(case)))
        requested = None if case["requested"] is None else amount(case["requested"])
        yield (
            f"consumed capacity: {case['name']}",
            _same(capacity.consumed(requested, published), amount(case["consumed"])),
        )


def _policy(case: Json) -> dra.CapacityRequestPolicy | None:
    policy = case["requestPolicy"]
    return None if policy is None else msgspec.convert(policy, dra.CapacityRequestPolicy)


def _same(got: object, wanted: object) -> list[str]:
    return [] if got == wanted else [f"expected {wanted}, got {got}"]
