"""What commands are given: options, files, simulated machines, a live cluster. And how they refuse it."""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from scheduler.model.plan import Plan
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.state.cluster import ClusterState

Document = dict[str, Any]

Files = Annotated[
    list[Path] | None,
    typer.Option("-f", "--filename", help="Manifests: a file, a folder, or - for standard input. May be repeated."),
]
Output = Annotated[str, typer.Option("-o", "--output", help="json or text.")]
Context = Annotated[str | None, typer.Option(help="Read a live cluster by its kubeconfig context.")]
Kubeconfig = Annotated[Path | None, typer.Option(help="Read a live cluster; the kubeconfig to use.")]
Now = Annotated[
    str | None,
    typer.Option(help="The time to decide at (RFC 3339). Default: now for a live cluster, else the newest object's."),
]

Settings = Annotated[
    list[str] | None, typer.Option("--set", help="One setting of the service as name=value. May be repeated.")
]

USUAL_SERVICE = "http://127.0.0.1:8080"
Address = Annotated[
    str | None,
    typer.Option(
        "--service",
        help=f"The address of the running service's debug API; {USUAL_SERVICE} if nothing else is named, "
        "where `kubectl -n tutti-system port-forward deploy/tutti-scheduler 8080` puts it.",
    ),
]


def refused(message: str) -> typer.Exit:
    """Say on stderr what is wrong, and end with 2."""
    sys.stderr.write(message + "\n")
    return typer.Exit(2)


def settings_of(given: list[str] | None) -> dict[str, str]:
    """By name, as given with --set."""
    found = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise refused(f"--set {text}: has no value; write name=value")
        found[name] = value
    return found


def policy_of(given: list[str] | None) -> Policy:
    """What decisions depend on, of the service's settings: those given with --set, otherwise as they are by default."""
    from scheduler.config import ConfigError, load

    try:
        return load(None, settings_of(given)).policy()
    except ConfigError as problem:
        raise refused(str(problem)) from None


def checked_output(output: str) -> str:
    if output not in ("json", "text"):
        raise refused(f"-o {output}: no such output; use json or text")
    return output


def milliseconds(text: str | None) -> int | None:
    """The time given with --now."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise refused(f"--now {text}: is no RFC 3339 time; write for instance 2026-01-31T12:00:00Z") from None


def manifests_of(paths: list[Path]) -> list[tuple[str, Document]]:
    """Every document of the files, with where it stands ("gang.yaml document 2"). Raises InputError."""
    from scheduler.state import manifests

    found: list[tuple[str, Document]] = []
    for path in paths:
        if str(path) == "-":
            found += manifests.parse(_text(path, read(path)), "standard input")
            continue
        files = sorted(file for file in path.rglob("*") if file.suffix in (".yaml", ".yml", ".json"))
        for file in files if path.is_dir() else [path]:
            found += manifests.parse(_text(file, read(file)), str(file))
    return found


def read(path: Path) -> bytes:
    """The file, or standard input for -."""
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as problem:
        raise refused(f"{path}: {problem.strerror}; give a file that can be read") from None


def _text(path: Path, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise refused(f"{path}: line {line} is no UTF-8 text; save the file as UTF-8") from None


def machines(counts: list[str]) -> list[tuple[str, Document]]:
    """Nodes, slices and device classes of simulated machines (NAME=COUNT), as documents."""
    from scheduler.devcluster import shapes

    if not counts:
        return []
    try:
        chosen = shapes.parse_counts(counts)
    except shapes.ShapeError as problem:
        raise refused(f"--machine: {problem}") from None
    made = [made for name, count in chosen.items() for made in shapes.shape_named(name).machines(count)]
    documents = [*shapes.DEVICE_CLASSES, *(document for one in made for document in (one.node, *one.slices))]
    return [(f"machine {document['metadata']['name']}", document) for document in documents]


def live(kubeconfig: Path | None, context: str | None) -> ClusterState:
    """What the service would see of a live cluster. Nothing is written; what cannot be decoded is set aside later."""
    from scheduler.kube.errors import ApiError
    from scheduler.kube.identity import IdentityError

    try:
        return asyncio.run(_listed(kubeconfig, context))
    except (ApiError, IdentityError) as problem:
        raise refused(str(problem)) from None


def decided(snapshot: Snapshot) -> Plan:
    """The plan that the service would make. Defects on the way go to stderr; ends with 1 if they leave no plan."""
    import structlog

    from scheduler.decision import decide
    from scheduler.model.errors import InvariantError

    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    try:
        return decide(snapshot)
    except InvariantError as defect:
        sys.stderr.write(f"{defect}\n")
        raise typer.Exit(1) from None


async def _listed(kubeconfig: Path | None, context: str | None) -> ClusterState:
    from scheduler.api import changes
    from scheduler.kube.client import Client

    state = ClusterState()
    async with await Client.connect(kubeconfig=kubeconfig, context=context) as client:
        served = await client.served()
        for kind in state.kinds:
            if (kind.group, kind.version, kind.plural) in served:
                items, _ = await client.list_raw(kind)
                state.apply_all(found for item in items if (found := changes.read(kind, item)) is not None)
            state.apply(changes.listed(kind))
    return state
