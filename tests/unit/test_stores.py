"""Storage objects -> the Snapshot's storage: claims, volumes, classes, capacities, limits."""

from scheduler.api.changes import deleted
from scheduler.api.kinds import VOLUME_CLAIM
from scheduler.dra.selection import matches
from scheduler.model.nodes import Node
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.model.volumes import PodVolume
from scheduler.state import recording
from scheduler.state.translate import snapshot
from tests.manifests import Document, change, merged, node, pod, state
from tests.storage import (
    HOST,
    ZONE,
    bound,
    capacity,
    csi_driver,
    csi_node,
    local_class,
    mount,
    scratch,
    storage_class,
    volume,
    volume_claim,
    within,
)

OLD_ZONE = "failure-domain.beta.kubernetes.io/zone"


def seen(*documents: Document | list[Document]) -> Snapshot:
    return snapshot(state(*documents), now_ms=0, policy=Policy())


def reaches(document: Document, **labels: str) -> bool:
    """Whether a node of these labels reaches the volume."""
    (found,) = seen(document).storage.volumes.values()
    spelled = {key: labels[word] for key, word in ((ZONE, "zone"), (OLD_ZONE, "old"), (HOST, "host")) if word in labels}
    there = Node(name="n", labels=spelled, allocatable=seen(node("n")).nodes[0].allocatable)
    return all(matches(where.selector, there) for where in found.where)


def test_a_pod_names_its_claims_each_once_those_made_for_it_after_itself_and_the_volume():
    volumes = [*mount("data", "data"), scratch("tmp"), {"name": "x", "emptyDir": {}}]
    (found,) = seen(pod("p", node="n1", volumes=volumes)).pods
    assert found.volumes == (PodVolume(claim="a/data"), PodVolume(claim="a/p-tmp", own=True))


def test_a_claim_is_bound_once_its_binding_is_completed():
    (named,) = seen(volume_claim("c", volume="v")).storage.claims.values()
    (done,) = seen(volume_claim("c", volume="v", bound=True)).storage.claims.values()
    assert (named.volume, named.bound) == ("v", False)
    assert (done.volume, done.bound) == ("v", True)


def test_a_claim_says_what_it_asks_for():
    document = volume_claim("c", size="2Gi", modes=("ReadWriteOncePod",), node="n1", volumeMode="Block")
    (found,) = seen(document).storage.claims.values()
    assert (found.key, found.size, found.modes) == ("a/c", 2 * 1024**3, ("ReadWriteOncePod",))
    assert (found.block, found.selected_node, found.storage_class) == (True, "n1", "wait")


def test_a_volume_is_reached_where_its_node_affinity_holds():
    local = volume("v", nodes=["n1", "n2"])
    assert reaches(local, host="n2")
    assert not reaches(local, host="n3")


def test_a_volume_with_zone_labels_is_reached_from_its_zones_and_from_nodes_that_have_no_zone():
    zonal = volume("v", labels={ZONE: "a__b"})
    assert reaches(zonal, zone="b")
    assert not reaches(zonal, zone="c")
    assert reaches(zonal, host="n1")


def test_an_older_zone_label_of_a_volume_is_matched_by_the_newer_one_of_a_node():
    zonal = volume("v", labels={OLD_ZONE: "a"})
    assert reaches(zonal, zone="a")
    assert not reaches(zonal, zone="b")
    assert not reaches(zonal, old="b", zone="a")


def test_classes_say_whether_claims_wait_and_whether_there_is_a_provisioner():
    classes = seen(local_class(), storage_class("now", waits=False)).storage.classes
    assert (classes["local"].provisioner, classes["local"].waits) == ("", True)
    assert (classes["now"].provisioner, classes["now"].waits) == ("disk.example.com", False)


def test_allowed_topologies_are_alternatives():
    terms = [{"matchLabelExpressions": [within(ZONE, "a")]}, {"matchLabelExpressions": [within(ZONE, "b")]}]
    (found,) = seen(storage_class(allowedTopologies=terms)).storage.classes.values()
    assert found.allowed is not None
    nodes = seen(*(node(zone, labels={ZONE: zone}) for zone in "abc")).nodes
    assert [matches(found.allowed, each) for each in nodes] == [True, True, False]


def test_the_largest_volume_goes_before_the_whole_capacity():
    document = merged(capacity("c", "10Gi"), maximumVolumeSize="1Gi")
    (found,) = seen(document, csi_driver()).storage.capacities
    assert found.largest == 1024**3
    assert seen(csi_driver(), csi_driver("other", capacity=False)).storage.tracking == {"disk.example.com"}


def test_capacity_without_a_topology_is_nowhere_and_with_an_empty_one_everywhere():
    nowhere = {key: value for key, value in capacity("c", "1Gi").items() if key != "nodeTopology"}
    assert seen(nowhere).storage.capacities == ()
    (found,) = seen(capacity("c", "1Gi")).storage.capacities
    assert all(matches(found.where, each) for each in seen(node("n1"), node("n2", labels={OLD_ZONE: "a"})).nodes)


def test_limits_are_those_that_drivers_report():
    found = seen(csi_node("n1", disk_example_com=3, other=None), csi_node("n2", other=None)).storage.limits
    assert found == {"n1": {"disk.example.com": 3}}


def test_a_size_that_cannot_be_read_is_set_aside_and_no_older_one_is_kept():
    told = state(volume_claim("c"))
    assert snapshot(told, now_ms=0, policy=Policy()).storage.claims
    told.apply(change(volume_claim("c", size="much"), "MODIFIED"))
    found = snapshot(told, now_ms=0, policy=Policy())
    assert found.storage.claims == {}
    assert [aside.object for aside in found.set_aside] == ["PersistentVolumeClaim/a/c"]


def test_what_is_deleted_is_gone():
    told = state(volume_claim("c"))
    snapshot(told, now_ms=0, policy=Policy())
    told.apply(deleted(VOLUME_CLAIM, "a/c"))
    assert snapshot(told, now_ms=0, policy=Policy()).storage.claims == {}


def test_storage_is_recorded_and_replayed():
    told = state(
        bound("data", nodes=["n1"], driver="disk.example.com"),
        volume_claim("new", size="2Gi"),
        storage_class(),
        csi_node("n1", disk_example_com=3),
        csi_driver(),
        capacity("c", "10Gi", labels={ZONE: "a"}),
        pod("p", volumes=[*mount("data"), scratch()]),
    )
    document = recording.dump(told, now_ms=1, policy=Policy())
    assert recording.load(document).snapshot() == snapshot(told, now_ms=1, policy=Policy())
    assert b"volumeClaimTemplate" not in document
