"""The time is the API server's: what it says to the second, narrowed answer by answer, and counted on in between."""

from email.utils import formatdate

import pytest

from scheduler.kube.clock import ServerClock


class Bench:
    """A server whose clock is so many seconds ahead of our monotonic one, and answers that take their time."""

    def __init__(self, ahead: float) -> None:
        self.seconds = 100.0
        self.ahead = ahead
        self.clock = ServerClock(monotonic=lambda: self.seconds)

    def ask(self, there: float = 0.01, back: float = 0.01) -> None:
        sent = self.clock.start()
        self.seconds += there
        date = formatdate(int(self.seconds + self.ahead), usegmt=True)
        self.seconds += back
        self.clock.heard(date, sent)

    @property
    def wrong(self) -> float:
        """By how many seconds the clock is off."""
        return self.clock.now_ms() / 1000 - (self.seconds + self.ahead)


@pytest.mark.parametrize("ahead", [0.0, 1_800_000_000.25, 1_800_003_600.75])
def test_one_answer_tells_the_second_and_many_the_moment(ahead: float):
    bench = Bench(ahead)
    bench.ask()
    assert abs(bench.wrong) < 0.52
    for _ in range(200):
        bench.seconds += 0.037
        bench.ask()
    assert abs(bench.wrong) < 0.05


def test_between_answers_our_own_clock_counts_on():
    bench = Bench(1_800_000_000.0)
    bench.ask()
    before = bench.wrong
    bench.seconds += 3600
    assert bench.wrong == pytest.approx(before, abs=0.002)


@pytest.mark.parametrize("step", [-3600.0, 3600.0])
def test_a_server_whose_clock_is_set_is_believed_at_its_next_answer(step: float):
    bench = Bench(1_800_000_000.0)
    for _ in range(50):
        bench.ask()
    bench.ahead += step
    bench.ask()
    assert abs(bench.wrong) < 0.52


def test_an_answer_that_was_long_under_way_does_not_make_it_worse():
    bench = Bench(1_800_000_000.0)
    for _ in range(200):
        bench.seconds += 0.037
        bench.ask()
    bench.ask(there=20, back=20)
    assert abs(bench.wrong) < 0.05


@pytest.mark.parametrize("date", [None, "", "yesterday", "Wed, 99 Nov 2026 99:99:99 GMT"])
def test_an_answer_without_a_time_tells_nothing(date: str | None, monkeypatch: pytest.MonkeyPatch):
    clock = ServerClock(monotonic=lambda: 5.0)
    monkeypatch.setattr("scheduler.kube.clock.time.time_ns", lambda: 1_700_000_000_123_456_789)
    clock.heard(date, clock.start())
    assert clock.now_ms() == 1_700_000_000_123
    assert clock.now().isoformat() == "2023-11-14T22:13:20.123000+00:00"
