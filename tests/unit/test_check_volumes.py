"""The checker of plans on volumes: right plans pass, and every error planted in one is told."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from scheduler.model.plan import Placement, Plan, VolumeChoice
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.model.volumes import Storage
from scheduler.plan.planner import plan
from scheduler.solver.check import check
from scheduler.state.translate import snapshot
from tests.manifests import node, pod, queue, state
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

GI = 1024**3
Spoil = Callable[[Snapshot, Plan], tuple[Snapshot, Plan]]


@pytest.fixture
def right() -> tuple[Snapshot, Plan]:
    """One pod of each sort, placed: "bound" and "hand" on n1, "made" and "own" anywhere in zone a."""
    own = pod("own", volumes=[scratch()])
    topologies = [{"matchLabelExpressions": [within(ZONE, "a")]}]
    seen = snapshot(
        state(
            queue("default"),
            *(node(name, labels={ZONE: zone}) for name, zone in (("n1", "a"), ("n2", "a"), ("n3", "b"))),
            pod("bound", volumes=mount("old")),
            bound("old", nodes=["n1"], driver="disk.example.com", modes=("ReadWriteOncePod",)),
            pod("hand", volumes=mount("local")),
            volume_claim("local", cls="local", size="2Gi"),
            volume("v1", nodes=["n1"], size="2Gi"),
            pod("made", volumes=mount("new")),
            volume_claim("new"),
            own,
            volume_claim("own-scratch", owner=own),
            storage_class(allowedTopologies=topologies),
            local_class(),
            csi_driver(),
            capacity("room", "5Gi", labels={ZONE: "a"}),
            csi_node("n1", disk_example_com=3),
            csi_node("n2", disk_example_com=3),
        ),
        now_ms=0,
        policy=Policy(),
    )
    made = plan(seen)
    assert {placement.pod for placement in made.placements} == {"a/bound", "a/hand", "a/made", "a/own"}
    return seen, made


def of(made: Plan, name: str) -> Placement:
    return next(placement for placement in made.placements if placement.pod == f"a/{name}")


def placed(made: Plan, name: str, **changes: object) -> Plan:
    spoilt = replace(of(made, name), **changes)  # type: ignore[arg-type]
    return replace(made, placements=tuple(spoilt if each.pod == spoilt.pod else each for each in made.placements))


def given(made: Plan, name: str, volume_name: str) -> Plan:
    (choice,) = of(made, name).volumes
    return placed(made, name, volumes=(replace(choice, volume=volume_name),))


def stored(seen: Snapshot, **changes: object) -> Snapshot:
    return replace(seen, storage=replace(seen.storage, **changes))  # type: ignore[arg-type]


def claim(seen: Snapshot, name: str, **changes: object) -> Snapshot:
    key, claims = f"a/{name}", seen.storage.claims
    return stored(seen, claims={**claims, key: replace(claims[key], **changes)})  # type: ignore[arg-type]


def volumes(seen: Snapshot, name: str, **changes: object) -> Snapshot:
    known = seen.storage.volumes
    return stored(seen, volumes={**known, name: replace(known[name], **changes)})  # type: ignore[arg-type]


def without(storage: Storage, key: str) -> dict[str, object]:
    return {name: found for name, found in storage.claims.items() if name != key}


def other_user(seen: Snapshot) -> Snapshot:
    user = next(pod for gang in seen.gangs for pod in gang.pods if pod.name == "bound")
    return replace(seen, pods=(replace(user, key="a/other", uid="other", node="n2"),))


PLANTED: dict[str, tuple[str, Spoil]] = {
    "gone": ("cannot be used", lambda s, p: (stored(s, claims=without(s.storage, "a/old")), p)),
    "leaving": ("cannot be used", lambda s, p: (claim(s, "old", terminating=True), p)),
    "lost": ("cannot be used", lambda s, p: (claim(s, "old", lost=True), p)),
    "elsewhere": ("has its volume elsewhere", lambda s, p: (s, placed(p, "bound", node="n2"))),
    "another's": ("is not the pod's own", lambda s, p: (claim(s, "own-scratch", owner_uid="x"), p)),
    "undecided": ("gets no volume", lambda s, p: (s, placed(p, "hand", volumes=()))),
    "unknown": ("which is not free", lambda s, p: (s, given(p, "hand", "v9"))),
    "held": ("which is not free", lambda s, p: (volumes(s, "v1", claim="a/x"), p)),
    "released": ("which is not free", lambda s, p: (volumes(s, "v1", available=False), p)),
    "small": ("which does not fit", lambda s, p: (volumes(s, "v1", size=GI), p)),
    "raw": ("which does not fit", lambda s, p: (volumes(s, "v1", block=True), p)),
    "other class": ("of another kind", lambda s, p: (volumes(s, "v1", storage_class="x"), p)),
    "other mode": ("of another kind", lambda s, p: (volumes(s, "v1", modes=("ReadOnlyMany",)), p)),
    "far": ("which is elsewhere", lambda s, p: (s, placed(p, "hand", node="n2"))),
    "twice": ("is given to a/local and a/new", lambda s, p: (s, given(p, "made", "v1"))),
    "by nobody": ("none is provisioned", lambda s, p: (s, given(p, "hand", ""))),
    "other zone": ("allows other topologies", lambda s, p: (s, placed(p, "made", node="n3"))),
    "no room": ("too little storage", lambda s, p: (claim(s, "new", size=9 * GI), p)),
    "other node": ("for another node", lambda s, p: (claim(s, "new", selected_node="n3"), p)),
    "undue": ("which takes none", lambda s, p: (claim(s, "new", bound=True, volume="pv-old"), p)),
    "stranger": (
        "which takes none",
        lambda s, p: (s, placed(p, "bound", volumes=(VolumeChoice(claim="a/new", claim_uid="x"),))),
    ),
    "not alone": ("is for one pod and used by 2", lambda s, p: (other_user(s), p)),
    "full": (
        "can attach 0 volumes of disk.example.com",
        lambda s, p: (stored(s, limits={"n1": {"disk.example.com": 0}}), p),
    ),
}


def test_a_right_plan_passes(right: tuple[Snapshot, Plan]):
    assert check(*right) == ()


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_wrong_is_told(name: str, right: tuple[Snapshot, Plan]):
    words, spoil = PLANTED[name]
    told = check(*spoil(*right))
    assert any(words in problem for problem in told), told
