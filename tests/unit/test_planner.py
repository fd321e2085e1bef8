"""plan(): purity, sameness, verdicts, reports."""

import msgspec
import pytest

from scheduler.model.plan import SolverReport, Verdict
from scheduler.model.plan_document import to_json
from scheduler.model.reasons import InvalidGang, Unreadable
from scheduler.model.snapshot import SetAside
from scheduler.plan import planner
from scheduler.plan.planner import plan
from tests.builders import ask, claim, cluster, gang, gang_of, node, pod, queue, world


def test_an_empty_snapshot_has_an_empty_plan() -> None:
    decided = plan(world())
    assert (decided.placements, decided.gangs, decided.queues) == ((), (), ())
    assert decided.solver == SolverReport()


def test_a_plan_changes_nothing_of_its_snapshot_and_can_be_made_again() -> None:
    made = cluster(nodes=2, gpus=4, dra=True) + gang("a", pods=2, claims={"g": ask(3)}) + gang("b", pods=9, gpus=1)
    assert msgspec.json.encode(to_json(plan(made))) == msgspec.json.encode(to_json(plan(made)))


def test_what_was_set_aside_is_passed_on_in_order() -> None:
    reason = Unreadable(object="x", field="f", problem="is odd", remedy="Mend it.")
    made = world(set_aside=tuple(SetAside(object=name, uid=name, reason=reason) for name in ("b", "a")))
    assert [aside.object for aside in plan(made).set_aside] == ["a", "b"]


def test_a_gang_with_a_problem_is_refused_with_its_first_problem_and_left_running_if_it_runs() -> None:
    problem = InvalidGang(gang="default/bad", problem="names sub-group x, which does not exist", remedy="Correct it.")
    waiting = plan(cluster(nodes=1) + gang("bad", pods=2, problems=[problem])).gangs[0]
    assert (waiting.verdict, waiting.reason) == (Verdict.REFUSED, problem)
    at_work = plan(cluster(nodes=1) + gang("bad", pods=1, on=["node-0"], problems=[problem])).gangs[0]
    assert at_work.verdict is Verdict.RUNNING


def test_a_gang_below_its_minimum_that_lacks_pods_is_pending_while_some_of_it_runs() -> None:
    made = cluster(nodes=1) + gang_of("train", [pod("train-0", on="node-0")], minimum=2)
    (decision,) = plan(made).gangs
    assert decision.verdict is Verdict.PENDING
    assert (decision.bound, decision.needed) == (1, 2)


def test_an_elastic_gang_that_cannot_grow_keeps_running_and_says_why() -> None:
    made = cluster(nodes=1, gpus=2) + gang("serve", pods=3, gpus=1, minimum=1, on=["node-0", "node-0"])
    (decision,) = plan(made).gangs
    assert decision.verdict is Verdict.RUNNING
    assert decision.reason is not None
    assert decision.reason.code == "GangDoesNotFit"


def test_a_placement_names_every_claim_of_its_pod_with_its_uid() -> None:
    made = cluster(nodes=1, gpus=2, dra=True) + claim("s", ask(1))
    made += gang("train", claims={"own": ask(1)}, shared={"common": "s"})
    (placement,) = plan(made).placements
    assert [(part.name, part.claim, part.claim_uid) for part in placement.claims] == [
        ("own", "default/train-0-own", "claim-default/train-0-own"),
        ("common", "default/s", "claim-default/s"),
    ]


def test_an_answer_that_the_checker_rejects_is_not_used_and_the_plan_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    made = queue("default") + node("a", gpus=4) + node("b", gpus=3)
    made += gang("pairs", pods=2, gpus=2, priority=1) + gang("triple", pods=1, gpus=3)
    assert plan(made).solver.status == "optimal"
    monkeypatch.setattr(planner, "check", lambda *_: ("planted",))
    decided = plan(made)
    assert decided.solver.status == "rejected"
    assert {placement.gang for placement in decided.placements} == {"default/pairs"}
