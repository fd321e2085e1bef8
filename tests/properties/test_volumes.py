"""Whatever there is to store on: plans pass the checker and are the same twice."""

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.model.plan import Verdict
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from scheduler.state.translate import snapshot
from tests.manifests import Document, node, pod, pod_group, queue, state
from tests.storage import (
    ZONE,
    bound,
    capacity,
    csi_driver,
    csi_node,
    local_class,
    mount,
    storage_class,
    volume,
    volume_claim,
)

NODES = ("n1", "n2", "n3")
MODES = ("ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod")


@st.composite
def clusters(draw: st.DrawFn) -> Snapshot:
    """Three nodes, up to six volumes made by hand, claims of every sort, and gangs that share some of them."""
    documents: list[Document] = [
        queue("default"),
        *(node(name, cpu="3", labels={ZONE: draw(st.sampled_from("ab"))}) for name in NODES),
        storage_class(),
        local_class(),
        csi_driver(capacity=draw(st.booleans())),
        capacity("a", "2Gi", labels={ZONE: "a"}),
        *(csi_node(name, disk_example_com=draw(st.sampled_from([None, 0, 1, 2]))) for name in NODES),
    ]
    some = st.lists(st.sampled_from(NODES), min_size=1, unique=True)
    for number in range(draw(st.integers(0, 6))):
        cls, size = draw(st.sampled_from(["local", "wait"])), draw(st.sampled_from(["1Gi", "3Gi"]))
        modes = draw(st.sampled_from([MODES[:1], MODES[:2], MODES]))
        documents.append(volume(f"v{number}", cls=cls, size=size, modes=modes, nodes=draw(some)))
    claims = [f"c{number}" for number in range(draw(st.integers(1, 6)))]
    for name in claims:
        modes = (draw(st.sampled_from(MODES)),)
        if draw(st.booleans()):
            size = draw(st.sampled_from(["1Gi", "3Gi"]))
            documents.append(volume_claim(name, cls=draw(st.sampled_from(["local", "wait"])), size=size, modes=modes))
        else:
            documents += bound(name, nodes=draw(some), modes=modes, driver="disk.example.com")
    for gang in range(draw(st.integers(1, 3))):
        size = draw(st.integers(1, 4))
        documents.append(pod_group(f"g{gang}", minMember=draw(st.integers(1, size))))
        for number in range(size):
            used = draw(st.lists(st.sampled_from(claims), max_size=2, unique=True))
            documents.append(pod(f"g{gang}-{number}", group=f"g{gang}", volumes=mount(*used)))
    if draw(st.booleans()):
        documents.append(pod("old", node=draw(st.sampled_from(NODES)), volumes=mount(draw(st.sampled_from(claims)))))
    return snapshot(state(*documents), now_ms=0, policy=Policy())


@settings(max_examples=60, deadline=None)
@given(clusters())
def test_volumes_are_given_as_the_rules_say(seen: Snapshot):
    made = plan(seen)
    assert check(seen, made) == ()
    assert plan(seen) == made
    for decision in made.gangs:
        assert (decision.verdict is Verdict.PLACED) == (decision.placed > 0)
