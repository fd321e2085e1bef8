"""The command `tutti-dra-driver`: what it prints, and how it refuses."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import yaml
from typer.testing import CliRunner

from dra_driver.cli import app

runner = CliRunner()


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """A command that runs sets where the process's log goes: here to a stream that is closed after it."""
    yield
    structlog.reset_defaults()


def test_the_inventory_of_a_machine_made_up_is_a_table():
    result = runner.invoke(app, ["inventory", "--fake", "h100x1+t4x1", "--set", "dynamic_mig=true"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["DEVICE", "PRODUCT", "OR", "PROFILE", "MEMORY", "SHARED", "TAINTS"]
    assert lines[1].split() == ["gpu-0", "NVIDIA", "H100", "80GB", "HBM3", "81559", "MiB"]
    assert lines[-1].split()[:3] == ["gpu-1", "Tesla", "T4"]
    # Seven instances of 1g.10gb, of 1g.10gb+me; four of 1g.20gb; three of 2g, two of 3g, and 4g and 7g; two GPUs.
    assert len(lines) == 1 + 7 + 7 + 4 + 3 + 2 + 1 + 1 + 2


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_the_inventory_is_what_would_be_published(form: str):
    result = runner.invoke(app, ["inventory", "--fake", "h100x2", "--node", "n7", "-o", form])
    assert result.exit_code == 0
    found = json.loads(result.stdout)["items"] if form == "json" else list(yaml.safe_load_all(result.stdout))
    (one,) = found
    assert (one["kind"], one["spec"]["nodeName"], one["spec"]["driver"]) == ("ResourceSlice", "n7", "gpu.nvidia.com")
    assert [device["name"] for device in one["spec"]["devices"]] == ["gpu-0", "gpu-1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inventory", "--fake", "h100"], "--fake: Fake machine 'h100': 'h100' is no board with a count"),
        (["inventory", "--set", "fake"], "--set fake: has no value; write name=value"),
        (["inventory", "--set", "nosuch=1"], "--set nosuch: there is no such setting"),
        (["run", "--fake", "h100x1"], "node_name: is not set; set NODE_NAME from spec.nodeName"),
        (["--fake", "h100x1"], "node_name: is not set; set NODE_NAME from spec.nodeName"),
        (["run", "--fake", "h100x1", "--config", "/nosuch.yaml"], "/nosuch.yaml: cannot be read"),
        (["--fake", "h100x1", "inventory"], "options belong behind the command: tutti-dra-driver inventory --"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(arguments: list[str], message: str):
    result = runner.invoke(app, arguments, env={"NODE_NAME": None})
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_without_a_cluster_the_plugin_does_not_run(tmp_path: Path, folder: Path):
    folders = {"kubelet_dir": folder, "plugin_dir": tmp_path / "p", "cdi_dir": tmp_path / "c"}
    set_ = [word for name, path in folders.items() for word in ("--set", f"{name}={path}")]
    config = tmp_path / "kubeconfig"
    arguments = ["run", "--fake", "h100x1", "--node", "n1", "--kubeconfig", str(config), *set_]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert str(config) in result.stderr
