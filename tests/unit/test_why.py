from queues.reasons import OverLimit, OverQuota
from queues.resources import NOTHING, Resources
from scheduler.api.dra import ResourceClaimSpec
from scheduler.explain.why import ClaimReport, PlacedPod, missing, reports, sentence
from scheduler.model.plan import GangDecision, Placement, Plan, SolverReport, Verdict
from scheduler.model.reasons import ClaimRefused, GangDoesNotFit, NodeCount, WaitingForClaims, WaitingForPods
from scheduler.model.snapshot import SetAside, Snapshot
from scheduler.model.workloads import Claim, Gang, Pod, PodClaim

NOW = 1_700_000_000_000


def pod(name: str, **more: object) -> Pod:
    return Pod(key=f"team/{name}", uid=f"uid-{name}", **{"created_ms": NOW - 60_000, **more})  # type: ignore[arg-type]


def gang(*pods: Pod, **more: object) -> Gang:
    return Gang(key="team/train", uid="g", owner="PodGroup/team/train", queue="q", pods=pods, **more)  # type: ignore[arg-type]


def decision(verdict: Verdict, **more: object) -> GangDecision:
    return GangDecision(
        gang="team/train",
        uid="g",
        owner="PodGroup/team/train",
        queue="q",
        verdict=verdict,
        **more,  # type: ignore[arg-type]
    )


def test_a_report_counts_what_runs_what_has_a_node_and_what_waits():
    members = (
        pod("a", node="n1", phase="Running"),
        pod("b", node="n2"),
        pod("c"),
        pod("d", gated=True),
    )
    plan = Plan(now_ms=NOW, gangs=(decision(Verdict.PENDING, bound=2, needed=2, total=4),))
    report = reports(Snapshot(now_ms=NOW, gangs=(gang(*members),)), plan).gangs[0]
    assert (report.running, report.bound, report.pending, report.total) == (1, 2, 2, 4)
    assert report.scheduled
    assert [waiting.key for waiting in report.waiting] == ["team/c"]
    assert report.nodes == ("n1", "n2")


def test_a_placement_names_its_nodes_and_carries_what_is_known_about_its_quality():
    solved = decision(Verdict.PLACED, placed=2, needed=2, total=2, solver=SolverReport(status="feasible", gap=0.12))
    placements = tuple(
        Placement(pod=f"team/{name}", pod_uid=f"uid-{name}", gang="team/train", node=node)
        for name, node in (("a", "n2"), ("b", "n1"))
    )
    plan = Plan(now_ms=NOW, gangs=(solved,), placements=placements)
    report = reports(Snapshot(now_ms=NOW, gangs=(gang(pod("a"), pod("b")),)), plan).gangs[0]
    assert report.nodes == ("n1", "n2")
    assert report.score == 88
    assert report.placements[0] == PlacedPod(key="team/a", uid="uid-a", node="n2")


def test_what_is_missing_is_said_in_amounts():
    over = {"queue": "q", "resource": "gpu", "asked": 4000, "allocated": 30_000}
    assert missing(OverLimit(**over, limit=32_000)) == Resources({"gpu": 2000})
    assert missing(OverQuota(**over, quota=16_000)) == Resources({"gpu": 18_000})
    assert missing(GangDoesNotFit(gang="team/train", needed=64, placeable=63)) == Resources({"pods": 1})
    assert missing(WaitingForPods(gang="team/train", needed=8, present=6, gated=1)) == Resources({"pods": 3})
    assert missing(None) == NOTHING


def test_a_sentence_has_code_cause_and_cure():
    reason = GangDoesNotFit(
        gang="team/train", needed=3, placeable=2, causes=(NodeCount(nodes=1, cause="has too little free memory"),)
    )
    assert sentence(reason) == (
        "GangDoesNotFit: team/train needs room for 3 pods at once and there is room for 2: "
        "for one more, 1 node has too little free memory. Free room for 1 more pod, or add nodes."
    )


def test_a_claim_that_cannot_be_decided_is_reported_once_however_many_gangs_it_keeps_waiting():
    refused = ClaimRefused(claim="team/gpu", request="r", problem="asks for class x", remedy="Create it.")
    plan = Plan(
        now_ms=NOW, gangs=(decision(Verdict.REFUSED, reason=refused), decision(Verdict.REFUSED, reason=refused))
    )
    claims = {"team/gpu": Claim(key="team/gpu", uid="c", spec=ResourceClaimSpec())}
    said = reports(Snapshot(now_ms=NOW, claims=claims), plan)
    assert said.claims == (ClaimReport(claim="team/gpu", uid="c", reason=refused),)


def settling(reason: object, member: Pod) -> bool:
    plan = Plan(now_ms=NOW, gangs=(decision(Verdict.PENDING, reason=reason),))
    return reports(Snapshot(now_ms=NOW, gangs=(gang(member),)), plan).gangs[0].settling


def test_a_young_gang_without_all_its_pods_may_still_be_in_the_making():
    reason = WaitingForPods(gang="team/train", needed=8, present=1)
    assert settling(reason, pod("a", created_ms=NOW - 500))
    assert not settling(reason, pod("a", created_ms=NOW - 5000))


def test_a_young_pod_without_the_claim_of_its_template_may_still_get_it_but_a_named_claim_is_missed_at_once():
    reason = WaitingForClaims(pod="team/a", claim="gpu", problem="does not exist yet", remedy="Wait.")
    template, named = PodClaim(name="gpu", claim=None, from_template=True), PodClaim(name="gpu", claim="team/gone")
    assert settling(reason, pod("a", created_ms=NOW, claims=(template,)))
    assert not settling(reason, pod("a", created_ms=NOW - 5000, claims=(template,)))
    assert not settling(reason, pod("a", created_ms=NOW, claims=(named,)))


def test_objects_that_cannot_be_read_are_passed_on():
    aside = SetAside(object="Queue/a", uid="u", reason=GangDoesNotFit(gang="x", needed=1, placeable=0))
    assert reports(Snapshot(now_ms=NOW, set_aside=(aside,)), Plan(now_ms=NOW)).set_aside == (aside,)
