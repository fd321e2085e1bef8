"""What the terminal shows: a plan as text, and the demo's live view."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from queues.resources import Resources
from queues.words import amount
from scheduler.model.plan import GangDecision, Plan, QueueReport, Verdict

_STYLES = {Verdict.PLACED: "green", Verdict.RUNNING: "green", Verdict.PENDING: "yellow", Verdict.REFUSED: "red"}


def plan_lines(plan: Plan) -> list[str]:
    """A plan in plain lines: gangs with their verdict, where pods go, or are to go when others have left; who leaves;
    queues, objects set aside."""
    lines = []
    for decision in plan.gangs:
        lines.append(_gang_line(decision))
        if decision.reason is not None:
            lines += [f"  {decision.reason.message}", f"  {decision.reason.cure}"]
        for placement in plan.placements:
            if placement.gang == decision.gang:
                lines.append(f"  {placement.pod} -> {placement.node}{_devices(placement.claims)}")
        for promise in plan.promises:
            if promise.gang == decision.gang:
                lines.append(f"  {promise.pod} is to go to {promise.node}")
    for eviction in plan.evictions:
        lines.append(f"{eviction.pod} leaves for {eviction.beneficiary} ({eviction.stage})")
    for report in plan.queues:
        lines.append(f"queue {report.name}: {_queue_line(report)}")
        if report.problem is not None:
            lines.append(f"  {report.problem.message} {report.problem.cure}")
    for aside in plan.set_aside:
        told = aside.reason.message.removeprefix(f"{aside.object}: ")
        lines.append(f"set aside {aside.object}: {told} {aside.reason.cure}")
    solver = plan.solver
    gap = f", at most {solver.gap:.1%} from the best" if solver.gap else ""
    lines.append(f"solver: {solver.status}{gap}")
    return lines


def live(
    plan: Plan | None, *, examples: Sequence[tuple[str, tuple[str, ...]]], pods: Mapping[str, int], footer: str
) -> RenderableType:
    """The demo's screen: examples with what is still missing, queues with their GPUs, what waits and why."""
    steps = Table("example", "as its header says", box=None, pad_edge=False, header_style="bold")
    for title, missing in examples:
        steps.add_row(title, Text("; ".join(missing), style="yellow") if missing else Text("yes", style="green"))
    parts: list[RenderableType] = [steps, Text()]
    counts = ", ".join(f"{count} {phase}" for phase, count in sorted(pods.items())) or "none yet"
    parts.append(Text(f"pods: {counts}"))
    if plan is not None:
        parts += [Text(), _queues(plan.queues), Text(), *_waiting(plan)]
    parts.append(Text(footer, style="dim"))
    return Group(*parts)


def settled_line(name: str, title: str, *, settled: bool) -> str:
    """A line for terminals that cannot redraw."""
    return f"{'settled' if settled else 'waiting'}: {name}: {title}"


def _queues(reports: Sequence[QueueReport]) -> Table:
    table = Table("queue", "GPUs in use", "quota", "limit", "fair share", "asked for", box=None, pad_edge=False)
    for report in reports:
        limit = report.limit.get("gpu")
        table.add_row(
            report.name,
            _gpus(report.allocated),
            _gpus(report.quota),
            "-" if limit is None else _gpus(Resources({"gpu": limit})),
            _gpus(report.fair_share),
            _gpus(report.requested),
        )
    return table


def _waiting(plan: Plan) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for decision in plan.gangs:
        if decision.reason is not None:
            lines.append(Text(_gang_line(decision), style=_STYLES[decision.verdict]))
            lines.append(Text(f"  {decision.reason.message} {decision.reason.cure}"))
    return [*lines, Text()] if lines else []


def _gang_line(decision: GangDecision) -> str:
    code = f" ({decision.reason.code})" if decision.reason is not None else ""
    queue = f" in queue {decision.queue}" if decision.queue else ""
    return (
        f"{decision.gang}{queue}: {decision.verdict}{code}, {decision.bound + decision.placed} of {decision.total} pods"
    )


def _devices(claims: Sequence[Any]) -> str:
    names = [
        f"{result.pool}/{result.device}"
        for claim in claims
        if claim.allocation is not None
        for result in claim.allocation.devices.results or ()
    ]
    return f" with {', '.join(names)}" if names else ""


def _queue_line(report: QueueReport) -> str:
    used = ", ".join(amount(name, report.allocated[name]) for name in report.allocated) or "nothing"
    limits = ", ".join(amount(name, limit) for name, limit in sorted(report.limit.items()))
    return f"{used} in use" + (f", limit {limits}" if limits else "")


def _gpus(amounts: Resources) -> str:
    thousandths = amounts["gpu"]
    return f"{thousandths / 1000:g}"
