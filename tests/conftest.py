"""Puts the repository's root on the path, so that tests import their builders as `tests.builders`.

In CI a skipped test is a failure: CI's machine can have all that the tests need.
"""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))


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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.stats.get("skipped", []):
        terminalreporter.write_line(f"skipped: {report.nodeid}: {report.longrepr[2]}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped") and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
