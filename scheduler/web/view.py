"""What the web room is given: the newest cycle as values, and a few questions it may ask."""

from dataclasses import dataclass
from typing import Protocol

from scheduler.explain.history import CycleRecord, DecisionRecord
from scheduler.explain.metrics import Exposition
from scheduler.explain.why import Reports
from scheduler.model.plan import Plan
from scheduler.model.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One cycle: what was seen, decided and said. `cycles` and `decisions` newest first."""

    cycle: int
    snapshot: Snapshot
    plan: Plan
    reports: Reports
    cycles: tuple[CycleRecord, ...] = ()
    decisions: tuple[DecisionRecord, ...] = ()


class WhatIfRefused(Exception):
    """The manifest of a what-if question cannot be used. The text names object, field, cause and cure."""


class Source(Protocol):
    """The service, seen from the web. Called from any thread; what it returns is never changed afterwards."""

    def view(self) -> View | None:
        """The newest cycle; None before the first."""
        ...

    def unhealthy(self) -> str:
        """What has stopped working and will not come back by itself; "" if nothing."""
        ...

    def not_ready(self) -> str:
        """What is still missing before decisions are made, for instance a watch; "" if nothing."""
        ...

    def metrics(self) -> Exposition: ...

    def recording(self) -> bytes:
        """Everything the last decision depended on, and that decision, as a file that `tutti replay` reads; before the
        first one, what it would depend on."""
        ...

    def what_if(self, manifests: str) -> Plan:
        """The plan if these manifests (YAML or JSON, several documents) were applied now. Writes nothing; may take
        seconds. Raises WhatIfRefused."""
        ...
