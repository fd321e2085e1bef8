"""Evictions respect disruption budgets and the caps of queues: jointly over one plan, and before the server refuses.

Source: policy/v1 PodDisruptionBudget and the eviction subresource of Kubernetes; decision 37. KAI and kube-scheduler
prefer victims that no budget protects, and take the others all the same where there is no choice.
"""

from dataclasses import replace

import pytest

from scheduler.model.plan import Eviction, Plan
from scheduler.model.snapshot import Snapshot, Stage
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import NOW_MS, World, budget, cluster, gang, gang_of, pod, queue

ALL: tuple[Stage, ...] = ("allocate", "consolidate", "reclaim", "preempt")
LONG_AGO = NOW_MS - 3_600_000
WEB = {"app": "web"}


def decide(made: World) -> Plan:
    made = made.under(stages=ALL)
    decided = plan(made)
    assert check(made, decided) == ()
    return decided


def evicted(decided: Plan) -> list[str]:
    return [eviction.pod.partition("/")[2] for eviction in decided.evictions]


def web(count: int, **more: object) -> World:
    """Single pods of low priority under the label of the budget, all on one node, that have hardly run."""
    made = cluster(gpus=count)
    for number in range(count):
        made += gang(f"web-{number}", gpus=1, priority=10, on=["node-0"], started_ms=NOW_MS, labels=WEB, **more)
    return made


def urgent(gpus: int) -> World:
    return gang("urgent", gpus=gpus, priority=100)


def test_of_one_budget_no_more_go_in_one_plan_than_it_allows():
    """Two are needed; the budget lets one go. Nobody goes: half of the room would be of no use."""
    made = web(3)
    assert evicted(decide(made + urgent(2) + budget("b", allowed=1, desired=2, app="web"))) == []
    assert len(evicted(decide(made + urgent(2) + budget("b", allowed=2, desired=1, app="web")))) == 2


def test_whom_no_budget_covers_goes_instead_even_if_that_is_a_greater_loss():
    made = web(2) + gang("old", gpus=1, priority=10, on=["node-0"], started_ms=LONG_AGO)
    made = replace(made, nodes=cluster(gpus=3).nodes)
    decided = decide(made + urgent(2) + budget("b", allowed=1, desired=1, app="web"))
    assert evicted(decided) in (["old-0", "web-0-0"], ["old-0", "web-1-0"])


def test_several_gangs_of_one_plan_share_what_a_budget_allows():
    """Each of the two would take one pod; the budget lets one go in all."""
    made = web(4) + gang("first", gpus=1, priority=100) + gang("second", gpus=1, priority=90, created_ms=1)
    decided = decide(made + budget("b", allowed=1, desired=3, app="web"))
    assert [eviction.beneficiary for eviction in decided.evictions] == ["default/first"]


@pytest.mark.parametrize("needs", [1, 3])
def test_a_gang_that_is_spread_over_nodes_counts_with_all_its_pods(needs: int):
    """To gain one seat, or three, both pods of a gang on two nodes would go."""
    made = cluster(nodes=2, gpus=4)
    made += gang("pair", pods=2, gpus=4, priority=10, on=["node-0", "node-1"], labels=WEB)
    wanted = gang("urgent", gpus=needs, priority=100)
    assert evicted(decide(made + wanted + budget("b", allowed=1, desired=1, app="web"))) == []
    assert len(evicted(decide(made + wanted + budget("b", allowed=2, app="web")))) == 2


def test_what_the_solver_chooses_keeps_budgets_too():
    """Two pods that may go to any node, of two shapes: not a question for looking node by node."""
    made = cluster(nodes=2, gpus=2)
    for number in range(4):
        labels = WEB if number < 2 else {}
        made += gang(
            f"low-{number}", gpus=1, priority=10, on=[f"node-{number % 2}"], started_ms=NOW_MS - number, labels=labels
        )
    wanted = gang_of("urgent", [pod("urgent-0", gpus=1), pod("urgent-1", gpus=1, cpu=2)], priority=100)
    assert evicted(decide(made + wanted)) == ["low-0-0", "low-1-0"]
    decided = decide(made + wanted + budget("b", allowed=1, desired=1, app="web"))
    assert len([name for name in evicted(decided) if name in ("low-0-0", "low-1-0")]) == 1
    assert len(evicted(decided)) == 2


def test_a_status_that_has_not_seen_who_is_leaving_allows_no_more_than_are_healthy():
    """It says that two may go; one is on his way out already, and the status does not show it."""
    made = web(4)
    made += budget("b", allowed=2, desired=2, app="web")
    leaving = tuple(
        replace(each, pods=tuple(replace(one, terminating=True, evicted=True) for one in each.pods))
        if each.name == "web-3"
        else each
        for each in made.gangs
    )
    made = replace(made, gangs=leaving, pods=tuple(one for each in leaving for one in each.pods))
    assert evicted(decide(made + urgent(3))) == []
    assert len(evicted(decide(made + urgent(2)))) == 1


def test_whose_eviction_was_granted_to_somebody_else_is_not_counted_as_healthy():
    made = web(3) + budget("b", allowed=1, desired=2, disrupted=["web-2-0"], app="web")
    assert evicted(decide(made + urgent(1))) == []


def test_a_pod_under_two_budgets_never_goes_for_the_server_refuses():
    made = web(1) + budget("b", allowed=9, app="web") + budget("c", allowed=9)
    assert evicted(decide(made + urgent(1))) == []


def test_pods_that_are_not_ready_go_as_the_server_lets_them():
    """Not while healthy ones are missing, unless the budget says always; nor by a status of an older budget."""
    made = web(1, ready=False) + gang("well", on=["node-0"], labels=WEB, priority=200)
    assert evicted(decide(made + urgent(1) + budget("b", allowed=0, desired=1, app="web"))) == ["web-0-0"]
    short = budget("b", allowed=0, desired=2, app="web")
    assert evicted(decide(made + urgent(1) + short)) == []
    always = replace(short, budgets=tuple(replace(each, unhealthy_go=True) for each in short.budgets))
    assert evicted(decide(made + urgent(1) + always)) == ["web-0-0"]
    stale = budget("b", allowed=0, desired=1, app="web")
    stale = replace(stale, budgets=tuple(replace(each, stale=True) for each in stale.budgets))
    assert evicted(decide(made + urgent(1) + stale)) == []


def test_a_pod_that_has_not_started_is_no_budgets_business():
    made = web(1, phase="Pending", ready=False)
    assert evicted(decide(made + urgent(1) + budget("b", allowed=0, desired=1, app="web"))) == ["web-0-0"]


def test_being_moved_is_being_evicted():
    made = cluster(nodes=2, gpus=2)
    made += gang("one", gpus=1, on=["node-0"], labels=WEB) + gang("two", gpus=1, on=["node-1"], labels=WEB)
    assert len(evicted(decide(made + gang("whole", gpus=2)))) == 1
    assert evicted(decide(made + gang("whole", gpus=2) + budget("b", allowed=0, desired=2, app="web"))) == []


def test_a_queue_caps_how_many_of_its_pods_leave_at_once():
    def full(cap: int | None) -> World:
        made = cluster(gpus=4) + queue("red", quota=0, max_concurrent_evictions=cap) + queue("blue", quota=4)
        for number in range(4):
            made += gang(f"red-{number}", gpus=1, queue="red", on=["node-0"], started_ms=LONG_AGO - number)
        return made

    wanted = gang("blue-0", gpus=1, queue="blue") + gang("blue-1", gpus=1, queue="blue", created_ms=1)
    assert len(evicted(decide(full(None) + wanted))) == 2
    assert len(evicted(decide(full(1) + wanted))) == 1
    assert evicted(decide(full(0) + wanted)) == []
    assert evicted(decide(full(1) + gang("blue", gpus=2, queue="blue"))) == [], "one alone would be of no use"


def test_a_cap_counts_the_queues_below_and_those_who_are_leaving():
    made = cluster(gpus=4) + queue("org", max_concurrent_evictions=2) + queue("blue", quota=4)
    for team in ("a", "b"):
        made += queue(f"team-{team}", parent="org")
        for number in range(2):
            made += gang(f"{team}-{number}", gpus=1, queue=f"team-{team}", on=["node-0"], started_ms=LONG_AGO)
    assert evicted(decide(made + gang("blue", gpus=3, queue="blue"))) == []
    assert len(evicted(decide(made + gang("blue", gpus=2, queue="blue")))) == 2
    gone = tuple(
        replace(each, pods=tuple(replace(one, terminating=True, evicted=True) for one in each.pods))
        if each.name == "a-0"
        else each
        for each in made.gangs
    )
    made = replace(made, gangs=gone, pods=tuple(one for each in gone for one in each.pods))
    assert len(evicted(decide(made + gang("blue", gpus=2, queue="blue")))) == 1, "the second leaves anyhow"
    assert evicted(decide(made + gang("blue", gpus=3, queue="blue"))) == []


def test_a_time_limit_is_kept_whatever_else_leaves_and_counts_against_it():
    """The gang whose time is over ends beyond the budget and the cap; nobody else goes beside it."""
    made = cluster(gpus=4) + queue("q", max_concurrent_evictions=1) + budget("b", allowed=2, desired=0, app="web")
    over = gang("over", pods=2, gpus=1, priority=10, queue="q", on=["node-0"] * 2, started_ms=LONG_AGO, labels=WEB)
    made += replace(over, gangs=tuple(replace(each, max_runtime_ms=60_000) for each in over.gangs))
    made += gang("low", pods=2, gpus=1, priority=10, queue="q", on=["node-0"] * 2, labels=WEB)
    decided = decide(made + gang("urgent", gpus=3, queue="q", priority=100))
    assert evicted(decided) == ["over-0", "over-1"]
    assert evicted(decide(made + gang("urgent", gpus=1, queue="q", priority=100))) == ["over-0", "over-1"]


def test_what_is_left_of_a_gang_below_its_minimum_ends_as_budgets_allow():
    made = cluster(gpus=2) + budget("b", allowed=1, desired=1, app="web")
    left = gang("left", pods=2, minimum=3, gpus=1, on=["node-0"] * 2, labels=WEB)
    below = {"staleness_grace_ms": 60_000, "below_since_ms": LONG_AGO}
    made += replace(left, gangs=tuple(replace(each, **below) for each in left.gangs))
    decided = plan(made.under(stages=(*ALL, "stale")))
    assert check(made.under(stages=(*ALL, "stale")), decided) == ()
    assert evicted(decided) == ["left-0"]


def test_the_checker_tells_of_every_bound_that_is_passed():
    made = web(3) + queue("q", max_concurrent_evictions=1) + urgent(2)
    made = replace(made, gangs=tuple(replace(each, queue="q") for each in made.gangs)).under(stages=ALL)
    free = plan(replace(made, queues=tuple(replace(each, max_concurrent_evictions=None) for each in made.queues)))
    assert len(free.evictions) == 2
    assert told(made, free) == ["2 pods of queue q would be on their way out at once, and it caps them at 1"]
    covered = replace(made, queues=()) + cluster() + budget("b", allowed=1, desired=2, app="web")
    assert told(covered, free) == [
        "2 pods of disruption budget default/b are evicted, and it allows 1",
        "disruption budget default/b is left with 1 healthy pods of 2",
    ]
    one = replace(free, evictions=free.evictions[:1])
    twice = replace(made, queues=()) + budget("b", allowed=3, app="web") + budget("c", allowed=3)
    assert told(twice, one) == [f"pod {one.evictions[0].pod} is evicted, and 2 disruption budgets cover it"]


def told(made: Snapshot, decided: Plan) -> list[str]:
    """What the checker says of budgets and caps."""
    assert all(isinstance(each, Eviction) for each in decided.evictions)
    words = ("disruption budget", "on their way out")
    return [violation for violation in check(made, decided) if any(word in violation for word in words)]
