"""Gangs of several levels, from manifests to the plan: what an owner asks for is what starts, and nothing less."""

from typing import Any

from scheduler.model.plan import Plan
from scheduler.model.reasons import GangDoesNotFit
from scheduler.model.snapshot import Policy
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from scheduler.state.translate import snapshot
from tests.manifests import Document, merged, node, pod, pod_group, queue, state
from tests.owners import grove_pods, kubeflow, kubeflow_pods, owner, packed, pod_gang, ray_cluster, ray_pods

TEAM = queue("team")
GATE = [{"name": "grove.io/podgang-pending-creation"}]


def decided(*documents: Document | list[Document]) -> Plan:
    """The plan, which the independent check accepts."""
    found = snapshot(state(TEAM, *documents), now_ms=0, policy=Policy(default_queue="team"))
    made = plan(found)
    assert check(found, made) == ()
    return made


def placed(made: Plan) -> dict[str, str]:
    return {each.pod.partition("/")[2]: each.node for each in made.placements}


def racks(*sizes: int, gpus: int = 1, block: str = "b") -> list[Document]:
    """Nodes rack-i-j in racks of these sizes, all in one block."""
    return [
        node(f"{block}-{rack}-{index}", gpus=gpus, labels={"rack": f"{block}-{rack}", "block": block})
        for rack, size in enumerate(sizes)
        for index in range(size)
    ]


def test_a_pytorch_job_starts_with_its_master_and_the_least_workers_and_grows() -> None:
    replicas = {"Master": 1, "Worker": 5}
    made = kubeflow("PyTorchJob", "train", replicas, elasticPolicy={"minReplicas": 3})
    pods = kubeflow_pods(made, replicas, gpus=1)
    assert placed(decided(node("n", gpus=2), made, pods)) == {}
    assert len(placed(decided(node("n", gpus=4), made, pods))) == 4
    without = [each for each in pods if "master" not in each["metadata"]["name"]]
    assert placed(decided(node("n", gpus=8), made, without)) == {}


def test_a_ray_cluster_never_starts_without_its_head() -> None:
    made = ray_cluster("ray", {"groupName": "gpu", "replicas": 4, "minReplicas": 2})
    head, *workers = ray_pods(made, {"gpu": 4}, gpus=1)
    assert placed(decided(node("n", gpus=8), made, workers)) == {}
    assert len(placed(decided(node("n", gpus=2), made, head, workers))) == 0
    assert "ray-head" in placed(decided(node("n", gpus=3), made, head, workers))


def test_a_job_set_of_two_levels_that_starts_in_order_starts_its_first_job() -> None:
    """Source: reference kai.md 1.4 (JobSet)."""
    jobs = [
        {"name": name, "replicas": count, "template": {"spec": {"parallelism": 1}}}
        for name, count in (("driver", 1), ("workers", 3))
    ]

    def pods(name: str, count: int) -> list[Document]:
        made = []
        for replica in range(count):
            places = {"jobset-name": "js", "replicatedjob-name": name, "job-index": str(replica)}
            labels = {f"jobset.sigs.k8s.io/{key}": value for key, value in places.items()}
            made.append(pod(f"js-{name}-{replica}", gpus=1, labels=labels))
        return made

    def job_set(**spec: Any) -> Document:
        return owner("JobSet", "js", "jobset.x-k8s.io/v1alpha2", replicatedJobs=jobs, **spec)

    first, rest = pods("driver", 1), pods("workers", 3)
    assert placed(decided(node("n", gpus=8), job_set(), first)) == {}
    in_order = job_set(startupPolicy={"startupPolicyOrder": "InOrder"})
    assert len(placed(decided(node("n", gpus=8), in_order, first))) == 1
    assert placed(decided(node("n", gpus=3), job_set(), first, rest)) == {}
    assert len(placed(decided(node("n", gpus=4), job_set(), first, rest))) == 4


def test_the_groups_of_a_leader_worker_set_start_apart_and_each_whole() -> None:
    made = owner("LeaderWorkerSet", "vllm", "leaderworkerset.x-k8s.io/v1", leaderWorkerTemplate={"size": 2})
    pods = []
    for group in range(2):
        for index in range(2):
            places = {"name": "vllm", "group-index": str(group), "worker-index": str(index)}
            labels = {f"leaderworkerset.sigs.k8s.io/{key}": value for key, value in places.items()}
            pods.append(pod(f"vllm-{group}-{index}", gpus=1, labels=labels))
    found = placed(decided(node("n", gpus=3), made, pods))
    assert sorted(found) in (["vllm-0-0", "vllm-0-1"], ["vllm-1-0", "vllm-1-1"])


# Grove.


def system(*, gated: bool, replicas: int = 1) -> list[Document]:
    """A base PodGang of two pod groups, and one that scales it out, in one block; pods of four GPUs each."""
    base = pod_gang("sys-0", {"prefill": (2, 2), "decode": (1, 1)}, close=("block", None))
    found = [base, *grove_pods(base, gpus=1)]
    for number in range(replicas):
        more = pod_gang(f"sys-0-more-{number}", {f"more-{number}": (2, 2)}, base="sys-0", close=("block", None))
        found += [more, *grove_pods(more, gpus=1, **({"schedulingGates": GATE} if gated else {}))]
    return found


def test_a_replica_split_over_several_pod_gangs_stays_in_one_block() -> None:
    """Grove#648 (peers.md A3): two blocks have room, and each PodGang by itself could go to either."""
    blocks = racks(7, block="left") + racks(7, block="right")
    found = placed(decided(blocks, system(gated=False, replicas=2)))
    assert len(found) == 7
    assert len({name.partition("-")[0] for name in found.values()}) == 1


def test_what_scales_out_waits_rather_than_leave_the_block_of_its_base() -> None:
    blocks = racks(4, block="left") + racks(4, block="right")
    made = decided(blocks, system(gated=False))
    found = placed(made)
    assert sorted(found) == ["decode-0", "prefill-0", "prefill-1"]
    assert len({name.partition("-")[0] for name in found.values()}) == 1
    assert isinstance(made.gangs[0].reason, GangDoesNotFit)


def test_a_base_starts_while_the_pods_that_scale_it_out_are_gated_and_these_follow_whole() -> None:
    found = placed(decided(racks(8), system(gated=True)))
    assert sorted(found) == ["decode-0", "prefill-0", "prefill-1"]
    assert len(placed(decided(racks(6), system(gated=False, replicas=2)))) == 5


def test_a_base_that_does_not_fit_starts_nothing_of_what_scales_it_out() -> None:
    assert placed(decided(racks(2), system(gated=False))) == {}


def test_constraints_of_a_pod_gang_nest() -> None:
    """The whole in a block, two pod groups together in a rack, and the third anywhere in the block."""
    config = {"name": "cell", "podGroupNames": ["prefill", "decode"], "topologyConstraint": packed("rack")}
    made = pod_gang(
        "sys-0",
        {"prefill": (2, 2), "decode": (1, 1), "router": (1, 1)},
        close=("block", None),
        topologyConstraintGroupConfigs=[config],
    )
    found = placed(decided(racks(2, 3, 1), made, grove_pods(made, gpus=1)))
    assert len(found) == 4
    assert {found[name].rpartition("-")[0] for name in ("prefill-0", "prefill-1", "decode-0")} == {"b-1"}
    assert placed(decided(racks(2, 2, 1), made, grove_pods(made, gpus=1))) == {}


# Gangs of gangs.


def test_two_systems_of_two_groups_each_do_not_block_each_other() -> None:
    """Koordinator#872 (peers.md A12): groups A and B belong together, and so do C and D. Their pods come interleaved,
    and there is room for one pair only: one starts whole, the other waits, whichever order they come in."""

    def pair(name: str, one: str, other: str) -> list[Document]:
        groups = [{"name": each, "minMember": 2} for each in (one, other)]
        made = [pod_group(name, subGroups=groups, queue="team")]
        for sub in (one, other):
            for index in range(2):
                labels = {"tutti.scheduler/sub-group": sub}
                made.append(pod(f"{sub}-{index}", group=name, gpus=1, labels=labels))
        return made

    ab, cd = pair("ab", "a", "b"), pair("cd", "c", "d")
    interleaved = [each for both in zip(ab, cd, strict=True) for each in both]
    for number, each in enumerate(interleaved):
        each["metadata"]["creationTimestamp"] = f"2026-01-01T00:00:{number:02d}Z"
    found = sorted(placed(decided(node("n", gpus=6), interleaved)))
    assert found == ["a-0", "a-1", "b-0", "b-1"]
    assert len(placed(decided(node("n", gpus=8), interleaved))) == 8


def test_pods_of_another_kind_of_owner_in_one_pod_group_are_its_members() -> None:
    """A PodGroup named on the pods goes before what their owners imply."""
    replicas = {"Worker": 2}
    made = kubeflow("JAXJob", "jax", replicas)
    named = [merged(each, metadata={"labels": {"tutti.scheduler/pod-group": "g"}})
             for each in kubeflow_pods(made, replicas, gpus=1)]  # fmt: skip
    group = pod_group("g", min_member=3)
    assert placed(decided(node("n", gpus=4), made, group, named)) == {}
    assert len(placed(decided(node("n", gpus=4), made, group, named, pod("extra", group="g", gpus=1)))) == 3
