"""hypothesis: clusters, queue trees, gangs. Small worlds, so that they are crowded: most of them are too full.

Every new feature of placement joins here.
"""

from dataclasses import replace

from hypothesis import strategies as st

from queues.resources import Resources
from queues.tree import Queue, QueueResource
from queues.usage import CLUSTER
from scheduler.api.attributes import GPU_RESOURCE
from scheduler.api.core import NodeSelectorRequirement
from scheduler.model.company import Audience, Company, Spread, Taste, Term
from scheduler.model.nodes import Node, Topology
from scheduler.model.plan import Plan
from scheduler.model.workloads import Pod, SubGroup
from scheduler.model.zones import Aligned, Zone, Zones
from tests import builders
from tests.builders import World, ask, ask_first, devices, divided_gpu, gang_of, gpu_class, node, pod, sub_group, world

MIG = "mig.nvidia.com"
TOPOLOGY = Topology(name="racks", levels=("rack", "kubernetes.io/hostname"), aliases={})


@st.composite
def queue_trees(draw: st.DrawFn) -> World:
    """Three leaves, perhaps under a parent, perhaps with quotas and limits."""
    names = ["default", "red", "blue"]
    parent = draw(st.sampled_from([None, "all"]))
    made = [Queue(name="all", resources=draw(_rules()))] if parent else []
    made += [
        Queue(name=name, parent=parent, priority=draw(st.sampled_from([100, 200])), resources=draw(_rules()))
        for name in names
    ]
    return world(queues=tuple(made))


@st.composite
def _rules(draw: st.DrawFn) -> dict[str, QueueResource]:
    if draw(st.booleans()):
        return {}
    limit = draw(st.none() | st.integers(1, 16))
    quota = draw(st.integers(0, 12))
    rules = {"gpu": QueueResource(quota=quota * 1000, limit=None if limit is None else limit * 1000)}
    for name, unit in draw(st.dictionaries(st.sampled_from(sorted(MEASURED)), st.integers(0, 8), max_size=2)).items():
        rules[name] = QueueResource(limit=unit * MEASURED[name])
    return rules


MEASURED = {
    "deviceclass/gpu.nvidia.com": 1000,
    "memory.deviceclass/gpu.nvidia.com": 80 << 30,
    "parts.counters.deviceclass/gpu.nvidia.com": 1,
    f"parts.counters.deviceclass/{MIG}": 1,
}
"""What queues may count devices by, with one of it."""


@st.composite
def clusters(draw: st.DrawFn) -> World:
    """Up to four nodes: GPUs by plugin or driver, whole or divisible, some taken, some cordoned."""
    made = gpu_class(serves="nvidia.com/gpu") + gpu_class(MIG, kind="mig")
    made += world(topologies={"racks": TOPOLOGY})
    made += builders.device_class(FABRIC, f'device.driver == "{FABRIC}"')
    made += builders.everywhere("channels", [builders.gpu(index) for index in range(draw(st.integers(0, 2)))], FABRIC)
    for number in range(draw(st.integers(1, 4))):
        name = f"n{number}"
        kind = draw(st.sampled_from(["plugin", "driver", "divided"]))
        labels = {"rack": draw(st.sampled_from(["r0", "r1"]))} if draw(st.integers(0, 5)) else {}
        labels |= {"zone": draw(st.sampled_from(["z0", "z1"]))}
        made += node(
            name,
            gpus=draw(st.integers(0, 5)) if kind != "divided" else 0,
            dra=kind == "driver",
            cpu=draw(st.integers(2, 8)),
            labels=labels,
            unschedulable=draw(st.integers(0, 9)) == 0,
        )
        if kind == "divided":
            boards = [divided_gpu(index) for index in range(draw(st.integers(1, 2)))]
            made += devices(name, [d for parts, _ in boards for d in parts], [counters for _, counters in boards])
        if draw(st.booleans()):
            made += builders.running(f"other-{number}", on=name, cpu=draw(st.integers(1, 2)), ports=[8080])
    return made


FABRIC = "fabric.example.com"
CLAIMS = (
    ask(1),
    ask(2),
    ask(1, of=MIG),
    ask_first(("whole", builders.GPU, 1), ("half", MIG, 1)),
    ask(1, of=FABRIC),
    ask(None),
)


KEYS = ("kubernetes.io/hostname", "zone", "rack")
APPS = ("a", "b")


def _audiences() -> st.SearchStrategy[Audience]:
    labels = st.sampled_from(APPS).map(lambda app: (NodeSelectorRequirement(key="app", operator="In", values=(app,)),))
    return st.builds(Audience, labels=labels, namespaces=st.sampled_from((("default",), ("default",), ("other",))))


def _terms() -> st.SearchStrategy[Term]:
    return st.builds(Term, key=st.sampled_from(KEYS), audience=_audiences())


def companies() -> st.SearchStrategy[Company | None]:
    """Rules about other pods, which are known by label `app`; often none."""
    few = st.lists(_terms(), max_size=2).map(tuple)
    spread = st.builds(
        Spread,
        term=_terms(),
        max_skew=st.integers(1, 2),
        min_domains=st.integers(1, 3),
        hard=st.booleans(),
        by_affinity=st.booleans(),
        by_taints=st.booleans(),
    )
    tastes = st.builds(Taste, weight=st.sampled_from((-5, 5)), term=_terms())
    some = st.builds(
        Company,
        near=few,
        apart=few,
        tastes=st.lists(tastes, max_size=1).map(tuple),
        spread=st.lists(spread, max_size=2).map(tuple),
    )
    return st.none() | some


@st.composite
def gangs(draw: st.DrawFn, name: str) -> World:
    """One to four pods, alike or not: plain, with GPUs, claims of their own, a shared claim, ports; rules about
    others; sub-groups."""
    alike = draw(st.booleans())
    count = draw(st.integers(1, 4))
    groups = draw(st.booleans()) and count > 1
    made = world()
    pods = []
    kind = draw(st.integers(0, 10))
    shared = draw(st.integers(0, 4)) == 0
    if shared:
        made += builders.claim(f"{name}-shared", draw(st.sampled_from(CLAIMS[:5])))
    for number in range(count):
        if not alike:
            kind = draw(st.integers(0, 10))
        own = f"{name}-{number}"
        claims = {}
        if kind >= 5:
            claims["own"] = f"{own}-own"
            made += builders.claim(f"{own}-own", CLAIMS[kind - 5])
        if shared and number < 3:
            claims["shared"] = f"{name}-shared"
        pods.append(
            pod(
                own,
                gpus=kind if kind < 5 else 0,
                cpu=draw(st.integers(0, 3)) if not alike else 1,
                claims=claims,
                ports=[8080] if draw(st.integers(0, 6)) == 0 else (),
                selector={"rack": "r0"} if draw(st.integers(0, 6)) == 0 else {},
                sub_group=f"g{number % 2}" if groups else "",
                gated=draw(st.integers(0, 14)) == 0,
            )
        )
    if draw(st.integers(0, 3)) == 0:
        apps = [draw(st.sampled_from(APPS)) for _ in pods]
        pods = [
            replace(one, labels={"app": app}, company=draw(companies())) for one, app in zip(pods, apps, strict=True)
        ]
    level = draw(st.sampled_from([None, None, ("racks", "rack", None), ("racks", None, "kubernetes.io/hostname")]))
    subs = draw(trees()) if groups else ()
    if draw(st.integers(0, 3)) == 0:
        pods = [replace(one, task_priority=draw(st.integers(-1, 1))) for one in pods]
    return made + gang_of(
        name,
        pods,
        minimum=draw(st.integers(1, count)),
        queue=draw(st.sampled_from(["", "default", "red", "red", "blue", "blue", "all"])),
        preemptible=draw(st.integers(0, 3)) > 0,
        priority=draw(st.integers(0, 1)),
        created_ms=draw(st.integers(0, 3)),
        topology=builders.constraint(level),
        sub_groups=subs,
    )


@st.composite
def trees(draw: st.DrawFn) -> tuple[SubGroup, ...]:
    """Sub-groups g0 and g1: side by side, or g0 required and g1 one of the groups that may be added."""
    deeper = draw(st.sampled_from([None, ("racks", "kubernetes.io/hostname", None)]))
    least = draw(st.integers(1, 2))
    if draw(st.integers(0, 2)):
        return (sub_group("g0", least, topology=deeper), sub_group("g1", None))
    return (
        sub_group("base"),
        sub_group("g0", least, parent="base", topology=deeper),
        sub_group("more", groups=0),
        sub_group("more-0", parent="more", topology=deeper),
        sub_group("g1", None, parent="more-0"),
    )


@st.composite
def strangers(draw: st.DrawFn) -> World:
    """Gangs of several queues that share claims: some run, some wait, and claims may hold devices already."""
    made = world()
    users: dict[str, list[builders.Pod]] = {"s0": [], "s1": []}
    for number in range(draw(st.integers(2, 4))):
        name = draw(st.sampled_from("pqxyz")) + str(number)
        shared = draw(st.sampled_from(sorted(users)))
        on = draw(st.sampled_from(["", "", "n0", "n1"]))
        claims = {"shared": shared}
        if draw(st.booleans()) and not on:
            claims["own"] = f"{name}-own"
            made += builders.claim(f"{name}-own", draw(st.sampled_from(CLAIMS[:2])))
        one = pod(name, on=on, claims=claims)
        users[shared].append(one)
        made += gang_of(
            name,
            [one],
            queue=draw(st.sampled_from(["default", "red", "blue", "all", "gone"])),
            preemptible=draw(st.booleans()),
            priority=draw(st.integers(0, 1)),
        )
    for name, consumers in users.items():
        there = [one for one in consumers if one.node]
        on = there[0].node if there else draw(st.sampled_from(["", "n0"]))
        by = [one.uid for one in draw(st.permutations(consumers)) if one.node or draw(st.booleans())]
        holds = builders.holding(on, int(name[1:])) if on else None
        made += builders.claim(name, ask(1), holds=holds, by=by if on else ())
    return made


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """A cluster, queues and up to five gangs that want it; perhaps strangers that share claims."""
    made = draw(clusters()) + draw(queue_trees())
    for number in range(draw(st.integers(1, 5))):
        made += draw(gangs(f"gang{number}"))
    made = draw(pasts(made)) if draw(st.booleans()) else made
    made = made + draw(strangers()) if draw(st.booleans()) else made
    return draw(zoned(made)) if draw(st.integers(0, 3)) == 0 else made


@st.composite
def zoned(draw: st.DrawFn, made: World) -> World:
    """The same world with NUMA zones on some nodes, and pods that are aligned to them."""
    nodes = tuple(replace(one, zones=draw(_zones(one))) if draw(st.booleans()) else one for one in made.nodes)
    keys = {one.key for gang in made.gangs for one in gang.pods} | {one.key for one in made.pods}
    full = {key: draw(st.booleans()) for key in sorted(keys)}
    gangs = tuple(
        replace(gang, pods=tuple(_aligned(one, full=full[one.key]) for one in gang.pods)) for gang in made.gangs
    )
    return replace(made, nodes=nodes, gangs=gangs, pods=tuple(_aligned(one, full=full[one.key]) for one in made.pods))


@st.composite
def _zones(draw: st.DrawFn, node: Node) -> Zones:
    """Two zones that share the node's CPUs and plugin's GPUs; some of it perhaps in use."""
    left = {name: node.allocatable[name] for name in ("cpu", GPU_RESOURCE)}
    made = []
    for number in (0, 1):
        has = {name: amount if number else draw(st.integers(0, amount)) for name, amount in left.items()}
        left = {name: amount - has[name] for name, amount in left.items()}
        free = {name: draw(st.integers(0, amount)) if draw(st.booleans()) else amount for name, amount in has.items()}
        made.append(Zone(name=f"node-{number}", allocatable=Resources(has), available=Resources(free)))
    return Zones(single=draw(st.booleans()), per_pod=draw(st.booleans()), zones=tuple(made))


def _aligned(one: Pod, *, full: bool) -> Pod:
    asked = {GPU_RESOURCE: one.requests[GPU_RESOURCE]} | ({"cpu": one.requests["cpu"]} if full else {})
    part = Resources(asked)
    return replace(one, aligned=Aligned(whole=part, containers=(part,)) if part else None)


@st.composite
def pasts(draw: st.DrawFn, made: World) -> World:
    """The same world where it counts what queues used and how long gangs have waited."""
    parts = st.dictionaries(st.sampled_from(["gpu", "cpu", "memory"]), st.integers(0, CLUSTER))
    names = [queue.name for queue in made.queues] + ["gone"]
    used = draw(st.dictionaries(st.sampled_from(names), parts))
    weight = draw(st.sampled_from([0.0, 0.5, 3.0]))
    return replace(made.under(usage_weight=weight, age_weight=draw(st.integers(0, 2))), usage=used)


def carried_out(snapshot: World, plan: Plan) -> World:
    """The snapshot once the plan has been carried out: pods run, claims hold their devices."""
    where = {placement.pod: placement for placement in plan.placements}
    claims = dict(snapshot.claims)
    gangs = []
    for gang in snapshot.gangs:
        pods = []
        for one in gang.pods:
            placement = where.get(one.key)
            if placement is not None:
                one = replace(one, node=placement.node, phase="Running")
                for part in placement.claims:
                    if part.make is not None and part.allocation is not None:
                        key = f"{one.key}-made"
                        one = replace(one, extended_claim=key)
                        claims[key] = builders.Claim(
                            key=key,
                            uid=f"claim-{key}",
                            spec=part.make,
                            allocation=part.allocation,
                            reserved_for=(one.uid,),
                        )
                        continue
                    claim = claims[part.claim]
                    claims[part.claim] = replace(
                        claim,
                        allocation=claim.allocation or part.allocation,
                        reserved_for=(*claim.reserved_for, one.uid),
                    )
            pods.append(one)
        gangs.append(replace(gang, pods=tuple(pods)))
    bound = tuple(one for gang in gangs for one in gang.pods if one.node)
    others = tuple(one for one in snapshot.pods if one.key not in {b.key for b in bound})
    return replace(snapshot, gangs=tuple(gangs), pods=others + bound, claims=claims)
