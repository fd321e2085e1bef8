"""`tutti plan -f`: manifests as people write them -> the snapshot the service would see."""

import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.model.snapshot import Policy, Snapshot
from scheduler.state import manifests
from scheduler.state.manifests import InputError
from scheduler.state.translate import snapshot
from tests.manifests import (
    Document,
    device_class,
    h100_node,
    job,
    merged,
    node,
    pod,
    pod_group,
    pod_spec,
    priority_class,
    queue,
    request,
    resource_claim,
    resource_claim_template,
    resource_slice,
    seed_queue,
    state,
)
from tests.storage import scratch, storage_class, volume_claim

EXAMPLES = sorted((Path(__file__).parents[2] / "deploy" / "examples").glob("*.yaml"))


def seen(*documents: Document | list[Document], **how: Any) -> Snapshot:
    flat = [each for given in documents for each in (given if isinstance(given, list) else [given])]
    return manifests.snapshot([(f"document {number}", each) for number, each in enumerate(flat, 1)], **how)


def refused(*documents: Document) -> InputError:
    with pytest.raises(InputError) as caught:
        seen(*documents)
    return caught.value


def bare(document: Document) -> Document:
    """The document without the uid that the builders give."""
    return {**document, "metadata": {name: value for name, value in document["metadata"].items() if name != "uid"}}


# Reading text.


def test_yaml_documents_and_json_lists_are_the_same() -> None:
    documents = [node("n1"), queue("q"), pod("p")]
    as_yaml = manifests.parse("---\n" + yaml.safe_dump_all(documents), "f.yaml")
    as_json = manifests.parse(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": documents}), "f.json")
    assert [each for _, each in as_yaml] == [each for _, each in as_json] == documents
    assert [where for where, _ in as_yaml] == ["f.yaml document 1", "f.yaml document 2", "f.yaml document 3"]
    assert [where for where, _ in as_json] == ["f.json item 1", "f.json item 2", "f.json item 3"]


def test_items_of_a_list_of_one_kind_need_not_say_what_they_are() -> None:
    items = [{name: value for name, value in pod("p").items() if name not in ("apiVersion", "kind")}]
    ((_, found),) = manifests.parse(yaml.safe_dump({"apiVersion": "v1", "kind": "PodList", "items": items}), "f")
    assert (found["apiVersion"], found["kind"]) == ("v1", "Pod")


def test_times_stay_text() -> None:
    ((_, found),) = manifests.parse("metadata: {creationTimestamp: 2026-01-01T00:00:00Z}", "f")
    assert found["metadata"]["creationTimestamp"] == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("a: [", "while parsing"),
        ("- 1\n- 2", "a document is list, not a mapping"),
        ("just words", "a document is str, not a mapping"),
        ("kind: A\nkind: B", "key 'kind' is there twice"),
        ("a: &a [*a]", "nested too deeply"),
        ("\x00", "unacceptable character"),
    ],
)
def test_what_is_no_manifest_is_refused_with_its_place(text: str, cause: str) -> None:
    with pytest.raises(InputError) as caught:
        manifests.parse(text, "gang.yaml")
    assert caught.value.object == "gang.yaml"
    assert cause in caught.value.cause
    assert str(caught.value).startswith("gang.yaml: ")


def test_aliases_cannot_blow_up_a_document() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(InputError, match="too large"):
        manifests.parse("\n".join(lines), "bomb.yaml")


@pytest.mark.parametrize(
    "text", ["!!map [a]", "!!map x", "!!set [a]", "!!timestamp x", "!!bool x", "!!int ''", "!!float x", "!!omap x"]
)
def test_a_tag_that_does_not_fit_its_value_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        manifests.parse(f"a: {text}", "gang.yaml")


def test_numbers_in_base_60_are_text() -> None:
    ((_, found),) = manifests.parse("{a: 22:22, b: 1:30.5, c: 0x10, d: -1.5e+3, e: 12, f: .5}", "gang.yaml")
    assert found == {"a": "22:22", "b": "1:30.5", "c": 16, "d": -1500.0, "e": 12, "f": 0.5}


def test_merge_keys_are_refused_before_they_multiply() -> None:
    lines = ["a0: &a0 {k: v}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 60))]
    with pytest.raises(InputError, match="merge keys") as caught:
        manifests.parse("\n".join(lines), "bomb.yaml")
    assert "line 2" in caught.value.cause


def test_documents_together_cannot_blow_up_what_each_of_them_may() -> None:
    letters = ", ".join("x" * 100)
    one = f"a: &a [{letters}]\nb: &b [{', '.join(['*a'] * 100)}]\nc: [{', '.join(['*b'] * 5)}]"
    assert len(manifests.parse(one, "aliases.yaml")) == 1
    with pytest.raises(InputError, match="document 2: is nested too deeply or too large"):
        manifests.parse("\n---\n".join([one] * 3), "aliases.yaml")


# What every object needs.


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"kind": "Pod", "metadata": {"name": "p"}}, "apiVersion"),
        ({"apiVersion": "v1", "metadata": {"name": "p"}}, "kind"),
        ({"apiVersion": "v1", "kind": "Pod"}, "metadata.name"),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": 5}, "metadata"),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {}}, "metadata.name"),
        ({"apiVersion": "batch/v1beta1", "kind": "Job", "metadata": {"name": "j"}}, "apiVersion"),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}, ""),
        (merged(pod("p"), metadata={"labels": {"replicas": 3}}), "metadata.labels.replicas"),
        (merged(node("n"), spec={"unschedulable": "no"}), "spec.unschedulable"),
    ],
)
def test_an_object_that_cannot_be_read_is_refused_with_object_field_cause_and_cure(
    document: Document, field: str
) -> None:
    error = refused(node("good"), document)
    assert error.field == field
    assert "document 2" in error.object
    assert error.cause
    assert error.cure


def test_a_wrong_version_names_the_right_one() -> None:
    assert "write it as batch/v1" in refused(merged(job("j"), apiVersion="batch/v1beta1")).cure


def test_the_same_object_twice_is_refused_if_the_two_differ() -> None:
    assert "describes the same object differently" in str(refused(node("n", cpu="1"), node("n", cpu="2")))
    assert len(seen(node("n"), node("n")).nodes) == 1


def test_kinds_that_no_decision_reads_are_left_out() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {}}
    assert seen(service, node("n")).set_aside == ()


def test_namespaces_and_uids_are_filled_in_and_depend_on_nothing_else() -> None:
    nowhere = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod_spec()}
    (gang,) = seen(nowhere).gangs
    assert gang.key == "default/p"
    assert gang.uid == seen(node("n"), nowhere).gangs[0].uid != ""


def test_a_semantic_mistake_is_a_reason_in_the_plan_and_no_refusal() -> None:
    found = seen(queue("team", gpu={"quota": "lots"}), pod("p", cpu="many"))
    assert [each.object for each in found.set_aside] == ["Pod/a/p", "Queue/team"]


@pytest.mark.parametrize(
    ("name", "says"),
    [(123, "metadata.name: 123 is no text"), ("", "metadata.name: is missing"), (None, "metadata.name: is missing")],
)
def test_a_name_that_is_no_text_is_told_from_one_that_is_missing(name: object, says: str) -> None:
    assert says in str(refused(node("good"), merged(pod("p"), metadata={"name": name})))


@pytest.mark.parametrize("name", ["a/b", "..", "a%2f", "a\0"])
def test_a_name_that_is_no_part_of_a_path_is_refused(name: str) -> None:
    assert "is no name" in str(refused(node("good"), merged(pod("p"), metadata={"name": name})))
    assert "is no name" in str(refused(node("good"), merged(pod("p"), metadata={"namespace": name})))


def test_each_document_with_a_generated_name_is_an_object_of_its_own() -> None:
    nameless = bare(pod("p"))
    nameless["metadata"] = {"namespace": "a", "generateName": "p-"}
    once, twice = keys(seen(nameless)), keys(seen(nameless, nameless))
    assert len(twice) == 2
    assert set(once) < set(twice), "the first keeps its name when another follows"
    assert twice == keys(seen(nameless, node("n"), nameless))


@pytest.mark.parametrize("value", [".inf", ".nan", "0x" + "f" * 5000])
def test_values_that_no_json_holds_are_refused_with_their_place(value: str) -> None:
    with pytest.raises(InputError) as caught:
        manifests.parse(f"{{kind: A, spec: {{list: [1, {value}]}}}}", "gang.yaml")
    assert caught.value.field == "spec.list[1]"


def test_keys_are_text_as_the_api_server_reads_them() -> None:
    ((_, found),) = manifests.parse("{1: a, true: b, 1.50: c}", "gang.yaml")
    assert found == {"1": "a", "true": "b", "1.50": "c"}
    with pytest.raises(InputError, match="a key is no text"):
        manifests.parse("{[a]: b}", "gang.yaml")


def test_a_list_without_a_list_is_refused() -> None:
    with pytest.raises(InputError, match="items: of a List is no list"):
        manifests.parse("{apiVersion: v1, kind: List, items: 5}", "gang.yaml")


# What controllers would make.


def keys(found: Snapshot) -> list[str]:
    return [each.key for gang in found.gangs for each in gang.pods]


def owner(api_version: str, kind: str, name: str, **spec: Any) -> Document:
    template = {"metadata": {"labels": {"app": name}}, "spec": pod_spec()}
    metadata = {"name": name, "namespace": "a"}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": {"template": template, **spec}}


def test_a_job_becomes_its_pods_in_its_gang() -> None:
    (gang,) = seen(pod_group("train", min_member=3), job("train", parallelism=3, group="train")).gangs
    assert [each.key for each in gang.pods] == ["a/train-0", "a/train-1", "a/train-2"]
    assert gang.problems == ()


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"spec": {"suspend": True}}, 0),
        ({"spec": {"completions": 2}}, 2),
        ({"spec": {"completions": 4}, "status": {"succeeded": 3}}, 1),
        ({"status": {"active": 3}}, 0),
        ({"status": {"conditions": [{"type": "Complete", "status": "True"}]}}, 0),
    ],
)
def test_a_job_makes_the_pods_it_still_needs(fields: dict[str, Any], count: int) -> None:
    assert len(keys(seen(merged(job("j", parallelism=3), **fields)))) == count


@pytest.mark.parametrize("kind", ["Deployment", "ReplicaSet", "StatefulSet"])
def test_replicas_become_pods(kind: str) -> None:
    assert keys(seen(owner("apps/v1", kind, "web", replicas=2))) == ["a/web-0", "a/web-1"]


def job_set(**fields: Any) -> Document:
    template = {"spec": {"template": {"spec": pod_spec()}}}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": "js", "namespace": "a"},
        "spec": {"replicatedJobs": [{"name": "w", "replicas": 1, "template": template, **fields}]},
    }


def leader_worker_set(**fields: Any) -> Document:
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": "lws", "namespace": "a"},
        "spec": {"leaderWorkerTemplate": {"size": 2, "workerTemplate": {"spec": pod_spec()}}, **fields},
    }


@pytest.mark.parametrize("count", [-3, "3", 2.5, True, 2**31, [1]])
def test_a_count_that_is_none_is_refused_with_its_place(count: object) -> None:
    assert refused(owner("apps/v1", "Deployment", "web", replicas=count)).field == "spec.replicas"
    assert refused(merged(job("j"), spec={"parallelism": count})).field == "spec.parallelism"
    assert refused(job_set(replicas=count)).field == "spec.replicatedJobs[0].replicas"
    assert refused(leader_worker_set(replicas=count)).field == "spec.replicas"


@pytest.mark.parametrize(
    "documents",
    [
        [owner("apps/v1", "Deployment", "web", replicas=20_001)],
        [owner("apps/v1", "Deployment", "web", replicas=2_000_000_000)],
        [job_set(replicas=60_000)],
        [leader_worker_set(replicas=20_000)],
        [owner("apps/v1", "Deployment", "web", replicas=1), job_set(replicas=20_000)],
    ],
)
def test_a_few_letters_cannot_ask_for_millions_of_pods(documents: list[Document]) -> None:
    assert "more than 20000 pods would be made of these manifests" in str(refused(*documents))


def test_a_large_template_cannot_be_multiplied_beyond_memory() -> None:
    large = owner("apps/v1", "Deployment", "web", replicas=10_000)
    large["spec"]["template"]["metadata"]["annotations"] = {"note": "x" * 100_000}
    assert "bytes of objects would be made" in str(refused(large))


def test_replicated_jobs_of_one_name_are_refused() -> None:
    twice = job_set()
    twice["spec"]["replicatedJobs"] *= 2
    assert refused(twice).field == "spec.replicatedJobs[1].name"


def test_replicas_without_pods_cost_nothing() -> None:
    none = {"spec": {"parallelism": 0, "template": {"spec": pod_spec()}}}
    assert keys(seen(job_set(replicas=2**31 - 1, template=none))) == []


@pytest.mark.parametrize(
    ("document", "field"),
    [
        (owner("apps/v1", "Deployment", "web", selector={"matchLabels": ["a"]}), "spec.selector.matchLabels"),
        (owner("apps/v1", "StatefulSet", "web", template=None), "spec.template"),
        (owner("apps/v1", "ReplicaSet", "web", template={"metadata": {"labels": 5}}), "spec.template.metadata.labels"),
        (merged(job("j"), status={"conditions": 5}), "status.conditions"),
        (merged(job("j"), spec={"suspend": "no"}), "spec.suspend"),
        (merged(job_set(), spec={"replicatedJobs": 5}), "spec.replicatedJobs"),
        (merged(job_set(), spec={"replicatedJobs": [5]}), "spec.replicatedJobs[0]"),
        (merged(leader_worker_set(), spec={"leaderWorkerTemplate": "x"}), "spec.leaderWorkerTemplate"),
        (merged(pod("p"), metadata={"ownerReferences": 5}), "metadata.ownerReferences"),
        (merged(pod("p"), status={"resourceClaimStatuses": 5}), "status.resourceClaimStatuses"),
        (merged(pod("p"), status={"resourceClaimStatuses": [{"name": [1]}]}), "status.resourceClaimStatuses[0].name"),
        (merged(pod("p"), spec={"resourceClaims": [{"name": [1]}]}), "spec.resourceClaims[0].name"),
        (
            merged(pod("p"), spec={"resourceClaims": [{"resourceClaimTemplateName": "t"}]}),
            "spec.resourceClaims[0].name",
        ),
    ],
)
def test_a_field_that_controllers_read_is_refused_with_its_place(document: Document, field: str) -> None:
    error = refused(node("good"), document)
    assert error.field == field
    assert error.object.startswith(f"document 2: {document['kind']} a/")
    assert error.cure


def test_pods_that_are_given_are_not_made_again() -> None:
    made = job("j", parallelism=3)
    assert keys(seen(made, pod("j-x7f", owner=made))) == ["a/j-x7f"]
    web = owner("apps/v1", "Deployment", "web", replicas=2, selector={"matchLabels": {"app": "web"}})
    set_ = owner("apps/v1", "ReplicaSet", "web-1", replicas=2)
    assert keys(seen(web, pod("web-1-a", owner=set_, labels={"app": "web"}))) == ["a/web-1-a"]
    set_["metadata"]["ownerReferences"] = [{"kind": "Deployment", "name": "web", "controller": True}]
    assert keys(seen(web, set_)) == ["a/web-1-0", "a/web-1-1"]


def test_two_owners_of_one_name_do_not_make_the_same_pod() -> None:
    found = keys(seen(job("x"), owner("apps/v1", "StatefulSet", "x", replicas=1)))
    assert found == ["a/x-0", "a/x-statefulset-0"]


def test_a_job_set_becomes_the_pods_of_its_replicas_in_one_gang() -> None:
    template = {"spec": {"parallelism": 2, "completions": 2, "template": {"spec": pod_spec()}}}
    found = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": "js", "namespace": "a"},
        "spec": {"replicatedJobs": [{"name": "workers", "replicas": 2, "template": template}]},
    }
    (gang,) = seen(found).gangs
    assert gang.owner == "JobSet/a/js"
    assert [each.name for each in gang.pods] == [f"js-workers-{job}-{pod}" for job in (0, 1) for pod in (0, 1)]
    assert gang.problems == ()


def test_a_leader_worker_set_becomes_its_groups() -> None:
    found = {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": "vllm", "namespace": "a"},
        "spec": {"replicas": 2, "leaderWorkerTemplate": {"size": 2, "workerTemplate": {"spec": pod_spec()}}},
    }
    gangs = seen(found).gangs
    assert [(gang.key, [each.name for each in gang.pods]) for gang in gangs] == [
        ("a/vllm-0", ["vllm-0", "vllm-0-1"]),
        ("a/vllm-1", ["vllm-1", "vllm-1-1"]),
    ]


def test_a_template_becomes_a_claim_that_the_pod_owns_and_names() -> None:
    found = seen(resource_claim_template("one"), bare(pod("p", templates={"gpu": "one"})))
    (gang,) = found.gangs
    assert gang.pods[0].claims[0].claim == "a/p-gpu"
    assert found.claims["a/p-gpu"].owner_uid == gang.pods[0].uid
    assert found.claims["a/p-gpu"].spec.devices.requests is not None


def test_claims_that_are_given_are_not_made_again() -> None:
    owner_ = pod("p", templates={"gpu": "one"})
    mark = {"resource.kubernetes.io/pod-claim-name": "gpu"}
    given = merged(resource_claim("p-gpu-x7", owner=owner_), metadata={"annotations": mark})
    found = seen(resource_claim_template("one"), owner_, given)
    assert list(found.claims) == ["a/p-gpu-x7"]
    assert found.gangs[0].pods[0].claims[0].claim == "a/p-gpu-x7"
    named = pod("p", templates={"gpu": "one"}, made_claims={"gpu": "elsewhere"})
    assert list(seen(resource_claim_template("one"), named).claims) == []


def test_a_template_that_is_missing_leaves_the_pod_waiting_for_its_claim() -> None:
    (gang,) = seen(pod("p", templates={"gpu": "lost"})).gangs
    assert gang.pods[0].claims[0].claim is None


def test_priority_classes_are_resolved_as_admission_would() -> None:
    assert seen(priority_class("high", 9), job("j", priority_class="high")).gangs[0].priority == 9


# Older forms.


def test_requests_that_name_their_class_directly_are_understood_whatever_version_they_claim() -> None:
    flat = {"name": "gpus", "deviceClassName": "gpu.nvidia.com", "count": 8, "selectors": []}
    for version in ("v1", "v1beta1", "v1beta2"):
        document = merged(
            resource_claim("c"),
            apiVersion=f"resource.k8s.io/{version}",
            spec={"devices": {"requests": [flat, request("other")]}},
        )
        devices = seen(document).claims["a/c"].spec.devices.requests
        assert devices is not None
        assert devices[0].exactly is not None
        assert (devices[0].exactly.device_class_name, devices[0].exactly.count) == ("gpu.nvidia.com", 8)
        assert devices[1].exactly is not None


def test_devices_of_older_slices_are_understood() -> None:
    basic = {"name": "gpu-0", "basic": {"attributes": {"type": {"string": "gpu"}}}}
    (found,) = seen(merged(resource_slice("n1", basic), apiVersion="resource.k8s.io/v1beta1")).slices
    assert found.spec.devices is not None
    assert found.spec.devices[0].attributes is not None
    assert found.spec.devices[0].attributes["type"].string == "gpu"


def test_the_forms_of_articles_make_the_gang_they_mean() -> None:
    text = """
apiVersion: kai.scheduler/v1alpha1
kind: Queue
metadata: {name: team-ml-research}
spec:
  parent: root
  resources: {gpu: {quota: 16, limit: 32, overQuotaWeight: 2}}
  priority: 100
---
apiVersion: scheduling.run.ai/v1
kind: PodGroup
metadata: {name: llama-finetune}
spec: {minMember: 8, queue: team-ml-research, priorityClassName: train-high}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: h100-nvlink-group}
spec:
  spec:
    devices:
      requests:
      - {name: gpus, deviceClassName: gpu.nvidia.com, count: 8}
      constraints:
      - {requests: [gpus], matchAttribute: gpu.nvidia.com/nvlinkDomain}
---
apiVersion: batch/v1
kind: Job
metadata: {name: llama-finetune}
spec:
  parallelism: 8
  completions: 8
  template:
    metadata: {labels: {pod-group-name: llama-finetune}}
    spec:
      schedulerName: tutti
      containers:
      - {name: trainer, image: myorg/llama-trainer:v2, resources: {claims: [{name: gpu}]}}
      resourceClaims:
      - {name: gpu, resourceClaimTemplateName: h100-nvlink-group}
"""
    found = manifests.snapshot(manifests.parse(text, "article.yaml"))
    (gang,) = found.gangs
    assert (gang.key, gang.queue, gang.min_member, len(gang.pods)) == (
        "default/llama-finetune",
        "team-ml-research",
        8,
        8,
    )
    assert gang.problems == ()
    assert len(found.claims) == 8
    assert found.queues[0].parent is None
    assert found.set_aside == ()


# Determinism, and laying over a cluster.


def _all_examples() -> list[tuple[str, Document]]:
    documents = [pair for path in EXAMPLES for pair in manifests.parse(path.read_text(), path.name)]
    return documents + [("nodes", each) for name in ("n1", "n2") for each in (*h100_node(name), device_class())]


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False))
def test_shuffled_documents_give_the_identical_snapshot(shuffle: random.Random) -> None:
    documents = _all_examples()
    expected = manifests.snapshot(documents)
    shuffle.shuffle(documents)
    assert manifests.snapshot(documents) == expected


def test_every_example_is_read_without_a_problem() -> None:
    assert EXAMPLES
    found = manifests.snapshot(_all_examples())
    assert found.set_aside == ()
    assert [gang.problems for gang in found.gangs if gang.problems] == []
    assert all(gang.queue for gang in found.gangs)


def test_the_time_is_the_newest_object_unless_it_is_given() -> None:
    documents = [pod("p", created="2026-01-01T00:00:05Z"), pod("q", created="2026-01-01T00:00:01Z")]
    assert seen(documents).now_ms == 1_767_225_605_000
    assert seen(documents, now_ms=7).now_ms == 7
    assert seen(node("n")).now_ms == 0


def test_manifests_are_laid_over_a_cluster_which_stays_as_it_is() -> None:
    cluster = state(node("n1"), queue("team"), pod("running", node="n1"))
    before = snapshot(cluster, now_ms=0, policy=Policy())
    found = seen(bare(queue("team", gpu={"limit": 4})), job("j", parallelism=2, queue="team"), base=cluster)
    assert keys(found) == ["a/j-0", "a/j-1", "a/running"]
    assert found.queues[0]["gpu"].limit == 4000
    assert [each.name for each in found.nodes] == ["n1"]
    assert snapshot(cluster, now_ms=0, policy=Policy()) == before


def test_a_pod_group_given_again_stays_the_same_object_of_the_cluster() -> None:
    cluster = state(pod_group("g", min_member=1, labels={"team": "x"}), pod("p", group="g"))
    (gang,) = seen(bare(pod_group("g", min_member=2)), base=cluster).gangs
    assert (gang.uid, gang.min_member) == ("uid-a-g", 2)


def test_pods_of_a_job_that_the_cluster_runs_are_not_made_again() -> None:
    made = job("j", parallelism=2)
    cluster = state(made, pod("j-abc", owner=made, node="n1"))
    assert keys(seen(bare(made), base=cluster)) == ["a/j-abc"]


def test_a_written_document_counts_over_the_same_object_read_from_a_cluster() -> None:
    live = merged(queue("team", gpu={"limit": 1}), metadata={"resourceVersion": "7", "uid": "live"})
    written = bare(queue("team", gpu={"limit": 4}))
    for documents in ([live, written], [written, live]):
        assert seen(*documents).queues[0]["gpu"].limit == 4000


def test_seed_queues_keep_a_parent_that_exists() -> None:
    assert [each.parent for each in seen(seed_queue("x", parent="root"), queue("root")).queues] == [None, "root"]


def test_ephemeral_volumes_and_stateful_sets_bring_their_volume_claims() -> None:
    template = {"metadata": {"name": "data"}, "spec": volume_claim("any")["spec"]}
    kept = [scratch("tmp"), {"name": "data", "emptyDir": {}}]
    database = owner("apps/v1", "StatefulSet", "db", replicas=2, volumeClaimTemplates=[template])
    database["spec"]["template"]["spec"]["volumes"] = kept
    found = seen(database, storage_class())
    assert sorted(found.storage.claims) == ["a/data-db-0", "a/data-db-1", "a/db-0-tmp", "a/db-1-tmp"]
    pods = {pod.key: pod for gang in found.gangs for pod in gang.pods}
    assert [volume.claim for volume in pods["a/db-1"].volumes] == ["a/db-1-tmp", "a/data-db-1"]
    assert found.storage.claims["a/db-1-tmp"].owner_uid == pods["a/db-1"].uid
