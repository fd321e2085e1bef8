"""What pods' volumes ask of nodes, and what is left of volumes as a plan grows."""

from scheduler.dra.selection import matches
from scheduler.model.reasons import WaitingForVolumes
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.model.workloads import Pod
from scheduler.plan.ground.volumes import Volumes
from scheduler.state.translate import snapshot
from tests.manifests import Document, merged, node, pod, state
from tests.storage import (
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

DISK = "disk.example.com"


class Scene:
    """A cluster of n1, n2, n3, and what volumes mean there."""

    def __init__(self, *documents: Document | list[Document]) -> None:
        nodes = [node(name, labels={ZONE: zone}) for name, zone in (("n1", "a"), ("n2", "a"), ("n3", "b"))]
        self.seen: Snapshot = snapshot(state(*nodes, *documents), now_ms=0, policy=Policy())
        self.pods = {pod.name: pod for gang in self.seen.gangs for pod in gang.pods}
        by_name = {each.name: each for each in self.seen.nodes}
        self.volumes = Volumes(by_name, self.seen.storage, self.seen.pods, self.pods.values())

    def pod(self, name: str) -> Pod:
        return self.pods[name]

    def reason(self, name: str) -> WaitingForVolumes:
        found = self.volumes.trouble(self.pod(name))
        assert found is not None
        return found

    def nodes(self, name: str) -> str:
        """Numbers of the nodes that can take the pod now."""
        wish = self.volumes.wish([self.pod(name)])
        return "".join(
            each.name[1:]
            for each in self.seen.nodes
            if all(matches(where.selector, each) for where in wish.where)
            and self.volumes.refusal(each.name, [(wish, 1)]) is None
        )

    def take(self, name: str, at: str) -> dict[str, str]:
        chosen = self.volumes.choose(at, [self.pod(name)])
        assert chosen is not None
        self.volumes.take(self.pod(name), at, tuple(chosen.items()))
        return chosen


def using(name: str, *claims: str, **fields: object) -> Document:
    return pod(name, volumes=mount(*claims), **fields)  # type: ignore[arg-type]


def test_pods_without_volumes_cost_nothing():
    scene = Scene(pod("p"), bound("c"))
    assert scene.volumes.idle
    assert scene.nodes("p") == "123"


def test_a_bound_claim_binds_the_pod_to_the_nodes_that_reach_its_volume():
    scene = Scene(using("p", "c"), bound("c", nodes=["n2", "n3"]))
    assert scene.nodes("p") == "23"


def test_volumes_in_zones_bind_to_nodes_of_the_zone():
    scene = Scene(using("p", "c"), bound("c", labels={ZONE: "b"}))
    assert scene.nodes("p") == "3"


def test_what_keeps_a_claim_from_being_used_is_said_with_its_name():
    gone = merged(volume_claim("gone"), metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    lost = merged(volume_claim("lost", volume="v", bound=True), status={"phase": "Lost"})
    scene = Scene(
        *(using(f"p-{name}", name) for name in ("none", "gone", "lost", "now", "classless", "named")),
        gone,
        lost,
        storage_class(),
        storage_class("now", waits=False),
        volume_claim("now", cls="now"),
        volume_claim("classless", cls=None),
        volume_claim("named", volume="v"),
    )
    problems = {
        name: scene.reason(f"p-{name}").problem for name in ("none", "gone", "lost", "now", "classless", "named")
    }
    assert problems == {
        "none": "does not exist",
        "gone": "is being deleted",
        "lost": "has lost its PersistentVolume v",
        "now": "is not bound yet",
        "classless": "is not bound yet",
        "named": "is not bound yet",
    }
    assert "a/now" in scene.reason("p-now").message


def test_a_claim_that_a_pod_gets_for_itself_must_be_its_own():
    made = pod("made", volumes=[scratch("x")])
    scene = Scene(
        made,
        pod("early", volumes=[scratch("x")]),
        pod("late", volumes=[scratch("x")]),
        volume_claim("made-x", owner=made),
        volume_claim("late-x"),
        storage_class(),
    )
    assert scene.volumes.trouble(scene.pod("made")) is None
    assert scene.reason("early").problem == "has not been made yet"
    assert scene.reason("late").problem == "belongs to something else"


def test_a_claim_that_waits_is_provisioned_where_its_class_may():
    allowed = [{"matchLabelExpressions": [within(ZONE, "a")]}]
    scene = Scene(using("p", "c"), volume_claim("c"), storage_class(allowedTopologies=allowed))
    assert scene.nodes("p") == "12"
    assert scene.take("p", "n1") == {"a/c": ""}


def test_drivers_that_publish_their_capacity_must_have_enough():
    room = [capacity("a", "5Gi", labels={ZONE: "a"}), capacity("b", "50Gi", labels={ZONE: "b"})]
    documents = [using("p", "c"), volume_claim("c", size="10Gi"), storage_class(), *room]
    assert Scene(*documents, csi_driver()).nodes("p") == "3"
    assert Scene(*documents, csi_driver(capacity=False)).nodes("p") == "123"


def test_a_claim_for_which_a_node_was_chosen_stays_there():
    scene = Scene(using("p", "c"), volume_claim("c", node="n2"), storage_class())
    assert scene.nodes("p") == "2"


def test_volumes_made_by_hand_go_to_one_claim_each():
    scene = Scene(
        *(using(f"p{i}", f"c{i}") for i in range(3)),
        *(volume_claim(f"c{i}", cls="local") for i in range(3)),
        volume("v1", nodes=["n1"]),
        volume("v2", nodes=["n2"]),
        local_class(),
    )
    assert scene.nodes("p0") == "12"
    assert scene.take("p0", "n1") == {"a/c0": "v1"}
    assert scene.nodes("p1") == "2"
    scene.take("p1", "n2")
    assert scene.nodes("p2") == ""


def test_what_is_given_back_is_free_again():
    scene = Scene(using("p", "c"), volume_claim("c", cls="local"), volume("v", nodes=["n1"]), local_class())
    before = scene.volumes.state("n1")
    chosen = scene.take("p", "n1")
    assert scene.volumes.state("n1") != before
    scene.volumes.give_back(scene.pod("p"), "n1", tuple(chosen.items()))
    assert scene.volumes.state("n1") == before
    assert scene.nodes("p") == "1"


def test_the_smallest_volume_that_fits_is_taken_but_not_from_a_claim_that_fits_no_other():
    scene = Scene(
        using("p", "large", "small"),
        volume_claim("large", cls="local", size="5Gi"),
        volume_claim("small", cls="local", size="1Gi"),
        volume("big", nodes=["n1"], size="10Gi"),
        volume("little", nodes=["n1"], size="2Gi"),
        local_class(),
    )
    assert scene.take("p", "n1") == {"a/large": "big", "a/small": "little"}


def test_a_volume_that_does_not_fit_is_none():
    claim = volume_claim("c", cls="local", size="2Gi", selector={"matchLabels": {"speed": "fast"}})
    fast = {"labels": {"speed": "fast"}, "size": "2Gi"}
    odd = [
        volume("small", nodes=["n1"], labels={"speed": "fast"}),
        volume("slow", nodes=["n1"], size="2Gi"),
        volume("shared", nodes=["n1"], modes=("ReadOnlyMany",), **fast),
        volume("raw", nodes=["n1"], volumeMode="Block", **fast),
        volume("other", nodes=["n1"], cls="other", **fast),
        volume("released", nodes=["n1"], phase="Released", **fast),
    ]
    assert Scene(using("p", "c"), claim, local_class(), *odd).nodes("p") == ""
    assert Scene(using("p", "c"), claim, local_class(), *odd, volume("it", nodes=["n1"], **fast)).nodes("p") == "1"


def test_a_volume_promised_to_the_claim_is_the_only_one_for_it():
    claim = volume_claim("c", cls="local")
    scene = Scene(
        using("p", "c"),
        using("q", "d"),
        claim,
        volume_claim("d", cls="local"),
        volume("mine", nodes=["n2"], claim=claim, phase="Available"),
        volume("other", nodes=["n1"]),
        local_class(),
    )
    assert (scene.nodes("p"), scene.nodes("q")) == ("2", "1")


def test_a_class_with_a_provisioner_takes_what_was_made_by_hand_first():
    scene = Scene(using("p", "c"), volume_claim("c"), volume("v", cls="wait", nodes=["n1"]), storage_class())
    assert scene.nodes("p") == "123"
    assert scene.volumes.choose("n2", [scene.pod("p")]) == {"a/c": ""}
    assert scene.take("p", "n1") == {"a/c": "v"}


def test_a_node_takes_as_many_volumes_of_a_driver_as_it_can_attach():
    scene = Scene(
        using("old", "x", node="n1"),
        using("p", "y"),
        bound("x", driver=DISK),
        volume_claim("y"),
        storage_class(provisioner=DISK),
        csi_node("n1", disk_example_com=2),
        csi_node("n2", disk_example_com=0),
        csi_node("n3", disk_example_com=None),
    )
    assert scene.nodes("p") == "13"
    wish = scene.volumes.wish([scene.pod("p")])
    assert scene.volumes.refusal("n1", [(wish, 2)]) == f"has as many volumes of {DISK} as it can attach"
    assert scene.volumes.refusal("n3", [(wish, 2)]) is None


def test_a_volume_that_is_attached_already_counts_once():
    shared = bound("x", driver=DISK, modes=("ReadWriteMany",))
    scene = Scene(using("old", "x", node="n1"), using("p", "x"), shared, csi_node("n1", disk_example_com=1))
    assert scene.nodes("p") == "123"


def test_a_claim_for_one_pod_alone_is_free_when_that_pod_has_ended():
    one = bound("c", modes=("ReadWriteOncePod",))
    running = Scene(using("old", "c", node="n1"), using("p", "c"), one)
    assert running.reason("p").problem == "pod a/old uses, and only one pod may (ReadWriteOncePod)"
    ended = Scene(using("old", "c", node="n1", phase="Succeeded"), using("p", "c"), one)
    assert ended.volumes.trouble(ended.pod("p")) is None


def test_a_claim_for_one_pod_alone_is_taken_within_a_plan():
    scene = Scene(using("p", "c"), using("q", "c"), bound("c", modes=("ReadWriteOncePod",)))
    assert not scene.volumes.overtaken([scene.pod("q")])
    scene.take("p", "n1")
    assert scene.volumes.overtaken([scene.pod("q")])
    assert scene.reason("q").claim == "a/c"


def test_pods_that_share_a_volume_still_to_be_attached_to_one_node_go_together():
    scene = Scene(using("p", "c"), using("q", "c"), volume_claim("c"), storage_class())
    assert scene.volumes.ties(scene.pod("p")) == scene.volumes.ties(scene.pod("q")) == ("a/c",)
    scene.take("p", "n2")
    assert scene.volumes.ties(scene.pod("q")) == ()
    assert scene.nodes("q") == "2"


def test_a_pod_waits_while_a_claim_is_being_bound_for_another():
    scene = Scene(using("p", "c"), using("q", "c", node="n1"), volume_claim("c"), storage_class())
    assert scene.reason("p").problem == "is being bound for pod a/q"


def test_pods_that_share_a_volume_of_many_nodes_are_free():
    scene = Scene(using("p", "c"), using("q", "c"), volume_claim("c", modes=("ReadWriteMany",)), storage_class())
    assert scene.volumes.ties(scene.pod("p")) == ()
    scene.take("p", "n2")
    assert scene.nodes("q") == "123"


def test_a_fork_goes_its_own_way_and_bare_has_nothing_in_use():
    scene = Scene(using("p", "c"), volume_claim("c", cls="local"), volume("v", nodes=["n1"]), local_class())
    fork = scene.volumes.fork()
    scene.take("p", "n1")
    assert fork.state("n1") == scene.volumes.bare().state("n1") != scene.volumes.state("n1")
