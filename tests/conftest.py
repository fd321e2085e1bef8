"""Puts the repository's root on the path, so that tests import their builders as `tests.builders`.

In CI a skipped test is a failure: CI's machine can have all that the tests need, but for a GPU.
"""

import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

TIMED = pytest.StashKey[bool]()
"""Of a test that this file's timer runs for."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cluster",
        choices=("embedded", "real"),
        default="embedded",
        help="where tests of the whole service run; on real: those that use a cluster, and no others",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that are not about the cluster at hand."""
    chosen = config.getoption("--cluster")
    kept, dropped = [], []
    for item in items:
        real, embedded = (item.get_closest_marker(name) is not None for name in ("real", "embedded"))
        uses_one = "cluster" in getattr(item, "fixturenames", ())
        wanted = uses_one and not embedded if chosen == "real" else not real
        (kept if wanted else dropped).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


class OutOfTime(KeyboardInterrupt):
    """A property took longer than its timeout. An interruption, not a failure of an example: hypothesis would take
    pytest's for one, look for a smaller example that nobody stops, and report strategies that draw differently."""


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    """Properties end when their time is over; other tests have pytest-timeout's own timer."""
    test = getattr(item, "obj", None)
    if settings.method != "signal" or not getattr(test, "is_hypothesis_test", False):
        return None

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise OutOfTime(f"more than {settings.timeout:g} s; give it smaller or fewer examples, or more time.")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout)
    item.stash[TIMED] = True
    return True


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """What was interrupted for its time has failed; the other tests go on."""
    try:
        return (yield)
    except OutOfTime as over:
        pytest.fail(f"{pyfuncitem.name}: {over}")


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> bool | None:
    if not item.stash.get(TIMED, False):
        return None
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    del item.stash[TIMED]
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.stats.get("skipped", []):
        terminalreporter.write_line(f"skipped: {report.nodeid}: {report.longrepr[2]}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter is not None else []
    lacking = [report for report in skipped if "no GPU" not in report.longrepr[2]]
    if os.environ.get("CI") and lacking and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
