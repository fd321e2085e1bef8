"""The course of one case: decisions, their consequences, and where these differ from what the case expects.

Compared are the states of jobs and tasks, and the number of evictions of each decision. Which node, which device and
which of several equal tasks of a job is not; nor what only repeats the request, or words.

Who of those that run is moved, so that a pod finds room, the peer leaves to chance (it walks over a map). So of running
preemptible jobs of one queue and priority, as many may be moved as the peer moves; which of them is not compared. Who
is moved has a place again in the next decision, or it counts as stopped.

A decision is taken as far as the actions of the case go: what other stages evict, and for whom, is left out. What is
placed on free room, in a case that does not allocate, is no difference, and noted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import msgspec
from structlog.testing import capture_logs

from scheduler.decision import decide
from scheduler.model.errors import InvariantError
from scheduler.model.plan import Plan
from tests.conformance.kai_cases import Case, Expect, Task
from tests.conformance.kai_gpus import TooMuch
from tests.conformance.kai_world import DONE, ENDING, STAGES, Standing, World, obstacles

RUNS, WAITS, PROMISED, NEXT, AT_ONCE, ENDS, MOVES = (
    "Running",
    "Pending",
    "promised",
    "next",
    "at once",
    "Releasing",
    "moved",
)
_ACCEPTED: Mapping[str, tuple[str, ...]] = {
    "Running": (RUNS,),
    "Binding": (RUNS,),
    "Bound": (RUNS,),
    "Allocated": (RUNS,),
    "Releasing": (ENDS, MOVES),
    "StuckInReleasing": (ENDS,),
    "Pending": (WAITS, NEXT, AT_ONCE),
    "Pipelined": (PROMISED, MOVES, NEXT, AT_ONCE),
    **{state: (state,) for state in DONE},
}
"""By the state expected: outcomes that are it, the best first.

A task waits; it starts in the next round, with what was evicted for it (`promised`) or what is there anyway (`next`).
It is bound in a case that does not run `allocate`, where the peer binds nothing (`at once`). It ends; it has a place
again in the next round (`moved`)."""


@dataclass(slots=True, kw_only=True)
class Course:
    """`problems`: where the case differs; `notes`: what was not held against it; `told`: what was decided, line by
    line."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


def run(case: Case) -> Course:
    """Go through the case."""
    course = Course()
    if cannot := list(obstacles(case)):
        course.problems.append(f"cannot be expressed: {', '.join(cannot)}")
        return course
    try:
        world = World(case)
    except TooMuch as problem:
        course.problems.append(f"cannot be expressed: {problem}")
        return course
    course.problems.extend(_names_not_there(case))
    if case.expect is None:
        course.notes.append("nothing is expected but an answer")
    if not course.problems:
        (_rounds if case.run.mode == "rounds" else _once)(world, course)
    return course


def _names_not_there(case: Case) -> Iterator[str]:
    if case.run.mode not in ("rounds", "actions"):
        yield f"unknown mode {case.run.mode}"
    yield from (f"unknown action {name}" for name in case.run.actions if name not in (*STAGES, "allocate"))
    if case.expect is None:
        return
    jobs = {job.name for job in case.jobs}
    tasks = {task.name for job in case.jobs for task in job.tasks}
    passed_over = set(case.expect.never_checked)
    for what, names, expected in (("job", jobs, case.expect.jobs), ("task", tasks, case.expect.tasks)):
        yield from (f"{what} {name} is expected and not there" for name in sorted(set(expected) - names - passed_over))
        for name in sorted(expected):
            if expected[name].status not in _ACCEPTED:
                yield f"{what} {name} is expected in unknown state {expected[name].status}"


def _once(world: World, course: Course) -> None:
    """One decision; and the one after it, which tells whether those start for whom others end."""
    plan = _decide(world, course)
    if plan is None:
        return
    course.problems.extend(_too_many(world.case, plan))
    bound_now = {placement.pod for placement in plan.placements}
    promised = {promise.pod for promise in plan.promises}
    evicted = {eviction.pod for eviction in plan.evictions}
    states = {key: standing.state for key, standing in world.tasks.items()}
    course.told.extend(_elsewhere(world))
    world.pass_round(ending_go=True)
    following = _decide(world, course)
    started = {placement.pod for placement in following.placements} if following else set()
    allocates = "allocate" in world.case.run.actions
    outcomes = {}
    for key in world.tasks:
        outcome = _outcome(states[key])
        if key in evicted:
            outcome = MOVES if key in started else ENDS
        elif key in bound_now and not allocates:
            outcome = AT_ONCE
        elif outcome == WAITS and key in started:
            outcome = PROMISED if key in promised else NEXT
        outcomes[key] = outcome
    course.notes.extend(f"{world.tasks[key].task.name} starts at once" for key in outcomes if outcomes[key] == AT_ONCE)
    course.problems.extend(_differences(world, outcomes))


def _rounds(world: World, course: Course) -> None:
    """Rounds until it must be right, and more in which it must stay so."""
    order = world.case.run
    for _ in range(order.rounds_until_match):
        plan = _decide(world, course)
        if plan is None:
            return
        course.problems.extend(_too_many(world.case, plan))
        world.pass_round()
    course.problems.extend(_differences(world, _now(world)))
    course.told.extend(_elsewhere(world))
    for number in range(1, order.rounds_after_match + 1):
        plan = _decide(world, course)
        if plan is None or course.problems:
            return
        if plan.evictions:
            course.problems.append(f"does not come to rest: {len(plan.evictions)} evicted {number} rounds later")
        problems = _differences(world, _now(world))
        course.problems.extend(f"{problem}, {number} rounds later" for problem in problems)
        world.pass_round()


def _decide(world: World, course: Course) -> Plan | None:
    """Decide and carry it out. None if that fails; a defect that was got round counts as well."""
    snapshot = world.snapshot()
    with capture_logs() as logs:
        try:
            whole = decide(snapshot)
        except InvariantError as defect:
            course.problems.append(f"no plan: {defect}")
            return None
    defects = [f"defect: {entry.get('problem', entry['event'])}" for entry in logs]
    defects += [f"unknown stage {stage}" for stage in sorted({e.stage for e in whole.evictions} - set(STAGES.values()))]
    course.problems.extend(defect for defect in dict.fromkeys(defects) if defect not in course.problems)
    plan = _as_far_as(whole, world.case.run.actions)
    course.told.extend(_tell(plan))
    world.carry_out(plan)
    return plan


def _too_many(case: Case, plan: Plan) -> Iterator[str]:
    most = case.expect.max_calls_per_session if case.expect is not None else None
    if most is not None and len(plan.evictions) > most.evictions:
        yield f"evicts {len(plan.evictions)} in one decision, {most.evictions} allowed"


def _as_far_as(plan: Plan, actions: Sequence[str]) -> Plan:
    """The plan without what stages decide that the case does not run."""
    stages = {STAGES[action] for action in actions if action in STAGES}
    out = {eviction.beneficiary for eviction in plan.evictions if eviction.stage not in stages}
    return replace(
        plan,
        evictions=tuple(eviction for eviction in plan.evictions if eviction.stage in stages),
        placements=tuple(placement for placement in plan.placements if placement.gang not in out),
        promises=tuple(promise for promise in plan.promises if promise.gang not in out),
    )


def _tell(plan: Plan) -> Iterator[str]:
    yield f"decision at {plan.now_ms}:"
    yield from (f"  places {placement.pod} on {placement.node}" for placement in plan.placements)
    for eviction in plan.evictions:
        yield f"  evicts {eviction.pod} for {eviction.beneficiary} ({eviction.stage}, cost {eviction.cost})"
    for gang in plan.gangs:
        yield f"  {gang.gang}: {gang.verdict}{f', {gang.reason.message}' if gang.reason else ''}"


def _elsewhere(world: World) -> Iterator[str]:
    """Nodes that are not the expected ones, for whom it may concern."""
    expect = world.case.expect or Expect()
    for standing in world.tasks.values():
        named = expect.tasks.get(standing.task.name) or expect.jobs.get(standing.job.name)
        if named is not None and named.node and standing.node and standing.node != named.node:
            yield f"{standing.task.name} is on {standing.node}, the peer's on {named.node}"


def _now(world: World) -> dict[str, str]:
    return {key: _outcome(standing.state) for key, standing in world.tasks.items()}


def _outcome(state: str) -> str:
    if state in DONE:
        return state
    if state in ENDING:
        return ENDS
    return WAITS if state in ("Pending", "Gated") else RUNS


def _differences(world: World, outcomes: Mapping[str, str]) -> list[str]:
    """Where the outcome of tasks (by key) is not what their job, or they themselves, are expected to be."""
    expect = world.case.expect
    if expect is None:
        return []
    found = []
    moved = _moved_alike(world, expect, outcomes)
    for standing in world.tasks.values():
        expected = expect.jobs.get(standing.job.name)
        if standing.key in moved:
            continue
        if expected is not None and outcomes[standing.key] not in _ACCEPTED[expected.status]:
            found.append(f"{standing.task.name} is {outcomes[standing.key]} instead of {expected.status}")
    found += _of_tasks(world, expect, outcomes)
    return found


def _moved_alike(world: World, expect: Expect, outcomes: Mapping[str, str]) -> set[str]:
    """Tasks (key) of jobs that run, in groups of one queue and priority in which all run on or are moved, and no more
    are moved than the peer moves."""
    groups: dict[tuple[str, int], list[Standing]] = {}
    for standing in world.tasks.values():
        if standing.task.state == "Running" and standing.job.preemptible and len(standing.job.tasks) == 1:
            groups.setdefault((standing.job.queue, standing.job.priority), []).append(standing)
    found: set[str] = set()
    for group in groups.values():
        states = [expect.jobs[each.job.name].status if each.job.name in expect.jobs else "" for each in group]
        here = [outcomes[each.key] for each in group]
        all_stay = set(states) <= {"Running", "Pipelined"} and set(here) <= {RUNS, MOVES}
        if all_stay and here.count(MOVES) <= states.count("Pipelined"):
            found |= {each.key for each in group}
    return found


def _of_tasks(world: World, expect: Expect, outcomes: Mapping[str, str]) -> Iterator[str]:
    """Equal tasks of a job are told apart by nothing but their names: as many of them as expected must be so."""
    named = [standing for standing in world.tasks.values() if standing.task.name in expect.tasks]
    named.sort(key=lambda standing: (_kind(standing), standing.key))
    for _, alike in groupby(named, key=_kind):
        group = list(alike)
        wanted = sorted((expect.tasks[s.task.name].status for s in group), key=lambda status: status == "Pipelined")
        left = [outcomes[standing.key] for standing in group]
        missing = []
        for status in wanted:
            outcome = next((outcome for outcome in _ACCEPTED[status] if outcome in left), None)
            if outcome is None:
                missing.append(status)
            else:
                left.remove(outcome)
        if missing:
            names = ", ".join(standing.task.name for standing in group)
            yield f"{names}: {', '.join(left)} instead of {', '.join(missing)}"


def _kind(standing: Standing) -> str:
    """The same for tasks of a job that are equal but for their names and nodes."""
    bare: Task = msgspec.structs.replace(standing.task, name="", node="", gpu_groups=())
    return f"{standing.job.namespace}/{standing.job.name} {msgspec.json.encode(bare).decode()}"
