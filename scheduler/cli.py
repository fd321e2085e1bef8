"""The command `tutti` (and `kubectl tutti`): plan, explain, record, replay, run, demo, crds."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml

from scheduler.commands import ask, decide
from scheduler.commands.inputs import Settings, refused, settings_of

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A Kubernetes scheduler for GPU clusters: gangs placed whole, devices chosen exactly, every answer explained.",
)

app.command()(decide.plan)
app.command()(ask.explain)
app.command()(ask.record)
app.command()(decide.replay)


@app.command()
def run(
    config: Annotated[Path | None, typer.Option(help="Settings (YAML); see docs/admin/configuration.md.")] = None,
    kubeconfig: Annotated[
        Path | None, typer.Option(help="Default: the pod's own identity, else ~/.kube/config.")
    ] = None,
    context: Annotated[str | None, typer.Option(help="The kubeconfig context to use.")] = None,
    set_: Settings = None,
) -> None:
    """Run the scheduler until it is stopped."""
    from scheduler.config import ConfigError, load
    from scheduler.kube.errors import ApiError
    from scheduler.kube.identity import IdentityError
    from scheduler.kube.lease import LeaseLost
    from scheduler.service import serve

    given = settings_of(set_)
    given |= {name: str(value) for name, value in (("kubeconfig", kubeconfig), ("context", context)) if value}
    try:
        settings = load(config, given)
    except ConfigError as problem:
        raise refused(str(problem)) from None
    try:
        asyncio.run(serve(settings))
    except IdentityError as problem:
        raise refused(str(problem)) from None
    except (ApiError, LeaseLost) as problem:
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
        raise refused(str(problem)) from None
    if not chosen:
        raise refused(f"{examples}: holds no examples; give their folder with --examples")
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
            raise refused(f"{check}: {', '.join(stale)} is not what the code makes; run `tutti crds --write {check}`")
    if write is None and check is None:
        sys.stdout.write("---\n".join(texts.values()))


def main() -> None:
    """Entry point of `tutti` and `kubectl-tutti`."""
    app()


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text
