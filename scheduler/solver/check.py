"""Does a plan obey every rule? Written apart: from the snapshot's own objects, without ledger, allocator or solver.

    check(snapshot, plan) == ()

RULES is the list; each gives a sentence per violation, about this plan: what was wrong before it is not its fault.
"""

from collections.abc import Callable, Iterable, Iterator

from scheduler.dra.caches import PerObject
from scheduler.model.plan import Plan, Verdict
from scheduler.model.snapshot import Snapshot
from scheduler.model.workloads import Gang
from scheduler.solver import check_devices
from scheduler.solver.check_budgets import budgets_are_kept, queues_cap_their_evictions
from scheduler.solver.check_case import Case
from scheduler.solver.check_company import company_is_kept
from scheduler.solver.check_gangs import (
    compute_domains_stay_in_one_clique,
    gangs_are_whole_or_absent,
    groups_stay_together,
)
from scheduler.solver.check_nodes import host_ports_are_free, nodes_have_the_amounts, nodes_take_the_pods
from scheduler.solver.check_queues import queues_keep_their_limits
from scheduler.solver.check_reservations import nobody_is_late_by_this_plan, reservations_are_of_those_who_wait
from scheduler.solver.check_victims import (
    evictions_are_of_running_work,
    nobody_ends_before_his_time,
    nobody_is_stopped_in_vain,
    nobody_is_stopped_who_may_not_be,
    nobody_is_stopped_whose_place_nobody_takes,
    promises_are_to_those_who_wait,
)
from scheduler.solver.check_volumes import volumes_can_be_used
from scheduler.solver.check_zones import zones_have_the_amounts


def check(snapshot: Snapshot, plan: Plan) -> tuple[str, ...]:
    """All violations, a sentence each; empty if the plan obeys every rule."""
    case = Case.of(snapshot, plan)
    return tuple(violation for rule in RULES for violation in rule(case))


def placements_are_of_waiting_pods(case: Case) -> Iterator[str]:
    """Each pod once, of its own gang, waiting, neither gated nor ending; on a node that exists."""
    seen: set[str] = set()
    for placement in case.plan.placements:
        if placement.pod in seen:
            yield f"pod {placement.pod} is placed twice"
        seen.add(placement.pod)
        gang, pod = case.pending.get(placement.pod, (None, None))
        if gang is None or pod is None:
            yield f"pod {placement.pod} is placed and does not wait for a node"
            continue
        if gang.key != placement.gang or pod.uid != placement.pod_uid:
            yield f"pod {placement.pod} is placed as another gang's or as another pod of that name"
        if pod.gated or pod.terminating or pod.done:
            yield f"pod {placement.pod} is placed although it is gated or ending"
        if gang.problems:
            yield f"pod {placement.pod} is placed although {gang.problems[0].message}"
        if placement.node not in case.nodes:
            yield f"pod {placement.pod} is placed on node {placement.node}, which does not exist"


def devices_are_right(case: Case) -> Iterator[str]:
    """Claims: the devices asked for, each given once, usable where the pods are."""
    yield from check_devices.check(case.snapshot, case.placed, case.pools)


def gangs_are_told_what_they_get(case: Case) -> Iterator[str]:
    """Every gang is decided once; what is said of it is what is done; and whoever waits is told why."""
    placed: dict[str, int] = {}
    for placement in case.plan.placements:
        placed[placement.gang] = placed.get(placement.gang, 0) + 1
    decided = [decision.gang for decision in case.plan.gangs]
    for key in sorted(case.gangs.keys() ^ set(decided)):
        yield f"gang {key} is not decided" if key in case.gangs else f"gang {key} is decided and does not exist"
    if len(set(decided)) < len(decided):
        yield "a gang is decided twice"
    for decision in case.plan.gangs:
        gang = case.gangs.get(decision.gang)
        if gang is None:
            continue
        number = placed.get(decision.gang, 0)
        if decision.placed != number or (decision.verdict is Verdict.PLACED) != (number > 0):
            yield f"gang {decision.gang} is told {decision.verdict}, {decision.placed} placed, and {number} pods are"
        if decision.reason is None and decision.verdict in (Verdict.PENDING, Verdict.REFUSED):
            yield f"gang {decision.gang} is told {decision.verdict} and not why"
        if decision.uid != gang.uid or decision.total != len(gang.pods) or decision.bound != _bound(gang):
            yield f"gang {decision.gang} is told of another gang's pods"


@PerObject
def _bound(gang: Gang) -> int:
    """Its pods on nodes, but those that end."""
    return sum(1 for pod in gang.pods if pod.node and not (pod.terminating or pod.done))


RULES: tuple[Callable[[Case], Iterable[str]], ...] = (
    placements_are_of_waiting_pods,
    nodes_take_the_pods,
    nodes_have_the_amounts,
    zones_have_the_amounts,
    host_ports_are_free,
    company_is_kept,
    volumes_can_be_used,
    devices_are_right,
    gangs_are_whole_or_absent,
    evictions_are_of_running_work,
    nobody_is_stopped_who_may_not_be,
    nobody_ends_before_his_time,
    nobody_is_stopped_in_vain,
    nobody_is_stopped_whose_place_nobody_takes,
    budgets_are_kept,
    queues_cap_their_evictions,
    promises_are_to_those_who_wait,
    reservations_are_of_those_who_wait,
    nobody_is_late_by_this_plan,
    gangs_are_told_what_they_get,
    groups_stay_together,
    compute_domains_stay_in_one_clique,
    queues_keep_their_limits,
)
"""A new rule of placement joins here, too."""
