"""Gangs whose commit failed wait before they are committed again, longer each time, and nobody waits for them."""

from scheduler.commit.held_back import HeldBack
from scheduler.commit.outcome import CommitFailed, GangOutcome, Withdrawn
from scheduler.model.reasons import Reason
from scheduler.model.snapshot import Snapshot
from scheduler.model.workloads import Gang

GANG = "a/train"
FAILED = CommitFailed(gang=GANG, object="ResourceClaim a/c", problem="was refused")


def wanted(*gangs: str) -> Snapshot:
    return Snapshot(now_ms=0, gangs=tuple(Gang(key=gang, uid="u", owner="", queue="q") for gang in gangs))


def waiting(snapshot: Snapshot) -> dict[str, Reason]:
    return {gang.key: gang.problems[0] for gang in snapshot.gangs if gang.problems}


def test_a_failed_commit_holds_its_gang_back_twice_as_long_each_time():
    held = HeldBack(first_seconds=1)
    held.note(GangOutcome(gang=GANG, reason=FAILED), now=10)
    assert waiting(held.without_them(wanted(GANG, "a/other"), now=10.5)) == {GANG: FAILED}
    assert held.seconds_left(10.5) == 0.5
    assert waiting(held.without_them(wanted(GANG, "a/other"), now=11)) == {}

    held.note(GangOutcome(gang=GANG, reason=FAILED), now=11)
    assert held.seconds_left(11) == 2
    held.without_them(wanted(GANG), now=13)
    held.note(GangOutcome(gang=GANG), now=13)
    held.note(GangOutcome(gang=GANG, reason=FAILED), now=14)
    assert held.seconds_left(14) == 1, "a success in between starts over"


def test_a_gang_overtaken_by_a_change_is_decided_anew_at_once_the_first_time():
    held = HeldBack(first_seconds=1)
    withdrawn = GangOutcome(gang=GANG, reason=Withdrawn(gang=GANG, problem="Node n went away"))
    held.note(withdrawn, now=0)
    assert waiting(held.without_them(wanted(GANG), now=0)) == {}
    held.note(withdrawn, now=0)
    assert GANG in waiting(held.without_them(wanted(GANG), now=0))


def test_where_the_next_try_is_another_one_the_wait_grows_slowly():
    """Of many devices that do not become ready one after the other is tried; but not for ever as fast."""
    held = HeldBack(first_seconds=1)
    waits = []
    for _ in range(30):
        held.note(GangOutcome(gang=GANG, reason=FAILED, elsewhere=True), now=0)
        waits.append(held.seconds_left(0))
    assert waits[:15] == [1] * 15
    assert waits[15:] == [2] * 8 + [4] * 7


def test_a_gang_that_went_away_is_not_waited_for():
    held = HeldBack(first_seconds=1)
    held.note(GangOutcome(gang=GANG, reason=FAILED), now=0)
    held.without_them(wanted("a/other"), now=0)
    assert held.gangs == frozenset()


def test_the_wait_of_a_gang_that_never_succeeds_has_a_bound():
    held = HeldBack(first_seconds=1)
    for _ in range(40):
        held.note(GangOutcome(gang=GANG, reason=FAILED), now=0)
    assert held.seconds_left(0) == 60
