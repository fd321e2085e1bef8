"""The judge of the room that is made in a soak finds what it is there to find; and gangs that made room are judged
again as soon as they start anew."""

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from scheduler.api import kinds
from scheduler.api.changes import Change
from scheduler.model.plan import Eviction, Plan
from tests.soak.judge import MOST_PARTIAL_SECONDS, Awake, Wholeness
from tests.soak.rivals import Rivals, Terms
from tests.soak.room import MOST_ASKED, MOST_NOMINATED_SECONDS, MOST_TIMES, MOST_TIMES_AT_ALL_CALM, Room

Document = dict[str, Any]
TERMS = {
    "low": Terms(pods=2, queue="red", priority=10),
    "high": Terms(pods=2, queue="red", priority=500),
    "equal": Terms(pods=1, queue="red", priority=10),
    "firm": Terms(pods=1, queue="red", priority=10, preemptible=False),
    "other": Terms(pods=1, queue="blue", priority=10),
    "another": Terms(pods=1, queue="blue", priority=10),
}
WORDS = {"preempt": "outranked", "consolidate": "moved", "reclaim": "called back by a queue under its fair share"}


def pod(gang: str, number: int = 0, *, node: str = "n1", **more: Any) -> Document:
    name = f"{gang}-{number}"
    meta = {"name": name, "uid": f"uid-of-{name}", "labels": {"tutti.scheduler/pod-group": gang}}
    meta |= {"deletionTimestamp": "2026-01-01T00:00:00Z"} if more.pop("leaving", False) else {}
    return {"metadata": meta, "spec": {"nodeName": node} if node else {}, "status": more}


def target(reason: str, message: str = "") -> list[Document]:
    return [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}]


def left(gang: str, stage: str, for_: str, number: int = 0) -> Document:
    """A pod that was told why it has to leave."""
    message = f"It was {WORDS[stage]}, to make room for gang default/{for_}; 7 GPU-seconds of work lost."
    return pod(gang, number, leaving=True, conditions=target("PreemptionByScheduler", message))


def planned(gang: str, stage: str, for_: str, number: int = 0) -> Eviction:
    beneficiary = f"default/{for_}" if for_ else ""
    name = f"{gang}-{number}"
    return Eviction(pod=f"default/{name}", pod_uid=f"uid-of-{name}", stage=stage, beneficiary=beneficiary, cost=0)


def room(evictions: Iterable[Eviction] = (), **caps: int) -> Room:
    judge = Room(TERMS, caps, Awake(), lambda _: None)
    judge.planned(Plan(now_ms=0, evictions=tuple(evictions)))
    return judge


RIGHTFUL = [("low", "preempt", "high"), ("other", "reclaim", "low"), ("other", "consolidate", "another")]
WRONG = [
    ("high", "preempt", "low", "is of no higher priority"),
    ("low", "preempt", "equal", "is of no higher priority"),
    ("other", "preempt", "high", "is of another queue"),
    ("low", "reclaim", "high", "is of the same queue"),
    ("firm", "preempt", "high", "may not stop it: it is not preemptible"),
    ("firm", "reclaim", "other", "may not stop it: it is not preemptible"),
    ("low", "consolidate", "firm", "is not preemptible itself"),
    ("low", "consolidate", "low", "is its own gang"),
]


@pytest.mark.parametrize(("gang", "stage", "for_"), RIGHTFUL)
def test_who_leaves_by_right_and_is_told_so_is_no_problem(gang: str, stage: str, for_: str):
    judge = room([planned(gang, stage, for_)])
    judge.see("ADDED", pod(gang))
    judge.see("MODIFIED", left(gang, stage, for_))
    judge.see("DELETED", left(gang, stage, for_))
    judge.settled()
    assert judge.problems == []
    assert (judge.figures["evictions"], judge.figures[stage], judge.figures["gangs helped"]) == (1, 1, 1)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(("gang", "stage", "for_", "problem"), WRONG)
def test_who_leaves_without_a_right_is_one_told_or_not(gang: str, stage: str, for_: str, problem: str, told: bool):
    judge = room([planned(gang, stage, for_)])
    leaves = pod(gang, leaving=True, conditions=target("EvictionByEvictionAPI"))
    judge.see("DELETED", left(gang, stage, for_) if told else leaves)
    judge.settled()
    assert judge.problems == [f"pod {gang}-0 left by {stage} for {for_}, which {problem}"]


def test_an_eviction_that_no_plan_says_or_that_names_nobody_is_one():
    judge = room()
    judge.see("DELETED", pod("low", leaving=True, conditions=target("EvictionByEvictionAPI")))
    judge.see("DELETED", pod("high", leaving=True, conditions=target("PreemptionByScheduler", "It was in the way.")))
    judge.see("DELETED", left("other", "reclaim", "low"))
    first, second, third = judge.problems
    assert first == "pod low-0 was evicted, and no plan says why"
    assert second == "pod high-0 left for others, and was not told for whom: 'It was in the way.'"
    assert third.endswith("which no plan says")


def test_who_leaves_for_its_own_gangs_sake_makes_room_for_nobody():
    judge = room([planned("firm", "stale", "")])
    judge.see("DELETED", pod("firm", leaving=True, conditions=target("GangBelowMinimum")))
    judge.settled()
    assert (judge.problems, judge.figures["evictions"], judge.figures["gangs helped"]) == ([], 1, 0)


@pytest.mark.parametrize(("pods", "problems"), [(2 * MOST_TIMES, 0), (2 * MOST_TIMES + 1, 1)])
def test_a_gang_that_makes_room_for_the_same_again_and_again_is_one(pods: int, problems: int):
    judge = room(planned("low", "preempt", "high", n) for n in range(pods))
    for number in range(pods):
        judge.see("DELETED", left("low", "preempt", "high", number))
    judge.settled()
    assert len(judge.problems) == problems


@pytest.mark.parametrize(("times", "problems"), [(MOST_TIMES_AT_ALL_CALM, 0), (MOST_TIMES_AT_ALL_CALM + 1, 1)])
def test_in_the_calm_a_gang_is_left_in_peace_by_all_together(times: int, problems: int):
    beneficiaries = [f"b{n}" for n in range(times)]
    terms = {"low": Terms(pods=1, queue="red"), **{name: Terms(pods=1, queue="blue") for name in beneficiaries}}
    judge = Room(terms, {}, Awake(), lambda _: None)
    judge.planned(Plan(now_ms=0, evictions=tuple(planned("low", "reclaim", b, n) for n, b in enumerate(beneficiaries))))
    judge.calm()
    for number, name in enumerate(beneficiaries):
        judge.see("DELETED", left("low", "reclaim", name, number))
    judge.settled()
    assert len(judge.problems) == problems


@pytest.mark.parametrize(("cap", "beyond"), [(2, 0), (1, 1)])
@pytest.mark.parametrize("calm", [True, False])
def test_more_of_a_queue_on_their_way_out_than_may_be_is_one_in_the_calm(cap: int, beyond: int, calm: bool):
    judge = room([planned("low", "preempt", "high", n) for n in range(2)], red=cap)
    if calm:
        judge.calm()
    for number in range(2):
        judge.see("MODIFIED", left("low", "preempt", "high", number))
    assert (judge.figures["beyond a cap"], len(judge.problems)) == (beyond, beyond if calm else 0)


def test_with_a_cap_the_next_may_go_when_the_one_before_is_gone():
    judge = room([planned("low", "preempt", "high", n) for n in range(2)], red=1)
    judge.calm()
    for number in range(2):
        judge.see("MODIFIED", left("low", "preempt", "high", number))
        judge.see("DELETED", left("low", "preempt", "high", number))
    assert judge.problems == []


@pytest.mark.parametrize(("somebody_leaves", "problems"), [(True, 0), (False, 1)])
def test_in_the_calm_nobody_waits_long_for_room_that_nobody_leaves(somebody_leaves: bool, problems: int):
    judge = room([planned("low", "preempt", "high")])
    judge.see("ADDED", pod("high", node="", nominatedNodeName="n1"))
    if somebody_leaves:
        judge.see("ADDED", left("low", "preempt", "high"))
    judge.look()
    judge.awake.seconds += 2 * MOST_NOMINATED_SECONDS
    judge.calm()
    judge.look()
    judge.awake.seconds += MOST_NOMINATED_SECONDS + 1
    judge.look()
    assert len(judge.problems) == problems


def test_a_nomination_is_kept_moved_or_taken_back():
    judge = room()
    for name, after in (("low", {"node": "n1"}), ("high", {"node": "n2"}), ("other", {"node": ""})):
        judge.see("ADDED", pod(name, node="", nominatedNodeName="n1"))
        judge.see("MODIFIED", pod(name, **after))
    figures = [judge.figures[f"nominations {what}"] for what in ("kept", "moved", "taken back")]
    assert (judge.figures["nominations"], figures) == (3, [1, 1, 1])


def test_a_pod_that_is_asked_to_leave_for_ever_is_one():
    judge = room()
    judge.asked({"pods/low-0/eviction": MOST_ASKED, "pods/low-1/eviction": MOST_ASKED + 1})
    assert judge.problems == [f"pods/low-1/eviction was asked for {MOST_ASKED + 1} times, by one replica"]


def test_in_about_half_of_the_clusters_room_is_made_and_the_same_in_each_run():
    rivals = [Rivals(str(seed)) for seed in range(200)]
    assert 80 <= sum(each.makes_room for each in rivals) <= 120
    assert [each.makes_room for each in rivals] == [Rivals(str(seed)).makes_room for seed in range(200)]
    assert all(bool(each.settings) == each.makes_room for each in rivals)


# --- gangs that are hurt ----------------------------------------------------------------------------------------------


class Gang:
    """A gang of two that needs both, seen by the judge of gangs bound in part."""

    def __init__(self) -> None:
        self.judge = Wholeness({"low": 2}, set(), lambda _: None, Awake())

    def see(self, event: str, document: Document) -> None:
        key = document["metadata"]["name"]
        self.judge._see(Change(kind=kinds.POD, type=event, key=key, object=None, raw=msgspec.json.encode(document)))

    def waits_bound_in_part(self) -> list[str]:
        self.judge.look()
        self.judge.awake.seconds += MOST_PARTIAL_SECONDS + 1
        self.judge.look()
        return self.judge.problems


PROBLEM = [f"gang low was bound in part for more than {MOST_PARTIAL_SECONDS:g} s"]


def test_a_gang_bound_in_part_for_long_is_a_problem():
    gang = Gang()
    gang.see("ADDED", pod("low", 0))
    gang.see("ADDED", pod("low", 1, node=""))
    assert gang.waits_bound_in_part() == PROBLEM


def test_a_gang_that_lost_a_pod_by_eviction_is_hurt():
    gang = Gang()
    gang.see("ADDED", pod("low", 0))
    gang.see("ADDED", pod("low", 1))
    gang.see("MODIFIED", left("low", "preempt", "high", 1))
    gang.see("DELETED", left("low", "preempt", "high", 1))
    gang.see("ADDED", pod("low", 2, node=""))
    assert gang.waits_bound_in_part() == []


@pytest.mark.parametrize("whole_again", [True, False])
def test_when_all_of_it_was_evicted_it_starts_anew_as_any_other(whole_again: bool):
    gang = Gang()
    for number in range(2):
        gang.see("ADDED", pod("low", number))
    for number in range(2):
        gang.see("MODIFIED", left("low", "preempt", "high", number))
    for number in range(2):
        gang.see("DELETED", left("low", "preempt", "high", number))
    gang.see("ADDED", pod("low", 2))
    gang.see("ADDED", pod("low", 3, node="n1" if whole_again else ""))
    assert gang.waits_bound_in_part() == ([] if whole_again else PROBLEM)


def test_a_gang_that_lost_a_pod_otherwise_stays_hurt():
    gang = Gang()
    for number in range(2):
        gang.see("ADDED", pod("low", number))
    for number in range(2):
        gang.see("DELETED", pod("low", number))
    gang.see("ADDED", pod("low", 2))
    gang.see("ADDED", pod("low", 3, node=""))
    assert gang.waits_bound_in_part() == []
