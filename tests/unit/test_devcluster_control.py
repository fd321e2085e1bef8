"""The controllers of the embedded cluster: claims, Jobs, ReplicaSets, Deployments, StatefulSets, disruption budgets."""

from __future__ import annotations

import pytest

from scheduler.devcluster import kinds
from scheduler.devcluster.claims import FINALIZER
from scheduler.devcluster.deployments import template_hash
from scheduler.devcluster.eviction import evict
from scheduler.devcluster.jobs import format_indexes, parse_indexes
from scheduler.devcluster.kubelet import EXIT_CODE, RUN_SECONDS
from scheduler.devcluster.objects import Obj
from tests.worlds import (
    Bench,
    claim,
    claim_template,
    job,
    pod,
    pod_template,
    pod_with_claim,
    workload,
    world,
)

CPU = "cpu-000"
H100 = "h100x8-000"


def conditions(obj: Obj) -> dict[str, str]:
    """The true conditions with their reasons."""
    return {
        entry["type"]: entry["reason"] for entry in obj["status"].get("conditions", []) if entry["status"] == "True"
    }


def ends(seconds: int, code: int = 0) -> Obj:
    """A pod template whose containers end."""
    return pod_template(metadata={"annotations": {RUN_SECONDS: str(seconds), EXIT_CODE: str(code)}})


# --- claims from templates ----------------------------------------------------------------------------------------


async def test_a_pod_gets_a_claim_of_its_own_from_a_template():
    async with world() as w:
        w.apply(
            claim_template("one-gpu", labels={"team": "a"}, annotations={"note": "x"}), pod("p", {"gpu": "one-gpu"})
        )
        await w.settled()
        made = w.get(kinds.CLAIM, w.claim_of("p"))
        assert made["metadata"]["name"].startswith("p-gpu-")
        assert made["metadata"]["labels"] == {"team": "a"}
        assert made["metadata"]["annotations"] == {"note": "x", "resource.kubernetes.io/pod-claim-name": "gpu"}
        assert made["metadata"]["ownerReferences"] == [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": "p",
                "uid": w.pod("p")["metadata"]["uid"],
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
        assert made["spec"]["devices"]["requests"][0]["exactly"]["deviceClassName"] == "gpu.nvidia.com"


async def test_claims_are_made_whatever_the_scheduler_and_even_behind_a_gate():
    async with world() as w:
        gated = pod("p", {"gpu": "t"}, schedulerName="tutti", schedulingGates=[{"name": "wait"}])
        w.apply(claim_template("t"), gated)
        await w.settled()
        assert len(w.claims()) == 1


async def test_a_pod_with_two_template_claims_gets_one_of_each():
    async with world() as w:
        w.apply(claim_template("t"), pod("p", {"gpu": "t", "helper": "t"}))
        await w.settled()
        assert {w.claim_of("p", "gpu"), w.claim_of("p", "helper")} == {c["metadata"]["name"] for c in w.claims()}
        assert len(w.claims()) == 2


async def test_a_missing_template_is_reported_and_the_claim_follows_when_it_appears():
    async with world() as w:
        w.apply(pod("p", {"gpu": "late"}))
        await w.settled()
        assert w.claims() == []
        [message] = w.events("FailedResourceClaimCreation")
        assert '"late" not found' in message
        w.apply(claim_template("late"))
        await w.settled()
        assert w.claim_of("p") == w.claims()[0]["metadata"]["name"]


async def test_a_claim_name_keeps_within_what_a_name_may_have():
    async with world() as w:
        w.apply(claim_template("t"), pod("p" * 63, {"gpu": "t"}))
        await w.settled()
        name = w.claims()[0]["metadata"]["name"]
        assert len(name) <= 63
        assert "-gpu-" in name


async def test_a_claim_whose_note_in_the_pod_was_lost_is_found_again_not_made_twice():
    async with world() as w:
        w.apply(claim_template("t"), pod("p", {"gpu": "t"}))
        await w.settled()
        first = w.claim_of("p")
        w.change(kinds.POD, "p", {"status": {"resourceClaimStatuses": None}}, "status")
        await w.settled()
        assert w.claim_of("p") == first
        assert len(w.claims()) == 1


# --- reservation and release --------------------------------------------------------------------------------------


async def test_the_claim_of_a_pod_that_ended_is_released_and_deleted():
    async with world({"h100x8": 1}) as w:
        w.apply(claim_template("t"), pod("p", {"gpu": "t"}, restartPolicy="Never", **ends(10)))
        await w.settled()
        w.start("p", H100, "gpu-0")
        await w.advance(9)
        assert len(w.claims()) == 1
        await w.advance(2)
        assert w.phases() == ["Succeeded"]
        assert w.claims() == []


async def test_a_claim_shared_by_two_pods_keeps_its_devices_until_the_second_is_gone():
    async with world({"h100x8": 1}) as w:
        w.apply(claim("shared"), pod_with_claim("a", "shared"), pod_with_claim("b", "shared"))
        w.allocate("shared", f"gpu.nvidia.com/{H100}/gpu-0", pods=("a", "b"))
        w.bind("a", H100)
        w.bind("b", H100)
        await w.settled()
        w.delete(kinds.POD, "a")
        await w.settled()
        kept = w.get(kinds.CLAIM, "shared")
        assert [consumer["name"] for consumer in kept["status"]["reservedFor"]] == ["b"]
        assert "allocation" in kept["status"]
        w.delete(kinds.POD, "b")
        await w.settled()
        freed = w.get(kinds.CLAIM, "shared")
        assert "allocation" not in freed["status"]
        assert "reservedFor" not in freed["status"]
        assert FINALIZER not in freed["metadata"].get("finalizers", [])


async def test_a_claim_that_was_allocated_but_never_reserved_stays_allocated():
    async with world({"h100x8": 1}) as w:
        w.apply(claim("held"))
        w.allocate("held", f"gpu.nvidia.com/{H100}/gpu-0")
        await w.settled()
        assert "allocation" in w.get(kinds.CLAIM, "held")["status"]


async def test_the_reservation_of_a_pod_deleted_before_it_was_bound_goes():
    async with world({"h100x8": 1}) as w:
        w.apply(claim("c"), pod_with_claim("p", "c"))
        w.allocate("c", f"gpu.nvidia.com/{H100}/gpu-0", pods=("p",))
        await w.settled()
        assert "allocation" in w.get(kinds.CLAIM, "c")["status"]
        w.delete(kinds.POD, "p")
        await w.settled()
        assert "allocation" not in w.get(kinds.CLAIM, "c")["status"]


async def test_the_same_holds_for_a_pod_that_a_finalizer_keeps():
    async with world({"h100x8": 1}) as w:
        kept = pod_with_claim("p", "c")
        kept["metadata"]["finalizers"] = ["example.com/hold"]
        w.apply(claim("c"), kept)
        w.allocate("c", f"gpu.nvidia.com/{H100}/gpu-0", pods=("p",))
        w.delete(kinds.POD, "p")
        await w.settled()
        assert len(w.pods()) == 1
        assert "allocation" not in w.get(kinds.CLAIM, "c")["status"]


async def test_a_reservation_for_an_earlier_pod_of_the_same_name_goes():
    async with world({"h100x8": 1}) as w:
        w.apply(claim("c"), pod_with_claim("p", "c"))
        w.allocate("c", f"gpu.nvidia.com/{H100}/gpu-0", pods=("p",))
        w.delete(kinds.POD, "p")
        w.apply(pod_with_claim("p", "c"))
        await w.settled()
        assert "reservedFor" not in w.get(kinds.CLAIM, "c")["status"]


async def test_a_reservation_for_something_that_is_no_pod_is_left_alone():
    async with world({"h100x8": 1}) as w:
        w.apply(claim("c"), pod_with_claim("p", "c"))
        w.allocate("c", f"gpu.nvidia.com/{H100}/gpu-0", pods=("p",))
        group = {"apiGroup": "scheduling.k8s.io", "resource": "podgroups", "name": "g", "uid": "u"}
        w.change(kinds.CLAIM, "c", {"status": {"reservedFor": [w.consumer("p"), group]}}, "status")
        w.delete(kinds.POD, "p")
        await w.settled()
        assert w.get(kinds.CLAIM, "c")["status"]["reservedFor"] == [group]


async def test_a_pod_bound_by_hand_gets_the_reservation_of_an_allocated_claim():
    async with world({"h100x8": 1}) as w:
        w.apply(claim("c"), pod_with_claim("p", "c"))
        w.bind("p", H100)
        await w.settled()
        assert w.phases() == ["Pending"]  # nobody allocates for it
        w.allocate("c", f"gpu.nvidia.com/{H100}/gpu-0")
        await w.settled()
        assert w.get(kinds.CLAIM, "c")["status"]["reservedFor"] == [w.consumer("p")]
        assert w.phases() == ["Running"]


async def test_a_deleted_claim_in_use_goes_when_its_last_pod_does():
    async with world({"h100x8": 1}) as w:
        w.apply(claim("c"), pod_with_claim("p", "c"))
        w.start("p", H100, "gpu-0")
        await w.settled()
        w.delete(kinds.CLAIM, "c")
        await w.settled()
        assert "allocation" in w.get(kinds.CLAIM, "c")["status"]
        w.delete(kinds.POD, "p")
        await w.settled()
        assert w.find(kinds.CLAIM, "c") is None


async def test_the_claim_for_extended_resources_is_released_with_its_pod():
    async with world({"h100x8": 1}) as w:
        w.apply(pod("p", requests={"nvidia.com/gpu": "1"}))
        extended = claim("p-extended-resources-x")
        owner = {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": "p",
            "uid": w.pod("p")["metadata"]["uid"],
            "controller": True,
        }
        extended["metadata"]["ownerReferences"] = [owner]
        w.apply(extended)
        mapping = {"containerName": "main", "resourceName": "nvidia.com/gpu", "requestName": "gpu"}
        status = {"resourceClaimName": "p-extended-resources-x", "requestMappings": [mapping]}
        w.change(kinds.POD, "p", {"status": {"extendedResourceClaimStatus": status}}, "status")
        w.allocate("p-extended-resources-x", f"gpu.nvidia.com/{H100}/gpu-3", pods=("p",))
        w.bind("p", H100)
        await w.settled()
        assert w.phases() == ["Running"]
        assert len(w.nodes.prepared_on(H100)) == 1
        w.delete(kinds.POD, "p")
        await w.settled()
        assert w.claims() == []


# --- Jobs ---------------------------------------------------------------------------------------------------------


async def test_a_job_runs_so_many_pods_at_a_time_until_so_many_succeeded():
    async with world({"cpu": 1}) as w:
        w.apply(job("train", ends(10), parallelism=2, completions=3))
        await w.settled()
        assert len(w.pods()) == 2
        assert all(p["metadata"]["name"].startswith("train-") for p in w.pods())
        assert w.get(kinds.JOB, "train")["status"]["active"] == 2
        w.bind_all(CPU)
        await w.advance(10)
        assert sorted(w.phases()) == ["Pending", "Succeeded", "Succeeded"]
        w.bind_all(CPU)
        await w.advance(10)
        status = w.get(kinds.JOB, "train")["status"]
        assert (status["succeeded"], status.get("active"), status.get("failed")) == (3, None, None)
        assert conditions(w.get(kinds.JOB, "train")) == {
            "SuccessCriteriaMet": "CompletionsReached",
            "Complete": "CompletionsReached",
        }
        assert status["startTime"] < status["completionTime"]


async def test_the_pods_of_a_job_name_it_in_owner_and_labels():
    async with world() as w:
        w.apply(job("train"))
        await w.settled()
        [made] = w.pods()
        stored = w.get(kinds.JOB, "train")
        assert made["metadata"]["labels"]["batch.kubernetes.io/job-name"] == "train"
        assert made["metadata"]["labels"]["batch.kubernetes.io/controller-uid"] == stored["metadata"]["uid"]
        [owner] = made["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("Job", stored["metadata"]["uid"], True)


async def test_an_indexed_job_has_one_pod_for_each_index():
    async with world({"cpu": 1}) as w:
        w.apply(job("idx", ends(5), parallelism=2, completions=3, completionMode="Indexed"))
        await w.settled()
        key = "batch.kubernetes.io/job-completion-index"
        assert [p["metadata"]["annotations"][key] for p in w.pods()] == ["0", "1"]
        assert [p["metadata"]["labels"][key] for p in w.pods()] == ["0", "1"]
        first = w.pods()[0]
        assert first["metadata"]["name"].startswith("idx-0-")
        assert first["spec"]["hostname"] == "idx-0"
        assert {"name": "JOB_COMPLETION_INDEX", "value": "0"} in first["spec"]["containers"][0]["env"]
        w.bind(first["metadata"]["name"], CPU)
        await w.advance(5)
        assert w.get(kinds.JOB, "idx")["status"]["completedIndexes"] == "0"
        assert sorted(p["metadata"]["annotations"][key] for p in w.pods()) == ["0", "1", "2"]
        w.bind_all(CPU)
        await w.advance(5)
        status = w.get(kinds.JOB, "idx")["status"]
        assert (status["completedIndexes"], status["succeeded"]) == ("0-2", 3)
        assert "Complete" in conditions(w.get(kinds.JOB, "idx"))


async def test_a_failed_pod_is_replaced_after_a_pause_that_doubles():
    async with world({"cpu": 1}) as w:
        w.apply(job("flaky", ends(1, code=1), backoffLimit=6))
        await w.settled()
        w.bind_all(CPU)
        await w.advance(1)
        assert w.phases() == ["Failed"]
        await w.advance(9)
        assert len(w.pods()) == 1
        await w.advance(1)
        assert len(w.pods()) == 2
        w.bind_all(CPU)
        await w.advance(1 + 19)
        assert len(w.pods()) == 2
        await w.advance(1)
        assert len(w.pods()) == 3


async def test_a_success_ends_the_growth_of_the_pause():
    async with world({"cpu": 1}) as w:
        w.apply(job("mixed", ends(1, code=1), backoffLimit=6, completions=2))
        for pause in (10, 20):
            await w.settled()
            w.bind_all(CPU)
            await w.advance(1 + pause)
        [waiting] = [p["metadata"]["name"] for p in w.pods() if p["status"]["phase"] == "Pending"]
        w.change(kinds.POD, waiting, {"metadata": {"annotations": {EXIT_CODE: "0"}}})
        w.bind(waiting, CPU)
        await w.advance(1)
        assert sorted(w.phases()) == ["Failed", "Failed", "Pending", "Succeeded"]
        w.bind_all(CPU)
        await w.advance(1 + 10)
        assert sorted(w.phases()) == ["Failed", "Failed", "Failed", "Pending", "Succeeded"]


async def test_restarts_in_place_count_against_the_backoff_limit():
    async with world({"cpu": 1}) as w:
        w.apply(job("loop", pod_template(restartPolicy="OnFailure", **ends(1, code=1)), backoffLimit=2))
        await w.settled()
        w.bind_all(CPU)
        await w.advance(2)
        assert "Failed" not in conditions(w.get(kinds.JOB, "loop"))
        await w.advance(10)
        assert conditions(w.get(kinds.JOB, "loop"))["Failed"] == "BackoffLimitExceeded"


async def test_a_job_fails_when_more_pods_failed_than_its_backoff_limit():
    async with world({"cpu": 1}) as w:
        w.apply(job("bad", ends(1, code=3), backoffLimit=1, parallelism=2, completions=2))
        await w.settled()
        steady, failing = (p["metadata"]["name"] for p in w.pods())
        w.bind(failing, CPU)
        await w.advance(20)
        w.bind_all(CPU)
        await w.advance(2)
        assert conditions(w.get(kinds.JOB, "bad")) == {
            "FailureTarget": "BackoffLimitExceeded",
            "Failed": "BackoffLimitExceeded",
        }
        await w.advance(100)
        assert "active" not in w.get(kinds.JOB, "bad")["status"]
        assert steady not in [p["metadata"]["name"] for p in w.pods() if p["status"]["phase"] == "Running"]


async def test_a_pod_deleted_under_a_job_counts_as_failed_and_is_replaced():
    async with world({"cpu": 1}) as w:
        w.apply(job("train"))
        await w.settled()
        first = w.pods()[0]["metadata"]["name"]
        w.bind(first, CPU)
        await w.settled()
        w.delete(kinds.POD, first)
        await w.advance(10)
        assert [p["metadata"]["name"] for p in w.pods()] != [first]
        assert len(w.pods()) == 1
        assert w.get(kinds.JOB, "train")["status"]["failed"] == 1


async def test_a_pod_that_was_evicted_is_no_failure_of_a_job_that_says_so():
    ignored = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    async with world({"cpu": 1}) as w:
        w.apply(job("train", podFailurePolicy={"rules": [ignored]}, backoffLimit=0))
        await w.settled()
        first = w.pods()[0]["metadata"]["name"]
        w.bind(first, CPU)
        await w.settled()
        evict(w.store, "default", first, {})
        await w.settled()
        second = w.pods()[0]["metadata"]["name"]
        assert (len(w.pods()), second != first) == (1, True)
        assert "failed" not in w.get(kinds.JOB, "train")["status"]
        w.bind(second, CPU)
        await w.settled()
        w.delete(kinds.POD, second)
        await w.settled()
        assert conditions(w.get(kinds.JOB, "train"))["Failed"] == "BackoffLimitExceeded"


async def test_a_job_without_completions_is_done_with_the_first_success_and_the_last_pod():
    async with world({"cpu": 1}) as w:
        queue = job("queue", ends(5), parallelism=2)
        w.apply(queue)
        await w.settled()
        first, second = (p["metadata"]["name"] for p in w.pods())
        w.bind(first, CPU)
        await w.advance(5)
        assert "Complete" not in conditions(w.get(kinds.JOB, "queue"))
        w.bind(second, CPU)
        await w.advance(5)
        assert "Complete" in conditions(w.get(kinds.JOB, "queue"))
        assert len(w.pods()) == 2


async def test_a_suspended_job_has_no_pods_until_it_is_resumed():
    async with world({"cpu": 1}) as w:
        w.apply(job("later", parallelism=2, completions=2, suspend=True))
        await w.settled()
        assert w.pods() == []
        assert conditions(w.get(kinds.JOB, "later")) == {"Suspended": "JobSuspended"}
        w.change(kinds.JOB, "later", {"spec": {"suspend": False}})
        await w.settled()
        assert len(w.pods()) == 2
        w.bind_all(CPU)
        await w.settled()
        w.change(kinds.JOB, "later", {"spec": {"suspend": True}})
        await w.settled()
        status = w.get(kinds.JOB, "later")["status"]
        assert w.pods() == []
        assert (status.get("failed"), status.get("startTime")) == (None, None)


async def test_a_job_past_its_deadline_fails_and_its_pods_go():
    async with world({"cpu": 1}) as w:
        w.apply(job("slow", activeDeadlineSeconds=30))
        await w.settled()
        w.bind_all(CPU)
        await w.advance(29)
        assert w.phases() == ["Running"]
        await w.advance(1)
        assert conditions(w.get(kinds.JOB, "slow"))["Failed"] == "DeadlineExceeded"
        assert w.pods() == []


async def test_less_parallelism_gives_up_unbound_pods_first():
    async with world({"cpu": 1}) as w:
        w.apply(job("wide", parallelism=3, completions=9))
        await w.settled()
        kept = w.pods()[1]["metadata"]["name"]
        w.bind(kept, CPU)
        await w.settled()
        w.change(kinds.JOB, "wide", {"spec": {"parallelism": 1}})
        await w.settled()
        assert [p["metadata"]["name"] for p in w.pods()] == [kept]
        assert "failed" not in w.get(kinds.JOB, "wide")["status"]


async def test_a_job_managed_by_another_controller_is_left_alone():
    async with world() as w:
        w.apply(job("theirs", managedBy="example.com/controller"))
        await w.settled()
        assert w.pods() == []


async def test_deleting_a_job_takes_its_pods_and_their_claims():
    async with world({"h100x8": 1}) as w:
        w.apply(claim_template("t"), job("train", pod_template({"gpu": "t"})))
        await w.settled()
        w.start(w.pods()[0]["metadata"]["name"], H100, "gpu-0")
        await w.settled()
        w.delete(kinds.JOB, "train", propagation="Background")
        await w.settled()
        assert (w.pods(), w.claims()) == ([], [])
        assert w.nodes.prepared_on(H100) == []


@pytest.mark.parametrize(("indexes", "text"), [(set(), ""), ({3}, "3"), ({0, 1, 2, 5}, "0-2,5"), ({1, 3, 4}, "1,3-4")])
def test_completed_indexes_are_written_as_runs(indexes: set[int], text: str):
    assert format_indexes(indexes) == text
    assert parse_indexes(text) == indexes


# --- ReplicaSets and Deployments ----------------------------------------------------------------------------------


async def test_a_replica_set_keeps_its_number_of_pods():
    async with world({"cpu": 1}) as w:
        w.apply(workload("ReplicaSet", "web", replicas=3))
        await w.settled()
        assert len(w.pods()) == 3
        w.bind_all(CPU)
        await w.settled()
        status = w.get(kinds.REPLICA_SET, "web")["status"]
        assert (status["replicas"], status["readyReplicas"], status["availableReplicas"]) == (3, 3, 3)
        lost = w.pods()[0]["metadata"]["name"]
        w.delete(kinds.POD, lost)
        await w.settled()
        assert len(w.pods()) == 3
        assert lost not in [p["metadata"]["name"] for p in w.pods()]
        w.change(kinds.REPLICA_SET, "web", {"spec": {"replicas": 1}})
        await w.settled()
        assert w.phases() == ["Running"]  # the one that waits for a node went first


async def test_a_deployment_makes_a_replica_set_named_after_its_template():
    async with world({"cpu": 1}) as w:
        w.apply(workload("Deployment", "web", replicas=2))
        await w.settled()
        [owned] = w.store.all(kinds.REPLICA_SET)
        hash_ = template_hash(w.get(kinds.DEPLOYMENT, "web")["spec"]["template"])
        assert owned["metadata"]["name"] == f"web-{hash_}"
        assert owned["spec"]["selector"]["matchLabels"] == {"app": "web", "pod-template-hash": hash_}
        assert all(p["metadata"]["labels"]["pod-template-hash"] == hash_ for p in w.pods())
        assert "Available" not in conditions(w.get(kinds.DEPLOYMENT, "web"))
        w.bind_all(CPU)
        await w.settled()
        deployment = w.get(kinds.DEPLOYMENT, "web")
        assert conditions(deployment) == {
            "Available": "MinimumReplicasAvailable",
            "Progressing": "NewReplicaSetAvailable",
        }
        counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
        assert [deployment["status"][name] for name in counts] == [2, 2, 2, 2]
        assert deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1"


def set_image(w: Bench, kind: kinds.Kind, name: str, image: str) -> None:
    containers = [{"name": "main", "image": image}]
    w.change(kind, name, {"spec": {"template": {"spec": {"containers": containers}}}})


async def test_a_rolling_update_never_has_too_few_or_too_many_pods():
    async with world({"cpu": 1}) as w:
        w.apply(workload("Deployment", "web", replicas=4))
        await w.settled()
        w.bind_all(CPU)
        await w.settled()
        set_image(w, kinds.DEPLOYMENT, "web", "example.com/app:2")
        seen = []
        for _ in range(12):
            await w.settled()
            running = [p for p in w.pods() if p["status"]["phase"] == "Running"]
            seen.append((len(w.pods()), len(running)))
            w.bind_all(CPU)
        assert max(total for total, _ in seen) == 5
        assert min(running for _, running in seen) == 3
        assert {p["spec"]["containers"][0]["image"] for p in w.pods()} == {"example.com/app:2"}
        assert len(w.pods()) == 4
        sizes = {owned["spec"]["replicas"] for owned in w.store.all(kinds.REPLICA_SET)}
        assert sizes == {0, 4}
        assert w.get(kinds.DEPLOYMENT, "web")["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "2"


async def test_going_back_to_an_earlier_template_uses_its_replica_set_again():
    async with world({"cpu": 1}) as w:
        w.apply(workload("Deployment", "web", replicas=1))
        await w.settled()
        first = w.store.all(kinds.REPLICA_SET)[0]["metadata"]["name"]
        for image in ("example.com/app:2", "example.com/app:1"):
            set_image(w, kinds.DEPLOYMENT, "web", image)
            for _ in range(4):
                await w.settled()
                w.bind_all(CPU)
        await w.settled()
        sizes = {owned["metadata"]["name"]: owned["spec"]["replicas"] for owned in w.store.all(kinds.REPLICA_SET)}
        assert sizes[first] == 1
        assert len(sizes) == 2
        assert w.get(kinds.DEPLOYMENT, "web")["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"


async def test_recreate_ends_all_old_pods_before_the_first_new_one():
    async with world({"cpu": 1}) as w:
        w.apply(workload("Deployment", "web", replicas=2, strategy={"type": "Recreate"}))
        await w.settled()
        w.bind_all(CPU)
        await w.settled()
        created: list[int] = []

        def watch(kind: kinds.Kind, before: Obj | None, after: Obj | None) -> None:
            if kind is kinds.POD and before is None and after is not None:
                created.append(sum(p["spec"]["containers"][0]["image"] == "example.com/app:1" for p in w.pods()))

        w.store.observe(watch)
        set_image(w, kinds.DEPLOYMENT, "web", "example.com/app:2")
        await w.settled()
        assert created == [0, 0]
        assert [p["spec"]["containers"][0]["image"] for p in w.pods()] == ["example.com/app:2"] * 2


async def test_a_paused_deployment_rolls_nothing_out():
    async with world() as w:
        w.apply(workload("Deployment", "web", replicas=1))
        await w.settled()
        w.change(kinds.DEPLOYMENT, "web", {"spec": {"paused": True}})
        set_image(w, kinds.DEPLOYMENT, "web", "example.com/app:2")
        await w.settled()
        assert len(w.store.all(kinds.REPLICA_SET)) == 1


async def test_old_replica_sets_beyond_the_history_limit_go():
    async with world({"cpu": 1}) as w:
        w.apply(workload("Deployment", "web", replicas=1, revisionHistoryLimit=1))
        for number in range(2, 6):
            for _ in range(3):
                await w.settled()
                w.bind_all(CPU)
            set_image(w, kinds.DEPLOYMENT, "web", f"example.com/app:{number}")
        for _ in range(3):
            await w.settled()
            w.bind_all(CPU)
        await w.settled()
        assert len(w.store.all(kinds.REPLICA_SET)) == 2


# --- StatefulSets -------------------------------------------------------------------------------------------------


async def test_a_stateful_set_makes_its_pods_one_after_the_other():
    async with world({"cpu": 1}) as w:
        w.apply(workload("StatefulSet", "db", replicas=2, serviceName="db"))
        await w.settled()
        assert [p["metadata"]["name"] for p in w.pods()] == ["db-0"]
        w.bind("db-0", CPU)
        await w.settled()
        assert [p["metadata"]["name"] for p in w.pods()] == ["db-0", "db-1"]
        assert w.pod("db-1")["metadata"]["labels"]["apps.kubernetes.io/pod-index"] == "1"
        assert (w.pod("db-1")["spec"]["hostname"], w.pod("db-1")["spec"]["subdomain"]) == ("db-1", "db")


async def test_a_parallel_stateful_set_makes_all_its_pods_at_once():
    async with world() as w:
        w.apply(workload("StatefulSet", "db", replicas=3, podManagementPolicy="Parallel"))
        await w.settled()
        assert [p["metadata"]["name"] for p in w.pods()] == ["db-0", "db-1", "db-2"]


async def test_a_notebook_comes_back_under_its_name_with_its_claim():
    async with world({"h100x8": 1}) as w:
        template = pod_template(resourceClaims=[{"name": "gpu", "resourceClaimName": "notebook-gpu"}])
        w.apply(claim("notebook-gpu"), workload("StatefulSet", "notebook", template, replicas=1))
        await w.settled()
        w.start("notebook-0", H100, "gpu-5")
        await w.settled()
        first = w.pod("notebook-0")["metadata"]["uid"]
        kept = w.get(kinds.CLAIM, "notebook-gpu")["metadata"]["uid"]
        w.delete(kinds.POD, "notebook-0")
        await w.settled()
        assert w.pod("notebook-0")["metadata"]["uid"] != first
        assert w.get(kinds.CLAIM, "notebook-gpu")["metadata"]["uid"] == kept
        w.start("notebook-0", H100, "gpu-2")
        await w.settled()
        assert w.phases() == ["Running"]
        assert w.nodes.prepared_on(H100) == [kept]


async def test_a_stateful_set_shrinks_from_the_end():
    async with world({"cpu": 1}) as w:
        w.apply(workload("StatefulSet", "db", replicas=3, podManagementPolicy="Parallel"))
        await w.settled()
        w.bind_all(CPU)
        await w.settled()
        w.change(kinds.STATEFUL_SET, "db", {"spec": {"replicas": 1}})
        await w.settled()
        assert [p["metadata"]["name"] for p in w.pods()] == ["db-0"]
        assert w.get(kinds.STATEFUL_SET, "db")["status"]["readyReplicas"] == 1


async def test_a_new_template_replaces_the_pods_of_a_stateful_set_from_the_last():
    async with world({"cpu": 1}) as w:
        w.apply(workload("StatefulSet", "db", replicas=2, podManagementPolicy="Parallel"))
        await w.settled()
        w.bind_all(CPU)
        await w.settled()
        set_image(w, kinds.STATEFUL_SET, "db", "example.com/app:2")
        await w.settled()
        assert [p["spec"]["containers"][0]["image"][-1] for p in w.pods()] == ["1", "2"]
        w.bind_all(CPU)
        await w.settled()
        w.bind_all(CPU)
        await w.settled()
        assert [p["spec"]["containers"][0]["image"][-1] for p in w.pods()] == ["2", "2"]
        status = w.get(kinds.STATEFUL_SET, "db")["status"]
        assert status["currentRevision"] == status["updateRevision"]


async def test_pods_below_the_partition_keep_the_old_template():
    async with world({"cpu": 1}) as w:
        strategy = {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}
        w.apply(workload("StatefulSet", "db", replicas=2, podManagementPolicy="Parallel", updateStrategy=strategy))
        await w.settled()
        w.bind_all(CPU)
        await w.settled()
        set_image(w, kinds.STATEFUL_SET, "db", "example.com/app:2")
        for _ in range(3):
            await w.settled()
            w.bind_all(CPU)
        await w.settled()
        assert [p["spec"]["containers"][0]["image"][-1] for p in w.pods()] == ["1", "2"]


async def test_an_ended_pod_of_a_stateful_set_is_made_anew():
    async with world({"cpu": 1}) as w:
        w.apply(workload("StatefulSet", "db", replicas=1))
        await w.settled()
        w.bind("db-0", CPU)
        await w.settled()
        first = w.pod("db-0")["metadata"]["uid"]
        w.change(kinds.POD, "db-0", {"status": {"phase": "Failed"}}, "status")
        await w.settled()
        assert w.pod("db-0")["metadata"]["uid"] != first
        assert w.phases() == ["Pending"]


# --- disruption budgets -------------------------------------------------------------------------------------------


async def test_the_status_of_a_disruption_budget_follows_its_pods():
    async with world({"cpu": 1}) as w:
        budget = {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "web"},
            "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}},
        }
        w.apply(budget, workload("ReplicaSet", "web", replicas=3))
        await w.settled()
        assert w.get(kinds.DISRUPTION_BUDGET, "web")["status"]["disruptionsAllowed"] == 0
        w.bind_all(CPU)
        await w.settled()
        status = w.get(kinds.DISRUPTION_BUDGET, "web")["status"]
        names = ("expectedPods", "currentHealthy", "desiredHealthy", "disruptionsAllowed", "observedGeneration")
        assert [status[name] for name in names] == [3, 3, 2, 1, 1]
        assert conditions(w.get(kinds.DISRUPTION_BUDGET, "web")) == {"DisruptionAllowed": "SufficientPods"}
        first, second, _ = (p["metadata"]["name"] for p in w.pods())
        w.delete(kinds.POD, first)
        await w.settled()
        assert w.get(kinds.DISRUPTION_BUDGET, "web")["status"]["disruptionsAllowed"] == 0
        w.change(kinds.POD, second, {"metadata": {"labels": {"app": "other"}}})
        await w.settled()
        assert w.get(kinds.DISRUPTION_BUDGET, "web")["status"]["currentHealthy"] == 1


# --- namespaces ---------------------------------------------------------------------------------------------------


async def test_a_deleted_namespace_takes_its_running_pods_along():
    async with world({"cpu": 1}) as w:
        w.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})
        for made in (claim_template("t"), job("train", pod_template({"gpu": "t"}), parallelism=2, completions=2)):
            made["metadata"]["namespace"] = "team"
            w.apply(made)
        single = pod("single")
        single["metadata"]["namespace"] = "team"
        w.apply(single)
        w.store.bind("team", "single", {"target": {"kind": "Node", "name": CPU}})
        await w.settled()
        assert (len(w.pods()), len(w.claims())) == (3, 2)
        w.delete(kinds.NAMESPACE, "team")
        await w.settled()
        assert (w.pods(), w.claims(), w.find(kinds.NAMESPACE, "team")) == ([], [], None)


# --- size ---------------------------------------------------------------------------------------------------------


async def test_a_thousand_pods_with_claims_cost_a_fixed_number_of_writes_each():
    async with world() as w:
        w.apply(claim_template("t"))
        before = w.store.resource_version
        w.apply(job("wide", pod_template({"gpu": "t"}), parallelism=1000, completions=1000))
        await w.settled()
        assert len(w.claims()) == 1000
        # A pod, its claim, its note in the pod's status; and the Job's status now and then.
        assert w.store.resource_version - before < 3 * 1000 + 250
