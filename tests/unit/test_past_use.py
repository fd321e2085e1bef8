"""Past use in the statuses of queues: a new leader goes on from it, whatever the clock does and whoever wrote it."""

from typing import Any

import pytest

from queues.resources import NOTHING
from queues.usage import CLUSTER, later
from scheduler.explain.events import rfc3339
from scheduler.model.plan import QueueReport
from scheduler.model.snapshot import Policy
from scheduler.state import recording
from scheduler.state.cluster import ClusterState
from scheduler.state.past_use import PastUse, parts_told
from scheduler.state.translate import snapshot
from tests.manifests import change, kai_queue, merged, queue, state

HOUR = 3_600_000
WEEK = 168 * HOUR
NOW = 1_700_000_000_000
HALF = {"gpu": CLUSTER // 2}
QUARTER = {"gpu": CLUSTER // 4}


def used(name: str, gpu: Any, until_ms: int = NOW, uid: str | None = None) -> dict[str, Any]:
    document = merged(queue(name), status={"usage": {"gpu": gpu}, "usageAt": rfc3339(until_ms)})
    return merged(document, metadata={"uid": uid}) if uid else document


def stands(name: str, **gpu: int) -> QueueReport:
    return QueueReport(
        name=name,
        parent=None,
        quota=NOTHING,
        limit={},
        fair_share=NOTHING,
        allocated=NOTHING,
        requested=NOTHING,
        standing=gpu,
    )


def test_a_new_leader_goes_on_from_what_the_status_tells() -> None:
    found = state(used("red", "0.500000"), queue("blue"))
    books = PastUse(WEEK)
    assert books.until(NOW + HOUR, found) == {"red": HALF}
    books.note([stands("red", gpu=CLUSTER), stands("blue")])
    expected = later(HALF, {"gpu": CLUSTER}, HOUR // 2, WEEK)
    assert books.until(NOW + HOUR // 2, found) == {"red": expected}


def test_what_a_leader_has_counted_is_not_read_back_from_a_status_that_lags_behind() -> None:
    found = state(used("red", "0.500000"))
    books = PastUse(WEEK)
    books.note([stands("red", gpu=CLUSTER)])
    first = books.until(NOW + HOUR, found)
    found.apply(change(used("red", "0.100000", NOW + HOUR), "MODIFIED"))
    assert books.until(NOW + HOUR, found) == first


def test_two_steps_come_to_what_one_does() -> None:
    found = state(used("red", "0.25"))
    once, twice = PastUse(WEEK), PastUse(WEEK)
    for books in (once, twice):
        books.note([stands("red", gpu=CLUSTER)])
    twice.until(NOW + HOUR // 3, found)
    assert twice.until(NOW + HOUR, found)["red"]["gpu"] == pytest.approx(once.until(NOW + HOUR, found)["red"]["gpu"])


def test_a_clock_that_goes_back_neither_creates_use_nor_loses_any() -> None:
    found = state(used("red", "0.25"))
    books = PastUse(WEEK)
    books.note([stands("red", gpu=CLUSTER)])
    before = books.until(NOW + HOUR, found)
    assert books.until(NOW - 100 * WEEK, found) == before
    assert books.until(NOW - 100 * WEEK + HOUR, found) == {"red": later(before["red"], {"gpu": CLUSTER}, HOUR, WEEK)}


def test_a_status_from_the_future_is_taken_as_it_is() -> None:
    books = PastUse(WEEK)
    books.note([stands("red", gpu=CLUSTER)])
    assert books.until(NOW, state(used("red", "0.5", NOW + WEEK))) == {"red": HALF}


def test_a_queue_made_anew_under_an_old_name_starts_anew() -> None:
    found: ClusterState = state(used("red", "0.5"))
    books = PastUse(WEEK)
    books.note([stands("red", gpu=CLUSTER)])
    assert books.until(NOW, found)
    found.apply(change(used("red", "0.5"), "DELETED"))
    assert books.until(NOW, found) == {}
    found.apply(change(merged(queue("red"), metadata={"uid": "another"})))
    assert books.until(NOW + 1, found) == {}


@pytest.mark.parametrize(
    ("text", "counted"),
    [("7", {"red": {"gpu": CLUSTER}}), ("-3", {}), ("much", {}), (True, {}), (None, {}), ({"a": 1}, {}), ([], {})],
)
def test_what_others_write_into_a_status_is_brought_within_nothing_and_all_there_is(text: Any, counted: Any) -> None:
    assert parts_told(state(used("red", text))) == counted


@pytest.mark.parametrize("status", [{}, {"usage": 3, "usageAt": "yesterday"}, {"usage": {"gpu": "1"}}, {"usageAt": 7}])
def test_a_status_that_does_not_tell_is_no_use(status: Any) -> None:
    assert parts_told(state(merged(queue("red"), status=status))) == {}


def test_a_queue_of_another_dialect_is_remembered_as_long_as_the_process_runs() -> None:
    found = state(merged(kai_queue("kai"), status={"usage": {"gpu": "1"}, "usageAt": rfc3339(NOW)}))
    books = PastUse(WEEK)
    assert books.until(NOW, found) == {}
    books.note([stands("kai", gpu=CLUSTER)])
    books.until(NOW, found)
    assert books.until(NOW + HOUR, found) == {"kai": later({}, {"gpu": CLUSTER}, HOUR, WEEK)}


def test_who_decides_once_takes_what_the_statuses_tell_if_the_past_counts() -> None:
    found = state(used("red", "0.25"))
    assert snapshot(found, now_ms=NOW, policy=Policy()).usage == {}
    policy = Policy(usage_weight=1.0)
    assert snapshot(found, now_ms=NOW, policy=policy).usage == {"red": QUARTER}
    assert recording.load(recording.dump(found, now_ms=NOW, policy=policy)).snapshot().usage == {"red": QUARTER}
