"""Where two plans differ, in words that name the pod, gang or queue."""

from dataclasses import replace

from scheduler.commit.outcome import CommitFailed
from scheduler.model.plan import GangDecision, Placement, Plan, Verdict
from scheduler.model.plan_difference import differences
from scheduler.model.plan_document import to_json
from scheduler.model.reasons import Reason
from scheduler.state.recording import HeldBack

GANG = GangDecision(gang="a/g", uid="u", owner="PodGroup/a/g", queue="team", verdict=Verdict.PLACED, placed=1, total=1)
PLACED = Placement(pod="a/p", pod_uid="p", gang="a/g", node="n1")
PLAN = Plan(now_ms=0, placements=(PLACED,), gangs=(GANG,))


def told(before: Plan, after: Plan, held_back: tuple[str, ...] = ()) -> list[str]:
    return differences(to_json(before), to_json(after), dict.fromkeys(held_back))


def test_equal_plans_do_not_differ() -> None:
    assert told(PLAN, PLAN) == []


def test_another_node_is_told_with_the_pod() -> None:
    after = replace(PLAN, placements=(replace(PLACED, node="n2"),))
    assert told(PLAN, after) == ["placements[a/p].node: decided 'n1', now 'n2'"]


def test_what_is_gone_and_what_is_new_is_told_as_a_whole() -> None:
    after = replace(PLAN, placements=(replace(PLACED, pod="a/q"),))
    first, second = told(PLAN, after)
    assert first.startswith("placements[a/p]: decided {'pod': 'a/p'")
    assert first.endswith("now nothing")
    assert second.startswith("placements[a/q]: decided nothing, now {'pod': 'a/q'")


def test_details_of_a_reason_from_outside_of_the_plan_are_not_compared() -> None:
    def waits(reason: Reason) -> Plan:
        return replace(PLAN, gangs=(replace(GANG, verdict=Verdict.PENDING, reason=reason),))

    failed = CommitFailed(gang="a/g", object="Pod a/p", problem="was refused")
    read_back = HeldBack(code=failed.code, message=failed.message, cure=failed.cure)
    assert told(waits(failed), waits(read_back))
    assert told(waits(failed), waits(read_back), ("a/g",)) == []
    assert told(waits(failed), waits(replace(read_back, message="other")), ("a/g",))
