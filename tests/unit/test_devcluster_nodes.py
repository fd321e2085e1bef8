"""Simulated kubelets: they run, restart, end and remove pods, and refuse what a real node would refuse."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from scheduler.devcluster import access, kinds, kubelet, nodes, station, work
from scheduler.devcluster.access import Direct, StatusError
from scheduler.devcluster.admission import refusal, requests_of
from scheduler.devcluster.clock import LoopClock, ManualClock
from scheduler.devcluster.kubelet import EXIT_CODE, RUN_SECONDS, Habits
from scheduler.devcluster.mirror import Mirror
from scheduler.devcluster.nodes import ORPHAN_SECONDS
from scheduler.devcluster.objects import Obj, name_of
from scheduler.devcluster.run import DevCluster
from scheduler.devcluster.shapes import SHAPES, ShapeError
from scheduler.devcluster.work import Work
from tests.worlds import Bench, claim, claim_spec, claim_template, job, pod, pod_with_claim, world

CPU = "cpu-000"
H100 = "h100x8-000"
MIG = "h100x8-mig-000"


def behaving(seconds: float | str, code: int = 0) -> Obj:
    return {"annotations": {RUN_SECONDS: str(seconds), EXIT_CODE: str(code)}}


def container(w: Bench, name: str) -> Obj:
    [status] = w.pod(name)["status"]["containerStatuses"]
    assert isinstance(status, dict)
    return status


def published(name: str, driver: str, devices: list[Obj], generation: int = 1, **where: object) -> Obj:
    """A slice of a pool of one slice that no simulated node made."""
    pool = {"name": driver, "generation": generation, "resourceSliceCount": 1}
    spec = {"driver": driver, "pool": pool, "devices": devices, **where}
    return {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name}, "spec": spec}


# --- running ------------------------------------------------------------------------------------------------------


async def test_a_bound_pod_runs_and_says_so():
    async with world({"cpu": 1}) as w:
        w.apply(pod("p"))
        await w.settled()
        assert w.phases() == ["Pending"]
        w.bind("p", CPU)
        await w.settled()
        status = w.pod("p")["status"]
        assert status["phase"] == "Running"
        assert status["startTime"] == "2026-01-01T00:00:00Z"
        assert status["podIP"].startswith("10.")
        assert {entry["type"]: entry["status"] for entry in status["conditions"]} == {
            "PodScheduled": "True",
            "PodReadyToStartContainers": "True",
            "Initialized": "True",
            "ContainersReady": "True",
            "Ready": "True",
        }
        assert container(w, "p")["ready"] is True
        assert "running" in container(w, "p")["state"]


async def test_every_pod_has_an_address_of_its_own():
    async with world({"cpu": 10}) as w:
        for number in range(600):
            w.apply(pod(f"p{number}"))
            w.bind(f"p{number}", f"cpu-{number % 10:03d}")
        await w.settled()
        assert len({p["status"]["podIP"] for p in w.pods()}) == 600


async def test_a_pod_runs_until_it_is_deleted_unless_it_says_otherwise():
    async with world({"cpu": 1}) as w:
        w.apply(pod("p", restartPolicy="Never"))
        w.bind("p", CPU)
        await w.advance(1_000_000)
        assert w.phases() == ["Running"]
        w.delete(kinds.POD, "p")
        await w.settled()
        assert w.pods() == []


async def test_a_pod_ends_after_its_seconds():
    async with world({"cpu": 1}) as w:
        w.apply(pod("good", restartPolicy="Never", metadata=behaving(30)))
        w.apply(pod("bad", restartPolicy="Never", metadata=behaving(30, code=3)))
        w.bind_all(CPU)
        await w.advance(29)
        assert w.phases() == ["Running", "Running"]
        await w.advance(1)
        assert w.phases() == ["Failed", "Succeeded"]
        assert container(w, "bad")["state"]["terminated"]["exitCode"] == 3
        assert container(w, "good")["state"]["terminated"]["reason"] == "Completed"
        assert container(w, "good")["state"]["terminated"]["finishedAt"] == "2026-01-01T00:00:30Z"


async def test_pods_of_jobs_run_as_long_as_the_habit_says():
    async with world({"cpu": 1}, Habits(job_run_seconds=60)) as w:
        w.apply(job("train"), pod("server"))
        await w.settled()
        w.bind_all(CPU)
        await w.advance(60)
        assert w.phases() == ["Running", "Succeeded"]


async def test_a_seconds_annotation_that_is_no_number_means_for_ever():
    async with world({"cpu": 1}) as w:
        w.apply(pod("p", restartPolicy="Never", metadata=behaving("soon")))
        w.bind("p", CPU)
        await w.advance(10_000)
        assert w.phases() == ["Running"]


async def test_containers_take_their_time_to_start():
    async with world({"cpu": 1}, Habits(start_seconds=20)) as w:
        w.apply(pod("p"))
        w.bind("p", CPU)
        await w.advance(19)
        assert w.phases() == ["Pending"]
        await w.advance(1)
        assert w.phases() == ["Running"]


async def test_a_container_that_keeps_ending_is_restarted_ever_later():
    async with world({"cpu": 1}) as w:
        w.apply(pod("p", restartPolicy="Always", metadata=behaving(5)))
        w.bind("p", CPU)
        await w.advance(5)
        assert (container(w, "p")["restartCount"], container(w, "p")["ready"]) == (1, True)
        await w.advance(5)
        assert container(w, "p")["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        assert container(w, "p")["ready"] is False
        await w.advance(10)
        assert (container(w, "p")["restartCount"], container(w, "p")["ready"]) == (2, True)
        await w.advance(5 + 19)
        assert container(w, "p")["ready"] is False
        await w.advance(1)
        assert (container(w, "p")["restartCount"], container(w, "p")["ready"]) == (3, True)
        ready = next(entry for entry in w.pod("p")["status"]["conditions"] if entry["type"] == "Ready")
        assert ready["status"] == "True"
        assert "reason" not in ready


async def test_on_failure_restarts_what_failed_and_ends_with_success():
    async with world({"cpu": 1}) as w:
        w.apply(pod("fails", restartPolicy="OnFailure", metadata=behaving(5, code=1)))
        w.apply(pod("works", restartPolicy="OnFailure", metadata=behaving(5)))
        w.bind_all(CPU)
        await w.advance(5)
        assert w.phases() == ["Running", "Succeeded"]
        assert container(w, "fails")["restartCount"] == 1


async def test_init_containers_are_done_and_sidecars_run():
    async with world({"cpu": 1}) as w:
        made = pod("p")
        made["spec"]["initContainers"] = [
            {"name": "setup", "image": "i"},
            {"name": "proxy", "image": "i", "restartPolicy": "Always"},
        ]
        w.apply(made)
        w.bind("p", CPU)
        await w.settled()
        setup, proxy = w.pod("p")["status"]["initContainerStatuses"]
        assert setup["state"]["terminated"]["exitCode"] == 0
        assert "running" in proxy["state"]


async def test_a_pod_that_ran_before_the_kubelet_looked_is_left_running():
    async with world({"cpu": 1}) as w:
        w.apply(pod("p"))
        w.change(kinds.POD, "p", {"status": {"phase": "Running", "podIP": "10.1.2.3"}}, "status")
        w.bind("p", CPU)
        await w.settled()
        assert w.pod("p")["status"]["podIP"] == "10.1.2.3"
        w.delete(kinds.POD, "p")
        await w.settled()
        assert w.pods() == []


# --- deletion -----------------------------------------------------------------------------------------------------


async def test_a_deleted_pod_ends_in_its_own_time_but_within_its_grace():
    async with world({"cpu": 1}, Habits(stop_seconds=60)) as w:
        w.apply(pod("patient", terminationGracePeriodSeconds=100), pod("hasty", terminationGracePeriodSeconds=20))
        w.bind_all(CPU)
        await w.settled()
        for name in ("patient", "hasty"):
            w.delete(kinds.POD, name)
        await w.advance(19)
        assert len(w.pods()) == 2
        await w.advance(1)
        assert [p["metadata"]["name"] for p in w.pods()] == ["patient"]
        await w.advance(40)
        assert w.pods() == []


async def test_a_deleted_pod_with_a_finalizer_is_seen_to_have_ended():
    async with world({"cpu": 1}) as w:
        kept = pod("p")
        kept["metadata"]["finalizers"] = ["example.com/hold"]
        w.apply(kept)
        w.bind("p", CPU)
        await w.settled()
        w.delete(kinds.POD, "p")
        await w.settled()
        assert w.phases() == ["Failed"]
        w.change(kinds.POD, "p", {"metadata": {"finalizers": None}})
        await w.settled()
        assert w.pods() == []


async def test_a_pod_deleted_by_force_leaves_nothing_behind_on_its_node():
    async with world({"h100x8": 1}) as w:
        w.apply(claim("c"), pod_with_claim("p", "c", requests={"cpu": "200"}))
        w.start("p", H100, "gpu-0")
        await w.settled()
        assert len(w.nodes.prepared_on(H100)) == 1
        w.delete(kinds.POD, "p", grace_seconds=0)
        await w.settled()
        assert w.nodes.prepared_on(H100) == []
        w.apply(pod("next", requests={"cpu": "200"}))
        w.bind("next", H100)
        await w.settled()
        assert w.phases() == ["Running"]


async def test_pods_of_a_node_that_stays_away_are_removed():
    async with world({"cpu": 2}) as w:
        w.apply(pod("lost"), pod("safe"))
        w.bind("lost", CPU)
        w.bind("safe", "cpu-001")
        await w.settled()
        w.delete(kinds.NODE, CPU)
        await w.advance(ORPHAN_SECONDS - 1)
        assert len(w.pods()) == 2
        await w.advance(1)
        assert [p["metadata"]["name"] for p in w.pods()] == ["safe"]


async def test_a_pod_bound_before_its_node_came_runs_when_it_comes():
    async with world() as w:
        w.apply(pod("early"))
        w.bind("early", CPU)
        await w.advance(ORPHAN_SECONDS - 1)
        assert w.phases() == ["Pending"]
        await w.nodes.add(SHAPES["cpu"])
        await w.advance(100)
        assert w.phases() == ["Running"]


# --- admission ----------------------------------------------------------------------------------------------------


async def test_a_node_takes_no_more_than_it_has():
    async with world({"cpu": 1}) as w:  # 64 CPUs
        for name, cpus in (("a", "40"), ("b", "25"), ("c", "24")):
            w.apply(pod(name, requests={"cpu": cpus}))
            w.bind(name, CPU)
            await w.settled()
        assert w.phases() == ["Running", "Failed", "Running"]
        assert w.pod("b")["status"]["reason"] == "OutOfcpu"
        assert "requested: 25000, used: 40000, capacity: 64000" in w.pod("b")["status"]["message"]
        assert w.events("OutOfcpu") == [w.pod("b")["status"]["message"]]
        assert w.nodes.refusals["OutOfcpu"] == 1


async def test_room_comes_back_when_a_pod_ends():
    async with world({"cpu": 1}) as w:
        w.apply(pod("first", restartPolicy="Never", requests={"cpu": "64"}, metadata=behaving(5)))
        w.bind("first", CPU)
        await w.advance(5)
        w.apply(pod("second", requests={"cpu": "64"}))
        w.bind("second", CPU)
        await w.settled()
        assert w.phases() == ["Succeeded", "Running"]


async def test_gpus_counted_by_a_device_plugin_run_out():
    async with world({"t4-plugin": 1}) as w:
        for name, count in (("a", "3"), ("b", "2")):
            w.apply(pod(name, requests={"nvidia.com/gpu": count}))
            w.bind(name, "t4-plugin-000")
            await w.settled()
        assert w.phases() == ["Running", "Failed"]
        assert w.pod("b")["status"]["reason"] == "OutOfnvidia.com/gpu"


def node_with(**allocatable: str) -> Obj:
    labels = {"zone": "a", "gpus": "8"}
    return {
        "metadata": {"name": "n", "labels": labels},
        "spec": {"taints": [{"key": "drain", "value": "now", "effect": "NoExecute"}]},
        "status": {"allocatable": {"pods": "110", **allocatable}},
    }


TOLERANT = [{"key": "drain", "operator": "Exists"}]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({}, None),
        ({"tolerations": []}, "TaintToleration"),
        ({"tolerations": [{"key": "drain", "value": "later"}]}, "TaintToleration"),
        ({"tolerations": [{"key": "drain", "value": "now"}]}, None),
        ({"nodeSelector": {"zone": "a"}}, None),
        ({"nodeSelector": {"zone": "b"}}, "NodeAffinity"),
    ],
)
def test_node_selection_and_taints_are_checked_again(spec: Obj, reason: str | None):
    made = pod("p", **{"tolerations": TOLERANT, **spec})
    found = refusal(made, requests_of(made), node_with(), {})
    assert (found.reason if found else None) == reason


@pytest.mark.parametrize(
    ("expression", "fits"),
    [
        ({"key": "zone", "operator": "In", "values": ["a", "b"]}, True),
        ({"key": "zone", "operator": "NotIn", "values": ["a"]}, False),
        ({"key": "disk", "operator": "NotIn", "values": ["ssd"]}, True),
        ({"key": "disk", "operator": "Exists"}, False),
        ({"key": "disk", "operator": "DoesNotExist"}, True),
        ({"key": "gpus", "operator": "Gt", "values": ["7"]}, True),
        ({"key": "gpus", "operator": "Lt", "values": ["8"]}, False),
        ({"key": "zone", "operator": "Gt", "values": ["7"]}, False),
    ],
)
def test_node_affinity_is_checked_again(expression: Obj, fits: bool):
    terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    made = pod("p", tolerations=TOLERANT, affinity=affinity)
    assert (refusal(made, requests_of(made), node_with(), {}) is None) is fits


def test_a_pod_asks_for_the_larger_of_its_containers_and_its_init_containers():
    made = pod("p", requests={"cpu": "2", "memory": "1Gi"}, overhead={"cpu": "100m"})
    made["spec"]["initContainers"] = [
        {"name": "proxy", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
        {"name": "setup", "resources": {"requests": {"cpu": "3", "memory": "512Mi"}}},
    ]
    # Containers and sidecar: 3 CPUs. The init container beside the sidecar: 4.
    assert requests_of(made) == {"cpu": 4100, "memory": 1 << 30, "pods": 1}


def test_an_extended_resource_the_node_does_not_have_is_somebody_elses_to_serve():
    made = pod("p", requests={"nvidia.com/gpu": "2"}, tolerations=TOLERANT)
    assert refusal(made, requests_of(made), node_with(), {}) is None


# --- claims and devices -------------------------------------------------------------------------------------------


async def test_a_pod_its_claim_is_not_reserved_for_does_not_start():
    async with world({"h100x8": 1}) as w:
        w.apply(claim("c"), pod_with_claim("other", "c"), pod_with_claim("p", "c"))
        w.start("other", H100, "gpu-0")
        await w.settled()
        w.delete(kinds.CLAIM, "c")  # in use, so it stays for now; nobody gets a new reservation
        w.bind("p", H100)
        await w.settled()
        assert w.phases() == ["Running", "Pending"]
        assert w.events("FailedPrepareDynamicResources") == ["resourceclaim default/c is not reserved for this pod"]


async def test_a_pod_says_once_what_its_claim_lacks():
    async with world({"h100x8": 1}) as w:
        w.apply(pod_with_claim("p", "missing"))
        w.bind("p", H100)
        await w.settled()
        w.change(kinds.POD, "p", {"metadata": {"labels": {"x": "y"}}})
        await w.settled()
        assert w.events("FailedPrepareDynamicResources") == ["resourceclaim default/missing does not exist"]
        w.apply(claim("missing"))
        await w.settled()
        assert "resourceclaim default/missing is not allocated" in w.events("FailedPrepareDynamicResources")
        w.allocate("missing", f"gpu.nvidia.com/{H100}/gpu-0", pods=("p",))
        await w.settled()
        assert w.phases() == ["Running"]


async def test_a_claim_made_for_another_pod_is_not_used():
    async with world({"h100x8": 1}) as w:
        w.apply(claim_template("t"), pod("owner", {"gpu": "t"}))
        await w.settled()
        borrowed = w.claim_of("owner")
        w.apply(pod_with_claim("thief", borrowed))
        w.allocate(borrowed, f"gpu.nvidia.com/{H100}/gpu-0", pods=("owner", "thief"))
        w.bind("thief", H100)
        await w.settled()
        assert w.pod("thief")["status"]["phase"] == "Pending"
        assert any("was made for another pod" in text for text in w.events("FailedPrepareDynamicResources"))


async def test_a_device_of_another_node_keeps_the_pod_waiting():
    async with world({"h100x8": 2}) as w:
        w.apply(claim("c"), pod_with_claim("p", "c"))
        w.allocate("c", "gpu.nvidia.com/h100x8-001/gpu-0", pods=("p",))
        w.bind("p", H100)
        await w.settled()
        assert w.phases() == ["Pending"]
        assert w.nodes.foreign_devices == 1
        text = "claim default/c: device gpu.nvidia.com/h100x8-001/gpu-0 is not on this node"
        assert w.events("FailedPrepareDynamicResources") == [text]


async def test_a_device_handed_out_twice_is_refused():
    async with world({"h100x8": 1}) as w:
        for name in ("first", "second"):
            w.apply(claim(f"of-{name}"), pod_with_claim(name, f"of-{name}"))
            w.start(name, H100, "gpu-0")
            await w.settled()
        assert w.phases() == ["Running", "Failed"]
        assert w.nodes.double_allocations == 1
        assert w.pod("second")["status"]["reason"] == "DoubleAllocation"
        text = f"device gpu.nvidia.com/{H100}/gpu-0 is prepared for claim default/of-first already"
        assert w.events("FailedPrepareDynamicResources") == [f"claim default/of-second: {text}"]


async def test_the_resources_of_a_pod_refused_for_its_device_are_free_again():
    async with world({"h100x8": 1}) as w:
        w.apply(claim("a"), pod_with_claim("first", "a"))
        w.apply(claim("b"), pod_with_claim("second", "b", requests={"cpu": "200"}))
        w.start("first", H100, "gpu-0")
        w.start("second", H100, "gpu-0")
        w.apply(pod("third", requests={"cpu": "200"}))
        await w.settled()
        w.bind("third", H100)
        await w.settled()
        assert w.phases() == ["Running", "Failed", "Running"]


async def test_one_claim_serves_all_pods_it_is_reserved_for():
    async with world({"h100x8": 1}) as w:
        w.apply(claim("c"), pod_with_claim("a", "c"), pod_with_claim("b", "c"))
        w.allocate("c", f"gpu.nvidia.com/{H100}/gpu-0", pods=("a", "b"))
        w.bind_all(H100)
        await w.settled()
        assert w.phases() == ["Running", "Running"]
        w.delete(kinds.POD, "a")
        await w.settled()
        assert len(w.nodes.prepared_on(H100)) == 1
        w.delete(kinds.POD, "b")
        await w.settled()
        assert w.nodes.prepared_on(H100) == []


async def test_admin_access_takes_nothing_from_anybody():
    async with world({"h100x8": 1}) as w:
        w.apply(claim("owner"), claim("watcher"), pod_with_claim("p", "owner"), pod_with_claim("monitor", "watcher"))
        w.start("p", H100, "gpu-0")
        w.allocate("watcher", f"gpu.nvidia.com/{H100}/gpu-0", pods=("monitor",), adminAccess=True)
        w.bind("monitor", H100)
        await w.settled()
        assert w.phases() == ["Running", "Running"]
        assert w.nodes.double_allocations == 0


async def test_a_device_is_free_for_the_next_claim_when_its_pod_is_gone():
    async with world({"h100x8": 1}) as w:
        w.apply(claim("a"), pod_with_claim("first", "a"), claim("b"), pod_with_claim("second", "b"))
        w.start("first", H100, "gpu-0")
        await w.settled()
        w.delete(kinds.POD, "first")
        await w.settled()
        w.start("second", H100, "gpu-0")
        await w.settled()
        assert w.phases() == ["Running"]
        assert w.nodes.double_allocations == 0


async def test_instances_that_overlap_on_one_gpu_are_a_device_handed_out_twice():
    async with world({"h100x8-mig": 1}) as w:
        devices = {
            "low": "gpu-0-mig-3g40gb-9-0",  # memory slices 0-3
            "high": "gpu-0-mig-3g40gb-9-4",  # 4-7
            "clash": "gpu-0-mig-1g10gb-19-5",  # 5
            "whole": "gpu-0",
            "elsewhere": "gpu-1",
        }
        for name, device in devices.items():
            w.apply(claim(name, **claim_spec("mig.nvidia.com")), pod_with_claim(name, name))
            w.start(name, MIG, device)
            await w.settled()
        phases = {p["metadata"]["name"]: p["status"]["phase"] for p in w.pods()}
        assert phases == {
            "low": "Running",
            "high": "Running",
            "clash": "Failed",
            "whole": "Failed",
            "elsewhere": "Running",
        }
        assert w.nodes.double_allocations == 2
        assert any(
            "needs memory-slice-5 of gpu-0-counter-set" in text for text in w.events("FailedPrepareDynamicResources")
        )


async def test_shares_of_a_device_may_not_consume_more_than_it_has():
    async with world({"cpu": 1}) as w:
        device = {
            "name": "shared-0",
            "allowMultipleAllocations": True,
            "capacity": {"memory": {"value": "80Gi", "requestPolicy": {"default": "80Gi"}}},
        }
        w.apply(published("s", "shared.example.com", [device], nodeName=CPU))
        for name, memory in (("a", "40Gi"), ("b", "41Gi"), ("c", "40Gi")):
            w.apply(claim(name), pod_with_claim(name, name))
            consumed = {"memory": memory}
            w.allocate(
                name,
                "shared.example.com/shared.example.com/shared-0",
                pods=(name,),
                shareID=name,
                consumedCapacity=consumed,
            )
            w.bind(name, CPU)
            await w.settled()
        assert w.phases() == ["Running", "Failed", "Running"]
        assert w.nodes.double_allocations == 1


async def test_one_share_of_a_device_goes_to_one_claim():
    async with world({"cpu": 1}) as w:
        w.apply(published("s", "shared.example.com", [{"name": "d", "allowMultipleAllocations": True}], allNodes=True))
        for name, share in (("a", "one"), ("b", "two"), ("c", "one")):
            w.apply(claim(name), pod_with_claim(name, name))
            w.allocate(name, "shared.example.com/shared.example.com/d", pods=(name,), shareID=share)
            w.bind(name, CPU)
            await w.settled()
        assert w.phases() == ["Running", "Running", "Failed"]


async def test_devices_reached_over_the_network_are_those_whose_selector_takes_the_node():
    async with world({"cpu": 2}) as w:
        term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [CPU]}]}
        near = {"name": "near", "nodeSelector": {"nodeSelectorTerms": [term]}}
        everywhere = {"name": "everywhere", "allNodes": True}
        w.apply(published("s", "net.example.com", [near, everywhere], perDeviceNodeSelection=True))
        for name, device, node in (("a", "near", CPU), ("b", "near", "cpu-001"), ("c", "everywhere", "cpu-001")):
            w.apply(claim(name), pod_with_claim(name, name))
            w.allocate(name, f"net.example.com/net.example.com/{device}", pods=(name,))
            w.bind(name, node)
            await w.settled()
            if w.pod(name)["status"]["phase"] == "Running":
                w.delete(kinds.POD, name)
            await w.settled()
        assert [p["metadata"]["name"] for p in w.pods()] == ["b"]
        assert w.nodes.foreign_devices == 1


async def test_only_the_newest_generation_of_a_pool_counts():
    async with world({"cpu": 1}) as w:
        w.apply(published("old", "gen.example.com", [{"name": "gone"}], 1, nodeName=CPU))
        w.apply(published("new", "gen.example.com", [{"name": "here"}], 2, nodeName=CPU))
        for name, device in (("a", "gone"), ("b", "here")):
            w.apply(claim(name), pod_with_claim(name, name))
            w.allocate(name, f"gen.example.com/gen.example.com/{device}", pods=(name,))
            w.bind(name, CPU)
        await w.settled()
        assert w.phases() == ["Pending", "Running"]


async def test_a_driver_that_is_at_work_on_its_slices_has_its_devices_all_the_same():
    async with world({"cpu": 1}) as w:
        newer = published("new", "gen.example.com", [{"name": "b"}], 2, nodeName=CPU)
        newer["spec"]["pool"]["resourceSliceCount"] = 2
        w.apply(published("old", "gen.example.com", [{"name": "a"}], 1, nodeName=CPU), newer)
        for name in ("a", "b"):
            w.apply(claim(name), pod_with_claim(name, name))
            w.allocate(name, f"gen.example.com/gen.example.com/{name}", pods=(name,))
            w.bind(name, CPU)
        await w.settled()
        assert w.phases() == ["Running", "Running"]


async def test_devices_are_given_back_before_the_end_of_the_pod_is_reported():
    async with world({"h100x8": 1}) as w:
        w.apply(claim("c"), pod_with_claim("p", "c", restartPolicy="Never", metadata=behaving(5)))
        w.start("p", H100, "gpu-0")
        await w.settled()
        held: list[list[str]] = []

        def watch(kind: kinds.Kind, _before: Obj | None, after: Obj | None) -> None:
            if kind is kinds.POD and after is not None and after["status"]["phase"] == "Succeeded":
                held.append(w.nodes.prepared_on(H100))

        w.store.observe(watch)
        await w.advance(5)
        assert held == [[]]


async def test_devices_published_later_let_a_waiting_pod_start():
    async with world({"cpu": 1}) as w:
        w.apply(claim("c"), pod_with_claim("p", "c"))
        w.allocate("c", "late.example.com/late.example.com/dev-0", pods=("p",))
        w.bind("p", CPU)
        await w.settled()
        assert w.phases() == ["Pending"]
        w.apply(published("s", "late.example.com", [{"name": "dev-0"}], nodeName=CPU))
        await w.settled()
        assert w.phases() == ["Running"]


# --- the machinery ------------------------------------------------------------------------------------------------


def test_simulated_nodes_know_the_api_and_not_the_store():
    for module in (nodes, kubelet, station, work):
        source = inspect.getsource(module)
        assert "devcluster.store" not in source
        assert "Direct" not in source
    assert "devcluster.store" in inspect.getsource(access)


async def test_time_can_run_faster_than_the_clock_on_the_wall():
    clock, called = LoopClock(scale=1e6), asyncio.Event()
    before = clock.time()
    clock.call_later(1000, called.set)
    await called.wait()
    assert clock.time() - before >= 1000


def test_time_moved_by_hand_calls_in_order_and_not_what_was_cancelled():
    clock, calls = ManualClock(), []
    clock.call_later(5, lambda: calls.append("late"))
    clock.call_later(1, lambda: (calls.append("early"), clock.call_later(1, lambda: calls.append("next")))[0])
    clock.call_later(2, lambda: calls.append("never")).cancel()
    clock.advance(4)
    assert calls == ["early", "next"]
    assert clock.next_due == 5
    clock.advance(1)
    assert calls == ["early", "next", "late"]


async def test_a_follower_that_fell_behind_gets_the_whole_again_and_loses_what_went():
    async with world() as w:
        w.apply(pod("stays"), pod("goes"))
        seen: list[tuple[str | None, str | None]] = []
        mirror = Mirror(Direct(w.store), kinds.POD)

        def listen(before: Obj | None, after: Obj | None) -> None:
            seen.append((name_of(before) if before else None, name_of(after) if after else None))

        mirror.listen(listen)
        following = asyncio.create_task(mirror.run())
        await mirror.synced.wait()
        w.delete(kinds.POD, "goes")
        w.apply(pod("comes"))
        w.store.compact()  # the history no longer reaches back to what the follower saw
        while mirror.get("default/comes") is None:
            await asyncio.sleep(0)
        following.cancel()
        assert seen == [(None, "goes"), (None, "stays"), ("goes", None), (None, "comes")]


async def test_an_answer_that_comes_late_does_not_hide_what_the_watch_showed_since():
    async with world() as w:
        w.apply(pod("p"))

        class Slow(Direct):
            """Answers a patch after somebody else changed the object and the watch said so."""

            async def patch(self, *place: Any, **how: Any) -> Obj:
                answer = await super().patch(*place, **how)
                w.change(kinds.POD, "p", {"metadata": {"labels": {"by": "other"}}})
                while mirror.get("default/p") != w.pod("p"):
                    await asyncio.sleep(0)
                return answer

        mirror = Mirror(Slow(w.store), kinds.POD)
        following = asyncio.create_task(mirror.run())
        await mirror.synced.wait()
        answer = await mirror.patch(w.pod("p"), {"metadata": {"labels": {"by": "us"}}}, subresource=None)
        following.cancel()
        assert answer["metadata"]["labels"] == {"by": "us"}
        assert mirror.get("default/p") == w.pod("p")


async def test_a_refused_write_is_tried_again_and_a_bug_is_not_hidden():
    attempts: list[str] = []
    done = asyncio.Event()

    async def sync(key: str) -> None:
        attempts.append(key)
        if key == "bug":
            raise KeyError(key)
        if len(attempts) < 3:
            raise StatusError(409, "Conflict", "somebody else was faster")
        done.set()

    queue = Work("test", sync)
    running = asyncio.create_task(queue.run())
    queue.add("key")
    await done.wait()
    assert attempts == ["key", "key", "key"]
    queue.add("bug")
    with pytest.raises(ExceptionGroup):
        await running


async def test_a_key_added_while_it_is_worked_on_is_looked_at_again():
    looks: list[str] = []
    twice = asyncio.Event()

    async def sync(key: str) -> None:
        looks.append(key)
        if len(looks) == 1:
            queue.add(key)
            queue.add(key)
        else:
            twice.set()

    queue = Work("test", sync)
    running = asyncio.create_task(queue.run())
    queue.add("key")
    await twice.wait()
    while not queue.quiet:
        await asyncio.sleep(0)
    running.cancel()
    assert looks == ["key", "key"]


async def test_the_cluster_with_its_server_begins_with_its_machines():
    async with DevCluster(shapes={"cpu": 2}) as cluster:
        assert [node["metadata"]["name"] for node in cluster.store.all(kinds.NODE)] == ["cpu-000", "cpu-001"]
        assert [entry["metadata"]["name"] for entry in cluster.store.all(kinds.DEVICE_CLASS)] == [
            "gpu.nvidia.com",
            "mig.nvidia.com",
            "rdma-nic",
        ]


def test_a_cluster_of_a_shape_that_does_not_exist_is_refused():
    with pytest.raises(ShapeError, match="shape 'h200' does not exist; choose from a100-mig"):
        DevCluster(shapes={"h200": 1})
