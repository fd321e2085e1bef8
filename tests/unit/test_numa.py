"""What nodes tell of their NUMA zones, and what kubelets align of a pod."""

from typing import Any

import pytest

from queues.resources import Resources
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.model.workloads import Pod
from scheduler.model.zones import Aligned, Zones
from scheduler.state import recording
from scheduler.state.translate import snapshot
from tests.manifests import Document, change, container, merged, node, pod, state
from tests.numa import guaranteed, limited, node_topology

GPU = "nvidia.com/gpu"
GI = 1024**3


def seen_in(*documents: Document) -> Snapshot:
    return snapshot(state(*documents), now_ms=0, policy=Policy())


def zones_of(topology: Document) -> Zones | None:
    (found,) = seen_in(node("n1", gpus=8), topology).nodes
    return found.zones


def aligned(one: Document) -> Aligned | None:
    seen = seen_in(node("n1"), node_topology("n1", {"cpu": 4}), one)
    found: list[Pod] = [each for gang in seen.gangs for each in gang.pods]
    return found[0].aligned


def amounts(**asked: int) -> Resources:
    return Resources({name.replace("gpu", GPU): amount for name, amount in asked.items()})


def test_zones_have_amounts_in_house_units_in_the_order_of_their_numbers():
    topology = node_topology("n1", *({"cpu": (4, 1), "memory": "1Gi"} for _ in range(11)))
    topology["zones"].reverse()
    found = zones_of(topology)
    assert found is not None
    assert [zone.name for zone in found.zones] == [f"node-{number}" for number in range(11)]
    assert found.zones[0].allocatable == Resources({"cpu": 4000, "memory": GI})
    assert found.zones[0].available == Resources({"cpu": 1000, "memory": GI})


@pytest.mark.parametrize(
    ("attributes", "policies", "expected"),
    [
        ({"topologyManagerPolicy": "single-numa-node", "topologyManagerScope": "pod"}, [], (True, True)),
        ({"topologyManagerPolicy": "restricted", "topologyManagerScope": "container"}, [], (False, False)),
        ({"topologyManagerPolicy": "restricted"}, [], (False, False)),
        ({"topologyManagerPolicy": "best-effort", "topologyManagerScope": "pod"}, [], None),
        ({}, ["SingleNUMANodePodLevel"], (True, True)),
        ({}, ["RestrictedContainerLevel"], (False, False)),
        ({}, ["BestEffort"], None),
        ({"topologyManagerPolicy": "none"}, ["SingleNUMANodePodLevel"], None),
        ({}, [], None),
    ],
)
def test_only_policies_that_refuse_pods_count(
    attributes: dict[str, str], policies: list[str], expected: tuple[bool, bool] | None
):
    topology = node_topology("n1", {"cpu": 4}) | {
        "attributes": [{"name": name, "value": value} for name, value in attributes.items()],
        "topologyPolicies": policies,
    }
    found = zones_of(topology)
    assert (found and (found.single, found.per_pod)) == expected


def test_zones_of_another_type_are_no_numa_zones():
    topology = node_topology("n1", {"cpu": 4}, {"cpu": 4})
    topology["zones"][1]["type"] = "Core"
    found = zones_of(topology)
    assert found is not None
    assert len(found.zones) == 1


def test_zones_that_cannot_be_read_are_set_aside_and_not_regarded():
    seen = seen_in(node("n1"), node_topology("n1", {"cpu": "many"}))
    assert [each.zones for each in seen.nodes] == [None]
    (aside,) = seen.set_aside
    assert aside.object == "NodeResourceTopology/n1"
    assert "zones.node-0.cpu.allocatable" in aside.reason.message


def test_zones_come_and_go_with_what_tells_of_them():
    known = state(node("n1"), guaranteed("p", cpu="2"))
    assert snapshot(known, now_ms=0, policy=Policy()).nodes[0].zones is None
    for kind, there in (("ADDED", True), ("DELETED", False)):
        known.apply(change(merged(node_topology("n1", {"cpu": 4}), metadata={"resourceVersion": "7"}), kind))
        seen = snapshot(known, now_ms=0, policy=Policy())
        assert (seen.nodes[0].zones is not None) is there
        assert (seen.gangs[0].pods[0].aligned is not None) is there


def test_of_a_guaranteed_pod_cpus_memory_and_devices_are_aligned():
    found = aligned(guaranteed("p", cpu="2", gpus=1))
    assert found is not None
    assert found.whole == amounts(cpu=2000, memory=GI, gpu=1)
    assert found.containers == (found.whole,)


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        ([limited("1500m")], amounts(memory=GI)),
        ([limited("1"), limited("1500m", name="b")], amounts(cpu=1000, memory=2 * GI)),
        ([container(requests={"cpu": "2", "memory": "1Gi"})], None),
        ([limited("1"), container("b", requests={GPU: "1"}, limits={GPU: "1"})], amounts(gpu=1)),
        ([container(limits={"cpu": "2", "memory": "1Gi"})], amounts(cpu=2000, memory=GI)),
        ([container(limits={"cpu": "2"})], None),
    ],
)
def test_what_is_aligned_of_other_pods(containers: list[Document], expected: Resources | None):
    found = aligned(pod("p", containers=containers))
    assert (found and found.whole) == expected


def test_init_containers_need_room_before_and_sidecars_with_the_others():
    spec: dict[str, Any] = {
        "containers": [limited("2")],
        "initContainers": [limited("3", name="init"), {**limited("1", name="side"), "restartPolicy": "Always"}],
    }
    found = aligned(pod("p", **spec))
    assert found is not None
    assert found.whole == amounts(cpu=3000, memory=2 * GI)
    assert found.containers == (amounts(cpu=1000, memory=GI), amounts(cpu=2000, memory=GI))
    assert found.inits == (amounts(cpu=3000, memory=GI),)


def test_pod_level_resources_leave_all_but_devices_unaligned():
    found = aligned(pod("p", containers=[limited("2", gpus=1)], resources={"limits": {"cpu": "2", "memory": "1Gi"}}))
    assert found is not None
    assert found.whole == amounts(gpu=1)


def test_zones_survive_recording():
    known = state(node("n1", cpu="8"), node_topology("n1", {"cpu": (4, 1)}), guaranteed("p", cpu="2"))
    again = recording.load(recording.dump(known, now_ms=0, policy=Policy())).snapshot()
    assert again == snapshot(known, now_ms=0, policy=Policy())
    assert again.nodes[0].zones is not None
