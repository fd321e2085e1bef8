"""The runner of KAI's scheduling cases tells a right outcome from a wrong one, and never passes what it cannot say."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from scheduler.model.plan import Eviction, Placement, Plan, Promise
from scheduler.model.snapshot import Snapshot
from tests.conformance import kai, kai_course
from tests.conformance.__main__ import main
from tests.conformance.kai_cases import Case, read
from tests.conformance.kai_course import Course

Json = dict[str, Any]
ALL = ("allocate", "consolidation", "reclaim", "preempt", "stalegangeviction")
WHATEVER = {"quota": -1, "limit": -1, "overQuotaWeight": 1}


def node(name: str, gpus: int, **more: Any) -> Json:
    return {
        "name": name,
        "gpus": gpus,
        "allocatableGpus": gpus,
        "cpuMilli": 100_000,
        "memoryBytes": 10**12,
        "gpuMemoryMiB": 100,
        "maxPods": 110,
        **more,
    }


def queue(name: str = "q", quota: float = 8, limit: float = -1, **more: Any) -> Json:
    return {
        "name": name,
        "parent": None,
        "created": 0,
        "priority": 100,
        "gpu": {"quota": quota, "limit": limit, "overQuotaWeight": 1},
        "cpuMilli": WHATEVER,
        "memoryMB": WHATEVER,
        **more,
    }


def task(name: str, on: str = "", state: str = "", sub_group: str = "", **request: Any) -> Json:
    """A pod of one GPU, unless something else is asked for."""
    asked = {"cpuMilli": 1000, "memoryBytes": 10**9, **(request or {"gpus": 1})}
    made: Json = {"name": name, "state": state or ("Running" if on else "Pending"), "request": asked}
    return made | ({"node": on} if on else {}) | ({"subGroup": sub_group} if sub_group else {})


def job(name: str, *tasks: Json, minimum: int | None = None, age: int = 1, priority: int = 50, **more: Any) -> Json:
    return {
        "name": name,
        "queue": "q",
        "priority": priority,
        "preemptible": True,
        "ageMinutes": age,
        "minAvailable": len(tasks) if minimum is None else minimum,
        "tasks": list(tasks),
        **more,
    }


def case(
    nodes: Sequence[Json],
    jobs: Sequence[Json],
    expect: Mapping[str, str] | None = None,
    *,
    actions: Sequence[str] = ("allocate",),
    rounds: tuple[int, int] | None = None,
    evictions: int = 0,
    tasks: Mapping[str, str] | None = None,
    **more: Any,
) -> Json:
    """`expect`: states by job, `tasks`: by task; `rounds`: until they must be so, and in which they must stay so."""
    run: Json = {"mode": "actions", "actions": list(actions)}
    if rounds is not None:
        run = {"mode": "rounds", "actions": list(ALL), "roundsUntilMatch": rounds[0], "roundsAfterMatch": rounds[1]}
    return {
        "id": "suite/case",
        "name": "a case",
        "run": run,
        "nodes": list(nodes),
        "queues": [queue()],
        "jobs": list(jobs),
        "expect": {
            "jobs": {name: {"status": status, "gpusRequired": 1} for name, status in (expect or {}).items()},
            "tasks": {name: {"status": status} for name, status in (tasks or {}).items()},
            "maxCallsPerSession": {"binds": 9, "evictions": evictions, "pipelines": 9},
        },
        **more,
    }


def course(document: Json, tmp_path: Path) -> Course:
    path = written(tmp_path, document)
    ((_, found),) = read(path)
    assert isinstance(found, Case), found
    return kai_course.run(found)


def written(tmp_path: Path, *cases: Json, **head: Any) -> Path:
    path = tmp_path / "cases.json"
    path.write_text(json.dumps({"schema": "kai-cases/1", "cases": list(cases), **head}))
    return path


def gone(snapshot: Snapshot, pod: str, stage: str, beneficiary: str) -> Eviction:
    uid = next(each.uid for each in snapshot.pods if each.key == pod)
    return Eviction(pod=pod, pod_uid=uid, stage=stage, beneficiary=beneficiary, cost=0)


def placed(snapshot: Snapshot, pod: str, gang: str, on: str) -> Placement:
    uid = next(each.uid for gang_ in snapshot.gangs for each in gang_.pods if each.key == pod)
    return Placement(pod=pod, pod_uid=uid, gang=gang, node=on)


FULL = [job("old", task("old-0", on="n"), age=9), job("new", task("new-0"), priority=75)]
FITS = case([node("n", 1)], [job("a", task("a-0"))], {"a": "Binding"})
FALSE = case([node("n", 1)], [job("a", task("a-0"))], {"a": "Pending"})


# --- the command ----------------------------------------------------------------------------------------------------


def test_right_outcomes_pass_and_wrong_ones_say_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, {**FITS, "id": "right"}, {**FALSE, "id": "wrong"})
    assert main(["kai", str(file)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "ok   right",
        "FAIL wrong: a-0 is Running instead of Pending",
        "allocate: 1 of 2",
        "1 passed, 1 failed",
    ]
    assert main(["kai", str(written(tmp_path, FITS))]) == 0


def test_cases_are_counted_by_the_folder_they_come_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = case([node("n", 1)], [job("a", task("a-0"))], {"a": "Running"}, rounds=(1, 1), source="x/reclaim/t.go")
    kai.run(written(tmp_path, {**FITS, "source": "x/reclaim/t.go"}, again))
    assert capsys.readouterr().out.splitlines()[-2:] == ["reclaim: 1 of 1", "reclaim, in rounds: 1 of 1"]


def test_some_of_the_cases_can_be_run_and_looked_into(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, {**FITS, "id": "right"}, {**FALSE, "id": "wrong"})
    assert kai.main([str(file), "--only", "rig", "--why"]) == 0
    told = capsys.readouterr().out
    assert "places default/a-0 on n" in told
    assert "wrong" not in told


def test_an_unknown_field_of_a_case_fails_it_by_name_and_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = case([node("n", 1, colour="red")], [])
    assert kai.run(written(tmp_path, {**strange, "id": "strange"}, FITS)) == (1, 1)
    assert "FAIL strange: cannot be read: Object contains unknown field `colour`" in capsys.readouterr().out


def test_an_unknown_field_of_the_file_is_an_error_of_the_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["kai", str(written(tmp_path, FITS, weather="fine"))])
    assert ended.value.code == 2
    assert "unknown field `weather`" in capsys.readouterr().err


# --- what a case says -----------------------------------------------------------------------------------------------


def test_what_a_snapshot_has_no_word_for_fails(tmp_path: Path) -> None:
    zones = {"policy": "BestEffort", "scope": "Pod", "zones": []}
    numa = case([node("n", 1, numa=zones)], [job("a", task("a-0"))], {"a": "Binding"})
    assert course(numa, tmp_path).problems == ["cannot be expressed: NUMA policies BestEffort"]


def test_what_is_expected_of_nobody_fails_unless_the_peer_passes_over_it(tmp_path: Path) -> None:
    nobody = case([node("n", 1)], [job("a", task("a-0"))], {"b": "Running"})
    assert course(nobody, tmp_path).problems == ["job b is expected and not there"]
    nobody["expect"]["neverChecked"] = ["b"]
    assert course(nobody, tmp_path).problems == []


def test_a_limit_and_a_quota_hold(tmp_path: Path) -> None:
    two = [job("a", task("a-0"), age=2), job("b", task("b-0"))]
    limited = case([node("n", 4)], two, {"a": "Binding", "b": "Pending"}, queues=[queue(limit=1)])
    assert course(limited, tmp_path).problems == []
    firm = [{**one, "preemptible": False} for one in two]
    short = case([node("n", 4)], firm, {"a": "Binding", "b": "Pending"}, queues=[queue(quota=1)])
    assert course(short, tmp_path).problems == []


def test_a_gang_waits_whole_and_an_elastic_one_takes_what_there_is(tmp_path: Path) -> None:
    three = [task(f"a-{number}") for number in range(3)]
    assert course(case([node("n", 2)], [job("a", *three)], {"a": "Pending"}), tmp_path).problems == []
    states = {"a-0": "Binding", "a-1": "Binding", "a-2": "Pending"}
    assert course(case([node("n", 2)], [job("a", *three, minimum=1)], tasks=states), tmp_path).problems == []


def test_which_of_equal_tasks_it_is_does_not_matter_but_how_many(tmp_path: Path) -> None:
    three = job("a", *[task(f"a-{number}") for number in range(3)], minimum=1)
    others = {"a-0": "Pending", "a-1": "Binding", "a-2": "Binding"}
    assert course(case([node("n", 2)], [three], tasks=others), tmp_path).problems == []
    fewer = {"a-0": "Pending", "a-1": "Pending", "a-2": "Binding"}
    assert course(case([node("n", 2)], [three], tasks=fewer), tmp_path).problems == [
        "a-0, a-1, a-2: Running instead of Pending"
    ]


def test_unequal_tasks_are_told_apart(tmp_path: Path) -> None:
    uneven = job("a", task("a-0", gpus=1), task("a-1", gpus=3), minimum=1)
    swapped = case([node("n", 2)], [uneven], tasks={"a-0": "Pending", "a-1": "Binding"})
    assert len(course(swapped, tmp_path).problems) == 2


def test_zones_hold_guaranteed_tasks_and_are_free_when_their_tasks_have_ended(tmp_path: Path) -> None:
    zones = [{"id": f"zone-{i}", "allocatable": {"cpu": "4"}, "available": {"cpu": "1"}} for i in (0, 1)]
    there = node("n", 0, numa={"policy": "SingleNUMANode", "scope": "Pod", "zones": zones})

    def cpus(name: str, amount: int, zone: str = "") -> Json:
        held = json.dumps([{"zone": zone, "amount": {"cpu": str(amount)}}])
        more = {"annotations": {"kai.scheduler/numa-placement-observed": held}} if zone else {}
        return task(name, on="n" if zone else "", cpuMilli=1000 * amount, memoryBytes=1) | more

    running = [job(f"r{i}", cpus(f"r{i}-0", 3, f"zone-{i}"), qosClass="Guaranteed", priority=49 + i) for i in (0, 1)]
    won = [*running, job("p", cpus("p-0", 4), qosClass="Guaranteed", priority=100)]
    expected = {"r0": "Releasing", "r1": "Running", "p": "Pipelined"}
    assert course(case([there], won, expected, actions=["preempt"], evictions=1), tmp_path).problems == []
    lax = [*running, job("p", cpus("p-0", 4), priority=100)]
    assert course(case([there], lax, {"p": "Binding"}), tmp_path).problems == []


def test_sub_groups_have_their_own_minima(tmp_path: Path) -> None:
    tree = {"name": "", "podSets": [{"name": "x", "minAvailable": 1}, {"name": "y", "minAvailable": 1}]}
    both = job("a", task("a-0", sub_group="x"), task("a-1", sub_group="x"), task("a-2", sub_group="y"))
    del both["minAvailable"]
    one_each = case(
        [node("n", 2)],
        [both | {"subGroupTree": tree}],
        tasks={"a-0": "Binding", "a-1": "Pending", "a-2": "Binding"},
    )
    assert course(one_each, tmp_path).problems == []


# --- GPUs that are shared --------------------------------------------------------------------------------------------


def test_pods_share_a_gpu_up_to_the_whole_of_it(tmp_path: Path) -> None:
    jobs = [job(name, task(f"{name}-0", gpuFraction=0.6), age=age) for name, age in (("a", 9), ("b", 8), ("c", 7))]
    jobs.append(job("d", task("d-0", gpuMemoryMiB=40), age=1))
    wanted = {"a": "Binding", "b": "Binding", "c": "Pending", "d": "Binding"}
    assert course(case([node("n", 2)], jobs, wanted), tmp_path).problems == []


@pytest.mark.parametrize(("groups", "outcome"), [(("0", "0"), "Binding"), (("0", "1"), "Pending")])
def test_running_pods_of_one_group_leave_the_other_gpu_whole(
    groups: tuple[str, str], outcome: str, tmp_path: Path
) -> None:
    running = [
        job(name, task(f"{name}-0", on="n", gpuFraction=0.5) | {"gpuGroups": [group]}, age=9)
        for name, group in zip("ab", groups, strict=True)
    ]
    whole = case([node("n", 2)], [*running, job("c", task("c-0", gpus=1))], {"c": outcome})
    assert course(whole, tmp_path).problems == []


def test_memory_of_a_gpu_is_another_part_of_another_gpu(tmp_path: Path) -> None:
    nodes = [node("small", 1, gpuMemoryMiB=100), node("large", 1, gpuMemoryMiB=400)]
    jobs = [job(name, task(f"{name}-0", gpuMemoryMiB=150), age=age) for name, age in (("a", 9), ("b", 8), ("c", 7))]
    assert course(case(nodes, jobs, {"a": "Binding", "b": "Binding", "c": "Pending"}), tmp_path).problems == []


def test_more_than_a_node_has_is_no_case(tmp_path: Path) -> None:
    running = [job(name, task(f"{name}-0", on="n", gpuFraction=0.5)) for name in "ab"]
    assert course(case([node("n", 1)], running), tmp_path).problems == [
        "cannot be expressed: node n has 1 GPUs, and more are in use"
    ]


def test_a_claim_that_pods_share_costs_its_devices_once(tmp_path: Path) -> None:
    dra = {
        "deviceClasses": ["gpu"],
        "resourceSlices": [
            {"name": "n-gpu", "driver": "gpu.example.com", "node": "n", "devices": ["0"], "deviceClass": "gpu"}
        ],
        "resourceClaims": [{"name": "mine", "namespace": "default", "deviceClass": "gpu", "count": 1}],
    }
    both = job("a", *[task(f"a-{number}", gpus=0) | {"resourceClaims": ["mine"]} for number in range(2)])
    assert course(case([node("n", 0)], [both], {"a": "Binding"}, dra=dra), tmp_path).problems == []


# --- time ------------------------------------------------------------------------------------------------------------


def test_what_ends_waits_anew_and_leaves_its_place_to_others(tmp_path: Path) -> None:
    jobs = [job("old", task("old-0", on="n", state="Releasing")), job("new", task("new-0"), priority=75)]
    turned = case([node("n", 1)], jobs, {"old": "Pending", "new": "Running"}, rounds=(2, 5))
    assert course(turned, tmp_path).problems == []
    jobs[0]["keepsReleasing"] = True
    kept = case([node("n", 1)], jobs, {"old": "Releasing", "new": "Pending"}, rounds=(2, 5))
    assert course(kept, tmp_path).problems == []


def test_who_waits_for_what_ends_is_promised_it(tmp_path: Path) -> None:
    jobs = [job("old", task("old-0", on="n", state="Releasing")), job("new", task("new-0"))]
    assert course(case([node("n", 1)], jobs, {"new": "Pipelined"}), tmp_path).problems == []
    stuck = [job("old", task("old-0", on="n", state="StuckInReleasing")), jobs[1]]
    assert course(case([node("n", 1)], stuck, {"new": "Pipelined"}), tmp_path).problems == [
        "new-0 is Pending instead of Pipelined"
    ]


# --- decisions of others ---------------------------------------------------------------------------------------------


def preempting(snapshot: Snapshot, stage: str = "preempt") -> Plan:
    """Whoever runs makes way for "new", once."""
    running = {pod.key for pod in snapshot.pods}
    if "default/old-0" in running:
        promised = Promise(pod="default/new-0", pod_uid="", gang="default/new", node="n")
        evicted = gone(snapshot, "default/old-0", stage, "default/new")
        return Plan(now_ms=snapshot.now_ms, evictions=(evicted,), promises=(promised,))
    if "default/new-0" in running:
        return Plan(now_ms=snapshot.now_ms)
    return Plan(now_ms=snapshot.now_ms, placements=(placed(snapshot, "default/new-0", "default/new", "n"),))


def in_vain(snapshot: Snapshot) -> Plan:
    """Somebody is evicted, and nobody starts."""
    plan = preempting(snapshot)
    return plan if plan.evictions else Plan(now_ms=snapshot.now_ms)


def restless(snapshot: Snapshot) -> Plan:
    """The two take turns for ever."""
    running = next((pod.key for pod in snapshot.pods), "")
    after = {"default/old-0": "default/new", "default/new-0": "default/old"}.get(running)
    if after is not None:
        return Plan(now_ms=snapshot.now_ms, evictions=(gone(snapshot, running, "preempt", after),))
    turn = "old" if (snapshot.now_ms // 2000) % 2 else "new"
    return Plan(now_ms=snapshot.now_ms, placements=(placed(snapshot, f"default/{turn}-0", f"default/{turn}", "n"),))


@pytest.fixture
def deciding(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Snapshot], Plan]], None]:
    return lambda decide: monkeypatch.setattr(kai_course, "decide", decide)


Deciding = Callable[[Callable[[Snapshot], Plan]], None]
WON = {"old": "Releasing", "new": "Pipelined"}


def test_victims_end_and_who_gains_by_it_starts_then(tmp_path: Path, deciding: Deciding) -> None:
    deciding(preempting)
    assert course(case([node("n", 1)], FULL, WON, actions=["preempt"], evictions=1), tmp_path).problems == []


def test_an_eviction_in_vain_is_no_promise(tmp_path: Path, deciding: Deciding) -> None:
    deciding(in_vain)
    assert course(case([node("n", 1)], FULL, WON, actions=["preempt"], evictions=1), tmp_path).problems == [
        "new-0 is Pending instead of Pipelined"
    ]


def moving(snapshot: Snapshot) -> Plan:
    """ "b" makes way for "new" and has its place again."""
    running = {pod.key for pod in snapshot.pods}
    if "default/b-0" in running:
        return Plan(now_ms=snapshot.now_ms, evictions=(gone(snapshot, "default/b-0", "consolidate", "default/new"),))
    names = ("b", "new") if "default/new-0" not in running else ()
    return Plan(
        now_ms=snapshot.now_ms,
        placements=tuple(placed(snapshot, f"default/{name}-0", f"default/{name}", "n") for name in names),
    )


@pytest.mark.parametrize(
    ("states", "priority", "problems"),
    [
        ({"a": "Running", "b": "Pipelined"}, 50, 0),
        ({"a": "Pipelined", "b": "Running"}, 50, 0),
        ({"a": "Pipelined", "b": "Running"}, 60, 1),
        ({"a": "Running", "b": "Running"}, 50, 1),
    ],
)
def test_which_of_equal_rank_is_moved_does_not_matter_but_how_many(
    states: Mapping[str, str], priority: int, problems: int, tmp_path: Path, deciding: Deciding
) -> None:
    deciding(moving)
    jobs = [job("a", task("a-0", on="n"), priority=priority), job("b", task("b-0", on="n")), job("new", task("new-0"))]
    found = course(
        case([node("n", 4)], jobs, {**states, "new": "Pipelined"}, actions=["consolidation"], evictions=1), tmp_path
    )
    assert len(found.problems) == problems


def test_a_promise_without_need_is_a_difference(tmp_path: Path, deciding: Deciding) -> None:
    deciding(preempting)
    stays = {"old": "Running", "new": "Pending"}
    assert course(case([node("n", 1)], FULL, stays, actions=["preempt"], evictions=1), tmp_path).problems == [
        "old-0 is Releasing instead of Running",
        "new-0 is promised instead of Pending",
    ]


def test_evictions_have_a_bound(tmp_path: Path, deciding: Deciding) -> None:
    deciding(preempting)
    assert course(case([node("n", 1)], FULL, WON, actions=["preempt"]), tmp_path).problems == [
        "evicts 1 in one decision, 0 allowed"
    ]


def test_what_stages_decide_that_the_case_does_not_run_is_left_out(tmp_path: Path, deciding: Deciding) -> None:
    deciding(preempting)
    untouched = case([node("n", 1)], FULL, {"old": "Running", "new": "Pending"}, actions=["reclaim"])
    assert course(untouched, tmp_path).problems == []


def test_a_stage_that_nobody_knows_is_told(tmp_path: Path, deciding: Deciding) -> None:
    deciding(lambda snapshot: preempting(snapshot, stage="oust"))
    assert "unknown stage oust" in course(case([node("n", 1)], FULL, actions=["preempt"]), tmp_path).problems


def test_what_is_right_stays_right(tmp_path: Path, deciding: Deciding) -> None:
    deciding(preempting)
    won = case([node("n", 1)], FULL, {"old": "Pending", "new": "Running"}, rounds=(2, 5), evictions=1)
    assert course(won, tmp_path).problems == []


def test_taking_turns_for_ever_is_no_rest(tmp_path: Path, deciding: Deciding) -> None:
    deciding(restless)
    won = case([node("n", 1)], FULL, {"old": "Pending", "new": "Running"}, rounds=(2, 5), evictions=1)
    problems = course(won, tmp_path).problems
    assert problems[0] == "does not come to rest: 1 evicted 1 rounds later"
    assert "new-0 is Releasing instead of Running, 1 rounds later" in problems
