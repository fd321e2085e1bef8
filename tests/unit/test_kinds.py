"""The kinds that are watched, and the rights that our manifests give for them."""

from pathlib import Path

import pytest
import yaml

from scheduler.api import kinds
from scheduler.api.kinds import Kind

_MANIFEST = Path(__file__).parents[2] / "deploy" / "scheduler.yaml"


def rights() -> dict[tuple[str, str], set[str]]:
    """Verbs of the scheduler's ClusterRole by group and resource."""
    role = next(each for each in yaml.safe_load_all(_MANIFEST.read_text()) if each["kind"] == "ClusterRole")
    found: dict[tuple[str, str], set[str]] = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


@pytest.mark.parametrize("kind", kinds.WATCHED, ids=str)
def test_the_scheduler_may_read_what_it_watches(kind: Kind) -> None:
    assert {"get", "list", "watch"} <= rights().get((kind.group, kind.plural), set())


def test_no_kind_is_watched_twice() -> None:
    assert len({(kind.api_version, kind.plural) for kind in kinds.WATCHED}) == len(kinds.WATCHED)


@pytest.mark.parametrize("kind", kinds.OWNERS, ids=str)
def test_an_owner_that_is_not_served_keeps_nobody_from_starting(kind: Kind) -> None:
    assert kind.optional or kind == kinds.JOB  # every cluster serves Jobs
