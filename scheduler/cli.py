"""The command `tutti` (and `kubectl tutti`): run, plan, demo, crds."""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
import yaml

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A Kubernetes scheduler for GPU clusters: gangs placed whole, devices chosen exactly, every answer explained.",
)

Files = Annotated[
    list[Path] | None,
    typer.Option("-f", "--filename", help="Manifests: a file, a folder, or - for standard input. May be repeated."),
]
Output = Annotated[str, typer.Option("-o", "--output", help="json or text.")]


@app.command()
def plan(
    filename: Files = None,
    machine: Annotated[
        list[str] | None,
        typer.Option(help="Add simulated machines, as NAME=COUNT: h100x8, gb200-nvl72, cpu, ... May be repeated."),
    ] = None,
    context: Annotated[str | None, typer.Option(help="Read a live cluster by its kubeconfig context.")] = None,
    kubeconfig: Annotated[Path | None, typer.Option(help="The kubeconfig to use with --context.")] = None,
    now: Annotated[
        str | None,
        typer.Option(
            help="The time to decide at (RFC 3339). Default: now for a live cluster, else the newest object's."
        ),
    ] = None,
    output: Output = "text",
) -> None:
    """Decide and print the plan; write nothing. Manifests given beside --context are added to the live cluster."""
    from scheduler.kube.errors import ApiError
    from scheduler.kube.identity import IdentityError
    from scheduler.model.plan_document import to_json
    from scheduler.plan import planner
    from scheduler.screen import plan_lines
    from scheduler.state import manifests

    if output not in ("json", "text"):
        raise _refused(f"-o {output}: no such output; use json or text")
    if not filename and context is None and kubeconfig is None:
        raise _refused("nothing to plan: give manifests with -f, or a live cluster with --context")
    try:
        documents = [*_machines(machine or []), *_documents(filename or [])]
        if context is not None or kubeconfig is not None:
            documents = [*asyncio.run(_live(kubeconfig, context)), *documents]
            now = now or datetime.now(UTC).isoformat()
        decided = planner.plan(manifests.snapshot(documents, now_ms=_milliseconds(now)))
    except (manifests.InputError, ApiError, IdentityError) as problem:
        raise _refused(str(problem)) from None
    if output == "json":
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(to_json(decided)), indent=2).decode() + "\n")
    else:
        sys.stdout.write("\n".join(plan_lines(decided)) + "\n")


@app.command()
def run(
    config: Annotated[Path | None, typer.Option(help="Settings (YAML); see docs/admin/configuration.md.")] = None,
    kubeconfig: Annotated[
        Path | None, typer.Option(help="Default: the pod's own identity, else ~/.kube/config.")
    ] = None,
    context: Annotated[str | None, typer.Option(help="The kubeconfig context to use.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="One setting as name=value. May be repeated.")] = None,
) -> None:
    """Run the scheduler until it is stopped."""
    from scheduler.config import ConfigError, load
    from scheduler.kube.errors import ApiError
    from scheduler.kube.identity import IdentityError
    from scheduler.kube.lease import LeaseLost
    from scheduler.service import serve

    given = dict(_setting(text) for text in set_ or ())
    given |= {name: str(value) for name, value in (("kubeconfig", kubeconfig), ("context", context)) if value}
    try:
        settings = load(config, given)
    except ConfigError as problem:
        raise _refused(str(problem)) from None
    try:
        asyncio.run(serve(settings))
    except (ApiError, IdentityError, LeaseLost) as problem:
        sys.stderr.write(f"{problem}\n")
        raise typer.Exit(1) from None


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="End when every example has settled; 0 only if all did.")
    ] = False,
    examples: Annotated[Path, typer.Option(help="The folder of examples.")] = Path("deploy/examples"),
    timeout: Annotated[float, typer.Option(help="Seconds for the examples to settle, with --once.")] = 120.0,
    port: Annotated[int, typer.Option(help="Loopback port of the page; 0 for any.")] = 0,
) -> None:
    """Run the examples on an embedded cluster, with the scheduler, live."""
    from scheduler.demo import Demo
    from scheduler.expectations import ExampleError, read_all

    try:
        chosen = read_all(examples)
    except (ExampleError, OSError) as problem:
        raise _refused(str(problem)) from None
    if not chosen:
        raise _refused(f"{examples}: holds no examples; give their folder with --examples")
    settled = asyncio.run(Demo(examples=chosen, once=once, timeout_seconds=timeout, page_port=port).run())
    raise typer.Exit(0 if settled else 1)


@app.command()
def crds(
    write: Annotated[Path | None, typer.Option(help="Write one file per kind into this folder.")] = None,
    check: Annotated[
        Path | None, typer.Option(help="Fail if this folder's files are not what would be written.")
    ] = None,
) -> None:
    """Print our CustomResourceDefinitions, write them to a folder, or check that a folder holds them."""
    from scheduler.api import crd_schema

    texts = {
        f"{document['metadata']['name']}.yaml": "# Made by `tutti crds`. Do not edit.\n"
        + yaml.safe_dump(document, sort_keys=False, width=120)
        for document in crd_schema.crds()
    }
    if write is not None:
        write.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (write / name).write_text(text)
    if check is not None:
        stale = [name for name, text in texts.items() if not _holds(check / name, text)]
        if stale:
            raise _refused(f"{check}: {', '.join(stale)} is not what the code makes; run `tutti crds --write {check}`")
    if write is None and check is None:
        sys.stdout.write("---\n".join(texts.values()))


def main() -> None:
    """Entry point of `tutti` and `kubectl-tutti`."""
    app()


def _documents(paths: list[Path]) -> list[tuple[str, dict[str, Any]]]:
    """Every document of the files, with where it stands ("gang.yaml document 2")."""
    from scheduler.state import manifests

    found: list[tuple[str, dict[str, Any]]] = []
    for path in paths:
        if str(path) == "-":
            found += manifests.parse(sys.stdin.read(), "standard input")
            continue
        files = sorted(file for file in path.rglob("*") if file.suffix in (".yaml", ".yml", ".json"))
        for file in files if path.is_dir() else [path]:
            try:
                text = file.read_text()
            except (OSError, UnicodeDecodeError) as problem:
                raise manifests.InputError(
                    object=str(file), field="", cause=str(problem), cure="give a readable file of manifests"
                ) from None
            found += manifests.parse(text, str(file))
    return found


def _machines(counts: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """Nodes, slices and device classes of simulated machines, as documents."""
    from scheduler.devcluster import shapes

    if not counts:
        return []
    try:
        chosen = shapes.parse_counts(counts)
    except shapes.ShapeError as problem:
        raise _refused(f"--machine: {problem}") from None
    made = [made for name, count in chosen.items() for made in shapes.shape_named(name).machines(count)]
    documents = [*shapes.DEVICE_CLASSES, *(document for one in made for document in (one.node, *one.slices))]
    return [(f"machine {document['metadata']['name']}", document) for document in documents]


async def _live(kubeconfig: Path | None, context: str | None) -> list[tuple[str, dict[str, Any]]]:
    """Everything a decision reads, from a live cluster, as documents. Nothing is written."""
    from scheduler.api import kinds
    from scheduler.kube.client import Client

    documents: list[tuple[str, dict[str, Any]]] = []
    async with await Client.connect(kubeconfig=kubeconfig, context=context) as client:
        served = await client.served()
        for kind in kinds.WATCHED:
            if (kind.group, kind.version, kind.plural) not in served:
                continue
            items, _ = await client.list(kind)
            for item in items:
                document = {"apiVersion": kind.api_version, "kind": kind.kind, **item}
                documents.append((f"{kind.kind} {item['metadata']['name']}", document))
    return documents


def _milliseconds(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _refused(f"--now {text}: is no RFC 3339 time; write for instance 2026-01-31T12:00:00Z") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise _refused(f"--set {text}: has no value; write name=value")
    return name, value


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


def _refused(message: str) -> typer.Exit:
    """Say on stderr what is wrong, and end with 2."""
    sys.stderr.write(message + "\n")
    return typer.Exit(2)
