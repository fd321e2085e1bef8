from scheduler.explain.history import History
from scheduler.explain.why import GangReport, Reports
from scheduler.model.plan import Plan, Verdict
from scheduler.model.reasons import GangDoesNotFit


def said(verdict: Verdict, placeable: int | None = None, gang: str = "team/a") -> Reports:
    reason = None if placeable is None else GangDoesNotFit(gang=gang, needed=9, placeable=placeable)
    return Reports(gangs=(GangReport(gang=gang, uid="", owner="", queue="q", verdict=verdict, reason=reason),))


def test_the_last_cycles_are_kept_newest_first():
    history = History(cycles=3)
    for number in range(5):
        history.add(number, said(Verdict.RUNNING), Plan(now_ms=number), {"plan": 0.5})
    assert [record.number for record in history.cycles] == [4, 3, 2]
    assert history.cycles[0].gangs == {"Running": 1}
    assert history.cycles[0].seconds == {"plan": 0.5}


def test_a_decision_is_kept_when_it_differs_from_the_one_before():
    history = History(cycles=10)
    for number, reports in enumerate(
        (said(Verdict.PENDING, 3), said(Verdict.PENDING, 4), said(Verdict.PLACED), said(Verdict.RUNNING))
    ):
        history.add(number, reports, Plan(now_ms=number), {})
    assert [(record.cycle, record.verdict.value, record.code) for record in history.decisions] == [
        (3, "Running", ""),
        (2, "Placed", ""),
        (0, "Pending", "GangDoesNotFit"),
    ]


def test_a_gang_that_comes_back_under_its_name_is_decided_anew():
    history = History(cycles=10)
    history.add(1, said(Verdict.RUNNING), Plan(now_ms=1), {})
    history.add(2, Reports(), Plan(now_ms=2), {})
    history.add(3, said(Verdict.RUNNING), Plan(now_ms=3), {})
    assert [record.cycle for record in history.decisions] == [3, 1]


def test_decisions_are_bounded():
    history = History(cycles=2)
    for number in range(120):
        history.add(number, said(Verdict.RUNNING, gang=f"team/{number}"), Plan(now_ms=number), {})
    assert len(history.decisions) == 100
    assert history.decisions[0].cycle == 119
