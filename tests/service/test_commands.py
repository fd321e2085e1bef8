"""`tutti record`, `replay` and `explain` beside a running scheduler."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scheduler.api import kinds
from scheduler.cli import app
from scheduler.model.plan_difference import differences
from scheduler.model.plan_document import to_json
from scheduler.plan import planner
from scheduler.state import recording
from tests.service.conftest import Cluster, scheduling
from tests.service.manifests import gang, template

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
SHAPES = {"h100x8-nic": 4, "a100-mig": 1, "t4": 1}


async def tutti(*arguments: str) -> tuple[int, str, str]:
    """The command, in a thread: the service it asks runs in this loop."""
    result = await asyncio.to_thread(CliRunner().invoke, app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
async def address(cluster: Cluster) -> AsyncIterator[str]:
    """A scheduler with two machines, on which one gang runs and another waits."""
    await cluster.add_nodes("h100x8", 2)
    await cluster.apply(template(count=8))
    async with scheduling(cluster, web_enabled=True, web_port=0) as running:
        await cluster.apply(gang("runs", 1))
        await cluster.running("default", 1)
        await cluster.apply(gang("waits", 2))
        await cluster.reason("default/waits", "GangDoesNotFit")
        yield running.page


async def test_what_is_recorded_replays_to_the_plan_that_was_decided(address: str, tmp_path: Path):
    file = tmp_path / "decision.json"
    assert await tutti("record", str(file), "--service", address) == (0, "", "")
    code, text, told = await tutti("replay", str(file))
    assert (code, told) == (0, "the plan is the one that was decided\n")
    assert "default/waits in queue default: Pending (GangDoesNotFit), 0 of 2 pods" in text


async def test_every_decision_of_a_run_replays_from_its_recording(cluster: Cluster):
    """Also those made while writes of the one before were on their way."""
    for shape, count in SHAPES.items():
        await cluster.add_nodes(shape, count)
    async with scheduling(cluster) as running:
        for path in sorted(EXAMPLES.glob("0[0-6]-*.yaml")):
            await cluster.apply(path.read_text())
        await cluster.until(
            kinds.POD,
            lambda pods: len(pods) == 15 and all(pod["spec"].get("nodeName") for pod in pods.values()),
            "all pods are bound",
        )
        cycles = list(running.cycles)
    placed = 0
    for cycle in cycles:
        data = recording.of(cycle.state, cycle.snapshot, held_back=cycle.held_back, decided=to_json(cycle.plan))
        recorded = recording.load(data)
        assert differences(to_json(cycle.plan), to_json(planner.plan(recorded.snapshot())), recorded.held_back) == []
        placed += len(cycle.plan.placements)
    assert placed >= 15


async def test_a_replay_that_differs_says_in_what_and_ends_with_1(address: str, tmp_path: Path):
    file = tmp_path / "decision.json"
    await tutti("record", str(file), "--service", address)
    recorded = json.loads(file.read_text())
    for decided in recorded["decided"]["gangs"]:
        if decided["name"] == "default/waits":
            decided["verdict"] = "Placed"
    file.write_text(json.dumps(recorded))
    code, text, told = await tutti("replay", str(file), "-o", "json")
    assert code == 1
    assert told.splitlines() == [
        "the plan differs from the one that was decided:",
        "  gangs[default/waits].verdict: decided 'Placed', now 'Pending'",
    ]
    assert json.loads(text)["gangs"]


async def test_explain_says_why_a_gang_waits_wherever_it_is_asked(cluster: Cluster, address: str, tmp_path: Path):
    file = tmp_path / "decision.json"
    await tutti("record", str(file), "--service", address)
    places = (["--service", address], ["-r", str(file)], ["--kubeconfig", str(cluster.kubeconfig)])
    for place in places:
        code, text, _ = await tutti("explain", "default/waits", *place)
        assert code == 0
        assert text.startswith("default/waits in queue default: Pending (GangDoesNotFit), 0 of 2 pods on nodes\n")
        assert sum(line.startswith("  pod waits-") and line.endswith(": waits") for line in text.splitlines()) == 2
        _, all_, _ = await tutti("explain", *place)
        assert all_.splitlines()[0] == text.splitlines()[0], "and nothing else waits"
        assert "default/runs" not in all_


async def test_a_pod_is_as_good_a_name_as_its_gang(cluster: Cluster, address: str):
    pods, _ = await cluster.client.list(kinds.POD)
    (pod,) = [each["metadata"]["name"] for each in pods if each["metadata"]["name"].startswith("runs-")]
    for name in (["runs"], ["default/runs"], [pod], [f"default/{pod}"], [pod, "-n", "default"]):
        code, text, _ = await tutti("explain", *name, "--service", address)
        assert code == 0
        assert text.startswith("default/runs in queue default: Running, 1 of 1 pods on nodes\n")
        assert f"  pod {pod}: on " in text
    code, _, told = await tutti("explain", "nobody", "--service", address)
    assert code == 2
    assert "nobody: there is no such gang, nor a pod of one" in told


async def test_a_cluster_is_recorded_without_a_plan(cluster: Cluster, address: str, tmp_path: Path):
    del address
    file = tmp_path / "cluster.json"
    assert (await tutti("record", str(file), "--kubeconfig", str(cluster.kubeconfig)))[0] == 0
    assert json.loads(file.read_text())["decided"] is None
    code, text, told = await tutti("replay", str(file))
    assert (code, told) == (0, "")
    assert "default/waits in queue default: Pending (GangDoesNotFit), 0 of 2 pods" in text
