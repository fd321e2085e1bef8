"""The last cycles and the last decisions, in memory, for the debug API. Values only: any thread may read them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

from scheduler.explain.why import GangReport, Reports
from scheduler.model.plan import Plan, SolverReport, Verdict

_DECISIONS_PER_CYCLE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleRecord:
    """One cycle in figures. `seconds` by step, `gangs` by verdict."""

    number: int
    at_ms: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    gangs: Mapping[str, int] = field(default_factory=dict)
    placements: int = 0
    evictions: int = 0
    solver: SolverReport = field(default_factory=SolverReport)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """A gang for which something else was decided than in the cycle before. `code` "" when nothing of it waits."""

    cycle: int
    at_ms: int
    gang: str
    queue: str
    verdict: Verdict
    code: str = ""
    message: str = ""
    cure: str = ""
    nodes: tuple[str, ...] = ()


class History:
    """Keeps `cycles` cycles, and fifty times as many decisions; newest first."""

    def __init__(self, cycles: int) -> None:
        self._most_cycles = cycles
        self.cycles: tuple[CycleRecord, ...] = ()
        self.decisions: tuple[DecisionRecord, ...] = ()
        self._last: dict[str, tuple[Verdict, str]] = {}

    def add(self, number: int, reports: Reports, plan: Plan, seconds: Mapping[str, float]) -> None:
        """A cycle has ended."""
        verdicts: dict[str, int] = {}
        for gang in reports.gangs:
            verdicts[gang.verdict.value] = verdicts.get(gang.verdict.value, 0) + 1
        record = CycleRecord(
            number=number,
            at_ms=plan.now_ms,
            seconds=dict(seconds),
            gangs=dict(sorted(verdicts.items())),
            placements=len(plan.placements),
            evictions=len(plan.evictions),
            solver=plan.solver,
        )
        self.cycles = (record, *islice(self.cycles, self._most_cycles - 1))
        new = tuple(_decision(number, plan.now_ms, gang) for gang in reports.gangs if self._differs(gang))
        if new:
            self.decisions = (*new, *self.decisions)[: self._most_cycles * _DECISIONS_PER_CYCLE]
        self._last = {gang.gang: (gang.verdict, _code(gang)) for gang in reports.gangs}

    def _differs(self, gang: GangReport) -> bool:
        return self._last.get(gang.gang) != (gang.verdict, _code(gang))


def _decision(cycle: int, at_ms: int, gang: GangReport) -> DecisionRecord:
    return DecisionRecord(
        cycle=cycle,
        at_ms=at_ms,
        gang=gang.gang,
        queue=gang.queue,
        verdict=gang.verdict,
        code=_code(gang),
        message=gang.reason.message if gang.reason is not None else "",
        cure=gang.reason.cure if gang.reason is not None else "",
        nodes=gang.nodes,
    )


def _code(gang: GangReport) -> str:
    return gang.reason.code if gang.reason is not None else ""
