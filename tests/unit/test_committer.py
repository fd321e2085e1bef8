"""The commit protocol, seen at the wire: what is written, in which order, under refusals and lost answers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from scheduler.api import changes, kinds
from scheduler.api.dra import (
    CLAIM_FINALIZER,
    AllocationResult,
    DeviceAllocationResult,
    DeviceRequestAllocationResult,
    ResourceClaimSpec,
)
from scheduler.commit.attempts import Patience
from scheduler.commit.committer import Committer
from scheduler.commit.recovery import Stray
from scheduler.commit.slots import Slots
from scheduler.commit.writes import Nominate
from scheduler.devcluster.run import DevCluster
from scheduler.kube.client import Client
from scheduler.model.nodes import Node
from scheduler.model.plan import ClaimAllocation, Eviction, ExtendedMapping, Placement, Plan
from scheduler.model.snapshot import Policy, Snapshot
from scheduler.model.workloads import Claim, Gang, Pod, PodClaim
from scheduler.state import translate
from scheduler.state.cluster import ClusterState
from tests.proxy import Around, LoseAnswer, LoseRequest, Meddling, Proxy, Refuse, Write

NAMESPACE = "default"
SPEC = {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu.example", "count": 1}}]}}


def given(device: str, **fields: Any) -> AllocationResult:
    result = DeviceRequestAllocationResult(request="gpu", driver="gpu.example", pool="n1", device=device, **fields)
    return AllocationResult(devices=DeviceAllocationResult(results=(result,)))


class World:
    """A cluster behind a proxy, with the objects a test asks for, and a committer that knows them."""

    def __init__(self, proxy: Proxy, client: Client, direct: Client) -> None:
        self.proxy = proxy
        self.client = client
        self.direct = direct
        self.leads = True
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.state = ClusterState((kinds.POD, kinds.NODE, kinds.RESOURCE_CLAIM))
        self.pods: dict[str, list[str]] = {}
        self.shared: set[str] = set()

    async def node(self, name: str) -> None:
        await self.direct.create(kinds.NODE, None, {"metadata": {"name": name}})

    async def pod(self, name: str, *claims: str) -> None:
        self.pods[name] = list(claims)
        body = {
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "schedulerName": "tutti",
                "containers": [{"name": "main", "image": "i"}],
                "resourceClaims": [{"name": claim, "resourceClaimName": claim} for claim in claims],
            },
        }
        await self.direct.create(kinds.POD, NAMESPACE, body)

    async def claim(self, name: str, **metadata: Any) -> None:
        body = {"metadata": {"name": name, "namespace": NAMESPACE, **metadata}, "spec": SPEC}
        await self.direct.create(kinds.RESOURCE_CLAIM, NAMESPACE, body)

    async def learn(self) -> None:
        """Read everything into the state, as watches would."""
        for kind in self.state.kinds:
            items, _ = await self.direct.list(kind)
            for item in items:
                change = changes.read(kind, msgspec.json.encode(item))
                assert change is not None
                self.state.apply(change)
            self.state.apply(changes.listed(kind))

    async def snapshot(self, *gangs: str, minimum: int | None = None) -> Snapshot:
        """All pods as one gang "train" that needs `minimum` of them (None: all), or each of `gangs` as one."""
        await self.learn()
        claims = {}
        for key, claim in self.state.objects(kinds.RESOURCE_CLAIM):
            claims[key] = Claim(
                key=key,
                uid=claim.metadata.uid,
                spec=ResourceClaimSpec(),
                allocation=claim.status.allocation,
                reserved_for=tuple(entry.uid for entry in claim.status.reserved_for or ()),
            )
        pods = {
            name: Pod(
                key=f"{NAMESPACE}/{name}",
                uid=self.uid(name),
                claims=tuple(PodClaim(name=claim, claim=f"{NAMESPACE}/{claim}") for claim in claims_of),
            )
            for name, claims_of in self.pods.items()
        }
        members = {name: [name] for name in gangs} or {"train": sorted(pods)}
        return Snapshot(
            now_ms=0,
            nodes=tuple(Node(name=key, labels={}, allocatable={}) for key, _ in self.state.objects(kinds.NODE)),
            claims=claims,
            gangs=tuple(
                Gang(
                    key=f"{NAMESPACE}/{gang}",
                    uid=gang,
                    owner="",
                    queue="q",
                    min_member=len(names) if minimum is None else minimum,
                    pods=tuple(pods[name] for name in names),
                )
                for gang, names in sorted(members.items())
            ),
        )

    def uid(self, pod: str) -> str:
        return self.state.object(kinds.POD, f"{NAMESPACE}/{pod}").metadata.uid

    def place(self, pod: str, *parts: ClaimAllocation, node: str = "n1", gang: str = "train") -> Placement:
        key = f"{NAMESPACE}/{pod}"
        return Placement(pod=key, pod_uid=self.uid(pod), gang=f"{NAMESPACE}/{gang}", node=node, claims=parts)

    def give(self, claim: str, device: str = "", **fields: Any) -> ClaimAllocation:
        key = f"{NAMESPACE}/{claim}"
        uid = self.state.object(kinds.RESOURCE_CLAIM, key).metadata.uid
        allocation = given(device, **fields) if device else None
        return ClaimAllocation(name=claim, claim=key, claim_uid=uid, allocation=allocation)

    def committer(self, **patience: Any) -> Committer:
        return Committer(
            self.client,
            self.state,
            Slots(8),
            gangs_in_flight=8,
            patience=Patience(**{"attempts": 4, "backoff_seconds": 0.001, **patience}),
            may_write=lambda: self.leads,
            now=lambda: self.now(),
        )

    @property
    def written(self) -> list[str]:
        return [f"{write.method} {write.subject}" for write in self.proxy.writes]

    def meddle(self, *answers: tuple[str, Meddling]) -> None:
        """Each answer is for the next write that fits its pattern "METHOD subject-end"."""
        left = list(answers)

        def decide(write: Write) -> Meddling:
            for answer in left:
                if f"{write.method} {write.subject}".endswith(answer[0]):
                    left.remove(answer)
                    return answer[1]
            return None

        self.proxy.meddle = decide

    async def stored(self, claim: str) -> dict[str, Any]:
        return await self.direct.get(kinds.RESOURCE_CLAIM, NAMESPACE, claim)

    async def holds(self, claim: str) -> tuple[list[str], list[str]]:
        """The devices a claim has at the server, and the pods it is reserved for."""
        status = (await self.stored(claim)).get("status") or {}
        results = (status.get("allocation") or {}).get("devices", {}).get("results", [])
        return [result["device"] for result in results], sorted(e["name"] for e in status.get("reservedFor") or ())

    async def node_of(self, pod: str) -> str:
        return (await self.direct.get(kinds.POD, NAMESPACE, pod))["spec"].get("nodeName", "")


@asynccontextmanager
async def connected(config: Path) -> AsyncIterator[Client]:
    async with await Client.connect(kubeconfig=config) as client:
        yield client


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with (
        DevCluster() as cluster,
        Proxy(target=cluster.url) as proxy,
        connected(proxy.kubeconfig(tmp_path / "proxy")) as client,
        connected(cluster.kubeconfig(tmp_path / "direct")) as direct,
    ):
        world = World(proxy, client, direct)
        await world.node("n1")
        await world.node("n2")
        yield world


async def two_pods(world: World) -> tuple[Snapshot, Plan]:
    """A gang of two, each with a claim of its own."""
    for name in ("p0", "p1"):
        await world.claim(f"c-{name}")
        await world.pod(name, f"c-{name}")
    snapshot = await world.snapshot()
    placements = (world.place("p0", world.give("c-p0", "gpu-0")), world.place("p1", world.give("c-p1", "gpu-1")))
    return snapshot, Plan(now_ms=0, placements=placements)


async def test_every_claim_stands_before_the_first_bind(world: World):
    snapshot, plan = await two_pods(world)

    (outcome,) = await world.committer().commit(plan, snapshot)

    assert (outcome.bound, outcome.reason) == (("default/p0", "default/p1"), None)
    for name in ("p0", "p1"):
        steps = [step for step in world.written if name in step]
        assert steps == [
            f"PUT resourceclaims/c-{name}",
            f"PUT resourceclaims/c-{name}/status",
            f"POST pods/{name}/binding",
        ]
        assert await world.holds(f"c-{name}") == ([f"gpu-{name[1]}"], [name])
        assert await world.node_of(name) == "n1"
    binds = [number for number, step in enumerate(world.written) if step.endswith("/binding")]
    assert binds == [4, 5]


async def test_a_bound_pod_tells_which_queue_pays(world: World):
    snapshot, plan = await two_pods(world)
    await world.committer().commit(plan, snapshot)
    pod = await world.direct.get(kinds.POD, NAMESPACE, "p0")
    assert pod["metadata"]["annotations"] == {"tutti.scheduler/charged-queue": "q"}


async def test_a_finalizer_that_is_there_is_not_written_again(world: World):
    await world.claim("c", finalizers=[CLAIM_FINALIZER])
    await world.pod("p", "c")
    snapshot = await world.snapshot()
    await world.committer().commit(Plan(now_ms=0, placements=(world.place("p", world.give("c", "gpu-0")),)), snapshot)
    assert world.written == ["PUT resourceclaims/c/status", "POST pods/p/binding"]


async def test_a_claim_shared_by_the_gang_is_allocated_once_for_all(world: World):
    await world.claim("shared")
    for name in ("p0", "p1", "p2"):
        await world.pod(name, "shared")
    snapshot = await world.snapshot()
    first, *others = ("p0", "p1", "p2")
    placements = (
        world.place(first, world.give("shared", "gpu-0")),
        *(world.place(other, world.give("shared")) for other in others),
    )

    await world.committer().commit(Plan(now_ms=0, placements=placements), snapshot)

    assert world.written[:2] == ["PUT resourceclaims/shared", "PUT resourceclaims/shared/status"]
    assert len(world.written) == 2 + 3
    assert await world.holds("shared") == (["gpu-0"], ["p0", "p1", "p2"])


async def test_a_gang_that_shares_a_claim_with_another_comes_after_its_allocation(world: World):
    await world.claim("shared")
    for name in ("p", "q"):
        await world.pod(name, "shared")
    snapshot = await world.snapshot("p", "q")
    placements = (
        world.place("p", world.give("shared"), gang="p"),
        world.place("q", world.give("shared", "gpu-0"), gang="q"),
    )

    outcomes = await world.committer().commit(Plan(now_ms=0, placements=placements), snapshot)

    assert [outcome.reason for outcome in outcomes] == [None, None]
    assert world.written.index("POST pods/q/binding") > world.written.index("PUT resourceclaims/shared/status")
    assert await world.holds("shared") == (["gpu-0"], ["p", "q"])


async def test_fields_that_we_do_not_know_survive_our_writes(world: World):
    await world.claim("c", annotations={"example.com/new": "kept"}, labels={"team": "a"})
    await world.pod("p", "c")
    snapshot = await world.snapshot()
    await world.committer().commit(Plan(now_ms=0, placements=(world.place("p", world.give("c", "gpu-0")),)), snapshot)
    metadata = (await world.stored("c"))["metadata"]
    assert metadata["annotations"] == {"example.com/new": "kept"}
    assert metadata["labels"] == {"team": "a"}


async def test_the_state_counts_pods_and_devices_as_given_before_anything_is_written(world: World):
    snapshot, plan = await two_pods(world)
    commits = tuple(world.committer().begin(plan, snapshot))
    assert world.proxy.writes == []
    assert world.state.object(kinds.POD, "default/p0").spec.node_name == "n1"
    claim = world.state.object(kinds.RESOURCE_CLAIM, "default/c-p0")
    assert [result.device for result in claim.status.allocation.devices.results] == ["gpu-0"]
    await asyncio.gather(*commits)


@pytest.mark.parametrize(
    "trouble",
    [
        ("PUT resourceclaims/c-p0", Refuse(409, "Conflict")),
        ("PUT resourceclaims/c-p0/status", Refuse(409, "Conflict")),
        ("PUT resourceclaims/c-p0", Refuse(500, "InternalError")),
        ("PUT resourceclaims/c-p0/status", Refuse(503, "ServiceUnavailable")),
        ("PUT resourceclaims/c-p0", LoseRequest()),
        ("PUT resourceclaims/c-p0/status", LoseRequest()),
        ("PUT resourceclaims/c-p0", LoseAnswer()),
        ("PUT resourceclaims/c-p0/status", LoseAnswer()),
        ("POST pods/p0/binding", Refuse(500, "InternalError")),
        ("POST pods/p0/binding", LoseRequest()),
        ("POST pods/p0/binding", LoseAnswer()),
    ],
    ids=lambda trouble: f"{type(trouble[1]).__name__}-{trouble[0]}",
)
async def test_trouble_that_passes_leaves_the_gang_whole_and_the_order_right(world: World, trouble):
    snapshot, plan = await two_pods(world)
    world.meddle(trouble)

    (outcome,) = await world.committer().commit(plan, snapshot)

    assert (outcome.bound, outcome.reason) == (("default/p0", "default/p1"), None)
    assert await world.holds("c-p0") == (["gpu-0"], ["p0"])
    assert await world.holds("c-p1") == (["gpu-1"], ["p1"])
    last_claim = max(number for number, step in enumerate(world.written) if "resourceclaims" in step)
    first_bind = min(number for number, step in enumerate(world.written) if step.endswith("/binding"))
    assert last_claim < first_bind


async def test_a_claim_refused_before_the_first_bind_takes_the_whole_gang_back(world: World):
    snapshot, plan = await two_pods(world)
    world.meddle(("PUT resourceclaims/c-p1/status", Refuse(403, "Forbidden", "no resourceclaims/binding")))

    (outcome,) = await world.committer().commit(plan, snapshot)

    assert outcome.bound == ()
    assert outcome.reason is not None
    assert outcome.reason.code == "CommitFailed"
    assert outcome.reason.message == (
        "default/train was placed, but ResourceClaim default/c-p1 was refused: no resourceclaims/binding; "
        "none of its pods was bound."
    )
    assert await world.holds("c-p0") == ([], [])
    assert await world.holds("c-p1") == ([], [])
    assert await world.node_of("p0") == ""
    assert world.state.object(kinds.POD, "default/p0").spec.node_name == ""
    assert world.state.object(kinds.RESOURCE_CLAIM, "default/c-p0").status.allocation is None


async def test_what_is_taken_back_is_taken_back_even_if_that_fails_at_first(world: World):
    snapshot, plan = await two_pods(world)
    world.meddle(
        ("PUT resourceclaims/c-p1/status", Refuse(403, "Forbidden")),
        # The first write of c-p0's status is its allocation; the second, its release, meets trouble.
        ("PUT resourceclaims/c-p0/status", None),
        *[("PUT resourceclaims/c-p0/status", Refuse(500, "InternalError"))] * 6,
    )
    await world.committer().commit(plan, snapshot)
    assert await world.holds("c-p0") == ([], [])


async def test_taking_back_leaves_the_reservations_of_others(world: World):
    await world.claim("shared")
    for name in ("other", "p", "q"):
        await world.pod(name, "shared", *(["bad"] if name == "q" else []))
    await world.claim("bad")
    snapshot = await world.snapshot("other", "p", "q")
    placements = (world.place("other", world.give("shared", "gpu-0"), gang="other"),)
    await world.committer().commit(Plan(now_ms=0, placements=placements), snapshot)
    snapshot = await world.snapshot("other", "p", "q")
    world.meddle(("PUT resourceclaims/bad", Refuse(422, "Invalid")))
    placements = (world.place("q", world.give("shared"), world.give("bad", "gpu-7"), gang="q"),)

    await world.committer().commit(Plan(now_ms=0, placements=placements), snapshot)

    assert await world.holds("shared") == (["gpu-0"], ["other"])
    assert await world.holds("bad") == ([], [])


async def test_a_claim_allocated_elsewhere_meanwhile_fails_the_gang_and_is_left_alone(world: World):
    snapshot, plan = await two_pods(world)

    async def allocate_elsewhere() -> None:
        claim = await world.stored("c-p1")
        allocation = msgspec.json.decode(msgspec.json.encode(given("gpu-9")))
        consumer = {"resource": "pods", "name": "foreign", "uid": "foreign"}
        claim["status"] = {"allocation": allocation, "reservedFor": [consumer]}
        await world.direct.replace(kinds.RESOURCE_CLAIM, NAMESPACE, "c-p1", claim, subresource="status")

    world.meddle(("PUT resourceclaims/c-p1/status", Around(before=allocate_elsewhere)))

    (outcome,) = await world.committer().commit(plan, snapshot)

    assert outcome.reason is not None
    assert "ResourceClaim default/c-p1 was allocated elsewhere meanwhile" in outcome.reason.message
    assert await world.holds("c-p0") == ([], [])
    assert await world.holds("c-p1") == (["gpu-9"], ["foreign"])


async def test_after_the_first_bind_only_forward(world: World):
    snapshot, plan = await two_pods(world)
    world.meddle(*[("POST pods/p1/binding", Refuse(500, "InternalError", "etcd is busy"))] * 4)

    (outcome,) = await world.committer().commit(plan, snapshot)

    assert outcome.bound == ("default/p0",)
    assert outcome.reason is not None
    assert outcome.reason.code == "BindFailed"
    assert "1 pod is bound and 1 is not yet: Pod default/p1" in outcome.reason.message
    assert await world.holds("c-p1") == (["gpu-1"], ["p1"]), "its devices wait for it"
    assert world.state.object(kinds.POD, "default/p1").spec.node_name == "", "so that the next cycle binds it"


async def test_a_pod_that_vanished_is_skipped_and_the_rest_go_on(world: World):
    snapshot, plan = await two_pods(world)

    async def delete() -> None:
        await world.direct.delete(kinds.POD, NAMESPACE, "p0", grace_seconds=0)

    world.meddle(("POST pods/p0/binding", Around(before=delete)))
    (outcome,) = await world.committer().commit(plan, snapshot)
    assert (outcome.bound, outcome.gone, outcome.reason) == (("default/p1",), ("default/p0",), None)


async def test_a_pod_replaced_by_a_namesake_is_not_bound(world: World):
    snapshot, plan = await two_pods(world)

    async def replace() -> None:
        await world.direct.delete(kinds.POD, NAMESPACE, "p0", grace_seconds=0)
        await world.pod("p0", "c-p0")

    world.meddle(("POST pods/p0/binding", Around(before=replace)))
    (outcome,) = await world.committer().commit(plan, snapshot)
    assert (outcome.bound, outcome.gone) == (("default/p1",), ("default/p0",))
    assert await world.node_of("p0") == ""


@pytest.mark.parametrize("lost", [0, 1, 4])
async def test_a_pod_that_another_bound_elsewhere_meanwhile_is_not_ours(world: World, lost: int):
    """However many of our requests never arrive. Its devices are where it was to go: it cannot use them."""
    snapshot, plan = await two_pods(world)

    async def bind_elsewhere() -> None:
        await world.direct.bind(NAMESPACE, "p1", world.uid("p1"), "n2")

    written = ("PUT resourceclaims/c-p1/status", Around(after=bind_elsewhere))
    world.meddle(written, *[("POST pods/p1/binding", LoseRequest())] * lost)
    (outcome,) = await world.committer().commit(plan, snapshot)

    assert outcome.bound == ("default/p0",)
    assert outcome.reason is not None
    assert "Pod default/p1 was bound to n2 by another" in outcome.reason.message


Change = Callable[[World], Any]


async def _cordon(world: World) -> None:
    await world.direct.patch(kinds.NODE, None, "n1", {"spec": {"unschedulable": True}})


async def _taint(world: World) -> None:
    taints = [{"key": "example.com/drain", "effect": "NoExecute"}]
    await world.direct.patch(kinds.NODE, None, "n1", {"spec": {"taints": taints}})


async def _bind_elsewhere(world: World) -> None:
    await world.direct.bind(NAMESPACE, "p0", world.uid("p0"), "n2")


async def _take_device(world: World) -> None:
    await world.claim("foreign")
    claim = await world.stored("foreign")
    claim["status"] = {"allocation": msgspec.json.decode(msgspec.json.encode(given("gpu-1")))}
    await world.direct.replace(kinds.RESOURCE_CLAIM, NAMESPACE, "foreign", claim, subresource="status")


async def _delete_node(world: World) -> None:
    await world.direct.delete(kinds.NODE, None, "n1")
    world.state.apply(changes.deleted(kinds.NODE, "n1"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_cordon, "Node n1 was cordoned"),
        (_taint, "Node n1 was tainted with"),
        (_bind_elsewhere, "Pod default/p0 was bound to n2 by another"),
        (_take_device, "device gpu.example/n1/gpu-1 was given to ResourceClaim default/foreign"),
        (_delete_node, "Node n1 went away"),
    ],
)
async def test_a_plan_overtaken_by_a_change_is_withdrawn_before_its_first_write(world: World, change: Change, problem):
    snapshot, plan = await two_pods(world)
    await change(world)
    await world.learn()

    (outcome,) = await world.committer().commit(plan, snapshot)

    assert outcome.reason is not None
    assert outcome.reason.code == "Withdrawn"
    assert problem in outcome.reason.message
    assert world.proxy.writes == []


async def test_a_replica_that_no_longer_leads_writes_nothing_more_and_takes_nothing_back(world: World):
    snapshot, plan = await two_pods(world)

    async def lose() -> None:
        world.leads = False

    world.meddle(("PUT resourceclaims/c-p1/status", Around(after=lose)))
    (outcome,) = await world.committer().commit(plan, snapshot)
    assert outcome.reason is not None
    assert outcome.reason.code == "LeadershipLost"
    assert await world.holds("c-p1") == (["gpu-1"], ["p1"])
    assert not any(step.endswith("/binding") for step in world.written)


async def test_devices_with_binding_conditions_are_waited_for(world: World):
    await world.claim("c")
    await world.pod("p", "c")
    snapshot = await world.snapshot()
    part = world.give("c", "gpu-0", binding_conditions=("attached",), binding_failure_conditions=("broken",))
    committer = world.committer()
    (commit,) = committer.begin(Plan(now_ms=0, placements=(world.place("p", part),)), snapshot)
    while committer.in_flight.get("default/train") != "waiting for its devices to become ready":
        await asyncio.wait({commit}, timeout=0.01)
    assert world.written == ["PUT resourceclaims/c", "PUT resourceclaims/c/status"]

    await report(world, "attached")
    await world.learn()
    committer.claims.changed("default/c")

    assert (await commit).bound == ("default/p",)


async def test_a_binding_condition_that_fails_frees_the_devices(world: World):
    await world.claim("c")
    await world.pod("p", "c")
    snapshot = await world.snapshot()
    part = world.give("c", "gpu-0", binding_conditions=("attached",), binding_failure_conditions=("broken",))

    async def breaks() -> None:
        await report(world, "broken")
        await world.learn()

    world.meddle(("PUT resourceclaims/c/status", Around(after=breaks)))
    (outcome,) = await world.committer().commit(Plan(now_ms=0, placements=(world.place("p", part),)), snapshot)

    assert outcome.reason is not None
    assert "condition broken of device gpu.example/n1/gpu-0 is true" in outcome.reason.message
    assert await world.holds("c") == ([], [])
    assert await world.node_of("p") == ""
    assert avoided(world) == (("gpu.example", "n1", "gpu-0"),)
    assert outcome.elsewhere, "the next try is another one"


def avoided(world: World) -> tuple[tuple[str, str, str], ...]:
    """What the next decision is not to give to the claim again."""
    return translate.snapshot(world.state, now_ms=0, policy=Policy()).claims["default/c"].avoids


async def test_binding_conditions_are_waited_for_only_so_long(world: World):
    await world.claim("c")
    await world.pod("p", "c")
    snapshot = await world.snapshot()
    part = world.give("c", "gpu-0", binding_conditions=("attached",), binding_failure_conditions=("broken",))
    committer = world.committer(binding_conditions_seconds=0.05)
    (outcome,) = await committer.commit(Plan(now_ms=0, placements=(world.place("p", part),)), snapshot)
    assert outcome.reason is not None
    assert "waited 0.05 s for condition attached" in outcome.reason.message
    assert await world.holds("c") == ([], [])


async def test_binding_conditions_are_not_waited_for_longer_when_the_clock_is_set_back(world: World):
    await world.claim("c")
    await world.pod("p", "c")
    snapshot = await world.snapshot()
    part = world.give("c", "gpu-0", binding_conditions=("attached",), binding_failure_conditions=("broken",))
    world.now = lambda: datetime.now(UTC) + timedelta(hours=1)

    async def set_back() -> None:
        world.now = lambda: datetime.now(UTC)

    world.meddle(("PUT resourceclaims/c/status", Around(after=set_back)))
    committer = world.committer(binding_conditions_seconds=0.05)
    async with asyncio.timeout(30):
        (outcome,) = await committer.commit(Plan(now_ms=0, placements=(world.place("p", part),)), snapshot)
    assert outcome.reason is not None
    assert "waited 0.05 s for condition attached" in outcome.reason.message


async def test_a_claim_that_goes_while_it_is_being_released_is_released(world: World):
    snapshot, plan = await two_pods(world)
    committer = world.committer()
    await committer.commit(plan, snapshot)
    uid = (await world.stored("c-p0"))["metadata"]["uid"]

    async def goes() -> None:
        claim = await world.stored("c-p0")
        claim["metadata"]["finalizers"] = []
        await world.direct.replace(kinds.RESOURCE_CLAIM, NAMESPACE, "c-p0", claim)
        await world.direct.delete(kinds.RESOURCE_CLAIM, NAMESPACE, "c-p0")

    world.meddle(("PUT resourceclaims/c-p0/status", Around(before=goes)))
    await committer.claims.release("default/c-p0", uid, {world.uid("p0")})


async def report(world: World, condition: str) -> None:
    """The driver says that a condition of gpu-0 is true."""
    claim = await world.stored("c")
    now = "2026-01-01T00:00:00Z"
    entry = {"type": condition, "status": "True", "reason": "r", "message": "", "lastTransitionTime": now}
    claim["status"]["devices"] = [
        {"driver": "gpu.example", "pool": "n1", "device": "gpu-0", "conditions": [entry]},
    ]
    await world.direct.replace(kinds.RESOURCE_CLAIM, NAMESPACE, "c", claim, subresource="status")


async def test_what_a_made_claim_waited_for_in_vain_is_avoided_for_its_pod(world: World):
    """The claim goes with its reservation; the next that is made for the pod has another uid."""
    await world.pod("p")
    snapshot = await world.snapshot()
    placement = extended(world, "p", binding_conditions=("attached",), binding_failure_conditions=("broken",))
    committer = world.committer(binding_conditions_seconds=0.05)

    (outcome,) = await committer.commit(Plan(now_ms=0, placements=(placement,)), snapshot)

    assert outcome.reason is not None
    assert "waited 0.05 s for condition attached" in outcome.reason.message
    claims, _ = await world.direct.list(kinds.RESOURCE_CLAIM)
    assert claims == []
    assert world.state.avoided == {world.uid("p"): {("gpu.example", "n1", "gpu-0")}}


def extended(world: World, pod: str, device: str = "gpu-0", **fields: Any) -> Placement:
    spec = msgspec.json.decode(msgspec.json.encode(SPEC), type=ResourceClaimSpec)
    mapping = ExtendedMapping(container="main", resource="example.com/gpu", request="gpu")
    return world.place(
        pod, ClaimAllocation(name="", claim="", allocation=given(device, **fields), make=spec, mappings=(mapping,))
    )


async def test_a_claim_is_made_for_extended_resources_and_named_in_the_pods_status(world: World):
    await world.pod("p")
    snapshot = await world.snapshot()

    (outcome,) = await world.committer().commit(Plan(now_ms=0, placements=(extended(world, "p"),)), snapshot)

    assert outcome.bound == ("default/p",)
    (claim,), _ = await world.direct.list(kinds.RESOURCE_CLAIM)
    name = claim["metadata"]["name"]
    assert name.startswith("p-extended-resources-")
    assert claim["metadata"]["ownerReferences"][0]["uid"] == world.uid("p")
    assert world.written == [
        "POST resourceclaims",
        f"PUT resourceclaims/{name}/status",
        "PATCH pods/p/status",
        "POST pods/p/binding",
    ]
    status = (await world.direct.get(kinds.POD, NAMESPACE, "p"))["status"]["extendedResourceClaimStatus"]
    mapping = {"containerName": "main", "resourceName": "example.com/gpu", "requestName": "gpu"}
    assert status == {"resourceClaimName": name, "requestMappings": [mapping]}
    assert await world.holds(name) == (["gpu-0"], ["p"])


@pytest.mark.parametrize("trouble", [LoseRequest(), LoseAnswer(), Refuse(500, "InternalError")])
async def test_a_made_claim_is_made_once_whatever_becomes_of_the_answer(world: World, trouble):
    await world.pod("p")
    snapshot = await world.snapshot()
    world.meddle(("POST resourceclaims", trouble))
    (outcome,) = await world.committer().commit(Plan(now_ms=0, placements=(extended(world, "p"),)), snapshot)
    assert outcome.reason is None
    claims, _ = await world.direct.list(kinds.RESOURCE_CLAIM)
    assert len(claims) == 1


async def test_a_made_claim_is_deleted_when_its_gang_is_taken_back(world: World):
    await world.pod("p")
    snapshot = await world.snapshot()
    world.meddle(("PATCH pods/p/status", Refuse(403, "Forbidden")))
    (outcome,) = await world.committer().commit(Plan(now_ms=0, placements=(extended(world, "p"),)), snapshot)
    assert outcome.reason is not None
    claims, _ = await world.direct.list(kinds.RESOURCE_CLAIM)
    assert claims == []


async def test_a_made_claim_left_by_a_dead_scheduler_on_other_devices_is_replaced(world: World):
    await world.pod("p")
    snapshot = await world.snapshot()
    world.meddle(*[("POST pods/p/binding", Refuse(500, "InternalError"))] * 4)
    await world.committer().commit(Plan(now_ms=0, placements=(extended(world, "p", "gpu-0"),)), snapshot)
    (left,), _ = await world.direct.list(kinds.RESOURCE_CLAIM)
    world.meddle()
    world.state = ClusterState(world.state.kinds)
    snapshot = await world.snapshot()

    (outcome,) = await world.committer().commit(Plan(now_ms=0, placements=(extended(world, "p", "gpu-1"),)), snapshot)

    assert outcome.reason is None
    (claim,), _ = await world.direct.list(kinds.RESOURCE_CLAIM)
    assert claim["metadata"]["uid"] != left["metadata"]["uid"]
    assert await world.holds(claim["metadata"]["name"]) == (["gpu-1"], ["p"])


async def test_a_made_claim_left_by_a_dead_scheduler_is_waited_for_until_its_devices_are_ready(world: World):
    await world.pod("p")
    snapshot = await world.snapshot()
    part = extended(world, "p").claims[0]
    assert part.allocation is not None
    waiting = given("gpu-0", binding_conditions=("attached",), binding_failure_conditions=("broken",))
    first = world.committer()
    (killed,) = first.begin(Plan(now_ms=0, placements=(world.place("p", replace(part, allocation=waiting)),)), snapshot)
    while first.in_flight.get("default/train") != "waiting for its devices to become ready":
        await asyncio.wait({killed}, timeout=0.01)
    killed.cancel()
    await asyncio.wait({killed})
    (left,), _ = await world.direct.list(kinds.RESOURCE_CLAIM)
    world.state = ClusterState(world.state.kinds)
    snapshot = await world.snapshot()
    (gang,) = snapshot.gangs
    named = tuple(replace(pod, extended_claim=f"default/{left['metadata']['name']}") for pod in gang.pods)
    snapshot = replace(snapshot, gangs=(replace(gang, pods=named),))

    second = world.committer(binding_conditions_seconds=0.05)
    (outcome,) = await second.commit(Plan(now_ms=0, placements=(world.place("p"),)), snapshot)

    assert outcome.reason is not None
    assert "for condition attached of device gpu.example/n1/gpu-0" in outcome.reason.message
    assert await world.node_of("p") == ""
    assert (await world.direct.list(kinds.RESOURCE_CLAIM))[0] == []


async def test_a_stray_claim_is_released_unless_its_pod_is_bound_after_all(world: World):
    snapshot, plan = await two_pods(world)
    world.meddle(*[("POST pods/p1/binding", Refuse(500, "InternalError"))] * 4)
    await world.committer().commit(plan, snapshot)
    world.state = ClusterState(world.state.kinds)
    await world.learn()
    strays = [
        Stray(
            claim=f"default/c-{pod}",
            uid=(await world.stored(f"c-{pod}"))["metadata"]["uid"],
            pods=((f"default/{pod}", world.uid(pod)),),
        )
        for pod in ("p0", "p1")
    ]

    released = await world.committer().release(strays)

    assert released == ("default/c-p1",)
    assert await world.holds("c-p0") == (["gpu-0"], ["p0"])
    assert await world.holds("c-p1") == ([], [])


async def test_a_write_that_the_watch_never_shows_is_looked_up(world: World):
    snapshot, plan = await two_pods(world)
    committer = world.committer()
    await committer.commit(plan, snapshot)
    world.state.assume_bound("default/p0", world.uid("p0"), "n2")
    await world.direct.delete(kinds.POD, NAMESPACE, "p1", grace_seconds=0)

    await committer.look_again(world.state.overdue(10**15))

    assert world.state.object(kinds.POD, "default/p0").spec.node_name == "n1", "as the server says"
    assert world.state.object(kinds.POD, "default/p1") is None
    assert world.state.overdue(10**15) == ()


async def test_what_is_being_written_is_not_looked_up(world: World):
    snapshot, plan = await two_pods(world)
    committer = world.committer()
    commits = tuple(committer.begin(plan, snapshot))
    await committer.look_again(["Pod/default/p0", "ResourceClaim/default/c-p0"])
    assert world.state.object(kinds.POD, "default/p0").spec.node_name == "n1"
    await asyncio.gather(*commits)


async def test_the_devices_of_a_claim_that_is_still_being_made_stay_given_however_long_that_takes(world: World):
    await world.pod("p")
    snapshot = await world.snapshot()
    committer = world.committer()
    seen: list[list[str]] = []

    async def look_again() -> None:
        await committer.look_again(world.state.overdue(10**15))
        claims = [claim for _, claim in world.state.objects(kinds.RESOURCE_CLAIM)]
        seen.append([each.device for claim in claims for each in claim.status.allocation.devices.results])

    world.meddle(("POST resourceclaims", Around(before=look_again)))
    (outcome,) = await committer.commit(Plan(now_ms=0, placements=(extended(world, "p"),)), snapshot)

    assert outcome.reason is None
    assert seen == [["gpu-0"]]


async def test_where_one_may_not_be_evicted_now_nobody_goes_in_vain(world: World):
    snapshot, plan = await two_pods(world)
    await world.committer().commit(plan, snapshot)
    world.meddle(("POST pods/p1/eviction", Refuse(429, "TooManyRequests", "the budget allows no disruption")))

    outcomes = await world.committer().make_room(Plan(now_ms=0, evictions=leaving(world, "p0", "p1")), {})

    assert [(o.pod, o.problem, o.refused) for o in outcomes] == [
        ("default/p1", "the budget allows no disruption", True)
    ]
    assert world.state.object(kinds.POD, "default/p0").metadata.deletion_timestamp is None
    assert "deletionTimestamp" not in (await world.client.get(kinds.POD, NAMESPACE, "p0"))["metadata"]


async def test_who_is_to_make_way_counts_as_leaving_before_he_is_asked(world: World):
    """The plan that is made meanwhile would ask for him again, or for somebody else."""
    snapshot, plan = await two_pods(world)
    await world.committer().commit(plan, snapshot)
    seen: list[bool] = []

    async def look() -> None:
        seen.append(world.state.object(kinds.POD, "default/p0").metadata.deletion_timestamp is not None)

    world.meddle(("POST pods/p0/eviction", Around(before=look)))
    version, intended = world.state.version, world.state.intended
    (outcome,) = await world.committer().make_room(Plan(now_ms=0, evictions=leaving(world, "p0")), {}, guarded=())

    assert (outcome.problem, seen) == ("", [True])
    assert world.state.version - version == world.state.intended - intended, "nothing that calls for another plan"


async def test_those_whom_no_budget_covers_are_asked_at_once_after_those_whom_one_may_keep(world: World):
    snapshot, plan = await two_pods(world)
    await world.committer().commit(plan, snapshot)
    world.meddle(("POST pods/p1/eviction", Refuse(429, "TooManyRequests", "the budget allows no disruption")))

    outcomes = await world.committer().make_room(
        Plan(now_ms=0, evictions=leaving(world, "p0", "p1")), {}, guarded={"default/p1"}
    )

    assert [(o.pod, o.problem) for o in outcomes] == [("default/p1", "the budget allows no disruption")]
    assert world.state.object(kinds.POD, "default/p0").metadata.deletion_timestamp is None


def leaving(world: World, *pods: str) -> tuple[Eviction, ...]:
    return tuple(
        Eviction(pod=f"default/{pod}", pod_uid=world.uid(pod), stage="preempt", beneficiary="default/x", cost=1)
        for pod in pods
    )


async def test_who_is_evicted_counts_as_leaving_at_once_and_is_told_why(world: World):
    snapshot, plan = await two_pods(world)
    await world.committer().commit(plan, snapshot)

    outcomes = await world.committer().make_room(Plan(now_ms=0, evictions=leaving(world, "p0")), {})

    assert [(outcome.pod, outcome.problem) for outcome in outcomes] == [("default/p0", "")]
    assert world.state.object(kinds.POD, "default/p0").metadata.deletion_timestamp is not None
    left = await world.client.get(kinds.POD, NAMESPACE, "p0")
    (told,) = [each for each in left["status"]["conditions"] if each["type"] == "DisruptionTarget"]
    assert (told["reason"], told["status"]) == ("PreemptionByScheduler", "True")
    assert told["message"] == "It was outranked, to make room for gang default/x; no GPU-seconds of work lost."


@pytest.mark.parametrize(("stage", "cause"), [("stale", "GangBelowMinimum"), ("max-runtime", "MaxRuntimeReached")])
async def test_of_those_who_make_way_for_nobody_each_goes_by_himself(world: World, stage: str, cause: str):
    snapshot, plan = await two_pods(world)
    await world.committer().commit(plan, snapshot)
    world.meddle(("POST pods/p1/eviction", Refuse(429, "TooManyRequests", "the budget allows no disruption")))
    ends = tuple(replace(each, stage=stage, beneficiary="") for each in leaving(world, "p0", "p1"))

    outcomes = await world.committer().make_room(Plan(now_ms=0, evictions=ends), {})

    assert [(o.pod, o.problem) for o in outcomes] == [
        ("default/p0", ""),
        ("default/p1", "the budget allows no disruption"),
    ]
    left = await world.client.get(kinds.POD, NAMESPACE, "p0")
    (told,) = [each for each in left["status"]["conditions"] if each["type"] == "DisruptionTarget"]
    assert told["reason"] == cause


async def test_who_has_run_as_long_as_he_may_is_marked_for_his_job_before_he_can_end(world: World):
    snapshot, plan = await two_pods(world)
    await world.committer().commit(plan, snapshot)
    (one,) = leaving(world, "p0")
    marked: list[str] = []

    async def look() -> None:
        pod = await world.client.get(kinds.POD, NAMESPACE, "p0")
        marked.extend(each["type"] for each in pod["status"].get("conditions", ()))

    asked = ("POST pods/p0/eviction", Around(before=look))
    world.meddle(asked, asked)  # whether it may leave, and to leave
    over = replace(one, stage="max-runtime", beneficiary="")
    await world.committer().make_room(Plan(now_ms=0, evictions=(over,)), {})
    assert "tutti.scheduler/MaxRuntimeReached" in marked


async def test_a_promise_is_noted_on_the_pods_before_anybody_is_asked_to_leave(world: World):
    snapshot, plan = await two_pods(world)
    await world.committer().commit(plan, snapshot)
    await world.pod("urgent")
    await world.learn()
    evictions = (
        Eviction(pod="default/p0", pod_uid=world.uid("p0"), stage="preempt", beneficiary="default/urgent", cost=1),
    )
    told = {"default/urgent": (Nominate(pod="default/urgent", uid=world.uid("urgent"), node="n1"),)}
    noted: list[str] = []

    async def look() -> None:
        pod = await world.client.get(kinds.POD, NAMESPACE, "urgent")
        noted.append(pod["status"].get("nominatedNodeName", ""))

    world.meddle(("POST pods/p0/eviction", Around(before=look)))
    (outcome,) = await world.committer().make_room(Plan(now_ms=0, evictions=evictions), told)

    assert outcome.problem == ""
    assert noted == ["n1"]
    assert translate.snapshot(world.state, now_ms=0, policy=Policy()).gangs[-1].pods[0].nominated == "n1"


async def test_nobody_leaves_for_a_promise_that_could_not_be_noted(world: World):
    snapshot, plan = await two_pods(world)
    await world.committer().commit(plan, snapshot)
    evictions = (
        Eviction(pod="default/p0", pod_uid=world.uid("p0"), stage="preempt", beneficiary="default/urgent", cost=1),
    )
    told = {"default/urgent": (Nominate(pod="default/urgent", uid="gone", node="n1"),)}

    (outcome,) = await world.committer().make_room(Plan(now_ms=0, evictions=evictions), told)

    assert outcome.problem == "Pod default/urgent had gone"
    assert not outcome.refused
    assert outcome.unpromised is not None
    assert outcome.unpromised.gang == "default/urgent"
    assert world.state.object(kinds.POD, "default/p0").metadata.deletion_timestamp is None


async def test_devices_stay_given_when_the_answer_to_their_allocation_was_lost(world: World):
    snapshot, plan = await two_pods(world)
    world.meddle(("PUT resourceclaims/c-p0/status", LoseAnswer()))

    (outcome,) = await world.committer().commit(plan, snapshot)

    assert outcome.reason is None
    for name in ("c-p0", "c-p1"):
        known = world.state.object(kinds.RESOURCE_CLAIM, f"{NAMESPACE}/{name}")
        assert known.status.allocation is not None, "no watch has told it, and it is given nonetheless"


async def test_a_claim_made_anew_under_its_name_is_another_gangs_business(world: World):
    await world.claim("c")
    await world.pod("p", "c")
    await world.pod("q", "c")
    snapshot = await world.snapshot("p", "q")
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        reached.set()
        await go_on.wait()

    world.meddle(("PUT resourceclaims/c", Around(before=wait)))
    committer = world.committer()
    first = Plan(now_ms=0, placements=(world.place("p", world.give("c", "gpu-0"), gang="p"),))
    begun = [*committer.begin(first, snapshot)]
    await reached.wait()
    await world.direct.delete(kinds.RESOURCE_CLAIM, NAMESPACE, "c")
    world.state.apply(changes.deleted(kinds.RESOURCE_CLAIM, f"{NAMESPACE}/c"))
    await world.claim("c")
    snapshot = await world.snapshot("p", "q")
    second = Plan(now_ms=0, placements=(world.place("q", world.give("c", "gpu-1"), gang="q"),))
    begun += committer.begin(second, snapshot)
    go_on.set()

    old, new = await asyncio.gather(*begun)

    assert old.reason is not None
    assert old.bound == ()
    assert (new.bound, new.reason) == ((f"{NAMESPACE}/q",), None)
    assert await world.holds("c") == (["gpu-1"], ["q"])


async def reserved(world: World, claim: str, pod: str) -> Stray:
    """The claim holds a device for the pod, as a killed scheduler left it."""
    await world.claim(claim, finalizers=[CLAIM_FINALIZER])
    await world.pod(pod, claim)
    await world.learn()
    document = await world.stored(claim)
    document["status"] = {
        "allocation": msgspec.json.decode(msgspec.json.encode(given("gpu-0"))),
        "reservedFor": [{"resource": "pods", "name": pod, "uid": world.uid(pod)}],
    }
    await world.direct.replace(kinds.RESOURCE_CLAIM, NAMESPACE, claim, document, subresource="status")
    uid = document["metadata"]["uid"]
    return Stray(claim=f"{NAMESPACE}/{claim}", uid=uid, pods=((f"{NAMESPACE}/{pod}", world.uid(pod)),))


async def test_nobody_is_placed_on_devices_that_are_being_released(world: World):
    stray = await reserved(world, "c", "p")
    snapshot = await world.snapshot()
    committer = world.committer()

    releasing = asyncio.create_task(committer.release([stray]))
    await asyncio.sleep(0)
    plan = Plan(now_ms=0, placements=(world.place("p", world.give("c")),))
    (outcome,) = await committer.commit(plan, snapshot)

    assert outcome.reason is not None
    assert outcome.reason.code == "Withdrawn"
    assert await releasing == (stray.claim,)
    assert (await world.holds("c"), await world.node_of("p")) == (([], []), "")


async def test_a_pod_that_is_on_its_way_keeps_the_devices_that_were_to_be_released(world: World):
    stray = await reserved(world, "c", "p")
    snapshot = await world.snapshot()
    hold, reached = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        reached.set()
        await hold.wait()

    world.meddle(("POST pods/p/binding", Around(before=wait)))
    committer = world.committer()
    plan = Plan(now_ms=0, placements=(world.place("p", world.give("c")),))
    (commit,) = committer.begin(plan, snapshot)
    await reached.wait()

    await committer.release([stray])
    hold.set()
    outcome = await commit

    assert outcome.bound == (f"{NAMESPACE}/p",)
    assert await world.holds("c") == (["gpu-0"], ["p"])


async def test_a_pod_deleted_while_the_claims_were_written_leaves_the_gang_unbound(world: World):
    snapshot, plan = await two_pods(world)

    async def delete() -> None:
        await world.direct.delete(kinds.POD, NAMESPACE, "p1", grace_seconds=0)
        world.state.apply(changes.deleted(kinds.POD, f"{NAMESPACE}/p1"))

    world.meddle(("PUT resourceclaims/c-p1/status", Around(after=delete)))
    (outcome,) = await world.committer().commit(plan, snapshot)

    assert outcome.bound == ()
    assert outcome.reason is not None
    assert "Pod default/p1 went away" in outcome.reason.message
    assert await world.node_of("p0") == ""
    for name in ("c-p0", "c-p1"):
        assert await world.holds(name) == ([], [])


async def test_a_node_deleted_while_the_claims_were_written_gets_no_pods(world: World):
    snapshot, plan = await two_pods(world)

    async def delete() -> None:
        await world.direct.delete(kinds.NODE, None, "n1")
        world.state.apply(changes.deleted(kinds.NODE, "n1"))

    world.meddle(("PUT resourceclaims/c-p1/status", Around(after=delete)))
    (outcome,) = await world.committer().commit(plan, snapshot)

    assert outcome.bound == ()
    assert outcome.reason is not None
    assert "Node n1 went away" in outcome.reason.message
    assert [await world.node_of(name) for name in ("p0", "p1")] == ["", ""]


async def three_pods(world: World) -> tuple[Snapshot, Plan]:
    """A gang of three that needs two, each with a claim of its own, the last on another node."""
    for name in ("p0", "p1", "p2"):
        await world.claim(f"c-{name}")
        await world.pod(name, f"c-{name}")
    snapshot = await world.snapshot(minimum=2)
    placements = tuple(
        world.place(f"p{number}", world.give(f"c-p{number}", f"gpu-{number}"), node="n2" if number == 2 else "n1")
        for number in range(3)
    )
    return snapshot, Plan(now_ms=0, placements=placements)


async def _delete_pod(world: World) -> None:
    await world.direct.delete(kinds.POD, NAMESPACE, "p2", grace_seconds=0)
    world.state.apply(changes.deleted(kinds.POD, f"{NAMESPACE}/p2"))


async def _close_gate(world: World) -> None:
    """What no API server allows today. Whoever allows it means that the pod must not start."""
    pod = await world.direct.get(kinds.POD, NAMESPACE, "p2")
    pod["spec"]["schedulingGates"] = [{"name": "example.com/approval"}]
    pod["metadata"]["resourceVersion"] = str(int(pod["metadata"]["resourceVersion"]) + 1)
    change = changes.read(kinds.POD, msgspec.json.encode(pod))
    assert change is not None
    world.state.apply(change)


async def _delete_claim(world: World) -> None:
    await world.direct.delete(kinds.RESOURCE_CLAIM, NAMESPACE, "c-p2")
    world.state.apply(changes.deleted(kinds.RESOURCE_CLAIM, f"{NAMESPACE}/c-p2"))


async def _give_claim_elsewhere(world: World) -> None:
    claim = await world.stored("c-p2")
    claim["status"] = {"allocation": msgspec.json.decode(msgspec.json.encode(given("gpu-7")))}
    await world.direct.replace(kinds.RESOURCE_CLAIM, NAMESPACE, "c-p2", claim, subresource="status")
    await world.learn()


async def _cordon_the_other_node(world: World) -> None:
    await world.direct.patch(kinds.NODE, None, "n2", {"spec": {"unschedulable": True}})
    await world.learn()


@pytest.mark.parametrize(
    "change", [_delete_pod, _close_gate, _delete_claim, _give_claim_elsewhere, _cordon_the_other_node]
)
async def test_a_pod_above_the_minimum_that_lost_its_place_is_left_out_before_the_first_write(world: World, change):
    snapshot, plan = await three_pods(world)
    await change(world)

    (outcome,) = await world.committer().commit(plan, snapshot)

    assert (outcome.bound, outcome.reason) == (("default/p0", "default/p1"), None)
    assert not any("p2" in step for step in world.written)


@pytest.mark.parametrize("change", [_delete_pod, _close_gate, _cordon_the_other_node])
async def test_a_pod_above_the_minimum_that_goes_while_claims_are_written_does_not_stop_the_others(
    world: World, change
):
    snapshot, plan = await three_pods(world)

    async def happen() -> None:
        await change(world)

    world.meddle(("PUT resourceclaims/c-p2/status", Around(after=happen)))
    (outcome,) = await world.committer().commit(plan, snapshot)

    assert (outcome.bound, outcome.gone, outcome.reason) == (("default/p0", "default/p1"), ("default/p2",), None)
    assert await world.holds("c-p0") == (["gpu-0"], ["p0"])
    assert await world.holds("c-p2") == ([], [])
    assert world.state.object(kinds.RESOURCE_CLAIM, f"{NAMESPACE}/c-p2").status.allocation is None


async def test_a_refused_claim_of_a_pod_above_the_minimum_does_not_stop_the_others(world: World):
    snapshot, plan = await three_pods(world)
    world.meddle(("PUT resourceclaims/c-p2/status", Refuse(403, "Forbidden", "not this one")))
    (outcome,) = await world.committer().commit(plan, snapshot)
    assert (outcome.bound, outcome.gone, outcome.reason) == (("default/p0", "default/p1"), ("default/p2",), None)
    assert await world.node_of("p2") == ""


async def test_two_pods_lost_of_a_gang_that_can_spare_one_stop_it(world: World):
    snapshot, plan = await three_pods(world)
    await _delete_pod(world)
    world.meddle(("PUT resourceclaims/c-p1/status", Refuse(403, "Forbidden", "not this one")))
    (outcome,) = await world.committer().commit(plan, snapshot)
    assert outcome.bound == ()
    assert outcome.reason is not None
    assert "ResourceClaim default/c-p1 was refused: not this one" in outcome.reason.message
    assert await world.holds("c-p0") == ([], [])


async def test_a_claim_that_was_seen_going_before_its_write_was_answered_holds_nothing(world: World):
    await world.claim("c")
    await world.pod("p", "c")
    snapshot = await world.snapshot()
    plan = Plan(now_ms=0, placements=(world.place("p", world.give("c", "gpu-0")),))

    async def remove() -> None:
        claim = await world.stored("c")
        claim = await world.direct.replace(
            kinds.RESOURCE_CLAIM, NAMESPACE, "c", {**claim, "status": {}}, subresource="status"
        )
        claim["metadata"]["finalizers"] = []
        await world.direct.replace(kinds.RESOURCE_CLAIM, NAMESPACE, "c", claim)
        await world.direct.delete(kinds.RESOURCE_CLAIM, NAMESPACE, "c")
        world.state.apply(changes.deleted(kinds.RESOURCE_CLAIM, f"{NAMESPACE}/c"))

    world.meddle(("PUT resourceclaims/c/status", Around(after=remove)))
    (outcome,) = await world.committer().commit(plan, snapshot)

    assert outcome.bound == ()
    assert outcome.reason is not None
    assert "ResourceClaim default/c is gone" in outcome.reason.message
    assert world.state.object(kinds.RESOURCE_CLAIM, f"{NAMESPACE}/c") is None
