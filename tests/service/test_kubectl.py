"""The real kubectl against the embedded cluster: what people and scripts do with a cluster works on this one."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.devcluster import kinds
from scheduler.devcluster.objects import with_field
from scheduler.devcluster.run import DevCluster
from tests.devcluster import allocation, bound, consumer, definition, pod

KUBECTL = os.environ.get("TUTTI_KUBECTL") or shutil.which("kubectl")
pytestmark = pytest.mark.skipif(KUBECTL is None, reason="no kubectl: set TUTTI_KUBECTL or put one on PATH")


class Kubectl:
    """kubectl with a kubeconfig and a cache of its own."""

    def __init__(self, cluster: DevCluster, folder: Path) -> None:
        self.cluster, self.store = cluster, cluster.store
        self._folder = folder
        config = cluster.kubeconfig(folder / "kubeconfig")
        self._environment = {**os.environ, "KUBECONFIG": str(config), "HOME": str(folder)}

    async def start(self, *arguments: str, stdin: int | None = None) -> asyncio.subprocess.Process:
        """Start it, with its output on pipes."""
        pipe = asyncio.subprocess.PIPE
        assert KUBECTL is not None
        return await asyncio.create_subprocess_exec(
            KUBECTL, *arguments, env=self._environment, stdin=stdin, stdout=pipe, stderr=pipe
        )

    async def __call__(self, command: str, *documents: dict[str, Any], fails: bool = False) -> str:
        """Run it to its end; what it printed. The words of `command` are separated by blanks; ~ stands for one."""
        arguments = [word.replace("~", " ") for word in command.split()]
        text = yaml.safe_dump_all(documents).encode() if documents else None
        process = await self.start(*arguments, stdin=asyncio.subprocess.PIPE if text else asyncio.subprocess.DEVNULL)
        out, err = await asyncio.wait_for(process.communicate(text), 30)
        assert (process.returncode != 0) is fails, f"kubectl {command}: {out.decode()}{err.decode()}"
        return err.decode() if fails else out.decode()

    async def json(self, command: str) -> Any:
        """What `kubectl ... -o json` prints."""
        return json.loads(await self(f"{command} -o json"))


@pytest.fixture
async def kubectl(tmp_path: Path) -> AsyncIterator[Kubectl]:
    async with DevCluster() as cluster:
        yield Kubectl(cluster, tmp_path)


def manifest(kind: kinds.Kind, body: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": kind.api_version, "kind": kind.kind, **body}


WEB = manifest(kinds.POD, pod(meta={"labels": {"app": "web"}}, container={"env": [{"name": "A", "value": "1"}]}))
TEMPLATE = {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"name": "main", "image": "app"}]}}
DEPLOYMENT = manifest(
    kinds.DEPLOYMENT,
    {"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": TEMPLATE}},
)
COLUMNS = [
    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
    {"name": "Color", "type": "string", "jsonPath": ".spec.color", "priority": 1},
]
WIDGETS = manifest(
    kinds.CUSTOM_RESOURCE,
    definition(
        {"size": {"type": "integer", "default": 1, "description": "How big."}, "color": {"type": "string"}},
        version={"additionalPrinterColumns": COLUMNS},
    ),
)


def widget(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec}


def rows(text: str) -> list[list[str]]:
    """The cells of a printed table, without its head."""
    return [line.split() for line in text.splitlines()[1:]]


# --- apply --------------------------------------------------------------------------------------------------------


async def test_apply_creates_changes_and_leaves_alone(kubectl: Kubectl):
    assert await kubectl("apply -f -", WEB) == "pod/web created\n"
    assert await kubectl("apply -f -", WEB) == "pod/web unchanged\n"
    newer = json.loads(json.dumps(WEB))
    newer["spec"]["containers"][0]["image"] = "app:2"
    assert await kubectl("apply -f -", newer) == "pod/web configured\n"
    assert await kubectl("get pod web -o jsonpath={.spec.containers[0].image}") == "app:2"


async def test_apply_removes_what_the_manifest_no_longer_has_and_keeps_what_others_wrote(kubectl: Kubectl):
    await kubectl("apply -f -", {**WEB, "metadata": {"name": "web", "labels": {"a": "1", "b": "2"}}})
    await kubectl("label pod web other=3")
    await kubectl("apply -f -", {**WEB, "metadata": {"name": "web", "labels": {"a": "1"}}})
    assert (await kubectl.json("get pod web"))["metadata"]["labels"] == {"a": "1", "other": "3"}


async def test_apply_on_the_server_owns_fields_and_reports_conflicts(kubectl: Kubectl):
    sized = {**DEPLOYMENT, "spec": {**DEPLOYMENT["spec"], "replicas": 2}}
    assert await kubectl("apply --server-side -f -", sized) == "deployment.apps/d serverside-applied\n"
    await kubectl("scale deployment d --replicas=5")
    assert ".spec.replicas" in await kubectl("apply --server-side -f -", sized, fails=True)
    await kubectl("apply --server-side --force-conflicts -f -", sized)
    assert await kubectl("get deployment d -o jsonpath={.spec.replicas}") == "2"


async def test_apply_moves_from_the_client_to_the_server(kubectl: Kubectl):
    await kubectl("apply -f -", WEB)
    assert await kubectl("apply --server-side -f -", WEB) == "pod/web serverside-applied\n"
    entries = (await kubectl.json("get pod web --show-managed-fields"))["metadata"]["managedFields"]
    assert ("kubectl", "Apply") in [(entry["manager"], entry["operation"]) for entry in entries]


async def test_a_kustomization_of_definitions_roles_and_a_deployment_is_applied(kubectl: Kubectl, tmp_path: Path):
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}
    role = manifest(kinds.CLUSTER_ROLE, {"metadata": {"name": "tutti:reader"}, "rules": [rule]})
    account = manifest(kinds.SERVICE_ACCOUNT, {"metadata": {"name": "tutti"}})
    documents = {"crd.yaml": WIDGETS, "role.yaml": role, "account.yaml": account, "deploy.yaml": DEPLOYMENT}
    for name, document in documents.items():
        (tmp_path / name).write_text(yaml.safe_dump(document))
    kustomization = {"namespace": "tutti-system", "resources": sorted(documents)}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    await kubectl("create namespace tutti-system")
    done = await kubectl(f"apply -k {tmp_path}")
    assert done.count(" created") == 4
    assert await kubectl("get deployment -n tutti-system -o name") == "deployment.apps/d\n"
    again = await kubectl(f"apply -k {tmp_path}")
    assert again.count(" unchanged") == 4


# --- get ----------------------------------------------------------------------------------------------------------


async def test_get_prints_tables_as_on_a_real_cluster(kubectl: Kubectl):
    bound(kubectl.store, "web", node="n1")
    kubectl.store.create(kinds.POD, pod("db"))
    assert [row[:4] for row in rows(await kubectl("get pods"))] == [
        ["db", "0/1", "Pending", "0"],
        ["web", "0/1", "Pending", "0"],
    ]
    (web,) = rows(await kubectl("get pods -o wide --field-selector spec.nodeName=n1"))
    assert web[6] == "n1"
    assert (await kubectl("get po -A")).splitlines()[0].split()[0] == "NAMESPACE"
    assert "<none>" in await kubectl("get pods --show-labels")
    assert await kubectl("get pods -o name -l app") == ""


async def test_get_prints_yaml_json_and_jsonpath(kubectl: Kubectl):
    await kubectl("apply -f -", WEB)
    as_yaml = yaml.safe_load(await kubectl("get pod web -o yaml"))
    as_json = await kubectl.json("get pod web")
    assert as_yaml["spec"] == as_json["spec"]
    assert await kubectl("get pods -o jsonpath={.items[*].metadata.name}") == "web"
    assert (await kubectl.json("get pods,nodes"))["kind"] == "List"


async def test_get_all_finds_every_workload(kubectl: Kubectl):
    job = {"metadata": {"name": "j"}, "spec": {"template": {"spec": {**TEMPLATE["spec"], "restartPolicy": "Never"}}}}
    await kubectl("apply -f -", WEB, DEPLOYMENT, manifest(kinds.JOB, job))
    printed = await kubectl("get all")
    assert all(name in printed for name in ("pod/web", "deployment.apps/d", "job.batch/j"))


async def test_long_lists_come_whole(kubectl: Kubectl):
    for number in range(7):
        kubectl.store.create(kinds.CONFIG_MAP, {"metadata": {"name": f"c{number}"}})
    assert len(rows(await kubectl("get configmaps --chunk-size=3"))) == 7


async def test_get_watches(kubectl: Kubectl):
    kubectl.store.create(kinds.POD, pod())
    process = await kubectl.start("get", "pods", "-w", "--no-headers")
    assert process.stdout is not None
    assert (await process.stdout.readline()).split()[:3] == [b"web", b"0/1", b"Pending"]
    while not kubectl.cluster.watchers:  # its list is printed before its watch is open
        await asyncio.sleep(0.01)
    kubectl.store.bind("default", "web", {"target": {"kind": "Node", "name": "n1"}})
    now = kubectl.store.get(kinds.POD, "default", "web")
    kubectl.store.update(kinds.POD, with_field(now, ("status", "phase"), "Running"), subresource="status")
    seen = [(await process.stdout.readline()).split()[2] for _ in range(2)]
    assert seen == [b"Pending", b"Running"]
    process.terminate()
    await process.wait()


# --- create, change, delete ---------------------------------------------------------------------------------------


async def test_create_makes_objects_from_files_and_from_words(kubectl: Kubectl):
    await kubectl("create -f -", WEB)
    assert "already exists" in await kubectl("create -f -", WEB, fails=True)
    await kubectl("create namespace team-a")
    await kubectl("create deployment app --image=app --replicas=3 --port=80 -n team-a")
    await kubectl("create job once --image=app -- sh -c exit~0")
    await kubectl("create configmap settings --from-literal=a=b")
    await kubectl("create priorityclass high --value=1000 --preemption-policy=Never")
    await kubectl("create poddisruptionbudget keep --selector=app=app --min-available=50% -n team-a")
    await kubectl("create serviceaccount bot")
    await kubectl("run solo --image=app")
    assert kubectl.store.get(kinds.DEPLOYMENT, "team-a", "app")["spec"]["replicas"] == 3
    assert kubectl.store.get(kinds.PRIORITY_CLASS, "", "high")["value"] == 1000
    assert kubectl.store.get(kinds.DISRUPTION_BUDGET, "team-a", "keep")["spec"]["minAvailable"] == "50%"
    command = kubectl.store.get(kinds.JOB, "default", "once")["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command == ["sh", "-c", "exit 0"]


async def test_a_faulty_manifest_is_refused_with_its_field(kubectl: Kubectl):
    bad = manifest(kinds.POD, pod(container={"resources": {"limits": {"cpu": "lots"}}}, restartPolicy="Sometimes"))
    said = await kubectl("apply -f -", bad, fails=True)
    assert "spec.containers[0].resources.limits[cpu]: Invalid value" in said
    assert 'spec.restartPolicy: Unsupported value: "Sometimes"' in said


async def test_a_dry_run_on_the_server_stores_nothing(kubectl: Kubectl):
    assert await kubectl("apply --dry-run=server -f -", WEB) == "pod/web created (server dry run)\n"
    assert kubectl.store.find(kinds.POD, "default", "web") is None


async def test_all_patch_types(kubectl: Kubectl):
    await kubectl("apply -f -", DEPLOYMENT)
    strategic = '{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"s"}]}}}}'
    await kubectl(f"patch deployment d -p {strategic}")
    await kubectl('patch deployment d --type merge -p {"spec":{"replicas":3}}')
    await kubectl('patch deployment d --type json -p [{"op":"add","path":"/metadata/labels","value":{"x":"y"}}]')
    await kubectl('patch deployment d --subresource status --type merge -p {"status":{"readyReplicas":2}}')
    done = kubectl.store.get(kinds.DEPLOYMENT, "default", "d")
    assert [entry["name"] for entry in done["spec"]["template"]["spec"]["containers"]] == ["side", "main"]
    assert (done["spec"]["replicas"], done["metadata"]["labels"], done["status"]["readyReplicas"]) == (3, {"x": "y"}, 2)


async def test_label_annotate_scale_and_set(kubectl: Kubectl):
    await kubectl("apply -f -", DEPLOYMENT)
    await kubectl("label deployment d team=a")
    await kubectl("label deployment d team-")
    await kubectl("annotate deployment d note=hello~there")
    await kubectl("scale deployment d --replicas=4")
    await kubectl("set image deployment/d main=app:2")
    await kubectl("rollout restart deployment d")
    done = kubectl.store.get(kinds.DEPLOYMENT, "default", "d")
    assert "labels" not in done["metadata"]
    assert done["metadata"]["annotations"]["note"] == "hello there"
    assert done["spec"]["replicas"] == 4
    template = done["spec"]["template"]
    assert template["spec"]["containers"][0]["image"] == "app:2"
    assert "kubectl.kubernetes.io/restartedAt" in template["metadata"]["annotations"]


async def test_replace_needs_the_version_it_read(kubectl: Kubectl):
    await kubectl("create configmap settings --from-literal=a=b")
    read = await kubectl.json("get configmap settings")
    await kubectl("replace -f -", {**read, "data": {"a": "c"}})
    assert "the object has been modified" in await kubectl("replace -f -", {**read, "data": {"a": "d"}}, fails=True)
    assert kubectl.store.get(kinds.CONFIG_MAP, "default", "settings")["data"] == {"a": "c"}


async def test_delete_by_name_file_selector_and_all(kubectl: Kubectl):
    for name in ("a", "b", "c", "d"):
        kubectl.store.create(kinds.POD, pod(name, meta={"labels": {"first": str(name == "a").lower()}}))
    assert (await kubectl("delete pod b")).startswith('pod "b" deleted')
    await kubectl("delete -f -", manifest(kinds.POD, pod("c")))
    await kubectl("delete pods -l first=true")
    await kubectl("delete pods --all")
    assert kubectl.store.all(kinds.POD) == []
    assert "not found" in await kubectl("delete pod b", fails=True)


async def test_delete_waits_for_the_grace_of_a_running_pod(kubectl: Kubectl):
    bound(kubectl.store)
    watch = kubectl.store.watch(kinds.POD, wake=(marked := asyncio.Event()).set)
    deleting = await kubectl.start("delete", "pod", "web", "--grace-period=20")
    await marked.wait()
    assert watch.take()[0].object["metadata"]["deletionGracePeriodSeconds"] == 20
    assert deleting.returncode is None
    kubectl.store.delete(kinds.POD, "default", "web", grace_seconds=0)
    assert await deleting.wait() == 0


async def test_wait_for_a_condition_a_field_and_the_end(kubectl: Kubectl):
    kubectl.store.create(kinds.POD, pod())
    process = await kubectl.start("wait", "--for=condition=PodScheduled", "pod/web", "--timeout=20s")
    while not kubectl.cluster.watchers:
        await asyncio.sleep(0.01)
    kubectl.store.bind("default", "web", {"target": {"kind": "Node", "name": "n1"}})
    assert await process.wait() == 0
    await kubectl("wait --for=jsonpath={.spec.nodeName}=n1 pod/web --timeout=20s")
    process = await kubectl.start("wait", "--for=delete", "pod/web", "--timeout=20s")
    while not kubectl.cluster.watchers:
        await asyncio.sleep(0.01)
    kubectl.store.delete(kinds.POD, "default", "web", grace_seconds=0)
    assert await process.wait() == 0
    assert "timed out" in await kubectl("wait --for=create pod/none --timeout=1s", fails=True)


async def test_drain_evicts_and_respects_budgets(kubectl: Kubectl):
    kubectl.store.create(kinds.NODE, {"metadata": {"name": "n1"}})
    bound(kubectl.store, "free")
    budget = {"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}}
    kubectl.store.create(kinds.DISRUPTION_BUDGET, budget)
    kept = bound(kubectl.store, "kept", meta={"labels": {"app": "web"}})
    kubectl.store.update(kinds.POD, with_field(kept, ("status", "phase"), "Running"), subresource="status")
    draining = await kubectl.start("drain", "n1", "--force", "--grace-period=0")
    assert draining.stderr is not None
    while "would violate the pod's disruption budget" not in (line := (await draining.stderr.readline()).decode()):
        assert line, "drain ended without having met the budget"
    draining.terminate()
    await draining.wait()
    assert [obj["metadata"]["name"] for obj in kubectl.store.all(kinds.POD)] == ["kept"]
    assert kubectl.store.get(kinds.NODE, "", "n1")["spec"]["unschedulable"] is True
    await kubectl("uncordon n1")
    await kubectl("taint node n1 gpu=bad:NoSchedule")
    (taint,) = kubectl.store.get(kinds.NODE, "", "n1")["spec"]["taints"]
    assert (taint["key"], taint["value"], taint["effect"]) == ("gpu", "bad", "NoSchedule")


# --- describe, events, explain ------------------------------------------------------------------------------------


async def test_describe_shows_pods_nodes_claims_slices_and_their_events(kubectl: Kubectl):
    store = kubectl.store
    store.create(kinds.NODE, {"metadata": {"name": "n1"}, "status": {"capacity": {"cpu": "8"}}})
    requests = {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu.example.com"}}]}
    store.create(kinds.CLAIM, {"metadata": {"name": "one"}, "spec": {"devices": requests}})
    claim = with_field(store.get(kinds.CLAIM, "default", "one"), ("status",), {"allocation": allocation()})
    claim = with_field(claim, ("status", "reservedFor"), [consumer("web")])
    store.update(kinds.CLAIM, claim, subresource="status")
    pool = {"name": "n1", "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": "gpu.example.com", "nodeName": "n1", "pool": pool, "devices": [{"name": "gpu-0"}]}
    store.create(kinds.SLICE, {"metadata": {"name": "n1-gpus"}, "spec": spec})
    web = bound(store, container={"resources": {"limits": {"cpu": "2"}}})
    involved = {"apiVersion": "v1", "kind": "Pod", "name": "web", "namespace": "default", "uid": web["metadata"]["uid"]}
    event = {"reason": "Scheduled", "message": "bound to n1", "type": "Normal", "involvedObject": involved}
    store.create(kinds.EVENT, {"metadata": {"name": "web.1"}, "source": {"component": "tutti"}, **event})
    described = await kubectl("describe pod web")
    assert "n1" in described
    assert "bound to n1" in described
    assert "web" in await kubectl("describe node n1")
    assert "gpu-0" in await kubectl("describe resourceclaim one")
    assert "Resource Slice Count" in await kubectl("describe resourceslice n1-gpus")
    (row,) = rows(await kubectl("get events"))
    assert row[1:4] == ["Normal", "Scheduled", "pod/web"]
    assert len(rows(await kubectl("events --for pod/web"))) == 1
    (row,) = rows(await kubectl("get resourceclaims"))
    assert row[:2] == ["one", "allocated,reserved"]
    (shown,) = rows(await kubectl("get resourceslices"))
    assert shown[:4] == ["n1-gpus", "n1", "gpu.example.com", "n1"]


async def test_custom_resources_are_at_home(kubectl: Kubectl):
    await kubectl("apply -f -", WIDGETS)
    await kubectl("wait --for=condition=Established crd/widgets.example.com --timeout=20s")
    assert await kubectl("apply -f -", widget(color="red")) == "widget.example.com/w created\n"
    assert await kubectl("apply -f -", widget(color="red")) == "widget.example.com/w unchanged\n"
    assert rows(await kubectl("get wd")) == [["w", "1"]]
    assert rows(await kubectl("get widgets -o wide")) == [["w", "1", "red"]]
    assert "unknown field" in await kubectl("apply -f -", widget(colour="red"), fails=True)
    assert "must be of type integer" in await kubectl("apply -f -", widget(size="big"), fails=True)
    await kubectl('patch widget w --type merge --subresource status -p {"status":{"done":true}}')
    await kubectl("wait --for=jsonpath={.status.done}=true widget/w --timeout=20s")
    assert "Color" in await kubectl("describe widget w")
    assert "How big." in await kubectl("explain widget.spec")
    await kubectl("delete crd widgets.example.com")
    assert "doesn't have a resource type" in await kubectl("get gadgets", fails=True)
    assert kubectl.store.kinds.named("example.com/v1", "Widget") is None


async def test_the_server_says_what_it_has(kubectl: Kubectl):
    resources = await kubectl("api-resources")
    for line in ("resourceclaims", "resourceslices", "poddisruptionbudgets", "customresourcedefinitions"):
        assert line in resources
    assert "resource.k8s.io/v1" in (await kubectl("api-versions")).splitlines()
    assert (await kubectl.json("version"))["serverVersion"]["minor"] == "36"
    assert await kubectl("get --raw /readyz") == "ok"


async def test_logs_are_short(kubectl: Kubectl):
    web = bound(kubectl.store)
    kubectl.store.update(kinds.POD, with_field(web, ("status", "phase"), "Running"), subresource="status")
    assert "simulated on node n1" in await kubectl("logs web")
