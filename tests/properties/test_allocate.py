"""Whatever is published, held and asked: an answer exists exactly if brute force finds one; nothing is given twice."""

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from queues.resources import NOTHING
from scheduler.api import dra
from scheduler.dra.allocate import Allocated, Ask, NoRoom, allocate
from scheduler.dra.counters import InUse
from scheduler.dra.pools import Inventory
from scheduler.model.nodes import Node
from scheduler.model.workloads import Claim
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests import builders
from tests.conformance.dra_checker import World, violations

Json = dict[str, Any]

DRIVER, POOLS = "d", ("pool-0", "pool-1")
RULED = "ruled"
NODE = {"metadata": {"name": "n", "labels": {}}}
THE_NODE = Node(name="n", labels={}, allocatable=NOTHING)
CLASSES = {
    "any": {"metadata": {"name": "any"}, "spec": {}},
    "big": {
        "metadata": {"name": "big"},
        "spec": {"selectors": [{"cel": {"expression": 'device.attributes["d"].kind == "big"'}}]},
    },
}


@st.composite
def devices(draw: st.DrawFn) -> list[Json]:
    """Up to six devices of two kinds and two link domains in two pools: some on a common board, some shared (with a
    policy, or on a board as well), some tainted by their driver or by a rule."""
    made = []
    for number in range(draw(st.integers(1, 6))):
        device: Json = {
            "name": f"dev-{number}",
            "attributes": {
                "kind": {"string": draw(st.sampled_from(["big", "small"]))},
                "link": {"string": draw(st.sampled_from(["a", "b"]))},
            },
        }
        form = draw(st.sampled_from(["plain", "plain", "plain", "partition", "shared", "tainted", "ruled", "linkless"]))
        drawn = form == "shared" and draw(st.integers(0, 3)) == 0
        if form == "partition" or drawn:
            amounts = {"s0": draw(st.integers(0, 1)), "s1": draw(st.integers(0, 1)), "mem": draw(st.integers(1, 2))}
            board = draw(st.sampled_from(["board-0", "board-1"]))
            counters = {name: {"value": str(amount)} for name, amount in amounts.items()}
            device["consumesCounters"] = [{"counterSet": board, "counters": counters}]
        if form == "shared":
            device["allowMultipleAllocations"] = True
            device["capacity"] = {"memory": {"value": "3"}}
            if draw(st.booleans()):
                device["capacity"]["memory"]["requestPolicy"] = {"default": "1"}
        elif form in ("tainted", RULED):
            device["taints"] = [{"key": form, "effect": "NoSchedule"}]
        elif form == "linkless":
            del device["attributes"]["link"]
        made.append(device)
    return made


def pool_of(device: Json) -> str:
    """The first four are in one pool, the others in a second."""
    return POOLS[int(device["name"].rpartition("-")[2]) // 4]


def slices(published: list[Json]) -> list[Json]:
    counters = {"s0": {"value": "1"}, "s1": {"value": "1"}, "mem": {"value": "3"}}
    sets = [{"name": f"board-{n}", "counters": counters} for n in range(2)]
    made: list[Json] = []
    for name in POOLS:
        pool = {"name": name, "generation": 1, "resourceSliceCount": 2}
        spec = {"driver": DRIVER, "pool": pool, "nodeName": "n"}
        inside = [device for device in published if pool_of(device) == name]
        made.append({"metadata": {"name": f"s-{name}-devices"}, "spec": {**spec, "devices": inside}})
        made.append({"metadata": {"name": f"s-{name}-counters"}, "spec": {**spec, "sharedCounters": sets}})
    return made


def told(documents: list[Json]) -> tuple[list[dra.ResourceSlice], list[dra.DeviceTaintRule]]:
    """The taints of rules are in the devices' documents, for the judge; here they come as rules."""
    rules, bare = [], []
    for document in documents:
        spec = document["spec"]
        devices = []
        for device in spec.get("devices", ()):
            if any(taint["key"] == RULED for taint in device.get("taints", ())):
                where = {"driver": DRIVER, "pool": spec["pool"]["name"], "device": device["name"]}
                rule = {"deviceSelector": where, "taint": device["taints"][0]}
                rules.append({"metadata": {"name": f"rule-{device['name']}"}, "spec": rule})
                device = {name: value for name, value in device.items() if name != "taints"}
            devices.append(device)
        bare.append({**document, "spec": {**spec, "devices": devices}} if devices else document)
    return read(list[dra.ResourceSlice], bare), read(list[dra.DeviceTaintRule], rules)


def classes() -> dict[str, dra.DeviceClass]:
    return {name: read(dra.DeviceClass, document) for name, document in CLASSES.items()}


def inventory(documents: list[Json]) -> Inventory:
    published, rules = told(documents)
    return Inventory.of(published, classes(), rules)


@st.composite
def exact(draw: st.DrawFn) -> Json:
    asked: Json = {"deviceClassName": draw(st.sampled_from(["any", "any", "big"])), "allocationMode": "ExactCount"}
    if draw(st.integers(0, 7)) == 0:
        asked["allocationMode"] = "All"
    else:
        asked["count"] = draw(st.sampled_from([1, 1, 1, 2]))
    if draw(st.integers(0, 3)) == 0:
        asked["capacity"] = {"requests": {"memory": str(draw(st.integers(1, 2)))}}
    if draw(st.booleans()):
        asked["tolerations"] = [{"operator": "Exists"}]
    return asked


@st.composite
def claims(draw: st.DrawFn) -> list[Json]:
    made = []
    for number in range(draw(st.integers(1, 2))):
        requests: list[Json] = []
        for position in range(draw(st.integers(1, 2))):
            if draw(st.integers(0, 3)) == 0:
                alternatives = [{"name": f"s{i}", **draw(exact())} for i in range(2)]
                requests.append({"name": f"r{position}", "firstAvailable": alternatives})
            else:
                requests.append({"name": f"r{position}", "exactly": draw(exact())})
                if draw(st.integers(0, 9)) == 0:
                    requests[-1]["exactly"]["adminAccess"] = True
        constraints = draw(
            st.sampled_from([[], [], [{"matchAttribute": "d/link"}], [{"distinctAttribute": "d/kind"}],
                             [{"matchAttribute": "d/link", "requests": ["r0"]}]])
        )  # fmt: skip
        spec = {"devices": {"requests": requests, "constraints": constraints}}
        made.append({"metadata": {"name": f"c{number}", "uid": f"u{number}", "namespace": "ns"}, "spec": spec})
    return made


@st.composite
def held(draw: st.DrawFn, published: list[Json]) -> list[Json]:
    """One claim that holds an exclusive device or a share, now and then."""
    if draw(st.booleans()):
        return []
    device = draw(st.sampled_from(published))
    result = {"request": "r", "driver": DRIVER, "pool": pool_of(device), "device": device["name"]}
    if device.get("allowMultipleAllocations"):
        result |= {"shareID": "x", "consumedCapacity": {"memory": str(draw(st.integers(1, 3)))}}
    allocation = {"devices": {"results": [result]}}
    spec = {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "any"}}]}}
    metadata = {"name": "h", "uid": "h", "namespace": "ns"}
    return [{"metadata": metadata, "spec": spec, "status": {"allocation": allocation}}]


situations = devices().flatmap(lambda published: st.tuples(st.just(published), held(published), claims()))


def read(kind: Any, document: object) -> Any:
    return msgspec.json.decode(json.dumps(document), type=kind)


def claim(document: Json) -> Claim:
    wire = read(dra.ResourceClaim, document)
    return Claim(
        key=wire.metadata.key,
        uid=wire.metadata.uid,
        spec=wire.spec,
        allocation=wire.status.allocation,
        admin_access_allowed=True,
    )


def answer(published: list[Json], holding: list[Json], asked: list[Json], *, first_fit: bool = False) -> Any:
    found = inventory(slices(published))
    in_use = InUse.of(map(claim, holding), found)
    return allocate(THE_NODE, [Ask(claim=claim(c)) for c in asked], found, in_use, first_fit=first_fit)


def brute_force(published: list[Json], holding: list[Json], asked: list[Json]) -> bool:
    """Whether any allocation at all satisfies the checker."""
    world = World(NODE, slices(published), CLASSES, holding)
    return any(not violations(world, asked, made) for made in every_allocation(world, published, asked))


MOST_WAYS = 5_000


def every_allocation(world: World, published: list[Json], asked: list[Json]) -> Iterator[list[Json]]:
    """Every way to name devices for all requests; most break a rule. Situations with very many are passed over."""
    options = [
        [results for name, wanted in alternatives(request) for results in ways(world, published, name, wanted)]
        for document in asked
        for request in document["spec"]["devices"]["requests"]
    ]
    assume(math.prod(map(len, options)) <= MOST_WAYS)
    sizes = [len(document["spec"]["devices"]["requests"]) for document in asked]
    for chosen in itertools.product(*options):
        parts = iter(chosen)
        made = []
        for size in sizes:
            results = [r for part in itertools.islice(parts, size) for r in part]
            selector = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}
            made.append({"devices": {"results": results}, "nodeSelector": {"nodeSelectorTerms": [selector]}})
        yield made


def alternatives(request: Json) -> list[tuple[str, Json]]:
    if "exactly" in request:
        return [(request["name"], request["exactly"])]
    return [(f"{request['name']}/{sub['name']}", sub) for sub in request["firstAvailable"]]


def ways(world: World, published: list[Json], name: str, wanted: Json) -> Iterator[list[Json]]:
    counts = range(1, len(published) + 1) if wanted["allocationMode"] == "All" else [wanted["count"]]
    for count in counts:
        for group in itertools.combinations(published, count):
            results = [result(name, wanted, device) for device in group]
            if not any(violations_of_one(world, wanted, r) for r in results):
                yield results


def violations_of_one(world: World, wanted: Json, one: Json) -> list[str]:
    alone = {"metadata": {"name": "c"}, "spec": {"devices": {"requests": [{"name": "r", "exactly": {**wanted}}]}}}
    alone["spec"]["devices"]["requests"][0]["exactly"] |= {"allocationMode": "ExactCount", "count": 1}
    selector = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}
    made = {"devices": {"results": [{**one, "request": "r"}]}, "nodeSelector": {"nodeSelectorTerms": [selector]}}
    return violations(world, [alone], [made])


def result(name: str, wanted: Json, device: Json) -> Json:
    made: Json = {"request": name, "driver": DRIVER, "pool": pool_of(device), "device": device["name"]}
    if wanted.get("adminAccess"):
        made["adminAccess"] = True
    if wanted.get("tolerations"):
        made["tolerations"] = wanted["tolerations"]
    if device.get("allowMultipleAllocations"):
        requested = (wanted.get("capacity") or {}).get("requests") or {}
        amounts = {
            n: requested.get(n, c.get("requestPolicy", {}).get("default", c["value"]))
            for n, c in (device.get("capacity") or {}).items()
        }
        made |= {"shareID": "y", "consumedCapacity": amounts}
    return made


@settings(max_examples=150, deadline=None)
@given(situations)
def test_there_is_an_answer_exactly_if_brute_force_finds_one_and_it_keeps_every_rule(
    situation: tuple[list[Json], list[Json], list[Json]],
) -> None:
    published, holding, asked = situation
    possible = brute_force(published, holding, asked)
    for first_fit in (False, True):
        got = answer(published, holding, asked, first_fit=first_fit)
        assert isinstance(got, Allocated) == possible, got
        if isinstance(got, Allocated):
            made = json.loads(msgspec.json.encode(got.allocations))
            assert violations(World(NODE, slices(published), CLASSES, holding), asked, made) == []
        elif isinstance(got, NoRoom):
            assert got.searched_all
            assert got.cause


@settings(max_examples=100, deadline=None)
@given(situations)
def test_the_whole_plan_starts_the_pod_exactly_if_there_is_an_answer_and_the_checker_accepts_it(
    situation: tuple[list[Json], list[Json], list[Json]],
) -> None:
    published, holding, asked = situation
    found, rules = told(slices(published))
    made = builders.queue("default") + builders.node("n")
    made += builders.world(slices=tuple(found), classes=classes(), taint_rules=tuple(rules))
    made += builders.world(claims={each.key: each for each in map(claim, (*holding, *asked))})
    wanted = {document["metadata"]["name"]: claim(document).key for document in asked}
    made += builders.gang_of("ns/pod", [builders.pod("ns/pod", claims=wanted)])
    decided = plan(made)
    assert check(made, decided) == ()
    assert bool(decided.placements) == isinstance(answer(published, holding, asked), Allocated)


@settings(max_examples=60, deadline=None)
@given(situations, st.randoms(use_true_random=False))
def test_the_order_of_slices_does_not_matter(situation: tuple[list[Json], list[Json], list[Json]], random: Any) -> None:
    published, _, asked = situation
    documents = slices(published)
    asks = [Ask(claim=claim(c)) for c in asked]
    answers = []
    for _ in range(2):
        random.shuffle(documents)
        found = inventory(documents)
        answers.append(allocate(THE_NODE, asks, found, InUse(found)))
    assert answers[0] == answers[1]


@settings(max_examples=60, deadline=None)
@given(situations)
def test_what_is_taken_and_given_back_leaves_no_trace(situation: tuple[list[Json], list[Json], list[Json]]) -> None:
    published, holding, asked = situation
    found = inventory(slices(published))
    in_use = InUse.of(map(claim, holding), found)
    before = in_use.signature(THE_NODE)
    got = allocate(THE_NODE, [Ask(claim=claim(c)) for c in asked], found, in_use)
    assert in_use.signature(THE_NODE) == before
    if isinstance(got, Allocated):
        fork = in_use.fork()
        for allocation in got.allocations:
            fork.take(allocation)
        assert in_use.signature(THE_NODE) == before
        for allocation in got.allocations:
            fork.give_back(allocation)
        assert fork.signature(THE_NODE) == before


def plainly_asked(asked: list[Json]) -> bool:
    """No request for all devices, or for devices that others hold."""
    wanted = [each for c in asked for r in c["spec"]["devices"]["requests"] for _, each in alternatives(r)]
    return not any(each["allocationMode"] == "All" or each.get("adminAccess") for each in wanted)


DRAWS = [
    {"consumesCounters": [{"counterSet": "board-0", "counters": {name: {"value": "1"} for name in names}}]}
    for names in (("s0",), ("s1",), ("s0", "s1"))
]


def named(device: Json) -> tuple[str, str, str]:
    return DRIVER, pool_of(device), device["name"]


@settings(max_examples=100, deadline=None)
@given(situations.filter(lambda situation: plainly_asked(situation[2])), st.data())
def test_withdrawing_a_device_that_is_held_changes_no_answer(
    situation: tuple[list[Json], list[Json], list[Json]], data: st.DataObject
) -> None:
    """A claim holds it before and after; afterwards it is known only as it was."""
    parts, _, asked = situation
    published = [{**device, **data.draw(st.sampled_from(DRAWS))} for device in parts]
    gone = data.draw(st.sampled_from(published))
    left = [device for device in published if device is not gone]
    result = dra.DeviceRequestAllocationResult(request="r", driver=DRIVER, pool=pool_of(gone), device=gone["name"])
    holder = Claim(
        key="ns/h",
        uid="h",
        spec=dra.ResourceClaimSpec(),
        allocation=dra.AllocationResult(devices=dra.DeviceAllocationResult(results=(result,))),
    )
    withdrawn = {named(gone): read(dra.Device, gone)}
    found = []
    for devices_now, remembered in ((published, {}), (left, withdrawn)):
        now, rules = told(slices(devices_now))
        inventory_now = Inventory.of(now, classes(), rules, withdrawn=remembered)
        in_use = InUse.of([holder], inventory_now)
        found.append(allocate(THE_NODE, [Ask(claim=claim(c)) for c in asked], inventory_now, in_use))
    assert isinstance(found[0], Allocated) == isinstance(found[1], Allocated)


@settings(max_examples=100, deadline=None)
@given(situations.filter(lambda situation: plainly_asked(situation[2])), st.data())
def test_a_device_that_all_claims_avoid_might_as_well_not_be_there(
    situation: tuple[list[Json], list[Json], list[Json]], data: st.DataObject
) -> None:
    published, holding, asked = situation
    avoided = data.draw(st.sampled_from(published))
    assume(
        all(r["device"] != avoided["name"] for h in holding for r in h["status"]["allocation"]["devices"]["results"])
    )
    now, rules = told(slices(published))
    found = Inventory.of(now, classes(), rules, avoided=[named(avoided)])
    asks = [Ask(claim=replace(claim(c), avoids=(named(avoided),))) for c in asked]
    made = allocate(THE_NODE, asks, found, InUse.of(map(claim, holding), found))
    without = answer([device for device in published if device is not avoided], holding, asked)
    assert isinstance(made, Allocated) == isinstance(without, Allocated)
