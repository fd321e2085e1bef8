"""A plan that may be carried out: what the planner says, verified by those who know nothing of how it was found.

The service, the debug API and the commands decide by this one function, so that none of them shows or carries out what
another would refuse.
"""

import traceback
from collections.abc import Mapping
from dataclasses import replace

import structlog

from queues.words import counted
from scheduler.commit.outcome import InternalError
from scheduler.commit.writes import writes
from scheduler.model.errors import InvariantError
from scheduler.model.plan import Plan
from scheduler.model.snapshot import Snapshot
from scheduler.plan import planner
from scheduler.solver import check

log = structlog.get_logger(__name__)


def decide(snapshot: Snapshot) -> Plan:
    """The plan for a snapshot, verified independently. A defect of ours must not stop every tenant: when a plan cannot
    be made or breaks a rule, one that stops nobody is made, then one without the solver, then one without the gangs
    that it fails with.

    Raises InvariantError if there is no plan even without any waiting gang."""
    calm = replace(snapshot, policy=replace(snapshot.policy, stages=("allocate",)))
    greedy = replace(calm, policy=replace(calm.policy, solver_enabled=False))
    for attempt in (snapshot, greedy) if snapshot.policy == calm.policy else (snapshot, calm, greedy):
        made = _tried(attempt)
        if isinstance(made, Plan):
            return made
    return _without_culprits(greedy)


def _tried(snapshot: Snapshot) -> Plan | Exception:
    """The plan, or the defect that was in its way."""
    try:
        return _verified(snapshot)
    except Exception as defect:  # noqa: BLE001 - it is told below, and the caller looks at it
        # As text: a renderer that is given the exception may add all locals, the whole cluster among them.
        where = "".join(traceback.format_exception(defect)).rstrip()
        solver = snapshot.policy.solver_enabled
        log.error("a plan could not be made", problem=repr(defect), solver=solver, exception=where)
        return defect


def _verified(snapshot: Snapshot) -> Plan:
    """Raises InvariantError if planner and verifier disagree, or the plan cannot be carried out."""
    plan = planner.plan(snapshot)
    problems = check.check(snapshot, plan) if plan.placements or plan.evictions else ()
    if problems:
        raise InvariantError(f"the plan breaks {counted(len(problems), 'rule')}, the first: {problems[0]}")
    writes(plan, snapshot)
    return plan


def _without_culprits(snapshot: Snapshot) -> Plan:
    """A plan with all of the waiting gangs that it works with, found by halves."""
    left = [gang.key for gang in snapshot.gangs if gang.pending and (gang.held_back or not gang.problems)]
    out = dict.fromkeys(left, "not tried yet")
    best = _tried(_leaving_out(snapshot, out))
    if not isinstance(best, Plan):
        raise InvariantError(f"no plan could be made even without any waiting gang: {best!r}") from best
    groups = [left] if left else []
    while groups:
        group = groups.pop()
        fewer = {key: problem for key, problem in out.items() if key not in group}
        made = _tried(_leaving_out(snapshot, fewer))
        half = len(group) // 2
        if isinstance(made, Plan):
            best, out = made, fewer
        elif half:
            groups += [group[half:], group[:half]]
        else:
            out[group[0]] = repr(made)
            log.error("a gang is left out: no plan works with it", gang=group[0], problem=repr(made))
    # The last plan that worked may have been made before the last of them was found out.
    return replace(
        best,
        gangs=tuple(
            replace(decision, reason=InternalError(gang=decision.gang, problem=out[decision.gang]))
            if decision.gang in out
            else decision
            for decision in best.gangs
        ),
    )


def _leaving_out(snapshot: Snapshot, out: Mapping[str, str]) -> Snapshot:
    """The snapshot in which these gangs (key: why) ask for nothing."""
    gangs = tuple(
        replace(gang, problems=(InternalError(gang=gang.key, problem=out[gang.key]),), held_back=False)
        if gang.key in out
        else gang
        for gang in snapshot.gangs
    )
    return replace(snapshot, gangs=gangs)
