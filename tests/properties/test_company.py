"""Rules between pods, in random crowds: none is ever broken, and a lone pod finds the node that takes it."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.dra.pools import Inventory
from scheduler.model.plan import Placement
from scheduler.model.workloads import Pod
from scheduler.plan.ground.ledger import Ledger
from scheduler.plan.ground.neighbours import Guests, Neighbours
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from scheduler.solver.check_case import Case
from scheduler.solver.check_company import company_is_kept
from scheduler.solver.check_nodes import nodes_have_the_amounts
from tests.builders import World, gang_of, node, pod, queue, running
from tests.strategies import APPS, companies


@st.composite
def crowds(draw: st.DrawFn, *, alone: bool = False, gangs: int = 3) -> World:
    """Up to five nodes in two zones, some with a rack; pods there; and up to so many gangs (one of one pod if
    `alone`)."""
    made = queue("default")
    names = [f"n{number}" for number in range(draw(st.integers(1, 5)))]
    for name in names:
        labels = {"kubernetes.io/hostname": name, "zone": draw(st.sampled_from(("z0", "z1")))}
        labels |= draw(st.sampled_from(({}, {"rack": "r0"}, {"rack": "r1"})))
        made += node(name, cpu=3, labels=labels)
    for number in range(draw(st.integers(0, 4))):
        made += running(f"r{number}", on=draw(st.sampled_from(names)), cpu=1)
    made = replace(made, pods=tuple(_in_company(draw, each) for each in made.pods))
    for number in range(1 if alone else draw(st.integers(1, gangs))):
        kinds = [
            (draw(st.sampled_from(APPS)), draw(companies())) for _ in range(1 if alone else draw(st.integers(1, 2)))
        ]
        pods = []
        for place in range(1 if alone else draw(st.integers(1, 4))):
            app, company = kinds[place % len(kinds)]
            pods.append(replace(pod(f"g{number}-{place}", cpu=1), labels={"app": app}, company=company))
        made += gang_of(f"g{number}", pods, created_ms=number, minimum=draw(st.integers(1, len(pods))))
    return made


def _in_company(draw: st.DrawFn, of: Pod) -> Pod:
    return replace(of, labels={"app": draw(st.sampled_from(APPS))}, company=draw(companies()))


@settings(max_examples=150, deadline=None)
@given(crowds())
def test_no_rule_between_pods_is_broken(made: World) -> None:
    assert check(made, plan(made)) == ()


@settings(max_examples=150, deadline=None)
@given(crowds(alone=True))
def test_a_lone_pod_is_placed_wherever_there_is_a_node_that_takes_it(made: World) -> None:
    decided = plan(made)
    (gang,) = made.gangs
    (wanted,) = gang.pods

    def takes(name: str) -> bool:
        placement = Placement(pod=wanted.key, pod_uid=wanted.uid, gang=gang.key, node=name, claims=())
        case = Case.of(made, replace(decided, placements=(placement,)))
        return not [*company_is_kept(case), *nodes_have_the_amounts(case)]

    able = [each.name for each in made.nodes if takes(each.name)]
    assert bool(decided.placements) == bool(able)


def _some_order_seats_all(made: World) -> bool:
    """Whether one pod after the other, in some order, finds a node that has room and takes it: by trying all."""
    (gang,) = made.gangs
    names = {each.name: each for each in made.nodes}
    neighbours = Neighbours(names, made.namespaces, made.pods, wanted=gang.pods)
    ledger = Ledger.of(made.nodes, Inventory.of((), {}), pods=made.pods)

    def seats(left: tuple[Pod, ...], guests: Guests, free: dict[str, int]) -> bool:
        for one in left:
            manner = neighbours.manner(one)
            for name in names:
                if free[name] >= one.requests["cpu"] and guests.refusal(manner, name) is None:
                    more = guests.copy()
                    more.join(manner, name)
                    rest = tuple(each for each in left if each is not one)
                    if seats(rest, more, free | {name: free[name] - one.requests["cpu"]}):
                        return True
        return not left

    return seats(gang.pods, neighbours.guests(), {name: ledger.free(name)["cpu"] for name in names})


@settings(max_examples=80, deadline=None)
@given(crowds(gangs=1))
def test_a_small_gang_is_placed_if_its_pods_could_come_in_any_order(made: World) -> None:
    (gang,) = made.gangs
    whole = replace(made, gangs=(replace(gang, min_member=len(gang.pods)),))
    assert bool(plan(whole).placements) == _some_order_seats_all(whole)
