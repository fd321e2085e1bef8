"""What is written about a decision, on made-up objects; patches are applied as the embedded cluster applies them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from queues.reasons import OverLimit, QueueUnusable
from queues.resources import Resources
from queues.tree import WHOLE
from queues.usage import CLUSTER
from scheduler.api import kinds
from scheduler.api.changes import Change
from scheduler.api.crd_schema import crds
from scheduler.api.kinds import Kind
from scheduler.api.meta import Wire
from scheduler.devcluster import patch
from scheduler.devcluster.schema import Schema
from scheduler.explain import documents
from scheduler.explain.status import StatusWrite, Teller
from scheduler.explain.why import ClaimReport, GangReport, PlacedPod, Reports, StoppedPod, WaitingPod
from scheduler.model.plan import QueueReport, Verdict
from scheduler.model.reasons import ClaimRefused, GangDoesNotFit, Unreadable, WaitingForPods
from scheduler.model.snapshot import SetAside

DEPLOYMENT = Path(__file__).parents[2] / "deploy" / "scheduler.yaml"
NOW = 1_700_000_000_000
NO_ROOM = GangDoesNotFit(gang="team/train", needed=2, placeable=1)
OVER = OverLimit(queue="q", resource="gpu", asked=4000, allocated=30_000, limit=32_000)
WAITING = (WaitingPod(key="team/a", uid="uid-a"), WaitingPod(key="team/b", uid="uid-b"))


class World:
    """Objects as the watches told them; `apply` does what the server does with a write."""

    def __init__(self) -> None:
        self.documents: dict[tuple[Kind, str], dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []

    def add(self, kind: Kind, key: str, uid: str, **fields: Any) -> None:
        namespace, _, name = key.rpartition("/")
        self.documents[kind, key] = {"metadata": {"name": name, "namespace": namespace, "uid": uid}, **fields}

    def object(self, kind: Kind, key: str) -> Wire | None:
        document = self.documents.get((kind, key))
        return None if document is None else msgspec.convert(document, kind.type)

    def keys(self, kind: Kind) -> list[str]:
        return [key for of, key in self.documents if of is kind]

    def change(self, kind: Kind, key: str) -> Change | None:
        found = self.object(kind, key)
        return None if found is None else Change(kind=kind, type="MODIFIED", key=key, object=found)

    def apply(self, writes: tuple[StatusWrite, ...]) -> tuple[StatusWrite, ...]:
        for write in writes:
            if write.how == "create":
                self.events.append(dict(write.body))
                continue
            document = self.documents[write.kind, write.key]
            assert document["metadata"]["uid"] == write.body["metadata"]["uid"]
            if write.how == "merge":
                document["status"] = patch.merge(document.get("status", {}), write.body["status"])
            else:
                document["status"] = {**document.get("status", {}), **write.body["status"]}
        return writes

    def status(self, kind: Kind, key: str) -> dict[str, Any]:
        return self.documents[kind, key]["status"]

    def said(self) -> list[tuple[str, str]]:
        return [(event["involvedObject"]["name"], event["reason"]) for event in self.events]


def world(kind: Kind = kinds.POD_GROUP) -> World:
    made = World()
    made.add(kind, "team/train", "g")
    for name in ("a", "b"):
        made.add(kinds.POD, f"team/{name}", f"uid-{name}", spec={"schedulerName": "tutti"})
    return made


def gang(verdict: Verdict = Verdict.PENDING, **more: Any) -> GangReport:
    given = {"reason": NO_ROOM, "waiting": WAITING, "needed": 2, "total": 2, "owner": "PodGroup/team/train", **more}
    return GangReport(gang="team/train", uid="g", queue="q", verdict=verdict, **given)


def bound(**more: Any) -> GangReport:
    return gang(Verdict.RUNNING, reason=None, waiting=(), bound=2, nodes=("n1", "n2"), **more)


def said(*gangs: GangReport, at: int = NOW, **more: Any) -> Reports:
    return Reports(now_ms=at, gangs=gangs, **more)


def test_a_gang_that_waits_says_why_on_its_pod_group_and_on_every_pod():
    there = world()
    there.apply(Teller(there).status_writes(said(gang(missing=Resources({"pods": 1})))))
    status = there.status(kinds.POD_GROUP, "team/train")
    text = "team/train needs room for 2 pods at once and there is room for 1."
    assert status["reason"] == {
        "code": "GangDoesNotFit",
        "message": text,
        "cure": "Free room for 1 more pod, or add nodes.",
        "missing": {"pods": "1"},
        "decidedAt": "2023-11-14T22:13:20Z",
    }
    assert status["conditions"] == [
        {
            "type": "Scheduled",
            "status": "False",
            "reason": "GangDoesNotFit",
            "message": f"{text} Free room for 1 more pod, or add nodes.",
            "lastTransitionTime": "2023-11-14T22:13:20Z",
        }
    ]
    assert (status["needed"], status["pending"], status["bound"]) == (2, 2, 0)
    for name in ("a", "b"):
        (condition,) = there.status(kinds.POD, f"team/{name}")["conditions"]
        assert (condition["type"], condition["status"], condition["reason"]) == (
            "PodScheduled",
            "False",
            "Unschedulable",
        )
        assert condition["message"].startswith(f"GangDoesNotFit: {text}")
    assert there.said() == [(name, "FailedScheduling") for name in ("train", "a", "b")]


def test_what_is_written_is_what_our_definitions_allow():
    there = world()
    there.add(kinds.QUEUE, "q", "q")
    there.apply(Teller(there).status_writes(said(gang(reason=OVER), queues=(queue(gpu=8000),))))
    for kind, key in ((kinds.POD_GROUP, "team/train"), (kinds.QUEUE, "q")):
        definition = next(each for each in crds() if each["spec"]["names"]["kind"] == kind.kind)
        schema = Schema(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
        document = {key: value for key, value in there.documents[kind, key].items() if key != "metadata"}
        assert schema.unknown(document) == []
        assert schema.faults(document) == []


def test_the_same_again_says_nothing():
    there = world()
    teller = Teller(there)
    there.apply(teller.status_writes(said(gang())))
    assert teller.status_writes(said(gang(), at=NOW + 60_000)) == ()


def test_after_a_restart_nothing_is_repeated_either():
    there = world()
    there.apply(Teller(there).status_writes(said(gang())))
    assert Teller(there).status_writes(said(gang(), at=NOW + 60_000)) == ()


def test_a_new_reason_is_said_at_once_with_an_event():
    there = world()
    teller = Teller(there)
    there.apply(teller.status_writes(said(gang())))
    there.apply(teller.status_writes(said(gang(reason=OVER), at=NOW + 50)))
    assert there.status(kinds.POD_GROUP, "team/train")["reason"]["code"] == "OverLimit"
    assert there.said()[3:] == [(name, "FailedScheduling") for name in ("train", "a", "b")]


def test_new_numbers_for_the_same_reason_wait_a_while_and_make_no_event():
    there = world()
    teller = Teller(there)
    there.apply(teller.status_writes(said(gang())))
    worse = gang(reason=GangDoesNotFit(gang="team/train", needed=2, placeable=0))
    assert there.apply(teller.status_writes(said(worse, at=NOW + 400))) == ()
    assert teller.due_ms == NOW + 1000
    later = there.apply(teller.status_writes(said(worse, at=NOW + 1000)))
    assert [write.key for write in later] == ["team/train"]
    assert "room for none" in there.status(kinds.POD_GROUP, "team/train")["reason"]["message"]
    assert [write.key for write in teller.status_writes(said(worse, at=NOW + 10_000))] == ["team/a", "team/b"]
    assert teller.due_ms is None


def test_a_condition_keeps_the_time_of_its_last_transition():
    there = world()
    teller = Teller(there)
    there.apply(teller.status_writes(said(gang())))
    there.apply(teller.status_writes(said(gang(reason=OVER), at=NOW + 5000)))
    (condition,) = there.status(kinds.POD_GROUP, "team/train")["conditions"]
    assert condition["lastTransitionTime"] == "2023-11-14T22:13:20Z"
    there.apply(teller.status_writes(said(bound(), at=NOW + 9000)))
    (condition,) = there.status(kinds.POD_GROUP, "team/train")["conditions"]
    assert (condition["status"], condition["lastTransitionTime"]) == ("True", "2023-11-14T22:13:29Z")


def test_conditions_of_others_are_kept():
    there = world()
    theirs = {"type": "Admitted", "status": "True", "reason": "x", "message": "", "lastTransitionTime": "y"}
    there.documents[kinds.POD_GROUP, "team/train"]["status"] = {"conditions": [theirs]}
    there.apply(Teller(there).status_writes(said(gang())))
    assert theirs in there.status(kinds.POD_GROUP, "team/train")["conditions"]


def test_a_gang_that_runs_gives_no_reason_any_more():
    there = world()
    teller = Teller(there)
    there.apply(teller.status_writes(said(gang(missing=Resources({"pods": 1})))))
    there.apply(teller.status_writes(said(bound(running=1), at=NOW + 50)))
    status = there.status(kinds.POD_GROUP, "team/train")
    assert "reason" not in status
    assert (status["bound"], status["running"], status["nodes"]) == (2, 1, 2)


def test_while_a_gang_is_being_placed_nothing_is_claimed_and_its_score_is_told_once_it_is_bound():
    there = world()
    teller = Teller(there)
    placements = (PlacedPod(key="team/a", uid="uid-a", node="n1"), PlacedPod(key="team/b", uid="uid-b", node="n2"))
    placed = gang(Verdict.PLACED, reason=None, waiting=WAITING, placements=placements, placed=2, score=93)
    assert teller.status_writes(said(placed)) == ()
    assert teller.status_writes(said(bound(), at=NOW + 50)) == (), "the binding is counted, and nobody has seen it"
    there.documents[kinds.POD, "team/a"]["spec"]["nodeName"] = "n1"
    there.documents[kinds.POD, "team/b"]["spec"]["nodeName"] = "elsewhere"
    there.apply(teller.status_writes(said(bound(), at=NOW + 100)))
    assert there.status(kinds.POD_GROUP, "team/train")["placementScore"] == 93
    assert [(name, reason) for name, reason in there.said() if reason == "Scheduled"] == [("a", "Scheduled")]
    assert teller.status_writes(said(bound(), at=NOW + 60_000)) == ()


def test_what_was_decided_last_is_told_when_it_comes_to_pass_and_each_pod_once():
    there = world()
    teller = Teller(there)
    assert teller.news(NOW) == ()
    placements = (PlacedPod(key="team/a", uid="uid-a", node="n1"), PlacedPod(key="team/b", uid="uid-b", node="n2"))
    teller.status_writes(said(gang(Verdict.PLACED, reason=None, waiting=WAITING, placements=placements, placed=2)))
    for turn, (pod, node) in enumerate([("team/a", "n1"), ("team/b", "n2")]):
        there.documents[kinds.POD, pod]["spec"]["nodeName"] = node
        there.apply(teller.news(NOW + 100 * turn))
    there.apply(teller.status_writes(said(bound(), at=NOW + 300)))
    there.apply(teller.news(NOW + 400))
    assert there.said() == [("a", "Scheduled"), ("b", "Scheduled")]
    assert there.status(kinds.POD_GROUP, "team/train")["bound"] == 2


def test_a_placement_that_failed_is_told_with_its_reason():
    there = world()
    teller = Teller(there)
    placements = (PlacedPod(key="team/a", uid="uid-a", node="n1"),)
    placed = gang(Verdict.PLACED, reason=None, waiting=WAITING, placements=placements, placed=1)
    assert teller.status_writes(said(placed)) == ()
    there.apply(teller.status_writes(said(gang(reason=OVER), at=NOW + 50)))
    assert there.status(kinds.POD_GROUP, "team/train")["reason"]["code"] == "OverLimit"


def test_pods_of_a_gang_in_the_making_are_left_alone_until_it_has_had_its_time():
    there = world()
    teller = Teller(there)
    young = gang(reason=WaitingForPods(gang="team/train", needed=2, present=1), settling=True)
    there.apply(teller.status_writes(said(young)))
    assert there.said() == [("train", "FailedScheduling")]
    assert teller.due_ms == NOW + 2000


def test_what_is_due_is_not_put_off_by_news_of_others():
    there = world()
    teller = Teller(there)
    young = gang(reason=WaitingForPods(gang="team/train", needed=2, present=1), settling=True)
    there.apply(teller.status_writes(said(young)))
    for later in (500, 1900):
        there.apply(teller.news(NOW + later))
        assert teller.due_ms == NOW + 2000


def test_a_pod_group_whose_pods_have_ended_does_not_go_on_counting_them():
    there = world()
    teller = Teller(there)
    there.apply(teller.status_writes(said(bound(running=2))))
    there.apply(teller.status_writes(said(at=NOW + 5000)))
    status = there.status(kinds.POD_GROUP, "team/train")
    assert (status["bound"], status["running"], status["conditions"][0]["reason"]) == (0, 0, "NoPods")
    assert there.events == []
    assert teller.status_writes(said(at=NOW + 60_000)) == ()


def test_a_young_pod_group_is_given_time_to_get_its_pods():
    there = world()
    there.documents[kinds.POD_GROUP, "team/train"]["metadata"]["creationTimestamp"] = "2023-11-14T22:13:20Z"
    teller = Teller(there)
    assert teller.status_writes(said(at=NOW + 900)) == ()
    assert teller.due_ms == NOW + 2900
    assert len(teller.status_writes(said(at=NOW + 2900))) == 1


def test_a_pod_alone_says_why_itself():
    there = world()
    there.apply(Teller(there).status_writes(said(gang(owner="Pod/team/a", waiting=WAITING[:1]))))
    assert there.said() == [("a", "FailedScheduling")]


def test_a_job_without_a_pod_group_gets_one_event_for_one_reason():
    there = world(kinds.JOB)
    teller = Teller(there)
    there.apply(teller.status_writes(said(gang(owner="Job/team/train"))))
    there.apply(teller.status_writes(said(gang(owner="Job/team/train"), at=NOW + 60_000)))
    assert there.said() == [(name, "FailedScheduling") for name in ("train", "a", "b")]


def test_a_pod_group_of_kai_speaks_its_dialect():
    there = world(kinds.KAI_POD_GROUP)
    teller = Teller(there)
    there.apply(teller.status_writes(said(gang(reason=OVER))))
    (condition,) = there.status(kinds.KAI_POD_GROUP, "team/train")["schedulingConditions"]
    assert (condition["type"], condition["nodePool"], condition["status"]) == (
        "UnschedulableOnNodePool",
        "default",
        "True",
    )
    assert condition["reasons"] == [{"reason": "OverLimit", "message": condition["message"]}]
    assert condition["transitionID"] == "1"
    there.apply(teller.status_writes(said(bound(), at=NOW + 50)))
    assert there.status(kinds.KAI_POD_GROUP, "team/train")["schedulingConditions"] == []


@pytest.mark.parametrize(
    "status",
    [
        {"schedulingConditions": "yes"},
        {"schedulingConditions": ["yes", {"nodePool": "default", "transitionID": "x"}, {"nodePool": "other"}]},
        {"schedulingConditions": {"type": 3}, "conditions": [None]},
    ],
)
def test_a_status_written_by_others_may_hold_anything(status):
    there = world(kinds.KAI_POD_GROUP)
    there.documents[kinds.KAI_POD_GROUP, "team/train"]["status"] = status
    there.apply(Teller(there).status_writes(said(gang(reason=OVER))))
    first = there.status(kinds.KAI_POD_GROUP, "team/train")["schedulingConditions"][0]
    assert (first["reason"], first["transitionID"]) == ("OverLimit", "1")


def test_a_condition_whose_type_is_no_word_is_passed_over():
    there = world()
    odd = [{"type": ["Scheduled"], "status": "True"}, {"type": {"a": 1}}, {"type": None}]
    there.documents[kinds.POD_GROUP, "team/train"]["status"] = {"conditions": odd}
    there.apply(Teller(there).status_writes(said(gang())))
    assert [each["type"] for each in there.status(kinds.POD_GROUP, "team/train")["conditions"]] == ["Scheduled"]


def test_a_native_pod_group_once_scheduled_stays_so():
    there = world(kinds.NATIVE_POD_GROUP)
    teller = Teller(there)
    there.apply(teller.status_writes(said(gang())))
    (condition,) = there.status(kinds.NATIVE_POD_GROUP, "team/train")["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == (
        "PodGroupInitiallyScheduled",
        "False",
        "Unschedulable",
    )
    there.apply(teller.status_writes(said(bound(), at=NOW + 50)))
    there.apply(teller.status_writes(said(gang(), at=NOW + 60_000)))
    (condition,) = there.status(kinds.NATIVE_POD_GROUP, "team/train")["conditions"]
    assert condition["status"] == "True"


def queue(problem: Any = None, **allocated: int) -> QueueReport:
    amounts = Resources(allocated)
    return QueueReport(
        name="q",
        parent=None,
        quota=Resources(),
        limit={},
        fair_share=Resources({"gpu": 16_000, "memory": 2**36}),
        allocated=amounts,
        requested=amounts,
        running=1,
        problem=problem,
    )


def test_a_queue_shows_its_amounts_as_people_write_them():
    there = World()
    there.add(kinds.QUEUE, "q", "q")
    there.apply(Teller(there).status_writes(said(queues=(queue(gpu=8000, cpu=1500),))))
    status = there.status(kinds.QUEUE, "q")
    assert status["allocated"] == {"gpu": "8", "cpu": "1500m"}
    assert status["fairShare"] == {"gpu": "16", "memory": "64Gi"}
    assert (status["conditions"][0]["type"], status["conditions"][0]["status"]) == ("Ready", "True")
    assert there.events == []


def test_a_queue_that_may_use_less_than_it_is_promised_works_and_says_so():
    there = World()
    there.add(kinds.QUEUE, "q", "q")
    small = replace(queue(gpu=1000), quota=Resources({"gpu": 8000}), limit={"gpu": 4000})
    there.apply(Teller(there).status_writes(said(queues=(small,))))
    (condition,) = there.status(kinds.QUEUE, "q")["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("Ready", "True", "LimitBelowQuota")
    assert condition["message"] == (
        "Queue q: its limit of 4 GPUs is below its quota of 8 GPUs, which it can never use up. "
        "Raise spec.resources.gpu.limit, or lower spec.resources.gpu.quota."
    )


def test_all_there_is_as_quota_is_no_promise_beyond_the_limit():
    there = World()
    there.add(kinds.QUEUE, "q", "q")
    all_ = replace(queue(gpu=1000), quota=Resources({"gpu": WHOLE}), limit={"gpu": 4000})
    there.apply(Teller(there).status_writes(said(queues=(all_,))))
    assert there.status(kinds.QUEUE, "q")["conditions"][0]["reason"] == "Usable"


def test_an_amount_that_is_gone_is_gone_from_the_status_too():
    there = World()
    there.add(kinds.QUEUE, "q", "q")
    teller = Teller(there)
    there.apply(teller.status_writes(said(queues=(queue(gpu=8000, cpu=1500),))))
    there.apply(teller.status_writes(said(queues=(queue(cpu=500),), at=NOW + 5000)))
    assert there.status(kinds.QUEUE, "q")["allocated"] == {"cpu": "500m"}


def test_a_queue_shows_at_once_that_a_placement_failed_and_then_rests():
    there = world()
    there.add(kinds.QUEUE, "q", "uid-q")
    teller = Teller(there)

    def shown(gpu: int, at: int) -> str:
        there.apply(teller.status_writes(said(queues=(queue(gpu=gpu),), at=NOW + at)))
        return there.status(kinds.QUEUE, "q")["allocated"]["gpu"]

    assert shown(8000, at=0) == "8"
    assert shown(4000, at=50) == "4"
    assert shown(8000, at=60) == "4"
    assert teller.due_ms == NOW + 1050
    assert shown(8000, at=1050) == "8"
    assert shown(4000, at=1100) == "4"


def remembering(part: float, at: int, **more: Any) -> Reports:
    past = {"gpu": round(part * CLUSTER)}
    return said(queues=(replace(queue(gpu=8000), past=past, past_until_ms=NOW + at, **more),), at=NOW + at)


def test_past_use_is_told_with_its_time_and_taken_back_when_it_counts_no_more():
    there = World()
    there.add(kinds.QUEUE, "q", "q")
    teller = Teller(there)
    there.apply(teller.status_writes(remembering(0.25, at=0)))
    status = there.status(kinds.QUEUE, "q")
    assert (status["usage"], status["usageAt"]) == ({"gpu": "0.250000"}, "2023-11-14T22:13:20Z")
    there.apply(teller.status_writes(said(queues=(queue(gpu=8000),), at=NOW + 120_000)))
    assert not there.status(kinds.QUEUE, "q").keys() & {"usage", "usageAt"}


def test_past_use_alone_is_told_once_a_minute_at_most_and_only_if_it_moved():
    there = World()
    there.add(kinds.QUEUE, "q", "q")
    teller = Teller(there)
    assert teller.status_writes(remembering(0.25, at=0))
    assert teller.status_writes(remembering(0.5, at=59_000)) == ()
    assert teller.status_writes(remembering(0.2505, at=300_000)) == ()
    assert teller.status_writes(remembering(0.26, at=300_000))
    assert teller.due_ms is None, "nobody is woken for it"


def test_past_use_goes_with_whatever_else_is_told():
    there = World()
    there.add(kinds.QUEUE, "q", "q")
    teller = Teller(there)
    there.apply(teller.status_writes(remembering(0.25, at=0)))
    there.apply(teller.status_writes(remembering(0.2501, at=5_000, pending=3)))
    status = there.status(kinds.QUEUE, "q")
    assert (status["pending"], status["usage"], status["usageAt"]) == (3, {"gpu": "0.250100"}, "2023-11-14T22:13:25Z")


def test_a_new_leader_repeats_no_past_use():
    there = World()
    there.add(kinds.QUEUE, "q", "q")
    there.apply(Teller(there).status_writes(remembering(0.25, at=0)))
    second = Teller(there)
    assert second.status_writes(remembering(0.2505, at=5_000)) == ()
    assert second.status_writes(remembering(0.26, at=70_000))


def test_past_use_in_another_form_is_written_anew():
    there = World()
    there.add(kinds.QUEUE, "q", "q")
    there.apply(Teller(there).status_writes(remembering(0.25, at=0)))
    for usage in ({"gpu": "much"}, {"gpu": 7}, "all", {"gpu": "0.25", "cpu": "1"}):
        there.documents[kinds.QUEUE, "q"]["status"]["usage"] = usage
        there.apply(Teller(there).status_writes(remembering(0.25, at=70_000)))
        assert there.status(kinds.QUEUE, "q")["usage"] == {"gpu": "0.250000"}


def test_a_queue_that_cannot_be_used_says_so():
    there = World()
    there.add(kinds.QUEUE, "q", "q")
    problem = QueueUnusable(queue="q", why="its parent queue p does not exist", remedy="Create Queue p.")
    there.apply(Teller(there).status_writes(said(queues=(queue(problem),))))
    (condition,) = there.status(kinds.QUEUE, "q")["conditions"]
    assert (condition["status"], condition["reason"]) == ("False", "QueueUnusable")
    assert condition["message"] == "Queue q cannot be used: its parent queue p does not exist. Create Queue p."
    assert there.said() == [("q", "QueueUnusable")]


def test_a_queue_without_an_object_of_ours_is_not_written_to():
    assert Teller(World()).status_writes(said(queues=(queue(gpu=8000),))) == ()


def test_a_claim_that_is_refused_gets_an_event():
    there = World()
    teller = Teller(there)
    refused = ClaimRefused(claim="team/gpu", request="r", problem="no such class", remedy="Create it.")
    there.apply(teller.status_writes(said(claims=(ClaimReport(claim="team/gpu", uid="c", reason=refused),))))
    (event,) = there.events
    assert event["involvedObject"] == {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "name": "gpu",
        "namespace": "team",
        "uid": "c",
    }
    assert event["metadata"]["namespace"] == "team"
    assert event["message"].startswith("ClaimRefused: Request r of ResourceClaim team/gpu")


def aside(object_: str, uid: str) -> SetAside:
    problem = Unreadable(object=object_, field="spec", problem="'x' is no number", remedy="Write a number.")
    return SetAside(object=object_, uid=uid, reason=problem)


def test_objects_that_cannot_be_read_say_so_themselves():
    there = world()
    there.add(kinds.QUEUE, "q", "q")
    writes = Teller(there).status_writes(
        said(set_aside=(aside("Queue/q", "q"), aside("PodGroup/team/train", "g"), aside("ResourceClaim/team/c", "c")))
    )
    there.apply(writes)
    assert there.status(kinds.QUEUE, "q")["conditions"][0]["reason"] == "Unreadable"
    assert there.status(kinds.POD_GROUP, "team/train")["conditions"][0]["reason"] == "Unreadable"
    assert there.said() == [("q", "Unreadable"), ("train", "Unreadable"), ("c", "Unreadable")]


def test_pods_of_other_schedulers_are_never_written_to():
    there = world()
    there.documents[kinds.POD, "team/a"]["spec"]["schedulerName"] = "default-scheduler"
    writes = Teller(there).status_writes(said(set_aside=(aside("Pod/team/a", "uid-a"), aside("Pod/team/b", "uid-b"))))
    assert [(write.key, write.uid) for write in writes if write.kind is kinds.POD] == [("team/b", "uid-b")]


def test_a_long_reason_makes_an_event_the_server_takes():
    there = world()
    long = Unreadable(object="x", field="y", problem="z" * 5000, remedy="w")
    there.apply(Teller(there).status_writes(said(gang(reason=long))))
    assert all(len(event["message"]) <= 1024 for event in there.events)
    assert len({event["metadata"]["name"] for event in there.events}) == len(there.events)


def refusing(teller: Teller, there: World, *gangs: GangReport, at: int) -> list[str]:
    """A turn in which the server takes Events and refuses the status of the PodGroup: what it was asked to write."""
    writes = teller.status_writes(said(*gangs, at=at))
    there.apply(tuple(write for write in writes if write.how != "merge"))
    for write in writes:
        if write.how == "merge":
            teller.unsaid(write)
    return ["Event" if write.how == "create" else write.kind.kind for write in writes if write.how != "strategic"]


def test_a_status_that_is_refused_is_tried_again_after_pauses_that_grow_and_its_event_is_not_repeated():
    there = world()
    teller = Teller(there)
    assert refusing(teller, there, gang(), at=NOW) == ["PodGroup", "Event", "Event", "Event"]
    tries = [second for second in range(1, 301) if refusing(teller, there, gang(), at=NOW + second * 1000)]
    assert tries == [2, 6, 14, 30, 62, 122, 182, 242]
    assert teller.due_ms == NOW + 302_000
    assert len(there.events) == 3


def test_once_a_status_gets_through_it_is_not_written_again():
    there = world()
    teller = Teller(there)
    refusing(teller, there, gang(), at=NOW)
    there.apply(teller.status_writes(said(gang(), at=NOW + 2000)))
    assert there.status(kinds.POD_GROUP, "team/train")["reason"]["code"] == "GangDoesNotFit"
    assert teller.status_writes(said(gang(), at=NOW + 600_000)) == ()


def test_a_new_reason_has_its_event_though_the_status_is_refused():
    there = world()
    teller = Teller(there)
    refusing(teller, there, gang(waiting=()), at=NOW)
    assert refusing(teller, there, gang(reason=OVER, waiting=()), at=NOW + 1000) == ["Event"]
    assert refusing(teller, there, gang(reason=OVER, waiting=()), at=NOW + 2000) == ["PodGroup"]
    assert len(there.events) == 2


def test_an_event_that_is_refused_is_not_made_again():
    there = world()
    teller = Teller(there)
    for write in there.apply(teller.status_writes(said(gang()))):
        if write.how == "create":
            teller.unsaid(write)
    assert teller.status_writes(said(gang(), at=NOW + 60_000)) == ()


def test_the_deployment_may_write_every_status_that_is_said():
    (role,) = [each for each in yaml.safe_load_all(DEPLOYMENT.read_text()) if each["kind"] == "ClusterRole"]
    granted = {
        (group, resource)
        for rule in role["rules"]
        if "patch" in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    written = [kinds.POD, kinds.QUEUE, *(kind for kind, say in documents.POD_GROUPS if say is not None)]
    assert [kind for kind in written if (kind.group, f"{kind.plural}/status") not in granted] == []


def below(**more: Any) -> GangReport:
    """One of two pods runs."""
    lacks = WaitingForPods(gang="team/train", needed=2, present=1)
    given = {"reason": lacks, "waiting": (), "bound": 1, "total": 1, "nodes": ("n1",), "below_since_ms": NOW, **more}
    return gang(Verdict.PENDING, **given)


def conditions(there: World) -> dict[str, tuple[str, str, str]]:
    found = there.status(kinds.POD_GROUP, "team/train")["conditions"]
    return {each["type"]: (each["status"], each["lastTransitionTime"], each["message"]) for each in found}


def test_a_gang_below_its_minimum_says_so_since_when_and_when_it_ends():
    there = world()
    there.apply(Teller(there).status_writes(said(below(ends_at_ms=NOW + 60_000))))
    assert conditions(there)["BelowMinimum"] == (
        "True",
        "2023-11-14T22:13:20Z",
        "1 pod runs, and 2 must run together. At 2023-11-14T22:14:20Z it is stopped, to start whole again, unless the "
        "others find room.",
    )
    assert there.status(kinds.POD_GROUP, "team/train")["endsAt"] == "2023-11-14T22:14:20Z"


def test_a_gang_below_its_minimum_has_one_event_that_says_when_it_ends():
    there = world()
    teller = Teller(there)
    there.apply(teller.status_writes(said(below(ends_at_ms=NOW + 60_000))))
    there.apply(teller.status_writes(said(below(ends_at_ms=NOW + 60_000), at=NOW + 1_000)))
    there.apply(teller.status_writes(said(below(ends_at_ms=NOW + 60_000, running=1), at=NOW + 2_000)))
    there.apply(Teller(there).status_writes(said(below(ends_at_ms=NOW + 60_000), at=NOW + 3_000)))
    notes = [event["message"] for event in there.events if event["reason"] == "BelowMinimum"]
    assert notes == ["Fewer of its pods run than must run together; at 2023-11-14T22:14:20Z the others are stopped."]


def test_a_job_that_implies_a_gang_is_told_of_its_end_by_an_event_alone():
    there = World()
    there.add(kinds.JOB, "team/train", "j")
    there.apply(Teller(there).status_writes(said(below(ends_at_ms=NOW + 60_000, owner="Job/team/train"))))
    assert ("train", "BelowMinimum") in there.said()


def test_where_gangs_below_their_minimum_are_let_run_nobody_is_threatened():
    there = world()
    there.apply(Teller(there).status_writes(said(below())))
    assert conditions(there)["BelowMinimum"][2] == "1 pod runs, and 2 must run together. It is let run so."


@pytest.mark.parametrize("restarted", [False, True])
def test_a_gang_that_has_its_minimum_again_says_so_once_it_had_said_the_opposite(restarted: bool):
    there = world()
    teller = Teller(there)
    there.apply(teller.status_writes(said(below(ends_at_ms=NOW + 60_000))))
    teller = Teller(there) if restarted else teller
    there.apply(teller.status_writes(said(bound(), at=NOW + 5_000)))
    assert conditions(there)["BelowMinimum"][:2] == ("False", "2023-11-14T22:13:25Z")
    assert there.status(kinds.POD_GROUP, "team/train").get("endsAt") is None
    assert teller.status_writes(said(bound(running=2), at=NOW + 9_000)) != ()
    assert teller.status_writes(said(bound(running=2), at=NOW + 9_500)) == ()


def test_a_gang_that_never_was_below_its_minimum_says_nothing_of_it():
    there = world()
    there.apply(Teller(there).status_writes(said(bound())))
    assert list(conditions(there)) == ["Scheduled"]


def test_a_pod_group_whose_pods_were_all_stopped_is_no_longer_below_its_minimum():
    there = world()
    teller = Teller(there)
    there.apply(teller.status_writes(said(below())))
    there.apply(teller.status_writes(said(at=NOW + 9_000)))
    assert conditions(there)["BelowMinimum"][0] == "False"


def stopped(name: str, stage: str) -> StoppedPod:
    return StoppedPod(key=f"team/{name}", uid=f"uid-{name}", gang="team/train", stage=stage, why="Because.")


def test_pods_that_are_stopped_get_an_event_each():
    there = world()
    teller = Teller(there)
    teller.status_writes(said(bound()))
    there.apply(teller.stopped([stopped("a", "preempt"), stopped("b", "reclaim")], NOW))
    assert there.said() == [("a", "Preempted"), ("b", "Reclaimed")]
    assert [(event["type"], event["message"]) for event in there.events] == [("Normal", "Because.")] * 2


@pytest.mark.parametrize(("stage", "token"), [("stale", "GangBelowMinimum"), ("max-runtime", "MaxRuntimeReached")])
def test_a_gang_that_ends_for_its_own_sake_has_one_event_besides_for_its_pods_will_be_gone(stage: str, token: str):
    there = world()
    teller = Teller(there)
    teller.status_writes(said(bound()))
    there.apply(teller.stopped([stopped("a", stage), stopped("b", stage)], NOW))
    assert there.said() == [("a", token), ("b", token), ("train", token)]
    assert {event["type"] for event in there.events} == {"Warning"}
