"""A plan that cannot be made is told of in a few lines, whoever prints them."""

import pytest

from scheduler.decision import decide
from scheduler.model.errors import InvariantError
from scheduler.model.snapshot import Snapshot
from scheduler.plan import planner
from tests.builders import cluster, gang


def failing(_: Snapshot) -> None:
    raise ZeroDivisionError("by the test")


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
