"""`tutti plan`: the service's decision from manifests alone, the same text every time, errors that name the cure."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from typer.testing import CliRunner

from scheduler.api import kinds
from scheduler.cli import app
from scheduler.demo import SHAPES as DEMO
from tests.service.conftest import Cluster, allocated, scheduling

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
SHAPES = {"h100x8-nic": 4, "a100-mig": 1, "t4": 1}
SEEN = (
    kinds.NODE,
    kinds.RESOURCE_SLICE,
    kinds.DEVICE_CLASS,
    kinds.NAMESPACE,
    kinds.QUEUE,
    kinds.POD_GROUP,
    kinds.RESOURCE_CLAIM,
    kinds.JOB,
    kinds.POD,
)


def plan(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["plan", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


async def documents(cluster: Cluster) -> list[dict[str, Any]]:
    """Everything in the cluster that a decision reads, as kubectl would print it."""
    found = []
    for kind in SEEN:
        items, _ = await cluster.client.list(kind)
        found += [{"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in items]
    return found


@pytest.fixture
async def machines(cluster: Cluster) -> Cluster:
    for shape, count in SHAPES.items():
        await cluster.add_nodes(shape, count)
    return cluster


async def test_the_same_documents_in_any_order_give_the_same_text(machines: Cluster, tmp_path: Path):
    everything = await documents(machines)
    for path in sorted(EXAMPLES.glob("*.yaml")):
        everything += [document for document in yaml.safe_load_all(path.read_text()) if document]
    texts = set()
    for seed in range(4):
        shuffled = list(everything)
        random.Random(seed).shuffle(shuffled)
        file = tmp_path / f"{seed}.yaml"
        file.write_text(yaml.safe_dump_all(shuffled))
        for _ in range(2):
            code, text, _ = plan("-f", str(file), "-o", "json")
            assert code == 0
            texts.add(text)
    assert len(texts) == 1
    decided = json.loads(texts.pop())
    verdicts = {gang["name"]: gang["verdict"] for gang in decided["gangs"]}
    assert verdicts["example-gang/llama-finetune"] == "Placed"
    assert verdicts["example-too-large/hero"] == "Refused"
    assert sum(verdict == "Placed" for verdict in verdicts.values()) == len(verdicts) - 1


async def test_the_command_decides_as_the_service_does(machines: Cluster, tmp_path: Path):
    for path in sorted(EXAMPLES.glob("0[0-6]-*.yaml")):
        await machines.apply(path.read_text())
    await machines.until(kinds.POD, lambda pods: len(pods) == 15, "the controllers have made all pods")
    await machines.until(kinds.RESOURCE_CLAIM, lambda claims: len(claims) == 14, "and all claims")
    file = tmp_path / "cluster.json"
    file.write_bytes(msgspec.json.encode({"apiVersion": "v1", "kind": "List", "items": await documents(machines)}))
    _, text, _ = plan("-f", str(file), "-o", "json")
    decided = json.loads(text)

    async with scheduling(machines):
        pods = await machines.until(
            kinds.POD, lambda pods: all(pod["spec"].get("nodeName") for pod in pods.values()), "all pods are bound"
        )
    assert {key: pod["spec"]["nodeName"] for key, pod in pods.items()} == {
        placement["pod"]: placement["node"] for placement in decided["placements"]
    }
    claims, _ = await machines.client.list(kinds.RESOURCE_CLAIM)
    given = {claim["metadata"]["name"]: allocated(claim) for claim in claims}
    for placement in decided["placements"]:
        for claim in placement["claims"]:
            if claim["allocation"]:
                results = claim["allocation"]["devices"]["results"]
                devices = [(result["driver"], result["pool"], result["device"]) for result in results]
                assert devices in given.values()


async def test_manifests_are_laid_over_a_live_cluster_which_stays_as_it_is(machines: Cluster, tmp_path: Path):
    await machines.apply("{apiVersion: tutti.scheduler/v1alpha1, kind: Queue, metadata: {name: mine}}")
    file = tmp_path / "job.yaml"
    template = (
        "{metadata: {labels: {tutti.scheduler/queue: mine}}, spec: {schedulerName: tutti, containers: [{name: c}]}}"
    )
    file.write_text(
        "{apiVersion: batch/v1, kind: Job, metadata: {name: new}, spec: {parallelism: 2, completions: 2, "
        f"template: {template}}}}}"
    )
    code, text, _ = await asyncio.to_thread(plan, "-f", str(file), "--kubeconfig", str(machines.kubeconfig))
    assert code == 0
    assert "default/new-0 in queue mine: Placed, 1 of 1 pods" in text
    assert (await machines.client.list(kinds.JOB))[0] == []
    code, text, _ = await asyncio.to_thread(plan, "--kubeconfig", str(machines.kubeconfig))
    assert code == 0
    assert "queue mine: nothing in use" in text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "standard input"),
        ("kind: Pod\nmetadata: {name: a}", "apiVersion"),
        ("{apiVersion: v1, kind: Pod, spec: {}}", "name"),
    ],
)
def test_unreadable_input_ends_with_2_and_says_where_and_what_to_do(text: str, says: str):
    result = CliRunner().invoke(app, ["plan", "-f", "-"], input=text)
    assert result.exit_code == 2
    assert says in result.stderr
    assert "; " in result.stderr, "the cure follows the cause"


def test_examples_are_planned_on_simulated_machines():
    machines = [word for shape, count in DEMO.items() for word in ("--machine", f"{shape}={count}")]
    code, text, _ = plan("-f", str(EXAMPLES), *machines)
    assert code == 0
    assert "example-gang/llama-finetune in queue team-ml-research: Placed, 8 of 8 pods" in text
    assert "example-too-large/hero in queue team-ml-research: Refused (OverLimit), 0 of 5 pods" in text
    assert text == plan("-f", str(EXAMPLES), *machines)[1]


def test_a_machine_that_does_not_exist_is_refused_with_those_that_do():
    code, _, error = plan("-f", str(EXAMPLES), "--machine", "h1000=2")
    assert code == 2
    assert "h100x8" in error


@pytest.mark.parametrize("arguments", [(), ("-f", "empty.yaml"), ("-f", "empty.yaml", "--machine", "t4=1")])
def test_nothing_to_plan_is_said(arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("empty.yaml").write_text("# nothing\n---\n")
    assert plan(*arguments) == (2, "", "nothing to plan: give manifests with -f, or a live cluster with --context\n")


def test_a_pod_with_an_unreadable_quantity_is_set_aside_and_the_others_are_decided(tmp_path: Path):
    file = tmp_path / "pods.yaml"
    queue = "{apiVersion: tutti.scheduler/v1alpha1, kind: Queue, metadata: {name: q}}"
    node = """
apiVersion: v1
kind: Node
metadata: {name: n}
status: {allocatable: {cpu: "4", memory: 8Gi, pods: "10"}}
"""
    pod = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{tutti.scheduler/queue: q}}}}
spec:
  schedulerName: tutti
  containers: [{{name: c, resources: {{requests: {{cpu: {cpu}}}}}}}]
"""
    file.write_text("\n---\n".join([node, queue, pod.format(name="good", cpu="1"), pod.format(name="bad", cpu="1x")]))
    code, text, _ = plan("-f", str(file))
    assert code == 0
    assert "good -> n" in text
    assert "bad" in text
    assert "1x" in text


def test_what_a_claim_asks_in_a_field_that_is_not_known_is_refused_and_not_left_out(tmp_path: Path):
    """The device is free and would do for what is known of the claim; the pod that asks for nothing more gets it."""
    objects: list[dict[str, Any]] = [
        {"apiVersion": "tutti.scheduler/v1alpha1", "kind": "Queue", "metadata": {"name": "q"}}
    ]
    for name, more in (("new", {"neighbours": "close"}), ("old", {})):
        asked = {"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com", "count": 1, **more}}
        objects += [
            {
                "apiVersion": "resource.k8s.io/v1",
                "kind": "ResourceClaimTemplate",
                "metadata": {"name": name},
                "spec": {"spec": {"devices": {"requests": [asked]}}},
            },
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": {"tutti.scheduler/queue": "q"}},
                "spec": {
                    "schedulerName": "tutti",
                    "containers": [{"name": "c", "resources": {"claims": [{"name": "gpu"}]}}],
                    "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": name}],
                },
            },
        ]
    file = tmp_path / "claims.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    code, text, _ = plan("-f", str(file), "--machine", "t4=1", "-o", "json")
    assert code == 0
    decided = json.loads(text)
    assert [placement["pod"] for placement in decided["placements"]] == ["default/old"]
    (refused,) = (gang for gang in decided["gangs"] if gang["name"] == "default/new")
    assert refused["reason"]["code"] == "ClaimRefused"
    assert "ResourceClaim default/new-gpu" in refused["reason"]["message"]
    assert "spec.devices.requests[0].exactly.neighbours" in refused["reason"]["message"]
    assert refused["remedy"] == "Upgrade the scheduler, or ask without what it does not know."


SHARES = """
apiVersion: v1
kind: Node
metadata: {name: n1}
status:
  allocatable: {cpu: "64", memory: 512Gi, pods: "110", nvidia.com/gpu: "2"}
  conditions: [{type: Ready, status: "True"}]
---
{apiVersion: tutti.scheduler/v1alpha1, kind: Queue, metadata: {name: red}}
---
{apiVersion: tutti.scheduler/v1alpha1, kind: Queue, metadata: {name: blue}, spec: {resources: {gpu: {quota: 2}}}}
"""
POD = """
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{tutti.scheduler/queue: {queue}}}}}
spec:
  schedulerName: tutti{node}
  containers: [{{name: main, image: i, resources: {{limits: {{nvidia.com/gpu: "1"}}}}}}]
status: {{phase: {phase}}}
"""


def test_a_setting_of_the_service_decides_here_as_it_does_there(tmp_path: Path):
    manifest = tmp_path / "shares.yaml"
    running = [POD.format(name=name, queue="red", node="\n  nodeName: n1", phase="Running") for name in ("a", "b")]
    manifest.write_text("".join([SHARES, *running, POD.format(name="new", queue="blue", node="", phase="Pending")]))

    _, alone, _ = plan("-f", str(manifest), "--set", "stages=allocate")
    assert "leaves" not in alone
    code, told, _ = plan("-f", str(manifest), "--set", "stages=allocate,reclaim")
    assert code == 0
    assert "  default/new is to go to n1" in told.splitlines()
    assert sum(line.endswith("leaves for default/new (reclaim)") for line in told.splitlines()) == 1

    code, _, problem = plan("-f", str(manifest), "--set", "stages=steal")
    assert code == 2
    assert problem.startswith("--set stages: 'steal' cannot be used")
