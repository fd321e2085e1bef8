"""A gang for which no room was made is told why, stage by stage, with codes that stay. Source: decision 37."""

from dataclasses import replace

from scheduler.model.no_room import Hindrance, Keeper, NoRoom
from scheduler.model.plan import Plan
from scheduler.model.reasons import GangDoesNotFit
from scheduler.model.snapshot import Stage
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from tests.builders import NOW_MS, World, budget, cluster, gang, gang_of, pod, queue

ALL: tuple[Stage, ...] = ("allocate", "consolidate", "reclaim", "preempt")
WEB = {"app": "web"}


def decide(made: World, *stages: Stage, **policy: object) -> Plan:
    made = made.under(stages=stages or ALL, **policy)
    decided = plan(made)
    assert check(made, decided) == ()
    assert decided.evictions == ()
    return decided


def told(decided: Plan, name: str = "urgent") -> dict[str, NoRoom]:
    reason = decided.why(name)
    assert isinstance(reason, GangDoesNotFit)
    return {each.stage: each for each in reason.no_room}


def kept(found: NoRoom) -> list[tuple[int, Keeper, str]]:
    return [(each.pods, each.by, each.name) for each in found.kept]


def test_without_stages_nothing_is_said_of_them():
    assert told(decide(cluster(gpus=1) + gang("low", gpus=1, on=["node-0"]) + gang("urgent", gpus=1), "allocate")) == {}


def test_who_is_not_outranked_and_what_cannot_be_preempted_is_counted():
    made = cluster(gpus=4) + queue("q", quota=4)
    made += gang("like", pods=2, gpus=1, priority=100, queue="q", on=["node-0"] * 2)
    made += gang("firm", gpus=1, queue="q", preemptible=False, on=["node-0"])
    made += gang("low", gpus=1, queue="q", priority=50, on=["node-0"])
    found = told(decide(made + gang("urgent", gpus=2, priority=100, queue="q"), "allocate", "preempt"))["preempt"]
    assert (found.why, found.may_go) == (Hindrance.NOT_ENOUGH, 1)
    assert kept(found) == [(2, Keeper.PRIORITY, ""), (1, Keeper.NOT_PREEMPTIBLE, "")]


def test_a_queue_that_is_at_its_share_is_named():
    made = cluster(gpus=4) + queue("red", quota=2) + queue("blue", quota=2)
    for name in ("red", "blue"):
        made += gang(name, pods=2, gpus=1, queue=name, on=["node-0"] * 2)
    found = told(decide(made + gang("urgent", gpus=1, queue="blue")))["reclaim"]
    assert (found.why, found.queue) == (Hindrance.QUEUE_AT_SHARE, "blue")


def test_others_that_are_within_their_shares_are_told_with_their_queue():
    made = cluster(gpus=4) + queue("red", quota=2) + queue("blue", quota=2)
    made += gang("large", pods=2, gpus=2, queue="red", on=["node-0"] * 2)
    found = told(decide(made + gang("urgent", gpus=2, queue="blue"), "allocate", "reclaim"))["reclaim"]
    assert (found.why, found.may_go) == (Hindrance.NOT_ENOUGH, 2), "each alone might go, and both would"
    made = replace(made, gangs=()) + gang("large", gpus=4, queue="red", on=["node-0"])
    found = told(decide(made + gang("urgent", gpus=2, queue="blue"), "allocate", "reclaim"))["reclaim"]
    assert (found.why, kept(found)) == (Hindrance.NOBODY_MAY_GO, [(1, Keeper.SHARE, "Queue red")])


def test_until_when_the_least_runtime_protects_is_told():
    made = cluster(gpus=1)
    made = replace(made, queues=tuple(replace(each, preempt_min_runtime_ms=60_000) for each in made.queues))
    made += gang("young", gpus=1, priority=50, on=["node-0"], started_ms=NOW_MS - 20_000)
    found = told(decide(made + gang("urgent", gpus=1, priority=100), "allocate", "preempt"))["preempt"]
    assert (found.why, [each.until_ms for each in found.kept]) == (Hindrance.NOBODY_MAY_GO, [NOW_MS + 40_000])
    assert found.kept[0].by is Keeper.MIN_RUNTIME


def test_budgets_and_caps_are_named():
    made = cluster(gpus=2) + queue("q", max_concurrent_evictions=0) + budget("b", allowed=0, desired=2, app="web")
    made += gang("web", gpus=2, priority=10, on=["node-0"], labels=WEB)
    found = told(decide(made + gang("urgent", gpus=1, priority=100), "allocate", "preempt"))["preempt"]
    assert kept(found) == [(1, Keeper.DISRUPTION_BUDGET, "default/b")]
    capped = cluster(gpus=2) + queue("q", max_concurrent_evictions=0)
    capped += gang("low", gpus=2, priority=10, queue="q", on=["node-0"])
    decided = decide(capped + gang("urgent", gpus=1, priority=100, queue="q"), "allocate", "preempt")
    assert kept(told(decided)["preempt"]) == [(1, Keeper.EVICTION_CAP, "q")]
    reason = decided.why("urgent")
    assert reason is not None
    assert "raise maxConcurrentEvictions of Queue q" in reason.cure
    several = replace(made, budgets=made.budgets + budget("c", allowed=9).budgets)
    decided = decide(several + gang("urgent", gpus=1, priority=100), "allocate", "preempt")
    assert kept(told(decided)["preempt"]) == [(1, Keeper.SEVERAL_BUDGETS, "default/b, default/c")]
    spared = replace(made, budgets=(), spared=frozenset({"default/web-0"}))
    decided = decide(spared + gang("urgent", gpus=1, priority=100), "allocate", "preempt")
    assert kept(told(decided)["preempt"]) == [(1, Keeper.REFUSED, "")]


def test_who_would_go_with_one_that_is_kept_is_kept_too():
    made = cluster(gpus=3) + budget("b", allowed=0, desired=2, app="web")
    pods = [pod("a-0", gpus=1, on="node-0", labels=WEB), *(pod(f"a-{n}", gpus=1, on="node-0") for n in (1, 2))]
    made += gang_of("a", pods, minimum=2, priority=10)
    found = told(decide(made + gang("urgent", gpus=2, priority=100), "allocate", "preempt"))["preempt"]
    assert (found.why, found.may_go) == (Hindrance.NOT_ENOUGH, 1), "beyond the minimum"
    assert kept(found) == [(2, Keeper.DISRUPTION_BUDGET, "default/b")]


def test_that_nobody_has_another_place_is_told_and_that_who_cannot_be_moved_moves_nobody():
    made = cluster(nodes=2, gpus=3) + queue("q", quota=6)
    made += gang("one", gpus=2, queue="q", on=["node-0"]) + gang("two", gpus=2, queue="q", on=["node-1"])
    found = told(decide(made + gang("urgent", gpus=2, queue="q"), "allocate", "consolidate"))["consolidate"]
    assert (found.why, found.may_go) == (Hindrance.NO_OTHER_PLACE, 2)
    found = told(decide(made + gang("urgent", gpus=3, queue="q"), "allocate", "consolidate"))["consolidate"]
    assert found.why is Hindrance.TOO_LITTLE_FREE, "of three GPUs, which no move would make more"
    firm = gang("urgent", gpus=2, queue="q", preemptible=False)
    assert told(decide(made + firm, "allocate", "consolidate"))["consolidate"].why is Hindrance.NOT_PREEMPTIBLE


def test_a_gang_within_its_preemption_delay_is_told_when_it_ends():
    made = cluster(gpus=1) + gang("low", gpus=1, priority=10, on=["node-0"])
    urgent = gang_of("urgent", [pod("urgent-0", gpus=1)], priority=100, created_ms=NOW_MS, preemption_delay_ms=5_000)
    found = told(decide(made + urgent, "allocate", "preempt"))["preempt"]
    assert (found.why, found.until_ms) == (Hindrance.TOO_EARLY, NOW_MS + 5_000)


def test_a_search_that_ended_before_it_knew_says_so():
    made = cluster(nodes=2, gpus=2)
    for number in range(4):
        made += gang(f"low-{number}", gpus=1, priority=10, on=[f"node-{number % 2}"])
    urgent = gang_of("urgent", [pod("urgent-0", gpus=1), pod("urgent-1", gpus=1, cpu=2)], priority=100)
    decided = decide(made + urgent, "allocate", "preempt", solver_enabled=False)
    assert told(decided)["preempt"].why is Hindrance.SEARCH_ENDED


def split_by(started_ms: int, name: str = "small") -> World:
    """Two nodes of two GPUs with one free on each; "small" runs on the first since then."""
    made = cluster(nodes=2, gpus=2) + gang("large", gpus=1, on=["node-1"], preemptible=False)
    return made + gang(name, gpus=1, on=["node-0"], started_ms=started_ms)


def test_who_has_just_started_is_not_moved_and_until_when_is_told():
    made = split_by(NOW_MS - 200_000) + gang("urgent", gpus=2)
    decided = decide(made, "allocate", "consolidate")
    found = told(decided)["consolidate"]
    assert (found.why, found.kept[0].by, found.kept[0].until_ms) == (
        Hindrance.NOBODY_MAY_GO,
        Keeper.JUST_STARTED,
        NOW_MS + 100_000,
    )
    assert decided.again_ms == NOW_MS + 100_000
    settled = made.under(stages=("allocate", "consolidate"), move_after_seconds=200)
    assert [each.pod for each in plan(settled).evictions] == ["default/small-0"]


def test_who_is_bound_and_not_started_yet_has_just_come():
    made = split_by(0) + gang("urgent", gpus=2)
    (small,) = (each for each in made.gangs if each.key == "default/small")
    bound = replace(small, pods=(replace(small.pods[0], started_ms=None, bound_ms=NOW_MS - 1000),))
    made = replace(made, gangs=tuple(bound if each is small else each for each in made.gangs))
    assert told(decide(made, "allocate", "consolidate"))["consolidate"].kept[0].until_ms == NOW_MS + 299_000


def test_of_a_gang_that_has_just_grown_those_who_were_there_may_be_moved_and_not_the_whole():
    pods = [pod("a-0", gpus=1, on="node-0", started_ms=NOW_MS - 1000), pod("a-1", gpus=1, on="node-1", started_ms=0)]
    made = cluster(nodes=3, gpus=2) + gang("firm", gpus=1, on=["node-2"], preemptible=False)
    made += gang("wanted", gpus=2)
    for least, moved in ((1, ["default/a-1"]), (2, [])):
        world = made + gang_of("a", pods, minimum=least)
        decided = plan(world.under(stages=("allocate", "consolidate")))
        assert [each.pod for each in decided.evictions] == moved
