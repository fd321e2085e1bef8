"""Where pods with volumes go. Source: kube-scheduler's volume plugins, and what a gang adds to them."""

from scheduler.model.plan import Plan
from scheduler.model.reasons import GangDoesNotFit, NoNodeFits, WaitingForVolumes
from scheduler.model.snapshot import Policy
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from scheduler.state.translate import snapshot
from tests.manifests import Document, node, pod, pod_group, queue, state
from tests.storage import (
    ZONE,
    bound,
    csi_node,
    local_class,
    mount,
    scratch,
    storage_class,
    volume,
    volume_claim,
)

DISK = "disk.example.com"


def planned(*documents: Document | list[Document]) -> Plan:
    seen = snapshot(state(queue("default"), *documents), now_ms=0, policy=Policy())
    made = plan(seen)
    assert check(seen, made) == ()
    return made


def nodes(count: int, **fields: object) -> list[Document]:
    return [node(f"n{i}", labels={ZONE: f"z{i % 2}"}, **fields) for i in range(1, count + 1)]  # type: ignore[arg-type]


def gang(name: str, *claims: str, cpu: str = "1") -> list[Document]:
    """A gang that needs all of its pods, each with one of the claims."""
    members = [pod(f"{name}-{i}", group=name, volumes=mount(claim), cpu=cpu) for i, claim in enumerate(claims)]
    return [pod_group(name, minMember=len(claims)), *members]


def places(made: Plan) -> dict[str, str]:
    return {placement.pod.partition("/")[2]: placement.node for placement in made.placements}


def volumes(made: Plan) -> dict[str, str]:
    return {choice.claim.partition("/")[2]: choice.volume for each in made.placements for choice in each.volumes}


def test_pods_go_where_their_volumes_are():
    made = planned(nodes(3), gang("g", "a", "b"), bound("a", nodes=["n3"]), bound("b", nodes=["n2"]))
    assert places(made) == {"g-0": "n3", "g-1": "n2"}


def test_a_gang_waits_for_a_claim_that_is_not_bound():
    made = planned(
        nodes(2), gang("g", "a", "b"), bound("a"), volume_claim("b", cls="now"), storage_class("now", waits=False)
    )
    reason = made.why("g")
    assert isinstance(reason, WaitingForVolumes)
    assert reason.message == "Pod a/g-1 waits for PersistentVolumeClaim a/b, which is not bound yet."
    assert made.placements == ()


def test_a_gang_takes_volumes_made_by_hand_one_for_each_claim():
    made = planned(
        nodes(3),
        gang("g", "a", "b", "c"),
        *(volume_claim(name, cls="local") for name in "abc"),
        *(volume(f"v{i}", nodes=[f"n{i}"]) for i in (1, 2, 3)),
        local_class(),
    )
    assert {(places(made)[f"g-{i}"], volumes(made)[claim]) for i, claim in enumerate("abc")} == {
        ("n1", "v1"),
        ("n2", "v2"),
        ("n3", "v3"),
    }


def test_a_gang_with_too_few_volumes_for_all_takes_none():
    made = planned(
        nodes(3),
        gang("g", "a", "b", "c"),
        *(volume_claim(name, cls="local") for name in "abc"),
        *(volume(f"v{i}", nodes=[f"n{i}"]) for i in (1, 2)),
        local_class(),
    )
    reason = made.why("g")
    assert isinstance(reason, GangDoesNotFit)
    assert (reason.needed, reason.placeable) == (3, 2)
    assert made.placements == ()


def test_volumes_that_several_nodes_reach_are_given_once():
    shared = volume("v1", nodes=["n1", "n2"])
    documents = [nodes(2, cpu="1"), gang("g", "a", "b"), *(volume_claim(n, cls="local") for n in "ab"), local_class()]
    assert planned(*documents, shared).placements == ()
    both = planned(*documents, shared, volume("v2", nodes=["n1", "n2"]))
    assert sorted(volumes(both).values()) == ["v1", "v2"]


def test_two_gangs_do_not_get_one_volume():
    made = planned(
        nodes(2),
        pod("p", volumes=mount("a")),
        pod("q", volumes=mount("b")),
        *(volume_claim(name, cls="local") for name in "ab"),
        volume("v", nodes=["n1"]),
        local_class(),
    )
    assert list(places(made).values()) == ["n1"]
    assert list(volumes(made).values()) == ["v"]


def test_no_volume_that_could_ever_do_is_said_at_once():
    made = planned(
        nodes(2), gang("g", "a"), volume_claim("a", cls="local", size="9Gi"), volume("v", nodes=["n1"]), local_class()
    )
    reason = made.why("g")
    assert isinstance(reason, NoNodeFits)
    assert "PersistentVolume that fits (StorageClass local)" in reason.message


def test_a_node_takes_no_more_volumes_than_it_can_attach():
    made = planned(
        nodes(2),
        csi_node("n1", disk_example_com=2),
        csi_node("n2", disk_example_com=1),
        gang("g", "a", "b", "c"),
        *(volume_claim(name) for name in "abc"),
        storage_class(provisioner=DISK),
    )
    assert sorted(places(made).values()) == ["n1", "n1", "n2"]
    full = planned(
        nodes(1),
        csi_node("n1", disk_example_com=1),
        pod("old", node="n1", phase="Running", volumes=mount("x")),
        bound("x", driver=DISK),
        gang("g", "a"),
        volume_claim("a"),
        storage_class(provisioner=DISK),
    )
    reason = full.why("g")
    assert isinstance(reason, GangDoesNotFit)
    assert f"1 node has as many volumes of {DISK} as it can attach" in reason.message


def test_a_claim_for_one_pod_alone_serves_the_first_of_two_gangs():
    made = planned(
        nodes(1),
        pod("p", created="2026-01-01T00:00:00Z", volumes=mount("c")),
        pod("q", created="2026-01-02T00:00:00Z", volumes=mount("c")),
        bound("c", modes=("ReadWriteOncePod",)),
    )
    assert places(made) == {"p": "n1"}
    reason = made.why("q")
    assert isinstance(reason, WaitingForVolumes)
    assert "pod a/p uses" in reason.message


def test_a_gang_cannot_share_a_claim_for_one_pod_alone():
    made = planned(nodes(2), gang("g", "c", "c"), bound("c", modes=("ReadWriteOncePod",)))
    assert isinstance(made.why("g"), WaitingForVolumes)
    assert made.placements == ()


def test_pods_that_share_a_volume_of_one_node_go_there_together():
    made = planned(nodes(3, cpu="2"), gang("g", "c", "c"), volume_claim("c"), storage_class())
    assert len(set(places(made).values())) == 1
    apart = planned(nodes(3, cpu="1"), gang("g", "c", "c"), volume_claim("c"), storage_class())
    assert apart.placements == ()


def test_pods_that_share_two_volumes_of_one_node_are_placed_once_each():
    members = [pod(f"g-{i}", group="g", volumes=mount("c", "d")) for i in range(3)]
    made = planned(
        nodes(2), pod_group("g", minMember=3), members, volume_claim("c"), volume_claim("d"), storage_class()
    )
    assert sorted(places(made)) == ["g-0", "g-1", "g-2"]
    assert len(made.placements) == 3
    assert len(set(places(made).values())) == 1


def test_pods_that_share_a_volume_of_many_nodes_may_be_apart():
    wide = volume_claim("c", modes=("ReadWriteMany",))
    made = planned(nodes(2, cpu="1"), gang("g", "c", "c"), wide, storage_class())
    assert sorted(places(made).values()) == ["n1", "n2"]
    assert volumes(made) == {"c": ""}


def test_a_volume_of_its_own_is_waited_for_until_it_is_made():
    waiting = planned(nodes(1), pod("p", volumes=[scratch()]), storage_class())
    assert isinstance(waiting.why("p"), WaitingForVolumes)
    mine = pod("p", volumes=[scratch()])
    made = planned(nodes(1), mine, volume_claim("p-scratch", owner=mine), storage_class())
    assert volumes(made) == {"p-scratch": ""}


def test_an_elastic_gang_grows_as_far_as_volumes_go():
    members = [pod(f"g-{i}", group="g", volumes=mount(f"c{i}")) for i in range(4)]
    made = planned(
        nodes(3),
        pod_group("g", minMember=1),
        *members,
        *(volume_claim(f"c{i}", cls="local") for i in range(4)),
        *(volume(f"v{i}", nodes=[f"n{i}"]) for i in (1, 2, 3)),
        local_class(),
    )
    assert len(places(made)) == 3
    assert len(set(volumes(made).values())) == 3
