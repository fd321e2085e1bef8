"""Rules of pods about other pods: near some, apart from others, spread evenly. As kube-scheduler keeps them."""

from dataclasses import replace

import pytest

from scheduler.api.core import NodeSelectorRequirement, Taint, Toleration
from scheduler.model.company import Audience, Company, Spread, Taste, Term
from scheduler.model.nodes import Topology
from scheduler.model.plan import Plan, Verdict
from scheduler.model.reasons import GangDoesNotFit
from scheduler.model.workloads import Pod
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import World, cluster, constraint, gang_of, node, pod, queue, running, sub_group, world

HOST = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"


def labelled(name: str, app: str, *, company: Company | None = None, **more: object) -> Pod:
    return replace(pod(name, **more), labels={"app": app}, company=company)  # type: ignore[arg-type]


def app(name: str, **more: object) -> Audience:
    wanted = NodeSelectorRequirement(key="app", operator="In", values=(name,))
    return Audience(**{"labels": (wanted,), "namespaces": ("default",), **more})  # type: ignore[arg-type]


def near(name: str, key: str = ZONE) -> Company:
    return Company(near=(Term(key=key, audience=app(name)),))


def apart(name: str, key: str = HOST, **more: object) -> Company:
    return Company(apart=(Term(key=key, audience=app(name, **more)),))


def spread(name: str, key: str = ZONE, skew: int = 1, **more: object) -> Company:
    rule = Spread(term=Term(key=key, audience=app(name)), max_skew=skew, **more)  # type: ignore[arg-type]
    return Company(spread=(rule,))


def zones(**nodes: int) -> World:
    """So many nodes of 8 CPUs in each zone."""
    made = queue("default")
    for zone, count in nodes.items():
        for number in range(count):
            made += node(f"{zone}{number}", cpu=8, labels={ZONE: zone, HOST: f"{zone}{number}"})
    return made


def there(made: World, name: str, on: str, app: str, company: Company | None = None) -> World:
    """The world with one more pod that runs, of somebody else."""
    made += running(name, on=on, cpu=1)
    pods = tuple(
        replace(each, labels={"app": app}, company=company) if each.name == name else each for each in made.pods
    )
    return replace(made, pods=pods)


def decide(made: World) -> Plan:
    decided = plan(made)
    assert check(made, decided) == ()
    return decided


def nodes(decided: Plan) -> list[str]:
    return sorted(placement.node for placement in decided.placements)


def waits(decided: Plan, name: str) -> str:
    reason = decided.why(name)
    assert isinstance(reason, GangDoesNotFit)
    assert decided.placements == ()
    return reason.message


def test_pods_that_keep_apart_take_a_node_each_and_all_wait_where_there_are_too_few() -> None:
    pods = [labelled(f"g-{i}", "db", cpu=1, company=apart("db")) for i in range(3)]
    assert nodes(decide(zones(a=3) + gang_of("g", pods))) == ["a0", "a1", "a2"]
    message = waits(decide(zones(a=2) + gang_of("g", pods)), "g")
    assert "there is room for 2" in message


def test_apart_over_zones_one_pod_in_each() -> None:
    pods = [labelled(f"g-{i}", "db", cpu=1, company=apart("db", ZONE)) for i in range(2)]
    assert nodes(decide(zones(a=2, b=2) + gang_of("g", pods))) == ["a0", "b0"]
    waits(decide(zones(a=4) + gang_of("g", pods)), "g")


def test_who_is_there_already_keeps_a_newcomer_away_though_that_has_no_rule_itself() -> None:
    made = there(zones(a=2), "lonely", "a0", "db", company=apart("web"))
    assert nodes(decide(made + gang_of("g", [labelled("g-0", "web", cpu=1)]))) == ["a1"]
    both = there(made, "other", "a1", "db", company=apart("web"))
    message = waits(decide(both + gang_of("g", [labelled("g-0", "web", cpu=1)])), "g")
    assert "keep away from this one" in message


def test_a_pod_goes_where_the_pod_is_that_it_needs() -> None:
    made = there(zones(a=1, b=1), "cache", "b0", "cache")
    assert nodes(decide(made + gang_of("g", [labelled("g-0", "web", cpu=1, company=near("cache"))]))) == ["b0"]
    message = waits(decide(zones(a=1) + gang_of("g", [labelled("g-0", "web", cpu=1, company=near("cache"))])), "g")
    assert "no pods in its topology.kubernetes.io/zone that this one goes with" in message


def test_a_gang_that_needs_its_own_kind_starts_in_one_domain_that_takes_it_whole() -> None:
    """The first pod may be alone; zone a would take only two of them, though it is the tighter one."""
    pods = [labelled(f"g-{i}", "train", cpu=6, company=near("train")) for i in range(3)]
    assert nodes(decide(zones(a=2, b=3) + gang_of("g", pods))) == ["b0", "b1", "b2"]
    waits(decide(zones(a=2, b=2) + gang_of("g", pods)), "g")


def test_company_is_sought_within_the_domain_that_the_gang_must_stay_in() -> None:
    """Zone z has room for three, but in two racks; only the rack of zone y takes them all."""
    made = queue("default") + world(topologies={"t": Topology(name="t", levels=(ZONE, "rack"), aliases={})})
    for name, zone, rack, cpu in (("a", "z", "r0", 2), ("b", "z", "r1", 2), ("c", "y", "r0", 4), ("d", "z", "", 9)):
        made += node(name, cpu=cpu, labels={ZONE: zone, **({"rack": rack} if rack else {})})
    pods = [labelled(f"g-{i}", "train", cpu=1, company=near("train")) for i in range(3)]
    decided = decide(made + gang_of("g", pods, topology=constraint(("t", "rack", None))))
    assert nodes(decided) == ["c", "c", "c"]


def test_workers_follow_their_launcher_whatever_the_order() -> None:
    workers = [labelled(f"g-{i}", "worker", cpu=6, company=near("launcher")) for i in range(2)]
    pods = [*workers, labelled("g-x", "launcher", cpu=1)]
    decided = decide(zones(a=1, b=2) + gang_of("g", pods))
    assert {placement.node[0] for placement in decided.placements} == {"b"}


def test_pods_that_would_be_in_each_others_way_are_tried_elsewhere() -> None:
    """Best fit puts the plain one on a0; then zone a is taken for the one that needs it to itself."""
    plain, shy = labelled("g-0", "b", cpu=1), labelled("g-1", "a", cpu=7, company=apart("b", ZONE))
    made = zones(a=1) + node("a1", cpu=7, labels={ZONE: "a"}) + node("b0", cpu=2, labels={ZONE: "b"})
    assert len(decide(made + gang_of("g", [plain, shy])).placements) == 2


def test_sub_groups_find_each_other_whatever_the_order() -> None:
    workers = [labelled(f"g-{i}", "worker", cpu=6, company=near("launcher"), sub_group="w") for i in range(2)]
    launcher = labelled("g-x", "launcher", cpu=1, sub_group="x")
    groups = (sub_group("w", 2), sub_group("x", 1))
    decided = decide(zones(b=3) + gang_of("g", [*workers, launcher], sub_groups=groups))
    assert len(decided.placements) == 3


def test_pods_are_spread_over_zones() -> None:
    pods = [labelled(f"g-{i}", "web", cpu=1, company=spread("web")) for i in range(4)]
    placed = nodes(decide(zones(a=3, b=1) + gang_of("g", pods)))
    assert [name[0] for name in placed] == ["a", "a", "b", "b"]


def test_spread_counts_those_that_run() -> None:
    made = zones(a=1, b=1)
    for number in range(2):
        made = there(made, f"old-{number}", "a0", "web")
    pods = [labelled(f"g-{i}", "web", cpu=1, company=spread("web")) for i in range(3)]
    assert nodes(decide(made + gang_of("g", pods))) == ["a0", "b0", "b0"] or nodes(
        decide(made + gang_of("g", pods))
    ) == ["b0", "b0", "b0"]


def test_spread_does_not_count_those_that_leave() -> None:
    """Zone b takes one pod more: enough if a0 counts as empty, too little if what leaves it still counts."""
    made = zones(a=1) + node("b0", cpu=1, labels={ZONE: "b", HOST: "b0"})
    for number in range(2):
        made = there(made, f"old-{number}", "a0", "web")
    made = replace(made, pods=tuple(replace(each, terminating=True) for each in made.pods))
    pods = [labelled(f"g-{i}", "web", cpu=1, company=spread("web")) for i in range(2)]
    assert nodes(decide(made + gang_of("g", pods))) == ["a0", "b0"]


def test_nodes_that_a_pod_does_not_tolerate_are_domains_unless_its_spread_says_otherwise() -> None:
    """nodeTaintsPolicy: by default (Ignore) the tainted zone counts, stays empty, and so holds the others down to 1."""
    made = zones(a=1) + node("b0", labels={ZONE: "b", HOST: "b0"}, taints=[Taint(key="drain", effect="NoSchedule")])

    def two(by_taints: bool, **more: object) -> Plan:
        wanted = spread("web", by_taints=by_taints)
        pods = [labelled(f"g-{i}", "web", cpu=1, company=wanted, **more) for i in range(2)]
        return decide(made + gang_of("g", pods))

    assert nodes(two(by_taints=True)) == ["a0", "a0"]
    assert "has its share of such pods (topology spread)" in waits(two(by_taints=False), "g")
    assert nodes(two(by_taints=True, tolerations=[Toleration(key="drain", operator="Exists")])) == ["a0", "b0"]


def test_with_too_few_domains_none_takes_more_than_the_skew() -> None:
    pods = [labelled(f"g-{i}", "web", cpu=1, company=spread("web", min_domains=3)) for i in range(3)]
    message = waits(decide(zones(a=2, b=2) + gang_of("g", pods)), "g")
    assert "has its share of such pods (topology spread)" in message


def test_a_node_without_the_label_is_no_domain_to_spread_over() -> None:
    made = zones(a=1) + node("bare", cpu=8)
    pods = [labelled(f"g-{i}", "web", cpu=1, company=spread("web")) for i in range(2)]
    assert nodes(decide(made + gang_of("g", pods))) == ["a0", "a0"]


def test_a_label_that_no_node_has_is_named() -> None:
    """Room does not help: the cure is the label, or another rule."""
    for company, rule in ((near("cache", "rack"), "pod affinity"), (spread("web", "rack"), "topology spread")):
        decided = decide(zones(a=2) + gang_of("g", [labelled("g-0", "web", cpu=1, company=company)]))
        assert f"2 nodes lack the label rack ({rule})" in waits(decided, "g")
        reason = decided.why("g")
        assert reason is not None
        assert reason.cure == "Put the label on the nodes, or change the rule of the pods that names it."


def test_a_preferred_spread_gives_way_to_room() -> None:
    pods = [labelled(f"g-{i}", "web", cpu=6, company=spread("web", hard=False)) for i in range(4)]
    assert nodes(decide(zones(a=1, b=3) + gang_of("g", pods))) == ["a0", "b0", "b1", "b2"]


def test_preferred_company_goes_before_a_better_fit() -> None:
    made = there(zones(a=1, b=1), "cache", "b0", "cache")
    liking = Company(tastes=(Taste(weight=10, term=Term(key=ZONE, audience=app("cache"))),))
    fearing = Company(tastes=(Taste(weight=-10, term=Term(key=ZONE, audience=app("cache"))),))
    assert nodes(decide(made + gang_of("g", [labelled("g-0", "web", cpu=1, company=liking)]))) == ["b0"]
    assert nodes(decide(made + gang_of("g", [labelled("g-0", "web", cpu=1, company=fearing)]))) == ["a0"]


@pytest.mark.parametrize(
    ("whom", "lands_on"),
    [
        ({"namespaces": ("other",)}, "a0"),
        ({"namespaces": (), "namespace_labels": ()}, "a1"),
        ({"namespaces": (), "namespace_labels": (NodeSelectorRequirement(key="team", operator="Exists"),)}, "a1"),
        ({"namespaces": (), "namespace_labels": (NodeSelectorRequirement(key="none", operator="Exists"),)}, "a0"),
        ({"nobody": True}, "a0"),
    ],
)
def test_whom_a_rule_is_about_depends_on_namespaces(whom: dict[str, object], lands_on: str) -> None:
    """Best fit is a0, where the pod to keep away from is."""
    made = there(zones(a=2), "db-0", "a0", "db") + world(namespaces={"default": {"team": "x"}})
    assert nodes(decide(made + gang_of("g", [labelled("g-0", "web", cpu=1, company=apart("db", **whom))]))) == [
        lands_on
    ]


def test_rules_hold_between_gangs_of_one_plan() -> None:
    one = gang_of("one", [labelled("one-0", "db", cpu=1, company=apart("db"))])
    two = gang_of("two", [labelled("two-0", "db", cpu=1, company=apart("db"))], created_ms=1)
    decided = decide(zones(a=1) + one + two)
    assert [placement.gang for placement in decided.placements] == ["default/one"]


def test_what_waits_for_company_is_not_refused_for_ever() -> None:
    decided = decide(zones(a=1) + gang_of("g", [labelled("g-0", "web", cpu=1, company=near("cache"))]))
    assert [decision.verdict for decision in decided.gangs] == [Verdict.PENDING]


def test_pods_without_rules_are_not_affected() -> None:
    made = there(cluster(nodes=1, cpu=8), "lonely", "node-0", "db", company=apart("web"))
    assert nodes(decide(made + gang_of("g", [labelled("g-0", "train", cpu=1)]))) == ["node-0"]
