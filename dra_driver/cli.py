"""The command `tutti-dra-driver`: run, inventory."""

import asyncio
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import typer
import yaml

from dra_driver import config as settings
from dra_driver import slices
from dra_driver.config import Config, ConfigError
from dra_driver.devices import Inventory, Kind
from dra_driver.facts import GpuError
from dra_driver.node import Offered, hardware, offer

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The node plugin of Tutti: publishes the GPUs of its node, and prepares them for the pods they are given to.",
)

File = Annotated[Path | None, typer.Option("--config", help="Settings (YAML); see docs/admin/node-plugin.md.")]
Fake = Annotated[
    str | None, typer.Option(help="A machine made up instead of the node's own: h100x8, a100x8, gb200x4, a100x4+t4x2.")
]
Node = Annotated[str | None, typer.Option(help="The Node that is served. Default: $NODE_NAME.")]
Kubeconfig = Annotated[Path | None, typer.Option(help="Default: the pod's own identity, else ~/.kube/config.")]
Context = Annotated[str | None, typer.Option(help="The kubeconfig context to use.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="One setting as name=value. May be repeated.")]


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    config: File = None,
    fake: Fake = None,
    node: Node = None,
    kubeconfig: Kubeconfig = None,
    kube_context: Annotated[str | None, typer.Option("--context", help="The kubeconfig context to use.")] = None,
    set_: Set = None,
) -> None:
    """Without a command: run."""
    if context.invoked_subcommand is None:
        _run(_settings(config, set_, fake=fake, node_name=node, kubeconfig=kubeconfig, context=kube_context))
    elif any((config, fake, node, kubeconfig, kube_context, set_)):
        raise _refused(f"options belong behind the command: tutti-dra-driver {context.invoked_subcommand} --...")


@app.command()
def run(
    config: File = None,
    fake: Fake = None,
    node: Node = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    set_: Set = None,
) -> None:
    """Serve the node until stopped."""
    _run(_settings(config, set_, fake=fake, node_name=node, kubeconfig=kubeconfig, context=context))


@app.command()
def inventory(
    config: File = None,
    fake: Fake = None,
    node: Node = None,
    set_: Set = None,
    output: Annotated[
        Literal["text", "json", "yaml"],
        typer.Option("-o", "--output", help="A table, or the ResourceSlices themselves."),
    ] = "text",
) -> None:
    """Print what would be published of this node, or of a machine made up. Changes nothing."""
    chosen = _settings(config, set_, fake=fake, node_name=node)
    name = chosen.node_name or "node-1"
    try:
        with TemporaryDirectory(prefix="tutti-node-") as folder:
            found = hardware(chosen, fake_state=chosen.fake_state, fake_folder=Path(folder))
            try:
                offered = Offered(name, found, offer(chosen, found)).look(())
            finally:
                found.gpus.close()
    except ConfigError as problem:
        raise _refused(str(problem)) from None
    except GpuError as problem:
        raise _refused(f"{problem}; run it on a node with NVIDIA's driver, or make a machine up with --fake") from None
    documents = slices.documents(offered, slices.Target(node=name, node_uid="", driver=chosen.driver))
    if output == "text":
        sys.stdout.write(_table(offered))
    elif output == "json":
        sys.stdout.write(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)}, indent=2) + "\n")
    else:
        sys.stdout.write(yaml.safe_dump_all(documents, sort_keys=False, width=120))


def main() -> None:
    """Entry point of `tutti-dra-driver`."""
    app()


def _run(chosen: Config) -> None:
    from dra_driver.service import REFUSALS, serve
    from scheduler.kube.errors import ApiError
    from scheduler.kube.identity import IdentityError

    try:
        asyncio.run(serve(chosen))
    except (IdentityError, ConfigError, *REFUSALS) as problem:
        raise _refused(str(problem)) from None
    except ApiError as problem:
        sys.stderr.write(f"{problem}\n")
        raise typer.Exit(1) from None


def _settings(file: Path | None, set_: list[str] | None, **options: Any) -> Config:
    given: dict[str, Any] = {}
    for text in set_ or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise _refused(f"--set {text}: has no value; write name=value")
        given[name] = value
    given |= {name: str(value) for name, value in options.items() if value is not None}
    try:
        return settings.load(file, given)
    except ConfigError as problem:
        raise _refused(str(problem)) from None


def _table(found: Inventory) -> str:
    """A line a device, and below them what is not offered."""
    rows = [("DEVICE", "PRODUCT OR PROFILE", "MEMORY", "SHARED", "TAINTS")]
    for each in found.devices:
        memory = each.capacity.get("memory")
        kind = each.profile.name if each.profile and each.kind is Kind.MIG else each.attributes.get("productName", "")
        rows.append(
            (
                each.name,
                str(kind),
                f"{memory.amount // 2**20} MiB" if memory else "",
                "yes" if each.shareable else "",
                ",".join(f"{taint.key}:{taint.effect}" for taint in each.taints),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{about}: {why}" for about, why in found.refused]
    return "\n".join(lines) + "\n"


def _refused(message: str) -> typer.Exit:
    """Say on stderr what is wrong, and end with 2."""
    sys.stderr.write(message + "\n")
    return typer.Exit(2)
