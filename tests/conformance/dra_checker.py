"""An independent judge of allocations: reads the API objects as JSON, shares no code with the allocator but CEL.

It does not search. It looks at what was handed out and says what is wrong with it: a device or capacity given twice,
counters overdrawn, selectors, taints, constraints, counts or limits not kept, a wrong node selector.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from scheduler.api.quantity import parse
from scheduler.dra.cel.selectors import cel_device, compile_selector

Json = Mapping[str, Any]
Key = tuple[str, str, str]
_VALUE_KINDS = ("string", "int", "bool", "version")


@dataclass
class World:
    """What the judge knows: one node, the slices, classes, claims that hold devices already, and enabled features."""

    node: Json
    slices: Sequence[Json]
    classes: Mapping[str, Json]
    held: Sequence[Json] = ()
    features: frozenset[str] | None = None
    devices: dict[Key, tuple[Json, Json]] = field(init=False)

    def __post_init__(self) -> None:
        newest: dict[tuple[str, str], int] = {}
        visible = [s for s in self.slices if self._reaches(s["spec"])]
        others = [s for s in self.slices if not self._reaches(s["spec"])]
        for published in visible:
            spec = published["spec"]
            pool = spec["driver"], spec["pool"]["name"]
            newest[pool] = max(newest.get(pool, -1), spec["pool"].get("generation", 0))
        self.devices = {}
        for published in (*others, *visible):  # of several devices of one name the node's own is meant
            spec = published["spec"]
            pool = spec["driver"], spec["pool"]["name"]
            if newest.get(pool, -1) == spec["pool"].get("generation", 0):
                for device in spec.get("devices") or ():
                    self.devices[*pool, device["name"]] = device, spec

    def has(self, feature: str) -> bool:
        return self.features is None or feature in self.features

    def _reaches(self, spec: Json) -> bool:
        if spec.get("perDeviceNodeSelection"):
            return any(_on_node(device, self.node) for device in spec.get("devices") or ())
        return _on_node(spec, self.node)

    def usable(self, key: Key) -> bool:
        """Whether the node may use the device."""
        device, spec = self.devices[key]
        return _on_node(device if spec.get("perDeviceNodeSelection") else spec, self.node)

    def counters(self, pool: tuple[str, str]) -> dict[tuple[str, str], Fraction]:
        """What the pool's counter sets hold."""
        return {
            (counter_set["name"], name): parse(counter["value"])
            for published in self.slices
            if (published["spec"]["driver"], published["spec"]["pool"]["name"]) == pool
            for counter_set in published["spec"].get("sharedCounters") or ()
            for name, counter in counter_set["counters"].items()
        }


def violations(world: World, claims: Sequence[Json], allocations: Sequence[Json]) -> list[str]:
    """All that is wrong with giving `allocations` to `claims`, in their order."""
    found = list(_double_use(world, allocations))
    for claim, allocation in zip(claims, allocations, strict=True):
        name = claim["metadata"]["name"]
        found += [f"claim {name}: {problem}" for problem in _claim_problems(world, claim, allocation)]
    return found


def _results(allocation: Json) -> Sequence[Json]:
    return allocation.get("devices", {}).get("results") or ()


def _key(result: Json) -> Key:
    return result["driver"], result["pool"], result["device"]


def _double_use(world: World, allocations: Sequence[Json]) -> Iterator[str]:
    """Devices, capacity and counters that these allocations and those that stood before take beyond what there is."""
    before = [r for claim in world.held for r in _results(claim["status"]["allocation"]) if not r.get("adminAccess")]
    new = [r for allocation in allocations for r in _results(allocation) if not r.get("adminAccess")]
    whole = Counter(_key(r) for r in (*before, *new) if "shareID" not in r)
    parts = Counter(_key(r) for r in (*before, *new) if "shareID" in r)
    touched = {_key(r) for r in new}
    for key in sorted(touched):
        if whole[key] > 1 or (whole[key] and parts[key]):
            yield f"device {key} is given to more than one"
        device, _ = world.devices.get(key, ({}, {}))
        for name, capacity in (device.get("capacity") or {}).items():
            shares = [r for r in (*before, *new) if _key(r) == key and "shareID" in r]
            taken = sum((parse(r.get("consumedCapacity", {}).get(name, 0)) for r in shares), Fraction())
            if taken > parse(capacity["value"]):
                yield f"capacity {name} of device {key}: {taken} taken"
    for pool in sorted({key[:2] for key in touched}):
        yield from _overdrawn(world, pool, {key for key in (*whole, *parts) if key[:2] == pool})
    yield from _seen_though_full(world, before, allocations)


def _seen_though_full(world: World, before: Sequence[Json], allocations: Sequence[Json]) -> Iterator[str]:
    """Admin access takes nothing, but a share that has no room beside those of others is not to be had."""
    shares = [r for allocation in allocations for r in _results(allocation) if "shareID" in r and r.get("adminAccess")]
    for share in shares:
        device, _ = world.devices.get(_key(share), ({}, {}))
        others = [r["consumedCapacity"] for r in before if _key(r) == _key(share) and "shareID" in r]
        for name, capacity in (device.get("capacity") or {}).items():
            taken = sum((parse(each.get(name, 0)) for each in (*others, share["consumedCapacity"])), Fraction())
            if taken > parse(capacity["value"]):
                yield f"capacity {name} of device {_key(share)}: no room for the share of an admin"


def _overdrawn(world: World, pool: tuple[str, str], used: set[Key]) -> Iterator[str]:
    drawn: Counter[tuple[str, str]] = Counter()
    for key in sorted(used):
        device, _ = world.devices.get(key, ({}, {}))
        for consumption in device.get("consumesCounters") or ():
            for name, counter in consumption["counters"].items():
                drawn[consumption["counterSet"], name] += parse(counter["value"])  # type: ignore[assignment]
    totals = world.counters(pool)
    for name, amount in sorted(drawn.items()):
        if amount > totals[name]:
            yield f"counter {name} of pool {pool}: {amount} taken of {totals[name]}"


def _claim_problems(world: World, claim: Json, allocation: Json) -> Iterator[str]:
    spec, results = claim["spec"]["devices"], _results(allocation)
    strange = [key for key in map(_key, results) if key not in world.devices or not world.usable(key)]
    if strange:
        yield from (f"device {key} cannot be used on the node" for key in strange)
        return
    if len(results) > 32:
        yield f"{len(results)} results"
    order = [request["name"] for request in spec.get("requests") or ()]
    given = [result["request"].partition("/")[0] for result in results]
    if sorted(given, key=order.index) != given:
        yield f"results are not in the order of the requests: {given}"
    for request in spec.get("requests") or ():
        of_request = [r for r in results if r["request"].partition("/")[0] == request["name"]]
        names = {r["request"] for r in of_request}
        if len(names) != 1:
            yield f"request {request['name']} is served by {sorted(names)}"
            continue
        (name,) = names
        for problem in _request_problems(world, _asked(request, name), of_request):
            yield f"request {name}: {problem}"
    for constraint in spec.get("constraints") or ():
        yield from _constraint_problems(world, constraint, results)
    exclusive = Counter(_key(r) for r in results if "shareID" not in r)
    yield from (f"device {key} twice in one claim" for key, count in exclusive.items() if count > 1)
    if allocation.get("nodeSelector") != (expected := _node_selector(world, results)):
        yield f"node selector {allocation.get('nodeSelector')} instead of {expected}"


def _asked(request: Json, name: str) -> Json:
    if "exactly" in request:
        return request["exactly"]
    return next(sub for sub in request["firstAvailable"] if f"{request['name']}/{sub['name']}" == name)


def _request_problems(world: World, asked: Json, results: Sequence[Json]) -> Iterator[str]:
    keys = [_key(r) for r in results]
    if len(set(keys)) != len(keys):
        yield "the same device twice"
    if asked.get("allocationMode", "ExactCount") == "ExactCount":
        if len(keys) != asked.get("count", 1):
            yield f"{len(keys)} devices instead of {asked.get('count', 1)}"
    else:
        missing = {key for key in world.devices if world.usable(key) and _fits(world, asked, key)} - set(keys)
        if missing:
            yield f"not all devices: {sorted(missing)} are missing"
    for result in results:
        key = _key(result)
        if not _fits(world, asked, key):
            yield f"device {key} does not fit"
        else:
            yield from _result_problems(world, asked, result)


def _result_problems(world: World, asked: Json, result: Json) -> Iterator[str]:
    device, _ = world.devices[_key(result)]
    if world.has("DRADeviceTaints"):
        for taint in device.get("taints") or ():
            stops = taint.get("effect") in ("NoSchedule", "NoExecute")
            if stops and not any(_tolerates(t, taint) for t in asked.get("tolerations") or ()):
                yield f"device {_key(result)} has taint {taint}"
    for name in ("bindingConditions", "bindingFailureConditions"):
        if (result.get(name) or None) != (device.get(name) or None):
            yield f"{name} {result.get(name)}"
    if bool(result.get("adminAccess")) != bool(asked.get("adminAccess")):
        yield f"adminAccess {result.get('adminAccess')}"
    if (result.get("tolerations") or None) != (asked.get("tolerations") or None):
        yield f"tolerations {result.get('tolerations')}"
    shareable = bool(device.get("allowMultipleAllocations"))
    if shareable != ("shareID" in result):
        yield f"shareID of device {_key(result)}: {result.get('shareID')}"
    consumed = result.get("consumedCapacity") or {}
    if shareable and set(consumed) != set(device.get("capacity") or {}):
        yield f"consumedCapacity {consumed}"
    for name, requested in ((asked.get("capacity") or {}).get("requests") or {}).items():
        if shareable and parse(consumed.get(name, 0)) < parse(requested):
            yield f"capacity {name}: {consumed.get(name)} instead of {requested}"


def _fits(world: World, asked: Json, key: Key) -> bool:
    """Whether class, selectors, the size of its capacities and their request policies allow the device."""
    device, _ = world.devices[key]
    seen = cel_device(key[0], device.get("attributes"), device.get("capacity"), device.get("allowMultipleAllocations"))
    selectors = (*(world.classes[asked["deviceClassName"]]["spec"].get("selectors") or ()), *_selectors(asked))
    if not all(compile_selector(s["cel"]["expression"], list_attributes=True).matches(seen) for s in selectors):
        return False
    requests = ((asked.get("capacity") or {}).get("requests") or {}).items()
    capacity = device.get("capacity") or {}
    return all(name in capacity and _may_be_taken(parse(value), capacity[name]) for name, value in requests)


def _may_be_taken(requested: Fraction, capacity: Json) -> bool:
    """Whether an amount, rounded up to what the request policy allows, is within both policy and capacity."""
    policy = capacity.get("requestPolicy") or {}
    bounds, values = policy.get("validRange") or {}, sorted(map(parse, policy.get("validValues") or ()))
    rounded, most = requested, parse(capacity["value"])
    if bounds:
        least, step = parse(bounds["min"]), parse(bounds.get("step", 0))
        rounded = max(requested, least)
        if step:
            rounded += (least - rounded) % step
        most = min(most, parse(bounds.get("max", capacity["value"])))
    elif values:
        rounded = next((value for value in values if value >= requested), most + 1)
    by_default = "default" in policy and parse(policy["default"]) == requested == rounded
    return rounded <= (parse(capacity["value"]) if by_default else most)


def _selectors(asked: Json) -> Iterable[Json]:
    return asked.get("selectors") or ()


def _constraint_problems(world: World, constraint: Json, results: Sequence[Json]) -> Iterator[str]:
    covered = [
        _key(r)
        for r in results
        if not constraint.get("requests")
        or r["request"] in constraint["requests"]
        or r["request"].partition("/")[0] in constraint["requests"]
    ]
    name = constraint.get("matchAttribute") or constraint["distinctAttribute"]
    values = [_values(world, key, name) for key in covered]
    if not all(values):
        yield f"a device lacks attribute {name}"
    elif "matchAttribute" in constraint and values and not frozenset.intersection(*values):
        yield f"attribute {name} does not match: {values}"
    elif "distinctAttribute" in constraint and sum(map(len, values)) != len(frozenset().union(*values)):
        yield f"attribute {name} is not distinct: {values}"


def _values(world: World, key: Key, name: str) -> frozenset[tuple[str, Any]]:
    attributes = world.devices[key][0].get("attributes") or {}
    domain, _, identifier = name.partition("/")
    attribute = attributes.get(name) or (attributes.get(identifier) if domain == key[0] else None) or {}
    for kind in _VALUE_KINDS:
        if kind in attribute:
            return frozenset({(kind, attribute[kind])})
        if f"{kind}s" in attribute:
            return frozenset((kind, value) for value in attribute[f"{kind}s"])
    return frozenset()


def _tolerates(toleration: Json, taint: Json) -> bool:
    return (
        toleration.get("key", "") in ("", taint["key"])
        and toleration.get("effect", "") in ("", taint["effect"])
        and (toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", ""))
    )


def _on_node(place: Json, node: Json) -> bool:
    if "nodeName" in place:
        return bool(place["nodeName"] == node["metadata"]["name"])
    if "nodeSelector" in place:
        return any(_term_holds(term, node) for term in place["nodeSelector"]["nodeSelectorTerms"])
    return bool(place.get("allNodes"))


def _term_holds(term: Json, node: Json) -> bool:
    labels = node["metadata"].get("labels") or {}
    by_label = (labels.get(r["key"]) in r["values"] for r in term.get("matchExpressions") or ())
    by_name = (node["metadata"]["name"] in r["values"] for r in term.get("matchFields") or ())
    return all(by_label) and all(by_name)


def _node_selector(world: World, results: Sequence[Json]) -> Json | None:
    places = []
    for result in results:
        device, spec = world.devices[_key(result)]
        places.append(device if spec.get("perDeviceNodeSelection") else spec)
        if "nodeName" in places[-1] or device.get("bindsToNode"):
            name = world.node["metadata"]["name"]
            field = {"key": "metadata.name", "operator": "In", "values": [name]}
            return {"nodeSelectorTerms": [{"matchFields": [field]}]}
    term: dict[str, list[Json]] = {}
    for place in places:
        for part in (place.get("nodeSelector") or {}).get("nodeSelectorTerms") or ():
            for kind, requirements in part.items():
                term.setdefault(kind, []).extend(r for r in requirements if r not in term.get(kind, []))
    return {"nodeSelectorTerms": [term]} if term else None
