"""A plan that cannot be made is told of in a few lines, whoever prints them."""

from collections.abc import Iterator

import pytest
import structlog

from scheduler import decision
from scheduler.decision import decide
from scheduler.model.errors import InvariantError
from scheduler.model.snapshot import Snapshot
from scheduler.plan import planner
from tests.builders import cluster, gang


def failing(_: Snapshot) -> None:
    raise ZeroDivisionError("by the test")


@pytest.fixture
def logs_by_default(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody has set up logging, whatever other tests did."""
    before = structlog.get_config()
    structlog.reset_defaults()
    monkeypatch.setattr(decision, "log", structlog.get_logger())
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("logs_by_default")
def test_where_it_failed_is_logged_and_not_the_whole_cluster(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By default structlog prints exceptions with all locals: three thousand lines for one node."""
    monkeypatch.setattr(planner, "plan", failing)
    with pytest.raises(InvariantError):
        decide(cluster(nodes=1, gpus=1) + gang("secretive", gpus=1))
    told = capsys.readouterr().out
    assert "a plan could not be made" in told
    assert 'raise ZeroDivisionError("by the test")' in told
    assert "secretive" not in told
