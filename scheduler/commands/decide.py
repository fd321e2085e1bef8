"""`tutti plan` and `tutti replay`: the decision the service would make, and the one it made."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from scheduler.commands.inputs import (
    Context,
    Files,
    Kubeconfig,
    Now,
    Output,
    Settings,
    checked_output,
    decided,
    live,
    machines,
    manifests_of,
    milliseconds,
    policy_of,
    read,
    refused,
)
from scheduler.model.plan import Plan

_MOST_LINES = 50


def plan(
    filename: Files = None,
    machine: Annotated[
        list[str] | None,
        typer.Option(help="Add simulated machines, as NAME=COUNT: h100x8, gb200-nvl72, cpu, ... May be repeated."),
    ] = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    now: Now = None,
    set_: Settings = None,
    output: Output = "text",
) -> None:
    """Decide and print the plan; write nothing.

    Manifests given beside --context are added to the live cluster."""
    from scheduler.state import manifests

    checked_output(output)
    from_cluster = context is not None or kubeconfig is not None
    now_ms, policy = milliseconds(now), policy_of(set_)
    try:
        simulated, given = machines(machine or []), manifests_of(filename or [])
        if not given and not from_cluster:
            raise refused("nothing to plan: give manifests with -f, or a live cluster with --context")
        base = live(kubeconfig, context) if from_cluster else None
        if base is not None and now_ms is None:
            now_ms = int(datetime.now(UTC).timestamp() * 1000)
        snapshot = manifests.snapshot([*simulated, *given], now_ms=now_ms, base=base, policy=policy)
    except manifests.InputError as problem:
        raise refused(str(problem)) from None
    _print(decided(snapshot), output)


def replay(
    file: Annotated[Path, typer.Argument(help="A recording (`tutti record`); - for standard input.")],
    output: Output = "text",
) -> None:
    """Decide again from a recording and print the plan.

    Ends with 1 if the recording holds the plan that was decided and this one differs; stderr says in what."""
    from scheduler.model.plan_difference import differences
    from scheduler.model.plan_document import to_json
    from scheduler.state import recording

    checked_output(output)
    try:
        recorded = recording.load(read(file))
    except recording.RecordingError as problem:
        raise refused(f"{file}: {problem}") from None
    again = decided(recorded.snapshot())
    _print(again, output)
    if recorded.decided is None:
        return
    lines = differences(recorded.decided, msgspec.to_builtins(to_json(again)), recorded.held_back)
    if not lines:
        sys.stderr.write("the plan is the one that was decided\n")
        return
    more = [f"and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
    told = "\n".join(f"  {line}" for line in [*lines[:_MOST_LINES], *more])
    sys.stderr.write(f"the plan differs from the one that was decided:\n{told}\n")
    raise typer.Exit(1)


def _print(plan: Plan, output: str) -> None:
    from scheduler.model.plan_document import to_json
    from scheduler.screen import plan_lines

    if output == "json":
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(to_json(plan)), indent=2).decode() + "\n")
    else:
        sys.stdout.write("\n".join(plan_lines(plan)) + "\n")
