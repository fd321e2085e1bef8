"""What every kind of owner makes of its pods: which gang, its minimum, its sub-groups, its class, its queue.

Source: reference kai.md 1.4 (KAI's pod grouper); the APIs of the projects that define the kinds.
"""

from typing import Any

import pytest

from scheduler.model.snapshot import Policy, Snapshot
from scheduler.model.workloads import Gang
from scheduler.state.cluster import ClusterState
from scheduler.state.translate import snapshot
from tests.manifests import Document, change, job, merged, pod, pods, priority_class, state
from tests.owners import kubeflow, kubeflow_pods, owner, ray_cluster, ray_pods

KAI = {"kai.scheduler/queue": "team"}


def seen(*documents: Document | list[Document]) -> Snapshot:
    return snapshot(state(*documents), now_ms=0, policy=Policy())


def only(*documents: Document | list[Document]) -> Gang:
    (gang,) = seen(*documents).gangs
    return gang


def minima(gang: Gang) -> dict[str, int | None]:
    """What each leaf needs; without sub-groups what the gang does, under ""."""
    return {each.name: each.min_member for each in gang.sub_groups} if gang.sub_groups else {"": gang.min_member}


# The kind, its replicas, what it says besides, and what must start together.
JOBS: list[tuple[str, dict[str, int], dict[str, Any], dict[str, int]]] = [
    ("TFJob", {"Chief": 1, "PS": 2, "Worker": 3}, {}, {"": 6}),
    ("XGBoostJob", {"Master": 1, "Worker": 2}, {}, {"": 3}),
    ("JAXJob", {"Worker": 4}, {}, {"": 4}),
    ("TFJob", {"PS": 1, "Worker": 4}, {"runPolicy": {"schedulingPolicy": {"minAvailable": 3}}}, {"": 3}),
    ("MPIJob", {"Launcher": 1, "Worker": 4}, {}, {"": 5}),
    ("PyTorchJob", {"Master": 1, "Worker": 3}, {}, {"master": 1, "worker": 3}),
    ("PyTorchJob", {"Worker": 3}, {}, {"worker": 3}),
    ("PyTorchJob", {"Master": 1}, {}, {"master": 1}),
    ("PyTorchJob", {"Master": 1, "Worker": 7}, {"elasticPolicy": {"minReplicas": 4}}, {"master": 1, "worker": 3}),
    (
        "PyTorchJob",
        {"Master": 1, "Worker": 7},
        {"elasticPolicy": {"minReplicas": 4}, "runPolicy": {"schedulingPolicy": {"minAvailable": 6}}},
        {"master": 1, "worker": 5},
    ),
]


@pytest.mark.parametrize(("kind", "replicas", "says", "needs"), JOBS)
def test_a_distributed_job_is_one_gang(
    kind: str, replicas: dict[str, int], says: dict[str, Any], needs: dict[str, int]
) -> None:
    made = kubeflow(kind, "train", replicas, **says)
    gang = only(made, kubeflow_pods(made, replicas))
    assert (gang.key, gang.owner, gang.uid) == ("a/train", f"{kind}/a/train", "uid-a-train")
    assert (minima(gang), len(gang.pods), gang.problems) == (needs, sum(replicas.values()), ())


def test_a_launcher_that_waits_for_its_workers_is_needed_once_it_is_there() -> None:
    made = kubeflow("MPIJob", "mpi", {"Launcher": 1, "Worker": 4}, launcherCreationPolicy="WaitForWorkersReady")
    workers = kubeflow_pods(made, {"Worker": 4})
    assert only(made, workers).min_member == 4
    # The operator makes the launcher by way of a Job.
    between = merged(job("mpi-launcher"), metadata=owner("Job", "mpi-launcher", "batch/v1", above=made)["metadata"])
    launcher = kubeflow_pods(made, {"Launcher": 1})
    launcher[0]["metadata"]["ownerReferences"][0] |= {"apiVersion": "batch/v1", "kind": "Job", "name": "mpi-launcher"}
    gang = only(made, between, workers, launcher)
    assert (gang.min_member, len(gang.pods)) == (5, 5)


def test_more_than_all_replicas_never_starts_and_says_so() -> None:
    replicas = {"Worker": 2}
    made = kubeflow("JAXJob", "jax", replicas, runPolicy={"schedulingPolicy": {"minAvailable": 3}})
    (problem,) = only(made, kubeflow_pods(made, replicas)).problems
    assert "asks for 3 pods that start together, and the JAXJob has 2 replicas" in problem.message


def test_workers_in_segments_have_a_place_each() -> None:
    """Source: reference kai.md 1 (segments)."""
    rack = {
        "kai.scheduler/segment-size": "2",
        "kai.scheduler/segment-topology-required-placement": "rack",
        "kai.scheduler/topology": "racks",
    }
    replicas = {"Master": 1, "Worker": 5}
    made = kubeflow("PyTorchJob", "train", replicas, template={"metadata": {"annotations": rack}})
    levels = {"apiVersion": "kai.scheduler/v1alpha1", "kind": "Topology", "metadata": {"name": "racks", "uid": "u"}}
    gang = only({**levels, "spec": {"levels": [{"nodeLabel": "rack"}]}}, made, kubeflow_pods(made, {"Master": 1}),
                kubeflow_pods(made, {"Worker": 5}, annotations=rack))  # fmt: skip
    assert gang.problems == ()
    assert [(each.name, each.parent, each.min_member, each.min_sub_group) for each in gang.sub_groups] == [
        ("master", None, 1, None),
        ("worker", None, None, 3),
        ("worker-0", "worker", 2, None),
        ("worker-1", "worker", 2, None),
        ("worker-2", "worker", 1, None),
    ]
    assert [each.sub_group for each in gang.pods] == ["master", *["worker-0"] * 2, *["worker-1"] * 2, "worker-2"]
    assert {each.topology.required for each in gang.sub_groups if each.topology} == {"rack"}


def test_a_size_of_segments_that_is_no_number_is_named_with_its_place() -> None:
    wrong = {"metadata": {"annotations": {"kai.scheduler/segment-size": "two"}}}
    made = kubeflow("PyTorchJob", "train", {"Worker": 2}, template=wrong)
    (problem,) = only(made, kubeflow_pods(made, {"Worker": 2})).problems
    assert problem.message.startswith(
        "PyTorchJob/a/train: spec.pytorchReplicaSpecs.Worker.template.metadata.annotations.kai.scheduler/segment-size"
    )


# Ray.


def test_a_ray_cluster_starts_with_its_head_and_the_least_of_every_group() -> None:
    made = ray_cluster(
        "ray",
        {"groupName": "gpu", "replicas": 4, "minReplicas": 2, "maxReplicas": 8},
        {"groupName": "cpu", "replicas": 3},
        {"groupName": "tpu", "replicas": 2, "numOfHosts": 4},
        {"groupName": "idle", "replicas": 5, "suspend": True},
        {"groupName": "later"},
    )
    gang = only(made, ray_pods(made, {"gpu": 4, "cpu": 3, "tpu": 8, "later": 1}))
    assert minima(gang) == {"headgroup": 1, "gpu": 2, "cpu": 3, "tpu": 8, "idle": 0, "later": 0}
    assert (gang.owner, gang.problems, len(gang.pods)) == ("RayCluster/a/ray", (), 17)


def test_workers_of_a_group_that_the_cluster_no_longer_lists_hold_nobody_up() -> None:
    made = ray_cluster("ray", {"groupName": "new", "replicas": 1})
    gang = only(made, ray_pods(made, {"new": 1, "old": 2}))
    assert (minima(gang), gang.problems) == ({"headgroup": 1, "new": 1, "old": 0}, ())


def test_a_ray_cluster_that_is_scaled_up_does_not_end_for_want_of_the_rest_unless_it_asks_to() -> None:
    made = ray_cluster("ray", {"groupName": "gpu", "replicas": 1})
    assert only(made, ray_pods(made, {"gpu": 1})).staleness_grace_ms is None
    asks = merged(made, metadata={"annotations": {"kai.scheduler/staleness-grace-period": "90s"}})
    assert only(asks, ray_pods(asks, {"gpu": 1})).staleness_grace_ms == 90_000


@pytest.mark.parametrize("kind", ["RayJob", "RayService"])
def test_a_ray_job_and_a_ray_service_lend_their_labels_to_their_cluster(kind: str) -> None:
    above = owner(kind, "top", "ray.io/v1", labels={**KAI, "ray.io/priority-class-name": "high"})
    made = ray_cluster("top-abc", {"groupName": "gpu", "replicas": 1}, above=above)
    gang = only(above, made, ray_pods(made, {"gpu": 1}), priority_class("high", 7))
    assert (gang.key, gang.queue, gang.priority) == ("a/top-abc", "team", 7)


def test_what_submits_a_ray_job_is_alone_and_in_the_same_queue() -> None:
    above = owner("RayJob", "top", "ray.io/v1", labels=KAI)
    submits = merged(job("top"), metadata=owner("Job", "top", "batch/v1", above=above)["metadata"])
    gang = only(above, submits, pod("top-xyz", owner=submits))
    assert (gang.key, gang.min_member, gang.queue) == ("a/top-xyz", 1, "team")


# Seen late, or not at all.


@pytest.mark.parametrize(
    ("made", "made_pods"),
    [
        (one := kubeflow("JAXJob", "jax", {"Worker": 2}), kubeflow_pods(one, {"Worker": 2})),
        (two := ray_cluster("ray", {"groupName": "gpu", "replicas": 1}), ray_pods(two, {"gpu": 1})),
    ],
    ids=["JAXJob", "RayCluster"],
)
def test_pods_of_a_gang_wait_for_the_object_that_says_how_many_they_are(
    made: Document, made_pods: list[Document]
) -> None:
    found = state(made_pods)
    (waiting,) = snapshot(found, now_ms=0, policy=Policy()).gangs
    (problem,) = waiting.problems
    assert f"{made['kind']} {waiting.key}, which may ask for a gang, has not been seen" in problem.message
    found.apply(change(made))
    (gang,) = snapshot(found, now_ms=0, policy=Policy()).gangs
    assert gang.problems == ()


def test_where_not_everything_is_listed_all_pods_there_are_start_together() -> None:
    """What `tutti plan` is given may lack the owner."""
    made = kubeflow("JAXJob", "jax", {"Worker": 9})
    found = ClusterState()
    for each in kubeflow_pods(made, {"Worker": 3}):
        found.apply(change(each))
    (gang,) = snapshot(found, now_ms=0, policy=Policy()).gangs
    assert (gang.min_member, gang.problems) == (3, ())


# Pods that start one by one; who names the queue, and which class holds in KAI's manifests.

DEPLOYMENT = owner("Deployment", "web", "apps/v1", labels=KAI)
STATEFUL_SET = owner("StatefulSet", "db", "apps/v1", labels=KAI)
NOTEBOOK = owner("Notebook", "nb", "kubeflow.org/v1", labels=KAI)
CRON_JOB = owner("CronJob", "nightly", "batch/v1", labels=KAI, annotations={"kai.scheduler/batch-min-member": "2"})
SELDON = owner("SeldonDeployment", "sd", "machinelearning.seldon.io/v1", labels=KAI)
KNATIVE = owner("Service", "kn", "serving.knative.dev/v1", labels=KAI)
CONFIGURATION = owner("Configuration", "kn", "serving.knative.dev/v1", above=KNATIVE)
REVISION = owner("Revision", "kn-1", "serving.knative.dev/v1", above=CONFIGURATION)
WORKFLOW = owner("Workflow", "flow", "argoproj.io/v1alpha1", labels=KAI)
SPARK = owner("SparkApplication", "pi", "sparkoperator.k8s.io/v1beta2", labels=KAI)
DYNAMO = owner("DynamoGraphDeployment", "graph", "nvidia.com/v1alpha1", labels=KAI)


def below(kind: str, name: str, above: Document) -> Document:
    version = {"ReplicaSet": "apps/v1", "Deployment": "apps/v1", "StatefulSet": "apps/v1", "Job": "batch/v1"}[kind]
    return owner(kind, name, version, above=above)


# The owners of a pod, the outermost first; the priority that KAI's chart has for it, and whether it may be preempted.
ALONE: list[tuple[list[Document], int, bool]] = [
    ([DEPLOYMENT, below("ReplicaSet", "web-1", DEPLOYMENT)], 125, False),
    ([owner("ReplicaSet", "rs", "apps/v1", labels=KAI)], 50, True),
    ([STATEFUL_SET], 50, True),
    ([NOTEBOOK, below("StatefulSet", "nb", NOTEBOOK)], 100, False),
    ([CRON_JOB, below("Job", "nightly-1", CRON_JOB)], 50, True),
    ([owner("Job", "once", "batch/v1", labels=KAI)], 50, True),
    ([SELDON, below("Deployment", "sd", SELDON)], 50, True),
    ([KNATIVE, CONFIGURATION, REVISION, below("Deployment", "kn-1", REVISION)], 125, False),
    ([WORKFLOW], 50, True),
    ([SPARK], 50, True),
    ([DYNAMO, below("Deployment", "graph-web", DYNAMO)], 125, False),
]


@pytest.mark.parametrize(("chain", "priority", "preemptible"), ALONE, ids=[row[0][0]["kind"] for row in ALONE])
def test_each_pod_is_alone_in_its_outermost_owners_queue(
    chain: list[Document], priority: int, preemptible: bool
) -> None:
    gangs = seen(chain, pods("p", 2, owner=chain[-1])).gangs
    assert [(gang.key, gang.min_member, gang.problems) for gang in gangs] == [("a/p-0", 1, ()), ("a/p-1", 1, ())]
    assert {(gang.queue, gang.priority, gang.preemptible) for gang in gangs} == {("team", priority, preemptible)}


def test_a_kind_that_we_do_not_know_leaves_the_queue_to_the_pod() -> None:
    """VirtualMachineInstances, DevWorkspaces, Tekton's runs and whatever comes: no gang, the pod's own labels."""
    unknown = owner("Whatever", "w", "example.com/v1", labels={"kai.scheduler/queue": "unread"})
    gang = only(pod("p", owner=unknown, labels=KAI))
    assert (gang.owner, gang.min_member, gang.queue, gang.priority) == ("Pod/a/p", 1, "team", 50)


def test_the_classes_of_kais_chart_hold_for_kais_manifests_only() -> None:
    gang = only(owner("Deployment", "web", "apps/v1"), pod("p", owner=DEPLOYMENT, queue="team"))
    assert (gang.priority, gang.preemptible) == (0, True)


def test_what_a_pod_says_of_its_priority_goes_before_the_class_of_its_kind() -> None:
    gang = only(STATEFUL_SET, priority_class("mine", 3), pod("p", owner=STATEFUL_SET, priority_class="mine"))
    assert gang.priority == 3


def test_a_label_on_the_owner_goes_before_that_on_the_pod() -> None:
    gang = only(STATEFUL_SET, pod("p", owner=STATEFUL_SET, labels={"kai.scheduler/queue": "other"}))
    assert gang.queue == "team"


def test_a_train_job_and_a_job_set_are_the_gang_of_the_job_set() -> None:
    above = owner("TrainJob", "tj", "trainer.kubeflow.org/v1alpha1", labels=KAI)
    replicated = [{"name": "node", "replicas": 1, "template": {"spec": {"parallelism": 2}}}]
    made = owner("JobSet", "tj", "jobset.x-k8s.io/v1alpha2", above=above, replicatedJobs=replicated)
    names = {"jobset-name": "tj", "replicatedjob-name": "node", "job-index": "0"}
    labels = {f"jobset.sigs.k8s.io/{name}": value for name, value in names.items()}
    gang = only(above, made, pods("tj-node-0", 2, labels=labels, owner=below("Job", "tj-node-0", made)),
                below("Job", "tj-node-0", made))  # fmt: skip
    assert (gang.owner, gang.queue, gang.problems) == ("JobSet/a/tj", "team", ())
    assert minima(gang) == {"node": None, "node/0": 2}


def test_owners_in_a_circle_are_each_looked_at_once() -> None:
    one = owner("Deployment", "one", "apps/v1")
    two = owner("ReplicaSet", "two", "apps/v1", above=one)
    one["metadata"]["ownerReferences"] = [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "two",
                                           "uid": "u", "controller": True}]  # fmt: skip
    assert only(one, two, pod("p", owner=two)).problems == ()


def test_a_replica_set_that_comes_after_its_pod_still_names_the_queue() -> None:
    other = owner("ReplicaSet", "other", "apps/v1")
    made = below("ReplicaSet", "web-1", DEPLOYMENT)
    found = state(other, DEPLOYMENT, pod("p", owner=made))
    (waiting,) = snapshot(found, now_ms=0, policy=Policy()).gangs
    assert "ReplicaSet a/web-1" in waiting.problems[0].message
    found.apply(change(made))
    (gang,) = snapshot(found, now_ms=0, policy=Policy()).gangs
    assert (gang.queue, gang.problems) == ("team", ())


def test_where_no_replica_set_may_be_read_pods_do_not_wait_for_theirs() -> None:
    assert only(pod("p", owner=below("ReplicaSet", "web-1", DEPLOYMENT))).problems == ()


@pytest.mark.parametrize(
    ("above", "count"),
    [(DEPLOYMENT, 1), (STATEFUL_SET, 1), (WORKFLOW, 3)],
    ids=["Deployment", "StatefulSet", "Workflow"],
)
def test_our_annotation_makes_one_gang_of_the_pods_of_an_object_and_not_of_all_that_it_makes(
    above: Document, count: int
) -> None:
    asks = merged(above, metadata={"annotations": {"tutti.scheduler/min-member": "2"}})
    gangs = seen(asks, pods("p", 3, owner=asks)).gangs
    assert (len(gangs), {gang.min_member for gang in gangs}) == (count, {2 if count == 1 else 1})


def test_our_annotation_makes_a_distributed_job_one_plain_gang_and_kais_says_nothing_of_it() -> None:
    made = kubeflow("PyTorchJob", "train", {"Master": 1, "Worker": 3})
    workers = kubeflow_pods(made, {"Master": 1, "Worker": 3})
    plain = only(merged(made, metadata={"annotations": {"tutti.scheduler/min-member": "2"}}), workers)
    assert (plain.min_member, plain.sub_groups, plain.problems) == (2, (), ())
    unread = only(merged(made, metadata={"annotations": {"kai.scheduler/batch-min-member": "2"}}), workers)
    assert minima(unread) == {"master": 1, "worker": 3}
